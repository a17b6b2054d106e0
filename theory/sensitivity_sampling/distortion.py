"""How far ||SAx||_p^p is from ||Ax||_p^p over all x, from below.

The ratio depends on the line through x alone. It is looked at along the right singular vectors of SA in an orthonormal
basis of col(A), where a sample's norm is least and greatest for p = 2 (random x miss these), along those of A, and
along Gaussian x; the worst are improved by gradient steps on the unit sphere.
"""

import math

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds import Sphere
from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, as_real, check_p, power

#: Directions that the gradient steps start from, at each end.
STARTS = 5


def subspace_distortion(
    A: Array, SA: Array, p: float, n_random: int = 200, n_ascent: int = 20, random_state: int = 0
) -> tuple[float, float]:
    """Least and greatest ||SAx||_p^p / ||Ax||_p^p that a search finds: the true ones lie at or beyond them.

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank.
    SA : numpy.ndarray or Tensor
        (m, d): weighted rows of A. Where its rank is below d the least is 0.
    p : float
        At least 1.
    n_random : int, default 200
        Gaussian directions.
    n_ascent : int, default 20
        Gradient steps from the five worst directions at each end.
    random_state : int, default 0
        Seed of the Gaussian directions.

    Returns
    -------
    low, high : float
        `distortion` makes one number of them.

    Raises
    ------
    TypeError
        If A or SA is no array of real numbers.
    ValueError
        If A is not as `leverage_scores` wants it, SA has another number of columns, p is below 1, or a count is
        negative.
    """
    return Prober(A, p, n_random, random_state).extremes(SA, n_ascent)


def distortion(low: float, high: float) -> float:
    """max(high, 1/low) - 1; infinite for low = 0."""
    return max(high, 1.0 / low if low > 0 else math.inf) - 1.0


class Prober:
    """`subspace_distortion` of many samples of one matrix: what depends on the matrix alone is computed once.

    Parameters and exceptions are those of `subspace_distortion`.
    """

    def __init__(self, A: Array, p: float, n_random: int = 200, random_state: int = 0) -> None:
        self.p = check_p(p)
        values, _ = as_matrix(A)
        if n_random < 0:
            raise ValueError(f"n_random must not be negative, got {n_random}")
        _, singular, self._to = torch.linalg.svd(torch.linalg.qr(values, mode="r").R)
        if not float(singular[-1]) > len(values) * torch.finfo(values.dtype).eps * float(singular[0]):
            raise ValueError(
                f"A must have full column rank {values.shape[1]}, got singular values down to {singular[-1]}"
            )
        self._singular = singular
        self._basis = self._whiten(values)
        d = values.shape[1]
        gaussian = torch.from_numpy(np.random.default_rng(random_state).standard_normal((n_random, d)))
        # In the basis of the singular vectors, those of A are the unit vectors.
        directions = torch.cat([torch.eye(d, dtype=values.dtype), gaussian]).to(values.device)
        self._directions = directions / directions.norm(dim=1, keepdim=True)
        self._norms = self._powers(self._basis, self._directions)

    def extremes(self, SA: Array, n_ascent: int = 20) -> tuple[float, float]:
        """Least and greatest ratio for one sample."""
        sample, _ = as_real(SA, "SA")
        if sample.ndim != 2 or sample.shape[1] != len(self._singular):
            raise ValueError(f"SA must have shape (m, {len(self._singular)}), got {tuple(sample.shape)}")
        if n_ascent < 0:
            raise ValueError(f"n_ascent must not be negative, got {n_ascent}")
        white = self._whiten(sample)
        if len(sample) == 0:
            return 0.0, 0.0
        _, lengths, right = torch.linalg.svd(white, full_matrices=False)
        directions = torch.cat([right, self._directions])
        norms = torch.cat([self._powers(self._basis, right), self._norms])
        ratios = self._powers(white, directions) / norms
        low, high = float(ratios.min()), float(ratios.max())
        if n_ascent:
            order = ratios.argsort()
            low = min(low, self._climb(white, directions[order[:STARTS]], -1.0, n_ascent))
            high = max(high, self._climb(white, directions[order[-STARTS:]], 1.0, n_ascent))
        rank = int((lengths > max(white.shape) * torch.finfo(white.dtype).eps * lengths[0]).sum())
        return (low if rank == len(self._singular) else 0.0), high

    def _whiten(self, rows: Tensor) -> Tensor:
        return rows @ (self._to.T / self._singular)

    def _powers(self, rows: Tensor, directions: Tensor) -> Tensor:
        """||rows x||_p^p for each x of (k, d)."""
        return power((rows @ directions.T).abs(), self.p).sum(0)

    def _climb(self, white: Tensor, x: Tensor, sign: float, steps: int) -> float:
        """Best ratio after gradient steps of its logarithm from each x, each with a step length of its own."""
        sphere = Sphere()
        value, gradient = self._log_ratio(white, x)
        length = torch.full_like(value, 0.3)
        for _ in range(steps):
            u = sign * sphere.proju(x, gradient)
            u = length[:, None] * u / u.norm(dim=1, keepdim=True).clamp_min(1e-300)
            y = sphere.retr(x, u)
            reached, slope = self._log_ratio(white, y)
            better = sign * reached > sign * value
            x = torch.where(better[:, None], y, x)
            value, gradient = torch.where(better, reached, value), torch.where(better[:, None], slope, gradient)
            length = torch.where(better, 1.5 * length, 0.4 * length)
        return float((sign * value).max().mul(sign).exp())

    def _log_ratio(self, white: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """log of the ratio for each x of (k, d), and its gradient."""
        parts = []
        for rows in (white, self._basis):
            r = rows @ x.T
            outer = power(r.abs(), self.p - 1.0) if self.p > 1 else torch.ones_like(r)
            total = (outer * r.abs()).sum(0)
            parts.append((total.log(), self.p * ((outer * r.sign()).T @ rows) / total[:, None]))
        (log_sample, slope_sample), (log_all, slope_all) = parts
        return log_sample - log_all, slope_sample - slope_all

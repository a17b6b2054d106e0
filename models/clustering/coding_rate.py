"""Coding rates of unit vectors, and the losses of maximal coding rate reduction that are made of them.

The rate of n points, rows z_i of Z on the unit sphere of R^d, at the precision eps is the log-volume that they span,
R(Z) = log det(I + d/(n eps^2) Z^T Z), in nats and without a factor 1/2. What a grouping of the points saves is the
difference of R and the rate R_c of the groups, each taken by itself: large where the points span much as a whole and
each group spans little, that is where groups lie in subspaces of few dimensions that are orthogonal to each other.

Yu, Chan, You, Song, Ma, *Learning Diverse and Discriminative Representations via the Principle of Maximal Coding Rate
Reduction*, NeurIPS 2020 (`MCR2Loss`); Ding, Tong, Chan, Dai, Ma, Haeffele, *Unsupervised Manifold Linearizing and
Clustering*, ICCV 2023 (`MLCLoss`, `TotalCodingRateLoss`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["MCR2Loss", "MLCLoss", "TotalCodingRateLoss", "coding_rate", "coding_rate_per_cluster"]

#: How far a row may be from length 1, and a membership's sums from theirs.
TOLERANCE = 1e-3
#: Numbers in the matrices that are factorised at once; more are done block by block, and again in the backward pass.
_BLOCK = 1 << 24


def coding_rate(z: Tensor, eps: float, *, normalize: bool = False) -> Tensor:
    """Rate R(Z) = log det(I + d/(n eps^2) Z^T Z) of points on the sphere.

    Parameters
    ----------
    z : Tensor
        Points (n, d), rows of length 1. Half precision is computed in float32.
    eps : float
        Precision of the code, positive.
    normalize : bool, default False
        Divide the rows by their lengths first.

    Returns
    -------
    Tensor
        A scalar, float32 or float64.

    Raises
    ------
    TypeError
        Where `z` is not a floating tensor.
    ValueError
        Where `eps` is not positive, or `z` is not 2-D, not finite, or its rows not of length 1 within 1e-3.
    """
    eps = _positive("coding_rate", "eps", eps)
    z = _unit_rows("coding_rate", "z", z, normalize)
    n, d = z.shape
    return _spanned(z, z.new_full((n, 1), d / (n * eps * eps)))[0]


def coding_rate_per_cluster(z: Tensor, pi: Tensor, eps: float, *, normalize: bool = False) -> Tensor:
    """Rate of each cluster by itself, R_j = log det(I + d/(m_j eps^2) Z^T Diag(pi_j) Z) with m_j the sum of pi_j.

    The compressed rate of maximal coding rate reduction is their mean with the weights m_j / n.

    Parameters
    ----------
    z : Tensor
        Points (n, d), rows of length 1.
    pi : Tensor
        Membership (n, k), hard or soft: not negative, rows of sum 1.
    eps, normalize
        As for `coding_rate`.

    Returns
    -------
    Tensor
        Rates (k,); 0 for a cluster without members.

    Raises
    ------
    TypeError, ValueError
        As `coding_rate`, and where `pi` has another shape, is negative, or has rows of another sum.
    """
    eps = _positive("coding_rate_per_cluster", "eps", eps)
    z = _unit_rows("coding_rate_per_cluster", "z", z, normalize)
    pi = _membership("coding_rate_per_cluster", pi, z)
    mass = pi.sum(0)
    # A cluster that nobody is in has no share; any divisor gives its rate of 0.
    share = pi / torch.where(mass > 0, mass, torch.ones_like(mass))
    return _spanned(z, share * (z.shape[1] / (eps * eps)))


class MCR2Loss(nn.Module):
    """R_c - R for a membership of points in k clusters: the loss of maximal coding rate reduction.

    Parameters
    ----------
    eps : float
        Precision of the code, positive.
    normalize : bool, default False
        Divide the rows of Z by their lengths first.

    Raises
    ------
    ValueError
        If `eps` is not positive.
    """

    def __init__(self, eps: float, normalize: bool = False) -> None:
        super().__init__()
        self.eps = _positive("MCR2Loss", "eps", eps)
        self.normalize = normalize

    def forward(self, z: Tensor, pi: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of points Z (n, d) in clusters Pi (n, k), and its parts ``R`` and ``R_c``, detached."""
        if self.normalize:
            z = F.normalize(z, dim=-1)
        rate = coding_rate(z, self.eps)
        rates = coding_rate_per_cluster(z, pi, self.eps)
        compressed = pi.to(rates.dtype).sum(0) @ rates / len(z)
        return compressed - rate, {"R": rate.detach(), "R_c": compressed.detach()}

    def extra_repr(self) -> str:
        """Precision, for `repr`."""
        return f"eps={self.eps:g}"


class MLCLoss(nn.Module):
    r"""R_c - R for a doubly stochastic membership of points with points: the loss of manifold linearizing.

    R_c(Z, Gamma) = 1/n sum_j log det(I + d/eps^2 Z^T Diag(Gamma_j) Z), over the columns of Gamma (paper, equation 3).
    It equals R(Z) for the uniform Gamma = 1/n, the sum of `MCR2Loss` for the Gamma of a hard grouping, and is never
    more than R, because log det is concave.

    Parameters
    ----------
    eps : float
        Precision of the code, positive.
    gamma_l2 : float, default 0
        Weight of the penalty ||Gamma||_F^2 / 2 (0.05 in the follow-up of the paper, arXiv:2306.05272).
    tolerance : float, default 1e-3
        How far the sums of Gamma may be from 1; infinity leaves Gamma unchecked.
    normalize : bool, default False
        Divide the rows of Z by their lengths first.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self, eps: float, gamma_l2: float = 0.0, tolerance: float = TOLERANCE, normalize: bool = False
    ) -> None:
        super().__init__()
        self.eps = _positive("MLCLoss", "eps", eps)
        if not 0.0 <= gamma_l2 < math.inf:
            raise ValueError(f"MLCLoss: 'gamma_l2' must be finite and not negative, got {gamma_l2!r}")
        if not tolerance > 0.0:
            raise ValueError(f"MLCLoss: 'tolerance' must be positive, got {tolerance!r}")
        self.gamma_l2, self.tolerance, self.normalize = gamma_l2, tolerance, normalize

    def forward(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of points Z (n, d) under the membership Gamma (n, n), and its parts ``R`` and ``R_c``, detached.

        Raises
        ------
        TypeError, ValueError
            As `coding_rate`, and where Gamma is not n x n or not doubly stochastic within the tolerance.
        """
        z = _unit_rows("MLCLoss", "z", z, self.normalize)
        gamma = _doubly_stochastic("MLCLoss", gamma, z, self.tolerance)
        rate = coding_rate(z, self.eps)
        # The columns have sum 1, so that there is no 1/n beside d/eps^2.
        compressed = _spanned(z, gamma * (z.shape[1] / self.eps**2)).mean()
        loss = compressed - rate
        if self.gamma_l2:
            loss = loss + 0.5 * self.gamma_l2 * gamma.square().sum()
        return loss, {"R": rate.detach(), "R_c": compressed.detach()}

    def extra_repr(self) -> str:
        """Precision and penalty, for `repr`."""
        return f"eps={self.eps:g}, gamma_l2={self.gamma_l2:g}"


class TotalCodingRateLoss(nn.Module):
    """-R((Z + Z')/2) - weight times the mean of |z_i . z'_i|: spread the points, keep two views of one together.

    Parameters
    ----------
    eps : float
        Precision of the code, positive.
    weight : float
        Weight of the agreement of the views, not negative.
    normalize : bool, default False
        Divide the rows of both by their lengths first.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(self, eps: float, weight: float, normalize: bool = False) -> None:
        super().__init__()
        self.eps = _positive("TotalCodingRateLoss", "eps", eps)
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"TotalCodingRateLoss: 'weight' must be finite and not negative, got {weight!r}")
        self.weight, self.normalize = weight, normalize

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Loss of two views (n, d) of the same points, a scalar.

        Raises
        ------
        TypeError, ValueError
            As `coding_rate`, and where the shapes differ.
        """
        first = _unit_rows("TotalCodingRateLoss", "first", first, self.normalize)
        second = _unit_rows("TotalCodingRateLoss", "second", second, self.normalize)
        if first.shape != second.shape:
            raise ValueError(
                f"TotalCodingRateLoss: the views must have one shape, got {tuple(first.shape)}, {tuple(second.shape)}"
            )
        n, d = first.shape
        # The mean of the views is not on the sphere, and is not put there: where they disagree it is short.
        middle = 0.5 * (first + second)
        rate = _spanned(middle, middle.new_full((n, 1), d / (n * self.eps**2)))[0]
        return -rate - self.weight * (first * second).sum(-1).abs().mean()

    def extra_repr(self) -> str:
        """Precision and weight, for `repr`."""
        return f"eps={self.eps:g}, weight={self.weight:g}"


# -- determinants --------------------------------------------------------------------------------------------------


def _spanned(z: Tensor, weights: Tensor) -> Tensor:
    """log det(I + Z^T Diag(w) Z) for each column w of the weights (n, m), shape (m,)."""
    n, d = z.shape
    smaller = min(n, d)
    size = max(1, _BLOCK // (smaller * smaller))
    if weights.shape[1] <= size:
        return _log_determinants(z, weights)
    blocks: list[Any] = [
        checkpoint(_log_determinants, z, block, use_reentrant=False) for block in weights.split(size, 1)
    ]
    return torch.cat(blocks)


def _log_determinants(z: Tensor, weights: Tensor) -> Tensor:
    n, d = z.shape
    if n < d:
        # det(I_d + Z^T W Z) = det(I_n + Z Z^T W); not with W^(1/2) on both sides, whose derivative is infinite at 0.
        matrices = (z @ z.mT) * weights.mT.unsqueeze(-2)
        return torch.linalg.slogdet(torch.eye(n, dtype=z.dtype, device=z.device) + matrices)[1]
    pairs = (z.unsqueeze(-1) * z.unsqueeze(-2)).reshape(n, d * d)
    matrices = (weights.mT @ pairs).reshape(-1, d, d)
    lower = torch.linalg.cholesky_ex(torch.eye(d, dtype=z.dtype, device=z.device) + matrices)[0]
    return 2.0 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


# -- arguments -----------------------------------------------------------------------------------------------------


def _positive(where: str, name: str, value: float) -> float:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{where}: {name!r} must be positive and finite, got {value!r}")
    return float(value)


def _floating(where: str, name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{where}: {name!r} must be a floating tensor, got {got}")
    # A determinant of d x d products has no place in half precision.
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _unit_rows(where: str, name: str, z: Tensor, normalize: bool) -> Tensor:
    z = _floating(where, name, z)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"{where}: {name!r} has shape {tuple(z.shape)}, wanted (n, d)")
    if not bool(z.detach().isfinite().all()):
        raise ValueError(f"{where}: {name!r} has values that are not finite")
    if normalize:
        return F.normalize(z, dim=-1)
    off = float((z.detach().norm(dim=-1) - 1.0).abs().max())
    if off > TOLERANCE:
        raise ValueError(
            f"{where}: the rows of {name!r} must have length 1 within {TOLERANCE:g}, one is off by {off:.3g}; "
            "normalize=True divides by the lengths"
        )
    return z


def _membership(where: str, pi: Tensor, z: Tensor) -> Tensor:
    pi = _floating(where, "pi", pi).to(z.dtype)
    if pi.ndim != 2 or pi.shape[0] != len(z) or pi.shape[1] < 1:
        raise ValueError(f"{where}: 'pi' has shape {tuple(pi.shape)}, wanted ({len(z)}, k)")
    low, off = float(pi.detach().min()), float((pi.detach().sum(1) - 1.0).abs().max())
    if not (low >= 0.0 and off <= TOLERANCE):
        raise ValueError(
            f"{where}: 'pi' must not be negative and have rows of sum 1 within {TOLERANCE:g}, got a least value of "
            f"{low:.3g} and a row that is off by {off:.3g}"
        )
    return pi


def _doubly_stochastic(where: str, gamma: Tensor, z: Tensor, tolerance: float) -> Tensor:
    gamma = _floating(where, "gamma", gamma).to(z.dtype)
    if gamma.shape != (len(z), len(z)):
        raise ValueError(f"{where}: 'gamma' has shape {tuple(gamma.shape)}, wanted ({len(z)}, {len(z)})")
    if tolerance == math.inf:
        return gamma
    value = gamma.detach()
    off = max(float((value.sum(axis) - 1.0).abs().max()) for axis in (0, 1))
    if not (float(value.min()) >= 0.0 and off <= tolerance):
        raise ValueError(
            f"{where}: 'gamma' must be doubly stochastic within {tolerance:g}, got a least value of "
            f"{float(value.min()):.3g} and a sum that is off by {off:.3g}"
        )
    return gamma

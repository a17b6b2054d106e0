r"""Mixtures of low-rank Gaussians, MoLRG, and what diffusion does to them in closed form.

A point is x_0 = mu_k + U_k a + e with k drawn by the weights, a ~ N(0, Lambda_k) in the d_k coordinates of an
orthonormal basis U_k (D, d_k), e ~ N(0, noise^2 I); at a time with coefficients s, g it is seen as x_t = s x_0 + g eps.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.linalg import gram_gap, haar

__all__ = ["MoLRG", "check_coefficients", "check_points", "random_molrg"]

#: How far the columns of a basis may be from orthonormal, and weights from a sum of 1.
TOLERANCE = 1e-4

Level = Tensor | float


class MoLRG:
    """A mixture of K Gaussians, each near a subspace of few dimensions.

    Everything is computed in the bases' dtype, float32 or float64, with points (n, D) or (D,), and `s`, `g` numbers or
    one a point (n,).

    Parameters
    ----------
    bases : Tensor or sequence of Tensor
        Orthonormal bases U (K, D, d), or K matrices (D, d_k).
    weights : Tensor, optional
        (K,), not negative, of sum 1; equal when left out.
    means : Tensor, optional
        (K, D); 0 when left out.
    eigvals : Tensor or sequence of Tensor, optional
        Variances (K, d), or K vectors (d_k,), positive; 1 when left out.
    noise : float, default 0
        Deviation of the noise in all D coordinates.

    Raises
    ------
    TypeError
        Where a tensor is not floating.
    ValueError
        Where bases are not orthonormal within 1e-4, weights are negative or not of sum 1, or a shape or a number is out
        of its range.
    """

    def __init__(
        self,
        bases: Tensor | Sequence[Tensor],
        weights: Tensor | None = None,
        means: Tensor | None = None,
        eigvals: Tensor | Sequence[Tensor] | None = None,
        noise: float = 0.0,
    ) -> None:
        parts = _check_bases(list(bases))
        self.dims = [u.shape[1] for u in parts]
        k, ambient, dtype, device = len(parts), parts[0].shape[0], parts[0].dtype, parts[0].device
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        widest = max(self.dims)
        # Columns of 0 with eigenvalue 0 change neither means nor determinants: unequal ranks fit in one tensor.
        self.bases = torch.zeros(k, ambient, widest, dtype=dtype, device=device)
        self.eigvals = torch.zeros(k, widest, dtype=dtype, device=device)
        values = [torch.ones(d, **place) for d in self.dims] if eigvals is None else list(eigvals)
        if len(values) != k:
            raise ValueError(f"MoLRG: 'eigvals' must have one row for each of {k} bases, got {len(values)}")
        for i, (u, lam) in enumerate(zip(parts, values, strict=True)):
            if lam.shape != (u.shape[1],) or not bool((lam.isfinite() & (lam > 0)).all()):
                raise ValueError(f"MoLRG: 'eigvals' of basis {i} must be {u.shape[1]} positive numbers, got {lam}")
            self.bases[i, :, : u.shape[1]] = u
            self.eigvals[i, : u.shape[1]] = lam
        self.weights = torch.full((k,), 1.0 / k, **place) if weights is None else weights.to(**place)
        if self.weights.shape != (k,) or not bool((self.weights >= 0).all()):
            raise ValueError(f"MoLRG: 'weights' must be {k} numbers that are not negative, got {weights}")
        if not abs(float(self.weights.sum()) - 1.0) <= TOLERANCE:
            raise ValueError(f"MoLRG: 'weights' must sum to 1, got {float(self.weights.sum()):g}")
        self.means = torch.zeros(k, ambient, **place) if means is None else means.to(**place)
        if self.means.shape != (k, ambient) or not bool(self.means.isfinite().all()):
            raise ValueError(f"MoLRG: 'means' must be finite and {(k, ambient)}, got {tuple(self.means.shape)}")
        if not 0.0 <= noise < math.inf:
            raise ValueError(f"MoLRG: 'noise' must be finite and not negative, got {noise}")
        self.noise = float(noise)

    @property
    def ambient_dim(self) -> int:
        """Number D of coordinates."""
        return self.bases.shape[1]

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw points.

        Parameters
        ----------
        n : int
            Number of points, 1 at least.
        generator : torch.Generator, optional
            Of the draws, on its device.

        Returns
        -------
        x : Tensor
            (n, D).
        labels : Tensor
            Components (n,), int64.

        Raises
        ------
        ValueError
            If `n` is not positive.
        """
        if n < 1:
            raise ValueError(f"MoLRG.sample: 'n' must be at least 1, got {n}")
        bases = self.bases
        place: dict[str, Any] = {
            "dtype": bases.dtype,
            "device": generator.device if generator is not None else bases.device,
        }
        labels = torch.multinomial(self.weights.to(place["device"]), n, replacement=True, generator=generator)
        a = torch.randn(n, bases.shape[2], generator=generator, **place).to(bases.device)
        labels = labels.to(bases.device)
        x = self.means[labels] + torch.einsum("nij,nj->ni", bases[labels], a * self.eigvals[labels].sqrt())
        if self.noise:
            x = x + self.noise * torch.randn(n, self.ambient_dim, generator=generator, **place).to(bases.device)
        return x, labels

    def log_prob_t(self, x: Tensor, s: Level, g: Level) -> Tensor:
        """Log-density of x_t, (n,) or a scalar for a single point.

        Raises
        ------
        TypeError, ValueError
            Where points or coefficients are out of their range: `s` and `g` must be positive.
        """
        x, s, g, single = self._given("log_prob_t", x, s, g)
        result = torch.logsumexp(self._joint(x, s, g), -1)
        return result[0] if single else result

    def responsibilities(self, x: Tensor, s: Level, g: Level) -> Tensor:
        """Probabilities (n, K) of the components given x_t, or (K,) for a single point. Errors as `log_prob_t`."""
        x, s, g, single = self._given("responsibilities", x, s, g)
        result = torch.softmax(self._joint(x, s, g), -1)
        return result[0] if single else result

    def posterior_mean(self, x: Tensor, s: Level, g: Level) -> Tensor:
        """E[x_0 | x_t]: what a perfect denoiser gives, shaped as `x`. Errors as `log_prob_t`."""
        x, s, g, single = self._given("posterior_mean", x, s, g)
        inside, z, outside = self._split(x, s)
        lam, variance = self.eigvals + self.noise**2, (g**2).unsqueeze(-1)
        s_ = s.unsqueeze(-1)
        within = z * (s_ * lam / (s_**2 * lam + variance)) * (self.eigvals > 0)
        across = outside * (s_ * self.noise**2 / (s_**2 * self.noise**2 + variance))
        means = self.means + across + torch.einsum("kij,nkj->nki", self.bases, within)
        result = torch.einsum("nk,nki->ni", torch.softmax(self._joint(x, s, g, (inside, z, outside)), -1), means)
        return result[0] if single else result

    def score(self, x: Tensor, s: Level, g: Level) -> Tensor:
        """Gradient of `log_prob_t` by x_t, (s E[x_0 | x_t] - x_t)/g^2, without its cancellation at small g."""
        x, s, g, single = self._given("score", x, s, g)
        inside, z, outside = self._split(x, s)
        variance = ((s * self.noise) ** 2 + g**2).unsqueeze(-1)
        within = z / (variance + s.unsqueeze(-1) ** 2 * self.eigvals)
        slopes = -outside / variance - torch.einsum("kij,nkj->nki", self.bases, within)
        result = torch.einsum("nk,nki->ni", torch.softmax(self._joint(x, s, g, (inside, z, outside)), -1), slopes)
        return result[0] if single else result

    def _given(self, name: str, x: Tensor, s: Level, g: Level) -> tuple[Tensor, Tensor, Tensor, bool]:
        x = check_points(f"MoLRG.{name}", x, self.ambient_dim).to(self.bases.dtype)
        points = x if x.ndim == 2 else x[None]
        s, g = check_coefficients(f"MoLRG.{name}", s, g, points)
        return points, s, g, x.ndim == 1

    def _split(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared length off each subspace, coordinates in it, and the part off it, of x_t - s mu_k."""
        r = x.unsqueeze(1) - s.unsqueeze(-1) * self.means
        z = torch.einsum("kij,nki->nkj", self.bases, r)
        outside = r - torch.einsum("kij,nkj->nki", self.bases, z)
        return outside.square().sum(-1), z, outside

    def _joint(self, x: Tensor, s: Tensor, g: Tensor, parts: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """Log of weight times density, (n, K)."""
        off, z, _ = parts or self._split(x, s)
        variance = (s * self.noise) ** 2 + g**2
        spread = s.unsqueeze(-1) ** 2 * self.eigvals / variance.unsqueeze(-1)
        # Not |r|^2 less what is inside: at small g that is a difference of large numbers.
        squares = off + (z.square() / (1.0 + spread)).sum(-1)
        logdet = self.ambient_dim * (variance.log() + math.log(2.0 * math.pi)) + spread.log1p().sum(-1)
        return self.weights.log() - 0.5 * (logdet + squares / variance)


def random_molrg(
    ambient_dim: int,
    intrinsic_dim: int,
    n_components: int,
    orthogonal: bool = True,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> MoLRG:
    """A mixture with uniformly random subspaces, orthogonal to each other or independent.

    Parameters
    ----------
    ambient_dim, intrinsic_dim, n_components : int
        D, d and K; with `orthogonal`, K d <= D.
    orthogonal : bool, default True
        Whether the subspaces are orthogonal to each other, as the theorems have them.
    noise : float, default 0
        As for `MoLRG`.
    generator : torch.Generator, optional
        Of the draws.
    dtype : torch.dtype, default float64
        Of the bases.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    if not 1 <= intrinsic_dim <= ambient_dim or n_components < 1:
        raise ValueError(
            f"random_molrg: wanted 1 <= intrinsic_dim <= ambient_dim and n_components >= 1, got {intrinsic_dim}, "
            f"{ambient_dim} and {n_components}"
        )
    if orthogonal and intrinsic_dim * n_components > ambient_dim:
        raise ValueError(
            f"random_molrg: {n_components} orthogonal subspaces of {intrinsic_dim} dimensions do not fit in "
            f"'ambient_dim' = {ambient_dim}"
        )
    device = generator.device if generator is not None else None
    if orthogonal:
        q = haar((ambient_dim, n_components * intrinsic_dim), dtype, device, generator)
        bases = torch.stack(q.split(intrinsic_dim, 1))
    else:
        bases = haar((n_components, ambient_dim, intrinsic_dim), dtype, device, generator)
    return MoLRG(bases, noise=noise)


def check_points(where: str, x: Tensor, ambient_dim: int) -> Tensor:
    """Points (n, D) or (D,), finite; half precision becomes float32."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{where}: points must be a floating tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim not in (1, 2) or x.shape[-1] != ambient_dim or 0 in x.shape:
        raise ValueError(
            f"{where}: points must have shape (n, {ambient_dim}) or ({ambient_dim},), got {tuple(x.shape)}"
        )
    if not bool(x.detach().isfinite().all()):
        raise ValueError(f"{where}: points must be finite")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_coefficients(where: str, s: Level, g: Level, points: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients as columns (1, 1) or (n, 1) of the points' dtype, positive."""
    columns = []
    for name, value in (("s", s), ("g", g)):
        column = torch.as_tensor(value, dtype=points.dtype, device=points.device)
        if column.numel() not in (1, len(points)):
            raise ValueError(f"{where}: {name!r} must be a number or one for each of {len(points)} points, got {value}")
        if not bool((column.isfinite() & (column > 0)).all()):
            raise ValueError(f"{where}: {name!r} must be positive and finite, got {value}")
        columns.append(column.reshape(-1, 1))
    return columns[0], columns[1]


def _check_bases(parts: list[Tensor]) -> list[Tensor]:
    if not parts:
        raise ValueError("MoLRG: 'bases' must have one basis at least, got none")
    for i, u in enumerate(parts):
        if not isinstance(u, Tensor) or not u.is_floating_point():
            raise TypeError(f"MoLRG: 'bases' must be floating tensors, got {getattr(u, 'dtype', type(u).__name__)}")
        if u.ndim != 2 or not 1 <= u.shape[1] <= u.shape[0] or u.shape[0] != parts[0].shape[0]:
            raise ValueError(f"MoLRG: basis {i} must be (D, d) with 1 <= d <= D, got {tuple(u.shape)}")
        if not gram_gap(u) <= TOLERANCE:
            raise ValueError(f"MoLRG: basis {i} must have orthonormal columns, got off by {gram_gap(u):.3g}")
    dtype = torch.float64 if any(u.dtype == torch.float64 for u in parts) else torch.float32
    return [u.detach().to(dtype) for u in parts]

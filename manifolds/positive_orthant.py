"""The positive orthant with the metric that is invariant under scaling of coordinates."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold

__all__ = ["PositiveOrthant"]


class PositiveOrthant(Manifold):
    """Tensors {x : x_i > 0} with the metric <u, v>_x = sum u_i v_i / x_i^2: the affine-invariant one of 1 x 1 matrices.

    The logarithm of the entries is an isometry onto Euclidean space: everything is exact and flat, every coordinate is
    measured in relative terms, and no point is at a finite distance from the boundary. Distances are computed from
    log1p of the relative difference, which keeps its digits for close points. Steps end at entries of 1e-154 and 1e154
    in float64, 5e-20 and 2e19 in float32: a velocity that leads further would soon overflow. Entries of random points
    are log-normal (the exponential of a standard normal variable).

    Parameters
    ----------
    ndim : int
        Number of trailing dimensions that make one point (0: every entry is a point of its own).
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `ndim` is negative.

    References
    ----------
    R. Bhatia, *Positive Definite Matrices*, Princeton University Press 2007, chapter 6, for n = 1.
    """

    name = "PositiveOrthant"
    reversible = True

    def __init__(self, ndim: int = 1, *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if ndim < 0:
            raise ValueError(f"{self.name}: 'ndim' must be at least 0, got {ndim}")
        self.ndim = ndim  # type: ignore[misc]  # points may have any shape, as in `Euclidean`

    def _config(self) -> dict[str, object]:
        return {"ndim": self.ndim}

    def _sum(self, t: Tensor) -> Tensor:
        return t.sum(dim=tuple(range(-self.ndim, 0))) if self.ndim else t

    def _dimension(self, *shape: int) -> int:
        return math.prod(shape)

    def _injectivity_radius(self) -> float:
        return math.inf

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        del tolerance  # no number that is not positive is close to a point: the boundary is infinitely far away
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        lowest = float(x.amin()) if x.numel() else 1.0
        return None if lowest > 0.0 else f"must have positive entries, got one of {lowest:.3g}"

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        return None if bool(torch.isfinite(u).all()) else "has NaN or infinite entries"

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Raise entries to the smallest normal number of the dtype: an open set has no nearest point."""
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        return torch.maximum(x, torch.full_like(x, torch.finfo(x.dtype).tiny))

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        info = torch.finfo(dtype)
        return result.clamp(info.tiny, info.max).to(dtype)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return x * x * u

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return x * (x * ehess + egrad * u)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._sum((u / x) * (v / x))

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(self._inner(x, u, v))

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return x * _growth(x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return x * _log_ratio(x, y)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        r = _log_ratio(x, y)
        return torch.linalg.vector_norm(r, dim=tuple(range(-self.ndim, 0))) if self.ndim else r.abs()

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return self._sum(_log_ratio(x, y).square())

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return (y / x) * v

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        growth = _growth(x, u)
        return x * growth, growth * v

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._expmap_transp(x, u, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return torch.randn(size, dtype=dtype, device=device, generator=generator).exp()

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return x * torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.ones(size, dtype=dtype, device=device)


def _growth(x: Tensor, u: Tensor) -> Tensor:
    """exp(u/x), held where the point would leave the middle half of the range of exponents."""
    edge = 0.5 * math.log(torch.finfo(x.dtype).max)
    place = x.detach().log()
    # A point that lies beyond the edge may stay, and come back.
    return torch.exp((u / x).clamp((-edge - place).clamp_max(0.0), (edge - place).clamp_min(0.0)))


def _log_ratio(x: Tensor, y: Tensor) -> Tensor:
    """log(y/x): from the relative difference where that is small, from two logarithms where a quotient may overflow."""
    near = (y < 2.0 * x) & (x < 2.0 * y)
    one = torch.ones_like(x)
    # Each branch sees harmless input where it is not used.
    difference = torch.where(near, y - x, torch.zeros_like(one)) / torch.where(near, x, one)
    far = torch.where(near, one, y).log() - torch.where(near, one, x).log()
    return torch.where(near, torch.log1p(difference), far)

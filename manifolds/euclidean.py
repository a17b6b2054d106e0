"""Euclidean space: the flat case of every operation."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold

__all__ = ["Euclidean"]


class Euclidean(Manifold):
    """R^n with the standard metric: points are vectors (last dimension), or tensors of any shape with ``ndim=0..k``.

    Random points are standard normal.

    Parameters
    ----------
    ndim : int
        Number of trailing dimensions that make one point (0: every entry is a point of the line), as in geoopt.
    validate : bool
        See `Manifold`; NaN and infinite entries are what it finds here.

    Raises
    ------
    ValueError
        Where `ndim` is negative.
    """

    name = "Euclidean"
    reversible = True
    retractions = ("exp",)

    def __init__(self, ndim: int = 0, *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if ndim < 0:
            raise ValueError(f"Euclidean: 'ndim' must be at least 0, got {ndim}")
        self.ndim = ndim  # type: ignore[misc]  # the one manifold whose points may have any shape

    def _config(self) -> dict[str, object]:
        return {"ndim": self.ndim}

    def _sum(self, t: Tensor) -> Tensor:
        return t.sum(dim=tuple(range(-self.ndim, 0))) if self.ndim else t

    def _dimension(self, *shape: int) -> int:
        return math.prod(shape)

    def _injectivity_radius(self) -> float:
        return math.inf

    def _projx(self, x: Tensor) -> Tensor:
        return x

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._sum(u * v)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return ehess

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(self._inner(x, u, v))

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return torch.randn(size, dtype=dtype, device=device, generator=generator)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

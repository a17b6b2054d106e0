"""The unit hypersphere with the round metric."""

import math

import torch
from torch import Tensor

from holonomy.manifolds import spherical
from holonomy.manifolds.base import Manifold
from holonomy.manifolds.pairwise import sphere_cdist

__all__ = ["Sphere"]


class Sphere(Manifold):
    """S^(n-1) = {x in R^n : |x| = 1}: points are unit vectors in the last dimension.

    exp, log, parallel transport and distance are exact; curvature is 1. Distances and logarithms are built on the
    chord |x - y|, which keeps full relative precision for close and for nearly antipodal points. At exactly antipodal
    points, where every great circle is minimising, log and transport follow one fixed great circle. Random points are
    uniform.

    Parameters
    ----------
    validate : bool
        See `Manifold`.
    """

    name = "Sphere"
    reversible = True
    retractions = ("exp",)

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] < 2:
            return "wanted a last dimension of at least 2"
        return reason

    def _dimension(self, *shape: int) -> int:
        return shape[-1] - 1

    def _injectivity_radius(self) -> float:
        return math.pi

    def _projx(self, x: Tensor) -> Tensor:
        return spherical.project(x)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return spherical.project_tangent(x, u)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return spherical.expmap(x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return spherical.logmap(x, y)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return spherical.dist(x, y).squeeze(-1)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return spherical.dist2(x, y).squeeze(-1)

    def _cdist(self, x: Tensor, y: Tensor) -> Tensor:
        return sphere_cdist(x.squeeze(-2), y.squeeze(-3))

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return spherical.transport(x, y, v)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        # Along the given geodesic, also past the antipode.
        return spherical.expmap_transport(x, u, v)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._expmap_transp(x, u, v)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._proju(x, ehess) - (x * egrad).sum(-1, keepdim=True) * u

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return torch.ones_like(self._inner(x, u, v))

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self._projx(torch.randn(size, dtype=dtype, device=device, generator=generator))

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        point = torch.zeros(size, dtype=dtype, device=device)
        point[..., -1] = 1.0
        return point

"""A manifold with its metric scaled by a constant, fixed or learnable."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.composite import Composite
from holonomy.manifolds.curvature import Curvature

__all__ = ["Scaled"]


class Scaled(Composite):
    """The points of M with distances multiplied by `scale`: the metric is scale^2 <u, v>.

    Geodesics, logarithms, transports and projections are those of M: a tangent vector is the same velocity, of another
    length. Inner products carry scale^2, gradients and Hessians 1/scale^2, curvature 1/scale^2, distances and the
    injectivity radius the scale. (In geoopt's ``Scaled`` tangent vectors are rescaled instead, and ``norm`` answers in
    the metric of M.) A sphere of radius r is ``Scaled(Sphere(), r)``, on unit vectors.

    Parameters
    ----------
    manifold : Manifold
        What is scaled. Its own ``validate`` does not matter.
    scale : float or Tensor
        Positive. A tensor broadcasts against the batch. Stored exactly; see `Curvature`.
    learnable : bool
        Whether the scale is a parameter.
    validate : bool
        See `Manifold`.

    Raises
    ------
    TypeError
        Where `manifold` is no manifold, or `scale` no number.
    ValueError
        Where `scale` is not positive and finite.
    """

    name = "Scaled"

    def __init__(
        self, manifold: Manifold, scale: float | Tensor = 1.0, *, learnable: bool = False, validate: bool = False
    ) -> None:
        super().__init__(validate=validate)
        if not isinstance(manifold, Manifold):
            raise TypeError(f"{self.name}: 'manifold' must be a manifold, got {type(manifold).__name__}")
        self.manifold = manifold
        self.scaling = Curvature(scale, learnable=learnable, owner=self.name, name="scale")
        self.ndim = manifold.ndim  # type: ignore[misc]  # what follows is of the given manifold, not of the class
        self.reversible = manifold.reversible  # type: ignore[misc]
        self.exact_transport = manifold.exact_transport  # type: ignore[misc]

    @property
    def scale(self) -> Any:
        """The factor of distances: the float that was given, or a tensor of the shape that was given."""
        return self.scaling.value

    def _config(self) -> dict[str, Any]:
        return {"manifold": self.manifold, "scale": self.scale}

    def _scale(self, x: Tensor, dimensions: int = 0) -> Any:
        """The scale, as it broadcasts against the batch and so many dimensions more."""
        scale = self.scale
        if not isinstance(scale, Tensor):
            return scale
        return scale.to(x.dtype).reshape((*scale.shape, *(1,) * dimensions))

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        return super()._shape_error(shape) or self.manifold._shape_error(shape)

    def _dimension(self, *shape: int) -> int:
        return self.manifold.dimension(*shape)

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Radius within which ``expmap`` is a diffeomorphism: of the smallest scale, where there are several."""
        smallest = self.scale
        if isinstance(smallest, Tensor):
            smallest = float(smallest.detach().amin())
        return smallest * self.manifold.injectivity_radius(x)

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        return self.manifold._point_error(x, tolerance)

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        return self.manifold._vector_error(x, u, tolerance)

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return self.manifold._narrow(result, dtype)

    # -- metric ----------------------------------------------------------------------------------------------------

    def _vector(self, operation: str, *tensors: Tensor) -> Tensor:
        result: Tensor = getattr(self.manifold, operation)(*tensors)
        return result

    def _pair(self, operation: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = getattr(self.manifold, operation)(*tensors)
        return result

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.manifold._egrad2rgrad(x, u) / self._scale(x, self.ndim) ** 2

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self.manifold._ehess2rhess(x, egrad, ehess, u) / self._scale(x, self.ndim) ** 2

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._scale(x) ** 2 * self.manifold._inner(x, u, v)

    def _component_inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._scale(x, self.ndim) ** 2 * self.manifold._component_inner(x, u, v)

    def _norm(self, x: Tensor, u: Tensor) -> Tensor:
        return self._scale(x) * self.manifold._norm(x, u)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._scale(x) * self.manifold._dist(x, y)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return self._scale(x) ** 2 * self.manifold._dist2(x, y)

    def _cdist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._scale(x, 2) * self.manifold._cdist(x, y)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.manifold._sectional_curvature(x, u, v) / self._scale(x) ** 2

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self.manifold._random(size, dtype, device, generator)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.manifold._random_tangent(x, generator) / self._scale(x, self.ndim)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self.manifold._origin(size, dtype, device)

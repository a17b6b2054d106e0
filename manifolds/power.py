"""Powers of a manifold: rows of points, with the sum of their metrics."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.composite import Composite

__all__ = ["Power"]


class Power(Composite):
    """M^n with the metric <u, v> = sum_i <u_i, v_i>: points are n points of M, one a row, for any n >= 1.

    A point has one dimension more than a point of M, in front of it. Geodesics, transports and projections are those of
    M, row by row, and what M offers is offered: exactly where it is exact there. Against a batch of n points of M the
    difference is what adds up: inner products, distances and curvature are of all rows together. Adaptive optimizers
    keep one second moment a row (``component_inner``). Rows of random points are independent.

    Parameters
    ----------
    manifold : Manifold
        What every row is a point of. Its own ``validate`` does not matter.
    validate : bool
        See `Manifold`.

    Raises
    ------
    TypeError
        Where `manifold` is no manifold.
    """

    name = "Power"

    def __init__(self, manifold: Manifold, *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if not isinstance(manifold, Manifold):
            raise TypeError(f"{self.name}: 'manifold' must be a manifold, got {type(manifold).__name__}")
        self.manifold = manifold
        self.ndim = manifold.ndim + 1  # type: ignore[misc]  # what follows is of the given manifold, not of the class
        self.reversible = manifold.reversible  # type: ignore[misc]
        self.exact_transport = manifold.exact_transport  # type: ignore[misc]

    def _config(self) -> dict[str, Any]:
        return {"manifold": self.manifold}

    # -- rows ------------------------------------------------------------------------------------------------------

    def _rows(self, t: Tensor) -> Tensor:
        """Between points of the power and batches of rows: its own inverse."""
        return t

    def _vector(self, operation: str, *tensors: Tensor) -> Tensor:
        result: Tensor = getattr(self.manifold, operation)(*map(self._rows, tensors))
        return self._rows(result)

    def _pair(self, operation: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(self._rows, getattr(self.manifold, operation)(*map(self._rows, tensors))))

    def _scalars(self, operation: str, *tensors: Tensor) -> Tensor:
        """One number a row, in the last dimension."""
        result: Tensor = getattr(self.manifold, operation)(*map(self._rows, tensors))
        return result

    # -- description and membership --------------------------------------------------------------------------------

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        return super()._shape_error(shape) or self.manifold._shape_error(shape[len(shape) - self.ndim + 1 :])

    def _dimension(self, *shape: int) -> int:
        return shape[0] * self.manifold.dimension(*shape[1:])

    def _injectivity_radius(self) -> float:
        return self.manifold.injectivity_radius()

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        return self.manifold._point_error(self._rows(x), tolerance)

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        return self.manifold._vector_error(self._rows(x), self._rows(u), tolerance)

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return self._rows(self.manifold._narrow(self._rows(result), dtype))

    # -- projections and metric ------------------------------------------------------------------------------------

    def _component_inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._vector("_component_inner", x, u, v)

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
        return self._rows(self.manifold._random_tangent(self._rows(x), generator))

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self.manifold._origin(size, dtype, device)

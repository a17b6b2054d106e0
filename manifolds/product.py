"""Products of different manifolds, with the sum of their metrics."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.composite import Composite
from holonomy.manifolds.errors import DimensionError

__all__ = ["Product"]


class Product(Composite):
    """M_1 x ... x M_m with the metric <u, v> = sum_i <u_i, v_i>: a point is one vector, its factors one after another.

    Geodesics, transports, retractions and projections are those of the factors, and what all factors offer is offered:
    exactly where it is exact in each. Adaptive optimizers keep one second moment a factor (``component_inner``).
    Factors of random points are independent. For n points of one manifold, `Power` needs no sizes.

    Parameters
    ----------
    *factors : (Manifold, int or tuple of int)
        Each factor with the shape of one of its points: ``Product((Sphere(), 3), (Stiefel(), (5, 2)))`` has points of
        shape (13,). A factor's own ``validate`` does not matter.
    validate : bool
        See `Manifold`.

    Raises
    ------
    TypeError
        Where a factor is not such a pair.
    DimensionError
        (a ValueError) where a shape holds no point of its factor.
    ValueError
        Where there is no factor.
    """

    name = "Product"

    def __init__(self, *factors: tuple[Manifold, int | tuple[int, ...]], validate: bool = False) -> None:
        super().__init__(validate=validate)
        if not factors:
            raise ValueError(f"{self.name}: wanted at least one factor, a pair of a manifold and a shape")
        for i, factor in enumerate(factors):
            if not (isinstance(factor, (tuple, list)) and len(factor) == 2 and isinstance(factor[0], Manifold)):
                raise TypeError(f"{self.name}: factor {i} must be a pair of a manifold and a shape, got {factor!r}")
        self.factors = torch.nn.ModuleList(manifold for manifold, _ in factors)
        self.shapes = tuple(_shape(i, manifold, shape) for i, (manifold, shape) in enumerate(factors))
        ends = accumulate((math.prod(shape) for shape in self.shapes), initial=0)
        self._slices = tuple(slice(start, stop) for start, stop in pairwise(ends))
        self.reversible = all(m.reversible for m in self._manifolds)  # type: ignore[misc]  # of the factors, not of
        self.exact_transport = all(m.exact_transport for m in self._manifolds)  # type: ignore[misc]  # the class

    @property
    def _manifolds(self) -> tuple[Any, ...]:
        return tuple(self.factors)

    @property
    def key(self) -> tuple[Any, ...]:
        """Hashable identity: the factors' own, with their shapes."""
        return (type(self), *((m.key, shape) for m, shape in zip(self._manifolds, self.shapes, strict=True)))

    def extra_repr(self) -> str:
        """Return the arguments shown in ``repr``."""
        pairs = [f"({m!r}, {shape!r})" for m, shape in zip(self._manifolds, self.shapes, strict=True)]
        return ", ".join(pairs + ["validate=True"] * self.validate)

    # -- packing ---------------------------------------------------------------------------------------------------

    def pack_point(self, *points: Tensor) -> Tensor:
        """Points (or tangent vectors) of the factors as one of the product: shape (*batch, n).

        Parameters
        ----------
        *points : Tensor
            One a factor, of shape (*batch, *shape of the factor); batches broadcast.

        Raises
        ------
        ValueError
            Where there are not as many as factors.
        DimensionError
            (a ValueError) where a shape does not fit.
        """
        if len(points) != len(self.shapes):
            raise ValueError(f"{self.name}.pack_point: got {len(points)} points for {len(self.shapes)} factors")
        for i, (point, shape) in enumerate(zip(points, self.shapes, strict=True)):
            if point.shape[point.ndim - len(shape) :] != shape:
                given = tuple(point.shape)
                raise DimensionError(
                    f"{self.name}.pack_point: point {i} has shape {given}, wanted trailing dimensions {shape}"
                )
        return self._join(points)

    def unpack_point(self, x: Tensor) -> tuple[Tensor, ...]:
        """Points (or tangent vectors) of the factors, of shape (*batch, *shape of the factor): views where possible."""
        self._require_shape("unpack_point", "x", x.shape)
        return self._split(x)

    def take_submanifold_value(self, x: Tensor, i: int, *, reshape: bool = True) -> Tensor:
        """The point of the factor `i`; without `reshape`, as the entries that hold it, shape (*batch, size)."""
        self._require_shape("take_submanifold_value", "x", x.shape)
        return self._split(x)[i] if reshape else x[..., self._slices[i]]

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        batch = x.shape[:-1]
        return tuple(
            x[..., part].reshape((*batch, *shape)) for part, shape in zip(self._slices, self.shapes, strict=True)
        )

    def _join(self, parts: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
        pairs = list(zip(parts, self.shapes, strict=True))
        batches = [part.shape[: part.ndim - len(shape)] for part, shape in pairs]
        batch = torch.broadcast_shapes(*batches)
        flat = [part.reshape((*own, math.prod(shape))) for (part, shape), own in zip(pairs, batches, strict=True)]
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in flat], -1)

    def _each(self, operation: str, *tensors: Tensor) -> list[Any]:
        """One operation of each factor, on its part of the tensors."""
        parts = zip(*(self._split(t) for t in tensors), strict=True)
        return [getattr(m, operation)(*part) for m, part in zip(self._manifolds, parts, strict=True)]

    def _vector(self, operation: str, *tensors: Tensor) -> Tensor:
        return self._join(self._each(operation, *tensors))

    def _pair(self, operation: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._join(parts) for parts in zip(*self._each(operation, *tensors), strict=True))

    # -- description and membership --------------------------------------------------------------------------------

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        size = self._slices[-1].stop
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] != size:
            return f"wanted a last dimension of {size}"
        return reason

    def _dimension(self, *shape: int) -> int:
        return sum(m.dimension(*shape) for m, shape in zip(self._manifolds, self.shapes, strict=True))

    def _injectivity_radius(self) -> float:
        return min(m.injectivity_radius() for m in self._manifolds)

    def _first_error(self, check: Callable[..., str | None], *tensors: Tensor) -> str | None:
        parts = zip(*(self._split(t) for t in tensors), strict=True)
        for i, (manifold, part) in enumerate(zip(self._manifolds, parts, strict=True)):
            reason = check(manifold, *part)
            if reason is not None:
                return f"{reason} (factor {i}, {manifold!r})"
        return None

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        return self._first_error(lambda manifold, x: manifold._point_error(x, tolerance), x)

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        return self._first_error(lambda manifold, x, u: manifold._vector_error(x, u, tolerance), x, u)

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        parts = zip(self._manifolds, self._split(result), strict=True)
        return self._join([manifold._narrow(part, dtype) for manifold, part in parts])

    # -- projections and metric ------------------------------------------------------------------------------------

    def _scalars(self, operation: str, *tensors: Tensor) -> Tensor:
        """One number a factor, in the last dimension."""
        # What does not depend on the point (Euclidean) does not have its batch.
        return torch.stack(torch.broadcast_tensors(*self._each(operation, *tensors)), -1)

    def _component_inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        inners = self._each("_component_inner", x, u, v)
        spread = [t.expand(*t.shape[: t.ndim - len(s)], *s) for t, s in zip(inners, self.shapes, strict=True)]
        return self._join(spread)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        pairs = zip(self._manifolds, self.shapes, strict=True)
        return self._join([m._random((*size[:-1], *shape), dtype, device, generator) for m, shape in pairs])

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        pairs = zip(self._manifolds, self._split(x), strict=True)
        return self._join([m._random_tangent(part, generator) for m, part in pairs])

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        pairs = zip(self._manifolds, self.shapes, strict=True)
        return self._join([m._origin((*size[:-1], *shape), dtype, device) for m, shape in pairs])


def _shape(i: int, manifold: Manifold, shape: int | tuple[int, ...]) -> tuple[int, ...]:
    """Check the shape of one factor's points."""
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not all(isinstance(size, int) for size in sizes):
        raise TypeError(f"Product: factor {i} must have a shape of whole numbers, got {shape!r}")
    reason = manifold._shape_error(sizes) if len(sizes) <= manifold.ndim else f"wanted {manifold.ndim} dimensions"
    if reason is not None:
        raise DimensionError(f"Product: factor {i}, {manifold!r}, has shape {sizes}: {reason}")
    return sizes

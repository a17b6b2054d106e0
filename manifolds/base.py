"""The contract of a manifold: what every type in this room offers, and what a new one has to define.

A new manifold subclasses `Manifold` and writes the methods with a leading underscore (`_expmap`, `_logmap`, ...).
Those see tensors that are already checked, of one working dtype (half precision arrives as float32) and outside of
autocast; the public methods around them are written once, here, and give every manifold the same shape checks,
error texts, low-precision rule and `validate=True` mode.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from holonomy.manifolds.errors import DimensionError, MembershipError
from holonomy.manifolds.pairwise import by_rows

__all__ = ["Manifold"]

_HALF = (torch.float16, torch.bfloat16)
_POINTS = ("x", "y", "z")
_TANGENTS = ("u", "v", "w")


class Manifold(torch.nn.Module):
    """Base class of all manifolds: geoopt's interface, evaluated by our formulas.

    A manifold is size-free: sizes come from the tensors. Points are tensors whose last `ndim` dimensions hold one
    point; all leading dimensions are batch dimensions and broadcast. Notation, here and everywhere: ``x, y`` are
    points, ``u, v, w`` tangent vectors at ``x``.

    Parameters
    ----------
    validate : bool
        Check on every call that points lie on the manifold and tangent vectors are tangent (this reads the data:
        it costs time, synchronises a GPU, and does not trace). Shapes and dtypes are always checked.

    Raises
    ------
    TypeError
        From every method, where an argument is no tensor, or not of a real floating dtype.
    DimensionError
        (a ValueError) where a shape does not fit.
    MembershipError
        (a ValueError) with ``validate=True``, where a point is off the manifold or a vector is not tangent.
    """

    name: ClassVar[str] = "manifold"
    #: Number of trailing dimensions that hold one point: 1 for vectors, 2 for matrices.
    ndim: ClassVar[int] = 1
    #: Whether ``retr`` is the exponential map, so that a step can be taken back exactly.
    reversible: ClassVar[bool] = False
    #: Whether ``transp`` is the exact parallel transport along the minimising geodesic (else: a vector transport).
    exact_transport: ClassVar[bool] = True
    #: Names that ``retraction=`` accepts; the first is the default.
    retractions: ClassVar[tuple[str, ...]] = ("exp",)

    def __init__(self, *, validate: bool = False) -> None:
        super().__init__()
        self.validate = validate

    # -- description -----------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        """Constructor arguments that distinguish this manifold from others of its type."""
        return {}

    @property
    def key(self) -> tuple[Any, ...]:
        """Hashable identity: two manifolds with equal keys have the same geometry, and their points may be batched.

        A manifold with tensors of its own (learnable or per-point curvature) equals only itself.
        """
        if any(True for _ in self.parameters()) or any(True for _ in self.buffers()):
            return (type(self), id(self))
        given = ((name, v.key if isinstance(v, Manifold) else v) for name, v in self._config().items())
        return (type(self), *sorted(given))

    def extra_repr(self) -> str:
        """Return the arguments shown in ``repr``."""
        config = self._config() | ({"validate": True} if self.validate else {})
        return ", ".join(f"{k}={v!r}" for k, v in config.items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def dimension(self, *shape: int) -> int:
        """Intrinsic dimension of the manifold whose points have this trailing shape."""
        return self._dimension(*self._point_shape(shape))

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Radius within which ``expmap`` at any point is a diffeomorphism (``inf`` where it is everywhere)."""
        return self._injectivity_radius()

    # -- evaluation: one way in for every public method ------------------------------------------------------------

    def _evaluate(
        self,
        function: Callable[..., Any],
        *,
        ambient: tuple[str, ...] = (),
        narrow: Callable[[Tensor, torch.dtype], Tensor] = Tensor.to,
        **tensors: Tensor,
    ) -> Any:
        """Check the named tensors, bring them to one working dtype, call, and bring the result back.

        Tensors named x, y, z must be points, those named u, v, w tangent at x, unless listed in `ambient`. `narrow`
        rounds the (first) result to half precision: ``self._narrow`` where that is a point.
        """
        operation = function.__name__.lstrip("_")
        dtype = self._check_inputs(operation, tensors)
        if self.validate:
            self._check_values(operation, tensors, ambient)
        work = torch.float32 if dtype in _HALF else dtype
        arguments = [t if t.dtype == work else t.to(work) for t in tensors.values()]
        device_type = arguments[0].device.type
        if device_type != "meta" and torch.is_autocast_enabled(device_type):
            # A matrix product in half precision inside a geometric formula loses the manifold.
            with torch.autocast(device_type, enabled=False):
                result = function(*arguments)
        else:
            result = function(*arguments)
        if work == dtype:
            return result
        if isinstance(result, tuple):
            return narrow(result[0], dtype), *(r.to(dtype) for r in result[1:])
        return narrow(result, dtype)

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        """Round float32 points to half precision (the ball overrides this: rounding must not leave it)."""
        return result.to(dtype)

    def _check_inputs(self, operation: str, tensors: dict[str, Tensor]) -> torch.dtype:
        dtype = torch.float16
        trailing: torch.Size | None = None
        batch: list[int] = []
        first = next(iter(tensors))
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"{self.name}.{operation}: argument {name!r} must be a tensor, got {type(tensor).__name__}"
                )
            if not tensor.is_floating_point():
                raise TypeError(
                    f"{self.name}.{operation}: argument {name!r} must have a real floating dtype, got {tensor.dtype}"
                )
            shape = tensor.shape
            if trailing is None:
                self._require_shape(operation, name, shape)
                trailing = shape[len(shape) - self.ndim :]
                dtype = tensor.dtype
            else:
                dtype = tensor.dtype if tensor.dtype == dtype else torch.promote_types(dtype, tensor.dtype)
                if shape[max(len(shape) - self.ndim, 0) :] != trailing:
                    raise DimensionError(
                        f"{self.name}.{operation}: argument {name!r} has shape {tuple(shape)}, "
                        f"wanted trailing dimensions {tuple(trailing)} as in {first!r}"
                    )
            batch = self._broadcast(operation, name, batch, list(shape[: len(shape) - self.ndim]))
        return dtype

    def _broadcast(self, operation: str, name: str, batch: list[int], other: list[int]) -> list[int]:
        """Broadcast two batch shapes, or say which argument does not fit."""
        if not batch or batch == other:
            return other
        if len(other) > len(batch):
            batch, other = other, batch
        merged = list(batch)
        for i in range(1, len(other) + 1):
            a, b = batch[-i], other[-i]
            if a != b and a != 1 and b != 1:
                raise DimensionError(
                    f"{self.name}.{operation}: argument {name!r} does not broadcast: batch dimensions "
                    f"{tuple(other)} against {tuple(batch)}"
                )
            merged[-i] = b if a == 1 else a
        return merged

    def _require_shape(self, operation: str, name: str, shape: tuple[int, ...] | torch.Size) -> None:
        reason = self._shape_error(shape)
        if reason is not None:
            raise DimensionError(f"{self.name}.{operation}: argument {name!r} has shape {tuple(shape)}, {reason}")

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        """Say what is wrong with a point's shape, or None. Override and call super() first."""
        if len(shape) < self.ndim:
            return f"wanted at least {self.ndim} dimension{'s' if self.ndim > 1 else ''}"
        if any(size == 0 for size in shape[len(shape) - self.ndim :]):
            return "wanted trailing dimensions of at least 1"
        return None

    def _point_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Check a requested size and return its trailing part."""
        self._require_shape("shape", "size", size)
        return tuple(size[len(size) - self.ndim :])

    def _check_values(self, operation: str, tensors: dict[str, Tensor], ambient: tuple[str, ...]) -> None:
        tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if name in ambient or name not in _POINTS + _TANGENTS:
                reason = None if bool(torch.isfinite(tensor).all()) else "has NaN or infinite entries"
            elif name in _POINTS:
                reason = self._point_error(tensor, self._tolerance(tensor))
            else:
                reason = self._vector_error(tensors["x"], tensor, self._tolerance(tensor))
            if reason is not None:
                raise MembershipError(f"{self.name}.{operation}: argument {name!r} {reason}")

    def _unavailable(self, operation: str) -> NoReturn:
        raise NotImplementedError(f"{self.name} has no {operation}: no closed form or standard algorithm is known")

    # -- membership ------------------------------------------------------------------------------------------------

    def _tolerance(self, tensor: Tensor) -> float:
        """Membership tolerance: eps^(3/4), between one rounding and a visible departure, for long sums sqrt(n) times.

        1.8e-12 in float64, 6.4e-6 in float32.
        """
        size = float(tensor.shape[-1]) if tensor.ndim else 1.0
        return torch.finfo(tensor.dtype).eps ** 0.75 * max(1.0, size**0.5)

    def check_point(self, x: Tensor, *, explain: bool = False) -> bool | tuple[bool, str | None]:
        """Whether the shape of `x` can hold points of this manifold; with `explain`, also the reason if not."""
        reason = self._shape_error(x.shape)
        return (reason is None, reason) if explain else reason is None

    def assert_check_point(self, x: Tensor) -> None:
        """Raise DimensionError where the shape of `x` cannot hold points of this manifold."""
        self._require_shape("check_point", "x", x.shape)

    def check_point_on_manifold(
        self, x: Tensor, *, explain: bool = False, atol: float | None = None, rtol: float = 0.0
    ) -> bool | tuple[bool, str | None]:
        """Whether every point in `x` lies on the manifold, within `atol` (default: eps^(3/4) of the dtype).

        `rtol` is added to `atol`: coordinates of points that have a scale of their own (Lorentz) are compared
        relative to it. With `explain`, the reason is returned too.
        """
        reason = self._shape_error(x.shape)
        if reason is None:
            reason = self._point_error(x.detach(), (self._tolerance(x) if atol is None else atol) + rtol)
        return (reason is None, reason) if explain else reason is None

    def assert_check_point_on_manifold(self, x: Tensor, *, atol: float | None = None, rtol: float = 0.0) -> None:
        """Raise MembershipError, with the reason, where a point of `x` is off the manifold."""
        self.assert_check_point(x)
        reason = self._point_error(x.detach(), (self._tolerance(x) if atol is None else atol) + rtol)
        if reason is not None:
            raise MembershipError(f"{self.name}: 'x' {reason}")

    def check_vector_on_tangent(
        self,
        x: Tensor,
        u: Tensor,
        *,
        ok_point: bool = False,
        explain: bool = False,
        atol: float | None = None,
        rtol: float = 0.0,
    ) -> bool | tuple[bool, str | None]:
        """Whether every vector in `u` is tangent at the point of `x` it belongs to.

        The point is checked first, unless `ok_point` says that it was.
        """
        tolerance = (self._tolerance(u) if atol is None else atol) + rtol
        reason = self._shape_error(u.shape)
        if reason is None and not ok_point:
            reason = self._point_error(x.detach(), tolerance)
        if reason is None:
            reason = self._vector_error(x.detach(), u.detach(), tolerance)
        return (reason is None, reason) if explain else reason is None

    def assert_check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, ok_point: bool = False, atol: float | None = None, rtol: float = 0.0
    ) -> None:
        """Raise MembershipError, with the reason, where a vector of `u` is not tangent."""
        result = self.check_vector_on_tangent(x, u, ok_point=ok_point, explain=True, atol=atol, rtol=rtol)
        assert isinstance(result, tuple)
        if not result[0]:
            raise MembershipError(f"{self.name}: 'u' {result[1]}")

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        """Say by how much the worst point is off the manifold, or None. The default compares with ``projx``."""
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        gap = float((self._projx(x) - x).abs().amax())
        return None if gap <= tolerance else f"is off the manifold by {gap:.3g} (tolerance {tolerance:.3g})"

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        """Say by how much the worst vector is not tangent, or None. The default compares with ``proju``."""
        if not bool(torch.isfinite(u).all()):
            return "has NaN or infinite entries"
        gap = float((self._proju(x, u) - u).abs().amax())
        allowed = tolerance * max(1.0, float(u.abs().amax()))
        return None if gap <= allowed else f"is not tangent at the point: off by {gap:.3g} (tolerance {allowed:.3g})"

    # -- projections and gradients ---------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Project an ambient tensor to the manifold (nearest point where that has a closed form). Idempotent."""
        return self._evaluate(self._projx, ambient=("x",), narrow=self._narrow, x=x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Project an ambient vector to the tangent space at `x`, orthogonally in the metric. Idempotent."""
        return self._evaluate(self._proju, ambient=("u",), x=x, u=u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient from the Euclidean gradient `u`: the tangent vector g with <g, v>_x = u . v for all v."""
        return self._evaluate(self._egrad2rgrad, ambient=("u",), x=x, u=u)

    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """Riemannian Hessian along the tangent `u`, from the Euclidean gradient and the Euclidean Hessian along `u`.

        That is the covariant derivative of the Riemannian gradient field in the direction `u`.
        """
        return self._evaluate(self._ehess2rhess, x=x, egrad=egrad, ehess=ehess, u=u)

    # -- metric ----------------------------------------------------------------------------------------------------

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Inner product of tangent vectors at `x` (of `u` with itself, without `v`), shape of the batch."""
        result = self._evaluate(self._inner, x=x, u=u, v=u if v is None else v)
        return self._keep(result, keepdim)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Inner product that broadcasts against a point: what adaptive optimizers keep as second moment.

        Where a point consists of points of several manifolds, of each of them by itself.
        """
        return self._evaluate(self._component_inner, x=x, u=u, v=u if v is None else v)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Length of a tangent vector, shape of the batch. The gradient at the zero vector is 0."""
        return self._keep(self._evaluate(self._norm, x=x, u=u), keepdim)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Geodesic distance, shape of the batch. The gradient at coincident points is 0 (a subgradient)."""
        return self._keep(self._evaluate(self._dist, x=x, y=y), keepdim)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Squared geodesic distance, shape of the batch: smooth at coincident points."""
        return self._keep(self._evaluate(self._dist2, x=x, y=y), keepdim)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of all pairs: `x` of shape (..., n, point) and `y` of shape (..., m, point) give (..., n, m).

        The forward pass works on blocks of rows, so that its memory beyond the result stays at some megabytes.
        """
        for name, tensor in (("x", x), ("y", y)):
            if isinstance(tensor, Tensor) and tensor.ndim <= self.ndim:
                raise DimensionError(
                    f"{self.name}.cdist: argument {name!r} has shape {tuple(tensor.shape)}, "
                    f"wanted at least {self.ndim + 1} dimensions: rows of points"
                )
        rows = x.unsqueeze(-self.ndim - 1) if isinstance(x, Tensor) else x
        columns = y.unsqueeze(-self.ndim - 2) if isinstance(y, Tensor) else y
        return self._evaluate(self._cdist, x=rows, y=columns)

    def sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sectional curvature of the plane spanned by the tangent vectors `u` and `v`, shape of the batch.

        0 by convention where `u` and `v` do not span a plane, unless the curvature is constant.
        """
        return self._evaluate(self._sectional_curvature, x=x, u=u, v=v)

    def _keep(self, result: Tensor, keepdim: bool) -> Tensor:
        return result.reshape((*result.shape, *(1,) * self.ndim)) if keepdim else result

    # -- movement --------------------------------------------------------------------------------------------------

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential map: the point reached after unit time on the geodesic from `x` with velocity `u`. Exact."""
        return self._evaluate(self._expmap, narrow=self._narrow, x=x, u=u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm: the velocity at `x` of the minimising geodesic that reaches `y` after unit time."""
        return self._evaluate(self._logmap, x=x, y=y)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Retraction: a cheap step from `x` that agrees with ``expmap`` to first order in `u` at least."""
        return self._evaluate(self._retr, narrow=self._narrow, x=x, u=u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport `v` from `x` to `y` (parallel where ``exact_transport``, along the minimising geodesic)."""
        return self._evaluate(self._transp, x=x, y=y, v=v)

    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Transport `v` along the geodesic with velocity `u`, for unit time."""
        return self._evaluate(self._expmap_transp, x=x, u=u, v=v)[1]

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Transport `v` along the retraction of `u`."""
        return self._evaluate(self._retr_transp, x=x, u=u, v=v)[1]

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``expmap`` of `u` and transport of `v` along it, in one call."""
        y, w = self._evaluate(self._expmap_transp, narrow=self._narrow, x=x, u=u, v=v)
        return y, w

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``retr`` of `u` and transport of `v` along it, in one call: an optimizer's step."""
        y, w = self._evaluate(self._retr_transp, narrow=self._narrow, x=x, u=u, v=v)
        return y, w

    def geodesic(self, t: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Point at time `t` on the geodesic with value `x` at 0 and `y` at 1; `t` broadcasts against the points."""

        def _geodesic(x: Tensor, y: Tensor) -> Tensor:
            return self._expmap(x, self._time(t, x) * self._logmap(x, y))

        return self._evaluate(_geodesic, narrow=self._narrow, x=x, y=y)

    def geodesic_unit(self, t: float | Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Point at time `t` on the geodesic from `x` with velocity `u`; `t` broadcasts against the points."""

        def _geodesic_unit(x: Tensor, u: Tensor) -> Tensor:
            return self._expmap(x, self._time(t, x) * u)

        return self._evaluate(_geodesic_unit, narrow=self._narrow, x=x, u=u)

    def _time(self, t: float | Tensor, x: Tensor) -> float | Tensor:
        return t.to(x.dtype) if isinstance(t, Tensor) else t

    # -- points ----------------------------------------------------------------------------------------------------

    def random(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Random points of shape `size`, by the law that the class names (uniform where the manifold is compact).

        The same `generator` state gives the same points. Half precision is drawn in float32 and rounded.
        """
        return self._draw(self._random, size, dtype, device, generator)

    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Random tangent vectors at `x`: standard normal in an orthonormal basis of the metric."""

        def _random_tangent(x: Tensor) -> Tensor:
            return self._random_tangent(x, generator)

        return self._evaluate(_random_tangent, x=x)

    def origin(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """A distinguished point, repeated to shape `size`. It is fixed: `seed` is accepted, as geoopt does, unused."""
        del seed
        return self._draw(lambda size, dtype, device, _: self._origin(size, dtype, device), size, dtype, device, None)

    def _draw(
        self,
        function: Callable[..., Tensor],
        size: tuple[Any, ...],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if len(size) == 1 and not isinstance(size[0], int):
            size = tuple(size[0])
        self._point_shape(size)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"{self.name}: 'dtype' must be a real floating dtype, got {dtype}")
        work = torch.float32 if dtype in _HALF else dtype
        with torch.no_grad():
            points = function(size, work, device, generator)
            return points if work == dtype else self._narrow(points, dtype)

    # -- what a manifold defines -----------------------------------------------------------------------------------

    def _dimension(self, *shape: int) -> int:
        self._unavailable("dimension")

    def _injectivity_radius(self) -> float:
        self._unavailable("injectivity_radius")

    def _projx(self, x: Tensor) -> Tensor:
        self._unavailable("projx")

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._unavailable("proju")

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        self._unavailable("inner")

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._unavailable("expmap")

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        self._unavailable("logmap")

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        self._unavailable("transp")

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        self._unavailable("ehess2rhess")

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        self._unavailable("sectional_curvature")

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        self._unavailable("random")

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        self._unavailable("origin")

    # -- defaults that follow from the above -----------------------------------------------------------------------

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._proju(x, u)

    def _norm(self, x: Tensor, u: Tensor) -> Tensor:
        square = self._inner(x, u, u).clamp_min(0.0)
        zero = square == 0
        return torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).sqrt())

    def _component_inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._keep(self._inner(x, u, v), True)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._norm(x, self._logmap(x, y))

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        u = self._logmap(x, y)
        return self._inner(x, u, u)

    def _cdist(self, x: Tensor, y: Tensor) -> Tensor:
        # x has shape (..., n, 1, point), y (..., 1, m, point): they broadcast to all pairs.
        return by_rows(self._dist, x, y, self.ndim)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._expmap(x, u)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        y = self._expmap(x, u)
        return y, self._transp(x, y, v)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        y = self._retr(x, u)
        return y, self._transp(x, y, v)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        # Correct where the metric is the ambient one; the others override.
        return self._proju(x, torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator))

"""What the models of hyperbolic space share: curvature, a freely chosen axis of the points, weighted midpoints."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.curvature import Curvature, root
from holonomy.manifolds.errors import DimensionError

__all__ = ["Hyperbolic"]

Narrow = Callable[[Tensor, torch.dtype], Tensor]


class Hyperbolic(Manifold):
    """Hyperbolic space of constant curvature -c: base class of its models, whose points are vectors.

    Every method takes ``dim``, the axis that holds the coordinates of a point (the last by default). A tensor `c`
    broadcasts against the batch: against the dimensions of a point tensor without that axis.

    Parameters
    ----------
    c : float or Tensor
        Magnitude of the curvature, stored exactly; see `Curvature`.
    learnable : bool
        Whether the curvature is a parameter.
    validate : bool
        See `Manifold`.
    """

    ndim = 1
    reversible = True
    retractions = ("exp",)

    def __init__(self, c: float | Tensor = 1.0, *, learnable: bool = False, validate: bool = False) -> None:
        super().__init__(validate=validate)
        self.curvature = Curvature(c, learnable=learnable, owner=self.name)

    @property
    def c(self) -> Any:
        """Magnitude of the curvature: the float that was given, or a tensor of the shape that was given."""
        return self.curvature.value

    @property
    def radius(self) -> Any:
        """Radius of curvature 1/sqrt(c), a float or a tensor."""
        return 1.0 / root(self.c)

    def _config(self) -> dict[str, Any]:
        return {"c": self.c}

    def _c(self, x: Tensor) -> Any:
        """The curvature, as it broadcasts against tensors that keep the axis of coordinates."""
        c = self.c
        return c.to(x.dtype).unsqueeze(-1) if isinstance(c, Tensor) else c

    # -- the axis of the points ------------------------------------------------------------------------------------

    def _last(self, operation: str, name: str, tensor: Tensor, dim: int) -> Tensor:
        """View with the axis `dim` moved to the end."""
        if dim == -1 or not isinstance(tensor, Tensor):
            return tensor
        if not -tensor.ndim <= dim < tensor.ndim:
            raise DimensionError(
                f"{self.name}.{operation}: argument {name!r} has shape {tuple(tensor.shape)}, which has no axis {dim}"
            )
        return tensor.movedim(dim, -1)

    def _vector(self, dim: int, function: Callable[..., Tensor], *, narrow: Narrow = Tensor.to, **kw: Any) -> Tensor:
        """Evaluate a function whose result has the axis `dim`, as its arguments have."""
        ambient = kw.pop("ambient", ())
        if dim == -1:
            return self._evaluate(function, narrow=narrow, ambient=ambient, **kw)
        operation = function.__name__.lstrip("_")
        moved = {name: self._last(operation, name, tensor, dim) for name, tensor in kw.items()}
        return self._evaluate(function, narrow=narrow, ambient=ambient, **moved).movedim(-1, dim)

    def _pair(self, dim: int, function: Callable[..., tuple[Tensor, ...]], **kw: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a function that returns a point and a vector."""
        operation = function.__name__.lstrip("_")
        moved: dict[str, Any] = {name: self._last(operation, name, tensor, dim) for name, tensor in kw.items()}
        y, w = self._evaluate(function, narrow=self._narrow, **moved)
        return (y, w) if dim == -1 else (y.movedim(-1, dim), w.movedim(-1, dim))

    def _scalar(self, dim: int, keepdim: bool, function: Callable[..., Tensor], **kw: Tensor) -> Tensor:
        """Evaluate a function that reduces the axis `dim`."""
        operation = function.__name__.lstrip("_")
        moved: dict[str, Any] = {name: self._last(operation, name, tensor, dim) for name, tensor in kw.items()}
        result = self._evaluate(function, **moved)
        return result.unsqueeze(dim) if keepdim else result

    # -- the contract's operations along any axis ------------------------------------------------------------------

    def projx(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.projx`."""
        return self._vector(dim, self._projx, narrow=self._narrow, ambient=("x",), x=x)

    def proju(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.proju`."""
        return self._vector(dim, self._proju, ambient=("u",), x=x, u=u)

    def egrad2rgrad(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.egrad2rgrad`."""
        return self._vector(dim, self._egrad2rgrad, ambient=("u",), x=x, u=u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """See `Manifold.inner`."""
        return self._scalar(dim, keepdim, self._inner, x=x, u=u, v=u if v is None else v)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """See `Manifold.norm`."""
        return self._scalar(dim, keepdim, self._norm, x=x, u=u)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """See `Manifold.dist`."""
        return self._scalar(dim, keepdim, self._dist, x=x, y=y)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """See `Manifold.dist2`."""
        return self._scalar(dim, keepdim, self._dist2, x=x, y=y)

    def expmap(self, x: Tensor, u: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """See `Manifold.expmap`. Without `project`, a point that reaches the edge of the dtype is left as it is."""
        if project:
            return self._vector(dim, self._expmap, narrow=self._narrow, x=x, u=u)
        return self._vector(dim, self._free_expmap, x=x, u=u)

    def logmap(self, x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.logmap`."""
        return self._vector(dim, self._logmap, x=x, y=y)

    def retr(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Retraction: the exponential map, which is as cheap as any map that stays in the space for long vectors."""
        return self._vector(dim, self._retr, narrow=self._narrow, x=x, u=u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """Exact parallel transport of `v` along the geodesic from `x` to `y`."""
        return self._vector(dim, self._transp, x=x, y=y, v=v)

    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.transp_follow_expmap`."""
        return self._pair(dim, self._expmap_transp, x=x, u=u, v=v)[1]

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.transp_follow_retr`."""
        return self._pair(dim, self._retr_transp, x=x, u=u, v=v)[1]

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor, *, dim: int = -1) -> tuple[Tensor, Tensor]:
        """See `Manifold.expmap_transp`."""
        return self._pair(dim, self._expmap_transp, x=x, u=u, v=v)

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor, *, dim: int = -1) -> tuple[Tensor, Tensor]:
        """See `Manifold.retr_transp`."""
        return self._pair(dim, self._retr_transp, x=x, u=u, v=v)

    def geodesic(self, t: float | Tensor, x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.geodesic`."""

        def _geodesic(x: Tensor, y: Tensor) -> Tensor:
            return self._expmap(x, self._time_along(t, x, dim) * self._logmap(x, y))

        return self._vector(dim, _geodesic, narrow=self._narrow, x=x, y=y)

    def geodesic_unit(self, t: float | Tensor, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """See `Manifold.geodesic_unit`."""

        def _geodesic_unit(x: Tensor, u: Tensor) -> Tensor:
            return self._expmap(x, self._time_along(t, x, dim) * u)

        return self._vector(dim, _geodesic_unit, narrow=self._narrow, x=x, u=u)

    def _time_along(self, t: float | Tensor, x: Tensor, dim: int) -> float | Tensor:
        """Times, which broadcast against points with the axis `dim`, for points whose axis was moved to the end."""
        return self._time(t.movedim(dim, -1) if isinstance(t, Tensor) and t.ndim else t, x)

    # -- operations about the origin -------------------------------------------------------------------------------

    def expmap0(self, u: Tensor, *, dim: int = -1) -> Tensor:
        """Exponential map at the origin. Exact."""
        return self._vector(dim, self._expmap0, narrow=self._narrow, ambient=("u",), u=u)

    def logmap0(self, y: Tensor, *, dim: int = -1) -> Tensor:
        """Logarithm at the origin."""
        return self._vector(dim, self._logmap0, y=y)

    def dist0(self, x: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """Distance from the origin. Its gradient at the origin is 0 (a subgradient)."""
        return self._scalar(dim, keepdim, self._dist0, x=x)

    def transp0(self, y: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Exact parallel transport of `u` from the origin to `y`."""
        return self._vector(dim, self._transp0, ambient=("u",), y=y, u=u)

    def transp0back(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Exact parallel transport of `u` from `x` to the origin."""
        return self._vector(dim, self._transp0back, x=x, u=u)

    # -- midpoints -------------------------------------------------------------------------------------------------

    def weighted_midpoint(
        self,
        xs: Tensor,
        weights: Tensor | None = None,
        *,
        reducedim: Sequence[int] | None = None,
        dim: int = -1,
        keepdim: bool = False,
        lincomb: bool = False,
        posweight: bool = False,
        project: bool = True,
    ) -> Tensor:
        """Weighted Einstein midpoint: the mean of the points on the hyperboloid, scaled back to it.

        It is the same point in every model, commutes with isometries, and is the geodesic midpoint of two points.
        Sums run in float64 for float32 points, because far from the origin they cancel; in float64, points further
        out than about 18/sqrt(c) lose digits.

        Parameters
        ----------
        xs : Tensor
            Points.
        weights : Tensor, optional
            One weight a point (the shape of `xs` without the axis `dim`, or broadcasting to it); 1 by default.
        reducedim : sequence of int, optional
            Axes of `xs` that are averaged over; by default all but `dim`.
        keepdim : bool
            Keep the averaged axes, with size 1.
        lincomb : bool
            Scale the midpoint's vector at the origin by the sum of the weights.
        posweight : bool
            Replace points of negative weight by their antipodes, and weights by their absolute values.
        project : bool
            Pull a result at the edge of the dtype inside.

        References
        ----------
        Ungar, Analytic Hyperbolic Geometry (2005); Law et al., Lorentzian distance learning (ICML 2019), eq. 11.
        """
        points = self._last("weighted_midpoint", "xs", xs, dim)
        axes = self._reduced_axes(xs, reducedim, dim)

        def weighted_midpoint(x: Tensor) -> Tensor:
            w = None if weights is None else weights.to(x.dtype)
            if posweight and w is not None:
                x = torch.where(w.unsqueeze(-1) < 0, self._antipode(x), x)
                w = w.abs()
            middle = self._midpoint(x, w, axes)
            if lincomb:
                total = torch.ones((), dtype=x.dtype, device=x.device) if w is None else w
                total = total.to(middle.dtype).unsqueeze(-1).expand(*x.shape[:-1], 1).sum(axes, keepdim=True)
                middle = self._expmap0(total * self._logmap0(middle))
            middle = middle.to(x.dtype)
            return self._projx(middle) if project else middle

        middle = self._evaluate(weighted_midpoint, narrow=self._narrow, x=points)
        middle = middle if dim == -1 else middle.movedim(-1, dim)
        if keepdim or not axes:
            return middle
        return middle.squeeze(tuple(self._reduced_axes(xs, reducedim, dim, moved=False)))

    def midpoint(
        self,
        xs: Tensor,
        weights: Tensor | None = None,
        *,
        reducedim: Sequence[int] | None = None,
        dim: int = -1,
        keepdim: bool = False,
    ) -> Tensor:
        """Weighted midpoint; see `weighted_midpoint`."""
        return self.weighted_midpoint(xs, weights, reducedim=reducedim, dim=dim, keepdim=keepdim)

    def _reduced_axes(self, xs: Tensor, reducedim: Sequence[int] | None, dim: int, moved: bool = True) -> list[int]:
        """Axes to average over, counted in `xs` or (moved) in the view that has the points' axis last."""
        if not isinstance(xs, Tensor):
            return []
        own = dim % xs.ndim
        axes = [i for i in range(xs.ndim) if i != own] if reducedim is None else [i % xs.ndim for i in reducedim]
        if own in axes:
            raise DimensionError(f"{self.name}.weighted_midpoint: 'reducedim' {reducedim} contains the axis {dim}")
        return [i - (i > own) for i in axes] if moved else axes

    # -- constants -------------------------------------------------------------------------------------------------

    def _injectivity_radius(self) -> float:
        return math.inf

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (-self._c(x) * torch.ones_like(x[..., :1] * u[..., :1] * v[..., :1])).squeeze(-1)

    # -- what a model defines --------------------------------------------------------------------------------------

    def _free_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._unavailable("expmap")

    def _expmap0(self, u: Tensor) -> Tensor:
        self._unavailable("expmap0")

    def _logmap0(self, y: Tensor) -> Tensor:
        self._unavailable("logmap0")

    def _dist0(self, x: Tensor) -> Tensor:
        self._unavailable("dist0")

    def _transp0(self, y: Tensor, u: Tensor) -> Tensor:
        self._unavailable("transp0")

    def _transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        self._unavailable("transp0back")

    def _antipode(self, x: Tensor) -> Tensor:
        self._unavailable("antipode")

    def _midpoint(self, x: Tensor, w: Tensor | None, axes: list[int]) -> Tensor:
        self._unavailable("weighted_midpoint")

"""The Poincaré ball: hyperbolic space as an open ball with a conformal metric."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds import gyrovector
from holonomy.manifolds.curvature import root
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.gyrovector import gap, safe_sqrt
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.kernels import dispatch, planes
from holonomy.manifolds.pairwise import arsinh_cdist

__all__ = ["PoincareBall"]


class PoincareBall(Hyperbolic):
    """{x in R^d : c|x|^2 < 1} with the metric lambda(x)^2 <u, v>, lambda(x) = 2/(1 - c|x|^2): curvature -c.

    exp, log, parallel transport and distance are exact, and the retraction is exp. Distance and logarithm are built
    on the chord |x - y|, with the conformal factor of float32 points evaluated in float64: both keep their relative
    precision for close points and up to the boundary. Results are strictly inside the ball in every dtype: what would
    round to the boundary is pulled to the last radius that is safe, at a distance of about 16/sqrt(c) from the origin
    in float32, 33/sqrt(c) in float64, 6/sqrt(c) in bfloat16 and 8/sqrt(c) in float16.

    Random points follow a normal law wrapped at the origin: expmap0(n / sqrt(c d)) with n standard normal in R^d (at
    c = 1, geoopt's law). The gyrovector operations have geoopt's names; ``project=False`` leaves out the pull inside.

    Parameters
    ----------
    c : float or Tensor
        Magnitude of the curvature; a tensor broadcasts against the batch. Stored exactly; see `Curvature`.
    learnable : bool
        Whether the curvature is a parameter.
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `c` is not positive and finite.
    TypeError
        Where `c` is no number.
    """

    name = "PoincareBall"

    @property
    def k(self) -> Any:
        """The curvature -c, a float or a tensor."""
        return -self.c

    # -- points and tangent vectors --------------------------------------------------------------------------------

    def _dimension(self, *shape: int) -> int:
        return shape[-1]

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        x = x.detach()
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        reach = float((torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True) * root(self._c(x))).detach().amax())
        return None if reach < 1.0 else f"is outside of the open ball: sqrt(c)|x| reaches {reach:.9g}, wanted below 1"

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return gyrovector.shrink_to(result, self._c(result), dtype)

    def _projx(self, x: Tensor) -> Tensor:
        return gyrovector.project(x, self._c(x))

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return 0.25 * gap(x, self._c(x)).square() * u

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # The Christoffel terms of a conformal metric, with grad log lambda = c lambda x.
        c = self._c(x)
        half = 0.5 * gap(x, c)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(-1, keepdim=True)

        turn = dot(x, egrad) * u - dot(x, u) * egrad - dot(u, egrad) * x
        return half.square() * ehess + c * half * turn

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return ((2.0 / gap(x, self._c(x))).square() * (u * v).sum(-1, keepdim=True)).squeeze(-1)

    def _norm(self, x: Tensor, u: Tensor) -> Tensor:
        return (2.0 / gap(x, self._c(x)) * safe_sqrt(u.square().sum(-1, keepdim=True))).squeeze(-1)

    # -- distance and movement -------------------------------------------------------------------------------------

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return gyrovector.dist(x, y, self._c(x)).squeeze(-1)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return gyrovector.dist2(x, y, self._c(x)).squeeze(-1)

    def _cdist(self, x: Tensor, y: Tensor) -> Tensor:
        c = self.c
        if isinstance(c, Tensor):
            c = c.to(x.dtype)[..., None, None, None]  # one curvature for all pairs of a batch
        if torch.compiler.is_compiling() and dispatch.backend(x, y) is None:
            # The compiler fuses the plain formula, and never forms the differences.
            return (2.0 / root(c) * torch.asinh(safe_sqrt(gyrovector.chord(x, y, c)))).squeeze(-1)
        # c |x - y|^2 / (g(x) g(y)), with one factor a row and one a column.
        ndim = max(x.ndim, y.ndim, c.ndim if isinstance(c, Tensor) else 0)
        x, y = (t[(None,) * (ndim - t.ndim)] for t in (x, y))
        a, b = (root(c) / gap(t, c) for t in (x, y))
        pairs = (x.squeeze(-2), y.squeeze(-3), a.squeeze(-2), b.squeeze(-3))
        if isinstance(c, Tensor):
            return 2.0 / root(c).squeeze(-1) * arsinh_cdist(*pairs)
        return arsinh_cdist(*pairs, scale=2.0 / root(c))

    def _free_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return gyrovector.expmap(x, u, self._c(x))

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return gyrovector.expmap_inside(x, u, self._c(x))

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return gyrovector.logmap(x, y, self._c(x))

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return gyrovector.transport(x, y, v, self._c(x))

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return gyrovector.expmap_transport(x, u, v, self._c(x))

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._expmap_transp(x, u, v)

    def _transp0(self, y: Tensor, u: Tensor) -> Tensor:
        return gap(y, self._c(y)) * u

    def _transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        return u / gap(x, self._c(x))

    def _expmap0(self, u: Tensor) -> Tensor:
        return gyrovector.expmap0_inside(u, self._c(u))

    def _logmap0(self, y: Tensor) -> Tensor:
        return gyrovector.logmap0(y, self._c(y))

    def _dist0(self, x: Tensor) -> Tensor:
        c = self._c(x)
        q = c * x.square().sum(-1, keepdim=True) / gap(x, c)
        return (2.0 / root(c) * torch.asinh(safe_sqrt(q))).squeeze(-1)

    def _antipode(self, x: Tensor) -> Tensor:
        return -x

    def _midpoint(self, x: Tensor, w: Tensor | None, axes: list[int]) -> Tensor:
        return gyrovector.midpoint(x, w, axes, self._c(x))

    # -- random points ---------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        u = torch.randn(size, dtype=dtype, device=device, generator=generator)
        return self._expmap0(u / (root(self._c(u)) * size[-1] ** 0.5))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return 0.5 * gap(x, self._c(x)) * u

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

    def random_normal(
        self,
        *size: int,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Random points expmap0(mean + std n / sqrt(d)), with n standard normal in R^d: geoopt's law at every c."""

        def normal(
            size: tuple[int, ...],
            dtype: torch.dtype,
            device: torch.device | str | None,
            generator: torch.Generator | None,
        ) -> Tensor:
            n = torch.randn(size, dtype=dtype, device=device, generator=generator)
            return self._expmap0(mean + std * n / size[-1] ** 0.5)

        return self._draw(normal, size, dtype, device, generator)

    def wrapped_normal(
        self, *size: int, mean: Tensor, std: float | Tensor = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Random points expmap(mean, std u) of shape `size`, with u standard normal in an orthonormal basis at `mean`.

        dtype and device are those of `mean`, which broadcasts to `size`. `WrappedNormal` is the distribution, with its
        density.
        """
        x = mean.expand(*size)
        return self.expmap(x, std * self.random_tangent(x, generator=generator))

    # -- gyrovector operations -------------------------------------------------------------------------------------

    def _point(self, dim: int, project: bool, function: Callable[..., Tensor], **kw: Any) -> Tensor:
        """Evaluate a formula whose result is a point, pulled inside with `project`."""

        def evaluate(*arguments: Tensor) -> Tensor:
            return function(*arguments, self._c(arguments[0]))

        evaluate.__name__ = function.__name__.removesuffix("_inside")
        return self._vector(dim, evaluate, narrow=self._narrow if project else Tensor.to, **kw)

    def _inside(self, function: Callable[..., Tensor], project: bool) -> Callable[..., Tensor]:
        """The function, followed by the pull inside with `project`."""
        if not project:
            return function

        def inside(*arguments: Any) -> Tensor:
            return gyrovector.project(function(*arguments), arguments[-1])

        inside.__name__ = function.__name__
        return inside

    def expmap0(self, u: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Exponential map at the origin, tanh(sqrt(c)|u|) u/(sqrt(c)|u|). Exact."""
        function = gyrovector.expmap0_inside if project else gyrovector.expmap0
        return self._point(dim, project, function, ambient=("u",), u=u)

    def lambda_x(self, x: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """Conformal factor 2/(1 - c|x|^2), shape of the batch."""

        def lambda_x(x: Tensor) -> Tensor:
            return (2.0 / gap(x, self._c(x))).squeeze(-1)

        return self._scalar(dim, keepdim, lambda_x, x=x)

    def conformal_factor(self, x: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """Conformal factor of the metric; the same as `lambda_x`."""
        return self.lambda_x(x, keepdim=keepdim, dim=dim)

    def mobius_add(self, x: Tensor, y: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Möbius addition of `x` and `y`: the point that expmap at `x` reaches with the transported logmap0 of `y`.

        ``mobius_add(-x, y)`` is exact to rounding also where the two are close, and exactly 0 where they coincide.
        """
        function = gyrovector.mobius_add_inside if project else gyrovector.mobius_add
        return self._point(dim, project, function, x=x, y=y)

    def mobius_sub(self, x: Tensor, y: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Möbius subtraction, mobius_add(x, -y)."""
        return self._point(dim, project, self._inside(gyrovector.mobius_sub, project), x=x, y=y)

    def mobius_coadd(self, x: Tensor, y: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Möbius coaddition, the commutative addition x + gyr[x, -y]y."""
        return self._point(dim, project, self._inside(gyrovector.mobius_coadd, project), x=x, y=y)

    def mobius_cosub(self, x: Tensor, y: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Möbius cosubtraction, mobius_coadd(x, -y)."""
        return self._point(dim, project, self._inside(gyrovector.mobius_cosub, project), x=x, y=y)

    def gyration(self, x: Tensor, y: Tensor, z: Tensor, *, dim: int = -1) -> Tensor:
        """Gyration gyr[x, y]z, the rotation with x + (y + z) = (x + y) + gyr[x, y]z; closed form, linear in `z`."""

        def gyration(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return gyrovector.gyration(x, y, z, self._c(x))

        return self._vector(dim, gyration, ambient=("z",), x=x, y=y, z=z)

    def antipode(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """Reflection through the origin, -x."""
        return self._vector(dim, self._antipode, x=x)

    def mobius_scalar_mul(self, r: float | Tensor, x: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Scalar multiplication: `x` moved along its geodesic from the origin, to `r` times the distance.

        A tensor `r` broadcasts against `x`.
        """
        return self.mobius_fn_apply(lambda u: r * u, x, project=project, dim=dim)

    def mobius_pointwise_mul(self, w: Tensor, x: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Multiplication by a diagonal matrix in the tangent space of the origin; `w` broadcasts against `x`."""
        return self.mobius_fn_apply(lambda u: w * u, x, project=project, dim=dim)

    def mobius_matvec(self, m: Tensor, x: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Multiplication by a matrix `m` of shape (..., e, d) in the tangent space of the origin; the result has e.

        Raises
        ------
        DimensionError
            Where the last dimension of `m` is not that of the points.
        """
        size = x.shape[dim]
        if m.ndim < 2 or m.shape[-1] != size:
            raise DimensionError(
                f"{self.name}.mobius_matvec: argument 'm' has shape {tuple(m.shape)}, wanted (..., e, {size})"
            )

        def matvec(u: Tensor) -> Tensor:
            return (m @ u.movedim(dim, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, dim)

        return self.mobius_fn_apply(matvec, x, project=project, dim=dim)

    def mobius_fn_apply(
        self, fn: Callable[..., Tensor], x: Tensor, *args: Any, project: bool = True, dim: int = -1, **kwargs: Any
    ) -> Tensor:
        """Apply `fn` (with further arguments) to ``logmap0(x)``, and return ``expmap0`` of its result."""
        return self.expmap0(fn(self.logmap0(x, dim=dim), *args, **kwargs), project=project, dim=dim)

    def mobius_fn_apply_chain(
        self, x: Tensor, *fns: Callable[[Tensor], Tensor], project: bool = True, dim: int = -1
    ) -> Tensor:
        """Apply functions one after the other to ``logmap0(x)``, and return ``expmap0`` of the result."""
        u = self.logmap0(x, dim=dim)
        for fn in fns:
            u = fn(u)
        return self.expmap0(u, project=project, dim=dim)

    def dist2plane(
        self,
        x: Tensor,
        p: Tensor,
        a: Tensor,
        *,
        keepdim: bool = False,
        signed: bool = False,
        scaled: bool = False,
        dim: int = -1,
    ) -> Tensor:
        """Distance from `x` to the hyperplane (totally geodesic) through `p` with normal `a`, shape of the batch.

        Parameters
        ----------
        signed : bool
            Positive on the side that `a` points to, negative on the other.
        scaled : bool
            Multiply by |a|, as multinomial regression does.

        References
        ----------
        Ganea, Bécigneul and Hofmann, Hyperbolic neural networks (NeurIPS 2018), theorem 5.
        """

        def dist2plane(x: Tensor, p: Tensor, a: Tensor) -> Tensor:
            distance = self._dist2plane(x, p, a)
            distance = distance if signed else distance.abs()
            if scaled:
                distance = distance * safe_sqrt(a.square().sum(-1, keepdim=True))
            return distance.squeeze(-1)

        return self._scalar(dim, keepdim, dist2plane, x=x, p=p, a=a)

    def _dist2plane(self, x: Tensor, p: Tensor, a: Tensor) -> Tensor:
        c = self._c(x)
        if planes.takes(x, p, a) and (not isinstance(c, Tensor) or (c.numel() == 1 and c.ndim <= x.ndim)):
            c = c.reshape(()) if isinstance(c, Tensor) else c
            size = x.shape[-1]
            distances = gyrovector.dist2planes(x.reshape(-1, size), p.reshape(-1, size), a.reshape(-1, size), c)
            return distances.view(*x.shape[:-2], -1, 1)
        return gyrovector.dist2plane(x, p, a, c)

    # -- the hyperboloid -------------------------------------------------------------------------------------------

    def to_lorentz(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """Isometry to `Lorentz` of the same curvature: (1 + c|x|^2, 2 sqrt(c) x)/(sqrt(c)(1 - c|x|^2)), time first."""

        def to_lorentz(x: Tensor) -> Tensor:
            c = self._c(x)
            g = gap(x, c)
            return torch.cat(((2.0 - g) / (root(c) * g), 2.0 * x / g), dim=-1)

        return self._vector(dim, to_lorentz, x=x)

    def to_lorentz_tangent(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Differential of `to_lorentz` at `x`: the image of the tangent vector `u`, at the image of `x`."""

        def to_lorentz_tangent(x: Tensor, u: Tensor) -> Tensor:
            c = self._c(x)
            g = gap(x, c)
            rise = 4.0 * (x * u).sum(-1, keepdim=True) / g.square()
            return torch.cat((root(c) * rise, 2.0 * u / g + c * rise * x), dim=-1)

        return self._vector(dim, to_lorentz_tangent, x=x, u=u)

"""The Lorentz model: hyperbolic space as the upper sheet of a hyperboloid in Minkowski space."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds import gyrovector
from holonomy.manifolds.curvature import checked, root
from holonomy.manifolds.functions import arsinhc, sinhc
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.pairwise import by_rows

__all__ = ["Lorentz"]


class Lorentz(Hyperbolic):
    """{x in R^(d+1) : -x_0^2 + |x_s|^2 = -1/c, x_0 > 0}, time first, with the Minkowski form: curvature -c.

    exp, log, parallel transport and distance are exact, and the retraction is exp. The space part x_s is what counts:
    the time of points and of tangent vectors is computed from it wherever it is used, so that nothing drifts off the
    hyperboloid, and differences of large numbers never meet. With a = x_0 - y_0 and T = x_0 + y_0,

        |x - y|_L^2 = (T^2 |k|^2/4 + a^2/c) / (x_0 y_0),   k = (x_s - y_s) - (a/T) (x_s + y_s)

    has no cancellation for close points at any distance from the origin, and so have length (its limit) and transport.
    Points are kept within sqrt(c)|x_s| <= 1/eps, a distance of 16.6/sqrt(c) from the origin in float32 and
    36.7/sqrt(c) in float64: beyond, the rounding of one coordinate is a step as long as the radius of curvature.

    Random points follow the law of `PoincareBall`, carried over by the isometry.

    Parameters
    ----------
    c : float or Tensor
        Magnitude of the curvature; a tensor broadcasts against the batch. Stored exactly; see `Curvature`.
    k : float or Tensor, optional
        geoopt's parameter 1/c, the negative of x's square, in place of `c`.
    learnable : bool
        Whether the curvature is a parameter.
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `c` is not positive and finite, or `k` is given beside another `c`.
    TypeError
        Where `c` is no number.
    """

    name = "Lorentz"

    def __init__(
        self,
        c: float | Tensor = 1.0,
        *,
        k: float | Tensor | None = None,
        learnable: bool = False,
        validate: bool = False,
    ) -> None:
        if k is not None:
            if isinstance(c, Tensor) or c != 1.0:
                raise ValueError(f"Lorentz: give 'c' or 'k' = 1/c, not both: got c={c!r}, k={k!r}")
            c = 1.0 / checked(k, self.name, "k")
        super().__init__(c, learnable=learnable, validate=validate)

    @property
    def k(self) -> Any:
        """geoopt's parameter 1/c, a float or a tensor."""
        return 1.0 / self.c

    # -- points and tangent vectors --------------------------------------------------------------------------------

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] < 2:
            return "wanted a last dimension of at least 2: time and space"
        return reason

    def _dimension(self, *shape: int) -> int:
        return shape[-1] - 1

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        x = x.detach()
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        time = _time(_space(x), self._c(x))
        # Relative to the time itself: one rounding of a distant point's coordinates is a large number.
        gap = float(((x[..., :1] - time) / time).detach().abs().amax())
        return (
            None if gap <= tolerance else f"is off the hyperboloid, by {gap:.3g} of its time (at most {tolerance:.3g})"
        )

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        x, u = x.detach(), u.detach()
        if not bool(torch.isfinite(u).all()):
            return "has NaN or infinite entries"
        lift = _lift(_space(x), _space(u), self._c(x))
        scale = u.abs().amax(-1, keepdim=True).clamp_min(1.0)
        gap = float(((u[..., :1] - lift[..., :1]) / scale).abs().amax())
        return None if gap <= tolerance else f"is not tangent at the point, by {gap:.3g} (at most {tolerance:.3g})"

    def _projx(self, x: Tensor) -> Tensor:
        c = self._c(x)
        return _point(_capped(_space(x), c), c)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        xs, us = _space(x), _space(u)
        product = (xs * us).sum(-1, keepdim=True) - _time(xs, c) * u[..., :1]
        return _lift(xs, us + c * product * xs, c)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        xs, us = _space(x), _space(u)
        product = (xs * us).sum(-1, keepdim=True) + _time(xs, c) * u[..., :1]
        return _lift(xs, us + c * product * xs, c)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._egrad2rgrad(x, ehess) + self._c(x) * (x * egrad).sum(-1, keepdim=True) * u

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        c = self._c(x)
        xs = _space(x)
        (ku, a), (kv, b) = _split(xs, _space(u), c), _split(xs, _space(v), c)
        return (ku * kv).sum(-1) + (a * b).squeeze(-1)

    # -- distance and movement -------------------------------------------------------------------------------------

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return _dist(x, y, self._c(x))

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        c = self._c(x)
        q = _chord(_space(x), _space(y), c)[0]
        return (4.0 / c * q * arsinhc(q).square()).squeeze(-1)

    def _cdist(self, x: Tensor, y: Tensor) -> Tensor:
        c = self.c
        if isinstance(c, Tensor):
            c = c.to(x.dtype)[..., None, None, None]  # one curvature for all pairs of a batch
        return by_rows(lambda x, y: _dist(x, y, c), x, y, self.ndim)

    def _free_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        return _point(_moved(_space(x), _space(u), c), c)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        return _point(_capped(_moved(_space(x), _space(u), c), c), c)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        c = self._c(x)
        xs, ys = _space(x), _space(y)
        q = _chord(xs, ys, c)[0]
        us = arsinhc(q) * (1.0 + q).rsqrt() * ((ys - xs) - 2.0 * q * xs)
        return _lift(xs, us, c)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        c = self._c(x)
        xs, ys, vs = _space(x), _space(y), _space(v)
        x0 = _time(xs, c)
        q, k, total = _chord(xs, ys, c)
        # <y, v>_L = -(T / (2 x_0)) <k, v_s>, with v_s split as in its length, and <k, x_s> = 2 (a + 2 q x_0) / (c T).
        across, along = _split(xs, vs, c)
        rise = (xs - ys).mul(xs + ys).sum(-1, keepdim=True) / total + 2.0 * q * x0
        product = -(0.5 * total * (k * across).sum(-1, keepdim=True) + along * rise / root(c)) / x0
        return _lift(ys, vs + 0.5 * c * product / (1.0 + q) * (xs + ys), c)

    def _expmap0(self, u: Tensor) -> Tensor:
        c = self._c(u)
        return _point(_capped(_moved(torch.zeros_like(_space(u)), _space(u), c), c), c)

    def _logmap0(self, y: Tensor) -> Tensor:
        c = self._c(y)
        ys = _space(y)
        us = arsinhc(c * _square(ys)) * ys
        return torch.cat((torch.zeros_like(us[..., :1]), us), dim=-1)

    def _dist0(self, x: Tensor) -> Tensor:
        c = self._c(x)
        return (torch.asinh(safe_sqrt(c * _square(_space(x)))) / root(c)).squeeze(-1)

    def _transp0(self, y: Tensor, u: Tensor) -> Tensor:
        return self._transp(self._origin_like(y), y, u)

    def _transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        return self._transp(x, self._origin_like(x), u)

    def _antipode(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., :1], -x[..., 1:]), dim=-1)

    def _midpoint(self, x: Tensor, w: Tensor, axes: list[int]) -> Tensor:
        c = self._c(x)
        xs = _space(x)
        space = (w * xs).sum(axes, keepdim=True)
        time = (w * _time(xs, c)).sum(axes, keepdim=True)
        floor = (torch.finfo(x.dtype).eps * time).square()
        mass = torch.copysign(safe_sqrt(torch.maximum(time.square() - _square(space), floor)), time)
        empty = mass == 0
        middle = torch.where(empty, torch.zeros_like(space), space / torch.where(empty, torch.ones_like(mass), mass))
        return _point(middle / root(c), c)

    # -- random points ---------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        d = size[-1] - 1
        us = torch.randn(*size[:-1], d, dtype=dtype, device=device, generator=generator)
        us = us * (2.0 / (root(self._c(us)) * d**0.5))
        return self._expmap0(torch.cat((torch.zeros_like(us[..., :1]), us), dim=-1))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        us = torch.randn(_space(x).shape, dtype=x.dtype, device=x.device, generator=generator)
        return self._transp0(x, torch.cat((torch.zeros_like(us[..., :1]), us), dim=-1))

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self._origin_like(torch.empty(size, dtype=dtype, device=device))

    def _origin_like(self, x: Tensor) -> Tensor:
        return _point(torch.zeros_like(_space(x)), self._c(x))

    # -- the ball --------------------------------------------------------------------------------------------------

    def to_poincare(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """Isometry to `PoincareBall` of the same curvature: x_s/(1 + sqrt(c) x_0)."""

        def to_poincare(x: Tensor) -> Tensor:
            c = self._c(x)
            xs = _space(x)
            return gyrovector.project(xs / (1.0 + root(c) * _time(xs, c)), c)

        def narrow(y: Tensor, dtype: torch.dtype) -> Tensor:
            return gyrovector.shrink_to(y, self._c(y), dtype)

        return self._vector(dim, to_poincare, narrow=narrow, x=x)

    def to_poincare_tangent(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Differential of `to_poincare` at `x`: the image of the tangent vector `u`, at the image of `x`."""

        def to_poincare_tangent(x: Tensor, u: Tensor) -> Tensor:
            c = self._c(x)
            xs, us = _space(x), _space(u)
            x0 = _time(xs, c)
            depth = 1.0 + root(c) * x0
            u0 = (xs * us).sum(-1, keepdim=True) / x0
            return (us - (root(c) * u0 / depth) * xs) / depth

        return self._vector(dim, to_poincare_tangent, x=x, u=u)


# -- formulas on space parts, whose last axis is kept; c is a float or broadcasts ----------------------------------


def _space(x: Tensor) -> Tensor:
    return x[..., 1:]


def _square(xs: Tensor) -> Tensor:
    return xs.square().sum(-1, keepdim=True)


def _time(xs: Tensor, c: Any) -> Tensor:
    return (1.0 / c + _square(xs)).sqrt()


def _point(xs: Tensor, c: Any) -> Tensor:
    """The point with this space part."""
    return torch.cat((_time(xs, c), xs), dim=-1)


def _lift(xs: Tensor, us: Tensor, c: Any) -> Tensor:
    """The tangent vector at x with this space part."""
    u0 = (xs * us).sum(-1, keepdim=True) / _time(xs, c)
    return torch.cat((u0.expand(*us.shape[:-1], 1), us.expand(*u0.shape[:-1], us.shape[-1])), dim=-1)


def _split(xs: Tensor, us: Tensor, c: Any) -> tuple[Tensor, Tensor]:
    """Write a tangent vector as (k, b) with |u|_L^2 = |k|^2 + b^2: the limit of the chord formula."""
    x0 = _time(xs, c)
    slope = (xs * us).sum(-1, keepdim=True) / x0 / x0
    return us - slope * xs, slope / root(c)


def _chord(xs: Tensor, ys: Tensor, c: Any) -> tuple[Tensor, Tensor, Tensor]:
    """q = sinh^2(sqrt(c) d(x, y)/2) = c|x - y|_L^2/4, with k and T of the class's formula."""
    x0, y0 = _time(xs, c), _time(ys, c)
    h, total = xs - ys, x0 + y0
    a = (h * (xs + ys)).sum(-1, keepdim=True) / total
    k = h - (a / total) * (xs + ys)
    # T^2/(x_0 y_0) and a/x_0 first: products of three large coordinates overflow.
    q = 0.25 * (c * _square(k) * (0.25 * (total / x0) * (total / y0)) + (a / x0) * (a / y0))
    return q, k, total


def _dist(x: Tensor, y: Tensor, c: Any) -> Tensor:
    return (2.0 / root(c) * torch.asinh(safe_sqrt(_chord(_space(x), _space(y), c)[0]))).squeeze(-1)


def _moved(xs: Tensor, us: Tensor, c: Any) -> Tensor:
    """Space part of the exponential map; a vector that leads past the cap from every point is shortened first."""
    k, b = _split(xs, us, c)
    s = c * (_square(k) + b.square())
    longest = (2.0 * math.log(2.0 / torch.finfo(xs.dtype).eps) + 2.0) ** 2
    long = s > longest
    ratio = torch.where(long, (longest / torch.where(long, s, torch.ones_like(s))).sqrt(), torch.ones_like(s))
    s = torch.where(long, torch.full_like(s, longest), s)
    return xs + 0.5 * s * sinhc(0.25 * s).square() * xs + ratio * sinhc(s) * us


def _capped(xs: Tensor, c: Any) -> Tensor:
    """Scale space parts back to sqrt(c)|x_s| = 1/eps where they exceed it."""
    unit = root(c) * torch.finfo(xs.dtype).eps
    square = _square(unit * xs)
    far = square > 1.0
    # A constant first, so that no derivative holds the square of an excess: the result does not depend on it.
    xs = xs / torch.where(far, square, torch.ones_like(square)).sqrt().detach()
    square = torch.where(far, _square(unit * xs), torch.ones_like(square))
    return xs * square.rsqrt()

"""The upper half-space: hyperbolic space above its boundary plane, with a conformal metric."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.curvature import root
from holonomy.manifolds.functions import arsinhc, sinhc
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.hyperbolic import Hyperbolic

__all__ = ["HalfSpace"]


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _height(x: Tensor) -> Tensor:
    return x[..., -1:]


def _raised(x: Tensor, h: Tensor) -> Tensor:
    """x plus h times the unit vector of the height."""
    return torch.cat((x[..., :-1].expand(*h.shape[:-1], -1), x[..., -1:] + h), dim=-1)


class HalfSpace(Hyperbolic):
    """{(z, y) in R^d : y > 0}, height y last, with the metric <u, v>/(c y^2): curvature -c.

    exp, log, parallel transport and distance are exact, and the retraction is exp; for the last axis as height, d may
    be 1. With h = q - p between points p = (z, y) and q = (z', y'),

        sinh^2(sqrt(c) d/2) = |h|^2/(4 y y'),

    and a vector v is transported from p to q by the reflection of its mirror image (v_z, -v_y) at the hyperplane
    orthogonal to q - (z, -y), scaled by y'/y. None of the formulas cancels: all keep their relative precision for
    close points and at every height, because heights near 0 are represented as finely as any.

    Points are kept at heights of eps to 1/eps and within |z| <= 1/eps, 16/sqrt(c) from the origin (0, 1) in float32 and
    36/sqrt(c) in float64, measured along the axis. The curvature scales the metric, not the points. Random points
    follow the law of `PoincareBall`, carried over by the isometry.

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

    References
    ----------
    Ratcliffe, Foundations of Hyperbolic Manifolds (2019), section 4.6; the formulas of log, exp and transport are those
    of the hyperboloid in the coordinates 1/y and z/y.
    """

    name = "HalfSpace"

    # -- points and tangent vectors --------------------------------------------------------------------------------

    def _dimension(self, *shape: int) -> int:
        return shape[-1]

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        lowest = float(_height(x).detach().amin())
        return None if lowest > 0.0 else f"is outside of the open half-space: heights go down to {lowest:.9g}"

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        eps = torch.finfo(dtype).eps
        return self._clipped(result, eps).to(dtype)

    def _clipped(self, x: Tensor, eps: float) -> Tensor:
        """Clip heights to [eps, 1/eps], and scale the rest back to |z| <= 1/eps."""
        z, y = x[..., :-1], _height(x)
        unit = eps * z
        square = _square(unit)
        far = square > 1.0
        # The largest entry first, as a constant: no derivative then holds a large square, and the result is the same.
        largest = torch.cat((unit, torch.ones_like(y.expand(*unit.shape[:-1], 1))), dim=-1).detach().abs()
        unit = unit / largest.amax(-1, keepdim=True)
        square = torch.where(far, _square(unit), torch.ones_like(square))
        z = torch.where(far, unit * square.rsqrt() / eps, z)
        return torch.cat((z, y.clamp(eps, 1.0 / eps)), dim=-1)

    def _projx(self, x: Tensor) -> Tensor:
        return self._clipped(x, torch.finfo(x.dtype).eps)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._c(x) * _height(x).square() * u

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # The Christoffel terms of a conformal metric, with grad log lambda = (0, -1/y).
        y = _height(x)
        turn = _height(u) * egrad - _height(egrad) * u
        turn = _raised(turn, (u * egrad).sum(-1, keepdim=True))
        return self._c(x) * y * (y * ehess + turn)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        y = _height(x)
        return (((u / y) * (v / y)).sum(-1, keepdim=True) / self._c(x)).squeeze(-1)

    def _norm(self, x: Tensor, u: Tensor) -> Tensor:
        return (safe_sqrt(_square(u)) / (root(self._c(x)) * _height(x))).squeeze(-1)

    # -- distance and movement -------------------------------------------------------------------------------------

    def _chord(self, x: Tensor, y: Tensor) -> Tensor:
        """sinh^2(sqrt(c) d(x, y)/2)."""
        return 0.25 * _square(y - x) / (_height(x) * _height(y))

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return (2.0 / root(self._c(x)) * torch.asinh(safe_sqrt(self._chord(x, y)))).squeeze(-1)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        q = self._chord(x, y)
        return (4.0 / self._c(x) * q * arsinhc(q).square()).squeeze(-1)

    def _free_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        y = _height(x)
        w = u / y
        s = _square(w)
        # A vector that leads past the clip from every point is shortened, before its hyperbolic sine overflows.
        longest = (4.0 * math.log(2.0 / torch.finfo(x.dtype).eps)) ** 2
        long = s > longest
        ratio = torch.where(long, (longest / torch.where(long, s, torch.ones_like(s))).sqrt(), torch.ones_like(s))
        s = torch.where(long, torch.full_like(s, longest), s)
        w = ratio * w
        cosh, step = 1.0 + 0.5 * s * sinhc(0.25 * s).square(), sinhc(s) * w
        rise = _height(step)
        # 1/y' = (cosh - rise)/y; upwards, the same quotient without the difference of large numbers.
        aside = step[..., :-1]
        total = cosh + torch.where(rise > 0.0, rise, -rise)  # unlike abs, with the right derivative at 0
        fall = torch.where(rise > 0.0, 1.0 / total + (aside * (aside / total)).sum(-1, keepdim=True), total)
        return torch.cat((x[..., :-1] + y * aside / fall, y / fall), dim=-1)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._projx(self._free_expmap(x, u))

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        h, q = y - x, self._chord(x, y)
        along = _raised(_height(x) * h, 0.5 * _square(h))
        return arsinhc(q) * (1.0 + q).rsqrt() / _height(y) * along

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        def mirror(t: Tensor) -> Tensor:
            return torch.cat((t[..., :-1], -t[..., -1:]), dim=-1)

        normal, w = y - mirror(x), mirror(v)
        scale = _height(y) / _height(x)
        return scale * (w - 2.0 * (w * normal).sum(-1, keepdim=True) / _square(normal) * normal)

    # -- the origin ------------------------------------------------------------------------------------------------

    def _origin_like(self, x: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(x[..., :-1]), torch.ones_like(x[..., -1:])), dim=-1)

    def _expmap0(self, u: Tensor) -> Tensor:
        return self._expmap(self._origin_like(u), u)

    def _logmap0(self, y: Tensor) -> Tensor:
        return self._logmap(self._origin_like(y), y)

    def _dist0(self, x: Tensor) -> Tensor:
        return self._dist(self._origin_like(x), x)

    def _transp0(self, y: Tensor, u: Tensor) -> Tensor:
        return self._transp(self._origin_like(y), y, u)

    def _transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        return self._transp(x, self._origin_like(x), u)

    def _antipode(self, x: Tensor) -> Tensor:
        return torch.cat((-x[..., :-1], x[..., -1:]), dim=-1) / _square(x)

    def _midpoint(self, x: Tensor, w: Tensor | None, axes: list[int]) -> Tensor:
        z, y = x[..., :-1], _height(x)
        weight = (1.0 if w is None else w.unsqueeze(-1)) / y
        total = weight.sum(axes, keepdim=True)
        empty = total == 0
        share = weight / torch.where(empty, torch.ones_like(total), total)
        middle = (share * z).sum(axes, keepdim=True)
        # The squared height is a variance, of the heights too: no difference of large sums.
        square = (share * (_square(z - middle) + y.square())).sum(axes, keepdim=True)
        found = torch.cat((middle, safe_sqrt(square)), dim=-1)
        return torch.where(empty, self._origin_like(found), found)

    # -- random points ---------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        u = torch.randn(size, dtype=dtype, device=device, generator=generator)
        return self._expmap0(u * (2.0 / size[-1] ** 0.5))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return root(self._c(x)) * _height(x) * u

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self._origin_like(torch.empty(size, dtype=dtype, device=device))

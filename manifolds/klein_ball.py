"""The Beltrami-Klein ball: hyperbolic space as a ball in which geodesics are straight."""

import torch
from torch import Tensor

from holonomy.manifolds import gyrovector
from holonomy.manifolds.curvature import root
from holonomy.manifolds.functions import arsinhc, sinhc
from holonomy.manifolds.gyrovector import gap, safe_sqrt
from holonomy.manifolds.hyperbolic import Hyperbolic

__all__ = ["KleinBall"]

#: Length of a tangent vector, in units of the radius of curvature, past which every point ends at the boundary.
_LONGEST = 80.0


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


class KleinBall(Hyperbolic):
    """{x in R^d : c|x|^2 < 1} with the metric <u, v>/g + c <x, u> <x, v>/g^2, g(x) = 1 - c|x|^2: curvature -c.

    exp, log, parallel transport and distance are exact, and the retraction is exp. Geodesics are chords h = y - x:

        sinh^2(sqrt(c) d) = c (g(x)|h|^2 + c <x, h>^2) / (g(x) g(y)),    log_x(y) = sqrt(g(x)/g(y)) r/sinh(r) h

    for r = sqrt(c) d: sums of positive terms, exact for close points and up to the boundary, with g of float32 points
    evaluated in float64. A distance rho from the origin is at the radius tanh(sqrt(c) rho)/sqrt(c), so that this ball
    reaches half as far as `PoincareBall`: 8/sqrt(c) in float32, 17/sqrt(c) in float64. The midpoint is Einstein's.
    Random points follow the law of `PoincareBall`, carried over by the isometry.

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
    Ratcliffe, Foundations of Hyperbolic Manifolds (2019), section 6.1; the formulas are those of the hyperboloid in the
    coordinates of the central projection.
    """

    name = "KleinBall"

    # -- points and tangent vectors --------------------------------------------------------------------------------

    def _dimension(self, *shape: int) -> int:
        return shape[-1]

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
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
        c = self._c(x)
        return gap(x, c) * (u - c * _dot(x, u) * x)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # The Christoffel symbols of straight geodesics: (c/g) (<x, u> v + <x, v> u).
        c = self._c(x)
        bend = c / gap(x, c) * (_dot(x, u) * egrad + _dot(u, egrad) * x)
        return self._egrad2rgrad(x, ehess - bend)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        c = self._c(x)
        g = gap(x, c)
        return ((_dot(u, v) + c * _dot(x, u) * (_dot(x, v) / g)) / g).squeeze(-1)

    # -- distance and movement -------------------------------------------------------------------------------------

    def _square_sine(self, x: Tensor, y: Tensor) -> Tensor:
        """sinh^2(sqrt(c) d(x, y))."""
        c, h = self._c(x), y - x
        g = gap(x, c)
        return c * (_dot(h, h) + c * _dot(x, h).square() / g) / gap(y, c)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return (torch.asinh(safe_sqrt(self._square_sine(x, y))) / root(self._c(x))).squeeze(-1)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        s = self._square_sine(x, y)
        return (s * arsinhc(s).square() / self._c(x)).squeeze(-1)

    def _free_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        g = gap(x, c)
        # So that no square overflows; what is left is longer than any that matters.
        largest = root(c) * u.detach().abs().amax(-1, keepdim=True)
        u = u * (torch.finfo(x.dtype).max ** 0.25 / largest).clamp_max(1.0)
        a, b = c * _dot(x, u) / g, c * _dot(u, u) / g
        s = b + a.square()
        # Longer vectors end at the same point of the boundary; their hyperbolic sine would overflow.
        long = s > _LONGEST**2
        ratio = torch.where(long, _LONGEST * torch.where(long, s, torch.ones_like(s)).rsqrt(), torch.ones_like(s))
        a, b, s = ratio * a, ratio.square() * b, ratio.square() * s
        step = sinhc(s)
        cosh = 1.0 + 0.5 * s * sinhc(0.25 * s).square()
        # cosh + a step, where a < 0 without the difference of large numbers: cosh^2 = 1 + step^2 (a^2 + b).
        total = cosh + torch.where(a < 0.0, -a, a) * step  # unlike abs, with the right derivative at 0
        rise = torch.where(a < 0.0, 1.0 / total + step * (step / total) * b, total)
        return x + ratio * step / rise * u

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._projx(self._free_expmap(x, u))

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        c = self._c(x)
        return (gap(x, c) / gap(y, c)).sqrt() * arsinhc(self._square_sine(x, y)) * (y - x)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        c, h = self._c(x), y - x
        gx, gy = gap(x, c), gap(y, c)
        a = c * _dot(x, v) / gx
        root_product = (gx * gy).sqrt()
        cosh = (1.0 + self._square_sine(x, y)).sqrt()
        turn = c * (_dot(h, v) + a * _dot(x, h)) / (root_product * (1.0 + cosh))
        return (gy / gx).sqrt() * (v - (a + turn) * h)

    # -- the origin ------------------------------------------------------------------------------------------------

    def _expmap0(self, u: Tensor) -> Tensor:
        return self._expmap(torch.zeros_like(u), u)

    def _logmap0(self, y: Tensor) -> Tensor:
        return self._logmap(torch.zeros_like(y), y)

    def _dist0(self, x: Tensor) -> Tensor:
        return self._dist(torch.zeros_like(x), x)

    def _transp0(self, y: Tensor, u: Tensor) -> Tensor:
        return self._transp(torch.zeros_like(y), y, u)

    def _transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        return self._transp(x, torch.zeros_like(x), u)

    def _antipode(self, x: Tensor) -> Tensor:
        return -x

    def _midpoint(self, x: Tensor, w: Tensor | None, axes: list[int]) -> Tensor:
        weight = gap(x, self._c(x)).rsqrt() * (1.0 if w is None else w.unsqueeze(-1))
        total = weight.sum(axes, keepdim=True)
        empty = total == 0
        middle = (weight / torch.where(empty, torch.ones_like(total), total) * x).sum(axes, keepdim=True)
        return self._projx(middle)

    # -- random points ---------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        u = torch.randn(size, dtype=dtype, device=device, generator=generator)
        return self._expmap0(u * (2.0 / (root(self._c(u)) * size[-1] ** 0.5)))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return self._transp0(x, u)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

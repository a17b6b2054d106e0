"""Hyperbolic distances in 50 digits, and pairs of points at chosen distances: what the accuracy tests compare with."""

import math

import mpmath
import torch
from torch import Tensor

from holonomy.manifolds import PoincareBall

mpmath.mp.dps = 50


def _exact(x: Tensor) -> list[mpmath.mpf]:
    return [mpmath.mpf(t) for t in x.tolist()]


def ball_distance(x: Tensor, y: Tensor, c: float = 1.0) -> mpmath.mpf:
    """Distance in the ball through Möbius subtraction and artanh, which is not the formula of the library."""
    a, b, c = _exact(x), _exact(y), mpmath.mpf(c)
    xy, x2, y2 = (mpmath.fsum(s * t for s, t in zip(p, q, strict=True)) for p, q in ((a, b), (a, a), (b, b)))
    numerator = [(1 - c * x2) * t - (1 - 2 * c * xy + c * y2) * s for s, t in zip(a, b, strict=True)]
    length = mpmath.sqrt(mpmath.fsum(t * t for t in numerator)) / (1 - 2 * c * xy + c**2 * x2 * y2)
    return 2 / mpmath.sqrt(c) * mpmath.atanh(mpmath.sqrt(c) * length)


def lorentz_distance(x: Tensor, y: Tensor, c: float = 1.0) -> mpmath.mpf:
    """Distance on the hyperboloid by arcosh, from the space parts of the points."""
    a, b, c = _exact(x)[1:], _exact(y)[1:], mpmath.mpf(c)
    x0, y0 = (mpmath.sqrt(1 / c + mpmath.fsum(t * t for t in p)) for p in (a, b))
    product = x0 * y0 - mpmath.fsum(s * t for s, t in zip(a, b, strict=True))
    return mpmath.acosh(c * product) / mpmath.sqrt(c)


def relative_error(values: Tensor, exact: list[mpmath.mpf]) -> float:
    """Largest relative error; points that rounding made coincide must be at distance 0 exactly."""
    return max(float(abs(mpmath.mpf(v) - e) / (e or 1)) for v, e in zip(values.tolist(), exact, strict=True))


def pairs(rho: float, delta: float, dtype: torch.dtype, n: int = 60, d: int = 8) -> tuple[Tensor, Tensor]:
    """Points of the unit ball at distance `rho` from the origin, and others at distance `delta` from those, rounded."""
    ball, generator = PoincareBall(), torch.Generator().manual_seed(0)
    u = torch.randn(n, d, dtype=torch.float64, generator=generator)
    x = math.tanh(rho / 2) * u / u.norm(dim=-1, keepdim=True)
    v = torch.randn(n, d, dtype=torch.float64, generator=generator)
    y = ball.expmap(x, delta * v / ball.norm(x, v, keepdim=True))
    return x.to(dtype), y.to(dtype)

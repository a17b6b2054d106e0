"""Spaces of constant curvature of either sign in stereographic projection, smooth through curvature 0."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds import gyrovector
from holonomy.manifolds.base import Manifold
from holonomy.manifolds.functions import arsinhc, asinc, cosm1c, sinc, sinhc
from holonomy.manifolds.gyrovector import gap

__all__ = ["Stereographic"]

#: Length of a tangent vector, in units of the radius of curvature, past which every hyperbolic step ends at the edge.
_LONGEST = 80.0


class Stereographic(Manifold):
    """{x in R^d : 1 + k|x|^2 > 0} with the metric lambda(x)^2 <u, v>, lambda(x) = 2/(1 + k|x|^2): curvature k.

    For k < 0 this is `PoincareBall` of c = -k, for k > 0 the sphere of radius 1/sqrt(k) projected from a pole, which is
    at infinity, and for k = 0 flat space with distances doubled. All operations are analytic in k, so that a learnable
    curvature may change its sign. exp, log, parallel transport and distance are exact, and the retraction is exp.
    Distance and logarithm are built on the chord |x - y|, and for k > 0 on the cochord of far points. At antipodal
    points, where every great circle is minimising, log follows one of them; at the pole itself coordinates end, and
    digits are lost towards it.

    `PoincareBall` is faster where the sign is known, and has the gyrovector operations and kernels. Random points are
    expmap0(n / sqrt(max(|k|, 1) d)), n standard normal.

    Parameters
    ----------
    k : float or Tensor
        The curvature, of any sign; a tensor broadcasts against the batch. Stored exactly.
    learnable : bool
        Whether it is a parameter: what was given plus the parameter ``change``, which starts at 0.
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `k` is not finite.
    TypeError
        Where `k` is no number and no real floating tensor.

    References
    ----------
    G. Bachmann, G. Bécigneul, O. Ganea, *Constant curvature graph convolutional networks*, ICML 2020.
    """

    name = "Stereographic"
    reversible = True

    def __init__(self, k: float | Tensor = 0.0, *, learnable: bool = False, validate: bool = False) -> None:
        super().__init__(validate=validate)
        self.fixed: float | Tensor | None
        value = _checked(k)
        if learnable:
            self.fixed = None
            given = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            self.given: Tensor
            self.register_buffer("given", given)
            # One dimension at least: sharded training refuses scalar parameters.
            zero = torch.zeros_like(value) if isinstance(value, Tensor) else torch.zeros(1)
            self.change = torch.nn.Parameter(zero.reshape(1) if zero.ndim == 0 else zero)
        elif isinstance(value, Tensor):
            self.register_buffer("fixed", value)
        else:
            self.fixed = value

    @property
    def k(self) -> Any:
        """The curvature: the float that was given, or a tensor of the shape that was given."""
        if self.fixed is not None:
            return self.fixed
        dtype = torch.promote_types(self.change.dtype, torch.float32)
        return self.given.to(dtype) + self.change.to(dtype).reshape(self.given.shape)

    def _config(self) -> dict[str, Any]:
        return {"k": self.k}

    def _k(self, x: Tensor) -> Tensor:
        """The curvature, as it broadcasts against tensors that keep the axis of coordinates."""
        k = self.k
        return k.to(x.dtype).unsqueeze(-1) if isinstance(k, Tensor) else torch.full_like(x[..., :1], k)

    # -- points and tangent vectors --------------------------------------------------------------------------------

    def _dimension(self, *shape: int) -> int:
        return shape[-1]

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Radius within which ``expmap`` is a diffeomorphism: pi/sqrt(k) for the largest k > 0, else infinite."""
        largest = float(self.k.detach().amax()) if isinstance(self.k, Tensor) else self.k
        return math.pi / math.sqrt(largest) if largest > 0.0 else math.inf

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        bent = (-self._k(x).double()).clamp_min(0.0).sqrt()
        reach = float((torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True) * bent).detach().amax())
        return None if reach < 1.0 else f"is outside of the open ball: sqrt(-k)|x| reaches {reach:.9g}, wanted below 1"

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        return None if bool(torch.isfinite(u).all()) else "has NaN or infinite entries"

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return gyrovector.shrink_to(result, -self._k(result), dtype)

    def _projx(self, x: Tensor) -> Tensor:
        return gyrovector.project.reference(x, -self._k(x))

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return 0.25 * gap(x, -self._k(x)).square() * u

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # The Christoffel terms of a conformal metric, with grad log lambda = -k lambda x.
        k = self._k(x)
        half = 0.5 * gap(x, -k)
        turn = _dot(x, egrad) * u - _dot(x, u) * egrad - _dot(u, egrad) * x
        return half.square() * ehess - k * half * turn

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return ((2.0 / gap(x, -self._k(x))).square() * _dot(u, v)).squeeze(-1)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (self._k(x) + torch.zeros_like(_dot(u, v))).squeeze(-1)

    # -- distance and movement -------------------------------------------------------------------------------------

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        q, ratio, _ = _arc(x, y, self._k(x))
        return (4.0 * q * ratio.square()).squeeze(-1)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        q, ratio, _ = _arc(x, y, self._k(x))
        return (2.0 * gyrovector.safe_sqrt(q) * ratio).squeeze(-1)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        k, h = self._k(x), y - x
        _, ratio, cosine = _arc(x, y, k)
        gx, gy = gap(x, -k), gap(y, -k)
        u = ratio / (cosine * gy) * (gx * h + k * _dot(h, h) * x)
        # At the antipode of x all directions are as good: the first axis is taken, at half of a great circle.
        lost = cosine <= torch.finfo(x.dtype).eps
        first = torch.zeros_like(u)
        first[..., 0] = 1.0
        half_circle = 0.5 * math.pi * gx * torch.where(lost, k, torch.ones_like(k)).abs().rsqrt()
        return torch.where(lost, half_circle * first, u)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        k = self._k(x)
        g = gap(x, -k)
        half = _shortened(u / g, k)
        s = k * _dot(half, half)
        step = _signed(sinc, sinhc)(s) * half
        cosine = 1.0 - 0.5 * s * _signed(cosm1c, lambda t: sinhc(0.25 * t).square())(s)
        square = _dot(step, step)
        # cos^2 times |1 + conj(x) t|^2: as a sum of positive terms for either sign.
        inner = _dot(x, step)
        round_sum = (cosine - k * inner).square() + k.square() * (_dot(x, x) * square - inner.square()).clamp_min(0.0)
        total = cosine * x + step
        scale = torch.where(k < 0.0, g - k * _dot(total, total), round_sum)
        tiny = torch.finfo(x.dtype).eps ** 2
        y = x + g * (cosine * step - k * square * x) / scale.clamp_min(tiny)
        return self._projx(y)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        k, h = self._k(x), y - x
        gx, gy = gap(x, -k), gap(y, -k)
        # The rotation gyr[y, -x], as in the ball.
        along, across, h2 = _dot(x, v), _dot(h, v), -k * _dot(h, h)
        turned = (gx * across - h2 * along) * x - ((gy + h2) * along + (1.0 - gx) * across) * h
        scale = (gx * gy + h2).clamp_min(torch.finfo(x.dtype).eps ** 2)
        return (v - 2.0 * k / scale * turned) * (gy / gx)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        u = torch.randn(size, dtype=dtype, device=device, generator=generator)
        u = 0.5 * u / (self._k(u).abs().clamp_min(1.0) * size[-1]).sqrt()
        return self._expmap(torch.zeros_like(u), u)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return 0.5 * gap(x, -self._k(x)) * u

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)


def _checked(k: float | Tensor) -> float | Tensor:
    name = Stereographic.name
    if isinstance(k, Tensor):
        if not k.is_floating_point():
            raise TypeError(f"{name}: 'k' must have a real floating dtype, got {k.dtype}")
        if not k.is_meta and not bool(torch.isfinite(k).all()):
            raise ValueError(f"{name}: 'k' must be finite everywhere, got {k}")
        return k.detach().clone()
    if isinstance(k, bool) or not isinstance(k, Real):
        raise TypeError(f"{name}: 'k' must be a number or a tensor, got {type(k).__name__} {k!r}")
    if not math.isfinite(k):
        raise ValueError(f"{name}: 'k' must be finite, got {k!r}")
    return float(k)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _signed(positive: Callable[[Tensor], Tensor], negative: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One analytic function of z from its values at z >= 0 and, as a function of -z, at z < 0."""

    def function(z: Tensor) -> Tensor:
        below = z < 0.0
        zero = torch.zeros_like(z)
        return torch.where(below, negative(torch.where(below, -z, zero)), positive(torch.where(below, zero, z)))

    return function


def _shortened(half: Tensor, k: Tensor) -> Tensor:
    """Vectors of hyperbolic space cut to a length whose end is at the edge and whose hyperbolic sine is finite."""
    bent = torch.where(k < 0.0, -k, torch.zeros_like(k))
    largest = bent.detach().sqrt() * half.detach().abs().amax(-1, keepdim=True)
    half = half * (torch.finfo(half.dtype).max ** 0.25 / largest).clamp_max(1.0)
    s = bent * _dot(half, half)
    long = s > 0.25 * _LONGEST**2
    return half * torch.where(long, 0.5 * _LONGEST * torch.where(long, s, torch.ones_like(s)).rsqrt(), 1.0)


def _arc(x: Tensor, y: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin_k^2 of half the distance, half the distance over that sine, and its cosine."""
    h = y - x
    gx, gy = gap(x, -k), gap(y, -k)
    q = _dot(h, h) / (gx * gy)
    z = k * q
    # Far around the sphere the sine says little: the complement is |x + k|x|^2 y|^2/(|x|^2 g g').
    far = z > 0.5
    square = _dot(x, x)
    at_origin = square == 0.0
    away = x + k * square * y
    complement = _dot(away, away) / (torch.where(at_origin, torch.ones_like(square), square) * gx * gy)
    complement = torch.where(at_origin, 1.0 / gy, complement)
    near_cosine = (1.0 - torch.where(far, torch.zeros_like(z), z)).sqrt()
    w = torch.where(far, complement, torch.full_like(z, 0.25)).clamp(torch.finfo(x.dtype).eps ** 2, 1.0)
    sine = torch.where(far, z, torch.ones_like(z)).sqrt()
    around = (0.5 * math.pi - w.sqrt() * asinc(w)) / sine
    near = _signed(asinc, arsinhc)(torch.where(far, torch.zeros_like(z), z))
    return q, torch.where(far, around, near), torch.where(far, w.sqrt(), near_cosine)

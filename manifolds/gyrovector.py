"""The gyrovector space of the Poincaré ball: its formulas, as functions of tensors and the curvature's magnitude c.

Points lie along the last axis; c is a float, or a tensor that broadcasts against tensors which keep that axis with
size 1. With g(x) = 1 - c|x|^2 every formula is written so that nothing cancels:

    g(x) g(y) + c|x + y|^2              is the denominator of Möbius addition, a sum of positive terms,
    (g(x)(x + y) + c|x + y|^2 x) / it   is x + y itself, exactly 0 for opposite points, exact to rounding near them,

and distance, logarithm, transport and gyration follow from the chord x - y in the same way. g itself loses digits near
the boundary; for float32 points it is evaluated in float64, so that they keep their precision up to the boundary.

References: Ungar, Analytic Hyperbolic Geometry (2005); Ganea, Bécigneul and Hofmann, Hyperbolic neural networks
(NeurIPS 2018).
"""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.curvature import root
from holonomy.manifolds.functions import arsinhc, tanhc
from holonomy.manifolds.kernels.midpoint import LiftedSum
from holonomy.manifolds.kernels.operators import fused
from holonomy.manifolds.kernels.planes import plane_pairs

__all__ = [
    "chord",
    "dist",
    "dist2",
    "dist2plane",
    "dist2planes",
    "expmap",
    "expmap0",
    "expmap0_inside",
    "expmap_inside",
    "expmap_transport",
    "gap",
    "gyration",
    "lifted_sum",
    "logmap",
    "logmap0",
    "midpoint",
    "mobius_add",
    "mobius_add_inside",
    "mobius_coadd",
    "mobius_cosub",
    "mobius_sub",
    "project",
    "safe_sqrt",
    "shrink_to",
    "transport",
    "wider",
]


def _same(c: Any, x: Tensor) -> Any:
    return c.to(x.dtype) if isinstance(c, Tensor) else c


def safe_sqrt(s: Tensor) -> Tensor:
    """Square root with value and gradient 0 at 0."""
    zero = s <= 0
    return torch.where(zero, torch.zeros_like(s), torch.where(zero, torch.ones_like(s), s).sqrt())


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _exact_square(x: Tensor) -> Tensor:
    """|x|^2, for float32 in float64 (where the device has it): squares of float32 numbers are exact there."""
    square = _square(x)
    if not _has_wide(x):
        return square
    # Only the value is corrected: a derivative through float64 copies of x would cost three times the memory.
    exact = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True, dtype=torch.float64).square()
    return square + (exact - square.double()).detach()


def _has_wide(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type != "mps"


def gap(x: Tensor, c: Any) -> Tensor:
    """1 - c|x|^2, the inverse of half the conformal factor, kept at half a rounding unit or more."""
    square = _exact_square(x)
    return (1.0 - _same(c, square) * square).clamp_min(0.5 * torch.finfo(x.dtype).eps).to(x.dtype)


def chord(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """sinh^2(sqrt(c) d(x, y)/2) = c|x - y|^2 / (g(x) g(y))."""
    return c * _square(x - y) / (gap(x, c) * gap(y, c))


@fused("ball", 1)
def project(x: Tensor, c: Any) -> Tensor:
    """Pull points that are on the boundary or beyond it to the last radius that every rounding keeps inside."""
    square = _exact_square(x)
    square = _same(c, square) * square
    # Half a unit where the norm is exact, more where it is a rounded sum itself.
    step = torch.finfo(x.dtype).eps * (0.5 if _has_wide(x) else 8.0)
    outside = square > (1.0 - step) ** 2
    scale = (1.0 - 3.0 * step) * torch.where(outside, square, torch.ones_like(square)).rsqrt()
    return x * torch.where(outside, scale, torch.ones_like(scale)).to(x.dtype)


def shrink_to(x: Tensor, c: Any, dtype: torch.dtype) -> Tensor:
    """Round points inside the ball to a narrower dtype, towards the origin where rounding would leave the ball."""
    rounded = x.to(dtype)
    square = _exact_square(rounded.to(x.dtype))
    outside = _same(c, square) * square >= 1.0
    return torch.where(outside, (x * (1.0 - torch.finfo(dtype).eps)).to(dtype), rounded)


@fused("ball", 2)
def mobius_add(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Möbius addition x + y: the point that expmap at x reaches with the transported logarithm of y at the origin."""
    s = x + y
    s2 = c * _square(s)
    g = gap(x, c)
    return torch.addcmul(g * s, s2, x) / (g * gap(y, c) + s2)


def mobius_sub(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Möbius subtraction x + (-y)."""
    return mobius_add(x, -y, c)


def mobius_coadd(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Möbius coaddition x + gyr[x, -y]y, written symmetrically: (g(y)x + g(x)y) / (1 - c^2 |x|^2 |y|^2)."""
    gx, gy = gap(x, c), gap(y, c)
    return (gy * x + gx * y) / (gx + gy - gx * gy)


def mobius_cosub(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Möbius cosubtraction, the coaddition of -y."""
    return mobius_coadd(x, -y, c)


def gyration(x: Tensor, y: Tensor, w: Tensor, c: Any) -> Tensor:
    """Gyration gyr[x, y]w: the rotation by which Möbius addition fails to associate, in closed form linear in w."""
    return _turn(-y, x + y, gap(y, c), gap(x, c), w, c)


def _turn(x: Tensor, h: Tensor, gx: Tensor, gy: Tensor, w: Tensor, c: Any) -> Tensor:
    """gyr[x + h, -x]w. Every term is of the order of h, so that neighbours near the boundary lose nothing."""
    along, across = (x * w).sum(-1, keepdim=True), (h * w).sum(-1, keepdim=True)
    h2 = c * _square(h)
    forward = gx * across - h2 * along
    sideways = (gy + h2) * along + (1.0 - gx) * across
    return torch.addcmul(w, 2.0 * c / (gx * gy + h2), torch.addcmul(forward * x, sideways, h, value=-1.0))


@fused("ball", 3)
def transport(x: Tensor, y: Tensor, v: Tensor, c: Any) -> Tensor:
    """Parallel transport of v from x to y: gyr[y, -x]v, scaled to keep its length in the metric."""
    gx, gy = gap(x, c), gap(y, c)
    return _turn(x, y - x, gx, gy, v, c) * (gy / gx)


def _sech2(s: Tensor) -> Tensor:
    """sech^2(r) of s = r^2, with all its digits for large r, where 1 - tanh^2(r) has none."""
    small = s < 0.05
    near = torch.where(small, s, torch.zeros_like(s))
    e = torch.exp(-2.0 * torch.where(small, torch.ones_like(s), s).sqrt())
    return torch.where(small, 1.0 - near * tanhc(near).square(), 4.0 * e / (1.0 + e).square())


@fused("ball", 2)
def expmap(x: Tensor, u: Tensor, c: Any) -> Tensor:
    """Exponential map, as x plus the displacement of Möbius addition; exactly x for u = 0."""
    g = gap(x, c)
    half = u / g
    s = c * _square(half)
    y = tanhc(s) * half
    # g(y) without cancellation; the floor keeps the quotient finite where y is the antipode of x, both on the edge.
    gy = _sech2(s).clamp_min(torch.finfo(x.dtype).eps ** 2)
    return x + (g / (g * gy + c * _square(x + y))) * torch.addcmul(y, 1.0 - gy, x)


@fused("ball", 2)
def logmap(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Logarithm, built on the chord y - x."""
    h = y - x
    gx, gy = gap(x, c), gap(y, c)
    h2 = c * _square(h)
    q = h2 / (gx * gy)
    return (arsinhc(q) * (1.0 + q).rsqrt() / gy) * torch.addcmul(gx * h, h2, x, value=-1.0)


@fused("ball", 1)
def expmap0(u: Tensor, c: Any) -> Tensor:
    """Exponential map at the origin."""
    return tanhc(c * _square(u)) * u


@fused("ball", 1)
def logmap0(y: Tensor, c: Any) -> Tensor:
    """Logarithm at the origin."""
    g = gap(y, c)
    return arsinhc(c * _square(y) / g) * g.rsqrt() * y


@fused("ball", 2, kernel="expmap")
def expmap_inside(x: Tensor, u: Tensor, c: Any) -> Tensor:
    """Exponential map, pulled inside where it reaches the edge of the dtype."""
    return project.reference(expmap.reference(x, u, c), c)


@fused("ball", 3, result="vv")
def expmap_transport(x: Tensor, u: Tensor, v: Tensor, c: Any) -> tuple[Tensor, Tensor]:
    """Exponential map, pulled inside as `expmap_inside`, and parallel transport of v from x to its result."""
    y = expmap_inside.reference(x, u, c)
    return y, transport.reference(x, y, v, c)


@fused("ball", 1, kernel="expmap0")
def expmap0_inside(u: Tensor, c: Any) -> Tensor:
    """Exponential map at the origin, pulled inside where it reaches the edge of the dtype."""
    return project.reference(expmap0.reference(u, c), c)


@fused("ball", 2, kernel="mobius_add")
def mobius_add_inside(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Möbius addition, pulled inside where it reaches the edge of the dtype."""
    return project.reference(mobius_add.reference(x, y, c), c)


@fused("ball", 2, result="s")
def dist(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Distance; keeps the axis. Its gradient at coincident points is 0."""
    return 2.0 / root(c) * torch.asinh(safe_sqrt(chord(x, y, c)))


@fused("ball", 2, result="s")
def dist2(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Squared distance; keeps the axis."""
    q = chord(x, y, c)
    return 4.0 / c * q * arsinhc(q).square()


@fused("ball", 3, result="s")
def dist2plane(x: Tensor, p: Tensor, a: Tensor, c: Any) -> Tensor:
    """Signed distance from x to the hyperplane through p with normal a; keeps the axis. 0 for a normal of length 0."""
    h = x - p
    g = gap(p, c)
    length = safe_sqrt(_square(a))
    safe = torch.where(length == 0, torch.ones_like(length), length)
    across = ((g * h - c * _square(h) * p) * a).sum(-1, keepdim=True)
    sine = 2.0 * root(c) * across / (g * gap(x, c) * safe)
    return torch.asinh(sine) / root(c)


def dist2planes(x: Tensor, p: Tensor, a: Tensor, c: Any) -> Tensor:
    """`dist2plane` of all pairs of points (b, d) and planes (c, d): shape (b, c). The curvature is one number."""
    length = safe_sqrt(_square(a))
    g, unit = gap(p, c), torch.where(length == 0, torch.ones_like(length), length)
    along = c * (p * a).sum(-1, keepdim=True)
    columns = (2.0 * root(c) / (g * unit), g, along)
    angle = plane_pairs(x, p, a, (1.0 / gap(x, c)).squeeze(-1), *(t.squeeze(-1) for t in columns))
    return angle / root(c)


def _lifted_sum(x: Tensor, w: Tensor | None, axes: list[int], c: Any) -> tuple[Tensor, Tensor]:
    """Sums over `axes`, which are kept, of w (l - 1) and w l x, l = 2/g: time and space on the unit hyperboloid."""
    wide, c = wider(x, c)
    weight = 1.0 if w is None else w.unsqueeze(-1).to(wide.dtype)
    factor = 2.0 / gap(wide, c)
    return (weight * (factor - 1.0)).sum(axes, keepdim=True), (weight * factor * wide).sum(axes, keepdim=True)


def wider(x: Tensor, c: Any) -> tuple[Tensor, Any]:
    """Points and curvature in the dtype of sums of distant points, which cancel."""
    x = x.double() if _has_wide(x) else x
    return x, c.to(x.dtype) if isinstance(c, Tensor) else c


lifted_sum = LiftedSum("ball", True, _lifted_sum)


def midpoint(x: Tensor, w: Tensor | None, axes: list[int], c: Any) -> Tensor:
    """Weighted midpoint over `axes`, which are kept: half the gyrovector sum(w l x) / sum(w (l - 1)), l = 2/g.

    In float64 for float32 points, where the device has it.
    """
    time, space = lifted_sum(x, w, axes, c)
    # The mass of (time, space) on the hyperboloid; a floor at rounding, because a sum of distant points cancels.
    floor = (torch.finfo(time.dtype).eps * time).square()
    mass = torch.maximum(time.square() - _same(c, time) * _square(space), floor)
    total = time + torch.copysign(safe_sqrt(mass), time)
    empty = total == 0
    return torch.where(empty, torch.zeros_like(space), space / torch.where(empty, torch.ones_like(total), total))

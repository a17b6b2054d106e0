"""The hyperboloid: the formulas of the Lorentz model, as functions of tensors and the curvature's magnitude c.

Points and tangent vectors lie along the last axis, time first; c is a float, or a tensor that broadcasts against
tensors which keep that axis with size 1. Only the space part of an argument is read: its time is computed from it. The
functions whose arguments are named xs, us, ... take space parts. With a = x_0 - y_0 and T = x_0 + y_0,

    |x - y|_L^2 = (T^2 |k|^2/4 + a^2/c) / (x_0 y_0),   k = (x_s - y_s) - (a/T) (x_s + y_s)

has no cancellation for close points at any distance from the origin, and so have length (its limit) and transport.

References: Ratcliffe, Foundations of Hyperbolic Manifolds (2019), chapter 3; Law et al., Lorentzian distance learning
for hyperbolic representations (ICML 2019).
"""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.curvature import root
from holonomy.manifolds.functions import arsinhc, sinhc
from holonomy.manifolds.gyrovector import safe_sqrt, wider
from holonomy.manifolds.kernels.midpoint import LiftedSum
from holonomy.manifolds.kernels.operators import fused

__all__ = [
    "capped",
    "chord",
    "dist",
    "dist2",
    "expmap",
    "expmap0",
    "lift",
    "lifted_sum",
    "logmap",
    "logmap0",
    "midpoint",
    "point",
    "project",
    "space",
    "split",
    "square",
    "time",
    "transport",
    "uncapped_expmap",
]


def space(x: Tensor) -> Tensor:
    """Space part of points or tangent vectors."""
    return x[..., 1:]


def square(xs: Tensor) -> Tensor:
    """Sum of squares."""
    return xs.square().sum(-1, keepdim=True)


def time(xs: Tensor, c: Any) -> Tensor:
    """Time of the point with this space part."""
    return (1.0 / c + square(xs)).sqrt()


def point(xs: Tensor, c: Any) -> Tensor:
    """The point with this space part."""
    return torch.cat((time(xs, c), xs), dim=-1)


def lift(xs: Tensor, us: Tensor, c: Any) -> Tensor:
    """The tangent vector at x with this space part."""
    u0 = (xs * us).sum(-1, keepdim=True) / time(xs, c)
    return torch.cat((u0.expand(*us.shape[:-1], 1), us.expand(*u0.shape[:-1], us.shape[-1])), dim=-1)


def split(xs: Tensor, us: Tensor, c: Any) -> tuple[Tensor, Tensor]:
    """Write a tangent vector as (k, b) with |u|_L^2 = |k|^2 + b^2: the limit of the chord formula."""
    x0 = time(xs, c)
    slope = (xs * us).sum(-1, keepdim=True) / x0 / x0
    return us - slope * xs, slope / root(c)


def chord(xs: Tensor, ys: Tensor, c: Any) -> tuple[Tensor, Tensor, Tensor]:
    """q = sinh^2(sqrt(c) d(x, y)/2) = c|x - y|_L^2/4, with k and T of the formula above."""
    x0, y0 = time(xs, c), time(ys, c)
    total = x0 + y0
    a = ((xs - ys) * (xs + ys)).sum(-1, keepdim=True) / total
    slope = a / total
    # Where one point is much farther out, x - y - slope (x + y) subtracts two vectors as long as that; it is the same
    # as 2 (y_0 x - x_0 y)/T, whose terms are as long as the nearer point.
    uneven = slope.abs() > 0.5
    left = torch.where(uneven, 2.0 * y0 / total, torch.ones_like(slope))
    right = torch.where(uneven, 2.0 * x0 / total, torch.ones_like(slope))
    k = (left * xs - right * ys) - torch.where(uneven, torch.zeros_like(slope), slope) * (xs + ys)
    # T^2/(x_0 y_0) and a/x_0 first: products of three large coordinates overflow.
    q = 0.25 * (c * square(k) * (0.25 * (total / x0) * (total / y0)) + (a / x0) * (a / y0))
    return q, k, total


def _lifted_sum(x: Tensor, w: Tensor | None, axes: list[int], c: Any) -> tuple[Tensor, Tensor]:
    """Sums over `axes`, which are kept, of the times and the space parts, times weights."""
    wide, c = wider(x, c)
    xs, weight = space(wide), 1.0 if w is None else w.unsqueeze(-1).to(wide.dtype)
    return (weight * time(xs, c)).sum(axes, keepdim=True), (weight * xs).sum(axes, keepdim=True)


lifted_sum = LiftedSum("lorentz", False, _lifted_sum)


def midpoint(x: Tensor, w: Tensor | None, axes: list[int], c: Any) -> Tensor:
    """Weighted midpoint over `axes`, which are kept: the mean, scaled back to the hyperboloid.

    In float64 for float32 points, where the device has it.
    """
    total0, total = lifted_sum(x, w, axes, c)
    floor = (torch.finfo(total.dtype).eps * total0).square()
    mass = torch.copysign(safe_sqrt(torch.maximum(total0.square() - square(total), floor)), total0)
    empty = mass == 0
    middle = torch.where(empty, torch.zeros_like(total), total / torch.where(empty, torch.ones_like(mass), mass))
    c = c.to(total.dtype) if isinstance(c, Tensor) else c
    return point(middle / root(c), c)


def moved(xs: Tensor, us: Tensor, c: Any) -> Tensor:
    """Space part of the exponential map; a vector that leads past the cap from every point is shortened first."""
    k, b = split(xs, us, c)
    s = c * (square(k) + b.square())
    longest = (2.0 * math.log(2.0 / torch.finfo(xs.dtype).eps) + 2.0) ** 2
    long = s > longest
    ratio = torch.where(long, (longest / torch.where(long, s, torch.ones_like(s))).sqrt(), torch.ones_like(s))
    s = torch.where(long, torch.full_like(s, longest), s)
    return xs + 0.5 * s * sinhc(0.25 * s).square() * xs + ratio * sinhc(s) * us


def capped(xs: Tensor, c: Any) -> Tensor:
    """Scale space parts back to sqrt(c)|x_s| = 1/eps where they exceed it."""
    unit = root(c) * torch.finfo(xs.dtype).eps
    excess = square(unit * xs)
    far = excess > 1.0
    # A constant first, so that no derivative holds the square of an excess: the result does not depend on it.
    xs = xs / torch.where(far, excess, torch.ones_like(excess)).sqrt().detach()
    excess = torch.where(far, square(unit * xs), torch.ones_like(excess))
    return xs * excess.rsqrt()


@fused("lorentz", 1)
def project(x: Tensor, c: Any) -> Tensor:
    """The point with the space part of x, scaled back to the cap where it exceeds it."""
    return point(capped(space(x), c), c)


@fused("lorentz", 2)
def expmap(x: Tensor, u: Tensor, c: Any) -> Tensor:
    """Exponential map, scaled back to the cap where it exceeds it."""
    return point(capped(moved(space(x), space(u), c), c), c)


@fused("lorentz", 2, kernel="expmap")
def uncapped_expmap(x: Tensor, u: Tensor, c: Any) -> Tensor:
    """Exponential map."""
    return point(moved(space(x), space(u), c), c)


@fused("lorentz", 2)
def logmap(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Logarithm."""
    xs, ys = space(x), space(y)
    q = chord(xs, ys, c)[0]
    us = arsinhc(q) * (1.0 + q).rsqrt() * ((ys - xs) - 2.0 * q * xs)
    return lift(xs, us, c)


@fused("lorentz", 3)
def transport(x: Tensor, y: Tensor, v: Tensor, c: Any) -> Tensor:
    """Parallel transport of v from x to y."""
    xs, ys, vs = space(x), space(y), space(v)
    x0 = time(xs, c)
    q, k, total = chord(xs, ys, c)
    # <y, v>_L = -(T / (2 x_0)) <k, v_s>, with v_s split as in its length, and <k, x_s> = 2 (a + 2 q x_0) / (c T).
    across, along = split(xs, vs, c)
    rise = (xs - ys).mul(xs + ys).sum(-1, keepdim=True) / total + 2.0 * q * x0
    product = -(0.5 * total * (k * across).sum(-1, keepdim=True) + along * rise / root(c)) / x0
    return lift(ys, vs + 0.5 * c * product / (1.0 + q) * (xs + ys), c)


@fused("lorentz", 1)
def expmap0(u: Tensor, c: Any) -> Tensor:
    """Exponential map at the origin, scaled back to the cap where it exceeds it."""
    us = space(u)
    return point(capped(moved(torch.zeros_like(us), us, c), c), c)


@fused("lorentz", 1)
def logmap0(y: Tensor, c: Any) -> Tensor:
    """Logarithm at the origin."""
    ys = space(y)
    us = arsinhc(c * square(ys)) * ys
    return torch.cat((torch.zeros_like(us[..., :1]), us), dim=-1)


@fused("lorentz", 2, result="s")
def dist(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Distance; keeps the axis. Its gradient at coincident points is 0."""
    return 2.0 / root(c) * torch.asinh(safe_sqrt(chord(space(x), space(y), c)[0]))


@fused("lorentz", 2, result="s")
def dist2(x: Tensor, y: Tensor, c: Any) -> Tensor:
    """Squared distance; keeps the axis."""
    q = chord(space(x), space(y), c)[0]
    return 4.0 / c * q * arsinhc(q).square()

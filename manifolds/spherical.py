"""The unit sphere: its formulas, as functions of tensors whose last axis holds points and tangent vectors.

Distance and logarithm are built on the chord |x - y| and the cochord |x + y|, which keep full relative precision for
close and for nearly antipodal points; even functions of a length are functions of its square, smooth at 0.
"""

import math

import torch
from torch import Tensor

from holonomy.manifolds.functions import asinc, cosm1c, sinc
from holonomy.manifolds.kernels.operators import fused

__all__ = ["dist", "dist2", "expmap", "expmap_transport", "logmap", "project", "project_tangent", "transport"]


def project_tangent(x: Tensor, u: Tensor) -> Tensor:
    """Part of u orthogonal to x."""
    return u - (x * u).sum(-1, keepdim=True) * x


def chords(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared chord |x - y|^2 and squared cochord |x + y|^2."""
    return (x - y).square().sum(-1, keepdim=True), (x + y).square().sum(-1, keepdim=True)


def any_direction(x: Tensor) -> Tensor:
    """One unit tangent vector at x: the basis vector least aligned with x, projected."""
    e = torch.zeros_like(x).scatter(-1, x.abs().argmin(-1, keepdim=True), 1.0)
    u = project_tangent(x, e)
    return u / torch.linalg.vector_norm(u, dim=-1, keepdim=True)


@fused("sphere", 1, curved=False)
def project(x: Tensor) -> Tensor:
    """Point of the sphere in the direction of x; the last pole for the zero vector, which has no direction."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    zero = length == 0
    pole = torch.zeros_like(x)
    pole[..., -1] = 1.0
    return torch.where(zero, pole, x / torch.where(zero, torch.ones_like(length), length))


@fused("sphere", 2, curved=False)
def expmap(x: Tensor, u: Tensor) -> Tensor:
    """Exponential map."""
    s = (u * u).sum(-1, keepdim=True)
    y = x * (1.0 - 0.5 * s * cosm1c(s)) + u * sinc(s)
    # A point that drifted by one rounding stays there: without this, 10,000 steps would add up.
    return y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)


@fused("sphere", 3, result="vv", curved=False)
def expmap_transport(x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Exponential map of u, and parallel transport of v along the geodesic, also past the antipode."""
    s = (u * u).sum(-1, keepdim=True)
    along = (u * v).sum(-1, keepdim=True)
    # Only the component along u turns.
    w = v - along * (sinc(s) * x + 0.5 * cosm1c(s) * u)
    return expmap.reference(x, u), w


@fused("sphere", 2, curved=False)
def logmap(x: Tensor, y: Tensor) -> Tensor:
    """Logarithm; at the antipode of x, along one fixed great circle."""
    chord2, cochord2 = chords(x, y)
    # y - <x, y> x, with <x, y> = 1 - chord^2/2: no cancellation for close points.
    along = (y - x) + 0.5 * chord2 * x
    opposite = cochord2 == 0
    safe = torch.where(opposite, torch.ones_like(cochord2), cochord2)
    # angle / sin(angle), from the chord up to a right angle and by atan2 past it, where asin loses digits.
    near = chord2 < 2.0
    q = torch.where(near, 0.25 * chord2, torch.full_like(chord2, 0.25))
    far = torch.where(near, torch.full_like(chord2, 2.0), chord2).sqrt()
    cofar = torch.where(near, torch.full_like(chord2, 2.0), safe).sqrt()
    factor = torch.where(near, asinc(q) / (1.0 - q).sqrt(), 4.0 * torch.atan2(far, cofar) / (far * cofar))
    return torch.where(opposite, math.pi * any_direction(x), factor * along)


@fused("sphere", 3, curved=False)
def transport(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Parallel transport of v from x to y; to the antipode of x, along one fixed great circle."""
    cochord2 = chords(x, y)[1]
    opposite = cochord2 == 0
    safe = torch.where(opposite, torch.ones_like(cochord2), cochord2)
    w = v - 2.0 * (y * v).sum(-1, keepdim=True) / safe * (x + y)
    e = any_direction(x)
    return torch.where(opposite, v - 2.0 * (e * v).sum(-1, keepdim=True) * e, w)


@fused("sphere", 2, result="s", curved=False, least=1 << 14)
def dist(x: Tensor, y: Tensor) -> Tensor:
    """Distance; keeps the axis. Its gradient at coincident and at antipodal points is 0."""
    chord, cochord = (torch.linalg.vector_norm(t, dim=-1, keepdim=True) for t in (x - y, x + y))
    return 2.0 * torch.atan2(chord, cochord)


@fused("sphere", 2, result="s", curved=False)
def dist2(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance; keeps the axis."""
    chord2 = (x - y).square().sum(-1, keepdim=True)
    near = chord2 < 2.0
    q = torch.where(near, chord2, torch.ones_like(chord2))
    close = q * asinc(0.25 * q).square()
    # Harmless chords where this branch is not used: at length 0 a norm has no second derivative.
    chord, cochord = (torch.where(near, torch.ones_like(x), t) for t in (x - y, x + y))
    lengths = (torch.linalg.vector_norm(t, dim=-1, keepdim=True) for t in (chord, cochord))
    return torch.where(near, close, 4.0 * torch.atan2(*lengths).square())

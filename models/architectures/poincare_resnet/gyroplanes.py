"""The Poincaré fully-connected layer (HNN++) from inner products on: one function, one hand-written backward.

With x a point and z_k a weight column, the signed distance to hyperplane k and the layer's output are

    v_k = (2 |z_k| / sqrt(c)) arsinh(t_k),
    t_k = sqrt(c) lambda_x <x, z_k> / |z_k| cosh(2 sqrt(c) r_k) - (lambda_x - 1) sinh(2 sqrt(c) r_k),
    w_k = sinh(sqrt(c) v_k) / sqrt(c),    y = w / (1 + sqrt(1 + c |w|^2)).

Only lambda_x and lambda_x x are needed of x. For x = exp0(p) these are cosh(2s) + 1 and (sinh(2s)/s) p with
s = sqrt(c) |p|, so that <x, z_k> is a rescaled <p, z_k>: a convolution needs neither the unfolded patches nor their
exponentials, but one ordinary convolution of the tangent map and the squared length of each patch. And since
artanh(sqrt(c) |y|) = arsinh(sqrt(c) |w|) / 2, the tangent vector log0(y) follows without the detour over the boundary.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from holonomy.models.architectures.poincare_resnet.functions import (
    TINY,
    Backward,
    InputsOnly,
    curved_length,
    evaluate,
    projection_limit,
)

__all__ = ["Space", "gyroplanes", "safe_norm", "saturation"]

Space = Literal["tangent", "ball"]
Target = Literal["tangent", "ball", "distance"]


def saturation(dtype: torch.dtype) -> float:
    """Argument at which sinh and cosh are stopped, so that their products and squares stay finite: 35 in float32."""
    return 0.4 * math.log(torch.finfo(dtype).max)


def safe_norm(z: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Euclidean norm with gradient 0 at the zero vector, kept off zero so that it can divide."""
    return z.square().sum(dim).clamp_min(TINY).sqrt()


def carrier_terms(
    n2: Tensor, c: Tensor, source: Space, gain: float, limit: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f and lift with lambda_x x = f p and lambda_x - 1 = lift, and n2 df/dn2, n2 dlift/dn2, where n2 = |p|^2.

    x is the point p itself (``source="ball"``) or exp0(gain p), kept within limit/sqrt(c) (``source="tangent"``).
    Both depend on c through c n2 alone, so c df/dc = n2 df/dn2.
    """
    if source == "ball":
        factor = 2.0 / (1.0 - c * n2).clamp_min(torch.finfo(n2.dtype).eps)
        slope = 0.5 * factor * factor * c * n2
        return factor, factor - 1.0, slope, slope
    s = curved_length(gain * gain * n2, c)
    end = math.atanh(limit)
    kept = 2.0 * s.clamp_max(end)
    sinh, cosh = torch.sinh(kept), torch.cosh(kept)
    inside = s < end
    f = gain * sinh / s
    return f, cosh, gain * (inside * cosh) - 0.5 * f, inside * s * sinh


class _Arsinh(InputsOnly):
    """torch.asinh, ten times as fast on a CPU."""

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        a = t.abs()
        return torch.copysign(torch.log1p(a + a * a / (1.0 + (1.0 + t * t).sqrt())), t)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        return u / (1.0 + t * t).sqrt()


def _output_profile(square: Tensor, target: Target, limit: float) -> tuple[Tensor, Tensor]:
    """Scale that takes sqrt(c) w to the projected output, a function of c |w|^2 = `square`; and twice its slope."""
    length = square.clamp_min(TINY).sqrt()
    root = (1.0 + square).sqrt()
    if target == "ball":
        free = 1.0 / (1.0 + root)
        outside = length * free > limit
        scale = torch.where(outside, limit / length, free)
        slope = torch.where(outside, -scale / square.clamp_min(TINY), -free * free / root)
    else:
        end = math.atanh(limit)
        reach = 0.5 * torch.log1p(length + square / (1.0 + root))
        outside = reach > end
        scale = reach.clamp_max(end) / length
        rise = torch.where(outside, 0.0, 0.5 / root)
        slope = (rise - scale) / square.clamp_min(TINY)
    return scale, slope


class _Gyroplanes(InputsOnly):
    @staticmethod
    def forward(
        m: Tensor,
        n2: Tensor,
        norm: Tensor,
        r: Tensor,
        c: Tensor,
        dim: int,
        source: Space,
        target: Target,
        gain: float,
        limit: float,
    ) -> Tensor:
        f, lift, _, _ = carrier_terms(n2, c, source, gain, limit)
        root, cap = c.sqrt(), saturation(m.dtype)
        bias = (2.0 * root * r).clamp(-cap, cap)
        t = (root * f) * (m * (torch.cosh(bias) / norm)) - lift * torch.sinh(bias)
        angle = (2.0 * norm) * _Arsinh.apply(t)
        if target == "distance":
            return angle / root
        w = torch.sinh(angle.clamp(-cap, cap))
        return (_output_profile((w * w).sum(dim, keepdim=True), target, limit)[0] / root) * w

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        m, n2, norm, r, c = ctx.saved_tensors
        dim, source, target, gain, limit = ctx.options
        f, lift, fn, ln = carrier_terms(n2, c, source, gain, limit)
        root, cap = c.sqrt(), saturation(m.dtype)
        bias = 2.0 * root * r
        free = bias.abs() < cap
        bias = bias.clamp(-cap, cap)
        cosh, sinh = torch.cosh(bias), torch.sinh(bias)
        weighted = m * (cosh / norm)
        t = (root * f) * weighted - lift * sinh
        h = _Arsinh.apply(t)
        angle = (2.0 * norm) * h
        if target == "distance":
            g_angle = u / root
            c_gc = -0.5 * (g_angle * angle).sum(dim, keepdim=True)
        else:
            w = torch.sinh(angle.clamp(-cap, cap))
            scale, slope = _output_profile((w * w).sum(dim, keepdim=True), target, limit)
            uw = (u * w).sum(dim, keepdim=True)
            c_gc = -0.5 * uw * scale / root
            g_w = (scale / root) * u + (uw * slope / root) * w
            g_angle = g_w * (1.0 + w * w).sqrt() * (angle.abs() < cap)
        g_t = g_angle * (2.0 * norm) / (1.0 + t * t).sqrt()
        along = g_t * weighted
        g_f = along.sum(dim, keepdim=True) * root
        g_l = -(g_t * sinh).sum(dim, keepdim=True)
        g_norm = 2.0 * g_angle * h - (root * f / norm) * along
        # d t / d (2 sqrt(c) r), whose derivative to c is r / sqrt(c)
        g_bias = g_t * ((root * f) * (m * (sinh / norm)) - lift * cosh) * free
        c_gc = c_gc + 0.5 * g_f * f + g_f * fn + g_l * ln + (g_bias * (root * r)).sum(dim, keepdim=True)
        return (
            g_t * ((root * f) * (cosh / norm)),
            (g_f * fn + g_l * ln) / n2.clamp_min(TINY),
            g_norm.sum_to_size(norm.shape),
            (2.0 * root * g_bias).sum_to_size(r.shape),
            (c_gc / c).sum_to_size(c.shape),
            None,
            None,
            None,
            None,
            None,
        )


def gyroplanes(
    m: Tensor,
    n2: Tensor,
    norm: Tensor,
    r: Tensor,
    c: Tensor,
    dim: int,
    *,
    source: Space = "tangent",
    target: Target = "tangent",
    gain: float = 1.0,
    backward: Backward = "manual",
) -> Tensor:
    """Poincaré fully-connected layer, given the inner products with its weight columns.

    Parameters
    ----------
    m : Tensor
        Inner products <p, z_k>, with k along `dim` (counted from the end, negative).
    n2 : Tensor
        |p|^2, of size 1 along `dim`.
    norm, r : Tensor
        Norms |z_k| and biases r_k, shaped to broadcast against `m`.
    c : Tensor
        Curvature's magnitude.
    source, target : str
        Whether p is a point (``"ball"``) or a tangent vector at the origin (``"tangent"``), and what is returned:
        a projected point, its tangent vector at the origin, or the signed distances v_k (``"distance"``).
    gain : float
        Factor on p before it is mapped to the ball (``source="tangent"`` only).

    Returns
    -------
    Tensor
        Shape of `m`.
    """
    limit = projection_limit(m.dtype)
    return evaluate(_Gyroplanes, backward, m, n2, norm, r, c, dim, source, target, gain, limit)

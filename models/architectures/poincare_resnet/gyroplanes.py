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
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from holonomy.manifolds.kernels import channels
from holonomy.models.architectures.poincare_resnet.functions import (
    TINY,
    Backward,
    InputsOnly,
    curved_length,
    dot,
    evaluate,
    projection_limit,
)

__all__ = ["Space", "gyroplanes", "patch_squares", "safe_norm", "saturation"]

Space = Literal["tangent", "ball"]
Target = Literal["tangent", "ball", "distance"]


def saturation(dtype: torch.dtype) -> float:
    """Argument at which sinh and cosh are stopped, so that their products and squares stay finite: 35 in float32."""
    return 0.4 * math.log(torch.finfo(dtype).max)


def safe_norm(z: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Euclidean norm with gradient 0 at the zero vector, kept off zero so that it can divide."""
    return z.square().sum(dim).clamp_min(TINY).sqrt()


def carrier(n2: Tensor, c: Tensor, source: Space, gain: float, limit: float) -> tuple[Tensor, Tensor]:
    """f and lift with lambda_x x = f p and lambda_x - 1 = lift, where n2 = |p|^2.

    x is the point p itself (``source="ball"``) or exp0(gain p), kept within limit/sqrt(c) (``source="tangent"``).
    """
    if source == "ball":
        factor = 2.0 / (1.0 - c * n2).clamp_min(torch.finfo(n2.dtype).eps)
        return factor, factor - 1.0
    s = curved_length(n2, c) * gain
    kept = 2.0 * s.clamp_max(math.atanh(limit))
    return gain * torch.sinh(kept) / s, torch.cosh(kept)


def carrier_slopes(
    n2: Tensor, c: Tensor, source: Space, gain: float, limit: float, f: Tensor, lift: Tensor
) -> tuple[Tensor, Tensor]:
    """n2 df/dn2 and n2 dlift/dn2; both depend on c through c n2 alone, so these are c df/dc and c dlift/dc too."""
    if source == "ball":
        slope = 0.5 * f * f * c * n2
        return slope, slope
    s = curved_length(n2, c) * gain
    inside = s < math.atanh(limit)
    return gain * (inside * lift) - 0.5 * f, (inside * (s * s)) * (f / gain)


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


def _output_scale(square: Tensor, target: Target, limit: float) -> Tensor:
    """Scale that takes sqrt(c) w to the projected output, as a function of c |w|^2 = `square`."""
    length = square.clamp_min(TINY).sqrt()
    free = 1.0 / (1.0 + (1.0 + square).sqrt())
    if target == "ball":
        return torch.minimum(free, limit / length)
    return torch.log1p(length + square * free).clamp_max(2.0 * math.atanh(limit)) / (2.0 * length)


def _output_slope(square: Tensor, target: Target, limit: float, scale: Tensor) -> Tensor:
    """Twice the derivative of `_output_scale`."""
    root = (1.0 + square).sqrt()
    free = 1.0 / (1.0 + root)
    inside = square.sqrt() * free < limit
    rate = free if target == "ball" else 0.5
    return (inside * (rate / root) - scale) / square.clamp_min(TINY)


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
        cap: float,
    ) -> Tensor:
        f, lift = carrier(n2, c, source, gain, limit)
        root = c.sqrt()
        bias = (2.0 * root * r).clamp(-cap, cap)
        t = (root * f) * (m * (torch.cosh(bias) / norm)) - lift * torch.sinh(bias)
        angle = (2.0 * norm) * _Arsinh.apply(t)
        if target == "distance":
            return angle / root
        w = torch.sinh(angle.clamp(-cap, cap))
        return (_output_scale((w * w).sum(dim, keepdim=True), target, limit) / root) * w

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        m, n2, norm, r, c = ctx.saved_tensors
        dim, source, target, gain, limit, cap = ctx.options
        f, lift = carrier(n2, c, source, gain, limit)
        fn, ln = carrier_slopes(n2, c, source, gain, limit, f, lift)
        root = c.sqrt()
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
            square = (w * w).sum(dim, keepdim=True)
            scale = _output_scale(square, target, limit)
            slope = _output_slope(square, target, limit, scale)
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
            *(None for _ in ctx.options),
        )


_GYROPLANES = channels.register(
    "gyroplanes",
    "Tensor m, Tensor n2, Tensor norm, Tensor r, Tensor c, int dim, str source, str target, float gain, float limit, "
    "float cap",
    "mnccs",
    _Gyroplanes,
    module="gyroplanes",
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
    limit, cap = projection_limit(m.dtype), saturation(m.dtype)
    return evaluate(_Gyroplanes, backward, m, n2, norm, r, c, dim, source, target, gain, limit, cap, kernel=_GYROPLANES)


class _PatchSquares(InputsOnly):
    @staticmethod
    def forward(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
        return F.conv2d(dot(x, x, 1), x.new_ones(1, 1, *kernel), None, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (kernel, stride, padding, dilation) = ctx.saved_tensors, ctx.options
        shape = (x.shape[0], 1, *x.shape[2:])
        g = conv2d_input(shape, x.new_ones(1, 1, *kernel), u, stride, padding, dilation)
        return 2.0 * g * x, None, None, None, None


_PATCH_SQUARES = channels.register(
    "patch_squares",
    "Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation",
    "m",
    _PatchSquares,
    module="gyroplanes",
    result="patches",
    dim=-3,
)


def patch_squares(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    *,
    backward: Backward = "manual",
) -> Tensor:
    """Squared lengths of the patches of feature maps (B, C, H, W) that a convolution sees, (B, 1, H', W').

    Padding has length 0; arguments as in torch.nn.Conv2d.
    """
    placing = (list(pair) for pair in (kernel, stride, padding, dilation))
    return evaluate(_PatchSquares, backward, x, *placing, kernel=_PATCH_SQUARES)

"""CPU kernels of the Poincaré fully-connected layer after its inner products, and of the squared lengths of patches.

The blocks are those of `channels`: lanes run over positions, loops over the outputs k.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.channels import (
    BLOCK,
    TINY,
    Layout,
    add_lanes,
    arsinh,
    carrier,
    carrier_slopes,
    clear,
    locate,
    put,
    put_lanes,
    sinh,
    take,
    total_lanes,
)
from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    fill,
    load,
    log1p,
    masked_load,
    maximum,
    minimum,
    select,
    sqrt,
    store,
    total,
    widen,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["gyroplanes", "gyroplanes_vjp", "patch_squares", "patch_squares_vjp"]

TANGENT, BALL, DISTANCE = range(3)
TARGETS = {"tangent": TANGENT, "ball": BALL, "distance": DISTANCE}
#: Threads share out rows in multiples of 64; an image counts as that many.
SHARES = 64


@inline
def output_scale(square, target, limit, reach):  # type: ignore[no-untyped-def]
    """Scale that takes sqrt(c) w to the projected output, and twice its derivative by square = c |w|^2."""
    kept = maximum(square, TINY)
    length = sqrt(kept)
    root = sqrt(1.0 + square)
    free = 1.0 / (1.0 + root)
    inside = length * free < limit
    if target == BALL:
        scale = minimum(free, limit / length)
        rate = free / root
    else:
        scale = minimum(log1p(length + square * free), 2.0 * reach) / (2.0 * length)
        rate = 0.5 / root
    return scale, (select(inside, rate, 0.0) - scale) / kept


@kernel
def planes_forward(  # type: ignore[no-untyped-def]
    m, n2, norm, over, sine, out, root, c, ball, target, gain, limit, cap, eps, channels, positions, per, low, high
):
    """The layer's output; `over` is cosh(bias)/norm and `sine` sinh(bias) of each output."""
    block = np.empty(channels * BLOCK, m.dtype)
    reach = math.atanh(limit)
    for row in range(low, high):
        start, single, n = locate(row, channels, positions, per)
        take(m, start, positions, n, channels, block)
        for j in range(0, n, LANES):
            f, lift = carrier(masked_load(n2, single + j, n - j), c, ball, gain, reach, eps)
            f = root * f
            square = fill(m, 0.0)
            for k in range(channels):
                t = f * (load(block, k * BLOCK + j) * over[k]) - lift * sine[k]
                h, _ = arsinh(t)
                angle = (2.0 * norm[k]) * h
                if target == DISTANCE:
                    store(block, k * BLOCK + j, angle / root)
                else:
                    w = sinh(maximum(minimum(angle, cap), -cap))
                    square = square + w * w
                    store(block, k * BLOCK + j, w)
            if target != DISTANCE:
                scale, _ = output_scale(square, target, limit, reach)
                scale = scale / root
                for k in range(channels):
                    store(block, k * BLOCK + j, scale * load(block, k * BLOCK + j))
        put(block, out, start, positions, n, channels)


@inline
def angles(bu, bm, bw, ba, bt, j, f, lift, norm, over, sine, target, cap, channels):  # type: ignore[no-untyped-def]
    """Write w, the angle and t at position j of a block; c |w|^2, <u, w> and <u, angle>."""
    square, uw, ua = fill(bu, 0.0), fill(bu, 0.0), fill(bu, 0.0)
    for k in range(channels):
        u = load(bu, k * BLOCK + j)
        t = f * (load(bm, k * BLOCK + j) * over[k]) - lift * sine[k]
        h, _ = arsinh(t)
        angle = (2.0 * norm[k]) * h
        store(bt, k * BLOCK + j, t)
        store(ba, k * BLOCK + j, h)
        if target == DISTANCE:
            ua = ua + u * angle
        else:
            w = sinh(maximum(minimum(angle, cap), -cap))
            square, uw = square + w * w, uw + u * w
            store(bw, k * BLOCK + j, w)
    return square, uw, ua


@inline
def angle_gradients(bu, bw, ba, j, norm, along_u, along_w, root, target, cap, channels):  # type: ignore[no-untyped-def]
    """Gradient by the angle at position j of a block, in place of `bu`."""
    for k in range(channels):
        u = load(bu, k * BLOCK + j)
        if target == DISTANCE:
            g = u / root
        else:
            w = load(bw, k * BLOCK + j)
            g = (along_u * u + along_w * w) * sqrt(1.0 + w * w)
            g = select(abs((2.0 * norm[k]) * load(ba, k * BLOCK + j)) < cap, g, 0.0)
        store(bu, k * BLOCK + j, g)


@kernel
def planes_backward(  # type: ignore[no-untyped-def]
    u,
    m,
    n2,
    norm,
    over,
    sine,
    cosh,
    tilt,
    r,
    gm,
    gn,
    sums,
    root,
    c,
    ball,
    target,
    gain,
    limit,
    cap,
    eps,
    channels,
    positions,
    per,
    low,
    high,
):
    """Gradients to m and n2, and a block's sums for norm, r and c: 2 channels + 1 numbers a block.

    `tilt` is sinh(bias)/norm, and `cosh` and `tilt` are 0 where the bias is capped.
    """
    size = channels * BLOCK
    bu, bm, bw = np.empty(size, m.dtype), np.empty(size, m.dtype), np.empty(size, m.dtype)
    ba, bt = np.empty(size, m.dtype), np.empty(size, m.dtype)
    to_norm, to_r = np.empty(channels * LANES, m.dtype), np.empty(channels * LANES, m.dtype)
    reach = math.atanh(limit)
    for row in range(low, high):
        start, single, n = locate(row, channels, positions, per)
        take(u, start, positions, n, channels, bu)
        take(m, start, positions, n, channels, bm)
        clear(to_norm, channels * LANES)
        clear(to_r, channels * LANES)
        g_c = 0.0
        for j in range(0, n, LANES):
            square_p = masked_load(n2, single + j, n - j)
            f, lift = carrier(square_p, c, ball, gain, reach, eps)
            fn, ln = carrier_slopes(square_p, c, ball, gain, reach, f, lift)
            rf = root * f
            square, uw, ua = angles(bu, bm, bw, ba, bt, j, rf, lift, norm, over, sine, target, cap, channels)
            if target == DISTANCE:
                along_u, along_w = fill(m, 0.0), fill(m, 0.0)
                c_gc = -0.5 / root * ua
            else:
                scale, slope = output_scale(square, target, limit, reach)
                along_u, along_w = scale / root, uw * slope / root
                c_gc = -0.5 * uw * along_u
            angle_gradients(bu, bw, ba, j, norm, along_u, along_w, root, target, cap, channels)
            g_f, g_l, g_b = fill(m, 0.0), fill(m, 0.0), fill(m, 0.0)
            for k in range(channels):
                g, x, t = load(bu, k * BLOCK + j), load(bm, k * BLOCK + j), load(bt, k * BLOCK + j)
                gt = g * (2.0 * norm[k]) / sqrt(1.0 + t * t)
                along = gt * (x * over[k])
                g_f, g_l = g_f + along, g_l - gt * sine[k]
                bias = gt * (rf * (x * tilt[k]) - lift * cosh[k])
                g_b = g_b + bias * r[k]
                add_lanes(to_norm, k, 2.0 * g * load(ba, k * BLOCK + j) - (rf / norm[k]) * along)
                add_lanes(to_r, k, bias)
                store(bm, k * BLOCK + j, gt * (rf * over[k]))
            slopes = (root * g_f) * fn + g_l * ln
            g_c += total(widen(c_gc + 0.5 * (root * g_f) * f + slopes + root * g_b))
            put_lanes(gn, single + j, slopes / maximum(square_p, TINY), n - j)
        put(bm, gm, start, positions, n, channels)
        first = row * (2 * channels + 1)
        total_lanes(to_norm, channels, sums, first)
        total_lanes(to_r, channels, sums, first + channels)
        sums[first + 2 * channels] = g_c / c


def _columns(norm: Tensor, r: Tensor, root: float, cap: float) -> tuple[Any, ...]:
    """Norm, bias, cosh(bias)/norm, sinh(bias), and cosh and sinh/norm where the bias is not capped."""
    wide, bias = norm.reshape(-1).double(), 2.0 * root * r.reshape(-1).double()
    free = bias.abs() < cap
    bias = bias.clamp(-cap, cap)
    cosh, sinh = bias.cosh(), bias.sinh()
    columns = wide, r.reshape(-1), cosh / wide, sinh, cosh * free, sinh / wide * free
    return tuple(flat(t.to(norm.dtype)) for t in columns)


def gyroplanes(
    m: Tensor,
    n2: Tensor,
    norm: Tensor,
    r: Tensor,
    c: Tensor,
    dim: int,
    source: str,
    target: str,
    gain: float,
    limit: float,
    cap: float,
) -> Tensor:
    """Outputs of a Poincaré linear layer or convolution from its Euclidean products m."""
    at, root = Layout(m, dim), math.sqrt(float(c))
    norms, _, over, sine, _, _ = _columns(norm, r, root, cap)
    out = at.new()
    options = root, float(c), source == "ball", TARGETS[target], gain, limit, cap, torch.finfo(m.dtype).eps
    at.run(planes_forward, at.read(m), at.read(n2), norms, over, sine, flat(out), *options)
    return at.result(out)


def gyroplanes_vjp(
    u: Tensor,
    m: Tensor,
    n2: Tensor,
    norm: Tensor,
    r: Tensor,
    c: Tensor,
    dim: int,
    source: str,
    target: str,
    gain: float,
    limit: float,
    cap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `gyroplanes` with respect to m, n2, norm, r and c."""
    at, root = Layout(m, dim), math.sqrt(float(c))
    size = at.channels
    norms, biases, over, sine, cosh, tilt = _columns(norm, r, root, cap)
    gm, gn, sums = at.new(), at.new(1), at.sums(2 * size + 1)
    inputs = at.read(u), at.read(m), at.read(n2), norms, over, sine, cosh, tilt, biases
    options = root, float(c), source == "ball", TARGETS[target], gain, limit, cap, torch.finfo(m.dtype).eps
    at.run(planes_backward, *inputs, flat(gm), flat(gn), flat(sums), *options)
    total_sums = sums.sum(0)
    g_norm, g_r = total_sums[:size].to(m.dtype, copy=True), (2.0 * root * total_sums[size : 2 * size]).to(m.dtype)
    gc = total_sums[-1].to(c.dtype, copy=True).reshape(c.shape)
    return at.result(gm), at.result(gn, 1), g_norm.view(norm.shape), g_r.view(r.shape), gc


# -- squared lengths of patches ------------------------------------------------------------------------------------


@inline
def overlap(size, outputs, stride, shift):  # type: ignore[no-untyped-def]
    """Range of outputs i for which i * stride + shift lies in 0, ..., size - 1."""
    first = 0 if shift >= 0 else (-shift + stride - 1) // stride
    last = min(outputs, (size - 1 - shift) // stride + 1) if size - 1 - shift >= 0 else 0
    return first, last


@inline
def spread_columns(line, out, start, width, outputs, stride, padding, dilation, taps):  # type: ignore[no-untyped-def]
    """Add to a row of outputs the sums over the taps of a row of inputs."""
    for tap in range(taps):
        shift = tap * dilation - padding
        first, last = overlap(width, outputs, stride, shift)
        if stride == 1:
            for i in range(first, last):
                out[start + i] += line[i + shift]
        else:
            for i in range(first, last):
                out[start + i] += line[i * stride + shift]


@kernel
def patches_forward(x, out, sizes, low, high):  # type: ignore[no-untyped-def]
    """Sums of squares over channels and taps, for whole images."""
    channels, height, width, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw = sizes
    line, sums = np.empty(width, x.dtype), np.empty(height * ow, x.dtype)
    for b in range(low // SHARES, high // SHARES):
        sums[:] = 0.0
        for y in range(height):
            line[:] = 0.0
            for k in range(channels):
                start = ((b * channels + k) * height + y) * width
                for i in range(width):
                    line[i] += x[start + i] * x[start + i]
            spread_columns(line, sums, y * ow, width, ow, sw, pw, dw, kw)
        base = b * oh * ow
        for i in range(oh * ow):
            out[base + i] = 0.0
        for tap in range(kh):
            shift = tap * dh - ph
            first, last = overlap(height, oh, sh, shift)
            for y in range(first, last):
                source = (y * sh + shift) * ow
                for i in range(ow):
                    out[base + y * ow + i] += sums[source + i]


@inline
def gather_columns(g, start, line, width, outputs, stride, padding, dilation, taps):  # type: ignore[no-untyped-def]
    """Transpose of `spread_columns`."""
    for tap in range(taps):
        shift = tap * dilation - padding
        first, last = overlap(width, outputs, stride, shift)
        if stride == 1:
            for i in range(first, last):
                line[i + shift] += g[start + i]
        else:
            for i in range(first, last):
                line[i * stride + shift] += g[start + i]


@kernel
def patches_backward(g, x, gx, sizes, low, high):  # type: ignore[no-untyped-def]
    """Gradient of the sums of squares."""
    channels, height, width, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw = sizes
    line, sums = np.empty(width, x.dtype), np.empty(height * ow, x.dtype)
    for b in range(low // SHARES, high // SHARES):
        base = b * oh * ow
        sums[:] = 0.0
        for tap in range(kh):
            shift = tap * dh - ph
            first, last = overlap(height, oh, sh, shift)
            for y in range(first, last):
                target = (y * sh + shift) * ow
                for i in range(ow):
                    sums[target + i] += g[base + y * ow + i]
        for y in range(height):
            line[:] = 0.0
            gather_columns(sums, y * ow, line, width, ow, sw, pw, dw, kw)
            for k in range(channels):
                start = ((b * channels + k) * height + y) * width
                for i in range(width):
                    # 2 x line, without a constant that would widen float32
                    gx[start + i] = (line[i] + line[i]) * x[start + i]


def _sizes(
    x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, ...]:
    outputs = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], kernel_size, stride, padding, dilation, strict=True)
    ]
    return (*x.shape[1:], *outputs, *kernel_size, *stride, *padding, *dilation)


def patch_squares(
    x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """Sums of squares over the patches of a convolution."""
    sizes = _sizes(x, kernel_size, stride, padding, dilation)
    out = x.new_empty(x.shape[0], 1, sizes[3], sizes[4])
    parallel(patches_forward, x.shape[0] * SHARES, SHARES, flat(x), flat(out), sizes)
    return out


def patch_squares_vjp(
    u: Tensor, x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """Gradient of `patch_squares` with respect to x."""
    gx = torch.empty(x.shape, dtype=x.dtype)
    sizes = _sizes(x, kernel_size, stride, padding, dilation)
    parallel(patches_backward, x.shape[0] * SHARES, SHARES, flat(u), flat(x), flat(gx), sizes)
    return gx

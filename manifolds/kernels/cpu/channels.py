"""CPU kernels for maps of ball points whose coordinates are on a channel axis: (B, K, P) with P positions contiguous.

A kernel works on blocks of 64 positions. It copies a block of all K channels into scratch memory, where the rows of
the channels lie close together (in the tensor they are a power of two apart, which few sets of the cache can hold).
Then the lanes run over positions and a loop over channels adds up a point's inner products without any sum across
lanes. Everything between reading the inputs and writing the results stays in the cache. What is summed over positions,
the gradients of curvature and of columns, goes to one float64 number a block, and the blocks are added in order: the
result does not depend on the number of threads.

The formulas are those of models/architectures/poincare_resnet, which are the reference.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import (
    _LN2_HIGH,
    _LN2_HIGH_64,
    _LN2_LOW,
    _LN2_LOW_64,
    LANES,
    _rint,
    _times_power_of_two,
    copysign,
    fill,
    is_single,
    like,
    load,
    log1p,
    masked_load,
    masked_store,
    maximum,
    minimum,
    polynomial,
    select,
    sqrt,
    store,
    total,
    widen,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = [
    "BLOCK",
    "Layout",
    "arsinh",
    "artanh",
    "carrier",
    "carrier_slopes",
    "curved_length",
    "expm1",
    "locate",
    "put",
    "put_lanes",
    "sinh",
    "sinh_cosh",
    "take",
    "tanh",
]

#: Positions in a block.
BLOCK = 64
#: Squared lengths below this count as zero, as in the reference.
TINY = 1e-30
#: Blocks that are worth a thread.
GRAIN = 32
#: Rows of fewer positions than this are transposed first, so that lanes are full.
_NARROW = 32

IDENTITY, EXP, LOG, PROJECT, HALF, LAND = range(6)
PROFILES = {"exp": EXP, "log": LOG, "project": PROJECT, "half": HALF, "land": LAND}


# -- layout --------------------------------------------------------------------------------------------------------


class Layout:
    """How a tensor with its channels along `dim` lies in memory as (batch, channels, positions).

    Where few positions follow the channel axis, channels are moved to the front: the batch is then 1.
    """

    def __init__(self, x: Tensor, dim: int) -> None:
        self.shape, self.dim, self.dtype = x.shape, dim, x.dtype
        positions = math.prod(x.shape[x.ndim + dim + 1 :])
        self.channels = x.shape[dim]
        self.turned = positions < _NARROW
        self.positions = x.numel() // self.channels if self.turned else positions
        self.batch = x.numel() // (self.channels * self.positions)
        self.per = -(-self.positions // BLOCK)
        self.blocks = self.batch * self.per
        #: What every kernel takes before its range.
        self.sizes = (self.channels, self.positions, self.per)

    def read(self, x: Tensor) -> Any:
        """Flat array of `x`, which has this layout, or size 1 along the channels."""
        return flat(x.movedim(self.dim, 0) if self.turned else x)

    def new(self, channels: int | None = None) -> Tensor:
        """Return flat memory for a result with this number of channels (default: all)."""
        return torch.empty(self.batch * (channels or self.channels) * self.positions, dtype=self.dtype)

    def result(self, flat: Tensor, channels: int | None = None) -> Tensor:
        """Give a result the shape of the tensor."""
        shape = list(self.shape)
        shape[self.dim] = channels or self.channels
        if not self.turned:
            return flat.view(shape)
        front = [shape.pop(self.dim), *shape]
        return flat.view(front).movedim(0, self.dim).contiguous()

    def sums(self, columns: int) -> Tensor:
        """Return memory for the sums of each block."""
        return torch.empty(self.blocks, columns, dtype=torch.float64)

    def run(self, function: Any, *arguments: Any) -> None:
        """Run a kernel over all blocks."""
        parallel(function, self.blocks, GRAIN, *arguments, *self.sizes)


# -- elementary functions on lanes ---------------------------------------------------------------------------------

_expm1_series = polynomial([1.0 / math.factorial(k + 1) for k in range(14)], 8)


@inline
def expm1(x):  # type: ignore[no-untyped-def]
    """Evaluate e^x - 1 to full relative precision, for x between -87 and 87 (float32) or -708 and 708."""
    n = _rint(x * 1.4426950408889634)
    if is_single(x):
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    else:
        r = (x - n * _LN2_HIGH_64) - n * _LN2_LOW_64
    power = _times_power_of_two(like(x, 1.0), n)
    return power * (r * _expm1_series(r)) + (power - 1.0)


@inline
def tanh(x):  # type: ignore[no-untyped-def]
    """Hyperbolic tangent."""
    e = expm1(2.0 * maximum(minimum(x, 20.0), -20.0))
    return e / (e + 2.0)


@inline
def sinh(x):  # type: ignore[no-untyped-def]
    """Hyperbolic sine, within the range of `expm1`."""
    e = expm1(abs(x))
    return copysign(0.5 * (e + e / (e + 1.0)), x)


@inline
def sinh_cosh(x):  # type: ignore[no-untyped-def]
    """Hyperbolic sine and cosine of x >= 0, within the range of `expm1`."""
    e = expm1(x)
    other = 1.0 / (e + 1.0)
    return 0.5 * (e + e * other), 0.5 * ((e + 1.0) + other)


@inline
def artanh(s):  # type: ignore[no-untyped-def]
    """Inverse hyperbolic tangent of 0 <= s < 1."""
    return 0.5 * log1p(2.0 * s / (1.0 - s))


@inline
def arsinh(t):  # type: ignore[no-untyped-def]
    """Inverse hyperbolic sine, and sqrt(1 + t^2)."""
    a = abs(t)
    root = sqrt(1.0 + t * t)
    return copysign(log1p(a + a * a / (1.0 + root)), t), root


# -- blocks --------------------------------------------------------------------------------------------------------


@inline
def locate(row, channels, positions, per):  # type: ignore[no-untyped-def]
    """Offset of a block in a tensor of all channels and in one of a single channel; positions in the block."""
    b, i = row // per, (row % per) * BLOCK
    return b * channels * positions + i, b * positions + i, min(BLOCK, positions - i)


@inline
def take(array, start, stride, n, channels, block):  # type: ignore[no-untyped-def]
    """Copy a block into scratch memory, zeros past its end."""
    for k in range(channels):
        for j in range(0, BLOCK, LANES):
            if j + LANES <= n:
                store(block, k * BLOCK + j, load(array, start + k * stride + j))
            else:
                store(block, k * BLOCK + j, masked_load(array, start + k * stride + j, n - j))


@inline
def put_lanes(array, offset, value, count):  # type: ignore[no-untyped-def]
    """Write the first `count` of eight numbers, all of them where it is more."""
    if count >= LANES:
        store(array, offset, value)
    else:
        masked_store(array, offset, value, count)


@inline
def put(block, array, start, stride, n, channels):  # type: ignore[no-untyped-def]
    """Copy a block out of scratch memory."""
    for k in range(channels):
        for j in range(0, n, LANES):
            put_lanes(array, start + k * stride + j, load(block, k * BLOCK + j), n - j)


@inline
def clear(block, size):  # type: ignore[no-untyped-def]
    """Set scratch memory to zero."""
    for i in range(0, size, LANES):
        store(block, i, fill(block, 0.0))


@inline
def add_lanes(sums, k, value):  # type: ignore[no-untyped-def]
    """Add to the eight running sums of channel k."""
    store(sums, k * LANES, load(sums, k * LANES) + value)


@inline
def total_lanes(sums, channels, out, start):  # type: ignore[no-untyped-def]
    """Write the sum of each channel's eight, in float64."""
    for k in range(channels):
        out[start + k] = total(widen(load(sums, k * LANES)))


# -- maps that only rescale ----------------------------------------------------------------------------------------


@inline
def curved_length(n2, c):  # type: ignore[no-untyped-def]
    """Return s = sqrt(c n2), kept off zero."""
    return sqrt(maximum(c * n2, TINY))


@inline
def profile(code, s, limit, eps):  # type: ignore[no-untyped-def]
    """f(s) and h = s f'(s) of a map x -> f(s) x."""
    if code == EXP:
        t = tanh(s)
        f = minimum(t, limit) / s
        h = select(t < limit, 1.0 - t * t, 0.0) - f
    elif code == LOG:
        s1 = minimum(s, 1.0 - eps)
        f = artanh(s1) / s
        h = 1.0 / ((1.0 - s1) * (1.0 + s1)) - f
    elif code == PROJECT:
        f = minimum(limit / s, 1.0)
        h = select(s > limit, -f, 0.0)
    elif code == HALF:
        root = sqrt(maximum(1.0 - s * s, eps))
        f = 1.0 / (1.0 + root)
        h = (s * f) * (s * f) / root
    elif code == LAND:
        s1 = minimum(s, limit)
        f = artanh(s1) / s
        h = select(s < limit, 1.0 / ((1.0 - s1) * (1.0 + s1)), 0.0) - f
    else:
        f = like(s, 1.0)
        h = like(s, 0.0)
    return f, h


@inline
def square_length(block, j, channels):  # type: ignore[no-untyped-def]
    """Squared lengths of the eight points at position j of a block."""
    n2 = fill(block, 0.0)
    for k in range(channels):
        x = load(block, k * BLOCK + j)
        n2 = n2 + x * x
    return n2


@kernel
def radial_forward(x, out, c, code, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """f(s) x."""
    block = np.empty(channels * BLOCK, x.dtype)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(x, start, positions, n, channels, block)
        for j in range(0, n, LANES):
            f, _ = profile(code, curved_length(square_length(block, j, channels), c), limit, eps)
            for k in range(channels):
                store(block, k * BLOCK + j, f * load(block, k * BLOCK + j))
        put(block, out, start, positions, n, channels)


@kernel
def radial_backward(u, x, gx, gc, c, code, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Gradients of f(s) x."""
    bu, bx = np.empty(channels * BLOCK, x.dtype), np.empty(channels * BLOCK, x.dtype)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(u, start, positions, n, channels, bu)
        take(x, start, positions, n, channels, bx)
        g_c = 0.0
        for j in range(0, n, LANES):
            n2, ux = fill(x, 0.0), fill(x, 0.0)
            for k in range(channels):
                one = load(bx, k * BLOCK + j)
                n2 = n2 + one * one
                ux = ux + one * load(bu, k * BLOCK + j)
            f, h = profile(code, curved_length(n2, c), limit, eps)
            along = ux * h / maximum(n2, TINY)
            g_c += total(widen(ux * h))
            for k in range(channels):
                store(bu, k * BLOCK + j, f * load(bu, k * BLOCK + j) + along * load(bx, k * BLOCK + j))
        put(bu, gx, start, positions, n, channels)
        gc[row] = g_c / (2.0 * c)


@kernel
def dist0_forward(x, out, c, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Squared distance from the origin."""
    block = np.empty(channels * BLOCK, x.dtype)
    for row in range(low, high):
        start, single, n = locate(row, channels, positions, per)
        take(x, start, positions, n, channels, block)
        for j in range(0, n, LANES):
            n2 = square_length(block, j, channels)
            f, _ = profile(LOG, curved_length(n2, c), 1.0, eps)
            put_lanes(out, single + j, 4.0 * n2 * (f * f), n - j)


@kernel
def dist0_backward(u, x, gx, gc, c, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Gradients of the squared distance from the origin."""
    block = np.empty(channels * BLOCK, x.dtype)
    for row in range(low, high):
        start, single, n = locate(row, channels, positions, per)
        take(x, start, positions, n, channels, block)
        g_c = 0.0
        for j in range(0, n, LANES):
            n2 = square_length(block, j, channels)
            f, h = profile(LOG, curved_length(n2, c), 1.0, eps)
            uf = masked_load(u, single + j, n - j) * f
            g_c += total(widen(uf * h * n2))
            scale = 8.0 * uf * (f + h)
            for k in range(channels):
                store(block, k * BLOCK + j, scale * load(block, k * BLOCK + j))
        put(block, gx, start, positions, n, channels)
        gc[row] = 4.0 * g_c / c


# -- Möbius addition, gyration -------------------------------------------------------------------------------------


@inline
def mobius(x2, y2, xy, c):  # type: ignore[no-untyped-def]
    """a/d and b/d of Möbius addition (a x + b y)/d."""
    d = maximum(1.0 + 2.0 * c * xy + c * c * x2 * y2, TINY)
    return (1.0 + 2.0 * c * xy + c * y2) / d, (1.0 - c * x2) / d


@inline
def mobius_slopes(x2, y2, xy, ux, uy, c):  # type: ignore[no-untyped-def]
    """Gradients of Möbius addition: (of u, y, x) for x, (of u, x, y) for y, and the gradient of c."""
    twice = 2.0 * c
    d = maximum(1.0 + twice * xy + c * c * x2 * y2, TINY)
    inverse = 1.0 / d
    a, b = (1.0 + twice * xy + c * y2) * inverse, (1.0 - c * x2) * inverse
    r = a * ux + b * uy
    along = twice * (ux - r) * inverse
    own_x = -twice * (uy + c * y2 * r) * inverse
    own_y = twice * (ux - c * x2 * r) * inverse
    gc = ((2.0 * xy + y2) * ux - x2 * uy - 2.0 * r * (xy + c * x2 * y2)) * inverse
    return a, b, along, own_x, own_y, gc


@kernel
def join_forward(p, q, out, c, into, outof, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Möbius sum of two carriers, projected, as a carrier."""
    bp, bq = np.empty(channels * BLOCK, p.dtype), np.empty(channels * BLOCK, p.dtype)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(p, start, positions, n, channels, bp)
        take(q, start, positions, n, channels, bq)
        for j in range(0, n, LANES):
            pp, qq, pq = fill(p, 0.0), fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                x, y = load(bp, k * BLOCK + j), load(bq, k * BLOCK + j)
                pp, qq, pq = pp + x * x, qq + y * y, pq + x * y
            fp, _ = profile(into, curved_length(pp, c), limit, eps)
            fq, _ = profile(into, curved_length(qq, c), limit, eps)
            a, b = mobius(fp * fp * pp, fq * fq * qq, fp * fq * pq, c)
            a, b = a * fp, b * fq
            zz = fill(p, 0.0)
            for k in range(channels):
                z = a * load(bp, k * BLOCK + j) + b * load(bq, k * BLOCK + j)
                zz = zz + z * z
                store(bp, k * BLOCK + j, z)
            f, _ = profile(outof, curved_length(zz, c), limit, eps)
            for k in range(channels):
                store(bp, k * BLOCK + j, f * load(bp, k * BLOCK + j))
        put(bp, out, start, positions, n, channels)


@kernel
def join_backward(u, p, q, gp, gq, gc, c, into, outof, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Gradients of the join to both carriers and c."""
    size = channels * BLOCK
    bu, bp, bq = np.empty(size, p.dtype), np.empty(size, p.dtype), np.empty(size, p.dtype)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(u, start, positions, n, channels, bu)
        take(p, start, positions, n, channels, bp)
        take(q, start, positions, n, channels, bq)
        g_c = 0.0
        for j in range(0, n, LANES):
            pp, qq, pq = fill(p, 0.0), fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                x, y = load(bp, k * BLOCK + j), load(bq, k * BLOCK + j)
                pp, qq, pq = pp + x * x, qq + y * y, pq + x * y
            fp, hp = profile(into, curved_length(pp, c), limit, eps)
            fq, hq = profile(into, curved_length(qq, c), limit, eps)
            x2, y2, xy = fp * fp * pp, fq * fq * qq, fp * fq * pq
            a, b = mobius(x2, y2, xy, c)
            a, b = a * fp, b * fq
            zz, uz = fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                z = a * load(bp, k * BLOCK + j) + b * load(bq, k * BLOCK + j)
                zz, uz = zz + z * z, uz + z * load(bu, k * BLOCK + j)
            f, h = profile(outof, curved_length(zz, c), limit, eps)
            along = uz * h / maximum(zz, TINY)
            gc_out = uz * h
            up, uq = fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                x, y = load(bp, k * BLOCK + j), load(bq, k * BLOCK + j)
                g = f * load(bu, k * BLOCK + j) + along * (a * x + b * y)
                up, uq = up + g * x, uq + g * y
                store(bu, k * BLOCK + j, g)
            a, b, cross, own_x, own_y, gc_add = mobius_slopes(x2, y2, xy, fp * up, fq * uq, c)
            # <gx, p> and <gy, q>, then the way from the carriers into the ball
            to_p = a * up + cross * fq * pq + own_x * fp * pp
            to_q = b * uq + cross * fp * pq + own_y * fq * qq
            g_c += total(widen(gc_add)) + total(widen(gc_out + to_p * hp + to_q * hq)) / (2.0 * c)
            up_u, up_q = fp * a, fp * cross * fq
            up_p = fp * own_x * fp + to_p * hp / maximum(pp, TINY)
            uq_u, uq_q = fq * b, fq * own_y * fq + to_q * hq / maximum(qq, TINY)
            for k in range(channels):
                x, y, g = load(bp, k * BLOCK + j), load(bq, k * BLOCK + j), load(bu, k * BLOCK + j)
                store(bp, k * BLOCK + j, up_u * g + up_q * y + up_p * x)
                store(bq, k * BLOCK + j, uq_u * g + up_q * x + uq_q * y)
        put(bp, gp, start, positions, n, channels)
        put(bq, gq, start, positions, n, channels)
        gc[row] = g_c


@inline
def column_square(x, y, channels):  # type: ignore[no-untyped-def]
    """Inner product of two columns, in float64."""
    result = 0.0
    for k in range(channels):
        result += float(x[k]) * float(y[k])
    return result


@kernel
def translate_forward(p, mean, out, c, into, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """(-mean) plus x, where x is the carrier p in the ball."""
    block = np.empty(channels * BLOCK, p.dtype)
    m2 = fill(p, column_square(mean, mean, channels))
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(p, start, positions, n, channels, block)
        for j in range(0, n, LANES):
            pp, mp = fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                x = load(block, k * BLOCK + j)
                pp, mp = pp + x * x, mp - x * mean[k]
            f, _ = profile(into, curved_length(pp, c), limit, eps)
            a, b = mobius(m2, f * f * pp, f * mp, c)
            b = b * f
            for k in range(channels):
                store(block, k * BLOCK + j, b * load(block, k * BLOCK + j) - a * mean[k])
        put(block, out, start, positions, n, channels)


@kernel
def translate_backward(u, p, mean, gp, gm, gc, c, into, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Gradients of the translation to p, the mean (a sum a block) and c."""
    bu, bp = np.empty(channels * BLOCK, p.dtype), np.empty(channels * BLOCK, p.dtype)
    sums = np.empty(channels * LANES, p.dtype)
    m2 = fill(p, column_square(mean, mean, channels))
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(u, start, positions, n, channels, bu)
        take(p, start, positions, n, channels, bp)
        clear(sums, channels * LANES)
        g_c = 0.0
        for j in range(0, n, LANES):
            pp, mp, up, um = fill(p, 0.0), fill(p, 0.0), fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                x, g = load(bp, k * BLOCK + j), load(bu, k * BLOCK + j)
                pp, mp, up, um = pp + x * x, mp - x * mean[k], up + g * x, um - g * mean[k]
            f, h = profile(into, curved_length(pp, c), limit, eps)
            a, b, cross, own_m, own_x, gc_add = mobius_slopes(m2, f * f * pp, f * mp, um, f * up, c)
            to_p = b * up + cross * mp + own_x * f * pp
            g_c += total(widen(gc_add)) + total(widen(to_p * h)) / (2.0 * c)
            own_p = f * own_x * f + to_p * h / maximum(pp, TINY)
            cross, b = cross * f, b * f
            for k in range(channels):
                x, g = load(bp, k * BLOCK + j), load(bu, k * BLOCK + j)
                # d/dmean is minus d/d(-mean)
                add_lanes(sums, k, own_m * mean[k] - a * g - cross * x)
                store(bp, k * BLOCK + j, b * g + own_p * x - cross * mean[k])
        put(bp, gp, start, positions, n, channels)
        total_lanes(sums, channels, gm, row * channels)
        gc[row] = g_c


@inline
def scale_terms(s, k, eps):  # type: ignore[no-untyped-def]
    """f, h and df/dk of the Möbius product k (x) x."""
    s1 = minimum(s, 1.0 - eps)
    reach = artanh(s1)
    t = tanh(k * reach)
    sech2 = 1.0 - t * t
    f = t / s
    return f, k * sech2 / ((1.0 - s1) * (1.0 + s1)) - f, sech2 * reach / s


@inline
def gyration_terms(u2, v2, uv, uw, vw, c):  # type: ignore[no-untyped-def]
    """2a/d and 2b/d of the gyration w + (2 a u + 2 b v)/d; u2, v2, uv and d are scalars."""
    inverse = 1.0 / max(1.0 + 2.0 * c * uv + c * c * u2 * v2, TINY)
    a = c * (vw - (c * v2) * uw + (2.0 * c * uv) * vw)
    b = -c * (uw + (c * u2) * vw)
    return a * (2.0 * inverse), b * (2.0 * inverse)


@inline
def spread_terms(bz, bw, j, mean, centre, k, c, u2, v2, uv, eps, channels):  # type: ignore[no-untyped-def]
    """Write w = gyr[centre, -mean](k (x) z) for position j of a block to `bw`; return what was found on the way."""
    zz, uz, vz = fill(bz, 0.0), fill(bz, 0.0), fill(bz, 0.0)
    for i in range(channels):
        z = load(bz, i * BLOCK + j)
        zz, uz, vz = zz + z * z, uz + z * centre[i], vz - z * mean[i]
    f, h, fk = scale_terms(curved_length(zz, c), k, eps)
    a, b = gyration_terms(u2, v2, uv, f * uz, f * vz, c)
    ww, uw = fill(bz, 0.0), fill(bz, 0.0)
    for i in range(channels):
        w = f * load(bz, i * BLOCK + j) + a * centre[i] - b * mean[i]
        ww, uw = ww + w * w, uw + w * centre[i]
        store(bw, i * BLOCK + j, w)
    return zz, uz, vz, f, h, fk, a, b, ww, uw


@kernel
def spread_forward(z, mean, centre, k, out, c, outof, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Centre plus gyr[centre, -mean](k (x) z), projected, as a carrier."""
    bz, bw = np.empty(channels * BLOCK, z.dtype), np.empty(channels * BLOCK, z.dtype)
    u2, v2 = column_square(centre, centre, channels), column_square(mean, mean, channels)
    uv = -column_square(centre, mean, channels)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(z, start, positions, n, channels, bz)
        for j in range(0, n, LANES):
            found = spread_terms(bz, bw, j, mean, centre, k, c, u2, v2, uv, eps, channels)
            ww, uw = found[8], found[9]
            a, b = mobius(fill(z, u2), ww, uw, c)
            yy = fill(z, 0.0)
            for i in range(channels):
                y = b * load(bw, i * BLOCK + j) + a * centre[i]
                yy = yy + y * y
                store(bz, i * BLOCK + j, y)
            f, _ = profile(outof, curved_length(yy, c), limit, eps)
            for i in range(channels):
                store(bz, i * BLOCK + j, f * load(bz, i * BLOCK + j))
        put(bz, out, start, positions, n, channels)


@inline
def spread_upstream(bu, bw, j, centre, c, u2, ww, uw, outof, limit, eps, channels):  # type: ignore[no-untyped-def]
    """Gradient through the projection, in place of `bu`; Möbius slopes for centre and w; 2c times the gradient of c."""
    a, b = mobius(like(ww, u2), ww, uw, c)
    yy, gy = fill(bu, 0.0), fill(bu, 0.0)
    for i in range(channels):
        y = b * load(bw, i * BLOCK + j) + a * centre[i]
        yy, gy = yy + y * y, gy + y * load(bu, i * BLOCK + j)
    f, h = profile(outof, curved_length(yy, c), limit, eps)
    along = gy * h / maximum(yy, TINY)
    gu, gw = fill(bu, 0.0), fill(bu, 0.0)
    for i in range(channels):
        w = load(bw, i * BLOCK + j)
        g = f * load(bu, i * BLOCK + j) + along * (b * w + a * centre[i])
        gu, gw = gu + g * centre[i], gw + g * w
        store(bu, i * BLOCK + j, g)
    return mobius_slopes(like(ww, u2), ww, uw, gu, gw, c), gy * h


@kernel
def spread_backward(u, z, mean, centre, k, gz, sums, c, outof, limit, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Gradients to z, and a block's sums for mean, centre, k and c: 2 channels + 2 numbers a block."""
    size, c2 = channels * BLOCK, c * c
    bu, bz, bw = np.empty(size, z.dtype), np.empty(size, z.dtype), np.empty(size, z.dtype)
    to_mean, to_centre = np.empty(channels * LANES, z.dtype), np.empty(channels * LANES, z.dtype)
    u2, v2 = column_square(centre, centre, channels), column_square(mean, mean, channels)
    uv = -column_square(centre, mean, channels)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(u, start, positions, n, channels, bu)
        take(z, start, positions, n, channels, bz)
        clear(to_mean, channels * LANES)
        clear(to_centre, channels * LANES)
        g_k, g_c = 0.0, 0.0
        for j in range(0, n, LANES):
            zz, uz, vz, f, h, fk, a, b, ww, uw = spread_terms(bz, bw, j, mean, centre, k, c, u2, v2, uv, eps, channels)
            slopes, twice_gc = spread_upstream(bu, bw, j, centre, c, u2, ww, uw, outof, limit, eps, channels)
            m_u, m_w, cross, own_u, own_w, gc_add = slopes
            gu, gv, gz_ = fill(z, 0.0), fill(z, 0.0), fill(z, 0.0)
            for i in range(channels):
                g, w = load(bu, i * BLOCK + j), load(bw, i * BLOCK + j)
                gw = m_w * g + cross * centre[i] + own_w * w
                gu, gv = gu + gw * centre[i], gv - gw * mean[i]
                gz_ = gz_ + gw * load(bz, i * BLOCK + j)
                add_lanes(to_centre, i, m_u * g + cross * w + own_u * centre[i])
                store(bu, i * BLOCK + j, gw)
            # the gyration's vector-Jacobian product, with u = centre and v = -mean; t = f z
            ut, vt = f * uz, f * vz
            inverse = 1.0 / max(1.0 + 2.0 * c * uv + c2 * u2 * v2, TINY)
            ga, gb = (2.0 * inverse) * gu, (2.0 * inverse) * gv
            gd = -0.5 * (a * ga + b * gb)
            g_ut, g_vt = -c * ((c * v2) * ga + gb), c * ((1.0 + 2.0 * c * uv) * ga - (c * u2) * gb)
            g_uv = 2.0 * c * (c * vt * ga + gd)
            g_u2, g_v2 = 2.0 * c2 * (v2 * gd - vt * gb), 2.0 * c2 * (u2 * gd - ut * ga)
            gc_turn = ga * (vt - (2.0 * c * v2) * ut + (4.0 * c * uv) * vt) - gb * (ut + (2.0 * c * u2) * vt)
            gc_turn = gc_turn + gd * (2.0 * (uv + c * u2 * v2))
            # the Möbius product with k
            to_z = gz_ + g_ut * uz + g_vt * vz
            g_k += total(widen(to_z * fk))
            g_c += total(widen(gc_add + gc_turn)) + total(widen(twice_gc + to_z * h)) / (2.0 * c)
            own_z = to_z * h / maximum(zz, TINY)
            for i in range(channels):
                g, x = load(bu, i * BLOCK + j), load(bz, i * BLOCK + j)
                t = f * x
                add_lanes(to_centre, i, a * g + g_ut * t + g_u2 * centre[i] - g_uv * mean[i])
                add_lanes(to_mean, i, g_v2 * mean[i] - b * g - g_vt * t - g_uv * centre[i])
                store(bz, i * BLOCK + j, f * (g + g_ut * centre[i] - g_vt * mean[i]) + own_z * x)
        put(bz, gz, start, positions, n, channels)
        first = row * (2 * channels + 2)
        total_lanes(to_mean, channels, sums, first)
        total_lanes(to_centre, channels, sums, first + channels)
        sums[first + 2 * channels] = g_k
        sums[first + 2 * channels + 1] = g_c


# -- the midpoint's sums -------------------------------------------------------------------------------------------


@inline
def carrier(n2, c, ball, gain, cap, eps):  # type: ignore[no-untyped-def]
    """f and lift with lambda_x x = f p and lambda_x - 1 = lift; `cap` is artanh of the limit."""
    if ball:
        f = 2.0 / maximum(1.0 - c * n2, eps)
        lift = f - 1.0
    else:
        s = curved_length(n2, c) * gain
        sine, lift = sinh_cosh(2.0 * minimum(s, cap))
        f = gain * sine / s
    return f, lift


@inline
def carrier_slopes(n2, c, ball, gain, cap, f, lift):  # type: ignore[no-untyped-def]
    """n2 df/dn2 and n2 dlift/dn2."""
    if ball:
        fn = 0.5 * f * f * (c * n2)
        ln = fn
    else:
        s = curved_length(n2, c) * gain
        inside = s < cap
        fn = select(inside, gain * lift, 0.0) - 0.5 * f
        ln = select(inside, (s * s) * (f / gain), 0.0)
    return fn, ln


@kernel
def midpoint_forward(p, sums, c, ball, cap, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Sums of f p (channels numbers) and of lift (one) over a block."""
    block, lanes = np.empty(channels * BLOCK, p.dtype), np.empty(channels * LANES, p.dtype)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(p, start, positions, n, channels, block)
        clear(lanes, channels * LANES)
        lifts = 0.0
        for j in range(0, n, LANES):
            f, lift = carrier(square_length(block, j, channels), c, ball, 1.0, cap, eps)
            # zeros past the end of the block are points at the origin, whose lift is 1
            lifts += total(widen(lift)) - max(0, j + LANES - n)
            for k in range(channels):
                add_lanes(lanes, k, f * load(block, k * BLOCK + j))
        first = row * (channels + 1)
        total_lanes(lanes, channels, sums, first)
        sums[first + channels] = lifts


@kernel
def midpoint_backward(p, g, g_lift, gp, gc, c, ball, cap, eps, channels, positions, per, low, high):  # type: ignore[no-untyped-def]
    """Gradients of the sums, for the gradients g of those of f p and g_lift of that of lift."""
    block = np.empty(channels * BLOCK, p.dtype)
    for row in range(low, high):
        start, _, n = locate(row, channels, positions, per)
        take(p, start, positions, n, channels, block)
        g_c = 0.0
        for j in range(0, n, LANES):
            n2, g_f = fill(p, 0.0), fill(p, 0.0)
            for k in range(channels):
                x = load(block, k * BLOCK + j)
                n2, g_f = n2 + x * x, g_f + x * g[k]
            f, lift = carrier(n2, c, ball, 1.0, cap, eps)
            fn, ln = carrier_slopes(n2, c, ball, 1.0, cap, f, lift)
            common = g_f * fn + g_lift * ln
            g_c += total(widen(common))
            along = 2.0 * common / maximum(n2, TINY)
            for k in range(channels):
                store(block, k * BLOCK + j, along * load(block, k * BLOCK + j) + f * g[k])
        put(block, gp, start, positions, n, channels)
        gc[row] = g_c / c


# -- the operators' implementations --------------------------------------------------------------------------------
# Each takes what its operator takes. Gradients of columns and scalars are sums over blocks, in order.


def _eps(x: Tensor) -> float:
    return torch.finfo(x.dtype).eps


def _scalar(total: Tensor, c: Tensor) -> Tensor:
    return total.to(c.dtype, copy=True).reshape(c.shape)


def _spaces(space: str) -> tuple[int, int]:
    """Profiles of the ways from the carrier to the ball, and back with projection."""
    return (IDENTITY, PROJECT) if space == "ball" else (EXP, LAND)


def radial(x: Tensor, c: Tensor, dim: int, name: str, limit: float) -> Tensor:
    """Values of a radial map by name, of x along `dim`."""
    at = Layout(x, dim)
    out = at.new()
    at.run(radial_forward, at.read(x), flat(out), float(c), PROFILES[name], limit, _eps(x))
    return at.result(out)


def radial_vjp(u: Tensor, x: Tensor, c: Tensor, dim: int, name: str, limit: float) -> tuple[Tensor, Tensor]:
    """Gradients of `radial` with respect to x and c."""
    at = Layout(x, dim)
    gx, gc = at.new(), at.sums(1)
    at.run(radial_backward, at.read(u), at.read(x), flat(gx), flat(gc), float(c), PROFILES[name], limit, _eps(x))
    return at.result(gx), _scalar(gc.sum(), c)


def dist0(x: Tensor, c: Tensor, dim: int) -> Tensor:
    """Distance from the origin, of size 1 along `dim`."""
    at = Layout(x, dim)
    out = at.new(1)
    at.run(dist0_forward, at.read(x), flat(out), float(c), _eps(x))
    return at.result(out, 1)


def dist0_vjp(u: Tensor, x: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Gradients of `dist0` with respect to x and c."""
    at = Layout(x, dim)
    gx, gc = at.new(), at.sums(1)
    at.run(dist0_backward, at.read(u), at.read(x), flat(gx), flat(gc), float(c), _eps(x))
    return at.result(gx), _scalar(gc.sum(), c)


def join(p: Tensor, q: Tensor, c: Tensor, dim: int, space: str, limit: float) -> Tensor:
    """Möbius sum of p and q, carried in `space`."""
    at = Layout(p, dim)
    out = at.new()
    at.run(join_forward, at.read(p), at.read(q), flat(out), float(c), *_spaces(space), limit, _eps(p))
    return at.result(out)


def join_vjp(
    u: Tensor, p: Tensor, q: Tensor, c: Tensor, dim: int, space: str, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `join` with respect to p, q and c."""
    at = Layout(p, dim)
    gp, gq, gc = at.new(), at.new(), at.sums(1)
    inputs = at.read(u), at.read(p), at.read(q)
    at.run(join_backward, *inputs, flat(gp), flat(gq), flat(gc), float(c), *_spaces(space), limit, _eps(p))
    return at.result(gp), at.result(gq), _scalar(gc.sum(), c)


def translate(p: Tensor, mean: Tensor, c: Tensor, dim: int, space: str, limit: float) -> Tensor:
    """Möbius sum of -mean and p."""
    at = Layout(p, dim)
    out = at.new()
    at.run(translate_forward, at.read(p), flat(mean), flat(out), float(c), _spaces(space)[0], limit, _eps(p))
    return at.result(out)


def translate_vjp(
    u: Tensor, p: Tensor, mean: Tensor, c: Tensor, dim: int, space: str, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `translate` with respect to p, the mean and c."""
    at = Layout(p, dim)
    gp, gm, gc = at.new(), at.sums(at.channels), at.sums(1)
    inputs = at.read(u), at.read(p), flat(mean)
    at.run(translate_backward, *inputs, flat(gp), flat(gm), flat(gc), float(c), _spaces(space)[0], limit, _eps(p))
    return at.result(gp), gm.sum(0).to(mean.dtype).view(mean.shape), _scalar(gc.sum(), c)


def spread(z: Tensor, mean: Tensor, centre: Tensor, k: Tensor, c: Tensor, dim: int, space: str, limit: float) -> Tensor:
    """Rescaled vectors z of batch norm, brought from the mean to the centre."""
    at = Layout(z, dim)
    out = at.new()
    inputs = at.read(z), flat(mean), flat(centre), float(k)
    at.run(spread_forward, *inputs, flat(out), float(c), _spaces(space)[1], limit, _eps(z))
    return at.result(out)


def spread_vjp(
    u: Tensor, z: Tensor, mean: Tensor, centre: Tensor, k: Tensor, c: Tensor, dim: int, space: str, limit: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `spread` with respect to z, the mean, the centre, k and c."""
    at = Layout(z, dim)
    size = at.channels
    gz, sums = at.new(), at.sums(2 * size + 2)
    inputs = at.read(u), at.read(z), flat(mean), flat(centre), float(k)
    at.run(spread_backward, *inputs, flat(gz), flat(sums), float(c), _spaces(space)[1], limit, _eps(z))
    sums = sums.sum(0)
    gm, g_centre = sums[:size].to(z.dtype, copy=True), sums[size : 2 * size].to(z.dtype, copy=True)
    gk, gc = _scalar(sums[-2], k), _scalar(sums[-1], c)
    return at.result(gz), gm.view(mean.shape), g_centre.view(centre.shape), gk, gc


def _midpoint_sums(p: Tensor, c: Tensor, dim: int, source: str, limit: float) -> tuple[Layout, Tensor, Tensor]:
    at = Layout(p, dim)
    sums = at.sums(at.channels + 1)
    at.run(midpoint_forward, at.read(p), flat(sums), float(c), source == "ball", _reach(source, limit), _eps(p))
    sums = sums.sum(0)
    return at, sums[:-1], sums[-1].clamp_min(TINY)


def _reach(source: str, limit: float) -> float:
    return math.atanh(limit) if source == "tangent" else 0.0


def midpoint(p: Tensor, c: Tensor, dim: int, source: str, limit: float) -> Tensor:
    """Gyromidpoint of all positions, as a carrier."""
    at, along, lift = _midpoint_sums(p, c, dim, source, limit)
    return (along / lift).to(p.dtype).view([at.channels if i == p.ndim + dim else 1 for i in range(p.ndim)])


def midpoint_vjp(u: Tensor, p: Tensor, c: Tensor, dim: int, source: str, limit: float) -> tuple[Tensor, Tensor]:
    """Gradients of `midpoint` with respect to p and c."""
    at, along, lift = _midpoint_sums(p, c, dim, source, limit)
    g = u.reshape(-1).double() / lift
    g_lift = -float((g * along).sum() / lift)
    gp, gc = at.new(), at.sums(1)
    inputs = at.read(p), flat(g.to(p.dtype)), g_lift
    at.run(midpoint_backward, *inputs, flat(gp), flat(gc), float(c), source == "ball", _reach(source, limit), _eps(p))
    return at.result(gp), _scalar(gc.sum(), c)

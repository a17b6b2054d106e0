"""CPU kernels of the sums behind midpoints of hyperbolic points, and of their gradients.

A point has a time and a space part on the hyperboloid: for a point x of the ball, (f - 1, f x) with f = 2/(1 - c|x|^2)
(up to the radius); of a hyperboloid's point, the point itself. What is summed is these, times a weight. Rows are taken
in blocks that stay in the cache, and all arithmetic is in float64, as sums of distant points cancel. A unit of work is
`CHUNK` points of one sum; what the units find is added in order, so that the result does not depend on the threads.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    fill,
    load,
    masked_load,
    masked_store,
    maximum,
    narrow,
    select,
    sqrt,
    store,
    total,
    widen,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["sums", "sums_back"]

#: Rows of a block, and points of a unit of work.
BLOCK, CHUNK = 64, 1024
#: Numbers of the points that are worth a thread.
_GRAIN = 1 << 16
#: The floor of 1 - c|x|^2, as in the reference: half a unit of rounding.
_FLOOR = 1.1102230246251565e-16


@inline
def _weights(w, at, m, out):  # type: ignore[no-untyped-def]
    """Weights of a block, 1 where there are none, and 0 past its end."""
    for i in range(BLOCK):
        out[i] = 0.0
    for i in range(m):
        out[i] = w[at + i] if w.size > 0 else 1.0


@inline
def _squares(x, at, stride, m, d, out):  # type: ignore[no-untyped-def]
    full = d - d % LANES
    for i in range(m):
        start = at + i * stride
        square = fill(out, 0.0)
        for j in range(0, full, LANES):
            v = widen(load(x, start + j))
            square = square + v * v
        if full < d:
            v = widen(masked_load(x, start + full, d - full))
            square = square + v * v
        out[i] = total(square)
    for i in range(m, BLOCK):
        out[i] = 0.0


@inline
def _add_rows(x, at, stride, m, d, factor, out, to):  # type: ignore[no-untyped-def]
    """Add the rows of a block, each times its factor."""
    full = d - d % LANES
    for j in range(0, full, LANES):
        one, other = load(out, to + j), fill(out, 0.0)
        for i in range(0, m - 1, 2):
            one = one + factor[i] * widen(load(x, at + i * stride + j))
            other = other + factor[i + 1] * widen(load(x, at + (i + 1) * stride + j))
        if m % 2 == 1:
            one = one + factor[m - 1] * widen(load(x, at + (m - 1) * stride + j))
        store(out, to + j, one + other)
    if full < d:
        one = fill(out, 0.0)
        for i in range(m):
            one = one + factor[i] * widen(masked_load(x, at + i * stride + full, d - full))
        masked_store(out, to + full, masked_load(out, to + full, d - full) + one, d - full)


@kernel
def forward(x, sb, sn, w, out, ball, c, d, n, chunks, low, high):  # type: ignore[no-untyped-def]
    """Sums of units of points: 1 + d numbers each, the time first."""
    square, weight, lead = np.empty(BLOCK), np.empty(BLOCK), 0 if ball else 1
    for unit in range(low, high):
        b, first = unit // chunks, (unit % chunks) * CHUNK
        last, to, time = min(n, first + CHUNK), unit * (1 + d), fill(square, 0.0)
        for j in range(1 + d):
            out[to + j] = 0.0
        for i in range(first, last, BLOCK):
            m, at = min(BLOCK, last - i), b * sb + i * sn + lead
            _weights(w, b * n + i, m, weight)
            _squares(x, at, sn, m, d, square)
            for k in range(0, m, LANES):
                n2, one = load(square, k), load(weight, k)
                if ball:
                    f = 2.0 / maximum(1.0 - c * n2, _FLOOR)
                    store(weight, k, one * f)
                    time = time + one * (f - 1.0)
                else:
                    time = time + one * sqrt(1.0 / c + n2)
            _add_rows(x, at, sn, m, d, weight, out, to + 1)
        out[to] = total(time)


@inline
def _products(x, at, stride, m, d, g, start, out):  # type: ignore[no-untyped-def]
    """Inner products of the rows of a block with one vector of float64 numbers."""
    full = d - d % LANES
    for i in range(m):
        row = at + i * stride
        product = fill(out, 0.0)
        for j in range(0, full, LANES):
            product = product + load(g, start + j) * widen(load(x, row + j))
        if full < d:
            product = product + masked_load(g, start + full, d - full) * widen(masked_load(x, row + full, d - full))
        out[i] = total(product)
    for i in range(m, BLOCK):
        out[i] = 0.0


@inline
def _blend(x, at, stride, m, d, g, start, to_g, to_x, out, to, step):  # type: ignore[no-untyped-def]
    full = d - d % LANES
    for i in range(m):
        row, target, a, b = at + i * stride, to + i * step, to_g[i], to_x[i]
        for j in range(0, full, LANES):
            store(out, target + j, narrow(a * load(g, start + j) + b * widen(load(x, row + j)), out))
        if full < d:
            r = d - full
            last = a * masked_load(g, start + full, r) + b * widen(masked_load(x, row + full, r))
            masked_store(out, target + full, narrow(last, out), r)


@kernel
def backward(x, sb, sn, w, g, gx, gw, gc, ball, c, d, n, chunks, low, high):  # type: ignore[no-untyped-def]
    """Gradients of the points and the weights, and of c a number for each unit."""
    square, weight, product = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    lead = 0 if ball else 1
    size = d + lead
    for unit in range(low, high):
        b, first = unit // chunks, (unit % chunks) * CHUNK
        last, start, slope = min(n, first + CHUNK), b * (1 + d) + 1, fill(square, 0.0)
        g0 = g[start - 1]
        for i in range(first, last, BLOCK):
            m, at, to = min(BLOCK, last - i), b * sb + i * sn + lead, (b * n + i) * size + lead
            _weights(w, b * n + i, m, weight)
            _squares(x, at, sn, m, d, square)
            _products(x, at, sn, m, d, g, start, product)
            for k in range(0, m, LANES):
                n2, one, along = load(square, k), load(weight, k), load(product, k)
                if ball:
                    gap = 1.0 - c * n2
                    f = 2.0 / maximum(gap, _FLOOR)
                    # The derivative by c|x|^2, none where the gap is at its floor.
                    rate = select(gap >= _FLOOR, 0.5 * f * f * (along + g0), 0.0)
                    slope = slope + one * rate * n2
                    store(square, k, 2.0 * c * one * rate)
                    store(weight, k, one * f)
                    store(product, k, along * f + g0 * (f - 1.0))
                else:
                    time = sqrt(1.0 / c + n2)
                    slope = slope - one * (0.5 * g0 / (c * c)) / time
                    store(square, k, one * g0 / time)
                    store(product, k, along + g0 * time)
            _blend(x, at, sn, m, d, g, start, weight, square, gx, to, size)
            if not ball:
                for k in range(m):
                    gx[to - 1 + k * size] = 0.0
            if gw.size > 0:
                for k in range(m):
                    gw[b * n + i + k] = product[k]
        gc[unit] = total(slope)


def _rows(x: Tensor) -> tuple[Any, int, int]:
    """Numbers of points (b, n, size) and the distances between sums and between points; a copy if it must be."""
    x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape[:2], x.stride()[:2], strict=True))
    return flat(x.as_strided((extent + x.shape[-1] - 1,), (1,))), x.stride(0), x.stride(1)


def _units(x: Tensor, ball: bool, c: Tensor | None, k: float) -> tuple[int, int, tuple[Any, ...]]:
    """Number of units, those worth a thread, and what ends a kernel's arguments."""
    b, n, size = x.shape
    chunks = -(-n // CHUNK)
    grain = max(1, _GRAIN // (size * min(n, CHUNK)))
    return b * chunks, grain, (ball, float(k if c is None else c.item()), size if ball else size - 1, n, chunks)


def sums(x: Tensor, w: Tensor | None, c: Tensor | None, k: float, ball: bool) -> Tensor:
    """Weighted sums of points (b, n, size), as (b, 1 + space) float64 numbers, the time first."""
    units, grain, last = _units(x, ball, c, k)
    found = torch.empty(units, 1 + last[2], dtype=torch.float64)
    weights = flat(x.new_empty(0) if w is None else w)
    parallel(forward, units, grain, *_rows(x), weights, flat(found), *last)
    return found if units == x.shape[0] else found.view(x.shape[0], -1, 1 + last[2]).sum(1)


def sums_back(
    g: Tensor, x: Tensor, w: Tensor | None, c: Tensor | None, k: float, ball: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sums` with respect to x, w (empty without) and c (0 where it is a number)."""
    units, grain, last = _units(x, ball, c, k)
    gx, gw = torch.empty(x.shape, dtype=x.dtype), x.new_empty(0 if w is None else w.shape)
    gc = torch.empty(units, dtype=torch.float64)
    weights = flat(x.new_empty(0) if w is None else w)
    parallel(backward, units, grain, *_rows(x), weights, flat(g), flat(gx), flat(gw), flat(gc), *last)
    slope = x.new_zeros(()) if c is None else gc.sum().to(c.dtype).reshape(c.shape)
    return gx, gw, slope

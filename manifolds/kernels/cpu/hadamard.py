"""CPU kernel of the fast Walsh-Hadamard transform: radix-8 passes in cache, whatever the length.

A pass of radix 8 does three of the log2 n butterfly stages on registers. Blocks that fit the second-level cache are
transformed whole; the remaining stages of longer vectors combine blocks, on tiles of a few columns that are copied to
a contiguous scratch, where their power-of-two strides do not compete for the same cache sets. A vector of 2^24 numbers
is thus read and written twice.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import LANES, Lanes, load, store

__all__ = ["transform"]

#: Bytes of a block that stays in the first-level and in the second-level cache.
_FIRST_LEVEL, _SECOND_LEVEL = 2**14, 2**17
#: Most rows of a tile, and its bytes across: two cache lines.
_TILE_ROWS, _TILE_WIDTH = 512, 128
#: `parallel` cuts at multiples of this many rows; units of work are counted in as many parts.
_UNIT = 64


def _lane_butterfly(bit: int) -> Any:
    """Make a function for the stage that combines the lanes whose numbers differ in one bit."""

    @intrinsic
    def butterfly(typing: Any, a: Lanes) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x = values[0]
            swap = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane ^ bit for lane in range(LANES)])
            sign = ir.Constant(x.type, [-1.0 if lane & bit else 1.0 for lane in range(LANES)])
            other = builder.shuffle_vector(x, x, swap)
            return builder.fadd(other, builder.fmul(x, sign, flags=("contract",)), flags=("contract",))

        return a(a), code

    return butterfly


_swap1, _swap2, _swap4 = _lane_butterfly(1), _lane_butterfly(2), _lane_butterfly(4)


@inline
def _within(a):  # type: ignore[no-untyped-def]
    return _swap4(_swap2(_swap1(a)))


@inline
def _radix4(a, b, c, d):  # type: ignore[no-untyped-def]
    p, q, r, s = a + b, a - b, c + d, c - d
    return p + r, q + s, p - r, q - s


@inline
def _radix8(a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
    a, b, c, d = _radix4(a, b, c, d)
    e, f, g, h = _radix4(e, f, g, h)
    return a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h


@inline
def _first(x, xo, y, yo, n, scale):  # type: ignore[no-untyped-def]
    """Stages up to stride 32 (up to 4 if n < 64), from x to y; return the next stride."""
    if n < 64:
        for i in range(0, n, 8):
            store(y, yo + i, _within(load(x, xo + i) * scale))
        return 8
    for i in range(0, n, 64):
        o = xo + i
        a, b = _within(load(x, o) * scale), _within(load(x, o + 8) * scale)
        c, d = _within(load(x, o + 16) * scale), _within(load(x, o + 24) * scale)
        e, f = _within(load(x, o + 32) * scale), _within(load(x, o + 40) * scale)
        g, h = _within(load(x, o + 48) * scale), _within(load(x, o + 56) * scale)
        a, b, c, d, e, f, g, h = _radix8(a, b, c, d, e, f, g, h)
        o = yo + i
        store(y, o, a), store(y, o + 8, b), store(y, o + 16, c), store(y, o + 24, d)
        store(y, o + 32, e), store(y, o + 40, f), store(y, o + 48, g), store(y, o + 56, h)
    return 64


@inline
def _pass8(y, start, n, s):  # type: ignore[no-untyped-def]
    for base in range(start, start + n, 8 * s):
        for o in range(base, base + s, 8):
            a, b, c, d = load(y, o), load(y, o + s), load(y, o + 2 * s), load(y, o + 3 * s)
            e, f, g, h = load(y, o + 4 * s), load(y, o + 5 * s), load(y, o + 6 * s), load(y, o + 7 * s)
            a, b, c, d, e, f, g, h = _radix8(a, b, c, d, e, f, g, h)
            store(y, o, a), store(y, o + s, b), store(y, o + 2 * s, c), store(y, o + 3 * s, d)
            store(y, o + 4 * s, e), store(y, o + 5 * s, f), store(y, o + 6 * s, g), store(y, o + 7 * s, h)


@inline
def _passes(y, start, n, stride):  # type: ignore[no-untyped-def]
    """Stages from `stride` on, in place, of the n numbers from `start` on."""
    s = stride
    while 8 * s <= n:
        _pass8(y, start, n, s)
        s *= 8
    if 4 * s == n:
        for o in range(start, start + s, 8):
            a, b, c, d = _radix4(load(y, o), load(y, o + s), load(y, o + 2 * s), load(y, o + 3 * s))
            store(y, o, a), store(y, o + s, b), store(y, o + 2 * s, c), store(y, o + 3 * s, d)
    elif 2 * s == n:
        for o in range(start, start + s, 8):
            a, b = load(y, o), load(y, o + s)
            store(y, o, a + b)
            store(y, o + s, a - b)


@kernel
def _rows(x, y, n, chunk, scale, low, high):  # type: ignore[no-untyped-def]
    """Rows of n >= 8 numbers that fit the second-level cache."""
    size = min(n, chunk)
    for row in range(low // _UNIT, high // _UNIT):
        for o in range(row * n, row * n + n, size):
            stride = _first(x, o, y, o, size, scale)
            _passes(y, o, size, stride)
        if size < n:
            _passes(y, row * n, n, size)


@kernel
def _short_rows(x, y, n, scale, low, high):  # type: ignore[no-untyped-def]
    """Rows of 1, 2 or 4 numbers."""
    for o in range(low * n, high * n, n):
        if n == 4:
            a, b, c, d = x[o] * scale, x[o + 1] * scale, x[o + 2] * scale, x[o + 3] * scale
            y[o], y[o + 1], y[o + 2], y[o + 3] = _radix4(a, b, c, d)
        elif n == 2:
            a, b = x[o] * scale, x[o + 1] * scale
            y[o], y[o + 1] = a + b, a - b
        else:
            y[o] = x[o] * scale


@kernel
def _tiles(y, stride, rows, width, low, high):  # type: ignore[no-untyped-def]
    """Stages from `stride` to `stride * rows`, on tiles of `width` columns of the (rows, stride) matrices of y."""
    scratch = np.empty(rows * width, y.dtype)
    across = stride // width
    for tile in range(low // _UNIT, high // _UNIT):
        start = tile // across * stride * rows + tile % across * width
        for row in range(rows):
            for j in range(0, width, 8):
                store(scratch, row * width + j, load(y, start + row * stride + j))
        _passes(scratch, 0, rows * width, width)
        for row in range(rows):
            for j in range(0, width, 8):
                store(y, start + row * stride + j, load(scratch, row * width + j))


def transform(x: np.ndarray, y: np.ndarray, n: int, scale: float) -> None:
    """Write the transform of the rows of n numbers of x, times `scale`, to y; both flat and contiguous.

    x and y may be the same array.
    """
    if x.size == 0:
        return
    number = x.dtype.type(scale)
    if n < 8:
        parallel(_short_rows, x.size // n, 16384, x, y, n, number)
        return
    block = min(n, _SECOND_LEVEL // x.itemsize)
    parallel(
        _rows, x.size // block * _UNIT, _UNIT * max(1, 2**15 // block), x, y, block, _FIRST_LEVEL // x.itemsize, number
    )
    stride, width = block, _TILE_WIDTH // x.itemsize
    while stride < n:
        rows = min(n // stride, _TILE_ROWS)
        units = x.size // (rows * width)
        parallel(_tiles, units * _UNIT, _UNIT * max(1, 2**15 // (rows * width)), y, stride, rows, width)
        stride *= rows

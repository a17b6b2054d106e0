"""Products of tall n x p matrices and algebra of p x p ones, p up to 32, as building blocks of kernels.

Tall matrices are row-major stretches of one-dimensional float32 or float64 arrays. p x p matrices live in float64, in
slots of one scratch array: `pitch(p)` numbers a row, the numbers past p being zeros, so that rows are whole vectors.
A slot is named by its offset. Gram matrices are summed in the dtype of the data over a block of rows, and over blocks
in float64: as right as a pairwise sum.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from holonomy.manifolds.kernels.cpu.jit import FRAGMENT, inline
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    Lanes,
    _splat,
    fill,
    load,
    masked_load,
    masked_store,
    narrow,
    store,
    widen,
)

__all__ = [
    "BLOCK",
    "add_gram",
    "add_product",
    "add_scaled",
    "apart",
    "cholesky_inverse",
    "clear",
    "combine_rows",
    "copy_narrow",
    "eigh",
    "eight_rows",
    "frobenius",
    "identity",
    "matmul",
    "multiply_rows",
    "outline",
    "pitch",
    "put",
    "put_eight",
    "spread",
    "symmetrize",
    "transpose",
]

#: Rows in a block of a tall matrix: 64 x 32 numbers in float64 are half of a first-level cache.
BLOCK = 64

_SWEEPS = 30
_TINY = 1e-300


def _apart(typing: Any) -> Any:
    """Keep the function that this is written in from being inlined: `outline` functions begin with it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), code


apart: Any = intrinsic(_apart)


def outline(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call, once a kernel: it is too long to be repeated wherever it is used."""
    options = {"fastmath": FRAGMENT["fastmath"], "error_model": FRAGMENT["error_model"], "forceinline": False}
    return numba.njit(function, **options)


@inline
def pitch(p):  # type: ignore[no-untyped-def]
    """Numbers in a row of a slot: p, rounded up to whole vectors."""
    return (p + LANES - 1) // LANES * LANES


def _spread(typing: Any, array: types.Array, offset: Any) -> Any:
    """Eight copies of one number of an array. Unlike indexing, this does not ask whether the offset is negative."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(array)(context, builder, values[0]).data
        return _splat(builder, builder.load(builder.gep(data, [values[1]])))

    return Lanes(array.dtype)(array, types.intp), code


spread: Any = intrinsic(_spread)


@inline
def _row(a, offset, count):  # type: ignore[no-untyped-def]
    return load(a, offset) if count >= LANES else masked_load(a, offset, count)


@inline
def put(a, offset, value, count):  # type: ignore[no-untyped-def]
    """Write the first `count` numbers of a vector, all from 8 on."""
    if count >= LANES:
        store(a, offset, value)
    else:
        masked_store(a, offset, value, count)


# -- tall matrices -------------------------------------------------------------------------------------------------


@inline
def _flush(w, at, value):  # type: ignore[no-untyped-def]
    store(w, at, load(w, at) + widen(value))


@inline
def _eight_columns(a, a0, b, b0, rows, step):  # type: ignore[no-untyped-def]
    """Sums over rows of the products of eight columns of a, one by one, with eight columns of b."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = fill(a, 0.0)
    for _ in range(rows):
        v = load(b, b0)
        s0 = s0 + spread(a, a0) * v
        s1 = s1 + spread(a, a0 + 1) * v
        s2 = s2 + spread(a, a0 + 2) * v
        s3 = s3 + spread(a, a0 + 3) * v
        s4 = s4 + spread(a, a0 + 4) * v
        s5 = s5 + spread(a, a0 + 5) * v
        s6 = s6 + spread(a, a0 + 6) * v
        s7 = s7 + spread(a, a0 + 7) * v
        a0 += step
        b0 += step
    return s0, s1, s2, s3, s4, s5, s6, s7


@inline
def _add_eight(w, at, width, sums):  # type: ignore[no-untyped-def]
    s0, s1, s2, s3, s4, s5, s6, s7 = sums
    _flush(w, at, s0)
    _flush(w, at + width, s1)
    _flush(w, at + 2 * width, s2)
    _flush(w, at + 3 * width, s3)
    _flush(w, at + 4 * width, s4)
    _flush(w, at + 5 * width, s5)
    _flush(w, at + 6 * width, s6)
    _flush(w, at + 7 * width, s7)


@inline
def _columns_left(a, a0, b, b0, rows, p, count, few):  # type: ignore[no-untyped-def]
    """As `_eight_columns`, for the first `few` columns of a (up to four) and the first `count` of b."""
    i1, i2, i3 = min(1, few - 1), min(2, few - 1), min(3, few - 1)
    s0 = s1 = s2 = s3 = fill(a, 0.0)
    for _ in range(rows):
        v = _row(b, b0, count)
        s0 = s0 + spread(a, a0) * v
        s1 = s1 + spread(a, a0 + i1) * v
        s2 = s2 + spread(a, a0 + i2) * v
        s3 = s3 + spread(a, a0 + i3) * v
        a0 += p
        b0 += p
    return s0, s1, s2, s3


@outline
def add_gram(a, a0, b, b0, rows, p, w, out):  # type: ignore[no-untyped-def]
    """Add a^T b to a slot, for `rows` rows (a block) of a and b."""
    apart()
    if p == 8:  # the same with the step known to the compiler
        _add_eight(w, out, 8, _eight_columns(a, a0, b, b0, rows, 8))
        return
    width, whole = pitch(p), p // 8 * 8
    for i in range(0, whole, 8):
        for j in range(0, whole, LANES):
            _add_eight(w, out + i * width + j, width, _eight_columns(a, a0 + i, b, b0 + j, rows, p))
    for i in range(0, p, 4):
        # Past p, the last column again: what it gives lands in rows of the slot that nobody reads.
        for j in range(0 if i >= whole else whole, p, LANES):
            at = out + i * width + j
            s0, s1, s2, s3 = _columns_left(a, a0 + i, b, b0 + j, rows, p, p - j, p - i)
            _flush(w, at, s0)
            _flush(w, at + width, s1)
            _flush(w, at + 2 * width, s2)
            _flush(w, at + 3 * width, s3)


@inline
def eight_rows(x, x0, step, m, j, p, width, sums):  # type: ignore[no-untyped-def]
    """Add to `sums`, for eight rows of x from x0 on that are `step` apart, columns j, ..., j + 7 of x m."""
    s0, s1, s2, s3, s4, s5, s6, s7 = sums
    for i in range(p):
        v, at = load(m, j + i * width), x0 + i
        s0 = s0 + spread(x, at) * v
        s1 = s1 + spread(x, at + step) * v
        s2 = s2 + spread(x, at + 2 * step) * v
        s3 = s3 + spread(x, at + 3 * step) * v
        s4 = s4 + spread(x, at + 4 * step) * v
        s5 = s5 + spread(x, at + 5 * step) * v
        s6 = s6 + spread(x, at + 6 * step) * v
        s7 = s7 + spread(x, at + 7 * step) * v
    return s0, s1, s2, s3, s4, s5, s6, s7


@inline
def put_eight(y, y0, step, sums, count):  # type: ignore[no-untyped-def]
    """Write the first `count` columns (all, from 8 on) of eight rows that are `step` apart."""
    s0, s1, s2, s3, s4, s5, s6, s7 = sums
    put(y, y0, s0, count)
    put(y, y0 + step, s1, count)
    put(y, y0 + 2 * step, s2, count)
    put(y, y0 + 3 * step, s3, count)
    put(y, y0 + 4 * step, s4, count)
    put(y, y0 + 5 * step, s5, count)
    put(y, y0 + 6 * step, s6, count)
    put(y, y0 + 7 * step, s7, count)


@outline
def combine_rows(y, y0, x, x0, a, u, u0, b, rows, p):  # type: ignore[no-untyped-def]
    """y = x a + u b for `rows` rows; a, b in the dtype of the data (`copy_narrow`), y none of the others."""
    apart()
    width, whole = pitch(p), rows // 8 * 8
    zero = fill(y, 0.0)
    zeros = (zero, zero, zero, zero, zero, zero, zero, zero)
    for r in range(0, whole, 8):
        if p == 8:  # the same with the sizes known to the compiler
            sums = eight_rows(x, x0 + r * 8, 8, a, 0, 8, 8, zeros)
            put_eight(y, y0 + r * 8, 8, eight_rows(u, u0 + r * 8, 8, b, 0, 8, 8, sums), 8)
            continue
        for j in range(0, p, LANES):
            sums = eight_rows(x, x0 + r * p, p, a, j, p, width, zeros)
            sums = eight_rows(u, u0 + r * p, p, b, j, p, width, sums)
            put_eight(y, y0 + r * p + j, p, sums, p - j)
    for r in range(whole, rows):
        for j in range(0, p, LANES):
            s = fill(y, 0.0)
            for i in range(p):
                s = s + spread(x, x0 + r * p + i) * load(a, j + i * width)
                s = s + spread(u, u0 + r * p + i) * load(b, j + i * width)
            put(y, y0 + r * p + j, s, p - j)


@outline
def multiply_rows(y, y0, a, rows, p, spare):  # type: ignore[no-untyped-def]
    """y = y a in place for `rows` rows. `spare` holds 8 rows."""
    apart()
    width = pitch(p)
    zero = fill(y, 0.0)
    zeros = (zero, zero, zero, zero, zero, zero, zero, zero)
    for r in range(0, rows, 8):
        count, at = min(8, rows - r), y0 + r * p
        if count == 8 and p == 8:  # eight whole rows are in registers before the first is written
            put_eight(y, at, 8, eight_rows(y, at, 8, a, 0, 8, 8, zeros), 8)
            continue
        for i in range(count * p):
            spare[i] = y[at + i]
        if count == 8:
            for j in range(0, p, LANES):
                put_eight(y, at + j, p, eight_rows(spare, 0, p, a, j, p, width, zeros), p - j)
        else:
            for k in range(count):
                for j in range(0, p, LANES):
                    s = fill(y, 0.0)
                    for i in range(p):
                        s = s + spread(spare, k * p + i) * load(a, j + i * width)
                    put(y, at + k * p + j, s, p - j)


# -- p x p matrices ------------------------------------------------------------------------------------------------


@outline
def clear(w, out, p):  # type: ignore[no-untyped-def]
    """Set a slot to zero, its spare rows too."""
    apart()
    width = pitch(p)
    for i in range(width * width):
        w[out + i] = 0.0


@inline
def _matmul(w, out, factor, a, b, p, width):  # type: ignore[no-untyped-def]
    for i in range(p):
        for j in range(0, width, LANES):
            s = fill(w, 0.0)
            for k in range(p):
                s = s + spread(w, a + i * width + k) * load(w, b + k * width + j)
            store(w, out + i * width + j, load(w, out + i * width + j) + factor * s)


@outline
def add_product(w, out, factor, a, b, p):  # type: ignore[no-untyped-def]
    """out += factor a b."""
    apart()
    if p == 8:  # the same with the sizes known to the compiler
        _matmul(w, out, factor, a, b, 8, 8)
    else:
        _matmul(w, out, factor, a, b, p, pitch(p))


@inline
def matmul(w, out, a, b, p):  # type: ignore[no-untyped-def]
    """out = a b."""
    clear(w, out, p)
    add_product(w, out, 1.0, a, b, p)


@outline
def add_scaled(w, out, factor, a, p):  # type: ignore[no-untyped-def]
    """out += factor a."""
    apart()
    for at in range(0, p * pitch(p), LANES):
        store(w, out + at, load(w, out + at) + factor * load(w, a + at))


@inline
def identity(w, out, factor, p):  # type: ignore[no-untyped-def]
    """out = factor I."""
    clear(w, out, p)
    for i in range(p):
        w[out + i * (pitch(p) + 1)] = factor


@outline
def transpose(w, out, a, p):  # type: ignore[no-untyped-def]
    """out = a^T."""
    apart()
    width = pitch(p)
    clear(w, out, p)
    for i in range(p):
        for j in range(p):
            w[out + i * width + j] = w[a + j * width + i]


@outline
def symmetrize(w, a, p):  # type: ignore[no-untyped-def]
    """a = (a + a^T)/2 in place."""
    apart()
    width = pitch(p)
    for i in range(p):
        for j in range(i):
            mean = 0.5 * (w[a + i * width + j] + w[a + j * width + i])
            w[a + i * width + j] = mean
            w[a + j * width + i] = mean


@outline
def frobenius(w, a, p):  # type: ignore[no-untyped-def]
    """Frobenius norm."""
    apart()
    total, width = 0.0, pitch(p)
    for i in range(p):
        for j in range(p):
            total += w[a + i * width + j] ** 2
    return math.sqrt(total)


@outline
def copy_narrow(w, a, out, p):  # type: ignore[no-untyped-def]
    """Copy a slot to an array in the dtype of the data."""
    apart()
    for at in range(0, p * pitch(p), LANES):
        store(out, at, narrow(load(w, a + at), out))


@inline
def _cholesky_inverse(w, a, out, p, width):  # type: ignore[no-untyped-def]
    for k in range(p):
        row = a + k * width
        scale = 1.0 / math.sqrt(w[row + k])
        for j in range(k // LANES * LANES, width, LANES):
            store(w, row + j, scale * load(w, row + j))
        for i in range(k + 1, p):
            c: Any = spread(w, row + i)
            for j in range(i // LANES * LANES, width, LANES):
                at = a + i * width + j
                store(w, at, load(w, at) - c * load(w, row + j))
    for i in range(p - 1, -1, -1):
        w[out + i * width + i] = 1.0
        scale = 1.0 / w[a + i * width + i]
        for j in range(i // LANES * LANES, width, LANES):
            s = load(w, out + i * width + j)
            for k in range(i + 1, p):
                s = s - spread(w, a + i * width + k) * load(w, out + k * width + j)
            store(w, out + i * width + j, scale * s)


@outline
def cholesky_inverse(w, a, out, p):  # type: ignore[no-untyped-def]
    """out = r^(-1), upper triangular, where a = r^T r; a is overwritten. NaN where a is not positive definite."""
    apart()
    clear(w, out, p)
    if p == 8:  # the same with the sizes known to the compiler
        _cholesky_inverse(w, a, out, 8, 8)
    else:
        _cholesky_inverse(w, a, out, p, pitch(p))


@inline
def _rotation(app, aqq, apq):  # type: ignore[no-untyped-def]
    """Cosine and sine of Jacobi's rotation, the one by at most pi/4."""
    t = 0.5 * (aqq - app) / apq
    t = math.copysign(1.0, t) / (abs(t) + math.sqrt(1.0 + t * t))
    c = 1.0 / math.sqrt(1.0 + t * t)
    return c, t * c


@inline
def _turn_rows(w, a, b, c, s, width):  # type: ignore[no-untyped-def]
    for j in range(0, width, LANES):
        x, y = load(w, a + j), load(w, b + j)
        store(w, a + j, c * x - s * y)
        store(w, b + j, s * x + c * y)


@outline
def eigh(w, a, vectors, p):  # type: ignore[no-untyped-def]
    """Eigenvalues on the diagonal of a, eigenvectors as rows: a symmetric and overwritten. By Jacobi's method.

    Rotations stop where an entry is below rounding relative to its two diagonal entries, so that small eigenvalues
    of a positive definite matrix are as right as its entries (Demmel, Veselic, SIAM J. Matrix Anal. 13, 1992).
    """
    apart()
    width = pitch(p)
    identity(w, vectors, 1.0, p)
    for _ in range(_SWEEPS):
        turned = 0
        for i in range(p - 1):
            for k in range(i + 1, p):
                at = a + i * width
                app, aqq, apq = w[at + i], w[a + k * width + k], w[at + k]
                if not abs(apq) > 1e-16 * math.sqrt(abs(app * aqq)) + _TINY:
                    continue
                turned += 1
                c, s = _rotation(app, aqq, apq)
                _turn_rows(w, at, a + k * width, c, s, width)
                for r in range(a, a + p * width, width):
                    x, y = w[r + i], w[r + k]
                    w[r + i] = c * x - s * y
                    w[r + k] = s * x + c * y
                w[at + k] = 0.0
                w[a + k * width + i] = 0.0
                _turn_rows(w, vectors + i * width, vectors + k * width, c, s, width)
        if turned == 0:
            break

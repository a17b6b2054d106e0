"""CPU kernels of bases of functions, B-splines and Chebyshev polynomials, for eight numbers at once.

Numbers lie along the last dimension here: x has shape (features, width) and values (features, functions, width), so
that every step is one vector instruction, whatever interval of the knots each number is in. The width is a multiple
of eight. The recursion of de Boor and Cox runs over all functions: with no branches and no gathers it costs less than
finding the interval of a single number. `to_rows` and `from_rows` move blocks to and from the order (width, ...).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import LANES, Lanes, fill, load, select, store

__all__ = [
    "bspline_pull",
    "bspline_tables",
    "bspline_values",
    "chebyshev_pull",
    "chebyshev_values",
    "from_rows",
    "to_rows",
]

#: Fewest groups of eight numbers that are worth a thread.
_GRAIN = 1024


# -- B-splines -----------------------------------------------------------------------------------------------------


@kernel
def _tables(knots, inverse, last, degree):  # type: ignore[no-untyped-def]
    """Invert the lengths of 1, ..., degree intervals of each feature; 0 where they are empty.

    last[f] is the last interval of feature f that is not empty. Return the first feature whose knots are not sorted,
    finite and of positive range, or -1.
    """
    features, count = knots.shape
    for f in range(features):
        first, end = knots[f, 0], knots[f, count - 1]
        sound = np.isfinite(first) and np.isfinite(end) and end > first
        for i in range(1, count):
            sound = sound and knots[f, i] >= knots[f, i - 1]
            if knots[f, i - 1] < end:
                last[f] = i - 1
        if not sound:
            return f
        for q in range(1, degree + 1):
            for i in range(count - q):
                length = knots[f, i + q] - knots[f, i]
                inverse[f, q - 1, i] = 1.0 / length if length > 0 else 0.0
    return -1


@inline
def _next(i, ahead, knots, t, inverse, w, count, degree, order, gap, scaled):  # type: ignore[no-untyped-def]
    """B-spline number i - degree, given that of degree 0 on interval i: one diagonal of the recursion.

    gap[j] = x - t_j; scaled[q] holds the last function of degree q - 1 over the length of its support.
    """
    new = ahead
    behind = load(gap, 8 * i + 8)
    for q in range(1, min(i + 1, degree) + 1):
        after = new * inverse[w + (q - 1) * count + i - q + 1]
        before = load(scaled, 8 * q)
        store(scaled, 8 * q, after)
        if q <= degree - order:
            new = load(gap, 8 * (i - q)) * before - behind * after
        else:
            new = (before - after) * fill(gap, q)
    return new


@inline
def _indicator(i, last, gap, reached):  # type: ignore[no-untyped-def]
    """One where x is in interval i, which the last that is not empty closes on the right; and where x >= t_(i + 1)."""
    behind = load(gap, 8 * i + 8)
    following = select(behind >= 0.0, fill(gap, 1.0), fill(gap, 0.0))
    if i == last:
        return reached - select(behind > 0.0, fill(gap, 1.0), fill(gap, 0.0)), following
    return reached - following, following


@kernel
def _bspline_values(x, knots, inverse, last, out, width, count, degree, order, low, high):  # type: ignore[no-untyped-def]
    groups, size = width // 8, count - degree - 1
    gap, scaled = np.empty(8 * count, x.dtype), np.empty(8 * (degree + 1), x.dtype)
    for unit in range(low, high):
        f, column = unit // groups, unit % groups * 8
        table = f % last.size
        t, w = table * count, table * degree * count
        value = load(x, f * width + column)
        for i in range(count):
            store(gap, 8 * i, value - knots[t + i])
        reached = select(load(gap, 0) >= 0.0, fill(gap, 1.0), fill(gap, 0.0))
        to = f * size * width + column
        for i in range(count - 1):
            ahead, reached = _indicator(i, last[table], gap, reached)
            new = _next(i, ahead, knots, t, inverse, w, count, degree, order, gap, scaled)
            if i >= degree:
                store(out, to + (i - degree) * width, new)


@kernel
def _bspline_pull(g, x, knots, inverse, last, out, width, count, degree, order, low, high):  # type: ignore[no-untyped-def]
    groups, size = width // 8, count - degree - 1
    gap, scaled = np.empty(8 * count, x.dtype), np.empty(8 * (degree + 1), x.dtype)
    for unit in range(low, high):
        f, column = unit // groups, unit % groups * 8
        table = f % last.size
        t, w = table * count, table * degree * count
        value = load(x, f * width + column)
        for i in range(count):
            store(gap, 8 * i, value - knots[t + i])
        reached = select(load(gap, 0) >= 0.0, fill(gap, 1.0), fill(gap, 0.0))
        at = f * size * width + column
        product = fill(x, 0.0)
        for i in range(count - 1):
            ahead, reached = _indicator(i, last[table], gap, reached)
            new = _next(i, ahead, knots, t, inverse, w, count, degree, order, gap, scaled)
            if i >= degree:
                product = product + load(g, at + (i - degree) * width) * new
        store(out, f * width + column, product)


# Cubic splines, the common case, with the diagonal of the recursion in registers: twice as fast.


@inline
def _next_cubic(i, ahead, behind, gaps, scaled, inverse, w, count, order):  # type: ignore[no-untyped-def]
    """`_next` for degree 3 and order 0 or 1; gaps are x - t_(i - 1), x - t_(i - 2), x - t_(i - 3)."""
    # The first functions of levels 2 and 3 exist from i = 1 and 2 on: what is in their place before is not used.
    a = ahead * inverse[w + i]
    new = gaps[0] * scaled[0] - behind * a
    b = new * inverse[w + count + max(i - 1, 0)]
    new = gaps[1] * scaled[1] - behind * b
    c = new * inverse[w + 2 * count + max(i - 2, 0)]
    if order == 0:
        new = gaps[2] * scaled[2] - behind * c
    else:
        new = (scaled[2] - c) * fill(inverse, 3.0)
    return new, (a, b, c)


@kernel
def _cubic_values(x, knots, inverse, last, out, width, count, order, low, high):  # type: ignore[no-untyped-def]
    groups, size = width // 8, count - 4
    zero, one = fill(x, 0.0), fill(x, 1.0)
    for unit in range(low, high):
        f, column = unit // groups, unit % groups * 8
        table = f % last.size
        t, w = table * count, table * 3 * count
        value = load(x, f * width + column)
        gaps, scaled, gap = (zero, zero, zero), (zero, zero, zero), value - knots[t]
        reached = select(gap >= 0.0, one, zero)
        to = (f * size - 3) * width + column
        for i in range(count - 1):
            behind = value - knots[t + i + 1]
            following = select(behind >= 0.0, one, zero)
            ahead = reached - (select(behind > 0.0, one, zero) if i == last[table] else following)
            new, scaled = _next_cubic(i, ahead, behind, gaps, scaled, inverse, w, count, order)
            reached, gaps, gap = following, (gap, gaps[0], gaps[1]), behind
            if i >= 3:
                store(out, to + i * width, new)


@kernel
def _cubic_pull(g, x, knots, inverse, last, out, width, count, order, low, high):  # type: ignore[no-untyped-def]
    groups, size = width // 8, count - 4
    zero, one = fill(x, 0.0), fill(x, 1.0)
    for unit in range(low, high):
        f, column = unit // groups, unit % groups * 8
        table = f % last.size
        t, w = table * count, table * 3 * count
        value = load(x, f * width + column)
        gaps, scaled, gap = (zero, zero, zero), (zero, zero, zero), value - knots[t]
        reached = select(gap >= 0.0, one, zero)
        at = (f * size - 3) * width + column
        product = zero
        for i in range(count - 1):
            behind = value - knots[t + i + 1]
            following = select(behind >= 0.0, one, zero)
            ahead = reached - (select(behind > 0.0, one, zero) if i == last[table] else following)
            new, scaled = _next_cubic(i, ahead, behind, gaps, scaled, inverse, w, count, order)
            reached, gaps, gap = following, (gap, gaps[0], gaps[1]), behind
            if i >= 3:
                product = product + load(g, at + i * width) * new
        store(out, f * width + column, product)


Tables = tuple[np.ndarray, np.ndarray, np.ndarray]


def bspline_tables(knots: np.ndarray, degree: int) -> Tables:
    """Prepare knots of shape (1, count) or (features, count) for `bspline_values` and `bspline_pull`.

    Raises
    ------
    ValueError
        If the knots of a feature decrease, are not finite or are all equal.
    """
    features, count = knots.shape
    inverse, last = np.zeros((features, degree, count), knots.dtype), np.zeros(features, np.int64)
    bad = _tables(knots, inverse, last, degree)
    if bad >= 0:
        raise ValueError(
            f"bspline: 'knots' must be finite, in ascending order and not all equal, got {knots[bad].tolist()}"
        )
    return knots.ravel(), inverse.ravel(), last


def bspline_values(x: np.ndarray, tables: Tables, out: np.ndarray, width: int, degree: int, order: int) -> None:
    """Write the B-splines' derivatives of given order at x (flat) to `out` (flat)."""
    count = tables[0].size // tables[2].size
    if order > degree:
        out[:] = 0.0
        return
    if degree == 3 and order <= 1:
        parallel(_cubic_values, x.size // 8, _GRAIN, x, *tables, out, width, count, order)
    else:
        parallel(_bspline_values, x.size // 8, _GRAIN, x, *tables, out, width, count, degree, order)


def bspline_pull(
    g: np.ndarray, x: np.ndarray, tables: Tables, out: np.ndarray, width: int, degree: int, order: int
) -> None:
    """Write the sums over functions of g times what `bspline_values` would give."""
    count = tables[0].size // tables[2].size
    if order > degree:
        out[:] = 0.0
        return
    if degree == 3 and order <= 1:
        parallel(_cubic_pull, x.size // 8, _GRAIN, g, x, *tables, out, width, count, order)
    else:
        parallel(_bspline_pull, x.size // 8, _GRAIN, g, x, *tables, out, width, count, degree, order)


# -- Chebyshev polynomials -----------------------------------------------------------------------------------------


@kernel
def _chebyshev_values(x, out, width, degree, low, high):  # type: ignore[no-untyped-def]
    groups = width // 8
    for unit in range(low, high):
        f, column = unit // groups, unit % groups * 8
        value = load(x, f * width + column)
        before, now, twice = value, fill(x, 1.0), value + value  # T_{-1} = T_1
        for k in range(degree + 1):
            store(out, (f * (degree + 1) + k) * width + column, now)
            after = twice * now - before
            before, now = now, after


@kernel
def _chebyshev_pull(g, x, out, width, degree, low, high):  # type: ignore[no-untyped-def]
    groups = width // 8
    for unit in range(low, high):
        f, column = unit // groups, unit % groups * 8
        value = load(x, f * width + column)
        before, now, twice = fill(x, 0.0), fill(x, 1.0), value + value  # U_{-1}, U_0
        product = fill(x, 0.0)
        for k in range(1, degree + 1):
            product = product + load(g, (f * (degree + 1) + k) * width + column) * (now * fill(x, k))
            after = twice * now - before
            before, now = now, after
        store(out, f * width + column, product)


def chebyshev_values(x: np.ndarray, out: np.ndarray, width: int, degree: int) -> None:
    """Write T_0, ..., T_degree at x (flat) to `out` (flat)."""
    parallel(_chebyshev_values, x.size // 8, _GRAIN, x, out, width, degree)


def chebyshev_pull(g: np.ndarray, x: np.ndarray, out: np.ndarray, width: int, degree: int) -> None:
    """Write sum_n g_n n U_{n-1}(x): the sums over functions of g times their derivatives."""
    parallel(_chebyshev_pull, x.size // 8, _GRAIN, g, x, out, width, degree)


# -- order of blocks -----------------------------------------------------------------------------------------------


def _exchange(bit: int, second: bool) -> Any:
    """Make a function for a stage of the transposition of 8 x 8 numbers: the new first or second row of a pair."""

    @intrinsic
    def exchange(typing: Any, a: Lanes, b: Lanes) -> Any:
        if second:
            take = [LANES + lane if lane & bit else lane + bit for lane in range(LANES)]
        else:
            take = [LANES + lane - bit if lane & bit else lane for lane in range(LANES)]

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.shuffle_vector(*values, ir.Constant(ir.VectorType(ir.IntType(32), LANES), take))

        return a(a, b), code

    return exchange


_low1, _high1, _low2, _high2, _low4, _high4 = (_exchange(bit, second) for bit in (1, 2, 4) for second in (False, True))


@inline
def _transpose(source, at, stride, target, to, step):  # type: ignore[no-untyped-def]
    """Transpose 8 x 8 numbers."""
    a, b = load(source, at), load(source, at + stride)
    c, d = load(source, at + 2 * stride), load(source, at + 3 * stride)
    e, f = load(source, at + 4 * stride), load(source, at + 5 * stride)
    g, h = load(source, at + 6 * stride), load(source, at + 7 * stride)
    a, b, c, d = _low1(a, b), _high1(a, b), _low1(c, d), _high1(c, d)
    e, f, g, h = _low1(e, f), _high1(e, f), _low1(g, h), _high1(g, h)
    a, c, b, d = _low2(a, c), _high2(a, c), _low2(b, d), _high2(b, d)
    e, g, f, h = _low2(e, g), _high2(e, g), _low2(f, h), _high2(f, h)
    store(target, to, _low4(a, e)), store(target, to + 4 * step, _high4(a, e))
    store(target, to + step, _low4(b, f)), store(target, to + 5 * step, _high4(b, f))
    store(target, to + 2 * step, _low4(c, g)), store(target, to + 6 * step, _high4(c, g))
    store(target, to + 3 * step, _low4(d, h)), store(target, to + 7 * step, _high4(d, h))


@kernel
def _to_rows(columns, rows, width, size, low, high):  # type: ignore[no-untyped-def]
    for start in range(low, high, 8):
        full = size - size % 8 if start + 8 <= high else 0
        for i in range(0, full, 8):
            _transpose(columns, i * width + start, width, rows, start * size + i, size)
        for row in range(start, min(high, start + 8)):
            for i in range(full, size):
                rows[row * size + i] = columns[i * width + row]


@kernel
def _from_rows(rows, columns, width, size, low, high):  # type: ignore[no-untyped-def]
    for start in range(low, high, 8):
        full = size - size % 8 if start + 8 <= high else 0
        for i in range(0, full, 8):
            _transpose(rows, start * size + i, size, columns, i * width + start, width)
        for row in range(start, min(high, start + 8)):
            for i in range(full, size):
                columns[i * width + row] = rows[row * size + i]


def to_rows(columns: np.ndarray, rows: np.ndarray, count: int) -> None:
    """Transpose the first `count` columns of a matrix (size, width) into the rows of (count, size); both flat."""
    size = rows.size // count
    if size == 1:
        rows[:] = columns[:count]
    else:
        parallel(_to_rows, count, max(1, 2**15 // size), columns, rows, columns.size // size, size)


def from_rows(rows: np.ndarray, columns: np.ndarray, count: int) -> None:
    """Transpose the rows of (count, size) into the first `count` columns of a matrix (size, width); both flat."""
    size = rows.size // count
    if size == 1:
        columns[:count] = rows
    else:
        parallel(_from_rows, count, max(1, 2**15 // size), rows, columns, columns.size // size, size)

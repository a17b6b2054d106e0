"""Distances of all pairs of rows on the CPU: values, gradients, and the nearest rows, by blocks that stay in cache.

Rows x_i lie one after the other; rows y_j are transposed, so that eight columns of the result make a vector, and padded
to whole vectors with zeros. The squared chord of a pair is summed from differences in registers, four rows and two
vectors at a time, never from products, so that close pairs keep their digits. Three kinds of pairs share the loops. A
kind is a tuple whose length says which, so that each has its own compiled code:

- `BALL`: scale arsinh(sqrt(q)), q = a_i b_j |x_i - y_j|^2;
- `SPHERE`: 2 atan2(|x_i - y_j|, |x_i + y_j|);
- `LORENTZ`: scale arsinh(sqrt(q)), q = c (|h|^2 - a^2)/4 with h = x_i - y_j, a the difference of the times and T their
  sum, evaluated without cancellation as (c |k|^2 T^2/4 + a^2)/(4 x_0 y_0) with k = h - (a/T)(x_i + y_j). The gradient
  of q in x_i is (c T/(4 x_0)) k.

`left` and `right` hold what a kind needs of each row and column: the factor (ball); the time, what its rounding lost,
and its inverse (Lorentz).
"""

import numpy as np

from holonomy.manifolds.kernels.cpu.jit import inline, kernel
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    any_lane,
    atan2,
    fill,
    load,
    log1p,
    masked_store,
    minimum,
    select,
    sqrt,
    store,
    total,
    widen,
)

__all__ = ["BALL", "LORENTZ", "SPHERE", "UNIT", "backward", "forward", "nearest"]

BALL, SPHERE, LORENTZ = (0,), (0, 0), (0, 0, 0)

#: The backward kernel's ranges are counted in steps of this many for each unit of its work.
UNIT = 64

_ROWS = 32  # rows of a block of the backward pass
_PANEL = 512  # most columns of a block
_TERMS = 64  # coordinates that are summed before a partial sum is added to the rest: bounds the rounding of long sums


@inline
def _panel(d):  # type: ignore[no-untyped-def]
    """Columns of a block: what keeps its coordinates within 128 KB, a multiple of 16."""
    return max(16, min(_PANEL, 32768 // d // 16 * 16))


# -- squared chords of four rows with a panel of columns -----------------------------------------------------------


@inline
def _squares(x, i0, i1, i2, i3, yt, y0, m, d, width, out, o):  # type: ignore[no-untyped-def]
    """|x_i - y_j|^2 of four rows (offsets i0 to i3 of x) and `width` columns, to the four rows of `out` from `o` on."""
    for first in range(0, d, _TERMS):
        last = min(d, first + _TERMS)
        for j in range(0, width, 2 * LANES):
            zero = fill(out, 0.0)
            a0, a1, a2, a3, b0, b1, b2, b3 = zero, zero, zero, zero, zero, zero, zero, zero
            for k in range(first, last):
                ya, yb = load(yt, y0 + k * m + j), load(yt, y0 + k * m + j + LANES)
                p = fill(out, x[i0 + k])
                u, v = p - ya, p - yb
                a0, b0 = a0 + u * u, b0 + v * v
                p = fill(out, x[i1 + k])
                u, v = p - ya, p - yb
                a1, b1 = a1 + u * u, b1 + v * v
                p = fill(out, x[i2 + k])
                u, v = p - ya, p - yb
                a2, b2 = a2 + u * u, b2 + v * v
                p = fill(out, x[i3 + k])
                u, v = p - ya, p - yb
                a3, b3 = a3 + u * u, b3 + v * v
            _put(out, o + j, first, a0, b0)
            _put(out, o + _PANEL + j, first, a1, b1)
            _put(out, o + 2 * _PANEL + j, first, a2, b2)
            _put(out, o + 3 * _PANEL + j, first, a3, b3)


@inline
def _put(out, o, first, a, b):  # type: ignore[no-untyped-def]
    """Write two vectors, or add them to what the coordinates before `first` gave."""
    if first > 0:
        store(out, o, a + load(out, o))
        store(out, o + LANES, b + load(out, o + LANES))
    else:
        store(out, o, a)
        store(out, o + LANES, b)


@inline
def _slant(left, i, n, right, j, m, out):  # type: ignore[no-untyped-def]
    """Difference and sum of the times of a row and a vector of columns."""
    a = (left[i] - load(right, j)) + (left[n + i] - load(right, m + j))
    return a, left[i] + load(right, j)


@inline
def _slanted(x, i, i0, i1, i2, i3, yt, y0, m, d, width, left, n, right, r0, size, out, o):  # type: ignore[no-untyped-def]
    """|k|^2 of the same pairs, for Lorentz; `i` holds the numbers of the rows whose coordinates start at i0 to i3."""
    for first in range(0, d, _TERMS):
        last = min(d, first + _TERMS)
        for j in range(0, width, LANES):
            zero = fill(out, 0.0)
            a0, a1, a2, a3 = zero, zero, zero, zero
            a, t = _slant(left, i[0], n, right, r0 + j, size, out)
            q0 = a / t
            a, t = _slant(left, i[1], n, right, r0 + j, size, out)
            q1 = a / t
            a, t = _slant(left, i[2], n, right, r0 + j, size, out)
            q2 = a / t
            a, t = _slant(left, i[3], n, right, r0 + j, size, out)
            q3 = a / t
            for k in range(first, last):
                y = load(yt, y0 + k * m + j)
                p = fill(out, x[i0 + k])
                u = (p - y) - q0 * (p + y)
                a0 = a0 + u * u
                p = fill(out, x[i1 + k])
                u = (p - y) - q1 * (p + y)
                a1 = a1 + u * u
                p = fill(out, x[i2 + k])
                u = (p - y) - q2 * (p + y)
                a2 = a2 + u * u
                p = fill(out, x[i3 + k])
                u = (p - y) - q3 * (p + y)
                a3 = a3 + u * u
            if first > 0:
                store(out, o + j, a0 + load(out, o + j))
                store(out, o + _PANEL + j, a1 + load(out, o + _PANEL + j))
                store(out, o + 2 * _PANEL + j, a2 + load(out, o + 2 * _PANEL + j))
                store(out, o + 3 * _PANEL + j, a3 + load(out, o + 3 * _PANEL + j))
            else:
                store(out, o + j, a0)
                store(out, o + _PANEL + j, a1)
                store(out, o + 2 * _PANEL + j, a2)
                store(out, o + 3 * _PANEL + j, a3)


@inline
def _is_uneven(whole, inverse, inverses, c):  # type: ignore[no-untyped-def]
    """Where |a| > T/2, as far as it matters, from T and the inverses of both times."""
    ratio = whole * whole * (inverse * inverses)
    return minimum(ratio * (1000.0 / 5.3), c * whole * whole) > 1000.0


@inline
def _distant(x, i, yt, y0, m, d, width, left, n, right, r0, size, c, out, o):  # type: ignore[no-untyped-def]
    """|k|^2 of a row again, where one point is far beyond the other: 2 (y_0 x - x_0 y)/T has shorter terms there."""
    for j in range(0, width, LANES):
        time = load(right, r0 + j)
        whole = left[i] + time
        uneven = _is_uneven(whole, left[2 * n + i], load(right, 2 * size + r0 + j), c)
        if any_lane(uneven):
            near, far = 2.0 * time / whole, 2.0 * left[i] / whole
            square = fill(out, 0.0)
            for k in range(d):
                u = near * x[i * d + k] - far * load(yt, y0 + k * m + j)
                square = square + u * u
            store(out, o + j, select(uneven, square, load(out, o + j)))


@inline
def _chords(kind, x, yt, flip, left, right, c, sizes, row, last, batch, j, width, s, t, o):  # type: ignore[no-untyped-def]
    """Squared chords of the rows row, ..., row + 3 (none past `last`) with a panel: into s, and the cochords into t."""
    _, m, d, rows = sizes
    r0, r1, r2, r3 = row, min(row + 1, last), min(row + 2, last), min(row + 3, last)
    y0 = batch * d * m + j
    if len(kind) == 3:
        number = (r0, r1, r2, r3)
        r = batch * m + j
        size = right.size // 3
        _slanted(x, number, r0 * d, r1 * d, r2 * d, r3 * d, yt, y0, m, d, width, left, rows, right, r, size, s, o)
        for at in range(4):
            _distant(x, number[at], yt, y0, m, d, width, left, rows, right, r, size, c[batch], s, o + at * _PANEL)
    else:
        _squares(x, r0 * d, r1 * d, r2 * d, r3 * d, yt, y0, m, d, width, s, o)
        if len(kind) == 2:
            _squares(x, r0 * d, r1 * d, r2 * d, r3 * d, flip, y0, m, d, width, t, o)


@inline
def _argument(kind, s, o, left, i, rows, right, j, c):  # type: ignore[no-untyped-def]
    """q of a row and a vector of columns, and its first term where it is a sum."""
    square = load(s, o)
    if len(kind) == 1:
        q = square * (fill(s, left[i]) * load(right, j))
        return q, q
    size = right.size // 3
    a, t = _slant(left, i, rows, right, j, size, s)
    p, r = left[2 * rows + i], load(right, 2 * size + j)
    first = (0.0625 * c) * square * ((t * p) * (t * r))
    return first + 0.25 * ((a * p) * (a * r)), first


@inline
def _arsinh_root(q):  # type: ignore[no-untyped-def]
    """2 arsinh(sqrt(q)), exact to rounding from 0 on."""
    p = 2.0 * q
    return log1p(p + sqrt(p * (p + 2.0)))


# -- values --------------------------------------------------------------------------------------------------------


@kernel
def forward(kind, x, yt, flip, left, right, c, scale, out, sizes, low, high):  # type: ignore[no-untyped-def]
    """Distances of the rows low, ..., high - 1 of all batches. sizes: n, columns, d, padded columns."""
    n, columns, d, m = sizes
    s = np.empty(4 * _PANEL, x.dtype)
    t = np.empty(4 * _PANEL, x.dtype)
    rows = x.size // d
    panel = _panel(d)
    shape = (n, m, d, rows)
    start = low
    while start < high:
        batch = start // n
        stop = min(high, (batch + 1) * n, start + 64)
        for j0 in range(0, columns, panel):
            width = min(panel, m - j0)
            for row in range(start, stop, 4):
                _chords(kind, x, yt, flip, left, right, c, shape, row, stop - 1, batch, j0, width, s, t, 0)
                for i in range(row, min(row + 4, stop)):
                    o = (i - row) * _PANEL
                    for j in range(0, min(width, columns - j0), LANES):
                        if len(kind) == 2:
                            v = 2.0 * atan2(sqrt(load(s, o + j)), sqrt(load(t, o + j)))
                        else:
                            q, _ = _argument(kind, s, o + j, left, i, rows, right, batch * m + j0 + j, c[batch])
                            v = (0.5 * scale) * _arsinh_root(q)
                        place = i * columns + j0 + j
                        if j0 + j + LANES <= columns:
                            store(out, place, v)
                        else:
                            masked_store(out, place, v, columns - j0 - j)
        start = stop


# -- gradients -----------------------------------------------------------------------------------------------------


@inline
def _pull_rows(t, rows, width, x, row, yt, y0, m, d, sums):  # type: ignore[no-untyped-def]
    """Add sum_j t_ij (x_i - y_j) over a panel to the rows of `sums`, two rows and two coordinates at a time."""
    for i in range(0, rows, 2):
        i1 = min(i + 1, rows - 1)
        for k in range(0, d, 2):
            k1 = min(k + 1, d - 1)
            x00, x01 = fill(t, x[(row + i) * d + k]), fill(t, x[(row + i) * d + k1])
            x10, x11 = fill(t, x[(row + i1) * d + k]), fill(t, x[(row + i1) * d + k1])
            zero = fill(t, 0.0)
            a00, a01, a10, a11, b00, b01, b10, b11 = zero, zero, zero, zero, zero, zero, zero, zero
            for j in range(0, width, 2 * LANES):
                t0, t1 = load(t, i * _PANEL + j), load(t, i1 * _PANEL + j)
                u0, u1 = load(yt, y0 + k * m + j), load(yt, y0 + k1 * m + j)
                a00, a01 = a00 + t0 * (x00 - u0), a01 + t0 * (x01 - u1)
                a10, a11 = a10 + t1 * (x10 - u0), a11 + t1 * (x11 - u1)
                t0, t1 = load(t, i * _PANEL + j + LANES), load(t, i1 * _PANEL + j + LANES)
                u0, u1 = load(yt, y0 + k * m + j + LANES), load(yt, y0 + k1 * m + j + LANES)
                b00, b01 = b00 + t0 * (x00 - u0), b01 + t0 * (x01 - u1)
                b10, b11 = b10 + t1 * (x10 - u0), b11 + t1 * (x11 - u1)
            sums[i * d + k] += total(a00 + b00)
            if k1 > k:
                sums[i * d + k1] += total(a01 + b01)
            if i1 > i:
                sums[i1 * d + k] += total(a10 + b10)
                if k1 > k:
                    sums[i1 * d + k1] += total(a11 + b11)


@inline
def _pull_columns(t, rows, width, x, row, yt, y0, m, d, sign, sums, o):  # type: ignore[no-untyped-def]
    """Add sign sum_i t_ij (y_j - x_i) over a block's rows, an even number, to `sums` (laid out as yt) from `o` on."""
    last = x.size // d - 1
    for k in range(0, d, 2):
        k1 = min(k + 1, d - 1)
        for j in range(0, width, 2 * LANES):
            y00, y01 = load(yt, y0 + k * m + j), load(yt, y0 + k * m + j + LANES)
            y10, y11 = load(yt, y0 + k1 * m + j), load(yt, y0 + k1 * m + j + LANES)
            zero = fill(t, 0.0)
            a00, a01, a10, a11, b00, b01, b10, b11 = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(0, rows, 2):
                place = (row + i) * d
                x0, x1 = fill(t, x[place + k]), fill(t, x[place + k1])
                t0, t1 = load(t, i * _PANEL + j), load(t, i * _PANEL + j + LANES)
                a00, a01 = a00 + t0 * (y00 - x0), a01 + t1 * (y01 - x0)
                a10, a11 = a10 + t0 * (y10 - x1), a11 + t1 * (y11 - x1)
                place = min(row + i + 1, last) * d
                x0, x1 = fill(t, x[place + k]), fill(t, x[place + k1])
                t0, t1 = load(t, (i + 1) * _PANEL + j), load(t, (i + 1) * _PANEL + j + LANES)
                b00, b01 = b00 + t0 * (y00 - x0), b01 + t1 * (y01 - x0)
                b10, b11 = b10 + t0 * (y10 - x1), b11 + t1 * (y11 - x1)
            place = o + k * m + j
            store(sums, place, load(sums, place) + sign * widen(a00 + b00))
            store(sums, place + LANES, load(sums, place + LANES) + sign * widen(a01 + b01))
            if k1 > k:
                place = o + k1 * m + j
                store(sums, place, load(sums, place) + sign * widen(a10 + b10))
                store(sums, place + LANES, load(sums, place + LANES) + sign * widen(a11 + b11))


@inline
def _slopes(kind, s, t, o, g, left, i, rows, right, j, c):  # type: ignore[no-untyped-def]
    """Weights of x - y and of x + y in the gradients of a row and a vector of columns, and what else is summed.

    Returns the two weights, a term of the row, one of the column, and one of the curvature; 0 at coincident points.
    """
    if len(kind) == 2:
        chord, cochord = load(s, o), load(t, o)
        product = sqrt(chord * cochord)
        none = product == 0.0
        inverse = 2.0 * g / select(none, 1.0, product)
        inverse = select(none, 0.0, inverse)
        turn = 2.0 * inverse / (chord + cochord)
        near = chord <= cochord
        along = select(near, -1.0 * chord, cochord) * turn
        return select(near, inverse, 0.0), select(near, 0.0, -1.0 * inverse), along, along, along
    q, first = _argument(kind, s, o, left, i, rows, right, j, c)
    none = q == 0.0
    # d arsinh(sqrt(q)) / dq, with the gradient that arrives.
    w = select(none, 0.0, 0.5 * g / sqrt(select(none, 1.0, q * (1.0 + q))))
    if len(kind) == 1:
        weight = 2.0 * w * (fill(s, left[i]) * load(right, j))
        return weight, weight, w * q, w * q, w
    size = right.size // 3
    a, time = _slant(left, i, rows, right, j, size, s)
    weight = (0.25 * c) * w * time
    # Half the inner product of k with the space parts, which is known better than k itself far from the origin.
    half = 0.5 * w
    radial, coradial = half * (a + 2.0 * q * left[i]), half * (2.0 * q * load(right, j) - a)
    return weight, -1.0 * weight * (a / time), radial, coradial, w * first


@inline
def _pull_distant(weight, x, i, yt, y, m, d, left, n, right, r, size, c, sums, k0, columns, o):  # type: ignore[no-untyped-def]
    """Add weight k of the pairs that `_distant` takes to the sums of row and columns; return where that is.

    k comes from its short terms there: the sums of x - y and of x + y would be longer than what they make.
    """
    time = load(right, r)
    whole = left[i] + time
    uneven = _is_uneven(whole, left[2 * n + i], load(right, 2 * size + r), c)
    if any_lane(uneven):
        near = select(uneven, weight * (2.0 * time / whole), 0.0)
        far = select(uneven, weight * (2.0 * left[i] / whole), 0.0)
        for k in range(d):
            u = near * x[i * d + k] - far * load(yt, y + k * m)
            sums[k0 + k] += total(u)
            place = o + k * m
            store(columns, place, load(columns, place) - widen(u))
    return uneven


@inline
def _fetch(g, i, columns, j0, width, steps, scale, out):  # type: ignore[no-untyped-def]
    """Copy the gradients that arrive at a row and a panel, scaled, with zeros past the last column.

    `steps` are their strides by row and by column, the latter 0 or 1.
    """
    place, count = i * steps[0] + j0 * steps[1], min(width, columns - j0)
    if steps[1] == 1:
        for j in range(count):
            out[j] = scale * g[place + j]
    else:
        out[:count] = scale * g[place]
    out[count:width] = 0.0


@kernel
def backward(kind, x, yt, flip, left, right, c, scale, g, steps, sizes, units, gx, gy, gl, gr, gc, low, high):  # type: ignore[no-untyped-def]
    """Gradients, for the units low/UNIT, ..., high/UNIT - 1 of the work: chunks of the rows of a batch.

    gx: sums of each row in float64. gy: one sum for each unit, laid out as a batch of yt. gl, gr, gc: sums of the
    further terms of `_slopes`, by row, by unit and column, and by row.
    """
    n, columns, d, m = sizes
    chunks, height = units
    rows = x.size // d
    shape = (n, m, d, rows)
    panel = _panel(d)
    s = np.zeros((_ROWS + 4) * _PANEL, x.dtype)
    t = np.zeros((_ROWS + 4) * _PANEL, x.dtype)
    given = np.empty(_PANEL, x.dtype)
    for unit in range(low // UNIT, high // UNIT):
        batch = unit // chunks
        first = batch * n + (unit % chunks) * height
        stop = min((batch + 1) * n, first + height)
        for row in range(first, stop, _ROWS):
            count = min(_ROWS, stop - row)
            even = count + count % 2
            sums = gx[row * d : (row + count) * d]
            for j0 in range(0, columns, panel):
                width = min(panel, m - j0)
                for i in range(0, count, 4):
                    _chords(
                        kind, x, yt, flip, left, right, c, shape, row + i, stop - 1, batch, j0, width, s, t, i * _PANEL
                    )
                for i in range(count):
                    _fetch(g, row + i, columns, j0, width, steps, scale, given)
                    rest, rest_c = fill(s, 0.0), fill(s, 0.0)
                    for j in range(0, width, LANES):
                        o = i * _PANEL + j
                        a, b, e, f, h = _slopes(
                            kind, s, t, o, load(given, j), left, row + i, rows, right, batch * m + j0 + j, c[batch]
                        )
                        if len(kind) == 3:
                            place = batch * m + j0 + j
                            uneven = _pull_distant(
                                a, x, row + i, yt, batch * d * m + j0 + j, m, d, left, rows, right, place,
                                right.size // 3, c[batch], sums, i * d, gy, unit * d * m + j0 + j,
                            )  # fmt: skip
                            a, b = select(uneven, 0.0, a), select(uneven, 0.0, b)
                        store(s, o, a)
                        if len(kind) > 1:
                            store(t, o, b)
                        rest = rest + e
                        if len(kind) == 3:
                            rest_c = rest_c + h
                        place = unit * m + j0 + j
                        store(gr, place, load(gr, place) + widen(f))
                    gl[row + i] += total(rest)
                    if len(kind) == 3:
                        gc[row + i] += total(rest_c)
                if even > count:
                    s[count * _PANEL : even * _PANEL] = 0.0
                    t[count * _PANEL : even * _PANEL] = 0.0
                y0, o = batch * d * m + j0, unit * d * m + j0
                _pull_rows(s, count, width, x, row, yt, y0, m, d, sums)
                _pull_columns(s, even, width, x, row, yt, y0, m, d, 1.0, gy, o)
                if len(kind) > 1:
                    _pull_rows(t, count, width, x, row, flip, y0, m, d, sums)
                    _pull_columns(t, even, width, x, row, flip, y0, m, d, 1.0 if len(kind) == 3 else -1.0, gy, o)


# -- nearest rows --------------------------------------------------------------------------------------------------


@inline
def _insert(keys, indices, o, k, key, index):  # type: ignore[no-untyped-def]
    """Put a key that is below the last of k sorted ones in its place, behind those that it equals."""
    at = k - 1
    while at > 0 and keys[o + at - 1] > key:
        keys[o + at], indices[o + at] = keys[o + at - 1], indices[o + at - 1]
        at -= 1
    keys[o + at], indices[o + at] = key, index


@inline
def _complete(indices, itself):  # type: ignore[no-untyped-def]
    """Fill places that no column took, as all keys were infinite or NaN, with the lowest numbers that are free."""
    index = 0
    for at in range(indices.size):
        while indices[at] < 0:
            free = index != itself
            for other in indices:
                free = free and other != index
            if free:
                indices[at] = index
            index += 1


@kernel
def nearest(kind, x, yt, flip, left, right, c, k, skip, out, sizes, low, high):  # type: ignore[no-untyped-def]
    """Indices of the k nearest columns of the rows low, ..., high - 1, nearest first.

    With `skip`, not the column of the row's own number, where every `skip` rows are counted anew.

    Rows are compared by what grows with the distance and is known no worse: q, and on the sphere the chord up to a
    right angle and 2 sqrt(2) less the cochord past it.
    """
    n, columns, d, m = sizes
    s = np.empty(4 * _PANEL, x.dtype)
    t = np.empty(4 * _PANEL, x.dtype)
    keys = np.empty(64 * k, x.dtype)
    indices = np.empty(64 * k, np.int64)
    rows = x.size // d
    panel = _panel(d)
    shape = (n, m, d, rows)
    start = low
    while start < high:
        batch = start // n
        stop = min(high, (batch + 1) * n, start + 64)
        keys[:] = np.inf
        indices[:] = -1
        for j0 in range(0, columns, panel):
            width = min(panel, m - j0)
            for row in range(start, stop, 4):
                _chords(kind, x, yt, flip, left, right, c, shape, row, stop - 1, batch, j0, width, s, t, 0)
                for i in range(row, min(row + 4, stop)):
                    o, best = (i - row) * _PANEL, (i - start) * k
                    worst = fill(s, keys[best + k - 1])
                    itself = i % skip if skip > 0 else -1
                    for j in range(0, min(width, columns - j0), LANES):
                        if len(kind) == 2:
                            chord, cochord = load(s, o + j), load(t, o + j)
                            edge = sqrt(minimum(chord, cochord))
                            key = select(chord <= cochord, edge, 2.8284271247461903 - edge)
                        else:
                            key, _ = _argument(kind, s, o + j, left, i, rows, right, batch * m + j0 + j, c[batch])
                        if any_lane(key < worst):
                            store(s, o + j, key)
                            for lane in range(min(LANES, columns - j0 - j)):
                                index = j0 + j + lane
                                if s[o + j + lane] < keys[best + k - 1] and index != itself:
                                    _insert(keys, indices, best, k, s[o + j + lane], index)
                            worst = fill(s, keys[best + k - 1])
        for i in range(start, stop):
            best = (i - start) * k
            _complete(indices[best : best + k], i % skip if skip > 0 else -1)
            out[i * k : (i + 1) * k] = indices[best : best + k]
        start = stop

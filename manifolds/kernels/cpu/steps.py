"""Optimizer steps on rows of points, in place and in one pass over memory, for the ball, hyperboloid and sphere.

Eight rows at a time are read into a small scratch array, turned so that a vector holds one coordinate of eight points:
rows of any length then fill the registers, and sums over a row need no sums across a register. A step has three parts:

1. *gradient* makes the Riemannian gradient g of the Euclidean one, and gives |g|^2, and the factor of x in log_x(o);
2. the moment and the velocity u are formed, alike on every manifold:
   ``m <- keep m + take g``,  ``u = rate m + direct g + decay log_x(o)``, where Adam finds `rate` from |g|^2;
3. *move* takes x along u, brings it back onto the manifold, and transports m.

The formulas are those of the manifolds' own files, which are the reference.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from holonomy.manifolds.kernels.cpu.even import arsinhc, sech2, tanhc
from holonomy.manifolds.kernels.cpu.jit import inline, kernel
from holonomy.manifolds.kernels.cpu.lanes import (
    _INT,
    LANES,
    _element,
    any_lane,
    exp,
    is_single,
    like,
    load,
    maximum,
    narrow,
    pointer,
    polynomial,
    select,
    sin,
    sqrt,
    store,
    widen,
)

__all__ = ["NUMBERS", "ball", "lorentz", "sphere"]

#: What a step takes as numbers, in this order.
NUMBERS = (
    "sign",  # of the gradient: -1 to maximize
    "coupled",  # weight decay that enters the gradient
    "decoupled",  # weight decay that enters the velocity, times the learning rate
    "keep",
    "take",
    "rate",
    "direct",
    "beta2",  # negative: no second moment, and `rate` is used as it is
    "correction2",
    "eps",
)
_SIGN, _COUPLED, _DECOUPLED, _KEEP, _TAKE, _RATE, _DIRECT, _BETA2, _CORRECTION2, _EPS = range(len(NUMBERS))


# -- reading and writing eight rows --------------------------------------------------------------------------------


def _mix(builder, a, b, mask):  # type: ignore[no-untyped-def]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(mask)), mask))


def _turn(builder, rows):  # type: ignore[no-untyped-def]
    """Transpose: rows i and i + 4 come as halves (i, 0) | (i + 4, 0), then (i, 1) | (i + 4, 1); so do the results."""
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    first, second = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    turned = []
    for h in (0, 4):
        a, b, c, d = rows[h : h + 4]
        ab, cd = _mix(builder, a, b, low), _mix(builder, c, d, low)
        turned += [_mix(builder, ab, cd, first), _mix(builder, ab, cd, second)]
        ab, cd = _mix(builder, a, b, high), _mix(builder, c, d, high)
        turned += [_mix(builder, ab, cd, first), _mix(builder, ab, cd, second)]
    return turned


def _half(dtype):  # type: ignore[no-untyped-def]
    return ir.PointerType(ir.VectorType(_element(dtype), LANES // 2))


_BOTH = list(range(LANES))


@intrinsic
def _turn_in(typing, source, places, column, target, at):  # type: ignore[no-untyped-def]
    """Read eight columns of eight rows, which begin at `places`, and write the columns to `target`."""
    bits = source.dtype.bitwidth // 8

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        memory, starts, offset, buffer, where = values
        word = ir.IntType(64)
        begin = [builder.load(builder.gep(starts, [ir.Constant(word, i)])) for i in range(LANES)]
        rows = []
        for h in (0, LANES // 2):
            for i in range(LANES // 2):
                halves = []
                for k in (i, i + LANES // 2):
                    place = builder.add(builder.add(begin[k], offset), ir.Constant(word, h))
                    halves.append(
                        builder.load(builder.bitcast(builder.gep(memory, [place]), _half(source.dtype)), align=bits)
                    )
                rows.append(_mix(builder, *halves, _BOTH))
        for k, column in enumerate(_turn(builder, rows)):
            place = builder.gep(buffer, [builder.add(where, ir.Constant(word, k * LANES))])
            builder.store(column, builder.bitcast(place, ir.PointerType(column.type)), align=bits)
        return context.get_dummy_value()

    return types.void(source, places, types.intp, target, types.intp), code


@intrinsic
def _turn_out(typing, source, at, target, places, column):  # type: ignore[no-untyped-def]
    """Write eight columns back to eight rows: what `_turn_in` reads."""
    bits = source.dtype.bitwidth // 8

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        buffer, where, memory, starts, offset = values
        word = ir.IntType(64)
        begin = [builder.load(builder.gep(starts, [ir.Constant(word, i)])) for i in range(LANES)]
        kind = ir.PointerType(ir.VectorType(_element(source.dtype), LANES))
        columns = []
        for k in range(LANES):
            place = builder.gep(buffer, [builder.add(where, ir.Constant(word, k * LANES))])
            columns.append(builder.load(builder.bitcast(place, kind), align=bits))
        # Columns 0..3 turned hold the first halves of the rows i | i + 4, columns 4..7 the second.
        turned = _turn(builder, columns)
        for h in (0, LANES // 2):
            for i in range(LANES // 2):
                for k, mask in ((i, _BOTH[: LANES // 2]), (i + LANES // 2, _BOTH[LANES // 2 :])):
                    place = builder.gep(memory, [builder.add(builder.add(begin[k], offset), ir.Constant(word, h))])
                    half = _mix(builder, turned[h + i], turned[h + i], mask)
                    builder.store(half, builder.bitcast(place, _half(source.dtype)), align=bits)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, places, types.intp), code


@intrinsic
def _shift(typing, address, count):  # type: ignore[no-untyped-def]
    """The address `count` numbers further on."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.gep(values[0], [values[1]])

    return address(address, types.intp), code


@inline
def _read(source, places, d, s, at):  # type: ignore[no-untyped-def]
    if d < LANES:
        for i in range(LANES):
            for j in range(d):
                s[at + j * LANES + i] = source[places[i] + j]
        return
    for j in range(0, d - LANES + 1, LANES):
        _turn_in(source, places, j, s, at + j * LANES)
    if d % LANES > 0:  # the last eight once more: some columns twice, and nothing past the end
        _turn_in(source, places, d - LANES, s, at + (d - LANES) * LANES)


@inline
def _write(s, at, target, places, d):  # type: ignore[no-untyped-def]
    if d < LANES:
        for i in range(LANES):
            for j in range(d):
                target[places[i] + j] = s[at + j * LANES + i]
        return
    for j in range(0, d - LANES + 1, LANES):
        _turn_out(s, at + j * LANES, target, places, j)
    if d % LANES > 0:
        _turn_out(s, at + (d - LANES) * LANES, target, places, d - LANES)


@inline
def _read_one(source, places, straight, s, at):  # type: ignore[no-untyped-def]
    """Numbers of which each row has one; `straight` says that the eight lie side by side."""
    if straight:
        return load(source, places[0])
    for i in range(LANES):
        s[at + i] = source[places[i]]
    return load(s, at)


@inline
def _write_one(value, target, places, straight, s, at):  # type: ignore[no-untyped-def]
    if straight:
        store(target, places[0], value)
        return
    store(s, at, value)
    for i in range(LANES):
        target[places[i]] = s[at + i]


# -- sums over the coordinates of eight points ---------------------------------------------------------------------


@inline
def _at(s, k, j):  # type: ignore[no-untyped-def]
    return load(s, k + j * LANES)


@inline
def _dot(s, a, b, first, d):  # type: ignore[no-untyped-def]
    even, odd = _at(s, a, first) * _at(s, b, first), like(_at(s, a, first), 0.0)
    for j in range(first + 1, d - 1, 2):
        odd = odd + _at(s, a, j) * _at(s, b, j)
        even = even + _at(s, a, j + 1) * _at(s, b, j + 1)
    if (d - first) % 2 == 0:
        odd = odd + _at(s, a, d - 1) * _at(s, b, d - 1)
    return even + odd


@inline
def _exact_square(s, a, d):  # type: ignore[no-untyped-def]
    """Sum of squares in float64, where those of float32 numbers are exact."""
    x = widen(_at(s, a, 0))
    even, odd = x * x, like(x, 0.0)
    for j in range(1, d - 1, 2):
        x, y = widen(_at(s, a, j)), widen(_at(s, a, j + 1))
        odd, even = odd + x * x, even + y * y
    if d % 2 == 0:
        x = widen(_at(s, a, d - 1))
        odd = odd + x * x
    return even + odd


@inline
def _eps(x):  # type: ignore[no-untyped-def]
    return 1.1920928955078125e-07 if is_single(x) else 2.220446049250313e-16


# -- the ball ------------------------------------------------------------------------------------------------------


@inline
def _gap(square, c, s):  # type: ignore[no-untyped-def]
    e = 0.5 * _eps(load(s, 0))
    return narrow(maximum(1.0 - c * square, e), s)


@inline
def _ball_gradient(s, n, d, c, sign, coupled, decays):  # type: ignore[no-untyped-def]
    square = _exact_square(s, 0, d)
    gap = _gap(square, c, s)
    a = (0.25 * sign) * gap * gap
    pull = like(gap, 0.0)
    if decays:
        h2 = c * narrow(square, s)
        q = h2 / gap
        pull = -(arsinhc(q) / sqrt(1.0 + q)) * (gap + h2)
    b = -coupled * pull
    sum2 = like(gap, 0.0)
    for j in range(d):
        g = _at(s, n, j) * a + _at(s, 0, j) * b
        store(s, n + j * LANES, g)
        sum2 = sum2 + g * g
    k = 2.0 / gap
    return gap, k * k * sum2, pull


@inline
def _project(s, at, d, c, square):  # type: ignore[no-untyped-def]
    """Pull points at the edge inside; returns their squares."""
    x = load(s, at)
    step = 0.5 * _eps(x) if is_single(x) else 8.0 * _eps(x)
    outside = c * square > (1.0 - step) * (1.0 - step)
    if not any_lane(outside):
        return square
    scale = narrow(select(outside, (1.0 - 3.0 * step) / sqrt(c * square), 1.0), s)
    for j in range(d):
        store(s, at + j * LANES, _at(s, at, j) * scale)
    return _exact_square(s, at, d)


@inline
def _ball_move(s, n, d, c, gap, moves):  # type: ignore[no-untyped-def]
    m, u = 2 * n, 3 * n
    p = 1.0 / gap
    square = c * _dot(s, u, u, 0, d) * p * p
    t = tanhc(square) * p
    e = _eps(gap)
    gy = maximum(sech2(square), e * e)
    even, odd = like(gap, 0.0), like(gap, 0.0)
    for j in range(0, d - 1, 2):
        w, z = _at(s, 0, j) + t * _at(s, u, j), _at(s, 0, j + 1) + t * _at(s, u, j + 1)
        even, odd = even + w * w, odd + z * z
    if d % 2 == 1:
        w = _at(s, 0, d - 1) + t * _at(s, u, d - 1)
        even = even + w * w
    k = gap / (gap * gy + c * (even + odd))
    a, b = k * (1.0 - gy), k * t
    for j in range(d):
        x = _at(s, 0, j)
        store(s, u + j * LANES, x + (x * a + _at(s, u, j) * b))
    gap_y = _gap(_project(s, u, d, c, _exact_square(s, u, d)), c, s)
    if not moves:
        return
    hh, along, across = like(gap, 0.0), like(gap, 0.0), like(gap, 0.0)
    for j in range(d):
        x, v = _at(s, 0, j), _at(s, m, j)
        h = _at(s, u, j) - x
        hh, along, across = hh + h * h, along + x * v, across + h * v
    h2 = c * hh
    factor = 2.0 * c / (gap * gap_y + h2)
    ratio = gap_y / gap
    a = (gap * across - h2 * along) * factor
    b = ((gap_y + h2) * along + (1.0 - gap) * across) * factor
    for j in range(d):
        x, v = _at(s, 0, j), _at(s, m, j)
        store(s, m + j * LANES, (v + (a * x - b * (_at(s, u, j) - x))) * ratio)


# -- the sphere ----------------------------------------------------------------------------------------------------

_sin_series = polynomial([(-1.0) ** k / math.factorial(2 * k + 1) for k in range(12)], 7)
_cosm1_series = polynomial([(-1.0) ** k * 2.0 / math.factorial(2 * k + 2) for k in range(12)], 7)


@inline
def _any_sine(x, s, at):  # type: ignore[no-untyped-def]
    """Sine, for numbers of any size."""
    if not any_lane(select(x <= 1e4, like(x, 0.0), like(x, 1.0)) > 0.0):  # NaN goes the other way
        return sin(x)
    store(s, at, x)
    for i in range(LANES):
        s[at + i] = math.sin(s[at + i])
    return load(s, at)


@inline
def _sphere_gradient(s, n, d, c, sign, coupled, decays):  # type: ignore[no-untyped-def]
    b = _dot(s, 0, n, 0, d) * -sign
    sum2 = like(b, 0.0)
    for j in range(d):
        g = _at(s, n, j) * sign + _at(s, 0, j) * b
        store(s, n + j * LANES, g)
        sum2 = sum2 + g * g
    return b, sum2, like(b, 0.0)


@inline
def _sphere_move(s, n, d, c, _, moves):  # type: ignore[no-untyped-def]
    m, u = 2 * n, 3 * n
    square = _dot(s, u, u, 0, d)
    small = square < 1.0
    near = select(small, square, 0.0)
    r = sqrt(select(small, 1.0, square))
    half = 2.0 * _any_sine(0.5 * r, s, 4 * n) / r
    sinc = select(small, _sin_series(near), _any_sine(r, s, 4 * n) / r)
    cosm1c = select(small, _cosm1_series(near), half * half)
    if moves:
        along = _dot(s, u, m, 0, d)
        a, b = along * sinc, along * (0.5 * cosm1c)
        for j in range(d):
            store(s, m + j * LANES, _at(s, m, j) - (a * _at(s, 0, j) + b * _at(s, u, j)))
    a = 1.0 - 0.5 * square * cosm1c
    length = like(square, 0.0)
    for j in range(d):
        y = _at(s, 0, j) * a + _at(s, u, j) * sinc
        store(s, u + j * LANES, y)
        length = length + y * y
    length = sqrt(length)
    for j in range(d):
        store(s, u + j * LANES, _at(s, u, j) / length)


# -- the hyperboloid -----------------------------------------------------------------------------------------------

_sinh_series = polynomial([1.0 / math.factorial(2 * k + 1) for k in range(12)], 7)


@inline
def _sinhc(square):  # type: ignore[no-untyped-def]
    """sinh(r)/r of r^2."""
    small = square < 1.0
    r = sqrt(select(small, 1.0, square))
    e = exp(r)
    return select(small, _sinh_series(select(small, square, 0.0)), 0.5 * (e - 1.0 / e) / r)


@inline
def _time(square, c):  # type: ignore[no-untyped-def]
    return sqrt(1.0 / c + square)


@inline
def _split_square(s, k, d, slope, c):  # type: ignore[no-untyped-def]
    """|u|^2 of the tangent vectors at `k`, from their slopes <x_s, u_s>/x_0^2."""
    sum2 = like(slope, 0.0)
    for j in range(1, d):
        v = _at(s, k, j) - slope * _at(s, 0, j)
        sum2 = sum2 + v * v
    b = slope * (1.0 / math.sqrt(c))
    return sum2 + b * b


@inline
def _lorentz_gradient(s, n, d, c, sign, coupled, decays):  # type: ignore[no-untyped-def]
    square = _dot(s, 0, 0, 1, d)
    time = _time(square, c)
    pull = like(time, 0.0)
    if decays:
        t0 = math.sqrt(1.0 / c)
        whole = time + t0
        a = square / whole
        k = 1.0 - a / whole
        q = 0.25 * (c * square * k * k * (0.25 * (whole / time) * (whole / t0)) + (a / time) * (a / t0))
        pull = -(arsinhc(q) / sqrt(1.0 + q)) * (1.0 + 2.0 * q)
    b = (sign * c) * (_dot(s, 0, n, 1, d) + time * _at(s, n, 0)) - coupled * pull
    along = like(time, 0.0)
    for j in range(1, d):
        g = _at(s, n, j) * sign + _at(s, 0, j) * b
        store(s, n + j * LANES, g)
        along = along + g * _at(s, 0, j)
    # The time of a tangent vector follows from its space part, here and below.
    store(s, n, along / time)
    return time, _split_square(s, n, d, along / time / time, c), pull


@inline
def _cap(s, at, d, c):  # type: ignore[no-untyped-def]
    """Bring points beyond sqrt(c)|x_s| = 1/eps back to it."""
    unit = math.sqrt(c) * _eps(load(s, at))
    square = like(load(s, at), 0.0)
    for j in range(1, d):
        y = _at(s, at, j) * unit
        square = square + y * y
    far = square > 1.0
    if not any_lane(far):
        return
    scale = select(far, sqrt(select(far, square, 1.0)), 1.0)
    square = like(square, 0.0)
    for j in range(1, d):
        y = _at(s, at, j) / scale
        store(s, at + j * LANES, y)
        square = square + (y * unit) * (y * unit)
    scale = select(far, sqrt(square), 1.0)
    for j in range(1, d):
        store(s, at + j * LANES, _at(s, at, j) / scale)


@inline
def _lorentz_move(s, n, d, c, time, moves):  # type: ignore[no-untyped-def]
    u = 3 * n
    square = c * _split_square(s, u, d, _dot(s, 0, u, 1, d) / time / time, c)
    longest = 2.0 * math.log(2.0 / _eps(time)) + 2.0
    longest = longest * longest
    long = square > longest
    ratio = select(long, sqrt(longest / select(long, square, 1.0)), 1.0)
    square = select(long, longest, square)
    half = _sinhc(0.25 * square)
    a, b = 0.5 * square * half * half, ratio * _sinhc(square)
    for j in range(1, d):
        x = _at(s, 0, j)
        store(s, u + j * LANES, x + (x * a + _at(s, u, j) * b))
    _cap(s, u, d, c)
    time_y = _time(_dot(s, u, u, 1, d), c)
    store(s, u, time_y)
    if moves:
        _lorentz_transport(s, n, d, c, time, time_y)


@inline
def _lorentz_transport(s, n, d, c, time, time_y):  # type: ignore[no-untyped-def]
    m, u = 2 * n, 3 * n
    whole = time + time_y
    rise, xv = like(time, 0.0), like(time, 0.0)
    for j in range(1, d):
        x, y = _at(s, 0, j), _at(s, u, j)
        rise, xv = rise + (x - y) * (x + y), xv + x * _at(s, m, j)
    a = rise / whole
    tilt, slope = a / whole, xv / time / time
    even = tilt * tilt < 0.25
    left, right = select(even, 1.0, 2.0 * time_y / whole), select(even, 1.0, 2.0 * time / whole)
    tilt = select(even, tilt, 0.0)
    kk, kv = like(time, 0.0), like(time, 0.0)
    for j in range(1, d):
        x, y = _at(s, 0, j), _at(s, u, j)
        k = (left * x - right * y) - tilt * (x + y)
        kk, kv = kk + k * k, kv + k * (_at(s, m, j) - slope * x)
    q = 0.25 * (c * kk * (0.25 * (whole / time) * (whole / time_y)) + (a / time) * (a / time_y))
    product = -(0.5 * whole * kv + slope * (1.0 / c) * (a + 2.0 * q * time)) / time
    factor = (0.5 * c) * product / (1.0 + q)
    lift = like(time, 0.0)
    for j in range(1, d):
        y = _at(s, u, j)
        v = _at(s, m, j) + factor * (_at(s, 0, j) + y)
        store(s, m + j * LANES, v)
        lift = lift + v * y
    store(s, m, lift / time_y)


# -- the step ------------------------------------------------------------------------------------------------------


@inline
def _second_moment(square, v, largest, has_largest, o, places, straight, s, at):  # type: ignore[no-untyped-def]
    """Update the second moments of eight points, and return the rate of their first moments."""
    v2 = _read_one(v, places, straight, s, at) * o[_BETA2] + square * (1.0 - o[_BETA2])
    _write_one(v2, v, places, straight, s, at)
    if has_largest:
        v2 = maximum(v2, _read_one(largest, places, straight, s, at))
        _write_one(v2, largest, places, straight, s, at)
    return o[_RATE] / (sqrt(v2 / o[_CORRECTION2]) + o[_EPS])


@inline
def _places(places, index, low, hi, d):  # type: ignore[no-untyped-def]
    """Where eight rows begin in the gradient, in the parameter, and in what has one number a row.

    Past the end the last row is repeated: it is read, computed and written more than once, to the same.
    """
    for i in range(LANES):
        k = min(low + i, hi - 1)
        row = index[k] if index.size > 0 else k
        places[i] = k * d
        places[LANES + i] = row * d
        places[2 * LANES + i] = row


@inline
def _velocity(s, n, d, keep, take, rate, direct, pull, moves):  # type: ignore[no-untyped-def]
    """Update the first moment, and form the velocity."""
    m, u = 2 * n, 3 * n
    if not moves:
        for j in range(d):
            store(s, u + j * LANES, _at(s, n, j) * direct + _at(s, 0, j) * pull)
        return
    for j in range(d):
        g = _at(s, n, j)
        v = _at(s, m, j) * keep + g * take
        store(s, m + j * LANES, v)
        store(s, u + j * LANES, v * rate + (g * direct + _at(s, 0, j) * pull))


@inline
def _step(functions, arrays, index, o, c, d, lo, hi):  # type: ignore[no-untyped-def]
    gradient, move = functions
    x, g, m, v, largest = arrays
    n = LANES * max(d, LANES)
    memory, cells = np.empty(4 * n + LANES, x.dtype), np.empty(3 * LANES, np.int64)
    s, places = pointer(memory), pointer(cells)
    moves, adapts, has_largest = m.size > 0, v.size > 0, largest.size > 0
    decays = o[_COUPLED] != 0.0 or o[_DECOUPLED] != 0.0
    for low in range(lo, hi, LANES):
        _places(places, index, low, hi, d)
        _read(pointer(x), _shift(places, LANES), d, s, 0)
        _read(pointer(g), places, d, s, n)
        if moves:
            _read(pointer(m), _shift(places, LANES), d, s, 2 * n)
        point, square, pull = gradient(s, n, d, c, o[_SIGN], o[_COUPLED], decays)
        rate = like(square, o[_RATE])
        if adapts:
            rows = _shift(places, 2 * LANES)
            straight = index.size == 0 and low + LANES <= hi
            rate = _second_moment(square, pointer(v), pointer(largest), has_largest, o, rows, straight, s, 4 * n)
        _velocity(s, n, d, o[_KEEP], o[_TAKE], rate, o[_DIRECT], o[_DECOUPLED] * pull, moves)
        move(s, n, d, c, point, moves)
        _write(s, 3 * n, pointer(x), _shift(places, LANES), d)
        if moves:
            _write(s, 2 * n, pointer(m), _shift(places, LANES), d)


@kernel
def ball(x, g, m, v, largest, index, numbers, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Step rows of the ball; `m`, `v`, `largest` and `index` are empty where there are none."""
    _step((_ball_gradient, _ball_move), (x, g, m, v, largest), index, numbers, c, d, lo, hi)


@kernel
def lorentz(x, g, m, v, largest, index, numbers, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Step rows of the hyperboloid."""
    _step((_lorentz_gradient, _lorentz_move), (x, g, m, v, largest), index, numbers, c, d, lo, hi)


@kernel
def sphere(x, g, m, v, largest, index, numbers, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Step rows of the sphere."""
    _step((_sphere_gradient, _sphere_move), (x, g, m, v, largest), index, numbers, c, d, lo, hi)

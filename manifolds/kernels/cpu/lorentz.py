"""Row kernels of the hyperboloid; the reference is `holonomy.manifolds.hyperboloid`, whose formulas these are.

Sums run over the space parts. The time of a result is summed over its rounded space part, in a round of its own, so
that points stay on the sheet and tangent vectors tangent at any distance from the origin. With h = x - y, t = x + y,
T = x_0 + y_0, a = x_0 - y_0 and r = a/T, the vector k = h - r t = 2 (y_0 x - x_0 y)/T carries the derivatives of the
chord q too; the second form serves where one point is much farther out (|r| > 1/2):

    dq/dx = (c/4) (T/x_0) k,   dq/dy = -(c/4) (T/y_0) k,   dq/dc = |k|^2 T^2 / (16 x_0 y_0),

where h - (a/x_0) x = (T/2x_0) k took what cancels out of them. ``d_q`` is the derivative of <G, result> by q, where G
is the upstream gradient, and ``g0`` the upstream gradient of the result's time, divided by that time or by that of the
point at which the result is tangent. The gradient by a time coordinate is 0: the maps do not read it. A row is hard
where its result is past the cap, or near it.
"""

import math

from holonomy.manifolds.kernels.cpu.even import (
    arsinh_root,
    arsinhc,
    arsinhc_slope,
    sinhc_coshm1c,
    sinhc_slope,
)
from holonomy.manifolds.kernels.cpu.jit import inline, kernel
from holonomy.manifolds.kernels.cpu.lanes import is_single, pointer, select, sqrt
from holonomy.manifolds.kernels.cpu.rows import (
    COEF,
    GIVEN,
    HARD,
    RESULT,
    SUM,
    get,
    less_one,
    put,
    sweep,
    sweep_thrice,
    sweep_twice,
)

__all__ = [
    "dist",
    "dist2",
    "dist2_back",
    "dist_back",
    "expmap",
    "expmap0",
    "expmap0_back",
    "expmap_back",
    "logmap",
    "logmap0",
    "logmap0_back",
    "logmap_back",
    "project",
    "project_back",
    "transport",
    "transport_back",
]

_NONE = ((), ())


@inline
def _time(square, c):  # type: ignore[no-untyped-def]
    return sqrt(1.0 / c + square)


@inline
def _mark_far(s, i, square, c):  # type: ignore[no-untyped-def]
    """Mark rows whose result, of this sum of squares, is at the cap or beyond it, NaN included."""
    e = 1.1920928955078125e-07 if is_single(square) else 2.220446049250313e-16
    put(s, HARD, i, select((c * e) * e * square < 0.99, 0.0 * square, 0.0 * square + 1.0))


@inline
def _no_blend(v, k):  # type: ignore[no-untyped-def]
    return ()


# -- the chord: coefficients 1 and 2 are x_0 and y_0; k = (k_10 x - k_11 y) - k_0 (x + y) ------------------------------


@inline
def _chord_products(v, k):  # type: ignore[no-untyped-def]
    x, y = v[0], v[1]
    return x * x, y * y, (x - y) * (x + y)


@inline
def _chord_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    x0, y0 = _time(get(s, SUM, i, like), c), _time(get(s, SUM + 1, i, like), c)
    total = x0 + y0
    r = get(s, SUM + 2, i, like) / total / total
    even = r * r < 0.25
    put(s, COEF, i, select(even, r, 0.0))
    put(s, COEF + 1, i, x0)
    put(s, COEF + 2, i, y0)
    put(s, COEF + 10, i, select(even, 1.0, 2.0 * y0 / total))
    put(s, COEF + 11, i, select(even, 1.0, 2.0 * x0 / total))


@inline
def _is_even(s, i, like):  # type: ignore[no-untyped-def]
    """Where |r| <= 1/2: elsewhere the last coefficient is at most 1/2, or at least 3/2."""
    last = get(s, COEF + 11, i, like)
    return (last - 1.0) * (last - 1.0) < 0.1


@inline
def _between(v, k):  # type: ignore[no-untyped-def]
    """The vector k of x and y."""
    return (v[0] * k[10] - v[1] * k[11]) - (v[0] + v[1]) * k[0]


@inline
def _between_products(v, k):  # type: ignore[no-untyped-def]
    b = _between(v, k)
    return (b * b,)


@inline
def _chord(s, i, c, like):  # type: ignore[no-untyped-def]
    """q, the part of it that is proportional to c, T, a, x_0 and y_0, from |k|^2 and the first coefficients."""
    kk, x0, y0 = get(s, SUM, i, like), get(s, COEF + 1, i, like), get(s, COEF + 2, i, like)
    total = x0 + y0
    a = select(_is_even(s, i, like), get(s, COEF, i, like) * total, x0 - y0)
    # T^2/(x_0 y_0) and a/x_0 first: products of three large coordinates overflow.
    curved = c * kk * (0.0625 * (total / x0) * (total / y0))
    return curved + 0.25 * (a / x0) * (a / y0), curved, total, a, x0, y0


# -- distance ------------------------------------------------------------------------------------------------------


@inline
def _mark_remote(s, i, c, like):  # type: ignore[no-untyped-def]
    """Mark close rows so far out that a fused product keeps a rounding which plain products happen to cancel."""
    x0, y0 = get(s, COEF + 1, i, like), get(s, COEF + 2, i, like)
    limit = 6e3 if is_single(x0) else 1e9
    zero = 0.0 * x0
    remote = select(math.sqrt(c) * (x0 + y0) < 2.0 * limit, zero, zero + 1.0)
    put(s, HARD, i, select(_is_even(s, i, like), remote, zero))


@inline
def _dist_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _mark_remote(s, i, c, like)
    put(s, RESULT, i, 2.0 / math.sqrt(c) * arsinh_root(_chord(s, i, c, like)[0]))


@inline
def _dist2_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _mark_remote(s, i, c, like)
    q = _chord(s, i, c, like)[0]
    a = arsinhc(q)
    put(s, RESULT, i, 4.0 / c * q * a * a)


@kernel
def dist(x, sx, y, sy, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Distances between the rows x and y."""
    n = less_one(d)
    ins, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(r),), (1,))
    rounds = (_chord_products, _chord_stage, _between_products, _dist_stage)
    sweep_twice(rounds, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 1, c, n, lo, hi)


@kernel
def dist2(x, sx, y, sy, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Squared distances between the rows x and y."""
    n = less_one(d)
    ins, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(r),), (1,))
    rounds = (_chord_products, _chord_stage, _between_products, _dist2_stage)
    sweep_twice(rounds, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 1, c, n, lo, hi)


@inline
def _put_chord_back(s, i, c, d_q, total, x0, y0):  # type: ignore[no-untyped-def]
    put(s, COEF + 1, i, d_q * (0.25 * c) * (total / x0))
    put(s, COEF + 2, i, d_q * (0.25 * c) * (total / y0))


@inline
def _lean(q, f, a, x0, y0):  # type: ignore[no-untyped-def]
    """Twice the derivative of log(distance) by log(c), times f = arsinhc(q).

    The derivative is -1/2 + d_q dq/dc; for close points that would cancel, and these two terms have one sign.
    """
    radial = 0.25 * (a / x0) * (a / y0)
    return 2.0 * q * arsinhc_slope(q, f) - radial / (select(q == 0.0, 1.0, q) * sqrt(1.0 + q))


@inline
def _dist_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    q, _, total, a, x0, y0 = _chord(s, i, c, like)
    g, f = get(s, GIVEN, i, like) / math.sqrt(c), arsinhc(q)
    same = q == 0.0
    safe = select(same, 1.0, q)
    put(s, RESULT + 2, i, g * sqrt(q) * _lean(q, f, a, x0, y0) / c)
    _put_chord_back(s, i, c, select(same, 0.0, g / (sqrt(safe) * sqrt(1.0 + safe))), total, x0, y0)


@inline
def _dist2_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    q, _, total, a, x0, y0 = _chord(s, i, c, like)
    f = arsinhc(q)
    g = 4.0 / c * get(s, GIVEN, i, like) * f
    put(s, RESULT + 2, i, g * q * _lean(q, f, a, x0, y0) / c)
    _put_chord_back(s, i, c, g / sqrt(1.0 + q), total, x0, y0)


@inline
def _dist_back_blend(v, k):  # type: ignore[no-untyped-def]
    b = _between(v, k)
    return b * k[1], -(b * k[2])


@kernel
def dist_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist` with respect to x, y and c."""
    n = less_one(d)
    ins, given = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gx), pointer(gy), pointer(gc)), (d, d, sgc))
    rounds = (_chord_products, _chord_stage, _between_products, _dist_back_stage)
    sweep_twice(rounds, _dist_back_blend, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


@kernel
def dist2_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist2` with respect to x, y and c."""
    n = less_one(d)
    ins, given = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gx), pointer(gy), pointer(gc)), (d, d, sgc))
    rounds = (_chord_products, _chord_stage, _between_products, _dist2_back_stage)
    sweep_twice(rounds, _dist_back_blend, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


# -- exponential map: s = c|u|_L^2 = c|k|^2 + slope^2, k = u - slope x, slope = <x, u>/x_0^2 -------------------------


@inline
def _exp_products(v, k):  # type: ignore[no-untyped-def]
    return v[0] * v[0], v[0] * v[1]


@inline
def _exp_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    x0 = _time(get(s, SUM, i, like), c)
    put(s, COEF, i, get(s, SUM + 1, i, like) / x0 / x0)


@inline
def _length_products(v, k):  # type: ignore[no-untyped-def]
    w = v[1] - v[0] * k[0]
    return (w * w,)


@inline
def _length_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    slope = get(s, COEF, i, like)
    square = c * get(s, SUM, i, like) + slope * slope
    sine, cosine = sinhc_coshm1c(square)
    put(s, COEF, i, 0.5 * square * cosine)
    put(s, COEF + 1, i, sine)


@inline
def _moved(v, k):  # type: ignore[no-untyped-def]
    return v[0] + (v[0] * k[0] + v[1] * k[1])


@inline
def _moved_products(v, k):  # type: ignore[no-untyped-def]
    y = _moved(v, k)
    return (y * y,)


@inline
def _moved_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    yy = get(s, SUM, i, like)
    put(s, RESULT, i, _time(yy, c))
    _mark_far(s, i, yy, c)


@inline
def _moved_blend(v, k):  # type: ignore[no-untyped-def]
    return (_moved(v, k),)


@kernel
def expmap(x, sx, u, su, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the rows x."""
    n = less_one(d)
    ins, outs, results = ((pointer(x), pointer(u)), (sx, su)), ((pointer(y),), (d,)), ((pointer(y),), (d,))
    rounds = (_exp_products, _exp_stage, _length_products, _length_stage, _moved_products, _moved_stage)
    sweep_thrice(rounds, _moved_blend, ins, outs, _NONE, results, pointer(hard), 1, c, n, lo, hi)


@inline
def _exp_back_products(v, k):  # type: ignore[no-untyped-def]
    return v[0] * v[0], v[0] * v[1], v[2] * v[0], v[2] * v[1]


@inline
def _exp_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _exp_stage(s, i, c, like)
    put(s, COEF + 6, i, get(s, SUM + 2, i, like))
    put(s, COEF + 7, i, get(s, SUM + 3, i, like))


@inline
def _length_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    slope, kk = get(s, COEF, i, like), get(s, SUM, i, like)
    square = c * kk + slope * slope
    sine, cosine = sinhc_coshm1c(square)
    put(s, COEF, i, 0.5 * square * cosine)
    put(s, COEF + 1, i, sine)
    put(s, COEF + 2, i, slope)
    put(s, COEF + 3, i, sinhc_slope(square, sine, cosine))
    put(s, COEF + 4, i, kk)


@inline
def _moved_back_products(v, k):  # type: ignore[no-untyped-def]
    y = _moved(v, k)
    return y * y, y * v[0], y * v[1]


@inline
def _moved_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    yy, yx, yu = get(s, SUM, i, like), get(s, SUM + 1, i, like), get(s, SUM + 2, i, like)
    sine, slope, kk = get(s, COEF + 1, i, like), get(s, COEF + 2, i, like), get(s, COEF + 4, i, like)
    y0, upstream = _time(yy, c), get(s, GIVEN, i, like)
    _mark_far(s, i, yy, c)
    g0 = upstream / y0
    gx, gu = get(s, COEF + 6, i, like) + g0 * yx, get(s, COEF + 7, i, like) + g0 * yu
    d_square = 0.5 * gx * sine + gu * get(s, COEF + 3, i, like)
    put(s, RESULT + 2, i, d_square * kk - 0.5 * g0 / (c * c))
    put(s, COEF + 3, i, g0)
    put(s, COEF + 4, i, 2.0 * c * d_square)
    put(s, COEF + 5, i, 2.0 * c * d_square * slope)


@inline
def _exp_back_blend(v, k):  # type: ignore[no-untyped-def]
    w = v[1] - v[0] * k[2]
    g = v[2] + _moved(v, k) * k[3]
    return g + (g * k[0] - w * k[5]), g * k[1] + w * k[4]


@kernel
def expmap_back(x, sx, u, su, g, sg, gx, gu, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `expmap` with respect to x, u and c."""
    n = less_one(d)
    ins, given = ((pointer(x), pointer(u), pointer(g)), (sx, su, sg)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gu)), (d, d)), ((pointer(gx), pointer(gu), pointer(gc)), (d, d, sgc))
    rounds = (
        _exp_back_products,
        _exp_back_stage,
        _length_products,
        _length_back_stage,
        _moved_back_products,
        _moved_back_stage,
    )
    sweep_thrice(rounds, _exp_back_blend, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


# -- logarithm: u = f(q) (y - x - 2 q x) ---------------------------------------------------------------------------


@inline
def _log_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    q = _chord(s, i, c, like)[0]
    put(s, COEF, i, -2.0 * q)
    put(s, COEF + 2, i, arsinhc(q) / sqrt(1.0 + q))


@inline
def _log(v, k):  # type: ignore[no-untyped-def]
    return ((v[1] - v[0]) + v[0] * k[0]) * k[2]


@inline
def _log_products(v, k):  # type: ignore[no-untyped-def]
    return (v[0] * _log(v, k),)


@inline
def _log_time_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    put(s, RESULT, i, get(s, SUM, i, like) / get(s, COEF + 1, i, like))


@inline
def _log_blend(v, k):  # type: ignore[no-untyped-def]
    return (_log(v, k),)


@kernel
def logmap(x, sx, y, sy, u, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Logarithm of the rows y at the rows x."""
    n = less_one(d)
    ins, outs, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(u),), (d,)), ((pointer(u),), (d,))
    rounds = (_chord_products, _chord_stage, _between_products, _log_stage, _log_products, _log_time_stage)
    sweep_thrice(rounds, _log_blend, ins, outs, _NONE, results, pointer(hard), 1, c, n, lo, hi)


@inline
def _log_back_products(v, k):  # type: ignore[no-untyped-def]
    x, e, g = v[0], v[1] - v[0], v[2]
    return x * x, v[1] * v[1], (x - v[1]) * (x + v[1]), g * e, g * x, x * e


@inline
def _log_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _chord_stage(s, i, c, like)
    put(s, COEF + 3, i, get(s, SUM, i, like))
    put(s, COEF + 4, i, get(s, SUM + 3, i, like))
    put(s, COEF + 5, i, get(s, SUM + 4, i, like))
    put(s, COEF + 6, i, get(s, SUM + 5, i, like))


@inline
def _log_back_stage_again(s, i, c, like):  # type: ignore[no-untyped-def]
    q, curved, total, _, x0, y0 = _chord(s, i, c, like)
    xx, ge = get(s, COEF + 3, i, like), get(s, COEF + 4, i, like)
    gx, xe = get(s, COEF + 5, i, like), get(s, COEF + 6, i, like)
    g0 = get(s, GIVEN, i, like) / x0
    a, root = arsinhc(q), 1.0 / sqrt(1.0 + q)
    f = a * root
    slope = (arsinhc_slope(q, a) - 0.5 * a * root * root) * root
    ge, gx = ge + g0 * xe, gx + g0 * xx
    d_q = slope * (ge - 2.0 * q * gx) - 2.0 * f * gx
    tilt = f * (xe - 2.0 * q * xx) / x0 / x0
    put(s, RESULT + 2, i, d_q * curved / c + 0.5 * g0 * tilt / (c * c))
    put(s, COEF + 1, i, f)
    put(s, COEF + 2, i, 2.0 * q)
    put(s, COEF + 3, i, g0)
    put(s, COEF + 4, i, d_q * (0.25 * c) * (total / x0))
    put(s, COEF + 5, i, d_q * (0.25 * c) * (total / y0))
    put(s, COEF + 6, i, tilt)


@inline
def _log_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, b = v[0], _between(v, k)
    along = (v[2] + x * k[3]) * k[1]
    u = ((v[1] - x) - x * k[2]) * k[1]
    return b * k[4] - (along + along * k[2]) + (u - x * k[6]) * k[3], along - b * k[5]


@kernel
def logmap_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `logmap` with respect to x, y and c."""
    n = less_one(d)
    ins, given = ((pointer(x), pointer(y), pointer(g)), (sx, sy, sg)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gx), pointer(gy), pointer(gc)), (d, d, sgc))
    rounds = (_log_back_products, _log_back_stage, _between_products, _log_back_stage_again)
    sweep_twice(rounds, _log_back_blend, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


# -- parallel transport: w = v + m (x + y), m = (c/2) <y, v>_L / (1 + q); coefficient 3 is slope = <x, v>/x_0^2 ------


@inline
def _transport_products(v, k):  # type: ignore[no-untyped-def]
    x, y = v[0], v[1]
    return x * x, y * y, (x - y) * (x + y), x * v[2]


@inline
def _transport_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _chord_stage(s, i, c, like)
    x0 = get(s, COEF + 1, i, like)
    put(s, COEF + 3, i, get(s, SUM + 3, i, like) / x0 / x0)


@inline
def _across_products(v, k):  # type: ignore[no-untyped-def]
    b = _between(v, k)
    return b * b, b * (v[2] - v[0] * k[3])


@inline
def _product(s, i, c, like, q, total, a, x0):  # type: ignore[no-untyped-def]
    """<y, v>_L, from the sums of the second round."""
    rise = a + 2.0 * q * x0
    return -(0.5 * total * get(s, SUM + 1, i, like) + get(s, COEF + 3, i, like) * rise / c) / x0


@inline
def _transport_stage_again(s, i, c, like):  # type: ignore[no-untyped-def]
    q, _, total, a, x0, _ = _chord(s, i, c, like)
    put(s, COEF, i, 0.5 * c * _product(s, i, c, like, q, total, a, x0) / (1.0 + q))


@inline
def _turned(v, k):  # type: ignore[no-untyped-def]
    return v[2] + (v[0] + v[1]) * k[0]


@inline
def _turned_products(v, k):  # type: ignore[no-untyped-def]
    return (v[1] * _turned(v, k),)


@inline
def _turned_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    put(s, RESULT, i, get(s, SUM, i, like) / get(s, COEF + 2, i, like))


@inline
def _turned_blend(v, k):  # type: ignore[no-untyped-def]
    return (_turned(v, k),)


@kernel
def transport(x, sx, y, sy, v, sv, w, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Parallel transport of the rows v from the rows x to the rows y."""
    n = less_one(d)
    ins = ((pointer(x), pointer(y), pointer(v)), (sx, sy, sv))
    outs, results = ((pointer(w),), (d,)), ((pointer(w),), (d,))
    rounds = (
        _transport_products,
        _transport_stage,
        _across_products,
        _transport_stage_again,
        _turned_products,
        _turned_stage,
    )
    sweep_thrice(rounds, _turned_blend, ins, outs, _NONE, results, pointer(hard), 1, c, n, lo, hi)


@inline
def _transport_back_products(v, k):  # type: ignore[no-untyped-def]
    x, y = v[0], v[1]
    t = x + y
    return x * x, y * y, (x - y) * t, x * v[2], v[3] * t, y * t, y * v[2]


@inline
def _transport_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _transport_stage(s, i, c, like)
    put(s, COEF + 4, i, get(s, SUM + 4, i, like))
    put(s, COEF + 5, i, get(s, SUM + 5, i, like))
    put(s, COEF + 6, i, get(s, SUM + 6, i, like))


@inline
def _transport_back_stage_again(s, i, c, like):  # type: ignore[no-untyped-def]
    q, curved, total, a, x0, y0 = _chord(s, i, c, like)
    slope, gt = get(s, COEF + 3, i, like), get(s, COEF + 4, i, like)
    yt, yv = get(s, COEF + 5, i, like), get(s, COEF + 6, i, like)
    g0 = get(s, GIVEN, i, like) / y0
    p = 1.0 / (1.0 + q)
    m = 0.5 * c * _product(s, i, c, like, q, total, a, x0) * p
    tilt = (yv + m * yt) / y0 / y0
    d_m = gt + g0 * yt
    d_product = 0.5 * c * d_m * p
    d_q = -(d_m * m) * p
    lean = 0.5 * slope * (total / y0)
    # d<y, v>/dc at fixed space parts, by way of the two times
    put(s, RESULT + 3, i, (d_m * m + d_q * curved) / c + (d_product * lean * (a / x0) + 0.5 * g0 * tilt) / (c * c))
    put(s, COEF + 1, i, m)
    put(s, COEF + 2, i, g0)
    put(s, COEF + 4, i, -(d_product * 0.5) * (total / x0))
    put(s, COEF + 5, i, -d_product * (y0 / x0))
    put(s, COEF + 6, i, d_q * (0.25 * c) * (total / x0))
    put(s, COEF + 7, i, d_product)
    put(s, COEF + 8, i, d_product * lean - d_q * (0.25 * c) * (total / y0))
    put(s, COEF + 9, i, tilt)


@inline
def _transport_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, y, w = v[0], v[1], v[2]
    b, across = _between(v, k), w - x * k[3]
    g = v[3] + y * k[2]
    turned = w + (x + y) * k[1]
    gy = g * k[1] + across * k[7] + b * k[8] + (turned - y * k[9]) * k[2]
    return g * k[1] + across * k[5] + b * k[6], gy, g + b * k[4]


@kernel
def transport_back(x, sx, y, sy, v, sv, g, sg, gx, gy, gv, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `transport` with respect to x, y, v and c."""
    n = less_one(d)
    ins, given = ((pointer(x), pointer(y), pointer(v), pointer(g)), (sx, sy, sv, sg)), ((pointer(g),), (sg,))
    outs = ((pointer(gx), pointer(gy), pointer(gv)), (d, d, d))
    results = ((pointer(gx), pointer(gy), pointer(gv), pointer(gc)), (d, d, d, sgc))
    rounds = (_transport_back_products, _transport_back_stage, _across_products, _transport_back_stage_again)
    sweep_twice(rounds, _transport_back_blend, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


# -- maps of one vector: the result's space part is a multiple of the argument's ---------------------------------------


@inline
def _square_products(v, k):  # type: ignore[no-untyped-def]
    return (v[0] * v[0],)


@inline
def _scale_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[0] * k[0],)


@inline
def _project_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    xx = get(s, SUM, i, like)
    put(s, COEF, i, 0.0 * xx + 1.0)
    put(s, RESULT, i, _time(xx, c))
    _mark_far(s, i, xx, c)


@inline
def _exp0_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu = get(s, SUM, i, like)
    sine, _ = sinhc_coshm1c(c * uu)
    yy = sine * sine * uu
    put(s, COEF, i, sine)
    put(s, RESULT, i, _time(yy, c))
    _mark_far(s, i, yy, c)


@inline
def _log0_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    put(s, COEF, i, arsinhc(c * get(s, SUM, i, like)))


@kernel
def project(x, sx, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """The points with the space parts of the rows x."""
    n = less_one(d)
    ins, outs, results = ((pointer(x),), (sx,)), ((pointer(y),), (d,)), ((pointer(y),), (d,))
    sweep(
        _square_products,
        _project_stage,
        _scale_blend,
        ins,
        outs,
        _NONE,
        results,
        pointer(hard),
        1,
        c,
        n,
        lo,
        hi,
    )


@kernel
def expmap0(u, su, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the origin."""
    n = less_one(d)
    ins, outs, results = ((pointer(u),), (su,)), ((pointer(y),), (d,)), ((pointer(y),), (d,))
    sweep(
        _square_products,
        _exp0_stage,
        _scale_blend,
        ins,
        outs,
        _NONE,
        results,
        pointer(hard),
        1,
        c,
        n,
        lo,
        hi,
    )


@kernel
def logmap0(y, sy, u, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Logarithm of the rows y at the origin."""
    n = less_one(d)
    ins, outs, results = ((pointer(y),), (sy,)), ((pointer(u),), (d,)), ((pointer(u),), (d,))
    sweep(
        _square_products,
        _log0_stage,
        _scale_blend,
        ins,
        outs,
        _NONE,
        results,
        pointer(hard),
        1,
        c,
        n,
        lo,
        hi,
    )


@inline
def _radial_products(v, k):  # type: ignore[no-untyped-def]
    return v[0] * v[0], v[0] * v[1]


@inline
def _radial_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[1] * k[0] + v[0] * k[1],)


@inline
def _project_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    xx = get(s, SUM, i, like)
    g0 = get(s, GIVEN, i, like) / _time(xx, c)
    _mark_far(s, i, xx, c)
    put(s, RESULT + 1, i, -(0.5 * g0 / (c * c)))
    put(s, COEF, i, 0.0 * xx + 1.0)
    put(s, COEF + 1, i, g0)


@inline
def _exp0_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu, gu = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    square = c * uu
    sine, cosine = sinhc_coshm1c(square)
    yy = sine * sine * uu
    g0 = get(s, GIVEN, i, like) / _time(yy, c)
    _mark_far(s, i, yy, c)
    d_square = (gu + g0 * sine * uu) * sinhc_slope(square, sine, cosine)
    put(s, RESULT + 1, i, d_square * uu - 0.5 * g0 / (c * c))
    put(s, COEF, i, sine)
    put(s, COEF + 1, i, g0 * sine * sine + 2.0 * c * d_square)


@inline
def _log0_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    yy, gy = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    q = c * yy
    a = arsinhc(q)
    d_q = gy * arsinhc_slope(q, a)
    put(s, RESULT + 1, i, d_q * yy)
    put(s, COEF, i, a)
    put(s, COEF + 1, i, 2.0 * c * d_q)


@kernel
def project_back(x, sx, g, sg, gx, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `project` with respect to x and c."""
    n = less_one(d)
    ins, given = ((pointer(x), pointer(g)), (sx, sg)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx),), (d,)), ((pointer(gx), pointer(gc)), (d, sgc))
    stages = (_radial_products, _project_back_stage, _radial_blend)
    sweep(*stages, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


@kernel
def expmap0_back(u, su, g, sg, gu, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `expmap0` with respect to u and c."""
    n = less_one(d)
    ins, given = ((pointer(u), pointer(g)), (su, sg)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gu),), (d,)), ((pointer(gu), pointer(gc)), (d, sgc))
    stages = (_radial_products, _exp0_back_stage, _radial_blend)
    sweep(*stages, ins, outs, given, results, pointer(hard), 1, c, n, lo, hi)


@kernel
def logmap0_back(y, sy, g, sg, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `logmap0` with respect to y and c."""
    n = less_one(d)
    ins = ((pointer(y), pointer(g)), (sy, sg))
    outs, results = ((pointer(gy),), (d,)), ((pointer(gy), pointer(gc)), (d, sgc))
    stages = (_radial_products, _log0_back_stage, _radial_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 1, c, n, lo, hi)

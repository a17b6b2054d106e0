"""Row kernels of the Poincaré ball; the reference is `holonomy.manifolds.gyrovector`, whose formulas these are.

With g(x) = 1 - c|x|^2, summed in float64, every map is a combination of its vectors whose coefficients depend on a few
inner products. In the backward passes ``d_q`` is the derivative of <G, result> by q, where G is the upstream gradient;
the chain is followed from the result back to the sums. A row is hard where the reference would pull its result inside,
or would hold a factor g at its floor.
"""

import math

from holonomy.manifolds.kernels.cpu.channels import arsinh
from holonomy.manifolds.kernels.cpu.even import (
    arsinh_root,
    arsinhc,
    arsinhc_slope,
    sech2,
    tanhc,
    tanhc_slope,
)
from holonomy.manifolds.kernels.cpu.jit import inline, kernel
from holonomy.manifolds.kernels.cpu.lanes import (
    is_single,
    load,
    maximum,
    minimum,
    narrow,
    pointer,
    select,
    sqrt,
    widen,
)
from holonomy.manifolds.kernels.cpu.rows import (
    BLOCK,
    COEF,
    GIVEN,
    HARD,
    RESULT,
    SUM,
    get,
    put,
    sweep,
    sweep_fourfold,
    sweep_thrice,
    sweep_twice,
)

__all__ = [
    "dist",
    "dist2",
    "dist2_back",
    "dist2plane",
    "dist2plane_back",
    "dist_back",
    "expmap",
    "expmap0",
    "expmap0_back",
    "expmap_back",
    "expmap_transport",
    "expmap_transport_back",
    "logmap",
    "logmap0",
    "logmap0_back",
    "logmap_back",
    "mobius_add",
    "mobius_add_back",
    "project",
    "project_back",
    "transport",
    "transport_back",
]

_NONE = ((), ())


@inline
def _eps(a):  # type: ignore[no-untyped-def]
    return 1.1920928955078125e-07 if is_single(a) else 2.220446049250313e-16


@inline
def _gap(s, r, i, c, like):  # type: ignore[no-untyped-def]
    """1 - c|x|^2 from the sum of squares in scratch row `r`, at its floor where x is at the edge."""
    square = load(s, r * BLOCK + i)
    zero = get(s, r, i, like)
    return narrow(maximum(1.0 - c * square, 0.5 * _eps(zero)), like)


@inline
def _mark_below(s, i, g, factor):  # type: ignore[no-untyped-def]
    """Mark rows whose g is not above `factor` units of rounding, NaN included."""
    put(s, HARD, i, select(g > factor * _eps(g), 0.0 * g, 0.0 * g + 1.0))


# -- exponential map -----------------------------------------------------------------------------------------------


@inline
def _exp_products(v, k):  # type: ignore[no-untyped-def]
    x, u = v[0], v[1]
    w = widen(x)
    return w * w, u * u


@inline
def _exp_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    g = _gap(s, SUM, i, c, like)
    uu = get(s, SUM + 1, i, like)
    p = 1.0 / g
    square = c * uu * p * p
    put(s, COEF, i, tanhc(square) * p)
    put(s, COEF + 1, i, g)
    e = _eps(g)
    put(s, COEF + 2, i, maximum(sech2(square), e * e))


@inline
def _exp_products_again(v, k):  # type: ignore[no-untyped-def]
    w = v[0] + v[1] * k[0]
    return (w * w,)


@inline
def _exp_stage_again(s, i, c, like):  # type: ignore[no-untyped-def]
    # 1 - c|result|^2
    _mark_below(s, i, _exp_pull(s, i, c, like), 64.0)


@inline
def _exp_pull(s, i, c, like):  # type: ignore[no-untyped-def]
    """Write the coefficients of the displacement; return 1 - c|result|^2."""
    t, g, gy = get(s, COEF, i, like), get(s, COEF + 1, i, like), get(s, COEF + 2, i, like)
    den = g * gy + c * get(s, SUM, i, like)
    k = g / den
    put(s, COEF, i, k * (1.0 - gy))
    put(s, COEF + 1, i, k * t)
    return k * gy


@inline
def _exp_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[0] + (v[0] * k[0] + v[1] * k[1]),)


@kernel
def expmap(x, sx, u, su, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the rows x."""
    ins, outs = ((pointer(x), pointer(u)), (sx, su)), ((pointer(y),), (d,))
    rounds = (_exp_products, _exp_stage, _exp_products_again, _exp_stage_again)
    sweep_twice(rounds, _exp_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _exp_back_products(v, k):  # type: ignore[no-untyped-def]
    x, u, g = v[0], v[1], v[2]
    w = widen(x)
    return w * w, u * u, g * x, g * u


@inline
def _exp_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    g = _gap(s, SUM, i, c, like)
    uu = get(s, SUM + 1, i, like)
    p = 1.0 / g
    square = c * uu * p * p
    put(s, COEF, i, tanhc(square) * p)
    put(s, COEF + 1, i, g)
    put(s, COEF + 2, i, uu)
    put(s, COEF + 3, i, get(s, SUM + 2, i, like))
    put(s, COEF + 4, i, get(s, SUM + 3, i, like))
    put(s, COEF + 5, i, load(s, SUM * BLOCK + i))


@inline
def _moved_products(v, k):  # type: ignore[no-untyped-def]
    w = v[0] + v[1] * k[0]
    return w * w, w * v[1]


@inline
def _exp_back_stage_again(s, i, c, like):  # type: ignore[no-untyped-def]
    t, g, uu = get(s, COEF, i, like), get(s, COEF + 1, i, like), get(s, COEF + 2, i, like)
    gx, gu, xx = get(s, COEF + 3, i, like), get(s, COEF + 4, i, like), get(s, COEF + 5, i, like)
    ww, wu = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    a, b, end, slope, k2, k3, k4 = _exp_chain(c, t, g, uu, xx, gx, gu, ww, wu)
    _mark_below(s, i, end, 64.0)
    put(s, RESULT, i, slope)
    put(s, COEF, i, a)
    put(s, COEF + 1, i, b)
    put(s, COEF + 2, i, k2)
    put(s, COEF + 3, i, k3)
    put(s, COEF + 4, i, k4)


@inline
def _exp_chain(c, t, g, uu, xx, gx, gu, ww, wu):  # type: ignore[no-untyped-def]
    """Coefficients of the displacement, 1 - c|result|^2, the slope by c, and the gradients' coefficients."""
    p = 1.0 / g
    square = c * uu * p * p
    e = _eps(g)
    gy = maximum(sech2(square), e * e)
    den = g * gy + c * ww
    k = g / den
    d_k = gx * (1.0 - gy) + gu * t
    d_den = -(d_k * k) / den
    d_ww = c * d_den
    d_g = d_k / den + d_den * gy
    d_gy = d_den * g - gx * k
    d_t = gu * k + 2.0 * d_ww * wu
    shape = t * g
    d_square = (d_t * p) * tanhc_slope(square, shape, gy) - d_gy * shape * gy
    d_p = d_t * shape + 2.0 * d_square * c * uu * p
    d_uu = d_square * c * p * p
    d_g = d_g - d_p * p * p
    slope = d_den * ww + d_square * uu * p * p - xx * d_g
    to_x, across, to_u = 2.0 * d_ww - 2.0 * c * d_g, 2.0 * d_ww * t, 2.0 * d_uu + 2.0 * d_ww * t * t
    return k * (1.0 - gy), k * t, k * gy, slope, to_x, across, to_u


@inline
def _exp_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, u, g = v[0], v[1], v[2]
    return g + (g * k[0] + x * k[2] + u * k[3]), g * k[1] + x * k[3] + u * k[4]


@kernel
def expmap_back(x, sx, u, su, g, sg, gx, gu, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `expmap` with respect to x, u and, a number for each row, c."""
    ins = ((pointer(x), pointer(u), pointer(g)), (sx, su, sg))
    outs, results = ((pointer(gx), pointer(gu)), (d, d)), ((pointer(gc),), (sgc,))
    rounds = (_exp_back_products, _exp_back_stage, _moved_products, _exp_back_stage_again)
    sweep_twice(rounds, _exp_back_blend, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


# -- logarithm -----------------------------------------------------------------------------------------------------


@inline
def _pair_products(v, k):  # type: ignore[no-untyped-def]
    h = v[1] - v[0]
    x, y = widen(v[0]), widen(v[1])
    return x * x, y * y, h * h


@inline
def _log_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    h2 = c * get(s, SUM + 2, i, like)
    q = h2 / (gx * gy)
    f = arsinhc(q) / (sqrt(1.0 + q) * gy)
    put(s, COEF, i, f * gx)
    put(s, COEF + 1, i, -(f * h2))


@inline
def _log_blend(v, k):  # type: ignore[no-untyped-def]
    return ((v[1] - v[0]) * k[0] + v[0] * k[1],)


@kernel
def logmap(x, sx, y, sy, u, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Logarithm of the rows y at the rows x."""
    ins, outs = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(u),), (d,))
    sweep(_pair_products, _log_stage, _log_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _log_back_products(v, k):  # type: ignore[no-untyped-def]
    h = v[1] - v[0]
    x, y = widen(v[0]), widen(v[1])
    return x * x, y * y, h * h, v[2] * h, v[2] * v[0]


@inline
def _mark_edge(s, i, gx, gy):  # type: ignore[no-untyped-def]
    """Mark rows with a point whose g is at its floor, where the reference has no gradient."""
    _mark_below(s, i, minimum(gx, gy), 0.75)


@inline
def _log_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    _mark_edge(s, i, gx, gy)
    xx, yy, hh = get(s, SUM, i, like), get(s, SUM + 1, i, like), get(s, SUM + 2, i, like)
    gh, gb = get(s, SUM + 3, i, like), get(s, SUM + 4, i, like)
    h2 = c * hh
    q = h2 / (gx * gy)
    root = 1.0 / sqrt(1.0 + q)
    a = arsinhc(q)
    f = a * root / gy
    slope = (arsinhc_slope(q, a) - 0.5 * a * root * root) * root
    d_f = gh * gx - gb * h2
    d_q = d_f * slope / gy
    d_h2 = d_q / (gx * gy) - gb * f
    d_gx = gh * f - d_q * q / gx
    d_gy = -(d_f * f + d_q * q) / gy
    put(s, RESULT, i, d_h2 * hh - xx * d_gx - yy * d_gy)
    put(s, COEF, i, f * gx)
    put(s, COEF + 1, i, -(f * h2))
    put(s, COEF + 2, i, 2.0 * c * d_h2)
    put(s, COEF + 3, i, -(2.0 * c * d_gx))
    put(s, COEF + 4, i, -(2.0 * c * d_gy))


@inline
def _log_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, y, g = v[0], v[1], v[2]
    along = g * k[0] + (y - x) * k[2]
    return (g * k[1] + x * k[3]) - along, along + y * k[4]


@kernel
def logmap_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `logmap` with respect to x, y and c."""
    ins = ((pointer(x), pointer(y), pointer(g)), (sx, sy, sg))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gc),), (sgc,))
    stages = (_log_back_products, _log_back_stage, _log_back_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


# -- distance ------------------------------------------------------------------------------------------------------


@inline
def _no_blend(v, k):  # type: ignore[no-untyped-def]
    return ()


@inline
def _dist_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    q = c * get(s, SUM + 2, i, like) / (gx * gy)
    put(s, RESULT, i, 2.0 / math.sqrt(c) * arsinh_root(q))


@inline
def _dist2_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    q = c * get(s, SUM + 2, i, like) / (gx * gy)
    a = arsinhc(q)
    put(s, RESULT, i, 4.0 / c * q * a * a)


@kernel
def dist(x, sx, y, sy, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Distances between the rows x and y."""
    ins, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(r),), (1,))
    sweep(_pair_products, _dist_stage, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@kernel
def dist2(x, sx, y, sy, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Squared distances between the rows x and y."""
    ins, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(r),), (1,))
    sweep(_pair_products, _dist2_stage, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@inline
def _chord_back(s, i, c, like, q, d_q, d_c, gx, gy):  # type: ignore[no-untyped-def]
    """From the derivative by q = c|h|^2/(g(x) g(y)) on; d_c is the derivative by c where q is held."""
    _mark_edge(s, i, gx, gy)
    xx, yy = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    d_gx, d_gy = -(d_q * q) / gx, -(d_q * q) / gy
    put(s, RESULT, i, d_c + d_q * q / c - xx * d_gx - yy * d_gy)
    put(s, COEF, i, 2.0 * c * d_q / (gx * gy))
    put(s, COEF + 1, i, -(2.0 * c * d_gx))
    put(s, COEF + 2, i, -(2.0 * c * d_gy))


@inline
def _dist_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    g = get(s, GIVEN, i, like)
    q = c * get(s, SUM + 2, i, like) / (gx * gy)
    same = q == 0.0
    d_q = g / (math.sqrt(c) * sqrt(select(same, 1.0, q) * (1.0 + q)))
    d_q = select(same, 0.0, d_q)
    _chord_back(s, i, c, like, q, d_q, -(g * arsinh_root(q) / (c * math.sqrt(c))), gx, gy)


@inline
def _dist2_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    g = get(s, GIVEN, i, like)
    q = c * get(s, SUM + 2, i, like) / (gx * gy)
    a = arsinhc(q)
    d_q = 4.0 / c * g * a / sqrt(1.0 + q)
    _chord_back(s, i, c, like, q, d_q, -(4.0 / (c * c) * g * q * a * a), gx, gy)


@inline
def _chord_back_blend(v, k):  # type: ignore[no-untyped-def]
    along = (v[1] - v[0]) * k[0]
    return v[0] * k[1] - along, along + v[1] * k[2]


@kernel
def dist_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist` with respect to x, y and c."""
    ins, given = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gc),), (sgc,))
    stages = (_pair_products, _dist_back_stage, _chord_back_blend)
    sweep(*stages, ins, outs, given, results, pointer(hard), 0, c, d, lo, hi)


@kernel
def dist2_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist2` with respect to x, y and c."""
    ins, given = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gc),), (sgc,))
    stages = (_pair_products, _dist2_back_stage, _chord_back_blend)
    sweep(*stages, ins, outs, given, results, pointer(hard), 0, c, d, lo, hi)


# -- Möbius addition -----------------------------------------------------------------------------------------------


@inline
def _add_products(v, k):  # type: ignore[no-untyped-def]
    x, y, w = widen(v[0]), widen(v[1]), v[0] + v[1]
    return x * x, y * y, w * w


@inline
def _add_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    s2 = c * get(s, SUM + 2, i, like)
    den = gx * gy + s2
    put(s, COEF, i, gx / den)
    put(s, COEF + 1, i, s2 / den)
    _mark_below(s, i, gx * gy / den, 64.0)


@inline
def _add_blend(v, k):  # type: ignore[no-untyped-def]
    return ((v[0] + v[1]) * k[0] + v[0] * k[1],)


@kernel
def mobius_add(x, sx, y, sy, z, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Möbius sums of the rows x and y."""
    ins, outs = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(z),), (d,))
    sweep(_add_products, _add_stage, _add_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _add_back_products(v, k):  # type: ignore[no-untyped-def]
    x, y, w = widen(v[0]), widen(v[1]), v[0] + v[1]
    return x * x, y * y, w * w, v[2] * w, v[2] * v[0]


@inline
def _add_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    xx, yy, ww = get(s, SUM, i, like), get(s, SUM + 1, i, like), get(s, SUM + 2, i, like)
    gw, gb = get(s, SUM + 3, i, like), get(s, SUM + 4, i, like)
    s2 = c * ww
    den = gx * gy + s2
    a, b = gx / den, s2 / den
    _mark_below(s, i, gy * a, 64.0)
    d_den = -(gw * a + gb * b) / den
    d_gx = gw / den + d_den * gy
    d_gy = d_den * gx
    d_s2 = gb / den + d_den
    put(s, RESULT, i, d_s2 * ww - xx * d_gx - yy * d_gy)
    put(s, COEF, i, a)
    put(s, COEF + 1, i, b)
    put(s, COEF + 2, i, 2.0 * c * d_s2)
    put(s, COEF + 3, i, -(2.0 * c * d_gx))
    put(s, COEF + 4, i, -(2.0 * c * d_gy))


@inline
def _add_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, y, g = v[0], v[1], v[2]
    both = g * k[0] + (x + y) * k[2]
    return both + (g * k[1] + x * k[3]), both + y * k[4]


@kernel
def mobius_add_back(x, sx, y, sy, g, sg, gx, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `mobius_add` with respect to x, y and c."""
    ins = ((pointer(x), pointer(y), pointer(g)), (sx, sy, sg))
    outs, results = ((pointer(gx), pointer(gy)), (d, d)), ((pointer(gc),), (sgc,))
    stages = (_add_back_products, _add_back_stage, _add_back_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


# -- parallel transport --------------------------------------------------------------------------------------------


@inline
def _transport_products(v, k):  # type: ignore[no-untyped-def]
    h = v[1] - v[0]
    x, y = widen(v[0]), widen(v[1])
    return x * x, y * y, h * h, v[0] * v[2], h * v[2]


@inline
def _transport_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _transport_pull(s, i, c, like, 0)


@inline
def _transport_pull(s, i, c, like, first):  # type: ignore[no-untyped-def]
    """Write the coefficients of v, x and y - x, from the number `first` on."""
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    h2 = c * get(s, SUM + 2, i, like)
    along, across = get(s, SUM + 3, i, like), get(s, SUM + 4, i, like)
    k = 2.0 * c / (gx * gy + h2)
    ratio = gy / gx
    put(s, COEF + first, i, ratio)
    put(s, COEF + first + 1, i, ratio * k * (gx * across - h2 * along))
    put(s, COEF + first + 2, i, -(ratio * k * ((gy + h2) * along + (1.0 - gx) * across)))


@inline
def _transport_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[2] * k[0] + (v[0] * k[1] + (v[1] - v[0]) * k[2]),)


@kernel
def transport(x, sx, y, sy, v, sv, w, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Parallel transport of the rows v from the rows x to the rows y."""
    ins, outs = ((pointer(x), pointer(y), pointer(v)), (sx, sy, sv)), ((pointer(w),), (d,))
    stages = (_transport_products, _transport_stage, _transport_blend)
    sweep(*stages, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _transport_back_products(v, k):  # type: ignore[no-untyped-def]
    h = v[1] - v[0]
    x, y = widen(v[0]), widen(v[1])
    return x * x, y * y, h * h, v[0] * v[2], h * v[2], v[3] * v[2], v[3] * v[0], v[3] * h


@inline
def _transport_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _transport_back_pull(s, i, c, like, 0)
    _mark_edge(s, i, gx, gy)


@inline
def _transport_back_pull(s, i, c, like, first):  # type: ignore[no-untyped-def]
    """Write the slope by c and, from the number `first` on, the coefficients; return g of x and y."""
    gx, gy = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    xx, yy, hh = get(s, SUM, i, like), get(s, SUM + 1, i, like), get(s, SUM + 2, i, like)
    along, across = get(s, SUM + 3, i, like), get(s, SUM + 4, i, like)
    gv, gp, gh = get(s, SUM + 5, i, like), get(s, SUM + 6, i, like), get(s, SUM + 7, i, like)
    h2 = c * hh
    m = gx * gy + h2
    k, ratio = 2.0 * c / m, gy / gx
    forward = gx * across - h2 * along
    sideways = (gy + h2) * along + (1.0 - gx) * across
    turned = forward * gp - sideways * gh
    d_ratio = gv + k * turned
    d_m = -(ratio * turned * k) / m
    d_forward, d_sideways = ratio * k * gp, -(ratio * k * gh)
    d_along = d_sideways * (gy + h2) - d_forward * h2
    d_across = d_forward * gx + d_sideways * (1.0 - gx)
    d_h2 = (d_sideways - d_forward) * along + d_m
    d_gx = (d_forward - d_sideways) * across + d_m * gy - d_ratio * ratio / gx
    d_gy = d_sideways * along + d_m * gx + d_ratio / gx
    put(s, RESULT, i, ratio * turned * 2.0 / m + d_h2 * hh - xx * d_gx - yy * d_gy)
    put(s, COEF + first, i, ratio)
    put(s, COEF + first + 1, i, ratio * k * forward)
    put(s, COEF + first + 2, i, -(ratio * k * sideways))
    put(s, COEF + first + 3, i, d_along)
    put(s, COEF + first + 4, i, d_across)
    put(s, COEF + first + 5, i, 2.0 * c * d_h2)
    put(s, COEF + first + 6, i, -(2.0 * c * d_gx))
    put(s, COEF + first + 7, i, -(2.0 * c * d_gy))
    return gx, gy


@inline
def _transport_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, y, w, g = v[0], v[1], v[2], v[3]
    h = y - x
    along = g * k[2] + h * k[5] + w * k[4]
    return (g * k[1] + x * k[6] + w * k[3]) - along, along + y * k[7], g * k[0] + x * k[3] + h * k[4]


@kernel
def transport_back(x, sx, y, sy, v, sv, g, sg, gx, gy, gv, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `transport` with respect to x, y, v and c."""
    ins = ((pointer(x), pointer(y), pointer(v), pointer(g)), (sx, sy, sv, sg))
    outs, results = ((pointer(gx), pointer(gy), pointer(gv)), (d, d, d)), ((pointer(gc),), (sgc,))
    stages = (_transport_back_products, _transport_back_stage, _transport_back_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


# -- exponential map with transport --------------------------------------------------------------------------------


@inline
def _both_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _mark_below(s, i, _exp_pull(s, i, c, like), 64.0)


@inline
def _both_products(v, k):  # type: ignore[no-untyped-def]
    x = v[0]
    y = x + (x * k[0] + v[1] * k[1])
    h = y - x
    wide, end = widen(x), widen(y)
    return wide * wide, end * end, h * h, x * v[2], h * v[2]


@inline
def _both_stage_last(s, i, c, like):  # type: ignore[no-untyped-def]
    _transport_pull(s, i, c, like, 2)


@inline
def _both_blend(v, k):  # type: ignore[no-untyped-def]
    x = v[0]
    y = x + (x * k[0] + v[1] * k[1])
    return y, v[2] * k[2] + (x * k[3] + (y - x) * k[4])


@kernel
def expmap_transport(x, sx, u, su, v, sv, y, w, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the rows x, and transport of the rows v along it."""
    ins, outs = ((pointer(x), pointer(u), pointer(v)), (sx, su, sv)), ((pointer(y), pointer(w)), (d, d))
    rounds = (_exp_products, _exp_stage, _exp_products_again, _both_stage, _both_products, _both_stage_last)
    sweep_thrice(rounds, _both_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


# Coefficients of the way back: 0 and 1 of the displacement, 2 to 9 of the transport's gradients, and from 10 on what
# the exponential map's gradients need, in whose place the first three of them come last.


@inline
def _both_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    _exp_stage(s, i, c, like)
    put(s, COEF + 10, i, get(s, COEF, i, like))
    put(s, COEF + 11, i, get(s, COEF + 1, i, like))
    put(s, COEF + 12, i, get(s, SUM + 1, i, like))
    put(s, COEF + 13, i, load(s, SUM * BLOCK + i))


@inline
def _both_back_stage_moved(s, i, c, like):  # type: ignore[no-untyped-def]
    put(s, COEF + 14, i, get(s, SUM, i, like))
    put(s, COEF + 15, i, get(s, SUM + 1, i, like))
    _exp_pull(s, i, c, like)


@inline
def _both_back_products(v, k):  # type: ignore[no-untyped-def]
    x, w, upstream = v[0], v[2], v[4]
    y = x + (x * k[0] + v[1] * k[1])
    h = y - x
    wide, end = widen(x), widen(y)
    return wide * wide, end * end, h * h, x * w, h * w, upstream * w, upstream * x, upstream * h


@inline
def _both_back_stage_transport(s, i, c, like):  # type: ignore[no-untyped-def]
    gx, gy = _transport_back_pull(s, i, c, like, 2)
    _mark_edge(s, i, gx, gy)


@inline
def _both_back_upstream(v, k):  # type: ignore[no-untyped-def]
    """Gradient by the point y, and what of the transport's gradients goes to y with one sign and to x with the other.

    `transport_back` with the coefficients 2 to 9.
    """
    x = v[0]
    y = x + (x * k[0] + v[1] * k[1])
    h = y - x
    along = v[4] * k[4] + h * k[7] + v[2] * k[6]
    return v[3] + (along + y * k[9]), along, h


@inline
def _both_back_products_last(v, k):  # type: ignore[no-untyped-def]
    g, _, _ = _both_back_upstream(v, k)
    return g * v[0], g * v[1]


@inline
def _both_back_stage_last(s, i, c, like):  # type: ignore[no-untyped-def]
    t, g, uu = get(s, COEF + 10, i, like), get(s, COEF + 11, i, like), get(s, COEF + 12, i, like)
    xx, ww, wu = get(s, COEF + 13, i, like), get(s, COEF + 14, i, like), get(s, COEF + 15, i, like)
    gx, gu = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    _, _, end, slope, k2, k3, k4 = _exp_chain(c, t, g, uu, xx, gx, gu, ww, wu)
    put(s, RESULT, i, get(s, RESULT, i, like) + slope)
    put(s, COEF + 10, i, k2)
    put(s, COEF + 11, i, k3)
    put(s, COEF + 12, i, k4)
    edge = get(s, HARD, i, like)
    put(s, HARD, i, select(end > 64.0 * _eps(end), edge, 0.0 * edge + 1.0))


@inline
def _both_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, u, w, upstream = v[0], v[1], v[2], v[4]
    g, along, h = _both_back_upstream(v, k)
    to_x = (upstream * k[3] + x * k[8] + w * k[5]) - along
    return (
        to_x + (g + (g * k[0] + x * k[10] + u * k[11])),
        g * k[1] + x * k[11] + u * k[12],
        upstream * k[2] + x * k[5] + h * k[6],
    )


@kernel
def expmap_transport_back(  # type: ignore[no-untyped-def]
    x, sx, u, su, v, sv, g, sg, h, sh, gx, gu, gv, gc, sgc, hard, c, d, lo, hi
):
    """Gradients of `expmap_transport` by x, u, v and c, for the upstream gradients g of y and h of w."""
    ins = ((pointer(x), pointer(u), pointer(v), pointer(g), pointer(h)), (sx, su, sv, sg, sh))
    outs, results = ((pointer(gx), pointer(gu), pointer(gv)), (d, d, d)), ((pointer(gc),), (sgc,))
    rounds = (
        _exp_products,
        _both_back_stage,
        _moved_products,
        _both_back_stage_moved,
        _both_back_products,
        _both_back_stage_transport,
        _both_back_products_last,
        _both_back_stage_last,
    )
    sweep_fourfold(rounds, _both_back_blend, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


# -- distance to a hyperplane --------------------------------------------------------------------------------------


@inline
def _plane_products(v, k):  # type: ignore[no-untyped-def]
    h = v[0] - v[1]
    x, p = widen(v[0]), widen(v[1])
    return x * x, p * p, h * h, h * v[2], v[1] * v[2], v[2] * v[2]


@inline
def _plane_sine(s, i, c, like):  # type: ignore[no-untyped-def]
    """What the distance is the inverse hyperbolic sine of, with the factors of its denominator."""
    gx, gp = _gap(s, SUM, i, c, like), _gap(s, SUM + 1, i, c, like)
    aa = get(s, SUM + 5, i, like)
    length = sqrt(select(aa == 0.0, 1.0, aa))
    across = gp * get(s, SUM + 3, i, like) - c * get(s, SUM + 2, i, like) * get(s, SUM + 4, i, like)
    return 2.0 * math.sqrt(c) * across / (gp * gx * length), gx, gp, length


@inline
def _plane_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    sine, _, _, _ = _plane_sine(s, i, c, like)
    angle, _ = arsinh(sine)
    put(s, RESULT, i, angle / math.sqrt(c))


@kernel
def dist2plane(x, sx, p, sp, a, sa, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Signed distances of the rows x to the hyperplanes through the rows p with the normals a."""
    ins, results = ((pointer(x), pointer(p), pointer(a)), (sx, sp, sa)), ((pointer(r),), (1,))
    sweep(_plane_products, _plane_stage, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@inline
def _plane_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    sine, gx, gp, length = _plane_sine(s, i, c, like)
    _mark_edge(s, i, gx, gp)
    xx, pp, hh = get(s, SUM, i, like), get(s, SUM + 1, i, like), get(s, SUM + 2, i, like)
    ha, pa = get(s, SUM + 3, i, like), get(s, SUM + 4, i, like)
    flat = get(s, SUM + 5, i, like) == 0.0
    g, rc = get(s, GIVEN, i, like), math.sqrt(c)
    angle, stretch = arsinh(sine)
    d_sine = g / (rc * stretch)
    d_across = d_sine * (2.0 * rc) / (gp * gx * length)
    d_gx, d_gp = -(d_sine * sine) / gx, d_across * ha - d_sine * sine / gp
    d_hh = -(d_across * c * pa)
    explicit = d_sine * sine * 0.5 / c - d_across * hh * pa - g * angle * 0.5 / (c * rc)
    put(s, RESULT, i, explicit - xx * d_gx - pp * d_gp)
    put(s, COEF, i, d_across * gp)
    put(s, COEF + 1, i, 2.0 * d_hh)
    put(s, COEF + 2, i, -(2.0 * c * d_gx))
    put(s, COEF + 3, i, -(d_across * c * hh))
    put(s, COEF + 4, i, -(2.0 * c * d_gp))
    put(s, COEF + 5, i, select(flat, 0.0, -(d_sine * sine) / (length * length)))


@inline
def _plane_back_blend(v, k):  # type: ignore[no-untyped-def]
    x, p, a = v[0], v[1], v[2]
    h = x - p
    along = a * k[0] + h * k[1]
    return along + x * k[2], (a * k[3] + p * k[4]) - along, (h * k[0] + p * k[3]) + a * k[5]


@kernel
def dist2plane_back(x, sx, p, sp, a, sa, g, sg, gx, gp, ga, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist2plane` with respect to x, p, a and c."""
    ins, given = ((pointer(x), pointer(p), pointer(a)), (sx, sp, sa)), ((pointer(g),), (sg,))
    outs, results = ((pointer(gx), pointer(gp), pointer(ga)), (d, d, d)), ((pointer(gc),), (sgc,))
    stages = (_plane_products, _plane_back_stage, _plane_back_blend)
    sweep(*stages, ins, outs, given, results, pointer(hard), 0, c, d, lo, hi)


# -- maps about the origin -----------------------------------------------------------------------------------------


@inline
def _square_products(v, k):  # type: ignore[no-untyped-def]
    w = widen(v[0])
    return (w * w,)


@inline
def _scale_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[0] * k[0],)


@inline
def _exp0_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    square = c * get(s, SUM, i, like)
    put(s, COEF, i, tanhc(square))
    _mark_below(s, i, sech2(square), 64.0)


@inline
def _log0_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    g = _gap(s, SUM, i, c, like)
    q = c * get(s, SUM, i, like) / g
    put(s, COEF, i, arsinhc(q) / sqrt(g))


@inline
def _project_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    g = _gap(s, SUM, i, c, like)
    put(s, COEF, i, 0.0 * g + 1.0)
    _mark_below(s, i, g, 64.0)


@kernel
def expmap0(u, su, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the origin."""
    ins, outs = ((pointer(u),), (su,)), ((pointer(y),), (d,))
    sweep(_square_products, _exp0_stage, _scale_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@kernel
def logmap0(y, sy, u, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Logarithm of the rows y at the origin."""
    ins, outs = ((pointer(y),), (sy,)), ((pointer(u),), (d,))
    sweep(_square_products, _log0_stage, _scale_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@kernel
def project(x, sx, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """The rows x, which are hard where they are at the edge or beyond it."""
    ins, outs = ((pointer(x),), (sx,)), ((pointer(y),), (d,))
    sweep(_square_products, _project_stage, _scale_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _radial_products(v, k):  # type: ignore[no-untyped-def]
    w = widen(v[0])
    return w * w, v[0] * v[1]


@inline
def _radial_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[1] * k[0] + v[0] * k[1],)


@inline
def _exp0_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu, gu = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    square = c * uu
    t, g = tanhc(square), sech2(square)
    _mark_below(s, i, g, 64.0)
    slope = gu * tanhc_slope(square, t, g)
    put(s, RESULT, i, slope * uu)
    put(s, COEF, i, t)
    put(s, COEF + 1, i, 2.0 * c * slope)


@inline
def _log0_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    g = _gap(s, SUM, i, c, like)
    _mark_edge(s, i, g, g)
    yy, gb = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    square = c * yy
    q = square / g
    a, root = arsinhc(q), 1.0 / sqrt(g)
    # d q / d square = 1/g^2 and d g / d square = -1
    slope = gb * root * (arsinhc_slope(q, a) / (g * g) + 0.5 * a / g)
    put(s, RESULT, i, slope * yy)
    put(s, COEF, i, a * root)
    put(s, COEF + 1, i, 2.0 * c * slope)


@inline
def _project_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    g = _gap(s, SUM, i, c, like)
    _mark_below(s, i, g, 64.0)
    put(s, RESULT, i, 0.0 * g)
    put(s, COEF, i, 0.0 * g + 1.0)
    put(s, COEF + 1, i, 0.0 * g)


@kernel
def expmap0_back(u, su, g, sg, gu, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `expmap0` with respect to u and c."""
    ins = ((pointer(u), pointer(g)), (su, sg))
    outs, results = ((pointer(gu),), (d,)), ((pointer(gc),), (sgc,))
    stages = (_radial_products, _exp0_back_stage, _radial_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@kernel
def logmap0_back(y, sy, g, sg, gy, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `logmap0` with respect to y and c."""
    ins = ((pointer(y), pointer(g)), (sy, sg))
    outs, results = ((pointer(gy),), (d,)), ((pointer(gc),), (sgc,))
    stages = (_radial_products, _log0_back_stage, _radial_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@kernel
def project_back(x, sx, g, sg, gx, gc, sgc, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `project` with respect to x and c."""
    ins = ((pointer(x), pointer(g)), (sx, sg))
    outs, results = ((pointer(gx),), (d,)), ((pointer(gc),), (sgc,))
    stages = (_radial_products, _project_back_stage, _radial_blend)
    sweep(*stages, ins, outs, _NONE, results, pointer(hard), 0, c, d, lo, hi)

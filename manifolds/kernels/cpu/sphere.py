"""Row kernels of the unit sphere; the reference is `holonomy.manifolds.spherical`, whose formulas these are.

``d_q`` is the derivative of <G, result> by q, where G is the upstream gradient. A row is hard where the points are
antipodal, where a vector is so long that its sine has no digits, or where a length is next to zero or infinity.
"""

from holonomy.manifolds.kernels.cpu.even import asinc, asinc_slope, cosm1c_slope, sinc_cosm1c, sinc_slope
from holonomy.manifolds.kernels.cpu.jit import inline, kernel
from holonomy.manifolds.kernels.cpu.lanes import atan2, is_single, pointer, select, sqrt
from holonomy.manifolds.kernels.cpu.rows import COEF, GIVEN, HARD, RESULT, SUM, get, put, sweep, sweep_twice

__all__ = [
    "dist",
    "dist2",
    "dist2_back",
    "dist_back",
    "expmap",
    "expmap_back",
    "expmap_transport",
    "expmap_transport_back",
    "logmap",
    "logmap_back",
    "project",
    "project_back",
    "transport",
    "transport_back",
]

_NONE = ((), ())


@inline
def _mark_unless(s, i, mask, value):  # type: ignore[no-untyped-def]
    """Mark rows where the mask does not hold; `value` is any number of theirs."""
    put(s, HARD, i, select(mask, 0.0 * value, 0.0 * value + 1.0))


@inline
def _no_blend(v, k):  # type: ignore[no-untyped-def]
    return ()


# -- projection ----------------------------------------------------------------------------------------------------


@inline
def _square_products(v, k):  # type: ignore[no-untyped-def]
    return (v[0] * v[0],)


@inline
def _mark_extreme(s, i, square):  # type: ignore[no-untyped-def]
    """Mark rows whose square of a length lost digits at the end of the dtype's range."""
    low, high = (1e-30, 1e30) if is_single(square) else (1e-290, 1e290)
    _mark_unless(s, i, (square > low) & (square < high), square)


@inline
def _project_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    xx = get(s, SUM, i, like)
    _mark_extreme(s, i, xx)
    put(s, COEF, i, sqrt(xx))


@inline
def _project_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[0] / k[0],)


@kernel
def project(x, sx, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """The rows x, scaled to length 1."""
    ins, outs = ((pointer(x),), (sx,)), ((pointer(y),), (d,))
    sweep(_square_products, _project_stage, _project_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _project_back_products(v, k):  # type: ignore[no-untyped-def]
    return v[0] * v[0], v[0] * v[1]


@inline
def _project_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    xx = get(s, SUM, i, like)
    _mark_extreme(s, i, xx)
    put(s, COEF, i, get(s, SUM + 1, i, like) / xx)
    put(s, COEF + 1, i, sqrt(xx))


@inline
def _project_back_blend(v, k):  # type: ignore[no-untyped-def]
    return ((v[1] - v[0] * k[0]) / k[1],)


@kernel
def project_back(x, sx, g, sg, gx, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradient of `project`."""
    ins, outs = ((pointer(x), pointer(g)), (sx, sg)), ((pointer(gx),), (d,))
    stages = (_project_back_products, _project_back_stage, _project_back_blend)
    sweep(*stages, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


# -- exponential map, with transport: y = (1 + P) x + B u, w = v + <u, v> (C u - B x) --------------------------------
# with s = |u|^2, B = sinc(s), C = -cosm1c(s)/2, P = s C = cos - 1; y is scaled to length 1 at the end.


@inline
def _exp_products(v, k):  # type: ignore[no-untyped-def]
    return (v[1] * v[1],)


@inline
def _exp_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu = get(s, SUM, i, like)
    sine, cosine = sinc_cosm1c(uu)
    put(s, COEF, i, -0.5 * uu * cosine)
    put(s, COEF + 1, i, sine)
    _mark_unless(s, i, uu < 1e7, uu)


@inline
def _moved(v, k):  # type: ignore[no-untyped-def]
    return v[0] + (v[0] * k[0] + v[1] * k[1])


@inline
def _moved_products(v, k):  # type: ignore[no-untyped-def]
    y = _moved(v, k)
    return (y * y,)


@inline
def _moved_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    put(s, COEF + 2, i, sqrt(get(s, SUM, i, like)))


@inline
def _moved_blend(v, k):  # type: ignore[no-untyped-def]
    return (_moved(v, k) / k[2],)


@kernel
def expmap(x, sx, u, su, y, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the rows x."""
    ins, outs = ((pointer(x), pointer(u)), (sx, su)), ((pointer(y),), (d,))
    rounds = (_exp_products, _exp_stage, _moved_products, _moved_stage)
    sweep_twice(rounds, _moved_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _both_products(v, k):  # type: ignore[no-untyped-def]
    return v[1] * v[1], v[1] * v[2]


@inline
def _both_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu, uv = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    sine, cosine = sinc_cosm1c(uu)
    put(s, COEF, i, -0.5 * uu * cosine)
    put(s, COEF + 1, i, sine)
    put(s, COEF + 3, i, -(uv * sine))
    put(s, COEF + 4, i, -0.5 * cosine * uv)
    _mark_unless(s, i, uu < 1e7, uu)


@inline
def _both_blend(v, k):  # type: ignore[no-untyped-def]
    return _moved(v, k) / k[2], v[2] + (v[0] * k[3] + v[1] * k[4])


@kernel
def expmap_transport(x, sx, u, su, v, sv, y, w, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Exponential map of the rows u at the rows x, and transport of the rows v along it."""
    ins, outs = ((pointer(x), pointer(u), pointer(v)), (sx, su, sv)), ((pointer(y), pointer(w)), (d, d))
    rounds = (_both_products, _both_stage, _moved_products, _moved_stage)
    sweep_twice(rounds, _both_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _exp_back_products(v, k):  # type: ignore[no-untyped-def]
    x, u, g = v[0], v[1], v[2]
    return u * u, x * x, x * u, g * x, g * u


@inline
def _exp_pull(s, i, like):  # type: ignore[no-untyped-def]
    """Write the coefficients of `_exp_back`; return s, B, cosm1c(s) and what d_s has of the point."""
    uu, xx, xu = get(s, SUM, i, like), get(s, SUM + 1, i, like), get(s, SUM + 2, i, like)
    gx, gu = get(s, SUM + 3, i, like), get(s, SUM + 4, i, like)
    sine, cosine = sinc_cosm1c(uu)
    rise = -0.5 * uu * cosine
    yx, yu = xx + (rise * xx + sine * xu), xu + (rise * xu + sine * uu)
    yy, gy = yx + (rise * yx + sine * yu), gx + (rise * gx + sine * gu)
    scale = 1.0 / sqrt(yy)
    lean = gy / yy
    put(s, COEF, i, rise)
    put(s, COEF + 1, i, sine)
    put(s, COEF + 2, i, lean)
    put(s, COEF + 3, i, scale)
    slope = sinc_slope(uu, sine, cosine)
    return uu, sine, cosine, scale * ((gu - lean * yu) * slope - 0.5 * (gx - lean * yx) * sine)


@inline
def _exp_back(v, k):  # type: ignore[no-untyped-def]
    """Gradients through the point, the one of u without what comes by way of s."""
    g = (v[2] - _moved(v, k) * k[2]) * k[3]
    return g + g * k[0], g * k[1]


@inline
def _exp_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu, _, _, d_uu = _exp_pull(s, i, like)
    put(s, COEF + 4, i, 2.0 * d_uu)
    _mark_unless(s, i, uu < 1e7, uu)


@inline
def _exp_back_blend(v, k):  # type: ignore[no-untyped-def]
    gx, gu = _exp_back(v, k)
    return gx, gu + v[1] * k[4]


@kernel
def expmap_back(x, sx, u, su, g, sg, gx, gu, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `expmap` with respect to x and u."""
    ins, outs = ((pointer(x), pointer(u), pointer(g)), (sx, su, sg)), ((pointer(gx), pointer(gu)), (d, d))
    stages = (_exp_back_products, _exp_back_stage, _exp_back_blend)
    sweep(*stages, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _both_back_products(v, k):  # type: ignore[no-untyped-def]
    x, u, g, h = v[0], v[1], v[2], v[4]
    return u * u, x * x, x * u, g * x, g * u, u * v[3], h * x, h * u


@inline
def _both_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    uu, sine, cosine, d_uu = _exp_pull(s, i, like)
    uv, hx, hu = get(s, SUM + 5, i, like), get(s, SUM + 6, i, like), get(s, SUM + 7, i, like)
    turn = 0.5 * hu * cosm1c_slope(uu, sine, cosine) + hx * sinc_slope(uu, sine, cosine)
    put(s, COEF + 4, i, 2.0 * (d_uu - uv * turn))
    put(s, COEF + 5, i, -(sine * hx) - 0.5 * cosine * hu)
    put(s, COEF + 6, i, -0.5 * cosine * uv)
    put(s, COEF + 7, i, -(uv * sine))
    _mark_unless(s, i, uu < 1e7, uu)


@inline
def _both_back_blend(v, k):  # type: ignore[no-untyped-def]
    gx, gu = _exp_back(v, k)
    u, w, h = v[1], v[3], v[4]
    return gx + h * k[7], gu + u * k[4] + w * k[5] + h * k[6], h + u * k[5]


@kernel
def expmap_transport_back(x, sx, u, su, v, sv, g, sg, h, sh, gx, gu, gv, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `expmap_transport` with respect to x, u and v, for the upstream gradients g of y and h of w."""
    ins = ((pointer(x), pointer(u), pointer(g), pointer(v), pointer(h)), (sx, su, sg, sv, sh))
    outs = ((pointer(gx), pointer(gu), pointer(gv)), (d, d, d))
    stages = (_both_back_products, _both_back_stage, _both_back_blend)
    sweep(*stages, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


# -- logarithm: u = F (y - x + (C/2) x), with the squares C of the chord and D of the cochord ------------------------


@inline
def _chord_products(v, k):  # type: ignore[no-untyped-def]
    h, t = v[0] - v[1], v[0] + v[1]
    return h * h, t * t


@inline
def _log_factor(s, i, like):  # type: ignore[no-untyped-def]
    """C, D, whether the angle is below a right one, q = C/4, asinc(q), 1/sqrt(1 - q), and F = angle / sin(angle)."""
    chord, cochord = get(s, SUM, i, like), get(s, SUM + 1, i, like)
    _mark_unless(s, i, cochord > 0.0, cochord)
    near = chord < 2.0
    q = select(near, 0.25 * chord, 0.25)
    # Up to a right angle the chord alone decides, as in the reference.
    across = select(near, 4.0 - chord, cochord)
    angle = atan2(sqrt(chord), sqrt(across))
    a = asinc(q, angle)
    root = 1.0 / sqrt(1.0 - q)
    safe = select(near, 2.0, chord)
    factor = select(near, a * root, 4.0 * angle / (sqrt(safe) * sqrt(across)))
    return chord, cochord, near, q, a, root, factor


@inline
def _log_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    chord, _, _, _, _, _, factor = _log_factor(s, i, like)
    put(s, COEF, i, 0.5 * chord)
    put(s, COEF + 1, i, factor)


@inline
def _log_blend(v, k):  # type: ignore[no-untyped-def]
    return (((v[1] - v[0]) + v[0] * k[0]) * k[1],)


@kernel
def logmap(x, sx, y, sy, u, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Logarithm of the rows y at the rows x."""
    ins, outs = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(u),), (d,))
    sweep(_chord_products, _log_stage, _log_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _log_back_products(v, k):  # type: ignore[no-untyped-def]
    h, t = v[0] - v[1], v[0] + v[1]
    return h * h, t * t, v[2] * v[0]


@inline
def _log_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    chord, cochord, near, q, a, root, factor = _log_factor(s, i, like)
    # The derivatives of F by C and D; below a right angle it does not depend on D.
    both = 2.0 / (chord + cochord)
    close = 0.25 * (asinc_slope(q, a) + 0.5 * a * root * root) * root
    put(s, COEF, i, 0.5 * chord)
    put(s, COEF + 1, i, factor)
    put(s, COEF + 2, i, select(near, close, (both - 0.5 * factor) / select(near, 2.0, chord)))
    put(s, COEF + 3, i, select(near, 0.0, -(both + 0.5 * factor) / select(near, 2.0, cochord)))
    put(s, COEF + 4, i, 0.5 * factor * get(s, SUM + 2, i, like))


@inline
def _log_back_products_again(v, k):  # type: ignore[no-untyped-def]
    # Of the vector itself: near the antipode it is small, and two sums would cancel.
    return (v[2] * ((v[1] - v[0]) + v[0] * k[0]),)


@inline
def _log_back_stage_again(s, i, c, like):  # type: ignore[no-untyped-def]
    d_factor = get(s, SUM, i, like)
    put(s, COEF + 2, i, 2.0 * (get(s, COEF + 2, i, like) * d_factor + get(s, COEF + 4, i, like)))
    put(s, COEF + 3, i, 2.0 * get(s, COEF + 3, i, like) * d_factor)


@inline
def _log_back_blend(v, k):  # type: ignore[no-untyped-def]
    along = v[2] * k[1]
    turn, shift = (v[0] - v[1]) * k[2], (v[0] + v[1]) * k[3]
    return (along * k[0] - along) + turn + shift, along - turn + shift


@kernel
def logmap_back(x, sx, y, sy, g, sg, gx, gy, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `logmap` with respect to x and y."""
    ins, outs = ((pointer(x), pointer(y), pointer(g)), (sx, sy, sg)), ((pointer(gx), pointer(gy)), (d, d))
    rounds = (_log_back_products, _log_back_stage, _log_back_products_again, _log_back_stage_again)
    sweep_twice(rounds, _log_back_blend, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


# -- distance ------------------------------------------------------------------------------------------------------


@inline
def _angle(s, i, like):  # type: ignore[no-untyped-def]
    """Chord, cochord, and half the distance."""
    chord, cochord = sqrt(get(s, SUM, i, like)), sqrt(get(s, SUM + 1, i, like))
    return chord, cochord, atan2(chord, cochord)


@inline
def _dist_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    put(s, RESULT, i, 2.0 * _angle(s, i, like)[2])


@inline
def _dist2_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    square = get(s, SUM, i, like)
    near = square < 2.0
    q = select(near, 0.25 * square, 0.25)
    _, cochord, _ = _angle(s, i, like)
    angle = atan2(sqrt(square), select(near, sqrt(4.0 * (1.0 - q)), cochord))
    a = asinc(q, angle)
    put(s, RESULT, i, select(near, square * a * a, 4.0 * angle * angle))


@kernel
def dist(x, sx, y, sy, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Distances between the rows x and y."""
    ins, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(r),), (1,))
    sweep(_chord_products, _dist_stage, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@kernel
def dist2(x, sx, y, sy, r, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Squared distances between the rows x and y."""
    ins, results = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(r),), (1,))
    sweep(_chord_products, _dist2_stage, _no_blend, ins, _NONE, _NONE, results, pointer(hard), 0, c, d, lo, hi)


@inline
def _angle_back(s, i, chord, cochord, d_angle):  # type: ignore[no-untyped-def]
    """Coefficients of x - y and x + y; a length of 0 has gradient 0."""
    both = chord * chord + cochord * cochord
    across = select(chord > 0.0, d_angle * cochord / (both * select(chord > 0.0, chord, 1.0)), 0.0)
    shift = select(cochord > 0.0, -(d_angle * chord) / (both * select(cochord > 0.0, cochord, 1.0)), 0.0)
    return across, shift


@inline
def _dist_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    chord, cochord, _ = _angle(s, i, like)
    across, shift = _angle_back(s, i, chord, cochord, 2.0 * get(s, GIVEN, i, like))
    put(s, COEF, i, across)
    put(s, COEF + 1, i, shift)


@inline
def _dist2_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    chord, cochord, angle = _angle(s, i, like)
    g = get(s, GIVEN, i, like)
    across, shift = _angle_back(s, i, chord, cochord, 8.0 * g * angle)
    near = chord * chord < 2.0
    q = select(near, 0.25 * chord * chord, 0.25)
    a = asinc(q, atan2(sqrt(q), sqrt(1.0 - q)))
    # The derivative of 4 q asinc(q)^2 by q is 4 asinc(q) / sqrt(1 - q).
    put(s, COEF, i, select(near, 2.0 * g * a / sqrt(1.0 - q), across))
    put(s, COEF + 1, i, select(near, 0.0, shift))


@inline
def _dist_back_blend(v, k):  # type: ignore[no-untyped-def]
    across, shift = (v[0] - v[1]) * k[0], (v[0] + v[1]) * k[1]
    return across + shift, shift - across


@kernel
def dist_back(x, sx, y, sy, g, sg, gx, gy, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist` with respect to x and y."""
    ins, outs = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(gx), pointer(gy)), (d, d))
    given = ((pointer(g),), (sg,))
    sweep(_chord_products, _dist_back_stage, _dist_back_blend, ins, outs, given, _NONE, pointer(hard), 0, c, d, lo, hi)


@kernel
def dist2_back(x, sx, y, sy, g, sg, gx, gy, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `dist2` with respect to x and y."""
    ins, outs = ((pointer(x), pointer(y)), (sx, sy)), ((pointer(gx), pointer(gy)), (d, d))
    given = ((pointer(g),), (sg,))
    sweep(_chord_products, _dist2_back_stage, _dist_back_blend, ins, outs, given, _NONE, pointer(hard), 0, c, d, lo, hi)


# -- parallel transport: w = v + m (x + y), m = -2 <y, v> / D --------------------------------------------------------


@inline
def _transport_products(v, k):  # type: ignore[no-untyped-def]
    t = v[0] + v[1]
    return t * t, v[1] * v[2]


@inline
def _transport_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    cochord = get(s, SUM, i, like)
    _mark_unless(s, i, cochord > 0.0, cochord)
    put(s, COEF, i, -2.0 * get(s, SUM + 1, i, like) / cochord)


@inline
def _transport_blend(v, k):  # type: ignore[no-untyped-def]
    return (v[2] + (v[0] + v[1]) * k[0],)


@kernel
def transport(x, sx, y, sy, v, sv, w, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Parallel transport of the rows v from the rows x to the rows y."""
    ins, outs = ((pointer(x), pointer(y), pointer(v)), (sx, sy, sv)), ((pointer(w),), (d,))
    stages = (_transport_products, _transport_stage, _transport_blend)
    sweep(*stages, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)


@inline
def _transport_back_products(v, k):  # type: ignore[no-untyped-def]
    t = v[0] + v[1]
    return t * t, v[1] * v[2], v[3] * t


@inline
def _transport_back_stage(s, i, c, like):  # type: ignore[no-untyped-def]
    cochord = get(s, SUM, i, like)
    _mark_unless(s, i, cochord > 0.0, cochord)
    m = -2.0 * get(s, SUM + 1, i, like) / cochord
    d_m = get(s, SUM + 2, i, like)
    put(s, COEF, i, m)
    put(s, COEF + 1, i, -2.0 * d_m / cochord)
    put(s, COEF + 2, i, -2.0 * d_m * m / cochord)


@inline
def _transport_back_blend(v, k):  # type: ignore[no-untyped-def]
    both = v[3] * k[0] + (v[0] + v[1]) * k[2]
    return both, both + v[2] * k[1], v[3] + v[1] * k[1]


@kernel
def transport_back(x, sx, y, sy, v, sv, g, sg, gx, gy, gv, hard, c, d, lo, hi):  # type: ignore[no-untyped-def]
    """Gradients of `transport` with respect to x, y and v."""
    ins = ((pointer(x), pointer(y), pointer(v), pointer(g)), (sx, sy, sv, sg))
    outs = ((pointer(gx), pointer(gy), pointer(gv)), (d, d, d))
    stages = (_transport_back_products, _transport_back_stage, _transport_back_blend)
    sweep(*stages, ins, outs, _NONE, _NONE, pointer(hard), 0, c, d, lo, hi)

"""Kernels on the probability simplex: Euclidean projection, and the Fisher-Rao maps with their gradients.

Rows go in groups of eight: one pass over each row for its sums, the scalar functions (sine, arc sine) for the eight
rows at once, and a second pass, in cache, that writes. Sums are in float64. Entries that are 0 belong to a face: they
follow the conventions of the reference, zero velocity and the same one-sided derivatives.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    any_lane,
    atan2,
    cos,
    exp,
    fill,
    load,
    masked_load,
    masked_store,
    maximum,
    narrow,
    polynomial,
    select,
    sin,
    sqrt,
    store,
    total,
    widen,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["backward", "forward", "project", "project_backward"]

#: Entries that make a thread worth starting.
_GRAIN = 2**15


@inline
def fetch(array, offset, count):  # type: ignore[no-untyped-def]
    """Eight numbers, or the first `count` of them and zeros."""
    return load(array, offset) if count >= LANES else masked_load(array, offset, count)


@inline
def put(array, offset, value, count):  # type: ignore[no-untyped-def]
    """Write eight numbers, or the first `count` of them, in the dtype of the array."""
    if count >= LANES:
        store(array, offset, narrow(value, array))
    else:
        masked_store(array, offset, narrow(value, array), count)


# -- Euclidean projection ------------------------------------------------------------------------------------------


@kernel
def _project(x, out, n, mass, low, high):  # type: ignore[no-untyped-def]
    # A row is shifted by its largest entry: then all that counts is in [-mass, 0], whatever the size of the entries.
    padded = (n + LANES - 1) // LANES * LANES
    row, ones = np.empty(padded, x.dtype), np.ones(LANES, x.dtype)
    nothing, zero, one = fill(x, -np.inf), fill(x, 0.0), fill(x, 1.0)
    for i in range(low, high):
        top, strange = nothing, zero
        for j in range(0, padded, LANES):
            z = fetch(x, i * n + j, n - j)
            if n - j < LANES:
                z = select(masked_load(ones, 0, n - j) > 0.5, z, nothing)
            top = maximum(z, top)
            strange = strange + select(z == z, zero, one)
            store(row, j, z)
        highest = _largest(top, ones)
        if total(strange) > 0.0 or not math.isfinite(highest):
            for j in range(n):
                out[i * n + j] = np.nan
            continue
        threshold = _threshold(row, padded, highest, mass)
        for j in range(0, padded, LANES):
            put(out, i * n + j, maximum((load(row, j) - highest) - threshold, zero), n - j)


@inline
def _largest(top, scratch):  # type: ignore[no-untyped-def]
    store(scratch, 0, top)
    highest = scratch[0]
    for k in range(1, LANES):
        highest = max(highest, scratch[k])
    for k in range(LANES):
        scratch[k] = 1.0
    return highest


@inline
def _threshold(row, padded, highest, mass):  # type: ignore[no-untyped-def]
    """Newton's method on t -> sum max(row - highest - t, 0) - mass, from below: the active set only shrinks."""
    threshold, active = -mass, -1.0
    zero, one = fill(row, 0.0), fill(row, 1.0)
    while True:
        above, count = widen(zero), zero
        for j in range(0, padded, LANES):
            z = load(row, j) - highest
            inside = z > threshold
            above = above + widen(select(inside, z, zero))
            count = count + select(inside, one, zero)
        number = float(total(count))
        threshold = (total(above) - mass) / number
        if number == active:
            return threshold
        active = number


@kernel
def _project_backward(grad, out, result, n, low, high):  # type: ignore[no-untyped-def]
    zero, one = fill(out, 0.0), fill(out, 1.0)
    for i in range(low, high):
        above, count = widen(zero), widen(zero)
        for j in range(0, n, LANES):
            inside = fetch(out, i * n + j, n - j) > 0.0
            above = above + widen(select(inside, fetch(grad, i * n + j, n - j), zero))
            count = count + widen(select(inside, one, zero))
        mean = total(above) / max(total(count), 1.0)
        for j in range(0, n, LANES):
            inside = fetch(out, i * n + j, n - j) > 0.0
            put(result, i * n + j, select(inside, fetch(grad, i * n + j, n - j) - mean, zero), n - j)


# -- scalar functions of eight rows, in float64 --------------------------------------------------------------------

_SINC_SLOPE = polynomial([(-1.0) ** k * k / math.factorial(2 * k + 1) for k in range(1, 13)], 12)
#: Coefficients of asin(r) / (r sqrt(1 - r^2)) in r^2.
_SLANT = [4.0**k * math.factorial(k) ** 2 / math.factorial(2 * k + 1) for k in range(14)]
_SLANT_SLOPE = polynomial([k * _SLANT[k] for k in range(1, 14)], 13)


@inline
def _circle(s, scratch):  # type: ignore[no-untyped-def]
    """Cosine of r and sin(r)/r, for s = r^2."""
    r = sqrt(s)
    if any_lane(r > 1e4):  # beyond what the vector functions reduce exactly
        sines = np.empty(LANES)
        store(scratch, 0, r)
        for k in range(LANES):
            sines[k], scratch[k] = math.sin(scratch[k]), math.cos(scratch[k])
        return load(scratch, 0), load(sines, 0) / r
    return cos(r), select(r == 0.0, 1.0, sin(r) / r)


@inline
def _sinc_slope(s, cosine, sinc):  # type: ignore[no-untyped-def]
    """Derivative of sin(r)/r in s = r^2."""
    return select(s < 1.0, _SINC_SLOPE(select(s < 1.0, s, 1.0)), (cosine - sinc) / (2.0 * s))


@inline
def _slant(q):  # type: ignore[no-untyped-def]
    """asin(r)/r and sqrt(1 - r^2), for q = r^2."""
    r, cosine = sqrt(q), sqrt(1.0 - q)
    return select(r == 0.0, 1.0, atan2(r, cosine) / r), cosine


@inline
def _over(u, x):  # type: ignore[no-untyped-def]
    """u / x, and 0 where x is 0."""
    return select(x <= 0.0, 0.0, u / x)


@inline
def _root(x):  # type: ignore[no-untyped-def]
    return sqrt(select(x <= 0.0, 0.0, x))


@inline
def _root_gap(x, y):  # type: ignore[no-untyped-def]
    """sqrt(x) - sqrt(y) to full relative precision, and the roots."""
    s, t = _root(x), _root(y)
    whole = s + t
    gap = select(x <= 0.0, 0.0, x) - select(y <= 0.0, 0.0, y)
    return select(whole <= 0.0, 0.0, gap / whole), s, t


# -- exponential map -----------------------------------------------------------------------------------------------


@inline
def _quarter_square(x, u, start, n, wide):  # type: ignore[no-untyped-def]
    """A quarter of sum u^2 / x: the squared angle that u spans."""
    s = fill(wide, 0.0)
    for j in range(0, n, LANES):
        b = fetch(u, start + j, n - j)
        s = s + widen(b * _over(b, fetch(x, start + j, n - j)))
    return 0.25 * total(s)


@kernel
def _expmap(x, u, out, n, low, high):  # type: ignore[no-untyped-def]
    wide = np.zeros(LANES)
    cosine, half_sinc = np.empty(LANES), np.empty(LANES)
    for first in range(low, high, LANES):
        rows = min(LANES, high - first)
        for k in range(rows):
            wide[k] = _quarter_square(x, u, (first + k) * n, n, wide)
        a, b = _circle(load(wide, 0), cosine)
        store(cosine, 0, a)
        store(half_sinc, 0, 0.5 * b)
        for k in range(rows):
            start, whole = (first + k) * n, fill(wide, 0.0)
            for j in range(0, n, LANES):
                p = fetch(x, start + j, n - j)
                growth = _over(fetch(u, start + j, n - j), p) * half_sinc[k] + cosine[k]
                y = p * (growth * growth)
                whole = whole + widen(y)
                put(out, start + j, y, n - j)
            scale = 1.0 / total(whole)
            for j in range(0, n, LANES):
                put(out, start + j, fetch(out, start + j, n - j) * scale, n - j)


@kernel
def _expmap_backward(grad, x, u, grad_x, grad_u, n, low, high):  # type: ignore[no-untyped-def]
    wide = np.zeros(LANES)
    cosine, sincs, slopes = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    for first in range(low, high, LANES):
        rows = min(LANES, high - first)
        for k in range(rows):
            wide[k] = _quarter_square(x, u, (first + k) * n, n, wide)
        s = load(wide, 0)
        a, b = _circle(s, cosine)
        store(cosine, 0, a)
        store(sincs, 0, b)
        store(slopes, 0, _sinc_slope(s, a, b))
        for k in range(rows):
            _expmap_row(grad, x, u, grad_x, grad_u, (first + k) * n, n, cosine[k], sincs[k], slopes[k], wide)


@inline
def _expmap_row(grad, x, u, grad_x, grad_u, start, n, cosine, sinc, slope, wide):  # type: ignore[no-untyped-def]
    # With w = u / x, growth = cosine + sinc w / 2 and y = x growth^2 / sum, the cotangent of y before the division is
    # k = (h - <h, y>) / sum; those of cosine and sinc are sums of 2 x growth k and of that times w / 2.
    whole, mean = fill(wide, 0.0), fill(wide, 0.0)
    for j in range(0, n, LANES):
        p = fetch(x, start + j, n - j)
        growth = _over(fetch(u, start + j, n - j), p) * (0.5 * sinc) + cosine
        y = widen(p * (growth * growth))
        whole = whole + y
        mean = mean + y * widen(fetch(grad, start + j, n - j))
    scale = 1.0 / total(whole)
    center = total(mean) * scale
    by_cosine, by_sinc = fill(wide, 0.0), fill(wide, 0.0)
    for j in range(0, n, LANES):
        p = fetch(x, start + j, n - j)
        w = _over(fetch(u, start + j, n - j), p)
        h = narrow(widen(fetch(grad, start + j, n - j)) - center, grad)
        m = p * (w * (0.5 * sinc) + cosine) * h
        by_cosine = by_cosine + widen(m)
        by_sinc = by_sinc + widen(m * w)
    # d cos(r) / d r^2 = -sinc / 2; the squared angle is a quarter of sum u w.
    by_square = scale * (total(by_sinc) * slope - total(by_cosine) * sinc)
    for j in range(0, n, LANES):
        p = fetch(x, start + j, n - j)
        w = _over(fetch(u, start + j, n - j), p)
        growth = w * (0.5 * sinc) + cosine
        m = growth * narrow((widen(fetch(grad, start + j, n - j)) - center) * scale, grad)
        along = sinc * m
        put(grad_u, start + j, select(p <= 0.0, 0.0, along + w * (0.5 * by_square)), n - j)
        put(grad_x, start + j, growth * m - w * (along + w * (0.25 * by_square)), n - j)


# -- softmax retraction --------------------------------------------------------------------------------------------


@inline
def _steepest(x, u, start, n, ones, scratch):  # type: ignore[no-untyped-def]
    """Largest u / x of a row."""
    top = fill(x, -np.inf)
    for j in range(0, n, LANES):
        w = _over(fetch(u, start + j, n - j), fetch(x, start + j, n - j))
        if n - j < LANES:
            w = select(masked_load(ones, 0, n - j) > 0.5, w, -np.inf)
        top = maximum(w, top)
    store(scratch, 0, top)
    highest = scratch[0]
    for k in range(1, LANES):
        highest = max(highest, scratch[k])
    return highest


@kernel
def _retr(x, u, out, n, low, high):  # type: ignore[no-untyped-def]
    wide, ones, scratch = np.zeros(LANES), np.ones(LANES, x.dtype), np.empty(LANES, x.dtype)
    for i in range(low, high):
        start, whole = i * n, fill(wide, 0.0)
        top = _steepest(x, u, start, n, ones, scratch)
        for j in range(0, n, LANES):
            p = fetch(x, start + j, n - j)
            y = p * exp(_over(fetch(u, start + j, n - j), p) - top)
            whole = whole + widen(y)
            put(out, start + j, y, n - j)
        scale = 1.0 / total(whole)
        for j in range(0, n, LANES):
            put(out, start + j, fetch(out, start + j, n - j) * scale, n - j)


@kernel
def _retr_backward(grad, x, u, grad_x, grad_u, n, low, high):  # type: ignore[no-untyped-def]
    wide, ones, scratch = np.zeros(LANES), np.ones(LANES, x.dtype), np.empty(LANES, x.dtype)
    for i in range(low, high):
        start, whole, mean = i * n, fill(wide, 0.0), fill(wide, 0.0)
        top = _steepest(x, u, start, n, ones, scratch)
        for j in range(0, n, LANES):
            p = fetch(x, start + j, n - j)
            e = exp(_over(fetch(u, start + j, n - j), p) - top)
            put(grad_u, start + j, e, n - j)
            y = widen(p * e)
            whole = whole + y
            mean = mean + y * widen(fetch(grad, start + j, n - j))
        scale = 1.0 / total(whole)
        center = total(mean) * scale
        for j in range(0, n, LANES):
            p = fetch(x, start + j, n - j)
            w = _over(fetch(u, start + j, n - j), p)
            # In float64: where one entry has nearly all the mass, its own gradient is what this difference leaves.
            h = (widen(fetch(grad, start + j, n - j)) - center) * scale
            along = fetch(grad_u, start + j, n - j) * narrow(h, grad_u)
            put(grad_u, start + j, select(p <= 0.0, 0.0, along), n - j)
            put(grad_x, start + j, along - along * w, n - j)


# -- logarithm and distance ----------------------------------------------------------------------------------------


@inline
def _chord2(x, y, start, n, wide):  # type: ignore[no-untyped-def]
    """Squared distance of the square roots."""
    s = fill(wide, 0.0)
    for j in range(0, n, LANES):
        gap = widen(_root_gap(fetch(x, start + j, n - j), fetch(y, start + j, n - j))[0])
        s = s + gap * gap
    return total(s)


@kernel
def _logmap(x, y, out, n, low, high):  # type: ignore[no-untyped-def]
    wide, factors = np.zeros(LANES), np.empty(LANES)
    for first in range(low, high, LANES):
        rows = min(LANES, high - first)
        for k in range(rows):
            wide[k] = _chord2(x, y, (first + k) * n, n, wide)
        slant, cosine = _slant(0.25 * load(wide, 0))
        store(factors, 0, slant / cosine)
        for k in range(rows):
            start = (first + k) * n
            for j in range(0, n, LANES):
                p = fetch(x, start + j, n - j)
                gap, s, _ = _root_gap(p, fetch(y, start + j, n - j))
                put(out, start + j, (p * wide[k] - 2.0 * (s * gap)) * factors[k], n - j)


@kernel
def _logmap_backward(grad, x, y, grad_x, grad_y, n, low, high):  # type: ignore[no-untyped-def]
    wide, factors, slopes = np.zeros(LANES), np.empty(LANES), np.empty(LANES)
    for first in range(low, high, LANES):
        rows = min(LANES, high - first)
        for k in range(rows):
            wide[k] = _chord2(x, y, (first + k) * n, n, wide)
        q = 0.25 * load(wide, 0)
        slant, cosine = _slant(q)
        f = slant / cosine
        store(factors, 0, f)
        near = q < 0.02
        slope = (1.0 - f * (1.0 - 2.0 * q)) / (2.0 * q * (1.0 - q))
        store(slopes, 0, 0.25 * select(near, _SLANT_SLOPE(select(near, q, 0.0)), slope))
        for k in range(rows):
            _logmap_row(grad, x, y, grad_x, grad_y, (first + k) * n, n, wide[k], factors[k], slopes[k])


@inline
def _logmap_row(grad, x, y, grad_x, grad_y, start, n, chord2, factor, slope):  # type: ignore[no-untyped-def]
    # log = factor(chord2) (chord2 x - 2 s gap), s = sqrt(x), gap = s - sqrt(y), chord2 = |gap|^2.
    by_x, by_gap = widen(fill(x, 0.0)), widen(fill(x, 0.0))
    for j in range(0, n, LANES):
        p, h = fetch(x, start + j, n - j), fetch(grad, start + j, n - j)
        gap, s, _ = _root_gap(p, fetch(y, start + j, n - j))
        by_x = by_x + widen(h * p)
        by_gap = by_gap + widen(h * (s * gap))
    along = total(by_x)
    by_chord2 = factor * along + slope * (chord2 * along - 2.0 * total(by_gap))
    for j in range(0, n, LANES):
        p, r, h = fetch(x, start + j, n - j), fetch(y, start + j, n - j), fetch(grad, start + j, n - j)
        gap, s, t = _root_gap(p, r)
        cotangent = 2.0 * (gap * by_chord2 - s * h * factor)
        rest = cotangent - 2.0 * (gap * h * factor)
        put(grad_x, start + j, h * (factor * chord2) + 0.5 * _over(rest, s), n - j)
        put(grad_y, start + j, -0.5 * _over(cotangent, t), n - j)


@kernel
def _dist(x, y, out, squared, n, low, high):  # type: ignore[no-untyped-def]
    wide, results = np.zeros(LANES), np.empty(LANES)
    for first in range(low, high, LANES):
        rows = min(LANES, high - first)
        for k in range(rows):
            wide[k] = _chord2(x, y, (first + k) * n, n, wide)
        chord2 = load(wide, 0)
        slant, _ = _slant(0.25 * chord2)
        store(results, 0, select(fill(wide, squared) > 0.5, 4.0 * chord2 * (slant * slant), 2.0 * sqrt(chord2) * slant))
        for k in range(rows):
            out[first + k] = results[k]


@kernel
def _dist_backward(grad, x, y, grad_x, grad_y, squared, n, low, high):  # type: ignore[no-untyped-def]
    wide, slopes = np.zeros(LANES), np.empty(LANES)
    for first in range(low, high, LANES):
        rows = min(LANES, high - first)
        for k in range(rows):
            wide[k] = _chord2(x, y, (first + k) * n, n, wide)
        chord = sqrt(load(wide, 0))
        slant, cosine = _slant(0.25 * load(wide, 0))
        # The derivative in the gap is this times the gap; at coincident points the distance has 0 as a subgradient.
        by_square = 8.0 * slant / cosine
        store(
            slopes, 0, select(fill(wide, squared) > 0.5, by_square, select(chord == 0.0, 0.0, 2.0 / (chord * cosine)))
        )
        for k in range(rows):
            start, scale = (first + k) * n, 0.5 * slopes[k] * grad[first + k]
            for j in range(0, n, LANES):
                gap, s, t = _root_gap(fetch(x, start + j, n - j), fetch(y, start + j, n - j))
                half = widen(gap) * scale
                put(grad_x, start + j, _over(half, widen(s)), n - j)
                put(grad_y, start + j, -1.0 * _over(half, widen(t)), n - j)


# -- parallel transport --------------------------------------------------------------------------------------------


@kernel
def _transp(x, y, v, out, n, low, high):  # type: ignore[no-untyped-def]
    for i in range(low, high):
        start, along, cochord2 = i * n, widen(fill(x, 0.0)), widen(fill(x, 0.0))
        for j in range(0, n, LANES):
            s, t = _root(fetch(x, start + j, n - j)), _root(fetch(y, start + j, n - j))
            along = along + widen(t * _over(fetch(v, start + j, n - j), s))
            cochord2 = cochord2 + widen((s + t) * (s + t))
        scale = 2.0 * total(along) / total(cochord2)
        for j in range(0, n, LANES):
            s, t = _root(fetch(x, start + j, n - j)), _root(fetch(y, start + j, n - j))
            moved = t * _over(fetch(v, start + j, n - j), s)
            put(out, start + j, moved - t * (s + t) * scale, n - j)


@kernel
def _transp_backward(grad, x, y, v, grad_x, grad_y, grad_v, n, low, high):  # type: ignore[no-untyped-def]
    for i in range(low, high):
        start, along, cochord2, by_scale = i * n, widen(fill(x, 0.0)), widen(fill(x, 0.0)), widen(fill(x, 0.0))
        for j in range(0, n, LANES):
            s, t = _root(fetch(x, start + j, n - j)), _root(fetch(y, start + j, n - j))
            along = along + widen(t * _over(fetch(v, start + j, n - j), s))
            cochord2 = cochord2 + widen((s + t) * (s + t))
            by_scale = by_scale - widen(fetch(grad, start + j, n - j) * (t * (s + t)))
        whole = total(cochord2)
        scale = 2.0 * total(along) / whole
        by_along = 2.0 * total(by_scale) / whole
        by_whole = -total(by_scale) * scale / whole
        for j in range(0, n, LANES):
            s, t = _root(fetch(x, start + j, n - j)), _root(fetch(y, start + j, n - j))
            h = fetch(grad, start + j, n - j)
            w = _over(fetch(v, start + j, n - j), s)
            by_moved, by_rest = h + by_along, h * -scale
            by_s = by_rest * t + 2.0 * ((s + t) * by_whole) - by_moved * (t * _over(w, s))
            by_t = by_rest * (s + 2.0 * t) + 2.0 * ((s + t) * by_whole) + by_moved * w
            put(grad_x, start + j, 0.5 * _over(by_s, s), n - j)
            put(grad_y, start + j, 0.5 * _over(by_t, t), n - j)
            put(grad_v, start + j, _over(by_moved * t, s), n - j)


# -- calls ---------------------------------------------------------------------------------------------------------

_FORWARD = {"expmap": _expmap, "retr": _retr, "logmap": _logmap, "transp": _transp}
_BACKWARD = {
    "expmap": _expmap_backward, "retr": _retr_backward, "logmap": _logmap_backward, "transp": _transp_backward
}  # fmt: skip
_SQUARED = {"dist": 0.0, "dist2": 1.0}


def _over_rows(function: Callable[..., Any], shape: torch.Size, *arguments: Any) -> None:
    n = shape[-1]
    if shape.numel():
        parallel(function, shape.numel() // n, 1 + _GRAIN // n, *arguments, n)


def project(x: Tensor, mass: float) -> Tensor:
    """Project rows to {p : p >= 0, sum p = mass}."""
    out = torch.empty(x.shape, dtype=x.dtype)
    rows = out.numel() // x.shape[-1]
    if rows:
        parallel(_project, rows, 1 + _GRAIN // x.shape[-1], flat(x), flat(out), x.shape[-1], float(mass))
    return out


def project_backward(grad: Tensor, out: Tensor) -> Tensor:
    """Apply the projection's derivative, which is symmetric, at its result `out`."""
    result = torch.empty(out.shape, dtype=out.dtype)
    _over_rows(_project_backward, out.shape, flat(grad), flat(out), flat(result))
    return result


def forward(name: str, *tensors: Tensor) -> Tensor:
    """Evaluate a map on tensors of one shape (..., n)."""
    shape = tensors[0].shape
    inputs = [flat(t) for t in tensors]
    if name in _SQUARED:
        out = torch.empty(shape[:-1], dtype=tensors[0].dtype)
        _over_rows(_dist, shape, *inputs, flat(out), _SQUARED[name])
    else:
        out = torch.empty(shape, dtype=tensors[0].dtype)
        _over_rows(_FORWARD[name], shape, *inputs, flat(out))
    return out


def backward(name: str, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Pull a cotangent of a map back to each of its arguments."""
    shape = tensors[0].shape
    results = tuple(torch.empty(shape, dtype=t.dtype) for t in tensors)
    arguments = [flat(t) for t in (grad, *tensors, *results)]
    if name in _SQUARED:
        _over_rows(_dist_backward, shape, *arguments, _SQUARED[name])
    else:
        _over_rows(_BACKWARD[name], shape, *arguments)
    return results

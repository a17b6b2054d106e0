"""Kernels for entropic transport: Sinkhorn's iteration with absorbed scalings, and its derivative.

The coupling is diag(u) K diag(v) with K = exp(scale * cost + f + g). An iteration is one sweep over K, four rows at a
time: their products with v give u, and while they are in cache their share of K^T u is added up. Potentials stay
within a range of single precision by absorption: where a scaling grows past it, its logarithm goes into f or g, and K
is computed again. Exponents, scalings and sums are float64, whatever K is. K is kept where the coupling is to be.
"""

import math

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.birkhoff import (
    ROWS,
    add_four,
    fetch,
    four_products,
    four_rows,
    put,
    spread,
)
from holonomy.manifolds.kernels.cpu.jit import inline, kernel
from holonomy.manifolds.kernels.cpu.lanes import LANES, exp, fill, load, maximum, narrow, select, store, total, widen
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["iterate", "pull"]

#: Scalings outside [1 / _WIDE, _WIDE] are absorbed: with two of them an entry of K that underflowed is still nothing.
_WIDE = 1e8

# What to do before the next sweep.
_GO_ON, _START, _ABSORB, _COLUMNS = 0, 1, 2, 3


@inline
def _largest(top, scratch):  # type: ignore[no-untyped-def]
    store(scratch, 0, top)
    highest = scratch[0]
    for k in range(1, LANES):
        highest = max(highest, scratch[k])
    return highest


@inline
def _fill_row(cost, plan, start, m, scale, shift, reset, g, scratch):  # type: ignore[no-untyped-def]
    """Fill a row of K, and give its shift; on reset, the shift that makes its largest entry 1 (-inf: it is empty)."""
    whole = m // LANES * LANES
    if reset:
        # Four maxima at a time: one alone waits for itself.
        t0 = t1 = t2 = t3 = fill(g, -np.inf)
        wide = m // (4 * LANES) * (4 * LANES)
        for j in range(0, wide, 4 * LANES):
            t0 = maximum(widen(load(cost, start + j)) * scale + load(g, j), t0)
            t1 = maximum(widen(load(cost, start + j + 8)) * scale + load(g, j + 8), t1)
            t2 = maximum(widen(load(cost, start + j + 16)) * scale + load(g, j + 16), t2)
            t3 = maximum(widen(load(cost, start + j + 24)) * scale + load(g, j + 24), t3)
        for j in range(wide, m, LANES):
            t0 = maximum(fetch(cost, start + j, m - j) * scale + load(g, j), t0)
        shift = -_largest(maximum(maximum(t0, t1), maximum(t2, t3)), scratch)
        if shift == np.inf:
            for j in range(m):
                plan[start + j] = 0.0
            return -np.inf
    for j in range(0, whole, LANES):
        e = widen(load(cost, start + j)) * scale + (load(g, j) + shift)
        store(plan, start + j, narrow(e, plan))
    if whole < m:
        e = fetch(cost, start + whole, m - whole) * scale + (load(g, whole) + shift)
        put(plan, start + whole, e, m - whole)
    # In a loop of its own: together with the conversions it takes twice as long.
    for j in range(0, whole, LANES):
        store(plan, start + j, exp(load(plan, start + j)))
    if whole < m:
        put(plan, start + whole, exp(narrow(fetch(plan, start + whole, m - whole), plan)), m - whole)
    return shift


@inline
def _reset_columns(cost, base, n, m, scale, f, g, b, top, work):  # type: ignore[no-untyped-def]
    """g = log b - log sum_i exp(scale * cost + f), without underflow."""
    top[:] = -np.inf
    work[:] = 0.0
    for i in range(n):
        if f[i] > -np.inf:
            for j in range(0, m, LANES):
                e = fetch(cost, base + i * m + j, m - j) * scale + f[i]
                store(top, j, maximum(e, load(top, j)))
    for i in range(n):
        if f[i] > -np.inf:
            for j in range(0, m, LANES):
                e = fetch(cost, base + i * m + j, m - j) * scale + f[i]
                t = load(top, j)
                store(work, j, load(work, j) + exp(e - select(t == -np.inf, 0.0, t)))
    for j in range(m):
        if g[j] > -np.inf:
            g[j] = math.log(b[j]) - top[j] - math.log(work[j]) if work[j] > 0.0 else -np.inf


@inline
def _sweep(plan, base, n, m, a, u, v, w, f):  # type: ignore[no-untyped-def]
    """One iteration of u, and w = K^T u. How far the rows were from their sums, and whether a row has underflowed."""
    w[:] = 0.0
    worst, lost = 0.0, False
    for i in range(0, n, ROWS):
        rows = four_rows(base, i, n, m)
        products = four_products(plan, rows, m, v)
        for k in range(min(ROWS, n - i)):
            if a[i + k] > 0.0:
                r = products[k]
                off = abs(u[i + k] * r / a[i + k] - 1.0)
                worst = off if off > worst or off != off else worst
                u[i + k] = a[i + k] / r if r > 0.0 else 0.0
                lost = lost or (r == 0.0 and f[i + k] > -np.inf)
            else:
                u[i + k] = 0.0
        weights = (
            u[i],
            u[i + 1] if i + 1 < n else 0.0,
            u[i + 2] if i + 2 < n else 0.0,
            u[i + 3] if i + 3 < n else 0.0,
        )
        add_four(plan, rows, m, weights, w)
    return worst, lost


@inline
def _is_wide(u):  # type: ignore[no-untyped-def]
    wide = False
    for i in range(u.size):
        wide |= (u[i] > _WIDE) | ((u[i] < 1.0 / _WIDE) & (u[i] > 0.0))
    return wide


@inline
def _absorb(f, u):  # type: ignore[no-untyped-def]
    for i in range(f.size):
        if u[i] > 0.0:
            f[i] += math.log(u[i])


@inline
def _rebuild(cost, plan, base, n, m, scale, a, b, f, g, u, v, why, scratch, top, work):  # type: ignore[no-untyped-def]
    """K from the potentials, after they have taken up the scalings; rows that underflowed start anew."""
    if why != _START:
        _absorb(f, u)
    if why == _ABSORB:
        _absorb(g, v)
    if why == _COLUMNS:
        _reset_columns(cost, base, n, m, scale, f, g, b, top, work)
    for i in range(n):
        if a[i] > 0.0:
            f[i] = _fill_row(cost, plan, base + i * m, m, scale, f[i], u[i] == 0.0, g, scratch)
            u[i] = 1.0
        else:
            plan[base + i * m : base + (i + 1) * m] = 0.0
    for j in range(g.size):
        v[j] = 1.0 if g[j] > -np.inf else 0.0


@kernel
def _iterate(cost, scale, a_all, b_all, f_all, g_all, plan, errors, steps, n, m, tolerance, limit, low, high):  # type: ignore[no-untyped-def]
    padded = (m + LANES - 1) // LANES * LANES
    u, a, scratch, top = np.zeros(n), np.empty(n), np.empty(LANES), np.empty(padded)
    v, w, b, g = np.zeros(padded), np.zeros(padded), np.zeros(padded), np.empty(padded)
    for e in range(low, high):
        base = e * n * m
        f = f_all[e * n : (e + 1) * n]
        a[:] = a_all[e * n : (e + 1) * n]
        b[:m] = b_all[e * m : (e + 1) * m]
        f[:] = -np.inf
        u[:] = 0.0
        for j in range(padded):
            g[j] = 0.0 if b[j] > 0.0 else -np.inf
        done, why = 0, _START
        while done < limit:
            if why != _GO_ON:
                _rebuild(cost, plan, base, n, m, scale, a, b, f, g, u, v, why, scratch, top, w)
            done += 1
            why = _GO_ON
            worst, lost = _sweep(plan, base, n, m, a, u, v, w, f)
            if worst != worst:
                break
            if lost:
                why = _ABSORB
                continue
            gone = False
            for j in range(m):
                v[j] = b[j] / w[j] if w[j] > 0.0 else 0.0
                gone |= (w[j] == 0.0) & (b[j] > 0.0) & (g[j] > -np.inf)
            if gone:
                why = _COLUMNS
            elif done > 1 and worst <= tolerance:
                break
            elif _is_wide(u) or _is_wide(v):
                why = _ABSORB
        steps[e] = done
        errors[e] = _finish(plan, base, n, m, a, b, u, v, w)
        _potentials(f, g, u, v, g_all[e * m : (e + 1) * m])


@inline
def _finish(plan, base, n, m, a, b, u, v, w):  # type: ignore[no-untyped-def]
    """The coupling, in place of K, and the largest error of its row and column sums, relative to the masses."""
    w[:] = 0.0
    worst = 0.0
    for i in range(n):
        s = fill(w, 0.0)
        start, factor = base + i * m, u[i]
        for j in range(0, m // LANES * LANES, LANES):
            rounded = narrow(widen(load(plan, start + j)) * load(v, j) * factor, plan)
            store(plan, start + j, rounded)
            s = s + widen(rounded)
            store(w, j, load(w, j) + widen(rounded))
        if m % LANES:
            j = m // LANES * LANES
            rounded = narrow(fetch(plan, start + j, m - j) * load(v, j) * factor, plan)
            put(plan, start + j, rounded, m - j)
            s = s + widen(rounded)
            store(w, j, load(w, j) + widen(rounded))
        if a[i] > 0.0:
            off = abs(total(s) / a[i] - 1.0)
            worst = off if off > worst or off != off else worst
    for j in range(m):
        if b[j] > 0.0:
            off = abs(w[j] / b[j] - 1.0)
            worst = off if off > worst or off != off else worst
    return worst


@inline
def _potentials(f, g, u, v, out):  # type: ignore[no-untyped-def]
    """Logarithms of the scalings, with mean 0 for the finite ones of the columns."""
    mean, count = 0.0, 0
    for j in range(out.size):
        out[j] = g[j] + math.log(v[j]) if v[j] > 0.0 else -np.inf
        if v[j] > 0.0:
            mean += out[j]
            count += 1
    mean /= max(count, 1)
    for j in range(out.size):
        out[j] -= mean
    for i in range(f.size):
        f[i] = f[i] + math.log(u[i]) + mean if u[i] > 0.0 else -np.inf


@kernel
def _pull(grad, plan, alpha, beta, scale, out, n, m, low, high):  # type: ignore[no-untyped-def]
    column = np.zeros((m + LANES - 1) // LANES * LANES)
    for e in range(low, high):
        column[:m] = beta[e * m : (e + 1) * m]
        for i in range(n):
            start, a = (e * n + i) * m, alpha[e * n + i]
            for j in range(0, m, LANES):
                h = fetch(grad, start + j, m - j) - (load(column, j) + a)
                put(out, start + j, h * fetch(plan, start + j, m - j) * scale, m - j)


# -- calls ---------------------------------------------------------------------------------------------------------


def iterate(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, tolerance: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the iteration: log-scalings (float64), coupling, largest relative error of its sums, steps."""
    n, m = cost.shape[-2:]
    batch = cost.shape[:-2]
    f, g = torch.empty((*batch, n), dtype=torch.float64), torch.empty((*batch, m), dtype=torch.float64)
    plan = torch.empty(cost.shape, dtype=cost.dtype)
    errors, steps = torch.empty(batch, dtype=torch.float64), torch.empty(batch, dtype=torch.int64)
    outputs = [flat(t) for t in (f, g, plan, errors, steps)]
    spread(_iterate, cost.shape, flat(cost), scale, flat(a), flat(b), *outputs, n, m, tolerance, limit)
    return f, g, plan, errors, steps


def pull(grad: Tensor, plan: Tensor, alpha: Tensor, beta: Tensor, scale: float) -> Tensor:
    """Evaluate scale * plan_ij (grad_ij - alpha_i - beta_j)."""
    out = torch.empty(plan.shape, dtype=plan.dtype)
    arrays = (flat(grad), flat(plan), flat(alpha), flat(beta), scale, flat(out))
    spread(_pull, plan.shape, *arrays, *plan.shape[-2:])
    return out

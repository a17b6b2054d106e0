"""Kernels for couplings: the linear system of their marginals by conjugate gradients, and the tangent projection.

The system is [diag(r) P; P^T diag(c)] (alpha, beta) = (f, g) for a non-negative matrix P with row sums r and column
sums c. Eliminating alpha leaves (diag(c) - P^T diag(1/r) P) beta = g - P^T (f / r), a weighted graph Laplacian. One
product with it is one sweep over P: four rows at a time, first their products with the vector, then their share of the
result, while they are in cache. All vectors are float64, whatever P is.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import (
    LANES,
    fill,
    load,
    masked_load,
    masked_store,
    narrow,
    select,
    store,
    total,
    widen,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["correct", "correct_backward", "margins", "solve"]

#: Rows of a matrix that are worked on together.
ROWS = 4


@inline
def fetch(array, offset, count):  # type: ignore[no-untyped-def]
    """Eight numbers in float64, or the first `count` of them and zeros."""
    return widen(load(array, offset)) if count >= LANES else widen(masked_load(array, offset, count))


@inline
def put(array, offset, value, count):  # type: ignore[no-untyped-def]
    """Write eight numbers, or the first `count` of them, in the dtype of the array."""
    if count >= LANES:
        store(array, offset, narrow(value, array))
    else:
        masked_store(array, offset, narrow(value, array), count)


@inline
def four_rows(base, i, n, m):  # type: ignore[no-untyped-def]
    """Offsets of rows i, ..., i + 3; past the last row, that of the last."""
    last = n - 1
    return base + i * m, base + min(i + 1, last) * m, base + min(i + 2, last) * m, base + min(i + 3, last) * m


@inline
def four_products(p, rows, m, y):  # type: ignore[no-untyped-def]
    """Inner products of four rows with a padded vector."""
    r0, r1, r2, r3 = rows
    s0 = s1 = s2 = s3 = fill(y, 0.0)
    whole = m // LANES * LANES
    for j in range(0, whole, LANES):
        v = load(y, j)
        s0 = s0 + widen(load(p, r0 + j)) * v
        s1 = s1 + widen(load(p, r1 + j)) * v
        s2 = s2 + widen(load(p, r2 + j)) * v
        s3 = s3 + widen(load(p, r3 + j)) * v
    if whole < m:
        v, rest = load(y, whole), m - whole
        s0 = s0 + widen(masked_load(p, r0 + whole, rest)) * v
        s1 = s1 + widen(masked_load(p, r1 + whole, rest)) * v
        s2 = s2 + widen(masked_load(p, r2 + whole, rest)) * v
        s3 = s3 + widen(masked_load(p, r3 + whole, rest)) * v
    return total(s0), total(s1), total(s2), total(s3)


@inline
def add_four(p, rows, m, weights, z):  # type: ignore[no-untyped-def]
    """Add a weighted sum of four rows to a padded vector."""
    r0, r1, r2, r3 = rows
    w0, w1, w2, w3 = weights
    whole = m // LANES * LANES
    for j in range(0, whole, LANES):
        part = widen(load(p, r0 + j)) * w0 + widen(load(p, r1 + j)) * w1
        part = part + (widen(load(p, r2 + j)) * w2 + widen(load(p, r3 + j)) * w3)
        store(z, j, load(z, j) + part)
    if whole < m:
        rest = m - whole
        part = widen(masked_load(p, r0 + whole, rest)) * w0 + widen(masked_load(p, r1 + whole, rest)) * w1
        part = part + widen(masked_load(p, r2 + whole, rest)) * w2 + widen(masked_load(p, r3 + whole, rest)) * w3
        store(z, whole, load(z, whole) + part)


@inline
def _dot(a, b):  # type: ignore[no-untyped-def]
    s = fill(a, 0.0)
    for j in range(0, a.size, LANES):
        s = s + load(a, j) * load(b, j)
    return total(s)


@kernel
def _margins(p, h, product, f, g, n, m, low, high):  # type: ignore[no-untyped-def]
    """Add row and column sums of p * h to f and g, or those of h where p is positive."""
    sums = np.empty((m + LANES - 1) // LANES * LANES)
    multiply = fill(sums, product) > 0.5
    for e in range(low, high):
        sums[:] = 0.0
        for i in range(n):
            start, s = (e * n + i) * m, fill(sums, 0.0)
            for j in range(0, m, LANES):
                x, t = fetch(p, start + j, m - j), fetch(h, start + j, m - j)
                t = select(multiply, t * x, select(x > 0.0, t, 0.0))
                s = s + t
                store(sums, j, load(sums, j) + t)
            f[e * n + i] += total(s)
        for j in range(m):
            g[e * m + j] += sums[j]


@kernel
def _solve(p, f, g, alpha, beta, steps, n, m, tolerance, limit, low, high):  # type: ignore[no-untyped-def]
    padded = (m + LANES - 1) // LANES * LANES
    c, scale, y, residual = np.zeros(padded), np.zeros(padded), np.zeros(padded), np.zeros(padded)
    direction, image, preconditioned = np.zeros(padded), np.zeros(padded), np.zeros(padded)
    inverse = np.empty(n)
    for e in range(low, high):
        base = e * n * m
        _weights(p, base, n, m, inverse, c, scale)
        bound = tolerance * _right_side(
            p, base, n, m, f[e * n : (e + 1) * n], g[e * m : (e + 1) * m], inverse, c, residual
        )
        y[:] = 0.0
        direction[:] = 0.0
        past, done = 1.0, -1
        for step in range(limit + 1):
            if np.sqrt(_dot(residual, residual)) <= bound:
                done = step
                break
            for j in range(padded):
                preconditioned[j] = residual[j] * scale[j]
            now = _dot(residual, preconditioned)
            for j in range(padded):
                direction[j] = preconditioned[j] + now / past * direction[j] if step else preconditioned[j]
            past = now
            _laplacian(p, base, n, m, inverse, c, direction, image)
            curvature = _dot(direction, image)
            if not curvature > 0.0:
                break
            for j in range(padded):
                y[j] += now / curvature * direction[j]
                residual[j] -= now / curvature * image[j]
        steps[e] = done
        _expand(
            p, base, n, m, inverse, c, f[e * n : (e + 1) * n], y, alpha[e * n : (e + 1) * n], beta[e * m : (e + 1) * m]
        )


@inline
def _weights(p, base, n, m, inverse, c, scale):  # type: ignore[no-untyped-def]
    """Reciprocal row sums, column sums, and the reciprocal diagonal of the Laplacian; 0 in place of 1 / 0."""
    c[:] = 0.0
    scale[:] = 0.0
    for i in range(n):
        s = fill(c, 0.0)
        for j in range(0, m, LANES):
            s = s + fetch(p, base + i * m + j, m - j)
        r = total(s)
        inverse[i] = 1.0 / r if r > 0.0 else 0.0
        for j in range(0, m, LANES):
            t = fetch(p, base + i * m + j, m - j)
            store(c, j, load(c, j) + t)
            # c_j - sum_i P_ij^2 / r_i, without the cancellation where an entry is nearly all of its row.
            store(scale, j, load(scale, j) + t * (r - t) * inverse[i])
    for j in range(m):
        scale[j] = 1.0 / scale[j] if scale[j] > 0.0 else 0.0


@inline
def _right_side(p, base, n, m, f, g, inverse, c, residual):  # type: ignore[no-untyped-def]
    """Project (f, g) to the range, in place; the right side of the reduced system; and the length of (f, g)."""
    excess, count = 0.0, 0
    for i in range(n):
        if inverse[i] > 0.0:
            excess += f[i]
            count += 1
        else:
            f[i] = 0.0
    for j in range(m):
        if c[j] > 0.0:
            excess -= g[j]
            count += 1
        else:
            g[j] = 0.0
    square = 0.0
    for i in range(n):
        if inverse[i] > 0.0:
            f[i] -= excess / count
        square += f[i] * f[i]
    for j in range(m):
        if c[j] > 0.0:
            g[j] += excess / count
        residual[j] = g[j]
        square += g[j] * g[j]
    for i in range(0, n, ROWS):
        weights = _four_weights(f, inverse, i, n)
        add_four(p, four_rows(base, i, n, m), m, weights, residual)
    return np.sqrt(square)


@inline
def _four_weights(f, inverse, i, n):  # type: ignore[no-untyped-def]
    """-f / r of rows i, ..., i + 3, and 0 past the last."""
    w0 = -f[i] * inverse[i]
    w1 = -f[i + 1] * inverse[i + 1] if i + 1 < n else 0.0
    w2 = -f[i + 2] * inverse[i + 2] if i + 2 < n else 0.0
    w3 = -f[i + 3] * inverse[i + 3] if i + 3 < n else 0.0
    return w0, w1, w2, w3


@inline
def _laplacian(p, base, n, m, inverse, c, y, z):  # type: ignore[no-untyped-def]
    """z = c y - P^T ((P y) / r)."""
    for j in range(y.size):
        z[j] = c[j] * y[j]
    for i in range(0, n, ROWS):
        rows = four_rows(base, i, n, m)
        t0, t1, t2, t3 = four_products(p, rows, m, y)
        t0 *= -inverse[i]
        t1 = -t1 * inverse[i + 1] if i + 1 < n else 0.0
        t2 = -t2 * inverse[i + 2] if i + 2 < n else 0.0
        t3 = -t3 * inverse[i + 3] if i + 3 < n else 0.0
        add_four(p, rows, m, (t0, t1, t2, t3), z)


@inline
def _expand(p, base, n, m, inverse, c, f, y, alpha, beta):  # type: ignore[no-untyped-def]
    """alpha from beta, and of all solutions the shortest: the one orthogonal to (1, -1)."""
    excess, count = 0.0, 0
    for i in range(0, n, ROWS):
        products = four_products(p, four_rows(base, i, n, m), m, y)
        for k in range(min(ROWS, n - i)):
            alpha[i + k] = (f[i + k] - products[k]) * inverse[i + k]
            excess += alpha[i + k]
            count += 1 if inverse[i + k] > 0.0 else 0
    for j in range(m):
        beta[j] = y[j]
        excess -= y[j]
        count += 1 if c[j] > 0.0 else 0
    shift = excess / max(count, 1)
    for i in range(n):
        if inverse[i] > 0.0:
            alpha[i] -= shift
    for j in range(m):
        if c[j] > 0.0:
            beta[j] += shift


@kernel
def _correct(x, u, alpha, beta, out, n, m, low, high):  # type: ignore[no-untyped-def]
    column = np.zeros((m + LANES - 1) // LANES * LANES)
    for e in range(low, high):
        column[:m] = beta[e * m : (e + 1) * m]
        for i in range(n):
            start, a = (e * n + i) * m, alpha[e * n + i]
            for j in range(0, m, LANES):
                t, v = fetch(x, start + j, m - j), fetch(u, start + j, m - j)
                put(out, start + j, select(t > 0.0, v - (load(column, j) + a) * t, 0.0), m - j)


@kernel
def _correct_backward(grad, x, alpha, beta, p, q, grad_x, grad_u, n, m, low, high):  # type: ignore[no-untyped-def]
    first, second = np.zeros((m + LANES - 1) // LANES * LANES), np.zeros((m + LANES - 1) // LANES * LANES)
    for e in range(low, high):
        first[:m] = beta[e * m : (e + 1) * m]
        second[:m] = q[e * m : (e + 1) * m]
        for i in range(n):
            start, a, b = (e * n + i) * m, float(alpha[e * n + i]), p[e * n + i]
            for j in range(0, m, LANES):
                h = fetch(grad, start + j, m - j) + (load(second, j) + b)
                put(grad_u, start + j, select(fetch(x, start + j, m - j) > 0.0, h, 0.0), m - j)
                put(grad_x, start + j, -1.0 * ((load(first, j) + a) * h), m - j)


# -- calls ---------------------------------------------------------------------------------------------------------


def spread(function: Any, shape: torch.Size, *arguments: Any) -> None:
    """Run a kernel over the matrices of a batch."""
    if shape.numel():
        matrix = shape[-1] * shape[-2]
        parallel(function, shape.numel() // matrix, 1 + 2**15 // matrix, *arguments)


def margins(p: Tensor, h: Tensor, product: bool, f: Tensor, g: Tensor) -> None:
    """Add row and column sums of `h`, times `p` or where `p` is positive, to the float64 tensors `f` and `g`."""
    n, m = p.shape[-2:]
    spread(_margins, p.shape, flat(p), flat(h), float(product), flat(f), flat(g), n, m)


def solve(p: Tensor, f: Tensor, g: Tensor, tolerance: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Solve the system of the marginals for float64 right sides, which are overwritten.

    Returns
    -------
    tuple of Tensor
        The shortest solution, and the number of steps for each matrix: -1 where the limit was too low.
    """
    n, m = p.shape[-2:]
    alpha, beta = torch.zeros_like(f), torch.zeros_like(g)
    steps = torch.zeros(p.shape[:-2], dtype=torch.int64)
    vectors = [flat(t) for t in (f, g, alpha, beta, steps)]
    spread(_solve, p.shape, flat(p), *vectors, n, m, tolerance, limit)
    return alpha, beta, steps


def correct(x: Tensor, u: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Evaluate u - (alpha_i + beta_j) x_ij, and 0 where x is."""
    out = torch.empty(x.shape, dtype=x.dtype)
    arrays = (flat(x), flat(u), flat(alpha), flat(beta), flat(out))
    spread(_correct, x.shape, *arrays, *x.shape[-2:])
    return out


def correct_backward(
    grad: Tensor, x: Tensor, alpha: Tensor, beta: Tensor, p: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x and u, from the solution (p, q) of the adjoint system."""
    grad_x, grad_u = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
    arrays = [flat(t) for t in (grad, x, alpha, beta, p, q, grad_x, grad_u)]
    spread(_correct_backward, x.shape, *arrays, *x.shape[-2:])
    return grad_x, grad_u

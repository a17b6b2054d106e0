"""Kernels on batches of n x p matrices with orthonormal columns, p up to 32: one matrix after the other, in cache.

The tall matrices are read for their Gram matrices and once more to be combined; everything between is p x p, in
float64. Ranges of rows are in sixty-fourths of a matrix, which is what `jit.parallel` splits by.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.matrices import (
    BLOCK,
    add_gram,
    add_product,
    add_scaled,
    apart,
    cholesky_inverse,
    clear,
    combine_rows,
    copy_narrow,
    eigh,
    frobenius,
    identity,
    matmul,
    multiply_rows,
    outline,
    pitch,
    symmetrize,
    transpose,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["backward", "forward", "geodesic_step"]

_SHARE = 64

# -- cosine and sine of a matrix -----------------------------------------------------------------------------------

# cos(sqrt(s)) and sin(sqrt(s))/sqrt(s) as polynomials in s: for |s| <= 1, what is left out is below 1e-18.
_COS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(10))
_SINC = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(10))
#: Doublings that the scratch arrays have room for before they are made anew: angles up to 2^12.
_DOUBLINGS = 12


@inline
def _doublings(norm):  # type: ignore[no-untyped-def]
    """How often a matrix of this norm is divided by four to have one of at most 1; 0 for infinity and NaN."""
    count = 0
    if norm < math.inf:
        while norm > 1.0:
            norm *= 0.25
            count += 1
    return count


@inline
def _powers(w, a, scale, p):  # type: ignore[no-untyped-def]
    """Slots a, a + 1, a + 2: scale a, its square, its cube."""
    size = pitch(p) * pitch(p)
    for at in range(a, a + size):
        w[at] *= scale
    matmul(w, a + size, a, a, p)
    matmul(w, a + 2 * size, a + size, a, p)


@inline
def _third(w, out, a, c, k, p):  # type: ignore[no-untyped-def]
    """out += c[k] I + c[k + 1] a + c[k + 2] a^2."""
    size = pitch(p) * pitch(p)
    for i in range(p):
        w[out + i * (pitch(p) + 1)] += c[k]
    add_scaled(w, out, c[k + 1], a, p)
    add_scaled(w, out, c[k + 2], a + size, p)


@outline
def _polynomial(w, out, a, c, p):  # type: ignore[no-untyped-def]
    """Polynomial of degree 9 in a, by cubes (Paterson, Stockmeyer): slots out (value), out + 1, out + 2 (sums)."""
    apart()
    size = pitch(p) * pitch(p)
    for k in range(3):
        clear(w, out + k * size, p)
    _third(w, out + 2 * size, a, c, 6, p)
    add_scaled(w, out + 2 * size, c[9], a + 2 * size, p)
    matmul(w, out + size, a + 2 * size, out + 2 * size, p)
    _third(w, out + size, a, c, 3, p)
    matmul(w, out, a + 2 * size, out + size, p)
    _third(w, out, a, c, 0, p)


@outline
def _polynomial_backward(w, g, a, values, c, change, inner, p):  # type: ignore[no-untyped-def]
    """Add to slots change, change + 1, change + 2 the gradients of a, a^2, a^3, from that in g of a polynomial."""
    apart()
    size = pitch(p) * pitch(p)
    cube, source = change + 2 * size, g
    for k in range(3):
        add_scaled(w, change, c[3 * k + 1], source, p)
        add_scaled(w, change + size, c[3 * k + 2], source, p)
        if k < 2:
            add_product(w, cube, 1.0, source, values + (k + 1) * size, p)
            matmul(w, inner + k * size, a + 2 * size, source, p)
            source = inner + k * size
    add_scaled(w, cube, c[9], source, p)


@outline
def _turn(w, a, levels, count, p):  # type: ignore[no-untyped-def]
    """Polynomials of the scaled a in six slots from `levels` on (cos, sinc), then pairs of slots for each doubling.

    cos 2t = 2 cos^2 t - 1 and sinc 2t = sinc t cos t. Returns the slots of cos and sinc of a.
    """
    apart()
    size = pitch(p) * pitch(p)
    _powers(w, a, 0.25**count, p)
    _polynomial(w, levels, a, _COS, p)
    _polynomial(w, levels + 3 * size, a, _SINC, p)
    cos, sinc, following = levels, levels + 3 * size, levels + 6 * size
    for _ in range(count):
        identity(w, following, -1.0, p)
        add_product(w, following, 2.0, cos, cos, p)
        matmul(w, following + size, sinc, cos, p)
        cos, sinc, following = following, following + size, following + 2 * size
    return cos, sinc


@outline
def _turn_backward(w, gcos, gsinc, a, levels, count, spare, p):  # type: ignore[no-untyped-def]
    """Gradient of a, in slot spare, from those of cos and sinc (overwritten); `spare`: six slots. See `_turn`."""
    apart()
    size = pitch(p) * pitch(p)
    symmetrize(w, gcos, p)
    symmetrize(w, gsinc, p)
    for k in range(count - 1, -1, -1):
        cos = levels if k == 0 else levels + (4 + 2 * k) * size
        sinc = levels + 3 * size if k == 0 else cos + size
        clear(w, spare, p)
        add_product(w, spare, 4.0, gcos, cos, p)
        add_product(w, spare, 1.0, sinc, gsinc, p)
        matmul(w, spare + size, gsinc, cos, p)
        symmetrize(w, spare, p)
        symmetrize(w, spare + size, p)
        for at in range(size):
            w[gcos + at] = w[spare + at]
            w[gsinc + at] = w[spare + size + at]
    for k in range(3):
        clear(w, spare + k * size, p)
    _polynomial_backward(w, gcos, a, levels, _COS, spare, spare + 3 * size, p)
    _polynomial_backward(w, gsinc, a, levels + 3 * size, _SINC, spare, spare + 3 * size, p)
    square, cube = spare + size, spare + 2 * size
    add_product(w, square, 1.0, cube, a, p)
    add_product(w, spare, 1.0, a + size, cube, p)
    add_product(w, spare, 1.0, square, a, p)
    add_product(w, spare, 1.0, a, square, p)
    symmetrize(w, spare, p)
    for at in range(size):
        w[spare + at] *= 0.25**count


# -- geodesics of subspaces ----------------------------------------------------------------------------------------


@outline
def _correction(w, cos, sinc, xx, uu, out, p):  # type: ignore[no-untyped-def]
    """Slots out, out + 1, out + 2: I + (I - gram)/2, cos xx, sinc uu; gram = cos xx cos + sinc uu sinc."""
    apart()
    size = pitch(p) * pitch(p)
    matmul(w, out + size, cos, xx, p)
    matmul(w, out + 2 * size, sinc, uu, p)
    identity(w, out, 1.5, p)
    add_product(w, out, -0.5, out + size, cos, p)
    add_product(w, out, -0.5, out + 2 * size, sinc, p)
    symmetrize(w, out, p)


@inline
def _scratch(a, slots, p):  # type: ignore[no-untyped-def]
    size = pitch(p) * pitch(p)
    return np.empty(slots * size), np.empty(size, a.dtype), np.empty(size, a.dtype), np.empty(8 * p, a.dtype)


@inline
def _exp(y, y0, x, x0, u, u0, n, p, w, left, right):  # type: ignore[no-untyped-def]
    """y = exp(x, u) for one matrix; `w` has 16 slots and two for each doubling, and more are made where needed."""
    size = pitch(p) * pitch(p)
    xx, uu, a, out, levels = 0, size, 2 * size, 5 * size, 9 * size
    clear(w, xx, p)
    clear(w, uu, p)
    for r in range(0, n, BLOCK):
        rows = min(BLOCK, n - r)
        add_gram(x, x0 + r * p, x, x0 + r * p, rows, p, w, xx)
        add_gram(u, u0 + r * p, u, u0 + r * p, rows, p, w, uu)
    count = _doublings(frobenius(w, uu, p))
    if (15 + 2 * count) * size > w.size:
        fresh = np.empty((15 + 2 * count) * size)
        fresh[: 2 * size] = w[: 2 * size]
        w = fresh
    for at in range(size):
        w[a + at] = w[uu + at]
    cos, sinc = _turn(w, a, levels, count, p)
    _correction(w, cos, sinc, xx, uu, out, p)
    matmul(w, a, cos, out, p)
    matmul(w, a + size, sinc, out, p)
    copy_narrow(w, a, left, p)
    copy_narrow(w, a + size, right, p)
    combine_rows(y, y0, x, x0, left, u, u0, right, n, p)


@kernel
def _exp_forward(x, u, y, factor, n, p, unused, low, high):  # type: ignore[no-untyped-def]
    w, left, right, _ = _scratch(x, 16 + 2 * _DOUBLINGS, p)
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        _exp(y, start, x, start, u, start, n, p, w, left, right)


@kernel
def _exp_backward(g, x, u, y, factor, dx, du, n, p, unused, low, high):  # type: ignore[no-untyped-def]
    size = pitch(p) * pitch(p)
    w, left, right, _ = _scratch(x, 32 + 2 * _DOUBLINGS, p)
    xx, uu, gx, gu, a, out = 0, size, 2 * size, 3 * size, 4 * size, 7 * size
    gcos, gsinc, gk, gg, spare, levels = 10 * size, 11 * size, 12 * size, 13 * size, 14 * size, 20 * size
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        for k in range(4):
            clear(w, k * size, p)
        for r in range(0, n, BLOCK):
            rows, at = min(BLOCK, n - r), start + r * p
            add_gram(x, at, x, at, rows, p, w, xx)
            add_gram(u, at, u, at, rows, p, w, uu)
            add_gram(x, at, g, at, rows, p, w, gx)
            add_gram(u, at, g, at, rows, p, w, gu)
        count = _doublings(frobenius(w, uu, p))
        if (26 + 2 * count) * size > w.size:
            fresh = np.empty((26 + 2 * count) * size)
            fresh[: 4 * size] = w[: 4 * size]
            w = fresh
        for at in range(size):
            w[a + at] = w[uu + at]
        cos, sinc = _turn(w, a, levels, count, p)
        _correction(w, cos, sinc, xx, uu, out, p)
        # y = (x cos + u sinc) k, k = 3/2 I - gram/2: gk is the gradient of k, gg that of gram.
        clear(w, gk, p)
        add_product(w, gk, -0.5, cos, gx, p)
        add_product(w, gk, -0.5, sinc, gu, p)
        for at in range(size):
            w[gg + at] = w[gk + at]
        symmetrize(w, gg, p)
        # gcos = gx k + 2 xx cos gg, gsinc = gu k + 2 uu sinc gg, up to their skew parts.
        transpose(w, spare, out + size, p)
        transpose(w, spare + size, out + 2 * size, p)
        matmul(w, gcos, gx, out, p)
        matmul(w, gsinc, gu, out, p)
        add_product(w, gcos, 2.0, spare, gg, p)
        add_product(w, gsinc, 2.0, spare + size, gg, p)
        # dx = g k cos + 2 x cos gg cos.
        matmul(w, gx, out, cos, p)
        matmul(w, gu, out, sinc, p)
        matmul(w, gk, gg, cos, p)
        clear(w, out, p)
        add_product(w, out, 2.0, cos, gk, p)
        copy_narrow(w, gx, left, p)
        copy_narrow(w, out, right, p)
        combine_rows(dx, start, g, start, left, x, start, right, n, p)
        # du = g k sinc + 2 u (sinc gg sinc + what reaches uu through cos and sinc).
        matmul(w, gk, gg, sinc, p)
        clear(w, out, p)
        add_product(w, out, 2.0, sinc, gk, p)
        _turn_backward(w, gcos, gsinc, a, levels, count, spare, p)
        add_scaled(w, out, 2.0, spare, p)
        copy_narrow(w, gu, left, p)
        copy_narrow(w, out, right, p)
        combine_rows(du, start, g, start, left, u, start, right, n, p)


# -- retractions ---------------------------------------------------------------------------------------------------


@inline
def _add_with_gram(x, u, y, start, n, p, w, out):  # type: ignore[no-untyped-def]
    """y = x + u for one matrix, and y^T y."""
    clear(w, out, p)
    for r in range(0, n, BLOCK):
        rows, at = min(BLOCK, n - r), start + r * p
        for i in range(at, at + rows * p):
            y[i] = x[i] + u[i]
        add_gram(y, at, y, at, rows, p, w, out)


@inline
def _multiply_with_gram(y, start, a, n, p, w, out, spare):  # type: ignore[no-untyped-def]
    """y = y a for one matrix, and then y^T y."""
    clear(w, out, p)
    for r in range(0, n, BLOCK):
        rows, at = min(BLOCK, n - r), start + r * p
        multiply_rows(y, at, a, rows, p, spare)
        add_gram(y, at, y, at, rows, p, w, out)


@inline
def _trace(w, a, p):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(p):
        total += w[a + i * (pitch(p) + 1)]
    return total


@kernel
def _qr_forward(x, u, y, factor, n, p, eps, low, high):  # type: ignore[no-untyped-def]
    width = pitch(p)
    size = width * width
    w, right, _, spare = _scratch(x, 4, p)
    gram, first, second, both = 0, size, 2 * size, 3 * size
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        _add_with_gram(x, u, y, start, n, p, w, gram)
        # The shift keeps the first pass from breaking down (Fukaya et al., SIAM J. Sci. Comput. 42, 2020).
        shift = 10.0 * eps * _trace(w, gram, p)
        for i in range(p):
            w[gram + i * (width + 1)] += shift
        cholesky_inverse(w, gram, first, p)
        copy_narrow(w, first, right, p)
        _multiply_with_gram(y, start, right, n, p, w, gram, spare)
        cholesky_inverse(w, gram, second, p)
        copy_narrow(w, second, right, p)
        multiply_rows(y, start, right, n, p, spare)
        matmul(w, both, first, second, p)
        for i in range(p):
            for j in range(p):
                factor[(m * p + i) * p + j] = w[both + i * width + j]


@kernel
def _qr_backward(g, x, u, y, factor, dw, nothing, n, p, unused, low, high):  # type: ignore[no-untyped-def]
    width = pitch(p)
    size = width * width
    w, left, right, _ = _scratch(y, 4, p)
    gram, inverse, fill_in, product = 0, size, 2 * size, 3 * size
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        clear(w, gram, p)
        for r in range(0, n, BLOCK):
            rows, at = min(BLOCK, n - r), start + r * p
            add_gram(y, at, g, at, rows, p, w, gram)
        clear(w, inverse, p)
        clear(w, fill_in, p)
        # dw = (g + y c) r^-T, c symmetric with the strict upper triangle of -y^T g: its lower triangle of -g^T y.
        for i in range(p):
            for j in range(p):
                w[inverse + j * width + i] = factor[(m * p + i) * p + j]
                w[fill_in + i * width + j] = -w[gram + min(i, j) * width + max(i, j)]
        matmul(w, product, fill_in, inverse, p)
        copy_narrow(w, inverse, left, p)
        copy_narrow(w, product, right, p)
        combine_rows(dw, start, g, start, left, y, start, right, n, p)


@outline
def _inverse_root(w, a, vectors, scaled, out, p):  # type: ignore[no-untyped-def]
    """out = a^(-1/2); square roots of the eigenvalues on a's diagonal, eigenvectors as rows. a is overwritten."""
    apart()
    width = pitch(p)
    eigh(w, a, vectors, p)
    for i in range(p):
        at = a + i * (width + 1)
        w[at] = math.sqrt(w[at])
        for j in range(width):
            w[scaled + i * width + j] = w[vectors + i * width + j] / w[at]
    transpose(w, out, vectors, p)
    matmul(w, a + width * width, out, scaled, p)
    for at in range(width * width):
        w[out + at] = w[a + width * width + at]


@kernel
def _polar_forward(x, u, y, factor, n, p, eps, low, high):  # type: ignore[no-untyped-def]
    width = pitch(p)
    size = width * width
    w, right, _, spare = _scratch(x, 5, p)
    gram, vectors, scaled, out = 0, 2 * size, 3 * size, 4 * size
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        _add_with_gram(x, u, y, start, n, p, w, gram)
        # Two passes: what rounding leaves of the first is removed by the second. A floor far below any eigenvalue of
        # full-rank w keeps a rank-deficient one finite.
        for k in range(2):
            floor = eps * _trace(w, gram, p)
            for i in range(p):
                w[gram + i * (width + 1)] += floor if floor > 1e-300 else 1.0
            _inverse_root(w, gram, vectors, scaled, out, p)
            if k == 0:
                for i in range(p):
                    factor[(m * (p + 1) + p) * p + i] = w[gram + i * (width + 1)]
                    for j in range(p):
                        factor[(m * (p + 1) + i) * p + j] = w[vectors + i * width + j]
                copy_narrow(w, out, right, p)
                _multiply_with_gram(y, start, right, n, p, w, gram, spare)
        copy_narrow(w, out, right, p)
        multiply_rows(y, start, right, n, p, spare)


@kernel
def _polar_backward(g, x, u, y, factor, dw, nothing, n, p, unused, low, high):  # type: ignore[no-untyped-def]
    width = pitch(p)
    size = width * width
    w, left, right, _ = _scratch(y, 7, p)
    gram, vectors, columns, inner, middle, root, product = 0, size, 2 * size, 3 * size, 4 * size, 5 * size, 6 * size
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        clear(w, gram, p)
        for r in range(0, n, BLOCK):
            rows, at = min(BLOCK, n - r), start + r * p
            add_gram(y, at, g, at, rows, p, w, gram)
        clear(w, vectors, p)
        roots = (m * (p + 1) + p) * p
        for i in range(p):
            for j in range(p):
                w[vectors + i * width + j] = factor[(m * (p + 1) + i) * p + j]
        transpose(w, columns, vectors, p)
        matmul(w, inner, vectors, gram, p)
        matmul(w, middle, inner, columns, p)
        # dw = (g - y k) h, h the inverse square root, k_ij = (r_i m_ij + r_j m_ji)/(r_i + r_j) where h = diag(1/r).
        clear(w, gram, p)
        for i in range(p):
            for j in range(p):
                ri, rj = factor[roots + i], factor[roots + j]
                k = (ri * w[middle + i * width + j] + rj * w[middle + j * width + i]) / (ri + rj)
                w[gram + i * width + j] = -k / rj
        matmul(w, inner, gram, vectors, p)
        matmul(w, product, columns, inner, p)
        for i in range(p):
            for j in range(width):
                w[inner + i * width + j] = w[vectors + i * width + j] / factor[roots + i]
        matmul(w, root, columns, inner, p)
        copy_narrow(w, root, left, p)
        copy_narrow(w, product, right, p)
        combine_rows(dw, start, g, start, left, y, start, right, n, p)


# -- projections ---------------------------------------------------------------------------------------------------


@outline
def _project(x, u, y, n, p, half, m, w, left, right):  # type: ignore[no-untyped-def]
    """y = u - x s with s = x^T u, or its symmetric part."""
    apart()
    width, start = pitch(p), m * n * p
    clear(w, 0, p)
    for r in range(0, n, BLOCK):
        rows, at = min(BLOCK, n - r), start + r * p
        add_gram(x, at, u, at, rows, p, w, 0)
    if half:
        symmetrize(w, 0, p)
    for at in range(width * width):
        left[at] = -w[at]
    combine_rows(y, start, x, start, left, u, start, right, n, p)


@kernel
def _project_forward(x, u, y, factor, n, p, half, low, high):  # type: ignore[no-untyped-def]
    w, left, right, _ = _scratch(x, 1, p)
    identity(w, 0, 1.0, p)
    copy_narrow(w, 0, right, p)
    for m in range(low // _SHARE, high // _SHARE):
        _project(x, u, y, n, p, half, m, w, left, right)


@kernel
def _project_backward(g, x, u, y, factor, dx, du, n, p, half, low, high):  # type: ignore[no-untyped-def]
    width = pitch(p)
    size = width * width
    w, left, right, _ = _scratch(x, 3, p)
    one = np.empty(size, x.dtype)
    identity(w, 0, 1.0, p)
    copy_narrow(w, 0, one, p)
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        _project(x, g, du, n, p, half, m, w, left, one)
        # The adjoint is the projection itself; dx = -g s^T - u t with s, t those of u and g.
        clear(w, size, p)
        for r in range(0, n, BLOCK):
            rows, at = min(BLOCK, n - r), start + r * p
            add_gram(x, at, u, at, rows, p, w, size)
        if half:
            symmetrize(w, size, p)
        transpose(w, 2 * size, size, p)
        transpose(w, size, 0, p)
        for at in range(size):
            left[at] = -w[2 * size + at]
            right[at] = -w[size + at]
        combine_rows(dx, start, g, start, left, u, start, right, n, p)


# -- steps of an optimizer -----------------------------------------------------------------------------------------


@inline
def _velocity(g, buffer, start, numbers, u, count):  # type: ignore[no-untyped-def]
    """u = rate b + direct g for one matrix, after b <- keep b + take g; an empty buffer is not there."""
    sign, keep, take, rate, direct = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    if buffer.size == 0:
        for i in range(count):
            u[i] = direct * sign * g[start + i]
        return
    for i in range(count):
        d = sign * g[start + i]
        b = keep * buffer[start + i] + take * d
        buffer[start + i] = b
        u[i] = rate * b + direct * d


@kernel
def _step_forward(x, g, buffer, numbers, n, p, low, high):  # type: ignore[no-untyped-def]
    """x <- exp(x, u - x x^T u), in place: a matrix at a time, with room for two of them.

    u - x (2 I - x^T x) x^T u is what projecting twice gives, but for the square of the rounding in x.
    """
    w, left, right, _ = _scratch(x, 16 + 2 * _DOUBLINGS, p)
    one = np.empty_like(left)
    size = pitch(p) * pitch(p)
    u, v = np.empty(n * p, x.dtype), np.empty(n * p, x.dtype)
    for m in range(low // _SHARE, high // _SHARE):
        start = m * n * p
        _velocity(g, buffer, start, numbers, u, n * p)
        identity(w, 0, 1.0, p)
        copy_narrow(w, 0, one, p)
        for slot in range(0, 3 * size, size):
            clear(w, slot, p)
        for r in range(0, n, BLOCK):
            rows, at = min(BLOCK, n - r), start + r * p
            add_gram(x, at, u, r * p, rows, p, w, 0)
            add_gram(x, at, x, at, rows, p, w, size)
        add_scaled(w, 2 * size, -2.0, 0, p)
        add_product(w, 2 * size, 1.0, size, 0, p)
        copy_narrow(w, 2 * size, left, p)
        combine_rows(v, 0, x, start, left, u, 0, one, n, p)
        _exp(u, 0, x, start, v, 0, n, p, w, left, right)
        for i in range(n * p):
            x[start + i] = u[i]


# -- the way in ----------------------------------------------------------------------------------------------------

_KERNELS = {
    "exp": (_exp_forward, _exp_backward),
    "qr": (_qr_forward, _qr_backward),
    "polar": (_polar_forward, _polar_backward),
    "project": (_project_forward, _project_backward),
    "project_half": (_project_forward, _project_backward),
}


def _run(function: Any, name: str, x: Tensor, tensors: tuple[Tensor, ...]) -> None:
    """Call a kernel on flat views of contiguous tensors, over all matrices of a batch."""
    n, p = x.shape[-2:]
    number = float(name == "project_half") if name.startswith("project") else torch.finfo(x.dtype).eps
    arrays = [flat(t) for t in tensors]
    parallel(function, _SHARE * (x.numel() // (n * p)), _grain(n, p), *arrays, n, p, number)


def _grain(n: int, p: int) -> int:
    # Fifty microseconds of work, at a pessimistic rate of arithmetic for tall matrices and for small ones.
    return max(1, round(_SHARE * 50.0 / (n * p * p / 5e3 + 0.01 * p**3)))


def geodesic_step(x: Tensor, grad: Tensor, buffer: Tensor | None, numbers: list[float]) -> None:
    """Step contiguous bases x (..., n, p) in place, by the numbers sign, keep, take, rate, direct of `_velocity`."""
    n, p = x.shape[-2:]
    tensors = (x, grad, x.new_empty(0) if buffer is None else buffer, torch.tensor(numbers, dtype=x.dtype))
    parallel(_step_forward, _SHARE * (x.numel() // (n * p)), _grain(n, p), *map(flat, tensors), n, p)


def forward(name: str, x: Tensor, u: Tensor, saved: int) -> tuple[Tensor, Tensor]:
    """Value of an operation on (..., n, p) tensors of one shape, and float64 (..., saved, p) for its backward pass."""
    x, u = x.detach().contiguous(), u.detach().contiguous()
    y = torch.empty_like(x)
    factor = x.new_empty(*x.shape[:-2], saved, x.shape[-1], dtype=torch.float64)
    _run(_KERNELS[name][0], name, x, (x, u, y, factor))
    return y, factor


def backward(
    name: str, g: Tensor, x: Tensor, u: Tensor, y: Tensor, factor: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of both arguments; one for both, and an empty tensor, where they are `shared`."""
    tensors = tuple(t.detach().contiguous() for t in (g, x, u, y, factor))
    dx = torch.empty_like(tensors[0])
    du = x.new_empty(*x.shape[:-2], 0, x.shape[-1]) if shared else torch.empty_like(dx)
    _run(_KERNELS[name][1], name, x, (*tensors, dx, du))
    return dx, du

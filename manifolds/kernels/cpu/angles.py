"""CPU kernel of the principal angles between subspaces, p up to 32: one pair of n x p matrices after the other.

With m = x^T y and z = y - x m, the cosines are the singular values of m and the sines those of z. The Gram matrix of z
has their squares, and would lose half of the digits; its eigenvectors v make the columns of z v all but orthogonal,
and of such columns the Gram matrix has every singular value right relative to itself (Demmel, Veselic, SIAM J. Matrix
Anal. 13, 1992): the second pass of a one-sided Jacobi method by blocks. So it is with m v.
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
    clear,
    combine_rows,
    copy_narrow,
    eigh,
    identity,
    matmul,
    multiply_rows,
    pitch,
    transpose,
)
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["principal_angles", "principal_angles_back"]

_SHARE = 64


@inline
def _gram(w, out, a, a0, b, b0, n, p):  # type: ignore[no-untyped-def]
    clear(w, out, p)
    for r in range(0, n, BLOCK):
        add_gram(a, a0 + r * p, b, b0 + r * p, min(BLOCK, n - r), p, w, out)


@inline
def _order(w, a, p, keys, order):  # type: ignore[no-untyped-def]
    """Square roots of the diagonal of a, and the order in which they ascend."""
    width = pitch(p)
    for i in range(p):
        keys[i] = math.sqrt(max(w[a + i * (width + 1)], 0.0))
        order[i] = i
    for i in range(1, p):
        for k in range(i, 0, -1):
            if keys[order[k]] < keys[order[k - 1]]:
                order[k], order[k - 1] = order[k - 1], order[k]


@kernel
def _angles(x, y, angles, factor, n, p, low, high):  # type: ignore[no-untyped-def]
    """Angles, ascending; and of each pair m, the right singular vectors of z and of m as rows, the sines, the cosines.

    Each has its own vectors: those of z are ill-defined where angles are nearly right ones, those of m at small ones.
    """
    width = pitch(p)
    size = width * width
    w = np.zeros(7 * size + 64)
    m, gram, vectors, columns, turned, again, spare = 0, size, 2 * size, 3 * size, 4 * size, 5 * size, 6 * size
    left, right, rows = np.zeros(size + 64, x.dtype), np.zeros(size + 64, x.dtype), np.zeros(8 * width + 64, x.dtype)
    z = np.empty(n * p + 64, x.dtype)
    sines, cosines = np.empty(p), np.empty(p)
    order, descent = np.empty(p, np.int64), np.empty(p, np.int64)
    for i in range(low // _SHARE, high // _SHARE):
        start = i * n * p
        _gram(w, m, x, start, y, start, n, p)
        for at in range(size):
            left[at] = -w[m + at]
        identity(w, gram, 1.0, p)
        copy_narrow(w, gram, right, p)
        combine_rows(z, 0, x, start, left, y, start, right, n, p)
        _gram(w, gram, z, 0, z, 0, n, p)
        eigh(w, gram, vectors, p)
        transpose(w, columns, vectors, p)
        copy_narrow(w, columns, right, p)
        multiply_rows(z, 0, right, n, p, rows)
        _gram(w, gram, z, 0, z, 0, n, p)
        eigh(w, gram, again, p)
        matmul(w, turned, again, vectors, p)
        for at in range(size):
            w[vectors + at] = w[turned + at]
        _order(w, gram, p, sines, order)
        transpose(w, columns, vectors, p)
        matmul(w, turned, m, columns, p)
        transpose(w, columns, turned, p)
        matmul(w, spare, columns, turned, p)
        eigh(w, spare, again, p)
        _order(w, spare, p, cosines, descent)
        matmul(w, turned, again, vectors, p)
        first = i * (3 * p + 2) * p
        for j in range(p):
            sine, cosine = sines[order[j]], cosines[descent[p - 1 - j]]
            angles[i * p + j] = math.atan2(sine, cosine)
            factor[first + 3 * p * p + j] = sine
            factor[first + (3 * p + 1) * p + j] = cosine
            for k in range(p):
                factor[first + j * p + k] = w[m + j * width + k]
                factor[first + (p + j) * p + k] = w[vectors + order[j] * width + k]
                factor[first + (2 * p + j) * p + k] = w[turned + descent[p - 1 - j] * width + k]


@inline
def _spread(source, start, out, p):  # type: ignore[no-untyped-def]
    """Copy a p x p matrix to rows of whole vectors."""
    for i in range(p):
        for j in range(p):
            out[i * pitch(p) + j] = source[start + i * p + j]


@kernel
def _pull(x, y, gx, gy, coefficients, n, p, low, high):  # type: ignore[no-untyped-def]
    """gx = z a + y b and gy = z c + x d with z = y + x e, for the matrices a, ..., e of each pair."""
    size = pitch(p) * pitch(p)
    z, one = np.empty(n * p + 64, x.dtype), np.zeros(size + 64, x.dtype)
    left, right = np.zeros(size + 64, x.dtype), np.zeros(size + 64, x.dtype)
    for i in range(p):
        one[i * (pitch(p) + 1)] = 1.0
    for i in range(low // _SHARE, high // _SHARE):
        start, first = i * n * p, 5 * i * p * p
        _spread(coefficients, first + 4 * p * p, left, p)
        combine_rows(z, 0, x, start, left, y, start, one, n, p)
        _spread(coefficients, first, left, p)
        _spread(coefficients, first + p * p, right, p)
        combine_rows(gx, start, z, 0, left, y, start, right, n, p)
        _spread(coefficients, first + 2 * p * p, left, p)
        _spread(coefficients, first + 3 * p * p, right, p)
        combine_rows(gy, start, z, 0, left, x, start, right, n, p)


def _run(function: Any, x: Tensor, arrays: tuple[Tensor, ...]) -> None:
    n, p = x.shape[-2:]
    # Fifty microseconds of work, at a pessimistic rate of arithmetic for tall matrices and for small ones.
    grain = max(1, round(_SHARE * 50.0 / (n * p * p / 2e3 + 0.03 * p**3)))
    parallel(function, _SHARE * (x.numel() // (n * p)), grain, *(flat(t) for t in arrays), n, p)


def principal_angles(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Angles (..., p) between the spans of (..., n, p) tensors, and float64 (..., 3 p + 2, p) for the gradient."""
    p = x.shape[-1]
    angles = x.new_empty(*x.shape[:-2], p)
    factor = x.new_empty(*x.shape[:-2], 3 * p + 2, p, dtype=torch.float64)
    _run(_angles, x, (x, y, angles, factor))
    return angles, factor


def principal_angles_back(g: Tensor, x: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and y. An angle of 0 gives none: its sine has no derivative there."""
    p = x.shape[-1]
    m, v, w, numbers = factor.split((p, p, p, 2), dim=-2)
    s, c = numbers.unbind(-2)
    none = torch.zeros_like(s)
    by_sine = torch.where(s > 0, g * c / torch.where(s > 0, s, 1.0), none)
    by_cosine = torch.where(c > 0, g * s / torch.where(c > 0, c, 1.0), none)
    a, b = (t.mT @ (n.unsqueeze(-1) * t) for t, n in ((v, by_sine), (w, by_cosine)))
    coefficients = torch.stack((-a @ m.mT, -b @ m.mT, a, -m @ b, -m), dim=-3).to(x.dtype)
    gx, gy = torch.empty(x.shape, dtype=x.dtype), torch.empty(y.shape, dtype=x.dtype)
    _run(_pull, x, (x, y, gx, gy, coefficients))
    return gx, gy

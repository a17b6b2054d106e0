"""Tensors in, tensors out, for the loops of `pairwise`: layout, factors of rows and columns, and what follows the sums.

Leading dimensions of all arguments are batches and broadcast. Rows of several batches that share their columns become
one batch. All results are the same for every number of threads: the units of work depend on shapes only.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu import pairwise
from holonomy.manifolds.kernels.cpu.jit import parallel
from holonomy.manifolds.kernels.cpu.lanes import LANES
from holonomy.manifolds.kernels.cpu.memory import empty, flat
from holonomy.manifolds.kernels.pair_sums import shaped, unslanted

__all__ = [
    "ball_gradients",
    "ball_values",
    "lorentz_gradients",
    "lorentz_values",
    "nearest",
    "sphere_gradients",
    "sphere_values",
]

_UNITS = 16  # most units of work that a backward pass is divided into
_SUMS = 2**22  # most numbers in the sums of those units together: 32 MB
_GRAIN = 2**14  # pairs that are worth a thread


class _Pairs(NamedTuple):
    """Rows and columns as the loops want them, beside the tensors in the shape of the whole batch."""

    batch: tuple[int, ...]
    rows: int  # of one batch, before several became one
    x: Tensor  # (batches, n, d)
    y: Tensor  # (batches, m, d)
    transposed: Tensor  # (batches, d, padded)
    sizes: tuple[int, int, int, int]  # n, m, d, padded

    @property
    def total_rows(self) -> int:
        return self.x.shape[0] * self.x.shape[1]

    def columns(self, t: Tensor, padding: float) -> Tensor:
        """Pad (batches, m) to whole vectors."""
        padded = t.new_full((t.shape[0], self.sizes[3]), padding)
        padded[:, : self.sizes[1]] = t
        return padded


def _pairs(x: Tensor, y: Tensor, *others: Tensor) -> _Pairs:
    batch, rows = tuple(torch.broadcast_shapes(*(t.shape[:-2] for t in (x, y, *others)))), x.shape[-2]
    x, y = x.detach(), y.detach()
    if all(math.prod(t.shape[:-2]) == 1 for t in (y, *others)):
        x = x.expand(*batch, *x.shape[-2:]).reshape(1, math.prod(batch) * rows, x.shape[-1])
        y = y.reshape(1, *y.shape[-2:])
    else:
        x, y = (t.expand(*batch, *t.shape[-2:]).reshape(math.prod(batch), *t.shape[-2:]) for t in (x, y))
    m, d = y.shape[1:]
    padded = -(-m // (2 * LANES)) * 2 * LANES
    transposed = y.new_zeros(y.shape[0], d, padded)
    transposed[..., :m] = y.mT
    return _Pairs(batch, rows, x.contiguous(), y, transposed, (x.shape[1], m, d, padded))


def _scalar(value: float, like: Tensor) -> Any:
    return np.float32(value) if like.dtype == torch.float32 else np.float64(value)


def _forward(kind: Any, p: _Pairs, flip: Tensor, left: Tensor, right: Tensor, c: Tensor, scale: float) -> Tensor:
    m = p.sizes[1]
    out = empty(*p.batch, p.rows, m, dtype=p.x.dtype)
    numbers = flat(out)
    arrays = [flat(t) for t in (p.x, p.transposed, flip, left, right, c)]
    grain = _GRAIN // max(1, m) + 1
    parallel(pairwise.forward, p.total_rows, grain, kind, *arrays, _scalar(scale, p.x), numbers, p.sizes)
    return out


class _Sums(NamedTuple):
    """Sums of a backward pass, in float64."""

    x: Tensor  # (batches, n, d)
    y: Tensor  # (batches, m, d)
    left: Tensor  # (batches, n)
    right: Tensor  # (batches, m)
    c: Tensor  # (batches, n)


def _given(grad: Tensor, rows: int, m: int) -> tuple[Tensor, tuple[int, int]]:
    """Gradients that arrive, with their strides by row and column; those of a sum are one number, strides 0."""
    grad = grad.detach()
    if grad.numel() == 0:
        return grad.reshape(0), (0, 0)
    try:
        grad = grad.view(rows, m)
    except RuntimeError:
        grad = grad.reshape(rows, m)
    row, column = grad.stride()
    if column not in (0, 1) and m > 1:
        grad = grad.contiguous()
        row, column = grad.stride()
    row, column = (row if rows > 1 else 0), (column if m > 1 else 0)
    return grad.as_strided((1 + row * (rows - 1) + column * (m - 1),), (1,)), (row, column)


def _backward(
    kind: Any, p: _Pairs, flip: Tensor, left: Tensor, right: Tensor, c: Tensor, scale: float, grad: Tensor
) -> _Sums:
    n, m, d, padded = p.sizes
    batches = p.x.shape[0]
    # More than one unit a batch where its sums are small beside the limit, and beside the work.
    limits = (_UNITS // max(1, batches), _SUMS // max(1, batches * padded * (d + 1)), n // 64, n * m // _GRAIN)
    chunks = max(1, min(limits))
    height = -(-n // (32 * chunks)) * 32
    given, steps = _given(grad, p.total_rows, m)
    wide = {"dtype": torch.float64}
    gx, gl, gc = torch.zeros(batches, n, d, **wide), torch.zeros(batches, n, **wide), torch.zeros(batches, n, **wide)  # type: ignore[call-overload]
    gy, gr = torch.zeros(batches, chunks, d, padded, **wide), torch.zeros(batches, chunks, padded, **wide)  # type: ignore[call-overload]
    arrays = [flat(t) for t in (p.x, p.transposed, flip, left, right, c)]
    sums = [flat(t) for t in (gx, gy, gl, gr, gc)]
    units = batches * chunks
    grain = pairwise.UNIT * (1 + _GRAIN // (height * m + 1))
    parallel(
        pairwise.backward,
        units * pairwise.UNIT,
        grain,
        kind,
        *arrays,
        _scalar(scale, p.x),
        flat(given),
        steps,
        p.sizes,
        (chunks, height),
        *sums,
    )
    return _Sums(gx, gy.sum(1)[..., :m].mT, gl, gr.sum(1)[..., :m], gc)


# -- the ball ------------------------------------------------------------------------------------------------------


def _ball(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[_Pairs, Tensor, Tensor]:
    # Row factors never keep rows of several batches from becoming one; factors of the columns do.
    p = _pairs(_widest(x, a), y, b)
    left = a.detach().expand(*p.batch, *a.shape[-2:]).reshape(p.x.shape[:2])
    right = p.columns(
        b.detach().expand(*(p.batch if len(p.y) > 1 else b.shape[:-2]), *b.shape[-2:]).reshape(p.y.shape[:2]), 0.0
    )
    return p, left, right


def _widest(x: Tensor, a: Tensor) -> Tensor:
    return x.expand(*torch.broadcast_shapes(x.shape[:-2], a.shape[:-2]), *x.shape[-2:])


def ball_values(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale arsinh(sqrt(a_i b_j) |x_i - y_j|)."""
    p, left, right = _ball(x, y, a, b)
    return _forward(pairwise.BALL, p, p.transposed, left, right, x.new_ones(p.x.shape[0]), scale)


def ball_gradients(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients in x, y, a and b."""
    p, left, right = _ball(x, y, a, b)
    sums = _backward(pairwise.BALL, p, p.transposed, left, right, x.new_ones(p.x.shape[0]), scale, grad)
    row, column = sums.left / left, sums.right / right[:, : p.sizes[1]]
    parts = (sums.x, sums.y, row.unsqueeze(-1), column.unsqueeze(-1))
    return tuple(shaped(part, t, p.batch) for part, t in zip(parts, (x, y, a, b), strict=True))


# -- the sphere ----------------------------------------------------------------------------------------------------


def sphere_values(x: Tensor, y: Tensor) -> Tensor:
    """2 atan2(|x_i - y_j|, |x_i + y_j|)."""
    p = _pairs(x, y)
    none = x.new_empty(0)
    return _forward(pairwise.SPHERE, p, -p.transposed, none, none, x.new_ones(p.x.shape[0]), 1.0)


def sphere_gradients(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients in x and y."""
    p = _pairs(x, y)
    none = x.new_empty(0)
    sums = _backward(pairwise.SPHERE, p, -p.transposed, none, none, x.new_ones(p.x.shape[0]), 1.0, grad)
    row, column = sums.x + sums.left.unsqueeze(-1) * p.x, sums.y + sums.right.unsqueeze(-1) * p.y
    return shaped(row, x, p.batch), shaped(column, y, p.batch)


# -- the hyperboloid -----------------------------------------------------------------------------------------------


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b, and what its rounding lost (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _two_square(a: Tensor) -> tuple[Tensor, Tensor]:
    """a^2, and what its rounding lost (Dekker)."""
    t = 134217729.0 * a
    high = t - (t - a)
    low = a - high
    p = a * a
    return p, ((high * high - p) + 2.0 * high * low) + low * low


def _times(xs: Tensor, c: Tensor) -> Tensor:
    """Times sqrt(1/c + |x_s|^2) in twice the precision of xs: high parts, low parts, and inverses, (3, ...)."""
    if xs.dtype == torch.float32:
        exact = (1.0 / c + xs.double().square().sum(-1)).sqrt()
        high = exact.float()
        return torch.stack((high, (exact - high.double()).float(), 1.0 / high))
    squares, lost = _two_square(torch.cat((xs, (1.0 / c).sqrt().expand(xs.shape[:-1]).unsqueeze(-1)), dim=-1))
    while squares.shape[-1] > 1:
        if squares.shape[-1] % 2:
            squares, lost = (torch.nn.functional.pad(t, (0, 1)) for t in (squares, lost))
        squares, error = _two_sum(squares[..., ::2], squares[..., 1::2])
        lost = lost[..., ::2] + lost[..., 1::2] + error
    squares, lost = squares.squeeze(-1), lost.squeeze(-1)
    high = squares.sqrt()
    square, error = _two_square(high)
    low = ((squares - square) - error + lost) / (2.0 * high)
    return torch.stack((high, low, 1.0 / high))


def _lorentz(x: Tensor, y: Tensor, c: Tensor | None, k: float) -> tuple[_Pairs, Tensor, Tensor, Tensor]:
    p = _pairs(x, y) if c is None else _pairs(x, y, c)
    batches = p.x.shape[0]
    wide = torch.full((batches,), k, dtype=torch.float64)
    if c is not None:
        wide = c.detach().double()
        wide = (wide if c.numel() == 1 else wide.expand(*p.batch, 1, 1)).reshape(-1).expand(batches)
    left, right = _times(p.x, wide.unsqueeze(-1)), _times(p.y, wide.unsqueeze(-1))
    columns = torch.stack([p.columns(t, padding) for t, padding in zip(right, (1.0, 0.0, 1.0), strict=True)])
    return p, left, columns, wide


def lorentz_values(x: Tensor, y: Tensor, c: Tensor | None, k: float) -> Tensor:
    """2 arsinh(sqrt(q)) of space parts; over sqrt(k) where the curvature is the number `k`, not the tensor `c`."""
    p, left, right, wide = _lorentz(x, y, c, k)
    scale = 2.0 / math.sqrt(k) if c is None else 2.0
    return _forward(pairwise.LORENTZ, p, p.transposed, left, right, wide.to(x.dtype), scale)


def lorentz_gradients(x: Tensor, y: Tensor, c: Tensor | None, k: float, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients in the space parts and in `c`."""
    p, left, right, wide = _lorentz(x, y, c, k)
    scale = 2.0 / math.sqrt(k) if c is None else 2.0
    sums = _backward(pairwise.LORENTZ, p, -p.transposed, left, right, wide.to(x.dtype), scale, grad)
    gx = unslanted(sums.x, sums.left, p.x, left[0], wide)
    gy = unslanted(sums.y, sums.right, p.y, right[0, :, : p.sizes[1]], wide)
    gc = (sums.c.sum(-1) / wide).reshape(-1, 1, 1)
    if c is None:
        return shaped(gx, x, p.batch), shaped(gy, y, p.batch), x.new_zeros(())
    return shaped(gx, x, p.batch), shaped(gy, y, p.batch), shaped(gc, c, p.batch)


# -- nearest rows --------------------------------------------------------------------------------------------------


def nearest(
    kind: str,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    k: float,
    count: int,
    skip: bool,
) -> Tensor:
    """Indices (..., n, count) of the nearest columns of each row: of points, for "lorentz" of space parts."""
    shape: tuple[int, ...]
    if kind == "ball":
        assert a is not None
        assert b is not None
        p, left, right = _ball(x, y, a, b)
        shape, flip, wide = pairwise.BALL, p.transposed, torch.ones(p.x.shape[0])
    elif kind == "sphere":
        p, left = _pairs(x, y), x.new_empty(0)
        right, shape, flip, wide = left, pairwise.SPHERE, -p.transposed, torch.ones(p.x.shape[0])
    else:
        p, left, right, wide = _lorentz(x, y, c, k)
        shape, flip = pairwise.LORENTZ, p.transposed
    out = torch.empty(*p.batch, p.rows, count, dtype=torch.int64)
    arrays = [flat(t) for t in (p.x, p.transposed, flip, left, right, wide.to(x.dtype))]
    grain = _GRAIN // max(1, p.sizes[1]) + 1
    arguments = (shape, *arrays, count, p.rows if skip else 0, flat(out), p.sizes)
    parallel(pairwise.nearest, p.total_rows, grain, *arguments)
    return out

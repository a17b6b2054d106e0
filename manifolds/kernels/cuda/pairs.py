"""Distances of all pairs on CUDA: values, gradients, and the nearest rows. The same functions as on the CPU.

Leading dimensions of all arguments are batches and broadcast. Rows of several batches that share their columns become
one batch. How sums are divided depends on shapes only, so that results are the same on every device and in every run.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name, widest
from holonomy.manifolds.kernels.pair_sums import shaped, unslanted

__all__ = [
    "ball_gradients",
    "ball_values",
    "entries",
    "lorentz_gradients",
    "lorentz_values",
    "nearest",
    "sphere_gradients",
    "sphere_values",
]

KINDS = {"ball": "BallPairs", "sphere": "SpherePairs", "lorentz": "LorentzPairs"}
#: Numbers of a pair in the gradient, which a tile holds in shared memory.
_WEIGHTS = {"ball": 1, "sphere": 2, "lorentz": 3}
_THREADS, _DEPTH = 256, 16
#: Blocks that keep a device busy: columns are divided until there are so many.
_BLOCKS = 512
#: Most numbers in the sums of all chunks: 128 MB.
_SUMS = 2**24


def _edge(what: str, kind: str, dtype: torch.dtype) -> int:
    """Rows and columns of a tile: what leaves room in the registers and in 48 KB of shared memory."""
    small = dtype == torch.float64 or (what == "backward" and kind == "lorentz")
    return 32 if small else 64


def _shared(what: str, kind: str, dtype: torch.dtype) -> int:
    """Bytes of shared memory: coordinates of rows and columns, and the numbers of pairs."""
    edge = _edge(what, kind, dtype)
    pairs = {"forward": 0, "backward": _WEIGHTS[kind], "nearest": 1}[what]
    return (2 * _DEPTH + pairs * edge) * (edge + 1) * dtype.itemsize


def _entry(what: str, kind: str, dtype: torch.dtype, width: int) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    symbol = f"pairs_{what}_{kind}_{scalar}_{width}"
    edge = _edge(what, kind, dtype)
    return symbol, f"HOLONOMY_PAIRS_{what.upper()}({symbol}, {KINDS[kind]}, {scalar}, {width}, {edge})"


def _entry_times(dtype: torch.dtype) -> tuple[str, str]:
    symbol = f"pairs_times_{scalar_name(dtype)}"
    return symbol, f"HOLONOMY_PAIRS_TIMES({symbol}, {scalar_name(dtype)})"


_COMPLETE = ("pairs_complete", "HOLONOMY_PAIRS_COMPLETE(pairs_complete)")


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    found = [
        _entry(what, kind, dtype, width)
        for what in ("forward", "backward", "nearest")
        for kind in KINDS
        for width in (1, widest(dtype))
    ]
    return dict([*found, _entry_times(dtype), _COMPLETE])


class _Pairs(NamedTuple):
    """Rows and columns as the kernels want them."""

    batch: tuple[int, ...]
    rows: int  # of one batch, before several became one
    x: Tensor  # (batches, n, d)
    y: Tensor  # (batches, m, d)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batches, rows, columns, coordinates."""
        return (*self.x.shape[:2], *self.y.shape[1:])


def _pairs(x: Tensor, y: Tensor, *others: Tensor) -> _Pairs:
    batch, rows = tuple(torch.broadcast_shapes(*(t.shape[:-2] for t in (x, y, *others)))), x.shape[-2]
    x, y = x.detach(), y.detach()
    if all(math.prod(t.shape[:-2]) == 1 for t in (y, *others)):
        x = x.expand(*batch, *x.shape[-2:]).reshape(1, math.prod(batch) * rows, x.shape[-1])
        y = y.reshape(1, *y.shape[-2:])
    else:
        x, y = (t.expand(*batch, *t.shape[-2:]).reshape(math.prod(batch), *t.shape[-2:]) for t in (x, y))
    return _Pairs(batch, rows, x.contiguous(), y.contiguous())


def _width(p: _Pairs) -> int:
    most = widest(p.x.dtype)
    aligned = all(t.data_ptr() % 16 == 0 for t in (p.x, p.y))
    return most if aligned and p.sizes[3] % most == 0 else 1


def _tiles(size: int, edge: int) -> int:
    return -(-size // edge)


def _chunks(p: _Pairs, edge: int, numbers: int) -> int:
    """Chunks of the columns, none of them empty, each with `numbers` for every row."""
    batches, n, m, _ = p.sizes
    columns = _tiles(m, edge)
    limits = (_BLOCKS // (batches * _tiles(n, edge)), _SUMS // (batches * n * numbers), columns)
    return _tiles(columns, _tiles(columns, max(1, min(limits))))


def _forward(kind: str, p: _Pairs, left: Tensor | None, right: Tensor | None, c: Tensor, scale: float) -> Tensor:
    batches, n, m, d = p.sizes
    out = p.x.new_empty(*p.batch, p.rows, m)
    if not out.numel():
        return out
    symbol, line = _entry("forward", kind, out.dtype, _width(p))
    edge = _edge("forward", kind, out.dtype)
    sizes = [np.int32(size) for size in (batches, n, m, d)]
    arguments = [p.x, p.y, left, right, c, np.float64(scale), out, *sizes]
    blocks = batches * _tiles(n, edge) * _tiles(m, edge)
    module.launch("pairs", line, symbol, p.x, (blocks,), _THREADS, arguments, _shared("forward", kind, out.dtype))
    return out


def _row_sums(
    kind: str, p: _Pairs, left: Tensor | None, right: Tensor | None, c: Tensor, scale: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over the columns, in float64: (batches, n, d) of the coordinates, (batches, n, 2) of the further terms."""
    batches, n, m, d = p.sizes
    wide = {"dtype": torch.float64, "device": p.x.device}
    if not p.x.numel() or not m:
        return torch.zeros(batches, n, d, **wide), torch.zeros(batches, n, 2, **wide)  # type: ignore[call-overload]
    edge = _edge("backward", kind, p.x.dtype)
    chunks = _chunks(p, edge, d + 2)
    sums = torch.empty(chunks, batches, n, d, **wide)  # type: ignore[call-overload]
    rest = torch.empty(chunks, batches, n, 2, **wide)  # type: ignore[call-overload]
    symbol, line = _entry("backward", kind, p.x.dtype, _width(p))
    steps = [np.int64(step) for step in grad.stride()]
    sizes = [np.int32(size) for size in (batches, n, m, d, chunks)]
    arguments = [p.x, p.y, left, right, c, np.float64(scale), grad, *steps, sums, rest, *sizes]
    blocks = batches * _tiles(n, edge) * chunks
    module.launch("pairs", line, symbol, p.x, (blocks,), _THREADS, arguments, _shared("backward", kind, p.x.dtype))
    return sums.sum(0), rest.sum(0)


def _backward(
    kind: str, p: _Pairs, left: Tensor | None, right: Tensor | None, c: Tensor, scale: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of the rows and their further terms, then those of the columns."""
    batches, n, m, _ = p.sizes
    grad = grad.detach().reshape(batches, n, m)  # with the strides of what was expanded
    turned = _Pairs(p.batch, p.rows, p.y, p.x)
    rows = _row_sums(kind, p, left, right, c, scale, grad)
    columns = _row_sums(kind, turned, right, left, c, scale, grad.mT)
    return *rows, *columns


# -- the ball ------------------------------------------------------------------------------------------------------


def _ball(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[_Pairs, Tensor, Tensor]:
    # Row factors never keep rows of several batches from becoming one; factors of the columns do.
    wide = x.expand(*torch.broadcast_shapes(x.shape[:-2], a.shape[:-2]), *x.shape[-2:])
    p = _pairs(wide, y, b)
    left = a.detach().expand(*p.batch, *a.shape[-2:]).reshape(p.x.shape[:2])
    batch = p.batch if len(p.y) > 1 else b.shape[:-2]
    right = b.detach().expand(*batch, *b.shape[-2:]).reshape(p.y.shape[:2])
    return p, left.contiguous(), right.contiguous()


def ball_values(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale arsinh(sqrt(a_i b_j) |x_i - y_j|)."""
    p, left, right = _ball(x, y, a, b)
    return _forward("ball", p, left, right, x.new_ones(len(p.x)), scale)


def ball_gradients(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients in x, y, a and b."""
    p, left, right = _ball(x, y, a, b)
    gx, row, gy, column = _backward("ball", p, left, right, x.new_ones(len(p.x)), scale, grad)
    parts = (gx, gy, row[..., :1] / left.unsqueeze(-1), column[..., :1] / right.unsqueeze(-1))
    return tuple(shaped(part, t, p.batch) for part, t in zip(parts, (x, y, a, b), strict=True))


# -- the sphere ----------------------------------------------------------------------------------------------------


def sphere_values(x: Tensor, y: Tensor) -> Tensor:
    """2 atan2(|x_i - y_j|, |x_i + y_j|)."""
    p = _pairs(x, y)
    return _forward("sphere", p, None, None, x.new_ones(len(p.x)), 1.0)


def sphere_gradients(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients in x and y."""
    p = _pairs(x, y)
    gx, row, gy, column = _backward("sphere", p, None, None, x.new_ones(len(p.x)), 1.0, grad)
    gx, gy = gx + row[..., :1] * p.x, gy + column[..., :1] * p.y
    return shaped(gx, x, p.batch), shaped(gy, y, p.batch)


# -- the hyperboloid -----------------------------------------------------------------------------------------------


def _times(points: Tensor, c: Tensor) -> Tensor:
    """Times of (batches, n, d) in twice their precision: high parts, low parts, and inverses, (3, batches, n)."""
    batches, n, d = points.shape
    out = points.new_empty(3, batches, n)
    if out.numel():
        symbol, line = _entry_times(points.dtype)
        arguments = [points, c, out, np.int64(batches * n), np.int32(n), np.int32(d)]
        module.launch("pairs", line, symbol, points, (_tiles(batches * n, _THREADS // 32),), _THREADS, arguments)
    return out


def _lorentz(x: Tensor, y: Tensor, c: Tensor | None, k: float) -> tuple[_Pairs, Tensor, Tensor, Tensor]:
    p = _pairs(x, y) if c is None else _pairs(x, y, c)
    batches = len(p.x)
    wide = torch.full((batches,), k, dtype=torch.float64, device=x.device)
    if c is not None:
        wide = c.detach().double()
        wide = (wide if c.numel() == 1 else wide.expand(*p.batch, 1, 1)).reshape(-1).expand(batches).contiguous()
    return p, _times(p.x, wide), _times(p.y, wide), wide


def lorentz_values(x: Tensor, y: Tensor, c: Tensor | None, k: float) -> Tensor:
    """2 arsinh(sqrt(q)) of space parts; over sqrt(k) where the curvature is the number `k`, not the tensor `c`."""
    p, left, right, wide = _lorentz(x, y, c, k)
    return _forward("lorentz", p, left, right, wide.to(x.dtype), 2.0 / math.sqrt(k) if c is None else 2.0)


def lorentz_gradients(x: Tensor, y: Tensor, c: Tensor | None, k: float, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients in the space parts and in `c`."""
    p, left, right, wide = _lorentz(x, y, c, k)
    scale = 2.0 / math.sqrt(k) if c is None else 2.0
    gx, row, gy, column = _backward("lorentz", p, left, right, wide.to(x.dtype), scale, grad)
    gx = shaped(unslanted(gx, row[..., 0], p.x, left[0], wide), x, p.batch)
    gy = shaped(unslanted(gy, column[..., 0], p.y, right[0], wide), y, p.batch)
    if c is None:
        return gx, gy, x.new_zeros(())
    return gx, gy, shaped((row[..., 1].sum(-1) / wide).reshape(-1, 1, 1), c, p.batch)


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
    left: Tensor | None = None
    right: Tensor | None = None
    if kind == "ball":
        assert a is not None
        assert b is not None
        p, left, right = _ball(x, y, a, b)
        wide = x.new_ones(len(p.x))
    elif kind == "sphere":
        p = _pairs(x, y)
        wide = x.new_ones(len(p.x))
    else:
        p, left, right, wide = _lorentz(x, y, c, k)
        wide = wide.to(x.dtype)
    batches, n, m, d = p.sizes
    rows, itself = batches * n, np.int32(p.rows if skip else 0)
    if not rows or not count:
        return torch.empty(*p.batch, p.rows, count, dtype=torch.int64, device=x.device)
    edge = _edge("nearest", kind, x.dtype)
    chunks = _chunks(p, edge, count)
    keys = x.new_empty(chunks, rows, count)
    indices = torch.empty(chunks, rows, count, dtype=torch.int64, device=x.device)
    symbol, line = _entry("nearest", kind, x.dtype, _width(p))
    sizes = [np.int32(size) for size in (batches, n, m, d, count)]
    arguments = [p.x, p.y, left, right, wide, keys, indices, *sizes, itself, np.int32(chunks)]
    blocks = batches * _tiles(n, edge) * chunks
    module.launch("pairs", line, symbol, p.x, (blocks,), _THREADS, arguments, _shared("nearest", kind, x.dtype))
    if chunks > 1:
        # Chunks come in the order of their columns, so that a stable sort leaves ties in it.
        keys, indices = (t.transpose(0, 1).reshape(rows, chunks * count) for t in (keys, indices))
        order = keys.sort(dim=-1, stable=True).indices[:, :count]
        indices = indices.gather(-1, order)
    indices = indices.contiguous()
    last = [indices, np.int64(rows), np.int32(count), itself]
    module.launch("pairs", _COMPLETE[1], _COMPLETE[0], p.x, (_tiles(rows, _THREADS),), _THREADS, last)
    return indices.view(*p.batch, p.rows, count)

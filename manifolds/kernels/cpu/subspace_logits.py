"""Kernels for the lengths of the projections of vectors x (B, D) onto subspaces with bases s (C, D, k).

The products z = x^T s of a class are computed for panels of sixteen x, the panel in the lanes of vectors: the sum of
squares over k is then elementwise. They are computed again in the backward pass, a block of classes at a time.
"""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import LANES, fill, load, store
from holonomy.manifolds.kernels.cpu.matrices import apart, eight_rows, outline, pitch, put, put_eight, spread
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["backward", "forward"]

#: Vectors x in a panel: two registers.
_PANEL = 16
#: Features that are summed before the sum is added to memory: a panel's part stays in the first-level cache.
_DEPTH = 256
#: Numbers of the products z that a backward pass keeps at a time.
_BLOCK = 1 << 15
#: Features in a tile of the gradients: with 64 vectors, 16 KB.
_TILE = 64
#: Rows that a share of work has, for `jit.parallel`, which splits by 64 rows.
_SHARE = 64


@inline
def _four(panels, at, s, s0, k, few, depth, z, out):  # type: ignore[no-untyped-def]
    """Add to z, for up to four columns of s and a panel, the products over `depth` features."""
    i1, i2, i3 = min(1, few - 1), min(2, few - 1), min(3, few - 1)
    if few >= 4:
        i1, i2, i3 = 1, 2, 3
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = fill(z, 0.0)
    for _ in range(depth):
        low, high = load(panels, at), load(panels, at + 8)
        t0, t1, t2, t3 = spread(s, s0), spread(s, s0 + i1), spread(s, s0 + i2), spread(s, s0 + i3)
        a0, b0 = a0 + t0 * low, b0 + t0 * high
        a1, b1 = a1 + t1 * low, b1 + t1 * high
        a2, b2 = a2 + t2 * low, b2 + t2 * high
        a3, b3 = a3 + t3 * low, b3 + t3 * high
        at += 16
        s0 += k
    _add(z, out, a0, b0)
    if few > 1:
        _add(z, out + 16, a1, b1)
    if few > 2:
        _add(z, out + 32, a2, b2)
    if few > 3:
        _add(z, out + 48, a3, b3)


@inline
def _add(z, at, low, high):  # type: ignore[no-untyped-def]
    store(z, at, load(z, at) + low)
    store(z, at + 8, load(z, at + 8) + high)


@outline
def _products(panels, count, s, c, features, k, z, out):  # type: ignore[no-untyped-def]
    """z = x^T s_c as (panel, column, lane), for all panels."""
    apart()
    for i in range(out, out + count * k * _PANEL):
        z[i] = 0.0
    for d in range(0, features, _DEPTH):
        depth = min(_DEPTH, features - d)
        for b in range(count):
            at = (b * features + d) * _PANEL
            for j in range(0, k, 4):
                where = out + (b * k + j) * _PANEL
                _four(panels, at, s, (c * features + d) * k + j, k, k - j, depth, z, where)


@kernel
def _pack(x, panels, features, low, high):  # type: ignore[no-untyped-def]
    """Vectors x in panels: sixteen numbers of one feature are together; zeros past the last vector."""
    rows = x.size // features
    for d in range(low, high):
        for b in range((rows + _PANEL - 1) // _PANEL):
            for lane in range(_PANEL):
                row = b * _PANEL + lane
                panels[(b * features + d) * _PANEL + lane] = x[row * features + d] if row < rows else 0.0


@kernel
def _forward(panels, s, y, rows, features, k, squared, low, high):  # type: ignore[no-untyped-def]
    count = (rows + _PANEL - 1) // _PANEL
    classes = y.size // rows
    z = np.empty(count * k * _PANEL, y.dtype)
    total = np.empty(_PANEL)
    for c in range(low // _SHARE, high // _SHARE):
        _products(panels, count, s, c, features, k, z, 0)
        for b in range(count):
            total[:] = 0.0
            for j in range(k):
                for lane in range(_PANEL):
                    total[lane] += float(z[(b * k + j) * _PANEL + lane]) ** 2
            for lane in range(min(_PANEL, rows - b * _PANEL)):
                value = total[lane] if squared else np.sqrt(total[lane])
                y[(b * _PANEL + lane) * classes + c] = value


@kernel
def _slopes(panels, s, g, z, turned, rows, features, k, squared, first, low, high):  # type: ignore[no-untyped-def]
    """Gradients of the products of the classes from `first` on: (panel, column, lane) in z, (row, column) in turned."""
    count = (rows + _PANEL - 1) // _PANEL
    width, classes, size = pitch(k), g.size // rows, count * _PANEL
    scale = np.empty(_PANEL)
    for c in range(low // _SHARE, high // _SHARE):
        _products(panels, count, s, first + c, features, k, z, c * size * k)
        for b in range(count):
            at = (c * size + b * _PANEL) * k
            scale[:] = 0.0
            for j in range(k):
                for lane in range(_PANEL):
                    scale[lane] += float(z[at + j * _PANEL + lane]) ** 2
            for lane in range(_PANEL):
                row = b * _PANEL + lane
                slope = float(g[row * classes + first + c]) if row < rows else 0.0
                length = np.sqrt(scale[lane])
                # Orthogonal to the subspace, the length has no derivative: 0 is a subgradient.
                scale[lane] = 2.0 * slope if squared else (slope / length if length != 0.0 else 0.0)
            to = (c * size + b * _PANEL) * width
            for j in range(k):
                for lane in range(_PANEL):
                    value = z[at + j * _PANEL + lane] * scale[lane]
                    z[at + j * _PANEL + lane] = value
                    turned[to + lane * width + j] = value


@inline
def _add_to_bases(panels, turned, count, c, features, k, d, rows, ds, into):  # type: ignore[no-untyped-def]
    """Gradient of a basis in up to eight features from d on: the sum over x of x_d times the gradients of products."""
    width = pitch(k)
    zero = fill(ds, 0.0)
    for j in range(0, k, LANES):
        sums = (zero, zero, zero, zero, zero, zero, zero, zero)
        single = zero
        for b in range(count):
            at, of = (b * features + d) * _PANEL, (c * count + b) * _PANEL * width + j
            if rows == 8 and width == 8:  # the same with the width known to the compiler
                sums = eight_rows(panels, at, _PANEL, turned, of, _PANEL, 8, sums)
            elif rows == 8:
                sums = eight_rows(panels, at, _PANEL, turned, of, _PANEL, width, sums)
            else:
                for lane in range(_PANEL):
                    single = single + spread(panels, at + lane) * load(turned, of + lane * width)
        if rows == 8:
            put_eight(ds, into + j, k, sums, k - j)
        else:
            put(ds, into + j, single, k - j)


@inline
def _take(y, at):  # type: ignore[no-untyped-def]
    return (
        load(y, at),
        load(y, at + 16),
        load(y, at + 32),
        load(y, at + 48),
        load(y, at + 64),
        load(y, at + 80),
        load(y, at + 96),
        load(y, at + 112),
    )


@inline
def _add_to_vectors(s, s0, z, z0, k, rows, tile, at):  # type: ignore[no-untyped-def]
    """Gradient of a panel in up to eight features: the sum over columns of bases times gradients of products."""
    for half in range(0, _PANEL, LANES):
        if rows == 8 and k == 8:  # the same with the size known to the compiler
            sums = eight_rows(s, s0, 8, z, z0 + half, 8, _PANEL, _take(tile, at + half))
            put_eight(tile, at + half, _PANEL, sums, LANES)
        elif rows == 8:
            sums = eight_rows(s, s0, k, z, z0 + half, k, _PANEL, _take(tile, at + half))
            put_eight(tile, at + half, _PANEL, sums, LANES)
        else:
            single = load(tile, at + half)
            for j in range(k):
                single = single + spread(s, s0 + j) * load(z, z0 + half + j * _PANEL)
            store(tile, at + half, single)


@kernel
def _gradients(panels, s, z, turned, ds, dpanels, rows, features, k, first, classes, low, high):  # type: ignore[no-untyped-def]
    """Gradients in the features low, ..., high - 1, by tiles of features; those of x are added to `dpanels`."""
    count = (rows + _PANEL - 1) // _PANEL
    tile = np.empty(count * _TILE * _PANEL, s.dtype)
    for start in range(low, high, _TILE):
        deep = min(_TILE, high - start)
        tile[:] = 0.0
        for c in range(classes):
            at = ((first + c) * features + start) * k
            d = 0
            while d < deep:
                step = 8 if d + 8 <= deep else 1
                _add_to_bases(panels, turned, count, c, features, k, start + d, step, ds, at + d * k)
                for b in range(count):
                    of = (c * count + b) * _PANEL * k
                    _add_to_vectors(s, at + d * k, z, of, k, step, tile, (b * _TILE + d) * _PANEL)
                d += step
        # Block by block: long sums in the dtype of the data would lose digits.
        for b in range(count):
            for i in range(deep * _PANEL):
                dpanels[(b * features + start) * _PANEL + i] += tile[b * _TILE * _PANEL + i]


# -- the way in ----------------------------------------------------------------------------------------------------


def _panels(x: Tensor) -> Tensor:
    """Vectors x in panels, for `_products`."""
    panels = torch.empty(-(-x.shape[0] // _PANEL) * _PANEL * x.shape[1], dtype=x.dtype)
    parallel(_pack, x.shape[1], 4096, flat(x), flat(panels), x.shape[1])
    return panels


def forward(x: Tensor, s: Tensor, squared: bool) -> Tensor:
    """Logits (B, C) of x (B, D) and s (C, D, k)."""
    x, s = x.detach().contiguous(), s.detach().contiguous()
    (rows, features), (classes, _, k) = x.shape, s.shape
    y = x.new_empty(rows, classes)
    arrays = [flat(t) for t in (_panels(x), s, y)]
    parallel(_forward, _SHARE * classes, _SHARE, *arrays, rows, features, k, squared)
    return y


def backward(g: Tensor, x: Tensor, s: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and s."""
    g, x, s = (t.detach().contiguous() for t in (g, x, s))
    (rows, features), (classes, _, k) = x.shape, s.shape
    panels = _panels(x)
    padded = panels.numel() // features
    block = max(1, min(classes, _BLOCK // (padded * k)))
    z, turned = (torch.zeros(block * padded * size, dtype=x.dtype) for size in (k, -(-k // LANES) * LANES))
    ds, dpanels = torch.empty_like(s), torch.zeros_like(panels)
    arrays = [flat(t) for t in (panels, s, g, z, turned, ds, dpanels)]
    for first in range(0, classes, block):
        count = min(block, classes - first)
        parallel(_slopes, _SHARE * count, _SHARE, *arrays[:5], rows, features, k, squared, first)
        parallel(_gradients, features, _TILE, *arrays[:2], *arrays[3:], rows, features, k, first, count)
    dx = x.new_empty(rows, features)
    return dx.copy_(dpanels.view(-1, features, _PANEL).transpose(1, 2).reshape(-1, features)[:rows]), ds

"""The nearest of a set of points, on any manifold, without the matrix of all distances."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.curvature import root
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.gyrovector import gap
from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.lorentz import Lorentz
from holonomy.manifolds.pairwise import nearest_rows
from holonomy.manifolds.poincare_ball import PoincareBall
from holonomy.manifolds.sphere import Sphere

__all__ = ["nearest"]

#: Entries of a block of distances: 4 MB in float32.
_BLOCK = 2**20
#: Most neighbours that the kernel keeps by insertion; for more, blocks of distances are faster.
_MOST = 128


def nearest(manifold: Manifold, x: Tensor, y: Tensor, k: int, *, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """Find the k points of `y` that are nearest to each point of `x`, and their distances.

    Memory beyond the results stays at some megabytes whatever the number of points: distances are compared by blocks
    of rows, or for `PoincareBall`, `Lorentz` and `Sphere` by a fused kernel that keeps the k best of a row.
    The distances are ``manifold.dist`` of the pairs found, and differentiable; indices have no gradient.

    Parameters
    ----------
    manifold : Manifold
        Where the points lie.
    x, y : Tensor
        Points, shapes (..., n, point) and (..., m, point); batches broadcast. Half precision is compared in float32.
    k : int
        Number of neighbours, from 1 to m (to m - 1 with `exclude_self`).
    exclude_self : bool
        Do not count y_i as a neighbour of x_i: for the neighbours of points among themselves, ``x = y``.

    Returns
    -------
    distances : Tensor
        Shape (..., n, k), ascending.
    indices : Tensor
        int64, shape (..., n, k): the numbers of the neighbours in `y`. Of points at one distance the lowest comes
        first.

    Raises
    ------
    TypeError
        Where an argument is of another type than these, or a tensor has no real floating dtype.
    DimensionError
        (a ValueError) where a shape does not fit, also with `exclude_self` where n differs from m.
    ValueError
        Where `k` is out of range.
    """
    batch = _check(manifold, x, y, k, exclude_self)
    indices = _indices(manifold, x.detach(), y.detach(), k, exclude_self, batch).sort(dim=-1).values
    n, m, point = x.shape[-manifold.ndim - 1], y.shape[-manifold.ndim - 1], y.shape[y.ndim - manifold.ndim :]
    rows = x.unsqueeze(-manifold.ndim - 1)
    wide = y.expand(*batch, m, *point).reshape(-1, *point) if y.ndim > manifold.ndim + 1 else y
    places = indices
    if len(wide) > m:
        offsets = m * torch.arange(len(wide) // m, device=y.device)
        places = indices + offsets.reshape(*batch, 1, 1)
    places = places.reshape(-1)
    # On CUDA the gradient of `index_select` depends on the order of threads; that of indexing sorts, and does not.
    found = (wide[places] if wide.is_cuda else wide.index_select(0, places)).reshape(*batch, n, k, *point)
    # The order of the distances as they are rounded here; sorting by index first leaves ties in the order of indices.
    distances, order = manifold.dist(rows, found).sort(dim=-1, stable=True)
    return distances, indices.gather(-1, order)


def _check(manifold: Any, x: Any, y: Any, k: Any, exclude_self: Any) -> tuple[int, ...]:
    """Refuse what does not fit, and return the shape of the batch."""
    if not isinstance(manifold, Manifold):
        raise TypeError(f"nearest: argument 'manifold' must be a Manifold, got {type(manifold).__name__}")
    for name, tensor in (("x", x), ("y", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"nearest: argument {name!r} must be a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"nearest: argument {name!r} must have a real floating dtype, got {tensor.dtype}")
        if tensor.ndim <= manifold.ndim:
            raise DimensionError(
                f"nearest: argument {name!r} has shape {tuple(tensor.shape)}, "
                f"wanted at least {manifold.ndim + 1} dimensions: rows of points"
            )
    if x.shape[x.ndim - manifold.ndim :] != y.shape[y.ndim - manifold.ndim :]:
        raise DimensionError(
            f"nearest: argument 'y' has shape {tuple(y.shape)}, "
            f"wanted trailing dimensions {tuple(x.shape[x.ndim - manifold.ndim :])} as in 'x'"
        )
    n, m = x.shape[-manifold.ndim - 1], y.shape[-manifold.ndim - 1]
    if not isinstance(exclude_self, bool):
        raise TypeError(f"nearest: argument 'exclude_self' must be a bool, got {exclude_self!r}")
    if exclude_self and n != m:
        raise DimensionError(
            f"nearest: with 'exclude_self', 'x' and 'y' must have as many points each, got {n} and {m}"
        )
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"nearest: argument 'k' must be an int, got {type(k).__name__} {k!r}")
    if not 1 <= k <= m - exclude_self:
        raise ValueError(f"nearest: argument 'k' must be from 1 to {m - exclude_self}, got {k}")
    try:
        batch = torch.broadcast_shapes(x.shape[: -manifold.ndim - 1], y.shape[: -manifold.ndim - 1])
    except RuntimeError:
        raise DimensionError(
            f"nearest: argument 'y' does not broadcast: batch dimensions {tuple(y.shape[: -manifold.ndim - 1])} "
            f"against {tuple(x.shape[: -manifold.ndim - 1])}"
        ) from None
    return tuple(batch)


def _indices(manifold: Manifold, x: Tensor, y: Tensor, k: int, skip: bool, batch: tuple[int, ...]) -> Tensor:
    """Indices of the k nearest, in no promised order."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    with torch.no_grad():
        if k <= _MOST and dispatch.backend(x, y) is not None:
            found = _by_kernel(manifold, x, y, k, skip)
            if found is not None:
                return found.expand(*batch, *found.shape[-2:])
        return _by_blocks(manifold, x, y, k, skip, batch)


def _by_kernel(manifold: Manifold, x: Tensor, y: Tensor, k: int, skip: bool) -> Tensor | None:
    """Let the kernel of one of three types find the indices; None where there is none."""
    kind = type(manifold)
    if isinstance(manifold, Sphere) and kind._cdist is Sphere._cdist:
        return nearest_rows("sphere", x, y, None, None, None, 1.0, k, skip)
    if not isinstance(manifold, PoincareBall | Lorentz):
        return None
    c = manifold.c
    if isinstance(c, Tensor):
        if c.numel() != 1:
            return None
        c = c.to(x.dtype).reshape(1, 1)
    if isinstance(manifold, PoincareBall) and kind._cdist is PoincareBall._cdist:
        a, b = (root(c) / gap(t, c) for t in (x, y))
        return nearest_rows("ball", x, y, a, b, None, 1.0, k, skip)
    if isinstance(manifold, Lorentz) and kind._cdist is Lorentz._cdist:
        curved = isinstance(c, Tensor)
        x, y = x[..., 1:].contiguous(), y[..., 1:].contiguous()
        return nearest_rows("lorentz", x, y, None, None, c if curved else None, 1.0 if curved else c, k, skip)
    return None


def _by_blocks(manifold: Manifold, x: Tensor, y: Tensor, k: int, skip: bool, batch: tuple[int, ...]) -> Tensor:
    """Compare distances block by block of rows: the reference."""
    axis = -manifold.ndim - 1
    n, m = x.shape[axis], y.shape[axis]
    step = max(1, _BLOCK // max(1, m * math.prod(batch)))
    parts = [x.new_empty(*batch, 0, k, dtype=torch.int64)]
    for first in range(0, n, step):
        count = min(step, n - first)
        distances = manifold.cdist(x.narrow(axis, first, count), y).nan_to_num(nan=torch.inf, posinf=torch.inf)
        if skip:
            rows = torch.arange(count, device=x.device)
            distances[..., rows, first + rows] = torch.inf
        parts.append(_lowest(distances.expand(*batch, count, m), k))
    return torch.cat(parts, dim=-2)


def _lowest(distances: Tensor, k: int) -> Tensor:
    """Indices of the k lowest numbers of each row, of equal numbers the first ones, ascending by index."""
    last = distances.topk(k, dim=-1, largest=False).values.amax(-1, keepdim=True)
    below = distances < last
    level = distances == last
    room = k - below.sum(-1, keepdim=True)
    chosen = below | (level & (level.cumsum(-1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, -1].reshape(*distances.shape[:-1], k)

"""Batches of n x p matrices with orthonormal columns on CUDA, p up to 32: a block of threads for each matrix."""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name

__all__ = ["NAMES", "backward", "entries", "forward"]

NAMES = ("exp", "qr", "polar", "project", "project_half")
#: p x p matrices of a block's workspace, forward and backward; "exp" has room for 16 doublings of an angle.
_SLOTS = {"exp": (47, 58), "qr": (3, 4), "polar": (5, 7), "project": (1, 4), "project_half": (1, 4)}
_THREADS = 256
#: Most blocks, each with a workspace; matrices beyond them are taken in turn.
_BLOCKS = 512


def _entry(name: str, dtype: torch.dtype) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    symbol = f"orthonormal_{name}_{scalar}"
    return symbol, f"HOLONOMY_ORTHONORMAL({symbol}, orthonormal_{name}, {scalar})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    return dict(_entry(name + suffix, dtype) for name in NAMES for suffix in ("", "_back"))


def _run(name: str, suffix: str, like: Tensor, tensors: list[Tensor | None], kept: int) -> None:
    n, p = like.shape[-2:]
    if not like.numel():
        return
    count, slots = like.numel() // (n * p), _SLOTS[name][suffix != ""]
    blocks = min(count, _BLOCKS)
    work = torch.empty(blocks, slots, p, p, dtype=torch.float64, device=like.device)
    symbol, line = _entry(name + suffix, like.dtype)
    sizes = [np.int32(size) for size in (blocks, n, p, kept, slots)]
    arguments = [*tensors, work, np.int64(count), *sizes, np.float64(torch.finfo(like.dtype).eps)]
    shared = (_THREADS + 64) * 8 + 2 * p * p * like.dtype.itemsize
    module.launch("orthonormal", line, symbol, like, (blocks,), _THREADS, arguments, shared)


def forward(name: str, x: Tensor, u: Tensor, saved: int) -> tuple[Tensor, Tensor]:
    """Value of an operation on (..., n, p) tensors of one shape, and float64 (..., saved, p) for its backward pass."""
    x, u = x.detach().contiguous(), u.detach().contiguous()
    y = torch.empty_like(x)
    factor = x.new_empty(*x.shape[:-2], saved, x.shape[-1], dtype=torch.float64)
    _run(name, "", x, [None, x, u, y, factor, None, None], saved)
    return y, factor


def backward(
    name: str, g: Tensor, x: Tensor, u: Tensor, y: Tensor, factor: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of both arguments; one for both, and an empty tensor, where they are `shared`."""
    g, x, u, y, factor = (t.detach().contiguous() for t in (g, x, u, y, factor))
    dx = torch.empty_like(g)
    du = x.new_empty(*x.shape[:-2], 0, x.shape[-1]) if shared else torch.empty_like(dx)
    _run(name, "_back", x, [g, x, u, y, factor, dx, du], factor.shape[-2])
    return dx, du

"""Runs the row kernels: finds them by name, hands them their memory, and spreads the rows over threads."""

import importlib
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import parallel
from holonomy.manifolds.kernels.cpu.memory import flat
from holonomy.manifolds.kernels.cpu.rows import SHORT

__all__ = ["backward", "forward"]

#: Numbers in the vectors of the fewest rows that are worth a thread.
_GRAIN = 1 << 17


@cache
def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"holonomy.manifolds.kernels.cpu.{module}"), name)


def _size(size: int) -> Any:
    """Size of a vector; in a narrow type where it is short, which is how the kernels are told."""
    return np.int32(size) if size <= SHORT else size


def _ins(rows: list[Tensor]) -> list[Any]:
    """Numbers of each input, and the distance between its rows: 0 where all rows share one."""
    return [part for r in rows for part in (flat(r), 0 if r.numel() == r.shape[-1] else r.shape[-1])]


def _outs(results: list[Tensor]) -> list[Any]:
    return [flat(r) for r in results]


def _hard(flags: "np.ndarray[Any, Any]") -> Tensor | None:
    """Index of the rows that a kernel leaves to the reference, or None."""
    index = flags.nonzero()[0]
    return torch.from_numpy(index) if index.size else None


def forward(operation: Any, rows: list[Tensor], results: list[Tensor], c: Tensor | None, k: float) -> Tensor | None:
    """Evaluate an operation on rows, into `results`; return the index of the rows that are left to the reference.

    `rows` are contiguous tensors of vectors, in the shape of the batch or single vectors that all rows share.
    """
    size = rows[0].shape[-1]
    count = results[0].numel() // results[0].shape[-1]
    flags = np.zeros(count, np.uint8)
    curvature = k if c is None else c.item()
    arguments = (*_ins(rows), *_outs(results), flags, float(curvature), _size(size))
    parallel(_function(operation.module, operation.kernel), count, _GRAIN // size, *arguments)
    return _hard(flags)


def backward(
    operation: Any, grads: list[Tensor], rows: list[Tensor], results: list[Tensor], c: Tensor | None, k: float
) -> tuple[Tensor | None, Tensor | None]:
    """Evaluate the gradients; return the index of the rows that are left, and the curvature's from the others."""
    size = rows[0].shape[-1]
    count = results[0].numel() // results[0].shape[-1]
    flags = np.zeros(count, np.uint8)
    slopes = np.zeros(1 if c is None else count, np.float64)
    curvature = k if c is None else c.item()
    slope = [slopes, 0 if c is None else 1] if operation.curved else []
    arguments = (*_ins(rows), *_ins(grads), *_outs(results), *slope, flags, float(curvature), _size(size))
    parallel(_function(operation.module, operation.kernel + "_back"), count, _GRAIN // size, *arguments)
    hard = _hard(flags)
    if c is None:
        return hard, None
    if hard is not None:
        slopes[flags != 0] = 0.0
    return hard, torch.tensor(slopes.sum(), dtype=c.dtype)

"""The fast Walsh-Hadamard transform on CUDA: one pass over memory up to some thousand numbers, two up to millions."""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name

__all__ = ["entries", "transform"]

_THREADS = 256
#: Bytes that a block transforms, and numbers of short vectors that it takes together.
_BYTES, _TOGETHER = 2**15, 2**11
#: Fewest neighbouring columns of a pass with a stride: 64 bytes in float32.
_COLUMNS = 16


def _entry(dtype: torch.dtype) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    return f"hadamard_{scalar}", f"HOLONOMY_HADAMARD(hadamard_{scalar}, {scalar})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    return dict([_entry(dtype)])


def _passes(n: int, most: int) -> list[tuple[int, int, int]]:
    """Length, stride and numbers of a block, of every pass over vectors of n numbers."""
    if n <= most:
        return [(n, 1, max(n, min(most, _TOGETHER)))]
    found, stride = [(most, 1, most)], most
    while stride < n:
        length = min(n // stride, most // _COLUMNS)
        found.append((length, stride, most))
        stride *= length
    return found


def transform(x: Tensor, out: Tensor, scale: float) -> None:
    """Transform the rows of `x` into `out`, which may be `x`; both contiguous."""
    total = x.numel()
    if not total:
        return
    symbol, line = _entry(x.dtype)
    passes = _passes(x.shape[-1], _BYTES // x.dtype.itemsize)
    for i, (length, stride, numbers) in enumerate(passes):
        factor = scale if i == len(passes) - 1 else 1.0
        sizes = [np.int64(total), np.int32(length), np.int64(stride), np.int32(numbers), np.float64(factor)]
        arguments, shared = [x if i == 0 else out, out, *sizes], numbers * x.dtype.itemsize
        module.launch("hadamard", line, symbol, x, (-(-total // numbers),), _THREADS, arguments, shared)

"""Memory of tensors: as arrays for kernels, and fresh for large results."""

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["empty", "flat"]

#: Bytes from which on an allocator takes new pages from the system each time, instead of reusing old ones.
LARGE = 32 << 20
_MADV_HUGEPAGE = 14


@cache
def _madvise() -> Any:
    """Linux's madvise, or None elsewhere."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised contiguous CPU tensor; a large one in huge pages where the system has them.

    A new page costs the processor more than writing to it: for 64 MB in pages of 4 KB, three times a copy of as much.
    Asking for huge pages is a hint, without effect where it does not apply.
    """
    tensor = torch.empty(shape, dtype=dtype)
    size = tensor.numel() * tensor.element_size()
    advise = _madvise() if size >= LARGE else None
    if advise is not None:
        page = 4096
        start = -(-tensor.data_ptr() // page) * page
        advise(start, (tensor.data_ptr() + size - start) // page * page, _MADV_HUGEPAGE)
    return tensor


_TYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.int64: np.dtype(np.int64),
    torch.int32: np.dtype(np.int32),
    torch.bool: np.dtype(np.bool_),
}


class _Numbers:
    """Tells NumPy where numbers lie: `Tensor.numpy` would forbid, for good, that a storage is resized, as FSDP does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # lives as long as the array, which keeps this object
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": (tensor.numel(),),
            "typestr": _TYPES[tensor.dtype].str,
            "version": 3,
        }


def flat(tensor: Tensor) -> Any:
    """The numbers of a CPU tensor in one dimension, of a copy where it is not contiguous; the array keeps them."""
    if tensor.numel() == 0:
        return np.empty(0, _TYPES[tensor.dtype])
    return np.asarray(_Numbers(tensor if tensor.is_contiguous() else tensor.contiguous()))

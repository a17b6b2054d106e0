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


class _Numbers:
    """Tells NumPy where numbers lie: `Tensor.numpy` would forbid, for good, that a storage is resized, as FSDP does."""

    def __init__(self, tensor: Tensor) -> None:
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": (tensor.numel(),),
            "typestr": "<f8" if tensor.dtype == torch.float64 else "<f4",
            "version": 3,
        }


def flat(tensor: Tensor) -> Any:
    """The numbers of a contiguous float32 or float64 tensor, which the caller keeps."""
    if tensor.numel() == 0:
        return np.empty(0, np.float64 if tensor.dtype == torch.float64 else np.float32)
    return np.asarray(_Numbers(tensor))

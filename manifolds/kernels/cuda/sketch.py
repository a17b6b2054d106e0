"""Hashed tables and count-sketches on CUDA. Sums go by sorted index, without atomic additions: they are repeatable."""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name

__all__ = ["count_sketch", "entries", "hash_ids", "sum_rows"]

_THREADS = 256
_HASH = ("hash_ids", "HOLONOMY_HASH(hash_ids)")


def _entry(what: str, dtype: torch.dtype) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    return f"{what}_{scalar}", f"HOLONOMY_{what.upper()}({what}_{scalar}, {scalar})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    return dict([_HASH, _entry("sum_rows", dtype), _entry("count_sketch", dtype)])


def _blocks(total: int) -> tuple[int]:
    return (-(-total // _THREADS),)


def _sorted(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Order of an index, stable, and where each of its values begins; negative ones come before all."""
    found = index.sort(stable=True)
    bounds = torch.arange(size + 1, device=index.device, dtype=index.dtype)
    return found.indices, torch.searchsorted(found.values, bounds)


def hash_ids(ids: Tensor, columns: Tensor, keys: Tensor, buckets: int) -> Tensor:
    """Hash ids (n, features): the bucket of ids[i, columns[j]] under keys[j] is [i, j] of the result."""
    ids, columns, keys = (t.contiguous() for t in (ids, columns, keys))
    out = ids.new_empty(len(ids), len(keys))
    # Asserted on the device, without waiting for it.
    torch._assert_async(((columns >= 0) & (columns < ids.shape[1])).all())
    if out.numel():
        sizes = [np.int64(out.numel()), np.int32(ids.shape[1]), np.int32(len(keys)), np.int64(buckets)]
        arguments = [ids, columns, keys, out, *sizes]
        module.launch("sketch", _HASH[1], _HASH[0], ids, _blocks(out.numel()), _THREADS, arguments)
    return out


def sum_rows(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Sum the rows of `values` whose index is the same, in their order; negative indices are left out."""
    values, d = values.detach().contiguous(), values.shape[1]
    out = values.new_empty(size, d)
    if out.numel():
        symbol, line = _entry("sum_rows", values.dtype)
        arguments = [values, *_sorted(rows, size), out, np.int64(size), np.int32(d)]
        module.launch("sketch", line, symbol, values, _blocks(out.numel()), _THREADS, arguments)
    return out


def count_sketch(x: Tensor, index: Tensor, sign: Tensor, size: int) -> Tensor:
    """Sum numbers with signs into buckets, each bucket in the order of the numbers."""
    n, x = x.shape[-1], x.detach().contiguous()
    out = x.new_empty(*x.shape[:-1], size)
    if out.numel():
        symbol, line = _entry("count_sketch", x.dtype)
        sizes = [np.int64(out.numel() // size), np.int64(n), np.int64(size)]
        arguments = [x, sign.detach().to(x.dtype).contiguous(), *_sorted(index, size), out, *sizes]
        module.launch("sketch", line, symbol, x, _blocks(out.numel()), _THREADS, arguments)
    return out

"""Gram matrices too large to hold: written to disk by blocks, or applied to vectors block by block and never stored."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["gram_blocks", "gram_operator", "write_gram"]

Kernel = Callable[[Tensor, Tensor], Tensor]


def gram_blocks(kernel: Kernel, X: Tensor, block: int = 1024) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of the Gram matrix on and above its diagonal: rows, columns, and the block.

    Parameters
    ----------
    kernel : callable
        ``kernel(X, Y) -> (n, m)``, symmetric.
    X : Tensor, shape (n, ...)
        Inputs.
    block : int, default 1024
        Rows and columns of a block; memory is what `kernel` needs for one.

    Raises
    ------
    ValueError
        For a block below 1.
    """
    if block < 1:
        raise ValueError(f"gram_blocks: 'block' must be at least 1, got {block}")
    parts = [slice(low, min(low + block, len(X))) for low in range(0, len(X), block)]
    for i, rows in enumerate(parts):
        own = X[rows]
        for columns in parts[i:]:
            # The same object on the diagonal: a kernel may know there that inputs are equal.
            other = own if columns == rows else X[columns]
            with torch.no_grad():
                values = kernel(own, other)
            yield rows, columns, values


def write_gram(
    kernel: Kernel,
    X: Tensor,
    path: str | os.PathLike[str],
    *,
    block: int = 1024,
    dtype: str = "float64",
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Write a Gram matrix to a .npy file and return it mapped, read-only.

    Half of the blocks are computed, each written twice. Memory is that of one block, whatever n: 30,000 inputs make a
    file of 7.2 GB in float64, and need some 100 MB beside it (pages of the file that the system keeps count as its
    cache). The file appears under its name when it is complete.

    Parameters
    ----------
    kernel, X, block
        As for `gram_blocks`.
    path : path-like
        File to write.
    dtype : {"float64", "float32"}
        Of the file.
    progress : callable, optional
        Called with the part that is done, from 0 to 1.

    Raises
    ------
    ValueError
        For another dtype, or a block below 1.
    """
    if dtype not in ("float64", "float32"):
        raise ValueError(f"write_gram: 'dtype' must be 'float64' or 'float32', got {dtype!r}")
    path, n = Path(path), len(X)
    blocks = gram_blocks(kernel, X, block)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        matrix = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=(n, n))
        done = 0
        for rows, columns, values in blocks:
            numbers = values.cpu().numpy()
            matrix[rows, columns] = numbers
            if rows != columns:
                matrix[columns, rows] = numbers.T
            done += numbers.size * (1 if rows == columns else 2)
            if progress is not None:
                progress(done / n**2)
        matrix.flush()
        del matrix
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def gram_operator(kernel: Kernel, X: Tensor, *, ridge: float = 0.0, block: int = 1024) -> "LinearOperator":
    """Gram matrix plus a ridge as an operator that computes its blocks anew in each product, for iterative solvers.

    ``scipy.sparse.linalg.cg(gram_operator(kernel, X, ridge=1e-3), y)`` solves kernel regression in the memory of one
    block; every block above the diagonal serves twice.

    Parameters
    ----------
    kernel, X, block
        As for `gram_blocks`.
    ridge : float, default 0
        Added to the diagonal.

    Raises
    ------
    ValueError
        For a negative ridge, or a block below 1.
    """
    from scipy.sparse.linalg import LinearOperator

    if not ridge >= 0:
        raise ValueError(f"gram_operator: 'ridge' must be at least 0, got {ridge}")
    if block < 1:
        raise ValueError(f"gram_operator: 'block' must be at least 1, got {block}")

    def product(v: np.ndarray) -> np.ndarray:
        given = torch.as_tensor(v, dtype=X.dtype, device=X.device).reshape(len(X), -1)
        found = ridge * given
        for rows, columns, values in gram_blocks(kernel, X, block):
            found[rows] += values @ given[columns]
            if rows != columns:
                found[columns] += values.mT @ given[rows]
        return found.cpu().numpy().reshape(v.shape)

    dtype = np.dtype(str(X.dtype).removeprefix("torch."))
    return LinearOperator((len(X), len(X)), matvec=product, rmatvec=product, matmat=product, dtype=dtype)

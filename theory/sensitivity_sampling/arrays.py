"""What every function here takes and gives: a tall matrix, numpy or torch, checked once, float64 inside."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: A tall matrix or a vector: what comes in comes out, numpy or torch.
Array = Any
Wrap = Callable[[Tensor], Array]

#: Rows that are worked on at a time: a block of 20 columns is 1.3 MB, which stays in the cache.
BLOCK = 8192


def as_real(array: Array, name: str) -> tuple[Tensor, Wrap]:
    """Check an array of real numbers, and say how to give results back.

    Parameters
    ----------
    array : numpy.ndarray or Tensor
        Of any real dtype.
    name : str
        The argument's name, for messages.

    Returns
    -------
    values : Tensor
        The same numbers in float64, without a copy where they are float64 already.
    wrap : callable
        Turns a tensor into an array of the kind of ``array``, on its device.

    Raises
    ------
    TypeError
        If it is no array, or not of real numbers.
    ValueError
        If a number is NaN or infinite.
    """
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
        # torch does not take negative strides, nor memory that may not be written.
        values = torch.from_numpy(np.require(array, np.float64, ["C", "W"]))
        wrap: Wrap = _to_numpy
    elif isinstance(array, Tensor):
        if array.is_complex():
            raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
        values = array.detach().to(torch.float64)
        wrap = _as_is
    else:
        raise TypeError(f"{name} must be a numpy array or a torch tensor, got {type(array).__name__}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity in {int((~values.isfinite()).sum())} entries")
    return values, wrap


def as_matrix(array: Array, name: str = "A") -> tuple[Tensor, Wrap]:
    """Check a matrix with at least as many rows as columns, as `as_real` does its numbers.

    Raises
    ------
    TypeError, ValueError
        As `as_real`; and ValueError if the array is not 2-D or has fewer rows than columns.
    """
    values, wrap = as_real(array, name)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} must be 2-D with at least one column, got shape {tuple(values.shape)}")
    if values.shape[0] < values.shape[1]:
        raise ValueError(f"{name} must have at least as many rows as columns, got shape {tuple(values.shape)}")
    return values, wrap


def check_p(p: float) -> float:
    """Return the exponent of a norm.

    Raises
    ------
    ValueError
        If it is below 1 or not finite.
    """
    if not (math.isfinite(p) and p >= 1):
        raise ValueError(f"p must be a finite number of at least 1, got {p}")
    return float(p)


def orthonormal_basis(A: Tensor, name: str = "A") -> Tensor:
    """Orthonormal basis of the column space, each row accurate relative to itself.

    The rows are those of A R^-1 (twice), not of Householder's Q, whose error is relative to the largest row: rows of
    very different lengths are what this package is for, and zero rows stay zero.

    Parameters
    ----------
    A : Tensor
        (n, d).
    name : str
        The argument's name, for messages.

    Returns
    -------
    Tensor
        (n, d).

    Raises
    ------
    ValueError
        If the rank is below d; the message names it. Columns are scaled to one length first: units are no rank.
    """
    R = torch.linalg.qr(A, mode="r").R
    lengths = R.norm(dim=0)
    singular = torch.linalg.svdvals(R / torch.where(lengths > 0, lengths, 1.0))
    # numpy.linalg.matrix_rank's threshold
    rank = int((singular > singular[0] * max(A.shape) * torch.finfo(A.dtype).eps).sum()) if singular[0] > 0 else 0
    if rank < A.shape[1]:
        raise ValueError(f"{name} must have full column rank, got rank {rank} with {A.shape[1]} columns")
    Q = torch.linalg.solve_triangular(R, A, upper=True, left=False)
    R = torch.linalg.qr(Q, mode="r").R
    return torch.linalg.solve_triangular(R, Q, upper=True, left=False)


def power(x: Tensor, exponent: float) -> Tensor:
    """``x ** exponent`` for x > 0, by multiplications and roots where they will do: several times as fast."""
    if exponent == -1.0:
        return x.reciprocal()
    if exponent == -0.5:
        return x.rsqrt()
    if exponent == 1.5:
        return x * x.sqrt()
    if exponent == 1.0:
        return x
    if exponent in (2.0, 3.0, 4.0):
        return x * x if exponent == 2.0 else x * x * x if exponent == 3.0 else (x * x).square()
    return x.pow(exponent)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.numpy()


def _as_is(tensor: Tensor) -> Tensor:
    return tensor

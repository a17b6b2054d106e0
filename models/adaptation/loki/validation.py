"""What arguments must be, said before any work: distances, observed labels, probabilities, temperature and power."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_distances", "check_observed", "check_positive", "check_probs", "label_indices"]

#: Largest |D - D^T| and |diagonal|, in units of the largest distance: shortest paths summed in two orders.
_ASYMMETRY = 1e-6
#: Largest deviation of a sum of probabilities from 1: float32 probabilities of many classes may be stored as float64.
_MASS = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_MASS_OTHERWISE = 1e-4


def check_positive(where: str, name: str, value: Any) -> float:
    """Refuse a temperature, a power or another number that is not positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0.0 < value < math.inf:
        raise ValueError(f"{where}: {name!r} must be a positive, finite number, got {value!r}")
    return float(value)


def check_distances(where: str, D: Any, square: bool = True) -> None:
    """Refuse distances that no metric has.

    Parameters
    ----------
    where : str
        The caller, for messages.
    D : ndarray or Tensor
        (N, N) where `square`, else (K, N).
    square : bool, default True
        Whether rows and columns are the same labels.

    Raises
    ------
    TypeError
        Where entries are not real numbers.
    ValueError
        Where D has another shape, NaN, infinite or negative entries, or a square D is asymmetric or has a diagonal.
        An infinite distance of a square D is reported with the labels that cannot be reached.
    """
    array = D.detach().cpu().numpy() if isinstance(D, Tensor) and D.dtype != torch.bfloat16 else D
    array = np.asarray(array.float().cpu() if isinstance(array, Tensor) else array)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{where}: 'distances' must be real numbers, got {array.dtype}")
    if array.ndim != 2 or 0 in array.shape or (square and array.shape[0] != array.shape[1]):
        wanted = "(N, N)" if square else "(K, N)"
        raise ValueError(f"{where}: 'distances' has shape {array.shape}, wanted {wanted}, at least one row and column")
    # By blocks of rows: what is held beside D stays small.
    step = max(1, 2**20 // array.shape[1])
    largest = 0.0
    for low in range(0, len(array), step):
        rows = array[low : low + step]
        if np.isnan(rows).any():
            i, j = np.argwhere(np.isnan(rows))[0]
            raise ValueError(f"{where}: 'distances' must not be NaN, got NaN between {low + i} and {j}")
        if np.isinf(rows).any():
            raise ValueError(f"{where}: 'distances' must be finite, got infinity: {_unreachable(array, square)}")
        if (rows < 0).any():
            i, j = np.argwhere(rows < 0)[0]
            raise ValueError(f"{where}: 'distances' must not be negative, got {rows[i, j]:g} at [{low + i}, {j}]")
        largest = max(largest, float(rows.max()))
    if square:
        _check_symmetric(where, array, step, largest)


def _check_symmetric(where: str, array: np.ndarray, step: int, largest: float) -> None:
    diagonal = np.abs(np.diagonal(array).astype(np.float64))
    if diagonal.max() > _ASYMMETRY * largest:
        i = int(diagonal.argmax())
        raise ValueError(f"{where}: 'distances' must have a diagonal of 0, got {diagonal[i]:g} at [{i}, {i}]")
    for low in range(0, len(array), step):
        gap = np.abs(array[low : low + step].astype(np.float64) - array[:, low : low + step].T)
        if gap.max() > _ASYMMETRY * largest:
            i, j = np.unravel_index(gap.argmax(), gap.shape)
            raise ValueError(
                f"{where}: 'distances' must be symmetric, got {array[low + i, j]:g} at [{low + i}, {j}] and "
                f"{array[j, low + i]:g} at [{j}, {low + i}]"
            )


def _unreachable(array: np.ndarray, square: bool) -> str:
    """Which labels cannot be reached, of those that a first one cannot reach."""
    if not square:
        i, j = np.argwhere(np.isinf(array))[0]
        return f"label {j} cannot be reached from the label of row {i}"
    first = int(np.isinf(array).any(1).argmax())
    reached = np.isfinite(array[first])
    smaller = reached if 2 * reached.sum() <= len(array) else ~reached
    members = np.flatnonzero(smaller)
    named = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
    return f"labels {{{named}}} ({len(members)} of {len(array)}) cannot be reached from the others"


def label_indices(where: str, name: str, y: Any, n: int) -> np.ndarray:
    """Read label indices (m,), integers in 0, ..., n - 1, as int64."""
    array = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if array.size == 0:
        array = array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{where}: {name!r} must be integers, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{where}: {name!r} has shape {array.shape}, wanted (m,)")
    if len(array) and not (array.min() >= 0 and array.max() < n):
        bad = array[(array < 0) | (array >= n)][0]
        raise ValueError(f"{where}: {name!r} must be label indices in 0..{n - 1}, got {bad}")
    return array.astype(np.int64)


def check_observed(where: str, observed: Any, n: int) -> np.ndarray:
    """Read the indices of observed labels: at least one, all different, in 0, ..., n - 1."""
    array = label_indices(where, "observed", observed, n)
    if len(array) == 0:
        raise ValueError(f"{where}: 'observed' must have at least one label, got none")
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{where}: 'observed' must not repeat a label, got {values[counts > 1][0]} more than once")
    return array


def check_probs(where: str, probs: Tensor, k: int | None = None) -> None:
    """Refuse probabilities that are not (B, K), not floating, negative, not finite, or whose rows do not sum to 1."""
    if not probs.is_floating_point():
        raise TypeError(f"{where}: 'probs' must be floating, got {probs.dtype}")
    if probs.ndim != 2 or probs.shape[1] == 0 or (k is not None and probs.shape[1] != k):
        wanted = f"(B, {'K' if k is None else k})"
        raise ValueError(
            f"{where}: 'probs' has shape {tuple(probs.shape)}, wanted {wanted}, a column an observed label"
        )
    if torch.compiler.is_compiling() or len(probs) == 0:
        return
    detached = probs.detach()
    if not bool(torch.isfinite(detached).all()):
        raise ValueError(f"{where}: 'probs' must be finite, got NaN or infinity")
    if float(detached.min()) < 0.0:
        raise ValueError(f"{where}: 'probs' must not be negative, got {float(detached.min()):g}")
    sums = detached.double().sum(1)
    off = (sums - 1.0).abs()
    if float(off.max()) > _MASS.get(probs.dtype, _MASS_OTHERWISE):
        row = int(off.argmax())
        raise ValueError(
            f"{where}: 'probs' must sum to 1 in every row, got {float(sums[row]):g} in row {row}; "
            "logits need a softmax first"
        )

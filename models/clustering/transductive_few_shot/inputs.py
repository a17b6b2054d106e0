"""What arguments must be, said before any work: points, labels, weights."""

import math
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["check_k", "check_lam", "check_sigma", "points", "same_width", "whole_labels"]


def points(where: str, name: str, x: Any, stacked: bool = False) -> np.ndarray:
    """Finite features (n, d), or with `stacked` also (tasks, n, d); what is neither float32 nor float64 becomes it."""
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{where}: {name!r} must be real numbers, got {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim not in ((2, 3) if stacked else (2,)) or 0 in array.shape:
        wanted = "(n, d) or (tasks, n, d)" if stacked else "(n, d)"
        raise ValueError(f"{where}: {name!r} has shape {array.shape}, wanted {wanted} with no dimension of 0")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: {name!r} must be finite, got NaN or infinity")
    return array


def same_width(where: str, first: str, x: np.ndarray, second: str, y: np.ndarray) -> None:
    """Refuse features of two widths, or of two numbers of tasks."""
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{where}: {first!r} and {second!r} must agree in all but the number of points, got {x.shape} and {y.shape}"
        )


def whole_labels(where: str, name: str, y: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Integer labels of a shape."""
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{where}: {name!r} must be integers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{where}: {name!r} has shape {array.shape}, wanted {shape}, one label a point")
    return array.astype(np.int64)


def check_lam(where: str, lam: float) -> None:
    """Refuse a weight of the Laplacian term that is negative or not finite."""
    if not 0.0 <= lam < math.inf:
        raise ValueError(f"{where}: 'lam' must be finite and at least 0, got {lam}")


def check_k(where: str, name: str, k: int, n: int) -> None:
    """Refuse a number of nearest neighbours, the point itself included, outside 2 to n - 1."""
    if not 2 <= k < n:
        raise ValueError(
            f"{where}: {name!r} counts the point itself and must be from 2 to {n - 1} for {n} points, got {k}"
        )


def check_sigma(where: str, sigma: float) -> None:
    """Refuse a width of a Gaussian that is not positive and finite."""
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"{where}: 'sigma' must be finite and positive, got {sigma}")

"""Prototypes of clusters: means, modes by mean-shift, or the point that a cluster has most of; for many tasks at once.

The cost F(x, m) is |x - m|^2 for means, and -exp(-|x - m|^2/(2 sigma^2)) for modes and medoids. With assignments as
weights, means are the minimum of sum_p z_pk F(x_p, m_k), and mean-shift never raises it.
"""

from typing import Literal

import numpy as np

__all__ = ["Prototype", "costs", "mean_prototypes", "medoid_prototypes", "mode_prototypes", "squared_distances"]

Prototype = Literal["mean", "mode", "medoid"]


def squared_distances(X: np.ndarray, M: np.ndarray) -> np.ndarray:
    """|x_p - m_k|^2 of points (tasks, n, d) and prototypes (tasks, K, d), as (tasks, n, K)."""
    # Distances from a common centre lose least to cancellation in |x|^2 - 2 x.m + |m|^2.
    centre = X.mean(1, keepdims=True)
    x, m = X - centre, M - centre
    squares = np.square(x).sum(2)[:, :, None] + np.square(m).sum(2)[:, None, :]
    squares -= 2.0 * (x @ m.transpose(0, 2, 1))
    return np.maximum(squares, 0.0, out=squares)


def costs(X: np.ndarray, M: np.ndarray, prototype: Prototype, sigma: np.ndarray) -> np.ndarray:
    """F(x_p, m_k) of every task, (tasks, n, K); `sigma` (tasks,) counts for modes and medoids."""
    squares = squared_distances(X, M)
    return squares if prototype == "mean" else -_gauss(squares, sigma)


def mean_prototypes(X: np.ndarray, Z: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Means of points (tasks, n, d) by assignments (tasks, n, K); `before` (tasks, K, d) where a cluster is empty."""
    return _weighted_means(X, Z, before)


def mode_prototypes(
    X: np.ndarray, Z: np.ndarray, before: np.ndarray, sigma: np.ndarray, max_iter: int = 1000, tol: float = 1e-5
) -> np.ndarray:
    """Modes of each cluster's points, by mean-shift m <- sum w x / sum w, w = z exp(-|x - m|^2/(2 sigma^2)).

    Parameters
    ----------
    X : ndarray
        Points (tasks, n, d).
    Z : ndarray
        Assignments (tasks, n, K); one-hot ones take the points of a cluster alike.
    before : ndarray
        Prototypes (tasks, K, d) to start from, which stay where a cluster is empty.
    sigma : ndarray
        Widths (tasks,).
    max_iter : int, default 1000
        Most shifts.
    tol : float, default 1e-5
        Stop where no prototype moves by more than `tol` of its length; each stops by itself.

    Returns
    -------
    ndarray
        (tasks, K, d).
    """
    M, moving = before.copy(), np.ones(before.shape[:2], dtype=bool)
    # Tasks whose prototypes have all stopped are left out of the work.
    for _ in range(max_iter):
        index = np.flatnonzero(moving.any(1))
        if not len(index):
            break
        x, m = X[index], M[index]
        shifted = _weighted_means(x, Z[index] * _gauss(squared_distances(x, m), sigma[index]), m)
        step = np.linalg.norm(shifted - m, axis=2)
        M[index] = np.where(moving[index, :, None], shifted, m)
        moving[index] &= step > tol * np.linalg.norm(m, axis=2)
    return M


def medoid_prototypes(X: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """For each cluster the point with the largest assignment to it, (tasks, K, d)."""
    return np.take_along_axis(X, Z.argmax(1)[:, :, None], axis=1)


def _gauss(squares: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    width = (2.0 * np.square(sigma))[:, None, None].astype(squares.dtype)
    return np.exp(-squares / width)


def _weighted_means(X: np.ndarray, weights: np.ndarray, before: np.ndarray) -> np.ndarray:
    total = weights.sum(1)[:, :, None]
    # Below the least normal number the quotient would be noise, or 0/0.
    empty = total <= np.finfo(weights.dtype).tiny
    return np.where(empty, before, weights.transpose(0, 2, 1) @ X / np.where(empty, 1.0, total)).astype(X.dtype)

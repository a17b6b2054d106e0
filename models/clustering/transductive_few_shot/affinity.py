"""Affinities of points with their nearest neighbours, made positive semi-definite, and the width of Gaussians on them.

With w_pq >= 0 and d_p = sum_q w_pq the matrices W + max_p d_p I and W + diag(d) are diagonally dominant, so that
-(lambda/2) tr(Z^T W Z) with either for W is concave in the assignments Z. At vertices of the simplex a diagonal adds a
constant, but a large one holds points where they are, for the update of z_p then has a multiple of z_p itself in it.
"""

from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags, issparse
from torch import Tensor

from holonomy.models.clustering.transductive_few_shot.inputs import check_k, check_sigma, points

__all__ = ["Shift", "check_affinity", "kernel_width", "knn_affinity", "shift_to_psd", "stacked_affinity"]

Weights = Literal["binary", "gaussian"]
#: What is added to the diagonal: the largest row sum (True), every row's own ("degrees"), or nothing.
Shift = bool | Literal["degrees"]


def knn_affinity(
    X: Any,
    k: int = 3,
    weights: Weights = "binary",
    sigma: float | None = None,
    symmetric: bool = True,
    psd_shift: Shift = True,
) -> csr_matrix:
    """Affinity W of points with their k - 1 nearest others: 1, or exp(-|x_p - x_q|^2/(2 sigma^2)).

    Parameters
    ----------
    X : array-like or Tensor
        Points (n, d).
    k : int, default 3
        Nearest neighbours, the point itself counted; w_pp is 0 before the shift.
    weights : {"binary", "gaussian"}, default "binary"
        What a neighbour weighs.
    sigma : float, optional
        Width of the Gaussian; left out, sigma^2 is the mean of |x_p - x_q|^2 over the neighbours.
    symmetric : bool, default True
        Take (W + W^T)/2.
    psd_shift : bool or "degrees", default True
        Add the largest row sum to the diagonal, which makes a symmetric W positive semi-definite. "degrees" adds each
        row's own sum, which does so too and holds points less; False adds nothing, for comparison.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n), the dtype of `X`.

    Raises
    ------
    ValueError
        Where `X` is not finite or not (n, d), k is below 2 or not below n, `sigma` is not positive, `weights` is
        unknown, or `psd_shift` is asked of a W that is not made symmetric.

    Notes
    -----
    Ziko et al. (arXiv:2106.09516), sections 3 and 4.
    """
    X = points("knn_affinity", "X", X)
    check_k("knn_affinity", "k", k, len(X))
    if weights not in ("binary", "gaussian"):
        raise ValueError(f"knn_affinity: 'weights' must be 'binary' or 'gaussian', got {weights!r}")
    if sigma is not None:
        check_sigma("knn_affinity", sigma)
    if psd_shift and not symmetric:
        raise ValueError(
            "knn_affinity: 'psd_shift' makes only a symmetric W positive semi-definite, got symmetric=False"
        )
    distances, places = _neighbours(X, k)
    values = np.ones_like(distances)
    if weights == "gaussian":
        squares = np.square(distances)
        # Where all neighbours coincide there is no width to take, and every weight is 1.
        width2 = squares.mean() if sigma is None else sigma**2
        values = np.exp(-squares / (2.0 * width2)) if width2 > 0 else values
    return shift_to_psd(_graph(places, values.astype(X.dtype), symmetric), psd_shift)


def _neighbours(X: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, k - 1) of points to their nearest others, and which those are."""
    from sklearn.neighbors import NearestNeighbors

    distances, places = NearestNeighbors(n_neighbors=k - 1).fit(X).kneighbors()
    return distances, places


def _graph(places: np.ndarray, values: np.ndarray, symmetric: bool) -> csr_matrix:
    n, count = places.shape
    W = csr_matrix((values.ravel(), places.ravel(), np.arange(0, n * count + 1, count)), shape=(n, n))
    return (0.5 * (W + W.T)).tocsr() if symmetric else W


def shift_to_psd(W: csr_matrix, psd_shift: Shift) -> csr_matrix:
    """Add to the diagonal of a W that has none; see `knn_affinity`."""
    if psd_shift not in (True, False, "degrees"):
        raise ValueError(f"'psd_shift' must be True, False or 'degrees', got {psd_shift!r}")
    if psd_shift is False:
        return W.tocsr()
    degrees = np.asarray(W.sum(axis=1)).ravel()
    added = degrees if psd_shift == "degrees" else np.full_like(degrees, degrees.max())
    return (W + diags(added, format="csr")).tocsr()


def stacked_affinity(X: np.ndarray, k: int, psd_shift: Shift = True) -> csr_matrix:
    """Binary affinity of the points of every task (tasks, n, d) among themselves: block-diagonal (tasks n, tasks n)."""
    tasks, n = X.shape[:2]
    places = np.concatenate([_neighbours(task, k)[1] + i * n for i, task in enumerate(X)])
    W = _graph(places, np.ones(places.shape, X.dtype), True)
    if psd_shift is not True:
        return shift_to_psd(W, psd_shift)
    # The largest row sum is each task's own.
    largest = np.asarray(W.sum(axis=1)).reshape(tasks, n).max(1)
    return (W + diags(largest.repeat(n), format="csr")).tocsr()


def kernel_width(X: np.ndarray, W: csr_matrix) -> np.ndarray:
    """Width sigma of the modes of every task, sigma^2 = sum_pq w_pq |x_p - x_q|^2 / (5 n).

    Parameters
    ----------
    X : ndarray
        Points (tasks, n, d).
    W : scipy.sparse.csr_matrix
        Affinity (tasks n, tasks n), block-diagonal; its diagonal counts nothing.

    Returns
    -------
    ndarray
        (tasks,), float64.

    Raises
    ------
    ValueError
        Where all neighbours of a task coincide.
    """
    tasks, n, d = X.shape
    flat, pairs = X.reshape(-1, d), W.tocoo()
    total = np.zeros(tasks)
    for low in range(0, pairs.nnz, 65536):  # the differences of all pairs at once are nnz d numbers
        rows, columns = pairs.row[low : low + 65536], pairs.col[low : low + 65536]
        gaps = pairs.data[low : low + 65536] * np.square(flat[rows] - flat[columns]).sum(1)
        total += np.bincount(rows // n, weights=gaps, minlength=tasks)
    if not (total > 0).all():
        raise ValueError("kernel_width: all nearest neighbours coincide, and there is no width; give 'sigma'")
    return np.sqrt(total / (5.0 * n))


def check_affinity(where: str, W: Any, n: int) -> csr_matrix:
    """Return an affinity as a sparse matrix, or refuse one that is not (n, n), finite and without negative entries."""
    if isinstance(W, Tensor):
        W = W.detach().cpu()
        if W.layout != torch.strided:
            pairs = W.to_sparse_coo().coalesce()
            W = coo_matrix((pairs.values().numpy(), pairs.indices().numpy()), shape=tuple(pairs.shape))
    if not issparse(W):
        W = np.asarray(W)
    if W.ndim != 2 or W.shape != (n, n):
        raise ValueError(f"{where}: 'W' has shape {W.shape}, wanted ({n}, {n})")
    found = csr_matrix(W)
    if not np.isfinite(found.data).all() or (found.data < 0).any():
        raise ValueError(f"{where}: 'W' must be finite and not negative")
    return found

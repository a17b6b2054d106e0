"""Subspace clustering by self-expression, the baselines of frozen features, and spectral clustering on an affinity.

Every point is written as a combination of few others: by the largest cosines alone (Heckel and Bölcskei, *Robust
Subspace Clustering via Thresholding*, IEEE Trans. Inf. Theory 2015), by orthogonal matching pursuit (You, Robinson,
Vidal, *Scalable Sparse Subspace Clustering by Orthogonal Matching Pursuit*, CVPR 2016) or with an elastic net (You, Li,
Robinson, Vidal, *Oracle Based Active Set Algorithm for Scalable Elastic Net Subspace Clustering*, CVPR 2016). Points of
one subspace choose each other, and spectral clustering on |coefficients| finds the groups.
"""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse, spmatrix
from torch import Tensor

__all__ = ["elastic_net_affinity", "spectral_clustering", "ssc_omp_affinity", "tsc_affinity"]


def spectral_clustering(affinity: Any, n_clusters: int, random_state: int = 0) -> np.ndarray:
    """Spectral clustering, by scikit-learn, on the symmetric part of an affinity.

    Parameters
    ----------
    affinity : Tensor, ndarray or sparse matrix
        (n, n), not negative.
    n_clusters : int
        Number of clusters, 1 to n.
    random_state : int, default 0
        Seed.

    Returns
    -------
    ndarray
        Labels (n,), int64.

    Raises
    ------
    ValueError
        Where the affinity is not square, negative or not finite, or `n_clusters` is out of its range.
    """
    if isinstance(affinity, Tensor):
        affinity = affinity.detach().cpu().numpy()
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1]:
        raise ValueError(f"spectral_clustering: 'affinity' has shape {affinity.shape}, wanted (n, n)")
    n = affinity.shape[0]
    check_clusters("spectral_clustering", n_clusters, n)
    values = affinity.data if issparse(affinity) else affinity
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("spectral_clustering: 'affinity' must be finite and not negative")
    if n_clusters == 1:
        return np.zeros(n, dtype=np.int64)
    if n_clusters == n:
        return np.arange(n)
    from sklearn.cluster import SpectralClustering

    model = SpectralClustering(n_clusters, affinity="precomputed", random_state=random_state, assign_labels="kmeans")
    return model.fit_predict(0.5 * (affinity + affinity.T)).astype(np.int64)


def check_clusters(where: str, n_clusters: int, n: int) -> None:
    """Refuse a number of clusters that is not from 1 to the number of samples."""
    if not 1 <= n_clusters <= n:
        raise ValueError(f"{where}: 'n_clusters' must be from 1 to the number of samples, {n}, got {n_clusters}")


def tsc_affinity(x: Tensor | np.ndarray, neighbours: int = 5) -> csr_matrix:
    """Affinity exp(-2 arccos |cosine|) of every point with those of largest |cosine|, summed both ways.

    Parameters
    ----------
    x : Tensor or ndarray
        Points (n, d), no row 0; rows are divided by their lengths.
    neighbours : int, default 5
        Others that a point keeps.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n), float64.

    Raises
    ------
    ValueError
        As `ssc_omp_affinity`, for `neighbours`.
    """
    unit = _unit("tsc_affinity", x)
    n = len(unit)
    if not 1 <= neighbours < n:
        raise ValueError(f"tsc_affinity: 'neighbours' must be from 1 to n - 1 = {n - 1}, got {neighbours}")
    columns, values = [], []
    for low in range(0, n, 1024):
        own = np.arange(low, min(low + 1024, n))
        cosines = np.abs(unit[own] @ unit.T)
        cosines[np.arange(len(own)), own] = -1.0
        near = np.argpartition(-cosines, neighbours - 1, axis=1)[:, :neighbours]
        columns.append(near.ravel())
        values.append(np.exp(-2.0 * np.arccos(np.minimum(np.take_along_axis(cosines, near, 1), 1.0))).ravel())
    index = (np.repeat(np.arange(n), neighbours), np.concatenate(columns))
    return _affinity(csr_matrix((np.concatenate(values), index), shape=(n, n)))


def ssc_omp_affinity(x: Tensor | np.ndarray, sparsity: int = 5, tol: float = 1e-6) -> csr_matrix:
    """Affinity |C| + |C|^T of the self-expression of every point by orthogonal matching pursuit.

    Parameters
    ----------
    x : Tensor or ndarray
        Points (n, d), no row 0; rows are divided by their lengths.
    sparsity : int, default 5
        Others at most that a point is written with.
    tol : float, default 1e-6
        Squared residual at which a point is taken as written.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n), float64.

    Raises
    ------
    ValueError
        Where `x` is not (n, d) with n >= 2, has values that are not finite or rows of 0, or `sparsity` is not from 1
        to n - 1.
    """
    unit = _unit("ssc_omp_affinity", x)
    n = len(unit)
    if not 1 <= sparsity < n:
        raise ValueError(f"ssc_omp_affinity: 'sparsity' must be from 1 to n - 1 = {n - 1}, got {sparsity}")
    rows, columns, values = [], [], []
    for i, point in enumerate(unit):
        support, weights = _matching_pursuit(unit, i, point, sparsity, tol)
        rows += [i] * len(support)
        columns += support
        values += list(weights)
    return _affinity(csr_matrix((values, (rows, columns)), shape=(n, n)))


def _matching_pursuit(
    unit: np.ndarray, i: int, point: np.ndarray, sparsity: int, tol: float
) -> tuple[list[int], np.ndarray]:
    support: list[int] = []
    weights = np.zeros(0)
    residual = point
    for _ in range(sparsity):
        correlation = np.abs(unit @ residual)
        correlation[[i, *support]] = -1.0
        best = int(correlation.argmax())
        if correlation[best] <= 1e-12:  # nothing left that helps
            break
        support.append(best)
        weights = np.linalg.lstsq(unit[support].T, point, rcond=None)[0]
        residual = point - weights @ unit[support]
        if residual @ residual <= tol:
            break
    return support, weights


def elastic_net_affinity(
    x: Tensor | np.ndarray, gamma: float = 50.0, lam: float = 0.95, steps: int = 50, candidates: int = 100
) -> csr_matrix:
    """Affinity of the self-expression of every point with an elastic net.

    Minimised is lam |c|_1 + (1 - lam)/2 |c|^2 + gamma_i/2 |x_i - X^T c|^2 with c_i = 0, gamma_i = gamma times the least
    gamma at which c is not 0 (lam over the largest |x_i . x_j|), over the `candidates` points of largest |x_i . x_j|,
    by fast proximal gradient steps, for blocks of points at once.

    Parameters
    ----------
    x : Tensor or ndarray
        Points (n, d), no row 0; rows are divided by their lengths.
    gamma : float, default 50
        Weight of the residual, above 1.
    lam : float, default 0.95
        Share of the l1 norm, in (0, 1].
    steps : int, default 50
        Proximal steps.
    candidates : int, default 100
        Others that a point may be written with; at most n - 1 are taken.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n), float64.

    Raises
    ------
    ValueError
        As `ssc_omp_affinity`, and where a number is out of its range.
    """
    if not (gamma > 1.0 and 0.0 < lam <= 1.0 and steps >= 1 and candidates >= 1):
        raise ValueError(
            "elastic_net_affinity: 'gamma' must be above 1, 'lam' in (0, 1], 'steps' and 'candidates' at least 1, got "
            f"{gamma}, {lam}, {steps} and {candidates}"
        )
    unit = _unit("elastic_net_affinity", x)
    n = len(unit)
    count = min(candidates, n - 1)
    rows, columns, values = [], [], []
    for low in range(0, n, 256):
        own = np.arange(low, min(low + 256, n))
        cosines = np.abs(unit[own] @ unit.T)
        cosines[np.arange(len(own)), own] = -1.0
        near = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        found = _elastic_net(unit[own], unit[near], gamma, lam, steps)
        place = np.nonzero(found)
        rows.append(own[place[0]])
        columns.append(near[place])
        values.append(found[place])
    index = (np.concatenate(rows), np.concatenate(columns))
    return _affinity(csr_matrix((np.concatenate(values), index), shape=(n, n)))


def _elastic_net(points: np.ndarray, others: np.ndarray, gamma: float, lam: float, steps: int) -> np.ndarray:
    """Coefficients (b, m) of points (b, d) by their others (b, m, d), by FISTA."""
    gram = others @ others.transpose(0, 2, 1)
    cross = np.einsum("bmd,bd->bm", others, points)
    fit = (gamma * lam / np.abs(cross).max(1).clip(1e-12))[:, None]
    rate = 1.0 / (fit * np.linalg.norm(gram, ord=2, axis=(1, 2))[:, None] + 1.0 - lam)
    c = ahead = np.zeros_like(cross)
    t = 1.0
    for _ in range(steps):
        slope = fit * (np.einsum("bij,bj->bi", gram, ahead) - cross) + (1.0 - lam) * ahead
        moved = ahead - rate * slope
        new = np.sign(moved) * np.maximum(np.abs(moved) - rate * lam, 0.0)
        grown = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * t * t))
        ahead, c, t = new + (t - 1.0) / grown * (new - c), new, grown
    return c


def _affinity(coefficients: spmatrix) -> csr_matrix:
    size = abs(coefficients)
    return (size + size.T).tocsr()


def _unit(where: str, x: Tensor | np.ndarray) -> np.ndarray:
    array = np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"{where}: 'x' has shape {array.shape}, wanted (n, d) with n >= 2")
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError(f"{where}: 'x' must be finite and have no row of 0")
    return array / lengths

"""The bound optimiser: assignments on the simplex under a concave Laplacian term and an entropy.

R(Z) = sum_p (z_p . log z_p + z_p . a_p) - (lambda/2) tr(Z^T W Z), with W symmetric and positive semi-definite. The
concave term, made linear at Z^i, gives an upper bound of R, whose minimum falls apart into points:
z_p = softmax(-a_p + lambda sum_q w_pq z_q^i). Each update is a step of mirror descent on the simplex with rate 1, and
none raises R. At vertices R = E - (lambda/2) sum_pq w_pq, where E is the energy of labels l,
sum_p a_p,l(p) + (lambda/2) sum_pq w_pq [l(p) != l(q)].
"""

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.special import xlogy
from torch import Tensor

from holonomy.manifolds import Simplex
from holonomy.manifolds.kernels.neighbour_softmax import neighbour_softmax
from holonomy.models.clustering.transductive_few_shot.affinity import check_affinity
from holonomy.models.clustering.transductive_few_shot.inputs import check_lam, points, whole_labels

__all__ = ["bound_update", "discrete_energy", "one_hot", "relaxed_energy", "solve_bounds"]


def bound_update(
    unary: Any,
    W: Any,
    lam: float,
    Z0: Any = None,
    clamp: Any = None,
    max_iter: int = 600,
    tol: float = 1e-6,
) -> tuple[Any, np.ndarray]:
    """Minimise R over assignments by z_p <- softmax(-a_p + lam sum_q w_pq z_q), in parallel over points.

    Parameters
    ----------
    unary : array-like or Tensor
        Costs a (n, K) of points in clusters.
    W : sparse matrix, array or Tensor
        Affinity (n, n), not negative. R is sure not to rise where it is symmetric and positive semi-definite.
    lam : float
        Weight of the Laplacian term, at least 0.
    Z0 : array-like or Tensor, optional
        Assignments (n, K) to start from; left out, softmax(-a).
    clamp : array-like or Tensor, optional
        Clusters (n,) of points that are given, -1 for the others: those rows stay one-hot throughout.
    max_iter : int, default 600
        Most updates.
    tol : float, default 1e-6
        Stop where an update changes R by at most `tol` |R|.

    Returns
    -------
    Z : ndarray or Tensor
        (n, K), of the type and dtype of `unary`.
    energies : ndarray
        R before the first update and after each.

    Raises
    ------
    ValueError
        Where a shape does not fit, `lam` is negative, W is negative or not finite, labels of `clamp` are not in
        -1, ..., K - 1, or rows of `Z0` are not on the simplex.

    Notes
    -----
    Ziko et al. (arXiv:2106.09516), section 3.
    """
    a = points("bound_update", "unary", unary)
    n, K = a.shape
    check_lam("bound_update", lam)
    W = check_affinity("bound_update", W, n).astype(a.dtype)
    if max_iter < 0 or not tol >= 0:
        raise ValueError(f"bound_update: 'max_iter' and 'tol' must be at least 0, got {max_iter} and {tol}")
    given = np.full(n, -1) if clamp is None else whole_labels("bound_update", "clamp", clamp, (n,))
    if given.min() < -1 or given.max() >= K:
        raise ValueError(f"bound_update: 'clamp' must be in -1..{K - 1}, got {given.min()}..{given.max()}")
    start = None
    if Z0 is not None:
        start = points("bound_update", "Z0", Z0).astype(a.dtype)
        if start.shape != a.shape:
            raise ValueError(f"bound_update: 'Z0' has shape {start.shape}, wanted {a.shape}")
        if K > 1:
            Simplex().assert_check_point_on_manifold(torch.from_numpy(start))
        start = start[None]
    Z, energies = solve_bounds(a[None], W, lam, start, given[None], max_iter, tol)
    found = torch.from_numpy(Z[0]).to(unary.device) if isinstance(unary, Tensor) else Z[0]
    return found, np.array(energies)[:, 0]


def solve_bounds(
    a: np.ndarray,
    W: csr_matrix,
    lam: float,
    Z0: np.ndarray | None,
    clamp: np.ndarray,
    max_iter: int = 600,
    tol: float = 1e-6,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Run `bound_update` on several tasks of one size at once; each stops by itself.

    Parameters
    ----------
    a : ndarray
        Costs (tasks, n, K).
    W : scipy.sparse.csr_matrix
        (tasks n, tasks n), block-diagonal.
    lam : float
        Weight of the Laplacian term.
    Z0 : ndarray or None
        Start (tasks, n, K), or None for softmax(-a).
    clamp : ndarray
        (tasks, n): clusters that are given, -1 elsewhere.
    max_iter, tol
        As in `bound_update`.

    Returns
    -------
    Z : ndarray
        (tasks, n, K).
    energies : list of ndarray
        R (tasks,) before the first update and after each; that of a task that has stopped stays.
    """
    tasks, n, K = a.shape
    costs, given = a.reshape(-1, K), clamp.reshape(-1)
    labelled = (given >= 0).nonzero()[0]

    def keep(Z: np.ndarray, free: np.ndarray) -> None:
        Z[labelled] = one_hot(given[labelled], K, Z.dtype)
        free[labelled] = costs[labelled, given[labelled]]

    if Z0 is None:
        Z, _, free = neighbour_softmax(costs, W, np.zeros_like(costs), 0.0)
    else:
        Z = Z0.reshape(-1, K).copy()
        free = _free(Z, costs)
    keep(Z, free)
    active, energies = np.ones(tasks, dtype=bool), list[np.ndarray]()
    for step in range(max_iter + 1):
        # An update sees W Z of the rows before it, which their energy needs.
        new, pulled, new_free = neighbour_softmax(costs, W, Z, lam, None if active.all() else active.repeat(n))
        now = (free - 0.5 * lam * pulled).reshape(tasks, n).sum(1)
        energies.append(now if step == 0 else np.where(active, now, energies[-1]))
        if step > 0:
            active &= np.abs(energies[-1] - energies[-2]) > tol * np.abs(energies[-2])
        if step == max_iter or not active.any():
            break
        keep(new, new_free)
        Z = new if active.all() else np.where(active.repeat(n)[:, None], new, Z)
        free = new_free
    return Z.reshape(a.shape), energies


def _free(Z: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """z_p . (log z_p + a_p) of each row, in float64."""
    return (xlogy(Z, Z) + Z * costs).sum(1, dtype=np.float64)


def relaxed_energy(Z: np.ndarray, unary: np.ndarray, W: csr_matrix, lam: float) -> float:
    """R(Z) = sum_p (z_p . log z_p + z_p . a_p) - (lam/2) tr(Z^T W Z), of assignments and costs (n, K)."""
    return float((_free(Z, unary) - 0.5 * lam * (Z * (W @ Z)).sum(1, dtype=np.float64)).sum())


def discrete_energy(labels: np.ndarray, unary: np.ndarray, W: csr_matrix, lam: float) -> float:
    """E of labels (n,): sum_p a_p,l(p) + (lam/2) sum_pq w_pq [l(p) != l(q)], over ordered pairs.

    That is the Laplacian form (lam/2) sum over unordered pairs of w_pq |z_p - z_q|^2 of a symmetric W; its diagonal
    counts nothing.
    """
    pairs = W.tocoo()
    cut = pairs.data[labels[pairs.row] != labels[pairs.col]].sum(dtype=np.float64)
    chosen = np.take_along_axis(unary, labels[:, None], axis=1)
    return float(chosen.sum(dtype=np.float64) + 0.5 * lam * cut)


def one_hot(labels: np.ndarray, K: int, dtype: Any) -> np.ndarray:
    """Vertices (..., K) of the simplex."""
    return np.eye(K, dtype=dtype)[labels]

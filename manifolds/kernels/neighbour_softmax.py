"""One update of assignments to clusters by costs and by neighbours' assignments, with what its energy needs."""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from holonomy.manifolds.kernels import dispatch

__all__ = ["neighbour_softmax", "neighbour_softmax_reference"]

#: Rows that the reference updates at once; what it holds beside Z is of this many rows.
BLOCK = 4096

Update = tuple[np.ndarray, np.ndarray, np.ndarray]


def neighbour_softmax(
    costs: np.ndarray, W: csr_matrix, Z: np.ndarray, lam: float, running: np.ndarray | None = None
) -> Update:
    """z_p <- softmax(lam sum_q w_pq z_q - a_p), and the energies of the old and the new rows.

    Parameters
    ----------
    costs, Z : ndarray
        a and z, (n, K), both float32 or both float64.
    W : scipy.sparse.csr_matrix
        (n, n), of the same dtype.
    lam : float
        Factor of W.
    running : ndarray, optional
        Which rows are updated, bool (n,); the others are copied, and their energies are 0.

    Returns
    -------
    Z : ndarray
        (n, K).
    pulled : ndarray
        z_p . sum_q w_pq z_q of the old rows, (n,), float64.
    free : ndarray
        z_p . (log z_p + a_p) of the new rows, (n,), float64.
    """
    if dispatch.backend(torch.from_numpy(costs)) != "numba":
        return neighbour_softmax_reference(costs, W, Z, lam, running)
    from holonomy.manifolds.kernels.cpu.neighbour_softmax import run

    n, K = costs.shape
    mask = np.ones(n, np.uint8) if running is None else running.astype(np.uint8)
    arrays = (np.ascontiguousarray(costs).ravel(), W.indptr, W.indices, W.data, np.ascontiguousarray(Z).ravel(), mask)
    results = np.empty(n * K, costs.dtype), np.zeros(n), np.zeros(n)
    run(arrays, lam, K, results)
    return results[0].reshape(n, K), results[1], results[2]


def neighbour_softmax_reference(
    costs: np.ndarray,
    W: csr_matrix,
    Z: np.ndarray,
    lam: float,
    running: np.ndarray | None = None,
    block: int = BLOCK,
) -> Update:
    """Evaluate `neighbour_softmax` by scipy's product and torch's softmax, `block` rows at a time."""
    n = len(costs)
    out, pulled, free = np.empty_like(Z), np.empty(n), np.empty(n)
    for low in range(0, n, block):
        rows = slice(low, low + block)
        pull = W[rows] @ Z
        pulled[rows] = np.einsum("nk,nk->n", Z[rows], pull)
        logits = torch.from_numpy(lam * pull - costs[rows])
        norm = torch.logsumexp(logits, -1, keepdim=True).numpy()
        torch.softmax(logits, -1, out=torch.from_numpy(out[rows]))
        # z . (log z + a), where log z + a = lam pull - norm: no logarithm of a z that rounds to 0.
        free[rows] = np.einsum("nk,nk->n", out[rows], lam * pull - norm)
    if running is not None:
        out[~running], pulled[~running], free[~running] = Z[~running], 0.0, 0.0
    return out, pulled, free

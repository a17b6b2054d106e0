"""Leading eigenvalues of symmetric matrices and operators: all of them, by Lanczos' method, or from random vectors."""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["leading_eigenpairs"]

Method = Literal["full", "lanczos", "randomised"]


def leading_eigenpairs(
    matrix: "np.ndarray | LinearOperator",
    k: int,
    method: Method = "full",
    *,
    oversampling: int = 10,
    iterations: int = 4,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues of a symmetric positive semidefinite matrix, descending, and their eigenvectors.

    Parameters
    ----------
    matrix : numpy.ndarray or scipy.sparse.linalg.LinearOperator, shape (n, n)
        A Gram matrix, or the operator of one that is not stored.
    k : int
        Number of pairs.
    method : {"full", "lanczos", "randomised"}
        ``full``: LAPACK, O(n^3) and the matrix in memory. ``lanczos``: ARPACK, some multiples of k products, to machine
        precision. ``randomised``: subspace iteration on k + oversampling random vectors (Halko, Martinsson, Tropp, SIAM
        Review 2011, algorithm 4.4), 1 + 2 iterations products with all of them at once; its error falls as
        (lambda_(k + oversampling) / lambda_k)^(2 iterations).
    oversampling, iterations : int
        Of ``randomised``.
    seed : int, default 0
        Of the vectors that ``lanczos`` and ``randomised`` start from.

    Returns
    -------
    values : numpy.ndarray, shape (k,)
    vectors : numpy.ndarray, shape (n, k)

    Raises
    ------
    TypeError
        Where the full method is asked for an operator.
    ValueError
        For an unknown method, a matrix that is not square, or k outside 1 ... n (n - 1 for ``lanczos``).
    """
    if method not in get_args(Method):
        raise ValueError(f"leading_eigenpairs: 'method' must be one of {get_args(Method)}, got {method!r}")
    shape = tuple(matrix.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"leading_eigenpairs: 'matrix' must be square, got {shape}")
    n, most = shape[0], shape[0] - (method == "lanczos")
    if not 1 <= k <= most:
        raise ValueError(f"leading_eigenpairs: 'k' must be from 1 to {most} for method {method!r}, got {k}")
    rng = np.random.default_rng(seed)
    if method == "full":
        if not isinstance(matrix, np.ndarray):
            raise TypeError("leading_eigenpairs: method 'full' needs an array; for an operator use 'lanczos'")
        from scipy.linalg import eigh

        values, vectors = eigh(matrix, subset_by_index=(n - k, n - 1))
    elif method == "lanczos":
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(matrix, k=k, which="LA", v0=rng.standard_normal(n))
    else:
        values, vectors = _randomised(matrix, min(n, k + oversampling), iterations, rng)
    order = np.argsort(values)[::-1][:k]
    return values[order], vectors[:, order]


def _randomised(matrix: Any, size: int, iterations: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    basis = rng.standard_normal((matrix.shape[0], size))
    for _ in range(1 + 2 * iterations):
        basis = np.linalg.qr(matrix @ basis)[0]
    small = basis.T @ (matrix @ basis)
    values, vectors = np.linalg.eigh(0.5 * (small + small.T))
    return values, basis @ vectors

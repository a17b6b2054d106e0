"""Matrices on which the bounds are measured: flat rows, the replicated identity, and both side by side."""

from math import exp, lgamma, log, pi

import numpy as np

from holonomy.theory.sensitivity_sampling.arrays import check_p


def flat_matrix(n: int, d: int, rng: np.random.Generator | int) -> np.ndarray:
    """Uniform unit vectors as rows: for many rows every l_p sensitivity is near `flat_total` / n.

    Parameters
    ----------
    n, d : int
        Rows and columns, n >= d >= 1.
    rng : numpy.random.Generator or int
        The generator, or a seed for one.

    Returns
    -------
    numpy.ndarray
        (n, d).

    Raises
    ------
    ValueError
        If d is below 1 or n is below d.
    """
    if not 1 <= d <= n:
        raise ValueError(f"d must be in 1 ... n, got d = {d} with n = {n}")
    rows = np.random.default_rng(rng).standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def flat_total(d: int, p: float) -> float:
    """Total l_p sensitivity of infinitely many uniform unit vectors in R^d.

    The sup of |a_i^T x|^p / ||Ax||_p^p is at x = a_i, and 1 / E|u_1|^p for a coordinate u_1 of a uniform unit vector:
    Gamma((d + p)/2) sqrt(pi) / (Gamma(d/2) Gamma((p + 1)/2)), of order d^(p/2).

    Raises
    ------
    ValueError
        If d is below 1, or p below 1 or not finite.
    """
    p = check_p(p)
    if d < 1:
        raise ValueError(f"d must be at least 1, got {d}")
    return exp(lgamma((d + p) / 2) + 0.5 * log(pi) - lgamma(d / 2) - lgamma((p + 1) / 2))


def replicated_identity(d: int, copies: int, p: float) -> np.ndarray:
    """The identity, each row in ``copies`` copies scaled by copies^(-1/p): S = d exactly, for every p.

    ||Ax||_p is ||x||_p; a sample keeps it as well as it keeps the number of copies of the row that it hits least, or
    most.

    Returns
    -------
    numpy.ndarray
        (d * copies, d).

    Raises
    ------
    ValueError
        If d or copies is below 1, or p below 1 or not finite.
    """
    p = check_p(p)
    if d < 1 or copies < 1:
        raise ValueError(f"d and copies must be at least 1, got d = {d} and copies = {copies}")
    return np.repeat(np.eye(d), copies, axis=0) * copies ** (-1.0 / p)


def tight_instance(n: int, d: int, copies: int, p: float, rng: np.random.Generator | int = 0) -> np.ndarray:
    """Block diagonal of `flat_matrix` (n, d) and `replicated_identity` (d, copies).

    The flat block has the smallest total sensitivity that rank d allows (p < 2), some d^(p/2), the identity the
    largest, d. Sampling by sensitivities gives the flat block a share of some d^(p/2 - 1) of the rows; it needs half.

    Returns
    -------
    numpy.ndarray
        (n + d * copies, 2 d).

    Raises
    ------
    ValueError
        As the two.
    """
    flat, identity = flat_matrix(n, d, rng), replicated_identity(d, copies, p)
    upper = np.hstack([flat, np.zeros((n, d))])
    lower = np.hstack([np.zeros((len(identity), d)), identity])
    return np.vstack([upper, lower])

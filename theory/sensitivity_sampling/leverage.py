"""Leverage scores, the sensitivities of least squares: tau_i = a_i^T (A^T A)^-1 a_i."""

import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, orthonormal_basis


def leverage_scores(A: Array) -> Array:
    """Leverage of each row, tau_i = a_i^T (A^T A)^-1 a_i, in [0, 1] with sum d.

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank; rows may be zero, and then have leverage 0.

    Returns
    -------
    numpy.ndarray or Tensor
        (n,), float64.

    Raises
    ------
    TypeError
        If A is no array of real numbers.
    ValueError
        If A is not 2-D, has fewer rows than columns, is not finite, or is of lower rank.
    """
    values, wrap = as_matrix(A)
    return wrap(squared_lengths(orthonormal_basis(values)))


def squared_lengths(Q: Tensor) -> Tensor:
    """Squared length of each row, (n, d) -> (n,)."""
    return torch.linalg.vecdot(Q, Q)

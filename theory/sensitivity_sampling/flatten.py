"""Splitting rows: k copies of a row scaled by k^(-1/p) leave every ||Ax||_p as it is, and divide its sensitivity by k.

Above p = 2 the copies add to A^T A, so that no leverage grows, and that of a copy is at most k^(-2/p) of the row's.
"""

import torch

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, as_real, check_p


def flatten_rows(A: Array, scores: Array, threshold: float, p: float) -> tuple[Array, Array]:
    """Split each row into as many copies as divide its score to a threshold or below.

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d).
    scores : numpy.ndarray or Tensor
        (n,), not negative; row i becomes max(1, ceil(scores_i / threshold)) rows.
    threshold : float
        Positive.
    p : float
        At least 1.

    Returns
    -------
    A_flat : numpy.ndarray or Tensor
        (m, d), copies side by side.
    row_map : numpy.ndarray or Tensor
        (m,), the row of A that each is a copy of.

    Raises
    ------
    TypeError
        If A or scores is no array of real numbers.
    ValueError
        If a shape or a range is not as above.
    """
    p = check_p(p)
    values, wrap = as_matrix(A)
    numbers, _ = as_real(scores, "scores")
    if tuple(numbers.shape) != (len(values),):
        raise ValueError(f"scores must have shape {(len(values),)}, got {tuple(numbers.shape)}")
    if bool((numbers < 0).any()):
        raise ValueError(f"scores must not be negative, got {float(numbers.min())}")
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    copies = (numbers / threshold).ceil().clamp_min(1.0).to(values.device)
    row_map = torch.repeat_interleave(torch.arange(len(values), device=values.device), copies.long())
    return wrap(values[row_map] * copies[row_map, None] ** (-1.0 / p)), wrap(row_map)

"""Regression in the l_p norm, min ||W (Ax - b)||_p: what a sample of rows is taken for."""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, as_real, check_p, orthonormal_basis, power

FLOOR = 1e-9


def lp_regression(A: Array, b: Array, p: float, weights: Array | None = None, tol: float = 1e-12) -> Array:
    """Minimise sum_i |w_i (a_i^T x - b_i)|^p.

    p = 1 is solved as a linear programme (HiGHS), exactly; p = 2 by QR; any other p by reweighted least squares with
    steps of 1/(p - 1), halved until the sum falls.

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank after weighting.
    b : numpy.ndarray or Tensor
        (n,).
    p : float
        At least 1.
    weights : numpy.ndarray or Tensor, optional
        (n,), not negative; all 1 when left out. Of a sample: `RowSample.weights`.
    tol : float, default 1e-12
        Relative decrease in a step that ends the iteration.

    Returns
    -------
    numpy.ndarray or Tensor
        (d,).

    Raises
    ------
    TypeError
        If an argument is no array of real numbers.
    ValueError
        If shapes do not fit, weights are negative, p is below 1, or the weighted A is of lower rank.
    """
    p = check_p(p)
    values, wrap = as_matrix(A)
    target, _ = as_real(b, "b")
    if tuple(target.shape) != (len(values),):
        raise ValueError(f"b must have shape {(len(values),)}, got {tuple(target.shape)}")
    if weights is not None:
        scale, _ = as_real(weights, "weights")
        if tuple(scale.shape) != (len(values),) or bool((scale < 0).any()):
            raise ValueError(f"weights must be {len(values)} numbers of at least 0, got shape {tuple(scale.shape)}")
        values, target = scale[:, None] * values, scale * target
    orthonormal_basis(values)  # refuses a lower rank, naming it
    if p == 1:
        return wrap(_by_programme(values, target))
    return wrap(_by_reweighting(values, target, p, tol))


def _by_programme(A: Tensor, b: Tensor) -> Tensor:
    """The dual, max b^T z subject to A^T z = 0, |z| <= 1: d equations; x is their multipliers."""
    found = linprog(-b.cpu().numpy(), A_eq=A.T.cpu().numpy(), b_eq=np.zeros(A.shape[1]), bounds=(-1.0, 1.0))
    if found.status != 0:
        raise RuntimeError(f"HiGHS did not solve the l_1 regression: {found.message}")
    return torch.from_numpy(-found.eqlin.marginals).to(A.device)


def _by_reweighting(A: Tensor, b: Tensor, p: float, tol: float, max_iter: int = 500) -> Tensor:
    x = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    value = float((A @ x - b).abs().pow(p).sum())
    for _ in range(0 if p == 2 else max_iter):
        size = (A @ x - b).abs()
        if not bool(size.max() > 0):
            break
        root = power(size.clamp_min(FLOOR * float(size.max())), (p - 2) / 2)[:, None]
        direction = torch.linalg.lstsq(root * A, root * b[:, None]).solution[:, 0] - x
        step = 1.0 if p < 2 else 1.0 / (p - 1.0)
        new = float((A @ (x + step * direction) - b).abs().pow(p).sum())
        while new > value and step > 1e-9:
            step *= 0.5
            new = float((A @ (x + step * direction) - b).abs().pow(p).sum())
        if new > value:
            break
        x, fallen, value = x + step * direction, value - new, new
        if fallen <= tol * value:
            break
    return x

"""l_p sensitivities: how much of ||Ax||_p^p one row can be.

s_i = sup |a_i^T x|^p / ||Ax||_p^p = 1 / min { ||Ax||_p^p : a_i^T x = 1 }, a convex problem a row for p >= 1. They do
not change with the basis of the column space, so that all is done in an orthonormal one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, check_p, orthonormal_basis
from holonomy.theory.sensitivity_sampling.interior_point import least_sums
from holonomy.theory.sensitivity_sampling.irls import least_powers
from holonomy.theory.sensitivity_sampling.leverage import squared_lengths

Method = Literal["auto", "lp", "irls"]
#: Entries of an array with one row a problem and one column a row of A: some twenty of them are in use.
BATCH = 1 << 19


def lp_sensitivities(
    A: Array,
    p: float,
    rows: Sequence[int] | np.ndarray | Tensor | None = None,
    method: Method = "auto",
    tol: float = 1e-9,
) -> Array:
    """l_p sensitivities of the rows of A, exactly.

    An iteration costs O(n d^2) a row that is asked for, O(n^2 d^2) for all of them; some 5 to 15 are needed. Memory is
    O(n d^2) up to a bound of some hundred megabytes. `sensitivity_bounds` costs O(n d^2) an iteration for all rows.

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank; zero rows have sensitivity 0.
    p : float
        At least 1.
    rows : sequence of int, optional
        Which rows; all when left out.
    method : {"auto", "lp", "irls"}
        ``lp``: the linear programme of p = 1, by an interior-point method with a certificate. ``irls``: iteratively
        reweighted least squares; for p = 1 it stalls at a relative error of some 1e-6 to 1e-4. ``auto``: leverage
        scores for p = 2, ``lp`` for p = 1, ``irls`` otherwise.
    tol : float, default 1e-9
        Relative gap between the bounds (``lp``), or relative decrease in a step (``irls``), that ends the iteration.

    Returns
    -------
    numpy.ndarray or Tensor
        (len(rows),), float64, in [0, 1].

    Raises
    ------
    TypeError
        If A is no array of real numbers.
    ValueError
        If A is not 2-D, has fewer rows than columns, is not finite, or is of lower rank; if p is below 1 or not finite;
        if ``method`` is unknown, or ``lp`` for another p than 1; if ``rows`` are not indices of rows.
    """
    p = check_p(p)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}")
    if method == "lp" and p != 1:
        raise ValueError(f"method 'lp' is for p = 1, got p = {p:g}: use 'irls' or 'auto'")
    if not 0 < tol < 1:
        raise ValueError(f"tol must be in (0, 1), got {tol}")
    values, wrap = as_matrix(A)
    wanted = _indices(rows, len(values)).to(values.device)
    Q = orthonormal_basis(values)
    if p == 2 and method == "auto":
        return wrap(squared_lengths(Q)[wanted])
    nonzero = squared_lengths(Q) > 0
    result = torch.zeros(len(wanted), dtype=Q.dtype, device=Q.device)
    targets = torch.nonzero(nonzero[wanted])[:, 0]
    Q, basis = Q[nonzero], Q

    def solve(part: Tensor) -> None:
        a = basis[wanted[part]]
        if method == "irls" or p != 1:
            least = least_powers(Q, a, p, tol)
        else:
            least = least_sums(Q.cpu(), a.cpu(), tol)[1].to(Q.device)  # its sweeps are the CPU's
        result[part] = 1.0 / least

    _on_threads(solve, targets.split(max(1, BATCH // len(Q))))
    return wrap(result.clamp_max(1.0))


def total_sensitivity(A: Array, p: float, method: Method = "auto", tol: float = 1e-9) -> float:
    """Sum of the l_p sensitivities of all rows; between d and d^(p/2), in either order.

    Parameters and exceptions are those of `lp_sensitivities`.
    """
    return float(lp_sensitivities(A, p, method=method, tol=tol).sum())


def _on_threads(function: Callable[[Tensor], None], parts: Sequence[Tensor]) -> None:
    """Call a function on every part, as many at once as torch has threads, each of them on one.

    Operations on a part are too short to be shared out one by one: threads would spend their time waiting.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if threads <= 1:
        for part in parts:
            function(part)
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(function, parts):
            pass
    torch.set_num_threads(before)  # what new threads start from


def _indices(rows: Sequence[int] | np.ndarray | Tensor | None, n: int) -> Tensor:
    if rows is None:
        return torch.arange(n)
    wanted = torch.as_tensor(np.asarray(rows))
    if wanted.ndim != 1 or wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise ValueError(f"rows must be a flat sequence of integers, got {wanted.dtype} of shape {tuple(wanted.shape)}")
    if bool(((wanted < 0) | (wanted >= n)).any()):
        raise ValueError(f"rows must be in 0 ... {n - 1}, got {int(wanted.min())} ... {int(wanted.max())}")
    return wanted.long()

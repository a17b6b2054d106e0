"""What is known of sensitivities without solving for them, and of how many rows a sample needs.

The sandwich of the Lewis weights w: with ||y||^2 = x^T A^T W^(1-2/p) A x, Hölder's inequality bounds ||Ax||_p^p by
||y||^p from the one side and by d^|1 - p/2| ||y||^p from the other, so that

    p <= 2:  d^(p/2 - 1) w_i <= s_i <= w_i,     p >= 2:  w_i <= s_i <= d^(p/2 - 1) w_i.

The same proof with any positive w, r_i = tau_i(W^(1/2 - 1/p) A) / w_i, r = max r_i, and
w'_i = (a_i^T (A^T W^(1-2/p) A)^-1 a_i)^(p/2) gives

    p <= 2:  (sum w)^(p/2 - 1) w'_i <= s_i <= r^(1 - p/2) w'_i,
    p >= 2:  r^(1 - p/2) w'_i <= s_i <= (sum w)^(p/2 - 1) w'_i,

which holds for weights that have not converged, and becomes the sandwich as r -> 1 and sum w -> d.

Sample complexities: Woodruff and Yasuda, Sharper bounds for l_p sensitivity sampling (ICML 2023, arXiv 2306.00732 v2);
Chen and Dereziński, Query complexity of least absolute deviation regression (COLT 2021); Cohen and Peng (STOC 2015).
"""

from typing import Literal, get_args

import torch

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, check_p, orthonormal_basis, power
from holonomy.theory.sensitivity_sampling.leverage import squared_lengths
from holonomy.theory.sensitivity_sampling.lewis import iterate

Bound = Literal[
    "union", "sensitivity", "chen_derezinski", "lewis", "root_leverage", "leverage_sensitivity", "conjecture"
]
#: The exponents that each bound is stated for.
_BELOW_TWO = ("chen_derezinski", "root_leverage")
_ABOVE_TWO = ("leverage_sensitivity", "conjecture")


def sensitivity_bounds(A: Array, p: float, tol: float = 1e-3, max_iter: int = 100) -> tuple[Array, Array]:
    """Lower and upper bounds of every l_p sensitivity, proved for the weights that were reached.

    They are within a factor d^|1 - p/2| (1 + O(tol)) of each other. Time O(n d^2) a step, memory O(n d).

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank.
    p : float
        At least 1.
    tol : float, default 1e-3
        How near to the Lewis weights to go; the bounds hold however near.
    max_iter : int, default 100
        Most steps; the bounds hold after any number of them, 0 too.

    Returns
    -------
    low, high : numpy.ndarray or Tensor
        (n,) each.

    Raises
    ------
    TypeError, ValueError
        As `lewis_weights`.
    """
    p = check_p(p)
    values, wrap = as_matrix(A)
    Q = orthonormal_basis(values)
    leverage = squared_lengths(Q)
    rows = leverage > 0
    found = iterate(Q[rows], p, tol, max_iter)
    lewis = power(found.quadratic, p / 2)
    by_sum = float(found.weights.sum()) ** (p / 2 - 1)
    by_ratio = float(found.ratios.max()) ** (1 - p / 2)
    low, high = torch.zeros_like(leverage), torch.zeros_like(leverage)
    low[rows], high[rows] = lewis * min(by_sum, by_ratio), lewis * max(by_sum, by_ratio)
    if p <= 2:  # ||Ax||_p >= ||Ax||_2
        high = torch.minimum(high, power(leverage, p / 2))
    return wrap(low), wrap(high.clamp_max(1.0))


def sample_complexity(bound: Bound, S: float, d: int, p: float, eps: float, C: float = 1.0) -> float:
    """Rows that a sample needs to keep every ||Ax||_p^p to within eps, up to factors logarithmic in n, d and 1/eps.

    ====================  ==================================  ================================================
    ``bound``             rows, times C / eps^2               of
    ====================  ==================================  ================================================
    union                 S d                                 sensitivity sampling, by a union bound
    sensitivity           S^(2/p), p <= 2; S^(2 - 2/p)        sensitivity sampling, Woodruff and Yasuda
    chen_derezinski       S d^(1 - p/2), p <= 2               sensitivity sampling, never worse than S^(2/p)
    lewis                 d, p <= 2; d^(p/2)                  Lewis weight sampling
    root_leverage         d, p <= 2                           root leverage sampling in O(log log n) rounds
    leverage_sensitivity  d^(2/p) S^(2 - 4/p), p >= 2         sampling by s_i + tau_i of flattened rows
    conjecture            S + d, p >= 2                       sensitivity sampling, conjectured
    ====================  ==================================  ================================================

    Parameters
    ----------
    bound : str
        One of the table.
    S : float
        Total sensitivity.
    d : int
        Columns.
    p : float
        At least 1.
    eps : float
        In (0, 1).
    C : float, default 1
        The constant, which the paper leaves implicit.

    Raises
    ------
    ValueError
        If ``bound`` is unknown or not stated for p, S or C is not positive, d is below 1, or eps is outside (0, 1).
    """
    p = check_p(p)
    if bound not in get_args(Bound):
        raise ValueError(f"bound must be one of {', '.join(map(repr, get_args(Bound)))}, got {bound!r}")
    if (bound in _BELOW_TWO and p > 2) or (bound in _ABOVE_TWO and p < 2):
        side = "at most" if bound in _BELOW_TWO else "at least"
        raise ValueError(f"p must be {side} 2 for the bound {bound!r}, got {p}")
    check_eps(eps)
    for name, value, least in (("S", S, 0.0), ("C", C, 0.0)):
        if not value > least:
            raise ValueError(f"{name} must be positive, got {value}")
    if d < 1:
        raise ValueError(f"d must be at least 1, got {d}")
    rows = {
        "union": S * d,
        "sensitivity": S ** (2 / p if p <= 2 else 2 - 2 / p),
        "chen_derezinski": S * d ** (1 - p / 2),
        "lewis": float(d) if p <= 2 else d ** (p / 2),
        "root_leverage": float(d),
        "leverage_sensitivity": d ** (2 / p) * S ** (2 - 4 / p),
        "conjecture": S + d,
    }[bound]
    return C * rows / eps**2


def check_eps(eps: float) -> float:
    """Return the accuracy of a sample.

    Raises
    ------
    ValueError
        If it is outside (0, 1).
    """
    if not 0.0 < eps < 1.0:
        raise ValueError(f"eps must be in (0, 1), got {eps}")
    return eps

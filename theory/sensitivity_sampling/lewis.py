"""l_p Lewis weights: the fixed point of w_i = tau_i(W^(1/2 - 1/p) A).

Sources: Lewis, Finite dimensional subspaces of L_p (1978); Cohen and Peng, l_p row sampling by Lewis weights (STOC
2015) for the direct step, w_i <- (a_i^T (A^T W^(1-2/p) A)^-1 a_i)^(p/2). It contracts below p = 4, and for tall
matrices is fast above too. Where it does not, w goes to the leverage scores themselves. With
w_i^(1 - 2/p) = exp(t_i), log det(A^T W^(1-2/p) A) is convex in t with gradient tau (Cauchy-Binet), hence

    log det at w'  >=  log det at w  +  (1 - 2/p) sum_i tau_i log(w'_i / w_i),

and w' = tau maximises the right side where sum w' = d: each step ascends the concave programme whose maximum the Lewis
weights are, for every p > 2. Near the fixed point the error shrinks by 1 - 2/p a step or faster. This is the
multiplicative algorithm of optimal design (Silvey, Titterington and Torsney 1978; Yu, Annals of Statistics 2010).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling.arrays import BLOCK, Array, as_matrix, check_p, orthonormal_basis, power
from holonomy.theory.sensitivity_sampling.leverage import squared_lengths

#: Weights are kept above this: a row that has less plays no part, and its logarithm must stay finite.
SMALLEST = 1e-280


@dataclass(frozen=True)
class Iterate:
    """Weights and what one more look at the matrix says of them.

    Attributes
    ----------
    weights : Tensor
        (n,), any positive numbers.
    quadratic : Tensor
        (n,), a_i^T (A^T W^(1-2/p) A)^-1 a_i for these weights.
    ratios : Tensor
        (n,), tau_i(W^(1/2 - 1/p) A) / w_i: all 1 at the Lewis weights.
    """

    weights: Tensor
    quadratic: Tensor
    ratios: Tensor

    @property
    def residual(self) -> float:
        """Largest departure of a ratio from 1, over weights that are not held at `SMALLEST`."""
        return float((self.ratios - 1.0).abs()[self.weights > SMALLEST].max())


def lewis_weights(A: Array, p: float, tol: float = 1e-10, max_iter: int = 500) -> Array:
    """l_p Lewis weights of the rows; they sum to d. Time O(n d^2) a step, memory O(n d).

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank; zero rows have weight 0.
    p : float
        At least 1. p = 2 gives the leverage scores.
    tol : float, default 1e-10
        Largest relative departure from the fixed point.
    max_iter : int, default 500
        Steps; the error shrinks by max(1 - p/2, 1 - 2/p) each.

    Returns
    -------
    numpy.ndarray or Tensor
        (n,), float64.

    Raises
    ------
    TypeError, ValueError
        As `leverage_scores`, and ValueError if p is below 1 or not finite.
    RuntimeError
        If ``tol`` is not reached; the message says what was.
    """
    p = check_p(p)
    values, wrap = as_matrix(A)
    Q = orthonormal_basis(values)
    rows = squared_lengths(Q) > 0
    found = iterate(Q[rows], p, tol, max_iter)
    if found.residual > tol:
        raise RuntimeError(
            f"the Lewis weights are within {found.residual:.1e} of their fixed point after {max_iter} steps, not "
            f"within tol = {tol:g}: raise max_iter or tol"
        )
    weights = torch.zeros(len(values), dtype=Q.dtype, device=Q.device)
    weights[rows] = found.weights
    return wrap(weights)


def iterate(Q: Tensor, p: float, tol: float, max_iter: int) -> Iterate:
    """Step from the leverage scores until the ratios are within ``tol`` of 1, or ``max_iter`` times.

    Parameters
    ----------
    Q : Tensor
        (n, d), a basis without zero rows; it is not changed.
    """
    d = Q.shape[1]
    weights = squared_lengths(Q).clamp_min(SMALLEST)
    basis = Q.clone()
    direct = True
    before = float("inf")
    for step in range(max_iter + 1):
        scale = power(weights, 1.0 - 2.0 / p)
        quadratic = _rebase(basis, scale)
        leverage = scale * quadratic
        found = Iterate(weights, quadratic, leverage / weights)
        if step == max_iter or found.residual <= tol:
            break
        # For good, once a direct step has gained less than an ascent would: it may diverge from p = 4 on.
        direct = direct and (p <= 2 or found.residual < (1.0 - 2.0 / p) * before)
        before = found.residual
        # The sum is d at the fixed point; to set it takes away the slowest part of the direct step's error.
        target = power(quadratic, p / 2) if direct else leverage
        weights = (target * (d / target.sum())).clamp_min(SMALLEST)
    return found


def _rebase(basis: Tensor, scale: Tensor) -> Tensor:
    """Make ``basis`` orthonormal in the inner product weighted by ``scale``, in place; squared lengths of its rows.

    The next weights are near these, so that the next Gram matrix is near the identity however uneven they are.
    """
    gram = basis.new_zeros(basis.shape[1], basis.shape[1])
    for block, weight in zip(basis.split(BLOCK), scale.split(BLOCK), strict=True):
        gram.addmm_((block * weight[:, None]).T, block)
    # R^T R = gram, and the rows a become a R^-1
    inverse = torch.linalg.inv(torch.linalg.cholesky(gram, upper=True))
    quadratic = torch.empty_like(scale)
    for block, lengths in zip(basis.split(BLOCK), quadratic.split(BLOCK), strict=True):
        block.copy_(block @ inverse)
        lengths.copy_(squared_lengths(block))
    return quadratic

"""min ||Qx||_p^p subject to a^T x = 1 for many a at a time, by iteratively reweighted least squares.

With D = diag(|Qx|^(p-2)), M = Q^T D Q and y = M^-1 a / (a^T M^-1 a), the step is x <- x + c (y - x). c = 1 minimises a
quadratic that lies above the function (p <= 2) and never ascends; c = 1/(p - 1) is Newton's step. Above p = 2 only the
second converges, with halving until the function does not rise; below it, Newton's is taken as far as 3/2, and c = 1
where it rises.
"""

import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling.arrays import power
from holonomy.theory.sensitivity_sampling.blocks import Moments, factor, solve

#: |Qx| is raised to this part of its largest entry before a negative power is taken of it.
FLOOR = 1e-9
#: D is raised to this part of its largest entry: where |Qx| is nearly 0 above p = 2, M would be singular.
SMALLEST_WEIGHT = 1e-12
HALVINGS = 30


def least_powers(Q: Tensor, a: Tensor, p: float, tol: float, max_iter: int = 500) -> Tensor:
    """Least ||Qx||_p^p subject to a_k^T x = 1, for each row a_k.

    Parameters
    ----------
    Q : Tensor
        (n, d) orthonormal basis.
    a : Tensor
        (b, d), no row zero.
    p : float
        At least 1, not 2.
    tol : float
        A problem is left when its value falls by less than this part of itself in a step.
    max_iter : int, default 500
        Most steps.

    Returns
    -------
    Tensor
        (b,): values at feasible points, so upper bounds of the least.
    """
    moments = Moments(Q)
    c = 1.0 / (p - 1.0) if p > 2 else 1.0 if p == 1 else min(1.5, 1.0 / (p - 1.0))
    r = (a / a.square().sum(1, keepdim=True)) @ Q.T
    weights, value = _weights(r, p)
    result = value.clone()
    active = torch.arange(len(a), device=a.device)
    for _ in range(max_iter):
        y = solve(factor(moments(weights), a), a)
        y /= (a * y).sum(1, keepdim=True)
        direction = (y @ Q.T).sub_(r)
        r, weights, new = _line(r, direction, value, weights, c, p)
        result[active] = new
        on = value - new > tol * value
        value = new
        if not bool(on.all()):
            r, weights, a, value, active = r[on], weights[on], a[on], value[on], active[on]
            if not len(active):
                break
    return result


def _weights(r: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """|r|^(p-2), kept away from 0 and infinity, and sum |r|^p: one power for both."""
    size = r.abs()
    if p < 2:
        floored = torch.maximum(size, FLOOR * size.amax(1, keepdim=True))
        weights = power(floored, p - 2)
        # Where the floor is active the product is not |r|^p, but both are then nothing beside the largest.
        return weights, size.sum(1) if p == 1 else torch.linalg.vecdot(weights * size, size)
    weights = power(size, p - 2)
    value = torch.linalg.vecdot(weights * size, size)
    return torch.maximum(weights, SMALLEST_WEIGHT * weights.amax(1, keepdim=True)), value


def _line(
    r: Tensor, direction: Tensor, value: Tensor, weights: Tensor, c: float, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Step by c; where the value rises, by 1 and then by halves of it; where nothing helps, stay."""
    new = r + c * direction
    new_weights, new_value = _weights(new, p)
    step = 1.0 if c > 1 else 0.5 * c
    for _ in range(HALVINGS):
        risen = ~(new_value <= value)
        if not bool(risen.any()):
            return new, new_weights, new_value
        new[risen] = r[risen] + step * direction[risen]
        new_weights[risen], new_value[risen] = _weights(new[risen], p)
        step *= 0.5
    stay = ~(new_value <= value)
    new[stay], new_weights[stay], new_value[stay] = r[stay], weights[stay], value[stay]
    return new, new_weights, new_value

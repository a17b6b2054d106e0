"""min ||Qx||_1 subject to a^T x = 1 for many a at a time, by a primal-dual interior-point method.

The dual is max l subject to Q^T z = l a, |z_j| <= 1, a linear programme whose multipliers u, v >= 0 of the two sides of
the box satisfy u - v = Qx. Mehrotra's predictor-corrector (SIAM J. Optimization 1992), as Portnoy and Koenker use it
for quantile regression (Statistical Science 1997), keeps both feasible, so that l <= least value <= ||Qx||_1 all along:
the answer has a certificate, where reweighted least squares stalls at some 1e-6 to 1e-4.

What an iteration does between its matrix products is a few sweeps over the rows of each problem: `sweeps` has them as
compiled loops that form no temporary arrays.
"""

import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling import sweeps
from holonomy.theory.sensitivity_sampling.blocks import Moments, factor, solve


def least_sums(Q: Tensor, a: Tensor, tol: float, max_iter: int = 60) -> tuple[Tensor, Tensor]:
    """Bounds of the least ||Qx||_1 subject to a_k^T x = 1, for each row a_k.

    Parameters
    ----------
    Q : Tensor
        (n, d) orthonormal basis, float64 on the CPU.
    a : Tensor
        (b, d), no row zero.
    tol : float
        A problem is left when its bounds are within this part of each other.
    max_iter : int, default 60
        Most steps; some 15 are needed.

    Returns
    -------
    low, high : Tensor
        (b,) each.
    """
    moments = Moments(Q)
    r = (a / a.square().sum(1, keepdim=True)) @ Q.T
    start = r.abs().mean(1, keepdim=True)
    z, u, v = torch.zeros_like(r), r.clamp_min(0.0) + start, (-r).clamp_min(0.0) + start
    dual = a.new_zeros(len(a))
    low, high = a.new_zeros(len(a)), a.new_full((len(a),), torch.inf)
    active = torch.arange(len(a), device=a.device)
    for _ in range(max_iter):
        # Rounding may end a problem before its tolerance is reached: the best bounds so far stand.
        low[active] = torch.fmax(low[active], dual)
        high[active] = torch.fmin(high[active], r.abs().sum(1))
        on = (high[active] - low[active] > tol * high[active]) & dual.isfinite()
        if not bool(on.all()):
            r, z, u, v, dual, a, active = (part[on] for part in (r, z, u, v, dual, a, active))
            if not len(active):
                break
        dual = dual + _step(Q, moments, r, z, u, v, a)
    return low, high


def _step(Q: Tensor, moments: Moments, r: Tensor, z: Tensor, u: Tensor, v: Tensor, a: Tensor) -> Tensor:
    """One predictor and corrector, in place; returns the rise of the dual value.

    The complementarities are u (1 - z) and v (1 + z).
    """
    inverse, weighted = sweeps.weigh(r, z, u, v)
    upper = factor(moments(inverse), a)
    y = solve(upper, a)
    curvature = (a * y).sum(1)

    def direction(right: Tensor) -> tuple[Tensor, Tensor]:
        # dz = (Q dx - g) / (u/s + v/t) with Q^T dz = dl a and a^T dx = 0; `right` is g over the same
        h = solve(upper, right @ Q)
        rise = -(a * h).sum(1) / curvature
        return (h + rise[:, None] * y) @ Q.T, rise

    predictor, _ = direction(weighted)
    pull = sweeps.correct(r, z, u, v, inverse, predictor, weighted)
    corrector, rise = direction(weighted)
    along, across = sweeps.lengths(r, z, u, v, inverse, predictor, corrector, pull)
    sweeps.advance(r, z, u, v, inverse, predictor, corrector, pull, along, across)
    return across * rise

"""min ||Qx||_1 subject to a^T x = 1 for many a at a time, by a primal-dual interior-point method.

The dual is max l subject to Q^T z = l a, |z_j| <= 1, a linear programme whose multipliers u, v >= 0 of the two sides of
the box satisfy u - v = Qx. Mehrotra's predictor-corrector (SIAM J. Optimization 1992), as Portnoy and Koenker use it
for quantile regression (Statistical Science 1997), keeps both feasible, so that l <= least value <= ||Qx||_1 all along:
the answer has a certificate, where reweighted least squares stalls at some 1e-6 to 1e-4.
"""

import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling.blocks import Moments, factor, solve

#: Part of the way to the boundary that a step may go.
STEP = 0.995


def least_sums(Q: Tensor, a: Tensor, tol: float, max_iter: int = 60) -> tuple[Tensor, Tensor]:
    """Bounds of the least ||Qx||_1 subject to a_k^T x = 1, for each row a_k.

    Parameters
    ----------
    Q : Tensor
        (n, d) orthonormal basis.
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
    state = [r, torch.zeros_like(r), r.clamp_min(0.0) + start, (-r).clamp_min(0.0) + start, a.new_zeros(len(a)), a]
    low, high = a.new_zeros(len(a)), a.new_full((len(a),), torch.inf)
    active = torch.arange(len(a), device=a.device)
    for _ in range(max_iter):
        r, _, _, _, dual, _ = state
        # Rounding may end a problem before its tolerance is reached: the best bounds so far stand.
        low[active] = torch.fmax(low[active], dual)
        high[active] = torch.fmin(high[active], r.abs().sum(1))
        on = (high[active] - low[active] > tol * high[active]) & dual.isfinite()
        if not bool(on.all()):
            state = [part[on] for part in state]
            active = active[on]
            if not len(active):
                break
        state = _step(Q, moments, *state)
    return low, high


def _step(
    Q: Tensor, moments: Moments, r: Tensor, z: Tensor, u: Tensor, v: Tensor, dual: Tensor, a: Tensor
) -> list[Tensor]:
    """One predictor and corrector; the complementarities are u (1 - z) and v (1 + z)."""
    n = r.shape[1]
    s, t = 1.0 - z, 1.0 + z
    over_s, over_t = u / s, v / t
    inverse = (over_s + over_t).reciprocal_()
    upper = factor(moments(inverse), a)
    y = solve(upper, a)
    curvature = (a * y).sum(1)

    def direction(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # dz = (Q dx - g) / (u/s + v/t) with Q^T dz = dl a and a^T dx = 0
        h = solve(upper, (inverse * g) @ Q)
        rise = -(a * h).sum(1) / curvature
        dr = (h + rise[:, None] * y) @ Q.T
        return dr, (dr - g).mul_(inverse), rise

    _, dz, _ = direction(-r)
    du = torch.addcmul(-u, over_s, dz)
    dv = torch.addcmul(v, over_t, dz).neg_()
    across, along = _lengths(s, t, u, v, dz, du, dv)
    vecdot = torch.linalg.vecdot
    gap = vecdot(u, s) + vecdot(v, t)
    # (u + along du)(s - across dz) + (v + along dv)(t + across dz), by s du = u dz - us and t dv = -v dz - vt
    cross = vecdot(v - u, dz)
    left = (1 - along) * gap + (across - along) * cross + along * across * (vecdot(dv, dz) - vecdot(du, dz))
    centre = ((left / gap) ** 3 * gap / (2 * n))[:, None]
    du.mul_(dz).add_(centre).div_(s)
    dv.mul_(dz).neg_().add_(centre).div_(t)
    dr, dz, rise = direction(du - dv - r)
    du.sub_(u).addcmul_(over_s, dz)
    dv.sub_(v).addcmul_(over_t, dz, value=-1)
    across, along = _lengths(s, t, u, v, dz, du, dv)
    along, across_ = along[:, None], across[:, None]
    return [
        r.addcmul_(along, dr),
        z.addcmul_(across_, dz),
        u.addcmul_(along, du),
        v.addcmul_(along, dv),
        dual + across * rise,
        a,
    ]


def _lengths(s: Tensor, t: Tensor, u: Tensor, v: Tensor, dz: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """Step lengths, at most 1, that keep s = 1 - z and t = 1 + z, and u and v, positive."""
    box = torch.maximum((dz / s).amax(1), -(dz / t).amin(1))
    multipliers = torch.maximum(-(du / u).amin(1), -(dv / v).amin(1))
    return (STEP / box.clamp_min(STEP)), (STEP / multipliers.clamp_min(STEP))

"""What manifold linearizing rests on: closed forms of coding rates, and the entropic membership.

Of k orthogonal subspaces of r dimensions, filled evenly, the rates are R = k r log(1 + d/(k r eps^2)) and
R_c = r log(1 + d/(r eps^2)). R - R_c is convex in the membership, so that without its entropy a permutation is best.
Around its solution G the symmetric Sinkhorn iteration is (I - G)/2: cosines, whose kernel is positive semi-definite,
give a contraction by one half of all but one direction, at any temperature.

Source: Ding, Tong, Chan, Dai, Ma and Haeffele, Unsupervised manifold linearizing and clustering (ICCV 2023).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from holonomy.manifolds.linalg import haar
from holonomy.models.clustering.coding_rate import MLCLoss
from holonomy.models.clustering.doubly_stochastic import DoublyStochasticProjection
from holonomy.theory.check import Check

__all__ = ["checks"]

DTYPE = torch.float64
#: Relative error of a log-determinant of matrices of some tens of rows, whose conditions are below 100.
ROUNDING = 1e-12


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; a second or two."""
    generator = torch.Generator().manual_seed(seed)
    return [*subspace_rates(generator), single_points(generator), *convexity(generator), *contraction(generator)]


def subspace_rates(generator: torch.Generator, k: int = 3, r: int = 4, d: int = 16, eps: float = 0.7) -> list[Check]:
    """Rates of points along the axes of orthogonal subspaces, under the membership of their groups."""
    axes = haar((d, d), DTYPE, None, generator).mT[: k * r]
    z, groups = torch.cat([axes, -axes]), (torch.arange(k * r) // r).repeat(2)
    same = (groups.unsqueeze(0) == groups.unsqueeze(1)).to(DTYPE)
    parts = MLCLoss(eps)(z, same / same.sum(0))[1]
    how = f"{k} subspaces of {r} dimensions in R^{d}, {2 * k * r} points along orthonormal axes, float64"
    wanted = {
        "R": ("R = k r log(1 + d/(k r eps^2))", k * r * math.log1p(d / (k * r * eps**2))),
        "R_c": ("R_c = r log(1 + d/(r eps^2))", r * math.log1p(d / (r * eps**2))),
    }
    return [_equal(text, value, float(parts[name]), how) for name, (text, value) in wanted.items()]


def single_points(generator: torch.Generator, n: int = 40, d: int = 12, eps: float = 0.7) -> Check:
    """R_c where every point is a group of its own."""
    z = _points(generator, n, d)
    measured = float(MLCLoss(eps)(z, torch.eye(n, dtype=DTYPE))[1]["R_c"])
    how = f"Gamma = I, {n} points of the sphere in R^{d}, float64"
    return _equal("R_c = log(1 + d/eps^2) where nothing is merged", math.log1p(d / eps**2), measured, how)


def convexity(generator: torch.Generator, pairs: int = 200, n: int = 20, d: int = 6, eps: float = 0.7) -> list[Check]:
    """The least second difference of R - R_c between memberships, and its best value against a permutation's."""
    z, loss = _points(generator, n, d), MLCLoss(eps)
    identity = torch.eye(n, dtype=DTYPE)

    def objective(gamma: Tensor) -> float:
        return -float(loss(z, gamma)[0])

    best = objective(identity)
    bends, leads = [], []
    for _ in range(pairs):
        scores = torch.randn(2, n, n, dtype=DTYPE, generator=generator)
        first, second = DoublyStochasticProjection(0.4)(scores)
        ends = objective(first), objective(second)
        bends.append(0.5 * sum(ends) - objective(0.5 * (first + second)))
        leads.append(best - max(ends))
    how = f"{pairs} pairs of random memberships of {n} points in R^{d}, float64"
    return [
        Check("R - R_c is convex in Gamma: least bend of a chord", 0.0, min(bends), how, "at least"),
        Check("a permutation has the largest R - R_c: least lead of Gamma = I", 0.0, min(leads), how, "at least"),
    ]


def contraction(generator: torch.Generator, n: int = 60, d: int = 8) -> list[Check]:
    """The slowest pace of the error of u <- sqrt(u/(K u)), from the error of one step to that of the next."""
    result = []
    c = _points(generator, n, d)
    for eta in (0.5, 0.15):
        logits = c @ c.mT / eta
        f, errors = torch.zeros(n, dtype=DTYPE), []
        limit = DoublyStochasticProjection(eta, 500, 1e-14)(c @ c.mT)
        for _ in range(25):
            total = (logits + f).logsumexp(-1)
            errors.append(float((f + total).norm()))
            f = 0.5 * (f - total)
        pace = (errors[-1] / errors[4]) ** (1.0 / (len(errors) - 5))
        least = float(torch.linalg.eigvalsh(limit)[0])
        how = f"steps 5 to 25, {n} points in R^{d}, eta = {eta}, float64"
        # (I - G)/2 is symmetric: near the solution its norm bounds every step.
        bound = 0.5 * (1.0 - least)
        result.append(
            Check(f"symmetric Sinkhorn contracts by (1 - l)/2 at least, eta = {eta}", bound, pace, how, "at most")
        )
    return result


def _points(generator: torch.Generator, n: int, d: int) -> Tensor:
    return F.normalize(torch.randn(n, d, dtype=DTYPE, generator=generator), dim=-1)


def _equal(theorem: str, predicted: float, measured: float, how: str) -> Check:
    off = ROUNDING * abs(measured)
    return Check(theorem, predicted, measured, how, low=measured - off, high=measured + off)

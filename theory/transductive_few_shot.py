"""What clustering with a Laplacian term rests on: a bound that never rises, vertices, and the limits of its weight.

R(Z) = sum_p (z_p . log z_p + z_p . a_p) - (lambda/2) tr(Z^T W Z). Where W is positive semi-definite, the update
z_p' = softmax(-a_p + lambda sum_q w_pq z_q) is the minimum of an upper bound that touches R at Z, so that R falls by
sum_p KL(z_p, z_p') at least; it is a step of mirror descent with rate 1 on the simplex. Without that the update may go
round for ever: two points that pull each other swap their clusters.

Source: Ziko, Boudiaf, Dolz, Granger, Ben Ayed, Transductive few-shot learning: clustering is all you need? (2021).
"""

import math
from itertools import product

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import rel_entr, softmax

from holonomy.manifolds import Simplex
from holonomy.models.clustering.transductive_few_shot import (
    bound_update,
    discrete_energy,
    knn_affinity,
    relaxed_energy,
)
from holonomy.models.clustering.transductive_few_shot.affinity import kernel_width, stacked_affinity
from holonomy.models.clustering.transductive_few_shot.alternation import Problem, alternate
from holonomy.theory.check import Check

__all__ = ["checks"]

#: Roundings of sums of some hundreds of numbers near 1.
ROUNDING = 1e-10


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; some seconds."""
    rng = np.random.default_rng(seed)
    return [
        *monotone(rng),
        *alternation(rng),
        *vertices(rng),
        *without_pull(rng),
        *large_lambda(rng),
        *not_semidefinite(rng),
        mirror_descent(rng),
    ]


def monotone(rng: np.random.Generator, trials: int = 60, n: int = 60, K: int = 5) -> list[Check]:
    """The largest rise of R at an update, and the least of what it falls by beyond the divergence of the step."""
    rise, surplus, spectrum = -math.inf, math.inf, math.inf
    for trial in range(trials):
        W = knn_affinity(rng.normal(size=(n, 3)), 4, psd_shift=True if trial % 2 else "degrees")
        spectrum = min(spectrum, float(np.linalg.eigvalsh(W.toarray())[0]))
        a, lam, Z = 3.0 * rng.normal(size=(n, K)), 10.0 ** rng.uniform(-1, 1.5), rng.dirichlet(np.ones(K), n)
        for _ in range(30):
            after = softmax(lam * (W @ Z) - a, axis=1)
            fall = relaxed_energy(Z, a, W, lam) - relaxed_energy(after, a, W, lam)
            rise = max(rise, -fall)
            surplus = min(surplus, fall - float(rel_entr(Z, after).sum()))
            Z = after
    how = f"{trials} affinities of {n} points, {K} clusters, lambda from 0.1 to 30, 30 updates of each, float64"
    return [
        Check(
            "W with a diagonal of row sums is positive semi-definite: least eigenvalue",
            -ROUNDING,
            spectrum,
            how,
            "at least",
        ),
        Check("no update raises R: largest rise", ROUNDING, rise, how, "at most"),
        Check("R falls by sum_p KL(z_p, z_p') at least: least surplus", -ROUNDING, surplus, how, "at least"),
    ]


def alternation(rng: np.random.Generator, tasks: int = 20, n: int = 50, K: int = 4) -> list[Check]:
    """The largest rise of R from pass to pass, with means and with modes, some points labelled."""
    X = rng.normal(size=(tasks, n, 6)) + 1.5 * rng.normal(size=(tasks, K, 6))[:, np.arange(n) % K]
    clamp = np.full((tasks, n), -1)
    clamp[:, :K] = np.arange(K)
    result = []
    W = stacked_affinity(X, 3)
    for prototype in ("mean", "mode"):
        problem = Problem(X, clamp, W, 0.5, prototype, kernel_width(X, W))
        solution = alternate(problem, X[:, :K], tol=1e-12)
        rise = max(float(np.diff(course).max(initial=-math.inf)) for course in solution.energies)
        how = f"{tasks} tasks of {n} points, {K} labelled, lambda = 0.5, to a relative change of 1e-12, float64"
        result.append(Check(f"no pass with {prototype}s raises R: largest rise", ROUNDING, rise, how, "at most"))
    return result


def vertices(rng: np.random.Generator, n: int = 6, K: int = 2, lam: float = 0.9) -> list[Check]:
    """E - R over all assignments, and whether both have their minimum at one."""
    X = rng.normal(size=(n, 2))
    W, a = knn_affinity(X, 3), rng.normal(size=(n, K))
    energies = []
    for labels in product(range(K), repeat=n):
        chosen = np.array(labels)
        energies.append((discrete_energy(chosen, a, W, lam), relaxed_energy(np.eye(K)[chosen], a, W, lam)))
    E, R = np.array(energies).T
    gap = E - R
    how = f"all {K**n} assignments of {n} points, k = 3, lambda = {lam}, float64"
    constant = 0.5 * lam * float(W.sum())
    return [
        Check(
            "at vertices E - R = (lambda/2) sum_pq w_pq",
            constant,
            float(gap.mean()),
            how,
            low=float(gap.min()) - 1e-13,
            high=float(gap.max()) + 1e-13,
        ),
        Check("E and R are least at one vertex", 0.0, float(abs(E.argmin() - R.argmin())), how),
    ]


def without_pull(rng: np.random.Generator, n: int = 80, K: int = 6) -> list[Check]:
    """At lambda = 0: updates to the fixed point from anywhere, and its distance from softmax(-a)."""
    a, W = 2.0 * rng.normal(size=(n, K)), knn_affinity(rng.normal(size=(n, 3)), 3)
    start = rng.dirichlet(np.ones(K), n)
    first = bound_update(a, W, 0.0, start, max_iter=1)[0]
    off = float(np.abs(first - softmax(-a, axis=1)).max())
    steps = len(bound_update(a, W, 0.0, start)[1]) - 2  # the last update finds nothing left to do
    how = f"{n} points, {K} clusters, from random assignments, float64"
    return [
        Check("lambda = 0: one update ends at softmax(-a), largest difference", 1e-15, off, how, "at most"),
        Check("lambda = 0: updates that change R", 1.0, float(steps), how),
    ]


def large_lambda(rng: np.random.Generator, sizes: tuple[int, ...] = (3, 3, 2), K: int = 2) -> list[Check]:
    """Clusters per connected component where lambda is large: of the minimum, and of the updates on cliques."""
    n = sum(sizes)
    chains = np.zeros((n, n))
    cliques = np.zeros((n, n))
    low = 0
    for size in sizes:
        part = slice(low, low + size)
        chains[part, part] = np.eye(size, k=1) + np.eye(size, k=-1)
        cliques[part, part] = 1.0  # with loops, which make it positive semi-definite
        low += size
    # Within each component two points next to each other want different clusters.
    a = 0.2 * rng.normal(size=(n, K)) + np.where(np.arange(n)[:, None] % 2 == np.arange(K), 0.0, 2.0)
    all_labels = [np.array(labels) for labels in product(range(K), repeat=n)]
    best = min(all_labels, key=lambda labels: discrete_energy(labels, a, csr_matrix(chains), 100.0))
    small = min(all_labels, key=lambda labels: discrete_energy(labels, a, csr_matrix(chains), 0.0))
    updated = bound_update(a, csr_matrix(cliques), 200.0)[0].argmax(1)
    component = connected_components(csr_matrix(chains))[1]
    count = float(len(sizes))
    where = f"components of {', '.join(map(str, sizes))} points, {K} clusters"
    return [
        Check(
            "lambda large: pairs of component and cluster in the minimum of E = components",
            count,
            _pairs(component, best),
            f"chains, lambda = 100, all {K**n} assignments; {where}",
        ),
        Check(
            "lambda = 0: pairs of component and cluster in the minimum of E > components",
            count + 1,
            _pairs(component, small),
            f"the same at lambda = 0; {where}",
            "at least",
        ),
        Check(
            "lambda large: pairs of component and cluster after updates on cliques = components",
            count,
            _pairs(component, updated),
            f"cliques, lambda = 200; {where}",
        ),
    ]


def not_semidefinite(rng: np.random.Generator, lam: float = 3.0) -> list[Check]:
    """Two points that pull each other, W = [[0, 1], [1, 0]]: the updates swap, and R rises."""
    swap = csr_matrix([[0.0, 1.0], [1.0, 0.0]])
    z = rng.uniform(0.8, 0.95)
    start = np.array([[z, 1.0 - z], [1.0 - z, z]])
    a = np.zeros((2, 2))
    energies = bound_update(a, swap, lam, start, tol=0.0, max_iter=60)[1]
    Z = bound_update(a, swap, lam, start, tol=0.0, max_iter=60)[0]
    after = bound_update(a, swap, lam, Z, tol=0.0, max_iter=1)[0]
    # At a cycle z -> (1 - z): t = 2 z - 1 solves t = tanh(lambda t / 2), the mean field of the other point.
    t = 0.9
    for _ in range(200):
        t = math.tanh(0.5 * lam * t)
    how = f"W = [[0, 1], [1, 0]], a = 0, lambda = {lam}, z = {z:.3f}, 60 updates, float64"
    rise = float(np.diff(energies).max())
    return [
        Check("without a shift R rises at some update", 0.01, rise, how, "at least"),
        Check(
            "the points swap for ever: largest change of an update = t, t = tanh(lambda t/2)",
            t,
            float(np.abs(after - Z).max()),
            how,
            low=float(np.abs(after - Z).max()) - 1e-12,
            high=float(np.abs(after - Z).max()) + 1e-12,
        ),
        Check(
            "with the shift it does not: largest rise",
            ROUNDING,
            float(np.diff(bound_update(a, swap + csr_matrix(np.eye(2)), lam, start, tol=0.0, max_iter=60)[1]).max()),
            how,
            "at most",
        ),
    ]


def mirror_descent(rng: np.random.Generator, n: int = 40, K: int = 5, lam: float = 1.3) -> Check:
    """The update against the retraction of the simplex, x exp(u/x) normalised, along minus the Riemannian gradient."""
    W = knn_affinity(rng.normal(size=(n, 3)), 4)
    a, Z = rng.normal(size=(n, K)), rng.dirichlet(np.ones(K), n)
    gradient = np.log(Z) + a - lam * (W @ Z)
    simplex, z = Simplex(retraction="softmax"), torch.from_numpy(Z)
    stepped = simplex.retr(z, -simplex.egrad2rgrad(z, torch.from_numpy(gradient))).numpy()
    updated = bound_update(a, W, lam, Z, max_iter=1)[0]
    off = float(np.abs(stepped - updated).max())
    how = f"{n} points, {K} clusters, random assignments, lambda = {lam}, float64"
    return Check("an update is a step of rate 1 along the Fisher-Rao gradient: difference", 1e-13, off, how, "at most")


def _pairs(component: np.ndarray, labels: np.ndarray) -> float:
    """Different pairs of a component and a cluster."""
    return float(len(set(zip(component.tolist(), labels.tolist(), strict=True))))

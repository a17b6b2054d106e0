"""The outer loop: prototypes and assignments in turn, for many tasks of one size at once."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix

from holonomy.models.clustering.transductive_few_shot.bound import one_hot, solve_bounds
from holonomy.models.clustering.transductive_few_shot.prototypes import (
    Prototype,
    costs,
    mean_prototypes,
    medoid_prototypes,
    mode_prototypes,
)

__all__ = ["Problem", "Solution", "alternate"]


@dataclass(frozen=True)
class Problem:
    """Tasks of one size, and what is minimised in each.

    Attributes
    ----------
    X : ndarray
        Points (tasks, n, d).
    clamp : ndarray
        (tasks, n): clusters that are given, -1 elsewhere.
    W : scipy.sparse.csr_matrix
        Affinity (tasks n, tasks n), block-diagonal.
    lam : float
        Weight of the Laplacian term; with 0, assignments are hard.
    prototype : {"mean", "mode", "medoid"}
        What stands for a cluster.
    sigma : ndarray
        Widths (tasks,) of modes and medoids.
    """

    X: np.ndarray
    clamp: np.ndarray
    W: csr_matrix
    lam: float
    prototype: Prototype
    sigma: np.ndarray

    def only(self, tasks: np.ndarray) -> "Problem":
        """The problem of some of the tasks."""
        n = self.X.shape[1]
        rows = (tasks[:, None] * n + np.arange(n)).ravel()
        return Problem(
            self.X[tasks], self.clamp[tasks], self.W[rows][:, rows], self.lam, self.prototype, self.sigma[tasks]
        )

    def costs(self, M: np.ndarray) -> np.ndarray:
        """F of points and prototypes (tasks, K, d), as (tasks, n, K)."""
        return costs(self.X, M, self.prototype, self.sigma)

    def nearest(self, a: np.ndarray) -> np.ndarray:
        """One-hot assignments to the least cost, or to the cluster that is given."""
        return one_hot(np.where(self.clamp < 0, a.argmin(2), self.clamp), a.shape[2], a.dtype)

    def prototypes(self, Z: np.ndarray, M: np.ndarray) -> np.ndarray:
        """Prototypes of assignments, from those before."""
        if self.prototype == "mean":
            return mean_prototypes(self.X, Z, M)
        if self.prototype == "mode":
            return mode_prototypes(self.X, Z, M, self.sigma)
        # Rows that are given would always win: the update of the bound optimiser decides, as if they were not.
        pull = (self.W @ Z.reshape(-1, Z.shape[2])).reshape(Z.shape)
        free = torch.softmax(torch.from_numpy(self.lam * pull - self.costs(M)), dim=-1).numpy()
        return medoid_prototypes(self.X, free)

    def assign(
        self, a: np.ndarray, Z: np.ndarray | None, inner_iter: int, inner_tol: float
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Assignments to costs, starting from Z, and the energies on the way."""
        if self.lam == 0.0:
            hard = self.nearest(a)
            return hard, [(hard * a).sum((1, 2), dtype=np.float64)]
        return solve_bounds(a, self.W, self.lam, Z, self.clamp, inner_iter, inner_tol)


@dataclass(frozen=True)
class Solution:
    """What the alternation ends with.

    Attributes
    ----------
    Z : ndarray
        Assignments (tasks, n, K).
    M : ndarray
        Prototypes (tasks, K, d).
    energies : list of ndarray
        For each task R after every pass, or with lam = 0 the sum of the costs.
    inner : list of ndarray
        For each task R at every update of its first pass.
    """

    Z: np.ndarray
    M: np.ndarray
    energies: list[np.ndarray]
    inner: list[np.ndarray]


def alternate(
    problem: Problem,
    M0: np.ndarray,
    max_iter: int = 100,
    tol: float = 1e-5,
    inner_iter: int = 600,
    inner_tol: float = 1e-6,
) -> Solution:
    """Minimise R over assignments and prototypes in turn; with means or modes, no pass raises it.

    Parameters
    ----------
    problem : Problem
        The tasks.
    M0 : ndarray
        Prototypes (tasks, K, d) to start from.
    max_iter, tol : int, float
        Most passes, and the relative change of R at which a task stops.
    inner_iter, inner_tol : int, float
        The same of the bound optimiser within a pass.

    Returns
    -------
    Solution
        Each task's, as if it were alone.
    """
    tasks = len(M0)
    # Before there are assignments, the first prototypes are those of the nearest.
    M = M0.copy() if problem.lam == 0.0 else problem.prototypes(problem.nearest(problem.costs(M0)), M0)
    Z, courses = problem.assign(problem.costs(M), None, inner_iter, inner_tol)
    inner = [np.array(course) for course in zip(*courses, strict=True)]
    energies = [[value] for value in courses[-1]]
    running, part = np.arange(tasks), problem
    for _ in range(max_iter - 1):
        before = np.array([energies[i][-1] for i in running])
        m = part.prototypes(Z[running], M[running])
        z, now = _pass(part, m, Z[running], before, inner_iter, inner_tol)
        Z[running], M[running] = z, m
        for i, value in zip(running, now, strict=True):
            energies[i].append(value)
        going = np.abs(now - before) > tol * np.abs(before)
        if not going.any():
            break
        if not going.all():
            running, part = running[going], part.only(going.nonzero()[0])
    return Solution(Z, M, [np.array(course) for course in energies], inner)


def _pass(
    problem: Problem, M: np.ndarray, Z: np.ndarray, before: np.ndarray, inner_iter: int, inner_tol: float
) -> tuple[np.ndarray, np.ndarray]:
    """Assignments to new prototypes, and R. The bound optimiser starts afresh, which leaves points free to move."""
    a = problem.costs(M)
    new, energies = problem.assign(a, None, inner_iter, inner_tol)
    now = energies[-1]
    worse = (now > before).nonzero()[0]
    if len(worse) and problem.lam > 0.0:
        # Where the fresh start ended higher, updates from the assignments that there were cannot.
        new[worse], energies = problem.only(worse).assign(a[worse], Z[worse], inner_iter, inner_tol)
        now = now.copy()
        now[worse] = energies[-1]
    return new, now

"""K-subspaces clustering, and how far learned subspaces are from true ones."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from holonomy.manifolds import Grassmann
from holonomy.manifolds.linalg import haar
from holonomy.models.clustering.estimator import Estimator
from holonomy.models.clustering.molrg_diffusion.mixture import check_points

__all__ = ["KSubspaces", "principal_subspace", "subspace_recovery_error"]


def principal_subspace(x: Tensor, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Orthonormal basis (D, dim) of the subspace through 0 that holds most of points (n, D).

    Where the points span fewer dimensions the rest is uniformly random, not zeros, nor whatever a solver leaves there.

    Parameters
    ----------
    x : Tensor
        Points (n, D); n may be 0.
    dim : int
        1 to D.
    generator : torch.Generator, optional
        Of the random rest.

    Raises
    ------
    TypeError, ValueError
        Where `x` is not floating, finite and 2-D, or `dim` is out of its range.
    """
    if x.ndim != 2 or not 1 <= dim <= x.shape[1]:
        raise ValueError(f"principal_subspace: wanted x (n, D) and 1 <= dim <= D, got {tuple(x.shape)} and {dim}")
    if len(x):
        check_points("principal_subspace", x, x.shape[1])
    _, sizes, rows = torch.linalg.svd(x, full_matrices=False)
    kept = rows[:dim].mT
    if len(sizes):
        kept = kept[:, sizes[:dim] > sizes[0] * max(x.shape) * torch.finfo(x.dtype).eps]
    missing = dim - kept.shape[1]
    if missing == 0:
        return kept
    device = generator.device if generator is not None else x.device
    fill = haar((x.shape[1], dim), x.dtype, device, generator).to(x.device)[:, :missing]
    fill = fill - kept @ (kept.mT @ fill)
    return torch.linalg.qr(torch.cat([kept, fill], 1))[0]


class KSubspaces(Estimator):
    """Points in K subspaces through 0: assign each to the subspace that holds most of it, fit the subspaces, repeat.

    The objective sum_i max_k |U_k^T x_i|^2 never falls. Of several starts the one of largest objective is kept, never
    the one nearest to a truth.

    Parameters
    ----------
    n_clusters : int
        Number K of subspaces.
    dim : int
        Their dimension d.
    n_init : int, default 20
        Starts from uniformly random subspaces.
    max_iter : int, default 100
        Rounds of a start at most.
    random_state : int, default 0
        Seed.

    Attributes
    ----------
    bases_ : Tensor
        (K, D, d).
    labels_ : ndarray
        (n,), int64.
    inertia_ : float
        Sum of squared distances of the points to their subspaces.
    history_ : list of float
        The objective by round of the start that is kept.
    """

    def __init__(self, n_clusters: int, dim: int, n_init: int = 20, max_iter: int = 100, random_state: int = 0) -> None:
        self.n_clusters = n_clusters
        self.dim = dim
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, x: Any, y: Any = None) -> "KSubspaces":
        """Cluster points.

        Parameters
        ----------
        x : Tensor or ndarray
            Points (n, D), floating.
        y : ignored
            For scikit-learn's sake.

        Raises
        ------
        TypeError
            Where `x` is not floating.
        ValueError
            Where `x` is not finite and 2-D, or a parameter is out of its range.
        """
        points = self._points(x)
        n, ambient = points.shape
        if not 1 <= self.n_clusters <= n or not 1 <= self.dim <= ambient:
            raise ValueError(
                f"KSubspaces: wanted 1 <= n_clusters <= {n} and 1 <= dim <= {ambient}, got {self.n_clusters} and "
                f"{self.dim}"
            )
        if self.n_init < 1 or self.max_iter < 1:
            raise ValueError(
                f"KSubspaces: 'n_init' and 'max_iter' must be at least 1, got {self.n_init}, {self.max_iter}"
            )
        generator = torch.Generator().manual_seed(self.random_state)
        best: tuple[Tensor, list[float]] | None = None
        for _ in range(self.n_init):
            bases, history = self._start(points, generator)
            if best is None or history[-1] > best[1][-1]:
                best = bases, history
        assert best is not None
        self.bases_, self.history_ = best
        held = _held(points, self.bases_)
        self.labels_ = held.argmax(1).cpu().numpy()
        self.inertia_ = float(points.square().sum() - held.amax(1).sum())
        return self

    def predict(self, x: Any) -> np.ndarray:
        """Labels (n,) of points by the fitted subspaces.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        self.check_fitted("bases_")
        points = self._points(x)
        return _held(points.to(self.bases_), self.bases_).argmax(1).cpu().numpy()

    def fit_predict(self, x: Any, y: Any = None) -> np.ndarray:
        """Cluster points and return their labels (n,)."""
        return self.fit(x).labels_

    def _start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        bases = haar((self.n_clusters, x.shape[1], self.dim), x.dtype, generator.device, generator).to(x.device)
        history: list[float] = []
        labels = None
        for _ in range(self.max_iter):
            held = _held(x, bases)
            history.append(float(held.amax(1).sum()))
            now = held.argmax(1)
            if labels is not None and torch.equal(now, labels):
                break
            labels = now
            bases = torch.stack(
                [principal_subspace(x[labels == k], self.dim, generator) for k in range(self.n_clusters)]
            )
        return bases, history

    def _points(self, x: Any) -> Tensor:
        points = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x))
        if points.ndim != 2:
            raise ValueError(f"KSubspaces: 'x' must have shape (n, D), got {tuple(points.shape)}")
        return check_points("KSubspaces", points.detach(), points.shape[1])


def _held(x: Tensor, bases: Tensor) -> Tensor:
    return torch.einsum("kij,ni->nkj", bases, x).square().sum(-1)


def subspace_recovery_error(found: Tensor, true: Tensor) -> tuple[float, list[int]]:
    r"""Largest distance |P - Q|_F between projectors of matched subspaces.

    P and Q are U U^T of a found and a true subspace, matched one to one so that the sum of squared distances is least.
    The distance is sqrt 2 times the length of the sines of the principal angles, so that small ones keep their digits.

    Parameters
    ----------
    found, true : Tensor
        Orthonormal bases (K, D, d), or (D, d) for one.

    Returns
    -------
    error : float
        From 0 to sqrt(2 d).
    permutation : list of int
        For each true subspace, the number of the found one.

    Raises
    ------
    ValueError
        Where the shapes differ.
    """
    found, true = (u.detach() if u.ndim == 3 else u.detach()[None] for u in (found, true))
    if found.shape != true.shape or found.ndim != 3:
        raise ValueError(
            "subspace_recovery_error: 'found' and 'true' must have one shape (K, D, d), got "
            f"{tuple(found.shape)} and {tuple(true.shape)}"
        )
    angles = Grassmann().principal_angles(true.unsqueeze(1), found.to(true).unsqueeze(0))
    squares = 2.0 * angles.sin().square().sum(-1)
    rows, columns = linear_sum_assignment(squares.cpu().numpy())
    return float(squares[rows, columns].amax().sqrt()), [int(i) for i in columns]

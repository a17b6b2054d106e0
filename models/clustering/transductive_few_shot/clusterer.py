"""Prototypes with Laplacian regularisation as a scikit-learn clusterer, with labels of some points as constraints."""

from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from holonomy.models.clustering.transductive_few_shot.affinity import Shift, kernel_width, knn_affinity, shift_to_psd
from holonomy.models.clustering.transductive_few_shot.alternation import Problem, alternate
from holonomy.models.clustering.transductive_few_shot.bound import discrete_energy
from holonomy.models.clustering.transductive_few_shot.inputs import (
    check_k,
    check_lam,
    check_sigma,
    points,
    same_width,
    whole_labels,
)
from holonomy.models.clustering.transductive_few_shot.prototypes import Prototype, costs

__all__ = ["LaplacianKPrototypes"]


class LaplacianKPrototypes(ClusterMixin, BaseEstimator):
    """Cluster points around prototypes while neighbours pull each other: SLK, and with lam = 0 k-means or k-modes.

    Minimised is E = sum_p F(x_p, m_l(p)) + (lam/2) sum_pq w_pq [l(p) != l(q)], F = |x - m|^2 for means and
    -exp(-|x - m|^2/(2 sigma^2)) for modes and medoids, over soft assignments by a bound optimiser that never raises
    its energy, and over prototypes.

    Parameters
    ----------
    n_clusters : int, default 8
        Clusters.
    prototype : {"mean", "mode", "medoid"}, default "mean"
        Means; modes by mean-shift; or the point with the largest assignment to a cluster.
    lam : float, default 1
        Weight of the Laplacian term; with 0, assignments are hard.
    n_neighbors : int, default 3
        Nearest neighbours in the affinity, the point itself counted, 2 to n - 1.
    sigma : float or "auto", default "auto"
        Width of modes; "auto" takes sigma^2 = sum_pq w_pq |x_p - x_q|^2/(5 n).
    init : "k-means++" or array-like, default "k-means++"
        Prototypes (n_clusters, d) to start from. Where clusters have labelled points, their means take the place.
    psd_shift : bool or "degrees", default True
        How the affinity is made positive semi-definite, so that the energy cannot rise, as of `knn_affinity`.
    max_iter, tol : int, float
        Most passes, and the relative change of the energy to stop at.
    random_state : int, RandomState or None, default None
        Of k-means++.

    Attributes
    ----------
    cluster_centers_ : ndarray
        Prototypes (n_clusters, d).
    labels_ : ndarray
        Clusters (n,).
    assignments_ : ndarray
        Soft assignments (n, n_clusters), on the simplex; labelled points are at vertices.
    energy_history_ : ndarray
        R after every pass, or with lam = 0 the sum of the costs.
    discrete_energy_ : float
        E of `labels_` and `cluster_centers_`; the shift of the affinity does not count.
    n_iter_ : int
        Passes.

    Notes
    -----
    Ziko et al. (arXiv:2106.09516); Ziko, Granger, Ben Ayed, *Scalable Laplacian K-modes*, NeurIPS 2018.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        prototype: Prototype = "mean",
        lam: float = 1.0,
        n_neighbors: int = 3,
        sigma: float | Literal["auto"] = "auto",
        init: Any = "k-means++",
        psd_shift: Shift = True,
        max_iter: int = 100,
        tol: float = 1e-5,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.prototype = prototype
        self.lam = lam
        self.n_neighbors = n_neighbors
        self.sigma = sigma
        self.init = init
        self.psd_shift = psd_shift
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "LaplacianKPrototypes":
        """Cluster points.

        Parameters
        ----------
        X : array-like
            Points (n, d).
        y : array-like, optional
            Clusters (n,) of labelled points, 0 to n_clusters - 1, and -1 for the others.

        Raises
        ------
        ValueError
            Where points are not finite, a parameter is out of its range, there are fewer points than clusters, or
            labels are not in -1, ..., n_clusters - 1.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        n = len(X)
        needed = self.lam > 0.0 or (self.prototype != "mean" and self.sigma == "auto")
        self._check_parameters(n, needed)
        clamp = self._constraints(y, n)
        W = knn_affinity(X, self.n_neighbors, psd_shift=False) if needed else csr_matrix((n, n), dtype=X.dtype)
        sigma = np.ones(1)
        if self.prototype != "mean":
            sigma = kernel_width(X[None], W) if self.sigma == "auto" else np.full(1, float(self.sigma))
        whole = shift_to_psd(W, self.psd_shift)
        problem = Problem(X[None], clamp[None], whole, float(self.lam), self.prototype, sigma)
        found = alternate(problem, self._start(X, clamp)[None], self.max_iter, self.tol)
        self.cluster_centers_, self.assignments_ = found.M[0], found.Z[0]
        self.labels_ = found.Z[0].argmax(1)
        self.energy_history_ = found.energies[0]
        self.n_iter_ = len(self.energy_history_)
        self.sigma_ = float(sigma[0])
        self.discrete_energy_ = discrete_energy(self.labels_, problem.costs(found.M)[0], W, self.lam)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Cluster points and return their clusters (n,); arguments as of `fit`."""
        return self.fit(X, y).labels_

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of the nearest prototype of further points (n, d): the Laplacian term is of the fitted points alone.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return costs(X[None], self.cluster_centers_[None], "mean", np.ones(1))[0].argmin(1)

    def _check_parameters(self, n: int, neighbours: bool) -> None:
        where = "LaplacianKPrototypes"
        if not 1 <= self.n_clusters <= n:
            raise ValueError(
                f"{where}: 'n_clusters' must be from 1 to the samples' number, got {self.n_clusters} for n_samples={n}"
            )
        if self.prototype not in ("mean", "mode", "medoid"):
            raise ValueError(f"{where}: 'prototype' must be 'mean', 'mode' or 'medoid', got {self.prototype!r}")
        check_lam(where, self.lam)
        if neighbours:
            check_k(where, "n_neighbors", self.n_neighbors, n)
        if self.sigma != "auto":
            check_sigma(where, self.sigma)
        if self.max_iter < 1 or not self.tol >= 0:
            raise ValueError(
                f"{where}: 'max_iter' must be at least 1 and 'tol' at least 0, got {self.max_iter} and {self.tol}"
            )

    def _constraints(self, y: Any, n: int) -> np.ndarray:
        if y is None:
            return np.full(n, -1)
        labels = whole_labels("LaplacianKPrototypes.fit", "y", y, (n,))
        if labels.min() < -1 or labels.max() >= self.n_clusters:
            raise ValueError(
                f"LaplacianKPrototypes.fit: 'y' must be in -1..{self.n_clusters - 1}, -1 for no label, got "
                f"{labels.min()}..{labels.max()}"
            )
        return labels

    def _start(self, X: np.ndarray, clamp: np.ndarray) -> np.ndarray:
        if isinstance(self.init, str):
            if self.init != "k-means++":
                raise ValueError(f"LaplacianKPrototypes: 'init' must be 'k-means++' or an array, got {self.init!r}")
            M = kmeans_plusplus(X, self.n_clusters, random_state=check_random_state(self.random_state))[0].copy()
        else:
            M = points("LaplacianKPrototypes", "init", self.init).astype(X.dtype)
            same_width("LaplacianKPrototypes", "X", X, "init", M)
            if len(M) != self.n_clusters:
                raise ValueError(f"LaplacianKPrototypes: 'init' must have {self.n_clusters} rows, got {len(M)}")
        for k in np.unique(clamp[clamp >= 0]):
            M[k] = X[clamp == k].mean(0)
        return M

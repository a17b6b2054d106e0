"""Few-shot classification of a batch of queries together: the four methods, and two that leave prototypes fixed."""

from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix

from holonomy.models.clustering.transductive_few_shot.affinity import Shift, kernel_width, stacked_affinity
from holonomy.models.clustering.transductive_few_shot.alternation import Problem, Solution, alternate
from holonomy.models.clustering.transductive_few_shot.bound import solve_bounds
from holonomy.models.clustering.transductive_few_shot.inputs import check_k, check_lam, check_sigma
from holonomy.models.clustering.transductive_few_shot.prototypes import Prototype, squared_distances
from holonomy.models.clustering.transductive_few_shot.support import Support, rectified, support_of

__all__ = ["METHODS", "TransductiveFewShot", "laplacian_shot", "simpleshot"]

Method = Literal["kmeans", "kmodes", "slk-means", "slk-ms"]
#: The prototype of each method, and whether it has the Laplacian term.
METHODS: dict[str, tuple[Prototype, bool]] = {
    "kmeans": ("mean", False),
    "kmodes": ("mode", False),
    "slk-means": ("mean", True),
    "slk-ms": ("mode", True),
}


class TransductiveFewShot:
    """Queries of a task clustered together with its labelled support, whose labels are constraints.

    Clusters start at the support's means. ``kmeans`` and ``kmodes`` assign each point to its nearest prototype;
    ``slk-means`` and ``slk-ms`` assign softly, with neighbours pulling each other by the bound optimiser, and move
    prototypes to means, or by mean-shift to modes.

    Several tasks of one size are solved at once where features have a leading dimension of tasks.

    Parameters
    ----------
    method : {"slk-ms", "slk-means", "kmodes", "kmeans"}, default "slk-ms"
        See above.
    lam : float, default 1
        Weight of the Laplacian term, positive for the slk methods, of no meaning to the others.
    n_neighbors : int, default 3
        Nearest neighbours in the affinity of support and queries, the point itself counted.
    sigma : float or "auto", default "auto"
        Width of modes; "auto" takes sigma^2 = sum_pq w_pq |x_p - x_q|^2/(5 n).
    psd_shift : bool or "degrees", default True
        How the affinity is made positive semi-definite, so that the energy cannot rise, as of `knn_affinity`.
    rectify : bool, default False
        Shift the queries to the support's mean, and start at prototypes weighted by likeness.
    max_iter, tol : int, float
        Most passes, and the relative change of the energy to stop at.

    Attributes
    ----------
    classes_ : ndarray
        Labels (K,), after `fit`.
    solution_ : Solution
        Assignments, prototypes and energies of the last prediction.

    Notes
    -----
    Ziko et al. (arXiv:2106.09516). Accuracy is that of the support's labels: clusters are never matched with classes.
    """

    def __init__(
        self,
        method: Method = "slk-ms",
        lam: float = 1.0,
        *,
        n_neighbors: int = 3,
        sigma: float | Literal["auto"] = "auto",
        psd_shift: Shift = True,
        rectify: bool = False,
        max_iter: int = 100,
        tol: float = 1e-5,
    ) -> None:
        where = "TransductiveFewShot"
        if method not in METHODS:
            raise ValueError(f"{where}: 'method' must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
        check_lam(where, lam)
        if METHODS[method][1] and lam == 0.0:
            raise ValueError(f"{where}: 'lam' must be positive for {method!r}; with 0 it is another of the methods")
        if sigma != "auto":
            check_sigma(where, sigma)
        if max_iter < 1 or not tol >= 0:
            raise ValueError(f"{where}: 'max_iter' must be at least 1 and 'tol' at least 0, got {max_iter} and {tol}")
        self.method, self.lam, self.n_neighbors, self.sigma = method, lam, n_neighbors, sigma
        self.psd_shift, self.rectify, self.max_iter, self.tol = psd_shift, rectify, max_iter, tol

    def fit(self, support: Any, y: Any, classes: Any = None) -> "TransductiveFewShot":
        """Take the support of a task, or of several.

        Parameters
        ----------
        support : array-like or Tensor
            Features (m, d), or (tasks, m, d).
        y : array-like or Tensor
            Integer labels (m,), or (tasks, m) where they differ; shots may be unequal.
        classes : array-like, optional
            The labels that there are; left out, those of `y`.

        Raises
        ------
        ValueError
            Where features are not finite, shapes do not fit, there are fewer than two classes, or a task has a class
            without support.
        """
        self._support = support_of("TransductiveFewShot.fit", support, y, classes)
        self.classes_ = self._support.classes
        return self

    def predict(self, query: Any) -> np.ndarray:
        """Labels (q,) of a task's queries (q, d), all of them together; (tasks, q) of (tasks, q, d)."""
        return self.classes_of(self.predict_proba(query))

    def predict_proba(self, query: Any) -> np.ndarray:
        """Assignments (q, K), or (tasks, q, K), on the simplex; vertices for ``kmeans`` and ``kmodes``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            Where queries are not finite, do not have the support's width and number of tasks, or there are not more
            points than neighbours.
        """
        support = self._fitted()
        queries = support.queries("TransductiveFewShot.predict", query)
        shots = support.X.shape[1]
        M0 = support.prototypes()
        if self.rectify:
            queries, M0 = rectified(support, queries)
        self.solution_ = self._solve(np.concatenate([support.X, queries], 1), support, M0)
        return support.as_given(self.solution_.Z[:, shots:])

    def classes_of(self, proba: np.ndarray) -> np.ndarray:
        """Labels of assignments, the largest."""
        return self._fitted().classes[proba.argmax(-1)]

    def _solve(self, X: np.ndarray, support: Support, M0: np.ndarray) -> Solution:
        tasks, n = X.shape[:2]
        prototype, pulled = METHODS[self.method]
        check_k("TransductiveFewShot", "n_neighbors", self.n_neighbors, n)
        if pulled or (prototype == "mode" and self.sigma == "auto"):
            W = stacked_affinity(X, self.n_neighbors, self.psd_shift if pulled else False)
        else:
            W = csr_matrix((tasks * n, tasks * n), dtype=X.dtype)
        sigma = np.ones(tasks)
        if prototype == "mode":
            sigma = kernel_width(X, W) if self.sigma == "auto" else np.full(tasks, float(self.sigma))
        clamp = np.full((tasks, n), -1)
        clamp[:, : support.X.shape[1]] = support.y
        problem = Problem(X, clamp, W, self.lam if pulled else 0.0, prototype, sigma)
        return alternate(problem, M0, self.max_iter, self.tol)

    def _fitted(self) -> Support:
        if not hasattr(self, "_support"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this TransductiveFewShot is not fitted: call fit(support, y) first")
        return self._support


def simpleshot(support: Any, y: Any, query: Any) -> np.ndarray:
    """Label each query by the nearest mean of a class: SimpleShot on CL2N features, ProtoNet's rule on raw ones.

    Parameters
    ----------
    support, y, query
        As of `TransductiveFewShot`: one task, or several.

    Returns
    -------
    ndarray
        Labels (q,), or (tasks, q).
    """
    labelled = support_of("simpleshot", support, y)
    squares = squared_distances(labelled.queries("simpleshot", query), labelled.prototypes())
    return labelled.as_given(labelled.classes[squares.argmin(2)])


def laplacian_shot(
    support: Any,
    y: Any,
    query: Any,
    lam: float = 1.0,
    k: int = 3,
    *,
    psd_shift: Shift = True,
    rectify: bool = False,
) -> np.ndarray:
    """Label queries by bound updates with fixed prototypes, over the affinity of the queries alone.

    Parameters
    ----------
    support, y, query
        As of `TransductiveFewShot`: one task, or several.
    lam : float, default 1
        Weight of the Laplacian term.
    k : int, default 3
        Nearest neighbours, the point itself counted.
    psd_shift, rectify : bool
        As of `TransductiveFewShot`.

    Returns
    -------
    ndarray
        Labels (q,), or (tasks, q).

    Notes
    -----
    Ziko, Dolz, Granger, Ben Ayed, *Laplacian Regularized Few-Shot Learning*, ICML 2020.
    """
    check_lam("laplacian_shot", lam)
    labelled = support_of("laplacian_shot", support, y)
    queries = labelled.queries("laplacian_shot", query)
    check_k("laplacian_shot", "k", k, queries.shape[1])
    M = labelled.prototypes()
    if rectify:
        queries, M = rectified(labelled, queries)
    free = np.full(queries.shape[:2], -1)
    W = stacked_affinity(queries, k, psd_shift)
    Z, _ = solve_bounds(squared_distances(queries, M), W, lam, None, free)
    return labelled.as_given(labelled.classes[Z.argmax(2)])

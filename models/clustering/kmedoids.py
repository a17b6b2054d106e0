"""K-medoids on any manifold, as a scikit-learn clusterer: centres are points of the data."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from holonomy.manifolds import Manifold
from holonomy.models.clustering.kmeans import GeodesicClusterer, plus_plus

__all__ = ["KMedoids"]


class KMedoids(GeodesicClusterer):
    """Minimise the sum of geodesic distances of points to the medoids of their clusters, which are points themselves.

    Partitioning around medoids: from a start, the exchange of a medoid with another point that lowers the sum most is
    made until none lowers it. All exchanges are compared in one pass over the matrix of distances, whose memory is
    quadratic in the number of points. Needs distances only: any manifold with `dist` will do.

    Parameters
    ----------
    n_clusters : int, default 8
        Clusters.
    manifold : Manifold, optional
        Where the points lie; Euclidean space by default.
    point_shape : tuple of int, optional
        Shape of one point, whose flattened entries are a row. Default: a row is a point.
    init : "k-means++" or "build", default "k-means++"
        Points drawn in proportion to their distances to those before, or the greedy choice, one by one.
    n_init : int, default 4
        Starts, of which the best is kept (1 with "build", which is not random).
    max_iter : int, default 300
        Most exchanges.
    random_state : int, RandomState or None, default None
        Of the starts.

    Attributes
    ----------
    cluster_centers_ : ndarray
        Flattened medoids (n_clusters, d).
    medoid_indices_ : ndarray
        Which rows they are, (n_clusters,).
    labels_ : ndarray
        Clusters (n,).
    inertia_ : float
        Sum of distances to the medoids.
    n_iter_ : int
        Passes of the start that was kept.

    Notes
    -----
    Kaufman, Rousseeuw, Finding groups in data, 1990. Schubert, Rousseeuw, Faster k-medoids clustering: improving the
    PAM, CLARA, and CLARANS algorithms, SISAP 2019.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        manifold: Manifold | None = None,
        point_shape: tuple[int, ...] | None = None,
        init: str = "k-means++",
        n_init: int = 4,
        max_iter: int = 300,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.manifold = manifold
        self.point_shape = point_shape
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Cluster points.

        Parameters
        ----------
        X : array-like
            Flattened points (n, d).
        y : None
            Ignored.

        Raises
        ------
        ValueError
            Where points are not finite or off the manifold, a parameter is out of its range, or there are fewer
            points than clusters.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        self._check(len(X))
        if self.init not in ("k-means++", "build"):
            raise ValueError(f"KMedoids: 'init' must be 'k-means++' or 'build', got {self.init!r}")
        manifold, x = self._points(X)
        rng = check_random_state(self.random_state)
        with torch.no_grad():
            distances = manifold.cdist(x, x)
            distances.fill_diagonal_(0.0)
            if self.init == "build":
                starts = [_build(distances, self.n_clusters)]
            else:
                starts = [plus_plus(manifold, x, self.n_clusters, rng, 1) for _ in range(self.n_init)]
            runs = [_exchange(distances, start, self.max_iter) for start in starts]
            medoids, self.inertia_, self.n_iter_ = min(runs, key=lambda run: run[1])
            self.labels_ = distances[:, medoids].argmin(-1).numpy().astype(np.int32)
        self.medoid_indices_ = medoids.numpy()
        self.cluster_centers_ = X[self.medoid_indices_]
        return self


def _build(distances: Tensor, k: int) -> Tensor:
    """Medoids chosen one by one, each to lower the sum most."""
    nearest = torch.full((len(distances),), torch.inf, dtype=distances.dtype)
    chosen: list[int] = []
    for _ in range(k):
        totals = torch.minimum(nearest.unsqueeze(-1), distances).sum(0)
        totals[chosen] = torch.inf
        chosen.append(int(totals.argmin()))
        nearest = torch.minimum(nearest, distances[:, chosen[-1]])
    return torch.tensor(chosen)


def _exchange(distances: Tensor, medoids: Tensor, max_iter: int) -> tuple[Tensor, float, int]:
    """Make the best exchange until none lowers the sum; return medoids, the sum, and the passes."""
    medoids, k = medoids.clone(), len(medoids)
    slack = 64.0 * torch.finfo(distances.dtype).eps
    for count in range(1, max_iter + 1):  # noqa: B007
        own = distances[:, medoids]
        first, label = own.min(-1)
        second = own.scatter(-1, label.unsqueeze(-1), torch.inf).amin(-1)
        # With h for the medoid i, a point of another cluster may come to h; one of cluster i goes to h or its second.
        others = (distances - first.unsqueeze(-1)).clamp_max(0.0)
        orphans = torch.minimum(distances, second.unsqueeze(-1)) - first.unsqueeze(-1) - others
        change = torch.zeros(k, len(distances), dtype=distances.dtype).index_add_(0, label, orphans) + others.sum(0)
        best = int(change.argmin())
        i, h = divmod(best, len(distances))
        if float(change[i, h]) >= -slack * float(first.sum()):
            break
        medoids[i] = h
    return medoids, float(distances[:, medoids].amin(-1).sum()), count

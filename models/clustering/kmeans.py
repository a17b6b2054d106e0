"""K-means on any manifold, as a scikit-learn clusterer: geodesic distances, and Fréchet means as centres."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from holonomy.manifolds import Euclidean, Manifold, frechet_mean

__all__ = ["GeodesicClusterer", "KMeans", "plus_plus"]


class GeodesicClusterer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """What clusterers around centres share: rows are flattened points, centres are points, distances are geodesic."""

    n_clusters: int
    manifold: Manifold | None
    point_shape: tuple[int, ...] | None
    n_init: int
    max_iter: int
    cluster_centers_: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of the nearest centre of each point, shape (n,).

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        return self._distances(X).argmin(1)

    def transform(self, X: Any) -> np.ndarray:
        """Geodesic distances of points to all centres, shape (n, n_clusters).

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        return self._distances(X)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def _distances(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        manifold, x = self._points(X)
        centres = torch.as_tensor(self.cluster_centers_.astype(X.dtype)).reshape(-1, *x.shape[1:])
        return manifold.cdist(x, centres).numpy()

    def _points(self, X: np.ndarray) -> tuple[Manifold, Tensor]:
        """The manifold, and rows as its points."""
        manifold = Euclidean(1) if self.manifold is None else self.manifold
        if not isinstance(manifold, Manifold):
            raise TypeError(f"{type(self).__name__}: 'manifold' must be a Manifold, got {type(manifold).__name__}")
        shape = tuple(X.shape[1:]) if self.point_shape is None else tuple(self.point_shape)
        if int(np.prod(shape)) != X.shape[1]:
            raise ValueError(f"{type(self).__name__}: 'point_shape' {shape} does not fit rows of {X.shape[1]} numbers")
        x = torch.as_tensor(np.array(X)).reshape(-1, *shape)  # a copy: memory may be read-only
        manifold.assert_check_point_on_manifold(x)
        return manifold, x

    def _check(self, n: int) -> None:
        where = type(self).__name__
        if not 1 <= self.n_clusters <= n:
            raise ValueError(
                f"{where}: 'n_clusters' must be from 1 to the samples' number, got {self.n_clusters} for n_samples={n}"
            )
        for name in ("n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{where}: {name!r} must be at least 1, got {getattr(self, name)}")


class KMeans(GeodesicClusterer):
    """Minimise the sum of squared geodesic distances of points to the Fréchet means of their clusters.

    Lloyd's alternation; where a cluster is left without points, it starts again at the point farthest from its centre.
    On manifolds of positive curvature clusters must be narrow enough for their means to be unique (`frechet_mean`).

    Parameters
    ----------
    n_clusters : int, default 8
        Clusters.
    manifold : Manifold, optional
        Where the points lie; Euclidean space by default, where the result is that of scikit-learn's KMeans.
    point_shape : tuple of int, optional
        Shape of one point, whose flattened entries are a row: of matrices, say. Default: a row is a point.
    init : "k-means++", "random" or array-like, default "k-means++"
        Centres to start from: drawn in proportion to squared geodesic distances, the best of 2 + log(n_clusters)
        candidates each; points drawn alike; or flattened points (n_clusters, d).
    n_init : int, default 10
        Starts, of which the one of least inertia is kept (1 where `init` is an array).
    max_iter : int, default 300
        Most passes.
    tol : float, default 1e-4
        Mean squared distance that centres move, in parts of the inertia per point, to stop at.
    random_state : int, RandomState or None, default None
        Of the starts.

    Attributes
    ----------
    cluster_centers_ : ndarray
        Flattened points (n_clusters, d).
    labels_ : ndarray
        Clusters (n,).
    inertia_ : float
        Sum of squared distances to the centres.
    n_iter_ : int
        Passes of the start that was kept.

    Notes
    -----
    Arthur, Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        manifold: Manifold | None = None,
        point_shape: tuple[int, ...] | None = None,
        init: Any = "k-means++",
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.manifold = manifold
        self.point_shape = point_shape
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
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
        if not self.tol >= 0.0:
            raise ValueError(f"KMeans: 'tol' must be at least 0, got {self.tol}")
        manifold, x = self._points(X)
        rng = check_random_state(self.random_state)
        starts = self.n_init if isinstance(self.init, str) else 1
        with torch.no_grad():
            runs = [_lloyd(manifold, x, self._start(manifold, x, rng), self.max_iter, self.tol) for _ in range(starts)]
        centres, labels, self.inertia_, self.n_iter_ = min(runs, key=lambda run: run[2])
        self.cluster_centers_ = centres.reshape(len(centres), -1).numpy()
        self.labels_ = labels.numpy().astype(np.int32)
        return self

    def _start(self, manifold: Manifold, x: Tensor, rng: np.random.RandomState) -> Tensor:
        if not isinstance(self.init, str):
            centres = torch.as_tensor(np.array(self.init)).to(x.dtype)
            if centres.numel() != self.n_clusters * x[0].numel():
                raise ValueError(
                    f"KMeans: 'init' must have shape {(self.n_clusters, x[0].numel())}, got {tuple(centres.shape)}"
                )
            return centres.reshape(self.n_clusters, *x.shape[1:])
        if self.init == "random":
            return x[torch.as_tensor(rng.permutation(len(x))[: self.n_clusters])]
        if self.init == "k-means++":
            return x[plus_plus(manifold, x, self.n_clusters, rng, 2)]
        raise ValueError(f"KMeans: 'init' must be 'k-means++', 'random' or an array, got {self.init!r}")


def plus_plus(manifold: Manifold, x: Tensor, k: int, rng: np.random.RandomState, power: int) -> Tensor:
    """Indices of k points drawn in proportion to a power of the distance to those before; the best of some each."""
    chosen = [int(rng.randint(len(x)))]
    nearest = manifold.cdist(x, x[chosen]).squeeze(-1) ** power
    trials = 2 + int(np.log(k))
    for _ in range(1, k):
        mass = nearest.double().cumsum(0)
        if float(mass[-1]) > 0.0:
            levels = torch.as_tensor(rng.uniform(size=trials)) * mass[-1]
            candidates = torch.searchsorted(mass, levels, right=True).clamp_max(len(x) - 1)
        else:  # all points are centres already
            candidates = torch.as_tensor(rng.randint(len(x), size=trials))
        costs = torch.minimum(nearest.unsqueeze(-1), manifold.cdist(x, x[candidates]) ** power)
        best = int(costs.sum(0).argmin())
        chosen.append(int(candidates[best]))
        nearest = costs[:, best]
    return torch.tensor(chosen)


def _lloyd(
    manifold: Manifold, x: Tensor, centres: Tensor, max_iter: int, tol: float
) -> tuple[Tensor, Tensor, float, int]:
    """Alternate nearest centres and means; return centres, the labels they give, their inertia, and the passes."""
    labels = torch.full((len(x),), -1)
    for count in range(1, max_iter + 1):  # noqa: B007
        square, renewed = manifold.cdist(x, centres).square().min(-1)
        stable = bool((renewed == labels).all())
        labels = renewed
        if stable:
            break
        moved = centres.clone()
        far = iter(square.argsort(descending=True).tolist())
        for k in range(len(centres)):
            members = x[labels == k]
            moved[k] = frechet_mean(manifold, members, start=centres[k]) if len(members) else x[next(far)]
        shift = float(manifold.dist2(centres, moved).mean())
        centres = moved
        if shift <= tol * float(square.mean()):
            break
    square, labels = manifold.cdist(x, centres).square().min(-1)
    return centres, labels, float(square.sum()), count

"""K-means and k-medoids: scikit-learn's checks and its KMeans, brute force, groups on curved spaces."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Peer
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from holonomy.manifolds import Grassmann, Manifold, MembershipError, PoincareBall, Sphere, frechet_mean
from holonomy.models.clustering.kmeans import KMeans
from holonomy.models.clustering.kmedoids import KMedoids

X, Y = make_blobs(120, 4, centers=3, cluster_std=1.5, random_state=1)
BOTH = [KMeans, KMedoids]


@parametrize_with_checks([KMeans(n_clusters=3, n_init=2), KMedoids(n_clusters=3), KMedoids(n_clusters=3, init="build")])
def test_all_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_on_euclidean_space_it_is_scikit_learns() -> None:
    ours = KMeans(3, init=X[:3], tol=0.0).fit(X)
    peer = Peer(3, init=X[:3], n_init=1, algorithm="lloyd", tol=0.0).fit(X)
    assert (ours.labels_ == peer.labels_).all()
    assert np.abs(ours.cluster_centers_ - peer.cluster_centers_).max() < 1e-12
    assert ours.inertia_ == pytest.approx(peer.inertia_, rel=1e-12)
    assert np.abs(ours.transform(X) - peer.transform(X)).max() < 1e-10


def groups(manifold: Manifold, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three groups around random points, narrow against their distances."""
    generator = torch.Generator().manual_seed(seed)
    centres = manifold.random(3, *shape, dtype=torch.float64, generator=generator)
    x = centres.repeat_interleave(20, 0)
    x = manifold.retr(x, 0.08 * manifold.random_tangent(x, generator=generator))
    return x.reshape(60, -1).numpy(), np.repeat(np.arange(3), 20)


CURVED: list[tuple[Manifold, tuple[int, ...]]] = [(Sphere(), (4,)), (PoincareBall(c=0.5), (3,)), (Grassmann(), (5, 2))]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("manifold", "shape"), CURVED, ids=lambda v: str(v))
def test_groups_are_found_on_curved_spaces(kind: Any, manifold: Manifold, shape: tuple[int, ...]) -> None:
    x, labels = groups(manifold, shape)
    model = kind(3, manifold=manifold, point_shape=shape, random_state=0).fit(x)
    assert adjusted_rand_score(labels, model.labels_) == 1.0
    assert (model.predict(x) == model.labels_).all()
    points = torch.as_tensor(x).reshape(-1, *shape)
    centres = torch.as_tensor(model.cluster_centers_).reshape(-1, *shape)
    manifold.assert_check_point_on_manifold(centres)
    distances = manifold.cdist(points, centres)
    torch.testing.assert_close(torch.as_tensor(model.transform(x)), distances)
    power = 2 if kind is KMeans else 1
    assert model.inertia_ == pytest.approx(float((distances.amin(-1) ** power).sum()), rel=1e-12)


def test_centres_are_the_means_of_their_clusters() -> None:
    x, _ = groups(Sphere(), (3,), seed=4)
    model = KMeans(5, manifold=Sphere(), random_state=0, tol=0.0).fit(x)
    for k in range(5):
        mean = frechet_mean(Sphere(), torch.as_tensor(x[model.labels_ == k]))
        assert float(Sphere().dist(mean, torch.as_tensor(model.cluster_centers_[k]))) < 1e-11


def test_no_partition_of_a_small_set_is_better() -> None:
    x = Sphere().random(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).abs()
    distances = Sphere().cdist(x, x)
    best = min(float(distances[:, list(s)].amin(-1).sum()) for s in combinations(range(9), 3))
    model = KMedoids(3, manifold=Sphere(), n_init=10, random_state=0).fit(x.numpy())
    assert model.inertia_ == pytest.approx(best, rel=1e-12)
    cost = []
    for code in range(2**8):  # the partitions in two, the last point in the second part
        part = torch.tensor([code >> i & 1 for i in range(9)], dtype=torch.bool)
        halves = [h for h in (x[part], x[~part]) if len(h)]
        cost.append(sum(float(Sphere().dist2(frechet_mean(Sphere(), h), h).sum()) for h in halves))
    model = KMeans(2, manifold=Sphere(), n_init=20, random_state=0, tol=0.0).fit(x.numpy())
    assert model.inertia_ == pytest.approx(min(cost), rel=1e-9)


def test_an_empty_cluster_starts_again() -> None:
    far = np.array([[0.0, 0.0], [1.0, 0.0], [100.0, 100.0]])
    x = np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0], [1.1, 0.0], [5.0, 0.0]])
    model = KMeans(3, init=far).fit(x)
    assert len(set(model.labels_)) == 3


def test_seeds_repeat() -> None:
    for kind in BOTH:
        one, two = (kind(4, random_state=3).fit(X) for _ in range(2))
        assert (one.labels_ == two.labels_).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'n_clusters' must be from 1 to the samples' number, got 0"):
        KMeans(0).fit(X)
    with pytest.raises(ValueError, match=r"'init' must be 'k-means\+\+', 'random' or an array, got 'best'"):
        KMeans(2, init="best").fit(X)
    with pytest.raises(ValueError, match=r"'init' must have shape \(2, 4\)"):
        KMeans(2, init=X[:3]).fit(X)
    with pytest.raises(ValueError, match="'init' must be"):
        KMedoids(2, init="best").fit(X)
    with pytest.raises(ValueError, match="'tol' must be at least 0"):
        KMeans(2, tol=-1.0).fit(X)
    with pytest.raises(ValueError, match="'n_init' must be at least 1, got 0"):
        KMedoids(2, n_init=0).fit(X)
    with pytest.raises(MembershipError, match="off the manifold"):
        KMeans(2, manifold=Sphere()).fit(X)
    with pytest.raises(TypeError, match="'manifold' must be a Manifold, got str"):
        KMeans(2, manifold="sphere").fit(X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'point_shape'"):
        KMeans(2, manifold=Grassmann(), point_shape=(3, 2)).fit(X)
    with pytest.raises(NotFittedError):
        KMeans(2).predict(X)

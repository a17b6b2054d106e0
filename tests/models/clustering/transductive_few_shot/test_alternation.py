"""The outer loop: monotone energies, k-means of scikit-learn, labels kept, tasks at once, symmetries."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from holonomy.models.clustering.transductive_few_shot.affinity import kernel_width, stacked_affinity
from holonomy.models.clustering.transductive_few_shot.alternation import Problem, Solution, alternate
from holonomy.models.clustering.transductive_few_shot.prototypes import Prototype

TASKS = [make_blobs(45, 5, centers=3, cluster_std=2.5, random_state=seed)[0] for seed in range(12)]
X = np.stack(TASKS) / 10.0
M0 = X[:, :3].copy()
FREE = np.full(X.shape[:2], -1)
GIVEN = FREE.copy()
GIVEN[:, :3] = np.arange(3)


def solve(
    X: np.ndarray, M0: np.ndarray, clamp: np.ndarray, lam: float, prototype: Prototype, tol: float = 1e-5
) -> Solution:
    W = stacked_affinity(X, 4)
    return alternate(Problem(X, clamp, W, lam, prototype, kernel_width(X, W)), M0, tol=tol)


@pytest.mark.parametrize("clamp", [FREE, GIVEN], ids=["free", "labelled"])
@pytest.mark.parametrize("prototype", ["mean", "mode"])
@pytest.mark.parametrize("lam", [0.0, 0.2, 1.0, 10.0])
def test_no_pass_raises_the_energy(lam: float, prototype: Prototype, clamp: np.ndarray) -> None:
    solution = solve(X, M0, clamp, lam, prototype, tol=1e-12)
    assert max(np.diff(course).max(initial=-np.inf) for course in solution.energies) <= 1e-10
    assert max(np.diff(course).max(initial=-np.inf) for course in solution.inner) <= 1e-10
    assert max(len(course) for course in solution.energies) > 3


def test_without_pull_and_labels_it_is_lloyd_s_algorithm() -> None:
    solution = solve(X, M0, FREE, 0.0, "mean", tol=0.0)
    for x, m0, Z, M in zip(X, M0, solution.Z, solution.M, strict=True):
        peer = KMeans(3, init=m0, n_init=1, algorithm="lloyd", tol=0.0).fit(x)
        assert (Z.argmax(1) == peer.labels_).all()
        assert np.abs(M - peer.cluster_centers_).max() < 1e-12


@pytest.mark.parametrize("prototype", ["mean", "mode", "medoid"])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_labels_stay_and_rows_are_on_the_simplex(lam: float, prototype: Prototype) -> None:
    Z = solve(X, M0, GIVEN, lam, prototype).Z
    assert (Z[:, :3] == np.eye(3)).all()
    assert np.abs(Z.sum(2) - 1.0).max() < 1e-14
    assert Z.min() >= 0.0
    # Without labels some of these rows move: it is the constraint that holds them.
    moved = solve(X, M0[:, ::-1].copy(), FREE, lam, prototype).Z[:, :3].argmax(2) != np.arange(3)
    assert moved.any()


@pytest.mark.parametrize("prototype", ["mean", "mode", "medoid"])
def test_tasks_together_are_tasks_one_by_one(prototype: Prototype) -> None:
    together = solve(X, M0, GIVEN, 1.0, prototype)
    for i in range(len(X)):
        part = slice(i, i + 1)
        alone = solve(X[part], M0[part], GIVEN[part], 1.0, prototype)
        assert np.abs(alone.Z[0] - together.Z[i]).max() < 1e-12
        assert len(alone.energies[0]) == len(together.energies[i])
    assert len({len(course) for course in together.energies}) > 1


@pytest.mark.parametrize("prototype", ["mean", "mode", "medoid"])
def test_equivariance_over_points_clusters_and_motions(prototype: Prototype) -> None:
    rng = np.random.default_rng(0)
    before = solve(X, M0, FREE, 1.0, prototype)
    points, clusters = rng.permutation(45), np.array([2, 0, 1])
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    after = solve(X[:, points] @ turn, M0[:, clusters] @ turn, FREE, 1.0, prototype)
    # Some passes of sums in another order; mean-shift itself stops at 1e-5 of a length.
    assert np.abs(after.Z - before.Z[:, points][:, :, clusters]).max() < 1e-9
    assert np.abs(after.M - before.M[:, clusters] @ turn).max() < 1e-9


def test_float32_follows_float64() -> None:
    double, single = (
        solve(X, M0, GIVEN, 1.0, "mode"),
        solve(X.astype(np.float32), M0.astype(np.float32), GIVEN, 1.0, "mode"),
    )
    assert single.Z.dtype == single.M.dtype == np.float32
    assert (double.Z.argmax(2) == single.Z.argmax(2)).mean() > 0.99

"""The estimator: scikit-learn's own checks, KMeans as a limit, constraints, energies against scikit-learn's KMeans."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from holonomy.models.clustering.transductive_few_shot import LaplacianKPrototypes, discrete_energy, knn_affinity
from holonomy.models.clustering.transductive_few_shot.prototypes import squared_distances

X, Y = make_blobs(120, 4, centers=3, cluster_std=2.0, random_state=1)
X = X / 5.0

CHECKED: list[dict[str, Any]] = [{}, {"lam": 0.0}, {"prototype": "mode", "lam": 0.5}, {"prototype": "medoid"}]
#: These hand three classes to one or two clusters, as a target that is to be ignored; here they are constraints.
WITH_A_TARGET = dict.fromkeys(
    (
        "check_dont_overwrite_parameters",
        "check_dtype_object",
        "check_estimators_nan_inf",
        "check_fit2d_1feature",
        "check_fit2d_predict1d",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
    ),
    "y holds constraints, not a target",
)


class Unlabelled(LaplacianKPrototypes):
    """The estimator as scikit-learn's checks take a clusterer to be: what they give as y is no constraint."""

    def fit(self, X: Any, y: Any = None) -> "Unlabelled":
        super().fit(X)
        return self


@parametrize_with_checks([Unlabelled(**one) for one in CHECKED])
def test_all_scikit_learn_checks_without_constraints(estimator: Any, check: Any) -> None:
    check(estimator)


@parametrize_with_checks([LaplacianKPrototypes()], expected_failed_checks=lambda _: WITH_A_TARGET)
def test_scikit_learn_checks_with_constraints(estimator: Any, check: Any) -> None:
    check(estimator)


def test_without_pull_it_is_kmeans() -> None:
    start = X[:3]
    ours = LaplacianKPrototypes(3, lam=0.0, init=start, tol=0.0).fit(X)
    peer = KMeans(3, init=start, n_init=1, algorithm="lloyd", tol=0.0).fit(X)
    assert (ours.labels_ == peer.labels_).all()
    assert np.abs(ours.cluster_centers_ - peer.cluster_centers_).max() < 1e-12
    assert abs(ours.energy_history_[-1] - peer.inertia_) < 1e-10
    assert (ours.predict(X) == peer.predict(X)).all()


@pytest.mark.parametrize("prototype", ["mean", "mode", "medoid"])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_constraints_hold_and_place_clusters(prototype: Any, lam: float) -> None:
    y = np.full(120, -1)
    for k in range(3):
        y[np.flatnonzero(k == Y)[:4]] = (k + 1) % 3
    model = LaplacianKPrototypes(3, prototype=prototype, lam=lam, random_state=0)
    found = model.fit_predict(X, y)
    assert (found[y >= 0] == y[y >= 0]).all()
    assert (model.assignments_[y >= 0] == np.eye(3)[y[y >= 0]]).all()
    assert (found == (Y + 1) % 3).mean() > 0.9
    assert np.abs(model.assignments_.sum(1) - 1).max() < 1e-14


@pytest.mark.parametrize("prototype", ["mean", "mode"])
def test_history_never_rises_and_ends_at_its_discrete_energy(prototype: Any) -> None:
    model = LaplacianKPrototypes(3, prototype=prototype, lam=2.0, random_state=0, tol=1e-12).fit(X)
    assert len(model.energy_history_) == model.n_iter_ > 2
    assert np.diff(model.energy_history_).max() <= 1e-10
    squares = squared_distances(X[None], model.cluster_centers_[None])[0]
    F = squares if prototype == "mean" else -np.exp(-squares / (2 * model.sigma_**2))
    W = knn_affinity(X, psd_shift=False)
    assert abs(model.discrete_energy_ - discrete_energy(model.labels_, F, W, 2.0)) < 1e-10


def test_large_lambda_on_separate_cliques_gives_one_cluster_each() -> None:
    rng = np.random.default_rng(0)
    cliques = np.concatenate([rng.normal(size=(5, 2)) * 0.5 + 30.0 * np.array([i, i % 2]) for i in range(4)])
    W = knn_affinity(cliques, 5)
    count, component = connected_components(W)
    assert count == 4
    # Two clusters for four components: the pull alone keeps each whole.
    labels = LaplacianKPrototypes(2, lam=1e4, n_neighbors=5, random_state=0).fit_predict(cliques)
    assert all(len(set(labels[component == c])) == 1 for c in range(4))


def test_pull_leaves_fewer_neighbours_in_two_clusters_than_kmeans() -> None:
    digits, target = load_digits(return_X_y=True)
    digits, target = digits[:600] / 16.0, target[:600]
    plain = LaplacianKPrototypes(10, lam=0.0, random_state=0).fit(digits)
    W = knn_affinity(digits, 3, psd_shift=False)

    def cut(labels: np.ndarray) -> float:
        return discrete_energy(labels, np.zeros((600, 10)), W, 1.0)

    pulled = LaplacianKPrototypes(10, lam=1.0, random_state=0).fit(digits)
    assert cut(pulled.labels_) < 0.8 * cut(plain.labels_)


def test_same_seed_same_result_and_dtypes() -> None:
    first, second = (LaplacianKPrototypes(3, random_state=5).fit(X) for _ in range(2))
    assert (first.assignments_ == second.assignments_).all()
    single = LaplacianKPrototypes(3, random_state=5).fit(X.astype(np.float32))
    assert single.cluster_centers_.dtype == np.float32


def test_importing_the_package_does_not_load_scikit_learn() -> None:
    code = (
        "import sys, holonomy.models.clustering.transductive_few_shot as t;"
        "assert 'sklearn' not in sys.modules; t.LaplacianKPrototypes; assert 'sklearn' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_clusters": 0}, "'n_clusters' must be from 1"),
        ({"n_clusters": 121}, "'n_clusters'.*got 121 for n_samples=120"),
        ({"lam": -1.0}, "'lam'.*got -1"),
        ({"n_neighbors": 1}, "'n_neighbors'.*got 1"),
        ({"n_neighbors": 120}, "'n_neighbors'.*got 120"),
        ({"sigma": -1.0, "prototype": "mode"}, "'sigma'"),
        ({"prototype": "median"}, "'prototype'.*'median'"),
        ({"init": "random"}, "'init'.*'random'"),
        ({"init": X[:2]}, "'init' must have 3 rows, got 2"),
        ({"init": X[:3, :2]}, "'X' and 'init'"),
        ({"max_iter": 0}, "'max_iter'"),
    ],
)
def test_parameters_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaplacianKPrototypes(**({"n_clusters": 3} | arguments)).fit(X)


def test_inputs_are_refused() -> None:
    model = LaplacianKPrototypes(3)
    with pytest.raises(NotFittedError):
        model.predict(X)
    for y, message in ((np.full(120, 3), r"-1\.\.2"), (np.full(120, -2), r"-1\.\.2"), (np.zeros(5, int), "'y'")):
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.where(X > 1, np.nan, X))
    with pytest.raises(TypeError, match="'y' must be integers"):
        model.fit(X, np.zeros(120))

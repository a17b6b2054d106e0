"""Few-shot classification: baselines by their definitions, labels that stay, unequal shots, many tasks, refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestCentroid

from holonomy.models.clustering.transductive_few_shot import (
    TransductiveFewShot,
    bound_update,
    knn_affinity,
    laplacian_shot,
    normalize_features,
    simpleshot,
)

METHODS = ("kmeans", "kmodes", "slk-means", "slk-ms")
RNG = np.random.default_rng(0)
CENTRES = 2.0 * RNG.normal(size=(4, 6))


def task(shots: list[int], queries: list[int], seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    y, z = np.arange(4).repeat(shots), np.arange(4).repeat(queries)
    return (*(CENTRES[k] + spread * rng.normal(size=(len(k), 6)) for k in (y, z)), y, z)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shots", [[1, 1, 1, 1], [5, 5, 5, 5], [1, 4, 2, 7]], ids=["1", "5", "unequal"])
def test_clusters_beat_the_nearest_mean_at_one_shot_and_keep_support(method: Any, shots: list[int]) -> None:
    gains = []
    for seed in range(30):
        support, query, y, z = task(shots, [15] * 4, seed, 1.4)
        model = TransductiveFewShot(method, 0.5).fit(support, y)
        predicted = model.predict(query)
        gains.append((predicted == z).mean() - (simpleshot(support, y, query) == z).mean())
        assert (model.solution_.Z[0, : len(y)] == np.eye(4)[y]).all()
    # For normal clouds the mean of several shots is hard to better, and modes of 20 points stray from it.
    assert np.mean(gains) > (0.02 if max(shots) == 1 else -0.03)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_queries_and_a_single_query(method: Any) -> None:
    support, query, y, z = task([2] * 4, [10, 0, 10, 10], spread=0.3)
    assert (TransductiveFewShot(method).fit(support, y).predict(query) == z).all()
    support, query, y, z = task([2] * 4, [0, 1, 0, 0], spread=0.3)
    proba = TransductiveFewShot(method).fit(support, y).predict_proba(query)
    assert proba.shape == (1, 4)
    assert proba.argmax() == 1


def test_simpleshot_is_the_nearest_centroid() -> None:
    support, query, y, _ = task([1, 4, 2, 7], [20] * 4, spread=3.0)
    peer = NearestCentroid().fit(support, y)
    assert (simpleshot(support, y, query) == peer.predict(query)).all()


def test_laplacian_shot_is_the_bound_update_on_queries_with_means_fixed() -> None:
    support, query, y, _ = task([3] * 4, [15] * 4, spread=3.0)
    means = np.stack([support[y == k].mean(0) for k in range(4)])
    Z, _ = bound_update(np.square(cdist(query, means)), knn_affinity(query, 4), 0.7)
    assert (laplacian_shot(support, y, query, 0.7, 4) == Z.argmax(1)).all()
    assert (laplacian_shot(support, y, query, 0.0) == simpleshot(support, y, query)).all()
    # Costs of a spread of 3 make the first assignments nearly hard, and the shift holds them there.
    assert (laplacian_shot(support, y, query, 5.0, psd_shift=False) != simpleshot(support, y, query)).any()


def test_rectification_undoes_a_shift_of_the_queries() -> None:
    support, query, y, z = task([5] * 4, [15] * 4, spread=0.5)
    shifted = query + 5.0
    plain, moved = (
        (laplacian_shot(support, y, shifted, 0.5, rectify=rectify) == z).mean() for rectify in (False, True)
    )
    assert moved > 0.95 > plain
    assert (TransductiveFewShot("slk-ms", 0.5, rectify=True).fit(support, y).predict(shifted) == z).mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_many_tasks_at_once_are_each_alone(method: Any) -> None:
    tasks = [task([2] * 4, [9] * 4, seed, 2.0) for seed in range(6)]
    support, query, y = (np.stack([one[i] for one in tasks]) for i in range(3))
    together = TransductiveFewShot(method).fit(support, y).predict_proba(query)
    for i, one in enumerate(tasks):
        alone = TransductiveFewShot(method).fit(one[0], one[2]).predict_proba(one[1])
        assert np.abs(together[i] - alone).max() < 1e-12
    assert (simpleshot(support, y, query)[3] == simpleshot(*(tasks[3][i] for i in (0, 2, 1)))).all()
    assert (laplacian_shot(support, y[0], query)[3] == laplacian_shot(*(tasks[3][i] for i in (0, 2, 1)))).all()


def test_labels_of_any_integers_and_tensors_and_float32() -> None:
    support, query, y, _ = task([2] * 4, [9] * 4)
    names = np.array([7, -3, 100, 12])
    model = TransductiveFewShot("slk-means").fit(support, y)
    named = TransductiveFewShot("slk-means").fit(torch.from_numpy(support).float(), torch.from_numpy(names[y]))
    assert named.classes_.tolist() == [-3, 7, 12, 100]
    assert (named.predict(torch.from_numpy(query).float()) == names[model.predict(query)]).all()
    assert named.predict_proba(query).dtype == np.float32


def test_psd_shift_is_what_keeps_the_energy_from_rising() -> None:
    def rise(shift: Any) -> float:
        worst = -np.inf
        for seed in range(20):
            support, query, y, _ = task([1] * 4, [8] * 4, seed, 3.0)
            model = TransductiveFewShot("slk-means", 20.0, psd_shift=shift, tol=0.0, max_iter=20).fit(support, y)
            model.predict(query)
            worst = max(worst, *(np.diff(c).max() for c in (*model.solution_.energies, *model.solution_.inner)))
        return worst

    assert rise(True) <= 1e-9  # energies are some thousands
    assert rise("degrees") <= 1e-9
    assert rise(False) > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "slk"}, "'method' must be one of.*'slk'"),
        ({"lam": -1.0}, "'lam' must be finite and at least 0, got -1.0"),
        ({"lam": 0.0}, "'lam' must be positive for 'slk-ms'"),
        ({"sigma": 0.0}, "'sigma' must be finite and positive"),
        ({"max_iter": 0}, "'max_iter'"),
    ],
)
def test_parameters_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransductiveFewShot(**arguments)


def test_inputs_are_refused() -> None:
    support, query, y, _ = task([2] * 4, [9] * 4)
    model = TransductiveFewShot()
    with pytest.raises(NotFittedError, match="call fit"):
        model.predict(query)
    for arguments, message in (
        ((support[:, :0], y), "'support' has shape"),
        ((np.full_like(support, np.inf), y), "'support' must be finite"),
        ((support, y[:3]), "'y' has shape"),
        ((support, np.zeros(8, int)), "at least 2 classes"),
        ((support, y, np.arange(5)), "class 4 has no support in task 0"),
        ((support, y, np.arange(3)), "not in 'classes'"),
        ((np.stack([support] * 2), np.stack([y, np.minimum(y, 2)])), "class 3 has no support in task 1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*arguments)
    with pytest.raises(TypeError, match="'y' must be integers"):
        model.fit(support, y.astype(float))
    model.fit(support, y)
    with pytest.raises(ValueError, match="'query' must have the support's tasks and width"):
        model.predict(query[:, :3])
    with pytest.raises(ValueError, match="'query' must be finite"):
        model.predict(np.where(query > 2, np.nan, query))
    with pytest.raises(ValueError, match=r"'n_neighbors'.*got 44"):
        TransductiveFewShot(n_neighbors=44).fit(support, y).predict(query)
    with pytest.raises(ValueError, match=r"'k'.*got 36"):
        laplacian_shot(support, y, query, k=36)


def test_normalisation() -> None:
    x = RNG.normal(size=(10, 5)) + 3.0
    mean = x.mean(0)
    found = normalize_features(torch.from_numpy(x), torch.from_numpy(mean))
    assert np.abs(found.numpy() - (x - mean) / np.linalg.norm(x - mean, axis=1, keepdims=True)).max() < 1e-15
    assert np.abs(np.linalg.norm(normalize_features(x, mode="L2N"), axis=1) - 1.0).max() < 1e-15
    assert (normalize_features(x, mode="UN") == x).all()
    assert normalize_features(x.astype(np.float32), mean).dtype == np.float32
    for arguments, message in (
        ((x,), "'mean'"),
        ((x, mean[:3]), "'mean' must be finite and of shape"),
        ((x, mean, "L1"), "'mode'"),
        ((np.zeros((2, 5)), None, "L2N"), "row 0 of 'X' has length 0"),
        ((mean[None], mean), "row 0 of 'X' has length 0 under CL2N"),
    ):
        with pytest.raises(ValueError, match=message):
            normalize_features(*arguments)  # type: ignore[arg-type]

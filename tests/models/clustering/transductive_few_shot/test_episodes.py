"""Episodes: no overlap, the numbers asked for, the same draws of the same seed; intervals by their definition."""

from typing import Any

import numpy as np
import pytest

from holonomy.models.clustering.transductive_few_shot import Accuracy, evaluate_episodes, sample_episode, simpleshot

LABELS = np.arange(8).repeat(30) * 10
# The first column tells every sample, the second its class.
FEATURES = np.stack([np.arange(240.0), LABELS.astype(float)], 1)


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize(("shots", "queries"), [(1, 15), (5, 3), ([1, 2, 3, 4, 5], [0, 9, 1, 0, 20])])
def test_numbers_classes_and_no_sample_twice(shots: Any, queries: Any) -> None:
    one = sample_episode(FEATURES, LABELS, 5, shots, queries, generator())
    assert (np.bincount(one.support_labels, minlength=5) == shots).all()
    assert (np.bincount(one.query_labels, minlength=5) == queries).all()
    assert len(np.unique(np.concatenate([one.support, one.query])[:, 0])) == len(one.support) + len(one.query)
    assert (one.classes[one.support_labels] == one.support[:, 1]).all()
    assert (one.classes[one.query_labels] == one.query[:, 1]).all()
    assert len(np.unique(one.classes)) == 5
    again = sample_episode(FEATURES, LABELS, 5, shots, queries, generator())
    assert (again.query == one.query).all()


def test_unbalanced_episodes_have_as_many_queries_in_random_shares() -> None:
    rng = generator()
    counts = np.stack(
        [
            np.bincount(sample_episode(FEATURES, LABELS, 5, 1, 15, rng, alpha=1.0).query_labels, minlength=5)
            for _ in range(400)
        ]
    )
    assert (counts.sum(1) == 75).all()
    assert counts.max() == 29  # all that a class has beside its shot
    assert counts.min() == 0
    assert abs(counts.mean() - 15.0) < 1e-12
    narrow = sample_episode(FEATURES, LABELS, 5, 1, 15, rng, alpha=1e6)
    assert np.bincount(narrow.query_labels).std() < counts.std(1).mean()


def test_evaluation_is_the_mean_over_episodes_in_any_batches() -> None:
    noise = np.random.default_rng(0).normal(size=(240, 3))
    features = noise + np.eye(8)[LABELS // 10][:, :3]
    results = [
        evaluate_episodes(lambda s, y, q: simpleshot(s, y, q), features, LABELS, 23, generator=generator(), batch=batch)
        for batch in (1, 7, 200)
    ]
    rng = generator()
    wanted = []
    for _ in range(23):
        one = sample_episode(features, LABELS, 5, 1, 15, rng)
        wanted.append((simpleshot(one.support, one.support_labels, one.query) == one.query_labels).mean())
    for mean, half, each in results:
        assert (each == wanted).all()
        assert abs(mean - np.mean(wanted)) < 1e-15
        assert abs(half - 1.96 * np.std(wanted, ddof=1) / 23**0.5) < 1e-15


def test_interval_covers() -> None:
    rng = np.random.default_rng(0)
    inside = [
        abs(Accuracy.of(rng.random(60)).mean - 0.5) <= Accuracy.of(rng.random(60)).half_width for _ in range(2000)
    ]
    # 1,900 expected; binomial standard deviation 10, and the normal law for the mean of 60 is off by less.
    assert 1840 <= sum(inside) <= 1950


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_way": 1}, "'n_way' must be at least 2, got 1"),
        ({"n_way": 9}, "'n_way' must be at most the 8 classes"),
        ({"n_shot": 0}, "'n_shot' must be at least 1, got 0"),
        ({"n_shot": [1, 2]}, "'n_shot' must be one number or 5"),
        ({"n_query": 0}, "'n_query' must leave a query"),
        ({"n_query": 30}, "has 30 features"),
        ({"n_query": -1}, "'n_query' must be at least 0"),
        ({"n_query": 30, "alpha": 1.0}, "'n_query' wants 150"),
        ({"alpha": 0.0}, "'alpha' must be positive"),
        ({"labels": LABELS[:5]}, "'labels' has shape"),
        ({"features": np.full((240, 2), np.nan)}, "'features' must be finite"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    given = {"features": FEATURES, "labels": LABELS, "n_way": 5, "n_shot": 1, "n_query": 15, "generator": generator()}
    with pytest.raises(ValueError, match=message):
        sample_episode(**(given | arguments))
    with pytest.raises(ValueError, match="'n_episodes'"):
        evaluate_episodes(simpleshot, FEATURES, LABELS, 0, generator=generator())
    with pytest.raises(ValueError, match="'classify' gave shape"):
        evaluate_episodes(lambda s, y, q: y, FEATURES, LABELS, 2, generator=generator())

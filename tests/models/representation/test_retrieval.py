"""Exact search against scikit-learn, votes, and average precision by hand and by brute force."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from holonomy.models.representation.retrieval import knn_accuracy, map_at_k, nearest_cosine


def draw(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_neighbours_are_those_of_scikit_learn_in_any_blocks() -> None:
    queries, index = draw(30), draw(200, seed=1)
    theirs = NearestNeighbors(n_neighbors=7, metric="cosine").fit(index).kneighbors(queries)[1]
    for block in (1, 7, 1000):
        assert (nearest_cosine(queries, index, 7, block).numpy() == theirs).all()
    assert (nearest_cosine(5.0 * queries, 0.1 * index, 7).numpy() == theirs).all()


@pytest.mark.parametrize("k", [1, 5])
def test_accuracy_is_that_of_scikit_learn(k: int) -> None:
    queries, index = draw(60), draw(200, seed=1)
    y, labels = (torch.randint(3, (n,), generator=torch.Generator().manual_seed(n)) for n in (60, 200))
    theirs = KNeighborsClassifier(k, metric="cosine").fit(index, labels).score(queries, y)
    assert knn_accuracy(queries, y, index, labels, k, block=16) == pytest.approx(theirs)


def test_average_precision_by_hand_and_by_loop() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0])
    ranked = torch.tensor([[0, 2, 1, 3, 4]])
    # Relevant at ranks 1, 3 and 5 of three in all.
    assert map_at_k(ranked, torch.tensor([0]), labels, 5) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert map_at_k(ranked, torch.tensor([0]), labels, 2) == pytest.approx((1 + 0) / 2)
    assert map_at_k(ranked, torch.tensor([2]), labels, 5) == 0.0
    index = torch.randint(4, (100,), generator=torch.Generator().manual_seed(0))
    queries = torch.randint(4, (20,), generator=torch.Generator().manual_seed(1))
    order = torch.stack([torch.randperm(100, generator=torch.Generator().manual_seed(i)) for i in range(20)])
    values = []
    for row, y in zip(order, queries, strict=True):
        hits = [int(index[i] == y) for i in row[:10]]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(10) if hits[i]]
        values.append(sum(precisions) / min(10, int((index == y).sum())))
    assert map_at_k(order, queries, index) == pytest.approx(np.mean(values))


def test_bad_input_is_refused() -> None:
    x = draw(5)
    for call, text in (
        (lambda: nearest_cosine(x, draw(4, 5), 1), r"'queries' \(q, d\)"),
        (lambda: nearest_cosine(x, x, 6), "'k' must be from 1 to the number of rows, 5, got 6"),
        (lambda: nearest_cosine(x * torch.inf, x, 1), "finite"),
        (lambda: knn_accuracy(x, torch.zeros(4), x, torch.zeros(5)), "a label a row"),
        (lambda: map_at_k(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2), torch.zeros(3), 4), "at least k = 4"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="'queries' must be floating"):
        nearest_cosine(torch.ones(2, 3, dtype=torch.int64), draw(4, 3), 1)

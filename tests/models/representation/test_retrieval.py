"""Exact search against scikit-learn, votes, average precision by hand and by brute force, ranks of partners."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from holonomy.models.representation.retrieval import (
    embedding_arithmetic_score,
    knn_accuracy,
    map_at_k,
    nearest_cosine,
    retrieval_metrics,
    retrieval_ranks,
)


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


def test_recall_of_three_pairs_by_hand() -> None:
    sim = torch.tensor([[0.9, 0.5, 0.1], [0.7, 0.6, 0.2], [0.4, 0.8, 0.3]])
    # Rows: 0.9 is first, 0.6 second, 0.3 third. Columns: first, second (0.8 above 0.6), first.
    assert retrieval_ranks(sim).tolist() == [1.0, 2.0, 3.0]
    assert retrieval_ranks(sim.mT).tolist() == [1.0, 2.0, 1.0]
    found = retrieval_metrics(sim, (1, 2))
    assert found["forward R@1"] == pytest.approx(1 / 3)
    assert found["backward R@1"] == pytest.approx(2 / 3)
    assert found["R@1"] == pytest.approx(1 / 2)
    assert found["R@2"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["rank"] == pytest.approx((2.0 + 4 / 3) / 2)
    assert retrieval_ranks(sim[:2], torch.tensor([2, 1])).tolist() == [3.0, 2.0]


def test_equal_similarities_have_the_mean_of_their_ranks() -> None:
    # Sorting and comparing would put every row first here.
    assert retrieval_ranks(torch.ones(5, 5)).tolist() == [3.0] * 5
    assert retrieval_metrics(torch.ones(5, 5))["R@1"] == 0.0
    ranks = retrieval_ranks(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [3.0, 2.0, 2.0]]))
    assert ranks.tolist() == [1.5, 2.0, 2.5]
    from scipy.stats import rankdata

    sim = torch.randint(4, (30, 30), generator=torch.Generator().manual_seed(0)).double()
    theirs = [rankdata(-row)[i] for i, row in enumerate(sim.numpy())]
    assert retrieval_ranks(sim).tolist() == theirs


def test_arithmetic_finds_the_corner_that_the_edit_leads_to() -> None:
    # Two images of each of four orthogonal classes; texts are the classes' directions.
    directions = torch.eye(4, dtype=torch.float64)
    labels = torch.arange(8) % 4
    images = directions[labels] + 0.1 * draw(8, 4)
    wanted = (labels + 1) % 4
    deltas = directions[wanted] - directions[labels]
    scores = embedding_arithmetic_score(images, labels, deltas, wanted, (0.0, 0.2, 1.0))
    assert scores[1.0] == 1.0
    assert scores[0.0] == 0.0  # the other image of its own class
    assert embedding_arithmetic_score(images, labels, deltas[:3], wanted[:3], (1.0,), torch.arange(3)) == {1.0: 1.0}
    # The image itself is never found, though it is the nearest by far.
    same = embedding_arithmetic_score(images[:2], labels[:2], 0.0 * deltas[:2], labels[:2], (1.0,))
    assert same == {1.0: 0.0}


def test_bad_input_of_ranks_and_arithmetic_is_refused() -> None:
    x = draw(5)
    for call, text in (
        (lambda: retrieval_ranks(x), "square where there are no targets"),
        (lambda: retrieval_ranks(torch.full((2, 2), torch.nan)), "without NaN"),
        (lambda: retrieval_ranks(x, torch.full((5,), 6)), "from 0 to 5"),
        (lambda: retrieval_ranks(x, torch.zeros(4, dtype=torch.int64)), "must be 5 columns"),
        (lambda: retrieval_metrics(torch.ones(2, 2), (0, 1)), "depths must be at least 1"),
        (lambda: embedding_arithmetic_score(x, torch.zeros(5), x, torch.zeros(4)), "as many rows"),
        (lambda: embedding_arithmetic_score(x, torch.zeros(5), x, torch.zeros(5), ()), "wanted a scale"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="'sim' must be floating"):
        retrieval_ranks(torch.ones(2, 2, dtype=torch.int64))


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

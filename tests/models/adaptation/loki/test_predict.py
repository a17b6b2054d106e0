"""The rule: brute force, invariances, means and medians on a line, ties, blocks, fast rules, what is refused."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holonomy.models.adaptation.loki import (
    Grid,
    Points,
    Tree,
    argmax_predict,
    barycentre_predict,
    expected_squared_distance,
    frechet_predict,
    frechet_scores,
    grid_metric,
    nearest_embedding_predict,
    random_unseen_predict,
    temper,
)

RNG = np.random.default_rng(0)


def random_metric(n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=(n, 3))
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def random_tree(n: int, rng: np.random.Generator, lengths: bool = True) -> Tree:
    return Tree([(int(rng.integers(0, v)), v, float(rng.random()) if lengths else 1.0) for v in range(1, n)])


@given(st.integers(1, 9), st.integers(1, 6), st.sampled_from([1.0, 2.0, 1.5, 3.0]), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_prediction_is_that_of_three_loops(n: int, rows: int, p: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    D = random_metric(n, rng)
    k = int(rng.integers(1, n + 1))
    observed = rng.permutation(n)[:k]
    P = rng.dirichlet(np.ones(k), rows)
    wanted = []
    for row in range(rows):
        sums = []
        for y in range(n):
            sums.append(sum(P[row, i] * D[y, observed[i]] ** p for i in range(k)))
        wanted.append(int(np.argmin(sums)))
    assert frechet_predict(P, D, p, observed).tolist() == wanted
    assert frechet_predict(P, D[observed], p).tolist() == wanted
    scores = frechet_scores(P, D, p, observed).numpy()
    assert np.abs(scores + P @ D[observed] ** p).max() < 1e-13


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e9])
def test_scale_of_distances_and_order_of_columns_do_not_matter(scale: float) -> None:
    D = random_metric(40, RNG)
    observed = RNG.permutation(40)[:7]
    P = RNG.dirichlet(np.ones(7), 50)
    found = frechet_predict(P, D, observed=observed)
    assert torch.equal(found, frechet_predict(P, scale * D, observed=observed))
    order = RNG.permutation(7)
    assert torch.equal(found, frechet_predict(P[:, order], D, observed=observed[order]))
    assert not torch.equal(found, frechet_predict(P[:, order], D, observed=observed))  # columns put in a wrong order


def test_complete_graph_gives_argmax_and_never_an_unseen_label() -> None:
    P = RNG.dirichlet(np.ones(6), 100)
    D = 1.0 - np.eye(6)
    assert torch.equal(frechet_predict(P, D), torch.from_numpy(P.argmax(1)))
    more = 1.0 - np.eye(9)
    observed = np.array([4, 1, 8, 0, 2, 7])
    assert torch.equal(frechet_predict(P, more, observed=observed), argmax_predict(P, observed))


def test_dense_labels_on_a_line_are_the_mean_and_the_median() -> None:
    line = np.linspace(0.0, 1.0, 1001)
    observed = np.array([13, 222, 480, 731, 1000])
    P = RNG.dirichlet(np.ones(5), 200)
    D = np.abs(line[:, None] - line)
    means = frechet_predict(P, D, 2, observed).numpy()
    assert np.abs(line[means] - P @ line[observed]).max() <= 0.0005 + 1e-12  # half a step
    medians = frechet_predict(P, D, 1, observed).numpy()
    half = (P.cumsum(1) >= 0.5).argmax(1)
    assert (medians == observed[half]).all()
    # d in place of d^2 is another rule.
    assert (means != medians).mean() > 0.9


def test_ties_go_to_the_lowest_label_and_all_of_them_are_found() -> None:
    D = grid_metric((4, 5))
    P = np.array([[0.5, 0.5], [1.0, 0.0]])
    every = frechet_predict(P, D, observed=[0, 19], return_all=True)
    # Distance 7 between the corners: places 3 and 4 steps from the first are equally far from the middle.
    steps = grid_metric((4, 5))[0]
    assert every[0].tolist() == np.isin(steps, (3, 4)).tolist()
    assert every[1].sum() == 1
    assert frechet_predict(P, D, observed=[0, 19]).tolist() == [3, 0]
    third = np.full((1, 3), 1.0 / 3.0)  # sums that differ by rounding alone
    assert frechet_predict(third, 1.0 - np.eye(7), observed=[5, 3, 1]).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_blocks_change_nothing(dtype: torch.dtype, chunk: int) -> None:
    D = torch.from_numpy(random_metric(300, RNG)).to(dtype)
    P = torch.from_numpy(RNG.dirichlet(np.ones(12), 70)).to(dtype)
    observed = RNG.permutation(300)[:12]
    whole = frechet_predict(P, D, observed=observed)
    assert torch.equal(whole, (P @ D[observed].square()).argmin(1))
    assert torch.equal(whole, frechet_predict(P, D, observed=observed, chunk_size=chunk))
    every = frechet_predict(P, D, observed=observed, return_all=True, chunk_size=chunk)
    assert every.gather(1, whole[:, None]).all()


def test_a_function_is_asked_for_blocks_alone() -> None:
    D = random_metric(500, RNG)[:9]
    P = RNG.dirichlet(np.ones(9), 30)
    asked: list[int] = []

    def block(low: int, high: int) -> np.ndarray:
        asked.append(high - low)
        return D[:, low:high]

    found = frechet_predict(P, block, n=500, chunk_size=64)
    assert torch.equal(found, frechet_predict(P, D))
    assert sum(asked) == 500
    assert max(asked) <= 64


STRUCTURED: list[tuple[str, Any]] = [
    ("tree", random_tree(80, RNG)),
    ("tree of unit lengths", random_tree(80, RNG, lengths=False)),
    ("some labels of a tree", Tree([(v // 2, v) for v in range(1, 64)], labels=np.arange(32, 64))),
    ("chain", Tree([(v - 1, v) for v in range(1, 70)])),
    ("grid", Grid((6, 9))),
    ("grid of three axes", Grid((3, 4, 5))),
    ("Euclidean grid", Grid((6, 9), ord=2)),
    ("line", Grid((50,))),
    ("points", Points(RNG.normal(size=(60, 4)) + 100.0)),
]


@pytest.mark.parametrize(("name", "metric"), STRUCTURED, ids=[name for name, _ in STRUCTURED])
@pytest.mark.parametrize("p", [1.0, 2.0, 1.5])
def test_a_metrics_own_rule_is_the_product(name: str, metric: Any, p: float) -> None:
    observed = RNG.permutation(metric.n)[:8]
    P = RNG.dirichlet(np.ones(8), 40)
    D = metric.distances()
    wanted = P @ D[observed] ** p
    found = -frechet_scores(P, metric, p, observed).numpy()
    # Differences of sums as large as the largest.
    assert np.abs(found - wanted).max() < 1e-12 * max(1.0, wanted.max())
    assert torch.equal(frechet_predict(P, metric, p, observed), frechet_predict(P, D, p, observed))
    ones = np.eye(8)
    assert torch.equal(
        frechet_predict(ones, metric, p, observed, return_all=True),
        frechet_predict(ones, D, p, observed, return_all=True),
    )


@pytest.mark.parametrize(
    "metric", [STRUCTURED[0][1], STRUCTURED[4][1], STRUCTURED[8][1]], ids=["tree", "grid", "points"]
)
def test_own_rules_have_gradients(metric: Any) -> None:
    w = torch.rand(3, metric.n, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: metric.potential(w, 2.0), (w,))
    (grad,) = torch.autograd.grad(metric.potential(w, 2.0)[:, 5].sum(), w, create_graph=True)
    assert np.abs(grad.detach().numpy() - metric.distances([5]) ** 2).max() < 1e-10 * metric.distances([5]).max() ** 2


@pytest.mark.parametrize(
    "metric", [Grid((300, 340)), Tree([(v // 3, v) for v in range(1, 100_000)])], ids=["grid", "tree"]
)
def test_a_hundred_thousand_labels_are_never_held_with_each_other(metric: Any) -> None:
    observed = RNG.permutation(metric.n)[:50]
    P = RNG.dirichlet(np.ones(50), 5)
    found = frechet_predict(P, metric, observed=observed)
    assert torch.equal(found, frechet_predict(P, metric.distances(observed)))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["D", "Grid((316, 317))", "Tree([(v // 3, v) for v in range(1, 100_000)])"])
def test_a_thousand_queries_over_a_hundred_thousand_labels_stay_in_blocks(metric: str) -> None:
    """A thousand scores of each label would be 0.4 GB in float32 and 0.8 in float64."""
    code = f"""
import resource
import torch
from holonomy.models.adaptation.loki import Grid, Tree, frechet_predict

torch.set_num_threads(1)
D, P = torch.rand(100, 100_000), torch.rand(1000, 100).softmax(1)
metric = {metric}
observed = None if metric is D else range(0, 100_000, 1000)
frechet_predict(P[:1], metric, observed=observed)  # what loads and compiles at first use
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert frechet_predict(P, metric, observed=observed).shape == (1000,)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, before)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    grown, before = (1024 * int(number) for number in found.split())
    assert grown < 2e8
    assert grown + before < 2e9


def test_half_precision_is_summed_in_float32() -> None:
    D = torch.from_numpy(random_metric(50, RNG))
    P = torch.from_numpy(RNG.dirichlet(np.ones(50), 30))
    for dtype in (torch.float16, torch.bfloat16):
        scores = frechet_scores(P.to(dtype), D)
        assert scores.dtype == torch.float32
        wanted = -(P.to(dtype).double() @ D.square())
        assert float((scores / wanted - 1.0).abs().max()) < 1e-5


def test_empty_batches_and_one_label() -> None:
    D = random_metric(5, RNG)
    assert frechet_predict(np.zeros((0, 5)), D).shape == (0,)
    assert frechet_predict(np.zeros((0, 5)), D, return_all=True).shape == (0, 5)
    assert frechet_predict(np.zeros((0, 3)), Grid((2, 2)), observed=[0, 1, 2]).shape == (0,)
    assert frechet_predict(np.ones((2, 1)), np.zeros((1, 1))).tolist() == [0, 0]


# -- temperature and measure -----------------------------------------------------------------------------------------


def test_temperature_is_that_of_logits() -> None:
    logits = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for T in (0.1, 0.7, 1.0, 4.0):
        assert torch.allclose(temper(logits.softmax(1), T), (logits / T).softmax(1), atol=1e-14)
    zeros = temper(torch.tensor([[0.0, 0.2, 0.8]], dtype=torch.float64), 2.0)
    assert float(zeros[0, 0]) == 0.0
    P = torch.tensor([[0.0, 0.2, 0.8]], dtype=torch.float64, requires_grad=True)
    temper(P, 2.0)[0, 1].backward()
    assert P.grad is not None
    assert bool(torch.isfinite(P.grad).all())
    assert torch.equal(temper(logits.softmax(1), 1e-4).argmax(1), logits.argmax(1))


def test_measure_is_the_mean_square() -> None:
    D = random_metric(8, RNG)
    a, b = RNG.integers(0, 8, (2, 30))
    wanted = np.mean([D[i, j] ** 2 for i, j in zip(a, b, strict=True)])
    assert expected_squared_distance(a, b, D) == pytest.approx(wanted, rel=1e-14)
    assert expected_squared_distance(torch.from_numpy(a), b, torch.from_numpy(D)) == pytest.approx(wanted, rel=1e-14)
    assert expected_squared_distance(a, a, D) == 0.0
    grid = Grid((2, 4))
    assert expected_squared_distance(a, b, grid, 1) == pytest.approx(np.mean(grid.distances()[a, b]), rel=1e-14)


def test_baselines() -> None:
    E = torch.from_numpy(RNG.normal(size=(30, 3)))
    observed = [3, 9, 20]
    P = torch.from_numpy(RNG.dirichlet(np.ones(3), 25))
    D = torch.cdist(E, E)
    # With Euclidean distances the rule is the label nearest to the mean.
    assert torch.equal(barycentre_predict(P, E[observed], E), frechet_predict(P, D, observed=observed))
    assert nearest_embedding_predict(E[[4, 7]] + 1e-3, E).tolist() == [4, 7]
    drawn = random_unseen_predict(500, observed, 30, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(range(30)) - set(observed)
    with pytest.raises(ValueError, match="every label is observed"):
        random_unseen_predict(1, [0, 1], 2)


# -- what is refused -------------------------------------------------------------------------------------------------

P2 = np.full((1, 2), 0.5)
GOOD = 1.0 - np.eye(3)
SPLIT = np.where(np.equal.outer([0, 0, 1], [0, 0, 1]), GOOD, np.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distances": GOOD[:2]}, r"shape \(2, 3\), wanted \(N, N\)"),
        ({"distances": -GOOD}, "must not be negative"),
        ({"distances": GOOD + np.triu(np.ones((3, 3)), 1)}, "must be symmetric"),
        ({"distances": GOOD + np.eye(3)}, "diagonal of 0"),
        ({"distances": np.where(GOOD > 0, np.nan, 0.0)}, "must not be NaN"),
        ({"distances": SPLIT}, r"labels \{2\} \(1 of 3\) cannot be reached"),
        ({"observed": [0, 0]}, "must not repeat a label, got 0"),
        ({"observed": [0, 3]}, r"in 0\.\.2, got 3"),
        ({"observed": []}, "at least one label"),
        ({"observed": [0, 1, 2]}, "a column an observed label"),
        ({"p": 0.0}, "'p' must be a positive"),
        ({"p": -2}, "'p' must be a positive"),
        ({"chunk_size": 0}, "'chunk_size' must be a whole number"),
        ({"probs": np.array([[0.5, 0.6]])}, "must sum to 1 in every row, got 1.1 in row 0"),
        ({"probs": np.array([[3.0, -2.0]])}, "must not be negative, got -2"),
        ({"probs": np.array([[np.nan, 1.0]])}, "must be finite"),
        ({"probs": np.ones(2)}, r"shape \(2,\)"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    given_ = {"probs": P2, "distances": GOOD, "observed": [0, 1]} | change
    with pytest.raises(ValueError, match=message):
        frechet_predict(**given_)


def test_wrong_types_and_functions_of_no_size_are_refused() -> None:
    with pytest.raises(TypeError, match="'probs' must be floating"):
        frechet_predict(np.array([[1, 0]]), GOOD, observed=[0, 1])
    with pytest.raises(TypeError, match="'observed' must be integers"):
        frechet_predict(P2, GOOD, observed=[0.0, 1.0])
    with pytest.raises(ValueError, match="need the number of labels"):
        frechet_predict(P2, lambda low, high: GOOD[:2, low:high])
    with pytest.raises(ValueError, match="must give"):
        frechet_predict(P2, lambda low, high: GOOD[:, low:high], n=3)
    with pytest.raises(ValueError, match="'temperature' must be a positive"):
        temper(torch.tensor([[1.0]]), 0.0)
    with pytest.raises(ValueError, match="at least 1"):
        expected_squared_distance([], [], GOOD)

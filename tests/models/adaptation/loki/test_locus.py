"""Loci, covers and the next label: paths, corners, cycles, programs against envelopes and against sampled weights."""

from itertools import combinations

import numpy as np
import pytest

from holonomy.models.adaptation.loki import (
    embedding_metric,
    frechet_predict,
    graph_metric,
    grid_metric,
    is_locus_cover,
    locus,
    minimum_locus_cover,
    next_class,
    pair_locus,
    tree_metric,
)

RNG = np.random.default_rng(0)
#: Twelve nodes: a centre with three arms, one of which forks.
TREE = [(0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (8, 10), (10, 11)]
LEAVES = [3, 6, 9, 11]


def random_tree(n: int, rng: np.random.Generator, low: float = 1.0, high: float = 1.0) -> np.ndarray:
    return tree_metric([(int(rng.integers(0, v)), v, float(rng.uniform(low, high))) for v in range(1, n)])


def cycle(n: int) -> np.ndarray:
    return graph_metric(np.roll(np.eye(n), 1, 1) + np.roll(np.eye(n), -1, 1))


def sampled(D: np.ndarray, observed: list[int], draws: int = 20_000) -> np.ndarray:
    found = np.zeros(len(D), dtype=bool)
    found[frechet_predict(RNG.dirichlet(np.full(len(observed), 0.5), draws), D, observed=observed).numpy()] = True
    return found


def test_two_nodes_of_a_tree_reach_their_path() -> None:
    D = tree_metric(TREE)
    assert pair_locus(D, 3, 11) == {3, 2, 1, 0, 7, 8, 10, 11}
    assert pair_locus(D, 5, 5) == {5}


def test_three_leaves_reach_the_union_of_their_paths_and_all_leaves_every_node() -> None:
    D = tree_metric(TREE)
    paths = set().union(*(pair_locus(D, i, j) for i, j in combinations([3, 6, 9], 2)))
    assert paths == set(range(10))
    for method in ("tree", "pairs", "lp"):
        assert set(np.flatnonzero(locus(D, [3, 6, 9], method))) == paths
        assert locus(D, LEAVES, method).all()
    assert (sampled(D, [3, 6, 9]) == locus(D, [3, 6, 9], "tree")).all()
    assert is_locus_cover(D, LEAVES)
    assert not is_locus_cover(D, LEAVES[:3], "lp")
    assert minimum_locus_cover(D, "tree").tolist() == LEAVES


@pytest.mark.parametrize("method", ["pairs", "lp"])
def test_grids_cycles_and_complete_graphs(method: str) -> None:
    grid = grid_metric((4, 5))
    assert locus(grid, [0, 19], method).sum() == 20
    assert locus(grid, [4, 15], method).sum() == 20
    # Every middle is one of a whole diagonal: only the corners are alone.
    assert locus(grid, [0, 19], method, identifying=True).sum() == 2
    assert np.flatnonzero(locus(1.0 - np.eye(6), [0, 2, 5], method)).tolist() == [0, 2, 5]
    assert locus(cycle(9), [0, 3, 6], method).all()
    assert np.flatnonzero(locus(cycle(9), [0, 4], method)).tolist() == [0, 1, 2, 3, 4]


def test_minimum_covers_of_grids_and_complete_graphs() -> None:
    D = grid_metric((4, 5))
    corners = minimum_locus_cover(D, "grid")
    assert len(corners) == 2
    assert D[corners[0], corners[1]] == 7
    assert minimum_locus_cover(grid_metric((3, 3)), "exact").tolist() in ([0, 8], [2, 6])
    assert minimum_locus_cover(1.0 - np.eye(5), "exact", "lp").tolist() == [0, 1, 2, 3, 4]
    assert minimum_locus_cover(np.zeros((1, 1)), "grid").tolist() == [0]
    with pytest.raises(ValueError, match="two corners of a grid do not cover"):
        minimum_locus_cover(1.0 - np.eye(5), "grid")
    with pytest.raises(ValueError, match="the leaves of a tree do not cover"):
        minimum_locus_cover(cycle(8), "tree")


@pytest.mark.parametrize("seed", range(6))
def test_methods_agree_on_trees_and_covers_are_the_leaves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    D = random_tree(int(rng.integers(4, 10)), rng, 0.3, 2.0)
    observed = rng.choice(len(D), 3, replace=False)
    wanted = locus(D, observed, "tree")
    assert (wanted == locus(D, observed, "pairs")).all()
    assert (wanted == locus(D, observed, "lp")).all()
    assert (locus(D, observed, "lp", identifying=True) == wanted).all()
    leaves = minimum_locus_cover(D, "tree")
    for kind in ("greedy", "exact"):
        assert minimum_locus_cover(D, kind, "tree").tolist() == leaves.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_programs_hold_whatever_weights_find_and_pairs_are_a_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    D = embedding_metric(rng.normal(size=(25, 2)))
    observed = rng.choice(25, 5, replace=False).tolist()
    exact = locus(D, observed, "lp")
    found = sampled(D, observed)
    assert not (found & ~exact).any()
    assert (locus(D, observed, "pairs") <= exact).all()
    # In the plane every Voronoi cell that meets the hull is found, small ones perhaps not.
    assert found.sum() >= exact.sum() - 3
    assert (locus(D, observed, "lp", identifying=True) <= exact).all()


def test_a_single_weight_is_enough_where_sampling_misses_it() -> None:
    # Labels 0 and 2 at the ends, 1 in the middle of two steps of 1, and 3 as far from both: a tie at one weight.
    D = np.array([[0.0, 1.0, 2.0, 2**0.5], [1.0, 0.0, 1.0, 9.0], [2.0, 1.0, 0.0, 2**0.5], [2**0.5, 9.0, 2**0.5, 0.0]])
    D[1, 0] = D[0, 1] = D[1, 2] = D[2, 1] = 3.0
    # w 4 and (1 - w) 4 meet at 2, where label 3 has 2 whatever the weight.
    assert pair_locus(D, 0, 2) == {0, 2, 3}
    assert locus(D, [0, 2], "lp").tolist() == [True, False, True, True]
    assert locus(D, [0, 2], "lp", identifying=True).tolist() == [True, False, True, False]
    assert locus(D, [0, 2], "pairs", identifying=True).tolist() == [True, False, True, False]
    assert not sampled(D, [0, 2])[3]


def test_leaves_as_labels_need_programs() -> None:
    """Three leaves around a centre, a fourth on an arm of its own: no two of the three reach it, all three do."""
    D = tree_metric([(0, v, 1.0) for v in (1, 2, 3)] + [(0, 4, 0.3)], labels=[1, 2, 3, 4])
    # At half and half d^2 is 0.5 * 4 = 2 at either end and 1.69 at the fourth: pairs do reach it here.
    assert locus(D, [0, 1], "pairs").tolist() == [True, True, False, True]
    far = tree_metric([(0, v, 1.0) for v in (1, 2, 3)] + [(0, 4, 0.5)], labels=[1, 2, 3, 4])
    # Pairs: 2 against 1.5^2 = 2.25. Three alike: 4 * 2/3 = 2.67 against 2.25.
    assert locus(far, [0, 1, 2], "pairs").tolist() == [True, True, True, False]
    assert locus(far, [0, 1, 2], "lp").all()
    assert minimum_locus_cover(far, "exact", "pairs").tolist() == [0, 1, 2, 3]
    assert minimum_locus_cover(far, "exact", "lp").tolist() == [0, 1, 2]
    assert (
        minimum_locus_cover(far, "greedy", "lp").tolist() == [0, 1, 2]
        or len(minimum_locus_cover(far, "greedy", "lp")) == 3
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_farthest_node_has_the_largest_gain_where_edges_have_one_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    D = random_tree(20, rng)
    observed = rng.choice(20, 3, replace=False)

    def size(y: int) -> int:
        return int(locus(D, np.append(observed, y), "tree").sum())

    found = {way: next_class(D, observed, way, locus_method="tree") for way in ("gain", "farthest")}
    best = max(size(y) for y in range(20) if y not in observed)
    assert size(found["gain"]) == size(found["farthest"]) == best
    assert next_class(D, observed, "gain", locus_method="lp") == found["gain"]


def test_a_long_edge_misleads_the_farthest_node() -> None:
    # From the chain 0 - 1 one edge of 10 to a leaf, or three edges of 1 each.
    D = tree_metric([(0, 1), (1, 2, 10.0), (1, 3), (3, 4), (4, 5)])
    assert next_class(D, [0, 1], "farthest") == 2
    assert next_class(D, [0, 1], "gain") == 5


def test_candidates_and_random_choice() -> None:
    D = tree_metric(TREE)
    assert next_class(D, [3, 6], "farthest", candidates=LEAVES) == 11
    drawn = {next_class(D, [3, 6], "random", candidates=LEAVES, generator=np.random.default_rng(s)) for s in range(20)}
    assert drawn == {9, 11}
    with pytest.raises(ValueError, match="every candidate is observed"):
        next_class(D, [3, 6], candidates=[3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda D: locus(D, [0], "sampling"), "'method' must be"),
        (lambda D: locus(D[:2], [0]), "'distances' has shape"),
        (lambda D: locus(D, []), "at least one label"),
        (lambda D: next_class(D, [0], "nearest"), "'method' must be"),
        (lambda D: minimum_locus_cover(D, "star"), "'kind' must be"),
        (lambda D: minimum_locus_cover(grid_metric((5, 5)), "exact"), "at most 20 labels, got 25"),
        (lambda D: pair_locus(D, 0, 30), "got 30"),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tree_metric(TREE))  # type: ignore[operator]

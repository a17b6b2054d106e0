"""Weighted distances in a tree: the kernel and the reference against all distances, deep and flat trees."""

import numpy as np
import pytest
import torch

from holonomy.manifolds import kernels
from holonomy.manifolds.kernels.tree_potential import levels, tree_potential

RNG = np.random.default_rng(0)
SHAPES = {
    "chain": np.maximum(np.arange(60) - 1, 0),
    "star": np.zeros(60, np.int64),
    "binary": np.maximum((np.arange(60) - 1) // 2, 0),
    "one node": np.zeros(1, np.int64),
}


def all_distances(parent: np.ndarray, length: np.ndarray) -> np.ndarray:
    n = len(parent)
    D = np.full((n, n), np.inf)
    np.fill_diagonal(D, 0.0)
    for v in range(1, n):
        D[v, parent[v]] = D[parent[v], v] = length[v]
    for k in range(n):  # Floyd and Warshall's
        D = np.minimum(D, D[:, k, None] + D[k])
    return D


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("p", [1, 2])
def test_sums_are_those_of_all_distances(shape: str, implementation: str, p: int) -> None:
    parent = SHAPES[shape]
    length = RNG.random(len(parent))
    length[0] = 0.0
    places = RNG.permutation(len(parent))[: max(1, len(parent) // 2)]
    weights = RNG.normal(size=(7, len(places)))
    wanted = weights @ all_distances(parent, length)[np.ix_(places, places)] ** p
    with kernels.use(implementation):
        found = tree_potential(torch.from_numpy(weights), places, parent, length, p).numpy()
    # Some hundred roundings of sums of 30 squares of at most 60 edges.
    assert np.abs(found - wanted).max() < 1e-10


def test_kernel_and_reference_agree_whatever_the_threads() -> None:
    parent = np.sort(np.concatenate([[0, 0], [RNG.integers(0, v) for v in range(2, 3000)]]))
    length = RNG.random(3000)
    places, weights = np.arange(3000), torch.from_numpy(RNG.random((20, 3000)))
    before = torch.get_num_threads()
    results = []
    for threads, implementation in ((1, "fused"), (3, "fused"), (1, "reference")):
        torch.set_num_threads(threads)
        with kernels.use(implementation):
            results.append(tree_potential(weights, places, parent, length, 2))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert float((results[0] / results[2] - 1.0).abs().max()) < 1e-12


def test_levels_are_the_depths() -> None:
    assert [(part.start, part.stop) for part in levels(SHAPES["binary"])] == [
        (1, 3),
        (3, 7),
        (7, 15),
        (15, 31),
        (31, 60),
    ]
    assert len(levels(SHAPES["chain"])) == 59
    assert levels(SHAPES["one node"]) == []

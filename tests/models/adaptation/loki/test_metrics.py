"""Distances of labels: against networkx and scipy, the four-point condition, manifolds, and what is refused."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from holonomy.manifolds import PoincareBall, Sphere
from holonomy.models.adaptation.loki import (
    Grid,
    Points,
    Tree,
    class_means,
    embedding_metric,
    frechet_predict,
    graph_metric,
    grid_metric,
    hierarchy_metric,
    manifold_metric,
    manifold_predict,
    spectral_embedding,
    tree_metric,
)

RNG = np.random.default_rng(0)


def edges(n: int, rng: np.random.Generator) -> list[tuple[int, int, float]]:
    names = rng.permutation(n)
    return [(int(names[rng.integers(0, v)]), int(names[v]), float(rng.random())) for v in range(1, n)]


def assert_metric(D: np.ndarray) -> None:
    assert (np.diagonal(D) == 0).all()
    assert (D == D.T).all()
    assert (D[:, :, None] <= D[:, None, :] + D[None].transpose(0, 2, 1) + 1e-12 * D.max()).all()


@pytest.mark.parametrize("seed", range(4))
def test_trees_are_networkx_and_of_four_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = edges(15, rng)
    graph = nx.Graph()
    graph.add_weighted_edges_from(rows)
    wanted = nx.floyd_warshall_numpy(graph, nodelist=range(15))
    D = tree_metric(rows)
    assert np.abs(D - wanted).max() < 1e-14
    assert_metric(D)
    for a, b, c, d in combinations(range(15), 4):
        sums = sorted((D[a, b] + D[c, d], D[a, c] + D[b, d], D[a, d] + D[b, c]))
        assert sums[2] - sums[1] < 1e-13  # the two largest are equal
    labels = rng.permutation(15)[:6]
    assert np.abs(tree_metric(rows, labels) - wanted[np.ix_(labels, labels)]).max() < 1e-14
    tree = Tree(rows, labels)
    i, j = rng.integers(0, 6, (2, 40))
    assert np.abs(tree.between(i, j) - wanted[np.ix_(labels, labels)][i, j]).max() < 1e-14
    assert (tree.n, tree.nodes) == (6, 15)


def test_a_grid_is_not_a_tree() -> None:
    D = grid_metric((2, 2))
    sums = sorted((D[0, 1] + D[2, 3], D[0, 2] + D[1, 3], D[0, 3] + D[1, 2]))
    assert sums[2] > sums[1]


def test_hierarchies_are_trees() -> None:
    parents = np.array([4, 4, 5, 5, 6, 6, -1])
    assert (hierarchy_metric(parents) == tree_metric([(i, int(p)) for i, p in enumerate(parents) if p >= 0])).all()
    assert hierarchy_metric(parents, labels=[0, 1, 2]).tolist() == [[0, 2, 4], [2, 0, 4], [4, 4, 0]]
    assert hierarchy_metric(parents, np.arange(7) / 2.0, [0, 3])[0, 1] == 0.0 + 1.5 + 2.0 + 2.5


def test_long_chains_take_no_recursion() -> None:
    tree = Tree([(v - 1, v) for v in range(1, 5000)])
    assert tree.distances([0])[0, -1] == 4999
    assert tree.between([0, 4999], [4999, 2])[1] == 4997


def test_graphs_are_networkx() -> None:
    graph = nx.gnm_random_graph(20, 40, seed=3)
    for u, v in graph.edges:
        graph[u][v]["weight"] = float(RNG.random()) + 0.1
    graph.add_edges_from([(v, v + 1, {"weight": 5.0}) for v in range(19) if not graph.has_edge(v, v + 1)])
    wanted = nx.floyd_warshall_numpy(graph, nodelist=range(20))
    array = nx.to_numpy_array(graph, nodelist=range(20))
    for adjacency in (array, csr_matrix(array)):
        D = graph_metric(adjacency)
        assert np.abs(D - wanted).max() < 1e-12
        assert_metric(D)
    assert np.abs(graph_metric(array, [3, 1]) - wanted[np.ix_([3, 1], [3, 1])]).max() < 1e-12


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_grids_are_norms_of_differences(shape: tuple[int, ...]) -> None:
    places = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), 1)
    for order in (1, 2, 3, np.inf):
        wanted = np.linalg.norm(places[:, None] - places[None], ord=order, axis=-1)
        D = grid_metric(shape, order)
        assert np.abs(D - wanted).max() < 1e-14
        assert_metric(D)
        if order in (1, 2):
            i, j = RNG.integers(0, len(D), (2, 20))
            assert np.abs(Grid(shape, order).distances() - D).max() < 1e-14
            assert np.abs(Grid(shape, order).between(i, j) - D[i, j]).max() < 1e-14


def test_embeddings_lengths_and_angles() -> None:
    E = RNG.normal(size=(12, 5))
    gap = np.linalg.norm(E[:, None] - E[None], axis=-1)
    assert np.abs(embedding_metric(E) - gap).max() < 1e-14
    assert np.abs(embedding_metric(E, "sqeuclidean") - gap**2).max() < 1e-13
    unit = E / np.linalg.norm(E, axis=1, keepdims=True)
    assert np.abs(embedding_metric(E, "cosine") - (1 - unit @ unit.T)).max() < 1e-15
    sphere = embedding_metric(torch.from_numpy(E), "sphere")
    assert np.abs(np.cos(sphere) - unit @ unit.T).max() < 1e-14
    assert_metric(sphere)
    # Vectors 1e-9 apart: arccos of their product would have no digit.
    near = embedding_metric(np.array([[1.0, 0.0], [1.0, 1e-9]]), "sphere")
    assert near[0, 1] == pytest.approx(1e-9, rel=1e-6)
    assert np.abs(Points(E + 1e3).distances() - gap).max() < 1e-11
    assert np.abs(Points(E).between([0, 1], [2, 2]) - gap[[0, 1], 2]).max() < 1e-14


def test_means_of_classes_and_spectral_embeddings() -> None:
    X, y = RNG.normal(size=(30, 4)), np.arange(30) % 3
    assert np.abs(class_means(X, y) - [X[y == k].mean(0) for k in range(3)]).max() < 1e-15
    with pytest.raises(ValueError, match="class 1 has no feature"):
        class_means(X[:2], [0, 2])
    # A cycle's least eigenvectors put it on a circle.
    ring = np.roll(np.eye(12), 1, 1) + np.roll(np.eye(12), -1, 1)
    E = spectral_embedding(ring, 2)
    assert np.ptp(np.linalg.norm(E, axis=1)) < 1e-12
    D = embedding_metric(E)
    assert (D.argsort(1)[:, 1:3] % 12 == np.sort(D.argsort(1)[:, 1:3] % 12, 1)).shape == (12, 2)
    steps = np.sort(D, 1)[:, 1:3]
    assert np.ptp(steps) < 1e-12
    with pytest.raises(ValueError, match="must be connected"):
        spectral_embedding(np.kron(np.eye(2), np.ones((2, 2))), 1)


@pytest.mark.parametrize("manifold", [Sphere(), PoincareBall()], ids=["sphere", "ball"])
def test_on_dense_manifolds_the_rule_is_the_mean_then_the_nearest_label(manifold: Sphere | PoincareBall) -> None:
    generator = torch.Generator().manual_seed(0)
    if isinstance(manifold, Sphere):
        points = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
        points[:, 2] = points[:, 2].abs() + 1.0  # within a cap, where means are unique
        points = points / points.norm(dim=1, keepdim=True)
    else:
        points = torch.rand(4000, 2, generator=generator, dtype=torch.float64) - 0.5
    D = manifold_metric(manifold, points)
    assert (np.diagonal(D) == 0).all()
    assert (D == D.T).all()
    observed = list(range(5))
    P = torch.from_numpy(RNG.dirichlet(np.ones(5), 60))
    rule = frechet_predict(P, D, observed=observed)
    mean = manifold_predict(P, manifold, points[observed], points)
    apart = D[rule, mean]
    # Both lie within about a hole of the labels of the mean, and holes are some steps to the nearest label wide.
    step = float(np.median(np.partition(D, 1, axis=1)[:, 1]))
    assert apart.max() < 6.0 * step
    assert (rule == mean).float().mean() > 0.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tree_metric([(0, 1), (1, 2), (2, 0)]), "must have no cycle"),
        (lambda: tree_metric([(0, 0)]), "must have no cycle"),
        (lambda: tree_metric([(0, 1), (1, 0), (2, 3)]), "must have no cycle"),
        (lambda: tree_metric([(0, 1), (2, 3)]), r"must connect all nodes, got 2 components, one of them \{2, 3\}"),
        (lambda: tree_metric([(0, 1, -1.0)]), r"not negative, got -1 of edge \(0, 1\)"),
        (lambda: tree_metric([(0, 1, np.inf)]), "lengths must be finite"),
        (lambda: tree_metric([(0, 1)], labels=[0, 0]), "must not repeat"),
        (lambda: tree_metric([(0, -1)]), "from 0 on, got -1"),
        (lambda: tree_metric([(0,)]), r"must be \(u, v\)"),
        (lambda: hierarchy_metric([1, 0]), "must be -1 at one node"),
        (lambda: graph_metric(np.zeros((2, 2))), r"2 components; nodes \{0\}"),
        (lambda: graph_metric(np.array([[0.0, 1.0], [2.0, 0.0]])), "must be symmetric"),
        (lambda: graph_metric(-np.ones((2, 2))), "not negative"),
        (lambda: graph_metric(np.ones((2, 3))), r"wanted \(n, n\)"),
        (lambda: grid_metric((0, 2)), "lengths of at least 1"),
        (lambda: grid_metric((2, 2), 0.5), "'ord' must be at least 1"),
        (lambda: Grid((2, 2), 3), "'ord' must be 1 or 2"),
        (lambda: embedding_metric(np.zeros((2, 2)), "sphere"), "no zero vector, got one in row 0"),
        (lambda: embedding_metric(np.ones((2, 2)), "dot"), "'kind' must be"),
        (lambda: embedding_metric(np.full((2, 2), np.nan)), "must be finite"),
        (lambda: Grid((3, 3), 2).potential(torch.ones(1, 9), 1.0), r"one of \(2.0,\)"),
        (lambda: Tree([(0, 1)]).potential(torch.ones(1, 2), 3.0), "must be 1 or 2"),
    ],
)
def test_what_is_no_metric_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_nodes_must_be_integers() -> None:
    with pytest.raises(TypeError, match="name nodes by integers"):
        tree_metric([(0, 1.5)])
    with pytest.raises(TypeError, match="must be integers"):
        hierarchy_metric([0.5, -1.0])

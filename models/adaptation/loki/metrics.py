"""Distances between labels: of trees, graphs, grids, hierarchies, embeddings and points of manifolds, as (N, N)."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix, issparse
from scipy.sparse.csgraph import connected_components, laplacian, shortest_path
from scipy.spatial.distance import cdist
from torch import Tensor

from holonomy.manifolds import Manifold
from holonomy.manifolds.frechet import frechet_mean
from holonomy.manifolds.nearest import nearest
from holonomy.models.adaptation.loki.trees import Tree
from holonomy.models.adaptation.loki.validation import check_distances, check_probs, label_indices

__all__ = [
    "class_means",
    "embedding_metric",
    "graph_metric",
    "grid_metric",
    "hierarchy_metric",
    "manifold_metric",
    "manifold_predict",
    "spectral_embedding",
    "tree_metric",
]


def tree_metric(edges: Iterable[Any], labels: Any = None) -> np.ndarray:
    """Shortest-path distances (N, N) in a tree, float64; `Tree` has them without N x N.

    Parameters
    ----------
    edges : iterable of tuple
        (u, v) or (u, v, length), nodes 0 to n - 1.
    labels : array-like, optional
        Nodes that are labels, for instance the leaves; by default all nodes.

    Raises
    ------
    TypeError, ValueError
        As of `Tree`: for a cycle, nodes that are not connected, a negative length.
    """
    return _symmetric(Tree(edges, labels).distances())


def hierarchy_metric(parents: Any, lengths: Any = None, labels: Any = None) -> np.ndarray:
    """Shortest-path distances (N, N) in a hierarchy of `parents` (n,), -1 at the root, as of `Tree.from_parents`."""
    return _symmetric(Tree.from_parents(parents, lengths, labels).distances())


def graph_metric(adjacency: Any, labels: Any = None) -> np.ndarray:
    """Shortest-path distances (N, N) in an undirected graph, float64.

    Parameters
    ----------
    adjacency : array-like or sparse matrix
        (n, n), symmetric, lengths of edges, not negative; 0 is no edge.
    labels : array-like, optional
        Nodes that are labels; by default all nodes.

    Raises
    ------
    ValueError
        Where the matrix is not square, not symmetric, has NaN, infinite or negative lengths, or the graph is not
        connected; the message names a component.
    """
    graph = csr_matrix(adjacency) if not issparse(adjacency) else adjacency.tocsr()
    if graph.shape[0] != graph.shape[1] or graph.shape[0] == 0:
        raise ValueError(f"graph_metric: 'adjacency' has shape {graph.shape}, wanted (n, n)")
    if not np.isfinite(graph.data).all() or (graph.data < 0).any():
        raise ValueError("graph_metric: 'adjacency' must be finite and not negative")
    if abs(graph - graph.T).max() > 0:
        raise ValueError("graph_metric: 'adjacency' must be symmetric")
    count, component = connected_components(graph, directed=False)
    if count > 1:
        members = np.flatnonzero(component == np.bincount(component).argmin())
        named = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
        raise ValueError(
            f"graph_metric: 'adjacency' must be connected, got {count} components; nodes {{{named}}} are one of them"
        )
    if labels is None:
        return _symmetric(shortest_path(graph, directed=False))
    index = label_indices("graph_metric", "labels", labels, graph.shape[0])
    return _symmetric(shortest_path(graph, directed=False, indices=index)[:, index])


def grid_metric(shape: Sequence[int], ord: float = 1) -> np.ndarray:
    """Distances (N, N) between all places of a grid in row-major order; `Grid` has them without N x N.

    Parameters
    ----------
    shape : sequence of int
        Lengths of the axes.
    ord : float, default 1
        Of the norm: 1 Manhattan, 2 Euclidean, infinity for the largest coordinate; at least 1.

    Raises
    ------
    ValueError
        Where an axis is shorter than 1, or `ord` is below 1.
    """
    if len(shape) == 0 or any(int(length) != length or length < 1 for length in shape):
        raise ValueError(f"grid_metric: 'shape' must be lengths of at least 1, got {tuple(shape)}")
    if not ord >= 1:
        raise ValueError(f"grid_metric: 'ord' must be at least 1, got {ord!r}")
    places = np.stack(np.unravel_index(np.arange(np.prod(shape)), tuple(shape)), axis=1).astype(float)
    if ord in (1, np.inf):
        return cdist(places, places, "cityblock" if ord == 1 else "chebyshev")
    return cdist(places, places, "minkowski", p=ord)


def embedding_metric(E: Any, kind: Literal["euclidean", "sqeuclidean", "cosine", "sphere"] = "euclidean") -> np.ndarray:
    """Distances (N, N) between embeddings of labels, for instance of their names or the means of their features.

    Parameters
    ----------
    E : array-like or Tensor
        (N, d), finite.
    kind : {"euclidean", "sqeuclidean", "cosine", "sphere"}, default "euclidean"
        |a - b|; |a - b|^2; 1 - cos(a, b); or the angle between a and b, the geodesic distance on the sphere. The
        second and third are no metrics, and serve as distances all the same.

    Raises
    ------
    ValueError
        Where embeddings are not (N, d) or not finite, `kind` is unknown, or a vector is 0 where angles are asked for.
    """
    if kind not in ("euclidean", "sqeuclidean", "cosine", "sphere"):
        raise ValueError(
            f"embedding_metric: 'kind' must be 'euclidean', 'sqeuclidean', 'cosine' or 'sphere', got {kind!r}"
        )
    array = np.asarray(E.detach().cpu() if isinstance(E, Tensor) else E, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"embedding_metric: 'E' must be finite embeddings (N, d), got shape {array.shape}")
    if kind in ("euclidean", "sqeuclidean"):
        return cdist(array, array, kind)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError(f"embedding_metric: 'E' must have no zero vector, got one in row {int(lengths.argmin())}")
    unit = array / lengths
    chords, sums = cdist(unit, unit), cdist(unit, -unit)
    # 1 - cos and the angle by chords: they do not cancel where vectors are near each other.
    return 0.5 * chords**2 if kind == "cosine" else 2.0 * np.arctan2(chords, sums)


def manifold_metric(manifold: Manifold, points: Tensor) -> np.ndarray:
    """Geodesic distances (N, N) between points (N, *point) of a manifold, for instance `Sphere` or `PoincareBall`."""
    D = np.array(manifold.cdist(points, points).double().numpy(force=True))
    np.fill_diagonal(D, 0.0)
    return _symmetric(D)


def manifold_predict(probs: Tensor, manifold: Manifold, observed: Tensor, points: Tensor) -> Tensor:
    """The rule by way of the manifold: the label nearest to the Fréchet mean of observed labels' points.

    Where labels are dense it is the rule within the label space; elsewhere the two may differ, save on flat spaces.

    Parameters
    ----------
    probs : Tensor
        (B, K), weights of the observed labels.
    manifold : Manifold
        Where labels lie.
    observed, points : Tensor
        Points (K, *point) of the observed labels and (N, *point) of all labels.

    Returns
    -------
    Tensor
        Labels (B,), int64.

    Raises
    ------
    TypeError, ValueError
        Where probabilities are none, or are not one a point of `observed`.
    """
    check_probs("manifold_predict", probs, len(observed))
    x = observed.unsqueeze(1).expand(-1, len(probs), *observed.shape[1:])
    means = frechet_mean(manifold, x, probs.T.to(observed), dim=0)
    return nearest(manifold, means, points, 1)[1].squeeze(-1)


def class_means(X: Any, y: Any) -> np.ndarray:
    """Means (N, d) of the features (m, d) of each class; classes are 0 to N - 1, and each has a feature.

    Raises
    ------
    TypeError
        Where `y` are not integers.
    ValueError
        Where features are not finite (m, d), labels not as many, or a class has no feature.
    """
    array = np.asarray(X.detach().cpu() if isinstance(X, Tensor) else X, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"class_means: 'X' must be finite features (m, d), got shape {array.shape}")
    labels = label_indices("class_means", "y", y, np.iinfo(np.int64).max)
    if len(labels) != len(array):
        raise ValueError(f"class_means: 'y' must be one label a feature, got {len(labels)} for {len(array)}")
    counts = np.bincount(labels)
    if (counts == 0).any():
        raise ValueError(f"class_means: class {int(counts.argmin())} has no feature in 'X'")
    sums = np.zeros((len(counts), array.shape[1]))
    np.add.at(sums, labels, array)
    return sums / counts[:, None]


def spectral_embedding(adjacency: Any, dim: int) -> np.ndarray:
    """Eigenvectors (n, dim) of the normalised Laplacian of a graph with the least eigenvalues above 0.

    Parameters
    ----------
    adjacency : array-like or sparse matrix
        (n, n), symmetric, similarities, not negative; a connected graph. Held as (n, n).
    dim : int
        1 to n - 1.

    Raises
    ------
    ValueError
        Where `dim` is out of its range, or the matrix is not square, symmetric, or connected.
    """
    array = np.asarray(adjacency.toarray() if issparse(adjacency) else adjacency, dtype=np.float64)
    check_distances("spectral_embedding", array * (1 - np.eye(len(array))) if array.ndim == 2 else array)
    if not 1 <= dim < len(array):
        raise ValueError(f"spectral_embedding: 'dim' must be from 1 to {len(array) - 1}, got {dim}")
    if connected_components(csr_matrix(array), directed=False)[0] > 1:
        raise ValueError("spectral_embedding: 'adjacency' must be connected")
    values, vectors = torch.linalg.eigh(torch.from_numpy(laplacian(array, normed=True)))
    return np.asarray(vectors[:, values.argsort()[1 : dim + 1]])


def _symmetric(D: np.ndarray) -> np.ndarray:
    """The same distances with both orders of summation made one."""
    return 0.5 * (D + D.T)

"""Trees as metric spaces of labels: distances, and sums of weighted distances to all nodes by re-rooting.

A tree of n nodes is held in breadth-first order, so that a parent comes before its children. With w the weights, two
passes give G(v) = sum_u w_u d(u, v) and F(v) = sum_u w_u d(u, v)^2 at all nodes in O(n): up, mass and first moment of
each subtree; down, along an edge of length l from v to its child c,

    G(c) = G(v) + l (outside - inside),    F(c) = F(v) + l (2 G_out(v) + l outside) - l (2 G_in(c) + l inside),

where inside and outside are the masses on the child's side and on the other, and G_in, G_out their first moments.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from holonomy.manifolds.kernels.tree_potential import levels, tree_potential
from holonomy.models.adaptation.loki.validation import check_observed, label_indices

__all__ = ["Tree"]


class Tree:
    """Shortest-path distances in a tree, between labels that are all of its nodes or some of them.

    Parameters
    ----------
    edges : iterable of tuple
        (u, v) or (u, v, length), nodes 0 to n - 1, n - 1 edges; lengths are 1 where left out.
    labels : array-like, optional
        Nodes that are labels, in the order of the labels; by default all nodes.

    Attributes
    ----------
    n : int
        Labels.
    nodes : int
        Nodes.
    powers : tuple of float
        Powers of the distance that `potential` takes.

    Raises
    ------
    TypeError
        Where nodes or labels are not integers.
    ValueError
        Where the edges have a cycle, are not connected, or a length is negative or not finite; labels repeat or are not
        nodes.
    """

    powers = (1.0, 2.0)

    def __init__(self, edges: Iterable[Any], labels: Any = None) -> None:
        pairs, lengths = _read_edges(edges)
        self.nodes = int(pairs.max(initial=0)) + 1
        order, predecessors = _search(pairs, self.nodes)
        places = np.empty(self.nodes, np.int64)
        places[order] = np.arange(self.nodes)
        # The edge to the parent of each node: it is the one whose lower end in the order is the node.
        child = places[pairs].max(1)
        self._length = np.zeros(self.nodes)
        self._length[child] = lengths
        self._parent = np.zeros(self.nodes, np.int64)
        self._parent[1:] = places[predecessors[order[1:]]]
        self._labels = np.arange(self.nodes) if labels is None else check_observed("Tree", labels, self.nodes)
        self._places = places[self._labels]
        self.n = len(self._labels)
        self._depth, self._height = _depths(self._parent, self._length)

    @classmethod
    def from_parents(cls, parents: Any, lengths: Any = None, labels: Any = None) -> "Tree":
        """Tree of a hierarchy: `parents` (n,), -1 at the root, and the lengths (n,) of the edges to them."""
        array = np.asarray(parents)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"Tree: 'parents' must be integers (n,), got {array.dtype} {array.shape}")
        roots = np.flatnonzero(array == -1)
        if len(roots) != 1:
            raise ValueError(f"Tree: 'parents' must be -1 at one node, the root, got {len(roots)}")
        long = np.ones(len(array)) if lengths is None else np.asarray(lengths, dtype=float)
        if long.shape != array.shape:
            raise ValueError(f"Tree: 'lengths' has shape {long.shape}, wanted {array.shape}, one a node")
        return cls(
            [
                (int(p), i, float(length))
                for i, (p, length) in enumerate(zip(array, long, strict=True))
                if i != int(roots[0])
            ],
            labels,
        )

    def between(self, first: Any, second: Any) -> np.ndarray:
        """Distances of pairs of labels: indices (m,) and (m,) give (m,), by climbing to where the paths meet."""
        a, b = (
            self._places[label_indices("Tree.between", name, y, self.n)]
            for name, y in (("first", first), ("second", second))
        )
        found = self._height[a] + self._height[b]
        a, b = a.copy(), b.copy()
        while (a != b).any():
            deeper = self._depth[a] >= self._depth[b]
            other = self._depth[b] >= self._depth[a]
            apart = a != b
            a = np.where(apart & deeper, self._parent[a], a)
            b = np.where(apart & other, self._parent[b], b)
        return found - 2.0 * self._height[a]

    def distances(self, rows: Any = None) -> np.ndarray:
        """Distances (K, N) from labels to all labels, float64; from all of them, (N, N), where `rows` is left out."""
        index = np.arange(self.n) if rows is None else label_indices("Tree.distances", "rows", rows, self.n)
        found = np.empty((len(index), self.n))
        step = max(1, 2**22 // self.nodes)
        for low in range(0, len(index), step):
            found[low : low + step] = self._from(self._places[index[low : low + step]])[self._places].T
        return found

    def _from(self, sources: np.ndarray) -> np.ndarray:
        """Distances (nodes, K) from nodes to all nodes: up to the root first, then down; lengths are only added."""
        found = np.full((self.nodes, len(sources)), np.nan)
        columns = np.arange(len(sources))
        found[sources, columns] = 0.0
        node, far = sources.copy(), np.zeros(len(sources))
        while node.any():  # the root is node 0, and its own parent over a length of 0
            far = far + self._length[node]
            node = self._parent[node]
            # At the root a second visit adds nothing.
            found[node, columns] = far
        for level in levels(self._parent):
            own = found[level]
            found[level] = np.where(np.isnan(own), found[self._parent[level]] + self._length[level, None], own)
        return found

    def potential(self, weights: Tensor, p: float) -> Tensor:
        """Sums of weighted distances, sum_u w_u d(u, v)^p, at every label v.

        Parameters
        ----------
        weights : Tensor
            (B, N), a weight a label.
        p : float
            1 or 2.

        Returns
        -------
        Tensor
            (B, N), float64. Differentiable: the map is linear and symmetric.
        """
        if p not in self.powers:
            raise ValueError(f"Tree.potential: 'p' must be 1 or 2, got {p}")
        return _Potential.apply(weights.double(), self, int(p))

    def _at_labels(self, weights: Tensor, p: int) -> Tensor:
        return tree_potential(weights, self._places, self._parent, self._length, p)


class _Potential(torch.autograd.Function):
    """A symmetric linear map: its derivative in the weights, applied to a gradient, is the map itself."""

    @staticmethod
    def forward(weights: Tensor, tree: Tree, p: int) -> Tensor:
        return tree._at_labels(weights, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.tree, ctx.p = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Potential.apply(grads[0], ctx.tree, ctx.p), None, None


def _read_edges(edges: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (m, 2) of nodes and lengths (m,)."""
    rows = [tuple(edge) for edge in edges]
    if any(len(row) not in (2, 3) for row in rows):
        raise ValueError("Tree: 'edges' must be (u, v) or (u, v, length), got one of another length")
    if any(int(node) != node for row in rows for node in row[:2]):
        raise TypeError("Tree: 'edges' must name nodes by integers")
    pairs = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    lengths = np.array([row[2] if len(row) == 3 else 1.0 for row in rows], dtype=np.float64)
    if pairs.min(initial=0) < 0:
        raise ValueError(f"Tree: 'edges' must name nodes from 0 on, got {pairs.min()}")
    bad = ~(np.isfinite(lengths) & (lengths >= 0))
    if bad.any():
        u, v = pairs[bad.argmax()]
        raise ValueError(f"Tree: lengths must be finite and not negative, got {lengths[bad][0]:g} of edge ({u}, {v})")
    return pairs, lengths


def _search(pairs: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Breadth-first order from node 0, and predecessors; refuse what is no tree."""
    graph = csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    count, component = connected_components(graph, directed=False)
    if len(pairs) != n - count:
        raise ValueError(
            f"Tree: 'edges' must have no cycle, got {len(pairs)} edges; a forest of {count} has {n - count}"
        )
    if count > 1:
        members = np.flatnonzero(component == component[-1]) if component[-1] else np.flatnonzero(component)
        named = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
        raise ValueError(f"Tree: 'edges' must connect all nodes, got {count} components, one of them {{{named}}}")
    return breadth_first_order(graph, 0, directed=False)


def _depths(parent: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges and summed lengths from the root."""
    depth, height = np.zeros(len(parent), np.int64), np.zeros(len(parent))
    for node in range(1, len(parent)):
        above = parent[node]
        depth[node] = depth[above] + 1
        height[node] = height[above] + length[node]
    return depth, height

"""Sums of weighted distances from every node of a tree to all others, by two passes over its edges."""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["levels", "tree_potential", "tree_potential_reference"]


def tree_potential(weights: Tensor, places: np.ndarray, parent: np.ndarray, length: np.ndarray, p: int) -> Tensor:
    """Weighted distances sum_u w_u d(u, v)^p between some nodes of a tree, in O(n) for each row of weights.

    Parameters
    ----------
    weights : Tensor
        (B, N), float64, of some of the n nodes; no gradient passes.
    places : ndarray
        (N,), int64, which nodes these are, all different.
    parent : ndarray
        (n,), int64, the parent of each node but the first, which is the root and 0 here; nodes in breadth-first order,
        so that a parent comes before its children and parents do not fall.
    length : ndarray
        (n,), float64, of the edge to the parent; not negative.
    p : int
        1 or 2.

    Returns
    -------
    Tensor
        (B, N), float64, at the same nodes.
    """
    if weights.device.type != "cpu" or dispatch.backend(weights) != "numba":
        return tree_potential_reference(weights, places, parent, length, p)
    from holonomy.manifolds.kernels.cpu.tree_potential import run

    return torch.from_numpy(run(np.ascontiguousarray(weights.detach().numpy()), places, parent, length, p))


def tree_potential_reference(
    weights: Tensor, places: np.ndarray, parent: np.ndarray, length: np.ndarray, p: int
) -> Tensor:
    """Evaluate `tree_potential` in plain torch, level by level."""
    above = torch.from_numpy(parent).to(weights.device)
    long = torch.from_numpy(length).to(weights.device).unsqueeze(1)
    ranges = levels(parent)
    labels = torch.from_numpy(places).to(weights.device)
    mass = weights.new_zeros(len(parent), len(weights))
    mass[labels] = weights.detach().T
    first, second = torch.zeros_like(mass), torch.zeros_like(mass)
    for level in reversed(ranges):
        l, inside, near = long[level], mass[level], first[level]  # noqa: E741
        second.index_add_(0, above[level], second[level] + l * (2.0 * near + l * inside))
        first.index_add_(0, above[level], near + l * inside)
        mass.index_add_(0, above[level], inside.clone())
    G, F = torch.empty_like(mass), torch.empty_like(mass)
    G[0], F[0] = first[0], second[0]
    for level in ranges:
        l, inside, near, top = long[level], mass[level], first[level], above[level]  # noqa: E741
        outside = mass[0] - inside
        far = G[top] - near - l * inside
        F[level] = F[top] + l * (2.0 * far + l * outside) - l * (2.0 * near + l * inside)
        G[level] = G[top] + l * (outside - inside)
    return (G if p == 1 else F)[labels].T.contiguous()


def levels(parent: np.ndarray) -> list[slice]:
    """Ranges of nodes at depth 1, 2, ...: the children of the range before."""
    ranges = []
    low, high = 0, 1
    while high < len(parent):
        # Parents do not fall: the children of the range low, ..., high - 1 are one range.
        low, high = high, int(np.searchsorted(parent[1:], high, side="left")) + 1
        ranges.append(slice(low, high))
    return ranges

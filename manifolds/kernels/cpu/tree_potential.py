"""Weighted distances in a tree on the CPU: two scalar passes a row of weights, whose moments stay in cache."""

import numpy as np

from holonomy.manifolds.kernels.cpu.jit import kernel, parallel

__all__ = ["run"]

#: Nodes of all rows that make a thread worth starting.
_GRAIN = 2**14


@kernel
def _passes(weights, places, parent, length, p, out, low, high):  # type: ignore[no-untyped-def]
    n = len(parent)
    mass, first = np.empty(n), np.empty(n)
    near, far = np.empty(n), np.empty(n)
    for row in range(low, high):
        for v in range(n):
            mass[v], first[v], near[v] = 0.0, 0.0, 0.0
        for k in range(len(places)):
            mass[places[k]] = weights[row, k]
        for v in range(n - 1, 0, -1):
            a, l = parent[v], length[v]  # noqa: E741
            mass[a] += mass[v]
            moved = first[v] + l * mass[v]
            first[a] += moved
            # near holds second moments on the way up; on the way down it is overwritten from the root on.
            near[a] += near[v] + l * (first[v] + moved)
        second = near[0]
        total = mass[0]
        near[0], far[0] = first[0], second
        for v in range(1, n):
            a, l = parent[v], length[v]  # noqa: E741
            inside, outside = mass[v], total - mass[v]
            rest = near[a] - first[v] - l * inside
            far[v] = far[a] + l * (2.0 * rest + l * outside) - l * (2.0 * first[v] + l * inside)
            near[v] = near[a] + l * (outside - inside)
        for k in range(len(places)):
            out[row, k] = near[places[k]] if p == 1 else far[places[k]]


def run(weights: np.ndarray, places: np.ndarray, parent: np.ndarray, length: np.ndarray, p: int) -> np.ndarray:
    """Evaluate `tree_potential` on arrays."""
    out = np.empty_like(weights)
    parallel(_passes, len(weights), max(1, _GRAIN // max(1, len(parent))), weights, places, parent, length, p, out)
    return out

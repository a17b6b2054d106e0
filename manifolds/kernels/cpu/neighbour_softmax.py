"""One update of assignments on the CPU: sparse affinity times assignments, softmax, and their energies, row by row.

A row's pull sum_q w_pq z_q is summed in a buffer that stays in cache; nothing but the new rows is written to memory.
"""

import math
from typing import Any

import numpy as np

from holonomy.manifolds.kernels.cpu.jit import kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import LANES, exp, fill, load, maximum, store, total
from holonomy.manifolds.kernels.cpu.simplex import fetch, put

__all__ = ["run"]

#: Below every logit.
_FAR = -1e30
#: Numbers of a row's neighbours and its own that make a thread worth starting.
_GRAIN = 2**14


@kernel
def _update(costs, crow, columns, weights, Z, running, lam, K, out, pulled, free, low, high):  # type: ignore[no-untyped-def]
    padded = (K + LANES - 1) // LANES * LANES
    pull, row = np.zeros(padded, costs.dtype), np.zeros(padded, costs.dtype)
    peaks = np.empty(LANES, costs.dtype)
    zero, least = fill(costs, 0.0), fill(costs, _FAR)
    for p in range(low, high):
        base = p * K
        if running[p] == 0:
            for k in range(K):
                out[base + k] = Z[base + k]
            continue
        inner, top = zero, least
        for k in range(0, padded, LANES):
            force = zero
            for j in range(crow[p], crow[p + 1]):
                force = force + weights[j] * fetch(Z, columns[j] * K + k, K - k)
            inner = inner + fetch(Z, base + k, K - k) * force
            force = force * lam
            store(pull, k, force)
            store(row, k, force - fetch(costs, base + k, K - k))
            if K - k < LANES:
                for tail in range(K, padded):
                    row[tail] = _FAR  # its exponential is 0
            top = maximum(load(row, k), top)
        store(peaks, 0, top)
        highest = peaks.max()
        mass, energy = zero, zero
        for k in range(0, padded, LANES):
            e = exp(load(row, k) - highest)
            store(row, k, e)
            mass = mass + e
            energy = energy + e * load(pull, k)
        whole = total(mass)
        scale = costs.dtype.type(1.0 / whole)
        for k in range(0, padded, LANES):
            put(out, base + k, load(row, k) * scale, K - k)
        pulled[p] = total(inner)
        free[p] = total(energy) / whole - highest - math.log(whole)


def run(arrays: tuple[np.ndarray, ...], lam: float, K: int, results: tuple[np.ndarray, ...]) -> None:
    """Update; arrays costs, crow, columns, weights, Z and running, flat; results as of `neighbour_softmax`."""
    rows = len(arrays[5])
    work = (len(arrays[3]) // max(rows, 1) + 4) * K
    factor: Any = arrays[0].dtype.type(lam)
    parallel(_update, rows, max(1, _GRAIN // work), *arrays, factor, K, *results)

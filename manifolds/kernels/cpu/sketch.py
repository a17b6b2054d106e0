"""CPU kernels of hashed tables: hashing of ids, and sums of rows by index.

Sums run in the order of the input, each row of the table on one thread, so that results do not depend on the number
of threads.
"""

import numpy as np

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import load, masked_load, masked_store, store

__all__ = ["hash_ids", "scatter_rows"]


@inline
def _mix(z):  # type: ignore[no-untyped-def]
    """The finaliser of splitmix64, on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _hash(ids, columns, keys, out, features, buckets, low, high):  # type: ignore[no-untyped-def]
    lookups = keys.size
    for i in range(low, high):
        for j in range(lookups):
            hashed = _mix(ids[i * features + columns[j]] + keys[j])
            out[i * lookups + j] = (hashed >> np.uint64(1)) % buckets


def hash_ids(
    ids: np.ndarray, columns: np.ndarray, keys: np.ndarray, out: np.ndarray, features: int, buckets: int
) -> None:
    """Write the bucket of ids[i, columns[j]] under keys[j] to out[i, j]; flat int64 arrays."""
    as_uint64 = ids.view(np.uint64), columns, keys.view(np.uint64), out.view(np.uint64)
    parallel(_hash, ids.size // features, max(1, 2**13 // keys.size), *as_uint64, features, np.uint64(buckets))


@kernel
def _scatter_rows(values, rows, out, d, low, high):  # type: ignore[no-untyped-def]
    """Sum the rows of `values` whose index is in [low, high), in their order."""
    full = d - d % 8
    out[low * d : high * d] = 0.0
    for i in range(rows.size):
        row = rows[i]
        if low <= row < high:
            to, o = row * d, i * d
            for k in range(0, full, 8):
                store(out, to + k, load(out, to + k) + load(values, o + k))
            if full < d:
                rest = d - full
                value = masked_load(out, to + full, rest) + masked_load(values, o + full, rest)
                masked_store(out, to + full, value, rest)


def scatter_rows(values: np.ndarray, rows: np.ndarray, out: np.ndarray, d: int) -> None:
    """Write the sums of rows of d numbers to the table `out`; negative indices are left out. Flat arrays."""
    size = out.size // d
    # Every thread reads all indices, which pays only where there is much to add.
    grain = size + 1 if rows.size * d < 2**18 else max(1, size // 8)
    parallel(_scatter_rows, size, grain, values, rows, out, d)

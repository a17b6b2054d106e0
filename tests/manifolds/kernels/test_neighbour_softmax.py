"""The update of assignments: the kernel against the reference, the reference against its formula, energies, masks."""

import numpy as np
import pytest
import torch
from scipy.sparse import random as random_sparse
from scipy.special import logsumexp, softmax, xlogy

from holonomy.manifolds import kernels
from holonomy.manifolds.kernels.neighbour_softmax import neighbour_softmax, neighbour_softmax_reference

RNG = np.random.default_rng(0)


def case(n: int, K: int, dtype: type) -> tuple:
    W = random_sparse(n, n, 0.1, "csr", dtype=dtype, random_state=1)
    return RNG.normal(size=(n, K)).astype(dtype), W, RNG.dirichlet(np.ones(K), n).astype(dtype)


@pytest.mark.parametrize("K", [1, 2, 5, 8, 9, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_kernel_is_the_reference(K: int, dtype: type, tolerance: float) -> None:
    # Sums of up to K products of numbers of about 1, in another order.
    costs, W, Z = case(70, K, dtype)
    running = RNG.random(70) < 0.7
    for mask in (None, running):
        with kernels.use("fused"):
            found = neighbour_softmax(costs, W, Z, 1.7, mask)
        with kernels.use("reference"):
            wanted = neighbour_softmax(costs, W, Z, 1.7, mask)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            assert np.abs(one - other).max() < tolerance


def test_reference_is_the_formula() -> None:
    costs, W, Z = case(50, 6, np.float64)
    new, pulled, free = neighbour_softmax_reference(costs, W, Z, 0.8)
    logits = 0.8 * (W.toarray() @ Z) - costs
    assert np.abs(new - softmax(logits, 1)).max() < 1e-14
    assert np.abs(pulled - (Z * (W.toarray() @ Z)).sum(1)).max() < 1e-14
    assert np.abs(free - (xlogy(new, new) + new * costs).sum(1)).max() < 1e-13
    wide = np.abs(free - ((0.8 * (W @ Z) * new).sum(1) - logsumexp(logits, 1)))
    assert wide.max() < 1e-13


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_blocks_change_nothing(block: int) -> None:
    costs, W, Z = case(50, 6, np.float64)
    for one, other in zip(
        neighbour_softmax_reference(costs, W, Z, 1.0),
        neighbour_softmax_reference(costs, W, Z, 1.0, block=block),
        strict=True,
    ):
        assert np.abs(one - other).max() < 1e-14


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_large_costs_and_rows_that_rest(implementation: str) -> None:
    costs = np.array([[0.0, 1e4], [1e4, 0.0], [3.0, 3.0]])
    W = random_sparse(3, 3, 0.9, "csr", random_state=0)
    Z = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
    with kernels.use(implementation):
        new, _, free = neighbour_softmax(costs, W, Z, 1.0, np.array([True, True, False]))
    assert (new == [[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]).all()
    assert np.isfinite(free).all()
    assert free[2] == 0.0


def test_threads_change_nothing() -> None:
    costs, W, Z = case(3000, 40, np.float64)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(neighbour_softmax(costs, W, Z, 1.0))
    torch.set_num_threads(before)
    assert all((one == other).all() for one, other in zip(*results, strict=True))

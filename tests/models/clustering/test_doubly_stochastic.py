"""Projection onto doubly stochastic matrices: sums, symmetry, limits, an independent solution, gradients, blocks."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from holonomy.models.clustering.coding_rate import MLCLoss
from holonomy.models.clustering.doubly_stochastic import DoublyStochasticProjection, membership, membership_blocks

ETA = 0.2


def points(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, dtype=dtype, generator=generator), dim=-1)


def scores(n: int, symmetric: bool, seed: int = 0) -> Tensor:
    c = points(n, 4, seed)
    return c @ (c if symmetric else points(n, 4, seed + 1)).mT


both = pytest.mark.parametrize("implicit", [False, True])


@both
@pytest.mark.parametrize("symmetric", [True, False])
def test_sums_symmetry_and_independent_solution(implicit: bool, symmetric: bool) -> None:
    k = scores(15, symmetric)
    gamma = DoublyStochasticProjection(ETA, 5000, 1e-12, implicit)(k)
    assert float((gamma.sum(-1) - 1).abs().max()) < 2e-12
    assert float((gamma.sum(-2) - 1).abs().max()) < 2e-12
    assert torch.equal(gamma, gamma.mT) or not symmetric
    kernel = np.exp(k.numpy() / ETA)
    u, v = np.ones(15), np.ones(15)
    for _ in range(5000):
        u = 1.0 / (kernel @ v)
        v = 1.0 / (kernel.T @ u)
    np.testing.assert_allclose(gamma.numpy(), u[:, None] * kernel * v, rtol=1e-9, atol=1e-12)


def test_equals_optimal_transport_of_another_library() -> None:
    ot = pytest.importorskip("ot")
    k = scores(15, True)
    mass = np.full(15, 1.0 / 15)
    plan = 15 * ot.sinkhorn(mass, mass, -k.numpy(), ETA, numItermax=10_000, stopThr=1e-13)
    np.testing.assert_allclose(DoublyStochasticProjection(ETA)(k).numpy(), plan, atol=1e-6)


@both
def test_minimises_the_entropic_problem(implicit: bool) -> None:
    k = scores(8, True)

    def cost(g: Tensor) -> float:
        return float(-(g * k).sum() + ETA * (g * g.log()).sum())

    best = DoublyStochasticProjection(ETA, 1000, 1e-12, implicit)(k)
    for seed in range(5):
        other = DoublyStochasticProjection(ETA)(k + 0.3 * scores(8, False, seed + 5))
        for share in (0.01, 1.0):
            assert cost(best + share * (other - best)) > cost(best)


@both
def test_limits_of_the_temperature(implicit: bool) -> None:
    k = scores(10, True)
    cold = DoublyStochasticProjection(1e-3, 5000, 1e-9, implicit)(k)
    warm = DoublyStochasticProjection(1e6, implicit=implicit)(k)
    # Off the diagonal exp(-(1 - cosine)/eta), and no two of these points are closer than a cosine of 0.97.
    torch.testing.assert_close(cold, torch.eye(10, dtype=k.dtype), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(warm, torch.full_like(k, 0.1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_both_gradients_agree(symmetric: bool) -> None:
    k = scores(12, symmetric).requires_grad_()
    weights = torch.randn(12, 12, dtype=k.dtype, generator=torch.Generator().manual_seed(3))
    weights = weights + weights.mT
    found = []
    for implicit in (False, True):
        gamma = DoublyStochasticProjection(ETA, 2000, 1e-11, implicit)(k)
        found.append(torch.autograd.grad((weights * gamma.square()).sum(), k)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)


@both
def test_gradient_of_the_loss_to_both_heads(implicit: bool) -> None:
    projection = DoublyStochasticProjection(ETA, 1000, 1e-12, implicit)

    def loss(z: Tensor, c: Tensor) -> Tensor:
        c = F.normalize(c, dim=-1)
        return MLCLoss(0.7, normalize=True)(z, projection(c @ c.mT))[0]

    assert torch.autograd.gradcheck(loss, (points(7, 3).requires_grad_(), points(7, 3, 1).requires_grad_()))


@both
def test_batches_are_done_one_by_one(implicit: bool) -> None:
    k = torch.stack([scores(6, True, seed) for seed in range(4)]).reshape(2, 2, 6, 6)
    projection = DoublyStochasticProjection(ETA, 1000, 1e-12, implicit)
    whole = projection(k)
    for i in range(2):
        for j in range(2):
            torch.testing.assert_close(whole[i, j], projection(k[i, j]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("abs_kernel", [False, True])
@pytest.mark.parametrize("block", [7, 1000])
def test_blocks_give_the_projection_of_all(abs_kernel: bool, block: int) -> None:
    c = points(50, 5)
    k = (c @ c.mT).abs() if abs_kernel else c @ c.mT
    whole = DoublyStochasticProjection(ETA, 1000, 1e-12)(k)
    ours = membership(c, ETA, block=block, tol=1e-12, max_iter=1000, abs_kernel=abs_kernel)
    torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-12)
    sparse = membership(c, ETA, top_k=9, block=block, tol=1e-12, max_iter=1000, abs_kernel=abs_kernel).toarray()
    for row, wanted in zip(sparse, whole.numpy(), strict=True):
        assert sorted(row[row > 0]) == pytest.approx(sorted(wanted)[-9:], rel=1e-9)
        np.testing.assert_allclose(row[row > 0], wanted[row > 0], rtol=1e-9)


def test_cold_memberships_of_single_precision_stay_finite() -> None:
    gamma = membership(points(300, 6, dtype=torch.float32), 0.003)
    assert gamma.dtype == torch.float32
    assert float((gamma.sum(1) - 1).abs().max()) < 1e-4
    assert torch.equal(gamma.argmax(1), torch.arange(300))


def test_sparse_rows_need_no_square_of_memory() -> None:
    # torch's own memory is counted by the largest block that it hands out: no row of blocks is as large as n x n.
    c = points(3000, 4, dtype=torch.float32)
    assert {len(part) * part.shape[1] for part in membership_blocks(c, ETA, block=100)} == {300_000}
    tracemalloc.start()
    found = membership(c, ETA, top_k=10, block=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.nnz == 30_000
    assert peak < 4 * 3000**2 / 4


def test_bad_input_is_refused() -> None:
    for eta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="'eta' must be positive and finite"):
            DoublyStochasticProjection(eta)
        with pytest.raises(ValueError, match="'eta' must be positive and finite"):
            membership(points(4, 2), eta)
    with pytest.raises(ValueError, match="'max_iter' must be at least 1, got 0"):
        DoublyStochasticProjection(1.0, max_iter=0)
    with pytest.raises(ValueError, match="'tol' must be positive"):
        DoublyStochasticProjection(1.0, tol=0.0)
    with pytest.raises(TypeError, match=r"'scores' must be a floating tensor, got torch\.int64"):
        DoublyStochasticProjection(1.0)(torch.eye(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"'scores' has shape \(3, 2\), wanted \(\.\.\., n, n\)"):
        DoublyStochasticProjection(1.0)(torch.ones(3, 2))
    with pytest.raises(ValueError, match="'scores' has values that are not finite"):
        DoublyStochasticProjection(1.0)(torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="rows of 'c' must be finite and have length 1"):
        membership(2.0 * points(4, 2), ETA)
    with pytest.raises(ValueError, match="'top_k' must be from 1 to n = 4, got 5"):
        membership(points(4, 2), ETA, top_k=5)
    with pytest.raises(ValueError, match="'block' and 'max_iter' must be at least 1"):
        membership(points(4, 2), ETA, block=0)

"""Coding rates: the identities between them, both forms of the determinant, gradients, refusals."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from holonomy.manifolds.kernels.sinkhorn import sinkhorn_projection
from holonomy.manifolds.linalg import haar
from holonomy.models.clustering import coding_rate as module
from holonomy.models.clustering.coding_rate import (
    MCR2Loss,
    MLCLoss,
    TotalCodingRateLoss,
    coding_rate,
    coding_rate_per_cluster,
)

EPS = 0.7


def points(n: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=generator), dim=-1)


def doubly_stochastic(n: int, seed: int = 0) -> Tensor:
    scores = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return sinkhorn_projection(3.0 * scores, tolerance=1e-12, max_iterations=10_000)


SIZES = [(20, 5), (7, 12), (6, 6)]  # more points than dimensions, fewer, as many


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_rates_are_those_of_numpy(n: int, d: int) -> None:
    z, gamma = points(n, d), doubly_stochastic(n)
    x, g = z.numpy(), gamma.numpy()
    rate = np.linalg.slogdet(np.eye(d) + d / (n * EPS**2) * x.T @ x)[1]
    assert float(coding_rate(z, EPS)) == pytest.approx(rate, rel=1e-12)
    compressed = np.mean([np.linalg.slogdet(np.eye(d) + d / EPS**2 * x.T @ np.diag(c) @ x)[1] for c in g.T])
    loss, parts = MLCLoss(EPS)(z, gamma)
    assert float(parts["R"]) == pytest.approx(rate, rel=1e-12)
    assert float(parts["R_c"]) == pytest.approx(compressed, rel=1e-12)
    assert float(loss) == pytest.approx(compressed - rate, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_both_forms_of_the_determinant_agree(n: int, d: int) -> None:
    z, weights = points(n, d), 5.0 * doubly_stochastic(n, seed=1)
    z.requires_grad_()
    weights.requires_grad_()
    root = weights.mT.sqrt().unsqueeze(-1)
    wide = torch.logdet(torch.eye(n, dtype=z.dtype) + root * (z @ z.mT) * root.mT)
    tall = torch.logdet(torch.eye(d, dtype=z.dtype) + torch.einsum("ij,ia,ib->jab", weights, z, z))
    ours = module._spanned(z, weights)
    for other in (wide, tall):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)
        mine, theirs = (torch.autograd.grad(v.square().sum(), (z, weights), retain_graph=True) for v in (ours, other))
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_uniform_membership_saves_nothing_and_single_points_have_a_known_rate(n: int, d: int) -> None:
    z = points(n, d)
    loss, parts = MLCLoss(EPS)(z, torch.full((n, n), 1.0 / n, dtype=z.dtype))
    assert abs(float(loss)) < 1e-10
    assert abs(float(parts["R"] - parts["R_c"])) < 1e-10
    _, parts = MLCLoss(EPS)(z, torch.eye(n, dtype=z.dtype))
    assert float(parts["R_c"]) == pytest.approx(math.log(1.0 + d / EPS**2), rel=1e-12)


def test_blocks_of_labels_give_the_rate_of_clusters() -> None:
    z, labels = points(24, 6), torch.arange(24) % 3
    pi = F.one_hot(labels).double()
    gamma = pi @ torch.diag(1.0 / pi.sum(0)) @ pi.mT
    ours, theirs = MLCLoss(EPS)(z, gamma), MCR2Loss(EPS)(z, pi)
    assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-12)
    assert float(ours[1]["R_c"]) == pytest.approx(float(theirs[1]["R_c"]), rel=1e-13)
    alone = torch.stack([coding_rate(z[labels == k], EPS) for k in range(3)])
    torch.testing.assert_close(coding_rate_per_cluster(z, pi, EPS), alone, rtol=1e-12, atol=0.0)


def test_cluster_without_members_has_no_rate_and_no_nan() -> None:
    z = points(10, 3).requires_grad_()
    pi = torch.cat([torch.ones(10, 1), torch.zeros(10, 1)], 1).double().requires_grad_()
    rates = coding_rate_per_cluster(z, pi, EPS)
    assert float(rates[1].detach()) == 0.0
    assert float(rates[0].detach()) == pytest.approx(float(coding_rate(z.detach(), EPS)), rel=1e-12)
    loss, _ = MCR2Loss(EPS)(z, pi)
    assert abs(float(loss.detach())) < 1e-12
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, (z, pi)))


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_rotations_and_the_order_of_samples_change_nothing(n: int, d: int) -> None:
    z, gamma = points(n, d), doubly_stochastic(n)
    q = haar((d, d), torch.float64, None, torch.Generator().manual_seed(1))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    loss, parts = MLCLoss(EPS)(z, gamma)
    for moved, membership in ((z @ q, gamma), (z[order], gamma[order][:, order])):
        other, others = MLCLoss(EPS)(moved, membership)
        assert float(other) == pytest.approx(float(loss), abs=1e-12)
        assert float(others["R"]) == pytest.approx(float(parts["R"]), rel=1e-12)
    # The order matters where the membership does not follow it.
    assert abs(float(MLCLoss(EPS)(z[order], gamma)[0] - loss)) > 1e-6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_groups_never_need_more_than_the_whole(n: int, d: int, seed: int) -> None:
    loss, _ = MLCLoss(EPS)(points(n, d, seed), doubly_stochastic(n, seed))
    assert float(loss) < 0.0


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_gradients_are_those_of_differences(n: int, d: int) -> None:
    z = points(n, d).requires_grad_()
    # Inside the polytope, and with the steps of the differences, 1e-6, within the check's tolerance.
    gamma = (0.9 * doubly_stochastic(n) + 0.1 / n).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, g: MLCLoss(EPS)(z, g)[0], (z, gamma))
    assert torch.autograd.gradgradcheck(lambda z, g: MLCLoss(EPS)(z, g)[0], (z, gamma))
    pi = torch.softmax(points(n, 3, 1), -1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, p: MCR2Loss(EPS)(z, p)[0], (z, pi))
    other = points(n, d, 3).requires_grad_()
    assert torch.autograd.gradcheck(TotalCodingRateLoss(EPS, 2.0), (z, other))


@pytest.mark.parametrize("n", [20, 4])
def test_blocks_change_neither_value_nor_gradient(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, gamma = points(n, 5).requires_grad_(), doubly_stochastic(n).requires_grad_()
    whole = MLCLoss(EPS)(z, gamma)[0]
    expected = torch.autograd.grad(whole, (z, gamma))
    monkeypatch.setattr(module, "_BLOCK", 75)
    parts = MLCLoss(EPS)(z, gamma)[0]
    assert float(parts.detach()) == pytest.approx(float(whole.detach()), abs=1e-13)
    torch.testing.assert_close(torch.autograd.grad(parts, (z, gamma)), expected, rtol=1e-12, atol=1e-13)


def test_total_coding_rate_of_views() -> None:
    z = points(15, 4)
    assert float(TotalCodingRateLoss(EPS, 3.0)(z, z)) == pytest.approx(-float(coding_rate(z, EPS)) - 3.0, rel=1e-12)
    # Opposite views have a mean of 0, whose rate is 0; their agreement is that of lines.
    assert float(TotalCodingRateLoss(EPS, 3.0)(z, -z)) == pytest.approx(-3.0, rel=1e-12)
    other = points(15, 4, seed=1)
    middle = 0.5 * (z + other)
    spread = torch.logdet(torch.eye(4) + 4 / (15 * EPS**2) * middle.mT @ middle)
    wanted = -spread - 3.0 * (z * other).sum(-1).abs().mean()
    assert float(TotalCodingRateLoss(EPS, 3.0)(z, other)) == pytest.approx(float(wanted), rel=1e-12)


def test_penalty_of_the_membership() -> None:
    z, gamma = points(8, 3), doubly_stochastic(8)
    plain, fined = MLCLoss(EPS)(z, gamma)[0], MLCLoss(EPS, gamma_l2=0.1)(z, gamma)[0]
    assert float(fined - plain) == pytest.approx(0.05 * float(gamma.square().sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    z = points(30, 8)
    rate = coding_rate(z.to(dtype), EPS, normalize=True)
    assert rate.dtype == torch.float32
    # Each number of z is off by half a unit of rounding, and R by about d times that.
    assert float(rate) == pytest.approx(float(coding_rate(z, EPS)), abs=16 * torch.finfo(dtype).eps)


def test_lengths_are_taken_off_on_request() -> None:
    z, gamma = points(9, 4), doubly_stochastic(9)
    long = z * torch.linspace(0.5, 3.0, 9, dtype=z.dtype).unsqueeze(-1)
    assert float(MLCLoss(EPS, normalize=True)(long, gamma)[0]) == pytest.approx(float(MLCLoss(EPS)(z, gamma)[0]))
    pi = F.one_hot(torch.arange(9) % 2).double()
    assert float(MCR2Loss(EPS, normalize=True)(long, pi)[0]) == pytest.approx(float(MCR2Loss(EPS)(z, pi)[0]))


def test_bad_input_is_refused() -> None:
    z, gamma = points(6, 3), doubly_stochastic(6)
    for eps in (0.0, -1.0, math.inf, math.nan):
        for make in (MLCLoss, MCR2Loss, lambda e: TotalCodingRateLoss(e, 1.0), lambda e: coding_rate(z, e)):
            with pytest.raises(ValueError, match="'eps' must be positive and finite, got"):
                make(eps)
    with pytest.raises(TypeError, match=r"'z' must be a floating tensor, got torch\.int64"):
        coding_rate(torch.ones(3, 3, dtype=torch.int64), EPS)
    with pytest.raises(TypeError, match="'gamma' must be a floating tensor"):
        MLCLoss(EPS)(z, torch.eye(6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"'z' has shape \(2, 6, 3\), wanted \(n, d\)"):
        coding_rate(torch.stack([z, z]), EPS)
    with pytest.raises(ValueError, match="'z' has values that are not finite"):
        coding_rate(z * math.nan, EPS)
    with pytest.raises(ValueError, match=r"rows of 'z' must have length 1 within 0\.001, one is off by 0\.01"):
        coding_rate(1.01 * z, EPS)
    with pytest.raises(ValueError, match=r"'gamma' has shape \(6, 5\), wanted \(6, 6\)"):
        MLCLoss(EPS)(z, gamma[:, :5])
    with pytest.raises(ValueError, match=r"'gamma' must be doubly stochastic within 0\.001"):
        MLCLoss(EPS)(z, 1.01 * gamma)
    with pytest.raises(ValueError, match="'gamma' must be doubly stochastic"):
        MLCLoss(EPS)(z, 2.0 * torch.eye(6, dtype=z.dtype) - 1.0 / 6)
    with pytest.raises(ValueError, match=r"'pi' has shape \(5, 2\), wanted \(6, k\)"):
        MCR2Loss(EPS)(z, torch.full((5, 2), 0.5))
    with pytest.raises(ValueError, match="'pi' must not be negative and have rows of sum 1"):
        MCR2Loss(EPS)(z, torch.ones(6, 2))
    with pytest.raises(ValueError, match="'weight' must be finite and not negative, got -1"):
        TotalCodingRateLoss(EPS, -1.0)
    with pytest.raises(ValueError, match="the views must have one shape"):
        TotalCodingRateLoss(EPS, 1.0)(z, z[:5])
    with pytest.raises(ValueError, match="'gamma_l2' must be finite and not negative"):
        MLCLoss(EPS, gamma_l2=-1.0)
    with pytest.raises(ValueError, match="'tolerance' must be positive"):
        MLCLoss(EPS, tolerance=0.0)

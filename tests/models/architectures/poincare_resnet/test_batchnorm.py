"""Batch norm on the ball: what it normalises, its symmetries, its running statistics, what it refuses."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import (
    PoincareBatchNorm1d,
    PoincareBatchNorm2d,
    PoincareResNet,
    update_batchnorm,
)
from holonomy.models.architectures.poincare_resnet.functions import expmap0, logmap0, projection_limit

C = 0.7
DTYPE = torch.float64
BALL = PoincareBall(c=C)


def points(*shape: int, seed: int = 0, radius: float = 0.6) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=DTYPE, generator=g)
    reach = radius * torch.rand(shape[0], 1, *shape[2:], dtype=DTYPE, generator=g) / C**0.5
    return reach * x / x.norm(dim=1, keepdim=True)


def variance(x: Tensor, mean: Tensor) -> Tensor:
    return BALL.dist2(x.movedim(1, -1), mean.flatten()).mean()


def layer(**options) -> PoincareBatchNorm2d:
    return PoincareBatchNorm2d(4, **({"ball": BALL, "space": "ball", "dtype": DTYPE} | options))


@pytest.mark.parametrize("use_midpoint", [True, False])
def test_outputs_have_the_learned_variance_about_the_learned_mean(use_midpoint: bool) -> None:
    norm = layer(use_midpoint=use_midpoint)
    norm.bias.data.copy_(torch.tensor([0.1, -0.2, 0.05, 0.0]))
    norm.weight.data.fill_(0.1)
    x = points(3, 4, 5, 6)
    y = norm(x).detach()
    centre = expmap0(norm.bias.detach(), C)
    mean = BALL.midpoint(x, reducedim=[0, 2, 3], dim=1) if use_midpoint else norm._mean(x, torch.tensor(C), -3, (4,))
    var = variance(x, mean)
    spread = variance(y, centre)
    assert float(y.norm(dim=1).max()) * C**0.5 < projection_limit(DTYPE)
    assert float(spread) == pytest.approx(0.1 * float(var / (var + 1e-6)), rel=1e-10)


def test_frechet_norm_ignores_a_scaling_about_the_mean() -> None:
    norm = layer(use_midpoint=False, eps=1e-14)
    x = points(3, 4, 5, 6, radius=0.4).movedim(1, -1).flatten(0, 2)
    mean = norm._mean(x.T[None], torch.tensor(C, dtype=DTYPE), -2, (4,))
    stretched = BALL.expmap(mean, 1.7 * BALL.logmap(mean, x))
    flat = PoincareBatchNorm1d(4, ball=BALL, space="ball", use_midpoint=False, eps=1e-14, dtype=DTYPE)
    # 1e-8: the Fréchet means are found to 1e-12, and eps shifts the scale by 1e-14 over the variance
    torch.testing.assert_close(flat(stretched), flat(x), rtol=0.0, atol=1e-8)


def test_gyrotranslation_of_the_batch_only_rotates_the_outputs() -> None:
    p = points(1, 4, seed=3)[0]
    x = points(40, 4, radius=0.5)
    flat = PoincareBatchNorm1d(4, ball=BALL, space="ball", dtype=DTYPE)
    moved = flat(BALL.mobius_add(p, x))
    torch.testing.assert_close(moved.norm(dim=1), flat(x).norm(dim=1), rtol=1e-9, atol=1e-9)


def test_both_carriers_and_sequences_are_the_same_layer() -> None:
    tangent, on_ball = layer(space="tangent"), layer()
    x = points(3, 4, 5, 6)
    torch.testing.assert_close(expmap0(tangent(logmap0(x, C, 1)), C, 1), on_ball(x), rtol=1e-10, atol=1e-10)
    flat = PoincareBatchNorm1d(4, ball=BALL, space="ball", dtype=DTYPE)
    torch.testing.assert_close(flat(x.flatten(2)), on_ball(x).flatten(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_midpoint", [True, False])
@pytest.mark.parametrize("space", ["tangent", "ball"])
def test_gradients_flow_through_mean_and_variance(space: str, use_midpoint: bool) -> None:
    norm = PoincareBatchNorm1d(
        4, ball=BALL, space=space, use_midpoint=use_midpoint, track_running_stats=False, dtype=DTYPE
    )
    norm.bias.data.normal_().mul_(0.2)

    def function(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": g, "bias": b}, (x,))

    arguments = [points(5, 4).requires_grad_(), *(p.detach().clone().requires_grad_() for p in norm.parameters())]
    assert gradcheck(function, arguments)


def test_running_statistics_converge_and_make_evaluation_batch_independent() -> None:
    norm, x = layer(), points(3, 4, 5, 6)
    for _ in range(300):  # 0.9^300 = 2e-14
        trained = norm(x)
    norm.eval()
    torch.testing.assert_close(norm(x), trained, rtol=1e-9, atol=1e-9)
    # Some roundings: where the last, shorter vector of eight numbers falls depends on the batch.
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1], rtol=1e-14, atol=1e-15)


def test_running_mean_moves_along_the_geodesic_to_the_batch_mean() -> None:
    norm, x = layer(momentum=0.3), points(3, 4, 5, 6)
    norm(x)
    mean = BALL.midpoint(x, reducedim=[0, 2, 3], dim=1)
    torch.testing.assert_close(norm.running_mean, BALL.geodesic(0.3, torch.zeros_like(mean), mean))
    var = variance(x, mean)
    torch.testing.assert_close(norm.running_var, 0.7 + 0.3 * var)


def test_without_running_statistics_evaluation_uses_the_batch() -> None:
    norm, x = layer(track_running_stats=False), points(3, 4, 5, 6)
    trained = norm(x)
    assert norm.running_mean is None
    assert torch.equal(norm.eval()(x), trained)
    assert not torch.equal(norm(x[:1]), trained[:1])


def test_cumulative_average_and_update_take_the_statistics_of_all_batches() -> None:
    norm = layer()
    batches = [points(3, 4, 5, 6, seed=s) for s in range(4)]
    norm(10.0 * batches[0] / 11.0)
    norm.eval()
    update_batchnorm(norm, batches)
    variances = [variance(x, BALL.midpoint(x, reducedim=[0, 2, 3], dim=1)) for x in batches]
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean())
    assert norm.momentum == 0.1
    assert not norm.training


def test_update_reaches_torchs_norms_too() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4), layer(space="tangent", dtype=torch.float32))
    x = 3.0 + torch.randn(5, 4, 3, 3)
    update_batchnorm(model, [x])
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)))


def test_vanishing_variance_gives_the_learned_mean_and_finite_gradients() -> None:
    norm = layer()
    norm.bias.data.normal_().mul_(0.2)
    norm.weight.data.fill_(0.0)
    x = points(3, 4, 5, 6).requires_grad_()
    y = norm(x)
    centre = expmap0(norm.bias.detach(), C).view(4, 1, 1)
    torch.testing.assert_close(y, centre.expand_as(y), rtol=0.0, atol=1e-12)
    same = torch.zeros(2, 4, 3, 3, dtype=DTYPE, requires_grad=True)
    for out, leaf in ((y, x), (layer()(same), same)):
        assert bool(torch.autograd.grad(out.sum(), leaf)[0].isfinite().all())


def test_scale_that_a_step_takes_below_zero_stays_finite() -> None:
    norm = layer()
    norm.weight.data.fill_(-0.5)
    y = norm(points(3, 4, 5, 6))
    assert bool(y.isfinite().all())
    assert float(torch.autograd.grad(y.square().sum(), norm.weight)[0]) < 0.0


def test_a_batch_of_one_works_in_evaluation() -> None:
    norm = PoincareBatchNorm1d(4, ball=BALL, space="ball", dtype=DTYPE).eval()
    assert norm(points(1, 4)).shape == (1, 4)
    model = PoincareResNet(3, (2, 2, 2), (1, 1, 1)).eval()
    assert model(torch.randn(1, 3, 9, 6)).shape == (1, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layer()(points(1, 4, 1, 1)), "1 point.s.; batch statistics need at least 2"),
        (lambda: layer(track_running_stats=False).eval()(points(1, 4, 1, 1)), "batch statistics need at least 2"),
        (lambda: layer()(points(3, 5, 2, 2)), "wanted 4 features along dimension 1"),
        (lambda: layer()(points(3, 4)), "wanted 4 dimensions"),
        (lambda: PoincareBatchNorm2d(0, ball=BALL), "'features' must be an integer of at least 1, got 0"),
        (lambda: layer(momentum=1.5), "'momentum' must be in"),
        (lambda: layer(eps=0.0), "'eps' must be positive"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Equality with HypLL, an independent implementation: outputs and gradients, in float64."""

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import (
    PoincareBatchNorm2d,
    PoincareConv2d,
    PoincareLinear,
    poincare_midpoint,
)

pytest.importorskip("hypll", reason="HypLL is an optional test dependency")

from hypll.manifolds.poincare_ball import Curvature
from hypll.manifolds.poincare_ball import PoincareBall as HypllBall
from hypll.nn import HBatchNorm2d, HConvolution2d, HLinear
from hypll.tensors import ManifoldTensor

DTYPE = torch.float64
#: What is asked of the agreement; the two differ by rounding, about 1e-14.
ATOL = 1e-9


def hypll_ball(c: float) -> HypllBall:
    # HypLL keeps curvature in float32, behind a softplus, unless told otherwise.
    curvature = Curvature(1.0, constraining_strategy=lambda value: value)
    curvature.value.data = torch.tensor(c, dtype=DTYPE)
    return HypllBall(curvature)


def points(*shape: int, c: float, seed: int, dim: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=DTYPE, generator=g)
    reach = torch.rand([1 if i == dim % len(shape) else s for i, s in enumerate(shape)], dtype=DTYPE, generator=g)
    return 0.9 * reach * x / x.norm(dim=dim, keepdim=True) / c**0.5


def draw(parameter: Tensor, scale: float, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(parameter.shape, dtype=DTYPE, generator=g)


def assert_same(ours: Tensor, theirs: Tensor, our_inputs: list[Tensor], their_inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=ATOL)
    weights = torch.linspace(-1.0, 1.0, ours.numel(), dtype=DTYPE).view(ours.shape)
    our_gradients = torch.autograd.grad(ours, our_inputs, weights)
    their_gradients = torch.autograd.grad(theirs, their_inputs, weights)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a.reshape(b.shape), b, rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize(
    ("c", "kernel", "stride", "padding", "shape", "bias"),
    [
        (0.1, (3, 3), 1, 1, (2, 3, 7, 6), True),
        (1.0, (3, 3), 2, 1, (2, 4, 8, 8), True),
        (0.7, (2, 3), 1, 0, (2, 2, 5, 6), True),
        (2.3, (1, 1), 2, 0, (3, 5, 4, 4), True),
        (0.4, (5, 5), 3, 2, (1, 3, 9, 7), False),
    ],
)
@pytest.mark.parametrize("backward", ["manual", "autograd"])
def test_convolution(
    c: float, kernel: tuple, stride: int, padding: int, shape: tuple, bias: bool, backward: str
) -> None:
    outputs = 4
    ours = PoincareConv2d(
        shape[1],
        outputs,
        kernel,
        stride,
        padding,
        bias=bias,
        ball=PoincareBall(c=c),
        space="ball",
        backward=backward,
        dtype=DTYPE,
    )
    theirs = HConvolution2d(shape[1], outputs, kernel, hypll_ball(c), bias=bias, stride=stride, padding=padding)
    weight = draw(ours.weight, 0.3, seed=1)
    ours.weight.data = weight
    theirs.weights.tensor.data = weight.flatten(1).T.contiguous()
    if bias:
        r = draw(ours.bias, 0.2, seed=2)
        ours.bias.data, theirs.bias.data = r, r.clone()
    x = points(*shape, c=c, seed=3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, other = ours(a), theirs(ManifoldTensor(b, theirs.manifold, man_dim=1)).tensor
    torch.testing.assert_close(mine, other, rtol=0.0, atol=ATOL)
    weights = torch.linspace(-1.0, 1.0, mine.numel(), dtype=DTYPE).view(mine.shape)
    mine.backward(weights)
    other.backward(weights)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=ATOL)
    torch.testing.assert_close(ours.weight.grad.flatten(1).T, theirs.weights.tensor.grad, rtol=1e-9, atol=ATOL)
    if bias:
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize(("c", "bias"), [(0.1, True), (1.0, True), (2.5, False)])
def test_linear(c: float, bias: bool) -> None:
    ours = PoincareLinear(5, 4, bias, ball=PoincareBall(c=c), space="ball", dtype=DTYPE)
    theirs = HLinear(5, 4, hypll_ball(c), bias=bias)
    weight = draw(ours.weight, 0.5, seed=1)
    ours.weight.data = weight
    theirs.z.tensor.data = weight.T.contiguous()
    mine, other = [ours.weight], [theirs.z.tensor]
    if bias:
        r = draw(ours.bias, 0.2, seed=2)
        ours.bias.data, theirs.bias.data = r, r.clone()
        mine, other = [*mine, ours.bias], [*other, theirs.bias]
    x = points(6, 5, c=c, seed=3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = theirs(ManifoldTensor(b, theirs.manifold, man_dim=-1)).tensor
    torch.testing.assert_close(ours(a), y, rtol=0.0, atol=ATOL)
    weights = torch.linspace(-1.0, 1.0, y.numel(), dtype=DTYPE).view(y.shape)
    ga, gb = torch.autograd.grad(ours(a), [a, *mine], weights), torch.autograd.grad(y, [b, *other], weights)
    torch.testing.assert_close(ga[0], gb[0], rtol=1e-9, atol=ATOL)
    torch.testing.assert_close(ga[1].T, gb[1], rtol=1e-9, atol=ATOL)
    if bias:
        torch.testing.assert_close(ga[2], gb[2], rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize("use_midpoint", [True, False])
@pytest.mark.parametrize("c", [0.1, 1.3])
def test_batch_norm(c: float, use_midpoint: bool) -> None:
    ours = PoincareBatchNorm2d(
        4, ball=PoincareBall(c=c), use_midpoint=use_midpoint, track_running_stats=False, space="ball", dtype=DTYPE
    )
    theirs = HBatchNorm2d(4, hypll_ball(c), use_midpoint=use_midpoint)
    ours.bias.data = draw(ours.bias, 0.3, seed=1)
    ours.weight.data.fill_(0.6)
    theirs.norm.bias.data = ours.bias.data.clone()
    theirs.norm.weight.data = ours.weight.data.clone()
    # Below 0.5 of the radius in each of two steps, neither side reaches the projection.
    x = 0.5 * points(3, 4, 5, 2, c=c, seed=3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = ours(a), theirs(ManifoldTensor(b, theirs.manifold, man_dim=1)).tensor
    assert_same(y, z, [a, ours.bias, ours.weight], [b, theirs.norm.bias, theirs.norm.weight])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("c", [0.1, 1.3])
def test_midpoint(c: float, weighted: bool) -> None:
    ball = hypll_ball(c)
    x = points(7, 2, 4, c=c, seed=5, dim=-1)
    w = torch.rand(7, 2, 1, dtype=DTYPE, generator=torch.Generator().manual_seed(6)) if weighted else None
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs = ball.midpoint(ManifoldTensor(b, ball, man_dim=-1), batch_dim=0, w=w).tensor
    assert_same(poincare_midpoint(a, c, 0, w), theirs, [a], [b])

"""Linear, convolution, pooling and residual layers: identities, equivalences, limits, and what they refuse."""

import math

import geoopt
import pytest
import torch
import torch.nn.functional as F
from scipy.special import beta
from torch import Tensor

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import (
    PoincareAvgPool2d,
    PoincareBatchNorm2d,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
    PoincareReLU,
    PoincareResidual,
    beta_ratio,
)
from holonomy.models.architectures.poincare_resnet.functions import expmap0, logmap0, projection_limit

DTYPE = torch.float64


def points(*shape: int, c: float, dim: int = 1, radius: float = 0.95, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=DTYPE, generator=g)
    reach = torch.rand([1 if i == dim % len(shape) else s for i, s in enumerate(shape)], dtype=DTYPE, generator=g)
    return radius * reach * x / x.norm(dim=dim, keepdim=True) / c**0.5


def randomise(layer: PoincareLinear | PoincareConv2d, seed: int = 1) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(0.3 * torch.randn(layer.weight.shape, dtype=DTYPE, generator=g))
        if layer.bias is not None:
            layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, dtype=DTYPE, generator=g))


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("space", ["ball", "tangent"])
def test_linear_with_half_identity_is_the_identity_of_the_ball(c: float, space: str) -> None:
    layer = PoincareLinear(6, 6, ball=PoincareBall(c=c), space=space, dtype=DTYPE)
    x = points(50, 6, c=c, dim=1)
    # the reciprocal of lambda, as published, is off by 0.49 at radius 0.9
    assert float((layer(x) - x).detach().abs().max()) < 1e-12


def test_identity_embeds_and_truncates() -> None:
    ball = PoincareBall(c=1.0)
    wide, narrow = PoincareLinear(3, 5, ball=ball, dtype=DTYPE), PoincareLinear(5, 3, ball=ball, dtype=DTYPE)
    assert torch.equal(wide.weight[:3], 0.5 * torch.eye(3, dtype=DTYPE))
    assert float(wide.weight[3:].detach().abs().min()) > 0.0
    assert torch.equal(narrow.weight, 0.5 * torch.eye(3, 5, dtype=DTYPE))


def test_hnn_init_has_its_variance() -> None:
    layer = PoincareLinear(200, 100, ball=PoincareBall(c=1.0), init="hnn")
    # variance 1 / (2 in out) = 2.5e-5; 20,000 draws give it to 1 % at one standard deviation, 5 % is five of them
    assert float(layer.weight.detach().var()) * 2 * 200 * 100 == pytest.approx(1.0, rel=0.05)


def test_linear_tends_to_an_affine_map_as_c_vanishes() -> None:
    errors = []
    x = points(20, 4, c=1.0)
    for c in (1e-2, 1e-3, 1e-4):
        layer = PoincareLinear(4, 3, ball=PoincareBall(c=c), space="ball", dtype=DTYPE)
        randomise(layer)
        affine = 2.0 * x @ layer.weight.T - 2.0 * layer.weight.norm(dim=1) * layer.bias
        errors.append(float((layer(x) - affine).detach().abs().max()))
    # error O(c): ten times smaller for each tenth of c
    assert errors[1] / errors[2] == pytest.approx(10.0, rel=0.02)
    assert errors[2] < 1e-3


def test_mlr_is_the_signed_distance_to_hyperplanes() -> None:
    c = 0.7
    ball = PoincareBall(c=c)
    layer = PoincareMLR(3, 4, ball, space="ball", dtype=DTYPE)
    randomise(layer)
    x = points(10, 3, c=c)
    z, r = layer.weight.detach(), layer.bias.detach()
    norm = z.norm(dim=1, keepdim=True)
    q = expmap0(r[:, None] * z / norm, c)
    for judge in (ball, geoopt.PoincareBall(c=torch.tensor(c, dtype=DTYPE))):
        expected = 2.0 * norm.T * judge.dist2plane(x[:, None], q, z, signed=True)
        torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    # on the hyperplane the distance is 0
    torch.testing.assert_close(layer(q).diagonal(), torch.zeros(4, dtype=DTYPE), rtol=0.0, atol=1e-12)


def test_mlr_equals_brute_force_over_points_of_the_hyperplane() -> None:
    c = 0.7
    ball = PoincareBall(c=c)
    layer = PoincareMLR(2, 1, ball, space="ball", dtype=DTYPE)
    randomise(layer)
    z, r = layer.weight.detach()[0], layer.bias.detach()
    q = expmap0(r * z / z.norm(), c)
    along = torch.stack([-z[1], z[0]]) / z.norm()
    # the hyperplane is the geodesic through q orthogonal to z: a fine grid of its points
    t = torch.linspace(-4.0, 4.0, 200_001, dtype=DTYPE)[:, None]
    plane = ball.expmap(q.expand(len(t), 2), t * along)
    for x in points(5, 2, c=c, radius=0.8, seed=3):
        nearest = ball.dist(x, plane).min()
        # the grid's spacing is 4e-5, so the minimum is off by its square
        assert float(layer(x[None]).detach().abs()) == pytest.approx(float(2.0 * z.norm() * nearest), abs=1e-7)


def unfolded(layer: PoincareConv2d, v: Tensor) -> Tensor:
    """The convolution as it is defined: scale, unfold, exp0, linear layer, log0."""
    c = float(layer.ball.c)
    batch, channels, height, width = v.shape
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    scale = beta(channels * taps / 2, 0.5) / beta(channels / 2, 0.5)
    patches = F.unfold(scale * v, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    linear = PoincareLinear(
        channels * taps, layer.out_channels, layer.bias is not None, ball=layer.ball, space="ball", dtype=v.dtype
    )
    linear.weight, linear.bias = torch.nn.Parameter(layer.weight.flatten(1)), layer.bias
    x = expmap0(patches.mT, c, limit=projection_limit(v.dtype))
    y = logmap0(linear(x), c).mT
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            (height, width), layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True
        )
    ]
    return y.reshape(batch, layer.out_channels, *sizes)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), ((2, 3), (2, 1), (0, 1), 1), (3, 2, 2, 2), (1, 1, 0, 1), (5, 3, 2, 1)],
)
def test_convolution_equals_its_unfolded_definition(kernel, stride, padding, dilation) -> None:
    layer = PoincareConv2d(3, 4, kernel, stride, padding, dilation, ball=PoincareBall(c=0.7), dtype=DTYPE)
    randomise(layer)
    v = torch.randn(2, 3, 8, 7, dtype=DTYPE, generator=torch.Generator().manual_seed(2))
    a, b = v.clone().requires_grad_(), v.clone().requires_grad_()
    y, z = layer(a), unfolded(layer, b)
    torch.testing.assert_close(y, z, rtol=1e-11, atol=1e-11)
    u = torch.linspace(-1.0, 1.0, y.numel(), dtype=DTYPE).view(y.shape)
    torch.testing.assert_close(torch.autograd.grad(y, a, u), torch.autograd.grad(z, b, u), rtol=1e-10, atol=1e-10)


def test_convolution_of_kernel_one_is_the_linear_layer_at_each_pixel() -> None:
    ball = PoincareBall(c=0.7)
    conv = PoincareConv2d(3, 5, 1, ball=ball, dtype=DTYPE)
    linear = PoincareLinear(3, 5, ball=ball, dtype=DTYPE)
    randomise(conv)
    linear.weight, linear.bias = torch.nn.Parameter(conv.weight.flatten(1)), conv.bias
    v = torch.randn(2, 3, 4, 5, dtype=DTYPE)
    torch.testing.assert_close(conv(v), linear(v.movedim(1, -1)).movedim(-1, 1), rtol=1e-12, atol=1e-12)


def test_convolution_commutes_with_translation_by_the_stride() -> None:
    layer = PoincareConv2d(3, 4, 3, 2, 0, ball=PoincareBall(c=0.7), dtype=DTYPE)
    randomise(layer)
    v = torch.randn(1, 3, 11, 13, dtype=DTYPE)
    torch.testing.assert_close(layer(v[:, :, 2:, 2:]), layer(v)[:, :, 1:, 1:], rtol=1e-12, atol=1e-12)


def test_padding_adds_points_at_the_origin() -> None:
    ball = PoincareBall(c=0.7)
    padded, bare = (PoincareConv2d(3, 4, 3, 1, p, ball=ball, dtype=DTYPE) for p in (1, 0))
    randomise(padded)
    bare.load_state_dict(padded.state_dict())
    v = torch.randn(2, 3, 5, 4, dtype=DTYPE)
    torch.testing.assert_close(padded(v), bare(F.pad(v, (1, 1, 1, 1))), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 9), (8, 72), (32, 288), (512, 4608)])
def test_beta_ratio_is_scipys(inputs: int, outputs: int) -> None:
    expected = beta(outputs / 2, 0.5) / beta(inputs / 2, 0.5)
    # 1e-11: lgamma of 2304 has some 1e4 ulps to lose in the difference
    assert beta_ratio(inputs, outputs) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("init", ["identity", "identity_eye", "hnn"])
def test_convolution_initialisation(init: str) -> None:
    layer = PoincareConv2d(4, 4, 3, 1, 1, ball=PoincareBall(c=0.1), init=init, dtype=DTYPE)
    weight = layer.weight.detach()
    if init == "identity":
        assert torch.allclose(weight[:, :, 1, 1], 0.5 * torch.eye(4, dtype=DTYPE) / beta_ratio(4, 36))
        assert int((weight != 0).sum()) == 4
    elif init == "identity_eye":
        assert torch.equal(weight.flatten(1), 0.5 * torch.eye(4, 36, dtype=DTYPE))
    else:
        assert int((weight == 0).sum()) == 0


def test_both_carriers_are_the_same_layers() -> None:
    c = 0.7
    ball = PoincareBall(c=c)
    makers = [
        lambda space: PoincareConv2d(3, 4, 3, 2, 1, ball=ball, space=space, init="hnn", dtype=DTYPE),
        lambda space: PoincareReLU(ball, space=space),
        lambda space: PoincareAvgPool2d(2, ball=ball, space=space),
        lambda space: PoincareAvgPool2d(2, "midpoint", ball=ball, space=space, padding=1),
    ]
    v = torch.randn(2, 3, 8, 6, dtype=DTYPE)
    for make in makers:
        tangent, on_ball = make("tangent"), make("ball")
        on_ball.load_state_dict(tangent.state_dict())
        expected = expmap0(tangent(v), c, 1)
        torch.testing.assert_close(on_ball(expmap0(v, c, 1)), expected, rtol=1e-10, atol=1e-10)


def test_midpoint_pooling_of_a_whole_map_is_the_midpoint() -> None:
    ball = PoincareBall(c=0.7)
    x = points(2, 3, 4, 5, c=0.7)
    pooled = PoincareAvgPool2d(None, "midpoint", ball=ball, space="ball")(x)
    expected = ball.midpoint(x, reducedim=[2, 3], dim=1, keepdim=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)


def test_residual_adds_along_the_channels_in_the_order_asked_for() -> None:
    ball = PoincareBall(c=0.7)
    f, x = points(2, 3, 4, 5, c=0.7, radius=0.7), points(2, 3, 4, 5, c=0.7, radius=0.7, seed=1)
    for order, expected in (
        ("fr", ball.mobius_add(f, x, dim=1)),
        ("rf", ball.mobius_add(x, f, dim=1)),
        ("none", f),
    ):
        y = PoincareResidual(ball, order, space="ball")(f, x)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    v, zero = torch.randn(2, 3, 4, 5, dtype=DTYPE), torch.zeros(2, 3, 4, 5, dtype=DTYPE)
    torch.testing.assert_close(PoincareResidual(ball)(zero, v), v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e15])
def test_outputs_stay_strictly_inside_the_ball(size: float, dtype: torch.dtype) -> None:
    c = 0.7
    ball = PoincareBall(c=c)
    layer = PoincareConv2d(3, 4, 3, 1, 1, ball=ball, space="ball", dtype=dtype)
    with torch.no_grad():
        layer.weight.normal_().mul_(3.0)
        layer.bias.normal_().mul_(size)  # sinh of the bias overflows where nothing stops it
    x = points(2, 3, 6, 6, c=c, radius=1.0).to(dtype).requires_grad_()
    y = layer(x)
    limit = projection_limit(dtype)
    assert float(y.detach().norm(dim=1).max()) * c**0.5 <= limit * (1.0 + 8 * torch.finfo(dtype).eps)
    gradients = torch.autograd.grad(y.sum(), [x, layer.weight, layer.bias])
    assert all(bool(g.isfinite().all()) for g in (y, *gradients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joins_and_norms_stay_strictly_inside_the_ball(dtype: torch.dtype) -> None:
    c = 0.7
    ball = PoincareBall(c=c)
    x, y = (points(4, 3, 6, 6, c=c, radius=projection_limit(dtype), seed=s).to(dtype) for s in (0, 1))
    norm = PoincareBatchNorm2d(3, ball=ball, space="ball", dtype=dtype)
    norm.weight.data.fill_(1e4)
    for out in (norm(x), PoincareResidual(ball, space="ball")(x, y)):
        reach = float(out.detach().norm(dim=1).max()) * c**0.5
        assert reach <= projection_limit(dtype) * (1.0 + 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("space", ["tangent", "ball"])
def test_zero_input_and_zero_weight_have_finite_gradients(space: str) -> None:
    layer = PoincareConv2d(2, 3, 3, 1, 1, ball=PoincareBall(c=0.1), space=space)
    for weight in (layer.weight.detach().clone(), torch.zeros_like(layer.weight)):
        layer.weight.data = weight
        x = torch.zeros(1, 2, 4, 4, requires_grad=True)
        y = layer(x)
        assert torch.equal(y, torch.zeros_like(y))
        gradients = torch.autograd.grad(y.sum(), [x, layer.weight, layer.bias])
        assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    layer = PoincareConv2d(3, 4, 3, 1, 1, ball=PoincareBall(c=0.1, learnable=True))
    wide = layer.weight.detach().to(dtype)
    layer.weight.data = wide.float()
    v = torch.randn(2, 3, 5, 5).to(dtype)
    expected = layer(v.float()).to(dtype)
    y = layer.to(dtype)(v)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected)


def test_autocast_does_not_reach_inside() -> None:
    layer = PoincareLinear(4, 4, ball=PoincareBall(c=0.1), init="hnn")
    x = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(x)
    assert torch.equal(inside, layer(x))


def test_ball_moves_and_trains_with_the_layer() -> None:
    layer = PoincareLinear(4, 4, ball=PoincareBall(c=0.3, learnable=True), init="hnn").double()
    assert any("ball" in name for name in layer.state_dict())
    x = torch.randn(3, 4, dtype=DTYPE)
    layer(x).square().sum().backward()
    gradient = next(p.grad for name, p in layer.named_parameters() if "ball" in name)
    assert float(gradient.abs().sum()) > 0.0


def test_generator_alone_decides_the_initial_weights() -> None:
    def weights(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return PoincareConv2d(2, 3, 3, ball=PoincareBall(c=1.0), init="hnn", generator=generator).weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


BALL = PoincareBall(c=1.0)
CHECKED = PoincareBall(c=1.0, validate=True)
IMAGE = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PoincareLinear(2, 2, ball=0.1), TypeError, "'ball' must be a PoincareBall, got float"),
        (lambda: PoincareReLU(space="ball"), TypeError, "'ball' must be a PoincareBall, got NoneType"),
        (lambda: PoincareLinear(2, 2, ball=BALL, init="eye"), ValueError, "'init' must be one of .*got 'eye'"),
        (lambda: PoincareLinear(2, 2, ball=BALL, space="disc"), ValueError, "'space' must be one of .*got 'disc'"),
        (lambda: PoincareLinear(2, 2, ball=BALL, backward="no"), ValueError, "'backward' must be one of .*got 'no'"),
        (lambda: PoincareLinear(0, 2, ball=BALL), ValueError, "'in_features' must be an integer of at least 1, got 0"),
        (lambda: PoincareConv2d(2, 2, 0, ball=BALL), ValueError, "'kernel_size' must be .* at least 1, got 0"),
        (lambda: PoincareConv2d(2, 2, 3, 0, ball=BALL), ValueError, "'stride' must be .* at least 1, got 0"),
        (lambda: PoincareConv2d(2, 2, 3, 1, -1, ball=BALL), ValueError, "'padding' must be .* at least 0, got -1"),
        (lambda: PoincareConv2d(2, 2, 3, 1, 1, 0, ball=BALL), ValueError, "'dilation' must be .* at least 1, got 0"),
        (lambda: PoincareAvgPool2d(2, "max"), ValueError, "'mode' must be one of .*got 'max'"),
        (lambda: PoincareAvgPool2d(2, "midpoint"), TypeError, "'ball' must be a PoincareBall"),
        (lambda: PoincareResidual(BALL, "xf"), ValueError, "'order' must be one of .*got 'xf'"),
        (lambda: PoincareConv2d(2, 2, 7, 1, 1, ball=BALL)(IMAGE), ValueError, "padded 6, smaller than .* 7"),
        (lambda: PoincareConv2d(2, 2, 3, 1, 0, 3, ball=BALL)(IMAGE), ValueError, "padded 4, smaller than .* 7"),
        (lambda: PoincareConv2d(3, 2, 3, ball=BALL)(IMAGE), ValueError, r"shape \(1, 2, 4, 4\), wanted 3 features"),
        (lambda: PoincareConv2d(2, 2, 3, ball=BALL)(IMAGE[0]), ValueError, "wanted 4 dimensions"),
        (lambda: PoincareLinear(3, 2, ball=BALL)(IMAGE), ValueError, "wanted 3 features along dimension -1"),
        (lambda: PoincareLinear(4, 2, ball=BALL)(IMAGE.int()), TypeError, "real floating dtype, got torch.int32"),
        (lambda: PoincareLinear(4, 2, ball=BALL)(IMAGE.cfloat()), TypeError, "real floating dtype"),
        (lambda: PoincareLinear(4, 2, ball=BALL)([1.0]), TypeError, "must be a tensor, got list"),
        (lambda: PoincareLinear(4, 2, ball=BALL)(IMAGE.double()), TypeError, "move them together"),
        (lambda: PoincareLinear(4, 2, ball=BALL)(IMAGE.to("meta")), TypeError, "on meta"),
        (
            lambda: PoincareReLU(PoincareBall(c=torch.tensor(1.0)), space="ball")(IMAGE.double()),
            TypeError,
            "its ball's c is torch.float32",
        ),
        (
            lambda: PoincareReLU(PoincareBall(c=torch.ones(2)), space="ball")(IMAGE),
            ValueError,
            r"one curvature, got c of shape \(2,\)",
        ),
        (lambda: PoincareResidual(BALL)(IMAGE, IMAGE[:, :1]), ValueError, "wanted the same"),
        (lambda: PoincareReLU(CHECKED)(IMAGE + math.nan), ValueError, "NaN or infinite"),
        (lambda: PoincareReLU(CHECKED)(IMAGE + math.inf), ValueError, "NaN or infinite"),
        (lambda: PoincareReLU(CHECKED, space="ball")(IMAGE + 1.0), ValueError, "leaves the ball"),
    ],
)
def test_bad_input_is_refused(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()

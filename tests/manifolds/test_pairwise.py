"""Pairwise distance: exact for close pairs, in blocks, with the gradients of the plain formula."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hyperbolic_reference import ball_distance, relative_error
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from holonomy.manifolds import DimensionError, Euclidean, Lorentz, Manifold, PoincareBall, Sphere, Stiefel
from holonomy.manifolds import pairwise as module
from holonomy.manifolds.kernels import dispatch

F32, F64 = torch.float32, torch.float64
EPS32 = torch.finfo(F32).eps


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 8)  # many blocks for few points, the last of them not full


@pytest.fixture(params=["reference", None], ids=["reference", "default"])
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test by the plain reference, and by whatever takes its place."""
    with dispatch.use(request.param):
        yield


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(manifold: Manifold, *size: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return manifold.random(*size, dtype=dtype, generator=_draw(seed))


@pytest.mark.usefixtures("_small_blocks", "implementation")
@pytest.mark.parametrize(
    ("manifold", "point"),
    [
        (PoincareBall(0.7), (3,)),
        (Lorentz(0.7), (4,)),
        (Sphere(), (3,)),
        (Euclidean(1), (3,)),
        (Euclidean(2), (3, 2)),
        (PoincareBall(torch.tensor(0.7)), (3,)),
        (PoincareBall(0.7, learnable=True), (3,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_pairs_equal_the_distance_of_each_pair(manifold: Manifold, point: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = _points(manifold, 2, 5, *point, dtype=dtype), _points(manifold, 7, *point, seed=1, dtype=dtype)
    wanted = manifold.dist(x.unsqueeze(2), y)
    got = manifold.cdist(x, y)
    assert got.shape == (2, 5, 7)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(manifold.cdist(y, x), wanted.mT)
    assert manifold.cdist(x[:, :0], y).shape == (2, 0, 7)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("separation", [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1.0])
def test_close_pairs_are_within_1e_6_of_fifty_digits_in_float32(separation: float) -> None:
    ball = PoincareBall(1.3)
    x = _points(ball, 40, 16, dtype=F32)
    y = ball.projx(x + separation * torch.randn(40, 16, generator=_draw(1)) / 4.0)
    got = ball.cdist(x, y)
    exact = [ball_distance(x[i], y[j], 1.3) for i in range(40) for j in (i, (7 * i + 3) % 40)]
    values = torch.stack([got[i, j] for i in range(40) for j in (i, (7 * i + 3) % 40)])
    assert relative_error(values, exact) < 1e-6


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("c", [1e-6, 1e4])
def test_extreme_curvatures_and_spreads_keep_their_digits(c: float) -> None:
    ball = PoincareBall(c)
    # Points at every scale from 1e-6 of the radius to the boundary, side by side.
    scale = torch.logspace(-6, 1.2, 30).unsqueeze(1)
    x = ball.expmap0(scale * torch.randn(30, 4, generator=_draw()) * float(ball.radius))
    torch.testing.assert_close(ball.cdist(x, x), ball.dist(x.unsqueeze(1), x), rtol=16 * EPS32, atol=0.0)


@pytest.mark.usefixtures("_small_blocks", "implementation")
@pytest.mark.parametrize("manifold", [PoincareBall(0.7), Lorentz(0.7), Sphere()], ids=str)
def test_first_and_second_derivatives(manifold: Manifold) -> None:
    x = _points(manifold, 2, 5, 3).requires_grad_()
    y = _points(manifold, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(manifold.cdist, (x, y))
    assert torch.autograd.gradgradcheck(manifold.cdist, (x, y))


@pytest.mark.usefixtures("_small_blocks", "implementation")
def test_gradients_of_the_blocks_equal_those_of_the_formula() -> None:
    x, y = torch.randn(2, 5, 3, dtype=F64, generator=_draw()), torch.randn(1, 7, 3, dtype=F64, generator=_draw(1))
    a, b = torch.rand(2, 5, 1, dtype=F64, generator=_draw(2)) + 0.5, torch.rand(1, 7, 1, dtype=F64, generator=_draw(3))
    y[0, 3] = x[1, 2]  # a coincident pair
    leaves = [t.requires_grad_() for t in (x, y, a, b + 0.5)]
    leaves[3] = leaves[3].detach().requires_grad_()
    grad = torch.randn(2, 5, 7, dtype=F64, generator=_draw(4))
    value = module.arsinh_cdist(*leaves, 1.7)
    blocks = torch.autograd.grad(value, leaves, grad, retain_graph=True)
    formula = torch.autograd.grad(value, leaves, grad, create_graph=True)
    squares = (leaves[0].unsqueeze(-2) - leaves[1].unsqueeze(-3)).square().sum(-1) * leaves[2] * leaves[3].mT
    torch.testing.assert_close(value, 1.7 * torch.asinh(squares.sqrt()))
    for one, other in zip(blocks, formula, strict=True):
        assert bool(torch.isfinite(one).all())
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("implementation")
def test_float32_gradients_of_close_pairs_agree_with_float64() -> None:
    ball = PoincareBall()
    x = _points(ball, 20, 8, dtype=F32)
    y = x + 1e-4 * torch.randn(20, 8, generator=_draw(1))
    gradients = []
    for dtype in (F32, F64):
        leaf = x.to(dtype).clone().requires_grad_()
        gradients.append(torch.autograd.grad(ball.cdist(leaf, y.to(dtype)).diagonal().sum(), leaf)[0].double())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_transforms_give_what_eager_evaluation_gives(dtype: torch.dtype) -> None:
    ball = PoincareBall(0.7)
    x, y = _points(ball, 3, 5, 4, dtype=dtype), _points(ball, 6, 4, seed=1, dtype=dtype)
    wanted = ball.cdist(x, y)
    torch.testing.assert_close(torch.func.vmap(ball.cdist, in_dims=(0, None))(x, y), wanted)
    torch.testing.assert_close(torch.func.vmap(ball.cdist, in_dims=(None, 2))(y, x.movedim(0, 2)), wanted.mT)
    torch.testing.assert_close(
        torch.compile(ball.cdist, fullgraph=True, backend="aot_eager")(x, y), wanted, rtol=8 * EPS32, atol=1e-6
    )
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(ball.cdist(leaf, y).sum(), leaf)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: ball.cdist(x, y).sum())(x), gradient)


def test_export_meta_and_fake_tensors_give_the_shape() -> None:
    ball = PoincareBall(0.7)
    x, y = _points(ball, 5, 4, dtype=F32), _points(ball, 6, 4, seed=1, dtype=F32)

    class Pairs(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return ball.cdist(x, y)

    exported = torch.export.export(Pairs(), (x, y)).module()
    torch.testing.assert_close(exported(x, y), ball.cdist(x, y), rtol=8 * EPS32, atol=1e-6)
    assert ball.cdist(x.to("meta"), y.to("meta")).shape == (5, 6)
    with FakeTensorMode() as mode:
        assert ball.cdist(mode.from_tensor(x), mode.from_tensor(y)).shape == (5, 6)


def test_half_precision_is_computed_in_float32() -> None:
    ball = PoincareBall()
    x = _points(ball, 5, 4, dtype=torch.bfloat16)
    got = ball.cdist(x, x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, ball.cdist(x.float(), x.float()).bfloat16())


def test_memory_of_a_forward_pass_is_the_result_and_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain: Callable[..., Tensor] = module._by_product

    def watched(*arguments: Tensor) -> Tensor:
        block = plain(*arguments)
        seen.append(block.numel())
        return block

    monkeypatch.setattr(module, "_by_product", watched)
    ball = PoincareBall()
    with dispatch.use("reference"):
        ball.cdist(_points(ball, 1500, 8, dtype=F32), _points(ball, 1000, 8, dtype=F32))
    assert len(seen) > 5
    assert max(seen) <= module._BLOCK


@pytest.mark.parametrize(("manifold", "shape"), [(PoincareBall(), (3,)), (Stiefel(), (3, 2))], ids=str)
def test_a_single_point_is_refused(manifold: Manifold, shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionError, match=rf"{manifold.name}\.cdist: argument 'x' has shape .* rows of points"):
        manifold.cdist(torch.zeros(shape), torch.zeros(4, *shape))
    with pytest.raises(TypeError, match="cdist: argument 'y' must be a tensor"):
        manifold.cdist(torch.zeros(4, *shape), [0.0])

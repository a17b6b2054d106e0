"""The fused principal angles: equal to their reference in value and gradient, right for small and right angles."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import Grassmann, kernels
from holonomy.manifolds.kernels import angles

pytest.importorskip("numba")

SINGLE, DOUBLE = torch.float32, torch.float64


def draw(*size: int, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    x, y = (Grassmann().random(*size, dtype=DOUBLE, generator=generator) for _ in "xy")
    return x.to(dtype), y.to(dtype)


def outcome(mode: str, x: Tensor, y: Tensor) -> list[Tensor]:
    """Angles and gradients, which are on the tangent spaces: off them the two extend the function differently."""
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    with kernels.use(mode):
        found = Grassmann().principal_angles(*leaves)
    weights = torch.linspace(-1.0, 2.0, found.numel(), dtype=found.dtype).view_as(found)
    return [found.detach(), *torch.autograd.grad(found, leaves, weights)]


@pytest.mark.parametrize("size", [(1, 9, 1), (3, 10, 3), (2, 4, 64, 8), (5, 200, 17), (2, 130, 32)], ids=str)
def test_values_and_gradients_equal_the_reference(size: tuple[int, ...]) -> None:
    x, y = draw(*size)
    found, wanted = (outcome(mode, x, y) for mode in ("fused", "reference"))
    for a, b, bound in zip(found, wanted, (1e-14, 1e-11, 1e-11), strict=True):
        assert a.shape == b.shape
        # Roundings of the angles; singular vectors amplify those of the gradients by 1 over the angles' distance.
        assert float((a - b).abs().max()) <= bound


@pytest.mark.parametrize("size", [(10, 100, 8), (20, 30, 5)], ids=str)
def test_float32_is_as_near_to_float64_as_the_reference(size: tuple[int, ...]) -> None:
    x, y = draw(*size, dtype=SINGLE)
    exact = outcome("reference", x.double(), y.double())
    for a, b, true in zip(outcome("fused", x, y), outcome("reference", x, y), exact, strict=True):
        assert a.dtype == SINGLE
        eps = torch.finfo(SINGLE).eps
        assert float((a - true).abs().max()) <= 2.0 * float((b - true).abs().max()) + 8.0 * eps


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_small_and_right_angles_keep_their_digits(dtype: torch.dtype) -> None:
    """Angles from 1e-14 to a right one in one pair: x and y in coordinate planes, turned by one rotation."""
    known = torch.tensor([1e-14, 3e-10, 1e-7, 2e-7, 1e-3, 1.0, math.pi / 2 - 1e-9, math.pi / 2], dtype=DOUBLE)
    p, n = len(known), 40
    x, y = torch.zeros(n, p, dtype=DOUBLE), torch.zeros(n, p, dtype=DOUBLE)
    index = torch.arange(p)
    x[index, index] = 1.0
    y[index, index], y[p + index, index] = known.cos(), known.sin()
    turn = Grassmann().random(n, n, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    mix = Grassmann().random(p, p, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    with kernels.use("fused"):
        found = Grassmann().principal_angles((turn @ x).to(dtype), (turn @ y @ mix).to(dtype))
    # Coordinates are rounded, which turns a subspace by about one unit.
    assert float((found.double() - known).abs().max()) <= 8.0 * torch.finfo(dtype).eps


def test_coincident_subspaces_have_angles_of_0_and_finite_gradients() -> None:
    x, _ = draw(4, 20, 3)
    value, *gradients = outcome("fused", x, x @ Grassmann().random(4, 3, 3, dtype=DOUBLE))
    assert float(value.max()) <= 1e-15
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    plane = torch.eye(6, dtype=DOUBLE)[:, :2]
    value, *gradients = outcome("fused", plane, plane)
    assert not value.any()
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    value, *gradients = outcome("fused", plane, torch.eye(6, dtype=DOUBLE)[:, 2:4])
    torch.testing.assert_close(value, torch.full_like(value, math.pi / 2), rtol=0.0, atol=1e-15)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_strides_and_broadcasting() -> None:
    x, y = draw(4, 3, 12, 2)
    ball = Grassmann()
    for a, b in ((x[0, 0], y), (x[:, :1], y), (x.transpose(0, 1), y.transpose(0, 1)), (x.mT.contiguous().mT, y)):
        found, wanted = (outcome(mode, a, b) for mode in ("fused", "reference"))
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert float((one - other).abs().max()) <= 1e-12  # sums over 12 pairs, conditioned as above
    with kernels.use("fused"):
        assert ball.principal_angles(x[:0], y[:0]).shape == (0, 3, 2)


def test_more_columns_than_the_kernel_takes_are_the_references() -> None:
    x, y = draw(2, 80, 33)
    found, wanted = (outcome(mode, x, y)[0] for mode in ("fused", "reference"))
    assert torch.equal(found, wanted)


def test_derivatives_of_both_orders() -> None:
    x, y = draw(2, 7, 2)
    manifold = Grassmann()

    def along(a: Tensor, b: Tensor) -> Tensor:
        """Angles between points of the manifold: off it, the two extend the function differently."""
        with kernels.use("fused"):
            moved = (manifold.expmap(point, manifold.proju(point, u)) for point, u in ((x, a), (y, b)))
            return manifold.principal_angles(*moved)

    generator = torch.Generator().manual_seed(2)
    inputs = [(0.3 * torch.randn(2, 7, 2, dtype=DOUBLE, generator=generator)).requires_grad_() for _ in "ab"]
    assert gradcheck(along, inputs)
    assert gradgradcheck(along, inputs, atol=1e-4)


def test_the_operators_vmap_and_compile() -> None:
    x, y = (t.requires_grad_() for t in draw(3, 9, 2))
    name = torch.ops.holonomy.principal_angles
    torch.library.opcheck(name, (x, y), test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
    _, factor = name(x.detach(), y.detach())
    back = torch.ops.holonomy.principal_angles_back
    g = torch.ones(3, 2, dtype=DOUBLE)
    torch.library.opcheck(back, (g, x.detach(), y.detach(), factor))
    manifold = Grassmann()
    with kernels.use("fused"):
        whole = manifold.principal_angles(x, y)
        mapped = torch.vmap(manifold.principal_angles, in_dims=(0, None))(x, y[0])
        compiled = torch.compile(manifold.principal_angles, fullgraph=True, backend="aot_eager")(x, y)
        assert torch.equal(mapped, manifold.principal_angles(x, y[:1].expand_as(x)))
    assert torch.equal(compiled, whole)
    assert angles._kernels().principal_angles(x.detach(), y.detach())[0].equal(whole)

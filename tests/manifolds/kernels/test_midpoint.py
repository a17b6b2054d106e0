"""The fused sums behind hyperbolic midpoints: equal to their references in value and gradient, and torch's rules."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import Lorentz, PoincareBall, gyrovector, hyperboloid, kernels
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.models.architectures.poincare_resnet import poincare_midpoint

pytest.importorskip("numba")

SINGLE, DOUBLE = torch.float32, torch.float64
MODELS: dict[str, type[Hyperbolic]] = {"ball": PoincareBall, "lorentz": Lorentz}
each_model = pytest.mark.parametrize("model", MODELS)
#: Roundings of sums in another order, relative to the largest entry: the float32 points are summed in float64 by both.
UNITS = {SINGLE: 2.0, DOUBLE: 64.0}


def draw(model: str, *size: int, dtype: torch.dtype = DOUBLE, c: float = 0.7) -> tuple[Tensor, Tensor]:
    """Points and weights, most of them positive."""
    generator = torch.Generator().manual_seed(sum(size))
    x = MODELS[model](c).random(*size, dtype=DOUBLE, generator=generator)
    return x.to(dtype), (torch.rand(size[:-1], dtype=DOUBLE, generator=generator) - 0.1).to(dtype)


def outcome(mode: str, model: str, x: Tensor, w: Tensor | None, c: float, **options: Any) -> list[Tensor]:
    """Value, and gradients by points and weights."""
    leaves = [t.clone().requires_grad_() if t is not None else None for t in (x, w)]
    with kernels.use(mode):
        y = MODELS[model](c).weighted_midpoint(leaves[0], leaves[1], **options)
        weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view_as(y)
        wanted = [t for t in leaves if t is not None]
        return [y.detach(), *torch.autograd.grad(y, wanted, weights, materialize_grads=True)]


def assert_equal_outcomes(model: str, x: Tensor, w: Tensor | None, *, condition: float = 1.0, **options: Any) -> None:
    pairs = zip(*(outcome(m, model, x, w, 0.7, **options) for m in ("fused", "reference")), strict=True)
    for found, wanted in pairs:
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        assert bool(torch.isfinite(found).all())
        bound = UNITS[x.dtype] * torch.finfo(x.dtype).eps * float(wanted.abs().max())
        # Where terms of order 1 cancel, as in the gradient by the weight of a single point, their roundings are left.
        assert float((found - wanted).abs().max()) <= condition * (bound + 64.0 * torch.finfo(DOUBLE).eps)


def count_calls(monkeypatch: pytest.MonkeyPatch, model: str) -> list[int]:
    """A list that grows with each call of the kernel."""
    calls: list[int] = []
    operation = (gyrovector if model == "ball" else hyperboloid).lifted_sum
    run = operation._run
    monkeypatch.setattr(operation, "_run", lambda *a: calls.append(1) or run(*a))
    return calls


@each_model
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("size", [(1, 2), (5, 3), (64, 9), (129, 16), (2100, 8), (70, 33)], ids=str)
def test_values_and_gradients_equal_the_reference(model: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    x, w = draw(model, *size, dtype=dtype)
    for weights in (None, w):
        assert_equal_outcomes(model, x, weights)


@each_model
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_the_gradient_by_a_curvature_is_the_references(model: str, dtype: torch.dtype) -> None:
    x, w = draw(model, 300, 6, dtype=dtype)
    found = []
    for mode in ("fused", "reference"):
        c = torch.tensor([0.7], dtype=dtype, requires_grad=True)
        with kernels.use(mode):
            y = (gyrovector if model == "ball" else hyperboloid).midpoint(x, w, [0], c)
        found.append(torch.autograd.grad(y, c, torch.linspace(-1.0, 2.0, y.numel(), dtype=DOUBLE).view_as(y))[0])
    assert float(found[1].abs()) > 1e-3
    # A sum of 300 terms of both signs and of order 1.
    torch.testing.assert_close(*found, rtol=0.0, atol=4e3 * torch.finfo(dtype).eps)


@each_model
@pytest.mark.parametrize("reducedim", [[0], [1], [0, 2], [2, 1], None], ids=str)
def test_any_axes_are_reduced(model: str, reducedim: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, model)
    x, w = draw(model, 5, 6, 7, 4)
    for keepdim in (False, True):
        assert_equal_outcomes(model, x, w, reducedim=reducedim, keepdim=keepdim)
    assert len(calls) == 2
    channels = x.movedim(-1, 1)
    shifted = None if reducedim is None else [i + (i > 0) for i in reducedim]
    assert_equal_outcomes(model, channels, w, reducedim=shifted, dim=1)


@each_model
def test_strides_and_broadcasting(model: str) -> None:
    x, w = draw(model, 8, 6, 5)
    views = (x.transpose(0, 1), x[::2, ::3], x[:1].expand(8, 6, 5), x.movedim(-1, 0).contiguous().movedim(0, -1))
    for view in views:
        rows, columns = view.shape[:2]
        for weights in (None, w[0, :1], w.flatten()[:columns], w.flatten()[:rows, None]):
            assert_equal_outcomes(model, view, weights, reducedim=[1])


@each_model
@pytest.mark.parametrize("option", ["lincomb", "posweight"])
def test_the_options(model: str, option: str) -> None:
    x, w = draw(model, 40, 5)
    assert_equal_outcomes(model, x, 0.05 * w, **{option: True})


@each_model
def test_edge_rows(model: str) -> None:
    """Weights of zero, coincident points, one point, points at the edge of the dtype."""
    x, w = draw(model, 30, 4)
    assert_equal_outcomes(model, x, torch.zeros_like(w))
    # At a distance r the square of time less that of space cancels to 1/cosh^2(r) of them: to a hundredth here.
    assert_equal_outcomes(model, x[:1].expand(30, 4), w, condition=100.0)
    assert_equal_outcomes(model, x[:1], None)
    value, *gradients = outcome("fused", model, MODELS[model](0.7).projx(1e9 * x), w, 0.7)
    assert all(bool(torch.isfinite(t).all()) for t in (value, *gradients))
    with kernels.use("fused"):
        assert MODELS[model](0.7).weighted_midpoint(torch.full_like(x, math.nan)).isnan().any()


def test_a_point_on_the_edge_of_the_ball_has_no_derivative_by_its_gap() -> None:
    x = torch.zeros(3, 4, dtype=DOUBLE)
    x[0, 0], x[1, 1], x[2, 2] = 1.0, 0.5, -0.3
    found, wanted = (outcome(m, "ball", x, None, 1.0) for m in ("fused", "reference"))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@each_model
def test_float32_is_the_rounded_float64(model: str) -> None:
    x, w = draw(model, 500, 9, dtype=SINGLE)
    found, exact = (outcome("fused", model, t, w.to(t.dtype), 1.0) for t in (x, x.double()))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=3e-7, atol=1e-7 * float(b.abs().max()))


@each_model
def test_derivatives_of_both_orders(model: str) -> None:
    x, w = draw(model, 6, 4)
    c = torch.tensor(0.8, dtype=DOUBLE)
    inputs = [t.requires_grad_() for t in (x.reshape(2, 3, 4), w.reshape(2, 3), c)]

    def sums(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
        with kernels.use("fused"):
            return torch.cat((gyrovector if model == "ball" else hyperboloid).lifted_sum(x, w, [1], c), dim=-1)

    assert gradcheck(sums, inputs)
    assert gradgradcheck(sums, inputs)


@each_model
def test_torch_finds_nothing_wrong_with_the_operators(model: str) -> None:
    operation = (gyrovector if model == "ball" else hyperboloid).lifted_sum
    x, w = draw(model, 2, 3, 4)
    c = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    x, w = x.requires_grad_(), w.requires_grad_()
    torch.library.opcheck(operation._forward, (x, w, c, 0.0))
    torch.library.opcheck(operation._forward, (x, None, None, 0.8))
    g = torch.ones(2, 4 + operation.ball, dtype=DOUBLE)
    torch.library.opcheck(operation._backward, (g, x.detach(), w.detach(), c.detach(), 0.0))


@each_model
def test_vmap_and_compile(model: str) -> None:
    manifold = MODELS[model](0.7)
    x, w = draw(model, 4, 30, 5)
    with kernels.use("fused"):
        mapped = torch.vmap(manifold.weighted_midpoint)(x, w)
        compiled = torch.compile(manifold.weighted_midpoint, fullgraph=True, backend="aot_eager")(x[0], w[0])
    torch.testing.assert_close(mapped, manifold.weighted_midpoint(x, w, reducedim=[1]), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(compiled, mapped[0], rtol=1e-13, atol=1e-14)


def test_the_number_of_threads_does_not_change_numbers() -> None:
    x, w = draw("ball", 20_000, 16, dtype=SINGLE)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(outcome("fused", "ball", x, w, 1.0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dim", [(0,), (2, 3), (0, 3)], ids=str)
def test_midpoints_of_the_resnet_share_the_kernel(dim: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, "ball")
    x = draw("ball", 3, 4, 6, 5)[0].movedim(-1, 1)
    w = torch.rand(3, 1, 4, 6, dtype=DOUBLE)
    for weights in (None, w, w[:1]):
        found = []
        for backward in ("manual", "autograd"):
            leaves = [t.clone().requires_grad_() for t in (x, torch.tensor(0.7, dtype=DOUBLE))]
            with kernels.use("fused"):
                y = poincare_midpoint(*leaves, dim, weights, ball_dim=1, backward=backward)
            found.append(
                [y, *torch.autograd.grad(y, leaves, torch.linspace(-1, 1, y.numel(), dtype=DOUBLE).view_as(y))]
            )
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    assert len(calls) == 3
    poincare_midpoint(x.contiguous(), 0.7, dim, w, ball_dim=1)  # coordinates that are no neighbours: the reference's
    assert len(calls) == 3

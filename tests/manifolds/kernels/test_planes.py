"""The fused distances of all pairs of points and planes of the ball: equal to their reference, and torch's rules."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import PoincareBall, gyrovector, kernels
from holonomy.manifolds.kernels import planes

pytest.importorskip("numba")

SINGLE, DOUBLE = torch.float32, torch.float64
#: Roundings of sums of d and of all points in another order, relative to the largest entry.
UNITS = 64.0


def draw(points: int, count: int, d: int, dtype: torch.dtype = DOUBLE, c: float = 0.7) -> list[Tensor]:
    """Points (b, 1, d), points of planes (c, d) and normals (c, d)."""
    generator = torch.Generator().manual_seed(points + count + d)
    ball = PoincareBall(c)
    x = ball.random(points, 1, d, dtype=DOUBLE, generator=generator)
    p = ball.random(count, d, dtype=DOUBLE, generator=generator)
    return [t.to(dtype) for t in (x, p, torch.randn(count, d, dtype=DOUBLE, generator=generator))]


def outcome(mode: str, inputs: list[Tensor], **options: Any) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    with kernels.use(mode):
        y = PoincareBall(0.7).dist2plane(*leaves, **options)
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each call of the kernel."""
    calls: list[int] = []
    found = planes._kernels()
    monkeypatch.setattr(planes, "_kernels", lambda: calls.append(1) or found)
    return calls


def assert_equal_outcomes(inputs: list[Tensor], **options: Any) -> None:
    for found, wanted in zip(*(outcome(m, inputs, **options) for m in ("fused", "reference")), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        assert bool(torch.isfinite(found).all())
        scale = max(1.0, float(wanted.abs().max()))
        assert float((found - wanted).abs().max()) <= UNITS * torch.finfo(wanted.dtype).eps * scale


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("size", [(1, 2, 3), (5, 8, 1), (70, 13, 5), (200, 3, 16), (1030, 9, 33)], ids=str)
def test_values_and_gradients_equal_the_reference(
    size: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch)
    for options in ({}, {"signed": True}, {"signed": True, "scaled": True}):
        assert_equal_outcomes(draw(*size, dtype=dtype), **options)
    assert len(calls) == 6  # forward and backward


def test_the_gradient_by_a_curvature_is_the_references() -> None:
    x, p, a = draw(100, 9, 6)
    found = []
    for fused in (True, False):
        c = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
        if fused:
            y = gyrovector.dist2planes(x[:, 0], p, a, c)
        else:
            y = gyrovector.dist2plane.reference(x, p, a, c).squeeze(-1)
        found.append(torch.autograd.grad(y, c, torch.linspace(-1.0, 2.0, y.numel(), dtype=DOUBLE).view_as(y))[0])
    assert float(found[1].abs()) > 0.1
    # A sum of 900 terms of both signs and of order 1.
    torch.testing.assert_close(*found, rtol=0.0, atol=1e-11)


def test_batches_and_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    x, p, a = draw(24, 6, 5)
    for points in (x.view(2, 12, 1, 5), x[::2], x.view(4, 6, 1, 5).transpose(0, 1)):
        assert_equal_outcomes([points, p, a], signed=True)
    assert_equal_outcomes([x, p[None], a[None]], signed=True)
    assert_equal_outcomes([x, p[::2], a[::2]], signed=True)
    assert len(calls) == 10
    rows = draw(6, 6, 5)
    assert_equal_outcomes([rows[0][:, 0], rows[1], rows[2]], signed=True)  # row by row is not all pairs
    assert len(calls) == 10


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_edge_rows(dtype: torch.dtype) -> None:
    """Points of the planes themselves, normals of zero, points next to the edge."""
    x, p, a = draw(20, 4, 5, dtype=dtype)
    x[:4, 0] = p
    a[1] = 0.0
    assert_equal_outcomes([x, p, a], signed=True)
    with kernels.use("fused"):
        ball = PoincareBall(0.7)
        assert not ball.dist2plane(x, p, a)[:4].diagonal().any()
        assert not ball.dist2plane(x, p, a)[:, 1].any()
    x[5:] = PoincareBall(0.7).projx(1e6 * x[5:])
    assert all(bool(torch.isfinite(t).all()) for t in outcome("fused", [x, p, a]))


def test_points_next_to_a_plane_far_from_the_origin_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    ball = PoincareBall()
    p = ball.expmap0(2.0 * torch.nn.functional.normalize(torch.randn(3, 8, dtype=DOUBLE, generator=generator), dim=-1))
    a = torch.randn(3, 8, dtype=DOUBLE, generator=generator)
    steps = ball.egrad2rgrad(p, torch.randn(50, 3, 8, dtype=DOUBLE, generator=generator))
    x = ball.expmap(p, 1e-3 * steps).float().reshape(-1, 1, 8)
    p, a = p.float(), a.float()
    with kernels.use("fused"):
        found = ball.dist2plane(x, p, a, signed=True)
    exact = ball.dist2plane(x.double(), p.double(), a.double(), signed=True)
    own = torch.arange(3).repeat(50)
    near, true = (t[torch.arange(150), own] for t in (found, exact))
    # The distances are 1e-3 of lengths of order 1: relative to them, terms that cancelled would lose three digits.
    assert float((near - true).abs().max()) <= 16.0 * torch.finfo(SINGLE).eps * float(true.abs().max())


def test_derivatives_of_both_orders_and_the_operators() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((3, 4), (2, 4), (2, 4), (3,), (2,), (2,), (2,))
    inputs = [torch.randn(s, dtype=DOUBLE, generator=generator).requires_grad_() for s in shapes]
    assert gradcheck(planes.plane_pairs, inputs)
    assert gradgradcheck(planes.plane_pairs, inputs)
    torch.library.opcheck(planes._forward, tuple(inputs))
    up = torch.ones(3, 2, dtype=DOUBLE)
    torch.library.opcheck(planes._backward, (up, *(t.detach() for t in inputs)))


def test_vmap_and_compile() -> None:
    x, p, a = draw(40, 5, 6)
    ball = PoincareBall(0.7)
    with kernels.use("fused"):
        whole = ball.dist2plane(x, p, a, signed=True)
        mapped = torch.vmap(lambda t: ball.dist2plane(t, p, a, signed=True))(x.view(4, 10, 1, 6))
        compiled = torch.compile(lambda *t: ball.dist2plane(*t, signed=True), fullgraph=True, backend="aot_eager")(
            x, p, a
        )
    torch.testing.assert_close(mapped.view(40, 5), whole, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(compiled, whole, rtol=1e-13, atol=1e-14)


def test_the_number_of_threads_does_not_change_numbers() -> None:
    inputs = draw(4000, 40, 8, dtype=SINGLE)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(outcome("fused", inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

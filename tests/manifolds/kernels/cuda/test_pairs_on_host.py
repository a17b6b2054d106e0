"""The CUDA kernels of all pairs, on the host, held to the CPU's in float64. Needs no GPU."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import pairwise
from holonomy.manifolds.kernels.cuda import pairs

cpu = importlib.import_module("holonomy.manifolds.kernels.cpu.pairs")
pytestmark = pytest.mark.usefixtures("on_host")
DTYPES = [torch.float32, torch.float64]
KINDS = sorted(pairs.KINDS)


def points(kind: str, *shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64)
    if kind == "sphere":
        return torch.nn.functional.normalize(x, dim=-1)
    if kind == "ball":
        return 0.9 * torch.tanh(x) / shape[-1] ** 0.5
    return x


def arguments(kind: str, dtype: torch.dtype, x: Tensor, y: Tensor, c: Any = 0.7) -> tuple[Any, ...]:
    """What the functions of a kind take; in float64, but rounded to `dtype`."""
    x, y = x.to(dtype).double(), y.to(dtype).double()
    if kind == "ball":
        a, b = ((1.0 / (1.0 - t.square().sum(-1, keepdim=True))).to(dtype).double() for t in (x, y))
        return x, y, a, b, 1.7
    if kind == "sphere":
        return x, y
    return (x, y, c.to(dtype).double(), 1.0) if isinstance(c, Tensor) else (x, y, None, c)


def narrow(inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(t.to(dtype) if isinstance(t, Tensor) else t for t in inputs)


def values(module: Any, kind: str, inputs: tuple[Any, ...]) -> Tensor:
    found: Tensor = getattr(module, f"{kind}_values")(*inputs)
    return found


def gradients(module: Any, kind: str, inputs: tuple[Any, ...], grad: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = getattr(module, f"{kind}_gradients")(*inputs, grad)
    return found


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest error in roundings of the largest entry."""
    found, wanted = found.detach(), wanted.detach()
    scale = wanted.abs().amax().clamp_min(1e-300)
    return float(((found.double() - wanted).abs() / scale).amax() / torch.finfo(found.dtype).eps)


@pytest.mark.parametrize("size", [3, 16, 20])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind: str, dtype: torch.dtype, size: int) -> None:
    inputs = arguments(kind, dtype, points(kind, 70, size), points(kind, 45, size))
    found, wanted = values(pairs, kind, narrow(inputs, dtype)), values(cpu, kind, inputs)
    assert float(((found - wanted) / wanted).abs().amax()) < 32.0 * torch.finfo(dtype).eps
    grad = torch.randn(70, 45, dtype=dtype)
    found_all = gradients(pairs, kind, narrow(inputs, dtype), grad)
    wanted_all = gradients(cpu, kind, inputs, grad.double())
    for a, b in zip(found_all, wanted_all, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        assert off(a, b) < 64.0


@pytest.mark.parametrize("kind", KINDS)
def test_many_columns_are_shared_between_blocks_and_long_rows(kind: str) -> None:
    inputs = arguments(kind, torch.float32, points(kind, 5, 70), points(kind, 300, 70))
    assert pairs._chunks(pairs._pairs(*inputs[:2]), 64, 72) == 5
    grad = torch.randn(5, 300)
    for a, b in zip(
        gradients(pairs, kind, narrow(inputs, torch.float32), grad),
        gradients(cpu, kind, inputs, grad.double()),
        strict=True,
    ):
        assert off(a, b) < 64.0


@pytest.mark.parametrize("kind", KINDS)
def test_long_sums_round_little(kind: str) -> None:
    inputs = arguments(kind, torch.float32, points(kind, 9, 1000), points(kind, 11, 1000))
    found, wanted = values(pairs, kind, narrow(inputs, torch.float32)), values(cpu, kind, inputs)
    assert float(((found - wanted) / wanted).abs().amax()) < 4.0 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("kind", KINDS)
def test_batches_broadcast_and_gradients_may_be_expanded(kind: str) -> None:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((2, 3, 7), (9,)), ((2, 1, 7), (3, 9)), ((7,), (2, 9))]
    for rows, columns in shapes:
        x, y = points(kind, *rows, 4), points(kind, *columns, 4)
        inputs = arguments(kind, torch.float64, x, y)
        found, wanted = values(pairs, kind, inputs), values(cpu, kind, inputs)
        assert found.shape == wanted.shape
        assert off(found, wanted) < 32.0
        for grad in (torch.ones(()).double().expand(found.shape), torch.randn(found.mT.shape).double().mT):
            for a, b in zip(gradients(pairs, kind, inputs, grad), gradients(cpu, kind, inputs, grad), strict=True):
                assert a.shape == b.shape
                assert off(a, b) < 64.0


def test_the_curvature_of_a_batch_has_its_gradient() -> None:
    c = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64).reshape(3, 1, 1)
    for curvature in (c, c[:1], c[0]):
        inputs = arguments("lorentz", torch.float64, points("lorentz", 3, 7, 4), points("lorentz", 9, 4), curvature)
        found, wanted = values(pairs, "lorentz", inputs), values(cpu, "lorentz", inputs)
        assert off(found, wanted) < 32.0
        grad = torch.randn_like(found)
        results = gradients(pairs, "lorentz", inputs, grad), gradients(cpu, "lorentz", inputs, grad)
        for a, b in zip(*results, strict=True):
            assert a.shape == b.shape
            assert off(a, b) < 64.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_close_pairs_keep_their_digits(kind: str, dtype: torch.dtype) -> None:
    """Of coincident points the distance and the gradient are 0."""
    eps = torch.finfo(dtype).eps
    x = points(kind, 20, 6).to(dtype).double()
    y = torch.cat((x, x + 8.0 * eps * torch.randn(20, 6).double())).to(dtype)
    inputs = arguments(kind, dtype, x, y)
    found, wanted = values(pairs, kind, narrow(inputs, dtype)), values(cpu, kind, inputs)
    assert bool((found.diagonal() == 0.0).all())
    close = wanted > 0.0
    # Rows are rounded: what is left of the difference of their times in doubled precision bounds the hyperboloid.
    assert float(((found - wanted) / wanted)[close].abs().amax()) < 64.0 * eps
    for g in gradients(pairs, kind, narrow(inputs, dtype), torch.eye(20, 40, dtype=dtype)):
        assert bool((g == 0.0).all())


def test_antipodes_of_the_sphere() -> None:
    x = points("sphere", 20, 5).float()
    y = -x + 1e-5 * torch.randn(20, 5)
    found, wanted = pairs.sphere_values(x, y), cpu.sphere_values(x.double(), y.double())
    assert float(((found - wanted) / wanted).abs().amax()) < 16.0 * torch.finfo(torch.float32).eps
    grad = torch.eye(20)
    for a, b in zip(
        pairs.sphere_gradients(x, y, grad), cpu.sphere_gradients(x.double(), y.double(), grad.double()), strict=True
    ):
        assert off(a, b) < 64.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_far_hyperboloid(dtype: torch.dtype) -> None:
    """Pairs both far out, and pairs of which one is."""
    x, y = points("lorentz", 30, 5), points("lorentz", 35, 5)
    x, y = x * 10.0 ** torch.linspace(-3, 4, 30).unsqueeze(-1), y * 10.0 ** torch.linspace(-3, 4, 35).unsqueeze(-1)
    inputs = arguments("lorentz", dtype, x, y, 1.0)
    found, wanted = values(pairs, "lorentz", narrow(inputs, dtype)), values(cpu, "lorentz", inputs)
    assert float(((found - wanted) / wanted).abs().amax()) < 64.0 * torch.finfo(dtype).eps
    grad = torch.randn(30, 35, dtype=dtype)
    found_all = gradients(pairs, "lorentz", narrow(inputs, dtype), grad)
    wanted_all = pairwise._lorentz_formula(inputs[0], inputs[1], None, grad.double(), 1.0)
    for a, b in zip(found_all[:2], wanted_all[:2], strict=True):
        scale = b.abs().amax(-1, keepdim=True)
        assert float(((a - b).abs() / scale).amax()) < 128.0 * torch.finfo(dtype).eps


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_nearest_rows(kind: str, dtype: torch.dtype, skip: bool) -> None:
    """Distances that round alike may change places: what counts is the distances found."""
    x = points(kind, 2, 130, 4)
    y = x if skip else points(kind, 1, 150, 4)
    inputs = arguments(kind, dtype, x, y)
    a, b = inputs[2:4] if kind == "ball" else (None, None)
    wide = (kind, x.to(dtype).double(), y.to(dtype).double(), a, b, None, 0.7, 7, skip)
    found, wanted = pairs.nearest(*narrow(wide, dtype)), cpu.nearest(*wide)
    distances = values(cpu, kind, inputs)
    assert found.shape == wanted.shape
    assert bool((found.sort().values.diff() > 0).all())
    assert not skip or bool((found != torch.arange(130).unsqueeze(-1)).all())
    assert off(distances.gather(-1, found).to(dtype), distances.gather(-1, wanted)) < 32.0


def test_nearest_rows_of_ties_and_of_numbers_that_are_not_finite() -> None:
    x = torch.zeros(4, 3)
    y = torch.tensor([1.0, 0.0, torch.nan, 0.0, torch.inf] * 40).unsqueeze(-1) * torch.ones(3)
    y[1] = 0.0
    found = pairs.nearest("sphere", x, y, None, None, None, 1.0, 5, False)
    assert torch.equal(found, cpu.nearest("sphere", x, y, None, None, None, 1.0, 5, False))
    assert found[0].tolist() == [1, 3, 6, 8, 11]
    nothing = torch.full((3, 2), torch.nan)
    found = pairs.nearest("sphere", nothing, nothing, None, None, None, 1.0, 2, True)
    assert found.tolist() == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_operators_run_these_kernels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on a device: values and gradients of the public functions."""
    monkeypatch.setattr(pairwise, "_kernels", lambda tensor: pairs)
    x, y, a, b, _ = arguments("ball", torch.float64, points(kind, 7, 4), points(kind, 9, 4))
    c = torch.tensor(0.7, dtype=torch.float64)
    functions: dict[str, Callable[..., Tensor]] = {
        "ball": lambda x, y: pairwise.arsinh_cdist(x, y, a, b),
        "sphere": pairwise.sphere_cdist,
        "lorentz": lambda x, y: pairwise.lorentz_cdist(x, y, c),
    }
    leaves = [x.requires_grad_(), y.requires_grad_()]
    found = functions[kind](*leaves)
    slopes = torch.autograd.grad(found.square().sum(), leaves)
    monkeypatch.setattr(pairwise.dispatch, "_forced", "reference")
    wanted = functions[kind](*leaves)
    assert off(found, wanted) < 64.0
    for one, other in zip(slopes, torch.autograd.grad(wanted.square().sum(), leaves), strict=True):
        assert off(one, other) < 256.0


def test_nothing_comes_of_nothing() -> None:
    none, some = torch.zeros(0, 3), torch.zeros(2, 3)
    assert pairs.sphere_values(none, some).shape == (0, 2)
    gx, gy = pairs.sphere_gradients(none, some, torch.zeros(0, 2))
    assert gx.shape == (0, 3)
    assert torch.equal(gy, some)
    assert pairs.nearest("sphere", none, some, None, None, None, 1.0, 2, False).shape == (0, 2)

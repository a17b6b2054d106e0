"""The CUDA maps of the simplex, on the host, held to the CPU's in float64. Needs no GPU."""

import importlib

import pytest
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import simplex
from holonomy.manifolds.kernels.simplex import project_simplex_reference

cpu = importlib.import_module("holonomy.manifolds.kernels.cpu.simplex")
pytestmark = pytest.mark.usefixtures("on_host")
DTYPES = [torch.float32, torch.float64]
#: Whole packs in registers, and rows that are read again for every sum.
SIZES = [16, 131]


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest error in roundings of the largest entry of its row."""
    scale = wanted.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    return float(((found.double() - wanted).abs() / scale).amax() / torch.finfo(found.dtype).eps)


def arguments(name: str, rows: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Points, some on a face, and tangents; in float64, but rounded to `dtype`."""
    x, y = (torch.rand(rows, size, dtype=torch.float64) + 0.01 for _ in range(2))
    x[rows // 2 :, 0] = 0.0
    y[rows // 3 :, 1] = 0.0
    x, y = x / x.sum(-1, keepdim=True), y / y.sum(-1, keepdim=True)
    z = torch.randn(rows, size, dtype=torch.float64)
    u = x.sqrt() * z - (x.sqrt() * z).sum(-1, keepdim=True) * x
    # As steep as 1: where one entry takes all the mass, what is left of a gradient has no digits.
    steps = 0.3 * (x * z - (x * z).sum(-1, keepdim=True) * x)
    found = {"expmap": [x, u], "retr": [x, steps], "transp": [x, y, u]}.get(name, [x, y])
    return [t.to(dtype).double() for t in found]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", simplex.MAPS)
def test_maps_and_their_gradients(name: str, dtype: torch.dtype, size: int) -> None:
    inputs = arguments(name, 21, size, dtype)
    narrow = [t.to(dtype) for t in inputs]
    found, wanted = simplex.forward(name, *narrow), cpu.forward(name, *inputs)
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    assert off(found.reshape(21, -1), wanted.reshape(21, -1)) < 32.0
    grad = torch.randn(found.shape, dtype=dtype)
    results = simplex.backward(name, grad, *narrow), cpu.backward(name, grad.double(), *inputs)
    for a, b in zip(*results, strict=True):
        assert off(a, b) < 256.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["dist", "dist2", "logmap"])
def test_close_points_keep_their_digits(name: str, dtype: torch.dtype) -> None:
    """Of coincident points all is 0."""
    x = arguments("dist", 12, 16, dtype)[0].to(dtype)
    for y in (x, x * (1.0 + 16.0 * torch.finfo(dtype).eps * torch.randn(12, 16)).to(dtype)):
        found, wanted = simplex.forward(name, x, y), cpu.forward(name, x.double(), y.double())
        assert off(found.reshape(12, -1), wanted.reshape(12, -1)) < 32.0
        assert y is not x or not bool(found.any())


@pytest.mark.parametrize("size", [1, 16, 131, 5003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_projection(dtype: torch.dtype, size: int) -> None:
    x = torch.randn(4, size, dtype=dtype)
    x[1] += 1e3
    for mass in (1.0, 3.0):
        found, wanted = simplex.project(x, mass), project_simplex_reference(x.double(), mass)
        assert float((found - wanted).abs().amax()) < 64.0 * mass * torch.finfo(dtype).eps
        if size == 1:
            continue
        grad = torch.randn_like(x)
        pulled = simplex.project_backward(grad, found), cpu.project_backward(grad, found)
        assert off(pulled[0], pulled[1].double()) < 8.0


def test_projection_of_rows_that_are_not_finite() -> None:
    x = torch.zeros(4, 5)
    x[0, 2], x[1, 1], x[2], x[3, :4] = torch.nan, torch.inf, -torch.inf, -torch.inf
    found = simplex.project(x, 1.0)
    assert bool(found[:3].isnan().all())
    assert found[3].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_empty_batches() -> None:
    x = torch.zeros(0, 5)
    assert simplex.project(x, 1.0).shape == (0, 5)
    assert simplex.project_backward(x, x).shape == (0, 5)
    assert simplex.forward("dist", x, x).shape == (0,)
    assert simplex.backward("dist", torch.zeros(0), x, x)[1].shape == (0, 5)

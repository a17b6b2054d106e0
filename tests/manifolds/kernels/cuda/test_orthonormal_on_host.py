"""Operations on tall matrices for CUDA, on the host, held to the CPU's in float64. Needs no GPU."""

import importlib

import pytest
import torch
from torch import Tensor

from holonomy.manifolds.kernels import orthonormal as operators
from holonomy.manifolds.kernels import subspace_logits as logits_operators
from holonomy.manifolds.kernels.cuda import orthonormal, subspace_logits

cpu = importlib.import_module("holonomy.manifolds.kernels.cpu.orthonormal")
pytestmark = pytest.mark.usefixtures("on_host")
DTYPES = [torch.float32, torch.float64]


def matrices(name: str, count: int, n: int, p: int) -> tuple[Tensor, Tensor]:
    """Points and tangent vectors: for geodesics of subspaces horizontal ones."""
    x = torch.linalg.qr(torch.randn(count, n, p, dtype=torch.float64)).Q
    u = torch.randn(count, n, p, dtype=torch.float64)
    s = x.mT @ u
    return x, u - x @ (s if name == "exp" else 0.5 * (s + s.mT))


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest error in roundings of the largest entry."""
    assert found.shape == wanted.shape
    return float(((found.double() - wanted).abs().amax() / wanted.abs().amax()) / torch.finfo(found.dtype).eps)


@pytest.mark.parametrize(("n", "p"), [(5, 1), (9, 3), (40, 8), (33, 17), (35, 32)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", orthonormal.NAMES)
def test_values_and_gradients(name: str, dtype: torch.dtype, n: int, p: int) -> None:
    rows, shared = operators.OPERATIONS[name]
    x, u = (t.to(dtype).double() for t in matrices(name, 2, n, p))
    found, factor = orthonormal.forward(name, x.to(dtype), u.to(dtype), rows(p))
    wanted, wanted_factor = cpu.forward(name, x, u, rows(p))
    assert factor.shape == wanted_factor.shape
    # Of order one; products of p numbers, and gradients of a chain of some tens of products.
    assert off(found, wanted) < 64.0
    g = torch.randn(x.shape, dtype=dtype)
    results = orthonormal.backward(name, g, x.to(dtype), u.to(dtype), found, factor, shared)
    expected = cpu.backward(name, g.double(), x, u, wanted, wanted_factor, shared)
    for one, other in zip(results, expected, strict=True):
        if other.numel():
            assert off(one, other) < 1024.0


@pytest.mark.parametrize("name", ["exp", "qr", "polar"])
def test_columns_are_orthonormal_after_long_steps(name: str) -> None:
    for length in (1e-6, 1.0, 40.0):
        x, u = matrices(name, 1, 20, 4)
        y, _ = orthonormal.forward(name, x, length * u, operators.OPERATIONS[name][0](4))
        assert float((y.mT @ y - torch.eye(4, dtype=torch.float64)).abs().amax()) < 1e-13
        wanted = cpu.forward(name, x, length * u, operators.OPERATIONS[name][0](4))[0]
        assert float((y - wanted).abs().amax()) < 1e-12 * max(1.0, length)


def test_matrices_beyond_the_workspaces_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, u = matrices("qr", 5, 6, 2)
    wanted = orthonormal.forward("qr", x, u, 2)
    monkeypatch.setattr(orthonormal, "_BLOCKS", 2)
    for one, other in zip(orthonormal.forward("qr", x, u, 2), wanted, strict=True):
        assert torch.equal(one, other)


def test_angles_past_the_workspace_give_nan_and_no_batch_nothing() -> None:
    x, u = matrices("exp", 1, 6, 2)
    assert bool(orthonormal.forward("exp", x, 1e7 * u, 0)[0].isnan().all())
    assert orthonormal.forward("polar", x[:0], u[:0], 3)[1].shape == (0, 3, 2)


@pytest.mark.parametrize("squared", [False, True])
def test_class_logits_by_blocks(squared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, bases = torch.randn(7, 10, dtype=torch.float64), torch.randn(5, 10, 3, dtype=torch.float64)
    x[0] = 0.0
    monkeypatch.setattr(subspace_logits, "_BLOCK", 50)
    assert len(subspace_logits._parts(x, bases)) == 3
    assert off(subspace_logits.forward(x, bases, squared), logits_operators._reference(x, bases, squared)) < 16.0
    g = torch.randn(7, 5, dtype=torch.float64)
    found = subspace_logits.backward(g, x, bases, squared)
    for one, other in zip(found, logits_operators._vector_jacobian(g, x, bases, squared), strict=True):
        assert off(one, other) < 32.0

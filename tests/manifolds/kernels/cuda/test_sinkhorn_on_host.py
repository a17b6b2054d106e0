"""Sinkhorn's iteration for CUDA, on the host, held to the one in plain torch. Needs no GPU."""

import pytest
import torch

from holonomy.manifolds.kernels import sinkhorn as operators
from holonomy.manifolds.kernels.cuda import sinkhorn

pytestmark = pytest.mark.usefixtures("on_host")
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "epsilon"), [(7, 5, 0.3), (40, 33, 0.1), (1, 3, 1.0)])
def test_equals_the_iteration_in_plain_torch(dtype: torch.dtype, n: int, m: int, epsilon: float) -> None:
    cost = torch.rand(3, n, m, dtype=dtype)
    a, b = torch.rand(3, n, dtype=dtype) + 0.1, torch.rand(3, m, dtype=dtype) + 0.1
    if m > 3:
        b[0, 1] = 0.0
        cost[1, 0, 0] = torch.inf
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    tolerance = operators._tolerance(cost)
    found = sinkhorn.iterate(cost, a, b, -1.0 / epsilon, tolerance, 500)
    wanted = operators._iterate_plain(cost, a, b, -1.0 / epsilon, tolerance, 500)
    for one, other in zip(found[:3], wanted[:3], strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        # Both are within the tolerance of the limit, a relative error of sums.
        torch.testing.assert_close(one, other, rtol=0.0, atol=20.0 * tolerance)
    assert bool((found[3] <= 2.0 * tolerance).all())
    assert float((found[4] - wanted[4]).abs().amax()) <= 2.0
    assert not bool(found[2][0, :, 1].any()) or m <= 3


def test_the_limit_ends_it_and_is_reported() -> None:
    cost = 10.0 * torch.rand(2, 6, 6)
    a = torch.full((2, 6), 1.0 / 6.0)
    found = sinkhorn.iterate(cost, a, a, -20.0, 1e-6, 3)
    wanted = operators._iterate_plain(cost, a, a, -20.0, 1e-6, 3)
    assert found[4].tolist() == [3, 3]
    torch.testing.assert_close(found[3], wanted[3], rtol=1e-4, atol=1e-6)


def test_a_row_that_no_pair_reaches() -> None:
    cost = torch.tensor([[0.0, 1.0], [torch.inf, torch.inf]])
    a = torch.full((2,), 0.5)
    f, _, plan, error, steps = sinkhorn.iterate(cost, a, a, -1.0, 1e-6, 10)
    assert f[1] == -torch.inf
    assert plan[1].tolist() == [0.0, 0.0]
    assert float(error) == 1.0
    assert int(steps) == 10


def test_the_operator_runs_this_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device: values by the kernel, and the implicit gradient."""
    monkeypatch.setattr(operators.dispatch, "backend", lambda *tensors: "cupy")
    monkeypatch.setattr(operators, "marginal_solve", operators.marginal_solve_reference)
    cost = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    found = operators.sinkhorn(cost, epsilon=0.5).coupling
    assert found is not None
    (slope,) = torch.autograd.grad(found.square().sum(), cost)
    monkeypatch.setattr(operators.dispatch, "backend", lambda *tensors: None)
    wanted = operators.sinkhorn(cost, epsilon=0.5).coupling
    assert wanted is not None
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(slope, torch.autograd.grad(wanted.square().sum(), cost)[0], rtol=1e-6, atol=1e-9)

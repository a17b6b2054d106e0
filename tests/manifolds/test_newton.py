"""Newton's method: one step for least squares, descent where functions are not convex, what it says on failure."""

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import ConvergenceError
from holonomy.manifolds.newton import Convergence, minimise


def solve(function: object, start: Tensor, max_steps: int = 50) -> tuple[Tensor, Convergence]:
    return minimise(
        "test",
        start,
        len(start),
        lambda state, z: function(state + z),  # type: ignore[operator]
        lambda state, z: state + z,
        tolerance=1e-11,
        max_steps=max_steps,
        dtype=start.dtype,
        device=start.device,
    )


def banana(x: Tensor) -> Tensor:
    return (1.0 - x[0]).square() + 100.0 * (x[1] - x[0].square()).square()


def test_least_squares_take_one_step() -> None:
    a = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, report = solve(lambda x: 0.5 * (a @ x - b).square().sum(), torch.zeros(4, dtype=torch.float64))
    assert report.steps == 1
    torch.testing.assert_close(x, torch.linalg.lstsq(a, b).solution)


def test_a_curved_valley_is_followed_to_its_end() -> None:
    x, report = solve(banana, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    torch.testing.assert_close(x, torch.ones(2, dtype=torch.float64))
    assert report.gradient <= 1e-11


def test_from_a_maximum_it_goes_down() -> None:
    """Plain Newton's method would go back to the maximum at 0, where curvature is negative."""
    x, _ = solve(lambda x: torch.cos(x).sum(), torch.tensor([0.3, -0.2], dtype=torch.float64))
    torch.testing.assert_close(torch.cos(x), -torch.ones(2, dtype=torch.float64))


def test_failure_says_how_far_it_came() -> None:
    with pytest.raises(ConvergenceError, match=r"test: after 2 steps the gradient has length"):
        solve(banana, torch.tensor([-1.2, 1.0], dtype=torch.float64), max_steps=2)

"""What the tests of the optimizers share: a flat manifold, and a way to run an optimizer on given gradients."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Manifold


class Line(Manifold):
    """R^n with points on the last axis, which the optimizers do not know for Euclidean: their manifold code steps it.

    With n = 1 every entry is a point, and a second moment for each point is torch's second moment for each entry.
    """

    name = "Line"

    def _injectivity_radius(self) -> float:
        return float("inf")

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def run() -> Callable[..., list[Tensor]]:
    """Step parameters through random gradients, the same for the same seed, and return copies of their values."""

    def run(optimizer: torch.optim.Optimizer, steps: int = 5, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
        params = parameters_of(optimizer)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            for p in params:
                p.grad = scale * torch.randn(p.shape, dtype=p.dtype, generator=generator)
            kept = [p.grad.clone() for p in params]
            optimizer.step()
            assert all(torch.equal(p.grad, g) for p, g in zip(params, kept, strict=True)), "step() changed a gradient"
        return [p.detach().clone() for p in params]

    return run


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    groups: Iterable[dict[str, Any]] = optimizer.param_groups
    return [p for group in groups for p in group["params"]]

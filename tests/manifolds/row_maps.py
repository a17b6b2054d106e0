"""What the tests of the row kernels share: a map's values and gradients, and their comparison with its definition."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

DOUBLE, SINGLE = torch.float64, torch.float32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outcome(function: Callable[..., Any], inputs: Sequence[Tensor], seed: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Results, and the gradients by all inputs for random upstream gradients, which are the same for every dtype."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    draw = generator(seed)
    upstream = [torch.randn(r.shape, dtype=DOUBLE, generator=draw).to(r.dtype) for r in results]
    return [r.detach() for r in results], list(torch.autograd.grad(results, leaves, upstream))


def deviation(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference, in each row relative to the row's largest entry or to 1, which the upstream gradients are."""
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        size = e.abs().amax(-1, keepdim=True).clamp_min(1.0) if e.ndim else e.abs().clamp_min(1.0)
        difference = ((a.to(DOUBLE) - e.to(DOUBLE)) / size).abs()
        assert torch.isfinite(difference).all()
        worst = max(worst, float(difference.amax()) if difference.numel() else 0.0)
    return worst


def assert_equals_definition(function: Any, inputs: Sequence[Tensor], bound: float) -> None:
    """Values and gradients of a fused map are those of its plain definition."""
    for actual, expected in zip(outcome(function, inputs), outcome(function.reference, inputs), strict=True):
        assert deviation(actual, expected) <= bound


def assert_as_accurate_as_definition(function: Any, inputs: Sequence[Tensor]) -> None:
    """In float32 a fused map is as close to float64 as its plain definition in float32, up to a factor of 3.

    Sums in another order and a few more roundings account for the factor, and for 16 units where both are exact.
    """
    single = [t.to(SINGLE) for t in inputs]
    exact = outcome(function.reference, [t.to(DOUBLE) for t in single])
    ours, plain = outcome(function, single), outcome(function.reference, single)
    for o, p, e in zip(ours, plain, exact, strict=True):
        assert deviation(o, e) <= 3.0 * deviation(p, e) + 16.0 * torch.finfo(SINGLE).eps

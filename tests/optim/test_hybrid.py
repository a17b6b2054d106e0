"""The hybrid optimizer: two optimizers' own steps, rates from one scheduler, states, and bad input."""

import copy
from typing import Any

import pytest
import torch

from holonomy.manifolds import Grassmann, ManifoldParameter
from holonomy.optim import HybridOptimizer, RiemannianSGD


def make(lr_factor: float | None = None) -> tuple[list[Any], HybridOptimizer]:
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Parameter(torch.randn(3, 2, generator=generator))
    bases = ManifoldParameter(Grassmann().random(2, 5, 2, generator=generator), Grassmann("exp"))
    euclidean = torch.optim.AdamW([plain], lr=1e-2)
    riemannian = RiemannianSGD([bases], lr=0.5, momentum=0.9, ambient_momentum=True)
    return [plain, bases], HybridOptimizer(euclidean, riemannian, lr_factor=lr_factor)


def fill(parameters: list[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)


def test_steps_are_those_of_the_two() -> None:
    parameters, hybrid = make()
    apart, both = make()
    for t in range(3):
        fill(parameters, t)
        fill(apart, t)
        hybrid.step()
        both.euclidean.step()
        both.riemannian.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, apart, strict=True))
    hybrid.zero_grad()
    assert all(p.grad is None for p in parameters)


def test_a_scheduler_sets_both_rates() -> None:
    _, hybrid = make()
    schedule = torch.optim.lr_scheduler.LambdaLR(hybrid, lambda t: 1.0 / (1 + t))
    hybrid.step()
    schedule.step()
    assert hybrid.euclidean.param_groups[0]["lr"] == pytest.approx(5e-3)
    assert hybrid.riemannian.param_groups[0]["lr"] == pytest.approx(0.25)


def test_a_factor_ties_the_rates_whatever_the_schedule() -> None:
    _, hybrid = make(lr_factor=10.0)
    assert hybrid.param_groups[1]["lr"] == pytest.approx(0.1)
    # A floor is not scaled: under the scheduler alone the ratio would change.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(hybrid, 4, eta_min=5e-3)
    for _ in range(3):
        hybrid.step()
        schedule.step()
    hybrid.step()
    assert hybrid.riemannian.param_groups[0]["lr"] == pytest.approx(10 * hybrid.euclidean.param_groups[0]["lr"])


def test_a_closure_is_evaluated_once() -> None:
    parameters, hybrid = make()
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        fill(parameters, 0)
        return 3.0

    assert hybrid.step(closure) == 3.0
    assert calls == [True]


def test_state_round_trip() -> None:
    parameters, hybrid = make()
    others, other = make()
    for t in range(2):
        fill(parameters, t)
        hybrid.step()
    other.load_state_dict(copy.deepcopy(hybrid.state_dict()))  # torch shares tensors
    for p, q in zip(parameters, others, strict=True):
        q.data.copy_(p.data)
    for optimizer, params in ((hybrid, parameters), (other, others)):
        fill(params, 5)
        torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))
    # Groups are shared with the two optimizers after loading, too.
    other.param_groups[1]["lr"] = 0.125
    assert other.riemannian.param_groups[0]["lr"] == 0.125


def test_bad_requests_are_refused() -> None:
    parameters, hybrid = make()
    with pytest.raises(TypeError, match="'riemannian' must be an optimizer, got list"):
        HybridOptimizer(hybrid.euclidean, parameters)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'lr_factor' must be positive or None, got 0"):
        HybridOptimizer(hybrid.euclidean, hybrid.riemannian, lr_factor=0.0)
    with pytest.raises(ValueError, match="more than one parameter group"):
        HybridOptimizer(hybrid.euclidean, torch.optim.SGD([parameters[0]], lr=0.1))
    with pytest.raises(RuntimeError, match="add the group to one of the two"):
        hybrid.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})

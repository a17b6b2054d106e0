"""A short run of the fuzzer, and that it finds what it looks for."""

import pytest
import torch
from cases import OPERATIONS
from fuzz import Report, Trial, check_operation, fuzz, run_trial
from torch import Tensor

from holonomy.manifolds import Sphere


@pytest.mark.slow
def test_a_short_run_counts_what_it_did() -> None:
    """What it finds is for `make fuzz` to say: some failures near cut loci are known."""
    report = fuzz(8_000, seed=0, batch=8)
    assert report.total >= 8_000
    assert report.python_calls * 8 == report.total
    assert report.refusals > 100
    assert all(failure.seed in range(10**9) and failure.what for failure in report.failures)


def test_a_trial_is_its_seed() -> None:
    first, second = Trial.draw(11, 4), Trial.draw(11, 4)
    assert first.description == second.description
    assert all(torch.equal(t, second.inputs[name]) for name, t in first.inputs.items())


def _sphere_seed() -> int:
    """Of a trial in float64: half precision forgives more."""
    trials = (Trial.draw(seed, 2) for seed in range(1000))
    return next(t.seed for t in trials if type(t.space.manifold) is Sphere and t.dtype == torch.float64)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda self, x, u: x * torch.nan, "not finite"),
        (lambda self, x, u: x + 0.5, "off the manifold"),
        (lambda self, x, u: torch.linalg.inv(torch.zeros(2, 2)), "raises"),
    ],
)
def test_faults_are_found(monkeypatch: pytest.MonkeyPatch, broken: object, said: str) -> None:
    seed = _sphere_seed()
    monkeypatch.setattr(Sphere, "_expmap", broken)
    report = Report()
    run_trial(seed, report, batch=4)
    assert any(said in failure.what and failure.seed == seed for failure in report.failures)


def test_a_gradient_that_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def dist(self: Sphere, x: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt((x - y).square().sum(-1))  # infinite slope at 0

    monkeypatch.setattr(Sphere, "_dist", dist)
    trial = Trial.draw(_sphere_seed(), 4)
    trial.inputs["y"] = trial.inputs["x"].clone()
    (operation,) = [o for o in OPERATIONS if o.name == "dist"]
    assert any("gradient" in what for what in check_operation(trial, operation))

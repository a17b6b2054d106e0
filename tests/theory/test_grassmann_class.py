"""The laws hold, and the same data reject wrong ones."""

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch

from holonomy.theory import grassmann_class as theory
from holonomy.theory.check import Check


@pytest.fixture(scope="module")
def measured() -> dict[str, Check]:
    return {check.theorem: check for check in theory.checks(seed=1)}


def test_every_law_holds(measured: dict[str, Check]) -> None:
    assert [theorem for theorem, check in measured.items() if not check.holds] == []
    assert len(measured) == 9


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("E cos^2 = k/D, k = 1", 1.0 / 63 * 1.2),
        ("E cos^2 = k/D, k = 8", 9.0 / 64),
        # sqrt(k/D), which the mean of the cosine is below
        ("(G(k/2) G((D+1)/2)), k = 1", math.sqrt(1 / 64)),
        ("(G(k/2) G((D+1)/2)), k = 8", math.sqrt(8 / 64)),
        ("a step moves a subspace", 1e-17),
        ("at second order", 1.9),
        ("at second order", 2.1),
        ("along a plane", math.cos(1.0) ** 2),
        ("geodesic steps", 0.0),
        ("as published", 2.0 * math.pi),
    ],
)
def test_the_data_reject_a_wrong_law(measured: dict[str, Check], words: str, wrong: float) -> None:
    (check,) = (check for theorem, check in measured.items() if words in theorem)
    assert not replace(check, predicted=wrong).holds


def test_mean_cosine_is_that_of_scipys_beta_law(measured: dict[str, Check]) -> None:
    for k in (1, 8):
        (check,) = (c for t, c in measured.items() if f"G((D+1)/2)), k = {k}" in t)
        law = scipy.stats.beta(k / 2, (64 - k) / 2)
        assert check.predicted == pytest.approx(law.expect(lambda s: s**0.5), rel=1e-9)


def test_without_the_gaussian_start_the_law_of_logits_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def skewed(self: theory.GrassmannClassifier, generator: torch.Generator | None = None) -> None:
        with torch.no_grad():
            raw = torch.rand(self.subspaces.shape, dtype=torch.float64, generator=generator)
            self.subspaces.copy_(torch.linalg.qr(raw)[0])  # not centred: all subspaces near one direction

    monkeypatch.setattr(theory.GrassmannClassifier, "reset_parameters", skewed)
    found = theory.initial_logits(torch.Generator().manual_seed(0), sizes=((64, 1),))
    assert [check.holds for check in found] == [False, False]

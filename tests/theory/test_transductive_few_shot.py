"""The checks hold at several seeds, and each rejects a wrong prediction on the same data."""

from dataclasses import replace

import numpy as np
import pytest

from holonomy.theory import transductive_few_shot as theory
from holonomy.theory.check import Check

CHECKS = theory.checks(0)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.theorem[:50])
def test_holds_and_rejects_a_wrong_prediction(check: Check) -> None:
    assert check.holds
    low, high = check.interval
    wrong = {
        "equal": 1.05 * check.predicted + 0.01,
        # Another constant or sign in a bound: half of the measured, or the other side of it.
        "at most": low - 0.01,
        "at least": high + 0.01,
    }[check.relation]
    assert replace(check, predicted=wrong).holds is False


@pytest.mark.parametrize("seed", range(1, 4))
def test_other_seeds_hold(seed: int) -> None:
    assert [check.theorem for check in theory.checks(seed) if not check.holds] == []


def find(text: str, checks: list[Check]) -> Check:
    return next(check for check in checks if text in check.theorem)


def test_named_wrong_constants_are_rejected() -> None:
    vertex = find("at vertices", CHECKS)
    # The official sum counts each pair twice: lambda in place of lambda/2.
    assert not replace(vertex, predicted=2.0 * vertex.predicted).holds
    cycle = find("swap for ever", CHECKS)
    # The mean field at lambda in place of lambda/2.
    t = 0.9
    for _ in range(100):
        t = np.tanh(3.0 * t)
    assert not replace(cycle, predicted=float(t)).holds


def test_a_bound_without_its_shift_fails_the_same_check(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = theory.knn_affinity
    monkeypatch.setattr(theory, "knn_affinity", lambda X, k, psd_shift=True: plain(X, k, psd_shift=False))
    checks = theory.monotone(np.random.default_rng(0), trials=10)
    assert not find("positive semi-definite", checks).holds
    assert not find("no update raises R", checks).holds
    assert not find("KL", checks).holds


def test_a_larger_divergence_is_not_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    kl = theory.rel_entr
    monkeypatch.setattr(theory, "rel_entr", lambda z, after: 3.0 * kl(z, after))
    assert not find("KL", theory.monotone(np.random.default_rng(0), trials=10)).holds


def test_means_that_are_not_the_minimum_raise_r(monkeypatch: pytest.MonkeyPatch) -> None:
    from holonomy.models.clustering.transductive_few_shot import alternation

    means = alternation.mean_prototypes
    # Twice the step past the mean is the other side of the parabola, and more is above.
    monkeypatch.setattr(alternation, "mean_prototypes", lambda X, Z, M: M + 2.5 * (means(X, Z, M) - M))
    checks = theory.alternation(np.random.default_rng(0), tasks=5)
    assert not find("means raises R", checks).holds
    assert find("modes raises R", checks).holds

"""The checks hold at several seeds, and each rejects a wrong prediction on the same data."""

from dataclasses import replace

import numpy as np
import pytest

from holonomy.theory import loki as theory
from holonomy.theory.check import Check

CHECKS = theory.checks(0)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.theorem[:50])
def test_holds_and_rejects_a_wrong_prediction(check: Check) -> None:
    assert check.holds
    low, high = check.interval
    wrong = {"equal": check.predicted + 1.0, "at most": low - 0.01, "at least": high + 0.01}[check.relation]
    assert replace(check, predicted=wrong).holds is False


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds_hold(seed: int) -> None:
    assert [check.theorem for check in theory.checks(seed) if not check.holds] == []


def find(text: str, checks: list[Check]) -> Check:
    return next(check for check in checks if text in check.theorem)


def test_the_rate_is_that_of_the_paper_and_not_the_reverse() -> None:
    rate = find("falls at least", CHECKS)
    # Maximum likelihood is faster than the bound: squares fall as 1/n.
    assert -1.4 < rate.measured < -0.7
    assert not replace(rate, relation="at least", predicted=0.0).holds


def test_medians_would_not_be_a_union_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = theory.frechet_predict
    monkeypatch.setattr(theory, "frechet_predict", lambda P, D, observed: predict(P, D, 1, observed))
    checks = theory.trees(np.random.default_rng(0), trials=6)
    assert not find("nodes not found", checks).holds  # the median of weighted nodes is a node that branches or is one
    assert find("nodes found beyond", checks).holds


def test_a_locus_of_pairs_alone_fails_where_leaves_are_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = theory.locus
    monkeypatch.setattr(theory, "locus", lambda D, observed, method: whole(D, observed, "pairs"))
    assert not find("reach more than pairs", theory.leaves_as_labels(np.random.default_rng(0), covers=1)).holds

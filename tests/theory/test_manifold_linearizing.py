"""Every check holds, and would not with another constant."""

from dataclasses import replace

import pytest

from holonomy.theory.check import Check
from holonomy.theory.manifold_linearizing import checks


@pytest.fixture(scope="module")
def found() -> list[Check]:
    return checks(0)


def test_all_checks_hold(found: list[Check]) -> None:
    assert len(found) == 7
    assert [check for check in found if not check.holds] == []


def test_wrong_predictions_are_rejected(found: list[Check]) -> None:
    for check in found[:3]:  # closed forms, to a part in a million
        assert replace(check, predicted=check.predicted * (1 + 1e-6)).holds is False
    for check in found[3:5]:  # had the chord to bend by more than it does
        assert replace(check, predicted=check.measured + 1e-3).holds is False
    for check in found[5:]:  # (1 - l)/4 in place of (1 - l)/2
        assert check.predicted <= 0.5
        assert replace(check, predicted=0.5 * check.predicted).holds is False


def test_another_seed_holds_too() -> None:
    assert [check for check in checks(3) if not check.holds] == []

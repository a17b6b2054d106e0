"""The checks hold, each can fail, and what they rest on fails where it should."""

from dataclasses import replace

import pytest

from holonomy.theory import householder_projector as theory


@pytest.fixture(scope="module")
def found() -> list:
    return theory.checks(0)


def test_every_check_holds(found: list) -> None:
    assert len(found) == 12
    assert [check for check in found if not check.holds] == []


def test_other_seeds_hold_too() -> None:
    assert [check for check in theory.checks(1) if not check.holds] == []


def test_wrong_predictions_are_rejected(found: list) -> None:
    for check in found:
        if check.relation == "equal":
            wrong = [check.predicted * 1.2, -check.predicted]
        elif check.relation == "at most":
            wrong = [check.measured * 0.5 if check.measured else -1.0]
        else:
            wrong = [check.measured * 1.01]
        for predicted in wrong:
            assert replace(check, predicted=predicted).holds is False, check


def test_same_seed_same_numbers(found: list) -> None:
    assert [check.measured for check in theory.checks(0)] == [check.measured for check in found]

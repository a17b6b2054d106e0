"""The checks hold, and the same data refuse what is wrong."""

import dataclasses

import pytest

from holonomy.theory import Check
from holonomy.theory.wide_cnn import checks


@pytest.fixture(scope="module")
def found() -> list[Check]:
    return checks(3)


def test_every_check_holds(found: list[Check]) -> None:
    assert len(found) == 15
    for check in found:
        assert check.holds, check


def test_wrong_predictions_are_refused(found: list[Check]) -> None:
    """Exponents off by a half, constants by a third, bounds at a tenth of what was measured or beyond it."""
    for check in found:
        if "exponent" in check.theorem and check.relation == "equal":
            wrong = (check.predicted - 0.5, check.predicted + 0.5)
        elif check.relation == "equal":
            wrong = (0.7 * check.predicted, 1.4 * check.predicted)
        elif check.relation == "at least":
            wrong = (2.0 * check.measured,)
        else:
            wrong = (0.1 * check.measured,)
        for value in wrong:
            if check.measured == 0.0:
                continue
            assert not dataclasses.replace(check, predicted=value).holds, (value, check)

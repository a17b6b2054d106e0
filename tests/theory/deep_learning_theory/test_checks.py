"""The checks hold, and the same data refuse what is wrong."""

import dataclasses

import pytest

from holonomy.theory import Check
from holonomy.theory.deep_learning_theory import checks


@pytest.fixture(scope="module")
def found() -> list[Check]:
    return checks(2)


@pytest.mark.slow
def test_every_check_holds(found: list[Check]) -> None:
    assert len(found) == 32
    for check in found:
        assert check.holds, check


@pytest.mark.slow
def test_wrong_predictions_are_refused(found: list[Check]) -> None:
    """Constants off by a half; a bound at a tenth of what was measured; a proof with a term left."""
    for check in found:
        if check.relation == "at most":
            wrong: tuple[float, ...] = (0.1 * check.measured,)
        else:
            wrong = (0.5 * check.predicted, 1.5 * check.predicted) if check.predicted else (1.0,)
        for value in wrong:
            assert not dataclasses.replace(check, predicted=value).holds, (value, check)

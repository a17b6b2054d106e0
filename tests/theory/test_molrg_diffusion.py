"""The checks hold, each can fail, and the stated lower bound fails where it should; tables and bounds."""

import math
from dataclasses import replace

import numpy as np
import pytest

from holonomy.theory import molrg_diffusion as theory
from holonomy.theory.molrg_sample_complexity import (
    completion_error,
    lower_bound,
    phase_transition_table,
    recovery_errors,
    recovery_probability,
    upper_bound,
)


@pytest.fixture(scope="module")
def found() -> list:
    return theory.checks(0)


@pytest.mark.slow
def test_every_check_holds(found: list) -> None:
    assert len(found) == 26
    assert [check for check in found if not check.holds] == []


@pytest.mark.slow
def test_other_seeds_hold_too() -> None:
    assert [check for check in theory.checks(1) if not check.holds] == []


@pytest.mark.slow
def test_wrong_predictions_are_rejected(found: list) -> None:
    for check in found:
        if check.relation == "equal":
            wrong = [check.predicted * 1.2, check.predicted * 0.8]
        elif check.relation == "at most":
            wrong = [check.measured - 0.01]
        else:
            wrong = [1.01]
        for predicted in wrong:
            assert replace(check, predicted=predicted).holds is False, check


@pytest.mark.slow
def test_stated_lower_bound_is_missed_by_what_completions_meet_by_chance(found: list) -> None:
    for check, missing in zip([c for c in found if c.theorem.startswith("N < d")], (1, 3, 16), strict=True):
        assert check.interval[1] < 2.0 * missing


@pytest.mark.parametrize(("d", "points"), [(3, 2), (6, 3)])
def test_completions_meet_the_exact_mean(d: int, points: int) -> None:
    squares = recovery_errors(20, d, points, 0.0, 200) ** 2
    assert float(squares.mean()) == pytest.approx(completion_error(20, d, points) ** 2, rel=0.03)


def test_table_of_success_has_the_transition_at_the_dimension() -> None:
    table = phase_transition_table(24, (2, 3, 4, 5), (-2, -1, 0, 3), 0.01, 20)
    assert np.isnan(table.success[0, 0])
    assert np.nan_to_num(table.success[:, :2]).max() == 0.0
    assert table.success[:, 3].min() >= 0.9
    assert table.error[:, 1].min() > 1.0
    assert (table.transition() >= np.array(table.dims)).all()
    assert 0.5 < table.slope() < 1.5
    assert table.success[2, 2] == recovery_probability(24, 4, 4, 0.01, 20)


def test_streams_are_independent_and_repeat() -> None:
    first = recovery_errors(12, 2, 4, 0.1, 5)
    assert (first == recovery_errors(12, 2, 4, 0.1, 5)).all()
    assert (first[:3] == recovery_errors(12, 2, 4, 0.1, 3)).all()
    assert len({*first, *recovery_errors(12, 2, 4, 0.1, 5, seed=1), *recovery_errors(12, 2, 5, 0.1, 5)}) == 15


def test_bounds_in_closed_form() -> None:
    assert upper_bound(5, 9, 0.3, 2.0) == pytest.approx(0.6)
    assert lower_bound(20, 5, 3) == 2.0
    assert lower_bound(6, 5, 2) == pytest.approx(math.sqrt(2.0))
    assert completion_error(20, 5, 3) == pytest.approx(math.sqrt(4.0 * (1.0 - 2.0 / 17.0)))
    for call, text in (
        (lambda: upper_bound(5, 4, 1.0, 1.0), "points >= d"),
        (lambda: lower_bound(20, 5, 5), "points < d"),
        (lambda: completion_error(4, 5, 3), "d <= n"),
        (lambda: recovery_errors(10, 2, 0, 0.1, 3), "'points' and 'trials'"),
        (lambda: phase_transition_table(10, (), (1,), 0.1, 3), "must not be empty"),
    ):
        with pytest.raises(ValueError, match=text):
            call()

"""Checks as a picture."""

import pytest

pytest.importorskip("matplotlib")

from holonomy.theory import Check
from holonomy.theory.figure import draw_checks

CHECKS = [
    Check("equal", 1.0, 1.05, "n = 1", low=0.9, high=1.2),
    Check("off", 2.0, 1.05, "n = 1", low=0.9, high=1.2),
    Check("exact", 3.0, 3.0, "n = 1"),
    Check("bounded", 1e-8, 1e-15, "n = 1", "at most"),
    Check("nothing", 1e-8, 0.0, "n = 1", "at most"),
    Check("beyond", 5.0, 4.0, "n = 1", "at least"),
    Check("unknown", 1.0, float("nan"), "n = 1"),
]


def test_one_line_a_check_in_panels_of_equalities_and_bounds() -> None:
    figure = draw_checks(CHECKS, "Checks")
    equal, bounds = figure.axes
    assert [label.get_text() for label in equal.get_yticklabels()] == ["equal", "off", "exact", "unknown"]
    assert [label.get_text() for label in bounds.get_yticklabels()] == ["bounded", "nothing", "beyond"]
    assert bounds.get_xscale() == "log"
    # The line of a check that holds crosses 0; that of one that fails does not. The first line is the axis itself.
    spans = [sorted(line.get_xdata()) for line in equal.lines[1::2]]
    assert spans[0][0] < 0.0 < spans[0][-1]
    assert spans[1][-1] < 0.0
    assert figure.get_suptitle() == "Checks"


def test_colours_tell_failures() -> None:
    colours = {draw_checks([check]).axes[0].lines[-1].get_color() for check in CHECKS[:2]}
    assert len(colours) == 2


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="'checks' must hold at least one check, got none"):
        draw_checks([])

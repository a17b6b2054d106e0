"""Checks as a picture: what was measured with its interval, beside what was predicted."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holonomy.theory.check import Check

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_checks"]

_GOOD, _BAD = "#0072b2", "#d55e00"
#: Ratios below this are drawn at it: an error of 0 under a bound has no logarithm.
_LEAST = 1e-12
#: Intervals are drawn up to this many of their half-widths from the prediction.
_FARTHEST = 4.0


def draw_checks(checks: Sequence[Check], title: str = "") -> "Figure":
    """Draw one line a check: equalities in units of their interval, bounds as the ratio of measured to predicted.

    Parameters
    ----------
    checks : sequence of Check
        At least one.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are none.
    """
    if not checks:
        raise ValueError("draw_checks: 'checks' must hold at least one check, got none")
    from matplotlib.figure import Figure

    equal = [check for check in checks if check.relation == "equal"]
    bounds = [check for check in checks if check.relation != "equal"]
    parts = [(part, draw) for part, draw in ((equal, _equalities), (bounds, _bounds)) if part]
    sizes = [len(part) + 1.5 for part, _ in parts]
    figure = Figure(figsize=(11.0, 0.9 + 0.3 * sum(sizes)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
    for axes, (part, draw) in zip(panels, parts, strict=True):
        draw(axes, part)
        axes.set_yticks(range(len(part)), [_label(check) for check in part], fontsize=7)
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    return figure


def _label(check: Check) -> str:
    return textwrap.shorten(check.theorem, 110, placeholder=" ...")


def _colour(check: Check) -> str:
    return _GOOD if check.holds else _BAD


def _equalities(axes: "Axes", checks: Sequence[Check]) -> None:
    axes.axvline(0.0, color="black", linewidth=1.0)
    for row, check in enumerate(checks):
        low, high = check.interval
        half = 0.5 * (high - low) or max(abs(check.predicted), 1.0) * 1e-12
        ends = [min(max((end - check.predicted) / half, -_FARTHEST), _FARTHEST) for end in (low, check.measured, high)]
        if math.isnan(ends[1]):
            continue
        axes.plot([ends[0], ends[2]], [row, row], color=_colour(check), linewidth=2.0)
        axes.plot(ends[1], row, "o", color=_colour(check), markersize=4.0)
    axes.set_xlim(-_FARTHEST, _FARTHEST)
    axes.set_xlabel("measured less predicted, in half-widths of the interval")


def _bounds(axes: "Axes", checks: Sequence[Check]) -> None:
    axes.axvline(1.0, color="black", linewidth=1.0)
    for row, check in enumerate(checks):
        low, high = check.interval
        if math.isnan(check.measured) or check.predicted == 0.0:
            continue
        ratios = [max(end / check.predicted, _LEAST) for end in (low, check.measured, high)]
        axes.plot([ratios[0], ratios[2]], [row, row], color=_colour(check), linewidth=2.0)
        marker = "<" if check.relation == "at most" else ">"
        axes.plot(ratios[1], row, marker, color=_colour(check), markersize=5.0)
    axes.set_xscale("log")
    axes.set_xlabel("measured over the bound: < must lie left of 1, > right of it")

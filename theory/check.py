"""The record of one numerical check of a stated theorem, and the table that checks and claims are printed as."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table

Relation = Literal["equal", "at most", "at least"]
_SIGNS: dict[Relation, str] = {"equal": "=", "at most": "<=", "at least": ">="}


@dataclass(frozen=True)
class Check:
    """What a theorem says of a quantity, beside what a finite experiment measured of it.

    Parameters
    ----------
    theorem : str
        The source and the statement, in one line.
    predicted : float
        The value or the bound that the theorem gives, with every constant that it states.
    measured : float
        What the experiment gave.
    how : str
        The experiment: sizes, trials, seeds, dtype.
    relation : {"equal", "at most", "at least"}, default "equal"
        How the theorem wants the quantity to stand to ``predicted``.
    low, high : float, optional
        Ends of the confidence interval of ``measured``; left out where nothing is random, and then the interval is
        ``measured`` alone.

    Raises
    ------
    ValueError
        If ``relation`` is unknown, or the interval does not hold ``measured``.
    """

    theorem: str
    predicted: float
    measured: float
    how: str
    relation: Relation = "equal"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.relation not in _SIGNS:
            raise ValueError(f"relation must be one of {', '.join(map(repr, _SIGNS))}, got {self.relation!r}")
        low, high = self.interval
        if not math.isnan(self.measured) and not low <= self.measured <= high:
            raise ValueError(f"the interval [{low}, {high}] must hold measured, got {self.measured} ({self.theorem})")

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the confidence interval of the measured value."""
        low = self.measured if self.low is None else self.low
        high = self.measured if self.high is None else self.high
        return low, high

    @property
    def holds(self) -> bool:
        """Whether the interval holds the predicted value, or lies wholly on the right side of it; never with NaN."""
        low, high = self.interval
        if math.isnan(self.measured):
            return False
        if self.relation == "equal":
            return bool(low <= self.predicted <= high)
        return bool(high <= self.predicted if self.relation == "at most" else low >= self.predicted)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, with the interval filled in and ``holds``."""
        low, high = self.interval
        numbers = {"predicted": self.predicted, "measured": self.measured, "low": low, "high": high}
        return {
            "theorem": self.theorem,
            "relation": self.relation,
            **{name: float(value) if math.isfinite(value) else None for name, value in numbers.items()},
            "how": self.how,
            "holds": self.holds,
        }

    def as_row(self) -> tuple[str, str, str, bool]:
        """Return the cells of one row of `verdicts`."""
        low, high = self.interval
        measured = f"{self.measured:.4g}" if low == high else f"{self.measured:.4g} [{low:.4g}, {high:.4g}]"
        wanted = f"{_SIGNS[self.relation]} {self.predicted:.4g}"
        return f"{self.theorem}\n  {self.how}", wanted, measured, self.holds


def verdicts(rows: Iterable[Sequence[str | bool] | str], *, heading: str = "claim") -> Table:
    """Lay out rows of (statement, wanted, measured, holds) as the one table that claims and checks are printed in.

    A string in place of a row is the title of those that follow.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(heading, overflow="fold")
    for name in ("wanted", "measured", "holds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if isinstance(row, str):
            table.add_section()
            table.add_row(row, style="bold")
            continue
        statement, wanted, measured, holds = row
        table.add_row(
            str(statement), str(wanted), str(measured), "yes" if holds else "NO", style="" if holds else "red"
        )
    return table

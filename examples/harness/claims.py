"""A claim of a paper as a measured inequality, and its verdict."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from holonomy.examples.harness.report import Report


@dataclass(frozen=True)
class Claim:
    """A measured quantity and the bounds that it is wanted within.

    Parameters
    ----------
    name : str
        What is claimed, in a few words.
    measure : callable
        Gives the quantity from a report: an array with one value a seed, or one number.
    at_least, at_most : float, optional
        The bounds, one of them or both. The mean over the seeds is judged.
    fails : bool, default False
        For an ablation: with the key ingredient switched off the inequality is expected not to hold.
    digits : str, default ".3f"
        Format of the printed numbers.

    Raises
    ------
    ValueError
        If neither bound is given.
    """

    name: str
    measure: Callable[[Report], Any]
    at_least: float | None = None
    at_most: float | None = None
    fails: bool = False
    digits: str = ".3f"

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"claim {self.name!r} needs at_least, at_most or both")

    @property
    def wanted(self) -> str:
        """The inequality as text."""
        if self.at_least is not None and self.at_most is not None:
            return f"in [{self.at_least:g}, {self.at_most:g}]"
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def judge(self, report: Report) -> "Verdict":
        """Measure the claim on a report."""
        values = np.atleast_1d(np.asarray(self.measure(report), dtype=np.float64))
        if values.ndim != 1:
            raise ValueError(f"claim {self.name!r} must measure one number a seed, got an array of {values.shape}")
        return Verdict(self, tuple(values.tolist()))


@dataclass(frozen=True)
class Verdict:
    """A claim with the values that were measured, one a seed."""

    claim: Claim
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds: what is judged."""
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single value, or where one is not finite."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 and math.isfinite(self.mean) else None

    @property
    def holds(self) -> bool:
        """Whether the mean is within the bounds; for an ablation, whether it is not. NaN is neither."""
        if math.isnan(self.mean):
            return False
        low, high = self.claim.at_least, self.claim.at_most
        inside = (low is None or self.mean >= low) and (high is None or self.mean <= high)
        return inside is not self.claim.fails

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of report.json (docs/report.md)."""
        return {
            "name": self.claim.name,
            "at_least": self.claim.at_least,
            "at_most": self.claim.at_most,
            "ablation": self.claim.fails,
            "values": list(self.values),
            "mean": self.mean,
            "spread": self.spread,
            "holds": self.holds,
        }

    def as_row(self) -> tuple[str, str, str, bool]:
        """Return the cells of one row of the claim table."""
        number = format(self.mean, self.claim.digits)
        if self.spread is not None:
            number += f" ± {format(self.spread, self.claim.digits)}"
        if not self.claim.fails:
            return self.claim.name, self.claim.wanted, number, self.holds
        outcome = "fails" if self.holds else "does not fail"
        return self.claim.name, f"fails {self.claim.wanted}", f"{outcome}: {number}", self.holds

"""The record of a theoretical check, and the table it is printed in."""

import json
import math

import pytest
from rich.console import Console

from holonomy.theory import Check
from holonomy.theory.check import verdicts


def check(**fields: object) -> Check:
    return Check(**{"theorem": "theorem", "predicted": 1.0, "measured": 1.0, "how": "n = 10", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({}, True),
        ({"measured": 1.1}, False),
        ({"measured": 1.1, "low": 0.9, "high": 1.3}, True),
        ({"measured": 1.1, "low": 1.05, "high": 1.3}, False),
        ({"measured": 0.9, "relation": "at most"}, True),
        ({"measured": 0.9, "high": 1.1, "relation": "at most"}, False),  # the whole interval must be on the right side
        ({"measured": 1.2, "low": 0.9, "relation": "at least"}, False),
        ({"measured": 1.2, "low": 1.1, "relation": "at least"}, True),
        ({"measured": math.nan}, False),
        ({"measured": math.nan, "relation": "at most"}, False),
    ],
)
def test_holds_by_the_interval(fields: dict[str, object], holds: bool) -> None:
    assert check(**fields).holds is holds


def test_bad_records_are_refused() -> None:
    with pytest.raises(ValueError, match="'equal', 'at most', 'at least', got 'about'"):
        check(relation="about")
    with pytest.raises(ValueError, match=r"\[1.1, 1.2\] must hold measured, got 1.0"):
        check(low=1.1, high=1.2)


def test_as_dict_is_strict_json() -> None:
    entry = json.loads(json.dumps(check(measured=math.nan).as_dict(), allow_nan=False))
    assert entry["measured"] is None
    assert entry["holds"] is False
    assert check(low=0.5).as_dict()["low"] == 0.5


def test_the_table_shows_what_was_wanted_and_what_came() -> None:
    console = Console(width=100, record=True, quiet=False, file=None)
    with console.capture() as capture:
        console.print(
            verdicts(
                [check(measured=0.5, low=0.4, high=0.6, relation="at most").as_row(), check(measured=2.0).as_row()]
            )
        )
    text = capture.get()
    for words in ("<= 1", "0.5 [0.4, 0.6]", "yes", "= 1", "2", "NO", "n = 10"):
        assert words in text

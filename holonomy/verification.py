"""Runs the checks of papers one after the other, with a progress bar, and writes what they found."""

import datetime
import platform
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from holonomy._version import __version__
from holonomy.catalogue import Paper
from holonomy.theory.check import Check

__all__ = ["SCHEMA", "document", "draw", "run"]

SCHEMA = 1
Found = dict[str, tuple[list[Check], float]]


def run(papers: Sequence[Paper], seed: int, console: Console) -> Found:
    """Run the checks of papers.

    Parameters
    ----------
    papers : sequence of Paper
        Those whose module in holonomy.theory has ``checks``.
    seed : int
        Seed of every paper's experiments.
    console : rich.console.Console
        Where the bar is drawn.

    Returns
    -------
    dict
        The checks of each slug, and the seconds that they took.
    """
    found: Found = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of about {task.total:.0f} s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(paper.seconds or 0.0 for paper in papers))
        for paper in papers:
            progress.update(task, description=paper.slug)
            module = import_module(f"holonomy.theory.{paper.slug}")
            begin = time.perf_counter()
            found[paper.slug] = list(module.checks(seed)), time.perf_counter() - begin
            progress.advance(task, paper.seconds or 0.0)
    return found


def document(found: Found, seed: int) -> dict[str, Any]:
    """Return what was found as plain JSON values."""
    return {
        "schema": SCHEMA,
        "holds": all(check.holds for checks, _ in found.values() for check in checks),
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"holonomy": __version__, "python": platform.python_version()},
        "papers": {
            slug: {"seconds": round(seconds, 3), "checks": [check.as_dict() for check in checks]}
            for slug, (checks, seconds) in found.items()
        },
    }


def draw(found: Found, titles: dict[str, str], folder: Path) -> list[str]:
    """Write one figure a paper into the folder; return the file names."""
    from holonomy.theory.figure import draw_checks

    names = []
    for slug, (checks, _) in found.items():
        if checks:
            names.append(f"{slug}.png")
            temporary = folder / f".{slug}.png"
            draw_checks(checks, titles[slug]).savefig(temporary, dpi=144, format="png")
            temporary.replace(folder / names[-1])
    return names

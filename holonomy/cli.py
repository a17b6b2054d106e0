"""The command line: ``holonomy list | run SLUG | verify [SLUG...] | doctor``."""

import json as json_format
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table
from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from holonomy._console import console
from holonomy._version import __version__
from holonomy.catalogue import PAPERS, Paper, UnknownPaperError, find

_ABOUT = """Geometry-first machine learning: run published methods and verify what they state.

Exit status: 0 where all that is claimed holds, 1 where something does not, 2 for a request that cannot be run."""

app = SubcommandApp()
Slug = Annotated[str, arg(metavar="SLUG")]
Json = Annotated[bool, arg(help="Print JSON on standard output.")]


@app.command(name="list")
def list_papers(ready: bool = False, json: Json = False) -> int:
    """Show the papers: title, venue, family, whether the example is ready, and its typical time.

    Parameters
    ----------
    ready : bool
        Only the papers whose example is ready.
    """
    papers = [paper for paper in PAPERS if paper.ready or not ready]
    if json:
        return _print_json([_entry(paper) for paper in papers])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("slug", "paper", "venue", "family", "state", "time"):
        table.add_column(name, no_wrap=name != "paper", justify="right" if name == "time" else "left")
    for paper in papers:
        time = "" if paper.minutes is None else f"{paper.minutes:g} min"
        table.add_row(paper.slug, paper.title, paper.venue, paper.family, _entry(paper)["state"], time)
    console().print(table)
    return 0


@app.command
def run(slug: Positional[Slug]) -> int:
    """Reproduce a paper's claims: train, print the claim table, write figures and report.json.

    Every field of the paper's configuration is a flag: `holonomy run SLUG --help` lists them.

    Parameters
    ----------
    slug : str
        The paper, as `holonomy list` names it; its flags follow.
    """
    return _run(slug, [])


@app.command
def verify(
    slugs: Positional[Annotated[tuple[str, ...], arg(metavar="[SLUG ...]")]] = (),
    seed: int = 0,
    list: bool = False,
    json: Json = False,
) -> int:
    """Check numerically what papers state: predicted against measured, with intervals.

    Parameters
    ----------
    slugs : tuple of str
        The papers; all that have checks when left out.
    seed : int
        Seed of the experiments.
    list : bool
        Name the papers that have checks, and run nothing.
    """
    papers = [find(slug) for slug in slugs] or [paper for paper in PAPERS if paper.checked]
    for paper in papers:
        if not paper.checked:
            return _refuse(f"{paper.slug} has no checks in this version; `holonomy verify --list` names those that do")
    if list:
        if json:
            return _print_json([paper.slug for paper in papers])
        console().print("\n".join(paper.slug for paper in papers))
        return 0
    return _verify(papers, seed, json)


@app.command
def doctor(json: Json = False) -> int:
    """Report versions, devices, threads, which kernels are live and why not, and what is missing."""
    from holonomy.doctor import examine, rows

    found = examine()
    if json:
        _print_json(found)
    else:
        for subject, finding in rows(found):
            console().print(f"{subject:16}{finding}", soft_wrap=True)
    return 1 if found["missing"] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        print(f"holonomy {__version__}")
        return 0
    try:
        if given[:1] == ["run"] and len(given) > 1 and not given[1].startswith("-"):
            return _run(given[1], given[2:])  # the flags after the slug are the paper's own
        return app.cli(prog="holonomy", description=_ABOUT, args=given, config=(tyro.conf.FlagCreatePairsOff,))
    except UnknownPaperError as error:
        return _refuse(str(error))


def _run(slug: str, arguments: list[str]) -> int:
    paper = find(slug)
    if not paper.ready:
        ready = ", ".join(paper.slug for paper in PAPERS if paper.ready)
        return _refuse(f"{slug} is planned and has no example in this version; ready: {ready or 'none'}")
    example = _import(f"holonomy.examples.{slug}")
    running = _import("holonomy.examples.harness.running")
    if example is None or running is None:
        return 2
    title = f"{paper.title} ({paper.venue})" + (f", {paper.data}" if paper.data else "")
    return running.main(example, slug, title, arguments)


def _verify(papers: list[Paper], seed: int, json: bool) -> int:
    from holonomy.theory.check import verdicts

    checks = {}
    for paper in papers:
        module = _import(f"holonomy.theory.{paper.slug}")
        if module is None:
            return 2
        checks[paper.slug] = module.checks(seed)
        if not json:
            out = console()
            out.print(f"{paper.title} ({paper.venue})")
            out.print(verdicts((check.as_row() for check in checks[paper.slug]), heading="theorem"))
    if json:
        _print_json({slug: [check.as_dict() for check in found] for slug, found in checks.items()})
    return 0 if all(check.holds for found in checks.values() for check in found) else 1


def _import(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "holonomy":
            raise
        _refuse(f"{error.name} is not installed; the examples' packages come with: pip install 'holonomy[examples]'")
        return None


def _entry(paper: Paper) -> dict[str, Any]:
    return {
        "slug": paper.slug,
        "title": paper.title,
        "venue": paper.venue,
        "family": paper.family,
        "state": "ready" if paper.ready else "planned",
        "checks": paper.checked,
        "minutes": paper.minutes,
    }


def _print_json(value: object) -> int:
    print(json_format.dumps(value, indent=1, ensure_ascii=False))
    return 0


def _refuse(message: str) -> int:
    console(stderr=True).print(f"holonomy: {message}", style="red", soft_wrap=True)
    return 2

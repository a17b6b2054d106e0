"""The command line: ``holonomy list | run SLUG | verify [SLUG...] | doctor``."""

import json as json_format
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table
from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from holonomy._console import console
from holonomy._version import __version__
from holonomy.catalogue import GEOMETRY, PAPERS, Paper, UnknownPaperError, find

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
    out: Path = Path("runs/verify"),
    list: bool = False,
    json: Json = False,
) -> int:
    """Check numerically what papers state: predicted against measured, with intervals.

    Prints one table, and writes verify.json and a figure a paper.

    Parameters
    ----------
    slugs : tuple of str
        The papers, and `geometry` for the library's own manifolds; all that have checks when left out.
    seed : int
        Seed of the experiments.
    out : Path
        Folder for verify.json and the figures.
    list : bool
        Show what has checks, and the typical time of each; run nothing.
    """
    papers = [GEOMETRY if slug == GEOMETRY.slug else find(slug) for slug in slugs]
    papers = papers or [GEOMETRY, *(paper for paper in PAPERS if paper.checked)]
    for paper in papers:
        if not paper.checked:
            return _refuse(f"{paper.slug} has no checks in this version; `holonomy verify --list` names those that do")
    return _list_checks(papers, json) if list else _verify(papers, seed, out, json)


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


def _list_checks(papers: list[Paper], json: bool) -> int:
    if json:
        return _print_json([{"slug": paper.slug, "title": paper.title, "seconds": paper.seconds} for paper in papers])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("slug", "checks of", "time"):
        table.add_column(name, no_wrap=name != "checks of", justify="right" if name == "time" else "left")
    for paper in papers:
        table.add_row(paper.slug, paper.title, "" if paper.seconds is None else f"{paper.seconds:g} s")
    console().print(table)
    return 0


def _verify(papers: list[Paper], seed: int, out: Path, json: bool) -> int:
    from holonomy import verification
    from holonomy.theory.check import verdicts

    try:
        out.mkdir(parents=True, exist_ok=True)
        found = verification.run(papers, seed, console(stderr=True))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "holonomy":
            raise
        return _refuse(f"{error.name} is not installed; it comes with: pip install 'holonomy[examples]'")
    except OSError as error:
        return _refuse(f"--out {out} cannot be written: {error.strerror}")
    document = verification.document(found, seed)
    temporary = out / ".verify.json"
    temporary.write_text(_json(document) + "\n", encoding="utf-8")
    temporary.replace(out / "verify.json")
    titles = {paper.slug: f"{paper.title} ({paper.venue})" if paper.venue else paper.title for paper in papers}
    if json:
        print(_json(document))
    else:
        rows: list[Any] = []
        for slug, (checks, seconds) in found.items():
            rows += [f"{titles[slug]}: {slug}, {seconds:.1f} s", *(check.as_row() for check in checks)]
        console().print(verdicts(rows, heading="theorem"))
    if find_spec("matplotlib") is None:
        console(stderr=True).print("no figures: matplotlib is not installed; pip install 'holonomy[examples]'")
    else:
        verification.draw(found, titles, out)
    if not json:
        every = [check for checks, _ in found.values() for check in checks]
        held = sum(check.holds for check in every)
        console().print(f"{held} of {len(every)} hold; verify.json and figures: {out}/", soft_wrap=True)
    return 0 if document["holds"] else 1


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


def _json(value: object) -> str:
    return json_format.dumps(value, indent=1, ensure_ascii=False)


def _print_json(value: object) -> int:
    print(_json(value))
    return 0


def _refuse(message: str) -> int:
    console(stderr=True).print(f"holonomy: {message}", style="red", soft_wrap=True)
    return 2

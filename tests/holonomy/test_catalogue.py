"""The catalogue of papers agrees with the tree."""

import re
from pathlib import Path

from holonomy import examples, models, theory
from holonomy.catalogue import GEOMETRY, PAPERS

FAMILIES = {
    "adaptation",
    "architectures",
    "bayesian",
    "clustering",
    "interpretability",
    "inverse",
    "operators",
    "recommendation",
    "representation",
    "search",
    "theory",
}


#: Modules of theory that several papers use, and the library's own checks.
SHARED = {
    "activations",
    "charts",
    "check",
    "ensembles",
    "figure",
    "gaussian",
    "geometry",
    "gram",
    "molrg_sample_complexity",
    "ntk",
    "spectra",
    "statistics",
}


def modules(package: object) -> set[str]:
    folder = Path(package.__path__[0])  # type: ignore[attr-defined]
    return {path.stem for path in folder.iterdir() if not path.stem.startswith("_")}


def test_one_entry_a_paper_in_order() -> None:
    slugs = [paper.slug for paper in PAPERS]
    assert len(slugs) == 45
    assert slugs == sorted(set(slugs))
    for paper in PAPERS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", paper.slug)
        assert re.search(r" (19|20)\d\d$", paper.venue), paper
        assert paper.family in FAMILIES


def test_ready_papers_say_how_long_they_take_and_planned_ones_do_not() -> None:
    for paper in PAPERS:
        assert (paper.minutes is not None) == (paper.data != "") == paper.ready, paper.slug


def test_checks_say_how_long_they_take() -> None:
    for paper in (*PAPERS, GEOMETRY):
        assert (paper.seconds is not None) == paper.checked, paper.slug


def test_every_example_check_and_family_is_in_the_catalogue() -> None:
    slugs = {paper.slug for paper in PAPERS}
    assert modules(examples) - {"blocks", "data", "errors", "harness"} <= slugs
    assert modules(theory) - SHARED <= slugs
    assert modules(models) <= FAMILIES

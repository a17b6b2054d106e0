"""The page on manifolds has a section for each, its code runs as it stands, and its pictures are there."""

import re
from pathlib import Path

import pytest
import torch

from holonomy import manifolds
from holonomy.manifolds import Manifold

PAGE = Path(__file__).parents[2] / "docs" / "manifolds.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", TEXT, flags=re.DOTALL | re.MULTILINE))
EXPORTED = sorted(
    name
    for name, kind in vars(manifolds).items()
    if isinstance(kind, type) and issubclass(kind, Manifold) and kind is not Manifold
)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_manifold_has_a_section_whose_code_runs(name: str) -> None:
    section = SECTIONS[name]
    assert all(f"**{item}**" in section for item in ("Points", "Metric", "Exact", "Use"))
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    manifold = next((value for value in names.values() if isinstance(value, Manifold)), None)
    points = [names[key] for key in ("x", "y", "p", "q") if key in names]
    for point in points if manifold is not None else ():
        manifold.assert_check_point_on_manifold(point)
    assert all(bool(torch.isfinite(value).all()) for value in names.values() if isinstance(value, torch.Tensor))


def test_every_picture_is_there_and_small() -> None:
    named = set(re.findall(r"\(pictures/(\w+\.png)\)", TEXT))
    assert named == {path.name for path in (PAGE.parent / "pictures").glob("*.png")}
    assert all((PAGE.parent / "pictures" / name).stat().st_size < 60_000 for name in named)

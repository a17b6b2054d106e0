"""The code on the paper's page runs as it stands."""

import re
from pathlib import Path

import torch

from holonomy.models.adaptation.geodesic_mixup import modality_gap

PAGE = Path(__file__).parents[4] / "docs" / "papers" / "geodesic_mixup.md"


def test_the_pages_towers_take_a_step_and_are_measured() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    torch.manual_seed(0)
    exec(code, names)
    assert set(names["terms"]) == {"clip", "m2", "v", "l"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in names["towers"].parameters())
    assert 0.0 <= names["recall"]["R@1"] <= 1.0
    assert torch.equal(names["gap"], modality_gap(names["image"], names["text"]))

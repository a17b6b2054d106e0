"""The code on the paper's page runs as it stands."""

import re
from pathlib import Path

import torch

from holonomy.manifolds.linalg import gram_gap

PAGE = Path(__file__).parents[3] / "docs" / "papers" / "grassmann_class.md"


def test_the_pages_model_takes_a_step() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    model, optimizer, schedule = names["model"], names["optimizer"], names["schedule"]
    before = model[-1].subspaces.detach().clone()
    torch.nn.functional.cross_entropy(model(torch.randn(8, 64)), torch.arange(8)).backward()
    optimizer.step()
    schedule.step()
    assert not torch.equal(before, model[-1].subspaces)
    assert gram_gap(model[-1].subspaces) < 1e-6

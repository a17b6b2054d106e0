"""The code on the paper's page runs as it stands."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[4] / "docs" / "papers" / "poincare_resnet.md"


def test_the_pages_model_takes_a_step() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    model, optimizer = names["model"], names["optimizer"]
    before = model[0].weight.detach().clone()
    torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)

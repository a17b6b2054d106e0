"""The code on the paper's page runs as it stands."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[4] / "docs" / "papers" / "loki.md"


def test_the_pages_code_predicts_unseen_classes() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert set(names["labels"]) - {"dog", "cat", "sparrow"}
    assert (names["labels"] == names["y"]).mean() > 0.7
    # All but the wolf, which is on no path between the three.
    assert names["names"][~names["reachable"]].tolist() == ["wolf"]
    assert names["names"][names["ask"]] == "wolf"
    assert names["head"](torch.zeros(2, 3)).shape == (2, 9)

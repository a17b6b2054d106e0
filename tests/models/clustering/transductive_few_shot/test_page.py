"""The code on the paper's page runs as it stands."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[4] / "docs" / "papers" / "transductive_few_shot.md"


def test_the_pages_code_labels_evaluates_and_clusters() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert (names["labels"] == names["y"]).mean() > 0.8
    assert names["mean"] > 0.6
    assert names["each"].shape == (50,)
    some = names["some"]
    assert (names["clusters"][some >= 0] == some[some >= 0]).all()
    assert (names["clusters"] == names["y"]).mean() > 0.7
    assert np.bincount(names["clusters"]).shape == (8,)

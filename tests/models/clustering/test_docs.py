"""The code on the paper's page runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "papers" / "manifold_linearizing.md"


def test_the_pages_model_groups_and_embeds() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["labels"].shape == (120,)
    assert set(names["labels"]) == {0, 1, 2}
    assert names["z"].shape == (120, 8)

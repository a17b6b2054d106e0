"""The code on the papers' pages runs as it stands."""

import re
from pathlib import Path

import torch

from holonomy.manifolds.linalg import gram_gap

PAGES = Path(__file__).parents[3] / "docs" / "papers"


def run(page: str) -> dict:
    (code,) = re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    return names


def test_the_model_of_manifold_linearizing_groups_and_embeds() -> None:
    names = run("manifold_linearizing.md")
    assert names["labels"].shape == (120,)
    assert set(names["labels"]) == {0, 1, 2}
    assert names["z"].shape == (120, 8)


def test_the_denoiser_of_mixtures_learns_and_samples() -> None:
    torch.manual_seed(1)  # a start that reaches the best fit, as most do
    names = run("molrg_diffusion.md")
    assert gram_gap(names["net"].bases) < 1e-6
    assert names["error"] < 0.5
    assert names["new"].shape == (5, 24)
    assert int(names["rank"]) == 3

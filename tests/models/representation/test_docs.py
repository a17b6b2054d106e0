"""The code on the papers' pages runs as it stands."""

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


def test_the_pages_generator_has_four_directions_of_strength_one() -> None:
    page = PAGE.with_name("householder_projector.md")
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    values = torch.linalg.svdvals(names["generator"].affine.weight.detach())
    torch.testing.assert_close(values[:5], torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert names["before"].shape == names["after"].shape == (4, 16)
    assert names["images"].shape == (3, 8, 64)


def test_the_pages_models_are_joined() -> None:
    page = PAGE.with_name("relative.md")
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["outputs"].shape == (8, 3)
    assert set(names["likeness"]) == {"jaccard", "mrr", "cosine"}


def test_the_pages_embedding_is_truncated_searched_and_classified() -> None:
    page = PAGE.with_name("matryoshka.md")
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["small"].shape == (256, 8)
    assert names["rows"].shape == (5, 10)
    assert set(names["dims_used"].tolist()) <= {4, 8, 16, 32}
    assert all(p.grad is not None for p in names["encoder"].parameters())


def test_the_pages_stages_are_compared() -> None:
    page = PAGE.with_name("stationary.md")
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["matrix"].shape == (2, 2)
    assert names["share"] in (0.0, 1.0)
    assert len(names["trainer"].memory[1]) == 60

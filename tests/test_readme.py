"""What the README shows works as it stands."""

import re
from pathlib import Path

import torch

from holonomy import manifolds
from holonomy.catalogue import PAPERS
from holonomy.manifolds import Manifold

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs_and_its_comments_hold() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    bases = names["bases"]
    assert bases.grad is not None
    # float32 rounding of a 64 x 4 orthonormal basis after one step.
    torch.testing.assert_close(bases.mT @ bases, torch.eye(4).expand(10, 4, 4), atol=1e-5, rtol=0)
    assert names["u"].shape == (5, 2)


def test_the_tables_name_every_manifold_and_every_ready_paper() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    public = {
        name
        for name, value in vars(manifolds).items()
        if isinstance(value, type) and issubclass(value, Manifold) and value is not Manifold
    }
    assert rows == public | {paper.slug for paper in PAPERS if paper.ready}
    assert f"The other {sum(not paper.ready for paper in PAPERS)} of" in README


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)$", text, flags=re.MULTILINE) == ["lint", "test"]

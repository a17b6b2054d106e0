"""The example: its claims at a small size, their ablations, and what it draws."""

from pathlib import Path

import pytest

from holonomy.examples import deep_learning_theory as example
from holonomy.examples.harness import Options, execute

SMALL = example.Config(
    nets=2000,
    narrow_nets=4000,
    exact_nets=10_000,
    trained_width=128,
    trained=40,
    steps=100,
    probe=(16, 32, 64, 128),
    probe_nets=6,
    seeds=(0,),
)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    _, verdicts = execute(example, "deep_learning_theory", SMALL, Options(out=tmp_path))
    assert sum(verdict.claim.fails for verdict in verdicts) == 6
    for verdict in verdicts:
        assert verdict.holds, verdict
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {f"{n}.png" for n in ("collapse", "susceptibilities", "fluctuations", "criticality", "training")}


def test_full_is_the_book_s_scale() -> None:
    full = example.Config.full()
    assert max(full.collapse) == full.wide == 1024
    assert full.nets == 100_000
    assert full.trained == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 1}, "layers >= 2"),
        ({"narrow": 16}, "narrow = width/2"),
        ({"probe": (8, 16)}, "four widths"),
        ({"trained": 1}, "two trained"),
    ],
)
def test_bad_settings(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        example.Config(**options)

"""The example: claims and the ablations that fail them, tasks, models from scratch, a short run, CIFAR-100's path."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import stationary as example
from holonomy.examples.harness import Options, Report, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record

SHORT = example.Config(vertices=12, width=8, epochs=1, steps=3, shares=(0.1, 1.0), seeds=(0,))


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(example.Config(), log(tmp_path))
    assert [v for v in (claim.judge(report) for claim in example.CLAIMS) if not v.holds] == []
    # What the page says besides: the simplex alone is no more compatible in sequence than a learned classifier.
    assert report["simplex", "compatibility"].mean() <= report["ER", "compatibility"].mean()


def test_no_claim_of_gain_holds_where_all_arms_are_alike() -> None:
    flat = np.full((3, 3), 0.6).tolist()
    whole = dict.fromkeys(("fixed", "learned", "own vertices", "shuffled"), flat)
    arm = {"compatibility": 0.3, "accuracy": 0.6}
    names = ("old", "replaced")
    parts = {f"{kind}, {name}": 0.6 for kind in ("fixed", "learned") for name in names}
    arms = ("ER", "simplex", "HOC", "cross-entropy alone", "moving vertices")
    report = Report(
        {
            "independent": {0: Record(whole, 0.0)},
            "replaced": {0: Record(parts, 0.0)},
            **{name: {0: Record(dict(arm), 0.0)} for name in arms},
        }
    )
    holding = [claim.name for claim in example.CLAIMS if not claim.fails and claim.judge(report).holds]
    assert holding == [
        "from scratch, own gallery: fixed less learned",
        "in sequence, accuracy: HOC less ER",
        "replacement, fixed: accuracy less the old model's",
    ]


def test_short_run_measures_and_reports(tmp_path: Path) -> None:
    report, verdicts = execute(example, "stationary", SHORT, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["figures"]) == {"matrices.png", "sequence.png", "simplex.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in written["figures"])
    assert report["independent", "fixed"].shape == (1, 2, 2)
    assert report["HOC", "matrix"].shape == (1, 4, 4)
    assert report["view", "features"].shape == (1, 2, 200, 3)


def test_tasks_have_the_classes_in_turn(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    assert example.groups(example.Config(), task) == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]
    assert example.groups(replace(SHORT, first=5, more=4), task) == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert (len(task.train[0]), len(task.test[0])) == (1200, 597)


def test_models_from_scratch_repeat_and_see_their_share(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    first, again, other = (example.from_scratch(SHORT, task, seed, True) for seed in (1, 1, 2))
    for p, q in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.allclose(first[0][0].weight, other[0][0].weight, atol=1e-3)
    assert torch.equal(first[1].weight, other[1].weight)
    # Of classes with fewer than ten samples a tenth is still one: no class is left without.
    few = example.Task((task.train[0][:40], task.train[1][:40]), task.test)
    assert example.from_scratch(SHORT, few, 0, False, 0.1)[1].seen == few.classes


def test_the_learned_classifier_leaves_out_classes_that_were_not_seen(tmp_path: Path) -> None:
    head = example.LearnedClassifier(5, 10)
    head.seen = 4
    assert head(torch.randn(3, 5))["logits"].shape == (3, 4)
    task = example.load(SHORT, log(tmp_path))
    models = example.in_sequence(SHORT, task, 0, False, None)
    assert [model[1].seen for model in models] == [4, 6, 8, 10]


def test_moving_vertices_are_others_in_every_task(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    maps = [model[1].class_map.tolist() for model in example.in_sequence(SHORT, task, 0, True, None, moving=True)]
    assert len({tuple(m) for m in maps}) == 4
    still = [model[1].class_map.tolist() for model in example.in_sequence(SHORT, task, 0, True, None)]
    assert all(m == list(range(12)) for m in still)


def test_cifar_100_runs_in_miniature(tmp_path: Path) -> None:
    (own := tmp_path / "cifar-100-binary").mkdir()
    rng = np.random.default_rng(0)
    for file in ("train.bin", "test.bin"):
        rows = rng.integers(0, 256, (40, 3074), dtype=np.uint8)
        rows[:, :2] = (np.arange(40) % 5)[:, None]
        rows.tofile(own / file)
    (out := tmp_path / "state").mkdir()
    config = replace(SHORT, dataset="cifar100", width=2, first=2, more=2, batch_size=8, memory=2)
    # oneDNN's convolutions (torch 2.13) corrupt the heap for networks as small as this on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        report = example.run(config, log(out, tmp_path))
    assert report["HOC", "matrix"].shape == (1, 3, 3)
    assert np.isfinite([claim.judge(report).mean for claim in example.CLAIMS]).all()


def test_full_scale_and_bad_settings(tmp_path: Path) -> None:
    full = example.Config.full()
    assert (full.vertices, full.first, full.more, full.memory, full.epochs, full.tune) == (1024, 10, 15, 20, 70, 1e-3)
    with pytest.raises(ValueError, match="lam from 0 to 1"):
        example.Config(lam=2.0)
    with pytest.raises(ValueError, match="shares must be two at least"):
        example.Config(shares=(1.0,))
    with pytest.raises(ValueError, match="vertices must be at least the number of classes, 10, got 4"):
        example.run(replace(SHORT, vertices=4), log(tmp_path))

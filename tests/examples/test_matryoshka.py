"""The example: claims and the ablations that fail them, pairs of digits, a short run, folders in miniature."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import matryoshka as example
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Options, Report, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record
from holonomy.models.architectures.resnet_d import ResNetD

SHORT = example.Config(dim=16, smallest=2, width=8, pairs=300, tests=200, epochs=1, shortlist=20, seeds=(0,))


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(example.Config(), log(tmp_path))
    assert [v for v in (claim.judge(report) for claim in example.CLAIMS) if not v.holds] == []
    # What the page says besides: at the smallest size an embedding of its own is better than a prefix.
    assert report["FF", "nearest"][:, 0].mean() > report["MRL", "nearest"][:, 0].mean()
    assert report["without labels", "nested"][0, 0] > report["without labels", "largest alone"][0, 0] + 0.1


def test_no_claim_of_gain_holds_where_nothing_is_nested() -> None:
    same = [0.5, 0.5, 0.5, 0.5]
    whole = {"sizes": [4, 8, 16, 32], "linear": same, "nearest": same, "between": [0.2], "cascade, less full": -0.1}
    whole |= {"cascade, share of coordinates": 1.0, "map, shortlist, less exact": -0.5, "work, shortlist": 1.0}
    names = ("linear", "nearest", "nearest, components", "nearest, random")
    report = Report({"MRL": {0: Record(whole, 0.0)}, "FF": {0: Record(dict.fromkeys(names, same), 0.0)}})
    holding = [claim.name for claim in example.CLAIMS if not claim.fails and claim.judge(report).holds]
    assert holding == [
        "linear from the second size on: least of MRL less FF",
        "linear at full size: MRL less FF",
    ]


def test_short_run_measures_and_reports(tmp_path: Path) -> None:
    report, verdicts = execute(example, "matryoshka", SHORT, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["figures"]) == {"sizes.png", "cascade.png", "retrieval.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in written["figures"])
    assert report["MRL", "sizes"].tolist() == [[2, 4, 8, 16]]
    assert report["FF", "nearest, components"].shape == (1, 4)
    # All coordinates are the same whatever their order, or however they are turned.
    for name in ("random", "rotation", "prefixes"):
        assert report["FF", f"nearest, {name}"][0, -1] == pytest.approx(report["FF", "nearest"][0, -1], abs=0.011)
    assert report["MRL", "cascade, share of coordinates, at once"][0] == 2 / 16


def test_pairs_have_digits_of_their_own_and_both_classes(tmp_path: Path) -> None:
    task = example.load(example.Config(), log(tmp_path))
    everything = torch.arange(100)
    x, y = task.train.draw(everything, None), task.train.labels[everything]
    assert (x.shape, len(task.train.labels), len(task.test.labels)) == ((100, 128), 6000, 1500)
    halves = x.view(100, 8, 2, 8)
    single = {}
    for i in range(100):
        for side, label in ((0, int(y[i]) // 10), (1, int(y[i]) % 10)):
            key = halves[i, :, side].flatten().numpy().tobytes()
            assert single.setdefault(key, label) == label  # the same image has the same class on either side
    parts = (task.train, task.held, task.test)
    images = [
        {row.numpy().tobytes() for row in part.draw(torch.arange(len(part.labels)), None).view(-1, 8, 2, 8)[:, :, 0]}
        for part in parts
    ]
    assert not images[0] & images[1]
    assert not images[0] & images[2]
    assert not images[1] & images[2]


def test_few_shot_accuracy_is_that_of_class_means(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    index = torch.nn.functional.one_hot(task.train.labels, 100).float()
    z = torch.nn.functional.one_hot(task.test.labels, 100).float()
    known = set(task.train.labels.tolist())
    share = np.mean([int(label) in known for label in task.test.labels])
    assert example.few_shot(SHORT, z, index, task, [100])[0] == pytest.approx(share, abs=1 / 99)


def test_cifar_100_runs_in_miniature(tmp_path: Path) -> None:
    (own := tmp_path / "cifar-100-binary").mkdir()
    rng = np.random.default_rng(0)
    for file in ("train.bin", "test.bin"):
        rows = rng.integers(0, 256, (60, 3074), dtype=np.uint8)
        rows[:, :2] = (np.arange(60) % 3)[:, None]
        rows.tofile(own / file)
    (out := tmp_path / "state").mkdir()
    config = replace(SHORT, dataset="cifar100", width=2, batch_size=30, shortlist=10)
    # oneDNN's convolutions (torch 2.13) corrupt the heap for networks as small as this on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        report = example.run(config, log(out, tmp_path))
    assert np.isfinite([claim.judge(report).mean for claim in example.CLAIMS]).all()


def test_folders_of_images_are_loaded_and_halved(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 4)):
        for name in ("cat", "dog"):
            (folder := tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image_module.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    config = replace(SHORT, dataset="imagenet")
    task = example.load(config, log(tmp_path, tmp_path))
    assert (len(task.train.labels), len(task.held.labels), len(task.test.labels), task.classes) == (4, 4, 4, 2)
    assert sorted([*task.held.labels.tolist(), *task.test.labels.tolist()]) == [0] * 4 + [1] * 4
    first, again = (task.held.draw(torch.tensor([1, 0]), None) for _ in range(2))
    assert first.shape == (2, 3, 224, 224)
    assert torch.equal(first, again)
    assert torch.equal(task.held.draw(torch.tensor([0]), None)[0], first[1])
    with pytest.raises(DataError, match="--data must name a folder with train/CLASS"):
        example.load(config, log(tmp_path))


def test_full_scale_is_the_papers() -> None:
    full = example.Config.full()
    assert full.nesting == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert (full.dataset, full.epochs, full.shortlist) == ("imagenet", 40, 200)
    with torch.device("meta"):
        assert isinstance(example.backbone(full, 2048), ResNetD)
        assert example.backbone(full, 64)(torch.empty(1, 3, 224, 224)).shape == (1, 64)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="dim must be at least 4 times smallest"):
        example.Config(dim=8)
    with pytest.raises(ValueError, match="shortlist must be at least 10, got 5"):
        example.Config(shortlist=5)

"""The example: claims and the ablations that fail them, augmentations, a short run, CIFAR's path in miniature."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import manifold_linearizing as example
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Options, Report, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record

SHORT = example.Config(init_epochs=1, epochs=2, seeds=(0,))
TINY = example.Config(
    dataset="cifar10", d=6, n_hidden=8, width=2, init_epochs=1, init_batch_size=30, epochs=1, batch_size=60, seeds=(0,)
)


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(example.Config(), log(tmp_path))
    verdicts = [claim.judge(report) for claim in example.CLAIMS]
    assert [v for v in verdicts if not v.holds] == []
    assert report["detached membership", "cluster gradient by epoch"].max() == 0.0
    assert report["MLC", "cluster gradient by epoch"].min() > 0.0


def test_no_claim_of_gain_holds_where_the_second_stage_does_nothing() -> None:
    names = ("accuracy", "nmi", "rank", "class rank", "between")
    same = dict.fromkeys(names, 0.8) | {f"{name}, before": 0.8 for name in names}
    same |= {"k-means of pixels": 0.8, "dimension": 32, "R by epoch": [9.0, 8.0], "R_c by epoch": [3.0, 3.5]}
    stub = Report({name: {0: Record(dict(same), 0.0)} for name in ("MLC",)})
    holding = [c.name for c in example.CLAIMS if not c.fails and c.judge(stub).holds]
    assert holding == ["mutual information, MLC less first stage, worst seed"]


@pytest.mark.slow
def test_short_run_measures_draws_and_reports(tmp_path: Path) -> None:
    report, verdicts = execute(example, "manifold_linearizing", SHORT, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["figures"]) == {"rates.png", "ranks.png", "matrices.png", "accuracy.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in written["figures"])
    assert report["MLC", "membership of some"].shape == (1, 100, 100)
    for arm in ("k-means", "SSC-OMP", "elastic net"):
        for points in ("pixels", "features, before", "features"):
            assert 0.1 <= report["MLC", f"{arm} of {points}"][0] <= 1.0
    assert report["MLC", "class rank by epoch"].shape == (1, 2)


@pytest.mark.parametrize("augment", [example.distort, example.crop_and_colour])
def test_augmentations_follow_the_generator(augment) -> None:
    x = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first, again, other = (augment(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 0.01
    assert float((first - x).abs().mean()) > 0.01


def test_distortion_stays_close_and_grey_is_grey() -> None:
    x = torch.zeros(400, 1, 8, 8)
    x[:, :, 3:5, 3:5] = 1.0
    y = example.distort(x, torch.Generator().manual_seed(0))
    # A shift by a pixel and a tenth of shear keep what is in the middle within the 6 x 6 pixels around it.
    assert float(y[:, :, 1:7, 1:7].sum() / y.sum()) > 0.98
    total = y.sum((1, 2, 3)).mean()
    assert float(total) == pytest.approx(4.0, rel=0.1)  # intensity and area are 1 in the mean, but for their squares
    colours = example.crop_and_colour(torch.rand(500, 3, 8, 8), torch.Generator().manual_seed(0))
    grey = (colours - colours.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    assert float(grey.float().mean()) == pytest.approx(0.2, abs=0.06)  # three deviations of 500 draws
    assert 0.0 <= float(colours.min()) <= float(colours.max()) <= 1.0


def test_half_of_every_odd_class_is_left_out() -> None:
    y = torch.tensor([0, 1, 1, 0, 1, 3, 3, 2, 1])
    x, kept = example.without_half_of_odd(torch.arange(9).float(), y)
    assert kept.tolist() == [0, 1, 0, 1, 3, 2]
    assert x.tolist() == [0.0, 1.0, 3.0, 4.0, 5.0, 7.0]


def write_cifar(folder: Path, name: str, count: int) -> None:
    files = {
        "cifar-10-batches-bin": (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
        "cifar-100-binary": ("train.bin", "test.bin"),
    }[name]
    (own := folder / name).mkdir()
    rng = np.random.default_rng(0)
    labels = 1 if name == "cifar-10-batches-bin" else 2
    for file in files:
        rows = rng.integers(0, 256, (count, labels + 3072), dtype=np.uint8)
        rows[:, :labels] = (np.arange(count) % 3)[:, None] * np.arange(1, labels + 1)  # fine label is twice the coarse
        rows.tofile(own / file)


@pytest.mark.parametrize(("dataset", "neighbours"), [("cifar10", 0), ("cifar10", 15), ("cifar20", 0), ("cifar100", 0)])
def test_cifar_path_runs_in_miniature(tmp_path: Path, dataset, neighbours: int) -> None:
    many = dataset == "cifar10"
    write_cifar(tmp_path, "cifar-10-batches-bin" if many else "cifar-100-binary", 20 if many else 60)
    (out := tmp_path / "state").mkdir()
    # oneDNN's convolutions (torch 2.13) corrupt the heap for networks as small as this on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        report = example.run(replace(TINY, dataset=dataset, neighbours=neighbours), log(out, tmp_path))
    assert set(report.trials) >= {"MLC", "large eta", "soft clusters", "imbalanced"}
    assert 1 / 3 <= report["MLC", "accuracy"][0] <= 1.0
    assert np.isfinite([claim.judge(report).mean for claim in example.CLAIMS]).all()


@pytest.mark.parametrize(("dataset", "labels"), [("cifar20", [0, 1, 2]), ("cifar100", [0, 2, 4])])
def test_cifar_100_has_coarse_and_fine_labels(tmp_path: Path, dataset, labels: list[int]) -> None:
    write_cifar(tmp_path, "cifar-100-binary", 6)
    assert example.load(replace(TINY, dataset=dataset), log(tmp_path, tmp_path))[1].unique().tolist() == labels


def test_full_scale_is_the_papers() -> None:
    full = example.Config.full()
    assert (full.dataset, full.d, full.width, full.n_augment) == ("cifar10", 128, 64, 2)
    assert full.init_epochs >= 500
    assert full.neighbours > 0


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 2, got 1"):
        example.Config(batch_size=1)
    with pytest.raises(ValueError, match=r"eta must be positive, got 0\.0"):
        example.Config(eta=0.0)
    with pytest.raises(DataError, match="--data must name the folder cifar-10-batches-bin"):
        example.load(TINY, log(tmp_path))

"""The example: claims and the ablations that fail them, pairs and orders, a short run, CLIP's path in miniature."""

import csv
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holonomy.examples import geodesic_mixup as example
from holonomy.examples.data.captions import load_captions
from holonomy.examples.errors import DataError, MissingPackageError
from holonomy.examples.harness import Options, Report, Trial, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record
from holonomy.models.adaptation.geodesic_mixup import clip_contrastive_loss, modality_gap

SHORT = example.Config(width=8, dim=6, pretrain=2, epochs=1, batch_size=64, seeds=(0,))


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> example.Task:
    return example.load(example.Config(), log(tmp_path_factory.mktemp("state")))


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(example.Config(), log(tmp_path))
    assert [v for v in (claim.judge(report) for claim in example.CLAIMS) if not v.holds] == []
    # What the page says besides: pooled uniformity is worse, and temperature alone does not align as much.
    assert report["m2", "uniformity"].mean() > report["CLIP", "uniformity"].mean()
    assert report["m2", "alignment"].mean() < 0.75 * report["CLIP, tau2", "alignment"].mean()
    # Arcs and chords hardly differ.
    assert abs(np.mean(report["m2", "alignment"] - report["linear", "alignment"])) < 0.02


def test_no_claim_of_gain_holds_where_all_arms_are_alike() -> None:
    same = {"alignment": 1.0, "gap": 1.0, "relative alignment": 0.1, "R@1": 0.1}
    zero = dict.fromkeys(("lead", "lead, no gap", "excess", "excess, positive mixed"), -1e-6)
    arms = ("CLIP", "CLIP, tau2", "m2", "m3", "unmixed", "within a modality", "m3, shuffled pairs")
    report = Report({**{arm: {0: Record(dict(same), 0.0)} for arm in arms}, "pretrained": {0: Record(zero, 0.0)}})
    holding = [claim.name for claim in example.CLAIMS if not claim.fails and claim.judge(report).holds]
    assert holding == ["relative alignment, m3 less CLIP", "R@1, m3 less CLIP"]  # bounds on what may be lost


def test_short_run_measures_and_reports(tmp_path: Path) -> None:
    report, verdicts = execute(example, "geodesic_mixup", SHORT, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["figures"]) == {"sphere.png", "scatter.png", "lam.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in written["figures"])
    for arm in report.trials:
        for name in ("alignment", "gap", "R@1", "ece", "zero-shot", "arithmetic"):
            assert np.isfinite(report[arm, name]).all(), (arm, name)
    assert report["m2", "sphere"].shape == (1, 2, 150, 3)
    assert report["pretrained", "image half by lam"].shape == (1, 11)


def test_halves_are_pairs_and_towers_start_apart(task: example.Task) -> None:
    assert (task.train.count, task.test.count) == (1300, 497)
    left, right = task.train.batch(torch.arange(1300))
    assert left.shape == right.shape == (1300, 32)
    torch.testing.assert_close(left.mean(0), torch.zeros(32), atol=1e-5, rtol=0)
    towers = task.towers(0)
    assert float(modality_gap(*example.embed(towers, task.test, torch.device("cpu")))) > 1.8
    again, other = task.towers(0), task.towers(1)
    assert all(torch.equal(p, q) for p, q in zip(towers.parameters(), again.parameters(), strict=True))
    assert not torch.allclose(towers.image[0].weight, other.image[0].weight, atol=1e-3)
    flat = example.pretrained(replace(example.Config(), shift=0.0), task.train, 0)
    assert float(modality_gap(*example.embed(flat, task.test, torch.device("cpu")))) < 1.5


def test_arms_of_a_seed_see_the_same_batches_and_resume_within_them() -> None:
    whole = list(example.orders(3, 2, 50, 16, 4))
    assert [epoch for epoch, _ in whole] == [e for e in range(4) for _ in range(3)]  # the last two are left out
    assert all(len(index.unique()) == 16 for _, index in whole)
    for start in (1, 3, 7):
        for (e, i), (f, j) in zip(example.orders(3, 2, 50, 16, 4, start), whole[start:], strict=True):
            assert e == f
            assert torch.equal(i, j)
    assert not torch.equal(whole[0][1], next(example.orders(4, 2, 50, 16, 4))[1])
    # Starts, orders and draws of lam have numbers of their own.
    uses = [(0,), *((what, epoch) for what in (1, 2) for epoch in range(3)), (3,)]
    assert len({example.stream(seed, *use).initial_seed() for seed in range(2) for use in uses}) == 2 * len(uses)


def test_a_run_that_was_cut_off_ends_with_the_numbers_of_a_whole_one(tmp_path: Path, task: example.Task) -> None:
    config = replace(example.Config(), epochs=2, cosine=True, seeds=(0,))

    def train(folder: Path, stop: int | None) -> list[float]:
        folder.mkdir(exist_ok=True)
        steps = iter(range(stop or 10**9))

        def make(trial: Trial) -> example.Loss:
            plain = example.mixed(config, trial, "m2", "v")

            def loss(image: Tensor, text: Tensor, epoch: int) -> Tensor:
                if next(steps, None) is None:
                    raise KeyboardInterrupt
                return plain(image, text, epoch)

            return loss

        own = Log(torch.device("cpu"), folder, checkpoint_every=3)
        arm = partial(example.after, config=config, task=task, make=make)
        return own.sweep({"m2": arm}, (0,))["m2", "alignment"].tolist()

    whole = train(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 14)
    assert train(tmp_path / "cut", None) == whole
    assert train(tmp_path / "whole", 1) == whole  # what is finished is read


def test_the_rate_warms_up_and_falls() -> None:
    assert [example._rate(False, 100, k) for k in (0, 50, 99)] == [1.0, 1.0, 1.0]
    rates = [example._rate(True, 100, k) for k in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_unmixed_negatives_are_mixed_ones_that_stay_with_the_other_modality(task: example.Task) -> None:
    image, text = example.embed(task.towers(0), task.test, torch.device("cpu"), 40)
    config = example.Config(m2=0.3)
    clip = clip_contrastive_loss(image, text, config.tau)
    wanted = clip + 0.6 * clip_contrastive_loss(image, text, config.tau_mix)
    torch.testing.assert_close(example.unmixed(config, image, text, 5), wanted)
    falling = example.unmixed(replace(config, falling=True), image, text, 5)
    torch.testing.assert_close(falling - clip, (wanted - clip) / 6)


def test_images_are_classified_and_edited_by_texts_of_classes() -> None:
    centres = torch.eye(4)
    y = torch.arange(40) % 4
    pairs = example.tensor_pairs(centres[y], centres[y], y)
    found = example.by_classes(example.Task(pairs, pairs, lambda _: nn.Identity()), centres[y], centres[y], 0.01)
    assert found["zero-shot"] == 1.0
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    assert found["arithmetic"] == 1.0
    turned = example.by_classes(
        example.Task(pairs, pairs, lambda _: nn.Identity()), centres[y], centres[(y + 1) % 4], 0.01
    )
    assert turned["zero-shot"] == 0.0
    assert turned["ece"] == pytest.approx(1.0, abs=1e-6)


class TinyClip(nn.Module):
    """Two linear towers with open_clip's names."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.image_size = (12, 12)
        self.visual.proj = nn.Linear(3 * 12 * 12, 8)
        self.words = nn.Embedding(64, 8)

    def encode_image(self, x: Tensor) -> Tensor:
        return self.visual.proj(x.flatten(1))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.words(tokens).mean(1)


def write_folder(folder: Path, form: str) -> None:
    from PIL import Image
    from safetensors.torch import save_file

    (folder / "images").mkdir()
    torch.manual_seed(0)
    save_file(TinyClip().state_dict(), folder / "clip.safetensors")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(14):
        name, split = f"{i}.png", ("train", "test", "restval")[0 if i < 6 else 1 if i < 11 else 2]
        Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(folder / "images" / name)
        rows += [(name, f"picture {i}, {k}", split) for k in range(2)]
    if form == "csv":
        with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption", "split"), *rows])
    else:
        entries = [
            {"filename": name, "split": split, "sentences": [{"raw": raw} for n, raw, _ in rows if n == name]}
            for name, _, split in rows[::2]
        ]
        (folder / "dataset.json").write_text(json.dumps({"images": entries}), encoding="utf-8")


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for open_clip, which the library does not depend on; the names that it was asked for."""
    asked: list[str] = []
    module = ModuleType("open_clip")

    def create_model(name: str, pretrained: str | None = None, precision: str = "fp32") -> nn.Module:
        assert pretrained is None
        assert precision == "fp32"
        asked.append(name)
        return TinyClip()

    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor([[ord(letter) % 64 for letter in text.ljust(16)[:16]] for text in texts])

    module.create_model = create_model  # type: ignore[attr-defined]
    module.get_tokenizer = lambda name: tokenize  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return asked


@pytest.mark.parametrize("form", ["csv", "json"])
def test_clip_on_captioned_images_runs_in_miniature(tmp_path: Path, open_clip: list[str], form: str) -> None:
    write_folder(tmp_path, form)
    (out := tmp_path / "state").mkdir()
    config = replace(example.Config.full(), epochs=2, batch_size=4, seeds=(0,))
    report = example.run(config, log(out, tmp_path))
    assert set(open_clip) == {"ViT-B-32-quickgelu"}
    assert np.isfinite([claim.judge(report).mean for claim in example.CLAIMS]).all()
    assert "ece" not in report.trials["m2"][0].measurements  # there are no classes
    # Every arm starts from the file's weights.
    task = example.load(config, log(out, tmp_path))
    first, second = (task.towers(seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(example.plot(report)) == {"sphere", "scatter", "lam"}


@pytest.mark.parametrize("form", ["csv", "json"])
def test_of_several_captions_the_first_is_read(tmp_path: Path, form: str) -> None:
    write_folder(tmp_path, form)
    splits = load_captions(tmp_path)
    assert (len(splits["train"]), len(splits["test"])) == (9, 5)  # restval is trained on
    assert splits["test"].captions[0] == "picture 6, 0"
    assert splits["test"].files[0].name == "6.png"
    images = splits["test"].images(torch.tensor([0, 2]), 12)
    assert images.shape == (2, 3, 12, 12)
    assert -2.0 < float(images.min()) < float(images.max()) < 3.0


def test_bad_folders_are_refused(tmp_path: Path, open_clip: list[str]) -> None:
    with pytest.raises(DataError, match="must name a folder with images"):
        load_captions(None)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"neither dataset.json nor captions.csv"):
        load_captions(tmp_path)
    (tmp_path / "images").rmdir()
    write_folder(tmp_path, "csv")
    text = (tmp_path / "captions.csv").read_text(encoding="utf-8")
    for changed, error in (
        (text.replace("caption,split", "text,split"), "cannot be read: KeyError"),
        (text.replace("test", "val"), "0 captioned images of split 'test'"),
        (text.replace("6.png", "66.png"), "1 images that captions name are not there"),
    ):
        (tmp_path / "captions.csv").write_text(changed, encoding="utf-8")
        with pytest.raises(DataError, match=error):
            load_captions(tmp_path)
    (tmp_path / "captions.csv").write_text(text, encoding="utf-8")
    from safetensors.torch import save_file

    config = replace(example.Config.full(), batch_size=4, seeds=(0,))
    save_file({"other": torch.zeros(2)}, tmp_path / "clip.safetensors")
    with pytest.raises(DataError, match="does not fit open_clip's ViT-B-32"):
        example.load(config, log(tmp_path, tmp_path))
    (tmp_path / "clip.safetensors").unlink()
    with pytest.raises(DataError, match=r"clip.safetensors is not there"):
        example.load(config, log(tmp_path, tmp_path))
    (tmp_path / "state").mkdir()
    with pytest.raises(DataError, match="at least batch_size = 2000 pairs"):
        example.run(replace(SHORT, batch_size=2000), log(tmp_path / "state"))


def test_open_clip_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)  # what importing an absent package comes to
    write_folder(tmp_path, "json")
    with pytest.raises(MissingPackageError, match="pip install open_clip_torch"):
        example.load(example.Config.full(), log(tmp_path, tmp_path))


def test_full_scale_and_bad_settings() -> None:
    full = example.Config.full()
    assert (full.batch_size, full.epochs, full.tau, full.tau_mix, full.m2, full.falling) == (
        128,
        9,
        0.01,
        0.07,
        0.01,
        True,
    )
    for settings, error in (
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"tau": 0.0}, "tau must be positive"),
        ({"alpha_m2": -1.0}, "alpha_m2 must be positive"),
        ({"vl": -0.1}, "vl must be at least 0"),
    ):
        with pytest.raises(ValueError, match=error):
            example.Config(**settings)

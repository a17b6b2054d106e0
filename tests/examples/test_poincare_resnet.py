"""The example: what it measures without training, its ablations, a short run, and CIFAR's own path in miniature."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from holonomy.examples import poincare_resnet as example
from holonomy.examples.data.cifar import load_cifar, load_outside
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.split import Labelled
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Options, Report, Trial, execute
from holonomy.examples.harness.report import Record, plain


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What needs no training, for two seeds."""
    folder = tmp_path_factory.mktemp("trials")
    measures = {
        "norms": example.measure_norms,
        "midpoint": example.measure_midpoint,
        "backward": example.measure_backward,
    }
    trials: dict[str, dict[int, Record]] = {}
    for name, measure in measures.items():
        for seed in (0, 1):
            trial = Trial(name, seed, torch.device("cpu"), folder / name, lambda share: None)
            trials.setdefault(name, {})[seed] = Record(plain(measure(trial)), 0.0)
    return Report(trials)


def claim(name: str) -> example.Claim:
    (found,) = (c for c in example.CLAIMS if c.name == name)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "20 linear layers keep norms: |ratio - 1|",
        "ablation, HNN++ init: |ratio - 1|",
        "20 linear layers under HNN++ init: norm ratio",
        "20 convolutions keep norms: ratio",
        "ablation, HNN++ init: ratio",
        "20 convolutions under HNN++ init: ratio",
        "20 convolutions under the published identity: ratio",
        "variance about the midpoint over Fréchet's",
        "ablation, mean of tangents at the origin",
        "bytes for backward over autograd's",
        "graph nodes over autograd's",
        "ablation, autograd through the same formulas: bytes",
    ],
)
def test_claims_that_need_no_training_hold_and_their_ablations_fail(measured: Report, name: str) -> None:
    verdict = claim(name).judge(measured)
    assert verdict.holds, verdict


def test_no_claim_holds_for_a_network_that_guesses() -> None:
    guess = {"accuracy": 0.1, "curve": [0.1] * 6}
    stub = Report({name: {0: Record(guess, 1.0)} for name in ("poincare", "euclidean", "frechet")})
    stub.trials["euclidean"][0] = Record({"accuracy": 0.96, "curve": [0.96] * 6}, 1.0)
    for name in ("test accuracy", "Euclidean twin's lead in accuracy"):
        assert not claim(name).judge(stub).holds, name


@pytest.mark.slow
def test_accuracy_claim_fails_on_shuffled_labels(tmp_path: Path) -> None:
    config = example.Config()
    data = example.normalise(load_digits())
    x, y = data.train
    shuffled = Labelled((x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]), data.test, 10)
    trial = Trial("poincare", 0, torch.device("cpu"), tmp_path / "trial", lambda share: None)
    result = example.train(trial, config, shuffled, example.poincare, config.epochs)
    assert not claim("test accuracy").judge(Report({"poincare": {0: Record(plain(result), 0.0)}})).holds


def test_norm_claim_fails_when_the_compensation_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from holonomy.models.architectures.poincare_resnet import layers

    # Half a Dirac kernel without the inverse of the patch scaling: norms shrink by a third a layer.
    monkeypatch.setattr(layers, "beta_ratio", lambda inputs, outputs: 1.0)
    plain_dirac = layers.PoincareConv2d(8, 8, 3, 1, 1, ball=layers.PoincareBall(c=0.1), dtype=torch.float64)
    monkeypatch.undo()
    plain_dirac.gain = layers.beta_ratio(8, 72)
    ratios = example.norm_ratios([plain_dirac] * example.LAYERS, 0.1 * torch.randn(2, 8, 8, 8, dtype=torch.float64))
    assert ratios[-1] < 1e-3


def test_crops_and_flips_are_windows_of_the_padded_image() -> None:
    x = torch.rand(6, 2, 5, 4)
    y = example.crop_and_flip(x, torch.Generator().manual_seed(0), pad=2)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=-1.0)
    windows = padded.unfold(2, 5, 1).unfold(3, 4, 1)
    for i in range(6):
        kinds = [windows[i, :, a, b] for a in range(5) for b in range(5)]
        assert any(torch.equal(y[i], w) or torch.equal(y[i], w.flip(-1)) for w in kinds)
    assert torch.equal(y, example.crop_and_flip(x, torch.Generator().manual_seed(0), pad=2))


@pytest.mark.slow
def test_short_run_measures_draws_and_reports(tmp_path: Path) -> None:
    config = example.Config(epochs=1, short_epochs=1, channels=(2, 3, 4), batch_size=256, seeds=(0,))
    report, verdicts = execute(example, "poincare_resnet", config, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    figures = {"norms.png", "accuracy.png", "cost.png", "robustness.png", "unseen.png"}
    assert set(written["figures"]) == figures
    assert all((tmp_path / name).stat().st_size > 10_000 for name in figures)
    for name in ("poincare, 8 digits", "euclidean, 8 digits"):
        for score in ("max-softmax", "energy", "distance to the origin"):
            for metric in ("auroc", "aupr", "fpr95"):
                assert 0.0 <= report[name, f"unseen digits {score} {metric}"][0] <= 1.0
    assert report["poincare", "fgsm"].shape == report["poincare", "pgd"].shape == (1, len(example.EPSILONS))


def write_cifar(folder: Path, name: str, count: int) -> None:
    rng = np.random.default_rng(0)
    inner, label_bytes, classes = {
        "cifar10": ("cifar-10-batches-bin", 1, 10),
        "cifar100": ("cifar-100-binary", 2, 100),
    }[name]
    files = ["train.bin", "test.bin"]
    if name == "cifar10":
        files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    (folder / inner).mkdir()
    for file in files:
        rows = rng.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
        rows[:, :label_bytes] = rng.integers(0, classes, (count, label_bytes))
        rows[0, label_bytes - 1] = classes - 1
        rows.tofile(folder / inner / file)


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    write_cifar(folder, "cifar10", 8)
    write_cifar(folder, "cifar100", 12)
    rng = np.random.default_rng(1)
    (folder / "svhn").mkdir()
    savemat(folder / "svhn" / "test_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)})
    (folder / "dtd" / "images" / "dotted").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / "dtd/images/dotted/one.jpg")
    return folder


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_records_are_read_channel_by_channel(miniature: Path, name: str) -> None:
    data = load_cifar(miniature, name)
    assert data.train[0].shape == ((40, 3, 32, 32) if name == "cifar10" else (12, 3, 32, 32))
    inner = miniature / ("cifar-10-batches-bin" if name == "cifar10" else "cifar-100-binary")
    file, skip = ("data_batch_1.bin", 1) if name == "cifar10" else ("train.bin", 2)
    row = np.fromfile(inner / file, dtype=np.uint8)[: skip + 3072]
    assert int(data.train[1][0]) == row[skip - 1]
    # the format: 1,024 bytes of red, then green, then blue, each by rows
    assert float(data.train[0][0, 1, 2, 3]) == pytest.approx(row[skip + 1024 + 2 * 32 + 3] / 255)
    same = load_cifar(inner, name)
    assert torch.equal(same.test[0], data.test[0])


def test_outside_images_are_read(miniature: Path) -> None:
    for folder in (miniature, miniature / "cifar-10-batches-bin"):
        found = load_outside(folder)
        assert {name: tuple(x.shape) for name, x in found.items()} == {
            "svhn": (5, 3, 32, 32),
            "textures": (1, 3, 32, 32),
        }
        assert all(0.0 <= float(x.min()) <= float(x.max()) <= 1.0 for x in found.values())


def test_full_scale_is_the_papers() -> None:
    config = example.Config.full()
    assert (config.dataset, config.channels, config.depth, config.epochs) == ("cifar10", (8, 16, 32), 20, 100)
    assert (config.lr, config.weight_decay, config.batch_size, config.augment) == (1e-3, 1e-4, 128, True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_path_runs_in_miniature(miniature: Path, tmp_path: Path, name: str) -> None:
    config = example.Config(
        dataset=name, channels=(2, 2, 2), depth=8, epochs=1, short_epochs=1, batch_size=20, augment=True, seeds=(0,)
    )
    options = Options(out=tmp_path / "out", device="cpu", data=miniature)
    # oneDNN's convolutions (torch 2.13) corrupt the heap for networks as small as this on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        report, _ = execute(example, "poincare_resnet", config, options)
    for outside in ("svhn", "textures"):
        assert 0.0 <= report["poincare", f"{outside} energy auroc"][0] <= 1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "cifar-10-batches-bin" / "data_batch_3.bin").unlink(),
            "data_batch_3.bin is not there",
        ),
        (lambda folder: (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"12"), "has 2 bytes"),
        (
            lambda folder: (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"\xff" * 3073),
            "label 255, wanted labels below 10",
        ),
    ],
)
def test_broken_cifar_is_refused(miniature: Path, spoil, message: str) -> None:
    spoil(miniature)
    with pytest.raises(DataError, match=message):
        load_cifar(miniature, "cifar10")


def test_missing_data_and_bad_settings_are_refused() -> None:
    with pytest.raises(DataError, match="--data must name the folder cifar-10-batches-bin"):
        load_cifar(None, "cifar10")
    with pytest.raises(ValueError, match="'depth' must be"):
        example.Config(depth=9)
    with pytest.raises(ValueError, match="short_epochs must be in"):
        example.Config(epochs=2, short_epochs=3)

"""The example: claims and the ablations that fail them, joins and alignments, a short run, CIFAR-100 and words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import relative as example
from holonomy.examples.data.words import load_word_vectors
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Options, Report, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record
from holonomy.manifolds.linalg import haar
from holonomy.models.representation.relative import RelativeModel

SHORT = example.Config(anchors=12, latent=4, width=8, models=2, epochs=1, sweep=(2, 4), seeds=(0,))


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(example.Config(), log(tmp_path))
    assert [v for v in (claim.judge(report) for claim in example.CLAIMS) if not v.holds] == []
    # What the page says besides: an alignment on the anchors does as well; principal axes do not.
    for arm, better in (("classifier", np.greater), ("autoencoder", np.less)):
        aligned, axes = (example.off_diagonal(report[arm, way]).mean() for way in ("rotation", "axes"))
        assert better(aligned, axes)


def test_no_claim_of_gain_holds_where_the_projection_does_nothing() -> None:
    scores = np.array([[0.9, 0.1], [0.1, 0.9]])
    names = ("absolute", "relative", "out of order")
    stub = {**{name: scores.tolist() for name in names}, **{f"mrr, {name}": 0.01 for name in names}, "variance": 0.07}
    report = Report(
        {
            "classifier": {0: Record(dict(stub), 0.0)},
            "autoencoder": {0: Record(dict(stub), 0.0)},
            "number of anchors": {0: Record({"own": [0.9]}, 0.0)},
        }
    )
    holding = [claim.name for claim in example.CLAIMS if not claim.fails and claim.judge(report).holds]
    assert holding == [
        "classifiers, absolute, joined: accuracy",
        "classifiers, own heads: relative less absolute",
    ]


def test_short_run_measures_and_reports(tmp_path: Path) -> None:
    report, verdicts = execute(example, "relative", SHORT, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["figures"]) == {"pairs.png", "planes.png", "anchors.png", "likeness.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in written["figures"])
    assert report["classifier", "relative"].shape == (1, 2, 2)
    assert report["autoencoder", "planes, relative"].shape == (1, 2, 300, 2)
    assert report["number of anchors", "counts"].tolist() == [[2, 4]]


def test_models_differ_in_start_order_and_activation_and_repeat(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    trial = type("Trial", (), {"device": torch.device("cpu"), "seed": 3})()
    first, again, other = (example.train_model(trial, SHORT, task, number, "classifier", None) for number in (0, 0, 1))
    for p, q in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.allclose(first.head[0].weight, other.head[0].weight, atol=1e-3)
    assert type(first.encoder[1]) is not type(other.encoder[1])
    assert (len(task.train[0]), len(task.test[0]), task.classes) == (1200, 597, 10)


def test_joins_of_turned_copies_are_exact_by_rotation_axes_or_projection(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    anchors = task.train[0][:40]
    q = haar((4, 4), torch.float32, None, torch.Generator().manual_seed(0))

    class Turned(torch.nn.Module):
        """An encoder whose latents are turned."""

        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x) @ q

    torch.manual_seed(0)
    encoder = example.make_encoder(SHORT, task.train[0], 0)
    head = torch.nn.Linear(4, 10)
    back = torch.nn.Linear(4, 10)
    back.load_state_dict({"weight": head.weight @ q, "bias": head.bias})
    plain = [example.Absolute(encoder, head), example.Absolute(Turned(encoder), back)]
    place = (task, "classifier", torch.device("cpu"), anchors)
    own = example.score(plain[0], task, "classifier", torch.device("cpu"))
    for way, gap in (("rotation", 0.0), ("nothing", 1.0)):
        scores = example.join(plain, *place, way)
        assert scores[0, 0] == pytest.approx(own)
        assert scores[1, 1] == pytest.approx(own)
        outputs = [example._through(plain[0], lambda e: e, plain[1], task.test[0]), plain[0](task.test[0])]
        assert (not torch.allclose(*outputs, atol=1e-3)) or way == "rotation"
        if gap == 0.0:
            np.testing.assert_allclose(scores, own, atol=0.005)  # a few samples lie on a boundary
    # Along principal axes signs are open: the map keeps every axis, one way or the other.
    latents = [model.encode(anchors).detach() for model in plain]
    mapped = example.by_axes(latents[0], latents[1])(latents[0])
    centred = [z - z.mean(0) for z in (mapped, latents[1])]
    axes = torch.linalg.svd(centred[1], full_matrices=False)[2]
    torch.testing.assert_close((centred[0] @ axes.mT).abs(), (centred[1] @ axes.mT).abs(), rtol=1e-3, atol=1e-3)
    relative_head = torch.nn.Linear(40, 10)
    both = [RelativeModel(e, relative_head, anchors).eval() for e in (encoder, Turned(encoder))]
    scores = example.join(both, *place, "nothing")
    np.testing.assert_allclose(scores, scores[0, 0], atol=0.005)


def test_pairs_are_those_off_the_diagonal() -> None:
    scores = np.array([[[1.0, 2.0], [4.0, 8.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert example.off_diagonal(scores).tolist() == [3.0, 1.0]


def write_folder(folder: Path) -> None:
    (own := folder / "cifar-100-binary").mkdir()
    rng = np.random.default_rng(0)
    for file in ("train.bin", "test.bin"):
        rows = rng.integers(0, 256, (24, 3074), dtype=np.uint8)
        rows[:, :2] = (np.arange(24) % 3)[:, None]
        rows.tofile(own / file)
    words = [f"w{i}" for i in range(40)]
    for name, turn in (("first.vec", 1.0), ("second.vec", -1.0)):
        vectors = turn * np.random.default_rng(1).standard_normal((40, 6))
        lines = [" ".join([word, *map(str, row)]) for word, row in zip(words, vectors, strict=True)]
        (folder / name).write_text("\n".join(["40 6", *lines]), encoding="utf-8")


def test_cifar_100_and_words_run_in_miniature(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (out := tmp_path / "state").mkdir()
    config = replace(SHORT, dataset="cifar100", width=2, batch_size=12, sweep=(2,))
    # oneDNN's convolutions (torch 2.13) corrupt the heap for networks as small as this on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        report = example.run(config, log(out, tmp_path))
    assert report["classifier", "relative"].shape == (1, 2, 2)
    assert np.isfinite([claim.judge(report).mean for claim in example.CLAIMS]).all()
    # Turned by -1: retrieval of absolute vectors fails, of relative ones it does not.
    assert report["words", "mrr, relative"][0] == pytest.approx(1.0)
    assert report["words", "mrr, absolute"][0] < 0.2
    assert report["words", "words"][0] == 40


def test_word_vectors_are_read_and_bad_files_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.vec"
    path.write_text("2 3\nking 1 2 3\nqueen 4 5 6.5\nking 7 8 9\n", encoding="utf-8")
    found = load_word_vectors(path)
    assert list(found) == ["king", "queen"]
    assert found["queen"].tolist() == [4.0, 5.0, 6.5]
    assert found["king"].tolist() == [1.0, 2.0, 3.0]
    assert list(load_word_vectors(path, 1)) == ["king"]
    for text, error in (
        ("king 1 x 3\n", "line 1: wanted a word and numbers"),
        ("king 1 2\nqueen 1\n", "line 2 has 1 numbers, wanted 2"),
        ("2 3\n", "has no word vectors"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=error):
            load_word_vectors(path)
    with pytest.raises(DataError, match="is not there"):
        load_word_vectors(tmp_path / "b.vec")


def test_full_scale_and_bad_settings() -> None:
    full = example.Config.full()
    assert (full.dataset, max(full.sweep), len(full.seeds)) == ("cifar100", 768, 5)
    with pytest.raises(ValueError, match="anchors must be at least 2, got 1"):
        example.Config(anchors=1)
    with pytest.raises(ValueError, match="sweep must not be empty"):
        example.Config(sweep=())
    with pytest.raises(ValueError, match="lr must be positive"):
        example.Config(lr=0.0)

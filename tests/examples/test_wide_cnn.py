"""The example: its claims at a small size, their ablations, its data, and what it draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import wide_cnn as example
from holonomy.examples.harness import Options, Report, Trial, execute
from holonomy.examples.harness.report import Record, plain

#: Half of the default's sizes: exponents differ by some hundredths.
SMALL = example.Config(sizes=(64, 128, 256, 512, 1024), window=128, trials=(3, 3, 3, 2, 2), tests=128, nets=20)


def trial(seed: int = 0) -> Trial:
    return Trial("any", seed, torch.device("cpu"), Path("unused"), lambda share: None)


@pytest.fixture(scope="module")
def measured() -> Report:
    """Every variant at one seed, small."""
    found = {
        "widths": example.measure_widths(trial(), SMALL),
        "data": example.measure_digits(trial(), SMALL),
        **{f"curves, s = {filters}": example.measure_curves(trial(), SMALL, filters) for filters in SMALL.hierarchies},
        **{f"spectrum, {name}": example.measure_spectrum(trial(), SMALL, kind) for kind, name in example.NAMES.items()},
    }
    return Report({name: {0: Record(plain(value), 0.0)} for name, value in found.items()})


@pytest.mark.slow
@pytest.mark.parametrize("claim", example.CLAIMS, ids=lambda c: c.name)
def test_claims_hold_and_ablations_fail(measured: Report, claim: example.Claim) -> None:
    assert claim.judge(measured).holds, claim.judge(measured)


def test_spectra_hold_their_claims_alone() -> None:
    found = {
        f"spectrum, {name}": example.measure_spectrum(trial(), SMALL, kind) for kind, name in example.NAMES.items()
    }
    report = Report({name: {0: Record(plain(value), 0.0)} for name, value in found.items()})
    judged = [claim.judge(report) for claim in example.CLAIMS[:14]]
    assert sum(verdict.claim.fails for verdict in judged) == 4
    for verdict in judged:
        assert verdict.holds, verdict


def test_every_claim_has_an_ablation_that_breaks_its_inequality() -> None:
    assert sum(claim.fails for claim in example.CLAIMS) == 11
    groups = [claim.name for claim in example.CLAIMS if not claim.name.startswith("  ")]
    assert len(groups) > 11


def cifar(folder: Path, count: int = 12) -> Path:
    """A miniature of the binary version of CIFAR-10: bright images of class 3, dark ones of class 5."""
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        labels = rng.permutation([3, 5] * (count // 2)).astype(np.uint8)
        pixels = rng.integers(0, 60, (count, 3072)) + 180 * (labels[:, None] == 3) * (np.arange(3072) % 2)
        np.concatenate([labels[:, None], pixels.astype(np.uint8)], axis=1).astype(np.uint8).tofile(folder / name)
    return folder


def test_images_of_the_user(tmp_path: Path) -> None:
    found = example.measure_digits(trial(), SMALL, cifar(tmp_path, 80))
    assert found["n"] == [64, 256]
    assert found["deep"][-1] <= 0.1
    assert found["shuffled, last"] > 0.2


@pytest.mark.slow
def test_a_run_writes_its_report_and_figures(tmp_path: Path) -> None:
    config = example.Config(
        sizes=(16, 32, 64, 128),
        window=16,
        trials=(2, 2, 2, 2),
        tests=32,
        nets=2,
        widths=(4, 8, 16, 32),
        digits=(32, 64),
        seeds=(0,),
    )
    report, verdicts = execute(example, "wide_cnn", config, Options(out=tmp_path))
    assert len(verdicts) == len(example.CLAIMS)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"spectrum.png", "beta.png", "data.png", "curves_2_2.png", "curves_2_2_2.png"}
    again, _ = execute(example, "wide_cnn", config, Options(out=tmp_path / "again"))
    assert report["data", "deep"].tolist() == again["data", "deep"].tolist()


def test_full_is_the_paper_s_scale() -> None:
    full = example.Config.full()
    assert max(full.sizes) == 32_768
    assert {len(filters) for filters in full.hierarchies} == {2, 3, 4}
    assert {filters[0] for filters in full.hierarchies} == {2, 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": (64, 32), "trials": (2, 2)}, "sizes must increase"),
        ({"trials": (2, 2)}, "one of trials each"),
        ({"hierarchies": ((2, 2),)}, "hierarchies must hold"),
        ({"widths": (8, 16)}, "at least 4 widths"),
        ({"nets": 1}, "2 nets"),
    ],
)
def test_bad_settings(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        example.Config(**options)

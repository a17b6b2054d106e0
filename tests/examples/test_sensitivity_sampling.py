"""The example: its claims at a small size, their ablations, and what it draws."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import sensitivity_sampling as example
from holonomy.examples.data.tables import load_breast_cancer, load_diabetes
from holonomy.examples.harness import Options, Report, Trial, execute
from holonomy.examples.harness.report import Record, plain

#: Smaller than the default, by which slopes are noisier, and the distortion of rounds larger.
SMALL = example.Config(
    n=2048,
    dims=(4, 8, 16, 32),
    dims_above=(4, 8, 16, 32),
    trials=8,
    many=16384,
    tall=20_000,
    tall_dims=(4, 8),
    draws=15,
)


def trial(seed: int = 0) -> Trial:
    return Trial("any", seed, torch.device("cpu"), Path("unused"), lambda share: None)


@pytest.fixture(scope="module")
def measured() -> Report:
    """Every variant at one seed, small."""
    found = {"real": example.measure_real(trial())}
    for p in SMALL.below:
        found[f"flat, p = {p:g}"] = example.measure_flat(trial(), SMALL, p, SMALL.dims, SMALL.trials)
        found[f"tight, p = {p:g}"] = example.measure_tight(trial(), SMALL, p)
    for p in SMALL.above:
        found[f"flat, p = {p:g}"] = example.measure_flat(trial(), SMALL, p, SMALL.dims_above, SMALL.trials)
        found[f"identity, p = {p:g}"] = example.measure_identity(trial(), SMALL, p)
        found[f"mixed, p = {p:g}"] = example.measure_mixed(trial(), replace(SMALL, n=8192), p)
    found["rate"] = example.measure_rate(trial(), SMALL)
    found["rounds"] = example.measure_rounds(trial(), SMALL)
    found["regression"] = example.measure_regression(trial(), SMALL)
    return Report({name: {0: Record(plain(value), 0.0)} for name, value in found.items()})


@pytest.mark.parametrize("claim", [c for c in example.CLAIMS if c.fails], ids=lambda c: c.name)
def test_every_ablation_fails(measured: Report, claim: example.Claim) -> None:
    assert claim.judge(measured).holds, claim.judge(measured)


#: What one small seed shows without doubt; the whole is the default run's.
SURE = [
    c
    for c in example.CLAIMS
    if not c.fails
    and any(
        word in c.name
        for word in (
            "above that of",
            "closed form",
            "root leverage",
            "Hölder",
            "rounds",
            "distortion in",
            "S of",
            "l_1",
        )
    )
]


@pytest.mark.parametrize("claim", SURE, ids=lambda c: c.name)
def test_claims_hold_where_one_small_seed_shows_it(measured: Report, claim: example.Claim) -> None:
    assert claim.judge(measured).holds, claim.judge(measured)


def test_every_claim_has_an_ablation_or_is_a_part_of_one_that_has() -> None:
    assert len(SURE) >= 10
    assert sum(c.fails for c in example.CLAIMS) >= 11


def test_a_stub_fails_the_claims(measured: Report) -> None:
    """Samplers that keep whatever number of rows, exponents that are 0."""
    trials = {
        name: {0: Record({key: np.zeros_like(np.asarray(value, dtype=float)).tolist()
                          for key, value in records[0].measurements.items() if not isinstance(value, dict)}, 0.0)}
        for name, records in measured.trials.items()
    }  # fmt: skip
    stub = Report(trials)
    wanted = [c for c in example.CLAIMS if not c.fails and c.at_least is not None]
    with np.errstate(all="ignore"):
        assert not any(c.judge(stub).holds for c in wanted)
    assert len(wanted) >= 9


def test_planted_rows_are_certain_and_uniform_sampling_misses_them(measured: Report) -> None:
    for rule in ("sensitivity", "lewis", "leverage", "root_leverage"):
        assert measured["regression", f"{rule}, planted"][0] == 1.0
    assert measured["regression", "uniform, planted"][0] == pytest.approx(0.25)


def test_tables_are_standardised() -> None:
    A, b = load_diabetes()
    assert A.shape == (442, 10)
    assert load_breast_cancer().shape == (569, 30)
    for columns in (A, b, load_breast_cancer()):
        # Rounding of means of 569 numbers of size 1.
        np.testing.assert_allclose(columns.mean(0), 0.0, atol=1e-13)
        np.testing.assert_allclose(columns.std(0), 1.0, rtol=1e-12)


@pytest.mark.slow
def test_a_small_run_reports_and_draws(tmp_path: Path) -> None:
    config = replace(SMALL, trials=2, draws=3, seeds=(0,))
    report, verdicts = execute(example, "sensitivity_sampling", config, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    figures = {"rows_below.png", "rows_above.png", "real.png", "rounds.png", "rate.png"}
    assert set(written["figures"]) == figures
    assert all((tmp_path / name).stat().st_size > 10_000 for name in figures)
    with_ascent, without = report["flat with ascent, p = 3", "rows"][0], report["flat, p = 3", "rows"][0]
    assert with_ascent.shape == without.shape == (4, 2)


def test_full_scale_goes_further() -> None:
    full = example.Config.full()
    assert max(full.dims) == 512
    assert full.tall == 1_000_000
    assert full.trials * len(full.seeds) == 200
    assert sorted(full.below + full.above) == [1.0, 1.25, 1.5, 1.75, 2.5, 3.0, 4.0]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="dims and dims_above must have 4 sizes at least"):
        example.Config(dims=(8, 16))
    with pytest.raises(ValueError, match=r"below and above must hold 1, 1.5 and 3, 4, got \(1.0,\)"):
        example.Config(below=(1.0,))
    with pytest.raises(ValueError, match="trials and draws must be at least 1, got 0 and 50"):
        example.Config(trials=0)

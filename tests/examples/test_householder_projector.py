"""The example: claims and the ablations that fail them, its measures, a short run, StyleGAN2's path in miniature."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.examples import householder_projector as example
from holonomy.examples.blocks.style_gan import Discriminator, StyleGenerator
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Options, Report, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record
from holonomy.models.representation.householder_projector import Projector, affine_map

SHORT = example.Config(base_steps=3, steps=2, samples=40, codes=8, codes_each=2, codes_edited=8, draws=1, seeds=(0,))
RNG = torch.Generator()
TINY = example.Config(
    dataset="folder",
    size=16,
    latent=12,
    width=8,
    base_steps=0,
    steps=2,
    batch_size=4,
    path=2.0,
    ranks=(4, 2),
    samples=6,
    codes=4,
    codes_each=2,
    codes_edited=4,
    draws=1,
    seeds=(0,),
)


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(example.Config(), log(tmp_path))
    verdicts = [claim.judge(report) for claim in example.CLAIMS]
    assert [v for v in verdicts if not v.holds] == []
    # What the page says of lengths: divided by |A v|^2 the projector's paths are no shorter.
    lengths = [report[arm, "pipl by |A v|^2"].mean() for arm in ("plain", "rank, first", "rank, second")]
    assert lengths[0] < min(lengths[1:])


def test_no_claim_of_gain_holds_where_all_arms_are_alike() -> None:
    same = {"pipl": 1.0, "frechet": 1.0, "frechet before": 1.0, "ratio before": 1.5}
    tails = ("", ", first", ", second")
    same |= {f"{name}{tail}": value for tail in tails for name, value in (("dominance", 0.4), ("ratio", 1.5))}
    arms = ("plain", "rank, first", "rank, second", "penalty", "random", "random again", "gain kept")
    stub = Report({arm: {0: Record(dict(same), 0.0)} for arm in arms})
    holding = [claim.name for claim in example.CLAIMS if not claim.fails and claim.judge(stub).holds]
    assert holding == ["Fréchet distance after training on, rank 8 over plain"]


def test_short_run_measures_and_reports(tmp_path: Path) -> None:
    report, verdicts = execute(example, "householder_projector", SHORT, Options(out=tmp_path, device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["figures"]) == {"traversal.png", "spectra.png", "attributes.png", "path_length.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in written["figures"])
    assert report["rank, second", "matrix"].shape == (1, 20, 4)
    assert report["rank, first", "ratio"][0] - 1.0 < 1e-12
    assert report["plain", "ratio, first"][0] > 1.1


def test_all_arms_begin_with_one_checkpoint_and_leave_it_alone(tmp_path: Path) -> None:
    task = example.load(SHORT, log(tmp_path))
    first, again = (example.pretrain(SHORT, task, seed, torch.device("cpu")) for seed in (0, 0))
    for p, q in zip(first.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(p, q)
    kept = [p.clone() for p in first.average.parameters()]
    for draws in (1, 2):
        trial_generator = torch.Generator().manual_seed(0)
        found = example.copy.deepcopy(first.average)
        example.project_randomly(found, trial_generator, 4, draws)
        assert sum(isinstance(m, Projector) for m in found.modules()) == 5
    assert all(torch.equal(p, q) for p, q in zip(kept, first.average.parameters(), strict=True))


def test_random_columns_keep_biases_and_differ_by_draw() -> None:
    generator = example.networks(SHORT)[0]
    biases = [affine_map(style)[1] for style in generator.styles()]
    weights = []
    for draws in (1, 1, 2):
        found = example.copy.deepcopy(generator)
        example.project_randomly(found, torch.Generator().manual_seed(3), 4, draws)
        weights.append(found.styles()[0].weight.detach())
        for style, bias in zip(found.styles(), biases, strict=True):
            torch.testing.assert_close(affine_map(style)[1], bias)
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2], atol=0.01)


def test_frechet_distance_is_that_of_normal_laws() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, dtype=torch.float64, generator=rng)
    # Independent entries of deviations 1 and 2, means 0 and 1: by each (1 - 0)^2 + (2 - 1)^2, over the variance 4.
    b = 1.0 + 2.0 * torch.randn(4000, 3, dtype=torch.float64, generator=rng)
    assert example.frechet(a, a) == pytest.approx(0.0, abs=1e-9)
    assert example.frechet(a, b) == pytest.approx(3 * 2 / 4, rel=0.05)  # some standard errors of 4,000 draws
    assert example.frechet(a * torch.tensor([1.0, 5.0, 9.0]), b * torch.tensor([1.0, 5.0, 9.0])) == pytest.approx(
        example.frechet(a, b)
    )


def test_orthogonal_penalty_vanishes_at_orthogonal_projections_alone() -> None:
    generator = example.networks(SHORT)[0]
    assert float(example.orthogonal_penalty(generator, RNG, 1.0).detach()) > 1.0
    with torch.no_grad():
        for style in generator.styles():
            style.weight.copy_(torch.linalg.qr(style.weight)[0] / style.scale)
    assert float(example.orthogonal_penalty(generator, RNG, 1.0).detach()) == pytest.approx(0.0, abs=1e-8)


def test_hessian_penalty_vanishes_for_diagonal_hessians_alone() -> None:
    class Quadratic(torch.nn.Module):
        """Two pixels z^T H z / 2, of one H each."""

        latent = 3

        def __init__(self, hessians: torch.Tensor) -> None:
            super().__init__()
            self.hessians = torch.nn.Parameter(hessians)

        def map(self, z: torch.Tensor) -> torch.Tensor:
            return z

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return 0.5 * torch.einsum("bi,pij,bj->bp", z, self.hessians, z)

    diagonal = torch.diag_embed(torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, 1.0]]))
    crossed = diagonal.clone()
    crossed[1, 0, 2] = crossed[1, 2, 0] = 1.5
    values = [
        float(example.hessian_penalty(Quadratic(h.double()), torch.Generator().manual_seed(0), 2.0, 400).detach())
        for h in (diagonal, crossed)
    ]
    # Second differences of numbers of order 10 at steps of 0.1, in float64.
    assert values[0] == pytest.approx(0.0, abs=1e-20)
    # v^T H v is the trace and 2 * 1.5 more or less: two draws have a variance of 18 where they differ, 0 otherwise.
    assert values[1] == pytest.approx(2.0 * 18.0)


def write_folder(folder: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    save = pytest.importorskip("safetensors.torch").save_file
    torch.manual_seed(0)
    channels = dict.fromkeys((4, 8, 16), 8)
    save(StyleGenerator(16, 12, channels, 2).state_dict(), folder / "generator.safetensors")
    save(Discriminator(16, channels).state_dict(), folder / "discriminator.safetensors")
    weights, channels_in, number = {}, 3, 0
    for step in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512):
        if isinstance(step, int):
            weights[f"features.{number}.weight"] = torch.randn(step, channels_in, 3, 3) / (9 * channels_in / 2) ** 0.5
            weights[f"features.{number}.bias"] = torch.zeros(step)
            channels_in, number = step, number + 2
        else:
            number += 1
    weights |= {f"lin{i}": torch.rand(1, width, 1, 1) for i, width in enumerate((64, 128, 256, 512, 512))}
    save(weights, folder / "perceptual.safetensors")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        image_module.fromarray(pixels).save(folder / "images" / f"{i}.png")


@pytest.mark.slow
def test_stylegans_path_runs_in_miniature(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (out := tmp_path / "state").mkdir()
    # oneDNN's convolutions (torch 2.13) corrupt the heap for networks as small as this on some processors.
    with torch.backends.mkldnn.flags(enabled=False):
        report = example.run(TINY, log(out, tmp_path))
        start = example.load_checkpoint(TINY, tmp_path)
    assert set(report.trials) >= {
        "base",
        "plain",
        "rank, first",
        "rank, second",
        "penalty",
        "hessian",
        "full rank",
        "random",
    }
    assert np.isfinite([claim.judge(report).mean for claim in example.CLAIMS]).all()
    assert report["rank, first", "ratio"][0] == pytest.approx(1.0, abs=1e-5)
    saved = pytest.importorskip("safetensors.torch").load_file(tmp_path / "generator.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in start.average.state_dict().items())


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data must name a folder with images/"):
        example.load(TINY, log(tmp_path))
    with pytest.raises(DataError, match=r"generator\.safetensors is not there"):
        example.load_checkpoint(TINY, tmp_path)
    write_folder(tmp_path)
    with pytest.raises(DataError, match="does not fit StyleGAN2 of 32 pixels"):
        example.load_checkpoint(replace(TINY, size=32), tmp_path)


def test_full_scale_is_the_papers() -> None:
    full = example.Config.full()
    assert (full.dataset, full.size, full.latent, full.mapping) == ("folder", 256, 512, 8)
    assert (full.ranks[0], full.r1, full.path, full.lr, full.codes) == (10, 10.0, 2.0, 0.002, 5000)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="ranks must be two different ones"):
        example.Config(ranks=(4, 4))
    with pytest.raises(ValueError, match="draws at least 1"):
        example.Config(draws=0)
    with pytest.raises(ValueError, match="codes_edited must be from 1 to codes, 150, got 151"):
        example.Config(codes_edited=151)
    with pytest.raises(ValueError, match="lr and eps positive"):
        example.Config(eps=0.0)

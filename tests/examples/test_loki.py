"""The example: claims and the ablations that fail them, a short run, outputs from a file in miniature."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holonomy.examples import loki as example
from holonomy.examples.data.outputs import load_outputs
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Options, Report, execute
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Record

TINY = example.Config(
    observed=(8,), images=200, held=40, subsets=1, trees=2, nodes=12, queries=4, few=(40,), size=40, draws=1, steps=60,
    seeds=(0,),
)  # fmt: skip


def log(path: Path, data: Path | None = None) -> Log:
    return Log(torch.device("cpu"), path, data)


@pytest.mark.slow
def test_claims_hold_and_ablations_fail(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = example.run(replace(example.Config(), few=(200,)), log(tmp_path))
    assert [claim.name for claim in example.CLAIMS if not claim.judge(report).holds] == []
    for k in (8, 16, 24):  # for every number of places, not in the mean alone
        assert report["grid", f"Loki, K = {k}"].mean() < 0.75 * report["grid", f"argmax, K = {k}"].mean()
        assert report["grid", f"argmax, unseen, K = {k}"].max() == 0.0


@pytest.mark.slow
def test_other_seeds_keep_the_claims(tmp_path: Path) -> None:
    report = example.run(replace(example.Config(), few=(200,), seeds=(11, 12)), log(tmp_path))
    assert [claim.name for claim in example.CLAIMS if not claim.judge(report).holds] == []


def test_a_short_run_reports_and_draws(tmp_path: Path) -> None:
    report, verdicts = execute(example, "loki", TINY, Options(out=tmp_path / "run", device="cpu"))
    assert len(verdicts) == len(example.CLAIMS)
    assert np.isfinite([verdict.mean for verdict in verdicts]).all()
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(written["figures"]) == {"triangle.png", "grid.png", "active.png", "few_images.png"}
    assert all((tmp_path / "run" / name).stat().st_size > 10_000 for name in written["figures"])
    # On eight places already the rule is far ahead, and argmax finds none of the others.
    assert float(report["grid", "Loki, T = 1, K = 8"][0]) < 0.8 * float(report["grid", "argmax, K = 8"][0])
    assert float(report["grid", "argmax, unseen, K = 8"][0]) == 0.0
    assert abs(float(report["grid", "random unseen, unseen, K = 8"][0]) - 1 / 56) < 0.06
    measured = report.trials["triangle"][0].measurements
    assert len(set(measured["argmax"])) == 3
    # All that can be reached, save what only a line of weights or a sliver of them gives.
    assert 0.6 * measured["reachable"] <= len(set(measured["Loki"])) <= measured["reachable"]


def same(value: float) -> dict[str, Any]:
    arms = ("argmax", "Loki", "Loki, T = 1", "Loki, T = 4", "Loki, p = 1", "Loki, sharpened", "Loki, shuffled")
    return {f"{arm}{tail}": value for arm in arms for tail in ("", ", accuracy", ", unseen")}


def test_no_claim_of_gain_holds_where_all_rules_are_alike() -> None:
    alike = same(1 / 64)
    grid = {f"{model}{name}, K = 8": value for model in ("", "MLP, ") for name, value in alike.items()}
    courses = {name: [3.0, 4.0, 5.0, 6.0, 7.0] for name in ("gain", "farthest", "random")}
    trials = {"grid": grid, "tree": alike, "active": courses, "re-ranking": alike}
    stub = Report({variant: {0: Record(values, 0.0)} for variant, values in trials.items()})
    held = {claim.name for claim in example.CLAIMS if not claim.fails and claim.judge(stub).holds}
    # What is wanted without a margin.
    assert held == {
        "tree, E[d^2] of Loki over argmax",
        "nodes of the locus, gain less farthest",
        "re-ranking, E[d^2] of Loki over argmax",
        "the same at T = 1",
    }


def test_every_claim_has_its_ablation() -> None:
    fails = [claim for claim in example.CLAIMS if claim.fails]
    assert all(claim.name.startswith("ablation") for claim in fails)
    bounds = {(claim.at_least, claim.at_most) for claim in fails}
    assert bounds == {(claim.at_least, claim.at_most) for claim in example.CLAIMS if not claim.fails}


def test_images_are_pasted_where_their_label_says() -> None:
    rng = np.random.default_rng(0)
    found = example.paste(np.ones((3, 64)), np.array([0, 10, 63]), 0.0, rng).reshape(3, 15, 15)
    for image, (row, column) in zip(found, [(0, 0), (1, 2), (7, 7)], strict=True):
        assert image.sum() == 64
        assert image[row : row + 8, column : column + 8].min() == 1.0
    noisy = example.paste(np.zeros((200, 64)), np.zeros(200, int), 0.05, rng)
    assert abs(noisy.std() - 0.05) < 0.001


def test_random_trees_are_trees_and_uniform_in_degree() -> None:
    rng = np.random.default_rng(0)
    leaves = []
    for _ in range(300):
        edges = example.random_tree(30, rng)
        assert len(edges) == 29
        example.Tree(edges)  # refuses what is no tree
        leaves.append((np.bincount(np.ravel(edges), minlength=30) == 1).sum())
    # A node of a uniform tree is a leaf with probability (1 - 1/n)^(n - 2).
    assert abs(np.mean(leaves) - 30 * (1 - 1 / 30) ** 28) < 0.5


def test_the_digits_tree_has_ten_leaves() -> None:
    tree = example.digit_tree(*example.digits())
    assert (tree.n, tree.nodes) == (10, 19)


# -- outputs from a file -------------------------------------------------------------------------------------------


def arrays() -> dict[str, np.ndarray]:
    """A tree of two levels over nine labels, five of which are seen, and logits that are right more often than not."""
    rng = np.random.default_rng(0)
    parents = np.array([9, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 12, -1])
    observed = np.array([0, 2, 3, 6, 8])
    y = rng.integers(0, 9, 300)
    near = (parents[y][:, None] == parents[observed]) + 2.0 * (y[:, None] == observed)
    return {
        "logits": 1.5 * near + rng.normal(size=near.shape),
        "y": y,
        "observed": observed,
        "parents": parents,
        "labels": np.arange(9),
        "embeddings": rng.normal(size=(9, 4)),
    }


@pytest.mark.parametrize("missing", [(), ("parents", "labels")], ids=["tree", "embeddings"])
def test_outputs_from_a_file_run_and_report(tmp_path: Path, missing: tuple[str, ...]) -> None:
    np.savez(tmp_path / "outputs.npz", **{name: value for name, value in arrays().items() if name not in missing})
    options = Options(out=tmp_path / "run", device="cpu", data=tmp_path / "outputs.npz")
    report, verdicts = execute(example, "loki", replace(TINY, dataset="outputs"), options)
    assert len(verdicts) == len(example.CLAIMS)
    measured = report.trials["re-ranking"][0].measurements
    assert 0.0 < measured["Loki"] < np.inf
    assert 0.3 < measured["argmax, accuracy"] < 0.9
    assert "few_images.png" not in json.loads((tmp_path / "run" / "report.json").read_text())["figures"]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data must name an"):
        load_outputs(None)
    good = arrays()
    for change, message in (
        ({"y": good["y"][:-1]}, "wanted outputs"),
        ({"y": good["y"] + 0.5}, "must be integers"),
        ({"observed": good["observed"][:2]}, "wanted outputs"),
    ):
        np.savez(tmp_path / "bad.npz", **(good | change))
        with pytest.raises(DataError, match=message):
            load_outputs(tmp_path / "bad.npz")
    for name in ("y", "logits"):
        np.savez(tmp_path / "bad.npz", **{key: value for key, value in good.items() if key != name})
        with pytest.raises(DataError, match="it has"):
            load_outputs(tmp_path / "bad.npz")
    (tmp_path / "bad.npz").write_text("no archive")
    with pytest.raises(DataError, match="is not an"):
        load_outputs(tmp_path / "bad.npz")
    probs = np.exp(good.pop("logits"))
    np.savez(tmp_path / "probs.npz", probs=probs / probs.sum(1, keepdims=True), **good)
    assert load_outputs(tmp_path / "probs.npz").probs.sum(1) == pytest.approx(np.ones(300))


def test_full_scale_reads_outputs() -> None:
    assert example.Config.full().dataset == "outputs"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 3}, "queries must be at least 4, got 3"),
        ({"observed": (4,)}, "observed must be from 5 to 63"),
        ({"size": 30}, "size must be one of few"),
        ({"few": (10,), "size": 10}, "few from 20 to 1200"),
    ],
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)

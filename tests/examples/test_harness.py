"""The examples' harness, on a toy paper: flags, resuming after SIGKILL, data-parallel runs, report and verdicts."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import toy_example

from holonomy.examples.errors import UsageError
from holonomy.examples.harness import Claim, Log, Options, Report, Trial, execute, running
from holonomy.examples.harness.report import Record, plain

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(toy_example.__file__)
CONFIG = toy_example.Config()


# For each moment a fork of one fresh interpreter runs the toy, and must die of SIGKILL.
KILLER = """
import os, sys
import matplotlib.figure, torch._dynamo  # before the forks, which all need them
import toy_example
out, *moments = sys.argv[1:]
for moment in moments:
    if (child := os.fork()) == 0:
        os.environ["TOY_KILL"] = moment.partition(" ")[0]
        os._exit(toy_example.main(["--out", os.path.join(out, moment), *moment.split()[1:]]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -9, f"{moment}: status {status}"
"""
MOMENTS = [
    "loss:3",  # before the first checkpoint
    "loss:9",  # within an epoch, after the checkpoint of the one before
    "loss:11 --checkpoint-every 2",  # after a checkpoint within an epoch
    "loss:25",  # in the trial's second loop, the first having ended
    "trial:1",  # the loops are done, the result is not written
    "loss:40",  # in the second trial
    "replace:3",  # a checkpoint is written and not yet in place of the one before
]


def run_toy(out: Path, config: toy_example.Config = CONFIG, **options: Any) -> Report:
    return execute(toy_example, "toy", config, Options(out=out, threads=1, **options))[0]


def numbers(report: Report) -> dict[tuple[str, int], dict[str, Any]]:
    return {(t["variant"], t["seed"]): t["measurements"] for t in report.as_list()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    return numbers(run_toy(tmp_path_factory.mktemp("unbroken")))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one folder for each moment: what a run that was killed then has left."""
    out = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(out), *MOMENTS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TOY.parent)},
    )
    assert done.returncode == 0, done.stderr
    return out


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_resumes_to_the_same_numbers(
    moment: str, killed: Path, tmp_path: Path, unbroken: dict[tuple[str, int], dict[str, Any]]
) -> None:
    assert not (killed / moment / "report.json").exists()
    out = shutil.copytree(killed / moment, tmp_path / "out")
    assert numbers(run_toy(out, resume=True)) == unbroken


def test_resuming_repeats_no_work_that_a_checkpoint_holds(killed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(killed / "loss:9", tmp_path / "out")  # six batches an epoch: one epoch is kept
    toy_example.events.clear()
    run_toy(out, resume=True)
    assert toy_example.events["loss"] == 4 * (3 * 6 + 10) - 6


def test_finished_trials_are_not_run_again_and_seeds_can_be_added(tmp_path: Path) -> None:
    first = run_toy(tmp_path, toy_example.Config(seeds=(0,)))
    toy_example.events.clear()
    both = run_toy(tmp_path, toy_example.Config(seeds=(0, 1)), resume=True)
    assert toy_example.events["trial"] == 2  # seed 1 of both variants
    assert numbers(both)["adam", 0] == numbers(first)["adam", 0]


def test_without_resume_the_run_starts_over(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_example.Config(seeds=(0,)))
    toy_example.events.clear()
    run_toy(tmp_path, toy_example.Config(seeds=(0,)))
    assert toy_example.events["trial"] == 2


def test_resume_refuses_another_configuration_and_names_the_field(tmp_path: Path) -> None:
    run_toy(tmp_path, toy_example.Config(seeds=(0,)))
    with pytest.raises(UsageError, match=r"epochs: 3 then, 4 now"):
        run_toy(tmp_path, toy_example.Config(seeds=(0,), epochs=4), resume=True)


def test_checkpoints_hold_nothing_that_needs_unpickling(killed: Path) -> None:
    (path,) = (killed / "loss:9" / "state").glob("*.pt")
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 6
    assert saved["state"].keys() == {"model", "optimizer", "scheduler", "curves"}


# --- training ---------------------------------------------------------------------------------------------------------


def trial(tmp_path: Path, seed: int = 0) -> Trial:
    return Trial("variant", seed, torch.device("cpu"), tmp_path / "stem", lambda share: None)


def test_fit_visits_every_sample_once_an_epoch_in_a_fresh_order(tmp_path: Path) -> None:
    seen: list[int] = []
    model = torch.nn.Linear(1, 1)

    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.extend(x.flatten().int().tolist())
        return model(x).mean()

    data = torch.arange(33.0)[:, None]  # batches of 8: the last, of one sample, joins the one before
    trial(tmp_path).fit(model, torch.optim.SGD(model.parameters(), lr=0.0), [data], loss=loss, epochs=2, batch_size=8)
    first, second = seen[:33], seen[33:]
    assert sorted(first) == sorted(second) == list(range(33))
    assert first != second


def test_fit_is_plain_gradient_descent(tmp_path: Path) -> None:
    x, y = toy_example.clouds()
    model, twin = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    twin.load_state_dict(model.state_dict())

    def loss(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x), y)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    curves = trial(tmp_path).fit(model, optimizer, (x, y), loss=loss, epochs=3, batch_size=1000)
    expected = []
    for _ in range(3):
        value = loss(twin, x, y)
        expected.append(value.item())
        gradients = torch.autograd.grad(value, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    # One batch holds all samples, in a shuffled order: float32 sums differ in their last bits.
    assert curves["loss"] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "epochs", "batch_size", "message"),
    [
        ([torch.zeros(4, 1), torch.zeros(5)], 1, 2, r"one leading length, got shapes \[\(4, 1\), \(5,\)\]"),
        ([torch.zeros(0, 1)], 1, 2, "one leading length"),
        ([torch.zeros(4, 1)], 0, 2, "epochs must be at least 1"),
        ([torch.zeros(4, 1)], 1, 1, "batch_size at least 2"),
    ],
)
def test_fit_refuses_bad_arguments(
    data: list[torch.Tensor], epochs: int, batch_size: int, message: str, tmp_path: Path
) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=message):
        trial(tmp_path).fit(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            data,
            loss=lambda model, x: model(x).mean(),
            epochs=epochs,
            batch_size=batch_size,
        )


def test_a_trial_depends_on_its_seed_alone(tmp_path: Path) -> None:
    """Not on the trials before it, nor on the caller's generators, which it leaves as they were."""
    draw = {"draw": lambda trial: {"value": torch.rand(())}}
    before = torch.get_rng_state()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = Log(torch.device("cpu"), tmp_path / "first").sweep(draw, seeds=(0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second = Log(torch.device("cpu"), tmp_path / "second").sweep(draw, seeds=(1,))
    assert first["draw", "value"][1] == second["draw", "value"][0]
    assert first["draw", "value"][0] != first["draw", "value"][1]


def test_what_runs_once_runs_at_the_first_seed(tmp_path: Path) -> None:
    def seed(trial: Trial) -> dict[str, int]:
        return {"seed": trial.seed}

    report = Log(torch.device("cpu"), tmp_path).sweep({"all": seed}, seeds=(4, 5), once={"one": seed})
    assert report["all", "seed"].tolist() == [4, 5]
    assert report["one", "seed"].tolist() == [4]
    with pytest.raises(ValueError, match="needs variants and seeds"):
        Log(torch.device("cpu"), tmp_path).sweep({}, seeds=(0,))


# --- data-parallel ----------------------------------------------------------------------------------------------------


def test_two_processes_train_to_the_numbers_of_one(tmp_path: Path) -> None:
    """Shards of the same global batches with averaged gradients: without dropout and batch norm, the same training."""
    config = toy_example.Config(seeds=(0,), dropout=0.0)
    one = run_toy(tmp_path / "one", config)
    flags = ["--out", str(tmp_path / "two"), "--seeds", "0", "--dropout", "0"]
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(TOY), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("the clouds are told apart") == 1, "the first process alone prints"
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["processes"] == 2
    measured = {t["variant"]: t["measurements"] for t in report["trials"]}["adam"]
    # float32 gradients summed in another order, through 18 steps of Adam.
    assert measured["weights"] == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in one["adam", "weights"][0]]
    assert measured["loss"] == pytest.approx(one["adam", "loss"][0], rel=1e-4)
    with pytest.raises(UsageError, match="processes: 2 then, 1 now"):
        run_toy(tmp_path / "two", config, resume=True)


# --- report and verdicts ----------------------------------------------------------------------------------------------


def test_report_follows_its_schema_and_names_no_machine(tmp_path: Path) -> None:
    run_toy(tmp_path)
    text = (tmp_path / "report.json").read_text()
    report = json.loads(text)
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    assert report["seeds"] == [0, 1]
    assert report["config"] == plain(vars(CONFIG))
    assert [len(claim["values"]) for claim in report["claims"]] == [2, 2]
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text
    for name in report["figures"]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_report_stays_json_where_numbers_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim("infinite", lambda report: [math.inf, 1.0], at_least=0)
    monkeypatch.setattr(toy_example, "CLAIMS", [claim])
    run_toy(tmp_path, toy_example.Config(seeds=(0,)))
    assert json.loads((tmp_path / "report.json").read_text())["claims"][0]["values"] == [None, 1.0]


@pytest.mark.parametrize(
    ("bounds", "values", "holds"),
    [
        ({"at_least": 0.9}, [0.8, 1.0], True),  # the mean is judged
        ({"at_least": 0.9}, [0.8, 0.9], False),
        ({"at_most": 2.0}, [2.0], True),
        ({"at_least": 1.0, "at_most": 2.0}, [2.1], False),
        ({"at_least": 0.9, "fails": True}, [0.5], True),
        ({"at_least": 0.9, "fails": True}, [0.95], False),
        ({"at_least": 0.9}, [math.nan], False),
        ({"at_least": 0.9, "fails": True}, [math.nan], False),  # a broken ablation proves nothing
    ],
)
def test_verdicts(bounds: dict[str, Any], values: list[float], holds: bool) -> None:
    verdict = Claim("claim", lambda report: values, **bounds).judge(Report())
    assert verdict.holds is holds
    assert verdict.as_row()[3] is holds


def test_claim_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="'empty' needs at_least, at_most or both"):
        Claim("empty", lambda report: 0.0)


def test_report_is_read_by_variant_and_name_over_the_seeds() -> None:
    first = Report({"a": {0: Record({"curve": [1.0, 2.0]}, 0.1), 1: Record({"curve": [3.0, 4.0]}, 0.1)}})
    both = first | Report({"b": {0: Record({"value": 5.0}, 0.1)}})
    assert both["a", "curve"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert both["b", "value"].tolist() == [5.0]
    with pytest.raises(KeyError, match=r"no variant 'c'; the report has 'a', 'b'"):
        both["c", "value"]
    with pytest.raises(KeyError, match=r"'a' has no 'value'; it has 'curve'"):
        both["a", "value"]


def test_measurements_that_json_cannot_hold_are_refused() -> None:
    assert plain({"x": torch.ones(2), "y": (1, [True, None])}) == {"x": [1.0, 1.0], "y": [1, [True, None]]}
    with pytest.raises(TypeError, match="got Linear"):
        plain({"x": torch.nn.Linear(1, 1)})


# --- the command line of one paper ------------------------------------------------------------------------------------


def main(*arguments: str) -> int:
    return toy_example.main(list(arguments))


def test_every_field_is_a_flag() -> None:
    config, options = running.parse(
        toy_example, "toy", ["--epochs", "7", "--lr", "0.5", "--seeds", "3", "4", "--wanted", "1", "--dropout", "0"]
    )
    assert config == toy_example.Config(epochs=7, lr=0.5, seeds=(3, 4), wanted=1.0, dropout=0.0)
    assert options == Options()
    assert running.parse(toy_example, "toy", ["--full", "--seed", "9"])[0] == toy_example.Config(epochs=5, seeds=(9,))


def test_help_shows_every_flag_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for words in ("--epochs", "Passes over the clouds.", "--resume", "--out", "--device"):
        assert words in text


def test_holding_claims_exit_0_and_the_table_names_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--out", str(tmp_path)) == 0
    out = capsys.readouterr()
    assert "Toy, 2 seeds" in out.out
    assert "the clouds are told apart" in out.out
    assert "loss.png, report.json" in out.out
    assert "4/4 runs" in out.err


def test_a_failed_claim_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--out", str(tmp_path), "--lr", "0") == 1
    assert "NO" in capsys.readouterr().out


def test_an_ablation_that_does_not_fail_exits_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        toy_example,
        "CLAIMS",
        [Claim("ablation", lambda report: report["adam", "final"], at_least=0.9, fails=True)],
    )
    assert main("--out", str(tmp_path), "--seed", "0") == 1


def test_json_alone_is_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--out", str(tmp_path), "--seed", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "x"], "--epochs"),
        (["--epoch", "3"], "--epochs"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--seeds"], "--seeds must name at least one seed"),
        (["--device", "quantum"], "--device quantum"),
        (["--device", "meta"], "--device meta"),
        (["--checkpoint-every", "0"], "--checkpoint-every must be at least 1, got 0"),
    ],
)
def test_bad_flags_exit_2_and_are_named(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main("--out", str(tmp_path), *arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_fields_that_clash_with_the_harness_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    clashing = dataclasses.make_dataclass("Config", [("seeds", tuple, (0,)), ("device", str, "cpu")], frozen=True)
    monkeypatch.setattr(toy_example, "Config", clashing)
    with pytest.raises(TypeError, match="device"):
        running.parse(toy_example, "toy", [])

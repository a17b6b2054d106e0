"""The command line: what it prints, and its exit status."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import holonomy
from holonomy import catalogue, cli
from holonomy.catalogue import Paper
from holonomy.theory import Check


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A paper `toy` with an example that records its flags and checks that hold, and a planned paper `plan`."""
    example, theory = ModuleType("holonomy.examples.toy"), ModuleType("holonomy.theory.toy")
    for module in (example, theory):
        module.__spec__ = SimpleNamespace(name=module.__name__)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    record = SimpleNamespace(example=example, calls=[], status=0, checks=[Check("theorem", 1.0, 1.0, "n = 1")])
    theory.checks = lambda seed: record.calls.append(seed) or record.checks  # type: ignore[attr-defined]

    def main(*arguments: object) -> int:
        record.calls.append(arguments)
        return record.status

    monkeypatch.setattr("holonomy.examples.harness.running.main", main)
    papers = (Paper("toy", "Toy", "T 2020", "theory", 2, "clouds", 3), Paper("plan", "Plan", "P 2021", "search"))
    for module in (catalogue, cli):
        monkeypatch.setattr(module, "PAPERS", papers)
    return record


def status(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_list_shows_every_paper_with_its_state(toy: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["slug", "paper", "venue", "family", "state", "time"]
    assert lines[2].split() == ["toy", "Toy", "T", "2020", "theory", "ready", "2", "min"]
    assert lines[3].split() == ["plan", "Plan", "P", "2021", "search", "planned"]
    assert status("list", "--ready", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry == {
        "slug": "toy",
        "title": "Toy",
        "venue": "T 2020",
        "family": "theory",
        "state": "ready",
        "checks": True,
        "minutes": 2,
    }


def test_run_hands_the_flags_after_the_slug_to_the_paper(toy: SimpleNamespace) -> None:
    toy.status = 1
    assert status("run", "toy", "--epochs", "3") == 1
    assert toy.calls == [(toy.example, "toy", "Toy (T 2020), clouds", ["--epochs", "3"])]


def test_verify_prints_one_table_and_writes_json_and_figures(
    toy: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "new"
    assert status("verify", "toy", "--seed", "5", "--out", str(out)) == 0
    assert toy.calls == [5]
    text = capsys.readouterr().out
    assert "theorem" in text
    assert f"1 of 1 hold; verify.json and figures: {out}/" in text
    assert sorted(path.name for path in out.iterdir()) == ["toy.png", "verify.json"]
    document = json.loads((out / "verify.json").read_text())
    assert document["seed"] == 5
    assert document["holds"] is True
    assert document["papers"]["toy"]["checks"][0]["theorem"] == "theorem"


def test_verify_fails_with_its_checks(toy: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    toy.checks = [Check("theorem", 1.0, 2.0, "n = 1"), Check("other", 1.0, 1.0, "n = 1")]
    assert status("verify", "toy", "--json", "--out", str(tmp_path)) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["papers"]["toy"]["checks"][0]["holds"] is False
    assert printed == json.loads((tmp_path / "verify.json").read_text())
    assert status("verify", "toy", "--out", str(tmp_path)) == 1
    assert "1 of 2 hold" in capsys.readouterr().out


def test_verify_says_where_it_cannot_write(
    toy: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert status("verify", "toy", "--out", str(tmp_path / "file" / "out")) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert toy.calls == []


def test_verify_lists_what_has_checks_with_its_time(toy: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("verify", "--list") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["slug", "checks", "of", "time"]
    assert [(line[0], line[-2:]) for line in lines[2:]] == [("geometry", ["20", "s"]), ("toy", ["3", "s"])]
    assert status("verify", "toy", "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"slug": "toy", "title": "Toy", "seconds": 3}]
    assert toy.calls == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "tyo"], "no paper 'tyo': did you mean toy?"),
        (["run", "zzzzzz"], "no paper 'zzzzzz': `holonomy list` shows all"),
        (["run", "plan"], "plan is planned and has no example in this version; ready: toy"),
        (["run"], "SLUG"),
        (["verify", "plan"], "plan has no checks in this version"),
        (["verify", "tyo"], "did you mean toy?"),
        (["verify", "--seed", "x"], "--seed"),
        (["list", "--sjon"], "--sjon"),
        (["ran"], "list, run, verify, doctor"),
        ([], "list, run, verify, doctor"),
    ],
)
def test_bad_requests_exit_2_with_what_was_wrong(
    arguments: list[str], words: str, toy: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_package_that_an_example_lacks_is_named(
    toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(cli, "import_module", absent)
    assert status("run", "toy") == 2
    assert "sklearn is not installed" in (text := capsys.readouterr().err)
    assert "pip install 'holonomy[examples]'" in text


@pytest.mark.parametrize("command", [[], ["list"], ["run"], ["verify"], ["doctor"]])
def test_help_of_every_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {' '.join(['holonomy', *command])} [-h]")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out == f"holonomy {holonomy.__version__}\n"

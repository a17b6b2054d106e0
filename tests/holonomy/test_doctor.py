"""doctor reports what is there, and the line that installs what is not."""

import json

import pytest
import torch

from holonomy import cli, doctor


def test_reports_versions_devices_threads_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"] == torch.__version__
    assert found["missing"] == []
    assert found["extras"]["examples"]["scikit-learn"]
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert "cpu" in found["devices"]
    assert found["kernels"]["cpu"].keys() == {"live", "why"}
    assert cli.main(["doctor"]) == 0
    assert torch.__version__ in capsys.readouterr().out


def test_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("scipy", "mlxtend") else version(name))
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "scipy" in text
    assert "MISSING: pip install" in text
    assert "not installed: mlxtend; pip install 'holonomy[examples]'" in text

"""Importing the library is light and silent."""

import json
import subprocess
import sys

import pytest

import holonomy

HEAVY = {
    "cupy",
    "geomstats",
    "geoopt",
    "hypll",
    "hypothesis",
    "matplotlib",
    "mlxtend",
    "numba",
    "pymanopt",
    "sklearn",
    "sympy",
}


def loaded_by(statement: str, *flags: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_import_holonomy_loads_nothing_of_weight() -> None:
    assert not loaded_by("import holonomy", "-W", "error") & (HEAVY | {"torch", "numpy", "scipy", "rich", "tyro"})


def test_the_rooms_import_without_a_warning_and_without_what_is_heavy() -> None:
    loaded = loaded_by(
        "import torch, holonomy as h\nh.manifolds, h.optim, h.models, h.theory, h.examples", "-W", "error"
    )
    assert not loaded & (HEAVY - loaded_by("import torch"))


def test_manifolds_and_optim_add_nothing_of_weight_to_torch() -> None:
    """The cost of an import is the modules that it loads: beside torch's own, only ours and light ones."""
    added = loaded_by("import torch, holonomy.manifolds, holonomy.optim") - loaded_by("import torch")
    assert not added & (HEAVY | {"scipy", "rich", "tyro", "pandas"})


def test_the_command_line_starts_without_torch() -> None:
    assert "torch" not in loaded_by("import holonomy.cli")


def test_unknown_attributes_are_refused_and_rooms_are_listed() -> None:
    with pytest.raises(AttributeError, match="module 'holonomy' has no attribute 'atlas'"):
        holonomy.atlas  # noqa: B018 - the access is what is tested
    assert {"manifolds", "optim", "models", "theory", "examples", "__version__"} <= set(dir(holonomy))

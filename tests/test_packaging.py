"""The distribution: the list of packages against the folders, and wheel and sdist at work outside the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("manifolds", "optim", "models", "theory", "examples")


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WORLD_SIZE", "RANK")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def sources(top: Path) -> set[str]:
    """Python and package-data files of the rooms, by their path under the import name."""
    found = {f"holonomy/{path.name}" for path in (top / "holonomy").iterdir() if path.suffix in (".py", ".typed")}
    for room in ROOMS:
        found |= {f"holonomy/{path.relative_to(top)}" for path in (top / room).rglob("*.py")}
    return found


def test_the_list_of_packages_is_the_folders() -> None:
    folders = {"holonomy"}
    for room in ROOMS:
        inits = (ROOT / room).rglob("__init__.py")
        folders |= {".".join(("holonomy", *path.parent.relative_to(ROOT).parts)) for path in inits}
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(folders)
    for room in ROOMS:
        loose = {path.parent for path in (ROOT / room).rglob("*.py")} - {
            p.parent for p in (ROOT / room).rglob("__init__.py")
        }
        assert not loose, "a folder with modules and without __init__.py is not packaged"


def test_every_tested_version_meets_what_is_asked_for() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[canonicalize_name(name)] = version
    project = SETTINGS["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["examples"], *extras["testing"], *extras["test"], *extras["dev"]]:
        wanted = Requirement(text)
        if wanted.name != "holonomy":
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist, built from a copy: the tree itself stays as it is."""
    copy = tmp_path_factory.mktemp("copy") / "tree"
    unwanted = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*unwanted))
    python("-m", "build", "--no-isolation", "--outdir", "out", cwd=copy)
    (wheel,), (sdist,) = (copy / "out").glob("*.whl"), (copy / "out").glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_the_wheel_holds_the_rooms_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    folder = "manifolds/kernels/cuda"
    cuda = {f"holonomy/{folder}/{path.name}" for path in (ROOT / folder).glob("*.cu*")}
    assert len(cuda) > 8
    assert names == sources(ROOT) | cuda
    assert len(licences) == 1


@pytest.mark.slow
def test_the_sdist_holds_what_the_tests_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    wanted = {"constraints.txt", "Makefile", "docs/report.schema.json", "README.md", "LICENSE", "CHANGELOG.md"}
    assert tests | wanted <= names
    assert any(name.startswith("benchmarks/") for name in names)


@pytest.mark.slow
def test_the_wheel_works_installed_outside_the_repository(built: tuple[Path, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(built[0]), cwd=tmp_path)
    packages = SETTINGS["tool"]["setuptools"]["packages"]
    imports = f"for name in {packages!r}: importlib.import_module(name)"
    code = f"import importlib, holonomy\n{imports}\nprint(holonomy.__file__)"
    where = python("-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site), "the copy that was installed must be the one that is imported"
    for command in (["doctor", "--json"], ["list", "--json"]):
        assert python("-W", "error", "-m", "holonomy", *command, cwd=tmp_path, PYTHONPATH=str(site)).startswith(
            ("{", "[")
        )
    assert (site / "bin" / "holonomy").exists()
    assert (site / "holonomy" / "py.typed").exists()

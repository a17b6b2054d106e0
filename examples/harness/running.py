"""Run one example from its flags: parse, train or resume, judge, draw, write, print."""

import dataclasses
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import tyro

from holonomy._console import console
from holonomy._version import __version__
from holonomy.examples.errors import UsageError, require
from holonomy.examples.harness import checkpoint, distributed
from holonomy.examples.harness.claims import Claim, Verdict
from holonomy.examples.harness.figures import save_figures
from holonomy.examples.harness.log import Log
from holonomy.examples.harness.report import Report, plain
from holonomy.theory.check import verdicts as verdict_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
_VERSIONED = ("torch", "numpy", "scipy", "scikit-learn", "mlxtend", "matplotlib")


class Example(Protocol):
    """What a module of holonomy.examples provides."""

    Config: Any
    CLAIMS: Sequence[Claim]
    run: Callable[[Any, Log], Report]
    plot: "Callable[[Report], dict[str, Figure]]"


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags that every paper has."""

    out: Path | None = None
    """Folder for report and figures (default: runs/SLUG)."""
    resume: bool = False
    """Go on from the last checkpoint in the folder; finished runs are kept."""
    full: bool = False
    """Start from the paper's own scale instead of the small defaults."""
    seed: int | None = None
    """Run this seed alone (short for --seeds SEED)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: CUDA where there is one, else the CPU."""
    threads: int | None = None
    """Threads that torch computes with (default: 1; with --full, torch's own choice)."""
    data: Path | None = None
    """Folder or file of your own data, in the form that the example's docstring names."""
    checkpoint_every: int | None = None
    """Training steps between checkpoints (default: one epoch)."""
    json: bool = False
    """Print the report as JSON on standard output; progress stays on standard error."""


def parse(example: Example, slug: str, arguments: Sequence[str]) -> tuple[Any, Options]:
    """Read the flags of one example: those of `Options`, and one for each field of its ``Config``.

    Exits with status 2, naming the flag, where one does not parse.

    Raises
    ------
    UsageError
        If the example's ``Config`` refuses the values.
    """
    try:
        default = example.Config.full() if "--full" in arguments else example.Config()
        _check_fields(slug, default)
        both = dataclasses.make_dataclass(
            "Run", [("paper", example.Config, default), ("run", Options, Options())], frozen=True
        )
        parsed: Any = tyro.cli(
            both,
            prog=f"holonomy run {slug}",
            description=(sys.modules[example.Config.__module__].__doc__ or "").strip(),
            args=list(arguments),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
        config, options = parsed.paper, parsed.run
        if options.seed is not None:
            config = dataclasses.replace(config, seeds=(options.seed,))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not config.seeds:
        raise UsageError("--seeds must name at least one seed")
    return config, options


def execute(example: Example, slug: str, config: Any, options: Options = Options()) -> tuple[Report, list[Verdict]]:
    """Run an example and write ``report.json`` and the figures; return its report and the verdicts on its claims.

    Raises
    ------
    UsageError
        For a device that is not there, threads below one, or a folder that holds another configuration's checkpoints.
    """
    device = choose_device(options.device)
    for name in ("threads", "checkpoint_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.threads is not None or not options.full:
        # Small networks gain nothing by a second thread, and lose much where other work shares the cores.
        torch.set_num_threads(options.threads or 1)
    out = _folder(slug, options)
    require("matplotlib", "matplotlib").use("Agg")
    with distributed.process_group(device):
        first = distributed.rank() == 0
        state = _prepare(out, slug, config, options)
        begin = time.perf_counter()
        progress = console(stderr=True, quiet=not first)
        with Log(device, state, options.data, progress, options.checkpoint_every) as log:
            report = example.run(config, log)
        judged = [claim.judge(report) for claim in example.CLAIMS]
        if first:
            figures = save_figures(example.plot(report), out)
            document = {
                "schema": SCHEMA,
                "slug": slug,
                "holds": all(verdict.holds for verdict in judged),
                "claims": [verdict.as_dict() for verdict in judged],
                "config": plain(dataclasses.asdict(config)),
                "seeds": list(config.seeds),
                "device": device.type,
                "threads": torch.get_num_threads(),
                "processes": distributed.size(),
                "seconds": round(time.perf_counter() - begin, 3),
                "versions": _versions(),
                "figures": figures,
                "trials": report.as_list(),
            }
            checkpoint.save_json(_finite(document), out / "report.json")
    return report, judged


def main(example: Example, slug: str, title: str, arguments: Sequence[str]) -> int:
    """Run an example for the command line.

    Returns
    -------
    int
        0 where every claim holds, 1 where one fails, 2 where the request cannot be run, 130 where it was interrupted.
    """
    first = not distributed.launched() or os.environ["RANK"] == "0"
    try:
        config, options = parse(example, slug, arguments)
        out = console(quiet=options.json or not first)
        out.print(f"{title}, {len(config.seeds)} seed{'s' * (len(config.seeds) != 1)}")
        _, judged = execute(example, slug, config, options)
    except UsageError as error:
        console(stderr=True).print(f"holonomy run {slug}: {error}", style="red", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console(stderr=True).print(f"interrupted; --resume goes on: holonomy run {slug} {' '.join(arguments)} --resume")
        return 130
    folder = _folder(slug, options)
    if options.json and first:
        print((folder / "report.json").read_text(encoding="utf-8"), end="")
    out.print(verdict_table(verdict.as_row() for verdict in judged))
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    out.print(f"figures and report: {folder}/ ({', '.join(files)})", soft_wrap=True)
    # Under torchrun the first process alone reports: any other that failed would have the first one ended unheard.
    return 0 if not first or all(verdict.holds for verdict in judged) else 1


def choose_device(name: str) -> torch.device:
    """Turn ``--device`` into a device that is there.

    Raises
    ------
    UsageError
        If torch does not know the name, or the machine lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.launched():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here ({reason}); `holonomy doctor` lists devices") from error
    if device.type == "meta":
        raise UsageError("--device meta holds no numbers; use cpu, cuda, mps or auto")
    return device


def _folder(slug: str, options: Options) -> Path:
    return options.out or Path("runs") / slug


def _check_fields(slug: str, default: Any) -> None:
    own = {field.name for field in dataclasses.fields(Options)}
    clash = own & {field.name for field in dataclasses.fields(default)}
    if clash or not hasattr(default, "seeds"):
        raise TypeError(f"{slug}.Config needs the field seeds, and none of {sorted(own)}; it has {sorted(clash)}")


def _prepare(out: Path, slug: str, config: Any, options: Options) -> Path:
    """Make the folder of a fresh run, or check that the one of a resumed run is its own; return the state's folder."""
    state = out / "state"
    identity = {
        "slug": slug,
        "config": plain(dataclasses.asdict(config)),
        "data": None if options.data is None else str(options.data),
        "processes": distributed.size(),
    }
    del identity["config"]["seeds"]  # trials are kept by seed: a resumed run may add some
    path = state / "run.json"
    before = distributed.from_first(json.loads(path.read_text("utf-8")) if options.resume and path.exists() else None)
    if before is not None and before != identity:
        flat_before, flat_now = _flat(before), _flat(identity)
        differing = [
            f"{name}: {flat_before.get(name)!r} then, {flat_now.get(name)!r} now"
            for name in sorted(flat_before.keys() | flat_now.keys())
            if flat_before.get(name) != flat_now.get(name)
        ]
        raise UsageError(
            f"{out} holds a run with another configuration ({'; '.join(differing)}); repeat its flags to resume it, "
            "leave out --resume to start over, or choose another --out"
        )
    if distributed.rank() == 0:
        (out / "report.json").unlink(missing_ok=True)  # it belongs to the run before; this one may not get to its own
    if before is None and distributed.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        checkpoint.save_json(identity, path)
    distributed.barrier()
    return state


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in identity.items() if key != "config"}, **identity["config"]}


def _versions() -> dict[str, str]:
    found = {"holonomy": __version__, "python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _finite(value: Any) -> Any:
    # JSON has no NaN and no infinity: null stands for both.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value

"""Fuzzing of all manifolds: random configurations, hard inputs, every operation and dtype, and what must hold.

``make fuzz``, or ``python tests/manifolds/fuzz.py --calls 1000000 --seed 0``. One trial has one integer seed, which
fixes its configuration, dtype and inputs; a failure is reported with it, and ``--replay SEED`` runs it alone.

What is checked in each trial: values are finite, and gradients of their sum; results are points and tangent vectors,
up to the rounding of the dtype; bad input raises ValueError or TypeError, and nothing but these; an operation that is
lacking raises NotImplementedError. A value that is not finite passes where the same operation in the next wider dtype
shows that it is beyond the range of the dtype.

A call is an operation on one point of a batch: a batch of 64 counts 64. The report says how many calls from Python
that were.
"""

import argparse
import collections
import itertools
import json
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from cases import CASES, OPERATIONS, Operation
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from holonomy.manifolds import ConvergenceError
from holonomy.manifolds.testing import (
    PAIR_KINDS,
    POINT_KINDS,
    SPACES,
    TANGENT_KINDS,
    Space,
    draw_pair,
    draw_points,
    draw_tangents,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WIDER = {torch.float32: torch.float64, torch.bfloat16: torch.float32, torch.float16: torch.float32}
BATCH = 64
#: Pairs of points, which `cases` leaves out, since its results have another shape.
CDIST = Operation("cdist", ("x", "y"), ("matrix",))
ALL = (*OPERATIONS, CDIST)


@dataclass(frozen=True)
class Failure:
    """What went wrong in a trial."""

    seed: int
    space: str
    operation: str
    dtype: str
    inputs: str
    what: str


@dataclass
class Report:
    """Counts of calls by (manifold, operation, dtype), of calls from Python, and failures."""

    calls: collections.Counter[tuple[str, str, str]] = field(default_factory=collections.Counter)
    python_calls: int = 0
    refusals: int = 0
    unconverged: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Operation calls, each point of a batch counted."""
        return sum(self.calls.values())


@dataclass(frozen=True)
class Trial:
    """A configuration with its inputs, all from one seed."""

    seed: int
    space: Space
    dtype: torch.dtype
    inputs: dict[str, Tensor]
    description: str

    @classmethod
    def draw(cls, seed: int, batch: int = BATCH) -> "Trial":
        """Draw the trial of a seed: a row of the table of cases one time in four, else any configuration."""
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        if rng.random() < 0.25:
            case = rng.choice(CASES)
            space = Space(case.manifold(), case.shape)
        else:
            space = SPACES[rng.choice(sorted(SPACES))](rng.choice)
        dtype = rng.choice(DTYPES)
        first, second = rng.choice(POINT_KINDS), rng.choice(PAIR_KINDS)
        kinds = [rng.choice(TANGENT_KINDS) for _ in range(2)]
        x = draw_points(first, space.manifold, (batch, *space.shape), generator, dtype)
        u, v = (draw_tangents(kind, space.manifold, x, generator) for kind in kinds)
        if rng.random() < 0.2:
            v = u.clone()
        ambient = {name: torch.randn(x.shape, generator=generator).to(dtype) for name in ("egrad", "ehess", "a")}
        inputs = {"x": x, "y": draw_pair(second, space.manifold, x, generator), "u": u, "v": v, **ambient}
        inputs["a"] = x + 0.1 * inputs["a"] * x.abs().amax(tuple(range(1, x.ndim)), keepdim=True)
        return cls(seed, space, dtype, inputs, f"{first} x, {second} y, {kinds[0]} u, {kinds[1]} v")

    def failure(self, operation: str, what: str) -> Failure:
        """Describe a failure of this trial."""
        return Failure(
            self.seed, f"{self.space.manifold!r}{self.space.shape}", operation, str(self.dtype), self.description, what
        )


# -- what must hold ----------------------------------------------------------------------------------------------------


def evaluate(trial: Trial, operation: Operation, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Results of an operation, and the gradients of their sum, on the trial's inputs in another dtype."""
    free = {name: trial.inputs[name].to(dtype).requires_grad_() for name in operation.takes}
    results = operation(trial.space.manifold, free)
    total = sum(t.sum() for t in (*results, *(0.0 * t for t in free.values())))
    return results, torch.autograd.grad(total, tuple(free.values()))


def check_operation(trial: Trial, operation: Operation) -> Iterator[str]:
    """Say what does not hold of one operation."""
    results, gradients = evaluate(trial, operation, trial.dtype)
    names = [f"value {i}" for i in range(len(results))] + [f"gradient in {name!r}" for name in operation.takes]
    wide: tuple[Tensor, ...] | None = None
    for i, (name, t) in enumerate(zip(names, (*results, *gradients), strict=True)):
        bad = ~torch.isfinite(t)
        if not bool(bad.any()):
            continue
        if wide is None and trial.dtype in WIDER:
            values, slopes = evaluate(trial, operation, WIDER[trial.dtype])
            wide = (*values, *slopes)
        # Sums of gradients over a batch cannot overflow: each point has its own. An eighth of the range leaves room
        # for the intermediate terms of one formula.
        limit = torch.finfo(trial.dtype).max / 8.0
        if wide is None or bool((torch.isfinite(wide[i]) & (wide[i].abs() < limit) & bad).any()):
            where = int(torch.nonzero(bad)[0, 0])
            yield f"{name} is not finite, at point {where} of the batch ({int(bad.sum())} entries)"
    for result, kind in zip(results, operation.gives, strict=True):
        yield from check_membership(trial, operation, result.detach(), kind, results[0].detach())


def check_membership(trial: Trial, operation: Operation, result: Tensor, kind: str, point: Tensor) -> Iterator[str]:
    """Say whether a result is no point, or no tangent vector, beyond the rounding of its dtype."""
    if not bool(torch.isfinite(result).all()):
        return
    manifold, wide = trial.space.manifold, result.double()
    # Eight roundings of coordinates, as in the contract's tests, in products with the point; a step along a tangent
    # vector multiplies those of the point by its length. Sinkhorn's own tolerances are beside it.
    x = trial.inputs["x"].double()
    size = max(1.0, *(float(t.detach().abs().amax()) for t in (x, wide if kind == "point" else x)))
    length = max(1.0, float(trial.inputs["u"].detach().double().abs().amax())) if "u" in operation.takes else 1.0
    allowed = 64.0 * torch.finfo(trial.dtype).eps * size**2 * length
    if "Birkhoff" in repr(manifold):
        allowed += 1e-8 if trial.dtype == torch.float64 else 1e-4
    if kind == "point":
        found = manifold.check_point_on_manifold(wide, atol=allowed, explain=True)
    elif kind == "tangent at x":
        found = manifold.check_vector_on_tangent(x, wide, ok_point=True, atol=allowed, explain=True)
    elif kind == "tangent at y":
        y = trial.inputs["y"].double()
        allowed *= max(1.0, float(y.abs().amax())) ** 2
        found = manifold.check_vector_on_tangent(y, wide, ok_point=True, atol=allowed, explain=True)
    elif kind == "tangent" and operation.name in ("expmap_transp", "retr_transp"):
        y = point.double()
        if not bool(torch.isfinite(y).all()):
            return
        allowed *= max(1.0, float(y.abs().amax())) ** 2
        found = manifold.check_vector_on_tangent(y, wide, ok_point=True, atol=allowed, explain=True)
    else:
        return
    assert isinstance(found, tuple)
    if not found[0]:
        yield f"the result {found[1]}"


def bad_calls(trial: Trial, operation: Operation) -> Iterator[tuple[str, bool, Callable[[], Any]]]:
    """Calls with bad input: what is bad, whether it must be refused, and the call."""
    manifold = trial.space.manifold
    name = operation.takes[-1]
    good = trial.inputs[name]

    def call(value: Any) -> Callable[[], Any]:
        return lambda: operation(manifold, {**trial.inputs, name: value})

    yield "no tensor", True, call([1.0, 2.0])
    yield "an integer tensor", True, call(torch.ones(good.shape, dtype=torch.int64))
    yield "a complex tensor", True, call(good.to(torch.complex64))
    if manifold.ndim:
        yield "too few dimensions", True, call(torch.tensor(1.0, dtype=trial.dtype))
    if len(operation.takes) > 1:
        yield "a batch that does not broadcast", operation is not CDIST, call(good[:3])
        if manifold.ndim:
            yield "another size", True, call(torch.cat([good, good], -1))
    # What is not looked at without `validate` may give anything, but no error of another kind.
    yield "NaN", False, call(torch.full_like(good, torch.nan))
    yield "infinity", False, call(torch.full_like(good, torch.inf))
    yield "zeros", False, call(torch.zeros_like(good))
    yield "an empty batch", False, call(good[:0])


def check_refusals(trial: Trial, operation: Operation, report: Report) -> Iterator[str]:
    """Say where bad input was taken, or refused by an exception of another kind."""
    for what, must_refuse, call in bad_calls(trial, operation):
        report.refusals += 1
        try:
            call()
        except (ValueError, TypeError, ConvergenceError):
            continue
        except Exception as error:
            yield f"{what} raises {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        else:
            if must_refuse:
                yield f"{what} is taken"


def run_trial(seed: int, report: Report, *, batch: int = BATCH, refusals: bool = False) -> None:
    """Run all operations of a trial, and add what happened to the report."""
    try:
        trial = Trial.draw(seed, batch)
    except Exception as error:
        what = f"drawing raises {type(error).__name__}: {error}"
        report.failures.append(Failure(seed, "?", "draw", "?", "?", what))
        return
    manifold, dtype = trial.space.manifold, str(trial.dtype).removeprefix("torch.")
    for operation in ALL:
        try:
            found = list(check_operation(trial, operation))
        except NotImplementedError as error:
            found = [] if f"{manifold.name} has no" in str(error) or _lacks(trial) else [f"raises {error!r}"]
            report.failures += [trial.failure(operation.name, what) for what in found]
            continue
        except ConvergenceError:
            # Stiefel's logarithm says so where points are further apart than its algorithm reaches.
            report.unconverged += 1
            continue
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            found = [f"raises {type(error).__name__} at {line.filename}:{line.lineno}: {str(error)[:200]}"]
        if refusals:
            found += check_refusals(trial, operation, report)
        report.calls[manifold.name, operation.name, dtype] += batch  # also of cdist, which has batch^2 results
        report.python_calls += 1
        report.failures += [trial.failure(operation.name, what) for what in found]


def _lacks(trial: Trial) -> bool:
    """Whether the manifold is composed of others, whose names are in the text then."""
    return trial.space.manifold.name in ("Product", "Power", "Scaled")


# -- the command -------------------------------------------------------------------------------------------------------


def fuzz(calls: int, seed: int, *, batch: int = BATCH, progress: Callable[[int], None] = lambda done: None) -> Report:
    """Run trials ``seed * 10**9, ...`` until so many calls are made; every tenth also tries bad input."""
    report = Report()
    for i in itertools.count():
        if report.total >= calls:
            return report
        run_trial(seed * 10**9 + i, report, batch=batch, refusals=i % 10 == 0)
        progress(report.total)
    raise AssertionError("unreachable")


def show(report: Report, console: Console) -> None:
    """Print counts and failures."""
    table = Table(title="calls; each point of a batch counts")
    dtypes = [str(d).removeprefix("torch.") for d in DTYPES]
    for column in ("manifold", *dtypes, "operations"):
        table.add_column(column, justify="left" if column == "manifold" else "right")
    for name in sorted({key[0] for key in report.calls}):
        row = {key: n for key, n in report.calls.items() if key[0] == name}
        sums = [sum(n for key, n in row.items() if key[2] == dtype) for dtype in dtypes]
        table.add_row(name, *(f"{n:,}" for n in sums), str(len({key[1] for key in row})))
    console.print(table)
    groups: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in report.failures:
        groups.setdefault((failure.space.partition("(")[0], failure.operation, failure.what[:40]), []).append(failure)
    for group in groups.values():
        first = group[0]
        console.print(
            f"{len(group)} times: {first.space} {first.operation} {first.dtype} [{first.inputs}]: {first.what}"
            f"\n    replay with --replay {first.seed}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{report.total:,} calls ({report.python_calls:,} from Python), {report.refusals:,} calls with bad input, "
        f"{report.unconverged} batches beyond the reach of Stiefel's logarithm, "
        f"{len(report.failures)} failures in {len(groups)} groups"
    )


def main() -> int:
    """Parse the command line, fuzz, report; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls to make (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first trial (default 0)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run the one trial that was reported with this seed")
    parser.add_argument("--json", metavar="PATH", help="write counts and failures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console, start = Console(), time.perf_counter()
    if arguments.replay is not None:
        report = Report()
        run_trial(arguments.replay, report, refusals=True)
    else:
        columns = (TextColumn("fuzzing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("fuzzing", total=arguments.calls)
            report = fuzz(arguments.calls, arguments.seed, progress=lambda done: bar.update(task, completed=done))
    show(report, console)
    console.print(f"{time.perf_counter() - start:.0f} s")
    if arguments.json:
        counts = {" ".join(key): n for key, n in sorted(report.calls.items())}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"calls": counts, "failures": [vars(f) for f in report.failures]}, file, indent=1)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())

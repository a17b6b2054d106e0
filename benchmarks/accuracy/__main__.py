"""``python -m benchmarks.accuracy``: errors against fifty digits, ours beside the peers', written to docs/accuracy.md.

Exits with 1 where one of our values or gradients is not finite, or further off than 64 roundings times the condition
number of what was asked. ``--only TEXT`` shows the rows that contain it and writes nothing.
"""

import argparse
import math
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.accuracy.exact import MP, OPERATIONS, Operation, Vector, jacobian
from benchmarks.accuracy.libraries import LIBRARIES
from benchmarks.accuracy.points import REGIMES, SAMPLES, Regime
from holonomy._console import console

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"

#: Roundings that we allow ourselves, times the condition number.
ALLOWED = 64.0

#: Part of a gradient that belongs to the manifold: libraries extend functions differently off it.
TANGENTIAL = {
    "PoincareBall": lambda x, g: g,
    "Lorentz": lambda x, g: g[1:] + g[0] * x[1:] / x[0],
    "Sphere": lambda x, g: g - (g @ x) * x,
}


@dataclass(frozen=True)
class Row:
    """One table row: what was asked, how well-conditioned it is, and each library's largest error."""

    regime: Regime
    quantity: str
    dtype: torch.dtype
    condition: float
    errors: dict[str, float]
    bad: dict[str, int]

    @property
    def holds(self) -> bool:
        """Whether ours is finite and as exact as the condition allows."""
        allowed = ALLOWED * torch.finfo(self.dtype).eps * max(1.0, self.condition)
        return self.bad["holonomy"] == 0 and self.errors["holonomy"] <= allowed


def _exact(t: Tensor) -> Vector:
    return [MP.mpf(value) for value in t.double().flatten().tolist()]


def _gap(got: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry; absolute where that is 0."""
    scale = float(wanted.abs().amax())
    return float((got.double() - wanted).abs().amax()) / (scale if scale > 0.0 else 1.0)


def _vector(values: Vector) -> Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


@dataclass(frozen=True)
class Known:
    """A result at fifty digits, rounded, with its condition number."""

    value: Tensor
    condition: float


def _known(operation: Operation, inputs: list[Vector]) -> Known:
    value = operation(*inputs)
    scale = max(abs(v) for v in value)
    if scale == 0:
        return Known(_vector(value), 1.0)
    slopes = [jacobian(operation, inputs, which) for which in (0, 1)]
    # Of tangent vectors and points alike, every coordinate may be off by a rounding of the largest.
    sizes = [max(abs(t) for t in given) for given in inputs]
    amounts = (
        MP.fsum(size * abs(row[i]) for size, rows in zip(sizes, slopes, strict=True) for row in rows)
        for i in range(len(value))
    )
    return Known(_vector(value), float(max(amounts) / scale))


def _known_gradient(operation: Operation, inputs: list[Vector], distance: Tensor) -> Known | None:
    """Of a distance by its first point; None where the points coincide, and there is none."""
    if float(distance) == 0.0:
        return None
    return _known(lambda *given: [row[0] for row in jacobian(operation, list(given), 0)], inputs)


def _measure(regime: Regime, dtype: torch.dtype) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    first, second = (t.to(dtype) for t in regime.draw(generator))
    operation_known = OPERATIONS[regime.manifold, regime.operation]
    inputs = [[_exact(x), _exact(y)] for x, y in zip(first, second, strict=True)]
    known = [_known(operation_known, given) for given in inputs]
    project = TANGENTIAL.get(regime.manifold) if regime.operation == "dist" else None
    slopes: list[Known | None] = [None] * len(known)
    if project is not None:
        slopes = [_known_gradient(operation_known, g, k.value) for g, k in zip(inputs, known, strict=True)]
    value = Row(regime, regime.operation, dtype, max(k.condition for k in known), {}, {})
    steepest = max((s.condition for s in slopes if s is not None), default=1.0)
    slope = Row(regime, "its gradient", dtype, steepest, {}, {})
    for library, (table, differentiable) in LIBRARIES.items():
        operation = table.get((regime.manifold, regime.operation))
        if operation is None:
            continue
        graded = differentiable and project is not None
        for row in (value, slope)[: 1 + graded]:
            row.errors[library], row.bad[library] = 0.0, 0
        for x, y, wanted, wanted_slope in zip(first, second, known, slopes, strict=True):
            free = x.clone().requires_grad_(graded)
            got = operation(free, y)
            _note(value, library, got.detach().flatten(), wanted.value)
            if graded and project is not None:
                (g,) = torch.autograd.grad(got.sum(), free)
                at = x.double()
                # At distance 0 there is no gradient: any subgradient will do, so long as it is finite.
                target = None if wanted_slope is None else project(at, wanted_slope.value)
                _note(slope, library, project(at, g.double()), target)
    return [row for row in (value, slope) if row.errors]


def _note(row: Row, library: str, got: Tensor, wanted: Tensor | None) -> None:
    if not bool(torch.isfinite(got).all()):
        row.bad[library] += 1
    elif wanted is not None:
        row.errors[library] = max(row.errors[library], _gap(got, wanted))


def _cell(row: Row, library: str) -> str:
    if library not in row.errors:
        return ""
    bad = f" ({row.bad[library]} not finite)" if row.bad[library] else ""
    if row.bad[library] == SAMPLES:
        return "not finite"
    return f"{row.errors[library]:.1e}{bad}"


def _best(row: Row) -> bool:
    """Whether none is closer, apart from the last rounding."""
    ours = row.errors["holonomy"]
    floor = 2.0 * torch.finfo(row.dtype).eps
    return all(
        max(ours, floor) <= max(error, floor) * 1.0001 or row.bad[name]
        for name, error in row.errors.items()
        if name != "holonomy"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


HEADINGS = ("points", "asked", "dtype", "condition", *LIBRARIES)


def _cells(row: Row) -> list[str]:
    return [
        row.regime.name,
        row.quantity,
        _name(row.dtype),
        f"{row.condition:.0e}",
        *(_cell(row, n) for n in LIBRARIES),
    ]


def _page(rows: list[Row]) -> str:
    beaten = [row for row in rows if not _best(row)]
    wide = [row for row in rows if not row.holds]
    lines = [
        "# Accuracy",
        "",
        "Largest errors against 50 digits of the same inputs, relative to the largest entry of the result (absolute",
        f"where that is 0), over {SAMPLES} random pairs a row. The condition number is how much a relative change of",
        "coordinates can grow in the result: an error of eps times it is none of the formula's. Gradients are",
        "compared along the manifold; where points coincide, a distance has none, and it must only be finite. An empty",
        "cell: the library does not offer the operation, or no gradients.",
        "",
        f"{len(rows)} rows; in {len(rows) - len(beaten)} no peer is closer by more than a rounding, in"
        f" {len(rows) - len(wide)} the error is within 64 eps times the condition number. Made by `make accuracy` on"
        f" {datetime.now(UTC):%d %B %Y} with {', '.join(f'{name} {version(name)}' for name in _VERSIONS)}.",
        "",
    ]
    for manifold in dict.fromkeys(row.regime.manifold for row in rows):
        lines += [f"## {manifold}", "", f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows if row.regime.manifold == manifold]
        lines.append("")
    for title, chosen in (("A peer is closer", beaten), ("Beyond 64 eps times the condition number", wide)):
        lines += [f"## {title}", ""]
        lines += [f"- {r.regime.manifold}, {r.quantity}, {r.regime.name}, {_name(r.dtype)}" for r in chosen] or [
            "Nowhere."
        ]
        lines.append("")
    return "\n".join(lines)


_VERSIONS = ("torch", "geoopt", "hypll", "geomstats", "pymanopt", "mpmath")


def _write(text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=PAGE.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(PAGE)


def main() -> int:
    """Measure, print, write; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows whose manifold, operation or points contain TEXT"
    )
    only = parser.parse_args().only
    warnings.simplefilter("ignore")  # the peers' own
    chosen = [r for r in REGIMES if only in f"{r.manifold} {r.operation} {r.name}"]
    rows: list[Row] = []
    for regime in track(chosen, description="measuring", console=console()):
        for dtype in regime.dtypes:
            rows += _measure(regime, dtype)
    table = Table(title="largest errors against fifty digits")
    for heading in ("manifold", *HEADINGS, "holds"):
        table.add_column(heading, no_wrap=heading == "holds")
    for row in rows:
        table.add_row(row.regime.manifold, *_cells(row), "yes" if row.holds else "no")
    console().print(table)
    if not only:
        _write(_page(rows))
    return 0 if all(row.holds and not math.isnan(row.errors["holonomy"]) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

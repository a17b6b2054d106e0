"""``python -m benchmarks``: time every case against its peers, print the ratios, write them down.

Exits with 1 where a promised ratio is not met, unless ``--quick``, whose few rounds only show that the cases run.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.figure import draw
from benchmarks.timing import Floors, interleave, machine_name, measure_floors
from holonomy._console import console

RESULTS = Path(__file__).parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing is written or judged")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases whose name contains TEXT")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1, as the figures state)")
    parser.add_argument("--rounds", type=int, default=25, help="rounds at most (default 25)")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for one case (default 6)")
    arguments = parser.parse_args()
    for name in ("threads", "rounds", "seconds"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive, got {getattr(arguments, name)}")
    return arguments


def _row(name: str, floor: float, timings: dict[str, Any], wanted: dict[str, float]) -> dict[str, Any]:
    ours = timings["holonomy"].median
    return {
        "case": name,
        "floor_ms": floor * 1e3,
        "ms": {k: t.median * 1e3 for k, t in timings.items()},
        "minimum_ms": {k: t.minimum * 1e3 for k, t in timings.items()},
        "rounds": {k: t.rounds for k, t in timings.items()},
        "ratio": {k: t.median / ours for k, t in timings.items() if k != "holonomy"},
        "wanted": wanted,
        "holds": all(timings[k].median / ours >= bound for k, bound in wanted.items()),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="time over Holonomy's time; medians of interleaved rounds, float32")
    for column in ("case", "floor ms", "ours ms", "peer", "peer ms", "ratio", "wanted", "holds"):
        table.add_column(column, justify="left" if column in ("case", "peer") else "right", no_wrap=True)
    for row in rows:
        first = True
        for peer, ratio in row["ratio"].items():
            bound = row["wanted"].get(peer)
            table.add_row(
                row["case"] if first else "",
                f"{row['floor_ms']:.3f}" if first else "",
                f"{row['ms']['holonomy']:.3f}" if first else "",
                peer,
                f"{row['ms'][peer]:.3f}",
                f"{ratio:.2f}",
                "" if bound is None else f">= {bound:g}",
                "" if bound is None else ("yes" if ratio >= bound else "NO"),
            )
            first = False
    return table


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(rows: list[dict[str, Any]], floors: Floors) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{machine_name()}.json"
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("torch", "geoopt", "hypll", "pymanopt", "numpy")},
        "copy_gigabytes_a_second": floors.bandwidth / 1e9,
        "matmul_gigaflops": floors.flops / 1e9,
        "rows": rows,
    }
    with tempfile.NamedTemporaryFile("w", dir=RESULTS, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    os.replace(file.name, path)
    return path


def main() -> int:
    """Run the cases; return the exit status."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    threadpool_limits(arguments.threads)  # numpy's threads, for the peers that compute with it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # geoopt compiles TorchScript on import
        from benchmarks.cases import CASES
    out = console()
    chosen = [case for case in CASES if arguments.only in case.name]
    if not chosen:
        out.print(f"no case has {arguments.only!r} in its name; there are: {', '.join(c.name for c in CASES)}")
        return 2
    rounds, seconds, warmup = (1, 0.1, 1) if arguments.quick else (arguments.rounds, arguments.seconds, 2)
    floors = measure_floors()
    rows = []
    for case in track(chosen, description="benchmarks", console=out):
        timings = interleave(case.build(), rounds=rounds, seconds=seconds, warmup=warmup)
        rows.append(_row(case.name, floors.seconds(case.bytes_moved, case.flops), timings, case.wanted))
    out.print(_table(rows))
    out.print(f"copy {floors.bandwidth / 1e9:.1f} GB/s, matmul {floors.flops / 1e9:.0f} GFLOP/s")
    if arguments.quick:
        return 0
    if not arguments.only:
        path = _write(rows, floors)
        title = f"float32, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}, {machine_name()}"
        draw(rows, title, path.with_suffix(".png"))
        out.print(f"written: {path} and {path.with_suffix('.png').name}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

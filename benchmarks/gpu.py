"""Bandwidth of the CUDA row kernels, forward and backward, as a share of what a copy reaches on the same GPU.

``python -m benchmarks.gpu`` writes ``benchmarks/results/gpu-<name>.json``; without a CUDA device or CuPy it says so and
ends with status 2. Bytes are what a kernel must read and write, each once.
"""

import argparse
import datetime
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_blocks
from holonomy.manifolds import gyrovector, hyperboloid, kernels, spherical
from holonomy.manifolds.kernels.cuda import run

ROOMS = {"ball": gyrovector, "lorentz": hyperboloid, "sphere": spherical}
CALLS = 4
RESULTS = Path(__file__).parent / "results"


def milliseconds(function: Callable[[], Any], repeats: int) -> list[float]:
    """Times of a call on the device, each the mean of a few in a row, after three that are not counted.

    In a row, so that the host prepares a call while the device is busy with the one before it.
    """
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return times


def inputs(module: str, operation: Any, rows: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Points at moderate distances from the origin, and vectors."""
    x, y, u = (torch.randn(rows, size, device="cuda", dtype=dtype) for _ in range(3))
    if module == "ball":
        x, y, u = (0.5 * t / size**0.5 for t in (x, y, u))
    elif module == "lorentz":
        x, y = (hyperboloid.project.reference(t / size**0.5, 1.0) for t in (x, y))
        u = u / size**0.5
    else:
        x, y = (spherical.project.reference(t) for t in (x, y))
    kind = operation.__name__
    if kind.startswith("expmap0"):
        return [u]
    return [x, u, u][: operation.vectors] if "expmap" in kind else [x, y, u][: operation.vectors]


def case(module: str, name: str, rows: int, size: int, dtype: torch.dtype, copy: float, repeats: int) -> list[Any]:
    """Records of one operation: forward and backward."""
    operation = getattr(ROOMS[module], name)
    tensors = inputs(module, operation, rows, size, dtype)
    vectors, scalars = operation.result.count("v"), operation.result.count("s")
    outs = [torch.empty(rows, size if kind == "v" else 1, device="cuda", dtype=dtype) for kind in operation.result]
    grads = [torch.randn_like(t) for t in outs]
    back = [torch.empty_like(t) for t in tensors]
    c = torch.tensor(1.0, device="cuda", dtype=dtype) if operation.curved else None
    vector, scalar = rows * size * dtype.itemsize, rows * dtype.itemsize
    work = {
        "forward": (
            lambda: run.forward(operation, tensors, outs, c, 0.0),
            (len(tensors) + vectors) * vector + scalars * scalar,
        ),
        "backward": (
            lambda: run.backward(operation, grads, tensors, back, c, 0.0),
            (2 * len(tensors) + vectors) * vector + scalars * scalar,
        ),
    }
    records = []
    for direction, (function, size_moved) in work.items():
        times = milliseconds(function, repeats)
        rate = size_moved / statistics.median(times) * 1e3
        records.append(
            {
                "kernel": f"{module}.{name}",
                "direction": direction,
                "dtype": str(dtype).removeprefix("torch."),
                "rows": rows,
                "size": size,
                "bytes": size_moved,
                "median_ms": statistics.median(times),
                "least_ms": min(times),
                "bytes_per_second": rate,
                "share_of_copy": rate / copy,
            }
        )
    return records


def copy_rate(repeats: int) -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(milliseconds(lambda: target.copy_(source), repeats)) * 1e3


def product_rate(repeats: int, n: int = 8192) -> float:
    """Float32 operations a second of a matrix product."""
    a, b = (torch.randn(n, n, device="cuda") for _ in range(2))
    return 2.0 * n**3 / statistics.median(milliseconds(lambda: a @ b, repeats)) * 1e3


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    state = kernels.status()["cuda"]
    if state["live"] == "reference":
        print(f"no CUDA kernels to measure: {state['why']}", file=sys.stderr)
        return 2
    copy = copy_rate(options.repeats)
    records = []
    for dtype in (torch.float32, torch.float64):
        for module, names in run.KERNELS.items():
            for name in names:
                for record in case(module, name, options.rows, options.size, dtype, copy, options.repeats):
                    records.append(record)
                    print(
                        f"{record['kernel']:26}{record['direction']:10}{record['dtype']:9}"
                        f"{record['bytes_per_second'] / 1e9:8.0f} GB/s{record['share_of_copy']:8.2f}"
                    )
    peak = product_rate(options.repeats)
    others = gpu_blocks.records(milliseconds, copy, peak, options.repeats)
    name = torch.cuda.get_device_name()
    result = {
        "gpu": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "copy_bytes_per_second": copy,
        "product_flops_per_second": peak,
        "records": records,
        "blocks": others,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"copy: {copy / 1e9:.0f} GB/s; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

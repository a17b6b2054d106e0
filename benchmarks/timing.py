"""How the benchmarks measure: interleaved rounds in one process, medians, and the machine's floors."""

import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Floors", "Timing", "interleave", "machine_name", "measure_floors"]


@dataclass(frozen=True)
class Timing:
    """Wall time of one contender: median and minimum over the rounds, in seconds."""

    median: float
    minimum: float
    rounds: int


@dataclass(frozen=True)
class Floors:
    """What the machine can do: copy bandwidth in bytes read plus written a second, float32 matmul in flop/s."""

    bandwidth: float
    flops: float

    def seconds(self, bytes_moved: float, flops: float) -> float:
        """Least time for a case that moves so many bytes and does so many floating-point operations."""
        return max(bytes_moved / self.bandwidth, flops / self.flops)


def interleave(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float, warmup: int = 2
) -> dict[str, Timing]:
    """Time the contenders in turn, round after round, so that a disturbance hits all of them alike.

    A contender that alone takes more than a fifth of `seconds` runs three rounds only; the medians of the others
    come from up to `rounds` rounds within the time.
    """
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        for _ in range(warmup):
            start = time.perf_counter()
            contender()
            if time.perf_counter() - start > 1.0:
                break
    begin = time.perf_counter()
    for number in range(rounds):
        late = number >= 3 and time.perf_counter() - begin > seconds
        if late:
            break
        for name, contender in contenders.items():
            if len(spent[name]) >= 3 and statistics.median(spent[name]) > seconds / 5:
                continue
            start = time.perf_counter()
            contender()
            spent[name].append(time.perf_counter() - start)
    return {name: Timing(statistics.median(times), min(times), len(times)) for name, times in spent.items()}


def measure_floors() -> Floors:
    """Measure copy bandwidth (128 MB into existing memory) and float32 matmul speed with the threads now set."""
    source = torch.ones(32 << 20)
    target = torch.empty_like(source)
    a = torch.ones(1024, 1024)
    out = torch.empty_like(a)
    copy = interleave({"copy": lambda: target.copy_(source)}, rounds=9, seconds=3.0)["copy"]
    product = interleave({"matmul": lambda: torch.mm(a, a, out=out)}, rounds=9, seconds=3.0)["matmul"]
    return Floors(bandwidth=2 * source.nbytes / copy.median, flops=2 * 1024**3 / product.median)


def machine_name() -> str:
    """Name of the processor and its cores, fit for a file name; nothing that identifies one host."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        model = found.group(1) if found else model
    return re.sub(r"[^a-z0-9]+", "-", f"{model}-{torch.get_num_threads()}-threads".lower()).strip("-")

"""What this installation has: versions, devices, threads, kernels; and the line that installs what is missing."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from holonomy._version import __version__

_REQUIREMENT = re.compile(r"^([\w.-]+)[^;]*(?:;.*extra == [\"'](\w+)[\"'])?")
_EXTRAS = ("examples", "cuda")


def examine() -> dict[str, Any]:
    """Look at the installation.

    Returns
    -------
    dict
        ``holonomy`` and ``python`` versions; ``packages`` and, by extra, ``extras``, each name -> version or None;
        ``missing``, the required packages that are not there; ``devices``; ``threads``; ``kernels``.
    """
    import torch

    groups: dict[str, dict[str, str | None]] = {"": {}, **{extra: {} for extra in _EXTRAS}}
    for requirement in requires("holonomy") or ():
        match = _REQUIREMENT.match(requirement)
        if match and (match[2] or "") in groups:
            groups[match[2] or ""][match[1]] = _version(match[1])
    required = groups.pop("")
    return {
        "holonomy": __version__,
        "python": platform.python_version(),
        "packages": required,
        "extras": groups,
        "missing": [name for name, found in required.items() if found is None],
        "devices": _devices(torch),
        "threads": {
            "torch": torch.get_num_threads(),
            "torch_interop": torch.get_num_interop_threads(),
            "cores": os.cpu_count(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "kernels": _kernels(torch),
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Lay out what `examine` returned as (subject, finding) lines."""
    threads = found["threads"]
    lines = [("holonomy", f"{found['holonomy']} on Python {found['python']}")]
    lines += [(name, text or "MISSING: pip install holonomy") for name, text in found["packages"].items()]
    for extra, packages in found["extras"].items():
        absent = [name for name, text in packages.items() if text is None]
        present = ", ".join(f"{name} {text}" for name, text in packages.items() if text)
        advice = f"not installed: {', '.join(absent)}; pip install 'holonomy[{extra}]'" if absent else ""
        lines.append((f"extra {extra}", "; ".join(part for part in (present, advice) if part)))
    lines += [("device", f"{name}: {text}") for name, text in found["devices"].items()]
    lines.append(("threads", f"torch {threads['torch']} of {threads['cores']} cores"))
    lines += [(f"kernels on {name}", f"{kernel['live']}: {kernel['why']}") for name, kernel in found["kernels"].items()]
    return lines


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices(torch: Any) -> dict[str, str]:
    devices = {"cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            devices[f"cuda:{index}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Metal"
    return devices


def _kernels(torch: Any) -> dict[str, dict[str, str]]:
    """Say for each kind of device which implementation runs, and why."""
    from holonomy.manifolds import kernels

    return {d: found for d, found in kernels.status().items() if d == "cpu" or torch.cuda.is_available()}

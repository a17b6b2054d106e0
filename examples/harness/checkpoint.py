"""Files that are whole or absent, and the state of the random generators."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    # A name of its own, then an atomic rename: a reader, or a run that was killed here, sees the old file or the new.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_json(value: Any, path: Path, *, allow_nan: bool = False) -> None:
    """Write JSON in one piece."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=allow_nan) + "\n"
    _replace(path, lambda file: file.write(text.encode()))


def save_tensors(value: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, readable with ``weights_only=True``, in one piece."""
    _replace(path, lambda file: torch.save(value, file))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what an example calls may draw from it
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """Capture the global generators as tensors and plain values."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` captured."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    saved = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        ("MT19937", saved["key"].numpy().astype(np.uint32), saved["pos"], saved["has_gauss"], saved["gauss"])
    )
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))

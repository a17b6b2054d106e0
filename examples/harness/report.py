"""What an example measured: one record a trial, read as arrays over the seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Measurements = Mapping[str, Any]
"""Name -> number, tensor, array or nested list of numbers."""


@dataclass(frozen=True)
class Record:
    """The measurements of one finished trial, as plain numbers and nested lists, and the seconds that it took."""

    measurements: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Report:
    """Records by variant and seed.

    ``report[variant, name]`` is a float64 array whose first axis is the seeds, in the order that they ran in.
    ``first | second`` joins the reports of two sweeps.
    """

    trials: dict[str, dict[int, Record]] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        variant, name = key
        if variant not in self.trials:
            raise KeyError(f"no variant {variant!r}; the report has {', '.join(map(repr, self.trials))}")
        records = self.trials[variant].values()
        for record in records:
            if name not in record.measurements:
                raise KeyError(f"{variant!r} has no {name!r}; it has {', '.join(map(repr, record.measurements))}")
        return np.asarray([record.measurements[name] for record in records], dtype=np.float64)

    def __or__(self, other: "Report") -> "Report":
        merged = {variant: dict(records) for variant, records in self.trials.items()}
        for variant, records in other.trials.items():
            merged.setdefault(variant, {}).update(records)
        return Report(merged)

    def as_list(self) -> list[dict[str, Any]]:
        """Return the ``trials`` of report.json (docs/report.md)."""
        return [
            {"variant": variant, "seed": seed, "seconds": record.seconds, "measurements": record.measurements}
            for variant, records in self.trials.items()
            for seed, record in records.items()
        ]


def plain(value: Any) -> Any:
    """Turn tensors, arrays and numpy scalars, at any depth, into plain numbers and lists.

    Raises
    ------
    TypeError
        For what JSON cannot hold.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a measurement must be numbers, tensors or lists of them, got {type(value).__name__}")

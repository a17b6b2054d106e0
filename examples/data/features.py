"""Features of few-shot data sets, extracted elsewhere: base classes' mean, validation classes and novel classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holonomy.examples.errors import DataError

__all__ = ["Features", "load_features"]


@dataclass(frozen=True)
class Features:
    """Features and labels of the classes that tasks are drawn from.

    Attributes
    ----------
    mean : ndarray
        (d,): mean feature of the base classes.
    validation, novel : tuple of ndarray
        Features (N, d), floating, and labels (N,), int64.
    """

    mean: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    novel: tuple[np.ndarray, np.ndarray]


def load_features(path: Path | None) -> Features:
    """Read features from a NumPy archive.

    Parameters
    ----------
    path : Path
        An ``.npz`` with ``mean_base`` (d,), or ``x_base`` (N, d) in its place, and ``x_validation``, ``y_validation``,
        ``x_novel``, ``y_novel``: features (N, d) of mini-ImageNet, tiered-ImageNet, CUB or any other, and integers.

    Raises
    ------
    DataError
        If the file is not there or not of that form; the message names the array.
    """
    wanted = "an .npz with mean_base (or x_base), x_validation, y_validation, x_novel and y_novel"
    if path is None or not path.is_file():
        raise DataError(f"--data must name {wanted}, got {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x_validation", "y_validation", "x_novel", "y_novel")}
            mean = archive["mean_base"] if "mean_base" in archive else archive["x_base"].mean(0)
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"--data {path} is not {wanted}: {error}") from error
    pairs = [_pair(arrays, name, path) for name in ("validation", "novel")]
    if not pairs[0][0].shape[1:] == pairs[1][0].shape[1:] == mean.shape:
        raise DataError(
            f"--data {path}: features and mean must have one width, got {pairs[0][0].shape}, {pairs[1][0].shape} and "
            f"{mean.shape}"
        )
    return Features(mean, pairs[0], pairs[1])


def _pair(arrays: dict[str, np.ndarray], name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
    if x.ndim != 2 or y.shape != x.shape[:1] or not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"--data {path}: x_{name} must be floating (N, d) and y_{name} (N,), got {x.shape}, {y.shape}")
    if not np.issubdtype(y.dtype, np.integer) or not np.isfinite(x).all():
        raise DataError(f"--data {path}: y_{name} must be integers and x_{name} finite, got {y.dtype}")
    return x, y.astype(np.int64)

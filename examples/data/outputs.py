"""Outputs of a classifier that was trained elsewhere, with the tree or the embeddings of its label space."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from holonomy.examples.errors import DataError

__all__ = ["Outputs", "load_outputs"]

_WANTED = "an .npz with logits or probs, y, observed, and parents with labels, or embeddings"


@dataclass(frozen=True)
class Outputs:
    """Probabilities over observed labels, and what distances between all labels come from.

    Attributes
    ----------
    probs : ndarray
        (m, K), float64.
    y : ndarray
        Labels (m,), 0 to N - 1, int64.
    observed : ndarray
        Labels (K,) of the columns.
    parents, labels : ndarray or None
        Nodes' parents (nodes,), -1 at the root, and the node (N,) of each label.
    embeddings : ndarray or None
        (N, d).
    """

    probs: np.ndarray
    y: np.ndarray
    observed: np.ndarray
    parents: np.ndarray | None
    labels: np.ndarray | None
    embeddings: np.ndarray | None


def load_outputs(path: Path | None) -> Outputs:
    """Read outputs from a NumPy archive.

    Parameters
    ----------
    path : Path
        An ``.npz`` with ``logits`` or ``probs`` (m, K), ``y`` (m,), ``observed`` (K,), and ``parents`` (nodes,) with
        ``labels`` (N,), or ``embeddings`` (N, d); with both, the tree is the metric.

    Raises
    ------
    DataError
        If the file is not there or not of that form.
    """
    if path is None or not path.is_file():
        raise DataError(f"--data must name {_WANTED}, got {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise DataError(f"--data {path} is not {_WANTED}: {error}") from error
    tree = "parents" in arrays and "labels" in arrays
    missing = {"y", "observed"} - arrays.keys()
    if missing or not {"logits", "probs"} & arrays.keys() or not (tree or "embeddings" in arrays):
        raise DataError(f"--data {path} is not {_WANTED}: it has {sorted(arrays)}")
    probs = softmax(arrays["logits"].astype(float), axis=1) if "logits" in arrays else arrays["probs"].astype(float)
    y, observed = arrays["y"], arrays["observed"]
    if probs.ndim != 2 or y.shape != probs.shape[:1] or observed.shape != probs.shape[1:]:
        raise DataError(
            f"--data {path}: wanted outputs (m, K), y (m,) and observed (K,), got {probs.shape}, {y.shape} and "
            f"{observed.shape}"
        )
    if not all(np.issubdtype(part.dtype, np.integer) for part in (y, observed)):
        raise DataError(f"--data {path}: y and observed must be integers, got {y.dtype} and {observed.dtype}")
    return Outputs(
        probs,
        y.astype(np.int64),
        observed.astype(np.int64),
        arrays["parents"] if tree else None,
        arrays["labels"] if tree else None,
        arrays.get("embeddings"),
    )

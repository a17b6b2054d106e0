"""How well clusters agree with classes, and how subspaces of clusters lie to each other."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from holonomy.manifolds import Grassmann
from holonomy.manifolds.linalg import numerical_rank

__all__ = ["class_ranks", "cluster_angles", "clustering_accuracy", "mean_cosines"]


def clustering_accuracy(y: Any, labels: Any) -> float:
    """Share of points whose cluster is matched with their class, under the best one-to-one matching.

    Parameters
    ----------
    y, labels : array-like
        Classes and clusters of the same points, integers (n,), any values, any numbers of them. Of more clusters than
        classes those left over match nothing.

    Returns
    -------
    float
        Accuracy in [0, 1].

    Raises
    ------
    TypeError
        Where labels are not integers.
    ValueError
        Where the arrays are empty, not 1-D or of different lengths.
    """
    classes, clusters = _labels("clustering_accuracy", "y", y), _labels("clustering_accuracy", "labels", labels)
    if len(classes) != len(clusters):
        raise ValueError(
            f"clustering_accuracy: 'y' and 'labels' must be of one length, got {len(classes)} and {len(clusters)}"
        )
    rows, columns = (np.unique(part, return_inverse=True)[1] for part in (classes, clusters))
    counts = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(classes))


def class_ranks(z: Tensor, labels: Any, energy: float = 0.95) -> list[int]:
    """Numerical rank of the points Z (n, d) of each label, in the order of the labels."""
    groups = _labels("class_ranks", "labels", labels)
    return [numerical_rank(z[torch.from_numpy(groups == label)], energy) for label in np.unique(groups)]


def mean_cosines(z: Tensor, labels: Any) -> tuple[float, float]:
    """Mean |z_i . z_j| over the pairs i != j of one label, and over those of two.

    Parameters
    ----------
    z : Tensor
        Unit vectors (n, d).
    labels : array-like
        Integers (n,), at least two values, one of which has two points.

    Returns
    -------
    tuple of float
        Within and between.
    """
    groups = torch.from_numpy(_labels("mean_cosines", "labels", labels)).to(z.device)
    within = between = 0.0
    pairs = 0
    for part, own in zip(z.split(1024), groups.split(1024), strict=True):  # in blocks, for all pairs are n^2 numbers
        cosines = (part @ z.mT).abs().double()
        same = own.unsqueeze(1) == groups
        within += float(cosines[same].sum())
        between += float(cosines[~same].sum())
        pairs += int(same.sum())
    n = len(z)
    # A point's product with itself is left out.
    return (within - float(z.double().square().sum())) / max(pairs - n, 1), between / max(n * n - pairs, 1)


def cluster_angles(z: Tensor, labels: Any, dim: int) -> Tensor:
    """Principal angles between the subspaces that clusters span most of.

    A cluster's subspace is a point of the Grassmann manifold: the span of the `dim` leading right singular vectors of
    its rows.

    Parameters
    ----------
    z : Tensor
        Points (n, d).
    labels : array-like
        Integers (n,), k values.
    dim : int
        Dimension of the subspaces, at most d and the number of points of every label.

    Returns
    -------
    Tensor
        Angles (k, k, dim) in radians, rising.

    Raises
    ------
    ValueError
        If a label has fewer points than `dim`.
    """
    groups = _labels("cluster_angles", "labels", labels)
    bases = []
    for label in np.unique(groups):
        rows = z[torch.from_numpy(groups == label)]
        if not 1 <= dim <= min(rows.shape):
            raise ValueError(f"cluster_angles: 'dim' must be from 1 to {min(rows.shape)} for label {label}, got {dim}")
        bases.append(torch.linalg.svd(rows, full_matrices=False)[2][:dim].mT)
    stacked = torch.stack(bases)
    return Grassmann().principal_angles(stacked.unsqueeze(1), stacked.unsqueeze(0))


def _labels(where: str, name: str, labels: Any) -> np.ndarray:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{where}: {name!r} must be integers, got {array.dtype}")
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{where}: {name!r} has shape {array.shape}, wanted (n,) with n >= 1")
    return array

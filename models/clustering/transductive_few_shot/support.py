"""The labelled images of tasks: their classes as numbers from 0, their prototypes, and the rectified ones."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.models.clustering.transductive_few_shot.bound import one_hot
from holonomy.models.clustering.transductive_few_shot.inputs import points
from holonomy.models.clustering.transductive_few_shot.prototypes import mean_prototypes

__all__ = ["Support", "rectified", "support_of"]

#: Factor of cosines in the softmax that rectification weighs points by.
SHARPNESS = 10.0


class Support:
    """Labelled features of tasks of one size.

    Attributes
    ----------
    X : ndarray
        Features (tasks, m, d).
    y : ndarray
        Places (tasks, m) of their labels in `classes`.
    classes : ndarray
        (K,), rising.
    stacked : bool
        Whether several tasks were given, or one.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, classes: np.ndarray, stacked: bool) -> None:
        self.X, self.y, self.classes, self.stacked = X, y, classes, stacked

    def prototypes(self) -> np.ndarray:
        """Mean feature of each class, (tasks, K, d)."""
        K = len(self.classes)
        nothing = np.zeros((len(self.X), K, self.X.shape[2]), self.X.dtype)
        return mean_prototypes(self.X, one_hot(self.y, K, self.X.dtype), nothing)

    def queries(self, where: str, query: Any) -> np.ndarray:
        """Features of queries as (tasks, q, d), or the reason why they are of no use."""
        found = points(where, "query", query, stacked=self.stacked)
        if found.ndim != (3 if self.stacked else 2):
            raise ValueError(f"{where}: 'query' has shape {found.shape}, wanted (tasks, n, d) as of the support")
        found = found if self.stacked else found[None]
        if found.shape[0] != self.X.shape[0] or found.shape[2] != self.X.shape[2]:
            raise ValueError(
                f"{where}: 'query' must have the support's tasks and width, {self.X.shape[::2]}, got {found.shape[::2]}"
            )
        return found.astype(self.X.dtype)

    def as_given(self, result: np.ndarray) -> np.ndarray:
        """Results (tasks, ...), or of the one task that there is."""
        return result if self.stacked else result[0]


def support_of(where: str, support: Any, y: Any, classes: Any = None) -> Support:
    """Read the labelled features of one task, (m, d) and (m,), or of several, (tasks, m, d) and (tasks, m) or (m,).

    Every task must have a feature of each class: of those in `y`, or of `classes` where that is given.
    """
    X = points(where, "support", support, stacked=True)
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{where}: 'y' must be integers, got {labels.dtype}")
    stacked = X.ndim == 3
    if labels.shape not in (X.shape[:-1], X.shape[-2:-1]):
        raise ValueError(f"{where}: 'y' has shape {labels.shape}, wanted {X.shape[:-1]}, one label a feature")
    X = X if stacked else X[None]
    labels = np.broadcast_to(labels, X.shape[:2])
    names = np.unique(labels if classes is None else np.asarray(classes))
    if not np.isin(labels, names).all():
        raise ValueError(f"{where}: 'y' has labels that are not in 'classes', {names.tolist()}")
    if len(names) < 2:
        raise ValueError(f"{where}: 'y' must have at least 2 classes, got {names.tolist()}")
    places = np.searchsorted(names, labels)
    for k, name in enumerate(names):
        missing = (~(places == k).any(1)).nonzero()[0]
        if len(missing):
            raise ValueError(f"{where}: class {name} has no support in task {missing[0]}")
    return Support(X, places, names, stacked)


def rectified(support: Support, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries shifted to the support's mean, and prototypes as means of all points weighted by likeness.

    Weights are softmax(10 cos(x, m_k)) over the classes, of prototypes m_k that are the support's means.

    Returns
    -------
    query, prototypes : ndarray
        (tasks, q, d) and (tasks, K, d).

    Notes
    -----
    Liu, Song, Qin, *Prototype Rectification for Few-Shot Learning*, ECCV 2020, section 3.
    """
    moved = query + (support.X.mean(1, keepdims=True) - query.mean(1, keepdims=True))
    M = support.prototypes()
    X = np.concatenate([support.X, moved], 1)
    lengths = np.linalg.norm(X, axis=2)[:, :, None] * np.linalg.norm(M, axis=2)[:, None, :]
    cosines = X @ M.transpose(0, 2, 1) / np.maximum(lengths, np.finfo(X.dtype).tiny)
    weights = torch.softmax(torch.from_numpy(SHARPNESS * cosines), -1).numpy()
    return moved, mean_prototypes(X, weights, M)

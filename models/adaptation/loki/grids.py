"""Grids and points in space as metric spaces of labels: sums of weighted distances by axes, without N x N.

On a grid with Manhattan distance |x - y| = sum_a |x_a - y_a| the square has mixed terms, so that sums of squares are,
with W the image of weights, Q the squares and A the distances along an axis,

    F = sum_a Q_a W_a + 2 sum_{a<b} A_a W_ab A_b,

where W_a and W_ab are W summed over all other axes. A along an axis is two running sums: no product is computed.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from holonomy.models.adaptation.loki.validation import label_indices

__all__ = ["Grid", "Points"]


class Grid:
    """Labels at all places of a grid, in row-major order, with Manhattan or Euclidean distance.

    Parameters
    ----------
    shape : sequence of int
        Lengths of the axes.
    ord : {1, 2}, default 1
        Manhattan or Euclidean.

    Attributes
    ----------
    n : int
        Labels, the product of `shape`.
    powers : tuple of float
        Powers of the distance that `potential` takes: 1 and 2 for Manhattan distance, 2 for Euclidean.

    Raises
    ------
    ValueError
        Where an axis is shorter than 1 or `ord` is neither 1 nor 2.
    """

    def __init__(self, shape: Sequence[int], ord: Literal[1, 2] = 1) -> None:
        if len(shape) == 0 or any(int(length) != length or length < 1 for length in shape):
            raise ValueError(f"Grid: 'shape' must be lengths of at least 1, got {tuple(shape)}")
        if ord not in (1, 2):
            raise ValueError(f"Grid: 'ord' must be 1 or 2, got {ord!r}")
        self.shape = tuple(int(length) for length in shape)
        self.ord = ord
        self.n = math.prod(self.shape)
        self.powers = (1.0, 2.0) if ord == 1 else (2.0,)

    def coordinates(self, rows: Any = None) -> np.ndarray:
        """Places (K, axes) of labels, of all where `rows` is left out."""
        index = np.arange(self.n) if rows is None else label_indices("Grid", "rows", rows, self.n)
        return np.stack(np.unravel_index(index, self.shape), axis=1)

    def between(self, first: Any, second: Any) -> np.ndarray:
        """Distances of pairs of labels: indices (m,) and (m,) give (m,)."""
        return self._norm(self.coordinates(first) - self.coordinates(second))

    def distances(self, rows: Any = None) -> np.ndarray:
        """Distances (K, N) from labels to all labels, float64; from all of them, (N, N), where `rows` is left out."""
        places = self.coordinates(rows)
        total = np.zeros((len(places), *self.shape))
        for axis, length in enumerate(self.shape):
            apart = np.abs(places[:, axis, None] - np.arange(length)).astype(float)
            # The axis's own distances broadcast over the others.
            apart = apart.reshape(len(places), *(length if a == axis else 1 for a in range(len(self.shape))))
            total += apart if self.ord == 1 else apart**2
        return (total if self.ord == 1 else np.sqrt(total)).reshape(len(places), self.n)

    def potential(self, weights: Tensor, p: float) -> Tensor:
        """Sums of weighted distances, sum_u w_u d(u, v)^p, at every label v, in O(N) a row for each pair of axes.

        Parameters
        ----------
        weights : Tensor
            (B, N), a weight a label.
        p : float
            One of `powers`.

        Returns
        -------
        Tensor
            (B, N), float64. Differentiable.
        """
        if p not in self.powers:
            raise ValueError(f"Grid.potential: 'p' must be one of {self.powers} with ord = {self.ord}, got {p}")
        image = weights.double().reshape(-1, *self.shape)
        axes = range(1, len(self.shape) + 1)
        total = torch.zeros_like(image)
        for a in axes:
            own = image.sum([b for b in axes if b != a], keepdim=True) if len(self.shape) > 1 else image
            total = total + (_apart(own, a) if p == 1 else _squares(own, a))
        if p == 2 and self.ord == 1:
            for a, b in combinations(axes, 2):
                others = [c for c in axes if c not in (a, b)]
                both = image.sum(others, keepdim=True) if others else image
                total = total + 2.0 * _apart(_apart(both, a), b)
        return total.reshape(-1, self.n)

    def _norm(self, apart: np.ndarray) -> np.ndarray:
        return np.abs(apart).sum(1).astype(float) if self.ord == 1 else np.sqrt(np.square(apart).sum(1).astype(float))


class Points:
    """Labels at points of a Euclidean space: sums of squares are those to the weighted mean, in O(N d).

    Parameters
    ----------
    E : array-like or Tensor
        Embeddings (N, d) of the labels, finite.

    Attributes
    ----------
    n : int
        Labels.
    powers : tuple of float
        The one power that `potential` takes, 2.

    Raises
    ------
    ValueError
        Where embeddings are not (N, d) or not finite.
    """

    powers = (2.0,)

    def __init__(self, E: Any) -> None:
        array = np.asarray(E.detach().cpu() if isinstance(E, Tensor) else E, dtype=np.float64)
        if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
            raise ValueError(f"Points: 'E' must be finite embeddings (N, d), got shape {array.shape}")
        # Distances do not change, and squares of centred coordinates keep digits.
        self.points = array - array.mean(0)
        self.n = len(array)

    def between(self, first: Any, second: Any) -> np.ndarray:
        """Distances of pairs of labels: indices (m,) and (m,) give (m,)."""
        a, b = (label_indices("Points.between", name, y, self.n) for name, y in (("first", first), ("second", second)))
        return np.linalg.norm(self.points[a] - self.points[b], axis=1)

    def distances(self, rows: Any = None) -> np.ndarray:
        """Distances (K, N) from labels to all labels, float64; from all of them, (N, N), where `rows` is left out."""
        from scipy.spatial.distance import cdist

        index = np.arange(self.n) if rows is None else label_indices("Points.distances", "rows", rows, self.n)
        return cdist(self.points[index], self.points)

    def potential(self, weights: Tensor, p: float) -> Tensor:
        """Sums of weighted squares, sum_u w_u |e_u - e_v|^2, at every label v: (B, N), float64. Differentiable."""
        if p not in self.powers:
            raise ValueError(f"Points.potential: 'p' must be 2, got {p}")
        E = torch.from_numpy(self.points).to(weights.device)
        squares = E.square().sum(1)
        w = weights.double()
        mass = w.sum(1, keepdim=True)
        return mass * squares + (w @ squares).unsqueeze(1) - 2.0 * (w @ E) @ E.T


def _apart(w: Tensor, axis: int) -> Tensor:
    """sum_y |x - y| w(y) along an axis: what is below x by running sums, what is above from the sum of all x - y."""
    below = w.cumsum(axis)
    mass = below.narrow(axis, -1, 1)
    # sum_{y<x} (x - y) w(y) is the sum of the masses up to each place before x.
    left = below.cumsum(axis).sub_(below) if not w.requires_grad else below.cumsum(axis) - below
    x = _places(w, axis)
    # left - right = sum_y (x - y) w(y).
    return 2.0 * left - (mass * x - (w * x).sum(axis, keepdim=True))


def _squares(w: Tensor, axis: int) -> Tensor:
    """sum_y (x - y)^2 w(y) along an axis, by moments around its middle."""
    x = _places(w, axis)
    mass, first, second = ((w * x**k).sum(axis, keepdim=True) for k in range(3))
    return mass * x.square() - 2.0 * first * x + second


def _places(w: Tensor, axis: int) -> Tensor:
    """Coordinates along an axis, from its middle on."""
    length = w.shape[axis]
    x = torch.arange(length, dtype=w.dtype, device=w.device) - 0.5 * (length - 1)
    return x.reshape([length if a == axis else 1 for a in range(w.ndim)])

"""The rule: of all labels, the one with the least expected power of the distance to what the model believes.

With P(lambda_i | x) over K observed labels and d over N, y(x) = argmin_y sum_i P(lambda_i | x) d(y, lambda_i)^p: for
p = 2 the weighted Fréchet mean within the label space, for p = 1 the median. Scores are S = -P D^p, by blocks.

Distances come as a block (K, N); as (N, N) or a structured metric with `observed`; or as a function of a range of
labels, for spaces whose block does not fit. A structured metric (`Tree`, `Grid`, `Points`) gives sums of weighted
distances to all labels by its own rule, in O(N) a query whatever K.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from holonomy.models.adaptation.loki.validation import (
    check_distances,
    check_observed,
    check_positive,
    check_probs,
    label_indices,
)

__all__ = [
    "Distances",
    "StructuredMetric",
    "expected_squared_distance",
    "frechet_predict",
    "frechet_scores",
    "temper",
]

#: Numbers in the temporaries of a block of labels.
_BLOCK = 2**22
#: Numbers of a block by a metric's own rule, which goes over them many times: 1 MB, which stays in cache.
_CACHED = 2**17
#: Queries at once.
_ROWS = 2048


@runtime_checkable
class StructuredMetric(Protocol):
    """A metric on labels 0 to n - 1 that has a rule of its own for sums of weighted distances."""

    n: int
    powers: tuple[float, ...]

    def between(self, first: Any, second: Any) -> np.ndarray:
        """Distances of pairs of labels."""

    def distances(self, rows: Any = None) -> np.ndarray:
        """Distances (K, N) from labels to all labels."""

    def potential(self, weights: Tensor, p: float) -> Tensor:
        """Sums of weighted powers of distances (B, N) at every label, of weights (B, N)."""


#: What gives distances: (K, N), or (N, N) with `observed`; a structured metric; or columns low, ..., high - 1 of it.
Distances = np.ndarray | Tensor | StructuredMetric | Callable[[int, int], Any]


@dataclass(frozen=True)
class Source:
    """Distances from K observed labels to n labels, read block by block."""

    distances: Any
    observed: np.ndarray | None
    k: int
    n: int
    p: float

    @property
    def structured(self) -> bool:
        """Whether the metric's own rule takes the power."""
        return isinstance(self.distances, StructuredMetric) and self.p in self.distances.powers

    def block(self, low: int, high: int, like: Tensor) -> Tensor:
        """Powers of the distances (K, high - low), in the dtype and on the device of `like`."""
        D = self.distances
        if callable(D):
            block = D(low, high)
            if tuple(block.shape) != (self.k, high - low):
                raise ValueError(
                    f"'distances' must give (K, {high - low}) for labels {low} to {high - 1}, K = {self.k}, "
                    f"got {tuple(block.shape)}"
                )
            check_distances(f"labels {low} to {high - 1}", block, square=False)
        else:
            block = D[:, low:high] if self.observed is None else D[self.observed, low:high]
        tensor = block if isinstance(block, Tensor) else torch.from_numpy(np.ascontiguousarray(block))
        tensor = tensor.to(like)
        if self.p == 2:
            return tensor.square()
        return tensor if self.p == 1 else tensor.pow(self.p)

    def objective(self, probs: Tensor) -> Tensor:
        """Expected powers (B, N) by the metric's own rule."""
        assert self.observed is not None
        weights = probs.new_zeros(len(probs), self.n, dtype=torch.float64)
        weights = weights.index_copy(1, torch.from_numpy(self.observed).to(probs.device), probs.double())
        return self.distances.potential(weights, self.p)

    def scores(self, P: Tensor) -> Tensor:
        """S = -P D^p (B, N)."""
        if self.structured:
            return -self.objective(P).to(P.dtype)
        return -torch.cat([P @ self.block(low, high, P) for low, high in self._ranges(len(P), None)], dim=1)

    @torch.no_grad()
    def predict(self, P: Tensor, chunk_size: int | None = None) -> Tensor:
        """Labels (B,) of least expected power; of ties the lowest."""
        best = torch.full((len(P),), torch.inf, dtype=torch.float64 if self.structured else P.dtype, device=P.device)
        found = torch.zeros(len(P), dtype=torch.int64, device=P.device)
        for rows, low, F in self._blocks(P, chunk_size):
            least = F.amin(1)
            tolerance = self._tolerance(F, least)
            place = _first((least + tolerance).unsqueeze(1) >= F)
            # A later block wins where it is less by more than rounding.
            better = least + tolerance < best[rows]
            best[rows] = torch.where(better, least, best[rows])
            found[rows] = torch.where(better, place + low, found[rows])
        return found

    @torch.no_grad()
    def minimisers(self, P: Tensor, chunk_size: int | None = None) -> Tensor:
        """All labels of least expected power to rounding, bool (B, N)."""
        sets = [torch.zeros(0, self.n, dtype=torch.bool, device=P.device)]
        for rows in P.split(_ROWS) if len(P) else ():
            F = torch.cat([F for _, _, F in self._blocks(rows, chunk_size)], dim=0 if self.structured else 1)
            least = F.amin(1)
            sets.append((least + self._tolerance(F, least)).unsqueeze(1) >= F)
        return torch.cat(sets)

    def _ranges(self, rows: int, chunk_size: int | None) -> list[tuple[int, int]]:
        step = chunk_size or max(64, _BLOCK // (self.k + min(rows, _ROWS)))
        return [(low, min(low + step, self.n)) for low in range(0, self.n, step)]

    def _blocks(self, P: Tensor, chunk_size: int | None) -> Iterator[tuple[slice, int, Tensor]]:
        """Expected powers of some queries and some labels: which queries, from which label on, and the values."""
        if self.structured:
            # A metric's own rule needs all labels at once: its blocks are of queries.
            step = max(1, _CACHED // self.n)
            for low in range(0, len(P), step):
                yield slice(low, low + step), 0, self.objective(P[low : low + step])
            return
        for low, high in self._ranges(len(P), chunk_size):
            block = self.block(low, high, P)
            for row in range(0, len(P), _ROWS):
                rows = slice(row, row + _ROWS)
                yield rows, low, P[rows] @ block

    def _tolerance(self, F: Tensor, least: Tensor) -> Tensor:
        """What rounding may part equal values (B,) by.

        Sums of K positive terms err in units of themselves; a metric's own rule takes differences of sums as large as
        the largest.
        """
        return 8.0 * torch.finfo(F.dtype).eps * max(1.0, self.k**0.5) * (F.amax(1) if self.structured else least)


def read_source(
    where: str, distances: Any, observed: Any, p: float, n: int | None = None, k: int | None = None
) -> Source:
    """Check distances, observed labels and the power, and say what they are of."""
    p = check_positive(where, "p", p)
    if isinstance(distances, StructuredMetric):
        index = check_observed(where, np.arange(distances.n) if observed is None else observed, distances.n)
        if p not in distances.powers:
            # Only the rows of observed labels are held.
            return Source(distances.distances(index), None, len(index), distances.n, p)
        return Source(distances, index, len(index), distances.n, p)
    if callable(distances):
        if n is None or k is None:
            raise ValueError(f"{where}: distances by a function need the number of labels, got n = {n}")
        check_positive(where, "n", n)
        return Source(distances, None, k, int(n), p)
    square = observed is not None
    check_distances(where, distances, square=square)
    rows, columns = distances.shape
    if not square:
        return Source(distances, None, rows, columns, p)
    index = check_observed(where, observed, columns)
    return Source(distances, index, len(index), columns, p)


def temper(probs: Tensor, temperature: float) -> Tensor:
    """Probabilities proportional to P^(1/T): flatter for T > 1, sharper for T < 1; zeros stay zeros.

    Parameters
    ----------
    probs : Tensor
        (B, K), rows that sum to 1.
    temperature : float
        T, positive.

    Returns
    -------
    Tensor
        (B, K).

    Raises
    ------
    ValueError
        Where T is not positive, or `probs` are no probabilities.
    """
    T = check_positive("temper", "temperature", temperature)
    check_probs("temper", probs)
    if T == 1.0:
        return probs
    there = probs > 0
    logs = torch.where(there, probs, 1.0).log() / T
    return torch.where(there, logs, -torch.inf).softmax(-1)


def frechet_scores(
    probs: Any, distances: Distances, p: float = 2, observed: Any = None, n: int | None = None
) -> Tensor:
    """Scores S = -P D^p (B, N) of all labels; differentiable in the probabilities.

    Parameters
    ----------
    probs : Tensor or array-like
        (B, K) over the observed labels, in their order.
    distances : Tensor, ndarray, StructuredMetric or callable
        (K, N); with `observed`, (N, N); a `Tree`, `Grid` or `Points`; or a function of (low, high) that gives
        (K, high - low), which needs `n`.
    p : float, default 2
        Power of the distance.
    observed : array-like, optional
        Indices of the observed labels, a column of `probs` each.
    n : int, optional
        Number of labels, where distances are a function.

    Returns
    -------
    Tensor
        (B, N) in the dtype of `probs`; half precision becomes float32.

    Raises
    ------
    TypeError
        Where a dtype is wrong.
    ValueError
        Where distances, probabilities, observed labels or the power are none, or shapes do not fit.
    """
    P, source = _read("frechet_scores", probs, distances, p, observed, n)
    return source.scores(P)


@torch.no_grad()
def frechet_predict(
    probs: Any,
    distances: Distances,
    p: float = 2,
    observed: Any = None,
    *,
    return_all: bool = False,
    chunk_size: int | None = None,
    n: int | None = None,
) -> Tensor:
    """Labels (B,) of least expected power of the distance; of ties, to rounding, the lowest index.

    Memory beyond the arguments and the result is that of one block of labels, some tens of megabytes whatever N and B.

    Parameters
    ----------
    probs, distances, p, observed, n
        As of `frechet_scores`.
    return_all : bool, default False
        Return the whole set of minimisers as a boolean (B, N).
    chunk_size : int, optional
        Labels in a block; by default as many as fit 32 MB.

    Returns
    -------
    Tensor
        int64 (B,), or bool (B, N).

    Raises
    ------
    TypeError, ValueError
        As of `frechet_scores`, and where `chunk_size` is below 1.
    """
    P, source = _read("frechet_predict", probs, distances, p, observed, n)
    chunk = check_chunk("frechet_predict", chunk_size)
    return source.minimisers(P, chunk) if return_all else source.predict(P, chunk)


def expected_squared_distance(y_true: Any, y_pred: Any, D: Any, p: float = 2) -> float:
    """Mean of d(y_true, y_pred)^p over samples: the measure of the paper, at p = 2.

    Parameters
    ----------
    y_true, y_pred : array-like
        Label indices (m,).
    D : ndarray, Tensor or StructuredMetric
        Distances (N, N), or a `Tree`, `Grid` or `Points`.
    p : float, default 2
        Power.

    Raises
    ------
    TypeError, ValueError
        Where labels are not indices of D, are none or not as many, or D is no metric.
    """
    where = "expected_squared_distance"
    p = check_positive(where, "p", p)
    structured = isinstance(D, StructuredMetric)
    if not structured:
        check_distances(where, D)
    n = D.n if structured else len(D)
    a, b = label_indices(where, "y_true", y_true, n), label_indices(where, "y_pred", y_pred, n)
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"{where}: 'y_true' and 'y_pred' must be as many, at least 1, got {len(a)} and {len(b)}")
    apart = D.between(a, b) if structured else D[a, b]
    return float(np.mean(np.asarray(apart.detach().cpu() if isinstance(apart, Tensor) else apart, dtype=float) ** p))


def _first(marked: Tensor) -> Tensor:
    """Place of the first True in each row (B,)."""
    if marked.device.type == "cpu":
        return torch.from_numpy(marked.numpy().argmax(1))  # stops at the first; torch has no argmax of bool
    return marked.to(torch.uint8).argmax(1)


def check_chunk(where: str, chunk_size: int | None) -> int | None:
    """Refuse a number of labels in a block that is below 1 or not whole."""
    if chunk_size is not None and (isinstance(chunk_size, bool) or int(chunk_size) != chunk_size or chunk_size < 1):
        raise ValueError(f"{where}: 'chunk_size' must be a whole number of at least 1, got {chunk_size!r}")
    return None if chunk_size is None else int(chunk_size)


def _read(where: str, probs: Any, distances: Any, p: float, observed: Any, n: int | None) -> tuple[Tensor, Source]:
    P = probs if isinstance(probs, Tensor) else torch.as_tensor(np.asarray(probs))
    check_probs(where, P)
    source = read_source(where, distances, observed, p, n, P.shape[1])
    if source.k != P.shape[1]:
        raise ValueError(
            f"{where}: 'probs' has shape {tuple(P.shape)}, wanted (B, {source.k}), a column an observed label"
        )
    return (P.float() if P.dtype.itemsize < 4 else P), source

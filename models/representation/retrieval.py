"""Retrieval by cosine: exact nearest neighbours by blocks, and what they are worth against labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["knn_accuracy", "map_at_k", "nearest_cosine"]


def nearest_cosine(queries: Tensor, index: Tensor, k: int, block: int = 1024) -> Tensor:
    """The k rows of an index of largest cosine to each query, best first; rows of the index at a time are all.

    Parameters
    ----------
    queries, index : Tensor
        (q, d) and (n, d), floating.
    k : int
        1 to n.
    block : int, default 1024
        Queries at once: memory is of the order of block times n.

    Returns
    -------
    Tensor
        Numbers of rows (q, k), int64.

    Raises
    ------
    TypeError
        Where either is not floating.
    ValueError
        Where widths differ, either is not finite, or `k` is out of its range.
    """
    _check("nearest_cosine", queries, index, k)
    unit = F.normalize(index.float() if index.dtype.itemsize < 4 else index, dim=-1)
    parts = [F.normalize(part.to(unit), dim=-1) @ unit.mT for part in queries.split(block)]
    return torch.cat([part.topk(k, dim=1).indices for part in parts])


def knn_accuracy(
    queries: Tensor, labels: Tensor, index: Tensor, index_labels: Tensor, k: int = 1, block: int = 1024
) -> float:
    """Share of queries whose label most of their k nearest rows have, by cosine; of ties the least label wins.

    Parameters
    ----------
    queries, index : Tensor
        (q, d) and (n, d), floating.
    labels, index_labels : Tensor
        Integers (q,) and (n,), not negative.
    k : int, default 1
        Neighbours.

    Raises
    ------
    TypeError, ValueError
        As `nearest_cosine`, and where labels are not as many as rows.
    """
    _check_labels("knn_accuracy", queries, labels, index, index_labels)
    votes = F.one_hot(index_labels[nearest_cosine(queries, index, k, block)]).sum(1)
    return float((votes.argmax(1) == labels).double().mean())


def map_at_k(ranked: Tensor, labels: Tensor, index_labels: Tensor, k: int = 10) -> float:
    """Mean over queries of the average precision of their first k rows, a row of the query's label being relevant.

    Average precision is the mean of the precisions at the relevant ones among the first k, over min(k, relevant rows
    of the whole index).

    Parameters
    ----------
    ranked : Tensor
        Numbers of rows (q, at least k), best first.
    labels, index_labels : Tensor
        Integers (q,) and (n,).
    k : int, default 10
        Depth.

    Raises
    ------
    ValueError
        Where fewer rows than `k` are ranked, or labels are not as many as queries.
    """
    if ranked.ndim != 2 or not 1 <= k <= ranked.shape[1] or len(labels) != len(ranked):
        raise ValueError(
            f"map_at_k: wanted 'ranked' (q, at least k = {k}) and a label a query, got {tuple(ranked.shape)} and "
            f"{len(labels)} labels"
        )
    hits = (index_labels[ranked[:, :k]] == labels.unsqueeze(1)).double()
    precision = hits.cumsum(1) / torch.arange(1, k + 1, device=hits.device, dtype=torch.float64)
    counts = torch.bincount(index_labels, minlength=int(labels.max()) + 1)[labels].clamp(max=k)
    return float(((precision * hits).sum(1) / counts.clamp(min=1)).mean())


def _check(where: str, queries: Tensor, index: Tensor, k: int) -> None:
    for name, value in (("queries", queries), ("index", index)):
        if not value.is_floating_point():
            raise TypeError(f"{where}: {name!r} must be floating, got {value.dtype}")
        if value.ndim != 2 or value.shape[1] != index.shape[-1] or not bool(value.detach().isfinite().all()):
            raise ValueError(
                f"{where}: wanted finite 'queries' (q, d) and 'index' (n, d), got {tuple(queries.shape)} and "
                f"{tuple(index.shape)}"
            )
    if not 1 <= k <= len(index):
        raise ValueError(f"{where}: 'k' must be from 1 to the number of rows, {len(index)}, got {k}")


def _check_labels(where: str, queries: Tensor, labels: Tensor, index: Tensor, index_labels: Tensor) -> None:
    if labels.shape != queries.shape[:1] or index_labels.shape != index.shape[:1]:
        raise ValueError(
            f"{where}: wanted a label a row, got {tuple(labels.shape)} for {len(queries)} queries and "
            f"{tuple(index_labels.shape)} for {len(index)} rows"
        )

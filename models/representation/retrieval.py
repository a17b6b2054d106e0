"""Retrieval by cosine: exact nearest neighbours by blocks, and what they are worth against labels and partners."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "embedding_arithmetic_score",
    "knn_accuracy",
    "map_at_k",
    "nearest_cosine",
    "retrieval_metrics",
    "retrieval_ranks",
]


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


def retrieval_ranks(sim: Tensor, targets: Tensor | None = None) -> Tensor:
    """Rank of each row's right column, 1 at best; among equal similarities the mean of their ranks.

    So a model that gives all columns one similarity ranks everything in the middle, not first.

    Parameters
    ----------
    sim : Tensor
        Similarities (q, n), floating and not NaN.
    targets : Tensor, optional
        Right columns (q,), integers; the diagonal of a square `sim` when left out.

    Returns
    -------
    Tensor
        (q,), float64: whole numbers and halves.

    Raises
    ------
    TypeError
        Where `sim` is not floating.
    ValueError
        Where shapes do not fit, a similarity is NaN, or a target is no column.
    """
    if not sim.is_floating_point():
        raise TypeError(f"retrieval_ranks: 'sim' must be floating, got {sim.dtype}")
    square = sim.ndim == 2 and sim.shape[0] == sim.shape[1]
    if sim.ndim != 2 or not sim.numel() or bool(sim.isnan().any()) or not (square or targets is not None):
        raise ValueError(
            "retrieval_ranks: wanted 'sim' (q, n) without NaN, square where there are no targets, got "
            f"{tuple(sim.shape)}"
        )
    if targets is None:
        targets = torch.arange(len(sim), device=sim.device)
    if targets.shape != sim.shape[:1] or not 0 <= int(targets.min()) <= int(targets.max()) < sim.shape[1]:
        raise ValueError(f"retrieval_ranks: 'targets' must be {len(sim)} columns from 0 to {sim.shape[1] - 1}")
    own = sim.gather(1, targets.unsqueeze(1))
    above, level = (sim > own).sum(1), (sim == own).sum(1)
    return above.double() + 0.5 * (level.double() + 1.0)


def retrieval_metrics(sim: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall of pairs both ways: shares of rows, and of columns, whose partner's rank is k at most.

    Parameters
    ----------
    sim : Tensor
        Similarities (n, n), image by text, say; pairs lie on the diagonal.
    ks : sequence of int, default (1, 5, 10)
        Depths.

    Returns
    -------
    dict of str to float
        ``forward R@k`` of rows, ``backward R@k`` of columns, ``R@k`` their mean; and ``rank``, the mean rank of both.

    Raises
    ------
    TypeError, ValueError
        As `retrieval_ranks`, and where a depth is below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"retrieval_metrics: depths must be at least 1, got {list(ks)}")
    ranks = {"forward": retrieval_ranks(sim), "backward": retrieval_ranks(sim.mT)}
    found = {f"{way} R@{k}": float((r <= k).double().mean()) for way, r in ranks.items() for k in ks}
    means = {f"R@{k}": 0.5 * (found[f"forward R@{k}"] + found[f"backward R@{k}"]) for k in ks}
    return {**found, **means, "rank": float(torch.stack(list(ranks.values())).mean())}


def embedding_arithmetic_score(
    embeddings: Tensor,
    labels: Tensor,
    deltas: Tensor,
    wanted: Tensor,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    rows: Tensor | None = None,
) -> dict[float, float]:
    """Share of edits x + k delta whose nearest other embedding has the wanted label, for each scale k.

    An edit is of an image embedding by a difference of text embeddings, target less source; the image itself is not
    found. Source: Couairon, Douze, Cord, Schwenk, *Embedding Arithmetic of Multimodal Queries for Image Retrieval*
    (SIMAT), 2022.

    Parameters
    ----------
    embeddings : Tensor
        (n, d), floating: where is searched, by cosine.
    labels : Tensor
        Integers (n,) of the embeddings.
    deltas : Tensor
        (e, d): what is added.
    wanted : Tensor
        Integers (e,): labels to be found.
    scales : sequence of float
        Scales; the score is the best of them, ``max(result.values())``.
    rows : Tensor, optional
        Which embeddings (e,) are edited; all in order when left out, and then e = n.

    Raises
    ------
    TypeError, ValueError
        As `nearest_cosine`, and where edits, labels or scales are not as many as they should be.
    """
    rows = torch.arange(len(embeddings), device=embeddings.device) if rows is None else rows
    if not scales or not rows.shape == wanted.shape == deltas.shape[:1] or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embedding_arithmetic_score: wanted a scale, a label for each embedding, and as many rows, deltas and "
            f"wanted labels, got {len(labels)} labels of {len(embeddings)} embeddings, {len(rows)}, {len(deltas)} and "
            f"{len(wanted)}"
        )
    result = {}
    for scale in scales:
        found = nearest_cosine(embeddings[rows] + scale * deltas, embeddings, 2)
        other = torch.where(found[:, 0] == rows, found[:, 1], found[:, 0])
        result[float(scale)] = float((labels[other] == wanted).double().mean())
    return result


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

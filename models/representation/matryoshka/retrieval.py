"""Retrieval by few coordinates first and more of them for what is left (paper, section 4.3.1, MRL-AR)."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from holonomy.models.representation.matryoshka.nested import check_nesting, truncate
from holonomy.models.representation.retrieval import nearest_cosine

__all__ = ["adaptive_retrieval", "funnel_retrieval", "retrieval_flops"]


def adaptive_retrieval(
    queries: Tensor,
    index: Tensor,
    shortlist_dim: int,
    rerank_dim: int,
    k: int = 10,
    shortlist: int = 200,
    block: int = 256,
) -> Tensor:
    """The k nearest rows among a shortlist by the first coordinates, ranked by more of them.

    Parameters
    ----------
    queries, index : Tensor
        Representations (q, d) and (n, d).
    shortlist_dim, rerank_dim : int
        Coordinates of the two searches; each prefix is brought to length 1 by itself.
    k : int, default 10
        Rows that are returned.
    shortlist : int, default 200
        Rows that are ranked again; all, with a warning, where there are fewer.
    block : int, default 256
        Queries at once.

    Returns
    -------
    Tensor
        Numbers of rows (q, k), best first.

    Raises
    ------
    TypeError, ValueError
        As `nearest_cosine`, and where `k` is above `shortlist` or a size is out of its range.
    """
    return funnel_retrieval(queries, index, [shortlist_dim, rerank_dim], [shortlist, k], block)


def funnel_retrieval(
    queries: Tensor, index: Tensor, dims: Sequence[int], shortlists: Sequence[int], block: int = 256
) -> Tensor:
    """Search with ``dims[0]`` coordinates, keep ``shortlists[0]`` rows, rank those with ``dims[1]``, and so on.

    Parameters
    ----------
    queries, index : Tensor
        Representations (q, d) and (n, d).
    dims : sequence of int
        Coordinates by stage, rising; the same twice is allowed.
    shortlists : sequence of int
        Rows kept by stage, falling; the last are returned.
    block : int, default 256
        Queries at once.

    Returns
    -------
    Tensor
        Numbers of rows (q, ``shortlists[-1]``), best first.

    Raises
    ------
    TypeError, ValueError
        As `nearest_cosine`, and where there are not as many shortlists as dims, or they do not rise and fall.
    """
    sizes = list(dims)
    check_nesting("funnel_retrieval", sorted(set(sizes)), index.shape[-1])
    keep = list(shortlists)
    if len(keep) != len(sizes) or sizes != sorted(sizes) or keep != sorted(keep, reverse=True) or keep[-1] < 1:
        raise ValueError(
            "funnel_retrieval: wanted as many 'shortlists' as 'dims', these rising and those falling to 1 or more, got "
            f"{keep} and {sizes}"
        )
    if keep[-1] > len(index):
        raise ValueError(f"funnel_retrieval: {keep[-1]} rows are wanted, and the index has {len(index)}")
    if keep[0] > len(index):
        warnings.warn(f"funnel_retrieval: the shortlist is all {len(index)} rows of the index", stacklevel=2)
        keep = [min(count, len(index)) for count in keep]
    found = nearest_cosine(queries[:, : sizes[0]], index[:, : sizes[0]], keep[0], block)
    for m, count in zip(sizes[1:], keep[1:], strict=True):
        rows = truncate(index, m)
        parts = []
        for own, q in zip(found.split(block), truncate(queries, m).split(block), strict=True):
            order = torch.einsum("qrm,qm->qr", rows[own], q).topk(count, dim=1).indices
            parts.append(own.gather(1, order))
        found = torch.cat(parts)
    return found


def retrieval_flops(n: int, dims: Sequence[int], shortlists: Sequence[int]) -> int:
    """Multiply-adds of one query of `funnel_retrieval` in an index of n rows: of the first search, and of each ranking.

    Raises
    ------
    ValueError
        Where there are not as many shortlists as dims, or none.
    """
    if not dims or len(dims) != len(shortlists) or n < 1:
        raise ValueError(
            f"retrieval_flops: wanted n >= 1 and as many dims as shortlists, got {n}, {dims}, {shortlists}"
        )
    ranked = [n, *(min(count, n) for count in shortlists[:-1])]
    return sum(rows * m for rows, m in zip(ranked, dims, strict=True))

"""How two clouds of paired embeddings lie on the sphere: alignment of pairs, uniformity, the gap between their means.

Sources: Wang, Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere*, ICML 2020; Liang, Zhang, Kwon, Yeung, Zou, *Mind the Gap*, NeurIPS 2022. Memory is of the order of a block
of rows times all of them.
"""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["alignment", "modality_gap", "relative_alignment", "uniformity"]


def _embeddings(where: str, *values: Tensor, least: int = 1) -> list[Tensor]:
    for value in values:
        if not value.is_floating_point():
            raise TypeError(f"{where}: embeddings must be floating, got {value.dtype}")
        if value.ndim != 2 or len(value) < least or value.shape[1] != values[0].shape[1]:
            raise ValueError(
                f"{where}: wanted embeddings (N, d) of one width with N >= {least}, got "
                f"{' and '.join(str(tuple(v.shape)) for v in values)}"
            )
    return [value.float() if value.dtype.itemsize < 4 else value for value in values]


def _pairs(where: str, x: Tensor, y: Tensor, least: int = 1) -> list[Tensor]:
    if x.shape != y.shape:
        raise ValueError(f"{where}: wanted as many rows of both, got {tuple(x.shape)} and {tuple(y.shape)}")
    return _embeddings(where, x, y, least=least)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of all rows, from differences: those of close rows do not cancel."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of pairs, rows of `x` and `y` (N, d): 0 where all are equal, a scalar.

    Raises
    ------
    TypeError
        Where either is not floating.
    ValueError
        Where shapes differ or are not (N, d).
    """
    x, y = _pairs("alignment", x, y)
    return (x - y).square().sum(1).mean()


def relative_alignment(
    x: Tensor,
    y: Tensor,
    k: int | None = 1,
    mode: Literal["difference", "ratio"] = "difference",
    block: int = 1024,
) -> Tensor:
    """How far pairs are beside the nearest others: the mean over i of |x_i - y_i|^2 less, or over, that of negatives.

    Parameters
    ----------
    x, y : Tensor
        Pairs (N, d), N at least 2.
    k : int or None, default 1
        Nearest y_j, j != i, whose squared distances to x_i are averaged; None takes all.
    mode : {"difference", "ratio"}, default "difference"
        Below 0, or below 1, where pairs are closer than their negatives.
    block : int, default 1024
        Rows at once.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    TypeError
        Where either is not floating.
    ValueError
        Where shapes do not fit, `k` is not from 1 to N - 1, or `mode` is unknown.
    """
    x, y = _pairs("relative_alignment", x, y, least=2)
    n = len(x) - 1
    if mode not in ("difference", "ratio") or not 1 <= (n if k is None else k) <= n:
        raise ValueError(
            f"relative_alignment: wanted k from 1 to {n} and mode 'difference' or 'ratio', got {k} and {mode!r}"
        )
    negatives = []
    for start in range(0, len(x), block):
        part = x[start : start + block]
        rows = torch.arange(len(part), device=x.device)
        far = _squared(part, y).index_put((rows, rows + start), x.new_tensor(math.inf))
        negatives.append(far.topk(n if k is None else k, largest=False).values.mean(1))
    own, other = (x - y).square().sum(1), torch.cat(negatives)
    return (own - other if mode == "difference" else own / other).mean()


def uniformity(x: Tensor, t: float = 2.0, block: int = 1024) -> Tensor:
    """log of the mean over pairs i < j of exp(-t |x_i - x_j|^2): 0 where all rows are equal, less the wider they lie.

    Of two modalities pool the rows, ``uniformity(torch.cat([image, text]))``.

    Parameters
    ----------
    x : Tensor
        (N, d), N at least 2.
    t : float, default 2
        Positive.
    block : int, default 1024
        Rows at once.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    TypeError
        Where `x` is not floating.
    ValueError
        Where `x` is not (N, d) with N >= 2, or `t` is not positive.
    """
    (x,) = _embeddings("uniformity", x, least=2)
    if not 0.0 < t < math.inf:
        raise ValueError(f"uniformity: 't' must be positive and finite, got {t}")
    parts = []
    for start in range(0, len(x) - 1, block):
        rows = x[start : start + block]
        later = x[start + 1 :]
        # Row i of the block meets the rows after it: columns from i on of `later`.
        ahead = torch.ones(len(rows), len(later), dtype=torch.bool, device=x.device).triu()
        parts.append((-t * _squared(rows, later)).masked_fill(~ahead, -math.inf).flatten().logsumexp(0))
    return torch.stack(parts).logsumexp(0) - math.log(0.5 * len(x) * (len(x) - 1))


def modality_gap(x: Tensor, y: Tensor) -> Tensor:
    """Length of the difference of the means of `x` (N, d) and `y` (M, d): at most 2 on the sphere, a scalar.

    Raises
    ------
    TypeError
        Where either is not floating.
    ValueError
        Where shapes are not (N, d) and (M, d).
    """
    x, y = _embeddings("modality_gap", x, y)
    return torch.linalg.vector_norm(x.mean(0) - y.mean(0))

"""What the rule is compared with: argmax, nearest embeddings, nearest neighbours, a random unseen class."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.models.adaptation.loki.validation import check_observed, check_probs

__all__ = ["argmax_predict", "barycentre_predict", "nearest_embedding_predict", "random_unseen_predict"]


def argmax_predict(probs: Any, observed: Any = None, n: int | None = None) -> Tensor:
    """Observed label (B,) of largest probability (B, K); columns are the labels themselves without `observed`."""
    P = probs if isinstance(probs, Tensor) else torch.as_tensor(np.asarray(probs))
    check_probs("argmax_predict", P)
    best = P.argmax(1)
    if observed is None:
        return best
    index = check_observed("argmax_predict", observed, int(np.max(observed, initial=0)) + 1 if n is None else n)
    if len(index) != P.shape[1]:
        raise ValueError(f"argmax_predict: 'observed' must be {P.shape[1]} labels, one a column, got {len(index)}")
    return torch.from_numpy(index).to(P.device)[best]


def random_unseen_predict(count: int, observed: Any, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Labels (count,) drawn uniformly among those of 0, ..., n - 1 that are not observed."""
    index = check_observed("random_unseen_predict", observed, n)
    unseen = np.setdiff1d(np.arange(n), index)
    if len(unseen) == 0:
        raise ValueError("random_unseen_predict: every label is observed")
    return torch.from_numpy(unseen)[torch.randint(len(unseen), (count,), generator=generator)]


def nearest_embedding_predict(features: Tensor, embeddings: Tensor) -> Tensor:
    """Label (B,) whose embedding (N, d) is nearest to each feature (B, d); of ties the lowest."""
    if features.ndim != 2 or embeddings.ndim != 2 or features.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"nearest_embedding_predict: 'features' and 'embeddings' must have one width, got {tuple(features.shape)} "
            f"and {tuple(embeddings.shape)}"
        )
    return torch.cdist(features, embeddings).argmin(1)


def barycentre_predict(probs: Tensor, observed: Tensor, embeddings: Tensor) -> Tensor:
    """Label (B,) nearest to the mean of the observed labels' embeddings (K, d), weighted by probabilities (B, K).

    The neighbour search of zero-shot heads. It is the rule itself where distances are Euclidean and p = 2.
    """
    check_probs("barycentre_predict", probs, len(observed))
    return nearest_embedding_predict(probs.to(observed) @ observed, embeddings)

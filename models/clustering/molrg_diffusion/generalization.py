"""Whether a generative model's samples are new, or copies of what it was trained on."""

import torch
from torch import Tensor

from holonomy.models.clustering.molrg_diffusion.mixture import check_points

__all__ = ["generalization_score", "nearest_distances"]


def nearest_distances(samples: Tensor, train: Tensor, block: int = 4096) -> Tensor:
    """Distance (n,) of each sample (n, D) to the nearest of training points (m, D), by blocks of both.

    Raises
    ------
    TypeError, ValueError
        Where either is not floating, finite and of the same width.
    """
    train = check_points("nearest_distances", train, train.shape[-1])
    samples = check_points("nearest_distances", samples, train.shape[-1]).to(train)
    if samples.ndim != 2 or train.ndim != 2:
        raise ValueError(f"nearest_distances: wanted (n, D) and (m, D), got {samples.shape} and {train.shape}")
    # Not by |a|^2 + |b|^2 - 2 a.b: of a copy that is rounding, and a copy is what is looked for.
    mode = "donot_use_mm_for_euclid_dist"
    parts = []
    for rows in samples.split(block):
        best = torch.full((len(rows),), torch.inf, dtype=train.dtype, device=train.device)
        for others in train.split(block):
            best = torch.minimum(best, torch.cdist(rows, others, compute_mode=mode).amin(1))
        parts.append(best)
    return torch.cat(parts)


def generalization_score(samples: Tensor, train: Tensor, threshold: float, block: int = 4096) -> float:
    """Share of samples that are further than a threshold from every training point: 0 for copies, 1 for new ones.

    Parameters
    ----------
    samples, train : Tensor
        Points (n, D) and (m, D).
    threshold : float
        Distance, positive; some share of the typical distance between nearest points of the data.
    block : int
        Points at a time.

    Raises
    ------
    TypeError, ValueError
        As `nearest_distances`, and where the threshold is not positive.
    """
    if not threshold > 0.0:
        raise ValueError(f"generalization_score: 'threshold' must be positive, got {threshold}")
    return float((nearest_distances(samples, train, block) > threshold).double().mean())

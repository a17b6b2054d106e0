"""Whether probabilities say how often they are right."""

import torch
from torch import Tensor

__all__ = ["expected_calibration_error"]


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean over samples of the gap between accuracy and mean confidence in the sample's bin of confidence.

    Confidence is the largest probability; bins are of equal width, open below and closed above. Source: Guo, Pleiss,
    Sun, Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017, equation 3.

    Parameters
    ----------
    probs : Tensor
        (N, K), floating, rows that sum to 1.
    labels : Tensor
        Integers (N,) from 0 to K - 1.
    bins : int, default 15
        Number of bins.

    Raises
    ------
    TypeError
        Where probabilities are not floating, or labels are.
    ValueError
        Where shapes do not fit, a row is no distribution, a label is out of range, or there are no bins.
    """
    if not probs.is_floating_point() or labels.is_floating_point():
        raise TypeError(
            f"expected_calibration_error: wanted floating 'probs' and integer 'labels', got {probs.dtype} and "
            f"{labels.dtype}"
        )
    if probs.ndim != 2 or not len(probs) or labels.shape != probs.shape[:1] or bins < 1:
        raise ValueError(
            f"expected_calibration_error: wanted 'probs' (N, K), 'labels' (N,) and bins >= 1, got "
            f"{tuple(probs.shape)}, {tuple(labels.shape)} and {bins}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < probs.shape[1]:
        raise ValueError(f"expected_calibration_error: 'labels' must be from 0 to {probs.shape[1] - 1}")
    # Sums of K rounded numbers: half precision has three digits.
    slack = max(1e-4, 4.0 * torch.finfo(probs.dtype).eps)
    wide = probs.detach().double()
    if not bool(((wide >= 0) & (wide <= 1 + slack)).all()) or float((wide.sum(1) - 1).abs().max()) > slack:
        raise ValueError("expected_calibration_error: rows of 'probs' must be probabilities that sum to 1")
    confidence, guess = wide.max(1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = (guess == labels).double() - confidence
    return float(
        torch.zeros(bins, dtype=torch.float64, device=probs.device).index_add(0, which, gaps).abs().sum()
    ) / len(probs)

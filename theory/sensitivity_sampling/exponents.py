"""Exponents: slopes of the logarithms by weighted least squares, with bootstrap intervals."""

from collections.abc import Sequence

import numpy as np

#: Intervals cover this much.
CONFIDENCE = 0.95


def fit_exponent(
    sizes: Sequence[float],
    samples: Sequence[np.ndarray],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
    rng: np.random.Generator | int = 0,
) -> tuple[float, float, float]:
    """Exponent of the median of samples in their size.

    The logarithms of the medians are fitted by least squares, each weighted by the inverse of its bootstrap variance.

    Parameters
    ----------
    sizes : sequence of float
        At least four, positive.
    samples : sequence of numpy.ndarray
        Positive numbers, at least two for each size.
    confidence : float, default 0.95
        Of the interval.
    resamples : int, default 2000
        Of the bootstrap, which draws within each size.
    rng : numpy.random.Generator or int, default 0
        Generator or seed of the bootstrap.

    Returns
    -------
    low, exponent, high : float
        The fit and the ends of its interval.

    Raises
    ------
    ValueError
        If there are fewer than four sizes, or a number is not positive.
    """
    if len(sizes) < 4 or len(sizes) != len(samples):
        raise ValueError(f"sizes must be at least 4, one for each sample, got {len(sizes)} and {len(samples)} samples")
    if min(sizes) <= 0 or any(np.min(sample) <= 0 or len(sample) < 2 for sample in samples):
        raise ValueError(f"sizes and samples must be positive, with two samples a size, got sizes {list(sizes)}")
    rng = np.random.default_rng(rng)
    x = np.log(np.asarray(sizes, dtype=float))
    logs = [np.log(np.asarray(sample, dtype=float)) for sample in samples]
    draws = np.stack([np.median(log[rng.integers(0, len(log), (resamples, len(log)))], axis=1) for log in logs])
    # A size whose bootstrap medians are all one would have all the weight: the spread is that of a tenth of the others.
    variance = np.maximum(draws.var(axis=1), 0.01 * draws.var(axis=1).mean() + 1e-12)
    weights = 1.0 / variance
    centred = x - (weights * x).sum() / weights.sum()
    linear = weights * centred / (weights * centred**2).sum()
    exponent = float(linear @ np.array([np.median(log) for log in logs]))
    low, high = np.quantile(linear @ draws, [0.5 - 0.5 * confidence, 0.5 + 0.5 * confidence])
    return min(float(low), exponent), exponent, max(float(high), exponent)


def slope(sizes: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> float:
    """Slope of log values in log sizes by plain least squares, for single values."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])

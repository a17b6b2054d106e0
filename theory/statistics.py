"""Estimates with their intervals: exponents as weighted slopes of logarithms, means by bootstrap or standard errors."""

from collections.abc import Callable, Sequence

import numpy as np

#: Intervals cover this much.
CONFIDENCE = 0.95


def fit_exponent(
    sizes: Sequence[float],
    samples: Sequence[np.ndarray],
    *,
    statistic: Callable[..., np.ndarray] = np.median,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
    rng: np.random.Generator | int = 0,
) -> tuple[float, float, float]:
    """Exponent of the median, or of another statistic, of samples in their size.

    The logarithms of the statistic are fitted by least squares, each weighted by the inverse of its bootstrap variance.

    Parameters
    ----------
    sizes : sequence of float
        At least four, positive.
    samples : sequence of numpy.ndarray
        Positive numbers, at least two for each size.
    statistic : callable, default numpy.median
        Of an array along ``axis``; ``numpy.mean`` for a law of expectations.
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
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    draws = np.log(np.stack([statistic(a[rng.integers(0, len(a), (resamples, len(a)))], axis=1) for a in arrays]))
    # A size whose resamples all agree would have all the weight: the spread is that of a tenth of the others.
    variance = np.maximum(draws.var(axis=1), 0.01 * draws.var(axis=1).mean() + 1e-12)
    weights = 1.0 / variance
    centred = x - (weights * x).sum() / weights.sum()
    linear = weights * centred / (weights * centred**2).sum()
    exponent = float(linear @ np.log([statistic(a, axis=0) for a in arrays]))
    return _ends(linear @ draws, exponent, confidence)


def paired_exponent(
    sizes: Sequence[float], samples: np.ndarray, *, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Mean exponent of the rows of ``samples`` (one column a size, positive), with a bootstrap interval over the rows.

    For trials that go through all sizes: what they share cancels.
    """
    logs = np.log(np.asarray(sizes, dtype=float))
    weights = (logs - logs.mean()) / np.square(logs - logs.mean()).sum()
    return mean_interval(np.log(samples) @ weights, confidence=confidence)


def mean_interval(
    samples: Sequence[float] | np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = 4000
) -> tuple[float, float, float]:
    """Lower end, mean and upper end of a bootstrap interval; the bootstrap's seed is fixed."""
    rng, values = np.random.default_rng(0), np.asarray(samples, dtype=float)
    draws = np.array([rng.choice(values, len(values)).mean() for _ in range(resamples)])
    return _ends(draws, float(values.mean()), confidence)


def mean_errors(samples: Sequence[float] | np.ndarray, errors: float) -> tuple[float, float, float]:
    """Mean less ``errors`` standard errors, mean, and mean plus as many."""
    mean, error = float(np.mean(samples)), float(np.std(samples, ddof=1) / len(samples) ** 0.5)
    return mean - errors * error, mean, mean + errors * error


def slope(sizes: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> float:
    """Slope of log values in log sizes by plain least squares, for single values."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def fit_power(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    window: tuple[float, float] | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float]:
    """Exponent of y in x for single values: least squares of the logarithms, with Student's interval of its residuals.

    Parameters
    ----------
    x, y : sequence of float
        Positive, one y for each x.
    window : (float, float), optional
        Least and largest x that count.
    confidence : float, default 0.95
        Of the interval.

    Returns
    -------
    low, exponent, high : float

    Raises
    ------
    ValueError
        If fewer than 3 points are left, or one is not positive.
    """
    from scipy.stats import linregress, t

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if window is not None:
        inside = (x >= window[0]) & (x <= window[1])
        x, y = x[inside], y[inside]
    if len(x) < 3 or len(x) != len(y):
        raise ValueError(f"fit_power: wanted at least 3 pairs in the window, got {len(x)} of x and {len(y)} of y")
    if not (x > 0).all() or not (y > 0).all():
        raise ValueError(f"fit_power: x and y must be positive, got least values {x.min():g} and {y.min():g}")
    found = linregress(np.log(x), np.log(y))
    half = t.ppf(0.5 + 0.5 * confidence, len(x) - 2) * found.stderr
    return float(found.slope - half), float(found.slope), float(found.slope + half)


def asymptotic_exponent(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Exponent of y in x as x grows, for exact values: log y = a + s log x + b/x + c/x^2, fitted by least squares.

    The interval is what the exponent changes by when the term 1/x is left out: an estimate of what further terms do.

    Parameters
    ----------
    x, y : sequence of float
        Positive, at least six pairs.

    Returns
    -------
    low, exponent, high : float

    Raises
    ------
    ValueError
        For fewer pairs, or numbers that are not positive.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 6 or len(x) != len(y) or not (x > 0).all() or not (y > 0).all():
        raise ValueError(f"asymptotic_exponent: wanted at least 6 positive pairs, got {len(x)} of x and {len(y)} of y")

    def exponent(*powers: int) -> float:
        columns = np.stack([np.ones_like(x), np.log(x), *(x**-power for power in powers)], axis=1)
        return float(np.linalg.lstsq(columns, np.log(y), rcond=None)[0][1])

    found = exponent(1, 2)
    change = abs(found - exponent(2))
    return found - change, found, found + change


def _ends(draws: np.ndarray, measured: float, confidence: float) -> tuple[float, float, float]:
    low, high = np.quantile(draws, [0.5 - 0.5 * confidence, 0.5 + 0.5 * confidence])
    return min(float(low), measured), measured, max(float(high), measured)

"""How many rows a rule needs: the smallest expected sample that keeps the norms, trial by trial."""

import numpy as np
import torch

from holonomy.theory.sensitivity_sampling.distortion import Prober, distortion

#: Relative width at which a search ends.
PRECISION = 0.02
#: Steps of a search by which the rate is multiplied or divided until it is bracketed.
FACTOR = 1.3


def required_rows(
    A: np.ndarray,
    scores: np.ndarray,
    p: float,
    rng: np.random.Generator,
    *,
    prober: Prober | None = None,
    trials: int = 30,
    target: float = 0.5,
    n_ascent: int = 0,
    guess: float | None = None,
) -> np.ndarray:
    """Expected rows at which a sample's distortion falls to a target, for each of several trials.

    A trial draws one uniform number a row, and keeps the rows whose number is below min(1, 1/n + rate * score): samples
    grow with the rate, so that a bisection of the rate finds where the distortion crosses the target. The median over
    trials is the number at which half of the samples succeed.

    Parameters
    ----------
    A : numpy.ndarray
        (n, d).
    scores : numpy.ndarray
        (n,), not negative.
    p : float
        The norm's exponent.
    rng : numpy.random.Generator
        Draws the trials.
    prober : Prober, optional
        Of the matrix that distortion is measured on, which the columns of A are those of; of A itself when left out.
    trials : int, default 30
        Searches.
    target : float, default 0.5
        Distortion.
    n_ascent : int, default 0
        Gradient steps of the measurement.
    guess : float, optional
        Expected rows to start from; 4 d when left out.

    Returns
    -------
    numpy.ndarray
        (trials,); n where even all rows are needed.
    """
    prober = prober or Prober(A, p)
    rows, importance = torch.from_numpy(A), torch.from_numpy(scores)
    rate = (guess or 4.0 * A.shape[1]) / float(scores.sum())
    found = []
    for _ in range(trials):
        draws = torch.from_numpy(rng.random(len(A)))
        low, high = _bracket(rows, importance, draws, rate, p, prober, target, n_ascent)
        while high > low * (1.0 + PRECISION):
            middle = (low * high) ** 0.5
            good = _succeeds(rows, importance, draws, middle, p, prober, target, n_ascent)
            low, high = (low, middle) if good else (middle, high)
        rate = (low * high) ** 0.5
        found.append(float(probabilities(importance, rate).sum()))
    return np.array(found)


def probabilities(scores: torch.Tensor, rate: float) -> torch.Tensor:
    """min(1, 1/n + rate * score)."""
    return (1.0 / len(scores) + rate * scores).clamp_max(1.0)


def _bracket(
    rows: torch.Tensor, scores: torch.Tensor, draws: torch.Tensor, rate: float, p: float, prober: Prober,
    target: float, n_ascent: int,
) -> tuple[float, float]:  # fmt: skip
    """A rate that fails and, FACTOR above it, one that succeeds."""
    most = 1.0 / float(scores[scores > 0].min())
    good = _succeeds(rows, scores, draws, rate, p, prober, target, n_ascent)
    factor = 1.0 / FACTOR if good else FACTOR
    while True:
        next_rate = min(rate * factor, most)
        now = _succeeds(rows, scores, draws, next_rate, p, prober, target, n_ascent)
        if now is not good or next_rate == most:
            return (next_rate, rate) if good else (rate, next_rate)
        rate = next_rate


def _succeeds(
    rows: torch.Tensor, scores: torch.Tensor, draws: torch.Tensor, rate: float, p: float, prober: Prober,
    target: float, n_ascent: int,
) -> bool:  # fmt: skip
    q = probabilities(scores, rate)
    kept = torch.nonzero(draws < q)[:, 0]
    sample = rows[kept] * q[kept, None] ** (-1.0 / p)
    # The ascent can only worsen what the directions without it find.
    return all(distortion(*prober.extremes(sample, steps)) <= target for steps in sorted({0, n_ascent}))

"""The temperature of the weights, chosen on held-out samples by what the rule is meant to keep small."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.models.adaptation.loki.predict import Distances, Source, StructuredMetric, read_source, temper
from holonomy.models.adaptation.loki.validation import check_positive, check_probs, label_indices

__all__ = ["TEMPERATURES", "calibrate_temperature"]

#: Temperatures that are tried: 1 and powers of the fourth root of 2 around it.
TEMPERATURES = tuple(2.0 ** (k / 4.0) for k in range(-12, 13))


def calibrate_temperature(
    probs: Any,
    y: Any,
    distances: Distances,
    p: float = 2,
    observed: Any = None,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    start: float = 1.0,
    errors: float = 2.0,
) -> float:
    """Temperature T of P^(1/T) with the least mean power of the distance, if it is clearly better than a first one.

    The rule changes few labels, so that on some tens of samples the least of many means is often that of a far too
    large T. Hence `start` stays unless the best is less by `errors` standard errors of the paired difference.

    Parameters
    ----------
    probs : Tensor or array-like
        (m, K) of samples that the model was not trained on.
    y : array-like
        Their labels (m,), indices among all labels.
    distances, p, observed
        As of `frechet_predict`; arrays (N, N) or a structured metric, for labels are compared with labels.
    temperatures : sequence of float
        Those that are tried; of equal ones that nearest to `start`, by its logarithm, is taken.
    start : float, default 1
        Temperature to keep.
    errors : float, default 2
        Standard errors to be better by; with 0 the least mean wins.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As of `frechet_predict`, where a temperature is not positive, `errors` is negative or there are no samples.
    """
    where = "calibrate_temperature"
    P = probs if isinstance(probs, Tensor) else torch.as_tensor(np.asarray(probs))
    check_probs(where, P)
    whole = isinstance(distances, StructuredMetric) or (
        not callable(distances) and distances.shape[0] == distances.shape[1]
    )
    if not whole:
        raise ValueError(f"{where}: 'distances' must be between all labels, (N, N) or a structured metric")
    n = distances.n if isinstance(distances, StructuredMetric) else len(distances)  # type: ignore[arg-type]
    index = np.arange(n) if observed is None else observed
    source = read_source(where, distances, index, p)
    check_probs(where, P, source.k)
    return choose(where, P, label_indices(where, "y", y, n), distances, source, temperatures, start, errors)


def choose(
    where: str,
    P: Tensor,
    y: np.ndarray,
    metric: Any,
    source: Source,
    temperatures: Sequence[float],
    start: float,
    errors: float,
) -> float:
    """`calibrate_temperature` of what has been checked."""
    first = check_positive(where, "start", start)
    tried = [check_positive(where, "temperatures", t) for t in temperatures]
    if not tried or not errors >= 0 or len(y) != len(P) or len(y) == 0:
        raise ValueError(
            f"{where}: wanted temperatures, errors of at least 0 and a label a sample, got {len(tried)} temperatures, "
            f"errors = {errors}, {len(P)} samples and {len(y)} labels"
        )
    tried = [first, *sorted(tried, key=lambda t: abs(np.log(t / first)))]
    losses = [_losses(y, source.predict(temper(P, t)).cpu().numpy(), metric, source.p) for t in tried]
    best = int(np.argmin([loss.mean() for loss in losses]))
    gain = losses[0] - losses[best]
    error = float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return tried[best] if best > 0 and gain.mean() > errors * error else first


def _losses(y: np.ndarray, found: np.ndarray, metric: Any, p: float) -> np.ndarray:
    apart = metric.between(y, found) if isinstance(metric, StructuredMetric) else metric[y, found]
    return np.asarray(apart.cpu() if isinstance(apart, Tensor) else apart, dtype=float) ** p

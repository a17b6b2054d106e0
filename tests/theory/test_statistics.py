"""Fitted exponents and means, and their intervals."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from holonomy.theory.statistics import (
    asymptotic_exponent,
    fit_exponent,
    fit_power,
    mean_errors,
    mean_interval,
    paired_exponent,
    slope,
)


def test_exponents_are_recovered_with_their_intervals() -> None:
    rng = np.random.default_rng(0)
    sizes = [8, 16, 32, 64, 128]
    inside = 0
    for _ in range(40):
        samples = [3.0 * n**1.5 * np.exp(0.3 * rng.standard_normal(30)) for n in sizes]
        low, exponent, high = fit_exponent(sizes, samples, resamples=400)
        assert low <= exponent <= high
        inside += low <= 1.5 <= high
    # 95 % intervals of 40 fits: fewer than 32 would have a chance of 1e-4.
    assert inside >= 32
    assert slope(sizes, [n**0.7 for n in sizes]) == pytest.approx(0.7)


def test_noisy_sizes_weigh_less() -> None:
    rng = np.random.default_rng(1)
    sizes, spreads = [1, 2, 4, 8, 16], [0.01, 0.01, 0.01, 0.01, 3.0]
    samples = [n * np.exp(s * rng.standard_normal(9)) for n, s in zip(sizes, spreads, strict=True)]
    samples[-1] *= 20.0
    assert fit_exponent(sizes, samples)[1] == pytest.approx(1.0, abs=0.1)
    assert slope(sizes, [np.median(sample) for sample in samples]) > 1.3


def test_exponents_of_means_are_recovered() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(50):
        samples = [rng.exponential(n**-1.5, 100) for n in (2, 4, 8, 16)]
        low, _, high = fit_exponent((2, 4, 8, 16), samples, statistic=np.mean, confidence=0.999, resamples=500)
        hits += low <= -1.5 <= high
    # 99.9 % intervals of 50 samples: three misses would be a chance below 1e-4
    assert hits >= 48


def test_paired_trials_share_their_scale() -> None:
    rng = np.random.default_rng(2)
    sizes = (1.0, 2.0, 4.0, 8.0)
    samples = np.exp(3.0 * rng.standard_normal((20, 1))) * np.power(sizes, -2.0)
    # The rows differ by factors of e^3, and agree on the exponent to rounding.
    assert paired_exponent(sizes, samples) == pytest.approx((-2.0, -2.0, -2.0), abs=1e-12)


@pytest.mark.parametrize("interval", [lambda x: mean_interval(x, resamples=400), lambda x: mean_errors(x, 2.0)])
def test_means_lie_in_their_intervals(interval: Callable[[np.ndarray], tuple[float, float, float]]) -> None:
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(60):
        low, mean, high = interval(rng.exponential(2.0, 50))
        assert low < mean < high
        inside += low <= 2.0 <= high
    # Some 93 % intervals of 60 samples: fewer than 48 would have a chance below 1e-3, and all 60 one of 2 in 100.
    assert inside >= 48


@pytest.mark.parametrize(
    ("sizes", "samples", "words"),
    [
        ([1, 2, 3], [np.ones(2)] * 3, "sizes must be at least 4"),
        ([1, 2, 3, 0], [np.ones(2)] * 4, "sizes and samples must be positive"),
        ([1, 2, 3, 4], [np.ones(1)] * 4, "two samples a size"),
    ],
)
def test_errors(sizes: Sequence[float], samples: Sequence[np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_exponent(sizes, samples)


def test_exponents_of_single_values_with_their_residuals() -> None:
    rng = np.random.default_rng(4)
    x = np.geomspace(1.0, 100.0, 12)
    inside = 0
    for _ in range(60):
        low, exponent, high = fit_power(x, 2.0 * x**-1.3 * np.exp(0.1 * rng.standard_normal(12)))
        assert low <= exponent <= high
        inside += low <= -1.3 <= high
    # 95 % intervals of 60 fits: fewer than 50 would have a chance below 1e-3.
    assert inside >= 50
    bent = np.where(x < 10.0, 7.0, x**2)
    assert fit_power(x, bent, window=(10.0, 100.0))[1] == pytest.approx(2.0)


def test_exponents_at_infinity() -> None:
    x = np.arange(8, 49, 2)
    low, exponent, high = asymptotic_exponent(x, x**-3.0 * np.exp(2.0 / x - 5.0 / x**2))
    assert exponent == pytest.approx(-3.0, abs=1e-10)
    low, exponent, high = asymptotic_exponent(x, 1.0 / (x**2.0 + 3.0 * x + 7.0))
    assert low < -2.0 < high
    assert high - low < 0.3
    assert abs(fit_power(x, 1.0 / (x**2.0 + 3.0 * x + 7.0))[1] + 2.0) > 2 * abs(exponent + 2.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit_power([1, 2], [1, 2]), "at least 3 pairs"),
        (lambda: fit_power([1, 2, 3], [1, 2, 3], window=(2, 3)), "got 2 of x"),
        (lambda: fit_power([1, 2, 3], [1, 2, 0]), "must be positive"),
        (lambda: asymptotic_exponent([1, 2, 3], [1, 2, 3]), "at least 6 positive pairs, got 3"),
        (lambda: asymptotic_exponent(range(6), range(6)), "at least 6 positive pairs"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

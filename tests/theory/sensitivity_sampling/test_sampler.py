"""Samplers: unbiased, repeatable, scikit-learn's habits; rounds, flattening, complexities."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.base import clone

from holonomy.theory.sensitivity_sampling import (
    NotFittedError,
    RowSampler,
    distortion,
    flat_matrix,
    flatten_rows,
    leverage_scores,
    lewis_weights,
    lp_sensitivities,
    recursive_root_leverage,
    sample_complexity,
    subspace_distortion,
)
from holonomy.theory.sensitivity_sampling.sampler import METHODS

A = np.random.default_rng(0).standard_normal((200, 4)) * np.exp(np.random.default_rng(1).standard_normal((200, 1)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1.0, 3.0])
def test_every_rule_is_unbiased(method: str, p: float) -> None:
    x = np.random.default_rng(2).standard_normal(4)
    sampler = RowSampler(method, p=p, size=40, random_state=np.random.default_rng(3)).fit(A)
    ratios = [(np.abs(sampler.transform(A) @ x) ** p).sum() / (np.abs(A @ x) ** p).sum() for _ in range(2000)]
    # Four standard errors.
    assert abs(np.mean(ratios) - 1.0) < 4 * np.std(ratios) / 2000**0.5


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_the_rules(method: str) -> None:
    alpha, p = 0.4, 1.0
    scores = {
        "sensitivity": lp_sensitivities(A, p),
        "lewis": lewis_weights(A, p),
        "leverage": leverage_scores(A),
        "root_leverage": leverage_scores(A) ** 0.5,
        "augmented": lp_sensitivities(A, p) + leverage_scores(A),
        "uniform": np.full(200, 4 / 200),
    }[method]
    q = RowSampler(method, p=p, alpha=alpha).fit(A).q_
    floor = 1 / 200 if method == "sensitivity" else 0.0
    np.testing.assert_allclose(q, np.minimum(1.0, floor + scores / alpha), rtol=1e-12)
    # Rounding of a sum of 200 numbers.
    assert q.sum() <= ((1 if method == "sensitivity" else 0) + scores.sum() / alpha) * (1 + 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1.5, 30, 199.0, 200])
def test_size_is_the_expected_size(method: str, size: float) -> None:
    sampler = RowSampler(method, size=size, random_state=0).fit(A)
    # The bisection ends at a relative width of 1e-12, and the sum is at most n.
    assert sampler.q_.sum() == pytest.approx(size, rel=1e-9)
    assert sampler.sample(A).expected_size == pytest.approx(size, rel=1e-9)


def test_sizes_of_samples_are_binomial() -> None:
    sampler = RowSampler("lewis", size=50, random_state=np.random.default_rng(0)).fit(A)
    sizes = [len(sampler.sample(A).indices) for _ in range(1000)]
    q = sampler.q_
    # Independent rows: the variance is sum q (1 - q), not 0 as with a fixed number of draws.
    assert np.mean(sizes) == pytest.approx(50, abs=4 * np.std(sizes) / 1000**0.5)
    # A variance of 1000 samples has a relative standard error of sqrt(2/1000) = 4.5 %: four of them.
    assert np.var(sizes) == pytest.approx((q * (1 - q)).sum(), rel=0.18)


def test_weights_and_certain_rows() -> None:
    sampler = RowSampler("sensitivity", p=3.0, alpha=0.2, random_state=0).fit(A)
    certain = np.flatnonzero(sampler.q_ == 1.0)
    assert 0 < len(certain) < 200
    for seed in range(20):
        sample = sampler.set_params(random_state=seed).sample(A)
        assert set(certain) <= set(sample.indices)
        assert (sample.weights[np.isin(sample.indices, certain)] == 1.0).all()
        np.testing.assert_allclose(sample.weights**-3.0, sampler.q_[sample.indices], rtol=1e-12)
        np.testing.assert_array_equal(sample.q, sampler.q_[sample.indices])


def test_same_random_state_same_sample() -> None:
    sampler = RowSampler("lewis", size=30, random_state=7).fit(A)
    first, second = sampler.sample(A), sampler.sample(A)
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(sampler.transform(A), first.weights[:, None] * A[first.indices])
    going_on = RowSampler("lewis", size=30, random_state=np.random.default_rng(7)).fit(A)
    assert set(going_on.sample(A).indices) == set(first.indices)
    assert set(going_on.sample(A).indices) != set(first.indices)


def test_scikit_learns_habits() -> None:
    sampler = RowSampler("lewis", p=1.5, size=30, random_state=0)
    copy = clone(sampler)
    assert copy.get_params() == sampler.get_params()
    assert repr(copy) == "RowSampler(method='lewis', p=1.5, size=30, random_state=0)"
    assert copy.fit(A) is copy
    np.testing.assert_array_equal(copy.fit_transform(A), sampler.fit(A).transform(A))
    with pytest.raises(ValueError, match=r"parameter must be one of method, p, .*, got 'rate'"):
        copy.set_params(rate=1)
    with pytest.raises(NotFittedError, match=r"call fit\(A\) first"):
        clone(sampler).sample(A)


def test_torch_in_torch_out() -> None:
    x = torch.from_numpy(A)
    sampler = RowSampler("sensitivity", size=30, random_state=0).fit(x)
    sample = sampler.sample(x)
    assert all(isinstance(v, torch.Tensor) for v in (sample.indices, sample.weights, sample.q, sampler.q_))
    ours = RowSampler("sensitivity", size=30, random_state=0).fit(A).transform(A)
    np.testing.assert_array_equal(sampler.transform(x).numpy(), ours)


@pytest.mark.parametrize(
    ("method", "p", "rows"),
    [
        ("lewis", 1.0, 4 / 0.25),
        ("lewis", 3.0, 4**1.5 / 0.25),
        ("sensitivity", 1.0, lp_sensitivities(A, 1.0).sum() * 4**0.5 / 0.25),
        ("sensitivity", 3.0, lp_sensitivities(A, 3.0).sum() ** (4 / 3) / 0.25),
        ("augmented", 3.0, 4 ** (2 / 3) * lp_sensitivities(A, 3.0).sum() ** (2 / 3) / 0.25),
    ],
)
def test_eps_asks_for_the_bounds_number_of_rows(method: str, p: float, rows: float) -> None:
    sampler = RowSampler(method, p=p, eps=0.5).fit(A)
    assert sampler.scores_.sum() / sampler.alpha_ == pytest.approx(rows, rel=1e-7)


def test_root_leverage_at_eps_keeps_rows_at_least_as_often_as_lewis() -> None:
    root, lewis = (RowSampler(m, p=1.0, eps=0.5).fit(A) for m in ("root_leverage", "lewis"))
    assert root.alpha_ == pytest.approx(lewis.alpha_)
    assert (root.q_ >= lewis.q_ * (1 - 1e-9)).all()


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_rounds_shrink_by_hoelders_bound_and_keep_the_norms(p: float) -> None:
    n, d, c = 20_000, 5, 12.0
    rng = np.random.default_rng(0)
    tall = rng.standard_normal((n, d)) * np.exp(rng.standard_normal((n, 1)))
    sample, sizes = recursive_root_leverage(tall, p, c, random_state=0)
    assert sizes[0] == n
    assert sizes[-1] == len(sample.indices)
    for before, after in pairwise(sizes):
        # The count has a standard deviation below its root: four of them.
        assert after <= c * before ** (1 - p / 2) * d ** (p / 2) + 4 * after**0.5
    assert 0.5 * c ** (2 / p) * d < sizes[-1] < 1.5 * c ** (2 / p) * d
    np.testing.assert_allclose(sample.weights, sample.q ** (-1 / p), rtol=1e-12)
    # A sample of c^(2/p) d rows; without its weights the distortion is above 10.
    assert distortion(*subspace_distortion(tall, sample.of(tall), p)) < 0.6
    again, _ = recursive_root_leverage(tall, p, c, random_state=0)
    np.testing.assert_array_equal(sample.indices, again.indices)


def test_rounds_are_unbiased() -> None:
    tall, x = flat_matrix(2000, 3, 0), np.array([1.0, -2.0, 0.5])
    rng = np.random.default_rng(1)
    whole = np.abs(tall @ x).sum()
    ratios = [
        np.abs(recursive_root_leverage(tall, 1.0, 6.0, random_state=rng)[0].of(tall) @ x).sum() / whole
        for _ in range(200)
    ]
    # Four standard errors.
    assert abs(np.mean(ratios) - 1.0) < 4 * np.std(ratios) / 200**0.5


def test_leverage_of_rows_that_are_not_weighted_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: scores must be taken of the weighted matrix in each round."""
    from holonomy.theory.sensitivity_sampling import recursive

    rng = np.random.default_rng(0)
    tall = rng.standard_normal((20_000, 5)) * np.exp(1.5 * rng.standard_normal((20_000, 1)))

    def ends(seed: int) -> float:
        sample, _ = recursive_root_leverage(tall, 1.0, 8.0, random_state=seed)
        return distortion(*subspace_distortion(tall, sample.of(tall), 1.0))

    right = np.median([ends(seed) for seed in range(5)])
    lengths = {tuple(np.round(row / np.linalg.norm(row), 9)): np.linalg.norm(row) for row in tall}

    def without_weights(weighted: torch.Tensor, c: float, p: float) -> torch.Tensor:
        rows = weighted.numpy()
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        true = np.array([lengths[tuple(np.round(unit, 9))] for unit in units])
        return leverage_scores(torch.from_numpy(units * true[:, None])) ** (p / 2)

    monkeypatch.setattr(recursive, "_scores", without_weights)
    assert np.median([ends(seed) for seed in range(5)]) > 1.5 * right


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_flattening_keeps_norms_and_divides_scores(p: float) -> None:
    tau = leverage_scores(A)
    threshold = 2 * np.median(tau)
    flat, origin = flatten_rows(A, tau, threshold, p)
    x = np.random.default_rng(0).standard_normal((4, 10))
    np.testing.assert_allclose((np.abs(flat @ x) ** p).sum(0), (np.abs(A @ x) ** p).sum(0), rtol=1e-12)
    copies = np.bincount(origin)
    np.testing.assert_array_equal(copies, np.maximum(1, np.ceil(tau / threshold)))
    # The tolerance of the sensitivities, 1e-9, and an order of magnitude.
    np.testing.assert_allclose(lp_sensitivities(flat, p), (lp_sensitivities(A, p) / copies)[origin], rtol=1e-8)
    if p > 2:
        # Rounding of leverage scores.
        assert (leverage_scores(flat) <= (tau / copies ** (2 / p))[origin] * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("bound", "p", "rows"),
    [
        ("union", 1.0, 6 * 10),
        ("sensitivity", 1.0, 36),
        ("sensitivity", 1.5, 6 ** (4 / 3)),
        ("sensitivity", 3.0, 6 ** (4 / 3)),
        ("sensitivity", 4.0, 6**1.5),
        ("chen_derezinski", 1.0, 6 * 10**0.5),
        ("lewis", 1.0, 10),
        ("lewis", 4.0, 100),
        ("root_leverage", 1.0, 10),
        ("leverage_sensitivity", 4.0, 10**0.5 * 6),
        ("conjecture", 3.0, 16),
    ],
)
def test_complexities(bound: str, p: float, rows: float) -> None:
    assert sample_complexity(bound, 6.0, 10, p, 0.1) == pytest.approx(100 * rows)
    assert sample_complexity(bound, 6.0, 10, p, 0.1, C=3.0) == pytest.approx(300 * rows)


@pytest.mark.parametrize("p", [1.0, 1.2, 1.8])
@pytest.mark.parametrize("d", [2, 10, 100])
def test_chen_and_derezinski_are_never_worse(p: float, d: int) -> None:
    for S in np.linspace(d ** (p / 2), d, 7):
        first, second = (sample_complexity(b, S, d, p, 0.5) for b in ("chen_derezinski", "sensitivity"))
        assert first <= second * (1 + 1e-12)
    assert sample_complexity("chen_derezinski", d ** (p / 2), d, p, 0.5) == pytest.approx(4 * d)

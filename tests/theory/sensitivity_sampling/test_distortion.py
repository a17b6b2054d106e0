"""Distortion, rows needed and regression."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from holonomy.theory.sensitivity_sampling import (
    Prober,
    RowSampler,
    distortion,
    flat_matrix,
    flat_total,
    lp_regression,
    replicated_identity,
    required_rows,
    subspace_distortion,
    tight_instance,
)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 4.0])
def test_the_replicated_identity_has_its_exact_distortion(p: float) -> None:
    """||SAx||_p^p / ||x||_p^p lies between the least and the greatest weight that a coordinate keeps."""
    A = replicated_identity(5, 40, p)
    for seed in range(5):
        sample = RowSampler("lewis", p=p, size=60, random_state=seed).fit(A).sample(A)
        kept = np.bincount(sample.indices // 40, weights=sample.weights**p / 40, minlength=5)
        low, high = subspace_distortion(A, sample.of(A), p)
        # The extremes are at unit vectors, which are singular vectors of SA wherever the kept weights differ.
        assert low == pytest.approx(kept.min(), rel=1e-6)
        assert high == pytest.approx(kept.max(), rel=1e-6)


def test_two_has_the_exact_distortion() -> None:
    A = np.random.default_rng(0).standard_normal((300, 6)) @ np.diag([1, 10, 1e2, 1e3, 1e4, 1e5])
    SA = RowSampler("leverage", p=2.0, size=80, random_state=0).fit(A).transform(A)
    values = np.linalg.eigvals(np.linalg.solve(A.T @ A, SA.T @ SA)).real
    # A condition number of 1e5 squared in the normal equations of the reference.
    np.testing.assert_allclose(subspace_distortion(A, SA, 2.0), (values.min(), values.max()), rtol=1e-4)


def test_random_directions_alone_miss_the_worst() -> None:
    A = flat_matrix(2000, 20, 0)
    SA = RowSampler("lewis", size=60, random_state=0).fit(A).transform(A)
    x = np.random.default_rng(1).standard_normal((20, 200))
    alone = np.abs(SA @ x).sum(0) / np.abs(A @ x).sum(0)
    low, high = subspace_distortion(A, SA, 1.0, n_ascent=0)
    assert low < 0.9 * alone.min()
    assert high >= alone.max() * (1 - 1e-12)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_ascent_only_widens_and_nears_the_extremes(p: float) -> None:
    A = flat_matrix(1000, 4, 0)
    SA = RowSampler("lewis", p=p, size=60, random_state=1).fit(A).transform(A)
    low0, high0 = subspace_distortion(A, SA, p, n_ascent=0)
    low, high = subspace_distortion(A, SA, p, n_ascent=60)
    assert low <= low0
    assert high >= high0

    def ratio(x: np.ndarray) -> float:
        return (np.abs(SA @ x) ** p).sum() / (np.abs(A @ x) ** p).sum()

    rng = np.random.default_rng(0)
    least = min(minimize(ratio, rng.standard_normal(4), method="Nelder-Mead").fun for _ in range(15))
    # Sixty steps with lengths that adapt end near a stationary point; p = 1 has kinks there.
    assert low == pytest.approx(least, rel=0.02)


def test_rank_deficient_samples_have_infinite_distortion() -> None:
    A = flat_matrix(50, 4, 0)
    for rows in ([], [0], [0, 1, 2], [0, 0, 1, 1, 1]):
        low, high = subspace_distortion(A, A[rows], 1.0)
        assert low == 0.0
        assert distortion(low, high) == np.inf
    assert subspace_distortion(A, A, 1.0) == pytest.approx((1.0, 1.0))
    assert distortion(0.5, 1.2) == pytest.approx(1.0)
    assert distortion(0.9, 1.5) == pytest.approx(0.5)


def test_scaling_and_change_of_basis_leave_the_ratios() -> None:
    A, rng = flat_matrix(400, 5, 0), np.random.default_rng(0)
    SA = RowSampler("lewis", p=1.5, size=60, random_state=0).fit(A).transform(A)
    R = rng.standard_normal((5, 5))
    one, other = subspace_distortion(A, SA, 1.5, n_ascent=80), subspace_distortion(A @ R, SA @ R, 1.5, n_ascent=80)
    # Other random directions, and the same local extremes by the ascent.
    np.testing.assert_allclose(one, other, rtol=0.01)
    np.testing.assert_allclose(subspace_distortion(A, 2.0 * A, 1.5), 2**1.5)


def test_required_rows_are_where_half_of_the_samples_succeed() -> None:
    A = flat_matrix(4096, 8, 0)
    need = np.median(required_rows(A, np.full(4096, 1.0), 1.0, np.random.default_rng(0), trials=40))
    prober = Prober(A, 1.0)

    def successes(size: float) -> float:
        sampler = RowSampler("uniform", size=size, random_state=np.random.default_rng(1)).fit(A)
        return np.mean([distortion(*prober.extremes(sampler.transform(A), 0)) <= 0.5 for _ in range(200)])

    # 200 samples and a median of 40 trials, each with some 0.08 of a standard error at this slope: four of both.
    assert 0.2 < successes(need) < 0.8
    assert successes(0.5 * need) < 0.2
    assert successes(2.0 * need) > 0.8


@pytest.mark.parametrize("method", ["sensitivity", "lewis"])
def test_the_flat_block_beside_an_identity_needs_what_its_share_says(method: str) -> None:
    """What the example reckons with: R (S1 + d) / S1 rows by sensitivity, and 2 R by Lewis weights, keep the block."""
    n, d = 1024, 4
    S1 = flat_total(d, 1.0)
    flat = flat_matrix(n, d, 0)
    alone = np.median(required_rows(flat, np.full(n, 1.0), 1.0, np.random.default_rng(0), trials=40))
    A = tight_instance(n, d, 64, 1.0, 0)
    rows = alone * (S1 + d) / S1 if method == "sensitivity" else 2.0 * alone
    prober = Prober(flat, 1.0)

    def successes(size: float) -> float:
        sampler = RowSampler(method, size=size, random_state=np.random.default_rng(1)).fit(A)
        samples = [sampler.transform(A)[:, :d] for _ in range(100)]
        return np.mean([distortion(*prober.extremes(SA, 0)) <= 0.5 for SA in samples])

    # 100 samples (standard error 0.05) at a median of 40 trials, whose own error moves the rate by some 0.1.
    assert 0.2 < successes(rows) < 0.8
    assert successes(0.5 * rows) < 0.2


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 6.0])
def test_regression_has_no_direction_of_descent(p: float) -> None:
    rng = np.random.default_rng(0)
    A, b, w = rng.standard_normal((80, 4)), rng.standard_normal(80), rng.uniform(0.5, 2.0, 80)
    x = lp_regression(A, b, p, weights=w)

    def loss(x: np.ndarray) -> float:
        return (np.abs(w * (A @ x - b)) ** p).sum()

    for step in (1e-1, 1e-2, 1e-3):
        for u in rng.standard_normal((30, 4)):
            # 1e-9 relative: what the iteration may leave, at a decrease of 1e-12 a step.
            assert loss(x + step * u) >= loss(x) * (1 - 1e-9)
    torch.testing.assert_close(lp_regression(torch.from_numpy(A), torch.from_numpy(b), p, weights=torch.from_numpy(w)),
                               torch.from_numpy(x))  # fmt: skip


def test_regression_of_two_is_least_squares_and_of_one_interpolates() -> None:
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((50, 3)), rng.standard_normal(50)
    np.testing.assert_allclose(lp_regression(A, b, 2.0), np.linalg.lstsq(A, b)[0], rtol=1e-9)
    residual = np.abs(A @ lp_regression(A, b, 1.0) - b)
    assert (residual < 1e-9).sum() >= 3  # a vertex of the linear programme meets as many rows as columns
    exact = A @ np.ones(3)
    for p in (1.0, 1.5, 4.0):
        np.testing.assert_allclose(lp_regression(A, exact, p), 1.0, rtol=1e-7)

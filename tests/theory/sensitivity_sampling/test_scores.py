"""Leverage, Lewis weights and sensitivities: definitions, identities, independent solvers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from holonomy.theory.sensitivity_sampling import (
    flat_matrix,
    flat_total,
    leverage_scores,
    lewis_weights,
    lp_sensitivities,
    replicated_identity,
    sensitivities,
    sensitivity_bounds,
    tight_instance,
    total_sensitivity,
)
from holonomy.theory.sensitivity_sampling.arrays import orthonormal_basis, power
from holonomy.theory.sensitivity_sampling.interior_point import least_sums
from holonomy.theory.sensitivity_sampling.lewis import iterate

EXPONENTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 6.0)


def uneven(n: int, d: int, seed: int, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.exp(spread * rng.standard_normal((n, 1)))


def by_programme(A: np.ndarray, i: int) -> float:
    """1/s_i for p = 1 by HiGHS: max l subject to A^T z = l a_i, |z| <= 1."""
    n, d = A.shape
    cost = np.r_[np.zeros(n), -1.0]
    found = linprog(cost, A_eq=np.c_[A.T, -A[i]], b_eq=np.zeros(d), bounds=[(-1, 1)] * n + [(0, None)])
    return found.x[-1]


def by_descent(A: np.ndarray, i: int, p: float) -> float:
    """1/s_i for a smooth p by scipy's SLSQP."""

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        r = A @ x
        return (np.abs(r) ** p).sum(), p * A.T @ (np.abs(r) ** (p - 1) * np.sign(r))

    held = {"type": "eq", "fun": lambda x: A[i] @ x - 1.0, "jac": lambda x: A[i]}
    return minimize(value, A[i] / (A[i] @ A[i]), jac=True, method="SLSQP", constraints=held, options={"maxiter": 500,
                    "ftol": 1e-12}).fun  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 40), st.integers(0, 2**31), st.floats(0.0, 4.0))
def test_leverage_scores_are_the_projections_diagonal(d: int, more: int, seed: int, spread: float) -> None:
    A = uneven(d + more, d, seed, spread)
    tau = leverage_scores(A)
    # A's columns have a condition number that grows with the spread: e^(2 * 4 * 3) at most loses ten digits of sixteen.
    np.testing.assert_allclose(tau, np.diag(A @ np.linalg.pinv(A)), atol=1e-6)
    assert tau.sum() == pytest.approx(d, rel=1e-9)
    assert (tau > 0).all()


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(("n", "d", "spread"), [(60, 4, 0.0), (300, 7, 2.0), (30, 25, 1.0)])
def test_lewis_weights_are_the_fixed_point_and_sum_to_d(p: float, n: int, d: int, spread: float) -> None:
    A = uneven(n, d, 1, spread)
    w = lewis_weights(A, p)
    assert w.sum() == pytest.approx(d, rel=1e-9)
    # Ten times the tolerance of the residual, which is relative.
    np.testing.assert_allclose(leverage_scores(w[:, None] ** (0.5 - 1 / p) * A), w, rtol=1e-9)


def test_lewis_weights_maximise_the_determinant_above_two() -> None:
    p, A, rng = 5.0, uneven(40, 4, 3), np.random.default_rng(0)
    w = lewis_weights(A, p)

    def volume(w: np.ndarray) -> float:
        return np.linalg.slogdet(A.T @ (w[:, None] ** (1 - 2 / p) * A))[1]

    for _ in range(50):
        other = w * np.exp(0.1 * rng.standard_normal(40))
        assert volume(other * 4 / other.sum()) < volume(w)


def test_every_step_of_the_ascent_rises() -> None:
    """The safeguard for p >= 4 never lets the determinant fall once the direct step is given up."""
    p, A = 12.0, torch.from_numpy(uneven(30, 25, 2, 2.0))
    Q = orthonormal_basis(A)
    weights = [iterate(Q, p, 0.0, k).weights for k in range(4, 40)]
    volumes = [float(torch.logdet(Q.T @ (w[:, None] ** (1 - 2 / p) * Q))) for w in weights]
    # Rounding of a logarithm of a 25 x 25 determinant.
    assert min(np.diff(volumes)) > -1e-12
    assert volumes[-1] > volumes[0]


@pytest.mark.parametrize("seed", range(3))
def test_l1_sensitivities_solve_the_linear_programme(seed: int) -> None:
    A = uneven(60, 4, seed)
    exact = np.array([1.0 / by_programme(A, i) for i in range(60)])
    # The certificate's gap is 1e-9; HiGHS is feasible to 1e-7.
    np.testing.assert_allclose(lp_sensitivities(A, 1.0), exact, rtol=1e-6)
    # What reweighted least squares reaches at p = 1.
    np.testing.assert_allclose(lp_sensitivities(A, 1.0, method="irls"), exact, rtol=1e-3)


def test_interior_point_certifies_its_answer() -> None:
    Q = orthonormal_basis(torch.from_numpy(uneven(200, 6, 0, 2.0)))
    low, high = least_sums(Q, Q[:50], tol=1e-9)
    assert (low <= high).all()
    assert ((high - low) <= 1e-9 * high).all()


@pytest.mark.parametrize("p", [1.5, 3.0, 4.0])
def test_sensitivities_agree_with_another_solver(p: float) -> None:
    A = uneven(50, 4, 5)
    rows = [0, 7, 21, 49]
    # SLSQP stops at a relative decrease of 1e-12 a step, some 1e-5 from the least value.
    np.testing.assert_allclose(1 / lp_sensitivities(A, p, rows=rows), [by_descent(A, i, p) for i in rows], rtol=1e-4)


def test_leverage_scores_are_the_sensitivities_of_two() -> None:
    A = uneven(200, 6, 0)
    for method in ("auto", "irls"):
        np.testing.assert_allclose(lp_sensitivities(A, 2.0, method=method), leverage_scores(A), atol=1e-8)
    assert total_sensitivity(A, 2.0) == pytest.approx(6, rel=1e-9)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 3.5])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_sandwich_of_lewis_weights(p: float, spread: float) -> None:
    A = uneven(120, 5, 7, spread)
    s, w, factor = lp_sensitivities(A, p), lewis_weights(A, p), 5 ** (p / 2 - 1)
    # Iterations end at a relative change of this size.
    assert (s >= min(factor, 1.0) * w * (1 - 1e-6)).all()
    assert (s <= max(factor, 1.0) * w * (1 + 1e-6)).all()
    if p <= 2:
        assert (s <= leverage_scores(A) ** (p / 2) * (1 + 1e-6)).all()
    assert min(5.0, 5 ** (p / 2)) * (1 - 1e-6) <= s.sum() <= max(5.0, 5 ** (p / 2)) * (1 + 1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 5.0])
@pytest.mark.parametrize("steps", [0, 1, 3, 100])
def test_certified_bounds_hold_after_any_number_of_steps(p: float, steps: int) -> None:
    A = uneven(150, 5, 11, 2.0)
    s = lp_sensitivities(A, p)
    low, high = sensitivity_bounds(A, p, tol=1e-9, max_iter=steps)
    # The sensitivities are within 1e-9 relative; an order of magnitude for the power.
    assert (low <= s * (1 + 1e-8)).all()
    assert (s <= high * (1 + 1e-8)).all()
    if steps == 100:
        # At the fixed point the two are exactly the factor apart, but where the cap of 1 or of tau^(p/2) is below.
        assert (high / low).max() == pytest.approx(5 ** abs(1 - p / 2), rel=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_sensitivities_are_invariant_as_stated(p: float) -> None:
    A, rng = uneven(80, 4, 2), np.random.default_rng(0)
    s = lp_sensitivities(A, p)
    # Ten times the gap that the iteration ends at.
    close = {"rtol": 1e-7}
    np.testing.assert_allclose(lp_sensitivities(A @ rng.standard_normal((4, 4)), p), s, **close)
    k = 3
    split = np.vstack([k ** (-1 / p) * A[:1]] * k + [A[1:]])
    found = lp_sensitivities(split, p)
    np.testing.assert_allclose(found, np.r_[[s[0] / k] * k, s[1:]], **close)
    blocks = np.block([[A, np.zeros((80, 3))], [np.zeros((20, 4)), uneven(20, 3, 4)]])
    np.testing.assert_allclose(lp_sensitivities(blocks, p)[:80], s, **close)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 7.0])
def test_rows_of_the_identity_have_sensitivity_one(p: float) -> None:
    np.testing.assert_allclose(lp_sensitivities(np.eye(5), p), 1.0, rtol=1e-9)
    np.testing.assert_allclose(lp_sensitivities(replicated_identity(4, 3, p), p), 1 / 3, rtol=1e-9)
    np.testing.assert_allclose(lewis_weights(np.eye(5), p), 1.0, rtol=1e-9)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_flat_rows_tend_to_the_closed_form(p: float) -> None:
    rows = np.random.default_rng(0).choice(4000, 20, replace=False)
    s = 4000 * lp_sensitivities(flat_matrix(4000, 8, 0), p, rows=rows, tol=1e-7)
    # Each row departs by some sqrt(d/n) = 4 %, their mean by a quarter of that.
    assert s.mean() == pytest.approx(flat_total(8, p), rel=0.03)


def test_closed_form_of_two_is_d() -> None:
    assert [flat_total(d, 2.0) for d in (1, 5, 64)] == pytest.approx([1, 5, 64])
    assert flat_total(16, 1.0) == pytest.approx(4.9356, abs=1e-4)


def test_tight_instance_has_the_sensitivities_of_its_blocks() -> None:
    s = lp_sensitivities(tight_instance(100, 4, 5, 1.0, 3), 1.0)
    np.testing.assert_allclose(s[:100], lp_sensitivities(flat_matrix(100, 4, 3), 1.0), rtol=1e-7)
    np.testing.assert_allclose(s[100:], 0.2, rtol=1e-7)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_zero_rows_and_row_scales_of_300_orders(p: float) -> None:
    A = uneven(40, 3, 0)
    padded = np.insert(A, [0, 7, 40], 0.0, axis=0)
    for function in (leverage_scores, lambda A: lewis_weights(A, p), lambda A: lp_sensitivities(A, p)):
        found = function(padded)
        assert (found[[0, 8, 42]] == 0).all()
        np.testing.assert_allclose(np.delete(found, [0, 8, 42]), function(A), rtol=1e-8)
    scales = np.ones(40)
    scales[5], scales[6] = 1e-140, 1e-30
    for found in (lewis_weights(scales[:, None] * A, p), lp_sensitivities(scales[:, None] * A, p)):
        assert np.isfinite(found).all()
        assert found[6] < 1e-25


def test_row_accuracy_does_not_depend_on_other_rows() -> None:
    A = uneven(50, 3, 0)
    scaled = np.vstack([1e-12 * A[:1], A[1:]])
    G = np.linalg.inv(A[1:].T @ A[1:])
    # tau of a tiny row, to its own digits: Householder's Q would give 1e-16 of noise on 1e-12.
    assert leverage_scores(scaled)[0] == pytest.approx(1e-24 * A[0] @ G @ A[0], rel=1e-9)


def test_torch_and_numpy_agree_and_keep_their_kind() -> None:
    A = uneven(50, 3, 0)
    for function in (leverage_scores, lambda A: lewis_weights(A, 1.0), lambda A: lp_sensitivities(A, 3.0, rows=[3, 1])):
        x, y = function(A), function(torch.from_numpy(A))
        assert isinstance(x, np.ndarray)
        assert isinstance(y, torch.Tensor)
        np.testing.assert_array_equal(x, y.numpy())
        # float32 input is computed in float64: its rounding is the input's.
        np.testing.assert_allclose(function(A.astype(np.float32)), x, rtol=1e-5)
    np.testing.assert_array_equal(leverage_scores(A[::-1]), leverage_scores(A[::-1].copy()))


def test_rows_come_in_the_order_that_they_are_asked_for() -> None:
    A = uneven(50, 3, 0)
    np.testing.assert_allclose(lp_sensitivities(A, 1.0, rows=[7, 2, 7]), lp_sensitivities(A, 1.0)[[7, 2, 7]], rtol=1e-8)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 0.3])
def test_power_is_the_power(exponent: float) -> None:
    x = torch.rand(50, dtype=torch.float64) + 0.1
    torch.testing.assert_close(power(x, exponent), x**exponent)


def test_weights_that_do_not_converge_are_refused() -> None:
    with pytest.raises(RuntimeError, match="of their fixed point after 5 steps, not within tol"):
        lewis_weights(uneven(40, 5, 0), 40.0, max_iter=5)


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_threads_do_not_change_the_numbers(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivities, "BATCH", 600)
    A = np.random.default_rng(0).standard_normal((60, 3))
    alone = lp_sensitivities(A, p)
    torch.set_num_threads(2)
    try:
        together = lp_sensitivities(A, p)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert np.array_equal(alone, together)

"""Bad input is refused by the argument's name, its value and what was wanted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from holonomy.theory.sensitivity_sampling import (
    Prober,
    RowSampler,
    flat_matrix,
    flat_total,
    flatten_rows,
    leverage_scores,
    lewis_weights,
    lp_regression,
    lp_sensitivities,
    recursive_root_leverage,
    replicated_identity,
    sample_complexity,
    sensitivity_bounds,
    subspace_distortion,
    total_sensitivity,
)

A = np.random.default_rng(0).standard_normal((20, 3))
TAKE_MATRIX: list[Callable[[Any], Any]] = [
    leverage_scores,
    lambda A: lewis_weights(A, 1.0),
    lambda A: lp_sensitivities(A, 1.0),
    lambda A: total_sensitivity(A, 3.0),
    lambda A: sensitivity_bounds(A, 1.0),
    lambda A: RowSampler("lewis", alpha=0.1).fit(A),
    lambda A: recursive_root_leverage(A, 1.0, 5.0),
    lambda A: subspace_distortion(A, np.ones((2, 3)), 1.0),
]
with_nan, with_infinity, dependent = A.copy(), A.copy(), A.copy()
with_nan[3, 1] = np.nan
with_infinity[0, 0] = np.inf
dependent[:, 2] = dependent[:, 0] - 1e6 * dependent[:, 1]


@pytest.mark.parametrize("function", TAKE_MATRIX)
@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (A.tolist(), TypeError, "A must be a numpy array or a torch tensor, got list"),
        (None, TypeError, "A must be a numpy array or a torch tensor, got NoneType"),
        (A.astype(complex), TypeError, "A must hold real numbers, got dtype complex128"),
        (torch.from_numpy(A).to(torch.complex64), TypeError, "A must hold real numbers, got dtype torch.complex64"),
        (np.array([["a"]]), TypeError, "A must hold real numbers, got dtype <U1"),
        (A[:, 0], ValueError, r"A must be 2-D with at least one column, got shape \(20,\)"),
        (A[:, :0], ValueError, r"A must be 2-D with at least one column, got shape \(20, 0\)"),
        (A.T, ValueError, r"A must have at least as many rows as columns, got shape \(3, 20\)"),
        (with_nan, ValueError, "A must be finite, got NaN or infinity in 1 entries"),
        (with_infinity, ValueError, "A must be finite"),
        (dependent, ValueError, "full column rank"),
        (np.zeros((20, 3)), ValueError, "full column rank"),
    ],
)
def test_matrices(function: Callable[[Any], Any], matrix: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(matrix)


def test_the_rank_is_named_and_units_are_no_rank() -> None:
    with pytest.raises(ValueError, match="A must have full column rank, got rank 2 with 3 columns"):
        leverage_scores(dependent)
    with pytest.raises(ValueError, match="got rank 0 with 3 columns"):
        leverage_scores(np.zeros((20, 3)))
    units = A * np.array([1e-150, 1.0, 1e150])
    np.testing.assert_allclose(leverage_scores(units), leverage_scores(A), rtol=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize(
    "function",
    [
        lambda p: lewis_weights(A, p),
        lambda p: lp_sensitivities(A, p),
        lambda p: sensitivity_bounds(A, p),
        lambda p: RowSampler(p=p, alpha=1.0).fit(A),
        lambda p: subspace_distortion(A, A, p),
        lambda p: flatten_rows(A, np.ones(20), 1.0, p),
        lambda p: sample_complexity("union", 1.0, 1, p, 0.5),
        lambda p: lp_regression(A, A[:, 0], p),
        lambda p: replicated_identity(2, 2, p),
        lambda p: flat_total(2, p),
        lambda p: recursive_root_leverage(A, p, 1.0),
    ],
)
def test_exponents(function: Callable[[float], Any], p: float) -> None:
    with pytest.raises(ValueError, match="p must be a finite number of at least 1, got"):
        function(p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of alpha, size and eps must be given, got none"),
        ({"alpha": 1.0, "size": 5}, "exactly one of alpha, size and eps must be given, got {'alpha': 1.0, 'size': 5}"),
        ({"size": 5, "eps": 0.5}, "exactly one of"),
        ({"alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
        ({"alpha": -1.0}, "alpha must be positive and finite, got -1.0"),
        ({"alpha": np.nan}, "alpha must be positive"),
        ({"size": 21}, "size must be in 1 ... n = 20, got 21"),
        ({"size": 0.5}, "size must be in 1 ... n = 20, got 0.5"),
        ({"eps": 0.0}, r"eps must be in \(0, 1\), got 0.0"),
        ({"eps": 1.0}, r"eps must be in \(0, 1\), got 1.0"),
        ({"method": "levrage", "alpha": 1.0}, "method must be one of 'sensitivity', .*, got 'levrage'"),
        ({"method": "uniform", "eps": 0.5}, "eps must be left out for method 'uniform'"),
        ({"method": "leverage", "eps": 0.5}, "eps must be left out for method 'leverage' with p = 1"),
        ({"method": "root_leverage", "p": 3.0, "eps": 0.5}, "eps must be left out for method 'root_leverage'"),
    ],
)
def test_sampler_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowSampler(**options).fit(A)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RowSampler(alpha=1.0).fit(A).sample(A[:10]), r"A must have the fitted shape \(20, 3\), got \(10, 3\)"),
        (lambda: lp_sensitivities(A, 1.0, method="newton"), "method must be one of 'auto', 'lp', 'irls', got 'newton'"),
        (lambda: lp_sensitivities(A, 1.5, method="lp"), "method 'lp' is for p = 1, got p = 1.5"),
        (lambda: lp_sensitivities(A, 1.5, rows=[20]), "rows must be in 0 ... 19, got 20 ... 20"),
        (lambda: lp_sensitivities(A, 1.5, rows=[0.5]), "rows must be a flat sequence of integers"),
        (lambda: lp_sensitivities(A, 1.5, tol=0.0), r"tol must be in \(0, 1\), got 0.0"),
        (lambda: recursive_root_leverage(A, 2.0, 1.0), r"p must be in \[1, 2\), got 2.0"),
        (lambda: recursive_root_leverage(A, 1.0, 0.0), "c must be positive and finite, got 0.0"),
        (lambda: recursive_root_leverage(A, 1.0, 5.0, max_rounds=0), "max_rounds must be at least 1, got 0"),
        (
            lambda: recursive_root_leverage(flat_matrix(500, 3, 0), 1.0, 0.1, random_state=0),
            "c must be larger for the rows of every round to span the columns, got 0.1",
        ),
        (lambda: flatten_rows(A, np.ones(3), 1.0, 1.0), r"scores must have shape \(20,\), got \(3,\)"),
        (lambda: flatten_rows(A, -np.ones(20), 1.0, 1.0), "scores must not be negative, got -1.0"),
        (lambda: flatten_rows(A, np.ones(20), 0.0, 1.0), "threshold must be positive, got 0.0"),
        (lambda: sample_complexity("best", 1.0, 1, 1.0, 0.5), "bound must be one of 'union', .*, got 'best'"),
        (lambda: sample_complexity("chen_derezinski", 1.0, 1, 3.0, 0.5), "p must be at most 2 for the bound"),
        (lambda: sample_complexity("conjecture", 1.0, 1, 1.0, 0.5), "p must be at least 2 for the bound"),
        (lambda: sample_complexity("union", 0.0, 1, 1.0, 0.5), "S must be positive, got 0.0"),
        (lambda: sample_complexity("union", 1.0, 1, 1.0, 0.5, C=0.0), "C must be positive, got 0.0"),
        (lambda: sample_complexity("union", 1.0, 0, 1.0, 0.5), "d must be at least 1, got 0"),
        (lambda: sample_complexity("union", 1.0, 1, 1.0, 1.5), r"eps must be in \(0, 1\), got 1.5"),
        (lambda: subspace_distortion(A, A[:, :2], 1.0), r"SA must have shape \(m, 3\), got \(20, 2\)"),
        (lambda: subspace_distortion(A, A, 1.0, n_random=-1), "n_random must not be negative, got -1"),
        (lambda: Prober(A, 1.0).extremes(A, -1), "n_ascent must not be negative, got -1"),
        (lambda: lp_regression(A, A, 1.0), r"b must have shape \(20,\), got \(20, 3\)"),
        (lambda: lp_regression(A, A[:, 0], 1.0, weights=-np.ones(20)), "weights must be 20 numbers of at least 0"),
        (lambda: lp_regression(A, A[:, 0], 1.0, weights=np.r_[1.0, np.zeros(19)]), "got rank 1 with 3 columns"),
        (lambda: flat_matrix(2, 3, 0), "d must be in 1 ... n, got d = 3 with n = 2"),
        (lambda: replicated_identity(0, 1, 1.0), "d and copies must be at least 1, got d = 0 and copies = 1"),
        (lambda: flat_total(0, 1.0), "d must be at least 1, got 0"),
    ],
)
def test_other_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

"""Leading eigenpairs by three methods."""

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from holonomy.theory.spectra import leading_eigenpairs


def matrix(n: int = 60, power: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A matrix with eigenvalues 1, 2^-power, 3^-power, ..., and its eigenvectors."""
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    return (vectors * np.arange(1, n + 1.0) ** -power) @ vectors.T, vectors


@pytest.mark.parametrize(("method", "error"), [("full", 1e-14), ("lanczos", 1e-12), ("randomised", 1e-8)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_values_and_vectors(method: str, error: float, wrapped: bool) -> None:
    whole, vectors = matrix()
    if wrapped and method == "full":
        with pytest.raises(TypeError, match="needs an array"):
            leading_eigenpairs(aslinearoperator(whole), 3)
        return
    values, found = leading_eigenpairs(aslinearoperator(whole) if wrapped else whole, 5, method)  # type: ignore[arg-type]
    # Of the randomised method: (lambda_15/lambda_5)^8 = 2e-8, less what the vectors lose by chance.
    np.testing.assert_allclose(values, np.arange(1, 6.0) ** -2.0, rtol=error)
    overlap = np.abs((found * vectors[:, :5]).sum(0))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-6)


def test_the_seed_decides() -> None:
    whole, _ = matrix(power=0.3)
    one, again, other = (leading_eigenpairs(whole, 3, "randomised", iterations=0, seed=s)[0] for s in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_more_iterations_come_nearer() -> None:
    whole, _ = matrix(power=0.5)
    true = np.arange(1, 6.0) ** -0.5
    errors = [np.abs(leading_eigenpairs(whole, 5, "randomised", iterations=k)[0] - true).max() for k in (0, 2, 8)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.eye(3), 4), "'k' must be from 1 to 3"),
        ((np.eye(3), 3, "lanczos"), "'k' must be from 1 to 2"),
        ((np.eye(3), 0), "got 0"),
        ((np.ones((2, 3)), 1), r"must be square, got \(2, 3\)"),
        ((np.eye(3), 1, "power"), "got 'power'"),
    ],
)
def test_bad_arguments(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        leading_eigenpairs(*arguments)

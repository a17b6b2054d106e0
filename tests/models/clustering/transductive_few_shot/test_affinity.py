"""Affinities against all distances, positive semi-definiteness, width of modes, refusals."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from holonomy.models.clustering.transductive_few_shot import knn_affinity
from holonomy.models.clustering.transductive_few_shot.affinity import check_affinity, kernel_width, stacked_affinity

X = np.random.default_rng(0).normal(size=(30, 4))


def by_brute_force(x: np.ndarray, k: int) -> np.ndarray:
    squares = cdist(x, x)
    np.fill_diagonal(squares, np.inf)
    W = np.zeros(squares.shape)
    np.put_along_axis(W, np.argsort(squares, axis=1)[:, : k - 1], 1.0, axis=1)
    return W


@pytest.mark.parametrize("k", [2, 3, 8, 29])
def test_binary_affinity_is_that_of_all_distances(k: int) -> None:
    W = knn_affinity(X, k, symmetric=False, psd_shift=False)
    assert (W.toarray() == by_brute_force(X, k)).all()
    both = by_brute_force(X, k)
    assert (knn_affinity(X, k, psd_shift=False).toarray() == 0.5 * (both + both.T)).all()


def test_duplicates_count_as_neighbours_and_points_never_as_their_own() -> None:
    W = knn_affinity(np.repeat(X[:5], 3, axis=0), 3, psd_shift=False).toarray()
    assert (np.diag(W) == 0).all()
    assert (np.kron(np.eye(5), 1 - np.eye(3)) == W).all()


def test_gaussian_weights() -> None:
    W = knn_affinity(X, 4, "gaussian", sigma=0.7, psd_shift=False, symmetric=False).toarray()
    wanted = by_brute_force(X, 4) * np.exp(-np.square(cdist(X, X)) / (2 * 0.7**2))
    assert np.abs(W - wanted).max() < 1e-14  # a few roundings of numbers below 1
    squares = np.square(cdist(X, X))[by_brute_force(X, 4) == 1]
    alone = knn_affinity(X, 4, "gaussian", psd_shift=False)
    assert abs(alone - knn_affinity(X, 4, "gaussian", sigma=squares.mean() ** 0.5, psd_shift=False)).max() < 1e-14
    assert (knn_affinity(np.zeros((4, 2)), 3, "gaussian", psd_shift=False).data <= 1).all()


@pytest.mark.parametrize("k", [2, 3, 10])
def test_shift_makes_it_positive_semi_definite_and_without_it_it_is_not(k: int) -> None:
    plain, shifted = (knn_affinity(X, k, psd_shift=psd).toarray() for psd in (False, True))
    assert np.linalg.eigvalsh(plain)[0] < -0.1
    assert np.linalg.eigvalsh(shifted)[0] > -1e-12  # rounding of eigenvalues of about 10
    assert np.abs(shifted - plain - plain.sum(1).max() * np.eye(30)).max() == 0
    degrees = knn_affinity(X, k, psd_shift="degrees").toarray()
    assert np.linalg.eigvalsh(degrees)[0] > -1e-12
    assert np.abs(degrees - plain - np.diag(plain.sum(1))).max() == 0


def test_dtypes_and_tensors() -> None:
    assert knn_affinity(torch.from_numpy(X).float()).dtype == np.float32
    assert abs(knn_affinity(torch.from_numpy(X)) - knn_affinity(X)).nnz == 0


def test_width_of_modes_is_its_formula_in_each_task() -> None:
    both = np.stack([X[:15], 3.0 * X[15:]])
    W = stacked_affinity(both, 3, psd_shift=True)
    found = kernel_width(both, W)
    for task, sigma in zip(both, found, strict=True):
        wanted = (knn_affinity(task, psd_shift=False).toarray() * np.square(cdist(task, task))).sum() / (5 * 15)
        assert abs(sigma**2 - wanted) < 1e-12 * wanted
    assert W[:15, 15:].nnz == 0
    for shift in (True, "degrees", False):
        W = stacked_affinity(both, 3, shift)
        assert abs(W[15:, 15:] - knn_affinity(both[1], 3, psd_shift=shift)).max() == 0
    with pytest.raises(ValueError, match="coincide"):
        kernel_width(np.zeros((1, 5, 2)), stacked_affinity(np.zeros((1, 5, 2)), 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 1}, "'k' counts the point itself and must be from 2 to 29"),
        ({"k": 30}, "'k'.*got 30"),
        ({"sigma": 0.0, "weights": "gaussian"}, "'sigma' must be finite and positive, got 0"),
        ({"weights": "cosine"}, "'weights'.*'cosine'"),
        ({"symmetric": False}, "'psd_shift'"),
        ({"psd_shift": "rows"}, "'psd_shift'.*'rows'"),
        ({"X": X[0]}, "'X' has shape"),
        ({"X": np.where(X > 2, np.nan, X)}, "'X' must be finite"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_affinity(**({"X": X} | arguments))
    with pytest.raises(TypeError, match="'X' must be real numbers"):
        knn_affinity(X.astype(complex))


def test_given_affinities_of_every_kind_are_one_matrix_and_bad_ones_are_refused() -> None:
    W = knn_affinity(X)
    dense = torch.from_numpy(W.toarray())
    with warnings.catch_warnings():  # torch's own, that CSR is in beta
        warnings.simplefilter("ignore")
        csr = dense.to_sparse_csr()
    for kind in (W, W.tocoo(), W.toarray(), dense, dense.to_sparse(), csr):
        assert abs(check_affinity("f", kind, 30) - W).nnz == 0
    for bad, message in (
        (W[:20], "'W' has shape"),
        (-W, "not negative"),
        (csr_matrix(np.full((30, 30), np.inf)), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            check_affinity("f", bad, 30)

"""Self-expression: points of independent subspaces choose each other, the net's optimality, spectral clustering."""

import numpy as np
import pytest
import torch

from holonomy.models.clustering import self_expression as module
from holonomy.models.clustering.metrics import clustering_accuracy
from holonomy.models.clustering.self_expression import (
    elastic_net_affinity,
    spectral_clustering,
    ssc_omp_affinity,
    tsc_affinity,
)


def subspaces(seed: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Forty points in each of three random 3-dimensional subspaces of R^15."""
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((40, 3)) @ rng.standard_normal((3, 15)) for _ in range(3)]
    x = np.concatenate(parts)
    return x + noise * rng.standard_normal(x.shape), np.repeat(np.arange(3), 40)


@pytest.mark.parametrize(
    "affinity", [lambda x: ssc_omp_affinity(x, 3), elastic_net_affinity, lambda x: tsc_affinity(x, 3)]
)
def test_points_of_subspaces_choose_their_own(affinity) -> None:
    x, y = subspaces()
    found = affinity(torch.from_numpy(x))
    dense = found.toarray()
    assert (dense == dense.T).all()
    assert (np.diag(dense) == 0).all()
    # Chance is two thirds; cosines alone err where subspaces of R^15 come near to each other.
    assert dense[y[:, None] != y].sum() < 0.1 * dense.sum()
    assert clustering_accuracy(y, spectral_clustering(found, 3)) == 1.0


def test_pursuit_writes_points_of_a_subspace_exactly() -> None:
    x, y = subspaces()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    support, weights = module._matching_pursuit(unit, 7, unit[7], 3, 1e-6)
    assert 7 not in support
    assert {int(y[i]) for i in support} == {0}
    np.testing.assert_allclose(weights @ unit[support], unit[7], atol=1e-12)


def test_elastic_net_is_the_minimiser_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import ElasticNet

    x, _ = subspaces(noise=0.1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    point, others = unit[0], unit[1:60]
    lam, gamma = 0.9, 20.0
    ours = module._elastic_net(point[None], others[None], gamma, lam, 3000)[0]
    fit = gamma * lam / np.abs(others @ point).max()
    # scikit-learn minimises |y - Xw|^2/(2 n) + alpha (share |w|_1 + (1 - share)/2 |w|^2), with n rows.
    model = ElasticNet(alpha=1.0 / (fit * 15), l1_ratio=lam, fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs = model.fit(others.T, point).coef_

    def cost(c: np.ndarray) -> float:
        residual = point - c @ others
        return lam * np.abs(c).sum() + 0.5 * (1 - lam) * (c @ c) + 0.5 * fit * (residual @ residual)

    # Near the minimum, with curvature 1 - lam at least, a cost that is off by e has coefficients off by (2 e/0.1)^0.5.
    assert cost(ours) == pytest.approx(cost(theirs), abs=1e-6)
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_thresholding_keeps_the_largest_cosines() -> None:
    x, _ = subspaces(noise=0.1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = np.abs(unit @ unit.T)
    np.fill_diagonal(cosines, -1.0)
    wanted = np.zeros_like(cosines)
    for i, row in enumerate(cosines):
        near = np.argsort(-row)[:4]
        wanted[i, near] = np.exp(-2.0 * np.arccos(row[near]))
    np.testing.assert_allclose(tsc_affinity(torch.from_numpy(x), 4).toarray(), wanted + wanted.T, atol=1e-12)


def test_spectral_clustering_of_blocks() -> None:
    y = np.repeat(np.arange(3), 8)
    affinity = (y[:, None] == y) + 0.01
    assert clustering_accuracy(y, spectral_clustering(torch.from_numpy(affinity), 3)) == 1.0
    assert (spectral_clustering(affinity, 1) == 0).all()
    assert sorted(spectral_clustering(affinity, 24)) == list(range(24))


def test_bad_input_is_refused() -> None:
    x, _ = subspaces()
    for n in (0, 121):
        with pytest.raises(ValueError, match=f"'n_clusters' must be from 1 to the number of samples, 120, got {n}"):
            spectral_clustering(np.ones((120, 120)), n)
    with pytest.raises(ValueError, match=r"'affinity' has shape \(2, 3\)"):
        spectral_clustering(np.ones((2, 3)), 1)
    with pytest.raises(ValueError, match="'affinity' must be finite and not negative"):
        spectral_clustering(-np.ones((3, 3)), 2)
    with pytest.raises(ValueError, match="'sparsity' must be from 1 to n - 1 = 119, got 120"):
        ssc_omp_affinity(x, 120)
    with pytest.raises(ValueError, match="'x' must be finite and have no row of 0"):
        ssc_omp_affinity(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"'x' has shape \(3,\)"):
        elastic_net_affinity(np.ones(3))
    with pytest.raises(ValueError, match="'neighbours' must be from 1 to n - 1 = 119, got 0"):
        tsc_affinity(x, 0)
    with pytest.raises(ValueError, match="'gamma' must be above 1"):
        elastic_net_affinity(x, gamma=0.5)

"""The bound optimiser: monotone energy, fixed points, vertices, limits in lambda, symmetries, refusals."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import softmax

from holonomy.manifolds import kernels
from holonomy.models.clustering.transductive_few_shot import (
    bound_update,
    discrete_energy,
    knn_affinity,
    relaxed_energy,
)
from holonomy.models.clustering.transductive_few_shot.affinity import stacked_affinity
from holonomy.models.clustering.transductive_few_shot.bound import solve_bounds

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
A = RNG.normal(size=(40, 4))
W = knn_affinity(X, 4)
CLAMP = np.where(np.arange(40) < 8, np.arange(40) % 4, -1)


def increase(energies: np.ndarray) -> float:
    return float(np.diff(energies).max(initial=-np.inf))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lam", [0.1, 1.0, 5.0, 50.0])
def test_energy_never_rises_at_any_update(lam: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = 3.0 * rng.normal(size=(40, 4))
    start = rng.dirichlet(np.ones(4), 40)
    for Z0, clamp in ((None, None), (start, None), (start, CLAMP)):
        Z, energies = bound_update(a, W, lam, Z0, clamp, tol=0.0, max_iter=100)
        assert increase(energies) <= 1e-10
        assert abs(energies[-1] - relaxed_energy(Z, a, W, lam)) < 1e-10 * abs(energies[-1])
        assert energies[-1] < energies[0]


def test_energy_can_rise_where_the_affinity_is_not_positive_semi_definite() -> None:
    # Two points that pull each other swap their clusters for ever: eigenvalues of W are 1 and -1.
    swap = csr_matrix([[0.0, 1.0], [1.0, 0.0]])
    start = np.array([[0.9, 0.1], [0.2, 0.8]])
    energies = bound_update(np.zeros((2, 2)), swap, 3.0, start, tol=0.0, max_iter=6)[1]
    assert increase(energies) > 0.05
    shifted = swap + csr_matrix(np.eye(2))
    assert increase(bound_update(np.zeros((2, 2)), shifted, 3.0, start, tol=0.0, max_iter=6)[1]) <= 1e-10


def test_fixed_point_on_the_simplex_with_labels_kept() -> None:
    Z, _ = bound_update(A, W, 1.3, clamp=CLAMP, tol=0.0, max_iter=5000)
    free = CLAMP < 0
    # R is flat at its minimum: where float64 no longer tells two values apart, Z is right to the root of a rounding.
    assert np.abs(Z - softmax(-A + 1.3 * (W @ Z), axis=1))[free].max() < 1e-7
    assert np.abs(Z.sum(1) - 1.0).max() < 1e-14
    assert (Z[~free] == np.eye(4)[CLAMP[~free]]).all()
    assert np.abs(Z[free] - np.eye(4)[CLAMP[free]]).max(1).min() > 1e-6


def test_limit_is_a_stationary_point_by_an_independent_minimiser() -> None:
    a, w = A[:6, :2], knn_affinity(X[:6], 3)

    def energy(logit: np.ndarray) -> float:
        z = 1.0 / (1.0 + np.exp(-logit))
        both = np.stack([z, 1 - z], 1)
        return float((both * np.log(both) + both * a).sum() - 0.35 * np.trace(both.T @ (w @ both)))

    Z, energies = bound_update(a, w, 0.7, tol=0.0, max_iter=3000)
    logit = np.log(Z[:, 0] / Z[:, 1])
    assert abs(energies[-1] - energy(logit)) < 1e-12
    found = minimize(energy, logit, method="BFGS", options={"gtol": 1e-9})
    assert energies[-1] - found.fun < 1e-9  # nothing lower nearby


def test_without_pull_one_step_is_the_softmax_of_the_costs() -> None:
    Z, energies = bound_update(A, W, 0.0)
    assert np.abs(Z - softmax(-A, axis=1)).max() < 1e-15
    assert len(energies) == 2
    Z, energies = bound_update(A, W, 0.0, RNG.dirichlet(np.ones(4), 40))
    assert np.abs(Z - softmax(-A, axis=1)).max() < 1e-15
    assert len(energies) == 3


def test_vertices_have_the_discrete_energy_up_to_the_stated_constant() -> None:
    a, w = A[:6, :2], knn_affinity(X[:6], 3, psd_shift=True)
    for labels in product(range(2), repeat=6):
        chosen = np.array(labels)
        E = discrete_energy(chosen, a, w, 0.9)
        Z = np.eye(2)[chosen]
        # The form of the paper, by its own double sum over unordered pairs.
        wanted = a[range(6), chosen].sum()
        for p, q in product(range(6), repeat=2):
            if p < q:
                wanted += 0.45 * w[p, q] * np.square(Z[p] - Z[q]).sum()
        assert abs(E - wanted) < 1e-13
        assert abs(relaxed_energy(Z, a, w, 0.9) - (E - 0.45 * w.sum())) < 1e-13


def components(sizes: list[int]) -> csr_matrix:
    """Complete graphs, and loops that make the affinity positive semi-definite: all entries 1."""
    return csr_matrix(np.kron(np.eye(len(sizes)), np.ones((sizes[0], sizes[0]))))


def test_large_lambda_gives_one_cluster_a_component() -> None:
    a = RNG.normal(size=(12, 3))
    Z, _ = bound_update(a, components([4, 4, 4]), 200.0)
    labels = Z.argmax(1).reshape(3, 4)
    assert (labels == labels[:, :1]).all()
    # Each component takes the cluster that its softmax at lambda = 0 has most of.
    assert (labels[:, 0] == softmax(-a, axis=1).reshape(3, 4, 3).sum(1).argmax(1)).all()
    assert len(np.unique(bound_update(a, components([4, 4, 4]), 0.0)[0].argmax(1).reshape(3, 4)[0])) > 1


def test_large_lambda_on_a_chain_minimises_at_one_cluster_but_the_updates_may_stay_at_two() -> None:
    chain = csr_matrix(np.diag(np.ones(7), 1) + np.diag(np.ones(7), -1))
    a = np.where(np.arange(8)[:, None] < 4, [0.0, 1.0], [1.0, 0.0])
    assert all(
        discrete_energy(np.array(labels), a, chain, 50.0) >= discrete_energy(np.zeros(8, int), a, chain, 50.0)
        for labels in product(range(2), repeat=8)
    )
    shifted = chain + 2.0 * csr_matrix(np.eye(8))
    assert (bound_update(a, shifted, 50.0)[0].argmax(1) == [0] * 4 + [1] * 4).all()


def test_equivariance_over_points_and_clusters() -> None:
    points, clusters = RNG.permutation(40), RNG.permutation(4)
    Z, energies = bound_update(A, W, 1.0, clamp=CLAMP)
    moved, others = bound_update(A[points], W[points][:, points], 1.0, clamp=CLAMP[points])
    assert np.abs(moved - Z[points]).max() < 1e-13
    assert np.abs(others - energies).max() < 1e-11
    place = np.argsort(clusters)
    given = np.where(CLAMP < 0, -1, place[CLAMP])
    assert np.abs(bound_update(A[:, clusters], W, 1.0, clamp=given)[0] - Z[:, clusters]).max() < 1e-13


def test_kernel_and_reference_give_one_result() -> None:
    with kernels.use("reference"):
        Z, energies = bound_update(A, W, 1.0, clamp=CLAMP)
    with kernels.use("fused"):
        again, others = bound_update(A, W, 1.0, clamp=CLAMP)
    assert np.abs(again - Z).max() < 1e-13
    assert np.abs(others - energies).max() < 1e-11


def test_sparse_and_dense_affinities_and_tensors_agree() -> None:
    Z, energies = bound_update(A, W, 1.0)
    for kind in (W.toarray(), W.tocoo(), torch.from_numpy(W.toarray())):
        again, others = bound_update(A, kind, 1.0)
        assert np.abs(again - Z).max() < 1e-14  # sums of three numbers in another order
        assert np.abs(others - energies).max() < 1e-12
    tensor, _ = bound_update(torch.from_numpy(A).float(), W, 1.0)
    assert tensor.dtype == torch.float32
    assert np.abs(tensor.numpy() - Z).max() < 1e-4  # some tens of float32 updates, which contract


def test_tasks_together_are_tasks_one_by_one() -> None:
    x = RNG.normal(size=(5, 12, 3))
    a = 3.0 * RNG.normal(size=(5, 12, 3))
    given = np.where(np.arange(12) < 3, np.arange(12), -1)[None].repeat(5, 0)
    together, energies = solve_bounds(a, stacked_affinity(x, 3), 1.0, None, given)
    lengths = set()
    for i in range(5):
        alone, course = bound_update(a[i], knn_affinity(x[i], 3), 1.0, clamp=given[i])
        lengths.add(len(course))
        assert np.abs(together[i] - alone).max() < 1e-14
        assert abs(energies[-1][i] - course[-1]) < 1e-12
    assert len(lengths) > 1  # they stop at different steps, and still agree


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": -0.1}, "'lam' must be finite and at least 0, got -0.1"),
        ({"lam": np.inf}, "'lam'.*inf"),
        ({"W": W[:10, :10]}, "'W' has shape"),
        ({"W": -W}, "'W' must be finite and not negative"),
        ({"clamp": np.full(40, 4)}, r"'clamp' must be in -1\.\.3, got 4\.\.4"),
        ({"clamp": np.full(39, 0)}, "'clamp' has shape"),
        ({"Z0": np.full((40, 4), 0.3)}, "sum to 1"),
        ({"Z0": np.full((40, 3), 1 / 3)}, "'Z0' has shape"),
        ({"unary": np.full((40, 4), np.nan)}, "'unary' must be finite"),
        ({"max_iter": -1}, "'max_iter'"),
        ({"tol": -1.0}, "'tol'"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound_update(**({"unary": A, "W": W, "lam": 1.0} | arguments))
    with pytest.raises(TypeError, match="'clamp' must be integers"):
        bound_update(A, W, 1.0, clamp=np.full(40, 0.5))

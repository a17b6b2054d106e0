"""Prototypes: stationary points by their gradients, limits in sigma, descent, empty clusters, tasks at once."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from holonomy.models.clustering.transductive_few_shot.prototypes import (
    costs,
    mean_prototypes,
    medoid_prototypes,
    mode_prototypes,
    squared_distances,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 50, 4))
Z = RNG.dirichlet(np.ones(3), (3, 50))
M = X[:, :3].copy()
SIGMA = np.array([0.8, 1.5, 3.0])


def objective(m: np.ndarray, prototype: str) -> np.ndarray:
    return (Z * costs(X, m, prototype, SIGMA)).sum(1)  # type: ignore[arg-type]


def test_squared_distances_also_far_from_the_origin() -> None:
    for shift in (0.0, 1e6):
        wanted = np.stack([np.square(cdist(x, m)) for x, m in zip(X + shift, M + shift, strict=True)])
        # Coordinates near 1e6 are themselves rounded to 1e-10.
        assert np.abs(squared_distances(X + shift, M + shift) - wanted).max() < (1e-12 if not shift else 1e-8)


def test_means_are_the_minimum_by_autograd() -> None:
    found = torch.from_numpy(mean_prototypes(X, Z, M)).requires_grad_()
    squares = (torch.from_numpy(X)[:, :, None] - found[:, None]).square().sum(-1)
    (torch.from_numpy(Z) * squares).sum().backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert float(found.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("soft", [True, False])
def test_gradient_vanishes_at_modes(soft: bool) -> None:
    weights = Z if soft else np.eye(3)[Z.argmax(2)]
    found = torch.from_numpy(mode_prototypes(X, weights, M, SIGMA, tol=1e-9)).requires_grad_()
    squares = (torch.from_numpy(X)[:, :, None] - found[:, None]).square().sum(-1)
    gauss = (-squares / (2 * torch.from_numpy(SIGMA).square()[:, None, None])).exp()
    (torch.from_numpy(weights) * gauss).sum().backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert float(found.grad.abs().max()) < 1e-4
    assert np.abs(found.detach().numpy() - M).max() > 0.1


def test_mean_shift_and_means_never_raise_the_objective() -> None:
    course = [M]
    for _ in range(30):
        course.append(mode_prototypes(X, Z, course[-1], SIGMA, max_iter=1))
    values = np.stack([objective(m, "mode") for m in course])
    assert np.diff(values, axis=0).max() <= 1e-12  # a sum of 50 numbers below 1
    assert (values[-1] < values[0] - 1e-3).all()
    assert (objective(mean_prototypes(X, Z, M), "mean") < objective(M, "mean")).all()


def test_wide_gaussians_have_their_mode_at_the_mean() -> None:
    off = [
        np.abs(mode_prototypes(X, Z, M, np.full(3, sigma), tol=1e-12) - mean_prototypes(X, Z, M)).max()
        for sigma in (10.0, 100.0, 1000.0)
    ]
    assert off[2] < 1e-5
    # The first correction is of order 1/sigma^2.
    assert 90 < off[0] / off[1] < 110
    assert 90 < off[1] / off[2] < 110


def test_empty_clusters_keep_their_prototype() -> None:
    none = Z.copy()
    none[:, :, 1] = 0.0
    far = M.copy()
    far[:, 2] = 1e6
    assert (mean_prototypes(X, none, M)[:, 1] == M[:, 1]).all()
    assert (mode_prototypes(X, none, M, SIGMA)[:, 1] == M[:, 1]).all()
    assert (mode_prototypes(X, none, far, SIGMA)[:, 2] == far[:, 2]).all()
    assert np.isfinite(mode_prototypes(X, none, far, SIGMA)).all()


def test_medoids_are_the_points_of_largest_assignment() -> None:
    found = medoid_prototypes(X, Z)
    for task, clusters in enumerate(found):
        for k, m in enumerate(clusters):
            assert (m == X[task, Z[task, :, k].argmax()]).all()


def test_tasks_together_are_tasks_one_by_one() -> None:
    together = mode_prototypes(X, Z, M, SIGMA)
    for i in range(3):
        part = slice(i, i + 1)
        assert np.abs(mode_prototypes(X[part], Z[part], M[part], SIGMA[part]) - together[part]).max() < 1e-14

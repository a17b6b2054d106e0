"""What is particular to rotations: peers' values, left-invariant metrics, learning a rotation."""

import numpy as np
import pymanopt
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from holonomy.manifolds import ManifoldParameter, MembershipError, SpecialOrthogonal
from holonomy.manifolds.linalg import skew
from holonomy.manifolds.special_orthogonal import _bracket, _connection
from holonomy.optim import RiemannianAdam

EPS = torch.finfo(torch.float64).eps
WEIGHTS = ((1.0, 2.0, 0.5), (2.0, 1.0, 3.0), (0.5, 3.0, 1.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(manifold: SpecialOrthogonal, *size: int, seed: int = 0) -> Tensor:
    return manifold.random(*size, dtype=torch.float64, generator=generator(seed))


def test_distance_is_the_angle_of_the_rotation_between() -> None:
    x, y = draw(SpecialOrthogonal(), 50, 3, 3), draw(SpecialOrthogonal(), 50, 3, 3, seed=1)
    angles = (Rotation.from_matrix(x.numpy()).inv() * Rotation.from_matrix(y.numpy())).magnitude()
    measured = SpecialOrthogonal().dist(x, y) / 2.0**0.5
    np.testing.assert_allclose(measured.numpy(), angles, rtol=0.0, atol=32 * EPS)


def test_geodesics_and_hessians_agree_with_pymanopt() -> None:
    peer, manifold = pymanopt.manifolds.SpecialOrthogonalGroup(4), SpecialOrthogonal()
    x = draw(manifold, 4, 4)
    u = manifold.random_tangent(x, generator=generator(1))
    egrad, ehess = (torch.randn(4, 4, dtype=torch.float64, generator=generator(s)) for s in (2, 3))
    a = (x.mT @ u).numpy()  # pymanopt keeps tangent vectors as elements of the Lie algebra
    np.testing.assert_allclose(manifold.expmap(x, u).numpy(), peer.exp(x.numpy(), a), atol=64 * EPS)
    rhess = peer.euclidean_to_riemannian_hessian(x.numpy(), egrad.numpy(), ehess.numpy(), a)
    np.testing.assert_allclose((x.mT @ manifold.ehess2rhess(x, egrad, ehess, u)).numpy(), rhess, atol=64 * EPS)


def test_projection_finds_the_nearest_rotation_also_of_reflections() -> None:
    m = torch.randn(40, 3, 3, dtype=torch.float64, generator=generator())
    assert (torch.linalg.det(m) < 0).any()
    nearest = SpecialOrthogonal().projx(m)
    SpecialOrthogonal().assert_check_point_on_manifold(nearest)
    gaps = (m - nearest).square().sum((-2, -1))
    others = draw(SpecialOrthogonal(), 4000, 1, 3, 3)
    assert (gaps <= (m - others).square().sum((-2, -1)).amin(0)).all()


def test_reflections_are_off_the_manifold() -> None:
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    with pytest.raises(MembershipError, match="determinant"):
        SpecialOrthogonal(validate=True).norm(mirror, torch.zeros(3, 3))


def test_the_connection_of_a_left_invariant_metric_is_levi_civita() -> None:
    """Without torsion, and compatible with the metric: there is one such connection."""
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    a, b, c = (skew(torch.randn(30, 3, 3, dtype=torch.float64, generator=generator(s))) for s in range(3))

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (weights * a * b).sum((-2, -1))

    torsion = _connection(a, b, weights) - _connection(b, a, weights) - _bracket(a, b)
    torch.testing.assert_close(torsion, torch.zeros_like(torsion), rtol=0.0, atol=64 * EPS)
    change = inner(_connection(a, b, weights), c) + inner(b, _connection(a, c, weights))
    torch.testing.assert_close(change, torch.zeros_like(change), rtol=0.0, atol=256 * EPS)


def test_curvature_of_left_invariant_metrics_on_so3_is_milnors() -> None:
    """In an orthonormal frame with [e1, e2] = l3 e3, ...: K(e1, e2) = l3 (m1 + m2 - m3) ... by Milnor, section 4."""
    manifold = SpecialOrthogonal(WEIGHTS)
    frame, lengths = [], []
    for i, j in ((1, 2), (2, 0), (0, 1)):
        e = torch.zeros(3, 3, dtype=torch.float64)
        e[j, i], e[i, j] = 1.0, -1.0
        lengths.append((2.0 * WEIGHTS[i][j]) ** 0.5)
        frame.append(e / lengths[-1])
    scale = [lengths[k] ** 2 / np.prod(lengths) for k in range(3)]
    m = [0.5 * sum(scale) - s for s in scale]
    x = torch.eye(3, dtype=torch.float64)
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        wanted = scale[k] * m[k] - m[i] * m[j]
        measured = float(manifold.sectional_curvature(x, frame[i], frame[j]))
        assert measured == pytest.approx(wanted, rel=64 * EPS)


def test_equal_weights_are_the_bi_invariant_metric() -> None:
    plain, weighted = SpecialOrthogonal(), SpecialOrthogonal([[1.0] * 4] * 4)
    x = draw(plain, 6, 4, 4)
    u, v = (plain.random_tangent(x, generator=generator(s)) for s in (1, 2))
    egrad, ehess = (torch.randn(6, 4, 4, dtype=torch.float64, generator=generator(s)) for s in (3, 4))
    for a, b in (
        (plain.sectional_curvature(x, u, v), weighted.sectional_curvature(x, u, v)),
        (plain.ehess2rhess(x, egrad, ehess, u), weighted.ehess2rhess(x, egrad, ehess, u)),
        (plain.inner(x, u, v), weighted.inner(x, u, v)),
    ):
        torch.testing.assert_close(a, b, rtol=0.0, atol=256 * EPS)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([[1.0, 2.0], [3.0, 1.0]], "symmetric"),
        ([[1.0, -2.0], [-2.0, 1.0]], "positive"),
        ([[1.0, float("inf")], [float("inf"), 1.0]], "finite"),
        ([[1.0, 2.0]], "square"),
        (torch.ones(3, 2), "square"),
        (torch.ones(3), "square"),
    ],
    ids=str,
)
def test_weights_that_are_no_metric_are_refused(weights: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"'weights'.*{reason}"):
        SpecialOrthogonal(weights)  # type: ignore[arg-type]


def test_weights_fix_the_size() -> None:
    with pytest.raises(ValueError, match="3 x 3"):
        SpecialOrthogonal(WEIGHTS).random(4, 4)


def test_wahbas_problem_is_solved_by_descent() -> None:
    """The rotation between two sets of vectors, known in closed form."""
    p = torch.randn(20, 3, dtype=torch.float64, generator=generator())
    truth = draw(SpecialOrthogonal(), 3, 3, seed=1)
    x = ManifoldParameter(SpecialOrthogonal().origin(3, 3, dtype=torch.float64), SpecialOrthogonal())
    optimizer = RiemannianAdam([x], lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        (p @ truth.mT - p @ x.mT).square().sum().backward()
        optimizer.step()
    assert float(SpecialOrthogonal().dist(x.detach(), truth)) < 1e-5

"""What is particular to rigid motions: the group's own operations, screws, and the frame of the metric."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from holonomy.manifolds import DimensionError, SpecialEuclidean, SpecialOrthogonal

EPS = torch.finfo(torch.float64).eps
SE = SpecialEuclidean(0.7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def motions(n: int, *batch: int, seed: int = 0) -> Tensor:
    return SE.random(*batch, n + 1, n + 1, dtype=torch.float64, generator=generator(seed))


def algebra(n: int, *batch: int, seed: int = 0) -> Tensor:
    identity = SE.origin(*batch, n + 1, n + 1, dtype=torch.float64)
    return SE.random_tangent(identity, generator=generator(seed))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_group_exponential_is_that_of_matrices(n: int) -> None:
    w = algebra(n, 20)
    for got, matrix in zip(SE.group_exp(w), w, strict=True):
        np.testing.assert_allclose(got.numpy(), scipy.linalg.expm(matrix.numpy()), atol=64 * EPS)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_group_logarithm_inverts_it(n: int, scale: float) -> None:
    w = algebra(n, 50)
    w = scale * w / torch.linalg.matrix_norm(w, 2).clamp_min(0.4)[:, None, None]
    x = SE.group_exp(w)
    SE.assert_check_point_on_manifold(x)
    # Angles below 2.5: the inverse of the integral has a norm below 4. Coordinates of x are rounded at 1.
    torch.testing.assert_close(SE.group_log(x), w, rtol=0.0, atol=256 * EPS)


@pytest.mark.parametrize("n", [2, 3])
def test_group_laws(n: int) -> None:
    x, y, z = (motions(n, 10, seed=s) for s in range(3))
    identity = SE.origin(n + 1, n + 1, dtype=torch.float64)
    pairs = [
        (SE.compose(x, SE.compose(y, z)), SE.compose(SE.compose(x, y), z)),
        (SE.compose(x, SE.inverse(x)), identity.expand_as(x)),
        (SE.inverse(SE.compose(x, y)), SE.compose(SE.inverse(y), SE.inverse(x))),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0.0, atol=128 * EPS)
    p = torch.randn(10, n, dtype=torch.float64, generator=generator(5))
    torch.testing.assert_close(SE.act(SE.compose(x, y), p), SE.act(x, SE.act(y, p)), rtol=0.0, atol=128 * EPS)


def test_the_adjoint_carries_screws_between_frames() -> None:
    x, w = motions(3, 10), algebra(3, 10, seed=1)
    moved = SE.compose(SE.compose(x, SE.group_exp(w)), SE.inverse(x))
    torch.testing.assert_close(SE.group_exp(SE.adjoint(x, w)), moved, rtol=0.0, atol=1024 * EPS)


def test_the_metric_is_invariant_from_the_left_only() -> None:
    g, x, y = (motions(3, 10, seed=s) for s in range(3))
    wanted = SE.dist(x, y)
    torch.testing.assert_close(SE.dist(SE.compose(g, x), SE.compose(g, y)), wanted, rtol=1e-13, atol=0.0)
    assert (SE.dist(SE.compose(x, g), SE.compose(y, g)) - wanted).abs().amax() > 0.1


def test_it_is_the_product_of_rotations_and_translations() -> None:
    x, y = motions(3, 10), motions(3, 10, seed=1)
    turned = SpecialOrthogonal().dist2(x[:, :3, :3], y[:, :3, :3])
    moved = (x[:, :3, 3] - y[:, :3, 3]).square().sum(-1)
    torch.testing.assert_close(SE.dist2(x, y), turned + 0.7 * moved, rtol=1e-13, atol=0.0)


def test_a_screw_through_any_point_is_the_group_exponential_from_there() -> None:
    screw = SpecialEuclidean(0.7, "screw")
    x, w = motions(3, 10), algebra(3, 10, seed=1)
    wanted = SE.compose(x, SE.group_exp(w))
    torch.testing.assert_close(screw.retr(x, x @ w), wanted, rtol=0.0, atol=128 * EPS)


def test_tangent_vectors_have_no_last_row() -> None:
    u = torch.zeros(4, 4)
    u[3, 0] = 1.0
    ok, reason = SE.check_vector_on_tangent(torch.eye(4), u, explain=True)  # type: ignore[misc]
    assert not ok
    assert "last row" in reason


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'weight' must be positive.*-1"):
        SpecialEuclidean(-1.0)
    with pytest.raises(TypeError, match="'weight'"):
        SpecialEuclidean(torch.ones(2))  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match="3 x 3"):
        SE.act(torch.eye(2), torch.zeros(1))

"""Exact principal geodesics against principal components, brute force, and the lines of a sphere."""

import math

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    DimensionError,
    Euclidean,
    PoincareBall,
    SpecialOrthogonal,
    Sphere,
    principal_geodesic_analysis,
    tangent_pca,
)

F64 = torch.float64


def cloud(n: int = 12, seed: int = 0) -> Tensor:
    """Points of the sphere around the pole, wide enough for logarithms and projections to differ."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(n, 3, dtype=F64, generator=generator) * torch.tensor([0.7, 0.45, 0.0], dtype=F64)
    return Sphere().expmap(torch.tensor([0.0, 0.0, 1.0], dtype=F64).expand(n, 3), u)


@pytest.mark.parametrize("criterion", ["residual", "variance"])
def test_on_euclidean_space_it_is_principal_component_analysis(criterion: str) -> None:
    x = torch.randn(30, 4, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 5.0)
    result = principal_geodesic_analysis(Euclidean(1), x, 4, criterion=criterion)  # type: ignore[arg-type]
    pca = tangent_pca(Euclidean(1), x)
    torch.testing.assert_close((result.components * pca.components).sum(-1).abs(), torch.ones(4, dtype=F64))
    torch.testing.assert_close(result.variance, pca.variance.cumsum(0))
    total = pca.variance.sum()
    torch.testing.assert_close(result.variance + result.residual, total.expand(4))
    torch.testing.assert_close(result.scores.abs(), pca.scores.abs(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("criterion", ["residual", "variance"])
def test_on_the_sphere_no_great_circle_is_better(criterion: str) -> None:
    """Brute force over all directions at the mean; the distance to a great circle is arcsin of the normal part."""
    x = cloud()
    result = principal_geodesic_analysis(Sphere(), x, criterion=criterion)  # type: ignore[arg-type]
    m, v = result.mean, result.components[0]
    side = torch.linalg.cross(m, v)
    angles = torch.linspace(-math.pi / 2, math.pi / 2, 4001, dtype=F64).unsqueeze(-1)
    normals = angles.cos() * side - angles.sin() * v
    along = angles.cos() * v + angles.sin() * side
    residual = torch.asin(x @ normals.mT).square().mean(0)
    # The nearest point of the circle is at this angle from the mean.
    variance = torch.atan2(x @ along.mT, (x @ m).unsqueeze(-1)).square().mean(0)
    assert float(result.residual) == pytest.approx(float(residual[2000]), rel=1e-12)
    assert float(result.variance) == pytest.approx(float(variance[2000]), rel=1e-12)
    best = residual.argmin() if criterion == "residual" else variance.argmax()
    assert abs(int(best) - 2000) <= 1


def test_it_is_not_tangent_pca() -> None:
    x = cloud()
    exact, tangent = principal_geodesic_analysis(Sphere(), x), tangent_pca(Sphere(), x, 1)
    assert abs(float(exact.components[0] @ tangent.components[0])) < 1.0 - 1e-6
    normal = torch.linalg.cross(tangent.mean, tangent.components[0])
    assert float(exact.residual) < float(torch.asin(x @ normal).square().mean())


def test_all_directions_give_the_points_back() -> None:
    rotations = SpecialOrthogonal()
    generator = torch.Generator().manual_seed(0)
    base = rotations.random(3, 3, dtype=F64, generator=generator).expand(8, 3, 3)
    for manifold, x in (
        (rotations, rotations.expmap(base, 0.3 * rotations.random_tangent(base, generator=generator))),
        (PoincareBall(c=0.5), 0.4 * torch.randn(8, 3, dtype=F64, generator=generator).tanh()),
    ):
        result = principal_geodesic_analysis(manifold, x, 3)
        ones = (1,) * manifold.ndim
        u = (result.scores.reshape(3, 8, *ones) * result.components.unsqueeze(1)).sum(0)
        back = manifold.expmap(result.mean.expand_as(u), u)
        assert float(manifold.dist(back, x).amax()) < 1e-7  # a distance of 0 is the root of a square that is rounded
        assert float(result.residual[-1]) < 1e-14
        assert (result.residual[:-1] > result.residual[1:]).all()
        gram = manifold.inner(result.mean, result.components.unsqueeze(0), result.components.unsqueeze(1))
        torch.testing.assert_close(gram, torch.eye(3, dtype=F64))


def test_points_of_a_great_circle_are_fitted_exactly() -> None:
    angle = torch.linspace(-0.9, 0.9, 9, dtype=F64)
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=-1)
    result = principal_geodesic_analysis(Sphere(), x)
    assert float(result.residual) < 1e-20
    torch.testing.assert_close(result.scores[0].abs(), angle.abs())


def test_weights_are_repetitions() -> None:
    x = cloud()
    w = torch.ones(12, dtype=F64)
    w[3] = 2.0
    one = principal_geodesic_analysis(Sphere(), x, 1, w)
    two = principal_geodesic_analysis(Sphere(), torch.cat([x, x[3:4]]))
    torch.testing.assert_close(one.residual, two.residual)


def test_bad_input_is_refused() -> None:
    x = cloud()
    with pytest.raises(ValueError, match="'k' must be from 1 to 2 on this Sphere, got 3"):
        principal_geodesic_analysis(Sphere(), x, 3)
    with pytest.raises(ValueError, match="'criterion' must be"):
        principal_geodesic_analysis(Sphere(), x, criterion="best")  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match=r"'mean' has shape \(2,\)"):
        principal_geodesic_analysis(Sphere(), x, mean=torch.ones(2))
    with pytest.raises(DimensionError, match="wanted one batch dimension"):
        principal_geodesic_analysis(Sphere(), x.expand(2, 12, 3))

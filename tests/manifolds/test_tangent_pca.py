"""Tangent bases are orthonormal, and the components are those of the covariance."""

import pytest
import torch
from cases import Case, assert_close, each_case

from holonomy.manifolds import DimensionError, Euclidean, PoincareBall, Sphere, tangent_basis, tangent_pca

EPS = torch.finfo(torch.float64).eps


@each_case()
def test_bases_are_tangent_and_orthonormal(case: Case) -> None:
    manifold, x = case.manifold(), case.inputs(3)["x"]
    basis = tangent_basis(manifold, x)
    assert basis.shape == (case.dimension, 3, *case.shape)
    manifold.assert_check_vector_on_tangent(x.expand_as(basis), basis)
    gram = manifold.inner(x, basis.unsqueeze(0), basis.unsqueeze(1))
    identity = torch.eye(case.dimension, dtype=x.dtype).unsqueeze(-1).expand_as(gram)
    assert_close(gram, identity, 1024 * EPS)


def test_on_euclidean_space_it_is_principal_component_analysis() -> None:
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 5.0)
    result = tangent_pca(Euclidean(1), x)
    covariance = torch.cov(x.T, correction=0)
    torch.testing.assert_close(result.mean, x.mean(0))
    torch.testing.assert_close(result.variance, torch.linalg.eigvalsh(covariance).flip(0))
    torch.testing.assert_close(covariance @ result.components.T, result.components.T * result.variance)


@each_case("expmap", "logmap", "dist2", where=lambda case: case.dimension > 1)
def test_all_components_give_the_points_back(case: Case) -> None:
    manifold, x = case.manifold(), case.inputs()["x"].expand(case.dimension + 3, *case.shape)
    generator = torch.Generator().manual_seed(0)
    u = manifold.random_tangent(x, generator=generator)
    x = manifold.expmap(x, 0.1 * case.reach * u / manifold.norm(x, u, keepdim=True))
    result = tangent_pca(manifold, x)
    scores = result.scores.reshape(*result.scores.shape, *(1,) * manifold.ndim)
    back = manifold.expmap(result.mean, (scores * result.components.unsqueeze(1)).sum(0))
    assert_close(case.embed(back), case.embed(x), case.float64_error * EPS)
    assert_close(result.variance, result.scores.square().mean(1), 1e-12)


def test_a_great_circle_has_one_component() -> None:
    angle = torch.linspace(-0.5, 0.7, 9, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=-1)
    result = tangent_pca(Sphere(), x)
    assert float(result.variance[1]) < 1e-20
    torch.testing.assert_close(result.variance[0], angle.var(correction=0))
    torch.testing.assert_close(result.scores[0].abs(), (angle - angle.mean()).abs())


def test_batches_and_weights() -> None:
    ball = PoincareBall(c=0.5)
    x = 0.5 * torch.randn(2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
    weights = torch.tensor([1.0, 1.0, 0.0, 2.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    together = tangent_pca(ball, x, 2, weights, dim=1)
    assert together.components.shape == (2, 2, 3)
    assert together.scores.shape == (2, 8, 2)
    repeated = torch.cat([x[:, :2], x[:, 3:4], x[:, 3:]], dim=1)
    for i in range(2):
        apart = tangent_pca(ball, repeated[i], 2)
        torch.testing.assert_close(together.variance[:, i], apart.variance)
        torch.testing.assert_close(together.mean[i], apart.mean)


def test_bad_input_is_refused() -> None:
    x = Sphere().random(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="'k' must be from 1 to 2 on this Sphere, got 3"):
        tangent_pca(Sphere(), x, 3)
    with pytest.raises(DimensionError, match=r"'mean' has shape \(2,\)"):
        tangent_pca(Sphere(), x, mean=torch.ones(2))

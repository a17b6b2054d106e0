"""Geodesic regression against least squares, geodesics that are known, and brute force."""

import numpy as np
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    ConvergenceError,
    DimensionError,
    Euclidean,
    Lorentz,
    Manifold,
    PoincareBall,
    Simplex,
    SpecialOrthogonal,
    Sphere,
    geodesic_regression,
)

F64 = torch.float64
SPACES: list[tuple[Manifold, tuple[int, ...]]] = [
    (Sphere(), (3,)),
    (Sphere(), (5,)),
    (PoincareBall(c=0.5), (3,)),
    (Lorentz(c=2.0), (3,)),
    (SpecialOrthogonal(), (3, 3)),
    (Simplex(), (4,)),
]
each_space = pytest.mark.parametrize(("manifold", "shape"), SPACES, ids=lambda v: str(v))


def geodesic(manifold: Manifold, shape: tuple[int, ...], speed: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p = manifold.random(*shape, dtype=F64, generator=generator)
    v = manifold.random_tangent(p, generator=generator)
    return p, speed * v / manifold.norm(p, v, keepdim=True)


def test_on_euclidean_space_it_is_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    t, y = torch.randn(20, 2, dtype=F64, generator=generator), torch.randn(20, 3, dtype=F64, generator=generator)
    w = torch.rand(20, dtype=F64, generator=generator)
    fit = geodesic_regression(Euclidean(1), 100.0 + t, y, w)
    design = torch.cat([torch.ones(20, 1, dtype=F64), 100.0 + t], dim=1)
    root = w.sqrt().unsqueeze(-1)
    wanted = torch.linalg.lstsq(root * design, root * y).solution
    # The offset of 100 costs two digits in the intercept.
    torch.testing.assert_close(fit.intercept, wanted[0], rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(fit.velocity, wanted[1:], rtol=1e-10, atol=1e-11)
    assert fit.convergence.steps <= 2
    residual = (w.unsqueeze(-1) * (y - fit.predict(100.0 + t)).square()).sum()
    mean = (w @ y) / w.sum()
    total = (w.unsqueeze(-1) * (y - mean).square()).sum()
    assert fit.r2 == pytest.approx(1.0 - float(residual / total), rel=1e-10)


@each_space
def test_points_of_a_geodesic_give_it_back(manifold: Manifold, shape: tuple[int, ...]) -> None:
    p, v = geodesic(manifold, shape)
    t = torch.linspace(0.5, 2.0, 6, dtype=F64)
    y = torch.stack([manifold.expmap(p, s * v) for s in t])
    fit = geodesic_regression(manifold, t, y)
    # The gradient is below 2e-12; its Hessian is about the identity in whitened covariates of spread 0.5.
    assert float(manifold.dist(fit.intercept, p)) < 1e-10
    assert float(manifold.norm(p, fit.velocity - v)) < 1e-10
    assert fit.r2 == pytest.approx(1.0, abs=1e-12)
    assert float(manifold.dist(fit.predict(t), y).amax()) < 1e-10


@each_space
def test_no_nearby_geodesic_is_better(manifold: Manifold, shape: tuple[int, ...]) -> None:
    p, v = geodesic(manifold, shape)
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(15, dtype=F64, generator=generator)
    y = torch.stack([manifold.expmap(p, s * v) for s in t])
    y = manifold.expmap(y, 0.1 * manifold.random_tangent(y, generator=generator))
    fit = geodesic_regression(manifold, t, y)
    assert 0.0 <= fit.r2 < 1.0

    def value(p: Tensor, v: Tensor) -> float:
        return float(manifold.dist2(manifold.expmap(p, t.reshape(-1, *(1,) * manifold.ndim) * v), y).mean())

    best = value(fit.intercept, fit.velocity)
    assert best == pytest.approx(2.0 * fit.convergence.value, rel=1e-10)
    for _ in range(20):
        a, b = (manifold.random_tangent(fit.intercept, generator=generator) for _ in range(2))
        q, w = manifold.expmap_transp(fit.intercept, 1e-3 * a, fit.velocity + 1e-3 * b)
        assert value(q, w) > best


def test_several_covariates_on_the_sphere() -> None:
    generator = torch.Generator().manual_seed(2)
    p = Sphere().random(4, dtype=F64, generator=generator)
    v = 0.2 * Sphere().random_tangent(p.expand(2, 4), generator=generator)
    t = torch.randn(12, 2, dtype=F64, generator=generator)
    y = Sphere().expmap(p.expand(12, 4), t @ v)
    fit = geodesic_regression(Sphere(), t, y)
    torch.testing.assert_close(fit.velocity, v, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(fit.intercept, p, rtol=1e-9, atol=1e-10)
    assert fit.r2 == pytest.approx(1.0, abs=1e-12)
    assert float(Sphere().dist(fit.predict(t), y).amax()) < 1e-9


def test_units_of_the_covariate_do_not_matter() -> None:
    p, v = geodesic(Sphere(), (3,))
    t = torch.linspace(0.0, 1.0, 7, dtype=F64)
    y = torch.stack([Sphere().expmap(p, s * v) for s in t])
    fit = geodesic_regression(Sphere(), 1e6 * t, y)
    torch.testing.assert_close(1e6 * fit.velocity, v, rtol=1e-9, atol=1e-10)


def test_float32() -> None:
    p, v = geodesic(Sphere(), (3,))
    t = torch.linspace(0.0, 1.0, 7, dtype=F64)
    y = torch.stack([Sphere().expmap(p, s * v) for s in t])
    fit = geodesic_regression(Sphere(), t.float(), y.float())
    assert fit.intercept.dtype == torch.float32
    # eps^(3/4) = 6e-6 of the gradient
    assert float((fit.intercept - p.float()).abs().max()) < 3e-5


def test_bad_input_is_refused() -> None:
    y = Sphere().random(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.0, 1.0, 5, dtype=F64)
    with pytest.raises(TypeError, match="'t' must be a tensor of a real floating dtype"):
        geodesic_regression(Sphere(), np.arange(5.0), y)  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match=r"'t' has shape \(4,\), wanted \(5,\) or \(5, k\)"):
        geodesic_regression(Sphere(), t[:4], y)
    with pytest.raises(DimensionError, match="wanted one batch dimension"):
        geodesic_regression(Sphere(), t, y.expand(5, 5, 3))
    with pytest.raises(ValueError, match="linearly dependent"):
        geodesic_regression(Sphere(), torch.ones_like(t), y)
    with pytest.raises(ConvergenceError, match="geodesic_regression on Sphere: after 0 steps"):
        geodesic_regression(Sphere(), t, Sphere().projx(y + 2.0), max_steps=0)

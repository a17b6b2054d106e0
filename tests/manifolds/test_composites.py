"""Product, Power, Scaled and Oblique against their factors, and what packs and unpacks points."""

import math

import geoopt
import pymanopt
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    DimensionError,
    Euclidean,
    Grassmann,
    ManifoldParameter,
    MembershipError,
    Oblique,
    PoincareBall,
    Power,
    Product,
    Scaled,
    Sphere,
    Stiefel,
    frechet_mean,
    from_geoopt,
)
from holonomy.optim import RiemannianAdam

EPS = torch.finfo(torch.float64).eps
MIXED = Product((Sphere(), 3), (Stiefel(), (4, 2)), (PoincareBall(0.5), (2,)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(manifold: Product | Power | Scaled, *size: int, seed: int = 0) -> Tensor:
    return manifold.random(*size, dtype=torch.float64, generator=generator(seed))


# -- products ------------------------------------------------------------------------------------------------------


def test_packing_and_unpacking_are_inverse() -> None:
    x = draw(MIXED, 5, 13)
    parts = MIXED.unpack_point(x)
    assert [p.shape for p in parts] == [(5, 3), (5, 4, 2), (5, 2)]
    assert torch.equal(MIXED.pack_point(*parts), x)
    assert torch.equal(MIXED.take_submanifold_value(x, 1), parts[1])
    assert torch.equal(MIXED.take_submanifold_value(x, 1, reshape=False), parts[1].flatten(-2))
    # Batches of the factors broadcast.
    assert MIXED.pack_point(parts[0][0], parts[1], parts[2][:1]).shape == (5, 13)


def test_operations_are_those_of_the_factors() -> None:
    x, y = draw(MIXED, 5, 13), draw(MIXED, 5, 13, seed=1)
    u = MIXED.random_tangent(x, generator=generator(2))
    factors, parts = MIXED.factors, MIXED.unpack_point(x)
    moved = MIXED.unpack_point(MIXED.expmap(x, u))
    for manifold, part, v, end in zip(factors, parts, MIXED.unpack_point(u), moved, strict=True):
        torch.testing.assert_close(end, manifold.expmap(part, v), rtol=0.0, atol=8 * EPS)
    squares = [m.dist2(a, b) for m, a, b in zip(factors, parts, MIXED.unpack_point(y), strict=True)]
    torch.testing.assert_close(MIXED.dist(x, y), sum(squares).sqrt(), rtol=8 * EPS, atol=0.0)


def test_each_factor_keeps_its_own_second_moment() -> None:
    x = draw(MIXED, 13)
    u = MIXED.random_tangent(x, generator=generator(1))
    kept = MIXED.component_inner(x, u)
    for manifold, part, v, inner in zip(
        MIXED.factors, MIXED.unpack_point(x), MIXED.unpack_point(u), MIXED.unpack_point(kept), strict=True
    ):
        torch.testing.assert_close(inner, manifold.inner(part, v).expand_as(part), rtol=8 * EPS, atol=0.0)


def test_planes_that_two_factors_span_are_flat() -> None:
    manifold = Product((Sphere(), 3), (Sphere(), 3))
    x = draw(manifold, 6)
    u, v = manifold.random_tangent(x, generator=generator(1)).reshape(2, 3).unbind()
    zero = torch.zeros(3, dtype=torch.float64)
    across = manifold.sectional_curvature(x, torch.cat([u, zero]), torch.cat([zero, v]))
    assert float(across) == 0.0


def test_products_nest() -> None:
    flat = Product((Sphere(), 3), (Euclidean(1), 2), (Sphere(), 4))
    nested = Product((Product((Sphere(), 3), (Euclidean(1), 2)), 5), (Sphere(), 4))
    x, y = draw(flat, 6, 9), draw(flat, 6, 9, seed=1)
    assert torch.equal(flat.logmap(x, y), nested.logmap(x, y))
    assert torch.equal(flat.dist2(x, y).float(), nested.dist2(x, y).float())
    u = flat.logmap(x, y)
    assert torch.equal(flat.component_inner(x, u), nested.component_inner(x, u))
    assert flat.key != nested.key
    assert nested.key == Product((Product((Sphere(), 3), (Euclidean(1), 2)), (5,)), (Sphere(), 4)).key


def test_geoopts_products_are_converted() -> None:
    peer = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.EuclideanStiefel(), (4, 2)), (geoopt.PoincareBall(), 2))
    ours = from_geoopt(peer)
    assert isinstance(ours, Product)
    assert ours.key == Product((Sphere(), 3), (Stiefel(), (4, 2)), (PoincareBall(1.0), 2)).key
    x = draw(ours, 5, 13)
    u = ours.random_tangent(x, generator=generator(1))
    torch.testing.assert_close(ours.inner(x, u), peer.inner(x, u), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(ours.component_inner(x, u), peer.component_inner(x, u), rtol=1e-12, atol=0.0)


def test_an_optimizer_moves_every_factor() -> None:
    target = draw(MIXED, 13, seed=3)
    x = ManifoldParameter(draw(MIXED, 13), MIXED)
    optimizer = RiemannianAdam([x], lr=0.05)
    first = float(MIXED.dist2(x.detach(), target))
    for _ in range(300):
        optimizer.zero_grad()
        gaps = zip(MIXED.unpack_point(x), MIXED.unpack_point(target), strict=True)
        sum((a - b).square().sum() for a, b in gaps).backward()
        optimizer.step()
    MIXED.assert_check_point_on_manifold(x.detach(), atol=1e-10)
    assert float(MIXED.dist2(x.detach(), target)) < 1e-3 * first


def test_bad_factors_are_named() -> None:
    with pytest.raises(ValueError, match="at least one factor"):
        Product()
    with pytest.raises(TypeError, match="factor 1 must be a pair"):
        Product((Sphere(), 3), Sphere())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"factor 0 .*whole numbers"):
        Product((Sphere(), 3.0))  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match=r"factor 0, Sphere\(\), has shape \(1,\)"):
        Product((Sphere(), 1))
    with pytest.raises(DimensionError, match=r"factor 0.*\(2, 3\)"):
        Product((Sphere(), (2, 3)))
    with pytest.raises(ValueError, match="2 points for 3 factors"):
        MIXED.pack_point(torch.zeros(3), torch.zeros(4, 2))
    with pytest.raises(DimensionError, match=r"point 1 has shape \(2, 4\)"):
        MIXED.pack_point(torch.zeros(3), torch.zeros(2, 4), torch.zeros(2))


def test_membership_names_the_factor() -> None:
    x = draw(MIXED, 13)
    x[3] += 1.0
    with pytest.raises(MembershipError, match=r"factor 1, Stiefel"):
        MIXED.assert_check_point_on_manifold(x)


# -- powers --------------------------------------------------------------------------------------------------------


def test_a_power_is_the_product_of_equal_factors() -> None:
    power, product = Power(PoincareBall(0.5)), Product(*[(PoincareBall(0.5), 3)] * 4)
    x, y = draw(power, 5, 4, 3), draw(power, 5, 4, 3, seed=1)
    u = power.random_tangent(x, generator=generator(2))
    flat = [t.reshape(5, 12) for t in (x, y, u)]
    torch.testing.assert_close(power.dist(x, y), product.dist(flat[0], flat[1]), rtol=8 * EPS, atol=0.0)
    torch.testing.assert_close(power.transp(x, y, u).reshape(5, 12), product.transp(*flat), rtol=0.0, atol=0.0)
    assert power.component_inner(x, u).shape == (5, 4, 1)
    assert power.dimension(4, 3) == product.dimension(12) == 12


def test_means_of_powers_are_means_of_rows() -> None:
    base, power = Sphere(), Power(Sphere())
    x = base.projx(torch.randn(7, 2, 3, dtype=torch.float64, generator=generator()) + 2.0)
    wanted = torch.stack([frechet_mean(base, x[:, i]) for i in range(2)])
    torch.testing.assert_close(frechet_mean(power, x), wanted, rtol=0.0, atol=1e-9)


def test_what_is_no_manifold_is_refused() -> None:
    for kind in (Power, Scaled):
        with pytest.raises(TypeError, match="'manifold' must be a manifold, got int"):
            kind(3)  # type: ignore[arg-type]


# -- scaled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1e-3, 0.7, 1e4])
def test_a_scaled_sphere_is_a_sphere_of_that_radius(radius: float) -> None:
    manifold = Scaled(Sphere(), radius)
    x, y = draw(manifold, 20, 3), draw(manifold, 20, 3, seed=1)
    chord = radius * (x - y).norm(dim=-1)
    torch.testing.assert_close(
        manifold.dist(x, y), 2.0 * radius * torch.asin(0.5 * chord / radius), rtol=1e-12, atol=0.0
    )
    u, v = (manifold.random_tangent(x, generator=generator(s)) for s in (2, 3))
    wanted = torch.full((20,), radius**-2, dtype=torch.float64)
    torch.testing.assert_close(manifold.sectional_curvature(x, u, v), wanted, rtol=8 * EPS, atol=0.0)


def test_a_scaled_ball_is_a_ball_of_other_curvature() -> None:
    """With distances r times as long, the unit ball has the curvature -1/r^2: points scale with the radius."""
    r = 3.0
    scaled, ball = Scaled(PoincareBall(1.0), r), PoincareBall(1.0 / r**2)
    x, y = draw(scaled, 20, 2), draw(scaled, 20, 2, seed=1)
    torch.testing.assert_close(scaled.dist(x, y), ball.dist(r * x, r * y), rtol=64 * EPS, atol=0.0)


def test_a_learnable_scale_fits_distances() -> None:
    manifold = Scaled(Sphere(), 1.0, learnable=True).double()
    x, y = (Sphere().random(50, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    target = 2.5 * Sphere().dist(x, y)
    optimizer = torch.optim.Adam(manifold.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (manifold.dist(x, y) - target).square().mean().backward()
        optimizer.step()
    assert float(manifold.scale.detach()) == pytest.approx(2.5, rel=1e-6)


def test_scales_broadcast_against_the_batch() -> None:
    manifold = Scaled(Sphere(), torch.tensor([1.0, 2.0, 4.0]))
    x, y = draw(manifold, 3, 5), draw(manifold, 3, 5, seed=1)
    torch.testing.assert_close(
        manifold.dist(x, y), torch.tensor([1.0, 2.0, 4.0]) * Sphere().dist(x, y), rtol=8 * EPS, atol=0.0
    )
    u = manifold.random_tangent(x, generator=generator(2))
    assert manifold.component_inner(x, u).shape == (3, 1)
    pairs = manifold.cdist(x[:, None].expand(3, 4, 5), y[:, None].expand(3, 2, 5))
    assert pairs.shape == (3, 4, 2)
    torch.testing.assert_close(pairs[:, 1, 1], manifold.dist(x, y), rtol=8 * EPS, atol=0.0)
    assert manifold.injectivity_radius() == pytest.approx(math.pi)
    matrices = Scaled(Grassmann(), torch.tensor([1.0, 3.0], dtype=torch.float64))
    z = draw(matrices, 2, 4, 2)
    g = torch.randn(2, 4, 2, dtype=torch.float64, generator=generator(4))
    rgrad = matrices.egrad2rgrad(z, g)
    torch.testing.assert_close(matrices.inner(z, rgrad, rgrad), (g * rgrad).sum((-2, -1)), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scales_that_are_no_scale_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="Scaled: 'scale' must be positive and finite"):
        Scaled(Sphere(), scale)


# -- oblique -------------------------------------------------------------------------------------------------------


def test_oblique_agrees_with_pymanopt() -> None:
    ours, peer = Oblique(), pymanopt.manifolds.Oblique(4, 3)
    x, y = draw(ours, 4, 3), draw(ours, 4, 3, seed=1)
    u = ours.random_tangent(x, generator=generator(2))
    g, h = (torch.randn(4, 3, dtype=torch.float64, generator=generator(s)) for s in (3, 4))
    a = [t.numpy() for t in (x, y, u, g, h)]
    pairs = [
        (ours.expmap(x, u), peer.exp(a[0], a[2])),
        (ours.logmap(x, y), peer.log(a[0], a[1])),
        (ours.dist(x, y), peer.dist(a[0], a[1])),
        (ours.ehess2rhess(x, g, h, u), peer.euclidean_to_riemannian_hessian(a[0], a[3], a[4], a[2])),
    ]
    for got, wanted in pairs:
        # pymanopt's arccos loses half of the digits of small angles only; these are of order 1.
        torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_every_column_of_an_oblique_point_moves_by_itself() -> None:
    ours = Oblique()
    x, y = draw(ours, 6, 5, 3), draw(ours, 6, 5, 3, seed=1)
    wanted = Sphere().logmap(x.mT, y.mT).mT
    assert torch.equal(ours.logmap(x, y), wanted)
    assert ours.component_inner(x, wanted).shape == (6, 1, 3)

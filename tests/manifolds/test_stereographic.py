"""What is particular to curvature of either sign: the models it joins, the passage through 0, and the far side."""

import math

import geoopt
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Euclidean, MembershipError, PoincareBall, Scaled, Sphere, Stereographic

EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(manifold: Stereographic, seed: int = 0, n: int = 30) -> Tensor:
    return manifold.random(n, 3, dtype=torch.float64, generator=generator(seed))


def lifted(x: Tensor, k: float) -> Tensor:
    """The unit sphere by stereographic projection, the origin at the north pole."""
    x = math.sqrt(k) * x
    square = x.square().sum(-1, keepdim=True)
    return torch.cat([2.0 * x, 1.0 - square], -1) / (1.0 + square)


@pytest.mark.parametrize("c", [1e-4, 0.3, 1.0, 1e4])
def test_negative_curvature_is_the_poincare_ball(c: float) -> None:
    ours, ball = Stereographic(-c), PoincareBall(c)
    x, y = (ball.random(30, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    u = ball.logmap(x, y)
    tolerance = {"rtol": 1e-12, "atol": 1e-13 * ball.radius}
    torch.testing.assert_close(ours.dist(x, y), ball.dist(x, y), **tolerance)
    torch.testing.assert_close(ours.logmap(x, y), u, **tolerance)
    torch.testing.assert_close(ours.expmap(x, u), y, **tolerance)
    torch.testing.assert_close(ours.transp(x, y, u), ball.transp(x, y, u), **tolerance)


@pytest.mark.parametrize("k", [1e-4, 0.3, 1.0, 1e4])
def test_positive_curvature_is_a_sphere(k: float) -> None:
    ours, sphere = Stereographic(k), Scaled(Sphere(), 1.0 / math.sqrt(k))
    r = 1.0 / math.sqrt(k)
    # Up to a little past the equator, from where coordinates grow.
    x, y = (r * torch.randn(30, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    torch.testing.assert_close(ours.dist(x, y), sphere.dist(lifted(x, k), lifted(y, k)), rtol=1e-12, atol=0.0)
    u = ours.logmap(x, y)
    torch.testing.assert_close(ours.norm(x, u), ours.dist(x, y), rtol=1e-11, atol=0.0)
    torch.testing.assert_close(lifted(ours.expmap(x, u), k), lifted(y, k), rtol=0.0, atol=1e-11)
    half = ours.geodesic(0.5, x, y)
    torch.testing.assert_close(lifted(half, k), sphere.geodesic(0.5, lifted(x, k), lifted(y, k)), rtol=0.0, atol=1e-11)


def test_zero_curvature_is_flat_with_distances_doubled() -> None:
    ours, flat = Stereographic(0.0), Euclidean(1)
    x, y = draw(ours), draw(ours, 1)
    torch.testing.assert_close(ours.dist(x, y), 2.0 * flat.dist(x, y), rtol=4 * EPS, atol=0.0)
    torch.testing.assert_close(ours.logmap(x, y), y - x, rtol=0.0, atol=8 * EPS)
    torch.testing.assert_close(ours.transp(x, y, x), x, rtol=0.0, atol=0.0)


def test_everything_is_smooth_in_the_curvature_at_zero() -> None:
    """Derivatives by k at 0 against central differences through both signs."""
    x, y = draw(Stereographic(0.0)), draw(Stereographic(0.0), 1)
    x, y = 0.5 * x, 0.5 * y

    def values(k: Tensor) -> tuple[Tensor, ...]:
        manifold = Stereographic()
        manifold.fixed = k  # differentiable, unlike what the constructor keeps
        u = manifold.logmap(x, y)
        return manifold.dist(x, y), u, manifold.expmap(x, 0.7 * u), manifold.transp(x, y, x)

    slopes = torch.autograd.functional.jacobian(values, torch.zeros(1, dtype=torch.float64))
    step = 1e-5
    ahead, behind = (values(torch.full((1,), s * step, dtype=torch.float64)) for s in (1.0, -1.0))
    for slope, a, b in zip(slopes, ahead, behind, strict=True):
        # The difference errs by step^2 times third derivatives of order 1, and by roundings over the step.
        torch.testing.assert_close(slope.squeeze(-1), (a - b) / (2.0 * step), rtol=0.0, atol=1e-8)


def test_a_learnable_curvature_changes_its_sign() -> None:
    """Distances of a sphere are given; the fit starts in hyperbolic space."""
    target = Stereographic(0.8)
    x, y = (0.7 * torch.randn(60, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    x, y = (t / (1.0 + t.norm(dim=-1, keepdim=True)) for t in (x, y))
    wanted = target.dist(x, y)
    manifold = Stereographic(-0.5, learnable=True).double()
    assert float(manifold.k.detach()) == -0.5
    optimizer = torch.optim.Adam(manifold.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        (manifold.dist(x, y) - wanted).square().mean().backward()
        optimizer.step()
    assert float(manifold.k.detach()) == pytest.approx(0.8, abs=1e-4)


def test_curvatures_of_both_signs_broadcast() -> None:
    k = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)
    mixed = Stereographic(k)
    x, y = (0.3 * torch.randn(3, 4, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    for i in range(3):
        one = Stereographic(float(k[i]))
        torch.testing.assert_close(mixed.dist(x, y)[i], one.dist(x[i], y[i]), rtol=4 * EPS, atol=0.0)
        torch.testing.assert_close(mixed.logmap(x, y)[i], one.logmap(x[i], y[i]), rtol=0.0, atol=8 * EPS)


def test_the_antipode_is_at_half_a_great_circle() -> None:
    manifold = Stereographic(0.8)
    x = draw(manifold)
    y = -x / (0.8 * x.square().sum(-1, keepdim=True))
    half = math.pi / math.sqrt(0.8)
    torch.testing.assert_close(manifold.dist(x, y), torch.full((30,), half, dtype=torch.float64), rtol=1e-14, atol=0.0)
    u = manifold.logmap(x, y)
    torch.testing.assert_close(manifold.norm(x, u), torch.full((30,), half, dtype=torch.float64), rtol=1e-7, atol=0.0)
    assert torch.isfinite(manifold.transp(x, y, u)).all()


def test_geoopt_has_the_same_distances() -> None:
    x, y = (0.4 * torch.randn(20, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    x, y = (t / (1.0 + t.norm(dim=-1, keepdim=True)) for t in (x, y))
    for k in (-0.7, 0.7):
        theirs = geoopt.Stereographic(torch.tensor(k, dtype=torch.float64))
        torch.testing.assert_close(Stereographic(k).dist(x, y), theirs.dist(x, y), rtol=1e-9, atol=0.0)


def test_bad_curvatures_and_points_are_named() -> None:
    with pytest.raises(ValueError, match=r"'k' must be finite, got inf"):
        Stereographic(math.inf)
    with pytest.raises(TypeError, match="'k' must be a number or a tensor, got str"):
        Stereographic("1")  # type: ignore[arg-type]
    with pytest.raises(MembershipError, match="outside of the open ball"):
        Stereographic(-4.0).assert_check_point_on_manifold(torch.tensor([0.5, 0.0]))

"""Models of hyperbolic space carried into each other: distances, lengths and round trips, at any curvature."""

import math

import geoopt
import mpmath
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import HalfSpace, KleinBall, Lorentz, PoincareBall, Sphere, convert, convert_tangent
from holonomy.manifolds.hyperbolic import Hyperbolic

MP = mpmath.MPContext()
MP.dps = 50
EPS = torch.finfo(torch.float64).eps
KINDS: tuple[type[Hyperbolic], ...] = (PoincareBall, Lorentz, KleinBall, HalfSpace)
each_pair = pytest.mark.parametrize(
    ("source", "target"), [(a, b) for a in KINDS for b in KINDS], ids=lambda kind: kind.__name__
)
each_curvature = pytest.mark.parametrize("c", [1e-4, 0.3, 1.0, 1e4])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(model: Hyperbolic, seed: int = 0, radius: float = 2.0) -> Tensor:
    """Points at distances up to `radius` units of the radius of curvature."""
    d = 4 if isinstance(model, Lorentz) else 3
    origin = model.origin(40, d, dtype=torch.float64)
    u = model.random_tangent(origin, generator=generator(seed))
    length = radius * torch.rand(40, 1, dtype=torch.float64, generator=generator(seed + 100)) * model.radius
    return model.expmap(origin, length * u / model.norm(origin, u, keepdim=True))


@each_curvature
@each_pair
def test_distances_and_lengths_stay(source: type[Hyperbolic], target: type[Hyperbolic], c: float) -> None:
    a, b = source(c), target(c)
    x, y = points(a), points(a, 1)
    u, v = (a.random_tangent(x, generator=generator(s)) for s in (2, 3))
    moved = [convert(t, a, b) for t in (x, y)]
    for t in moved:
        b.assert_check_point_on_manifold(t)
    # Coordinates round at their size; the metric's factors reach cosh(2)^2 = 14 at these distances.
    torch.testing.assert_close(b.dist(*moved), a.dist(x, y), rtol=1024 * EPS, atol=0.0)
    pushed = [convert_tangent(x, t, a, b) for t in (u, v)]
    torch.testing.assert_close(b.inner(moved[0], *pushed), a.inner(x, u, v), rtol=0.0, atol=4096 * EPS)
    torch.testing.assert_close(
        b.expmap(moved[0], 0.1 * b.radius * pushed[0]),
        convert(a.expmap(x, 0.1 * a.radius * u), a, b),
        rtol=1e-11,
        atol=1e-12 if target is HalfSpace else 1e-12 * a.radius,  # whose coordinates have no unit
    )


@each_curvature
@each_pair
def test_there_and_back_is_the_identity(source: type[Hyperbolic], target: type[Hyperbolic], c: float) -> None:
    a, b = source(c), target(c)
    x = points(a, radius=5.0)
    back = convert(convert(x, a, b), b, a)
    # A coordinate in Klein's ball at distance 5 is off by eps, which is eps cosh(5)^2 = 5500 eps of length.
    assert float((a.dist(x, back) / a.radius).amax()) <= 2e4 * EPS


@each_pair
def test_origins_go_to_origins(source: type[Hyperbolic], target: type[Hyperbolic]) -> None:
    a, b = source(0.3), target(0.3)
    sizes = [4 if isinstance(model, Lorentz) else 3 for model in (a, b)]
    moved = convert(a.origin(sizes[0], dtype=torch.float64), a, b)
    torch.testing.assert_close(moved, b.origin(sizes[1], dtype=torch.float64), rtol=0.0, atol=4 * EPS)


def test_the_half_plane_is_cayleys() -> None:
    """w -> i (1 + w)/(1 - w), turned so that the height is last: at fifty digits, up to the boundary."""
    ball, half = PoincareBall(1.0), HalfSpace(1.0)
    for radius in (0.1, 0.9, 1.0 - 1e-6, 1.0 - 1e-12):
        for angle in torch.linspace(0.1, 6.2, 9).tolist():
            x = torch.tensor([radius * math.cos(angle), radius * math.sin(angle)], dtype=torch.float64)
            w = MP.mpc(float(x[1]), -float(x[0]))
            image = MP.mpc(0, 1) * (1 + w) / (1 - w)
            z, y = convert(x, ball, half).tolist()
            # The height is (1 - |x|^2)/..., which the rounding of x allows to be known to eps/(1 - |x|).
            allowed = 16 * EPS / (1.0 - radius)
            assert z == pytest.approx(float(image.real), rel=allowed, abs=allowed)
            assert y == pytest.approx(float(image.imag), rel=allowed)


def test_they_are_the_models_own_maps() -> None:
    ball, sheet = PoincareBall(0.7), Lorentz(0.7)
    x = points(ball)
    u = ball.random_tangent(x, generator=generator(5))
    tolerance = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(convert(x, ball, sheet), ball.to_lorentz(x), **tolerance)
    torch.testing.assert_close(convert_tangent(x, u, ball, sheet), ball.to_lorentz_tangent(x, u), **tolerance)


def test_between_curvatures_distances_scale() -> None:
    a, b = PoincareBall(4.0), HalfSpace(0.25)
    x, y = points(a), points(a, 1)
    moved = b.dist(convert(x, a, b), convert(y, a, b))
    torch.testing.assert_close(moved, 4.0 * a.dist(x, y), rtol=1e-12, atol=0.0)


def test_it_differentiates_and_maps() -> None:
    a, b = HalfSpace(0.5), KleinBall(0.5)
    x = points(a)[:3]
    assert torch.autograd.gradcheck(lambda x: convert(x, a, b), x.requires_grad_())
    mapped = torch.func.vmap(lambda x: convert(x, a, b))(x)
    torch.testing.assert_close(mapped, convert(x, a, b), rtol=0.0, atol=4 * EPS)


def test_other_models_are_refused() -> None:
    x = torch.zeros(3)
    with pytest.raises(TypeError, match=r"'target' must be a PoincareBall.*got Sphere"):
        convert(x, PoincareBall(), Sphere())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'source' .*got PoincareBall"):
        convert_tangent(x, x, geoopt.PoincareBall(), PoincareBall())  # type: ignore[arg-type]

"""What is particular to the Klein ball: straight geodesics, accuracy up to its boundary, Einstein's midpoint."""

import mpmath
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import KleinBall, MembershipError, PoincareBall, convert, convert_tangent

MP = mpmath.MPContext()
MP.dps = 50
EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_distance(x: Tensor, y: Tensor) -> float:
    """arcosh of the quotient of forms, at fifty digits."""
    a, b = ([MP.mpf(t) for t in v.double().tolist()] for v in (x, y))

    def form(a: list[mpmath.mpf], b: list[mpmath.mpf]) -> mpmath.mpf:
        return 1 - MP.fsum(s * t for s, t in zip(a, b, strict=True))

    return float(MP.acosh(form(a, b) / MP.sqrt(form(a, a) * form(b, b))))


@pytest.mark.parametrize(
    ("dtype", "radius", "apart", "allowed"),
    [
        # Rounding of coordinates cannot matter: the distance of the rounded points is what is compared. What is left is
        # the rounding of g = 1 - |x|^2 in float64, eps cosh(radius)^2.
        (torch.float64, 0.5, 1e-5, 8 * EPS),
        (torch.float64, 0.5, 1.0, 8 * EPS),
        (torch.float64, 6.0, 1e-2, 1e-10),
        (torch.float64, 14.0, 1.0, 1e-3),
        (torch.float32, 0.5, 1e-4, 1e-6),
        (torch.float32, 3.0, 1e-2, 2e-6),
        # <x, h> is rounded at eps |x||h| beside sqrt(g)|h|: eps cosh(6).
        (torch.float32, 6.0, 1.0, 2.4e-5),
    ],
    ids=str,
)
def test_distances_agree_with_fifty_digits(dtype: torch.dtype, radius: float, apart: float, allowed: float) -> None:
    ball = KleinBall()
    origin = torch.zeros(30, 3, dtype=torch.float64)
    u = ball.random_tangent(origin, generator=generator())
    x = ball.expmap(origin, radius * u / ball.norm(origin, u, keepdim=True))
    v = ball.random_tangent(x, generator=generator(1))
    y = ball.expmap(x, apart * v / ball.norm(x, v, keepdim=True))
    x, y = x.to(dtype), y.to(dtype)
    wanted = torch.tensor([exact_distance(a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    error = (ball.dist(x, y).double() - wanted).abs() / wanted
    assert float(error.amax()) <= allowed


def test_geodesics_are_straight() -> None:
    ball = KleinBall(0.7)
    x, y = (ball.random(20, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    for t in (0.25, 0.5, 0.9):
        z = ball.geodesic(t, x, y)
        a, b = z - x, y - x
        across = a - (a * b).sum(-1, keepdim=True) / b.square().sum(-1, keepdim=True) * b
        torch.testing.assert_close(across, torch.zeros_like(across), rtol=0.0, atol=16 * EPS)


def test_transport_is_that_of_the_poincare_ball() -> None:
    klein, ball = KleinBall(0.7), PoincareBall(0.7)
    x, y = (0.9 * klein.random(20, 3, dtype=torch.float64, generator=generator(s)) for s in (0, 1))
    v = klein.random_tangent(x, generator=generator(2))
    p, q = (convert(t, klein, ball) for t in (x, y))
    moved = convert_tangent(y, klein.transp(x, y, v), klein, ball)
    torch.testing.assert_close(moved, ball.transp(p, q, convert_tangent(x, v, klein, ball)), rtol=1e-10, atol=1e-11)


def test_the_midpoint_is_that_of_the_hyperboloid() -> None:
    klein, ball = KleinBall(0.7), PoincareBall(0.7)
    x = 0.9 * klein.random(6, 3, dtype=torch.float64, generator=generator())
    w = torch.rand(6, dtype=torch.float64, generator=generator(1))
    middle = klein.weighted_midpoint(x, w)
    wanted = convert(ball.weighted_midpoint(convert(x, klein, ball), w), ball, klein)
    torch.testing.assert_close(middle, wanted, rtol=0.0, atol=1e-12)


def test_long_vectors_end_at_the_edge() -> None:
    ball = KleinBall()
    x = torch.tensor([[0.3, 0.2], [-0.9, 0.4]], dtype=torch.float64, requires_grad=True)
    y = ball.expmap(x, torch.full_like(x, 1e200))
    ball.assert_check_point_on_manifold(y.detach())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(gradient).all()


def test_points_outside_are_named() -> None:
    with pytest.raises(MembershipError, match="outside of the open ball"):
        KleinBall(4.0).assert_check_point_on_manifold(torch.tensor([0.5, 0.0]))

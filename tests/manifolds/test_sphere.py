"""What is particular to the sphere: accuracy of the distance, great circles, the antipode."""

import math

import mpmath
import pytest
import torch

from holonomy.manifolds import Sphere

MP = mpmath.MPContext()
MP.dps = 50


def exact_distance(x: torch.Tensor, y: torch.Tensor) -> mpmath.mpf:
    """The distance of two points with rounded coordinates, at fifty digits."""
    a, b = ([MP.mpf(float(t)) for t in v] for v in (x, y))
    chord, cochord = (MP.sqrt(sum((s + sign * t) ** 2 for s, t in zip(a, b, strict=True))) for sign in (-1, 1))
    return 2 * MP.atan2(chord, cochord)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2.3e-7), (torch.float64, 4.3e-16)], ids=str)
def test_distance_has_full_relative_precision(dtype: torch.dtype, bound: float) -> None:
    """From 1e-4 to pi, against 2 atan2(|x - y|, |x + y|) at fifty digits of the coordinates as they are given."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for angle in torch.logspace(-4.0, math.log10(math.pi), 300, dtype=torch.float64).tolist():
        x = Sphere().random(6, dtype=torch.float64, generator=generator)
        u = Sphere().random_tangent(x, generator=generator)
        y = Sphere().expmap(x, angle * u / Sphere().norm(x, u)).to(dtype)
        x = x.to(dtype)
        wanted = exact_distance(x, y)
        worst = max(worst, float(abs((MP.mpf(float(Sphere().dist(x, y))) - wanted) / wanted)))
    # Fewer than two roundings: of the two lengths, the arctangent and the factor, which is exact.
    assert worst <= bound, worst


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_distance_at_the_ends_is_exact(dtype: torch.dtype) -> None:
    x = Sphere().random(100, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Sphere().dist(x, x), torch.zeros(100, dtype=dtype))
    assert torch.equal(Sphere().dist(x, -x), torch.full((100,), math.pi, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_derivative_of_exp_at_zero_is_the_tangent_projector(dtype: torch.dtype) -> None:
    x = Sphere().random(4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(4, dtype=dtype)
    jacobian = torch.autograd.functional.jacobian(lambda u: Sphere().expmap(x, u), zero)
    projector = torch.eye(4, dtype=dtype) - torch.outer(x, x)
    # Rounding, and that |x|^2 is 1 within rounding.
    torch.testing.assert_close(jacobian, projector, rtol=0.0, atol=8 * torch.finfo(dtype).eps)


def test_transport_over_a_right_angle_keeps_length() -> None:
    """Along the equator from the first to the second axis: the velocity turns with it, the pole stays."""
    x, y, pole = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(Sphere().transp(x, y, y), -x)
    torch.testing.assert_close(Sphere().transp(x, y, pole), pole)
    v = 0.6 * y + 0.8 * pole
    assert float(Sphere().norm(y, Sphere().transp(x, y, v))) == pytest.approx(1.0, abs=4e-16)


def test_transport_around_a_triangle_turns_by_its_area() -> None:
    """Holonomy: an octant has area pi/2, and a vector carried around it comes back turned by a right angle."""
    x, y, z = torch.eye(3, dtype=torch.float64)
    v = y
    for a, b in ((x, y), (y, z), (z, x)):
        v = Sphere().transp(a, b, v)
    torch.testing.assert_close(v, z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_accepted(dtype: torch.dtype) -> None:
    x = Sphere().random(6, 4, dtype=dtype)
    u = Sphere().random_tangent(x)
    y = Sphere().expmap(x, u)
    assert y.dtype == Sphere().dist(x, y).dtype == Sphere().logmap(x, y).dtype == dtype
    # One rounding of a unit vector's entries.
    assert float((y.double().norm(dim=-1) - 1.0).abs().amax()) <= torch.finfo(dtype).eps


def test_geodesics_are_periodic() -> None:
    x = Sphere().random(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = Sphere().random_tangent(x, generator=torch.Generator().manual_seed(1))
    u = u / Sphere().norm(x, u, keepdim=True)
    torch.testing.assert_close(Sphere().expmap(x, 2.0 * math.pi * u), x)
    torch.testing.assert_close(Sphere().expmap(x, math.pi * u), -x)


def test_antipodes_have_one_fixed_great_circle() -> None:
    x = Sphere().random(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = Sphere().logmap(x, -x)
    Sphere().assert_check_vector_on_tangent(x, u)
    torch.testing.assert_close(Sphere().norm(x, u), torch.full((20,), math.pi, dtype=torch.float64))
    torch.testing.assert_close(Sphere().expmap(x, u), -x)
    torch.testing.assert_close(Sphere().transp(x, -x, u), -u)
    v = Sphere().random_tangent(x, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Sphere().norm(-x, Sphere().transp(x, -x, v)), Sphere().norm(x, v))


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_near_the_antipode_log_keeps_its_digits(gap: float) -> None:
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    u = (math.pi - gap) * torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    back = Sphere().logmap(x, Sphere().expmap(x, u))
    # The direction is known as well as the coordinates of a vector of length `gap` are.
    torch.testing.assert_close(back, u, rtol=0.0, atol=16 * torch.finfo(torch.float64).eps / gap)
    assert float(Sphere().norm(x, back)) == pytest.approx(math.pi - gap, rel=4e-16)


def test_zero_is_projected_to_a_point() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    y = Sphere().projx(x)
    Sphere().assert_check_point_on_manifold(y)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(gradient).all()


def test_heights_of_uniform_points_are_uniform() -> None:
    """On the 2-sphere, uniform on [-1, 1] (Archimedes)."""
    x = Sphere().random(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    height = x[:, 2].sort().values
    uniform = torch.linspace(-1.0, 1.0, 20_000, dtype=torch.float64)
    # Kolmogorov-Smirnov: 1.95/sqrt(n) is the 0.1 % point; heights spread over 2.
    assert float((height - uniform).abs().amax()) <= 2.0 * 1.95 / math.sqrt(20_000)

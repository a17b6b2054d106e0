"""What is particular to the Lorentz model: accuracy far out, no drift, no overflow, geoopt's interface."""

import math
import warnings
from collections.abc import Callable

import geoopt
import mpmath
import numpy as np
import pytest
import torch
from hyperbolic_reference import lorentz_distance, pairs, relative_error
from torch import Tensor

from holonomy.manifolds import DimensionError, Lorentz, MembershipError, PoincareBall

F32, F64 = torch.float32, torch.float64
EPS32, EPS64 = torch.finfo(F32).eps, torch.finfo(F64).eps
CURVATURES = pytest.mark.parametrize("c", [0.01, 0.3, 1.0, 7.0, 50.0])


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(sheet: Lorentz, *size: int, seed: int = 0) -> Tensor:
    return sheet.random(*size, dtype=F64, generator=_draw(seed))


def _minkowski(x: Tensor, y: Tensor) -> Tensor:
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


# -- accuracy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("rho", "delta"), [(0.5, 1e-5), (0.5, 1e-3), (0.5, 1.0), (3.0, 1e-2), (6.0, 1e-2), (6.0, 1.0), (9.0, 1.0)]
)
def test_distance_loses_one_power_of_the_radius_at_most(rho: float, delta: float, dtype: torch.dtype) -> None:
    sheet, ball = Lorentz(), PoincareBall()
    x, y = (ball.to_lorentz(t).to(dtype) for t in pairs(rho, delta, F64))
    exact = [lorentz_distance(a, b) for a, b in zip(x, y, strict=True)]
    # Coordinates are exp(rho) times the separation: their rounding is what is left, where the textbook form squares it.
    allowed = 4 * torch.finfo(dtype).eps * max(1.0, 0.5 * math.exp(rho))
    assert relative_error(sheet.dist(x, y), exact) < allowed
    assert relative_error(sheet.dist2(x, y).sqrt(), exact) < allowed


@pytest.mark.parametrize("dtype", [F32, F64])
def test_radial_steps_far_out_keep_all_digits(dtype: torch.dtype) -> None:
    sheet = Lorentz()
    for rho in (0.5, 3.0, 9.0, 14.0):
        x, y = (sheet.projx(torch.tensor([0.0, math.sinh(t), 0.0], dtype=F64)).to(dtype) for t in (rho, rho + 1e-2))
        assert relative_error(sheet.dist(x, y)[None], [lorentz_distance(x, y)]) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("near", [0.0, 0.5, 2.0])
def test_distances_to_points_far_out_keep_their_digits(near: float, dtype: torch.dtype) -> None:
    sheet = Lorentz()
    direction, other = torch.nn.functional.normalize(torch.randn(2, 3, dtype=F64, generator=_draw()), dim=-1)
    x = sheet.projx(torch.cat((torch.zeros(1, dtype=F64), math.sinh(near) * direction))).to(dtype)
    for far in (5.0, 8.0, 11.0, 15.0):
        y = sheet.projx(torch.cat((torch.zeros(1, dtype=F64), math.sinh(far) * other))).to(dtype)
        exact = [lorentz_distance(x, y)]
        # Some roundings of coordinates as long as the nearer point's, over a distance of at least 3.
        allowed = 8 * torch.finfo(dtype).eps * math.cosh(near)
        assert relative_error(sheet.dist(x, y)[None], exact) < allowed
        assert relative_error(sheet.dist2(x, y)[None].sqrt(), exact) < allowed
        assert relative_error(sheet.cdist(x[None], y[None])[0], exact) < allowed


def test_projection_leaves_tangent_vectors_as_they_are() -> None:
    """What rounding leaves of <x, u> grows by c x_0^2: projected after every step, vectors would grow without end."""
    sheet = Lorentz()
    x = sheet.random(50, 4, dtype=F32, generator=_draw())
    u = sheet.random_tangent(x, generator=_draw(1))
    u = 0.1 * u / sheet.norm(x, u, keepdim=True)
    for _ in range(80):
        x, u = sheet.expmap_transp(x, u, u)
        projected = sheet.proju(x, u)
        torch.testing.assert_close(projected[..., 1:], u[..., 1:], rtol=0.0, atol=0.0)
        u = projected
    # 80 steps of rounding at up to 9 from the origin, where one is eps cosh(9) = 5e-4 of the length.
    assert float((sheet.norm(x, u) - 0.1).abs().max()) < 0.01 * 0.1
    assert float(sheet.dist0(x).max()) > 8.0


@pytest.mark.parametrize("rho", [0.5, 3.0, 6.0, 9.0])
def test_length_of_a_tangent_vector_does_not_cancel_between_space_and_time(rho: float) -> None:
    sheet = Lorentz()
    x = sheet.projx(torch.tensor([0.0, math.sinh(rho), 0.0, 0.0], dtype=F64)).float()
    u = sheet.proju(x.double(), torch.randn(50, 4, dtype=F64, generator=_draw())).float()
    xs, exact = [mpmath.mpf(t) for t in x[1:].tolist()], []
    x0 = mpmath.sqrt(1 + mpmath.fsum(t * t for t in xs))
    for row in u.tolist():
        us = [mpmath.mpf(t) for t in row[1:]]
        u0 = mpmath.fsum(a * b for a, b in zip(xs, us, strict=True)) / x0
        exact.append(mpmath.sqrt(mpmath.fsum(t * t for t in us) - u0**2))
    # Minkowski's form itself would lose exp(2 rho) eps, which is everything at 9.
    assert relative_error(sheet.norm(x, u), exact) < 4 * EPS32 * max(1.0, 0.5 * math.exp(rho))


def test_transport_far_out_keeps_lengths_and_angles() -> None:
    sheet = Lorentz()
    x, y = (PoincareBall().to_lorentz(t) for t in pairs(6.0, 1.0, F64))
    u, v = (sheet.random_tangent(x, generator=_draw(s)) for s in range(2))
    moved = sheet.transp(x, y, u), sheet.transp(x, y, v)
    torch.testing.assert_close(sheet.inner(y, *moved), sheet.inner(x, u, v), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(_minkowski(y, moved[0]), torch.zeros(60, dtype=F64), rtol=0.0, atol=1e-9)


# -- no drift, no overflow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("c", [0.3, 1.0, 50.0])
def test_thousands_of_random_gradient_steps_stay_finite_and_on_the_hyperboloid(dtype: torch.dtype, c: float) -> None:
    sheet, generator = Lorentz(c), _draw()
    x = sheet.random(50, 6, dtype=dtype, generator=generator)
    momentum = torch.zeros_like(x)
    for _ in range(2500):
        gradient = sheet.egrad2rgrad(x, torch.randn(50, 6, dtype=dtype, generator=generator))
        x, momentum = sheet.retr_transp(x, -1e-2 * gradient, 0.9 * momentum + gradient)
    assert bool(torch.isfinite(x).all())
    assert bool(torch.isfinite(momentum).all())
    wide = x.double()
    drift = (_minkowski(wide, wide) + 1.0 / c).abs() / wide[:, 0].square()
    assert float(drift.amax()) < 1e-6


@pytest.mark.parametrize("dtype", [F32, F64])
def test_points_stop_at_the_radius_where_a_rounding_is_a_step(dtype: torch.dtype) -> None:
    sheet = Lorentz(0.5)
    eps = torch.finfo(dtype).eps
    far = sheet.projx(torch.tensor([0.0, 3e15, 4e18], dtype=dtype))
    assert float(sheet.dist0(far)) == pytest.approx(math.asinh(1.0 / eps) / math.sqrt(0.5), rel=1e-6)
    assert torch.equal(sheet.projx(far), far)
    out = sheet.expmap(far, sheet.transp0(far, torch.tensor([0.0, 1e3, 1e3], dtype=dtype)))
    assert bool(torch.isfinite(out).all())
    assert bool(sheet.check_point_on_manifold(out))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("c", [0.3, 1.0, 1e4])
def test_values_and_gradients_are_finite_at_the_origin_far_out_and_coincident_points(
    dtype: torch.dtype, c: float
) -> None:
    sheet, ball = Lorentz(c), PoincareBall(c)
    e = torch.tensor([0.6, 0.8, 0.0], dtype=dtype) * float(sheet.radius)
    edge = sheet.projx(torch.cat([e[:1], 1e12 * e]))
    points = [ball.to_lorentz(t) for t in (0.0 * e, 1e-20 * e, 0.5 * e, ball.projx(e), ball.projx(-e))] + [edge]
    vectors = [torch.cat([torch.zeros(1, dtype=dtype), t * e]) for t in (0.0, 1e-25, 1.0, 100.0, -100.0)]

    def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
        leaves = [t.clone().requires_grad_() for t in inputs]
        result = function(*leaves)
        gradients = torch.autograd.grad(result.sum(), leaves)
        assert all(bool(torch.isfinite(t).all()) for t in (result, *gradients)), (function, inputs)

    for x in points:
        for function in (sheet.logmap0, sheet.dist0, sheet.to_poincare):
            check(function, x)
        for vector in vectors:
            u = sheet.transp0(x, vector)
            for function in (sheet.expmap, sheet.norm, sheet.egrad2rgrad, lambda x, u: sheet.expmap_transp(x, u, u)[1]):
                check(function, x, u)
            check(sheet.expmap0, vector)
        for y in points:
            for function in (sheet.dist, sheet.dist2, sheet.logmap):
                check(function, x, y)
            check(lambda x, y: sheet.midpoint(torch.stack([x, y])), x, y)
            check(lambda x, y: sheet.cdist(x[None], y[None]), x, y)


def test_gradient_conversion_leaves_its_input_alone() -> None:
    sheet = Lorentz()
    x, u = _points(sheet, 4, 3), torch.randn(4, 3, dtype=F64, generator=_draw())
    before = u.clone()
    sheet.egrad2rgrad(x, u)
    assert torch.equal(u, before)


# -- the interface -----------------------------------------------------------------------------------------------------


def test_norm_has_the_signature_of_the_contract_and_is_0_at_0() -> None:
    sheet = Lorentz()
    x = _points(sheet, 4, 3)
    u = sheet.random_tangent(x, generator=_draw(1))
    torch.testing.assert_close(sheet.norm(x, u), _minkowski(u, u).sqrt())
    torch.testing.assert_close(sheet.norm(x.T, u.T, dim=0), sheet.norm(x, u))
    assert sheet.norm(x, u, keepdim=True).shape == (4, 1)
    assert torch.equal(sheet.norm(x, torch.zeros_like(x)), torch.zeros(4, dtype=F64))


@pytest.mark.parametrize("c", [0.3, 1.0, 7.0])
def test_values_equal_those_of_geoopt(c: float) -> None:
    peer, sheet = geoopt.Lorentz(k=torch.tensor(1.0 / c, dtype=F64)), Lorentz(k=1.0 / c)
    assert sheet.k == pytest.approx(peer.k.item())
    assert sheet.c == pytest.approx(c)
    x, y, e = _points(sheet, 5, 4), _points(sheet, 5, 4, seed=1), torch.randn(5, 4, dtype=F64, generator=_draw(2))
    u, v = (sheet.random_tangent(x, generator=_draw(s)) for s in (3, 4))
    o = sheet.origin(5, 4, dtype=F64)
    u0 = sheet.random_tangent(o, generator=_draw(5))
    torch.testing.assert_close(o, peer.origin(5, 4).as_subclass(Tensor))
    for name, tensors in {
        "dist": (x, y),
        "dist0": (x,),
        "expmap": (x, u),
        "logmap": (x, y),
        "transp": (x, y, v),
        "expmap0": (u0,),
        "logmap0": (x,),
        "inner": (x, u, v),
        "transp0": (x, u0),
        "transp0back": (x, u),
        "proju": (x, e),
        "projx": (e,),
        "egrad2rgrad": (x, e),
    }.items():
        got, wanted = (getattr(m, name)(*(t.clone() for t in tensors)) for m in (sheet, peer))
        # Its arcosh of an inner product near 1 leaves about 1e-8.
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_values_equal_those_of_geomstats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # it imports the name that numpy 2.4 dropped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hyperboloid = pytest.importorskip("geomstats.geometry.hyperboloid")
    metric, sheet = hyperboloid.Hyperboloid(dim=3).metric, Lorentz()
    x, y = _points(sheet, 6, 4), _points(sheet, 6, 4, seed=1)
    u = 0.5 * sheet.random_tangent(x, generator=_draw(2))
    a, b, v = (t.numpy() for t in (x, y, u))
    for got, wanted in (
        (sheet.dist(x, y), metric.dist(a, b)),
        (sheet.expmap(x, u), metric.exp(v, a)),
        (sheet.logmap(x, y), metric.log(b, a)),
        (sheet.inner(x, u), metric.inner_product(v, v, a)),
    ):
        torch.testing.assert_close(got, torch.as_tensor(wanted), rtol=1e-8, atol=1e-8)


def test_k_is_checked_as_c_is_and_excludes_it() -> None:
    with pytest.raises(ValueError, match="Lorentz: 'k' must be positive and finite, got -1"):
        Lorentz(k=-1)
    with pytest.raises(TypeError, match="Lorentz: 'k' must be a number or a tensor"):
        Lorentz(k="1")
    with pytest.raises(ValueError, match="give 'c' or 'k' = 1/c, not both"):
        Lorentz(2.0, k=1.0)


def test_membership_is_relative_to_the_size_of_the_point() -> None:
    sheet = Lorentz()
    far = sheet.projx(torch.tensor([0.0, 1e5, 2e5]))
    assert sheet.check_point_on_manifold(far)
    assert sheet.check_vector_on_tangent(far, sheet.proju(far, torch.ones(3)))
    with pytest.raises(MembershipError, match="'x' is off the hyperboloid"):
        sheet.assert_check_point_on_manifold(torch.tensor([-1.0, 0.0, 0.0]))
    with pytest.raises(MembershipError, match="'u' is not tangent"):
        sheet.assert_check_vector_on_tangent(far, torch.ones(3))
    with pytest.raises(DimensionError, match="wanted a last dimension of at least 2"):
        sheet.dist(torch.zeros(3, 1), torch.zeros(3, 1))


# -- derivatives, midpoints, laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.3, 7.0])
def test_riemannian_hessian_is_the_second_derivative_along_geodesics(c: float) -> None:
    sheet = Lorentz(c)
    x, a = _points(sheet, 4), torch.randn(4, dtype=F64, generator=_draw(1))
    u = 0.5 * sheet.random_tangent(x, generator=_draw(2))

    def function(x: Tensor) -> Tensor:
        return torch.sin(x @ a) + (x * x * a).sum()

    egrad = torch.func.grad(function)(x)
    ehess = torch.func.hessian(function)(x) @ u
    quadratic = sheet.inner(x, sheet.ehess2rhess(x, egrad, ehess, u), u)
    along = torch.func.grad(torch.func.grad(lambda t: function(sheet.expmap(x, t * u))))(torch.zeros((), dtype=F64))
    torch.testing.assert_close(quadratic, along, rtol=1e-9, atol=1e-10)


@CURVATURES
def test_midpoint_is_the_normalised_mean_and_the_geodesic_one_of_two_points(c: float) -> None:
    sheet = Lorentz(c)
    xs, w = _points(sheet, 9, 4), torch.rand(9, dtype=F64, generator=_draw(1))
    mean = (w.unsqueeze(1) * xs).sum(0)
    torch.testing.assert_close(sheet.midpoint(xs, w), mean / (c * -_minkowski(mean, mean)).sqrt())
    torch.testing.assert_close(sheet.midpoint(xs[:2]), sheet.geodesic(0.5, xs[0], xs[1]))


@CURVATURES
def test_random_points_are_those_of_the_ball_carried_over(c: float) -> None:
    sheet, ball = Lorentz(c), PoincareBall(c)
    x, y = sheet.random(50, 5, dtype=F64, generator=_draw()), ball.random(50, 4, dtype=F64, generator=_draw())
    torch.testing.assert_close(sheet.to_poincare(x), y)
    u = sheet.random_tangent(x[0].expand(20000, 5), generator=_draw(1))
    # Standard normal in an orthonormal basis: squared lengths average to the dimension, within 0.03 * sqrt(2 * 4).
    assert float(sheet.inner(x[0], u).mean()) == pytest.approx(4.0, abs=0.1)
    assert sheet.dimension(5) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_results_are_inside_the_ball(dtype: torch.dtype) -> None:
    sheet = Lorentz()
    x = sheet.projx(100.0 * torch.randn(50, 4, generator=_draw())).to(dtype)
    y = sheet.to_poincare(x)
    assert y.dtype == dtype
    assert float(y.double().norm(dim=-1).amax()) < 1.0

"""Geodesics and parallel transport: exp and log invert each other, geodesics are what the metric says they are."""

import numpy as np
import pytest
import torch
from cases import Case, assert_close, each_case, exact_transport
from torch import Tensor

from holonomy.manifolds import Manifold

EPS = torch.finfo(torch.float64).eps


def velocity(manifold: Manifold, x: Tensor, u: Tensor, t: float) -> Tensor:
    """Velocity at time t of the geodesic from x along u, by central differences of expmap alone.

    The five-point stencil with step 2e-3 has truncation error h^4/30 times the fifth derivative, and rounding eps/h:
    both near 1e-12 for the lengths of the suite.
    """
    h = 2e-3
    points = [manifold.geodesic_unit(t + k * h, x, u) for k in (-2, -1, 1, 2)]
    derivative = (points[0] - 8.0 * points[1] + 8.0 * points[2] - points[3]) / (12.0 * h)
    return manifold.proju(manifold.geodesic_unit(t, x, u), derivative)


@each_case("expmap", "logmap")
@pytest.mark.parametrize("length", [1e-8, 1e-3, 0.3, 0.98])
def test_log_inverts_exp(case: Case, length: float) -> None:
    manifold, inputs = case.manifold(), case.inputs(20, length=length)
    x, u = inputs["x"], inputs["u"]
    y = manifold.expmap(x, u)
    # The rounding of y's coordinates is an absolute error in the tangent vector: no relative one can be asked.
    assert_close(manifold.logmap(x, y), u, case.float64_error * EPS, "log(x, exp(x, u))")


@each_case("expmap", "logmap")
def test_exp_inverts_log(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(20)
    x, y = inputs["x"], inputs["y"]
    back = manifold.expmap(x, manifold.logmap(x, y))
    assert_close(case.embed(back), case.embed(y), case.float64_error * EPS, "exp(x, log(x, y))")


@each_case("expmap")
def test_exp_of_zero_is_the_point(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(20)
    x = inputs["x"]
    zero = torch.zeros_like(x)
    assert_close(manifold.expmap(x, zero), x, 16 * EPS)
    assert_close(manifold.retr(x, zero), x, 16 * EPS)


@each_case("expmap", "logmap")
def test_a_geodesic_joins_its_ends(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(20)
    x, y = inputs["x"], inputs["y"]
    tolerance = case.float64_error * EPS
    assert_close(case.embed(manifold.geodesic(0.0, x, y)), case.embed(x), tolerance, "at 0")
    assert_close(case.embed(manifold.geodesic(1.0, x, y)), case.embed(y), tolerance, "at 1")
    middle, mirrored = manifold.geodesic(0.25, x, y), manifold.geodesic(0.75, y, x)
    assert_close(case.embed(middle), case.embed(mirrored), 4 * tolerance, "a quarter of the way, from both ends")


@each_case("expmap")
def test_the_time_of_a_geodesic_broadcasts(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    x, u = inputs["x"], inputs["u"]
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    together = manifold.geodesic_unit(times.reshape(3, *(1,) * len(case.shape)), x, u)
    apart = torch.stack([manifold.geodesic_unit(float(t), x, u) for t in times])
    assert_close(together, apart, 16 * EPS)


@each_case("expmap")
def test_geodesics_have_constant_speed(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(10)
    x, u = inputs["x"], inputs["u"]
    wanted = manifold.inner(x, u)
    for t in (0.0, 0.5, 1.0):
        v = velocity(manifold, x, u, t)
        # 1e-8: the stencil's error at the longest vectors of the suite (see `velocity`).
        assert_close(manifold.inner(manifold.geodesic_unit(t, x, u), v), wanted, 1e-8, f"speed at {t}")
    assert_close(velocity(manifold, x, u, 0.0), u, 1e-8, "velocity at 0")


@each_case("expmap")
def test_geodesics_are_critical_points_of_the_energy(case: Case) -> None:
    """The first variation of the energy under any variation with fixed ends is minus the covariant acceleration.

    Uses expmap, projx, proju and inner only: right for any metric, also where it is not the ambient one.
    """
    manifold, inputs = case.manifold(), case.inputs()
    x, u, w = inputs["x"], inputs["u"], inputs["v"]
    h = 2e-3
    # Gauss-Legendre on [0, 1]: exact to rounding for the analytic integrand at 16 nodes.
    nodes, weights = (torch.as_tensor(t, dtype=torch.float64) for t in legendre(16))
    ones = (1,) * len(case.shape)

    def path(t: Tensor, s: Tensor) -> Tensor:
        t = t.reshape(-1, *ones)
        return manifold.projx(manifold.geodesic_unit(t, x, u) + s * torch.sin(torch.pi * t) * w)

    def energy(s: Tensor) -> Tensor:
        points = path(nodes, s)
        around = [path(nodes + k * h, s) for k in (-2, -1, 1, 2)]
        speed = manifold.proju(points, (around[0] - 8.0 * around[1] + 8.0 * around[2] - around[3]) / (12.0 * h))
        return (weights * manifold.inner(points, speed)).sum()

    variation = torch.autograd.functional.jacobian(energy, torch.zeros((), dtype=torch.float64))
    bend = 1e-6 * float(manifold.norm(x, u) * w.abs().amax())
    assert abs(float(variation)) <= bend, "the geodesic's acceleration has a tangential part"


def legendre(order: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return list(0.5 * (nodes + 1.0)), list(0.5 * weights)


@each_case("transp_follow_expmap", where=exact_transport)
def test_transport_along_a_geodesic_keeps_its_velocity(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(10)
    x, u = inputs["x"], inputs["u"]
    assert_close(manifold.transp_follow_expmap(x, u, u), velocity(manifold, x, u, 1.0), 1e-8)


@each_case("transp_follow_expmap", where=exact_transport)
def test_transport_along_a_geodesic_is_an_isometry(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(10)
    x, u, v, w = (inputs[name] for name in "xuvw")
    y, moved_v = manifold.expmap_transp(x, u, v)
    moved_w = manifold.transp_follow_expmap(x, u, w)
    assert_close(manifold.inner(y, moved_v, moved_w), manifold.inner(x, v, w), case.float64_error * EPS)


@each_case("transp", "logmap", "expmap", where=exact_transport)
def test_transport_agrees_with_the_pole_ladder(case: Case) -> None:
    """One rung of the pole ladder is exact on symmetric spaces, and knows nothing but exp and log.

    Pennec, "Parallel transport with pole ladder: a third order scheme in affine connection spaces which is exact in
    affine symmetric spaces", arXiv:1805.11436.
    """
    manifold, inputs = case.manifold(), case.inputs(10, length=0.15)
    x, y, v = inputs["x"], inputs["y"], inputs["v"]
    middle = manifold.geodesic(0.5, x, y)
    rung = manifold.expmap(middle, -manifold.logmap(middle, manifold.expmap(x, v)))
    # Four nested maps, each with the error of a round trip.
    assert_close(manifold.transp(x, y, v), -manifold.logmap(y, rung), 16 * case.float64_error * EPS)


@each_case("transp", where=exact_transport)
def test_transport_there_and_back_is_the_identity(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(10)
    x, y, v = inputs["x"], inputs["y"], inputs["v"]
    assert_close(manifold.transp(y, x, manifold.transp(x, y, v)), v, case.float64_error * EPS)
    assert_close(manifold.transp(x, x, v), v, 64 * EPS, "transport to the same point")


@each_case("transp", "transp_follow_expmap", "logmap", where=exact_transport)
def test_the_two_forms_of_transport_agree(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(10)
    x, u, v = inputs["x"], inputs["u"], inputs["v"]
    y, along = manifold.expmap_transp(x, u, v)
    assert_close(manifold.transp(x, y, v), along, case.float64_error * EPS)
    assert torch.equal(along, manifold.transp_follow_expmap(x, u, v))
    assert_close(y, manifold.expmap(x, u), 16 * EPS)


@each_case("retr_transp")
def test_the_step_of_an_optimizer_is_retraction_and_transport(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(10)
    x, u, v = inputs["x"], inputs["u"], inputs["v"]
    y, moved = manifold.retr_transp(x, u, v)
    assert_close(y, manifold.retr(x, u), 16 * EPS)
    assert torch.equal(moved, manifold.transp_follow_retr(x, u, v))
    manifold.assert_check_vector_on_tangent(y, moved)


@each_case("transp_follow_retr")
def test_transport_is_linear_and_starts_at_the_identity(case: Case) -> None:
    """What a vector transport has to be, also where it is not parallel (Absil et al., definition 8.1.1)."""
    manifold, inputs = case.manifold(), case.inputs(10)
    x, u, v, w = (inputs[name] for name in "xuvw")

    def along(v: Tensor) -> Tensor:
        return manifold.transp_follow_retr(x, u, v)

    assert_close(along(2.0 * v - 3.0 * w), 2.0 * along(v) - 3.0 * along(w), case.float64_error * EPS)
    assert_close(manifold.transp_follow_retr(x, torch.zeros_like(u), v), v, 64 * EPS)

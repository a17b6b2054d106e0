"""Distances: a metric, equal to the length of the logarithm, smooth where points coincide."""

import pytest
import torch
from cases import Case, assert_close, each_case
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


@each_case("dist")
def test_known_distances(case: Case) -> None:
    manifold = case.manifold()
    for x, y, wanted in case.distances:
        a, b = (torch.as_tensor(t, dtype=torch.float64) for t in (x, y))
        measured = float(manifold.dist(a, b))
        # A few roundings of the coordinates, which at distance d weigh eps/d.
        assert measured == pytest.approx(wanted, rel=32 * EPS, abs=4 * EPS), f"between {x} and {y}"


@each_case("dist")
def test_dist_is_symmetric_positive_and_obeys_the_triangle(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(20)
    x, y, z = inputs["x"], inputs["y"], inputs["z"]
    tolerance = case.float64_error * EPS
    assert_close(manifold.dist(x, y), manifold.dist(y, x), tolerance, "dist(x, y) against dist(y, x)")
    assert (manifold.dist(x, y) > 0).all()
    assert (manifold.dist(x, z) <= manifold.dist(x, y) + manifold.dist(y, z) + tolerance).all()


@each_case("dist", "logmap")
def test_dist_is_the_length_of_the_logarithm(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(20)
    x, y = inputs["x"], inputs["y"]
    assert_close(manifold.dist(x, y), manifold.norm(x, manifold.logmap(x, y)), case.float64_error * EPS)


@each_case("dist", "expmap")
@pytest.mark.parametrize("length", [1e-7, 1e-4, 1e-2, 0.3, 0.9])
def test_dist_along_a_geodesic_is_the_time_travelled(case: Case, length: float) -> None:
    manifold, inputs = case.manifold(), case.inputs(20, length=length)
    x, u = inputs["x"], inputs["u"]
    wanted = manifold.norm(x, u)
    measured = manifold.dist(x, manifold.expmap(x, u))
    # Coordinates of exp(x, u) are rounded to eps: that much is lost of a small distance, by no fault of dist.
    allowed = case.float64_error * EPS * (1.0 + float(x.abs().amax()) / length)
    assert float(((measured - wanted) / wanted).abs().amax()) <= allowed


@each_case("dist", "dist2")
def test_dist2_is_the_square(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(20)
    x, y = inputs["x"], inputs["y"]
    assert_close(manifold.dist2(x, y), manifold.dist(x, y).square(), case.float64_error * EPS)


@each_case("dist", "dist2")
def test_coincident_points_are_at_distance_zero(case: Case) -> None:
    manifold = case.manifold()
    for dtype in (torch.float64, torch.float32):
        x = case.inputs(20, dtype=dtype)["x"]
        # A point is at most a few roundings away from the manifold, and no further than that from itself.
        allowed = 16 * torch.finfo(dtype).eps * max(1.0, float(x.abs().amax()))
        assert float(manifold.dist(x, x).abs().amax()) <= allowed
        assert float(manifold.dist2(x, x).abs().amax()) <= allowed**2


@each_case("dist2", "expmap")
def test_dist2_has_the_metric_as_its_hessian_at_coincident_points(case: Case) -> None:
    """d^2(exp(x, a), x) = |a|^2 + O(|a|^4): gradient 0 and Hessian 2 <., .> at a = 0, which a clamp would destroy."""
    manifold, inputs = case.manifold(), case.inputs()
    x, u, v = inputs["x"], inputs["u"], inputs["v"]

    def square(s: Tensor) -> Tensor:
        return manifold.dist2(manifold.expmap(x, s[0] * u + s[1] * v), x)

    start = torch.zeros(2, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(square, start)
    hessian = torch.autograd.functional.hessian(square, start)
    gram = torch.stack([torch.stack([manifold.inner(x, a, b) for a in (u, v)]) for b in (u, v)])
    assert_close(gradient, torch.zeros_like(gradient), case.float64_error * EPS, "gradient")
    # Second derivatives of the smooth factors lose a few digits more than values.
    assert_close(hessian, 2.0 * gram, 1e-9, "Hessian")


@each_case("dist2", "logmap")
def test_the_gradient_of_half_dist2_is_minus_the_logarithm(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(5)
    x, y = inputs["x"].requires_grad_(), inputs["y"]
    (egrad,) = torch.autograd.grad(0.5 * manifold.dist2(x, y).sum(), x)
    wanted = -manifold.logmap(x, y)
    # The derivative of an ill-conditioned formula shows first here: 1e-9 is far from both rounding and a wrong sign.
    assert_close(manifold.egrad2rgrad(x, egrad), wanted.detach(), 1e-9)

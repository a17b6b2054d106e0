"""Sectional curvature against the spreading of geodesics, which is what curvature means."""

import torch
from cases import Case, assert_close, each_case
from torch import Tensor


def spread(case: Case, x: Tensor, u: Tensor, v: Tensor, t: float) -> Tensor:
    """|J(t)|^2 of the Jacobi field J(t) = d/ds exp(x, t (u + s v)) at s = 0, by a five-point stencil."""
    manifold, h = case.manifold(), 1e-2
    points = [manifold.expmap(x, t * (u + k * h * v)) for k in (-2, -1, 1, 2)]
    field = (points[0] - 8.0 * points[1] + 8.0 * points[2] - points[3]) / (12.0 * h)
    y = manifold.expmap(x, t * u)
    return manifold.inner(y, manifold.proju(y, field))


@each_case("sectional_curvature", "expmap", where=lambda case: case.dimension > 1)
def test_sectional_curvature_is_how_geodesics_spread(case: Case) -> None:
    """|J(t)|^2 = t^2 (1 - K t^2 / 3 + O(t^3)) for orthonormal u, v; uses expmap, proju and inner only."""
    manifold, inputs = case.manifold(), case.inputs(6)
    x, u, v = inputs["x"], inputs["u"], inputs["v"]
    a = u / manifold.norm(x, u, keepdim=True)
    b = v - manifold.inner(x, a, v, keepdim=True) * a
    b = b / manifold.norm(x, b, keepdim=True)

    def estimate(t: float) -> Tensor:
        # The mean over +t and -t removes the odd terms.
        square = 0.5 * (spread(case, x, a, b, t) + spread(case, x, a, b, -t))
        return 3.0 / t**2 * (1.0 - square / t**2)

    # Richardson: removes the t^2 term. What is left is t^4 times curvature cubed, and rounding of 1e-13/t^4.
    scale = max(1.0, max(abs(k) for k in case.curvature or (1.0,))) ** 0.5
    t = 0.1 / scale
    numerical = (4.0 * estimate(0.5 * t) - estimate(t)) / 3.0
    closed = manifold.sectional_curvature(x, a, b)
    assert_close(closed, numerical, 1e-4, "sectional curvature")
    assert_close(manifold.sectional_curvature(x, u, v), closed, 1e-9, "of the same plane, in another basis")


@each_case("sectional_curvature")
def test_sectional_curvature_stays_within_its_bounds(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(50)
    assert case.curvature is not None
    low, high = case.curvature
    k = manifold.sectional_curvature(inputs["x"], inputs["u"], inputs["v"])
    assert k.shape == (50,)
    # 1e-9: rounding, against bounds that are sharp.
    assert float(k.min()) >= low - 1e-9 * max(1.0, abs(low))
    assert float(k.max()) <= high + 1e-9 * max(1.0, abs(high))


@each_case("sectional_curvature")
def test_vectors_that_span_no_plane_give_finite_curvature(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(3)
    x, u = inputs["x"], inputs["u"]
    for v in (u, torch.zeros_like(u)):
        assert torch.isfinite(manifold.sectional_curvature(x, u, v)).all()

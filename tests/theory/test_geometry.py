"""The manifolds' geometry against sympy's: what the checks find, and that they can fail."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import PoincareBall, Sphere, Stiefel
from holonomy.theory import charts, geometry
from holonomy.theory.geometry import Space

RNG = 3
QUICK = [k for k, space in enumerate(geometry.spaces()) if not space.name.startswith("Grassmann")]


def drawn(space: Space) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(RNG)
    return [space.draw(rng) for _ in range(3)]


@pytest.mark.parametrize("number", QUICK)
def test_points_and_vectors_fit_the_chart(number: int) -> None:
    space = geometry.spaces()[number]
    for q, u, _ in drawn(space):
        x, w = space.point(q), space.lift(q, u)
        assert space.manifold.check_point_on_manifold(x)
        assert space.manifold.check_vector_on_tangent(x, w)
        np.testing.assert_allclose(space.coordinates(x).numpy(), q, atol=1e-14)
        moved = torch.func.jvp(space.coordinates, (x,), (w,))[1]
        np.testing.assert_allclose(moved.numpy(), u, atol=1e-13)


@pytest.mark.parametrize("number", QUICK)
def test_checks_hold(number: int) -> None:
    space = geometry.spaces()[number]
    draws = drawn(space)
    found = [geometry.metric(space, draws), geometry.geodesics(space, draws), geometry.curvature(space, draws)]
    if space.manifold.exact_transport:
        found.append(geometry.transport(space, draws))
    for check in found:
        assert check.holds, check
        assert check.measured > 0.0


@pytest.mark.slow
def test_every_check_holds() -> None:
    found = geometry.checks(5)
    assert len(found) == 5 + 7 * 3 + 5 + 4
    for check in found:
        assert check.holds, check


@pytest.mark.parametrize("check", [geometry.metric, geometry.geodesics, geometry.curvature])
@pytest.mark.parametrize("kind", ["another curvature", "another metric"])
def test_another_geometry_is_refused(kind: str, check: object) -> None:
    """Geodesics of the ball do not know the curvature's unit of length alone: the chart's c bends them."""
    if kind == "another curvature":
        space = dataclasses.replace(geometry.spaces()[1], manifold=PoincareBall(0.8))
    else:
        space = dataclasses.replace(geometry.spaces()[4], manifold=Stiefel("canonical"))
    found = check(space, drawn(space))  # type: ignore[operator]
    assert not found.holds
    assert found.measured > 1e-4


class Projected(Sphere):
    """A sphere whose transport only projects."""

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._proju(y, v)


def test_a_transport_that_only_projects_is_refused() -> None:
    space = dataclasses.replace(geometry.spaces()[0], manifold=Projected())
    assert geometry.transport(space, drawn(space)).measured > 1e-3
    assert not geometry.holonomy("projected", Projected(), np.random.default_rng(0)).holds


def test_curvatures_of_surfaces_are_told_from_others() -> None:
    found = geometry.constant_curvatures()
    assert [check.predicted for check in found] == pytest.approx([1.0, -0.7, -0.7, 0.25, 1.0])
    for check in found:
        assert check.holds
        assert not dataclasses.replace(check, predicted=check.predicted + 1e-9).holds


def test_the_octant_turns_by_a_right_angle() -> None:
    over, turned = geometry.excess(Sphere(), torch.eye(3, dtype=torch.float64))
    assert over == pytest.approx(np.pi / 2, abs=1e-14)
    assert turned == pytest.approx(np.pi / 2, abs=1e-14)


def test_one_chart_a_manifold() -> None:
    assert len({space.name for space in geometry.spaces()}) == len(geometry.spaces())
    assert all(isinstance(space.chart, charts.Chart) for space in geometry.spaces())

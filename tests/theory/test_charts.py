"""Metric tensors, connections and curvatures in charts."""

import numpy as np
import pytest
import sympy

from holonomy.theory import charts

CHARTS = {
    "sphere": charts.sphere_chart(2),
    "ball": charts.poincare_chart(2, sympy.Rational(7, 10)),
    "hyperboloid": charts.lorentz_chart(2, 2),
    "simplex": charts.simplex_chart(2),
    "Grassmann": charts.grassmann_chart(3, 1),
    "Stiefel": charts.stiefel_chart(2, "canonical"),
}


def point(name: str) -> np.ndarray:
    return np.array([0.3, 0.4, 0.2][: len(CHARTS[name].coordinates)])


@pytest.mark.parametrize("name", CHARTS)
def test_the_metric_is_that_of_moved_points(name: str) -> None:
    """Lengths of short steps in the ambient form, by central differences."""
    chart, q, h = CHARTS[name], point(name), 1e-5
    form = np.array(chart.form.subs(dict(zip(chart.coordinates, q, strict=True))), dtype=float)
    for i, j in np.ndindex(len(q), len(q)):
        a, b = (h * np.eye(len(q))[k] for k in (i, j))
        step, other = ((chart.point(q + s) - chart.point(q - s)) / (2 * h) for s in (a, b))
        # Differences of step 1e-5 err by some 1e-10.
        assert chart.metric_at(q)[i, j] == pytest.approx(float((step.T @ form @ other).item()), abs=1e-9)


@pytest.mark.parametrize("name", [n for n in CHARTS if n != "Stiefel"])
def test_symbols_are_what_floats_are(name: str) -> None:
    chart, q = CHARTS[name], point(name)
    for symbolic, numeric in (
        (charts.christoffel_symbols, chart.christoffel_at),
        (charts.riemann_tensor, chart.riemann_at),
    ):
        exact = symbolic(chart.metric, chart.coordinates).subs(dict(zip(chart.coordinates, q, strict=True)))
        # Some hundred operations on numbers of order 10.
        np.testing.assert_allclose(numeric(q), np.array(exact.tolist(), dtype=float), atol=1e-12)


@pytest.mark.parametrize("name", CHARTS)
def test_symmetries_of_the_curvature_tensor(name: str) -> None:
    r = CHARTS[name].riemann_at(point(name))
    for other in (-r.transpose(1, 0, 2, 3), -r.transpose(0, 1, 3, 2), r.transpose(2, 3, 0, 1)):
        np.testing.assert_allclose(other, r, atol=1e-12)
    bianchi = r + r.transpose(0, 2, 3, 1) + r.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(bianchi, 0.0, atol=1e-12)


def test_a_torus_is_curved_as_known() -> None:
    """Curvature cos t/(a (b + a cos t)) of a torus with radii a and b: none of the library's manifolds."""
    t, p = sympy.symbols("t p", real=True)
    a, b = 1, 3
    rim = b + a * sympy.cos(t)
    torus = charts.chart((t, p), [rim * sympy.cos(p), rim * sympy.sin(p), a * sympy.sin(t)])
    q = np.array([0.7, 0.2])
    found = torus.sectional_curvature(q, *np.eye(2))
    assert found == pytest.approx(np.cos(0.7) / (a * (b + a * np.cos(0.7))), abs=1e-13)


def test_the_plane_of_two_vectors_has_one_curvature() -> None:
    chart, q = charts.simplex_chart(3), np.array([0.2, 0.3, 0.1])
    u, v = np.random.default_rng(0).standard_normal((2, 3))
    assert chart.sectional_curvature(q, u, v) == pytest.approx(
        chart.sectional_curvature(q, u + v, v - 0.3 * u), abs=1e-13
    )

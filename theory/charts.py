"""Riemannian geometry in coordinates, derived by sympy: metric tensors, Christoffel symbols, curvature.

Everything is derived from an embedding and the form of its ambient space; no formula of a particular manifold is typed
here but these two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import sympy

__all__ = [
    "Chart",
    "chart",
    "christoffel_symbols",
    "grassmann_chart",
    "lorentz_chart",
    "metric_tensor",
    "poincare_chart",
    "riemann_tensor",
    "simplex_chart",
    "sphere_chart",
    "stiefel_chart",
]

Array = np.ndarray


def metric_tensor(embedding: "sympy.Matrix", coordinates: Sequence[Any], form: "sympy.Matrix") -> "sympy.Matrix":
    """Metric that an embedding pulls back: J^T G J.

    Parameters
    ----------
    embedding : sympy.Matrix, shape (m, 1)
        Ambient coordinates as functions of those of the chart.
    coordinates : sequence of sympy.Symbol
        Coordinates of the chart.
    form : sympy.Matrix, shape (m, m)
        The ambient space's bilinear form, which may depend on the point.
    """
    import sympy

    jacobian = embedding.jacobian(sympy.Matrix(coordinates))
    return (jacobian.T * form * jacobian).applyfunc(sympy.cancel)


def christoffel_symbols(metric: "sympy.Matrix", coordinates: Sequence[Any]) -> "sympy.Array":
    """Christoffel symbols of the second kind, [k, i, j]: (1/2) g^kl (d_i g_jl + d_j g_il - d_l g_ij)."""
    import sympy

    n = len(coordinates)
    slopes = sympy.derive_by_array(sympy.Array(metric), coordinates)  # [l, i, j]
    inverse = metric.inv().applyfunc(sympy.cancel)
    lowered = [
        [[(slopes[i, j, k] + slopes[j, i, k] - slopes[k, i, j]) / 2 for j in range(n)] for i in range(n)]
        for k in range(n)
    ]
    return sympy.Array(
        [
            [
                [sympy.cancel(sum(inverse[k, m] * lowered[m][i][j] for m in range(n))) for j in range(n)]
                for i in range(n)
            ]
            for k in range(n)
        ]
    )


def riemann_tensor(metric: "sympy.Matrix", coordinates: Sequence[Any]) -> "sympy.Array":
    """Curvature tensor with all indices lowered, [l, k, i, j] = <R(e_i, e_j) e_k, e_l>."""
    import sympy

    n = len(coordinates)
    gamma = christoffel_symbols(metric, coordinates)
    slopes = sympy.derive_by_array(gamma, coordinates)  # [i, l, j, k]

    def raised(m: int, k: int, i: int, j: int) -> Any:
        products = sum(gamma[m, i, s] * gamma[s, j, k] - gamma[m, j, s] * gamma[s, i, k] for s in range(n))
        return slopes[i, m, j, k] - slopes[j, m, i, k] + products

    return sympy.Array(
        [
            [
                [
                    [sympy.cancel(sum(metric[m, s] * raised(s, k, i, j) for s in range(n))) for j in range(n)]
                    for i in range(n)
                ]
                for k in range(n)
            ]
            for m in range(n)
        ]
    )


@dataclass(frozen=True)
class Chart:
    """Coordinates on a part of a manifold, and what sympy derives in them; functions of floats in float64.

    Parameters
    ----------
    coordinates : tuple of sympy.Symbol
        Coordinates of the chart.
    embedding : sympy.Matrix, shape (m, 1)
        The point, flattened, as the library holds it.
    form : sympy.Matrix, shape (m, m)
        The bilinear form of the ambient space, which gives the metric of the manifold.
    """

    coordinates: tuple[Any, ...]
    embedding: Any
    form: Any

    @cached_property
    def metric(self) -> Any:
        """The metric tensor, symbolic."""
        return metric_tensor(self.embedding, self.coordinates, self.form)

    def _numeric(self, expression: Any) -> Callable[[Array], Array]:
        import sympy

        function = sympy.lambdify([self.coordinates], expression.tolist(), modules="numpy", cse=True)
        return lambda q: np.array(function(tuple(map(float, q))), dtype=float)

    @cached_property
    def point(self) -> Callable[[Array], Array]:
        """Ambient coordinates (m, 1) of a point."""
        return self._numeric(self.embedding)

    @cached_property
    def frame(self) -> Callable[[Array], Array]:
        """Tangent vectors of the coordinate lines, (m, n)."""
        import sympy

        return self._numeric(self.embedding.jacobian(sympy.Matrix(self.coordinates)))

    @cached_property
    def metric_at(self) -> Callable[[Array], Array]:
        """Metric tensor (n, n)."""
        return self._numeric(self.metric)

    @cached_property
    def _slopes_at(self) -> Callable[[Array], Array]:
        import sympy

        return self._numeric(sympy.derive_by_array(sympy.Array(self.metric), self.coordinates))

    @cached_property
    def _bends_at(self) -> Callable[[Array], Array]:
        import sympy

        slopes = sympy.derive_by_array(sympy.Array(self.metric), self.coordinates)
        return self._numeric(sympy.derive_by_array(slopes, self.coordinates))

    def christoffel_at(self, q: Array) -> Array:
        """Christoffel symbols [k, i, j] from sympy's derivatives of the metric."""
        slopes = self._slopes_at(q)  # [l, i, j]: derivative by l
        lowered = 0.5 * (slopes.transpose(2, 0, 1) + slopes.transpose(2, 1, 0) - slopes)
        return np.linalg.solve(self.metric_at(q), lowered.reshape(len(q), -1)).reshape(lowered.shape)

    def riemann_at(self, q: Array) -> Array:
        """Curvature tensor with lowered indices [a, b, c, d] = <R(e_c, e_d) e_b, e_a>, from second derivatives."""
        bends, gamma = self._bends_at(q), self.christoffel_at(q)  # bends [a, b, i, j]: derivatives of g_ij by a and b
        first = np.einsum("bcad->abcd", bends) + np.einsum("adbc->abcd", bends)
        second = np.einsum("acbd->abcd", bends) + np.einsum("bdac->abcd", bends)
        products = np.einsum("ef,ebc,fad->abcd", self.metric_at(q), gamma, gamma)
        return 0.5 * (first - second) + products - products.transpose(0, 1, 3, 2)

    def sectional_curvature(self, q: Array, u: Array, v: Array) -> float:
        """Sectional curvature at q of the plane of two vectors, given by their components."""
        g = self.metric_at(q)
        area = (u @ g @ u) * (v @ g @ v) - (u @ g @ v) ** 2
        return float(np.einsum("abcd,a,b,c,d", self.riemann_at(q), u, v, u, v) / area)


def chart(coordinates: Sequence[Any], embedding: Sequence[Any], form: Any = None) -> Chart:
    """Chart of an embedding; of Euclidean space where no form is given."""
    import sympy

    form = sympy.eye(len(embedding)) if form is None else form
    return Chart(tuple(coordinates), sympy.Matrix(list(embedding)), form)


def _symbols(n: int) -> tuple[Any, ...]:
    import sympy

    return sympy.symbols(f"q1:{n + 1}", real=True)


def sphere_chart(n: int) -> Chart:
    """Stereographic coordinates on the unit sphere of R^(n+1)."""
    q = _symbols(n)
    s = sum(t**2 for t in q)
    return chart(q, [*(2 * t / (1 + s) for t in q), (s - 1) / (s + 1)])


def poincare_chart(n: int, c: Any) -> Chart:
    """The ball of curvature -c in its own coordinates: stereographic projection of the hyperboloid."""
    q = _symbols(n)
    s = sum(t**2 for t in q)
    factor = 2 / (1 - c * s)
    import sympy

    return chart(q, q, sympy.eye(n) * factor**2)


def lorentz_chart(n: int, c: Any) -> Chart:
    """Space coordinates on the hyperboloid of curvature -c, time first."""
    import sympy

    q = _symbols(n)
    time = sympy.sqrt(1 / sympy.sympify(c) + sum(t**2 for t in q))
    return chart(q, [time, *q], sympy.diag(-1, *[1] * n))


def simplex_chart(n: int) -> Chart:
    """The first n of n + 1 probabilities, with the Fisher-Rao metric."""
    import sympy

    q = _symbols(n)
    point = [*q, 1 - sum(q)]
    return chart(q, point, sympy.diag(*(1 / p for p in point)))


def grassmann_chart(n: int, p: int) -> Chart:
    """Projections to the subspaces that are graphs over the first p axes; half the Frobenius form gives the metric."""
    import sympy

    q = _symbols(p * (n - p))
    basis = sympy.Matrix.vstack(sympy.eye(p), sympy.Matrix(n - p, p, list(q)))
    projection = (basis * (basis.T * basis).inv() * basis.T).applyfunc(sympy.cancel)
    return chart(q, list(projection), sympy.eye(n * n) / 2)


def stiefel_chart(p: int, metric: str) -> Chart:
    """The first p columns of a rotation of R^3, by Cayley's map; p = 1 or 2, the metric as `Stiefel` names it."""
    import sympy

    q = a, b, c = _symbols(3)
    skew = sympy.Matrix([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    rotation = ((sympy.eye(3) + skew) * (sympy.eye(3) - skew).inv()).applyfunc(sympy.cancel)
    x = rotation[:, :p]
    middle = sympy.eye(3) - (x * x.T / 2 if metric == "canonical" else sympy.zeros(3, 3))
    return chart(q, list(x), sympy.kronecker_product(middle, sympy.eye(p)))

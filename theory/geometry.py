"""The library's manifolds against the geometry that sympy derives from their metrics.

In each chart: the metric is the one of ``inner``; curves of ``expmap`` obey the geodesic equation and vectors of
``transp`` that of parallel transport, both with sympy's Christoffel symbols; ``sectional_curvature`` is that of the
derived curvature tensor. Without a chart: transport around a triangle turns a vector by the triangle's excess.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds import Grassmann, Lorentz, Manifold, PoincareBall, Simplex, Sphere, Stiefel
from holonomy.theory import charts
from holonomy.theory.charts import Chart
from holonomy.theory.check import Check

__all__ = ["Space", "checks", "constant_curvatures", "excess", "spaces"]

#: Rounding in what is compared is below some thousand units: two derivatives of maps whose condition is up to 100.
_BOUND = 1e-11
_DRAWS = 6

Array = np.ndarray


@dataclass(frozen=True)
class Space:
    """A manifold with a chart of a part of it.

    Parameters
    ----------
    name : str
        For the report.
    manifold : Manifold
        The library's.
    chart : Chart
        Coordinates, and what sympy derives in them.
    coordinates : callable
        The chart's coordinates of a point, by torch operations.
    point : callable
        The library's point of coordinates.
    lift : callable
        The library's tangent vector of components at coordinates.
    radius : float
        Coordinates are drawn within it.
    """

    name: str
    manifold: Manifold
    chart: Chart
    coordinates: Callable[[Tensor], Tensor]
    point: Callable[[Array], Tensor]
    lift: Callable[[Array, Array], Tensor]
    radius: float = 0.3

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Coordinates of a point, and components of two vectors of length 1."""
        n = len(self.chart.coordinates)
        q = self.radius * rng.uniform(-1.0, 1.0, n)
        if isinstance(self.manifold, Simplex):
            q = rng.dirichlet(np.full(n + 1, 4.0))[:n]
        g = self.chart.metric_at(q)
        u, v = (w / np.sqrt(w @ g @ w) for w in rng.standard_normal((2, n)))
        return q, u, v


def _embedded(
    name: str, manifold: Manifold, chart: Chart, coordinates: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> Space:
    """A manifold whose points are the chart's ambient coordinates."""

    def point(q: Array) -> Tensor:
        return torch.from_numpy(chart.point(q).reshape(shape))

    def lift(q: Array, u: Array) -> Tensor:
        return torch.from_numpy((chart.frame(q) @ u).reshape(shape))

    return Space(name, manifold, chart, coordinates, point, lift)


def _subspaces(n: int, p: int) -> Space:
    """Subspaces, which the library holds as bases and the chart as projections."""
    chart = charts.grassmann_chart(n, p)

    def point(q: Array) -> Tensor:
        basis = np.vstack([np.eye(p), q.reshape(n - p, p)])
        return torch.from_numpy(np.linalg.qr(basis)[0])

    def lift(q: Array, u: Array) -> Tensor:
        return torch.from_numpy((chart.frame(q) @ u).reshape(n, n)) @ point(q)

    def coordinates(x: Tensor) -> Tensor:
        return (x[p:] @ torch.linalg.inv(x[:p])).flatten()

    return Space(f"Grassmann({n}, {p})", Grassmann(), chart, coordinates, point, lift)


def _cayley(x: Tensor) -> Tensor:
    """Coordinates of two orthonormal vectors of R^3 in `charts.stiefel_chart`."""
    rotation = torch.stack([x[:, 0], x[:, 1], torch.linalg.cross(x[:, 0], x[:, 1])], dim=1)
    identity = torch.eye(3, dtype=x.dtype)
    skew = (rotation - identity) @ torch.linalg.inv(rotation + identity)
    return torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]])


@functools.cache
def spaces() -> tuple[Space, ...]:
    """Manifolds of the library in charts of their own."""
    return (
        _embedded("Sphere, dimension 3", Sphere(), charts.sphere_chart(3), lambda x: x[:-1] / (1.0 - x[-1]), (4,)),
        _embedded(
            "PoincareBall(0.7), dimension 3", PoincareBall(0.7), charts.poincare_chart(3, 0.7), lambda x: x, (3,)
        ),
        _embedded("Lorentz(2), dimension 3", Lorentz(2.0), charts.lorentz_chart(3, 2.0), lambda x: x[1:], (4,)),
        _embedded("Simplex, dimension 3", Simplex(), charts.simplex_chart(3), lambda x: x[:-1], (4,)),
        *(
            _embedded(f"Stiefel(3, 2), {metric}", Stiefel(metric), charts.stiefel_chart(2, metric), _cayley, (3, 2))
            for metric in Stiefel.metrics
        ),
        _subspaces(4, 2),
    )


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from ``seed``; some twenty seconds, most of them sympy's."""
    rng = np.random.default_rng(seed)
    found = constant_curvatures()
    for space in spaces():
        draws = [space.draw(rng) for _ in range(_DRAWS)]
        found += [metric(space, draws), geodesics(space, draws)]
        if space.manifold.exact_transport:
            found.append(transport(space, draws))
        found.append(curvature(space, draws))
    return [*found, *(holonomy(name, manifold, rng) for name, manifold in _SURFACES)]


_HOW = f"{_DRAWS} points and pairs of vectors, metric by sympy, float64"


def metric(space: Space, draws: list[tuple[Array, Array, Array]]) -> Check:
    """``inner`` against the metric tensor that the embedding pulls back."""
    errors = []
    for q, u, v in draws:
        inner = float(space.manifold.inner(space.point(q), space.lift(q, u), space.lift(q, v)))
        errors.append(abs(inner - u @ space.chart.metric_at(q) @ v))
    return Check(
        f"{space.name}: inner is the metric J^T G J of the embedding: largest error for unit vectors",
        _BOUND,
        float(max(errors)),
        _HOW,
        "at most",
    )


def _along(function: Callable[[Tensor], Tensor], time: float, order: int) -> list[Array]:
    """Value of a curve at a time, and its derivatives up to an order."""
    t = torch.tensor(time, dtype=torch.float64, requires_grad=True)
    found = [function(t)]
    for _ in range(order):
        slopes = [
            torch.autograd.grad(entry, t, create_graph=True, materialize_grads=True, allow_unused=True)[0]
            if entry.requires_grad
            else torch.zeros_like(t)
            for entry in found[-1]
        ]
        found.append(torch.stack(slopes))
    return [value.detach().numpy() for value in found]


def geodesics(space: Space, draws: list[tuple[Array, Array, Array]], time: float = 0.3) -> Check:
    """Curves of ``expmap`` in the geodesic equation."""
    errors = []
    for q, u, _ in draws:
        x, tangent = space.point(q), space.lift(q, u)

        def curve(t: Tensor, x: Tensor = x, tangent: Tensor = tangent) -> Tensor:
            return space.coordinates(space.manifold.expmap(x, t * tangent))

        at, speed, bend = _along(curve, time, 2)
        turn = np.einsum("kij,i,j->k", space.chart.christoffel_at(at), speed, speed)
        errors.append(np.abs(bend + turn).max() / (np.abs(bend).max() + np.square(speed).max()))
    return Check(
        f"{space.name}: expmap obeys q'' + Gamma(q', q') = 0: largest residual over its terms",
        _BOUND,
        float(max(errors)),
        f"{_HOW}; unit speed, time {time}",
        "at most",
    )


def transport(space: Space, draws: list[tuple[Array, Array, Array]], time: float = 0.3) -> Check:
    """Vectors of ``transp`` along a geodesic in the equation of parallel transport."""
    errors = []
    for q, u, v in draws:
        x, tangent, carried = space.point(q), space.lift(q, u), space.lift(q, v)

        def components(t: Tensor, x: Tensor = x, tangent: Tensor = tangent, carried: Tensor = carried) -> Tensor:
            y = space.manifold.expmap(x, t * tangent)
            along = torch.func.jvp(space.coordinates, (y,), (space.manifold.transp(x, y, carried),))[1]
            return torch.cat([space.coordinates(y), along])

        value, slope = _along(components, time, 1)
        n = len(q)
        turn = np.einsum("kij,i,j->k", space.chart.christoffel_at(value[:n]), slope[:n], value[n:])
        errors.append(np.abs(slope[n:] + turn).max() / (np.abs(slope[n:]).max() + np.abs(value[n:]).max()))
    return Check(
        f"{space.name}: transp obeys w' + Gamma(q', w) = 0 along geodesics: largest residual over its terms",
        _BOUND,
        float(max(errors)),
        f"{_HOW}; unit speed, time {time}",
        "at most",
    )


def curvature(space: Space, draws: list[tuple[Array, Array, Array]]) -> Check:
    """``sectional_curvature`` against the curvature tensor."""
    errors = []
    for q, u, v in draws:
        found = float(space.manifold.sectional_curvature(space.point(q), space.lift(q, u), space.lift(q, v)))
        errors.append(abs(found - space.chart.sectional_curvature(q, u, v)))
    return Check(
        f"{space.name}: sectional_curvature is <R(u, v) v, u> over the squared area: largest error",
        _BOUND,
        float(max(errors)),
        _HOW,
        "at most",
    )


def constant_curvatures() -> list[Check]:
    """Closed forms of the curvature of surfaces, simplified by sympy to a number, against the library's."""
    import sympy

    c = sympy.Symbol("c", positive=True)
    value = sympy.Rational(7, 10)
    surfaces = (
        ("the sphere", charts.sphere_chart(2), Sphere(), (3,)),
        ("the ball at c = 7/10", charts.poincare_chart(2, c), PoincareBall(0.7), (2,)),
        ("the hyperboloid at c = 7/10", charts.lorentz_chart(2, c), Lorentz(0.7), (3,)),
        ("the simplex", charts.simplex_chart(2), Simplex(), (3,)),
        ("the projective plane Grassmann(3, 1)", charts.grassmann_chart(3, 1), Grassmann(), (3, 1)),
    )
    found = []
    for name, chart, manifold, shape in surfaces:
        tensor = charts.riemann_tensor(chart.metric, chart.coordinates)
        gauss = sympy.simplify(tensor[0, 1, 0, 1] / chart.metric.det())
        generator = torch.Generator().manual_seed(0)
        x = manifold.random(*shape, dtype=torch.float64, generator=generator)
        u, v = (manifold.random_tangent(x, generator=generator) for _ in range(2))
        measured = float(manifold.sectional_curvature(x, u, v))
        how = f"simplified by sympy: {gauss}; sectional_curvature at a random point, float64"
        slack = 1e-14 * abs(measured)  # the curvature is computed from c by a few operations
        found.append(
            Check(
                f"Gaussian curvature of {name}",
                float(gauss.subs(c, value)),
                measured,
                how,
                low=measured - slack,
                high=measured + slack,
            )
        )
    return found


_SURFACES: tuple[tuple[str, Manifold], ...] = (
    ("Sphere", Sphere()),
    ("PoincareBall(0.7)", PoincareBall(0.7)),
    ("Lorentz(2)", Lorentz(2.0)),
    ("Simplex", Simplex()),
)


def excess(manifold: Manifold, corners: Tensor) -> tuple[float, float]:
    """Excess of a geodesic triangle's angles over pi, and the angle that transport around it turns a vector by.

    Parameters
    ----------
    manifold : Manifold
        Of dimension 2 and constant curvature.
    corners : Tensor, shape (3, ...)
        Corners, no two of which are equal.
    """

    def angle(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        uu, uv, vv = (manifold.inner(x, a, b) for a, b in ((u, u), (u, v), (v, v)))
        return torch.atan2((uu * vv - uv * uv).clamp_min(0.0).sqrt(), uv)

    total = torch.zeros((), dtype=corners.dtype)
    for k in range(3):
        x, y, z = corners[k], corners[(k + 1) % 3], corners[(k + 2) % 3]
        total = total + angle(x, manifold.logmap(x, y), manifold.logmap(x, z))
    start = manifold.logmap(corners[0], corners[1])
    w = start
    for k in range(3):
        w = manifold.transp(corners[k], corners[(k + 1) % 3], w)
    return float(total) - np.pi, float(angle(corners[0], start, w))


def holonomy(name: str, manifold: Manifold, rng: np.random.Generator, triangles: int = 8) -> Check:
    """Turn of parallel transport around triangles against their excess (Gauss-Bonnet)."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    size = 2 if isinstance(manifold, PoincareBall) else 3
    errors = []
    for _ in range(triangles):
        corners = manifold.random(3, size, dtype=torch.float64, generator=generator)
        over, turned = excess(manifold, corners)
        errors.append(abs(np.pi - abs(np.pi - abs(over)) - turned))  # a turn by more than pi is one by less
    return Check(
        f"{name}: transport around a triangle turns a vector by the excess of its angles: largest error",
        _BOUND,
        float(max(errors)),
        f"Gauss-Bonnet; {triangles} random triangles, float64",
        "at most",
    )

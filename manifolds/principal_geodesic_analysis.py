"""Exact principal geodesic analysis: subspaces of geodesics through the mean, with true projections on them."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.frechet import frechet_mean, prepare
from holonomy.manifolds.newton import Convergence, minimise
from holonomy.manifolds.tangent import tangent_basis

__all__ = ["PrincipalGeodesics", "principal_geodesic_analysis"]

Criterion = Literal["residual", "variance"]

#: Steps of Newton's method for the projections, and halvings of each.
_STEPS, _HALVINGS = 50, 30


@dataclass(frozen=True)
class PrincipalGeodesics:
    """Result of `principal_geodesic_analysis`.

    Attributes
    ----------
    mean : Tensor
        The point all geodesics pass through, shape (*point).
    components : Tensor
        Directions there, orthonormal in the metric, shape (k, *point), in the order found.
    scores : Tensor
        Coordinates of the projections on the last subspace, shape (k, n):
        ``expmap(mean, (scores * components).sum(0))`` are the points of the subspace nearest to the data.
    variance : Tensor
        Mean squared distance of the projections on the first 1, ..., k directions from the mean, shape (k,).
    residual : Tensor
        Mean squared distance of the points from those projections, shape (k,). On curved spaces the two do not add
        up to the variance of the points.
    convergence : tuple of Convergence
        Of each direction.
    """

    mean: Tensor
    components: Tensor
    scores: Tensor
    variance: Tensor
    residual: Tensor
    convergence: tuple[Convergence, ...]


def principal_geodesic_analysis(
    manifold: Manifold,
    x: Tensor,
    k: int = 1,
    weights: Tensor | None = None,
    *,
    criterion: Criterion = "residual",
    mean: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 100,
) -> PrincipalGeodesics:
    """Find directions at the mean, one by one, whose geodesic subspace fits points best. Not differentiable.

    Where `tangent_pca` takes logarithms for the points, here they are projected on exp of the subspace by geodesic
    distance. In flat space both are principal component analysis. Each direction is found by safeguarded Newton's
    method on the unit sphere, through projections that are differentiated by the implicit function theorem; it starts
    at the first component of tangent PCA that is left, and finds a local optimum.

    Parameters
    ----------
    manifold : Manifold
        Has `expmap`, `logmap` and `dist2`.
    x : Tensor
        Points, shape (n, *point).
    k : int
        Number of directions.
    weights : Tensor, optional
        See `frechet_mean`.
    criterion : {"residual", "variance"}
        Least mean squared distance to the projections, or largest of the projections from the mean.
    mean : Tensor, optional
        Another point for the geodesics to pass through.
    tolerance : float, optional
        Length of the gradient to reach; default: the 3/4-th power of the dtype's eps.
    max_steps : int
        Most steps for one direction.

    Raises
    ------
    ValueError
        Where `k` is not between 1 and the dimension, or `criterion` is none of these.
    DimensionError
        (a ValueError) where shapes do not fit.
    ConvergenceError
        Where the mean or a direction does not converge.

    References
    ----------
    Sommer, Lauze, Nielsen, Optimization over geodesics for exact principal geodesic analysis, Adv. Comput. Math. 40,
    2014.
    """
    points, w, mean = _check(manifold, x, k, weights, criterion, mean)
    w, mean = w.detach(), mean.detach().to(points.dtype)
    problem = _Problem(manifold, points, w, mean, tangent_basis(manifold, mean))
    tolerance = torch.finfo(points.dtype).eps ** 0.75 if tolerance is None else tolerance
    frame = points.new_zeros(0, len(problem.basis))
    reports, variance, residual = [], [], []
    scores = points.new_zeros(len(points), 0)
    for _ in range(k):
        v, report = _direction(problem, frame, criterion, tolerance, max_steps)
        frame = torch.cat([frame, v.unsqueeze(0)])
        scores = problem.project(frame)
        reports.append(report)
        variance.append((w * scores.square().sum(-1)).sum())
        residual.append((w * problem.square(frame, scores)).sum())
    ones = (1,) * manifold.ndim
    components = (frame.reshape(*frame.shape, *ones) * problem.basis).sum(1)
    mean, components, scores = (t.to(x.dtype) for t in (mean, components, scores.mT))
    explained, left = (torch.stack(t).to(x.dtype) for t in (variance, residual))
    return PrincipalGeodesics(mean, components, scores, explained, left, tuple(reports))


def _check(
    manifold: Manifold, x: Tensor, k: int, weights: Tensor | None, criterion: Criterion, mean: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Refuse what does not fit; return points, normalised weights, and the mean."""
    points, w = prepare("principal_geodesic_analysis", manifold, x.detach(), weights, 0)
    if w.ndim != 1:
        raise DimensionError(f"principal_geodesic_analysis: 'x' has shape {tuple(x.shape)}, wanted one batch dimension")
    d = manifold.dimension(*points.shape[1:])
    if not 1 <= k <= d:
        raise ValueError(f"principal_geodesic_analysis: 'k' must be from 1 to {d} on this {manifold.name}, got {k}")
    if criterion not in get_args(Criterion):
        raise ValueError(
            f"principal_geodesic_analysis: 'criterion' must be 'residual' or 'variance', got {criterion!r}"
        )
    if mean is None:
        mean = frechet_mean(manifold, points, w)
    elif mean.shape != points.shape[1:]:
        raise DimensionError(
            f"principal_geodesic_analysis: 'mean' has shape {tuple(mean.shape)}, wanted {tuple(points.shape[1:])}"
        )
    return points, w, mean


@dataclass(frozen=True)
class _Problem:
    """Points and their mean, with coordinates of the tangent space there."""

    manifold: Manifold
    x: Tensor
    w: Tensor
    mean: Tensor
    basis: Tensor

    def square(self, frame: Tensor, t: Tensor) -> Tensor:
        """Squared distances (n,) of the points to exp of t (n, k) in a frame (k, d)."""
        coordinates = t @ frame
        ones = (1,) * self.manifold.ndim
        u = (coordinates.reshape(*coordinates.shape, *ones) * self.basis).sum(1)
        return self.manifold.dist2(self.manifold.expmap(self.mean.expand_as(u), u), self.x)

    def slopes(self, frame: Tensor, t: Tensor, hessian: bool) -> tuple[Tensor, Tensor]:
        """Gradients (n, k) in t of half the squared distances, and Hessians (n, k, k) if asked for."""
        (g,) = torch.autograd.grad(0.5 * self.square(frame, t).sum(), t, create_graph=True)
        if not hessian:
            return g, g
        rows = [torch.autograd.grad(g[:, i].sum(), t, retain_graph=True)[0] for i in range(t.shape[1])]
        return g, torch.stack(rows, dim=1)

    def logarithms(self) -> Tensor:
        """Coordinates (n, d) of the points' logarithms."""
        logs = self.manifold.logmap(self.mean.expand_as(self.x), self.x)
        return self.manifold.inner(self.mean, logs.unsqueeze(1), self.basis)

    def project(self, frame: Tensor) -> Tensor:
        """Coordinates (n, k) of the nearest points of the geodesic subspace, by Newton's method for all at once."""
        frame = frame.detach()
        t = self.logarithms() @ frame.mT
        eps = torch.finfo(t.dtype).eps
        for _ in range(_STEPS):
            with torch.enable_grad():
                g, h = self.slopes(frame, t.detach().requires_grad_(), True)
            g = g.detach()
            values, vectors = torch.linalg.eigh(0.5 * (h + h.mT))
            values = values.abs().clamp_min(eps)
            step = -(vectors @ ((vectors.mT @ g.unsqueeze(-1)) / values.unsqueeze(-1))).squeeze(-1)
            level = self.square(frame, t)
            for _ in range(_HALVINGS):
                worse = self.square(frame, t + step) > level * (1.0 + 16.0 * eps)
                if not bool(worse.any()):
                    break
                step = torch.where(worse.unsqueeze(-1), 0.5 * step, step)
            t = t + step
            if float(step.abs().amax()) <= 64.0 * eps * max(1.0, float(t.abs().amax())):
                break
        return t

    def implicit(self, frame: Tensor) -> Tensor:
        """Projections as functions of the frame, right to second order: two Newton steps with a constant matrix."""
        fixed = self.project(frame)
        _, h = self.slopes(frame.detach(), fixed.clone().requires_grad_(), True)
        t = fixed.requires_grad_()
        for _ in range(2):
            g, _ = self.slopes(frame, t, False)
            t = t - torch.linalg.solve(h.detach(), g.unsqueeze(-1)).squeeze(-1)
        return t


def _direction(
    problem: _Problem, frame: Tensor, criterion: Criterion, tolerance: float, max_steps: int
) -> tuple[Tensor, Convergence]:
    """The best unit vector (d,) orthogonal to those of the frame."""
    d = frame.shape[1]
    eye = torch.eye(d, dtype=frame.dtype, device=frame.device)
    rest = eye - frame.mT @ frame
    scatter = rest @ (problem.logarithms().mT * problem.w) @ problem.logarithms() @ rest
    v = torch.linalg.eigh(scatter).eigenvectors[:, -1]
    v = rest @ v
    v = v / v.norm()

    def around(v: Tensor) -> tuple[Tensor, Tensor]:
        span = torch.cat([frame, v.unsqueeze(0)])
        return v, torch.linalg.svd(span, full_matrices=True).Vh[len(span) :]

    def turn(state: Any, a: Tensor) -> Tensor:
        v, others = state
        moved: Tensor = v + a @ others
        return moved / moved.norm()

    def objective(state: Any, a: Tensor) -> Tensor:
        whole = torch.cat([frame, turn(state, a).unsqueeze(0)])
        with torch.enable_grad():
            t = problem.implicit(whole) if a.requires_grad else problem.project(whole)
        if criterion == "variance":
            return -0.5 * (problem.w * t.square().sum(-1)).sum()
        return 0.5 * (problem.w * problem.square(whole, t)).sum()

    size = d - len(frame) - 1
    if size == 0:
        with torch.no_grad():
            value = float(objective((v, frame), v.new_zeros(len(frame)))) if len(frame) else float("nan")
        return v, Convergence(0, value, 0.0)
    state, report = minimise(
        f"principal_geodesic_analysis on {problem.manifold.name}",
        around(v),
        size,
        objective,
        lambda state, a: around(turn(state, a)),
        tolerance=tolerance,
        max_steps=max_steps,
        dtype=frame.dtype,
        device=frame.device,
    )
    return state[0], report

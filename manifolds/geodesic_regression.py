"""Geodesic regression: the geodesic that is nearest to points at given times, in the sense of least squares."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.frechet import frechet_mean, prepare
from holonomy.manifolds.newton import Convergence, minimise
from holonomy.manifolds.tangent import tangent_basis

__all__ = ["GeodesicRegression", "geodesic_regression"]


@dataclass(frozen=True)
class GeodesicRegression:
    """Result of `geodesic_regression`.

    Attributes
    ----------
    manifold : Manifold
        Where the geodesic lies.
    intercept : Tensor
        Point at covariates 0, shape (*point).
    velocity : Tensor
        Tangent vector there for each covariate, shape (k, *point); (*point) where covariates had no dimension k.
    r2 : float
        Part of the Fréchet variance that the geodesic explains, at most 1.
    convergence : Convergence
        Steps, half the mean squared distance, and the length of its gradient.
    """

    manifold: Manifold
    intercept: Tensor
    velocity: Tensor
    r2: float
    convergence: Convergence

    def predict(self, t: Tensor) -> Tensor:
        """Points at covariates of shape (*batch) or (*batch, k); shape (*batch, *point)."""
        ones = (1,) * self.manifold.ndim
        if self.velocity.ndim == self.manifold.ndim:
            u = t.reshape(*t.shape, *ones) * self.velocity
        else:
            k = len(self.velocity)
            if t.shape[-1:] != (k,):
                raise DimensionError(f"predict: 't' has shape {tuple(t.shape)}, wanted a last dimension of {k}")
            u = (t.reshape(*t.shape, *ones) * self.velocity).sum(t.ndim - 1)
        return self.manifold.expmap(self.intercept.expand_as(u), u)


def geodesic_regression(
    manifold: Manifold,
    t: Tensor,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    tolerance: float | None = None,
    max_steps: int = 100,
) -> GeodesicRegression:
    """Fit y_i = exp(p, sum_k t_ik v_k) by least squares of geodesic distances; in flat space, linear regression.

    Found by safeguarded Newton's method over p and v, in whitened coordinates, from the Fréchet mean and the
    linear regression of logarithms there; a local minimum, as the problem is not convex in general. Not
    differentiable in the points. On manifolds of positive curvature, points must be nearer to the geodesic than the
    cut locus.

    Parameters
    ----------
    manifold : Manifold
        Has `expmap`, `logmap`, `dist2` and exact `transp`.
    t : Tensor
        Covariates, shape (n,) or (n, k).
    y : Tensor
        Points, shape (n, *point).
    weights : Tensor, optional
        One a point, shape (n,); not negative, normalised here.
    tolerance : float, optional
        Length of the gradient to reach; default: the 3/4-th power of the dtype's eps.
    max_steps : int
        Most steps of Newton's method.

    Raises
    ------
    TypeError
        Where `t` or `y` is no tensor of a real floating dtype.
    DimensionError
        (a ValueError) where shapes do not fit.
    ValueError
        Where the covariates with the constant are linearly dependent: the geodesic is not determined.
    ConvergenceError
        Where the gradient has not become small; the message says how small.

    References
    ----------
    Fletcher, Geodesic regression and the theory of least squares on Riemannian manifolds, IJCV 105, 2013. Kim et al.,
    Multivariate general linear models on Riemannian manifolds, CVPR 2014.
    """
    if not isinstance(t, Tensor) or not t.is_floating_point():
        got = getattr(t, "dtype", type(t).__name__)
        raise TypeError(f"geodesic_regression: 't' must be a tensor of a real floating dtype, got {got}")
    points, w = prepare("geodesic_regression", manifold, y.detach() if isinstance(y, Tensor) else y, weights, 0)
    if w.ndim != 1:
        raise DimensionError(f"geodesic_regression: 'y' has shape {tuple(y.shape)}, wanted one batch dimension")
    if t.ndim not in (1, 2) or len(t) != len(points):
        raise DimensionError(
            f"geodesic_regression: 't' has shape {tuple(t.shape)}, wanted ({len(points)},) or ({len(points)}, k)"
        )
    x = (t.detach() if t.ndim == 2 else t.detach().unsqueeze(-1)).to(points.dtype)
    w = w.detach()
    # One covariate may be far from 0: its geodesic is fitted around the mean, and followed back. With several, only
    # the point at 0 gives the model that is asked for.
    centre = w @ x if x.shape[1] == 1 else torch.zeros_like(x[0])
    spread = torch.linalg.svdvals(w.sqrt().unsqueeze(-1) * (x - w @ x))
    if len(spread) < x.shape[1] or float(spread[-1]) <= 8.0 * torch.finfo(x.dtype).eps * float(x.abs().amax()):
        raise ValueError("geodesic_regression: 't' with the constant is linearly dependent: no geodesic is determined")
    (base, slopes), report, r2 = _fit(manifold, x - centre, points, w, tolerance, max_steps)
    if x.shape[1] == 1:
        base, moved = manifold.expmap_transp(base, -float(centre) * slopes[0], slopes[0])
        slopes = moved.unsqueeze(0)
    velocity = slopes if t.ndim == 2 else slopes[0]
    return GeodesicRegression(manifold, base.to(y.dtype), velocity.to(y.dtype), r2, report)


def _fit(
    manifold: Manifold, x: Tensor, y: Tensor, w: Tensor, tolerance: float | None, max_steps: int
) -> tuple[tuple[Tensor, Tensor], Convergence, float]:
    """Point and velocities at covariates 0, with the report and the explained variance."""
    ones, k = (1,) * manifold.ndim, x.shape[1]
    mean = frechet_mean(manifold, y, w)
    d = manifold.dimension(*mean.shape)
    table = x.reshape(*x.shape, *ones)
    root = w.sqrt().unsqueeze(-1)
    design = root * torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
    # In coordinates whitened by this matrix the Hessian of flat space is the identity, whatever the covariates' units.
    mix = torch.linalg.inv(torch.linalg.qr(design).R)
    logs = manifold.logmap(mean.expand_as(y), y).reshape(len(y), -1)
    start = torch.linalg.lstsq(design, root * logs).solution.reshape(k + 1, *mean.shape)
    base, slopes = _carry(manifold, mean, start[0], start[1:])

    def shift(state: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        base, slopes, basis = state
        parts = ((mix @ z.reshape(k + 1, d)).reshape(k + 1, d, *ones) * basis).sum(1)
        return _carry(manifold, base, parts[0], slopes + parts[1:])

    def objective(state: Any, z: Tensor) -> Tensor:
        base, slopes = shift(state, z)
        u = (table * slopes).sum(1)
        return 0.5 * (w * manifold.dist2(manifold.expmap(base.expand_as(u), u), y)).sum()

    def move(state: Any, z: Tensor) -> Any:
        base, slopes = shift(state, z)
        base = manifold.projx(base)
        return base, manifold.proju(base.expand_as(slopes), slopes), tangent_basis(manifold, base)

    state, report = minimise(
        f"geodesic_regression on {manifold.name}",
        (base, slopes, tangent_basis(manifold, base)),
        d * (k + 1),
        objective,
        move,
        tolerance=torch.finfo(y.dtype).eps ** 0.75 if tolerance is None else tolerance,
        max_steps=max_steps,
        dtype=y.dtype,
        device=y.device,
    )
    total = 0.5 * float((w * manifold.dist2(mean, y)).sum())
    return state[:2], report, 1.0 - report.value / total if total > 0.0 else 1.0


def _carry(manifold: Manifold, base: Tensor, u: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Move a point by exp, and tangent vectors with it."""
    moved = [manifold.expmap_transp(base, u, v) for v in slopes]
    return moved[0][0], torch.stack([v for _, v in moved])

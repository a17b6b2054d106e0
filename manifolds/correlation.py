"""Correlation matrices of full rank."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.linalg import sym
from holonomy.manifolds.positive import factor_change, lift, lower_factor, positive_error, relative_factor
from holonomy.manifolds.pullback import Pullback

__all__ = ["Correlation"]


class Correlation(Manifold):
    """Cor(n) = {x in R^(n x n) : x symmetric, positive definite, x_ii = 1}, with the Euclidean-Cholesky metric.

    The metric's chart is the strict lower triangle of c, with x = d c c^T d where c is lower triangular with unit
    diagonal and d diagonal: row i of the Cholesky factor, over its last entry. Every strict lower triangle belongs to
    one x, and the metric is the Euclidean one of the chart: flat and complete, with unique geodesics. exp, log,
    distance and parallel transport are exact, and need one Cholesky factorisation a point; derivatives are regular
    everywhere.

    Row i of c holds the coefficients by which the residual of variable i, scaled, is explained by those before it: the
    metric depends on the order of the variables, as do all flat ones by Cholesky factors. For n = 2 the coordinate is
    r/sqrt(1 - r^2) of the correlation r. Tangent vectors are symmetric with zero diagonal. Errors are of order
    eps cond(x), and relative to the distance between close points.

    Random points have standard normal coordinates.

    Parameters
    ----------
    validate : bool
        See `Manifold`.

    Raises
    ------
    DimensionError
        From every method, where matrices are not square or smaller than 2 x 2.

    References
    ----------
    Thanwerdas, Pennec, Theoretically and computationally convenient geometries on full-rank correlation matrices,
    SIAM J. Matrix Anal. 43, 2022.
    """

    name = "Correlation"
    ndim = 2
    reversible = True
    retractions = ("exp",)

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and (shape[-1] != shape[-2] or shape[-1] < 2):
            return "wanted square matrices of at least 2 x 2"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        reason = positive_error(x.detach(), tolerance)
        if reason is None and x.numel():
            gap = float((_diagonal(x.detach()) - 1.0).abs().amax())
            if gap > tolerance:
                return f"must have a diagonal of ones, but is off by {gap:.3g} (tolerance {tolerance:.3g})"
        return reason

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return _scaled(lift(result, dtype)).to(dtype)

    def _dimension(self, *shape: int) -> int:
        return shape[-1] * (shape[-1] - 1) // 2

    def _injectivity_radius(self) -> float:
        return math.inf

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Correlations of the covariance x: its eigenvalues raised to 2 eps |x|, rows and columns scaled.

        Not the nearest correlation matrix, which has no closed form.
        """
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        return _scaled(lift(x))

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return _hollow(u).expand(torch.broadcast_shapes(x.shape, u.shape))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return _METRIC.inner(x, u, v)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_sqrt(_METRIC.dist2(x, y))

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return _METRIC.dist2(x, y)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return _METRIC.egrad2rgrad(x, u)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return _METRIC.ehess2rhess(x, egrad, ehess, u)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return _METRIC.sectional_curvature(x, u, v)

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return _METRIC.expmap(x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return _METRIC.logmap(x, y)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return _METRIC.transp(x, y, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return _METRIC.point(torch.randn(size, dtype=dtype, device=device, generator=generator))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return _METRIC.push(x, torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator))

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.eye(size[-1], dtype=dtype, device=device).expand(size).clone()


class _EuclideanCholesky(Pullback):
    """Chart: rows of the Cholesky factor l, over their last entries. Rows of l have length 1."""

    def chart(self, x: Tensor) -> Tensor:
        lower = lower_factor(x)
        return (lower / _column(lower)).tril(-1)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        lower, other = lower_factor(x), lower_factor(y)
        near, n = relative_factor(lower, x, y)
        change, rows = lower @ n, lower / _column(lower)
        close = (change - rows * _column(change)) / _column(other)
        return torch.where(near, close, other / _column(other) - rows).tril(-1)

    def point(self, z: Tensor) -> Tensor:
        rows = z.tril(-1) + torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        lower = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return _unit_diagonal(lower @ lower.mT)

    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        lower = lower_factor(x)
        change = factor_change(lower, _hollow(u))
        return ((change - lower * (_column(change) / _column(lower))) / _column(lower)).tril(-1)

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        lower = lower_factor(x)
        w = w.tril(-1)
        change = _column(lower) * (w - lower * _along(lower, w))
        return _hollow(2.0 * change @ lower.mT)

    def components(self, x: Tensor, egrad: Tensor) -> Tensor:
        lower = lower_factor(x)
        slope = 2.0 * _hollow(egrad) @ lower
        return (_column(lower) * (slope - lower * _along(slope, lower))).tril(-1)

    def components_change(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        lower = lower_factor(x)
        change = factor_change(lower, _hollow(u))
        slope = 2.0 * _hollow(egrad) @ lower
        bend = 2.0 * (_hollow(ehess) @ lower + _hollow(egrad) @ change)
        along, along_change = _along(slope, lower), _along(bend, lower) + _along(slope, change)
        first = _column(change) * (slope - lower * along)
        return (first + _column(lower) * (bend - change * along - lower * along_change)).tril(-1)


_METRIC = _EuclideanCholesky()


def _diagonal(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1)


def _column(a: Tensor) -> Tensor:
    """The diagonal as a column: one number a row."""
    return _diagonal(a).unsqueeze(-1)


def _along(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows, as a column."""
    return (a * b).sum(-1, keepdim=True)


def _hollow(u: Tensor) -> Tensor:
    """Symmetric part, with zero diagonal."""
    u = sym(u)
    return u - torch.diag_embed(_diagonal(u))


def _unit_diagonal(x: Tensor) -> Tensor:
    return _hollow(x) + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _scaled(x: Tensor) -> Tensor:
    """Correlations of a covariance."""
    scale = _diagonal(x).rsqrt()
    return _unit_diagonal(scale.unsqueeze(-1) * x * scale.unsqueeze(-2))

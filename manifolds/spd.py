"""Symmetric positive definite matrices, in four metrics."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.linalg import sym
from holonomy.manifolds.positive import lift, lower_factor, positive_error, solved
from holonomy.manifolds.spd_metrics import AffineInvariant, BuresWasserstein, LogCholesky, LogEuclidean

__all__ = ["SPD"]


class SPD(Manifold):
    """SPD(n) = {x in R^(n x n) : x symmetric, positive definite}: an open cone, whose tangent vectors are symmetric.

    =====================  ======================================  ============  =====================
    metric                 squared length of u at x                curvature     geodesics
    =====================  ======================================  ============  =====================
    "affine-invariant"     tr(x^-1 u x^-1 u)                       -1/2 to 0     complete
    "log-euclidean"        sum of squares of D log(x)[u]           0             complete
    "log-cholesky"         sum of squares of D c(x)[u], where c    0             complete
                           is the Cholesky factor with the
                           logarithm of its diagonal
    "bures-wasserstein"    tr(w x w), w x + x w = u                0 and above   leave the cone
    =====================  ======================================  ============  =====================

    One metric answers for every method. exp, log, distance and curvature are exact in each; parallel transport is, but
    for Bures-Wasserstein, where it has no closed form: there ``transp`` is a vector transport that is never longer than
    its argument and differs from the parallel one by O(d^2) over a distance d, and ``expmap`` is the geodesic up to the
    length sqrt(lowest eigenvalue of x), where it may leave the cone.

    Repeated eigenvalues, coincident points and zero vectors are regular: derivatives of matrix functions are the
    Daleckii-Krein formula and its analogues of higher order. Digits that are lost are those of eps cond(x), which the
    rounding of the entries of x costs already; between close points, distances keep them relative to the distance, but
    for the log-Euclidean one, which is a difference of two logarithms. Where cond(x) is above 1/eps (1e7 in float32), x
    is not positive definite for its dtype. Memory is of order n^2 a point, n^3 in second derivatives (n^4 in those of
    log-Euclidean vectors).

    Random points are exp(z), z standard normal among the symmetric matrices; for "log-cholesky" those of standard
    normal coordinates c.

    Parameters
    ----------
    metric : {"affine-invariant", "log-euclidean", "log-cholesky", "bures-wasserstein"}
        The Riemannian metric.
    retraction : {"exp", "quadratic"}
        What ``retr`` does: "quadratic" is x + u + u x^-1 u/2, in the cone for every u, without an eigenvalue problem;
        it agrees with the affine-invariant ``expmap`` to second order, with the others to first.
    validate : bool
        See `Manifold`.

    Raises
    ------
    DimensionError
        From every method, where matrices are not square.
    ValueError
        Where `metric` or `retraction` has no such name.

    References
    ----------
    Pennec, Fillard, Ayache, A Riemannian framework for tensor computing, IJCV 66, 2006.
    Arsigny, Fillard, Pennec, Ayache, Geometric means in a novel vector space structure on symmetric positive-definite
    matrices, SIAM J. Matrix Anal. 29, 2007.
    Lin, Riemannian geometry of symmetric positive definite matrices via Cholesky decomposition, SIAM J. Matrix Anal.
    40, 2019.
    Bhatia, Jain, Lim, On the Bures-Wasserstein distance between positive definite matrices, Expo. Math. 37, 2019;
    Massart, Absil, Quotient geometry with simple geodesics for the manifold of fixed-rank positive-semidefinite
    matrices, SIAM J. Matrix Anal. 41, 2020 (injectivity radius).
    """

    name = "SPD"
    ndim = 2
    retractions = ("exp", "quadratic")
    #: Names that ``metric=`` accepts; the first is the default.
    metrics = ("affine-invariant", "log-euclidean", "log-cholesky", "bures-wasserstein")

    def __init__(self, metric: str = "affine-invariant", retraction: str = "exp", *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if metric not in self.metrics:
            raise ValueError(f"{self.name}: 'metric' must be one of {self.metrics}, got {metric!r}")
        if retraction not in self.retractions:
            raise ValueError(f"{self.name}: 'retraction' must be one of {self.retractions}, got {retraction!r}")
        self.metric = metric
        self.retraction = retraction
        self.reversible = retraction == "exp"  # type: ignore[misc]  # depends on the retraction
        self.exact_transport = metric != "bures-wasserstein"  # type: ignore[misc]  # and on the metric
        self._metric = _METRICS[metric]

    def _config(self) -> dict[str, Any]:
        return {"metric": self.metric, "retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] != shape[-2]:
            return f"wanted square matrices, got {shape[-2]} x {shape[-1]}"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        return positive_error(x.detach(), tolerance)

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return lift(result, dtype).to(dtype)

    def _dimension(self, *shape: int) -> int:
        return shape[-1] * (shape[-1] + 1) // 2

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Radius within which ``expmap`` at any point is a diffeomorphism.

        Infinite, but for Bures-Wasserstein: 0, and at `x` the square root of its lowest eigenvalue (the least of a
        batch).
        """
        if self.metric != "bures-wasserstein":
            return math.inf
        return 0.0 if x is None else math.sqrt(max(0.0, float(torch.linalg.eigvalsh(x.detach()).amin())))

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Symmetric part, with eigenvalues raised to 2 eps |x| where they are below.

        The nearest point, but for that floor: the cone is open.
        """
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        return lift(x)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return sym(u).expand(torch.broadcast_shapes(x.shape, u.shape))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._metric.inner(x, u, v)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_sqrt(self._metric.dist2(x, y))

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return self._metric.dist2(x, y)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._metric.egrad2rgrad(x, u)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._metric.ehess2rhess(x, egrad, ehess, u)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._metric.sectional_curvature(x, u, v)

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._metric.expmap(x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._metric.logmap(x, y)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._metric.transp(x, y, v)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._metric.expmap_transp(x, u, v)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._metric.expmap(x, u) if self.retraction == "exp" else _quadratic(x, u)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._expmap_transp(x, u, v) if self.retraction == "exp" else super()._retr_transp(x, u, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self._metric.random(size, dtype, device, generator)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._metric.random_tangent(x, generator)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.eye(size[-1], dtype=dtype, device=device).expand(size).clone()


_METRICS: dict[str, AffineInvariant | LogEuclidean | LogCholesky | BuresWasserstein] = {
    "affine-invariant": AffineInvariant(),
    "log-euclidean": LogEuclidean(),
    "log-cholesky": LogCholesky(),
    "bures-wasserstein": BuresWasserstein(),
}


def _quadratic(x: Tensor, u: Tensor) -> Tensor:
    """x + u + u x^-1 u/2 = (x + (x + u) x^-1 (x + u))/2: the sum of two Gram matrices."""
    lower = lower_factor(x)
    factor = lower.mT + solved(lower, u)
    return sym(0.5 * (x + factor.mT @ factor))

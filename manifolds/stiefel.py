"""The Stiefel manifold of n x p matrices with orthonormal columns, in its Euclidean and its canonical metric."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.linalg import (
    cholesky_qr,
    combine_orthonormal,
    gram_gap,
    haar,
    nearest_orthonormal,
    polar,
    skew,
    sym,
)

__all__ = ["Stiefel"]


class Stiefel(Manifold):
    """St(n, p) = {x in R^(n x p) : x^T x = I}: points are matrices with orthonormal columns, n >= p >= 1.

    Both metrics are members of the family <u, v> = tr(u^T v) - (1 - b) tr((x^T u)^T x^T v): the Euclidean one, b = 1,
    which is that of the ambient space, and the canonical one, b = 1/2, which counts rotations within the span of x
    once instead of twice. The Euclidean metric is the default: its gradient is the orthogonal projection, its inner
    product costs no matrix product, and it is what most of the literature on optimisation means.

    Parameters
    ----------
    metric : {"euclidean", "canonical"}
        The Riemannian metric. Every method answers in it: gradients, geodesics, distances, transports.
    retraction : {"qr", "polar", "cayley"}
        What ``retr`` does. All agree with ``expmap`` to first order in either metric; "polar" agrees to second order
        in the Euclidean metric, "cayley" to second order in the canonical one. None forms an n x n matrix.
    validate : bool
        See `Manifold`.

    References
    ----------
    Edelman, Arias, Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix Anal. 20, 1998.
    Hüper, Markina, Silva Leite, A Lagrangian approach to extremal curves on Stiefel manifolds, J. Geom. Mech. 13, 2021.
    """

    name = "Stiefel"
    ndim = 2
    reversible = False
    exact_transport = False
    retractions = ("qr", "polar", "cayley")
    #: Names that ``metric=`` accepts; the first is the default.
    metrics = ("euclidean", "canonical")

    def __init__(self, metric: str = "euclidean", retraction: str = "qr", *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if metric not in self.metrics:
            raise ValueError(f"{self.name}: 'metric' must be one of {self.metrics}, got {metric!r}")
        if retraction not in self.retractions:
            raise ValueError(f"{self.name}: 'retraction' must be one of {self.retractions}, got {retraction!r}")
        self.metric = metric
        self.retraction = retraction
        self._b = 1.0 if metric == "euclidean" else 0.5

    def _config(self) -> dict[str, Any]:
        return {"metric": self.metric, "retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-2] < shape[-1]:
            return f"wanted n >= p in the trailing dimensions (n, p), got n = {shape[-2]} and p = {shape[-1]}"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        gap = gram_gap(x)
        return None if gap <= tolerance else f"has x^T x off the identity by {gap:.3g} (tolerance {tolerance:.3g})"

    def _dimension(self, *shape: int) -> int:
        n, p = shape
        return n * p - p * (p + 1) // 2

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Radius within which ``expmap`` at any point is a diffeomorphism.

        Euclidean metric: pi, the exact value (Zimmermann, Stoye, arXiv:2405.02268, 2024). Canonical metric: the
        proven lower bound sqrt(4/5) pi = 0.894 pi, from the largest sectional curvature 5/4 (Rentmeesters, PhD
        thesis, UCLouvain, 2013); the exact value is at most 0.913 pi where it is not pi (Absil, Mataigne,
        arXiv:2403.02079, 2024).
        """
        return super().injectivity_radius(x)

    def _injectivity_radius(self) -> float:
        return math.pi if self.metric == "euclidean" else math.sqrt(0.8) * math.pi

    # -- projections and gradients ---------------------------------------------------------------------------------

    def _projx(self, x: Tensor) -> Tensor:
        return nearest_orthonormal(x)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - x @ sym(x.mT @ u)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        flat = (u * v).sum((-2, -1))
        if self.metric == "euclidean":
            return flat
        return flat - 0.5 * ((x.mT @ u) * (x.mT @ v)).sum((-2, -1))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._proju(x, u) if self.metric == "euclidean" else u - x @ (u.mT @ x)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        if self.metric == "euclidean":
            return self._proju(x, ehess - u @ sym(x.mT @ egrad))
        g = self._egrad2rgrad(x, egrad)
        change = ehess - u @ (egrad.mT @ x) - x @ (ehess.mT @ x + egrad.mT @ u)
        # The Levi-Civita connection, polarised from the geodesic equation (Edelman et al., equation 2.41).
        a, b = x.mT @ u, x.mT @ g
        return change + sym_pair(u, g, x) + x @ sym(a @ b + u.mT @ g)

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        a = skew(x.mT @ u)
        k = u - x @ a
        m, n = geodesic_coefficients(a, k.mT @ k, self._b)
        return combine_orthonormal(x, m, k, n)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        if self.retraction == "qr":
            return cholesky_qr(x + u)
        if self.retraction == "polar":
            return polar(x + u)
        return _cayley(x, u)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._proju(y, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return haar(size, dtype, device, generator)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        z = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        # A rotation within the span has 2 b times the squared length of its entries above the diagonal.
        return self._proju(x, z) + (self._b**-0.5 - 1.0) * x @ skew(x.mT @ z)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.eye(size[-2], size[-1], dtype=dtype, device=device).expand(size).clone()


def sym_pair(u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """(u v^T + v u^T) x / 2."""
    return 0.5 * (u @ (v.mT @ x) + v @ (u.mT @ x))


def geodesic_coefficients(a: Tensor, s: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """The p x p matrices m, n of the geodesic x m + k n at time 1, with velocity x a + k, a skew, s = k^T k.

    [m; n] is the first block column of exp [[2 b a, -s], [I, 0]] times exp((1 - 2 b) a): the formula of Hüper et al.
    conjugated so that it is analytic in s and needs no orthonormal basis of k.
    """
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    # Balanced by the size of k, or the square in s would cost digits; the result does not depend on the scale.
    scale = (1.0 + s.detach().diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt()[..., None, None]
    top = torch.cat([2.0 * b * a, -s / scale], -1)
    bottom = torch.cat([scale * identity, torch.zeros_like(a)], -1)
    flow = torch.linalg.matrix_exp(torch.cat([top, bottom], -2))
    m, n = flow[..., : a.shape[-1]].chunk(2, -2)
    n = n / scale
    if b != 0.5:
        turn = torch.linalg.matrix_exp((1.0 - 2.0 * b) * a)
        m, n = m @ turn, n @ turn
    return m, n


def _cayley(x: Tensor, u: Tensor) -> Tensor:
    """(I - w/2)^(-1) (I + w/2) x with w = p u x^T - x u^T p, p = I - x x^T/2, so that w x = u.

    The n x n system has rank 2p; eliminating one half of its 2p x 2p Woodbury form leaves a p x p one.
    """
    a = skew(x.mT @ u)
    k = u - x @ a
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    c = torch.linalg.inv_ex(identity - 0.5 * a + 0.25 * (k.mT @ k))[0]
    return combine_orthonormal(x, 2.0 * c - identity, k, c)

"""The Stiefel manifold of n x p matrices with orthonormal columns, in its Euclidean and its canonical metric."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels.orthonormal import fused
from holonomy.manifolds.linalg import combine_orthonormal, skew, sym
from holonomy.manifolds.orthonormal import OrthonormalColumns
from holonomy.manifolds.stiefel_geodesics import geodesic_coefficients, logarithm
from holonomy.manifolds.tangent import over_area

__all__ = ["Stiefel"]


class Stiefel(OrthonormalColumns):
    """St(n, p) = {x in R^(n x p) : x^T x = I}: points are matrices with orthonormal columns, n >= p >= 1.

    Both metrics are members of the family <u, v> = tr(u^T v) - (1 - b) tr((x^T u)^T x^T v): the Euclidean one, b = 1,
    which is that of the ambient space, and the canonical one, b = 1/2, which counts rotations within the span of x
    once instead of twice. The Euclidean metric is the default: its gradient is the orthogonal projection, its inner
    product costs no matrix product, and it is what most of the literature on optimisation means.

    exp is exact. log, and with it the distance, is iterative, as no closed form is known: by the iterated matrix
    logarithm, and in the Euclidean metric, where that stops short, by Newton's iteration from the canonical
    logarithm. On random pairs it converges up to 0.95 of the injectivity radius or more, in either metric, and is
    then the minimising geodesic; where it does not converge, ConvergenceError is raised (for meta and fake tensors
    there is nothing to raise on; a compiled graph raises when it runs). Its gradient is by the implicit function
    theorem and solves a p^2 x p^2 system: it is meant for p up to about 32, as is the Euclidean logarithm of far
    points; the value of the canonical one is cheap for any p.

    ``transp`` is the projection to the tangent space at the target: a vector transport, linear and never longer than
    its argument in the Euclidean metric, that differs from parallel transport by O(d^2) over a distance d in the
    Euclidean metric and by O(d) in the canonical one. A point x is normal to the manifold at x, so that the decay
    of weights towards 0 does nothing here: x has the same length everywhere. Random points are uniform (Haar).

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
    reversible = False
    exact_transport = False
    retractions = ("qr", "polar", "cayley")
    #: Names that ``metric=`` accepts; the first is the default.
    metrics = ("euclidean", "canonical")

    def __init__(self, metric: str = "euclidean", retraction: str = "qr", *, validate: bool = False) -> None:
        super().__init__(retraction, validate=validate)
        if metric not in self.metrics:
            raise ValueError(f"{self.name}: 'metric' must be one of {self.metrics}, got {metric!r}")
        self.metric = metric
        self._b = 1.0 if metric == "euclidean" else 0.5

    def _config(self) -> dict[str, Any]:
        return {"metric": self.metric, **super()._config()}

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

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return _tangent_part(x, u)

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
        return change + 0.5 * (u @ b.mT + g @ a.mT) + x @ sym(a @ b + u.mT @ g)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        # In terms of the bracket of the skew lifts [[a, -n^T], [n, 0]], whose blocks enter by their lengths; the normal
        # parts k, h enter by their Gram matrices.
        a, b = skew(x.mT @ u), skew(x.mT @ v)
        k, h = u - x @ a, v - x @ b
        kk, kh, hh = k.mT @ k, k.mT @ h, h.mT @ h
        turn = a @ b - b @ a
        top = (turn - kh + kh.mT).square().sum((-2, -1))
        side = (k @ b - h @ a).square().sum((-2, -1))
        vertical = (kk * hh).sum((-2, -1)) - (kh * kh.mT).sum((-2, -1))
        if self.metric == "euclidean":
            # Gauss equation, |u v^T - v u^T|^2/2 - |u^T v - v^T u|^2/4: the second fundamental form is -x sym(u^T v).
            numerator = 0.5 * turn.square().sum((-2, -1)) + side + vertical - 0.25 * top
        else:
            # Normal homogeneous space SO(n)/SO(n - p) (O'Neill): |bracket_m|^2/4 + |bracket_h|^2.
            numerator = 0.125 * top + 0.25 * side + vertical
        return over_area(numerator, self._inner(x, u, u), self._inner(x, u, v), self._inner(x, v, v))

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        # The normal part k = u - x a enters by its Gram matrix, and is never formed.
        xu, uu = x.mT @ u, u.mT @ u
        a = skew(xu)
        m, n = geodesic_coefficients(a, uu - a.mT @ a, self._b)
        return combine_orthonormal(x, m - a @ n, u, n, uu, xu)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return logarithm(x, y, self._b)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._proju(y, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        z = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        # A rotation within the span has 2 b times the squared length of its entries above the diagonal.
        return self._proju(x, z) + (self._b**-0.5 - 1.0) * x @ skew(x.mT @ z)


@fused("project_half")
def _tangent_part(x: Tensor, u: Tensor) -> Tensor:
    return u - x @ sym(x.mT @ u)

"""The Grassmann manifold of p-dimensional subspaces of R^n, by orthonormal bases."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.kernels import angles
from holonomy.manifolds.kernels.orthonormal import fused
from holonomy.manifolds.linalg import (
    ARCCOSC,
    COS,
    INVERSE_SQRT,
    SINC,
    combine,
    combine_orthonormal,
    nearest_rotation,
    sym,
    symmetric_function,
    symmetric_functions,
)
from holonomy.manifolds.orthonormal import OrthonormalColumns
from holonomy.manifolds.tangent import over_area

__all__ = ["Grassmann"]


class Grassmann(OrthonormalColumns):
    """Gr(n, p): a point is a subspace, held as any n x p matrix x with x^T x = I that spans it.

    Tangent vectors are horizontal, x^T u = 0, with the metric tr(u^T v). Distances, logarithms and transports do not
    depend on which basis of a subspace is given, except for the basis in which they express their result:
    ``expmap(x, logmap(x, y))`` spans the same subspace as `y`, by the basis of it that is nearest to `x`; what
    ``transp`` returns is tangent at the basis `y` itself.

    exp, log, parallel transport (also along the retractions, which follow geodesics at another speed) and distance
    are exact. Everything is derived from p x p Gram matrices: cosines and sines of the principal angles enter as
    matrix functions, so that equal angles, zero tangents and coincident subspaces are regular. Past the cut locus,
    a principal angle of pi/2, one of the minimising geodesics is taken. Random points are uniform.

    Parameters
    ----------
    retraction : {"qr", "polar", "exp"}
        What ``retr`` returns: a basis of the span of x + u (both are Cholesky or p x p eigenvalue problems), or
        ``expmap``. Optimizers step by it.
    validate : bool
        See `Manifold`.

    References
    ----------
    Edelman, Arias, Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix Anal. 20, 1998.
    Bendokat, Zimmermann, Absil, A Grassmann manifold handbook, Adv. Comput. Math. 50, 2024.
    """

    name = "Grassmann"
    reversible = False
    exact_transport = True
    retractions = ("qr", "polar", "exp")

    def __init__(self, retraction: str = "qr", *, validate: bool = False) -> None:
        super().__init__(retraction, validate=validate)
        self.reversible = retraction == "exp"  # type: ignore[misc]  # depends on the retraction

    def _dimension(self, *shape: int) -> int:
        return (shape[-2] - shape[-1]) * shape[-1]

    def _injectivity_radius(self) -> float:
        return math.pi / 2

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return _horizontal(x, u)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        # Projected once, x^T u is (I - x^T x) x^T u: where that is not small beside the rest of u, a step along the
        # geodesic multiplies the rounding in x by it. After two it is of second order in the rounding.
        return _horizontal(x, _horizontal(x, u))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1))

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return _geodesic(x, u)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        uu = u.mT @ u
        cos, sinc, cosm1c = _turn(uu)
        return combine_orthonormal(x, cos, u, sinc, uu), _transport(x, u, v, sinc, cosm1c)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._expmap(x, u) if self.retraction == "exp" else super()._retr(x, u)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if self.retraction == "exp":
            return self._expmap_transp(x, u, v)
        # x + u spans the point of the geodesic along u whose principal angles are arctan of the singular values of u.
        # With h = (I + u^T u)^(-1/2), its basis (x + u) h is the transported one; w is moved to the basis y.
        y = self._retr(x, u)
        identity = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
        h = symmetric_function(identity + u.mT @ u, INVERSE_SQRT)
        cosm1c = 2.0 * torch.linalg.solve(identity + h, h @ h)
        w = _transport(x, u, v, h, cosm1c)
        return y, w @ (h @ ((x + u).mT @ y))

    def _align(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rotation r for which y r is the basis nearest to x, cosines, and angle over sine, as matrices."""
        m = y.mT @ x
        r = nearest_rotation(m)
        cos = sym(m.mT @ r)
        return r, cos, symmetric_function(cos, ARCCOSC)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        # y r - x cos holds the sines: small angles keep their digits, and right angles are as regular as others.
        r, cos, ratio = self._align(x, y)
        return combine(y, r @ ratio, x, -cos @ ratio)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        r, cos, ratio = self._align(x, y)
        u = combine(y, r @ ratio, x, -cos @ ratio)
        _, sinc, cosm1c = _turn(u.mT @ u)
        return _transport(x, u, v, sinc, cosm1c) @ r.mT

    def principal_angles(self, x: Tensor, y: Tensor) -> Tensor:
        """Principal angles between two subspaces, ascending, shape (..., p), in radians from 0 to pi/2.

        By the sine-and-cosine method (Björck, Golub, Math. Comp. 27, 1973): right to rounding for small angles and
        for right angles.
        """
        return self._evaluate(self._principal_angles, x=x, y=y)

    def _principal_angles(self, x: Tensor, y: Tensor) -> Tensor:
        return _principal_angles(x, y)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._proju(x, ehess) - u @ (x.mT @ egrad)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        uu, uv, vv = u.mT @ u, u.mT @ v, v.mT @ v
        # |u v^T - v u^T|^2 and |u^T v - v^T u|^2, halved.
        wide = (uu * vv).sum((-2, -1)) - (uv * uv.mT).sum((-2, -1))
        narrow = (uv * uv).sum((-2, -1)) - (uv * uv.mT).sum((-2, -1))
        return over_area(wide + narrow, self._inner(x, u, u), self._inner(x, u, v), self._inner(x, v, v))


@fused("exp")
def _geodesic(x: Tensor, u: Tensor) -> Tensor:
    uu = u.mT @ u
    cos, sinc, _ = _turn(uu)
    return combine_orthonormal(x, cos, u, sinc, uu)


@fused("project")
def _horizontal(x: Tensor, u: Tensor) -> Tensor:
    return u - x @ (x.mT @ u)


@angles.fused("principal_angles")
def _principal_angles(x: Tensor, y: Tensor) -> Tensor:
    m = x.mT @ y
    cosines = torch.linalg.svdvals(m)
    sines = torch.linalg.svdvals(y - x @ m).flip(-1)
    return torch.atan2(sines, cosines)


def _turn(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """cos r, sin(r)/r and 2 (1 - cos r)/r^2 for the symmetric matrix a = r^2, from half the angle."""
    s, c = symmetric_functions(0.25 * a, SINC, COS)
    cosm1c = s @ s
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - 0.5 * a @ cosm1c, s @ c, cosm1c


def _transport(x: Tensor, u: Tensor, v: Tensor, sinc: Tensor, cosm1c: Tensor) -> Tensor:
    """v, parallel along the geodesic from x with velocity u: only its part in the span of u turns."""
    along = u.mT @ v
    return v - combine(x, sinc @ along, u, 0.5 * cosm1c @ along)

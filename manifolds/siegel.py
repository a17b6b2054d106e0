"""The Siegel upper half space: complex symmetric matrices with positive definite imaginary part."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.linalg import spectral_value, spectrum, sym
from holonomy.manifolds.positive import (
    EXP,
    gaussian_symmetric,
    lift,
    log_spectrum,
    lower_factor,
    positive_error,
    solved,
    spectral_log,
    spectral_root,
    whitened,
)
from holonomy.manifolds.spd_metrics import orthogonal_part
from holonomy.manifolds.tangent import over_area

__all__ = ["SiegelUpperHalf"]


class SiegelUpperHalf(Manifold):
    """The space of z = a + i b with a, b in R^(n x n) symmetric, b positive definite, and the metric of Siegel.

    A point is the real tensor of its two parts, of shape (2, n, n): ``x[..., 0, :, :]`` is a, ``x[..., 1, :, :]`` is b;
    so are tangent vectors, both of whose parts are symmetric. The squared length of u at z is
    tr(b^-1 u_0 b^-1 u_0) + tr(b^-1 u_1 b^-1 u_1). For n = 1 that is the hyperbolic half-plane of curvature -1. For all
    n it is the symmetric space Sp(2n, R)/U(n), complete, without conjugate points, of curvature from -1 to 0.

    exp, log, parallel transport, distance and curvature are exact. An isometry z -> l^-1 (z - a) l^-T, b = l l^T, takes
    x to i I; there the space is totally geodesic in the positive definite matrices of order 2n, by

        z -> [[b + a b^-1 a, a b^-1], [b^-1 a, b^-1]],

    with half of their affine-invariant metric: all operations are functions of one symmetric matrix of order 2n,
    regular at repeated eigenvalues and at coincident points. Errors are of order eps cond(b), and relative to the
    distance between close points. Points of geoopt's type, which are complex, are ``torch.stack((z.real, z.imag), -3)``
    here.

    Random points are exp of standard normal vectors at i I.

    Parameters
    ----------
    validate : bool
        See `Manifold`.

    Raises
    ------
    DimensionError
        From every method, where trailing dimensions are not (2, n, n).

    References
    ----------
    Siegel, Symplectic geometry, Amer. J. Math. 65, 1943.
    Nielsen, The Siegel-Klein disk: Hilbert geometry of the Siegel disk domain, Entropy 22, 2020 (distances).
    """

    name = "SiegelUpperHalf"
    ndim = 3
    reversible = True
    retractions = ("exp",)

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and (shape[-3] != 2 or shape[-2] != shape[-1]):
            return f"wanted trailing dimensions (2, n, n), got {tuple(shape[-3:])}"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        x = x.detach()
        reason = positive_error(x[..., 1, :, :], tolerance)
        if reason is not None:
            return f"has an imaginary part that {reason}"
        real = x[..., 0, :, :]
        if not bool(torch.isfinite(real).all()):
            return "has NaN or infinite entries"
        if not x.numel():
            return None
        gap, allowed = float((real - real.mT).abs().amax()), tolerance * max(1.0, float(real.abs().amax()))
        return None if gap <= allowed else f"has a real part that is not symmetric: off by {gap:.3g}"

    def _narrow(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        real, imaginary = result.unbind(-3)
        return torch.stack((real, lift(imaginary, dtype)), -3).to(dtype)

    def _dimension(self, *shape: int) -> int:
        return shape[-1] * (shape[-1] + 1)

    def _injectivity_radius(self) -> float:
        return math.inf

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Symmetric parts, with eigenvalues of the imaginary one raised to 2 eps of its length where they are below."""
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        real, imaginary = x.unbind(-3)
        return torch.stack((sym(real), lift(imaginary)), -3)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return sym(u).expand(torch.broadcast_shapes(x.shape, u.shape))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        lower = _factor(x)
        a = whitened(lower, u)
        return (a * (a if v is u else whitened(lower, v))).sum((-3, -2, -1))

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_sqrt(self._dist2(x, y))

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * spectral_log(*_embedded(x, y)).square().sum((-2, -1))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        b = x[..., 1:, :, :]
        return sym(b @ sym(u) @ b)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # From the geodesics a'' = 2 sym(b' b^-1 a'), b'' = b' b^-1 b' - a' b^-1 a'.
        b = x[..., 1, :, :]
        g0, g1 = (sym(part) @ b for part in egrad.unbind(-3))
        u0, u1 = u.unbind(-3)
        bend = torch.stack((sym(u1 @ g0 - u0 @ g1), sym(u1 @ g1 + u0 @ g0)), -3)
        return self._egrad2rgrad(x, ehess) + bend

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        lower = _factor(x)
        s, t = whitened(lower, u), whitened(lower, v)
        t = orthogonal_part(s, t, 3)
        a, b = _block(s), _block(t)
        ab = a @ b
        numerator = -0.125 * (ab - ab.mT).square().sum((-2, -1))
        squares = [(p * q).sum((-3, -2, -1)) for p, q in ((s, s), (s, t), (t, t))]
        return over_area(numerator, *squares)

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        lower = _factor(x)
        return _moved_point(x, lower.squeeze(-3), _half_step(lower, u))

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        n = x.shape[-1]
        s = spectral_log(*_embedded(x, y))
        top, mixed, bottom = s[..., :n, :n], s[..., :n, n:], s[..., n:, n:]
        lower = _factor(x)
        return sym(lower @ torch.stack((sym(mixed), 0.5 * (top - bottom)), -3) @ lower.mT)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return _moved_vector(_factor(x), spectral_root(*_embedded(x, y)), v)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        lower = _factor(x)
        g = _half_step(lower, u)
        return _moved_point(x, lower.squeeze(-3), g), _moved_vector(lower, g, v)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._expmap_transp(x, u, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self._expmap(self._origin(size, dtype, device), gaussian_symmetric(size, dtype, device, generator))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        lower = _factor(x)
        return sym(lower @ gaussian_symmetric(x.shape, x.dtype, x.device, generator) @ lower.mT)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        one = torch.eye(size[-1], dtype=dtype, device=device)
        return torch.stack((torch.zeros_like(one), one)).expand(size).clone()


def _factor(x: Tensor) -> Tensor:
    """Cholesky factor of the imaginary part, (..., 1, n, n): it broadcasts against both parts of a vector."""
    return lower_factor(x[..., 1:, :, :])


def _block(w: Tensor) -> Tensor:
    """[[w_1, w_0], [w_0, -w_1]]: a vector at i I as one of positive definite matrices at I."""
    real, imaginary = w.unbind(-3)
    return torch.cat((torch.cat((imaginary, real), -1), torch.cat((real, -imaginary), -1)), -2)


def _embedded(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The embedded y, seen from x at i I: the matrix p with the logarithms of its eigenvalues and its eigenvectors.

    With k the Cholesky factor of the imaginary part and f = a k^-T, p = [[k, f], [0, k^-T]] [[k, f], [0, k^-T]]^T.
    """
    lower, other = (_factor(t).squeeze(-3) for t in (x, y))
    real, change = whitened(lower.unsqueeze(-3), y - x).unbind(-3)
    inverse = solved(other, lower)
    f = real @ inverse.mT
    mixed = f @ inverse
    bottom = -sym(inverse.mT @ (inverse @ change))
    e = torch.cat((torch.cat((sym(change + f @ f.mT), mixed), -1), torch.cat((mixed.mT, bottom), -1)), -2)
    with torch.no_grad():
        k, f, inverse = torch.broadcast_tensors(solved(lower, other), f, inverse)
        factor = torch.cat((torch.cat((k, f), -1), torch.cat((torch.zeros_like(f), inverse.mT), -1)), -2)
    return log_spectrum(e, factor)


def _half_step(lower: Tensor, u: Tensor) -> Tensor:
    """The symplectic matrix g that moves i I to the point z after unit time: the embedded z is g g^T."""
    return spectral_value(*spectrum(0.5 * _block(whitened(lower, u))), EXP)


def _split(g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blocks a, b, c, d of g, and (c c^T + d d^T)^-1/2, with which (i c + d)^-1 = (d - i c)^T times its Gram matrix."""
    n = g.shape[-1] // 2
    top, bottom = g[..., :n, :], g[..., n:, :]
    identity = torch.eye(n, dtype=g.dtype, device=g.device)
    lower = lower_factor(bottom @ bottom.mT)
    return top, bottom[..., :n], bottom[..., n:], solved(lower, identity.expand_as(lower))


def _moved_point(x: Tensor, lower: Tensor, g: Tensor) -> Tensor:
    """g applied to i I, seen from x."""
    top, c, d, half = _split(g)
    mixed = top @ torch.cat((c, d), -1).mT
    scaled = lower @ half.mT
    real = x[..., 0, :, :] + sym(lower @ mixed @ half.mT @ scaled.mT)
    return torch.stack((real, sym(scaled @ scaled.mT)), -3)


def _moved_vector(lower: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """The derivative of g at i I: q (d - i c) w (d - i c)^T q, with w seen from x and q = (c c^T + d d^T)^-1."""
    _, c, d, half = _split(g)
    real, imaginary = whitened(lower, v).unbind(-3)
    first, second = d @ real + c @ imaginary, d @ imaginary - c @ real
    w = torch.stack((first @ d.mT + second @ c.mT, second @ d.mT - first @ c.mT), -3)
    scaled = lower @ (half.mT @ half).unsqueeze(-3)
    return sym(scaled @ w @ scaled.mT)

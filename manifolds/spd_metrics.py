"""Riemannian metrics of symmetric positive definite matrices: one object answers for every operation."""

import torch
from torch import Tensor

from holonomy.manifolds.linalg import (
    spectral_derivative,
    spectral_value,
    spectrum,
    sym,
    symmetric_derivative,
    symmetric_function,
    thin_svd,
)
from holonomy.manifolds.positive import (
    EXP,
    LOG,
    congruent,
    factor_change,
    gaussian_symmetric,
    lower_factor,
    lyapunov,
    relative_factor,
    relative_log,
    relative_root,
    whitened,
)
from holonomy.manifolds.pullback import Pullback
from holonomy.manifolds.tangent import over_area

__all__ = [
    "AffineInvariant",
    "BuresWasserstein",
    "LogCholesky",
    "LogEuclidean",
    "orthogonal_part",
]

Size = tuple[int, ...] | torch.Size
Device = torch.device | str | None
Generator = torch.Generator | None


def orthogonal_part(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    """Part of b orthogonal to a, in the last `ndim` dimensions: vectors that nearly agree span their plane by it."""
    axes = tuple(range(-ndim, 0))
    square = a.square().sum(axes, keepdim=True)
    return b - (a * b).sum(axes, keepdim=True) / torch.where(square > 0.0, square, torch.ones_like(square)) * a


def _gram(factor: Tensor) -> Tensor:
    """a a^T, positive definite also after rounding."""
    return sym(factor @ factor.mT)


def _log_normal(size: Size, dtype: torch.dtype, device: Device, generator: Generator) -> Tensor:
    return _gram(symmetric_function(0.5 * gaussian_symmetric(size, dtype, device, generator), EXP))


class AffineInvariant:
    """tr(x^-1 u x^-1 v): invariant under x -> a x a^T for every regular a (Pennec, Fillard, Ayache, IJCV 2006)."""

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product."""
        lower = lower_factor(x)
        a = whitened(lower, u)
        return (a * (a if v is u else whitened(lower, v))).sum((-2, -1))

    def dist2(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance."""
        return relative_log(lower_factor(x), x, y).square().sum((-2, -1))

    def egrad2rgrad(self, x: Tensor, egrad: Tensor) -> Tensor:
        """Riemannian gradient."""
        return sym(x @ sym(egrad) @ x)

    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """Riemannian Hessian along u."""
        return sym(x @ sym(ehess) @ x) + sym(u @ sym(egrad) @ x)

    def sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sectional curvature, -|[a, b]|^2/4 over the area for a = l^-1 u l^-T, b alike."""
        lower = lower_factor(x)
        a = whitened(lower, u)
        b = orthogonal_part(a, whitened(lower, v), 2)
        ab = a @ b
        numerator = -0.25 * (ab - ab.mT).square().sum((-2, -1))
        squares = [(s * t).sum((-2, -1)) for s, t in ((a, a), (a, b), (b, b))]
        return over_area(numerator, *squares)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential map."""
        lower = lower_factor(x)
        return _gram(lower @ symmetric_function(0.5 * whitened(lower, u), EXP))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm."""
        lower = lower_factor(x)
        return sym(lower @ relative_log(lower, x, y) @ lower.mT)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport."""
        lower = lower_factor(x)
        return self._moved(lower, relative_root(lower, x, y), v)

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Exponential map, and transport along it."""
        lower = lower_factor(x)
        root = symmetric_function(0.5 * whitened(lower, u), EXP)
        return _gram(lower @ root), self._moved(lower, root, v)

    def _moved(self, lower: Tensor, root: Tensor, v: Tensor) -> Tensor:
        factor = lower @ root
        return sym(factor @ whitened(lower, v) @ factor.mT)

    def random(self, size: Size, dtype: torch.dtype, device: Device, generator: Generator) -> Tensor:
        """Points exp(z), z standard normal among the symmetric matrices."""
        return _log_normal(size, dtype, device, generator)

    def random_tangent(self, x: Tensor, generator: Generator) -> Tensor:
        """Standard normal vectors."""
        lower = lower_factor(x)
        return sym(lower @ gaussian_symmetric(x.shape, x.dtype, x.device, generator) @ lower.mT)


class LogEuclidean(Pullback):
    """|D log(x)[u]|^2: the chart is the matrix logarithm (Arsigny et al., SIAM J. Matrix Anal. 2007)."""

    def chart(self, x: Tensor) -> Tensor:
        """Logarithm of the matrix."""
        return symmetric_function(x, LOG)

    def point(self, z: Tensor) -> Tensor:
        """Exponential of the matrix."""
        return _gram(symmetric_function(0.5 * z, EXP))

    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        """D log(x)[u]."""
        return symmetric_derivative(x, LOG, u)

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        """D exp(log x)[w]."""
        return spectral_derivative(*_log_spectrum(x), EXP, w)

    def components(self, x: Tensor, egrad: Tensor) -> Tensor:
        """D exp(log x)[egrad]: the derivative is self-adjoint."""
        return self.push(x, egrad)

    def components_change(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """D exp(z)[ehess] + D^2 exp(z)[egrad, D log(x)[u]] with z = log x."""
        z = _log_spectrum(x)
        return spectral_derivative(*z, EXP, ehess) + spectral_derivative(*z, EXP, egrad, self.pull(x, u))

    def random(self, size: Size, dtype: torch.dtype, device: Device, generator: Generator) -> Tensor:
        """Points exp(z), z standard normal among the symmetric matrices."""
        return _log_normal(size, dtype, device, generator)

    def random_tangent(self, x: Tensor, generator: Generator) -> Tensor:
        """Standard normal vectors."""
        return self.push(x, gaussian_symmetric(x.shape, x.dtype, x.device, generator))


def _log_spectrum(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, values, vectors = spectrum(x)
    return spectral_value(x, values, vectors, LOG), values.log(), vectors


class LogCholesky(Pullback):
    """The chart is the Cholesky factor, with the logarithm of its diagonal (Lin, SIAM J. Matrix Anal. 2019)."""

    def chart(self, x: Tensor) -> Tensor:
        """Cholesky factor with the logarithm of its diagonal."""
        lower = lower_factor(x)
        return _triangle(lower, _diagonal(lower).log())

    def point(self, z: Tensor) -> Tensor:
        """The matrix with this factor."""
        return _gram(_triangle(z, _diagonal(z).exp()))

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """Coordinates of y less those of x."""
        lower, other = lower_factor(x), lower_factor(y)
        near, n = relative_factor(lower, x, y)
        logs = torch.where(near.squeeze(-1), _diagonal(n).log1p(), _diagonal(other).log() - _diagonal(lower).log())
        return _triangle(torch.where(near, lower @ n, other - lower), logs)

    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        """Derivative of the factor, its diagonal relative to that of the factor."""
        lower = lower_factor(x)
        change = factor_change(lower, u)
        return _triangle(change, _diagonal(change) / _diagonal(lower))

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        """The vector with these components."""
        lower = lower_factor(x)
        change = _triangle(w, _diagonal(w) * _diagonal(lower))
        return 2.0 * sym(change @ lower.mT)

    def components(self, x: Tensor, egrad: Tensor) -> Tensor:
        """Gradient in the factor, its diagonal times that of the factor."""
        lower = lower_factor(x)
        slope = 2.0 * sym(egrad) @ lower
        return _triangle(slope, _diagonal(slope) * _diagonal(lower))

    def components_change(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """The same, differentiated along u."""
        lower = lower_factor(x)
        change = factor_change(lower, u)
        slope, bend = 2.0 * sym(egrad) @ lower, 2.0 * (sym(ehess) @ lower + sym(egrad) @ change)
        return _triangle(bend, _diagonal(bend) * _diagonal(lower) + _diagonal(slope) * _diagonal(change))

    def random(self, size: Size, dtype: torch.dtype, device: Device, generator: Generator) -> Tensor:
        """Points whose chart is standard normal."""
        return self.point(torch.randn(size, dtype=dtype, device=device, generator=generator))

    def random_tangent(self, x: Tensor, generator: Generator) -> Tensor:
        """Standard normal vectors."""
        return self.push(x, torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator))


def _diagonal(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1)


def _triangle(a: Tensor, diagonal: Tensor) -> Tensor:
    """Lower triangle of a, with another diagonal."""
    return a.tril(-1) + torch.diag_embed(diagonal)


class BuresWasserstein:
    """tr(w x w) for u = w x + x w: optimal transport of centred normal laws (Bhatia, Jain, Lim, Expo. Math. 2019).

    It is the quotient of the Euclidean metric of factors a by rotations, with x = a a^T: what follows lifts a vector to
    w a, and projects by z -> z a^T + a z^T.
    """

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product."""
        return 0.5 * (u * lyapunov(*spectrum(x), v)).sum((-2, -1))

    def dist2(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance."""
        w = _displacement(x, y)
        return ((w @ x) * w).sum((-2, -1))

    def egrad2rgrad(self, x: Tensor, egrad: Tensor) -> Tensor:
        """Riemannian gradient."""
        return 4.0 * sym(sym(egrad) @ x)

    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """Riemannian Hessian along u: the lifted gradient 2 egrad a, differentiated along w a, and projected."""
        w = lyapunov(*spectrum(x), u)
        return 4.0 * sym((sym(ehess) + sym(egrad) @ w) @ x)

    def sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sectional curvature by O'Neill: three times the square of the vertical part of (w_v w_u - w_u w_v) a/2."""
        s = spectrum(x)
        a, b = lyapunov(*s, u), lyapunov(*s, v)
        vertical = lyapunov(*s, a @ b - b @ a)
        numerator = 3.0 * ((x @ vertical @ x) * (x @ vertical)).sum((-2, -1))
        squares = [0.5 * (p * q).sum((-2, -1)) for p, q in ((u, a), (u, b), (v, b))]
        return over_area(numerator, *squares)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential map."""
        return self._pushed(x, lyapunov(*spectrum(x), sym(u)))

    def _pushed(self, x: Tensor, w: Tensor) -> Tensor:
        lower = lower_factor(x)
        return _gram(lower + w @ lower)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm."""
        return 2.0 * sym(_displacement(x, y) @ x)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The lifted vector, kept constant and projected at y."""
        return self._moved(x, _displacement(x, y), v)

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Exponential map, and transport along it."""
        w = lyapunov(*spectrum(x), sym(u))
        return self._pushed(x, w), self._moved(x, w, v)

    def _moved(self, x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        along = lyapunov(*spectrum(x), sym(v)) @ x
        return 2.0 * sym(along + along @ w)

    def random(self, size: Size, dtype: torch.dtype, device: Device, generator: Generator) -> Tensor:
        """Points exp(z), z standard normal among the symmetric matrices."""
        return _log_normal(size, dtype, device, generator)

    def random_tangent(self, x: Tensor, generator: Generator) -> Tensor:
        """Standard normal vectors."""
        x, values, vectors = spectrum(x)
        total = values.unsqueeze(-1) + values.unsqueeze(-2)
        z = gaussian_symmetric(x.shape, x.dtype, x.device, generator)
        return sym(vectors @ (z * (2.0 * total).sqrt()) @ vectors.mT)


def _displacement(x: Tensor, y: Tensor) -> Tensor:
    """Symmetric w with (I + w) x (I + w) = y and I + w positive: optimal transport, less the identity.

    From the singular values of l_y^T l_x; then two steps of Newton's iteration with the inverse Jacobian frozen. The
    residual is written in the difference y - x: the first step gives close points their digits, and each gives one
    order of the derivative.
    """
    lower, other = lower_factor(x).detach(), lower_factor(y).detach()
    _, singular, vh = thin_svd(other.mT @ lower)
    total = singular.unsqueeze(-1) + singular.unsqueeze(-2)
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    w = congruent(lower, (vh.mT * singular.unsqueeze(-2)) @ vh) - identity
    for _ in range(2):
        residual = sym(y - x - 2.0 * sym(w @ x) - w @ x @ w)
        turned = vh @ (lower.mT @ residual @ lower) @ vh.mT
        w = w + congruent(lower, vh.mT @ (turned / total) @ vh)
    return w

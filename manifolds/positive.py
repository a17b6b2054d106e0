"""Functions of positive definite matrices: exponential, logarithm, square root, Lyapunov's equation.

All are differentiable at repeated eigenvalues. Divided differences are written in the logarithms of the eigenvalues,
where nothing cancels: exp[s, t] = exp((s + t)/2) sinh((s - t)/2)/((s - t)/2), and those of the logarithm, the inverse
function, are quotients of those of exp.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from holonomy.manifolds.functions import sinhc
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.linalg import (
    SpectralFunction,
    spectral_value,
    spectrum,
    sym,
    symmetric_eigen,
    thin_svd,
    with_forward_mode,
)

__all__ = [
    "EXP",
    "LOG",
    "SQRT",
    "congruent",
    "factor_change",
    "gaussian_symmetric",
    "lift",
    "log_spectrum",
    "lower_factor",
    "lyapunov",
    "positive_error",
    "relative_factor",
    "relative_log",
    "relative_root",
    "relative_spectrum",
    "solved",
    "spectral_log",
    "spectral_root",
    "whitened",
]

# -- divided differences -------------------------------------------------------------------------------------------

#: Terms of Taylor's series about the mean, for points that span less than 1: the next is below 1e-16 of the first.
_TERMS = 17


def _exp_first(s: Tensor, t: Tensor) -> Tensor:
    return torch.exp(0.5 * (s + t)) * sinhc((0.5 * (s - t)).square())


def _exp_higher(*points: Tensor) -> Tensor:
    return _exp_sorted(torch.stack(torch.broadcast_tensors(*points), -1).sort(-1).values)


def _exp_sorted(s: Tensor) -> Tensor:
    """Divided difference of exp over points that ascend along the last axis.

    Close points: exp(m) sum_j h_j(e)/(j + n)!, with e the offsets from the mean m and h_j the complete homogeneous
    symmetric polynomials, by h_j(e_1..e_k) = h_j(e_1..e_(k-1)) + e_k h_(j-1)(e_1..e_k). Others: the recursion.
    """
    order = s.shape[-1] - 1
    if order == 1:
        return _exp_first(s[..., 0], s[..., 1])
    spread = s[..., -1] - s[..., 0]
    near = spread < 1.0
    mean = s.mean(-1)
    offsets = torch.where(near.unsqueeze(-1), s - mean.unsqueeze(-1), torch.zeros_like(s))
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    h = [one] + [zero] * (_TERMS - 1)
    for e in offsets.unbind(-1):
        for j in range(1, _TERMS):
            h[j] = h[j] + e * h[j - 1]
    taylor = zero
    for j in reversed(range(_TERMS)):
        taylor = taylor + h[j] / float(math.factorial(j + order))
    wide = (_exp_sorted(s[..., 1:]) - _exp_sorted(s[..., :-1])) / torch.where(near, one, spread)
    return torch.where(near, torch.exp(mean) * taylor, wide)


#: exp(t).
EXP = SpectralFunction(torch.exp, _exp_first, _exp_higher, _exp_higher)


def _log_first(s: Tensor, t: Tensor) -> Tensor:
    return 1.0 / _exp_first(s, t)


def _log_second(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return -_exp_higher(r, s, t) / (_exp_first(r, s) * _exp_first(s, t) * _exp_first(r, t))


def _log_third(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    ab, ac, ad, bc = _exp_first(a, b), _exp_first(a, c), _exp_first(a, d), _exp_first(b, c)
    bd, cd = _exp_first(b, d), _exp_first(c, d)
    curved = _exp_higher(a, b, c) * (_exp_higher(a, c, d) * bd + ac * _exp_higher(a, b, d))
    return (curved / (ab * ac) - _exp_higher(a, b, c, d)) / (ad * bc * cd * bd)


def _sqrt_first(s: Tensor, t: Tensor) -> Tensor:
    return 1.0 / (torch.exp(0.5 * s) + torch.exp(0.5 * t))


def _sqrt_second(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return -_sqrt_first(r, s) * _sqrt_first(s, t) * _sqrt_first(r, t)


#: log and square root of a matrix whose eigenvalues are given by their logarithms.
_LOG = SpectralFunction(lambda t: t, _log_first, _log_second, _log_third)
_SQRT = SpectralFunction(lambda t: torch.exp(0.5 * t), _sqrt_first, _sqrt_second)


def _of_logarithms(f: SpectralFunction, g: Callable[[Tensor], Tensor]) -> SpectralFunction:
    """The function of a matrix, from what f does to g of its eigenvalues."""

    def difference(*points: Tensor) -> Tensor:
        return f.difference(*(g(t) for t in points))

    return SpectralFunction(lambda t: f.value(g(t)), difference, difference, f.higher and difference)


#: log(s), s > 0.
LOG = _of_logarithms(_LOG, torch.log)
#: sqrt(s), s > 0.
SQRT = _of_logarithms(_SQRT, torch.log)


# -- factors and relative spectra ----------------------------------------------------------------------------------


def lower_factor(x: Tensor) -> Tensor:
    """Cholesky factor of positive definite x, lower triangular."""
    return torch.linalg.cholesky_ex(x)[0]


def solved(lower: Tensor, u: Tensor) -> Tensor:
    """l^-1 u for lower triangular l."""
    return torch.linalg.solve_triangular(lower, u, upper=False)


def whitened(lower: Tensor, u: Tensor) -> Tensor:
    """l^-1 u l^-T for lower triangular l and symmetric u."""
    return sym(solved(lower, solved(lower, u).mT))


def relative_factor(lower: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether y is close to x = l l^T, as (..., 1, 1), and n with l_y = l (I + n) where it is, else 0.

    One step of Newton's iteration for n + n^T + n n^T = l^-1 (y - x) l^-T, from a factorisation: n keeps its digits
    where it is small.
    """
    e = whitened(lower, y - x)
    near = torch.linalg.matrix_norm(e.detach(), keepdim=True) < 0.5
    e = torch.where(near, e, torch.zeros_like(e))
    identity = torch.eye(e.shape[-1], dtype=e.dtype, device=e.device)
    other = lower_factor(identity + e)
    n = other - identity
    return near, n + factor_change(other, e - n - n.mT - n @ n.mT)


def factor_change(lower: Tensor, u: Tensor) -> Tensor:
    """Derivative of the Cholesky factor along u: l h, h lower triangular with h + h^T = l^-1 u l^-T."""
    w = whitened(lower, u)
    return lower @ (w.tril(-1) + 0.5 * torch.diag_embed(w.diagonal(dim1=-2, dim2=-1)))


def congruent(lower: Tensor, w: Tensor) -> Tensor:
    """l^-T w l^-1 for lower triangular l and symmetric w."""
    half = torch.linalg.solve_triangular(lower.mT, w, upper=True)
    return sym(torch.linalg.solve_triangular(lower.mT, half.mT, upper=True))


def log_spectrum(e: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix I + e = f f^T, the logarithms of its eigenvalues, and its eigenvectors.

    From e where that is small, so that small logarithms keep their digits; else from the singular values of the factor
    f, so that small eigenvalues do. Only e is differentiated.
    """
    with torch.no_grad():
        near = torch.linalg.matrix_norm(e, keepdim=True) < 0.5
        left, singular, _ = thin_svd(factor)
        values, vectors = symmetric_eigen(torch.where(near, e, torch.zeros_like(e)))
        close = near.squeeze(-1)
        logs = torch.where(close, torch.log1p(values), 2.0 * torch.log(torch.where(close, 1.0, singular)))
        vectors = torch.where(near, vectors, left)
    return torch.eye(e.shape[-1], dtype=e.dtype, device=e.device) + e, logs, vectors


def relative_spectrum(lower: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix l^-1 y l^-T with x = l l^T, the logarithms of its eigenvalues, and its eigenvectors."""
    return log_spectrum(whitened(lower, y - x), solved(lower, lower_factor(y)).detach())


def spectral_log(a: Tensor, logs: Tensor, vectors: Tensor) -> Tensor:
    """Logarithm of a, from its `log_spectrum`."""
    return spectral_value(a, logs, vectors, _LOG)


def spectral_root(a: Tensor, logs: Tensor, vectors: Tensor) -> Tensor:
    """Square root of a, from its `log_spectrum`."""
    return spectral_value(a, logs, vectors, _SQRT)


def relative_log(lower: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """log(l^-1 y l^-T) with x = l l^T."""
    return spectral_log(*relative_spectrum(lower, x, y))


def relative_root(lower: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Square root of l^-1 y l^-T with x = l l^T."""
    return spectral_root(*relative_spectrum(lower, x, y))


# -- Lyapunov's equation -------------------------------------------------------------------------------------------


class _Lyapunov(Function):
    """Solution w of x w + w x = r: self-adjoint in r, and its derivatives are solutions of other right sides."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, values: Tensor, vectors: Tensor, r: Tensor) -> Tensor:
        total = values.unsqueeze(-1) + values.unsqueeze(-2)
        return vectors @ ((vectors.mT @ r @ vectors) / total) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, values, vectors, _ = inputs
        ctx.save_for_backward(x, values, vectors, output)
        ctx.save_for_forward(x, values, vectors, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor]:
        x, values, vectors, w = ctx.saved_tensors
        s = lyapunov(x, values, vectors, grads[0])
        return -(s @ w.mT + w.mT @ s), None, None, s

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        x, values, vectors, w = ctx.saved_tensors
        change = torch.zeros_like(w) if tangents[3] is None else tangents[3]
        if tangents[0] is not None:
            change = change - tangents[0] @ w - w @ tangents[0]
        return lyapunov(x, values, vectors, change)


_lyapunov = with_forward_mode(_Lyapunov)


def lyapunov(x: Tensor, values: Tensor, vectors: Tensor, r: Tensor) -> Tensor:
    """Solution w of x w + w x = r, for positive definite x with its `spectrum`. Differentiable to any order."""
    return _lyapunov(x, values, vectors, r)


# -- points --------------------------------------------------------------------------------------------------------


def _shortfall(floor: float) -> SpectralFunction:
    """max(floor - s, 0), with derivatives where there are some."""

    def first(s: Tensor, t: Tensor) -> Tensor:
        low, high = torch.minimum(s, t), torch.maximum(s, t)
        same = low == high
        share = (high.clamp_max(floor) - low.clamp_max(floor)) / torch.where(same, torch.ones_like(low), high - low)
        return -torch.where(same, (low < floor).to(share.dtype), share)

    def second(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
        low, high = torch.minimum(torch.minimum(r, s), t), torch.maximum(torch.maximum(r, s), t)
        middle = torch.maximum(torch.minimum(r, s), torch.minimum(torch.maximum(r, s), t))
        spread = torch.where(low == high, torch.ones_like(low), high - low)
        return (first(middle, high) - first(low, middle)) / spread

    return SpectralFunction(lambda s: (floor - s).clamp_min(0.0), first, second)


_SHORTFALL = {
    dtype: _shortfall(2.0 * torch.finfo(dtype).eps)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def lift(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Symmetric part of x, its eigenvalues raised to 2 eps |x| where they are below: positive after rounding.

    `dtype`, by default that of x, is the one that eps belongs to. Where no eigenvalue is low, x is left as it is.
    """
    x = sym(x)
    scale = safe_sqrt(x.square().sum((-1, -2))[..., None, None])
    scale = torch.where(scale > 0.0, scale, torch.ones_like(scale))
    return x + scale * spectral_value(*spectrum(x / scale), _SHORTFALL[x.dtype if dtype is None else dtype])


def gaussian_symmetric(
    size: tuple[int, ...] | torch.Size,
    dtype: torch.dtype,
    device: torch.device | str | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Symmetric matrices whose components in an orthonormal basis of Frobenius's inner product are standard normal."""
    return sym(torch.randn(size, dtype=dtype, device=device, generator=generator))


def positive_error(x: Tensor, tolerance: float) -> str | None:
    """Say why a matrix is not symmetric positive definite, or None."""
    if not bool(torch.isfinite(x).all()):
        return "has NaN or infinite entries"
    if not x.numel():
        return None
    gap, allowed = float((x - x.mT).abs().amax()), tolerance * max(1.0, float(x.abs().amax()))
    if gap > allowed:
        return f"is not symmetric: off by {gap:.3g} (tolerance {allowed:.3g})"
    lowest = float(torch.linalg.eigvalsh(x).amin())
    return None if lowest > 0.0 else f"is not positive definite: its lowest eigenvalue is {lowest:.3g}"

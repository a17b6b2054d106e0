"""Matrix functions that the matrix manifolds share, with derivatives that stay finite at repeated eigenvalues.

Everything of size p x p is derived from Gram matrices, so that tall n x p matrices are only ever multiplied. All
functions take (..., m, m) or (..., n, p) tensors, batch over the leading dimensions, are twice differentiable, and
hand NaN on instead of raising.
"""

import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import Function

__all__ = [
    "ARCCOSC",
    "COS",
    "INVERSE_SQRT",
    "SINC",
    "SpectralFunction",
    "cholesky_qr",
    "combine",
    "combine_orthonormal",
    "gram_gap",
    "haar",
    "matrix_exp",
    "nearest_orthonormal",
    "nearest_rotation",
    "numerical_rank",
    "polar",
    "skew",
    "spectral_derivative",
    "spectral_value",
    "spectrum",
    "sym",
    "symmetric_derivative",
    "symmetric_eigen",
    "symmetric_function",
    "symmetric_functions",
    "thin_svd",
    "with_forward_mode",
]


def sym(a: Tensor) -> Tensor:
    """Symmetric part of square matrices."""
    return 0.5 * (a + a.mT)


def skew(a: Tensor) -> Tensor:
    """Skew-symmetric part of square matrices."""
    return 0.5 * (a - a.mT)


def gram_gap(x: Tensor) -> float:
    """Largest entry of |x^T x - I|: how far the columns of x are from orthonormal."""
    x = x.detach()
    return float((x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)).abs().amax())


def numerical_rank(x: Tensor, energy: float = 0.95) -> int:
    """Smallest r for which the r largest singular values of x (n, p) hold more than this share of their squares' sum.

    Parameters
    ----------
    x : Tensor
        Float32 or float64, shape (n, p). Of a matrix of zeros the rank is 0.
    energy : float, default 0.95
        The share, in (0, 1).

    Raises
    ------
    TypeError
        Where `x` is not a floating tensor.
    ValueError
        Where `x` is not 2-D or not finite, or `energy` is out of its range.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"numerical_rank: 'x' must be a floating tensor, got {got}")
    if not 0.0 < energy < 1.0:
        raise ValueError(f"numerical_rank: 'energy' must be in (0, 1), got {energy!r}")
    x = x.detach()
    if x.ndim != 2 or 0 in x.shape or not bool(x.isfinite().all()):
        raise ValueError(f"numerical_rank: 'x' has shape {tuple(x.shape)}, wanted (n, p) with finite values")
    squares = torch.linalg.svdvals(x.double()).square()
    total = float(squares.sum())
    return 0 if total == 0.0 else int((squares.cumsum(0) <= energy * total).sum()) + 1


def _transforms() -> list[TransformType]:
    """The torch.func transforms around the caller, outermost first. torch has no public name for this."""
    return [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]


def with_forward_mode(function: type[Function]) -> Callable[..., Tensor]:
    """Return ``function.apply`` with ``function.tangent`` as its rule for forward-mode differentiation.

    torch 2.13 gets two uses of such a rule wrong in silence. Nested forward mode (pytorch issue 197867) is refused
    here. Within a compiled region the rule is dropped (issue 192985), and a Function that has one is not traced when
    its inputs require gradients: the rule is left away there, and jvp has to stay outside of torch.compile.
    """
    rule = {"jvp": staticmethod(vars(function)["tangent"].__func__)}
    dual: Any = types.new_class(
        f"{function.__name__}WithForwardMode", (function,), exec_body=lambda body: body.update(rule)
    )

    def apply(*arguments: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return function.apply(*arguments)
        if _transforms().count(TransformType.Jvp) > 1:
            raise NotImplementedError(
                "forward-mode differentiation of forward-mode derivatives is not supported: "
                "use reverse mode for one of the two (torch.func.hessian does)"
            )
        return dual.apply(*arguments)

    return apply


def combine(x: Tensor, a: Tensor, u: Tensor, b: Tensor) -> Tensor:
    """x a + u b for tall x, u (..., n, p) and p x p matrices a, b, with no tall temporary."""
    if torch.compiler.is_compiling() or _transforms():
        return x @ a + u @ b
    batch = torch.broadcast_shapes(x.shape[:-2], u.shape[:-2], a.shape[:-2], b.shape[:-2])
    n, p = x.shape[-2:]
    tall, small = (math.prod(batch), n, p), (math.prod(batch), p, p)
    x, u = (t.expand(*batch, n, p).reshape(tall) for t in (x, u))
    a, b = (t.expand(*batch, p, p).reshape(small) for t in (a, b))
    # Into the first product: a second tall allocation would cost half of the time.
    return torch.bmm(x, a).baddbmm_(u, b).reshape(*batch, n, p)


def combine_orthonormal(x: Tensor, a: Tensor, u: Tensor, b: Tensor, uu: Tensor, xu: Tensor | None = None) -> Tensor:
    """x a + u b where this is orthonormal but for rounding, brought closer to orthonormal: no drift over many steps.

    One Newton-Schulz step y (3 I - y^T y)/2 on the coefficients, with y^T y from the Gram matrices uu = u^T u and
    xu = x^T u (None for 0), which the caller has, and x^T x.
    """
    gram = a.mT @ (x.mT @ x) @ a + b.mT @ uu @ b
    if xu is not None:
        gram = gram + 2.0 * sym(a.mT @ xu @ b)
    correction = 1.5 * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - 0.5 * gram
    return combine(x, a @ correction, u, b @ correction)


def matrix_exp(a: Tensor) -> Tensor:
    """Matrix exponential, to rounding for any batch.

    For a batch of one, torch's own ends its Taylor series too early (torch 2.13: errors up to 2e-11 in float64 and
    2e-5 in float32, at norms of 0.03 and 0.5); for two and more it does not.
    """
    if a.shape[:-2].numel() != 1:
        return torch.linalg.matrix_exp(a)
    return torch.linalg.matrix_exp(a.expand(2, *a.shape))[0]


# -- functions of symmetric matrices -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpectralFunction:
    """A scalar function with what the derivatives of its matrix function need.

    Attributes
    ----------
    value : callable
        f(s), elementwise.
    first : callable
        The divided difference f[s, t] = (f(s) - f(t))/(s - t), equal to f'(s) where s = t.
    second : callable
        The divided difference f[r, s, t] of second order, symmetric in its arguments.
    higher : callable, optional
        Divided differences of higher order, of four arguments and more; None where the second derivative is the last.
    """

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor, Tensor, Tensor], Tensor]
    higher: Callable[..., Tensor] | None = None

    def difference(self, *points: Tensor) -> Tensor:
        """Divided difference of any order that is offered, of two points and more."""
        if len(points) == 2:
            return self.first(*points)
        if len(points) == 3:
            return self.second(*points)
        if self.higher is None:
            raise NotImplementedError("derivatives of this matrix function are offered up to the second")
        return self.higher(*points)


def symmetric_functions(a: Tensor, *functions: SpectralFunction) -> tuple[Tensor, ...]:
    """f(a) for symmetric a and each f: f applied to the eigenvalues, which are computed once.

    The first derivative is the Daleckii-Krein formula, the others its analogues with divided differences of higher
    order (Higham, Functions of Matrices, theorem 3.11 and section 3.2): no gap between eigenvalues is divided by,
    so that repeated eigenvalues are regular points. The double backward pass needs memory of order p^3 a matrix.
    """
    a, values, vectors = spectrum(a)
    return tuple(spectral_value(a, values, vectors, f) for f in functions)


def symmetric_function(a: Tensor, f: SpectralFunction) -> Tensor:
    """f(a) for symmetric a. See `symmetric_functions`."""
    return symmetric_functions(a, f)[0]


def symmetric_derivative(a: Tensor, f: SpectralFunction, *directions: Tensor) -> Tensor:
    """Derivative of f(a) at symmetric a along symmetric directions, one for each order."""
    return spectral_derivative(*spectrum(a), f, *directions)


def spectrum(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Symmetric part of a, with its eigenvalues and eigenvectors as constants of differentiation."""
    a = sym(a)
    return a, *symmetric_eigen(a.detach())


def symmetric_eigen(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; NaN, without an error, where the matrix is not finite."""
    finite = torch.isfinite(a).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], a, torch.zeros_like(a)))
    return torch.where(finite.unsqueeze(-1), values, torch.full_like(values, math.nan)), vectors


class _SymmetricFunction(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, values: Tensor, vectors: Tensor, f: SpectralFunction) -> Tensor:
        return (vectors * f.value(values).unsqueeze(-2)) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, values, vectors, ctx.f = inputs
        ctx.save_for_backward(a, values, vectors)
        ctx.save_for_forward(a, values, vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        a, values, vectors = ctx.saved_tensors
        return spectral_derivative(a, values, vectors, ctx.f, grads[0]), None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        a, values, vectors = ctx.saved_tensors
        return spectral_derivative(a, values, vectors, ctx.f, tangents[0])


class _Frechet(Function):
    """Derivative of a matrix function along symmetric directions e_1, ..., e_k, stacked in front.

    tr(g D^k f(a)[e_1, ..., e_k]) is symmetric in all of g, e_1, ..., e_k: every derivative is another of the kind.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, values: Tensor, vectors: Tensor, directions: Tensor, f: SpectralFunction) -> Tensor:
        rotated = (vectors.mT @ directions @ vectors).unbind()
        order = len(rotated)
        places = [values[(..., *[None] * k, slice(None), *[None] * (order - k))] for k in range(order + 1)]
        differences = f.difference(*places)
        if order == 1:
            return vectors @ (differences * rotated[0]) @ vectors.mT
        letters = "ijklmnop"[: order + 1]
        terms = ",".join(f"...{letters[k : k + 2]}" for k in range(order))
        formula = f"...{letters},{terms}->...{letters[0]}{letters[-1]}"
        total = torch.stack([torch.einsum(formula, differences, *p) for p in permutations(rotated)]).sum(0)
        return vectors @ total @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, values, vectors, directions, ctx.f = inputs
        ctx.save_for_backward(a, values, vectors, directions)
        ctx.save_for_forward(a, values, vectors, directions)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None]:
        a, values, vectors, directions = ctx.saved_tensors

        def derivative(*along: Tensor) -> Tensor:
            return spectral_derivative(a, values, vectors, ctx.f, *along)

        e = directions.unbind()
        curved = derivative(*e, grads[0]) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[3]:
            return curved, None, None, None, None
        others = [derivative(*e[:i], *e[i + 1 :], grads[0]) for i in range(len(e))]
        return curved, None, None, torch.stack(others), None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        a, values, vectors, directions = ctx.saved_tensors
        e = directions.unbind()
        along = [] if tangents[0] is None else [(*e, tangents[0])]
        if tangents[3] is not None:
            along += [(*e[:i], *e[i + 1 :], change) for i, change in enumerate(tangents[3].unbind())]
        changes = [spectral_derivative(a, values, vectors, ctx.f, *directions) for directions in along]
        return sum(changes[1:], changes[0])


_spectral_value = with_forward_mode(_SymmetricFunction)
_spectral_derivative = with_forward_mode(_Frechet)


def spectral_value(a: Tensor, values: Tensor, vectors: Tensor, f: SpectralFunction) -> Tensor:
    """f(a) for symmetric a with these eigenvalues and eigenvectors, which are not differentiated."""
    return _spectral_value(a, values, vectors, f)


def spectral_derivative(a: Tensor, values: Tensor, vectors: Tensor, f: SpectralFunction, *directions: Tensor) -> Tensor:
    """Derivative of f(a) along the symmetric parts of the directions, one for each order."""
    *along, _ = torch.broadcast_tensors(*directions, a)
    return _spectral_derivative(a, values, vectors, sym(torch.stack(along)), f)


# -- scalar functions with divided differences ---------------------------------------------------------------------

Derivatives = Callable[[Tensor, int], Sequence[Tensor]]


def _spectral(derivatives: Derivatives, gap: Callable[[torch.dtype], float]) -> SpectralFunction:
    """Divided differences from the derivatives f, f', ..., f^(6).

    Quotients where the arguments are further apart than `gap`, else Taylor polynomials about their mean: with
    e_i the offsets from the mean m, f[a, b, c] = sum_j f^(j+2)(m)/(j+2)! h_j(e), h_j the complete homogeneous
    symmetric polynomial.
    """

    def value(s: Tensor) -> Tensor:
        return derivatives(s, 0)[0]

    def first(a: Tensor, b: Tensor) -> Tensor:
        near = (a - b).abs() < gap(a.dtype)
        q = (0.5 * (a - b)).square()
        d = derivatives(0.5 * (a + b), 5)
        taylor = d[1] + q * (d[3] / 6.0 + q * d[5] / 120.0)
        return torch.where(near, taylor, (value(a) - value(b)) / torch.where(near, torch.ones_like(q), a - b))

    def second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
        middle = torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
        near = high - low < gap(a.dtype)
        mean = (a + b + c) / 3.0
        offsets = (a - mean, b - mean, c - mean)
        p2, p3, p4 = (sum(e**k for e in offsets) for k in (2, 3, 4))
        d = derivatives(mean, 6)
        taylor = 0.5 * d[2] + d[4] * p2 / 48.0 + d[5] * p3 / 360.0 + d[6] * (p2 * p2 / 8.0 + p4 / 4.0) / 720.0
        spread = torch.where(near, torch.ones_like(high), high - low)
        return torch.where(near, taylor, (first(middle, high) - first(low, middle)) / spread)

    return SpectralFunction(value, first, second)


def _horner(t: Tensor, coefficients: Sequence[float]) -> Tensor:
    result = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * t + coefficient
    return result


def _bessel_coefficients(k: int) -> list[float]:
    # j_k(r)/r^k = sum_i (-s/2)^i / (i! (2k + 2i + 1)!!)
    return [(-0.5) ** i / (math.factorial(i) * math.prod(range(2 * k + 2 * i + 1, 0, -2))) for i in range(16)]


_BESSEL = {k: _bessel_coefficients(k) for k in range(-1, 7)}
_BESSEL_CUT = 4.0


def _bessel(s: Tensor, last: int) -> list[Tensor]:
    """cos r, then j_k(r)/r^k for k = 0..last, as functions of s = r^2.

    d/ds of each is -1/2 times the next. Upward recurrence above the cut, where it is stable for k <= 6; series below.
    """
    small = s < _BESSEL_CUT
    t = torch.where(small, s, torch.zeros_like(s))
    wide = torch.where(small, torch.full_like(s, _BESSEL_CUT), s)
    r = wide.sqrt()
    upward = [torch.cos(r), torch.sin(r) / r]
    for k in range(last):
        upward.append(((2 * k + 1) * upward[-1] - upward[-2]) / wide)
    return [torch.where(small, _horner(t, _BESSEL[k - 1]), upward[k]) for k in range(last + 2)]


def _cos(s: Tensor, order: int) -> list[Tensor]:
    return [(-0.5) ** k * b for k, b in enumerate(_bessel(s, order - 1)[: order + 1])]


def _sinc(s: Tensor, order: int) -> list[Tensor]:
    return [(-0.5) ** k * b for k, b in enumerate(_bessel(s, order)[1:])]


def _arccosc_coefficients() -> list[float]:
    # arccos(c)/sqrt(1 - c^2) = 2F1(1, 1; 3/2; z) with z = (1 - c)/2
    coefficients = [1.0]
    for k in range(28):
        coefficients.append(coefficients[-1] * (k + 1.0) / (k + 1.5))
    return coefficients


_ARCCOSC = [_arccosc_coefficients()]
for _ in range(6):  # d/dc = -1/2 d/dz
    _ARCCOSC.append([-0.5 * k * coefficient for k, coefficient in enumerate(_ARCCOSC[-1])][1:])
_ARCCOSC_CUT = 0.1


def _arccosc(c: Tensor, order: int) -> list[Tensor]:
    z = 0.5 * (1.0 - c)
    small = z < _ARCCOSC_CUT
    t = torch.where(small, z, torch.zeros_like(z))
    w = torch.where(small, torch.zeros_like(c), c)
    q = 1.0 - w * w
    closed = [torch.acos(w) / q.sqrt()]
    for k in range(order):  # from (1 - c^2) h' = c h - 1, differentiated k times
        lower = k * k * closed[k - 1] if k else -torch.ones_like(w)
        closed.append(((2 * k + 1) * w * closed[k] + lower) / q)
    return [torch.where(small, _horner(t, _ARCCOSC[k]), closed[k]) for k in range(order + 1)]


def _seventh_root(dtype: torch.dtype) -> float:
    # Truncation gap^6 against rounding eps/gap, for a function whose Taylor series has radius 1.
    return torch.finfo(dtype).eps ** (1.0 / 7.0)


def _inverse_sqrt_first(a: Tensor, b: Tensor) -> Tensor:
    r, s = a.sqrt(), b.sqrt()
    return -1.0 / (r * s * (r + s))


def _inverse_sqrt_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    r, s, t = a.sqrt(), b.sqrt(), c.sqrt()
    return (r + s + t) / (r * s * t * (r + s) * (s + t) * (t + r))


#: cos(sqrt(s)).
COS = _spectral(_cos, lambda dtype: 1.0)
#: sin(sqrt(s))/sqrt(s).
SINC = _spectral(_sinc, lambda dtype: 1.0)
#: arccos(c)/sqrt(1 - c^2), that is angle over sine as a function of the cosine: analytic on (-1, 1], also at c = 1.
ARCCOSC = _spectral(_arccosc, _seventh_root)
#: 1/sqrt(s), s > 0.
INVERSE_SQRT = SpectralFunction(torch.rsqrt, _inverse_sqrt_first, _inverse_sqrt_second)


# -- orthonormal factors -------------------------------------------------------------------------------------------


def cholesky_qr(w: Tensor) -> Tensor:
    """Q factor of tall w (..., n, p) with full column rank, the diagonal of R positive.

    Shifted CholeskyQR2 (Fukaya et al., SIAM J. Sci. Comput. 42, 2020): the first pass cannot break down, the second
    brings the columns to orthonormality within rounding while cond(w)^2 < 1/eps. Only Gram matrices are factorised:
    several times faster than Householder on a GPU, and differentiable to any order.
    """
    return _cholesky_pass(_cholesky_pass(w, shift=10.0 * torch.finfo(w.dtype).eps), shift=0.0)


def _cholesky_pass(w: Tensor, shift: float) -> Tensor:
    gram = w.mT @ w
    identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    if shift:
        largest = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        gram = gram + shift * largest * identity
    lower = torch.linalg.cholesky_ex(gram)[0]
    return w @ torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False).mT


def polar(w: Tensor) -> Tensor:
    """Orthonormal polar factor w (w^T w)^(-1/2) of tall w (..., n, p) whose singular values are at least about 1.

    Two passes: what rounding leaves of the first is removed by the second.
    """
    return _polar_pass(_polar_pass(w))


def _polar_pass(w: Tensor) -> Tensor:
    gram = w.mT @ w
    identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    # A floor far below any singular value of full-rank w: it keeps a rank-deficient one finite.
    floor = torch.finfo(w.dtype).eps * gram.detach().diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    floor = torch.where(floor > torch.finfo(w.dtype).tiny, floor, torch.ones_like(floor))
    return w @ symmetric_function(gram + floor * identity, INVERSE_SQRT)


def thin_svd(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition; NaN, without an error, where the matrix is not finite."""
    finite = torch.isfinite(w).all(-1).all(-1)
    u, s, vh = torch.linalg.svd(torch.where(finite[..., None, None], w, torch.zeros_like(w)), full_matrices=False)
    return u, torch.where(finite.unsqueeze(-1), s, torch.full_like(s, math.nan)), vh


def nearest_orthonormal(w: Tensor) -> Tensor:
    """Nearest matrix with orthonormal columns to any tall w (..., n, p), in the Frobenius norm.

    The value is by singular value decomposition, right also for nearly rank-deficient w; the derivative is the closed
    form of the polar factor, finite (but not a derivative: there is none) where w is rank-deficient.
    """
    u, _, vh = thin_svd(w.detach())
    smooth = _polar_pass(w)
    return u @ vh + (smooth - smooth.detach())


def nearest_rotation(m: Tensor, *, proper: bool = False) -> Tensor:
    """Nearest orthogonal matrix to square m (..., p, p): u v^T of its singular value decomposition.

    With `proper`, the nearest of determinant 1: where det m < 0, the smallest singular value counts as negative.

    Twice differentiable where m is regular, also at equal singular values. It jumps where a singular value is 0: the
    derivative is then that of one side, and where two vanish the part of it that belongs to them is taken as 0.
    """
    u, s, vh = thin_svd(m.detach())
    if proper:
        turned = torch.linalg.det(u @ vh) < 0
        flip = torch.where(
            turned.unsqueeze(-1) & (torch.arange(s.shape[-1], device=s.device) == s.shape[-1] - 1), -1, 1
        )
        u, s = u * flip.unsqueeze(-2), s * flip
    total = s.unsqueeze(-1) + s.unsqueeze(-2)
    usable = total > torch.finfo(m.dtype).eps ** 0.5
    weights = torch.where(usable, 1.0 / torch.where(usable, total, torch.ones_like(total)), 0.0)
    # The rotation r solves skew(r^T m) = 0. Newton's iteration from the solution itself, with the inverse Jacobian
    # frozen, leaves the value alone and gives one more order of the derivative a step.
    r = u @ vh
    for _ in range(2):
        k = vh.mT @ (weights * (vh @ (2.0 * skew(r.mT @ m)) @ vh.mT)) @ vh
        r = r + r @ (k + 0.5 * k @ k)
    return r


def haar(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None, generator: torch.Generator | None
) -> Tensor:
    """Orthonormal columns by the uniform (Haar) law: the Q factor of a Gaussian matrix, with R's diagonal positive.

    Without the sign, Q would follow LAPACK's convention instead (Mezzadri, Notices of the AMS 54, 2007).
    """
    q, r = torch.linalg.qr(torch.randn(size, dtype=dtype, device=device, generator=generator))
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(dtype)
    return (q * sign.unsqueeze(-2)).contiguous()

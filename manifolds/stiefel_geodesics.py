"""Geodesics of the Stiefel manifold and their inversion, in the metrics <u, v> = tr u^T v - (1 - b) tr (x^T u)^T x^T v.

b = 1 is the Euclidean metric, b = 1/2 the canonical one. A geodesic from x with velocity x a + k (a skew, x^T k = 0)
stays in the span of x and k, so that everything here happens between p x p matrices: a, s = k^T k, and what they give.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from holonomy.manifolds.errors import ConvergenceError
from holonomy.manifolds.linalg import ARCCOSC, combine, matrix_exp, skew, sym, with_forward_mode

__all__ = ["geodesic_coefficients", "logarithm"]

#: Residuals, of quantities of size 1 in float64: where to stop, and what is accepted where rounding prevents that.
_CONVERGED, _ACCEPTED = 1e-14, 1e-12
_ITERATIONS = {0.5: 100, 1.0: 40}
#: Newton's steps in each metric on the way from the canonical to the Euclidean one.
_CONTINUATION = ((0.625, 3), (0.75, 3), (0.875, 3), (1.0, 8))


def geodesic_coefficients(a: Tensor, s: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """The p x p matrices m, n of the point x m + k n at time 1 of the geodesic with velocity x a + k, s = k^T k.

    [m; n] is the first block column of exp [[2 b a, -s], [I, 0]], times exp((1 - 2 b) a). This is the formula of
    Hüper, Markina, Silva Leite (J. Geom. Mech. 13, 2021), conjugated so that it is analytic in s and needs no
    orthonormal basis of k: a rank-deficient k, or none, is as regular as any.
    """
    generator, scale = _generator(a, s, b)
    flow = matrix_exp(generator)[..., : a.shape[-1]]
    m, n = flow.chunk(2, -2)
    n = n / scale
    if b != 0.5:
        turn = matrix_exp((1.0 - 2.0 * b) * a)
        m, n = m @ turn, n @ turn
    return m, n


def _generator(a: Tensor, s: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """[[2 b a, -s/c], [c I, 0]] and c, which balances the blocks: an unbalanced exponential would lose digits."""
    scale = (1.0 + s.detach().diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt()[..., None, None]
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    return _blocks(2.0 * b * a, -s / scale, scale * identity, torch.zeros_like(a)), scale


def _blocks(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def logarithm(x: Tensor, y: Tensor, b: float) -> Tensor:
    """The velocity at x of the geodesic to y. See `Stiefel` for where it converges, and what it costs.

    With m = x^T y and k = y - x m, the velocity is x a + k n^(-1), where a and w (the Gram matrix of the normal part)
    solve m(a, w) = m, and n = n(a, w), by `geodesic_coefficients`. These are p^2 equations for the p^2 entries of
    t = a - w/2, solved outside of autograd; two steps of Newton's iteration from the solution carry the first and
    second derivative.
    """
    m = x.mT @ y
    k = y - x @ m
    t = _solve(m.detach(), torch.linalg.qr(k.detach(), mode="r")[1], b)
    root = t
    for _ in range(2):
        t = t + _newton_step(m - geodesic_coefficients(*_unpack(t), b)[0], root, b)
    a, w = _unpack(t)
    return combine(x, a, k, torch.linalg.inv_ex(geodesic_coefficients(a, w, b)[1])[0])


def _unpack(t: Tensor) -> tuple[Tensor, Tensor]:
    """a and w from t = a - w/2: in these unknowns, m(t) = I + t + O(t^2)."""
    return skew(t), -2.0 * sym(t)


# -- the derivative ------------------------------------------------------------------------------------------------


def _jacobian(t: Tensor, b: float) -> Tensor:
    """The p^2 x p^2 matrix of the derivative of m with respect to t."""
    p = t.shape[-1]
    a, w = _unpack(t)
    generator, scale = _generator(a, w, b)
    da, dw = _unpack(torch.eye(p * p, dtype=t.dtype, device=t.device).reshape(p * p, p, p))
    rotation, spread = 2.0 * b * da, -dw / scale.unsqueeze(-3)
    zero = torch.zeros_like(spread)
    direction = _blocks(rotation.expand_as(spread), spread, zero, zero)
    flow, change = _exp_along(generator.unsqueeze(-3).expand_as(direction), direction)
    result = change[..., :p, :p]
    if b != 0.5:
        c = 1.0 - 2.0 * b
        turn, turned = _exp_along((c * a).unsqueeze(-3).expand_as(spread), (c * da).expand_as(spread))
        result = result @ turn + flow[..., :p, :p] @ turned
    return result.flatten(-2).mT


def _exp_along(z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """exp(z) and its derivative in the direction: blocks of the exponential of [[z, direction], [0, z]]."""
    size = z.shape[-1]
    flow = matrix_exp(_blocks(z, direction, torch.zeros_like(z), z))
    return flow[..., :size, :size], flow[..., :size, size:]


class _NewtonStep(Function):
    """0 as a value, the inverse Jacobian at a fixed t as a derivative: computed only when it is asked for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(residual: Tensor, t: Tensor, b: float) -> Tensor:
        return torch.zeros_like(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, t, ctx.b = inputs
        ctx.save_for_backward(t)
        ctx.save_for_forward(t)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _inverse_jacobian(grads[0], *ctx.saved_tensors, ctx.b, True), None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        return _inverse_jacobian(tangents[0], *ctx.saved_tensors, ctx.b, False)


class _InverseJacobian(Function):
    """The inverse Jacobian at a fixed t, or its transpose, applied to e."""

    generate_vmap_rule = True

    @staticmethod
    def forward(e: Tensor, t: Tensor, b: float, transpose: bool) -> Tensor:
        jacobian = _jacobian(t, b)
        jacobian = jacobian.mT if transpose else jacobian
        return torch.linalg.solve_ex(jacobian, e.flatten(-2).unsqueeze(-1))[0].reshape(e.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, t, ctx.b, ctx.transpose = inputs
        ctx.save_for_backward(t)
        ctx.save_for_forward(t)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _inverse_jacobian(grads[0], *ctx.saved_tensors, ctx.b, not ctx.transpose), None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        return _inverse_jacobian(tangents[0], *ctx.saved_tensors, ctx.b, ctx.transpose)


_newton_step = with_forward_mode(_NewtonStep)
_inverse_jacobian = with_forward_mode(_InverseJacobian)


# -- the value -----------------------------------------------------------------------------------------------------


@torch.library.custom_op("holonomy::stiefel_logarithm", mutates_args=())
def _solve(m: Tensor, r: Tensor, b: float) -> Tensor:
    """The t with m(t) = m, in float64; r is any p x p matrix with r^T r = I - m^T m.

    An operator of its own, because it stops when it has converged and raises when it has not: torch.compile and
    torch.export see one node.
    """
    p = m.shape[-1]
    columns = torch.cat([m, r], -2).double().reshape(-1, 2 * p, p)
    finite = torch.isfinite(columns).all(-1).all(-1)
    t = torch.full((len(columns), p, p), torch.nan, dtype=torch.float64, device=m.device)
    if len(columns) and bool(finite.any()):
        t[finite] = _logarithms(columns[finite], b)
    return t.reshape(m.shape).to(m.dtype)


@_solve.register_fake
def _(m: Tensor, r: Tensor, b: float) -> Tensor:
    return torch.empty_like(m, memory_format=torch.contiguous_format)


@_solve.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], m: Tensor, r: Tensor, b: float) -> tuple[Tensor, int]:
    m, r = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((m, r), in_dims[:2], strict=True)
    )
    return _solve(m, r, b), 0


def _logarithms(columns: Tensor, b: float) -> Tensor:
    """t for a batch of orthonormal columns [m; r], or ConvergenceError."""
    p = columns.shape[-1]
    frame = _complete(columns)
    t, residual = _algebraic(frame, b)
    failed = ~(residual <= _CONVERGED)
    if b != 0.5 and bool(failed.any()):
        t[failed] = _continuation(frame[failed])
    # Of the equation itself: at a rotation by pi the iteration can stand still without having solved it.
    residual = (frame[..., :p, :p] - geodesic_coefficients(*_unpack(t), b)[0]).abs().amax((-2, -1))
    failed = ~(residual <= _ACCEPTED)
    if bool(failed.any()):
        raise ConvergenceError(
            f"Stiefel.logmap: no geodesic was found for {int(failed.sum())} of {len(t)} pairs of points (residual "
            f"{float(residual[failed].nan_to_num(torch.inf).amax()):.3g}, wanted {_ACCEPTED:.3g}): they are further "
            "apart than the algorithm reaches, about the injectivity radius"
        )
    return t


def _continuation(frame: Tensor) -> Tensor:
    """t in the Euclidean metric, from the canonical one: further out than the iteration reaches."""
    p = frame.shape[-1] // 2
    m = frame[..., :p, :p]
    t, _ = _algebraic(frame, 0.5)
    for b, steps in _CONTINUATION:
        for _ in range(steps):
            gap = m - geodesic_coefficients(*_unpack(t), b)[0]
            t = t + torch.linalg.solve_ex(_jacobian(t, b), gap.flatten(-2).unsqueeze(-1))[0].reshape(m.shape)
    return t


def _complete(columns: Tensor) -> Tensor:
    """A rotation whose first p columns are given, the rest chosen close to those of the identity."""
    p = columns.shape[-1]
    u, _, vh = torch.linalg.svd(columns)
    first, rest = u[..., :p] @ vh, u[..., p:]
    # Procrustes: the lower right block becomes symmetric and positive, but for one sign that makes it a rotation.
    d, _, eh = torch.linalg.svd(rest[..., p:, :])
    sign = torch.linalg.det(torch.cat([first, rest @ (eh.mT @ d.mT)], -1)).sign()
    flip = torch.cat([torch.ones_like(d[..., 0, 1:]), sign.unsqueeze(-1)], -1)
    return torch.cat([first, rest @ (eh.mT @ (d * flip.unsqueeze(-2)).mT)], -1)


def _rotation_log(q: Tensor) -> Tensor:
    """Principal logarithm of rotations: the skew part times angle over sine of the symmetric part."""
    cosines, vectors = torch.linalg.eigh(sym(q))
    floor = -1.0 + 4.0 * torch.finfo(q.dtype).eps
    return skew(skew(q) @ ((vectors * ARCCOSC.value(cosines.clamp_min(floor)).unsqueeze(-2)) @ vectors.mT))


def _algebraic(frame: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """The iterated matrix logarithm: t, and the residual of each.

    Looks for rotations psi = exp((2 b - 1) a) and phi of the two blocks of columns for which the logarithm of
    frame diag(psi, phi) is [[2 b a, -n^T], [n, 0]]. For b = 1/2, where psi = I, this is Zimmermann's algorithm
    (SIAM J. Matrix Anal. Appl. 38, 2017) with the second-order correction of Zimmermann, Hüper (ibid. 43, 2022).
    """
    p = frame.shape[-1] // 2
    a = torch.zeros_like(frame[..., :p, :p])
    residual = torch.full_like(a[..., 0, 0], torch.inf)
    left, right = frame[..., :p], frame[..., p:]
    psi = torch.eye(p, dtype=frame.dtype, device=frame.device)
    for _ in range(_ITERATIONS[b]):
        log = _rotation_log(torch.cat([left @ psi, right], -1))
        top, n, corner = log[..., :p, :p], log[..., p:, :p], log[..., p:, p:]
        gap = top - 2.0 * b * a
        residual = torch.maximum(corner.abs().amax((-2, -1)), gap.abs().amax((-2, -1)))
        if bool((residual <= _CONVERGED).all()):
            break
        # By the Baker-Campbell-Hausdorff formula the corner moves by d - (n n^T d + d n n^T)/12 when phi gains exp(d).
        right = right @ matrix_exp(-_halfway(n @ n.mT, corner, 1.0, -1.0 / 12.0))
        c = 2.0 * b - 1.0
        a = a + _halfway(n.mT @ n, gap, 2.0 * b - c, c / 12.0)
        psi = matrix_exp(c * a)
    # With the gap closed, 2 b a is the top block; for b = 1/2, a was one step behind it.
    a = skew(top) / (2.0 * b)
    return a - 0.5 * (n.mT @ n), residual


def _halfway(s: Tensor, e: Tensor, one: float, both: float) -> Tensor:
    """The skew d with one d + both (s d + d s) = e, for symmetric s and skew e."""
    values, vectors = torch.linalg.eigh(s)
    weights = one + both * (values.unsqueeze(-1) + values.unsqueeze(-2))
    return skew(vectors @ ((vectors.mT @ e @ vectors) / weights) @ vectors.mT)

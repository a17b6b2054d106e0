"""Exponential and logarithm of rotation matrices, accurate and differentiable up to rotations by pi.

Matrices are (..., n, n). For n = 2 and 3 both are closed forms in the angle; beyond, the exponential is that of
matrices, and the logarithm comes from the eigenvalues of the symmetric part, with derivatives by the implicit function
theorem. At a rotation by exactly pi, where two directions lead there, the logarithm is one of them.
"""

import math

import torch
from torch import Tensor

from holonomy.manifolds.functions import cosm1c, sinc, sinm1c
from holonomy.manifolds.linalg import ARCCOSC, matrix_exp, skew, sym

__all__ = ["rotation_exp", "rotation_integral", "rotation_log"]

#: Cosine below which the angle is measured from pi.
_TURN = -0.8


def rotation_exp(w: Tensor) -> Tensor:
    """Exponential of skew-symmetric matrices, orthogonal to rounding. For n <= 3 by Rodrigues' formula."""
    identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    if w.shape[-1] > 3:
        return matrix_exp(w)
    s = 0.5 * w.square().sum((-2, -1), keepdim=True)
    return identity + sinc(s) * w + 0.5 * cosm1c(s) * (w @ w)


def rotation_integral(w: Tensor) -> Tensor:
    """Integral of exp(s w) over s from 0 to 1, for skew-symmetric w: regular as long as no angle is 2 pi."""
    n = w.shape[-1]
    identity = torch.eye(n, dtype=w.dtype, device=w.device)
    if n > 3:
        block = torch.cat([torch.cat([w, identity.expand_as(w)], -1), torch.zeros_like(torch.cat([w, w], -1))], -2)
        return matrix_exp(block)[..., :n, n:]
    s = 0.5 * w.square().sum((-2, -1), keepdim=True)
    return identity + 0.5 * cosm1c(s) * w + sinm1c(s) / 6.0 * (w @ w)


def rotation_log(r: Tensor) -> Tensor:
    """Principal logarithm of rotations: the shortest skew w with exp(w) = r, all angles at most pi.

    Its derivative at r is that of the manifold of rotations, extended to all matrices through skew(r^T dr); it grows
    like 1/d where two angles add up to 2 pi - d, and at d = 0 the part that would be infinite is left out.
    """
    if r.shape[-1] == 1:
        return torch.zeros_like(r)
    if r.shape[-1] == 2:
        sine = 0.5 * (r[..., 1, 0] - r[..., 0, 1])
        angle = torch.atan2(sine, 0.5 * (r[..., 0, 0] + r[..., 1, 1]))
        zero = torch.zeros_like(angle)
        return torch.stack([torch.stack([zero, -angle], -1), torch.stack([angle, zero], -1)], -2)
    return _log_3(r) if r.shape[-1] == 3 else _log_n(r)


def _log_3(r: Tensor) -> Tensor:
    """Axis times angle; the axis from the sines or, near pi, from the cosines."""
    axial = 0.5 * torch.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
    )
    cosine = 0.5 * (r.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1.0)
    far = cosine < _TURN
    # r + r^T = 2 cos I + 2 (1 - cos) a a^T: the longest column is along the axis a.
    outer = sym(r) - cosine.unsqueeze(-1) * torch.eye(3, dtype=r.dtype, device=r.device)
    longest = outer.detach().diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    column = outer.gather(-1, longest.expand(*outer.shape[:-1], 1)).squeeze(-1)
    column = torch.where(far, column, torch.ones_like(column))
    axis = column / torch.linalg.vector_norm(column, dim=-1, keepdim=True)
    sine = (axial * axis).sum(-1, keepdim=True)
    turned = torch.atan2(torch.where(far, sine, 0.0), torch.where(far, cosine, 1.0))
    # Rounding may leave a cosine above 1, of which the series makes no difference.
    near = torch.where(far, torch.zeros_like(cosine), cosine)
    x, y, z = torch.where(far, turned * axis, ARCCOSC.value(near) * axial).unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, -2)


def _log_n(r: Tensor) -> Tensor:
    """Value by eigenvalues; two steps of Newton's iteration from it carry the first and second derivative."""
    w = _principal(r.detach())
    known = torch.where(torch.isfinite(w), w, torch.zeros_like(w))  # LAPACK raises on NaN, which is handed on instead
    angles, vectors = torch.linalg.eigh(torch.complex(torch.zeros_like(w), -known))
    gap = angles.unsqueeze(-1) - angles.unsqueeze(-2)
    # d/(1 - exp(-i d)) i, the inverse of the derivative of exp, on the plane of two eigenvectors.
    half = 0.5 * gap
    pole = (2.0 * math.pi - gap.abs()) < torch.finfo(w.dtype).eps ** 0.5
    flat = half.abs() < torch.finfo(w.dtype).eps ** 0.5
    usual = torch.where(flat | pole, torch.ones_like(half), half)
    cotangent = torch.where(flat, torch.ones_like(half), usual / torch.tan(usual))
    weights = torch.where(pole, torch.zeros_like(half), 1.0) * torch.complex(cotangent, half)
    for _ in range(2):
        left = skew(matrix_exp(-w) @ r)
        w = w + skew((vectors @ (weights * (vectors.mH @ left.to(weights.dtype) @ vectors)) @ vectors.mH).real)
    return w


def _principal(r: Tensor) -> Tensor:
    """The logarithm's value: skew part times angle over sine, with the planes near pi apart."""
    finite = torch.isfinite(r).all(-1).all(-1)[..., None, None]
    n = r.shape[-1]
    r = torch.where(finite, r, torch.eye(n, dtype=r.dtype, device=r.device))
    cosines, vectors = torch.linalg.eigh(sym(r))
    # Cosines come in pairs: ascending, the last of an odd number is that of the axis.
    pairs = cosines[..., : n - n % 2].unflatten(-1, (n // 2, 2)).mean(-1)
    turned = (pairs < _TURN).repeat_interleave(2, -1)
    far = torch.nn.functional.pad(turned, (0, n % 2), value=False)
    near = (vectors * torch.where(far, 0.0, ARCCOSC.value(torch.where(far, 1.0, cosines))).unsqueeze(-2)) @ vectors.mT
    log = skew(skew(r) @ near)
    away = (vectors * torch.where(far, 0.0, 1.0).to(r.dtype).unsqueeze(-2)) @ vectors.mT
    turn = torch.eye(n, dtype=r.dtype, device=r.device) - away
    # Within the planes near pi, the skew part has the sign of the angle and pi less it as its arc sine. Where it is
    # nothing but rounding, a rotation of each pair of eigenvectors is added, by what the next eigenvalues can tell from
    # rounding: or they would not come in pairs, and planes be lost. Newton's steps take it out of the angles.
    sines = skew(turn @ skew(r) @ turn)
    first, second = vectors[..., 0 : n - n % 2 : 2], vectors[..., 1 : n - n % 2 : 2]
    sign = torch.where((first * (sines @ second)).sum(-2) < 0.0, -1.0, 1.0)
    least = 64.0 * torch.finfo(r.dtype).eps * sign * (pairs < _TURN)
    choice = (first * least.to(r.dtype).unsqueeze(-2)) @ second.mT
    sines = sines + (choice - choice.mT)
    values, planes = torch.linalg.eigh(torch.complex(2.0 * away, -sines))
    angles = torch.where(values > 1.0, 0.0, values.sign() * (math.pi - torch.asin(values.clamp(-1.0, 1.0).abs())))
    rest = (planes * angles.unsqueeze(-2)) @ planes.mH
    return torch.where(finite, skew(log - rest.imag), torch.nan)

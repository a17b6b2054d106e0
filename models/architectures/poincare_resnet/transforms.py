"""Chains of ball operations fused into one graph node each: the residual join and the two halves of batch norm."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import channels
from holonomy.models.architectures.poincare_resnet.functions import (
    EXP,
    PROJECT,
    Backward,
    Gyration,
    InputsOnly,
    MobiusAdd,
    MobiusScalarMul,
    Profile,
    artanh,
    curved_length,
    dot,
    evaluate,
    gyration_vjp,
    mobius_add_vjp,
    projection_limit,
    radial_vjp,
    scale_terms,
    stretch,
    stretch_vjp,
)
from holonomy.models.architectures.poincare_resnet.gyroplanes import Space

__all__ = ["gyrotranslate", "join", "spread"]


def _land_value(s: Tensor, limit: float) -> Tensor:
    return artanh(s.clamp_max(limit)) / s


def _land_slope(s: Tensor, f: Tensor, limit: float) -> Tensor:
    s1 = s.clamp_max(limit)
    return (s < limit) / ((1.0 - s1) * (1.0 + s1)) - f


#: Project, then log0.
LAND = Profile(_land_value, _land_slope)


def _into(p: Tensor, c: Tensor, dim: int, limit: float, space: Space) -> Tensor:
    """From the carrier to the ball."""
    return p if space == "ball" else stretch(p, c, EXP, dim, limit)


def _into_vjp(p: Tensor, c: Tensor, u: Tensor, dim: int, limit: float, space: Space) -> tuple[Tensor, Tensor]:
    return (u, torch.zeros_like(c)) if space == "ball" else stretch_vjp(p, c, u, EXP, dim, limit)


def _out(x: Tensor, c: Tensor, dim: int, limit: float, space: Space) -> Tensor:
    """From the ball to the carrier, projected."""
    return stretch(x, c, PROJECT if space == "ball" else LAND, dim, limit)


def _out_vjp(x: Tensor, c: Tensor, u: Tensor, dim: int, limit: float, space: Space) -> tuple[Tensor, Tensor]:
    return stretch_vjp(x, c, u, PROJECT if space == "ball" else LAND, dim, limit)


class _Join(InputsOnly):
    @staticmethod
    def forward(p: Tensor, q: Tensor, c: Tensor, dim: int, space: Space, limit: float) -> Tensor:
        x, y = _into(p, c, dim, limit, space), _into(q, c, dim, limit, space)
        return _out(MobiusAdd.forward(x, y, c, dim), c, dim, limit, space)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (p, q, c), (dim, space, limit) = ctx.saved_tensors, ctx.options
        x, y = _into(p, c, dim, limit, space), _into(q, c, dim, limit, space)
        u, gc_out = _out_vjp(MobiusAdd.forward(x, y, c, dim), c, u, dim, limit, space)
        gx, gy, gc_add = mobius_add_vjp(x, y, c, u, dim)
        gp, gc_p = _into_vjp(p, c, gx, dim, limit, space)
        gq, gc_q = _into_vjp(q, c, gy, dim, limit, space)
        return gp, gq, (gc_out + gc_add + gc_p + gc_q).sum_to_size(c.shape), None, None, None


_OPTIONS = "int dim, str space, float limit"
_JOIN = channels.register("join", f"Tensor p, Tensor q, Tensor c, {_OPTIONS}", "mms", _Join)


def join(p: Tensor, q: Tensor, c: Tensor, dim: int, *, space: Space, backward: Backward = "manual") -> Tensor:
    """Möbius sum of two carriers, p plus q, as a carrier of the same kind; projected into the ball."""
    return evaluate(_Join, backward, p, q, c, dim, space, projection_limit(p.dtype), kernel=_JOIN)


class _Gyrotranslate(InputsOnly):
    @staticmethod
    def forward(p: Tensor, mean: Tensor, c: Tensor, dim: int, space: Space, limit: float) -> Tensor:
        return MobiusAdd.forward(-mean, _into(p, c, dim, limit, space), c, dim)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (p, mean, c), (dim, space, limit) = ctx.saved_tensors, ctx.options
        g, gx, gc = mobius_add_vjp(-mean, _into(p, c, dim, limit, space), c, u, dim)
        gp, gc_p = _into_vjp(p, c, gx, dim, limit, space)
        return gp, -g.sum_to_size(mean.shape), (gc + gc_p).sum_to_size(c.shape), None, None, None


_TRANSLATE = channels.register("translate", f"Tensor p, Tensor mean, Tensor c, {_OPTIONS}", "mcs", _Gyrotranslate)


def gyrotranslate(
    p: Tensor, mean: Tensor, c: Tensor, dim: int, *, space: Space, backward: Backward = "manual"
) -> Tensor:
    """Points seen from `mean`: (-mean) plus x, where x is the carrier `p` in the ball. Returns points."""
    return evaluate(_Gyrotranslate, backward, p, mean, c, dim, space, projection_limit(p.dtype), kernel=_TRANSLATE)


class _Spread(InputsOnly):
    @staticmethod
    def forward(
        z: Tensor, mean: Tensor, centre: Tensor, k: Tensor, c: Tensor, dim: int, space: Space, limit: float
    ) -> Tensor:
        t = MobiusScalarMul.forward(k, z, c, dim)
        w = Gyration.forward(centre, -mean, t, c, dim)
        return _out(MobiusAdd.forward(centre, w, c, dim), c, dim, limit, space)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (z, mean, centre, k, c), (dim, space, limit) = ctx.saved_tensors, ctx.options
        n2 = dot(z, z, dim)
        f, h, fk = scale_terms(curved_length(n2, c), k)
        t = f * z
        w = Gyration.forward(centre, -mean, t, c, dim)
        u, gc_out = _out_vjp(MobiusAdd.forward(centre, w, c, dim), c, u, dim, limit, space)
        g_centre, gw, gc_add = mobius_add_vjp(centre, w, c, u, dim)
        g_turn, g_back, gt, gc_gyr = gyration_vjp(centre, -mean, t, c, gw, dim)
        gz, gc_scale, uz = radial_vjp(z, c, gt, f, h, n2, dim)
        return (
            gz,
            -g_back.sum_to_size(mean.shape),
            (g_centre + g_turn).sum_to_size(centre.shape),
            (uz * fk).sum_to_size(k.shape),
            (gc_out + gc_add + gc_gyr + gc_scale).sum_to_size(c.shape),
            None,
            None,
            None,
        )


_SPREAD = channels.register(
    "spread", f"Tensor z, Tensor mean, Tensor centre, Tensor k, Tensor c, {_OPTIONS}", "mccss", _Spread
)


def spread(
    z: Tensor,
    mean: Tensor,
    centre: Tensor,
    k: Tensor,
    c: Tensor,
    dim: int,
    *,
    space: Space,
    backward: Backward = "manual",
) -> Tensor:
    """exp_centre( k PT_{mean -> centre} log_mean(x) ), for z = (-mean) plus x, as a carrier.

    In gyrovector form that is centre plus gyr[centre, -mean](k (x) z): the conformal factors of logarithm, transport
    and exponential cancel, and no tangent vector grows long near the boundary.
    """
    return evaluate(_Spread, backward, z, mean, centre, k, c, dim, space, projection_limit(z.dtype), kernel=_SPREAD)

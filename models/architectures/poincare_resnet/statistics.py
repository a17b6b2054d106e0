"""Means of points of the Poincaré ball: the gyromidpoint in closed form, and the Fréchet mean by iteration."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from holonomy.manifolds import ConvergenceError
from holonomy.manifolds.functions import arsinhc
from holonomy.manifolds.gyrovector import lifted_sum
from holonomy.manifolds.kernels import channels
from holonomy.models.architectures.poincare_resnet.functions import (
    TINY,
    Backward,
    InputsOnly,
    as_curvature,
    dot,
    evaluate,
    half,
    projection_limit,
)
from holonomy.models.architectures.poincare_resnet.gyroplanes import Space, carrier, carrier_slopes

__all__ = ["frechet_mean", "frechet_mean_unrolled", "poincare_midpoint"]


class _DoubledMidpoint(InputsOnly):
    """Sum of lambda x over sum of (lambda - 1): twice the midpoint, in the sense of Möbius multiplication."""

    @staticmethod
    def forward(
        p: Tensor,
        c: Tensor,
        weights: Tensor | None,
        dim: int,
        over: tuple[int, ...],
        source: Space,
        limit: float,
    ) -> Tensor:
        f, lift = _weighted(weights, *carrier(dot(p, p, dim), c, source, 1.0, limit))
        return (f * p).sum(over, keepdim=True) / lift.sum(over, keepdim=True).clamp_min(TINY)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        p, c, *optional = ctx.saved_tensors
        dim, over, source, limit = ctx.options[-4:]
        weights = optional[0] if optional else None
        n2 = dot(p, p, dim)
        f, lift = carrier(n2, c, source, 1.0, limit)
        fn, ln = _weighted(weights, *carrier_slopes(n2, c, source, 1.0, limit, f, lift))
        wf, wl = _weighted(weights, f, lift)
        total = wl.sum(over, keepdim=True).clamp_min(TINY)
        g = u / total
        g_lift = -dot(g, (wf * p).sum(over, keepdim=True), dim) / total
        g_f = dot(g, p, dim)
        common = g_f * fn + g_lift * ln
        gp = wf * g + (2.0 * common / n2.clamp_min(TINY)) * p
        gw = None if weights is None else (g_f * f + g_lift * lift).sum_to_size(weights.shape)
        return gp, (common / c).sum_to_size(c.shape), gw, None, None, None, None


class _WholeMidpoint(InputsOnly):
    """`_DoubledMidpoint` over all axes but the ball's, without weights."""

    @staticmethod
    def forward(p: Tensor, c: Tensor, dim: int, source: Space, limit: float) -> Tensor:
        return _DoubledMidpoint.forward(p, c, None, dim, _others(p, dim), source, limit)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (p, c), (dim, source, limit) = ctx.saved_tensors, ctx.options
        whole = SimpleNamespace(saved_tensors=(p, c), options=(dim, _others(p, dim), source, limit))
        gp, gc, *_ = _DoubledMidpoint.backward(whole, u)
        return gp, gc, None, None, None


_MIDPOINT = channels.register(
    "midpoint", "Tensor p, Tensor c, int dim, str source, float limit", "ms", _WholeMidpoint, result="c"
)


def _others(p: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(d for d in range(-p.dim(), 0) if d != dim)


def _weighted(weights: Tensor | None, *values: Tensor) -> tuple[Tensor, ...]:
    return values if weights is None else tuple(weights * value for value in values)


def _points_last(
    x: Tensor, weights: Tensor | None, axis: int, over: tuple[int, ...]
) -> tuple[Tensor, Tensor | None, list[int]]:
    """Points with their coordinates last, a weight for each, and the axes to sum over, as `lifted_sum` takes them."""
    if weights is not None:
        weights = weights.expand(*x.shape[: x.dim() + axis], 1, *x.shape[x.dim() + axis + 1 :]).squeeze(axis)
    own = axis % x.dim()
    return x.movedim(axis, -1), weights, [i - (i > own) for i in (d % x.dim() for d in over)]


def _is_lifted(x: Tensor, c: Tensor, weights: Tensor | None, axis: int, over: tuple[int, ...]) -> bool:
    """Whether there is a kernel for midpoints over some of the axes, or with weights.

    Only of points whose coordinates are neighbours in memory: to turn others costs more than it saves.
    """
    return x.stride(axis) == 1 and lifted_sum.takes(*_points_last(x, weights, axis, over), c)


def poincare_midpoint(
    x: Tensor,
    c: Tensor | float,
    dim: int | tuple[int, ...] = 0,
    weights: Tensor | None = None,
    *,
    ball_dim: int = -1,
    keepdim: bool = False,
    space: Space = "ball",
    backward: Backward = "manual",
) -> Tensor:
    """Gyromidpoint: 1/2 (x) [sum w lambda x / sum w (lambda - 1)], the Lorentz centroid seen in the ball.

    Parameters
    ----------
    x : Tensor
        Points, or with ``space="tangent"`` their tangent vectors at the origin.
    c : Tensor or float
        Curvature's magnitude.
    dim : int or tuple of int
        Dimensions to average over.
    weights : Tensor, optional
        Non-negative weights, broadcasting against `x` with size 1 along `ball_dim`.
    ball_dim : int
        The axis that holds a point's coordinates.

    Returns
    -------
    Tensor
        The midpoint, a point in either case.

    Raises
    ------
    ValueError
        If `dim` contains the ball axis.
    """
    over = tuple(d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim))
    axis = ball_dim % x.dim()
    if axis in over:
        raise ValueError(f"poincare_midpoint: 'dim' {dim} contains the ball axis {ball_dim}")
    c = as_curvature(c, x)
    axis, over = axis - x.dim(), tuple(d - x.dim() for d in over)
    limit = projection_limit(x.dtype)
    if weights is None and set(over) == set(_others(x, axis)):
        doubled = evaluate(_WholeMidpoint, backward, x, c, axis, space, limit, kernel=_MIDPOINT)
    elif space == "ball" and backward == "manual" and _is_lifted(x, c, weights, axis, over):
        time, along = lifted_sum(*_points_last(x, weights, axis, over), c)
        doubled = (along / time.clamp_min(TINY)).to(x.dtype).movedim(-1, axis)
    else:
        doubled = evaluate(_DoubledMidpoint, backward, x, c, weights, axis, over, space, limit)
    middle = half(doubled, c, axis, backward=backward)
    return middle if keepdim else middle.squeeze(over)


def _frechet_weights(x: Tensor, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of Lou et al.'s fixed point for points x (..., N, n) about y (..., 1, n); t, 1-c|x|^2, 1-c|y|^2."""
    inner, outer = 1.0 - c * dot(x, x, -1), 1.0 - c * dot(y, y, -1)
    t = c * (x - y).square().sum(-1, keepdim=True) / (inner * outer)
    return _slope(t) / inner, t, inner, outer


def _slope(t: Tensor) -> Tensor:
    """Derivative of arcosh(1 + 2t)^2 by t, over 1: 4 arsinh(sqrt t) / sqrt(t (1 + t))."""
    return 4.0 * arsinhc(t) / (1.0 + t).sqrt()


def _fixed_point(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    a = _frechet_weights(x, y, c)[0]
    b = (a * x).sum(-2, keepdim=True)
    total = (a * (1.0 + c * dot(x, x, -1))).sum(-2, keepdim=True)
    # The root of c |b|^2 s^2 - total s + 1 = 0 that is inside the ball, without the cancellation.
    return 2.0 * b / (total + (total * total - 4.0 * c * dot(b, b, -1)).clamp_min(0.0).sqrt())


def _solve_frechet(x: Tensor, c: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    y = half(_DoubledMidpoint.forward(x, c, None, -1, (-2,), "ball", 1.0), c)
    for _ in range(max_iterations):
        previous, y = y, _fixed_point(x, y, c)
        step = float((c.sqrt() * (y - previous)).abs().amax())
        if step <= tolerance:
            return y
    raise ConvergenceError(
        f"frechet_mean: step {step:.3g} after {max_iterations} iterations, wanted {tolerance:.3g} (unit 1/sqrt c)"
    )


class _FrechetMean(torch.autograd.Function):
    """The mean y solves R(y, x, c) = (1 + c|y|^2) sum a x - (sum a (1 + c|x|^2)) y = 0; gradients by that equation."""

    @staticmethod
    def forward(x: Tensor, c: Tensor, tolerance: float, max_iterations: int) -> Tensor:
        return _solve_frechet(x, c, tolerance, max_iterations)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1], output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        x, c, y = ctx.saved_tensors
        with torch.enable_grad():
            t = _frechet_weights(x, y, c)[1].detach().requires_grad_()
            slope_t = torch.autograd.grad(_slope(t).sum(), t)[0]
        a, t, inner, outer = _frechet_weights(x, y, c)
        lift = 1.0 + c * dot(x, x, -1)
        y2 = 1.0 + c * dot(y, y, -1)
        # dR/dy, with da/dy = slope_t / (1 - c|x|^2) dt/dy
        a_y = (slope_t / inner) * (2.0 * c * (y - x) / (inner * outer) + 2.0 * c * t * y / outer)
        b, total = (a * x).sum(-2, keepdim=True), (a * lift).sum(-2, keepdim=True)
        jacobian = (y2 * x - lift * y).mT @ a_y + 2.0 * c * b.mT @ y
        jacobian = jacobian - total * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        q = -torch.linalg.solve(jacobian.mT, u.mT).mT
        # <q, R> differentiated by x and c at fixed y
        qx, qy = dot(q, x, -1), dot(q, y, -1)
        e = y2 * qx - lift * qy
        a_t = e * slope_t / inner
        gx = a * (y2 * q - (2.0 * c * qy) * x) + (2.0 * c * e * a / inner) * x
        gx = gx + a_t * (2.0 * c * (x - y) / (inner * outer) + (2.0 * c * t / inner) * x)
        x2, yy = dot(x, x, -1), dot(y, y, -1)
        gc = a * (yy * qx - x2 * qy) + e * a * x2 / inner + a_t * t * (1.0 / c + x2 / inner + yy / outer)
        return gx, gc.sum_to_size(c.shape), None, None


def _frechet_arguments(x: Tensor, c: Tensor | float, tolerance: float | None) -> tuple[Tensor, float]:
    if x.dim() < 2:
        raise ValueError(f"frechet_mean: 'x' has shape {tuple(x.shape)}, wanted (..., points, coordinates)")
    c = as_curvature(c, x)
    if c.numel() != 1:
        raise ValueError(f"frechet_mean: 'c' has shape {tuple(c.shape)}, wanted one curvature")
    return c, (1e-12 if x.dtype == torch.float64 else 1e-6) if tolerance is None else tolerance


def frechet_mean(x: Tensor, c: Tensor | float, *, tolerance: float | None = None, max_iterations: int = 1000) -> Tensor:
    """Fréchet mean of the points x (..., N, n) over the second-last dimension: the minimiser of sum dist(x_i, y)^2.

    Fixed-point iteration of Lou et al. (2020), started at the midpoint, until a step is below `tolerance` (default
    1e-12 in float64, 1e-6 in float32; in units of 1/sqrt(c)). The backward solves the stationarity equation once, with
    the memory of the points and the mean; it is differentiable once. Returns (..., n).

    Raises
    ------
    ValueError
        If `x` has fewer than 2 dimensions, or `c` is not a single curvature.
    ConvergenceError
        If `max_iterations` do not reach the tolerance.
    """
    c, tolerance = _frechet_arguments(x, c, tolerance)
    return _FrechetMean.apply(x, c, tolerance, max_iterations).squeeze(-2)


def frechet_mean_unrolled(x: Tensor, c: Tensor | float, *, iterations: int = 50) -> Tensor:
    """`frechet_mean` by a fixed number of iterations that autograd records: the reference for its gradient."""
    c, _ = _frechet_arguments(x, c, None)
    y = poincare_midpoint(x, c, -2, keepdim=True, backward="autograd")
    for _ in range(iterations):
        y = _fixed_point(x, y, c)
    return y.squeeze(-2)

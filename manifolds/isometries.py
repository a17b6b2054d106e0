"""Isometries among the models of hyperbolic space: points and tangent vectors of one as those of another.

Every model converts to and from the hyperboloid's spatial part s = x_s and time T = sqrt(1 + c|s|^2), in units of the
radius of curvature: ball s/(1 + T), Klein s/T, half-space (s without its last entry, 1)/(T - s_d). The half-space
has the last axis as its height, and the origin of each model goes to that of the other.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from holonomy.manifolds import gyrovector, hyperboloid
from holonomy.manifolds.curvature import root
from holonomy.manifolds.gyrovector import gap
from holonomy.manifolds.half_space import HalfSpace
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.klein_ball import KleinBall
from holonomy.manifolds.lorentz import Lorentz
from holonomy.manifolds.poincare_ball import PoincareBall

__all__ = ["convert", "convert_tangent"]


def convert(x: Tensor, source: Hyperbolic, target: Hyperbolic) -> Tensor:
    """Points of one model as points of another: an isometry, where both have the same curvature.

    Between different curvatures the map is that of the unit models, and scales distances by sqrt(c_source/c_target).

    Parameters
    ----------
    x : Tensor
        Points of `source`, shape (..., d), or (..., d + 1) of `Lorentz`.
    source, target : Hyperbolic
        `PoincareBall`, `Lorentz`, `KleinBall` or `HalfSpace`.

    Returns
    -------
    Tensor
        Points of `target`. Those that its dtype cannot hold are at its edge.

    Raises
    ------
    TypeError
        Where a model is none of these.
    DimensionError
        Where the shape of `x` does not fit `source`.

    References
    ----------
    Ratcliffe, Foundations of Hyperbolic Manifolds (2019), chapters 4 and 6.
    """
    _check(source, target)

    def convert(x: Tensor) -> Tensor:
        return _from_space(target, *_to_space(source, x))

    return source._evaluate(convert, narrow=target._narrow, x=x)


def convert_tangent(x: Tensor, u: Tensor, source: Hyperbolic, target: Hyperbolic) -> Tensor:
    """Tangent vectors of one model at `x`, as tangent vectors of the other at ``convert(x, ...)``.

    The differential of `convert`: lengths and angles stay, where both have the same curvature.

    Parameters
    ----------
    x, u : Tensor
        Points of `source` and tangent vectors there.
    source, target : Hyperbolic
        See `convert`.

    Returns
    -------
    Tensor
        Tangent vectors of `target`, in the shape of its points.

    Raises
    ------
    TypeError, DimensionError
        See `convert`.
    """
    _check(source, target)

    def convert_tangent(x: Tensor, u: Tensor) -> Tensor:
        x, u = torch.broadcast_tensors(x, u)
        pushed: Tensor = jvp(lambda x: _from_space(target, *_to_space(source, x)), (x,), (u,))[1]
        return pushed

    return source._evaluate(convert_tangent, x=x, u=u)


def _check(source: Any, target: Any) -> None:
    for name, model in (("source", source), ("target", target)):
        if not isinstance(model, (PoincareBall, Lorentz, KleinBall, HalfSpace)):
            raise TypeError(
                f"convert: {name!r} must be a PoincareBall, Lorentz, KleinBall or HalfSpace, got {type(model).__name__}"
            )


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _to_space(model: Hyperbolic, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spatial part s, time T and T - s_d on the unit hyperboloid: the last where it is known without a difference."""
    c = model._c(x)
    if isinstance(model, Lorentz):
        s = root(c) * hyperboloid.space(x)
    elif isinstance(model, PoincareBall):
        s = 2.0 * root(c) * x / gap(x, c)
    elif isinstance(model, KleinBall):
        s = root(c) * x * gap(x, c).rsqrt()
    else:
        z, y = x[..., :-1], x[..., -1:]
        # s_d = (|z|^2 + y^2 - 1)/(2 y) and T the same with + 1.
        last = 0.5 * (_square(z) + (y - 1.0) * (y + 1.0)) / y
        return torch.cat((z / y, last), -1), 0.5 * (_square(z) + y * y + 1.0) / y, 1.0 / y
    time = (1.0 + _square(s)).sqrt()
    last = s[..., -1:]
    # T - s_d, with a positive s_d as (1 + the rest)/(T + s_d).
    up = torch.where(last > 0.0, last, torch.zeros_like(last))
    below = torch.where(last > 0.0, (1.0 + _square(s[..., :-1])) / (time + up), time - last)
    return s, time, below


def _from_space(model: Hyperbolic, s: Tensor, time: Tensor, below: Tensor) -> Tensor:
    c = model._c(s)
    if isinstance(model, Lorentz):
        return hyperboloid.project(torch.cat((time, s), -1) / root(c), c)
    if isinstance(model, PoincareBall):
        return gyrovector.project(s / ((1.0 + time) * root(c)), c)
    if isinstance(model, KleinBall):
        return gyrovector.project(s / (time * root(c)), c)
    return model._projx(torch.cat((s[..., :-1], torch.ones_like(time)), -1) / below)

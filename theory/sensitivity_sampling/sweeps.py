"""Sweeps of the interior-point method over the rows of each problem: compiled loops, one thread a range of problems.

Arrays have one row a problem and one column a row of Q. With s = 1 - z and t = 1 + z, a direction is

    dz = (dr - g)/(u/s + v/t),   du = U + (u/s) dz,   dv = V - (v/t) dz,

for the predictor with g = -r, U = -u, V = -v, for the corrector with the terms of second order of the predictor's. They
are computed anew where they are needed, from what a sweep reads anyway.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel

__all__ = ["advance", "correct", "lengths", "weigh"]

#: Part of the way to the boundary that a step may go.
STEP = 0.995


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _run(function: Any, *tensors: Tensor) -> None:
    parallel(function, len(tensors[0]), 1, *_arrays(*tensors))


# Loops are spelled out: Numba vectorises a sweep whose body is arithmetic alone.


@kernel
def _weigh(r, z, u, v, inverse, weighted, low, high):  # type: ignore[no-untyped-def]
    for k in range(low, high):
        for j in range(r.shape[1]):
            s, t = 1.0 - z[k, j], 1.0 + z[k, j]
            w = s * t / (u[k, j] * t + v[k, j] * s)
            inverse[k, j] = w
            weighted[k, j] = -w * r[k, j]


def weigh(r: Tensor, z: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """1/(u/s + v/t), and the predictor's right-hand side -r times it."""
    inverse, weighted = torch.empty_like(r), torch.empty_like(r)
    _run(_weigh, r, z, u, v, inverse, weighted)
    return inverse, weighted


@inline
def _predicted(r, z, u, v, inverse, dr):  # type: ignore[no-untyped-def]
    """Predictor at one row: s, t, dz, du, dv."""
    s, t = 1.0 - z, 1.0 + z
    dz = (dr + r) * inverse
    return s, t, dz, u * (dz / s - 1.0), -v * (dz / t + 1.0)


@inline
def _second(s, t, dz, du, dv, pull):  # type: ignore[no-untyped-def]
    """What the predictor leaves, over s and over t."""
    return (pull + du * dz) / s, (pull - dv * dz) / t


@kernel
def _correct(r, z, u, v, inverse, predictor, pull, weighted, low, high):  # type: ignore[no-untyped-def]
    n = r.shape[1]
    for k in range(low, high):
        box = along = gap = left_u = left_v = product = 0.0
        for j in range(n):
            s, t, dz, du, dv = _predicted(r[k, j], z[k, j], u[k, j], v[k, j], inverse[k, j], predictor[k, j])
            box = max(box, max(dz / s, -dz / t))
            along = max(along, max(-du / u[k, j], -dv / v[k, j]))
            gap += u[k, j] * s + v[k, j] * t
            left_u += du * s + dv * t
            left_v += v[k, j] * dz - u[k, j] * dz
            product += dv * dz - du * dz
        across = STEP / max(box, STEP)
        along = STEP / max(along, STEP)
        left = gap + along * left_u + across * left_v + along * across * product
        pull[k] = (left / gap) ** 3 * gap / (2 * n)
        for j in range(n):
            s, t, dz, du, dv = _predicted(r[k, j], z[k, j], u[k, j], v[k, j], inverse[k, j], predictor[k, j])
            first, second = _second(s, t, dz, du, dv, pull[k])
            weighted[k, j] = inverse[k, j] * (first - second - r[k, j])


def correct(r: Tensor, z: Tensor, u: Tensor, v: Tensor, inverse: Tensor, predictor: Tensor, weighted: Tensor) -> Tensor:
    """Centring of each problem (b,); `weighted` receives the corrector's right-hand side."""
    pull = r.new_empty(len(r))
    _run(_correct, r, z, u, v, inverse, predictor, pull, weighted)
    return pull


@inline
def _corrected(r, z, u, v, inverse, predictor, corrector, pull):  # type: ignore[no-untyped-def]
    """Corrector at one row: s, t, dz, du, dv."""
    s, t, dz, du, dv = _predicted(r, z, u, v, inverse, predictor)
    first, second = _second(s, t, dz, du, dv, pull)
    dz = (corrector - (first - second - r)) * inverse
    return s, t, dz, first - u + u / s * dz, second - v - v / t * dz


@kernel
def _lengths(r, z, u, v, inverse, predictor, corrector, pull, along, across, low, high):  # type: ignore[no-untyped-def]
    for k in range(low, high):
        box = multipliers = 0.0
        for j in range(r.shape[1]):
            s, t, dz, du, dv = _corrected(
                r[k, j], z[k, j], u[k, j], v[k, j], inverse[k, j], predictor[k, j], corrector[k, j], pull[k]
            )
            box = max(box, max(dz / s, -dz / t))
            multipliers = max(multipliers, max(-du / u[k, j], -dv / v[k, j]))
        across[k] = STEP / max(box, STEP)
        along[k] = STEP / max(multipliers, STEP)


def lengths(
    r: Tensor, z: Tensor, u: Tensor, v: Tensor, inverse: Tensor, predictor: Tensor, corrector: Tensor, pull: Tensor
) -> tuple[Tensor, Tensor]:
    """Step lengths (b,), at most 1, that keep u and v, and s and t, positive."""
    along, across = torch.empty_like(pull), torch.empty_like(pull)
    _run(_lengths, r, z, u, v, inverse, predictor, corrector, pull, along, across)
    return along, across


@kernel
def _advance(r, z, u, v, inverse, predictor, corrector, pull, along, across, low, high):  # type: ignore[no-untyped-def]
    for k in range(low, high):
        for j in range(r.shape[1]):
            _, _, dz, du, dv = _corrected(
                r[k, j], z[k, j], u[k, j], v[k, j], inverse[k, j], predictor[k, j], corrector[k, j], pull[k]
            )
            r[k, j] += along[k] * corrector[k, j]
            z[k, j] += across[k] * dz
            u[k, j] += along[k] * du
            v[k, j] += along[k] * dv


def advance(
    r: Tensor,
    z: Tensor,
    u: Tensor,
    v: Tensor,
    inverse: Tensor,
    predictor: Tensor,
    corrector: Tensor,
    pull: Tensor,
    along: Tensor,
    across: Tensor,
) -> None:
    """Take the corrector's step, in place."""
    _run(_advance, r, z, u, v, inverse, predictor, corrector, pull, along, across)

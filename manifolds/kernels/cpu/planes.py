"""CPU kernels of the distances between all pairs of points and hyperplanes of the ball.

Eight planes are taken at a time, from a copy (planes/8, coordinates, 8), so that the loop over coordinates adds up the
inner products of eight pairs without a sum across lanes. `CHUNK` points are a unit of work; what the units find for
the planes is added in order, so that the result does not depend on the number of threads.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.channels import arsinh, put_lanes
from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import LANES, fill, load, masked_load, store, total, widen
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["plane_pairs", "plane_pairs_back"]

#: Units of work, and the fewest points of one.
_UNITS, _LEAST = 16, 64
#: Coordinates of the pairs that are worth a thread.
_GRAIN = 1 << 17


@inline
def _sums(x, row, p, a, at, d):  # type: ignore[no-untyped-def]
    """<h, a> and |h|^2, h = x - p, for eight planes."""
    along, square = fill(x, 0.0), fill(x, 0.0)
    for k in range(d):
        h = x[row + k] - load(p, at + k * LANES)
        along = along + h * load(a, at + k * LANES)
        square = square + h * h
    return along, square


@kernel
def forward(x, p, a, u, v, g, q, out, d, planes, chunk, points, low, high):  # type: ignore[no-untyped-def]
    """arsinh(u v (g <h, a> - q |h|^2)) for the points of the units low, ..., high - 1."""
    for i in range(low * chunk, min(points, high * chunk)):
        for j in range(0, planes, LANES):
            along, square = _sums(x, i * d, p, a, j * d, d)
            across = load(g, j) * along - load(q, j) * square
            angle, _ = arsinh(u[i] * (load(v, j) * across))
            put_lanes(out, i * planes + j, angle, planes - j)


@kernel
def backward(  # type: ignore[no-untyped-def]
    up, x, p, a, u, v, g, q, gx, gu, gp, ga, columns, d, planes, padded, chunk, points, low, high
):
    """Gradients to x and u, and a unit's sums of those to p and a (both without the planes' factors), v, g and q."""
    to_x = np.empty(d * LANES, x.dtype)
    for unit in range(low, high):
        sum_p, sum_c = unit * padded * d, unit * 3 * padded
        for j in range(padded * d):
            gp[sum_p + j] = 0.0
            ga[sum_p + j] = 0.0
        for j in range(3 * padded):
            columns[sum_c + j] = 0.0
        for i in range(unit * chunk, min(points, (unit + 1) * chunk)):
            to_u = fill(x, 0.0)
            for k in range(0, d * LANES, LANES):
                store(to_x, k, fill(x, 0.0))
            for j in range(0, planes, LANES):
                along, square = _sums(x, i * d, p, a, j * d, d)
                vj, gj, qj = load(v, j), load(g, j), load(q, j)
                across = gj * along - qj * square
                _, stretch = arsinh(u[i] * (vj * across))
                slope = masked_load(up, i * planes + j, planes - j) / stretch
                to_u = to_u + slope * (vj * across)
                at_v = sum_c + j
                store(columns, at_v, load(columns, at_v) + slope * (u[i] * across))
                d_across = slope * (u[i] * vj)
                store(columns, at_v + padded, load(columns, at_v + padded) + d_across * along)
                store(columns, at_v + 2 * padded, load(columns, at_v + 2 * padded) - d_across * square)
                d_along, d_h = d_across * gj, -2.0 * (d_across * qj)
                for k in range(d):
                    at = j * d + k * LANES
                    h = x[i * d + k] - load(p, at)
                    to_h = d_along * load(a, at) + d_h * h
                    store(to_x, k * LANES, load(to_x, k * LANES) + to_h)
                    store(gp, sum_p + at, load(gp, sum_p + at) - to_h)
                    store(ga, sum_p + at, load(ga, sum_p + at) + d_along * h)
            for k in range(d):
                gx[i * d + k] = total(load(to_x, k * LANES))
            gu[i] = total(widen(to_u))


def _eights(t: Tensor) -> Tensor:
    """Planes (c, ...) in eights, zeros past the last: (c/8, ..., 8)."""
    rest = -t.shape[0] % LANES
    t = torch.nn.functional.pad(t, (0, 0) * (t.ndim - 1) + (0, rest)) if rest else t
    return t.view(-1, LANES, *t.shape[1:]).movedim(1, -1).contiguous()


def _chunk(points: int) -> tuple[int, int]:
    """Points of a unit, and units."""
    chunk = max(_LEAST, -(-points // _UNITS))
    return chunk, -(-points // chunk)


def _planes(p: Tensor, *columns: Tensor) -> list[Any]:
    return [flat(_eights(t)) for t in (p, *columns)]


def plane_pairs(x: Tensor, p: Tensor, a: Tensor, u: Tensor, v: Tensor, g: Tensor, q: Tensor) -> Tensor:
    """arsinh(u v (g <h, a> - q |h|^2)) with h = x - p, for points (b, d), u (b) and planes (c, d), v, g, q (c)."""
    (points, d), planes = x.shape, p.shape[0]
    out = x.new_empty(points, planes)
    chunk, units = _chunk(points)
    one, normal, *columns = _planes(p, a, v, g, q)
    parallel(
        forward,
        units,
        max(1, _GRAIN // (chunk * planes * d)),
        flat(x),
        one,
        normal,
        flat(u),
        *columns,
        flat(out),
        d,
        planes,
        chunk,
        points,
    )
    return out


def plane_pairs_back(
    up: Tensor, x: Tensor, p: Tensor, a: Tensor, u: Tensor, v: Tensor, g: Tensor, q: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `plane_pairs` with respect to each of its arguments."""
    (points, d), planes = x.shape, p.shape[0]
    chunk, units = _chunk(points)
    padded = planes + -planes % LANES
    gx, gu = torch.empty(x.shape, dtype=x.dtype), torch.empty(u.shape, dtype=x.dtype)
    gp, ga = x.new_empty(units, padded // LANES, d, LANES), x.new_empty(units, padded // LANES, d, LANES)
    sums = x.new_empty(units, 3, padded)
    one, normal, *columns = _planes(p, a, v, g, q)
    ins = flat(up), flat(x), one, normal, flat(u), *columns
    outs = flat(gx), flat(gu), flat(gp), flat(ga), flat(sums)
    parallel(backward, units, max(1, _GRAIN // (chunk * planes * d)), *ins, *outs, d, planes, padded, chunk, points)
    to_p, to_a = (t.sum(0).movedim(-1, 1).reshape(padded, d)[:planes].contiguous() for t in (gp, ga))
    to_v, to_g, to_q = (t[:planes].clone() for t in sums.sum(0))
    return gx, to_p, to_a, gu, to_v, to_g, to_q

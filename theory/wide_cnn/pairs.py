"""The recursion of 1-D hierarchies for all pairs of inputs, compiled: a row of inputs against a chunk at a time.

A chunk's values at all positions of a layer stay in the cache, and loops run over its columns, so that they vectorise:
the arccosine is that of fdlibm, without branches.
"""

import math

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel

__all__ = ["hierarchy"]

#: Columns of a chunk.
_CHUNK = 128
_HALF = 0.5 * math.pi
_OVER = 1.0 / math.pi


@inline
def _arc_cosine(t):  # type: ignore[no-untyped-def]
    a = abs(t)
    far = a > 0.5
    z = 0.5 * (1.0 - a) if far else a * a
    s = math.sqrt(z) if far else a
    p = z * (
        1.66666666666666657415e-01
        + z
        * (
            -3.25565818622400915405e-01
            + z
            * (
                2.01212532134862925881e-01
                + z * (-4.00555345006794114027e-02 + z * (7.91534994289814532176e-04 + z * 3.47933107596021167570e-05))
            )
        )
    )
    q = 1.0 + z * (
        -2.40339491173441421878e00
        + z * (2.02094576023350569471e00 + z * (-6.88283971605453293030e-01 + z * 7.70381505559019352791e-02))
    )
    w = s + s * (p / q)
    # The arccosine of |t|; that of -t is pi less.
    near = _HALF - w
    angle = 2.0 * w if far else near
    return angle if t >= 0.0 else math.pi - angle


@kernel
def _hierarchy(x, turned, sizes, steps, ntk, symmetric, w, b, out, low, high):  # type: ignore[no-untyped-def]
    positions, columns = x.shape[1], turned.shape[2]
    value = np.empty((positions, _CHUNK))
    slope = np.empty((positions, _CHUNK))
    for i in range(low, high):
        start = i // _CHUNK * _CHUNK if symmetric else 0
        for first in range(start, columns, _CHUNK):
            count = min(_CHUNK, columns - first)
            q = b + w
            left = positions
            for layer in range(len(sizes)):
                if layer:
                    size, step = sizes[layer], steps[layer]
                    share = w / size
                    left = (left - size) // step + 1
                    for k in range(left):
                        # What position k reads lies at k or behind, and so is not overwritten yet.
                        for j in range(count):
                            value[k, j] = share * value[k * step, j]
                            slope[k, j] = share * slope[k * step, j]
                        for s in range(1, size):
                            for j in range(count):
                                value[k, j] += share * value[k * step + s, j]
                                slope[k, j] += share * slope[k * step + s, j]
                    q = b + 0.5 * w * q
                for k in range(left):
                    if layer:
                        for j in range(count):
                            value[k, j] += b
                            slope[k, j] += b
                    else:
                        for j in range(count):
                            value[k, j] = b
                        for s in range(x.shape[2]):
                            factor = w * x[i, k, s]
                            for j in range(count):
                                value[k, j] += factor * turned[k, s, first + j]
                        for j in range(count):
                            slope[k, j] = value[k, j]
                    half, over = 0.5 * q, 1.0 / q
                    for j in range(count):
                        t = min(max(value[k, j] * over, -1.0), 1.0)
                        rest = math.pi - _arc_cosine(t)
                        found = half * (t * rest + math.sqrt((1.0 - t) * (1.0 + t))) * _OVER
                        slope[k, j] = found + 0.5 * _OVER * rest * slope[k, j]
                        value[k, j] = found
            result = slope if ntk else value
            for j in range(count):
                out[i, first + j] = 0.0
            for k in range(left):
                for j in range(count):
                    out[i, first + j] += result[k, j] / left


def hierarchy(
    x: Tensor,
    y: Tensor,
    sizes: tuple[int, ...],
    steps: tuple[int, ...],
    *,
    ntk: bool,
    symmetric: bool,
    w: float,
    b: float,
) -> Tensor:
    """Kernel matrix (n, m) of patches (n, p, s) and (m, p, s), float64 on the CPU.

    Parameters
    ----------
    x, y : Tensor
        Patches of length 1.
    sizes, steps : tuple of int
        Filter sizes and strides of all layers.
    ntk : bool
        NTK, else NNGP.
    symmetric : bool
        Whether y is x: then half is computed.
    w, b : float
        Variances of weights and biases.
    """
    out = torch.empty(len(x), len(y), dtype=torch.float64)
    rows = x.detach().contiguous().numpy()
    turned = y.detach().permute(1, 2, 0).contiguous().numpy()
    arguments = (rows, turned, np.array(sizes), np.array(steps), ntk, symmetric, w, b, out.numpy())
    parallel(_hierarchy, len(x), 1, *arguments)
    if symmetric:
        upper = torch.triu(out)
        out = upper + torch.triu(out, 1).mT
    return out

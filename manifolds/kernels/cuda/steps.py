"""Runs the optimizer steps of CUDA: rows of a table of points, each read and written once, in place."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda.module import launch
from holonomy.manifolds.kernels.cuda.run import aligned, load_width, most_blocks, plan, scalar_name, widest

__all__ = ["KINDS", "NUMBERS", "entry", "longest", "step"]

KINDS = {"ball": "BallStep", "lorentz": "LorentzStep", "sphere": "SphereStep"}
#: What a step takes as numbers, in this order; the same as on the CPU.
NUMBERS = ("sign", "coupled", "decoupled", "keep", "take", "rate", "direct", "beta2", "correction2", "eps")
_THREADS = 256


def longest(*tensors: Tensor) -> int:
    """Most numbers of a row that the lanes of a warp hold, for rows as long as those of a point and its moments."""
    x = tensors[0]
    # Memory of a device begins at multiples of more than 16 bytes; what has no memory yet has an offset, too.
    whole = all(t.storage_offset() * t.element_size() % 16 == 0 for t in tensors if t.shape == x.shape)
    return 32 * 4 * load_width(x.shape[-1], widest(x.dtype), whole)


def entry(kind: str, dtype: torch.dtype, width: int, held: int) -> tuple[str, str]:
    """Name of a kernel, and the line that instantiates it."""
    scalar = scalar_name(dtype)
    symbol = f"step_{kind}_{scalar}_{width}_{held}"
    return symbol, f"HOLONOMY_STEPS({symbol}, {KINDS[kind]}, {scalar}, {width}, {held})"


def step(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    moment: Tensor | None,
    square: Tensor | None,
    largest: Tensor | None,
    numbers: Mapping[str, float],
    rows: Tensor | None = None,
) -> None:
    """Step rows of `x` in place, on the current stream.

    Parameters
    ----------
    kind : {"ball", "lorentz", "sphere"}
        Manifold.
    c : float
        Magnitude of the curvature; 1 on the sphere.
    x, grad : Tensor
        Points and their Euclidean gradients, (..., d), contiguous, on one CUDA device, float32 or float64. With `rows`,
        gradients of those rows only.
    moment, square, largest : Tensor, optional
        First moment, (..., d), second moment and, for AMSGrad, the largest so far, (..., 1).
    numbers : mapping
        The numbers of `NUMBERS`, by name.
    rows : Tensor, optional
        Numbers of the rows of `x` to step, int64, contiguous, each at most once; without it, every row.

    Raises
    ------
    ValueError
        Where a row is longer than the registers of a warp hold: `longest` says how long it may be.
    """
    size = x.shape[-1]
    count = grad.numel() // size
    if count == 0:
        return
    if not aligned(grad):
        grad = grad.clone()
    width, held, lanes = plan(size, widest(x.dtype), aligned(x, moment))
    if held == 0:
        raise ValueError(f"kernels.cuda.steps: rows have {size} numbers, wanted at most {32 * 4 * width}")
    symbol, line = entry(kind, x.dtype, width, held)
    blocks = min(-(-count * lanes // _THREADS), most_blocks(x.get_device()))
    values = [np.float64(numbers[name]) for name in NUMBERS]
    state = [x, grad, moment, square, largest, rows]
    arguments = [*state, np.float64(c), *values, np.int64(count), np.int32(size), np.int32(lanes)]
    launch("steps", line, symbol, x, (blocks,), _THREADS, arguments)

"""Runs the row kernels of CUDA: chooses the width of the loads and the lanes of a row, and hands over addresses.

Nothing here waits for the device or reads from it, so that calls can be captured in a CUDA graph: no row is left to the
reference, the curvature goes as an address, and its gradient is summed on the device.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda.module import launch

__all__ = [
    "KERNELS",
    "aligned",
    "backward",
    "entry",
    "forward",
    "load_width",
    "most_blocks",
    "plan",
    "rows",
    "scalar_name",
    "widest",
]

#: Operations that have a kernel, by the source that holds them; the reference takes every other.
KERNELS = {
    "ball": (
        "dist",
        "dist2",
        "dist2plane",
        "expmap",
        "expmap0",
        "expmap0_inside",
        "expmap_inside",
        "expmap_transport",
        "logmap",
        "logmap0",
        "mobius_add",
        "mobius_add_inside",
        "project",
        "transport",
    ),
    "lorentz": (
        "dist",
        "dist2",
        "expmap",
        "expmap0",
        "logmap",
        "logmap0",
        "project",
        "transport",
        "uncapped_expmap",
    ),
    "sphere": ("dist", "dist2", "expmap", "expmap_transport", "logmap", "project", "transport"),
}

_SCALARS = {torch.float32: ("float", 4), torch.float64: ("double", 2)}
_THREADS = 256
#: Vectors that a kernel reads and writes; it takes this many addresses, of which it may use fewer.
_INS, _OUTS = 5, 3
#: Packs of a row that a lane holds in registers; 0: it reads them again for every sum.
_HELD = (1, 2, 4)


def scalar_name(dtype: torch.dtype) -> str:
    """Name of a dtype in the sources."""
    return _SCALARS[dtype][0]


def entry(module: str, operation: str, dtype: torch.dtype, width: int, held: int) -> tuple[str, str]:
    """Name of a kernel, and the line that instantiates it; the operation ends in "_back" for its gradients."""
    scalar = scalar_name(dtype)
    symbol = f"{module}_{operation}_{scalar}_{width}_{held}"
    return symbol, f"HOLONOMY_ROWS({symbol}, {module}_{operation}, {scalar}, {width}, {held})"


def widest(dtype: torch.dtype) -> int:
    """Numbers of a load of 16 bytes."""
    return _SCALARS[dtype][1]


def aligned(*tensors: Tensor | None) -> bool:
    """Whether all tensors begin where a load of 16 bytes may."""
    return all(t is None or t.data_ptr() % 16 == 0 for t in tensors)


def load_width(size: int, most: int, aligned: bool) -> int:
    """Numbers of one load: `most`, or a half or a quarter of them, where a row is made of whole loads; else 1."""
    return math.gcd(size, most) if aligned else 1


def plan(size: int, most: int, aligned: bool) -> tuple[int, int, int]:
    """Numbers of one load, packs that a lane holds, and lanes of a row, for rows of `size` numbers.

    All lanes of a row repeat its scalar work, so that few are better, as long as they read whole sectors of 32 bytes
    together: two packs of 16 bytes a lane, and up to four where loads are narrower or a row is long.
    """
    width = load_width(size, most, aligned)
    packs = -(-size // width)
    lanes = _power(packs / (2 if width == most else 4))
    if lanes > 8:
        lanes = max(8, min(32, _power(packs / 4)))
    each = -(-packs // lanes)
    held = next((n for n in _HELD if n >= each), 0)
    return width, held, lanes


def _power(number: float) -> int:
    """Least power of two that is no less."""
    return 1 << (math.ceil(number) - 1).bit_length()


@cache
def most_blocks(device: int) -> int:
    """Blocks that fill a device several times over; rows beyond them are taken in turn."""
    return 32 * torch.cuda.get_device_properties(device).multi_processor_count


def rows(
    source: str,
    name: str,
    ins: list[Tensor],
    outs: list[Tensor],
    *,
    given: Tensor | None = None,
    scalar: Tensor | None = None,
    c: Tensor | None = None,
    k: float = 0.0,
    curved: bool = False,
) -> Tensor | None:
    """Launch the map `name` of a source on matrices of rows; with `curved`, return the derivative by the curvature."""
    first = ins[0]
    count, size = (outs[0] if outs else scalar).shape[0], first.shape[1]  # type: ignore[union-attr]
    width, held, lanes = plan(size, widest(first.dtype), aligned(*ins, *outs))
    symbol, line = entry(source, name, first.dtype, width, held)
    blocks = min(-(-count * lanes // _THREADS), most_blocks(first.get_device()))
    slope = torch.empty(blocks, dtype=torch.float64, device=first.device) if curved else None
    # One row that all share; the given scalar comes after the vectors.
    repeated = sum(1 << i for i, t in enumerate(ins) if t.shape[0] == 1)
    if given is not None and given.shape[0] == 1:
        repeated |= 1 << len(ins)
    arguments = [
        *ins,
        *[None] * (_INS - len(ins)),
        given,
        np.uint32(repeated),
        *outs,
        *[None] * (_OUTS - len(outs)),
        scalar,
        slope,
        c,
        np.float64(k),
        np.int64(count),
        np.int32(size),
        np.int32(lanes),
    ]
    launch(source, line, symbol, first, (blocks,), _THREADS, arguments)
    return None if slope is None else slope.sum()


def _matrix(tensor: Tensor) -> Tensor:
    """The rows of a contiguous batch, whatever its shape; of a vector that all rows share, its one row."""
    return tensor.view(-1, tensor.shape[-1])


def _every_row(result: Tensor) -> Tensor:
    return torch.arange(len(_matrix(result)), device=result.device)


def forward(operation: Any, inputs: list[Tensor], results: list[Tensor], c: Tensor | None, k: float) -> Tensor | None:
    """Evaluate an operation on contiguous batches of rows, into `results`; return the index of the rows that are left.

    None are, unless the operation has no kernel: then all are.
    """
    if operation.__name__ not in KERNELS.get(operation.module, ()):
        return _every_row(results[0])
    kinds = list(zip(operation.result, map(_matrix, results), strict=True))
    outs = [r for kind, r in kinds if kind == "v"]
    scalar = next((r for kind, r in kinds if kind == "s"), None)
    rows(operation.module, operation.__name__, [_matrix(t) for t in inputs], outs, scalar=scalar, c=c, k=k)
    return None


def backward(
    operation: Any, grads: list[Tensor], inputs: list[Tensor], results: list[Tensor], c: Tensor | None, k: float
) -> tuple[Tensor | None, Tensor | None]:
    """Evaluate the gradients; return the index of the rows that are left, and the curvature's from the others."""
    if operation.__name__ not in KERNELS.get(operation.module, ()):
        return _every_row(results[0]), None if c is None else torch.zeros_like(c)
    inputs, results = [_matrix(t) for t in inputs], [_matrix(t) for t in results]
    kinds = list(zip(operation.result, map(_matrix, grads), strict=True))
    vectors = [g for kind, g in kinds if kind == "v"]
    given = next((g for kind, g in kinds if kind == "s"), None)
    name, curved = f"{operation.__name__}_back", c is not None
    slope = rows(operation.module, name, [*inputs, *vectors], results, given=given, c=c, k=k, curved=curved)
    return None, None if slope is None or c is None else slope.to(c.dtype)

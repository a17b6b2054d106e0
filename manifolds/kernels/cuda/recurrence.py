"""Linear recurrences and the selective scan on CUDA."""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name

__all__ = ["MOST_STATES", "entries", "run", "run_backward", "scan", "scan_backward"]

#: Most states of a channel in the selective scan: a thread holds one.
MOST_STATES = 32
_CHECKPOINT, _SCAN_THREADS = 64, 64
#: Rows and channels from which on each is one thread's; fewer divide time among eight.
_MANY = 2**15


def _entry(what: str, dtype: torch.dtype, width: int, parts: int) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    symbol = f"{what}_{scalar}_{parts}"
    return symbol, f"HOLONOMY_{what.upper()}({symbol}, {scalar}, {width}, {parts}, {width * parts})"


def _entry_scan(what: str, dtype: torch.dtype) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    return f"{what}_{scalar}", f"HOLONOMY_{what.upper()}({what}_{scalar}, {scalar})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    walks = [_entry(what, dtype, *how) for what in ("recurrence", "recurrence_back") for how in ((128, 1), (32, 8))]
    return dict([*walks, *(_entry_scan(what, dtype) for what in ("scan", "scan_back"))])


# -- h[t] = a[t] h[t-1] + b[t] -------------------------------------------------------------------------------------


def _walk(what: str, tensors: list[Tensor], reverse: bool) -> None:
    """Launch a walk over tensors of which the first has the shape (rows, time, channels)."""
    rows, time, channels = tensors[0].shape
    many = rows * channels
    width, parts = (128, 1) if many >= _MANY or time < 64 else (32, 8)
    symbol, line = _entry(what, tensors[0].dtype, width, parts)
    arguments = [*tensors, np.int64(rows), np.int32(time), np.int64(channels), np.int32(reverse)]
    shared = 2 * parts * width * tensors[0].dtype.itemsize if parts > 1 else 0
    module.launch("recurrence", line, symbol, tensors[0], (-(-many // width),), width * parts, arguments, shared)


def run(a: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Tensor:
    """All states of a recurrence; a, b of shape (rows, time, channels), h0 of (rows, channels)."""
    a, b, h0 = (t.detach().contiguous() for t in (a, b, h0))
    h = torch.empty_like(a)
    if h.numel():
        _walk("recurrence", [a, b, h0, h], reverse)
    return h


def run_backward(g: Tensor, a: Tensor, h: Tensor, h0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in a, b and h0, from the gradient g in h."""
    g, a, h, h0 = (t.detach().contiguous() for t in (g, a, h, h0))
    ga, gb, gh0 = torch.empty_like(a), torch.empty_like(a), torch.empty_like(h0)
    if ga.numel():
        _walk("recurrence_back", [g, a, h, h0, ga, gb, gh0], reverse)
    else:
        gh0.zero_()
    return ga, gb, gh0


# -- selective scan ------------------------------------------------------------------------------------------------


def _scan(what: str, tensors: list[Tensor], sizes: tuple[int, ...], units: int, shared: int) -> None:
    lanes = 1 << (sizes[3] - 1).bit_length()
    symbol, line = _entry_scan(what, tensors[0].dtype)
    arguments = [*tensors, *(np.int32(size) for size in (*sizes[:5], lanes, *sizes[5:]))]
    blocks = -(-units * lanes // _SCAN_THREADS)
    module.launch("recurrence", line, symbol, tensors[0], (blocks,), _SCAN_THREADS, arguments, shared)


def _prepared(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().contiguous() for t in tensors]


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state, and the states that the backward pass starts from; B, C (batch, groups, states, time)."""
    (batch, channels, time), states = u.shape, A.shape[1]
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), h0.new_empty(h0.shape)
    kept = u.new_zeros(batch, channels, -(-time // _CHECKPOINT), -(-states // 8) * 8)
    tensors = [*_prepared(u, delta, A, B.transpose(2, 3), C.transpose(2, 3), D, h0), y, last, kept]
    _scan("scan", tensors, (batch, channels, time, states, B.shape[1]), batch * channels, 0)
    return y, last, kept


def _pieces(batch: int, channels: int, states: int, groups: int) -> int:
    """How many sums of their own the channels of a group have: together as much memory as the inputs."""
    members = channels // groups
    return min(members, max(members // states, -(-256 // (batch * groups))))


def scan_backward(
    gy: Tensor,
    glast: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients in u, delta, A, B, C, D and h0, from those in the outputs and in the last state."""
    (batch, channels, time), states, groups = u.shape, A.shape[1], B.shape[1]
    pieces = _pieces(batch, channels, states, groups)
    gu, gdelta = (torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2))
    gA, gh0 = (u.new_empty(batch, channels, states) for _ in range(2))
    gB, gC = (u.new_empty(batch, groups, pieces, time, states) for _ in range(2))
    gD = u.new_empty(batch, channels)
    inputs = _prepared(gy, glast, u, delta, A, B.transpose(2, 3), C.transpose(2, 3), D, kept)
    sizes = (batch, channels, time, states, groups, pieces)
    shared = (_CHECKPOINT + 1) * _SCAN_THREADS * u.dtype.itemsize
    _scan("scan_back", [*inputs, gu, gdelta, gA, gB, gC, gD, gh0], sizes, batch * groups * pieces, shared)
    gB, gC = (t.sum(2).transpose(2, 3).contiguous() for t in (gB, gC))
    return gu, gdelta, gA.sum(0), gB, gC, gD.sum(0), gh0

"""The simplex on CUDA: Euclidean projection, and the Fisher-Rao maps with their gradients.

The maps are row maps: `run` chooses their loads and lanes. The same functions as on the CPU.
"""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module, run

__all__ = ["MAPS", "backward", "entries", "forward", "project", "project_backward"]

#: Maps of the Fisher-Rao metric; "dist" and "dist2" give one number a row.
MAPS = ("dist", "dist2", "expmap", "logmap", "retr", "transp")
_SCALAR = ("dist", "dist2")
#: Threads of a row that is projected: a warp, or for long rows eight.
_THREADS, _LONG = (32, 256), 4096


def _entry(dtype: torch.dtype, threads: int) -> tuple[str, str]:
    scalar = run.scalar_name(dtype)
    symbol = f"simplex_project_{scalar}_{threads}"
    return symbol, f"HOLONOMY_SIMPLEX_PROJECT({symbol}, {scalar}, {threads})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of kernels of a dtype, and the lines that instantiate them: of the row maps, two of their paths."""
    names = ["project_back", *(name + suffix for name in MAPS for suffix in ("", "_back"))]
    rows = [run.entry("simplex", name, dtype, *path) for name in names for path in ((run.widest(dtype), 2), (1, 0))]
    return dict([*rows, *(_entry(dtype, threads) for threads in _THREADS)])


def _rows(tensor: Tensor, size: int) -> Tensor:
    return tensor.detach().contiguous().view(-1, size)


def project(x: Tensor, mass: float) -> Tensor:
    """Project rows to {p : p >= 0, sum p = mass}."""
    size = x.shape[-1]
    out, rows = x.new_empty(x.shape), _rows(x, size)
    if out.numel():
        threads = _THREADS[size >= _LONG]
        symbol, line = _entry(x.dtype, threads)
        arguments = [rows, out, np.int32(size), np.float64(mass)]
        module.launch("simplex", line, symbol, rows, (len(rows),), threads, arguments, threads // 32 * 8)
    return out


def project_backward(grad: Tensor, out: Tensor) -> Tensor:
    """Apply the projection's derivative, which is symmetric, at its result `out`."""
    size, result = out.shape[-1], out.new_empty(out.shape)
    if result.numel():
        run.rows("simplex", "project_back", [_rows(out, size), _rows(grad, size)], [result.view(-1, size)])
    return result


def forward(name: str, *tensors: Tensor) -> Tensor:
    """Evaluate a map on tensors of one shape (..., n)."""
    shape = tensors[0].shape
    size, single = shape[-1], name in _SCALAR
    out = tensors[0].new_empty(shape[:-1] if single else shape)
    if tensors[0].numel():
        outs, scalar = ([], out.view(-1, 1)) if single else ([out.view(-1, size)], None)
        run.rows("simplex", name, [_rows(t, size) for t in tensors], outs, scalar=scalar)
    return out


def backward(name: str, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Pull a cotangent of a map back to each of its arguments."""
    size, results = tensors[0].shape[-1], tuple(t.new_empty(t.shape) for t in tensors)
    if tensors[0].numel():
        given = _rows(grad, 1) if name in _SCALAR else None
        ins = [_rows(t, size) for t in (tensors if name in _SCALAR else (*tensors, grad))]
        run.rows("simplex", f"{name}_back", ins, [r.view(-1, size) for r in results], given=given)
    return results

"""Sinkhorn's iteration on CUDA, in the log domain, for matrices that a block of threads gets through quickly."""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name

__all__ = ["LARGEST", "entries", "iterate"]

#: Most entries of a matrix: a larger one keeps all of a device busy in plain torch operations.
LARGEST = 2**16
_THREADS = 256


def _entry(dtype: torch.dtype) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    return f"sinkhorn_{scalar}", f"HOLONOMY_SINKHORN(sinkhorn_{scalar}, {scalar})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    return dict([_entry(dtype)])


def iterate(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, tolerance: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the iteration: log-scalings (float64), coupling, largest relative error of its sums, steps."""
    (n, m), batch = cost.shape[-2:], cost.shape[:-2]
    wide = {"dtype": torch.float64, "device": cost.device}
    f, following = (torch.empty(*batch, n, **wide) for _ in range(2))  # type: ignore[call-overload]
    g, errors = torch.empty(*batch, m, **wide), torch.empty(batch, **wide)  # type: ignore[call-overload]
    plan, steps = cost.new_empty(cost.shape), torch.empty(batch, dtype=torch.int64, device=cost.device)
    if batch.numel():
        symbol, line = _entry(cost.dtype)
        masses = [t.detach().double().contiguous() for t in (a, b)]
        numbers = [np.int32(n), np.int32(m), np.float64(scale), np.float64(tolerance), np.int64(limit)]
        arguments = [cost.detach().contiguous(), *masses, f, g, following, plan, errors, steps, *numbers]
        module.launch("sinkhorn", line, symbol, cost, (batch.numel(),), _THREADS, arguments, 2 * _THREADS * 8)
    return f, g, plan, errors, steps

"""B-splines and Chebyshev polynomials on CUDA; sums over features are products of the vendor's library, by blocks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module
from holonomy.manifolds.kernels.cuda.run import scalar_name

__all__ = ["MOST_DEGREE", "check_knots", "combine", "combine_backward", "entries", "pull", "values"]

#: Highest degree of B-splines that the kernels take: what is not 0 at a point stays in registers.
MOST_DEGREE = 7
_THREADS, _AT_ONCE = 128, 16
#: Values of the basis that `combine` holds at a time: 64 MB in float32.
_BLOCK = 2**24


def _entry(what: str, dtype: torch.dtype) -> tuple[str, str]:
    scalar = scalar_name(dtype)
    return f"{what}_{scalar}", f"HOLONOMY_{what.upper()}({what}_{scalar}, {scalar})"


def entries(dtype: torch.dtype) -> dict[str, str]:
    """Names of all kernels of a dtype, and the lines that instantiate them."""
    return dict(_entry(f"{family}_{what}", dtype) for family in ("bspline", "chebyshev") for what in ("values", "pull"))


def _size(knots: Tensor, family: str, degree: int) -> int:
    return knots.shape[-1] - degree - 1 if family == "bspline" else degree + 1


def _launch(what: str, tensors: list[Tensor], knots: Tensor, family: str, degree: int, order: int, shared: int) -> None:
    """Launch a kernel on tensors of which the last but one are points, and the last the result."""
    *inputs, x, out = tensors
    symbol, line = _entry(f"{family}_{what}", x.dtype)
    if family == "bspline":
        table, features = knots.detach().contiguous(), knots.shape[0] if knots.ndim == 2 else 1
        numbers = [features, knots.shape[-1], degree, order]
        arguments = [*inputs, x, table, out, np.int64(x.numel()), *(np.int32(n) for n in numbers)]
    else:
        arguments = [*inputs, x, out, np.int64(x.numel()), np.int32(degree + 1)]
    module.launch("bases", line, symbol, x, (-(-x.numel() // _THREADS),), _THREADS, arguments, shared)


def check_knots(knots: Tensor) -> None:
    """Assert on the device, without waiting for it, that knots are finite, in ascending order and not all equal."""
    t = knots.detach()
    torch._assert_async(t.isfinite().all() & (t.diff() >= 0).all() & (t[..., 0] < t[..., -1]).all())


def values(x: Tensor, knots: Tensor, family: str, degree: int, order: int = 0) -> Tensor:
    """All functions of the basis at x, or their derivatives of an order: for Chebyshev polynomials 0 only."""
    x, size = x.detach().contiguous(), _size(knots, family, degree)
    out = x.new_empty(*x.shape, size)
    if out.numel():
        held = (MOST_DEGREE + 1) * x.dtype.itemsize + 4 if family == "bspline" else (_AT_ONCE + 1) * x.dtype.itemsize
        _launch("values", [x, out], knots, family, degree, order, _THREADS * held)
    return out


def pull(g: Tensor, x: Tensor, knots: Tensor, family: str, degree: int, order: int = 1) -> Tensor:
    """Sums of g times the derivatives of an order: for Chebyshev polynomials 1 only."""
    g, x = g.detach().contiguous(), x.detach().contiguous()
    out = torch.empty_like(x)
    if out.numel():
        _launch("pull", [g, x, out], knots, family, degree, order, 0)
    return out


def _parts(x: Tensor, size: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, x.shape[1] * size))
    return (slice(i, i + step) for i in range(0, len(x), step))


def combine(x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> Tensor:
    """Sums of the basis at the features of rows x (n, features)."""
    x, matrix = x.detach(), coefficients.detach().flatten(1).t()
    y = x.new_zeros(len(x), len(coefficients))
    for part in _parts(x, _size(knots, family, degree)):
        torch.mm(values(x[part], knots, family, degree).flatten(1), matrix, out=y[part])
    return y


def combine_backward(
    g: Tensor, x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int
) -> tuple[Tensor, Tensor]:
    """Gradients in x and in the coefficients."""
    g, x, matrix = g.detach(), x.detach(), coefficients.detach().flatten(1)
    gx, gm = x.new_zeros(x.shape), torch.zeros_like(matrix)
    for part in _parts(x, _size(knots, family, degree)):
        gm.addmm_(g[part].t(), values(x[part], knots, family, degree).flatten(1))
        along = torch.mm(g[part], matrix).view(*x[part].shape, -1)
        gx[part] = pull(along, x[part], knots, family, degree)
    return gx, gm.view(coefficients.shape)

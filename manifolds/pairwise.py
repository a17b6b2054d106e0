"""Distances of all pairs, by blocks of rows: memory beyond the result stays bounded."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["arsinh_cdist", "by_rows"]

#: Entries of the largest temporary of a block: 1 to 4 MB, which stays in a processor's cache.
_BLOCK = 2**18


def by_rows(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, ndim: int) -> Tensor:
    """Evaluate a function of pairs on blocks of rows, and join the blocks.

    Parameters
    ----------
    function : callable
        Maps (..., n, 1, point) and (..., 1, m, point) to (..., n, m).
    x, y : Tensor
        Shapes (..., n, 1, point) and (..., 1, m, point), where a point has `ndim` dimensions.
    ndim : int
        Number of trailing dimensions of one point.
    """
    axis = x.ndim - ndim - 2
    rows = x.shape[axis]
    row = y.numel() * math.prod(x.shape[:axis])
    step = max(1, 4 * _BLOCK // max(1, row))
    if step >= rows or torch.compiler.is_compiling():
        return function(x, y)
    return torch.cat([function(block, y) for block in x.split(step, axis)], dim=-2)


def arsinh_cdist(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Pairwise scale * arsinh(sqrt(a_i b_j) |x_i - y_j|), to full relative precision also for close pairs.

    Neither pass holds more than the result and one block of rows: the backward pass computes the blocks again.
    Differentiable to any order (past the first, all differences are held at once); pairs of coincident points have
    gradient 0.

    Parameters
    ----------
    x, y : Tensor
        Shapes (..., n, d) and (..., m, d), of equal rank.
    a, b : Tensor
        Positive factors, shapes (..., n, 1) and (..., m, 1).
    scale : float
        Factor of the result.
    """
    result = _ArsinhCdist.apply(x, y, a, b, scale)
    assert isinstance(result, Tensor)
    return result


@torch.library.custom_op("holonomy::arsinh_cdist", mutates_args=())
def _values(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y, a, b = (t.expand(*batch, *t.shape[-2:]) for t in (x, y, a, b))
    out = x.new_empty(*batch, x.shape[-2], y.shape[-2])
    step = _block_rows(y)
    # A product in float64 is twice as fast as differences in float32 on a CPU, and as exact but for the closest pairs.
    factors = _factors(x, y, a, b) if x.dtype == torch.float32 and x.device.type == "cpu" else None
    for i in range(0, x.shape[-2], step):
        rows = (..., slice(i, i + step), slice(None))
        if factors is None:
            p = _chords(x[rows], y).square_().mul_(2.0 * a[rows]).mul_(b.mT)
        else:
            p = _by_product(factors[0][rows], factors[1], x[rows], y, 2.0 * a[rows], b)
        # 2 arsinh(sqrt(p/2)) through log1p, which is vectorised where asinh is not.
        root = (p + 2.0).mul_(p).sqrt_()
        torch.mul(root.add_(p).log1p_(), 0.5 * scale, out=out[rows])
    return out


@_values.register_fake
def _(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return x.new_empty(*torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2])


class _ArsinhCdist(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        return _values(x, y, a, b, scale)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.scale = inputs[4]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, a, b = ctx.saved_tensors  # type: ignore[attr-defined]
        gradients = _formula_backward if torch.is_grad_enabled() else _block_backward
        return *gradients(x, y, a, b, ctx.scale * grads[0]), None  # type: ignore[attr-defined]

    @staticmethod
    def vmap(info: object, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        tensors = zip(inputs[:4], in_dims, strict=False)
        x, y, a, b = (t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in tensors)
        return arsinh_cdist(x, y, a, b, inputs[4]), 0


def _block_rows(y: Tensor) -> int:
    return max(1, _BLOCK // max(1, y.shape[:-1].numel()))


def _chords(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _factors(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Write 2 a_i b_j |x_i - y_j|^2 as a product of (-2 a x, a, a|x|^2) with (2 b y, 2 b|y|^2, 2 b), in float64."""
    x, y, a, b = x.double(), y.double(), a.double(), 2.0 * b.double()
    x2, y2 = (t.square().sum(-1, keepdim=True) for t in (x, y))
    return torch.cat((-2.0 * a * x, a, a * x2), dim=-1), torch.cat((b * y, b * y2, b), dim=-1).mT


def _by_product(left: Tensor, right: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Evaluate a_i b_j |x_i - y_j|^2 by a product of factors, and by differences where that cancels."""
    squares = (left @ right).float()
    # From |x - y|^2 = 4e-8 |x|^2 down, the product cancels more than float32 can hide: those pairs go one by one.
    close: tuple[Any, ...] = (squares <= 4e-8 * a * x.square().sum(-1, keepdim=True) * b.mT).nonzero(as_tuple=True)
    i, j = close[:-1], close[:-2] + close[-1:]
    squares[close] = (x[i] - y[j]).square().sum(-1) * a[i].squeeze(-1) * b[j].squeeze(-1)
    return squares


def _block_backward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients, a block of rows at a time, each by differentiating the block."""
    wide = [t.expand(*grad.shape[:-2], *t.shape[-2:]).detach() for t in (x, y, a, b)]
    gradients = [torch.zeros_like(t) for t in wide]
    step = _block_rows(wide[1])
    for i in range(0, x.shape[-2], step):
        rows = (..., slice(i, i + step), slice(None))
        leaves = [t.detach().requires_grad_() for t in (wide[0][rows], wide[1], wide[2][rows], wide[3])]
        with torch.enable_grad():
            t = _chords(leaves[0], leaves[1]) * leaves[2].sqrt() * leaves[3].sqrt().mT
            block = torch.log1p(t + t * t / (1.0 + torch.sqrt(1.0 + t * t)))
        totals = (gradients[0][rows], gradients[1], gradients[2][rows], gradients[3])
        for total, part in zip(totals, torch.autograd.grad(block, leaves, grad[rows]), strict=True):
            total += part
    return tuple(g.sum_to_size(t.shape) for g, t in zip(gradients, (x, y, a, b), strict=True))


def _formula_backward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The same gradients written out, for derivatives of higher order (holds all differences at once)."""
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    square = difference.square().sum(-1)
    same = square == 0
    r = torch.where(same, torch.ones_like(square), square).sqrt()
    outer = a * b.mT
    # d arsinh(sqrt(ab) r) / dr, and the same over r.
    slope = grad * (outer / (1.0 + outer * square)).sqrt()
    pull = torch.where(same, torch.zeros_like(r), slope / r).unsqueeze(-1) * difference
    stretch = 0.5 * slope * torch.where(same, torch.zeros_like(r), r)
    gradients = (
        pull.sum(-2),
        -pull.sum(-3),
        (stretch / a).sum(-1, keepdim=True),
        (stretch / b.mT).sum(-2).unsqueeze(-1),
    )
    return tuple(g.sum_to_size(t.shape) for g, t in zip(gradients, (x, y, a, b), strict=True))

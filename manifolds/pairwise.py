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
    """Pairwise scale * arsinh(a_i b_j |x_i - y_j|), from differences, so that close pairs keep all their digits.

    Neither pass holds more than the result and one block of rows: the backward pass computes the blocks again.
    Differentiable to any order; pairs of coincident points have gradient 0.

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


def _arsinh(t: Tensor) -> Tensor:
    # Through log1p, which is vectorised where asinh is not: 5 times faster on a CPU.
    square = t * t
    return torch.log1p(t + square / (1.0 + torch.sqrt(1.0 + square)))


def _block_rows(x: Tensor, y: Tensor) -> int:
    return max(1, _BLOCK // max(1, y.shape[-2] * math.prod(y.shape[:-2])))


def _chords(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


class _ArsinhCdist(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        out = x.new_empty(*batch, x.shape[-2], y.shape[-2])
        y, columns = y.expand(*batch, *y.shape[-2:]), b.mT
        step = _block_rows(x, y)
        for i in range(0, x.shape[-2], step):
            t = _chords(x[..., i : i + step, :], y).mul_(a[..., i : i + step, :]).mul_(columns)
            square = t * t
            root = (square + 1.0).sqrt_().add_(1.0)
            torch.mul(square.div_(root).add_(t).log1p_(), scale, out=out[..., i : i + step, :])
        return out

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.scale = inputs[4]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, a, b = ctx.saved_tensors  # type: ignore[attr-defined]
        grad = ctx.scale * grads[0]  # type: ignore[attr-defined]
        gradients = _formula_backward if torch.is_grad_enabled() else _blocks_backward
        return *gradients(x, y, a, b, grad), None

    @staticmethod
    def vmap(info: object, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        tensors = zip(inputs[:4], in_dims, strict=False)
        x, y, a, b = (t.unsqueeze(0) if d is None else t.movedim(d, 0) for t, d in tensors)
        return arsinh_cdist(x, y, a, b, inputs[4]), 0


def _blocks_backward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients, a block of rows at a time, each by differentiating the block."""
    batch = grad.shape[:-2]
    wide = [t.expand(*batch, *t.shape[-2:]) for t in (x, y, a, b)]
    y_all, b_all = wide[1].detach().requires_grad_(), wide[3].detach().requires_grad_()
    gx, ga = torch.empty_like(wide[0]), torch.empty_like(wide[2])
    gy, gb = torch.zeros_like(wide[1]), torch.zeros_like(wide[3])
    step = _block_rows(x, wide[1])
    for i in range(0, x.shape[-2], step):
        rows = slice(i, i + step)
        x_rows = wide[0][..., rows, :].detach().requires_grad_()
        a_rows = wide[2][..., rows, :].detach().requires_grad_()
        with torch.enable_grad():
            block = _arsinh(_chords(x_rows, y_all) * a_rows * b_all.mT)
        parts = torch.autograd.grad(block, (x_rows, y_all, a_rows, b_all), grad[..., rows, :])
        gx[..., rows, :], ga[..., rows, :] = parts[0], parts[2]
        gy += parts[1]
        gb += parts[3]
    return tuple(g.sum_to_size(t.shape) for g, t in zip((gx, gy, ga, gb), (x, y, a, b), strict=True))


def _formula_backward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The same gradients written out, for derivatives of higher order (holds all differences at once)."""
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    square = difference.square().sum(-1)
    same = square == 0
    r = torch.where(same, torch.ones_like(square), square).sqrt()
    r0 = torch.where(same, torch.zeros_like(r), r)
    outer = a * b.mT
    slope = grad / torch.sqrt(1.0 + (outer * r0).square())
    pull = torch.where(same, torch.zeros_like(r), slope * outer / r).unsqueeze(-1) * difference
    stretch = slope * r0
    gradients = (
        pull.sum(-2),
        -pull.sum(-3),
        (stretch * b.mT).sum(-1, keepdim=True),
        (stretch * a).sum(-2).unsqueeze(-1),
    )
    return tuple(g.sum_to_size(t.shape) for g, t in zip(gradients, (x, y, a, b), strict=True))

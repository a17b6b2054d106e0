"""Class logits by subspaces on CUDA: products of the vendor's library for a block of classes at a time."""

import torch
from torch import Tensor

__all__ = ["backward", "forward"]

#: Products z = s_c^T x_b that are held at a time: 64 MB in float32.
_BLOCK = 2**24


def _parts(x: Tensor, bases: Tensor) -> list[slice]:
    step = max(1, _BLOCK // (len(x) * bases.shape[2]))
    return [slice(c, c + step) for c in range(0, len(bases), step)]


def _products(x: Tensor, bases: Tensor) -> Tensor:
    """x s_c for every basis s_c, (C, B, k): one product a class, which copies nothing."""
    return torch.bmm(x.expand(len(bases), -1, -1), bases)


def forward(x: Tensor, bases: Tensor, squared: bool) -> Tensor:
    """Lengths, or their squares, of the projections of x (B, D) onto subspaces (C, D, k)."""
    x, bases = x.detach(), bases.detach()
    out = x.new_empty(len(bases), len(x))
    for part in _parts(x, bases):
        torch.sum(_products(x, bases[part]).square_(), -1, out=out[part])
    return (out if squared else out.sqrt_()).t().contiguous()


def backward(g: Tensor, x: Tensor, bases: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """Gradients in x and in the bases, from that in the logits."""
    g, x, bases = g.detach().t(), x.detach(), bases.detach()
    dx, dbases = torch.zeros_like(x), torch.empty_like(bases, memory_format=torch.contiguous_format)
    for part in _parts(x, bases):
        z = _products(x, bases[part])
        if squared:
            weight = 2.0 * g[part]
        else:
            length = z.square().sum(-1).sqrt_()
            # The gradient of the length is 0 where x is orthogonal to the subspace.
            weight = torch.where(length > 0, g[part] / torch.where(length > 0, length, 1.0), 0.0)
        z *= weight.unsqueeze(-1)
        torch.bmm(x.t().expand(len(z), -1, -1), z, out=dbases[part])
        dx += torch.einsum("cbk,cdk->bd", z, bases[part])
    return dx, dbases

"""Class logits by subspaces on CUDA: products of the vendor's library for a block of classes at a time."""

import torch
from torch import Tensor

__all__ = ["backward", "forward"]

#: Products z = s_c^T x_b that are held at a time: 64 MB in float32.
_BLOCK = 2**24


def _parts(x: Tensor, bases: Tensor) -> list[slice]:
    step = max(1, _BLOCK // (len(x) * bases.shape[2]))
    return [slice(c, c + step) for c in range(0, len(bases), step)]


def _matrix(bases: Tensor) -> Tensor:
    """Bases (C, D, k) as a matrix (D, C k)."""
    return bases.movedim(1, 0).reshape(bases.shape[1], -1)


def forward(x: Tensor, bases: Tensor, squared: bool) -> Tensor:
    """Lengths, or their squares, of the projections of x (B, D) onto subspaces (C, D, k)."""
    x, bases = x.detach(), bases.detach()
    out = x.new_empty(len(x), len(bases))
    for part in _parts(x, bases):
        torch.sum((x @ _matrix(bases[part])).square_().view(len(x), -1, bases.shape[2]), -1, out=out[:, part])
    return out if squared else out.sqrt_()


def backward(g: Tensor, x: Tensor, bases: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """Gradients in x and in the bases, from that in the logits."""
    g, x, bases = g.detach(), x.detach(), bases.detach()
    dx, dbases = torch.zeros_like(x), torch.empty_like(bases, memory_format=torch.contiguous_format)
    k = bases.shape[2]
    for part in _parts(x, bases):
        matrix = _matrix(bases[part])
        z = (x @ matrix).view(len(x), -1, k)
        if squared:
            weight = 2.0 * g[:, part]
        else:
            length = z.square().sum(-1).sqrt_()
            # The gradient of the length is 0 where x is orthogonal to the subspace.
            weight = torch.where(length > 0, g[:, part] / torch.where(length > 0, length, 1.0), 0.0)
        z *= weight.unsqueeze(-1)
        flat = z.view(len(x), -1)
        dx.addmm_(flat, matrix.t())
        dbases[part] = (x.t() @ flat).view(x.shape[1], -1, k).movedim(0, 1)
    return dx, dbases

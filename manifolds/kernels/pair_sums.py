"""What follows the sums of a backward pass over pairs, on every device."""

import torch
from torch import Tensor

__all__ = ["shaped", "unslanted"]


def shaped(t: Tensor, like: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Bring sums of (batches, rows, d) to the shape and dtype of an argument, adding up what it was expanded to."""
    if t.numel() == like.numel():
        return t.to(like.dtype).reshape(like.shape).contiguous()
    return t.reshape(*batch, like.shape[-2], t.shape[-1]).sum_to_size(like.shape).to(like.dtype).contiguous()


def unslanted(sums: Tensor, radial: Tensor, points: Tensor, time: Tensor, c: Tensor) -> Tensor:
    """Gradients on the hyperboloid from sums of k and of its inner product with the points."""
    xs = points.double()
    square = xs.square().sum(-1, keepdim=True)
    # Far out, rounding in k along the point is large beside the gradient that way, which its inner product knows.
    far = c.reshape(-1, 1, 1) * square > 1.0
    missing = (radial.unsqueeze(-1) - (sums * xs).sum(-1, keepdim=True)) / torch.where(far, square, 1.0)
    return (sums + torch.where(far, missing, 0.0) * xs) / time.double().unsqueeze(-1)

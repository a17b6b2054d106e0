"""Distances between all pairs of points and hyperplanes of the ball, fused: a linear or a classifying layer's work.

`plane_pairs` has a kernel on the CPU. It forms the difference of each pair, as `gyrovector.dist2plane` does, and so is
as exact near a plane; the layers of Poincaré ResNet take inner products from matrix products instead.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.channels import mapped

__all__ = ["plane_pairs", "takes"]

#: Coordinates of all pairs below which the reference is as fast.
_LEAST = 1 << 16
_LABEL = "holonomy::planes_pairs"
_PARAMETERS = "Tensor x, Tensor p, Tensor a, Tensor u, Tensor v, Tensor g, Tensor q"


@cache
def _kernels() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cpu.planes")


def takes(x: Tensor, p: Tensor, a: Tensor) -> bool:
    """Whether the kernel takes points (..., 1, d) and planes (c, d), with any leading ones, as all their pairs."""
    if x.ndim < 2 or x.shape[-2] != 1 or x.device.type != "cpu" or not x.numel():
        return False
    for t in (p, a):
        if t.ndim < 2 or t.ndim > x.ndim or t.shape[-2:] != p.shape[-2:] or t.numel() != t.shape[-2:].numel():
            return False
    if p.shape[-1] != x.shape[-1] or p.shape[-2] < 2:
        return False
    if dispatch._forced is None and x.numel() * p.shape[-2] < _LEAST:
        return False
    return dispatch.backend(x, p, a) == "numba"


def reference(x: Tensor, p: Tensor, a: Tensor, u: Tensor, v: Tensor, g: Tensor, q: Tensor) -> Tensor:
    """The definition of `plane_pairs`, in plain torch."""
    h = x.unsqueeze(-2) - p
    across = g * (h * a).sum(-1) - q * h.square().sum(-1)
    return torch.asinh(u.unsqueeze(-1) * (v * across))


def plane_pairs(x: Tensor, p: Tensor, a: Tensor, u: Tensor, v: Tensor, g: Tensor, q: Tensor) -> Tensor:
    """arsinh(u v (g <h, a> - q |h|^2)) with h = x - p for all pairs of points and planes.

    Parameters
    ----------
    x, u : Tensor
        Points (b, d), and a factor for each.
    p, a, v, g, q : Tensor
        Points and normals (c, d) of the planes, and three factors for each.

    Returns
    -------
    Tensor
        Shape (b, c).
    """
    tensors = (x, p, a, u, v, g, q)
    if dispatch.is_observed(*tensors) or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        found: Tensor = _forward(*tensors)
        return found
    return _run(*tensors)


def _run(*tensors: Tensor) -> Tensor:
    found: Tensor = _kernels().plane_pairs(*(t.detach() for t in tensors))
    return found


def _run_back(*tensors: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _kernels().plane_pairs_back(*(t.detach() for t in tensors))
    return found


def _plain_back(up: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = torch.func.vjp(reference, *inputs)[1](up)
    return found


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _pull(ctx: Any, up: Tensor) -> Any:
    return _backward(up, *ctx.saved_tensors)


def _pull_back(ctx: Any, *grads: Tensor) -> Any:
    return torch.func.vjp(_plain_back, *ctx.saved_tensors)[1](tuple(grads))


_define: Any = torch.library.custom_op
_forward = _define(_LABEL, _run, mutates_args=(), device_types="cpu", schema=f"({_PARAMETERS}) -> Tensor")
_backward = _define(
    f"{_LABEL}_back",
    _run_back,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor up, {_PARAMETERS}) -> ({', '.join(['Tensor'] * 7)})",
)
_forward.register_fake(lambda x, p, *rest: x.new_empty(x.shape[0], p.shape[0]))
_backward.register_fake(lambda up, *inputs: tuple(t.new_empty(t.shape) for t in inputs))
_forward.register_autograd(_pull, setup_context=_keep)
_backward.register_autograd(_pull_back, setup_context=_keep)
_forward.register_vmap(mapped(_forward))
_backward.register_vmap(mapped(_backward))

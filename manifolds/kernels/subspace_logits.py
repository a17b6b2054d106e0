"""Class logits by subspaces: how long the projection of a feature vector onto each of many subspaces is."""

import importlib
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["subspace_logits"]


def subspace_logits(x: Tensor, bases: Tensor, *, squared: bool = False) -> Tensor:
    """Length |s_c^T x_b| of the projection of every vector onto every subspace, or its square.

    The products s_c^T x_b are never stored for all classes at once: beyond the result and the gradients, the CPU's
    kernels need a copy of `x` and a megabyte, and CUDA some hundred megabytes. The gradient of the length is 0 where
    `x` is orthogonal to the subspace.

    Parameters
    ----------
    x : Tensor
        Feature vectors (B, D).
    bases : Tensor
        Bases of the subspaces (C, D, k), of the dtype of `x`; orthonormal columns are what makes the results
        lengths of projections, and are not checked.
    squared : bool
        Give squared lengths.

    Returns
    -------
    Tensor
        Logits (B, C).

    Raises
    ------
    TypeError
        Where an argument is no tensor, or not of a real floating dtype, or the dtypes differ.
    ValueError
        Where a shape does not fit.

    References
    ----------
    Zhang, Fang, et al., Grassmann class representation, equation 3, ICCV 2023 (arXiv:2308.01547).
    """
    _check(x, bases)
    if dispatch.backend(x, bases) is None or 0 in bases.shape or 0 in x.shape:
        return _reference(x, bases, squared)
    return _logits(x, bases, squared)


def _check(x: Tensor, bases: Tensor) -> None:
    for name, tensor, ndim, wanted in (("x", x, 2, "(B, D)"), ("bases", bases, 3, "(C, D, k)")):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"subspace_logits: argument {name!r} must be a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"subspace_logits: argument {name!r} must have a real floating dtype, got {tensor.dtype}")
        if tensor.ndim != ndim:
            raise ValueError(f"subspace_logits: argument {name!r} has shape {tuple(tensor.shape)}, wanted {wanted}")
    if x.dtype != bases.dtype:
        raise TypeError(f"subspace_logits: argument 'bases' has dtype {bases.dtype}, wanted {x.dtype} as in 'x'")
    if x.shape[1] != bases.shape[1]:
        raise ValueError(
            f"subspace_logits: argument 'bases' has shape {tuple(bases.shape)}, wanted (C, {x.shape[1]}, k) to fit "
            f"'x' of shape {tuple(x.shape)}"
        )


def _reference(x: Tensor, bases: Tensor, squared: bool) -> Tensor:
    z = torch.einsum("bd,cdk->bck", x, bases)
    if squared:
        return z.square().sum(-1)
    # torch's own norm has gradient 0 at 0 too, but a gradient of that gradient that is NaN.
    total = z.square().sum(-1)
    zero = total == 0
    return torch.where(zero, torch.zeros_like(total), torch.where(zero, torch.ones_like(total), total).sqrt())


def _kernels(tensor: Tensor) -> Any:
    return importlib.import_module(f"holonomy.manifolds.kernels.{'cuda' if tensor.is_cuda else 'cpu'}.subspace_logits")


@torch.library.custom_op("holonomy::subspace_logits", mutates_args=())
def _logits(x: Tensor, bases: Tensor, squared: bool) -> Tensor:
    result: Tensor = _kernels(x).forward(x, bases, squared)
    return result


@_logits.register_fake
def _(x: Tensor, bases: Tensor, squared: bool) -> Tensor:
    return x.new_empty(x.shape[0], bases.shape[0])


@torch.library.custom_op("holonomy::subspace_logits_backward", mutates_args=())
def _logits_backward(g: Tensor, x: Tensor, bases: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    dx, dbases = _kernels(x).backward(g, x, bases, squared)
    return dx, dbases


@_logits_backward.register_fake
def _(g: Tensor, x: Tensor, bases: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bases.new_empty(bases.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.squared = inputs
    ctx.save_for_backward(*tensors)


def _pull(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return *_logits_backward(g, *ctx.saved_tensors, ctx.squared), None


def _vector_jacobian(g: Tensor, x: Tensor, bases: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    pulled: tuple[Tensor, Tensor] = torch.func.vjp(lambda a, b: _reference(a, b, squared), x, bases)[1](g)
    return pulled


def _pull_again(ctx: Any, hx: Tensor, hbases: Tensor) -> tuple[Any, ...]:
    back = torch.func.vjp(lambda g, x, bases: _vector_jacobian(g, x, bases, ctx.squared), *ctx.saved_tensors)[1]
    return *back((hx, hbases)), None


_logits.register_autograd(_pull, setup_context=_keep)
_logits_backward.register_autograd(_pull_again, setup_context=_keep)


def _batched(info: Any, in_dims: tuple[Any, ...], x: Tensor, bases: Tensor, squared: bool) -> tuple[Tensor, int]:
    """Mapped vectors are more vectors, mapped bases more classes; where both are mapped, one call each."""
    size = info.batch_size
    if in_dims[1] is None:
        flat = x.movedim(in_dims[0], 0)
        return _logits(flat.reshape(-1, flat.shape[-1]), bases, squared).view(*flat.shape[:2], -1), 0
    moved = bases.movedim(in_dims[1], 0)
    if in_dims[0] is None:
        result = _logits(x, moved.reshape(-1, *moved.shape[2:]), squared)
        return result.view(x.shape[0], size, -1).movedim(1, 0), 0
    return torch.stack([_logits(x.select(in_dims[0], i), moved[i], squared) for i in range(size)]), 0


def _batched_backward(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, Tensor], Any]:
    *tensors, squared = arguments
    parts = [
        _logits_backward(*(t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=False)), squared)
        for i in range(info.batch_size)
    ]
    return (torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts])), (0, 0)


_logits.register_vmap(_batched)
_logits_backward.register_vmap(_batched_backward)

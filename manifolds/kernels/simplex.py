"""Operations on the probability simplex: the Euclidean projection, and registration of the Fisher-Rao maps.

`project_simplex` is complete here. The maps of the Fisher-Rao metric are defined where they are used, in
``manifolds/simplex.py``; `fuse` puts the kernels behind such a definition.
"""

import importlib
import math
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["fuse", "project_simplex", "project_simplex_reference"]


def _kernels(tensor: Tensor) -> Any:
    return importlib.import_module(f"holonomy.manifolds.kernels.{'cuda' if tensor.is_cuda else 'cpu'}.simplex")


# -- Euclidean projection ------------------------------------------------------------------------------------------


def project_simplex(x: Tensor, total: float = 1.0) -> Tensor:
    """Nearest points, in the Euclidean distance, of the simplex {p : p >= 0, sum p = total}.

    With ``total=1`` this is sparsemax of the logits `x`. The derivative is that on the face of the result: the mean
    over its positive entries is taken off, and entries that are 0 pass no gradient.

    Parameters
    ----------
    x : Tensor
        Floating point, shape (..., n); projected along the last dimension. Entries of minus infinity become 0; rows
        with NaN, with plus infinity, or without a finite entry become NaN.
    total : float
        Positive and finite.

    Returns
    -------
    Tensor
        Shape and dtype of `x`. Rows sum to `total` up to the rounding of their entries.

    Raises
    ------
    TypeError
        Where `x` is not a floating point tensor.
    ValueError
        Where `x` has no last dimension or an empty one, or `total` is not positive and finite.

    References
    ----------
    C. Michelot, *A finite algorithm for finding the projection of a point onto the canonical simplex*, JOTA 1986;
    L. Condat, *Fast projection onto the simplex and the l1 ball*, Math. Programming 2016; A. Martins, R. Astudillo,
    *From softmax to sparsemax*, ICML 2016.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"project_simplex: 'x' must be a floating point tensor, got {got}")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"project_simplex: 'x' has shape {tuple(x.shape)}, wanted a last dimension of at least 1")
    if isinstance(total, Tensor) or not 0.0 < total < math.inf:
        raise ValueError(f"project_simplex: 'total' must be a positive, finite number, got {total!r}")
    if dispatch.backend(x) is not None:
        result = _project(x, float(total))
        assert isinstance(result, Tensor)
        return result
    return project_simplex_reference(x, total)


def project_simplex_reference(x: Tensor, total: float = 1.0) -> Tensor:
    """`project_simplex` in plain torch, by sorting."""
    # A shift of a row changes nothing, and this one keeps digits: what counts is then within [-total, 0].
    z = x - x.detach().amax(-1, keepdim=True)
    ordered = z.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - total
    rank = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    active = (ordered * rank > excess).sum(-1, keepdim=True).clamp_min(1)
    return torch.relu(z - excess.gather(-1, active - 1) / active)


@torch.library.custom_op("holonomy::project_simplex", mutates_args=())
def _project(x: Tensor, total: float) -> Tensor:
    result: Tensor = _kernels(x).project(x, total)
    return result


@torch.library.custom_op("holonomy::project_simplex_backward", mutates_args=())
def _project_backward(grad: Tensor, out: Tensor) -> Tensor:
    result: Tensor = _kernels(out).project_backward(grad, out)
    return result


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


_project.register_fake(lambda x, total: _like(x))
_project_backward.register_fake(lambda grad, out: _like(out))


def _save_result(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


# The derivative is constant on each face: its own derivative is the same map of the gradient, and 0 of the result.
_project.register_autograd(
    lambda ctx, grad: (_project_backward(grad, *ctx.saved_tensors), None), setup_context=_save_result
)
_project_backward.register_autograd(
    lambda ctx, grad: (_project_backward(grad, *ctx.saved_tensors), None), setup_context=_save_second
)


def _front(size: int, tensors: tuple[Tensor, ...], in_dims: tuple[int | None, ...]) -> list[Tensor]:
    """Bring the mapped dimension to the front; tensors without one get it by repetition."""
    return [
        t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]


@_project.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], x: Tensor, total: float) -> tuple[Tensor, int]:
    return _project(x.movedim(in_dims[0] or 0, 0), total), 0


@_project_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    return _project_backward(*_front(info.batch_size, tensors, in_dims)), 0


# -- Fisher-Rao maps -----------------------------------------------------------------------------------------------


def fuse(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorate the definition of a map, in plain torch, so that calls go to its kernel where there is one.

    The definition takes tensors whose shapes (..., n) broadcast, and gives one of that shape, or (...) for "dist" and
    "dist2". The first derivative has a kernel too; further ones are those of the definition. It stays available as
    the attribute ``reference``.

    Parameters
    ----------
    name : {"expmap", "logmap", "dist", "dist2", "retr", "transp"}
        Which kernel.
    """

    def decorate(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
        operator = _register(name, reference)

        def call(*tensors: Tensor) -> Tensor:
            if dispatch.backend(*tensors) is None:
                return reference(*tensors)
            result: Tensor = operator(*torch.broadcast_tensors(*tensors))
            return result

        update_wrapper(call, reference)
        call.reference = reference  # type: ignore[attr-defined]
        return call

    return decorate


def _register(name: str, reference: Callable[..., Tensor]) -> Any:
    """Register the operator ``holonomy::simplex_<name>`` and its derivative, with all their rules."""
    names = "xyv"[: 3 if name == "transp" else 2]
    arguments = ", ".join(f"Tensor {n}" for n in names)
    results = ", ".join("Tensor" for _ in names)
    forward = torch.library.custom_op(
        f"holonomy::simplex_{name}",
        lambda *tensors: _kernels(tensors[0]).forward(name, *tensors),
        mutates_args=(),
        schema=f"({arguments}) -> Tensor",
    )
    backward = torch.library.custom_op(
        f"holonomy::simplex_{name}_backward",
        lambda *tensors: _kernels(tensors[0]).backward(name, *tensors),
        mutates_args=(),
        schema=f"(Tensor grad, {arguments}) -> ({results})",
    )
    shape = slice(-1) if name in ("dist", "dist2") else slice(None)
    forward.register_fake(lambda *tensors: tensors[0].new_empty(tensors[0].shape[shape]))
    backward.register_fake(lambda grad, *tensors: tuple(_like(t) for t in tensors))

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    def pull_back(grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(reference, *tensors)[1](grad)

    def pull_back_twice(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(pull_back, *ctx.saved_tensors)[1](grads)

    forward.register_autograd(lambda ctx, grad: backward(grad, *ctx.saved_tensors), setup_context=save)
    backward.register_autograd(pull_back_twice, setup_context=save)

    def batch_forward(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        return forward(*_front(info.batch_size, tensors, in_dims)), 0

    def batch_backward(
        info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        outputs = backward(*_front(info.batch_size, tensors, in_dims))
        return outputs, (0,) * len(outputs)

    forward.register_vmap(batch_forward)
    backward.register_vmap(batch_backward)
    return forward

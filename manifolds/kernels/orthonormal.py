"""Fused operations on batches of tall matrices (..., n, p): retractions, geodesics and projections of subspaces.

`fused` puts a kernel behind a reference in plain torch. The gradient is the kernel's own; the gradient of the gradient
is the reference's. Everything that the kernels do not take goes to the reference: p over 32, other devices and dtypes,
forward-mode differentiation, ``torch.export``.
"""

import importlib
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["LARGEST", "OPERATIONS", "batched", "fused"]

Reference = Callable[[Tensor, Tensor], Tensor]

#: Largest p that the kernels take: beyond, matrix products of the vendor's library are as fast.
LARGEST = 32

#: Name: rows of the (..., rows, p) tensor that is kept for the backward pass beside the result, as a function of p;
#: and whether both arguments have one gradient, that of their sum.
OPERATIONS: dict[str, tuple[Callable[[int], int], bool]] = {
    "exp": (lambda p: 0, False),
    "qr": (lambda p: p, True),
    "polar": (lambda p: p + 1, True),
    "project": (lambda p: 0, False),
    "project_half": (lambda p: 0, False),
}


def _unwatched(x: Tensor, u: Tensor) -> bool:
    """Whether nothing records or transforms operators, so that the kernel can be called at a third of the cost."""
    return not (
        torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and (x.requires_grad or u.requires_grad))
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__
        or type(u).__torch_dispatch__ is not Tensor.__torch_dispatch__
    )


@cache
def _kernels(cuda: bool) -> Any:
    return importlib.import_module(f"holonomy.manifolds.kernels.{'cuda' if cuda else 'cpu'}.orthonormal")


def fused(name: str) -> Callable[[Reference], Reference]:
    """Put the kernel of this name, a key of `OPERATIONS`, behind a reference.

    ==============  ================================================================================================
    exp             x cos r + u sin(r)/r, r^2 = u^T u, and one Newton-Schulz step towards orthonormal columns
    qr              Q factor of x + u, the diagonal of R positive
    polar           orthonormal polar factor of x + u
    project         u - x x^T u
    project_half    u - x (x^T u + u^T x)/2
    ==============  ================================================================================================

    Parameters
    ----------
    name : str
        The kernel. Its operator is registered as ``holonomy::orthonormal_<name>``; a name can be used once.

    Returns
    -------
    callable
        A decorator for functions of two (..., n, p) tensors, whose batch dimensions broadcast, with a tensor of their
        common shape as a result.
    """

    def decorate(reference: Reference) -> Reference:
        operator = _register(name, reference)

        def call(x: Tensor, u: Tensor) -> Tensor:
            if x.shape[-1] > LARGEST or dispatch.backend(x, u) is None:
                return reference(x, u)
            if x.shape != u.shape:
                x, u = torch.broadcast_tensors(x, u)
            if _unwatched(x, u):
                return _kernels(x.is_cuda).forward(name, x, u, OPERATIONS[name][0](x.shape[-1]))[0]
            return operator(x, u)[0]

        return update_wrapper(call, reference)

    return decorate


def _register(name: str, reference: Reference) -> Any:
    rows, shared = OPERATIONS[name]
    backward = _register_backward(name, reference)

    @torch.library.custom_op(f"holonomy::orthonormal_{name}", mutates_args=())
    def operator(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        y, factor = _kernels(x.is_cuda).forward(name, x, u, rows(x.shape[-1]))
        return y, factor

    @operator.register_fake
    def _(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        return y, x.new_empty(*x.shape[:-2], rows(x.shape[-1]), x.shape[-1], dtype=torch.float64)

    def setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)

    def pull(ctx: Any, g: Tensor | None, _: Any) -> tuple[Tensor | None, Tensor | None]:
        if g is None:
            return None, None
        dx, du = backward(g, *ctx.saved_tensors)
        return dx, dx if shared else du

    operator.register_autograd(pull, setup_context=setup)
    operator.register_vmap(batched(operator))
    return operator


def _register_backward(name: str, reference: Reference) -> Any:
    shared = OPERATIONS[name][1]

    # y and factor are functions of x and u, handed over to save their computation: derivatives are those of g, x, u.
    @torch.library.custom_op(f"holonomy::orthonormal_{name}_backward", mutates_args=())
    def operator(g: Tensor, x: Tensor, u: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        dx, du = _kernels(x.is_cuda).backward(name, g, x, u, y, factor, shared)
        return dx, du

    @operator.register_fake
    def _(g: Tensor, x: Tensor, u: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        return dx, x.new_empty(*x.shape[:-2], 0, x.shape[-1]) if shared else torch.empty_like(dx)

    def setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:3])

    def vector_jacobian(g: Tensor, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        dx, du = torch.func.vjp(reference, x, u)[1](g)
        return (dx,) if shared else (dx, du)

    def pull(ctx: Any, hx: Tensor, hu: Tensor) -> tuple[Tensor | None, ...]:
        back = torch.func.vjp(vector_jacobian, *ctx.saved_tensors)[1]
        return (*back((hx,) if shared else (hx, hu)), None, None)

    operator.register_autograd(pull, setup_context=setup)
    operator.register_vmap(batched(operator))
    return operator


def batched(operator: Any) -> Callable[..., Any]:
    """The rule for vmap: the mapped dimension becomes the first of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Any, tuple[int, int]]:
        moved = [
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors, in_dims, strict=True)
        ]
        return operator(*moved), (0, 0)

    return rule

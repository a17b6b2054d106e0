"""Principal angles between subspaces, fused on the CPU; the reference is `grassmann`'s sine-and-cosine method.

The gradient is one of matrices (..., p, p) and of x and y: with z v_i = s_i p_i and m w_i = c_i q_i, the angle has the
differential c_i ds_i - s_i dc_i, where ds_i = p_i^T (dy - dx m) v_i and dc_i = q_i^T (dx^T y + x^T dy) w_i.
"""

import importlib
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.orthonormal import LARGEST, batched

__all__ = ["fused"]

Reference = Callable[[Tensor, Tensor], Tensor]


@cache
def _kernels() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cpu.angles")


def fused(name: str) -> Callable[[Reference], Reference]:
    """Put the kernel behind a reference of two (..., n, p) tensors with orthonormal columns.

    Parameters
    ----------
    name : str
        The operator is registered as ``holonomy::<name>``, its gradient with ``_back``.
    """

    def decorate(reference: Reference) -> Reference:
        operator = _register(name, reference)

        def call(x: Tensor, y: Tensor) -> Tensor:
            if x.device.type != "cpu" or x.shape[-1] > LARGEST or dispatch.backend(x, y) is None:
                return reference(x, y)
            x, y = torch.broadcast_tensors(x, y)
            if not x.numel():
                return reference(x, y)
            found: Tensor = operator(x, y)[0]
            return found

        return update_wrapper(call, reference)

    return decorate


def _register(name: str, reference: Reference) -> Any:
    define: Any = torch.library.custom_op
    backward = _register_back(name, reference)

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _kernels().principal_angles(x.detach(), y.detach())
        return found

    operator = define(
        f"holonomy::{name}",
        run,
        mutates_args=(),
        device_types="cpu",
        schema="(Tensor x, Tensor y) -> (Tensor, Tensor)",
    )

    @operator.register_fake
    def _(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        p = x.shape[-1]
        return x.new_empty(*x.shape[:-2], p), x.new_empty(*x.shape[:-2], 3 * p + 2, p, dtype=torch.float64)

    def setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, output[1])

    def pull(ctx: Any, g: Tensor | None, _: Any) -> tuple[Tensor | None, Tensor | None]:
        if g is None:
            return None, None
        dx, dy = backward(g, *ctx.saved_tensors)
        return dx, dy

    operator.register_autograd(pull, setup_context=setup)
    operator.register_vmap(batched(operator))
    return operator


def _register_back(name: str, reference: Reference) -> Any:
    # The factor is a function of x and y, handed over to save its computation: derivatives are those of g, x, y.
    @torch.library.custom_op(f"holonomy::{name}_back", mutates_args=(), device_types="cpu")
    def operator(g: Tensor, x: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        tensors = (t.detach() for t in (g, x, y, factor))
        found: tuple[Tensor, Tensor] = _kernels().principal_angles_back(*tensors)
        return found

    @operator.register_fake
    def _(g: Tensor, x: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape), y.new_empty(y.shape)

    def setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:3])

    def vector_jacobian(g: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.func.vjp(reference, x, y)[1](g)
        return found

    def pull(ctx: Any, hx: Tensor, hy: Tensor) -> tuple[Tensor | None, ...]:
        return *torch.func.vjp(vector_jacobian, *ctx.saved_tensors)[1]((hx, hy)), None

    operator.register_autograd(pull, setup_context=setup)
    operator.register_vmap(batched(operator))
    return operator

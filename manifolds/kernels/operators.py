"""Registration of fused row operations with torch: one custom operator forward, one backward, and all their rules.

An operation is defined once, in plain torch: its reference. `fused` wraps a reference of the form ``f(*vectors, c)``
that acts on the last dimension of its arguments and broadcasts over the others; calls go to a kernel where
`dispatch.backend` names one, and to the reference otherwise. Gradients are the kernel's own; gradients of gradients
are the reference's. torch.compile sees one node.

The operators are for whatever looks at operators: the compiler, vmap, dispatch modes. A plain call runs the kernel
behind them at once, as their layers in Python take longer than a thousand rows.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import cache, update_wrapper
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["Fused", "fused"]

_ROOM = "holonomy.manifolds.kernels"


def fused(
    module: str,
    vectors: int,
    *,
    result: str = "v",
    curved: bool = True,
    kernel: str | None = None,
    least: int = 0,
) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a reference whose kernels are ``<its name>`` and ``<its name>_back`` in a module of each backend.

    Parameters
    ----------
    module : str
        Name of the modules ``cpu/<module>.py`` and ``cuda/<module>.cu``.
    vectors : int
        Number of vector arguments, which come first.
    result : str
        One letter for each result: "v" is a vector, "s" a scalar that keeps the last axis, with size 1.
    curved : bool
        Whether a curvature follows the vectors: a float, or a tensor that broadcasts against them.
    kernel : str, optional
        Name of the kernels, where it is not the reference's: references that differ only in rows that kernels leave to
        them share their kernels.
    least : int
        On the CPU, numbers in the first argument below which the reference is as fast.
    """
    return lambda reference: Fused(reference, module, vectors, result, curved, kernel or reference.__name__, least)


class Fused:
    """A reference with kernels behind it; call it as the reference.

    Attributes
    ----------
    reference : callable
        The definition in plain torch operations.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        module: str,
        vectors: int,
        result: str,
        curved: bool,
        kernel: str,
        least: int,
    ) -> None:
        update_wrapper(self, reference)
        self.reference, self.module, self.kernel, self.least = reference, module, kernel, least
        self.vectors, self.result, self.curved = vectors, result, curved
        self._forward, self._backward = self._register()

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate."""
        tensors = arguments[: self.vectors]
        c: Any = arguments[self.vectors] if self.curved else 0.0
        curvature: tuple[Tensor | None, float]
        if isinstance(c, Tensor):
            if c.numel() != 1 or c.ndim > max(t.ndim for t in tensors) or dispatch.backend(*tensors, c) is None:
                return self.reference(*arguments)
            curvature, every = (c, 0.0), (*tensors, c)
        elif dispatch.backend(*tensors) is None:
            return self.reference(*arguments)
        else:
            curvature, every = (None, c), tensors
        if dispatch.is_observed(*every):
            return self._forward(*tensors, *curvature)
        if self.least and dispatch.is_small(tensors[0], self.least):
            return self.reference(*arguments)
        if torch.is_grad_enabled() and any(t.requires_grad for t in every):
            return _Direct.apply(self, *tensors, *curvature)
        return self._run(*tensors, *curvature)

    # -- registration ----------------------------------------------------------------------------------------------

    def _register(self) -> tuple[Any, Any]:
        names = [f"x{i}" for i in range(self.vectors)]
        inputs = ", ".join(f"Tensor {name}" for name in names)
        upstream = ", ".join(f"Tensor g{i}" for i in range(len(self.result)))
        one = len(self.result) == 1
        results = "Tensor" if one else f"({', '.join('Tensor' for _ in self.result)})"
        gradients = f"({', '.join('Tensor' for _ in range(self.vectors + 1))})"
        label = f"holonomy::{self.module}_{self.reference.__name__}"
        forward = torch.library.custom_op(
            label, self._run, mutates_args=(), schema=f"({inputs}, Tensor? c, float k) -> {results}"
        )
        backward = torch.library.custom_op(
            f"{label}_back",
            self._run_back,
            mutates_args=(),
            schema=f"({upstream}, {inputs}, Tensor? c, float k) -> {gradients}",
        )
        forward.register_fake(self._fake)
        backward.register_fake(self._fake_back)
        forward.register_autograd(self._pull, setup_context=self._keep)
        backward.register_autograd(self._pull_back, setup_context=self._keep)
        forward.register_vmap(self._batch)
        backward.register_vmap(self._batch_back)
        return forward, backward

    def _split(self, arguments: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], Tensor | None, float]:
        """Upstream gradients (of the backward operator), vectors, and the curvature as a tensor or a number."""
        first = len(arguments) - self.vectors - 2
        return list(arguments[:first]), list(arguments[first:-2]), arguments[-2], arguments[-1]

    def _plain(self, *tensors: Tensor, k: float = 0.0) -> Any:
        """Evaluate the reference on vectors and, where there is one more tensor, that curvature."""
        if not self.curved:
            return self.reference(*tensors)
        return self.reference(*tensors) if len(tensors) > self.vectors else self.reference(*tensors, k)

    def _plain_back(self, *tensors: Tensor, k: float = 0.0) -> tuple[Tensor, ...]:
        """Gradients by the reference: of the upstream gradients, the vectors and the curvature; differentiable."""
        count = len(self.result)
        grads, inputs = tensors[:count], tensors[count:]
        pull = torch.func.vjp(lambda *t: self._plain(*t, k=k), *inputs)[1]
        return pull(grads[0] if count == 1 else tuple(grads))

    # -- shapes ----------------------------------------------------------------------------------------------------

    def _fake(self, *arguments: Any) -> Any:
        _, tensors, _, _ = self._split(arguments)
        batch, size = broadcast_batch(tensors), tensors[0].shape[-1]
        outputs = tuple(tensors[0].new_empty((*batch, size if kind == "v" else 1)) for kind in self.result)
        return outputs[0] if len(outputs) == 1 else outputs

    def _fake_back(self, *arguments: Any) -> tuple[Tensor, ...]:
        _, tensors, c, _ = self._split(arguments)
        curvature = tensors[0].new_empty(()) if c is None else torch.empty_like(c)
        return *(t.new_empty(t.shape) for t in tensors), curvature

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _run(self, *arguments: Any) -> Any:
        _, tensors, c, k = self._split(arguments)
        batch, size = broadcast_batch(tensors), tensors[0].shape[-1]
        like: Any = {"dtype": tensors[0].dtype, "device": tensors[0].device}
        outputs = [torch.empty((*batch, size if kind == "v" else 1), **like) for kind in self.result]
        if outputs[0].numel():
            rows = [as_rows(t, batch) for t in tensors]
            hard = runner(tensors[0].is_cuda).forward(self, rows, outputs, c, k)
            if hard is not None:
                results = [t.view(-1, t.shape[-1]) for t in outputs]
                curvature = () if c is None else (c,)
                values = self._plain(*(pick(r, hard) for r in rows), *curvature, k=k)
                for result, value in zip(results, values if len(results) > 1 else (values,), strict=True):
                    result[hard] = value
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run_back(self, *arguments: Any) -> tuple[Tensor, ...]:
        gradients, curvature = self._gradients(*arguments)
        return *gradients, self._split(arguments)[1][0].new_zeros(()) if curvature is None else curvature

    def _gradients(self, *arguments: Any) -> tuple[list[Tensor], Tensor | None]:
        """Gradients of the vectors, and of the curvature where it is a tensor."""
        grads, tensors, c, k = self._split(arguments)
        batch = grads[0].shape[:-1]
        rows, upstream = [as_rows(t, batch) for t in tensors], [as_rows(g, batch) for g in grads]
        shape = (batch.numel(), tensors[0].shape[-1])
        results = [torch.empty(shape, dtype=t.dtype, device=t.device) for t in tensors]
        curvature = None if c is None else torch.zeros_like(c)
        if shape[0]:
            hard, slope = runner(tensors[0].is_cuda).backward(self, upstream, rows, results, c, k)
            if curvature is not None:
                curvature += slope
            if hard is not None:
                curved = () if c is None else (c,)
                picked = [pick(t, hard) for t in (*upstream, *rows)]
                values = self._plain_back(*picked, *curved, k=k)
                for result, value in zip(results, values, strict=False):
                    result[hard] = value
                if curvature is not None:
                    curvature += values[-1]
        return [summed(r, batch, t.shape) for r, t in zip(results, tensors, strict=True)], curvature

    # -- derivatives -----------------------------------------------------------------------------------------------

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grads, tensors, c, k = self._split(inputs)
        ctx.save_for_backward(*grads, *tensors, *(() if c is None else (c,)))
        ctx.k = k

    def _pull(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        c = tensors[self.vectors] if len(tensors) > self.vectors else None
        if not torch.is_grad_enabled() and not dispatch.is_observed(*grads, *tensors):
            vectors, curvature = self._gradients(*grads, *tensors[: self.vectors], c, ctx.k)
            return *vectors, curvature, None
        gradients = self._backward(*grads, *tensors[: self.vectors], c, ctx.k)
        return *gradients[:-1], None if c is None else gradients[-1], None

    def _pull_back(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        curved = len(tensors) > self.vectors + len(self.result)
        pull = torch.func.vjp(lambda *t: self._plain_back(*t, k=ctx.k), *tensors)[1]
        gradients = pull(tuple(grads) if curved else tuple(grads[:-1]))
        return *gradients, *(() if curved else (None,)), None

    # -- vmap ------------------------------------------------------------------------------------------------------

    def _batch(self, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        _, tensors, c, k = self._split(arguments)
        ndim = max(t.ndim - (dim is not None) for t, dim in zip(tensors, in_dims, strict=False))
        moved = [in_front(t, dim, ndim, info.batch_size) for t, dim in zip(tensors, in_dims, strict=False)]
        if c is not None and in_dims[-2] is not None:
            outputs = self._plain(*moved, in_front(c, in_dims[-2], ndim, info.batch_size), k=k)
        else:
            outputs = self._forward(*moved, c, k)
        return outputs, 0 if len(self.result) == 1 else (0,) * len(self.result)

    def _batch_back(self, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        grads, tensors, c, k = self._split(arguments)
        ndim = grads[0].ndim - (in_dims[0] is not None)
        every = [
            in_front(t, dim, ndim, info.batch_size).expand(info.batch_size, *(-1 for _ in range(ndim)))
            for t, dim in zip((*grads, *tensors), in_dims, strict=False)
        ]
        shapes = [
            t.shape if d is None else t.movedim(d, 0).shape[1:]
            for t, d in zip(tensors, in_dims[len(grads) :], strict=False)
        ]
        if c is None:
            gradients = self._backward(*every, None, k)
            curvature = gradients[-1].expand(info.batch_size)
        else:
            shape = c.shape if in_dims[-2] is None else c.movedim(in_dims[-2], 0).shape[1:]
            spread = in_front(c, in_dims[-2], ndim, info.batch_size)
            gradients = self._plain_back(*every, spread.expand(info.batch_size, *spread.shape[1:]), k=k)
            curvature = gradients[-1].reshape(info.batch_size, *shape)
        shaped = (g.reshape(info.batch_size, *shape) for g, shape in zip(gradients[:-1], shapes, strict=True))
        return (*shaped, curvature), (0,) * (self.vectors + 1)


class _Direct(torch.autograd.Function):
    """A fused operation with its gradient, without the operator."""

    @staticmethod
    def forward(ctx: Any, operation: Fused, *arguments: Any) -> Any:
        ctx.operation = operation
        operation._keep(ctx, arguments, None)
        return operation._run(*arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *ctx.operation._pull(ctx, *grads)


@cache
def runner(cuda: bool) -> ModuleType:
    """Module that runs the kernels of a type of device."""
    return importlib.import_module(f"{_ROOM}.{'cuda' if cuda else 'cpu'}.run")


def broadcast_batch(tensors: Sequence[Tensor]) -> torch.Size:
    """Shape that the batch dimensions, all but the last, broadcast to."""
    first = tensors[0].shape
    if all(t.shape == first for t in tensors):
        return first[:-1]
    return torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))


def as_rows(tensor: Tensor, batch: torch.Size) -> Tensor:
    """The tensor, contiguous, in the batch's shape; or a single vector, where all rows share one."""
    size = tensor.shape[-1]
    if tensor.shape[:-1] != batch:
        tensor = tensor.reshape(size) if tensor.numel() == size else tensor.expand(*batch, size)
    elif not tensor.is_contiguous() and not tensor.is_cuda and not any(tensor.stride()[:-1]) and tensor.numel():
        tensor = tensor[(0,) * len(batch)]  # what a sum hands back: one number for all
    return tensor.contiguous()


def summed(rows: Tensor, batch: torch.Size, shape: torch.Size) -> Tensor:
    """Rows of a batch, summed to a shape that broadcasts to it."""
    if rows.numel() == shape.numel():
        return rows.view(shape)
    return rows.view(*batch, rows.shape[-1]).sum_to_size(shape)


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """Rows of an index, of what `as_rows` returned."""
    size = rows.shape[-1]
    return rows.expand(index.numel(), size) if rows.numel() == size else rows.view(-1, size)[index]


def in_front(tensor: Tensor, dim: int | None, ndim: int, size: int) -> Tensor:
    """Tensor of `ndim` + 1 dimensions with the batch dimension first; one without it gets size 1 there."""
    moved = tensor.unsqueeze(0) if dim is None else tensor.movedim(dim, 0)
    return moved.reshape(moved.shape[0], *(1,) * (ndim + 1 - moved.ndim), *moved.shape[1:])

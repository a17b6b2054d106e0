"""Registration of fused operations on a channel axis: where the reference is a `torch.autograd.Function` of a model.

`register` takes a name, the parameters of the operation, and a class with static methods ``forward(*arguments)`` and
``backward(ctx, u)`` in plain torch operations, where ctx has ``saved_tensors`` (the tensor arguments) and ``options``
(the rest). It makes two custom operators, the value and the vector-Jacobian product, whose kernels are the functions
``<operation>`` and ``<operation>_vjp`` of a module under cpu/. The gradient of the second is that of the reference.
"""

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["ChannelOperation", "Reference", "mapped", "register"]


#: Numbers in a map below which the reference is faster: a custom operator costs 60 microseconds more than torch's own.
SMALL = 128


class Reference(Protocol):
    """An operation in plain torch operations, with its hand-written backward."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        """Value."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient for each argument, None where it is no tensor."""


def _map(x: Tensor, first: Tensor, dim: int) -> bool:
    return x.shape == first.shape


def _single(x: Tensor, first: Tensor, dim: int) -> bool:
    return x.ndim == first.ndim and x.shape[dim] == 1 and x.numel() * first.shape[dim] == first.numel()


def _column(x: Tensor, first: Tensor, dim: int) -> bool:
    # Counted from the end, the axis is where a shape without leading dimensions has it too.
    size = first.shape[dim]
    return x.numel() == size and x.ndim >= -dim and x.ndim <= first.ndim and x.shape[dim] == size


def _scalar(x: Tensor, first: Tensor, dim: int) -> bool:
    return x.numel() == 1 and x.ndim <= first.ndim


#: What the letters of `register`'s roles ask of a tensor: that it has the first one's shape ("m"), or that with size 1
#: along the channels ("n"), is constant along all other axes ("c"), is one number ("s").
_ROLES: dict[str, Callable[[Tensor, Tensor, int], bool]] = {"m": _map, "n": _single, "c": _column, "s": _scalar}


class ChannelOperation:
    """The fused form of an operation: call it where `takes` holds."""

    def __init__(
        self, name: str, module: str, parameters: str, roles: str, reference: Reference, result: str, dim: int
    ) -> None:
        self.name, self.roles, self.result = name, roles, result
        self._module, self._reference, self._dim = module, reference, dim
        self._count = len(roles)
        gradients = ", ".join(["Tensor"] * self._count)
        define: Any = torch.library.custom_op
        self._forward = define(
            f"holonomy::{module}_{name}",
            self._kernel(name),
            mutates_args=(),
            device_types="cpu",
            schema=f"({parameters}) -> Tensor",
        )
        self._backward = define(
            f"holonomy::{module}_{name}_vjp",
            self._kernel(f"{name}_vjp"),
            mutates_args=(),
            device_types="cpu",
            schema=f"(Tensor u, {parameters}) -> " + (f"({gradients})" if self._count > 1 else "Tensor"),
        )
        self._register()

    def takes(self, *arguments: Any) -> bool:
        """Whether the kernels take these arguments: dtype, device, layout; a single curvature; not few numbers."""
        tensors, first = arguments[: self._count], arguments[0]
        if not all(isinstance(t, Tensor) for t in tensors) or dispatch.backend(*tensors) != "numba":
            return False
        dim = arguments[self._count] if self._dim == 0 else self._dim
        if first.ndim < -dim or first.numel() < (1 if dispatch._forced == "fused" else SMALL):
            return False
        return all(_ROLES[role](t, first, dim) for role, t in zip(self.roles, tensors, strict=True))

    def __call__(self, *arguments: Any) -> Tensor:
        """Evaluate by the kernel; arguments as the reference has them."""
        return self._forward(*arguments)

    def _kernel(self, function: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            module = importlib.import_module(f"holonomy.manifolds.kernels.cpu.{self._module}")
            return getattr(module, function)(*(a.detach() if isinstance(a, Tensor) else a for a in arguments))

        return run

    def _shape(self, first: Tensor, options: tuple[Any, ...]) -> list[int]:
        if self.result == "m":
            return list(first.shape)
        dim = options[0]
        if self.result == "n":
            return [1 if i == first.ndim + dim else s for i, s in enumerate(first.shape)]
        if self.result == "c":
            return [s if i == first.ndim + dim else 1 for i, s in enumerate(first.shape)]
        kernel, stride, padding, dilation = options
        return [first.shape[0], 1] + [
            (s + 2 * p - d * (k - 1) - 1) // t + 1
            for s, k, t, p, d in zip(first.shape[2:], kernel, stride, padding, dilation, strict=True)
        ]

    def _plain_vjp(self, options: tuple[Any, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """Return the reference's vector-Jacobian product, as a function of u and the tensors alone."""

        def vjp(u: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            found = self._reference.backward(SimpleNamespace(saved_tensors=tensors, options=options), u)
            return tuple(g for g, _ in zip(found, tensors, strict=False) if g is not None)

        return vjp

    def _register(self) -> None:
        count = self._count

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any, tensors: int) -> None:
            ctx.save_for_backward(*inputs[:tensors])
            ctx.options = inputs[tensors:]

        def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
            gradients = self._backward(u, *ctx.saved_tensors, *ctx.options)
            gradients = gradients if count > 1 else (gradients,)
            return (*gradients, *(None for _ in ctx.options))

        def backward_twice(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            with torch.enable_grad():
                pull = torch.func.vjp(self._plain_vjp(ctx.options), *ctx.saved_tensors)[1]
                return (*pull(tuple(grads)), *(None for _ in ctx.options))

        self._forward.register_fake(lambda *a: a[0].new_empty(self._shape(a[0], a[count:])))
        self._forward.register_autograd(
            backward, setup_context=lambda ctx, inputs, output: save(ctx, inputs, output, count)
        )
        self._forward.register_vmap(mapped(self._forward))
        self._backward.register_fake(
            lambda *a: (
                tuple(t.new_empty(t.shape) for t in a[1 : count + 1]) if count > 1 else a[1].new_empty(a[1].shape)
            )
        )
        self._backward.register_autograd(
            backward_twice, setup_context=lambda ctx, inputs, output: save(ctx, inputs, output, count + 1)
        )
        self._backward.register_vmap(mapped(self._backward))


def mapped(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Rule for vmap: one call for each index of the mapped dimension. Each is a whole tensor's work."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        results = [
            operator(*(a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        columns = zip(*results, strict=True)
        return tuple(torch.stack(list(c)) for c in columns), (0,) * len(results[0])

    return rule


def register(
    name: str,
    parameters: str,
    roles: str,
    reference: Reference,
    *,
    module: str = "channels",
    result: str = "m",
    dim: int = 0,
) -> ChannelOperation:
    """Make the fused form of an operation whose kernels are ``name`` and ``name_vjp`` in cpu/<module>.

    Parameters
    ----------
    name : str
        Name of the kernels; the operators are ``holonomy::<module>_<name>`` and the same with ``_vjp``.
    parameters : str
        In the form of a torch schema, tensors first: ``"Tensor x, Tensor c, int dim"``. The first that is no tensor is
        the channel axis, counted from the end, unless `dim` says where it is.
    roles : str
        A letter for each tensor: "m" for a map (the first is one), "n" for a map of one channel, "c" for a column that
        is constant along all axes but the channels, "s" for a single number.
    reference : class
        The operation in plain torch operations: ``forward``, and ``backward``.
    result : {"m", "n", "c", "patches"}
        What the operation returns.

    Raises
    ------
    ValueError
        For an unknown role or result.
    """
    if not roles or not set(roles) <= set(_ROLES):
        raise ValueError(f"register: 'roles' must be letters of {''.join(_ROLES)!r}, got {roles!r}")
    if result not in ("m", "n", "c", "patches"):
        raise ValueError(f"register: 'result' must be 'm', 'n', 'c' or 'patches', got {result!r}")
    return ChannelOperation(name, module, parameters, roles, reference, result, dim)

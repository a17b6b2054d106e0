"""Weighted sums of hyperbolic points on the hyperboloid, fused: what a midpoint costs, as the rest is a few numbers.

The references, in plain torch, are with the models: `gyrovector.lifted_sum` and `hyperboloid.lifted_sum` are made of
them. The kernel is the CPU's; whatever it does not take is theirs.
"""

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.channels import mapped

__all__ = ["LiftedSum"]

#: Numbers in the points below which the reference is as fast.
_LEAST = 1 << 14

Reference = Callable[..., tuple[Tensor, Tensor]]


@cache
def _kernels() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cpu.midpoint")


class LiftedSum:
    """The sums of time and space parts of one model: call it as its reference ``f(x, w, axes, c)``.

    Parameters
    ----------
    name : str
        Name of the operators, ``holonomy::midpoint_<name>`` and the same with ``_back``.
    ball : bool
        Whether points are the ball's, and not the hyperboloid's with time first.
    reference : callable
        The definition, in plain torch. It returns the sum of the times (up to the radius in the ball), and the sum of
        the space parts, over `axes`, which are kept; in float64 for float32 points, where the device has it.
    """

    def __init__(self, name: str, ball: bool, reference: Reference) -> None:
        self.reference, self.ball = reference, ball
        label, given = f"holonomy::midpoint_{name}", "Tensor x, Tensor? w, Tensor? c, float k"
        define: Any = torch.library.custom_op
        self._forward = define(label, self._run, mutates_args=(), device_types="cpu", schema=f"({given}) -> Tensor")
        self._backward = define(
            f"{label}_back",
            self._run_back,
            mutates_args=(),
            device_types="cpu",
            schema=f"(Tensor g, {given}) -> (Tensor, Tensor, Tensor)",
        )
        self._register()

    def __call__(self, x: Tensor, w: Tensor | None, axes: list[int], c: Any) -> tuple[Tensor, Tensor]:
        """Evaluate."""
        if not self.takes(x, w, axes, c):
            return self.reference(x, w, axes, c)
        batch = x.shape[:-1]
        kept = [i for i in range(len(batch)) if i not in axes]
        order = [*kept, *axes]
        shape = math.prod([batch[i] for i in kept]), math.prod([batch[i] for i in axes])
        points = x.permute(*order, -1).reshape(*shape, x.shape[-1])
        weights = None if w is None else w.expand(batch).permute(order).reshape(shape)
        arguments = (points, weights, c, 0.0) if isinstance(c, Tensor) else (points, weights, None, float(c))
        found = self._evaluate(*arguments)
        found = found.view(*(1 if i in axes else size for i, size in enumerate(batch)), -1)
        return found[..., :1], found[..., 1:]

    def takes(self, x: Tensor, w: Tensor | None, axes: list[int], c: Any) -> bool:
        """Whether the kernel takes these arguments: dtype, device, a single curvature, not few numbers."""
        others = [t for t in (w, c) if isinstance(t, Tensor)]
        if x.device.type != "cpu" or not axes or not x.numel() or dispatch.backend(x, *others) != "numba":
            return False
        if isinstance(c, Tensor) and (c.numel() != 1 or c.ndim > x.ndim):
            return False
        if w is not None:
            batch = x.shape[:-1]
            pairs = zip(reversed(w.shape), reversed(batch), strict=False)
            if w.ndim > len(batch) or any(a not in (1, b) for a, b in pairs):
                return False
        return not dispatch.is_small(x, _LEAST)

    def _evaluate(self, x: Tensor, w: Tensor | None, c: Tensor | None, k: float) -> Tensor:
        every = [t for t in (x, w, c) if t is not None]
        if dispatch.is_observed(*every):
            found: Tensor = self._forward(x, w, c, k)
            return found
        if torch.is_grad_enabled() and any(t.requires_grad for t in every):
            direct: Tensor = _Direct.apply(self, x, w, c, k)
            return direct
        return self._run(x, w, c, k)

    # -- the operators ---------------------------------------------------------------------------------------------

    def _run(self, x: Tensor, w: Tensor | None, c: Tensor | None, k: float) -> Tensor:
        found: Tensor = _kernels().sums(*_bare(x, w, c), k, self.ball)
        return found

    def _run_back(self, g: Tensor, x: Tensor, w: Tensor | None, c: Tensor | None, k: float) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = _kernels().sums_back(*_bare(g, x, w, c), k, self.ball)
        return found

    def _plain(self, x: Tensor, *rest: Tensor, weighted: bool, k: float) -> Tensor:
        """The reference, of points, weights where there are some, and a curvature where it is no number."""
        w = rest[0] if weighted else None
        c: Any = rest[-1] if len(rest) > weighted else k
        return torch.cat(self.reference(x, w, [1], c), dim=-1).squeeze(1)

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.k = inputs
        ctx.given = [t is not None for t in tensors]
        ctx.save_for_backward(*(t for t in tensors if t is not None))

    def _pull(self, ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        tensors = [next(saved) if is_there else None for is_there in ctx.given]
        direct = not torch.is_grad_enabled() and not dispatch.is_observed(g, *ctx.saved_tensors)
        pull: Any = self._run_back if direct else self._backward
        gx, gw, gc = pull(g, *tensors, ctx.k)
        return gx, gw if ctx.given[1] else None, gc if ctx.given[2] else None, None

    def _pull_back(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, _, weighted, curved = ctx.given

        def plain_back(g: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(lambda *t: self._plain(*t, weighted=weighted, k=ctx.k), *inputs)[1](g)

        upstream = [grads[0], *([grads[1]] if weighted else []), *([grads[2]] if curved else [])]
        found = iter(torch.func.vjp(plain_back, *ctx.saved_tensors)[1](tuple(upstream)))
        return *(next(found) if is_there else None for is_there in ctx.given), None

    def _register(self) -> None:
        def fake(x: Tensor, w: Tensor | None, c: Tensor | None, k: float) -> Tensor:
            return x.new_empty(x.shape[0], x.shape[-1] + self.ball, dtype=torch.float64)

        def fake_back(g: Tensor, x: Tensor, w: Tensor | None, c: Tensor | None, k: float) -> tuple[Tensor, ...]:
            weights = x.new_empty(0) if w is None else w.new_empty(w.shape)
            return x.new_empty(x.shape), weights, x.new_empty(()) if c is None else c.new_empty(c.shape)

        self._forward.register_fake(fake)
        self._backward.register_fake(fake_back)
        self._forward.register_autograd(self._pull, setup_context=self._keep)
        self._backward.register_autograd(self._pull_back, setup_context=self._keep)
        self._forward.register_vmap(mapped(self._forward))
        self._backward.register_vmap(mapped(self._backward))


def _bare(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.detach() for t in tensors]


class _Direct(torch.autograd.Function):
    """The sums with their gradient, without the operator."""

    @staticmethod
    def forward(ctx: Any, operation: LiftedSum, *arguments: Any) -> Tensor:
        ctx.operation = operation
        operation._keep(ctx, arguments, None)
        return operation._run(*arguments)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.operation._pull(ctx, g)

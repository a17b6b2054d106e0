"""Linear recurrences along time: h[t] = a[t] h[t-1] + b[t], and the selective scan of state-space networks."""

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = [
    "linear_recurrence",
    "recurrence_loop",
    "recurrence_reference",
    "selective_scan",
    "selective_scan_reference",
]


# -- references ----------------------------------------------------------------------------------------------------


def recurrence_loop(a: Tensor, b: Tensor, h0: Tensor, reverse: bool = False) -> Tensor:
    """Evaluate the recurrence step by step; a, b of shape (rows, time, channels), h0 of (rows, channels)."""
    steps = range(a.shape[1])
    found, h = [], h0
    for t in reversed(steps) if reverse else steps:
        h = a[:, t] * h + b[:, t]
        found.append(h)
    if not found:
        return b.clone()
    return torch.stack(found[::-1] if reverse else found, dim=1)


def recurrence_reference(a: Tensor, b: Tensor, h0: Tensor, reverse: bool = False) -> Tensor:
    """Evaluate the recurrence by doubling, in 2 log2(time) sweeps of plain torch operations.

    Shapes as in `recurrence_loop`. Products of up to `time` decays are formed, and none is divided by: decays of
    zero and products that underflow are exact, while products that overflow are not supported.

    References
    ----------
    Blelloch, Prefix sums and their applications (1990), section 1.4.
    """
    if reverse:
        return recurrence_reference(a.flip(1), b.flip(1), h0).flip(1)
    time, reach = a.shape[1], 1
    if time == 0:
        return b.clone()
    h = torch.cat((b[:, :1] + a[:, :1] * h0.unsqueeze(1), b[:, 1:]), dim=1)
    while reach < time:
        h = torch.cat((h[:, :reach], h[:, reach:] + a[:, reach:] * h[:, :-reach]), dim=1)
        a = torch.cat((a[:, :reach], a[:, reach:] * a[:, :-reach]), dim=1)
        reach *= 2
    return h


def _recurrence_gradients(g: Tensor, a: Tensor, h: Tensor, h0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in a, b and h0 from the gradient g in h: a recurrence of g against the direction of time."""
    nothing, start = torch.zeros_like(a[:, :1]), h0.unsqueeze(1)
    if reverse:
        after, before = torch.cat((nothing, a[:, :-1]), dim=1), torch.cat((h[:, 1:], start), dim=1)
    else:
        after, before = torch.cat((a[:, 1:], nothing), dim=1), torch.cat((start, h[:, :-1]), dim=1)
    gb = recurrence_reference(after, g, torch.zeros_like(h0), not reverse)
    first = -1 if reverse else 0
    return gb * before, gb, a[:, first] * gb[:, first]


def selective_scan_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate the selective scan with all states in memory; shapes as in `selective_scan`, B and C with groups."""
    batch, channels, time = u.shape
    members = channels // B.shape[1]
    B, C = (t.transpose(2, 3).repeat_interleave(members, dim=1) for t in (B, C))
    decay = torch.exp(delta.unsqueeze(-1) * A.unsqueeze(1))
    drive = (delta * u).unsqueeze(-1) * B
    h = recurrence_reference(decay.flatten(0, 1), drive.flatten(0, 1), h0.flatten(0, 1))
    h = h.unflatten(0, (batch, channels))
    return (h * C).sum(-1) + D.unsqueeze(-1) * u, h[:, :, -1].clone() if time else h0.clone()


# -- operators: linear recurrence ----------------------------------------------------------------------------------


def _on_cuda() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cuda.recurrence")


def _together(in_dims: tuple[Any, ...], tensors: tuple[Tensor, ...], size: int) -> list[Tensor]:
    """Batched tensors with the batch in front and folded into the first dimension."""
    front = [
        t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0) for dim, t in zip(in_dims, tensors, strict=True)
    ]
    return [t.flatten(0, 1) for t in front]


@torch.library.custom_op("holonomy::linear_recurrence", mutates_args=(), device_types="cpu")
def _recurrence(a: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Tensor:
    from holonomy.manifolds.kernels.cpu.recurrence import run

    h = torch.empty(a.shape, dtype=a.dtype)
    if h.numel():
        run(flat(a), flat(b), flat(h0), flat(h), tuple(a.shape), reverse)
    return h


@_recurrence.register_kernel("cuda")
def _(a: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Tensor:
    h: Tensor = _on_cuda().run(a, b, h0, reverse)
    return h


@_recurrence.register_fake
def _(a: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


@torch.library.custom_op("holonomy::linear_recurrence_backward", mutates_args=(), device_types="cpu")
def _recurrence_backward(g: Tensor, a: Tensor, h: Tensor, h0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    from holonomy.manifolds.kernels.cpu.recurrence import run_backward

    ga, gb, gh0 = (torch.empty(t.shape, dtype=t.dtype) for t in (a, a, h0))
    if ga.numel():
        outs = flat(ga), flat(gb), flat(gh0)
        run_backward(flat(g), flat(a), flat(h), flat(h0), outs, tuple(a.shape), reverse)
    else:
        gh0.zero_()
    return ga, gb, gh0


@_recurrence_backward.register_kernel("cuda")
def _(g: Tensor, a: Tensor, h: Tensor, h0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    ga, gb, gh0 = _on_cuda().run_backward(g, a, h, h0, reverse)
    return ga, gb, gh0


@_recurrence_backward.register_fake
def _(g: Tensor, a: Tensor, h: Tensor, h0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    ga, gb, gh0 = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, a, h0))
    return ga, gb, gh0


def _save_recurrence(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, _, h0, ctx.reverse = inputs
    ctx.save_for_backward(a, output, h0)


def _pull_recurrence(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    a, h, h0 = ctx.saved_tensors
    return *_recurrence_backward(g, a, h, h0, ctx.reverse), None


def _save_recurrence_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _pull_recurrence_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    def gradients(g: Tensor, a: Tensor, h: Tensor, h0: Tensor) -> tuple[Tensor, ...]:
        return _recurrence_gradients(g, a, h, h0, ctx.reverse)

    return *torch.func.vjp(gradients, *ctx.saved_tensors)[1](grads), None


_recurrence.register_autograd(_pull_recurrence, setup_context=_save_recurrence)
_recurrence_backward.register_autograd(_pull_recurrence_backward, setup_context=_save_recurrence_backward)


@_recurrence.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
    h = _recurrence(*_together(in_dims[:-1], inputs[:-1], info.batch_size), inputs[-1])
    return h.unflatten(0, (info.batch_size, -1)), 0


@_recurrence_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    grads = _recurrence_backward(*_together(in_dims[:-1], inputs[:-1], info.batch_size), inputs[-1])
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in grads), (0, 0, 0)


# -- operators: selective scan -------------------------------------------------------------------------------------


def _padded(states: int, *tensors: Tensor) -> list[Tensor]:
    """Tensors with zeros behind their last dimension, the states, up to a multiple of eight."""
    return [pad(t, (0, -states % 8)) for t in tensors]


@torch.library.custom_op("holonomy::selective_scan", mutates_args=(), device_types="cpu")
def _selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from holonomy.manifolds.kernels.cpu.recurrence import CHECKPOINT, scan

    (batch, channels, time), states = u.shape, A.shape[1]
    A, B, C, h0 = _padded(states, A, B.transpose(2, 3), C.transpose(2, 3), h0)
    sizes = (channels, time, A.shape[1], B.shape[1])
    y, last = torch.empty(u.shape, dtype=u.dtype), torch.empty_like(h0, memory_format=torch.contiguous_format)
    kept = torch.empty(batch, channels, -(-time // CHECKPOINT), A.shape[1], dtype=u.dtype)
    scan(tuple(map(flat, (u, delta, A, B, C, D, h0))), tuple(map(flat, (y, last, kept))), batch, sizes)
    return y, last[..., :states].clone(), kept


@_selective_scan.register_kernel("cuda")
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    y, last, kept = _on_cuda().scan(u, delta, A, B, C, D, h0)
    return y, last, kept


@_selective_scan.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, channels, time), states = u.shape, A.shape[1]
    kept = u.new_empty(batch, channels, (time + 63) // 64, (states + 7) // 8 * 8)
    return torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty(batch, channels, states), kept


@torch.library.custom_op("holonomy::selective_scan_backward", mutates_args=(), device_types="cpu")
def _selective_scan_backward(
    gy: Tensor,
    glast: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from holonomy.manifolds.kernels.cpu.recurrence import parts, scan_backward

    (batch, channels, time), states, groups = u.shape, A.shape[1], B.shape[1]
    A, B, C, gh0 = _padded(states, A, B.transpose(2, 3), C.transpose(2, 3), glast)
    gh0 = gh0.clone(memory_format=torch.contiguous_format)
    size = A.shape[1]
    pieces = parts(batch, channels, groups)
    gu, gdelta = (torch.empty(u.shape, dtype=u.dtype) for _ in range(2))
    gA, gD = u.new_empty(batch, channels, size), u.new_empty(batch, channels)
    gB, gC = (u.new_empty(batch, groups, pieces, time, size) for _ in range(2))
    grads = tuple(map(flat, (gu, gdelta, gA, gB, gC, gD, gh0)))
    scan_backward(tuple(map(flat, (gy, u, delta, A, B, C, D, kept))), grads, batch, (channels, time, size, groups))
    gB, gC = (t.sum(2)[..., :states].transpose(2, 3).contiguous() for t in (gB, gC))
    return gu, gdelta, gA.sum(0)[:, :states].contiguous(), gB, gC, gD.sum(0), gh0[..., :states].clone()


@_selective_scan_backward.register_kernel("cuda")
def _(
    gy: Tensor,
    glast: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gu, gdelta, gA, gB, gC, gD, gh0 = _on_cuda().scan_backward(gy, glast, u, delta, A, B, C, D, kept)
    return gu, gdelta, gA, gB, gC, gD, gh0


@_selective_scan_backward.register_fake
def _(
    gy: Tensor,
    glast: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gu, gdelta, gA, gB, gC, gD, gh0 = (t.new_empty(t.shape) for t in (u, delta, A, B, C, D, h0))
    return gu, gdelta, gA, gB, gC, gD, gh0


def _save_scan(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[2])


def _pull_scan(ctx: Any, gy: Tensor, glast: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return tuple(_selective_scan_backward(gy, glast, *ctx.saved_tensors))


def _save_scan_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:-1])


def _pull_scan_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    def gradients(gy: Tensor, glast: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.vjp(selective_scan_reference, *inputs)[1]((gy, glast)))

    return *torch.func.vjp(gradients, *ctx.saved_tensors)[1](grads), None


_selective_scan.register_autograd(_pull_scan, setup_context=_save_scan)
_selective_scan_backward.register_autograd(_pull_scan_backward, setup_context=_save_scan_backward)


def _one_by_one(op: Any, info: Any, in_dims: tuple[Any, ...], inputs: tuple[Tensor, ...]) -> Any:
    """Map an operator over a batch by a loop."""
    each = [
        op(*(t if dim is None else t.select(dim, i) for dim, t in zip(in_dims, inputs, strict=True)))
        for i in range(info.batch_size)
    ]
    outputs = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    return outputs, (0,) * len(outputs)


@_selective_scan.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Tensor) -> Any:
    if in_dims[2] is not None or in_dims[5] is not None:
        return _one_by_one(_selective_scan, info, in_dims, inputs)
    kinds = [i for i in range(7) if i not in (2, 5)]  # all but A and D have a batch to fold into
    u, delta, B, C, h0 = _together(tuple(in_dims[i] for i in kinds), tuple(inputs[i] for i in kinds), info.batch_size)
    outputs = _selective_scan(u, delta, inputs[2], B, C, inputs[5], h0)
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in outputs), (0, 0, 0)


@_selective_scan_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Tensor) -> Any:
    return _one_by_one(_selective_scan_backward, info, in_dims, inputs)


# -- public functions ----------------------------------------------------------------------------------------------


def _require_floating(name: str, **tensors: Tensor | None) -> None:
    for argument, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name}: '{argument}' must be a tensor of floating-point numbers, got {kind}")


def linear_recurrence(
    a: Tensor, b: Tensor, h0: Tensor | None = None, *, dim: int = -2, reverse: bool = False
) -> Tensor:
    """Run h[t] = a[t] h[t-1] + b[t] along one dimension, elementwise in the others.

    Parameters
    ----------
    a, b : Tensor, shape (..., time, channels)
        Decays and inputs, real, which broadcast against each other. Decays may be zero or negative.
    h0 : Tensor, shape (..., channels), optional
        State before the first step, broadcast to the shape of b without time; zero if it is not given.
    dim : int
        Dimension of time.
    reverse : bool
        Run from the last step to the first: h[t] = a[t] h[t+1] + b[t].

    Returns
    -------
    Tensor, shape (..., time, channels)
        All states h[t].

    Raises
    ------
    ValueError
        If the shapes do not broadcast, or there is no dimension `dim`.
    TypeError
        If an argument does not hold floating-point numbers.

    References
    ----------
    Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length (ICLR 2018).
    """
    _require_floating("linear_recurrence", a=a, b=b, **({} if h0 is None else {"h0": h0}))
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"linear_recurrence: 'a' and 'b' must broadcast against each other, got {shapes}") from None
    if not -a.ndim <= dim < a.ndim:
        raise ValueError(f"linear_recurrence: 'dim' must be a dimension of a tensor with {a.ndim} of them, got {dim}")
    dim %= a.ndim
    outer, inner = a.shape[:dim], a.shape[dim + 1 :]
    if h0 is None:
        h0 = b.new_zeros(outer + inner)
    try:
        h0 = h0.expand(outer + inner)
    except RuntimeError:
        wanted = f"{tuple(outer + inner)}, got {tuple(h0.shape)}"
        raise ValueError(f"linear_recurrence: 'h0' must broadcast to the shape without time, {wanted}") from None
    shape, rows, channels = a.shape, outer.numel(), inner.numel()
    x = a.reshape(rows, shape[dim], channels), b.reshape(rows, shape[dim], channels), h0.reshape(rows, channels)
    run = _recurrence if dispatch.backend(*x) is not None else recurrence_reference
    return run(*x, reverse).reshape(shape)


def _check_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor) -> None:
    """Refuse shapes that do not fit each other; B and C with groups."""
    name = "selective_scan"
    if u.ndim != 3 or delta.shape != u.shape:
        raise ValueError(
            f"{name}: 'u' and 'delta' must have one shape (batch, channels, time), "
            f"got {tuple(u.shape)} and {tuple(delta.shape)}"
        )
    batch, channels, time = u.shape
    if A.ndim != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise ValueError(f"{name}: 'A' must have shape ({channels}, states), got {tuple(A.shape)}")
    states = A.shape[1]
    for argument, t in (("B", B), ("C", C)):
        if t.ndim != 4 or (t.shape[0], *t.shape[2:]) != (batch, states, time):
            wanted = f"({batch}, groups, {states}, {time})"
            raise ValueError(f"{name}: '{argument}' must have shape {wanted}, got {tuple(t.shape)}")
    if B.shape != C.shape or B.shape[1] < 1 or channels % B.shape[1]:
        raise ValueError(
            f"{name}: 'B' and 'C' must have one number of groups that divides {channels} channels, "
            f"got {B.shape[1]} and {C.shape[1]}"
        )
    if D.shape != (channels,):
        raise ValueError(f"{name}: 'D' must have shape ({channels},), got {tuple(D.shape)}")
    if h0.shape != (batch, channels, states):
        raise ValueError(f"{name}: 'h0' must have shape {(batch, channels, states)}, got {tuple(h0.shape)}")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective scan of state-space networks (S6) without holding its states in memory.

    With states h of shape (batch, channels, states), for each step t::

        h[t] = exp(delta[t] A) h[t-1] + delta[t] u[t] B[t]        y[t] = <C[t], h[t]> + D u[t]

    The backward pass recomputes the states in blocks of 64 steps.

    Parameters
    ----------
    u, delta : Tensor, shape (batch, channels, time)
        Input and step sizes; delta is used as given (apply bias and softplus before).
    A : Tensor, shape (channels, states)
        Decay rates, negative for a stable scan.
    B, C : Tensor, shape (batch, groups, states, time) or (batch, states, time)
        Input and output maps; each group serves channels / groups consecutive channels.
    D : Tensor, shape (channels,), optional
        Direct connection.
    h0 : Tensor, shape (batch, channels, states), optional
        State before the first step; zero if it is not given.
    return_last_state : bool
        Return the state after the last step too.

    Returns
    -------
    y : Tensor, shape (batch, channels, time)
        Outputs.
    last : Tensor, shape (batch, channels, states)
        Only if `return_last_state` is set.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    TypeError
        If an argument does not hold floating-point numbers.

    References
    ----------
    Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces (arXiv 2312.00752), algorithm 2.
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "h0": h0}
    _require_floating("selective_scan", **{k: t for k, t in given.items() if k not in ("D", "h0") or t is not None})
    if B.ndim == 3:
        B = B.unsqueeze(1)
    if C.ndim == 3:
        C = C.unsqueeze(1)
    if u.ndim == 3 and A.ndim == 2:
        D = u.new_zeros(u.shape[1]) if D is None else D
        h0 = u.new_zeros(*u.shape[:2], A.shape[1]) if h0 is None else h0
    tensors = (u, delta, A, B, C, u.new_zeros(0) if D is None else D, u.new_zeros(0) if h0 is None else h0)
    _check_scan(*tensors)
    backend = dispatch.backend(*tensors)
    if u.numel() and (backend == "numba" or (backend == "cupy" and A.shape[1] <= _on_cuda().MOST_STATES)):
        y, last, _ = _selective_scan(*tensors)
    else:
        y, last = selective_scan_reference(*tensors)
    return (y, last) if return_last_state else y

"""Fused optimizer steps on tables of points: which parameters a kernel steps, and the two rules, Adam and SGD.

A kernel reads and writes every number of a step once, in place. It is told the manifold by name and the curvature as a
number; points are the last dimension of contiguous tensors. Subspaces, matrices of two dimensions, have a function of
their own, for SGD with a momentum in ambient coordinates. The steps equal those of `holonomy.optim` in plain torch
operations, which are the reference. Nothing here is differentiable.
"""

import importlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.cpu.memory import flat
from holonomy.manifolds.kernels.orthonormal import LARGEST

__all__ = ["KINDS", "adam_step", "obstacle", "sgd_step", "subspace_obstacle", "subspace_step"]

#: Manifolds that have a kernel, by the name of the kernel.
KINDS = ("ball", "lorentz", "sphere")
#: Fewest numbers of a parameter that are worth a thread.
_GRAIN = 1 << 15


def obstacle(*tensors: Tensor) -> str | None:
    """Say why no kernel takes a parameter and what belongs to it, or None.

    `dispatch.use` is not looked at.
    """
    first = tensors[0]
    if hasattr(first, "__tensor_flatten__"):
        return "it wraps other tensors"
    if first.dtype not in (torch.float32, torch.float64):
        return f"its dtype is {first.dtype}, not float32 or float64"
    device = first.device.type
    if device not in dispatch.BACKENDS:
        return f"it is on {first.device}, and kernels run on the CPU and on CUDA"
    for tensor in tensors:
        if not tensor.is_contiguous():
            return f"it has strides {tensor.stride()}, and is not contiguous"
        if tensor.dtype != first.dtype or tensor.device != first.device:
            return f"its state is {tensor.dtype} on {tensor.device}, unlike itself"
    if device == "cuda" and first.ndim and first.shape[-1] > (most := _on_cuda().longest(*tensors)):
        return f"its points have {first.shape[-1]} numbers, more than the {most} that CUDA's registers hold"
    return dispatch._why_not(device)


def _on_cuda() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cuda.steps")


def adam_step(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    moment: Tensor,
    square: Tensor,
    largest: Tensor | None = None,
    index: Tensor | None = None,
    *,
    step: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    coupled: float = 0.0,
    decoupled: float = 0.0,
    maximize: bool = False,
) -> None:
    """One step of Riemannian Adam, in place.

    Parameters
    ----------
    kind : {"ball", "lorentz", "sphere"}
        Manifold.
    c : float
        Magnitude of the curvature; 1 on the sphere.
    x : Tensor
        Points, (..., d), float32 or float64, contiguous.
    grad : Tensor
        Euclidean gradient, in the shape of `x`; with `index`, of the rows of that index only: (n, ..., d).
    moment, square, largest : Tensor
        First moment, (..., d); second moment and, for AMSGrad, the largest so far, (..., 1).
    index : Tensor, optional
        What to step along the first dimension of `x`, int64, (n,), each at most once: all else stays as it is, with
        its moments.
    step : float
        Number of this step, from 1 on.
    coupled, decoupled : float
        Weight decay that enters the gradient, and that which enters the step.

    Raises
    ------
    ValueError
        Where a shape, dtype or layout is not the one named here, or there is no kernel of this name.

    References
    ----------
    Becigneul and Ganea, "Riemannian adaptive optimization methods", ICLR 2019.
    """
    # 1 - beta^t, without cancellation, as the reference has it.
    correction1, correction2 = _bias_correction(beta1, step), _bias_correction(beta2, step)
    numbers = {
        "sign": -1.0 if maximize else 1.0,
        "coupled": coupled,
        "decoupled": lr * decoupled,
        "keep": beta1,
        "take": 1.0 - beta1,
        "rate": -lr / correction1,
        "direct": 0.0,
        "beta2": beta2,
        "correction2": correction2,
        "eps": eps,
    }
    _run(kind, c, x, grad, moment, square, largest, index, numbers)


def sgd_step(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    buffer: Tensor | None = None,
    index: Tensor | None = None,
    *,
    first: bool = False,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """One step of Riemannian SGD, in place.

    Parameters
    ----------
    kind, c, x, grad, index
        As in `adam_step`.
    buffer : Tensor, optional
        Momentum, (..., d): zeros at the `first` step. None for momentum 0.
    first : bool
        Whether the buffer becomes the gradient itself, without dampening.
    decay : float
        Weight decay, which enters the gradient.

    Raises
    ------
    ValueError
        Where a shape, dtype or layout is not the one named here, or there is no kernel of this name.

    References
    ----------
    Bonnabel, "Stochastic gradient descent on Riemannian manifolds", IEEE TAC 58, 2013.
    """
    numbers = {
        "sign": -1.0 if maximize else 1.0,
        "coupled": decay,
        "decoupled": 0.0,
        "keep": 0.0 if first else momentum,
        "take": 1.0 if first else 1.0 - dampening,
        "rate": -lr * momentum if nesterov else -lr,
        "direct": -lr if nesterov or buffer is None else 0.0,
        "beta2": 0.0,
        "correction2": 1.0,
        "eps": 0.0,
    }
    _run(kind, c, x, grad, buffer, None, None, index, numbers)


def subspace_step(
    x: Tensor,
    grad: Tensor,
    buffer: Tensor | None = None,
    *,
    first: bool = False,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> None:
    """One step of SGD along geodesics of the Grassmann manifold, in place, on the CPU.

    The momentum b <- momentum b + (1 - dampening) grad is kept in ambient coordinates. With u = -lr b the bases move
    to exp(x, u - x x^T u), whose Newton-Schulz step keeps them orthonormal. Room for two matrices a thread is all that
    a step needs.

    Parameters
    ----------
    x : Tensor
        Bases, (..., n, p) with p up to 32, float32 or float64, contiguous.
    grad : Tensor
        Euclidean gradient, in the shape of `x`.
    buffer : Tensor, optional
        Momentum, in the shape of `x`: zeros at the `first` step. None for momentum 0.
    first : bool
        Whether the buffer becomes the gradient itself, without dampening.

    Raises
    ------
    ValueError
        Where a shape, dtype or layout is not the one named here.
    """
    given = {"x": x} | ({} if buffer is None else {"buffer": buffer})
    reason = subspace_obstacle(*given.values())
    if reason is not None:
        raise ValueError(f"kernels.steps: no kernel steps 'x' of shape {tuple(x.shape)}: {reason}")
    for name, tensor in (*given.items(), ("grad", grad)):
        if tensor.shape != x.shape or tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"kernels.steps: {name!r} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}, "
                f"wanted {tuple(x.shape)} and {x.dtype}, on {x.device}"
            )
    keep, take = (0.0, 1.0) if first else (momentum, 1.0 - dampening)
    rate, direct = (0.0, -lr) if buffer is None else (-lr * momentum if nesterov else -lr, -lr if nesterov else 0.0)
    if x.numel():
        kernels = importlib.import_module("holonomy.manifolds.kernels.cpu.orthonormal")
        kernels.geodesic_step(x, grad.contiguous(), buffer, [-1.0 if maximize else 1.0, keep, take, rate, direct])
        if not x.is_inference():
            torch.autograd.graph.increment_version(x)


def subspace_obstacle(*tensors: Tensor) -> str | None:
    """Say why `subspace_step` does not take bases and what belongs to them, or None."""
    first = tensors[0]
    if first.device.type != "cpu":
        return f"it is on {first.device}, and the kernel of subspaces runs on the CPU"
    if first.ndim < 2 or not 1 <= first.shape[-1] <= LARGEST:
        return f"its shape is {tuple(first.shape)}, wanted (..., n, p) with p from 1 to {LARGEST}"
    return obstacle(*tensors)


def _bias_correction(beta: float, step: float) -> float:
    return -math.expm1(step * math.log(beta)) if beta > 0.0 else 1.0


def _run(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    moment: Tensor | None,
    square: Tensor | None,
    largest: Tensor | None,
    index: Tensor | None,
    numbers: dict[str, float],
) -> None:
    _check(kind, x, grad, index, moment=moment, square=square, largest=largest)
    size = x.shape[-1]
    count = grad.numel() // size
    if index is not None and x.ndim > 2:
        inner = math.prod(x.shape[1:-1])
        index = (index.unsqueeze(-1) * inner + torch.arange(inner, device=index.device)).view(-1)
    if count:
        run = _run_on_cuda if x.is_cuda else _run_on_cpu
        run(kind, c, x, grad.contiguous(), moment, square, largest, index, numbers)
        if not x.is_inference():
            torch.autograd.graph.increment_version(x)  # as torch's own in-place operations do


def _run_on_cuda(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    moment: Tensor | None,
    square: Tensor | None,
    largest: Tensor | None,
    index: Tensor | None,
    numbers: dict[str, float],
) -> None:
    rows = None if index is None else index.contiguous()
    _on_cuda().step(kind, float(c), x, grad, moment, square, largest, numbers, rows)


def _run_on_cpu(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    moment: Tensor | None,
    square: Tensor | None,
    largest: Tensor | None,
    index: Tensor | None,
    numbers: dict[str, float],
) -> None:
    cpu = importlib.import_module("holonomy.manifolds.kernels.cpu.steps")
    jit = importlib.import_module("holonomy.manifolds.kernels.cpu.jit")
    size = x.shape[-1]
    count = grad.numel() // size
    nothing = x.new_empty(0)
    tensors = [nothing if t is None else t for t in (x, grad, moment, square, largest)]
    tensors.append(torch.empty(0, dtype=torch.int64) if index is None else index.contiguous())
    arrays = [flat(t) for t in tensors]
    values = np.array([numbers[name] for name in cpu.NUMBERS])
    jit.parallel(getattr(cpu, kind), count, _GRAIN // size, *arrays, values, float(c), size)


def _check(kind: str, x: Tensor, grad: Tensor, index: Tensor | None, **state: Tensor | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kernels.steps: 'kind' must be one of {KINDS}, got {kind!r}")
    given = {"x": x, **{name: t for name, t in state.items() if t is not None}}
    reason = obstacle(*given.values())
    if reason is not None:
        raise ValueError(f"kernels.steps: no kernel steps 'x' of shape {tuple(x.shape)}: {reason}")
    least = 2 if kind != "ball" else 1
    if x.ndim < 1 or x.shape[-1] < least:
        raise ValueError(f"kernels.steps: 'x' has shape {tuple(x.shape)}, wanted (..., d) with d >= {least}")
    wanted = {name: x.shape if name in ("x", "moment") else (*x.shape[:-1], 1) for name in given}
    if index is not None:
        if index.dtype != torch.int64 or index.ndim != 1 or x.ndim < 2:
            raise ValueError(
                f"kernels.steps: 'index' has shape {tuple(index.shape)} and dtype {index.dtype}, wanted (n,) of int64 "
                f"with 'x' of shape (rows, ..., d), which has shape {tuple(x.shape)}"
            )
        if index.is_cuda:  # asserted on the device, without waiting for it, as torch's own indexing does
            torch._assert_async(((index >= 0) & (index < x.shape[0])).all())
        elif index.numel() and not 0 <= int(index.min()) <= int(index.max()) < x.shape[0]:
            raise ValueError(f"kernels.steps: 'index' reaches outside of the {x.shape[0]} rows of 'x'")
    given["grad"], wanted["grad"] = grad, x.shape if index is None else (index.numel(), *x.shape[1:])
    for name, tensor in given.items():
        if tuple(tensor.shape) != tuple(wanted[name]) or tensor.dtype != x.dtype:
            raise ValueError(
                f"kernels.steps: {name!r} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}, "
                f"wanted {tuple(wanted[name])} and {x.dtype}"
            )
    for name, extra in (("grad", grad), ("index", index)):
        if extra is not None and extra.device != x.device:
            raise ValueError(f"kernels.steps: {name!r} is on {extra.device}, and 'x' on {x.device}")

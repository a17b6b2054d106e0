"""Fast Walsh-Hadamard transform: multiplication with the Sylvester-Hadamard matrix, in O(n log n)."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = ["hadamard_reference", "hadamard_transform", "hadamard_transform_"]


def hadamard_reference(x: Tensor, scale: float = 1.0) -> Tensor:
    """Evaluate ``scale * x @ H`` along the last dimension in plain torch operations."""
    n = x.shape[-1]
    y = x if scale == 1.0 else x * scale
    stride = 1
    while stride < n:
        low, high = y.unflatten(-1, (n // (2 * stride), 2, stride)).unbind(-2)
        y = torch.stack((low + high, low - high), dim=-2).flatten(-3)
        stride *= 2
    return y.clone() if y is x else y


@torch.library.custom_op("holonomy::hadamard_transform", mutates_args=(), device_types="cpu")
def _transform(x: Tensor, scale: float) -> Tensor:
    from holonomy.manifolds.kernels.cpu.hadamard import transform

    x = x.contiguous()
    y = torch.empty_like(x)
    transform(flat(x), flat(y), x.shape[-1], scale)
    return y


@_transform.register_kernel("cuda")
def _(x: Tensor, scale: float) -> Tensor:
    from holonomy.manifolds.kernels.cuda.hadamard import transform

    x = x.contiguous()
    y = torch.empty_like(x)
    transform(x, y, scale)
    return y


@_transform.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_scale(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.scale = inputs[1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _transform(grad, ctx.scale), None  # H is symmetric


_transform.register_autograd(_backward, setup_context=_save_scale)


@_transform.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], x: Tensor, scale: float) -> tuple[Tensor, int]:
    return _transform(x.movedim(in_dims[0], 0), scale), 0


@torch.library.custom_op("holonomy::hadamard_transform_", mutates_args=("x",), device_types="cpu")
def _transform_(x: Tensor, scale: float) -> None:
    from holonomy.manifolds.kernels.cpu.hadamard import transform

    numbers = flat(x)
    transform(numbers, numbers, x.shape[-1], scale)


@_transform_.register_kernel("cuda")
def _(x: Tensor, scale: float) -> None:
    from holonomy.manifolds.kernels.cuda.hadamard import transform

    transform(x, x, scale)


@_transform_.register_fake
def _(x: Tensor, scale: float) -> None:
    return None


def _scale_of(x: Tensor, normalized: bool, name: str) -> float:
    """Check the argument and return the factor on the Hadamard matrix."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: 'x' must be a tensor of floating-point numbers, got {kind}")
    n = x.shape[-1] if x.ndim else 0
    if n < 1 or n & (n - 1):
        raise ValueError(f"{name}: the last dimension of 'x' must be a power of two, got shape {tuple(x.shape)}")
    return 1.0 / math.sqrt(n) if normalized else 1.0


def hadamard_transform(x: Tensor, *, normalized: bool = False) -> Tensor:
    """Multiply the rows of x with the Hadamard matrix of Sylvester's (natural) order, by the fast transform.

    The matrix H is that of `scipy.linalg.hadamard`: symmetric, with entries 1 and -1, and H H = n I. The gradient is
    the same transform, to any order of differentiation.

    Parameters
    ----------
    x : Tensor, shape (..., n)
        Vectors whose length n is a power of two; any floating dtype.
    normalized : bool
        Divide by the square root of n, which makes the transform orthogonal and its own inverse.

    Returns
    -------
    Tensor, shape (..., n)
        ``x @ H``, contiguous.

    Raises
    ------
    ValueError
        If n is not a power of two.
    TypeError
        If x does not hold floating-point numbers.

    References
    ----------
    Fino and Algazi, Unified matrix treatment of the fast Walsh-Hadamard transform (IEEE Trans. Computers, 1976).
    """
    scale = _scale_of(x, normalized, "hadamard_transform")
    if dispatch.backend(x) is not None:
        return _transform(x, scale)
    return hadamard_reference(x, scale)


def hadamard_transform_(x: Tensor, *, normalized: bool = False) -> Tensor:
    """Replace x by `hadamard_transform` of it, in its own memory and without temporaries; return x.

    Not differentiable: for the inside of a hand-written gradient, or under ``torch.no_grad()``.

    Parameters
    ----------
    x : Tensor, shape (..., n)
        Vectors whose length n is a power of two.
    normalized : bool
        Divide by the square root of n.

    Returns
    -------
    Tensor, shape (..., n)
        x itself.

    Raises
    ------
    ValueError
        If n is not a power of two, or if x requires a gradient while gradients are recorded.
    TypeError
        If x does not hold floating-point numbers.
    """
    scale = _scale_of(x, normalized, "hadamard_transform_")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("hadamard_transform_: 'x' must not require a gradient, since it is overwritten")
    if x.is_contiguous() and dispatch.backend(x) is not None:
        _transform_(x, scale)
    else:
        x.copy_(hadamard_reference(x, scale))
    return x

"""How a manifold stores its curvature: exactly as given, fixed or learnable."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = ["Curvature", "checked", "root"]


def root(c: float | Tensor) -> Any:
    """Square root of a curvature, which is a float or a tensor."""
    return c.sqrt() if isinstance(c, Tensor) else math.sqrt(c)


def checked(c: float | Tensor, owner: str, name: str = "c") -> float | Tensor:
    """Check a positive number or tensor, and return it as a float or as a tensor of its own.

    Raises
    ------
    TypeError
        Where it is no real number and no real floating tensor.
    ValueError
        Where it is not positive and finite.
    """
    if isinstance(c, Tensor):
        if not c.is_floating_point():
            raise TypeError(f"{owner}: {name!r} must have a real floating dtype, got {c.dtype}")
        if not c.is_meta and not bool(((c > 0) & torch.isfinite(c)).all()):
            raise ValueError(f"{owner}: {name!r} must be positive and finite everywhere, got {c}")
        return c.detach().clone()
    if isinstance(c, bool) or not isinstance(c, Real):
        raise TypeError(f"{owner}: {name!r} must be a number or a tensor, got {type(c).__name__} {c!r}")
    value = float(c)
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{owner}: {name!r} must be positive and finite, got {c!r}")
    return value


class Curvature(torch.nn.Module):
    """A positive number, or a tensor of positive numbers, stored exactly as given.

    A fixed number stays a Python float: exact in every dtype, on every device, with no tensor in ``state_dict``.
    A fixed tensor is a buffer. A learnable curvature is ``initial * exp(log_ratio)``: the buffer ``initial`` (float64
    where a number was given) keeps what was given, and the parameter ``log_ratio`` starts at 0, so that the value
    starts at exactly what was given and stays positive. ``log_ratio`` has at least one dimension, because sharded
    training refuses scalar parameters.

    Parameters
    ----------
    c : float or Tensor
        The curvature's magnitude.
    learnable : bool
        Whether it is a parameter.
    owner, name : str
        The class and the argument that error messages name.

    Raises
    ------
    TypeError
        Where `c` is no real number and no real floating tensor.
    ValueError
        Where `c` is not positive and finite.
    """

    def __init__(
        self, c: float | Tensor, *, learnable: bool = False, owner: str = "Curvature", name: str = "c"
    ) -> None:
        super().__init__()
        value = checked(c, owner, name)
        self.fixed: float | Tensor | None
        if not learnable:
            if isinstance(value, Tensor):
                self.register_buffer("fixed", value)
            else:
                self.fixed = value
            return
        self.fixed = None
        if isinstance(value, Tensor):
            ratio = torch.zeros_like(value)
        else:
            ratio = torch.zeros(1)
            value = torch.tensor(value, dtype=torch.float64)
        self.initial: Tensor
        self.register_buffer("initial", value)
        self.log_ratio = torch.nn.Parameter(ratio if ratio.ndim else ratio.reshape(1))

    @property
    def value(self) -> float | Tensor:
        """The curvature's magnitude: a float, or a tensor of the shape that was given."""
        if self.fixed is not None:
            return self.fixed
        ratio = self.log_ratio
        dtype = torch.promote_types(ratio.dtype, torch.float32)
        return self.initial.to(dtype) * ratio.to(dtype).exp().reshape(self.initial.shape)

"""Activation functions by name: value, derivative, where they have kinks, and what sympy needs of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Activation", "activation", "leaky_relu", "monomial"]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """An activation function of one number.

    Parameters
    ----------
    name : str
    sigma, dsigma : callable
        Value and derivative, elementwise on tensors.
    sympy_expr : callable, optional
        The value as a sympy expression of a symbol; None where there is no closed form.
    kinked : bool
        Whether the derivative jumps at 0, where integrals are then split.
    slopes : (float, float), optional
        Of scale-invariant functions: a_+ for z >= 0 and a_- for z < 0.

    Raises
    ------
    TypeError
        If value or derivative cannot be called.
    """

    name: str
    sigma: Function
    dsigma: Function
    sympy_expr: Callable[[Any], Any] | None = None
    kinked: bool = False
    slopes: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for what in ("sigma", "dsigma"):
            if not callable(getattr(self, what)):
                raise TypeError(f"Activation: {what!r} must be callable, got {type(getattr(self, what)).__name__}")

    def __call__(self, z: Tensor) -> Tensor:
        """Value at z."""
        return self.sigma(z)


def leaky_relu(a: float) -> Activation:
    """Slope 1 above 0 and `a` below."""

    def expression(z: Any) -> Any:
        import sympy

        return sympy.Piecewise((z, z >= 0), (sympy.nsimplify(a) * z, True))

    return Activation(
        f"leaky_relu({a:g})",
        lambda z: torch.where(z >= 0, z, a * z),
        lambda z: torch.where(z >= 0, 1.0, a).to(z.dtype),
        expression,
        kinked=a != 1.0,
        slopes=(1.0, a),
    )


def monomial(p: int) -> Activation:
    """z^p.

    Raises
    ------
    ValueError
        If p is below 1.
    """
    if p < 1:
        raise ValueError(f"monomial: 'p' must be at least 1, got {p}")
    return Activation(f"monomial({p})", lambda z: z**p, lambda z: p * z ** (p - 1), lambda z: z**p)


def _gaussian(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _normal(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2.0))


def _sympy(name: str) -> Callable[[Any], Any]:
    def expression(z: Any) -> Any:
        import sympy

        table: dict[str, Any] = {
            "linear": lambda: z,
            "relu": lambda: sympy.Piecewise((z, z >= 0), (0, True)),
            "tanh": lambda: sympy.tanh(z),
            "sin": lambda: sympy.sin(z),
            "erf": lambda: sympy.erf(z),
            "gelu": lambda: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2,
            "swish": lambda: z / (1 + sympy.exp(-z)),
            "sigmoid": lambda: 1 / (1 + sympy.exp(-z)),
            "softplus": lambda: sympy.log(1 + sympy.exp(z)),
        }
        return table[name]()

    return expression


def _swish_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s + z * s * (1.0 - s)


_TABLE: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("linear", lambda z: z, torch.ones_like, _sympy("linear"), slopes=(1.0, 1.0)),
        Activation("relu", torch.relu, lambda z: (z >= 0).to(z.dtype), _sympy("relu"), True, (1.0, 0.0)),
        Activation("tanh", torch.tanh, lambda z: 1.0 - torch.tanh(z).square(), _sympy("tanh")),
        Activation("sin", torch.sin, torch.cos, _sympy("sin")),
        Activation("erf", torch.erf, lambda z: 2.0 / math.sqrt(math.pi) * torch.exp(-z * z), _sympy("erf")),
        Activation("gelu", lambda z: z * _normal(z), lambda z: _normal(z) + z * _gaussian(z), _sympy("gelu")),
        Activation("swish", lambda z: z * torch.sigmoid(z), _swish_slope, _sympy("swish")),
        Activation("sigmoid", torch.sigmoid, lambda z: torch.sigmoid(z) * (1.0 - torch.sigmoid(z)), _sympy("sigmoid")),
        Activation("softplus", F.softplus, torch.sigmoid, _sympy("softplus")),
    )
}


def activation(name: str | Activation) -> Activation:
    """Look an activation up by name; one that is an `Activation` already is returned.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(name, Activation):
        return name
    if name not in _TABLE:
        raise ValueError(f"activation must be one of {', '.join(_TABLE)}, leaky_relu(a) or monomial(p), got {name!r}")
    return _TABLE[name]

"""Training at infinite width, networks at criticality, and how rates and shapes scale with depth."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holonomy.theory.activations import Activation, activation
from holonomy.theory.deep_learning_theory.criticality import critical_point

__all__ = [
    "CriticalMLP",
    "infinite_width_predict",
    "layer_rates",
    "nngp_posterior",
    "optimal_aspect_ratio",
    "vertex_rate",
]


class CriticalMLP(nn.Module):
    """Fully connected network z^(l+1) = b + W sigma(z^(l)), initialised with Var b = C_b and Var W = C_W / fan-in.

    Parameters
    ----------
    widths : sequence of int
        (n_0, ..., n_L).
    act : str or Activation
    C_b, C_W : float, optional
        The activation's critical point where they are left out.
    generator : torch.Generator, optional
    dtype : torch.dtype

    Raises
    ------
    ValueError
        For widths below 1, C_W <= 0, C_b < 0, or an activation without a critical point where one is needed.
    """

    def __init__(
        self,
        widths: Sequence[int],
        act: str | Activation,
        C_b: float | None = None,
        C_W: float | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"CriticalMLP: 'widths' must be at least two positive numbers, got {list(widths)}")
        if C_b is None or C_W is None:
            point = critical_point(act, strict=True)
            C_b, C_W = (point.C_b if C_b is None else C_b), (point.C_W if C_W is None else C_W)
        if not C_W > 0 or not C_b >= 0:
            raise ValueError(f"CriticalMLP: wanted C_b >= 0 and C_W > 0, got {C_b} and {C_W}")
        self.act, self.C_b, self.C_W = activation(act), C_b, C_W
        self.layers = nn.ModuleList()
        for fan, n in itertools.pairwise(widths):
            layer = nn.Linear(fan, n, dtype=dtype)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(n, fan, generator=generator, dtype=dtype) * (C_W / fan) ** 0.5)
                layer.bias.copy_(torch.randn(n, generator=generator, dtype=dtype) * C_b**0.5)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs z^(L), (..., n_L) of (..., n_0)."""
        for k, layer in enumerate(self.layers):
            x = layer(self.act.sigma(x) if k else x)
        return x

    def param_groups(
        self, eta: float, lambda_b: float | Sequence[float] = 1.0, lambda_W: float | Sequence[float] = 1.0
    ) -> list[dict[str, Any]]:
        """Groups for torch.optim.SGD: rates eta lambda_b for biases and eta lambda_W / fan-in for weights.

        Raises
        ------
        ValueError
            If a list of rates has another length than the layers.
        """
        depth = len(self.layers)
        rates = []
        for name, given in (("lambda_b", lambda_b), ("lambda_W", lambda_W)):
            each = [float(given)] * depth if isinstance(given, int | float) else [float(r) for r in given]
            if len(each) != depth:
                raise ValueError(f"CriticalMLP.param_groups: {name!r} must be one number or {depth}, got {len(each)}")
            rates.append(each)
        groups: list[dict[str, Any]] = []
        for layer, b, w in zip(self.layers, *rates, strict=True):
            assert isinstance(layer, nn.Linear)
            groups.append({"params": [layer.bias], "lr": eta * b})
            groups.append({"params": [layer.weight], "lr": eta * w / layer.in_features})
        return groups


def infinite_width_predict(
    train: Tensor,
    cross: Tensor,
    y: Tensor,
    t: float = math.inf,
    eta: float = 1.0,
    initial: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Predictions of gradient descent on the squared loss (1/2) sum (f - y)^2 at infinite width, after t steps.

    f_t(x) = f_0(x) - Theta_xX Theta_XX^-1 (1 - (1 - eta Theta_XX)^t)(f_0(X) - y); with f_0 = 0 the ensemble's mean.

    Parameters
    ----------
    train : Tensor, shape (n, n)
        Theta_XX.
    cross : Tensor, shape (m, n)
        Theta_xX.
    y : Tensor, shape (n, outputs) or (n,)
        Values.
    t : float, default inf
        Steps.
    eta : float
        Learning rate.
    initial : (Tensor, Tensor), optional
        f_0(X) and f_0(x).

    Raises
    ------
    ValueError
        For shapes that do not fit, a negative time, eta <= 0, a rate beyond 2 over the largest eigenvalue, or a
        singular Theta_XX (equal inputs).
    """
    if train.ndim != 2 or train.shape[0] != train.shape[1] or cross.shape[1] != len(train) or len(y) != len(train):
        raise ValueError(
            f"infinite_width_predict: wanted (n, n), (m, n), (n, ...), got {tuple(train.shape)}, {tuple(cross.shape)}, "
            f"{tuple(y.shape)}"
        )
    if not t >= 0 or not eta > 0:
        raise ValueError(f"infinite_width_predict: wanted t >= 0 and eta > 0, got {t} and {eta}")
    values, vectors = torch.linalg.eigh(train)
    if float(values[0]) <= len(train) * torch.finfo(train.dtype).eps * float(values[-1]):
        raise ValueError("infinite_width_predict: Theta_XX is singular; equal inputs need a ridge on its diagonal")
    if not math.isinf(t) and eta * float(values[-1]) >= 2.0:
        raise ValueError(f"infinite_width_predict: 'eta' must be below {2.0 / float(values[-1]):.6g}, got {eta}")
    start, there = (torch.zeros_like(y), None) if initial is None else initial
    kept = torch.zeros_like(values) if math.isinf(t) else (1.0 - eta * values) ** t
    weights = (1.0 - kept) / values
    columns = (start - y) if y.ndim == 2 else (start - y).unsqueeze(1)
    change = cross @ (vectors @ (weights.unsqueeze(1) * (vectors.mT @ columns)))
    change = change if y.ndim == 2 else change.squeeze(1)
    return -change if there is None else there - change


def nngp_posterior(train: Tensor, cross: Tensor, test: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of exact Bayesian inference at infinite width.

    K_xX K_XX^-1 y and K_xx - K_xX K_XX^-1 K_Xx; shapes as for `infinite_width_predict`, and test (m, m).
    """
    solved = torch.linalg.solve(train, cross.mT)
    return solved.mT @ y, test - cross @ solved


def layer_rates(act: str | Activation, depth: int) -> tuple[list[float], list[float]]:
    """lambda_b and lambda_W of each layer that give every layer an equal part in the tangent kernel.

    Scale-invariant functions: 1/L for all. The class of tanh: lambda_b ~ (1/l)^p L^(p - 1) and
    lambda_W ~ (L/l)^(p - 1), with p = p_perp.

    Raises
    ------
    ValueError
        For a depth below 1, or an activation of another class.
    """
    if depth < 1:
        raise ValueError(f"layer_rates: 'depth' must be at least 1, got {depth}")
    kind = critical_point(act).universality_class
    if kind == "scale invariant":
        return [1.0 / depth] * depth, [1.0 / depth] * depth
    if kind != "K* = 0":
        raise ValueError(
            f"layer_rates: {activation(act).name} must be scale invariant or of the class of tanh, got {kind}"
        )
    from holonomy.theory.deep_learning_theory.symbolic import symbolic_coefficients

    p = float(symbolic_coefficients(act)["p_perp"])
    layers = range(1, depth + 1)
    return [k**-p * depth ** (p - 1.0) for k in layers], [(depth / k) ** (p - 1.0) for k in layers]


def vertex_rate(act: str | Activation, gamma: float = 0.0) -> float:
    """nu in V/(n K^2) = nu L/n: 5 for ReLU, 2 for linear, 2/3 for tanh.

    With a residual connection z' = xi + gamma z and C_W A_2 = 1 - gamma^2 (scale-invariant functions alone)
    nu = (1 - gamma^2) ((3 A_4/A_2^2 - 1) + gamma^2 (5 - 3 A_4/A_2^2)). That is exact to leading order where
    |a_+| = |a_-|. Else it is what the first layer adds: a connection carries signs on, on which sigma^2 then depends,
    and later layers add more (for ReLU at gamma = 0.6, 3.0 and then some 4.5 to 6 a layer at n = 128).

    Raises
    ------
    ValueError
        For gamma outside [0, 1), or an activation of another class.
    """
    if not 0 <= gamma < 1:
        raise ValueError(f"vertex_rate: 'gamma' must be in [0, 1), got {gamma}")
    found = activation(act)
    if found.slopes is not None:
        up, down = found.slopes
        ratio = 2.0 * (up**4 + down**4) / (up**2 + down**2) ** 2
        return (1.0 - gamma**2) * ((3.0 * ratio - 1.0) + gamma**2 * (5.0 - 3.0 * ratio))
    if gamma > 0 or critical_point(found).universality_class != "K* = 0":
        raise ValueError(f"vertex_rate: {found.name} with gamma = {gamma} has no closed rate")
    from holonomy.theory.deep_learning_theory.symbolic import symbolic_coefficients

    return float(symbolic_coefficients(found)["V_slope"])


def optimal_aspect_ratio(act: str | Activation, n_out: int = 1, gamma: float = 0.0) -> float:
    """Depth over width that the information-theoretic estimate of the book prefers: 4/(20 + 3 n_L)/nu.

    Raises
    ------
    ValueError
        For outputs below 1, or where `vertex_rate` raises.
    """
    if n_out < 1:
        raise ValueError(f"optimal_aspect_ratio: 'n_out' must be at least 1, got {n_out}")
    return 4.0 / (20.0 + 3.0 * n_out) / vertex_rate(act, gamma)

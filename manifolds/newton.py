"""Newton's method in tangent coordinates, safeguarded: what the statistics of geodesics are fitted with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from holonomy.manifolds.errors import ConvergenceError

__all__ = ["Convergence", "minimise"]

State = TypeVar("State")

#: Part of the decrease that the gradient promises, which a step has to keep.
_SUFFICIENT = 1e-4
#: Halvings of a step before rounding is taken to have the last word.
_HALVINGS = 40


@dataclass(frozen=True)
class Convergence:
    """Report of a minimisation.

    Attributes
    ----------
    steps : int
        Steps taken.
    value : float
        Objective at the solution.
    gradient : float
        Length of its gradient there.
    """

    steps: int
    value: float
    gradient: float


def minimise(
    operation: str,
    state: State,
    size: int,
    objective: Callable[[State, Tensor], Tensor],
    move: Callable[[State, Tensor], State],
    *,
    tolerance: float,
    max_steps: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[State, Convergence]:
    """Minimise a function of a point of a manifold, given in coordinates around any point.

    The step is that of Newton with absolute eigenvalues of the Hessian, which is a direction of descent also where
    the function is not convex, halved until it lowers the function. One step solves a least squares problem.

    Parameters
    ----------
    operation : str
        Name for the error.
    state : State
        Where to start.
    size : int
        Number of coordinates.
    objective : callable
        State and coordinates (size,) to a scalar, twice differentiable by autograd; coordinates 0 are the state.
    move : callable
        State and coordinates to a new state.
    tolerance : float
        Length of the gradient to reach, in units of the square root of the value where that is above 1.
    max_steps : int
        Most steps.
    dtype, device : torch.dtype, torch.device
        Of the coordinates.

    Raises
    ------
    ConvergenceError
        Where the gradient has not become as small as that.
    """
    eps = torch.finfo(dtype).eps
    length = value = float("nan")
    for count in range(max_steps + 1):
        zero = torch.zeros(size, dtype=dtype, device=device, requires_grad=True)
        with torch.enable_grad():
            at = objective(state, zero)
            (slope,) = torch.autograd.grad(at, zero, create_graph=True)
            rows = [torch.autograd.grad(slope[i], zero, retain_graph=True)[0] for i in range(size)]
        value, slope = float(at.detach()), slope.detach()
        length = float(slope.norm())
        if length <= tolerance * max(1.0, abs(value) ** 0.5):
            return state, Convergence(count, value, length)
        if count == max_steps:
            break
        hessian = torch.stack(rows)
        values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
        values = values.abs().clamp_min(eps * float(values.abs().amax()) + torch.finfo(dtype).tiny)
        step = -(vectors @ ((vectors.mT @ slope) / values))
        promise = _SUFFICIENT * float(slope @ step)
        with torch.no_grad():
            for _ in range(_HALVINGS):
                if float(objective(state, step)) <= value + promise + 16.0 * eps * abs(value):
                    break
                step, promise = 0.5 * step, 0.5 * promise
            state = move(state, step)
    raise ConvergenceError(
        f"{operation}: after {max_steps} steps the gradient has length {length:.3g} where the objective is "
        f"{value:.3g}, wanted {tolerance:.3g}; give a larger 'max_steps' or 'tolerance'"
    )

"""Where signals neither grow nor fade with depth: critical initialisations and their universality classes."""

import math
from dataclasses import dataclass

from scipy.optimize import brentq

from holonomy.theory.activations import Activation, activation
from holonomy.theory.deep_learning_theory.recursions import moments

__all__ = ["CriticalPoint", "critical_point"]

#: Variances between which a half-stable fixed point is sought.
_LEAST, _MOST = 1e-2, 60.0


@dataclass(frozen=True)
class CriticalPoint:
    """An initialisation with chi_par = chi_perp = 1 at a fixed point of the kernel.

    Parameters
    ----------
    C_b, C_W : float
        NaN where there is none.
    K_star : float
        The fixed point; NaN where every kernel is one, or there is none.
    universality_class : {"scale invariant", "K* = 0", "half-stable", "none"}
    """

    C_b: float
    C_W: float
    K_star: float
    universality_class: str


def critical_point(act: str | Activation, strict: bool = False) -> CriticalPoint:
    """Critical initialisation of an activation (chapter 5 of The Principles of Deep Learning Theory).

    Scale-invariant functions: C_W = 1/A_2 and C_b = 0, at any K. With sigma(0) = 0 and a_1 < 0: K* = 0 and
    C_W = 1/sigma'(0)^2. Else K* > 0 solves <sigma'^2> = <z sigma' sigma>/K, which makes both susceptibilities 1 at
    C_W = 1/<sigma'^2>; C_b = K* - C_W <sigma^2> must not be negative.

    Parameters
    ----------
    act : str or Activation
    strict : bool, default False
        Raise where there is none, instead of saying so.

    Raises
    ------
    ValueError
        With `strict`, for an activation that has no critical point.
    """
    found = activation(act)
    if found.slopes is not None:
        mean_square = 0.5 * (found.slopes[0] ** 2 + found.slopes[1] ** 2)
        if mean_square > 0:
            return CriticalPoint(0.0, 1.0 / mean_square, math.nan, "scale invariant")
    else:
        point = _at_zero(found) or _half_stable(found)
        if point is not None:
            return point
    if strict:
        raise ValueError(f"critical_point: {found.name} has no critical initialisation")
    return CriticalPoint(math.nan, math.nan, math.nan, "none")


def _at_zero(act: Activation) -> CriticalPoint | None:
    """The class of tanh, by the derivatives at 0 that sympy finds."""
    if act.sympy_expr is None:
        return None
    from holonomy.theory.deep_learning_theory.symbolic import derivatives_at_zero

    s0, s1, s2, s3 = (float(d) for d in derivatives_at_zero(act))
    if s0 != 0.0 or s1 == 0.0:
        return None
    a_1 = s3 / s1 + 0.75 * (s2 / s1) ** 2
    return CriticalPoint(0.0, 1.0 / s1**2, 0.0, "K* = 0") if a_1 < 0.0 else None


def _half_stable(act: Activation) -> CriticalPoint | None:
    def mismatch(log_k: float) -> float:
        m = moments(act, math.exp(log_k))
        return m.parallel - m.perpendicular

    grid = [math.log(_LEAST) + k * (math.log(_MOST) - math.log(_LEAST)) / 80 for k in range(81)]
    values = [mismatch(x) for x in grid]
    for low, high, a, b in zip(grid, grid[1:], values, values[1:], strict=False):
        if a * b < 0.0:
            K = math.exp(brentq(mismatch, low, high, xtol=1e-14, rtol=1e-14))
            m = moments(act, K)
            C_W = 1.0 / m.perpendicular
            C_b = K - C_W * m.s2
            if C_b >= 0.0:
                return CriticalPoint(C_b, C_W, K, "half-stable")
    return None

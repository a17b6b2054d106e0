"""Scalar functions that geometry needs, smooth where the textbook form divides zero by zero.

Norms enter geometric formulas through even functions: sin(r)/r, tanh(r)/r, and so on. Written as functions of the
*squared* norm s = r^2 they are analytic at s = 0, so that values and derivatives of every order are finite at the
zero vector, with no branch on data and no epsilon. Near 0 each is its Taylor polynomial in s; the cut is placed where
the truncation error of value, first and second derivative is below float64 rounding.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["arsinhc", "artanhc", "asinc", "cosm1c", "log_sinhc", "sinc", "sinhc", "sinm1c", "tanhc"]


def _even(s: Tensor, coefficients: Sequence[float], cut: float, closed: Callable[[Tensor], Tensor]) -> Tensor:
    """Polynomial in s below the cut, closed form in r = sqrt(s) above it."""
    small = s < cut
    # Each branch sees harmless input where it is not used, or its derivative would poison the other (0 * inf).
    t = torch.where(small, s, torch.zeros_like(s))
    polynomial = torch.full_like(s, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        polynomial = polynomial * t + coefficient
    r = torch.where(small, torch.ones_like(s), s).sqrt()
    return torch.where(small, polynomial, closed(r))


_SIN = [(-1.0) ** k / math.factorial(2 * k + 1) for k in range(12)]
_SINH = [1.0 / math.factorial(2 * k + 1) for k in range(12)]
_COSM1 = [(-1.0) ** k * 2.0 / math.factorial(2 * k + 2) for k in range(12)]
_SINM1 = [(-1.0) ** k * 6.0 / math.factorial(2 * k + 3) for k in range(12)]
_ARTANH = [1.0 / (2 * k + 1) for k in range(12)]
_ASIN = [math.comb(2 * k, k) / (4.0**k * (2 * k + 1)) for k in range(12)]
_ARSINH = [(-1.0) ** k * c for k, c in enumerate(_ASIN)]
# tanh(r)/r: 2^(2n) (2^(2n) - 1) B_2n / (2n)!, n = 1..12
_TANH = [
    1.0,
    -1.0 / 3.0,
    2.0 / 15.0,
    -17.0 / 315.0,
    62.0 / 2835.0,
    -1382.0 / 155925.0,
    21844.0 / 6081075.0,
    -929569.0 / 638512875.0,
    6404582.0 / 10854718875.0,
    -443861162.0 / 1856156927625.0,
    18888466084.0 / 194896477400625.0,
    -113927491862.0 / 2900518163668125.0,
]


def sinc(s: Tensor) -> Tensor:
    """sin(r)/r as a function of s = r^2 >= 0."""
    return _even(s, _SIN, 1.0, lambda r: torch.sin(r) / r)


def cosm1c(s: Tensor) -> Tensor:
    """2 (1 - cos r)/r^2 as a function of s = r^2 >= 0, without the cancellation."""
    return _even(s, _COSM1, 1.0, lambda r: torch.square(2.0 * torch.sin(0.5 * r) / r))


def sinm1c(s: Tensor) -> Tensor:
    """6 (r - sin r)/r^3 as a function of s = r^2 >= 0."""
    return _even(s, _SINM1, 1.0, lambda r: 6.0 * (r - torch.sin(r)) / r**3)


def sinhc(s: Tensor) -> Tensor:
    """sinh(r)/r as a function of s = r^2 >= 0."""
    return _even(s, _SINH, 1.0, lambda r: torch.sinh(r) / r)


def tanhc(s: Tensor) -> Tensor:
    """tanh(r)/r as a function of s = r^2 >= 0."""
    return _even(s, _TANH, 0.05, lambda r: torch.tanh(r) / r)


def artanhc(s: Tensor) -> Tensor:
    """artanh(r)/r as a function of s = r^2 in [0, 1)."""
    return _even(s, _ARTANH, 0.02, lambda r: 0.5 * (torch.log1p(r) - torch.log1p(-r)) / r)


def asinc(s: Tensor) -> Tensor:
    """asin(r)/r as a function of s = r^2 in [0, 1]."""
    return _even(s, _ASIN, 0.02, lambda r: torch.asin(r) / r)


def arsinhc(s: Tensor) -> Tensor:
    """arsinh(r)/r as a function of s = r^2 >= 0."""
    return _even(s, _ARSINH, 0.02, lambda r: torch.asinh(r) / r)


def log_sinhc(s: Tensor) -> Tensor:
    """log(sinh(r)/r) as a function of s = r^2 >= 0, also where sinh itself would overflow."""
    near = s < 1.0
    r = torch.where(near, torch.ones_like(s), s).sqrt()
    far = r + torch.log(-torch.expm1(-2.0 * r) / (2.0 * r))
    return torch.where(near, sinhc(torch.where(near, s, torch.zeros_like(s))).log(), far)

"""The modified Bessel function of the first kind as directional statistics need it: scaled, logarithmic, smooth."""

import math
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

__all__ = ["log_bessel_i", "log_bessel_i_slope"]

#: Where sqrt(nu^2 + x^2) is less, the power series is summed.
_FAR = 40.0
#: Terms of the power series: (x/2)^(2k) / k!^2 at x = 40, k = 80 is below 1e-35 of the sum.
_SERIES = 80
#: Terms of the expansion: k! / (2 * 40)^k is least, and below rounding, near k = 16.
_TERMS = 16
#: Bernoulli numbers over n (n - 1): Stirling's series, exact to rounding from 15 on.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def log_bessel_i(nu: float, x: Tensor) -> Tensor:
    """log(Gamma(nu + 1) (2/x)^nu I_nu(x)) - x, exact to some roundings for any order and argument.

    Without the term -x it is the logarithm of 0F1(; nu + 1; x^2/4), which is 0 at x = 0. Near the origin the power
    series is summed, whose terms are positive; beyond, Debye's expansion, uniform in the order, in powers of
    1/sqrt(nu^2 + x^2), with Stirling's series taken off the logarithm of Gamma, so that large terms do not cancel.
    Differentiable to any order. Computed in float64, and rounded to the dtype of `x`.

    Parameters
    ----------
    nu : float
        Order, not negative.
    x : Tensor
        Argument, not negative.

    References
    ----------
    Olver, Asymptotics and special functions, 1974, chapter 10.7; DLMF 10.41.
    """
    t = x.double()
    if nu >= _FAR:
        return _debye(nu, t).to(x.dtype)
    near = t.square() + nu * nu < _FAR * _FAR
    small = _series(nu, torch.where(near, t, torch.zeros_like(t)))
    far = _debye(nu, torch.where(near, torch.full_like(t, _FAR), t))
    return torch.where(near, small, far).to(x.dtype)


def log_bessel_i_slope(nu: float, x: Tensor) -> Tensor:
    """1 - I_(nu+1)(x)/I_nu(x), minus the derivative of `log_bessel_i`; exact also where it is close to 0."""
    with torch.enable_grad():
        t = x.double() if x.requires_grad else x.detach().double().requires_grad_()
        (slope,) = torch.autograd.grad(log_bessel_i(nu, t).sum(), t, create_graph=True)
    return (-slope if x.requires_grad else -slope.detach()).to(x.dtype)


def _series(nu: float, x: Tensor) -> Tensor:
    q = 0.25 * x.square()
    total = torch.ones_like(q)
    for k in range(_SERIES, 1, -1):
        total = 1.0 + q / (k * (nu + k)) * total
    return torch.log1p(q / (nu + 1.0) * total) - x


def _debye(nu: float, x: Tensor) -> Tensor:
    s = (nu * nu + x.square()).sqrt()
    if nu >= 15.0:
        # Gamma by Stirling: nu log nu - nu + log(2 pi nu)/2 cancels against the terms below by hand.
        rest = sum(b / nu ** (2 * i + 1) for i, b in enumerate(_STIRLING))
        square = x.square()
        main = -nu * torch.log1p(square / (2.0 * nu * (s + nu))) - 0.25 * torch.log1p(square / nu**2) + rest
    else:
        main = math.lgamma(nu + 1.0) - nu * ((nu + s) / 2.0).log() - 0.5 * (2.0 * math.pi * s).log() + nu
    # s - nu - x, without the cancellation
    main = main - 2.0 * nu * x / (nu + x + s)
    square, inverse = (nu / s).square(), 1.0 / s
    total = torch.zeros_like(s)
    for coefficients in reversed(_debye_coefficients()):
        polynomial = torch.full_like(s, coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            polynomial = polynomial * square + coefficient
        total = (total + polynomial) * inverse
    return main + torch.log1p(total)


@cache
def _debye_coefficients() -> tuple[tuple[float, ...], ...]:
    """Coefficients in t^2 of u_k(t)/t^k, k = 1, 2, ... (DLMF 10.41.9), from exact fractions."""
    u = [Fraction(1)]  # coefficients of u_k by power of t, from t^0
    rows = []
    for k in range(1, _TERMS + 1):
        new = [Fraction(0)] * (len(u) + 3)
        for power, a in enumerate(u):
            new[power + 1] += a * power / 2 + a / (8 * (power + 1))
            new[power + 3] -= a * power / 2 + 5 * a / (8 * (power + 3))
        u = new
        rows.append(tuple(float(a) for a in u[k : 3 * k + 1 : 2]))
    return tuple(rows)

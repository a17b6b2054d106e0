"""The scaled logarithmic Bessel function against 50 digits of mpmath, with its derivatives."""

import mpmath
import pytest
import torch

from holonomy.manifolds.bessel import log_bessel_i, log_bessel_i_slope

DIMENSIONS = [2, 3, 4, 10, 32, 33, 81, 82, 300, 2000]
ARGUMENTS = [0.0, 1e-8, 1e-3, 0.5, 5.0, 20.0, 39.99, 40.01, 100.0, 1e3, 1e6]


def exact(nu: float, x: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    with mpmath.workdps(50):
        order, t = mpmath.mpf(nu), mpmath.mpf(x)
        if x == 0.0:
            return mpmath.mpf(0), mpmath.mpf(1)
        scaled = mpmath.besseli(order, t)
        value = mpmath.loggamma(order + 1) + order * mpmath.log(2 / t) + mpmath.log(scaled) - t
        return value, 1 - mpmath.besseli(order + 1, t) / scaled


@pytest.mark.parametrize("p", DIMENSIONS)
def test_value_and_slope_have_all_digits(p: int) -> None:
    nu = 0.5 * p - 1.0
    x = torch.tensor(ARGUMENTS, dtype=torch.float64)
    for got, slope, at in zip(log_bessel_i(nu, x).tolist(), log_bessel_i_slope(nu, x).tolist(), ARGUMENTS, strict=True):
        value, wanted = exact(nu, at)
        # Some roundings of a sum of a few terms.
        assert abs(got - value) <= 8 * 2.3e-16 * max(1, abs(value)), at
        # Relative: the slope is 1/(2 x) at x = 1e6; the power series, whose slope nears 1 - A, loses two digits at 40.
        assert abs(slope - wanted) <= 1e-13 * abs(wanted), at


@pytest.mark.parametrize("nu", [0.0, 0.5, 20.0, 60.0])
def test_derivatives_of_every_order(nu: float) -> None:
    x = torch.tensor([0.0, 0.3, 12.0, 30.0, 60.0, 500.0], dtype=torch.float64, requires_grad=True)
    # At 0 differences would need x < 0, where the function is not smooth (the term -|x|): move it in.
    at = (x.detach() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: log_bessel_i(nu, t), at)
    assert torch.autograd.gradgradcheck(lambda t: log_bessel_i(nu, t), at)
    assert torch.autograd.gradcheck(lambda t: log_bessel_i_slope(nu, t), at)
    for value in (log_bessel_i(nu, x), log_bessel_i_slope(nu, x)):
        assert torch.isfinite(torch.autograd.grad(value.sum(), x)[0]).all()


def test_float32_is_rounded_from_float64() -> None:
    x = torch.tensor([0.1, 30.0, 1e5])
    assert torch.equal(log_bessel_i(3.0, x), log_bessel_i(3.0, x.double()).float())

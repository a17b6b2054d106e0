"""The even functions against fifty digits: value, first and second derivative over thirty orders of magnitude."""

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import functions

MP = mpmath.MPContext()
MP.dps = 50

Exact = Callable[[mpmath.mpf], mpmath.mpf]

#: Each function of s = r^2 with its definition in r, its textbook names, and the end of its domain.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Exact, float]] = {
    "sinc": (functions.sinc, lambda r: MP.sin(r) / r, 9.0),
    "cosm1c": (functions.cosm1c, lambda r: (2 * MP.sin(r / 2) / r) ** 2, 9.0),
    "sinm1c": (functions.sinm1c, lambda r: MP.hyp1f2(1, 2, 2.5, -r * r / 4), 9.0),  # no cancellation
    "sinhc": (functions.sinhc, lambda r: MP.sinh(r) / r, 400.0),
    "tanhc": (functions.tanhc, lambda r: MP.tanh(r) / r, 400.0),
    "artanhc": (functions.artanhc, lambda r: MP.atanh(r) / r, 0.998),
    "asinc": (functions.asinc, lambda r: MP.asin(r) / r, 0.998),
    "arsinhc": (functions.arsinhc, lambda r: MP.asinh(r) / r, 1e12),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def points(end: float) -> Tensor:
    """Magnitudes from 1e-30 to the end of the domain, and both sides of every cut between series and closed form."""
    s = torch.cat([torch.logspace(-30.0, 0.0, 61, dtype=torch.float64), torch.linspace(0.0, 1.0, 101)[1:].double()])
    cuts = torch.tensor([c * (1.0 + e) for c in (0.02, 0.05, 1.0) for e in (-1e-12, 1e-12)], dtype=torch.float64)
    return torch.cat([s[s < end], cuts[cuts < end], torch.logspace(0.0, 12.0, 25, dtype=torch.float64).clamp_max(end)])


def derivatives(function: Callable[[Tensor], Tensor], s: Tensor) -> list[Tensor]:
    s = s.clone().requires_grad_()
    value = function(s)
    (first,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), s)
    return [value.detach(), first.detach(), second]


def exact(function: Exact, s: Tensor, order: int) -> Tensor:
    """Derivative in s by central differences at fifty digits: their error is 1e-24 relative."""

    def of_square(s: mpmath.mpf) -> mpmath.mpf:
        return function(MP.sqrt(s)) if s != 0 else MP.mpf(1)

    results = []
    for value in s.tolist():
        exact_s = MP.mpf(value)
        if order == 0:
            results.append(float(of_square(exact_s)))
        else:
            step = exact_s * MP.mpf(10) ** -12
            ahead, here, behind = (of_square(exact_s + k * step) for k in (1, 0, -1))
            results.append(
                float((ahead - behind) / (2 * step)) if order == 1 else float((ahead - 2 * here + behind) / step**2)
            )
    return torch.tensor(results, dtype=torch.float64)


@each_function
@pytest.mark.parametrize("order", [0, 1, 2])
def test_derivatives_are_right_to_rounding(name: str, order: int) -> None:
    function, definition, end = FUNCTIONS[name]
    s = points(end)
    if order:
        s = s[s > 1e-4]  # below, the reference itself would need more than fifty digits; the next test looks there
    wanted = exact(definition, s, order)
    value, first, second = derivatives(function, s)
    measured = (value, first, second)[order]
    error = (measured - wanted).abs() / wanted.abs()
    # Values to a few roundings of r, times the condition s f'/f, which grows towards the ends of the domain. Above the
    # cut, a derivative in s = r^2 subtracts terms of the closed form that are 1/s times as large, and 1/s^2 for the
    # second, where the cut is at 0.02: some 50 and 2,500 roundings.
    scale = (4.0 + (s * first / value).abs(), 500.0, 5e4)[order]
    ratio = error / (scale * torch.finfo(torch.float64).eps)
    assert float(ratio.amax()) <= 1.0, f"at s = {float(s[ratio.argmax()]):.3g}: {float(error[ratio.argmax()]):.3g}"


@each_function
def test_derivatives_at_zero_are_the_taylor_coefficients(name: str) -> None:
    function, definition, _ = FUNCTIONS[name]
    coefficients = MP.taylor(lambda r: definition(r) if r != 0 else MP.mpf(1), 0, 4, singular=True)
    wanted = [float(coefficients[0]), float(coefficients[2]), 2.0 * float(coefficients[4])]
    for s in (0.0, 1e-300, 1e-30, 1e-16):
        measured = derivatives(function, torch.tensor([s], dtype=torch.float64))
        for got, want in zip(measured, wanted, strict=True):
            assert float(got) == pytest.approx(want, rel=1e-14)


@each_function
def test_float32_values_are_right_to_rounding(name: str) -> None:
    function, _, end = FUNCTIONS[name]
    s = points(end).float()
    s = s[s < end]
    wanted = function(s.double())
    error = ((function(s).double() - wanted) / wanted).abs()
    # float32's own condition: sinh at r = 20 multiplies the rounding of r by 20.
    assert float(error.amax()) <= 32 * torch.finfo(torch.float32).eps


@each_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_branch_poisons_the_other(name: str, dtype: torch.dtype) -> None:
    """Finite derivatives of orders one to three at 0, among values on both sides of the cut."""
    function, _, end = FUNCTIONS[name]
    s = torch.tensor([0.0, 1e-30, 1e-3, 0.5, min(end, 4.0)], dtype=dtype, requires_grad=True)
    result = function(s)
    for _ in range(3):
        assert torch.isfinite(result).all()
        (result,) = torch.autograd.grad(result.sum(), s, create_graph=True)
    assert torch.isfinite(result).all()


@each_function
def test_gradcheck(name: str) -> None:
    function, _, end = FUNCTIONS[name]
    s = torch.tensor([1e-3, 0.013, 0.03, 0.3, min(end, 3.0) * 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, s)
    assert torch.autograd.gradgradcheck(function, s)

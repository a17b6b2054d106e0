"""Functions of positive definite matrices: divided differences and derivatives of every order that is offered."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import positive
from holonomy.manifolds.linalg import haar, spectrum, sym, symmetric_derivative, symmetric_function

EPS = torch.finfo(torch.float64).eps

# Function, mpmath's, its derivative of order n at s, spectrum, and the highest order of its divided differences.
FUNCTIONS = {
    "exp": (positive.EXP, mpmath.exp, lambda s, n: mpmath.exp(s), (-3.0, 0.2, 1.0, 4.0), 5),
    "log": (
        positive.LOG,
        mpmath.log,
        lambda s, n: mpmath.log(s) if n == 0 else (-1) ** (n - 1) * mpmath.factorial(n - 1) / s**n,
        (1e-4, 0.3, 1.0, 30.0),
        3,
    ),
    "sqrt": (
        positive.SQRT,
        mpmath.sqrt,
        lambda s, n: mpmath.ff(mpmath.mpf(0.5), n) * s ** (0.5 - n),
        (1e-4, 0.3, 1.0, 30.0),
        2,
    ),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(*values: float) -> Tensor:
    q = haar((len(values), len(values)), torch.float64, None, generator())
    return sym(q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.mT)


def symmetric(n: int, seed: int) -> Tensor:
    return sym(torch.randn(n, n, dtype=torch.float64, generator=generator(seed)))


def divided_difference(f, derivative, points):
    if len(points) == 1:
        return f(points[0])
    if points[0] == points[-1]:
        return derivative(points[0], len(points) - 1) / mpmath.factorial(len(points) - 1)
    step = divided_difference(f, derivative, points[1:]) - divided_difference(f, derivative, points[:-1])
    return step / (points[-1] - points[0])


@each_function
@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-9, 1e-4, 0.02, 0.3, 0.9])
def test_divided_differences_keep_their_digits_at_every_gap(name: str, gap: float) -> None:
    f, reference, derivative, spectrum, highest = FUNCTIONS[name]
    for s in spectrum:
        for order in range(1, highest + 1):
            points = [s + gap * max(abs(s), 1e-4) * (k / order - 0.4) for k in range(order + 1)]
            with mpmath.workdps(150):
                wanted = float(divided_difference(reference, derivative, [mpmath.mpf(p) for p in points]))
            shuffled = [torch.tensor(p, dtype=torch.float64) for p in points[::-1]]
            # A Taylor polynomial or a quotient of gap 1, for the logarithm with a difference of factor 2.
            assert float(f.difference(*shuffled)) == pytest.approx(wanted, rel=500 * EPS), (s, order)


@pytest.mark.parametrize("order", [2, 3])
def test_divided_differences_over_a_wide_spectrum(order: int) -> None:
    points = [1e-8, 3e-3, 1.0, 1e4][: order + 1]
    for name in ("log", "sqrt"):
        f, reference, derivative, _, highest = FUNCTIONS[name]
        if order > highest:
            continue
        with mpmath.workdps(100):
            wanted = float(divided_difference(reference, derivative, [mpmath.mpf(p) for p in points]))
        # 1e-13: logarithms of the points, about 20, are rounded.
        assert float(f.difference(*(torch.tensor(p, dtype=torch.float64) for p in points))) == pytest.approx(
            wanted, rel=1e-13
        )


@each_function
@pytest.mark.parametrize(
    "spectrum",
    [(0.5, 0.5, 0.5), (0.2, 0.5, 0.5), (0.5, 0.5 + 1e-9, 0.9), (0.5, 0.503, 0.51), (0.2, 0.5, 2.9)],
    ids=["all equal", "a pair", "nearly a pair", "close", "apart"],
)
def test_derivatives_are_right_at_repeated_eigenvalues(name: str, spectrum: tuple[float, ...]) -> None:
    f = FUNCTIONS[name][0]
    a = with_spectrum(*spectrum).requires_grad_()
    assert gradcheck(lambda a: symmetric_function(a, f), a, check_forward_ad=True)
    assert gradgradcheck(lambda a: symmetric_function(a, f), a)


@pytest.mark.parametrize("name", ["exp", "log"])
@pytest.mark.parametrize("spectrum", [(0.5, 0.5, 0.5), (0.5, 0.5 + 1e-9, 0.9), (0.2, 0.5, 2.9)], ids=str)
def test_third_derivatives(name: str, spectrum: tuple[float, ...]) -> None:
    f = FUNCTIONS[name][0]
    free = tuple(t.requires_grad_() for t in (with_spectrum(*spectrum), symmetric(3, 1)))
    assert gradcheck(lambda a, e: symmetric_derivative(a, f, e), free, check_forward_ad=True)
    assert gradgradcheck(lambda a, e: symmetric_derivative(a, f, e), free)


def test_derivatives_of_higher_order_are_those_of_the_power_series() -> None:
    """D^3 exp at 0 along e, e, e is e^3, and along different directions the mean over their orders, times 1."""
    zero, e, g = torch.zeros(3, 3, dtype=torch.float64), symmetric(3, 1), symmetric(3, 2)
    torch.testing.assert_close(symmetric_derivative(zero, positive.EXP, e, e, e), e @ e @ e)
    wanted = (e @ e @ g + e @ g @ e + g @ e @ e) / 3.0
    torch.testing.assert_close(symmetric_derivative(zero, positive.EXP, e, g, e), wanted)


def test_what_has_no_third_derivative_says_so() -> None:
    a, e = with_spectrum(0.2, 0.5, 0.9).requires_grad_(), symmetric(3, 1)
    first = symmetric_derivative(a, positive.SQRT, e)
    (second,) = torch.autograd.grad(first.square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="up to the second"):
        torch.autograd.grad(second.square().sum(), a)


def test_lyapunov_solves_and_differentiates_to_second_order() -> None:
    x, r = with_spectrum(0.2, 0.5, 0.5).requires_grad_(), symmetric(3, 1).requires_grad_()

    def solve(x: Tensor, r: Tensor) -> Tensor:
        return positive.lyapunov(*spectrum(x), r)

    w = solve(x, r)
    torch.testing.assert_close(x @ w + w @ x, r)
    assert gradcheck(solve, (x, r), check_forward_ad=True)
    assert gradgradcheck(solve, (x, r))


@pytest.mark.parametrize("condition", [1e2, 1e8])
def test_relative_logarithms_keep_small_and_large_eigenvalues(condition: float) -> None:
    """Generalised eigenvalues of two independent matrices of this condition: up to its square."""
    values = torch.logspace(0.0, -math.log10(condition), 4, dtype=torch.float64)
    x, y = with_spectrum(*values.tolist()), torch.diag(values.flip(0)) + 1e-12 * symmetric(4, 3)
    lower = positive.lower_factor(x)
    _, logs, _ = positive.relative_spectrum(lower, x, y)
    with mpmath.workdps(60):
        a, b = mpmath.matrix(x.tolist()), mpmath.matrix(y.tolist())
        inverse = mpmath.inverse(mpmath.cholesky(a))
        wanted = sorted(float(mpmath.log(s)) for s in mpmath.eigsy(inverse * b * inverse.T, eigvals_only=True))
    # Cholesky's factorisation is backward stable: eps times the condition number, and a small constant.
    error = (logs.sort().values - torch.tensor(wanted, dtype=torch.float64)).abs().amax()
    assert float(error) <= 8 * EPS * condition


def test_lift_leaves_positive_matrices_and_raises_others() -> None:
    x = with_spectrum(1e-9, 0.5, 2.0)
    assert torch.equal(positive.lift(x), x)
    low = with_spectrum(-1.0, 0.5, 2.0)
    lifted = positive.lift(low)
    # The nearest matrix without negative eigenvalues, but for the floor.
    torch.testing.assert_close(lifted, with_spectrum(0.0, 0.5, 2.0), rtol=0, atol=1e-14)
    assert float(torch.linalg.eigvalsh(lifted).amin()) > 0.0
    torch.testing.assert_close(positive.lift(lifted), lifted, rtol=0, atol=16 * EPS)
    zero = positive.lift(torch.zeros(2, 2, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(zero).amin()) > 0.0
    free = low.requires_grad_()
    assert gradcheck(positive.lift, free, check_forward_ad=True)
    assert gradgradcheck(positive.lift, free)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = positive.lift(low.detach().float(), dtype).to(dtype)
        assert float(torch.linalg.eigvalsh(rounded.double()).amin()) > 0.0

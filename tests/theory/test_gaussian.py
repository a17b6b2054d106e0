"""Gaussian expectations against scipy, closed forms, and each other; activations against autograd and sympy."""

import math

import pytest
import sympy
import torch
from scipy.integrate import quad
from torch import Tensor

from holonomy.theory.activations import Activation, activation, leaky_relu, monomial
from holonomy.theory.gaussian import gaussian_expectation, gaussian_vector_nodes

NAMES = ("linear", "relu", "tanh", "sin", "erf", "gelu", "swish", "sigmoid", "softplus")
ALL = [*map(activation, NAMES), leaky_relu(0.1), monomial(3)]


@pytest.mark.parametrize("act", ALL, ids=lambda a: a.name)
def test_derivatives_and_expressions(act: Activation) -> None:
    z = torch.linspace(-4.0, 4.0, 31, dtype=torch.float64) + 0.01
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(act(leaf).sum(), leaf)
    assert torch.allclose(act.dsigma(z), slope, atol=1e-13)
    assert act.sympy_expr is not None
    symbol = sympy.Symbol("z", real=True)
    exact = [float(act.sympy_expr(symbol).subs(symbol, v)) for v in z[::6].tolist()]
    assert act(z[::6]).tolist() == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("K", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("act", ALL, ids=lambda a: a.name)
def test_expectations_agree_with_scipy(act: Activation, K: float) -> None:
    def integrand(z: float) -> float:
        value = float(act(torch.tensor(z * math.sqrt(K), dtype=torch.float64)))
        return value**2 * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)

    parts = [quad(integrand, *ends, epsabs=1e-13, epsrel=1e-12)[0] for ends in ((-12, 0), (0, 12))]
    assert gaussian_expectation(lambda z: act(z) ** 2, K) == pytest.approx(sum(parts), rel=1e-10)


def test_polynomials_are_exact() -> None:
    for power in range(0, 9, 2):
        wanted = math.prod(range(1, power, 2)) * 0.7 ** (power // 2)
        assert gaussian_expectation(lambda z, p=power: z**p, 0.7) == pytest.approx(wanted, rel=1e-13)
    assert gaussian_expectation(lambda z: z**3, 2.0) == pytest.approx(0.0, abs=1e-13)


def test_pairs() -> None:
    def covariance(a: float, b: float, c: float) -> Tensor:
        return torch.tensor([[a, c], [c, b]], dtype=torch.float64)

    for a, b, c in ((1.0, 2.0, 0.5), (1.0, 1.0, 1.0), (0.3, 4.0, -1.0)):
        assert gaussian_expectation(lambda u, v: u * v, covariance(a, b, c)) == pytest.approx(c, rel=1e-12)
        t = c / math.sqrt(a * b)
        angle = math.acos(max(-1.0, min(1.0, t)))
        relu = math.sqrt(a * b) * (math.sin(angle) + (math.pi - angle) * t) / (2.0 * math.pi)
        found = gaussian_expectation(lambda u, v: torch.relu(u) * torch.relu(v), covariance(a, b, c))
        assert found == pytest.approx(relu, rel=1e-10)
    assert gaussian_expectation(lambda u, v: u + v**2, covariance(0.0, 2.0, 0.0)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: gaussian_expectation(torch.relu, -1.0), ValueError, "at least 0"),
        (lambda: gaussian_expectation(torch.relu, torch.eye(3)), ValueError, r"got \(3, 3\)"),
        (lambda: gaussian_expectation(torch.mul, torch.tensor([[1.0, 2.0], [2.0, 1.0]])), ValueError, "covariance"),
        (lambda: activation("step"), ValueError, "got 'step'"),
        (lambda: monomial(0), ValueError, "'p' must be at least 1"),
        (lambda: Activation("bad", 3, torch.cos), TypeError, "'sigma' must be callable, got int"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_vector_nodes_have_the_moments_of_their_law(m: int) -> None:
    a = torch.randn(m, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(m))
    K = a @ a.mT / 5.0
    z, w = gaussian_vector_nodes(K)
    tolerance = {1: 1e-12, 2: 1e-12, 3: 1e-6, 4: 2e-4}[m]  # of few nodes a line
    assert float(w.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(torch.einsum("ik,jk,k->ij", z, z, w), K, rtol=tolerance, atol=tolerance)
    i, j, k, n = (c % m for c in range(4))
    pairs = K[i, j] * K[k, n] + K[i, k] * K[j, n] + K[i, n] * K[j, k]  # Isserlis
    assert float((z[i] * z[j] * z[k] * z[n] * w).sum()) == pytest.approx(float(pairs), rel=tolerance, abs=tolerance)
    # A kink at every zero: E |z_i z_j| in closed form.
    r = K[0, m - 1] / (K[0, 0] * K[m - 1, m - 1]).sqrt() if m > 1 else torch.tensor(1.0).double()
    size = (K[0, 0] * K[m - 1, m - 1]).sqrt() * 2.0 / math.pi * ((1 - r * r).clamp(min=0).sqrt() + r * torch.asin(r))
    found = float((z[0].abs() * z[m - 1].abs() * w).sum())
    assert found == pytest.approx(float(size), rel=10 * tolerance)


def test_vector_nodes_refuse_what_is_no_regular_covariance() -> None:
    for K, text in (
        (torch.eye(5), "m from 1 to 4"),
        (torch.ones(2, 3), r"must be \(m, m\)"),
        (torch.ones(2, 2), "regular covariance"),
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "regular covariance"),
    ):
        with pytest.raises(ValueError, match=text):
            gaussian_vector_nodes(K)
    with pytest.raises(ValueError, match="order >= 2"):
        gaussian_vector_nodes(torch.eye(2), 1)

"""What sympy derives."""

import pytest
import sympy
import torch

from holonomy.theory.activations import activation, leaky_relu
from holonomy.theory.deep_learning_theory.recursions import moments
from holonomy.theory.deep_learning_theory.symbolic import (
    closed_moments,
    derivatives_at_zero,
    dual_activation,
    proof_by_induction,
    small_kernel_series,
    solve_scale_invariant,
    symbolic_coefficients,
)
from holonomy.theory.gaussian import gaussian_expectation


def test_coefficients_of_the_class_of_tanh() -> None:
    tanh = symbolic_coefficients("tanh")
    assert (tanh["a_1"], tanh["b_1"], tanh["p_perp"], tanh["V_slope"]) == (-2, -2, 1, sympy.Rational(2, 3))
    assert symbolic_coefficients("sin")["a_1"] == -1
    assert symbolic_coefficients("erf")["C_W"] == sympy.pi / 4
    for act in ("tanh", "sin", "erf"):
        s = derivatives_at_zero(act)
        wanted = s[3] / s[1] + sympy.Rational(3, 4) * (s[2] / s[1]) ** 2
        assert sympy.simplify(symbolic_coefficients(act)["a_1"] - wanted) == 0
    with pytest.raises(ValueError, match=r"sigma\(0\) = 0"):
        symbolic_coefficients("sigmoid")


@pytest.mark.parametrize("act", ["tanh", "sin", "gelu"])
def test_series_are_those_of_small_kernels(act: str) -> None:
    series = small_kernel_series(act, lambda s, d: s**2)
    K = 0.01
    value = sum(float(c) * K**k for k, c in enumerate(series))
    # What is left out is of order K^4.
    assert moments(act, K).s2 == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("act", [activation("relu"), activation("linear"), leaky_relu(0.5)], ids=lambda a: a.name)
def test_closed_moments_are_those_of_quadrature(act: object) -> None:
    exact = closed_moments(act)  # type: ignore[arg-type]
    found = moments(act, 0.7)  # type: ignore[arg-type]
    for name in ("s2", "s4", "d2", "d4", "s2d2", "parallel", "perpendicular"):
        assert getattr(found, name) == pytest.approx(float(exact[name].subs(exact["K"], 0.7)), rel=1e-12)
    with pytest.raises(ValueError, match="polynomial on either side"):
        closed_moments("tanh")


@pytest.mark.parametrize("name", ["relu", "linear", "erf", "sin"])
def test_dual_activations_obey_price_s_theorem(name: str) -> None:
    dual = dual_activation(name)
    numbers = {dual["a"]: sympy.Rational(6, 5), dual["b"]: sympy.Rational(1, 2), dual["c"]: sympy.Rational(3, 10)}
    residual = sympy.diff(dual["value"], dual["c"]) - dual["slope"]
    assert abs(float(residual.subs(numbers))) < 1e-14
    K, f = torch.tensor([[1.2, 0.3], [0.3, 0.5]], dtype=torch.float64), activation(name)
    assert gaussian_expectation(lambda u, v: f(u) * f(v), K) == pytest.approx(
        float(dual["value"].subs(numbers)), rel=1e-11
    )
    with pytest.raises(ValueError, match="no closed form for 'gelu'"):
        dual_activation("gelu")


def test_solutions_are_proven() -> None:
    assert proof_by_induction() == dict.fromkeys(("V", "Theta", "F", "B"), (0, 0))
    relu = solve_scale_invariant(1, 0)
    assert sympy.simplify(relu["V"] - 5 * (relu["l"] - 1) * relu["K"] ** 2) == 0
    leading = sympy.limit(relu["V_exact"], relu["n"], sympy.oo)
    assert sympy.simplify(leading - relu["V"]) == 0
    linear = solve_scale_invariant(1, 1)
    assert sympy.simplify(linear["V"] - 2 * (linear["l"] - 1) * linear["K"] ** 2) == 0

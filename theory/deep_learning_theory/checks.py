"""What the book derives, checked: by sympy, by quadrature, and on ensembles of random networks."""

import math

import numpy as np
import torch
from torch import Tensor

from holonomy.theory.activations import activation
from holonomy.theory.check import Check
from holonomy.theory.deep_learning_theory.criticality import critical_point
from holonomy.theory.deep_learning_theory.recursions import fluctuation_recursion, kernel_recursion, moments
from holonomy.theory.deep_learning_theory.symbolic import (
    closed_moments,
    dual_activation,
    proof_by_induction,
    solve_scale_invariant,
    symbolic_coefficients,
)
from holonomy.theory.deep_learning_theory.training import vertex_rate
from holonomy.theory.ensembles import estimate, sample_fluctuations, sample_kernels, vertex
from holonomy.theory.gaussian import gaussian_expectation

#: Intervals of ensembles are this many standard errors to either side.
ERRORS = 4.0


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from ``seed``; some fifteen seconds."""
    return [
        *induction(),
        *closed_forms(),
        *duals(),
        *critical_points(),
        *deep_tanh(),
        *off_criticality(),
        *exact_vertex(seed),
        *second_layer(seed),
        unequal_widths(seed),
        *residual(seed),
    ]


def induction() -> list[Check]:
    """The scale-invariant solutions in the recursions."""
    found = []
    for name, (step, start) in proof_by_induction().items():
        found.append(
            Check(
                f"{name} of scale-invariant networks at criticality solves its recursion: terms left by sympy",
                0.0,
                float((step != 0) + (start != 0)),
                "induction in l, any slopes a_+ and a_-",
            )
        )
    return found


def closed_forms() -> list[Check]:
    """Quadrature against the moments that sympy derives."""
    found = []
    for name in ("relu", "leaky_relu"):
        from holonomy.theory.activations import leaky_relu

        act = activation("relu") if name == "relu" else leaky_relu(0.25)
        exact = closed_moments(act)
        worst = 0.0
        for K in (0.1, 1.0, 30.0):
            measured = moments(act, K)
            for what in ("s2", "s4", "d2", "d4", "s2d2", "parallel", "perpendicular"):
                value = float(exact[what].subs(exact["K"], K))
                worst = max(worst, abs(getattr(measured, what) / value - 1.0))
        found.append(
            Check(
                f"Gaussian moments of {act.name} by quadrature are sympy's: largest relative error",
                1e-12,
                worst,
                "seven moments at K = 0.1, 1, 30, split at the kink",
                "at most",
            )
        )
    return found


def duals() -> list[Check]:
    """Kernels of pairs of inputs against closed forms."""
    found = []
    for name in ("relu", "erf", "sin"):
        closed, act = dual_activation(name), activation(name)
        worst = 0.0
        for a, b, c in ((1.0, 1.0, 0.3), (0.5, 2.0, -0.7), (1.5, 1.5, 1.4)):
            K = torch.tensor([[a, c], [c, b]], dtype=torch.float64)
            for what, f in (("value", act.sigma), ("slope", act.dsigma)):

                def product(u: Tensor, v: Tensor, f: object = f) -> Tensor:
                    return f(u) * f(v)  # type: ignore[operator]

                numbers = {closed["a"]: a, closed["b"]: b, closed["c"]: c}
                exact = float(closed[what].subs(numbers))
                worst = max(worst, abs(gaussian_expectation(product, K) - exact))
        found.append(
            Check(
                f"<s s> and <d d> of {name} are the dual activation and its derivative (Price): largest error",
                1e-10,
                worst,
                "three covariances, quadrature in two dimensions against sympy's closed form",
                "at most",
            )
        )
    return found


def critical_points() -> list[Check]:
    """Half-stable points against K* = (3 + sqrt 17)/2 and published digits."""
    gelu, swish = critical_point("gelu"), critical_point("swish")
    pairs = [
        ("gelu, K*", (3.0 + math.sqrt(17.0)) / 2.0, gelu.K_star, 1e-9),
        ("gelu, C_W", 1.98305826, gelu.C_W, 1e-8),
        ("gelu, C_b", 0.17292239, gelu.C_b, 1e-8),
        ("swish, C_W", 1.988005, swish.C_W, 1e-6),
        ("swish, C_b", 0.55514, swish.C_b, 1e-5),
    ]
    return [
        Check(
            f"critical initialisation of {name}",
            predicted,
            measured,
            "chi_par = chi_perp = 1 by quadrature and root finding; to the digits that are known",
            low=measured - digits,
            high=measured + digits,
        )
        for name, predicted, measured, digits in pairs
    ]


def deep_tanh(depth: int = 400) -> list[Check]:
    """Kernel and vertex of a deep network of the class of tanh against sympy's coefficients."""
    exact = symbolic_coefficients("tanh")
    last = fluctuation_recursion("tanh", [1, *[64] * depth], 0.0, 1.0, 1.0, 1.0)[-1]
    how = f"tanh, L = {depth}, recursion by quadrature; corrections are O(log(L)/L)"
    slack = math.log(depth) / depth
    ratio, slope = -last.K * float(exact["a_1"]) * depth, last.V / last.K**2 / depth
    return [
        Check("K ~ 1/(-a_1 l): ratio", 1.0, ratio, how, low=ratio - slack, high=ratio + slack),
        Check("V/K^2 ~ (2/3) l: slope", float(exact["V_slope"]), slope, how, low=slope - slack, high=slope + slack),
    ]


def off_criticality(depth: int = 30) -> list[Check]:
    """Growth and decay of the kernel away from criticality."""
    found = []
    for C_W in (1.8, 2.2):
        kernels = kernel_recursion("relu", depth, 0.0, C_W, 1.0)
        rate = float(np.polyfit(np.arange(depth), np.log(np.array(kernels, dtype=float)), 1)[0])
        chi = math.log(C_W / 2.0)
        found.append(
            Check(
                f"K grows or fades as chi^l, relu at C_W = {C_W}: rate over log chi",
                1.0,
                rate / chi,
                f"L = {depth}, recursion",
                low=rate / chi - 1e-10,
                high=rate / chi + 1e-10,
            )
        )
    return found


def exact_vertex(seed: int, nets: int = 40_000) -> list[Check]:
    """The vertex of ReLU networks at any width, which is known exactly."""
    exact = solve_scale_invariant(1, 0)
    found = []
    for n in (8, 16, 32):
        kernels = sample_kernels([8, *[n] * 5], "relu", 0.0, 2.0, 1.0, nets, seed)
        measured = vertex(kernels[:, 4], n)
        predicted = float(exact["V_exact"].subs({exact["l"]: 5, exact["n"]: n, exact["K"]: 2}))
        found.append(
            Check(
                f"V = n K^2 ((1 + 5/n)^(l - 1) - 1) of relu networks of width {n}, exactly",
                predicted,
                measured.value,
                f"l = 5, {nets} networks, C_W = 2",
                low=measured.value - ERRORS * measured.error,
                high=measured.value + ERRORS * measured.error,
            )
        )
    return found


def second_layer(seed: int, n: int = 32, nets: int = 4000) -> list[Check]:
    """Fluctuations of the tangent kernel where the leading order is exact."""
    found = []
    for act in ("relu", "tanh"):
        C_W = 2.0 if act == "relu" else 1.0
        theory = fluctuation_recursion(act, [8, n, n], 0.0, C_W, 1.0, 1.0)[1]
        sample = sample_fluctuations([8, n, n], act, 0.0, C_W, torch.ones(8), nets, seed)[1]
        for what in ("A", "B", "D", "F"):
            measured = getattr(sample, what)
            found.append(
                Check(
                    f"{what} of the second layer, {act}: fluctuations of the tangent kernel",
                    getattr(theory, what),
                    measured.value,
                    f"n = {n}, {nets} networks, all pairs of neurons",
                    low=measured.value - ERRORS * measured.error,
                    high=measured.value + ERRORS * measured.error,
                )
            )
    return found


def unequal_widths(seed: int, nets: int = 100_000) -> Check:
    """Factors n_l/n_(l-1) of the vertex recursion."""
    widths = [8, 160, 640, 320, 8]
    theory = fluctuation_recursion("relu", widths, 0.0, 2.0, 1.0, 1.0)[3]
    kernels = sample_kernels(widths, "relu", 0.0, 2.0, 1.0, nets // 4, seed)
    measured = vertex(kernels[:, 3], widths[3])
    # What is left out is of relative order 5/n in each layer.
    slack = 2.0 * 5.0 / min(widths[1:4]) * theory.V
    return Check(
        "V of widths 160, 640, 320: each layer brings its own 1/n",
        theory.V,
        measured.value,
        f"relu, l = 4, {nets // 4} networks, in units of the last width",
        low=measured.value - ERRORS * measured.error - slack,
        high=measured.value + ERRORS * measured.error + slack,
    )


def residual(seed: int, n: int = 128, depth: int = 9, nets: int = 20_000) -> list[Check]:
    """Growth of the vertex with residual connections z' = xi + gamma z, C_W A_2 = 1 - gamma^2, for linear networks.

    Given a layer, xi is Gaussian with independent neurons: drawing it so is exact in law.
    """
    found = []
    for gamma in (0.0, 0.6):
        rng = np.random.default_rng([seed, int(10 * gamma)])
        z = rng.standard_normal((nets, n))
        layers, ratios, errors = [], [], []
        for layer in range(1, depth):
            spread = (1.0 - gamma**2) * np.square(z).mean(1, keepdims=True)
            z = gamma * z + np.sqrt(spread) * rng.standard_normal((nets, n))
            square = np.square(z)
            mean = square.mean(1)
            pairs = (square.sum(1) ** 2 - np.square(square).sum(1)) / (n * (n - 1))
            ratio = estimate(pairs, mean, mean)
            layers.append(layer)
            ratios.append(n * ratio.value / float(mean.mean()) ** 2)
            errors.append(n * ratio.error / float(mean.mean()) ** 2)
        weights = np.array(layers) / np.square(layers).sum()
        rate = float(weights @ np.array(ratios))
        # Layers share their networks: their errors add up at worst; what is left out is of relative order nu L/(2 n).
        error = ERRORS * float(weights @ np.array(errors)) + vertex_rate("linear", gamma) ** 2 * depth / (2.0 * n)
        found.append(
            Check(
                f"V/(n K^2) = nu(gamma) L/n of residual linear networks, gamma = {gamma}: rate",
                vertex_rate("linear", gamma),
                rate,
                f"n = {n}, {depth - 1} layers, {nets} networks",
                low=rate - error,
                high=rate + error,
            )
        )
    return found

"""Kernels, tangent kernels and fluctuations: closed solutions, symmetries, and widths that differ."""

import math

import pytest
import torch

from holonomy.theory.activations import activation, leaky_relu, monomial
from holonomy.theory.deep_learning_theory import (
    critical_point,
    fluctuation_recursion,
    kernel_recursion,
    ntk_recursion,
    susceptibilities,
    vertex_recursion,
)
from holonomy.theory.ntk import fc_kernels


def test_relu_at_criticality_has_the_closed_solutions() -> None:
    stats = fluctuation_recursion("relu", [8, *[64] * 8], 0.0, 2.0, 1.0, 1.0)
    for layer, s in enumerate(stats, 1):
        assert pytest.approx(2.0, rel=1e-13) == s.K
        assert s.Theta == pytest.approx(2.0 * layer, rel=1e-12)
        assert pytest.approx(20.0 * (layer - 1), rel=1e-12) == s.V
        assert pytest.approx(4.0 * layer * (layer - 1), rel=1e-12) == s.F
        assert pytest.approx(8.0 * (layer - 1) * layer * (2 * layer - 1) / 6, rel=1e-12) == s.B
    assert [round(s.A, 9) for s in stats[1:5]] == [13.0, 61.0, 166.0, 350.0]
    assert [round(s.D, 9) for s in stats[1:5]] == [14.0, 42.0, 84.0, 140.0]


def test_tanh_has_the_published_numbers() -> None:
    stats = fluctuation_recursion("tanh", [8, *[64] * 5], 0.0, 1.0, 1.0, 1.0)[1:]
    table = {
        "K": (0.3943, 0.2365, 0.1667, 0.1279),
        "V": (0.0975, 0.0678, 0.0502, 0.0394),
        "F": (0.150, 0.209, 0.259, 0.306),
        "A": (0.169, 0.459, 0.987, 1.845),
    }
    for name, values in table.items():
        # To the digits that are known.
        assert [getattr(s, name) for s in stats] == pytest.approx(values, abs=6e-4 if name in "FA" else 1.5e-4)


def test_each_layer_brings_its_own_width() -> None:
    """For linear networks V/n_(l-1) is K^2 sum 2/n_k, whatever the order of the widths."""
    widths = [4, 16, 64, 32, 5]
    stats = fluctuation_recursion("linear", widths, 0.0, 1.0, 1.0, 1.0)
    for layer, s in enumerate(stats):
        wanted = sum(2.0 / n for n in widths[1 : layer + 1])
        assert s.V / widths[layer] == pytest.approx(wanted, rel=1e-12)


def test_kernels_of_several_inputs_are_those_of_relu_networks() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernels = kernel_recursion("relu", 3, 0.1, 1.8, x @ x.mT / 4.0)
    tangents = ntk_recursion("relu", 3, 0.1, 1.8, x @ x.mT / 4.0, lambda_b=0.1, lambda_W=1.8)
    nngp, ntk = fc_kernels(x, depth=2, sigma_w2=1.8, sigma_b2=0.1)
    assert torch.allclose(kernels[-1], nngp, rtol=1e-9)  # type: ignore[arg-type]
    assert torch.allclose(tangents[-1], ntk, rtol=1e-9)  # type: ignore[arg-type]
    for matrix in (kernels[-1], tangents[-1]):
        assert float(torch.linalg.eigvalsh(matrix).min()) > 0.0  # type: ignore[arg-type]
    order = torch.tensor([2, 0, 1])
    turned = kernel_recursion("relu", 3, 0.1, 1.8, (x @ x.mT / 4.0)[order][:, order])
    assert torch.allclose(turned[-1], kernels[-1][order][:, order], rtol=1e-9)  # type: ignore[index, arg-type]
    assert kernel_recursion("relu", 3, 0.1, 1.8, 1.0)[0] == pytest.approx(1.9)


@pytest.mark.parametrize("act", ["relu", "tanh"])
def test_the_vertex_of_two_inputs(act: str) -> None:
    """On one input that of `fluctuation_recursion`; across inputs the covariance of kernels over networks."""
    C_W, widths = (2.0 if act == "relu" else 1.0), [4, 60, 120, 60, 8]
    K0 = torch.tensor([[1.0, 0.4], [0.4, 1.5]], dtype=torch.float64)
    layers = vertex_recursion(act, widths, 0.0, C_W, K0)
    single = fluctuation_recursion(act, widths, 0.0, C_W, 1.0, 1.0, x_norm2=1.5)
    for (G, V), s in zip(layers, single, strict=True):
        assert float(G[1, 1]) == pytest.approx(s.K, rel=1e-9)
        assert float(V[1, 1, 1, 1]) == pytest.approx(s.V, rel=1e-7, abs=1e-9)
        for order in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
            assert torch.allclose(V.permute(order), V, atol=1e-9)
    generator, nets = torch.Generator().manual_seed(0), 20_000
    kernels = (C_W * K0).expand(nets, 2, 2)
    for n in widths[1:-1]:
        factor = torch.linalg.cholesky(kernels)
        z = factor @ torch.randn(nets, 2, n, dtype=torch.float64, generator=generator)
        s = activation(act).sigma(z)
        kernels = C_W * s @ s.mT / n
    pairs = kernels[:, (0, 0, 1), (0, 1, 1)]
    centred = pairs - pairs.mean(0)
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    measured, error = widths[-2] * products.mean(0), widths[-2] * products.std(0) / nets**0.5
    V = layers[-1][1]
    wanted = torch.stack([V[i, j][(0, 0, 1), (0, 1, 1)] for i, j in ((0, 0), (0, 1), (1, 1))])
    # Four standard errors, and the next order of some 5/n in each of three layers.
    assert bool(((measured - wanted).abs() < 4.0 * error + 0.2 * wanted.abs()).all())
    assert bool((wanted.abs() > 8.0 * error).any())


@pytest.mark.slow
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_the_vertex_of_some_inputs_is_part_of_that_of_more(act: str) -> None:
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    K0, widths = x @ x.mT / 6.0, [6, 30, 40, 8]
    whole = vertex_recursion(act, widths, 0.1, 1.7, K0)
    for chosen in ([2], [0, 3], [3, 1], [1, 0, 2]):
        index = torch.tensor(chosen)
        part = vertex_recursion(act, widths, 0.1, 1.7, K0[index][:, index])
        for (G, V), (g, v) in zip(whole, part, strict=True):
            # Five digits of the quadrature over four numbers, three layers deep.
            torch.testing.assert_close(G[index][:, index], g, rtol=1e-4, atol=0)
            inner = V[index][:, index][:, :, index][:, :, :, index]
            torch.testing.assert_close(inner, v, rtol=1e-3, atol=1e-3)
    V = whole[-1][1]
    for order in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
        assert torch.allclose(V.permute(order), V, atol=1e-9)
    assert float((V[0, 1, 2, 3] - V[0, 2, 1, 3]).abs()) > 1e-3  # pairs are not exchangeable


def test_h_is_the_derivative_of_chi_perp() -> None:
    step = 1e-4
    for act in ("tanh", "gelu", "sin"):
        low, high = (susceptibilities(act, 1.0 + s, 1.3)[1] for s in (-step, step))
        assert susceptibilities(act, 1.0, 1.3)[2] == pytest.approx((high - low) / (2 * step), rel=1e-6)


def test_critical_points() -> None:
    for act, C_b, C_W, K in (
        ("relu", 0.0, 2.0, math.nan),
        ("linear", 0.0, 1.0, math.nan),
        ("tanh", 0.0, 1.0, 0.0),
        ("sin", 0.0, 1.0, 0.0),
        ("gelu", 0.17292239, 1.98305826, (3.0 + 17.0**0.5) / 2.0),
        ("swish", 0.55514317, 1.98800468, 14.32017362),
    ):
        found = critical_point(act)
        assert (found.C_b, found.C_W) == pytest.approx((C_b, C_W), abs=1e-7)
        assert found.K_star == pytest.approx(K, rel=1e-7, nan_ok=True)
    gelu = critical_point("gelu")
    assert susceptibilities("gelu", gelu.K_star, gelu.C_W)[:2] == pytest.approx((1.0, 1.0), abs=1e-10)
    assert kernel_recursion("gelu", 2, gelu.C_b, gelu.C_W, (gelu.K_star - gelu.C_b) / gelu.C_W)[1] == pytest.approx(
        gelu.K_star, rel=1e-10
    )
    for name in ("sigmoid", "softplus", monomial(2), monomial(3)):
        assert critical_point(name).universality_class == "none"
        with pytest.raises(ValueError, match="has no critical initialisation"):
            critical_point(name, strict=True)
    assert pytest.approx(2.0 / 1.01) == critical_point(leaky_relu(0.1)).C_W


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernel_recursion("relu", 0, 0.0, 2.0, 1.0), "'depth' must be at least 1"),
        (lambda: kernel_recursion("relu", 1, -1.0, 2.0, 1.0), "C_b >= 0"),
        (lambda: kernel_recursion("relu", 1, 0.0, 0.0, 1.0), "C_W > 0"),
        (lambda: kernel_recursion("relu", 1, 0.0, 2.0, -1.0), "'K0' must be at least 0"),
        (lambda: vertex_recursion("relu", [4], 0.0, 2.0, torch.eye(2)), "'widths'"),
        (lambda: vertex_recursion("relu", [4, 4], 0.0, 2.0, torch.ones(2, 2)), "regular"),
        (lambda: susceptibilities("relu", 0.0, 2.0), "'K' must be positive"),
        (lambda: fluctuation_recursion("relu", [4], 0.0, 2.0, 1.0, 1.0), "'widths'"),
        (lambda: fluctuation_recursion("relu", [4, 0], 0.0, 2.0, 1.0, 1.0), "'widths'"),
        (
            lambda: fluctuation_recursion("relu", [4, 4], 0.0, 2.0, [1.0, 1.0], 1.0),
            "'lambda_b' must be one number or 1",
        ),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

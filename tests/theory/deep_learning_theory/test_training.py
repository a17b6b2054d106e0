"""Training at infinite width, critical networks, rates and shapes."""

import math

import pytest
import torch

from holonomy.theory.deep_learning_theory import (
    CriticalMLP,
    infinite_width_predict,
    layer_rates,
    nngp_posterior,
    ntk_recursion,
    optimal_aspect_ratio,
    vertex_rate,
)

DOUBLE = torch.float64


def kernels(n: int = 5, m: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a = torch.randn(n + m, n + m, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    K = a @ a.mT / (n + m) + 0.1 * torch.eye(n + m, dtype=DOUBLE)
    return K[:n, :n], K[n:, :n], K[n:, n:]


def test_predictions_are_those_of_gradient_descent_on_outputs() -> None:
    train, cross, _ = kernels()
    y, f, g = (torch.randn(k, 2, dtype=DOUBLE) for k in (5, 5, 3))
    start, eta = (f.clone(), g.clone()), 0.2
    for _ in range(7):
        f, g = f - eta * train @ (f - y), g - eta * cross @ (f - y)
    assert torch.allclose(infinite_width_predict(train, cross, y, 7, eta, start), g, atol=1e-12)
    ends = infinite_width_predict(train, cross, y)
    assert torch.allclose(ends, cross @ torch.linalg.solve(train, y), atol=1e-10)
    assert torch.allclose(infinite_width_predict(train, train, y[:, 0]), y[:, 0], atol=1e-10)
    assert torch.equal(infinite_width_predict(train, cross, y, 0, eta), torch.zeros(3, 2, dtype=DOUBLE))


def test_the_posterior_is_gaussian_conditioning() -> None:
    train, cross, test = kernels()
    y = torch.randn(5, dtype=DOUBLE)
    mean, covariance = nngp_posterior(train, cross, test, y)
    whole = torch.cat([torch.cat([train, cross.mT], 1), torch.cat([cross, test], 1)])
    precision = torch.linalg.inv(whole)[5:, 5:]
    assert torch.allclose(covariance, torch.linalg.inv(precision), atol=1e-10)
    assert torch.allclose(mean, cross @ torch.linalg.solve(train, y), atol=1e-12)


def test_wide_networks_train_as_predicted() -> None:
    """One step of gradient descent on a wide network moves its outputs by the mean tangent kernel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, dtype=DOUBLE, generator=generator)
    y = torch.randn(3, 1, dtype=DOUBLE, generator=generator)
    theta = ntk_recursion("relu", 3, 0.0, 2.0, x @ x.mT / 4.0)[-1]
    net = CriticalMLP([4, 600, 600, 1], "relu", generator=generator, dtype=DOUBLE)
    before, eta = net(x).detach(), 1e-4
    optimizer = torch.optim.SGD(net.param_groups(eta))
    (0.5 * (net(x) - y).square().sum()).backward()
    optimizer.step()
    moved = (net(x).detach() - before) / eta
    wanted = -theta @ (before - y)  # type: ignore[operator]
    # Fluctuations of the tangent kernel of some sqrt(B/n) = 10 %.
    assert float((moved - wanted).norm() / wanted.norm()) < 0.2


def test_networks_are_initialised_as_asked() -> None:
    net = CriticalMLP([400, 500, 3], "gelu", generator=torch.Generator().manual_seed(0))
    assert float(net.layers[0].weight.var()) * 400 == pytest.approx(1.98305826, rel=0.02)  # type: ignore[operator, union-attr]
    assert float(net.layers[0].bias.var()) == pytest.approx(0.17292239, rel=0.3)  # type: ignore[operator, union-attr]
    groups = net.param_groups(0.1, 2.0, [3.0, 5.0])
    assert [g["lr"] for g in groups] == pytest.approx([0.2, 0.1 * 3 / 400, 0.2, 0.1 * 5 / 500])


def test_rates_give_every_layer_its_part() -> None:
    assert layer_rates("relu", 4) == ([0.25] * 4, [0.25] * 4)
    biases, weights = layer_rates("tanh", 50)
    assert biases == pytest.approx([1.0 / k for k in range(1, 51)])
    assert weights == pytest.approx([1.0] * 50)
    # Contributions lambda_b chi^(L-l) ~ lambda_b l/L of biases in the tangent kernel are alike.
    parts = [b * k for k, b in enumerate(biases, 1)]
    assert max(parts) / min(parts) == pytest.approx(1.0)


def test_vertex_rates_and_aspect_ratios() -> None:
    assert vertex_rate("relu") == pytest.approx(5.0)
    assert vertex_rate("linear") == pytest.approx(2.0)
    assert vertex_rate("tanh") == pytest.approx(2.0 / 3.0)
    assert vertex_rate("relu", 0.999) < 0.02
    assert optimal_aspect_ratio("relu", 1) == pytest.approx(4.0 / 23.0 / 5.0)
    assert optimal_aspect_ratio("relu", 1, 0.9) > optimal_aspect_ratio("relu", 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CriticalMLP([4], "relu"), "'widths'"),
        (lambda: CriticalMLP([4, 2], "sigmoid"), "no critical initialisation"),
        (lambda: CriticalMLP([4, 2], "relu", 0.0, -1.0), "C_W > 0"),
        (lambda: CriticalMLP([4, 2], "relu").param_groups(0.1, [1.0, 1.0]), "'lambda_b' must be one number or 1"),
        (lambda: infinite_width_predict(torch.ones(2, 2), torch.ones(1, 2), torch.ones(2)), "singular"),
        (lambda: infinite_width_predict(torch.eye(2), torch.ones(1, 3), torch.ones(2)), "wanted"),
        (lambda: infinite_width_predict(torch.eye(2), torch.ones(1, 2), torch.ones(2), -1), "t >= 0"),
        (
            lambda: infinite_width_predict(torch.eye(2), torch.ones(1, 2), torch.ones(2), 5, 3.0),
            "'eta' must be",
        ),
        (lambda: layer_rates("gelu", 3), "scale invariant or"),
        (lambda: layer_rates("relu", 0), "'depth' must be at least 1"),
        (lambda: vertex_rate("relu", 1.0), "'gamma'"),
        (lambda: vertex_rate("gelu"), "no closed rate"),
        (lambda: optimal_aspect_ratio("relu", 0), "'n_out'"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]


def test_ntk_of_one_input_grows_with_depth() -> None:
    assert ntk_recursion("relu", 4, 0.0, 2.0, 1.0) == pytest.approx([2.0, 4.0, 6.0, 8.0])
    assert math.isclose(ntk_recursion("linear", 3, 0.0, 1.0, 1.0, 0.0, 1.0)[-1], 3.0)  # type: ignore[arg-type]

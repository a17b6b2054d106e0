"""Arc-cosine kernels, kernels of wide networks, empirical kernels, regression."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holonomy.theory.ntk import KernelRegressor, empirical_ntk, fc_kernels, k0, k1, kernel_regression

DOUBLE = torch.float64
METHODS = ("jacobian", "products", "structured")


def exact(t: float) -> tuple[float, float]:
    with mpmath.workdps(40):
        angle = mpmath.acos(mpmath.mpf(t))
        zero = (mpmath.pi - angle) / mpmath.pi
        return float(zero), float((mpmath.mpf(t) * (mpmath.pi - angle) + mpmath.sin(angle)) / mpmath.pi)


def test_values_agree_with_mpmath_up_to_the_ends() -> None:
    for t in (-1.0, -1.0 + 1e-12, -0.7, 0.0, 0.3, 1.0 - 1e-6, 1.0 - 1e-15, 1.0):
        zero, one = exact(t)
        x = torch.tensor(t, dtype=DOUBLE)
        # A few roundings of numbers up to 1.
        assert float(k0(x)) == pytest.approx(zero, abs=4e-16)
        assert float(k1(x)) == pytest.approx(one, abs=4e-16)
    assert float(k1(torch.tensor(0.0, dtype=DOUBLE))) == pytest.approx(1.0 / math.pi)


def test_cosines_beyond_the_ends_count_as_ends() -> None:
    t = torch.tensor([1.0 + 1e-9, -1.0 - 1e-9], dtype=DOUBLE)
    assert k1(t).tolist() == [1.0, 0.0]
    assert k0(t).tolist() == [1.0, 0.0]


def test_derivatives() -> None:
    t = torch.linspace(-0.99, 0.99, 9, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(k0, t, check_forward_ad=True)
    assert torch.autograd.gradcheck(k1, t, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(k1, t)
    ends = torch.tensor([-1.0, 1.0], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.grad(k1(ends).sum(), ends)[0].tolist() == [0.0, 1.0]
    assert bool(torch.isfinite(torch.autograd.grad(k0(ends).sum(), ends)[0]).all())


def test_kernels_are_means_over_random_relus() -> None:
    """10^6 Gaussian weights: 4 standard errors of their means."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.tensor([1.0, 0.0], dtype=DOUBLE), torch.tensor([0.6, 0.8], dtype=DOUBLE)
    w = torch.randn(10**6, 2, dtype=DOUBLE, generator=generator)
    products = 2.0 * (w @ x).relu() * (w @ y).relu()
    steps = 2.0 * ((w @ x > 0) & (w @ y > 0)).double()
    for samples, kernel in ((products, k1), (steps, k0)):
        error = float(samples.std()) / 1e3
        assert abs(float(samples.mean()) - float(kernel(x @ y))) < 4.0 * error


class Wide(nn.Module):
    """ReLU network in the NTK parametrisation: weights of variance 1, scaled by sqrt(sigma_w2 / fan-in)."""

    def __init__(self, sizes: list[int], sigma_w2: float, sigma_b2: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(m, n, generator=generator) for n, m in itertools.pairwise(sizes)])
        self.biases = nn.ParameterList([torch.randn(m, generator=generator) for m in sizes[1:]])
        self.scales = sigma_w2**0.5, sigma_b2**0.5

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.scales
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (x.relu() if k else x) @ weight.mT * (w / weight.shape[1] ** 0.5) + b * bias
        return x


@pytest.mark.parametrize("sigma_b2", [0.0, 0.3])
def test_fully_connected_kernels_are_the_limit_of_wide_networks(sigma_b2: float) -> None:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(4, 5, generator=generator)
    nngp, ntk = fc_kernels(X, depth=2, sigma_w2=1.8, sigma_b2=sigma_b2)
    outputs, kernels = [], []
    for _ in range(20):
        model = Wide([5, 512, 512, 1024], 1.8, sigma_b2, generator)
        z = model(X).detach()
        outputs.append(z @ z.mT / z.shape[1])
        small = Wide([5, 512, 512, 1], 1.8, sigma_b2, generator)
        kernels.append(empirical_ntk(small, X))
    for samples, limit in ((outputs, nngp), (kernels, ntk)):
        nets = torch.stack(samples)
        error = nets.std(0) / len(nets) ** 0.5
        # The mean of finite networks is off by O(1/512), and four standard errors by chance.
        assert bool(((nets.mean(0) - limit).abs() < 4.0 * error + limit.max() / 256).all())
        assert bool((error < 0.05 * limit.max()).all())


def test_fully_connected_kernels_of_unit_inputs() -> None:
    X = nn.functional.normalize(torch.randn(6, 4, dtype=DOUBLE), dim=1) * 2.0
    nngp, ntk = fc_kernels(X, depth=3)
    assert nngp.diagonal().tolist() == pytest.approx([2.0] * 6)
    assert ntk.diagonal().tolist() == pytest.approx([2.0 * 4] * 6)
    assert float(torch.linalg.eigvalsh(ntk).min()) > 0.0
    linear, same = fc_kernels(X, depth=0)
    assert torch.equal(linear, same)
    assert torch.allclose(linear, 2.0 * X @ X.mT / 4)
    zero = torch.zeros(1, 4, dtype=DOUBLE)
    assert fc_kernels(zero, X)[1].tolist() == [[0.0] * 6]


# -- empirical kernels ---------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Linear layers over sequences, one of them tied, one run twice, and layers of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.norm = nn.LayerNorm(5)
        self.again = nn.Linear(5, 5)
        self.mix = nn.Conv1d(4, 2, 1)
        self.tied, self.other = nn.Linear(5, 5), nn.Linear(5, 5)
        self.other.weight = self.tied.weight
        self.out = nn.Linear(10, 2, bias=False)
        self.register_buffer("shift", torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.embed(x)) + self.shift
        h = self.again(torch.tanh(self.again(h)))
        h = self.other(torch.tanh(self.tied(h)))
        return self.out(self.mix(torch.tanh(h)).flatten(1))


def by_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The definition, one output at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(one: Tensor) -> Tensor:
        value = model(one.unsqueeze(0)).reshape(-1)
        rows = [torch.autograd.grad(v, parameters, retain_graph=True, allow_unused=True) for v in value]
        return torch.stack(
            [
                torch.cat(
                    [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(row, parameters, strict=True)]
                )
                for row in rows
            ]
        )

    a, b = (torch.stack([gradient(one) for one in batch]) for batch in (x, y))
    return torch.einsum("nip,mjp->nmij", a, b)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [None, 2])
def test_every_method_is_the_definition(method: str, block: int | None) -> None:
    model = Mixed().double()
    model.embed.bias.requires_grad_(False)
    x, y = torch.randn(5, 4, 3, dtype=DOUBLE), torch.randn(3, 4, 3, dtype=DOUBLE)
    wanted = by_gradients(model, x, y)
    found = empirical_ntk(model, x, y, method=method, trace=False, block=block)  # type: ignore[arg-type]
    assert found.shape == (5, 3, 2, 2)
    # Sums of some hundred products.
    assert float((found - wanted).abs().max()) < 1e-13 * float(wanted.abs().max())
    mean = empirical_ntk(model, x, y, method=method, block=block)  # type: ignore[arg-type]
    assert torch.allclose(mean, wanted.diagonal(dim1=2, dim2=3).mean(-1))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_has_the_kernel_of_its_inputs(method: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).double()
    x = torch.randn(6, 2, 2, dtype=DOUBLE)
    found = empirical_ntk(model, x, method=method)  # type: ignore[arg-type]
    assert torch.allclose(found, x.flatten(1) @ x.flatten(1).mT + 1.0)


# -- regression ----------------------------------------------------------------------------------------------------


def test_regression_interpolates_and_shrinks() -> None:
    X, y = torch.randn(20, 3, dtype=DOUBLE), torch.randn(20, 2, dtype=DOUBLE)
    model = KernelRegressor(lambda a, b: fc_kernels(a, b, 1)[1]).fit(X, y)
    assert torch.allclose(model.predict(X), y, atol=1e-8)
    K = fc_kernels(X, X, 1)[1]
    found = kernel_regression(K, y, 0.5)
    assert torch.allclose(found, torch.linalg.solve(K + 0.5 * torch.eye(20, dtype=DOUBLE), y))
    assert kernel_regression(K, y[:, 0], 0.5).shape == (20,)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: k0(torch.tensor([1])), TypeError, "'t' must be a tensor of a real floating dtype, got torch.int64"),
        (lambda: k1(0.5), TypeError, "got float"),
        (lambda: fc_kernels(torch.ones(2, 3), torch.ones(2, 4)), ValueError, r"'Y' must be \(n, 3\), got \(2, 4\)"),
        (lambda: fc_kernels(torch.ones(2, 3), depth=-1), ValueError, "'depth' must be at least 0, got -1"),
        (lambda: fc_kernels(torch.ones(2, 3), sigma_w2=0.0), ValueError, "sigma_w2 > 0"),
        (lambda: fc_kernels(torch.ones(2, 3), sigma_b2=-1.0), ValueError, "sigma_b2 >= 0"),
        (lambda: empirical_ntk(lambda x: x, torch.ones(2, 3)), TypeError, "must be an nn.Module, got function"),
        (lambda: empirical_ntk(nn.Identity(), torch.ones(2, 3)), TypeError, "no parameters that require gradients"),
        (lambda: empirical_ntk(nn.Linear(3, 1), torch.ones(2, 3), method="fast"), ValueError, "got 'fast'"),
        (lambda: empirical_ntk(nn.Linear(3, 1), torch.ones(2, 3), block=0), ValueError, "'block' must be at least 1"),
        (lambda: kernel_regression(torch.ones(2, 3), torch.ones(2)), ValueError, r"got \(2, 3\) and \(2,\)"),
        (lambda: kernel_regression(torch.eye(2), torch.ones(2), -1.0), ValueError, "'ridge' must be at least 0"),
        (lambda: kernel_regression(torch.ones(2, 2), torch.ones(2)), ValueError, "equal inputs need a ridge"),
        (lambda: kernel_regression(torch.eye(2), torch.ones(2, dtype=torch.int64)), TypeError, "'y'"),
        (lambda: KernelRegressor(torch.matmul).predict(torch.ones(2, 3)), RuntimeError, "call fit before predict"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]


def test_coefficients_are_those_of_gradient_descent_at_its_end() -> None:
    """Training f(x) = K c by gradient descent on the values ends where the regression is."""
    X, y = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, dtype=DOUBLE)
    K = fc_kernels(X, X, 1)[1]
    coefficients, rate = torch.zeros(5, dtype=DOUBLE), 1.0 / float(torch.linalg.eigvalsh(K).max())
    for _ in range(20_000):
        coefficients += rate * (y - K @ coefficients)
    np.testing.assert_allclose(coefficients.numpy(), kernel_regression(K, y).numpy(), rtol=1e-6)

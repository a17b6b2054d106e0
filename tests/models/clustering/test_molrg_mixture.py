"""The mixture against scipy's normal laws, brute-force integrals, autograd and the formula of equal ranks."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from holonomy.models.clustering.molrg_diffusion import MoLRG, MoLRGDenoiser, VESchedule, VPSchedule, random_molrg

F64 = torch.float64
TIMES = [(0.9, 0.3), (1.0, 1e-3), (0.3, 0.95), (1.0, 40.0)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(noise: float = 0.2) -> MoLRG:
    """Ranks 1, 3 and 2 in R^6, with means and variances of their own."""
    rng = seeded(3)
    bases = [torch.linalg.qr(torch.randn(6, d, dtype=F64, generator=rng))[0] for d in (1, 3, 2)]
    means = 0.5 * torch.randn(3, 6, dtype=F64, generator=rng)
    variances = [0.5 + torch.rand(d, dtype=F64, generator=rng) for d in (1, 3, 2)]
    return MoLRG(bases, torch.tensor([0.2, 0.5, 0.3], dtype=F64), means, variances, noise)


def dense(m: MoLRG, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a component of x_0."""
    u, d = m.bases[k], m.dims[k]
    covariance = u[:, :d] @ torch.diag(m.eigvals[k, :d]) @ u[:, :d].mT + m.noise**2 * torch.eye(6, dtype=F64)
    return m.means[k].numpy(), covariance.numpy()


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize(("s", "g"), TIMES)
def test_density_and_posterior_are_those_of_dense_normal_laws(s: float, g: float, noise: float) -> None:
    m = mixture(noise)
    x = s * m.sample(40, seeded())[0] + g * torch.randn(40, 6, dtype=F64, generator=seeded(1))
    logs, conditional = [], []
    for k in range(3):
        mean, covariance = dense(m, k)
        seen = s**2 * covariance + g**2 * np.eye(6)
        logs.append(multivariate_normal(s * mean, seen).logpdf(x.numpy()) + math.log(float(m.weights[k])))
        conditional.append(mean + s * (x.numpy() - s * mean) @ np.linalg.solve(seen, covariance))
    joint = torch.from_numpy(np.stack(logs, 1))
    # The dense inverse has a condition of 1/g^2 = 1e6 at worst.
    torch.testing.assert_close(m.log_prob_t(x, s, g), joint.logsumexp(1), rtol=1e-8, atol=1e-8)
    w = joint.softmax(1)
    torch.testing.assert_close(m.responsibilities(x, s, g), w, rtol=1e-7, atol=1e-9)
    wanted = (w.unsqueeze(-1) * torch.from_numpy(np.stack(conditional, 1))).sum(1)
    torch.testing.assert_close(m.posterior_mean(x, s, g), wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("s", "g"), TIMES)
def test_score_is_the_gradient_and_tweedies_formula(s: float, g: float) -> None:
    m = mixture()
    x = (s * m.sample(30, seeded())[0] + g * torch.randn(30, 6, dtype=F64, generator=seeded(1))).requires_grad_()
    (gradient,) = torch.autograd.grad(m.log_prob_t(x, s, g).sum(), x)
    score = m.score(x.detach(), s, g)
    size = float(score.abs().max())
    torch.testing.assert_close(score, gradient, rtol=0, atol=1e-12 * size)
    tweedie = (s * m.posterior_mean(x.detach(), s, g) - x.detach()) / g**2
    torch.testing.assert_close(score, tweedie, rtol=0, atol=1e-15 / g**2 * 100 + 1e-12 * size)  # a difference over g^2


def test_posterior_mean_is_a_brute_force_integral() -> None:
    """On a grid of a plane, and by importance weights of a million draws."""
    bases = torch.tensor([[[1.0], [0.0]], [[0.6], [0.8]]], dtype=F64)
    m = MoLRG(bases, torch.tensor([0.3, 0.7], dtype=F64), noise=0.15)
    x, s, g = torch.tensor([0.7, 0.5], dtype=F64), 0.8, 0.5
    axis = torch.linspace(-6.0, 6.0, 1601, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    # As s -> 1 and g -> 0 the density of x_t is that of x_0: the prior, by scipy.
    prior = sum(
        float(m.weights[k])
        * multivariate_normal([0.0, 0.0], (bases[k] @ bases[k].mT + 0.15**2 * torch.eye(2, dtype=F64)).numpy()).pdf(
            grid
        )
        for k in range(2)
    )
    weight = torch.from_numpy(prior) * torch.exp(-0.5 * (x - s * grid).square().sum(1) / g**2)
    wanted = (weight[:, None] * grid).sum(0) / weight.sum()
    torch.testing.assert_close(m.posterior_mean(x, s, g), wanted, rtol=1e-6, atol=1e-8)  # the grid's own error
    draws = m.sample(1_000_000, seeded())[0]
    weight = torch.exp(-0.5 * (x - s * draws).square().sum(1) / g**2)
    importance = (weight[:, None] * draws).sum(0) / weight.sum()
    torch.testing.assert_close(m.posterior_mean(x, s, g), importance, rtol=0.01, atol=0)


def test_one_component_is_the_wiener_filter_and_samples_have_its_covariance() -> None:
    m = random_molrg(8, 3, 1, noise=0.1, generator=seeded())
    covariance = m.bases[0] @ m.bases[0].mT + 0.01 * torch.eye(8, dtype=F64)
    x = torch.randn(20, 8, dtype=F64, generator=seeded(1))
    filtered = 0.7 * x @ torch.linalg.inv(0.49 * covariance + 0.36 * torch.eye(8, dtype=F64)) @ covariance
    torch.testing.assert_close(m.posterior_mean(x, 0.7, 0.6), filtered, rtol=1e-10, atol=1e-12)
    draws = m.sample(200_000, seeded())[0]
    torch.testing.assert_close(torch.cov(draws.mT), covariance, rtol=0, atol=0.015)  # five standard errors


def naive_weights(x: torch.Tensor, bases: list[torch.Tensor], pi: torch.Tensor, s: float, g: float) -> torch.Tensor:
    """The formula of equal ranks as it is written, without determinants."""
    phi = s**2 / (2 * g**2 * (s**2 + g**2))
    sizes = torch.stack([(x @ u).square().sum(1) for u in bases], 1)
    return torch.softmax(pi.log() + phi * sizes, 1)


def test_equal_ranks_have_the_short_formula_and_unequal_ones_do_not() -> None:
    pi = torch.tensor([0.3, 0.7], dtype=F64)
    x = torch.randn(50, 7, dtype=F64, generator=seeded())
    even = [torch.linalg.qr(torch.randn(7, 2, dtype=F64, generator=seeded(i)))[0] for i in (1, 2)]
    torch.testing.assert_close(
        MoLRG(even, pi).responsibilities(x, 0.8, 0.6), naive_weights(x, even, pi, 0.8, 0.6), rtol=1e-10, atol=1e-12
    )
    uneven = [even[0], torch.linalg.qr(torch.randn(7, 4, dtype=F64, generator=seeded(3)))[0]]
    gap = MoLRG(uneven, pi).responsibilities(x, 0.8, 0.6) - naive_weights(x, uneven, pi, 0.8, 0.6)
    assert float(gap.abs().max()) > 0.1
    net = MoLRGDenoiser(7, 2, 2, weights=pi, bases=torch.stack(even), dtype=F64)
    torch.testing.assert_close(net(x, 0.8, 0.6), MoLRG(even, pi).posterior_mean(x, 0.8, 0.6), rtol=1e-10, atol=1e-12)


def test_limits_of_little_and_much_noise() -> None:
    m = random_molrg(10, 2, 3, generator=seeded())
    x, labels = m.sample(60, seeded(1))
    weights = m.responsibilities(x, 1.0, 1e-7)  # phi of 5e13: unsafe exponents would overflow
    assert torch.equal(weights.argmax(1), labels)
    torch.testing.assert_close(weights.amax(1), torch.ones(60, dtype=F64))
    torch.testing.assert_close(m.posterior_mean(x, 1.0, 1e-7), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(m.responsibilities(x, 1.0, 1e6), m.weights.expand(60, 3), rtol=0, atol=1e-9)
    assert float(m.posterior_mean(x, 1.0, 1e6).abs().max()) < 1e-9
    assert bool(m.score(x, 1.0, 1e-7).isfinite().all())


def test_single_points_levels_by_point_and_dtypes() -> None:
    m = mixture()
    x = torch.randn(5, 6, dtype=F64, generator=seeded())
    s, g = torch.linspace(0.2, 1.0, 5, dtype=F64), torch.linspace(0.5, 2.0, 5, dtype=F64)
    for method in (m.posterior_mean, m.score, m.log_prob_t, m.responsibilities):
        batch = method(x, s, g)
        for i in range(5):
            torch.testing.assert_close(method(x[i], float(s[i]), float(g[i])), batch[i])
    small = MoLRG(m.bases[:, :, :1].float(), noise=0.2)
    assert small.posterior_mean(x.float(), 0.9, 0.3).dtype == torch.float32
    assert small.posterior_mean(x.half(), 0.9, 0.3).dtype == torch.float32
    big = MoLRG(m.bases[:, :, :1], noise=0.2)
    torch.testing.assert_close(
        small.score(x.float(), 0.9, 0.3).double(), big.score(x, 0.9, 0.3), rtol=1e-4, atol=1e-4
    )  # float32


@pytest.mark.parametrize("schedule", [VPSchedule(), VESchedule()])
def test_schedules(schedule: VPSchedule | VESchedule) -> None:
    t = torch.linspace(1e-6, 1.0, 200, dtype=F64)
    s, g = schedule.coefficients(t)
    ratio = g / s
    assert bool((ratio.diff() > 0).all())
    if isinstance(schedule, VPSchedule):
        torch.testing.assert_close(s**2 + g**2, torch.ones_like(s))
        # g^2 ~ beta_min t at small t, where 1 - s^2 would have lost its digits.
        assert float(g[0] ** 2 / 1e-6) == pytest.approx(0.1, rel=2e-4)
    else:
        assert float(g[-1]) == pytest.approx(80.0)
    with pytest.raises(ValueError, match=r"times must be in \(0, 1\]"):
        schedule.coefficients(0.0)


def test_random_mixtures_are_orthogonal_or_not_and_repeat() -> None:
    m = random_molrg(12, 3, 4, generator=seeded())
    flat = m.bases.permute(1, 0, 2).reshape(12, 12)
    torch.testing.assert_close(flat.mT @ flat, torch.eye(12, dtype=F64), rtol=0, atol=1e-12)
    assert torch.equal(m.bases, random_molrg(12, 3, 4, generator=seeded()).bases)
    free = random_molrg(12, 5, 4, orthogonal=False, generator=seeded())
    assert float((free.bases[0].mT @ free.bases[1]).abs().max()) > 0.1
    assert torch.equal(m.sample(9, seeded(5))[0], m.sample(9, seeded(5))[0])


def test_bad_input_is_refused() -> None:
    u = torch.eye(4, dtype=F64)[:, :2]
    for bad, text in (
        ({"bases": [u, 2 * u]}, "orthonormal columns"),
        ({"bases": [u, u[:3]]}, r"basis 1 must be \(D, d\)"),
        ({"bases": [u], "weights": torch.tensor([0.5])}, "must sum to 1"),
        ({"bases": [u, u], "weights": torch.tensor([1.5, -0.5])}, "not negative"),
        ({"bases": [u], "eigvals": [torch.tensor([1.0, 0.0])]}, "positive numbers"),
        ({"bases": [u], "noise": -1.0}, "'noise'"),
        ({"bases": [u], "means": torch.zeros(2, 4)}, "'means'"),
        ({"bases": []}, "got none"),
    ):
        with pytest.raises(ValueError, match=text):
            MoLRG(**bad)
    with pytest.raises(TypeError, match="floating"):
        MoLRG([torch.eye(3, dtype=torch.int64)])
    m = MoLRG([u])
    x = torch.ones(3, 4, dtype=F64)
    for call, text in (
        (lambda: m.posterior_mean(x, 1.0, 0.0), "'g' must be positive"),
        (lambda: m.posterior_mean(x, -1.0, 1.0), "'s' must be positive"),
        (lambda: m.score(x[:, :3], 1.0, 1.0), r"shape \(n, 4\)"),
        (lambda: m.score(x * math.nan, 1.0, 1.0), "must be finite"),
        (lambda: m.score(x, torch.ones(2), 1.0), "one for each of 3 points"),
        (lambda: m.sample(0), "'n' must be at least 1"),
        (lambda: random_molrg(5, 3, 2), "do not fit"),
        (lambda: random_molrg(5, 6, 1), "1 <= intrinsic_dim <= ambient_dim"),
        (lambda: VPSchedule(1.0, 0.5), "beta_min <= beta_max"),
        (lambda: VESchedule(1.0, 0.5), "sigma_min < sigma_max"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="floating"):
        m.score(torch.ones(3, 4, dtype=torch.int64), 1.0, 1.0)

"""The von Mises-Fisher law against scipy, closed forms, quadrature, and the moments of its samples."""

import math
from functools import partial

import mpmath
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from holonomy.manifolds import DimensionError, MembershipError, Sphere, VonMisesFisher

F64 = torch.float64


def direction(p: int, *batch: int, seed: int = 0) -> Tensor:
    return Sphere().random(*batch, p, dtype=F64, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [2, 3, 10, 100])
@pytest.mark.parametrize("kappa", [0.1, 3.0, 50.0])
def test_density_and_entropy_equal_scipys(p: int, kappa: float) -> None:
    loc, x = direction(p), direction(p, 7, seed=1)
    peer = scipy.stats.vonmises_fisher(loc.numpy(), kappa)
    law = VonMisesFisher(loc, kappa)
    torch.testing.assert_close(law.log_prob(x), torch.as_tensor(peer.logpdf(x.numpy())), rtol=1e-12, atol=1e-11)
    assert float(law.entropy()) == pytest.approx(peer.entropy(), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("p", [2, 3, 34, 500, 2000])
def test_the_normaliser_has_all_digits(p: int) -> None:
    loc = torch.zeros(p, dtype=F64)
    loc[0] = 1.0
    for kappa in (1e-6, 1.0, 45.0, 1e3, 1e6):
        with mpmath.workdps(50):
            nu, t = mpmath.mpf(p) / 2 - 1, mpmath.mpf(kappa)
            wanted = nu * mpmath.log(t) - (nu + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(mpmath.besseli(nu, t)) + t
        got = float(VonMisesFisher(loc, kappa).log_prob(loc))
        # math.lgamma and the scaled Bessel function are each right to some roundings of their size, up to 5e3.
        assert abs(got - wanted) <= 1e-15 * (10 * abs(wanted) + math.lgamma(p / 2) + p), kappa


def test_no_concentration_is_the_uniform_law() -> None:
    law = VonMisesFisher(direction(3), 0.0, generator=seeded())
    torch.testing.assert_close(law.log_prob(direction(3, 5)), torch.full((5,), -math.log(4.0 * math.pi), dtype=F64))
    assert float(law.entropy()) == pytest.approx(math.log(4.0 * math.pi), rel=1e-14)
    assert float(law.mean.norm()) == 0.0
    torch.testing.assert_close(law.covariance_matrix, torch.eye(3, dtype=F64) / 3.0)


@pytest.mark.parametrize(("p", "kappa"), [(2, 0.0), (2, 4.0), (3, 1e-3), (3, 20.0), (8, 5.0), (300, 80.0), (5, 1e6)])
def test_samples_have_the_moments(p: int, kappa: float) -> None:
    draws = 20_000 if p < 100 else 3_000
    law = VonMisesFisher(direction(p), kappa, generator=seeded())
    x = law.sample((draws,))
    Sphere().assert_check_point_on_manifold(x)
    # Components along and across, and their squares: five standard errors of each.
    chord = 0.5 * (x - law.loc).square().sum(-1)
    other = direction(p, seed=4)
    other = Sphere().projx(other - (other @ law.loc) * law.loc)
    across = x @ other
    gap = 1.0 - law.mean_resultant_length
    pairs = ((chord, gap), (across, torch.zeros(())), (across.square(), other @ law.covariance_matrix @ other))
    for measured, wanted in pairs:
        error = float(measured.std()) / math.sqrt(draws)
        assert abs(float(measured.mean() - wanted)) <= 5.0 * error + 1e-15
    variance = float(law.loc @ law.covariance_matrix @ law.loc)
    spread = float((chord - chord.mean()).square().std()) / math.sqrt(draws)
    assert abs(float(chord.var()) - variance) <= 5.0 * spread


@pytest.mark.parametrize("kappa", [0.5, 10.0, 1e4])
def test_samples_have_the_distribution_function(kappa: float) -> None:
    """On the sphere of three dimensions 1 - cos is a truncated exponential; on the circle scipy has the function."""
    gap = 0.5 * (VonMisesFisher(direction(3), kappa, generator=seeded()).sample((5_000,)) - direction(3)).square()
    law = scipy.stats.truncexpon(2.0 * kappa, scale=1.0 / kappa)
    assert scipy.stats.kstest(gap.sum(-1).numpy(), law.cdf).pvalue > 1e-3
    x = VonMisesFisher(torch.tensor([1.0, 0.0], dtype=F64), kappa, generator=seeded()).sample((5_000,))
    angle = torch.atan2(x[:, 1], x[:, 0])
    assert scipy.stats.kstest(angle.numpy(), scipy.stats.vonmises(kappa).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("p", "kappa"), [(2, 0.3), (2, 9.0), (3, 2.0), (60, 40.0)])
def test_the_derivative_of_a_draw_is_implicit(p: int, kappa: float) -> None:
    """The distribution function of the angle, by quadrature of the density, stays what it is along the derivative."""
    t = torch.tensor(kappa, dtype=F64, requires_grad=True)
    loc = direction(p)
    x = VonMisesFisher(loc, t, generator=seeded(3)).rsample((2,))
    for point in x:
        cosine = point @ loc
        (rate,) = torch.autograd.grad(cosine, t, retain_graph=True)

        def level(k: mpmath.mpf, w: mpmath.mpf) -> mpmath.mpf:
            def density(a: mpmath.mpf) -> mpmath.mpf:
                return mpmath.exp(k * (mpmath.cos(a) - 1)) * mpmath.sin(a) ** (p - 2)

            cuts = [mpmath.acos(w) * i / 24 for i in range(25)]
            rest = [cuts[-1] + (mpmath.pi - cuts[-1]) * i / 24 for i in range(25)]
            below = mpmath.quad(density, cuts)
            return below / (below + mpmath.quad(density, rest))

        with mpmath.workdps(30):
            k, w, h = mpmath.mpf(kappa), mpmath.mpf(float(cosine.detach())), mpmath.mpf(10) ** -8
            slope = (level(k + h, w) - level(k - h, w)) / (level(k, w + h) - level(k, w - h))
        # Differences of step 1e-8 are right to 1e-15 here; quadrature of each draw to 1e-12.
        assert float(rate) == pytest.approx(-float(slope), rel=1e-9)


def test_derivatives_of_expectations() -> None:
    """E f over draws, against central differences of quadrature: f is not a function of the angle alone."""
    loc = direction(3)
    kappa = torch.tensor(4.0, dtype=F64, requires_grad=True)
    x = VonMisesFisher(loc, kappa, generator=seeded()).rsample((20_000,))
    value = torch.exp(0.5 * x[:, 0]) + (x @ loc).square()
    h = 1e-4

    def expectation(k: float) -> float:
        # E exp(<t, x>) is the normaliser at kappa loc over that at |kappa loc + t|.
        moved = k * loc + torch.tensor([0.5, 0.0, 0.0], dtype=F64)
        c = [math.log(math.sinh(s) / s) for s in (k, float(moved.norm()))]
        length = 1.0 / math.tanh(k) - 1.0 / k
        return math.exp(c[1] - c[0]) + 1.0 - 2.0 * length / k

    wanted = (expectation(4.0 + h) - expectation(4.0 - h)) / (2.0 * h)
    (got,) = torch.autograd.grad(value.mean(), kappa, retain_graph=True)
    # The gradient's standard error from ten parts of the draws.
    parts = torch.stack([torch.autograd.grad(v.mean(), kappa, retain_graph=True)[0] for v in value.chunk(10)])
    assert float(got) == pytest.approx(wanted, abs=5.0 * float(parts.std()) / math.sqrt(10.0))


def test_it_differentiates() -> None:
    loc, kappa = direction(4).requires_grad_(), torch.tensor(3.0, dtype=F64, requires_grad=True)
    value = direction(4, seed=2).requires_grad_()

    def density(loc: Tensor, kappa: Tensor, value: Tensor) -> Tensor:
        return VonMisesFisher(Sphere().projx(loc), kappa).log_prob(Sphere().projx(value))

    def draw(loc: Tensor) -> Tensor:
        return VonMisesFisher(Sphere().projx(loc), 3.0, generator=seeded(5)).rsample((2,))

    def other(kappa: Tensor) -> Tensor:
        law = VonMisesFisher(direction(4), kappa)
        near = VonMisesFisher(direction(4, seed=6), kappa + 1.0)
        return law.entropy() + kl_divergence(law, near) + law.mean.sum() + law.covariance_matrix.square().sum()

    assert torch.autograd.gradcheck(density, (loc, kappa, value))
    assert torch.autograd.gradgradcheck(density, (loc, kappa, value))
    assert torch.autograd.gradcheck(draw, (loc,))
    assert torch.autograd.gradcheck(other, (kappa,))


def test_the_divergence_is_the_mean_of_the_logarithm() -> None:
    p = VonMisesFisher(direction(5), 6.0, generator=seeded())
    q = VonMisesFisher(direction(5, seed=1), 2.0)
    x = p.sample((20_000,))
    gap = p.log_prob(x) - q.log_prob(x)
    assert float(kl_divergence(p, q)) == pytest.approx(float(gap.mean()), abs=5 * float(gap.std()) / math.sqrt(20_000))
    assert float(kl_divergence(p, p)) == pytest.approx(0.0, abs=1e-14)
    uniform = VonMisesFisher(direction(5), 0.0)
    assert float(kl_divergence(p, uniform)) == pytest.approx(float(uniform.entropy() - p.entropy()), rel=1e-13)
    # Close laws of large concentration: the metric of the family, here of the direction alone.
    near = [VonMisesFisher(torch.tensor([math.cos(a), math.sin(a), 0.0], dtype=F64), 1e6) for a in (0.0, 1e-5)]
    assert float(kl_divergence(*near)) == pytest.approx(0.5 * (1e6 - 1.0) * 1e-10, rel=1e-9)
    with pytest.raises(DimensionError, match="in 5 and in 3 dimensions"):
        kl_divergence(p, near[0])


@pytest.mark.parametrize(("p", "kappa"), [(2, 3.0), (3, 1e5), (20, 30.0), (500, 5.0), (3, 0.05)])
def test_the_fit_is_where_the_likelihood_is_stationary(p: int, kappa: float) -> None:
    x = VonMisesFisher(direction(p), kappa, generator=seeded()).sample((400,))
    weights = 0.1 + torch.rand(400, dtype=F64, generator=seeded(1))
    law = VonMisesFisher.fit(x, weights)
    found, loc = law.concentration.clone().requires_grad_(), law.loc.clone().requires_grad_()
    w = weights / weights.sum()
    value = (w * VonMisesFisher(loc, found).log_prob(x)).sum()
    dk, dm = torch.autograd.grad(value, (found, loc))
    # In units of the concentration: the mean of squared chords is known to some roundings.
    assert abs(float(dk * found)) <= 1e-11 * p
    assert float(Sphere().egrad2rgrad(loc, dm).norm()) <= 1e-13 * max(1.0, float(found))


def test_the_fit_comes_back() -> None:
    x = VonMisesFisher(direction(4, 3), torch.tensor([2.0, 20.0, 500.0], dtype=F64), generator=seeded()).sample(
        (20_000,)
    )
    law = VonMisesFisher.fit(x)
    assert law.batch_shape == (3,)
    # Standard error about kappa sqrt(2 / ((p - 1) n)) = 0.6 %; five of them.
    assert float((law.concentration / torch.tensor([2.0, 20.0, 500.0]) - 1.0).abs().max()) < 0.03


def test_shapes_and_dtypes() -> None:
    law = VonMisesFisher(direction(3, 5, 1), torch.tensor([0.1, 2.0], dtype=F64))
    assert (law.batch_shape, law.event_shape) == (torch.Size([5, 2]), torch.Size([3]))
    assert law.rsample((7,)).shape == (7, 5, 2, 3)
    assert law.log_prob(law.sample((7,))).shape == (7, 5, 2)
    assert law.mean.shape == (5, 2, 3)
    assert law.expand((4, 5, 2)).sample().shape == (4, 5, 2, 3)
    assert torch.distributions.Independent(law, 1).log_prob(law.sample()).shape == (5,)
    low = VonMisesFisher(direction(3).float(), 1e6)
    assert low.rsample().dtype == torch.float32
    assert float(low.log_prob(low.loc)) == pytest.approx(math.log(1e6 / (2.0 * math.pi)), rel=1e-6)


def test_bad_input_is_refused() -> None:
    checked = partial(VonMisesFisher, validate_args=True)
    loc = direction(3)
    with pytest.raises(MembershipError, match="off the manifold"):
        checked(2.0 * loc, 1.0)
    with pytest.raises(ValueError, match="'concentration' must be finite and not negative"):
        checked(loc, -1.0)
    with pytest.raises(TypeError, match="'concentration' must be a number or a tensor, got str"):
        checked(loc, "high")
    with pytest.raises(TypeError, match="'loc' must be a tensor of a real floating dtype"):
        checked([1.0, 0.0], 1.0)
    with pytest.raises(DimensionError, match="at least 2"):
        checked(torch.ones(1), 1.0)
    with pytest.raises(MembershipError, match="'value'"):
        checked(loc, 1.0).log_prob(2.0 * loc)
    with pytest.raises(ValueError, match="no finite maximum"):
        VonMisesFisher.fit(loc.expand(4, 3))

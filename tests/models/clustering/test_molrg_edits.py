"""Derivatives, edits, sampling and copies: against closed forms of mixtures, autograd and brute force."""

import math

import pytest
import torch

from holonomy.models.clustering.molrg_diffusion import (
    MoLRG,
    VESchedule,
    VPSchedule,
    ddim,
    edit,
    edit_directions,
    edm_sigmas,
    generalization_score,
    heun,
    jacobian,
    jacobian_rank,
    memorising_denoiser,
    nearest_distances,
    random_molrg,
)

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(noise: float = 0.0) -> MoLRG:
    return random_molrg(10, 3, 2, noise=noise, generator=seeded())


def test_jacobian_is_that_of_autograd_and_batches_keep_points_apart() -> None:
    m = mixture()
    x = torch.randn(4, 10, dtype=F64, generator=seeded(1))
    g = torch.tensor([0.3, 0.5, 1.0, 2.0], dtype=F64)
    found = jacobian(m.posterior_mean, x, 0.8, g)
    for i in range(4):
        wanted = torch.autograd.functional.jacobian(lambda y, i=i: m.posterior_mean(y, 0.8, float(g[i])), x[i])
        torch.testing.assert_close(found[i], wanted)
        torch.testing.assert_close(jacobian(m.posterior_mean, x[i], 0.8, float(g[i])), wanted)
    # Tweedie: the derivative of a posterior mean is a covariance, s/g^2 Cov(x_0 | x_t): symmetric, not negative.
    torch.testing.assert_close(found, found.mT)
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-12


def test_rank_at_little_noise_is_that_of_the_point_s_subspace() -> None:
    bases = list(torch.linalg.qr(torch.randn(2, 12, 4, dtype=F64, generator=seeded()))[0])
    m = MoLRG([bases[0][:, :2], bases[1]])
    x, labels = m.sample(20, seeded(1))
    ranks = jacobian_rank(m.posterior_mean, x, 1.0, 1e-3)
    assert torch.equal(ranks, torch.tensor([2, 4])[labels])
    # The share is one of the norm, not of its square: of d equal values the first r hold sqrt(r/d) of it.
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.1], dtype=F64))
    sizes = matrix.diagonal().square().cumsum(0).sqrt() / matrix.norm()
    for energy in (0.5, 0.96, 0.99, 0.9999):
        wanted = int((sizes <= energy).sum()) + 1
        assert int(jacobian_rank(lambda y, s, g: y @ matrix, torch.ones(4, dtype=F64), 1.0, 1.0, energy)) == wanted


def test_directions_are_leading_and_keep_off_what_they_are_told_to() -> None:
    a = torch.randn(6, 6, dtype=F64, generator=seeded())

    def linear(y: torch.Tensor, s: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return y @ a.mT

    x = torch.zeros(6, dtype=F64)
    rows, sizes = edit_directions(linear, x, 1.0, 1.0, 3)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(3, dtype=F64))
    torch.testing.assert_close((rows @ a.mT).norm(dim=1), torch.linalg.svdvals(a)[:3])
    torch.testing.assert_close(sizes, torch.linalg.svdvals(a)[:3])
    background = torch.cat([a[:2], a[:1]])  # of rank 2
    kept, weaker = edit_directions(linear, x, 1.0, 1.0, 3, avoid=background)
    assert float((kept @ background.mT).abs().max()) < 1e-12  # the first two outputs do not move
    torch.testing.assert_close((kept @ a.mT).norm(dim=1), weaker)
    assert float(weaker[0]) <= float(sizes[0])


@pytest.mark.parametrize("schedule", [VPSchedule(), VESchedule(sigma_max=20.0)])
def test_ddim_ends_at_the_point_of_a_known_flow(schedule) -> None:
    """For one Gaussian the flow is linear in each eigendirection, x/sqrt(s^2 v + g^2) constant."""
    m = random_molrg(6, 2, 1, noise=0.3, generator=seeded())
    s, g = schedule.coefficients(0.6)
    x = torch.randn(5, 6, dtype=F64, generator=seeded(1))
    inside = x @ m.bases[0] @ m.bases[0].mT
    wanted = sum(part * (v / (s**2 * v + g**2)).sqrt() for part, v in ((inside, 1.0 + 0.3**2), (x - inside, 0.3**2)))
    errors = [float((ddim(m.posterior_mean, x, schedule, 0.6, n) - wanted).abs().max()) for n in (200, 400, 800)]
    assert errors[-1] < 0.02
    # First order, but for the last step, which is long in log sigma.
    assert errors[2] < errors[1] < errors[0]


def test_heun_is_of_second_order_and_samples_the_mixture() -> None:
    m = random_molrg(6, 2, 1, noise=0.3, generator=seeded())
    x = 5.0 * torch.randn(5, 6, dtype=F64, generator=seeded(1))
    inside = x @ m.bases[0] @ m.bases[0].mT

    def exact(end: float) -> torch.Tensor:
        pairs = ((inside, 1.0 + 0.3**2), (x - inside, 0.3**2))
        return sum(part * ((v + end**2) / (v + 25.0)) ** 0.5 for part, v in pairs)  # type: ignore[return-value]

    errors = []
    for n in (20, 40, 80, 160):
        sigmas = edm_sigmas(n, 0.1, 5.0)[:-1]
        for preserving in (False, True):
            found = heun(m.posterior_mean, x, sigmas, preserving)
            errors.append(float((found - exact(0.1)).abs().max()))
    for first, second in zip(errors[::2], errors[2::2], strict=False):
        assert first / second == pytest.approx(4.0, rel=0.25)
    assert errors[::2] == pytest.approx(errors[1::2])  # a mixture knows every s
    draws = heun(m.posterior_mean, 80.0 * torch.randn(4000, 6, dtype=F64, generator=seeded(2)), edm_sigmas(60))
    wanted = m.bases[0] @ m.bases[0].mT + 0.09 * torch.eye(6, dtype=F64)
    torch.testing.assert_close(torch.cov(draws.mT), wanted, rtol=0, atol=0.1)  # four standard errors of 4,000 draws


def test_edit_follows_its_direction_and_others_change_nothing() -> None:
    m = mixture(noise=0.01)
    schedule = VPSchedule()
    s, g = (float(c) for c in schedule.coefficients(0.3))
    x = s * m.sample(1, seeded(1))[0][0] + g * torch.randn(10, dtype=F64, generator=seeded(2))
    rows, sizes = edit_directions(m.posterior_mean, x, s, g, 10)
    plain = ddim(m.posterior_mean, x, schedule, 0.3, 50)
    moved = [edit(m.posterior_mean, x, v, 0.5, schedule, 0.3, 50) for v in (rows[0], rows[9])]
    changes = [float((y - plain).norm()) for y in moved]
    assert changes[0] > 10 * changes[1]
    torch.testing.assert_close(edit(m.posterior_mean, x, 3.0 * rows[0], 0.5, schedule, 0.3, 50), moved[0])
    assert sizes[0] > 10 * sizes[9]


def test_copies_are_told_from_new_samples() -> None:
    train = torch.randn(50, 3, dtype=F64, generator=seeded())
    other = torch.randn(40, 3, dtype=F64, generator=seeded(1))
    distances = nearest_distances(other, train, block=7)
    torch.testing.assert_close(distances, (other.unsqueeze(1) - train).norm(dim=-1).amin(1))
    assert float(nearest_distances(train + 1e-9, train).max()) < 1e-8
    threshold = float(distances.median())
    assert generalization_score(other, train, threshold) == pytest.approx(0.5, abs=0.03)
    mixed = torch.cat([train[:30], other + 100.0])
    assert generalization_score(mixed, train, 1e-6) == pytest.approx(40 / 70)
    # What memorises gives copies, by any sampler.
    start = 80.0 * torch.randn(30, 3, dtype=F64, generator=seeded(2))
    assert generalization_score(heun(memorising_denoiser(train), start, edm_sigmas(40)), train, 0.01) == 0.0


def test_bad_input_is_refused() -> None:
    m = mixture()
    x, p = torch.ones(3, 10, dtype=F64), VPSchedule()
    f = m.posterior_mean
    for call, text in (
        (lambda: jacobian_rank(f, x, 1.0, 1.0, 1.0), "'energy'"),
        (lambda: jacobian(f, x, 1.0, 0.0), "'g' must be positive"),
        (lambda: edit_directions(f, x, 1.0, 1.0, 2), "one point"),
        (lambda: edit_directions(f, x[0], 1.0, 1.0, 11), "'k' must be from 1 to 10"),
        (lambda: edit_directions(f, x[0], 1.0, 1.0, 9, avoid=torch.eye(10)[:2]), "'k' must be from 1 to 8"),
        (lambda: edit_directions(f, x[0], 1.0, 1.0, 1, avoid=torch.eye(4)), "'avoid' must have shape"),
        (lambda: edit(f, x, torch.zeros(10), 1.0, p, 0.5), "a length that is not 0"),
        (lambda: ddim(f, x, p, 0.5, 0), "steps >= 1"),
        (lambda: ddim(f, x, p, 1.5), "t <= 1"),
        (lambda: edm_sigmas(1), "steps >= 2"),
        (lambda: heun(f, x, torch.tensor([1.0, 2.0])), "falling"),
        (lambda: heun(f, x * math.inf, edm_sigmas()), "must be finite"),
        (lambda: generalization_score(x, x, 0.0), "'threshold' must be positive"),
        (lambda: nearest_distances(x, x[:, :4]), r"shape \(n, 4\)"),
    ):
        with pytest.raises(ValueError, match=text):
            call()

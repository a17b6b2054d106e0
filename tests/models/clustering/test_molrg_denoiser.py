"""The denoiser and its losses: closed forms against draws of the noise, principal subspaces, gradients, ablations."""

import math

import pytest
import torch

from holonomy.manifolds.linalg import gram_gap
from holonomy.models.clustering.molrg_diffusion import (
    KSubspaces,
    MoLRG,
    MoLRGDenoiser,
    VPSchedule,
    closed_form_loss,
    denoising_loss,
    memorising_denoiser,
    principal_subspace,
    random_molrg,
    subspace_recovery_error,
    wiener_denoiser,
)
from holonomy.optim import RiemannianAdam, RiemannianSGD

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int = 12, noise: float = 0.1) -> tuple[torch.Tensor, MoLRG]:
    m = random_molrg(9, 2, 2, noise=noise, generator=seeded(1))
    return m.sample(n, seeded(2))[0], m


@pytest.mark.parametrize("t", [0.05, 0.3, 0.9])
def test_closed_form_is_the_mean_over_draws_of_the_noise(t: float) -> None:
    x, m = points()
    net = MoLRGDenoiser(9, 2, 2, "hard", bases=m.bases, dtype=F64)
    s, g = VPSchedule().coefficients(t)
    draws = torch.stack([denoising_loss(net, x, VPSchedule(), t, seeded(i)).detach() for i in range(2000)])
    error = float(draws.std() / 2000**0.5)
    assert abs(float(draws.mean() - closed_form_loss(m.bases, x, s, g))) < 3 * error
    assert error < 0.02 * float(draws.mean())


def test_least_closed_form_of_one_subspace_is_the_principal_one() -> None:
    x = torch.randn(30, 7, dtype=F64, generator=seeded()) * torch.linspace(2.0, 0.2, 7, dtype=F64)
    net = MoLRGDenoiser(7, 3, 1, generator=seeded(1), dtype=F64)
    optimizer = RiemannianSGD(net.parameters(), lr=0.2, momentum=0.9)
    for _ in range(600):
        optimizer.zero_grad()
        closed_form_loss(net.bases, x, 0.8, 0.6).backward()
        optimizer.step()
    assert gram_gap(net.bases) < 1e-6
    principal = principal_subspace(x, 3)
    assert subspace_recovery_error(net.bases, principal[None])[0] < 1e-6
    for i in range(20):  # and no other has less
        other = MoLRGDenoiser(7, 3, 1, generator=seeded(10 + i), dtype=F64).bases.detach()
        assert closed_form_loss(other, x, 0.8, 0.6) > closed_form_loss(principal, x, 0.8, 0.6)


def test_more_held_is_less_loss_at_every_time() -> None:
    x, m = points()
    worse = MoLRGDenoiser(9, 2, 2, generator=seeded(5), dtype=F64).bases.detach()
    for s, g in ((0.99, 0.1), (0.7, 0.7), (0.1, 2.0)):
        assert closed_form_loss(m.bases, x, s, g) < closed_form_loss(worse, x, s, g)
    # By the theorem all times have one minimiser: the loss is a falling function of what is held.
    held = [torch.einsum("kij,ni->nkj", u, x).square().sum(-1).amax(1).mean() for u in (m.bases, worse)]
    s, g = 0.7, 0.7
    factor = s**2 * (s**2 + 2 * g**2) / (s**2 + g**2) ** 2
    gap = closed_form_loss(worse, x, s, g) - closed_form_loss(m.bases, x, s, g)
    torch.testing.assert_close(gap, factor * (held[0] - held[1]))


@pytest.mark.parametrize("weighting", ["soft", "hard"])
def test_nothing_depends_on_the_basis_or_the_order(weighting) -> None:
    x, m = points()
    turn = torch.linalg.qr(torch.randn(2, 2, 2, dtype=F64, generator=seeded(7)))[0]
    turned = (m.bases @ turn).flip(0)
    losses = [
        denoising_loss(MoLRGDenoiser(9, 2, 2, weighting, bases=u, dtype=F64), x, VPSchedule(), None, seeded())
        for u in (m.bases, turned)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(closed_form_loss(m.bases, x, 0.8, 0.6), closed_form_loss(turned, x, 0.8, 0.6))
    error, order = subspace_recovery_error(turned, m.bases)
    assert error < 1e-12
    assert order == [1, 0]


def test_gradients_are_finite_differences() -> None:
    x, m = points(4)
    for weighting in ("soft", "hard"):
        net = MoLRGDenoiser(9, 2, 2, weighting, dtype=F64, generator=seeded(3))

        def output(u: torch.Tensor, y: torch.Tensor, net=net) -> torch.Tensor:
            return torch.func.functional_call(net, {"bases": u}, (y, 0.8, 0.6, x))

        u = m.bases.clone().requires_grad_()
        assert torch.autograd.gradcheck(output, (u, x.clone().requires_grad_()))
    assert torch.autograd.gradcheck(lambda u: closed_form_loss(u, x, 0.8, 0.6), (m.bases.clone().requires_grad_(),))


def test_bases_stay_orthonormal_in_training_and_without_the_manifold_they_do_not() -> None:
    x, _ = points(20)
    net = MoLRGDenoiser(9, 2, 2, generator=seeded())
    free = torch.nn.Parameter(net.bases.detach().clone())
    optimizer, plain = RiemannianAdam(net.parameters(), lr=0.03), torch.optim.Adam([free], lr=0.03)
    rng = seeded(1)
    for _ in range(500):
        optimizer.zero_grad()
        denoising_loss(net, x.float(), VPSchedule(), generator=rng).backward()
        optimizer.step()
    assert gram_gap(net.bases) < 1e-6
    for _ in range(100):
        plain.zero_grad()

        def model(y: torch.Tensor, s: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(net, {"bases": free}, (y, s, g))

        denoising_loss(model, x.float(), VPSchedule(), generator=rng).backward()
        plain.step()
    assert gram_gap(free) > 0.05  # the scale takes up part of the factor


def test_training_on_noisy_points_finds_the_principal_subspace() -> None:
    m = random_molrg(20, 2, 1, noise=0.01, generator=seeded())
    x = m.sample(6, seeded(1))[0]
    net = MoLRGDenoiser(20, 2, 1, generator=seeded(2), dtype=F64)
    optimizer = RiemannianAdam(net.parameters(), lr=0.05)
    rng, many = seeded(3), x.repeat(64, 1)
    for i in range(200):
        optimizer.param_groups[0]["lr"] = 0.025 * (1 + math.cos(math.pi * i / 200))
        optimizer.zero_grad()
        loss = denoising_loss(
            net, many, VPSchedule(), generator=rng, weight=lambda s, g: (1 + s**2 / g**2).clamp(max=100)
        )
        loss.backward()
        optimizer.step()
    assert subspace_recovery_error(net.bases, principal_subspace(x, 2)[None])[0] < 0.1


def test_shapes_dtypes_and_weights() -> None:
    x, m = points()
    net = MoLRGDenoiser(9, 2, 2, bases=m.bases, dtype=F64, weights=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(net(x[0], 0.8, 0.6), net(x, 0.8, 0.6)[0])
    u = m.bases[0]
    torch.testing.assert_close(net(x, 0.8, 0.6), 0.8 * x @ u @ u.mT)  # the other has no share
    single = MoLRGDenoiser(9, 2, 2, bases=m.bases.float())
    double = MoLRGDenoiser(9, 2, 2, bases=m.bases, dtype=F64)
    torch.testing.assert_close(single(x.float(), 0.8, 0.6).double(), double(x, 0.8, 0.6), rtol=1e-4, atol=1e-5)
    assert single(x.half(), 0.8, 0.6).dtype == torch.float32
    assert bool(single(x.float(), 1.0, 1e-6).isfinite().all())
    again = MoLRGDenoiser(9, 2, 2)
    again.load_state_dict(single.state_dict())
    assert torch.equal(again.bases, single.bases)


def test_memoriser_and_wiener_are_posterior_means() -> None:
    train = torch.randn(30, 4, dtype=F64, generator=seeded())
    x = torch.randn(7, 4, dtype=F64, generator=seeded(1))
    s, g = 0.8, 0.5
    weights = torch.softmax(-(x.unsqueeze(1) - s * train).square().sum(-1) / (2 * g**2), 1)
    memory = memorising_denoiser(train, block=3)
    torch.testing.assert_close(memory(x, s, g), weights @ train)
    near = train + 1e-3 * torch.randn(30, 4, dtype=F64, generator=seeded(2))
    torch.testing.assert_close(memory(near, 1.0, 1e-3), train, rtol=0, atol=1e-9)  # the point itself
    covariance = torch.cov(train.mT, correction=0)
    gain = torch.linalg.solve(s**2 * covariance + g**2 * torch.eye(4, dtype=F64), s * covariance)
    torch.testing.assert_close(wiener_denoiser(train)(x, s, g), train.mean(0) + (x - s * train.mean(0)) @ gain)
    assert wiener_denoiser(train[:1])(x[0], s, g).shape == (4,)


def test_k_subspaces_never_loses_ground_and_finds_what_there_is() -> None:
    m = random_molrg(16, 3, 3, noise=0.02, generator=seeded())
    x, y = m.sample(150, seeded(1))
    model = KSubspaces(3, 3, n_init=5).fit(x)
    assert all(b >= a - 1e-9 for a, b in zip(model.history_[:-1], model.history_[1:], strict=True))
    assert subspace_recovery_error(model.bases_, m.bases)[0] < 0.1
    truth = subspace_recovery_error(model.bases_, m.bases)[1]
    assert (model.labels_ == torch.tensor(truth)[y].numpy()).mean() > 0.99
    assert (model.predict(x.numpy()) == model.labels_).all()
    distances = [
        float((x - x @ u @ u.mT).square().sum(1)[model.labels_ == k].sum()) for k, u in enumerate(model.bases_)
    ]
    assert model.inertia_ == pytest.approx(sum(distances))
    assert (KSubspaces(3, 3, n_init=5).fit_predict(x) == model.labels_).all()
    assert model.get_params() == {"n_clusters": 3, "dim": 3, "n_init": 5, "max_iter": 100, "random_state": 0}


def test_missing_dimensions_are_random_and_not_recovered() -> None:
    m = random_molrg(12, 4, 1, generator=seeded())
    x = m.sample(3, seeded(1))[0]
    first, second = (principal_subspace(x, 4, seeded(i)) for i in (2, 3))
    assert gram_gap(first) < 1e-12
    torch.testing.assert_close(x @ first @ first.mT, x)
    assert subspace_recovery_error(first, second)[0] > 0.1
    assert subspace_recovery_error(first, m.bases[0])[0] > 0.5
    assert gram_gap(principal_subspace(x[:0], 4, seeded())) < 1e-12


def test_error_is_the_distance_of_projectors_to_the_last_digit() -> None:
    u = torch.linalg.qr(torch.randn(2, 8, 3, dtype=F64, generator=seeded()))[0]
    error, order = subspace_recovery_error(u.flip(0), u)
    assert order == [1, 0]
    assert error < 1e-12
    other = torch.linalg.qr(torch.randn(2, 8, 3, dtype=F64, generator=seeded(1)))[0]
    dense = [[float((a @ a.mT - b @ b.mT).norm()) for b in other] for a in u]
    straight, crossed = (dense[0][0], dense[1][1]), (dense[0][1], dense[1][0])
    wanted = min((straight, crossed), key=lambda pair: pair[0] ** 2 + pair[1] ** 2)
    assert subspace_recovery_error(other, u)[0] == pytest.approx(max(wanted))
    tilted = u[0].clone()
    tilted[:, 0] = math.cos(1e-9) * u[0][:, 0] + math.sin(1e-9) * torch.linalg.qr(u[0], mode="complete")[0][:, 5]
    assert subspace_recovery_error(tilted, u[0])[0] == pytest.approx(2**0.5 * 1e-9, rel=1e-4)


def test_bad_input_is_refused() -> None:
    x, m = points()
    for call, text in (
        (lambda: MoLRGDenoiser(4, 5, 1), "1 <= intrinsic_dim <= ambient_dim"),
        (lambda: MoLRGDenoiser(4, 2, 1, "medium"), "'weighting' must be"),  # type: ignore[arg-type]
        (lambda: MoLRGDenoiser(4, 2, 1, bases=torch.ones(1, 4, 2)), "must be orthonormal"),
        (lambda: MoLRGDenoiser(4, 2, 2, weights=torch.tensor([0.5, 0.6])), "shares of sum 1"),
        (lambda: MoLRGDenoiser(9, 2, 2, "hard")(x.float(), 0.8, 0.6), "needs 'x_0'"),
        (lambda: MoLRGDenoiser(9, 2, 2)(x.float(), 0.8, 0.0), "'g' must be positive"),
        (lambda: denoising_loss(MoLRGDenoiser(9, 2, 2), x[0].float(), VPSchedule()), r"shape \(n, D\)"),
        (lambda: closed_form_loss(m.bases[0, 0], x, 1.0, 1.0), "'bases' must be"),
        (lambda: KSubspaces(13, 2).fit(x), "1 <= n_clusters <= 12"),
        (lambda: KSubspaces(2, 10).fit(x), "1 <= dim <= 9"),
        (lambda: KSubspaces(2, 2, n_init=0).fit(x), "'n_init'"),
        (lambda: KSubspaces(2, 2).fit(x[0]), r"shape \(n, D\)"),
        (lambda: KSubspaces(2, 2).set_params(rank=2), "parameter must be one of"),
        (lambda: subspace_recovery_error(m.bases, m.bases[:1]), "one shape"),
        (lambda: principal_subspace(x, 10), "1 <= dim <= D"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match="KSubspaces is not fitted"):
        KSubspaces(2, 2).predict(x)
    with pytest.raises(TypeError, match="floating"):
        KSubspaces(2, 2).fit(torch.ones(4, 3, dtype=torch.int64))

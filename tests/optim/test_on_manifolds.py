"""The optimizers on every manifold of the library: drift, batching, weight decay, and problems with known answers."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import CASES, Case
from torch import Tensor

from holonomy.manifolds import SPD, Euclidean, FixedRank, Grassmann, Manifold, ManifoldParameter, PoincareBall, Stiefel
from holonomy.optim import RiemannianAdam, RiemannianSGD

# One row for each type and metric: the one with the largest points.
CURVED = sorted((c for c in CASES if not issubclass(c.kind, Euclidean)), key=lambda c: math.prod(c.shape))
ROWS = list({(c.kind, c.arguments.get("metric")): c for c in CURVED}.values())
each_manifold = pytest.mark.parametrize("case", ROWS, ids=lambda case: case.id)
with_an_origin = pytest.mark.parametrize(
    "case",
    [c for c in ROWS if c.injectivity_radius == math.inf and c.retraction_order is None],
    ids=lambda case: case.id,
)
OPTIMIZERS = [(RiemannianSGD, {"momentum": 0.9}), (RiemannianAdam, {})]


def points(case: Case, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return case.manifold().random(*batch, *case.shape, dtype=dtype, generator=generator)


# -- drift -------------------------------------------------------------------------------------------------------------


def wander(case: Case, optimizer: Callable[..., torch.optim.Optimizer], steps: int) -> Tensor:
    """Points in float32 after steps with random gradients."""
    p = ManifoldParameter(points(case, 3, dtype=torch.float32), case.manifold())
    stepper = optimizer([p])
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        p.grad = torch.randn(p.shape, generator=generator)
        stepper.step()
    return p.detach()


def drift(manifold: Manifold, x: Tensor) -> float:
    """Distance to the manifold in float64, relative to the size of the coordinates where they are large."""
    x = x.double()
    return float(((manifold.projx(x) - x).abs() / x.abs().amax(-1, keepdim=True).clamp_min(1.0)).amax())


def sgd(p: list[ManifoldParameter]) -> RiemannianSGD:
    """With steps in proportion to gradients."""
    return RiemannianSGD(p, lr=1e-2, momentum=0.9)


@each_manifold
@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        (sgd, 500),
        (lambda p: RiemannianAdam(p, lr=1e-2), 500),
        pytest.param(lambda p: RiemannianAdam(p, lr=1e-2), 10_000, marks=pytest.mark.slow),
    ],
)
def test_random_steps_do_not_drift_off_the_manifold(case: Case, optimizer: Callable, steps: int) -> None:
    if case.kind is SPD and optimizer is sgd:
        # The gradient of a linear function is quadratic in the point: descent diverges in finite time, as x' = x g x.
        pytest.skip("steepest descent of a linear function has no long run here")
    if case.kind in (SPD, FixedRank) and steps > 500:
        # A random walk of this length may reach condition numbers that float32 does not hold.
        pytest.skip("random walks leave the range of float32 here")
    x = wander(case, optimizer, steps)
    assert torch.isfinite(x).all()
    assert case.manifold().check_point_on_manifold(x)
    assert drift(case.manifold(), x) < 1e-6  # what the optimizers promise in float32


# -- the same numbers, one way or another ------------------------------------------------------------------------------


@each_manifold
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_batched_parameters_step_as_single_ones(case: Case, kind: Callable, options: dict, run: Callable) -> None:
    ends = []
    for foreach in (None, False):
        # Each parameter brings its own manifold: equal ones are batched.
        params = [ManifoldParameter(x.clone(), case.manifold()) for x in points(case, 3, 2)]
        ends.append(run(kind(params, lr=0.01, foreach=foreach, **options)))
    # float64 roundings; matrix products and factorisations of a batch may add up in another order.
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-11, atol=1e-11)


@each_manifold
def test_momentum_is_carried_by_the_manifolds_transport(case: Case) -> None:
    manifold = case.manifold()
    x = points(case, 2)
    p = ManifoldParameter(x.clone(), manifold)
    optimizer = RiemannianSGD([p], lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    b = torch.zeros_like(x)
    for _ in range(3):
        p.grad = 0.1 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        b = 0.9 * b + manifold.egrad2rgrad(x, p.grad)
        x, b = manifold.retr(x, -0.05 * b), manifold.transp_follow_retr(x, -0.05 * b, b)
        optimizer.step()
        torch.testing.assert_close(p.detach(), x, rtol=1e-12, atol=1e-12)  # float64 roundings
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], b, rtol=1e-12, atol=1e-12)
        gap = manifold.proju(x, b) - b
        assert gap.abs().amax() < 1e-10 * max(1.0, float(b.abs().amax()))  # tangent where it arrives


# -- weight decay ------------------------------------------------------------------------------------------------------


@with_an_origin
def test_weight_decay_pulls_to_the_origin_along_the_geodesic(case: Case) -> None:
    manifold = case.manifold()
    optimizers: list[Callable] = [
        lambda p: RiemannianSGD(p, lr=0.5, weight_decay=0.2),
        lambda p: RiemannianAdam(p, lr=0.5, weight_decay=0.2),
        lambda p: RiemannianAdam(p, lr=0.5, weight_decay=7.0, manifold_weight_decay=0.2),
    ]
    for make in optimizers:
        x = points(case, 4)
        p = ManifoldParameter(x.clone(), manifold)
        p.grad = torch.zeros_like(p)
        make([p]).step()
        origin = manifold.origin(*x.shape, dtype=x.dtype)
        # With no gradient the point moves the fraction lr * weight_decay of the way: as x - lr * weight_decay * x.
        wanted = manifold.geodesic(0.1, x, origin)
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-10)  # float64, log and exp once each
        torch.testing.assert_close(manifold.dist(p, origin), 0.9 * manifold.dist(x, origin), rtol=1e-10, atol=0)


@with_an_origin
def test_coupled_weight_decay_is_the_gradient_of_the_squared_distance(case: Case, run: Callable) -> None:
    manifold = case.manifold()
    x = points(case, 4)
    origin = manifold.origin(*x.shape, dtype=x.dtype)
    kinds: list[Callable] = [RiemannianSGD, lambda p, **o: RiemannianAdam(p, decoupled_weight_decay=False, **o)]
    for kind in kinds:
        decayed = ManifoldParameter(x.clone(), manifold)
        penalised = ManifoldParameter(x.clone(), manifold)
        with_decay, without = kind([decayed], lr=0.1, weight_decay=0.3), kind([penalised], lr=0.1, weight_decay=0.0)
        for _ in range(3):
            decayed.grad = torch.ones_like(x)
            (0.15 * manifold.dist2(penalised, origin)).sum().backward()
            penalised.grad += 1.0
            with_decay.step()
            without.step()
            without.zero_grad()
        # log_x(origin) by its formula and by autograd through dist2, in float64.
        torch.testing.assert_close(decayed.detach(), penalised.detach(), rtol=1e-9, atol=1e-9)


# -- curvature that is learned -----------------------------------------------------------------------------------------


def test_points_follow_a_learned_curvature() -> None:
    ball = PoincareBall(learnable=True)
    edge = torch.tensor([[0.99, 0.0], [0.1, 0.0]], dtype=torch.float64)
    p = ManifoldParameter(edge, ball)
    curvature = list(ball.parameters())
    optimizer = RiemannianSGD([p, *curvature], lr=1.0)
    p.grad = torch.zeros_like(p)
    for c in curvature:
        c.grad = torch.full_like(c, -1.0)  # the curvature grows: the ball shrinks past the first point
    optimizer.step()
    with torch.no_grad():
        assert ball.c > 2
        assert ball.check_point_on_manifold(p)
    assert torch.equal(p.detach()[1], torch.tensor([0.1, 0.0], dtype=torch.float64))


# -- problems with known answers ---------------------------------------------------------------------------------------


def symmetric(n: int) -> Tensor:
    a = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (a + a.T) / 2


@pytest.mark.parametrize("manifold", [Stiefel(), Stiefel("canonical"), Grassmann()], ids=repr)
@pytest.mark.parametrize(
    ("optimizer", "steps", "error"),
    [
        # Linear convergence, to float64 rounding.
        (lambda p, steps: RiemannianSGD(p, lr=2e-2, momentum=0.9, maximize=True), 800, 1e-12),
        # Adam's steps shrink with its learning rate only: 1e-3 of the last ones remains.
        (lambda p, steps: RiemannianAdam(p, lr=1e-1, betas=(0.9, 0.9), maximize=True), 800, 1e-6),
    ],
)
def test_dominant_eigenspace(manifold: Manifold, optimizer: Callable, steps: int, error: float) -> None:
    a = symmetric(50)
    start = manifold.random(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = ManifoldParameter(start, manifold)
    stepper = optimizer([p], steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, steps, 0.0 if "betas" in stepper.defaults else 2e-2)
    for _ in range(steps):
        stepper.zero_grad()
        torch.trace(p.T @ a @ p).backward()
        stepper.step()
        schedule.step()
    values, vectors = torch.linalg.eigh(a)
    top = vectors[:, -5:]
    assert (p @ p.T - top @ top.T).norm() < max(1e-6, error**0.5)
    assert torch.trace(p.T @ a @ p).item() == pytest.approx(values[-5:].sum().item(), rel=error)


@pytest.mark.parametrize(
    "optimizer",
    [lambda p: RiemannianSGD(p, lr=0.1, momentum=0.5), lambda p: RiemannianAdam(p, lr=0.1, betas=(0.9, 0.9))],
)
def test_mean_in_the_poincare_ball(optimizer: Callable) -> None:
    ball = PoincareBall(c=0.7)
    generator = torch.Generator().manual_seed(0)
    # The mean of points in opposite pairs around a centre is the centre.
    centre = ball.random(3, dtype=torch.float64, generator=generator)
    u = ball.random_tangent(centre.expand(6, 3), generator=generator)
    data = torch.cat([ball.expmap(centre, u), ball.expmap(centre, -u)])
    p = ManifoldParameter(ball.random(3, dtype=torch.float64, generator=generator), ball)
    stepper = optimizer([p])
    schedule = torch.optim.lr_scheduler.ExponentialLR(stepper, 0.98)
    for _ in range(400):
        stepper.zero_grad()
        ball.dist2(p, data).mean().backward()
        stepper.step()
        schedule.step()
    assert ball.dist(p, centre) < 1e-6  # the learning rate ends at 3e-5 of where it began

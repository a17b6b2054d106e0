"""Fréchet means and medians against closed forms, brute force, and derivatives by unrolled descent."""

import math

import pytest
import torch
from cases import CASES, Case
from torch import Tensor

from holonomy.manifolds import (
    SPD,
    ConvergenceError,
    DimensionError,
    Euclidean,
    Grassmann,
    Manifold,
    PoincareBall,
    Sphere,
    frechet_mean,
    frechet_median,
)

ROWS = [case for case in CASES if case.has("expmap", "logmap", "dist", "dist2")]
#: The default tolerance on the length of the gradient, for points nearer than 1.
TOLERANCE = torch.finfo(torch.float64).eps ** 0.75


def spread(case: Case, n: int = 6, seed: int = 0) -> tuple[Manifold, Tensor, Tensor]:
    """Points around one point, well within the radius where the mean is unique, and weights."""
    manifold = case.manifold()
    generator = torch.Generator().manual_seed(seed)
    x = case.inputs(seed=seed)["x"].expand(n, *case.shape)
    u = manifold.random_tangent(x, generator=generator)
    u = 0.25 * case.reach * torch.rand(n, dtype=x.dtype, generator=generator).reshape(n, *(1,) * manifold.ndim) * u
    weights = 0.2 + torch.rand(n, dtype=x.dtype, generator=generator)
    return manifold, manifold.expmap(x, u / manifold.norm(x, u, keepdim=True).clamp_min(1.0)), weights


def each_row(function: object) -> object:
    return pytest.mark.parametrize("case", ROWS, ids=lambda case: case.id)(function)


@each_row
def test_the_mean_balances_the_logarithms(case: Case) -> None:
    manifold, x, weights = spread(case)
    m = frechet_mean(manifold, x, weights)
    manifold.assert_check_point_on_manifold(m)
    pull = (weights.reshape(-1, *(1,) * manifold.ndim) * manifold.logmap(m, x)).sum(0) / weights.sum()
    assert float(manifold.norm(m, pull)) <= 2.0 * TOLERANCE


@each_row
def test_no_nearby_point_is_better(case: Case) -> None:
    manifold, x, weights = spread(case)
    for find, power in ((frechet_mean, 2), (frechet_median, 1)):
        m = find(manifold, x, weights)
        best = (weights * manifold.dist(m, x) ** power).sum()
        around = m.expand(40, *case.shape)
        u = manifold.random_tangent(around, generator=torch.Generator().manual_seed(3))
        for length in (1e-3, 1e-1):
            other = manifold.expmap(around, length * case.reach * u / manifold.norm(around, u, keepdim=True))
            value = (weights * manifold.dist(other.unsqueeze(1), x) ** power).sum(-1)
            assert (value > best).all(), find.__name__


@each_row
def test_the_mean_of_two_points_is_the_midpoint(case: Case) -> None:
    manifold, x, _ = spread(case, n=2)
    for t in (0.5, 0.2):
        m = frechet_mean(manifold, x, torch.tensor([1.0 - t, t], dtype=x.dtype))
        assert float(manifold.dist(m, manifold.geodesic(t, x[0], x[1]))) <= 1e-11


def test_on_euclidean_space_it_is_the_weighted_average() -> None:
    x = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(frechet_mean(Euclidean(1), x, weights), (weights / weights.sum()) @ x.movedim(0, 1))
    torch.testing.assert_close(frechet_mean(Euclidean(1), x, dim=1), x.mean(1))
    torch.testing.assert_close(frechet_mean(Euclidean(1), x, dim=-2), x.mean(0))


def test_on_the_line_the_median_is_the_median() -> None:
    x = torch.tensor([3.0, -1.0, 10.0, 2.0, 0.5], dtype=torch.float64)
    assert float(frechet_median(Euclidean(0), x)) == 2.0
    assert float(frechet_median(Euclidean(0), x, torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0], dtype=x.dtype))) == 3.0


def test_the_median_of_a_triangle_sees_its_sides_under_equal_angles() -> None:
    x = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    m = frechet_median(Euclidean(1), x)
    rays = (x - m) / (x - m).norm(dim=-1, keepdim=True)
    torch.testing.assert_close((rays * rays.roll(1, 0)).sum(-1), torch.full((3,), -0.5, dtype=x.dtype))


def test_one_outlier_moves_the_mean_and_not_the_median() -> None:
    ball = PoincareBall()
    x = 0.1 * torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    far = torch.cat([x, torch.tensor([[0.9999, 0.0]], dtype=x.dtype)])
    moved = [float(ball.dist(f(ball, x), f(ball, far))) for f in (frechet_mean, frechet_median)]
    assert moved[0] > 0.5
    assert moved[1] < 0.1


def test_batches_equal_the_loop() -> None:
    ball = PoincareBall(c=0.5)
    x = 0.5 * torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
    weights = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for find in (frechet_mean, frechet_median):
        together = find(ball, x, weights, dim=1)
        apart = torch.stack([find(ball, x[i], weights[i]) for i in range(4)])
        # Each is within the tolerance of the solution, in coordinates that are shorter than lengths.
        torch.testing.assert_close(together, apart, rtol=0.0, atol=10 * TOLERANCE)


def unrolled(manifold: Manifold, x: Tensor, weights: Tensor) -> Tensor:
    """Mean by plain gradient descent, recorded by autograd."""
    w = (weights / weights.sum()).reshape(-1, *(1,) * manifold.ndim)
    m = x[0]
    for _ in range(60):
        m = manifold.expmap(m, 0.8 * (w * manifold.logmap(m, x)).sum(0))
    return m


# Plain descent needs thousands of recorded steps where curvatures of 0 and 2 meet, as on Grassmann.
@pytest.mark.parametrize("case", [c for c in ROWS if c.kind is not Grassmann], ids=lambda case: case.id)
def test_derivatives_equal_those_of_unrolled_descent(case: Case) -> None:
    """In points and in weights; compared through a function of the point, as its representative is free."""
    manifold, x, weights = spread(case, n=4)
    x.requires_grad_()
    weights.requires_grad_()
    implicit = torch.autograd.grad(case.function(frechet_mean(manifold, x, weights)), (x, weights))
    direct = torch.autograd.grad(case.function(unrolled(manifold, x, weights)), (x, weights))
    for a, b, at in zip(implicit, direct, (x.detach(), None), strict=True):
        if at is not None:
            a, b = manifold.egrad2rgrad(at, a), manifold.egrad2rgrad(at, b)
        # The solution is known to 2e-12; derivatives multiply that by second derivatives of the logarithm.
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@each_row
def test_derivatives_equal_finite_differences_along_geodesics(case: Case) -> None:
    manifold, x, weights = spread(case, n=4)
    v = manifold.random_tangent(x, generator=torch.Generator().manual_seed(9))
    rise = torch.rand(4, dtype=x.dtype, generator=torch.Generator().manual_seed(8))
    h = 1e-4 * case.reach

    def value(x: Tensor, weights: Tensor) -> Tensor:
        return case.function(frechet_mean(manifold, x, weights))

    ahead, behind = (value(manifold.expmap(x, t * v), weights + t * rise) for t in (h, -h))
    x.requires_grad_()
    weights.requires_grad_()
    dx, dw = torch.autograd.grad(value(x, weights), (x, weights))
    # Central differences: h^2 times third derivatives, and the solution's error of 2e-12 over h.
    wanted = float((dx * v).sum() + (dw * rise).sum())
    assert float(ahead - behind) / (2.0 * h) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("find", [frechet_mean, frechet_median], ids=lambda f: f.__name__)
@pytest.mark.parametrize("manifold", [Euclidean(1), Sphere(), PoincareBall(c=0.5)], ids=lambda m: m.name)
def test_first_and_second_derivatives(manifold: Manifold, find: object) -> None:
    generator = torch.Generator().manual_seed(2)
    x = manifold.random(1, 3, dtype=torch.float64, generator=generator).expand(4, 3)
    x = manifold.expmap(x, 0.4 * manifold.random_tangent(x, generator=generator)).requires_grad_()
    weights = (0.5 + torch.rand(4, dtype=torch.float64, generator=generator)).requires_grad_()

    def function(x: Tensor, weights: Tensor) -> Tensor:
        return find(manifold, manifold.projx(x), weights, tolerance=1e-14)  # type: ignore[operator]

    assert torch.autograd.gradcheck(function, (x, weights))
    # Random directions: the whole matrix of second derivatives takes a minute.
    assert torch.autograd.gradgradcheck(function, (x, weights), fast_mode=True)


def test_a_median_at_a_point_moves_with_that_point() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    m = frechet_median(Euclidean(1), x, weights)
    assert torch.equal(m, x[0])
    dx, dw = torch.autograd.grad(m.sum(), (x, weights))
    assert torch.equal(dx, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert torch.equal(dw, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("find", [frechet_mean, frechet_median], ids=lambda f: f.__name__)
def test_equal_points_are_their_own_mean(find: object) -> None:
    x = Sphere().random(3, dtype=torch.float64).expand(5, 3).clone().requires_grad_()
    m = find(Sphere(), x)  # type: ignore[operator]
    torch.testing.assert_close(m, x[0])
    (gradient,) = torch.autograd.grad(m.sum(), x)
    assert torch.isfinite(gradient).all()


def test_points_far_out_converge() -> None:
    """The Hessian grows with the distance in hyperbolic space: full steps would overshoot."""
    ball = PoincareBall()
    u = 4.0 * torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = ball.expmap0(0.5 * u)
    m = frechet_mean(ball, x)
    assert float(ball.norm(m, ball.logmap(m, x).mean(0))) <= 10.0 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision(dtype: torch.dtype) -> None:
    x = Sphere().projx(torch.tensor([0.0, 0.0, 1.0]) + 0.3 * torch.randn(8, 3)).to(dtype)
    m = frechet_mean(Sphere(), x)
    assert m.dtype == dtype
    wanted = frechet_mean(Sphere(), Sphere().projx(x.double()))
    torch.testing.assert_close(m.double(), wanted, rtol=0.0, atol=4 * torch.finfo(dtype).eps ** 0.75)


def test_the_basis_of_a_mean_subspace_is_orthonormal() -> None:
    generator = torch.Generator().manual_seed(0)
    x = Grassmann().random(1, 6, 2, generator=generator).expand(7, 6, 2)
    x = Grassmann().retr(x, 0.2 * Grassmann().random_tangent(x, generator=generator))
    Grassmann().assert_check_point_on_manifold(frechet_mean(Grassmann(), x))


def test_what_does_not_converge_says_how_far_it_came() -> None:
    x = PoincareBall().random(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConvergenceError, match=r"frechet_mean on PoincareBall: after 2 steps the gradient has length"):
        frechet_mean(PoincareBall(), x, max_steps=2)


@pytest.mark.parametrize("find", [frechet_mean, frechet_median], ids=lambda f: f.__name__)
@each_row
def test_the_report_tells_what_the_result_shows(case: Case, find: object) -> None:
    manifold, x, weights = spread(case)
    m, report = find(manifold, x, weights, full_output=True)  # type: ignore[operator]
    assert torch.equal(manifold.dist(m, find(manifold, x, weights)), manifold.dist(m, m))  # type: ignore[operator]
    assert bool(report.converged)
    w, d = weights / weights.sum(), manifold.dist(m, x)
    if find is frechet_median and float(d.amin()) <= 1e-12:
        # One of the points: there is nothing to search, and the others pull less than its own weight.
        assert int(report.iterations) == float(report.step_size) == 0
        assert float(report.gradient_norm) <= float(w[d.argmin()])
    else:
        assert 0 < int(report.iterations) < 1000
        assert float(report.step_size) > 0.0
        # Distances in the suite are below 2, and the tolerance grows with them.
        assert float(report.gradient_norm) <= 2.0 * TOLERANCE
    value = (w * d).sum() if find is frechet_median else 0.5 * (w * d.square()).sum()
    assert float(report.value) == pytest.approx(float(value), rel=1e-12)


def test_the_report_of_a_search_that_is_cut_short_has_a_line_for_each_entry() -> None:
    ball = PoincareBall()
    x = ball.random(2, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1] = x[1, 0]
    m, report = frechet_mean(ball, x, dim=1, max_steps=2, full_output=True)
    assert report.converged.tolist() == [False, True]
    assert report.iterations.tolist() == [2, 0]
    assert float(report.gradient_norm[0]) == pytest.approx(float(ball.norm(m[0], ball.logmap(m[0], x[0]).mean(0))))
    assert float(report.step_size[1]) == 0.0


@pytest.mark.parametrize(
    ("manifold", "spread"),
    [(Sphere(), 0.7 * math.pi), (SPD(), 12.0), (PoincareBall(), 12.0)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_far_points_from_a_far_start(manifold: Manifold, spread: float) -> None:
    """Where full steps overshoot, damped ones lower the objective: it ends below where it began, at a balance."""
    generator = torch.Generator().manual_seed(4)
    shape = (3, 3) if manifold.ndim == 2 else (3,)
    centre = manifold.origin(*shape, dtype=torch.float64).expand(12, *shape)
    u = manifold.random_tangent(centre, generator=generator)
    lengths = (0.5 * spread * torch.rand(12, dtype=torch.float64, generator=generator)).reshape(12, *(1,) * len(shape))
    x = manifold.expmap(centre, lengths * u / manifold.norm(centre, u, keepdim=True))
    start = x[int(manifold.dist(centre, x).argmax())]
    m, report = frechet_mean(manifold, x, start=start, full_output=True)
    assert bool(report.converged)
    assert float(report.value) <= 0.5 * float(manifold.dist2(start, x).mean())
    pull = manifold.logmap(m.expand_as(x), x).mean(0)
    assert float(manifold.norm(m, pull)) <= 10.0 * TOLERANCE * max(1.0, spread)


def test_bad_input_is_refused() -> None:
    x = Sphere().random(4, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="'x' must be a tensor of a real floating dtype on Sphere"):
        frechet_mean(Sphere(), x.long())
    with pytest.raises(TypeError, match="'weights'"):
        frechet_mean(Sphere(), x, [1.0, 2.0, 3.0, 4.0])  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match=r"'weights' has shape \(3,\), wanted \(4,\)"):
        frechet_mean(Sphere(), x, torch.ones(3, dtype=torch.float64))
    with pytest.raises(DimensionError, match="no batch dimension 1"):
        frechet_mean(Sphere(), x, dim=1)
    with pytest.raises(DimensionError, match="at least one point"):
        frechet_mean(Sphere(), x[:0])
    with pytest.raises(DimensionError, match=r"'start' has shape \(2,\)"):
        frechet_median(Sphere(), x, start=torch.ones(2))
    with pytest.raises(ValueError, match="'weights' must not be negative"):
        frechet_median(Sphere(), x, torch.tensor([1.0, 1.0, 1.0, -0.1], dtype=torch.float64))
    with pytest.raises(ValueError, match="must not sum to 0"):
        frechet_mean(Sphere(), x, torch.zeros(4, dtype=torch.float64))

"""What is particular to the probability simplex; the shared contract is tested for all manifolds elsewhere."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.autograd.functional import hvp, jvp

from holonomy.manifolds import MembershipError, Simplex, Sphere

SIMPLEX = Simplex()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def points():
    """Points x, y and tangent vectors u, v at x, short enough to stay in the open simplex."""
    g = generator()
    x, y = (SIMPLEX.random(5, 4, dtype=torch.float64, generator=g) for _ in range(2))
    u, v = (0.05 * SIMPLEX.random_tangent(x, generator=g) for _ in range(2))
    return x, y, u, v


def test_twice_the_distance_log_and_transport_of_the_sphere_of_square_roots(points):
    x, y, u, _ = points
    s, t = SIMPLEX.to_sphere(x), SIMPLEX.to_sphere(y)
    torch.testing.assert_close(SIMPLEX.dist(x, y), 2.0 * Sphere().dist(s, t))
    torch.testing.assert_close(SIMPLEX.logmap(x, y), 2.0 * s * Sphere().logmap(s, t))
    torch.testing.assert_close(SIMPLEX.transp(x, y, u), 2.0 * t * Sphere().transp(s, t, u / (2.0 * s)))
    torch.testing.assert_close(SIMPLEX.from_sphere(s), x)


def test_exp_and_transport_follow_the_great_circle_also_past_a_face(points):
    x, _, u, v = points
    s = SIMPLEX.to_sphere(x)
    point, w = SIMPLEX.expmap_transp(x, 60.0 * u, v)
    circle, b = Sphere().expmap_transp(s, 60.0 * u / (2.0 * s), v / (2.0 * s))
    assert (circle < 0).any()  # some geodesics did leave the orthant
    assert (point >= 0).all()
    torch.testing.assert_close(point, circle.square())
    torch.testing.assert_close(w, 2.0 * circle * b)
    torch.testing.assert_close(SIMPLEX.inner(point, w), SIMPLEX.inner(x, v))


def test_agrees_with_the_fisher_rao_metric_of_categorical_distributions(monkeypatch):
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # geomstats still asks numpy for its old name
    categorical = pytest.importorskip("geomstats.information_geometry.categorical")
    metric = categorical.CategoricalDistributions(3).metric
    x, y = (SIMPLEX.random(6, 4, dtype=torch.float64, generator=generator(s)) for s in (1, 2))
    u = 0.1 * SIMPLEX.random_tangent(x, generator=generator(3))
    to_torch = torch.from_numpy
    torch.testing.assert_close(SIMPLEX.dist(x, y), to_torch(metric.dist(x.numpy(), y.numpy())))
    torch.testing.assert_close(SIMPLEX.logmap(x, y), to_torch(metric.log(y.numpy(), x.numpy())))
    torch.testing.assert_close(SIMPLEX.expmap(x, u), to_torch(metric.exp(u.numpy(), x.numpy())))
    torch.testing.assert_close(SIMPLEX.inner(x, u), to_torch(metric.squared_norm(u.numpy(), x.numpy())))


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-5, 1e-6])
def test_distance_of_close_points_keeps_its_digits_in_float32(gap):
    x = torch.tensor([0.2, 0.3, 0.5])
    y = x + gap * torch.tensor([1.0, -0.5, -0.5])
    with mpmath.workdps(50):
        roots = [(mpmath.sqrt(float(a)), mpmath.sqrt(float(b))) for a, b in zip(x, y, strict=True)]
        chord = mpmath.sqrt(sum((a - b) ** 2 for a, b in roots))
        exact = float(4 * mpmath.asin(chord / 2))
    # A dozen roundings of float32 (6e-8 each); the textbook 2 acos(sum sqrt(x y)) is off by 100% at the last two.
    assert float(SIMPLEX.dist(x, y)) == pytest.approx(exact, rel=1e-6)
    assert float(SIMPLEX.dist2(x, y)) == pytest.approx(exact**2, rel=1e-6)


def test_squared_distance_of_a_point_to_itself_has_the_metric_as_hessian(points):
    x, _, u, v = points
    second = torch.func.hessian(lambda t: SIMPLEX.dist2(x[0], SIMPLEX.expmap(x[0], t[0] * u[0] + t[1] * v[0])))(
        torch.zeros(2, dtype=torch.float64)
    )
    uv = SIMPLEX.inner(x[0], u[0], v[0])
    expected = 2.0 * torch.stack([SIMPLEX.inner(x[0], u[0]), uv, uv, SIMPLEX.inner(x[0], v[0])]).view(2, 2)
    torch.testing.assert_close(second, expected)


def test_riemannian_hessian_is_the_second_derivative_along_geodesics(points):
    x, _, u, v = points
    weight = torch.randn(5, 4, 4, dtype=torch.float64, generator=generator(5))

    def f(x):
        return torch.einsum("bi,bij,bj->", x.exp(), weight, x.sin())

    egrad = torch.func.grad(f)(x)
    for direction in (u, v, u + v):
        ehess = hvp(f, x, direction)[1]
        hessian = SIMPLEX.ehess2rhess(x, egrad, ehess, direction)
        assert SIMPLEX.check_vector_on_tangent(x, hessian)

        def along(t, direction=direction):
            return f(SIMPLEX.expmap(x, t * direction))

        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        second = jvp(lambda t, g=along: torch.func.grad(g)(t), zero, one)[1]
        torch.testing.assert_close(SIMPLEX.inner(x, hessian, direction).sum(), second)


def test_riemannian_gradient_is_the_riesz_representative(points):
    x, _, u, _ = points
    g = torch.randn(5, 4, dtype=torch.float64, generator=generator(6))
    gradient = SIMPLEX.egrad2rgrad(x, g)
    assert SIMPLEX.check_vector_on_tangent(x, gradient)
    torch.testing.assert_close(SIMPLEX.inner(x, gradient, u), (g * u).sum(-1))


def test_projection_of_vectors_is_orthogonal_in_the_metric(points):
    x, _, v, _ = points
    u = torch.randn(5, 4, dtype=torch.float64, generator=generator(7))
    rest = u - SIMPLEX.proju(x, u)
    # Nothing to compare with but the length of the factors, about 1: rounding of float64.
    torch.testing.assert_close((rest * v / x).sum(-1), torch.zeros(5, dtype=torch.float64), atol=1e-13, rtol=0)


def test_projection_of_points_is_the_nearest_in_relative_entropy():
    x = torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64)
    y = SIMPLEX.projx(x)

    def divergence(p):
        return (p * (p / x).log()).sum()

    for direction in ([1.0, -1.0, 0.0], [0.0, 1.0, -1.0]):
        step = 1e-4 * torch.tensor(direction, dtype=torch.float64)
        assert divergence(y + step) > divergence(y) < divergence(y - step)
    fallen = SIMPLEX.projx(torch.tensor([[-1.0, 0.5, 0.5], [-1.0, -2.0, 0.0]]))
    torch.testing.assert_close(fallen, torch.tensor([[0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]))
    assert SIMPLEX.projx(torch.tensor([torch.nan, 1.0])).isnan().any()


@pytest.mark.parametrize(("retraction", "order"), [("softmax", 2), ("exp", 4)])
def test_order_of_the_retraction(points, retraction, order):
    x, _, u, _ = points
    simplex = Simplex(retraction)
    assert simplex.reversible == (retraction == "exp")
    steps = torch.tensor([0.2, 0.1], dtype=torch.float64)
    errors = torch.stack([(simplex.retr(x, t * u) - SIMPLEX.expmap(x, t * u)).norm() for t in steps])
    if retraction == "exp":
        assert errors.max() == 0
    else:
        # Halving the step divides the error by 2^order, up to the next order's share.
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_softmax_retraction_stays_inside_and_does_not_overflow():
    x = torch.tensor([0.1, 0.3, 0.6])
    y = SIMPLEX.retr(x, torch.tensor([40.0, -20.0, -20.0]))  # exp(400) has no place in float32
    assert SIMPLEX.check_point_on_manifold(y)
    torch.testing.assert_close(y, torch.tensor([1.0, 0.0, 0.0]))


def test_geodesics_and_distances_from_points_of_a_face():
    x = torch.tensor([0.0, 0.4, 0.6, 0.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.3, 0.1, 0.2, 0.4], dtype=torch.float64, requires_grad=True)
    u = SIMPLEX.proju(x.detach(), torch.tensor([1.0, 2.0, -1.0, 3.0], dtype=torch.float64))
    assert u[0] == u[3] == 0
    assert not SIMPLEX.check_vector_on_tangent(x, torch.tensor([0.1, -0.1, 0.0, 0.0], dtype=torch.float64))
    assert SIMPLEX.expmap(x, u)[[0, 3]].abs().max() == 0
    assert SIMPLEX.retr(x, u)[[0, 3]].abs().max() == 0
    expected = 2.0 * math.acos(math.sqrt(0.04) + math.sqrt(0.12))
    assert SIMPLEX.dist(x, y).item() == pytest.approx(expected, rel=1e-12)
    results = [
        SIMPLEX.dist(x, y), SIMPLEX.dist2(x, y), SIMPLEX.logmap(x, y), SIMPLEX.expmap(x, u), SIMPLEX.retr(x, u),
        SIMPLEX.transp(x, y, u), SIMPLEX.transp(y, x, SIMPLEX.logmap(y, x)), *SIMPLEX.expmap_transp(x, u, u),
    ]  # fmt: skip
    for result in results:
        gradients = torch.autograd.grad(result.square().sum(), (x, y), allow_unused=True, retain_graph=True)
        assert result.isfinite().all()
        assert all(g.isfinite().all() for g in gradients if g is not None)


def test_opposite_vertices_are_pi_apart():
    x, y = torch.eye(3, dtype=torch.float64)[:2]
    assert float(SIMPLEX.dist(x, y)) == pytest.approx(math.pi, rel=1e-15)


def test_injectivity_radius_is_the_distance_to_the_nearest_face():
    x = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    foot = torch.tensor([0.0, 1 / 3, 2 / 3], dtype=torch.float64)  # the nearest point of the face, by symmetry
    assert SIMPLEX.injectivity_radius(x) == pytest.approx(float(SIMPLEX.dist(x, foot)))
    assert SIMPLEX.injectivity_radius() == 0.0


def test_random_points_have_the_moments_of_the_flat_dirichlet_law():
    x = SIMPLEX.random(20_000, 3, dtype=torch.float64, generator=generator(11))
    assert SIMPLEX.check_point_on_manifold(x)
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, covariance -1/36; five standard errors of 20,000 draws.
    torch.testing.assert_close(x.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.0084, rtol=0)
    expected = torch.eye(3, dtype=torch.float64) / 12 - 1 / 36
    torch.testing.assert_close(x.T.cov(), expected, atol=0.003, rtol=0)
    assert torch.equal(SIMPLEX.random(4, 3, generator=generator(1)), SIMPLEX.random(4, 3, generator=generator(1)))


def test_random_tangents_are_standard_normal_in_the_metric():
    x = torch.tensor([0.05, 0.25, 0.7], dtype=torch.float64).expand(20_000, 3)
    u = SIMPLEX.random_tangent(x, generator=generator(12))
    # |u|^2 is chi-squared with 2 degrees of freedom: mean 2, variance 4; five standard errors.
    assert float(SIMPLEX.inner(x, u).mean()) == pytest.approx(2.0, abs=5 * 2 / math.sqrt(20_000))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x, y = (SIMPLEX.random(6, 5, generator=generator(s)).to(dtype) for s in (1, 2))
    result = SIMPLEX.logmap(x, y)
    assert result.dtype == dtype
    torch.testing.assert_close(result, SIMPLEX.logmap(x.float(), y.float()).to(dtype), atol=0, rtol=0)


OPERATIONS = {
    "expmap": lambda m, x, y, u, v: m.expmap(x, u),
    "logmap": lambda m, x, y, u, v: m.logmap(x, y),
    "retr": lambda m, x, y, u, v: m.retr(x, u),
    "transp": lambda m, x, y, u, v: m.transp(x, y, u),
    "expmap_transp": lambda m, x, y, u, v: m.expmap_transp(x, u, v),
    "dist": lambda m, x, y, u, v: m.dist(x, y),
    "dist2": lambda m, x, y, u, v: m.dist2(x, y),
    "inner": lambda m, x, y, u, v: m.inner(x, u, v),
    "egrad2rgrad": lambda m, x, y, u, v: m.egrad2rgrad(x, u),
    "ehess2rhess": lambda m, x, y, u, v: m.ehess2rhess(x, y, v, u),
    "projx": lambda m, x, y, u, v: m.projx(x),
    "to_sphere": lambda m, x, y, u, v: m.to_sphere(x),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_first_and_second_derivatives_and_vmap(points, operation):
    def f(*inputs):
        return operation(SIMPLEX, *inputs)

    small = tuple(t[:2].clone().requires_grad_() for t in points)
    assert torch.autograd.gradcheck(f, small)
    assert torch.autograd.gradgradcheck(f, small)
    torch.testing.assert_close(torch.vmap(f)(*points), f(*points))


def test_everything_compiles_as_one_graph(points):
    def everything(x, y, u, v):
        return [operation(SIMPLEX, x, y, u, v) for operation in OPERATIONS.values()]

    torch.testing.assert_close(
        torch.compile(everything, fullgraph=True, backend="aot_eager")(*points), everything(*points)
    )


def test_errors_say_what_is_wrong():
    strict = Simplex(validate=True)
    with pytest.raises(MembershipError, match=r"Simplex.dist: argument 'y' has negative entries, down to -0.2"):
        strict.dist(torch.tensor([0.5, 0.5]), torch.tensor([1.2, -0.2]))
    with pytest.raises(MembershipError, match=r"must sum to 1 .* sums to 1.5"):
        strict.dist(torch.tensor([[0.5, 0.5], [0.5, 1.0]]), torch.tensor([0.5, 0.5]))
    with pytest.raises(MembershipError, match="NaN"):
        strict.projx(torch.tensor([torch.nan, 0.5]))
    with pytest.raises(MembershipError, match="'u' is not tangent"):
        strict.expmap(torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.1]))
    with pytest.raises(ValueError, match="at least 2"):
        SIMPLEX.random(3, 1)
    with pytest.raises(ValueError, match="'retraction' must be one of softmax, exp, got 'qr'"):
        Simplex("qr")
    with pytest.raises(TypeError, match=r"torch.int64"):
        SIMPLEX.dist(torch.tensor([0, 1]), torch.tensor([0, 1]))

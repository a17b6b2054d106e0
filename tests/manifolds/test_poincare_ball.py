"""What is particular to the Poincaré ball: accuracy up to the boundary, gyrovectors, the axis of the points."""

import math
from collections.abc import Callable

import geoopt
import mpmath
import pytest
import torch
from hyperbolic_reference import ball_distance, pairs, relative_error
from torch import Tensor

from holonomy.manifolds import DimensionError, Lorentz, MembershipError, PoincareBall

F32, F64 = torch.float32, torch.float64
EPS32, EPS64 = torch.finfo(F32).eps, torch.finfo(F64).eps
CURVATURES = pytest.mark.parametrize("c", [0.01, 0.3, 1.0, 7.0, 50.0])


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(ball: PoincareBall, *size: int, seed: int = 0) -> Tensor:
    return 0.9 * ball.random(*size, dtype=F64, generator=_draw(seed))


def _vectors(*size: int, seed: int = 10) -> Tensor:
    return torch.randn(size, dtype=F64, generator=_draw(seed))


# -- accuracy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "delta"), [(0.5, 1e-5), (0.5, 1.0), (3.0, 1e-2), (6.0, 1e-2), (6.0, 1.0), (9.0, 1.0), (14.0, 1e-2)]
)
def test_distance_keeps_all_digits_for_close_points_and_near_the_boundary(rho: float, delta: float) -> None:
    ball = PoincareBall()
    x, y = pairs(rho, delta, F32)
    exact = [ball_distance(a, b) for a, b in zip(x, y, strict=True)]
    # A handful of roundings: the conformal factor of float32 points is exact to float32.
    assert relative_error(ball.dist(x, y), exact) < 4 * EPS32
    assert relative_error(ball.cdist(x, y).diagonal(), exact) < 4 * EPS32
    assert relative_error(ball.norm(x, ball.logmap(x, y)), exact) < 6 * EPS32
    x, y = pairs(rho, delta, F64)
    exact = [ball_distance(a, b) for a, b in zip(x, y, strict=True)]
    # In float64 the factor 1 - |x|^2 = 4 exp(-rho) carries the rounding of a number of size 1, for both points.
    allowed = 8 * EPS64 * max(1.0, 0.5 * math.exp(rho))
    assert relative_error(ball.dist(x, y), exact) < allowed
    assert relative_error(ball.norm(x, ball.logmap(x, y)), exact) < allowed


def test_distance_is_finite_at_every_radius() -> None:
    ball = PoincareBall()
    x, y = pairs(14.0, 1.0, F32)
    edge = ball.projx(10.0 * x)
    for a, b in ((x, y), (edge, y), (edge, -edge), (edge, edge)):
        assert bool(torch.isfinite(ball.dist(a, b)).all())
    assert torch.equal(ball.dist(edge, edge), torch.zeros(60))


def test_points_reach_the_last_safe_radius_and_not_a_common_shell() -> None:
    ball = PoincareBall()
    u = torch.zeros(16, 3)
    u[:, 0] = torch.arange(16) / 2.0  # tangent vectors at the origin have length 2|u| in the metric
    # One rounding of a coordinate near 1, which the metric magnifies by exp(r)/4.
    wanted = 2.0 * u[:, 0]
    torch.testing.assert_close(ball.dist0(ball.expmap0(u)), wanted, rtol=1e-6, atol=EPS32 * math.exp(15.0) / 4)
    assert float(ball.dist0(ball.projx(torch.tensor([5.0, 5.0])))) > 16.0
    assert float(ball.dist0(ball.projx(torch.tensor([5.0, 5.0], dtype=F64)))) > 32.0


@pytest.mark.parametrize("dtype", [F64, F32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("c", [0.3, 1.0, 50.0])
@pytest.mark.parametrize("d", [1, 2, 5, 513])
def test_results_are_strictly_inside_in_every_dtype(dtype: torch.dtype, c: float, d: int) -> None:
    ball = PoincareBall(c)
    x = (torch.randn(200, d, dtype=F64, generator=_draw()) * 3.0).to(dtype)
    for y in (
        ball.projx(x),
        ball.expmap0(x),
        ball.expmap(ball.projx(x), x),
        ball.mobius_add(ball.projx(x), ball.projx(-2 * x)),
    ):
        assert y.dtype == dtype
        assert all(mpmath.fsum(mpmath.mpf(t) ** 2 for t in row) * mpmath.mpf(c) < 1 for row in y[:40].tolist())


def test_half_precision_does_not_clip_tangent_vectors_and_distances() -> None:
    ball = PoincareBall()
    x, y = torch.tensor([0.9, 0.0]).bfloat16(), torch.tensor([-0.9, 0.0]).bfloat16()
    assert float(ball.dist(x, y)) > 5.0
    assert float(ball.logmap(torch.zeros_like(y), ball.projx(2 * y)).norm()) > 1.0
    assert float(ball.transp0back(x, 5 * x).norm()) > 10.0


@pytest.mark.parametrize("dtype", [F32, F64])
def test_projection_is_the_identity_inside_and_idempotent(dtype: torch.dtype) -> None:
    ball = PoincareBall(2.0)
    inside = _points(ball, 50, 7).to(dtype)
    assert torch.equal(ball.projx(inside), inside)
    outside = ball.projx(torch.randn(500, 7, dtype=dtype, generator=_draw()))
    assert torch.equal(ball.projx(outside), outside)


# -- gradients where formulas divide by zero ---------------------------------------------------------------------------


def _hard_points(ball: PoincareBall, dtype: torch.dtype) -> list[Tensor]:
    e = torch.tensor([0.6, 0.8, 0.0], dtype=dtype) * float(ball.radius)
    edge = ball.projx(5.0 * e)
    return [0.0 * e, 1e-20 * e, 0.5 * e, edge, -edge, e, ball.expmap0(3.0 * e)]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("c", [1e-6, 1.0, 1e4])
def test_values_and_gradients_are_finite_at_the_origin_the_boundary_and_coincident_points(
    dtype: torch.dtype, c: float
) -> None:
    ball = PoincareBall(c)
    points = _hard_points(ball, dtype)
    e = torch.tensor([1.0, 0.0, 0.0], dtype=dtype) * float(ball.radius)
    vectors = [0.0 * e, 1e-25 * e, e, 100.0 * e, -100.0 * e, 1e4 * e]

    def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
        leaves = [t.clone().requires_grad_() for t in inputs]
        result = function(*leaves)
        gradients = torch.autograd.grad(result.sum(), leaves)
        assert all(bool(torch.isfinite(t).all()) for t in (result, *gradients)), (function, inputs)

    for x in points:
        for function in (ball.logmap0, ball.dist0, ball.lambda_x, ball.to_lorentz):
            check(function, x)
        for u in vectors:
            for function in (ball.expmap, ball.norm, ball.egrad2rgrad, lambda x, u: ball.expmap_transp(x, u, u)[1]):
                check(function, x, u)
            check(ball.expmap0, u)
        for y in points:
            for function in (ball.dist, ball.dist2, ball.logmap, ball.mobius_add, ball.mobius_coadd):
                check(function, x, y)
            check(ball.transp, x, y, vectors[2])
            check(ball.dist2plane, x, y, vectors[2])
            check(ball.dist2plane, x, y, vectors[0])
            check(lambda x, y: ball.midpoint(torch.stack([x, y])), x, y)
            check(lambda x, y: ball.cdist(x[None], y[None]), x, y)


def test_second_derivatives_at_the_origin_are_those_of_the_metric() -> None:
    ball, zero = PoincareBall(0.7), torch.zeros(3, dtype=F64)
    # dist2(0, y) = 4|y|^2 + O(|y|^4), in float32 too, where the squared length is corrected in float64.
    for dtype in (F32, F64):
        hessian = torch.autograd.functional.hessian(lambda y: ball.dist2(zero.to(y.dtype), y), zero.to(dtype))
        torch.testing.assert_close(hessian, 8.0 * torch.eye(3, dtype=dtype))


def test_float32_gradients_agree_with_float64_near_the_boundary() -> None:
    ball = PoincareBall()
    x, y = pairs(9.0, 1.0, F32)
    gradients = {}
    for dtype in (F32, F64):
        leaf = x.to(dtype).clone().requires_grad_()
        ball.dist(leaf, y.to(dtype)).sum().backward()
        gradients[dtype] = leaf.grad
    # A handful of roundings of the gradient's length: single entries are differences of larger numbers.
    error = torch.linalg.vector_norm(gradients[F32].double() - gradients[F64], dim=-1)
    assert bool((error <= 4 * EPS32 * torch.linalg.vector_norm(gradients[F64], dim=-1)).all())


# -- equality with geoopt on comfortable points ------------------------------------------------------------------------

_UNARY = ("dist0", "lambda_x", "logmap0", "antipode", "weighted_midpoint")
_BINARY = ("dist", "dist2", "logmap", "mobius_add", "mobius_sub", "mobius_coadd", "mobius_cosub")


@pytest.mark.parametrize("c", [0.3, 1.0, 7.0])
def test_values_equal_those_of_geoopt(c: float) -> None:
    peer = geoopt.PoincareBall(c=torch.tensor(c, dtype=F64))
    ball = PoincareBall(peer.c.item())  # its softplus does not give back what was asked for
    x, y = _points(ball, 5, 3), _points(ball, 5, 3, seed=1)
    u, v, a = _vectors(5, 3), _vectors(5, 3, seed=11), _vectors(5, 3, seed=12)
    r, m = torch.linspace(-2.0, 2.0, 5, dtype=F64).unsqueeze(1), _vectors(4, 3)
    calls: list[tuple[str, tuple[Tensor, ...], dict[str, object]]] = [
        *((name, (x,), {}) for name in _UNARY),
        *((name, (x, y), {}) for name in _BINARY),
        *((name, (x, 0.2 * u), {}) for name in ("expmap", "norm", "egrad2rgrad", "transp0", "transp0back")),
        ("expmap0", (0.2 * u,), {}),  # geoopt clips at a distance of 12
        ("transp", (x, y, v), {}),
        ("gyration", (x, y, v), {}),
        ("inner", (x, u, v), {"keepdim": True}),
        ("mobius_scalar_mul", (r, x), {}),
        ("mobius_pointwise_mul", (a, x), {}),
        ("mobius_matvec", (m, x), {}),
        ("geodesic", (torch.tensor(0.3, dtype=F64), x, y), {}),
        *(("dist2plane", (x, y, a), {"signed": s, "scaled": t}) for s in (False, True) for t in (False, True)),
        ("weighted_midpoint", (x, r.squeeze(1).abs()), {"lincomb": True}),
        ("weighted_midpoint", (x, r.squeeze(1)), {"posweight": True}),
    ]
    for name, tensors, options in calls:
        got, wanted = (getattr(manifold, name)(*tensors, **options) for manifold in (ball, peer))
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    assert torch.equal(ball.conformal_factor(x), ball.lambda_x(x))
    torch.testing.assert_close(ball.mobius_fn_apply(torch.sin, x), peer.mobius_fn_apply(torch.sin, x))
    chain = (torch.sin, torch.exp)
    torch.testing.assert_close(ball.mobius_fn_apply_chain(x, *chain), peer.mobius_fn_apply_chain(x, *chain))


# -- the axis of the points --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PoincareBall, Lorentz], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dim", [1, -3, 0, -1])
def test_every_operation_works_along_any_axis(kind: type[PoincareBall] | type[Lorentz], dim: int) -> None:
    manifold = kind(0.6)
    last = {n: manifold.random(2, 4, 3, 5, dtype=F64, generator=_draw(i)) for i, n in enumerate("xy")}
    last |= {n: manifold.random_tangent(last["x"], generator=_draw(i)) for i, n in enumerate("uv", 5)}
    t = {name: value.movedim(-1, dim) for name, value in last.items()}
    vectors = {"projx": "x", "proju": "xu", "egrad2rgrad": "xu", "expmap": "xu", "logmap": "xy", "retr": "xu"}
    vectors |= {"transp": "xyv", "transp_follow_expmap": "xuv", "transp_follow_retr": "xuv", "expmap0": "u"}
    vectors |= {"logmap0": "y", "transp0back": "xu"}
    if kind is PoincareBall:
        vectors |= {
            "mobius_add": "xy",
            "mobius_sub": "xy",
            "mobius_coadd": "xy",
            "mobius_cosub": "xy",
            "gyration": "xyu",
        }
        vectors |= {"antipode": "x", "to_lorentz": "x", "to_lorentz_tangent": "xu", "transp0": "xu"}
        m = _vectors(6, 5)
        torch.testing.assert_close(
            manifold.mobius_matvec(m, t["x"], dim=dim), manifold.mobius_matvec(m, last["x"]).movedim(-1, dim)
        )
    else:
        vectors |= {"to_poincare": "x", "to_poincare_tangent": "xu"}
    for name, names in vectors.items():
        got = getattr(manifold, name)(*(t[n] for n in names), dim=dim)
        wanted = getattr(manifold, name)(*(last[n] for n in names)).movedim(-1, dim)
        torch.testing.assert_close(got, wanted, msg=lambda text, name=name: f"{name}: {text}")
    for name in ("expmap_transp", "retr_transp"):
        got = getattr(manifold, name)(t["x"], t["u"], t["v"], dim=dim)
        wanted = tuple(w.movedim(-1, dim) for w in getattr(manifold, name)(last["x"], last["u"], last["v"]))
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(
        manifold.geodesic(0.3, t["x"], t["y"], dim=dim), manifold.geodesic(0.3, last["x"], last["y"]).movedim(-1, dim)
    )
    scalars = {"inner": "xuv", "norm": "xu", "dist": "xy", "dist2": "xy", "dist0": "x"}
    if kind is PoincareBall:
        scalars |= {"lambda_x": "x", "dist2plane": "xyu"}
    for name, names in scalars.items():
        wanted = getattr(manifold, name)(*(last[n] for n in names))
        tensors = [t[n] for n in names]
        torch.testing.assert_close(getattr(manifold, name)(*tensors, dim=dim), wanted)
        torch.testing.assert_close(getattr(manifold, name)(*tensors, dim=dim, keepdim=True), wanted.unsqueeze(dim))


def test_an_axis_that_is_not_there_is_named() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(
        DimensionError, match=r"PoincareBall\.dist: argument 'x' has shape \(2, 3\), which has no axis 2"
    ):
        PoincareBall().dist(x, x, dim=2)


# -- gyrovector space --------------------------------------------------------------------------------------------------


@CURVATURES
def test_gyrogroup_identities(c: float) -> None:
    ball = PoincareBall(c)
    x, y, z = (_points(ball, 20, 4, seed=s) for s in range(3))
    add, gyr, mul = ball.mobius_add, ball.gyration, ball.mobius_scalar_mul
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * float(ball.radius))  # noqa: E731
    close(add(torch.zeros_like(x), x), x)
    assert torch.equal(add(-x, x), torch.zeros_like(x))
    close(add(-x, add(x, y)), y)
    close(add(x, add(y, z)), add(add(x, y), gyr(x, y, z)))
    close(add(x, y), gyr(x, y, add(y, x)))
    close(gyr(add(x, y), y, z), gyr(x, y, z))
    close(gyr(x, y, gyr(y, x, z)), z)
    close(gyr(x, y, z).norm(dim=-1), z.norm(dim=-1))
    close(ball.mobius_coadd(x, y), ball.mobius_coadd(y, x))
    close(add(ball.mobius_cosub(x, y), y), x)
    close(mul(2.0, x), add(x, x))
    close(mul(0.3, mul(-1.7, x)), mul(-0.51, x))
    close(add(mul(0.3, x), mul(0.9, x)), mul(1.2, x))
    close(ball.dist(add(z, x), add(z, y)), ball.dist(x, y))


def test_gyration_is_the_composition_of_additions_that_defines_it() -> None:
    ball = PoincareBall(0.8)
    x, y, z = (_points(ball, 20, 4, seed=s) for s in range(3))
    composed = ball.mobius_add(-ball.mobius_add(x, y), ball.mobius_add(x, ball.mobius_add(y, z)))
    torch.testing.assert_close(ball.gyration(x, y, z), composed, rtol=1e-9, atol=1e-11)
    # Linear in the vector, also for long ones, where the composition leaves the ball.
    torch.testing.assert_close(ball.gyration(x, y, 1e6 * z), 1e6 * ball.gyration(x, y, z))


@CURVATURES
def test_distance_to_a_hyperplane_is_the_least_distance_to_its_points(c: float) -> None:
    ball = PoincareBall(c)
    x, p, a = _points(ball, 3), _points(ball, 3, seed=1), _vectors(3)
    # Walk in the plane: exp at p of vectors orthogonal to a, minimised by Newton steps of the distance squared.
    basis = torch.linalg.svd(a.unsqueeze(0))[2][1:]
    t = torch.zeros(2, dtype=F64)
    step = lambda t: ball.dist2(x, ball.expmap(p, t @ basis))  # noqa: E731
    for _ in range(30):
        t = t - torch.linalg.solve(torch.func.hessian(step)(t), torch.func.grad(step)(t))
    torch.testing.assert_close(ball.dist2plane(x, p, a).square(), step(t), rtol=1e-9, atol=1e-12)
    assert float(ball.dist2plane(p, p, a)) == 0.0
    on_the_side = ball.expmap(p, 0.1 * a * float(ball.radius))
    assert float(ball.dist2plane(on_the_side, p, a, signed=True)) > 0.0
    assert float(ball.dist2plane(ball.expmap(p, -0.1 * a * float(ball.radius)), p, a, signed=True)) < 0.0


# -- midpoints ---------------------------------------------------------------------------------------------------------


@CURVATURES
def test_midpoint_is_the_geodesic_one_of_two_points_and_moves_with_isometries(c: float) -> None:
    ball = PoincareBall(c)
    xs, z, w = _points(ball, 9, 4), _points(ball, 4, seed=1), torch.rand(9, dtype=F64, generator=_draw())
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * float(ball.radius))  # noqa: E731
    close(ball.midpoint(xs[:1]), xs[0])
    close(ball.midpoint(xs[:2]), ball.geodesic(0.5, xs[0], xs[1]))
    close(ball.midpoint(xs, w), ball.midpoint(xs.flip(0), w.flip(0)))
    close(ball.midpoint(ball.mobius_add(z, xs), w), ball.mobius_add(z, ball.midpoint(xs, w)))


def test_midpoint_reduces_the_axes_that_are_named() -> None:
    ball = PoincareBall(0.6)
    maps = _points(ball, 2, 4, 3, 5)
    channels_first = maps.movedim(-1, 1)
    weights = torch.rand(2, 4, 3, dtype=F64, generator=_draw())
    wanted = torch.stack([ball.midpoint(maps[:, i].reshape(-1, 5), weights[:, i].reshape(-1)) for i in range(4)])
    got = ball.midpoint(channels_first, weights, reducedim=[0, 3], dim=1)
    torch.testing.assert_close(got, wanted.T)
    kept = ball.midpoint(channels_first, weights, reducedim=[0, 3], dim=1, keepdim=True)
    assert kept.shape == (1, 5, 4, 1)
    with pytest.raises(DimensionError, match="contains the axis 1"):
        ball.midpoint(channels_first, reducedim=[1], dim=1)


def test_float32_midpoint_keeps_its_digits_far_from_the_origin() -> None:
    ball = PoincareBall()
    x = pairs(9.0, 1.0, F32)[1]
    single, double = ball.midpoint(x[:4].repeat(8, 1)), ball.midpoint(x[:4].double())
    # One rounding of the result, which the metric magnifies by exp(rho)/4.
    assert float(ball.dist(single.double(), double)) < EPS32 * math.exp(9.0)
    close_by = torch.stack([x[0], x[0]])
    assert float(ball.dist(ball.midpoint(close_by).double(), x[0].double())) < EPS32 * math.exp(10.0)


def test_midpoint_with_weights_of_zero_is_the_origin_and_not_nan() -> None:
    ball = PoincareBall()
    assert torch.equal(ball.midpoint(_points(ball, 4, 3), torch.zeros(4, dtype=F64)), torch.zeros(3, dtype=F64))


# -- derivatives of the metric -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.3, 7.0])
def test_riemannian_hessian_is_the_second_derivative_along_geodesics(c: float) -> None:
    ball = PoincareBall(c)
    x, u = _points(ball, 3), _vectors(3) * 0.3
    a = _vectors(3, seed=12)

    def function(x: Tensor) -> Tensor:
        return torch.sin(x @ a) + (x * x * a).sum()

    egrad = torch.func.grad(function)(x)
    ehess = torch.func.hessian(function)(x) @ u
    quadratic = ball.inner(x, ball.ehess2rhess(x, egrad, ehess, u), u)
    zero = torch.zeros((), dtype=F64)
    along = torch.func.grad(torch.func.grad(lambda t: function(ball.expmap(x, t * u))))(zero)
    torch.testing.assert_close(quadratic, along, rtol=1e-9, atol=1e-11)


# -- isometry with the hyperboloid, laws, checks -----------------------------------------------------------------------


@CURVATURES
def test_the_map_to_the_hyperboloid_is_an_isometry_for_every_curvature(c: float) -> None:
    ball, sheet = PoincareBall(c), Lorentz(c)
    x, y, u = _points(ball, 8, 4), _points(ball, 8, 4, seed=1), _vectors(8, 4)
    X, Y, U = ball.to_lorentz(x), ball.to_lorentz(y), ball.to_lorentz_tangent(x, u)
    assert sheet.check_point_on_manifold(X)
    assert sheet.check_vector_on_tangent(X, U, atol=1e-10)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)  # noqa: E731
    close(sheet.to_poincare(X), x)
    close(sheet.to_poincare_tangent(X, U), u)
    close(sheet.dist(X, Y), ball.dist(x, y))
    close(sheet.inner(X, U), ball.inner(x, u))
    close(U, torch.func.jvp(ball.to_lorentz, (x,), (u,))[1])
    v = 0.1 * u * float(ball.radius)
    close(sheet.to_poincare(sheet.expmap(X, ball.to_lorentz_tangent(x, v))), ball.expmap(x, v))
    close(sheet.to_poincare_tangent(X, sheet.logmap(X, Y)), ball.logmap(x, y))
    close(sheet.to_poincare_tangent(Y, sheet.transp(X, Y, U)), ball.transp(x, y, u))
    close(sheet.to_poincare(sheet.midpoint(X)), ball.midpoint(x))


@CURVATURES
def test_random_points_follow_the_wrapped_normal_law_at_every_curvature(c: float) -> None:
    ball = PoincareBall(c)
    x = ball.random(20000, 5, dtype=F64, generator=_draw())
    n = ball.logmap0(x) / float(ball.radius)
    # Covariance I/d: the standard error of a mean of squares over 20,000 draws is about 0.01/d.
    torch.testing.assert_close(n.T @ n / 20000, torch.eye(5, dtype=F64) / 5, rtol=0.0, atol=0.01)
    same = ball.random(3, 5, generator=_draw(3))
    assert torch.equal(same, ball.random(3, 5, generator=_draw(3)))


def test_membership_names_how_far_out_a_point_is() -> None:
    ball = PoincareBall(4.0, validate=True)
    with pytest.raises(MembershipError, match=r"'y' is outside of the open ball: sqrt\(c\)\|x\| reaches 2"):
        ball.dist(torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert ball.check_point_on_manifold(torch.tensor([0.4999, 0.0]))
    assert not ball.check_point_on_manifold(torch.tensor([0.5, 0.0]))


def test_a_matrix_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        DimensionError, match=r"mobius_matvec: argument 'm' has shape \(4, 2\), wanted \(\.\.\., e, 3\)"
    ):
        PoincareBall().mobius_matvec(torch.zeros(4, 2), torch.zeros(5, 3))


def test_gyrovector_operations_compile_without_a_break() -> None:
    ball = PoincareBall(0.8)
    x, y = _points(ball, 6, 3), _points(ball, 6, 3, seed=1)

    def everything(x: Tensor, y: Tensor) -> Tensor:
        z = ball.mobius_add(ball.mobius_scalar_mul(0.5, x), ball.gyration(x, y, y))
        return ball.midpoint(z) + ball.dist2plane(x, y, z).sum() + ball.mobius_coadd(x, y, project=False)

    torch.testing.assert_close(torch.compile(everything, fullgraph=True, backend="aot_eager")(x, y), everything(x, y))
    vmapped = torch.func.vmap(everything)(x.expand(2, 6, 3), y.expand(2, 6, 3))
    torch.testing.assert_close(vmapped[1], everything(x, y))


def test_operations_take_meta_tensors() -> None:
    ball, x = PoincareBall(0.8), torch.empty(4, 3, device="meta")
    assert ball.mobius_add(x, x).shape == (4, 3)
    assert ball.midpoint(x).shape == (3,)
    assert ball.cdist(x, x).shape == (4, 4)
    assert ball.dist2plane(x, x, x).shape == (4,)


def test_random_normal_has_the_law_of_geoopt():
    generator = torch.Generator().manual_seed(0)
    ball, mean = PoincareBall(c=0.3), torch.tensor([0.4, -0.2], dtype=torch.float64)
    x = ball.random_normal(20_000, 2, mean=mean, std=0.5, dtype=torch.float64, generator=generator)
    u = ball.logmap0(x)
    # Means of 20,000 draws of standard deviation 0.35: five standard errors are 0.0125.
    torch.testing.assert_close(u.mean(0), mean, atol=0.0125, rtol=0)
    torch.testing.assert_close(u.std(0), torch.full_like(mean, 0.5 / 2**0.5), atol=0.01, rtol=0)


def test_wrapped_normal_is_normal_in_the_tangent_space_of_its_mean():
    generator = torch.Generator().manual_seed(0)
    ball, mean = PoincareBall(c=0.3), torch.tensor([0.9, -0.6], dtype=torch.float64)
    x = ball.wrapped_normal(20_000, 2, mean=mean, std=0.5, generator=generator)
    u = ball.logmap(mean, x) * ball.lambda_x(mean)
    # Five standard errors of the mean, and of the standard deviation, of 20,000 draws.
    torch.testing.assert_close(u.mean(0), torch.zeros_like(mean), atol=0.018, rtol=0)
    torch.testing.assert_close(u.std(0), torch.full_like(mean, 0.5), atol=0.0125, rtol=0)
    again = ball.wrapped_normal(20_000, 2, mean=mean, std=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)

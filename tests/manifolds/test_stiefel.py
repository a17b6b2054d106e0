"""What is particular to the Stiefel manifold: two metrics, their geodesics and logarithms, three retractions."""

import math

import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import ConvergenceError, Stiefel
from holonomy.manifolds.linalg import gram_gap, skew, sym

EPS = torch.finfo(torch.float64).eps
# Closed forms in float64: some roundings of quantities of size 1.
TOLERANCE = 1e-14
SIZES = [(6, 3), (4, 4), (5, 4), (5, 1)]
each_size = pytest.mark.parametrize(("n", "p"), SIZES)
each_metric = pytest.mark.parametrize("metric", Stiefel.metrics)
each_retraction = pytest.mark.parametrize("retraction", Stiefel.retractions)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _point(*size: int, seed: int = 0) -> Tensor:
    return Stiefel().random(*size, dtype=torch.float64, generator=_generator(seed))


def _tangent(manifold: Stiefel, x: Tensor, length: float = 1.0, seed: int = 1) -> Tensor:
    u = manifold.random_tangent(x, generator=_generator(seed))
    return length * u / manifold.norm(x, u, keepdim=True)


def _ambient(*size: int, seed: int = 3) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=_generator(seed))


def _assert_close(got: Tensor, wanted: Tensor | np.ndarray | float, atol: float = TOLERANCE) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype).expand_as(got), rtol=0, atol=atol)


def _lift(x: Tensor, u: Tensor) -> Tensor:
    """The skew n x n matrix w with w x = u that the canonical geodesic is the flow of."""
    h = u - 0.5 * x @ (x.mT @ u)
    return h @ x.mT - x @ h.mT


# -- tangent spaces and metrics ------------------------------------------------------------------------------------


@each_metric
@each_size
def test_projection_is_idempotent_and_orthogonal_in_the_metric(metric: str, n: int, p: int) -> None:
    """The canonical gradient map is no projection: applied twice, it doubles the part within the span."""
    manifold, x, z = Stiefel(metric), _point(8, n, p), _ambient(8, n, p)
    u = manifold.proju(x, z)
    _assert_close(x.mT @ u, -u.mT @ x)
    _assert_close(manifold.proju(x, u), u)
    _assert_close(manifold.inner(x, z - u, _tangent(manifold, x)), 0.0)


def test_canonical_metric_is_its_defining_formula() -> None:
    manifold, x = Stiefel("canonical"), _point(6, 3)
    u, v = _tangent(manifold, x), _tangent(manifold, x, seed=2)
    m = torch.eye(6, dtype=torch.float64) - 0.5 * x @ x.mT
    _assert_close(manifold.inner(x, u, v), torch.trace(u.mT @ m @ v))


@each_metric
def test_random_tangents_are_standard_normal_in_the_metric(metric: str) -> None:
    manifold, count = Stiefel(metric), 20_000
    x = _point(4, 2)
    u = manifold.random_tangent(x.expand(count, 4, 2), generator=_generator())
    for seed in (1, 2, 3):
        coordinate = manifold.inner(x, u, _tangent(manifold, x, seed=seed))
        # Five standard errors of a mean and of a variance of normal numbers.
        assert abs(float(coordinate.mean())) < 5 / count**0.5
        assert abs(float(coordinate.var()) - 1.0) < 5 * (2 / count) ** 0.5
    assert float(manifold.inner(x, u).mean()) == pytest.approx(manifold.dimension(4, 2), rel=0.05)


@each_metric
def test_decay_towards_zero_is_no_direction(metric: str) -> None:
    """The gradient of |x|^2/2 is x, which is normal: every point has the same length."""
    x = _point(6, 3)
    _assert_close(Stiefel(metric).egrad2rgrad(x, x), 0.0)


def test_hessian_in_the_euclidean_metric_equals_pymanopt() -> None:
    manifold, x = Stiefel(), _point(6, 3)
    egrad, ehess, u = _ambient(6, 3), _ambient(6, 3, seed=4), _tangent(manifold, x)
    wanted = pymanopt.manifolds.Stiefel(6, 3).euclidean_to_riemannian_hessian(
        *(t.numpy() for t in (x, egrad, ehess, u))
    )
    _assert_close(manifold.ehess2rhess(x, egrad, ehess, u), wanted)


# -- geodesics -----------------------------------------------------------------------------------------------------


@each_metric
@each_size
@pytest.mark.parametrize("length", [0.0, 1.0, 6.0])
def test_exponential_solves_the_geodesic_equation(metric: str, n: int, p: int, length: float) -> None:
    manifold, x = Stiefel(metric), _point(n, p)
    u = _tangent(manifold, x, length)
    one = torch.ones((), dtype=torch.float64)

    def velocity(t: Tensor) -> Tensor:
        return torch.func.jvp(lambda t: manifold.expmap(x, t * u), (t,), (one,))[1]

    y = manifold.expmap(x, u)
    v, a = torch.func.jvp(velocity, (one,), (one,))
    if metric == "euclidean":
        equation = a + y @ (v.mT @ v)
    else:
        equation = a + v @ (v.mT @ y) + y @ ((y.mT @ v) @ (y.mT @ v) + v.mT @ v)
    # The second derivative is of size length^2; the exponential of a matrix of that norm rounds by as much again.
    _assert_close(equation, 0.0, atol=1e-13 * (1.0 + length**3))
    _assert_close(manifold.norm(y, v), length, atol=1e-13 * (1.0 + length**2))
    _assert_close(torch.func.jvp(lambda t: manifold.expmap(x, t * u), (0.0 * one,), (one,))[1], u)


@each_size
def test_canonical_exponential_is_the_flow_of_an_ambient_rotation(n: int, p: int) -> None:
    manifold, x = Stiefel("canonical"), _point(n, p)
    u = _tangent(manifold, x, 2.0)
    _assert_close(manifold.expmap(x, u), torch.as_tensor(scipy.linalg.expm(_lift(x, u).numpy())) @ x)


@each_size
def test_euclidean_exponential_equals_pymanopt(n: int, p: int) -> None:
    manifold, x = Stiefel(), _point(n, p)
    u = _tangent(manifold, x, 2.0)
    # 1e-13: pymanopt exponentiates an unbalanced matrix.
    _assert_close(manifold.expmap(x, u), pymanopt.manifolds.Stiefel(n, p).exp(x.numpy(), u.numpy()), atol=1e-13)


def test_canonical_exponential_is_not_the_cayley_retraction() -> None:
    manifold, x = Stiefel("canonical", "cayley"), _point(6, 3)
    gaps = []
    for length in (0.1, 0.2):
        u = _tangent(manifold, x, length)
        gaps.append(float((manifold.expmap(x, u) - manifold.retr(x, u)).norm()))
    # They part with the third power of the length.
    assert math.log2(gaps[1] / gaps[0]) == pytest.approx(3.0, abs=0.05)


# -- retractions ---------------------------------------------------------------------------------------------------


@each_retraction
@each_metric
@each_size
def test_retractions_leave_in_the_direction_of_the_tangent(metric: str, retraction: str, n: int, p: int) -> None:
    """Also along the part within the span, which a Cayley transform of the wrong generator turns twice as far."""
    manifold, x = Stiefel(metric, retraction), _point(n, p)
    parts = {"within": x @ skew(_ambient(p, p)), "any": _tangent(manifold, x)}
    t = 1e-4
    for part in parts.values():
        u = part / max(1.0, float(part.norm()))
        # First order: the difference quotient is off by t times half the second derivative, of size 1.
        _assert_close((manifold.retr(x, t * u) - x) / t, u, atol=2.0 * t)


@each_size
def test_cayley_retraction_equals_the_dense_transform(n: int, p: int) -> None:
    x = _point(n, p)
    u = _tangent(Stiefel(), x, 3.0)
    identity, w = torch.eye(n, dtype=torch.float64), _lift(x, u)
    _assert_close(
        Stiefel(retraction="cayley").retr(x, u), torch.linalg.solve(identity - 0.5 * w, (identity + 0.5 * w) @ x)
    )


@each_size
def test_polar_and_qr_retractions_equal_scipy_and_lapack(n: int, p: int) -> None:
    x = _point(n, p)
    u = _tangent(Stiefel(), x, 3.0)
    _assert_close(Stiefel(retraction="polar").retr(x, u), scipy.linalg.polar((x + u).numpy())[0])
    q, r = torch.linalg.qr(x + u)
    _assert_close(Stiefel(retraction="qr").retr(x, u), q * r.diagonal().sign())


@each_retraction
@pytest.mark.parametrize("case", ["zero", "orthonormal", "rank one", "generic"])
def test_retractions_and_exponential_differentiate_twice(retraction: str, case: str) -> None:
    metric = "canonical" if retraction == "cayley" else "euclidean"
    manifold, x = Stiefel(metric, retraction), _point(4, 2)
    u = _tangent(manifold, x)
    if case == "zero":
        u = torch.zeros_like(u)
    elif case == "orthonormal":
        u = torch.linalg.qr(torch.cat([x, u], -1))[0][:, 2:4]
    elif case == "rank one":
        u = (u - x @ (x.mT @ u)) @ torch.tensor([[1.0, 0.5], [0.5, 0.25]], dtype=torch.float64)

    def moved(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        x = manifold.projx(x)
        u = manifold.proju(x, u)
        return manifold.retr(x, u), manifold.expmap(x, u)

    free = (x.clone().requires_grad_(), u.clone().requires_grad_())
    assert gradcheck(moved, free, check_forward_ad=True)
    assert gradgradcheck(moved, free, fast_mode=True)


@pytest.mark.parametrize(
    "retraction", ["qr", *(pytest.param(name, marks=pytest.mark.slow) for name in ("polar", "cayley"))]
)
def test_ten_thousand_float32_steps_stay_orthonormal(retraction: str) -> None:
    """Steps of length about 7, the size of a random tangent vector, and no projection anywhere."""
    manifold, generator = Stiefel(retraction=retraction), _generator()
    x = manifold.random(16, 4, generator=generator)
    for _ in range(10_000):
        x = manifold.retr(x, manifold.random_tangent(x, generator=generator))
    assert gram_gap(x) < 1e-6


@pytest.mark.slow
@each_metric
def test_ten_thousand_float32_geodesics_stay_orthonormal(metric: str) -> None:
    manifold, generator = Stiefel(metric), _generator()
    x = manifold.random(16, 4, generator=generator)
    for _ in range(10_000):
        x = manifold.expmap(x, 0.1 * manifold.random_tangent(x, generator=generator))
    assert gram_gap(x) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_retraction
def test_half_precision_is_computed_in_float32(retraction: str, dtype: torch.dtype) -> None:
    manifold = Stiefel(retraction=retraction)
    x = manifold.random(6, 3, dtype=dtype, generator=_generator())
    u = manifold.random_tangent(x, generator=_generator(1))
    y = manifold.retr(x, u)
    assert y.dtype == dtype
    torch.testing.assert_close(y, manifold.retr(x.float(), u.float()).to(dtype))


@each_metric
def test_autocast_does_not_reach_the_exponential(metric: str) -> None:
    manifold, x = Stiefel(metric), _point(6, 3).float()
    u = _tangent(manifold, x)
    wanted = manifold.expmap(x, u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = manifold.expmap(x, u)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


# -- logarithm and distance ----------------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize(("n", "p"), [*SIZES, (40, 2), (3, 2), (30, 8)])
def test_logarithm_inverts_the_exponential_to_most_of_the_injectivity_radius(metric: str, n: int, p: int) -> None:
    manifold, x = Stiefel(metric), _point(5, n, p)
    for fraction in (1e-9, 0.3, 0.6, 0.9):
        u = _tangent(manifold, x, fraction * manifold.injectivity_radius())
        y = manifold.expmap(x, u)
        # 1e-11: the logarithm's condition number, up to 1e3 at nine tenths of the radius.
        _assert_close(manifold.logmap(x, y), u, atol=1e-11)
        _assert_close(manifold.dist(x, y), fraction * manifold.injectivity_radius(), atol=1e-11)


@each_metric
def test_logarithm_in_float32_is_right_to_its_rounding(metric: str) -> None:
    manifold, x = Stiefel(metric), _point(20, 6, 3)
    u = _tangent(manifold, x, 1.5)
    y = manifold.expmap(x, u)
    # 1e-5: rounding of the points, times a condition number of about 10.
    _assert_close(manifold.logmap(x.float(), y.float()).double(), u, atol=1e-5)


@each_metric
def test_distance_is_symmetric_and_small_between_close_points(metric: str) -> None:
    manifold, x, y = Stiefel(metric), _point(8, 5, 2), _point(8, 5, 2)
    y = manifold.expmap(x, _tangent(manifold, x, 2.0))
    # 1e-12: see above.
    _assert_close(manifold.dist(x, y), manifold.dist(y, x), atol=1e-12)
    _assert_close(manifold.dist(x, x), 0.0)
    near = manifold.expmap(x, _tangent(manifold, x, 1e-9))
    # A point's own rounding, a few eps, is all that is lost.
    _assert_close(manifold.dist(x, near), 1e-9, atol=1e-14)


@each_metric
@pytest.mark.parametrize("case", ["coincident", "within the span", "one shared column", "generic"])
def test_logarithm_differentiates_twice(metric: str, case: str) -> None:
    manifold, x = Stiefel(metric), _point(5, 2)
    u = _tangent(manifold, x, 1.5)
    if case == "coincident":
        u = torch.zeros_like(u)
    elif case == "within the span":
        u = x @ torch.tensor([[0.0, -0.7], [0.7, 0.0]], dtype=torch.float64)
    elif case == "one shared column":
        u = (u - x @ (x.mT @ u)) * torch.tensor([1.0, 0.0], dtype=torch.float64)
    y = manifold.expmap(x, u)

    def between(x: Tensor, y: Tensor) -> Tensor:
        return manifold.logmap(manifold.projx(x), manifold.projx(y))

    free = (x.requires_grad_(), y.requires_grad_())
    assert gradcheck(between, free, check_forward_ad=True)
    assert gradgradcheck(between, free, fast_mode=True)


@each_metric
@each_size
def test_gradient_of_the_squared_distance_is_the_logarithm(metric: str, n: int, p: int) -> None:
    manifold, x = Stiefel(metric), _point(4, n, p)
    y = manifold.expmap(x, _tangent(manifold, x, 2.0))
    free = (x.clone().requires_grad_(), y.clone().requires_grad_())
    gx, gy = torch.autograd.grad(manifold.dist2(*free).sum(), free)
    # 1e-10: a solution of a linear system whose condition number is about 1e3 at this distance.
    _assert_close(manifold.egrad2rgrad(x, gx), -2.0 * manifold.logmap(x, y), atol=1e-10)
    _assert_close(manifold.egrad2rgrad(y, gy), -2.0 * manifold.logmap(y, x), atol=1e-10)


@each_metric
def test_logarithm_between_the_components_of_the_orthogonal_group_does_not_exist(metric: str) -> None:
    x = torch.eye(3, dtype=torch.float64)
    y = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    with pytest.raises(ConvergenceError, match=r"Stiefel\.logmap: no geodesic was found for 1 of 2 pairs"):
        Stiefel(metric).logmap(x, torch.stack([x, y]))


def test_compiled_logarithm_raises_where_it_does_not_converge() -> None:
    manifold = Stiefel("canonical")
    compiled = torch.compile(manifold.logmap, fullgraph=True, backend="eager")
    x = torch.eye(3, dtype=torch.float64)
    y = manifold.expmap(x, _tangent(manifold, x, 1.0))
    _assert_close(compiled(x, y), manifold.logmap(x, y))
    with pytest.raises(ConvergenceError):
        compiled(x, -x)


def test_logarithm_hands_on_not_a_number() -> None:
    manifold, x = Stiefel(), _point(2, 5, 2)
    y = manifold.expmap(x, _tangent(manifold, x))
    broken = y.clone()
    broken[0, 0, 0] = math.nan
    got = manifold.logmap(x, broken)
    assert bool(got[0].isnan().any())
    _assert_close(got[1], manifold.logmap(x, y)[1])


# -- transport and curvature ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "order"), [("euclidean", 2), ("canonical", 1)])
def test_order_of_the_vector_transport(metric: str, order: int) -> None:
    """Against parallel transport by Schild-like steps: a tangent field is parallel along t -> exp(tu) for the
    velocity itself, so that the transported velocity must agree with the velocity at the end."""
    manifold, x = Stiefel(metric), _point(6, 3)
    u = _tangent(manifold, x)
    one = torch.ones((), dtype=torch.float64)
    gaps = []
    for t in (0.01, 0.02):
        y, v = torch.func.jvp(lambda s: manifold.expmap(x, s * u), (t * one,), (one,))
        gaps.append(float((manifold.transp(x, y, u) - v).norm()))
    assert math.log2(gaps[1] / gaps[0]) > order - 0.1


@each_metric
@each_size
def test_curvature_is_what_bends_the_distance(metric: str, n: int, p: int) -> None:
    """dist2(exp eu, exp ev) = e^2 |u - v|^2 - e^4 K/3 + O(e^6) for orthonormal u, v."""
    manifold, x = Stiefel(metric), _point(10, n, p)
    u, v = _tangent(manifold, x), _tangent(manifold, x, seed=2)
    v = v - manifold.inner(x, u, v, keepdim=True) * u
    v = v / manifold.norm(x, v, keepdim=True)

    def measured(e: float) -> Tensor:
        return (2.0 * e**2 - manifold.dist2(manifold.expmap(x, e * u), manifold.expmap(x, e * v))) * 3.0 / e**4

    # Richardson leaves terms of e^4 = 1e-5 (odd ones too: there is no point symmetry), rounding adds 1e-9.
    wanted = (8.0 * measured(0.02) - 6.0 * measured(0.04) + measured(0.08)) / 3.0
    _assert_close(manifold.sectional_curvature(x, u, v), wanted, atol=2e-3)


@each_metric
def test_curvature_of_the_sphere_is_one(metric: str) -> None:
    manifold, x = Stiefel(metric), _point(10, 5, 1)
    u, v = _tangent(manifold, x), _tangent(manifold, x, seed=2)
    _assert_close(manifold.sectional_curvature(x, u, v), 1.0, atol=1e-13)


def test_canonical_curvature_reaches_five_quarters() -> None:
    """The largest of all on St(n, 2), n >= 4, from which the injectivity radius is bounded."""
    x = torch.eye(4, 2, dtype=torch.float64)
    k = torch.eye(4, dtype=torch.float64)[:, 2:]
    turned = k @ torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    _assert_close(Stiefel("canonical").sectional_curvature(x, k, turned), 1.25)


@each_metric
def test_orthogonal_group_has_its_bi_invariant_curvature(metric: str) -> None:
    """|[a, b]|^2/4 over the area, with |a|^2 = b tr(a^T a) in either metric."""
    manifold, x = Stiefel(metric), _point(4, 4)
    a, b = skew(_ambient(4, 4)), skew(_ambient(4, 4, seed=4))
    scale = 1.0 if metric == "euclidean" else 0.5
    area = scale * (a.square().sum() * b.square().sum() - (a * b).sum().square())
    wanted = 0.25 * (a @ b - b @ a).square().sum() / area
    _assert_close(manifold.sectional_curvature(x, x @ a, x @ b), wanted)


# -- construction --------------------------------------------------------------------------------------------------


def test_rejects_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"Stiefel: 'metric' must be one of \('euclidean', 'canonical'\), got 'flat'"):
        Stiefel("flat")
    with pytest.raises(ValueError, match=r"Stiefel: 'retraction' must be one of .*, got 'exp'"):
        Stiefel(retraction="exp")


def test_metrics_are_different_manifolds() -> None:
    assert Stiefel("euclidean").key != Stiefel("canonical").key
    assert Stiefel().key == Stiefel("euclidean", "qr").key


def test_points_project_to_the_nearest() -> None:
    z = _ambient(5, 3)
    x = Stiefel().projx(z)
    _assert_close(x, scipy.linalg.polar(z.numpy())[0])
    _assert_close(Stiefel().projx(x), x)
    _assert_close(x.mT @ z, sym(x.mT @ z))

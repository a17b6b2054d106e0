"""What is particular to positive definite matrices; the shared contract is tested for all manifolds elsewhere."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from geomstats_reference import geomstats
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import SPD, MembershipError, check_retraction, check_transport, frechet_mean
from holonomy.manifolds.linalg import haar, sym

EPS = torch.finfo(torch.float64).eps
each_metric = pytest.mark.parametrize("metric", SPD.metrics)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(*values: float, seed: int = 0) -> Tensor:
    q = haar((len(values), len(values)), torch.float64, None, generator(seed))
    return sym(q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.mT)


def symmetric(n: int, seed: int = 5) -> Tensor:
    return sym(torch.randn(n, n, dtype=torch.float64, generator=generator(seed)))


# -- high precision ------------------------------------------------------------------------------------------------


def mp(x: Tensor) -> mpmath.matrix:
    return mpmath.matrix(x.tolist())


def mp_function(a, f):
    values, vectors = mpmath.eigsy((a + a.T) / 2)
    return vectors * mpmath.diag([f(s) for s in values]) * vectors.T


def mp_log_cholesky(a):
    lower = mpmath.cholesky(a)
    for i in range(lower.rows):
        lower[i, i] = mpmath.log(lower[i, i])
    return lower


def mp_dist(metric: str, x: Tensor, y: Tensor) -> float:
    """Distances by their definitions, in 60 digits."""
    with mpmath.workdps(60):
        a, b = mp(x), mp(y)
        if metric == "log-euclidean":
            return float(mpmath.mnorm(mp_function(a, mpmath.log) - mp_function(b, mpmath.log), "f"))
        if metric == "log-cholesky":
            return float(mpmath.mnorm(mp_log_cholesky(a) - mp_log_cholesky(b), "f"))
        root = mp_function(a, mpmath.sqrt)
        if metric == "affine-invariant":
            inverse = mpmath.inverse(root)
            return float(mpmath.mnorm(mp_function(inverse * b * inverse, mpmath.log), "f"))
        cross = mp_function(root * b * root, mpmath.sqrt)
        trace = sum(a[i, i] + b[i, i] - 2 * cross[i, i] for i in range(a.rows))
        return float(mpmath.sqrt(trace))


@each_metric
@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8])
def test_distances_of_ill_conditioned_matrices(metric: str, condition: float) -> None:
    manifold = SPD(metric)
    lowest = -math.log10(condition)
    x = with_spectrum(*np.logspace(0.0, lowest, 4), seed=1)
    y = with_spectrum(*np.logspace(lowest, 0.3, 4), seed=2)
    # The entries of x are rounded: by eps, and the lowest eigenvalue by eps cond(x) of itself.
    assert float(manifold.dist(x, y)) == pytest.approx(mp_dist(metric, x, y), rel=4 * EPS * condition)
    back = manifold.expmap(x, manifold.logmap(x, y))
    # 32: a logarithm and an exponential, in entries of order 1.
    torch.testing.assert_close(back, y, rtol=0, atol=32 * EPS * condition)


@each_metric
@pytest.mark.parametrize("condition", [1e1, 1e6])
def test_distances_of_close_matrices(metric: str, condition: float) -> None:
    manifold = SPD(metric)
    x = with_spectrum(*np.logspace(0.0, -math.log10(condition), 4), seed=1)
    y = manifold.expmap(x, 1e-7 * manifold.random_tangent(x, generator=generator()))
    # All but one see the difference y - x; that one is a difference of rounded logarithms.
    lost = 1e7 if metric == "log-euclidean" else 1.0
    assert float(manifold.dist(x, y)) == pytest.approx(mp_dist(metric, x, y), rel=4 * EPS * condition * lost)


@each_metric
def test_exponential_map_against_high_precision(metric: str) -> None:
    manifold = SPD(metric)
    x, u = with_spectrum(1e-4, 0.3, 1.0, seed=1), symmetric(3)
    u = u * 0.005 / manifold.norm(x, u) if metric == "bures-wasserstein" else u / manifold.norm(x, u)
    with mpmath.workdps(60):
        a, b = mp(x), mp(u)
        if metric == "affine-invariant":
            root = mp_function(a, mpmath.sqrt)
            inverse = mpmath.inverse(root)
            wanted = root * mp_function(inverse * b * inverse, mpmath.exp) * root
        elif metric == "bures-wasserstein":
            values, vectors = mpmath.eigsy(a)
            w = vectors.T * b * vectors
            for i in range(3):
                for j in range(3):
                    w[i, j] /= values[i] + values[j]
            w = mpmath.eye(3) + vectors * w * vectors.T
            wanted = w * a * w
        else:
            # A derivative by central differences in 60 digits.
            h = mpmath.mpf(10) ** -20
            chart = mp_log_cholesky if metric == "log-cholesky" else (lambda s: mp_function(s, mpmath.log))
            z = chart(a) + (chart(a + h * b) - chart(a - h * b)) / (2 * h)
            if metric == "log-cholesky":
                for i in range(3):
                    z[i, i] = mpmath.exp(z[i, i])
                wanted = z * z.T
            else:
                wanted = mp_function(z, mpmath.exp)
        wanted = torch.tensor([[float(wanted[i, j]) for j in range(3)] for i in range(3)], dtype=torch.float64)
    # The condition number of x is 1e4.
    torch.testing.assert_close(manifold.expmap(x, u), wanted, rtol=0, atol=4 * EPS * 1e4)


# -- other libraries -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    spd = geomstats("spd_matrices")
    space = spd.SPDMatrices(3, equip=False)
    return {
        "affine-invariant": spd.SPDAffineMetric(space),
        "log-euclidean": spd.SPDLogEuclideanMetric(space),
        "bures-wasserstein": spd.SPDBuresWassersteinMetric(space),
    }


@pytest.mark.parametrize("metric", ["affine-invariant", "log-euclidean", "bures-wasserstein"])
def test_agrees_with_geomstats(metric: str, theirs) -> None:
    peer, manifold = theirs[metric], SPD(metric)
    x, y, u = with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2), 0.2 * symmetric(3)
    a, b, w = x.numpy(), y.numpy(), u.numpy()
    for got, wanted in (
        (manifold.inner(x, u), peer.inner_product(w, w, a)),
        (manifold.expmap(x, u), peer.exp(w, a)),
        (manifold.logmap(x, y), peer.log(b, a)),
        (manifold.dist2(x, y), peer.squared_dist(a, b)),
    ):
        # 1e-12: theirs takes square roots of matrices and of negative roundings.
        torch.testing.assert_close(got, torch.as_tensor(np.asarray(wanted).real), rtol=1e-12, atol=1e-12)
    if metric != "bures-wasserstein":
        moved = torch.as_tensor(peer.parallel_transport(w, a, end_point=b))
        torch.testing.assert_close(manifold.transp(x, y, u), moved, rtol=1e-12, atol=1e-12)


def test_agrees_with_pymanopt() -> None:
    from pymanopt.manifolds import SymmetricPositiveDefinite

    peer, manifold = SymmetricPositiveDefinite(3), SPD(retraction="quadratic")
    x, y, u = with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2), symmetric(3)
    g, h = symmetric(3, 7), symmetric(3, 8)
    a, b, w = x.numpy(), y.numpy(), u.numpy()
    for got, wanted in (
        (manifold.expmap(x, u), peer.exp(a, w)),
        (manifold.logmap(x, y), peer.log(a, b)),
        (manifold.dist(x, y), peer.dist(a, b)),
        (manifold.retr(x, u), peer.retraction(a, w)),
        (manifold.egrad2rgrad(x, g), peer.euclidean_to_riemannian_gradient(a, g.numpy())),
        (
            manifold.ehess2rhess(x, g, h, u),
            peer.euclidean_to_riemannian_hessian(a, g.numpy(), h.numpy(), w),
        ),
    ):
        torch.testing.assert_close(got, torch.as_tensor(wanted), rtol=1e-12, atol=1e-12)


def test_bures_wasserstein_is_the_transport_distance_of_normal_laws() -> None:
    x, y = with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2)
    root = scipy.linalg.sqrtm(x.numpy())
    cross = np.trace(scipy.linalg.sqrtm(root @ y.numpy() @ root)).real
    assert float(SPD("bures-wasserstein").dist2(x, y)) == pytest.approx(float(x.trace() + y.trace() - 2 * cross))


# -- one metric for every operation --------------------------------------------------------------------------------


@each_metric
def test_the_metric_is_asked_by_every_operation(metric: str) -> None:
    """No two metrics agree on anything, between points that do not commute."""
    x, y, u = with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2), 0.1 * symmetric(3)
    for other in SPD.metrics:
        if other == metric:
            continue
        for operation, arguments in (
            ("inner", (x, u)),
            ("dist", (x, y)),
            ("expmap", (x, u)),
            ("logmap", (x, y)),
            ("transp", (x, y, u)),
            ("egrad2rgrad", (x, u)),
            ("ehess2rhess", (x, u, u, u)),
        ):
            ours, theirs = (getattr(SPD(m), operation)(*arguments) for m in (metric, other))
            assert float((ours - theirs).abs().amax()) > 1e-6, (operation, other)


def test_affine_invariance() -> None:
    manifold, a = SPD(), torch.randn(3, 3, dtype=torch.float64, generator=generator(9))
    x, y, u = with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2), symmetric(3)

    def moved(s: Tensor) -> Tensor:
        return a @ s @ a.mT

    torch.testing.assert_close(manifold.dist(moved(x), moved(y)), manifold.dist(x, y))
    torch.testing.assert_close(manifold.expmap(moved(x), moved(u)), moved(manifold.expmap(x, u)))
    torch.testing.assert_close(manifold.logmap(moved(x), moved(y)), moved(manifold.logmap(x, y)))
    torch.testing.assert_close(
        manifold.transp(moved(x), moved(y), moved(u)), moved(manifold.transp(x, y, u)), rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(manifold.dist(x.inverse(), y.inverse()), manifold.dist(x, y))


@pytest.mark.parametrize("metric", ["affine-invariant", "log-euclidean", "bures-wasserstein"])
def test_invariance_under_rotations(metric: str) -> None:
    manifold, q = SPD(metric), haar((3, 3), torch.float64, None, generator(4))
    x, y = with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2)
    torch.testing.assert_close(manifold.dist(q @ x @ q.mT, q @ y @ q.mT), manifold.dist(x, y))


def test_the_positive_line() -> None:
    x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[6.0]], dtype=torch.float64)
    log = math.log(3.0)
    for metric, wanted in zip(SPD.metrics, (log, log, 0.5 * log, math.sqrt(6.0) - math.sqrt(2.0)), strict=True):
        assert float(SPD(metric).dist(x, y)) == pytest.approx(wanted, rel=4 * EPS)


# -- regular everywhere --------------------------------------------------------------------------------------------

PAIRS = {
    "the identity twice": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "the identity and a pair": ((1.0, 1.0, 1.0), (0.5, 0.5, 2.0)),
    "nearly a pair": ((0.5, 0.5 + 1e-9, 2.0), (1.0, 1.0 + 1e-13, 1.0)),
    "close eigenvalues": ((0.5, 0.51, 0.52), (0.5, 0.504, 0.511)),
}


@each_metric
@pytest.mark.parametrize("pair", PAIRS)
def test_both_derivatives_at_repeated_eigenvalues(metric: str, pair: str) -> None:
    manifold = SPD(metric)
    x, y = (with_spectrum(*values, seed=1).requires_grad_() for values in PAIRS[pair])
    u = (0.1 * symmetric(3)).requires_grad_()

    def everything(x: Tensor, y: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        x, y, u = sym(x), sym(y), sym(u)
        return (manifold.dist2(x, y), manifold.logmap(x, y), manifold.expmap(x, u), manifold.transp(x, y, u))

    assert gradcheck(everything, (x, y, u), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(everything, (x, y, u), fast_mode=True)


@each_metric
def test_gradients_at_the_identity_are_finite_and_right(metric: str) -> None:
    """Repeated eigenvalues are where the derivative of an eigenvalue decomposition is not finite."""
    manifold = SPD(metric)
    x = torch.eye(3, dtype=torch.float64, requires_grad=True)
    y = with_spectrum(0.4, 0.9, 3.0, seed=2)
    (g,) = torch.autograd.grad(0.5 * manifold.dist2(x, y), x)
    torch.testing.assert_close(manifold.egrad2rgrad(x.detach(), g), -manifold.logmap(x.detach(), y))
    for value in (manifold.dist(x, x.detach()), manifold.norm(x, torch.zeros_like(x)), manifold.dist(x, y)):
        (g,) = torch.autograd.grad(value, x)
        assert bool(g.isfinite().all())


@each_metric
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradients_of_ill_conditioned_matrices_are_finite(metric: str, dtype: torch.dtype) -> None:
    lowest = -8.0 if dtype == torch.float64 else -4.0  # condition numbers of 1e8 and 1e4
    x, y = (with_spectrum(*np.logspace(lowest, 0.0, 4), seed=s).to(dtype).requires_grad_() for s in (1, 2))
    manifold = SPD(metric)
    for value in (manifold.dist2(x, y), manifold.dist(x, x), manifold.logmap(x, y).sum(), manifold.projx(x).sum()):
        for g in torch.autograd.grad(value, (x, y), allow_unused=True):
            assert g is None or bool(g.isfinite().all())


# -- movement ------------------------------------------------------------------------------------------------------


def test_order_of_the_bures_wasserstein_transport() -> None:
    manifold, x = SPD("bures-wasserstein"), with_spectrum(4.0, 5.0, 9.0, seed=1)
    # The ladder that it is compared with errs by the cube of this vector's length, times the distance.
    v = 1e-3 * manifold.random_tangent(x, generator=generator(2))
    result = check_transport(manifold, x, v=v, order=1, generator=generator())
    assert result.holds, str(result)
    # Matrices that commute are a flat product of half-lines, where it is the parallel one.
    x, y, v = torch.eye(2), torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(manifold.inner(y, manifold.transp(x, y, v)), manifold.inner(x, v))


def test_bures_wasserstein_transport_never_lengthens() -> None:
    manifold = SPD("bures-wasserstein")
    x, y = (manifold.random(50, 3, 3, dtype=torch.float64, generator=generator(s)) for s in (1, 2))
    v = manifold.random_tangent(x, generator=generator(3))
    assert (manifold.norm(y, manifold.transp(x, y, v)) <= manifold.norm(x, v) * (1.0 + 1e-12)).all()


def test_bures_wasserstein_geodesics_leave_the_cone_at_the_injectivity_radius() -> None:
    manifold, x = SPD("bures-wasserstein"), with_spectrum(0.25, 1.0, 2.0, seed=1)
    radius = manifold.injectivity_radius(x)
    assert radius == pytest.approx(0.5)
    u = manifold.random_tangent(x.expand(200, 3, 3), generator=generator())
    u = 0.999 * radius * u / manifold.norm(x, u, keepdim=True)
    y = manifold.expmap(x, u)
    # 1e-9: points near the edge of the cone, of condition number 1e6.
    torch.testing.assert_close(manifold.logmap(x, y), u, rtol=0, atol=1e-9)
    _, vectors = torch.linalg.eigh(x)
    straight = -torch.outer(vectors[:, 0], vectors[:, 0]) * 0.5
    assert float(manifold.norm(x, straight)) == pytest.approx(radius)
    assert float(torch.linalg.eigvalsh(manifold.expmap(x, straight)).amin()) < 1e-15


def test_curvature_of_two_normal_laws_is_positive_and_bounded() -> None:
    manifold = SPD("bures-wasserstein")
    x = manifold.random(200, 3, 3, dtype=torch.float64, generator=generator())
    u, v = (manifold.random_tangent(x, generator=generator(s)) for s in (1, 2))
    values = torch.linalg.eigvalsh(x)
    bound = 3.0 / (values[:, 0] + values[:, 1])
    k = manifold.sectional_curvature(x, u, v)
    assert ((k >= 0.0) & (k <= bound)).all()


@pytest.mark.parametrize("metric", SPD.metrics)
def test_the_quadratic_retraction_stays_in_the_cone_for_long_steps(metric: str) -> None:
    manifold = SPD(metric, retraction="quadratic")
    x = with_spectrum(0.5, 1.0, 2.0, seed=1)
    order = 2 if metric == "affine-invariant" else 1
    assert check_retraction(manifold, 4.0 * x, order=order, generator=generator()).holds
    for size in (1.0, 1e2, 1e4):
        manifold.assert_check_point_on_manifold(manifold.retr(x, -size * with_spectrum(0.5, 1.0, 2.0, seed=3)))


def test_the_mean_of_two_matrices_is_their_geometric_mean() -> None:
    manifold, x, y = SPD(), with_spectrum(0.5, 1.0, 2.0, seed=1), with_spectrum(0.4, 0.9, 3.0, seed=2)
    mean = frechet_mean(manifold, torch.stack([x, y]))
    torch.testing.assert_close(mean, manifold.geodesic(0.5, x, y))
    # The solution of m x^-1 m = y.
    torch.testing.assert_close(mean @ torch.linalg.solve(x, mean), y)


# -- bad input -----------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SPD: 'metric' must be one of \('affine-invariant', .*, got 'stein'"):
        SPD("stein")
    with pytest.raises(ValueError, match=r"SPD: 'retraction' must be one of .*, got 'qr'"):
        SPD(retraction="qr")


def test_membership_says_what_is_wrong() -> None:
    manifold = SPD()
    with pytest.raises(MembershipError, match="not positive definite: its lowest eigenvalue is -1"):
        manifold.assert_check_point_on_manifold(torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(MembershipError, match="not symmetric: off by 1"):
        manifold.assert_check_point_on_manifold(torch.tensor([[3.0, 1.0], [0.0, 3.0]]))
    with pytest.raises(MembershipError, match=r"SPD\.dist: argument 'y' is not positive definite"):
        SPD(validate=True).dist(torch.eye(2), torch.zeros(2, 2))


def test_not_a_number_is_handed_on() -> None:
    x = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    y = x.clone()
    y[0] = math.nan
    for metric in SPD.metrics:
        got = SPD(metric).dist(x, y)
        assert got.isnan().tolist() == [True, False], metric

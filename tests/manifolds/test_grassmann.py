"""What is particular to the Grassmann manifold: subspaces, their angles, and the bases in which results are given."""

import math

import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import Grassmann
from holonomy.manifolds.linalg import gram_gap, haar

EPS = torch.finfo(torch.float64).eps
# Closed forms in float64: some roundings of quantities of size 1.
TOLERANCE = 1e-14
MANIFOLD = Grassmann()
SIZES = [(5, 2), (7, 3), (5, 4), (4, 1)]
each_size = pytest.mark.parametrize(("n", "p"), SIZES)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _point(*size: int, seed: int = 0) -> Tensor:
    return MANIFOLD.random(*size, dtype=torch.float64, generator=_generator(seed))


def _tangent(x: Tensor, length: float = 1.0, seed: int = 1) -> Tensor:
    """A tangent vector whose largest principal angle is `length`."""
    u = MANIFOLD.random_tangent(x, generator=_generator(seed))
    return length * u / torch.linalg.matrix_norm(u, 2, keepdim=True)


def _other_basis(x: Tensor, seed: int = 5) -> Tensor:
    p = x.shape[-1]
    return x @ haar((p, p), x.dtype, None, _generator(seed))


def _projector(x: Tensor) -> Tensor:
    return x @ x.mT


def _assert_close(got: Tensor, wanted: Tensor | np.ndarray | float, atol: float = TOLERANCE) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype).expand_as(got), rtol=0, atol=atol)


def _lines(angle: float) -> tuple[Tensor, Tensor]:
    x = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    return x, torch.tensor([[math.cos(angle)], [math.sin(angle)], [0.0]], dtype=torch.float64)


# -- distance ------------------------------------------------------------------------------------------------------


def test_orthogonal_lines_are_a_right_angle_apart() -> None:
    """Not 0, as the distance from projectors by a logarithm that ends at the cut locus would have it."""
    x, y = _lines(math.pi / 2)
    _assert_close(MANIFOLD.dist(x, y), math.pi / 2)
    _assert_close(MANIFOLD.dist2(x, y), math.pi**2 / 4)
    u = MANIFOLD.logmap(x, y)
    _assert_close(MANIFOLD.norm(x, u), math.pi / 2)
    _assert_close(_projector(MANIFOLD.expmap(x, u)), _projector(y))


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 1.5, math.pi / 2 - 1e-6, math.pi / 2 - 1e-9])
def test_distance_is_right_at_small_and_at_nearly_right_angles(angle: float) -> None:
    """arccos of singular values is exactly 0 below 1e-8."""
    x, y = _lines(angle)
    _assert_close(MANIFOLD.dist(x, y), angle, atol=1e-15 + 4 * EPS * angle)
    _assert_close(MANIFOLD.dist2(x, y).sqrt(), angle, atol=1e-15 + 4 * EPS * angle)
    _assert_close(MANIFOLD.principal_angles(x, y), angle, atol=1e-15 + 4 * EPS * angle)


def test_principal_angles_of_every_size_at_once() -> None:
    angles = torch.tensor([0.0, 1e-9, 1e-4, 1.0, math.pi / 2], dtype=torch.float64)
    x = torch.eye(10, 5, dtype=torch.float64)
    y = torch.cat([angles.cos().diag(), angles.sin().diag()])
    turn = haar((10, 10), torch.float64, None, _generator())
    x, y = _other_basis(turn @ x), _other_basis(turn @ y, seed=6)
    got = MANIFOLD.principal_angles(x, y)
    _assert_close(got, angles)
    _assert_close(MANIFOLD.dist(x, y), float(angles.norm()))


@each_size
def test_principal_angles_equal_scipy(n: int, p: int) -> None:
    x, y = _point(n, p), _point(n, p, seed=1)
    wanted = scipy.linalg.subspace_angles(x.numpy(), y.numpy())[::-1].copy()
    # 1e-7: scipy takes arcsin or arccos of an angle near 0 where the other is flat.
    _assert_close(MANIFOLD.principal_angles(x, y), wanted, atol=1e-7)


@each_size
def test_distance_does_not_depend_on_the_bases(n: int, p: int) -> None:
    x, y = _point(6, n, p), _point(6, n, p, seed=1)
    _assert_close(MANIFOLD.dist(_other_basis(x), _other_basis(y, seed=6)), MANIFOLD.dist(x, y))
    _assert_close(MANIFOLD.dist(x, _other_basis(x)), 0.0)
    _assert_close(MANIFOLD.dist(x, y), MANIFOLD.principal_angles(x, y).norm(dim=-1))


@each_size
def test_distance_equals_pymanopt(n: int, p: int) -> None:
    x, y = _point(n, p), _point(n, p, seed=1)
    # 1e-12: pymanopt takes the arccos of cosines.
    _assert_close(MANIFOLD.dist(x, y), pymanopt.manifolds.Grassmann(n, p).dist(x.numpy(), y.numpy()), atol=1e-12)


def test_squared_distance_is_smooth_at_coincident_subspaces() -> None:
    """Its Hessian there is twice the projection to the horizontal space."""
    x = _point(4, 2)
    y = _other_basis(x)
    hessian = torch.func.hessian(lambda y: MANIFOLD.dist2(x, y))(y).reshape(8, 8)
    wanted = 2.0 * torch.kron(torch.eye(4, dtype=torch.float64) - _projector(x), torch.eye(2, dtype=torch.float64))
    _assert_close(hessian, wanted, atol=1e-13)


def test_gradient_of_the_squared_distance_is_the_logarithm() -> None:
    x, y = _point(6, 7, 3).requires_grad_(), _point(6, 7, 3, seed=1)
    (g,) = torch.autograd.grad(MANIFOLD.dist2(x, y).sum(), x)
    # 1e-13: two roundings through the derivative of a matrix function.
    _assert_close(MANIFOLD.egrad2rgrad(x.detach(), g), -2.0 * MANIFOLD.logmap(x.detach(), y), atol=1e-13)


@pytest.mark.parametrize("right", [0, 1, 2, 3])
def test_everything_is_finite_at_right_angles(right: int) -> None:
    angles = torch.tensor([math.pi / 2] * right + [0.4] * (3 - right), dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        x = torch.eye(6, 3, dtype=dtype).requires_grad_()
        y = torch.cat([angles.cos().diag(), angles.sin().diag()]).to(dtype).requires_grad_()
        v = MANIFOLD.proju(x, torch.ones(6, 3, dtype=dtype)).detach()
        w = MANIFOLD.transp(x, y, v)
        eps = torch.finfo(dtype).eps
        _assert_close(MANIFOLD.dist(x, y), float(angles.norm()), atol=4 * eps)
        _assert_close(MANIFOLD.norm(y, w), float(v.norm()), atol=16 * eps)
        _assert_close(y.mT @ w, 0.0, atol=16 * eps)
        total = MANIFOLD.dist(x, y) + MANIFOLD.dist2(x, y) + MANIFOLD.logmap(x, y).sum() + w.sum()
        for g in torch.autograd.grad(total, (x, y)):
            assert bool(g.isfinite().all())


# -- exp and log ---------------------------------------------------------------------------------------------------


@each_size
def test_exponential_and_logarithm_equal_pymanopt(n: int, p: int) -> None:
    x = _point(n, p)
    u = _tangent(x, 1.4)
    peer = pymanopt.manifolds.Grassmann(n, p)
    y = MANIFOLD.expmap(x, u)
    _assert_close(_projector(y), _projector(torch.as_tensor(peer.exp(x.numpy(), u.numpy()))))
    # 1e-13: pymanopt divides by x^T y, whose condition number here is about 6.
    _assert_close(MANIFOLD.logmap(x, y), peer.log(x.numpy(), y.numpy()), atol=1e-13)


def _flow(x: Tensor, u: Tensor) -> Tensor:
    """The n x n rotation that moves x along its geodesic, and tangent vectors parallel to it."""
    return torch.as_tensor(scipy.linalg.expm((u @ x.mT - x @ u.mT).numpy()))


@each_size
@pytest.mark.parametrize("length", [0.0, 0.3, 1.4, 4.0])
def test_exponential_and_transport_equal_the_ambient_rotation(n: int, p: int, length: float) -> None:
    """Also past the cut locus, where the geodesic is no longer the shortest."""
    x = _point(n, p)
    u, v = _tangent(x, length), _tangent(x, seed=2)
    y, w = MANIFOLD.expmap_transp(x, u, v)
    # The Gram matrix of u has the square of its length, and so has the rounding of the angle.
    _assert_close(y, _flow(x, u) @ x, atol=TOLERANCE * (1.0 + length**2))
    _assert_close(w, _flow(x, u) @ v, atol=TOLERANCE * (1.0 + length**2))


@each_size
def test_exponential_of_the_logarithm_spans_the_target(n: int, p: int) -> None:
    x, y = _point(6, n, p), _point(6, n, p, seed=1)
    u = MANIFOLD.logmap(x, y)
    _assert_close(x.mT @ u, 0.0)
    z = MANIFOLD.expmap(x, u)
    _assert_close(_projector(z), _projector(y))
    # By the basis nearest to x: x^T z is symmetric and positive.
    _assert_close(x.mT @ z, z.mT @ x)
    assert float(torch.linalg.eigvalsh(x.mT @ z).min()) > 0


@each_size
def test_logarithm_inverts_the_exponential_up_to_right_angles(n: int, p: int) -> None:
    x = _point(n, p)
    for length in (1e-10, 0.5, 1.5, math.pi / 2 - 1e-4):
        u = _tangent(x, length)
        _assert_close(MANIFOLD.logmap(x, MANIFOLD.expmap(x, u)), u)
        _assert_close(MANIFOLD.logmap(x, _other_basis(MANIFOLD.expmap(x, u))), u)


def test_full_space_is_one_point() -> None:
    x, y = _point(3, 3), _point(3, 3, seed=1)
    assert MANIFOLD.dimension(3, 3) == 0
    _assert_close(MANIFOLD.dist(x, y), 0.0)
    _assert_close(MANIFOLD.proju(x, y), 0.0)


# -- derivatives ---------------------------------------------------------------------------------------------------


def _inputs(case: str) -> tuple[Tensor, Tensor]:
    x = _point(4, 2)
    if case == "zero":
        return x, torch.zeros_like(x)
    if case == "equal angles":
        q = torch.linalg.qr(torch.cat([x, _point(4, 2, seed=3)], -1))[0][:, 2:4]
        return x, 0.8 * q
    if case == "rank one":
        return x, _tangent(x) @ torch.tensor([[1.0, 0.5], [0.5, 0.25]], dtype=torch.float64)
    return x, _tangent(x)


@pytest.mark.parametrize("case", ["zero", "equal angles", "rank one", "generic"])
def test_movements_differentiate_twice(case: str) -> None:
    x, u = _inputs(case)
    v = _tangent(x, seed=4)
    free = tuple(t.clone().requires_grad_() for t in (x, u, v))

    def moved(x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        x = MANIFOLD.projx(x)
        u, v = MANIFOLD.proju(x, u), MANIFOLD.proju(x, v)
        steps = [Grassmann(retraction).retr_transp(x, u, v) for retraction in Grassmann.retractions]
        return (*MANIFOLD.expmap_transp(x, u, v), *(t for step in steps for t in step))

    assert gradcheck(moved, free)
    assert gradgradcheck(moved, free, fast_mode=True)


@pytest.mark.parametrize("case", ["zero", "equal angles", "rank one", "generic"])
def test_logarithm_and_transport_differentiate_twice(case: str) -> None:
    x, u = _inputs(case)
    y = _other_basis(MANIFOLD.expmap(x, u))
    free = tuple(t.clone().requires_grad_() for t in (x, y))

    def between(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x, y = MANIFOLD.projx(x), MANIFOLD.projx(y)
        return MANIFOLD.logmap(x, y), MANIFOLD.dist2(x, y), MANIFOLD.transp(x, y, MANIFOLD.logmap(x, y))

    assert gradcheck(between, free)
    assert gradgradcheck(between, free, fast_mode=True)


# -- retractions and transport -------------------------------------------------------------------------------------


@pytest.mark.parametrize("retraction", Grassmann.retractions)
@each_size
def test_transport_along_a_retraction_is_parallel_to_its_end(retraction: str, n: int, p: int) -> None:
    manifold = Grassmann(retraction)
    x = _point(6, n, p)
    # Principal angles below pi/2, to which the other retractions turn any u: the geodesic is then the shortest.
    u, v = _tangent(x, 0.3 if retraction == "exp" else 3.0), _tangent(x, seed=2)
    y, w = manifold.retr_transp(x, u, v)
    _assert_close(y.mT @ w, 0.0)
    _assert_close(w, manifold.transp(x, y, v))


def test_retractions_span_the_same_subspace() -> None:
    x = _point(6, 7, 3)
    u = _tangent(x, 3.0)
    _assert_close(_projector(Grassmann("qr").retr(x, u)), _projector(Grassmann("polar").retr(x, u)))


def test_transport_does_not_depend_on_the_basis_of_the_target() -> None:
    x, y = _point(7, 3), _point(7, 3, seed=1)
    v = _tangent(x, seed=2)
    turn = haar((3, 3), torch.float64, None, _generator(6))
    _assert_close(MANIFOLD.transp(x, y @ turn, v), MANIFOLD.transp(x, y, v) @ turn)


@pytest.mark.parametrize(
    "retraction", ["qr", *(pytest.param(name, marks=pytest.mark.slow) for name in ("polar", "exp"))]
)
def test_ten_thousand_float32_steps_stay_orthonormal(retraction: str) -> None:
    manifold = Grassmann(retraction)
    generator = _generator()
    x = manifold.random(16, 4, generator=generator)
    for _ in range(10_000):
        x = manifold.retr(x, 0.1 * manifold.random_tangent(x, generator=generator))
    assert gram_gap(x) < 1e-6


# -- curvature and Hessian -----------------------------------------------------------------------------------------


@each_size
def test_curvature_is_what_bends_the_distance(n: int, p: int) -> None:
    """dist2(exp eu, exp ev) = e^2 |u - v|^2 - e^4 K/3 + O(e^6) for orthonormal u, v."""
    x = _point(20, n, p)
    u, v = MANIFOLD.random_tangent(x, generator=_generator(1)), MANIFOLD.random_tangent(x, generator=_generator(2))
    u = u / MANIFOLD.norm(x, u, keepdim=True)
    v = v - MANIFOLD.inner(x, u, v, keepdim=True) * u
    v = v / MANIFOLD.norm(x, v, keepdim=True)

    def measured(e: float) -> Tensor:
        return (2.0 * e**2 - MANIFOLD.dist2(MANIFOLD.expmap(x, e * u), MANIFOLD.expmap(x, e * v))) * 3.0 / e**4

    curvature = MANIFOLD.sectional_curvature(x, u, v)
    # Richardson leaves e^4 = 1e-6 of it.
    _assert_close(curvature, (4.0 * measured(0.03) - measured(0.06)) / 3.0, atol=2e-5)
    assert float(curvature.min()) > -TOLERANCE
    assert float(curvature.max()) < 2.0 + TOLERANCE
    if min(p, n - p) == 1:
        _assert_close(curvature, 1.0)


def test_curvature_reaches_its_bounds() -> None:
    """0 for commuting rotations of two planes, 2 for a rotation and its quarter turn (Wong, 1968)."""
    x = torch.eye(4, 2, dtype=torch.float64)
    a = torch.eye(4, dtype=torch.float64)[:, 2:]
    first, second = a * torch.tensor([1.0, 0.0]), a * torch.tensor([0.0, 1.0])
    _assert_close(MANIFOLD.sectional_curvature(x, first, second), 0.0)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    _assert_close(MANIFOLD.sectional_curvature(x, a, a @ quarter), 2.0)


def test_hessian_equals_pymanopt() -> None:
    x = _point(7, 3)
    u, egrad, ehess = _tangent(x), _tangent(x, seed=7) + x, _point(7, 3, seed=8)
    peer = pymanopt.manifolds.Grassmann(7, 3)
    wanted = peer.euclidean_to_riemannian_hessian(*(t.numpy() for t in (x, egrad, ehess, u)))
    _assert_close(MANIFOLD.ehess2rhess(x, egrad, ehess, u), wanted)


def test_rejects_an_unknown_retraction() -> None:
    with pytest.raises(
        ValueError, match=r"Grassmann: 'retraction' must be one of \('qr', 'polar', 'exp'\), got 'cayley'"
    ):
        Grassmann("cayley")

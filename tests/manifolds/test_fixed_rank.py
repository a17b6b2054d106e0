"""What is particular to matrices of fixed rank; the shared contract is tested for all manifolds elsewhere."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import FixedRank, ManifoldParameter, MembershipError
from holonomy.manifolds.linalg import haar
from holonomy.optim import RiemannianSGD

EPS = torch.finfo(torch.float64).eps
each_retraction = pytest.mark.parametrize("retraction", FixedRank.retractions)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(m: int, n: int, *values: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    r, draw = len(values), generator(seed)
    u, v = (haar((size, r), torch.float64, None, draw) for size in (m, n))
    return u, torch.tensor(values, dtype=torch.float64), v


def with_singular_values(m: int, n: int, *values: float, seed: int = 0) -> Tensor:
    u, s, v = factors(m, n, *values, seed=seed)
    return (u * s) @ v.mT


def ambient(m: int, n: int, seed: int = 7) -> Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=generator(seed))


def test_agrees_with_pymanopt() -> None:
    from pymanopt.manifolds import FixedRankEmbedded

    m, n, r = 6, 5, 2
    peer, manifold = FixedRankEmbedded(m, n, r), FixedRank(r)
    u, s, v = factors(m, n, 3.0, 1.0)
    w = factors(m, n, 2.0, 0.5, seed=1)
    x, y, z = (u * s) @ v.mT, (w[0] * w[1]) @ w[2].mT, ambient(m, n)

    def dense(point, vector):
        left, core, right = peer.embedding(point, vector)
        return torch.as_tensor(left @ core @ right.T)

    a, b = (u.numpy(), s.numpy(), v.mT.numpy()), (w[0].numpy(), w[1].numpy(), w[2].mT.numpy())
    theirs = peer.projection(a, z.numpy())
    tangent = manifold.proju(x, z)
    torch.testing.assert_close(tangent, dense(a, theirs))
    torch.testing.assert_close(manifold.inner(x, tangent), torch.tensor(peer.inner_product(a, theirs, theirs)))
    left, core, right = peer.retraction(a, theirs)
    torch.testing.assert_close(manifold.retr(x, tangent), torch.as_tensor((left * core) @ right))
    torch.testing.assert_close(manifold.transp(x, y, tangent), dense(b, peer.transport(a, b, theirs)))


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_projection_of_ill_conditioned_points(condition: float) -> None:
    u, s, v = factors(7, 6, 1.0, condition**-0.5, 1.0 / condition)
    x, z = (u * s) @ v.mT, ambient(7, 6)
    normal = z - u @ (u.mT @ z)
    normal = normal - (normal @ v) @ v.mT
    # The entries of x are rounded: the space of the lowest singular value turns by eps s_1/s_r.
    torch.testing.assert_close(FixedRank(3).proju(x, z), z - normal, rtol=0, atol=16 * EPS * condition)
    near = FixedRank(3).projx(x + 1e-3 * ambient(7, 6))
    assert float(torch.linalg.svdvals(near)[3]) < 16 * EPS


@each_retraction
@pytest.mark.parametrize("shape", [(6, 5), (4, 7)], ids=str)
def test_retractions_are_of_second_order(retraction: str, shape: tuple[int, int]) -> None:
    """The acceleration of t -> retr(x, t u) at 0 is normal, as that of a geodesic."""
    manifold = FixedRank(2, retraction)
    x = with_singular_values(*shape, 2.0, 0.5)
    u = manifold.random_tangent(x, generator=generator(3))

    def curve(t: Tensor) -> Tensor:
        return manifold.retr(x, t * u)

    zero = torch.zeros((), dtype=torch.float64)
    velocity = torch.autograd.functional.jacobian(curve, zero)
    torch.testing.assert_close(velocity, u, rtol=0, atol=1e-13)
    acceleration = torch.func.jacfwd(torch.func.jacrev(curve))(zero)
    # 1e-12: two derivatives at singular values of 2 and 0.5.
    torch.testing.assert_close(manifold.proju(x, acceleration), torch.zeros_like(x), rtol=0, atol=1e-12)
    assert float(acceleration.norm()) > 0.1


@each_retraction
def test_the_hessian_is_the_second_derivative_along_second_order_retractions(retraction: str) -> None:
    manifold, weights = FixedRank(2, retraction), ambient(6, 5, 9)
    x = with_singular_values(6, 5, 2.0, 0.5)
    u, v = (manifold.random_tangent(x, generator=generator(s)) for s in (3, 4))

    def f(y: Tensor) -> Tensor:
        return (weights * torch.sin(1.3 * y)).sum() + (weights * y).sum().square()

    egrad = torch.func.grad(f)(x)

    def hessian(u: Tensor) -> Tensor:
        return manifold.ehess2rhess(x, egrad, torch.func.jvp(torch.func.grad(f), (x,), (u,))[1], u)

    zero = torch.zeros((), dtype=torch.float64)
    bend = torch.func.hessian(lambda t: f(manifold.retr(x, t * u)))(zero)
    torch.testing.assert_close(manifold.inner(x, hessian(u), u), bend, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(manifold.inner(x, hessian(u), v), manifold.inner(x, u, hessian(v)))


def test_curvature_is_that_of_gauss() -> None:
    """The second fundamental form II(u, v) is the derivative of the projection of v along u."""
    manifold = FixedRank(2)
    x = with_singular_values(6, 5, 2.0, 0.5)
    u, v = (manifold.random_tangent(x, generator=generator(s)) for s in (3, 4))

    def second(u: Tensor, v: Tensor) -> Tensor:
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        return torch.func.jvp(lambda t: manifold.proju(manifold.retr(x, t * u), v), (zero,), (one,))[1]

    top = (second(u, u) * second(v, v)).sum() - second(u, v).square().sum()
    area = u.square().sum() * v.square().sum() - (u * v).sum().square()
    torch.testing.assert_close(manifold.sectional_curvature(x, u, v), top / area, rtol=1e-11, atol=1e-11)


def test_matrices_of_full_rank_are_flat() -> None:
    manifold = FixedRank(3)
    x, u, v = ambient(3, 4), ambient(3, 4, 1), ambient(3, 4, 2)
    torch.testing.assert_close(manifold.proju(x, u), u)
    torch.testing.assert_close(manifold.sectional_curvature(x, u, v), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(manifold.retr(x, u), x + u)


@each_retraction
@pytest.mark.parametrize("values", [(1.0, 1.0), (1.0, 1.0 + 1e-9), (2.0, 1e-3)], ids=str)
def test_both_derivatives_at_equal_singular_values_and_zero_vectors(retraction: str, values: tuple[float, ...]) -> None:
    manifold = FixedRank(2, retraction)
    x = with_singular_values(4, 3, *values).requires_grad_()
    for u in (torch.zeros_like(x), 1e-4 * ambient(4, 3)):

        def step(x: Tensor, u: Tensor) -> Tensor:
            x = manifold.projx(x)
            return manifold.retr(x, manifold.proju(x, u))

        free = (x, u.detach().requires_grad_())
        # A step of 1e-6 of finite differences would be a tenth of a percent of the lowest singular value.
        assert gradcheck(step, free, eps=1e-7, atol=1e-4, check_forward_ad=True, fast_mode=True)
        if min(values) > 0.5:
            assert gradgradcheck(step, free, fast_mode=True)


def test_gradient_of_the_projection_at_equal_singular_values_across_the_cut_is_finite() -> None:
    a = torch.eye(4, 3, dtype=torch.float64).requires_grad_()
    (g,) = torch.autograd.grad(FixedRank(2).projx(a).sum(), a)
    assert bool(g.isfinite().all())


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_large_matrices_are_treated_by_their_range(condition: float) -> None:
    """More than 4 (2 r + 8) rows and columns: no decomposition of the whole."""
    u, s, v = factors(70, 80, 1.0, condition**-0.5, 1.0 / condition)
    x, z, manifold = (u * s) @ v.mT, ambient(70, 80), FixedRank(3)
    normal = z - u @ (u.mT @ z)
    normal = normal - (normal @ v) @ v.mT
    tangent = manifold.proju(x, z)
    # 64: norms of some thousand entries; rounding in x turns the lowest singular vectors by eps s_1/s_r.
    torch.testing.assert_close(tangent, z - normal, rtol=0, atol=64 * EPS * condition)
    y = manifold.retr(x, tangent)
    left, middle, right = np.linalg.svd((x + tangent).numpy(), full_matrices=False)
    wanted = torch.as_tensor((left[:, :3] * middle[:3]) @ right[:3])
    torch.testing.assert_close(y, wanted, rtol=0, atol=64 * EPS * float(middle[0]))
    assert torch.equal(y, manifold.retr(x, tangent))


@each_retraction
def test_derivatives_of_large_matrices(retraction: str) -> None:
    manifold = FixedRank(1, retraction)
    x = with_singular_values(41, 42, 2.0).requires_grad_()
    for size in (0.0, 0.1):
        z = (size * ambient(41, 42)).requires_grad_()

        def step(x: Tensor, z: Tensor) -> Tensor:
            x = manifold.projx(x)
            return manifold.retr(x, manifold.proju(x, z))

        assert gradcheck(step, (x, z), fast_mode=True, check_forward_ad=True)
        assert gradgradcheck(step, (x, z), fast_mode=True)


def test_projection_is_the_truncated_decomposition() -> None:
    a = ambient(4, 6)
    u, s, vh = np.linalg.svd(a.numpy(), full_matrices=False)
    torch.testing.assert_close(FixedRank(2).projx(a), torch.as_tensor((u[:, :2] * s[:2]) @ vh[:2]))
    torch.testing.assert_close(FixedRank(2).projx(a.mT), torch.as_tensor((u[:, :2] * s[:2]) @ vh[:2]).mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_retraction
def test_the_rank_does_not_drift(retraction: str, dtype: torch.dtype) -> None:
    manifold = FixedRank(3, retraction)
    x = manifold.random(8, 6, dtype=dtype, generator=generator())
    for seed in range(300):
        x = manifold.retr(x, 0.05 * manifold.random_tangent(x, generator=generator(seed)))
    s = torch.linalg.svdvals(x.double())
    assert float(s[3]) <= 8 * torch.finfo(dtype).eps * float(s[0])


def test_matrix_completion_by_an_optimizer() -> None:
    truth = with_singular_values(12, 10, 3.0, 2.0)
    seen = torch.rand(12, 10, generator=generator(2)) < 0.7
    manifold = FixedRank(2)
    x = ManifoldParameter(manifold.projx(torch.where(seen, truth, 0.0)), manifold)
    optimizer = RiemannianSGD([x], lr=1.0, momentum=0.5)
    for _ in range(500):
        optimizer.zero_grad()
        (0.5 * (x - truth)[seen].square().sum()).backward()
        optimizer.step()
    # All entries, not only those seen: 40 degrees of freedom from some 84 entries. Convergence is linear: 3 % a step.
    assert float((x.detach() - truth).norm() / truth.norm()) < 1e-5
    manifold.assert_check_point_on_manifold(x.detach())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"FixedRank: 'rank' must be an integer, got float 2\.0"):
        FixedRank(2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="FixedRank: 'rank' must be at least 1, got 0"):
        FixedRank(0)
    with pytest.raises(ValueError, match=r"FixedRank: 'retraction' must be one of .*, got 'qr'"):
        FixedRank(2, "qr")


def test_membership_says_what_is_wrong() -> None:
    manifold = FixedRank(2)
    with pytest.raises(MembershipError, match="rank above 2: a singular value number 3 is 1"):
        manifold.assert_check_point_on_manifold(torch.eye(3))
    with pytest.raises(MembershipError, match="rank below 2: a singular value number 2 is 0"):
        manifold.assert_check_point_on_manifold(torch.ones(3, 3).double())


def test_what_has_no_closed_form_is_not_offered() -> None:
    manifold, x = FixedRank(2), torch.eye(3, 2)
    for call in (
        lambda: manifold.expmap(x, x),
        lambda: manifold.logmap(x, x),
        lambda: manifold.dist(x, x),
        lambda: manifold.injectivity_radius(x),
    ):
        with pytest.raises(NotImplementedError, match="FixedRank"):
            call()

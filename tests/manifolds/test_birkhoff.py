"""What is particular to doubly stochastic matrices; the shared contract is tested for all manifolds elsewhere."""

import pytest
import torch
from torch.func import hessian, jacfwd

from holonomy.manifolds import Birkhoff, MembershipError
from holonomy.optim import RiemannianAdam, RiemannianSGD

BIRKHOFF = Birkhoff()
DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inner_points(*batch, n=3, seed=0):
    """Points with entries of at least 1/(2 n)."""
    return 0.5 * BIRKHOFF.random(*batch, n, n, dtype=DOUBLE, generator=generator(seed)) + 0.5 / n


def chart(n):
    """Linear coordinates: entries of all but the last row and column. Maps R^((n-1)^2) to matrices with sums 1."""

    def matrix(t):
        block = t.reshape(n - 1, n - 1)
        rows = torch.cat([block, 1.0 - block.sum(1, keepdim=True)], dim=1)
        return torch.cat([rows, 1.0 - rows.sum(0, keepdim=True)], dim=0)

    return matrix


def metric(n):
    """The Fisher metric in the chart, from its definition."""

    def g(t):
        j = jacfwd(chart(n))(t)
        return torch.einsum("ija,ijb,ij->ab", j, j, 1.0 / chart(n)(t))

    return g


def christoffel(n):
    """Symbols [a, b, c]: upper index first."""

    def symbols(t):
        d = jacfwd(metric(n))(t)  # d[a, b, c]: derivative of g_ab along c
        lower = 0.5 * (d.permute(0, 2, 1) + d - d.permute(2, 0, 1))  # [c, a, b], c the lowered index
        return torch.linalg.solve(metric(n)(t), lower.reshape(lower.shape[0], -1)).reshape(lower.shape)

    return symbols


@pytest.mark.parametrize("n", [3, 4])
def test_sectional_curvature_is_that_of_the_riemann_tensor_in_a_chart(n):
    x = inner_points(n=n)
    t = x[:-1, :-1].reshape(-1)
    u, v = (BIRKHOFF.random_tangent(x, generator=generator(s)) for s in (1, 2))
    a, b = (w[:-1, :-1].reshape(-1) for w in (u, v))
    gamma, d = christoffel(n)(t), jacfwd(christoffel(n))(t)
    # R^i_jkl = d_k G^i_lj - d_l G^i_kj + G^i_km G^m_lj - G^i_lm G^m_kj
    riemann = d.permute(0, 2, 3, 1) - d.permute(0, 2, 1, 3)
    riemann = riemann + torch.einsum("ikm,mlj->ijkl", gamma, gamma) - torch.einsum("ilm,mkj->ijkl", gamma, gamma)
    g = metric(n)(t)
    top = torch.einsum("im,mjkl,i,j,k,l->", g, riemann, a, b, a, b)
    area = (a @ g @ a) * (b @ g @ b) - (a @ g @ b) ** 2
    # 1e-9: two derivatives by automatic differentiation, and the quotient's condition.
    torch.testing.assert_close(BIRKHOFF.sectional_curvature(x, u, v), top / area, rtol=1e-9, atol=1e-9)


def test_riemannian_hessian_is_that_of_the_connection_in_a_chart():
    n = 3
    x = inner_points(n=n)
    weights = torch.randn(n, n, dtype=DOUBLE, generator=generator(3))

    def f(x):
        return (weights * torch.sin(2.0 * x)).sum() + (weights * x).sum() ** 2

    t = x[:-1, :-1].reshape(-1)
    u, v = (BIRKHOFF.random_tangent(x, generator=generator(s)) for s in (1, 2))
    a, b = (w[:-1, :-1].reshape(-1) for w in (u, v))
    gradient, second = jacfwd(lambda t: f(chart(n)(t)))(t), hessian(lambda t: f(chart(n)(t)))(t)
    wanted = a @ (second - torch.einsum("c,cab->ab", gradient, christoffel(n)(t))) @ b
    egrad = jacfwd(f)(x)
    ehess = torch.func.jvp(jacfwd(f), (x,), (u,))[1]
    ours = BIRKHOFF.inner(x, BIRKHOFF.ehess2rhess(x, egrad, ehess, u), v)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


def test_retraction_is_the_nearest_in_relative_entropy():
    x = inner_points(n=4)
    u = 0.3 * BIRKHOFF.random_tangent(x, generator=generator(1))
    target = x * torch.exp(u / x)
    y = BIRKHOFF.retr(x, u)

    def divergence(z):
        return (z * (z / target).log() - z + target).sum((-1, -2))

    others = BIRKHOFF.retr(y, 1e-3 * BIRKHOFF.random_tangent(y.expand(50, 4, 4), generator=generator(2)))
    assert (divergence(others) > divergence(y)).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_points_stay_doubly_stochastic_to_rounding_after_a_thousand_steps(dtype):
    x = BIRKHOFF.random(5, 5, dtype=dtype, generator=generator())
    u = 0.1 * BIRKHOFF.random_tangent(x, generator=generator(1))
    for _ in range(1000):
        x, u = BIRKHOFF.retr_transp(x, u, u)
    # The sums of 5 entries, each rounded once; nothing adds up over the steps.
    for dim in (-1, -2):
        assert float((x.double().sum(dim) - 1.0).abs().max()) <= 8 * torch.finfo(dtype).eps
    assert (x >= 0).all()


def test_transport_keeps_inner_products_to_first_order():
    x = inner_points(20, n=3)
    u, v = (BIRKHOFF.random_tangent(x, generator=generator(s)) for s in (1, 2))
    gaps = []
    for step in (1e-2, 1e-3):
        y, w = BIRKHOFF.retr_transp(x, step * u, v)
        gaps.append(float((BIRKHOFF.inner(y, w, w) - BIRKHOFF.inner(x, v, v)).abs().max()))
    # The loss is the squared normal part of the moved vector: of second order in the step.
    assert gaps[1] <= 0.02 * gaps[0]


def test_projection_of_a_matrix_without_a_pattern_is_still_doubly_stochastic():
    # Support but no total support, a row of zeros, all negative: Sinkhorn on the positive entries alone has no limit.
    triangle = torch.ones(3, 3, dtype=DOUBLE).triu()
    empty_row = torch.ones(3, 3, dtype=DOUBLE).index_fill(0, torch.tensor(1), 0.0)
    batch = torch.stack([triangle, empty_row, -torch.ones(3, 3, dtype=DOUBLE)])
    y = BIRKHOFF.projx(batch)
    BIRKHOFF.assert_check_point_on_manifold(y)
    torch.testing.assert_close(y[2], BIRKHOFF.origin(3, 3, dtype=DOUBLE))


def test_no_step_leaves_a_face():
    x = torch.eye(4, dtype=DOUBLE)
    x[:2, :2] = 0.5
    u = BIRKHOFF.random_tangent(x, generator=generator(5))
    y, w = BIRKHOFF.retr_transp(x, u, u)
    assert bool(((x == 0) <= (y == 0)).all())
    assert bool(((x == 0) <= (w == 0)).all())
    BIRKHOFF.assert_check_point_on_manifold(y)


@pytest.mark.parametrize("optimizer", [RiemannianSGD, RiemannianAdam])
def test_assignment_problem_by_an_optimizer_finds_the_permutation(optimizer):
    from scipy.optimize import linear_sum_assignment

    from holonomy.manifolds import ManifoldParameter

    cost = torch.rand(6, 6, dtype=DOUBLE, generator=generator(4))
    x = ManifoldParameter(BIRKHOFF.origin(6, 6, dtype=DOUBLE), BIRKHOFF)
    method = optimizer([x], lr=0.3 if optimizer is RiemannianSGD else 0.1)
    for _ in range(400):
        method.zero_grad()
        (cost * x).sum().backward()
        method.step()
    _, columns = linear_sum_assignment(cost.numpy())
    assert x.detach().argmax(1).tolist() == columns.tolist()
    BIRKHOFF.assert_check_point_on_manifold(x.detach())


def test_gradient_of_the_projection_is_that_of_the_limit():
    a = torch.rand(4, 4, dtype=DOUBLE, generator=generator(6)) + 0.1
    weights = torch.randn(4, 4, dtype=DOUBLE, generator=generator(7))
    leaf = a.clone().requires_grad_()
    (weights * BIRKHOFF.projx(leaf)).sum().backward()
    unrolled = a.clone().requires_grad_()
    y = unrolled
    for _ in range(200):
        y = y / y.sum(-1, keepdim=True)
        y = y / y.sum(-2, keepdim=True)
    (weights * y).sum().backward()
    torch.testing.assert_close(leaf.grad, unrolled.grad, rtol=1e-9, atol=1e-11)


def test_membership_says_what_is_wrong():
    with pytest.raises(MembershipError, match="columns that sum to 1"):
        BIRKHOFF.assert_check_point_on_manifold(torch.tensor([[0.6, 0.4], [0.6, 0.4]]))
    with pytest.raises(MembershipError, match="rows that sum to 1"):
        BIRKHOFF.assert_check_point_on_manifold(torch.tensor([[0.6, 0.6], [0.4, 0.4]]))
    with pytest.raises(MembershipError, match="negative"):
        BIRKHOFF.assert_check_point_on_manifold(torch.tensor([[1.5, -0.5], [-0.5, 1.5]]))


def test_what_has_no_closed_form_is_not_offered():
    x = BIRKHOFF.origin(3, 3)
    for call in (
        lambda: BIRKHOFF.expmap(x, x),
        lambda: BIRKHOFF.logmap(x, x),
        lambda: BIRKHOFF.dist(x, x),
        lambda: BIRKHOFF.injectivity_radius(x),
    ):
        with pytest.raises(NotImplementedError, match="Birkhoff"):
            call()


def test_projection_of_matrices_without_a_pattern_in_a_batch_with_others() -> None:
    """Potentials of such a matrix run away, which must not stop the others of the batch."""
    generator = torch.Generator().manual_seed(0)
    noise = 3.0 * torch.randn(200, 3, 3, generator=generator)
    bare = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    x = torch.cat([noise, bare.expand(1, 3, 3), 1e-30 * noise.abs()])
    for dtype in (torch.float32, torch.float64):
        Birkhoff().assert_check_point_on_manifold(Birkhoff().projx(x.to(dtype)))

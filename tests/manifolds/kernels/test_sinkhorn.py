"""Sinkhorn's iteration: against the plain loop, linear programming, and unrolled and numerical derivatives."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.sinkhorn import sinkhorn, sinkhorn_projection

pytest.importorskip("numba")

DOUBLE, SINGLE = torch.float64, torch.float32
both_ways = pytest.mark.parametrize("implementation", ["fused", "reference"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(n, m, *batch, seed=0, dtype=DOUBLE):
    g = generator(seed)
    cost = torch.rand(*batch, n, m, dtype=DOUBLE, generator=g)
    a = torch.rand(*batch, n, dtype=DOUBLE, generator=g) + 0.1
    b = torch.rand(*batch, m, dtype=DOUBLE, generator=g) + 0.1
    return cost.to(dtype), (a / a.sum(-1, keepdim=True)).to(dtype), (b / b.sum(-1, keepdim=True)).to(dtype)


def unrolled(cost, a, b, epsilon, iterations=400):
    """The textbook loop, in the log domain, which autograd differentiates step by step."""
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(iterations):
        f = a.log() - (g.unsqueeze(-2) - cost / epsilon).logsumexp(-1)
        g = b.log() - (f.unsqueeze(-1) - cost / epsilon).logsumexp(-2)
    mean = g.mean(-1, keepdim=True)
    f, g = f + mean, g - mean
    return f, g, torch.exp(f.unsqueeze(-1) + g.unsqueeze(-2) - cost / epsilon)


@both_ways
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (2, 3), (6, 9), (33, 17, 2), (12, 40)])
@pytest.mark.parametrize("epsilon", [5.0, 0.2])
def test_equals_the_plain_loop(implementation, size, epsilon):
    cost, a, b = problem(*size)
    expected = unrolled(cost, a, b, epsilon, 1500)
    with dispatch.use(implementation):
        result = sinkhorn(cost, a, b, epsilon=epsilon, tolerance=1e-13, max_iterations=3000)
        single = sinkhorn(cost.float(), a.float(), b.float(), epsilon=epsilon, tolerance=2e-6)
    assert result.converged.all()
    # Converged to 1e-13 in the sums; potentials collect the last steps, which shrink by a factor of some 0.9.
    torch.testing.assert_close(result[:3], expected, atol=1e-11, rtol=1e-11)
    assert single.converged.all()
    assert single.f.dtype == single.coupling.dtype == SINGLE
    torch.testing.assert_close(single.coupling.double(), expected[2], atol=1e-7, rtol=5e-5)
    torch.testing.assert_close(result.coupling.sum(-1), a)
    torch.testing.assert_close(result.coupling.sum(-2), b)


@both_ways
def test_reports_error_iterations_and_convergence(implementation):
    cost, a, b = problem(6, 5, 2)
    with dispatch.use(implementation):
        short = sinkhorn(cost, a, b, epsilon=0.05, max_iterations=3)
        result = sinkhorn(cost, a, b, epsilon=0.05, return_coupling=False)
    assert short.iterations.tolist() == [3, 3]
    assert not short.converged.any()
    deviation = (short.coupling.sum(-1) / a - 1.0).abs().amax(-1)
    torch.testing.assert_close(short.error, deviation)  # columns are exact to rounding
    assert result.coupling is None
    assert result.converged.all()
    assert (result.error <= 1e-10).all()
    assert (result.iterations > 3).all()


@both_ways
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_small_temperatures_reach_the_linear_program(implementation, dtype):
    cost, a, b = problem(7, 6, seed=3)
    equalities = np.zeros((13, 42))
    for i in range(7):
        equalities[i, 6 * i : 6 * i + 6] = 1.0
    for j in range(6):
        equalities[7 + j, j::6] = 1.0
    optimum = linprog(cost.flatten().numpy(), A_eq=equalities, b_eq=torch.cat([a, b]).numpy()).fun
    epsilon = 1e-3  # exp(-cost / epsilon) underflows in float32 at a cost of 0.09
    with dispatch.use(implementation):
        result = sinkhorn(
            cost.to(dtype), a.to(dtype), b.to(dtype), epsilon=epsilon, tolerance=1e-4, max_iterations=20_000
        )
    assert result.converged
    assert all(t.isfinite().all() for t in result[:3])
    value = float((result.coupling.double() * cost).sum())
    # Entropy of a coupling is at most log 42, so the regularised optimum is that close; the sums add their tolerance.
    assert abs(value - optimum) <= epsilon * np.log(42.0) + 1e-4


@both_ways
def test_zero_masses_and_forbidden_pairs(implementation):
    cost, _, _ = problem(4, 5)
    cost[0, 1] = torch.inf
    a = torch.tensor([0.25, 0.0, 0.5, 0.25], dtype=DOUBLE, requires_grad=True)
    b = torch.tensor([0.0, 0.3, 0.3, 0.0, 0.4], dtype=DOUBLE, requires_grad=True)
    cost.requires_grad_()
    with dispatch.use(implementation):
        result = sinkhorn(cost, a, b, epsilon=0.1, tolerance=1e-13)
    assert result.converged
    assert result.f[1] == -torch.inf
    assert (result.g[[0, 3]] == -torch.inf).all()
    assert (result.coupling[1] == 0).all()
    assert result.coupling[0, 1] == 0
    rows, columns = [0, 2, 3], [1, 2, 4]
    inner = unrolled(cost.detach()[rows][:, columns], a.detach()[rows], b.detach()[columns], 0.1)
    torch.testing.assert_close(result.coupling.detach()[rows][:, columns], inner[2])
    torch.testing.assert_close(result.f.detach()[rows], inner[0])
    loss = (result.coupling.square().sum()) + result.f[[0, 2]].sum()
    grads = torch.autograd.grad(loss, (cost, a, b))
    assert all(g.isfinite().all() for g in grads)
    assert (grads[0][1] == 0).all()
    assert grads[1][1] == 0
    assert (grads[2][[0, 3]] == 0).all()


@both_ways
def test_infeasible_problems_do_not_converge_and_hold_no_nan(implementation):
    cost = torch.tensor([[torch.inf, torch.inf], [0.0, 1.0]])
    with dispatch.use(implementation):
        result = sinkhorn(cost, torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), epsilon=1.0, max_iterations=50)
    assert not result.converged
    assert not any(t.isnan().any() for t in result[:4])


@both_ways
def test_columns_that_underflow_against_every_row(implementation):
    # Each row prefers column 0 by far more than float32 can hold; the masses still have to go everywhere.
    cost = torch.zeros(3, 4)
    cost[:, 1:] = torch.tensor([200.0, 400.0, 1000.0])
    cost[0, 3] = 3000.0
    a, b = torch.full((3,), 1 / 3), torch.full((4,), 0.25)
    expected = unrolled(cost.double(), a.double(), b.double(), 1.0)
    with dispatch.use(implementation):
        result = sinkhorn(cost, a, b, epsilon=1.0)
    assert result.converged
    torch.testing.assert_close(result.coupling.double(), expected[2], atol=1e-6, rtol=1e-5)  # the tolerance


def test_unequal_scales_are_absorbed():
    cost, a, b = problem(20, 30, seed=5)
    rows = 40.0 * torch.randn(20, 1, dtype=DOUBLE, generator=generator(8))
    columns = 40.0 * torch.randn(30, dtype=DOUBLE, generator=generator(9))
    shifted = sinkhorn(cost + rows + columns, a, b, epsilon=0.05, tolerance=1e-12)
    expected = sinkhorn(cost, a, b, epsilon=0.05, tolerance=1e-12)
    # Adding to rows and columns of the cost leaves the coupling; costs of 100 are rounded to 1e-14.
    torch.testing.assert_close(shifted.coupling, expected.coupling, atol=1e-12, rtol=1e-9)


def test_projection_to_doubly_stochastic_matrices():
    x = torch.rand(3, 12, 12, dtype=DOUBLE, generator=generator()) + 0.01
    y = sinkhorn_projection(x.log(), tolerance=1e-13)
    one = torch.ones(3, 12, dtype=DOUBLE)
    torch.testing.assert_close(y.sum(-1), one)
    torch.testing.assert_close(y.sum(-2), one)
    ratio = (y / x).log()  # is f_i + g_j
    torch.testing.assert_close(ratio, ratio[..., :1] + ratio[..., :1, :] - ratio[..., :1, :1])
    torch.testing.assert_close(sinkhorn_projection(y.log()), y)
    permuted = sinkhorn_projection(torch.eye(4).log())
    torch.testing.assert_close(permuted, torch.eye(4))
    single = sinkhorn_projection(3.0 * torch.randn(64, 64, generator=generator(2)))
    assert (single.double().sum(-1) - 1.0).abs().max() < 2e-6  # the tolerance, and rounding of the entries


# -- derivatives ---------------------------------------------------------------------------------------------------


def logits_problem():
    cost, a, b = problem(3, 4, seed=1)
    return tuple(t.clone().requires_grad_() for t in (cost, a.log(), b.log()))


def solve(cost, a, b):
    """The solution as a function of free variables: masses through softmax have equal totals."""
    return sinkhorn(cost, a.softmax(-1), b.softmax(-1), epsilon=0.3, tolerance=1e-14)[:3]


@both_ways
def test_derivatives_by_finite_differences(implementation):
    with dispatch.use(implementation):
        assert torch.autograd.gradcheck(solve, logits_problem())
        assert torch.autograd.gradgradcheck(solve, logits_problem())


@both_ways
@pytest.mark.parametrize("size", [(5, 8), (9, 4, 2)])
def test_gradients_are_those_of_the_unrolled_loop(implementation, size):
    cost, a, b = (t.requires_grad_() for t in problem(*size))

    def loss(f, g, coupling):
        return f.sin().sum() + g.square().sum() + (coupling * coupling.detach().cos()).sum()

    masses = a.softmax(-1), b.softmax(-1)
    expected = torch.autograd.grad(loss(*unrolled(cost, *masses, 0.1)), (cost, a, b), retain_graph=True)
    with dispatch.use(implementation):
        result = sinkhorn(cost, *masses, epsilon=0.1, tolerance=1e-14)
        grads = torch.autograd.grad(loss(*result[:3]), (cost, a, b), retain_graph=True)
    # The iteration stops at 1e-14 or at its 1000th step; the loop's own sum of 400 steps is rounded too.
    torch.testing.assert_close(grads, expected, atol=1e-9, rtol=1e-8)
    single = [t.detach().float().requires_grad_() for t in (cost, a, b)]
    result = sinkhorn(single[0], single[1].softmax(-1), single[2].softmax(-1), epsilon=0.1)
    for grad, want in zip(torch.autograd.grad(loss(*result[:3]), single), expected, strict=True):
        # Converged to 1e-6 in the sums, of which potentials collect some tens; relative to the largest entry.
        torch.testing.assert_close(grad.double(), want, atol=2e-4 * float(want.abs().max()), rtol=0)


def test_the_gradient_of_the_projection_is_the_tangent_projection():
    x = torch.randn(6, 6, dtype=DOUBLE, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn_projection(x, tolerance=1e-14), (x,))
    y = sinkhorn_projection(x, tolerance=1e-14)
    grad = torch.autograd.grad(y, x, torch.randn(6, 6, dtype=DOUBLE, generator=generator(1)))[0]
    torch.testing.assert_close(grad.sum(-1), torch.zeros(6, dtype=DOUBLE), atol=1e-13, rtol=0)  # rounding of terms of 1
    torch.testing.assert_close(grad.sum(-2), torch.zeros(6, dtype=DOUBLE), atol=1e-13, rtol=0)


def test_gradients_of_masses_are_the_shortest():
    cost, a, b = (t.requires_grad_() for t in problem(4, 6))
    result = sinkhorn(cost, a, b, epsilon=0.2, tolerance=1e-14)
    grad_a, grad_b = torch.autograd.grad((result.coupling * cost.detach()).sum(), (a, b))
    torch.testing.assert_close(grad_a.sum(), grad_b.sum())


# -- torch ---------------------------------------------------------------------------------------------------------


def test_operators_batches_strides_and_transforms():
    cost, a, b = problem(4, 5, 3)
    inputs = tuple(t.clone().requires_grad_() for t in (cost, a, b))
    torch.library.opcheck(torch.ops.holonomy.sinkhorn.default, (*inputs, -2.0, 1e-12, 500))
    plan = sinkhorn(cost, a, b, epsilon=0.5).coupling
    grads = [torch.randn(3, k, dtype=DOUBLE, generator=generator(k)).requires_grad_() for k in (4, 5)]
    torch.library.opcheck(
        torch.ops.holonomy.sinkhorn_backward.default,
        (*grads, cost.clone().requires_grad_(), plan.clone().requires_grad_(), -2.0),
    )

    def coupling(cost, a, b):
        return sinkhorn(cost, a, b, epsilon=0.5, tolerance=1e-13).coupling

    one_by_one = torch.stack([coupling(*t) for t in zip(cost, a, b, strict=True)])
    torch.testing.assert_close(coupling(cost, a, b), one_by_one, rtol=0, atol=0)
    torch.testing.assert_close(torch.vmap(coupling)(cost, a, b), one_by_one)
    torch.testing.assert_close(torch.vmap(coupling, (None, 0, 0))(cost[0], a, b), coupling(cost[0], a, b))
    torch.testing.assert_close(coupling(cost.mT.contiguous().mT, a, b), one_by_one, rtol=0, atol=0)
    transposed = coupling(cost.mT, b, a).mT
    torch.testing.assert_close(transposed, one_by_one, atol=1e-11, rtol=1e-11)  # converged from the other side
    assert coupling(cost[:0], a[:0], b[:0]).shape == (0, 4, 5)
    uniform = sinkhorn(cost, epsilon=0.5)
    torch.testing.assert_close(uniform.coupling.sum(-1), torch.full((3, 4), 0.25, dtype=DOUBLE))

    def loss(cost, a, b):
        return coupling(cost, a, b).square().sum()

    wanted = torch.autograd.functional.jacobian(lambda cost: loss(cost, a, b), cost)
    torch.testing.assert_close(torch.func.grad(loss)(cost, a, b), wanted)
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(cost, a, b), wanted)
    torch.testing.assert_close(torch.func.jacfwd(loss)(cost, a, b), wanted)


def test_compiles_as_one_graph():
    cost, a, b = problem(4, 5)

    def f(cost, a, b):
        result = sinkhorn(cost, a, b, epsilon=0.5)
        return result.f, result.coupling, result.converged

    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(cost, a, b), f(cost, a, b))


def test_threads_do_not_change_the_numbers():
    inputs = problem(60, 70, 12, dtype=SINGLE)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            results.append(sinkhorn(*inputs, epsilon=0.1)[:3])
        finally:
            torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


GOOD = {"cost": torch.ones(2, 3), "a": torch.full((2,), 0.5), "b": torch.full((3,), 1 / 3), "epsilon": 1.0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cost": [[1.0]]}, TypeError, "'cost' must be a float32 or float64 tensor, got list"),
        ({"cost": torch.ones(2, 3).half()}, TypeError, "'cost' must be .* got torch.float16"),
        ({"cost": torch.ones(3)}, ValueError, r"'cost' has shape \(3,\), wanted \(..., n, m\)"),
        ({"a": torch.ones(2).double()}, TypeError, "'a' must be a tensor of the dtype of 'cost'"),
        ({"a": torch.ones(3) / 3}, ValueError, r"'a' has shape \(3,\), wanted a last dimension of 2"),
        ({"b": torch.tensor([1.5, -0.5, 0.0])}, ValueError, "'b' must be non-negative and finite, got values in"),
        ({"b": torch.tensor([torch.nan, 0.5, 0.5])}, ValueError, "'b' must be non-negative and finite"),
        ({"b": torch.ones(3)}, ValueError, "'a' and 'b' must have equal totals, got 1.0 and 3.0"),
        ({"epsilon": 0.0}, ValueError, "'epsilon' must be positive and finite, got 0.0"),
        ({"tolerance": -1.0}, ValueError, "'tolerance' must be positive and finite, got -1.0"),
        ({"max_iterations": 0}, ValueError, "'max_iterations' must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    with pytest.raises(error, match="sinkhorn: " + message):
        sinkhorn(**{**GOOD, **change})


def test_projection_refuses_rectangles():
    with pytest.raises(ValueError, match=r"'log_matrix' has shape \(2, 3\), wanted square"):
        sinkhorn_projection(torch.ones(2, 3))

"""The tangent projection of doubly stochastic matrices: against least squares, and by what characterises it."""

import pytest
import torch

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.birkhoff import (
    birkhoff_proju,
    birkhoff_proju_reference,
    marginal_solve,
    marginal_solve_reference,
)

pytest.importorskip("numba")

DOUBLE, SINGLE = torch.float64, torch.float32


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubly_stochastic(*size, spread=1.0, dtype=DOUBLE):
    """A permutation plus noise of size `spread`, scaled; with spread 1, noise alone."""
    n = size[-1]
    x = spread * torch.rand(*size, n, dtype=DOUBLE, generator=generator(n))
    if spread < 1.0:
        x = x + torch.eye(n, dtype=DOUBLE)[torch.randperm(n, generator=generator(n))]
    for _ in range(300):
        x = x / x.sum(-1, keepdim=True)
        x = x / x.sum(-2, keepdim=True)
    return x.to(dtype)


def ambient(*shape, dtype=DOUBLE, seed=5):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator(seed)).to(dtype)


def by_least_squares(x, u):
    """The dense system [diag(r) X; X^T diag(c)] in float64."""
    x, u = x.double(), u.double()
    n, m = x.shape
    system = torch.zeros(n + m, n + m, dtype=DOUBLE)
    system[:n, :n], system[n:, n:] = x.sum(1).diag(), x.sum(0).diag()
    system[:n, n:], system[n:, :n] = x, x.T
    right = torch.cat([u.sum(1), u.sum(0)]).unsqueeze(1)
    solution = torch.linalg.lstsq(system, right, driver="gelsd").solution.squeeze(1)
    return u - (solution[:n, None] + solution[None, n:]) * x


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 33, 64])
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_equals_least_squares(n, spread):
    x, u = doubly_stochastic(n, spread=spread), ambient(n, n)
    expected = by_least_squares(x, u)
    # The system's condition is about 1 / spread; the sums of u that it solves for have size sqrt(n) |u|.
    bound = 1e-13 / spread
    torch.testing.assert_close(birkhoff_proju(x, u), expected, atol=bound, rtol=bound)
    torch.testing.assert_close(birkhoff_proju_reference(x, u), expected, atol=bound, rtol=bound)
    single = birkhoff_proju(x.float(), u.float())
    # In float32 the system is solved in float64: what counts is the rounding of the result, of entries up to 4 sqrt(n).
    wanted = by_least_squares(x.float(), u.float())
    torch.testing.assert_close(single.double(), wanted, atol=4e-7 * n**0.5, rtol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_sums_of_the_result_are_0_in_float32(spread):
    x = doubly_stochastic(256, spread=spread, dtype=SINGLE)
    tangent = birkhoff_proju(x, x * ambient(256, 256, dtype=SINGLE)).double()
    assert tangent.sum(-1).abs().max() < 1e-6
    assert tangent.sum(-2).abs().max() < 1e-6


def test_is_the_orthogonal_projection():
    x, u, v = doubly_stochastic(4, 9), ambient(4, 9, 9), ambient(4, 9, 9, seed=6)
    projected, other = birkhoff_proju(x, u), birkhoff_proju(x, v)
    torch.testing.assert_close(birkhoff_proju(x, projected), projected)
    torch.testing.assert_close(projected.sum(-1), torch.zeros(4, 9, dtype=DOUBLE), atol=1e-13, rtol=0)  # rounding
    rest = ((u - projected) * other / x).sum((-1, -2))
    # Terms reach u^2 / x, some 1e3: what is left is their rounding.
    torch.testing.assert_close(rest, torch.zeros(4, dtype=DOUBLE), atol=1e-10, rtol=0)


def test_rectangular_couplings_of_any_mass_and_faces():
    x = torch.rand(7, 12, dtype=DOUBLE, generator=generator())
    x[2, 3:] = 0.0
    x[4] = 0.0
    x[:, 5] = 0.0
    u = ambient(7, 12)
    for project in (birkhoff_proju, birkhoff_proju_reference):
        result = project(x, u)
        assert (result[x == 0] == 0).all()
        torch.testing.assert_close(result, by_least_squares(x, u.where(x > 0, 0.0)))
    permutation = torch.eye(5)[torch.randperm(5, generator=generator())]
    # Nothing is tangent at a vertex but 0; entries of u are rounded to 6e-8 of some units.
    torch.testing.assert_close(
        birkhoff_proju(permutation, ambient(5, 5, dtype=SINGLE)), torch.zeros(5, 5), atol=1e-6, rtol=0
    )


def test_blocks_that_share_nothing():
    x = torch.block_diag(doubly_stochastic(4), doubly_stochastic(3)).requires_grad_()
    u = ambient(7, 7).requires_grad_()
    result = birkhoff_proju(x, u)
    wanted = torch.block_diag(
        by_least_squares(x[:4, :4].detach(), u[:4, :4].detach()),
        by_least_squares(x[4:, 4:].detach(), u[4:, 4:].detach()),
    )
    torch.testing.assert_close(result.detach(), wanted)
    grads = torch.autograd.grad(result.square().sum(), (x, u))
    assert all(g.isfinite().all() for g in grads)


def test_the_dense_way_takes_over_where_steps_run_out():
    x, u = doubly_stochastic(2, 20, spread=0.1), ambient(2, 20, 20)
    torch.testing.assert_close(birkhoff_proju(x, u, max_iterations=1), birkhoff_proju(x, u), atol=1e-12, rtol=1e-12)
    loose = birkhoff_proju(x, u, tolerance=0.5)
    assert (loose - birkhoff_proju(x, u)).abs().max() > 1e-6


def test_solution_of_the_system_is_the_shortest():
    x = doubly_stochastic(3, 6)
    f, g = ambient(3, 6), ambient(3, 6, seed=7)
    g = g + (f.sum(-1) - g.sum(-1)).unsqueeze(-1) / 6
    alpha, beta = marginal_solve(x, f.clone(), g.clone(), 1e-14, 100)
    torch.testing.assert_close(alpha + (x @ beta.unsqueeze(-1)).squeeze(-1), f)
    torch.testing.assert_close(beta + (x.mT @ alpha.unsqueeze(-1)).squeeze(-1), g)
    torch.testing.assert_close(alpha.sum(-1), beta.sum(-1))
    torch.testing.assert_close((alpha, beta), marginal_solve_reference(x, f, g))


def gradients(function, *inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    output = function(*inputs)
    return torch.autograd.grad(output, inputs, ambient(*output.shape, seed=9).to(output.dtype))


@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_gradients_are_those_of_the_reference(spread):
    x, u = doubly_stochastic(3, 11, spread=spread), ambient(3, 11, 11)
    expected = gradients(birkhoff_proju_reference, x, u)
    torch.testing.assert_close(gradients(birkhoff_proju, x, u), expected, atol=1e-11 / spread, rtol=1e-11)
    single = gradients(birkhoff_proju, x.float(), u.float())
    rounded = gradients(birkhoff_proju_reference, x.float().double(), u.float().double())
    for grad, want in zip(single, rounded, strict=True):
        # Products of some 10 numbers in float32, each rounded by 6e-8; relative to the largest entry.
        torch.testing.assert_close(grad.double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)


def test_derivatives():
    inputs = (doubly_stochastic(4).requires_grad_(), ambient(4, 4).requires_grad_())
    assert torch.autograd.gradcheck(birkhoff_proju, inputs)
    assert torch.autograd.gradgradcheck(birkhoff_proju, inputs)
    wide = (torch.rand(3, 5, dtype=DOUBLE, generator=generator()).requires_grad_(), ambient(3, 5).requires_grad_())
    assert torch.autograd.gradcheck(birkhoff_proju, wide)


def test_operators_batches_strides_and_transforms():
    x, u = doubly_stochastic(3, 5), ambient(3, 5, 5)
    grad = tuple(t.clone().requires_grad_() for t in (x, u))
    torch.library.opcheck(torch.ops.holonomy.birkhoff_proju.default, (*grad, 1e-14, 100))
    vectors = [ambient(3, 5, seed=s).requires_grad_() for s in range(4)]
    torch.library.opcheck(
        torch.ops.holonomy.birkhoff_proju_backward.default,
        (u.clone().requires_grad_(), *vectors[:2], grad[0], *vectors[2:], 1e-14, 100),
    )
    one_by_one = torch.stack([birkhoff_proju(a, b) for a, b in zip(x, u, strict=True)])
    torch.testing.assert_close(birkhoff_proju(x, u), one_by_one, rtol=0, atol=0)
    torch.testing.assert_close(torch.vmap(birkhoff_proju)(x, u), one_by_one)
    torch.testing.assert_close(torch.vmap(birkhoff_proju, (None, 0))(x[0], u), birkhoff_proju(x[0], u))
    torch.testing.assert_close(birkhoff_proju(x.mT, u.mT), birkhoff_proju(x, u).mT)
    assert birkhoff_proju(x[:0], u[:0]).shape == (0, 5, 5)
    wanted = torch.autograd.functional.jacobian(lambda x: birkhoff_proju(x, u).square().sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: birkhoff_proju(x, u).square().sum())(x), wanted)
    with dispatch.use("reference"):
        torch.testing.assert_close(birkhoff_proju(x, u), one_by_one)


def test_compiles_as_one_graph():
    x, u = doubly_stochastic(3, 5), ambient(3, 5, 5)
    torch.testing.assert_close(
        torch.compile(birkhoff_proju, fullgraph=True, backend="aot_eager")(x, u), birkhoff_proju(x, u)
    )


def test_threads_do_not_change_the_numbers():
    x, u = doubly_stochastic(9, 64, dtype=SINGLE), ambient(9, 64, 64, dtype=SINGLE)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            results.append((birkhoff_proju(x, u), *gradients(birkhoff_proju, x, u)))
        finally:
            torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("x", "u", "options", "error", "message"),
    [
        ([[1.0]], torch.ones(1, 1), {}, TypeError, "'x' must be a float32 or float64 tensor, got list"),
        (torch.ones(2, 2).int(), torch.ones(2, 2), {}, TypeError, "'x' must be .* got torch.int32"),
        (torch.ones(2, 2), torch.ones(2, 2).double(), {}, TypeError, "'u' must have the dtype of 'x', torch.float32"),
        (torch.ones(2, 2), torch.ones(3, 3), {}, ValueError, r"got \(2, 2\) and \(3, 3\)"),
        (torch.ones(2), torch.ones(2), {}, ValueError, "must be matrices"),
        (torch.ones(2, 2), torch.ones(2, 2), {"tolerance": 0.0}, ValueError, "'tolerance' must be positive, got 0.0"),
        (torch.ones(2, 2), torch.ones(2, 2), {"max_iterations": -1}, ValueError, "'max_iterations' must not be .* -1"),
    ],
)
def test_bad_input_is_refused(x, u, options, error, message):
    with pytest.raises(error, match=message):
        birkhoff_proju(x, u, **options)

"""Bases of functions against scipy and numpy, in value and derivative; layers of them against the dense sums."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.bases import (
    bspline_basis,
    bspline_combine,
    bspline_reference,
    chebyshev_basis,
    chebyshev_combine,
    chebyshev_reference,
)

pytest.importorskip("numba")

GRID = (torch.arange(12, dtype=torch.float64) - 3) * 0.4 - 1  # five intervals on [-1, 1], extended by three knots
#: Knots and degree: extended, clamped with a double knot, and every degree from steps on; simple, repeated at the ends.
SPLINES = {
    "extended": (GRID, 3),
    "clamped": (torch.tensor([0, 0, 0, 0, 0.2, 0.5, 0.5, 1, 1, 1, 1], dtype=torch.float64), 3),
    "steps": (torch.tensor([0, 1, 2, 4], dtype=torch.float64), 0),
    "hats": (torch.tensor([0, 0, 1, 1.5, 3, 3], dtype=torch.float64), 1),
    "quadratic": (torch.tensor([-1, -1, -1, 0, 2, 2, 2], dtype=torch.float64), 2),
    "quintic": (torch.linspace(-2, 2, 14, dtype=torch.float64), 5),
    "one piece": (torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.float64), 3),
    "fine": (torch.linspace(0, 1, 90, dtype=torch.float64), 3),
}


def points(knots, outside=0.5):
    """Points in and outside of the knots, and the knots themselves; their number is no multiple of eight."""
    low, high = float(knots[0]), float(knots[-1])
    return torch.cat((torch.linspace(low - outside, high + outside, 83, dtype=torch.float64), knots))


def scipys(knots, degree, order=0):
    """Functions of the basis by scipy, zero outside of the knots."""
    n = len(knots) - degree - 1
    # Extended by knots far out, which change no function, so that scipy's interval covers all knots.
    reach = np.arange(1, degree + 1)
    t = np.concatenate((float(knots[0]) - reach[::-1], knots.numpy(), float(knots[-1]) + reach))

    def values(x):
        full = BSpline(t, np.eye(len(t) - degree - 1), degree)
        inside = ((x >= knots[0]) & (x <= knots[-1])).numpy()[:, None]
        return torch.from_numpy(np.where(inside, full(x.numpy(), nu=order), 0.0)[:, degree : degree + n])

    return values


@pytest.mark.parametrize("name", SPLINES)
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_values_equal_scipys(name, implementation):
    knots, degree = SPLINES[name]
    x = points(knots)
    x = x[x != knots[-1]]  # the right end is closed here, and tested below
    with dispatch.use(implementation):
        y = bspline_basis(x, knots, degree)
    torch.testing.assert_close(y, scipys(knots, degree)(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SPLINES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_equal_scipys(name, order):
    knots, degree = SPLINES[name]
    x = points(knots)
    x = x[x != knots[-1]].requires_grad_()
    y = bspline_basis(x, knots, degree)
    weights = torch.randn(y.shape[-1], dtype=torch.float64)
    value = y @ weights
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    wanted = scipys(knots, degree, order)(x.detach()) @ weights if order <= degree else torch.zeros_like(x)
    # Differences over intervals of 1/89 lose three powers of 89 of the digits.
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9 * float(1 + wanted.abs().max()))


@pytest.mark.parametrize("name", SPLINES)
def test_kernel_equals_the_reference_also_at_the_right_end(name):
    knots, degree = SPLINES[name]
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):  # the same operations, up to contraction
        x = points(knots).to(dtype).requires_grad_()
        t = knots.to(dtype)
        y, z = bspline_basis(x, t, degree), bspline_reference(x, t, degree)
        torch.testing.assert_close(y, z, rtol=0, atol=tolerance)
        if degree:
            g = torch.randn_like(y)
            grads = [torch.autograd.grad(v, x, g)[0] for v in (y, z)]
            torch.testing.assert_close(*grads, rtol=0, atol=tolerance * 100 * float(1 + grads[1].abs().max()))


@pytest.mark.parametrize("name", ["clamped", "hats", "quadratic", "one piece", "steps"])
def test_sums_to_one_on_closed_ends_and_is_never_negative(name):
    knots, degree = SPLINES[name]
    x = torch.linspace(float(knots[0]), float(knots[-1]), 101, dtype=torch.float64)
    y = bspline_basis(x, knots, degree)
    torch.testing.assert_close(y.sum(-1), torch.ones(101, dtype=torch.float64), rtol=1e-14, atol=0)
    assert (y >= 0).all()
    assert ((y > 0).sum(-1) <= degree + 1).all()
    assert y[-1, -1] == pytest.approx(1.0)
    assert bspline_basis(x[-1] + 1e-9, knots, degree).abs().max() == 0


def test_extended_grid_sums_to_one_on_the_grid_and_vanishes_outside():
    y = bspline_basis(torch.linspace(-1, 1, 50, dtype=torch.float64), GRID, 3)
    assert y.shape == (50, 8)
    torch.testing.assert_close(y.sum(-1), torch.ones(50, dtype=torch.float64))
    assert bspline_basis(torch.tensor([-2.3, 2.3, 1e30, -1e30]), GRID.float(), 3).abs().max() == 0


def test_steps_are_continuous_from_the_right():
    y = bspline_basis(torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 2.0, 4.0]), 0)
    assert y.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_each_feature_may_have_knots_of_its_own():
    knots = torch.stack((GRID, 2 * GRID + 0.3, GRID.exp()))
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    y = bspline_basis(x, knots, 3)
    each = torch.stack([bspline_basis(x[..., j], knots[j], 3) for j in range(3)], -2)
    torch.testing.assert_close(y, each)
    g = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad(t, x, g)[0] for t in (y, each)))


def test_nan_stays_nan_and_spoils_nothing_else():
    x = torch.tensor([0.1, float("nan"), 0.2])
    y = bspline_basis(x, GRID.float(), 3)
    assert y[1].isnan().all()
    assert y[::2].isfinite().all()


def test_gradients_of_splines_of_both_orders_and_in_the_knots():
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    for degree in (2, 3, 4):
        torch.autograd.gradcheck(lambda t, p=degree: bspline_basis(t, GRID, p), x)
    torch.autograd.gradgradcheck(lambda t: bspline_basis(t, GRID, 3), x)
    knots = GRID.clone().requires_grad_()
    torch.autograd.gradcheck(lambda t: bspline_basis(x, t, 3), knots)


# -- Chebyshev -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 20])
def test_chebyshev_equals_numpys(degree):
    x = torch.linspace(-1.2, 1.2, 53, dtype=torch.float64, requires_grad=True)
    y = chebyshev_basis(x, degree)
    wanted = torch.from_numpy(np.polynomial.chebyshev.chebvander(x.detach().numpy(), degree))
    # The recurrence loses degree^2 roundings; at |x| = 1.2 the last function reaches 2.6e5.
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y, chebyshev_reference(x, degree), rtol=1e-12, atol=1e-12)
    c = torch.randn(degree + 1, dtype=torch.float64)
    value = y @ c
    for order in (1, 2):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        derivative = np.polynomial.chebyshev.chebder(c.numpy(), order)
        wanted = torch.from_numpy(np.polynomial.chebyshev.chebval(x.detach().numpy(), derivative))
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-9)


def test_chebyshev_is_the_cosine_of_multiples_in_float32():
    angle = torch.linspace(0, 3.14, 200, dtype=torch.float64)
    y = chebyshev_basis(angle.cos().float(), 7)
    wanted = torch.cos(torch.arange(8) * angle.cos().float().double().acos()[:, None])
    # Rounding at step k grows like U_(n - k), at most 8, over seven steps: 50 times 6e-8.
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=50 * 6e-8)


def test_gradients_of_chebyshev_of_both_orders():
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: chebyshev_basis(t, 6), x)
    torch.autograd.gradgradcheck(lambda t: chebyshev_basis(t, 6), x)
    edge = torch.tensor([1.0, -1.0], requires_grad=True)
    chebyshev_basis(edge, 5)[:, 5].sum().backward()
    assert edge.grad.tolist() == [25.0, 25.0]  # n^2 at both ends


# -- layers --------------------------------------------------------------------------------------------------------


def a_layer(rows, features, outputs, dtype=torch.float64):
    x = (2 * torch.rand(rows, features, dtype=dtype) - 1).requires_grad_()
    return x, torch.randn(outputs, features, 8, dtype=dtype, requires_grad=True)


def ours_and_dense(family, x, c):
    if family == "bspline":
        return bspline_combine(x, GRID.to(x.dtype), c, 3), torch.einsum(
            "nji,oji->no", bspline_reference(x, GRID.to(x.dtype), 3), c
        )
    return chebyshev_combine(x, c), torch.einsum("nji,oji->no", chebyshev_reference(x, 7), c)


# One row; rows that are no multiple of eight; more than one block of 2^18 values.
@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 3, 5), (50, 9, 2), (2100, 17, 4)])
@pytest.mark.parametrize("family", ["bspline", "chebyshev"])
def test_layers_equal_the_dense_sums_in_value_and_gradient(shape, family):
    x, c = a_layer(*shape)
    y, z = ours_and_dense(family, x, c)
    torch.testing.assert_close(y, z)
    g = torch.randn_like(y)
    for ours, wanted in zip(torch.autograd.grad(y, (x, c), g), torch.autograd.grad(z, (x, c), g), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-10)  # sums of up to 2100 terms in another order


@pytest.mark.parametrize("family", ["bspline", "chebyshev"])
def test_layers_in_float32_are_near_float64(family):
    x, c = a_layer(300, 12, 6, torch.float32)
    exact, wide = x.detach().double().requires_grad_(), c.detach().double().requires_grad_()
    y, _ = ours_and_dense(family, x, c)
    knots = GRID.float().double()
    z = bspline_combine(exact, knots, wide, 3) if family == "bspline" else chebyshev_combine(exact, wide)
    g = torch.randn(300, 6)
    pairs = [
        (y, z),
        *zip(torch.autograd.grad(y, (x, c), g), torch.autograd.grad(z, (exact, wide), g.double()), strict=True),
    ]
    for ours, wanted in pairs:
        # Sums of 96 to 300 products of rounded factors: some tens of 6e-8 of the largest.
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=5e-6 * float(wanted.detach().abs().max()))


def test_gradients_of_layers_of_both_orders():
    x, c = a_layer(3, 2, 2)
    knots = torch.stack((GRID, GRID + 0.1))
    torch.autograd.gradcheck(lambda s, t: bspline_combine(s, knots, t, 3), (x, c))
    torch.autograd.gradgradcheck(lambda s, t: bspline_combine(s, knots, t, 3), (x, c))
    torch.autograd.gradcheck(chebyshev_combine, (x, c))
    torch.autograd.gradgradcheck(chebyshev_combine, (x, c))


def test_layers_of_any_batch_strides_and_of_nothing():
    x, c = a_layer(12, 5, 3)
    y = bspline_combine(x, GRID, c, 3)
    torch.testing.assert_close(bspline_combine(x.view(3, 4, 5), GRID, c, 3), y.view(3, 4, 3))
    torch.testing.assert_close(bspline_combine(x[0], GRID, c, 3), y[0])
    strided = x.detach().t().contiguous().t()
    torch.testing.assert_close(bspline_combine(strided, GRID, c.mT.contiguous().mT, 3), y)
    torch.testing.assert_close(bspline_basis(strided, GRID, 3), bspline_basis(x, GRID, 3))
    empty = chebyshev_combine(x[:0], c)
    assert empty.shape == (0, 3)
    (grad,) = torch.autograd.grad(empty.sum(), c)
    assert torch.equal(grad, torch.zeros_like(c))
    assert bspline_basis(x[:0], GRID, 3).shape == (0, 5, 8)
    assert bspline_basis(x[0, 0], GRID, 3).shape == (8,)


def test_moving_a_coefficient_moves_only_its_output():
    x, c = (t.detach() for t in a_layer(20, 3, 4))
    y = bspline_combine(x, GRID, c, 3)
    c[1, 2, 5] += 1.0
    change = bspline_combine(x, GRID, c, 3) - y
    torch.testing.assert_close(change[:, 1], bspline_basis(x[:, 2], GRID, 3)[:, 5])
    assert change[:, [0, 2, 3]].abs().max() == 0


# -- torch's machinery ---------------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_nothing():
    x = torch.rand(40_000, requires_grad=True)

    def numbers():
        y, z = bspline_basis(x, GRID.float(), 3), chebyshev_basis(x, 7)
        return y, z, *torch.autograd.grad((y * z).sum(), x)

    one = numbers()
    torch.set_num_threads(3)
    try:
        assert all(torch.equal(s, t) for s, t in zip(one, numbers(), strict=True))
    finally:
        torch.set_num_threads(1)


def test_operators_pass_torchs_own_checks():
    x, c = a_layer(5, 2, 3)
    nothing, g = torch.empty(0, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.holonomy.basis_values, (x, GRID, "bspline", 3, 0))
    torch.library.opcheck(torch.ops.holonomy.basis_pull, (torch.randn(5, 2, 8).double(), x, GRID, "bspline", 3, 1))
    torch.library.opcheck(torch.ops.holonomy.basis_combine, (x, nothing, c, "chebyshev", 7))
    torch.library.opcheck(torch.ops.holonomy.basis_combine_backward, (g, x.detach(), GRID, c.detach(), "bspline", 3))


def test_vmap_and_transforms_of_functions():
    x, c = (t.detach() for t in a_layer(6, 3, 2))
    knots = torch.stack((GRID, GRID * 2))
    torch.testing.assert_close(torch.vmap(lambda t: bspline_basis(t, GRID, 3), 1, 1)(x), bspline_basis(x, GRID, 3))
    mapped = torch.vmap(lambda t: bspline_basis(x, t, 3))(knots)
    torch.testing.assert_close(mapped, torch.stack([bspline_basis(x, t, 3) for t in knots]))
    torch.testing.assert_close(torch.vmap(lambda t: bspline_combine(t, GRID, c, 3))(x), bspline_combine(x, GRID, c, 3))
    several = torch.stack((c, -c))
    torch.testing.assert_close(
        torch.vmap(lambda t: chebyshev_combine(x, t))(several), torch.stack([chebyshev_combine(x, t) for t in several])
    )

    def grad(t):
        return torch.func.grad(lambda s: bspline_combine(s, GRID, c, 3).square().sum())(t)

    torch.testing.assert_close(torch.vmap(grad)(x), grad(x))
    # Forward mode goes by the reference.
    jacobians = [
        mode(lambda s: bspline_combine(s, GRID, c, 3))(x[0]) for mode in (torch.func.jacfwd, torch.func.jacrev)
    ]
    torch.testing.assert_close(*jacobians)


def test_compiles_to_one_graph():
    x, c = a_layer(5, 2, 3)

    def loss(x, c):
        return bspline_combine(x, GRID, c, 3).square().sum() + chebyshev_basis(x, 4).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, wanted = (torch.autograd.grad(f(x, c), (x, c)) for f in (compiled, loss))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize(
    "knots", [[0.0, 2.0, 1.0, 3.0], [1.0, 1.0, 1.0], [0.0, float("nan"), 1.0], [0.0, 1.0, float("inf")]]
)
def test_bad_knots(implementation, knots):
    with dispatch.use(implementation), pytest.raises(ValueError, match="'knots' must be finite, in ascending order"):
        bspline_basis(torch.zeros(3), torch.tensor(knots), 1)


def test_bad_input():
    x, c = (t.detach() for t in a_layer(5, 2, 3))
    with pytest.raises(ValueError, match="'degree' must be at least 0, got -1"):
        bspline_basis(x, GRID, -1)
    with pytest.raises(ValueError, match="'degree' must be at least 0, got -1"):
        chebyshev_basis(x, -1)
    with pytest.raises(ValueError, match=r"at least degree \+ 2 = 5, got \(4,\)"):
        bspline_basis(x, GRID[:4], 3)
    with pytest.raises(ValueError, match=r"'x' must have the 3 features .* got shape \(5, 2\)"):
        bspline_basis(x, GRID.expand(3, 12), 3)
    with pytest.raises(ValueError, match=r"\(outputs, 2, 8\) .* got \(3, 2, 7\)"):
        bspline_combine(x, GRID, c[..., :7], 3)
    with pytest.raises(ValueError, match=r"\(outputs, 2, functions\) .* got \(3, 1, 8\)"):
        chebyshev_combine(x, c[:, :1])
    with pytest.raises(TypeError, match=r"'x' .* torch.int64"):
        chebyshev_basis(x.long(), 2)
    with pytest.raises(TypeError, match=r"'knots' .* torch.int64"):
        bspline_basis(x, GRID.long(), 3)
    with pytest.raises(TypeError, match=r"'coefficients' .* list"):
        bspline_combine(x, GRID, [1.0], 3)

"""Recurrences against a loop over time, in value and gradient; the selective scan against its states in memory."""

import mpmath
import pytest
import torch

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.recurrence import (
    linear_recurrence,
    recurrence_loop,
    recurrence_reference,
    selective_scan,
    selective_scan_reference,
)

pytest.importorskip("numba")


def recurrence_inputs(rows, time, channels, dtype=torch.float64):
    a, b = torch.randn(2, rows, time, channels, dtype=dtype)
    a[:, time // 2] = 0.0
    return [t.requires_grad_() for t in (a, b, torch.randn(rows, channels, dtype=dtype))]


def scan_inputs(batch, channels, time, states, groups, dtype=torch.float64):
    u, delta = torch.randn(batch, channels, time, dtype=dtype), torch.rand(batch, channels, time, dtype=dtype)
    B, C = torch.randn(2, batch, groups, states, time, dtype=dtype)
    A, D = -3 * torch.rand(channels, states, dtype=dtype), torch.randn(channels, dtype=dtype)
    h0 = torch.randn(batch, channels, states, dtype=dtype)
    return [t.detach().requires_grad_() for t in (u, delta, A, B, C, D, h0)]


def both(*inputs):
    return selective_scan(*inputs, return_last_state=True)


# -- h[t] = a[t] h[t-1] + b[t] -------------------------------------------------------------------------------------

# Fewer than 8 channels, a multiple of 8, a rest, more than one block of 256; one step; rows in eights and a rest.
SHAPES = [(2, 7, 3), (11, 5, 1), (3, 17, 8), (2, 9, 21), (1, 4, 300), (2, 1, 10), (9, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reverse", [False, True])
def test_equals_the_loop_in_value_and_gradient(shape, reverse):
    inputs = recurrence_inputs(*shape)
    y, z = linear_recurrence(*inputs, reverse=reverse), recurrence_loop(*inputs, reverse)
    g = torch.randn_like(y)
    torch.testing.assert_close(y, z)
    for ours, wanted in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(z, inputs, g), strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("time", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("reverse", [False, True])
def test_doubling_equals_the_loop(time, reverse):
    inputs = recurrence_inputs(2, time, 3)
    torch.testing.assert_close(recurrence_reference(*inputs, reverse), recurrence_loop(*inputs, reverse))


def test_gradients_of_both_orders():
    inputs = recurrence_inputs(2, 4, 3)
    for reverse in (False, True):
        torch.autograd.gradcheck(lambda *t, r=reverse: linear_recurrence(*t, reverse=r), inputs)
        torch.autograd.gradgradcheck(lambda *t, r=reverse: linear_recurrence(*t, reverse=r), inputs)
    inputs = recurrence_inputs(1, 3, 9)
    torch.autograd.gradcheck(linear_recurrence, inputs)


def test_float32_is_as_exact_as_a_loop_of_rounded_steps():
    a, b = torch.rand(1, 200, 8), torch.randn(1, 200, 8)
    with mpmath.workdps(30):
        h, exact = mpmath.mpf(0), []
        for t in range(200):
            h = mpmath.mpf(float(a[0, t, 5])) * h + mpmath.mpf(float(b[0, t, 5]))
            exact.append(float(h))
    # Each step rounds once or twice (6e-8); decays of 1/2 on average sum that to less than four of them.
    error = (linear_recurrence(a, b)[0, :, 5].double() - torch.tensor(exact, dtype=torch.float64)).abs().max()
    assert error < 4 * 2 * 6e-8 * max(map(abs, exact))


def test_special_cases_are_sums_powers_and_the_input():
    b = torch.randn(2, 6, 9, dtype=torch.float64)
    one = torch.ones(())
    torch.testing.assert_close(linear_recurrence(one.double(), b), b.cumsum(1))
    assert torch.equal(linear_recurrence(torch.zeros_like(b), b), b)
    powers = linear_recurrence(torch.full((5, 1), 0.5), torch.zeros(5, 1), torch.ones(1))
    assert powers.flatten().tolist() == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    torch.testing.assert_close(linear_recurrence(one.double(), b, reverse=True), b.flip(1).cumsum(1).flip(1))


def test_zeros_cut_the_past_off():
    a, b = torch.ones(1, 4, 8), torch.ones(1, 4, 8)
    a[:, 1], a[:, 2], b[:, 0] = 1e30, 0.0, 1e7
    assert torch.equal(linear_recurrence(a, b)[:, 2:], torch.tensor([1.0, 2.0]).expand(8, 2).t()[None])


def test_time_along_any_dimension_and_broadcasting():
    b = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    a, h0 = torch.rand(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    wanted = recurrence_loop(*(t.expand_as(b).flatten(2) for t in (a, b)), h0.expand(3, 2, 4).flatten(1))
    torch.testing.assert_close(linear_recurrence(a, b, h0, dim=1).flatten(2), wanted)
    last = linear_recurrence(b[..., :1, :].mT, b.mT, dim=-2)
    torch.testing.assert_close(linear_recurrence(b[..., :1, :], b, dim=-1), last.mT)
    a = torch.rand(2, 7, 8).transpose(0, 1)
    torch.testing.assert_close(linear_recurrence(a, a), linear_recurrence(a.contiguous(), a.contiguous()))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (2, 3, 0)])
def test_empty(shape):
    a = torch.zeros(shape, requires_grad=True)
    y = linear_recurrence(a, a)
    y.sum().backward()
    assert y.shape == a.grad.shape == shape


def test_vmap_and_derivatives_of_functions():
    a, b, h0 = (t.detach() for t in recurrence_inputs(6, 4, 9))
    y = torch.vmap(lambda s, t: linear_recurrence(s, t, h0[:1]), (0, None))(a.unsqueeze(1), b[:1])
    torch.testing.assert_close(y[:, 0], recurrence_loop(a, b[:1].expand_as(a), h0[:1].expand_as(h0)))

    def grad(s):
        return torch.func.grad(lambda t: linear_recurrence(t, b[:1]).square().sum())(s)

    torch.testing.assert_close(torch.vmap(grad)(a.unsqueeze(1)), torch.stack([grad(s) for s in a.unsqueeze(1)]))
    # Forward mode goes by the reference.
    jacobians = [
        mode(lambda s: linear_recurrence(s, b[:1]).sum(-1))(a[:1]) for mode in (torch.func.jacfwd, torch.func.jacrev)
    ]
    torch.testing.assert_close(*jacobians)


@pytest.mark.parametrize("shape", [(64, 30, 3), (16, 30, 600)])
def test_the_number_of_threads_changes_nothing(shape):
    inputs = recurrence_inputs(*shape, dtype=torch.float32)

    def numbers():
        y = linear_recurrence(*inputs)
        return y, *torch.autograd.grad(y.square().sum(), inputs)

    one = numbers()
    torch.set_num_threads(3)
    try:
        assert all(torch.equal(s, t) for s, t in zip(one, numbers(), strict=True))
    finally:
        torch.set_num_threads(1)


def test_operators_pass_torchs_own_checks():
    inputs = recurrence_inputs(2, 5, 9)
    torch.library.opcheck(torch.ops.holonomy.linear_recurrence, (*inputs, True))
    a, b, h0 = inputs
    torch.library.opcheck(torch.ops.holonomy.linear_recurrence_backward, (b, a, b, h0, False))


def test_bad_input_to_the_recurrence():
    a = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"'a' and 'b' .* \(2, 3, 4\) and \(2, 5, 4\)"):
        linear_recurrence(a, torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"'h0' .* \(2, 4\), got \(3, 4\)"):
        linear_recurrence(a, a, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"'dim' .* got 3"):
        linear_recurrence(a, a, dim=3)
    with pytest.raises(ValueError, match=r"'dim' .* got -2"):
        linear_recurrence(torch.zeros(3), torch.zeros(3))
    with pytest.raises(TypeError, match=r"'b' .* torch.int64"):
        linear_recurrence(a, a.long())


# -- selective scan ------------------------------------------------------------------------------------------------

# Time below, at and past the checkpoints' distance of 64; states that fill vectors of eight and that do not; groups.
CASES = [(2, 4, 5, 3, 1), (1, 6, 130, 16, 2), (2, 3, 64, 8, 3), (1, 2, 1, 1, 1), (1, 20, 9, 4, 1)]


@pytest.mark.parametrize("case", CASES)
def test_scan_equals_its_states_in_memory_in_value_and_gradient(case):
    inputs = scan_inputs(*case)
    ours, wanted = both(*inputs), selective_scan_reference(*inputs)
    g = [torch.randn_like(t) for t in wanted]
    torch.testing.assert_close(ours, wanted)
    grads = zip(torch.autograd.grad(ours, inputs, g), torch.autograd.grad(wanted, inputs, g), strict=True)
    for mine, theirs in grads:
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)  # sums of up to 260 terms in another order


def test_scan_equals_an_explicit_loop():
    inputs = [t.detach() for t in scan_inputs(2, 4, 70, 5, 2)]
    u, delta, A, B, C, D, h = inputs
    wanted = torch.empty_like(u)
    for t in range(70):
        drive = (delta * u)[..., t].unsqueeze(-1) * B[..., t].repeat_interleave(2, 1)
        h = torch.exp(delta[..., t].unsqueeze(-1) * A) * h + drive
        wanted[..., t] = (h * C[..., t].repeat_interleave(2, 1)).sum(-1) + D * u[..., t]
    torch.testing.assert_close(selective_scan(*inputs), wanted)


def test_gradients_of_the_scan_of_both_orders():
    inputs = scan_inputs(2, 2, 3, 2, 1)
    torch.autograd.gradcheck(both, inputs)
    torch.autograd.gradgradcheck(both, inputs)


def test_scan_in_float32_is_near_float64():
    double = [t.detach() for t in scan_inputs(2, 8, 200, 16, 1)]
    single = [t.float().requires_grad_() for t in double]
    double = [t.detach().double().requires_grad_() for t in single]
    g = torch.randn(2, 8, 200)
    y, z = selective_scan(*single), selective_scan(*double)
    # Sums of 16 states, each a geometric sum of rounded steps: some tens of 6e-8 of the largest terms.
    torch.testing.assert_close(y.double(), z, rtol=0, atol=3e-6 * float(z.detach().abs().max()))
    grads = zip(torch.autograd.grad(y, single, g), torch.autograd.grad(z, double, g.double()), strict=True)
    for ours, wanted in grads:
        # Sums over up to 200 steps and 2 batch entries on top.
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_limits_of_the_scan():
    u = torch.randn(2, 3, 90, dtype=torch.float64)
    one, flat = torch.ones_like(u), torch.ones(2, 1, 90, dtype=torch.float64)
    # Without decay it is a cumulative sum; with the strongest decay only the present step is left.
    still = torch.zeros(3, 1, dtype=torch.float64)
    torch.testing.assert_close(selective_scan(u, one, still, flat, flat), u.cumsum(-1))
    B, C = torch.randn(2, 2, 4, 90, dtype=torch.float64)
    D = torch.randn(3, dtype=torch.float64)
    strong = torch.full((3, 4), -1e5, dtype=torch.float64)
    wanted = D[:, None] * u + u * (B * C).sum(1, keepdim=True)
    torch.testing.assert_close(selective_scan(u, one, strong, B, C, D), wanted)


def test_the_scan_is_causal_to_the_bit():
    inputs = [t.detach() for t in scan_inputs(1, 3, 100, 8, 1)]
    y = selective_scan(*inputs)
    inputs[0] = inputs[0].clone()
    inputs[0][..., 70] += 1.0
    z = selective_scan(*inputs)
    assert torch.equal(y[..., :70], z[..., :70])
    assert (y[..., 70:] != z[..., 70:]).any()


def test_last_state_continues_the_scan():
    u, delta, A, B, C, D, h0 = (t.detach() for t in scan_inputs(2, 3, 100, 4, 1))
    whole, last = both(u, delta, A, B, C, D, h0)
    y, middle = both(u[..., :37], delta[..., :37], A, B[..., :37], C[..., :37], D, h0)
    z, end = both(u[..., 37:], delta[..., 37:], A, B[..., 37:], C[..., 37:], D, middle)
    torch.testing.assert_close(torch.cat((y, z), -1), whole)
    torch.testing.assert_close(end, last)


def test_scan_of_nothing_and_by_the_reference():
    inputs = scan_inputs(2, 3, 0, 4, 1)
    y, last = both(*inputs)
    assert y.shape == (2, 3, 0)
    assert torch.equal(last, inputs[-1])
    inputs = scan_inputs(1, 2, 9, 4, 1)
    y = selective_scan(*inputs)
    with dispatch.use("reference"):
        torch.testing.assert_close(selective_scan(*inputs), y)


def test_vmap_of_the_scan_and_of_its_gradient():
    u, delta, A, B, C, D, h0 = (t.detach() for t in scan_inputs(2, 3, 7, 4, 1))
    many = torch.randn(4, 2, 3, 7, dtype=torch.float64)
    each = torch.stack([selective_scan(t, delta, A, B, C, D, h0) for t in many])
    torch.testing.assert_close(torch.vmap(lambda t: selective_scan(t, delta, A, B, C, D, h0))(many), each)
    decays = torch.stack([A, 2 * A])
    each = torch.stack([selective_scan(u, delta, t, B, C, D, h0) for t in decays])
    torch.testing.assert_close(torch.vmap(lambda t: selective_scan(u, delta, t, B, C, D, h0))(decays), each)

    def grad(a, t):
        return torch.func.grad(lambda s: selective_scan(t, delta, s, B, C).square().sum())(a)

    each = torch.stack([grad(A, t) for t in many])
    torch.testing.assert_close(torch.vmap(grad, (None, 0))(A, many), each)


def test_the_number_of_threads_does_not_change_the_scan():
    inputs = scan_inputs(1, 24, 100, 16, 1, dtype=torch.float32)

    def numbers():
        y = selective_scan(*inputs)
        return y, *torch.autograd.grad(y.square().sum(), inputs)

    one = numbers()
    torch.set_num_threads(3)
    try:
        assert all(torch.equal(s, t) for s, t in zip(one, numbers(), strict=True))
    finally:
        torch.set_num_threads(1)


def test_operators_of_the_scan_pass_torchs_own_checks():
    inputs = scan_inputs(1, 4, 66, 3, 2)
    torch.library.opcheck(torch.ops.holonomy.selective_scan, inputs)
    y, last, kept = torch.ops.holonomy.selective_scan(*(t.detach() for t in inputs))
    torch.library.opcheck(torch.ops.holonomy.selective_scan_backward, (y, last, *(t.detach() for t in inputs), kept))


def test_compiles_to_one_graph():
    scan, recurrence = scan_inputs(1, 2, 5, 3, 1), recurrence_inputs(2, 5, 4)

    def loss(s, r):
        return selective_scan(*s).square().sum() + linear_recurrence(*r).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(scan, recurrence), scan + recurrence)
    wanted = torch.autograd.grad(loss(scan, recurrence), scan + recurrence)
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": (2, 4, 5)}, r"'u' and 'delta' .* \(2, 4, 6\) and \(2, 4, 5\)"),
        ({"u": (4, 6), "delta": (4, 6)}, "'u' and 'delta'"),
        ({"A": (3, 5)}, r"'A' must have shape \(4, states\), got \(3, 5\)"),
        ({"B": (2, 2, 5, 7)}, r"'B' must have shape \(2, groups, 5, 6\), got \(2, 2, 5, 7\)"),
        ({"C": (2, 5)}, r"'C' must have shape"),
        ({"B": (2, 3, 5, 6), "C": (2, 3, 5, 6)}, "divides 4 channels, got 3 and 3"),
        ({"C": (2, 1, 5, 6)}, "one number of groups"),
        ({"D": (1,)}, r"'D' must have shape \(4,\), got \(1,\)"),
        ({"h0": (2, 4, 4)}, r"'h0' must have shape \(2, 4, 5\), got \(2, 4, 4\)"),
    ],
)
def test_bad_shapes_of_the_scan(change, message):
    shapes = {"u": (2, 4, 6), "delta": (2, 4, 6), "A": (4, 5), "B": (2, 2, 5, 6), "C": (2, 2, 5, 6)} | change
    with pytest.raises(ValueError, match=message):
        selective_scan(**{name: torch.zeros(shape) for name, shape in shapes.items()})


def test_bad_types_of_the_scan():
    inputs = [t.detach() for t in scan_inputs(1, 2, 3, 4, 1)]
    with pytest.raises(TypeError, match=r"'A' .* torch.int64"):
        selective_scan(*inputs[:2], inputs[2].long(), *inputs[3:])
    with pytest.raises(TypeError, match=r"'u' .* list"):
        selective_scan([1.0], *inputs[1:])

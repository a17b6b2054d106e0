"""The ball's exponential map and transport in one kernel: equal to its definition, and torch's rules."""

import math

import pytest
import torch
from row_maps import DOUBLE, SINGLE, assert_as_accurate_as_definition, assert_equals_definition, generator, outcome

from holonomy.manifolds import PoincareBall, kernels
from holonomy.manifolds.gyrovector import expmap_transport

pytest.importorskip("numba")


def arguments(*size, c=0.7, reach=1.0, dtype=DOUBLE):
    """Points, and tangent vectors there of about the length `reach`."""
    ball, draw = PoincareBall(c), generator(sum(size))
    with kernels.use("reference"):
        x = ball.expmap0(reach * torch.randn(*size, dtype=DOUBLE, generator=draw) / (c * size[-1]) ** 0.5)
        u, v = (reach * ball.random_tangent(x, generator=draw) / (c * size[-1]) ** 0.5 for _ in "uv")
    return tuple(t.to(dtype) for t in (x, u, v))


@pytest.mark.parametrize("size", [(70, 12), (65, 3), (9, 1), (3, 7, 33)], ids=str)
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_value_and_gradients_are_those_of_the_definition(size, c):
    curvature = torch.tensor(c, dtype=DOUBLE)
    # Rounding of float64 in a chain of about 60 operations; the gradient of the curvature sums up to 70 rows.
    assert_equals_definition(expmap_transport, (*arguments(*size, c=c), curvature), 2e-13)


@pytest.mark.parametrize("reach", [0.01, 1.0, 3.0])
def test_float32_is_as_close_to_float64_as_the_definition(reach):
    inputs = (*arguments(200, 12, reach=reach), torch.tensor(0.7))
    assert_as_accurate_as_definition(expmap_transport, inputs)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_results_at_the_edge_and_zero_vectors_are_those_of_the_definition(dtype):
    x, u, v = arguments(8, 5, dtype=dtype)
    u[0] = 0.0
    u[1:4] *= 1e3
    x[4] = 0.0
    v[5] = 0.0
    x[6] = PoincareBall(0.7).projx(1e3 * x[6])
    for actual, wanted in zip(*(outcome(f, (x, u, v, torch.tensor(0.7, dtype=dtype))) for f in _both()), strict=True):
        for a, w in zip(actual, wanted, strict=True):
            assert bool(torch.isfinite(a).all())
            rows = (slice(None),) if a.ndim == 0 else ((0, 4, 5), (1, 2, 3, 6))
            for index in rows:
                # A rounding of a point at the edge is a factor of the order of 1 in its gap.
                slack = 1e-13 if dtype == DOUBLE else 3e-5
                scale = w[index,].abs().amax().clamp_min(1.0) if a.ndim else w.abs().clamp_min(1.0)
                near = a.ndim and index == (0, 4, 5)
                assert float((a[index,] - w[index,] if a.ndim else a - w).abs().amax() / scale) <= (
                    slack if near else 0.2
                )
    assert torch.equal(expmap_transport(x, u, v, 0.7)[0][0], x[0])
    u[7] = math.nan
    y, w = expmap_transport(x, u, v, 0.7)
    assert bool(y[7].isnan().all())
    assert bool(torch.isfinite(y[:7]).all())
    assert bool(torch.isfinite(w[:7]).all())


def _both():
    return expmap_transport, expmap_transport.reference


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 129])
def test_any_number_of_rows(rows):
    assert_equals_definition(
        expmap_transport, [*(t[:rows] for t in arguments(129, 12)), torch.tensor(0.7, dtype=DOUBLE)], 1e-12
    )


def test_strides_and_broadcasting():
    x, u, v = arguments(4, 6, 12)
    c = torch.tensor(0.7, dtype=DOUBLE)
    for inputs in (
        (x[0, 0], u, v),
        (x, u[0, 0], v[:1]),
        (x.transpose(0, 1), u.transpose(0, 1), v.transpose(0, 1)),
        (x.movedim(-1, 0).contiguous().movedim(0, -1), u, v),
        (x[::2, ::3], u[::2, ::3], v[::2, ::3]),
    ):
        # Sums over at most 24 broadcast rows.
        assert_equals_definition(expmap_transport, (*inputs, c), 1e-12)


def test_one_of_two_results_may_be_used_alone():
    x, u, v = (t.requires_grad_() for t in arguments(5, 12))
    for k in (0, 1):
        ours, plain = (torch.autograd.grad(f(x, u, v, 0.7)[k].square().sum(), (x, u)) for f in _both())
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_derivatives_of_both_orders_and_the_operators():
    inputs = [t.requires_grad_() for t in (*arguments(3, 4), torch.tensor(0.8, dtype=DOUBLE))]
    torch.autograd.gradcheck(expmap_transport, inputs)
    torch.autograd.gradgradcheck(expmap_transport, inputs)
    torch.library.opcheck(expmap_transport._forward, (*inputs, 0.0))
    torch.library.opcheck(expmap_transport._forward, (*inputs[:3], None, 0.8))
    g = torch.ones(3, 4, dtype=DOUBLE)
    torch.library.opcheck(expmap_transport._backward, (g, 2.0 * g, *inputs, 0.0))


def test_vmap():
    x, u, v = arguments(4, 6, 12)
    results = torch.vmap(expmap_transport, in_dims=(0, 1, None, None))(x, u.movedim(0, 1), v[0], 0.7)
    for result, expected in zip(results, expmap_transport(x, u, v[0], 0.7), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["expmap_transp", "retr_transp"])
def test_the_ball_calls_it_once(name):
    nodes = []

    def keep(module, _):
        nodes.extend(str(n.target) for n in module.graph.nodes if isinstance(n.target, torch._ops.OpOverload))
        return module

    ball = PoincareBall(0.7)
    inputs = arguments(5, 4)
    step = torch.compile(lambda *t: getattr(ball, name)(*t), backend=keep, fullgraph=True)
    for a, b in zip(step(*inputs), expmap_transport(*inputs, 0.7), strict=True):
        assert torch.equal(a, b)
    assert nodes == ["holonomy.ball_expmap_transport.default"]

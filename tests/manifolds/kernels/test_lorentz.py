"""Row kernels of the hyperboloid: each equals its definition in plain torch, in value and derivatives."""

import math
import os

import pytest
import torch
from row_maps import DOUBLE, SINGLE, assert_as_accurate_as_definition, assert_equals_definition, generator, outcome

from holonomy.manifolds import Lorentz, hyperboloid
from holonomy.manifolds.kernels import dispatch

pytest.importorskip("numba")

MAPS = {
    "dist": "xy",
    "dist2": "xy",
    "expmap": "xu",
    "logmap": "xy",
    "transport": "xyv",
    "project": "x",
    "expmap0": "u",
    "logmap0": "y",
}
each_map = pytest.mark.parametrize("name", MAPS)


def arguments(names, *size, c=1.0, reach=1.0, dtype=DOUBLE):
    """Points x, y at a distance of about `reach` from the origin, and tangent vectors u, v at x of such a length."""
    sheet, draw = Lorentz(c), generator(sum(size))
    with dispatch.use("reference"):
        x, y = (
            sheet.expmap0(reach * torch.randn(*size, dtype=DOUBLE, generator=draw) / (c * size[-1]) ** 0.5)
            for _ in "xy"
        )
        u, v = (reach * sheet.random_tangent(x, generator=draw) / (c * size[-1]) ** 0.5 for _ in "uv")
    found = {"x": x, "y": y, "u": u, "v": v}
    return tuple(found[name].to(dtype) for name in names)


@each_map
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_value_and_gradients_are_those_of_the_definition(name, c):
    function, curvature = getattr(hyperboloid, name), torch.tensor(c, dtype=DOUBLE)
    inputs = arguments(MAPS[name], 70, 12, c=c)
    # Rounding of float64 in a chain of about 50 operations, which points two radii apart amplify by about 10; the
    # gradient of the curvature is a sum over 70 rows.
    assert_equals_definition(function, (*inputs, curvature), 2e-13)


@pytest.mark.parametrize("name", ["dist", "expmap", "logmap", "transport"])
def test_so_are_those_of_short_vectors(name):
    for size in ((9, 2), (65, 4)):
        inputs = arguments(MAPS[name], *size)
        function = getattr(hyperboloid, name)
        assert_equals_definition(function, (*inputs, torch.tensor(0.7, dtype=DOUBLE)), 2e-13)


@pytest.mark.parametrize("name", ["dist", "expmap", "logmap", "transport"])
@pytest.mark.parametrize("reach", [0.01, 1.0, 4.0])
def test_float32_is_as_close_to_float64_as_the_definition(name, reach):
    inputs = (*arguments(MAPS[name], 200, 12, reach=reach), torch.tensor(1.0))
    assert_as_accurate_as_definition(getattr(hyperboloid, name), inputs)


@each_map
def test_time_coordinates_of_arguments_have_gradient_0(name):
    inputs = arguments(MAPS[name], 5, 12)
    _, gradients = outcome(lambda *t: getattr(hyperboloid, name)(*t, 1.0), inputs)
    assert all((g[..., 0] == 0).all() and (g[..., 1:] != 0).all() for g in gradients)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_far_out_points_stay_on_the_sheet_and_vectors_tangent(dtype):
    # At a distance of 12 space parts are near 1e5: what a formula cancels there is visible in the tangency.
    sheet = Lorentz()
    x, y, v = arguments("xyv", 40, 12, reach=1.0, dtype=DOUBLE)
    away = torch.randn(1, 12, dtype=DOUBLE, generator=generator(5))
    away = sheet.expmap0(12.0 * away / away[:, 1:].norm())
    origin = sheet.origin(1, 12, dtype=DOUBLE)
    # The isometry that takes the origin to `away`, written by transport and exp.
    x, y = (sheet.expmap(away, sheet.transp(origin, away, sheet.logmap(origin, t))) for t in (x, y))
    v = sheet.random_tangent(x, generator=generator(6))
    x, y, v = (t.to(dtype) for t in (x, y, v))
    u = sheet.logmap(x, y)
    assert sheet.check_vector_on_tangent(x, u)
    assert sheet.check_vector_on_tangent(y, sheet.transp(x, y, v))
    assert sheet.check_point_on_manifold(sheet.expmap(x, v))
    assert sheet.check_point_on_manifold(sheet.expmap(x, u))


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_rows_at_the_cap_are_those_of_the_definition(dtype):
    x, u = arguments("xu", 6, 12, dtype=dtype)
    longest = 2.0 * math.log(2.0 / torch.finfo(dtype).eps)
    # Short, at the cap, past it, far past it, and past what the dtype holds.
    u = (
        u
        / u.norm(dim=-1, keepdim=True)
        * torch.tensor([[1.0], [0.5 * longest], [0.6 * longest], [2.0 * longest], [1e4], [1e30]], dtype=dtype)
    )
    for function in (hyperboloid.expmap, hyperboloid.uncapped_expmap):
        value, gradients = outcome(lambda x, u, f=function: f(x, u, 1.0), (x, u))
        expected, wanted = outcome(lambda x, u, f=function: f.reference(x, u, 1.0), (x, u))
        for actual, definition in zip((*value, *gradients), (*expected, *wanted), strict=True):
            # Exact where the definition itself is evaluated; a sinh of 17 amplifies the rounding of its argument.
            torch.testing.assert_close(actual, definition, rtol=200 * torch.finfo(dtype).eps, atol=0.0, equal_nan=True)
    y = hyperboloid.expmap(x, u, 1.0)
    torch.testing.assert_close(hyperboloid.project(y, 1.0), y, rtol=4 * torch.finfo(dtype).eps, atol=0.0)
    assert Lorentz().check_point_on_manifold(y)


def test_coincident_points_and_zero_vectors():
    x, v = arguments("xv", 5, 12)
    zero = torch.zeros_like(x)
    (distance,), gradients = outcome(lambda x, y: hyperboloid.dist(x, y, 1.0), (x, x))
    assert (distance == 0).all()
    assert all((g == 0).all() for g in gradients)
    (square,), gradients = outcome(lambda x, y: hyperboloid.dist2(x, y, 1.0), (x, x))
    assert (square == 0).all()
    assert all((g == 0).all() for g in gradients)
    assert (hyperboloid.logmap(x, x, 1.0) == 0).all()
    # The time of a result is computed anew: a rounding of the given one may be taken back.
    for result in (hyperboloid.expmap(x, zero, 1.0), hyperboloid.project(x, 1.0)):
        assert torch.equal(result[:, 1:], x[:, 1:])
        torch.testing.assert_close(result, x, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(hyperboloid.transport(x, x, v, 1.0), v, rtol=1e-14, atol=1e-15)
    for name in ("expmap", "logmap", "transport"):
        inputs = {"x": x, "y": x, "u": zero, "v": v}
        curvature = torch.tensor(1.0, dtype=DOUBLE)
        function = getattr(hyperboloid, name)
        assert_equals_definition(function, (*(inputs[n] for n in MAPS[name]), curvature), 1e-14)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 129])
def test_any_number_of_rows(rows):
    x, u = (t.reshape(-1, 12)[:rows] for t in arguments("xu", 129, 12))
    c = torch.tensor(1.0, dtype=DOUBLE)
    assert_equals_definition(hyperboloid.expmap, (x, u, c), 1e-12)


def test_strides_and_broadcasting():
    x, u = arguments("xu", 4, 6, 12)
    c = torch.tensor(0.8, dtype=DOUBLE)
    views = (
        (x[0, 0], u),
        (x, u[0, 0]),
        (x[:1], u[:, :1]),
        (x.transpose(0, 1), u.transpose(0, 1)),
        (x.movedim(-1, 0).contiguous().movedim(0, -1), u),
        (x[::2, ::3], u[::2, ::3]),
    )
    for a, b in views:
        assert_equals_definition(hyperboloid.expmap, (a, b, c), 1e-12)
    distance = hyperboloid.dist(x[:, :1], x, 1.0)
    assert distance.shape == (4, 6, 1)
    torch.testing.assert_close(distance, hyperboloid.dist.reference(x[:, :1], x, 1.0), rtol=1e-14, atol=1e-14)


def test_a_curvature_for_each_point_is_the_definition():
    x, u = arguments("xu", 5, 12)
    c = torch.linspace(0.5, 1.5, 5, dtype=DOUBLE)[:, None]
    assert torch.equal(hyperboloid.expmap(x, u, c), hyperboloid.expmap.reference(x, u, c))


@pytest.mark.parametrize("name", ["dist", "expmap", "logmap", "transport"])
def test_derivatives_of_first_and_second_order(name):
    inputs = [t.requires_grad_() for t in arguments(MAPS[name], 3, 12)]
    c = torch.tensor(0.9, dtype=DOUBLE, requires_grad=True)
    function = getattr(hyperboloid, name)
    torch.autograd.gradcheck(function, (*inputs, c))
    torch.autograd.gradgradcheck(function, (*inputs[:-1], inputs[-1], c))


def test_operators_keep_the_rules_of_torch():
    x, y, u = (t.requires_grad_() for t in arguments("xyu", 3, 12))
    c = torch.tensor(0.9, dtype=DOUBLE, requires_grad=True)
    torch.library.opcheck(hyperboloid.expmap._forward, (x, u, None, 1.0))
    torch.library.opcheck(hyperboloid.expmap._forward, (x, u, c, 0.0))
    torch.library.opcheck(hyperboloid.dist._forward, (x, y, c, 0.0))


def test_vmap():
    x, y, v = arguments("xyv", 4, 6, 12)
    mapped = torch.vmap(lambda x, y, v: hyperboloid.transport(x, y, v, 1.0), in_dims=(0, None, 1))
    result = mapped(x, y[0], v.movedim(0, 1))
    torch.testing.assert_close(result, hyperboloid.transport(x, y[0], v, 1.0), rtol=0.0, atol=0.0)


def test_compiles_to_one_node():
    graphs = []

    def keep(module, _):
        graphs.append(module)
        return module

    x, u = arguments("xu", 5, 12)
    step = torch.compile(lambda x, u: hyperboloid.expmap(x, u, 1.0), backend=keep, fullgraph=True)
    assert torch.equal(step(x, u), hyperboloid.expmap(x, u, 1.0))
    operators = [str(n.target) for n in graphs[0].graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert operators == ["holonomy.lorentz_expmap.default"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_threads_do_not_change_numbers():
    x, u = arguments("xu", 30_000, 12)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(hyperboloid.expmap(x, u, 1.0))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)

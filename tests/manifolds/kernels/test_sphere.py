"""Row kernels of the sphere: each equals its definition in plain torch, in value and derivatives."""

import math
import os

import pytest
import torch
from row_maps import DOUBLE, SINGLE, assert_as_accurate_as_definition, assert_equals_definition, generator, outcome

from holonomy.manifolds import Sphere, spherical
from holonomy.manifolds.kernels import dispatch

pytest.importorskip("numba")

SPHERE = Sphere()
MAPS = {
    "dist": "xy",
    "dist2": "xy",
    "expmap": "xu",
    "expmap_transport": "xuv",
    "logmap": "xy",
    "transport": "xyv",
    "project": "z",
}
each_map = pytest.mark.parametrize("name", MAPS)


def arguments(names, *size, reach=1.0, dtype=DOUBLE):
    """Points x, y, tangent vectors u, v at x of about the length `reach`, and ambient vectors z of lengths near 2."""
    draw = generator(sum(size))
    with dispatch.use("reference"):
        x, y = (SPHERE.random(*size, dtype=DOUBLE, generator=draw) for _ in "xy")
        u, v = (reach * SPHERE.random_tangent(x, generator=draw) / size[-1] ** 0.5 for _ in "uv")
    found = {"x": x, "y": y, "u": u, "v": v, "z": 2.0 * x + 0.1 * u}
    return tuple(found[name].to(dtype) for name in names)


@each_map
def test_value_and_gradients_are_those_of_the_definition(name):
    # Rounding of float64 in a chain of about 30 operations; past a right angle the logarithm amplifies it by 1/sin.
    assert_equals_definition(getattr(spherical, name), arguments(MAPS[name], 70, 12), 1e-13)


@pytest.mark.parametrize("name", ["dist", "expmap_transport", "logmap", "transport"])
def test_so_are_those_of_short_vectors(name):
    inputs = arguments(MAPS[name], 65, 3)
    if "y" in MAPS[name]:  # at distances up to 2.5, where the derivatives are of the order of 1
        x = inputs[0]
        inputs = (x, spherical.expmap.reference(x, arguments("u", 65, 3)[0] / 3.0), *inputs[2:])
    assert_equals_definition(getattr(spherical, name), inputs, 1e-13)


@pytest.mark.parametrize("name", ["dist", "expmap_transport", "logmap", "transport"])
@pytest.mark.parametrize("reach", [0.01, 1.0, 2.0])
def test_float32_is_as_close_to_float64_as_the_definition(name, reach):
    x, u, v = arguments("xuv", 200, 12, reach=reach)
    y = spherical.expmap.reference(x, u)
    found = {"x": x, "y": y, "u": u, "v": v}
    assert_as_accurate_as_definition(getattr(spherical, name), [found[n] for n in MAPS[name]])


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_antipodes_follow_the_definition(dtype):
    x, v = arguments("xv", 6, 12, dtype=dtype)
    y = -x
    y[3:] = arguments("y", 6, 12, dtype=dtype)[0][3:]  # antipodal rows among others
    for function, inputs in ((spherical.logmap, (x, y)), (spherical.transport, (x, y, v))):
        assert_equals_definition(function, inputs, 30 * torch.finfo(dtype).eps)
    assert_equals_definition(spherical.dist, (x, y), 30 * torch.finfo(dtype).eps)
    torch.testing.assert_close(
        spherical.logmap(x, y)[:3].norm(dim=-1), torch.full((3,), math.pi, dtype=dtype), rtol=1e-6, atol=0.0
    )


def test_near_the_antipode_values_are_those_of_the_definition():
    x, u, v = arguments("xuv", 8, 12)
    u = u / u.norm(dim=-1, keepdim=True)
    gap = 10.0 ** -torch.arange(1.0, 9.0, dtype=DOUBLE)[:, None]
    y = spherical.expmap.reference(x, (math.pi - gap) * u)
    for function, inputs in ((spherical.logmap, (x, y)), (spherical.transport, (x, y, v))):
        error = (function(*inputs) - function.reference(*inputs)).norm(dim=-1, keepdim=True)
        # A rounding of a point turns the direction to its antipode by eps / gap.
        assert (error <= 30 * torch.finfo(DOUBLE).eps / gap).all()
    torch.testing.assert_close(spherical.dist(x, y), math.pi - gap, rtol=1e-15 * 4, atol=0.0)


def test_coincident_points_and_zero_vectors():
    x, v = arguments("xv", 5, 12)
    zero = torch.zeros_like(x)
    for function in (spherical.dist, spherical.dist2):
        (value,), gradients = outcome(function, (x, x))
        assert (value == 0).all()
        assert all((g == 0).all() for g in gradients)
    assert (spherical.logmap(x, x) == 0).all()
    for name in ("expmap", "expmap_transport", "logmap", "transport"):
        inputs = {"x": x, "y": x, "u": zero, "v": v}
        # A few roundings: no quotient of small numbers is left in the definition either.
        assert_equals_definition(getattr(spherical, name), [inputs[n] for n in MAPS[name]], 1e-14)


def test_long_vectors_extreme_lengths_and_zero_are_those_of_the_definition():
    x, u, v = arguments("xuv", 6, 12)
    u = u * torch.tensor([[1.0], [50.0], [3e3], [1e5], [1e9], [1e20]], dtype=DOUBLE)
    for result, definition in zip(
        spherical.expmap_transport(x, u, v), spherical.expmap_transport.reference(x, u, v), strict=True
    ):
        # A rounding of the square of a length of 3e3 turns the result by 3e3 eps.
        torch.testing.assert_close(result, definition, rtol=0.0, atol=2e-12 * float(v.abs().amax()))
    z = x * torch.tensor([[0.0], [1e-200], [1e-20], [1.0], [1e20], [1e160]], dtype=DOUBLE)
    torch.testing.assert_close(spherical.project(z), spherical.project.reference(z), rtol=1e-15, atol=1e-16)
    pole = torch.zeros(12, dtype=DOUBLE)
    pole[-1] = 1.0
    assert torch.equal(spherical.project(z)[0], pole)
    assert_equals_definition(spherical.project, (z[2:5],), 1e-14)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 129])
def test_any_number_of_rows(rows):
    inputs = [t[:rows] for t in arguments("xuv", 129, 12)]
    assert_equals_definition(spherical.expmap_transport, inputs, 1e-13)


def test_strides_and_broadcasting():
    x, u, v = arguments("xuv", 4, 6, 12)
    views = (
        (x[0, 0], u, v),
        (x, u[0, 0], v[:1]),
        (x.transpose(0, 1), u.transpose(0, 1), v.transpose(0, 1)),
        (x.movedim(-1, 0).contiguous().movedim(0, -1), u, v),
        (x[::2, ::3], u[::2, ::3], v[::2, ::3]),
    )
    for inputs in views:
        # Sums over at most 24 broadcast rows.
        assert_equals_definition(spherical.expmap_transport, inputs, 1e-12)
    assert spherical.dist(x[:, :1], x).shape == (4, 6, 1)


def test_one_of_two_results_may_be_used_alone():
    x, u, v = (t.requires_grad_() for t in arguments("xuv", 5, 12))
    for k in (0, 1):
        ours, plain = (
            torch.autograd.grad(f(x, u, v)[k].square().sum() + f(x, u, v)[k].sum(), (x, u), allow_unused=True)
            for f in (spherical.expmap_transport, spherical.expmap_transport.reference)
        )
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["dist", "expmap_transport", "logmap", "transport"])
def test_derivatives_of_first_and_second_order(name):
    inputs = [t.requires_grad_() for t in arguments(MAPS[name], 3, 12)]
    function = getattr(spherical, name)
    torch.autograd.gradcheck(function, inputs)
    torch.autograd.gradgradcheck(function, inputs)


def test_operators_keep_the_rules_of_torch():
    x, u, v = (t.requires_grad_() for t in arguments("xuv", 3, 12))
    torch.library.opcheck(spherical.expmap_transport._forward, (x, u, v, None, 0.0))


def test_vmap():
    x, u, v = arguments("xuv", 4, 6, 12)
    results = torch.vmap(spherical.expmap_transport, in_dims=(0, 1, None))(x, u.movedim(0, 1), v[0])
    for result, expected in zip(results, spherical.expmap_transport(x, u, v[0]), strict=True):
        assert torch.equal(result, expected)


def test_compiles_to_one_node():
    graphs = []

    def keep(module, _):
        graphs.append(module)
        return module

    x, y = arguments("xy", 5, 12)
    step = torch.compile(lambda x, y: spherical.logmap(x, y), backend=keep, fullgraph=True)
    assert torch.equal(step(x, y), spherical.logmap(x, y))
    operators = [str(n.target) for n in graphs[0].graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert operators == ["holonomy.sphere_logmap.default"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_threads_do_not_change_numbers():
    x, u = arguments("xu", 30_000, 12)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(spherical.expmap(x, u))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)

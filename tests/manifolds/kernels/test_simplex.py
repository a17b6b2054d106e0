"""Kernels on the probability simplex: each equals its definition in plain torch, in value and derivatives."""

import numpy as np
import pytest
import torch

from holonomy.manifolds import Simplex
from holonomy.manifolds import simplex as definitions
from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.simplex import project_simplex, project_simplex_reference

pytest.importorskip("numba")

DOUBLE, SINGLE = torch.float64, torch.float32
SIMPLEX = Simplex()
MAPS = {
    "expmap": (definitions._expmap, "xu"),
    "retr": (definitions._softmax_retr, "xu"),
    "logmap": (definitions._logmap, "xy"),
    "dist": (definitions._dist, "xy"),
    "dist2": (definitions._dist2, "xy"),
    "transp": (definitions._transp, "xyv"),
}
each_map = pytest.mark.parametrize(("function", "names"), MAPS.values(), ids=MAPS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def arguments(names, *size, dtype=DOUBLE):
    """Points x, y with entries of at least 0.2 / n, and tangent vectors u, v at x of length about 1 / 2 and 1."""
    g = generator(sum(size))
    x, y = (0.8 * SIMPLEX.random(*size, dtype=DOUBLE, generator=g) + 0.2 / size[-1] for _ in range(2))
    u, v = (SIMPLEX.random_tangent(x, generator=g) / size[-1] ** 0.5 for _ in range(2))
    found = {"x": x, "y": y, "u": 0.5 * u, "v": v}
    return tuple(found[name].to(dtype) for name in names)


def gradients(function, inputs, seed=3):
    inputs = [t.clone().requires_grad_() for t in inputs]
    output = function(*inputs)
    upstream = torch.randn(output.shape, dtype=DOUBLE, generator=generator(seed)).to(output.dtype)
    return output.detach(), torch.autograd.grad(output, inputs, upstream)


def assert_rows_close(actual, expected, bound):
    """Equal up to `bound` times the largest entry of each row."""
    size = expected.abs().amax(-1, keepdim=True) if expected.ndim > 1 else expected.abs()
    assert actual.shape == expected.shape
    assert ((actual.to(DOUBLE) - expected).abs() <= bound * size).all()


# -- Fisher-Rao maps -----------------------------------------------------------------------------------------------


@each_map
@pytest.mark.parametrize("size", [(37, 3), (9, 16), (2, 5, 21), (6, 130)])
def test_value_and_gradient_are_those_of_the_definition(function, names, size):
    inputs = arguments(names, *size)
    value, grads = gradients(function, inputs)
    expected, wanted = gradients(function.reference, inputs)
    # Rounding of float64: both sum up to 130 terms, and pass through the square roots and quotients of a dozen steps.
    assert_rows_close(value, expected, 1e-13)
    for grad, want in zip(grads, wanted, strict=True):
        assert_rows_close(grad, want, 1e-12)


@each_map
def test_float32_is_as_close_to_float64_as_the_definition_in_float32(function, names):
    inputs = arguments(names, 200, 33, dtype=SINGLE)
    value, grads = gradients(function, inputs)
    expected, wanted = gradients(function.reference, [t.double() for t in inputs])
    # Two dozen roundings of 6e-8 in a value; gradients sum products with an upstream gradient of either sign.
    assert_rows_close(value, expected, 1.5e-6)
    for grad, want in zip(grads, wanted, strict=True):
        assert_rows_close(grad, want, 1e-5)


@each_map
def test_derivatives(function, names):
    inputs = tuple(t.requires_grad_() for t in arguments(names, 2, 4))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@each_map
def test_strides_broadcasting_and_empty_batches(function, names):
    inputs = arguments(names, 6, 5, 9)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in inputs]
    torch.testing.assert_close(function(*strided), function(*inputs), rtol=0, atol=0)
    first = inputs[0][0, 0].clone().requires_grad_()
    value = function(first, *inputs[1:])
    torch.testing.assert_close(value, function(first.expand_as(inputs[1]), *inputs[1:]), rtol=0, atol=0)
    assert torch.autograd.grad(value.sum(), first)[0].shape == first.shape
    assert function(*(t[:0] for t in inputs)).shape == function(*inputs)[:0].shape


@each_map
def test_faces_vertices_and_coincident_points(function, names):
    x = torch.tensor([[0.0, 0.4, 0.6, 0.0], [0.0, 0.4, 0.6, 0.0], [1.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    y = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.0, 0.4, 0.6, 0.0], [0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    u = SIMPLEX.proju(x, torch.tensor([1.0, 2.0, -1.0, 3.0]).expand(4, 4))
    if function is MAPS["logmap"][0]:
        x, y, u = x[[0, 1, 3]], y[[0, 1, 3]], u[[0, 1, 3]]  # no one direction leads from a vertex to another
    found = {"x": x, "y": y, "u": u, "v": u}
    inputs = [found[name] for name in names]
    value, grads = gradients(function, inputs)
    expected, wanted = gradients(function.reference, inputs)
    assert value.isfinite().all()
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)  # a few roundings of float32
    for grad, want in zip(grads, wanted, strict=True):
        finite = want.isfinite()  # the definition gives NaN for the distance of vertices
        assert grad[finite].isfinite().all()
        torch.testing.assert_close(grad[finite], want[finite], atol=1e-5, rtol=1e-5)


def test_long_geodesics_keep_their_angle():
    x, u = arguments("xu", 8, 6)
    for length in (1e2, 1e6):  # 1e6: past what the kernels' own sine reduces
        torch.testing.assert_close(
            definitions._expmap(x, length * u), definitions._expmap.reference(x, length * u), atol=1e-9, rtol=1e-9
        )  # the angle is rounded to 1e-16 of 1e6, and squared


def test_the_softmax_retraction_does_not_overflow():
    x = torch.tensor([0.1, 0.3, 0.6]).repeat(3, 1)
    u = torch.tensor([[40.0, -20.0, -20.0], [-20.0, 40.0, -20.0], [4000.0, -2000.0, -2000.0]])
    value, grads = gradients(definitions._softmax_retr, (x, u))
    torch.testing.assert_close(value, torch.eye(3)[[0, 1, 0]])
    assert all(grad.isfinite().all() for grad in grads)


@each_map
def test_operators_follow_the_rules_of_torch(function, names):
    inputs = arguments(names, 3, 5)
    operator = getattr(torch.ops.holonomy, f"simplex_{function_name(function)}").default
    torch.library.opcheck(operator, tuple(t.clone().requires_grad_() for t in inputs))
    torch.testing.assert_close(torch.vmap(function)(*inputs), function(*inputs))
    in_dims = (None, *(1 for _ in inputs[1:]))
    mixed = torch.vmap(function, in_dims=in_dims)(inputs[0][0], *(t.mT for t in inputs[1:]))
    torch.testing.assert_close(mixed, function(inputs[0][0], *inputs[1:]))


def function_name(function):
    return next(name for name, (f, _) in MAPS.items() if f is function)


def test_the_maps_run_on_kernels_and_the_reference_on_request():
    x, y = arguments("xy", 4, 5)
    x.requires_grad_()
    assert "simplex_logmap" in type(SIMPLEX.logmap(x, y).grad_fn).__name__
    with dispatch.use("reference"):
        assert "simplex_logmap" not in type(SIMPLEX.logmap(x, y).grad_fn).__name__


def test_gradients_of_torch_func_and_forward_mode_take_the_definition():
    x, y = arguments("xy", 4, 5)
    expected = torch.autograd.functional.jacobian(lambda x: definitions._dist2(x, y).sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: definitions._dist2(x, y).sum())(x), expected)
    per_row = torch.vmap(torch.func.grad(lambda x, y: definitions._dist2(x, y)))(x, y)
    torch.testing.assert_close(per_row, expected)
    torch.testing.assert_close(torch.func.jacfwd(lambda x: definitions._dist2(x, y).sum())(x), expected)


def test_compiles_as_one_graph():
    def everything(x, y, u, v):
        found = {"x": x, "y": y, "u": u, "v": v}
        return [f(*(found[n] for n in names)) for f, names in MAPS.values()] + [project_simplex(u)]

    inputs = arguments("xyuv", 3, 5)
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), everything(*inputs))


def test_threads_do_not_change_the_numbers():
    x, y, u = arguments("xyu", 3001, 64, dtype=SINGLE)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            results.append((*gradients(definitions._logmap, (x, y))[1], project_simplex(u), SIMPLEX.expmap(x, u)))
        finally:
            torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# -- Euclidean projection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("size", [(1,), (7, 1), (50, 2), (40, 8), (3, 11, 13), (9, 64), (5, 301)])
@pytest.mark.parametrize(("scale", "total"), [(1.0, 1.0), (1e-3, 1.0), (30.0, 2.5)])
def test_projection_equals_sorting(dtype, size, scale, total):
    x = scale * torch.randn(size, dtype=DOUBLE, generator=generator()).to(dtype)
    value, (grad,) = gradients(lambda x: project_simplex(x, total), (x,))
    expected, (want,) = gradients(lambda x: project_simplex_reference(x, total), (x,))
    eps = torch.finfo(dtype).eps
    # The threshold is a quotient of sums of numbers of the size of `total`, rounded once.
    torch.testing.assert_close(value, expected, atol=(8 * eps + size[-1] ** 0.5 * eps) * total, rtol=0)
    # Each entry is rounded by at most eps / 2 of `total`, and so is the threshold.
    torch.testing.assert_close(value.sum(-1), torch.full(size[:-1], total, dtype=dtype), atol=8 * eps * total, rtol=0)
    same = ((value > 0) == (expected > 0)).all(-1)  # an entry within rounding of the threshold may fall either way
    assert same.float().mean() >= 0.9
    torch.testing.assert_close(grad[same], want[same], atol=size[-1] ** 0.5 * 8 * eps, rtol=0)


def test_projection_is_the_nearest_point():
    x = torch.randn(20, 6, dtype=DOUBLE, generator=generator())
    p = project_simplex(x)
    # The conditions of optimality: x - p is constant on the support, and at most that constant off it.
    gap = x - p
    threshold = gap.masked_fill(p == 0, -torch.inf).amax(-1, keepdim=True)
    assert (p >= 0).all()
    assert (p == 0).any()
    assert (gap <= threshold + 1e-15).all()
    torch.testing.assert_close(gap[p > 0], threshold.expand_as(gap)[p > 0])
    torch.testing.assert_close(p.sum(-1), torch.ones(20, dtype=DOUBLE))
    torch.testing.assert_close(project_simplex(p), p)


def test_projection_of_degenerate_rows():
    rows = torch.tensor(
        [
            [2.0, 2.0, 2.0, 2.0],
            [1e30, 0.0, -1e30, 3.0],
            [1e8, 1e8, 0.0, 0.0],
            [-torch.inf, 0.5, 0.5, -torch.inf],
            [torch.nan, 0.0, 0.0, 0.0],
            [0.0, torch.inf, 0.0, 0.0],
            [-torch.inf] * 4,
            [0.0, -1.0, -1.0, -1.0],
        ]
    )
    nan = torch.nan
    expected = torch.tensor(
        [
            [0.25] * 4,
            [1.0, 0.0, 0.0, 0.0],
            [0.5, 0.5, 0.0, 0.0],
            [0.0, 0.5, 0.5, 0.0],
            [nan] * 4,
            [nan] * 4,
            [nan] * 4,
            [1.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(project_simplex(rows), expected, equal_nan=True, rtol=0, atol=0)
    with dispatch.use("reference"):
        torch.testing.assert_close(project_simplex(rows), expected, equal_nan=True, rtol=0, atol=0)
    grad = gradients(project_simplex, (rows[:4],))[1][0]
    assert grad.isfinite().all()
    assert project_simplex(torch.zeros(0, 3)).shape == (0, 3)


def test_projection_derivatives_operators_and_transforms():
    x = torch.randn(3, 5, dtype=DOUBLE, generator=generator(4), requires_grad=True)
    assert torch.autograd.gradcheck(project_simplex, (x,))
    assert torch.autograd.gradgradcheck(project_simplex, (x,))
    torch.library.opcheck(torch.ops.holonomy.project_simplex.default, (x, 1.0))
    upstream = torch.randn(3, 5, dtype=DOUBLE, requires_grad=True)
    torch.library.opcheck(torch.ops.holonomy.project_simplex_backward.default, (upstream, project_simplex(x).detach()))
    torch.testing.assert_close(torch.vmap(project_simplex, in_dims=1)(x.mT), project_simplex(x))
    torch.testing.assert_close(
        torch.func.grad(lambda x: project_simplex(x).square().sum())(x.detach()),
        torch.autograd.grad(project_simplex(x).square().sum(), x)[0],
    )
    strided = x.detach().mT.contiguous().mT
    torch.testing.assert_close(project_simplex(strided), project_simplex(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "total", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), 1.0, TypeError, "'x' must be a floating point tensor, got torch.int64"),
        (np.zeros(3), 1.0, TypeError, "'x' must be a floating point tensor, got ndarray"),
        (torch.zeros(()), 1.0, ValueError, r"'x' has shape \(\), wanted"),
        (torch.zeros(2, 0), 1.0, ValueError, r"'x' has shape \(2, 0\), wanted"),
        (torch.zeros(2), 0.0, ValueError, "'total' must be a positive, finite number, got 0.0"),
        (torch.zeros(2), float("inf"), ValueError, "'total' must be a positive, finite number, got inf"),
    ],
)
def test_projection_refuses_bad_input(x, total, error, message):
    with pytest.raises(error, match=message):
        project_simplex(x, total)

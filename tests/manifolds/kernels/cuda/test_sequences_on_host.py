"""Transforms, sketches, recurrences and bases for CUDA, on the host, held to their references. Needs no GPU."""

import pytest
import torch
from torch import Tensor

from holonomy.manifolds.kernels import bases as bases_operators
from holonomy.manifolds.kernels import hadamard as hadamard_operators
from holonomy.manifolds.kernels import recurrence as recurrence_operators
from holonomy.manifolds.kernels import sketch as sketch_operators
from holonomy.manifolds.kernels.cuda import bases, hadamard, recurrence, sketch
from holonomy.manifolds.kernels.hadamard import hadamard_reference
from holonomy.manifolds.kernels.sketch import count_sketch as plain_sketch
from holonomy.manifolds.kernels.sketch import salted_hash_reference

pytestmark = pytest.mark.usefixtures("on_host")
DTYPES = [torch.float32, torch.float64]


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest error in roundings of the largest entry."""
    assert found.shape == wanted.shape
    scale = wanted.abs().amax().clamp_min(1e-30)
    return float(((found.double() - wanted.double()).abs() / scale).amax() / torch.finfo(found.dtype).eps)


# -- Walsh-Hadamard ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 8, 64, 4096, 32768])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hadamard(dtype: torch.dtype, n: int) -> None:
    x = torch.randn(3 if n > 100 else 67, n, dtype=dtype)
    wanted = hadamard_reference(x.double(), 0.5)
    out = torch.full_like(x, torch.nan)
    hadamard.transform(x, out, 0.5)
    assert off(out, wanted) < 16.0
    hadamard.transform(x, x, 0.5)
    assert torch.equal(x, out)


@pytest.mark.parametrize("most", [4096, 8192])
def test_passes_cover_a_vector(most: int) -> None:
    for power in range(28):
        product = 1
        for length, stride, numbers in hadamard._passes(2**power, most):
            assert stride == product
            assert numbers <= most
            assert numbers % length == 0
            assert stride == 1 or stride % (numbers // length) == 0
            product *= length
        assert product == 2**power


# -- sketches ------------------------------------------------------------------------------------------------------


def test_hashes_are_those_of_the_definition() -> None:
    ids, keys = torch.randint(-(2**62), 2**62, (37, 3)), torch.randint(-(2**62), 2**62, (5,))
    columns = torch.tensor([0, 2, 1, 1, 0])
    for buckets in (1, 7, 1000, 2**40):
        found = sketch.hash_ids(ids, columns, keys, buckets)
        assert torch.equal(found, salted_hash_reference(ids, columns, keys, buckets))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_go_in_the_order_of_their_terms(dtype: torch.dtype) -> None:
    values, rows = torch.randn(200, 3, dtype=dtype), torch.randint(-1, 20, (200,))
    wanted = torch.zeros(25, 3, dtype=dtype)
    for value, row in zip(values, rows.tolist(), strict=True):
        if row >= 0:
            wanted[row] += value
    assert torch.equal(sketch.sum_rows(values, rows, 25), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_count_sketch(dtype: torch.dtype) -> None:
    x, index = torch.randn(2, 5, 300, dtype=dtype), torch.randint(0, 40, (300,))
    sign = torch.randint(0, 2, (300,)) * 2 - 1
    assert torch.equal(sketch.count_sketch(x, index, sign, 41), plain_sketch(x, index, sign, 41))


# -- recurrences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 100, 33), (1, 65, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_recurrence(dtype: torch.dtype, shape: tuple[int, int, int], reverse: bool) -> None:
    a, b, h0 = 2.0 * torch.rand(shape) - 1.0, torch.randn(shape), torch.randn(shape[0], shape[2])
    a[:, 3] = 0.0
    a, b, h0 = (t.to(dtype) for t in (a, b, h0))
    leaves = [t.double().requires_grad_() for t in (a, b, h0)]
    wanted = recurrence_operators.recurrence_loop(*leaves, reverse)
    found = recurrence.run(a, b, h0, reverse)
    assert off(found, wanted.detach()) < 16.0
    g = torch.randn(shape, dtype=dtype)
    slopes = torch.autograd.grad(wanted, leaves, g.double())
    for one, other in zip(recurrence.run_backward(g, a, found, h0, reverse), slopes, strict=True):
        assert off(one, other) < 32.0


def test_many_channels_walk_one_by_one() -> None:
    shape = (1, 70, recurrence._MANY)
    a, b, h0 = torch.rand(shape), torch.randn(shape), torch.zeros(1, shape[2])
    assert off(recurrence.run(a, b, h0, False), recurrence_operators.recurrence_loop(a, b, h0)) == 0.0


@pytest.mark.parametrize(("states", "groups"), [(1, 1), (5, 2), (16, 1), (32, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_selective_scan(dtype: torch.dtype, states: int, groups: int) -> None:
    batch, channels, time = 2, 6, 150
    u, delta = torch.randn(batch, channels, time), torch.rand(batch, channels, time)
    A, D, h0 = -torch.rand(channels, states), torch.randn(channels), torch.randn(batch, channels, states)
    B, C = (torch.randn(batch, groups, states, time) for _ in range(2))
    inputs = [t.to(dtype) for t in (u, delta, A, B, C, D, h0)]
    leaves = [t.double().requires_grad_() for t in inputs]
    wanted = recurrence_operators.selective_scan_reference(*leaves)
    y, last, kept = recurrence.scan(*inputs)
    assert kept.shape == (batch, channels, 3, -(-states // 8) * 8)
    assert off(y, wanted[0].detach()) < 64.0
    assert off(last, wanted[1].detach()) < 64.0
    gy, glast = torch.randn_like(y), torch.randn_like(last)
    slopes = torch.autograd.grad(wanted, leaves, (gy.double(), glast.double()))
    for pieces in (2, 100):
        recurrence_pieces, recurrence._pieces = recurrence._pieces, lambda *a: min(pieces, channels // groups)  # noqa: B023
        found = recurrence.scan_backward(gy, glast, *inputs[:-1], kept)
        recurrence._pieces = recurrence_pieces
        for one, other in zip(found, slopes, strict=True):
            assert off(one, other) < 128.0


# -- bases ---------------------------------------------------------------------------------------------------------


def knots_of(degree: int, clamped: bool) -> Tensor:
    inner = torch.tensor([-1.0, -0.5, -0.2, -0.2, 0.3, 1.0], dtype=torch.float64)
    if clamped:
        return torch.cat((inner[:1].expand(degree), inner, inner[-1:].expand(degree)))
    steps = 0.25 * torch.arange(1, degree + 1, dtype=torch.float64)
    return torch.cat((inner[0] - steps.flip(0), inner, inner[-1] + steps))


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 3, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bsplines_and_their_derivatives(dtype: torch.dtype, degree: int, clamped: bool) -> None:
    """Also at knots, at both ends, and outside."""
    table = torch.stack((knots_of(degree, clamped), knots_of(degree, clamped) * 1.5)).to(dtype)
    x = torch.cat((torch.linspace(-3.0, 3.0, 149, dtype=dtype), table[0, : degree + 6], torch.tensor([torch.nan])))
    x = torch.stack((x, x), dim=1).to(dtype)
    for knots, at in ((table, x), (table[0], x)):
        for order in (0, 1, 2):
            found = bases.values(at, knots, "bspline", degree, order)
            wanted = bases_operators._values(at[:-1], knots, "bspline", degree, order)
            assert off(found[:-1], wanted) < 64.0
            assert not bool(found[-1].any())
            g = torch.randn_like(found)
            assert off(bases.pull(g, at, knots, "bspline", degree, order)[:-1], (g[:-1] * wanted).sum(-1)) < 128.0


@pytest.mark.parametrize("degree", [0, 1, 15, 16, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chebyshev(dtype: torch.dtype, degree: int) -> None:
    x = torch.linspace(-1.0, 1.0, 150, dtype=dtype)
    found, nothing = bases.values(x, x[:0], "chebyshev", degree), x[:0]
    assert off(found, bases_operators.chebyshev_reference(x, degree)) < 4.0
    g = torch.randn_like(found)
    wanted = (g * bases_operators.chebyshev_reference(x, degree, 1)).sum(-1)
    assert off(bases.pull(g, x, nothing, "chebyshev", degree), wanted) < 64.0 * (degree + 1)


@pytest.mark.parametrize("family", ["bspline", "chebyshev"])
def test_sums_of_a_basis_by_blocks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "_BLOCK", 200)
    degree, x = 3, torch.rand(50, 2, dtype=torch.float64).requires_grad_()
    knots = knots_of(degree, True) if family == "bspline" else torch.empty(0)
    coefficients = torch.randn(4, 2, bases._size(knots, family, degree), dtype=torch.float64, requires_grad=True)
    wanted = bases_operators._combine_reference(x, knots, coefficients, family, degree)
    assert off(bases.combine(x, knots, coefficients, family, degree), wanted.detach()) < 32.0
    g = torch.randn_like(wanted)
    found = bases.combine_backward(g, x, knots, coefficients, family, degree)
    for one, other in zip(found, torch.autograd.grad(wanted, (x, coefficients), g), strict=True):
        assert off(one, other) < 64.0


def test_empty_tensors() -> None:
    none = torch.zeros(0, 4)
    hadamard.transform(none, none, 1.0)
    assert sketch.sum_rows(none, torch.zeros(0, dtype=torch.int64), 3).tolist() == [[0.0] * 4] * 3
    assert recurrence.run(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3), torch.zeros(0, 3), False).shape == (0, 2, 3)
    assert bases.values(none, torch.arange(6.0), "bspline", 2).shape == (0, 4, 3)


# -- what torch calls for tensors on CUDA --------------------------------------------------------------------------


def test_operators_reach_these_kernels() -> None:
    """The functions that are registered for CUDA, with the arguments that the operators' own have."""
    x, rows = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 2, -1, 2, 1, 0])
    knots = knots_of(2, True)
    ids, keys, columns = torch.randint(0, 99, (4, 2)), torch.arange(3), torch.tensor([0, 1, 0])
    a, h0 = torch.rand(2, 9, 4), torch.randn(2, 4)
    spline, coefficients = ("bspline", 2), torch.randn(3, 8, knots.numel() - 3, dtype=torch.float64)
    g = torch.randn(6, 8, knots.numel() - 3, dtype=torch.float64)
    scan = [torch.rand(1, 2, 70), torch.rand(1, 2, 70), -torch.rand(2, 4), torch.randn(1, 1, 4, 70)]
    scan += [torch.randn(1, 1, 4, 70), torch.randn(2), torch.randn(1, 2, 4)]
    kept = recurrence_operators._selective_scan(*scan)[2]
    recurrences, splines, sketches = recurrence_operators, bases_operators, sketch_operators
    calls = [
        (hadamard_operators._transform, (x, 0.5)),
        (sketches._hash, (ids, columns, keys, 7)),
        (sketches._lookup, (x, rows)),
        (sketches._sum, (x, rows, 3)),
        (recurrences._recurrence, (a, a, h0, True)),
        (recurrences._recurrence_backward, (a, a, a, h0, False)),
        (recurrences._selective_scan, scan),
        (recurrences._selective_scan_backward, (torch.randn(1, 2, 70), torch.randn(1, 2, 4), *scan, kept)),
        (splines._values, (x, knots, *spline, 1)),
        (splines._pull, (g, x, knots, *spline, 1)),
        (splines._values, (x, knots, "chebyshev", 4, 0)),
        (splines._values, (x, knots, "chebyshev", 4, 2)),
        (splines._pull, (torch.randn(6, 8, 5, dtype=torch.float64), x, knots, "chebyshev", 4, 2)),
        (splines._combine, (x, knots, coefficients, *spline)),
        (splines._combine_backward, (torch.randn(6, 3, dtype=torch.float64), x, knots, coefficients, *spline)),
    ]
    for operator, arguments in calls:
        found, wanted = operator._backend_fns["cuda"](*arguments), operator(*arguments)
        for one, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, wanted)), strict=True):
            assert one.shape == other.shape, operator
            assert one.dtype == other.dtype, operator
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    hadamard_operators._transform_._backend_fns["cuda"](x, 0.5)


def test_the_count_sketch_and_its_adjoint_under_autograd_and_vmap() -> None:
    x, y = torch.randn(3, 4, 8, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    index, sign = torch.randint(0, 5, (8,)), torch.randn(8, dtype=torch.float64)
    sketch_of, back = sketch_operators._sketch, sketch_operators._unsketch
    leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sketch_of(x, index, sign, 5), leaves[:1])
    assert torch.autograd.gradgradcheck(lambda y: back(y, index, sign).square(), leaves[1:])
    torch.testing.assert_close(back(y, index, sign), y[:, index] * sign)
    mapped = torch.vmap(lambda t: sketch_of(t, index, sign, 5))(x)
    assert torch.equal(mapped, plain_sketch(x, index, sign, 5))
    signs = torch.randn(3, 8, dtype=torch.float64)
    mapped = torch.vmap(lambda t, s: sketch_of(t, index, s, 5))(x, signs)
    assert torch.equal(mapped[1], plain_sketch(x[1], index, signs[1], 5))

"""Fused retractions, geodesics and projections of matrices with orthonormal columns, against their references."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import Grassmann, Stiefel, grassmann, orthonormal, stiefel
from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.orthonormal import LARGEST, OPERATIONS
from holonomy.manifolds.linalg import gram_gap, haar

if dispatch.status()["cpu"]["live"] == "reference":
    pytest.skip(dispatch.status()["cpu"]["why"], allow_module_level=True)

FUSED = {
    "exp": grassmann._geodesic,
    "qr": orthonormal._retr_qr,
    "polar": orthonormal._retr_polar,
    "project": grassmann._horizontal,
    "project_half": stiefel._tangent_part,
}
# Whole vectors of eight and not, one column, square, more rows than a block, p at the limit.
SIZES = [(20, 8), (5, 3), (7, 1), (4, 4), (130, 16), (70, 17), (64, 32), (1000, 8)]
each_operation = pytest.mark.parametrize("name", FUSED)
each_size = pytest.mark.parametrize(("n", "p"), SIZES)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pair(*size: int, length: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A point and a horizontal tangent vector whose largest singular value is `length`."""
    x = haar(size, torch.float64, None, _generator())
    u = torch.randn(size, dtype=torch.float64, generator=_generator(1))
    u = u - x @ (x.mT @ u)
    largest = torch.linalg.matrix_norm(u, 2, keepdim=True)
    return x.to(dtype), (length * u / torch.where(largest > 1e-8, largest, torch.ones_like(largest))).to(dtype)


def _value_and_gradients(name: str, x: Tensor, u: Tensor, g: Tensor) -> list[Tensor]:
    x, u = x.clone().requires_grad_(), u.clone().requires_grad_()
    y = FUSED[name](x, u)
    return [y.detach(), *torch.autograd.grad(y, (x, u), g)]


def _reference(name: str, x: Tensor, u: Tensor, g: Tensor) -> list[Tensor]:
    with dispatch.use("reference"):
        return _value_and_gradients(name, x, u, g)


def test_every_operation_is_in_use() -> None:
    assert FUSED.keys() == OPERATIONS.keys()
    for name, function in FUSED.items():
        assert function.__wrapped__ is not function
        assert hasattr(torch.ops.holonomy, f"orthonormal_{name}")


@each_operation
@each_size
@pytest.mark.parametrize("length", [0.0, 1e-6, 1.0, 4.0])
def test_float64_equals_the_reference(name: str, n: int, p: int, length: float) -> None:
    if n == p and length > 1.0:
        length = 1.0  # there is no horizontal direction: u is rounding, whatever its length
    x, u = _pair(3, n, p, length=length)
    g = torch.randn(x.shape, dtype=x.dtype, generator=_generator(2))
    for got, wanted in zip(_value_and_gradients(name, x, u, g), _reference(name, x, u, g), strict=True):
        # Sums of n products and p x p products of p terms in other orders, of numbers of size 1 and |g| of up to 4; the
        # matrix functions lose up to length^2 units more in either.
        tolerance = 4e-16 * (n + 8 * p) ** 0.5 * 20.0 * (1.0 + length**2)
        torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance)


@each_operation
@each_size
def test_float32_is_as_right_as_the_reference(name: str, n: int, p: int) -> None:
    x, u = _pair(3, n, p, dtype=torch.float32)
    g = torch.randn(x.shape, generator=_generator(2))
    exact = _reference(name, x.double(), u.double(), g.double())
    for got, plain, wanted in zip(_value_and_gradients(name, x, u, g), _reference(name, x, u, g), exact, strict=True):
        error, scale = (got.double() - wanted).abs().max(), 1.0 + wanted.abs().max()
        # Some units of rounding of the largest entry where the reference happens to have fewer.
        assert error < 2.0 * (plain.double() - wanted).abs().max() + 10.0 * torch.finfo(torch.float32).eps * scale


@pytest.mark.parametrize("name", ["exp", "qr", "polar"])
@pytest.mark.parametrize("n", [8, 100, 3000])
def test_float32_results_are_orthonormal(name: str, n: int) -> None:
    x, u = _pair(4, n, 8, length=2.0, dtype=torch.float32)
    y = FUSED[name](x, u)
    # Rounding of the last product with a p x p matrix, p = 8: two units for each of its terms.
    assert gram_gap(y.double()) < 16.0 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("length", [3.0, 40.0, 1e4])
def test_long_geodesics(length: float) -> None:
    """Angles of many turns: more doublings than the scratch memory starts with at 1e4."""
    x, u = _pair(2, 9, 3, length=length)
    with dispatch.use("reference"):
        wanted = FUSED["exp"](x, u)
    # An angle of this size is known to that many units.
    torch.testing.assert_close(FUSED["exp"](x, u), wanted, rtol=0, atol=1e-14 * (1.0 + length))


def test_equal_angles_and_zero_are_regular() -> None:
    x = torch.eye(6, 2, dtype=torch.float64)
    u = torch.eye(6, dtype=torch.float64)[:, 2:4]
    for scale in (0.0, 0.7, 3.0):
        for name in FUSED:
            for t in _value_and_gradients(name, x[None], scale * u[None], torch.ones(1, 6, 2, dtype=torch.float64)):
                assert torch.isfinite(t).all()


@each_operation
def test_not_a_number_is_handed_on_to_its_matrix_alone(name: str) -> None:
    x, u = _pair(3, 9, 4)
    u[1, 2, 3] = torch.nan
    y = FUSED[name](x, u)
    assert torch.isfinite(y[[0, 2]]).all()
    assert torch.isnan(y[1]).any()
    u[1, 2, 3] = torch.inf
    assert not torch.isfinite(FUSED[name](x, u)[1]).all()


@each_operation
def test_gradients_by_finite_differences(name: str) -> None:
    """Also off the manifold: the derivative is that of the formula."""
    x, u = _pair(2, 5, 3, length=1.5)
    x = (x + 0.01 * torch.randn(x.shape, dtype=x.dtype, generator=_generator(4))).requires_grad_()
    u = (u + 0.01 * torch.randn(x.shape, dtype=x.dtype, generator=_generator(5))).requires_grad_()
    assert gradcheck(FUSED[name], (x, u))
    assert gradgradcheck(FUSED[name], (x, u))


@each_operation
def test_strides_broadcasting_and_empty_batches(name: str) -> None:
    x, u = _pair(3, 12, 4)
    function = FUSED[name]
    wanted = function(x, u)
    torch.testing.assert_close(function(x.mT.contiguous().mT, u.mT.contiguous().mT), wanted, rtol=0, atol=0)
    torch.testing.assert_close(function(x[0], u[0]), wanted[0], rtol=0, atol=0)
    torch.testing.assert_close(function(x[0], u)[0], wanted[0], rtol=0, atol=0)
    torch.testing.assert_close(function(x.expand(2, 3, 12, 4), u)[1], wanted, rtol=0, atol=0)
    assert function(x[:0], u[:0]).shape == (0, 12, 4)
    a, g = x[0].clone().requires_grad_(), torch.ones_like(u)
    (da,) = torch.autograd.grad(function(a, u), a, g)
    b = x[:1].expand(3, 12, 4).clone().requires_grad_()
    (db,) = torch.autograd.grad(function(b, u), b, g)
    torch.testing.assert_close(da, db.sum(0))


@each_operation
def test_inputs_are_left_alone(name: str) -> None:
    x, u = _pair(3, 12, 4)
    before = x.clone(), u.clone()
    _value_and_gradients(name, x, u, torch.ones_like(x))
    torch.testing.assert_close((x, u), before, rtol=0, atol=0)


@each_operation
def test_threads_do_not_change_the_numbers(name: str) -> None:
    x, u = _pair(50, 200, 5)
    g = torch.randn(x.shape, dtype=x.dtype, generator=_generator(2))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(_value_and_gradients(name, x, u, g))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


@each_operation
def test_vmap_equals_a_loop(name: str) -> None:
    x, u = _pair(3, 6, 2)
    function = FUSED[name]
    wanted = function(x, u)
    torch.testing.assert_close(torch.func.vmap(function)(x, u), wanted, rtol=0, atol=0)
    torch.testing.assert_close(torch.func.vmap(function, (1, 0))(x.movedim(0, 1), u), wanted, rtol=0, atol=0)
    mapped = torch.func.vmap(function, (None, 0))(x[0], u)
    torch.testing.assert_close(mapped, function(x[:1].expand_as(u), u), rtol=0, atol=0)
    gradient = torch.func.grad(lambda x, u: function(x, u).square().sum() + function(x, u)[0].sum(), argnums=1)
    together = torch.func.vmap(gradient)(x, u)
    torch.testing.assert_close(together, torch.stack([gradient(a, b) for a, b in zip(x, u, strict=True)]))


@each_operation
def test_operators_keep_torchs_rules(name: str) -> None:
    x, u = (t.requires_grad_() for t in _pair(2, 6, 3))
    operator = getattr(torch.ops.holonomy, f"orthonormal_{name}").default
    torch.library.opcheck(operator, (x, u), test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))
    y, factor = (t.detach() for t in operator(x, u))
    backward = getattr(torch.ops.holonomy, f"orthonormal_{name}_backward").default
    g = torch.randn(y.shape, dtype=y.dtype, generator=_generator(2))
    torch.library.opcheck(
        backward, (g, x.detach(), u.detach(), y, factor), test_utils=("test_schema", "test_faketensor")
    )


def test_compiled_graph_holds_the_operator() -> None:
    x, u = _pair(2, 6, 3)
    seen = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(Grassmann().expmap, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x, u), Grassmann().expmap(x, u), rtol=0, atol=0)
    assert any("orthonormal_exp" in name for name in seen)


@pytest.mark.slow
def test_compiled_gradients_equal_eager_ones() -> None:
    x, u = _pair(2, 6, 3)

    def loss(x: Tensor, u: Tensor) -> Tensor:
        return Stiefel().retr(x, u).pow(3).sum() + Grassmann().expmap(x, u).pow(3).sum()

    wanted = torch.func.grad(loss, argnums=(0, 1))(x, u)
    free = x.clone().requires_grad_(), u.clone().requires_grad_()
    torch.compile(loss, fullgraph=True)(*free).backward()
    # The same kernels; the cubes are summed in another order.
    torch.testing.assert_close((free[0].grad, free[1].grad), wanted, rtol=1e-13, atol=1e-14)


def test_what_kernels_do_not_take_goes_to_the_reference() -> None:
    x, u = _pair(2, 2 * LARGEST + 2, LARGEST + 1)
    for name, function in FUSED.items():
        with dispatch.use("reference"):
            wanted = function(x, u)
        torch.testing.assert_close(function(x, u), wanted, rtol=0, atol=0)
        assert name in OPERATIONS
    narrow, along = _pair(2, 6, 2)
    _, change = torch.func.jvp(lambda u: FUSED["exp"](narrow, u), (torch.zeros_like(along),), (along,))
    torch.testing.assert_close(change, along, rtol=0, atol=1e-15)  # exact but for one rounding: sinc(0) = 1
    meta = FUSED["qr"](x.to("meta"), u.to("meta"))
    assert meta.shape == x.shape


def test_rank_deficient_sums_stay_finite() -> None:
    """x + u = 0 in one column: no Q factor, and no NaN from the polar factor either."""
    x, _ = _pair(2, 6, 3)
    u = torch.zeros_like(x)
    u[..., 0] = -x[..., 0]
    with dispatch.use("reference"):
        wanted = FUSED["polar"](x, u)
    torch.testing.assert_close(FUSED["polar"](x, u)[..., 1:], wanted[..., 1:], rtol=0, atol=1e-14)
    assert torch.isfinite(FUSED["polar"](x, u)).all()

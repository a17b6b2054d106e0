"""The fused row operations of the Poincaré ball: equal to their references in value and gradient, and torch's rules."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from holonomy.manifolds import PoincareBall, gyrovector, kernels
from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.operators import Fused

#: Those of one result; `expmap_transport` has its own tests.
OPERATIONS = {name: f for name, f in vars(gyrovector).items() if isinstance(f, Fused) and len(f.result) == 1}
DTYPES = (torch.float32, torch.float64)
#: Values and gradients differ from the reference by roundings: its own, and those of sums in another order; in units
#: of the dtype's eps, relative to the largest entry. The curvature's gradient is a sum of terms of both signs.
VALUE, GRADIENT, SLOPE = 12.0, 64.0, 400.0


def test_all_operations_are_found() -> None:
    assert len(OPERATIONS) >= 11


def _arguments(f: Fused, *size: int, dtype: torch.dtype, c: float = 1.0, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reach = 0.95 / math.sqrt(c)
    tensors = []
    for _ in range(f.vectors):
        x = torch.randn(size, dtype=torch.float64, generator=generator)
        lengths = torch.rand(*size[:-1], 1, dtype=torch.float64, generator=generator)
        tensors.append((reach * lengths * x / x.norm(dim=-1, keepdim=True)).to(dtype))
    return tensors


def _units(a: Tensor, b: Tensor, least: float = 0.0) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    scale = max(float(b.abs().max()), least) if b.numel() else 1.0
    return float((a - b).abs().max()) / ((scale or 1.0) * torch.finfo(b.dtype).eps) if b.numel() else 0.0


def _differentiated(function: Any, tensors: list[Tensor], c: Any) -> tuple[Tensor, list[Tensor]]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    slope = [c.clone().requires_grad_()] if isinstance(c, Tensor) else []
    out = function(*leaves, slope[0] if slope else c)
    weights = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out.detach(), list(torch.autograd.grad(out, [*leaves, *slope], weights, materialize_grads=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (70, 3), (5, 8), (3, 7, 11), (9, 16), (65, 70)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_gradients_equal_the_reference(name: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    f = OPERATIONS[name]
    tensors = _arguments(f, *size, dtype=dtype, c=0.7)
    # In one dimension a plane's normal has nowhere to turn: of terms of order 1, their roundings are left.
    least = 1.0 if name == "dist2plane" and size[-1] == 1 else 0.0
    for c in (0.7, torch.tensor(0.7, dtype=dtype)):
        value, gradients = _differentiated(f, tensors, c)
        expected, wanted = _differentiated(f.reference, tensors, c)
        assert _units(value, expected) <= VALUE
        for gradient, want in zip(gradients[: f.vectors], wanted, strict=False):
            assert _units(gradient, want, least) <= GRADIENT
        if isinstance(c, Tensor) and float(wanted[-1].abs()) > 0:
            scale = sum(float((g * t).abs().sum()) for g, t in zip(wanted, tensors, strict=False))
            assert abs(float(gradients[-1] - wanted[-1])) <= SLOPE * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_is_as_near_to_float64_as_the_reference(name: str) -> None:
    f = OPERATIONS[name]
    tensors = _arguments(f, 500, 9, dtype=torch.float32)
    exact = f.reference(*(t.double() for t in tensors), 1.0)
    rows = exact.abs().amax(-1).clamp_min(1e-30)
    error = ((f(*tensors, 1.0) - exact).abs().amax(-1) / rows).max()
    theirs = ((f.reference(*tensors, 1.0) - exact).abs().amax(-1) / rows).max()
    # Sums in another order may round the other way: one unit.
    assert float(error) <= 1.5 * float(theirs) + torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_hard_rows_are_the_reference_itself(name: str, dtype: torch.dtype) -> None:
    """At the edge, beyond it, at opposite and at coincident points, and where an entry is not a number."""
    f = OPERATIONS[name]
    edge = torch.tensor(1.0, dtype=dtype) - torch.finfo(dtype).eps
    rows = torch.zeros(7, 4, dtype=dtype)
    rows[0, 0], rows[1, 1], rows[2, 2], rows[3, 3], rows[4, 0] = edge, -edge, 0.5, 1e-30, 0.9
    tensors = [rows.clone(), rows.flip(0).clone(), -rows.clone()][: f.vectors]
    if f.vectors > 1:
        tensors[1][2], tensors[1][4] = rows[2], -rows[4]
    if "inside" in name or name == "project":
        tensors[-1][5] = 40.0
    value, gradients = _differentiated(f, tensors, 1.0)
    expected, wanted = _differentiated(f.reference, tensors, 1.0)
    assert bool(torch.isfinite(value).all())
    for result, want in zip((value, *gradients), (expected, *wanted), strict=True):
        assert bool(torch.isfinite(result).all())
        for row, other in zip(result, want, strict=True):
            # One rounding of g at the edge is a factor of its own size; what is compared is the order of magnitude.
            scale = float(other.abs().max())
            # Of a plane's normal along the coordinate axis that the point is on, terms of order 1 cancel.
            left = 4.0 * torch.finfo(dtype).eps if name == "dist2plane" else 1e-30
            assert float((row - other).abs().max()) <= 0.2 * scale + left
    tensors[0][6, 0] = math.nan
    value = f(*tensors, 1.0)
    assert bool(value[6].isnan().any())
    assert bool(torch.isfinite(value[:6]).all())


@pytest.mark.parametrize("name", OPERATIONS)
def test_broadcast_strided_and_empty_arguments(name: str) -> None:
    f = OPERATIONS[name]
    tensors = _arguments(f, 6, 4, 5, dtype=torch.float64)
    turned = tensors[0].transpose(0, 1).contiguous().transpose(0, 1)
    for first in (tensors[0][:, :1], tensors[0][0, 0], tensors[0][..., ::2], turned, tensors[0][:0]):
        arguments = [first, *(t[: len(first) or 0, ..., : first.shape[-1]] for t in tensors[1:])]
        if first.ndim == 1:
            arguments = [first, *tensors[1:]]
        value, gradients = _differentiated(f, arguments, 1.0)
        expected, wanted = _differentiated(f.reference, arguments, 1.0)
        for result, want in zip((value, *gradients), (expected, *wanted), strict=True):
            assert _units(result, want) <= GRADIENT


@pytest.mark.parametrize("name", OPERATIONS)
def test_derivatives_of_both_orders(name: str) -> None:
    f = OPERATIONS[name]
    tensors = [t.requires_grad_() for t in _arguments(f, 3, 4, dtype=torch.float64)]
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert gradcheck(f, (*tensors, c))
    assert gradgradcheck(f, (*tensors, c))


@pytest.mark.parametrize("name", OPERATIONS)
def test_vmap_over_any_argument(name: str) -> None:
    f = OPERATIONS[name]
    tensors = _arguments(f, 5, 3, 4, dtype=torch.float64)
    curvatures = torch.linspace(0.5, 1.0, 5, dtype=torch.float64)
    for c, dim in ((0.9, None), (curvatures, 0)):
        mapped = torch.vmap(f, in_dims=(*(0 for _ in tensors), dim))(*tensors, c)
        looped = torch.stack([f.reference(*(t[i] for t in tensors), c if dim is None else c[i]) for i in range(5)])
        assert _units(mapped, looped) <= GRADIENT
    if f.vectors > 1:
        shared = [tensors[0][0], *tensors[1:]]
        dims = (None, *(0 for _ in tensors[1:]), None)
        looped = torch.stack([f.reference(shared[0], *(t[i] for t in shared[1:]), 1.0) for i in range(5)])
        assert _units(torch.vmap(f, in_dims=dims)(*shared, 1.0), looped) <= GRADIENT

    def loss(*arguments: Any) -> Tensor:
        return f(*arguments).square().sum()

    every = tuple(range(f.vectors))
    c = torch.tensor(0.9, dtype=torch.float64)
    gradients = torch.vmap(torch.func.grad(loss, argnums=(*every, f.vectors)), in_dims=(*(0 for _ in every), None))(
        *tensors, c
    )
    for i in range(5):
        leaves = [t[i].clone().requires_grad_() for t in tensors]
        slope = c.clone().requires_grad_()
        out = f.reference(*leaves, slope).square().sum()
        for gradient, want in zip(
            gradients, torch.autograd.grad(out, [*leaves, slope], materialize_grads=True), strict=True
        ):
            # Sums of terms of both signs, as above.
            torch.testing.assert_close(gradient[i], want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_finds_nothing_wrong_with_the_operators(name: str) -> None:
    f = OPERATIONS[name]
    tensors = [t.requires_grad_() for t in _arguments(f, 3, 4, dtype=torch.float64)]
    torch.library.opcheck(f._forward, (*tensors, None, 1.0))
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(f._forward, (*tensors, c, 0.0))
    g = torch.ones_like(f(*tensors, 1.0)).detach()
    torch.library.opcheck(f._backward, (g, *tensors, c, 0.0))


def test_a_compiled_graph_has_one_node_for_an_operation() -> None:
    nodes: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nodes.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    ball = PoincareBall()
    x, u = _arguments(gyrovector.expmap, 9, 4, dtype=torch.float32)
    compiled = torch.compile(lambda x, u: ball.expmap(x, u), fullgraph=True, backend=backend)
    assert torch.equal(compiled(x, u), ball.expmap(x, u))
    assert [node for node in nodes if "holonomy" in node] == ["holonomy.ball_expmap_inside.default"]
    assert not [node for node in nodes if "aten" in node or "method of 'torch" in node]


def test_exported_programs_run_without_this_library() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, u: Tensor) -> Tensor:
            return PoincareBall().expmap(x, u)

    x, u = _arguments(gyrovector.expmap, 9, 4, dtype=torch.float64)
    program = torch.export.export(Model(), (x, u))
    assert not any("holonomy" in str(node.target) for node in program.graph.nodes)
    assert _units(program.module()(x, u), PoincareBall().expmap(x, u)) <= VALUE


def test_use_reference_is_the_reference_bit_for_bit() -> None:
    x, u = _arguments(gyrovector.expmap, 50, 4, dtype=torch.float32)
    with kernels.use("reference"):
        assert torch.equal(gyrovector.expmap(x, u, 1.0), gyrovector.expmap.reference(x, u, 1.0))
    assert dispatch.backend(x, u) == "numba"


def test_a_curvature_for_each_point_takes_the_reference() -> None:
    x, u = _arguments(gyrovector.expmap, 5, 4, dtype=torch.float64)
    c = torch.linspace(0.1, 1.0, 5, dtype=torch.float64).unsqueeze(-1)
    assert torch.equal(gyrovector.expmap(x, u, c), gyrovector.expmap.reference(x, u, c))


def test_memory_of_the_backward_pass_is_its_inputs() -> None:
    x, u = (t.requires_grad_() for t in _arguments(gyrovector.expmap, 5, 4, dtype=torch.float64))
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        gyrovector.expmap(x, u, 1.0)
    assert sorted(saved) == sorted([x.data_ptr(), u.data_ptr()])


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        self.names.append(str(function))
        return function(*arguments, **(options or {}))


def test_operators_are_called_where_somebody_looks() -> None:
    x = torch.full((3, 4), 0.1, requires_grad=True)
    with _Record() as seen:
        gyrovector.expmap0(x, 1.0).sum().backward()
    assert [name for name in seen.names if "holonomy" in name] == [
        "holonomy.ball_expmap0.default",
        "holonomy.ball_expmap0_back.default",
    ]
    assert type(gyrovector.expmap0(x, 1.0).grad_fn).__name__ == "_DirectBackward"


def test_plain_calls_have_gradients_of_gradients_and_batches_of_gradients() -> None:
    x = torch.rand(3, 4, dtype=torch.float64) * 0.1
    assert torch.autograd.gradgradcheck(lambda t: gyrovector.expmap0(t, 1.0), (x.clone().requires_grad_(),))

    def function(t: Tensor) -> Tensor:
        return gyrovector.expmap0(t, 1.0).sum(0)

    found = torch.autograd.functional.jacobian(function, x, vectorize=True)
    with dispatch.use("reference"):
        torch.testing.assert_close(found, torch.autograd.functional.jacobian(function, x), rtol=1e-13, atol=1e-15)


def test_small_tensors_are_left_to_a_cheap_reference() -> None:
    assert not dispatch.is_small(torch.zeros(8), 8)
    assert dispatch.is_small(torch.zeros(7), 8)
    with dispatch.use("fused"):
        assert not dispatch.is_small(torch.zeros(7), 8)

"""torch's transformations see every operation: vmap, compile, export, meta and fake tensors."""

from collections.abc import Callable

import pytest
import torch
from cases import (
    OPERATIONS,
    Case,
    Inputs,
    Operation,
    assert_close,
    each_case,
    each_operation,
    first_of_its_kind,
    first_of_its_metric,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

EPS = torch.finfo(torch.float64).eps


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's matrix_exp, mapped by a loop
@each_operation()
def test_vmap_equals_the_batch(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(4)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return operation(manifold, dict(zip(operation.takes, tensors, strict=True)))

    mapped = torch.func.vmap(function)(*(inputs[name] for name in operation.takes))
    for got, wanted in zip(mapped, operation(manifold, inputs), strict=True):
        assert_close(got, wanted, case.float64_error * EPS)


class Everything(torch.nn.Module):
    """Every operation of a row as one module: a single trace finds what does not trace."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.manifold = case.manifold()
        self.operations = [o for o in OPERATIONS if case.has(o.name, *o.needs)]

    def forward(self, inputs: Inputs) -> list[Tensor]:
        return [result for operation in self.operations for result in operation(self.manifold, inputs)]


def assert_all_close(case: Case, got: list[Tensor], wanted: list[Tensor]) -> None:
    names = [o.name for o in Everything(case).operations for _ in o.gives]
    for name, a, b in zip(names, got, wanted, strict=True):
        assert_close(a, b, case.float64_error * EPS, name)


@each_case(where=first_of_its_metric)
def test_compile_takes_the_whole_graph(case: Case) -> None:
    """fullgraph: a branch on data, or a call that torch.compile cannot see into, is an error."""
    torch._dynamo.reset()
    module, inputs = Everything(case), case.inputs(3)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert_all_close(case, compiled(inputs), module(inputs))


@each_case("dist2", where=first_of_its_kind)
def test_compiled_gradients_equal_eager_ones(case: Case) -> None:
    """The backward pass through a step and a distance traces too."""
    torch._dynamo.reset()
    manifold = case.manifold()

    def loss(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
        return manifold.dist2(manifold.retr(x, u), y).sum()

    def gradients(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        inputs = case.inputs(3)
        free = tuple(inputs[name].requires_grad_() for name in "xyu")
        return torch.autograd.grad(function(*free), free)

    got = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"))
    for a, b in zip(got, gradients(loss), strict=True):
        assert_close(a, b, 16 * case.float64_error * EPS)


@pytest.mark.slow
@each_case("expmap", "dist", where=first_of_its_metric)
def test_inductor_equals_eager(case: Case) -> None:
    """Code generation, which takes a compiler and many seconds, for one size of each manifold."""
    torch._dynamo.reset()
    manifold, inputs = case.manifold(), case.inputs(3)

    def function(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
        return manifold.dist(manifold.expmap(x, u), y)

    free = tuple(inputs[name] for name in "xyu")
    assert_close(torch.compile(function, fullgraph=True)(*free), function(*free), case.float64_error * EPS)


@each_case(where=first_of_its_metric)
def test_export_gives_a_program_that_runs(case: Case) -> None:
    module, inputs = Everything(case), case.inputs(3)
    program = torch.export.export(module, (inputs,))
    other = case.inputs(3, seed=5)
    assert_all_close(case, program.module()(other), module(other))


@each_case(where=first_of_its_kind)
def test_export_keeps_a_batch_dimension_free(case: Case) -> None:
    manifold = case.manifold()

    class Step(torch.nn.Module):
        def forward(self, x: Tensor, u: Tensor) -> Tensor:
            return manifold.retr(x, u)

    inputs = case.inputs(3)
    batch = {0: torch.export.Dim("batch", min=2, max=1000)}
    program = torch.export.export(Step(), (inputs["x"], inputs["u"]), dynamic_shapes=(batch, batch))
    more = case.inputs(7)
    assert_close(program.module()(more["x"], more["u"]), manifold.retr(more["x"], more["u"]), 64 * EPS)


@each_operation()
def test_meta_tensors_give_shapes(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(4)
    meta = {name: t.to("meta") for name, t in inputs.items()}
    for got, wanted in zip(operation(manifold, meta), operation(manifold, inputs), strict=True):
        assert got.device.type == "meta"
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)


@each_case()
def test_fake_tensors_give_shapes(case: Case) -> None:
    module, inputs = Everything(case), case.inputs(4)
    wanted = module(inputs)
    with FakeTensorMode() as mode:
        got = module({name: mode.from_tensor(t) for name, t in inputs.items()})
        drawn = case.manifold().random(4, *case.shape)
    for a, b in zip(got, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert drawn.shape == (4, *case.shape)


@each_case()
def test_points_can_be_drawn_on_meta(case: Case) -> None:
    manifold = case.manifold()
    for draw in (manifold.random, manifold.origin):
        x = draw(4, *case.shape, device="meta", dtype=torch.float32)
        assert x.shape == (4, *case.shape)
        assert x.device.type == "meta"
    assert manifold.random_tangent(x).shape == x.shape

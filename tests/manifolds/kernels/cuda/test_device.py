"""The CUDA row kernels on a device: equality with the reference, streams, CUDA graphs, torch.compile."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import gyrovector, hyperboloid, spherical
from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.cuda import run

_WHY = None
if importlib.util.find_spec("cupy") is None:
    _WHY = "needs CuPy"
elif not torch.cuda.is_available():
    _WHY = "needs a CUDA device"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_WHY is not None, reason=str(_WHY))]

ROOMS = {"ball": gyrovector, "lorentz": hyperboloid, "sphere": spherical}
OPERATIONS = [(module, name) for module, names in run.KERNELS.items() for name in names]
DTYPES = [torch.float32, torch.float64]


def arguments(module: str, name: str, rows: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    x, y, u = (torch.randn(rows, size, dtype=torch.float64) / size**0.5 for _ in range(3))
    if module == "ball":
        x, y, u = (0.5 * torch.tanh(t) for t in (x, y, u))
    elif module == "lorentz":
        x, y = (hyperboloid.project.reference(t, 1.0) for t in (x, y))
        u = hyperboloid.lift(x[:, 1:], u[:, 1:], 1.0)
    else:
        x, y = (spherical.project.reference(t) for t in (x, y))
        u = spherical.project_tangent(x, u)
    count = getattr(ROOMS[module], name).vectors
    if name.startswith("expmap0"):
        found = [u]
    elif "expmap" in name:
        found = [x, u, u.flip(-1) if module != "sphere" else spherical.project_tangent(x, u.flip(-1))][:count]
    else:
        found = [x, y, u][:count]
    return [t.to(dtype).contiguous() for t in found]


def evaluate(function: Any, inputs: list[Tensor], curved: bool) -> list[Tensor]:
    """Values and gradients, also by the curvature."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    c = torch.tensor(1.0, dtype=inputs[0].dtype, device=inputs[0].device, requires_grad=True)
    results = function(*leaves, *((c,) if curved else ()))
    results = list(results) if isinstance(results, tuple) else [results]
    weights = [torch.linspace(-1.0, 1.0, r.numel(), dtype=r.dtype, device=r.device).view_as(r) for r in results]
    wanted = [*leaves, c] if curved else leaves
    return [*results, *torch.autograd.grad(results, wanted, weights)]


def near(found: Tensor, wanted: Tensor, roundings: float) -> bool:
    wanted = wanted.to(found.device, torch.float64)
    scale = wanted.abs().amax().clamp_min(1.0)
    return float((found.double() - wanted).abs().amax() / scale) <= roundings * torch.finfo(found.dtype).eps


@pytest.mark.parametrize("size", [2, 5, 16, 130, 1001])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_equals_the_reference(module: str, name: str, dtype: torch.dtype, size: int) -> None:
    operation = getattr(ROOMS[module], name)
    inputs = arguments(module, name, 1000, size, dtype)
    on_device = [t.cuda() for t in inputs]
    assert dispatch.backend(*on_device) == "cupy"
    wanted = evaluate(operation.reference, [t.double() for t in inputs], operation.curved)
    for found, true in zip(evaluate(operation, on_device, operation.curved), wanted, strict=True):
        # Entries of order one, a few tens of roundings each; the slope of the curvature is a sum of 1000 rows.
        assert near(found, true, 1024.0)


@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_shared_rows_views_and_rows_that_are_not_aligned(module: str, name: str) -> None:
    operation = getattr(ROOMS[module], name)
    inputs = [t.cuda() for t in arguments(module, name, 33, 16, torch.float32)]
    inputs[0] = inputs[0][:1] if operation.vectors > 1 else inputs[0]
    shifted = [torch.nn.functional.pad(t.reshape(-1), (1, 0))[1:].view(t.shape) for t in inputs]
    c = (1.0,) if operation.curved else ()
    results = operation(*inputs, *c)
    for a, b, d in zip(
        *(
            r if isinstance(r, tuple) else (r,)
            for r in (results, operation(*shifted, *c), operation.reference(*inputs, *c))
        ),
        strict=True,
    ):
        assert near(a, d, 256.0)
        assert near(b, d, 256.0)


@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_a_cuda_graph_captures_values_and_gradients(module: str, name: str) -> None:
    operation = getattr(ROOMS[module], name)
    inputs = [t.cuda() for t in arguments(module, name, 100, 16, torch.float32)]
    c = torch.tensor(1.0, device="cuda")
    leaves = [t.clone().requires_grad_() for t in inputs]

    def step() -> list[Tensor]:
        results = operation(*leaves, *((c,) if operation.curved else ()))
        results = list(results) if isinstance(results, tuple) else [results]
        return [*results, *torch.autograd.grad(sum(r.sum() for r in results), leaves)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves:
            leaf.copy_(leaf.flip(0))
    graph.replay()
    for found, wanted in zip(captured, step(), strict=True):
        assert torch.equal(found, wanted)


def test_a_curvature_on_the_device_is_read_when_the_graph_runs() -> None:
    x, y = (t.cuda() for t in arguments("ball", "dist", 10, 16, torch.float32))
    c = torch.tensor(1.0, device="cuda")
    gyrovector.dist(x, y, c)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gyrovector.dist(x, y, c)
    c.fill_(0.5)
    graph.replay()
    assert near(found, gyrovector.dist.reference(x, y, 0.5), 64.0)


def test_kernels_run_on_the_current_stream() -> None:
    """The input is made on the same stream just before: on another the kernel would read it too early."""
    stream = torch.cuda.Stream()
    x = arguments("ball", "expmap0", 4, 16, torch.float32)[0].cuda().repeat(250_000, 1)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        u = torch.zeros_like(x)
        torch.cuda._sleep(50_000_000)
        u.add_(x)
        found = gyrovector.expmap0(u, 1.0)
    stream.synchronize()
    assert near(found, gyrovector.expmap0.reference(x, 1.0), 64.0)


def test_nothing_waits_for_the_device() -> None:
    x, y = (t.cuda().requires_grad_() for t in arguments("ball", "dist", 10, 16, torch.float32))
    c = torch.tensor(1.0, device="cuda", requires_grad=True)
    gyrovector.dist(x, y, c).sum().backward()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gyrovector.dist(x, y, c).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.slow
def test_compiled_whole() -> None:
    x, u = (t.cuda().requires_grad_() for t in arguments("ball", "expmap_inside", 100, 16, torch.float32))

    def loss(x: Tensor, u: Tensor) -> Tensor:
        return gyrovector.dist2(gyrovector.expmap_inside(x, u, 1.0), x, 1.0).sum()

    found = torch.compile(loss, fullgraph=True)(x, u)
    wanted = loss(x, u)
    for a, b in zip(torch.autograd.grad(found, (x, u)), torch.autograd.grad(wanted, (x, u)), strict=True):
        assert near(a, b, 64.0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_device_of_the_tensors_is_used() -> None:
    x, y = (t.to("cuda:1") for t in arguments("ball", "dist", 10, 16, torch.float32))
    assert gyrovector.dist(x, y, 1.0).device.index == 1
    assert torch.cuda.current_device() == 0

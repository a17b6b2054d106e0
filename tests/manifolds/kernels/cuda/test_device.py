"""The CUDA kernels on a device: equality with the reference, streams, CUDA graphs, torch.compile."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    Grassmann,
    Lorentz,
    PoincareBall,
    Simplex,
    Sphere,
    Stiefel,
    gyrovector,
    hyperboloid,
    nearest,
    spherical,
)
from holonomy.manifolds.kernels import dispatch, steps
from holonomy.manifolds.kernels.bases import bspline_basis, bspline_combine, chebyshev_basis, chebyshev_combine
from holonomy.manifolds.kernels.cuda import run
from holonomy.manifolds.kernels.hadamard import hadamard_transform
from holonomy.manifolds.kernels.recurrence import linear_recurrence, selective_scan
from holonomy.manifolds.kernels.simplex import project_simplex
from holonomy.manifolds.kernels.sinkhorn import sinkhorn
from holonomy.manifolds.kernels.sketch import count_sketch, count_unsketch, hash_embedding
from holonomy.manifolds.kernels.subspace_logits import subspace_logits

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
    return (
        float((found.double() - wanted).detach().abs().amax() / scale.detach())
        <= roundings * torch.finfo(found.dtype).eps
    )


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
        found = torch.autograd.grad(gyrovector.dist(x, y, c).sum(), (x, y, c))  # an error where anything waits
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    for one in found:
        assert bool(torch.isfinite(one).all())


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


# -- kernels of blocks ---------------------------------------------------------------------------------------------


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def on_manifold(manifold: Any, *shape: int) -> tuple[Tensor, Tensor]:
    """Points, and tangent vectors."""
    x = manifold.random(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))
    return x, 0.3 * manifold.proju(x, draw(*shape))


def case(name: str) -> tuple[Any, list[Tensor]]:
    """A function and its arguments, in float64 on the CPU; those of other dtypes stay as they are."""
    ball, sphere, lorentz, simplex, stiefel, grassmann = (
        PoincareBall(),
        Sphere(),
        Lorentz(),
        Simplex(),
        Stiefel(),
        Grassmann(),
    )
    x, u = on_manifold(simplex, 200, 37)
    v, _ = on_manifold(simplex, 200, 37)
    long, p = draw(3, 2**15), 8
    points, tangents = on_manifold(stiefel, 50, 100, p)
    horizontal = tangents - points @ (points.mT @ tangents)
    index, sign = torch.randint(0, 50, (300,)), torch.randint(0, 2, (300,)) * 2 - 1
    ids, salts = torch.randint(0, 10**9, (64,)), torch.arange(4)
    knots = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64)
    scan = [draw(2, 6, 150), torch.rand(2, 6, 150, dtype=torch.float64), -torch.rand(6, 16, dtype=torch.float64)]
    scan += [draw(2, 3, 16, 150), draw(2, 3, 16, 150), draw(6)]
    pairs = {
        kind: [on_manifold(manifold, 150, size)[0], on_manifold(manifold, 2, 130, size)[0]]
        for kind, manifold, size in (("ball", ball, 16), ("sphere", sphere, 19), ("lorentz", lorentz, 17))
    }
    many = {
        kind: [p[0], on_manifold(m, 2000, p[0].shape[-1])[0]]
        for (kind, p), m in zip(pairs.items(), (ball, sphere, lorentz), strict=True)
    }
    cases: dict[str, tuple[Any, list[Tensor]]] = {
        "cdist ball": (ball.cdist, pairs["ball"]),
        "cdist sphere": (sphere.cdist, pairs["sphere"]),
        "cdist lorentz": (lorentz.cdist, pairs["lorentz"]),
        "cdist of many": (ball.cdist, many["ball"]),
        "nearest ball": (lambda x, y: nearest(ball, x, y, 5)[0], many["ball"]),
        "nearest sphere": (lambda x, y: nearest(sphere, x, y, 5)[0], many["sphere"]),
        "nearest lorentz": (lambda x, y: nearest(lorentz, x, y, 5)[0], many["lorentz"]),
        "project_simplex": (project_simplex, [draw(100, 37)]),
        "project_simplex long": (project_simplex, [draw(10, 5000)]),
        "simplex expmap": (simplex.expmap, [x, u]),
        "simplex retr": (simplex.retr, [x, 0.3 * x * (u - (x * u).sum(-1, keepdim=True))]),
        "simplex logmap": (simplex.logmap, [x, v]),
        "simplex dist": (simplex.dist, [x, v]),
        "simplex dist2": (simplex.dist2, [x, v]),
        "simplex transp": (simplex.transp, [x, v, u]),
        "sinkhorn": (lambda cost: sinkhorn(cost, epsilon=0.3, tolerance=1e-6).coupling, [draw(4, 20, 30).abs()]),
        "hadamard": (hadamard_transform, [draw(100, 64)]),
        "hadamard long": (lambda x: hadamard_transform(x, normalized=True), [long]),
        "count_sketch": (lambda x, i, s: count_sketch(x, i, s, 50), [draw(7, 300), index, sign]),
        "count_unsketch": (count_unsketch, [draw(7, 50), index, sign]),
        "hash_embedding": (lambda table, i, s: hash_embedding(i, table, s), [draw(100, 8), ids, salts]),
        "linear_recurrence": (linear_recurrence, [draw(3, 200, 5).tanh(), draw(3, 200, 5)]),
        "linear_recurrence wide": (linear_recurrence, [draw(2, 70, 2**14).tanh(), draw(2, 70, 2**14)]),
        "selective_scan": (selective_scan, scan),
        "bspline_basis": (lambda x, k: bspline_basis(x, k, 3), [draw(100, 6), knots]),
        "bspline_combine": (lambda x, c, k: bspline_combine(x, k, c, 3), [draw(100, 6), draw(4, 6, 8), knots]),
        "chebyshev_basis": (lambda x: chebyshev_basis(x, 20), [draw(100, 6).tanh()]),
        "chebyshev_combine": (chebyshev_combine, [draw(100, 6).tanh(), draw(4, 6, 8)]),
        "grassmann expmap": (grassmann.expmap, [points, horizontal]),
        "stiefel retr": (stiefel.retr, [points, tangents]),
        "stiefel proju": (stiefel.proju, [points, draw(50, 100, p)]),
        "grassmann proju": (grassmann.proju, [points, draw(50, 100, p)]),
        "subspace_logits": (subspace_logits, [draw(33, 64), draw(20, 64, 5)]),
    }
    return cases[name]


def narrow(inputs: list[Tensor], dtype: torch.dtype, device: str) -> list[Tensor]:
    return [(t.to(dtype) if t.is_floating_point() else t).to(device) for t in inputs]


def pulled(function: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Value and gradients; knots have none."""
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point() and t.ndim > 1) for t in inputs]
    value = function(*leaves)
    weight = torch.linspace(-1.0, 1.0, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
    return [value.detach(), *torch.autograd.grad(value, [t for t in leaves if t.requires_grad], weight)]


NAMES = [
    "cdist ball",
    "cdist sphere",
    "cdist lorentz",
    "cdist of many",
    "nearest ball",
    "nearest sphere",
    "nearest lorentz",
    "project_simplex",
    "project_simplex long",
    "simplex expmap",
    "simplex retr",
    "simplex logmap",
    "simplex dist",
    "simplex dist2",
    "simplex transp",
    "sinkhorn",
    "hadamard",
    "hadamard long",
    "count_sketch",
    "count_unsketch",
    "hash_embedding",
    "linear_recurrence",
    "linear_recurrence wide",
    "selective_scan",
    "bspline_basis",
    "bspline_combine",
    "chebyshev_basis",
    "chebyshev_combine",
    "grassmann expmap",
    "stiefel retr",
    "stiefel proju",
    "grassmann proju",
    "subspace_logits",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_blocks_equal_the_reference(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    function, inputs = case(name)
    rounded = narrow(inputs, dtype, "cpu")
    with dispatch.use("reference"):
        wanted = pulled(function, narrow(rounded, torch.float64, "cpu"))
    # Sinkhorn's iteration ends at its tolerance, which is 1e-6; the others are sums of up to some thousand roundings.
    roundings = 100.0 * 1e-6 / torch.finfo(dtype).eps if name == "sinkhorn" else 4096.0
    for found, true in zip(pulled(function, narrow(rounded, dtype, "cuda")), wanted, strict=True):
        assert near(found, true, roundings)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sinkhorn"])  # whose gradient factorises matrices
def test_kernels_of_blocks_repeat_themselves(name: str) -> None:
    function, inputs = case(name)
    on_device = narrow(inputs, torch.float32, "cuda")
    for one, other in zip(pulled(function, on_device), pulled(function, on_device), strict=True):
        assert torch.equal(one, other)


#: What a public function looks at on the host, for a refusal or to sort, is not for a graph.
_HOST = ("sinkhorn", "nearest ball", "nearest sphere", "nearest lorentz")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in _HOST])
def test_a_cuda_graph_captures_kernels_of_blocks(name: str) -> None:
    function, inputs = case(name)
    on_device = narrow(inputs, torch.float32, "cuda")
    for _ in range(2):
        wanted = function(*on_device)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(*on_device)
    graph.replay()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", steps.KINDS)
def test_steps_equal_those_of_the_cpu(kind: str, sparse: bool, dtype: torch.dtype) -> None:
    manifold = {"ball": PoincareBall(), "sphere": Sphere(), "lorentz": Lorentz()}[kind]
    x, m = (t.to(dtype) for t in on_manifold(manifold, 300, 17))
    g, v = draw(300, 17).to(dtype), torch.rand(300, 1, dtype=dtype)
    index = torch.randperm(300)[:50] if sparse else None
    g = g if index is None else g[index]
    ours, theirs = [[t.clone().to(device) for t in (x, m, v)] for device in ("cuda", "cpu")]
    for state, device in ((ours, "cuda"), (theirs, "cpu")):
        assert steps.obstacle(*state) is None
        rows = None if index is None else index.to(device)
        steps.adam_step(
            kind, 1.0, state[0], g.to(device), state[1], state[2], None, rows,
            step=3.0, lr=0.01, beta1=0.9, beta2=0.99, eps=1e-8,
        )  # fmt: skip
    for found, wanted in zip(ours, theirs, strict=True):
        assert near(found, wanted, 2048.0)

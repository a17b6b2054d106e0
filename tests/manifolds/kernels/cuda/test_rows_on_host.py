"""The maths of the CUDA row kernels, compiled by a C++ compiler and held to the torch reference. Needs no GPU."""

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import gyrovector, hyperboloid, spherical
from holonomy.manifolds.kernels import operators
from holonomy.manifolds.kernels.cuda import run
from holonomy.manifolds.kernels.operators import Fused

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

ROOMS = {"ball": gyrovector, "lorentz": hyperboloid, "sphere": spherical}
OPERATIONS = [(module, name) for module, names in run.KERNELS.items() for name in names]
PAIRS = [(m, n) for m, names in run.KERNELS.items() for n in names if n in ("dist", "dist2", "logmap", "transport")]
DTYPES = [torch.float32, torch.float64]
SINGLE, DOUBLE = DTYPES
HEADERS = Path(run.__file__).parent
HOST = Path(__file__).parent / "host.cpp"
#: Loads of one number and a row read again for every sum; whole packs and a row in registers.
PATHS = {SINGLE: ((1, 0), (4, 4)), DOUBLE: ((1, 0), (2, 4))}


def operation(module: str, name: str) -> Fused:
    found = getattr(ROOMS[module], name)
    assert isinstance(found, Fused)
    return found


@cache
def library(module: str, dtype: torch.dtype) -> ctypes.CDLL:
    entries = [
        run.entry(module, name + suffix, dtype, width, held)[1]
        for name in run.KERNELS[module]
        for suffix in ("", "_back")
        for width, held in PATHS[dtype]
    ]
    folder = Path(mkdtemp(prefix="holonomy-cuda-host-"))
    text = "\n".join([HOST.read_text(), *entries])
    (folder / "host.cpp").write_text(text)
    command = ["g++", "-std=c++17", "-shared", "-fPIC", f"-I{HEADERS}", "host.cpp", "-o", "host.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = ctypes.CDLL(str(folder / "host.so"))
    shutil.rmtree(folder)
    return loaded


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def evaluate(
    op: Fused,
    suffix: str,
    path: tuple[int, int],
    ins: list[Tensor],
    outs: int,
    given: Tensor | None,
    scalar: bool,
    c: Tensor | None,
    k: float,
    lanes: int = 1,
) -> tuple[list[Tensor], Tensor | None, float]:
    """Call a kernel as `run` does; return its vectors, its scalars and the derivative by the curvature."""
    dtype, size = ins[0].dtype, ins[0].shape[-1]
    rows = max(t.shape[0] for t in ins)
    symbol, _ = run.entry(op.module, op.__name__ + suffix, dtype, *path)
    function = getattr(library(op.module, dtype), symbol)
    function.restype = ctypes.c_double
    results = [torch.full((rows, size), torch.nan, dtype=dtype) for _ in range(outs)]
    numbers = torch.full((rows, 1), torch.nan, dtype=dtype) if scalar else None
    repeated = sum(1 << i for i, t in enumerate(ins) if t.shape[0] == 1)
    if given is not None and given.shape[0] == 1:
        repeated |= 1 << len(ins)
    slope = function(
        (ctypes.c_void_p * len(ins))(*(t.data_ptr() for t in ins)),
        address(given),
        ctypes.c_uint(repeated),
        (ctypes.c_void_p * max(1, outs))(*(t.data_ptr() for t in results)),
        address(numbers),
        address(c),
        ctypes.c_double(k),
        ctypes.c_longlong(rows),
        ctypes.c_int(size),
        ctypes.c_int(lanes),
    )
    return results, numbers, slope


def forward(op: Fused, ins: list[Tensor], c: Any, path: tuple[int, int], lanes: int = 1) -> list[Tensor]:
    tensor, number = (c, 0.0) if isinstance(c, Tensor) else (None, c)
    vectors, scalar, _ = evaluate(
        op, "", path, ins, op.result.count("v"), None, "s" in op.result, tensor, number, lanes
    )
    return vectors if scalar is None else [scalar]


def backward(
    op: Fused, ins: list[Tensor], grads: list[Tensor], c: Any, path: tuple[int, int], lanes: int = 1
) -> tuple[list[Tensor], float]:
    tensor, number = (c, 0.0) if isinstance(c, Tensor) else (None, c)
    given = grads[0] if "s" in op.result else None
    every = ins if given is not None else [*ins, *grads]
    vectors, _, slope = evaluate(op, "_back", path, every, op.vectors, given, False, tensor, number, lanes)
    return vectors, slope


def reference(op: Fused, ins: list[Tensor], c: Any) -> list[Tensor]:
    results = op.reference(*ins, *((c,) if op.curved else ()))
    return list(results) if isinstance(results, tuple) else [results]


def reference_back(op: Fused, ins: list[Tensor], grads: list[Tensor], c: Any) -> tuple[list[Tensor], float]:
    leaves = [t.clone().requires_grad_() for t in ins]
    curvature = torch.tensor(float(c), dtype=ins[0].dtype, requires_grad=op.curved)
    results = reference(op, leaves, curvature)
    wanted = [*leaves, curvature] if op.curved else leaves
    found = torch.autograd.grad(results, wanted, grads, allow_unused=True, materialize_grads=True)
    return list(found[: len(ins)]), float(found[-1]) if op.curved else 0.0


def units(found: Tensor, wanted: Tensor) -> Tensor:
    """Errors in rounding units of the largest entry of a row."""
    scale = wanted.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(wanted.dtype).tiny)
    return ((found.double() - wanted.double()).abs() / scale / torch.finfo(found.dtype).eps).amax(-1)


def near(found: Tensor, wanted: Tensor) -> bool:
    """Whether all entries are within 64 roundings of the largest, or of 1: what terms that cancel leave of them."""
    bound = 64.0 * torch.finfo(found.dtype).eps * max(1.0, float(wanted.detach().abs().amax()))
    return float((found - wanted).detach().abs().amax()) <= bound


# -- arguments -----------------------------------------------------------------------------------------------------


def unit_vectors(rows: int, size: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, size, dtype=DOUBLE), dim=-1)


def point(module: str, rows: int, size: int, c: float, far: bool) -> Tensor:
    """Points at moderate distances from the origin, or far out: in the ball at up to 1e-6 from the edge."""
    if module == "sphere":
        return unit_vectors(rows, size)
    if module == "ball":
        r = 1.0 - 10.0 ** (-1.0 - 5.0 * torch.rand(rows, 1, dtype=DOUBLE))
        return unit_vectors(rows, size) * (r if far else 0.95 * torch.rand(rows, 1, dtype=DOUBLE)) / c**0.5
    r = 3.0 * torch.rand(rows, 1, dtype=DOUBLE) + (4.0 if far else 0.0)
    return hyperboloid.point(unit_vectors(rows, size - 1) * torch.sinh(r) / c**0.5, c)


def tangent(module: str, x: Tensor, c: float) -> Tensor:
    u = torch.randn(x.shape, dtype=DOUBLE)
    if module == "sphere":
        return spherical.project_tangent(x, u)
    if module == "ball":
        return 0.5 * gyrovector.gap(x, c) * u
    return hyperboloid.transport.reference(hyperboloid.point(0.0 * x[:, 1:], c), x, 0.3 * u, c)


def arguments(op: Fused, dtype: torch.dtype, c: float, far: bool = False, rows: int = 200) -> list[Tensor]:
    size = 16 if dtype == SINGLE else 8
    x, y = (point(op.module, rows, size, c, far) for _ in range(2))
    u = tangent(op.module, x, c)
    if op.__name__ == "expmap_transport":
        found = [x, u, tangent(op.module, x, c)]
    elif op.__name__.startswith("expmap0"):
        found = [u]
    elif "expmap" in op.__name__:
        found = [x, u]
    else:
        found = [x, y, u][: op.vectors]
    return [t.to(dtype).contiguous() for t in found]


def curvatures(op: Fused, dtype: torch.dtype) -> list[Tensor]:
    return [torch.tensor(c, dtype=dtype) for c in ((1.0, 0.37) if op.curved else (1.0,))]


def both(op: Fused, ins: list[Tensor], c: Any, path: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
    """Values and gradients by the kernel and by the reference, for one random upstream gradient."""
    results = reference(op, ins, c)
    grads = [torch.randn_like(r) for r in results]
    found, slope = backward(op, ins, grads, c, path)
    wanted, wanted_slope = reference_back(op, ins, grads, c)
    slopes = [torch.tensor([[s]], dtype=ins[0].dtype) for s in (slope, wanted_slope)]
    return [*forward(op, ins, c, path), *found, slopes[0]], [*results, *wanted, slopes[1]]


# -- values and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_float32_is_as_near_to_the_truth_as_the_reference(module: str, name: str, far: bool) -> None:
    op = operation(module, name)
    for c in curvatures(op, SINGLE):
        ins = arguments(op, SINGLE, float(c), far)
        results = reference(op, ins, c)
        grads = [torch.randn_like(r) for r in results]
        plain = [*results, *reference_back(op, ins, grads, c)[0]]
        wide = [t.double() for t in ins]
        true = [*reference(op, wide, c.double())]
        gradients, slope = reference_back(op, wide, [g.double() for g in grads], c.double())
        true += gradients
        for path in PATHS[SINGLE]:
            back, found_slope = backward(op, ins, grads, c, path)
            for found, p, t in zip([*forward(op, ins, c, path), *back], plain, true, strict=True):
                # Eight roundings are what the longest of the formulas makes; more where the row is ill-conditioned,
                # and then the reference is hit as well. The worst of 200 rows scatters more than nine in ten.
                ours, theirs = units(found, t), units(p, t)
                assert ours.quantile(0.9) <= 8.0 + 8.0 * theirs.quantile(0.9)
                assert ours.max() <= 8.0 + 32.0 * theirs.max()
            if op.curved and not far:
                # A sum of 200 rows with both signs: 1e-4 of it is some thousand roundings of its terms.
                assert found_slope == pytest.approx(slope, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_float64_equals_the_reference(module: str, name: str) -> None:
    op = operation(module, name)
    for c in curvatures(op, DOUBLE):
        ins = arguments(op, DOUBLE, float(c))
        for path in PATHS[DOUBLE]:
            for found, wanted in zip(*both(op, ins, c, path), strict=True):
                error = units(found, wanted)
                # Two chains of some twenty roundings. In a few rows the gradient all but cancels, in either of them.
                assert error.quantile(0.9) <= 64.0
                assert error.max() <= 1e6


def test_a_number_and_a_tensor_are_the_same_curvature() -> None:
    op = operation("ball", "logmap")
    ins = arguments(op, DOUBLE, 0.37)
    by_number, by_tensor = (forward(op, ins, c, (1, 0)) for c in (0.37, torch.tensor(0.37, dtype=DOUBLE)))
    assert torch.equal(by_number[0], by_tensor[0])


@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_a_row_that_all_share_is_that_row_repeated(module: str, name: str) -> None:
    op = operation(module, name)
    ins = arguments(op, DOUBLE, 1.0, rows=9)
    shared = [ins[0][:1].contiguous(), *ins[1:]] if op.vectors > 1 else [ins[0][:1].contiguous()]
    spread = [shared[0].expand(9, -1).contiguous(), *ins[1:]] if op.vectors > 1 else shared
    for a, b in zip(forward(op, shared, 1.0, (2, 4)), forward(op, spread, 1.0, (2, 4)), strict=True):
        assert torch.equal(a, b)
    grads = [torch.randn_like(r)[:1].contiguous() for r in reference(op, spread, 1.0)]
    rows = spread[0].shape[0]
    many = [g.expand(rows, -1).contiguous() for g in grads]
    for a, b in zip(
        backward(op, spread, grads, 1.0, (2, 4))[0], backward(op, spread, many, 1.0, (2, 4))[0], strict=True
    ):
        assert torch.equal(a, b)


# -- edges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.37, 1.0, 30.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["expmap_inside", "expmap0_inside", "mobius_add_inside", "project"])
def test_results_past_the_edge_of_the_ball_are_pulled_inside(name: str, dtype: torch.dtype, c: float) -> None:
    op, size = operation("ball", name), 16 if dtype == SINGLE else 8
    curvature = torch.tensor(c, dtype=dtype)
    half = (0.5 * unit_vectors(64, size) / c**0.5).to(dtype)
    long = (100.0 * unit_vectors(64, size) / c**0.5).to(dtype)
    edge = (unit_vectors(64, size) * (1.0 - torch.finfo(dtype).eps) / c**0.5).to(dtype)
    ins = {"expmap_inside": [half, long], "mobius_add_inside": [edge, half]}.get(name, [long])
    found, wanted = both(op, ins, curvature, PATHS[dtype][1])
    reach = float(curvature) * found[0].double().square().sum(-1)
    assert bool((reach < 1.0).all())
    # The pull is one constant in both; its direction is the unpulled result's.
    assert units(found[0], wanted[0]).max() <= 8.0
    # The gradient of a direction; next to nothing is left of the Möbius sum's by its second argument.
    assert units(found[1], wanted[1]).quantile(0.5) <= 16.0
    assert all(bool(torch.isfinite(t).all()) for t in found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1.0, 15.0, 1e6])
@pytest.mark.parametrize("name", ["expmap", "expmap0"])
def test_results_past_the_cap_of_the_hyperboloid_are_scaled_back(name: str, length: float, dtype: torch.dtype) -> None:
    op, size = operation("lorentz", name), 16 if dtype == SINGLE else 8
    for c in (0.37, 30.0):
        curvature = torch.tensor(c, dtype=dtype)
        x = point("lorentz", 64, size, c, False)
        u = length * tangent("lorentz", x, c)
        ins = [t.to(dtype) for t in ([x, u] if name == "expmap" else [u])]
        found, wanted = both(op, ins, curvature, PATHS[dtype][1])
        for f, w in zip(found[:-1], wanted[:-1], strict=True):
            assert bool(torch.isfinite(f).all())
            # exp(r) of r up to 70 turns the roundings of r^2 into r/2 times as many, in the gradient twice over.
            assert units(f, w).quantile(0.9) <= 1024.0
        space = found[0][:, 1:].double() * c**0.5 * torch.finfo(dtype).eps
        assert float(space.square().sum(-1).max()) <= 1.0 + 16.0 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_coincident_points(module: str, name: str, dtype: torch.dtype) -> None:
    op = operation(module, name)
    ins = arguments(op, dtype, 1.0, rows=40)
    ins[1] = ins[0].clone()
    found, wanted = both(op, ins, torch.tensor(1.0, dtype=dtype), PATHS[dtype][1])
    assert all(bool(torch.isfinite(t).all()) for t in found)
    if name in ("dist", "dist2", "logmap"):
        assert not found[0].any()
    for f, w in zip(found, wanted, strict=True):
        assert near(f, w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["dist", "dist2", "logmap", "transport"])
def test_antipodal_points_of_the_sphere(name: str, dtype: torch.dtype) -> None:
    op = operation("sphere", name)
    ins = arguments(op, dtype, 1.0, rows=40)
    ins[1] = -ins[0]
    found, wanted = both(op, ins, 1.0, PATHS[dtype][1])
    for f, w in zip(found, wanted, strict=True):
        assert near(f, w)  # one fixed great circle in both


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("module", "name"), [o for o in OPERATIONS if "expmap" in o[1]])
def test_zero_vectors_stay(module: str, name: str, dtype: torch.dtype) -> None:
    op = operation(module, name)
    ins = arguments(op, dtype, 1.0, rows=40)
    at = 0 if "expmap0" in name else 1
    ins[at] = torch.zeros_like(ins[at])
    found, wanted = both(op, ins, torch.tensor(1.0, dtype=dtype), PATHS[dtype][1])
    if module == "ball":
        assert torch.equal(found[0], ins[0])  # exactly
    for f, w in zip(found, wanted, strict=True):
        assert near(f, w)


def test_the_zero_vector_goes_to_the_pole_of_the_sphere() -> None:
    op, x = operation("sphere", "project"), torch.zeros(3, 8, dtype=DOUBLE)
    found, wanted = both(op, [x], 1.0, (2, 4))
    assert torch.equal(found[0], wanted[0])
    assert not found[1].any()


def test_a_point_on_the_edge_has_no_derivative_by_its_gap() -> None:
    """g is at its floor there: the reference clamps it, and so its gradient does not see it."""
    op = operation("ball", "dist")
    x, y = torch.zeros(2, 1, 8, dtype=DOUBLE)
    x[0, 0], y[0, 1] = 1.0, 0.25
    found, wanted = both(op, [x, y], torch.tensor(1.0, dtype=DOUBLE), (2, 4))
    for f, w in zip(found, wanted, strict=True):
        assert units(f, w).max() <= 8.0


# -- lanes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ball", "expmap_inside"),
        ("ball", "transport"),
        ("lorentz", "logmap"),
        ("sphere", "logmap"),
        ("sphere", "transport"),
    ],
)
@pytest.mark.parametrize(("width", "size"), [(1, 5), (1, 33), (4, 16), (4, 24), (4, 132)])
def test_lanes_of_a_warp_share_rows(module: str, name: str, width: int, size: int) -> None:
    """Rows are split over lanes, sums exchanged, votes taken by a whole warp, and odd rows left over."""
    op, c, rows = operation(module, name), torch.tensor(1.0), 21
    x, y = (point(module, rows, size, 1.0, False) for _ in range(2))
    u = tangent(module, x, 1.0)
    if module == "sphere":
        y[::4] = -x[::4]  # a few rows of a warp take the way of antipodal points
    if name == "expmap_inside":
        u[::3] *= 1e3
    ins = [t.to(SINGLE).contiguous() for t in ([x, u] if "expmap" in name else [x, y, u][: op.vectors])]
    _, _, lanes = run.plan(size, width, True)
    assert lanes == {5: 4, 33: 16, 16: 2, 24: 4, 132: 16}[size]
    grads = [torch.randn_like(r) for r in reference(op, ins, c)]
    held = (1, 0) if width == 1 else (4, 4)
    one, many = forward(op, ins, c, (1, 0)), forward(op, ins, c, held, lanes)
    back, slope = backward(op, ins, grads, c, (1, 0))
    spread, total = backward(op, ins, grads, c, held, lanes)
    for a, b in zip([*one, *back], [*many, *spread], strict=True):
        # Only the order of the sums differs.
        assert units(b, a).quantile(0.75) <= 32.0
        assert bool(torch.isfinite(b).all())
    assert total == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("widest", [2, 4])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_plan_covers_every_number_of_a_row(widest: int, aligned: bool) -> None:
    for size in [*range(1, 300), 512, 1000, 4096]:
        width, held, lanes = run.plan(size, widest, aligned)
        assert size % width == 0
        assert width == 1 or (aligned and widest % width == 0)
        assert width == widest or not aligned or size % (2 * width) > 0
        assert lanes in (1, 2, 4, 8, 16, 32)
        assert held == 0 or width * held * lanes >= size
        assert held > 0 or width * 4 * lanes < size


# -- through the operators, as on a device --------------------------------------------------------------------------


def launch_on_host(source: str, line: str, symbol: str, like: Tensor, grid: Any, threads: int, arguments: Any) -> None:
    """Call the host's build of a kernel with what `run.rows` hands to a device."""
    ins, given, repeated, outs = arguments[:5], arguments[5], arguments[6], arguments[7:10]
    scalar, slope, c, k, count, size, lanes = arguments[10:]
    function = getattr(library(source, like.dtype), symbol)
    function.restype = ctypes.c_double
    found = function(
        (ctypes.c_void_p * 5)(*(None if t is None else t.data_ptr() for t in ins)),
        address(given),
        ctypes.c_uint(int(repeated)),
        (ctypes.c_void_p * 3)(*(None if t is None else t.data_ptr() for t in outs)),
        address(scalar),
        address(c),
        ctypes.c_double(float(k)),
        ctypes.c_longlong(int(count)),
        ctypes.c_int(int(size)),
        ctypes.c_int(int(lanes)),
    )
    if slope is not None:
        slope.zero_()[0] = found


@pytest.mark.parametrize("shapes", [((2, 3, 8),) * 3, ((8,), (2, 3, 8), (3, 8)), ((3, 1, 8), (1, 2, 8), (2, 8))])
@pytest.mark.parametrize(("module", "name"), OPERATIONS)
def test_batches_of_several_dimensions_and_shared_rows(
    module: str, name: str, shapes: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of the batch is written, and what broadcasts is summed, through the public operation."""
    monkeypatch.setattr(operators, "runner", lambda cuda: run)
    monkeypatch.setattr(run, "launch", launch_on_host)
    monkeypatch.setattr(run, "plan", lambda size, most, aligned: (1, 0, 1))
    monkeypatch.setattr(run, "most_blocks", lambda device: 8)
    op = operation(module, name)
    whole = arguments(op, DOUBLE, 0.7, rows=6)
    leaves = [
        t.flatten()[: torch.Size(shape).numel()].view(shape).clone().requires_grad_()
        for t, shape in zip(whole, shapes, strict=False)
    ]
    curvature = (torch.tensor(0.7, dtype=DOUBLE, requires_grad=True),) if op.curved else ()
    found = op(*leaves, *curvature)
    wanted = op.reference(*leaves, *curvature)
    found, wanted = ([t] if isinstance(t, Tensor) else list(t) for t in (found, wanted))
    weights = [torch.linspace(-1.0, 1.0, t.numel(), dtype=DOUBLE).view_as(t) for t in wanted]
    slopes, true = (torch.autograd.grad(t, [*leaves, *curvature], weights) for t in (found, wanted))
    for one, other in zip([*found, *slopes], [*wanted, *true], strict=True):
        assert one.shape == other.shape
        assert near(one, other)

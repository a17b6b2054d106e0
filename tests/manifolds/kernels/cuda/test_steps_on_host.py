"""The CUDA optimizer steps, compiled by a C++ compiler and held to the kernels of the CPU. Needs no GPU."""

import ctypes
import math
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from holonomy.manifolds import gyrovector, hyperboloid, spherical
from holonomy.manifolds.kernels import steps as cpu
from holonomy.manifolds.kernels.cuda import module, run, steps

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

DTYPES = [torch.float32, torch.float64]
HEADERS = Path(run.__file__).parent
HOST = Path(__file__).parent / "host.cpp"


@cache
def library() -> ctypes.CDLL:
    entries = [
        steps.entry(kind, dtype, width, held)[1]
        for kind in steps.KINDS
        for dtype in DTYPES
        for width, held in sorted({run.plan(size, run.widest(dtype), True)[:2] for size in range(1, 40)})
    ]
    folder = Path(mkdtemp(prefix="holonomy-cuda-host-"))
    (folder / "host.cpp").write_text("\n".join([HOST.read_text(), *entries]))
    command = ["g++", "-std=c++17", "-shared", "-fPIC", f"-I{HEADERS}", "host.cpp", "-o", "host.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = ctypes.CDLL(str(folder / "host.so"))
    shutil.rmtree(folder)
    return loaded


def step(
    kind: str,
    c: float,
    x: Tensor,
    grad: Tensor,
    state: list[Tensor | None],
    numbers: dict[str, float],
    index: Tensor | None = None,
) -> None:
    """Call a kernel as `steps.step` does."""
    rows, size = grad.shape
    width, held, lanes = run.plan(size, run.widest(x.dtype), True)
    function = getattr(library(), steps.entry(kind, x.dtype, width, held)[0])
    function.restype = None
    tensors = [x, grad, *state, index]
    function(
        *(ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors),
        ctypes.c_double(c),
        (ctypes.c_double * len(steps.NUMBERS))(*(numbers[name] for name in steps.NUMBERS)),
        ctypes.c_longlong(rows),
        ctypes.c_int(size),
        ctypes.c_int(lanes),
    )


def table(kind: str, rows: int, size: int, c: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Points, Euclidean gradients, and a moment."""
    x, g, m = (torch.randn(rows, size, dtype=torch.float64) for _ in range(3))
    if kind == "ball":
        # Up to g = 0.3: in float64 g itself carries 1/g roundings, and the transport of m multiplies by it.
        x = gyrovector.expmap0.reference(0.3 * x / x.abs().amax() / c**0.5, c)
    elif kind == "lorentz":
        x = hyperboloid.project.reference(x / c**0.5, c)
        m = hyperboloid.lift(x[:, 1:], m[:, 1:], c)
    else:
        x = spherical.project.reference(x)
        m = spherical.project_tangent(x, m)
    return x.to(dtype), g.to(dtype), m.to(dtype)


def assert_near(found: Tensor, wanted: Tensor) -> None:
    # Both make the same chain of some fifty roundings; in another order, and with other series for tanh and the like.
    scale = wanted.abs().amax(-1, keepdim=True).clamp_min(1e-3)
    assert float(((found - wanted).abs() / scale).amax()) <= 2048.0 * torch.finfo(found.dtype).eps


@pytest.mark.parametrize("size", [5, 16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(steps.KINDS))
def test_adam_equals_the_cpu(kind: str, dtype: torch.dtype, size: int) -> None:
    c = 1.0 if kind == "sphere" else 0.7
    x, g, m = table(kind, 21, size, c, dtype)
    v = torch.rand(21, 1, dtype=dtype)
    for amsgrad, decoupled, coupled in ((False, 0.0, 0.0), (True, 0.1, 0.0), (False, 0.0, 0.1)):
        ours = [t.clone() for t in (x, m, v)]
        theirs = [t.clone() for t in (x, m, v)]
        most = [v * 1.2 for _ in range(2)] if amsgrad else [None, None]
        beta1, beta2, lr, number = 0.9, 0.99, 0.1, 3.0
        numbers = {
            "sign": 1.0,
            "coupled": coupled,
            "decoupled": lr * decoupled,
            "keep": beta1,
            "take": 1.0 - beta1,
            "rate": lr / math.expm1(number * math.log(beta1)),
            "direct": 0.0,
            "beta2": beta2,
            "correction2": -math.expm1(number * math.log(beta2)),
            "eps": 1e-8,
        }
        step(kind, c, ours[0], g, [ours[1], ours[2], most[0]], numbers)
        rule = {"step": number, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": 1e-8}
        cpu.adam_step(
            kind, c, theirs[0], g, theirs[1], theirs[2], most[1], coupled=coupled, decoupled=decoupled, **rule
        )
        for a, b, before in zip(ours, theirs, (x, m, v), strict=True):
            assert not torch.equal(a, before)
            assert_near(a, b)
        if amsgrad:
            assert_near(most[0], most[1])


@pytest.mark.parametrize("lr", [0.1, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(steps.KINDS))
def test_sgd_equals_the_cpu(kind: str, dtype: torch.dtype, lr: float) -> None:
    """Also with steps that lead past the edge of the dtype."""
    c = 1.0 if kind == "sphere" else 0.7
    if lr > 1.0 and kind == "sphere":
        lr = 3.0  # a thousand turns have no digits left
    x, g, m = table(kind, 21, 16, c, dtype)
    for momentum in (0.0, 0.9):
        ours, theirs = x.clone(), x.clone()
        buffers = [m.clone(), m.clone()] if momentum else [None, None]
        numbers = dict.fromkeys(steps.NUMBERS, 0.0)
        numbers |= {"sign": -1.0, "keep": momentum, "take": 1.0, "correction2": 1.0}
        numbers |= {"rate": -lr, "direct": 0.0 if momentum else -lr}
        step(kind, c, ours, g, [buffers[0], None, None], numbers)
        cpu.sgd_step(kind, c, theirs, g, buffers[1], lr=lr, momentum=momentum, maximize=True)
        assert bool(torch.isfinite(ours).all())
        assert_near(ours, theirs)
        if momentum and lr < 1.0:
            assert_near(buffers[0], buffers[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(steps.KINDS))
def test_rows_of_an_index_are_stepped_and_no_others(kind: str, dtype: torch.dtype) -> None:
    x, g, m = table(kind, 21, 16, 1.0, dtype)
    v, index = torch.rand(21, 1, dtype=dtype), torch.tensor([20, 3, 7, 0, 11])
    numbers = dict.fromkeys(steps.NUMBERS, 0.0)
    numbers |= {"sign": 1.0, "keep": 0.9, "take": 0.1, "rate": -0.1, "beta2": 0.99, "correction2": 0.01, "eps": 1e-8}
    numbers |= {"decoupled": 0.0 if kind == "sphere" else 0.01}
    some, every = [[t.clone() for t in (x, m, v)] for _ in range(2)]
    step(kind, 1.0, some[0], g[index], [some[1], some[2], None], numbers, index)
    step(kind, 1.0, every[0], g, [every[1], every[2], None], numbers)
    for found, dense, before in zip(some, every, (x, m, v), strict=True):
        assert torch.equal(found[index], dense[index])
        before[index] = dense[index]
        assert torch.equal(found, before)


def test_steps_of_tensors_on_cuda_are_launched_with_what_the_kernel_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(steps, "launch", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(steps, "most_blocks", lambda device: 8)
    monkeypatch.setattr(cpu, "_run_on_cpu", cpu._run_on_cuda)
    x, v = torch.zeros(6, 2, 8), torch.zeros(6, 2, 1)
    rule = {"step": 1.0, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    cpu.adam_step("ball", 0.7, x, x, x.clone(), v, v.clone(), **rule)
    cpu.adam_step("ball", 0.7, x, x[:2], x.clone(), v, None, torch.tensor([4, 1]), **rule)
    cpu.sgd_step("ball", 0.7, x, x, lr=0.1)
    text = module.source("steps")
    count = len(re.search(r"FN void steps\((.*?)\) \{", text, re.DOTALL)[1].split(","))  # type: ignore[index]
    dense, sparse, plain = (call[6] for call in calls)
    assert all(len(arguments) == count for arguments in (dense, sparse, plain))  # type: ignore[arg-type]
    assert dense[0] is x  # type: ignore[index]
    assert dense[5] is None  # type: ignore[index]
    assert dense[-3:] == [12, 8, 1]  # type: ignore[index]
    assert sparse[4] is None  # type: ignore[index]
    assert sparse[5].tolist() == [8, 9, 2, 3]  # type: ignore[index]
    assert sparse[-3] == 4  # type: ignore[index]
    assert plain[2:6] == [None] * 4  # type: ignore[index]


def test_what_keeps_a_tensor_on_cuda_from_a_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        short, long = torch.empty(2, 16, device="cuda"), torch.empty(2, 1028, device="cuda")
        monkeypatch.setattr(cpu.dispatch, "_why_not", lambda device: f"none for {device}")
        assert cpu.obstacle(short) == "none for cuda"
        assert cpu.obstacle(long) == "its points have 1028 numbers, more than the 512 that CUDA's registers hold"
        assert "kernels run on the CPU and on CUDA" in str(cpu.obstacle(torch.empty(2, 2, device="meta")))


def test_rows_longer_than_the_registers_are_refused() -> None:
    assert steps.longest(torch.zeros(2, 16)) == 512
    assert steps.longest(torch.zeros(2, 5)) == 128
    table = torch.zeros(33)
    assert steps.longest(table[1:].view(2, 16)) == 128  # whose rows do not begin where a load may
    assert steps.longest(torch.zeros(2, 16), table[1:].view(2, 16)) == 128
    x = torch.zeros(2, 1028)
    with pytest.raises(ValueError, match=r"rows have 1028 numbers, wanted at most 512"):
        steps.step("ball", 1.0, x, x, None, None, None, dict.fromkeys(steps.NUMBERS, 0.0))

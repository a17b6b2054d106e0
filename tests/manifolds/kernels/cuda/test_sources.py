"""The CUDA sources, compiled without a GPU: by nvcc to PTX, and by NVRTC, as CuPy does it, where it is found."""

import ctypes
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from holonomy.manifolds.kernels.cuda import module, run, steps

FOLDER = Path(module.__file__).parent
SOURCES = sorted(path.stem for path in FOLDER.glob("*.cu"))
DTYPES = [torch.float32, torch.float64]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


#: Sources whose kernels have all their paths in one list: `entries` of the module of that name.
BLOCKS = ["bases", "hadamard", "orthonormal", "pairs", "recurrence", "simplex", "sinkhorn", "sketch"]


def entries(name: str, dtype: torch.dtype, paths: list[tuple[int, int]]) -> dict[str, str]:
    """Names of a source's kernels and the lines that instantiate them."""
    if name in BLOCKS:
        found: dict[str, str] = importlib.import_module(f"holonomy.manifolds.kernels.cuda.{name}").entries(dtype)
        return found
    if name == "steps":
        return dict(steps.entry(kind, dtype, width, held) for kind in steps.KINDS for width, held in paths if held > 0)
    return dict(
        run.entry(name, operation + suffix, dtype, width, held)
        for operation in run.KERNELS[name]
        for suffix in ("", "_back")
        for width, held in paths
    )


def compile_to_ptx(text: str, folder: Path, architecture: str) -> str:
    (folder / "source.cu").write_text(text)
    command = ["nvcc", *module.OPTIONS, "-ftz=true", "-ptx", f"-arch={architecture}", "source.cu", "-o", "source.ptx"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "warning" not in done.stderr, done.stderr[-4000:]
    return (folder / "source.ptx").read_text()


def kernels_of(ptx: str) -> set[str]:
    return set(re.findall(r"\.entry (\w+)\(", ptx))


@needs_nvcc
@pytest.mark.parametrize(("dtype", "architecture"), [(torch.float32, "sm_80"), (torch.float64, "sm_90")])
@pytest.mark.parametrize("name", SOURCES)
def test_nvcc_makes_every_kernel(name: str, dtype: torch.dtype, architecture: str, tmp_path: Path) -> None:
    wanted = entries(name, dtype, [(run.widest(dtype), 1)])
    assert kernels_of(compile_to_ptx(module.source(name, "\n".join(wanted.values())), tmp_path, architecture)) == set(
        wanted
    )


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted({*SOURCES} - {*BLOCKS}))
def test_nvcc_makes_every_kernel_in_every_width(
    name: str, dtype: torch.dtype, architecture: str, tmp_path: Path
) -> None:
    wanted = entries(name, dtype, [(w, h) for w in (1, run.widest(dtype)) for h in (0, 1, 2, 4)])
    assert kernels_of(compile_to_ptx(module.source(name, "\n".join(wanted.values())), tmp_path, architecture)) == set(
        wanted
    )


@needs_nvcc
def test_float32_kernels_of_the_hyperboloid_and_the_sphere_do_not_compute_in_float64(tmp_path: Path) -> None:
    """float64 is what the ball's g needs; elsewhere it would be a mistake that costs up to 64 times the time."""
    for name, operation in (("lorentz", "expmap"), ("sphere", "logmap")):
        symbol, line = run.entry(name, operation, torch.float32, 4, 1)
        ptx = compile_to_ptx(module.source(name, line), tmp_path, "sm_90")
        assert symbol in ptx
        # The reduction of the angle of a sine of a large number is CUDA's own, and the slope's sum is one a row.
        body = ptx[ptx.index(".entry") :]
        assert not re.findall(r"(?:mul|fma\.rn|sqrt\.rn|div\.rn)\.f64", body)


def test_every_source_has_kernels() -> None:
    assert set(SOURCES) == {*run.KERNELS, *BLOCKS, "steps"}


def test_every_kernel_has_a_forward_and_a_backward_map() -> None:
    for name, operations in run.KERNELS.items():
        text = module.source(name)
        for operation in operations:
            for suffix in ("", "_back"):
                assert f"struct {name}_{operation}{suffix} " in text


def test_sources_paste_each_header_once_and_include_nothing_that_nvrtc_lacks() -> None:
    """NVRTC has no headers of the C++ library: whatever is left is for the C++ compiler."""
    for name in SOURCES:
        text = module.source(name)
        assert '#include "' not in text
        guarded = re.sub(r"#ifdef __CUDACC__.*?#else.*?#endif", "", text, count=1, flags=re.DOTALL)
        assert "#include" not in guarded
        assert text.count("template <class T> struct Real;") <= 1


def nvrtc() -> ctypes.CDLL | None:
    """NVRTC's library, installed by pip or by the system."""
    found = [Path(p) / "nvidia" for p in sys.path]
    candidates = [str(f) for root in found for f in sorted(root.glob("*/lib/libnvrtc.so.*"))]
    system = find_library("nvrtc")
    for candidate in [*candidates, *([system] if system else [])]:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("name", SOURCES)
def test_nvrtc_compiles_the_pasted_source(name: str) -> None:
    library = nvrtc()
    if library is None:
        pytest.skip("needs NVRTC's library")
    wanted = entries(name, torch.float32, [(4, 1)])
    program = ctypes.c_void_p()
    text = module.source(name, "\n".join(wanted.values())).encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"source.cu", 0, None, None) == 0
    options = [*module.OPTIONS, "-ftz=true", "--gpu-architecture=sm_90"]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * 3)(*(o.encode() for o in options)))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()[-4000:]
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    assert kernels_of(ptx.value.decode()) == set(wanted)
    library.nvrtcDestroyProgram(ctypes.byref(program))


# -- what can be said of the launches without a device -------------------------------------------------------------


def test_a_capture_before_the_first_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"ball_dist_float_4_1 is not compiled yet.*before the capture"):
        module._function("ball", *reversed(run.entry("ball", "dist", torch.float32, 4, 1)), 0)


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="needs CuPy to be missing")
def test_a_missing_cupy_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"CuPy cannot be imported.*kernels\.use\('reference'\)"):
        module._cupy()


def test_an_operation_without_a_kernel_goes_to_the_reference() -> None:
    other = Mock(module="ball", result="v", vectors=1)
    other.__name__ = "unheard_of"
    x = torch.zeros(3, 2)
    assert torch.equal(run.forward(other, [x], [x], None, 1.0), torch.arange(3))
    hard, slope = run.backward(other, [x], [x], [x], torch.tensor(1.0), 0.0)
    assert torch.equal(hard, torch.arange(3))
    assert slope == 0.0


def test_a_launch_hands_over_what_the_kernel_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(run, "launch", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(run, "most_blocks", lambda device: 8)
    operation = Mock(module="ball", result="s", vectors=2)
    operation.__name__ = "dist"
    x, y, g, c = torch.zeros(1, 16), torch.zeros(5, 16), torch.zeros(5, 1), torch.tensor(1.0)
    outs = [torch.zeros(5, 16), torch.zeros(5, 16)]
    hard, slope = run.backward(operation, [g], [x, y], outs, c, 0.0)
    assert hard is None
    assert slope is not None
    assert slope.dtype == c.dtype
    name, line, symbol, _, grid, threads, arguments = calls[0]
    assert (name, symbol, grid, threads) == ("ball", "ball_dist_back_float_4_2", (1,), 256)
    assert line == "HOLONOMY_ROWS(ball_dist_back_float_4_2, ball_dist_back, float, 4, 2)"
    entry = module.source("ball")
    count = len(re.search(r"FN void rows\((.*?)\) \{", entry, re.DOTALL)[1].split(","))  # type: ignore[index]
    assert len(arguments) == count
    tensors = [*arguments[:6], arguments[7]]
    wanted = [x, y, None, None, None, g, outs[0]]
    assert [t is not None and t.data_ptr() for t in tensors] == [t is not None and t.data_ptr() for t in wanted]
    assert arguments[6] == 0b001
    assert arguments[12] is c
    assert arguments[14:] == [5, 16, 2]

"""A host in place of a device: kernels of blocks, compiled by a C++ compiler, take what the library launches."""

import ctypes
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holonomy.manifolds.kernels.cuda import module, run

BLOCKS = Path(__file__).parent / "blocks.cpp"
#: Orders in which threads take their turns: each launch has another.
_orders = count(int(os.environ.get("HOLONOMY_ORDER", "1")))
_C = {
    np.float64: ctypes.c_double,
    np.int64: ctypes.c_longlong,
    np.int32: ctypes.c_int,
    np.uint32: ctypes.c_uint,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a compiler of another language has to make first is slow."""
    for item in items:
        if item.path.stem.endswith("_on_host") or item.name.startswith("test_nvcc"):
            item.add_marker(pytest.mark.slow)


@cache
def every_kernel(name: str) -> dict[str, str]:
    """All kernels of a source of blocks, of both dtypes, by the module of its name."""
    source = importlib.import_module(f"holonomy.manifolds.kernels.cuda.{name}")
    return {**source.entries(torch.float32), **source.entries(torch.float64)}


@cache
def library(name: str) -> ctypes.CDLL:
    """The kernels of a source on the host."""
    entries = every_kernel(name)
    folder = Path(mkdtemp(prefix="holonomy-cuda-blocks-"))
    (folder / "host.cpp").write_text("\n".join([module.source(name), BLOCKS.read_text(), *entries.values()]))
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "host.cpp", "-o", "host.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = ctypes.CDLL(str(folder / "host.so"))
    loaded.sound.restype = ctypes.c_bool
    shutil.rmtree(folder)
    return loaded


def launch(
    name: str,
    entry: str,
    symbol: str,
    like: Tensor,
    grid: Sequence[int],
    threads: int,
    arguments: Sequence[Any],
    shared: int = 0,
) -> None:
    """Do as `module.launch`, on the host."""
    assert every_kernel(name)[symbol] == entry
    assert re.search(rf"HOLONOMY_ROWS|, {threads}(, \(|\))", entry + module.source(name)), "the number of threads"
    assert shared <= 48 * 1024, "more shared memory than a block may have without asking"
    assert 0 < grid[0] < 2**31
    loaded = library(name)
    loaded.configure(ctypes.c_longlong(grid[0]), ctypes.c_longlong(shared), ctypes.c_uint(next(_orders)))
    getattr(loaded, symbol)(*map(argument, arguments))
    assert loaded.sound(), "a block wrote behind its shared memory"


def argument(value: Any) -> Any:
    if value is None or isinstance(value, Tensor):
        assert value is None or value.is_contiguous() or value.ndim > 1  # strided ones bring their strides along
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    return _C[type(value)](value.item())


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the library's launches of kernels of blocks run on the host, on tensors of the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(run, "launch", launch)
    monkeypatch.setattr(run, "most_blocks", lambda device: 8)
    return launch

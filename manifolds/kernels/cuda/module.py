"""Compiles the CUDA sources of this folder with CuPy's NVRTC, and launches what comes out on torch's current stream.

A kernel is an entry of a source ``<name>.cu``: the line that instantiates its template is appended to the source, so
that only what runs is compiled. The headers are pasted in, because CuPy's cache on disk knows a kernel by its source
text and does not look into the headers that it includes.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["OPTIONS", "launch", "source"]

#: Options of the compiler. CuPy adds the architecture and ``-ftz=true``: subnormal float32 numbers become 0.
OPTIONS = ("-std=c++17",)

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


def source(name: str, entry: str = "") -> str:
    """Text of ``<name>.cu`` with the headers of this folder pasted in, each once, and a line for an entry at its end.

    Parameters
    ----------
    name : str
        Name of the source, without its suffix.
    entry : str
        Text that instantiates kernels.
    """
    seen: set[str] = set()

    def paste(text: str) -> str:
        def header(match: re.Match[str]) -> str:
            if match[1] in seen:
                return ""
            seen.add(match[1])
            return paste((_FOLDER / match[1]).read_text(encoding="utf-8").replace("#pragma once\n", ""))

        return _INCLUDE.sub(header, text)

    return f"{paste((_FOLDER / f'{name}.cu').read_text(encoding='utf-8'))}\n{entry}\n"


@cache
def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "CUDA kernels: CuPy cannot be imported; install cupy-cuda13x or cupy-cuda12x, as torch's CUDA asks, "
            f"or choose kernels.use('reference'): {error}"
        ) from error
    return cupy


@cache
def _function(name: str, entry: str, symbol: str, device: int) -> Any:
    """Compiled kernel `symbol` of the source `name`, loaded on a device."""
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"CUDA kernels: {symbol} is not compiled yet, and loading it would break the capture of a CUDA graph; "
            "run the operation once on these shapes before the capture, as torch.cuda.graph asks for any operation"
        )
    cupy = _cupy()
    with cupy.cuda.Device(device):
        try:
            return cupy.RawModule(code=source(name, entry), options=OPTIONS, backend="nvrtc").get_function(symbol)
        except cupy.cuda.compiler.CompileException as error:
            raise RuntimeError(f"CUDA kernels: NVRTC refuses {symbol} of {name}.cu: {error}") from error


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
    """Launch a kernel on torch's current stream of the device of `like`; return without waiting for it.

    Parameters
    ----------
    name, entry, symbol : str
        Source, the text that instantiates the kernel, and its name.
    like : Tensor
        A tensor on the device.
    grid : sequence of int
        Number of blocks.
    threads : int
        Threads of a block.
    arguments : sequence
        Tensors and None go as addresses, NumPy scalars by value with their own type.
    shared : int
        Bytes of dynamic shared memory.

    Raises
    ------
    RuntimeError
        Where CuPy is missing, the compiler refuses the source, or a CUDA graph is captured before the first run.
    """
    index = like.get_device()
    # Through torch, so that its own record of the current device stays right.
    with torch.cuda.device(index):
        function = _function(name, entry, symbol, index)
        with _current_stream(index):
            function(tuple(grid), (threads,), tuple(_argument(a) for a in arguments), shared_mem=shared)


class _Borrowed:
    """A stream of torch's, by the protocol through which CuPy takes one."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def _current_stream(device: int) -> Any:
    """Torch's current stream as a stream of CuPy's."""
    address, cuda = torch.cuda.current_stream(device).cuda_stream, _cupy().cuda
    if hasattr(cuda.Stream, "from_external"):  # CuPy 14; ExternalStream is deprecated there
        return cuda.Stream.from_external(_Borrowed(address))
    return cuda.ExternalStream(address, device)


def _argument(value: Any) -> Any:
    if value is None:
        return np.uint64(0)
    return np.uint64(value.data_ptr()) if isinstance(value, Tensor) else value

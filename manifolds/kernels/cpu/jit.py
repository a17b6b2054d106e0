"""How CPU kernels are compiled, kept on disk, and spread over threads.

`kernel` compiles a function with Numba, without the interpreter's lock, and caches the machine code. `parallel` runs a
kernel on ranges of rows. It does so on Python threads of our own: Numba's parallel backends either abort after a fork
or when two threads enter them at once, and this one does neither. As many ranges run as ``torch.get_num_threads()``.
"""

import hashlib
import math
import os
import re
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.compiler import Compiler
from numba.extending import register_jitable

__all__ = ["FRAGMENT", "inline", "kernel", "parallel"]

#: Arithmetic may be contracted to fused multiply-adds and sums may be reordered; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract"}


#: How modules import from this folder.
_IMPORT = re.compile(r"^from holonomy\.manifolds\.kernels\.cpu(?:\.(\w+) import| import (.+))", re.MULTILINE)


@cache
def _source(path: Path) -> tuple[bytes, frozenset[Path]]:
    """Text of a module, and the modules of this folder that it imports."""
    text = path.read_bytes()
    names = (name for one, many in _IMPORT.findall(text.decode()) for name in re.findall(r"\w+", one or many))
    return text, frozenset(Path(__file__).parent / f"{name}.py" for name in names)


@cache
def stamp(path: Path) -> str:
    """Hash of a module's source and of those that it imports: a change makes the cached code of its kernels stale."""
    known: set[Path] = set()
    waiting = {path}
    while waiting:
        known |= waiting
        waiting = {one for p in waiting for one in _source(p)[1]} - known
    digest = hashlib.sha256(numba.__version__.encode())
    for one in sorted(known):
        digest.update(_source(one)[0])
    return digest.hexdigest()[:16]


@cache
def cache_folder() -> Path | None:
    """First folder of these that can be written: NUMBA_CACHE_DIR, the user's cache folder, a temporary one; or None."""
    given = numba.config.CACHE_DIR
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    private = os.path.join(tempfile.gettempdir(), f"holonomy-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
    for base in (given, os.path.join(home, "holonomy"), private):
        if not base:
            continue
        folder = Path(base) / "kernels"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                continue  # code that somebody else could have put there is not run
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


class _Locator(_CacheLocator):
    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._line = function.__code__.co_firstlineno
        self._py_file = file

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return stamp(Path(self._py_file))

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> "_Locator | None":
        return cls(function, file) if cache_folder() is not None else None


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 - numba reads it


class _Cache(FunctionCache):
    _impl_class = _CacheImpl


class _Fragment(Compiler):
    """Compiles a function that only kernels call: to intermediate code, which the kernel optimises as a whole.

    Numba's own way optimises and translates every function by itself, and again within each of its callers.
    """

    def define_pipelines(self) -> Any:
        state = self.state
        state.flags.no_compile = True
        state.library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
        state.library._optimize_final_module = lambda: None
        return super().define_pipelines()

    def _compile_bytecode(self) -> Any:
        result = super()._compile_bytecode()
        # Something callable by which Numba finds the function again; there is no machine code to call.
        entry: Any = [].append
        self.state.targetctx.insert_user_function(entry, result.fndesc, [result.library])
        return result._replace(entry_point=entry)


#: Options of the functions that kernels are made of.
FRAGMENT: Any = {"fastmath": _FASTMATH, "error_model": "numpy", "forceinline": True, "pipeline_class": _Fragment}


def inline(function: Callable[..., Any]) -> Any:
    """Let kernels call a function, and take it as an argument; it is compiled into each of them.

    (A compiled function of its own, passed as an argument, would keep its caller out of the cache on disk.)
    """
    return register_jitable(**FRAGMENT)(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: no interpreter lock, IEEE division, and a cache on disk where a folder can be written."""
    compiled = numba.njit(function, nogil=True, fastmath=_FASTMATH, error_model="numpy")
    if cache_folder() is not None:
        compiled._cache = _Cache(compiled.py_func)
    return compiled


# -- threads -------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _forget() -> None:
    """After a fork, in the child: the pool's threads are not there, and its lock may be held by one of them."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def executor() -> ThreadPoolExecutor:
    """The pool that kernels run on, made at first use in each process."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="holonomy")
        return _pool


def parallel(function: Callable[..., Any], rows: int, grain: int, *arguments: Any) -> None:
    """Call ``function(*arguments, low, high)`` on ranges that make up `rows`, on torch's number of threads.

    Parameters
    ----------
    function : callable
        A compiled kernel that writes its results for the rows low, ..., high - 1.
    rows : int
        Number of rows.
    grain : int
        Fewest rows that are worth a thread: about 50 microseconds of work.
    arguments
        What the kernel takes before its range.
    """
    parts = min(torch.get_num_threads(), rows // max(1, grain)) if rows > grain else 1
    if parts <= 1 or threading.current_thread().name.startswith("holonomy"):
        function(*arguments, 0, rows)
        return
    # Whole blocks of 64 rows, so that no two threads write to one cache line of per-row results.
    step = math.ceil(rows / parts / 64) * 64
    waiting = [executor().submit(function, *arguments, low, min(low + step, rows)) for low in range(step, rows, step)]
    function(*arguments, 0, min(step, rows))
    for one in waiting:
        one.result()

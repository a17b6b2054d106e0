"""How kernels are compiled, cached and spread over threads."""

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.manifolds import PoincareBall
from holonomy.manifolds.kernels.cpu import jit


def _count(out: "np.ndarray", lo: int, hi: int) -> None:
    out[lo:hi] += 1


@pytest.fixture
def two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_row_is_taken_once(rows: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = np.zeros(rows, np.int64)
        jit.parallel(_count, rows, 100, out)
    finally:
        torch.set_num_threads(before)
    assert (out == 1).all()


def test_threads_follow_torch(two_threads: None) -> None:
    seen = []

    def note(lo: int, hi: int) -> None:
        seen.append((lo, hi, threading.current_thread().name))

    jit.parallel(note, 4096, 1, *())
    assert len({name for *_, name in seen}) == 2
    torch.set_num_threads(1)
    seen.clear()
    jit.parallel(note, 4096, 1, *())
    assert [(lo, hi) for lo, hi, _ in seen] == [(0, 4096)]


def test_cached_code_goes_stale_with_what_its_module_imports_only(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(jit.__file__).parent
    before = {name: jit.stamp(folder / f"{name}.py") for name in ("lorentz", "ball", "simplex")}
    source = jit._source

    def edited(path: Path) -> tuple[bytes, frozenset[Path]]:
        text, imported = source(path)
        return (text + b"#" if path.stem == "rows" else text), imported

    monkeypatch.setattr(jit, "_source", edited)
    jit.stamp.cache_clear()
    try:
        assert [name for name in before if jit.stamp(folder / f"{name}.py") != before[name]] == ["lorentz", "ball"]
    finally:
        jit.stamp.cache_clear()


def test_an_error_in_a_range_reaches_the_caller(two_threads: None) -> None:
    def fail(lo: int, hi: int) -> None:
        if lo > 0:
            raise ZeroDivisionError("second half")

    with pytest.raises(ZeroDivisionError, match="second half"):
        jit.parallel(fail, 4096, 1, *())


def _points(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = PoincareBall().random(rows, 16, generator=generator)
    return 0.9 * x, 0.2 * torch.randn(rows, 16, generator=generator)


def test_results_do_not_depend_on_the_number_of_threads(two_threads: None) -> None:
    x, u = _points(40_000)  # more than the grain of two threads
    two = PoincareBall().expmap(x, u)
    torch.set_num_threads(1)
    assert torch.equal(PoincareBall().expmap(x, u), two)


def _in_child(x: torch.Tensor, u: torch.Tensor, queue: "multiprocessing.Queue[object]") -> None:
    # Nothing here but the kernel runs on several threads: torch's own parallel loops do not survive a fork.
    queue.put(float(PoincareBall().expmap(x, u).numpy().sum()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_kernels_run_in_a_forked_child_of_a_process_that_ran_them_in_parallel(two_threads: None) -> None:
    x, u = _points(40_000)
    here = float(PoincareBall().expmap(x, u).numpy().sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(x, u, queue))
    child.start()
    assert queue.get(timeout=120) == here  # a hang in the child would end here
    child.join(60)
    assert child.exitcode == 0


def test_kernels_run_from_several_threads_at_once(two_threads: None) -> None:
    x, u = _points(40_000)
    expected = PoincareBall().expmap(x, u)
    results: list[torch.Tensor] = []
    workers = [threading.Thread(target=lambda: results.append(PoincareBall().expmap(x, u))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


_PROGRAM = """
import json, torch
from holonomy.manifolds import PoincareBall
from holonomy.manifolds.kernels.cpu import ball, jit
y = PoincareBall().logmap0(torch.full((1, 3), 0.1))
stats = ball.logmap0.stats
print(json.dumps({"folder": str(jit.cache_folder()), "y": y.tolist(), "hits": sum(stats.cache_hits.values())}))
"""


def _fresh(environment: dict[str, str]) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_compiled_code_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    first = _fresh({"XDG_CACHE_HOME": str(tmp_path)})
    second = _fresh({"XDG_CACHE_HOME": str(tmp_path)})
    assert str(first["folder"]).startswith(str(tmp_path))
    assert (first["hits"], second["hits"]) == (0, 1)
    assert first["y"] == second["y"]


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder would have to be")
    found = _fresh({"XDG_CACHE_HOME": str(blocked), "TMPDIR": str(tmp_path)})
    assert Path(str(found["folder"])).parent.parent == tmp_path
    assert stat.S_IMODE(Path(str(found["folder"])).stat().st_mode) == 0o700

"""The CUDA kernels of pairs, optimizer steps, matrices, simplices and sequences, against the same in plain torch.

`CASES` build a call and state the least work it has to do; `records` times it with the kernels and with
``kernels.use("reference")``, in turn. Bytes are those that must be read and written, each once; operations are counted
for the pairs only, where arithmetic, not memory, is the floor.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds import (
    Grassmann,
    Lorentz,
    Manifold,
    ManifoldParameter,
    PoincareBall,
    Simplex,
    Sphere,
    Stiefel,
    kernels,
    nearest,
)
from holonomy.manifolds.kernels.bases import bspline_combine, chebyshev_combine
from holonomy.manifolds.kernels.hadamard import hadamard_transform
from holonomy.manifolds.kernels.recurrence import linear_recurrence, selective_scan
from holonomy.manifolds.kernels.simplex import project_simplex
from holonomy.manifolds.kernels.sinkhorn import sinkhorn
from holonomy.manifolds.kernels.sketch import count_sketch, hash_embedding
from holonomy.manifolds.kernels.subspace_logits import subspace_logits
from holonomy.optim import RiemannianAdam, RiemannianSGD

__all__ = ["CASES", "Case", "records"]

_FLOAT = 4  # bytes
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the table: what to run, and the least work there is."""

    name: str
    build: Callable[[], Call]
    bytes_moved: float
    flops: float = 0.0


def _randn(*size: int) -> Tensor:
    return torch.randn(size, device="cuda")


def _points(manifold: Manifold, *size: int) -> Tensor:
    return manifold.random(*size, device="cuda")


def _pulled(function: Callable[..., Tensor], *inputs: Tensor) -> Call:
    """Forward and backward pass."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    wanted = [t for t in leaves if t.requires_grad]
    weight = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*leaves), wanted, weight)


def _step(optimizer: Any, manifold: Manifold, rows: int, size: int) -> Call:
    point = ManifoldParameter(_points(manifold, rows, size), manifold)
    point.grad = 1e-3 * _randn(rows, size)
    step: Call = optimizer([point], lr=1e-3).step
    return step


def _pairs(manifold: Manifold, n: int, size: int, backward: bool) -> Call:
    x, y = _points(manifold, n, size), _points(manifold, n, size)
    return _pulled(manifold.cdist, x, y) if backward else lambda: manifold.cdist(x, y)


def _neighbours(manifold: Manifold, points: Tensor) -> Call:
    return lambda: nearest(manifold, points, points, 10, exclude_self=True)


def _pair_cases(n: int = 8192, size: int = 16) -> list[Case]:
    cases = []
    for manifold in (PoincareBall(), Sphere(), Lorentz()):
        for backward in (False, True):
            # A difference, a product and a sum for each coordinate of each pair, and as many again for each gradient.
            work, moved = n * n * size * 3.0, n * n * _FLOAT * (2.0 if backward else 1.0)
            label = f"{manifold.name} distances {n} x {n}, d = {size}, {'forward+backward' if backward else 'forward'}"
            cases.append(
                Case(label, lambda m=manifold, b=backward: _pairs(m, n, size, b), moved, (3 if backward else 1) * work)
            )
    x = 2 * n * size * _FLOAT
    ball = PoincareBall()
    cases.append(
        Case(
            f"Poincaré ball, 10 nearest of {n} x {n}, d = {size}",
            lambda: _neighbours(ball, _points(ball, n, size)),
            x + n * 10 * 12,
            n * n * size * 3.0,
        )
    )
    return cases


def _step_cases(rows: int = 10_000_000, size: int = 16) -> list[Case]:
    # Points, momentum and the gradient are read, points and momentum written; Adam's second moment is one of a row.
    cases = []
    for manifold in (PoincareBall(), Sphere(), Lorentz()):
        for name, optimizer, moved in (
            ("Adam", RiemannianAdam, 5 * size + 2),
            ("SGD", RiemannianSGD, 3 * size),
        ):
            cases.append(
                Case(
                    f"{name} step, {manifold.name} {rows} x {size}",
                    lambda o=optimizer, m=manifold: _step(o, m, rows, size),
                    moved * rows * _FLOAT,
                )
            )
    return cases


def _simplex_cases(rows: int = 10_000_000, size: int = 16) -> list[Case]:
    simplex = Simplex()
    vector = rows * size * _FLOAT

    def logmap() -> Call:
        x, y = _points(simplex, rows, size), _points(simplex, rows, size)
        return lambda: simplex.logmap(x, y)

    def dist() -> Call:
        x, y = _points(simplex, rows, size), _points(simplex, rows, size)
        return lambda: simplex.dist(x, y)

    return [
        Case(f"simplex logmap {rows} x {size}", logmap, 3 * vector),
        Case(f"simplex dist {rows} x {size}", dist, 2 * vector + rows * _FLOAT),
        Case(
            "simplex projection 1000000 x 64",
            lambda: partial(project_simplex, _randn(1_000_000, 64)),
            2 * 64e6 * _FLOAT,
        ),
        Case(
            "Sinkhorn (64, 256, 256), epsilon 0.1",
            lambda: partial(sinkhorn, _randn(64, 256, 256).abs(), epsilon=0.1, tolerance=1e-5),
            2 * 64 * 256 * 256 * _FLOAT,
        ),
    ]


def _matrix_cases() -> list[Case]:
    shape, n = (1000, 2048, 8), 1000 * 2048 * 8 * _FLOAT
    stiefel, grassmann = Stiefel(), Grassmann()

    def retraction() -> Call:
        x = _points(stiefel, *shape)
        u = stiefel.proju(x, _randn(*shape)) / 45.0
        return lambda: stiefel.retr(x, u)

    def exponential() -> Call:
        x = _points(grassmann, *shape)
        u = grassmann.proju(x, _randn(*shape)) / 45.0
        return lambda: grassmann.expmap(x, u)

    return [
        Case("Stiefel retraction (1000, 2048, 8)", retraction, 3 * n),
        Case("Grassmann exp (1000, 2048, 8)", exponential, 3 * n),
        Case(
            "subspace logits, 64 features, 1000 subspaces (2048, 8), forward+backward",
            lambda: _pulled(subspace_logits, _randn(64, 2048), _points(grassmann, *shape)),
            3 * n,
        ),
    ]


def _sequence_cases() -> list[Case]:
    n, m = 2**26 * _FLOAT, 32 * 1024 * 1024 * _FLOAT

    def embedding() -> Call:
        table = _randn(1_000_000, 64)
        ids = torch.randint(0, 10**9, (500_000,), device="cuda")
        salts = torch.arange(2, device="cuda")
        return lambda: hash_embedding(ids, table, salts)

    def sketch() -> Call:
        index = torch.randint(0, 4096, (2**16,), device="cuda")
        sign = torch.randint(0, 2, (2**16,), device="cuda") * 2 - 1
        x = _randn(1024, 2**16)
        return lambda: count_sketch(x, index, sign, 4096)

    def scan() -> Call:
        batch, channels, time, states = 8, 1024, 2048, 16
        parts = [_randn(batch, channels, time), torch.rand(batch, channels, time, device="cuda")]
        parts += [-torch.rand(channels, states, device="cuda")]
        parts += [_randn(batch, 1, states, time), _randn(batch, 1, states, time), _randn(channels)]
        return lambda: selective_scan(*parts)

    def spline() -> Call:
        x, weights, knots = _randn(2**16, 64), _randn(64, 64, 8), torch.linspace(-2, 2, 12, device="cuda")
        return lambda: bspline_combine(x, knots, weights, 3)

    return [
        Case(
            "Hadamard transform (65536, 1024)",
            lambda: partial(hadamard_transform, _randn(2**16, 1024)),
            2 * n,
        ),
        Case("Hadamard transform (64, 2^20)", lambda: partial(hadamard_transform, _randn(64, 2**20)), 2 * n),
        Case(
            "linear recurrence (32, 1024, 1024) forward+backward",
            lambda: _pulled(linear_recurrence, _randn(32, 1024, 1024).tanh(), _randn(32, 1024, 1024)),
            8 * m,
        ),
        Case("selective scan (8, 1024, 2048), 16 states", scan, 3 * 8 * 1024 * 2048 * _FLOAT),
        Case("count sketch (1024, 65536) to 4096", sketch, (2**26 + 2**22) * _FLOAT),
        Case("hash embedding, 500000 of 64, 2 hashes", embedding, 3 * 500_000 * 64 * _FLOAT),
        Case(
            "B-spline layer (65536, 64) to 64, 8 cubic bases",
            spline,
            2 * 2**22 * _FLOAT,
            2.0 * 2**16 * 64 * 64 * 4,
        ),
        Case(
            "Chebyshev layer (65536, 64) to 64, degree 7",
            lambda: partial(chebyshev_combine, _randn(2**16, 64).tanh(), _randn(64, 64, 8)),
            2 * 2**22 * _FLOAT,
            2.0 * 2**16 * 64 * 64 * 8,
        ),
    ]


CASES = [*_pair_cases(), *_step_cases(), *_simplex_cases(), *_matrix_cases(), *_sequence_cases()]


def records(
    milliseconds: Callable[[Call, int], list[float]], copy: float, peak: float, repeats: int
) -> list[dict[str, Any]]:
    """Time every case; `copy` in bytes a second and `peak` in float32 operations a second give the floor."""
    found = []
    for case in CASES:
        call = case.build()
        ours = statistics.median(milliseconds(call, repeats))
        record: dict[str, Any] = {"kernel": case.name, "median_ms": ours, "bytes": case.bytes_moved}
        record["floor_ms"] = 1e3 * max(case.bytes_moved / copy, case.flops / peak)
        record["share_of_floor"] = record["floor_ms"] / ours
        try:
            with kernels.use("reference"):
                record["reference_ms"] = statistics.median(milliseconds(call, min(repeats, 5)))
            record["ratio"] = record["reference_ms"] / ours
        except torch.OutOfMemoryError:
            record["reference_ms"] = record["ratio"] = None  # the plain formulas do not fit the device
        found.append(record)
        print(
            f"{case.name:72}{ours:9.3f} ms{record['share_of_floor']:7.2f} of the floor"
            + (f"{record['ratio']:8.1f} x plain torch" if record["ratio"] else "  (plain torch runs out of memory)"),
            flush=True,
        )
        del call
        torch.cuda.empty_cache()
    return found

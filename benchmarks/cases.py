"""What is measured: each case builds the same work for Holonomy and for its peers.

A case's `build` returns thunks by name; "holonomy" is ours. `wanted` are the ratios (peer's time over ours) that the
library promises; `bytes_moved` and `flops` are the least that the case has to do, and give the floor.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import geoopt
import numpy as np
import pymanopt
import torch
from hypll.manifolds.poincare_ball import Curvature
from hypll.manifolds.poincare_ball import PoincareBall as HypllBall
from hypll.nn import HConvolution2d
from hypll.tensors import ManifoldTensor
from torch import Tensor

from holonomy.manifolds import Grassmann, Manifold, ManifoldParameter, PoincareBall, Stiefel
from holonomy.models.architectures.poincare_resnet import PoincareConv2d
from holonomy.optim import RiemannianAdam

__all__ = ["CASES", "Case"]

Thunks = dict[str, Callable[[], object]]
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Case:
    """One row of the table: name, what to run, the promised ratios, and the least work there is."""

    name: str
    build: Callable[[], Thunks]
    bytes_moved: float
    flops: float = 0.0
    wanted: dict[str, float] = field(default_factory=dict)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _ball_points(*size: int, c: float = 1.0, radius: float = 0.9) -> Tensor:
    x = torch.randn(size, generator=_generator())
    lengths = torch.rand(*size[:-1], 1, generator=_generator()) * radius / c**0.5
    return x / x.norm(dim=-1, keepdim=True) * lengths


def _backward(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """Forward and backward pass, to the inputs and, where a module is behind the function, to its weights."""
    leaves = [t.clone().requires_grad_() for t in inputs]

    def run() -> object:
        for leaf in leaves:
            leaf.grad = None
        return function(*leaves).sum().backward()  # type: ignore[no-untyped-call]

    return run


def adam_small(ours: Manifold, peer: geoopt.Manifold, *size: int) -> Thunks:
    """One Adam step over 100 parameters of one small shape."""
    points = [ours.random(*size, generator=_generator()) for _ in range(100)]
    grads = [torch.randn(size, generator=_generator()) for _ in range(100)]
    mine = [ManifoldParameter(x.clone(), ours) for x in points]
    theirs = [geoopt.ManifoldParameter(x.clone(), manifold=peer) for x in points]
    for p, q, g in zip(mine, theirs, grads, strict=True):
        p.grad, q.grad = g.clone(), g.clone()
    one, other = RiemannianAdam(mine, lr=1e-3), geoopt.optim.RiemannianAdam(theirs, lr=1e-3)
    plain = [torch.nn.Parameter(x.clone()) for x in points]
    for p, g in zip(plain, grads, strict=True):
        p.grad = g.clone()
    return {"holonomy": one.step, "geoopt": other.step, "torch Adam": torch.optim.Adam(plain, lr=1e-3).step}


def adam_table(rows: int, columns: int) -> Thunks:
    """One Adam step over one Poincaré embedding table with a dense gradient."""
    x, g = _ball_points(rows, columns), torch.randn(rows, columns, generator=_generator()) * 1e-3
    mine = ManifoldParameter(x.clone(), PoincareBall())
    theirs = geoopt.ManifoldParameter(x.clone(), manifold=geoopt.PoincareBall())
    mine.grad, theirs.grad = g.clone(), g.clone()
    return {
        "holonomy": RiemannianAdam([mine], lr=1e-3).step,
        "geoopt": geoopt.optim.RiemannianAdam([theirs], lr=1e-3).step,
    }


def stiefel_retr(*size: int) -> Thunks:
    """Each library's default retraction, and geoopt's QR for scale."""
    ours = Stiefel()
    x = ours.random(*size, generator=_generator())
    u = ours.proju(x, torch.randn(size, generator=_generator())) / size[-2] ** 0.5
    default, qr = geoopt.Stiefel(), geoopt.EuclideanStiefel()
    return {
        "holonomy": lambda: ours.retr(x, u),
        "geoopt": lambda: default.retr(x, u),
        "geoopt QR": lambda: qr.retr(x, u),
    }


def grassmann_exp(batch: int, n: int, p: int) -> Thunks:
    """Exponential map of a batch of subspaces."""
    ours = Grassmann()
    x = ours.random(batch, n, p, generator=_generator())
    u = ours.random_tangent(x, generator=_generator()) / n**0.5
    peer = pymanopt.manifolds.Grassmann(n, p, k=batch)
    a, b = np.asarray(x), np.asarray(u)
    return {"holonomy": lambda: ours.expmap(x, u), "pymanopt": lambda: peer.exp(a, b)}


def pairwise(n: int, d: int) -> Thunks:
    """All distances between n points of the ball."""
    x, y = _ball_points(n, d), _ball_points(n, d).flip(0)
    ours, peer = PoincareBall(), geoopt.PoincareBall()
    return {"holonomy": lambda: ours.cdist(x, y), "geoopt": lambda: peer.dist(x[:, None], y[None])}


def ball_op(name: str, backward: bool, *size: int) -> Thunks:
    """One operation of the ball, forward or forward and backward (no promise here: fused kernels come later)."""
    x = _ball_points(*size)
    v = _ball_points(*size).flip(0) * 0.5
    ours, peer = getattr(PoincareBall(), name), getattr(geoopt.PoincareBall(), name)
    if backward:
        return {"holonomy": _backward(ours, x, v), "geoopt": _backward(peer, x, v)}
    return {"holonomy": lambda: ours(x, v), "geoopt": lambda: peer(x, v)}


def conv(backward: bool) -> Thunks:
    """Hyperbolic 3x3 convolution of a (32, 16, 32, 32) map from ball to ball; torch's Euclidean one for scale."""
    ours = PoincareConv2d(16, 16, 3, padding=1, ball=PoincareBall(), space="ball")
    x = PoincareBall().expmap0(torch.randn(32, 16, 32, 32, generator=_generator()) * 0.05, dim=1)
    ball = HypllBall(c=Curvature(1.0, constraining_strategy=lambda c: c))
    peer = HConvolution2d(16, 16, 3, manifold=ball, padding=1)
    flat = torch.nn.Conv2d(16, 16, 3, padding=1)

    def theirs(x: Tensor) -> Tensor:
        return peer(ManifoldTensor(x, manifold=ball, man_dim=1)).tensor

    if backward:
        return {"holonomy": _backward(ours, x), "hypll": _backward(theirs, x), "torch Conv2d": _backward(flat, x)}

    def forward(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return function(x)

        return run

    return {"holonomy": forward(ours), "hypll": forward(theirs), "torch Conv2d": forward(flat)}


def _ball_cases() -> list[Case]:
    cases = []
    for size in ((100_000, 16), (4096, 512)):
        n = size[0] * size[1] * _FLOAT
        for name in ("expmap", "logmap", "dist"):
            moved = 2 * n + (n if name != "dist" else 0)
            label = f"ball {name} {size}"
            cases += [
                Case(f"{label} forward", lambda a=name, s=size: ball_op(a, False, *s), moved),
                Case(f"{label} forward+backward", lambda a=name, s=size: ball_op(a, True, *s), moved + 5 * n),
            ]
    return cases


CASES = [
    Case(
        "Adam step, 100 ball points of 16",
        lambda: adam_small(PoincareBall(), geoopt.PoincareBall(), 16),
        7 * 100 * 16 * _FLOAT,
        wanted={"geoopt": 5.0},
    ),
    Case(
        "Adam step, 100 Stiefel points of (128, 8)",
        lambda: adam_small(Stiefel(), geoopt.Stiefel(), 128, 8),
        7 * 100 * 128 * 8 * _FLOAT,
        flops=100 * 10 * 128 * 8 * 8,
        wanted={"geoopt": 5.0},
    ),
    Case("Adam step, ball table 100,000 x 10", lambda: adam_table(100_000, 10), 7 * 10**6 * _FLOAT),
    Case(
        "Stiefel retraction (1, 2048, 256)",
        lambda: stiefel_retr(1, 2048, 256),
        3 * 2048 * 256 * _FLOAT,
        flops=2 * 2048 * 256**2 * 2,
        wanted={"geoopt": 15.0},
    ),
    Case(
        "Grassmann exp (1000, 2048, 8)",
        lambda: grassmann_exp(1000, 2048, 8),
        3 * 1000 * 2048 * 8 * _FLOAT,
        flops=1000 * 2 * 2048 * 8 * 8 * 3,
        wanted={"pymanopt": 3.0},
    ),
    Case(
        "pairwise ball distance 4096 x 4096, d = 16",
        lambda: pairwise(4096, 16),
        4096**2 * _FLOAT,
        flops=4096**2 * 16 * 2,
        wanted={"geoopt": 30.0},
    ),
    Case(
        "hyperbolic conv (32,16,32,32) 3x3 forward",
        lambda: conv(False),
        2 * 32 * 16 * 1024 * _FLOAT,
        flops=2 * 32 * 1024 * 16 * 16 * 9,
    ),
    Case(
        "hyperbolic conv (32,16,32,32) 3x3 forward+backward",
        lambda: conv(True),
        5 * 32 * 16 * 1024 * _FLOAT,
        flops=3 * 2 * 32 * 1024 * 16 * 16 * 9,
        wanted={"hypll": 5.0},
    ),
    *_ball_cases(),
]

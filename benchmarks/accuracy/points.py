"""Points at which textbook formulas lose digits, by manifold and operation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holonomy import manifolds
from holonomy.manifolds.linalg import haar

__all__ = ["REGIMES", "SAMPLES", "Regime"]

#: Pairs of inputs in each regime.
SAMPLES = 40

_BOTH = (torch.float64, torch.float32)


@dataclass(frozen=True)
class Regime:
    """Inputs of one operation.

    Attributes
    ----------
    manifold, operation : str
        As in `exact.OPERATIONS`.
    name : str
        What is hard about the points.
    draw : callable
        Pairs of inputs in float64, from a generator: shape (`SAMPLES`, *point) each.
    dtypes : tuple of torch.dtype
        Where the points exist.
    """

    manifold: str
    operation: str
    name: str
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    dtypes: tuple[torch.dtype, ...] = _BOTH


def _unit(manifold: Any, x: Tensor, generator: torch.Generator) -> Tensor:
    u = manifold.random_tangent(x, generator=generator)
    return u / manifold.norm(x, u, keepdim=True)


def _at(manifold: Any, shape: tuple[int, ...], radius: float, generator: torch.Generator) -> Tensor:
    """Points at this distance from the origin."""
    origin = manifold.origin(SAMPLES, *shape, dtype=torch.float64)
    return manifold.expmap(origin, radius * _unit(manifold, origin, generator))


def _hyperbolic(kind: Callable[[], Any], name: str, shape: tuple[int, ...]) -> list[Regime]:
    space = kind()

    def pairs(radius: float, gap: float, steps: bool) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x = _at(space, shape, radius, generator)
            u = gap * _unit(space, x, generator)
            return (x, u) if steps else (x, space.expmap(x, u) if gap else x.clone())

        return draw

    far = (torch.float64,)
    places: list[tuple[float, float, tuple[torch.dtype, ...]]] = [
        (0.5, 1e-5, _BOTH),
        (0.5, 1.0, _BOTH),
        (3.0, 1e-2, _BOTH),
        (6.0, 1.0, _BOTH),
        (9.0, 1.0, _BOTH),
    ]
    places += [(14.0, 1e-2, far)]
    regimes = []
    for radius, gap, dtypes in places:
        for operation in ("dist", "logmap", "expmap"):
            steps = operation == "expmap"
            what = f"radius {radius:g}, {'a step of' if steps else 'apart by'} {gap:g}"
            regimes.append(Regime(name, operation, what, pairs(radius, gap, steps), dtypes))
    regimes.append(Regime(name, "dist", "coincident", pairs(2.0, 0.0, False)))
    regimes.append(Regime(name, "logmap", "coincident", pairs(2.0, 0.0, False)))
    regimes.append(Regime(name, "expmap", "radius 0.5, a step of 10", pairs(0.5, 10.0, True)))
    return regimes


def _stepped(name: str, space: Any, shape: tuple[int, ...], gaps: dict[str, float], *operations: str) -> list[Regime]:
    """Random points, and others at given distances from them."""

    def pairs(gap: float, steps: bool) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x = space.random(SAMPLES, *shape, dtype=torch.float64, generator=generator)
            u = gap * _unit(space, x, generator)
            return (x, u) if steps else (x, space.expmap(x, u) if gap else x.clone())

        return draw

    return [
        Regime(name, operation, f"{'a step of' if operation == 'expmap' else 'apart by'} {what}", pairs(gap, steps))
        for operation in operations
        for what, gap in gaps.items()
        for steps in [operation == "expmap"]
    ]


def _right_angle(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Planes of R^5 with one direction in common up to 1e-3, and one orthogonal to the other plane."""
    q = haar((SAMPLES, 5, 5), torch.float64, None, generator)
    tilted = math.cos(1e-3) * q[..., :1] + math.sin(1e-3) * q[..., 2:3]
    return q[..., :2].contiguous(), torch.cat([tilted, q[..., 3:4]], -1)


def _spd(condition: float, gap: float) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        q = haar((SAMPLES, 3, 3), torch.float64, None, generator)
        values = torch.tensor([1.0, condition**0.5, condition], dtype=torch.float64) / condition**0.5
        x = (q * values) @ q.mT
        noise = torch.randn(SAMPLES, 3, 3, dtype=torch.float64, generator=generator)
        root = (q * values.sqrt()) @ q.mT
        y = root @ torch.linalg.matrix_exp(gap * (noise + noise.mT)) @ root
        return 0.5 * (x + x.mT), 0.5 * (y + y.mT)

    return draw


def _faces(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distributions with an entry of 1e-12 and one of 0."""
    x, y = (manifolds.Simplex().random(SAMPLES, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    x[:, 0], y[:, 1] = 1e-12, 0.0
    return x / x.sum(-1, keepdim=True), y / y.sum(-1, keepdim=True)


_NEAR = {"1e-5": 1e-5, "1": 1.0}
_SPHERE = {**_NEAR, "pi - 1e-5": math.pi - 1e-5, "0": 0.0}

REGIMES: tuple[Regime, ...] = (
    *_hyperbolic(manifolds.PoincareBall, "PoincareBall", (3,)),
    *_hyperbolic(manifolds.Lorentz, "Lorentz", (4,)),
    *_stepped("Sphere", manifolds.Sphere(), (4,), _SPHERE, "dist", "logmap"),
    *_stepped("Sphere", manifolds.Sphere(), (4,), {**_NEAR, "10": 10.0}, "expmap"),
    *_stepped("Simplex", manifolds.Simplex(), (4,), {"1e-5": 1e-5, "0": 0.0}, "dist"),
    Regime("Simplex", "dist", "entries of 1e-12 and 0", _faces),
    *_stepped("Grassmann", manifolds.Grassmann(), (5, 2), {"1e-6": 1e-6, "1": 1.0, "0": 0.0}, "dist"),
    Regime("Grassmann", "dist", "angles of 1e-3 and pi/2", _right_angle),
    *_stepped("Stiefel, Euclidean", manifolds.Stiefel("euclidean"), (5, 2), {**_NEAR, "10": 10.0}, "expmap"),
    *_stepped("Stiefel, canonical", manifolds.Stiefel("canonical"), (5, 2), {**_NEAR, "10": 10.0}, "expmap"),
    Regime("SPD, affine-invariant", "dist", "condition 10, apart by about 1", _spd(10.0, 0.3)),
    Regime("SPD, affine-invariant", "dist", "condition 10, apart by about 1e-6", _spd(10.0, 1e-6)),
    Regime("SPD, affine-invariant", "dist", "multiples of I", _spd(1.0, 0.0)),
    Regime("SPD, affine-invariant", "dist", "condition 1e5, apart by about 1", _spd(1e5, 0.3)),
    *_stepped(
        "SpecialOrthogonal",
        manifolds.SpecialOrthogonal(),
        (3, 3),
        {"1e-6": 1e-6, "1": 1.0, "sqrt(2) (pi - 1e-6)": math.sqrt(2.0) * (math.pi - 1e-6), "0": 0.0},
        "dist",
    ),
)

"""Pictures of two-dimensional manifolds for docs/manifolds.md: geodesics, circles and transport, from the library."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from holonomy.manifolds import (
    SPD,
    Euclidean,
    HalfSpace,
    KleinBall,
    Lorentz,
    Manifold,
    PoincareBall,
    PositiveOrthant,
    SiegelUpperHalf,
    Simplex,
    SpecialEuclidean,
    Sphere,
    Stereographic,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
GEODESIC, CIRCLE, VECTOR, EDGE = "#3b6ea5", "#d9822b", "#2a7f4f", "#999999"


@dataclass(frozen=True)
class Scene:
    """A point, two orthonormal tangent vectors at it, and the way to the plane of the picture."""

    manifold: Manifold
    x: Tensor
    basis: Tensor
    to_plane: Callable[[Tensor], Tensor]
    radii: tuple[float, ...]
    edge: Tensor | None = None
    view: tuple[float, float, float, float] | None = None


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def orthonormal(manifold: Manifold, x: Tensor, *u: Tensor) -> Tensor:
    """Gram-Schmidt of two tangent vectors."""
    first = u[0] / manifold.norm(x, u[0])
    second = u[1] - manifold.inner(x, first, u[1]) * first
    return torch.stack([first, second / manifold.norm(x, second)])


def ring(radius: float = 1.0) -> Tensor:
    angle = torch.linspace(0.0, 2.0 * math.pi, 200, dtype=torch.float64)
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


def scene(
    manifold: Manifold,
    x: Tensor,
    radii: tuple[float, ...],
    edge: Tensor | None = None,
    view: tuple[float, float, float, float] | None = None,
) -> Scene:
    """A manifold whose points are those of the picture."""
    return Scene(manifold, x, orthonormal(manifold, x, tensor(1, 0), tensor(0, 1)), lambda p: p, radii, edge, view)


def scenes() -> dict[str, Scene]:
    """Every picture but the one of rigid motions, by the name of its file."""
    sphere, pole = Sphere(), tensor(0.2, 0.3, 1.0)
    pole = pole / pole.norm()
    axes = [sphere.proju(pole, v) for v in (tensor(1, 0, 0), tensor(0, 1, 0))]
    simplex, law = Simplex(), tensor(0.5, 0.3, 0.2)
    corners = tensor((0.0, 0.0), (1.0, 0.0), (0.5, 0.75**0.5))
    lorentz = Lorentz()
    top = lorentz.expmap0(tensor(0.0, 0.6, 0.0))
    slopes = [lorentz.proju(top, v) for v in (tensor(0, 1, 0), tensor(0, 0, 1))]
    spd, matrix = SPD(), torch.diag(tensor(2.0, 0.5))
    stretches = orthonormal(spd, matrix, torch.diag(tensor(2.0, -0.5)), tensor((0.0, 1.0), (1.0, 0.0)))
    siegel, z = SiegelUpperHalf(), tensor(0.0, 1.0).reshape(2, 1, 1)
    units = [tensor(*v).reshape(2, 1, 1) for v in ((1.0, 0.0), (0.0, 1.0))]
    floor, wall = tensor((-9.0, 0.0), (9.0, 0.0)), tensor((0.0, 12.0), (0.0, 0.0), (12.0, 0.0))
    near = tensor(0.35, 0.15)
    return {
        "euclidean": scene(Euclidean(1), tensor(0.0, 0.0), (0.5, 1.0, 1.5)),
        "sphere": Scene(sphere, pole, orthonormal(sphere, pole, *axes), lambda p: p[..., :2], (0.4, 0.8, 1.2), ring()),
        "simplex": Scene(
            simplex,
            law,
            orthonormal(simplex, law, tensor(1, -1, 0), tensor(0, 1, -1)),
            lambda p: p @ corners,
            (0.25, 0.5, 0.75),
            torch.cat([corners, corners[:1]]),
        ),
        "positive_orthant": scene(PositiveOrthant(), tensor(1.0, 1.0), (0.4, 0.8, 1.2), wall, (-0.1, 3.6, -0.1, 3.6)),
        "poincare_ball": scene(PoincareBall(), near, (0.5, 1.0, 2.0), ring()),
        "klein_ball": scene(KleinBall(), near, (0.5, 1.0, 2.0), ring()),
        "half_space": scene(HalfSpace(), tensor(0.0, 1.0), (0.4, 0.8, 1.2), floor, (-2.4, 2.4, -0.15, 3.6)),
        "lorentz": Scene(lorentz, top, orthonormal(lorentz, top, *slopes), lambda p: p[..., 1:], (0.5, 1.0, 1.5)),
        "stereographic_negative": scene(Stereographic(-0.5), near, (0.5, 1.0, 2.0), ring(math.sqrt(2.0))),
        "stereographic_positive": scene(Stereographic(0.5), near, (0.5, 1.0, 2.0)),
        "spd": Scene(
            spd,
            matrix,
            stretches,
            lambda p: torch.stack([0.5 * (p[..., 0, 0] - p[..., 1, 1]), p[..., 0, 1]], -1),
            (0.5, 1.0, 1.5),
        ),
        "siegel_upper_half": Scene(
            siegel,
            z,
            orthonormal(siegel, z, *units),
            lambda p: p[..., 0, 0],
            (0.4, 0.8, 1.2),
            floor,
            (-2.4, 2.4, -0.15, 3.6),
        ),
    }


def draw(s: Scene) -> plt.Figure:
    """Geodesics through the point, circles about it, and one vector carried along a geodesic."""
    figure, axes = plt.subplots(figsize=(4.0, 4.3))
    reach, shape = s.radii[-1], (-1, *(1,) * s.x.ndim)

    def at(lengths: Tensor, angle: Tensor | float) -> Tensor:
        angle = torch.as_tensor(angle, dtype=torch.float64)
        u = angle.cos().reshape(shape) * s.basis[0] + angle.sin().reshape(shape) * s.basis[1]
        u = lengths.reshape(shape) * u
        return s.manifold.expmap(s.x.expand_as(u), u)

    def line(points: Tensor, color: str, label: str | None) -> None:
        axes.plot(*s.to_plane(points).T.numpy(), color=color, linewidth=1.2, label=label)

    if s.edge is not None:
        axes.plot(*s.edge.T.numpy(), color=EDGE, linewidth=1.0)
    lengths = torch.linspace(-reach, reach, 161, dtype=torch.float64)
    for i in range(6):
        line(at(lengths, math.pi * i / 6), GEODESIC, None if i else "geodesics")
    turn = torch.linspace(0.0, 2.0 * math.pi, 181, dtype=torch.float64)
    names = ", ".join(f"{radius:g}" for radius in s.radii)
    for radius in s.radii:
        name = f"circles of radius {names}" if radius == s.radii[0] else None
        line(at(torch.full_like(turn, radius), turn), CIRCLE, name)
    stops = at(reach * torch.linspace(-0.9, 0.9, 7, dtype=torch.float64), math.pi / 6)
    v = (0.3 * reach * s.basis[1]).expand_as(stops)
    carried = s.manifold.transp(s.x.expand_as(stops), stops, v)
    tips = s.manifold.expmap(stops, carried)
    for i, (a, b) in enumerate(zip(s.to_plane(stops).numpy(), s.to_plane(tips).numpy(), strict=True)):
        axes.annotate("", xy=b, xytext=a, arrowprops={"arrowstyle": "->", "color": VECTOR, "linewidth": 1.5})
        axes.plot(*a, ".", color=VECTOR, markersize=4, label=None if i else "one vector, transported")
    axes.plot(*s.to_plane(s.x).numpy(), "o", color="black", markersize=4)
    return finish(figure, axes, s.view)


def draw_motions() -> plt.Figure:
    """A body's frame along a geodesic, and along the screw that starts with the same velocity."""
    motions = SpecialEuclidean()
    figure, axes = plt.subplots(figsize=(4.0, 4.3))
    t = torch.linspace(0.0, 1.0, 60, dtype=torch.float64).reshape(-1, 1, 1)
    u = tensor((0.0, -2.4, 3.0), (2.4, 0.0, 0.0), (0.0, 0.0, 0.0))
    start = motions.origin(3, 3, dtype=torch.float64)
    paths = {
        "geodesic": (motions.expmap(start.expand(60, 3, 3), t * u), GEODESIC),
        "screw": (motions.group_exp(t * u), CIRCLE),
    }
    for name, (path, color) in paths.items():
        axes.plot(*path[:, :2, 2].T.numpy(), color=color, linewidth=1.2, label=f"{name}, with the body's two axes")
        for x in path[::12]:
            for axis, length in ((0, 0.4), (1, 0.25)):
                tip = x[:2, 2] + length * x[:2, axis]
                axes.plot(*torch.stack([x[:2, 2], tip]).T.numpy(), color=color, linewidth=2.0)
    return finish(figure, axes, None)


def finish(figure: plt.Figure, axes: plt.Axes, view: tuple[float, float, float, float] | None) -> plt.Figure:
    """Equal scales, no axes, and the legend below."""
    axes.set_aspect("equal")
    axes.axis("off")
    if view is not None:
        axes.set_xlim(view[:2])
        axes.set_ylim(view[2:])
    figure.legend(loc="lower center", frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.98, bottom=0.17)
    return figure


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    figures = {name: draw(s) for name, s in scenes().items()} | {"special_euclidean": draw_motions()}
    for name, figure in figures.items():
        temporary = FOLDER / f".{name}.png"
        figure.savefig(temporary, dpi=90, metadata={"Software": None})
        os.replace(temporary, FOLDER / f"{name}.png")
        plt.close(figure)


if __name__ == "__main__":
    main()

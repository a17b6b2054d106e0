"""Kernels are positive definite where it is said; heat kernels have unit mass, and solve the heat equation."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    Euclidean,
    Grassmann,
    Lorentz,
    Manifold,
    PoincareBall,
    SpecialOrthogonal,
    Sphere,
    geodesic_gaussian_kernel,
    geodesic_laplacian_kernel,
    heat_kernel,
    tangent_basis,
)

F64 = torch.float64
HEAT: list[tuple[Manifold, tuple[int, ...]]] = [
    (Euclidean(1), (2,)),
    (Sphere(), (2,)),
    (Sphere(), (3,)),
    (PoincareBall(c=0.5), (3,)),
    (Lorentz(c=2.0), (4,)),
    (SpecialOrthogonal(), (3, 3)),
]
each_heat = pytest.mark.parametrize(("manifold", "shape"), HEAT, ids=lambda v: str(v))


def points(manifold: Manifold, shape: tuple[int, ...], n: int = 40) -> Tensor:
    return manifold.random(n, *shape, dtype=F64, generator=torch.Generator().manual_seed(0))


def least(gram: Tensor) -> float:
    values = torch.linalg.eigvalsh(0.5 * (gram + gram.mT))
    return float(values[0] / values[-1])


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_laplacian_kernels_are_positive_definite(scale: float) -> None:
    for manifold, shape in ((Euclidean(1), (3,)), (Sphere(), (2,)), (Sphere(), (5,)), (PoincareBall(), (3,))):
        x = points(manifold, shape)
        if isinstance(manifold, Sphere):
            x = torch.cat([x[:20], -x[:20]])  # antipodes are where it is hardest
        # Rounding of distances of nearly equal points, against the largest eigenvalue.
        assert least(geodesic_laplacian_kernel(manifold, x, x, scale)) > -1e-12
    lorentz = Lorentz(c=3.0)
    x = points(lorentz, (4,))
    assert least(geodesic_laplacian_kernel(lorentz, x, x, scale)) > -1e-12


def test_gaussian_kernels_are_not_but_on_flat_space() -> None:
    x = points(Euclidean(1), (3,))
    assert least(geodesic_gaussian_kernel(Euclidean(1), x, x, 0.7)) > -1e-14
    # Why other spaces are refused: four points on a circle at a wide scale.
    circle = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=F64)
    assert least(torch.exp(-0.5 * (Sphere().cdist(circle, circle) / 3.0).square())) < -1e-3
    with pytest.raises(NotImplementedError, match="on flat spaces only, not on Sphere"):
        geodesic_gaussian_kernel(Sphere(), circle, circle, 1.0)


@each_heat
@pytest.mark.parametrize("time", [0.02, 0.5, 3.0])
def test_heat_kernels_are_positive_definite(manifold: Manifold, shape: tuple[int, ...], time: float) -> None:
    x = points(manifold, shape)
    assert least(heat_kernel(manifold, x, x, time)) > -1e-13


@each_heat
def test_heat_kernels_solve_the_heat_equation(manifold: Manifold, shape: tuple[int, ...]) -> None:
    """The Laplacian as the sum of second derivatives along orthonormal geodesics, by central differences."""
    x = points(manifold, shape, 1)
    y = manifold.expmap(x, 0.4 * manifold.random_tangent(x, generator=torch.Generator().manual_seed(1)))
    time, h = 0.3, 1e-3

    def value(y: Tensor, time: float) -> Tensor:
        return heat_kernel(manifold, x, y, time).squeeze()

    rate = (value(y, time + h) - value(y, time - h)) / (2.0 * h)
    laplacian = torch.zeros((), dtype=F64)
    for e in tangent_basis(manifold, y):
        ahead, behind = (value(manifold.expmap(y, s * e), time) for s in (h, -h))
        laplacian = laplacian + (ahead - 2.0 * value(y, time) + behind) / h**2
    # h^2 times fourth derivatives over 12, which are some 1/t^2 of the value
    assert float(rate) == pytest.approx(float(laplacian), rel=1e-4, abs=1e-4 * float(value(x, time)))


@pytest.mark.parametrize("time", [0.01, 0.4, 0.99, 1.01, 5.0])
def test_heat_has_unit_mass(time: float) -> None:
    nodes, weights = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(400))
    angle = 0.5 * math.pi * (nodes + 1.0)
    half = 0.5 * math.pi * weights
    zero = torch.zeros_like(angle)
    circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
    mass = 2.0 * (half * heat_kernel(Sphere(), circle.new_tensor([[1.0, 0.0]]), circle, time)).sum()
    assert float(mass) == pytest.approx(1.0, abs=1e-12)
    sphere = torch.stack([angle.sin(), zero, angle.cos()], dim=-1)
    k = heat_kernel(Sphere(), sphere.new_tensor([[0.0, 0.0, 1.0]]), sphere, time)
    assert float((2.0 * math.pi * half * angle.sin() * k).sum()) == pytest.approx(1.0, abs=1e-12)
    one = torch.ones_like(angle)
    turns = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one], dim=-1)
    rotations = SpecialOrthogonal()
    eye = torch.eye(3, dtype=F64)
    if time >= 0.1:  # at unit scale the time may be shorter by the metric's factor
        k = heat_kernel(rotations, eye.unsqueeze(0), turns.reshape(-1, 3, 3), time)
        s = float(rotations.dist(eye, turns[0].reshape(3, 3)) / angle[0])
        # Haar measure of the angle a: 16 pi s^3 sin(a/2)^2 da
        assert float((16.0 * math.pi * s**3 * half * (0.5 * angle).sin().square() * k).sum()) == pytest.approx(
            1.0, abs=1e-11
        )
    for c in (0.3, 4.0):
        lorentz = Lorentz(c=c)
        # By the closed form's own substitution the mass is at 2 sqrt(c) t with deviation sqrt(2 t).
        end = 2.0 * math.sqrt(c) * time + 12.0 * math.sqrt(2.0 * time)
        if math.sqrt(c) * end > 60.0:
            continue  # coordinates of exp(60) hold no distances
        r = 0.5 * end * (nodes + 1.0)
        x = lorentz.expmap0(torch.stack([zero, r, zero, zero], dim=-1))
        k = heat_kernel(lorentz, lorentz.origin(1, 4, dtype=F64), x, time).squeeze(0)
        area = 4.0 * math.pi * (torch.sinh(math.sqrt(c) * r) / math.sqrt(c)).square()
        # Coordinates of far points are exp(sqrt(c) r): distances keep some ten digits.
        assert float((0.5 * end * weights * area * k).sum()) == pytest.approx(1.0, abs=1e-9)


def test_short_times_are_gaussian_and_long_ones_uniform() -> None:
    x = points(Sphere(), (3,), 5)
    k = heat_kernel(Sphere(), x, x, 0.002)
    # The diagonal is (1 + t/3 + ...)/(4 pi t) at scalar curvature 2.
    assert float(k[0, 0]) == pytest.approx((1.0 + 0.002 / 3.0) / (4.0 * math.pi * 0.002), rel=1e-5)
    torch.testing.assert_close(heat_kernel(Sphere(), x, x, 50.0), torch.full((5, 5), 1.0 / (4.0 * math.pi), dtype=F64))


def test_bad_input_is_refused() -> None:
    x = points(Sphere(), (3,), 3)
    with pytest.raises(ValueError, match="'scale' must be positive and finite, got 0"):
        geodesic_laplacian_kernel(Sphere(), x, x, 0.0)
    with pytest.raises(TypeError, match="'time' must be a number"):
        heat_kernel(Sphere(), x, x, "long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"time of at least 0.001"):
        heat_kernel(Sphere(), x, x, 1e-5)
    with pytest.raises(NotImplementedError, match="not known to be positive definite on Grassmann"):
        geodesic_laplacian_kernel(Grassmann(), torch.eye(4, 2).unsqueeze(0), torch.eye(4, 2).unsqueeze(0), 1.0)
    with pytest.raises(
        NotImplementedError, match="heat_kernel: no closed form or series here on Sphere of dimension 3"
    ):
        heat_kernel(Sphere(), points(Sphere(), (4,), 2), points(Sphere(), (4,), 2), 1.0)

"""Positive definite kernels of the geodesic distance, and heat kernels, for methods that work on Gram matrices."""

import math
from numbers import Real

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.euclidean import Euclidean
from holonomy.manifolds.functions import log_sinhc
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.special_orthogonal import SpecialOrthogonal
from holonomy.manifolds.sphere import Sphere

__all__ = ["geodesic_gaussian_kernel", "geodesic_laplacian_kernel", "heat_kernel"]

#: Below this time theta series of the circle is summed over images, above over frequencies.
_TURN = 1.0
#: Least time of series over eigenvalues, and the exponent beyond which their terms are below rounding.
_EARLIEST, _CUT = 1e-3, 45.0


def geodesic_gaussian_kernel(manifold: Manifold, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """exp(-dist^2 / (2 scale^2)), on Euclidean space: positive definite for every scale on flat spaces only.

    Parameters
    ----------
    manifold : Euclidean
        On a curved complete space the matrix of this function has negative eigenvalues for some points and scales.
    x, y : Tensor
        Points, shapes (..., n, *point) and (..., m, *point).
    scale : float
        Positive, in units of length.

    Returns
    -------
    Tensor
        Gram matrix, shape (..., n, m).

    Raises
    ------
    NotImplementedError
        Where it is not positive definite: take `geodesic_laplacian_kernel` or `heat_kernel`.
    ValueError
        Where `scale` is not positive and finite.

    References
    ----------
    Feragen, Lauze, Hauberg, Geodesic exponential kernels: when curvature and linearity conflict, CVPR 2015, theorem 2.
    """
    _positive("geodesic_gaussian_kernel", "scale", scale)
    if not isinstance(manifold, Euclidean):
        raise NotImplementedError(
            f"geodesic_gaussian_kernel: positive definite on flat spaces only, not on {manifold.name}"
        )
    return torch.exp(-0.5 * (manifold.cdist(x, y) / scale).square())


def geodesic_laplacian_kernel(manifold: Manifold, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """exp(-dist / scale): positive definite for every scale where the distance is conditionally negative definite.

    That is on Euclidean space, the sphere and hyperbolic space. Parameters, returns and errors are those of
    `geodesic_gaussian_kernel`, with these manifolds.

    References
    ----------
    Feragen, Lauze, Hauberg, CVPR 2015, theorem 3; Gangolli, Positive definite kernels on homogeneous spaces, Ann. IHP B
    3, 1967; Faraut, Harzallah, Distances hilbertiennes invariantes sur un espace homogène, Ann. Inst. Fourier 24, 1974.
    """
    _positive("geodesic_laplacian_kernel", "scale", scale)
    if not isinstance(manifold, Euclidean | Sphere | Hyperbolic):
        raise NotImplementedError(
            f"geodesic_laplacian_kernel: not known to be positive definite on {manifold.name}; "
            "wanted Euclidean, Sphere, PoincareBall or Lorentz"
        )
    return torch.exp(-manifold.cdist(x, y) / scale)


def heat_kernel(manifold: Manifold, x: Tensor, y: Tensor, time: float) -> Tensor:
    """Density at y, in the Riemannian volume, of heat that started in x, after a time: d/dt k = Laplacian of k.

    Positive definite for every time, and of unit mass. On Euclidean space; the circle, by theta series, for any time;
    the sphere in three dimensions, by Legendre's series; hyperbolic space of dimension 3, in closed form; rotations of
    three dimensions, by the series of characters, in the metric of `SpecialOrthogonal`. Series over eigenvalues are
    right to about 1e-13 of the largest value (where the kernel is below that, they may be slightly negative), for
    times from 0.001 on.

    Parameters
    ----------
    manifold : Manifold
        Euclidean; Sphere with points in 2 or 3 dimensions; PoincareBall or Lorentz of dimension 3, with a curvature
        that is one number; SpecialOrthogonal with 3 x 3 matrices.
    x, y : Tensor
        Points, shapes (..., n, *point) and (..., m, *point).
    time : float
        Positive, in units of length squared.

    Returns
    -------
    Tensor
        Gram matrix, shape (..., n, m).

    Raises
    ------
    NotImplementedError
        On other manifolds and in other dimensions.
    ValueError
        Where `time` is not positive and finite, or too short for a series.

    References
    ----------
    Grigor'yan, Heat kernel and analysis on manifolds, 2009; Rosenberg, The Laplacian on a Riemannian manifold, 1997.
    """
    _positive("heat_kernel", "time", time)
    manifold.assert_check_point(x)
    shape = x.shape[x.ndim - manifold.ndim :]
    d = manifold.dimension(*shape)
    r = manifold.cdist(x, y)
    if isinstance(manifold, Euclidean):
        return torch.exp(-r.square() / (4.0 * time)) / (4.0 * math.pi * time) ** (0.5 * d)
    if isinstance(manifold, Sphere) and d == 1:
        return _circle(r, time)
    if isinstance(manifold, Sphere) and d == 2:
        _late(time)
        return _legendre(torch.cos(r), time)
    if isinstance(manifold, Hyperbolic) and d == 3 and (isinstance(manifold.c, Real) or manifold.c.numel() == 1):
        c = manifold.c
        # (4 pi t)^(-3/2) (r / sinh r) exp(-t - r^2/(4 t)), with length in units of the radius of curvature
        exponent = -r.square() / (4.0 * time) - log_sinhc(c * r.square()) - c * time
        return torch.exp(exponent) / (4.0 * math.pi * time) ** 1.5
    if isinstance(manifold, SpecialOrthogonal) and shape == (3, 3):
        return _rotations(manifold, x, y, time)
    raise NotImplementedError(
        f"heat_kernel: no closed form or series here on {manifold.name} of dimension {d}; wanted Euclidean, Sphere of "
        "dimension 1 or 2, hyperbolic space of dimension 3, or SpecialOrthogonal of 3 x 3 matrices"
    )


def _circle(r: Tensor, time: float) -> Tensor:
    """Jacobi's theta function: images for short times, frequencies for long ones; both have positive values."""
    if time < _TURN:
        images = 2.0 * math.pi * torch.arange(-6, 7, dtype=r.dtype, device=r.device)
        return torch.exp(-(r.unsqueeze(-1) + images).square() / (4.0 * time)).sum(-1) / math.sqrt(4.0 * math.pi * time)
    total = torch.full_like(r, 0.5)
    for n in range(1, 8):
        total = total + math.exp(-n * n * time) * torch.cos(n * r)
    return total / math.pi


def _legendre(z: Tensor, time: float) -> Tensor:
    """Sum of (2 l + 1)/(4 pi) exp(-l (l + 1) t) P_l(z), by the three term recurrence."""
    last, current = torch.ones_like(z), z
    total = last + 3.0 * math.exp(-2.0 * time) * current
    for degree in range(2, 2 + math.ceil(math.sqrt(_CUT / time))):
        last, current = current, ((2 * degree - 1) * z * current - (degree - 1) * last) / degree
        total = total + (2 * degree + 1) * math.exp(-degree * (degree + 1) * time) * current
    return total / (4.0 * math.pi)


def _rotations(manifold: SpecialOrthogonal, x: Tensor, y: Tensor, time: float) -> Tensor:
    """Sum of (2 l + 1) chi_l exp(-l (l + 1) t/s^2) over the volume 8 pi^2 s^3, s the length of a radian's turn."""
    turn = x.new_tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    unit = float(manifold.dist(eye, torch.linalg.matrix_exp(turn)))
    late = time / unit**2
    _late(late)
    # cos of the angle from the trace; characters are 1 + 2 sum_m cos(m angle).
    trace = torch.einsum("...nij,...mij->...nm", x, y)
    cosine = 0.5 * (trace - 1.0)
    last, current = torch.ones_like(cosine), cosine
    character = 1.0 + 2.0 * current
    total = 1.0 + 3.0 * math.exp(-2.0 * late) * character
    for degree in range(2, 2 + math.ceil(math.sqrt(_CUT / late))):
        last, current = current, 2.0 * cosine * current - last
        character = character + 2.0 * current
        total = total + (2 * degree + 1) * math.exp(-degree * (degree + 1) * late) * character
    return total / (8.0 * math.pi**2 * unit**3)


def _late(time: float) -> None:
    if time < _EARLIEST:
        raise ValueError(f"heat_kernel: the series needs a time of at least {_EARLIEST} at unit scale, got {time:.3g}")


def _positive(where: str, name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{where}: {name!r} must be a number, got {type(value).__name__}")
    if not 0.0 < value < math.inf:
        raise ValueError(f"{where}: {name!r} must be positive and finite, got {value}")

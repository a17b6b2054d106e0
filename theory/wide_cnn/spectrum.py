"""Eigenvalues of hierarchical kernels on products of circles and on one sphere, and the sectors they fall into."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from holonomy.theory.wide_cnn.kernel import HierarchicalKernel

__all__ = ["effective_dimension", "gegenbauer_spectrum", "sector_eigenvalues", "torus_spectrum"]


def effective_dimension(filter_sizes: Sequence[int], level: int) -> int:
    """Dimension of a meta-patch of a level: (s_1 - 1) s_2 ... s_level.

    Raises
    ------
    ValueError
        For a level outside 1 ... L, or s_1 below 2.
    """
    if not 1 <= level <= len(filter_sizes):
        raise ValueError(f"effective_dimension: 'level' must be 1 ... {len(filter_sizes)}, got {level}")
    if filter_sizes[0] < 2:
        raise ValueError(f"effective_dimension: the first filter size must be at least 2, got {filter_sizes[0]}")
    return (filter_sizes[0] - 1) * math.prod(filter_sizes[1:level])


def torus_spectrum(kernel: HierarchicalKernel, grid: int, patches: int | None = None) -> np.ndarray:
    """Eigenvalues of a kernel of two-number patches, in the uniform measure on the torus of the patches' angles.

    The kernel depends on differences of angles, so that its eigenfunctions are Fourier modes and its eigenvalues the
    discrete Fourier transform of the kernel over the number of grid points.

    Parameters
    ----------
    kernel : HierarchicalKernel
        With s_1 = 2, without pooling or overlaps between patches.
    grid : int
        Angles a patch; eigenvalues are those of the kernel up to aliasing from modes beyond it.
    patches : int, optional
        Number of patches p; that of one receptive field where it is left out. Memory is grid^p numbers, 64 MB at most.

    Returns
    -------
    numpy.ndarray, shape (grid,) * p
        Indexed by mode as `numpy.fft.fftfreq` orders them.

    Raises
    ------
    ValueError
        For s_1 other than 2, or a grid below 2 or too large for its patches.
    """
    p = math.prod(kernel.filter_sizes[1:]) if patches is None else patches
    if kernel.filter_sizes[0] != 2 or kernel.grid != "1d" or kernel.pooling:
        raise ValueError(f"torus_spectrum: wanted patches of 2 numbers on a 1-D grid without pooling, got {kernel!r}")
    if grid < 2 or p < 1 or grid**p > 1 << 23:
        raise ValueError(f"torus_spectrum: wanted grid >= 2 and grid^p <= 2^23, got grid = {grid} and p = {p}")
    angles = torch.arange(grid, dtype=torch.float64) * (2.0 * math.pi / grid)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = torch.stack(torch.meshgrid(*[torch.arange(grid)] * p, indexing="ij"), dim=-1).reshape(-1, p)
    values = kernel(circle[:1].expand(1, p, 2).contiguous(), circle[points])
    found: np.ndarray = np.fft.fftn(values.view(*[grid] * p).numpy()).real / grid**p
    return found


def gegenbauer_spectrum(kernel_1d: Callable[[torch.Tensor], torch.Tensor], dim: int, k_max: int) -> np.ndarray:
    """Eigenvalues of a kernel of the cosine on the unit sphere of R^dim, in its uniform measure.

    By Funk and Hecke, that of spherical harmonics of degree k is the mean of kernel(t) P_k(t), with Legendre's
    polynomials of that dimension, P_k(1) = 1; here by Gauss-Legendre quadrature in the angle.

    Parameters
    ----------
    kernel_1d : callable
        Of a float64 tensor of cosines.
    dim : int
        Of the ambient space, at least 3 (a circle is `torus_spectrum`'s).
    k_max : int
        Largest degree.

    Returns
    -------
    numpy.ndarray, shape (k_max + 1,)

    Raises
    ------
    ValueError
        For a dimension below 3 or a negative degree.
    """
    if dim < 3 or k_max < 0:
        raise ValueError(f"gegenbauer_spectrum: wanted dim >= 3 and k_max >= 0, got {dim} and {k_max}")
    nodes, weights = np.polynomial.legendre.leggauss(4 * k_max + 200)
    angles = 0.5 * math.pi * (nodes + 1.0)
    measure = weights * np.sin(angles) ** (dim - 2)
    measure /= measure.sum()
    t = np.cos(angles)
    values = kernel_1d(torch.from_numpy(t)).numpy() * measure
    before, polynomial, found = np.ones_like(t), t.copy(), [values.sum()]
    for k in range(1, k_max + 1):
        found.append((values * polynomial).sum())
        # (k + dim - 2) P_(k+1) = (2k + dim - 2) t P_k - k P_(k-1)
        before, polynomial = polynomial, ((2 * k + dim - 2) * t * polynomial - k * before) / (k + dim - 2)
    return np.array(found)


def sector_eigenvalues(spectrum: np.ndarray, sector: int, filter_sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Modes and eigenvalues of a sector: functions of one meta-patch of that level that need all of it.

    Parameters
    ----------
    spectrum : numpy.ndarray, shape (grid,) * p
        As `torus_spectrum` returns it.
    sector : int
        1 ... L: the least level at which one meta-patch has every patch in which the mode is not constant.
    filter_sizes : sequence of int
        (2, s_2, ..., s_L).

    Returns
    -------
    modes : numpy.ndarray, shape (m, p)
    eigenvalues : numpy.ndarray, shape (m,)
        Descending.

    Raises
    ------
    ValueError
        For a sector outside 1 ... L.
    """
    if not 1 <= sector <= len(filter_sizes):
        raise ValueError(f"sector_eigenvalues: 'sector' must be 1 ... {len(filter_sizes)}, got {sector}")
    grid, p = spectrum.shape[0], spectrum.ndim
    frequencies = np.rint(np.fft.fftfreq(grid, 1.0 / grid)).astype(int)
    modes = np.stack(np.meshgrid(*[frequencies] * p, indexing="ij"), axis=-1).reshape(-1, p)

    def within(level: int) -> np.ndarray:
        """Whether one meta-patch of a level has all patches in which a mode is not constant."""
        groups = np.arange(p) // math.prod(filter_sizes[1:level])
        touched = np.stack([(modes[:, groups == g] != 0).any(1) for g in range(groups[-1] + 1)], axis=1)
        single: np.ndarray = touched.sum(1) == 1
        return single

    chosen = within(sector) & (~within(sector - 1) if sector > 1 else True)
    values = spectrum.reshape(-1)[chosen]
    order = np.argsort(values)[::-1]
    return modes[chosen][order], values[order]

"""Principal component analysis in the tangent space at the Fréchet mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.frechet import frechet_mean, prepare
from holonomy.manifolds.tangent import tangent_basis

__all__ = ["TangentPCA", "tangent_pca"]


@dataclass(frozen=True)
class TangentPCA:
    """Result of `tangent_pca`.

    Attributes
    ----------
    mean : Tensor
        The point at whose tangent space the analysis is done, shape (*batch, *point).
    components : Tensor
        Principal directions, orthonormal in the metric, shape (k, *batch, *point), by decreasing variance.
    variance : Tensor
        Weighted variance along each, shape (k, *batch).
    scores : Tensor
        Coordinates of the points along each, shape (k, n, *batch): ``expmap(mean, (scores * components).sum(0))``
        gives the points back where k is the dimension.
    """

    mean: Tensor
    components: Tensor
    variance: Tensor
    scores: Tensor


def tangent_pca(
    manifold: Manifold,
    x: Tensor,
    k: int | None = None,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    mean: Tensor | None = None,
) -> TangentPCA:
    """Principal component analysis of the logarithms of points at their Fréchet mean.

    Parameters
    ----------
    manifold : Manifold
        Has `expmap`, `logmap` and `dist2`.
    x : Tensor
        Points, shape (*batch, *point).
    k : int, optional
        Number of components; all by default, that is the dimension of the manifold or the number of points, whichever
        is less.
    weights : Tensor, optional
        See `frechet_mean`.
    dim : int
        Batch dimension that counts the points.
    mean : Tensor, optional
        Another point to take logarithms at.

    Returns
    -------
    TangentPCA

    Raises
    ------
    ValueError
        Where `k` is not between 1 and the number of components.
    ConvergenceError
        Where the mean does not converge.

    References
    ----------
    Fletcher, Lu, Pizer, Joshi, Principal geodesic analysis for the study of nonlinear statistics of shape, IEEE TMI
    23, 2004.
    """
    points, w = prepare("tangent_pca", manifold, x, weights, dim)
    available = min(len(points), manifold.dimension(*x.shape[x.ndim - manifold.ndim :]))
    k = available if k is None else k
    if not 1 <= k <= available:
        raise ValueError(f"tangent_pca: 'k' must be from 1 to {available} on this {manifold.name}, got {k}")
    if mean is None:
        mean = frechet_mean(manifold, x, weights, dim=dim)
    elif mean.shape != points.shape[1:]:
        raise DimensionError(
            f"tangent_pca: 'mean' has shape {tuple(mean.shape)}, wanted {tuple(points.shape[1:])} on {manifold.name}"
        )
    velocities = manifold.logmap(mean, points)
    basis = tangent_basis(manifold, mean)
    coordinates = manifold.inner(mean, velocities.unsqueeze(0), basis.unsqueeze(1)).movedim((0, 1), (-1, -2))
    weighted = coordinates * w.movedim(0, -1).unsqueeze(-1).sqrt()
    _, singular, axes = torch.linalg.svd(weighted, full_matrices=False)
    axes = axes[..., :k, :]
    ones = (1,) * manifold.ndim
    components = (axes.movedim((-2, -1), (0, 1)).reshape(k, len(basis), *w.shape[1:], *ones) * basis).sum(1)
    scores = (coordinates @ axes.mT).movedim((-1, -2), (0, 1))
    return TangentPCA(mean, components, singular[..., :k].square().movedim(-1, 0), scores)

"""Tangent spaces: orthonormal bases, and the area that two vectors span."""

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold

__all__ = ["over_area", "tangent_basis"]


def tangent_basis(manifold: Manifold, x: Tensor) -> Tensor:
    """Orthonormal basis, in the metric, of the tangent space at each point.

    The choice of basis is not continuous in `x`, and is not differentiated.

    Parameters
    ----------
    manifold : Manifold
        Any.
    x : Tensor
        Points, shape (*batch, *point).

    Returns
    -------
    Tensor
        Shape (d, *batch, *point), d the dimension of the manifold.
    """
    manifold.assert_check_point(x)
    x = x.detach()
    shape = x.shape[x.ndim - manifold.ndim :]
    batch, size, d = x.shape[: x.ndim - manifold.ndim], shape.numel(), manifold.dimension(*shape)
    units = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *(1,) * len(batch), *shape)
    spanning = manifold.proju(x, units.expand(size, *x.shape)).reshape(size, *batch, size).movedim(0, -2)
    # The projections of the unit vectors span the tangent space; the right singular vectors are a basis of it.
    basis = torch.linalg.svd(spanning, full_matrices=False).Vh[..., :d, :].movedim(-2, 0).reshape(d, *x.shape)
    gram = manifold.inner(x, basis.unsqueeze(0), basis.unsqueeze(1)).movedim((0, 1), (-2, -1))
    flat = basis.reshape(d, *batch, size).movedim(0, -2)
    flat = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), flat, upper=False)
    return flat.movedim(-2, 0).reshape(d, *x.shape)


def over_area(numerator: Tensor, uu: Tensor, uv: Tensor, vv: Tensor) -> Tensor:
    """Sectional curvature from <R(u, v) v, u> and the inner products of u and v; 0 where they span no plane."""
    squares = uu * vv
    area = squares - uv.square()
    flat = area <= torch.finfo(area.dtype).eps * squares
    return torch.where(flat, torch.zeros_like(area), numerator / torch.where(flat, torch.ones_like(area), area))

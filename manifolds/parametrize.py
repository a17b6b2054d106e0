"""Constraints by ``torch.nn.utils.parametrize``: weights on a manifold, trained by any plain torch optimizer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.parameter import as_manifold

__all__ = ["OnManifold", "rebase"]

_CHARTS = {"exp": Manifold.expmap, "retr": Manifold.retr}


class OnManifold(nn.Module):
    """Parametrization that keeps a tensor on a manifold: the tensor is chart(base, v), with v free.

    ``torch.nn.utils.parametrize.register_parametrization(layer, "weight", OnManifold(Stiefel()))`` makes
    ``layer.weight`` a point, at first the projection of the weight that was there. Assigning to ``layer.weight`` puts
    the base at the projection of what is assigned (with ``manifold.validate``, it has to be a point), and v at 0.
    The optimizer sees v, an unconstrained tensor of the same shape, which is projected to the tangent space at the
    base. The base is a buffer: ``state_dict`` restores the weight to the last bit.

    Far from the base a chart distorts: `rebase`, every hundred steps or so, moves the base to where the weight is.

    Parameters
    ----------
    manifold : Manifold
        Any manifold, of this library or of geoopt.
    chart : {"exp", "retr"}
        The exponential map, which reaches every point of a complete manifold, or the manifold's retraction, which is
        cheaper and may not.
    transpose : bool, optional
        Whether the points are the transposed matrices of the last two dimensions. Default: only where the shape
        does not fit otherwise, so that on the Stiefel manifold a wide matrix has orthonormal rows.

    Raises
    ------
    TypeError
        Where `manifold` is no manifold.
    ValueError
        Where `chart` is none of the names above.
    DimensionError
        When registered, where the shape of the tensor cannot hold points of the manifold.

    References
    ----------
    M. Lezcano-Casado, Trivializations for gradient-based optimization on manifolds, NeurIPS 2019.
    """

    base: Tensor | None

    def __init__(self, manifold: Manifold, *, chart: str = "exp", transpose: bool | None = None) -> None:
        super().__init__()
        if chart not in _CHARTS:
            raise ValueError(f"OnManifold: 'chart' must be one of {', '.join(_CHARTS)}, got {chart!r}")
        self.manifold = as_manifold(manifold)
        self.chart = chart
        self.transpose = transpose
        self.register_buffer("base", None)

    def extra_repr(self) -> str:
        """Return the arguments shown in ``repr``."""
        return f"chart={self.chart!r}, transpose={self.transpose}"

    def _transposes(self, x: Tensor) -> bool:
        """Whether points are the transposes of the matrices in `x`, a tensor of the layer's shape."""
        if self.transpose is not None:
            return self.transpose
        return x.ndim >= 2 and not self.manifold.check_point(x) and bool(self.manifold.check_point(x.mT))

    def forward(self, v: Tensor) -> Tensor:
        """Return the points that the free tensor stands for, in its shape."""
        if self.base is None:
            raise RuntimeError("OnManifold: there is no base point before register_parametrization")
        if self._transposes(v):
            return self._move(self.base.mT, v.mT).mT
        return self._move(self.base, v)

    def _move(self, x: Tensor, v: Tensor) -> Tensor:
        return _CHARTS[self.chart](self.manifold, x, self.manifold.proju(x, v))

    def right_inverse(self, x: Tensor) -> Tensor:
        """Put the base at the points `x` (projected to the manifold), and return the free tensor for it: zeros."""
        transposes = self._transposes(x)
        points = x.detach().mT if transposes else x.detach()
        try:
            self.manifold.assert_check_point(points)
        except DimensionError as error:
            raise DimensionError(f"OnManifold: a tensor of shape {tuple(x.shape)} does not fit: {error}") from None
        if self.manifold.validate:
            self.manifold.assert_check_point_on_manifold(points)
        points = self.manifold.projx(points)
        self.base = (points.mT if transposes else points).clone(memory_format=torch.contiguous_format)
        return torch.zeros_like(x)


@torch.no_grad()
def rebase(module: nn.Module) -> None:
    """Move the base of every `OnManifold` in a module to the present point: the weights stay, up to rounding.

    The free tensors become 0 in place, so that an optimizer goes on with them; its momentum is kept as it is.

    Parameters
    ----------
    module : Module
        Searched with all its submodules.
    """
    for owner in module.modules():
        if not is_parametrized(owner):
            continue
        parametrizations: Any = owner.parametrizations
        for name, chain in parametrizations.items():
            if any(isinstance(link, OnManifold) for link in chain):
                setattr(owner, name, getattr(owner, name))

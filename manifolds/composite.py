"""What manifolds that are made of others share: the movement of their parts, and metrics that add up."""

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.tangent import over_area

__all__ = ["Composite"]


class Composite(Manifold):
    """Base of manifolds whose operations are those of their parts, with the sum of the parts' metrics.

    A subclass says how operations reach the parts, by `_vector`, `_pair` and `_scalars`, and overrides what its metric
    does otherwise.
    """

    def _vector(self, operation: str, *tensors: Tensor) -> Tensor:
        """The result of an operation of the parts that gives points or vectors."""
        raise NotImplementedError

    def _pair(self, operation: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The same of one that gives two."""
        raise NotImplementedError

    def _scalars(self, operation: str, *tensors: Tensor) -> Tensor:
        """Numbers of the parts, in the last dimension."""
        raise NotImplementedError

    # -- projections and metric ------------------------------------------------------------------------------------

    def _projx(self, x: Tensor) -> Tensor:
        return self._vector("_projx", x)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._vector("_proju", x, u)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._vector("_egrad2rgrad", x, u)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._vector("_ehess2rhess", x, egrad, ehess, u)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._scalars("_inner", x, u, v).sum(-1)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self._scalars("_dist", x, y), dim=-1)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return self._scalars("_dist2", x, y).sum(-1)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        uu, uv, vv = (self._scalars("_inner", x, a, b) for a, b in ((u, u), (u, v), (v, v)))
        curved = self._scalars("_sectional_curvature", x, u, v) * (uu * vv - uv.square())
        return over_area(curved.sum(-1), uu.sum(-1), uv.sum(-1), vv.sum(-1))

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._vector("_expmap", x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._vector("_logmap", x, y)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._vector("_retr", x, u)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._vector("_transp", x, y, v)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._pair("_expmap_transp", x, u, v)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._pair("_retr_transp", x, u, v)

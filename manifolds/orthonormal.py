"""What Stiefel and Grassmann share: points that are held as n x p matrices with orthonormal columns."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.kernels.orthonormal import fused
from holonomy.manifolds.linalg import (
    cholesky_qr,
    combine_orthonormal,
    gram_gap,
    haar,
    nearest_orthonormal,
    polar,
    skew,
)

__all__ = ["OrthonormalColumns"]


class OrthonormalColumns(Manifold):
    """Base of the manifolds whose points are matrices x (..., n, p), n >= p >= 1, with x^T x = I.

    Parameters
    ----------
    retraction : str
        One of the names in ``retractions``; what ``retr`` does.
    validate : bool
        See `Manifold`.
    """

    ndim = 2

    def __init__(self, retraction: str, *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if retraction not in self.retractions:
            raise ValueError(f"{self.name}: 'retraction' must be one of {self.retractions}, got {retraction!r}")
        self.retraction = retraction

    def _config(self) -> dict[str, Any]:
        return {"retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-2] < shape[-1]:
            return f"wanted n >= p in the trailing dimensions (n, p), got n = {shape[-2]} and p = {shape[-1]}"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        gap = gram_gap(x)
        return None if gap <= tolerance else f"has x^T x off the identity by {gap:.3g} (tolerance {tolerance:.3g})"

    def _projx(self, x: Tensor) -> Tensor:
        return nearest_orthonormal(x)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        retractions = {"qr": _retr_qr, "polar": _retr_polar, "cayley": _retr_cayley}
        return retractions[self.retraction](x, u)

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return haar(size, dtype, device, generator)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.eye(size[-2], size[-1], dtype=dtype, device=device).expand(size).clone()


@fused("qr")
def _retr_qr(x: Tensor, u: Tensor) -> Tensor:
    return cholesky_qr(x + u)


@fused("polar")
def _retr_polar(x: Tensor, u: Tensor) -> Tensor:
    return polar(x + u)


def _retr_cayley(x: Tensor, u: Tensor) -> Tensor:
    """(I - w/2)^(-1) (I + w/2) x with w = p u x^T - x u^T p, p = I - x x^T/2, so that w x = u.

    The n x n system has rank 2p; eliminating one half of its 2p x 2p Woodbury form leaves a p x p one.
    """
    xu, uu = x.mT @ u, u.mT @ u
    a = skew(xu)
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    c = torch.linalg.inv_ex(identity - 0.5 * a + 0.25 * (uu - a.mT @ a))[0]
    return combine_orthonormal(x, 2.0 * c - identity - a @ c, u, c, uu, xu)

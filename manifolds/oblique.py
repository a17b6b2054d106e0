"""Matrices with columns of length 1."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.power import Power
from holonomy.manifolds.sphere import Sphere

__all__ = ["Oblique"]


class Oblique(Power):
    """OB(n, p) = {x in R^(n x p) : columns have length 1}, n >= 2: the product of p spheres, with the ambient metric.

    Everything is that of `Sphere`, column by column, and exact: exp, log, parallel transport, distance, with the sum of
    squares over columns. The diameter is pi sqrt(p); beyond the distance pi in any one column lies the cut locus.
    Random points are uniform. For points in rows, ``Power(Sphere())`` saves the transposition.

    Parameters
    ----------
    validate : bool
        See `Manifold`.

    References
    ----------
    P.-A. Absil, K. A. Gallivan, *Joint diagonalization on the oblique manifold*, ICASSP 2006.
    """

    name = "Oblique"

    def __init__(self, *, validate: bool = False) -> None:
        super().__init__(Sphere(), validate=validate)

    def _config(self) -> dict[str, Any]:
        return {}

    def _rows(self, t: Tensor) -> Tensor:
        return t.mT

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        if len(shape) >= self.ndim and shape[-2] < 2:
            return "wanted columns of at least 2 entries"
        return super(Power, self)._shape_error(shape)

    def _dimension(self, *shape: int) -> int:
        n, p = shape
        return (n - 1) * p

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        turned = (*size[:-2], size[-1], size[-2])
        return self._rows(super()._random(turned, dtype, device, generator)).contiguous()

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self._rows(super()._origin((*size[:-2], size[-1], size[-2]), dtype, device)).contiguous()

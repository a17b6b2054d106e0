"""Flags: nested subspaces, or mutually orthogonal ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.linalg import combine_orthonormal, nearest_rotation, skew, sym
from holonomy.manifolds.orthonormal import OrthonormalColumns
from holonomy.manifolds.stiefel_geodesics import geodesic_coefficients
from holonomy.manifolds.tangent import over_area

__all__ = ["Flag"]


class Flag(OrthonormalColumns):
    """Flags of R^n: mutually orthogonal subspaces of given dimensions, points being orthonormal bases side by side.

    A point is an n x p matrix with orthonormal columns, its first ``blocks[0]`` columns a basis of the first subspace,
    and so on; p is the sum of the blocks. Every choice of bases is the same point; nested subspaces are the sums of the
    first few. ``Flag((p,))`` is the Grassmann manifold, ``Flag((1,) * p)`` the Stiefel manifold up to signs.

    The metric is that of the quotient of the canonical Stiefel metric: a tangent vector is u = x a + k, x^T k = 0, with
    a skew-symmetric and 0 within each block, and <u, u> = |a|^2/2 + |k|^2. exp is exact: geodesics are those of the
    Stiefel manifold that start orthogonally to the bases' rotations. No closed form of log or distance is known, and
    they are not offered. ``transp`` is the projection at the target, with bases turned to agree block by block: a
    vector transport of first order. Random points are uniform.

    Parameters
    ----------
    blocks : sequence of int
        Dimensions of the subspaces, each at least 1.
    retraction : {"qr", "polar", "cayley"}
        What ``retr`` does; "cayley" agrees with ``expmap`` to second order, the others to first.
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `blocks` is empty or has an entry below 1, or `retraction` is not known.
    TypeError
        Where `blocks` does not hold whole numbers.
    DimensionError
        From every method, where points have not as many columns as the blocks together.

    References
    ----------
    K. Ye, K. S.-W. Wong, L.-H. Lim, *Optimization on flag manifolds*, Mathematical Programming 194, 2022.
    """

    name = "Flag"
    exact_transport = False
    retractions = ("qr", "polar", "cayley")

    def __init__(self, blocks: Sequence[int], retraction: str = "qr", *, validate: bool = False) -> None:
        super().__init__(retraction, validate=validate)
        blocks = tuple(blocks)
        if any(isinstance(size, bool) or not isinstance(size, int) for size in blocks):
            raise TypeError(f"{self.name}: 'blocks' must hold whole numbers, got {blocks!r}")
        if not blocks or min(blocks) < 1:
            raise ValueError(f"{self.name}: 'blocks' must hold at least one number, all at least 1, got {blocks!r}")
        self.blocks = blocks

    def _config(self) -> dict[str, Any]:
        return {"blocks": self.blocks, **super()._config()}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] != sum(self.blocks):
            return f"wanted {sum(self.blocks)} columns, as many as the blocks {self.blocks} have together"
        return reason

    def _dimension(self, *shape: int) -> int:
        n, p = shape
        squares = sum(size**2 for size in (*self.blocks, n - p))
        return (n**2 - squares) // 2

    # -- projections and metric ------------------------------------------------------------------------------------

    def _between(self, a: Tensor) -> Tensor:
        """p x p matrices with the blocks on the diagonal set to 0."""
        owner = [i for i, size in enumerate(self.blocks) for _ in range(size)]
        within = torch.tensor([[i == j for j in owner] for i in owner], device=a.device)
        return torch.where(within, torch.zeros_like(a), a)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        xu = x.mT @ u
        return u - x @ (xu - self._between(skew(xu)))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1)) - 0.5 * ((x.mT @ u) * (x.mT @ v)).sum((-2, -1))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        xu = x.mT @ u
        return u - x @ (xu - 2.0 * self._between(skew(xu)))

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # That of the canonical Stiefel metric for the lifted function, projected: the quotient is a submersion.
        g = self._egrad2rgrad(x, egrad)
        change = ehess - u @ (egrad.mT @ x) - x @ (ehess.mT @ x + egrad.mT @ u)
        a, b = x.mT @ u, x.mT @ g
        return self._proju(x, change + 0.5 * (u @ b.mT + g @ a.mT) + x @ sym(a @ b + u.mT @ g))

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        # Normal homogeneous space (O'Neill): |bracket_m|^2/4 + |bracket_h|^2, h the rotations within the blocks and
        # within the complement, by the blocks of the bracket of [[a, -k^T], [k, 0]] and [[b, -h^T], [h, 0]].
        a, b = self._between(skew(x.mT @ u)), self._between(skew(x.mT @ v))
        k, h = u - x @ (x.mT @ u), v - x @ (x.mT @ v)
        kk, kh, hh = k.mT @ k, k.mT @ h, h.mT @ h
        top = a @ b - b @ a - kh + kh.mT
        across = self._between(top)
        side = (k @ b - h @ a).square().sum((-2, -1))
        complement = (kk * hh).sum((-2, -1)) - (kh * kh.mT).sum((-2, -1))
        within = 0.5 * (top - across).square().sum((-2, -1))
        numerator = 0.125 * across.square().sum((-2, -1)) + 0.25 * side + within + complement
        return over_area(numerator, self._inner(x, u, u), self._inner(x, u, v), self._inner(x, v, v))

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        xu, uu = x.mT @ u, u.mT @ u
        a = skew(xu)
        m, n = geodesic_coefficients(a, uu - a.mT @ a, 0.5)
        return combine_orthonormal(x, m - a @ n, u, n, uu, xu)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        parts = zip(x.split(self.blocks, -1), y.split(self.blocks, -1), v.split(self.blocks, -1), strict=True)
        # The tangent vector in the bases of x is turned into the bases of y.
        turned = [part @ nearest_rotation(old.mT @ new) for old, new, part in parts]
        batch = torch.broadcast_shapes(*(t.shape[:-2] for t in turned))
        return self._proju(y, torch.cat([t.expand(*batch, *t.shape[-2:]) for t in turned], -1))

    # -- points ----------------------------------------------------------------------------------------------------

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        z = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        xz = x.mT @ z
        # A rotation between two blocks has half of the squared length of its entries.
        return z - x @ (xz - 2.0**0.5 * self._between(skew(xz)))

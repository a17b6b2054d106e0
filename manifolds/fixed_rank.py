"""Matrices of fixed rank, with the metric of the ambient space."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.linalg import SpectralFunction, polar, spectral_value, thin_svd
from holonomy.manifolds.spd_metrics import curvature_of_plane

__all__ = ["FixedRank"]


class FixedRank(Manifold):
    """Matrices {x in R^(m x n) : rank x = r}, with the metric tr(u^T v) of all matrices; dimension r (m + n - r).

    A point is the m x n matrix itself, not a tuple of factors: optimizers, parameters and batches take it as any other
    tensor. Inside, an operation takes one thin singular value decomposition of x (order m n min(m, n)) and then
    works with its bases, of m x r and n x r; a tangent vector is any matrix whose part that is normal to both the
    column space and the row space of x is 0. Equal singular values are regular. Rounding in x enters the bases divided
    by the lowest nonzero singular value: errors are of order eps s_1/s_r.

    exp, log and distance have no closed form, and are not offered. Both retractions agree with exp to second order.
    ``transp`` is the projection to the tangent space at the target: a vector transport, never longer than its argument,
    that differs from parallel transport by O(d^2). Curvature is exact, of either sign and, close to lower rank, large.

    Random points are a b^T/sqrt(r), a and b standard normal: entries are uncorrelated, of mean 0 and variance 1.

    Parameters
    ----------
    rank : int
        The rank r.
    retraction : {"svd", "orthographic"}
        What ``retr`` returns: the matrix of rank r nearest to x + u, or b v (u^T b v)^-1 u^T b for b = x + u and bases
        u, v of x: a linear system of r x r in place of a second decomposition, but not for steps so long that they make
        it singular.
    validate : bool
        See `Manifold`.

    Raises
    ------
    TypeError
        Where `rank` is no integer.
    ValueError
        Where `rank` is below 1, or `retraction` has no such name.
    DimensionError
        From every method, where matrices are too small for the rank.

    References
    ----------
    Vandereycken, Low-rank matrix completion by Riemannian optimization, SIAM J. Optim. 23, 2013.
    Absil, Oseledets, Low-rank retractions: a survey and new results, Comput. Optim. Appl. 62, 2015.
    """

    name = "FixedRank"
    ndim = 2
    exact_transport = False
    retractions = ("svd", "orthographic")

    def __init__(self, rank: int, retraction: str = "svd", *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise TypeError(f"{self.name}: 'rank' must be an integer, got {type(rank).__name__} {rank!r}")
        if rank < 1:
            raise ValueError(f"{self.name}: 'rank' must be at least 1, got {rank}")
        if retraction not in self.retractions:
            raise ValueError(f"{self.name}: 'retraction' must be one of {self.retractions}, got {retraction!r}")
        self.rank = rank
        self.retraction = retraction

    def _config(self) -> dict[str, Any]:
        return {"rank": self.rank, "retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and min(shape[-2:]) < self.rank:
            return f"wanted matrices of at least {self.rank} x {self.rank}, for rank {self.rank}"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        x = x.detach()
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        if not x.numel():
            return None
        s, r = torch.linalg.svdvals(x), self.rank
        if not bool((s[..., r - 1] > max(x.shape[-2:]) * torch.finfo(x.dtype).eps * s[..., 0]).all()):
            return f"has a rank below {r}: a singular value number {r} is {float(s[..., r - 1].amin()):.3g}"
        if s.shape[-1] > r:
            gap, allowed = float(s[..., r].amax()), tolerance * max(1.0, float(s.amax()))
            if gap > allowed:
                return f"has a rank above {r}: a singular value number {r + 1} is {gap:.3g} (tolerance {allowed:.3g})"
        return None

    def _dimension(self, *shape: int) -> int:
        return self.rank * (shape[-2] + shape[-1] - self.rank)

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Infimum over the manifold, 0: points may be as near to lower rank as one likes. Not offered at a point."""
        if x is not None:
            self._unavailable("injectivity_radius at a point")
        return 0.0

    def _bases(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal bases of the column space (..., m, r) and of the row space (..., n, r).

        The singular vectors v span what they did before x is differentiated, and x v/s the column space of any x: no
        singular vector is differentiated, and the matrix to orthonormalise is orthonormal at x itself.
        """
        left, s, right = thin_svd(x.detach())
        left, s, right = left[..., : self.rank], s[..., : self.rank], right[..., : self.rank, :].mT
        floor = torch.finfo(x.dtype).eps * s[..., :1] + torch.finfo(x.dtype).tiny
        scale = torch.maximum(s, floor).unsqueeze(-2)
        return polar(x @ (right / scale)), polar(x.mT @ (left / scale))

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """The nearest matrix of rank r at most: the first r terms of the singular value decomposition.

        Where x is of lower rank there is no nearest of rank r: the result is x. Where the singular values r and r + 1
        are equal the nearest is not unique, and the derivative large but finite.
        """
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        return _truncated(x, self.rank) if x.shape[-1] <= x.shape[-2] else _truncated(x.mT, self.rank).mT

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - _normal(*self._bases(x), u)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1))

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        left, right = self._bases(x)
        normal = _normal(left, right, egrad)
        # n u^T x^+T + x^+T u^T n, with the pseudo-inverse x^+T = left s^-T right^T.
        inverse = _inverse(left.mT @ x @ right).mT
        bend = (normal @ (u.mT @ left)) @ inverse @ right.mT + left @ (inverse @ ((u @ right).mT @ normal))
        return ehess - _normal(left, right, ehess) + bend

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """By Gauss: the second fundamental form of u, v is the normal part of u x^+ v + v x^+ u."""
        left, right = self._bases(x)
        inverse = _inverse(left.mT @ x @ right)
        parts = [(_off(left, w @ right), _off(right, w.mT @ left)) for w in (u, v)]

        def product(i: int, j: int, k: int, h: int) -> Tensor:
            """Inner product of a_i b_j and a_k b_h, a = (w right) s^-1 and b = left^T w, from r x r Gram matrices."""
            a = inverse.mT @ (parts[i][0].mT @ parts[k][0]) @ inverse
            return (a * (parts[j][1].mT @ parts[h][1])).sum((-2, -1))

        # II(u, u) = 2 a_u b_u, II(u, v) = a_u b_v + a_v b_u.
        mixed = product(0, 1, 0, 1) + product(1, 0, 1, 0) + 2.0 * product(0, 1, 1, 0)
        squares = [self._inner(x, s, t) for s, t in ((u, u), (u, v), (v, v))]
        return curvature_of_plane(4.0 * product(0, 0, 1, 1) - mixed, *squares)

    # -- movement --------------------------------------------------------------------------------------------------

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        moved = x + u
        if self.retraction == "svd":
            return self._projx(moved)
        left, right = self._bases(x)
        columns, rows = moved @ right, left.mT @ moved
        return columns @ (_inverse(left.mT @ columns) @ rows)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._proju(y, v).expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        columns = torch.randn((*size[:-1], self.rank), dtype=dtype, device=device, generator=generator)
        rows = torch.randn((*size[:-2], self.rank, size[-1]), dtype=dtype, device=device, generator=generator)
        return self.rank**-0.5 * columns @ rows

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        point = torch.eye(size[-2], size[-1], dtype=dtype, device=device)
        point[self.rank :] = 0.0
        return point.expand(size).clone()


def _off(basis: Tensor, w: Tensor) -> Tensor:
    """Part of the columns of w that is orthogonal to the basis."""
    return w - basis @ (basis.mT @ w)


def _normal(left: Tensor, right: Tensor, u: Tensor) -> Tensor:
    """Part of u that is orthogonal to the column space and to the row space."""
    rest = _off(left, u)
    return rest - (rest @ right) @ right.mT


def _inverse(s: Tensor) -> Tensor:
    return torch.linalg.inv_ex(s)[0]


def _step_first(s: Tensor, t: Tensor) -> Tensor:
    across = (s > 0) != (t > 0)
    return torch.where(across, 1.0 / torch.where(across, (s - t).abs(), torch.ones_like(s - t)), 0.0)


def _step_second(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
    # Of three points two are on one side: 1/((l - a)(l - b)) for the lone one l, with the sign of the other side.
    a, b, c = r > 0, s > 0, t > 0
    rs, st, rt = (_step_first(*pair) for pair in ((r, s), (s, t), (r, t)))
    product = torch.where(b == c, rs * rt, torch.where(a == c, rs * st, rt * st))
    lone = torch.where(b == c, a, torch.where(a == c, b, c))
    return torch.where(lone, product, -product)


#: 1 for s > 0, else 0: of a matrix, the projector to its positive eigenspace.
_STEP = SpectralFunction(lambda s: (s > 0).to(s.dtype), _step_first, _step_second)


def _truncated(a: Tensor, rank: int) -> Tensor:
    """Nearest matrix of this rank to tall a: a times the projector to its first right singular vectors."""
    n = a.shape[-1]
    if rank == n:
        return a
    _, s, vh = thin_svd(a.detach())
    squares = s.square()
    middle = 0.5 * (squares[..., rank - 1 : rank] + squares[..., rank : rank + 1])
    least = torch.finfo(a.dtype).eps * squares[..., :1] + torch.finfo(a.dtype).tiny
    inside = torch.arange(n, device=a.device) < rank
    # Shifted so that 0 separates them, and apart also where they are equal.
    shifted = torch.where(inside, torch.maximum(squares - middle, least), torch.minimum(squares - middle, -least))
    return a @ spectral_value(a.mT @ a, shifted, vh.mT, _STEP)

"""Matrices of fixed rank, with the metric of the ambient space."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.linalg import polar, thin_svd
from holonomy.manifolds.tangent import over_area

__all__ = ["FixedRank"]


class FixedRank(Manifold):
    """Matrices {x in R^(m x n) : rank x = r}, with the metric tr(u^T v) of all matrices; dimension r (m + n - r).

    A point is the m x n matrix itself, not a tuple of factors: optimizers, parameters and batches take it as any other
    tensor. Inside, operations work with bases of its column space and its row space, of m x r and n x r: time is of
    order m n r, but for ``projx``, which decomposes any matrix. A tangent vector is a matrix whose part that is normal
    to both spaces is 0. Equal singular values are regular. Rounding in x enters the bases divided by the lowest nonzero
    singular value: errors are of order eps s_1/s_r.

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
        left, s, right = _singular(x.detach(), self.rank)
        left, s, right = left[..., : self.rank], s[..., : self.rank], right[..., : self.rank]
        floor = torch.finfo(x.dtype).eps * s[..., :1] + torch.finfo(x.dtype).tiny
        scale = torch.maximum(s, floor).unsqueeze(-2)
        return polar(x @ (right / scale)), polar(x.mT @ (left / scale))

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """The nearest matrix of rank r at most: the first r terms of the singular value decomposition.

        Where x is of lower rank there is no nearest of rank r: the result is x. Where the singular values r and r + 1
        are equal the nearest is not unique, and the derivative is large but finite.
        """
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        if self.rank == min(x.shape[-2:]):
            return x
        _, s, right = thin_svd(x.detach())
        return _truncated(x, self.rank, s, right.mT)

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
        return over_area(4.0 * product(0, 0, 1, 1) - mixed, *squares)

    # -- movement --------------------------------------------------------------------------------------------------

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        moved = x + u
        if self.retraction == "svd":
            if self.rank == min(x.shape[-2:]):
                return moved
            # The rank of x + u is 2 r at most.
            _, s, right = _singular(moved.detach(), 2 * self.rank)
            return _truncated(moved, self.rank, s, right)
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


#: More columns than the rank in the search for a range; matrices up to four times as large are decomposed as they are.
_OVERSAMPLING = 8


def _singular(a: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors, values and right singular vectors of a (..., m, n) of this rank at most, `rank` or more.

    Of large a by its range, in order m n rank (Halko, Martinsson, Tropp, SIAM Review 53, 2011, with one iteration). The
    matrix that finds it is fixed: the same a gives the same vectors.
    """
    columns, (m, n) = rank + _OVERSAMPLING, a.shape[-2:]
    if min(m, n) <= 4 * columns:
        left, s, right = thin_svd(a)
        return left, s, right.mT
    places = torch.arange(1, n * columns + 1, dtype=torch.float64, device=a.device)
    probe = torch.frac(43758.5453 * torch.sin(12.9898 * places)).reshape(n, columns).to(a.dtype)
    rows = torch.linalg.qr(a.mT @ torch.linalg.qr(a @ probe)[0])[0]
    left, s, right = thin_svd(a @ rows)
    return left, s, rows @ right.mT


def _truncated(a: Tensor, rank: int, s: Tensor, right: Tensor) -> Tensor:
    """Nearest matrix of this rank to a: a times the projector to its first right singular vectors.

    `s` and `right` are all singular values that are not 0 and their vectors, as constants. The vectors v = first + t of
    another a solve (I - v first^T) a^T a v = 0: Newton's iteration from the solution itself, t = 0, with the inverse
    Jacobian frozen, gives one order of the derivative a step.
    """
    first, rest = right[..., :rank], right[..., rank:]
    squares = s.square()
    top, low = squares[..., None, :rank], squares[..., rank:, None]
    floor = torch.finfo(a.dtype).eps * squares[..., :1, None] + torch.finfo(a.dtype).tiny
    alone = 1.0 / torch.maximum(top, floor)
    beside = 1.0 / torch.maximum(top - low, floor) - alone
    v = first
    for _ in range(2):
        w = a.mT @ (a @ v)
        f = w - v @ (first.mT @ w)
        v = v + f * alone + rest @ ((rest.mT @ f) * beside)
    v = first + (v - v.detach())
    gram = 2.0 * torch.eye(rank, dtype=a.dtype, device=a.device) - v.mT @ v  # (v^T v)^-1 to second order
    return (a @ v) @ gram @ v.mT

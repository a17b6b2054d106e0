"""The rotation groups SO(n), with the bi-invariant metric or any that is invariant from the left and diagonal."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.linalg import cholesky_qr, gram_gap, haar, nearest_rotation, skew
from holonomy.manifolds.rotations import rotation_exp, rotation_log
from holonomy.manifolds.tangent import over_area

__all__ = ["SpecialOrthogonal"]

Weights = Tensor | Sequence[Sequence[float]]


class SpecialOrthogonal(Manifold):
    """SO(n) = {x in R^(n x n) : x^T x = I, det x = 1}, n >= 2; tangent vectors at x are x a with a skew-symmetric.

    The metric is <x a, x b> = sum_ij w_ij a_ij b_ij. Without weights it is that of the ambient space and bi-invariant:
    geodesics are x exp(t a), exp, log, distance and parallel transport are exact, and a rotation of a plane by the
    angle t is at the distance sqrt(2) t. log keeps its digits up to rotations by pi; there it is one of the two
    shortest. Its derivative exists as long as no two angles add up to 2 pi.

    With weights the metric is only left-invariant (a rigid body's kinetic energy, say). Geodesics then solve Euler's
    equations, for which there is no general closed form: ``expmap``, ``logmap`` and ``dist`` are not offered, ``retr``
    follows the one-parameter group (first order), and ``transp`` moves vectors by left translation, which is an
    isometry, but not the parallel transport.

    Random points are uniform (Haar).

    Parameters
    ----------
    weights : Tensor or nested sequence of float, optional
        Positive, symmetric, shape (n, n); the diagonal does not matter. Kept exactly, as numbers.
    retraction : {"exp", "cayley", "qr"}
        What ``retr`` does; "cayley" agrees with exp to second order, "qr" to first (without weights).
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `weights` is not square, symmetric and positive, or `retraction` is not known.

    References
    ----------
    J. Milnor, *Curvatures of left invariant metrics on Lie groups*, Advances in Mathematics 21, 1976.
    """

    name = "SpecialOrthogonal"
    ndim = 2
    retractions = ("exp", "cayley", "qr")

    def __init__(self, weights: Weights | None = None, retraction: str = "exp", *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if retraction not in self.retractions:
            raise ValueError(f"{self.name}: 'retraction' must be one of {self.retractions}, got {retraction!r}")
        self.retraction = retraction
        self.weights = None if weights is None else _checked(weights)
        # These are of the metric and the retraction, not of the class.
        self.reversible = weights is None and retraction == "exp"  # type: ignore[misc]
        self.exact_transport = weights is None  # type: ignore[misc]

    def _config(self) -> dict[str, Any]:
        return {"weights": self.weights, "retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and (shape[-1] != shape[-2] or shape[-1] < 2):
            return "wanted square matrices of at least 2 x 2"
        if reason is None and self.weights is not None and shape[-1] != len(self.weights):
            return f"wanted {len(self.weights)} x {len(self.weights)} matrices, as the weights are"
        return reason

    def _dimension(self, *shape: int) -> int:
        return shape[-1] * (shape[-1] - 1) // 2

    def _injectivity_radius(self) -> float:
        if self.weights is not None:
            self._unavailable("injectivity_radius")
        return math.sqrt(2.0) * math.pi

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        gap = gram_gap(x)
        if gap > tolerance:
            return f"has x^T x off the identity by {gap:.3g} (tolerance {tolerance:.3g})"
        lowest = float(torch.linalg.det(x).amin()) if x.numel() else 1.0
        return None if lowest > 0.0 else "has a determinant of -1, wanted rotations"

    # -- projections and metric ------------------------------------------------------------------------------------

    def _projx(self, x: Tensor) -> Tensor:
        return nearest_rotation(x, proper=True)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return x @ skew(x.mT @ u)

    def _weights(self, x: Tensor) -> Any:
        return 1.0 if self.weights is None else torch.tensor(self.weights, dtype=x.dtype, device=x.device)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        if self.weights is None:
            return (u * v).sum((-2, -1))
        return (self._weights(x) * (x.mT @ u) * (x.mT @ v)).sum((-2, -1))

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return x @ (skew(x.mT @ u) / self._weights(x))

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        weights, a = self._weights(x), x.mT @ u
        gradient = skew(x.mT @ egrad) / weights
        change = skew(u.mT @ egrad + x.mT @ ehess) / weights
        return x @ (change + _connection(a, gradient, weights))

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        a, b = skew(x.mT @ u), skew(x.mT @ v)
        uu, uv, vv = self._inner(x, u, u), self._inner(x, u, v), self._inner(x, v, v)
        if self.weights is None:
            return over_area(0.25 * _bracket(a, b).square().sum((-2, -1)), uu, uv, vv)
        weights = self._weights(x)

        def along(a: Tensor, b: Tensor) -> Tensor:
            return _connection(a, b, weights)

        bend = along(a, along(b, b)) - along(b, along(a, b)) - along(_bracket(a, b), b)
        return over_area((weights * bend * a).sum((-2, -1)), uu, uv, vv)

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        if self.weights is not None:
            self._unavailable("expmap with weights")
        return _step(x, rotation_exp(skew(x.mT @ u)))

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        if self.weights is not None:
            self._unavailable("logmap with weights")
        return x @ rotation_log(x.mT @ y)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        if self.weights is not None:
            self._unavailable("dist with weights")
        return torch.linalg.vector_norm(rotation_log(x.mT @ y), dim=(-2, -1))

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        a = skew(x.mT @ u)
        if self.retraction == "exp":
            return _step(x, rotation_exp(a))
        identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        if self.retraction == "qr":
            return _step(x, cholesky_qr(identity + a))
        return _step(x, torch.linalg.solve(identity - 0.5 * a, identity + 0.5 * a))

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        if self.weights is not None:
            return y @ skew(x.mT @ v)
        half = rotation_exp(0.5 * rotation_log(x.mT @ y))
        return x @ half @ skew(x.mT @ v) @ half

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        # Along the given geodesic, also past the cut locus.
        if self.weights is not None:
            self._unavailable("expmap with weights")
        half = rotation_exp(0.5 * skew(x.mT @ u))
        return _step(x, half @ half), x @ half @ skew(x.mT @ v) @ half

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if self.weights is None and self.retraction == "exp":
            return self._expmap_transp(x, u, v)
        y = self._retr(x, u)
        return y, self._transp(x, y, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        q = haar(size, dtype, device, generator)
        sign = torch.linalg.det(q).sign()[..., None, None]
        # One reflection makes rotations of the other half, uniform too.
        return torch.cat([q[..., :1] * sign, q[..., 1:]], -1)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        a = skew(torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator))
        return x @ (a if self.weights is None else a / self._weights(x).sqrt())

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.eye(size[-1], dtype=dtype, device=device).expand(size).clone()


def _checked(weights: Any) -> tuple[tuple[float, ...], ...]:
    """Check the weights of a metric, and set the diagonal, which no tangent vector has, to 1."""
    name = SpecialOrthogonal.name
    rows = weights.tolist() if isinstance(weights, Tensor) else [list(row) for row in weights]
    n = len(rows)
    if n < 2 or any(not isinstance(row, list) or len(row) != n for row in rows):
        raise ValueError(f"{name}: 'weights' must be a square matrix of at least 2 x 2, got {weights!r}")
    table = tuple(tuple(1.0 if i == j else float(rows[i][j]) for j in range(n)) for i in range(n))
    if any(table[i][j] != table[j][i] or not 0.0 < table[i][j] < math.inf for i in range(n) for j in range(n)):
        raise ValueError(f"{name}: 'weights' must be symmetric, positive and finite, got {weights!r}")
    return table


def _bracket(a: Tensor, b: Tensor) -> Tensor:
    return a @ b - b @ a


def _connection(a: Tensor, b: Tensor, weights: Any) -> Tensor:
    """Levi-Civita derivative of the left-invariant field b along a: ([a, b] - ad_a^* b - ad_b^* a)/2 (Milnor)."""
    if not isinstance(weights, Tensor):
        return 0.5 * _bracket(a, b)
    return 0.5 * (_bracket(a, b) - (_bracket(weights * b, a) + _bracket(weights * a, b)) / weights)


def _step(x: Tensor, r: Tensor) -> Tensor:
    """x r, with one Newton-Schulz step towards orthonormal columns: roundings of many steps do not add up."""
    y = x @ r
    return 1.5 * y - 0.5 * y @ (y.mT @ y)

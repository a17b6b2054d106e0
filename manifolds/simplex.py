"""The probability simplex with the Fisher-Rao metric."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.functions import asinc, cosm1c, sinc
from holonomy.manifolds.kernels.simplex import fuse

__all__ = ["Simplex"]


class Simplex(Manifold):
    """Probability vectors {x in R^n : x_i > 0, sum x = 1} with the Fisher-Rao metric <u, v>_x = sum u_i v_i / x_i.

    Tangent vectors sum to 0. The map x -> 2 sqrt(x) is an isometry to the positive orthant of the sphere of radius 2:
    curvature is 1/4, distances are at most pi, and exp, log, parallel transport and distance are exact. A geodesic
    that leaves the open simplex is reflected at the face that it meets (coordinates are squares: no entry becomes
    negative). Random points are uniform in Lebesgue measure, Dirichlet(1, ..., 1); the law that is uniform in the
    volume of the metric is Dirichlet(1/2, ..., 1/2), drawn by ``simplex.from_sphere(Sphere().random(...))``.

    Points with zero entries belong to a face, and are valid: distances from them are right. Vectors at such a point
    are those of the face: components at zero entries are dropped (their length is infinite), log is the part of the
    velocity along the face, and gradients with respect to zero entries, infinite in truth, are 0. No step leaves a
    face. ``torch.softmax`` makes points of the open simplex from unconstrained numbers.

    Parameters
    ----------
    retraction : str
        What ``retr`` is. ``"softmax"``: x exp(u / x) normalised, which agrees with exp to first order and never
        crosses a face. ``"exp"``: the exponential map (``reversible``, as Monte-Carlo samplers need).
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `retraction` is not one of the names above.

    References
    ----------
    N. Ay, J. Jost, H. V. Le, L. Schwachhöfer, *Information Geometry*, Springer 2017, chapter 2.
    """

    name = "Simplex"
    retractions = ("softmax", "exp")

    def __init__(self, retraction: str = "softmax", *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if retraction not in self.retractions:
            raise ValueError(f"Simplex: 'retraction' must be one of {', '.join(self.retractions)}, got {retraction!r}")
        self.retraction = retraction
        self.reversible = retraction == "exp"  # type: ignore[misc]  # depends on the retraction

    def _config(self) -> dict[str, Any]:
        return {"retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] < 2:
            return "wanted a last dimension of at least 2"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        lowest = float(x.detach().amin())
        if lowest < -tolerance:
            return f"has negative entries, down to {lowest:.3g}"
        total = x.detach().sum(-1).flatten()
        worst = float(total[(total - 1.0).abs().argmax()])
        if abs(worst - 1.0) > tolerance:
            return f"must sum to 1 over the last dimension, but a point sums to {worst:.6g} (tolerance {tolerance:.3g})"
        return None

    def _dimension(self, *shape: int) -> int:
        return shape[-1] - 1

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Distance from `x` to the nearest face, 2 asin(sqrt(min x)): beyond it exp is no longer one to one.

        For several points the smallest; without `x`, the infimum over the open simplex, 0.
        """
        if x is None:
            return 0.0
        self._check_inputs("injectivity_radius", {"x": x})
        return 2.0 * math.asin(math.sqrt(min(max(float(x.detach().amin()), 0.0), 1.0)))

    # -- isometry to the sphere ------------------------------------------------------------------------------------

    def to_sphere(self, x: Tensor) -> Tensor:
        """Map points to the unit sphere, sqrt(x): distances on the simplex are twice those there."""
        return self._evaluate(_root, x=x)

    def from_sphere(self, x: Tensor) -> Tensor:
        """Map points of the unit sphere to the simplex, x^2: the inverse of `to_sphere` on the positive orthant."""

        def from_sphere(x: Tensor) -> Tensor:
            return x.square()

        return self._evaluate(from_sphere, ambient=("x",), x=x)

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Set negative entries to 0 and divide by the sum; the uniform distribution where no entry is positive.

        That is the nearest point in the Kullback-Leibler sense, and, on the sphere of square roots, the nearest point
        in the metric. It keeps positive entries positive (the nearest point in the Euclidean sense would set many to 0,
        where steps could not leave).
        """
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        x = x.clamp_min(0.0)
        total = x.sum(-1, keepdim=True)
        empty = total == 0
        return torch.where(empty, torch.full_like(x, 1.0 / x.shape[-1]), x / torch.where(empty, 1.0, total))

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        u = torch.where(x <= 0, torch.zeros_like(u), u)
        return u - u.sum(-1, keepdim=True) * x

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return x * (u - (x * u).sum(-1, keepdim=True))

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # The cone of positive measures is flat with Christoffel symbols -1/(2x), and x is normal to the simplex in it.
        return self._proju(x, x * ehess + 0.5 * u * (egrad - (x * egrad).sum(-1, keepdim=True)))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * _over(v, x)).sum(-1)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return torch.full_like(self._inner(x, u, v), 0.25)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return _dist(x, y)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return _dist2(x, y)

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return _expmap(x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return _logmap(x, y)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return _transp(x, y, v)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        growth, s = _growth(x, u)
        along = 0.25 * (u * _over(v, x)).sum(-1, keepdim=True)
        w = growth * (torch.where(x <= 0, torch.zeros_like(v), v) - along * (2.0 * sinc(s) * x + 0.5 * cosm1c(s) * u))
        y = x * growth.square()
        return y / y.sum(-1, keepdim=True), w

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        if self.retraction == "exp":
            return self._expmap(x, u)
        return _softmax_retr(x, u)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if self.retraction == "exp":
            return self._expmap_transp(x, u, v)
        return super()._retr_transp(x, u, v)

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self._projx(torch.empty(size, dtype=dtype, device=device).exponential_(generator=generator))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        s = _root(x)
        z = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return s * z - (s * z).sum(-1, keepdim=True) * x

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.full(size, 1.0 / size[-1], dtype=dtype, device=device)


def _over(u: Tensor, x: Tensor) -> Tensor:
    """u / x, and 0 where x is 0: there is no motion off a face."""
    zero = x <= 0
    return torch.where(zero, torch.zeros_like(u), u / torch.where(zero, torch.ones_like(x), x))


def _root(x: Tensor) -> Tensor:
    """sqrt(x), whose derivative at 0 is taken as 0."""
    zero = x <= 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).sqrt())


def _root_gap(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x) - sqrt(y) with full relative precision for close x and y."""
    x, y = (torch.where(t <= 0, torch.zeros_like(t), t) for t in (x, y))
    return _over(x - y, _root(x) + _root(y))


def _growth(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(y / x) at the end y of the geodesic, negative after a reflection; and the squared angle it spans."""
    w = _over(u, x)
    s = 0.25 * (u * w).sum(-1, keepdim=True)
    return 1.0 - 0.5 * s * cosm1c(s) + 0.5 * w * sinc(s), s


# -- maps with kernels behind them ---------------------------------------------------------------------------------


@fuse("dist")
def _dist(x: Tensor, y: Tensor) -> Tensor:
    gap = _root_gap(x, y)
    return 2.0 * torch.linalg.vector_norm(gap, dim=-1) * asinc(0.25 * gap.square().sum(-1))


@fuse("dist2")
def _dist2(x: Tensor, y: Tensor) -> Tensor:
    chord2 = _root_gap(x, y).square().sum(-1)
    return 4.0 * chord2 * asinc(0.25 * chord2).square()


@fuse("expmap")
def _expmap(x: Tensor, u: Tensor) -> Tensor:
    y = x * _growth(x, u)[0].square()
    # A point that drifted by one rounding stays there: without this, 10,000 steps would add up.
    return y / y.sum(-1, keepdim=True)


@fuse("logmap")
def _logmap(x: Tensor, y: Tensor) -> Tensor:
    gap = _root_gap(x, y)
    chord2 = gap.square().sum(-1, keepdim=True)
    q = 0.25 * chord2  # at most 1/2: the angle is at most a right one
    return asinc(q) / (1.0 - q).sqrt() * (chord2 * x - 2.0 * _root(x) * gap)


@fuse("transp")
def _transp(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    s, t = _root(x), _root(y)
    moved = t * _over(v, s)
    cochord2 = (s + t).square().sum(-1, keepdim=True)
    return moved - 2.0 * moved.sum(-1, keepdim=True) / cochord2 * t * (s + t)


@fuse("retr")
def _softmax_retr(x: Tensor, u: Tensor) -> Tensor:
    w = _over(u, x)
    y = x * torch.exp(w - w.amax(-1, keepdim=True))
    return y / y.sum(-1, keepdim=True)

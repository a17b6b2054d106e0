"""The groups SE(n) of rigid motions, with a left-invariant metric whose geodesics are known, and their Lie algebra."""

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.curvature import checked
from holonomy.manifolds.linalg import skew
from holonomy.manifolds.rotations import rotation_exp, rotation_integral, rotation_log
from holonomy.manifolds.special_orthogonal import SpecialOrthogonal
from holonomy.manifolds.tangent import over_area

__all__ = ["SpecialEuclidean"]


class SpecialEuclidean(Manifold):
    """SE(n): rigid motions p -> r p + t of R^n as matrices [[r, t], [0, 1]] of shape (n + 1, n + 1), n >= 2.

    The metric <u, v> = tr(a^T b) + w s . t, for u = [[r a, s], [0, 0]] and v = [[r b, t], [0, 0]] tangent at a motion
    with rotation r, is invariant from the left (no metric of SE(n) is from both sides), and makes SE(n) the product of
    `SpecialOrthogonal` and R^n. exp, log, distance and parallel transport are those of the product, and exact: the
    body turns about its origin while that moves on a straight line.

    The screw motions of robotics, one-parameter subgroups, are geodesics of no metric; they are here as ``group_exp``
    and ``group_log``, with ``compose``, ``inverse`` and ``adjoint``, and as a retraction of first order.

    Random points have uniform rotations and standard normal translations.

    Parameters
    ----------
    weight : float
        The factor w of squared lengths of translations against those of rotations.
    retraction : {"exp", "screw"}
        What ``retr`` does.
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `weight` is not positive and finite, or `retraction` is not known.

    References
    ----------
    F. C. Park, *Distance metrics on the rigid-body motions with applications to mechanism design*, J. Mechanical Design
    117, 1995. J. Solà, J. Deray, D. Atchuthan, *A micro Lie theory for state estimation in robotics*, 2018, for the
    group's own operations.
    """

    name = "SpecialEuclidean"
    ndim = 2
    retractions = ("exp", "screw")

    def __init__(self, weight: float = 1.0, retraction: str = "exp", *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        if retraction not in self.retractions:
            raise ValueError(f"{self.name}: 'retraction' must be one of {self.retractions}, got {retraction!r}")
        if isinstance(weight, Tensor):
            raise TypeError(f"{self.name}: 'weight' must be a number, got a tensor")
        self.weight = float(checked(weight, self.name, "weight"))
        self.retraction = retraction
        self.reversible = retraction == "exp"  # type: ignore[misc]  # of this retraction
        self._rotations = SpecialOrthogonal()

    def _config(self) -> dict[str, Any]:
        return {"weight": self.weight, "retraction": self.retraction}

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and (shape[-1] != shape[-2] or shape[-1] < 3):
            return "wanted square matrices of at least 3 x 3"
        return reason

    def _dimension(self, *shape: int) -> int:
        n = shape[-1] - 1
        return n * (n + 1) // 2

    def _injectivity_radius(self) -> float:
        return math.sqrt(2.0) * math.pi

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        if _bottom_gap(x, 1.0) > tolerance:
            return f"has a last row other than (0, ..., 0, 1), off by {_bottom_gap(x, 1.0):.3g}"
        reason = self._rotations._point_error(_rotation(x), tolerance)
        return None if reason is None else f"has a rotation part that {reason}"

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(u).all()):
            return "has NaN or infinite entries"
        gap = _bottom_gap(u, 0.0)
        reason = self._rotations._vector_error(_rotation(x), _rotation(u), tolerance)
        return reason if gap == 0.0 else f"is not tangent at the point: its last row is off 0 by {gap:.3g}"

    # -- the group -------------------------------------------------------------------------------------------------

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """The motion `y` followed by `x`: the matrix product."""

        def compose(x: Tensor, y: Tensor) -> Tensor:
            return x @ y

        return self._evaluate(compose, x=x, y=y)

    def inverse(self, x: Tensor) -> Tensor:
        """The inverse motion [[r^T, -r^T t], [0, 1]]."""

        def inverse(x: Tensor) -> Tensor:
            return _inverse(x)

        return self._evaluate(inverse, x=x)

    def act(self, x: Tensor, p: Tensor) -> Tensor:
        """Move points `p` of R^n, shape (..., n), by the motions `x`, shape (..., n + 1, n + 1); batches broadcast."""
        self._require_shape("act", "x", x.shape)
        return (_rotation(x) @ p.unsqueeze(-1)).squeeze(-1) + _translation(x)

    def adjoint(self, x: Tensor, w: Tensor) -> Tensor:
        """x w x^(-1): the tangent vector `w` at the identity, in the frame that `x` moves."""

        def adjoint(x: Tensor, a: Tensor) -> Tensor:
            return x @ a @ _inverse(x)

        return self._evaluate(adjoint, x=x, a=w)

    def group_exp(self, w: Tensor) -> Tensor:
        """Exponential of the group, the screw motion exp(w) of a tangent vector `w` at the identity."""

        def group_exp(a: Tensor) -> Tensor:
            w = skew(_rotation(a))
            return _joined(rotation_exp(w), _matvec(rotation_integral(w), _translation(a)), 1.0)

        return self._evaluate(group_exp, a=w)

    def group_log(self, x: Tensor) -> Tensor:
        """Logarithm of the group: the w with exp(w) = `x` whose rotation angles are at most pi."""

        def group_log(x: Tensor) -> Tensor:
            a = rotation_log(_rotation(x))
            b = torch.linalg.solve_ex(rotation_integral(a), _translation(x).unsqueeze(-1))[0]
            return _joined(a, b.squeeze(-1), 0.0)

        return self._evaluate(group_log, x=x)

    # -- projections and metric ------------------------------------------------------------------------------------

    def _projx(self, x: Tensor) -> Tensor:
        return _joined(self._rotations._projx(_rotation(x)), _translation(x), 1.0)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        r = self._rotations._proju(_rotation(x), _rotation(u))
        return _joined(r, _translation(u), 0.0)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        turned = self._rotations._inner(_rotation(x), _rotation(u), _rotation(v))
        return turned + self.weight * (_translation(u) * _translation(v)).sum(-1)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return _joined(self._rotations._egrad2rgrad(_rotation(x), _rotation(u)), _translation(u) / self.weight, 0.0)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        r = self._rotations._ehess2rhess(*(_rotation(t) for t in (x, egrad, ehess, u)))
        return _joined(r, _translation(ehess) / self.weight, 0.0)

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        r, a, b = (_rotation(t) for t in (x, u, v))
        inner = self._rotations._inner
        area = inner(r, a, a) * inner(r, b, b) - inner(r, a, b).square()
        curved = self._rotations._sectional_curvature(r, a, b) * area
        return over_area(curved, self._inner(x, u, u), self._inner(x, u, v), self._inner(x, v, v))

    # -- movement --------------------------------------------------------------------------------------------------

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        r = self._rotations._expmap(_rotation(x), _rotation(u))
        return _joined(r, _translation(x) + _translation(u), 1.0)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        r = self._rotations._logmap(_rotation(x), _rotation(y))
        return _joined(r, _translation(y) - _translation(x), 0.0)

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        if self.retraction == "exp":
            return self._expmap(x, u)
        r = _rotation(x)
        along = rotation_integral(skew(r.mT @ _rotation(u)))
        moved = _matvec(r @ along @ r.mT, _translation(u))
        return _joined(self._rotations._expmap(r, _rotation(u)), _translation(x) + moved, 1.0)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        r = self._rotations._transp(_rotation(x), _rotation(y), _rotation(v))
        return _joined(r, _translation(v), 0.0)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        r, w = self._rotations._expmap_transp(_rotation(x), _rotation(u), _rotation(v))
        return _joined(r, _translation(x) + _translation(u), 1.0), _joined(w, _translation(v), 0.0)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if self.retraction == "exp":
            return self._expmap_transp(x, u, v)
        # The rotation part of a screw is a geodesic, and translations are carried unchanged along any path.
        return self._retr(x, u), self._expmap_transp(x, u, v)[1]

    # -- points ----------------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        *batch, n = (*size[:-2], size[-1] - 1)
        r = self._rotations._random((*batch, n, n), dtype, device, generator)
        return _joined(r, torch.randn((*batch, n), dtype=dtype, device=device, generator=generator), 1.0)

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        r = self._rotations._random_tangent(_rotation(x), generator)
        t = torch.randn(x[..., 0, :-1].shape, dtype=x.dtype, device=x.device, generator=generator)
        return _joined(r, t / math.sqrt(self.weight), 0.0)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.eye(size[-1], dtype=dtype, device=device).expand(size).clone()


def _rotation(x: Tensor) -> Tensor:
    return x[..., :-1, :-1]


def _translation(x: Tensor) -> Tensor:
    return x[..., :-1, -1]


def _matvec(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.unsqueeze(-1)).squeeze(-1)


def _joined(r: Tensor, t: Tensor, corner: float) -> Tensor:
    """[[r, t], [0, corner]]."""
    n = r.shape[-1]
    batch = torch.broadcast_shapes(r.shape[:-2], t.shape[:-1])
    top = torch.cat([r.expand(*batch, n, n), t.expand(*batch, n).unsqueeze(-1)], -1)
    bottom = torch.nn.functional.pad(top.new_full((*batch, 1, 1), corner), (n, 0))
    return torch.cat([top, bottom], -2)


def _inverse(x: Tensor) -> Tensor:
    r = _rotation(x).mT
    return _joined(r, -_matvec(r, _translation(x)), 1.0)


def _bottom_gap(x: Tensor, corner: float) -> float:
    """How far the last row is from (0, ..., 0, corner)."""
    if not x.numel():
        return 0.0
    row = x[..., -1, :].clone()
    row[..., -1] -= corner
    return float(row.abs().amax())

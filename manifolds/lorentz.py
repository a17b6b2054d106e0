"""The Lorentz model: hyperbolic space as the upper sheet of a hyperboloid in Minkowski space."""

from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds import gyrovector, hyperboloid
from holonomy.manifolds.curvature import checked, root
from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.hyperboloid import lift, point, space, split, square, time
from holonomy.manifolds.pairwise import lorentz_cdist

__all__ = ["Lorentz"]


class Lorentz(Hyperbolic):
    """{x in R^(d+1) : -x_0^2 + |x_s|^2 = -1/c, x_0 > 0}, time first, with the Minkowski form: curvature -c.

    exp, log, parallel transport and distance are exact, and the retraction is exp. The space part x_s is what counts:
    the time of points and of tangent vectors is computed from it wherever it is used, so that nothing drifts off the
    hyperboloid, and differences of large numbers never meet: see `holonomy.manifolds.hyperboloid` for the formulas.
    Points are kept within sqrt(c)|x_s| <= 1/eps, a distance of 16.6/sqrt(c) from the origin in float32 and
    36.7/sqrt(c) in float64: beyond, the rounding of one coordinate is a step as long as the radius of curvature.

    Random points follow the law of `PoincareBall`, carried over by the isometry.

    Parameters
    ----------
    c : float or Tensor
        Magnitude of the curvature; a tensor broadcasts against the batch. Stored exactly; see `Curvature`.
    k : float or Tensor, optional
        geoopt's parameter 1/c, the negative of x's square, in place of `c`.
    learnable : bool
        Whether the curvature is a parameter.
    validate : bool
        See `Manifold`.

    Raises
    ------
    ValueError
        Where `c` is not positive and finite, or `k` is given beside another `c`.
    TypeError
        Where `c` is no number.
    """

    name = "Lorentz"

    def __init__(
        self,
        c: float | Tensor = 1.0,
        *,
        k: float | Tensor | None = None,
        learnable: bool = False,
        validate: bool = False,
    ) -> None:
        if k is not None:
            if isinstance(c, Tensor) or c != 1.0:
                raise ValueError(f"Lorentz: give 'c' or 'k' = 1/c, not both: got c={c!r}, k={k!r}")
            c = 1.0 / checked(k, self.name, "k")
        super().__init__(c, learnable=learnable, validate=validate)

    @property
    def k(self) -> Any:
        """geoopt's parameter 1/c, a float or a tensor."""
        return 1.0 / self.c

    # -- points and tangent vectors --------------------------------------------------------------------------------

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] < 2:
            return "wanted a last dimension of at least 2: time and space"
        return reason

    def _dimension(self, *shape: int) -> int:
        return shape[-1] - 1

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        x = x.detach()
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        x0 = time(space(x), self._c(x))
        # Relative to the time itself: one rounding of a distant point's coordinates is a large number.
        gap = float(((x[..., :1] - x0) / x0).detach().abs().amax())
        return (
            None if gap <= tolerance else f"is off the hyperboloid, by {gap:.3g} of its time (at most {tolerance:.3g})"
        )

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        x, u = x.detach(), u.detach()
        if not bool(torch.isfinite(u).all()):
            return "has NaN or infinite entries"
        tangent = lift(space(x), space(u), self._c(x))
        scale = u.abs().amax(-1, keepdim=True).clamp_min(1.0)
        gap = float(((u[..., :1] - tangent[..., :1]) / scale).abs().amax())
        return None if gap <= tolerance else f"is not tangent at the point, by {gap:.3g} (at most {tolerance:.3g})"

    def _projx(self, x: Tensor) -> Tensor:
        return hyperboloid.project(x, self._c(x))

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        xs, us = space(x), space(u)
        space_part, time_part = xs * us, time(xs, c) * u[..., :1]
        product = space_part.sum(-1, keepdim=True) - time_part
        # What rounding leaves of the product of a tangent vector would move it by that times c x_0^2: it counts as 0.
        terms = space_part.abs().sum(-1, keepdim=True) + time_part.abs()
        rounding = product.abs() <= 4.0 * torch.finfo(x.dtype).eps * terms
        product = product - torch.where(rounding, product, torch.zeros_like(product)).detach()
        return lift(xs, us + c * product * xs, c)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        c = self._c(x)
        xs, us = space(x), space(u)
        product = (xs * us).sum(-1, keepdim=True) + time(xs, c) * u[..., :1]
        return lift(xs, us + c * product * xs, c)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._egrad2rgrad(x, ehess) + self._c(x) * (x * egrad).sum(-1, keepdim=True) * u

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        c = self._c(x)
        xs = space(x)
        (ku, a), (kv, b) = split(xs, space(u), c), split(xs, space(v), c)
        return (ku * kv).sum(-1) + (a * b).squeeze(-1)

    # -- distance and movement -------------------------------------------------------------------------------------

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return hyperboloid.dist(x, y, self._c(x)).squeeze(-1)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return hyperboloid.dist2(x, y, self._c(x)).squeeze(-1)

    def _cdist(self, x: Tensor, y: Tensor) -> Tensor:
        c = self.c
        if isinstance(c, Tensor):
            c = c.to(x.dtype)[..., None, None]  # one curvature for all pairs of a batch
        return lorentz_cdist(space(x).squeeze(-2), space(y).squeeze(-3), c)

    def _free_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return hyperboloid.uncapped_expmap(x, u, self._c(x))

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return hyperboloid.expmap(x, u, self._c(x))

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return hyperboloid.logmap(x, y, self._c(x))

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return hyperboloid.transport(x, y, v, self._c(x))

    def _expmap0(self, u: Tensor) -> Tensor:
        return hyperboloid.expmap0(u, self._c(u))

    def _logmap0(self, y: Tensor) -> Tensor:
        return hyperboloid.logmap0(y, self._c(y))

    def _dist0(self, x: Tensor) -> Tensor:
        c = self._c(x)
        return (torch.asinh(safe_sqrt(c * square(space(x)))) / root(c)).squeeze(-1)

    def _transp0(self, y: Tensor, u: Tensor) -> Tensor:
        return self._transp(self._origin_like(y), y, u)

    def _transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        return self._transp(x, self._origin_like(x), u)

    def _antipode(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., :1], -x[..., 1:]), dim=-1)

    def _midpoint(self, x: Tensor, w: Tensor | None, axes: list[int]) -> Tensor:
        return hyperboloid.midpoint(x, w, axes, self._c(x))

    # -- random points ---------------------------------------------------------------------------------------------

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        d = size[-1] - 1
        us = torch.randn(*size[:-1], d, dtype=dtype, device=device, generator=generator)
        us = us * (2.0 / (root(self._c(us)) * d**0.5))
        return self._expmap0(torch.cat((torch.zeros_like(us[..., :1]), us), dim=-1))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        us = torch.randn(space(x).shape, dtype=x.dtype, device=x.device, generator=generator)
        return self._transp0(x, torch.cat((torch.zeros_like(us[..., :1]), us), dim=-1))

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self._origin_like(torch.empty(size, dtype=dtype, device=device))

    def _origin_like(self, x: Tensor) -> Tensor:
        return point(torch.zeros_like(space(x)), self._c(x))

    # -- the ball --------------------------------------------------------------------------------------------------

    def to_poincare(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """Isometry to `PoincareBall` of the same curvature: x_s/(1 + sqrt(c) x_0)."""

        def to_poincare(x: Tensor) -> Tensor:
            c = self._c(x)
            xs = space(x)
            return gyrovector.project(xs / (1.0 + root(c) * time(xs, c)), c)

        def narrow(y: Tensor, dtype: torch.dtype) -> Tensor:
            return gyrovector.shrink_to(y, self._c(y), dtype)

        return self._vector(dim, to_poincare, narrow=narrow, x=x)

    def to_poincare_tangent(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Differential of `to_poincare` at `x`: the image of the tangent vector `u`, at the image of `x`."""

        def to_poincare_tangent(x: Tensor, u: Tensor) -> Tensor:
            c = self._c(x)
            xs, us = space(x), space(u)
            x0 = time(xs, c)
            depth = 1.0 + root(c) * x0
            u0 = (xs * us).sum(-1, keepdim=True) / x0
            return (us - (root(c) * u0 / depth) * xs) / depth

        return self._vector(dim, to_poincare_tangent, x=x, u=u)

"""The wrapped normal distribution: a normal distribution in the tangent space, carried over by the exponential map."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import MembershipError
from holonomy.manifolds.euclidean import Euclidean
from holonomy.manifolds.functions import log_sinhc, sinc
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.sphere import Sphere

__all__ = ["WrappedNormal"]

#: Most mass that the tangent normal may have beyond the injectivity radius, where the density below is not its image's.
_STRAY = 1e-6


class WrappedNormal(Distribution):
    """Law of exp(loc, u) with u normal in the tangent space at loc, of standard deviation `scale` in each direction.

    On the spaces of constant curvature: Euclidean space, the sphere, and both models of hyperbolic space. The density
    is with respect to the Riemannian volume; log det of exp is (d - 1) log(sin r / r), with sinh where curvature is
    negative, r the length of u in units of the radius of curvature (no correction where it is 0). Differentiable in
    `loc`, `scale`, the value, and a learnable curvature.

    Parameters
    ----------
    manifold : Manifold
        Euclidean, Sphere, PoincareBall or Lorentz.
    loc : Tensor
        Points, shape (*batch, *point).
    scale : float or Tensor
        Standard deviation, positive, in units of length; broadcasts against the batch.
    generator : torch.Generator, optional
        What samples are drawn from; torch's global one by default, as in torch.distributions.
    validate_args : bool, optional
        See `torch.distributions.Distribution`. Points are checked as by ``manifold.assert_check_point_on_manifold``.

    Raises
    ------
    NotImplementedError
        Where the manifold is of none of these types.
    DimensionError
        Where the shape of `loc` does not fit the manifold.
    MembershipError
        Where points of `loc` are off the manifold.
    TypeError
        Where `scale` is no number and no floating tensor.
    ValueError
        Where `scale` is not positive; on the sphere, where it is so large that more than one draw in a million is
        longer than pi: exp is not one to one there, and the density given here would not be that of the samples.

    References
    ----------
    Nagano, Yamaguchi, Fujita, Koyama, A wrapped normal distribution on hyperbolic space for gradient-based learning,
    ICML 2019.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        manifold: Manifold,
        loc: Tensor,
        scale: float | Tensor,
        *,
        generator: torch.Generator | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(manifold, (Euclidean, Sphere, Hyperbolic)):
            raise NotImplementedError(
                f"WrappedNormal: no closed form of the density is known on {manifold.name}; "
                "wanted Euclidean, Sphere, PoincareBall or Lorentz"
            )
        manifold.assert_check_point(loc)
        if isinstance(scale, bool) or not isinstance(scale, (Real, Tensor)):
            raise TypeError(f"WrappedNormal: 'scale' must be a number or a tensor, got {type(scale).__name__}")
        if isinstance(scale, Tensor) and not scale.is_floating_point():
            raise TypeError(f"WrappedNormal: 'scale' must have a real floating dtype, got {scale.dtype}")
        scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
        dims = loc.ndim - manifold.ndim
        batch, event = torch.broadcast_shapes(loc.shape[:dims], scale.shape), loc.shape[dims:]
        self.manifold = manifold
        self.loc = loc.expand(*batch, *event)
        self.scale = scale.expand(batch)
        self.generator = generator
        self._dimension = manifold.dimension(*event)
        super().__init__(batch, event, validate_args=validate_args)
        if self._validate_args:
            self._check()

    def _check(self) -> None:
        self.manifold.assert_check_point_on_manifold(self.loc)
        scale = self.scale.detach()
        if not bool(((scale > 0) & torch.isfinite(scale)).all()):
            raise ValueError(f"WrappedNormal: 'scale' must be positive and finite, got {scale}")
        radius = self.manifold.injectivity_radius()
        if math.isfinite(radius):
            half = torch.tensor(0.5 * self._dimension, dtype=torch.float64)
            stray = torch.special.gammaincc(half, 0.5 * (radius / scale.cpu().double()).square())
            if bool((stray > _STRAY).any()):
                raise ValueError(
                    f"WrappedNormal: 'scale' {float(scale.max()):.3g} is too large on {self.manifold.name} of "
                    f"dimension {self._dimension}: {float(stray.max()):.2g} of its mass is past the injectivity radius"
                )

    @property
    def support(self) -> constraints.Constraint:
        """Every point of the manifold."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: "WrappedNormal | None" = None) -> "WrappedNormal":
        """Return the distribution with parameters expanded to a batch shape."""
        batch = torch.Size(batch_shape)
        new = self._get_checked_instance(WrappedNormal, _instance)
        new.manifold, new.generator, new._dimension = self.manifold, self.generator, self._dimension
        new.loc, new.scale = self.loc.expand(*batch, *self.event_shape), self.scale.expand(batch)
        super(WrappedNormal, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw points, differentiable in `loc` and `scale`; shape (*sample_shape, *batch, *point)."""
        loc = self.loc.expand(*self._extended_shape(torch.Size(sample_shape)))
        u = self.manifold.random_tangent(loc, generator=self.generator)
        return self.manifold.expmap(loc, self._beside(self.scale) * u)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density at `value`, with respect to the Riemannian volume, shape of the batch."""
        if self._validate_args:
            ok = self.manifold.check_point_on_manifold(value.detach(), explain=True)
            if isinstance(ok, tuple) and not ok[0]:
                raise MembershipError(f"WrappedNormal.log_prob on {self.manifold.name}: 'value' {ok[1]}")
        square = self.manifold.dist2(self.loc, value)
        if isinstance(self.manifold, Sphere):
            volume = sinc(square).log()
        elif isinstance(self.manifold, Hyperbolic):
            volume = log_sinhc(self.manifold.c * square)
        else:
            volume = torch.zeros_like(square)
        d = self._dimension
        normal = -0.5 * square / self.scale.square() - d * (self.scale.log() + 0.5 * math.log(2.0 * math.pi))
        return normal - (d - 1) * volume

    def _beside(self, t: Tensor) -> Tensor:
        return t.reshape((*t.shape, *(1,) * len(self.event_shape)))

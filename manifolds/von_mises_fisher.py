"""The von Mises-Fisher distribution: the exponential family on the sphere whose statistic is the point itself."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from holonomy.manifolds.bessel import log_bessel_i, log_bessel_i_slope
from holonomy.manifolds.errors import DimensionError, MembershipError
from holonomy.manifolds.frechet import prepare
from holonomy.manifolds.sphere import Sphere

__all__ = ["VonMisesFisher"]

_SPHERE = Sphere()
#: Standard deviations beyond which the density of the angle is below rounding, and nodes enough for that width.
_WIDTH = 15.0
_NODES = 96
#: Newton's steps of `fit`: it starts within a few percent, and converges quadratically.
_NEWTON = 30


class _UnitVectors(constraints.Constraint):
    """Points of the unit sphere, to the manifold's own tolerance."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        gap = (value.norm(dim=-1) - 1.0).abs()
        return (value.shape[-1] > 1) & (gap <= _SPHERE._tolerance(value))


class VonMisesFisher(Distribution):
    """Law on the unit sphere of R^p with density proportional to exp(concentration * <loc, x>).

    The density is with respect to the surface measure. Concentration 0 is the uniform law. The normaliser, and with
    it densities, entropies and divergences, are exact to some roundings for any dimension and concentration, and
    differentiable to any order. Samples are exact, by rejection; their derivative (the first) in `concentration` is
    implicit: minus the derivative of the distribution function of the angle to `loc` over its density, by quadrature
    in float64. What low dtypes are given is evaluated in float64 where it matters, and rounded.

    Parameters
    ----------
    loc : Tensor
        Mean direction, unit vectors, shape (*batch, p), p at least 2.
    concentration : float or Tensor
        Not negative; broadcasts against the batch.
    generator : torch.Generator, optional
        What samples are drawn from; torch's global one by default.
    validate_args : bool, optional
        See `torch.distributions.Distribution`.

    Raises
    ------
    TypeError
        Where `loc` is no floating tensor, or `concentration` is no number and no floating tensor.
    DimensionError
        (a ValueError) where `loc` has no last dimension of at least 2.
    MembershipError
        (a ValueError) where `loc` is off the sphere.
    ValueError
        Where `concentration` is negative or not finite.

    References
    ----------
    Mardia, Jupp, Directional statistics, 2000. Wood, Simulation of the von Mises Fisher distribution, Comm. Statist.
    Simulation Comput. 23, 1994. Figurnov, Mohamed, Mnih, Implicit reparameterization gradients, NeurIPS 2018.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": _UnitVectors(),
        "concentration": constraints.nonnegative,
    }
    support = _UnitVectors()
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        concentration: float | Tensor,
        *,
        generator: torch.Generator | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(loc, Tensor) or not loc.is_floating_point():
            got = getattr(loc, "dtype", type(loc).__name__)
            raise TypeError(f"VonMisesFisher: 'loc' must be a tensor of a real floating dtype, got {got}")
        _SPHERE.assert_check_point(loc)
        if isinstance(concentration, bool) or not isinstance(concentration, (Real, Tensor)):
            got = type(concentration).__name__
            raise TypeError(f"VonMisesFisher: 'concentration' must be a number or a tensor, got {got}")
        if isinstance(concentration, Tensor) and not concentration.is_floating_point():
            got = concentration.dtype
            raise TypeError(f"VonMisesFisher: 'concentration' must have a real floating dtype, got {got}")
        concentration = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.concentration = concentration.expand(batch)
        self.generator = generator
        if validate_args if validate_args is not None else Distribution._validate_args:
            _SPHERE.assert_check_point_on_manifold(loc)
            kappa = concentration.detach()
            if not bool(((kappa >= 0) & torch.isfinite(kappa)).all()):
                raise ValueError(f"VonMisesFisher: 'concentration' must be finite and not negative, got {kappa}")
        # Checked above, with the errors of this library.
        super().__init__(batch, loc.shape[-1:], validate_args=False)
        if validate_args is None:
            del self._validate_args
        else:
            self._validate_args = validate_args

    @property
    def _order(self) -> float:
        return 0.5 * self.event_shape[0] - 1.0

    @property
    def _log_area(self) -> float:
        p = self.event_shape[0]
        return math.log(2.0) + 0.5 * p * math.log(math.pi) - math.lgamma(0.5 * p)

    def expand(self, batch_shape: Sequence[int], _instance: "VonMisesFisher | None" = None) -> "VonMisesFisher":
        """Return the distribution with parameters expanded to a batch shape."""
        batch = torch.Size(batch_shape)
        new = self._get_checked_instance(VonMisesFisher, _instance)
        new.generator = self.generator
        new.loc, new.concentration = self.loc.expand(*batch, *self.event_shape), self.concentration.expand(batch)
        super(VonMisesFisher, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    # -- densities -------------------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density at `value` with respect to the surface measure, shape of the batch."""
        if self._validate_args:
            ok = _SPHERE.check_point_on_manifold(value.detach(), explain=True)
            if isinstance(ok, tuple) and not ok[0]:
                raise MembershipError(f"VonMisesFisher.log_prob: 'value' {ok[1]}")
        # <loc, x> - 1 through the chord, which does not cancel for close points.
        aligned = -0.5 * (value - self.loc).square().sum(-1)
        return self.concentration * aligned + self.log_normalizer

    @property
    def log_normalizer(self) -> Tensor:
        """Logarithm of the density at `loc`."""
        return -log_bessel_i(self._order, self.concentration) - self._log_area

    @property
    def mean_resultant_length(self) -> Tensor:
        """Length of the mean, I_(p/2)(concentration)/I_(p/2-1)(concentration)."""
        return 1.0 - self._shortfall

    @property
    def _shortfall(self) -> Tensor:
        return log_bessel_i_slope(self._order, self.concentration)

    @property
    def mean(self) -> Tensor:
        """Expectation in R^p, shorter than 1."""
        return self.mean_resultant_length.unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        """Where the density is largest."""
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance in R^p, shape (*batch, p, p)."""
        p, gap = self.event_shape[0], self._shortfall
        length, kappa = 1.0 - gap, self.concentration
        tiny = kappa < 1e-4  # A/kappa = 1/p - kappa^2/(p^2 (p + 2)) + ...
        safe = torch.where(tiny, torch.ones_like(kappa), kappa)
        across = torch.where(tiny, 1.0 / p - kappa.square() / (p * p * (p + 2.0)), length / safe)
        with torch.enable_grad():  # A' itself: its textbook form 1 - A^2 - (p - 1) A/kappa cancels
            t = kappa if kappa.requires_grad else kappa.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_bessel_i_slope(self._order, t).sum(), t, create_graph=True)
        along = -slope if kappa.requires_grad else -slope.detach()
        outer = self.loc.unsqueeze(-1) * self.loc.unsqueeze(-2)
        eye = torch.eye(p, dtype=self.loc.dtype, device=self.loc.device)
        return across[..., None, None] * (eye - outer) + along[..., None, None] * outer

    def entropy(self) -> Tensor:
        """Differential entropy with respect to the surface measure."""
        return self.concentration * self._shortfall - self.log_normalizer

    # -- samples ---------------------------------------------------------------------------------------------------

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw points, differentiable in `loc` and `concentration`; shape (*sample_shape, *batch, p)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        p, kappa = shape[-1], self.concentration.expand(shape[:-1])
        with torch.no_grad():
            angle = _draw_angle(p, kappa.detach().double(), self.generator)
        if torch.is_grad_enabled() and kappa.requires_grad:
            rate = _angle_rate(p, angle, kappa.detach().double())
            angle = angle + rate * (kappa.double() - kappa.detach().double())
        loc = self.loc.expand(shape)
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device, generator=self.generator)
        across = _SPHERE.proju(loc, noise)
        across = across / across.norm(dim=-1, keepdim=True)
        return _SPHERE.expmap(loc, angle.to(loc.dtype).unsqueeze(-1) * across)

    # -- estimation ------------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, x: Tensor, weights: Tensor | None = None, *, dim: int = 0, **options: Any) -> "VonMisesFisher":
        """Maximum likelihood: the direction and the length of the mean, by Newton's method for the concentration.

        Parameters
        ----------
        x : Tensor
            Unit vectors, shape (*batch, p).
        weights : Tensor, optional
            Of each point, as of `frechet_mean`.
        dim : int
            Batch dimension that counts the points.
        **options
            Of the constructor.

        Raises
        ------
        ValueError
            Where all points of a batch entry are one point, for which the likelihood has no maximum.
        """
        points, w = prepare("VonMisesFisher.fit", _SPHERE, x.detach(), weights, dim)
        points, w = points.double(), w.detach().double().unsqueeze(-1)
        mean = (w * points).sum(0)
        loc = _SPHERE.projx(mean)
        # 1 - |mean| as the mean of squared chords, which does not cancel
        gap = 0.5 * (w * (points - loc).square()).sum((0, -1))
        if bool((gap <= torch.finfo(x.dtype).eps ** 2).any()):
            raise ValueError("VonMisesFisher.fit: all points are equal: the concentration has no finite maximum")
        kappa = _concentration(x.shape[-1], gap)
        return cls(loc.to(x.dtype), kappa.to(x.dtype), **options)


def _concentration(p: int, gap: Tensor) -> Tensor:
    """Solve 1 - A_p(kappa) = gap by Newton's method, from the approximation of Banerjee et al. (2005)."""
    length = (1.0 - gap).clamp_min(0.0)
    kappa = length * (p - length.square()) / (gap * (1.0 + length))
    for _ in range(_NEWTON):
        at = kappa.clone().requires_grad_()
        value = log_bessel_i_slope(0.5 * p - 1.0, at)
        (slope,) = torch.autograd.grad(value.sum(), at)
        step = kappa - (value.detach() - gap) / slope
        kappa = torch.minimum(torch.maximum(step, 0.1 * kappa), 10.0 * kappa)
    return kappa


def _draw_angle(p: int, kappa: Tensor, generator: torch.Generator | None) -> Tensor:
    """Angle to the mean direction, by Wood's rejection from a transformed beta law; at least two of three are kept.

    Everything is written in 1 - cos, which keeps its digits at high concentration.
    """
    m = p - 1.0
    b = m / (2.0 * kappa + (4.0 * kappa.square() + m * m).sqrt())
    far = 2.0 * b / (1.0 + b)  # 1 - x0
    half = torch.full_like(kappa, 0.5 * m)
    angle = torch.zeros_like(kappa)
    pending = torch.ones_like(kappa, dtype=torch.bool)
    while bool(pending.any()):
        one, two = (torch._standard_gamma(half, generator=generator) for _ in range(2))
        z = one / (one + two)
        gap = 2.0 * b * z / (1.0 - (1.0 - b) * z)  # 1 - w
        ratio = (far + (1.0 - far) * gap) / (4.0 * b / (1.0 + b).square())  # (1 - x0 w)/(1 - x0^2)
        u = torch.rand(kappa.shape, dtype=kappa.dtype, device=kappa.device, generator=generator)
        accept = pending & (kappa * (far - gap) + m * ratio.log() >= u.log())
        angle = torch.where(accept, 2.0 * torch.asin((0.5 * gap).clamp(0.0, 1.0).sqrt()), angle)
        pending = pending & ~accept
    return angle


def _angle_rate(p: int, angle: Tensor, kappa: Tensor) -> Tensor:
    """Derivative of the angle in the concentration, at a fixed value of its distribution function.

    With the density f(t) proportional to exp(kappa cos t) sin(t)^(p-2) it is -1/f(angle) times the integral over
    [0, angle] of (cos t - A) f(t), or the same over [angle, pi] with the other sign: whichever lacks the mode.
    """
    root = ((p - 2.0) ** 2 + 4.0 * kappa.square()).sqrt()
    cosine = 2.0 * kappa / (p - 2.0 + root).clamp_min(torch.finfo(kappa.dtype).tiny)
    spread = (kappa * cosine + 0.5 * (p - 2.0 + root)).clamp_min(1.0).rsqrt()
    mode = torch.acos(cosine.clamp(0.0, 1.0))
    low = angle < mode
    start = torch.minimum(mode - _WIDTH * spread, angle - 0.5 * _WIDTH * spread).clamp_min(0.0)
    stop = torch.maximum(mode + _WIDTH * spread, angle + 0.5 * _WIDTH * spread).clamp_max(math.pi)
    edge = torch.where(low, start, stop)
    nodes, weights = (torch.as_tensor(t, device=angle.device) for t in np.polynomial.legendre.leggauss(_NODES))
    gap = log_bessel_i_slope(0.5 * p - 1.0, kappa)
    total = torch.zeros_like(angle)
    safe = angle.clamp(1e-300, math.pi - 1e-15)
    for node, weight in zip(nodes, weights, strict=True):
        t = angle + 0.5 * (1.0 + node) * (edge - angle)
        height = -2.0 * kappa * torch.sin(0.5 * (t - angle)) * torch.sin(0.5 * (t + angle))
        if p > 2:
            height = height + (p - 2.0) * (torch.sin(t) / torch.sin(safe)).log()
        total = total + weight * (gap - 2.0 * torch.sin(0.5 * t).square()) * height.exp()
    # `edge - angle` has the sign that distinguishes the two sides.
    return 0.5 * (edge - angle) * total


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    """Divergence of two laws; terms are grouped so that large concentrations do not cancel."""
    if p.event_shape != q.event_shape:
        raise DimensionError(
            f"kl_divergence: laws on spheres in {p.event_shape[0]} and in {q.event_shape[0]} dimensions, wanted equal"
        )
    gap = p._shortfall
    apart = 0.5 * (p.loc - q.loc).square().sum(-1)
    level = p.log_normalizer - q.log_normalizer
    return level + (q.concentration - p.concentration) * gap + q.concentration * (1.0 - gap) * apart

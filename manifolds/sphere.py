"""The unit hypersphere with the round metric."""

import math

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.functions import asinc, cosm1c, sinc

__all__ = ["Sphere"]


class Sphere(Manifold):
    """S^(n-1) = {x in R^n : |x| = 1}: points are unit vectors in the last dimension.

    exp, log, parallel transport and distance are exact; curvature is 1. Distances and logarithms are built on the
    chord |x - y|, which keeps full relative precision for close and for nearly antipodal points. At exactly antipodal
    points, where every great circle is minimising, log and transport follow one fixed great circle. Random points are
    uniform.

    Parameters
    ----------
    validate : bool
        See `Manifold`.
    """

    name = "Sphere"
    reversible = True
    retractions = ("exp",)

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and shape[-1] < 2:
            return "wanted a last dimension of at least 2"
        return reason

    def _dimension(self, *shape: int) -> int:
        return shape[-1] - 1

    def _injectivity_radius(self) -> float:
        return math.pi

    def _projx(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        # The zero vector has no nearest point: it goes to the last pole, so that the result is always on the sphere.
        zero = length == 0
        pole = torch.zeros_like(x)
        pole[..., -1] = 1.0
        return torch.where(zero, pole, x / torch.where(zero, torch.ones_like(length), length))

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - (x * u).sum(-1, keepdim=True) * x

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        s = (u * u).sum(-1, keepdim=True)
        y = x * (1.0 - 0.5 * s * cosm1c(s)) + u * sinc(s)
        # A point that drifted by one rounding stays there: without this, 10,000 steps would add up.
        return y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        chord2, cochord2 = self._chords(x, y)
        # y - <x, y> x, with <x, y> = 1 - chord^2/2: no cancellation for close points.
        along = (y - x) + 0.5 * chord2 * x
        opposite = cochord2 == 0
        safe = torch.where(opposite, torch.ones_like(cochord2), cochord2)
        # angle / sin(angle), from the chord up to a right angle and by atan2 past it, where asin loses digits.
        near = chord2 < 2.0
        q = torch.where(near, 0.25 * chord2, torch.full_like(chord2, 0.25))
        far = torch.where(near, torch.full_like(chord2, 2.0), chord2).sqrt()
        cofar = torch.where(near, torch.full_like(chord2, 2.0), safe).sqrt()
        factor = torch.where(near, asinc(q) / (1.0 - q).sqrt(), 4.0 * torch.atan2(far, cofar) / (far * cofar))
        return torch.where(opposite, math.pi * self._any_direction(x), factor * along)

    def _chords(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x - y).square().sum(-1, keepdim=True), (x + y).square().sum(-1, keepdim=True)

    def _any_direction(self, x: Tensor) -> Tensor:
        """One unit tangent vector at x: the basis vector least aligned with x, projected."""
        e = torch.zeros_like(x).scatter(-1, x.abs().argmin(-1, keepdim=True), 1.0)
        u = self._proju(x, e)
        return u / torch.linalg.vector_norm(u, dim=-1, keepdim=True)

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return 2.0 * torch.atan2(torch.linalg.vector_norm(x - y, dim=-1), torch.linalg.vector_norm(x + y, dim=-1))

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        chord2 = self._chords(x, y)[0].squeeze(-1)
        near = chord2 < 2.0
        q = torch.where(near, chord2, torch.ones_like(chord2))
        close = q * asinc(0.25 * q).square()
        # Harmless chords where this branch is not used: at length 0 a norm has no second derivative.
        chord, cochord = (torch.where(near.unsqueeze(-1), torch.ones_like(x), t) for t in (x - y, x + y))
        angle = torch.atan2(torch.linalg.vector_norm(chord, dim=-1), torch.linalg.vector_norm(cochord, dim=-1))
        return torch.where(near, close, 4.0 * angle.square())

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        cochord2 = self._chords(x, y)[1]
        opposite = cochord2 == 0
        safe = torch.where(opposite, torch.ones_like(cochord2), cochord2)
        w = v - 2.0 * (y * v).sum(-1, keepdim=True) / safe * (x + y)
        e = self._any_direction(x)
        return torch.where(opposite, v - 2.0 * (e * v).sum(-1, keepdim=True) * e, w)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        # Along the given geodesic, also past the antipode: only the component along u turns.
        s = (u * u).sum(-1, keepdim=True)
        along = (u * v).sum(-1, keepdim=True)
        w = v - along * (sinc(s) * x + 0.5 * cosm1c(s) * u)
        y = self._expmap(x, u)
        return y, w

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self._expmap_transp(x, u, v)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        return self._proju(x, ehess) - (x * egrad).sum(-1, keepdim=True) * u

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return torch.ones_like(self._inner(x, u, v))

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self._projx(torch.randn(size, dtype=dtype, device=device, generator=generator))

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        point = torch.zeros(size, dtype=dtype, device=device)
        point[..., -1] = 1.0
        return point

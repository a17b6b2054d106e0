"""Flat geometry of an open set: everything by a chart to a Euclidean space."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Pullback"]


class Pullback(ABC):
    """A metric that a chart, a diffeomorphism onto R^d, pulls back: the base of those that define the chart.

    Geodesics are straight lines of the chart, and transport does not depend on the path. Tensors of the chart have the
    shape of points, with the Euclidean inner product of all entries.
    """

    @abstractmethod
    def chart(self, x: Tensor) -> Tensor:
        """Coordinates of a point."""

    @abstractmethod
    def point(self, z: Tensor) -> Tensor:
        """The point with these coordinates."""

    @abstractmethod
    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        """Components of a tangent vector at x: the derivative of `chart`."""

    @abstractmethod
    def push(self, x: Tensor, w: Tensor) -> Tensor:
        """The tangent vector at x with these components: the inverse of `pull`."""

    @abstractmethod
    def components(self, x: Tensor, egrad: Tensor) -> Tensor:
        """Components of the gradient: the adjoint of `push` at x."""

    @abstractmethod
    def components_change(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """Derivative of `components` along u, where that of the Euclidean gradient is `ehess`."""

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """Coordinates of y less those of x; to override where close points have a formula that does not cancel."""
        return self.chart(y) - self.chart(x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product."""
        a = self.pull(x, u)
        return (a * (a if v is u else self.pull(x, v))).sum((-2, -1))

    def dist2(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance."""
        return self.difference(x, y).square().sum((-2, -1))

    def egrad2rgrad(self, x: Tensor, egrad: Tensor) -> Tensor:
        """Riemannian gradient."""
        return self.push(x, self.components(x, egrad))

    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """Riemannian Hessian along u."""
        return self.push(x, self.components_change(x, egrad, ehess, u))

    def sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sectional curvature, 0."""
        return torch.zeros_like((x * u * v).sum((-2, -1)))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential map."""
        return self.point(self.chart(x) + self.pull(x, u))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm."""
        return self.push(x, self.difference(x, y))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport."""
        return self.push(y, self.pull(x, v))

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Exponential map, and transport along it."""
        y = self.expmap(x, u)
        return y, self.transp(x, y, v)

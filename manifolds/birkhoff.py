"""The Birkhoff polytope of doubly stochastic matrices with the Fisher metric."""

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.kernels.birkhoff import birkhoff_proju, marginal_solve_reference
from holonomy.manifolds.kernels.sinkhorn import sinkhorn
from holonomy.manifolds.tangent import over_area

__all__ = ["Birkhoff"]

#: Where negative entries leave no doubly stochastic pattern, entries below this fraction of 1/n are raised to it.
_FLOOR = 1e-3

#: Damped steps of Newton's method after a thousand iterations of Sinkhorn: masses can grow by a factor of e^20.
_NEWTON_STEPS = 20


class Birkhoff(Manifold):
    """Matrices {x in R^{n x n} : x_ij > 0, rows and columns sum to 1}, with the metric <u, v>_x = sum u_ij v_ij / x_ij.

    Tangent vectors have row and column sums 0; the manifold is an open convex set of dimension (n - 1)^2. The metric is
    flat on all positive matrices (2 sqrt(x) are Cartesian coordinates), so curvature comes from the Gauss equation.
    Geodesics have no closed form: ``expmap``, ``logmap`` and ``dist`` are not offered. ``retr`` is x exp(u / x) brought
    back by Sinkhorn's scaling, of first order; ``transp`` is the parallel transport of the positive matrices followed
    by projection, of first order. Projections to tangent spaces solve I - x x^T by conjugate gradients, and Sinkhorn's
    gradients are those of its limit (implicit function theorem).

    Random points are Sinkhorn's scaling of independent exponential variables: their law is invariant under
    permutations of rows and of columns, with mean 1/n.

    Points with zero entries belong to a face, and are valid: vectors there are those of the face (components at zero
    entries are dropped), and no step leaves it.

    Raises
    ------
    DimensionError
        From every method, where matrices are not square or smaller than 2 x 2.

    References
    ----------
    A. Douik, B. Hassibi, *Manifold optimization over the set of doubly stochastic matrices: a second-order geometry*,
    IEEE Trans. Signal Processing 2019.
    """

    name = "Birkhoff"
    ndim = 2
    exact_transport = False
    retractions = ("sinkhorn",)

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None and (shape[-1] != shape[-2] or shape[-1] < 2):
            return "wanted square matrices of at least 2 x 2"
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        x = x.detach()
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        lowest = float(x.amin())
        if lowest < -tolerance:
            return f"has negative entries, down to {lowest:.3g}"
        for dim, what in ((-1, "rows"), (-2, "columns")):
            total = x.sum(dim).flatten()
            worst = float(total[(total - 1.0).abs().argmax()])
            if abs(worst - 1.0) > tolerance:
                return f"must have {what} that sum to 1, but one sums to {worst:.6g} (tolerance {tolerance:.3g})"
        return None

    def _dimension(self, *shape: int) -> int:
        return (shape[-1] - 1) ** 2

    def injectivity_radius(self, x: Tensor | None = None) -> float:
        """Infimum over the open manifold, 0: points may be as near to a face as one likes. Not offered at a point."""
        if x is not None:
            self._unavailable("injectivity_radius at a point")
        return 0.0

    # -- projections and metric ------------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """Set negative entries to 0 and scale rows and columns: the nearest point in relative entropy.

        Where the positive entries are too few to carry a doubly stochastic matrix, the others are first raised to
        0.001 / n. Within 1e-7 (float32) or 1e-13 (float64) of sums 1, unless 1000 iterations do not reach that.
        """
        return super().projx(x)

    def _projx(self, x: Tensor) -> Tensor:
        x = x.clamp_min(0.0)
        scaled, converged = _scale(_log(x))
        full = _log(x.clamp_min(_FLOOR / x.shape[-1]))
        # A matrix that is scaled already takes one more iteration: cheaper than a branch, and it traces.
        return _scale(torch.where(converged[..., None, None], _log(scaled), full))[0]

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return birkhoff_proju(x, u)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return birkhoff_proju(x, x * u)

    def _ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        # Christoffel symbols of the positive matrices are -1/(2x); what the multipliers' derivatives add is normal.
        gradient = self._egrad2rgrad(x, egrad)
        return birkhoff_proju(x, x * ehess + 0.5 * u * _over(gradient, x))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * _over(v, x)).sum((-1, -2))

    def _sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """By Gauss: constant fields are tangent everywhere, so II(u, v) is the normal part of -u v / (2 x)."""

        def second_form(u: Tensor, v: Tensor) -> Tensor:
            w = -0.5 * u * _over(v, x)
            return w - birkhoff_proju(x, w)

        mixed = second_form(u, v)
        numerator = self._inner(x, second_form(u, u), second_form(v, v)) - self._inner(x, mixed, mixed)
        return over_area(numerator, self._inner(x, u, u), self._inner(x, u, v), self._inner(x, v, v))

    # -- movement --------------------------------------------------------------------------------------------------

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return _scale(_log(x) + _over(u, x))[0]

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return birkhoff_proju(y, _root(y) * _over(v, _root(x)))

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
        z = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return birkhoff_proju(x, _root(x) * z)

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return torch.full(size, 1.0 / size[-1], dtype=dtype, device=device)


def _scale(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Doubly stochastic scaling of exp(logits), and whether it got there."""
    ones = torch.ones_like(logits[..., 0].detach())
    # Sums of n terms in float64 round to about 1e-15: a point need not be further off its own sums than that.
    tolerance = 1e-7 if logits.dtype == torch.float32 else 1e-13
    result = sinkhorn(-logits, ones, ones, epsilon=1.0, tolerance=tolerance)
    if not _traced(logits) and not bool(result.converged.all()):
        # The scaling of a scaled matrix is the same, so what Newton's steps add needs no derivative.
        f, g = _newton(logits.detach().double(), result.f.detach().double(), result.g.detach().double())
        shift = (f.unsqueeze(-1) + g.unsqueeze(-2)).to(logits.dtype)
        result = sinkhorn(-(logits + shift), ones, ones, epsilon=1.0, tolerance=tolerance)
    assert result.coupling is not None
    return result.coupling, result.converged


def _traced(x: Tensor) -> bool:
    """Whether values cannot be looked at."""
    if x.device.type == "meta":
        return True
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or type(x) is not Tensor


def _newton(logits: Tensor, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Improve potentials where Sinkhorn is slow, near vertices, where nearly separate blocks exchange little mass.

    Steps change no logarithm by more than 1: undamped, those that must raise a mass overshoot.
    """
    for _ in range(_NEWTON_STEPS):
        p = torch.exp(f.unsqueeze(-1) + g.unsqueeze(-2) + logits)
        # Entries that carry no doubly stochastic matrix have no potentials: those of such a matrix run away, and rest.
        lost = ~torch.isfinite(p).all(-1).all(-1)[..., None, None]
        p = torch.where(lost, torch.ones_like(p) / p.shape[-1], p)
        a, b = marginal_solve_reference(p, 1.0 - p.sum(-1), 1.0 - p.sum(-2))
        change = (a.unsqueeze(-1) + b.unsqueeze(-2)).abs().masked_fill(p <= 0, 0.0).amax((-1, -2)).clamp_min(1.0)
        f, g = f + a / change.unsqueeze(-1), g + b / change.unsqueeze(-1)
    return f, g


def _over(u: Tensor, x: Tensor) -> Tensor:
    """u / x, and 0 where x is 0: there is no motion off a face."""
    zero = x <= 0
    return torch.where(zero, torch.zeros_like(u), u / torch.where(zero, torch.ones_like(x), x))


def _root(x: Tensor) -> Tensor:
    """sqrt(x), whose derivative at 0 is taken as 0."""
    zero = x <= 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).sqrt())


def _log(x: Tensor) -> Tensor:
    """log(x), minus infinity where x is 0, with derivative 0 there."""
    zero = x <= 0
    return torch.where(zero, -torch.inf, torch.where(zero, torch.ones_like(x), x).log())

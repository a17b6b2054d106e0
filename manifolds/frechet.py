"""Fréchet means and medians: the points that minimise a weighted sum of (squared) distances.

Found by gradient descent outside of autograd, and differentiated by the implicit function theorem: two steps of
Newton's iteration with a constant Jacobian start from the solution, where they move nothing, and carry the first and
second derivative in points and weights. Memory is that of two evaluations of the gradient, whatever the number of
iterations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import ConvergenceError, DimensionError
from holonomy.manifolds.tangent import tangent_basis

__all__ = ["FrechetReport", "frechet_mean", "frechet_median", "prepare"]

#: Minus the gradient of an objective at a point m, given points and weights.
Field = Callable[[Manifold, Tensor, Tensor, Tensor], Tensor]

#: Part of the decrease that the gradient promises, which a step has to keep.
_SUFFICIENT = 1e-4
#: How many values of the objective a step is compared with.
_MEMORY = 5


@dataclass(frozen=True)
class FrechetReport:
    """How the search for a Fréchet mean or median went; each tensor has one entry for each point that was wanted.

    Attributes
    ----------
    converged : Tensor
        Whether the gradient became as small as the tolerance; bool.
    iterations : Tensor
        Steps tried until then, those that were halved included; int64.
    gradient_norm : Tensor
        Length of the gradient at the result. For a median that is one of the points, of the pull of the others.
    step_size : Tensor
        Last step that was accepted, as a factor of minus the gradient; 0 where none was.
    value : Tensor
        The objective: half the weighted mean of squared distances, or the weighted mean of distances.
    """

    converged: Tensor
    iterations: Tensor
    gradient_norm: Tensor
    step_size: Tensor
    value: Tensor


@overload
def frechet_mean(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    full_output: Literal[False] = False,
) -> Tensor: ...


@overload
def frechet_mean(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    full_output: Literal[True],
) -> tuple[Tensor, FrechetReport]: ...


def frechet_mean(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    full_output: bool = False,
) -> Tensor | tuple[Tensor, FrechetReport]:
    """Fréchet mean, the point that minimises the weighted sum of squared distances to `x`. Differentiable.

    On a manifold of positive curvature points must lie within a ball that is small enough for the mean to be unique
    (radius pi/4 on the sphere); else a local minimum is found. Reads the data: it does not trace in torch.compile.

    Parameters
    ----------
    manifold : Manifold
        Has `expmap`, `logmap` and `dist2`.
    x : Tensor
        Points, shape (*batch, *point).
    weights : Tensor, optional
        One for each entry of `dim`, or of the shape of the whole batch; not negative, normalised here. Equal by
        default.
    dim : int
        Batch dimension to average over.
    start : Tensor, optional
        Where to start: the shape of the result. By default, at the point of largest weight.
    tolerance : float, optional
        Length of the gradient to reach; for a mean, in units of the points' distance from it where that is above 1.
        Default: the 3/4-th power of the dtype's eps.
    max_steps : int
        Most evaluations of the gradient.
    full_output : bool
        Also return a `FrechetReport`; what has not converged is then reported, and does not raise. Derivatives are
        those of the solution, so they are only as good as the convergence.

    Returns
    -------
    Tensor
        Shape of `x` without the dimension `dim`. Where points have several representatives (bases of a subspace), the
        one returned is arbitrary, and gradients are those of the point.
    FrechetReport
        With `full_output`.

    Raises
    ------
    DimensionError
        Where shapes do not fit.
    ValueError
        Where a weight is negative, or the weights of a mean sum to 0.
    ConvergenceError
        Where the gradient has not become as small as `tolerance`, without `full_output`; the message says how small.

    References
    ----------
    Karcher, Riemannian center of mass and mollifier smoothing, Comm. Pure Appl. Math. 30, 1977. Lou et al.,
    Differentiating through the Fréchet mean, ICML 2020.
    """
    points, w = prepare("frechet_mean", manifold, x, weights, dim)
    m = _start("frechet_mean", manifold, points, w, start)
    with torch.no_grad():
        m, report = _descend(_MEAN, manifold, points.detach(), w.detach(), m, tolerance, max_steps)
    if not full_output:
        _assert_converged("frechet_mean", manifold, report, tolerance, max_steps, points.dtype)
    mean = _narrow(manifold, _attach(_mean_field, manifold, points, w, m), x.dtype)
    return (mean, report) if full_output else mean


@overload
def frechet_median(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    full_output: Literal[False] = False,
) -> Tensor: ...


@overload
def frechet_median(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    full_output: Literal[True],
) -> tuple[Tensor, FrechetReport]: ...


def frechet_median(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int = 0,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    full_output: bool = False,
) -> Tensor | tuple[Tensor, FrechetReport]:
    """Geometric median, the point that minimises the weighted sum of distances to `x`. Differentiable.

    Half of the points may be anywhere without moving it far. Where one of the points is the median itself, the
    result is that point, and has its gradient. Time is quadratic in the number of points. Parameters, returns and
    errors are those of `frechet_mean`.

    References
    ----------
    Fletcher, Venkatasubramanian, Joshi, The geometric median on Riemannian manifolds with application to robust atlas
    estimation, NeuroImage 45, 2009. Vardi, Zhang, The multivariate L1-median and associated data depth, PNAS 97, 2000.
    """
    points, w = prepare("frechet_median", manifold, x, weights, dim)
    m = _start("frechet_median", manifold, points, w, start)
    with torch.no_grad():
        flat, v = points.detach(), w.detach()
        if start is None:
            m = manifold.expmap(m, _mean_field(manifold, m, flat, v))  # away from the points, where it is not smooth
        hit, nearest = _data_median(manifold, flat, v)
        found = torch.gather(flat, 0, _index(manifold, nearest, flat)).squeeze(0)
        mask = _expand(manifold, hit)
        m, report = _descend(_MEDIAN, manifold, flat, v, torch.where(mask, found, m), tolerance, max_steps, hit)
    if not full_output:
        _assert_converged("frechet_median", manifold, report, tolerance, max_steps, points.dtype)
    smooth = _attach(_median_field, manifold, points, w, m, hit)
    own = torch.gather(points, 0, _index(manifold, nearest, points)).squeeze(0)
    median = _narrow(manifold, torch.where(mask, own, smooth), x.dtype)
    return (median, report) if full_output else median


def prepare(operation: str, manifold: Manifold, x: Tensor, weights: Tensor | None, dim: int) -> tuple[Tensor, Tensor]:
    """Check points and weights; return points as (n, *batch, *point) and normalised weights as (n, *batch).

    Half precision becomes float32. Raises as `frechet_mean`.
    """
    for name, tensor in (("x", x), ("weights", weights)):
        if tensor is None and name == "weights":
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(
                f"{operation}: {name!r} must be a tensor of a real floating dtype on {manifold.name}, "
                f"got {getattr(tensor, 'dtype', type(tensor).__name__)}"
            )
    manifold.assert_check_point(x)
    dims = x.ndim - manifold.ndim
    if not -dims <= dim < dims:
        raise DimensionError(
            f"{operation}: 'x' has shape {tuple(x.shape)}, which has no batch dimension {dim} on this {manifold.name}"
        )
    if x.shape[dim % dims] == 0:
        raise DimensionError(f"{operation}: 'x' has shape {tuple(x.shape)}, wanted at least one point in {dim}")
    batch = x.shape[:dims]
    points = x.movedim(dim % dims, 0)
    if x.dtype in (torch.float16, torch.bfloat16):
        # What rounding took off the manifold goes back: logarithms agree with distances on it only.
        points = manifold.projx(points.float())
    if weights is None:
        return points, torch.full((points.shape[:dims]), 1.0 / len(points), dtype=points.dtype, device=x.device)
    if weights.shape == batch[dim % dims : dim % dims + 1]:
        w = weights.reshape(-1, *(1,) * (dims - 1)).expand(points.shape[:dims])
    elif weights.shape == batch:
        w = weights.movedim(dim % dims, 0)
    else:
        raise DimensionError(
            f"{operation}: 'weights' has shape {tuple(weights.shape)}, wanted ({len(points)},) or {tuple(batch)}"
        )
    w = w.to(points.dtype)
    total = w.sum(0, keepdim=True)
    if bool((w < 0).any()) or not bool((total > 0).all()):
        raise ValueError(f"{operation}: 'weights' must not be negative, and must not sum to 0, got {weights.detach()}")
    return points, w / total


def _narrow(manifold: Manifold, point: Tensor, dtype: torch.dtype) -> Tensor:
    return point if point.dtype == dtype else manifold._narrow(point, dtype)


def _index(manifold: Manifold, nearest: Tensor, points: Tensor) -> Tensor:
    """Index of one point for each batch entry, as ``gather`` wants it along dimension 0."""
    return nearest.reshape((1, *nearest.shape, *(1,) * manifold.ndim)).expand(1, *points.shape[1:])


def _start(operation: str, manifold: Manifold, points: Tensor, w: Tensor, start: Tensor | None) -> Tensor:
    if start is None:
        return torch.gather(points.detach(), 0, _index(manifold, w.argmax(0), points)).squeeze(0)
    if start.shape != points.shape[1:]:
        raise DimensionError(
            f"{operation}: 'start' has shape {tuple(start.shape)}, wanted {tuple(points.shape[1:])} on {manifold.name}"
        )
    return start.detach().to(points.dtype)


# -- what is minimised ---------------------------------------------------------------------------------------------


def _expand(manifold: Manifold, w: Tensor) -> Tensor:
    return w.reshape((*w.shape, *(1,) * manifold.ndim))


def _mean_field(manifold: Manifold, m: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return (_expand(manifold, w) * manifold.logmap(m, x)).sum(0)


def _median_field(manifold: Manifold, m: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Sum of unit vectors towards the points that are not m itself."""
    u = manifold.logmap(m, x)
    square = manifold.inner(m.expand_as(u), u)
    zero = square <= _same(square.dtype)
    length = torch.where(zero, torch.ones_like(square), square).sqrt()
    return (_expand(manifold, torch.where(zero, torch.zeros_like(w), w / length)) * u).sum(0)


def _same(dtype: torch.dtype) -> float:
    """Squared distance below which two points are the same."""
    return torch.finfo(dtype).eps ** 1.5


@dataclass(frozen=True)
class _Objective:
    """Value, minus gradient, the natural step along it, and from the value the scale that the gradient has."""

    value: Callable[[Manifold, Tensor, Tensor, Tensor], Tensor]
    field: Field
    step: Callable[[Manifold, Tensor, Tensor, Tensor], Tensor]
    scale: Callable[[Tensor], Tensor]


def _harmonic(manifold: Manifold, m: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Weiszfeld's step: the harmonic mean of the distances."""
    square = manifold.dist2(m, x)
    zero = square <= _same(square.dtype)
    inverse = torch.where(zero, torch.zeros_like(w), w / torch.where(zero, torch.ones_like(square), square).sqrt())
    total = inverse.sum(0)
    return torch.where(
        total == 0, torch.zeros_like(total), 1.0 / torch.where(total == 0, torch.ones_like(total), total)
    )


_MEAN = _Objective(
    lambda manifold, m, x, w: 0.5 * (w * manifold.dist2(m, x)).sum(0),
    _mean_field,
    lambda manifold, m, x, w: torch.ones_like(w[0]),
    lambda value: (2.0 * value).sqrt().clamp_min(1.0),
)
_MEDIAN = _Objective(
    lambda manifold, m, x, w: (w * manifold.dist(m, x)).sum(0), _median_field, _harmonic, torch.ones_like
)


def _data_median(manifold: Manifold, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Whether one of the points is a median, and which is the best of them.

    A point is one if the pull of the others is not stronger than its own weight (Vardi, Zhang, equation 2.5).
    """
    totals = torch.stack([_MEDIAN.value(manifold, x[i], x, w) for i in range(len(x))])
    best = totals.argmin(0)
    m = torch.gather(x, 0, _index(manifold, best, x)).squeeze(0)
    own = torch.where(manifold.dist2(m, x) <= _same(x.dtype), w, torch.zeros_like(w)).sum(0)
    pull = manifold.norm(m, _median_field(manifold, m, x, w))
    return pull <= own, best


# -- how it is minimised -------------------------------------------------------------------------------------------


def _tolerance(tolerance: float | None, dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps ** 0.75 if tolerance is None else tolerance


def _assert_converged(
    operation: str,
    manifold: Manifold,
    report: FrechetReport,
    tolerance: float | None,
    max_steps: int,
    dtype: torch.dtype,
) -> None:
    if bool(report.converged.all()):
        return
    worst = float(report.gradient_norm[~report.converged].amax())
    raise ConvergenceError(
        f"{operation} on {manifold.name}: after {max_steps} steps the gradient has length {worst:.3g}, wanted "
        f"{_tolerance(tolerance, dtype):.3g} times the distance of the points; give 'start', a larger 'max_steps' or "
        f"'tolerance', or see how far it came with 'full_output'"
    )


def _descend(
    objective: _Objective,
    manifold: Manifold,
    x: Tensor,
    w: Tensor,
    m: Tensor,
    tolerance: float | None,
    max_steps: int,
    done: Tensor | None = None,
) -> tuple[Tensor, FrechetReport]:
    """Gradient descent, each batch entry with its own step size, by Barzilai and Borwein.

    A step is halved until the objective is less than the largest of the last values by a part of what the gradient
    promises (Iannazzo, Porcelli, The Riemannian Barzilai-Borwein method with nonmonotone line search and the matrix
    geometric mean computation, IMA J. Numer. Anal. 38, 2018).
    """
    eps = torch.finfo(x.dtype).eps
    tolerance = _tolerance(tolerance, x.dtype)
    done = torch.zeros_like(w[0], dtype=torch.bool) if done is None else done
    value = objective.value(manifold, m, x, w)
    recent = value.expand(_MEMORY, *value.shape)
    field = objective.field(manifold, m, x, w)
    step = natural = objective.step(manifold, m, x, w)
    last, steps = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.int64)
    for count in range(max_steps + 1):
        length = manifold.norm(m, field)
        active = ~done & ~(length <= tolerance * objective.scale(value))
        if count == max_steps or not bool(active.any()):
            break
        steps = steps + active
        step = torch.where(active, step, torch.zeros_like(step))
        trial, moved = manifold.expmap_transp(m, _expand(manifold, step) * field, field)
        tried = objective.value(manifold, trial, x, w)
        # Rounding of the objective must not stop the last steps.
        bound = recent.amax(0) - _SUFFICIENT * step * length.square() + 64.0 * eps * value.abs()
        accept = active & (tried <= bound)
        taken = _expand(manifold, accept)
        m, last = torch.where(taken, trial, m), torch.where(accept, step, last)
        renewed = torch.where(taken, objective.field(manifold, m, x, w), field)
        natural = torch.where(accept, objective.step(manifold, m, x, w), natural)
        # <s, s> / <s, y> with s = step * field and y the change of the gradient, both transported to the new point.
        change = manifold.inner(m, moved, moved - renewed)
        secant = step * manifold.inner(m, moved) / torch.where(change > 0, change, torch.ones_like(change))
        secant = torch.where(change > 0, secant.clamp(1e-3 * natural, 1e3 * natural), natural)
        step = torch.where(accept, secant, 0.5 * step)
        value = torch.where(accept, tried, value)
        recent = torch.where(accept, torch.cat([value.unsqueeze(0), recent[:-1]]), recent)
        field = renewed
    return m, FrechetReport(~active, steps, length, last, value)


def _attach(field: Field, manifold: Manifold, x: Tensor, w: Tensor, m: Tensor, skip: Tensor | None = None) -> Tensor:
    """The zero m of the field as a differentiable function of points and weights.

    In coordinates t of the tangent space at m, t <- t - J^(-1) F(t; x, w) with J = dF/dt at the solution gains one
    order of the perturbation a step: two steps carry first and second derivatives, though J and m are constants.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)):
        return m
    basis = tangent_basis(manifold, m)

    def residual(t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        point = manifold.expmap(m, (_expand(manifold, t) * basis).sum(0))
        pull = field(manifold, point, x, w)
        return (basis * pull).flatten(1 + m.ndim - manifold.ndim).sum(-1) if manifold.ndim else basis * pull

    t = torch.zeros(basis.shape[: basis.ndim - manifold.ndim], dtype=m.dtype, device=m.device, requires_grad=True)
    value = residual(t, x.detach(), w.detach())
    rows = [torch.autograd.grad(row.sum(), t, retain_graph=True)[0].movedim(0, -1) for row in value]
    jacobian = torch.stack(rows, dim=-2)
    if skip is not None:
        identity = torch.eye(jacobian.shape[-1], dtype=m.dtype, device=m.device)
        jacobian = torch.where(skip[..., None, None], identity, jacobian)
    factors = torch.linalg.lu_factor(jacobian)
    t = torch.zeros_like(value)
    for _ in range(2):
        t = t - torch.linalg.lu_solve(*factors, residual(t, x, w).movedim(0, -1).unsqueeze(-1)).squeeze(-1).movedim(
            -1, 0
        )
    return manifold.expmap(m, (_expand(manifold, t) * basis).sum(0))

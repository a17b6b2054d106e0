"""Entropic optimal transport: Sinkhorn's iteration, stable for small temperatures, with the implicit derivative."""

import importlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.birkhoff import default_tolerance, in_front, marginal_solve, marginal_solve_reference

__all__ = ["SinkhornResult", "sinkhorn", "sinkhorn_projection"]

#: Steps of conjugate gradients in the backward pass past which a dense factorisation is the faster way.
_LIMIT = 1000


class SinkhornResult(NamedTuple):
    """What `sinkhorn` returns; the coupling is exp(f_i + g_j - cost_ij / epsilon)."""

    f: Tensor
    """Log-potentials of the rows, shape (..., n); minus infinity where the mass is 0."""
    g: Tensor
    """Log-potentials of the columns, shape (..., m); those of positive masses have mean 0."""
    coupling: Tensor | None
    """The coupling, shape (..., n, m), where it was asked for."""
    error: Tensor
    """Largest relative deviation of a row or column sum of the coupling from its mass, float64, shape (...)."""
    iterations: Tensor
    """Iterations made, int64, shape (...)."""
    converged: Tensor
    """Whether the error is at most the tolerance, bool, shape (...)."""


def _kernels(module: str = "sinkhorn") -> Any:
    return importlib.import_module(f"holonomy.manifolds.kernels.cpu.{module}")


def _on_cuda() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cuda.sinkhorn")


def sinkhorn(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float,
    tolerance: float | None = None,
    max_iterations: int = 1000,
    return_coupling: bool = True,
) -> SinkhornResult:
    """Solve entropic optimal transport: min <P, cost> + epsilon sum P (log P - 1) over P 1 = a, P^T 1 = b.

    Gradients are those of the solution, by the implicit function theorem (one linear solve, whatever the number of
    iterations), and differentiable to second order. They are exact as far as the iteration has converged. Gradients
    with respect to `a` and `b` are defined up to a constant added to one and taken off the other, for only masses of
    equal total are feasible: the shortest is given. Those with respect to masses that are 0 are 0.

    Memory beyond the coupling, which is always formed, is of the order of n + m.

    Parameters
    ----------
    cost : Tensor
        Float32 or float64, shape (..., n, m). Plus infinity forbids a pair. For logits L pass ``-L`` and
        ``epsilon=1``.
    a, b : Tensor, optional
        Masses, non-negative, of equal total, shapes (..., n) and (..., m); batch dimensions broadcast. By default
        uniform, of total 1.
    epsilon : float
        Temperature, positive. Small ones need many iterations, but do not underflow.
    tolerance : float, optional
        Largest relative deviation of a row or column sum at which the iteration stops; by default 1e-6 in float32 and
        1e-10 in float64.
    max_iterations : int
        At least 1.
    return_coupling : bool
        Whether the result holds the coupling.

    Returns
    -------
    SinkhornResult
        Not raised but reported, in ``converged``: that the iteration ended short of the tolerance.

    Raises
    ------
    TypeError
        Where a tensor is not float32 or float64, or dtypes differ.
    ValueError
        Where shapes do not fit; masses are negative or not finite, or their totals differ; or a number is out of
        range.

    References
    ----------
    M. Cuturi, *Sinkhorn distances*, NIPS 2013; B. Schmitzer, *Stabilized sparse scaling algorithms for entropy
    regularized transport problems*, SIAM J. Sci. Comput. 2019 (absorption); G. Luise et al., *Differential properties
    of Sinkhorn approximation for learning with Wasserstein distance*, NeurIPS 2018 (derivative).
    """
    _check_cost("sinkhorn", "cost", cost)
    _check_numbers("sinkhorn", epsilon, tolerance, max_iterations)
    n, m = cost.shape[-2:]
    a = cost.new_full((n,), 1.0 / n) if a is None else a
    b = cost.new_full((m,), 1.0 / m) if b is None else b
    _check_masses(cost, a, b)
    batch = torch.broadcast_shapes(cost.shape[:-2], a.shape[:-1], b.shape[:-1])
    cost, a, b = cost.expand(*batch, n, m), a.expand(*batch, n), b.expand(*batch, m)
    tolerance = _tolerance(cost) if tolerance is None else tolerance
    f, g, plan, error, steps = _solve(cost, a, b, -1.0 / epsilon, tolerance, max_iterations)
    coupling = plan if return_coupling else None
    return SinkhornResult(f.to(cost.dtype), g.to(cost.dtype), coupling, error, steps, error <= tolerance)


def sinkhorn_projection(log_matrix: Tensor, *, tolerance: float | None = None, max_iterations: int = 1000) -> Tensor:
    """Scale rows and columns of exp(log_matrix) to sums 1: the doubly stochastic matrix nearest in relative entropy.

    Parameters
    ----------
    log_matrix : Tensor
        Float32 or float64, shape (..., n, n). Minus infinity stands for entries that are 0.
    tolerance, max_iterations
        As for `sinkhorn`, which also says whether it converged: ``sinkhorn(-log_matrix, ones, ones, epsilon=1.0)``.

    Returns
    -------
    Tensor
        Shape of `log_matrix`; its gradient is that of the limit.

    Raises
    ------
    TypeError, ValueError
        As `sinkhorn`, and where the matrices are not square.
    """
    _check_cost("sinkhorn_projection", "log_matrix", log_matrix)
    _check_numbers("sinkhorn_projection", 1.0, tolerance, max_iterations)
    if log_matrix.shape[-1] != log_matrix.shape[-2]:
        raise ValueError(
            f"sinkhorn_projection: 'log_matrix' has shape {tuple(log_matrix.shape)}, wanted square matrices"
        )
    ones = torch.ones_like(log_matrix[..., 0].detach())
    tolerance = _tolerance(log_matrix) if tolerance is None else tolerance
    return _solve(log_matrix, ones, ones, 1.0, tolerance, max_iterations)[2]


def _tolerance(cost: Tensor) -> float:
    return 1e-6 if cost.dtype == torch.float32 else 1e-10


def _check_cost(operation: str, name: str, cost: Tensor) -> None:
    if not isinstance(cost, Tensor) or cost.dtype not in (torch.float32, torch.float64):
        got = cost.dtype if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(f"{operation}: {name!r} must be a float32 or float64 tensor, got {got}")
    if cost.ndim < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"{operation}: {name!r} has shape {tuple(cost.shape)}, wanted (..., n, m) with n, m >= 1")


def _check_numbers(operation: str, epsilon: float, tolerance: float | None, max_iterations: int) -> None:
    if not 0.0 < epsilon < math.inf:
        raise ValueError(f"{operation}: 'epsilon' must be positive and finite, got {epsilon!r}")
    if tolerance is not None and not 0.0 < tolerance < math.inf:
        raise ValueError(f"{operation}: 'tolerance' must be positive and finite, got {tolerance!r}")
    if max_iterations < 1:
        raise ValueError(f"{operation}: 'max_iterations' must be at least 1, got {max_iterations!r}")


def _check_masses(cost: Tensor, a: Tensor, b: Tensor) -> None:
    for name, masses, size in (("a", a, cost.shape[-2]), ("b", b, cost.shape[-1])):
        if not isinstance(masses, Tensor) or masses.dtype != cost.dtype:
            got = masses.dtype if isinstance(masses, Tensor) else type(masses).__name__
            raise TypeError(f"sinkhorn: {name!r} must be a tensor of the dtype of 'cost', {cost.dtype}, got {got}")
        if masses.ndim < 1 or masses.shape[-1] != size:
            raise ValueError(f"sinkhorn: {name!r} has shape {tuple(masses.shape)}, wanted a last dimension of {size}")
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or a.device.type == "meta" or type(a) is not Tensor:
        return  # values cannot be looked at, or only at a price (fake and distributed tensors)
    for name, masses in (("a", a.detach()), ("b", b.detach())):
        if masses.numel() and not bool(((masses >= 0) & (masses < math.inf)).all()):
            low, high = float(masses.min()), float(masses.max())
            raise ValueError(f"sinkhorn: {name!r} must be non-negative and finite, got values in [{low}, {high}]")
    totals = torch.broadcast_tensors(a.detach().double().sum(-1), b.detach().double().sum(-1))
    off = (totals[0] - totals[1]).abs() > 1e-4 * totals[0]
    if bool(off.any()):
        of_a, of_b = (float(t[off].flatten()[0]) for t in totals)
        raise ValueError(f"sinkhorn: 'a' and 'b' must have equal totals, got {of_a} and {of_b}")


# -- solution ------------------------------------------------------------------------------------------------------


def _solve(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, tolerance: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if dispatch.backend(cost, a, b) is not None:
        return _sinkhorn(cost, a, b, scale, tolerance, limit)
    f, g, _, error, steps = _sinkhorn(cost.detach(), a.detach(), b.detach(), scale, tolerance, limit)
    return *_differentiable(cost, a, b, scale, f, g), error, steps


def _differentiable(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, f: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give a solution its first and second derivatives, in plain torch: those of two of Newton's steps from it.

    Newton's method converges quadratically, so from a solution k steps have its derivatives up to order 2^k - 1.
    """
    logits = scale * cost.double()
    finite = g.detach() > -math.inf
    count = finite.sum(-1, keepdim=True).clamp_min(1)
    start = f, g
    moved = torch.zeros_like(f), torch.zeros_like(g)
    for _ in range(2):
        p = torch.exp((start[0] + moved[0]).unsqueeze(-1) + (start[1] + moved[1]).unsqueeze(-2) + logits)
        step = marginal_solve_reference(p, a.double() - p.sum(-1), b.double() - p.sum(-2))
        moved = moved[0] + step[0], moved[1] + step[1]
    mean = torch.where(finite, moved[1], torch.zeros_like(g)).sum(-1, keepdim=True) / count
    moved = moved[0] + mean, moved[1] - mean
    # The value stays that of the iteration.
    f, g = (s + (t - t.detach()) for s, t in zip(start, moved, strict=True))
    return f, g, torch.exp(f.unsqueeze(-1) + g.unsqueeze(-2) + logits).to(cost.dtype)


def _iterate_plain(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, tolerance: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The iteration in plain torch, in the log domain."""
    logits, a, b = scale * cost.double(), a.double(), b.double()
    f, g = torch.zeros_like(a), torch.where(b > 0, torch.zeros_like(b), -math.inf)
    steps = torch.zeros(cost.shape[:-2], dtype=torch.int64, device=cost.device)
    error = torch.full(cost.shape[:-2], math.inf, dtype=torch.float64, device=cost.device)
    for _ in range(limit):
        going = error > tolerance
        if not bool(going.any()):
            break
        f_new = _log_scaling(a, (logits + g.unsqueeze(-2)).logsumexp(-1))
        g_new = _log_scaling(b, (logits + f_new.unsqueeze(-1)).logsumexp(-2))
        f, g = (torch.where(going.unsqueeze(-1), new, old) for new, old in ((f_new, f), (g_new, g)))
        steps += going
        rows = _log_scaling(a, (logits + g.unsqueeze(-2)).logsumexp(-1))
        error = torch.where(a > 0, torch.expm1(f - rows).abs(), torch.zeros_like(a)).nan_to_num(1.0, 1.0).amax(-1)
    mean = torch.where(g > -math.inf, g, torch.zeros_like(g)).sum(-1, keepdim=True)
    mean = mean / (g > -math.inf).sum(-1, keepdim=True).clamp_min(1)
    f, g = f + mean, g - mean
    plan = torch.exp(f.unsqueeze(-1) + g.unsqueeze(-2) + logits)
    error = torch.maximum(_deviation(plan.sum(-1), a), _deviation(plan.sum(-2), b))
    return f, g, plan.to(cost.dtype), error, steps


def _log_scaling(masses: Tensor, total: Tensor) -> Tensor:
    """log masses - total; minus infinity where there is no mass, or no pair to carry it."""
    none = (masses <= 0) | (total == -math.inf)
    value = torch.where(none, torch.ones_like(masses), masses).log() - torch.where(none, torch.zeros_like(total), total)
    return torch.where(none, -math.inf, value)


def _deviation(sums: Tensor, masses: Tensor) -> Tensor:
    none = masses <= 0
    ratio = sums / torch.where(none, torch.ones_like(masses), masses)
    return torch.where(none, torch.zeros_like(ratio), (ratio - 1.0).abs()).amax(-1)


# -- derivative ----------------------------------------------------------------------------------------------------


def _gauged(grad_f: Tensor, grad_g: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Pull the cotangents of the potentials back through the normalisation: the potentials of the columns have mean 0.

    Rows and columns without mass pass nothing.
    """
    rows, columns = plan.sum(-1) > 0, plan.sum(-2) > 0
    grad_f = torch.where(rows, grad_f.double(), torch.zeros_like(grad_f, dtype=torch.float64))
    grad_g = torch.where(columns, grad_g.double(), torch.zeros_like(grad_g, dtype=torch.float64))
    mean = (grad_f.sum(-1, keepdim=True) - grad_g.sum(-1, keepdim=True)) / columns.sum(-1, keepdim=True).clamp_min(1)
    return grad_f, torch.where(columns, grad_g + mean, torch.zeros_like(grad_g))


def _pull_plain(
    grad_f: Tensor, grad_g: Tensor, grad_plan: Tensor, plan: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    # P = exp(f + g + L) and its sums fix (f, g) up to a constant, through the system of the marginals:
    # with (p, q) its solution for the cotangents' sums, L gets P (cotangent - p - q), and the masses get p and q.
    grad_f, grad_g = _gauged(grad_f, grad_g, plan)
    weighted = grad_plan.double() * plan.double()
    p, q = marginal_solve_reference(plan, grad_f + weighted.sum(-1), grad_g + weighted.sum(-2))
    grad_cost = scale * (weighted - plan.double() * (p.unsqueeze(-1) + q.unsqueeze(-2)))
    return grad_cost.to(plan.dtype), p.to(plan.dtype), q.to(plan.dtype)


@torch.library.custom_op("holonomy::sinkhorn", mutates_args=())
def _sinkhorn(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, tolerance: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    backend = dispatch.backend(cost)
    if backend is None or (backend == "cupy" and cost.shape[-2] * cost.shape[-1] > _on_cuda().LARGEST):
        return _iterate_plain(cost, a, b, scale, tolerance, limit)
    kernels = _kernels() if backend == "numba" else _on_cuda()
    result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = kernels.iterate(cost, a, b, scale, tolerance, limit)
    return result


@torch.library.custom_op("holonomy::sinkhorn_backward", mutates_args=())
def _sinkhorn_backward(
    grad_f: Tensor, grad_g: Tensor, grad_plan: Tensor, plan: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    if dispatch.backend(plan) != "numba":
        return _pull_plain(grad_f, grad_g, grad_plan, plan, scale)
    f, g = _gauged(grad_f, grad_g, plan)
    _kernels("birkhoff").margins(plan, grad_plan, True, f, g)
    p, q = marginal_solve(plan, f, g, default_tolerance(plan), _LIMIT)
    return _kernels().pull(grad_plan, plan, p, q, scale), p.to(plan.dtype), q.to(plan.dtype)


@_sinkhorn.register_fake
def _(
    cost: Tensor, a: Tensor, b: Tensor, scale: float, tolerance: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, (n, m) = cost.shape[:-2], cost.shape[-2:]
    f, g, error = (cost.new_empty((*batch, *size), dtype=torch.float64) for size in ((n,), (m,), ()))
    return f, g, cost.new_empty(cost.shape), error, cost.new_empty(batch, dtype=torch.int64)


@_sinkhorn_backward.register_fake
def _(grad_f: Tensor, grad_g: Tensor, grad_plan: Tensor, plan: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    columns = plan.new_empty((*plan.shape[:-2], plan.shape[-1]))
    return plan.new_empty(plan.shape), plan.new_empty(plan.shape[:-1]), columns


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    ctx.scale = inputs[3]
    ctx.mark_non_differentiable(output[3], output[4])


def _pull(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    return *_sinkhorn_backward(*grads[:3], *ctx.saved_tensors, ctx.scale), None, None, None


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.scale = inputs[-1]


def _pull_twice(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    pull = torch.func.vjp(lambda f, g, h, p: _pull_plain(f, g, h, p, ctx.scale), *ctx.saved_tensors)[1]
    return *pull(tuple(grads)), None


_sinkhorn.register_autograd(_pull, setup_context=_save)
_sinkhorn_backward.register_autograd(_pull_twice, setup_context=_save_inputs)


@_sinkhorn.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return _sinkhorn(*in_front(info.batch_size, inputs[:3], in_dims[:3]), *inputs[3:]), (0,) * 5


@_sinkhorn_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return _sinkhorn_backward(*in_front(info.batch_size, inputs[:4], in_dims[:4]), inputs[4]), (0,) * 3

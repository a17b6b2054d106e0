"""Projection to the tangent space of doubly stochastic matrices, and the linear system behind it."""

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch

__all__ = ["birkhoff_proju", "birkhoff_proju_reference", "marginal_solve", "marginal_solve_reference"]

#: Steps of conjugate gradients past which a dense factorisation of the reduced system is the faster way.
_LIMIT = 1000


def _kernels() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cpu.birkhoff")


def birkhoff_proju(
    x: Tensor, u: Tensor, *, tolerance: float | None = None, max_iterations: int | None = None
) -> Tensor:
    """Project matrices to the tangent space of the doubly stochastic ones: row and column sums 0.

    The projection is orthogonal in the Fisher metric <u, v> = sum u_ij v_ij / x_ij: u_ij - (alpha_i + beta_j) x_ij.
    Any non-negative `x` will do, also rectangular: the result's sums are 0 whatever those of `x`. Entries of `u` where
    `x` is 0 are dropped, for they would leave the face.

    Parameters
    ----------
    x, u : Tensor
        Float32 or float64, shapes (..., n, m) that broadcast.
    tolerance : float, optional
        Length of the residual sums, relative to the sums of `u`, at which conjugate gradients stop. By default 1e-10
        in float32 and 1e-14 in float64 (the iteration is in float64 for both).
    max_iterations : int, optional
        Steps after which a dense factorisation of the reduced n x n system takes over; by default 1000.

    Returns
    -------
    Tensor
        The projection, in the broadcast shape.

    Raises
    ------
    TypeError
        Where `x` or `u` is not a float32 or float64 tensor, or their dtypes differ.
    ValueError
        Where shapes do not fit, `tolerance` is not positive, or `max_iterations` is negative.

    References
    ----------
    A. Douik, B. Hassibi, *Manifold optimization over the set of doubly stochastic matrices: a second-order geometry*,
    IEEE Trans. Signal Processing 2019, section III.
    """
    for name, tensor in (("x", x), ("u", u)):
        if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.float32, torch.float64):
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"birkhoff_proju: {name!r} must be a float32 or float64 tensor, got {got}")
    if x.dtype != u.dtype:
        raise TypeError(f"birkhoff_proju: 'u' must have the dtype of 'x', {x.dtype}, got {u.dtype}")
    if x.ndim < 2 or u.ndim < 2 or 0 in x.shape[-2:] or x.shape[-2:] != u.shape[-2:]:
        raise ValueError(
            f"birkhoff_proju: 'x' and 'u' must be matrices of one size, got {tuple(x.shape)} and {tuple(u.shape)}"
        )
    if tolerance is not None and not 0.0 < tolerance < math.inf:
        raise ValueError(f"birkhoff_proju: 'tolerance' must be positive, got {tolerance!r}")
    if max_iterations is not None and max_iterations < 0:
        raise ValueError(f"birkhoff_proju: 'max_iterations' must not be negative, got {max_iterations!r}")
    if dispatch.backend(x, u) != "numba":
        return birkhoff_proju_reference(x, u)
    x, u = torch.broadcast_tensors(x, u)
    limit = _LIMIT if max_iterations is None else max_iterations
    result: Tensor = _proju(x, u, default_tolerance(x) if tolerance is None else tolerance, limit)[0]
    return result


def birkhoff_proju_reference(x: Tensor, u: Tensor) -> Tensor:
    """`birkhoff_proju` in plain torch, by a dense factorisation; differentiable to any order."""
    return _proju_plain(x, u)[0]


def default_tolerance(p: Tensor) -> float:
    """Relative residual that leaves the rounding of the dtype of `p` to decide."""
    return 1e-10 if p.dtype == torch.float32 else 1e-14


# -- linear system -------------------------------------------------------------------------------------------------


def marginal_solve_reference(p: Tensor, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Shortest solution of [diag(P 1) P; P^T diag(P^T 1)] (alpha, beta) = (f, g), by a pseudo-inverse.

    Computed in float64. The part of (f, g) along (1, -1), which no solution can match, is dropped; so are rows and
    columns of zeros.

    Parameters
    ----------
    p : Tensor
        Non-negative, shape (..., n, m).
    f, g : Tensor
        Shapes (..., n) and (..., m).
    """
    p, f, g = p.double(), f.double(), g.double()
    r, c = p.sum(-1), p.sum(-2)
    rows, columns = (r > 0).double(), (c > 0).double()
    count = (rows.sum(-1) + columns.sum(-1)).clamp_min(1.0).unsqueeze(-1)
    f, g = rows * f, columns * g
    excess = (f.sum(-1) - g.sum(-1)).unsqueeze(-1) / count
    f, g = f - rows * excess, g + columns * excess
    inverse = rows / torch.where(rows > 0, r, torch.ones_like(r))
    laplacian = torch.diag_embed(c) - p.mT @ (inverse.unsqueeze(-1) * p)
    # A multiple of the projection to the constants makes it regular; the right side has no part along them.
    size = (laplacian.diagonal(dim1=-2, dim2=-1).sum(-1) / columns.sum(-1).square().clamp_min(1.0)).detach()
    regular = laplacian + size[..., None, None] * columns.unsqueeze(-1) * columns.unsqueeze(-2)
    right = g - (p.mT @ (inverse * f).unsqueeze(-1)).squeeze(-1)
    beta = (torch.linalg.pinv(regular, hermitian=True) @ right.unsqueeze(-1)).squeeze(-1)
    alpha = inverse * (f - (p @ beta.unsqueeze(-1)).squeeze(-1))
    shift = (alpha.sum(-1) - beta.sum(-1)).unsqueeze(-1) / count
    return alpha - rows * shift, beta + columns * shift


def marginal_solve(p: Tensor, f: Tensor, g: Tensor, tolerance: float, limit: int) -> tuple[Tensor, Tensor]:
    """The same by conjugate gradients where a kernel can, and without derivatives.

    Parameters
    ----------
    p, f, g
        As for `marginal_solve_reference`; `f` and `g` in float64, and overwritten.
    tolerance : float
        Length of the residual relative to that of (f, g).
    limit : int
        Steps after which the dense factorisation takes over.
    """
    if dispatch.backend(p) != "numba":
        return marginal_solve_reference(p, f, g)
    alpha, beta, steps = _kernels().solve(p, f, g, tolerance, limit)
    hard = steps < 0
    if hard.any():
        alpha[hard], beta[hard] = marginal_solve_reference(p[hard], f[hard], g[hard])
    return alpha, beta


def _vectors(p: Tensor) -> tuple[Tensor, Tensor]:
    """Empty float64 tensors for one number a row, and one a column."""
    f = p.new_empty(p.shape[:-1], dtype=torch.float64)
    return f, p.new_empty((*p.shape[:-2], p.shape[-1]), dtype=torch.float64)


# -- projection ----------------------------------------------------------------------------------------------------


def _proju_plain(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u = torch.where(x <= 0, torch.zeros_like(u), u)
    alpha, beta = marginal_solve_reference(x, u.sum(-1), u.sum(-2))
    out = u.double() - (alpha.unsqueeze(-1) + beta.unsqueeze(-2)) * x.double()
    return out.to(x.dtype), alpha, beta


def _backward_plain(
    grad: Tensor, grad_alpha: Tensor, grad_beta: Tensor, x: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    # The system is symmetric, so the adjoint is one more solution of it, (p, q). With h = grad + p + q it pulls back
    # to h in u and, through the matrix and the product with x, to -(alpha + beta) h in x.
    weighted = grad.double() * x.double()
    p, q = marginal_solve_reference(x, grad_alpha - weighted.sum(-1), grad_beta - weighted.sum(-2))
    h = grad.double() + p.unsqueeze(-1) + q.unsqueeze(-2)
    grad_x, grad_u = -(alpha.unsqueeze(-1) + beta.unsqueeze(-2)) * h, torch.where(x <= 0, torch.zeros_like(h), h)
    return grad_x.to(x.dtype), grad_u.to(x.dtype)


@torch.library.custom_op("holonomy::birkhoff_proju", mutates_args=())
def _proju(x: Tensor, u: Tensor, tolerance: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    if dispatch.backend(x) != "numba":
        return _proju_plain(x, u)
    f, g = (torch.zeros(t.shape, dtype=t.dtype) for t in _vectors(x))
    _kernels().margins(x, u, False, f, g)
    alpha, beta = marginal_solve(x, f, g, tolerance, limit)
    return _kernels().correct(x, u, alpha, beta), alpha, beta


@torch.library.custom_op("holonomy::birkhoff_proju_backward", mutates_args=())
def _proju_backward(
    grad: Tensor, grad_alpha: Tensor, grad_beta: Tensor, x: Tensor, alpha: Tensor, beta: Tensor,
    tolerance: float, limit: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if dispatch.backend(x) != "numba":
        return _backward_plain(grad, grad_alpha, grad_beta, x, alpha, beta)
    f, g = torch.zeros(alpha.shape, dtype=torch.float64), torch.zeros(beta.shape, dtype=torch.float64)
    _kernels().margins(x, grad, True, f, g)
    p, q = marginal_solve(x, grad_alpha - f, grad_beta - g, tolerance, limit)
    result: tuple[Tensor, Tensor] = _kernels().correct_backward(grad, x, alpha, beta, p, q)
    return result


@_proju.register_fake
def _(x: Tensor, u: Tensor, tolerance: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), *_vectors(x)


@_proju_backward.register_fake
def _(
    grad: Tensor, grad_alpha: Tensor, grad_beta: Tensor, x: Tensor, alpha: Tensor, beta: Tensor,
    tolerance: float, limit: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], output[1], output[2])
    ctx.settings = inputs[-2:]


def _pull(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    return *_proju_backward(*grads, *ctx.saved_tensors, *ctx.settings), None, None


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:-2])


def _pull_twice(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    return *torch.func.vjp(_backward_plain, *ctx.saved_tensors)[1](tuple(grads)), None, None


_proju.register_autograd(_pull, setup_context=_save)
_proju_backward.register_autograd(_pull_twice, setup_context=_save_inputs)


def in_front(size: int, tensors: tuple[Tensor, ...], in_dims: tuple[int | None, ...]) -> list[Tensor]:
    """Bring the dimension that vmap maps to the front; tensors without one get it by repetition."""
    return [
        t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]


@_proju.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return _proju(*in_front(info.batch_size, inputs[:2], in_dims[:2]), *inputs[2:]), (0, 0, 0)


@_proju_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return _proju_backward(*in_front(info.batch_size, inputs[:6], in_dims[:6]), *inputs[6:]), (0, 0)

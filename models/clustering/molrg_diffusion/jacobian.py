"""The derivative of a denoiser at a point: its rank, and the directions along which edits change the image."""

import torch
from torch import Tensor

from holonomy.manifolds.linalg import numerical_rank
from holonomy.models.clustering.molrg_diffusion.denoiser import Denoiser
from holonomy.models.clustering.molrg_diffusion.mixture import Level, check_coefficients, check_points
from holonomy.models.clustering.molrg_diffusion.sampling import ddim
from holonomy.models.clustering.molrg_diffusion.schedules import Schedule

__all__ = ["edit", "edit_directions", "jacobian", "jacobian_rank"]


def jacobian(denoiser: Denoiser, x_t: Tensor, s: Level, g: Level) -> Tensor:
    """Derivatives d x_theta / d x_t.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, s, g)`` of points (n, D), each for itself.
    x_t : Tensor
        Points (n, D) or (D,).
    s, g : Tensor or float
        Coefficients of their time.

    Returns
    -------
    Tensor
        (n, D, D) or (D, D); row i is the derivative of entry i.

    Raises
    ------
    TypeError, ValueError
        Where points or coefficients are out of their range.
    """
    x = check_points("jacobian", x_t.detach(), x_t.shape[-1])
    points = x if x.ndim == 2 else x[None]
    s, g = check_coefficients("jacobian", s, g, points)
    points = points.requires_grad_()
    with torch.enable_grad():
        # Each output depends on its own point alone: a row of all Jacobians is one backward pass of the batch.
        found = denoiser(points, s, g)
        rows = [
            torch.autograd.grad(found[:, i].sum(), points, retain_graph=i + 1 < found.shape[1])[0]
            for i in range(found.shape[1])
        ]
    result = torch.stack(rows, 1)
    return result if x_t.ndim == 2 else result[0]


def jacobian_rank(denoiser: Denoiser, x_t: Tensor, s: Level, g: Level, energy: float = 0.99) -> Tensor:
    """Numerical rank of the derivative: fewest singular values that carry a share of the Frobenius norm.

    Parameters
    ----------
    denoiser, x_t, s, g
        As for `jacobian`.
    energy : float, default 0.99
        The share, of the norm and not of its square, in (0, 1).

    Returns
    -------
    Tensor
        int64, (n,) or a scalar.

    Raises
    ------
    TypeError, ValueError
        As `jacobian`, and where `energy` is out of its range.
    """
    if not 0.0 < energy < 1.0:
        raise ValueError(f"jacobian_rank: 'energy' must be in (0, 1), got {energy}")
    matrices = jacobian(denoiser, x_t, s, g)
    ranks = [numerical_rank(matrix, energy**2) for matrix in matrices.reshape(-1, *matrices.shape[-2:])]
    return torch.tensor(ranks).reshape(matrices.shape[:-2])


def edit_directions(
    denoiser: Denoiser, x_t: Tensor, s: Level, g: Level, k: int, avoid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Unit directions of x_t that change the estimate most: leading right singular vectors of the derivative.

    Parameters
    ----------
    denoiser, s, g
        As for `jacobian`.
    x_t : Tensor
        A point (D,).
    k : int
        How many, 1 to D.
    avoid : Tensor, optional
        Rows (m, D) whose span directions must be orthogonal to; those that change a background, say, which are the
        leading right singular vectors of its rows of the derivative.

    Returns
    -------
    directions : Tensor
        Orthonormal rows (k, D).
    strengths : Tensor
        Singular values (k,), falling.

    Raises
    ------
    TypeError, ValueError
        As `jacobian`, and where `x_t` is no single point, `k` is out of its range or `avoid` leaves too little.
    """
    if x_t.ndim != 1:
        raise ValueError(f"edit_directions: 'x_t' must be one point (D,), got shape {tuple(x_t.shape)}")
    matrix = jacobian(denoiser, x_t, s, g)
    free = matrix.shape[1]
    basis = torch.eye(free, dtype=matrix.dtype, device=matrix.device)
    if avoid is not None:
        if avoid.ndim != 2 or avoid.shape[1] != free:
            raise ValueError(f"edit_directions: 'avoid' must have shape (m, {free}), got {tuple(avoid.shape)}")
        _, sizes, rows = torch.linalg.svd(avoid.to(matrix))
        rank = int((sizes > sizes[:1] * max(avoid.shape) * torch.finfo(matrix.dtype).eps).sum())
        basis = rows[rank:].mT  # orthonormal columns of what is left
    if not 1 <= k <= basis.shape[1]:
        raise ValueError(f"edit_directions: 'k' must be from 1 to {basis.shape[1]}, got {k}")
    _, sizes, rows = torch.linalg.svd(matrix @ basis)
    return rows[:k] @ basis.mT, sizes[:k]


def edit(
    denoiser: Denoiser,
    x_t: Tensor,
    direction: Tensor,
    alpha: float,
    schedule: Schedule,
    t: float,
    steps: int = 20,
) -> Tensor:
    """Move x_t by alpha along a unit direction at time t, and go on with deterministic sampling to time 0.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, s, g)``.
    x_t : Tensor
        Points (n, D) or (D,) at time `t`.
    direction : Tensor
        (D,), not 0; divided by its length.
    alpha : float
        How far.
    schedule, t, steps
        As for `ddim`.

    Returns
    -------
    Tensor
        Shaped as `x_t`.

    Raises
    ------
    TypeError, ValueError
        As `ddim`, and where the direction is 0 or has another shape.
    """
    length = float(direction.norm())
    if direction.shape != x_t.shape[-1:] or not length > 0.0:
        raise ValueError(
            f"edit: 'direction' must have shape {tuple(x_t.shape[-1:])} and a length that is not 0, got "
            f"{tuple(direction.shape)} of length {length:g}"
        )
    return ddim(denoiser, x_t + alpha / length * direction.to(x_t), schedule, t, steps)

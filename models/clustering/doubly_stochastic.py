"""Doubly stochastic membership of points with points: entropic projection, in batches and over a whole data set."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.manifolds.kernels.sinkhorn import sinkhorn_projection
from holonomy.manifolds.linalg import sym

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["DoublyStochasticProjection", "membership", "membership_blocks"]


class DoublyStochasticProjection(nn.Module):
    r"""Entropic projection of scores K onto doubly stochastic matrices: argmin -<K, G> + eta sum G log G.

    It is diag(u) exp(K/eta) diag(v), with u = v where K is symmetric. It tends to a permutation as eta falls (to the
    identity where the diagonal leads) and to the uniform matrix as eta grows. Scores are meant to be cosines: eta
    means nothing without their scale.

    Symmetric scores are scaled by the symmetric iteration u <- sqrt(u / (exp(K/eta) u)), others by rows and columns in
    turn, in the log domain. Around the solution G the symmetric iteration is the map (I - G)/2: of a positive
    semi-definite exp(K/eta), as cosines give, every step halves the error at least, whatever eta.

    Parameters
    ----------
    eta : float
        Temperature, positive.
    max_iter : int, default 100
        Iterations at most.
    tol : float, optional
        Largest deviation of a row or column sum from 1 at which the iteration ends; by default 1e-6 in float32 and
        1e-10 in float64.
    implicit : bool, default False
        Take gradients by the implicit function theorem, of `sinkhorn_projection`, instead of through the iterations.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(self, eta: float, max_iter: int = 100, tol: float | None = None, implicit: bool = False) -> None:
        super().__init__()
        check_eta("DoublyStochasticProjection", eta)
        if max_iter < 1:
            raise ValueError(f"DoublyStochasticProjection: 'max_iter' must be at least 1, got {max_iter!r}")
        if tol is not None and not 0.0 < tol < math.inf:
            raise ValueError(f"DoublyStochasticProjection: 'tol' must be positive and finite, got {tol!r}")
        self.eta, self.max_iter, self.tol, self.implicit = float(eta), max_iter, tol, implicit

    def forward(self, scores: Tensor) -> Tensor:
        """Membership of scores.

        Parameters
        ----------
        scores : Tensor
            Float32 or float64, shape (..., n, n). Half precision is computed in float32.

        Returns
        -------
        Tensor
            Doubly stochastic matrices (..., n, n); symmetric where the scores are.

        Raises
        ------
        TypeError
            Where the scores are not a floating tensor.
        ValueError
            Where they are not square or not finite.
        """
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(f"DoublyStochasticProjection: 'scores' must be a floating tensor, got {got}")
        if scores.ndim < 2 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] < 1:
            raise ValueError(
                f"DoublyStochasticProjection: 'scores' has shape {tuple(scores.shape)}, wanted (..., n, n)"
            )
        if not bool(scores.detach().isfinite().all()):
            raise ValueError("DoublyStochasticProjection: 'scores' has values that are not finite")
        logits = (scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores) / self.eta
        tol = self.tol or (1e-6 if logits.dtype == torch.float32 else 1e-10)
        symmetric = _is_symmetric(logits.detach())
        if self.implicit:
            found = sinkhorn_projection(logits, tolerance=tol, max_iterations=self.max_iter)
            return sym(found) if symmetric else found
        return _scale_symmetric(sym(logits), tol, self.max_iter) if symmetric else _scale(logits, tol, self.max_iter)

    def extra_repr(self) -> str:
        """Temperature and kind of gradient, for `repr`."""
        return f"eta={self.eta:g}, max_iter={self.max_iter}, implicit={self.implicit}"


def check_eta(where: str, eta: float) -> None:
    """Refuse a temperature that is not positive and finite."""
    if not 0.0 < eta < math.inf:
        raise ValueError(f"{where}: 'eta' must be positive and finite, got {eta!r}")


def _is_symmetric(logits: Tensor) -> bool:
    # A product C C^T may come out of blocks of several sizes, with rounding on either side of the diagonal.
    limit = 16.0 * torch.finfo(logits.dtype).eps * float(logits.abs().max().clamp_min(1.0))
    return float((logits - logits.mT).abs().max()) <= limit


def _scale_symmetric(logits: Tensor, tol: float, limit: int) -> Tensor:
    f = torch.zeros_like(logits[..., 0])
    for _ in range(limit):
        total = (logits + f.unsqueeze(-2)).logsumexp(-1)
        if float(torch.expm1((f + total).detach()).abs().max()) <= tol:
            break
        f = 0.5 * (f - total)
    return torch.exp(logits + (f.unsqueeze(-1) + f.unsqueeze(-2)))  # in this order, symmetric to the last digit


def _scale(logits: Tensor, tol: float, limit: int) -> Tensor:
    g = torch.zeros_like(logits[..., 0])
    f = g
    for _ in range(limit):
        total = (logits + g.unsqueeze(-2)).logsumexp(-1)
        if bool(f.any()) and float(torch.expm1((f + total).detach()).abs().max()) <= tol:
            break
        f = -total
        g = -(logits + f.unsqueeze(-1)).logsumexp(-2)
    return torch.exp(logits + f.unsqueeze(-1) + g.unsqueeze(-2))


# -- a whole data set ----------------------------------------------------------------------------------------------


def membership_blocks(
    c: Tensor, eta: float, *, block: int = 1024, tol: float = 1e-5, max_iter: int = 100, abs_kernel: bool = False
) -> Iterator[Tensor]:
    """Rows of the membership of all points, block by block: the projection of C C^T, which is never held whole.

    The scalings come of the symmetric iteration, which computes blocks of exp(C C^T/eta) afresh at every step: memory
    beyond `c` is of the order of n times `block`, work that of a product C C^T for each of some twenty steps.

    Parameters
    ----------
    c : Tensor
        Unit vectors (n, d), float32 or float64.
    eta : float
        Temperature, positive.
    block : int, default 1024
        Rows at once.
    tol : float, default 1e-5
        Largest deviation of a row's sum from 1.
    max_iter : int, default 100
        Iterations at most.
    abs_kernel : bool, default False
        Project |C C^T|.

    Yields
    ------
    Tensor
        Rows (block, n) in order, of the dtype of `c`, without gradients.

    Raises
    ------
    TypeError, ValueError
        Where `c` is not a floating tensor of finite unit rows, or a number is out of its range.
    """
    check_eta("membership_blocks", eta)
    if not isinstance(c, Tensor) or c.dtype not in (torch.float32, torch.float64):
        got = c.dtype if isinstance(c, Tensor) else type(c).__name__
        raise TypeError(f"membership_blocks: 'c' must be a float32 or float64 tensor, got {got}")
    if c.ndim != 2 or 0 in c.shape:
        raise ValueError(f"membership_blocks: 'c' has shape {tuple(c.shape)}, wanted (n, d)")
    if not float((c.detach().norm(dim=-1) - 1.0).abs().max()) <= 1e-3:
        raise ValueError("membership_blocks: the rows of 'c' must be finite and have length 1 within 0.001")
    if block < 1 or max_iter < 1 or not tol > 0.0:
        raise ValueError(
            f"membership_blocks: 'block' and 'max_iter' must be at least 1 and 'tol' positive, got {block}, "
            f"{max_iter} and {tol}"
        )
    return _rows(c.detach(), eta, block, tol, max_iter, abs_kernel)


def _rows(c: Tensor, eta: float, block: int, tol: float, max_iter: int, abs_kernel: bool) -> Iterator[Tensor]:
    u = c.new_ones(len(c))
    for _ in range(max_iter):
        total = torch.cat([_kernel(part, c, eta, abs_kernel) @ u for part in c.split(block)])
        if float((u * total - 1.0).abs().max()) <= tol:
            break
        u = (u / total).sqrt()
    for part, scale in zip(c.split(block), u.split(block), strict=True):
        yield _kernel(part, c, eta, abs_kernel).mul_(u).mul_(scale.unsqueeze(-1))


@torch.no_grad()
def _kernel(rows: Tensor, c: Tensor, eta: float, abs_kernel: bool) -> Tensor:
    """exp((cosine - 1)/eta): with the 1 taken off no entry is above 1 and the diagonal is 1, so that sums are safe."""
    cosines = rows @ c.mT
    if abs_kernel:
        cosines.abs_()
    return cosines.sub_(1.0).div_(eta).exp_()


@overload
def membership(c: Tensor, eta: float, *, top_k: None = None, **options: Any) -> Tensor:
    """Dense."""


@overload
def membership(c: Tensor, eta: float, *, top_k: int, **options: Any) -> "csr_matrix":
    """The largest of each row."""


def membership(c: Tensor, eta: float, *, top_k: int | None = None, **options: Any) -> "Tensor | csr_matrix":
    """Membership of all points with all points, dense or the largest of each row.

    Parameters
    ----------
    c : Tensor
        Unit vectors (n, d), float32 or float64.
    eta : float
        Temperature, positive.
    top_k : int, optional
        Keep the largest entries of each row alone, as a sparse matrix: memory of the order of n (block + top_k).
        Its rows do not sum to 1.
    **options
        ``block``, ``tol``, ``max_iter``, ``abs_kernel``, as for `membership_blocks`.

    Returns
    -------
    Tensor or scipy.sparse.csr_matrix
        (n, n), of the dtype of `c`.

    Raises
    ------
    TypeError, ValueError
        As `membership_blocks`, and where `top_k` is not from 1 to n.
    """
    rows = membership_blocks(c, eta, **options)
    n = len(c)
    if top_k is None:
        whole = c.new_empty(n, n)
        start = 0
        for part in rows:
            whole[start : start + len(part)] = part
            start += len(part)
        return whole
    if not 1 <= top_k <= n:
        raise ValueError(f"membership: 'top_k' must be from 1 to n = {n}, got {top_k}")
    from scipy.sparse import csr_matrix

    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for part in rows:
        values, places = part.topk(top_k, dim=-1)
        kept.append((values.cpu().numpy().ravel(), places.cpu().numpy().astype(np.int32).ravel()))
    values_, places_ = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    return csr_matrix((values_, places_, np.arange(0, n * top_k + 1, top_k)), shape=(n, n))

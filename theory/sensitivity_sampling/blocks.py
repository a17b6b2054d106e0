"""Weighted second moments of the rows of one basis, for a batch of weightings: what each iteration costs."""

import torch
from torch import Tensor

#: Entries of a temporary array: 16 MB.
ENTRIES = 1 << 21


class Moments:
    """The matrices sum_j D_kj q_j q_j^T for a batch of weights D, as one product with the rows' outer products.

    Parameters
    ----------
    Q : Tensor
        (n, d).
    """

    def __init__(self, Q: Tensor) -> None:
        n, d = Q.shape
        self._size = d
        self._rows, self._columns = torch.triu_indices(d, d, device=Q.device)
        chunk = max(1, ENTRIES // len(self._rows))
        self._parts = Q.split(chunk)
        # Outer products that fit are formed once; else anew in each call, by parts, so that memory stays bounded.
        self._kept = [self._outer(part) for part in self._parts] if n * len(self._rows) <= 4 * ENTRIES else None

    def __call__(self, weights: Tensor) -> Tensor:
        """Weights (b, n) -> matrices (b, d, d)."""
        upper = weights.new_zeros(len(weights), len(self._rows))
        low = 0
        for k, part in enumerate(self._parts):
            outer = self._kept[k] if self._kept is not None else self._outer(part)
            upper.addmm_(weights[:, low : low + len(part)], outer)
            low += len(part)
        full = upper.new_empty(len(weights), self._size, self._size)
        full[:, self._rows, self._columns] = upper
        full[:, self._columns, self._rows] = upper
        return full

    def _outer(self, part: Tensor) -> Tensor:
        return part[:, self._rows] * part[:, self._columns]


def factor(matrices: Tensor, a: Tensor) -> Tensor:
    """Cholesky factors of M + t a a^T, a well-conditioned stand-in for M where a^T x is held fixed.

    Near an optimum that lies on few rows M is nearly singular in a direction that a sees. The multiple of a a^T leaves
    M^-1 a / (a^T M^-1 a), and steps with a^T dx = 0, what they are.

    Parameters
    ----------
    matrices : Tensor
        (b, d, d), positive definite; overwritten.
    a : Tensor
        (b, d).
    """
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    scale = diagonal.sum(1)
    matrices.baddbmm_((a * (scale / a.square().sum(1))[:, None])[:, :, None], a[:, None, :])
    upper, failed = torch.linalg.cholesky_ex(matrices, upper=True)
    if bool(failed.any()):
        # At the level of rounding: the step is then a poorer one, which its caller's line search or bounds notice.
        diagonal += 1e-14 * scale[:, None]
        upper = torch.linalg.cholesky_ex(matrices, upper=True).L
    return upper


def solve(upper: Tensor, right: Tensor) -> Tensor:
    """Solve a batch of systems from their Cholesky factors, (b, d, d) and (b, d) -> (b, d)."""
    return torch.cholesky_solve(right[:, :, None], upper, upper=True)[:, :, 0]

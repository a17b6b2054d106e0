"""Expectations of functions of Gaussian numbers by quadrature, split where the functions have kinks."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["gaussian_expectation", "gaussian_nodes", "gaussian_vector_nodes"]

#: Gaussian numbers beyond this many standard deviations weigh less than 1e-17.
_FAR = 9.0


@cache
def _unit_nodes(order: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the standard normal law: Gauss-Legendre on either half of [-9, 9]."""
    t, w = np.polynomial.legendre.leggauss(order)
    z = 0.5 * _FAR * (t + 1.0)
    weights = 0.5 * _FAR * w * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    nodes = np.concatenate([-z[::-1], z])
    both = np.concatenate([weights[::-1], weights])
    return torch.from_numpy(nodes), torch.from_numpy(both / both.sum())


def gaussian_nodes(K: float, order: int = 200) -> tuple[Tensor, Tensor]:
    """Nodes z and weights of N(0, K), float64, (2 order,) each; symmetric, and split at 0.

    Unlike those of Gauss and Hermite, they converge exponentially for functions with a kink at 0 and for functions that
    are smooth but not entire, whatever K.

    Raises
    ------
    ValueError
        For a variance below 0, or an order below 2.
    """
    if not K >= 0 or order < 2:
        raise ValueError(f"gaussian_expectation: wanted a variance of at least 0 and order >= 2, got {K} and {order}")
    nodes, weights = _unit_nodes(order)
    return nodes * math.sqrt(K), weights


def gaussian_expectation(f: Callable[..., Tensor], K: float | Tensor, order: int = 200) -> float:
    """Mean of f(z) for z ~ N(0, K), or of f(z_1, z_2) for a covariance matrix K.

    Parameters
    ----------
    f : callable
        Elementwise on float64 tensors; of one argument, or of two for a matrix.
    K : float, or Tensor of shape (2, 2)
        Variance, or covariance. One that is singular is taken as it is.
    order : int, default 200
        Nodes on each side of 0, in each dimension.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For a variance below 0, a matrix that is not a covariance, or an order below 2.
    """
    if not isinstance(K, Tensor) or K.ndim == 0:
        z, weights = gaussian_nodes(float(K), order)
        return float((f(z) * weights).sum())
    a, b, c = _covariance(K)
    u, v, weights = _pair_nodes(a, b, c, order)
    return float((f(u, v) * weights).sum())


#: Nodes on each side of 0 of vectors of 1 to 4 numbers, and how many deviations away the last may be: few nodes do
#: better where they need not go as far.
_VECTOR_ORDERS, _VECTOR_FAR = (200, 60, 20, 14), (_FAR, _FAR, 6.5, 6.5)


def gaussian_vector_nodes(K: Tensor, order: int | None = None) -> tuple[Tensor, Tensor]:
    """Nodes z and weights of N(0, K) for vectors of up to four numbers, split at the zeros of all.

    Each number is given those before it, as a Cholesky factor has it, and each half of its line is integrated by
    itself.

    Parameters
    ----------
    K : Tensor, shape (m, m)
        Regular covariance, m from 1 to 4.
    order : int, optional
        Nodes on each side of a zero; 200, 60, 20 and 14 for m = 1 to 4 when left out, for full precision, the same,
        seven digits and five.

    Returns
    -------
    z : Tensor
        Float64, (m, (2 order)^m).
    weights : Tensor
        ((2 order)^m,).

    Raises
    ------
    ValueError
        For more than four numbers, a matrix that is not a regular covariance, or an order below 2.
    """
    m = len(K)
    if K.shape != (m, m) or not 1 <= m <= len(_VECTOR_ORDERS):
        raise ValueError(f"gaussian_vector_nodes: 'K' must be (m, m), m from 1 to 4, got {tuple(K.shape)}")
    order, far = _VECTOR_ORDERS[m - 1] if order is None else order, _VECTOR_FAR[m - 1]
    factor, info = torch.linalg.cholesky_ex(K.double())
    if order < 2 or int(info) != 0 or not torch.allclose(K, K.mT):
        raise ValueError(
            f"gaussian_vector_nodes: wanted a regular covariance and order >= 2, got {K.tolist()}, {order}"
        )
    t, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(order))
    e, weights = torch.zeros(0, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for row in range(m):
        kink = (-(factor[row, :row] @ e) / factor[row, row]).clamp(-far, far)
        half = torch.stack([0.5 * (kink + far), 0.5 * (far - kink)], 1)  # of what is below and above the zero
        middle = torch.stack([0.5 * (kink - far), 0.5 * (kink + far)], 1)
        fresh = middle.unsqueeze(2) + half.unsqueeze(2) * t
        density = torch.exp(-0.5 * fresh * fresh) / math.sqrt(2.0 * math.pi)
        weights = (weights.view(-1, 1, 1) * density * half.unsqueeze(2) * w).flatten()
        e = torch.cat([e.repeat_interleave(2 * order, 1), fresh.reshape(1, -1)])
    return factor @ e, weights / weights.sum()


def _covariance(K: Tensor) -> tuple[float, float, float]:
    if K.shape != (2, 2):
        raise ValueError(f"gaussian_expectation: 'K' must be a number or (2, 2), got {tuple(K.shape)}")
    (a, c), (d, b) = K.double().tolist()
    if a < 0 or b < 0 or abs(c - d) > 1e-12 * (a + b) or c * c > a * b * (1.0 + 1e-12):
        raise ValueError(f"gaussian_expectation: 'K' must be a covariance matrix, got {K.tolist()}")
    return a, b, c


def _pair_nodes(a: float, b: float, c: float, order: int) -> tuple[Tensor, Tensor, Tensor]:
    if a == 0.0:
        z, weights = gaussian_nodes(b, order)
        return torch.zeros_like(z), z, weights
    x, u = gaussian_nodes(a, order)
    rest = math.sqrt(max(b - c * c / a, 0.0))
    mean = (c / a) * x
    if rest == 0.0:
        return x, mean, u
    # The second number has its kink at 0 wherever the first one is: each half is integrated by itself.
    t, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(order))
    kink = (-mean / rest).clamp(-_FAR, _FAR)
    parts = []
    for low, high in ((torch.full_like(kink, -_FAR), kink), (kink, torch.full_like(kink, _FAR))):
        half = 0.5 * (high - low).unsqueeze(1)
        e = half * (t + 1.0) + low.unsqueeze(1)
        density = torch.exp(-0.5 * e * e) / math.sqrt(2.0 * math.pi)
        parts.append((x.unsqueeze(1).expand_as(e), mean.unsqueeze(1) + rest * e, density * half * w * u.unsqueeze(1)))
    first, second, weights = (torch.cat([part[k].flatten() for part in parts]) for k in range(3))
    return first, second, weights

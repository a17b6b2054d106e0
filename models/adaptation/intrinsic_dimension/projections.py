"""Random maps from R^d into the space of all parameters R^D, with their adjoints, rebuilt from a seed."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from holonomy.manifolds import Stiefel
from holonomy.manifolds.kernels.hadamard import hadamard_transform

__all__ = [
    "PROJECTIONS",
    "DenseProjection",
    "FastfoodProjection",
    "RandomProjection",
    "SparseProjection",
    "StiefelProjection",
    "fwht",
    "make_projection",
]


def fwht(x: Tensor, dim: int = -1, normalize: bool = False) -> Tensor:
    """Fast Walsh-Hadamard transform along a dimension whose length is a power of two; O(n log n), differentiable.

    See `holonomy.manifolds.kernels.hadamard.hadamard_transform`, which this is for the last dimension.
    """
    return hadamard_transform(x.movedim(dim, -1), normalized=normalize).movedim(-1, dim)


class RandomProjection(nn.Module):
    """A fixed map P from R^d to R^D, whose columns have length 1 and point in random directions.

    Parameters
    ----------
    D, d : int
        Dimensions, 1 <= d <= D.
    seed : int
        What the map is drawn from: the same seed gives the same map on every machine, in float64 on the CPU first.
    dtype : torch.dtype
    device : torch.device or str, optional

    Raises
    ------
    TypeError
        If a dimension or the seed is no int.
    ValueError
        If d is below 1 or above D.
    """

    def __init__(
        self,
        D: int,
        d: int,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("D", D), ("d", d), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{type(self).__name__}: {name!r} must be an int, got {type(value).__name__} {value!r}")
        if not 1 <= d <= D:
            raise ValueError(f"{type(self).__name__}: 'd' must be from 1 to D = {D}, got {d}")
        self.D, self.d, self.seed = D, d, seed
        for name, tensor in self._draw(torch.Generator().manual_seed(seed)):
            values = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            # Not part of a state dict: the seed is enough.
            self.register_buffer(name, values, persistent=False)

    def _draw(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        raise NotImplementedError

    def forward(self, v: Tensor) -> Tensor:
        """P v, (D,) from (d,)."""
        self._check("v", v, self.d)
        return self._apply_map(v)

    def transpose(self, u: Tensor) -> Tensor:
        """P^T u, (d,) from (D,): the exact adjoint of the map."""
        self._check("u", u, self.D)
        return self._apply_adjoint(u)

    def _check(self, name: str, tensor: Tensor, size: int) -> None:
        if tensor.shape != (size,):
            raise ValueError(f"{type(self).__name__}: {name!r} must be ({size},), got {tuple(tensor.shape)}")

    def _apply_map(self, v: Tensor) -> Tensor:
        raise NotImplementedError

    def _apply_adjoint(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Dimensions and seed."""
        return f"D={self.D}, d={self.d}, seed={self.seed}"


class DenseProjection(RandomProjection):
    """Gaussian columns, each divided by its length over all D coordinates; O(d D) time and memory."""

    matrix: Tensor

    def _draw(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        columns = torch.randn(self.d, self.D, generator=generator, dtype=torch.float64)
        yield "matrix", (columns / columns.norm(dim=1, keepdim=True)).mT.contiguous()

    def _apply_map(self, v: Tensor) -> Tensor:
        return self.matrix @ v

    def _apply_adjoint(self, u: Tensor) -> Tensor:
        return self.matrix.mT @ u


class StiefelProjection(DenseProjection):
    """Exactly orthonormal columns, uniform on the Stiefel manifold: their span is uniform on Gr(d, D)."""

    def _draw(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        yield "matrix", Stiefel().random(self.D, self.d, dtype=torch.float64, generator=generator)


class SparseProjection(RandomProjection):
    """Signs at random places, a share 1/sqrt(D) of them, and columns of length 1; O(d sqrt(D)) time and memory.

    Li, Hastie and Church, Very sparse random projections, KDD 2006.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor

    def _draw(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        density = 1.0 / math.sqrt(self.D)
        # How many entries a column has is binomial; a column without any would train nothing, and gets one.
        shares = torch.full((self.d,), density, dtype=torch.float64)
        counts = torch.binomial(torch.full((self.d,), float(self.D), dtype=torch.float64), shares, generator=generator)
        rows, columns, values = [], [], []
        for column, count in enumerate(counts.clamp_min(1.0).long().tolist()):
            rows.append(_places(self.D, count, generator))
            columns.append(torch.full((count,), column))
            signs = torch.randint(0, 2, (count,), generator=generator).double() * 2.0 - 1.0
            values.append(signs / math.sqrt(count))
        yield "rows", torch.cat(rows)
        yield "columns", torch.cat(columns)
        yield "values", torch.cat(values)

    def _apply_map(self, v: Tensor) -> Tensor:
        return v.new_zeros(self.D).index_add(0, self.rows, self.values * v[self.columns])

    def _apply_adjoint(self, u: Tensor) -> Tensor:
        return u.new_zeros(self.d).index_add(0, self.columns, self.values * u[self.rows])


def _places(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Distinct numbers below `size`, in O(count) memory where they are few."""
    if count > size // 4:
        return torch.randperm(size, generator=generator)[:count]
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:
        drawn = torch.cat([found, torch.randint(0, size, (count,), generator=generator)])
        # In the order in which they first came, so that none is preferred.
        _, first = _first_of_each(drawn)
        found = drawn[first]
    return found[:count]


def _first_of_each(numbers: Tensor) -> tuple[Tensor, Tensor]:
    values, inverse = torch.unique(numbers, return_inverse=True)
    first = torch.full((len(values),), len(numbers)).scatter_reduce(
        0, inverse, torch.arange(len(numbers)), reduce="amin"
    )
    return values, first.sort().values


class FastfoodProjection(RandomProjection):
    """H G Pi H B between Walsh-Hadamard transforms: O(D) memory and O(D log D) time for any d.

    v is padded with zeros to LL, the least power of two that is no less than D; B has random signs, Pi permutes, G is
    Gaussian; the first D entries are kept, and scaled so that a column has length 1 in the mean (Le, Sarlos and Smola,
    Fastfood, ICML 2013).
    """

    signs: Tensor
    gaussian: Tensor
    permutation: Tensor
    inverse: Tensor

    def _draw(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        self.length = 1 << (self.D - 1).bit_length()
        gaussian = torch.randn(self.length, generator=generator, dtype=torch.float64)
        permutation = torch.randperm(self.length, generator=generator)
        self._scale = 1.0 / math.sqrt(self.D * float(gaussian.square().sum()))
        yield "signs", torch.randint(0, 2, (self.length,), generator=generator).double() * 2.0 - 1.0
        yield "gaussian", gaussian
        yield "permutation", permutation
        yield "inverse", torch.argsort(permutation)

    def _apply_map(self, v: Tensor) -> Tensor:
        x = self.signs * nn.functional.pad(v, (0, self.length - self.d))
        x = self.gaussian * hadamard_transform(x)[self.permutation]
        return hadamard_transform(x)[: self.D] * self._scale

    def _apply_adjoint(self, u: Tensor) -> Tensor:
        x = hadamard_transform(nn.functional.pad(u, (0, self.length - self.D)))
        x = hadamard_transform((self.gaussian * x)[self.inverse])
        return (self.signs * x)[: self.d] * self._scale


PROJECTIONS: dict[str, type[RandomProjection]] = {
    "dense": DenseProjection,
    "sparse": SparseProjection,
    "fastfood": FastfoodProjection,
    "stiefel": StiefelProjection,
}


def make_projection(name: str, D: int, d: int, seed: int = 0, **options: Any) -> RandomProjection:
    """Build a projection by its name in `PROJECTIONS`.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(map(repr, PROJECTIONS))}, got {name!r}")
    return PROJECTIONS[name](D, d, seed, **options)

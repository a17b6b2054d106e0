"""Kernels of infinitely wide hierarchical convolutional networks with ReLU."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from holonomy.manifolds import Sphere
from holonomy.theory.ntk import arc_cosines
from holonomy.theory.wide_cnn.pairs import hierarchy

__all__ = ["HierarchicalKernel", "sample_multisphere"]

Kind = Literal["ntk", "nngp"]
Grid = Literal["1d", "2d"]
#: Cosines that are worked on at a time: some ten arrays of 1 MB, which stay in the cache.
_BLOCK = 1 << 17
#: Patches may be this far from length 1.
_UNIT = 1e-6


def sample_multisphere(
    n: int, p: int, s1: int, rng: torch.Generator | int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw inputs of p patches, each uniform on the unit sphere of R^s1, (n, p, s1).

    Raises
    ------
    ValueError
        For s1 below 2, or sizes below 1.
    """
    if s1 < 2 or n < 1 or p < 1:
        raise ValueError(f"sample_multisphere: wanted n >= 1, p >= 1 and s1 >= 2, got {n}, {p} and {s1}")
    generator = torch.Generator().manual_seed(rng) if isinstance(rng, int) else rng
    return Sphere().random(n, p, s1, dtype=dtype, generator=generator)


class HierarchicalKernel:
    """NTK or NNGP of a deep convolutional ReLU network at infinite width (Cagnetta, Favero, Wyart, ICML 2023).

    Layer 1 sees patches x_i of length 1 through their products t_i = x_i . y_i; layer l sees blocks of s_l positions of
    the layer before. With c_i = sigma_b2 + sigma_w2 t_i, or of the block mean of R in place of t, and q its value at
    x = y::

        R_i = sqrt(q q')/2 k1(c_i / sqrt(q q'))              N_i = R_i + k0(c_i / sqrt(q q'))/2 T_i

    where T_i is c_i with N in place of R. The kernel is the mean over the positions that remain. At the defaults R = 1
    and N = l + 1 for x = y at layer l.

    Parameters
    ----------
    filter_sizes : sequence of int
        (s_1, ..., s_L): numbers of a patch, then positions of a block; for a 2-D grid the sides of squares.
    kind : {"ntk", "nngp"}
    stride : sequence of int, optional
        Steps between patches and between blocks; the filter sizes, so that none overlap, where it is left out.
    grid : {"1d", "2d"}
        Inputs are signals (n, d), or images (n, h, w).
    pooling : bool, default False
        Whether the network averages over positions before its dense layer: the mean is then over all pairs of
        positions, which costs as many times more.
    normalize : bool, default False
        Divide each patch by its length; without it patches must have length 1.
    sigma_w2, sigma_b2 : float
        Variances of weights (times fan-in) and biases.

    Raises
    ------
    ValueError
        For s_1 below 2, sizes or strides below 1, an unknown kind or grid, or variances out of range.
    """

    def __init__(
        self,
        filter_sizes: Sequence[int],
        kind: Kind = "ntk",
        stride: Sequence[int] | None = None,
        grid: Grid = "1d",
        *,
        pooling: bool = False,
        normalize: bool = False,
        sigma_w2: float = 2.0,
        sigma_b2: float = 0.0,
    ) -> None:
        sizes = tuple(int(s) for s in filter_sizes)
        strides = sizes if stride is None else tuple(int(s) for s in stride)
        if not sizes or min(sizes) < 1 or sizes[0] < 2:
            raise ValueError(
                f"HierarchicalKernel: 'filter_sizes' must be at least 1, the first at least 2, got {sizes}"
            )
        if len(strides) != len(sizes) or min(strides) < 1:
            raise ValueError(f"HierarchicalKernel: 'stride' must be {len(sizes)} numbers of at least 1, got {strides}")
        if kind not in get_args(Kind):
            raise ValueError(f"HierarchicalKernel: 'kind' must be one of {get_args(Kind)}, got {kind!r}")
        if grid not in get_args(Grid):
            raise ValueError(f"HierarchicalKernel: 'grid' must be one of {get_args(Grid)}, got {grid!r}")
        if not sigma_w2 > 0 or not sigma_b2 >= 0:
            raise ValueError(f"HierarchicalKernel: wanted sigma_w2 > 0, sigma_b2 >= 0, got {sigma_w2} and {sigma_b2}")
        self.filter_sizes, self.stride, self.kind, self.grid = sizes, strides, kind, grid
        self.pooling, self.normalize, self.sigma_w2, self.sigma_b2 = pooling, normalize, sigma_w2, sigma_b2
        self._field: int | None = None

    def __repr__(self) -> str:
        """Name the kernel by what it was made of."""
        return f"HierarchicalKernel({self.filter_sizes}, kind={self.kind!r}, stride={self.stride}, grid={self.grid!r})"

    def patch(self, level: int) -> "HierarchicalKernel":
        """Kernel of the first `level` layers on the first of their receptive fields: a local target or student.

        Raises
        ------
        ValueError
            For a level outside 1 ... L, or a 2-D or overlapping hierarchy.
        """
        if not 1 <= level <= len(self.filter_sizes):
            raise ValueError(f"HierarchicalKernel.patch: 'level' must be 1 ... {len(self.filter_sizes)}, got {level}")
        if self.grid != "1d" or self.stride != self.filter_sizes:
            raise ValueError("HierarchicalKernel.patch: wanted a 1-D hierarchy without overlaps")
        other = HierarchicalKernel(
            self.filter_sizes[:level],
            self.kind,
            pooling=self.pooling,
            normalize=self.normalize,
            sigma_w2=self.sigma_w2,
            sigma_b2=self.sigma_b2,
        )
        other._field = math.prod(self.filter_sizes[1:level])
        return other

    def patches(self, X: Tensor) -> Tensor:
        """Patches of inputs, (n, positions, s), or (n, rows, columns, s) on a 2-D grid.

        Raises
        ------
        TypeError
            For integer tensors.
        ValueError
            For inputs that filters do not fit, or patches that are not of length 1.
        """
        if not isinstance(X, Tensor) or not X.is_floating_point():
            raise TypeError(
                f"HierarchicalKernel: 'X' must be a tensor of a real dtype, got {getattr(X, 'dtype', type(X))}"
            )
        s, step = self.filter_sizes[0], self.stride[0]
        if self.grid == "2d":
            if X.ndim != 3:
                raise ValueError(f"HierarchicalKernel: images must be (n, h, w), got {tuple(X.shape)}")
            self._check_fit(X.shape[1])
            self._check_fit(X.shape[2])
            found = X.unfold(1, s, step).unfold(2, s, step).flatten(-2)
        elif X.ndim == 3:
            if X.shape[2] != s:
                raise ValueError(f"HierarchicalKernel: patches must have {s} numbers, got shape {tuple(X.shape)}")
            found = X
            self._check_fit(X.shape[1] * s if step == s else (X.shape[1] - 1) * step + s)
        elif X.ndim == 2:
            self._check_fit(X.shape[1])
            found = X.unfold(1, s, step)
        else:
            raise ValueError(f"HierarchicalKernel: 'X' must be (n, d) or (n, p, {s}), got {tuple(X.shape)}")
        if self._field is not None:
            found = found[:, : self._field]
        length = found.norm(dim=-1, keepdim=True)
        if self.normalize:
            if bool((length == 0).any()):
                raise ValueError("HierarchicalKernel: a patch of zeros has no direction; shift the inputs first")
            return found / length
        if bool(((length - 1.0).abs() > _UNIT).any()):
            worst = float(length.flatten()[(length - 1.0).abs().argmax()])
            raise ValueError(
                f"HierarchicalKernel: patches must have length 1, got {worst:.6g}; normalize=True divides by it"
            )
        return found

    def _check_fit(self, d: int) -> None:
        """Refuse a length that filters and strides do not cover to its end."""
        left = d
        for size, step in zip(self.filter_sizes, self.stride, strict=True):
            if left < size or (left - size) % step:
                raise ValueError(
                    f"HierarchicalKernel: filters {self.filter_sizes} with strides {self.stride} do not divide {d}: "
                    f"{left} positions are left for a filter of {size}"
                )
            left = (left - size) // step + 1

    def __call__(self, X: Tensor, Y: Tensor | None = None) -> Tensor:
        """Kernel matrix (n, m); inputs as `patches` takes them. Memory beyond it is some blocks of 1 MB a thread."""
        x = self.patches(X)
        y = x if Y is None else self.patches(Y)
        if x.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"HierarchicalKernel: inputs must have one form, got patches {x.shape[1:]} and {y.shape[1:]}"
            )
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            return self._pairs(x, y)
        if self._compiled(x) and self._compiled(y):
            sizes, steps, ntk = self.filter_sizes, self.stride, self.kind == "ntk"
            out = hierarchy(x, y, sizes, steps, ntk=ntk, symmetric=Y is None, w=self.sigma_w2, b=self.sigma_b2)
        else:
            out = self._blocks(x, y)
        if Y is None:
            out.diagonal().copy_(self.diag(X))
        return out

    def _compiled(self, x: Tensor) -> bool:
        """Whether the compiled recursion takes these patches."""
        return x.dtype == torch.float64 and not x.is_cuda and self.grid == "1d" and not self.pooling

    def _blocks(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel matrix by torch operations on blocks."""
        out = x.new_empty(len(x), len(y))
        pairs = max(1, _BLOCK // math.prod(x.shape[1:-1]) ** (2 if self.pooling else 1))
        columns = min(len(y), max(64, math.isqrt(pairs)))
        rows = max(1, pairs // columns)
        for i in range(0, len(x), rows):
            for j in range(0, len(y), columns):
                out[i : i + rows, j : j + columns] = self._pairs(x[i : i + rows], y[j : j + columns])
        return out

    def diag(self, X: Tensor) -> Tensor:
        """k(x, x) for each input, (n,)."""
        x = self.patches(X)
        spatial, places = x.ndim - 2, x.shape[1:-1]
        # Products of a patch with itself are 1: the rounding of a sum would cost k0 half of its digits.
        if not self.pooling:
            return self._recursion(x.new_ones(*places, len(x)), spatial)
        flat = x.flatten(1, -2)
        product = torch.diagonal_scatter(flat @ flat.mT, x.new_ones(len(x), math.prod(places)), dim1=1, dim2=2)
        return self._recursion(product.view(len(x), *places, *places).movedim(0, -1), spatial)

    def _pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel of all pairs: products of patches, position by position, or of all pairs of positions."""
        if not self.pooling:
            spatial = x.ndim - 2
            product = x.flatten(1, -2).transpose(0, 1) @ y.flatten(1, -2).transpose(0, 1).mT
            return self._recursion(product.view(*x.shape[1:-1], len(x), len(y)), spatial)
        places = x.shape[1:-1]
        product = (x.reshape(-1, x.shape[-1]) @ y.reshape(-1, y.shape[-1]).mT).view(len(x), *places, len(y), *places)
        return self._recursion(product.movedim((0, 1 + len(places)), (-2, -1)), len(places))

    def _recursion(self, t: Tensor, spatial: int) -> Tensor:
        """Layer after layer, from products (positions..., batch...); pairs of positions come axis by axis twice."""
        w, b = self.sigma_w2, self.sigma_b2
        q = b + w  # patches have length 1, and what follows is the same at every position
        covariance = b + w * t
        tangent = covariance
        for layer in range(len(self.filter_sizes)):
            if layer:
                covariance = b + w * self._block_means(covariance, layer, spatial)
                q = b + 0.5 * w * q
                if self.kind == "ntk":
                    tangent = b + w * self._block_means(tangent, layer, spatial)
            zero, one = arc_cosines(covariance / q)
            covariance = 0.5 * q * one
            if self.kind == "ntk":
                tangent = covariance + 0.5 * zero * tangent
        found = tangent if self.kind == "ntk" else covariance
        axes = spatial * (2 if self.pooling else 1)
        return found.mean(tuple(range(axes)))

    def _block_means(self, t: Tensor, layer: int, spatial: int) -> Tensor:
        size, step = self.filter_sizes[layer], self.stride[layer]
        for axis in range(spatial):
            if not self.pooling:
                if size == step:
                    t = t.unflatten(axis, (-1, size)).mean(axis + 1)
                else:
                    t = t.unfold(axis, size, step).mean(-1)
            else:
                t = t.unfold(axis, size, step).unfold(axis + spatial, size, step).diagonal(dim1=-2, dim2=-1).mean(-1)
        return t

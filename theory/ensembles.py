"""Ensembles of random networks in batches, over processes, with numbers that depend on neither."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holonomy.theory.activations import Activation, activation

__all__ = [
    "Estimate",
    "FluctuationSample",
    "estimate",
    "map_batches",
    "sample_fluctuations",
    "sample_kernels",
    "vertex",
]

#: Networks of a batch: one seed each, so that any split into processes gives the same draws.
BATCH = 250


def map_batches(
    function: Callable[[np.random.SeedSequence, int], np.ndarray], count: int, seed: int, workers: int = 1
) -> np.ndarray:
    """Call a function on batches of draws and join the results.

    Parameters
    ----------
    function : callable
        ``function(seed_sequence, size) -> array`` of `size` rows; it must be importable where `workers` is above 1.
    count : int
        Draws in all.
    seed : int
    workers : int, default 1
        Processes, by joblib (or the backend that the caller has chosen with ``joblib.parallel_config``).

    Returns
    -------
    numpy.ndarray
        `count` rows: the same whatever the number of workers.

    Raises
    ------
    ValueError
        For a count or workers below 1.
    """
    if count < 1 or workers < 1:
        raise ValueError(f"map_batches: wanted count >= 1 and workers >= 1, got {count} and {workers}")
    sizes = [min(BATCH, count - low) for low in range(0, count, BATCH)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    if workers == 1:
        return np.concatenate([function(s, size) for s, size in zip(seeds, sizes, strict=True)])
    from joblib import Parallel, delayed

    jobs = (delayed(function)(s, size) for s, size in zip(seeds, sizes, strict=True))
    return np.concatenate(Parallel(n_jobs=workers)(jobs))


@dataclass(frozen=True)
class Estimate:
    """A mean over networks and its standard error: each network counts as one sample."""

    value: float
    error: float


def estimate(samples: np.ndarray, first: np.ndarray | None = None, second: np.ndarray | None = None) -> Estimate:
    """Mean of samples, less the product of the means of two others where they are given: a connected moment."""
    if first is None or second is None:
        values = samples
        mean = float(samples.mean())
    else:
        a, b = float(first.mean()), float(second.mean())
        mean = float(samples.mean()) - a * b
        values = samples - a * second - b * first  # what a network adds, to first order
    return Estimate(mean, float(values.std(ddof=1) / len(values) ** 0.5))


@dataclass(frozen=True)
class FluctuationSample:
    """Estimates for one layer, in the units of `fluctuation_recursion`."""

    K: Estimate
    Theta: Estimate
    V: Estimate
    A: Estimate
    B: Estimate
    D: Estimate
    F: Estimate


class _Draw:
    """Draws networks and carries preactivations and tangent kernels forward, exactly, without autograd."""

    def __init__(
        self,
        widths: Sequence[int],
        act: Activation,
        C_b: float,
        C_W: float,
        x: Tensor,
        lambda_b: float,
        lambda_W: float,
    ) -> None:
        self.widths, self.act, self.C_b, self.C_W, self.x = list(widths), act, C_b, C_W, x
        self.lambda_b, self.lambda_W = lambda_b, lambda_W

    def __call__(self, seed: np.random.SeedSequence, size: int) -> np.ndarray:
        """Per network and layer: the means over neurons and pairs that the estimates are made of, (size, L, 7)."""
        generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        dtype = torch.float32
        found = []
        z = H = None
        for layer, (fan, n) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            weight = torch.randn(size, n, fan, generator=generator, dtype=dtype) * (self.C_W / fan) ** 0.5
            bias = torch.randn(size, n, generator=generator, dtype=dtype) * self.C_b**0.5
            if layer == 0:
                s = self.x.to(dtype).expand(size, -1)
                H = torch.zeros(size, n, n, dtype=dtype)
            else:
                assert z is not None
                assert H is not None
                s, d = self.act.sigma(z), self.act.dsigma(z)
                carried = weight * d.unsqueeze(1)
                H = carried @ H @ carried.mT
            H.diagonal(dim1=1, dim2=2).add_(self.lambda_b + self.lambda_W * s.square().mean(1, keepdim=True))
            z = bias + (weight @ s.unsqueeze(2)).squeeze(2)
            found.append(_pair_means(z.double(), H.double()))
        return torch.stack(found, dim=1).numpy()


def _pair_means(z: Tensor, H: Tensor) -> Tensor:
    """Means over neurons and over pairs of different neurons, in float64: (networks, 7)."""
    n = z.shape[1]
    square, diagonal = z.square(), H.diagonal(dim1=1, dim2=2)
    pairs = n * (n - 1)

    def different(a: Tensor, b: Tensor) -> Tensor:
        return (a.sum(1) * b.sum(1) - (a * b).sum(1)) / pairs

    off = H - torch.diag_embed(diagonal)
    return torch.stack(
        [
            square.mean(1),
            diagonal.mean(1),
            different(square, square),
            different(diagonal, diagonal),
            off.square().sum((1, 2)) / pairs,
            different(square, diagonal),
            torch.einsum("ni,nij,nj->n", z, off, z) / pairs,
        ],
        dim=1,
    )


def sample_fluctuations(
    widths: Sequence[int],
    act: str | Activation,
    C_b: float,
    C_W: float,
    x: Tensor,
    n_nets: int,
    seed: int = 0,
    *,
    lambda_b: float = 1.0,
    lambda_W: float = 1.0,
    workers: int = 1,
) -> list[FluctuationSample]:
    """Kernels and 1/n tensors of random networks, with standard errors; all pairs of neurons of a network are used.

    Parameters
    ----------
    widths : sequence of int
        (n_0, ..., n_L), n_1 and later at least 2.
    act, C_b, C_W, lambda_b, lambda_W
        As for `fluctuation_recursion`.
    x : Tensor, shape (n_0,)
        The input.
    n_nets : int
        Networks.
    seed : int
    workers : int
        Processes; the numbers do not depend on it.

    Returns
    -------
    list of FluctuationSample
        Of layers 1, ..., L.

    Raises
    ------
    ValueError
        For widths below 2 (n_0: 1), an input of another size, fewer than two networks, or C_W <= 0 or C_b < 0.
    """
    if len(widths) < 2 or widths[0] < 1 or min(widths[1:]) < 2 or tuple(x.shape) != (widths[0],):
        raise ValueError(f"sample_fluctuations: 'widths' {list(widths)} do not fit an input of {tuple(x.shape)}")
    if n_nets < 2 or not C_W > 0 or not C_b >= 0:
        raise ValueError(f"sample_fluctuations: wanted 2 networks, C_W > 0, C_b >= 0, got {n_nets}, {C_W}, {C_b}")
    draw = _Draw(widths, activation(act), C_b, C_W, x, lambda_b, lambda_W)
    means = map_batches(draw, n_nets, seed, workers)
    found = []
    for layer in range(len(widths) - 1):
        square, tangent, squares, tangents, crossed, mixed, turned = means[:, layer].T
        n = widths[layer]
        scaled = [
            estimate(squares, square, square),
            estimate(tangents, tangent, tangent),
            estimate(crossed),
            estimate(mixed, square, tangent),
            estimate(turned),
        ]
        V, A, B, D, F = (Estimate(n * e.value, n * e.error) for e in scaled)
        found.append(FluctuationSample(estimate(square), estimate(tangent), V, A, B, D, F))
    return found


class _Chain:
    """Draws the kernels of networks layer by layer: given a layer, preactivations of the next are independent."""

    def __init__(self, widths: Sequence[int], act: Activation, C_b: float, C_W: float, K0: float) -> None:
        self.widths, self.act, self.C_b, self.C_W, self.K0 = list(widths), act, C_b, C_W, K0

    def __call__(self, seed: np.random.SeedSequence, size: int) -> np.ndarray:
        """Kernels (size, L)."""
        rng = np.random.default_rng(seed)
        kernels = [np.full(size, self.C_b + self.C_W * self.K0)]
        for n in self.widths[1:-1]:
            z = rng.standard_normal((size, n)) * np.sqrt(kernels[-1])[:, None]
            s = self.act.sigma(torch.from_numpy(z)).numpy()
            kernels.append(self.C_b + self.C_W * np.square(s).mean(1))
        return np.stack(kernels, axis=1)


def sample_kernels(
    widths: Sequence[int],
    act: str | Activation,
    C_b: float,
    C_W: float,
    K0: float,
    n_nets: int,
    seed: int = 0,
    *,
    workers: int = 1,
) -> np.ndarray:
    """Kernels of random networks for one input, (n_nets, L), by O(n) draws a layer instead of n^2.

    Given layer l, the preactivations of layer l + 1 are independent, with variance C_b + C_W mean(sigma^2): drawing
    them so is exact in law. Their variance over networks is V/n, see `vertex`.

    Raises
    ------
    ValueError
        For fewer than two widths, widths below 1, fewer than two networks, C_W <= 0, C_b < 0 or K0 < 0.
    """
    if len(widths) < 2 or min(widths) < 1 or n_nets < 2:
        raise ValueError(f"sample_kernels: wanted widths of at least 1 and 2 networks, got {list(widths)} and {n_nets}")
    if not C_W > 0 or not C_b >= 0 or not K0 >= 0:
        raise ValueError(f"sample_kernels: wanted C_W > 0, C_b >= 0 and K0 >= 0, got {C_W}, {C_b} and {K0}")
    return map_batches(_Chain(widths, activation(act), C_b, C_W, K0), n_nets, seed, workers)


def vertex(kernels: np.ndarray, n: int) -> Estimate:
    """Four-point vertex V = n Var(K) of a layer from kernels of networks, with n the width of the layer before."""
    found = estimate(kernels**2, kernels, kernels)
    return Estimate(n * found.value, n * found.error)

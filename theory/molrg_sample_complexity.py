r"""How many points a subspace of d dimensions in R^n takes: the bounds of the theorem, and the transition at N = d.

N points x = U a + e, a normal in d coordinates, e normal of deviation `noise` in all n; the estimate is the principal
subspace, which by the theorem is what training a denoiser with hard weights finds. With E the matrix of the noise,

    N >= d:  |P - P*|_F <= c |E|_F / (sqrt N - sqrt(d - 1))       with probability 1 - 2^-(N - d + 1) - exp(-c' N),
    N < d:   |P - P*|_F >= sqrt(2 min(d - N, n - d)) - c |E|_F / (sqrt d - sqrt(N - 1)),

and d - N of the estimate's dimensions are then arbitrary. Where they are drawn uniformly from what is left, they meet
the true subspace by chance: without noise E |P - P*|_F^2 = 2 (d - N)(1 - (d - N)/(n - N)) exactly, a little *less* than
2 (d - N). The lower bound holds up to that factor alone (or for completions that avoid the true subspace).

Source: Wang, Zhang, Zhang, Chen, Ma and Qu, Diffusion models learn low-dimensional distributions via subspace
clustering (arXiv 2409.02426), theorems 1 to 4.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from holonomy.models.clustering.molrg_diffusion import (
    KSubspaces,
    MoLRG,
    principal_subspace,
    random_molrg,
    subspace_recovery_error,
)

__all__ = [
    "RECOVERED",
    "PhaseTransition",
    "completion_error",
    "lower_bound",
    "phase_transition_table",
    "recovery_errors",
    "recovery_probability",
    "upper_bound",
]

#: Distance of projectors below which a subspace counts as recovered.
RECOVERED = 0.5


def recovery_errors(
    n: int, d: int, points: int, noise: float, trials: int, components: int = 1, seed: int = 0
) -> np.ndarray:
    """Distances |P - P*|_F of estimated subspaces, one a trial, of the worst component where there are several.

    Parameters
    ----------
    n, d : int
        Dimensions of the space and of the subspaces.
    points : int
        Number N of points of each component.
    noise : float
        Deviation of the noise.
    trials : int
        Independent data sets.
    components : int, default 1
        Number K of orthogonal subspaces; above 1 the estimate is by K-subspaces with 20 starts, by least loss.
    seed : int, default 0
        Seed; every trial has its own stream.

    Returns
    -------
    ndarray
        (trials,).

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    if points < 1 or trials < 1:
        raise ValueError(f"recovery_errors: 'points' and 'trials' must be at least 1, got {points} and {trials}")
    errors = []
    for trial in range(trials):
        stream = np.random.SeedSequence((seed, n, d, points, components, trial)).generate_state(1)
        generator = torch.Generator().manual_seed(int(stream[0]))
        model = random_molrg(n, d, components, noise=noise, generator=generator)
        parts = [MoLRG(u[None], noise=noise).sample(points, generator)[0] for u in model.bases]
        if components == 1:
            found = principal_subspace(parts[0], d, generator)[None]
        else:
            found = KSubspaces(components, d, random_state=trial).fit(torch.cat(parts)).bases_
        errors.append(subspace_recovery_error(found, model.bases)[0])
    return np.array(errors)


def recovery_probability(
    n: int, d: int, points: int, noise: float, trials: int, components: int = 1, seed: int = 0
) -> float:
    """Share of trials whose error is below `RECOVERED`. Parameters and errors as `recovery_errors`."""
    return float((recovery_errors(n, d, points, noise, trials, components, seed) < RECOVERED).mean())


def upper_bound(d: int, points: int, noise_norm: float, constant: float) -> float:
    """c |E|_F / (sqrt N - sqrt(d - 1)), for N >= d points.

    Raises
    ------
    ValueError
        If N < d, where there is no such bound.
    """
    if points < d:
        raise ValueError(f"upper_bound: wanted points >= d, got {points} and {d}")
    return constant * noise_norm / (math.sqrt(points) - math.sqrt(d - 1))


def lower_bound(n: int, d: int, points: int, noise_norm: float = 0.0, constant: float = 0.0) -> float:
    """sqrt(2 min(d - N, n - d)) - c |E|_F / (sqrt d - sqrt(N - 1)), for N < d points, as stated.

    Raises
    ------
    ValueError
        If N >= d or d > n.
    """
    if not 1 <= points < d <= n:
        raise ValueError(f"lower_bound: wanted 1 <= points < d <= n, got {points}, {d} and {n}")
    return math.sqrt(2.0 * min(d - points, n - d)) - constant * noise_norm / (math.sqrt(d) - math.sqrt(points - 1))


def completion_error(n: int, d: int, points: int) -> float:
    """Root of E |P - P*|_F^2 for N < d points without noise and a uniformly random completion.

    The span of the points is right. Of the d - N others, uniform in the n - N dimensions off it, a share of
    (d - N)/(n - N) lies in the true subspace.

    Raises
    ------
    ValueError
        If N >= d or d > n.
    """
    if not 1 <= points < d <= n:
        raise ValueError(f"completion_error: wanted 1 <= points < d <= n, got {points}, {d} and {n}")
    missing = d - points
    return math.sqrt(2.0 * missing * (1.0 - missing / (n - points)))


@dataclass(frozen=True)
class PhaseTransition:
    """Recovery by dimension and number of points.

    Attributes
    ----------
    dims : tuple of int
        Dimensions d.
    extra : tuple of int
        Numbers of points less d.
    success, error : ndarray
        Share of recovered subspaces, and mean distance, (dims, extra); NaN where there would be no point.
    """

    dims: tuple[int, ...]
    extra: tuple[int, ...]
    success: np.ndarray
    error: np.ndarray

    def transition(self, level: float = 0.75) -> np.ndarray:
        """First number of points at each dimension whose success is `level` or more; NaN where none is."""
        found = []
        for d, row in zip(self.dims, self.success, strict=True):
            where = np.flatnonzero(np.nan_to_num(row) >= level)
            found.append(d + self.extra[where[0]] if len(where) else math.nan)
        return np.array(found)

    def slope(self, level: float = 0.75) -> float:
        """Slope of the transition point in the dimension, by least squares."""
        return float(np.polyfit(self.dims, self.transition(level), 1)[0])


def phase_transition_table(
    n: int, dims: tuple[int, ...], extra: tuple[int, ...], noise: float, trials: int, components: int = 1, seed: int = 0
) -> PhaseTransition:
    """Success and error over dimensions and numbers of points d + extra.

    Parameters
    ----------
    n : int
        Dimension of the space.
    dims, extra : tuple of int
        Dimensions of the subspaces, and numbers of points less those.
    noise, trials, components, seed
        As for `recovery_errors`.

    Raises
    ------
    ValueError
        As `recovery_errors`, and where there are no dimensions or numbers of points.
    """
    if not dims or not extra:
        raise ValueError(f"phase_transition_table: 'dims' and 'extra' must not be empty, got {dims} and {extra}")
    success, error = (np.full((len(dims), len(extra)), math.nan) for _ in range(2))
    for i, d in enumerate(dims):
        for j, more in enumerate(extra):
            if d + more >= 1:
                errors = recovery_errors(n, d, d + more, noise, trials, components, seed)
                success[i, j], error[i, j] = (errors < RECOVERED).mean(), errors.mean()
    return PhaseTransition(tuple(dims), tuple(extra), success, error)

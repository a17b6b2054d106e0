"""Intrinsic dimension: how many trained numbers a random subspace needs to solve a task (Li et al., ICLR 2018)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.models.adaptation.intrinsic_dimension import (
    DenseProjection,
    FastfoodProjection,
    RandomProjection,
    SparseProjection,
    StiefelProjection,
    SubspaceModel,
)
from holonomy.theory.check import Check
from holonomy.theory.statistics import mean_errors

__all__ = [
    "IntrinsicDimensionResult",
    "ToyProblem",
    "checks",
    "description_length",
    "measure_intrinsic_dimension",
    "toy_problem",
]

#: Intervals of means are this many standard errors to either side.
ERRORS = 4.0
KINDS: tuple[type[RandomProjection], ...] = (DenseProjection, SparseProjection, FastfoodProjection, StiefelProjection)


@dataclass(frozen=True)
class IntrinsicDimensionResult:
    """What a sweep over dimensions found.

    Parameters
    ----------
    dims : tuple of int
        Dimensions that were trained.
    mean, std : tuple of float
        Performance over the seeds, and its sample standard deviation (NaN for one seed).
    baseline : float
        Performance of direct training.
    threshold : float
        Part of the baseline that is wanted.
    D : int
        Parameters of the model.
    """

    dims: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    baseline: float
    threshold: float
    D: int

    @property
    def d_grid(self) -> int | None:
        """Least dimension of the sweep whose mean reaches the part of the baseline; None where none does."""
        wanted = self.threshold * self.baseline
        return next((d for d, value in zip(self.dims, self.mean, strict=True) if value >= wanted), None)

    @property
    def d_int(self) -> float | None:
        """Where the line between that dimension's mean and the one before crosses; None where none reaches it."""
        d = self.d_grid
        if d is None:
            return None
        k = self.dims.index(d)
        if k == 0:
            return float(d)
        low, high, wanted = self.mean[k - 1], self.mean[k], self.threshold * self.baseline
        return self.dims[k - 1] + (d - self.dims[k - 1]) * (wanted - low) / (high - low)


def measure_intrinsic_dimension(
    make_model: Callable[[int], nn.Module],
    train_fn: Callable[[nn.Module, int], float],
    dims: Sequence[int],
    baseline: float | None = None,
    threshold: float = 0.9,
    seeds: Sequence[int] = (0, 1, 2),
    projection: str = "dense",
    *,
    stop: bool = False,
    progress: Callable[[float], None] | None = None,
) -> IntrinsicDimensionResult:
    """Sweep the dimension of a random subspace upward, for any module and any training function.

    Parameters
    ----------
    make_model : callable
        ``make_model(seed)``: a freshly initialised module.
    train_fn : callable
        ``train_fn(model, seed)``: trains the parameters that require gradients, and returns the best performance on
        validation data over the training; higher is better.
    dims : sequence of int
        Increasing.
    baseline : float, optional
        Performance of direct training; trained here, once a seed, where it is left out.
    threshold : float, default 0.9
        Part of the baseline that counts as solved, in (0, 1].
    seeds : sequence of int
        Each draws a module and a projection of its own; the projection's generator is another than the module's.
    projection : str, default "dense"
        Of `SubspaceModel`.
    stop : bool, default False
        End at the first dimension that reaches the threshold.
    progress : callable, optional
        Called with the part of the trainings that is done.

    Raises
    ------
    ValueError
        If `dims` is empty or does not increase, there are no seeds, or the threshold is outside (0, 1].
    """
    if not dims or list(dims) != sorted(set(dims)) or dims[0] < 1:
        raise ValueError(f"measure_intrinsic_dimension: 'dims' must increase from at least 1, got {list(dims)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"measure_intrinsic_dimension: 'threshold' must be in (0, 1], got {threshold}")
    if not seeds:
        raise ValueError("measure_intrinsic_dimension: 'seeds' must hold at least one seed, got none")
    total = len(seeds) * (len(dims) + (baseline is None))
    done = 0

    def train(model: nn.Module, seed: int) -> float:
        nonlocal done
        value = float(train_fn(model, seed))
        done += 1
        if progress is not None:
            progress(done / total)
        return value

    D = sum(p.numel() for p in make_model(seeds[0]).parameters() if p.requires_grad)
    if baseline is None:
        baseline = float(np.mean([train(make_model(seed), seed) for seed in seeds]))
    means: list[float] = []
    spreads: list[float] = []
    for d in dims:
        # Seeds of projections are far from those of modules: equal ones would correlate P with theta_0.
        values = [train(SubspaceModel(make_model(s), d, projection, seed=1_000_003 + s), s) for s in seeds]
        means.append(float(np.mean(values)))
        spreads.append(float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"))
        if stop and means[-1] >= threshold * baseline:
            break
    return IntrinsicDimensionResult(tuple(dims[: len(means)]), tuple(means), tuple(spreads), baseline, threshold, D)


def description_length(d: int, bits: int = 32, seed_bits: int = 64) -> int:
    """Bits of a solution stored as a seed and d numbers: an upper bound of its description length.

    Raises
    ------
    ValueError
        If d is below 1, or there are no bits.
    """
    if d < 1 or bits < 1 or seed_bits < 0:
        raise ValueError(f"description_length: wanted d >= 1 and bits >= 1, got {d} and {bits}")
    return d * bits + seed_bits


@dataclass(frozen=True)
class ToyProblem:
    """Sums of groups of coordinates are to be 1, 2, 3, ...: the solutions are a plane of codimension `groups`."""

    D: int
    groups: int

    @property
    def targets(self) -> Tensor:
        """What each group is to sum to."""
        return torch.arange(1, self.groups + 1, dtype=torch.float64)

    def sums(self, theta: Tensor) -> Tensor:
        """Sum of each group, (groups, ...) of (D, ...)."""
        return theta.unflatten(0, (self.groups, -1)).sum(1)

    def loss(self, theta: Tensor) -> Tensor:
        """Sum of the squared errors of the groups."""
        return (self.sums(theta) - self.targets.to(theta.dtype)).square().sum()

    def least_loss(self, projection: RandomProjection) -> float:
        """Least loss in the subspace through 0, by least squares."""
        matrix = self.sums(_columns(projection))
        v = torch.linalg.lstsq(matrix, self.targets.unsqueeze(1), driver="gelsd").solution
        return float((matrix @ v - self.targets.unsqueeze(1)).square().sum())


def toy_problem(D: int = 1000, groups: int = 10) -> ToyProblem:
    """The paper's toy problem, whose intrinsic dimension is the number of groups.

    Raises
    ------
    ValueError
        If the groups do not divide the parameters.
    """
    if groups < 1 or groups > D or D % groups:
        raise ValueError(f"toy_problem: 'groups' must divide D = {D}, got {groups}")
    return ToyProblem(D, groups)


def _columns(projection: RandomProjection) -> Tensor:
    """Columns of a projection, (D, d)."""
    return torch.stack([projection(unit) for unit in torch.eye(projection.d, dtype=torch.float64)], dim=1)


# -- checks --------------------------------------------------------------------------------------------------------


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from ``seed``; some seconds."""
    return [*solvable(seed), *lengths(seed), *cosines(seed), *adjoints(seed), invariance(seed), whole_space(seed)]


def solvable(seed: int, draws: int = 10) -> list[Check]:
    """The toy problem at dimensions on both sides of its own."""
    problem = toy_problem()
    found = []
    for kind in KINDS:
        name = kind.__name__.removesuffix("Projection").lower()
        for d, relation in ((9, "at least"), (10, "at most")):
            losses = [problem.least_loss(kind(1000, d, seed + k, dtype=torch.float64)) for k in range(draws)]
            found.append(
                Check(
                    f"d_int = D - dim(solutions) = 10: least loss at d = {d}, {name}",
                    1e-3 if d < 10 else 1e-12,
                    min(losses) if d < 10 else max(losses),
                    f"D = 1000, 10 groups, {draws} projections, least squares, float64",
                    relation,  # type: ignore[arg-type]
                )
            )
    return found


def lengths(seed: int, D: int = 4096, d: int = 64) -> list[Check]:
    """Lengths of columns: 1 in every one, or for Fastfood in the mean."""
    found = []
    for kind in KINDS:
        name = kind.__name__.removesuffix("Projection").lower()
        squares = _columns(kind(D, d, seed, dtype=torch.float64)).square().sum(0).numpy()
        if kind is FastfoodProjection:
            low, mean, high = mean_errors(squares, ERRORS)
            # Equal up to the spread of the Gaussian diagonal, 1/sqrt(D) in each column alike.
            slack = ERRORS * (2.0 / D) ** 0.5
            found.append(
                Check(
                    "fastfood's columns have length 1 in the mean: mean square",
                    1.0,
                    mean,
                    f"D = {D}, d = {d}",
                    low=low - slack,
                    high=high + slack,
                )
            )
        else:
            worst = float(np.abs(squares - 1.0).max())
            found.append(
                Check(
                    f"{name} columns have length 1: largest error of squares",
                    1e-12,
                    worst,
                    f"D = {D}, d = {d}",
                    "at most",
                )
            )
    return found


def cosines(seed: int, D: int = 4096, d: int = 64, draws: int = 8) -> list[Check]:
    """Columns are nearly orthogonal: the mean |cosine| of random directions.

    Two sparse columns share a Poisson number of places, one in the mean: their product is a difference of two Poisson
    numbers of mean 1/2, whose mean size is e^-1 (I_0(1) + I_1(1)) and not that of a Gaussian.
    """
    from scipy.special import ive

    gaussian = float((2.0 / (np.pi * D)) ** 0.5)
    laws = {DenseProjection: gaussian, SparseProjection: float((ive(0, 1.0) + ive(1, 1.0)) / D**0.5)}
    found = []
    for kind, law in laws.items():
        means = []
        for k in range(draws):
            columns = _columns(kind(D, d, seed + k, dtype=torch.float64))
            gram = columns.mT @ columns
            means.append(float(gram[torch.triu_indices(d, d, 1).unbind()].abs().mean()) / law)
        low, mean, high = mean_errors(means, ERRORS)
        # Up to O(1/D), and for sparse columns up to the relative variance of their number of places, D^(-1/2).
        slack = 2.0 / D**0.5 if kind is SparseProjection else 10.0 / D
        name = kind.__name__.removesuffix("Projection").lower()
        text = "sqrt(2/(pi D))" if kind is DenseProjection else "e^-1 (I_0(1) + I_1(1))/sqrt(D)"
        found.append(
            Check(
                f"mean |cosine| of {name} columns is {text}: ratio",
                1.0,
                mean,
                f"D = {D}, d = {d}, {draws} projections",
                low=low - slack,
                high=high + slack,
            )
        )
    return found


def adjoints(seed: int, D: int = 1000, d: int = 40) -> list[Check]:
    """``transpose`` is the adjoint."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for kind in KINDS:
        projection = kind(D, d, seed, dtype=torch.float64)
        v, u = (torch.randn(n, dtype=torch.float64, generator=generator) for n in (d, D))
        error = abs(float(projection(v) @ u - v @ projection.transpose(u)))
        name = kind.__name__.removesuffix("Projection").lower()
        found.append(
            Check(f"<P v, u> = <v, P^T u>, {name}: difference", 1e-12, error, f"D = {D}, d = {d}, float64", "at most")
        )
    return found


def _descend(columns: Tensor, theta: Tensor, target: Tensor, steps: int = 30, rate: float = 0.1) -> Tensor:
    """Gradient descent of a fixed smooth loss in a subspace; returns the path's end in parameter space."""
    v = torch.zeros(columns.shape[1], dtype=theta.dtype)
    for _ in range(steps):
        point = theta + columns @ v
        v = v - rate * columns.mT @ (torch.tanh(point) * (1.0 - torch.tanh(point).square()) + point - target)
    return theta + columns @ v


def invariance(seed: int, D: int = 300, d: int = 20) -> Check:
    """With orthonormal columns and plain gradient descent, the path depends on the subspace alone."""
    generator = torch.Generator().manual_seed(seed)
    columns = StiefelProjection(D, d, seed, dtype=torch.float64).matrix
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    theta, target = (torch.randn(D, dtype=torch.float64, generator=generator) for _ in range(2))
    error = float((_descend(columns, theta, target) - _descend(columns @ turn, theta, target)).abs().max())
    return Check(
        "gradient descent in orthonormal coordinates is a function of the point of Gr(d, D): difference of ends",
        1e-12,
        error,
        f"D = {D}, d = {d}, 30 steps, P and P Q with a random rotation Q, float64",
        "at most",
    )


def whole_space(seed: int, D: int = 60) -> Check:
    """At d = D an orthonormal projection is a rotation of the parameters."""
    generator = torch.Generator().manual_seed(seed)
    theta, target = (torch.randn(D, dtype=torch.float64, generator=generator) for _ in range(2))
    columns = StiefelProjection(D, D, seed, dtype=torch.float64).matrix
    direct = _descend(torch.eye(D, dtype=torch.float64), theta, target)
    error = float((_descend(columns, theta, target) - direct).abs().max())
    return Check(
        "at d = D gradient descent is that of the whole space: difference of ends",
        1e-12,
        error,
        f"D = {D}, 30 steps, float64",
        "at most",
    )

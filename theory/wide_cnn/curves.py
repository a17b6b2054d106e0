"""Learning curves of kernel regression, without the noise of a sampled target, and the exponents that are predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holonomy.theory.statistics import fit_exponent
from holonomy.theory.wide_cnn.kernel import sample_multisphere
from holonomy.theory.wide_cnn.spectrum import effective_dimension

__all__ = ["LearningCurve", "predicted_exponent", "student_errors", "teacher_student_curve"]

Kernel = Callable[..., Tensor]
#: What keeps Cholesky's factorisation from breaking down; a ridge of 1e-6 would show in curves of smooth teachers.
JITTER = 1e-11


@dataclass(frozen=True)
class LearningCurve:
    """Mean errors over trials.

    Parameters
    ----------
    n : tuple of int
        Sizes of the training set.
    err, se : tuple of float
        Mean test error, as a part of the teacher's mean square, and its standard error.
    beta : float
        Exponent of the decay, err ~ n^-beta.
    ci : (float, float)
        Its 95 % interval.
    """

    n: tuple[int, ...]
    err: tuple[float, ...]
    se: tuple[float, ...]
    beta: float
    ci: tuple[float, float]


def student_errors(
    teachers: Sequence[Tensor], student: Tensor, ns: Sequence[int], n_test: int, ridge: float = 0.0
) -> list[list[float]]:
    """Expected test errors of regression on Gaussian processes, as parts of their mean square.

    Mean over test inputs x of K_T(x, x) - 2 a.K_T(X, x) + a.K_T(X, X) a with a = (K_S(X, X) + ridge)^-1 K_S(X, x), for
    training sets that are the first n inputs: one Cholesky factor serves all of them, and all teachers.

    Parameters
    ----------
    teachers : sequence of Tensor, shape (N, N)
        Kernel matrices K_T, float64: training inputs first, the last `n_test` are for testing.
    student : Tensor, shape (N, N)
        Kernel matrix K_S of the same inputs.
    ns : sequence of int
        Sizes, up to N - n_test.
    n_test : int
        Test inputs.
    ridge : float, default 0
        Of the student, beside a jitter of 1e-11.

    Returns
    -------
    list of list of float
        One list a teacher, with one error a size.
    """
    n = max(ns)
    shifted = student[:n, :n].clone()
    shifted.diagonal().add_(ridge + JITTER)
    factor = torch.linalg.cholesky(shifted)
    whitened = torch.linalg.solve_triangular(factor, student[:n, -n_test:], upper=False)
    errors: list[list[float]] = [[] for _ in teachers]
    for m in ns:
        a = torch.linalg.solve_triangular(factor[:m, :m].mT, whitened[:m], upper=True)
        for teacher, found in zip(teachers, errors, strict=True):
            tested = teacher.diagonal()[-n_test:]
            cross = (a * teacher[:m, -n_test:]).sum(0)
            square = (a * (teacher[:m, :m] @ a)).sum(0)
            found.append(float((tested - 2.0 * cross + square).mean() / tested.mean()))
    return errors


def teacher_student_curve(
    teacher: Kernel,
    student: Kernel,
    ns: Sequence[int],
    n_test: int,
    trials: int | Sequence[int],
    ridge: float = 0.0,
    rng: torch.Generator | int = 0,
    *,
    shape: tuple[int, int],
    window: tuple[float, float] | None = None,
) -> LearningCurve:
    """Learn Gaussian processes with a teacher's kernel by regression with a student's.

    Parameters
    ----------
    teacher, student : callable
        ``kernel(X) -> (n, n)`` of inputs (n, p, s_1).
    ns : sequence of int
        Sizes of the training set, increasing, at least four in the window.
    n_test : int
        Test inputs of a trial.
    trials : int or sequence of int
        Trials of every size, at least 2, or of each.
    ridge : float, default 0
        Of the student.
    rng : torch.Generator or int
        Of the inputs.
    shape : (int, int)
        Patches p and their size s_1.
    window : (float, float), optional
        Least and largest size that the exponent is fitted to.

    Raises
    ------
    ValueError
        For sizes that do not increase or are below 1, fewer than two trials, or a negative ridge.
    """
    sizes = tuple(int(n) for n in ns)
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1:
        raise ValueError(f"teacher_student_curve: 'ns' must increase from at least 1, got {list(ns)}")
    counts = [trials] * len(sizes) if isinstance(trials, int) else list(trials)
    if len(counts) != len(sizes) or min(counts) < 2:
        raise ValueError(f"teacher_student_curve: 'trials' must be at least 2 for each size, got {trials}")
    if not ridge >= 0:
        raise ValueError(f"teacher_student_curve: 'ridge' must be at least 0, got {ridge}")
    generator = torch.Generator().manual_seed(rng) if isinstance(rng, int) else rng
    samples: dict[int, list[float]] = {n: [] for n in sizes}
    for trial in range(max(counts)):
        wanted = [n for n, count in zip(sizes, counts, strict=True) if trial < count]
        X = sample_multisphere(max(wanted) + n_test, *shape, generator)
        with torch.no_grad():
            errors = student_errors([teacher(X)], student(X), wanted, n_test, ridge)[0]
        for n, error in zip(wanted, errors, strict=True):
            samples[n].append(error)
    means = [float(np.mean(samples[n])) for n in sizes]
    spreads = [float(np.std(samples[n], ddof=1) / len(samples[n]) ** 0.5) for n in sizes]
    fitted = [n for n in sizes if window is None or window[0] <= n <= window[1]]
    low, slope, high = fit_exponent(fitted, [np.array(samples[n]) for n in fitted], statistic=np.mean)
    return LearningCurve(sizes, tuple(means), tuple(spreads), -slope, (-high, -low))


def predicted_exponent(teacher_level: int, nu_t: float, nu_s: float, filter_sizes: Sequence[int]) -> float:
    """Exponent of the learning curve that spectral bias predicts for a teacher of one meta-patch.

    The student learns the modes whose eigenvalues are above its n-th, Lambda(n) ~ n^-(2 nu_S + d_L)/d_L; the teacher's
    power beyond them falls as k^(-2 nu_T): beta = 2 nu_T/(2 nu_S + d_l) (2 nu_S + d_L)/d_L, at most twice the second
    factor, where ridgeless regression saturates. A teacher of the full input has beta = 2 nu_T/d_L: depth does not beat
    the curse of dimensionality.

    Parameters
    ----------
    teacher_level : int
        Level l of the teacher's meta-patch.
    nu_t, nu_s : float
        Smoothness of teacher and student: 1/2 for an NTK, 3/2 for an NNGP.
    filter_sizes : sequence of int
        Of the student.

    Raises
    ------
    ValueError
        For a level outside 1 ... L, or a smoothness that is not positive.
    """
    if not nu_t > 0 or not nu_s > 0:
        raise ValueError(f"predicted_exponent: wanted positive smoothness, got nu_t = {nu_t} and nu_s = {nu_s}")
    local = effective_dimension(filter_sizes, teacher_level)
    whole = effective_dimension(filter_sizes, len(filter_sizes))
    decay = (2.0 * nu_s + whole) / whole
    return min(2.0 * nu_t / (2.0 * nu_s + local), 2.0) * decay

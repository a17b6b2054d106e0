"""What diffusion on mixtures of low-rank Gaussians rests on: its loss in closed form, and the transition at N = d.

The denoising loss of one subspace is |x|^2 less a factor of time alone times |U^T x|^2, so that its minimiser is the
principal subspace whatever the time; with hard weights of several it is subspace clustering. A subspace of d dimensions
then takes d points: below, d - N dimensions are arbitrary; above, the error falls as perturbation theory says.

Source: Wang, Zhang, Zhang, Chen, Ma and Qu, Diffusion models learn low-dimensional distributions via subspace
clustering (arXiv 2409.02426).
"""

import numpy as np
import torch

from holonomy.models.clustering.molrg_diffusion import (
    MoLRGDenoiser,
    VPSchedule,
    closed_form_loss,
    denoising_loss,
    jacobian_rank,
    random_molrg,
)
from holonomy.theory.check import Check
from holonomy.theory.molrg_sample_complexity import completion_error, recovery_errors, upper_bound
from holonomy.theory.statistics import fit_exponent, mean_errors, mean_interval

__all__ = ["checks"]

#: Bootstrap intervals cover this much: all of them together err less than once in a hundred runs.
CONFIDENCE = 0.999
#: The one constant of the upper bound, for all dimensions and numbers of points.
CONSTANT = 2.0
N, NOISE = 48, 0.01


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; some seconds."""
    generator = torch.Generator().manual_seed(seed)
    return [
        *losses(generator),
        *ranks(generator),
        *below(seed),
        *transition(seed),
        *above(seed),
        *several(seed),
    ]


def losses(generator: torch.Generator, draws: int = 3000) -> list[Check]:
    """The closed form of the loss with hard weights against draws of the noise, at three times."""
    model = random_molrg(9, 2, 2, noise=0.1, generator=generator)
    x = model.sample(20, generator)[0]
    net = MoLRGDenoiser(9, 2, 2, "hard", generator=generator, dtype=torch.float64)
    result = []
    for t in (0.05, 0.3, 0.9):
        values = [float(denoising_loss(net, x, VPSchedule(), t, generator).detach()) for _ in range(draws)]
        low, measured, high = mean_errors(values, 3.3)
        s, g = VPSchedule().coefficients(t)
        how = f"{draws} draws of the noise of 20 points in R^9, two planes, t = {t}, float64"
        predicted = float(closed_form_loss(net.bases.detach(), x, s, g))
        result.append(Check("loss with hard weights in closed form", predicted, measured, how, low=low, high=high))
    return result


def ranks(generator: torch.Generator, d: int = 5) -> list[Check]:
    """Rank of the posterior mean's derivative at little noise."""
    model = random_molrg(N, d, 3, generator=generator)
    found = jacobian_rank(model.posterior_mean, model.sample(50, generator)[0], 1.0, 1e-3)
    how = f"50 points of 3 subspaces of {d} dimensions in R^{N}, g = 0.001, the largest and the least, float64"
    theorem = "at little noise the derivative of the denoiser has the rank of the point's subspace"
    return [Check(theorem, float(d), float(value), how) for value in (found.max(), found.min())]


def below(seed: int, trials: int = 400) -> list[Check]:
    """Error with fewer points than dimensions, noise-free: arbitrary completions, and what they meet by chance."""
    result = []
    for d, points in ((4, 3), (8, 5), (20, 4)):
        squares = recovery_errors(N, d, points, 0.0, trials, seed=seed) ** 2
        low, measured, high = mean_interval(squares, confidence=CONFIDENCE)
        how = f"{trials} data sets in R^{N}, d = {d}, N = {points}, no noise, float64"
        theorem = "N < d: E |P - P*|^2 = 2 (d - N)(1 - (d - N)/(n - N)), below the 2 (d - N) of the stated bound"
        result.append(Check(theorem, completion_error(N, d, points) ** 2, measured, how, low=low, high=high))
    return result


def transition(seed: int, trials: int = 100) -> list[Check]:
    """Recovery just below and just above as many points as dimensions."""
    result = []
    for d in (2, 6):
        for more, relation, wanted in ((-1, "at most", 0.0), (3, "at least", 0.9)):
            found = recovery_errors(N, d, d + more, NOISE, trials, seed=seed) < 0.5
            how = f"{trials} data sets in R^{N}, d = {d}, N = {d + more}, noise {NOISE}, |P - P*| < 0.5"
            theorem = f"recovered {'never below' if more < 0 else 'nearly always above'} N = d"
            low, measured, high = mean_interval(found.astype(float), confidence=CONFIDENCE)
            result.append(Check(theorem, wanted, measured, how, relation, low, high))  # type: ignore[arg-type]
    return result


def above(seed: int, trials: int = 300) -> list[Check]:
    """The upper bound's failures with one constant, and the error's size and exponents where points are many."""
    result = []
    for d in (2, 4, 8):
        for more in (0, 1, 3):
            points = d + more
            bound = upper_bound(d, points, NOISE * (points * N) ** 0.5, CONSTANT)
            beyond = (recovery_errors(N, d, points, NOISE, trials, seed=seed) > bound).astype(float)
            low, measured, high = mean_errors(beyond, 3.3)
            how = f"{trials} data sets in R^{N}, d = {d}, N = {points}, noise {NOISE}, c = {CONSTANT}"
            theorem = "error above c |E| / (sqrt N - sqrt(d - 1)): no oftener than 2^-(N - d + 1)"
            result.append(Check(theorem, 2.0 ** -(more + 1), measured, how, "at most", low, high))
    d, sizes = 4, (50, 100, 200, 400)  # less d + 1: the mean of an inverse Wishart matrix is I / (N - d - 1)
    samples = [recovery_errors(N, d, m + d + 1, NOISE, 60, seed=seed) ** 2 for m in sizes]
    low, measured, high = fit_exponent(sizes, samples, statistic=np.mean, confidence=CONFIDENCE, rng=seed)
    how = f"60 data sets each of N - d - 1 = {sizes} in R^{N}, d = {d}, noise {NOISE}"
    theorem = "N >> d: the squared error falls as 1 / (N - d - 1)"
    result.append(Check(theorem, -1.0, measured, how, low=low, high=high))
    low, measured, high = mean_interval(samples[-1], confidence=CONFIDENCE)
    predicted = 2.0 * d * (N - d) * NOISE**2 / sizes[-1]
    theorem = "N >> d: E |P - P*|^2 = 2 d (n - d) noise^2 / (N - d - 1)"
    result.append(Check(theorem, predicted, measured, f"{how}, the last", low=low, high=high))
    levels = (0.002, 0.004, 0.008, 0.016)
    samples = [recovery_errors(N, d, 12, noise, 60, seed=seed) for noise in levels]
    low, measured, high = fit_exponent(levels, samples, confidence=CONFIDENCE, rng=seed)
    how = f"60 data sets each of noise {levels} in R^{N}, d = {d}, N = 12"
    result.append(Check("the error is linear in the noise", 1.0, measured, how, low=low, high=high))
    return result


def several(seed: int, trials: int = 40) -> list[Check]:
    """Two subspaces, by K-subspaces: the transition is per component."""
    d, result = 3, []
    for points, relation, wanted in ((d - 1, "at most", 0.0), (3 * d, "at least", 0.7)):
        found = recovery_errors(N, d, points, NOISE, trials, 2, seed) < 0.5
        how = f"{trials} data sets in R^{N}, K = 2, d = {d}, N = {points} a component, noise {NOISE}, 20 starts"
        low, measured, high = mean_interval(found.astype(float), confidence=0.95)
        theorem = "two subspaces: recovered only above N = d a component"
        result.append(Check(theorem, wanted, measured, how, relation, low, high))  # type: ignore[arg-type]
    return result

"""What the paper and its sources state of sensitivities, Lewis weights and samples, as checks with numbers."""

from collections.abc import Sequence

import numpy as np

from holonomy.theory.check import Check
from holonomy.theory.sensitivity_sampling.arrays import Array
from holonomy.theory.sensitivity_sampling.bounds import sensitivity_bounds
from holonomy.theory.sensitivity_sampling.instances import flat_matrix, flat_total, tight_instance
from holonomy.theory.sensitivity_sampling.leverage import leverage_scores
from holonomy.theory.sensitivity_sampling.lewis import lewis_weights
from holonomy.theory.sensitivity_sampling.sampler import RowSampler
from holonomy.theory.sensitivity_sampling.sensitivities import lp_sensitivities, total_sensitivity
from holonomy.theory.statistics import fit_exponent, mean_errors

#: Intervals of means are this many standard errors to either side.
ERRORS = 4.0
EXPONENTS = (1.0, 1.5, 2.0, 3.0, 3.5)


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from ``seed``; some seconds."""
    rng = np.random.default_rng(seed)
    return [
        least_squares(rng),
        programme(rng),
        *sandwich(rng),
        *unfinished_sandwich(rng),
        *closed_form(rng),
        *invariance(rng),
        *blocks(rng),
        *unbiased(rng),
        *root_leverage(rng),
        *totals(rng),
    ]


def uneven(n: int, d: int, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """Gaussian rows with log-normal lengths."""
    return rng.standard_normal((n, d)) * np.exp(spread * rng.standard_normal((n, 1)))


def least_squares(rng: np.random.Generator) -> Check:
    """Sensitivities of p = 2 by the general method against leverage scores."""
    A = uneven(300, 8, rng)
    error = np.abs(lp_sensitivities(A, 2.0, method="irls") - leverage_scores(A)).max()
    return Check(
        "l_2 sensitivities are the leverage scores: largest difference",
        1e-8,
        float(error),
        "300 x 8, log-normal row lengths, reweighted least squares against QR, float64",
        "at most",
    )


def programme(rng: np.random.Generator) -> Check:
    """Reweighted least squares at p = 1 against the linear programme."""
    A = rng.standard_normal((60, 4))
    exact = lp_sensitivities(A, 1.0, method="lp")
    error = np.abs(lp_sensitivities(A, 1.0, method="irls") / exact - 1.0).max()
    return Check(
        "l_1 sensitivities solve a linear programme: largest relative error of reweighted least squares",
        1e-3,
        float(error),
        "60 x 4 Gaussian, all rows, against the interior-point method at a gap of 1e-9",
        "at most",
    )


def sandwich(rng: np.random.Generator) -> list[Check]:
    """The two sides of the Lewis sandwich, row by row."""
    result = []
    for p in EXPONENTS:
        low, high = [], []
        for A in (
            rng.standard_normal((150, 5)),
            uneven(150, 5, rng, 2.0),
            np.eye(5),
            tight_instance(150, 4, 3, p, rng),
        ):
            s, w = lp_sensitivities(A, p), lewis_weights(A, p)
            factor = A.shape[1] ** (p / 2 - 1)
            low.append((s / (w * min(factor, 1.0))).min())
            high.append((s / (w * max(factor, 1.0))).max())
        how = f"p = {p:g}: 150 x 5 Gaussian and heavy-tailed, I_5, flat beside identity (162 x 8); all rows"
        lower, upper = ("d^(p/2-1) w_i", "w_i") if p <= 2 else ("w_i", "d^(p/2-1) w_i")
        # 1e-6: the tolerances of sensitivities and weights, 1e-9 and 1e-10, leave a wide margin.
        result += [
            Check(f"s_i >= {lower}: least ratio", 1.0 - 1e-6, float(min(low)), how, "at least"),
            Check(f"s_i <= {upper}: largest ratio", 1.0 + 1e-6, float(max(high)), how, "at most"),
        ]
    return result


def unfinished_sandwich(rng: np.random.Generator) -> list[Check]:
    """The certified bounds after a single step."""
    result = []
    for p in (1.0, 3.0):
        A = uneven(300, 6, rng)
        s = lp_sensitivities(A, p)
        low, high = sensitivity_bounds(A, p, max_iter=1)
        outside = max((low / s).max(), (s / high).max())
        result.append(
            Check(
                f"the sandwich with its ratios holds for weights that have not converged (p = {p:g}): largest excess",
                1.0 + 1e-6,
                float(outside),
                "300 x 6, log-normal row lengths, one step from the leverage scores",
                "at most",
            )
        )
    return result


def closed_form(rng: np.random.Generator, d: int = 16, matrices: int = 12) -> list[Check]:
    """Sensitivities of unit vectors, extrapolated to infinitely many."""
    result = []
    for p in (1.0, 1.5, 3.0):
        limits = []
        for _ in range(matrices):
            means = []
            for n in (1000, 2000):
                rows = rng.choice(n, 12, replace=False)
                means.append(n * lp_sensitivities(flat_matrix(n, d, rng), p, rows=rows, tol=1e-7).mean())
            limits.append(2.0 * means[1] - means[0])  # cancels the error of order 1/n
        low, mean, high = mean_errors(limits, ERRORS)
        result.append(
            Check(
                f"n s_i of n unit vectors in R^{d} tends to Gamma((d+p)/2) sqrt(pi) / (Gamma(d/2) Gamma((p+1)/2))",
                flat_total(d, p),
                mean,
                f"p = {p:g}, extrapolated from n = 1000 and 2000, {matrices} matrices, 12 rows each",
                low=low,
                high=high,
            )
        )
    return result


def invariance(rng: np.random.Generator) -> list[Check]:
    """A change of basis changes nothing; splitting a row divides its sensitivity."""
    result = []
    for p in (1.0, 1.5, 3.0):
        A = uneven(120, 4, rng)
        s = lp_sensitivities(A, p)
        mixed = lp_sensitivities(A @ rng.standard_normal((4, 4)), p)
        k = 3
        split = lp_sensitivities(np.vstack([A, *[A[:1]] * (k - 1)]) * _first(A, k, p)[:, None], p)
        how = f"p = {p:g}, 120 x 4, log-normal row lengths"
        parts = np.concatenate([split[1:120] / s[1:] - 1.0, split[[0, 120, 121]] * k / s[0] - 1.0])
        result += [
            Check("s_i(A R) = s_i(A) for invertible R: largest relative error", 1e-6, _largest(mixed / s - 1.0), how,
                  "at most"),
            Check("k copies of a row scaled by k^(-1/p) have s/k each, the others as before: largest relative error",
                  1e-6, _largest(parts), f"{how}, k = {k}", "at most"),
        ]  # fmt: skip
    return result


def _first(A: np.ndarray, k: int, p: float) -> np.ndarray:
    """Row factors: k^(-1/p) for the first row and its copies at the end."""
    factors = np.ones(len(A) + k - 1)
    factors[0] = factors[len(A) :] = k ** (-1.0 / p)
    return factors


def blocks(rng: np.random.Generator) -> list[Check]:
    """Sensitivities of a block diagonal matrix are those of its blocks."""
    result = []
    for p in (1.0, 3.0):
        flat = flat_matrix(100, 4, seed := int(rng.integers(2**31)))
        whole = lp_sensitivities(tight_instance(100, 4, 2, p, seed), p)
        alone = np.concatenate([lp_sensitivities(flat, p), np.full(8, 0.5)])
        result.append(
            Check(
                "s of a block diagonal matrix is that of its blocks: largest relative error",
                1e-6,
                _largest(whole / alone - 1.0),
                f"p = {p:g}, 100 x 4 flat, and two copies of I_4, whose rows have 1/2",
                "at most",
            )
        )
    return result


def unbiased(rng: np.random.Generator, draws: int = 2000) -> list[Check]:
    """Mean of ||SAx||_p^p over samples."""
    result = []
    for method, p in (("sensitivity", 1.0), ("lewis", 1.5), ("sensitivity", 3.0)):
        A, x = uneven(200, 4, rng), rng.standard_normal(4)
        sampler = RowSampler(method, p=p, size=40, random_state=rng).fit(A)
        whole = (np.abs(A @ x) ** p).sum()
        ratios = [(np.abs(sampler.transform(A) @ x) ** p).sum() / whole for _ in range(draws)]
        low, mean, high = mean_errors(ratios, ERRORS)
        result.append(
            Check(
                f"E ||SAx||_p^p = ||Ax||_p^p, {method} sampling: ratio",
                1.0,
                mean,
                f"p = {p:g}, 200 x 4, 40 rows of it in the mean, {draws} samples, {ERRORS:g} standard errors",
                low=low,
                high=high,
            )
        )
    return result


def root_leverage(rng: np.random.Generator, sizes: Sequence[int] = (1000, 2000, 4000, 8000, 16000)) -> list[Check]:
    """Hölder's bound of the rows of one round, and its exponent, which flat rows attain."""
    result = []
    for p in (1.0, 1.5):
        d = 8
        ratios = [_root_total(uneven(n, d, rng), p) / (n ** (1 - p / 2) * d ** (p / 2)) for n in sizes]
        sums = [np.array([_root_total(flat_matrix(n, d, rng), p) for _ in range(10)]) for n in sizes]
        low, exponent, high = fit_exponent(sizes, sums, confidence=0.999)
        # tau departs from d/n by some sqrt(2 d/n) of itself, which the concave power turns into a part of d/n.
        bend = d / min(sizes)
        how = f"p = {p:g}, d = {d}, n = {', '.join(map(str, sizes))}"
        result += [
            Check("sum tau_i^(p/2) <= n^(1-p/2) d^(p/2): largest ratio", 1.0, max(ratios),
                  f"{how}, log-normal row lengths", "at most"),
            Check("sum tau_i^(p/2) of flat rows: exponent of n is 1 - p/2", 1.0 - p / 2, exponent,
                  f"{how}, 10 flat matrices each", low=low - bend, high=high + bend),
        ]  # fmt: skip
    return result


def totals(rng: np.random.Generator) -> list[Check]:
    """Between d and d^(p/2): what makes S d^(1 - p/2) never worse than S^(2/p)."""
    result = []
    for p in (1.0, 1.5, 3.0):
        for name, A in (("Gaussian", rng.standard_normal((400, 5))), ("heavy-tailed", uneven(400, 5, rng, 2.0))):
            least = 5.0 ** min(p / 2, 1.0)
            result.append(
                Check(
                    "S >= d^(p/2) for p <= 2, S >= d for p >= 2: total sensitivity",
                    least,
                    total_sensitivity(A, p),
                    f"p = {p:g}, 400 x 5 {name}",
                    "at least",
                )
            )
    return result


def _root_total(A: np.ndarray, p: float) -> float:
    return float((leverage_scores(A) ** (p / 2)).sum())


def _largest(errors: Array) -> float:
    return float(np.abs(errors).max())

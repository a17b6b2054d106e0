"""Sharper Bounds for l_p Sensitivity Sampling (ICML 2023): the exponents, and what sampling is good for.

Measured: how many flat rows a sample needs, as a power of the total sensitivity S (p = 1, 1.5), and that sampling by
sensitivities pays for that power where flat rows stand beside an identity, and sampling by Lewis weights does not; that
distortion falls as the square root of the sample; that root leverage sampling in rounds comes down to a number of rows
linear in d; that above p = 2 the rows needed stay below S^(2 - 2/p), and that leverage and sensitivity together need no
more rows than sensitivity alone; S of real data, far below its worst case; l_1 regression on a quarter of the rows.

The paper has no experiments: its claims are theorems up to constants and logarithms, measured here as slopes.
Distortion is a lower bound of the true one, from singular vectors and random directions, and with gradient ascent where
said.

``--full`` goes to d = 512, a million rows in rounds, 200 trials and p in {1, 1.25, 1.5, 1.75, 2.5, 3, 4}.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from holonomy.examples.data.tables import load_breast_cancer, load_diabetes
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.theory.sensitivity_sampling import (
    Prober,
    RowSampler,
    distortion,
    flat_matrix,
    flat_total,
    flatten_rows,
    leverage_scores,
    lewis_weights,
    lp_regression,
    lp_sensitivities,
    recursive_root_leverage,
    replicated_identity,
    required_rows,
    tight_instance,
    total_sensitivity,
)
from holonomy.theory.statistics import slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: S of real data: diabetes and breast cancer for p = 1, 1.5, 3, 4, as computed when the method was planned.
REAL_P = (1.0, 1.5, 3.0, 4.0)
REAL_S = {"diabetes": (3.97, 6.55, 19.9, 34.0), "breast cancer": (7.48, 15.97, 75.9, 137.0)}
RULES = ("uniform", "sensitivity", "lewis", "leverage", "root_leverage")


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` goes as far as a workstation does."""

    n: int = 8192
    """Rows of flat and identity matrices."""
    below: tuple[float, ...] = (1.0, 1.5)
    """Exponents p below 2."""
    above: tuple[float, ...] = (3.0, 4.0)
    """Exponents p above 2."""
    dims: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Columns, for p below 2."""
    dims_above: tuple[int, ...] = (8, 16, 32, 64)
    """Columns, for p above 2."""
    trials: int = 6
    """Searches for the number of rows that suffices, in each seed."""
    many: int = 65536
    """Rows of the matrix whose distortion is followed over sample sizes; samples are at most a sixteenth."""
    tall: int = 200_000
    """Rows at the start of root leverage sampling in rounds."""
    tall_dims: tuple[int, ...] = (8, 16, 32)
    """Columns of it."""
    rate: float = 12.0
    """Its rate c."""
    draws: int = 50
    """Samples for the regression."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds; each variant runs once a seed."""

    def __post_init__(self) -> None:
        if len(self.dims) < 4 or len(self.dims_above) < 4:
            raise ValueError(f"dims and dims_above must have 4 sizes at least, got {self.dims} and {self.dims_above}")
        if not {1.0, 1.5} <= set(self.below) or not {3.0, 4.0} <= set(self.above):
            raise ValueError(f"below and above must hold 1, 1.5 and 3, 4, got {self.below} and {self.above}")
        if self.trials < 1 or self.draws < 1:
            raise ValueError(f"trials and draws must be at least 1, got {self.trials} and {self.draws}")

    @classmethod
    def full(cls) -> "Config":
        """To d = 512 and a million rows, 200 trials over the seeds."""
        return cls(
            n=131_072,
            below=(1.0, 1.25, 1.5, 1.75),
            above=(2.5, 3.0, 4.0),
            dims=(8, 16, 32, 64, 128, 256, 512),
            dims_above=(8, 16, 32, 64, 128),
            trials=40,
            many=262_144,
            tall=1_000_000,
            tall_dims=(8, 16, 32, 64),
        )


# -- rows needed ---------------------------------------------------------------------------------------------------


def measure_flat(
    trial: Trial, config: Config, p: float, dims: Sequence[int], trials: int, n_ascent: int = 0
) -> Measurements:
    """Rows that flat matrices need, alone and beside an identity, against their total sensitivity."""
    rng = np.random.default_rng([trial.seed, int(100 * p)])
    rows, totals = [], []
    for d in dims:
        A = flat_matrix(config.n, d, rng)
        totals.append(flat_total(d, p))
        scores = np.full(config.n, totals[-1] / config.n)
        rows.append(required_rows(A, scores, p, rng, trials=trials, n_ascent=n_ascent))
    need, S = np.median(rows, axis=1), np.array(totals)
    columns = np.array(dims)
    # Beside the identity a flat row's share is S1 of S1 + d by sensitivities, and half by Lewis weights.
    together, by_lewis = S + columns, 2.0 * need
    return {
        "rows": rows,
        "S": S,
        "slope": slope(S, need),
        "slope in d": slope(columns, need),
        "tight slope, sensitivity": slope(together, need * together / S),
        "tight slope, lewis": slope(together, by_lewis),
        "two flat blocks, sensitivity": slope(2.0 * S, 2.0 * need),
        "two flat blocks, lewis": slope(2.0 * S, by_lewis),
    }


def measure_tight(trial: Trial, config: Config, p: float, d: int = 16, copies: int = 32) -> Measurements:
    """The shares that `measure_flat` reckons with, from the sensitivities and weights of a whole matrix."""
    n = config.n // 4
    A = tight_instance(n, d, copies, p, trial.seed)
    some = np.r_[np.arange(6), n + np.arange(2)]
    s, w = lp_sensitivities(A, p, rows=some, tol=1e-7), lewis_weights(A, p)
    return {
        "flat sensitivities over closed form": n * s[:6].mean() / flat_total(d, p),
        "identity sensitivities": copies * s[6:].mean(),
        "Lewis share of the flat block": w[:n].sum() / w.sum(),
    }


def measure_identity(trial: Trial, config: Config, p: float) -> Measurements:
    """Rows that the replicated identity needs, the logarithm of collecting d coupons divided out."""
    rng = np.random.default_rng([trial.seed, int(100 * p), 1])
    rows = []
    for d in config.dims_above:
        A = replicated_identity(d, config.n // d, p)
        rows.append(required_rows(A, np.full(len(A), d / len(A)), p, rng, trials=config.trials))
    S, need = np.array(config.dims_above), np.median(rows, axis=1)
    return {"rows": rows, "slope": slope(S, need), "slope without log": slope(S, need / np.log(S))}


def measure_mixed(trial: Trial, config: Config, p: float, d: int = 8, copies: int = 64) -> Measurements:
    """Rows for flat rows beside a block of high leverage: by sensitivity, with leverage after flattening, uniformly."""
    rng = np.random.default_rng([trial.seed, int(100 * p), 2])
    n = config.n // 2
    A = tight_instance(n, d, copies, p, rng)
    prober = Prober(A, p)
    leverage, s = leverage_scores(A), np.r_[np.full(n, flat_total(d, p) / n), np.full(d * copies, 1.0 / copies)]
    flat, origin = flatten_rows(A, leverage, 2.0 * float(np.median(leverage)), p)
    sensitivities, leverages = s[origin] / np.bincount(origin)[origin], leverage_scores(flat)
    need = partial(required_rows, p=p, prober=prober, trials=6 * config.trials)
    return {
        "sensitivity": np.median(need(A, s, rng=rng)),
        "combined": np.median(need(flat, sensitivities + leverages, rng=rng)),
        "uniform": np.median(need(A, np.full(len(A), 1.0 / len(A)), rng=rng)),
        "rows": len(A),
        "largest leverage": [leverage.max(), leverages.max()],
    }


# -- samples -------------------------------------------------------------------------------------------------------


def measure_rate(trial: Trial, config: Config, d: int = 16, p: float = 1.0) -> Measurements:
    """Distortion of samples of a flat matrix by their size; with rows that are not reweighted too."""
    rng = np.random.default_rng([trial.seed, 3])
    A = flat_matrix(config.many, d, rng)
    prober = Prober(A, p)
    sizes = [config.many // k for k in (256, 128, 64, 32, 16)]
    # Sensitivities and Lewis weights of so many flat rows are all alike.
    sampler = RowSampler("uniform", p=p, random_state=rng)
    weighted, plain = [], []
    for size in sizes:
        sampler.set_params(size=size).fit(A)
        draws = [sampler.sample(A) for _ in range(config.trials)]
        weighted.append([distortion(*prober.extremes(draw.of(A), 0)) for draw in draws])
        plain.append([distortion(*prober.extremes(A[draw.indices], 0)) for draw in draws])
    return {
        "sizes": sizes,
        "distortion": weighted,
        "slope": slope(sizes, np.median(weighted, axis=1)),
        "slope without weights": slope(sizes, np.median(plain, axis=1)),
    }


def measure_rounds(trial: Trial, config: Config, p: float = 1.0) -> Measurements:
    """Root leverage sampling in rounds, in one round, and without weights in the end."""
    rng = np.random.default_rng([trial.seed, 4])
    result: dict[str, Any] = {}
    ratios, ends, ends_of_one, distortions, unweighted, rounds = [], [], [], [], [], []
    for d in config.tall_dims:
        A = rng.standard_normal((config.tall, d)) * np.exp(rng.standard_normal((config.tall, 1)))
        sample, sizes = recursive_root_leverage(A, p, config.rate, random_state=rng)
        before, after = np.array(sizes[:-1]), np.array(sizes[1:])
        # Hölder's bound is of the mean: the count has a standard deviation below its root.
        ratios.append(((after - 4.0 * after**0.5) / (config.rate * before ** (1 - p / 2) * d ** (p / 2))).max())
        rounds.append(len(after))
        ends.append(sizes[-1] / d)
        ends_of_one.append(sizes[1] / d)
        prober = Prober(A, p, n_random=100)
        distortions.append(distortion(*prober.extremes(sample.of(A), 0)))
        unweighted.append(distortion(*prober.extremes(A[sample.indices], 0)))
        result[f"sizes {d}"] = sizes
    return result | {
        "rows over d": ends,
        "spread": max(ends) / min(ends) - 1.0,
        "spread after one round": max(ends_of_one) / min(ends_of_one) - 1.0,
        "Hölder ratio": max(ratios),
        "rounds": max(rounds),
        "distortion": max(distortions),
        "distortion without weights": max(unweighted),
    }


def measure_real(trial: Trial) -> Measurements:
    """Total sensitivities of real data, and the least and greatest that its number of columns allows."""
    tables = {"diabetes": load_diabetes()[0], "breast cancer": load_breast_cancer()}
    result: dict[str, Any] = {}
    for name, A in tables.items():
        d = A.shape[1]
        S = np.array([total_sensitivity(A, p) for p in REAL_P])
        result[name] = S
        result[f"{name}, over expected"] = np.abs(S / np.array(REAL_S[name]) - 1.0).max()
        result[f"{name}, d over expected"] = np.abs(d / np.array(REAL_S[name]) - 1.0).min()
        result[f"{name}, d^(p/2)"] = [d ** (p / 2) for p in REAL_P]
    return result


def measure_regression(trial: Trial, config: Config) -> Measurements:
    """Median relative excess of the l_1 loss of a fit to a quarter of the rows, by sampling rule."""
    rng = np.random.default_rng([trial.seed, 5])
    A, b = planted(*load_diabetes(), rng)
    best = l1_loss(A, b, lp_regression(A, b, 1.0))
    both = np.column_stack([A, b])
    result: dict[str, Any] = {}
    for rule in RULES:
        sampler = RowSampler(rule, p=1.0, size=0.25 * len(A), random_state=rng).fit(both)
        result[rule] = np.median([excess(A, b, best, sampler.sample(both)) for _ in range(config.draws)])
        result[f"{rule}, planted"] = float(sampler.q_[-5:].min())
        if rule == "sensitivity":
            shuffled = sampler.set_params(method="uniform").fit(both)
            shuffled.q_ = rng.permutation(RowSampler(rule, p=1.0, size=0.25 * len(A)).fit(both).q_)
            result["shuffled"] = np.median([excess(A, b, best, shuffled.sample(both)) for _ in range(config.draws)])
    return result


def planted(A: np.ndarray, b: np.ndarray, rng: np.random.Generator, rows: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The data with an intercept, and rows of high leverage at its end, one in each of the first directions."""
    extra = 40.0 * np.eye(rows, A.shape[1])
    target = rng.choice([-1.0, 1.0], rows) * rng.uniform(20.0, 30.0, rows)
    A, b = np.vstack([A, extra]), np.concatenate([b, target])
    return np.column_stack([A, np.ones(len(A))]), b


def l1_loss(A: np.ndarray, b: np.ndarray, x: np.ndarray) -> float:
    """Sum of the absolute residuals."""
    return float(np.abs(A @ x - b).sum())


def excess(A: np.ndarray, b: np.ndarray, best: float, sample: Any) -> float:
    """Loss on all rows of the fit to a sample, over the best, less 1."""
    x = lp_regression(A[sample.indices], b[sample.indices], 1.0, weights=sample.weights)
    return l1_loss(A, b, x) / best - 1.0


# -- the run -------------------------------------------------------------------------------------------------------


def run(config: Config, log: Log) -> Report:
    """Everything at every seed, but what a seed does not change, or is reported without a bound."""
    flat = partial(measure_flat, config=config)
    variants: dict[str, Any] = {}
    for p in config.below:
        variants[f"flat, p = {p:g}"] = partial(flat, p=p, dims=config.dims, trials=config.trials)
        variants[f"tight, p = {p:g}"] = partial(measure_tight, config=config, p=p)
    for p in config.above:
        variants[f"flat, p = {p:g}"] = partial(flat, p=p, dims=config.dims_above, trials=config.trials)
        variants[f"identity, p = {p:g}"] = partial(measure_identity, config=config, p=p)
        variants[f"mixed, p = {p:g}"] = partial(measure_mixed, config=config, p=p)
    variants |= {
        "rate": partial(measure_rate, config=config),
        "rounds": partial(measure_rounds, config=config),
        "regression": partial(measure_regression, config=config),
    }
    once: dict[str, Any] = {"real": measure_real}
    for p in config.above:
        once[f"flat with ascent, p = {p:g}"] = partial(flat, p=p, dims=config.dims_above, trials=2, n_ascent=20)
    return log.sweep(variants, seeds=config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _below(p: float, least: float, gap: float) -> list[Claim]:
    name, flat = f"flat, p = {p:g}", f"p = {p:g}, flat rows"
    most = 2.0 / p + 0.1

    def difference(report: Report, kind: str) -> np.ndarray:
        return report[name, f"{kind}, sensitivity"] - report[name, f"{kind}, lewis"]

    return [
        Claim(f"{flat}: exponent of S is 2/p", lambda r: r[name, "slope"], at_least=2 / p - 0.25, at_most=2 / p + 0.25),
        Claim(
            "  ablation, the exponent of the union bound's S d",
            lambda r: r[name, "slope"],
            at_least=1 + 2 / p - 0.25,
            fails=True,
        ),
        Claim(
            f"{flat} beside an identity, by sensitivity: exponent of S",
            lambda r: r[name, "tight slope, sensitivity"],
            at_least=least,
            at_most=most,
        ),
        Claim("  and above that of Lewis weights by", lambda r: difference(r, "tight slope"), at_least=gap),
        Claim(
            "  ablation, a second flat block for the identity",
            lambda r: difference(r, "two flat blocks"),
            at_least=gap,
            fails=True,
        ),
        Claim(
            "  sensitivities of flat rows over the closed form",
            lambda r: r[f"tight, p = {p:g}", "flat sensitivities over closed form"],
            at_least=0.95,
            at_most=1.05,
        ),
    ]


def _above(p: float) -> list[Claim]:
    flat, identity, mixed = f"flat, p = {p:g}", f"identity, p = {p:g}", f"mixed, p = {p:g}"
    most = 2.0 - 2.0 / p + 0.1
    return [
        Claim(f"p = {p:g}, flat rows: exponent of S", lambda r: r[flat, "slope"], at_most=min(most, 1.0)),
        Claim(f"p = {p:g}, identity: exponent of S", lambda r: r[identity, "slope without log"], at_most=most),
        Claim(
            f"p = {p:g}: rows by leverage + sensitivity over sensitivity",
            lambda r: r[mixed, "combined"] / r[mixed, "sensitivity"],
            at_most=1.2,
        ),
        Claim(
            "  ablation, uniform sampling",
            lambda r: r[mixed, "uniform"] / r[mixed, "sensitivity"],
            at_most=1.2,
            fails=True,
        ),
    ]


def _real(name: str) -> list[Claim]:
    return [
        Claim(
            f"S of {name}: relative distance from what was expected",
            lambda r: r["real", f"{name}, over expected"],
            at_most=0.01,
            digits=".4f",
        ),
        Claim(
            "  ablation, leverage scores for sensitivities",
            lambda r: r["real", f"{name}, d over expected"],
            at_most=0.01,
            fails=True,
        ),
    ]


def _regression(rule: str) -> list[Claim]:
    return [
        Claim(
            f"l_1 regression: excess loss by {rule} over uniform",
            lambda r: r["regression", rule] / r["regression", "uniform"],
            at_most=0.5,
        )
    ]


CLAIMS = [
    *_below(1.0, least=1.25, gap=0.25),
    *_below(1.5, least=1.0, gap=0.08),
    Claim("distortion: exponent of the sample size", lambda r: r["rate", "slope"], at_least=-0.62, at_most=-0.45),
    Claim(
        "  ablation, rows not reweighted",
        lambda r: r["rate", "slope without weights"],
        at_least=-0.62,
        at_most=-0.45,
        fails=True,
    ),
    Claim("root leverage in rounds: spread of rows/d over d", lambda r: r["rounds", "spread"], at_most=0.15),
    Claim("  ablation, one round", lambda r: r["rounds", "spread after one round"], at_most=0.15, fails=True),
    Claim("  rows of a round over Hölder's bound", lambda r: r["rounds", "Hölder ratio"], at_most=1.0),
    Claim("  rounds", lambda r: r["rounds", "rounds"], at_most=8, digits=".1f"),
    Claim("  distortion in the end", lambda r: r["rounds", "distortion"], at_most=0.25),
    Claim(
        "  ablation, rows not reweighted",
        lambda r: r["rounds", "distortion without weights"],
        at_most=0.25,
        fails=True,
    ),
    *_above(3.0),
    *_above(4.0),
    *_real("diabetes"),
    *_real("breast cancer"),
    *_regression("sensitivity"),
    *_regression("lewis"),
    Claim(
        "  ablation, sensitivities of shuffled rows",
        lambda r: r["regression", "shuffled"] / r["regression", "uniform"],
        at_most=0.5,
        fails=True,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Rows against S, S of real data, rounds, distortion against the sample size."""
    return {
        "rows_below": _plot_rows(report, below=True),
        "rows_above": _plot_rows(report, below=False),
        "real": _plot_real(report),
        "rounds": _plot_rounds(report),
        "rate": _plot_rate(report),
    }


def _plot_rows(report: Report, below: bool) -> "Figure":
    figure, axes = new_figure("rows that flat matrices need", x="total sensitivity S", y="rows at distortion 0.5")
    for name in report.trials:
        kind, _, text = name.partition(", p = ")
        if kind not in ("flat", "flat with ascent") or (float(text) < 2) != below:
            continue
        p, S = float(text), report[name, "S"][0]
        rows = report[name, "rows"]  # seeds, sizes, trials
        need = np.median(rows, axis=(0, 2))
        ends = np.abs(np.quantile(np.median(rows, axis=2), [0.025, 0.975], axis=0) - need)
        if kind != "flat":
            axes.loglog(S, need, "x", label=f"p = {p:g}, with ascent")
            continue
        drawn = axes.errorbar(S, need, ends, marker="o", ls="", capsize=3, label=f"p = {p:g}: {slope(S, need):.2f}")
        exponent = 2 / p if below else 2 - 2 / p
        color = drawn[0].get_color()
        axes.plot(S, need[0] * (S / S[0]) ** exponent, "--", color=color, label=f"S^{exponent:.2f}")
    axes.set(xscale="log", yscale="log")
    axes.legend(fontsize=8)
    return figure


def _plot_real(report: Report) -> "Figure":
    figure, axes = new_figure("total sensitivity of real data", x="p", y="S")
    for name, color in (("diabetes", "tab:blue"), ("breast cancer", "tab:orange")):
        axes.semilogy(REAL_P, report["real", name][0], "o-", color=color, label=name)
        axes.semilogy(REAL_P, report["real", f"{name}, d^(p/2)"][0], ":", color=color, label="d^(p/2)")
    axes.legend()
    return figure


def _plot_rounds(report: Report) -> "Figure":
    figure, axes = new_figure("root leverage sampling in rounds", x="round", y="rows / d")
    for record in report.trials["rounds"].values():
        for key, sizes in record.measurements.items():
            if key.startswith("sizes "):
                d = int(key.removeprefix("sizes "))
                axes.semilogy(np.array(sizes) / d, marker=".", alpha=0.6, color=f"C{d.bit_length() % 10}")
    axes.axhline(report["rounds", "rows over d"].mean(), color="gray", lw=1)
    return figure


def _plot_rate(report: Report) -> "Figure":
    figure, axes = new_figure("distortion of samples of flat rows", x="rows in the mean", y="distortion")
    sizes, values = report["rate", "sizes"][0], np.median(report["rate", "distortion"], axis=2)
    middle = np.median(values, axis=0)
    axes.errorbar(sizes, middle, np.abs(np.quantile(values, [0, 1], axis=0) - middle), marker="o", ls="", capsize=3)
    axes.plot(sizes, middle[0] * (sizes / sizes[0]) ** -0.5, "--", label="m^(-1/2)")
    axes.set(xscale="log", yscale="log")
    axes.legend()
    return figure

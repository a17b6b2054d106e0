"""What Can Be Learnt With Wide Convolutional Neural Networks? (ICML 2023): spectra by sectors, and learning curves.

Measured: eigenvalues of deep convolutional kernels decay with the dimension of the meta-patch that a mode needs; kernel
regression learns a target of one meta-patch with an exponent set by its own scale, faster the smaller it is, where a
fully connected kernel does not, and a target of the full input no faster than n^(-1/d) for an NTK's; finite networks
come to the kernel as their width grows; and on handwritten digits, cut into 32 patches of two pixels, both kinds of
kernel classify even and odd.

Learning curves are expectations over Gaussian-process targets, computed without sampling them. Errors are parts of the
target's mean square.

``--full`` goes to s_1 = 3, L = 4 and n = 32,768 (some 40 GB of memory), and with ``--data`` to the binary version of
CIFAR-10, one class against another, as images on a 2-D grid.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.theory.ntk import KernelRegressor, empirical_ntk, fc_kernels
from holonomy.theory.statistics import fit_power, slope
from holonomy.theory.wide_cnn import (
    HierarchicalKernel,
    WideCNN,
    effective_dimension,
    predicted_exponent,
    sample_multisphere,
    student_errors,
    torus_spectrum,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NU = {"ntk": 0.5, "nngp": 1.5}
#: Names of the kernels in the claims: the paper calls the NNGP a random-feature kernel.
NAMES = {"ntk": "NTK", "nngp": "RFK"}
#: Modes that exponents are fitted to: even ones, and odd ones for comparison.
EVEN, ODD = np.arange(8, 49, 2), np.arange(9, 48, 2)


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` is the paper's scale."""

    hierarchies: tuple[tuple[int, ...], ...] = ((2, 2), (2, 2, 2))
    """Filter sizes of the students; inputs are their receptive fields."""
    grid: int = 512
    """Angles a patch, for spectra."""
    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Training sets of the learning curves."""
    window: int = 256
    """Least size that exponents are fitted to."""
    trials: tuple[int, ...] = (4, 4, 4, 4, 2, 2)
    """Trials of each size, in each seed."""
    tests: int = 256
    """Test inputs of a trial."""
    nets: int = 20
    """Finite networks of each width."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Widths of finite networks."""
    digits: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Training sets of real data."""
    classes: tuple[int, int] = (3, 5)
    """Two classes of CIFAR-10, where its folder is given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each variant runs once a seed."""

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.trials) or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must increase, with one of trials each, got {self.sizes} and {self.trials}")
        if not {(2, 2), (2, 2, 2)} <= set(self.hierarchies):
            raise ValueError(f"hierarchies must hold (2, 2) and (2, 2, 2), got {self.hierarchies}")
        if len(self.widths) < 4 or self.nets < 2:
            raise ValueError(f"wanted at least 4 widths and 2 nets, got {self.widths} and {self.nets}")

    @classmethod
    def full(cls) -> "Config":
        """Depth 4, patches of 3 numbers, and training sets up to 32,768."""
        return cls(
            hierarchies=((2, 2), (2, 2, 2), (3, 2), (3, 2, 2), (2, 2, 2, 2)),
            grid=2048,
            sizes=tuple(2**k for k in range(6, 16)),
            trials=(8,) * 8 + (2, 2),
            widths=(32, 64, 128, 256, 512),
        )


# -- spectra -------------------------------------------------------------------------------------------------------


def measure_spectrum(trial: Trial, config: Config, kind: str) -> Measurements:
    """Exponents of eigenvalues along an axis (sector 1) and the diagonal (sector 2) of two patches."""
    spectrum = torus_spectrum(HierarchicalKernel((2, 2), kind), config.grid)  # type: ignore[arg-type]
    shallow = torus_spectrum(HierarchicalKernel((2,), kind), 64, patches=2)  # type: ignore[arg-type]

    def exponent(modes: np.ndarray, other: np.ndarray | int) -> float:
        return fit_power(modes, spectrum[modes, other])[1]

    def share(values: np.ndarray) -> float:
        return float(values[1:, 1:].sum() / values.sum())

    shown = np.unique(np.rint(np.geomspace(1, config.grid // 4, 40)).astype(int))
    return {
        "axis": exponent(EVEN, 0),
        "diagonal": exponent(EVEN, EVEN),
        "odd axis": exponent(ODD, 0),
        "odd diagonal": exponent(ODD, ODD),
        "share of sector 2": share(spectrum),
        "share of sector 2, one layer": share(shallow),
        "modes": shown,
        "eigenvalues on the axis": spectrum[shown, 0],
        "eigenvalues on the diagonal": spectrum[shown, shown],
    }


# -- learning curves -----------------------------------------------------------------------------------------------


def measure_curves(trial: Trial, config: Config, filters: tuple[int, ...]) -> Measurements:
    """Errors of four students on targets of every level: deep, fully connected, cut to one patch, and with a ridge."""
    patches, levels = math.prod(filters[1:]), range(1, len(filters) + 1)
    deep = HierarchicalKernel(filters)
    keys = [(kind, level) for kind in NU for level in levels]
    targets = [HierarchicalKernel(filters, kind).patch(level) for kind, level in keys]  # type: ignore[arg-type]
    found: dict[str, dict[str, list[list[float]]]] = {}
    for repeat in range(max(config.trials)):
        ns = [n for n, count in zip(config.sizes, config.trials, strict=True) if repeat < count]
        X = sample_multisphere(max(ns) + config.tests, patches, filters[0], trial.generator)
        teachers = [kernel(X) for kernel in targets]
        students = {"deep": (deep(X), 0.0), "FC": (fc_kernels(X.flatten(1), depth=3)[1], 0.0)}
        students["cut"] = deep.patch(1)(X), 0.0
        students["ridge"] = students["deep"][0], 1.0
        for name, (student, ridge) in students.items():
            errors = student_errors(teachers, student, ns, config.tests, ridge)
            for (kind, level), row in zip(keys, errors, strict=True):
                entry = found.setdefault(name, {}).setdefault(f"{kind}, {level}", [[] for _ in config.sizes])
                for k, value in enumerate(row):
                    entry[k].append(value)
    fitted = [k for k, n in enumerate(config.sizes) if n >= config.window]
    result: dict[str, Any] = {"n": list(config.sizes)}
    for name, curves in found.items():
        for key, values in curves.items():
            means = np.array([np.mean(v) for v in values])
            result[f"{name}, {key}"] = means
            result[f"beta, {name}, {key}"] = -slope(np.array(config.sizes)[fitted], means[fitted])
    return result


# -- finite networks and real data ---------------------------------------------------------------------------------


def measure_widths(trial: Trial, config: Config) -> Measurements:
    """Distance of the mean NTK of finite networks from the kernel, and fluctuations about their mean, by width."""
    filters = (2, 2, 2)
    X = sample_multisphere(10, 4, 2, trial.generator)
    kernel = HierarchicalKernel(filters)(X)
    errors, spreads = [], []
    for width in config.widths:
        nets = torch.stack(
            [
                empirical_ntk(WideCNN(filters, width, generator=trial.generator, dtype=torch.float64), X)
                for _ in range(config.nets)
            ]
        )
        errors.append(float((nets.mean(0) - kernel).norm() / kernel.norm()))
        spreads.append(float((nets - nets.mean(0)).square().sum((1, 2)).mean().sqrt() / kernel.norm()))
    return {
        "widths": list(config.widths),
        "error": errors,
        "spread": spreads,
        "exponent": slope(config.widths, spreads),
        "error, widest": errors[-1],
        "error, narrowest": errors[0],
    }


def patched(images: Tensor) -> Tensor:
    """Images as signals of patches of two pixels; shifted, since a patch of black has no direction."""
    return images.flatten(1).double() + 0.1


def errors_of(
    kernels: dict[str, Any], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], ns: tuple[int, ...]
) -> dict[str, list[float]]:
    """Test errors of the sign of kernel regression, by kernel and size; targets are 1 and -1."""
    found: dict[str, list[float]] = {name: [] for name in kernels}
    for n in ns:
        for name, kernel in kernels.items():
            model = KernelRegressor(kernel, ridge=1e-6).fit(train[0][:n], train[1][:n])
            found[name].append(float((model.predict(test[0]).sign() != test[1].sign()).double().mean()))
    return found


def measure_digits(trial: Trial, config: Config, data: Path | None = None) -> Measurements:
    """Even against odd digits; two classes of CIFAR-10 where its folder is given."""
    if data is None:
        loaded = load_digits()
        (x, y), (a, b) = loaded.train, loaded.test
        x, a, y, b = patched(x), patched(a), 1.0 - 2.0 * (y % 2).double(), 1.0 - 2.0 * (b % 2).double()
        deep: Any = HierarchicalKernel((2, 2, 2, 2, 2, 2), normalize=True)
        ns = config.digits
    else:
        loaded = load_cifar(data)
        one, other = config.classes
        (x, y), (a, b) = (
            (images[(labels == one) | (labels == other)], labels[(labels == one) | (labels == other)])
            for images, labels in (loaded.train, loaded.test)
        )
        x, a = (images.mean(1).double() + 0.1 for images in (x, a))
        y, b = (1.0 - 2.0 * (labels == one).double() for labels in (y, b))
        deep = HierarchicalKernel((2, 2, 2, 2, 2), grid="2d", normalize=True)
        ns = tuple(n for n in (64, 256, 1024, 4096) if n <= len(x))
    order = torch.randperm(len(x), generator=trial.generator)
    x, y = x[order], y[order]
    mixed = y[torch.randperm(len(y), generator=trial.generator)]

    def connected(u: Tensor, v: Tensor) -> Tensor:
        return fc_kernels(u.flatten(1), v.flatten(1), depth=3)[1]

    kernels = {"deep": deep, "FC": connected}
    found: dict[str, Any] = errors_of(kernels, (x, y), (a, b), ns)
    shuffled = errors_of({"deep": deep}, (x, mixed), (a, b), ns[-1:])["deep"]
    return {
        "n": list(ns),
        **found,
        "worse, last": max(found["deep"][-1], found["FC"][-1]),
        "shuffled, last": shuffled[-1],
    }


# -- the run -------------------------------------------------------------------------------------------------------


def _curves(filters: tuple[int, ...]) -> str:
    return f"curves, s = {filters}"


def run(config: Config, log: Log) -> Report:
    """Curves, networks and data at every seed; spectra, which no seed changes, once."""
    variants: dict[str, Any] = {
        _curves(filters): partial(measure_curves, config=config, filters=filters) for filters in config.hierarchies
    }
    variants["widths"] = partial(measure_widths, config=config)
    variants["data"] = partial(measure_digits, config=config, data=log.data)
    once: dict[str, Any] = {
        f"spectrum, {NAMES[kind]}": partial(measure_spectrum, config=config, kind=kind) for kind in NU
    }
    return log.sweep(variants, seeds=config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _spectrum(kind: str) -> list[Claim]:
    name = f"spectrum, {NAMES[kind]}"

    def near(text: str, key: str, level: int, fails: bool = False) -> Claim:
        exponent = -2.0 * NU[kind] - effective_dimension((2, 2), level)
        return Claim(text, lambda r: r[name, key], at_least=exponent - 0.15, at_most=exponent + 0.15, fails=fails)

    return [
        near(f"{NAMES[kind]} eigenvalues, sector 1: exponent of k", "axis", 1),
        near("  ablation, odd modes, which decay with another constant", "odd axis", 1, fails=True),
        near(f"{NAMES[kind]} eigenvalues, sector 2: exponent of k", "diagonal", 2),
        near("  and for odd modes", "odd diagonal", 2),
        Claim(
            "  difference of the sectors' exponents",
            lambda r: r[name, "diagonal"] - r[name, "axis"],
            at_least=-1.2,
            at_most=-0.8,
        ),
        Claim("  share of sector 2 in the spectrum", lambda r: r[name, "share of sector 2"], at_least=0.01),
        Claim(
            "  ablation, one layer, which is a sum over patches",
            lambda r: r[name, "share of sector 2, one layer"],
            at_least=0.01,
            fails=True,
        ),
    ]


def _beta(filters: tuple[int, ...], student: str, kind: str, level: int) -> Any:
    return lambda r: r[_curves(filters), f"beta, {student}, {kind}, {level}"]


def _near(text: str, filters: tuple[int, ...], student: str, kind: str, level: int, fails: bool = False) -> Claim:
    """The exponent that is predicted for the deep student: within 0.12 for NTK targets, a quarter for RFK ones."""
    wanted = predicted_exponent(level, NU[kind], 0.5, filters)
    margin = 0.12 if kind == "ntk" else 0.25 * wanted
    measure = _beta(filters, student, kind, level)
    return Claim(text, measure, at_least=wanted - margin, at_most=wanted + margin, fails=fails)


def _exponents(filters: tuple[int, ...], kind: str) -> list[Claim]:
    whole = effective_dimension(filters, len(filters))
    return [
        _near(
            f"s = {filters}, {NAMES[kind]} target of {effective_dimension(filters, level)} of {whole}: beta",
            filters,
            "deep",
            kind,
            level,
        )
        for level in range(1, len(filters) + 1)
    ]


def _ordering(kind: str, gap: float) -> list[Claim]:
    filters = (2, 2, 2)

    def difference(report: Report, student: str, level: int) -> Any:
        return _beta(filters, student, kind, level)(report) - _beta(filters, student, kind, level + 1)(report)

    found = [
        Claim(
            f"{NAMES[kind]} targets: beta of level {level} above that of level {level + 1} by",
            partial(difference, student="deep", level=level),
            at_least=gap,
        )
        for level in (1, 2)
    ]
    found.append(
        Claim(
            "  ablation, a fully connected student",
            partial(difference, student="FC", level=1),
            at_least=gap,
            fails=True,
        )
    )
    return found


def _connected(kind: str, gap: float) -> Claim:
    filters = (2, 2, 2)
    return Claim(
        f"{NAMES[kind]} target of one patch: beta of the deep student above the fully connected one's by",
        lambda r: _beta(filters, "deep", kind, 1)(r) - _beta(filters, "FC", kind, 1)(r),
        at_least=gap,
    )


CLAIMS = [
    *_spectrum("ntk"),
    *_spectrum("nngp"),
    *_exponents((2, 2), "ntk"),
    *_exponents((2, 2), "nngp"),
    *_exponents((2, 2, 2), "ntk"),
    _near("  ablation, a fully connected student, target of one patch", (2, 2, 2), "FC", "ntk", 1, fails=True),
    *_exponents((2, 2, 2), "nngp"),
    _near("  ablation, a ridge of 1, target of one patch", (2, 2, 2), "ridge", "nngp", 1, fails=True),
    *_ordering("ntk", 0.08),
    *_ordering("nngp", 0.2),
    _connected("ntk", 0.15),
    _connected("nngp", 0.4),
    Claim(
        "a student cut to the NTK target's patch: beta, 2 nu_T/d_l = 1",
        _beta((2, 2, 2), "cut", "ntk", 1),
        at_least=0.88,
        at_most=1.12,
    ),
    Claim("  ablation, the deep student", _beta((2, 2, 2), "deep", "ntk", 1), at_least=0.88, at_most=1.12, fails=True),
    Claim(
        "finite networks: error of the mean NTK at the largest width",
        lambda r: r["widths", "error, widest"],
        at_most=0.05,
    ),
    Claim("  ablation, the smallest width", lambda r: r["widths", "error, narrowest"], at_most=0.05, fails=True),
    Claim(
        "  exponent of the fluctuations in the width", lambda r: r["widths", "exponent"], at_least=-0.7, at_most=-0.3
    ),
    Claim("data: larger test error of both kernels at the last size", lambda r: r["data", "worse, last"], at_most=0.1),
    Claim("  ablation, shuffled labels", lambda r: r["data", "shuffled, last"], at_most=0.1, fails=True),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Eigenvalues by sector, learning curves with their predicted slopes, exponents against d_eff, real data."""
    figures = {"spectrum": _plot_spectrum(report), "beta": _plot_beta(report), "data": _plot_data(report)}
    for name in report.trials:
        if name.startswith("curves, s = "):
            filters = tuple(int(s) for s in name.removeprefix("curves, s = ").strip("()").split(","))
            figures["curves_" + "_".join(map(str, filters))] = _plot_curves(report, filters)
    return figures


def _plot_spectrum(report: Report) -> "Figure":
    figure, axes = new_figure("eigenvalues by sector, s = (2, 2)", x="k", y="eigenvalue")
    for row, kind in enumerate(NU):
        name = f"spectrum, {NAMES[kind]}"
        k = report[name, "modes"][0]
        for column, (key, level) in enumerate((("axis", 1), ("diagonal", 2))):
            values = report[name, f"eigenvalues on the {key}"][0]
            color = f"C{2 * row + column}"
            axes.loglog(k, values, ".", color=color, label=f"{NAMES[kind]}, sector {level}")
            exponent = -2.0 * NU[kind] - effective_dimension((2, 2), level)
            even = np.flatnonzero((k >= 8) & (k % 2 == 0))[0]
            axes.loglog(k, values[even] * (k / k[even]) ** exponent, "--", lw=1, color=color, label=f"k^{exponent:g}")
    axes.legend(fontsize=7, ncols=2)
    return figure


def _plot_curves(report: Report, filters: tuple[int, ...]) -> "Figure":
    name = _curves(filters)
    figure, axes = new_figure(f"learning curves of the NTK of s = {filters}", x="n", y="error / mean square")
    n = report[name, "n"][0]
    for row, kind in enumerate(NU):
        for level in range(1, len(filters) + 1):
            mean = report[name, f"deep, {kind}, {level}"].mean(0)
            color = f"C{row * len(filters) + level - 1}"
            wanted = predicted_exponent(level, NU[kind], 0.5, filters)
            label = f"{NAMES[kind]} target, d = {effective_dimension(filters, level)}"
            axes.loglog(n, mean, "o-", color=color, ms=4, label=label)
            axes.loglog(n, mean[-1] * (n / n[-1]) ** -wanted, "--", lw=1, color=color, label=f"n^-{wanted:.2f}")
    axes.legend(fontsize=7, ncols=2)
    return figure


def _plot_beta(report: Report) -> "Figure":
    figure, axes = new_figure("exponents of the learning curves", x="d_eff of the target", y="beta")
    for row, filters in enumerate(((2, 2), (2, 2, 2))):
        d = [effective_dimension(filters, level) for level in range(1, len(filters) + 1)]
        for kind, marker in (("ntk", "o"), ("nngp", "s")):
            values = np.array([_beta(filters, "deep", kind, level)(report) for level in range(1, len(filters) + 1)])
            label = f"{NAMES[kind]} target, s = {filters}"
            axes.errorbar(
                d, values.mean(1), values.std(1), marker=marker, ls="", color=f"C{row}", capsize=3, label=label
            )
            wanted = [predicted_exponent(level, NU[kind], 0.5, filters) for level in range(1, len(filters) + 1)]
            axes.plot(d, wanted, ":", color=f"C{row}")
    axes.set(xscale="log", yscale="log")
    axes.legend(fontsize=7)
    return figure


def _plot_data(report: Report) -> "Figure":
    figure, axes = new_figure("real data, two classes", x="n", y="test error")
    n = report["data", "n"][0]
    for name in ("deep", "FC"):
        values = report["data", name]
        axes.errorbar(n, values.mean(0), values.std(0), marker="o", capsize=3, label=f"{name} kernel")
    axes.set(xscale="log", yscale="log")
    axes.legend()
    return figure

"""The Principles of Deep Learning Theory (2022): what depth over width does to networks, at first and in training.

Measured on ensembles of random networks, against recursions in depth: the four-point vertex and the fluctuations of the
tangent kernel of ReLU and tanh networks (width 64, five layers), whose distance from theory is of the next order in
1/n; the vertex of ReLU networks at any width, exactly; its growth 5 L/n, and 2 L/(3 n) for tanh; growth and decay of
signals off criticality; the mean of trained networks against the tangent kernel's prediction; and how much the tangent
kernel changes in training, as width grows.

``--full`` goes to n = 1024, 50 layers, 100,000 networks, and 200 trained ones.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.theory.deep_learning_theory import (
    CriticalMLP,
    critical_point,
    fluctuation_recursion,
    infinite_width_predict,
    kernel_recursion,
    ntk_recursion,
    susceptibilities,
    vertex_rate,
)
from holonomy.theory.ensembles import sample_fluctuations, sample_kernels, vertex
from holonomy.theory.ntk import empirical_ntk
from holonomy.theory.statistics import slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TENSORS = "VABDF"
C_W = {"relu": 2.0, "tanh": 1.0}
#: Activations of the figure of susceptibilities.
SHOWN = ("relu", "tanh", "sin", "gelu", "swish", "sigmoid")


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` is the book's scale."""

    width: int = 64
    """Width of the networks whose fluctuations are compared with theory."""
    nets: int = 6000
    """Such networks, in each seed."""
    narrow: int = 32
    """Half the width, for the next order."""
    narrow_nets: int = 12000
    """Networks of it."""
    layers: int = 5
    """Layers."""
    exact: tuple[int, ...] = (8, 16, 32)
    """Widths at which the vertex of ReLU networks is compared with its exact value."""
    exact_nets: int = 40_000
    """Networks of each."""
    wide: int = 256
    """Width at which the growth of the vertex is measured."""
    collapse: tuple[int, ...] = (16, 32, 64, 128)
    """Widths of the figure in which curves fall onto each other."""
    depth: int = 8
    """Layers over which it grows; its slope is that of the first eight."""
    deep: int = 400
    """Layers of the recursion for tanh."""
    trained_width: int = 512
    """Width of the trained ensemble."""
    trained: int = 100
    """Networks of it."""
    steps: int = 200
    """Steps of gradient descent."""
    probe: tuple[int, ...] = (32, 64, 128, 256)
    """Widths at which the change of the tangent kernel is measured."""
    probe_nets: int = 12
    """Networks of each."""
    probe_steps: int = 60
    """Steps of gradient descent of these."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each variant runs once a seed."""

    def __post_init__(self) -> None:
        if self.depth < 8:
            raise ValueError(f"depth must be at least 8, got {self.depth}")
        if self.layers < 2 or self.narrow * 2 != self.width:
            raise ValueError(f"wanted layers >= 2 and narrow = width/2, got {self.layers}, {self.narrow}, {self.width}")
        if len(self.probe) < 4 or len(self.exact) < 1 or self.trained < 2:
            raise ValueError(f"wanted four widths to probe and two trained networks, got {self.probe}, {self.trained}")

    @classmethod
    def full(cls) -> "Config":
        """Widths to 1024, 100,000 networks, 200 trained ones."""
        return cls(
            nets=100_000,
            narrow_nets=100_000,
            exact=(8, 16, 32, 64, 128),
            exact_nets=400_000,
            wide=1024,
            depth=50,
            collapse=(16, 32, 64, 128, 256, 512, 1024),
            trained=200,
            probe=(32, 64, 128, 256, 512, 1024),
            probe_nets=32,
        )


# -- at initialisation ---------------------------------------------------------------------------------------------


def _theory(act: str, n: int, layers: int) -> Any:
    return fluctuation_recursion(act, [8, *[n] * layers], 0.0, C_W[act], 1.0, 1.0)


def measure_tensors(trial: Trial, config: Config, act: str) -> Measurements:
    """Fluctuations at two widths against theory."""
    found: dict[str, Any] = {}
    for name, n, nets in (("wide", config.width, config.nets), ("narrow", config.narrow, config.narrow_nets)):
        theory = _theory(act, n, config.layers)
        sample = sample_fluctuations(
            [8, *[n] * config.layers], act, 0.0, C_W[act], torch.ones(8), nets, seed=10 * trial.seed + n
        )
        for what in TENSORS:
            found[f"{name}, {what}"] = [getattr(s, what).value for s in sample[1:]]
            found[f"{name}, {what}, error"] = [getattr(s, what).error for s in sample[1:]]
            found[f"{what}, theory"] = [getattr(s, what) for s in theory[1:]]
    scores, zero = [], []
    for what in TENSORS:
        value, error, wanted = (
            np.array(found[key]) for key in (f"wide, {what}", f"wide, {what}, error", f"{what}, theory")
        )
        # Of the next order in 1/n, or four standard errors.
        allowed = np.maximum(4.0 * error, 2.5 * np.arange(2, config.layers + 1) / config.width * np.abs(wanted))
        scores.append(float((np.abs(value - wanted) / allowed).max()))
        zero.append(float((np.abs(value) / np.maximum(4.0 * error, 1e-300)).max()))
    found["worst over what is allowed"] = max(scores)
    found["infinite width, over what is allowed"] = max(zero)
    if act == "relu":
        for what in "VBF":
            wanted = found[f"{what}, theory"][-1]
            far, near = (abs(found[f"{name}, {what}"][-1] - wanted) for name in ("narrow", "wide"))
            noise = found[f"wide, {what}, error"][-1]
            found[f"next order, {what}"] = max(near - 4.0 * noise, 0.0) / far
    return found


def measure_vertex(trial: Trial, config: Config) -> Measurements:
    """The vertex of ReLU networks: exactly at small widths, and its growth in depth at a large one."""
    exact, leading = [], []
    for n in config.exact:
        kernels = sample_kernels([8, *[n] * 5], "relu", 0.0, 2.0, 1.0, config.exact_nets, seed=trial.seed)
        measured = vertex(kernels[:, 4], n)
        exact.append(abs(measured.value - 4.0 * n * ((1.0 + 5.0 / n) ** 4 - 1.0)) / measured.error)
        leading.append(abs(measured.value - 80.0) / measured.error)
    depth = config.depth
    grown = sample_kernels([8, *[config.wide] * depth], "relu", 0.0, 2.0, 1.0, config.exact_nets, seed=trial.seed)
    ratios = [vertex(grown[:, k], config.wide).value / 4.0 for k in range(depth)]
    curves = {}
    for act in C_W:
        for n in config.collapse:
            kernels = sample_kernels([8, *[n] * depth], act, 0.0, C_W[act], 1.0, 10_000, seed=trial.seed)
            curves[f"collapse, {act}, {n}"] = kernels[:, 1:].var(0) / kernels[:, 1:].mean(0) ** 2
    return {
        "standard errors from the exact value": max(exact),
        "standard errors from the leading order": max(leading),
        "slope": float(np.polyfit(np.arange(1, 9), ratios[:8], 1)[0]),
        **curves,
    }


def measure_recursions(trial: Trial, config: Config) -> Measurements:
    """Deep tanh networks, and ReLU networks off criticality."""
    last = fluctuation_recursion("tanh", [1, *[64] * config.deep], 0.0, 1.0, 1.0, 1.0)[-1]
    found: dict[str, Any] = {
        "tanh, V/(K^2 l)": last.V / last.K**2 / config.deep,
        "tanh, 2 K l": 2.0 * last.K * config.deep,
    }
    for scale in (1.8, 2.0, 2.2):
        kernels = np.log(np.array(kernel_recursion("relu", 30, 0.0, scale, 1.0), dtype=float))
        found[f"rate, {scale}"] = float(np.polyfit(np.arange(30), kernels, 1)[0])
    K = np.geomspace(0.05, 30.0, 40)
    for act in SHOWN:
        found[f"chi, {act}"] = [susceptibilities(act, float(k), 1.0)[:2] for k in K]
    found["K"] = K
    return found


# -- training ------------------------------------------------------------------------------------------------------


def circle(n: int, shift: float = 0.0) -> Tensor:
    """Points on the unit circle times sqrt(2): |x|^2/n_0 = 1."""
    angles = torch.arange(n, dtype=torch.float64) * (2.0 * math.pi / n) + shift
    return torch.stack([angles.cos(), angles.sin()], dim=1) * 2.0**0.5


def targets(x: Tensor) -> Tensor:
    """What is learnt: the sign of a product of the coordinates, softened."""
    return torch.tanh(3.0 * x[:, :1] * x[:, 1:])


def _rate(theta: Tensor) -> float:
    return 1.0 / float(torch.linalg.eigvalsh(theta)[-1])


def measure_training(trial: Trial, config: Config) -> Measurements:
    """The mean of an ensemble after gradient descent against the tangent kernel's prediction at the same time."""
    n, layers, nets = config.trained_width, 3, config.trained
    x, there = circle(6), circle(6, 0.4)
    y = targets(x)
    both = torch.cat([x, there])
    theta = ntk_recursion("relu", layers, 0.0, 2.0, both @ both.mT / 2.0)[-1]
    assert isinstance(theta, Tensor)
    eta = _rate(theta[:6, :6])
    predicted = infinite_width_predict(theta[:6, :6], theta[6:, :6], y, config.steps, eta).squeeze(1)
    outputs = torch.cat(
        [_train_batch(20, n, x, y, there, eta, config.steps, trial.generator) for _ in range(nets // 20)]
    )
    before, after = outputs[:, 0], outputs[:, 1]
    scale = float(predicted.abs().max())

    def score(values: Tensor) -> float:
        error = values.std(0) / len(values) ** 0.5
        return float(((values.mean(0) - predicted).abs() / (0.05 * scale + 3.0 * error)).max())

    return {
        "worst over what is allowed": score(after),
        "before training": score(before),
        "mean": after.mean(0),
        "error": after.std(0) / len(after) ** 0.5,
        "predicted": predicted,
    }


def _train_batch(
    nets: int, n: int, x: Tensor, y: Tensor, there: Tensor, eta: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Outputs at `there` before and after full-batch gradient descent of three-layer ReLU networks, (nets, 2, m)."""
    x, y, there = (t.float() for t in (x, y, there))
    shapes = [(2, n), (n, n), (n, 1)]
    weights = [(torch.randn(nets, a, b, generator=generator) * (2.0 / a) ** 0.5).requires_grad_() for a, b in shapes]
    biases = [torch.zeros(nets, 1, b).requires_grad_() for _, b in shapes]

    def outputs(inputs: Tensor) -> Tensor:
        z = inputs.expand(nets, -1, -1)
        for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = torch.baddbmm(bias, torch.relu(z) if k else z, weight)
        return z

    with torch.no_grad():
        before = outputs(there).squeeze(2)
    for _ in range(steps):
        loss = 0.5 * (outputs(x) - y).square().sum()
        slopes = torch.autograd.grad(loss, [*weights, *biases])
        with torch.no_grad():
            for p, g in zip(weights, slopes[: len(weights)], strict=True):
                p -= eta / p.shape[1] * g
            for p, g in zip(biases, slopes[len(weights) :], strict=True):
                p -= eta * g
    with torch.no_grad():
        return torch.stack([before, outputs(there).squeeze(2)], dim=1).double()


def measure_change(trial: Trial, config: Config) -> Measurements:
    """Relative change of the tangent kernel in training, by width; and with targets that grow with it.

    A network's derivative of the kernel by its outputs has mean 0 over draws, and size n^(-1/2): what targets of order
    one make of it fades; targets of order n, the ablation, make features move at any width.
    """
    x = circle(6)
    theta = ntk_recursion("relu", 3, 0.0, 2.0, x @ x.mT / 2.0)[-1]
    assert isinstance(theta, Tensor)
    eta = 0.7 * _rate(theta)
    found: dict[str, list[float]] = {"change": [], "change for growing targets": []}
    for n in config.probe:
        for name, changes in found.items():
            y = targets(x) * (1.0 if name == "change" else n / config.probe[0])
            each = [_change(trial, config, n, eta, x, y) for _ in range(config.probe_nets)]
            changes.append(float(np.mean(each)))
    return {
        "widths": list(config.probe),
        **found,
        "exponent": slope(config.probe, found["change"]),
        "exponent for growing targets": slope(config.probe, found["change for growing targets"]),
    }


def _change(trial: Trial, config: Config, n: int, eta: float, x: Tensor, y: Tensor) -> float:
    """Relative change of one network's tangent kernel in training."""
    net = CriticalMLP([2, n, n, 1], "relu", generator=trial.generator, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.param_groups(eta))
    start = tangent(net, x)
    for _ in range(config.probe_steps):
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().sum()).backward()
        optimizer.step()
    return float((tangent(net, x) - start).norm() / start.norm())


def tangent(net: CriticalMLP, x: Tensor) -> Tensor:
    """Tangent kernel with the rates of the book: each layer's weights by 1/fan-in."""
    total = torch.zeros(len(x), len(x), dtype=x.dtype)
    for layer in net.layers:
        for p in net.parameters():
            p.requires_grad_(False)
        layer.weight.requires_grad_(True)
        total += empirical_ntk(net, x) / layer.in_features  # type: ignore[operator]
        layer.weight.requires_grad_(False)
        layer.bias.requires_grad_(True)
        total += empirical_ntk(net, x)
    for p in net.parameters():
        p.requires_grad_(True)
    return total


# -- the run -------------------------------------------------------------------------------------------------------


def run(config: Config, log: Log) -> Report:
    """Ensembles at every seed; recursions and training once."""
    variants: dict[str, Any] = {act: partial(measure_tensors, config=config, act=act) for act in C_W}
    variants["vertex"] = partial(measure_vertex, config=config)
    variants["change"] = partial(measure_change, config=config)
    once = {
        "recursions": partial(measure_recursions, config=config),
        "training": partial(measure_training, config=config),
    }
    return log.sweep(variants, seeds=config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _rates(scale: float) -> Any:
    return lambda r: r["recursions", f"rate, {scale}"] / math.log(scale / 2.0)


def _tensors(act: str) -> list[Claim]:
    return [
        Claim(
            f"{act}, n = 64: V, A, B, D, F of all layers, worst over max(4 errors, 2.5 l/n)",
            lambda r: r[act, "worst over what is allowed"],
            at_most=1.0,
        ),
        Claim(
            "  ablation, infinite width, where all are 0",
            lambda r: r[act, "infinite width, over what is allowed"],
            at_most=1.0,
            fails=True,
        ),
    ]


def _next_order(what: str) -> Claim:
    return Claim(
        f"{what} of relu, l = 5: distance from theory at n = 64, less 4 errors, over that at n = 32",
        lambda r: r["relu", f"next order, {what}"],
        at_most=0.75,
    )


CLAIMS = [
    *_tensors("relu"),
    *_tensors("tanh"),
    *(_next_order(what) for what in "VBF"),
    Claim(
        "V of relu at n = 8, 16, 32: standard errors from the exact value",
        lambda r: r["vertex", "standard errors from the exact value"],
        at_most=4.0,
    ),
    Claim(
        "  ablation, the leading order alone",
        lambda r: r["vertex", "standard errors from the leading order"],
        at_most=4.0,
        fails=True,
    ),
    Claim("V/K^2 of relu, n = 256: slope in depth", lambda r: r["vertex", "slope"], at_least=4.5, at_most=5.5),
    Claim("tanh, l = 400: V/(K^2 l)", lambda r: r["recursions", "tanh, V/(K^2 l)"], at_least=0.659, at_most=0.663),
    Claim("tanh, l = 400: 2 K l", lambda r: r["recursions", "tanh, 2 K l"], at_least=1.0, at_most=1.014),
    Claim("relu, C_W = 1.8: rate of log K over log chi", _rates(1.8), at_least=0.98, at_most=1.02),
    Claim("relu, C_W = 2.2: rate of log K over log chi", _rates(2.2), at_least=0.98, at_most=1.02),
    Claim(
        "  ablation, at criticality, over the same",
        lambda r: r["recursions", "rate, 2.0"] / math.log(1.1),
        at_least=0.98,
        at_most=1.02,
        fails=True,
    ),
    Claim(
        "trained ensemble, n = 512: distance from the prediction over 5 % and 3 errors",
        lambda r: r["training", "worst over what is allowed"],
        at_most=1.0,
    ),
    Claim("  ablation, before training", lambda r: r["training", "before training"], at_most=1.0, fails=True),
    Claim(
        "change of a network's tangent kernel in training: exponent of n",
        lambda r: r["change", "exponent"],
        at_most=-0.35,
    ),
    Claim(
        "  ablation, targets that grow as n",
        lambda r: r["change", "exponent for growing targets"],
        at_most=-0.35,
        fails=True,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Vertex against depth over width, susceptibilities, fluctuations by layer, critical points, training."""
    return {
        "collapse": _plot_collapse(report),
        "susceptibilities": _plot_susceptibilities(report),
        "fluctuations": _plot_fluctuations(report),
        "criticality": _plot_criticality(),
        "training": _plot_training(report),
    }


def _plot_collapse(report: Report) -> "Figure":
    figure, axes = new_figure("fluctuations of the kernel fall on one line", x="(l - 1)/n", y="V/(n K^2)")
    names = [name for name in next(iter(report.trials["vertex"].values())).measurements if name.startswith("collapse")]
    for name in names:
        _, act, n = name.split(", ")
        values = report["vertex", name].mean(0)
        layers = np.arange(1, len(values) + 1) / int(n)
        axes.loglog(layers, values, "o" if act == "relu" else "s", ms=4, label=f"{act}, n = {n}")
    ends = np.array(axes.get_xlim())
    for act in C_W:
        rate = vertex_rate(act)
        axes.plot(ends, rate * ends, "--", color="black", lw=1)
    axes.legend(fontsize=7, ncols=2)
    return figure


def _plot_susceptibilities(report: Report) -> "Figure":
    figure, axes = new_figure("susceptibilities at C_W = 1", x="K", y="chi")
    K = report["recursions", "K"][0]
    for k, act in enumerate(SHOWN):
        chi = report["recursions", f"chi, {act}"][0]
        axes.semilogx(K, chi[:, 0], color=f"C{k}", label=act)
        axes.semilogx(K, chi[:, 1], "--", color=f"C{k}")
    axes.set_title("susceptibilities at C_W = 1: parallel, and perpendicular dashed")
    axes.legend(fontsize=7)
    return figure


def _plot_fluctuations(report: Report) -> "Figure":
    figure, axes = new_figure("fluctuations at n = 64 over theory", x="layer", y="measured / theory")
    for row, act in enumerate(C_W):
        for k, what in enumerate(TENSORS):
            wanted = report[act, f"{what}, theory"][0]
            ratio = report[act, f"wide, {what}"].mean(0) / wanted
            layers = np.arange(2, len(ratio) + 2) + 0.06 * k
            axes.plot(layers, ratio, "o-" if row == 0 else "s--", ms=4, color=f"C{k}", label=f"{what}, {act}")
    axes.axhline(1.0, color="black", lw=1)
    axes.legend(fontsize=7, ncols=2)
    return figure


def _plot_criticality() -> "Figure":
    figure, axes = new_figure("critical initialisations", x="C_W", y="C_b")
    for act in ("relu", "linear", "tanh", "sin", "erf", "gelu", "swish"):
        point = critical_point(act)
        axes.plot(point.C_W, point.C_b, "o")
        axes.annotate(
            f"{act} ({point.universality_class})",
            (point.C_W, point.C_b),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
        )
    axes.margins(0.2)
    return figure


def _plot_training(report: Report) -> "Figure":
    figure, axes = new_figure("change of the tangent kernel in training", x="n", y="relative change")
    n = report["change", "widths"][0]
    for name, style in (("change", "o-"), ("change for growing targets", "s--")):
        axes.loglog(n, report["change", name].mean(0), style, label=name)
    start = report["change", "change"].mean(0)[0]
    axes.loglog(n, start * (n[0] / n) ** 0.5, ":", color="black", label="n^(-1/2)")
    axes.legend(fontsize=8)
    return figure

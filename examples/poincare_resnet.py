"""Poincaré ResNet (ICCV 2023) on scikit-learn's digits.

Measured: that the identity initialisation keeps norms through 20 layers where HNN++'s lets them vanish; that the
gyromidpoint is as central as the Fréchet mean, and faster; that the hand-written backward passes save memory and graph;
that the network learns, close to its Euclidean twin, and with either mean in its batch norm. Reported without a bound:
out-of-distribution scores (digits 8 and 9 are left out of training), accuracy under attack, the orders of the residual
join, curvature, a hyperbolic classifier on a Euclidean backbone, and the fusion of both networks.

``--full --data FOLDER`` trains ResNet-20 on CIFAR-10 (``--dataset cifar100`` and ``--depth 32`` for the others) as in
the paper: 100 epochs of Adam at 1e-3 with crops and flips. FOLDER holds ``cifar-10-batches-bin`` or
``cifar-100-binary`` (the binary versions), and, for out-of-distribution scores, ``svhn/test_32x32.mat`` and
``dtd/images`` where you have them.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.data.cifar import load_cifar, load_outside
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.split import Labelled
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import (
    EuclideanResNet,
    FusionResNet,
    HyperbolicHeadResNet,
    PoincareBasicBlock,
    PoincareBatchNorm2d,
    PoincareConv2d,
    PoincareLinear,
    PoincareResNet,
    frechet_mean,
    poincare_midpoint,
    update_batchnorm,
)
from holonomy.models.architectures.poincare_resnet.evaluation import (
    energy_score,
    fgsm,
    max_softmax_score,
    ood_metrics,
    origin_distance_score,
    pgd,
)
from holonomy.models.architectures.poincare_resnet.layers import Init
from holonomy.models.architectures.poincare_resnet.network import resnet_blocks
from holonomy.optim import RiemannianAdam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = 20
EPSILONS = (0.05, 0.1, 0.2, 0.3)
INITS: tuple[Init, ...] = ("identity", "hnn", "identity_eye")


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "cifar10", "cifar100"] = "digits"
    """Images to classify; CIFAR is read from --data."""
    channels: tuple[int, int, int] = (4, 8, 16)
    """Channels of the three groups."""
    depth: int = 8
    """Layers: 6 n + 2 for n blocks a group."""
    c: float = 0.1
    """Magnitude of the curvature."""
    epochs: int = 6
    """Passes over the training set."""
    short_epochs: int = 3
    """Passes of the runs that are compared with the network early in its training."""
    batch_size: int = 64
    """Images in a batch."""
    lr: float = 3e-3
    """Adam's step size."""
    weight_decay: float = 1e-4
    """Adam's weight decay."""
    augment: bool = False
    """Train on random crops (of images padded by 4) and flips."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds; each variant runs once a seed."""

    def __post_init__(self) -> None:
        resnet_blocks(self.depth)
        if not 1 <= self.short_epochs <= self.epochs:
            raise ValueError(f"short_epochs must be in 1 ... epochs, got {self.short_epochs} and epochs {self.epochs}")

    @classmethod
    def full(cls) -> "Config":
        """ResNet-20 (8, 16, 32) on CIFAR-10, 100 epochs, as in the paper."""
        return cls(
            dataset="cifar10",
            channels=(8, 16, 32),
            depth=20,
            epochs=100,
            short_epochs=100,
            batch_size=128,
            lr=1e-3,
            augment=True,
        )

    @property
    def shape(self) -> dict[str, Any]:
        """Arguments that all networks share."""
        return {
            "channels": self.channels,
            "blocks": resnet_blocks(self.depth),
            "in_channels": 1 if self.dataset == "digits" else 3,
        }


# -- norms, midpoints, memory: no training -------------------------------------------------------------------------


def measure_norms(trial: Trial) -> Measurements:
    """Mean norm after each of 20 layers, relative to the input's, in float64."""
    kind: dict[str, Any] = {"dtype": torch.float64, "device": trial.device, "generator": trial.generator}
    result: dict[str, list[float]] = {}
    for init in INITS:
        ball = PoincareBall(c=1.0)
        x = torch.randn(64, 16, dtype=torch.float64, generator=trial.generator)
        x = 0.5 * x / x.norm(dim=1, keepdim=True)
        linear = [PoincareLinear(16, 16, ball=ball, init=init, space="ball", **kind) for _ in range(LAYERS)]
        result[f"linear {init}"] = norm_ratios(linear, x)
        ball = PoincareBall(c=0.1)
        v = 0.1 * torch.randn(8, 8, 16, 16, dtype=torch.float64, generator=trial.generator)
        convolutions = [PoincareConv2d(8, 8, 3, 1, 1, ball=ball, init=init, **kind) for _ in range(LAYERS)]
        result[f"conv {init}"] = norm_ratios(convolutions, v)
    return result


def norm_ratios(layers: list[Any], x: Tensor) -> list[float]:
    """Mean norm over the points (dimension 1 holds their coordinates), before and after each layer."""
    with torch.no_grad():
        first = x.norm(dim=1).mean()
        ratios = [1.0]
        for layer in layers:
            x = layer(x)
            ratios.append(float(x.norm(dim=1).mean() / first))
    return ratios


def measure_midpoint(trial: Trial) -> Measurements:
    """Variance about the gyromidpoint and about exp0 of the mean tangent, over that about the Fréchet mean; times."""
    ball = PoincareBall(c=1.0)
    x = torch.randn(256, 16, dtype=torch.float64, generator=trial.generator)
    x[:, 0] += 1.0  # off the centre: around it, any mean would do
    reach = 0.9 * torch.rand(256, 1, dtype=torch.float64, generator=trial.generator)
    x = reach * x / x.norm(dim=1, keepdim=True)

    def variance(mean: Tensor) -> float:
        return float(ball.dist2(x, mean).mean())

    least = variance(frechet_mean(x, 1.0))
    fast, slow = interleaved(lambda: poincare_midpoint(x, 1.0, 0), lambda: frechet_mean(x, 1.0, tolerance=1e-6))
    return {
        "variance": variance(poincare_midpoint(x, 1.0, 0)) / least,
        "variance of the tangent mean": variance(ball.expmap0(ball.logmap0(x).mean(0))) / least,
        "seconds": fast,
        "seconds of frechet": slow,
        "speed": slow / fast,
    }


def interleaved(*functions: Callable[[], Any], repeats: int = 15) -> list[float]:
    """Median seconds of each function, timed in turns so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def measure_backward(trial: Trial) -> Measurements:
    """Bytes kept for backward and graph nodes of one residual block, for hand-written backward passes and autograd."""
    ball = PoincareBall(c=0.1)
    x = 0.3 * torch.randn(8, 8, 16, 16, generator=trial.generator)
    result: dict[str, float] = {}
    for backward in ("manual", "autograd"):
        block = PoincareBasicBlock(8, 8, ball=ball, backward=backward, generator=trial.generator)
        kept, nodes = graph_size(block, x)
        result |= {f"bytes {backward}": kept, f"nodes {backward}": nodes}
    return result


def graph_size(module: nn.Module, x: Tensor) -> tuple[int, int]:
    """Bytes of distinct storage that the graph of ``module(x)`` keeps, parameters left out, and its nodes."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x.clone().requires_grad_())
    seen: set[Any] = set()
    todo = [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [successor for successor, _ in node.next_functions]
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own), len(seen)


# -- training ------------------------------------------------------------------------------------------------------


def normalise(data: Labelled) -> Labelled:
    """Images in [-1, 1]."""
    return Labelled((2.0 * data.train[0] - 1.0, data.train[1]), (2.0 * data.test[0] - 1.0, data.test[1]), data.classes)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Part of the images that the model, in evaluation mode, classifies as labelled."""
    return float((outputs(model, x).argmax(1) == y).double().mean())


def outputs(function: Callable[[Tensor], Tensor], x: Tensor, batch: int = 500) -> Tensor:
    """The function's values without gradients, by batches."""
    with torch.no_grad():
        return torch.cat([function(part) for part in x.split(batch)])


def crop_and_flip(x: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Random crops of the padded images (padding -1 is black), flipped from left to right half the time."""
    count, height, width = len(x), *x.shape[2:]
    draws = torch.randint(0, 2 * pad + 1, (2, count), generator=generator).to(x.device)
    flips = torch.rand(count, generator=generator).to(x.device) < 0.5
    rows = draws[0, :, None] + torch.arange(height, device=x.device)
    columns = draws[1, :, None] + torch.arange(width, device=x.device)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    padded = F.pad(x, (pad,) * 4, value=-1.0)
    index = torch.arange(count, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def fit(trial: Trial, model: nn.Module, config: Config, data: Labelled, epochs: int) -> dict[str, list[float]]:
    """Train by Adam on the cross-entropy; curves of loss and of test accuracy."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(crop_and_flip(x, trial.generator) if config.augment else x), y)

    return trial.fit(
        model,
        RiemannianAdam(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, decoupled_weight_decay=False
        ),
        data.train,
        loss=loss,
        epochs=epochs,
        batch_size=config.batch_size,
        evaluate=lambda model: {"accuracy": batch_accuracy(model, *data.test)},
    )


def batch_accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy with the statistics of the test batches in Poincaré batch norms, as the published code evaluates."""
    norms = [m for m in model.modules() if isinstance(m, PoincareBatchNorm2d) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        return accuracy(model, x, y)
    finally:
        for norm in norms:
            norm.track_running_stats = True


def train(
    trial: Trial,
    config: Config,
    data: Labelled,
    build: Callable[[Config, int], nn.Module],
    epochs: int,
    attack: bool = False,
    outside: dict[str, Tensor] | None = None,
) -> Measurements:
    """Train a network; its accuracy, under attack too if wanted, and scores of images of other kinds."""
    model = build(config, data.classes).to(trial.device)
    begin = time.perf_counter()
    curves = fit(trial, model, config, data, epochs)
    result: dict[str, Any] = {
        "curve": curves["accuracy"],
        "loss": curves["loss"],
        "seconds an epoch": (time.perf_counter() - begin) / epochs,
    }
    model.eval()
    result["accuracy with running averages"] = accuracy(model, *data.test)
    # Weights that still move fast leave the averages behind: take the statistics of the training set once, for all.
    update_batchnorm(model, data.train[0].split(config.batch_size * 8))
    result["accuracy"] = accuracy(model, *data.test)
    if attack:
        x, y = data.test[0][:200], data.test[1][:200]
        result["fgsm"] = [accuracy(model, fgsm(model, x, y, epsilon), y) for epsilon in EPSILONS]
        result["pgd"] = [
            accuracy(model, pgd(model, x, y, epsilon, steps=5, generator=trial.generator), y) for epsilon in EPSILONS
        ]
    for name, images in (outside or {}).items():
        result |= {f"{name} {key}": value for key, value in ood_scores(model, data.test[0], images).items()}
    return result


def ood_scores(model: Any, inside: Tensor, outside: Tensor) -> dict[str, float]:
    """AUROC, AUPR and FPR95 of max-softmax, energy and distance to the origin."""
    logits = [outputs(model, x) for x in (inside, outside)]
    features = [outputs(model.features, x) for x in (inside, outside)]
    scores = {
        "max-softmax": [max_softmax_score(x) for x in logits],
        "energy": [energy_score(x) for x in logits],
        "distance to the origin": [origin_distance_score(x) for x in features],
    }
    return {f"{score} {key}": value for score, pair in scores.items() for key, value in ood_metrics(*pair).items()}


def poincare(config: Config, classes: int, **options: Any) -> PoincareResNet:
    """The Poincaré ResNet of the configuration."""
    return PoincareResNet(classes, c=options.pop("c", config.c), **config.shape, **options)


def without_norm(config: Config, classes: int, init: Literal["identity", "hnn"]) -> PoincareResNet:
    """The Poincaré ResNet without batch norm, so that nothing but the initialisation keeps the norms."""
    model = poincare(config, classes, init=init)
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, PoincareBatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def euclidean(config: Config, classes: int) -> EuclideanResNet:
    """The Euclidean twin."""
    return EuclideanResNet(classes, **config.shape)


def hyperbolic_head(config: Config, classes: int) -> HyperbolicHeadResNet:
    """The Euclidean twin with a hyperbolic classifier."""
    return HyperbolicHeadResNet(classes, **config.shape)


def fusion(config: Config, classes: int) -> FusionResNet:
    """Both networks under one classifier."""
    return FusionResNet(poincare(config, classes), euclidean(config, classes), classes)


def load(config: Config, log: Log) -> Labelled:
    """The configured data on the run's device, in [-1, 1]."""
    if config.dataset == "digits":
        data = load_digits(log.data)
    else:
        data = load_cifar(log.data, config.dataset)
    return normalise(data.to(log.device))


def run(config: Config, log: Log) -> Report:
    """Measure, then train every variant at every seed; ablations without a bound at the first seed alone."""
    data = load(config, log)
    full, short = config.epochs, config.short_epochs
    learn = partial(train, config=config, data=data)
    outside: dict[str, Tensor] = {}
    if log.data is not None and config.dataset != "digits":
        outside = {name: (2.0 * x - 1.0).to(log.device) for name, x in load_outside(log.data).items()}
    report = log.sweep(
        {
            "norms": measure_norms,
            "midpoint": measure_midpoint,
            "backward": measure_backward,
            "poincare": partial(learn, build=poincare, epochs=full, attack=True, outside=outside),
            "euclidean": partial(learn, build=euclidean, epochs=full, attack=True, outside=outside),
            "frechet": partial(learn, build=partial(poincare, use_midpoint=False), epochs=short),
            "no norm, identity": partial(learn, build=partial(without_norm, init="identity"), epochs=short),
            "no norm, hnn": partial(learn, build=partial(without_norm, init="hnn"), epochs=short),
        },
        seeds=config.seeds,
    )
    if config.dataset == "digits" and log.data is None:
        known, rest = data.only(*range(8)), data.only(8, 9).test[0]
        known = Labelled(known.train, known.test, 8)
        unseen = partial(train, config=config, data=known, epochs=full, outside={"unseen digits": rest})
        variants = {"poincare, 8 digits": poincare, "euclidean, 8 digits": euclidean}
        report |= log.sweep({name: partial(unseen, build=build) for name, build in variants.items()}, config.seeds)
    ablations: dict[str, Callable[[Config, int], nn.Module]] = {
        "hnn": partial(poincare, init="hnn"),
        "identity_eye": partial(poincare, init="identity_eye"),
        "x + F(x)": partial(poincare, order="rf"),
        "no shortcut": partial(poincare, order="none"),
        "c = 1": partial(poincare, c=1.0),
        "hyperbolic classifier": hyperbolic_head,
        "fusion": fusion,
    }
    return report | log.sweep(
        {name: partial(learn, build=build, epochs=short) for name, build in ablations.items()}, config.seeds[:1]
    )


# -- claims and figures --------------------------------------------------------------------------------------------


def _last(report: Report, layer: str) -> np.ndarray:
    return report["norms", layer][:, -1]


def _gap(report: Report, first: str, second: str) -> np.ndarray:
    """Difference of accuracies after the epochs that both have."""
    a, b = report[first, "curve"], report[second, "curve"]
    epoch = min(a.shape[1], b.shape[1]) - 1
    return a[:, epoch] - b[:, epoch]


def _share(report: Report, what: str, of: str) -> np.ndarray:
    return report["backward", what] / report["backward", of]


CLAIMS = [
    Claim(
        "20 linear layers keep norms: |ratio - 1|",
        lambda r: np.abs(_last(r, "linear identity") - 1.0),
        at_most=1e-6,
        digits=".1e",
    ),
    Claim(
        "ablation, HNN++ init: |ratio - 1|",
        lambda r: np.abs(_last(r, "linear hnn") - 1.0),
        at_most=1e-6,
        fails=True,
        digits=".1e",
    ),
    Claim(
        "20 linear layers under HNN++ init: norm ratio",
        lambda r: _last(r, "linear hnn"),
        at_most=1e-6,
        digits=".1e",
    ),
    Claim("20 convolutions keep norms: ratio", lambda r: _last(r, "conv identity"), at_least=0.9, at_most=1.2),
    Claim(
        "ablation, HNN++ init: ratio",
        lambda r: _last(r, "conv hnn"),
        at_least=0.9,
        at_most=1.2,
        fails=True,
        digits=".1e",
    ),
    Claim("20 convolutions under HNN++ init: ratio", lambda r: _last(r, "conv hnn"), at_most=1e-3, digits=".1e"),
    Claim(
        "20 convolutions under the published identity: ratio",
        lambda r: _last(r, "conv identity_eye"),
        at_most=1e-3,
        digits=".1e",
    ),
    Claim(
        "variance about the midpoint over Fréchet's",
        lambda r: r["midpoint", "variance"],
        at_least=1.0,
        at_most=1.002,
        digits=".5f",
    ),
    Claim(
        "ablation, mean of tangents at the origin",
        lambda r: r["midpoint", "variance of the tangent mean"],
        at_least=1.0,
        at_most=1.002,
        fails=True,
        digits=".5f",
    ),
    Claim(
        "midpoint against Fréchet mean at 1e-6: times as fast",
        lambda r: r["midpoint", "speed"],
        at_least=5.0,
        digits=".1f",
    ),
    Claim("bytes for backward over autograd's", lambda r: _share(r, "bytes manual", "bytes autograd"), at_most=0.7),
    Claim("graph nodes over autograd's", lambda r: _share(r, "nodes manual", "nodes autograd"), at_most=0.5),
    Claim(
        "ablation, autograd through the same formulas: bytes",
        lambda r: _share(r, "bytes autograd", "bytes autograd"),
        at_most=0.7,
        fails=True,
    ),
    Claim("test accuracy", lambda r: r["poincare", "accuracy"], at_least=0.92),
    Claim(
        "Euclidean twin's lead in accuracy",
        lambda r: r["euclidean", "accuracy"] - r["poincare", "accuracy"],
        at_most=0.06,
    ),
    Claim(
        "accuracy, midpoint BN against Fréchet BN: |difference|",
        lambda r: np.abs(_gap(r, "poincare", "frechet")),
        at_most=0.03,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Norms by layer, accuracy by epoch, cost, robustness."""
    return {
        "norms": _plot_norms(report),
        "accuracy": _plot_accuracy(report),
        "cost": _plot_cost(report),
        "robustness": _plot_robustness(report),
    } | ({"unseen": _plot_unseen(report)} if "poincare, 8 digits" in report.trials else {})


def _plot_norms(report: Report) -> "Figure":
    figure, axes = new_figure("norms through 20 convolutions", x="layer", y="mean norm over the input's")
    for init, label, style in zip(
        INITS, ("identity (Dirac, compensated)", "HNN++", "identity as published"), ("-", "--", ":"), strict=True
    ):
        # Under the published identity everything is shifted out of the image in the end: an exact 0.
        ratios = np.where(report["norms", f"conv {init}"] > 0, report["norms", f"conv {init}"], np.nan)
        axes.semilogy(ratios.mean(0), style, marker=".", label=label)
    axes.set_xticks(range(0, LAYERS + 1, 5))
    axes.legend()
    return figure


def _plot_accuracy(report: Report) -> "Figure":
    figure, axes = new_figure("test accuracy", x="epoch", y="accuracy")
    names = {
        "poincare": "Poincaré, midpoint BN",
        "frechet": "Poincaré, Fréchet BN",
        "euclidean": "Euclidean twin",
        "no norm, identity": "no BN, identity init",
        "no norm, hnn": "no BN, HNN++ init",
    }
    for name, label in names.items():
        curves = report[name, "curve"]
        epochs = np.arange(1, curves.shape[1] + 1)
        (line,) = axes.plot(epochs, curves.mean(0), marker=".", label=label)
        axes.fill_between(epochs, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.15)
    axes.set_ylim(0.0, 1.0)
    axes.legend(loc="lower right")
    return figure


def _plot_cost(report: Report) -> "Figure":
    figure, axes = new_figure("cost", y="relative to the alternative", width=6.5)
    bars = {
        "bytes for backward,\nby hand / autograd": _share(report, "bytes manual", "bytes autograd"),
        "graph nodes,\nby hand / autograd": _share(report, "nodes manual", "nodes autograd"),
        "time of the mean,\nmidpoint / Fréchet": 1.0 / report["midpoint", "speed"],
        "time of an epoch,\nmidpoint / Fréchet BN": report["poincare", "seconds an epoch"]
        / report["frechet", "seconds an epoch"],
    }
    means = [float(values.mean()) for values in bars.values()]
    drawn = axes.bar(list(bars), means, color="tab:blue", width=0.6)
    axes.bar_label(drawn, fmt="%.2f")
    axes.axhline(1.0, color="gray", linewidth=1)
    axes.set_ylim(0.0, 1.15)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", visible=False)
    return figure


def _plot_robustness(report: Report) -> "Figure":
    figure, axes = new_figure("accuracy under attack", x="largest change of a pixel, of 2", y="accuracy")
    for name, color in (("poincare", "tab:blue"), ("euclidean", "tab:orange")):
        for attack, style in (("fgsm", "-"), ("pgd", "--")):
            clean = report[name, "accuracy"].mean()
            axes.plot([0.0, *EPSILONS], [clean, *report[name, attack].mean(0)], style, color=color, marker=".",
                      label=f"{'Poincaré' if name == 'poincare' else 'Euclidean'}, {attack.upper()}")  # fmt: skip
    axes.set_ylim(0.0, 1.0)
    axes.legend()
    return figure


def _plot_unseen(report: Report) -> "Figure":
    figure, axes = new_figure("digits 8 and 9, never seen in training", y="AUROC")
    scores = ("max-softmax", "energy", "distance to the origin")
    for shift, name, label in ((-0.2, "poincare, 8 digits", "Poincaré"), (0.2, "euclidean, 8 digits", "Euclidean")):
        values = [report[name, f"unseen digits {score} auroc"] for score in scores]
        means = np.array([v.mean() for v in values])
        ends = np.array([[v.mean() - v.min(), v.max() - v.mean()] for v in values]).T
        axes.bar(np.arange(len(scores)) + shift, means, 0.38, yerr=ends, capsize=3, label=label)
    axes.axhline(0.5, color="gray", linewidth=1)
    axes.set_xticks(range(len(scores)), scores)
    axes.set_ylim(0.0, 1.15)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right", ncols=2)
    return figure

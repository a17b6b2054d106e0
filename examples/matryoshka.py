"""Matryoshka representation learning (NeurIPS 2022): one embedding whose prefixes are embeddings.

Pairs of scikit-learn's digits side by side, a hundred classes; the digits of the pairs to train, to hold out and to
test are different ones. A perceptron gives 64 coordinates. Trained with the same steps: with a head for each of the
sizes 4, 8, 16, 32 and 64 (MRL), with one shared weight (MRL-E), and for each size by itself (FF); of the embedding of
FF at 64 are taken principal components (SVD), random coordinates, and first coordinates after an uncentred rotation.
Measured: linear, nearest-neighbour and few-shot accuracy at every size, between sizes too; cascades that use as many
coordinates as a sample needs; shortlists by 8 coordinates that are ranked by 64.

Ablations: the largest size alone, whose prefixes are of no use, the smallest size alone, a cascade that stops at once
and one that never does, half as many coordinates as are asked for.

``--full --data FOLDER`` trains ResNet-50 of 2048 coordinates on ImageNet's layout, FOLDER/train and FOLDER/val with a
folder of images for each class; with ``--dataset cifar100`` ResNet-18 on ``cifar-100-binary``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.examples.blocks.resnet import resnet18
from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.folder import ImageFolder
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.architectures.resnet_d import resnet50_d
from holonomy.models.representation.matryoshka import (
    AdaptiveClassifier,
    MatryoshkaContrastive,
    MatryoshkaLinear,
    MatryoshkaLoss,
    default_nesting,
    funnel_retrieval,
    nested_rotation,
    retrieval_flops,
    truncate,
)
from holonomy.models.representation.retrieval import knn_accuracy, map_at_k, nearest_cosine

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "cifar100", "imagenet"] = "digits"
    """What is embedded; the last two are read from --data."""
    dim: int = 64
    """Coordinates of the embedding."""
    smallest: int = 4
    """Smallest nesting size; the others are doubled up to dim."""
    width: int = 256
    """Units of the perceptron's hidden layer, or channels of ResNet-18's first group."""
    pairs: int = 6000
    """Pairs of digits to train."""
    tests: int = 1500
    """Pairs to test, and half as many to hold out."""
    epochs: int = 12
    """Passes over the data."""
    batch_size: int = 64
    """Samples a batch."""
    lr: float = 3e-3
    """Adam's learning rate."""
    anneal: bool = False
    """Let the rate fall along a cosine."""
    shortlist: int = 200
    """Rows that few coordinates choose."""
    shots: int = 5
    """Samples a class of the few-shot accuracy."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        least = {"smallest": 2, "width": 1, "pairs": 200, "tests": 200, "epochs": 1, "batch_size": 2, "shots": 1}
        least |= {"shortlist": 10}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.dim < 4 * self.smallest or not self.lr > 0:
            raise ValueError(
                f"dim must be at least 4 times smallest and lr positive, got {self.dim}, {self.smallest} and {self.lr}"
            )

    @property
    def nesting(self) -> list[int]:
        """Sizes, rising."""
        return default_nesting(self.dim, self.smallest)

    @classmethod
    def full(cls) -> "Config":
        """ResNet-50 on ImageNet, sizes 8 to 2048, as in the paper."""
        return cls(
            dataset="imagenet",
            dim=2048,
            smallest=8,
            width=64,
            epochs=40,
            batch_size=256,
            lr=1e-3,
            anneal=True,
            seeds=(0,),
        )


#: Gives images of numbers of samples; a generator draws augmentations.
Draw = Callable[[Tensor, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Part:
    """Samples of one use: how to draw them, and their classes."""

    draw: Draw
    labels: Tensor


@dataclass(frozen=True)
class Task:
    """Samples to train, to hold out and to test, and the number of classes."""

    train: Part
    held: Part
    test: Part
    classes: int


def load(config: Config, log: Log) -> Task:
    """The configured data."""
    if config.dataset == "imagenet":
        if log.data is None:
            raise DataError("--data must name a folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
        train = ImageFolder(log.data / "train", 224)
        val = ImageFolder(log.data / "val", 224, train.classes)
        half = torch.randperm(len(val.labels), generator=torch.Generator().manual_seed(0)).chunk(2)
        held, test = (Part(partial(_chosen, val.load, index), val.labels[index]) for index in half)
        return Task(Part(train.load, train.labels), held, test, len(train.classes))
    if config.dataset == "cifar100":
        data = load_cifar(log.data, "cifar100")
        order = torch.randperm(len(data.train[1]), generator=torch.Generator().manual_seed(0))
        cut = len(order) // 10
        first, rest = (Part(partial(_rows, data.train[0][i]), data.train[1][i]) for i in (order[cut:], order[:cut]))
        return Task(first, rest, Part(partial(_rows, data.test[0]), data.test[1]), data.classes)
    data = load_digits(log.data, test=597)
    x, y = data.train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = max(len(x) // 6, 20)
    rng = torch.Generator().manual_seed(1)
    sets = [(x[order[cut:]], y[order[cut:]], config.pairs), (x[order[:cut]], y[order[:cut]], config.tests // 2)]
    first, rest = (side_by_side(*part, rng) for part in sets)
    return Task(first, rest, side_by_side(*data.test, config.tests, rng), 100)


def _rows(x: Tensor, index: Tensor, generator: torch.Generator | None) -> Tensor:
    return x[index]


def _chosen(draw: Draw, chosen: Tensor, index: Tensor, generator: torch.Generator | None) -> Tensor:
    return draw(chosen[index], generator)


def side_by_side(x: Tensor, y: Tensor, count: int, rng: torch.Generator) -> Part:
    """Random pairs of digits as rows of 128 pixels, and 10 a + b of their classes a and b."""
    first, second = torch.randint(len(x), (2, count), generator=rng)
    pixels = torch.cat([x[first], x[second]], -1).flatten(1)
    return Part(partial(_rows, pixels), 10 * y[first] + y[second])


# -- networks and training -----------------------------------------------------------------------------------------


def backbone(config: Config, dim: int) -> nn.Module:
    """The network, with as many outputs as coordinates."""
    if config.dataset == "digits":
        return nn.Sequential(nn.Linear(128, config.width), nn.ReLU(), nn.Linear(config.width, dim))
    if config.dataset == "cifar100":
        return nn.Sequential(resnet18(config.width), nn.Linear(8 * config.width, dim))
    body = resnet50_d()
    return body if dim == body.out_features else nn.Sequential(body, nn.Linear(body.out_features, dim))


def learn(
    trial: Trial,
    config: Config,
    task: Task,
    nesting: Sequence[int],
    efficient: bool = False,
    importance: Sequence[float] | None = None,
) -> tuple[nn.Module, MatryoshkaLinear]:
    """Train a network and its heads; the last size is the number of coordinates."""
    net = backbone(config, nesting[-1]).to(trial.device)
    head = MatryoshkaLinear(nesting[-1], task.classes, nesting, efficient).to(trial.device)
    loss = MatryoshkaLoss(relative_importance=importance).to(trial.device)
    step(trial, config, task, [net, head], lambda x, y: loss(head(net(x)), y))
    return net.eval(), head.eval()


def step(
    trial: Trial, config: Config, task: Task, parts: list[nn.Module], loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Train by Adam."""
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=config.lr)
    count = len(task.train.labels)
    total, done = config.epochs * math.ceil(count / config.batch_size), 0
    for _ in range(config.epochs):
        for index in torch.randperm(count, generator=trial.generator).split(config.batch_size):
            if config.anneal:
                optimizer.param_groups[0]["lr"] = 0.5 * config.lr * (1.0 + math.cos(math.pi * done / total))
            x = task.train.draw(index, trial.generator if config.dataset == "imagenet" else None)
            value = loss(x.to(trial.device), task.train.labels[index].to(trial.device))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            done += 1


def learn_pairs(trial: Trial, config: Config, task: Task, nesting: Sequence[int]) -> nn.Module:
    """Train without labels: two noisy views of every sample are to find each other among the batch's."""
    net = backbone(config, config.dim).to(trial.device)
    loss = MatryoshkaContrastive(nesting, 0.1).to(trial.device)

    def of_views(x: Tensor, y: Tensor) -> Tensor:
        views = [x + 0.2 * torch.randn(x.shape, generator=trial.generator).to(x) for _ in range(2)]
        return loss(net(views[0]), net(views[1]))

    step(trial, config, task, [net], of_views)
    return net.eval()


# -- measuring -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def embed(net: nn.Module, part: Part, device: torch.device) -> Tensor:
    """Embeddings of all samples, on the CPU."""
    numbers = torch.arange(len(part.labels)).split(500)
    return torch.cat([net(part.draw(index, None).to(device)).cpu() for index in numbers])


@torch.no_grad()
def classify(head: MatryoshkaLinear, z: Tensor) -> list[Tensor]:
    """Logits of embeddings, one for each size, on the CPU."""
    place = next(head.parameters())
    return [part.cpu() for part in head(z.to(place))]


def accuracies(logits: list[Tensor], y: Tensor) -> list[float]:
    """Accuracy of each size's logits."""
    return [float((part.argmax(1) == y).double().mean()) for part in logits]


def neighbours(z: Tensor, index: Tensor, task: Task, sizes: Sequence[int]) -> list[float]:
    """Accuracy of the nearest neighbour by prefixes."""
    return [knn_accuracy(z[:, :m], task.test.labels, index[:, :m], task.train.labels) for m in sizes]


def few_shot(config: Config, z: Tensor, index: Tensor, task: Task, sizes: Sequence[int]) -> list[float]:
    """Accuracy by the means of a few samples a class, by prefixes."""
    y, rng = task.train.labels, torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=rng)
    chosen = [order[y[order] == label][: config.shots] for label in range(task.classes)]
    known = [label for label, rows in enumerate(chosen) if len(rows)]
    found = []
    for m in sizes:
        means = torch.stack([truncate(index[chosen[label]], m).mean(0) for label in known])
        found.append(knn_accuracy(z[:, :m], task.test.labels, means, torch.tensor(known)))
    return found


def measure_cascade(config: Config, task: Task, held: list[Tensor], test: list[Tensor]) -> dict[str, Any]:
    """Accuracy and share of coordinates of a cascade fitted on what is held out, and of two without thought."""
    full, y = accuracies(test[-1:], task.test.labels)[0], task.test.labels
    stages = len(config.nesting) - 1
    models = {
        "": AdaptiveClassifier(config.nesting).fit(held, task.held.labels),
        ", at once": AdaptiveClassifier(config.nesting, [0.0] * stages),
        ", never": AdaptiveClassifier(config.nesting, [1.1] * stages),
    }
    result: dict[str, Any] = {}
    for name, model in models.items():
        labels, used = model.predict(test)
        result[f"cascade, less full{name}"] = float((labels == y).double().mean()) - full
        result[f"cascade, share of coordinates{name}"] = float(used.double().mean()) / config.dim
    curve = []
    for threshold in np.linspace(0.0, 1.0, 21):
        labels, used = AdaptiveClassifier(config.nesting, [float(threshold)] * stages).predict(test)
        curve.append([float(used.double().mean()), float((labels == y).double().mean())])
    return {**result, "cascade curve": curve}


def measure_retrieval(config: Config, task: Task, z: Tensor, index: Tensor) -> dict[str, Any]:
    """Mean average precision of shortlists and funnels less that of exact search, and their share of its work."""
    y, labels, k = task.test.labels, task.train.labels, 10
    shortlist = min(config.shortlist, len(index))
    dims = [2 * config.smallest, config.dim]
    middle = [m for m in config.nesting if m >= dims[0]]
    funnel = [max(shortlist // 2**i, k) for i in range(len(middle) - 1)] + [k]
    exact = map_at_k(nearest_cosine(z, index, k), y, labels, k)
    work = retrieval_flops(len(index), [config.dim], [k])
    stages = {
        "shortlist": (dims, [shortlist, k]),
        "funnel": (middle, funnel),
        "shortest": (dims, [k, k]),
    }
    result: dict[str, Any] = {"map": exact, "work, longest": retrieval_flops(len(index), dims, [len(index), k]) / work}
    for name, (sizes, keep) in stages.items():
        rows = funnel_retrieval(z, index, sizes, keep)
        result[f"map, {name}, less exact"] = map_at_k(rows, y, labels, k) - exact
        result[f"work, {name}"] = retrieval_flops(len(index), sizes, keep) / work
    curve = []
    for m in config.nesting:
        rows = nearest_cosine(z[:, :m], index[:, :m], k)
        curve.append([retrieval_flops(len(index), [m], [k]), map_at_k(rows, y, labels, k)])
    return {**result, "map curve": curve}


def measure_between(config: Config, task: Task, z: Tensor, index: Tensor, nearest: list[float]) -> dict[str, Any]:
    """Nearest-neighbour accuracy half way between sizes, less that half way between their accuracies."""
    gaps, others = [], []
    for i, (low, high) in enumerate(pairwise(config.nesting[1:4]), start=1):
        m, line = (low + high) // 2, 0.5 * (nearest[i] + nearest[i + 1])
        gaps.append(neighbours(z, index, task, [m])[0] - line)
        others.append(neighbours(z, index, task, [m // 2])[0] - line)
    return {"between": gaps, "between, half": others}


def nested(
    trial: Trial, config: Config, task: Task, efficient: bool = False, importance: Sequence[float] | None = None
) -> Measurements:
    """One embedding with heads for all sizes."""
    net, head = learn(trial, config, task, config.nesting, efficient, importance)
    z, index, held = (embed(net, part, trial.device) for part in (task.test, task.train, task.held))
    logits = classify(head, z)
    nearest = neighbours(z, index, task, config.nesting)
    return {
        "sizes": config.nesting,
        "linear": accuracies(logits, task.test.labels),
        "nearest": nearest,
        "few-shot": few_shot(config, z, index, task, config.nesting),
        **measure_cascade(config, task, classify(head, held), logits),
        **measure_retrieval(config, task, z, index),
        **measure_between(config, task, z, index, nearest),
    }


def separate(trial: Trial, config: Config, task: Task) -> Measurements:
    """An embedding for each size by itself, and what is made of the largest: components, coordinates, prefixes."""
    linear, nearest, shots = [], [], []
    z = index = torch.empty(0)
    for m in config.nesting:
        net, head = learn(trial, config, task, [m])
        z, index = (embed(net, part, trial.device) for part in (task.test, task.train))
        linear += accuracies(classify(head, z), task.test.labels)
        nearest += neighbours(z, index, task, [m])
        shots += few_shot(config, z, index, task, [m])
    mean = index.mean(0)
    axes = torch.linalg.svd(index - mean, full_matrices=False)[2].mT
    turn = nested_rotation(index)
    draws = [torch.randperm(config.dim, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    random = np.mean([neighbours(z[:, order], index[:, order], task, config.nesting) for order in draws], axis=0)
    return {
        "linear": linear,
        "nearest": nearest,
        "few-shot": shots,
        "nearest, components": neighbours((z - mean) @ axes, (index - mean) @ axes, task, config.nesting),
        "nearest, rotation": neighbours(z @ turn, index @ turn, task, config.nesting),
        "nearest, random": random,
        "nearest, prefixes": neighbours(z, index, task, config.nesting),
        **{f"{name}, prefixes": value for name, value in measure_retrieval(config, task, z, index).items()},
    }


def without_labels(trial: Trial, config: Config, task: Task) -> Measurements:
    """Nearest-neighbour accuracies of contrastive embeddings, nested and not."""
    found = {}
    for name, nesting in (("nested", config.nesting), ("largest alone", config.nesting[-1:])):
        net = learn_pairs(trial, config, task, nesting)
        z, index = (embed(net, part, trial.device) for part in (task.test, task.train))
        found[name] = neighbours(z, index, task, config.nesting)
    return found


def run(config: Config, log: Log) -> Report:
    """Every arm at every seed; those that are reported alone at the first."""
    task = load(config, log)
    one = partial(nested, config=config, task=task)
    variants: dict[str, Any] = {
        "MRL": one,
        "MRL-E": partial(one, efficient=True),
        "FF": partial(separate, config=config, task=task),
    }
    first = [1.0] + [0.0] * (len(config.nesting) - 1)
    once: dict[str, Any] = {
        "smallest alone": partial(one, importance=first),
        "smallest twice": partial(one, importance=[2.0] + [1.0] * (len(first) - 1)),
        "without labels": partial(without_labels, config=config, task=task),
    }
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _lead(report: Report, arm: str, what: str, other: str, than: str, place: int) -> np.ndarray:
    """What an arm has more than another at a size, by the seeds of the first."""
    own = report[arm, what][:, place]
    return own - report[other, than][: len(own), place]


def _least_lead(report: Report, arm: str) -> np.ndarray:
    """Least lead of linear accuracy over separate embeddings, from the second size on, by seed."""
    return np.stack([_lead(report, arm, "linear", "FF", "linear", i) for i in range(1, _count(report))]).min(0)


def _count(report: Report) -> int:
    return report["MRL", "sizes"].shape[1]


def _cascade(report: Report, what: str, how: str = "") -> np.ndarray:
    return report["MRL", f"cascade, {what}{how}"]


CLAIMS = [
    Claim(
        "1-NN at the smallest size: MRL less SVD",
        lambda r: _lead(r, "MRL", "nearest", "FF", "nearest, components", 0),
        at_least=0.15,
    ),
    Claim(
        "  ablation, the largest size alone",
        lambda r: _lead(r, "FF", "nearest, prefixes", "FF", "nearest, components", 0),
        at_least=0.15,
        fails=True,
    ),
    Claim(
        "1-NN at the smallest size: MRL less random coordinates",
        lambda r: _lead(r, "MRL", "nearest", "FF", "nearest, random", 0),
        at_least=0.2,
    ),
    Claim(
        "  ablation, the largest size alone",
        lambda r: _lead(r, "FF", "nearest, prefixes", "FF", "nearest, random", 0),
        at_least=0.2,
        fails=True,
    ),
    Claim(
        "1-NN at the second size: MRL less SVD",
        lambda r: _lead(r, "MRL", "nearest", "FF", "nearest, components", 1),
        at_least=0.04,
    ),
    Claim(
        "  ablation, the largest size alone",
        lambda r: _lead(r, "FF", "nearest, prefixes", "FF", "nearest, components", 1),
        at_least=0.04,
        fails=True,
    ),
    Claim("linear from the second size on: least of MRL less FF", lambda r: _least_lead(r, "MRL"), at_least=-0.02),
    Claim(
        "  ablation, the smallest size alone", lambda r: _least_lead(r, "smallest alone"), at_least=-0.02, fails=True
    ),
    Claim("linear at full size: MRL less FF", lambda r: _lead(r, "MRL", "linear", "FF", "linear", -1), at_least=-0.01),
    Claim(
        "  ablation, the smallest size alone",
        lambda r: _lead(r, "smallest alone", "linear", "FF", "linear", -1),
        at_least=-0.01,
        fails=True,
    ),
    Claim("cascade: accuracy less that of full size", lambda r: _cascade(r, "less full"), at_least=-0.005),
    Claim(
        "  ablation, stopping at once",
        lambda r: _cascade(r, "less full", ", at once"),
        at_least=-0.005,
        fails=True,
    ),
    Claim("cascade: share of the coordinates", lambda r: _cascade(r, "share of coordinates"), at_most=0.5),
    Claim(
        "  ablation, never stopping",
        lambda r: _cascade(r, "share of coordinates", ", never"),
        at_most=0.5,
        fails=True,
    ),
    Claim("shortlists: mAP@10 less exact", lambda r: r["MRL", "map, shortlist, less exact"], at_least=-0.01),
    Claim(
        "  ablation, shortlists as long as the answer",
        lambda r: r["MRL", "map, shortest, less exact"],
        at_least=-0.01,
        fails=True,
    ),
    Claim("shortlists: multiply-adds over exact", lambda r: r["MRL", "work, shortlist"], at_most=0.4),
    Claim("  ablation, shortlists of all rows", lambda r: r["MRL", "work, longest"], at_most=0.4, fails=True),
    Claim(
        "1-NN between sizes, off the line between them",
        lambda r: np.abs(r["MRL", "between"]).max(1),
        at_most=0.03,
    ),
    Claim(
        "  ablation, half as many coordinates",
        lambda r: np.abs(r["MRL", "between, half"]).max(1),
        at_most=0.03,
        fails=True,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Accuracy by size, of the cascade by coordinates used, average precision by work."""
    return {
        "sizes": _plot_sizes(report),
        "cascade": _plot_cascade(report),
        "retrieval": _plot_retrieval(report),
    }


def _plot_sizes(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure, sizes = Figure(figsize=(10.0, 4.0), layout="constrained"), report["MRL", "sizes"][0]
    rows = {
        "linear": (("MRL", "linear", "MRL"), ("MRL-E", "linear", "MRL-E"), ("FF", "linear", "FF")),
        "nearest neighbour": (
            ("MRL", "nearest", "MRL"),
            ("MRL-E", "nearest", "MRL-E"),
            ("FF", "nearest", "FF"),
            ("FF", "nearest, components", "SVD of FF"),
            ("FF", "nearest, rotation", "rotation of FF"),
            ("FF", "nearest, random", "random coordinates of FF"),
        ),
    }
    for i, (title, lines) in enumerate(rows.items()):
        axes = figure.add_subplot(1, 2, i + 1, title=title, xlabel="coordinates", ylabel="accuracy")
        for arm, what, label in lines:
            axes.plot(sizes, report[arm, what].mean(0), "o-", ms=4, label=label)
        axes.set_xscale("log", base=2)
        axes.set_ylim(0.0, 1.0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _plot_cascade(report: Report) -> "Figure":
    figure, axes = new_figure(x="coordinates used, mean", y="accuracy")
    for i, curve in enumerate(report["MRL", "cascade curve"]):
        axes.plot(*curve.T, ".-", color=f"C{i}", label=f"one threshold, seed {i}")
        axes.plot(report["MRL", "sizes"][i], report["MRL", "linear"][i], "x", color=f"C{i}")
    axes.set_title("crosses: one size for all samples")
    axes.legend(fontsize=8)
    return figure


def _plot_retrieval(report: Report) -> "Figure":
    figure, axes = new_figure(x="multiply-adds of a query", y="mAP@10")
    curve = report["MRL", "map curve"].mean(0)
    axes.plot(*curve.T, "o-", label="exact, by prefixes")
    for name in ("shortlist", "funnel"):
        work = report["MRL", f"work, {name}"].mean() * curve[-1, 0]
        value = (report["MRL", "map"] + report["MRL", f"map, {name}, less exact"]).mean()
        axes.plot([work], [value], "*", ms=12, label=name)
    axes.set_xscale("log")
    axes.legend(fontsize=8)
    return figure

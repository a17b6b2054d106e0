"""Grassmann class representation (ICCV 2023) on scikit-learn's digits.

Networks learn five super-classes, two digits each, under heads of one vector a class (softmax, cosine softmax) and of
one k-dimensional subspace a class. Measured: that accuracy keeps up; that frozen features tell more of what training
did not ask for, the ten digits, as k grows; that features of one class then keep larger angles. Backbone, its
initialisation, schedule and augmentation are the same for all heads of a seed.

Two things that the paper's networks do not show do so here, and are measured apart. A subspace does not tell x from
-x, and these features may have any sign: under k = 1 the two digits of a class often become opposite directions. Angles
are therefore those between lines, which for the paper's features, averages of ReLUs, are the same. And gamma = 25 makes
the first steps at a rate of 0.1 so large that features die and angles scatter: they are claimed of runs whose rate
rises over the first epochs, and transfer of runs without this, whose cosine softmax suffers the most.

``--full --data FOLDER`` trains ResNet50-D as in the paper: 100 epochs of SGD at 0.1, crops and flips, k = 1 to 32.
FOLDER has ``train/CLASS/*.jpg``, ``val/CLASS/*.jpg`` (ImageNet's layout), and, for linear transfer,
``transfer/NAME/train/CLASS/*.jpg`` and ``transfer/NAME/test/CLASS/*.jpg``. With ``--dataset cifar100`` it holds
``cifar-100-binary``: training on the 20 coarse labels, transfer to the 100 fine ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.folder import ImageFolder
from holonomy.examples.errors import DataError, require
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.manifolds.linalg import gram_gap
from holonomy.models.architectures.resnet_d import ResNetD, resnet50_d
from holonomy.models.representation.grassmann_class import (
    CosineClassifier,
    GrassmannClassifier,
    class_separation,
    intra_class_angle,
    param_groups,
)
from holonomy.optim import RiemannianSGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST = 597


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "cifar100", "folder"] = "digits"
    """What to learn; cifar100 and folder are read from --data."""
    dims: tuple[int, ...] = (1, 4, 8, 16)
    """Dimensions k of the class subspaces; 1, 4 and 8 must be among them."""
    gamma: float = 25.0
    """Scale of the logits of cosine and subspace heads."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 64
    """Images in a batch."""
    lr: float = 0.1
    """Learning rate at the start; it falls to 0 by a cosine."""
    warmup: int = 3
    """Epochs over which the rate rises in the runs whose angles are measured; 0: of the runs without this instead."""
    lr_factor: float = 1.0
    """Learning rate of the subspaces over that of everything else."""
    weight_decay: float = 1e-4
    """Of all parameters but the subspaces."""
    image_size: int = 224
    """Pixels on a side of the images of a folder."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Bottlenecks of each group of the residual network, for cifar100 and folder."""
    width: int = 64
    """Its channels."""
    per_class: int = 0
    """Training images of each class whose angles are measured; 0 for all."""
    seeds: tuple[int, ...] = tuple(range(8))
    """Seeds; each head runs once a seed."""

    def __post_init__(self) -> None:
        if not {1, 4, 8} <= set(self.dims):
            raise ValueError(f"dims must have 1, 4 and 8 among them, got {self.dims}")
        if self.epochs < 1 or self.batch_size < 2 or self.per_class < 0 or self.image_size < 1 or self.warmup < 0:
            raise ValueError(
                "epochs must be at least 1, batch_size 2, per_class 0, image_size 1 and warmup 0, got "
                f"{self.epochs}, {self.batch_size}, {self.per_class}, {self.image_size} and {self.warmup}"
            )
        if not (self.gamma > 0 and self.lr > 0 and self.lr_factor > 0 and self.weight_decay >= 0):
            raise ValueError(
                "gamma, lr and lr_factor must be positive and weight_decay not negative, got "
                f"{self.gamma}, {self.lr}, {self.lr_factor} and {self.weight_decay}"
            )

    @classmethod
    def full(cls) -> "Config":
        """ResNet50-D on a folder of images, 100 epochs, k = 1, 4, 8, 16, 32, as in the paper."""
        return cls(
            dataset="folder",
            dims=(1, 4, 8, 16, 32),
            epochs=100,
            batch_size=256,
            warmup=0,
            per_class=100,
            seeds=(0, 1, 2),
        )


# -- data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Labelled images that are loaded by their index; a generator asks for augmented ones."""

    load: Callable[[Tensor, torch.Generator | None], Tensor]
    labels: Tensor


@dataclass(frozen=True)
class Task:
    """What is learned, and the label sets that frozen features are tested on: pairs of sources by name."""

    train: Source
    test: Source
    classes: int
    transfer: dict[str, tuple[Source, Source]] = field(default_factory=dict)


def in_memory(images: Tensor, augment: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[..., Tensor]:
    """`Source.load` of images in memory."""

    def load(index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return images[index] if generator is None else augment(images[index], generator)

    return load


def perturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 5 degrees, scale by up to 5 %, shift by up to a quarter of a pixel, and add noise of 0.05."""

    def uniform(limit: float) -> Tensor:
        return limit * (2.0 * torch.rand(len(x), generator=generator) - 1.0)

    turn, scale, right, down = uniform(np.pi / 36), 1.0 + uniform(0.05), uniform(0.0625), uniform(0.0625)
    cos, sin = scale * turn.cos(), scale * turn.sin()
    maps = torch.stack([torch.stack([cos, -sin, right], -1), torch.stack([sin, cos, down], -1)], 1)
    y = F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)
    return y + 0.05 * torch.randn(y.shape, generator=generator)


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of the images padded by 4 pixels, flipped from left to right half the time."""
    height, width = x.shape[2:]
    padded = F.pad(x, (4,) * 4)
    crops = []
    for image in padded:
        top, left, flip = (int(torch.randint(0, n, (), generator=generator)) for n in (9, 9, 2))
        window = image[:, top : top + height, left : left + width]
        crops.append(window.flip(-1) if flip else window)
    return torch.stack(crops)


def load(config: Config, log: Log) -> Task:
    """The configured data."""
    if config.dataset == "folder":
        return _load_folder(config, log)
    if config.dataset == "cifar100":
        fine = load_cifar(log.data, "cifar100")
        coarse = load_cifar(log.data, "cifar100", coarse=True)
        labels, classes, augment = (coarse.train[1], coarse.test[1]), coarse.classes, crop_and_flip
    else:
        fine = load_digits(log.data, TEST)
        labels, classes, augment = (fine.train[1] // 2, fine.test[1] // 2), (fine.classes + 1) // 2, perturb
    train, test = (in_memory(part[0], augment) for part in (fine.train, fine.test))
    return Task(
        Source(train, labels[0]),
        Source(test, labels[1]),
        classes,
        {"fine": (Source(train, fine.train[1]), Source(test, fine.test[1]))},
    )


def _load_folder(config: Config, log: Log) -> Task:
    if log.data is None:
        raise DataError("--data must name a folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    train = ImageFolder(log.data / "train", config.image_size)
    test = ImageFolder(log.data / "val", config.image_size, train.classes)
    sets = {}
    for folder in sorted((log.data / "transfer").glob("*/")):
        first = ImageFolder(folder / "train", config.image_size)
        second = ImageFolder(folder / "test", config.image_size, first.classes)
        sets[folder.name] = (Source(first.load, first.labels), Source(second.load, second.labels))
    if not sets:
        raise DataError(f"--data: {log.data} has no transfer/NAME/train/CLASS/*.jpg to test frozen features on")
    return Task(Source(train.load, train.labels), Source(test.load, test.labels), len(train.classes), sets)


# -- networks ------------------------------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    """64 - 256 - 256 - 64, with batch norm and ReLU between the layers."""
    hidden = [layer for n in (64, 256) for layer in (nn.Linear(n, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 64))


def backbone(config: Config) -> tuple[nn.Module, int]:
    """The network without its head, and the number of its features."""
    if config.dataset == "digits":
        return mlp(), 64
    small = config.dataset == "cifar100"
    whole = resnet50_d(small) if (config.blocks, config.width) == ((3, 4, 6, 3), 64) else None
    network = whole or ResNetD(config.blocks, config.width, small=small)
    return network, network.out_features


class OneDirection(GrassmannClassifier):
    """The ablation: |cos| of the angle to the sum of the basis, so that one direction of each subspace is used."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C)."""
        direction = self.subspaces.sum(-1) / self.subspace_dim**0.5
        return self.gamma * F.linear(F.normalize(x, dim=-1), direction).abs()


Head = Callable[[Config, int, int], nn.Module]


def softmax_head(config: Config, features: int, classes: int) -> nn.Module:
    """One vector and one bias a class."""
    return nn.Linear(features, classes)


def cosine_head(config: Config, features: int, classes: int) -> nn.Module:
    """One vector a class, cosines."""
    return CosineClassifier(features, classes, config.gamma)


def subspace_head(config: Config, features: int, classes: int, k: int, kind: Any = GrassmannClassifier) -> nn.Module:
    """One subspace of dimension k a class."""
    return kind(features, classes, k, config.gamma)


# -- training and measuring ----------------------------------------------------------------------------------------


def train(
    trial: Trial,
    config: Config,
    task: Task,
    head: Head,
    warmup: int = 0,
    shuffled: bool = False,
    geometric: bool = True,
) -> Measurements:
    """Train a network with a head, and measure its features.

    The rate rises over `warmup` epochs. With `shuffled` training labels are permuted; without `geometric` torch's SGD
    steps the bases as if they were free.
    """
    body, size = backbone(config)  # first: the same numbers of the seed for every head
    model = nn.Sequential(body, head(config, size, task.classes)).to(trial.device)
    labels = task.train.labels
    if shuffled:
        labels = labels[torch.randperm(len(labels), generator=trial.generator)]
    groups = param_groups(model, config.lr, config.weight_decay, config.lr_factor)
    kind: Any = RiemannianSGD
    if not geometric:
        kind, groups = (
            torch.optim.SGD,
            [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups],
        )
    optimizer = kind(groups, lr=config.lr, momentum=0.9)
    # As many as trial.fit takes: a last batch of one joins the one before it.
    batches = max(1, -(-(len(labels) - 1) // config.batch_size))
    steps, rising = config.epochs * batches, max(1, warmup * batches)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / rising) * 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, step / steps))))

    def loss(model: nn.Module, index: Tensor, y: Tensor) -> Tensor:
        images = task.train.load(index, trial.generator).to(trial.device)
        return F.cross_entropy(model(images), y.to(trial.device))

    curves = trial.fit(
        model,
        optimizer,
        (torch.arange(len(labels)), labels),
        loss=loss,
        epochs=config.epochs,
        batch_size=config.batch_size,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
    )
    return {"loss": curves["loss"], **measure(trial, config, task, model.eval())}


def measure(trial: Trial, config: Config, task: Task, model: nn.Sequential) -> dict[str, Any]:
    """Accuracy, geometry of the training features, transfer, and the state of the bases."""
    body, head = model
    values = represent(trial, task.test, body)
    with torch.no_grad():
        logits = torch.cat([head(part.to(trial.device)).cpu() for part in values.split(500)])
    chosen = some_of_each(task.train.labels, config.per_class)
    own = represent(trial, task.train, body, chosen)
    labels = task.train.labels[chosen]
    result: dict[str, Any] = {
        "accuracy": float((logits.argmax(1) == task.test.labels).double().mean()),
        "angle": intra_class_angle(own, labels, signed=False),
        "angle of directions": intra_class_angle(own, labels),
        "separation": class_separation(own, labels),
        "dead features": int((own.amax(0) <= 0).sum()),
    }
    scores = [linear_transfer(trial, pair, body) for pair in task.transfer.values()]
    result |= {name: float(np.mean([score[name] for score in scores])) for name in ("nearest", "logistic")}
    result |= {f"logistic, {name}": score["logistic"] for name, score in zip(task.transfer, scores, strict=True)}
    if isinstance(head, GrassmannClassifier):
        result["gap"] = gram_gap(head.subspaces)
        result["smallest angles"] = head.principal_angles()[..., 0].rad2deg()
    return result


def some_of_each(labels: Tensor, count: int) -> Tensor:
    """Index of the first `count` samples of each class; of all for 0."""
    if count == 0:
        return torch.arange(len(labels))
    return torch.cat([(labels == label).nonzero()[:count, 0] for label in labels.unique()])


@torch.no_grad()
def represent(trial: Trial, source: Source, body: nn.Module, index: Tensor | None = None) -> Tensor:
    """Features of images as they are, by batches, on the CPU."""
    index = torch.arange(len(source.labels)) if index is None else index
    return torch.cat([body(source.load(part, None).to(trial.device)).cpu() for part in index.split(500)])


def linear_transfer(trial: Trial, pair: tuple[Source, Source], body: nn.Module) -> dict[str, float]:
    """Accuracy on other labels from frozen normalised features: by the nearest neighbour, by logistic regression."""
    neighbours = require("sklearn.neighbors", "scikit-learn")
    linear = require("sklearn.linear_model", "scikit-learn")
    (x, y), (x_test, y_test) = (
        (F.normalize(represent(trial, source, body), dim=-1).numpy(), source.labels.numpy()) for source in pair
    )
    # L-BFGS; the penalty is scikit-learn's default.
    fits = {
        "nearest": neighbours.KNeighborsClassifier(1),
        "logistic": linear.LogisticRegression(max_iter=5000),
    }
    return {name: float(fit.fit(x, y).score(x_test, y_test)) for name, fit in fits.items()}


def run(config: Config, log: Log) -> Report:
    """Train every head at every seed; ablations without a part in a comparison at the first seed alone."""
    task = load(config, log)
    learn = partial(train, config=config, task=task)
    heads: dict[str, Head] = {"softmax": softmax_head, "cosine": cosine_head}
    heads |= {f"k = {k}": partial(subspace_head, k=k) for k in config.dims}
    one: Head = partial(subspace_head, k=8, kind=OneDirection)
    variants = {name: partial(learn, head=head) for name, head in heads.items()} | {
        "one direction": partial(learn, head=one)
    }
    if config.warmup:
        rising = partial(learn, warmup=config.warmup)
        again = [name for name in variants if name not in ("k = 16", "k = 32")]
        variants |= {f"{name}, warm-up": partial(rising, head=heads.get(name, one)) for name in again}
    eight = partial(learn, head=heads["k = 8"])
    once = {"shuffled labels": partial(eight, shuffled=True), "free bases": partial(eight, geometric=False)}
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _lead(report: Report, name: str, over: str, what: str) -> np.ndarray:
    """Difference of two heads at the seeds that both have."""
    first, second = report[name, what], report[over, what]
    seeds = min(len(first), len(second))
    return first[:seeds] - second[:seeds]


def _growth(report: Report, name: str) -> np.ndarray:
    """Mean angle over that of k = 1."""
    tail = ", warm-up" if "k = 1, warm-up" in report.trials else ""
    return np.atleast_1d(report[f"{name}{tail}", "angle"].mean() / report[f"k = 1{tail}", "angle"].mean())


def _gap(report: Report) -> np.ndarray:
    """Largest entry of |S^T S - I| of any class, for each seed."""
    names = [name for name in report.trials if name.startswith("k = ")]
    return np.max([report[name, "gap"] for name in names], axis=0)


CLAIMS = [
    Claim("accuracy, k = 8 less softmax", lambda r: _lead(r, "k = 8", "softmax", "accuracy"), at_least=-0.01),
    Claim(
        "ablation, labels shuffled",
        lambda r: _lead(r, "shuffled labels", "softmax", "accuracy"),
        at_least=-0.01,
        fails=True,
    ),
    Claim("angle within classes, k = 4 over k = 1", lambda r: _growth(r, "k = 4"), at_least=1.5),
    Claim("angle within classes, k = 8 over k = 1", lambda r: _growth(r, "k = 8"), at_least=1.5),
    Claim(
        "ablation, one direction of each subspace",
        lambda r: _growth(r, "one direction"),
        at_least=1.5,
        fails=True,
    ),
    Claim("transfer by 1-NN, k = 8 less cosine", lambda r: _lead(r, "k = 8", "cosine", "nearest"), at_least=0.02),
    Claim("transfer by 1-NN, k = 8 less k = 1", lambda r: _lead(r, "k = 8", "k = 1", "nearest"), at_least=0.03),
    Claim("transfer by 1-NN, k = 8 less softmax", lambda r: _lead(r, "k = 8", "softmax", "nearest"), at_least=-0.005),
    Claim(
        "ablation, one direction of each subspace, less cosine",
        lambda r: _lead(r, "one direction", "cosine", "nearest"),
        at_least=0.02,
        fails=True,
    ),
    Claim(
        "ablation, one direction of each subspace, less k = 1",
        lambda r: _lead(r, "one direction", "k = 1", "nearest"),
        at_least=0.03,
        fails=True,
    ),
    Claim(
        "ablation, one direction of each subspace, less softmax",
        lambda r: _lead(r, "one direction", "softmax", "nearest"),
        at_least=-0.005,
        fails=True,
    ),
    Claim("bases orthonormal: |S^T S - I|", _gap, at_most=1e-5, digits=".1e"),
    Claim(
        "ablation, bases stepped as free matrices",
        lambda r: r["free bases", "gap"],
        at_most=1e-5,
        fails=True,
        digits=".1e",
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Accuracy, angle and transfer against k; smallest angles between classes."""
    return {
        "accuracy": _plot_sweep(report, "accuracy", "accuracy on the classes of training"),
        "transfer": _plot_sweep(report, "nearest", "1-NN accuracy on other labels"),
        "angle": _plot_sweep(report, "angle", "mean angle within classes (degrees)"),
        "classes": _plot_classes(report),
    }


def _plot_sweep(report: Report, what: str, label: str) -> "Figure":
    figure, axes = new_figure(x="dimension k of a class", y=label)
    for tail, style in (("", "o-"), (", warm-up", "s--")):
        dims = [
            int(name.removeprefix("k = ").removesuffix(tail))
            for name in report.trials
            if name.startswith("k = ") and name.endswith(tail) and (tail or "," not in name)
        ]
        if dims:
            values = [report[f"k = {k}{tail}", what] for k in dims]
            ends = [value.std(ddof=1) / len(value) ** 0.5 if len(value) > 1 else 0.0 for value in values]
            axes.errorbar(dims, [v.mean() for v in values], ends, fmt=style, capsize=3, label=f"subspaces{tail}")
    for name, color in (("softmax", "tab:red"), ("cosine", "tab:green")):
        axes.axhline(report[name, what].mean(), color=color, ls=":", label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8)
    return figure


def _plot_classes(report: Report) -> "Figure":
    figure, axes = new_figure("smallest angles between classes, k = 8", x="class", y="class")
    angles = report["k = 8", "smallest angles"][0]
    image = axes.imshow(angles, vmin=0.0, vmax=90.0, cmap="viridis")
    if len(angles) <= 10:
        for (i, j), angle in np.ndenumerate(angles):
            axes.text(j, i, f"{angle:.0f}", ha="center", va="center", color="white" if angle < 60 else "black")
        axes.set_xticks(range(len(angles)))
        axes.set_yticks(range(len(angles)))
    axes.grid(visible=False)
    figure.colorbar(image, label="degrees")
    return figure

"""Relative representations (ICLR 2023): encoders and heads that were trained apart, joined without training.

scikit-learn's digits. Of every seed three models are trained from other initialisations, orders and activations, as
classifiers and as autoencoders, once with absolute latents and once with the cosines to 64 anchors before the head.
Every encoder is then joined with every head. Beside it: absolute latents after an orthogonal alignment on the anchors,
which is a step of training, and after an alignment by principal axes; and how alike the latents of autoencoders are
that know nothing of anchors, by neighbours, by retrieval and by cosines, before and after the projection.

Ablations: anchors in another order, two anchors, the same model in both places.

``--full --data FOLDER`` joins two kinds of convolutional networks on CIFAR-100 (FOLDER has ``cifar-100-binary``), and
where FOLDER has two text files ``*.vec`` of word vectors besides, compares those.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from holonomy.examples.blocks.resnet import resnet18
from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.words import load_word_vectors
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.representation.relative import (
    RelativeModel,
    latent_similarity,
    procrustes_align,
    relative_projection,
    select_anchors,
    stitch,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's kind."""

    dataset: Literal["digits", "cifar100"] = "digits"
    """What is encoded; the second is read from --data."""
    anchors: int = 64
    """Number of anchors."""
    latent: int = 32
    """Dimensions of the latent space."""
    width: int = 128
    """Units of hidden layers, or channels of the first group of ResNet-18."""
    models: int = 3
    """Models a seed."""
    epochs: int = 40
    """Passes over the data."""
    batch_size: int = 64
    """Samples a batch."""
    lr: float = 2e-3
    """Adam's learning rate."""
    sweep: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    """Numbers of anchors that classifiers are joined with."""
    words: int = 20_000
    """Common words that are compared."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        least = {"anchors": 2, "latent": 2, "width": 1, "models": 2, "epochs": 1, "batch_size": 2, "words": 20}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not self.sweep or min(self.sweep) < 2:
            raise ValueError(f"sweep must not be empty, nor have a number below 2, got {self.sweep}")

    @classmethod
    def full(cls) -> "Config":
        """Two kinds of networks on CIFAR-100, up to 768 anchors."""
        return cls(
            dataset="cifar100",
            anchors=768,
            latent=512,
            width=64,
            models=2,
            epochs=100,
            batch_size=128,
            lr=1e-3,
            sweep=(16, 64, 256, 512, 768),
            seeds=(0, 1, 2, 3, 4),
        )


@dataclass(frozen=True)
class Task:
    """Samples and classes to train and to test on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train[1].max()) + 1


def load(config: Config, log: Log) -> Task:
    """The configured images; digits as rows of 64 pixels, 1,200 of them to train."""
    if config.dataset == "digits":
        data = load_digits(log.data, test=597)
        return Task((data.train[0].flatten(1), data.train[1]), (data.test[0].flatten(1), data.test[1]))
    found = load_cifar(log.data, "cifar100")
    return Task(found.train, found.test)


# -- networks and training -----------------------------------------------------------------------------------------


class Absolute(nn.Module):
    """The baseline: an encoder and a head that sees its latents."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, d)."""
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the head."""
        return self.head(self.encoder(x))


def make_encoder(config: Config, x: Tensor, number: int) -> nn.Module:
    """Of the kinds of networks and activations in turn."""
    if x.ndim == 2:
        activation: nn.Module = (nn.ReLU(), nn.Tanh())[number % 2]
        return nn.Sequential(nn.Linear(x.shape[1], config.width), activation, nn.Linear(config.width, config.latent))
    if number % 2 == 0:
        return nn.Sequential(resnet18(config.width), nn.Linear(8 * config.width, config.latent))
    parts: list[nn.Module] = []
    for i in range(4):
        outputs = config.width * 2**i
        inputs = x.shape[1] if i == 0 else outputs // 2
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * config.width, config.latent))


def make_model(config: Config, task: Task, number: int, outputs: int, anchors: Tensor | None) -> nn.Module:
    """A model with relative latents, or with absolute ones where there are no anchors."""
    x = task.train[0]
    encoder = make_encoder(config, x, number)
    inputs = config.latent if anchors is None else len(anchors)
    hidden = config.width if x.ndim == 2 else 2 * config.latent
    head = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    return Absolute(encoder, head) if anchors is None else RelativeModel(encoder, head, anchors)


def train_model(
    trial: Trial,
    config: Config,
    task: Task,
    number: int,
    kind: Literal["classifier", "autoencoder"],
    anchors: Tensor | None,
    epochs: int | None = None,
) -> nn.Module:
    """Train one model; its initialisation and order depend on the seed and on its number."""
    x, y = (part.to(trial.device) for part in task.train)
    rng = torch.Generator().manual_seed(1000 * trial.seed + number)
    outputs = task.classes if kind == "classifier" else x[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * trial.seed + number)
        model = make_model(config, task, number, outputs, anchors).to(trial.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    model.train()
    for _ in range(epochs or config.epochs):
        for index in torch.randperm(len(x), generator=rng).to(trial.device).split(config.batch_size):
            found = model(x[index])
            if kind == "classifier":
                loss = F.cross_entropy(found, y[index])
            else:
                loss = F.mse_loss(found, x[index].flatten(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


# -- joining and measuring -----------------------------------------------------------------------------------------


@torch.no_grad()
def score(model: Callable[[Tensor], Tensor], task: Task, kind: str, device: torch.device) -> float:
    """Accuracy, or mean squared error, on the test samples."""
    x, y = (part.to(device) for part in task.test)
    found = torch.cat([model(part) for part in x.split(1000)])
    if kind == "classifier":
        return float((found.argmax(1) == y).double().mean())
    return float(F.mse_loss(found, x.flatten(1)))


def by_axes(src: Tensor, dst: Tensor) -> Callable[[Tensor], Tensor]:
    """A map between spaces that brings mean to mean and principal axis to principal axis, whichever way those point."""
    (a, b), (v, w) = zip(
        *((z.mean(0), torch.linalg.svd(z - z.mean(0), full_matrices=False)[2]) for z in (src, dst)), strict=True
    )
    return lambda e: b + (e - a) @ v.mT @ w


@torch.no_grad()
def join(models: list[nn.Module], task: Task, kind: str, device: torch.device, anchors: Tensor, way: str) -> np.ndarray:
    """Scores (encoder, head) of every pair, with nothing, rotations or principal axes between absolute latents."""
    count = len(models)
    result = np.zeros((count, count))
    known = [model.encode(anchors) for model in models]  # type: ignore[operator]
    for i, j in itertools.product(range(count), repeat=2):
        encoder, head = models[i], models[j]
        if isinstance(encoder, RelativeModel) and isinstance(head, RelativeModel):
            joined: Callable[[Tensor], Tensor] = stitch(encoder, head)
        else:
            between: Callable[[Tensor], Tensor] = nn.Identity()
            if way == "rotation" and i != j:
                q = procrustes_align(known[i], known[j])
                between = partial(torch.matmul, other=q)
            elif way == "axes" and i != j:
                between = by_axes(known[i], known[j])
            joined = partial(_through, encoder, between, head)
        result[i, j] = score(joined, task, kind, device)
    return result


def _through(encoder: Any, between: Callable[[Tensor], Tensor], head: Any, x: Tensor) -> Tensor:
    return head.head(between(encoder.encode(x)))


@torch.no_grad()
def join_out_of_order(models: list[nn.Module], task: Task, kind: str, device: torch.device) -> np.ndarray:
    """The ablation: scores as of `join`, but every encoder has its anchors in an order of its own."""
    result = np.zeros((len(models),) * 2)
    for i, j in itertools.product(range(len(models)), repeat=2):
        encoder, head = models[i], models[j]
        assert isinstance(encoder, RelativeModel)
        assert isinstance(head, RelativeModel)
        order = torch.randperm(len(encoder.anchors), generator=torch.Generator().manual_seed(i)).to(device)
        joined = RelativeModel(encoder.encoder, head.head, encoder.anchors[order])  # `stitch` would refuse it
        result[i, j] = score(joined.eval(), task, kind, device)
    return result


def compare(latents: list[Tensor], known: list[Tensor]) -> dict[str, float]:
    """Mean over pairs of spaces of the measures of absolute and of relative latents; and with anchors out of order."""
    found: dict[str, list[float]] = {}
    for i, j in itertools.permutations(range(len(latents)), 2):
        relative = [relative_projection(latents[k], known[k]) for k in (i, j)]
        order = torch.randperm(relative[1].shape[1], generator=torch.Generator().manual_seed(i))
        spaces = {
            "absolute": (latents[i], latents[j]),
            "relative": (relative[0], relative[1]),
            "out of order": (relative[0], relative[1][:, order]),
        }
        for name, (first, second) in spaces.items():
            for measure, value in latent_similarity(first, second).items():
                found.setdefault(f"{measure}, {name}", []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def train_all(trial: Trial, config: Config, task: Task, kind: Any) -> Measurements:
    """Train the models of a seed in both ways, join all pairs, and compare the latents that know nothing of anchors."""
    rng = torch.Generator().manual_seed(trial.seed)
    chosen = select_anchors(task.train[0], config.anchors, "random", rng)
    anchors = task.train[0][chosen].to(trial.device)
    plain = [train_model(trial, config, task, i, kind, None) for i in range(config.models)]
    relative = [train_model(trial, config, task, i, kind, anchors) for i in range(config.models)]
    place = (task, kind, trial.device)
    x = task.test[0].to(trial.device)
    with torch.no_grad():
        latents, known = ([model.encode(part).cpu() for model in plain] for part in (x, anchors))  # type: ignore[operator]
    axes = [torch.linalg.svd(z - z.mean(0), full_matrices=False)[2][:2] for z in latents]
    some = torch.arange(min(len(x), 300))
    return {
        "absolute": join(plain, *place, anchors, "nothing"),
        "rotation": join(plain, *place, anchors, "rotation"),
        "axes": join(plain, *place, anchors, "axes"),
        "relative": join(relative, *place, anchors, "nothing"),
        "out of order": join_out_of_order(relative, *place),
        "variance": float(x.flatten(1).var(0, correction=0).mean()),
        "planes": torch.stack([(z - z.mean(0))[some] @ v.mT for z, v in zip(latents, axes, strict=True)]),
        "planes, relative": torch.stack(_planes(latents, known, some)),
        "labels": task.test[1][some],
        **compare(latents, known),
    }


def _planes(latents: list[Tensor], known: list[Tensor], some: Tensor) -> list[Tensor]:
    """The relative latents in the first two principal axes of the first space's."""
    spaces = [relative_projection(z, a) for z, a in zip(latents, known, strict=True)]
    middle = spaces[0].mean(0)
    axes = torch.linalg.svd(spaces[0] - middle, full_matrices=False)[2][:2]
    return [(r - middle)[some] @ axes.mT for r in spaces]


def count_anchors(trial: Trial, config: Config, task: Task) -> Measurements:
    """Accuracies of relative classifiers, own and joined, over the number of anchors."""
    own, joined = [], []
    for count in config.sweep:
        rng = torch.Generator().manual_seed(trial.seed)
        anchors = task.train[0][select_anchors(task.train[0], count, "random", rng)].to(trial.device)
        models = [train_model(trial, config, task, i, "classifier", anchors) for i in range(2)]
        scores = join(models, task, "classifier", trial.device, anchors, "nothing")
        own.append(float(np.diag(scores).mean()))
        joined.append(float(off_diagonal(scores)))
    return {"counts": list(config.sweep), "own": own, "joined": joined}


def foretell(trial: Trial, config: Config, task: Task) -> Measurements:
    """Similarity of relative latents to those of a good model, beside accuracy, for models of short training."""
    rng = torch.Generator().manual_seed(trial.seed)
    chosen = select_anchors(task.train[0], config.anchors, "random", rng)
    anchors, x = (part.to(trial.device) for part in (task.train[0][chosen], task.test[0]))

    @torch.no_grad()
    def relative(model: Any) -> Tensor:
        return relative_projection(model.encode(x), model.encode(anchors))

    train = partial(train_model, trial, config, task, kind="classifier", anchors=None)
    reference = relative(train(number=100))
    likeness, accuracy = [], []
    for number, epochs in enumerate((1, 1, 2, 2, 3, 5, 8, 12, 20)):
        model = train(number=number, epochs=min(epochs, config.epochs))
        likeness.append(float(F.cosine_similarity(reference, relative(model)).mean()))
        accuracy.append(score(model, task, "classifier", trial.device))
    correlation = float(spearmanr(likeness, accuracy).statistic)
    return {"likeness": likeness, "accuracy": accuracy, "rank correlation": correlation}


def off_diagonal(scores: np.ndarray) -> np.ndarray:
    """Mean over pairs of different models of matrices (..., n, n)."""
    n = scores.shape[-1]
    return (scores.sum((-2, -1)) - np.trace(scores, axis1=-2, axis2=-1)) / (n * (n - 1))


def compare_words(trial: Trial, config: Config, files: list[Path]) -> Measurements:
    """Two sets of word vectors, by the words that both have, in the order of the first."""
    tables = [load_word_vectors(path) for path in files]
    shared = [word for word in tables[0] if word in tables[1]][: config.words]
    spaces = [torch.from_numpy(np.stack([table[word] for word in shared])) for table in tables]
    chosen = select_anchors(
        spaces[0], min(config.anchors, len(shared)), "random", torch.Generator().manual_seed(trial.seed)
    )
    width = min(space.shape[1] for space in spaces)  # cosines of absolute vectors need one
    return {"words": len(shared), **compare([z[:, :width] for z in spaces], [z[chosen, :width] for z in spaces])}


def run(config: Config, log: Log) -> Report:
    """Every arm at every seed; those that are reported alone at the first."""
    task = load(config, log)
    variants = {kind: partial(train_all, config=config, task=task, kind=kind) for kind in ("classifier", "autoencoder")}
    once: dict[str, Any] = {
        "number of anchors": partial(count_anchors, config=config, task=task),
        "foretold": partial(foretell, config=config, task=task),
    }
    files = sorted(log.data.glob("*.vec")) if config.dataset == "cifar100" and log.data is not None else []
    if len(files) == 2:
        once["words"] = partial(compare_words, config=config, files=files)
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _joined(report: Report, arm: str, what: str) -> np.ndarray:
    """Mean score of pairs of different models, by seed."""
    return off_diagonal(report[arm, what])


def _own(report: Report, arm: str, what: str) -> np.ndarray:
    """Mean score of models with their own heads, by seed."""
    return np.trace(report[arm, what], axis1=1, axis2=2) / report[arm, what].shape[-1]


def _gain(report: Report, what: str) -> np.ndarray:
    """Mean reciprocal rank between autoencoders, less that of absolute latents, by seed."""
    return report["autoencoder", f"mrr, {what}"] - report["autoencoder", "mrr, absolute"]


CLAIMS = [
    Claim("classifiers, relative, joined: accuracy", lambda r: _joined(r, "classifier", "relative"), at_least=0.8),
    Claim(
        "  ablation, anchors in another order",
        lambda r: _joined(r, "classifier", "out of order"),
        at_least=0.8,
        fails=True,
    ),
    Claim("classifiers, absolute, joined: accuracy", lambda r: _joined(r, "classifier", "absolute"), at_most=0.35),
    Claim(
        "  ablation, the same model in both places",
        lambda r: _own(r, "classifier", "absolute"),
        at_most=0.35,
        fails=True,
    ),
    Claim(
        "classifiers, own heads: relative less absolute",
        lambda r: _own(r, "classifier", "relative") - _own(r, "classifier", "absolute"),
        at_least=-0.03,
    ),
    Claim(
        "  ablation, fewest anchors",
        lambda r: r["number of anchors", "own"][:, 0] - _own(r, "classifier", "absolute")[:1],
        at_least=-0.03,
        fails=True,
    ),
    Claim(
        "autoencoders, joined: relative error over absolute",
        lambda r: _joined(r, "autoencoder", "relative") / _joined(r, "autoencoder", "absolute"),
        at_most=0.3,
    ),
    Claim(
        "  ablation, anchors in another order",
        lambda r: _joined(r, "autoencoder", "out of order") / _joined(r, "autoencoder", "absolute"),
        at_most=0.3,
        fails=True,
    ),
    Claim(
        "autoencoders, relative, joined: error over the mean image's",
        lambda r: _joined(r, "autoencoder", "relative") / r["autoencoder", "variance"],
        at_most=1.0,
    ),
    Claim(
        "  ablation, absolute",
        lambda r: _joined(r, "autoencoder", "absolute") / r["autoencoder", "variance"],
        at_most=1.0,
        fails=True,
    ),
    Claim("reciprocal rank of latents: relative less absolute", lambda r: _gain(r, "relative"), at_least=0.3),
    Claim("  ablation, anchors in another order", lambda r: _gain(r, "out of order"), at_least=0.3, fails=True),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Scores of all pairs, latents in the plane before and after, accuracy over anchors, likeness and accuracy."""
    return {
        "pairs": _plot_pairs(report),
        "planes": _plot_planes(report),
        "anchors": _plot_anchors(report),
        "likeness": _plot_likeness(report),
    }


def _panels(rows: int, columns: int, width: float, height: float) -> "tuple[Figure, list[Any]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]


def _plot_pairs(report: Report) -> "Figure":
    ways = ("absolute", "axes", "rotation", "relative")
    figure, panels = _panels(2, len(ways), 11.0, 5.4)
    for place, (arm, way) in enumerate(itertools.product(("classifier", "autoencoder"), ways)):
        axes, scores = panels[place], report[arm, way][0]
        top = 1.0 if arm == "classifier" else report["autoencoder", "variance"][0]
        axes.imshow(scores, vmin=0.0, vmax=top, cmap="viridis" if arm == "classifier" else "viridis_r")
        for i, j in itertools.product(range(len(scores)), repeat=2):
            axes.text(j, i, f"{scores[i, j]:.2g}", ha="center", va="center", color="w", fontsize=8)
        axes.set_title(f"{arm}, {way}", fontsize=9)
        axes.set_xlabel("head")
        axes.set_ylabel("encoder")
        axes.set_xticks(range(len(scores)))
        axes.set_yticks(range(len(scores)))
        axes.grid(visible=False)
    return figure


def _plot_planes(report: Report) -> "Figure":
    first, second = (report["autoencoder", name][0] for name in ("planes", "planes, relative"))
    figure, panels = _panels(2, len(first), 9.0, 5.6)
    labels = report["autoencoder", "labels"][0]
    for i, (points, title) in enumerate(
        [(z, "absolute") for z in first] + [(z, "relative, axes of the first") for z in second]
    ):
        panels[i].scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=6)
        panels[i].set_title(f"model {i % len(first) + 1}, {title}", fontsize=9)
    return figure


def _plot_anchors(report: Report) -> "Figure":
    figure, axes = new_figure(x="number of anchors", y="accuracy of relative classifiers")
    for name, label in (("own", "own head"), ("joined", "another's head")):
        axes.plot(report["number of anchors", "counts"][0], report["number of anchors", name][0], "o-", label=label)
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=8)
    return figure


def _plot_likeness(report: Report) -> "Figure":
    figure, axes = new_figure(x="cosine to the relative latents of a good model", y="accuracy")
    axes.plot(report["foretold", "likeness"][0], report["foretold", "accuracy"][0], "o")
    return figure

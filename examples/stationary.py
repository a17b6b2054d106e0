"""Stationary representations (CVPR 2024): features that stay comparable when the model is replaced.

scikit-learn's digits. A: four models from scratch, of other starts and shares of the data, with the vertices of one
fixed simplex as last layer or with a learned one; queries by every model in the gallery of every other. B: one model
that learns the classes task by task with a small memory, with a learned classifier (ER), the simplex and cross-entropy,
the simplex and HOC, and the simplex and distilled features; queries by every later model in every earlier gallery, over
all classes. C: the model of the second task is replaced by one that was trained elsewhere on all classes; the gallery
is kept.

Ablations: vertices of its own for every model, vertices that move between tasks, shuffled labels, HOC without its
contrastive part, a learned classifier for the replacement.

``--full --data FOLDER`` trains ResNet-18 on CIFAR-100, 7 tasks, 1,024 vertices; FOLDER has ``cifar-100-binary``.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.blocks.resnet import resnet18
from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.representation.stationary import (
    CompatibleTrainer,
    FixedSimplexClassifier,
    HOCLoss,
    average_accuracy,
    average_compatibility,
    compatibility_matrix,
    compatibility_violations,
    simplex_vertices,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "cifar100"] = "digits"
    """What is learned; the second is read from --data."""
    vertices: int = 32
    """Vertices of the simplex, more than there are classes."""
    width: int = 128
    """Units of the hidden layer, or channels of ResNet-18's first group."""
    first: int = 4
    """Classes of the first task."""
    more: int = 2
    """Classes of every other task."""
    memory: int = 10
    """Samples a class that are kept."""
    epochs: int = 20
    """Passes over a task."""
    steps: int = 500
    """Steps of models from scratch."""
    batch_size: int = 64
    """Samples a batch."""
    lr: float = 0.1
    """SGD's learning rate, from scratch."""
    tune: float = 0.1
    """SGD's learning rate, task by task."""
    mu: float = 10.0
    """Scale of HOC's cosines."""
    lam: float = 0.1
    """HOC's share of cross-entropy."""
    shares: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Shares of the data of models from scratch."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        least = {
            "vertices": 4,
            "width": 1,
            "first": 2,
            "more": 1,
            "memory": 1,
            "epochs": 1,
            "steps": 1,
            "batch_size": 2,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not (min(self.lr, self.tune, self.mu) > 0 and 0 <= self.lam <= 1):
            raise ValueError(
                f"lr, tune and mu must be positive, lam from 0 to 1, got {self.lr}, {self.tune}, {self.mu}, {self.lam}"
            )
        if len(self.shares) < 2 or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be two at least, above 0 and at most 1, got {self.shares}")

    @classmethod
    def full(cls) -> "Config":
        """ResNet-18 on CIFAR-100, a first task of 10 classes and 6 of 15, as in the paper."""
        return cls(
            dataset="cifar100",
            vertices=1024,
            width=64,
            first=10,
            more=15,
            memory=20,
            epochs=70,
            steps=20_000,
            batch_size=128,
            tune=1e-3,
            seeds=(0,),
        )


@dataclass(frozen=True)
class Task:
    """Samples to train and to test."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train[1].max()) + 1


def load(config: Config, log: Log) -> Task:
    """The configured images; digits as rows of 64 pixels."""
    if config.dataset == "digits":
        data = load_digits(log.data, test=597)
        return Task(
            (data.train[0].flatten(1).to(log.device), data.train[1].to(log.device)),
            (data.test[0].flatten(1).to(log.device), data.test[1].to(log.device)),
        )
    data = load_cifar(log.data, "cifar100")
    (x, y), (u, v) = data.train, data.test
    return Task((x.to(log.device), y.to(log.device)), (u.to(log.device), v.to(log.device)))


# -- models and training -------------------------------------------------------------------------------------------


class LearnedClassifier(nn.Module):
    """The baseline: a linear layer that is learned, over the classes that were seen."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.seen = classes

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Logits, minus infinity for classes that were not seen yet, and features."""
        logits = self.linear(z)
        return {"logits": logits[:, : self.seen], "features": z}


def make_model(config: Config, task: Task, simplex: bool, class_map: list[int] | None = None) -> nn.Sequential:
    """A backbone with as many features as the simplex has dimensions, and one of the two last layers."""
    features = config.vertices - 1
    if task.train[0].ndim == 2:
        body: nn.Module = nn.Sequential(
            nn.Linear(task.train[0].shape[1], config.width), nn.ReLU(), nn.Linear(config.width, features)
        )
    else:
        body = nn.Sequential(resnet18(config.width), nn.Linear(8 * config.width, features, bias=False))
    head = (
        FixedSimplexClassifier(config.vertices, class_map=class_map)
        if simplex
        else LearnedClassifier(features, task.classes)
    )
    return nn.Sequential(body, head).to(task.train[0].device)


def from_scratch(
    config: Config,
    task: Task,
    seed: int,
    simplex: bool,
    share: float = 1.0,
    class_map: list[int] | None = None,
    part: slice = slice(None),
    shuffled: bool = False,
) -> nn.Sequential:
    """Train on a share of the data, from a start and with an order of its own."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config, task, simplex, class_map)
    x, y = (t[part] for t in task.train)
    order = torch.randperm(len(x), generator=rng)
    known = [order[y[order].cpu() == c] for c in range(task.classes)]
    chosen = torch.cat([rows[: max(int(len(rows) * share), 1)] for rows in known])
    x, y = x[chosen], y[chosen]
    if shuffled:
        y = y[torch.randperm(len(y), generator=rng)]
    head: Any = model[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    model.train()
    for _ in range(config.steps):
        index = torch.randint(len(x), (config.batch_size,), generator=rng)
        target = head.assign(y[index]) if simplex else y[index]
        loss = F.cross_entropy(model(x[index])["logits"], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def distilled(logits: Tensor, new: Tensor, old: Tensor, y: Tensor) -> Tensor:
    """The baseline: cross-entropy and the mean squared distance to the old features."""
    return F.cross_entropy(logits, y) + F.mse_loss(new, old)


def groups(config: Config, task: Task) -> list[list[int]]:
    """Classes of the tasks."""
    ends = [*range(config.first, task.classes, config.more), task.classes]
    return [list(range(begin, end)) for begin, end in pairwise([0, *ends])]


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def in_sequence(
    config: Config,
    task: Task,
    seed: int,
    simplex: bool,
    loss: Loss | None,
    count: int | None = None,
    part: slice = slice(None),
    moving: bool = False,
) -> list[nn.Module]:
    """Learn task after task, and return a copy of the model after each; `moving`: with other vertices in each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config, task, simplex)
    head: Any = model[1]
    trainer = CompatibleTrainer(
        model, head if simplex else None, loss, config.memory, config.batch_size, config.tune, seed=seed
    )
    x, y = (t[part] for t in task.train)
    copies: list[nn.Module] = []
    for number, classes in enumerate(groups(config, task)[:count]):
        if not simplex:
            head.seen = classes[-1] + 1
        if moving:
            order = torch.randperm(config.vertices, generator=torch.Generator().manual_seed(number))
            head.class_map.copy_(order)
        rows = torch.isin(y, torch.tensor(classes, device=y.device))
        trainer.fit_task(x[rows], y[rows], config.epochs)
        copies.append(copy.deepcopy(model).eval())
    return copies


# -- measuring -----------------------------------------------------------------------------------------------------


def independent(trial: Trial, config: Config, task: Task) -> Measurements:
    """Part A: retrieval between models from scratch, by the nearest sample."""
    result: dict[str, Any] = {}
    base = 100 * trial.seed
    ways: dict[str, Callable[[int, float], nn.Module]] = {
        "fixed": lambda i, share: from_scratch(config, task, base + i, True, share),
        "learned": lambda i, share: from_scratch(config, task, base + i, False, share),
        "own vertices": lambda i, share: from_scratch(
            config,
            task,
            base + i,
            True,
            share,
            torch.randperm(config.vertices, generator=torch.Generator().manual_seed(i)).tolist(),
        ),
        "shuffled": lambda i, share: from_scratch(config, task, base + i, True, share, shuffled=True),
    }
    for name, make in ways.items():
        models = [make(i, share) for i, share in enumerate(config.shares)]
        result[name] = compatibility_matrix(models, task.test, task.train, "1nn")
    return result


def sequential(
    trial: Trial, config: Config, task: Task, simplex: bool, loss: Loss | None, moving: bool = False
) -> Measurements:
    """Part B: the matrix over tasks, and what follows from it."""
    models = in_sequence(config, task, trial.seed, simplex, loss, moving=moving)
    matrix = compatibility_matrix(models, task.test, task.train)
    with torch.no_grad():
        first, last = (models[i](task.test[0])["features"] for i in (0, -1))
    broken = compatibility_violations(last, first, task.test[1])
    return {
        "matrix": matrix,
        "compatibility": average_compatibility(matrix),
        "accuracy": average_accuracy(matrix),
        "violations, same class": broken[0],
        "violations, other class": broken[1],
    }


def replaced(trial: Trial, config: Config, task: Task) -> Measurements:
    """Part C: a gallery by the model of the second task, queries by one that was trained on all classes elsewhere."""
    half = len(task.train[0]) // 2
    seen = groups(config, task)[1][-1] + 1
    result: dict[str, Any] = {}
    for name, simplex in (("fixed", True), ("learned", False)):
        loss = HOCLoss(config.mu, config.lam) if simplex else None
        old = in_sequence(config, task, trial.seed, simplex, loss, 2, slice(0, half))[-1]
        new = from_scratch(config, task, 1000 + trial.seed, simplex, part=slice(half, None))
        for what, limit in (("", seen), (", all classes", task.classes)):
            (q, a), (x, y) = ((part[0][part[1] < limit], part[1][part[1] < limit]) for part in (task.test, task.train))
            matrix = compatibility_matrix([old, new], (q, a), (x, y))
            result |= {f"{name}, old{what}": matrix[0, 0], f"{name}, replaced{what}": matrix[1, 0]}
    return result


@torch.no_grad()
def view(trial: Trial, config: Config, task: Task) -> Measurements:
    """Unit features of four classes by two models with a simplex of four vertices, to look at."""
    few = Task(*((x[y < 4], y[y < 4]) for x, y in (task.train, task.test)))
    small = replace(config, vertices=4)
    with torch.enable_grad():
        models = [from_scratch(small, few, trial.seed + i, True) for i in range(2)]
    x, y = (part[:200] for part in few.test)
    unit = [F.normalize(model(x)["features"], dim=1).cpu() for model in models]
    return {"features": torch.stack(unit), "labels": y.cpu(), "vertices": simplex_vertices(4)}


def run(config: Config, log: Log) -> Report:
    """Every arm at every seed; those that are reported alone at the first."""
    task = load(config, log)
    if config.vertices < task.classes:
        raise ValueError(f"vertices must be at least the number of classes, {task.classes}, got {config.vertices}")
    learn = partial(sequential, config=config, task=task)
    hoc = partial(HOCLoss, config.mu)
    variants: dict[str, Any] = {
        "independent": partial(independent, config=config, task=task),
        "ER": partial(learn, simplex=False, loss=None),
        "simplex": partial(learn, simplex=True, loss=None),
        "HOC": partial(learn, simplex=True, loss=hoc(config.lam)),
        "replaced": partial(replaced, config=config, task=task),
        "cross-entropy alone": partial(learn, simplex=True, loss=hoc(1.0)),
        "moving vertices": partial(learn, simplex=True, loss=None, moving=True),
    }
    once: dict[str, Any] = {
        "HOC, exclude": partial(learn, simplex=True, loss=hoc(config.lam, "exclude")),
        "contrast alone": partial(learn, simplex=True, loss=hoc(0.0)),
        "distilled": partial(learn, simplex=True, loss=distilled),
        "view": partial(view, config=config, task=task),
    }
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _across(report: Report, name: str) -> np.ndarray:
    """Mean accuracy between different models of part A, by seed."""
    m = report["independent", name]
    n = m.shape[-1]
    return (m.sum((1, 2)) - np.trace(m, axis1=1, axis2=2)) / (n * (n - 1))


def _own(report: Report, name: str) -> np.ndarray:
    """Mean accuracy of models of part A in their own galleries, by seed."""
    m = report["independent", name]
    return np.trace(m, axis1=1, axis2=2) / m.shape[-1]


def _lead(report: Report, arm: str, other: str, what: str) -> np.ndarray:
    return report[arm, what] - report[other, what]


def _kept(report: Report, name: str) -> np.ndarray:
    """Part C: accuracy of the new model's queries less that of the old model's own."""
    return report["replaced", f"{name}, replaced"] - report["replaced", f"{name}, old"]


CLAIMS = [
    Claim("from scratch, across models, fixed: accuracy", lambda r: _across(r, "fixed"), at_least=0.8),
    Claim("  ablation, vertices of its own for each", lambda r: _across(r, "own vertices"), at_least=0.8, fails=True),
    Claim("from scratch, across models, learned: accuracy", lambda r: _across(r, "learned"), at_most=0.35),
    Claim("  ablation, fixed", lambda r: _across(r, "fixed"), at_most=0.35, fails=True),
    Claim(
        "from scratch, own gallery: fixed less learned",
        lambda r: _own(r, "fixed") - _own(r, "learned"),
        at_least=-0.02,
    ),
    Claim(
        "  ablation, shuffled labels", lambda r: _own(r, "shuffled") - _own(r, "learned"), at_least=-0.02, fails=True
    ),
    Claim("in sequence, compatibility: HOC less ER", lambda r: _lead(r, "HOC", "ER", "compatibility"), at_least=0.2),
    Claim(
        "  ablation, cross-entropy alone",
        lambda r: _lead(r, "cross-entropy alone", "ER", "compatibility"),
        at_least=0.2,
        fails=True,
    ),
    Claim(
        "in sequence, compatibility: HOC less simplex",
        lambda r: _lead(r, "HOC", "simplex", "compatibility"),
        at_least=0.2,
    ),
    Claim(
        "  ablation, cross-entropy alone",
        lambda r: _lead(r, "cross-entropy alone", "simplex", "compatibility"),
        at_least=0.2,
        fails=True,
    ),
    Claim("in sequence, accuracy: HOC less ER", lambda r: _lead(r, "HOC", "ER", "accuracy"), at_least=-0.04),
    Claim(
        "  ablation, simplex whose vertices move between tasks",
        lambda r: _lead(r, "moving vertices", "ER", "accuracy"),
        at_least=-0.04,
        fails=True,
    ),
    Claim("replacement, fixed: accuracy less the old model's", lambda r: _kept(r, "fixed"), at_least=-0.02),
    Claim("  ablation, learned", lambda r: _kept(r, "learned"), at_least=-0.02, fails=True),
    Claim("replacement, learned: accuracy", lambda r: r["replaced", "learned, replaced"], at_most=0.5),
    Claim("  ablation, fixed", lambda r: r["replaced", "fixed, replaced"], at_most=0.5, fails=True),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Matrices of models from scratch, compatibility and accuracy by arm, features on a simplex of four vertices."""
    return {"matrices": _plot_matrices(report), "sequence": _plot_arms(report), "simplex": _plot_view(report)}


def _plot_matrices(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    panels = [("independent", "fixed", "from scratch, fixed"), ("independent", "learned", "from scratch, learned")]
    panels += [(arm, "matrix", f"in sequence, {arm}") for arm in ("ER", "simplex", "HOC")]
    for place, (arm, what, title) in enumerate(panels):
        axes = figure.add_subplot(2, 3, place + 1, title=title, xlabel="gallery by model", ylabel="queries by model")
        matrix = report[arm, what].mean(0)
        axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis")
        axes.set_xticks(range(len(matrix)))
        axes.set_yticks(range(len(matrix)))
        for i, j in np.ndindex(matrix.shape):
            axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color="w", fontsize=8)
        axes.grid(visible=False)
    return figure


def _plot_arms(report: Report) -> "Figure":
    figure, axes = new_figure(y="share", width=7.0)
    arms = [arm for arm, trials in report.trials.items() if "compatibility" in next(iter(trials.values())).measurements]
    for shift, what in ((-0.2, "compatibility"), (0.2, "accuracy")):
        values = [report[arm, what] for arm in arms]
        bars = axes.bar(np.arange(len(arms)) + shift, [v.mean() for v in values], 0.36, label=what, alpha=0.6)
        for bar, points in zip(bars, values, strict=True):
            axes.plot([bar.get_x() + 0.18] * len(points), points, "k.", ms=4)
    axes.set_xticks(range(len(arms)), arms, rotation=25, ha="right", fontsize=8)
    axes.legend(fontsize=8)
    return figure


def _plot_view(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.0), layout="constrained")
    axes: Any = figure.add_subplot(projection="3d", title="two models, one simplex")
    for points, marker in zip(report["view", "features"][0], "ox", strict=True):
        axes.scatter(*points.T, c=report["view", "labels"][0], cmap="tab10", marker=marker, s=10)
    for vertex in report["view", "vertices"][0]:
        axes.plot(*np.stack([np.zeros(3), vertex]).T, color="k")
    return figure

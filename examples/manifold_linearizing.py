"""Manifold linearizing and clustering (ICCV 2023) on scikit-learn's digits, without their labels.

A small convolutional network is trained by the total coding rate, then, with a doubly stochastic membership of points
with points, to spread all features while each group of them spans little. Measured, against the classes that training
never saw: accuracy and normalised mutual information of spectral clustering on the membership before and after the
second stage; ranks of the classes, and cosines between them; that the rate of the whole is kept while that of the
groups falls. Printed beside these, with no bound: k-means on pixels and on features (a strong rival on data this
small), subspace clustering (SSC-OMP, elastic net) on pixels and on both stages' features.

Ablations: a temperature at which the membership is nearly uniform, a cluster head that starts at random, a membership
that takes no gradient, no second stage; and, reported alone, soft assignments to k clusters instead of the membership,
and data of which half of every odd class is left out.

``--full --data FOLDER`` trains ResNet-18 on CIFAR-10 as in the paper; FOLDER has ``cifar-10-batches-bin``. With
``--dataset cifar20`` or ``cifar100`` it has ``cifar-100-binary``.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.blocks.resnet import resnet18
from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.errors import require
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.manifolds.linalg import numerical_rank
from holonomy.models.clustering.coding_rate import MCR2Loss, MLCLoss, TotalCodingRateLoss, coding_rate
from holonomy.models.clustering.doubly_stochastic import membership
from holonomy.models.clustering.manifold_linearizing import MLCNet, embed, initialise, linearize
from holonomy.models.clustering.metrics import class_ranks, cluster_angles, clustering_accuracy, mean_cosines
from holonomy.models.clustering.self_expression import elastic_net_affinity, spectral_clustering, ssc_omp_affinity

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "cifar10", "cifar20", "cifar100"] = "digits"
    """What to group; the last three are read from --data."""
    d: int = 32
    """Dimension of the features."""
    n_hidden: int = 128
    """Width of the heads."""
    width: int = 64
    """Channels of the first group of ResNet-18, for CIFAR."""
    precision: float = 0.5
    """Square of eps."""
    weight: float = 20.0
    """Of the agreement of views in the first stage."""
    eta: float = 0.15
    """Temperature of the membership."""
    init_epochs: int = 25
    """Passes of the first stage."""
    init_batch_size: int = 200
    """Samples a batch of the first stage."""
    init_lr: float = 1e-3
    """Learning rate of the first stage."""
    epochs: int = 20
    """Passes of the second stage."""
    batch_size: int = 600
    """Samples a batch of the second stage."""
    lr: float = 3e-4
    """Learning rate of the second stage."""
    n_augment: int = 2
    """Views of a sample in the second stage."""
    neighbours: int = 0
    """Largest entries of each row of the membership that spectral clustering sees; 0 for all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        least = {"d": 2, "n_hidden": 1, "width": 1, "init_epochs": 1, "epochs": 1, "n_augment": 1, "neighbours": 0}
        least |= {"init_batch_size": 2, "batch_size": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("precision", "weight", "eta", "init_lr", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @classmethod
    def full(cls) -> "Config":
        """ResNet-18 on CIFAR-10 with 128 features, as in the paper; rates and precisions are not in its main text."""
        return cls(
            dataset="cifar10",
            d=128,
            n_hidden=512,
            precision=0.1,
            eta=0.175,
            init_epochs=500,
            init_batch_size=1024,
            epochs=100,
            batch_size=2000,
            neighbours=500,
        )


# -- data and networks ---------------------------------------------------------------------------------------------


def load(config: Config, log: Log) -> tuple[Tensor, Tensor]:
    """All images, training and test, and their classes, which only measurements see."""
    if config.dataset == "digits":
        data = load_digits(log.data)
    else:
        data = load_cifar(
            log.data, "cifar10" if config.dataset == "cifar10" else "cifar100", coarse=config.dataset == "cifar20"
        )
    return torch.cat([data.train[0], data.test[0]]), torch.cat([data.train[1], data.test[1]])


def without_half_of_odd(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out every second sample of the classes 1, 3, 5, ..."""
    keep = torch.ones(len(y), dtype=torch.bool)
    for label in range(1, int(y.max()) + 1, 2):
        keep[(y == label).nonzero()[1::2, 0]] = False
    return x[keep], y[keep]


def _uniform(x: Tensor, limit: float, generator: torch.Generator) -> Tensor:
    return limit * (2.0 * torch.rand(len(x), generator=generator) - 1.0)


def distort(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 0.3, scale to 0.85-1.15, shear by up to 0.1, shift by a pixel; intensity 0.8-1.2, noise 0.03."""
    draw = partial(_uniform, x, generator=generator)
    turn, scale, shear = draw(0.3), 1.0 + draw(0.15), draw(0.1)
    right, down = draw(2.0 / x.shape[3]), draw(2.0 / x.shape[2])
    cos, sin = scale * turn.cos(), scale * turn.sin()
    maps = torch.stack(
        [torch.stack([cos, shear * cos - sin, right], -1), torch.stack([sin, shear * sin + cos, down], -1)], 1
    ).to(x.device)
    y = F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)
    y = y * (1.0 + draw(0.2)).view(-1, 1, 1, 1).to(x.device)
    return y + 0.03 * torch.randn(y.shape, generator=generator).to(x.device)


def crop_and_colour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of 0.3 to 1 of the side, flips, brightness, contrast and saturation by up to 0.4, grey a fifth of times."""
    draw = partial(_uniform, x, generator=generator)
    side = 0.65 + draw(0.35)
    right, down = (1.0 - side) * draw(1.0), (1.0 - side) * draw(1.0)
    flip, zero = side * draw(1.0).sign(), torch.zeros_like(side)
    maps = torch.stack([torch.stack([flip, zero, right], -1), torch.stack([zero, side, down], -1)], 1).to(x.device)
    y = F.grid_sample(
        x, F.affine_grid(maps, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )
    bright, contrast, colour = ((1.0 + draw(0.4)).view(-1, 1, 1, 1).to(x.device) for _ in range(3))
    y = bright * y
    middle = y.mean((1, 2, 3), keepdim=True)
    y = middle + contrast * (y - middle)
    grey = y.mean(1, keepdim=True)
    colour = torch.where((draw(1.0) < -0.6).view(-1, 1, 1, 1).to(x.device), torch.zeros_like(colour), colour)
    return (grey + colour * (y - grey)).clamp(0.0, 1.0)


def backbone(config: Config, x: Tensor) -> tuple[nn.Module, int]:
    """The network beneath the heads, and the number of its features."""
    if config.dataset != "digits":
        return resnet18(config.width), 8 * config.width
    height, width = ((side + 1) // 2 for side in x.shape[2:])
    convolutions = [nn.Conv2d(x.shape[1], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * height * width, 128), nn.ReLU()), 128


class Detached(MLCNet):
    """The ablation: the membership is taken as given, so that nothing trains the cluster head."""

    def project(self, c: Tensor) -> Tensor:
        """Membership (n, n), without gradients."""
        return super().project(c.detach())


class SoftClusters(MLCNet):
    """The variant with k clusters: the cluster head gives a membership (n, k) by a softmax."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, d) and the membership (n, k)."""
        features = self.backbone(x)
        return F.normalize(self.feature_head(features), dim=-1), torch.softmax(self.cluster_head(features), -1)

    def project(self, c: Tensor) -> Tensor:
        """The membership, as it is."""
        return c


class CompressionLoss(MLCLoss):
    """The ablation: R_c alone, so that nothing keeps the features apart."""

    def forward(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """R_c, and the parts as they are."""
        loss, parts = super().forward(z, gamma)
        return loss + coding_rate(z, self.eps), parts


# -- training and measuring ----------------------------------------------------------------------------------------


def train(
    trial: Trial,
    config: Config,
    x: Tensor,
    y: Tensor,
    kind: type[MLCNet] = MLCNet,
    objective: type[MLCLoss] = MLCLoss,
    eta: float | None = None,
    copied: bool = True,
    rivals: bool = False,
) -> Measurements:
    """Both stages on images, with what each came to; `rivals` asks for the arms on pixels and frozen features too."""
    eta = config.eta if eta is None else eta
    eps = config.precision**0.5
    x = x.to(trial.device)
    body, features = backbone(config, x)
    net = kind(body, features, config.d, config.n_hidden, eta)
    classes = len(y.unique())
    loss: Any = objective(eps)
    if kind is SoftClusters:
        net.cluster_head = nn.Sequential(
            nn.Linear(features, config.n_hidden), nn.ReLU(), nn.Linear(config.n_hidden, classes)
        )
        copied, loss = False, MCR2Loss(eps)
    net.to(trial.device)
    common: dict[str, Any] = {
        "augment": distort if config.dataset == "digits" else crop_and_colour,
        "generator": trial.generator,
    }
    first = initialise(
        net,
        x,
        loss=TotalCodingRateLoss(eps, config.weight),
        epochs=config.init_epochs,
        batch_size=config.init_batch_size,
        lr=config.init_lr,
        **common,
    )
    before, z_before = measure(trial, config, net, x, y, eta, tied=True)
    if copied:
        net.copy_feature_head_to_cluster_head()
    history = linearize(
        net,
        x,
        loss=loss,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        n_augment=config.n_augment,
        measure=partial(ranks, x=x, y=y),
        **common,
    )
    after, z_after = measure(trial, config, net, x, y, eta)
    result: dict[str, Any] = {
        "dimension": config.d,
        "initial loss": first["loss"],
        **{f"{name} by epoch": values for name, values in history.items()},
    }
    result |= {f"{name}, before": value for name, value in before.items()} | after
    if rivals:
        for name, points in (("pixels", x.flatten(1).cpu()), ("features, before", z_before), ("features", z_after)):
            # Self-expression has no part in a claim: the first seed is enough.
            found = other_arms(points, y, trial.seed, self_expression=trial.seed == config.seeds[0])
            result |= {f"{arm} of {name}": value for arm, value in found.items()}
    return result


def ranks(net: MLCNet, x: Tensor, y: Tensor) -> dict[str, float]:
    """Numerical rank of all features, and the mean of those of the classes."""
    z = embed(net, x)[0].cpu()
    return {"rank": numerical_rank(z), "class rank": float(np.mean(class_ranks(z, y)))}


def measure(
    trial: Trial, config: Config, net: MLCNet, x: Tensor, y: Tensor, eta: float, tied: bool = False
) -> tuple[dict[str, Any], Tensor]:
    """Clusters against classes, geometry of the features, and the matrices of a few of each class; and the features.

    With `tied` the membership is that of the features, as it is where the cluster head starts as a copy.
    """
    z, c = (part.cpu() for part in embed(net, x))
    if tied:
        c = z
    classes = len(y.unique())
    few = torch.cat([(y == label).nonzero()[:10, 0] for label in y.unique()[:10]])
    if c.shape[1] == classes and isinstance(net, SoftClusters) and not tied:
        labels, gamma = c.argmax(1).numpy(), c[few] @ c[few].mT
    else:
        whole = membership(c, eta, top_k=min(config.neighbours, len(c))) if config.neighbours else membership(c, eta)
        labels = spectral_clustering(whole, classes, trial.seed)
        gamma = membership(c[few], eta)
    within, between = mean_cosines(z, y)
    scores = require("sklearn.metrics", "scikit-learn")
    shortest = min(config.d, int(torch.bincount(y)[y.unique()].min()))
    angles = cluster_angles(z, y, min(5, shortest))
    return {
        "accuracy": clustering_accuracy(y, labels),
        "nmi": float(scores.normalized_mutual_info_score(y.numpy(), labels)),
        "within": within,
        "between": between,
        # The mean over the pairs of classes, and over the angles of a pair.
        "angle between classes": float(angles[~torch.eye(classes, dtype=torch.bool)].mean().rad2deg()),
        **ranks(net, x, y),
        "cosines of some": (z[few] @ z[few].mT).abs(),
        "membership of some": gamma,
    }, z


def other_arms(points: Tensor, y: Tensor, seed: int, self_expression: bool) -> dict[str, float]:
    """Accuracies of k-means on points (n, d), and of two ways of subspace clustering."""
    classes = len(y.unique())
    means = require("sklearn.cluster", "scikit-learn").KMeans(classes, n_init=10, random_state=seed)
    points = points.double()
    found = {"k-means": means.fit_predict(points.numpy())}
    if self_expression:
        found["SSC-OMP"] = spectral_clustering(ssc_omp_affinity(points), classes, seed)
        found["elastic net"] = spectral_clustering(elastic_net_affinity(points), classes, seed)
    return {name: clustering_accuracy(y, labels) for name, labels in found.items()}


def run(config: Config, log: Log) -> Report:
    """Train every arm at every seed; those that are reported alone at the first."""
    x, y = load(config, log)
    learn = partial(train, config=config, x=x, y=y)
    rivals = len(x) <= 20_000  # self-expression of every point with all others
    variants = {
        "MLC": partial(learn, rivals=rivals),
        "large eta": partial(learn, eta=0.4),
        "detached membership": partial(learn, kind=Detached),
    }
    few, labels = without_half_of_odd(x, y)
    once = {
        "random cluster head": partial(learn, copied=False),
        "soft clusters": partial(learn, kind=SoftClusters),
        "compression alone": partial(learn, objective=CompressionLoss),
        "imbalanced": partial(train, config=config, x=few, y=labels),
    }
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _over_pixels(report: Report, arm: str) -> np.ndarray:
    """Accuracy less that of k-means on pixels, at the seeds of the arm."""
    own = report[arm, "accuracy"]
    return own - report["MLC", "k-means of pixels"][: len(own)]


def _gain(report: Report, arm: str, what: str = "accuracy") -> np.ndarray:
    """What the second stage adds, over the first with the membership of the same temperature as the method's."""
    own = report[arm, what]
    return own - report["MLC", f"{what}, before"][: len(own)]


def _ratio(report: Report, arm: str, what: str) -> np.ndarray:
    """After the second stage over before."""
    return report[arm, what] / report[arm, f"{what}, before"]


def _course(report: Report, arm: str, what: str) -> np.ndarray:
    """Mean of the last epoch over that of the first."""
    values = report[arm, f"{what} by epoch"]
    return values[:, -1] / values[:, 0]


def _rank_share(report: Report, arm: str) -> np.ndarray:
    """Rank of all features after the second stage over their dimension d."""
    return report[arm, "rank"] / report[arm, "dimension"]


CLAIMS = [
    Claim("accuracy, MLC less k-means on pixels", lambda r: _over_pixels(r, "MLC"), at_least=0.04),
    Claim("ablation, large eta", lambda r: _over_pixels(r, "large eta"), at_least=0.04, fails=True),
    Claim("ablation, random cluster head", lambda r: _over_pixels(r, "random cluster head"), at_least=0.04, fails=True),
    Claim("accuracy, MLC less first stage", lambda r: _gain(r, "MLC"), at_least=0.02),
    Claim("ablation, large eta, less first stage", lambda r: _gain(r, "large eta"), at_least=0.02, fails=True),
    Claim("mutual information, MLC less first stage, worst seed", lambda r: _gain(r, "MLC", "nmi").min(), at_least=0.0),
    Claim(
        "ablation, large eta, mutual information",
        lambda r: _gain(r, "large eta", "nmi").min(),
        at_least=0.0,
        fails=True,
    ),
    Claim(
        "rank of classes, after over before, worst seed", lambda r: _ratio(r, "MLC", "class rank").max(), at_most=0.96
    ),
    Claim(
        "ablation, detached membership, rank of classes",
        lambda r: _ratio(r, "detached membership", "class rank").max(),
        at_most=0.96,
        fails=True,
    ),
    Claim("rank of all over dimension, worst seed", lambda r: _rank_share(r, "MLC").min(), at_least=0.7),
    Claim(
        "ablation, compression alone, rank of all",
        lambda r: _rank_share(r, "compression alone"),
        at_least=0.7,
        fails=True,
    ),
    Claim(
        "cosines between classes, after over before, worst seed",
        lambda r: _ratio(r, "MLC", "between").max(),
        at_most=0.92,
    ),
    Claim(
        "ablation, large eta, cosines between classes",
        lambda r: _ratio(r, "large eta", "between").max(),
        at_most=0.92,
        fails=True,
    ),
    Claim("R, last epoch over first, worst seed", lambda r: _course(r, "MLC", "R").min(), at_least=0.95),
    Claim("ablation, soft clusters, R", lambda r: _course(r, "soft clusters", "R").min(), at_least=0.95, fails=True),
    Claim("R_c, last epoch over first, worst seed", lambda r: _course(r, "MLC", "R_c").max(), at_most=1.0),
    Claim(
        "ablation, detached membership, R_c",
        lambda r: _course(r, "detached membership", "R_c").max(),
        at_most=1.0,
        fails=True,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Rates and ranks by epoch, cosines and membership by class before and after, accuracy of all arms."""
    return {
        "rates": _plot_courses(report, ("R", "R_c", "objective"), "nats"),
        "ranks": _plot_courses(report, ("rank", "class rank"), "numerical rank"),
        "matrices": _plot_matrices(report),
        "accuracy": _plot_arms(report),
    }


def _plot_courses(report: Report, names: tuple[str, ...], label: str) -> "Figure":
    figure, axes = new_figure(x="epoch of the second stage", y=label)
    for number, name in enumerate(names):
        for i, values in enumerate(report["MLC", f"{name} by epoch"]):
            axes.plot(1 + np.arange(len(values)), values, color=f"C{number}", label=None if i else name)
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize=8)
    return figure


def _plot_matrices(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 7.4), layout="constrained")
    for row, name in enumerate(("cosines of some", "membership of some")):
        for column, tail in enumerate((", before", "")):
            axes = figure.add_subplot(2, 2, 2 * row + column + 1)
            matrix = report["MLC", name + tail][0]
            image = axes.imshow(matrix, vmin=0.0, vmax=1.0 if row == 0 else 0.2, cmap="magma")
            stage = "first stage" if tail else "second stage"
            axes.set_title(f"{'|cosine|' if row == 0 else 'membership'}, after the {stage}")
            axes.set_xlabel("sample, by class")
            axes.grid(False)
            figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def _plot_arms(report: Report) -> "Figure":
    figure, axes = new_figure(x="accuracy", width=7.0)
    bars = {"membership, first stage": report["MLC", "accuracy, before"]}
    bars |= {arm: report[arm, "accuracy"] for arm in report.trials}
    for record in report.trials["MLC"].values():
        for name, value in record.measurements.items():
            if " of " in name and isinstance(value, float):
                bars[name] = np.append(bars.get(name, []), value)
    names = list(bars)[::-1]
    means = [bars[name].mean() for name in names]
    axes.barh(names, means, color=["C1" if name == "MLC" else "C0" for name in names])
    for place, name in enumerate(names):
        axes.plot(bars[name], np.full(len(bars[name]), place), "k.", ms=4)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(0.0, 1.0)
    return figure

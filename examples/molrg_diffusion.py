"""Diffusion as subspace clustering (arXiv 2409.02426): how many points a subspace takes, and what denoisers learn.

Points near one subspace of d dimensions in R^48, N of them: recovered by principal components and by training a
denoiser with bases to learn, from N = d - 3 to d + 5. Points near two subspaces: by K-subspaces, beside k-means and
subspace clustering, and by a soft denoiser with several starts. scikit-learn's digits: a perceptron learns to denoise
them; the rank of its derivative over the noise, edits along its leading directions against random ones, and which of
its samples are copies of the training images, beside a denoiser that memorises and a linear one.

Ablations: five times the noise, one point more, other points in training than those to restore, k-means in place of
K-subspaces, another random direction for the edits, the perceptron before training.

``--full`` trains a U-Net on images of 4 x 4 x 3 that are points near two subspaces, d from 2 to 8, and measures how
many of its samples are copies; with ``--dataset cifar10 --data FOLDER`` on CIFAR-10 (FOLDER has
``cifar-10-batches-bin``).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.examples.blocks.denoisers import EDMDenoiser, Perceptron, UNet
from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.errors import require
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.clustering.metrics import clustering_accuracy
from holonomy.models.clustering.molrg_diffusion import (
    KSubspaces,
    MoLRG,
    MoLRGDenoiser,
    VESchedule,
    VPSchedule,
    ddim,
    denoising_loss,
    edit,
    edit_directions,
    edm_sigmas,
    generalization_score,
    heun,
    jacobian_rank,
    memorising_denoiser,
    nearest_distances,
    principal_subspace,
    random_molrg,
    subspace_recovery_error,
    wiener_denoiser,
)
from holonomy.models.clustering.self_expression import (
    elastic_net_affinity,
    spectral_clustering,
    ssc_omp_affinity,
    tsc_affinity,
)
from holonomy.optim import RiemannianSGD
from holonomy.theory.molrg_sample_complexity import RECOVERED, phase_transition_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "molrg", "cifar10"] = "digits"
    """What networks denoise; cifar10 is read from --data, molrg is generated."""
    ambient: int = 48
    """Dimension of the space of the subspaces."""
    noise: float = 0.01
    """Deviation of the noise around subspaces."""
    dims: tuple[int, ...] = (2, 4, 6, 8)
    """Dimensions of a single subspace."""
    pair_dims: tuple[int, ...] = (3, 5)
    """Dimensions of two subspaces."""
    trials: int = 40
    """Data sets for each dimension and number of points, by principal components."""
    pair_trials: int = 20
    """The same, by K-subspaces."""
    trained: int = 2
    """The same, by training."""
    steps: int = 400
    """Steps of training bases."""
    draws: int = 32
    """Draws of the noise for each point in a step; a quarter of it with two subspaces."""
    early: float = 0.05
    """Latest time of the noise that bases are trained with."""
    restarts: int = 5
    """Starts of the soft denoiser of two subspaces."""
    width: int = 256
    """Units of the perceptron, or channels of the U-Net."""
    epochs: int = 1500
    """Steps of training a network."""
    batch_size: int = 256
    """Images in one of them."""
    lr: float = 3e-3
    """Its learning rate at first; falls along a cosine."""
    decay: float = 1.0
    """Its weight decay; none where copies are looked for, which it would prevent."""
    counts: tuple[int, ...] = (5, 20, 100, 1000)
    """Training images whose copies are looked for; the last is what edits and ranks are measured with."""
    samples: int = 300
    """Images that are sampled."""
    images: int = 10
    """Images whose derivatives are taken."""
    time: float = 0.7
    """Time of edits."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        least = {"trials": 1, "pair_trials": 1, "trained": 1, "steps": 1, "draws": 1, "restarts": 1, "width": 1}
        least |= {"epochs": 1, "batch_size": 1, "samples": 1, "images": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("dims", "pair_dims", "counts"):
            if not getattr(self, name) or min(getattr(self, name)) < 2:
                raise ValueError(f"{name} must not be empty, nor have a number below 2, got {getattr(self, name)}")
        if max(self.dims) > self.ambient or 2 * max(self.pair_dims) > self.ambient:
            raise ValueError(f"ambient must hold a subspace of dims and two of pair_dims, got {self.ambient}")
        if not (self.noise >= 0.0 and self.lr > 0.0 and self.decay >= 0.0 and min(self.time, self.early) > 0.0):
            raise ValueError(
                "noise and decay must be at least 0, lr, time and early positive, got "
                f"{self.noise}, {self.decay}, {self.lr}, {self.time} and {self.early}"
            )
        if max(self.time, self.early) > 1.0:
            raise ValueError(f"time and early must be at most 1, got {self.time} and {self.early}")

    @classmethod
    def full(cls) -> "Config":
        """A U-Net on images near two subspaces, for several dimensions and numbers of images, as in the paper."""
        return cls(
            dataset="molrg",
            trials=200,
            pair_trials=100,
            width=64,
            epochs=20_000,
            batch_size=512,
            lr=1e-3,
            decay=0.0,
            counts=(50, 100, 200, 350, 700),
            samples=2000,
            images=20,
            seeds=(0,),
        )


#: Numbers of points less the dimension: of one subspace, of one under more noise; as multiples of it, of two.
EXTRA, FURTHER, MULTIPLES = tuple(range(-3, 6)), tuple(range(-1, 11)), (1, 2, 3, 4)
SCHEDULE = VESchedule(0.01, 10.0)
TIMES = (0.05, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


# -- subspaces -----------------------------------------------------------------------------------------------------


def by_components(trial: Trial, config: Config, noise: float, extra: tuple[int, ...]) -> Measurements:
    """Success of principal components over dimensions and numbers of points."""
    table = phase_transition_table(config.ambient, config.dims, extra, noise, config.trials, seed=trial.seed)
    return {"dims": list(table.dims), "success": table.success, "error": table.error, "slope": table.slope()}


def early_times(config: Config, count: int, generator: torch.Generator) -> Tensor:
    """Uniform times up to `Config.early`: the minimiser is the same at all, and late noise would only blur it."""
    return (config.early * torch.rand(count, generator=generator)).clamp(min=1e-5)


def learn_bases(
    config: Config, x: Tensor, d: int, k: int, seed: int, draws: int, shuffled: bool = False
) -> tuple[Tensor, float]:
    """Train the denoiser on noisy points, and return its bases (k, D, d) and its loss on fresh noise.

    With `shuffled` every point is to be restored to another one, the ablation.
    """
    generator = torch.Generator().manual_seed(seed)
    net = MoLRGDenoiser(x.shape[1], d, k, generator=generator)
    optimizer = RiemannianSGD(net.parameters(), lr=0.5, momentum=0.9)
    many = x.float().repeat(draws, 1)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = 0.25 * (1.0 + math.cos(math.pi * step / config.steps))
        optimizer.zero_grad()
        t = early_times(config, len(many), generator)
        loss = denoising_loss(Misled(net, generator) if shuffled else net, many, VPSchedule(), t, generator)
        loss.backward()
        optimizer.step()
    fresh = torch.Generator().manual_seed(0)  # the same for all starts
    with torch.no_grad():
        loss = denoising_loss(net, many, VPSchedule(), early_times(config, len(many), fresh), fresh)
    return net.bases.detach().double(), float(loss)


class Misled(nn.Module):
    """A denoiser that sees other points than those which it is to restore."""

    def __init__(self, net: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.net, self.generator = net, generator

    def forward(self, x: Tensor, s: Tensor, g: Tensor) -> Tensor:
        """Estimates from points in a random orientation."""
        return self.net(torch.randn(x.shape, generator=self.generator), s, g)


def by_training(trial: Trial, config: Config, extra: tuple[int, ...], shuffled: bool = False) -> Measurements:
    """Distances of trained bases to principal components and to the truth, by dimension and number of points."""
    gaps, errors = (np.zeros((len(config.dims), len(extra))) for _ in range(2))
    for i, d in enumerate(config.dims):
        for j, more in enumerate(extra):
            for k in range(config.trained):
                rng = torch.Generator().manual_seed(1000 * trial.seed + 100 * d + 10 * j + k)
                model = random_molrg(config.ambient, d, 1, noise=config.noise, generator=rng)
                x = model.sample(d + more, rng)[0]
                bases = learn_bases(config, x, d, 1, 7000 + trial.seed, config.draws, shuffled)[0]
                gaps[i, j] += subspace_recovery_error(bases, principal_subspace(x, d, rng)[None])[0] / config.trained
                errors[i, j] += (subspace_recovery_error(bases, model.bases)[0] < RECOVERED) / config.trained
    return {"gap": gaps, "success": errors}


def draw_pair(config: Config, d: int, points: int, rng: torch.Generator) -> tuple[MoLRG, Tensor, Tensor]:
    """Two orthogonal subspaces, as many points near each, and their labels."""
    model = random_molrg(config.ambient, d, 2, noise=config.noise, generator=rng)
    x = torch.cat([MoLRG(u[None], noise=config.noise).sample(points, rng)[0] for u in model.bases])
    return model, x, torch.arange(2).repeat_interleave(points)


def by_clusters(trial: Trial, config: Config) -> Measurements:
    """Success of K-subspaces on two subspaces, and of components of what k-means takes for clusters."""
    means = require("sklearn.cluster", "scikit-learn").KMeans
    shape = (len(config.pair_dims), 1 + len(MULTIPLES))
    success, rival = np.zeros(shape), np.zeros(len(config.pair_dims))
    for i, d in enumerate(config.pair_dims):
        for j, points in enumerate((d - 1, *(m * d for m in MULTIPLES))):
            for k in range(config.pair_trials):
                rng = torch.Generator().manual_seed(100_000 * trial.seed + 1000 * d + 100 * j + k)
                model, x, _ = draw_pair(config, d, points, rng)
                found = KSubspaces(2, d, random_state=k).fit(x).bases_
                success[i, j] += (subspace_recovery_error(found, model.bases)[0] < RECOVERED) / config.pair_trials
                if points == 3 * d:
                    labels = torch.from_numpy(means(2, n_init=10, random_state=k).fit_predict(x.numpy()))
                    found = torch.stack([principal_subspace(x[labels == label], d, rng) for label in range(2)])
                    rival[i] += (subspace_recovery_error(found, model.bases)[0] < RECOVERED) / config.pair_trials
    return {"dims": list(config.pair_dims), "success": success, "k-means": rival}


def by_others(trial: Trial, config: Config, points: int = 15) -> Measurements:
    """Accuracy of labels of two subspaces, by K-subspaces and other clusterings, mean over data sets."""
    d = config.pair_dims[-1]
    means = require("sklearn.cluster", "scikit-learn").KMeans
    ways: dict[str, Callable[[Tensor, int], Any]] = {
        "K-subspaces": lambda x, k: KSubspaces(2, d, random_state=k).fit_predict(x),
        "k-means": lambda x, k: means(2, n_init=10, random_state=k).fit_predict(x.numpy()),
        "thresholding": lambda x, k: spectral_clustering(tsc_affinity(x, 4), 2, k),
        "SSC-OMP": lambda x, k: spectral_clustering(ssc_omp_affinity(x, d), 2, k),
        "elastic net": lambda x, k: spectral_clustering(elastic_net_affinity(x), 2, k),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(config.pair_trials):
        _, x, y = draw_pair(config, d, points, torch.Generator().manual_seed(k))
        for name, way in ways.items():
            found[name].append(clustering_accuracy(y.numpy(), way(x, k)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def by_soft_denoiser(trial: Trial, config: Config, d: int = 4, counts: tuple[int, ...] = (3, 20)) -> Measurements:
    """Success of the soft denoiser of two subspaces, by the start of least loss, over numbers of points."""
    result, draws = [], max(config.draws // 4, 1)
    for points in counts:
        good = 0.0
        for k in range(config.trained):
            model, x, _ = draw_pair(config, d, points, torch.Generator().manual_seed(100 * points + k))
            starts = [learn_bases(config, x, d, 2, 7000 + 10 * k + i, draws) for i in range(config.restarts)]
            bases = min(starts, key=lambda start: start[1])[0]
            good += (subspace_recovery_error(bases, model.bases)[0] < RECOVERED) / config.trained
        result.append(good)
    return {"success": result}


# -- images --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Training and test images as points (n, D) less the training images' mean, that mean, and their shape."""

    train: Tensor
    test: Tensor
    mean: Tensor
    shape: tuple[int, int, int]


def load(config: Config, log: Log, d: int = 7) -> Images:
    """The configured images; for molrg, points near two subspaces of d dimensions."""
    if config.dataset == "molrg":
        count = 2 * max(config.counts)
        x = random_molrg(48, d, 2, generator=torch.Generator().manual_seed(d)).sample(count, torch.Generator())[0]
        return Images(x[::2].float(), x[1::2].float(), torch.zeros(48), (3, 4, 4))
    data = load_digits(log.data) if config.dataset == "digits" else load_cifar(log.data)
    colours, height, width = data.train[0].shape[1:]
    train, test = (part[0].flatten(1) for part in (data.train, data.test))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return Images(train[order] - train.mean(0), test - train.mean(0), train.mean(0), (colours, height, width))


def network(config: Config, shape: tuple[int, int, int], scale: float) -> EDMDenoiser:
    """A perceptron for digits, a U-Net for what is an image of colours."""
    if config.dataset == "digits":
        return EDMDenoiser(Perceptron(math.prod(shape), config.width), scale)
    return EDMDenoiser(UNet(shape, config.width, 2 if shape[1] < 16 else 3), scale)


def learn_network(trial: Trial, config: Config, x: Tensor, shape: tuple[int, int, int], scale: float) -> EDMDenoiser:
    """Train a network on images (n, D)."""
    net = network(config, shape, scale).to(trial.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.decay)
    x = x.to(trial.device)
    for step in range(config.epochs):
        optimizer.param_groups[0]["lr"] = 0.5 * config.lr * (1.0 + math.cos(math.pi * step / config.epochs))
        index = torch.randint(len(x), (config.batch_size,), generator=trial.generator)
        loss = denoising_loss(net, x[index.to(x.device)], SCHEDULE, generator=trial.generator, weight=net.weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def noisy(x: Tensor, t: float, rng: torch.Generator) -> tuple[Tensor, float]:
    """Points at a time, and the noise's deviation there."""
    sigma = float(SCHEDULE.coefficients(t)[1])
    return x + sigma * torch.randn(x.shape, generator=rng).to(x), sigma


def measure_ranks(config: Config, net: nn.Module, test: Tensor) -> list[float]:
    """Mean rank of the derivative over D, by time."""
    rng, found = torch.Generator().manual_seed(1), []
    for t in TIMES:
        x, sigma = noisy(test[: config.images], t, rng)
        found.append(float(jacobian_rank(net, x, 1.0, sigma).double().mean()) / test.shape[1])
    return found


def measure_edits(config: Config, net: nn.Module, test: Tensor, mean: Tensor, others: int = 4) -> dict[str, Any]:
    """Change of the image by edits of length sigma along the leading direction, over that along random ones."""
    rng = torch.Generator().manual_seed(2)
    ratios: dict[str, list[float]] = {"first": [], "random": []}
    strips: list[list[list[Tensor]]] = []
    for x in test[: config.images]:
        x, sigma = noisy(x, config.time, rng)
        first = edit_directions(net, x, 1.0, sigma, 1)[0][0]
        away = torch.randn(others + 1, len(x), generator=rng).to(x)
        go = partial(edit, net, x, schedule=SCHEDULE, t=config.time)
        plain = ddim(net, x, SCHEDULE, config.time)
        changes = [float((go(direction=v, alpha=sigma) - plain).norm()) for v in (first, *away)]
        usual = float(np.mean(changes[2:]))
        ratios["first"].append(changes[0] / usual)
        ratios["random"].append(changes[1] / usual)
        if len(strips) < 3:
            alphas = [-2.0, -1.0, 0.0, 1.0, 2.0]
            strips.append([[go(direction=v, alpha=a * sigma) for a in alphas] for v in (first, away[0])])
    strip = torch.stack([torch.stack([torch.stack(row) for row in image]) for image in strips])
    return {f"edit, {name}": float(np.mean(values)) for name, values in ratios.items()} | {"strips": strip.cpu() + mean}


def threshold(train: Tensor, test: Tensor) -> float:
    """Half the median distance of a test image to the nearest training image: nearer is a copy."""
    return 0.5 * float(nearest_distances(test[:1000], train).median())


def sample_images(config: Config, denoiser: Any, like: Tensor) -> Tensor:
    """Images by Heun's method."""
    start = SCHEDULE.sigma_max * torch.randn(config.samples, like.shape[1], generator=torch.Generator().manual_seed(3))
    return heun(denoiser, start.to(like), edm_sigmas(18, SCHEDULE.sigma_min, SCHEDULE.sigma_max))


@torch.no_grad()
def held_out_loss(denoiser: Any, test: Tensor, scale: float) -> float:
    """EDM's loss of test images, mean a coordinate."""
    weight = EDMDenoiser(nn.Identity(), scale).weight
    rng = torch.Generator().manual_seed(4)
    return (
        float(denoising_loss(denoiser, test[:500].repeat(4, 1), SCHEDULE, generator=rng, weight=weight)) / test.shape[1]
    )


def by_network(trial: Trial, config: Config, data: Images) -> Measurements:
    """Ranks and edits of a network trained on the largest number of images, and before training."""
    train, shape = data.train[: config.counts[-1]], data.shape
    scale, test = float(train.std()), data.test.to(trial.device)
    start = network(config, shape, scale).to(trial.device)
    net = learn_network(trial, config, train, shape, scale)
    return {
        "rank": measure_ranks(config, net, test),
        "rank before": measure_ranks(config, start, test),
        "loss": held_out_loss(net, test, scale),
        "novelty": generalization_score(
            sample_images(config, net, test), train.to(test), threshold(train.to(test), test)
        ),
        **measure_edits(config, net, test, data.mean),
    }


def by_count(trial: Trial, config: Config, data: Images) -> Measurements:
    """Share of new samples and loss of test images over the number of training images, beside two known denoisers."""
    train, shape = data.train, data.shape
    scale, test = float(train.std()), data.test.to(trial.device)
    limit = threshold(train[: config.counts[-1]].to(test), test)
    result: dict[str, list[float]] = {}
    for count in config.counts:
        own = train[:count].to(test)
        ways = {
            "network": learn_network(trial, replace(config, decay=0.0), own, shape, scale),
            "memoriser": memorising_denoiser(own),
            "linear": wiener_denoiser(own),
        }
        for name, way in ways.items():
            found = generalization_score(sample_images(config, way, test), own, limit)
            result.setdefault(f"novelty, {name}", []).append(found)
            result.setdefault(f"loss, {name}", []).append(held_out_loss(way, test, scale))
    return {"counts": list(config.counts), **result}


def run(config: Config, log: Log) -> Report:
    """Every arm at every seed; those that are reported alone at the first."""
    data = load(config, log)
    learn = partial(by_training, config=config)
    variants: dict[str, Any] = {
        "components": partial(by_components, config=config, noise=config.noise, extra=EXTRA),
        "trained": partial(learn, extra=(-1, 3)),
        "two subspaces": partial(by_clusters, config=config),
        "network": partial(by_network, config=config, data=data),
    }
    once: dict[str, Any] = {
        "more noise": partial(by_components, config=config, noise=5.0 * config.noise, extra=FURTHER),
        "other targets": partial(learn, extra=(3,), shuffled=True),
        "soft denoiser": partial(by_soft_denoiser, config=config),
        "other clusterings": partial(by_others, config=config),
        "images": partial(by_count, config=config, data=data),
    }
    if config.dataset == "molrg":
        for d in range(2, 9):  # 7 is the paper's, and that of all else here
            once[f"images, d = {d}"] = partial(by_count, config=config, data=load(config, log, d))
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _column(report: Report, arm: str, name: str, place: int) -> np.ndarray:
    """One number of points of a table, the mean over the seeds, by dimension."""
    return report[arm, name].mean(0)[:, place]


BEFORE, AT, WELL = EXTRA.index(-1), EXTRA.index(0), EXTRA.index(3)

CLAIMS = [
    Claim("N = d - 1: success, most over d", lambda r: _column(r, "components", "success", BEFORE).max(), at_most=0.0),
    Claim(
        "  ablation, one point more",
        lambda r: _column(r, "components", "success", AT).max(),
        at_most=0.0,
        fails=True,
    ),
    Claim("N = d + 3: success, least over d", lambda r: _column(r, "components", "success", WELL).min(), at_least=0.95),
    Claim(
        "  ablation, five times the noise",
        lambda r: _column(r, "more noise", "success", FURTHER.index(3)).min(),
        at_least=0.95,
        fails=True,
    ),
    Claim("first N with success 0.75: slope in d", lambda r: r["components", "slope"], at_least=0.8, at_most=1.3),
    Claim(
        "  ablation, five times the noise",
        lambda r: r["more noise", "slope"],
        at_least=0.8,
        at_most=1.3,
        fails=True,
    ),
    Claim(
        "N = d + 3: trained from components, most over d", lambda r: _column(r, "trained", "gap", 1).max(), at_most=0.1
    ),
    Claim(
        "  ablation, other points than those to restore",
        lambda r: _column(r, "other targets", "gap", 0).max(),
        at_most=0.1,
        fails=True,
    ),
    Claim("N = d - 1: success of training", lambda r: _column(r, "trained", "success", 0).max(), at_most=0.0),
    Claim(
        "two subspaces, N = d - 1: success, most over d",
        lambda r: _column(r, "two subspaces", "success", 0).max(),
        at_most=0.0,
    ),
    Claim(
        "two subspaces, N = 3 d: success, least over d",
        lambda r: _column(r, "two subspaces", "success", 1 + MULTIPLES.index(3)).min(),
        at_least=0.7,
    ),
    Claim(
        "  ablation, k-means for K-subspaces",
        lambda r: r["two subspaces", "k-means"].mean(0).min(),
        at_least=0.7,
        fails=True,
    ),
    Claim("edit along the first direction over random ones", lambda r: r["network", "edit, first"], at_least=3.0),
    Claim(
        "  ablation, along another random one",
        lambda r: r["network", "edit, random"],
        at_least=3.0,
        fails=True,
    ),
    Claim("rank of the derivative over D, least over time", lambda r: r["network", "rank"].min(1), at_most=0.5),
    Claim(
        "  ablation, before training",
        lambda r: r["network", "rank before"].min(1),
        at_most=0.5,
        fails=True,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Success over dimension and points, ranks over time, edits, copies over the number of images."""
    return {
        "transition": _plot_transition(report),
        "ranks": _plot_ranks(report),
        "edits": _plot_edits(report),
        "copies": _plot_copies(report),
    }


def _plot_transition(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.add_subplot(
        1, 2, 1, title="one subspace", xlabel="points less dimension, N - d", ylabel="dimension d"
    )
    success = report["components", "success"].mean(0)
    image = axes.imshow(success, origin="lower", aspect="auto", vmin=0.0, vmax=1.0, cmap="viridis")
    axes.set_xticks(range(len(EXTRA)), [f"{more:+d}" for more in EXTRA])
    axes.set_yticks(range(len(success)), [f"{d:g}" for d in report["components", "dims"][0]])
    axes.axvline(AT - 0.5, color="w", lw=2, ls="--")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="share recovered")
    axes = figure.add_subplot(1, 2, 2, title="two subspaces", xlabel="points of each", ylabel="share recovered")
    names = ["d - 1", *("d" if m == 1 else f"{m} d" for m in MULTIPLES)]
    for i, values in enumerate(report["two subspaces", "success"].mean(0)):
        axes.plot(range(len(names)), values, "o-", label=f"d = {report['two subspaces', 'dims'][0][i]:g}")
        axes.plot([names.index("3 d")], [report["two subspaces", "k-means"].mean(0)[i]], "x", color=f"C{i}")
    axes.set_xticks(range(len(names)), names)
    axes.set_title("two subspaces (crosses: k-means)")
    axes.legend(fontsize=8)
    return figure


def _plot_ranks(report: Report) -> "Figure":
    figure, axes = new_figure(x="time t", y="rank of the derivative over D")
    for name, label in (("rank", "trained"), ("rank before", "before training")):
        values = report["network", name]
        axes.plot(TIMES, values.mean(0), "o-", label=label)
        axes.fill_between(TIMES, values.min(0), values.max(0), alpha=0.2)
    axes.axhline(0.5, color="k", lw=1, ls=":")
    axes.set_ylim(0.0, 1.05)
    axes.legend(fontsize=8)
    return figure


def _plot_edits(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    strips = report["network", "strips"][0]  # images, directions, alphas, D
    colours = 3 if strips.shape[-1] % 3 == 0 else 1
    side = math.isqrt(strips.shape[-1] // colours)
    figure = Figure(figsize=(8.0, 2.9), layout="constrained")
    for column, title in enumerate(("along the first direction", "along a random one")):
        axes = figure.add_subplot(1, 2, column + 1, title=title, xlabel="step, in deviations of the noise")
        tiles = strips[:, column].reshape(*strips.shape[:1], strips.shape[2], colours, side, side)
        grid = tiles.transpose(0, 3, 1, 4, 2).reshape(len(strips) * side, -1, colours)
        grid = np.clip(grid, 0.0, 1.0) if colours == 1 else (grid - grid.min()) / max(float(np.ptp(grid)), 1e-12)
        axes.imshow(grid if colours == 3 else grid[..., 0], cmap="gray", vmin=0.0, vmax=1.0)
        axes.set_xticks([side * (i + 0.5) for i in range(5)], ["-2", "-1", "0", "+1", "+2"])
        axes.set_yticks([])
        axes.grid(visible=False)
    return figure


def _plot_copies(report: Report) -> "Figure":
    figure, axes = new_figure(x="training images", y="share of samples that are no copies")
    for arm in report.trials:
        if not arm.startswith("images"):
            continue
        for name in ("network", "memoriser", "linear") if arm == "images" else ("network",):
            label = name if arm == "images" else f"network{arm.removeprefix('images')}"
            axes.plot(report[arm, "counts"][0], report[arm, f"novelty, {name}"][0], "o-", label=label)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize=8)
    return figure

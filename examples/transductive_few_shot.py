"""Transductive few-shot learning (2021) on characters that the feature extractor has never seen.

A small convolutional network is trained by cross-entropy on 50 characters of three scripts, rendered from DejaVu fonts;
tasks have 5 of 30 other characters, one or five labelled images of each, and 15 queries a class that are labelled
together. All methods see the same tasks. Measured: what clustering gains over the nearest mean, over LaplacianShot, and
what the Laplacian term adds, with its weight tuned on further images of base classes. Gains are paired over tasks.
Beside these, with no bound: raw and other normalisations, label propagation, logistic regression, rectified prototypes,
an affinity without its shift, unbalanced tasks.

A second table: scikit-learn's digits without labels, where clustering with the Laplacian term is to end at a lower
discrete energy than k-means, which it starts from, in 18 of 20 seeds.

Ablations: prototypes that stay at the support's means, queries one by one, a pull of almost nothing, labels kept out of
the clustering.

``--full --data FILE`` takes features of mini-ImageNet, tiered-ImageNet or CUB that were extracted elsewhere, and draws
600 tasks; the ``.npz`` has ``mean_base``, ``x_validation``, ``y_validation``, ``x_novel`` and ``y_novel``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holonomy.examples.data.features import Features, load_features
from holonomy.examples.data.glyphs import load_glyphs
from holonomy.examples.errors import require
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.clustering.metrics import clustering_accuracy
from holonomy.models.clustering.transductive_few_shot import (
    Accuracy,
    TransductiveFewShot,
    discrete_energy,
    evaluate_episodes,
    knn_affinity,
    laplacian_shot,
    normalize_features,
    sample_episode,
    simpleshot,
)
from holonomy.models.clustering.transductive_few_shot.prototypes import squared_distances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Methods whose weight of the Laplacian term is tuned.
TUNED = ("LaplacianShot", "SLK-means", "SLK-MS")
Classify = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["glyphs", "features"] = "glyphs"
    """What tasks are drawn from; the second is read from --data."""
    epochs: int = 10
    """Passes over the base classes."""
    batch_size: int = 100
    """Images a batch."""
    lr: float = 5e-3
    """Largest learning rate of the cycle."""
    tasks: int = 200
    """Tasks that methods are compared on."""
    validation_tasks: int = 60
    """Tasks that the weight of the Laplacian term is tuned on."""
    n_way: int = 5
    """Classes of a task."""
    n_query: int = 15
    """Queries of each class."""
    lams: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5)
    """Weights of the Laplacian term that are tried."""
    alpha: float = 2.0
    """Of the Dirichlet law of unbalanced tasks."""
    digit_seeds: int = 20
    """Starts of the clustering of digits."""
    digit_lam: float = 1.0
    """Weight of the Laplacian term there."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds: each splits the classes, trains a network and draws tasks anew."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "tasks": 2, "validation_tasks": 1, "n_way": 2, "n_query": 1}
        least |= {"digit_seeds": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("lr", "alpha", "digit_lam"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.lams or min(self.lams) <= 0:
            raise ValueError(f"lams must be positive numbers, got {self.lams}")

    @classmethod
    def full(cls) -> "Config":
        """Features from elsewhere and 600 tasks, as in the paper."""
        return cls(dataset="features", tasks=600, validation_tasks=200, seeds=(0,))


# -- features ------------------------------------------------------------------------------------------------------


def backbone() -> nn.Sequential:
    """Three convolutions with batch norm, 24, 48 and 64 channels, and the mean over the image: 64 features."""
    layers: list[nn.Module] = []
    inputs = 1
    for width in (24, 48, 64):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < 64 else []
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def extract(trial: Trial, config: Config) -> Features:
    """Train on the base classes without episodes, and embed the others."""
    glyphs = load_glyphs(trial.seed)
    body = backbone().to(trial.device)
    images, labels = (part.to(trial.device) for part in glyphs.base)
    model = nn.Sequential(body, nn.Linear(64, int(labels.max()) + 1)).to(trial.device)
    optimizer = torch.optim.Adam(model.parameters())
    batches = -(-len(images) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * batches + 1)
    trial.fit(
        model,
        optimizer,
        (images, labels),
        loss=lambda model, x, y: cross_entropy(model(x), y, label_smoothing=0.1),
        epochs=config.epochs,
        batch_size=config.batch_size,
        scheduler=schedule,
    )
    model.eval()

    @torch.no_grad()
    def embed(x: Tensor) -> np.ndarray:
        return torch.cat([body(part.to(trial.device)) for part in x.split(500)]).cpu().numpy()

    return Features(
        embed(glyphs.base[0]).mean(0),
        (embed(glyphs.validation[0]), glyphs.validation[1].numpy()),
        (embed(glyphs.novel[0]), glyphs.novel[1].numpy()),
    )


# -- methods -------------------------------------------------------------------------------------------------------


def clusters(method: Any, lam: float = 1.0, **settings: Any) -> Classify:
    """One of the four methods, as a function of support, labels and queries."""
    return lambda s, y, q: TransductiveFewShot(method, lam, **settings).fit(s, y).predict(q)


def method(name: str, lam: float, **settings: Any) -> Classify:
    """A method whose weight is tuned, at a weight."""
    if name == "LaplacianShot":
        return lambda s, y, q: laplacian_shot(s, y, q, lam, **settings)
    return clusters({"SLK-means": "slk-means", "SLK-MS": "slk-ms"}[name], lam, **settings)


def one_by_one(s: np.ndarray, y: np.ndarray, q: np.ndarray) -> np.ndarray:
    """K-means with each query in a task of its own."""
    tasks, queries = q.shape[:2]
    apart = clusters("kmeans")(s.repeat(queries, 0), y.repeat(queries, 0), q.reshape(tasks * queries, 1, -1))
    return apart.reshape(tasks, queries)


def without_labels(s: np.ndarray, y: np.ndarray, q: np.ndarray) -> np.ndarray:
    """K-means that sees no labels; clusters are matched with the classes of the support that they hold, at best."""
    found = []
    for support, labels, query in zip(s, y, q, strict=True):
        K = int(labels.max()) + 1
        means = require("sklearn.cluster", "scikit-learn").KMeans(K, n_init=10, random_state=0)
        groups = means.fit_predict(np.concatenate([support, query]))
        counts = np.zeros((K, K), dtype=int)
        np.add.at(counts, (groups[: len(labels)], labels), 1)
        found.append(linear_sum_assignment(counts, maximize=True)[1][groups[len(labels) :]])
    return np.stack(found)


def label_propagation(gamma: float) -> Classify:
    """scikit-learn's, on support and queries of each task."""
    module = require("sklearn.semi_supervised", "scikit-learn")

    def classify(s: np.ndarray, y: np.ndarray, q: np.ndarray) -> np.ndarray:
        found = []
        for support, labels, query in zip(s, y, q, strict=True):
            given = np.concatenate([labels, np.full(len(query), -1)])
            model = module.LabelSpreading(gamma=gamma, alpha=0.5).fit(np.concatenate([support, query]), given)
            found.append(model.transduction_[len(labels) :])
        return np.stack(found)

    return classify


def logistic_regression(C: float) -> Classify:
    """scikit-learn's, on the support of each task."""
    module = require("sklearn.linear_model", "scikit-learn")
    return lambda s, y, q: np.stack(
        [module.LogisticRegression(C=C).fit(a, b).predict(c) for a, b, c in zip(s, y, q, strict=True)]
    )


# -- measuring -----------------------------------------------------------------------------------------------------


def few_shot(trial: Trial, config: Config, log: Log) -> Measurements:
    """Accuracies of all methods on the same tasks, at one shot and at five, and the weights that were tuned."""
    data = load_features(log.data) if config.dataset == "features" else extract(trial, config)
    x = normalize_features(data.novel[0], data.mean)
    held = normalize_features(data.validation[0], data.mean), data.validation[1]
    result: dict[str, Any] = {"weights": config.lams}
    for shot in (1, 5):
        score = partial(evaluate, config, trial.seed, x, data.novel[1], shot)
        accuracies: dict[str, Accuracy] = {}
        for name in TUNED:
            curve = [
                evaluate(config, trial.seed + 1000, *held, shot, method(name, lam), tasks=config.validation_tasks).mean
                for lam in config.lams
            ]
            lam = config.lams[int(np.argmax(curve))]
            result |= {f"{name} by weight, {shot} shot": curve, f"{name} weight, {shot} shot": lam}
            accuracies[name] = score(method(name, lam))
        accuracies["SimpleShot"] = score(simpleshot)
        accuracies["K-means"], accuracies["K-modes"] = score(clusters("kmeans")), score(clusters("kmodes"))
        if shot == 1:
            accuracies["K-means, one by one"] = score(one_by_one)
            accuracies["K-modes, fixed prototypes"] = score(clusters("kmodes", max_iter=1))
            accuracies["SLK-means, no pull"] = score(clusters("slk-means", 1e-3))
            accuracies["SLK-MS, no pull"] = score(clusters("slk-ms", 1e-3))
        else:
            accuracies["K-means, no labels"] = score(without_labels)
        if trial.seed == config.seeds[0]:
            accuracies |= others(config, trial.seed, data, held, shot, result)
        for name, accuracy in accuracies.items():
            result |= {f"{name}, {shot} shot": accuracy.mean, f"{name} of tasks, {shot} shot": accuracy.per_episode}
            result[f"{name} half-width, {shot} shot"] = accuracy.half_width
    if trial.seed == config.seeds[0]:
        result |= pictures(config, trial.seed, x, data.novel[1], result["SLK-means weight, 1 shot"])
    return result


def evaluate(
    config: Config,
    seed: int,
    x: np.ndarray,
    y: np.ndarray,
    shot: int,
    classify: Classify,
    tasks: int | None = None,
    alpha: float | None = None,
) -> Accuracy:
    """Accuracy over tasks that the seed and the shot determine."""
    return evaluate_episodes(
        classify,
        x,
        y,
        tasks or config.tasks,
        config.n_way,
        shot,
        config.n_query,
        generator=np.random.default_rng([seed, shot]),
        alpha=alpha,
    )


def others(
    config: Config,
    seed: int,
    data: Features,
    held: tuple[np.ndarray, np.ndarray],
    shot: int,
    tuned: dict[str, Any],
) -> dict[str, Accuracy]:
    """What is reported alone: further baselines, normalisations, settings of the method, unbalanced tasks."""
    raw, y = data.novel
    x = normalize_features(raw, data.mean)
    lams = {name: tuned[f"{name} weight, {shot} shot"] for name in TUNED}
    found: dict[str, Accuracy] = {}
    # As many values are tried as of the weight, on the same validation tasks.
    for name, kind, grid in (
        ("label propagation", label_propagation, 2.0 ** np.arange(-1, 7)),
        ("logistic regression", logistic_regression, 10.0 ** np.arange(-3, 5)),
    ):
        curve = [
            evaluate(config, seed + 1000, *held, shot, kind(value), tasks=config.validation_tasks).mean
            for value in grid
        ]
        found[name] = evaluate(config, seed, x, y, shot, kind(grid[int(np.argmax(curve))]))
    spaces = {
        "UN": raw,
        "L2N": normalize_features(raw, mode="L2N"),
        "novel mean": normalize_features(raw, raw.mean(0)),
    }
    for space, features in spaces.items():
        found[f"SimpleShot, {space}"] = evaluate(config, seed, features, y, shot, simpleshot)
        found[f"K-means, {space}"] = evaluate(config, seed, features, y, shot, clusters("kmeans"))
    for name in TUNED:
        plain = method(name, lams[name], psd_shift=False)
        found[f"{name}, no shift"] = evaluate(config, seed, x, y, shot, plain)
        found[f"{name}, shift by degrees"] = evaluate(
            config, seed, x, y, shot, method(name, lams[name], psd_shift="degrees")
        )
        found[f"{name}, rectified"] = evaluate(config, seed, x, y, shot, method(name, lams[name], rectify=True))
    balanced: dict[str, Classify] = {"SimpleShot": simpleshot, "K-means": clusters("kmeans")}
    balanced |= {"K-modes": clusters("kmodes")} | {name: method(name, lams[name]) for name in TUNED}
    for name, classify in balanced.items():
        found[f"{name}, unbalanced"] = evaluate(config, seed, x, y, shot, classify, alpha=config.alpha)
    return found


def pictures(config: Config, seed: int, x: np.ndarray, y: np.ndarray, lam: float) -> dict[str, Any]:
    """Energies in the first pass of eight tasks; of that which gains most, its points along principal components."""
    generator = np.random.default_rng([seed, 1])
    episodes = [sample_episode(x, y, config.n_way, 1, config.n_query, generator) for _ in range(8)]
    model = TransductiveFewShot("slk-means", lam)
    courses, gains = [], []
    for one in episodes:
        labels = model.fit(one.support, one.support_labels).predict(one.query)
        course = model.solution_.inner[0]
        courses.append([*course, *[course[-1]] * (60 - len(course))][:60])
        first = simpleshot(one.support, one.support_labels, one.query)
        gains.append(((labels == one.query_labels).mean() - (first == one.query_labels).mean(), first, labels, one))
    _, first, labels, one = max(gains, key=lambda entry: entry[0])
    centred = np.concatenate([one.support, one.query])
    centred = centred - centred.mean(0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return {
        "R by update": courses,
        "plane": plane,
        "classes in plane": np.concatenate([one.support_labels, one.query_labels]),
        "labels before": np.concatenate([one.support_labels, first]),
        "labels after": np.concatenate([one.support_labels, labels]),
    }


def digits(trial: Trial, config: Config) -> Measurements:
    """Cluster the digits without labels: k-means, and from its centres SLK-means and SLK-means without a pull."""
    from holonomy.models.clustering.transductive_few_shot.clusterer import LaplacianKPrototypes

    scores = require("sklearn.metrics", "scikit-learn")
    x, y = require("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    x = x / 16.0
    W, lam = knn_affinity(x, 3, psd_shift=False), config.digit_lam
    result: dict[str, list[float]] = {}
    for seed in range(config.digit_seeds):
        start = LaplacianKPrototypes(10, lam=0.0, random_state=seed).fit(x).cluster_centers_
        # From seeds of k-means++ as they are, each ends in a local minimum of its own, and those differ by more.
        arms: dict[str, dict[str, Any]] = {
            "K-means": {"lam": 0.0, "init": start},
            "K-modes": {"lam": 0.0, "init": start, "prototype": "mode", "sigma": float(x.var(0).sum() ** 0.5) / 2.0},
            "SLK-means": {"lam": lam, "init": start},
            "SLK-means, shift by degrees": {"lam": lam, "init": start, "psd_shift": "degrees"},
            "SLK-means, seeds of k-means++": {"lam": lam, "random_state": seed},
            "SLK-means, no pull": {"lam": 1e-3, "init": start},
        }
        for arm, settings in arms.items():
            model = LaplacianKPrototypes(10, **settings).fit(x)
            costs = squared_distances(x[None], model.cluster_centers_[None])[0]
            for name, value in (
                ("energy", discrete_energy(model.labels_, costs, W, lam)),
                ("nmi", scores.normalized_mutual_info_score(y, model.labels_)),
                ("accuracy", clustering_accuracy(y, model.labels_)),
            ):
                result.setdefault(f"{arm}, {name}", []).append(float(value))
    spectral = require("sklearn.cluster", "scikit-learn").SpectralClustering(
        10, affinity="precomputed", random_state=0, assign_labels="kmeans"
    )
    labels = spectral.fit_predict(knn_affinity(x, 11, psd_shift=False))
    ncut = {
        "Ncut, nmi": scores.normalized_mutual_info_score(y, labels),
        "Ncut, accuracy": clustering_accuracy(y, labels),
    }
    return {"weight": lam, **result, **ncut}


def run(config: Config, log: Log) -> Report:
    """Few-shot tasks at every seed, the digits once."""
    return log.sweep(
        {"tasks": partial(few_shot, config=config, log=log)},
        config.seeds,
        once={"digits": partial(digits, config=config)},
    )


# -- claims and figures --------------------------------------------------------------------------------------------


def _gain(report: Report, arm: str, over: str, shot: int) -> np.ndarray:
    """Mean accuracy of an arm less that of another over the same tasks, for each seed."""
    return report["tasks", f"{arm}, {shot} shot"] - report["tasks", f"{over}, {shot} shot"]


def _least_gain(report: Report, arm: str, over: str, shot: int) -> float:
    """Lower end of the paired 95 % interval of the gain, over the tasks of all seeds."""
    own, other = (report["tasks", f"{name} of tasks, {shot} shot"] for name in (arm, over))
    gain = Accuracy.of((own - other).ravel())
    return gain.mean - gain.half_width


def _best_slk(report: Report, tail: str = "") -> np.ndarray:
    """The better of the two methods with a Laplacian term, less k-means."""
    both = [report["tasks", f"{name}{tail}, 1 shot"] for name in ("SLK-means", "SLK-MS")]
    return np.max(both, axis=0) - report["tasks", "K-means, 1 shot"]


def _lower(report: Report, arm: str) -> float:
    """Share of starts from which an arm's discrete energy ends at most at that of k-means."""
    return float((report["digits", f"{arm}, energy"] <= report["digits", "K-means, energy"]).mean())


CLAIMS = [
    Claim("1 shot, K-means less SimpleShot", lambda r: _gain(r, "K-means", "SimpleShot", 1), at_least=0.05),
    Claim(
        "the same, lower end of the paired 95 % interval",
        lambda r: _least_gain(r, "K-means", "SimpleShot", 1),
        at_least=0.05,
    ),
    Claim(
        "ablation, queries one by one",
        lambda r: _gain(r, "K-means, one by one", "SimpleShot", 1),
        at_least=0.05,
        fails=True,
    ),
    Claim("1 shot, K-modes less LaplacianShot", lambda r: _gain(r, "K-modes", "LaplacianShot", 1), at_least=0.03),
    Claim(
        "the same, lower end of the paired 95 % interval",
        lambda r: _least_gain(r, "K-modes", "LaplacianShot", 1),
        at_least=0.03,
    ),
    Claim(
        "ablation, fixed prototypes",
        lambda r: _gain(r, "K-modes, fixed prototypes", "LaplacianShot", 1),
        at_least=0.03,
        fails=True,
    ),
    Claim("1 shot, best of SLK less K-means", _best_slk, at_least=-0.01),
    Claim("ablation, no pull, best of SLK", lambda r: _best_slk(r, ", no pull"), at_least=-0.01, fails=True),
    Claim("5 shots, K-means less SimpleShot", lambda r: _gain(r, "K-means", "SimpleShot", 5), at_least=-0.005),
    Claim(
        "the same, lower end of the paired 95 % interval",
        lambda r: _least_gain(r, "K-means", "SimpleShot", 5),
        at_least=-0.005,
    ),
    Claim(
        "ablation, no labels in the clustering",
        lambda r: _gain(r, "K-means, no labels", "SimpleShot", 5),
        at_least=-0.005,
        fails=True,
    ),
    Claim("digits, starts with energy of SLK-means at most K-means'", lambda r: _lower(r, "SLK-means"), at_least=0.9),
    Claim("ablation, no pull, digits", lambda r: _lower(r, "SLK-means, no pull"), at_least=0.9, fails=True),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Accuracy by weight, R by update, one task before and after, and all methods' accuracies."""
    return {
        "weights": _plot_weights(report),
        "energy": _plot_energies(report),
        "task": _plot_task(report),
        "accuracy": _plot_accuracies(report),
    }


def _plot_weights(report: Report) -> "Figure":
    figure, axes = new_figure(x="weight of the Laplacian term", y="accuracy on validation tasks")
    lams = next(iter(report.trials["tasks"].values())).measurements["weights"]
    for number, name in enumerate(TUNED):
        for shot, style in ((1, "o-"), (5, "s--")):
            curves = report["tasks", f"{name} by weight, {shot} shot"]
            axes.plot(lams, curves.mean(0), style, color=f"C{number}", ms=4, label=f"{name}, {shot} shot")
    axes.legend(fontsize=7)
    return figure


def _first(report: Report, name: str) -> np.ndarray:
    """A measurement of the first seed alone."""
    return np.asarray(next(iter(report.trials["tasks"].values())).measurements[name])


def _plot_energies(report: Report) -> "Figure":
    figure, axes = new_figure(x="update of the bound optimiser", y="R less its last value")
    for course in _first(report, "R by update"):
        above = course - course[-1]
        axes.semilogy(np.where(above > 0, above, np.nan), ".-", lw=1.0, ms=3)
    return figure


def _plot_task(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    plane, classes = _first(report, "plane"), _first(report, "classes in plane")
    shots = len(np.unique(classes))  # one labelled image a class, before the queries
    for place, (title, name) in enumerate(
        (("classes", "classes in plane"), ("nearest mean", "labels before"), ("SLK-means", "labels after"))
    ):
        axes = figure.add_subplot(1, 3, place + 1, title=title)
        labels = _first(report, name)
        wrong = labels != classes
        x, y = plane.T
        axes.scatter(x[shots:], y[shots:], c=[f"C{int(k)}" for k in labels[shots:]], s=14)
        axes.scatter(x[:shots], y[:shots], c=[f"C{int(k)}" for k in labels[:shots]], s=110, marker="*", edgecolors="k")
        axes.scatter(x[wrong], y[wrong], facecolors="none", edgecolors="k", s=40, linewidths=0.8)
        axes.set(xticks=[], yticks=[], xlabel=f"{int(wrong.sum())} of {len(classes) - shots} wrong" if place else "")
    return figure


def _plot_accuracies(report: Report) -> "Figure":
    names = ("SimpleShot", "LaplacianShot", "K-means", "K-modes", "SLK-means", "SLK-MS")
    figure, axes = new_figure(y="accuracy")
    for number, shot in enumerate((1, 5)):
        means = [report["tasks", f"{name}, {shot} shot"] for name in names]
        halves = [report["tasks", f"{name} half-width, {shot} shot"] for name in names]
        # Tasks of several seeds are independent: their half-widths add in squares.
        error = [float(np.sqrt(np.square(half).sum()) / len(half)) for half in halves]
        places = np.arange(len(names)) + 0.4 * (number - 0.5)
        axes.bar(places, [mean.mean() for mean in means], 0.38, yerr=error, label=f"{shot} shot", capsize=2)
    axes.set_xticks(np.arange(len(names)), names, fontsize=8)
    axes.set_ylim(0.7, 1.0)
    axes.legend(fontsize=8)
    return figure

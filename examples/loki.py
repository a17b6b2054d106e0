"""Loki (NeurIPS 2023) on digits: labels that a classifier never saw, by the geometry of the label space.

Grid: digits pasted at one of 64 places of a canvas, the place is the label and Manhattan distance the metric; a
classifier is trained on 8, 16 or 24 of them, the corners included, and tested on all. Tree: ten digits as the leaves of
a hierarchy of their means, six of them seen. Active: which node of a random tree to observe next so that the locus
grows. Zero-shot re-ranking: all ten classes seen, with distances between the class means of a network's own features,
trained on few images, a quarter of which is held out and may change the temperature.

The measure is the expected squared distance; accuracy is reported beside it. Ablations: labels' places in the metric
shuffled, weights sharpened to argmax or flattened (T = 4), d in place of d^2, a next node drawn at random.

``--full --data FILE`` re-ranks the outputs of a network that ran elsewhere (ImageNet with its WordNet tree, CIFAR-100
with CLIP), read from an ``.npz``: ``logits`` or ``probs``, ``y``, ``observed``, and ``parents`` with ``labels``, or
``embeddings``.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holonomy.examples.data.outputs import load_outputs
from holonomy.examples.errors import require
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.adaptation.loki import (
    Grid,
    Tree,
    argmax_predict,
    barycentre_predict,
    calibrate_temperature,
    class_means,
    embedding_metric,
    expected_squared_distance,
    frechet_predict,
    locus,
    next_class,
    random_unseen_predict,
    temper,
    tree_metric,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Positions along an axis: images of 8 x 8 on a canvas of 15 x 15.
SIDE = 8
CANVAS = 15


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` reads a network's outputs."""

    dataset: Literal["digits", "outputs"] = "digits"
    """What zero-shot re-ranking is measured on; the second is read from --data."""
    observed: tuple[int, ...] = (8, 16, 24)
    """Places that are seen in training, the four corners included."""
    images: int = 1500
    """Training images, and test images, of places."""
    held: int = 300
    """Further images of seen places that a temperature is chosen on."""
    noise: float = 0.05
    """Standard deviation of the canvas' noise."""
    subsets: int = 10
    """Sets of six digits in the tree."""
    trees: int = 30
    """Random trees of active selection."""
    nodes: int = 30
    """Nodes of each."""
    queries: int = 8
    """Queries on each; claims are on the size after four."""
    few: tuple[int, ...] = (20, 50, 200, 500, 1000)
    """Training images of the networks that are re-ranked; the claim is on `size`."""
    size: int = 200
    """Which of them the claim is on."""
    draws: int = 4
    """Draws of each number of images, a network each."""
    steps: int = 400
    """Steps of Adam for each network."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds: each draws places, images, trees and networks anew."""

    def __post_init__(self) -> None:
        least = {"images": 100, "held": 10, "subsets": 1, "trees": 1, "nodes": 8, "queries": 4, "draws": 1, "steps": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not self.observed or not all(5 <= k < SIDE**2 for k in self.observed):
            raise ValueError(f"observed must be from 5 to {SIDE**2 - 1}, got {self.observed}")
        if self.dataset == "digits" and self.size not in self.few:
            raise ValueError(f"size must be one of few, {self.few}, got {self.size}")
        if not self.noise >= 0 or min(self.few, default=0) < 20 or max(self.few) > 1200:
            raise ValueError(f"noise must not be negative and few from 20 to 1200, got {self.noise} and {self.few}")

    @classmethod
    def full(cls) -> "Config":
        """Outputs of a network that ran elsewhere, beside what the default runs."""
        return cls(dataset="outputs")


# -- measuring one rule --------------------------------------------------------------------------------------------


def scores(name: str, y: np.ndarray, found: Any, D: Any, observed: np.ndarray) -> dict[str, float]:
    """Expected squared distance, accuracy, and accuracy on the labels that were not seen."""
    labels = np.asarray(found)
    result = {name: expected_squared_distance(y, labels, D), f"{name}, accuracy": float((labels == y).mean())}
    unseen = ~np.isin(y, observed)
    if unseen.any():
        result[f"{name}, unseen"] = float((labels == y)[unseen].mean())
    return result


def rules(
    probs: Tensor,
    y: np.ndarray,
    D: np.ndarray,
    observed: np.ndarray,
    held: tuple[Tensor, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, float]:
    """The rule at several settings beside argmax; held-out samples of seen labels choose the temperature."""
    shuffled = shuffle(D, rng)
    temperature, least = (calibrate_temperature(*held, D, observed=observed, errors=errors) for errors in (2.0, 0.0))
    found = {
        "argmax": argmax_predict(probs, observed, len(D)),
        "Loki": frechet_predict(temper(probs, temperature), D, observed=observed),
        "Loki, T of least mean": frechet_predict(temper(probs, least), D, observed=observed),
        "Loki, T = 1": frechet_predict(probs, D, observed=observed),
        "Loki, T = 4": frechet_predict(temper(probs, 4.0), D, observed=observed),
        "Loki, sharpened": frechet_predict(temper(probs, 1e-3), D, observed=observed),
        "Loki, p = 1": frechet_predict(probs, D, 1, observed=observed),
        "Loki, shuffled": frechet_predict(probs, shuffled, observed=observed),
    }
    result = {"temperature": temperature, "temperature of least mean": least}
    for name, labels in found.items():
        result |= scores(name, y, labels, D, observed)
    return result


def shuffle(D: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same distances between labels in a random order."""
    order = rng.permutation(len(D))
    return np.asarray(D[np.ix_(order, order)])


def means(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means of measurements over repeats."""
    return {name: float(np.mean([one[name] for one in runs])) for name in runs[0]}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, images (1797, 64) in [0, 1] and labels."""
    x, y = require("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    return x / 16.0, y


# -- A. places on a grid -------------------------------------------------------------------------------------------


def paste(images: np.ndarray, places: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Images (m, 64) at places (m,) of the canvas, with noise: (m, 225)."""
    canvas = noise * rng.normal(size=(len(images), CANVAS, CANVAS))
    for own, image, place in zip(canvas, images.reshape(-1, 8, 8), places, strict=True):
        row, column = divmod(int(place), SIDE)
        own[row : row + 8, column : column + 8] += image
    return canvas.reshape(len(images), -1)


def grid(trial: Trial, config: Config) -> Measurements:
    """Places of digits, for each number of seen places and two classifiers."""
    linear = require("sklearn.linear_model", "scikit-learn")
    network = require("sklearn.neural_network", "scikit-learn")
    rng = np.random.default_rng([trial.seed, 1])
    metric = Grid((SIDE, SIDE))
    D = metric.distances()
    x, _ = digits()
    order = rng.permutation(len(x))
    train, test = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
    corners = np.array([0, SIDE - 1, SIDE * (SIDE - 1), SIDE**2 - 1])
    y = rng.integers(0, SIDE**2, config.images)
    X = paste(test[rng.integers(0, len(test), config.images)], y, config.noise, rng)
    result: dict[str, Any] = {}
    for k in config.observed:
        others = np.setdiff1d(np.arange(SIDE**2), corners)
        observed = np.sort(np.concatenate([corners, rng.choice(others, k - 4, replace=False)]))
        seen = np.concatenate([np.arange(k), rng.integers(0, k, config.images + config.held - k)])
        own = paste(train[rng.integers(0, len(train), len(seen))], observed[seen], config.noise, rng)
        fitted, held = slice(0, config.images), slice(config.images, None)
        for name, model in (
            ("", linear.LogisticRegression(max_iter=300)),
            ("MLP, ", network.MLPClassifier((64,), random_state=trial.seed)),
        ):
            if name:
                for _ in range(60):  # passes over the images
                    model.partial_fit(own[fitted], seen[fitted], classes=np.arange(k))
            else:
                model.fit(own[fitted], seen[fitted])
            probs, aside = (torch.from_numpy(model.predict_proba(part)) for part in (X, own[held]))
            found = rules(probs, y, D, observed, (aside, observed[seen[held]]), rng)
            result |= {f"{name}{key}, K = {k}": value for key, value in found.items()}
        result |= {f"{key}, K = {k}": value for key, value in others_on_grid(own, seen, X, y, D, observed, rng).items()}
    return result


def others_on_grid(
    own: np.ndarray,
    seen: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    D: np.ndarray,
    observed: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Baselines: neighbours among the training images, in their space and averaged over labels' places; chance."""
    neighbours = require("sklearn.neighbors", "scikit-learn")
    model = neighbours.KNeighborsClassifier(5).fit(own, seen)
    probs = torch.from_numpy(model.predict_proba(X))
    places = torch.from_numpy(Grid((SIDE, SIDE)).coordinates().astype(float))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    result = scores("5-NN", y, argmax_predict(probs, observed, len(D)), D, observed)
    result |= scores("5-NN with Loki", y, frechet_predict(probs, D, observed=observed), D, observed)
    result |= scores("5-NN, mean place", y, barycentre_predict(probs, places[observed], places), D, observed)
    return result | scores("random unseen", y, random_unseen_predict(len(y), observed, len(D), generator), D, observed)


# -- B. leaves of a tree -------------------------------------------------------------------------------------------


def digit_tree(x: np.ndarray, y: np.ndarray) -> Tree:
    """Hierarchy of the digits' means by average linkage, edges of one length, digits as the labels."""
    from scipy.cluster.hierarchy import linkage

    joins = linkage(class_means(x, y), "average")
    edges = [(int(child), 10 + step) for step, join in enumerate(joins) for child in join[:2]]
    return Tree(edges, labels=np.arange(10))


def tree(trial: Trial, config: Config) -> Measurements:
    """Six of ten digits seen, in a tree of all; the means over several sets of six."""
    linear = require("sklearn.linear_model", "scikit-learn")
    rng = np.random.default_rng([trial.seed, 2])
    x, y = digits()
    order = rng.permutation(len(x))
    fitted, held, test = np.split(order, [900, 1200])
    D = digit_tree(x[fitted], y[fitted]).distances()
    runs = []
    for _ in range(config.subsets):
        observed = np.sort(rng.choice(10, 6, replace=False))
        own, aside = (part[np.isin(y[part], observed)] for part in (fitted, held))
        model = linear.LogisticRegression(max_iter=500).fit(x[own], y[own])
        probs, apart = (torch.from_numpy(model.predict_proba(x[part])) for part in (test, aside))
        runs.append(rules(probs, y[test], D, observed, (apart, y[aside]), rng))
    return means(runs)


# -- C. which class next -------------------------------------------------------------------------------------------


def random_tree(n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Edges of a uniformly random labelled tree, from a Prüfer sequence."""
    code = rng.integers(0, n, n - 2)
    degree = np.bincount(code, minlength=n) + 1
    edges = []
    for node in code:
        leaf = int(np.flatnonzero(degree == 1)[0])
        edges.append((leaf, int(node)))
        degree[[leaf, node]] -= 1
    u, v = np.flatnonzero(degree == 1)
    return [*edges, (int(u), int(v))]


def active(trial: Trial, config: Config) -> Measurements:
    """Mean size of the locus after each query, by three ways to choose the next node."""
    sizes: dict[str, list[list[int]]] = {"gain": [], "farthest": [], "random": []}
    for repeat in range(config.trees):
        rng = np.random.default_rng([trial.seed, 3, repeat])
        D = tree_metric(random_tree(config.nodes, rng))
        start = rng.choice(config.nodes, 3, replace=False)
        for name, courses in sizes.items():
            observed = start
            course = [int(locus(D, observed, "tree").sum())]
            for _ in range(config.queries):
                if len(observed) < config.nodes:
                    y = next_class(D, observed, name, locus_method="tree", generator=rng)  # type: ignore[arg-type]
                    observed = np.append(observed, y)
                course.append(int(locus(D, observed, "tree").sum()))
            courses.append(course)
    return {name: np.mean(courses, axis=0).tolist() for name, courses in sizes.items()}


# -- D. zero-shot re-ranking ---------------------------------------------------------------------------------------


def rerank(trial: Trial, config: Config, log: Log) -> Measurements:
    """The rule over all classes with distances of the model's own, for networks trained on few images."""
    if config.dataset == "outputs":
        return from_file(trial, log)
    result: dict[str, Any] = {}
    for size in config.few:
        found = means([few_images(trial, config, size, draw) for draw in range(config.draws)])
        result |= {f"{name}, {size} images": value for name, value in found.items()}
        if size == config.size:
            result |= found
    return result


def few_images(trial: Trial, config: Config, size: int, draw: int) -> dict[str, float]:
    """A network of one hidden layer on `size` images, a quarter of which choose the temperature; tested on the rest."""
    rng = np.random.default_rng([trial.seed, 4, size, draw])
    x, y = digits()
    order = rng.permutation(len(x))
    # Classes in turn, so that each has its share of the training images, and of the held-out ones.
    rank = np.empty(len(x), np.int64)
    for label in range(10):
        own = order[y[order] == label]
        rank[own] = np.arange(len(own)) * 10 + label
    ranked = np.argsort(rank)
    cut = max(10, 3 * size // 4)
    fitted, held, test = ranked[:cut], ranked[cut:size], ranked[size:]
    images = torch.from_numpy(x).float().to(trial.device)
    labels = torch.from_numpy(y).to(trial.device)
    start = np.random.SeedSequence([trial.seed, 5, size, draw]).generate_state(1)[0]
    torch.manual_seed(int(start))  # the network's, apart from what draws the images
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(64, 10)).to(trial.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in trial.steps(config.steps, every=config.steps, model=model, optimizer=optimizer):
        batch = fitted[torch.randint(len(fitted), (min(100, len(fitted)),), generator=trial.generator).numpy()]
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        D = embedding_metric(class_means(body(images[fitted]), y[fitted]))
        probs = model(images).double().softmax(1).cpu()
    return rules(probs[test], y[test], D, np.arange(10), (probs[held], y[held]), rng)


def from_file(trial: Trial, log: Log) -> dict[str, float]:
    """Outputs that were computed elsewhere: seen labels in a random half choose T, the other half is tested on."""
    data = load_outputs(log.data)
    rng = np.random.default_rng([trial.seed, 5])
    if data.parents is not None:
        D = Tree.from_parents(data.parents, labels=data.labels).distances()
    else:
        D = embedding_metric(data.embeddings)
    order = rng.permutation(len(data.y))
    half = order[: len(order) // 2]
    held = half[np.isin(data.y[half], data.observed)]
    test = order[len(order) // 2 :]
    probs = torch.from_numpy(data.probs)
    return rules(probs[test], data.y[test], D, data.observed, (probs[held], data.y[held]), rng)


# -- the picture ---------------------------------------------------------------------------------------------------


def triangle(trial: Trial, config: Config) -> Measurements:
    """Predictions over the simplex of weights of three nodes of a tree of 100: the rule's and argmax'."""
    rng = np.random.default_rng([trial.seed, 6])
    D = tree_metric(random_tree(100, rng))
    observed = [int(D.sum(0).argmax())]
    observed += [next_class(D, observed, "farthest", locus_method="tree")]
    observed += [next_class(D, observed, "farthest", locus_method="tree")]
    side = 80
    w = np.array([(i, j, side - i - j) for i in range(side + 1) for j in range(side + 1 - i)]) / side
    return {
        "weights": w,
        "Loki": frechet_predict(w, D, observed=observed).numpy(),
        "argmax": argmax_predict(w, observed, len(D)).numpy(),
        "reachable": float(locus(D, observed, "tree").sum()),
    }


def run(config: Config, log: Log) -> Report:
    """Grid, tree, active selection and re-ranking at every seed, the picture once."""
    return log.sweep(
        {
            "grid": partial(grid, config=config),
            "tree": partial(tree, config=config),
            "active": partial(active, config=config),
            "re-ranking": partial(rerank, config=config, log=log),
        },
        config.seeds,
        once={"triangle": partial(triangle, config=config)},
    )


# -- claims and figures --------------------------------------------------------------------------------------------


def _numbers(report: Report) -> list[int]:
    """Numbers of seen places that the report has."""
    names = next(iter(report.trials["grid"].values())).measurements
    return sorted(int(name.rsplit(" ", 1)[1]) for name in names if name.startswith("Loki, K ="))


def _worst_ratio(report: Report, arm: str, model: str = "") -> float:
    """Expected squared distance over that of argmax, means over the seeds; the largest over numbers of seen places."""
    return max(
        float(report["grid", f"{model}{arm}, K = {k}"].mean() / report["grid", f"{model}argmax, K = {k}"].mean())
        for k in _numbers(report)
    )


def _least_unseen(report: Report, arm: str, model: str = "") -> float:
    """Accuracy on unseen places over chance, 1/64; the least over the numbers of seen places."""
    return min(SIDE**2 * float(report["grid", f"{model}{arm}, unseen, K = {k}"].mean()) for k in _numbers(report))


def _ratio(report: Report, variant: str, arm: str) -> np.ndarray:
    return np.asarray(report[variant, arm] / report[variant, "argmax"])


def _growth(report: Report, arm: str, over: str = "random") -> np.ndarray:
    """Size of the locus after four queries over that of another way."""
    return np.asarray(report["active", arm][:, 4] / report["active", over][:, 4])


CLAIMS = [
    Claim("grid, E[d^2] of Loki over argmax, worst K", lambda r: _worst_ratio(r, "Loki, T = 1"), at_most=0.75),
    Claim("the same, MLP", lambda r: _worst_ratio(r, "Loki, T = 1", "MLP, "), at_most=0.75),
    Claim("ablation, shuffled metric", lambda r: _worst_ratio(r, "Loki, shuffled"), at_most=0.75, fails=True),
    Claim("ablation, weights of argmax", lambda r: _worst_ratio(r, "Loki, sharpened"), at_most=0.75, fails=True),
    Claim("ablation, d in place of d^2", lambda r: _worst_ratio(r, "Loki, p = 1"), at_most=0.75, fails=True),
    Claim("grid, accuracy on unseen over chance, worst K", lambda r: _least_unseen(r, "Loki, T = 1"), at_least=3.0),
    Claim("ablation, argmax, unseen", lambda r: _least_unseen(r, "argmax"), at_least=3.0, fails=True),
    Claim("ablation, shuffled, unseen", lambda r: _least_unseen(r, "Loki, shuffled"), at_least=3.0, fails=True),
    Claim("tree, E[d^2] of Loki over argmax", lambda r: _ratio(r, "tree", "Loki, T = 1"), at_most=1.0),
    Claim("ablation, shuffled tree", lambda r: _ratio(r, "tree", "Loki, shuffled"), at_most=1.0, fails=True),
    Claim("locus after 4 queries, farthest over random", lambda r: _growth(r, "farthest"), at_least=1.15),
    Claim("ablation, random over random", lambda r: _growth(r, "random"), at_least=1.15, fails=True),
    Claim(
        "nodes of the locus, gain less farthest",
        lambda r: r["active", "gain"][:, 4] - r["active", "farthest"][:, 4],
        at_least=-0.5,
    ),
    Claim(
        "ablation, random less farthest",
        lambda r: r["active", "random"][:, 4] - r["active", "farthest"][:, 4],
        at_least=-0.5,
        fails=True,
    ),
    Claim("re-ranking, E[d^2] of Loki over argmax", lambda r: _ratio(r, "re-ranking", "Loki"), at_most=1.0),
    Claim("the same at T = 1", lambda r: _ratio(r, "re-ranking", "Loki, T = 1"), at_most=1.0),
    Claim("ablation, T = 4", lambda r: _ratio(r, "re-ranking", "Loki, T = 4"), at_most=1.0, fails=True),
    Claim("ablation, shuffled", lambda r: _ratio(r, "re-ranking", "Loki, shuffled"), at_most=1.0, fails=True),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Predictions over a simplex, expected squared distances on the grid, growth of the locus, re-ranking by size."""
    figures = {"triangle": _plot_triangle(report), "grid": _plot_grid(report), "active": _plot_active(report)}
    sizes = _sizes(report)
    return figures | ({"few_images": _plot_sizes(report, sizes)} if sizes else {})


def _plot_triangle(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    measured = next(iter(report.trials["triangle"].values())).measurements
    w = np.asarray(measured["weights"])
    x, y = w[:, 0] + 0.5 * w[:, 1], w[:, 1] * 0.75**0.5
    figure = Figure(figsize=(8.0, 3.8), layout="constrained")
    for place, name in enumerate(("argmax", "Loki")):
        labels = np.asarray(measured[name])
        kinds, colours = np.unique(labels, return_inverse=True)
        # Neighbouring labels in colours far apart: steps of the golden section.
        axes = figure.add_subplot(1, 2, place + 1, title=f"{name}: {len(kinds)} of 100 labels", aspect="equal")
        axes.scatter(x, y, c=(colours * 0.618) % 1.0, cmap="hsv", vmin=0.0, vmax=1.0, s=7, marker="h")
        axes.axis("off")
    return figure


def _plot_grid(report: Report) -> "Figure":
    figure, axes = new_figure(x="seen places of 64", y="E[d²]")
    arms = ("argmax", "5-NN", "5-NN with Loki", "Loki, T = 1", "Loki", "Loki, T = 4")
    numbers = _numbers(report)
    for place, arm in enumerate(arms):
        values = np.stack([report["grid", f"{arm}, K = {k}"] for k in numbers])
        at = np.arange(len(numbers)) + 0.14 * (place - 2.5)
        label = "Loki, T held out" if arm == "Loki" else arm
        axes.bar(at, values.mean(1), 0.13, yerr=values.std(1), label=label, capsize=2)
    axes.set_xticks(np.arange(len(numbers)), [str(k) for k in numbers])
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])
    axes.legend(fontsize=7, ncols=3, loc="upper left")
    return figure


def _plot_active(report: Report) -> "Figure":
    figure, axes = new_figure(x="queries", y="labels that can be predicted")
    for name, style in (("gain", "o-"), ("farthest", "x--"), ("random", "s:")):
        curves = report["active", name]
        axes.errorbar(np.arange(curves.shape[1]), curves.mean(0), curves.std(0), fmt=style, label=name, capsize=2)
    axes.legend()
    return figure


def _sizes(report: Report) -> list[int]:
    names = next(iter(report.trials["re-ranking"].values())).measurements
    return sorted(int(name.split(" ")[-2]) for name in names if name.startswith("argmax, ") and name[8].isdigit())


def _plot_sizes(report: Report, sizes: list[int]) -> "Figure":
    figure, axes = new_figure(x="training images", y="E[d²] over that of argmax")
    for arm, label, style in (
        ("Loki, T = 1", "T = 1", "o-"),
        ("Loki", "T where held-out images clearly say so", "x--"),
        ("Loki, T of least mean", "T of the least held-out mean", "s:"),
    ):
        ratios = np.stack(
            [report["re-ranking", f"{arm}, {n} images"] / report["re-ranking", f"argmax, {n} images"] for n in sizes]
        )
        axes.errorbar(sizes, ratios.mean(1), ratios.std(1), fmt=style, label=label, capsize=2)
    axes.axhline(1.0, color="k", lw=0.8)
    axes.set_xscale("log")
    axes.legend()
    return figure

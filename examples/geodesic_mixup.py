"""Geodesic multi-modal mixup (NeurIPS 2023): fine-tuning two towers whose embeddings lie in two cones.

Left halves of scikit-learn's digits are one modality, right halves the other. Two perceptrons are pretrained for a few
contrastive steps from biases that point opposite ways, which leaves the cones apart, as CLIP's are, and then fine-tuned
with the contrastive loss alone (CLIP), at the mixed negatives' temperature, with reweighted hard negatives, with mixed
negatives (m2), with all mixes (m3), and with mixed negatives by chords in place of arcs. Measured on held-out pairs:
alignment, uniformity and gap, recall both ways, calibration, classes by the other modality, and arithmetic.

Ablations: negatives that stay unmixed, mixes within a modality alone, shuffled pairs, embeddings without a gap, a
positive that is mixed too.

``--full --data FOLDER`` fine-tunes CLIP ViT-B/32 by open_clip (installed by hand) on captioned images. FOLDER has
``clip.safetensors``, ``images/``, and ``dataset.json`` (Karpathy's splits of Flickr30k or COCO) or ``captions.csv``
with columns image, caption and split.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.blocks.clip import load_clip
from holonomy.examples.data.captions import load_captions
from holonomy.examples.data.digits import load_digits
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.adaptation.geodesic_mixup import (
    GeodesicMultiModalMixup,
    alignment,
    clip_contrastive_loss,
    geodesic_mix,
    hard_negative_loss,
    linear_mix,
    m2_mix_halves,
    modality_gap,
    relative_alignment,
    uniformity,
)
from holonomy.models.representation.calibration import expected_calibration_error
from holonomy.models.representation.retrieval import embedding_arithmetic_score, retrieval_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Held-out pairs of digits.
TEST = 497
#: Shares of the image that losses are averaged over where nothing is trained.
LAMS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["digits", "captions"] = "digits"
    """What is paired; the second is read from --data."""
    architecture: str = "ViT-B-32-quickgelu"
    """open_clip's name of the towers, for captions."""
    width: int = 128
    """Units of hidden layers, for digits."""
    dim: int = 32
    """Dimensions of embeddings, for digits."""
    shift: float = 0.8
    """What the last biases are moved by, up in one tower and down in the other."""
    pretrain: int = 60
    """Contrastive steps before fine-tuning, for digits."""
    pretrain_tau: float = 0.01
    """Their temperature."""
    epochs: int = 40
    """Passes of fine-tuning; a last batch that is not full is left out."""
    batch_size: int = 128
    """Pairs a batch."""
    lr: float = 5e-4
    """AdamW's learning rate."""
    decay: float = 0.01
    """AdamW's weight decay."""
    cosine: bool = False
    """Whether the rate rises over a tenth of the steps and falls along a cosine."""
    tau: float = 0.02
    """Temperature of all losses but the next."""
    tau_mix: float = 0.07
    """Temperature of mixed negatives."""
    m2: float = 0.1
    """Weight of mixed negatives."""
    v: float = 0.1
    """Weight of mixed images."""
    l: float = 0.1  # noqa: E741
    """Weight of mixed texts."""
    vl: float = 0.1
    """Weight of mixed images and texts."""
    alpha_m2: float = 0.2
    """Beta law of mixed negatives."""
    alpha_uni: float = 0.5
    """Beta law of the other mixes."""
    falling: bool = False
    """Whether weights fall as 1/(epoch + 1)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        least = {"width": 1, "dim": 3, "pretrain": 0, "epochs": 1, "batch_size": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("lr", "tau", "tau_mix", "pretrain_tau", "alpha_m2", "alpha_uni"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("m2", "v", "l", "vl", "decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    @classmethod
    def full(cls) -> "Config":
        """CLIP ViT-B/32 on captioned images, as in the paper."""
        return cls(
            dataset="captions",
            epochs=9,
            lr=1e-6,
            decay=0.2,
            cosine=True,
            tau=0.01,
            m2=0.01,
            v=0.05,
            l=0.05,
            falling=True,
            seeds=(0, 1, 2),
        )


@dataclass(frozen=True)
class Pairs:
    """Inputs of both towers by their numbers, and classes where there are any."""

    count: int
    batch: Callable[[Tensor], tuple[Tensor, Tensor]]
    labels: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """Pairs to train and to test on, and the towers that fine-tuning starts from, by seed."""

    train: Pairs
    test: Pairs
    towers: Callable[[int], nn.Module]


def load(config: Config, log: Log) -> Task:
    """The configured pairs; of digits 1,300 to train."""
    if config.dataset == "captions":
        return load_captioned(config, log)
    data = load_digits(log.data, test=TEST)
    left, right = (
        (data.train[0][..., cut].flatten(1), data.test[0][..., cut].flatten(1))
        for cut in (slice(None, 4), slice(4, None))
    )
    # Pixels at the border are 0 throughout: 0.1 keeps their deviations from being divided by.
    scaled = [[(x - side[0].mean(0)) / (side[0].std(0) + 0.1) for x in side] for side in (left, right)]
    train, test = (tensor_pairs(scaled[0][i], scaled[1][i], y) for i, y in ((0, data.train[1]), (1, data.test[1])))
    return Task(train, test, partial(pretrained, config, train))


def tensor_pairs(x: Tensor, y: Tensor, labels: Tensor | None = None) -> Pairs:
    """Pairs of rows."""
    return Pairs(len(x), lambda index: (x[index], y[index]), labels)


def load_captioned(config: Config, log: Log) -> Task:
    """Captioned images and CLIP's towers, the same for every seed."""
    splits = load_captions(log.data)
    assert log.data is not None
    weights = log.data / "clip.safetensors"
    clip, tokenize = load_clip(config.architecture, weights)
    size = getattr(getattr(clip.clip, "visual", None), "image_size", 224)
    pixels = int(size[0] if isinstance(size, tuple | list) else size)
    found = {}
    for split, images in splits.items():
        tokens = tokenize(images.captions)
        found[split] = Pairs(len(images), partial(_captioned, images, tokens, pixels))
    return Task(found["train"], found["test"], lambda _: load_clip(config.architecture, weights)[0])


def _captioned(images: Any, tokens: Tensor, pixels: int, index: Tensor) -> tuple[Tensor, Tensor]:
    return images.images(index, pixels), tokens[index]


# -- towers and training -------------------------------------------------------------------------------------------


class Towers(nn.Module):
    """Two perceptrons to one sphere, whose last biases point opposite ways."""

    def __init__(self, inputs: int, width: int, dim: int, shift: float) -> None:
        super().__init__()
        self.image, self.text = (
            nn.Sequential(
                nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)
            )
            for _ in range(2)
        )
        with torch.no_grad():
            for tower, sign in ((self.image, 1.0), (self.text, -1.0)):
                last: Any = tower[-1]
                last.bias += sign * shift

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, dim) of length 1."""
        return F.normalize(self.image(image), dim=1), F.normalize(self.text(text), dim=1)


def stream(seed: int, *what: int) -> torch.Generator:
    """A generator for one use of a seed: starts, orders and draws of lam share no numbers."""
    word = np.random.SeedSequence([seed, *what]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) >> 1)


def orders(
    seed: int, what: int, count: int, batch_size: int, epochs: int, start: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Epochs and batches from step `start` on, full ones alone; the same for every arm of a seed."""
    each = count // batch_size
    for epoch in range(start // each, epochs):
        order = torch.randperm(count, generator=stream(seed, what, epoch))
        for k in range(start % each if epoch == start // each else 0, each):
            yield epoch, order[k * batch_size : (k + 1) * batch_size]


def pretrained(config: Config, pairs: Pairs, seed: int) -> Towers:
    """Perceptrons after a few contrastive steps, the same for every arm."""
    inputs = pairs.batch(torch.arange(1))[0].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, 0).initial_seed())
        towers = Towers(inputs, config.width, config.dim, config.shift)
    optimizer = torch.optim.AdamW(towers.parameters(), lr=config.lr, weight_decay=config.decay, fused=True)
    batches = orders(seed, 1, pairs.count, min(config.batch_size, pairs.count), config.pretrain)
    for _, (_, index) in zip(range(config.pretrain), batches, strict=False):
        image, text = towers(*pairs.batch(index))
        loss = clip_contrastive_loss(image, text, config.pretrain_tau, check=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return towers


#: Of embeddings of images and texts and of the epoch.
Loss = Callable[[Tensor, Tensor, int], Tensor]


def mixed(config: Config, trial: Trial, *terms: str, tau_mix: float | None = 0.0, **more: Any) -> Loss:
    """The contrastive loss with the configured weights of some terms; lam from the trial's generator."""
    module = GeodesicMultiModalMixup(
        {name: getattr(config, name) for name in terms},
        config.alpha_m2,
        config.alpha_uni,
        config.tau,
        config.tau_mix if tau_mix == 0.0 else tau_mix,
        "inverse-epoch" if config.falling else None,
        generator=trial.generator,
        check=False,
        **more,
    )
    return lambda image, text, epoch: module(image, text, epoch)[0]


def unmixed(config: Config, image: Tensor, text: Tensor, epoch: int) -> Tensor:
    """The ablation of m2: the same weight, temperature and schedule, and negatives as they are."""
    weight = 2.0 * config.m2 / (epoch + 1 if config.falling else 1)  # m2 is the sum of both ways, CLIP their mean
    tau = config.tau_mix
    return clip_contrastive_loss(image, text, config.tau) + weight * clip_contrastive_loss(image, text, tau)


def tune(trial: Trial, config: Config, task: Task, loss: Loss, pairs: Pairs | None = None) -> nn.Module:
    """Fine-tune the seed's towers."""
    pairs = pairs or task.train
    each = pairs.count // config.batch_size
    total = config.epochs * each
    towers = task.towers(trial.seed).to(trial.device)
    optimizer = torch.optim.AdamW(towers.parameters(), lr=config.lr, weight_decay=config.decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, config.cosine, total))
    batches: Iterator[tuple[int, Tensor]] | None = None
    for step in trial.steps(total, every=max(each, total // 8), towers=towers, optimizer=optimizer, schedule=schedule):
        if batches is None:  # a resumed run goes on within the order
            batches = orders(trial.seed, 2, pairs.count, config.batch_size, config.epochs, step)
        epoch, index = next(batches)
        image, text = towers(*(part.to(trial.device) for part in pairs.batch(index)))
        value = loss(image, text, epoch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return towers


def _rate(cosine: bool, total: int, step: int) -> float:
    warm = max(1, total // 10)
    if not cosine:
        return 1.0
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


# -- measuring -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def embed(towers: nn.Module, pairs: Pairs, device: torch.device, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Embeddings of all pairs, or of the first, on the CPU."""
    index = torch.arange(min(pairs.count, limit or pairs.count))
    parts = [towers(*(x.to(device) for x in pairs.batch(rows))) for rows in index.split(256)]
    return torch.cat([p[0] for p in parts]).float().cpu(), torch.cat([p[1] for p in parts]).float().cpu()


def measure(trial: Trial, config: Config, task: Task, towers: nn.Module, tau: float) -> dict[str, Any]:
    """All measures of the held-out pairs; probabilities at the temperature that was trained at."""
    image, text = embed(towers, task.test, trial.device)
    sim = image @ text.mT
    result: dict[str, Any] = {
        "alignment": float(alignment(image, text)),
        "relative alignment": float(relative_alignment(image, text)),
        "relative alignment, ratio": float(relative_alignment(image, text, mode="ratio")),
        "uniformity": float(uniformity(torch.cat([image, text]))),
        "gap": float(modality_gap(image, text)),
        "ece, pairs": expected_calibration_error((sim / tau).softmax(1), torch.arange(len(sim))),
        **retrieval_metrics(sim),
    }
    if task.test.labels is not None and task.train.labels is not None:
        result |= by_classes(task, image, embed(towers, task.train, trial.device)[1], tau)
    if trial.seed == config.seeds[0]:
        result["sphere"] = on_sphere(image[:150], text[:150])
    return result


def by_classes(task: Task, image: Tensor, texts: Tensor, tau: float) -> dict[str, float]:
    """Images classified by the classes' mean texts, never by images, and edited from class to class."""
    y, known = task.test.labels, task.train.labels
    assert y is not None
    assert known is not None
    classes = int(known.max()) + 1
    means = F.normalize(torch.stack([texts[known == c].mean(0) for c in range(classes)]), dim=1)
    probs = (image @ means.mT / tau).softmax(1)
    wanted = (y + 1 + torch.arange(len(y)) % (classes - 1)) % classes
    edits = embedding_arithmetic_score(image, y, means[wanted] - means[y], wanted)
    return {
        "zero-shot": float((probs.argmax(1) == y).double().mean()),
        "ece": expected_calibration_error(probs, y),
        "arithmetic": max(edits.values()),
    }


def on_sphere(image: Tensor, text: Tensor) -> Tensor:
    """Both modalities (2, n, 3) along the three leading axes through 0, brought to length 1."""
    axes = torch.linalg.svd(torch.cat([image, text]), full_matrices=False)[2][:3]
    return F.normalize(torch.stack([image @ axes.mT, text @ axes.mT]), dim=2)


def compare_negatives(config: Config, image: Tensor, text: Tensor) -> dict[str, Any]:
    """Mixed negatives of fixed embeddings beside unmixed ones, by lam, over batches."""
    others = ~torch.eye(config.batch_size, dtype=torch.bool)
    own = torch.arange(config.batch_size)
    rows: list[list[float]] = []
    for x, y in zip(image.split(config.batch_size), text.split(config.batch_size), strict=True):
        if len(x) < config.batch_size:
            continue
        plain, clip = (x @ y.mT)[others].mean(), float(clip_contrastive_loss(x, y, config.tau))
        for lam in LAMS:
            z = geodesic_mix(x, y, lam)
            lead = 0.5 * ((x @ z.mT)[others].mean() + (y @ z.mT)[others].mean()) - plain
            halves = [float(half) for half in m2_mix_halves(x, y, lam, config.tau)]
            # The ablation: the positive lies on the arc as well.
            all_mixed = [float(F.cross_entropy(part @ z.mT / config.tau, own)) for part in (x, y)]
            rows.append([float(lead), *halves, 0.5 * sum(all_mixed), clip])
    table = np.array(rows).reshape(-1, len(LAMS), 5)
    lead, first, second, all_mixed, clip = np.moveaxis(table.mean(0), 1, 0)
    return {
        "lead": float(lead.mean()),
        "excess": float((0.5 * (first + second) - clip).mean()),
        "excess, positive mixed": float((all_mixed - clip).mean()),
        "image half by lam": first.tolist(),
        "text half by lam": second.tolist(),
        "clip": float(clip.mean()),
    }


def before(trial: Trial, config: Config, task: Task) -> Measurements:
    """The towers that fine-tuning starts from, their negatives, and those of the same embeddings without a gap."""
    towers = task.towers(trial.seed).to(trial.device)
    image, text = embed(towers, task.train, trial.device, 10 * config.batch_size)
    centred = [F.normalize(x - x.mean(0), dim=1) for x in (image, text)]
    return {
        **measure(trial, config, task, towers, config.tau),
        **compare_negatives(config, image, text),
        "lead, no gap": compare_negatives(config, *centred)["lead"],
    }


def after(
    trial: Trial,
    config: Config,
    task: Task,
    make: Callable[[Trial], Loss],
    tau: float | None = None,
    shuffled: bool = False,
) -> Measurements:
    """Fine-tune by a loss and measure; `shuffled`: with texts that belong to other images."""
    pairs = None
    if shuffled:
        order = torch.randperm(task.train.count, generator=stream(trial.seed, 3))
        batch = task.train.batch
        pairs = Pairs(task.train.count, lambda index: (batch(index)[0], batch(order[index])[1]))
    towers = tune(trial, config, task, make(trial), pairs)
    return measure(trial, config, task, towers, tau or config.tau)


def run(config: Config, log: Log) -> Report:
    """Every arm at every seed; those that are reported alone at the first."""
    task = load(config, log)
    if task.train.count < config.batch_size:
        raise DataError(f"wanted at least batch_size = {config.batch_size} pairs to train on, got {task.train.count}")
    arm = partial(after, config=config, task=task)
    mix = partial(mixed, config)
    every = ("m2", "v", "l", "vl")

    def at(loss: Callable[..., Tensor], tau: float) -> Callable[[Trial], Loss]:
        return lambda _: lambda image, text, _: loss(image, text, tau, check=False)

    variants: dict[str, Any] = {
        "pretrained": partial(before, config=config, task=task),
        "CLIP": partial(arm, make=at(clip_contrastive_loss, config.tau)),
        "CLIP, tau2": partial(arm, make=at(clip_contrastive_loss, config.tau_mix), tau=config.tau_mix),
        "hard negatives": partial(arm, make=at(hard_negative_loss, config.tau)),
        "m2": partial(arm, make=lambda trial: mix(trial, "m2")),
        "m3": partial(arm, make=lambda trial: mix(trial, *every)),
        "linear": partial(arm, make=lambda trial: mix(trial, "m2", mix=linear_mix)),
        "linear, unit": partial(arm, make=lambda trial: mix(trial, "m2", mix=partial(linear_mix, renormalize=True))),
        "unmixed": partial(arm, make=lambda _: partial(unmixed, config)),
    }
    once: dict[str, Any] = {
        "within a modality": partial(arm, make=lambda trial: mix(trial, "v", "l", "vl")),
        "m3, shuffled pairs": partial(arm, make=lambda trial: mix(trial, *every), shuffled=True),
        "hard negatives, 0.5": partial(arm, make=at(hard_negative_loss, 0.5), tau=0.5),
        "m2, one temperature": partial(arm, make=lambda trial: mix(trial, "m2", tau_mix=None)),
        "m2, a lam a pair": partial(arm, make=lambda trial: mix(trial, "m2", per_sample=True)),
        "m3, pair targets": partial(arm, make=lambda trial: mix(trial, *every, vl_target="pair")),
        "m3, original negatives": partial(arm, make=lambda trial: mix(trial, *every, original_neg=True)),
    }
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _ratio(report: Report, arm: str, what: str, over: str = "CLIP") -> np.ndarray:
    """A measure over CLIP's, by seed; of what ran once, at the first."""
    own = report[arm, what]
    return own / report[over, what][: len(own)]


def _lead(report: Report, arm: str, what: str) -> np.ndarray:
    """A measure less CLIP's, in the same way."""
    own = report[arm, what]
    return own - report["CLIP", what][: len(own)]


CLAIMS = [
    Claim("alignment, m2 over CLIP", lambda r: _ratio(r, "m2", "alignment"), at_most=0.75),
    Claim(
        "  ablation, mixes within a modality alone",
        lambda r: _ratio(r, "within a modality", "alignment"),
        at_most=0.75,
        fails=True,
    ),
    Claim("alignment, m2 over CLIP at tau2", lambda r: _ratio(r, "m2", "alignment", "CLIP, tau2"), at_most=0.75),
    Claim(
        "  ablation, unmixed negatives at tau2",
        lambda r: _ratio(r, "unmixed", "alignment", "CLIP, tau2"),
        at_most=0.75,
        fails=True,
    ),
    Claim("gap, m2 over CLIP", lambda r: _ratio(r, "m2", "gap"), at_most=0.6),
    Claim("  ablation, unmixed negatives", lambda r: _ratio(r, "unmixed", "gap"), at_most=0.6, fails=True),
    Claim("relative alignment, m3 less CLIP", lambda r: _lead(r, "m3", "relative alignment"), at_most=0.0),
    Claim(
        "  ablation, shuffled pairs",
        lambda r: _lead(r, "m3, shuffled pairs", "relative alignment"),
        at_most=0.0,
        fails=True,
    ),
    Claim("R@1, m3 less CLIP", lambda r: _lead(r, "m3", "R@1"), at_least=-0.01),
    Claim("  ablation, shuffled pairs", lambda r: _lead(r, "m3, shuffled pairs", "R@1"), at_least=-0.01, fails=True),
    Claim("pretrained, similarity of mixed less unmixed negatives", lambda r: r["pretrained", "lead"], at_least=0.3),
    Claim("  ablation, means taken out", lambda r: r["pretrained", "lead, no gap"], at_least=0.3, fails=True),
    Claim("pretrained, L_m2/2 less L_CLIP, one temperature", lambda r: r["pretrained", "excess"], at_least=0.0),
    Claim(
        "  ablation, the positive mixed too",
        lambda r: r["pretrained", "excess, positive mixed"],
        at_least=0.0,
        fails=True,
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Both modalities on the sphere before and after, alignment and uniformity by arm, losses by lam."""
    return {"sphere": _plot_spheres(report), "scatter": _plot_scatter(report), "lam": _plot_lam(report)}


def _plot_spheres(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.2), layout="constrained")
    for place, arm in enumerate(("pretrained", "CLIP", "m2", "m3")):
        points = np.asarray(next(iter(report.trials[arm].values())).measurements["sphere"])
        axes: Any = figure.add_subplot(1, 4, place + 1, projection="3d", title=arm)
        for cloud, name in zip(points, ("images", "texts"), strict=True):
            axes.scatter(*cloud.T, s=6, label=name)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1), xticks=[], yticks=[], zticks=[])
        if place == 0:
            axes.legend(fontsize=7)
    return figure


def _plot_scatter(report: Report) -> "Figure":
    figure, axes = new_figure(x="alignment", y="uniformity of both, pooled")
    arms = [arm for arm, trials in report.trials.items() if len(trials) == len(report.trials["CLIP"])]
    for number, arm in enumerate(arms):
        x, y = report[arm, "alignment"], report[arm, "uniformity"]
        axes.plot(x, y, ".", color=f"C{number}", ms=4)
        axes.plot(x.mean(), y.mean(), "o", color=f"C{number}", label=f"{arm}, R@1 {report[arm, 'R@1'].mean():.3f}")
    axes.legend(fontsize=7)
    return figure


def _plot_lam(report: Report) -> "Figure":
    figure, axes = new_figure(x="lam, share of the image in negatives", y="loss of the pretrained towers")
    image, text = (report["pretrained", f"{name} half by lam"].mean(0) for name in ("image", "text"))
    axes.plot(LAMS, image, label="images against mixed negatives")
    axes.plot(LAMS, text, label="texts against mixed negatives")
    axes.plot(LAMS, 0.5 * (image + text), "k", label="mean, L_m2/2")
    axes.axhline(report["pretrained", "clip"].mean(), color="k", ls="--", label="L_CLIP")
    axes.legend(fontsize=8, loc="upper center")
    return figure

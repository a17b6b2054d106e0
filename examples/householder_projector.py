"""Householder projector (ICCV 2023) on images of one disc.

A small style generator learns discs of random position, radius and brightness. From this one checkpoint it is trained
on for equally many steps: as it is, with its style projections exchanged for projectors of rank 8 and of rank 4, and,
at the first seed, of full rank, of rank 8 with singular values as large as those that were there, with a penalty
|A A^T - I|^2 on the projections, and with one of the Hessian by z. Directions are the leading right singular vectors of
the projections (SeFa), or the projectors' own.

Measured: the path length of edits, PIPL, here with squared distances of pixels, in float64 at steps of 1e-4; fidelity,
as the Fréchet distance of four attributes of the images; how far an edit changes one attribute rather than all
(dominance). PIPL falls because directions get shorter styles, |A v| = 1, as well: divided by |A v|^2 it does not, which
is reported beside it.

``--full --data FOLDER`` has StyleGAN2 of 256 pixels, rank 10, LPIPS. FOLDER has ``generator.safetensors`` and
``discriminator.safetensors`` (and ``average.safetensors``, or the generator stands for its average), named as in the
usual PyTorch checkpoints, ``images/``, and ``perceptual.safetensors`` with VGG16's and LPIPS's weights.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.examples.blocks.gan_training import Gan, Losses, train
from holonomy.examples.blocks.perceptual import Perceptual
from holonomy.examples.blocks.style_gan import Discriminator, SmallDiscriminator, StyleGenerator, style_channels
from holonomy.examples.data.discs import ATTRIBUTES, disc_attributes, draw_discs
from holonomy.examples.data.images import Images
from holonomy.examples.errors import DataError, require
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.manifolds.linalg import haar
from holonomy.models.representation.householder_projector import (
    HouseholderOrthogonal,
    Projector,
    affine_map,
    direction_attribute_matrix,
    dominance,
    path_length,
    path_lengths,
    perceptual_path_length,
    replace_style_projections,
    sefa_directions,
    squared_distance,
    traverse,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are small, `Config.full` has the paper's."""

    dataset: Literal["discs", "folder"] = "discs"
    """What to learn; folder is read from --data."""
    size: int = 16
    """Pixels on a side."""
    latent: int = 32
    """Entries of z and w."""
    width: int = 32
    """Channels of every layer; 0 for StyleGAN2's."""
    mapping: int = 2
    """Layers from z to w."""
    base_steps: int = 400
    """Steps before the checkpoint; without any it is read from --data."""
    steps: int = 150
    """Steps from the checkpoint on, in every arm."""
    batch_size: int = 16
    """Images in a batch."""
    lr: float = 0.004
    """Adam's learning rate."""
    r1: float = 1.0
    """Weight of R1."""
    path: float = 0.0
    """Weight of StyleGAN2's path-length penalty."""
    average: float = 0.98
    """Share that a step keeps of the moving average of the generator."""
    orthogonal: float = 0.1
    """Weight of the baseline's penalty |A A^T - I|^2."""
    hessian: float = 0.1
    """Weight of the baseline's penalty of the Hessian by z."""
    ranks: tuple[int, int] = (8, 4)
    """Ranks of the two projectors; path lengths are claimed of the first, dominance of the second."""
    draws: int = 6
    """Draws of random columns whose fidelity, of half as many images each, is averaged."""
    samples: int = 1000
    """Images whose attributes are compared."""
    codes: int = 150
    """Codes whose path lengths are measured."""
    codes_each: int = 6
    """Codes for the path length of each single direction."""
    codes_edited: int = 150
    """Codes whose images' attributes are followed along each direction, at most `codes`."""
    eps: float = 1e-4
    """Step of path lengths, in float64."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm runs once a seed."""

    def __post_init__(self) -> None:
        if len(self.ranks) != 2 or min(self.ranks) < 2 or self.ranks[0] == self.ranks[1]:
            raise ValueError(f"ranks must be two different ones, 2 at least, got {self.ranks}")
        if min(self.base_steps, self.width) < 0 or min(self.steps, self.mapping, self.codes_each, self.draws) < 1:
            raise ValueError(
                "base_steps and width must be at least 0, steps, mapping, codes_each and draws at least 1, got "
                f"{self.base_steps}, {self.width}, {self.steps}, {self.mapping}, {self.codes_each} and {self.draws}"
            )
        if not 1 <= self.codes_edited <= self.codes:
            raise ValueError(f"codes_edited must be from 1 to codes, {self.codes}, got {self.codes_edited}")
        if min(self.batch_size, self.samples, self.codes) < 2 or not (self.lr > 0 and self.eps > 0):
            raise ValueError(
                "batch_size, samples and codes must be at least 2, lr and eps positive, got "
                f"{self.batch_size}, {self.samples}, {self.codes}, {self.lr} and {self.eps}"
            )
        if not (0 <= self.average < 1 and min(self.r1, self.path, self.orthogonal, self.hessian) >= 0):
            raise ValueError(
                "average must be from 0 to below 1, r1, path, orthogonal and hessian at least 0, got "
                f"{self.average}, {self.r1}, {self.path}, {self.orthogonal} and {self.hessian}"
            )
        if self.dataset == "discs" and self.base_steps < 1:
            raise ValueError(f"base_steps must be at least 1 for discs, got {self.base_steps}")

    @classmethod
    def full(cls) -> "Config":
        """StyleGAN2 of 256 pixels from a checkpoint, rank 10, LPIPS of 5,000 codes, as in the paper."""
        return cls(
            dataset="folder",
            size=256,
            latent=512,
            width=0,
            mapping=8,
            base_steps=0,
            steps=8000,
            lr=0.002,
            r1=10.0,
            path=2.0,
            average=0.998,
            ranks=(10, 5),
            samples=5000,
            codes=5000,
            seeds=(0,),
        )


@dataclass(frozen=True)
class Task:
    """What is learned, and how images are measured."""

    draw: Callable[[int, torch.Generator], Tensor]
    attributes: Callable[[Tensor], Tensor]
    names: tuple[str, ...]
    distance: Callable[[Tensor, Tensor], Tensor]
    features: Callable[[Tensor], Tensor]
    folder: Path | None = None


def colours(images: Tensor) -> Tensor:
    """Mean of each colour, and contrast: the attributes of images of which nothing is known."""
    return torch.cat([images.mean((2, 3)), images.flatten(1).std(1, keepdim=True)], 1)


def load(config: Config, log: Log) -> Task:
    """The configured data."""
    if config.dataset == "discs":
        return Task(
            partial(draw_discs, size=config.size), disc_attributes, ATTRIBUTES, squared_distance, disc_attributes
        )
    if log.data is None:
        raise DataError("--data must name a folder with images/, perceptual.safetensors and a checkpoint")
    images = Images(log.data / "images", config.size)
    perceptual = Perceptual(log.data / "perceptual.safetensors").to(log.device)
    names = ("red", "green", "blue", "contrast")
    return Task(images.draw, colours, names, perceptual, perceptual.features, log.data)


# -- networks and training -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """The networks that all arms begin with, on the CPU."""

    generator: StyleGenerator
    discriminator: nn.Module
    average: StyleGenerator


def networks(config: Config) -> tuple[StyleGenerator, nn.Module]:
    """Untrained networks. Those of discs have neither noise nor demodulation, after which little of |A| is seen."""
    small = config.dataset == "discs"
    channels = style_channels(config.size)
    if config.width:
        channels = dict.fromkeys(channels, config.width)
    shape = (config.size, config.latent, channels, config.mapping)
    if small:
        generator = StyleGenerator(*shape, colours=1, noisy=False, rate=1.0, demodulate=False)
        return generator, SmallDiscriminator(config.size, config.width or 32)
    return StyleGenerator(*shape), Discriminator(config.size, channels)


def load_checkpoint(config: Config, folder: Path) -> Checkpoint:
    """The pretrained networks of a folder."""
    generator, discriminator = networks(config)
    average = copy.deepcopy(generator)
    read = require("safetensors.torch", "safetensors").load_file
    for name, module in (("generator", generator), ("discriminator", discriminator), ("average", average)):
        path = folder / f"{name}.safetensors"
        if name == "average" and not path.exists():
            path = folder / "generator.safetensors"
        if not path.is_file():
            raise DataError(f"--data: {path} is not there; wanted a checkpoint of StyleGAN2 as safetensors")
        try:
            module.load_state_dict(read(path))
        except RuntimeError as error:
            raise DataError(f"--data: {path} does not fit StyleGAN2 of {config.size} pixels: {error}") from error
    return Checkpoint(generator, discriminator, average)


def losses(config: Config, extra: Callable[[StyleGenerator], Tensor] | None = None) -> Losses:
    """The configured losses."""
    return Losses(config.r1, config.path, config.lr, config.average, extra)


def pretrain(
    config: Config, task: Task, seed: int, device: torch.device, steps: Callable[..., Iterable[int]] | None = None
) -> Checkpoint:
    """Train from nothing, or read the checkpoint; the same numbers for a seed, whatever else was drawn."""
    if task.folder is not None and not config.base_steps:
        return load_checkpoint(config, task.folder)
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = networks(config)
    gan = Gan(generator.to(device), discriminator.to(device), losses(config))
    counted = range(config.base_steps) if steps is None else steps(config.base_steps, gan=gan, rng=Random(rng))
    train(gan, counted, lambda n: task.draw(n, rng).to(device), config.batch_size, rng)
    return Checkpoint(gan.generator.cpu(), gan.discriminator.cpu(), gan.average.cpu())


class Random:
    """A generator's state, for `Trial.steps`."""

    def __init__(self, rng: torch.Generator) -> None:
        self.rng = rng

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        return {"state": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.rng.set_state(state["state"].cpu())


def orthogonal_penalty(generator: StyleGenerator, rng: torch.Generator, weight: float) -> Tensor:
    """|A A^T - I|^2 of the projections, or of A^T A where that is smaller, times a weight."""
    total = torch.zeros((), device=next(generator.parameters()).device)
    for style in generator.styles():
        a = style.weight * style.scale  # type: ignore[operator]
        gram = a @ a.mT if a.shape[0] <= a.shape[1] else a.mT @ a
        total = total + (gram - torch.eye(len(gram), device=gram.device)).square().sum()
    return weight * total


def hessian_penalty(
    generator: StyleGenerator, rng: torch.Generator, weight: float, batch: int = 4, draws: int = 2, eps: float = 0.1
) -> Tensor:
    """Variance over random signs v of v^T H v, H the Hessian of a pixel by z, at the largest pixel, times a weight.

    It is 0 where H is diagonal (Peebles et al., ECCV 2020). By second differences; images of one code z each.
    """
    place = next(generator.parameters())
    z = torch.randn(batch, generator.latent, generator=rng)
    signs = 2.0 * torch.randint(2, (draws, batch, generator.latent), generator=rng) - 1.0
    ends = torch.cat([z[None], z + eps * signs, z - eps * signs]).flatten(0, 1).to(place)
    images = generator(generator.map(ends)).view(2 * draws + 1, batch, -1)
    second = (images[1 : draws + 1] - 2.0 * images[:1] + images[draws + 1 :]) / eps**2
    return weight * second.var(0).max()


Extra = Callable[..., Tensor]  # of a generator, and rng=
Change = Callable[[StyleGenerator, torch.Generator], object]


def keep(generator: StyleGenerator, rng: torch.Generator) -> None:
    """The baseline: projections as they are."""


def project(generator: StyleGenerator, rng: torch.Generator, rank: int, gain: float | Literal["mean"] = 1.0) -> None:
    """Projectors near to the projections, but for those to colours."""
    replace_style_projections(generator, rank, gain=gain)


def project_randomly(generator: StyleGenerator, rng: torch.Generator, rank: int, draws: int = 1) -> None:
    """Projectors with random columns, and the biases that were there."""
    replace_style_projections(generator, rank)
    parts = [m for m in generator.modules() if isinstance(m, HouseholderOrthogonal)]
    for _ in range(draws):
        for part in parts:
            part.assign(haar((part.n, part.k), torch.float64, None, rng))


# -- measuring -----------------------------------------------------------------------------------------------------


def directions(generator: StyleGenerator, k: int) -> dict[int, Tensor]:
    """Directions of each layer: a projector's own, SeFa's otherwise."""
    return {
        i: style.directions().detach() if isinstance(style, Projector) else sefa_directions(affine_map(style)[0], k)
        for i, style in enumerate(generator.styles())
    }


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of normal laws fitted to samples (N, a), in units of the deviations of `b`."""
    scale = b.std(0).clamp(min=1e-12)
    a, b = a / scale, b / scale
    first, second = torch.cov(a.mT), torch.cov(b.mT)
    # The eigenvalues of a product of two positive matrices are real and not negative, up to rounding.
    root = torch.linalg.eigvals(first @ second).real.clamp(min=0.0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2.0 * root)


@torch.no_grad()
def fidelity(config: Config, task: Task, generator: StyleGenerator, seed: int, samples: int | None = None) -> float:
    """Fréchet distance of generated to real images, by `Task.features`."""
    samples = samples or config.samples
    rng = torch.Generator().manual_seed(10_007 + seed)
    place = next(generator.parameters())
    sizes = [min(64, samples - i) for i in range(0, samples, 64)]
    fake, real = [], []
    for n in sizes:
        z = torch.randn(n, config.latent, generator=rng).to(place)
        fake.append(task.features(generator(generator.map(z))).double().cpu())
        real.append(task.features(task.draw(n, rng).to(place)).double().cpu())
    return frechet(torch.cat(fake), torch.cat(real))


@torch.no_grad()
def measure_lengths(config: Config, task: Task, generator: StyleGenerator, seed: int, k: int) -> dict[str, Any]:
    """Path lengths, in float64, by k directions of each layer."""
    rng = torch.Generator().manual_seed(20_011 + seed)
    generator = copy.deepcopy(generator).double()
    ws = draw_codes(config, generator, rng)
    found = directions(generator, k)
    maps = [affine_map(style)[0] for style in generator.styles()]
    measure: dict[str, Any] = {"eps": config.eps, "distance": task.distance}
    each = path_lengths(generator, ws[: config.codes_each], found, **measure)
    stretch = torch.cat([(maps[layer] @ rows.double().mT).square().sum(0) for layer, rows in found.items()]).cpu()
    ends = torch.randperm(len(ws), generator=rng)
    return {
        "pipl": path_length(generator, ws, found, rng=rng, **measure),
        "pipl by |A v|^2": float((each / stretch).mean()),
        "ppl": perceptual_path_length(generator, ws, ws[ends], rng=rng, **measure),
        "spread": float(each.std() / each.mean()),
    }


@torch.no_grad()
def measure_edits(config: Config, task: Task, generator: StyleGenerator, seed: int, k: int) -> dict[str, Any]:
    """Purity of edits along k directions of each layer, singular values, and images of some edits."""
    ws = draw_codes(config, generator, torch.Generator().manual_seed(30_011 + seed))
    found = directions(generator, k)
    matrix = direction_attribute_matrix(generator, ws[: config.codes_edited], found, task.attributes)
    maps = [affine_map(style)[0] for style in generator.styles()]
    values = torch.stack([torch.linalg.svdvals(a)[: 2 * max(config.ranks)] for a in padded(maps)])
    return {
        "dominance": dominance(matrix),
        "dominance by deviations": dominance(matrix, normalise=False),
        "matrix": matrix,
        "spectra": values,
        "ratio": float((values[:, 0] / values[:, k - 1]).max()),
        "traversal": strip(generator, ws[:1], found),
    }


def draw_codes(config: Config, generator: StyleGenerator, rng: torch.Generator) -> Tensor:
    """Codes (N, L, d), the same for all layers."""
    w = generator.map(torch.randn(config.codes, config.latent, generator=rng).to(next(generator.parameters())))
    return w.unsqueeze(1).expand(-1, generator.layers, -1)


def padded(maps: list[Tensor]) -> list[Tensor]:
    """Matrices with zero rows to a common height, which adds zeros to their singular values alone."""
    height = max(len(a) for a in maps)
    return [torch.nn.functional.pad(a, (0, 0, 0, height - len(a))) for a in maps]


def strip(generator: StyleGenerator, ws: Tensor, found: dict[int, Tensor], rows: int = 4) -> Tensor:
    """Images (rows, 7, colours, side, side) along the first directions of the second layer, alpha from -3 to 3."""
    layer = min(1, max(found))
    alphas = torch.linspace(-3.0, 3.0, 7)
    images = torch.stack([traverse(generator, ws, v, alphas, [layer])[:, 0] for v in found[layer][:rows]])
    side = min(32, images.shape[-1])
    small = torch.nn.functional.adaptive_avg_pool2d(images.flatten(0, 1), side)
    return (small * 100).round().view(*images.shape[:3], side, side) / 100  # two digits are enough to be seen


def arm(
    trial: Trial,
    config: Config,
    task: Task,
    start: Callable[[int], Checkpoint],
    change: Change,
    ks: tuple[int, ...],
    extra: Extra | None = None,
) -> Measurements:
    """Change the checkpoint's generator and its average, measure, train on, and measure again."""
    before = copy.deepcopy(start(trial.seed))
    generator = before.average  # in every arm: the average is what the change is made of, and what goes on
    change(generator, torch.Generator().manual_seed(trial.seed))
    generator.requires_grad_()  # an average has none
    further = None if extra is None else partial(extra, rng=trial.generator)
    gan = Gan(generator.to(trial.device), before.discriminator.to(trial.device), losses(config, further))
    average = gan.average
    result: dict[str, Any] = {"frechet before": fidelity(config, task, average, trial.seed)}
    result["ratio before"] = measure_ratio(average, ks[0])
    rng = trial.generator
    train(gan, trial.steps(config.steps, gan=gan), lambda n: task.draw(n, rng).to(trial.device), config.batch_size, rng)
    result["frechet"] = fidelity(config, task, average, trial.seed)
    result |= measure_lengths(config, task, average, trial.seed, ks[0])
    for k, tail in zip(ks, (", first", ", second") if len(ks) > 1 else ("",), strict=True):
        found = measure_edits(config, task, average, trial.seed, k)
        result |= {f"{name}{tail}": value for name, value in found.items()}
    return result


@torch.no_grad()
def measure_ratio(generator: StyleGenerator, k: int) -> float:
    """Largest ratio of first to k-th singular value of any projection."""
    values = [torch.linalg.svdvals(affine_map(style)[0]) for style in generator.styles()]
    return max(float(s[0] / s[k - 1]) for s in values)


def replaced(
    trial: Trial, config: Config, task: Task, start: Callable[[int], Checkpoint], changes: tuple[Change, ...]
) -> Measurements:
    """Fidelity right after changes of the checkpoint, the mean over them."""
    found = []
    for change in changes:
        generator = copy.deepcopy(start(trial.seed).average)
        change(generator, torch.Generator().manual_seed(trial.seed))
        found.append(fidelity(config, task, generator.to(trial.device), trial.seed, -(-config.samples // 2)))
    return {"frechet": float(np.mean(found))}


def run(config: Config, log: Log) -> Report:
    """Every arm at every seed, all from the seed's one checkpoint."""
    task = load(config, log)
    known: dict[int, Checkpoint] = {}

    def start(seed: int) -> Checkpoint:
        if seed not in known:  # a resumed run that has finished the first variant
            known[seed] = pretrain(config, task, seed, log.device)
        return known[seed]

    def base(trial: Trial) -> Measurements:
        known[trial.seed] = pretrain(config, task, trial.seed, trial.device, trial.steps)
        generator = copy.deepcopy(known[trial.seed].average).to(trial.device)
        settings = (config, task, generator, trial.seed)
        found = measure_lengths(*settings, config.ranks[0]) | measure_edits(*settings, config.ranks[0])
        return {"frechet": fidelity(*settings), **found}

    first, second = config.ranks
    learn = partial(arm, config=config, task=task, start=start)
    # A single draw of random columns says little: its distance is a half to twice the mean.
    draws = [partial(project_randomly, rank=first, draws=i + 1) for i in range(2 * config.draws)]
    change = partial(replaced, config=config, task=task, start=start)
    variants: dict[str, Any] = {
        "base": base,
        "plain": partial(learn, change=keep, ks=config.ranks),
        "rank, first": partial(learn, change=partial(project, rank=first), ks=(first,)),
        "rank, second": partial(learn, change=partial(project, rank=second), ks=(second,)),
        "random": partial(change, changes=tuple(draws[::2])),
        "random again": partial(change, changes=tuple(draws[1::2])),
    }
    widest = min(config.latent, *style_channels(config.size).values(), config.width or config.latent)
    penalties = {
        "penalty": partial(orthogonal_penalty, weight=config.orthogonal),
        "hessian": partial(hessian_penalty, weight=config.hessian),
    }
    once: dict[str, Any] = {
        "gain kept": partial(learn, change=partial(project, rank=first, gain="mean"), ks=(first,)),
        "full rank": partial(learn, change=partial(project, rank=widest), ks=config.ranks),
    }
    once |= {name: partial(learn, change=keep, ks=config.ranks, extra=extra) for name, extra in penalties.items()}
    return log.sweep(variants, config.seeds, once=once)


# -- claims and figures --------------------------------------------------------------------------------------------


def _over(report: Report, name: str, what: str, other: str, than: str) -> float:
    """Mean over the seeds over that of another arm, by the seeds that both have."""
    first, second = report[name, what], report[other, than]
    return float(first.mean() / second[: len(first)].mean())


def _least(report: Report, name: str, keys: tuple[str, ...]) -> np.ndarray:
    """Largest departure from 1 of a ratio of singular values, before and after training."""
    return np.abs(np.stack([report[name, key] for key in keys]) - 1.0).max(0)


CLAIMS = [
    Claim(
        "PIPL after training on, rank 8 over plain",
        lambda r: _over(r, "rank, first", "pipl", "plain", "pipl"),
        at_most=0.7,
    ),
    Claim(
        "  ablation, gain of the pretrained size",
        lambda r: _over(r, "gain kept", "pipl", "plain", "pipl"),
        at_most=0.7,
        fails=True,
    ),
    Claim(
        "Fréchet distance after training on, rank 8 over plain",
        lambda r: _over(r, "rank, first", "frechet", "plain", "frechet"),
        at_most=1.3,
    ),
    Claim(
        "  ablation, random columns and no training on",
        lambda r: _over(r, "random", "frechet", "plain", "frechet"),
        at_most=1.3,
        fails=True,
    ),
    Claim(
        "Fréchet distance right after replacement, from SVD over random",
        lambda r: _over(r, "rank, first", "frechet before", "random", "frechet"),
        at_most=0.7,
    ),
    Claim(
        "  ablation, other random draws",
        lambda r: _over(r, "random again", "frechet", "random", "frechet"),
        at_most=0.7,
        fails=True,
    ),
    Claim(
        "dominance, rank 4 less plain",
        lambda r: r["rank, second", "dominance"] - r["plain", "dominance, second"],
        at_least=0.02,
    ),
    Claim(
        "  ablation, penalty |A A^T - I|^2 instead",
        lambda r: r["penalty", "dominance, second"] - r["plain", "dominance, second"][:1],
        at_least=0.02,
        fails=True,
    ),
    Claim(
        "singular values of rank 8: first over last, less 1",
        lambda r: _least(r, "rank, first", ("ratio", "ratio before")),
        at_most=1e-5,
        digits=".1e",
    ),
    Claim(
        "singular values of rank 4: first over last, less 1",
        lambda r: _least(r, "rank, second", ("ratio", "ratio before")),
        at_most=1e-5,
        digits=".1e",
    ),
    Claim(
        "  ablation, penalty |A A^T - I|^2 instead",
        lambda r: _least(r, "penalty", ("ratio, first",)),
        at_most=1e-5,
        fails=True,
        digits=".1e",
    ),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Traversals, singular values, attributes by direction, path lengths and fidelity by arm."""
    return {
        "traversal": _plot_traversals(report),
        "spectra": _plot_spectra(report),
        "attributes": _plot_matrices(report),
        "path_length": _plot_lengths(report),
    }


def _panels(count: int, height: float, titles: tuple[str, ...]) -> "tuple[Figure, list[Any]]":
    figure = new_figure(width=4.0 * count)[0]
    figure.clear()
    figure.set_size_inches(4.0 * count, height)
    return figure, [figure.add_subplot(1, count, i + 1, title=titles[i]) for i in range(count)]


def _plot_traversals(report: Report) -> "Figure":
    titles = ("SeFa, trained on as it was", "projector of the second rank")
    figure, panels = _panels(2, 2.9, titles)
    for axes, key in zip(panels, (("plain", "traversal, second"), ("rank, second", "traversal")), strict=True):
        images = report[key][0]  # rows, 7, colours, side, side
        grid = np.clip(0.5 * (images + 1.0), 0.0, 1.0).transpose(0, 3, 1, 4, 2)
        grid = grid.reshape(grid.shape[0] * grid.shape[1], -1, grid.shape[-1])
        axes.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", vmin=0.0, vmax=1.0)
        side = images.shape[-1]
        axes.set_xticks([side * (i + 0.5) for i in range(7)], [f"{alpha:+g}" for alpha in range(-3, 4)])
        axes.set_yticks([side * (i + 0.5) for i in range(len(images))], [f"$v_{i + 1}$" for i in range(len(images))])
        axes.set_xlabel("step along the direction, second layer")
    return figure


def _plot_spectra(report: Report) -> "Figure":
    figure, axes = new_figure(x="singular value of a style projection, by size", y="value, mean over layers and seeds")
    arms = (
        ("base", "spectra", "before"),
        ("plain", "spectra, first", "plain"),
        ("penalty", "spectra, first", "penalty |A A^T - I|^2"),
        ("rank, first", "spectra", "projector, first rank"),
        ("rank, second", "spectra", "projector, second rank"),
    )
    for name, key, label in arms:
        values = report[name, key].mean((0, 1))
        axes.plot(range(1, len(values) + 1), values, "o-", ms=4, label=label)
    axes.legend(fontsize=8)
    return figure


def _plot_matrices(report: Report) -> "Figure":
    figure, panels = _panels(2, 5.0, ("SeFa, trained on as it was", "projector of the second rank"))
    for axes, key in zip(panels, (("plain", "matrix, second"), ("rank, second", "matrix")), strict=True):
        matrix = report[key][0] / np.maximum(report[key][0].mean(0), 1e-12)  # as `dominance` has it
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-12)
        image = axes.imshow(share, aspect="auto", vmin=0.0, vmax=1.0, cmap="viridis")
        axes.yaxis.get_major_locator().set_params(integer=True)
        names = ATTRIBUTES if matrix.shape[1] == len(ATTRIBUTES) else range(matrix.shape[1])
        axes.set_xticks(range(matrix.shape[1]), [str(name) for name in names])
        axes.set_ylabel("direction, layer by layer")
        axes.grid(visible=False)
        figure.colorbar(image, label="share of the change")
    return figure


def _plot_lengths(report: Report) -> "Figure":
    figure, panels = _panels(3, 3.6, ("PIPL", "PIPL by |A v|^2", "Fréchet distance"))
    arms = ("base", "plain", "penalty", "hessian", "full rank", "rank, first", "rank, second", "gain kept")
    for axes, what in zip(panels, ("pipl", "pipl by |A v|^2", "frechet"), strict=True):
        values = [report[name, what] for name in arms]
        axes.bar(range(len(arms)), [value.mean() for value in values], color="tab:blue", alpha=0.6)
        for i, value in enumerate(values):
            axes.plot([i] * len(value), value, "k.", ms=4)
        axes.set_xticks(range(len(arms)), arms, rotation=35, ha="right", fontsize=8)
    return figure

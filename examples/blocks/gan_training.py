"""Training of style GANs as StyleGAN2 does: non-saturating loss, lazy regularisers, a moving average of weights."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.examples.blocks.style_gan import StyleGenerator, path_penalty, r1_penalty

__all__ = ["Gan", "Losses", "train"]

#: Steps between two uses of R1, and of the path-length penalty.
R1_EVERY, PATH_EVERY = 16, 4


@dataclass(frozen=True)
class Losses:
    """Weights of the losses; the defaults are StyleGAN2's."""

    r1: float = 10.0
    """Half of this times the squared gradient of the scores by real images."""
    path: float = 2.0
    """Weight of the path-length penalty; 0 for none."""
    lr: float = 0.002
    """Adam's learning rate, for both networks."""
    average: float = 0.998
    """Share of the moving average that a step keeps."""
    extra: Callable[[StyleGenerator], Tensor] | None = None
    """A further penalty of the generator, taken at every step."""


class Gan:
    """A generator, its moving average and a discriminator with their optimizers; stateful, for `Trial.steps`."""

    def __init__(
        self, generator: StyleGenerator, discriminator: nn.Module, losses: Losses, average: StyleGenerator | None = None
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.average = copy.deepcopy(generator if average is None else average).requires_grad_(requires_grad=False)
        self.losses = losses
        self.path_mean = torch.zeros((), device=next(generator.parameters()).device)
        self._optimizers = [
            self._adam(generator, PATH_EVERY if losses.path else 1),
            self._adam(discriminator, R1_EVERY),
        ]

    def _adam(self, module: nn.Module, every: int) -> torch.optim.Adam:
        # Lazy regularisation adds a step in `every`: the rate and the decay are brought down by that share.
        share = every / (every + 1) if every > 1 else 1.0
        chosen = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.Adam(chosen, self.losses.lr * share, betas=(0.0, 0.99**share), fused=True)

    def discriminator_step(self, real: Tensor, fake: Tensor, *, regularise: bool) -> float:
        """Step the discriminator on real images and detached fake ones."""
        d, weight = self.discriminator, 0.5 * self.losses.r1 * R1_EVERY
        loss = F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()
        total = loss + weight * r1_penalty(d, real) if regularise else loss
        self._step(1, total)
        return float(loss.detach())

    def generator_step(self, fake: Tensor, ws: Tensor, rng: torch.Generator, *, regularise: bool) -> float:
        """Step the generator on the images of codes `ws`, and the moving average."""
        loss = total = F.softplus(-self.discriminator(fake)).mean()
        if self.losses.extra is not None:
            total = total + self.losses.extra(self.generator)
        if regularise:
            penalty, self.path_mean = path_penalty(fake, ws, self.path_mean, rng)
            total = total + self.losses.path * PATH_EVERY * penalty
        self._step(0, total)
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(now, 1.0 - self.losses.average)
        return float(loss.detach())

    def _step(self, which: int, loss: Tensor) -> None:
        optimizer = self._optimizers[which]
        optimizer.zero_grad(set_to_none=True)
        own = [p for group in optimizer.param_groups for p in group["params"]]
        # Not backward(): the other network's gradients are of no use.
        for p, gradient in zip(own, torch.autograd.grad(loss, own, allow_unused=True), strict=True):
            p.grad = gradient
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a step changes."""
        modules = {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
        states = {name: module.state_dict() for name, module in modules.items()}
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        return {**states, "optimizers": optimizers, "path_mean": self.path_mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in ("generator", "discriminator", "average"):
            getattr(self, name).load_state_dict(state[name])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.path_mean = state["path_mean"]


def train(
    gan: Gan, steps: Iterable[int], images: Callable[[int], Tensor], batch: int, rng: torch.Generator
) -> dict[str, list[float]]:
    """Train both networks.

    Parameters
    ----------
    gan : Gan
        What to train.
    steps : iterable of int
        The steps; those that are multiples of 16 and 4 are regularised.
    images : callable
        ``images(n)`` draws n real images, on the networks' device.
    batch : int
        Images in a batch.
    rng : torch.Generator
        Draws z.

    Returns
    -------
    dict
        Losses of the generator and the discriminator, one a step.
    """
    curves: dict[str, list[float]] = {"generator": [], "discriminator": []}
    generator = gan.generator
    device = next(generator.parameters()).device
    for step in steps:
        real = images(batch)
        z = torch.randn(batch, generator.latent, generator=rng).to(device, real.dtype)
        ws = generator.map(z).unsqueeze(1).expand(-1, generator.layers, -1).contiguous()
        fake = generator(ws, fixed_noise=False)
        curves["discriminator"].append(
            gan.discriminator_step(real, fake.detach(), regularise=gan.losses.r1 > 0 and step % R1_EVERY == 0)
        )
        curves["generator"].append(
            gan.generator_step(fake, ws, rng, regularise=gan.losses.path > 0 and step % PATH_EVERY == 0)
        )
    return curves

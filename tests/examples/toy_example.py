"""A toy paper for the harness: logistic regression on two clouds.

Under `main`, ``TOY_KILL=<event>:<n>`` makes the process kill itself at the n-th such event: a ``loss`` that is
computed, a ``replace`` that is about to make a written file visible, or a ``trial`` that ends.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings of the toy."""

    epochs: int = 3
    """Passes over the clouds."""
    lr: float = 0.1
    """Step size."""
    dropout: float = 0.25
    """Share of the inputs that is dropped in training."""
    wanted: float = 0.9
    """Not used in training."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")

    @classmethod
    def full(cls) -> "Config":
        return cls(epochs=5)


def clouds() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(97) % 2
    return torch.randn(97, 4, generator=generator) + 2.0 * labels[:, None] - 1.0, labels


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    event("loss")
    return nn.functional.cross_entropy(model(x), y)


def accuracy(model: nn.Module) -> dict[str, float]:
    x, y = clouds()
    return {"accuracy": (model(x).argmax(1) == y).double().mean().item()}


def learn(trial: Trial, config: Config, lr: float) -> Measurements:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(config.dropout), nn.Linear(4, 2)).to(trial.device)
    if config.dropout == 0:
        model[0] = nn.Identity()  # then a batch's gradient is the mean of its parts'
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    curves = trial.fit(
        model, optimizer, clouds(), loss=loss, epochs=config.epochs, batch_size=16, evaluate=accuracy,
        scheduler=scheduler,
    )  # fmt: skip
    # A second loop, hand-written, that draws from each of the generators.
    walk = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        walk.weight.zero_()
        for _ in trial.steps(10, walk=walk):
            event("loss")
            noise = torch.randn((), generator=trial.generator) + torch.rand(()) + float(np.random.random())  # noqa: NPY002
            walk.weight.add_(noise)
    event("trial")
    return {"final": curves["accuracy"][-1], **curves, "walk": walk.weight.detach(), "weights": model[2].weight}


def run(config: Config, log: Log) -> Report:
    return log.sweep(
        {"adam": partial(learn, config=config, lr=config.lr), "no steps": partial(learn, config=config, lr=0.0)},
        seeds=config.seeds,
    )


CLAIMS = [
    Claim("the clouds are told apart", lambda report: report["adam", "final"], at_least=0.9),
    Claim("ablation, no steps", lambda report: report["no steps", "final"], at_least=0.9, fails=True),
]


def plot(report: Report) -> "dict[str, Figure]":
    figure, axes = new_figure("loss", x="epoch", y="loss")
    axes.plot(report["adam", "loss"].mean(axis=0))
    return {"loss": figure}


events: dict[str, int] = {}


def event(name: str) -> None:
    """Count an event, and die at the one that ``TOY_KILL`` names."""
    events[name] = events.get(name, 0) + 1
    if os.environ.get("TOY_KILL") == f"{name}:{events[name]}":
        os.kill(os.getpid(), signal.SIGKILL)


def announced(replace: Callable[..., Any]) -> Callable[..., Any]:
    def announce(*paths: Any) -> Any:
        event("replace")
        return replace(*paths)

    return announce


def main(arguments: list[str]) -> int:
    """Run the toy as the command line would."""
    from holonomy.examples.harness import running

    if os.environ.get("TOY_KILL", "").startswith("replace"):
        os.replace = announced(os.replace)
    return running.main(sys.modules[__name__], "toy", "Toy", ["--threads", "1", *arguments])  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

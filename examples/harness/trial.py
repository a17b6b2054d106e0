"""One trial: one variant at one seed, with loops that go on where a killed run stopped."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.examples.harness import checkpoint, distributed

Loss = Callable[..., Tensor]
Evaluate = Callable[[nn.Module], dict[str, float]]


class Stateful(Protocol):
    """What a checkpoint can hold: modules, optimizers, schedulers, or anything of this form."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore what `state_dict` returned."""


class Trial:
    """A variant at a seed, handed to the example's function.

    torch's, numpy's and Python's global generators are seeded with ``seed`` before the function is called.

    Attributes
    ----------
    variant : str
        Name of the variant, as given to `Log.sweep`.
    seed : int
        The seed.
    device : torch.device
        Where to put models and data.
    generator : torch.Generator
        A CPU generator seeded with ``seed``; its state is part of every checkpoint.
    """

    def __init__(
        self,
        variant: str,
        seed: int,
        device: torch.device,
        stem: Path,
        progress: Callable[[float], None],
        checkpoint_every: int | None = None,
    ) -> None:
        self.variant = variant
        self.seed = seed
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self._stem = stem
        self._progress = progress
        self._checkpoint_every = checkpoint_every
        self._loops = 0

    def steps(self, total: int, *, every: int | None = None, **stateful: Stateful) -> Iterator[int]:
        """Count the steps of a loop, resuming from its last checkpoint.

        After every ``every`` steps, and after the last, the state of each object and of all random generators is
        written. A resumed run restores them and goes on with the next step, so that it ends with the numbers of an
        unbroken one, as long as what changes from step to step is in ``stateful`` or in a generator. A trial may have
        several loops, one after the other.

        Parameters
        ----------
        total : int
            Number of steps.
        every : int, optional
            Steps between checkpoints; a twentieth of ``total`` when left out. ``--checkpoint-every`` overrides it.
        **stateful
            Objects with ``state_dict`` and ``load_state_dict``.

        Yields
        ------
        int
            The step, from 0 or from where the last checkpoint was.
        """
        if total < 1:
            raise ValueError(f"total must be at least 1, got {total}")
        every = self._checkpoint_every or every or max(1, total // 20)
        path = self._stem.with_name(f"{self._stem.name}.{self._loops}.pt")
        self._loops += 1
        start = self._restore(path, stateful) if distributed.from_first(path.exists()) else 0
        for step in range(start, total):
            yield step
            done = step + 1
            self._progress(done / total)
            if done % every == 0 or done == total:
                self._save(path, done, stateful)

    def fit(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Sequence[Tensor],
        *,
        loss: Loss,
        epochs: int,
        batch_size: int,
        evaluate: Evaluate | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    ) -> dict[str, list[float]]:
        """Train by minibatches, each epoch in a fresh order drawn from the seed.

        Under torchrun every process takes its share of the same global batches and the gradients are averaged. A last
        batch with fewer than two samples a process joins the one before it.

        Parameters
        ----------
        model : torch.nn.Module
            The model, on ``device``.
        optimizer : torch.optim.Optimizer
            Steps the model's parameters.
        data : sequence of Tensor
            Tensors with one leading length, on ``device``.
        loss : callable
            ``loss(model, *batch)``: the mean loss over the batch, a scalar tensor.
        epochs, batch_size : int
            Passes over the data, and samples in a global batch.
        evaluate : callable, optional
            ``evaluate(model)``: numbers by name, taken after every epoch in eval mode without gradients.
        scheduler : LRScheduler, optional
            Stepped once a batch.

        Returns
        -------
        dict of list of float
            ``"loss"``, the mean training loss of each epoch, and each name that ``evaluate`` gives.
        """
        length = _common_length(data)
        if epochs < 1 or batch_size < 2 * distributed.size():
            raise ValueError(
                f"epochs must be at least 1 and batch_size at least 2 a process, got {epochs} and {batch_size} "
                f"with {distributed.size()} processes"
            )
        batches = _batch_bounds(length, batch_size)
        curves = _Curves()
        stateful: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "curves": curves}
        if scheduler is not None:
            stateful["scheduler"] = scheduler
        loop = self._loops
        self._align(model, loop)
        order = torch.empty(0, dtype=torch.int64)
        model.train()
        for step in self.steps(epochs * len(batches), every=len(batches), **stateful):
            epoch, index = divmod(step, len(batches))
            if index == 0 or not len(order):  # the second where a run goes on within an epoch
                order = self._order(length, loop, epoch)
            low, high = batches[index]
            mine = order[low:high][distributed.rank() :: distributed.size()].to(data[0].device)
            optimizer.zero_grad()
            value = loss(model, *(tensor[mine] for tensor in data))
            share = len(mine) / (high - low)
            (value * (share * distributed.size())).backward()  # the mean over processes is the global batch's mean
            distributed.average_gradients(model.parameters())
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            curves.add(float(value.detach()) * len(mine), len(mine))
            if index == len(batches) - 1:
                distributed.broadcast(model.buffers())
                curves.close_epoch(_evaluated(model, evaluate))
        return curves.values

    def _order(self, length: int, loop: int, epoch: int) -> Tensor:
        # Drawn afresh from (seed, loop, epoch), so that a run resumed within an epoch sees the same order.
        word = np.random.SeedSequence([self.seed, loop, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(word) >> 1)
        return torch.randperm(length, generator=generator)

    def _align(self, model: nn.Module, loop: int) -> None:
        if distributed.size() == 1:
            return
        distributed.broadcast([*model.parameters(), *model.buffers()])
        word = np.random.SeedSequence([self.seed, loop, 0, distributed.rank()]).generate_state(1)[0]
        checkpoint.seed_everything(int(word))  # processes that share a seed would draw one dropout mask for all shards

    def _save(self, path: Path, step: int, stateful: dict[str, Stateful]) -> None:
        states = distributed.gathered({**checkpoint.random_state(), "generator": self.generator.get_state()})
        if distributed.rank() == 0:
            state = {name: value.state_dict() for name, value in stateful.items()}
            checkpoint.save_tensors({"step": step, "state": state, "random": states}, path)

    def _restore(self, path: Path, stateful: dict[str, Stateful]) -> int:
        saved = checkpoint.load_tensors(path)
        for name, value in stateful.items():
            value.load_state_dict(saved["state"][name])
        random_state = saved["random"][distributed.rank()]
        checkpoint.set_random_state(random_state)
        self.generator.set_state(random_state["generator"])
        return saved["step"]


class _Curves:
    """The numbers of each finished epoch, and the running sum of the one under way."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {"loss": []}
        self._sum = 0.0
        self._count = 0

    def add(self, total: float, count: int) -> None:
        self._sum += total
        self._count += count

    def close_epoch(self, evaluated: dict[str, float]) -> None:
        totals = distributed.gathered((self._sum, self._count))
        mean = sum(total for total, _ in totals) / sum(count for _, count in totals)
        self._sum, self._count = 0.0, 0
        for name, value in {"loss": mean, **evaluated}.items():
            self.values.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": {name: list(value) for name, value in self.values.items()},
            "sum": self._sum,
            "n": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = {name: list(value) for name, value in state["values"].items()}
        self._sum, self._count = state["sum"], state["n"]


def _common_length(data: Sequence[Tensor]) -> int:
    lengths = {len(tensor) for tensor in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"data must be tensors of one leading length, got shapes {[tuple(t.shape) for t in data]}")
    return lengths.pop()


def _batch_bounds(length: int, batch_size: int) -> list[tuple[int, int]]:
    bounds = [(low, min(low + batch_size, length)) for low in range(0, length, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < 2 * distributed.size():
        bounds[-2:] = [(bounds[-2][0], length)]
    return bounds


def _evaluated(model: nn.Module, evaluate: Evaluate | None) -> dict[str, float]:
    if evaluate is None:
        return {}
    model.eval()
    with torch.no_grad():
        values = {name: float(value) for name, value in evaluate(model).items()}
    model.train()
    return values

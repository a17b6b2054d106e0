"""What an example talks to while it runs: it hands over its trials, and the log keeps, resumes and shows them."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from holonomy.examples.harness import checkpoint, distributed
from holonomy.examples.harness.report import Measurements, Record, Report, plain
from holonomy.examples.harness.trial import Trial

Variant = Callable[[Trial], Measurements]


class Log:
    """Runs an example's trials one after the other.

    Attributes
    ----------
    device : torch.device
        Where the run computes.
    data : Path or None
        The user's own data (``--data``).
    """

    def __init__(
        self,
        device: torch.device,
        state: Path,
        data: Path | None = None,
        console: Console | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        self.device = device
        self.data = data
        self._state = state
        self._checkpoint_every = checkpoint_every
        self._bar = _Bar(console or Console(stderr=True, quiet=True))

    def sweep(
        self, variants: Mapping[str, Variant], seeds: Sequence[int], once: Mapping[str, Variant] | None = None
    ) -> Report:
        """Run every variant at every seed; what an earlier, resumed run finished is read instead.

        One sweep for everything lets the progress bar know the end from the start.

        Parameters
        ----------
        variants : mapping of str to callable
            Name -> function of a `Trial` that returns its measurements.
        seeds : sequence of int
            The seeds.
        once : mapping of str to callable, optional
            Variants that run at the first seed alone.

        Returns
        -------
        Report
            One record for each variant and seed.
        """
        if not variants or not seeds:
            raise ValueError(f"a sweep needs variants and seeds, got {list(variants)} and {list(seeds)}")
        once = once or {}
        self._bar.extend(len(variants) * len(seeds) + len(once))
        trials: dict[str, dict[int, Record]] = {variant: {} for variant in (*variants, *once)}
        for seed in seeds:  # the outer loop, so that a first value of every variant is there early
            for variant, function in variants.items():
                trials[variant][seed] = self._trial(variant, seed, function)
        for variant, function in once.items():
            trials[variant][seeds[0]] = self._trial(variant, seeds[0], function)
        return Report(trials)

    def __enter__(self) -> "Log":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _trial(self, variant: str, seed: int, function: Variant) -> Record:
        stem = self._state / f"{quote(variant, safe='')}-{seed}"
        path = stem.with_name(f"{stem.name}.json")
        label = f"{variant}, seed {seed}"
        stored = distributed.from_first(json.loads(path.read_text()) if path.exists() else None)
        if stored is not None:
            self._bar.finish(label, None)
            return Record(**stored)
        trial = Trial(
            variant, seed, self.device, stem, lambda share: self._bar.show(label, share), self._checkpoint_every
        )
        self._bar.show(label, 0.0)
        outside = checkpoint.random_state()
        checkpoint.seed_everything(seed)
        begin = time.perf_counter()
        try:
            measurements = distributed.from_first(plain(function(trial)))
        finally:
            checkpoint.set_random_state(outside)
        record = Record(measurements, distributed.from_first(round(time.perf_counter() - begin, 3)))
        if distributed.rank() == 0:
            checkpoint.save_json(vars(record), path, allow_nan=True)
            for used in self._state.glob(f"{stem.name}.*.pt"):
                used.unlink()
        self._bar.finish(label, record.seconds)
        return record


class _Bar:
    """Progress over the trials: a bar with the time left on a terminal, a line a trial elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._done = 0
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.fields[runs]} runs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
            transient=False,
        )
        self._task = self._progress.add_task("starting", total=None, runs="0/?")

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def extend(self, trials: int) -> None:
        self._total += trials
        self._progress.update(self._task, total=self._total, runs=f"{self._done}/{self._total}")

    def show(self, label: str, share: float) -> None:
        # One trial is one unit; its own loops fill it, the last unit's end being left to finish().
        self._progress.update(self._task, description=label, completed=self._done + min(share, 0.99))

    def finish(self, label: str, seconds: float | None) -> None:
        self._done += 1
        runs = f"{self._done}/{self._total}"
        self._progress.update(self._task, description=label, completed=self._done, runs=runs)
        if not self._console.is_terminal:
            took = "kept from the run before" if seconds is None else f"{seconds:.1f} s"
            self._console.print(f"  {runs} runs: {label}: {took}", highlight=False)

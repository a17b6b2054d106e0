"""Measuring the Intrinsic Dimension of Objective Landscapes (ICLR 2018): how many numbers digits really take.

Measured on scikit-learn's digits, multilayer perceptrons trained through d numbers in a random subspace: d_int90, the d
at which accuracy reaches 90 % of direct training's, hardly depends on the network, whose size D varies by a factor of
five and more, nor on how the subspace is drawn, nor on a permutation of the pixels; shuffled labels cannot be learnt in
as many dimensions; a trained network is stored as a seed and d numbers. Baselines with the same number of steps: direct
training, the last layer alone, and a small network of about d parameters.

``--full`` trains on MNIST or CIFAR-10 from ``--data`` (MNIST's idx files or the folder of CIFAR-10's binary version),
with wider networks, LeNet, and Fastfood up to d = 10,000; use a GPU.
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.examples.data.cifar import load_cifar
from holonomy.examples.data.digits import load_digits
from holonomy.examples.data.mnist import load_mnist
from holonomy.examples.data.split import Labelled
from holonomy.examples.errors import DataError
from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial, new_figure
from holonomy.models.adaptation.intrinsic_dimension import SubspaceModel, load_intrinsic, save_intrinsic
from holonomy.theory.intrinsic_dimension import (
    IntrinsicDimensionResult,
    description_length,
    measure_intrinsic_dimension,
    toy_problem,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROJECTIONS = ("dense", "sparse", "fastfood", "stiefel")
#: Networks as (width, hidden layers); the second is the one of all comparisons.
NETS = ((32, 2), (64, 2), (128, 2), (64, 1))
#: Dimensions at which the toy problem is out of reach, and within it.
BELOW, ABOVE = (2, 5, 8), (10, 15, 20)


@dataclass(frozen=True)
class Config:
    """Settings; the defaults take two minutes, `Config.full` is the paper's scale."""

    nets: tuple[tuple[int, int], ...] = NETS
    """Networks: width and number of hidden layers."""
    dims: tuple[int, ...] = (10, 20, 40, 60, 80, 100, 125, 150, 200)
    """Dimensions of the sweep."""
    near: tuple[int, ...] = (80, 100, 125, 150, 200)
    """Those of comparisons, about d_int90."""
    steps: int = 300
    """Minibatches of every training."""
    batch: int = 128
    """Images of a minibatch."""
    lr: float = 0.1
    """Adam's rate for v."""
    lr_direct: float = 2e-3
    """Adam's rate for direct training."""
    every: int = 30
    """Steps between evaluations, of which the best counts."""
    tests: int = 450
    """Digits to test on."""
    shuffled_dim: int = 150
    """Dimension at which shuffled labels are learnt, or not."""
    projection: str = "dense"
    """Projection of the sweep."""
    lenet: bool = False
    """Whether a LeNet is swept, too."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of modules and projections."""

    def __post_init__(self) -> None:
        if len(self.nets) < 2 or min(min(net) for net in self.nets) < 1:
            raise ValueError(f"nets must be at least two pairs of width and depth, got {self.nets}")
        if self.steps < self.every or self.every < 1 or self.batch < 1:
            raise ValueError(f"wanted steps >= every >= 1, got {self.steps} and {self.every}")
        for name in ("dims", "near"):
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise ValueError(f"{name} must increase, got {getattr(self, name)}")

    @classmethod
    def full(cls) -> "Config":
        """Widths to 400, depths to 5, LeNet, dimensions to 10,000."""
        return cls(
            nets=tuple((w, k) for w in (50, 100, 200, 400) for k in (1, 2, 3, 4, 5)),
            dims=(50, 100, 200, 300, 400, 500, 625, 750, 1000, 1500, 2500, 5000, 10_000),
            near=(300, 500, 625, 750, 1000, 1500),
            steps=20_000,
            every=470,
            lr=1e-2,
            lr_direct=1e-3,
            shuffled_dim=750,
            projection="fastfood",
            lenet=True,
        )


# -- data and networks ---------------------------------------------------------------------------------------------


def load(data: Path | None, config: Config) -> Labelled:
    """Digits with a fixed permutation's split; MNIST or CIFAR-10 where a folder is given."""
    if data is None:
        loaded = load_digits()
        x, y = (torch.cat(pair) for pair in zip(loaded.train, loaded.test, strict=True))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], y[order]
        return Labelled((x[config.tests :], y[config.tests :]), (x[: config.tests], y[: config.tests]), 10)
    try:
        return load_cifar(data)
    except DataError:
        return load_mnist(data)


def perceptron(width: int, depth: int, inputs: int, seed: int) -> Callable[[int], nn.Module]:
    """Makes ReLU networks inputs-width^depth-10 with He's initialisation, by seed."""

    def make(number: int) -> nn.Module:
        generator = torch.Generator().manual_seed(7919 * number + seed)
        sizes = [inputs, *[width] * depth, 10]
        layers: list[nn.Module] = [nn.Flatten()]
        for k, (n, m) in enumerate(itertools.pairwise(sizes)):
            layer = nn.Linear(n, m)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(m, n, generator=generator) * (2.0 / n) ** 0.5)
                layer.bias.zero_()
            layers += [layer, nn.ReLU()] if k < depth else [layer]
        return nn.Sequential(*layers)

    return make


def lenet(channels: int, side: int, seed: int) -> Callable[[int], nn.Module]:
    """Makes LeNet-5 for images of a side, by seed."""

    def make(number: int) -> nn.Module:
        state = torch.random.get_rng_state()
        torch.manual_seed(7919 * number + seed)
        left = (side // 2 - 4) // 2
        net = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16 * left**2, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip
        torch.random.set_rng_state(state)
        return net

    return make


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        right = torch.cat(
            [model(x).argmax(1) == y for x, y in zip(data[0].split(5000), data[1].split(5000), strict=True)]
        )
    model.train()
    return float(right.float().mean())


def train(
    model: nn.Module,
    seed: int,
    config: Config,
    data: Labelled,
    *,
    on_train: bool = False,
    done: Callable[[nn.Module], None] | None = None,
) -> float:
    """Train what requires gradients by Adam; return the best accuracy on test, or on training, images."""
    trained = [p for p in model.parameters() if p.requires_grad]
    rate = config.lr if isinstance(model, SubspaceModel) else config.lr_direct
    optimizer = torch.optim.Adam(trained, lr=rate)
    generator = torch.Generator().manual_seed(104_729 + seed)
    x, y = data.train
    best = 0.0
    for step in range(config.steps):
        index = torch.randint(0, len(x), (config.batch,), generator=generator).to(x.device)
        optimizer.zero_grad()
        F.cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
        if (step + 1) % config.every == 0 or step + 1 == config.steps:
            best = max(best, accuracy(model, data.train if on_train else data.test))
    return best


def to_device(data: Labelled, device: torch.device) -> Labelled:
    """The same images on a device."""
    train_part, test_part = (tuple(t.to(device) for t in pair) for pair in (data.train, data.test))
    return Labelled(train_part, test_part, data.classes)  # type: ignore[arg-type]


# -- what is measured ----------------------------------------------------------------------------------------------


def sweep(
    trial: Trial,
    config: Config,
    make: Callable[[int], nn.Module],
    dims: tuple[int, ...],
    data: Labelled,
    projection: str,
    baseline: float | None = None,
) -> Measurements:
    """Accuracy by dimension for one network and one projection, at one seed."""
    data = to_device(data, trial.device)

    def made(number: int) -> nn.Module:
        return make(number).to(trial.device)

    result = measure_intrinsic_dimension(
        made,
        partial(train, config=config, data=data),
        dims,
        baseline=baseline,
        seeds=(trial.seed,),
        projection=projection,
    )
    found = {"dims": list(result.dims), "accuracy": list(result.mean)}
    return found | {"baseline": result.baseline, "D": result.D}


def measure_net(trial: Trial, config: Config, data: Labelled, width: int, depth: int) -> Measurements:
    """The whole sweep for one perceptron."""
    make = perceptron(width, depth, data.train[0][0].numel(), 1000 * width + depth)
    return sweep(trial, config, make, config.dims, data, config.projection)


def measure_lenet(trial: Trial, config: Config, data: Labelled) -> Measurements:
    """The whole sweep for LeNet."""
    _, channels, side, _ = data.train[0].shape
    return sweep(trial, config, lenet(channels, side, 5), config.dims, data, config.projection)


def _maker(config: Config, data: Labelled) -> Callable[[int], nn.Module]:
    """Makes the network of all comparisons, the second."""
    width, depth = config.nets[1]
    return perceptron(width, depth, data.train[0][0].numel(), 1000 * width + depth)


def _subspace(trial: Trial, config: Config, data: Labelled) -> SubspaceModel:
    """That network in a subspace of the dimension that labels are shuffled at."""
    model = _maker(config, data)(trial.seed).to(trial.device)
    return SubspaceModel(model, config.shuffled_dim, config.projection, 1_000_003 + trial.seed)


def measure_projection(trial: Trial, config: Config, data: Labelled, projection: str) -> Measurements:
    """Dimensions about d_int90 for another projection, on the second network."""
    return sweep(trial, config, _maker(config, data), config.near, data, projection, baseline=1.0)


def measure_permuted(trial: Trial, config: Config, data: Labelled) -> Measurements:
    """The same with the pixels of all images in one fixed random order, and its own baseline."""
    order = torch.randperm(data.train[0][0].numel(), generator=torch.Generator().manual_seed(1))
    (x, y), (a, b) = ((t.flatten(1)[:, order].view_as(t), labels) for t, labels in (data.train, data.test))
    permuted = Labelled((x, y), (a, b), data.classes)
    return sweep(trial, config, _maker(config, data), config.near, permuted, config.projection)


def measure_shuffled(trial: Trial, config: Config, data: Labelled) -> Measurements:
    """Training accuracy with true labels, and with labels in random order, in as many dimensions."""
    data = to_device(data, trial.device)
    x, y = data.train
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(2)).to(y.device)
    found = {}
    for name, labels in (("true", y), ("shuffled", y[order])):
        found[name] = train(
            _subspace(trial, config, data),
            trial.seed,
            config,
            Labelled((x, labels), data.test, data.classes),
            on_train=True,
        )
    return found


def measure_baselines(trial: Trial, config: Config, data: Labelled) -> Measurements:
    """The last layer alone, and a network with about as many parameters as d_int90, trained directly."""
    data = to_device(data, trial.device)
    inputs = data.train[0][0].numel()
    whole = _maker(config, data)(trial.seed).to(trial.device)
    layers = [m for m in whole.modules() if isinstance(m, nn.Linear)]
    for layer in layers[:-1]:
        layer.requires_grad_(False)
    small = perceptron(2, 1, inputs, 77)(trial.seed).to(trial.device)
    return {
        "last layer": train(whole, trial.seed, config, data),
        "last layer, parameters": sum(p.numel() for p in layers[-1].parameters()),
        "small network": train(small, trial.seed, config, data),
        "small network, parameters": sum(p.numel() for p in small.parameters()),
    }


def measure_file(trial: Trial, config: Config, data: Labelled) -> Measurements:
    """A trained network through its file: its size, and whether it answers as before, to the last bit."""
    data = to_device(data, trial.device)
    make, model = _maker(config, data), _subspace(trial, config, data)
    train(model, trial.seed, config, data)
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder) / "v.safetensors", Path(folder) / "model.pt"
        save_intrinsic(model, path)
        torch.save(model.merge().state_dict(), whole)
        model.unmerge()
        again = load_intrinsic(make(trial.seed).to(trial.device), path)
        other = load_intrinsic(make(trial.seed + 1).to(trial.device), path)
        ratio = whole.stat().st_size / path.stat().st_size
    with torch.no_grad():
        same, x = model(data.test[0]), data.test[0]
        return {
            "answers that differ": float((again(x) != same).float().mean()),
            "answers that differ, another theta_0": float((other(x) != same).float().mean()),
            "size ratio": ratio,
            "bits": description_length(model.d),
            "accuracy": accuracy(again, data.test),
        }


def measure_toy(trial: Trial, config: Config) -> Measurements:
    """Gradient descent on the toy problem in random subspaces, and the least loss there is."""
    problem = toy_problem()

    class Zero(nn.Module):
        """A module whose parameters are the point itself."""

        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(problem.D, dtype=torch.float64))

        def forward(self) -> Tensor:
            """The loss."""
            return problem.loss(self.theta)

    found: dict[str, Any] = {}
    for name in PROJECTIONS:
        trained, least = [], []
        for d in (*BELOW, *ABOVE):
            model = SubspaceModel(Zero(), d, name, 10_007 * trial.seed + d)
            least.append(problem.least_loss(model.projection))
            optimizer = torch.optim.LBFGS(
                [model.v],
                max_iter=500,
                tolerance_grad=1e-12,
                tolerance_change=1e-16,
                line_search_fn="strong_wolfe",
            )

            def closure(model: SubspaceModel = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = model()
                loss.backward()
                return loss

            optimizer.step(closure)
            trained.append(float(model().detach()))
        found[f"{name}, trained"], found[f"{name}, least"] = trained, least
    return found


# -- the run -------------------------------------------------------------------------------------------------------


def _net(width: int, depth: int) -> str:
    return f"net {width}^{depth}"


def run(config: Config, log: Log) -> Report:
    """Sweeps, comparisons and baselines at every seed."""
    data = load(log.data, config)
    variants: dict[str, Any] = {
        _net(*net): partial(measure_net, config=config, data=data, width=net[0], depth=net[1]) for net in config.nets
    }
    if config.lenet:
        variants["LeNet"] = partial(measure_lenet, config=config, data=data)
    variants |= {
        f"projection {name}": partial(measure_projection, config=config, data=data, projection=name)
        for name in PROJECTIONS
        if name != config.projection
    }
    variants["permuted"] = partial(measure_permuted, config=config, data=data)
    variants["shuffled"] = partial(measure_shuffled, config=config, data=data)
    variants["baselines"] = partial(measure_baselines, config=config, data=data)
    variants["file"] = partial(measure_file, config=config, data=data)
    variants["toy"] = partial(measure_toy, config=config)
    return log.sweep(variants, seeds=config.seeds)


# -- claims and figures --------------------------------------------------------------------------------------------


def d_int(report: Report, name: str, baseline: float | None = None) -> float:
    """d_int90 of the mean over the seeds; NaN where no dimension reaches it."""
    mean = report[name, "accuracy"].mean(0)
    base = float(report[name, "baseline"].mean()) if baseline is None else baseline
    dims = tuple(int(d) for d in report[name, "dims"][0])
    result = IntrinsicDimensionResult(dims, tuple(mean), tuple(mean), base, 0.9, int(report[name, "D"][0]))
    return float("nan") if result.d_int is None else result.d_int


def _nets(report: Report) -> list[str]:
    return [name for name in report.trials if name.startswith("net ")]


def _ratio(values: list[float]) -> float:
    return max(values) / min(values)


def _second(report: Report) -> str:
    return _nets(report)[1]


def projections(report: Report) -> dict[str, float]:
    """d_int90 of the second network by projection, all against its one baseline."""
    main = _second(report)
    baseline = float(report[main, "baseline"].mean())
    found = {"sweep": d_int(report, main)}
    for name in report.trials:
        if name.startswith("projection "):
            found[name.removeprefix("projection ")] = d_int(report, name, baseline)
    return found


def _sizes(report: Report) -> list[float]:
    return [float(report[name, "D"][0]) for name in _nets(report)]


def _drops(report: Report) -> float:
    """Largest fall of the mean accuracy from one dimension to the next, over the networks."""
    return max(float((-np.diff(report[name, "accuracy"].mean(0))).max()) for name in _nets(report))


def _toy(report: Report, which: str, above: bool) -> np.ndarray:
    values = np.stack([report["toy", f"{name}, {which}"] for name in PROJECTIONS])  # projections, seeds, dimensions
    part = values[..., len(BELOW) :] if above else values[..., : len(BELOW)]
    result: np.ndarray = part.max((0, 2)) if above else part.min((0, 2))
    return result


def _least_ratio(report: Report) -> float:
    return min(size / d_int(report, name) for size, name in zip(_sizes(report), _nets(report), strict=True))


def _accuracies(report: Report, place: int) -> list[float]:
    """Mean accuracy of each network at one place of the sweep."""
    return [float(report[name, "accuracy"].mean(0)[place]) for name in _nets(report)]


def _dimensions(report: Report) -> list[float]:
    return [d_int(report, name) for name in _nets(report)]


def _permuted(report: Report) -> float:
    return abs(d_int(report, "permuted") / d_int(report, _second(report)) - 1.0)


def _file(key: str) -> Callable[[Report], np.ndarray]:
    return lambda report: report["file", key]


CLAIMS = [
    Claim("d_int90 over the networks: largest over smallest", lambda r: _ratio(_dimensions(r)), at_most=1.5),
    Claim("  while D varies by", lambda r: _ratio(_sizes(r)), at_least=5.0),
    Claim("  ablation, D itself", lambda r: _ratio(_sizes(r)), at_most=1.5, fails=True),
    Claim("D over d_int90, the least", _least_ratio, at_least=20.0, digits=".1f"),
    Claim("mean accuracy by d: largest fall", _drops, at_most=0.03),
    Claim("accuracy at the least d, the best network", lambda r: max(_accuracies(r, 0)), at_most=0.5),
    Claim("  ablation, the largest d", lambda r: min(_accuracies(r, -1)), at_most=0.5, fails=True),
    Claim(
        "toy, d = 10, 15, 20: largest loss after training",
        lambda r: _toy(r, "trained", True),
        at_most=1e-6,
        digits=".1e",
    ),
    Claim("  and by least squares", lambda r: _toy(r, "least", True), at_most=1e-6, digits=".1e"),
    Claim("  ablation, d = 2, 5, 8", lambda r: _toy(r, "trained", False), at_most=1e-6, fails=True),
    Claim("toy, d = 2, 5, 8: least loss", lambda r: _toy(r, "least", False), at_least=1e-2),
    Claim(
        "d_int90 over projections: largest over smallest", lambda r: _ratio(list(projections(r).values())), at_most=1.3
    ),
    Claim("shuffled pixels: relative change of d_int90", _permuted, at_most=0.2),
    Claim("training accuracy in the subspace, true labels", lambda r: r["shuffled", "true"], at_least=0.85),
    Claim("  ablation, shuffled labels", lambda r: r["shuffled", "shuffled"], at_least=0.85, fails=True),
    Claim("  which stay at", lambda r: r["shuffled", "shuffled"], at_most=0.3),
    Claim("from the file: share of answers that differ in a bit", _file("answers that differ"), at_most=0.0),
    Claim("  ablation, another theta_0", _file("answers that differ, another theta_0"), at_most=0.0, fails=True),
    Claim("  size of the state dict over the file's", _file("size ratio"), at_least=20.0, digits=".1f"),
]


def plot(report: Report) -> "dict[str, Figure]":
    """Accuracy against d with baselines; d_int90 against D."""
    return {"accuracy": _plot_accuracy(report), "dimension": _plot_dimension(report)}


def _plot_accuracy(report: Report) -> "Figure":
    figure, axes = new_figure("accuracy in a random subspace", x="d", y="accuracy")
    for k, name in enumerate(_nets(report)):
        d, values = report[name, "dims"][0], report[name, "accuracy"]
        label = f"{name.removeprefix('net ')}, D = {int(report[name, 'D'][0]):,}"
        axes.errorbar(d, values.mean(0), values.std(0), marker="o", ms=4, capsize=2, color=f"C{k}", label=label)
    baseline = report[_second(report), "baseline"].mean()
    axes.axhline(baseline, color="black", lw=1, label="direct training")
    axes.axhline(0.9 * baseline, color="black", lw=1, ls="--", label="90 % of it")
    for name, style in (("last layer", ":"), ("small network", "-.")):
        axes.axhline(report["baselines", name].mean(), color="gray", lw=1, ls=style, label=name)
    axes.legend(fontsize=7)
    return figure


def _plot_dimension(report: Report) -> "Figure":
    figure, axes = new_figure("intrinsic dimension and size", x="parameters D", y="d_int90")
    names = _nets(report)
    axes.loglog(_sizes(report), [d_int(report, name) for name in names], "o")
    for name, size in zip(names, _sizes(report), strict=True):
        axes.annotate(name.removeprefix("net "), (size, d_int(report, name)), xytext=(4, 4), textcoords="offset points")
    axes.set_ylim(10, max(_sizes(report)))
    axes.plot(axes.get_xlim(), axes.get_xlim(), "--", color="gray", lw=1, label="d = D")
    axes.legend()
    return figure

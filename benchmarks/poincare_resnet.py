"""The Poincaré ResNet as HypLL's layers build it, and one training step of it and of ours.

``python -m benchmarks.poincare_resnet`` prints the time of a step of both, interleaved, and the peak memory of each in
a process of its own.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypll.manifolds.poincare_ball import Curvature
from hypll.manifolds.poincare_ball import PoincareBall as HypllBall
from hypll.nn import HAvgPool2d, HBatchNorm2d, HConvolution2d, HLinear, HReLU
from hypll.optim import RiemannianAdam as HypllAdam
from hypll.tensors import ManifoldTensor, TangentTensor
from torch import Tensor, nn

from benchmarks.timing import interleave
from holonomy.models.architectures.poincare_resnet import poincare_resnet20
from holonomy.optim import RiemannianAdam

__all__ = ["HypllResNet", "training_step", "training_steps"]

#: Curvature, as our network has it by default.
_C = 0.1


class HypllBlock(nn.Module):
    """The basic block of `PoincareBasicBlock`, by HypLL's layers."""

    def __init__(self, inputs: int, outputs: int, stride: int, ball: HypllBall) -> None:
        super().__init__()
        self.ball = ball
        self.conv1 = HConvolution2d(inputs, outputs, 3, manifold=ball, stride=stride, padding=1)
        self.bn1 = HBatchNorm2d(outputs, manifold=ball, use_midpoint=True)
        self.conv2 = HConvolution2d(outputs, outputs, 3, manifold=ball, padding=1)
        self.bn2 = HBatchNorm2d(outputs, manifold=ball, use_midpoint=True)
        self.relu = HReLU(manifold=ball)
        self.shortcut: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.shortcut = HConvolution2d(inputs, outputs, 1, manifold=ball, stride=stride)

    def forward(self, x: ManifoldTensor) -> ManifoldTensor:
        """Map feature maps to feature maps."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(self.ball.mobius_add(y, x if self.shortcut is None else self.shortcut(x)))


class HypllResNet(nn.Module):
    """`PoincareResNet` with midpoint batch norms, by HypLL's layers."""

    def __init__(
        self, classes: int, channels: tuple[int, ...] = (8, 16, 32), blocks: tuple[int, ...] = (3, 3, 3)
    ) -> None:
        super().__init__()
        self.ball = ball = HypllBall(c=Curvature(_C, constraining_strategy=lambda c: c))
        width = channels[0]
        self.conv = HConvolution2d(3, width, 3, manifold=ball, padding=1)
        self.bn = HBatchNorm2d(width, manifold=ball, use_midpoint=True)
        self.relu = HReLU(manifold=ball)
        groups = []
        for group, (outputs, depth) in enumerate(zip(channels, blocks, strict=True)):
            for i in range(depth):
                groups.append(HypllBlock(width, outputs, 2 if i == 0 and group > 0 else 1, ball))
                width = outputs
        self.groups = nn.Sequential(*groups)
        self.head = HLinear(width, classes, manifold=ball)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, tangent vectors at the origin, to logits, tangent vectors there too."""
        points = self.ball.expmap(TangentTensor(x, manifold_points=None, manifold=self.ball, man_dim=1))
        maps = self.groups(self.relu(self.bn(self.conv(points))))
        pooled = HAvgPool2d(tuple(maps.tensor.shape[2:]), manifold=self.ball)(maps)
        flat = ManifoldTensor(pooled.tensor.flatten(1), manifold=self.ball, man_dim=1)
        return self.ball.logmap(None, self.head(flat)).tensor


def training_step(name: str, batch: int) -> Callable[[], object]:
    """Make one step of "holonomy" or "hypll": forward, backward and Adam, on a batch of 32 x 32 images."""
    torch.manual_seed(0)
    if name == "hypll":
        model: nn.Module = HypllResNet(10)
        optimizer: torch.optim.Optimizer = HypllAdam(model.parameters(), lr=1e-3)
    else:
        model = poincare_resnet20(10, c=_C)
        optimizer = RiemannianAdam(model.parameters(), lr=1e-3)
    images, labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10

    def step() -> object:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        return optimizer.step()

    return step


def training_steps(batch: int = 16) -> dict[str, Callable[[], object]]:
    """Both networks' steps."""
    return {name: training_step(name, batch) for name in ("holonomy", "hypll")}


def _peak(name: str, batch: int) -> float:
    """Megabytes that two steps add to the most that the process held before."""
    step = training_step(name, 2)
    step()  # kernels are compiled or loaded here, and buffers of small size made
    step = training_step(name, batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(), step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poincare_resnet", description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="images in a batch (default 16)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for the steps of both (default 60)")
    parser.add_argument("--peak", choices=("holonomy", "hypll"), help="only print the peak memory of this one, in MB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(_peak(arguments.peak, arguments.batch))
        return
    timings = interleave(training_steps(arguments.batch), rounds=25, seconds=arguments.seconds)
    for name, timing in timings.items():
        command = [sys.executable, "-m", "benchmarks.poincare_resnet", "--peak", name, "--batch", str(arguments.batch)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        print(
            f"{name}: median {timing.median * 1e3:.0f} ms, minimum {timing.minimum * 1e3:.0f} ms a step "
            f"({timing.rounds} rounds); peak {float(peak):.0f} MB"
        )


if __name__ == "__main__":
    main()

"""What the Poincaré ResNet is compared with: its Euclidean twin, a hyperbolic classifier on that, and their fusion."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet.layers import PoincareMLR
from holonomy.models.architectures.poincare_resnet.network import PoincareResNet, check_groups

__all__ = ["EuclideanResNet", "FusionResNet", "HyperbolicHeadResNet"]


class EuclideanBlock(nn.Module):
    """The basic block with torch's layers: the same shape, sums for joins."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        changes = in_channels != out_channels or stride != 1
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map feature maps (B, C_in, H, W) to (B, C_out, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class EuclideanResNet(nn.Module):
    """The same network with torch's layers; arguments as in `PoincareResNet`."""

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (8, 16, 32),
        blocks: tuple[int, ...] = (3, 3, 3),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_groups(channels, blocks)
        width = channels[0]
        self.conv = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        groups = []
        for group, (outputs, depth) in enumerate(zip(channels, blocks, strict=True)):
            layers = []
            for i in range(depth):
                layers.append(EuclideanBlock(width, outputs, 2 if i == 0 and group > 0 else 1))
                width = outputs
            groups.append(nn.Sequential(*layers))
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, channels[-1])."""
        return self.groups(F.relu(self.bn(self.conv(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        return self.head(self.features(x))


class HyperbolicHeadResNet(EuclideanResNet):
    """Euclidean backbone with hyperplanes of the Poincaré ball as classifier, the curvature learnable by default.

    Features are read as tangent vectors at the origin.
    """

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (8, 16, 32),
        blocks: tuple[int, ...] = (3, 3, 3),
        in_channels: int = 3,
        c: float = 1.0,
        learnable_c: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_classes, channels, blocks, in_channels)
        ball = PoincareBall(c=c, learnable=learnable_c)
        self.head = PoincareMLR(channels[-1], num_classes, ball, generator=generator)  # type: ignore[assignment]


class FusionResNet(nn.Module):
    """A Poincaré and a Euclidean ResNet whose pooled features are concatenated before one linear classifier."""

    def __init__(self, poincare: PoincareResNet, euclidean: EuclideanResNet, num_classes: int) -> None:
        super().__init__()
        self.poincare, self.euclidean = poincare, euclidean
        self.head = nn.Linear(poincare.head.in_features + euclidean.head.in_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Concatenated features of both networks."""
        return torch.cat([self.poincare.features(x), self.euclidean.features(x)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        return self.head(self.features(x))

"""ResNet-18 for images of 32 x 32 (He et al., CVPR 2016), without its last layer."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BasicBlock", "resnet18"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (n, outputs, h, w)."""
        return F.relu(self.path(x) + self.shortcut(x))


def resnet18(width: int) -> nn.Sequential:
    """ResNet-18 for images of 32 x 32: a first convolution of 3 x 3, no pooling before the blocks; 8 width features."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for group in range(4):
        outputs = width * 2**group
        layers += [BasicBlock(inputs, outputs, 1 if group == 0 else 2), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

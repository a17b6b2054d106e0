"""ResNet-D: residual networks with a deep stem and average pooling in their shortcuts, without a classifier.

He, Zhang et al., *Bag of tricks for image classification with convolutional neural networks*, CVPR 2019
(arXiv:1812.01187), section 4: the stem is three convolutions 3 x 3, the stride of a bottleneck is in its 3 x 3
convolution, and a shortcut that shrinks the map pools before its 1 x 1 convolution.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNetD", "resnet50_d"]

_EXPANSION = 4


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, scale: float = 1.0) -> nn.Sequential:
    norm = nn.BatchNorm2d(outputs)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), norm)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.reduce = _conv(inputs, width, 1)
        self.spatial = _conv(width, width, 3, stride)
        self.expand = _conv(width, outputs, 1, scale=0.0)  # each block starts as its shortcut
        pool: nn.Module = nn.Identity()
        if stride > 1:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else nn.Sequential(pool, _conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.spatial(F.relu(self.reduce(x))))
        return F.relu(self.expand(y) + self.shortcut(x))


class ResNetD(nn.Module):
    """Features of images, averaged over the last map; none is negative.

    Parameters
    ----------
    blocks : sequence of int
        Bottlenecks in each group; every group after the first halves the map and doubles the channels.
    width : int
        Channels within the bottlenecks of the first group; the stem has half of them, then as many.
    in_channels : int
        Channels of the images.
    small : bool
        For images of some 32 pixels: the stem keeps the size.

    Attributes
    ----------
    out_features : int
        Number of features, 4 times the width of the last group.

    Raises
    ------
    ValueError
        Where a number is not positive, or `width` is odd.
    """

    def __init__(
        self, blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, in_channels: int = 3, small: bool = False
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1 or width < 2 or width % 2 or in_channels < 1:
            raise ValueError(
                "ResNetD: 'blocks' and 'in_channels' must be positive and 'width' even, "
                f"got {tuple(blocks)}, {in_channels} and {width}"
            )
        stem = [_conv(in_channels, width // 2, 3, 1 if small else 2), _conv(width // 2, width // 2, 3)]
        layers: list[nn.Module] = []
        for conv in (*stem, _conv(width // 2, width, 3)):
            layers += [conv, nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers, *([] if small else [nn.MaxPool2d(3, 2, padding=1)]))
        channels, groups = width, []
        for number, count in enumerate(blocks):
            for i in range(count):
                groups.append(_Bottleneck(channels, width << number, 2 if number and not i else 1))
                channels = _EXPANSION * (width << number)
        self.groups = nn.Sequential(*groups)
        self.out_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, out_features) of images (B, in_channels, H, W)."""
        return self.groups(self.stem(x)).mean((2, 3))


def resnet50_d(small: bool = False) -> ResNetD:
    """Groups of 3, 4, 6 and 3 bottlenecks, 2048 features."""
    return ResNetD((3, 4, 6, 3), small=small)

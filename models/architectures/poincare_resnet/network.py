"""The Poincaré ResNet, and its basic block."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet.batchnorm import PoincareBatchNorm2d
from holonomy.models.architectures.poincare_resnet.functions import Backward, expmap0, logmap0, projection_limit
from holonomy.models.architectures.poincare_resnet.gyroplanes import Space
from holonomy.models.architectures.poincare_resnet.layers import (
    ORDERS,
    SPACES,
    Init,
    Order,
    PoincareAvgPool2d,
    PoincareConv2d,
    PoincareLinear,
    PoincareReLU,
    PoincareResidual,
    choice,
    require_ball,
)

__all__ = [
    "PoincareBasicBlock",
    "PoincareResNet",
    "poincare_resnet",
    "poincare_resnet20",
    "poincare_resnet32",
    "poincare_resnet44",
    "resnet_blocks",
]


class PoincareBasicBlock(nn.Module):
    """conv3x3(stride), BN, ReLU, conv3x3, BN; joined with the shortcut by Möbius addition; ReLU.

    The shortcut is the input, or a Poincaré 1x1 convolution of it where the shape changes.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    stride : int
        Stride of the first convolution and of the shortcut.
    ball : PoincareBall
        The geometry, shared by all layers of the block.
    init, space, backward, generator
        As in `PoincareConv2d`.
    use_midpoint, track_running_stats
        As in `PoincareBatchNorm`.
    order : {"fr", "rf", "none"}
        As in `PoincareResidual`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        ball: PoincareBall,
        init: Init = "identity",
        use_midpoint: bool = True,
        track_running_stats: bool = True,
        order: Order = "fr",
        space: Space = "tangent",
        backward: Backward = "manual",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_ball(ball)
        conv: dict[str, Any] = {
            "ball": ball,
            "init": init,
            "space": space,
            "backward": backward,
            "generator": generator,
        }
        norm: dict[str, Any] = {
            "ball": ball,
            "use_midpoint": use_midpoint,
            "track_running_stats": track_running_stats,
            "space": space,
            "backward": backward,
        }
        self.conv1 = PoincareConv2d(in_channels, out_channels, 3, stride, 1, **conv)
        self.bn1 = PoincareBatchNorm2d(out_channels, **norm)
        self.conv2 = PoincareConv2d(out_channels, out_channels, 3, 1, 1, **conv)
        self.bn2 = PoincareBatchNorm2d(out_channels, **norm)
        self.relu = PoincareReLU(ball, space=space, backward=backward)
        self.join = PoincareResidual(ball, order, space=space, backward=backward)
        changes = in_channels != out_channels or stride != 1
        self.shortcut: PoincareConv2d | None = None
        if changes and order != "none":
            self.shortcut = PoincareConv2d(in_channels, out_channels, 1, stride, **conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map feature maps (B, C_in, H, W) to (B, C_out, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.join.order != "none":
            y = self.join(y, x if self.shortcut is None else self.shortcut(x))
        return self.relu(y)


class PoincareResNet(nn.Module):
    """Residual network whose feature maps are points of the Poincaré ball from the pixels on.

    Stem conv3x3, BN, ReLU; three groups of basic blocks with strides 1, 2, 2; average pool; Poincaré linear layer,
    whose output's tangent vector at the origin are the logits.

    Parameters
    ----------
    num_classes : int
        Number of logits.
    channels : tuple of int
        Channels of each group.
    blocks : tuple of int
        Basic blocks of each group.
    in_channels : int
        Channels of the images, which are read as tangent vectors at the origin.
    c : float
        Curvature's magnitude.
    learnable_c : bool
        Whether c is trained.
    shared_ball : bool
        One ball for the whole network; False gives every block, the stem and the head a ball of their own
        (``space="tangent"`` only).
    init, order, space, backward, generator
        As in `PoincareBasicBlock`.
    use_midpoint, track_running_stats
        As in `PoincareBatchNorm`.
    pool : {"tangent", "midpoint"}
        Mode of the last pooling.
    validate : bool
        Check values in every layer (NaN, infinities, points outside the ball): for debugging.

    Raises
    ------
    ValueError
        For unknown options, sizes below 1, ``c <= 0``, groups that do not match.
    """

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (8, 16, 32),
        blocks: tuple[int, ...] = (3, 3, 3),
        in_channels: int = 3,
        c: float = 0.1,
        learnable_c: bool = False,
        *,
        shared_ball: bool = True,
        init: Init = "identity",
        use_midpoint: bool = True,
        track_running_stats: bool = True,
        order: Order = "fr",
        pool: Literal["tangent", "midpoint"] = "tangent",
        space: Space = "tangent",
        backward: Backward = "manual",
        validate: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        choice("order", order, ORDERS)
        choice("space", space, SPACES)
        check_groups(channels, blocks)
        if space == "ball" and not shared_ball:
            raise ValueError("space='ball' needs shared_ball=True: a point belongs to the ball of one curvature")
        first = PoincareBall(c=c, learnable=learnable_c, validate=validate)

        def ball() -> PoincareBall:
            return first if shared_ball else PoincareBall(c=c, learnable=learnable_c, validate=validate)

        self.ball, self.space, self.backward = first, space, backward
        shared: dict[str, Any] = {"init": init, "space": space, "backward": backward, "generator": generator}
        norm: dict[str, Any] = {"use_midpoint": use_midpoint, "track_running_stats": track_running_stats}
        width = channels[0]
        self.conv = PoincareConv2d(in_channels, width, 3, 1, 1, ball=first, **shared)
        self.bn = PoincareBatchNorm2d(width, ball=first, space=space, backward=backward, **norm)
        self.relu = PoincareReLU(first, space=space, backward=backward)
        groups = []
        for group, (outputs, depth) in enumerate(zip(channels, blocks, strict=True)):
            layers = []
            for i in range(depth):
                stride = 2 if i == 0 and group > 0 else 1
                layers.append(PoincareBasicBlock(width, outputs, stride, ball=ball(), order=order, **norm, **shared))
                width = outputs
            groups.append(nn.Sequential(*layers))
        self.groups = nn.Sequential(*groups)
        last = ball()
        self.pool = PoincareAvgPool2d(None, pool, ball=last, space=space, backward=backward)
        self.head = PoincareLinear(width, num_classes, ball=last, **shared)

    def _tangent(self, x: Tensor, ball: PoincareBall, dim: int) -> Tensor:
        return logmap0(x, ball.c, dim, backward=self.backward) if self.space == "ball" else x

    def _carry(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) images, tangent vectors at the origin, to the network's carrier."""
        if self.space == "tangent":
            return x
        return expmap0(x, self.ball.c, 1, limit=projection_limit(x.dtype), backward=self.backward)

    def _maps(self, x: Tensor) -> Tensor:
        return self.pool(self.groups(self.relu(self.bn(self.conv(self._carry(x)))))).flatten(1)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, channels[-1]) as tangent vectors at the origin, half as long as the distance to it."""
        return self._tangent(self._maps(x), self.pool.ball, -1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        return self._tangent(self.head(self._maps(x)), self.head.ball, -1)  # type: ignore[arg-type]


def check_groups(channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    """Raise ValueError where the groups of a network do not have one width and at least one block each."""
    if len(channels) != len(blocks) or not channels or any(b < 1 for b in blocks):
        raise ValueError(f"'channels' {channels} and 'blocks' {blocks} must be equally many, 1 or more blocks each")


def resnet_blocks(depth: int) -> tuple[int, int, int]:
    """Return the blocks of each group of a CIFAR ResNet of this depth: (depth - 2) / 6 in each of three.

    Raises ValueError where that is no positive integer.
    """
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ValueError(f"'depth' must be 6 n + 2 for a positive integer n (20, 32, 44, ...), got {depth!r}")
    n = (depth - 2) // 6
    return n, n, n


def poincare_resnet(depth: int, num_classes: int = 10, **options: Any) -> PoincareResNet:
    """Poincaré ResNet of this depth; `options` as in `PoincareResNet`."""
    return PoincareResNet(num_classes, blocks=resnet_blocks(depth), **options)


def poincare_resnet20(num_classes: int = 10, **options: Any) -> PoincareResNet:
    """Poincaré ResNet-20."""
    return poincare_resnet(20, num_classes, **options)


def poincare_resnet32(num_classes: int = 10, **options: Any) -> PoincareResNet:
    """Poincaré ResNet-32."""
    return poincare_resnet(32, num_classes, **options)


def poincare_resnet44(num_classes: int = 10, **options: Any) -> PoincareResNet:
    """Poincaré ResNet-44."""
    return poincare_resnet(44, num_classes, **options)

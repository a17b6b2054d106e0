"""StyleGAN2 (Karras et al., CVPR 2020) of any size: generator, discriminator and the losses that they are trained by.

Parameters have the names and shapes of the widespread PyTorch checkpoints (``style.1.weight``,
``convs.0.conv.modulation.weight``, ``to_rgbs.0.conv.weight``, ...), so that those load. A modulated convolution scales
its input's channels by the style and its output's by the demodulation, which is the convolution with scaled weights
without a set of weights for each sample.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Discriminator",
    "SmallDiscriminator",
    "StyleGenerator",
    "path_penalty",
    "r1_penalty",
    "style_channels",
]

_SMOOTH = (1.0, 3.0, 3.0, 1.0)


def style_channels(size: int, multiplier: int = 2) -> dict[int, int]:
    """StyleGAN2's channels at each resolution, up to `size`."""
    return {4 * 2**i: min(512, 64 * 256 * multiplier // (4 * 2**i)) for i in range(int(math.log2(size)) - 1)}


class EqualLinear(nn.Module):
    """Linear layer of a unit-variance weight, times 1/sqrt(in) and a multiplier of its rate."""

    def __init__(
        self, features: int, out: int, bias: float = 0.0, multiplier: float = 1.0, activation: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, features) / multiplier)
        self.bias = nn.Parameter(torch.full((out,), bias))
        self.scale, self.multiplier, self.activation = multiplier / features**0.5, multiplier, activation

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.scale, self.bias * self.multiplier)
        return F.leaky_relu(y, 0.2) * 2**0.5 if self.activation else y


class EqualConv(nn.Module):
    """Convolution of a unit-variance weight, times 1/sqrt(fan-in)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.scale, self.stride, self.padding = 1.0 / (channels * kernel**2) ** 0.5, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class PixelNorm(nn.Module):
    """Divide by the root mean square over channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Blur(nn.Module):
    """Smooth by (1, 3, 3, 1) each way, after padding."""

    kernel: Tensor

    def __init__(self, pad: tuple[int, int], gain: float = 1.0) -> None:
        super().__init__()
        line = torch.tensor(_SMOOTH)
        self.register_buffer("kernel", gain * line.outer(line) / line.sum() ** 2)  # as checkpoints have it
        self.pad, self.gain = pad, gain

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, C, H, W); by sums of shifted images, which are faster than a convolution of few channels."""
        a, b = (float(tap) * self.gain**0.5 / sum(_SMOOTH) for tap in _SMOOTH[:2])
        x = F.pad(x, (*self.pad, *self.pad))
        for axis in (2, 3):
            parts = [x.narrow(axis, i, x.shape[axis] - 3) for i in range(4)]
            x = torch.add(a * (parts[0] + parts[3]), parts[1] + parts[2], alpha=b)
        return x


class Upsample(Blur):
    """Twice the size: zeros between pixels, smoothed."""

    def __init__(self) -> None:
        super().__init__((2, 1), 4.0)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        spread = F.pad(x.view(b, c, h, 1, w, 1), (0, 1, 0, 0, 0, 1)).view(b, c, 2 * h, 2 * w)
        return super().forward(spread)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style, an affine function of the latent code."""

    def __init__(
        self, channels: int, out: int, kernel: int, latent: int, demodulate: bool = True, upsample: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, channels, kernel, kernel))
        self.modulation: nn.Module = EqualLinear(latent, channels, bias=1.0)
        self.scale, self.demodulate, self.upsample = 1.0 / (channels * kernel**2) ** 0.5, demodulate, upsample
        if upsample:
            self.blur = Blur((1, 1), 4.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style, weight = self.modulation(w), self.scale * self.weight[0]
        x = x * style[:, :, None, None]
        if self.upsample:
            y = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return y
        variance = style.square() @ weight.square().sum((2, 3)).T
        return y * torch.rsqrt(variance + 1e-8)[:, :, None, None]


class Noise(nn.Module):
    """Adds noise of a learned strength, 0 at first; `fixed` noise or fresh one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, fixed: Tensor | None) -> Tensor:
        return x + self.weight * (torch.randn_like(x[:, :1]) if fixed is None else fixed.to(x.dtype))


class Bias(nn.Module):
    """Bias and leaky ReLU, times sqrt 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * 2**0.5


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias and leaky ReLU."""

    def __init__(self, channels: int, out: int, latent: int, demodulate: bool, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, out, 3, latent, demodulate, upsample)
        self.noise = Noise()
        self.activate = Bias(out)

    def forward(self, x: Tensor, w: Tensor, fixed: Tensor | None, noisy: bool) -> Tensor:
        y = self.conv(x, w)
        return self.activate(self.noise(y, fixed) if noisy else y)


class ToRGB(nn.Module):
    """Colours from features, added to those of half the size."""

    def __init__(self, channels: int, colours: int, latent: int, upsample: bool = True) -> None:
        super().__init__()
        if upsample:
            self.upsample = Upsample()
        self.conv = ModulatedConv(channels, colours, 1, latent, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, colours, 1, 1))

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        y = self.conv(x, w) + self.bias
        return y if skip is None else y + self.upsample(skip)


class Constant(nn.Module):
    """The learned 4 x 4 input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Noises(nn.Module):
    """Fixed noise of each layer, ``noise_0``, ``noise_1``, ..."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        for i, size in enumerate(sizes):
            self.register_buffer(f"noise_{i}", torch.randn(1, 1, size, size))


class StyleGenerator(nn.Module):
    """StyleGAN2's generator.

    Layer i of a code (B, L, d) goes to ``conv1`` (0) or ``convs.i-1``; a ``to_rgb`` shares the code of the convolution
    after it, and the last has its own.

    Parameters
    ----------
    size : int
        Pixels on a side of the images, a power of two, 8 at least.
    latent : int
        Number d of entries of z and w.
    channels : dict
        Channels at each resolution from 4.
    mapping : int
        Layers of the mapping from z to w.
    colours : int
        Channels of the images.
    noisy : bool
        Whether there is noise.
    rate : float
        Multiplier of the mapping's learning rate.
    demodulate : bool
        Whether convolutions bring their output back to unit size, as StyleGAN2's do and StyleGAN's do not.

    Raises
    ------
    ValueError
        Where the size is no power of two from 8.
    """

    def __init__(
        self,
        size: int,
        latent: int,
        channels: dict[int, int],
        mapping: int = 8,
        colours: int = 3,
        noisy: bool = True,
        rate: float = 0.01,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        _check_size(size)
        self.size, self.latent, self.noisy = size, latent, noisy
        layers = [EqualLinear(latent, latent, multiplier=rate, activation=True) for _ in range(mapping)]
        self.style = nn.Sequential(PixelNorm(), *layers)
        self.input = Constant(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], latent, demodulate)
        self.to_rgb1 = ToRGB(channels[4], colours, latent, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        sizes = [8 * 2**i for i in range(int(math.log2(size)) - 2)]
        for now in sizes:
            self.convs.append(StyledConv(channels[now // 2], channels[now], latent, demodulate, upsample=True))
            self.convs.append(StyledConv(channels[now], channels[now], latent, demodulate))
            self.to_rgbs.append(ToRGB(channels[now], colours, latent))
        self.noises = Noises([4, *(now for now in sizes for _ in range(2))] if noisy else [])

    @property
    def layers(self) -> int:
        """Number L of codes of an image."""
        return len(self.convs) + 2

    def map(self, z: Tensor) -> Tensor:
        """Codes (B, d) of z (B, d)."""
        return self.style(z)

    def styles(self) -> list[nn.Module]:
        """The projections of the convolutions: number i has layer i of the code."""
        return [conv.conv.modulation for conv in (self.conv1, *self.convs)]

    def forward(self, ws: Tensor, fixed_noise: bool = True) -> Tensor:
        """Images (B, colours, size, size) of codes (B, L, d), or (B, d) for all layers."""
        if ws.ndim == 2:
            ws = ws.unsqueeze(1).expand(-1, self.layers, -1)

        def noise(i: int) -> Tensor | None:
            return getattr(self.noises, f"noise_{i}") if self.noisy and fixed_noise else None

        x = self.input.input.expand(len(ws), -1, -1, -1)
        x = self.conv1(x, ws[:, 0], noise(0), self.noisy)
        image = self.to_rgb1(x, ws[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs):
            for j in (2 * i, 2 * i + 1):
                x = self.convs[j](x, ws[:, j + 1], noise(j + 1), self.noisy)
            image = to_rgb(x, ws[:, 2 * i + 3], image)
        return image


def _conv_layer(channels: int, out: int, kernel: int, downsample: bool = False, activate: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = []
    if downsample:
        p = 2 + kernel - 1
        parts.append(Blur(((p + 1) // 2, p // 2)))
    padding = 0 if downsample else kernel // 2
    parts.append(EqualConv(channels, out, kernel, 2 if downsample else 1, padding, bias=False))
    return nn.Sequential(*parts, *([Bias(out)] if activate else []))


class ResidualBlock(nn.Module):
    """Two convolutions to half the size, beside one of 1 x 1."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = _conv_layer(channels, channels, 3)
        self.conv2 = _conv_layer(channels, out, 3, downsample=True)
        self.skip = _conv_layer(channels, out, 1, downsample=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / 2**0.5


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator, with the deviation over groups of the batch as a last channel.

    Parameters
    ----------
    size, channels, colours
        As in `StyleGenerator`.

    Raises
    ------
    ValueError
        Where the size is no power of two from 8.
    """

    def __init__(self, size: int, channels: dict[int, int], colours: int = 3) -> None:
        super().__init__()
        _check_size(size)
        sizes = [size // 2**i for i in range(int(math.log2(size)) - 2)]
        blocks = [ResidualBlock(channels[now], channels[now // 2]) for now in sizes]
        self.convs = nn.Sequential(_conv_layer(colours, channels[size], 1), *blocks)
        self.final_conv = _conv_layer(channels[4] + 1, channels[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(16 * channels[4], channels[4], activation=True), EqualLinear(channels[4], 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,) of images."""
        x = self.convs(images)
        return self.final_linear(self.final_conv(_with_deviation(x)).flatten(1)).squeeze(1)


class SmallDiscriminator(nn.Module):
    """Two convolutions of stride 2, the deviation over groups of the batch, and a linear layer; for small images.

    Parameters
    ----------
    size : int
        Pixels on a side, a multiple of 4.
    width : int
        Channels of the first convolution, half those of the second.
    colours : int
        Channels of the images.

    Raises
    ------
    ValueError
        Where the size is no multiple of 4.
    """

    def __init__(self, size: int, width: int, colours: int = 1) -> None:
        super().__init__()
        if size < 4 or size % 4:
            raise ValueError(f"size must be a multiple of 4, got {size}")
        self.first = EqualConv(colours, width, 4, 2, 1)
        self.second = EqualConv(width, 2 * width, 4, 2, 1)
        self.hidden = EqualLinear((2 * width + 1) * (size // 4) ** 2, 4 * width, activation=True)
        self.last = EqualLinear(4 * width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,) of images."""
        x = F.leaky_relu(self.first(images), 0.2) * 2**0.5
        x = F.leaky_relu(self.second(x), 0.2) * 2**0.5
        return self.last(self.hidden(_with_deviation(x).flatten(1))).squeeze(1)


def _with_deviation(x: Tensor) -> Tensor:
    group = next(n for n in (4, 3, 2, 1) if len(x) % n == 0)
    parts = x.view(group, -1, *x.shape[1:])
    # Not var(), which is several times slower over a leading axis as short as this.
    variance = (parts - parts.mean(0)).square().mean(0)
    spread = (variance + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


def r1_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean squared length of the scores' gradient by real images."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def path_penalty(images: Tensor, ws: Tensor, mean: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Squared deviation of |J^T y| from its running mean, y noise over the images of codes `ws`; and that mean, moved.

    StyleGAN2's path-length regulariser, equation 4 of Karras et al.
    """
    noise = torch.randn(images.shape, generator=generator).to(images) / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    lengths = gradient.square().sum(-1).reshape(len(images), -1).mean(1).sqrt()
    moved = mean + 0.01 * (lengths.detach().mean() - mean)
    return (lengths - moved).square().mean(), moved


def _check_size(size: int) -> None:
    if size < 8 or size & (size - 1):
        raise ValueError(f"size must be a power of two, 8 at least, got {size}")

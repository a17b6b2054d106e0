"""Networks that denoise: EDM's preconditioning (Karras et al., NeurIPS 2022) around a perceptron or a U-Net.

All take points (n, D), flattened images where they are images, and see them at x_t = x_0 + sigma eps; other processes
are brought to that by dividing by s.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EDMDenoiser", "Perceptron", "UNet"]


class EDMDenoiser(nn.Module):
    """x_theta = c_skip x + c_out F(c_in x, log(sigma)/4): near the identity where there is little noise.

    Parameters
    ----------
    body : nn.Module
        F, of points (n, D) and levels (n,).
    scale : float
        Deviation of the data's coordinates.
    """

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"EDMDenoiser: 'scale' must be positive, got {scale}")
        self.body, self.scale = body, scale

    def forward(self, x_t: Tensor, s: Any, g: Any) -> Tensor:
        """Estimates of x_0, shaped as points (n, D) or (D,), at coefficients s and g, numbers or one a point."""
        points = x_t if x_t.ndim == 2 else x_t[None]
        s, g = (torch.as_tensor(c, dtype=x_t.dtype, device=x_t.device).reshape(-1, 1) for c in (s, g))
        sigma = (g / s).expand(len(points), 1)
        y, total = points / s, sigma**2 + self.scale**2
        found = self.body(y * total.rsqrt(), sigma.squeeze(1).log() / 4.0)
        result = self.scale**2 / total * y + sigma * self.scale * total.rsqrt() * found
        return result if x_t.ndim == 2 else result[0]

    def weight(self, s: Tensor, g: Tensor) -> Tensor:
        """EDM's weight of the loss, by which every level starts with the same."""
        sigma = g / s
        return (sigma**2 + self.scale**2) / (sigma * self.scale) ** 2


def _features(level: Tensor, count: int) -> Tensor:
    """Sines and cosines (n, count) of levels (n,)."""
    rates = torch.exp(torch.linspace(0.0, math.log(30.0), count // 2, device=level.device, dtype=level.dtype))
    angles = level.unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class Perceptron(nn.Module):
    """Two hidden layers, which see the level by its features; the last layer starts at 0.

    Parameters
    ----------
    size, width : int
        Coordinates D, and units of the hidden layers.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Linear(size + 16, width),
            nn.Linear(width, width),
            nn.Linear(width, size),
        )
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Of points (n, D) and levels (n,)."""
        h = torch.tanh(self.first(torch.cat([x, _features(level, 16)], 1)))
        return self.last(torch.tanh(self.second(h)))


def _groups(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions, the second scaled and shifted by the level; and a shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _groups(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.level = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = _groups(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.level(e)[:, :, None, None].chunk(2, 1)
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h) * (1.0 + scale) + shift))


class _Attention(nn.Module):
    """One head of attention over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.inwards, self.outwards = (
            _groups(channels),
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )
        nn.init.zeros_(self.outwards.weight)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x).flatten(2).mT
        q, k, v = self.inwards(flat).chunk(3, -1)
        return x + self.outwards(F.scaled_dot_product_attention(q, k, v)).mT.reshape(x.shape)


class UNet(nn.Module):
    """A U-Net of DDPM's kind: residual blocks down and up, attention at the bottom; the last layer starts at 0.

    Parameters
    ----------
    shape : tuple of int
        Colours, height and width of the images; sides divisible by 2^(depth - 1).
    width : int
        Channels at full size, doubled at every halving.
    depth : int
        Sizes.

    Raises
    ------
    ValueError
        Where a side cannot be halved that often.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        if any(side % 2 ** (depth - 1) for side in shape[1:]):
            raise ValueError(f"UNet: sides must be divisible by {2 ** (depth - 1)}, got {shape[1:]}")
        self.shape, embedding = shape, 4 * width
        self.embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        channels = [width * 2**i for i in range(depth)]
        self.first = nn.Conv2d(shape[0], width, 3, padding=1)
        self.down, self.up, self.halve = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, c in enumerate(channels):
            self.down.append(_Residual(channels[max(i - 1, 0)], c, embedding))
            self.halve.append(nn.Conv2d(c, c, 3, 2, 1) if i + 1 < depth else nn.Identity())
            self.up.append(_Residual(c + channels[min(i + 1, depth - 1)], c, embedding))
        self.middle, self.attention = _Residual(channels[-1], channels[-1], embedding), _Attention(channels[-1])
        self.norm, self.last = _groups(width), nn.Conv2d(width, shape[0], 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Of points (n, D), flattened images, and levels (n,)."""
        e = self.embed(_features(level, 32))
        h, kept = self.first(x.reshape(-1, *self.shape)), []
        for block, halve in zip(self.down, self.halve, strict=True):
            h = block(h, e)
            kept.append(h)
            h = halve(h)
        h = self.attention(self.middle(h, e))
        for block, side in zip(reversed(self.up), reversed(kept), strict=True):
            if h.shape[-1] != side.shape[-1]:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            h = block(torch.cat([side, h], 1), e)
        return self.last(F.silu(self.norm(h))).flatten(1)

"""Images of one soft disc each, whose position, radius and brightness are known, and can be measured again."""

import torch
from torch import Tensor

__all__ = ["ATTRIBUTES", "disc_attributes", "draw_discs", "render_discs"]

ATTRIBUTES = ("x", "y", "area", "peak")
#: Pixels over which a disc's edge falls off.
_EDGE = 0.5


def render_discs(factors: Tensor, size: int = 16) -> Tensor:
    """Draw discs.

    Parameters
    ----------
    factors : Tensor
        Factors (B, 4) from 0 to 1: centre by columns and by rows, radius, brightness.
    size : int
        Pixels on a side.

    Returns
    -------
    Tensor
        Images (B, 1, size, size), -1 where there is nothing, up to 1.
    """
    x, y, radius, brightness = factors.T[:, :, None, None]
    grid = torch.arange(size, dtype=factors.dtype, device=factors.device)
    # A disc stays inside: its centre is 4.5 / 16 of the size from an edge, its radius at most 4 / 16.
    x, y = (size * (4.5 + 6.0 * centre) / 16.0 for centre in (x, y))
    distance = ((grid - x).square() + (grid[:, None] - y).square()).sqrt()
    light = (0.4 + 0.6 * brightness) * torch.sigmoid((size * (2.0 + 2.0 * radius) / 16.0 - distance) / _EDGE)
    return 2.0 * light[:, None] - 1.0


def draw_discs(count: int, generator: torch.Generator, size: int = 16) -> Tensor:
    """Images of discs with uniform, independent factors."""
    return render_discs(torch.rand(count, 4, generator=generator), size)


def disc_attributes(images: Tensor) -> Tensor:
    """Measure images of one disc: `ATTRIBUTES`.

    Parameters
    ----------
    images : Tensor
        (B, 1, H, W), -1 for nothing; what is darker counts as nothing.

    Returns
    -------
    Tensor
        (B, 4): the light's centre by columns and by rows, in pixels; all light over the brightest pixel's; that pixel.
    """
    light = (0.5 * (images[:, 0] + 1.0)).clamp(min=0.0)
    total, peak = light.sum((1, 2)).clamp(min=1e-6), light.amax((1, 2)).clamp(min=1e-3)
    rows, columns = (torch.arange(n, dtype=light.dtype, device=light.device) for n in light.shape[1:])
    centre = [light.sum(1) @ columns / total, light.sum(2) @ rows / total]
    return torch.stack([*centre, total / peak, peak], 1)

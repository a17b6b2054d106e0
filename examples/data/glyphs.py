"""Characters of three scripts as small grey images, rendered from the DejaVu fonts that come with matplotlib.

A class is a character, Latin, Greek or Cyrillic, none of which looks like another, in six faces; every image is turned,
sheared, scaled, shifted and made noisy. Classes are split at random: base classes train a feature extractor, novel
ones are never seen by it.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holonomy.examples.errors import require

__all__ = ["CHARACTERS", "FACES", "Glyphs", "distort", "load_glyphs", "templates"]

#: Of letters that differ by script or size alone (A and Α, k and K, Π and π) there is one.
CHARACTERS = (
    "ABCDEFGHJKLMNPQRSTUVWXYZabdefghmnqrtyÆæŒÞðŊ"  # Latin
    "ΓΔΘΛΞΠΣΦΨΩαβδεζλμξσω"  # Greek
    "БДЖИЦЧШЪЫЭЮЯЂЉЊѢб"  # Cyrillic
)
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
)
#: Side of an image in pixels; characters are drawn on twice that, and sampled at half the resolution.
SIDE = 20


@dataclass(frozen=True)
class Glyphs:
    """Images (N, 1, 20, 20), float32, about [0, 1], and labels (N,) from 0, int64, of three groups of classes.

    Attributes
    ----------
    base : tuple of Tensor
        For training; 50 classes unless told otherwise.
    validation : tuple of Tensor
        Other images of some of the base classes, labelled from 0.
    novel : tuple of Tensor
        The classes that are not base.
    """

    base: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    novel: tuple[Tensor, Tensor]


@cache
def templates() -> Tensor:
    """Every character in every face, centred, all drawn in one size of type: (characters, faces, 40, 40)."""
    image_module, font_module = require("PIL.Image", "pillow"), require("PIL.ImageFont", "pillow")
    draw_module = require("PIL.ImageDraw", "pillow")
    folder = Path(require("matplotlib", "matplotlib").get_data_path()) / "fonts" / "ttf"
    side = 2 * SIDE
    drawn = np.zeros((len(CHARACTERS), len(FACES), side, side), np.float32)
    for column, face in enumerate(FACES):
        font = font_module.truetype(str(folder / f"{face}.ttf"), 30)
        for row, character in enumerate(CHARACTERS):
            image = image_module.new("L", (side, side))
            left, top, right, bottom = font.getbbox(character)
            place = ((side - left - right) / 2, (side - top - bottom) / 2)
            draw_module.Draw(image).text(place, character, fill=255, font=font)
            drawn[row, column] = np.asarray(image, np.float32) / 255.0
    return torch.from_numpy(drawn)


def distort(images: Tensor, generator: torch.Generator, noise: float = 0.15) -> Tensor:
    """Turn by up to 20 degrees, shear by 0.2, scale to 0.8-1.2, shift by 2 pixels; and noise.

    Parameters
    ----------
    images : Tensor
        (N, 1, 40, 40).
    generator : torch.Generator
        Draws it all.
    noise : float, default 0.15
        Standard deviation of Gaussian noise on pixels.

    Returns
    -------
    Tensor
        (N, 1, 20, 20).
    """

    def draw(limit: float) -> Tensor:
        return limit * (2.0 * torch.rand(len(images), generator=generator) - 1.0)

    turn, shear, scale = draw(math.radians(20.0)), draw(0.2), 1.0 / (1.0 + draw(0.2))
    right, down = draw(2.0 * 2.0 / SIDE), draw(2.0 * 2.0 / SIDE)
    cos, sin = scale * turn.cos(), scale * turn.sin()
    maps = torch.stack(
        [torch.stack([cos, shear * cos - sin, right], -1), torch.stack([sin, shear * sin + cos, down], -1)], 1
    )
    turned = F.grid_sample(images, F.affine_grid(maps, list(images.shape), align_corners=False), align_corners=False)
    small = F.avg_pool2d(turned, 2)
    return small + noise * torch.randn(small.shape, generator=generator)


def load_glyphs(seed: int, per_class: int = 40, n_base: int = 50, n_validation: int = 10) -> Glyphs:
    """Render all classes and split them.

    Parameters
    ----------
    seed : int
        Of the split, the faces and all distortions.
    per_class : int, default 40
        Images of a class.
    n_base, n_validation : int
        Base classes, and those of them that have further images for validation.

    Raises
    ------
    ValueError
        Where there are not as many classes, or `per_class` is not positive.
    MissingPackageError
        If matplotlib or Pillow is not installed.
    """
    if not (0 < n_validation <= n_base < len(CHARACTERS) and per_class >= 1):
        raise ValueError(
            f"load_glyphs: wanted 0 < n_validation <= n_base < {len(CHARACTERS)} and per_class >= 1, got "
            f"{n_validation}, {n_base} and {per_class}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(CHARACTERS), generator=generator)

    def group(classes: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.arange(len(classes)).repeat_interleave(per_class)
        faces = torch.randint(len(FACES), (len(labels),), generator=generator)
        return distort(templates()[classes[labels], faces].unsqueeze(1), generator), labels

    return Glyphs(group(order[:n_base]), group(order[:n_validation]), group(order[n_base:]))

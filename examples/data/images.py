"""Images of a folder, however deep, without labels: what a generator learns from."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.errors import DataError, require

__all__ = ["SUFFIXES", "Images", "centre", "decode"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def centre(size: tuple[int, int], share: float = 1.0) -> tuple[float, float, float, float]:
    """Window in the middle of an image of some width and height: a square, of a share of the shorter side."""
    width, height = size
    side = share * min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def decode(path: Path, size: int, window: Callable[[tuple[int, int]], tuple[float, float, float, float]]) -> np.ndarray:
    """Pixels (size, size, 3), uint8, of the window that ``window((width, height))`` names."""
    image_module = require("PIL.Image", "pillow")
    with image_module.open(path) as file:
        image = file.convert("RGB")
    return np.asarray(image.resize((size, size), image_module.Resampling.BILINEAR, box=window(image.size)))


class Images:
    """The images below a folder, in the order of their paths, decoded batch by batch.

    Parameters
    ----------
    folder : Path
        The folder.
    size : int
        Images are given as (3, size, size): the square in the middle, resized.

    Raises
    ------
    DataError
        If the folder or images in it are not there.
    """

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise DataError(f"--data: {folder} is not there; wanted a folder of images")
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self.files:
            raise DataError(f"--data: {folder} has no images; wanted {', '.join(sorted(SUFFIXES))}")
        self.size = size

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random images (count, 3, size, size) from -1 to 1, half of them flipped from left to right."""
        index = torch.randint(len(self.files), (count,), generator=generator)
        flips = torch.rand(count, generator=generator) < 0.5
        chosen = [self.files[i] for i in index.tolist()]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(lambda path: decode(path, self.size, centre), chosen))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)

"""Images of a folder, however deep, without labels: what a generator learns from."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.errors import DataError, require

__all__ = ["Images"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


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
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not self.files:
            raise DataError(f"--data: {folder} has no images; wanted {', '.join(sorted(_SUFFIXES))}")
        self.size = size

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random images (count, 3, size, size) from -1 to 1, half of them flipped from left to right."""
        index = torch.randint(len(self.files), (count,), generator=generator)
        flips = torch.rand(count, generator=generator) < 0.5
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(self._decode, index.tolist()))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)

    def _decode(self, index: int) -> np.ndarray:
        image_module = require("PIL.Image", "pillow")
        with image_module.open(self.files[index]) as file:
            image = file.convert("RGB")
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((self.size, self.size), image_module.Resampling.BILINEAR, box=box))

"""Images in folders, one a class, decoded batch by batch: ImageNet's layout, for data that is larger than memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.data.images import SUFFIXES, centre, decode
from holonomy.examples.errors import DataError

__all__ = ["ImageFolder"]

#: ImageNet's mean and standard deviation of red, green and blue.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolder:
    """The images ``<folder>/<class>/*.jpg`` (or .jpeg, .png, .bmp, .webp), classes in the order of their names.

    Parameters
    ----------
    folder : Path
        The folder of the classes' folders.
    size : int
        Images are given as (3, size, size).
    classes : sequence of str, optional
        Names that the folder must have, in the order of their labels: those of the training set.

    Attributes
    ----------
    labels : Tensor
        (N,), int64.
    classes : list of str
        Names of the classes.

    Raises
    ------
    DataError
        If the folder or its images are not there, or its classes are not `classes`.
    """

    def __init__(self, folder: Path, size: int, classes: list[str] | None = None) -> None:
        if not folder.is_dir():
            raise DataError(f"--data: {folder} is not there; wanted a folder with a folder of images for each class")
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if classes is not None and found != classes:
            raise DataError(f"--data: {folder} has {len(found)} classes, not the same {len(classes)} as for training")
        self.files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(found):
            files = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
            if not files:
                raise DataError(f"--data: {folder / name} has no images; wanted {', '.join(sorted(SUFFIXES))}")
            self.files += files
            labels += [label] * len(files)
        if not found:
            raise DataError(f"--data: {folder} has no folders; wanted one for each class")
        self.classes, self.size, self.labels = found, size, torch.tensor(labels)

    def load(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Decode images on as many threads as torch has.

        Parameters
        ----------
        index : Tensor
            Which, (B,).
        generator : torch.Generator, optional
            Draws crops of 8 to 100 % of the area at an aspect of 3/4 to 4/3, and flips; without it, the centre is
            taken, 7/8 of the shorter side.

        Returns
        -------
        Tensor
            (B, 3, size, size), float32, with ImageNet's mean and deviation taken out.
        """
        draws = [None] * len(index) if generator is None else torch.rand(len(index), 41, generator=generator).tolist()
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(self._decode, index.tolist(), draws))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)

    def _decode(self, index: int, draws: list[float] | None) -> np.ndarray:
        window = (lambda size: centre(size, 0.875)) if draws is None else (lambda size: _crop(size, draws))
        pixels = decode(self.files[index], self.size, window)
        return pixels[:, ::-1].copy() if draws is not None and draws[0] < 0.5 else pixels


def _crop(size: tuple[int, int], draws: list[float]) -> tuple[float, float, float, float]:
    """Window of random area and aspect from uniform numbers: the first of ten tries that fits, else the centre."""
    width, height = size
    for k in range(1, 41, 4):
        area = width * height * (0.08 + 0.92 * draws[k])
        aspect = (3 / 4) * (16 / 9) ** draws[k + 1]  # log-uniform from 3/4 to 4/3
        w, h = (area * aspect) ** 0.5, (area / aspect) ** 0.5
        if w <= width and h <= height:
            left, top = draws[k + 2] * (width - w), draws[k + 3] * (height - h)
            return left, top, left + w, top + h
    return centre(size, 0.875)

"""Labelled images with a fixed split, the form that the image loaders share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.examples.errors import DataError


@dataclass(frozen=True)
class Labelled:
    """A training and a test set of labelled samples.

    Attributes
    ----------
    train, test : tuple of (Tensor, Tensor)
        Samples, float32 of shape (N, C, H, W) in [0, 1], and labels, int64 of shape (N,) in [0, classes).
    classes : int
        Number of classes.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Labelled":
        """Return the same sets on a device, the samples in a floating dtype."""

        def move(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return pair[0].to(device=device, dtype=dtype), pair[1].to(device)

        return Labelled(move(self.train), move(self.test), self.classes)

    def only(self, *labels: int) -> "Labelled":
        """Return the samples of some classes, with their labels as they are."""

        def keep(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            mask = torch.isin(pair[1], torch.tensor(labels, device=pair[1].device))
            return pair[0][mask], pair[1][mask]

        return Labelled(keep(self.train), keep(self.test), self.classes)


def stratified(samples: Tensor, labels: Tensor, test: int, generator: torch.Generator) -> Labelled:
    """Split so that each class has its share of the test set, to within one sample.

    Parameters
    ----------
    samples, labels : Tensor
        (N, ...) and int64 (N,), labels 0 to classes - 1.
    test : int
        Number of test samples.
    generator : torch.Generator
        Shuffles both sets.

    Raises
    ------
    ValueError
        If ``test`` leaves one of the sets empty.
    """
    if not 0 < test < len(labels):
        raise ValueError(f"test must be between 1 and {len(labels) - 1}, got {test}")
    shuffled = torch.randperm(len(labels), generator=generator)
    # Position of each sample within its class, as a fraction: sorting by it interleaves the classes evenly.
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    within = torch.cat([(torch.arange(int(count)) + 0.5) / int(count) for count in counts])
    order = by_class[torch.argsort(within, stable=True)]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[:test]] = True
    in_test, in_train = shuffled[chosen[shuffled]], shuffled[~chosen[shuffled]]
    return Labelled(
        (samples[in_train], labels[in_train]), (samples[in_test], labels[in_test]), classes=int(labels.max()) + 1
    )


def load_arrays(path: Path) -> Labelled:
    """Read the user's own images from a NumPy archive.

    Parameters
    ----------
    path : Path
        An ``.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test``: images (N, H, W) or (N, C, H, W), uint8 in
        [0, 255] or floating in [0, 1], and integer labels (N,).

    Raises
    ------
    DataError
        If the file is not there or not of that form; the message names the array.
    """
    if not path.is_file():
        raise DataError(f"--data {path} is not a file; wanted an .npz with x_train, y_train, x_test, y_test")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"--data {path} is not an .npz with x_train, y_train, x_test, y_test: {error}") from error
    train = _pair(arrays["x_train"], arrays["y_train"], "train", path)
    test = _pair(arrays["x_test"], arrays["y_test"], "test", path)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"--data {path}: x_train and x_test differ in shape, {train[0].shape} and {test[0].shape}")
    return Labelled(train, test, classes=int(torch.cat([train[1], test[1]]).max()) + 1)


def _pair(images: np.ndarray, labels: np.ndarray, name: str, path: Path) -> tuple[Tensor, Tensor]:
    if images.ndim not in (3, 4) or len(images) == 0 or labels.shape != (len(images),):
        raise DataError(
            f"--data {path}: x_{name} must be (N, H, W) or (N, C, H, W) and y_{name} (N,), "
            f"got {images.shape} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError(f"--data {path}: y_{name} must be integers from 0, got {labels.dtype} from {labels.min()}")
    pixels = torch.from_numpy(images.astype(np.float32))
    if images.dtype == np.uint8:
        pixels = pixels / 255
    if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise DataError(f"--data {path}: x_{name} must be uint8, or floating in [0, 1]")
    return (pixels if images.ndim == 4 else pixels.unsqueeze(1)), torch.from_numpy(labels.astype(np.int64))

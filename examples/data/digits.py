"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, ten classes (UCI optdigits, CC BY 4.0)."""

from pathlib import Path

import torch

from holonomy.examples.data.split import Labelled, load_arrays, stratified
from holonomy.examples.errors import require

TEST = 500


def load_digits(path: Path | None = None, test: int = TEST) -> Labelled:
    """Load the digits with a fixed stratified split, unless told otherwise of 1,297 to train and 500 to test.

    Parameters
    ----------
    path : Path, optional
        The user's own images instead, an ``.npz`` as `load_arrays` reads it.
    test : int
        Number of test images, where no path is given.

    Returns
    -------
    Labelled
        Images (N, 1, 8, 8), float32 in [0, 1]; labels int64.

    Raises
    ------
    MissingPackageError
        If scikit-learn is not installed.
    """
    if path is not None:
        return load_arrays(path)
    bunch = require("sklearn.datasets", "scikit-learn").load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    return stratified(images, torch.from_numpy(bunch.target).long(), test, torch.Generator().manual_seed(0))

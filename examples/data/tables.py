"""scikit-learn's tables: diabetes (442 x 10) and Wisconsin breast cancer (569 x 30), with standardised columns."""

import numpy as np

from holonomy.examples.errors import require


def load_diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Features (442, 10) and the target (442,), each column with mean 0 and standard deviation 1, float64.

    Raises
    ------
    MissingPackageError
        If scikit-learn is not installed.
    """
    bunch = require("sklearn.datasets", "scikit-learn").load_diabetes()
    return standardised(bunch.data), standardised(bunch.target)


def load_breast_cancer() -> np.ndarray:
    """Features (569, 30), each column with mean 0 and standard deviation 1, float64.

    Raises
    ------
    MissingPackageError
        If scikit-learn is not installed.
    """
    return standardised(require("sklearn.datasets", "scikit-learn").load_breast_cancer().data)


def standardised(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1."""
    return (columns - columns.mean(0)) / columns.std(0)

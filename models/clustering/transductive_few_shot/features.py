"""Normalisation of features: CL2N centres them by the base classes' mean and puts them on the sphere."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds import Sphere
from holonomy.models.clustering.transductive_few_shot.inputs import points

__all__ = ["normalize_features"]


def normalize_features(X: Any, mean: Any = None, mode: Literal["CL2N", "L2N", "UN"] = "CL2N") -> Any:
    """Features as they are compared: centred and of length 1 (CL2N), of length 1 (L2N), or as they are (UN).

    Parameters
    ----------
    X : array-like or Tensor
        Features (n, d).
    mean : array-like or Tensor, optional
        (d,), of CL2N alone: the mean feature of the base classes. (The mean of the novel classes is another protocol.)
    mode : {"CL2N", "L2N", "UN"}, default "CL2N"
        What is done.

    Returns
    -------
    ndarray or Tensor
        (n, d), of the type of `X`.

    Raises
    ------
    ValueError
        Where `X` is not (n, d) or not finite, a row to be put on the sphere is 0, `mean` is left out of CL2N or does
        not have width d, or `mode` is unknown.

    Notes
    -----
    Wang, Chao, Weinberger, van der Maaten, *SimpleShot*, 2019 (arXiv:1911.04623), section 2.
    """
    if mode not in ("CL2N", "L2N", "UN"):
        raise ValueError(f"normalize_features: 'mode' must be 'CL2N', 'L2N' or 'UN', got {mode!r}")
    found = points("normalize_features", "X", X)
    if mode == "CL2N":
        if mean is None:
            raise ValueError(
                "normalize_features: CL2N subtracts 'mean', the mean feature of the base classes; got None"
            )
        centre = np.asarray(mean.detach().cpu() if isinstance(mean, Tensor) else mean, dtype=found.dtype)
        if centre.shape != found.shape[1:] or not np.isfinite(centre).all():
            raise ValueError(
                f"normalize_features: 'mean' must be finite and of shape {found.shape[1:]}, got shape {centre.shape}"
            )
        found = found - centre
    if mode != "UN":
        zero = (found == 0).all(1).nonzero()[0]
        if len(zero):
            raise ValueError(f"normalize_features: row {zero[0]} of 'X' has length 0 under {mode}, and no direction")
        found = Sphere().projx(torch.from_numpy(np.ascontiguousarray(found))).numpy()
    return torch.from_numpy(found).to(X.device) if isinstance(X, Tensor) else found

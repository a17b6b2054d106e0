"""Points between two embeddings: along the geodesic of the sphere, or along the chord."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from holonomy.manifolds import Sphere

__all__ = ["geodesic_mix", "linear_mix"]

_SPHERE = Sphere()


def geodesic_mix(
    a: Tensor, b: Tensor, lam: float | Tensor, *, on_antipodal: Literal["choose", "raise"] = "choose"
) -> Tensor:
    """m_lam(a, b) = (sin(lam theta) a + sin((1 - lam) theta) b)/sin(theta), theta the angle: a at 1, b at 0.

    It is `Sphere.geodesic` at 1 - lam, whose formulas neither take an arccos nor divide by a small sine: value and
    gradient are right for equal embeddings too. Paper, equation 3.

    Parameters
    ----------
    a, b : Tensor
        Unit vectors (N, d) in the last dimension, d at least 2.
    lam : float or Tensor
        From 0 to 1: a number, a scalar tensor, or (N, 1).
    on_antipodal : {"choose", "raise"}, default "choose"
        For exactly opposite rows, where every great circle is shortest: one fixed circle, or a ValueError.

    Returns
    -------
    Tensor
        Unit vectors (N, d); half precision is computed in float32 and rounded.

    Raises
    ------
    TypeError
        Where an embedding is not floating.
    ValueError
        Where shapes differ, `lam` is out of its range or of another shape, or rows are opposite and may not be.
    """
    _check("geodesic_mix", a, b, lam)
    if on_antipodal not in ("choose", "raise"):
        raise ValueError(f"geodesic_mix: 'on_antipodal' must be 'choose' or 'raise', got {on_antipodal!r}")
    if on_antipodal == "raise" and bool((a + b == 0).all(-1).any()):
        raise ValueError("geodesic_mix: two rows are exactly opposite: no geodesic between them is shortest")
    return _SPHERE.geodesic(1.0 - lam, a, b)


def linear_mix(a: Tensor, b: Tensor, lam: float | Tensor, *, renormalize: bool = False) -> Tensor:
    """The baseline: lam a + (1 - lam) b, inside the sphere, or brought back to length 1.

    Parameters and errors as of `geodesic_mix`; opposite rows at lam = 1/2 give 0, also where `renormalize` is set.
    """
    _check("linear_mix", a, b, lam)
    weight = lam.to(a) if isinstance(lam, Tensor) else lam
    mixed = weight * a + (1.0 - weight) * b
    return F.normalize(mixed, dim=-1) if renormalize else mixed


def _check(where: str, a: Tensor, b: Tensor, lam: float | Tensor) -> None:
    for value in (a, b):
        if not value.is_floating_point():
            raise TypeError(f"{where}: embeddings must be floating, got {value.dtype}")
    if a.ndim < 1 or a.shape != b.shape:
        raise ValueError(f"{where}: wanted two of one shape (N, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(lam, Tensor) and lam.ndim and lam.shape != (*a.shape[:-1], 1):
        raise ValueError(f"{where}: 'lam' must be a number or {(*a.shape[:-1], 1)}, got {tuple(lam.shape)}")
    low, high = (lam, lam) if not isinstance(lam, Tensor) else (float(x) for x in torch.aminmax(lam.detach()))
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"{where}: 'lam' must be from 0 to 1, got {low if low == high else f'{low} to {high}'}")

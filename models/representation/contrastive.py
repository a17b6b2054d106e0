"""Contrastive losses of paired embeddings: row i of one belongs to row i of the other, all other rows do not."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["check_pairs", "clip_contrastive_loss", "hard_negative_loss", "symmetric_cross_entropy"]

#: How far lengths may be from 1; half precision rounds by more.
_UNIT = 1e-3


def check_pairs(where: str, x: Tensor, y: Tensor, tau: float, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """Two embeddings (N, d) of unit rows, N >= 2, as they are; half precision as float32.

    Parameters
    ----------
    where : str
        Who asks, for the messages.
    x, y : Tensor
        Embeddings.
    tau : float
        Temperature.
    check : bool, default True
        Look at the lengths, which reads the data and synchronises a GPU.

    Raises
    ------
    TypeError
        Where an embedding is not floating.
    ValueError
        Where shapes differ, N is below 2, a length is not 1 to within 1e-3, or `tau` is not positive.
    """
    for value in (x, y):
        if not value.is_floating_point():
            raise TypeError(f"{where}: embeddings must be floating, got {value.dtype}")
    if x.ndim != 2 or x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"{where}: wanted two embeddings of shape (N, d) with N >= 2, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if not 0.0 < tau < math.inf:
        raise ValueError(f"{where}: temperatures must be positive and finite, got {tau}")
    wide = tuple(value.float() if value.dtype.itemsize < 4 else value for value in (x, y))
    if check:
        for value, given in zip(wide, (x, y), strict=True):
            off = float((torch.linalg.vector_norm(value.detach(), dim=1) - 1.0).abs().max())
            if not off <= max(_UNIT, torch.finfo(given.dtype).eps):
                raise ValueError(f"{where}: rows must have length 1 to within {_UNIT:g}, one is off by {off:.3g}")
    return wide[0], wide[1]


def symmetric_cross_entropy(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean of the cross-entropies of rows and of columns.

    Parameters
    ----------
    logits : Tensor
        (N, N).
    targets : Tensor, optional
        Weights (N, N) of the entries, used as they are: rows need not sum to 1. The identity when left out.
    """
    if targets is None:
        own = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own))
    targets = targets.to(logits)
    return 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.mT, targets.mT))


def clip_contrastive_loss(
    image: Tensor, text: Tensor, tau: float, targets: Tensor | None = None, *, check: bool = True
) -> Tensor:
    """Symmetric InfoNCE of cosines over a temperature, as CLIP has it.

    Parameters
    ----------
    image, text : Tensor
        Embeddings (N, d) of length 1, N at least 2.
    tau : float
        Temperature.
    targets : Tensor, optional
        Weights (N, N), see `symmetric_cross_entropy`.
    check : bool, default True
        Whether lengths are checked.

    Returns
    -------
    Tensor
        Scalar; float32 for half precision.

    Raises
    ------
    TypeError, ValueError
        As `check_pairs`.
    """
    image, text = check_pairs("clip_contrastive_loss", image, text, tau, check=check)
    return symmetric_cross_entropy(image @ text.mT / tau, targets)


def hard_negative_loss(
    image: Tensor,
    text: Tensor,
    tau: float = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    *,
    check: bool = True,
) -> Tensor:
    """Contrastive loss whose negatives are weighted by their similarity and corrected for false ones, both ways.

    With p = exp(x_i . y_i / tau), q_j = exp(x_i . y_j / tau) over the N - 1 others j, the sum of negatives is
    G = max((sum_j w_j q_j - tau_plus (N - 1) p) / (1 - tau_plus), (N - 1) exp(-1/tau)), w_j = q_j^beta over its mean,
    and the loss -log p/(p + G); the mean over rows and over both ways. Source: Robinson, Chuang, Sra, Jegelka,
    *Contrastive Learning with Hard Negative Samples*, ICLR 2021, equations 3 and 4.

    Parameters
    ----------
    image, text : Tensor
        Embeddings (N, d) of length 1, N at least 2.
    tau : float, default 0.5
        Temperature.
    tau_plus : float, default 0.1
        Share of false negatives, from 0 to below 1.
    beta : float, default 1
        How much harder ones count, not negative; 0 leaves the correction alone.
    check : bool, default True
        Whether lengths are checked.

    Raises
    ------
    TypeError, ValueError
        As `check_pairs`, and where `tau_plus` or `beta` is out of its range.
    """
    image, text = check_pairs("hard_negative_loss", image, text, tau, check=check)
    if not 0.0 <= tau_plus < 1.0 or not 0.0 <= beta < math.inf:
        raise ValueError(f"hard_negative_loss: wanted 0 <= tau_plus < 1 and beta >= 0, got {tau_plus} and {beta}")
    s = image @ text.mT / tau
    return 0.5 * (_reweighted(s, tau, tau_plus, beta) + _reweighted(s.mT, tau, tau_plus, beta))


def _reweighted(s: Tensor, tau: float, tau_plus: float, beta: float) -> Tensor:
    # By logarithms throughout: at tau = 0.01 exp(s) is past float32.
    n = len(s) - 1
    others = ~torch.eye(len(s), dtype=torch.bool, device=s.device)
    positive, negative = s.diagonal(), s[others].view(n + 1, n)
    weighted = ((1.0 + beta) * negative).logsumexp(1) - (beta * negative).logsumexp(1) + math.log(n)
    top = torch.maximum(weighted, positive).detach()
    rest = ((weighted - top).exp() - tau_plus * n * (positive - top).exp()) / (1.0 - tau_plus)
    # Where the correction leaves less than cosines allow, that least takes its place.
    least = torch.full_like(top, math.log(n) - 1.0 / tau)
    kept = rest > (least - top).exp()
    total = torch.where(kept, top + torch.where(kept, rest, torch.ones_like(rest)).log(), least)
    return (torch.logaddexp(positive, total) - positive).mean()

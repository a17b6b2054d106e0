"""Contrastive losses with mixed embeddings, and their weighted sum as one module (paper, sections 4.1 to 4.3)."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor, nn

from holonomy.models.adaptation.geodesic_mixup.mixing import geodesic_mix
from holonomy.models.representation.contrastive import check_pairs, clip_contrastive_loss, symmetric_cross_entropy

__all__ = [
    "GeodesicMultiModalMixup",
    "l_mix_loss",
    "m2_mix_halves",
    "m2_mix_loss",
    "v_mix_loss",
    "vl_mix_loss",
]

#: Two embeddings and lam, which is the share of the first: `geodesic_mix`, or a baseline.
Mix = Callable[[Tensor, Tensor, float | Tensor], Tensor]

TERMS = ("m2", "v", "l", "vl")


def m2_mix_halves(
    image: Tensor,
    text: Tensor,
    lam: float | Tensor,
    tau: float,
    tau_mix: float | None = None,
    *,
    mix: Mix = geodesic_mix,
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of images against mixed negatives, and of texts.

    With z_j = m_lam(I_j, T_j) the logits of image i are I_i . T_i for its own text and I_i . z_j for all others, those
    of text i are T_i . I_i and T_i . z_j: no positive is mixed, every negative is.

    Parameters and errors as of `m2_mix_loss`.
    """
    scale = tau if tau_mix is None else tau_mix
    image, text = check_pairs("m2_mix_loss", image, text, min(tau, scale), check=check)
    mixed = mix(image, text, lam)
    own = torch.arange(len(image), device=image.device)
    positive = (image * text).sum(1)
    image_half, text_half = (
        F.cross_entropy((anchor @ mixed.mT).diagonal_scatter(positive) / scale, own) for anchor in (image, text)
    )
    return image_half, text_half


def m2_mix_loss(
    image: Tensor,
    text: Tensor,
    lam: float | Tensor,
    tau: float,
    tau_mix: float | None = None,
    *,
    mix: Mix = geodesic_mix,
    check: bool = True,
) -> Tensor:
    """Multi-modal mixup of negatives: the sum, not the mean, of both of `m2_mix_halves`.

    Parameters
    ----------
    image, text : Tensor
        Embeddings (N, d) of length 1, N at least 2; row i of one belongs to row i of the other.
    lam : float or Tensor
        Share of the image in mixed negatives, from 0 to 1: a number, a scalar tensor, or (N, 1).
    tau : float
        Temperature.
    tau_mix : float, optional
        Another in its place, the paper's separate scale.
    mix : callable, default geodesic_mix
        What mixes: ``mix(image, text, lam)``.
    check : bool, default True
        Whether lengths are checked.

    Returns
    -------
    Tensor
        Scalar; float32 for half precision.

    Raises
    ------
    TypeError
        Where an embedding is not floating.
    ValueError
        Where shapes differ, N is below 2, lengths are not 1, a temperature is not positive, or `lam` is out of range.
    """
    image_half, text_half = m2_mix_halves(image, text, lam, tau, tau_mix, mix=mix, check=check)
    return image_half + text_half


def v_mix_loss(
    image: Tensor,
    text: Tensor,
    lam: float | Tensor,
    tau: float,
    *,
    original_neg: bool = False,
    mix: Mix = geodesic_mix,
    check: bool = True,
) -> Tensor:
    """Mixup of images: m_lam(I_i, I_p) against texts, with targets lam on i and 1 - lam on its partner p = N - 1 - i.

    Of an odd number the middle one is its own partner, with a target of 1.

    Parameters
    ----------
    image, text, lam, tau, mix, check
        As of `m2_mix_loss`; what is mixed is two images.
    original_neg : bool, default False
        Whether logits other than those of i and p stay unmixed.

    Raises
    ------
    TypeError, ValueError
        As `m2_mix_loss`.
    """
    image, text = check_pairs("v_mix_loss", image, text, tau, check=check)
    logits = mix(image, image.flip(0), lam) @ text.mT
    return _against(logits, image @ text.mT if original_neg else None, _shares(image, lam), tau)


def l_mix_loss(
    image: Tensor,
    text: Tensor,
    lam: float | Tensor,
    tau: float,
    *,
    original_neg: bool = False,
    mix: Mix = geodesic_mix,
    check: bool = True,
) -> Tensor:
    """Mixup of texts: `v_mix_loss` with the modalities exchanged."""
    return v_mix_loss(text, image, lam, tau, original_neg=original_neg, mix=mix, check=check)


def vl_mix_loss(
    image: Tensor,
    text: Tensor,
    lam: float | Tensor,
    tau: float,
    *,
    target: Literal["both", "pair"] = "both",
    original_neg: bool = False,
    mix: Mix = geodesic_mix,
    check: bool = True,
) -> Tensor:
    """Mixup of images and of texts with one lam and one partner: mixed images against mixed texts.

    Parameters
    ----------
    image, text, lam, tau, mix, check
        As of `m2_mix_loss`.
    target : {"both", "pair"}, default "both"
        1 on i and 1 on its partner, rows that sum to 2, as the authors' code has it; or 1 on i alone, as the text says.
    original_neg : bool, default False
        As of `v_mix_loss`.

    Raises
    ------
    TypeError, ValueError
        As `m2_mix_loss`, and where `target` is unknown.
    """
    if target not in ("both", "pair"):
        raise ValueError(f"vl_mix_loss: 'target' must be 'both' or 'pair', got {target!r}")
    image, text = check_pairs("vl_mix_loss", image, text, tau, check=check)
    logits = mix(image, image.flip(0), lam) @ mix(text, text.flip(0), lam).mT
    own = torch.eye(len(image), dtype=image.dtype, device=image.device)
    targets = own + own.flip(0) if target == "both" else own
    return _against(logits, image @ text.mT if original_neg else None, targets, tau)


def _shares(image: Tensor, lam: float | Tensor) -> Tensor:
    """Targets (N, N): lam on the diagonal, the rest of each row on the partner."""
    own = torch.eye(len(image), dtype=image.dtype, device=image.device)
    share = lam.to(image) if isinstance(lam, Tensor) else lam
    return share * own + (1.0 - share) * own.flip(0)


def _against(logits: Tensor, original: Tensor | None, targets: Tensor, tau: float) -> Tensor:
    if original is not None:
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = torch.where(own | own.flip(0), logits, original)
    return symmetric_cross_entropy(logits / tau, targets)


class GeodesicMultiModalMixup(nn.Module):
    """m3-Mix: the contrastive loss of CLIP and weighted losses with mixed embeddings; m2-Mix with one weight alone.

    ``loss = clip + c (w_m2 m2 + w_v v + w_l l + w_vl vl)``. Each term draws one lam a batch from Beta(alpha, alpha),
    and draws it whether its weight is 0 or not, so that modules with other weights mix by the same shares.
    Temperatures are fixed: a learned one would hide what mixing does.

    Parameters
    ----------
    weights : mapping of str to float, optional
        Of ``m2``, ``v``, ``l`` and ``vl``, not negative; those left out are 0, {"m2": 0.01} where all are. Nothing but
        zeros is plain CLIP.
    alpha_m2, alpha_uni : float
        Positive; of the Beta laws of m2, 0.2, and of the three others, 0.5.
    tau : float, default 0.01
        Temperature.
    tau_mix : float or None, default 0.07
        Temperature of m2; `tau` where None.
    schedule : {"inverse-epoch", None}
        c = 1/(epoch + 1), or 1, the default.
    vl_target, original_neg
        See `vl_mix_loss` and `v_mix_loss`.
    per_sample : bool, default False
        A variant: a lam of its own for every row.
    normalize : bool, default False
        Bring embeddings to length 1 first; they must have it otherwise.
    mix : callable, default geodesic_mix
        See `m2_mix_loss`.
    generator : torch.Generator, optional
        Draws lam, on its own device; torch's default generator when left out.
    check : bool, default True
        Whether lengths are checked, which synchronises a GPU.

    Raises
    ------
    ValueError
        If a weight, alpha, temperature or choice is out of its range.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        alpha_m2: float = 0.2,
        alpha_uni: float = 0.5,
        tau: float = 0.01,
        tau_mix: float | None = 0.07,
        schedule: Literal["inverse-epoch"] | None = None,
        *,
        vl_target: Literal["both", "pair"] = "both",
        original_neg: bool = False,
        per_sample: bool = False,
        normalize: bool = False,
        mix: Mix = geodesic_mix,
        generator: torch.Generator | None = None,
        check: bool = True,
    ) -> None:
        super().__init__()
        given = {"m2": 0.01} if weights is None else dict(weights)
        if set(given) - set(TERMS) or not all(0.0 <= w < math.inf for w in given.values()):
            raise ValueError(f"GeodesicMultiModalMixup: 'weights' must be of {TERMS} and not negative, got {given}")
        for name, value in (
            ("alpha_m2", alpha_m2),
            ("alpha_uni", alpha_uni),
            ("tau", tau),
            ("tau_mix", tau if tau_mix is None else tau_mix),
        ):
            if not 0.0 < value < math.inf:
                raise ValueError(f"GeodesicMultiModalMixup: {name!r} must be positive and finite, got {value}")
        if schedule not in ("inverse-epoch", None) or vl_target not in ("both", "pair"):
            raise ValueError(
                "GeodesicMultiModalMixup: wanted schedule 'inverse-epoch' or None and vl_target 'both' or 'pair', got "
                f"{schedule!r} and {vl_target!r}"
            )
        self.weights = {name: float(given.get(name, 0.0)) for name in TERMS}
        self.alphas = {name: alpha_m2 if name == "m2" else alpha_uni for name in TERMS}
        self.tau, self.tau_mix, self.schedule = tau, tau_mix, schedule
        self.vl_target, self.original_neg = vl_target, original_neg
        self.per_sample, self.normalize, self.check = per_sample, normalize, check
        self.mix, self.generator = mix, generator

    def draw(self, rows: int) -> dict[str, float | Tensor]:
        """One lam for every term: a number, or (rows, 1), float64, where each sample has its own."""
        count = rows if self.per_sample else 1
        device = "cpu" if self.generator is None else self.generator.device
        found: dict[str, float | Tensor] = {}
        for name in TERMS:
            u = torch.rand(count, 1, dtype=torch.float64, device=device, generator=self.generator).cpu().numpy()
            lam = betaincinv(self.alphas[name], self.alphas[name], u)
            found[name] = torch.from_numpy(lam) if self.per_sample else float(lam[0, 0])
        return found

    def forward(self, image: Tensor, text: Tensor, epoch: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, and its terms of positive weight, unweighted, under ``clip``, ``m2``, ``v``, ``l``, ``vl``.

        Parameters
        ----------
        image, text : Tensor
            Embeddings (N, d), N at least 2.
        epoch : int, default 0
            From 0; the schedule's.

        Raises
        ------
        TypeError, ValueError
            As `m2_mix_loss`, and where `epoch` is negative.
        """
        if epoch < 0:
            raise ValueError(f"GeodesicMultiModalMixup: 'epoch' must be at least 0, got {epoch}")
        if self.normalize:
            image, text = (F.normalize(x.float() if x.dtype.itemsize < 4 else x, dim=-1) for x in (image, text))
        terms = {"clip": clip_contrastive_loss(image, text, self.tau, check=self.check)}
        lams = {
            name: lam.to(image.device) if isinstance(lam, Tensor) else lam
            for name, lam in self.draw(len(image)).items()
        }
        for name in TERMS:
            if self.weights[name] > 0.0:
                terms[name] = self._term(name, image, text, lams[name])
        decay = 1.0 / (epoch + 1) if self.schedule else 1.0
        mixed = sum((decay * self.weights[name] * terms[name] for name in TERMS if name in terms), torch.zeros(()))
        return terms["clip"] + mixed.to(terms["clip"]), terms

    def _term(self, name: str, image: Tensor, text: Tensor, lam: float | Tensor) -> Tensor:
        if name == "m2":
            return m2_mix_loss(image, text, lam, self.tau, self.tau_mix, mix=self.mix, check=False)
        if name == "vl":
            return vl_mix_loss(
                image,
                text,
                lam,
                self.tau,
                target=self.vl_target,
                original_neg=self.original_neg,
                mix=self.mix,
                check=False,
            )
        uni = v_mix_loss if name == "v" else l_mix_loss
        return uni(image, text, lam, self.tau, original_neg=self.original_neg, mix=self.mix, check=False)

    def extra_repr(self) -> str:
        """Weights and temperatures."""
        return f"weights={self.weights}, tau={self.tau:g}, tau_mix={self.tau_mix}, schedule={self.schedule!r}"

"""When mixed negatives are harder than unmixed ones, and what their losses tend to at the ends of lam.

Let z_j = m_lam(I_j, T_j) = A I_j + B T_j on an arc of length theta, A = sin(lam theta)/sin theta and
B = sin((1 - lam) theta)/sin theta. Two identities decide: A + B = cos((lam - 1/2) theta)/cos(theta/2) >= 1, and
B - A = sin((1/2 - lam) theta)/sin(theta/2) <= 1. Where similarities within a modality are at least the size of those
across, I_i . I_j >= |I_i . T_j|, they give I_i . z_j >= I_i . T_j for every lam, and so L_m2/2 >= L_CLIP at equal
temperature, batch by batch. At least those across, without the size, is not enough: where both are negative, A + B > 1
drives the mixed negative further away.

Source: Oh, So, Byun, Lim, Shin, Jeon, Song, Geodesic Multi-Modal Mixup for Robust Fine-Tuning (NeurIPS 2023),
section 4. The condition with its size, the bound on the pace and the constants of two circles are derived here.
"""

import math

import numpy as np
import torch
from scipy.special import gammaln, ive
from torch import Tensor

from holonomy.models.adaptation.geodesic_mixup import (
    clip_contrastive_loss,
    geodesic_mix,
    linear_mix,
    m2_mix_halves,
    m2_mix_loss,
)
from holonomy.theory.check import Check
from holonomy.theory.statistics import mean_errors

__all__ = ["checks"]

#: Roundings of similarities over temperatures of 0.05 and more, in float64.
ROUNDING = 1e-12


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; some seconds."""
    rng = np.random.default_rng(seed)
    return [
        *arcs(rng),
        *hardness(rng),
        *without_gap(rng),
        *negative_similarities(),
        *ends(rng),
        *many_negatives(rng),
    ]


def arcs(rng: np.random.Generator, n: int = 2000) -> list[Check]:
    """A and B of the module's docstring, read off mixed points, and the length of a chord's middle."""
    image, text = _unit(rng, n, 6), _unit(rng, n, 6)
    theta = torch.arccos((image * text).sum(1))
    lam = torch.from_numpy(rng.uniform(0, 1, (n, 1)))
    mixed = geodesic_mix(image, text, lam)
    # Inner products with both ends are linear equations for A and B.
    gram = torch.stack([torch.ones_like(theta), theta.cos(), theta.cos(), torch.ones_like(theta)], 1).view(n, 2, 2)
    shares = torch.linalg.solve(gram, torch.stack([(mixed * image).sum(1), (mixed * text).sum(1)], 1))
    part = lam.squeeze(1)
    total = torch.cos((part - 0.5) * theta) / torch.cos(0.5 * theta)
    difference = torch.sin((0.5 - part) * theta) / torch.sin(0.5 * theta)
    middle = linear_mix(image, text, 0.5).norm(dim=1)
    how = f"{n} pairs in R^6, lam uniform, float64"
    # Solving for A and B loses what the sine of the angle does, 1e-2 at least here.
    return [
        Check(
            "A + B = cos((lam - 1/2) theta)/cos(theta/2), largest difference",
            1e-9,
            _off(shares.sum(1), total),
            how,
            "at most",
        ),
        Check(
            "B - A = sin((1/2 - lam) theta)/sin(theta/2), largest difference",
            1e-9,
            _off(shares[:, 1] - shares[:, 0], difference),
            how,
            "at most",
        ),
        Check(
            "the middle of the chord has length cos(theta/2), largest difference",
            1e-14,
            _off(middle, torch.cos(0.5 * theta)),
            how,
            "at most",
        ),
    ]


def hardness(rng: np.random.Generator, batches: int = 300, tau: float = 0.1) -> list[Check]:
    """Least lead of mixed over unmixed negatives, and of L_m2/2 over L_CLIP, where the condition holds."""
    lead, excess, tight, kept = math.inf, math.inf, math.inf, 0
    for _ in range(batches):
        image, text = _cones(rng, int(rng.integers(2, 9)), int(rng.integers(2, 8)))
        others = ~torch.eye(len(image), dtype=torch.bool)
        room = torch.minimum(image @ image.mT, text @ text.mT) - torch.maximum(
            (image @ text.mT).abs(), (text @ image.mT).abs()
        )
        if not bool((room[others] >= 0).all()):
            continue
        kept += 1
        tight = min(tight, float(room[others].min()))
        clip = clip_contrastive_loss(image, text, tau)
        for lam in np.linspace(0, 1, 6):
            mixed = geodesic_mix(image, text, float(lam))
            leads = torch.minimum(image @ (mixed - text).mT, text @ (mixed - image).mT)
            lead = min(lead, float(leads[others].min()))
            excess = min(excess, float(0.5 * m2_mix_loss(image, text, float(lam), tau) - clip))
    how = (
        f"{kept} of {batches} random pairs of cones that meet I_i.I_j >= |I_i.T_j|, one by {tight:.1e}, 6 lam, float64"
    )
    return [
        Check("batches that meet the condition", 50.0, float(kept), how, "at least"),
        Check("mixed negatives are no further than unmixed: least lead", -ROUNDING, lead, how, "at least"),
        Check("L_m2/2 is at least L_CLIP at equal temperature: least excess", -ROUNDING, excess, how, "at least"),
    ]


def without_gap(rng: np.random.Generator, n: int = 64, d: int = 16, tau: float = 0.1) -> list[Check]:
    """Images around one axis and texts close to it: similarities across exceed those within, and mixing eases."""
    centre = _unit(rng, 1, d)
    spread = _orthogonal(rng, n, centre)
    image = _normal(centre + 2.0 * spread)
    text = _normal(centre - 0.1 * spread)
    excess = float(0.5 * m2_mix_loss(image, text, 1.0, tau) - clip_contrastive_loss(image, text, tau))
    half = float(m2_mix_halves(image, text, 1.0, tau)[0] - m2_mix_halves(image, text, 0.0, tau)[0])
    within, across = (float((image @ x.mT)[~torch.eye(n, dtype=torch.bool)].mean()) for x in (image, text))
    how = f"{n} pairs in R^{d}, mean similarity {within:.2f} within images, {across:.2f} across, float64"
    return [
        Check("no gap: images against images are easier than against texts", -0.05, half, how, "at most"),
        Check("no gap: L_m2/2 less L_CLIP at lam = 1 may be negative", -0.01, excess, how, "at most"),
    ]


def negative_similarities(p: float = -0.1, s: float = -0.2, c: float = -0.6, tau: float = 0.1) -> list[Check]:
    """Two pairs with similarity p within modalities, s < p across, c of partners: L_m2/2 - L_CLIP in closed form."""
    gram = torch.tensor([[1, p, c, s], [p, 1, s, c], [c, s, 1, p], [s, c, p, 1]], dtype=torch.float64)
    points = torch.linalg.cholesky(gram)
    image, text = points[:2], points[2:]
    mixed = (p + s) / (2.0 * math.cos(0.5 * math.acos(c)))
    predicted = math.log1p(math.exp((mixed - c) / tau)) - math.log1p(math.exp((s - c) / tau))
    measured = float(0.5 * m2_mix_loss(image, text, 0.5, tau) - clip_contrastive_loss(image, text, tau))
    how = f"two pairs, similarity {p} within, {s} across, {c} of partners, lam = 1/2, tau = {tau}, float64"
    return [
        Check(
            "within above across, both negative: L_m2/2 - L_CLIP = its closed form",
            predicted,
            measured,
            how,
            low=measured - ROUNDING,
            high=measured + ROUNDING,
        ),
        Check("and L_m2/2 is below L_CLIP: the size is needed in the condition", -0.01, measured, how, "at most"),
    ]


def ends(rng: np.random.Generator, n: int = 32, d: int = 8, tau: float = 0.1) -> list[Check]:
    """Halves at the ends of lam against CLIP's and against those within a modality, and their pace towards them."""
    image, text = _unit(rng, n, d), _unit(rng, n, d)
    own = torch.arange(n)
    cross = image @ text.mT / tau
    loss = torch.nn.functional.cross_entropy
    within = [loss((x @ x.mT / tau).diagonal_scatter(cross.diagonal()), own) for x in (image, text)]
    at_text, at_image = (m2_mix_halves(image, text, lam, tau) for lam in (0.0, 1.0))
    arc = float(torch.arccos((image * text).sum(1)).max())
    pace = 0.0
    for lam in 10.0 ** -np.arange(1.0, 7.0):
        near = m2_mix_halves(image, text, float(lam), tau), m2_mix_halves(image, text, 1.0 - float(lam), tau)
        moved = [
            abs(float(a - b)) for x, y in zip(near, (at_text, at_image), strict=True) for a, b in zip(x, y, strict=True)
        ]
        pace = max(pace, max(moved) * tau / (float(lam) * arc))
    how = f"{n} random pairs in R^{d}, tau = {tau}, float64"
    bound = ROUNDING
    return [
        Check(
            "lam = 0: the image half is CLIP's, difference",
            bound,
            abs(float(at_text[0] - loss(cross, own))),
            how,
            "at most",
        ),
        Check(
            "lam = 1: the text half is CLIP's, difference",
            bound,
            abs(float(at_image[1] - loss(cross.mT, own))),
            how,
            "at most",
        ),
        Check(
            "lam = 1: the image half is against images, difference",
            bound,
            abs(float(at_image[0] - within[0])),
            how,
            "at most",
        ),
        Check(
            "lam = 0: the text half is against texts, difference",
            bound,
            abs(float(at_text[1] - within[1])),
            how,
            "at most",
        ),
        # Cross-entropy moves by no more than its farthest logit, and that by no more than the arc over tau.
        Check(
            "halves are within lam theta/tau of their ends, theta the longest arc: largest share of it",
            1.0 + 1e-6,
            pace,
            f"lam and 1 - lam from 0.1 to 1e-6; {how}",
            "at most",
        ),
    ]


def many_negatives(
    rng: np.random.Generator, n: int = 500, repeats: int = 30, d: int = 4, h: float = 0.5, tau: float = 0.5
) -> list[Check]:
    """Halves less log N for many negatives on two circles of latitude, images at height h and texts at -h.

    Partners are one above the other, at similarity 1 - 2 h^2. With r^2 = 1 - h^2 and M the mean of exp(r^2 u.v/tau)
    over the sphere of R^(d-1), a half tends to -(1 - 2 h^2)/tau + log M - h^2/tau across modalities, as CLIP's do, and
    at the other end of lam to the same with + h^2/tau, within a modality: uniformity of both kinds.
    """
    constant = -(1.0 - 2.0 * h * h) / tau + _log_mean_exp(d - 1, (1.0 - h * h) / tau)
    values: list[list[float]] = []
    for _ in range(repeats):
        u = math.sqrt(1.0 - h * h) * _unit(rng, 2 * n, d - 1)
        image, text = (torch.cat([u, torch.full((2 * n, 1), z, dtype=torch.float64)], 1) for z in (h, -h))
        rows = []
        for count in (n, 2 * n):
            some = image[:count], text[:count]
            halves = [*m2_mix_halves(*some, 0.0, tau), *m2_mix_halves(*some, 1.0, tau)]
            rows.append(np.array([float(half) for half in halves]) - math.log(count))
        values.append((2.0 * rows[1] - rows[0]).tolist())  # the part of order 1/N cancels
    names = ("image half, lam = 0", "text half, lam = 0", "image half, lam = 1", "text half, lam = 1")
    signs = (-1.0, 1.0, 1.0, -1.0)
    how = (
        f"N = {n} and {2 * n}, extrapolated, {repeats} draws in R^{d}, h = {h}, tau = {tau}, 4 standard errors, float64"
    )
    result = []
    for name, sign, column in zip(names, signs, np.array(values).T, strict=True):
        low, mean, high = mean_errors(column, 4.0)
        kind = "within the modality" if sign > 0 else "across modalities"
        result.append(
            Check(
                f"{name}: less log N it tends to alignment and uniformity {kind}",
                constant + sign * h * h / tau,
                mean,
                how,
                low=low,
                high=high,
            )
        )
    return result


def _log_mean_exp(d: int, k: float) -> float:
    """log of the mean of exp(k u.v) for v uniform on the sphere of R^d."""
    order = 0.5 * d - 1.0
    return float(gammaln(0.5 * d) + order * math.log(2.0 / k) + math.log(ive(order, k)) + k)


def _normal(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def _unit(rng: np.random.Generator, n: int, d: int) -> Tensor:
    return _normal(torch.from_numpy(rng.normal(size=(n, d))))


def _orthogonal(rng: np.random.Generator, n: int, axis: Tensor) -> Tensor:
    """Unit vectors that are orthogonal to an axis (1, d)."""
    x = torch.from_numpy(rng.normal(size=(n, axis.shape[1])))
    return _normal(x - (x @ axis.mT) * axis)


def _cones(rng: np.random.Generator, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Images and texts around axes at any angle, each as wide as it comes."""
    axes = _unit(rng, 2, d)
    if rng.uniform() < 0.3:
        axes[1] = -axes[0]
    width = 10.0 ** rng.uniform(-1.5, 0.0)
    image, text = (_normal(axis + width * torch.from_numpy(rng.normal(size=(n, d)))) for axis in axes)
    return image, text


def _off(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max())

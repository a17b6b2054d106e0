"""Losses of mixed embeddings: by hand, at the ends of lam, under permutations; and the module that sums them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from holonomy.models.adaptation.geodesic_mixup import (
    GeodesicMultiModalMixup,
    clip_contrastive_loss,
    geodesic_mix,
    l_mix_loss,
    linear_mix,
    m2_mix_halves,
    m2_mix_loss,
    v_mix_loss,
    vl_mix_loss,
)

LOSSES = {
    "m2": m2_mix_loss,
    "m2, separate scale": partial(m2_mix_loss, tau_mix=0.2),
    "v": v_mix_loss,
    "l": l_mix_loss,
    "vl": vl_mix_loss,
    "vl, pair": partial(vl_mix_loss, target="pair"),
    "v, original": partial(v_mix_loss, original_neg=True),
}


def draw(
    n: int = 6, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(n, d, dtype=dtype, generator=rng), dim=1) for _ in range(2))


def by_loop(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean over rows of minus the weighted logarithms of softmax, entry by entry."""
    total = 0.0
    for row, weights in zip(logits.tolist(), targets.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        total -= sum(w * (v - norm) for v, w in zip(row, weights, strict=True))
    return total / len(logits)


def test_m2_of_two_pairs_by_hand() -> None:
    # I = (1, 0), (0, 1); T = (0.6, 0.8), (0.8, -0.6); tau = 0.5; z at lam = 1/2 the unit sums.
    image = torch.eye(2, dtype=torch.float64)
    text = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)
    z = [(1.6 / math.sqrt(3.2), 0.8 / math.sqrt(3.2)), (0.8 / math.sqrt(0.8), 0.4 / math.sqrt(0.8))]
    positives = (0.6, -0.6)
    negatives_image = (z[1][0], z[0][1])
    negatives_text = (0.6 * z[1][0] + 0.8 * z[1][1], 0.8 * z[0][0] - 0.6 * z[0][1])
    halves = [
        sum(math.log(1 + math.exp((n - p) / 0.5)) for p, n in zip(positives, negatives, strict=True)) / 2
        for negatives in (negatives_image, negatives_text)
    ]
    found = m2_mix_halves(image, text, 0.5, 0.5)
    assert [float(half) for half in found] == pytest.approx(halves, rel=1e-14)
    assert float(m2_mix_loss(image, text, 0.5, 0.5)) == pytest.approx(sum(halves), rel=1e-14)


def test_m2_mixes_every_negative_and_no_positive() -> None:
    image, text = draw()
    mixed = geodesic_mix(image, text, 0.3)
    losses = []
    for anchor, own in ((image, text), (text, image)):
        logits = torch.stack(
            [torch.stack([anchor[i] @ (own[j] if i == j else mixed[j]) for j in range(6)]) for i in range(6)]
        )
        losses.append(by_loop(logits / 0.1, torch.eye(6)))
    assert [float(v) for v in m2_mix_halves(image, text, 0.3, 0.1)] == pytest.approx(losses, rel=1e-12)
    assert float(m2_mix_loss(image, text, 0.3, 0.5, tau_mix=0.1)) == pytest.approx(sum(losses), rel=1e-12)


def test_ends_of_lam_are_unmixed() -> None:
    image, text = draw()
    own = torch.arange(6)
    cross = image @ text.mT / 0.1
    at_text, at_image = (m2_mix_halves(image, text, lam, 0.1) for lam in (0.0, 1.0))
    torch.testing.assert_close(at_text[0], F.cross_entropy(cross, own))
    torch.testing.assert_close(at_image[1], F.cross_entropy(cross.mT, own))
    # The other halves are against the anchor's own modality.
    for half, x in ((at_image[0], image), (at_text[1], text)):
        within = (x @ x.mT / 0.1).diagonal_scatter(cross.diagonal())
        torch.testing.assert_close(half, F.cross_entropy(within, own))
    clip = clip_contrastive_loss(image, text, 0.1)
    for loss in (v_mix_loss, l_mix_loss, partial(vl_mix_loss, target="pair")):
        torch.testing.assert_close(loss(image, text, 1.0, 0.1), clip)
    torch.testing.assert_close(
        m2_mix_loss(image, text, 0.3, 0.1, mix=lambda a, b, _: b)[None], (at_text[0] + at_text[1])[None]
    )


@pytest.mark.parametrize("n", [5, 6])
def test_single_mixes_by_loop(n: int) -> None:
    image, text = draw(n)
    lam, tau = 0.3, 0.2
    targets = torch.zeros(n, n)
    both = torch.zeros(n, n)
    for i in range(n):
        targets[i, i] += lam
        targets[i, n - 1 - i] += 1 - lam
        both[i, i] += 1
        both[i, n - 1 - i] += 1
    assert targets.sum(1).tolist() == pytest.approx([1.0] * n)
    mixed = {name: geodesic_mix(x, x.flip(0), lam) for name, x in (("image", image), ("text", text))}
    for loss, logits, weights in (
        (v_mix_loss, mixed["image"] @ text.mT, targets),
        (l_mix_loss, image @ mixed["text"].mT, targets),
        (vl_mix_loss, mixed["image"] @ mixed["text"].mT, both),
        (partial(vl_mix_loss, target="pair"), mixed["image"] @ mixed["text"].mT, torch.eye(n)),
    ):
        wanted = 0.5 * (by_loop(logits / tau, weights) + by_loop(logits.mT / tau, weights.mT))
        assert float(loss(image, text, lam, tau)) == pytest.approx(wanted, rel=1e-6)
    original = image @ text.mT
    for i in range(n):
        for j in {i, n - 1 - i}:
            original[i, j] = mixed["image"][i] @ text[j]
    wanted = 0.5 * (by_loop(original / tau, targets) + by_loop(original.mT / tau, targets.mT))
    assert float(v_mix_loss(image, text, lam, tau, original_neg=True)) == pytest.approx(wanted, rel=1e-6)


def test_permutations() -> None:
    image, text = draw()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    pairwise = torch.tensor([1, 5, 3, 2, 0, 4])  # takes partners (0, 5), (1, 4), (2, 3) to partners
    for name, loss in LOSSES.items():
        value = loss(image, text, 0.3, 0.1)
        torch.testing.assert_close(loss(image[pairwise], text[pairwise], 0.3, 0.1), value)
        free = torch.allclose(loss(image[order], text[order], 0.3, 0.1), value, rtol=1e-6)
        assert free is name.startswith("m2"), name
    torch.testing.assert_close(
        clip_contrastive_loss(image[order], text[order], 0.1), clip_contrastive_loss(image, text, 0.1)
    )
    # Exchanging modalities exchanges lam.
    torch.testing.assert_close(m2_mix_loss(text, image, 0.7, 0.1), m2_mix_loss(image, text, 0.3, 0.1))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_differences_also_where_pairs_are_equal(name: str) -> None:
    image, text = (x.requires_grad_() for x in draw(4, 3))

    def loss(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return LOSSES[name](F.normalize(image, dim=1), F.normalize(text, dim=1), 0.3, 0.2)

    assert torch.autograd.gradcheck(loss, (image, text))
    equal = image.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (image, equal))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(name: str, dtype: torch.dtype) -> None:
    image, text = (x.to(dtype) for x in draw(16, 32, dtype=torch.float32))
    value = LOSSES[name](image, text, 0.3, 0.01)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name](image.float(), text.float(), 0.3, 0.01, check=False))


def test_the_module_is_the_weighted_sum() -> None:
    image, text = draw()
    weights = {"m2": 0.1, "v": 0.2, "l": 0.3, "vl": 0.4}

    def module(**more: object) -> GeodesicMultiModalMixup:
        return GeodesicMultiModalMixup(
            weights, tau=0.05, tau_mix=0.1, generator=torch.Generator().manual_seed(3), **more
        )

    lams = module().draw(6)
    loss, terms = module()(image, text)
    wanted = {
        "clip": clip_contrastive_loss(image, text, 0.05),
        "m2": m2_mix_loss(image, text, lams["m2"], 0.05, 0.1),
        "v": v_mix_loss(image, text, lams["v"], 0.05),
        "l": l_mix_loss(image, text, lams["l"], 0.05),
        "vl": vl_mix_loss(image, text, lams["vl"], 0.05),
    }
    assert list(terms) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value)
    mixed = sum(weights[name] * wanted[name] for name in weights)
    torch.testing.assert_close(loss, wanted["clip"] + mixed)
    torch.testing.assert_close(module(schedule="inverse-epoch")(image, text, epoch=3)[0], wanted["clip"] + mixed / 4)
    torch.testing.assert_close(module(normalize=True)(3 * image, 2 * text)[0], loss)
    other = module(mix=linear_mix)(image, text)[1]["m2"]
    torch.testing.assert_close(other, m2_mix_loss(image, text, lams["m2"], 0.05, 0.1, mix=linear_mix))


def test_no_weight_is_plain_clip_and_terms_draw_alike() -> None:
    image, text = draw()
    plain, terms = GeodesicMultiModalMixup({})(image, text)
    assert list(terms) == ["clip"]
    torch.testing.assert_close(plain, clip_contrastive_loss(image, text, 0.01))
    # The lam of one term does not depend on which others have a weight.
    found = [
        GeodesicMultiModalMixup(w, generator=torch.Generator().manual_seed(0))(image, text)[1]["m2"]
        for w in ({"m2": 1.0}, {"m2": 1.0, "v": 1.0})
    ]
    assert torch.equal(*found)


def test_draws_follow_the_beta_law_and_the_generator_alone() -> None:
    module = GeodesicMultiModalMixup(
        alpha_m2=0.2, alpha_uni=0.5, per_sample=True, generator=torch.Generator().manual_seed(0)
    )
    drawn = module.draw(4000)
    for name, alpha in (("m2", 0.2), ("v", 0.5), ("l", 0.5), ("vl", 0.5)):
        # A right sampler fails at this level once in a thousand seeds; this seed is fixed.
        assert stats.kstest(drawn[name].flatten().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn["v"].flatten(), drawn["l"].flatten())[0, 1]) < 0.06  # four deviations
    one = GeodesicMultiModalMixup(generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = [one.draw(4)["m2"] for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), state)
    again = GeodesicMultiModalMixup(generator=torch.Generator().manual_seed(1))
    assert first == [again.draw(4)["m2"] for _ in range(3)]
    assert all(isinstance(lam, float) for lam in first)
    image, text = draw()
    loss, _ = GeodesicMultiModalMixup({"m2": 1.0, "v": 1.0, "vl": 1.0}, per_sample=True)(image, text)
    assert loss.isfinite()


def test_training_by_the_module_brings_the_clouds_together() -> None:
    image, text = draw(32, 8)
    shift = torch.zeros(8, dtype=torch.float64)
    shift[0] = 2.0
    x = (image + shift).requires_grad_()
    y = (image + 0.3 * text - shift).requires_grad_()
    module = GeodesicMultiModalMixup(
        {"m2": 0.5}, tau=0.1, tau_mix=0.1, normalize=True, generator=torch.Generator().manual_seed(0)
    )
    gap = [float((F.normalize(x, dim=1).mean(0) - F.normalize(y, dim=1).mean(0)).norm().detach())]
    optimizer = torch.optim.Adam([x, y], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        module(x, y)[0].backward()
        optimizer.step()
    gap.append(float((F.normalize(x, dim=1).mean(0) - F.normalize(y, dim=1).mean(0)).norm().detach()))
    assert gap[1] < 0.3 * gap[0]


def test_bad_input_is_refused() -> None:
    image, text = draw()
    for loss in (*LOSSES.values(),):
        for x, y, lam, tau, text_of in (
            (image, text[:4], 0.5, 0.1, "two embeddings of shape"),
            (image, text[:, :3], 0.5, 0.1, "two embeddings of shape"),
            (image[:1], text[:1], 0.5, 0.1, "N >= 2"),
            (1.01 * image, text, 0.5, 0.1, "rows must have length 1"),
            (image * torch.nan, text, 0.5, 0.1, "rows must have length 1"),
            (image, text, 1.5, 0.1, "'lam' must be from 0 to 1"),
            (image, text, 0.5, 0.0, "temperatures must be positive"),
        ):
            with pytest.raises(ValueError, match=text_of):
                loss(x, y, lam, tau)
        with pytest.raises(TypeError, match="must be floating"):
            loss(image.long(), text.long(), 0.5, 0.1)
        assert loss(1.01 * image, text, 0.5, 0.1, check=False).isfinite()
    with pytest.raises(ValueError, match="temperatures must be positive"):
        m2_mix_loss(image, text, 0.5, 0.1, tau_mix=-1.0)
    with pytest.raises(ValueError, match="'target' must be"):
        vl_mix_loss(image, text, 0.5, 0.1, target="none")
    for arguments, text_of in (
        ({"weights": {"m2": -1.0}}, "not negative"),
        ({"weights": {"m3": 1.0}}, "'weights' must be of"),
        ({"alpha_m2": 0.0}, "'alpha_m2' must be positive"),
        ({"alpha_uni": -1.0}, "'alpha_uni' must be positive"),
        ({"tau": 0.0}, "'tau' must be positive"),
        ({"tau_mix": math.inf}, "'tau_mix' must be positive"),
        ({"schedule": "cosine"}, "schedule"),
        ({"vl_target": "none"}, "vl_target"),
    ):
        with pytest.raises(ValueError, match=text_of):
            GeodesicMultiModalMixup(**arguments)
    with pytest.raises(ValueError, match="'epoch' must be at least 0"):
        GeodesicMultiModalMixup()(image, text, epoch=-1)
    with pytest.raises(ValueError, match="length 1"):
        GeodesicMultiModalMixup()(2 * image, text)

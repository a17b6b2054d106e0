"""Contrastive losses against loops and closed forms, at temperatures whose exponentials overflow."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from holonomy.models.representation.contrastive import (
    clip_contrastive_loss,
    hard_negative_loss,
    symmetric_cross_entropy,
)
from holonomy.models.representation.matryoshka import MatryoshkaContrastive


def draw(n: int = 6, d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(n, d, dtype=torch.float64, generator=rng), dim=1) for _ in range(2))


def reweighted(x: torch.Tensor, y: torch.Tensor, tau: float, tau_plus: float, beta: float) -> float:
    total = 0.0
    n = len(x) - 1
    for i in range(n + 1):
        p = math.exp(float(x[i] @ y[i]) / tau)
        q = [math.exp(float(x[i] @ y[j]) / tau) for j in range(n + 1) if j != i]
        mean = sum(v**beta for v in q) / n
        summed = sum(v**beta / mean * v for v in q)
        rest = max((summed - tau_plus * n * p) / (1 - tau_plus), n * math.exp(-1 / tau))
        total -= math.log(p / (p + rest))
    return total / (n + 1)


def test_clip_is_the_mean_of_both_ways() -> None:
    x, y = draw()
    s, own = x @ y.mT / 0.1, torch.arange(6)
    wanted = 0.5 * (F.cross_entropy(s, own) + F.cross_entropy(s.mT, own))
    torch.testing.assert_close(clip_contrastive_loss(x, y, 0.1), wanted)
    torch.testing.assert_close(clip_contrastive_loss(x, y, 0.1, torch.eye(6)), wanted)
    # On whole vectors it is what the nested loss of one size is.
    torch.testing.assert_close(MatryoshkaContrastive([5], 0.1)(x, y), wanted)
    # Where all rows are one, the loss is log N.
    assert float(clip_contrastive_loss(x[:1].expand(6, -1), x[:1].expand(6, -1), 0.1)) == pytest.approx(math.log(6))


def test_targets_weigh_entries_of_rows_and_columns() -> None:
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = -0.5 * ((targets * logits.log_softmax(1)).sum(1).mean() + (targets * logits.log_softmax(0)).sum(0).mean())
    torch.testing.assert_close(symmetric_cross_entropy(logits, targets), wanted)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(0.2, 2.0), st.floats(0.0, 0.5), st.floats(0.0, 3.0))
def test_hard_negatives_by_loop(seed: int, tau: float, tau_plus: float, beta: float) -> None:
    x, y = draw(5, 4, seed)
    wanted = 0.5 * (reweighted(x, y, tau, tau_plus, beta) + reweighted(y, x, tau, tau_plus, beta))
    assert float(hard_negative_loss(x, y, tau, tau_plus, beta)) == pytest.approx(wanted, rel=1e-10, abs=1e-14)


def test_without_weights_or_correction_it_is_infonce() -> None:
    x, y = draw()
    torch.testing.assert_close(hard_negative_loss(x, y, 0.1, 0.0, 0.0), clip_contrastive_loss(x, y, 0.1))
    assert hard_negative_loss(x, y, 0.1, 0.0, 1.0) > hard_negative_loss(x, y, 0.1, 0.0, 0.0)


def test_small_temperatures_are_finite_in_single_precision() -> None:
    x, y = (v.float().requires_grad_() for v in draw(16, 8))
    for pair in ((x, y), (x, x.detach()), (x, -x.detach())):
        loss = hard_negative_loss(*pair, tau=0.005)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, x)[0].isfinite().all()
    assert torch.autograd.gradcheck(
        lambda x, y: hard_negative_loss(F.normalize(x, dim=1), F.normalize(y, dim=1), 0.2),
        tuple(v.detach().double().requires_grad_() for v in (x[:5], y[:5])),
    )


def test_bad_input_is_refused() -> None:
    x, y = draw()
    for loss in (clip_contrastive_loss, hard_negative_loss):
        for a, b, tau, text in (
            (x, y[:3], 0.1, "two embeddings of shape"),
            (x[:1], y[:1], 0.1, "N >= 2"),
            (2 * x, y, 0.1, "length 1 to within 0.001, one is off by 1"),
            (x, y, -0.1, "temperatures must be positive"),
            (x, y, math.nan, "temperatures must be positive"),
        ):
            with pytest.raises(ValueError, match=text):
                loss(a, b, tau)
        with pytest.raises(TypeError, match="must be floating"):
            loss(x.int(), y, 0.1)
    for arguments in ({"tau_plus": 1.0}, {"tau_plus": -0.1}, {"beta": -1.0}):
        with pytest.raises(ValueError, match="tau_plus < 1 and beta >= 0"):
            hard_negative_loss(x, y, **arguments)

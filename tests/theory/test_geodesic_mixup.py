"""The checks hold at several seeds, and each rejects a wrong prediction on the same data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from holonomy.theory import geodesic_mixup as theory
from holonomy.theory.check import Check

CHECKS = theory.checks(0)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.theorem[:50])
def test_holds_and_rejects_a_wrong_prediction(check: Check) -> None:
    assert check.holds
    low, high = check.interval
    wrong = {"equal": 1.05 * check.predicted + 0.01, "at most": low - 0.01, "at least": high + 0.01}[check.relation]
    assert replace(check, predicted=wrong).holds is False


@pytest.mark.parametrize("seed", range(1, 4))
def test_other_seeds_hold(seed: int) -> None:
    assert [check.theorem for check in theory.checks(seed) if not check.holds] == []


def find(text: str, checks: list[Check]) -> Check:
    return next(check for check in checks if text in check.theorem)


def test_uniformity_of_the_other_kind_is_rejected() -> None:
    across, within = (find(text, CHECKS) for text in ("image half, lam = 0", "image half, lam = 1"))
    assert within.predicted - across.predicted == pytest.approx(1.0)  # 2 h^2 / tau
    assert not replace(across, predicted=within.predicted).holds
    assert not replace(within, predicted=across.predicted).holds


@pytest.mark.parametrize("d", [2, 3, 7])
def test_the_mean_over_the_sphere_is_an_integral(d: int) -> None:
    k = 1.7
    top, bottom = (quad(lambda t, p=p: np.exp(p * k * np.cos(t)) * np.sin(t) ** (d - 2), 0, np.pi)[0] for p in (1, 0))
    assert theory._log_mean_exp(d, k) == pytest.approx(np.log(top / bottom), rel=1e-9)


def test_negatives_that_are_mixed_the_wrong_way_are_not_harder(monkeypatch: pytest.MonkeyPatch) -> None:
    mix: Callable[..., torch.Tensor] = theory.geodesic_mix
    # From the antipode of the image: away from the anchor's cone.
    monkeypatch.setattr(theory, "geodesic_mix", lambda a, b, lam: mix(-a, b, lam))
    assert not find("no further than unmixed", theory.hardness(np.random.default_rng(0), batches=60)).holds


def test_without_the_condition_the_excess_may_be_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    # Batches whose similarities across are larger in size: one axis for both, and images wide around it.
    rng = np.random.default_rng(0)
    plain = theory._cones

    def one_cone(rng: np.random.Generator, n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, text = plain(rng, n, d)
        return image, theory._normal(image.mean(0) + 0.1 * text)

    excess = []
    for _ in range(40):
        image, text = one_cone(rng, 6, 5)
        excess.append(
            float(0.5 * theory.m2_mix_loss(image, text, 1.0, 0.1) - theory.clip_contrastive_loss(image, text, 0.1))
        )
    assert min(excess) < -0.01


def test_a_mean_in_place_of_the_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = theory.m2_mix_loss
    monkeypatch.setattr(theory, "m2_mix_loss", lambda *args: 0.5 * summed(*args))
    assert not find("least excess", theory.hardness(np.random.default_rng(0), batches=100)).holds
    assert not find("closed form", theory.negative_similarities()).holds

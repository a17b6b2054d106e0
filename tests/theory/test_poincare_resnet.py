"""The laws hold, and the same data reject wrong ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holonomy.manifolds import kernels
from holonomy.theory import poincare_resnet as theory
from holonomy.theory.poincare_resnet import checks


@pytest.fixture(scope="module")
def measured() -> dict[str, theory.Check]:
    return {check.theorem: check for check in checks(seed=1)}


def test_every_law_holds(measured: dict[str, theory.Check]) -> None:
    assert [theorem for theorem, check in measured.items() if not check.holds] == []
    assert len(measured) >= 9


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("HNN++ init: E|y|^2 after L linear layers of size n is (2/n)^L |x|^2 near the origin: exponent", -3.8),
        # (1/n)^L or (4/n)^L: the constant of 4 layers is off by 2^4
        ("HNN++ init: E|y|^2 after L linear layers of size n is (2/n)^L |x|^2 near the origin: measured", 1.0 / 16.0),
        ("HNN++ init: E|y|^2 after L linear layers of size n is (2/n)^L |x|^2 near the origin: measured", 1.1),
        ("Poincaré convolution is the identity up to O(c)", 0.5),
        ("coordinate of a uniform unit vector in R^4", 0.42),
        ("coordinate of a uniform unit vector in R^64", (2.0 / (np.pi * 64)) ** 0.5),
        ("concatenate to norm", 0.25),
        ("as c -> 0", 0.9),
        ("as c -> 0", 1.1),
        ("leaves the Fréchet mean", 2.9),
        ("leaves the Fréchet mean", 3.1),
    ],
)
def test_the_data_reject_a_wrong_law(measured: dict[str, theory.Check], words: str, wrong: float) -> None:
    (check,) = (check for theorem, check in measured.items() if words in theorem)
    assert not replace(check, predicted=wrong).holds


def test_decay_law_fails_for_another_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(*arguments, **options):
        return linear(*arguments, **(options | {"init": "identity"}))

    linear = theory.PoincareLinear
    monkeypatch.setattr(theory, "PoincareLinear", identity)
    found = theory.hnn_decay(torch.Generator().manual_seed(0), sizes=(8, 16, 32, 64), trials=20)
    assert [check.holds for check in found] == [False, False]


def test_identity_law_fails_for_the_published_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    from holonomy.models.architectures.poincare_resnet import gyroplanes

    def upside_down(n2, c, source, gain, limit):
        factor = 2.0 * (1.0 - c * n2)
        return factor, factor - 1.0

    monkeypatch.setattr(gyroplanes, "carrier", upside_down)
    with kernels.use("reference"):
        assert not theory.identity_error(torch.Generator().manual_seed(0)).holds

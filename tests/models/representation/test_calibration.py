"""Calibration error by hand and by loop, and what is refused."""

import numpy as np
import pytest
import torch

from holonomy.models.representation.calibration import expected_calibration_error


def test_by_hand() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    # Two bins: 0.9, 0.8, 0.7 and 0.55 all in the upper one: accuracy 1/2, confidence 0.7375.
    assert expected_calibration_error(probs, labels, 2) == pytest.approx(0.2375)
    # Ten: 0.9 in (0.8, 0.9], 0.8 in (0.7, 0.8], 0.7 in (0.6, 0.7], 0.55.
    assert expected_calibration_error(probs, labels, 10) == pytest.approx((0.1 + 0.8 + 0.3 + 0.55) / 4)


def test_certain_and_right_is_0_certain_and_wrong_is_1() -> None:
    certain = torch.eye(4)
    assert expected_calibration_error(certain, torch.arange(4)) == 0.0
    assert expected_calibration_error(certain, torch.arange(4).roll(1)) == 1.0
    # Confidence of 1/2 that is right half of the time.
    assert expected_calibration_error(torch.full((10, 2), 0.5), torch.arange(10) % 2) == pytest.approx(0.0)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_by_loop(bins: int) -> None:
    probs = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).double().softmax(1)
    labels = torch.randint(5, (300,), generator=torch.Generator().manual_seed(1))
    confidence, right = probs.max(1).values.numpy(), (probs.argmax(1) == labels).numpy()
    total = 0.0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probs, labels, bins) == pytest.approx(total)


def test_bad_input_is_refused() -> None:
    probs, labels = torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    for p, y, bins, text in (
        (probs, labels[:3], 15, r"'labels' \(N,\)"),
        (probs, labels, 0, "bins >= 1"),
        (probs, labels + 2, 15, "from 0 to 1"),
        (probs, labels - 1, 15, "from 0 to 1"),
        (2 * probs, labels, 15, "sum to 1"),
        (probs * torch.nan, labels, 15, "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), labels[:1], 15, "sum to 1"),
    ):
        with pytest.raises(ValueError, match=text):
            expected_calibration_error(p, y, bins)
    with pytest.raises(TypeError, match="floating 'probs' and integer 'labels'"):
        expected_calibration_error(probs, labels.double())

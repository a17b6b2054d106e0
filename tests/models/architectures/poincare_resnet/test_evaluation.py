"""Attacks, out-of-distribution scores and class activation maps, on models whose answers are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.models.architectures.poincare_resnet import PoincareResNet
from holonomy.models.architectures.poincare_resnet.evaluation import (
    energy_score,
    fgsm,
    grad_cam,
    max_softmax_score,
    ood_metrics,
    origin_distance_score,
    pgd,
)


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_attack_on_a_linear_model_is_the_optimal_one(attack) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x, y = 0.5 * torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 0, 1, 1])
    # the worst change of a linear two-class model in the box is epsilon sign(w_other - w_label)
    w = model[1].weight.detach()
    worst = x + 0.1 * (w[1 - y] - w[y]).sign().view_as(x)
    torch.testing.assert_close(attack(model, x, y, 0.1), worst)


def test_attacks_stay_in_the_box_and_raise_the_loss_of_a_hyperbolic_network() -> None:
    model = PoincareResNet(3, (2, 3, 4), (1, 1, 1), 1, generator=torch.Generator().manual_seed(0)).eval()
    x, y = 2.0 * torch.rand(8, 1, 8, 8) - 1.0, torch.arange(8) % 3
    for attacked in (fgsm(model, x, y, 0.05), pgd(model, x, y, 0.05, generator=torch.Generator().manual_seed(1))):
        # one rounding beyond the box
        assert float((attacked - x).abs().max()) <= 0.05 + 1e-6
        assert float(attacked.abs().max()) <= 1.0
        assert bool(F.cross_entropy(model(attacked), y) > F.cross_entropy(model(x), y))
    with pytest.raises(ValueError, match="'steps' must be at least 1"):
        pgd(model, x, y, 0.05, steps=0)


def test_scores() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(max_softmax_score(logits), logits.softmax(1).max(1).values)
    torch.testing.assert_close(energy_score(logits, 2.0), 2.0 * (logits / 2.0).exp().sum(1).log())
    torch.testing.assert_close(origin_distance_score(torch.tensor([[3.0, 4.0]])), torch.tensor([5.0]))


def test_ood_metrics_by_counting() -> None:
    g = torch.Generator().manual_seed(0)
    inside, outside = 1.0 + torch.randn(100, generator=g), torch.randn(50, generator=g)
    metrics = ood_metrics(inside, outside)
    wins = (inside[:, None] > outside).double().mean()
    assert metrics["auroc"] == pytest.approx(float(wins))
    threshold = np.sort(inside.numpy())[::-1][94]  # accepts 95 of 100
    assert metrics["fpr95"] == pytest.approx(float((outside.numpy() >= threshold).mean()))
    assert ood_metrics(inside + 100.0, outside) == {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}


class Quadrant(nn.Module):
    """A classifier whose logit k is the mean of channel k."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(2, 2, 1, bias=False)
        self.maps.weight.data.copy_(torch.eye(2)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3))


def test_grad_cam_points_at_the_evidence() -> None:
    x = torch.zeros(1, 2, 8, 8)
    x[0, 0, :4, :4] = 1.0
    x[0, 1, 4:, 4:] = 2.0
    model = Quadrant().requires_grad_(False)
    for target, rows in ((torch.tensor([0]), slice(0, 4)), (None, slice(4, 8))):
        cam = grad_cam(model, model.maps, x, target)
        assert cam.shape == (1, 8, 8)
        expected = torch.zeros(8, 8)
        expected[rows, rows] = 1.0
        torch.testing.assert_close(cam[0], expected)
    scored = grad_cam(model, model.maps, x, lambda logits: logits[:, 0])
    torch.testing.assert_close(scored, grad_cam(model, model.maps, x, torch.tensor([0])))


def test_grad_cam_of_a_poincare_network() -> None:
    model = PoincareResNet(3, (2, 3, 4), (1, 1, 1), 1).eval()
    cam = grad_cam(model, model.groups, torch.randn(2, 1, 16, 16))
    assert cam.shape == (2, 16, 16)
    assert float(cam.min()) >= 0.0
    assert float(cam.max()) <= 1.0

"""Agreement of clusters with classes, by brute force; ranks, cosines and angles of subspaces that are known."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holonomy.manifolds.linalg import haar
from holonomy.models.clustering.metrics import class_ranks, cluster_angles, clustering_accuracy, mean_cosines


@pytest.mark.parametrize(("classes", "clusters"), [(4, 4), (3, 5), (5, 3)])
def test_accuracy_is_the_best_over_all_matchings(classes: int, clusters: int) -> None:
    rng = np.random.default_rng(0)
    y, labels = rng.integers(0, classes, 40), rng.integers(0, clusters, 40)
    size = max(classes, clusters)
    best = max(np.mean(np.asarray(p)[labels] == y) for p in itertools.permutations(range(size)))
    assert clustering_accuracy(y, labels) == pytest.approx(best, abs=1e-15)
    assert clustering_accuracy(torch.from_numpy(y), labels.tolist()) == pytest.approx(best, abs=1e-15)


def test_accuracy_does_not_see_names() -> None:
    y = np.array([0, 0, 1, 1, 2, 2])
    assert clustering_accuracy(y, np.array([7, 7, -3, -3, 100, 100])) == 1.0
    assert clustering_accuracy(y, np.zeros(6, dtype=int)) == pytest.approx(1 / 3)


def test_ranks_cosines_and_angles_of_known_subspaces() -> None:
    generator = torch.Generator().manual_seed(0)
    q = haar((6, 6), torch.float64, None, generator)
    # Two planes that share a line and make an angle of 0.3 in the other direction.
    turned = math.cos(0.3) * q[:, 1] + math.sin(0.3) * q[:, 2]
    first = torch.randn(30, 2, dtype=torch.float64, generator=generator) @ q[:, :2].mT
    second = torch.randn(30, 2, dtype=torch.float64, generator=generator) @ torch.stack([q[:, 0], turned])
    z = F.normalize(torch.cat([first, second]), dim=-1)
    labels = torch.arange(60) // 30
    assert class_ranks(z, labels, 0.9999) == [2, 2]
    angles = cluster_angles(z, labels, 2)
    assert angles.shape == (2, 2, 2)
    torch.testing.assert_close(angles[0, 1], torch.tensor([0.0, 0.3], dtype=torch.float64), rtol=0.0, atol=1e-7)
    torch.testing.assert_close(angles[0, 0], torch.zeros(2, dtype=torch.float64), rtol=0.0, atol=1e-7)
    gram, same = (z @ z.mT).abs(), labels.unsqueeze(0) == labels.unsqueeze(1)
    apart = ~torch.eye(60, dtype=torch.bool)
    within, between = mean_cosines(z, labels)
    assert within == pytest.approx(float(gram[same & apart].mean()), rel=1e-12)
    assert between == pytest.approx(float(gram[~same].mean()), rel=1e-12)


def test_cosines_of_more_points_than_a_block() -> None:
    z = F.normalize(torch.randn(2500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=-1)
    labels = torch.arange(2500) % 7
    gram, same = (z @ z.mT).abs(), labels.unsqueeze(0) == labels.unsqueeze(1)
    within, between = mean_cosines(z, labels)
    assert within == pytest.approx(float(gram[same & ~torch.eye(2500, dtype=torch.bool)].mean()), rel=1e-10)
    assert between == pytest.approx(float(gram[~same].mean()), rel=1e-10)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of one length, got 2 and 3"):
        clustering_accuracy([0, 1], [0, 1, 2])
    with pytest.raises(TypeError, match="'labels' must be integers, got float64"):
        clustering_accuracy([0, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"'y' has shape \(2, 1\)"):
        clustering_accuracy([[0], [1]], [0, 1])
    with pytest.raises(ValueError, match="'dim' must be from 1 to 1 for label 1, got 2"):
        cluster_angles(torch.eye(3), [0, 0, 1], 2)

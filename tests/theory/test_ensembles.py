"""Ensembles: the same numbers whatever the workers, estimators with their errors, exact laws."""

import numpy as np
import pytest
import torch

from holonomy.theory import ensembles
from holonomy.theory.activations import activation
from holonomy.theory.deep_learning_theory import CriticalMLP
from holonomy.theory.ensembles import Estimate, estimate, map_batches, sample_fluctuations, sample_kernels, vertex
from holonomy.theory.ntk import empirical_ntk


def draw(seed: np.random.SeedSequence, size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, 2))


def test_workers_and_prefixes_do_not_change_the_draws() -> None:
    alone = map_batches(draw, 600, 3)
    assert alone.shape == (600, 2)
    assert np.array_equal(alone, map_batches(draw, 600, 3, workers=2))
    assert np.array_equal(alone[:500], map_batches(draw, 500, 3))
    assert not np.array_equal(alone, map_batches(draw, 600, 4))
    assert abs(np.corrcoef(alone[:250, 0], alone[250:500, 0])[0, 1]) < 0.3


def test_connected_moments_have_their_errors() -> None:
    """Covariances of correlated numbers: the error over many repetitions is the one that is stated."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a = 3.0 + rng.standard_normal(200)
        b = -2.0 + 0.5 * a + rng.standard_normal(200)
        found.append(estimate(a * b, a, b))
    values = np.array([e.value for e in found])
    assert values.mean() == pytest.approx(0.5, abs=4 * values.std() / 300**0.5 + 0.01)
    assert np.mean([e.error for e in found]) == pytest.approx(values.std(), rel=0.15)


def test_the_forward_recursion_of_tangent_kernels_is_autograd_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network, its tangent kernel carried forward, against torch's derivatives with the same rates."""
    widths, x = [3, 5, 4, 2], torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    net = CriticalMLP(widths, "tanh", 0.1, 1.3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    act, H, z = activation("tanh"), torch.zeros(5, 5, dtype=torch.float64), x
    for k, layer in enumerate(net.layers):
        s = act.sigma(z) if k else z
        if k:
            carried = layer.weight.detach() * act.dsigma(z)
            H = carried @ H @ carried.mT
        H = H + torch.eye(len(H), dtype=H.dtype) * (0.5 + 2.0 * s.square().mean())
        z = layer(s).detach()
    wanted = torch.zeros(2, 2, dtype=torch.float64)
    for layer in net.layers:
        for p, rate in ((layer.bias, 0.5), (layer.weight, 2.0 / layer.in_features)):
            net.requires_grad_(False)
            p.requires_grad_(True)
            wanted += rate * empirical_ntk(net, x.unsqueeze(0), trace=False)[0, 0]
    assert torch.allclose(H, wanted, rtol=1e-12)


def test_fluctuations_repeat_themselves_and_do_not_know_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensembles, "BATCH", 20)
    one = sample_fluctuations([2, 6, 6], "tanh", 0.1, 1.0, torch.ones(2), 60, 5)
    assert one == sample_fluctuations([2, 6, 6], "tanh", 0.1, 1.0, torch.ones(2), 60, 5)
    assert one != sample_fluctuations([2, 6, 6], "tanh", 0.1, 1.0, torch.ones(2), 60, 6)
    assert Estimate(0.0, 0.0) == one[0].B


def test_kernels_of_networks_have_the_law_of_weights() -> None:
    """Mean and variance by drawing preactivations, and by drawing weights."""
    short = sample_kernels([4, 12, 12, 3], "relu", 0.2, 1.5, 1.0, 20_000, 0)
    weights = sample_fluctuations([4, 12, 12, 12], "relu", 0.2, 1.5, torch.ones(4), 4000, 1)
    for layer in range(3):
        mean = float(short[:, layer].mean())
        assert abs(weights[layer].K.value - mean) < 4.0 * weights[layer].K.error + 0.02 * mean
        found, other = vertex(short[:, layer], 12), weights[layer].V
        scale = 12.0 / 4.0 if layer == 0 else 1.0
        assert abs(found.value - scale * other.value) < 4.0 * (found.error + scale * other.error)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: map_batches(draw, 0, 0), "count >= 1"),
        (lambda: map_batches(draw, 5, 0, workers=0), "workers >= 1"),
        (lambda: sample_fluctuations([2, 1], "relu", 0.0, 2.0, torch.ones(2), 9), "do not fit"),
        (lambda: sample_fluctuations([2, 4], "relu", 0.0, 2.0, torch.ones(3), 9), r"input of \(3,\)"),
        (lambda: sample_fluctuations([2, 4], "relu", 0.0, 0.0, torch.ones(2), 9), "C_W > 0"),
        (lambda: sample_kernels([2], "relu", 0.0, 2.0, 1.0, 9), "widths"),
        (lambda: sample_kernels([2, 4], "relu", -1.0, 2.0, 1.0, 9), "C_b >= 0"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

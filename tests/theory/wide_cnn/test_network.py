"""Finite networks against their kernels."""

import pytest
import torch

from holonomy.theory.ntk import empirical_ntk
from holonomy.theory.wide_cnn import HierarchicalKernel, WideCNN, sample_multisphere


@pytest.mark.parametrize("pooling", [False, True])
def test_the_mean_tangent_kernel_is_the_limit(pooling: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = sample_multisphere(4, 4, 2, generator)

    def net() -> WideCNN:
        return WideCNN((2, 2), 128, 2, pooling=pooling, generator=generator, dtype=x.dtype)

    nets = torch.stack([empirical_ntk(net(), x) for _ in range(30)])
    kernel = HierarchicalKernel((2, 2), pooling=pooling)(x)
    error = nets.std(0) / 30**0.5
    # Four standard errors, and the O(1/width) that finite networks are off by.
    assert bool(((nets.mean(0) - kernel).abs() < 4.0 * error + 3.0 * 4.0 / 128).all())
    assert float(error.max()) < 0.15


def test_seeds_shapes_and_dtypes() -> None:
    one, same = (WideCNN((3, 2), 8, 2, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    x = sample_multisphere(5, 4, 3, 0).float()
    assert one(x).shape == (5,)
    assert torch.equal(one(x), same(x))
    assert [tuple(p.shape) for p in one.filters] == [(3, 8), (16, 8)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: WideCNN((2, 2), 0), "got 0, 1 and"),
        (lambda: WideCNN((2, 2), 4, 0), "got 4, 0 and"),
        (lambda: WideCNN((), 4), "filter sizes of at least 1"),
        (lambda: WideCNN((2, 2), 4)(torch.ones(1, 3, 2)), r"must be \(n, 2, 2\), got \(1, 3, 2\)"),
        (lambda: WideCNN((2, 2), 4)(torch.ones(1, 2, 3)), r"must be \(n, 2, 2\), got \(1, 2, 3\)"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

"""ResNet-D: sizes, what a block is at the start, strides, and bad input."""

import pytest
import torch
from torch import nn

from holonomy.models.architectures.resnet_d import ResNetD, resnet50_d


def test_resnet50_d_has_the_published_number_of_weights() -> None:
    model = resnet50_d()
    # ResNet-50 has 25,557,032 parameters with a classifier of 2,049,000; the deep stem has 19,232 more than its
    # 7 x 7 convolution and norm, and pooling in place of a stride adds none.
    stem = sum(p.numel() for p in model.stem.parameters()) - (7 * 7 * 3 * 64 + 2 * 64)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 - 2_049_000 + stem
    assert stem == 3 * 9 * 32 + 32 * 9 * 32 + 32 * 9 * 64 + 4 * 32 + 2 * 64 - 7 * 7 * 3 * 64 - 2 * 64
    assert model.out_features == 2048


@pytest.mark.parametrize(("small", "side"), [(False, 64), (True, 16)])
def test_maps_shrink_by_the_stem_and_once_a_group(small: bool, side: int) -> None:
    model = ResNetD((1, 2, 1), width=4, small=small)
    maps = model.groups(model.stem(torch.randn(2, 3, side, side)))
    assert maps.shape == (2, 64, 4, 4)
    features = model(torch.randn(2, 3, side, side))
    assert features.shape == (2, model.out_features)
    assert float(features.detach().min()) >= 0.0


def test_blocks_start_as_their_shortcuts_and_odd_maps_are_halved_upwards() -> None:
    model = ResNetD((1, 1), width=4, small=True).eval()
    block = model.groups[1]
    x = torch.rand(2, 16, 7, 7, generator=torch.Generator().manual_seed(0))
    pooled = nn.functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    wanted = block.shortcut[1](pooled).relu()
    assert wanted.shape[2:] == (4, 4)
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-6)  # float32


def test_every_parameter_has_a_gradient_after_a_step() -> None:
    model = ResNetD((1, 1), width=4, small=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # at the first step the closed branches hide what is before them
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))).square().mean().backward()
        optimizer.step()
    assert all(bool(p.grad.any()) for name, p in model.named_parameters() if "weight" in name)


@pytest.mark.parametrize("options", [{"blocks": ()}, {"blocks": (1, 0)}, {"width": 3}, {"in_channels": 0}])
def test_bad_sizes_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="'blocks' and 'in_channels' must be positive and 'width' even"):
        ResNetD(**options)

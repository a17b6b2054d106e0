"""StyleGAN's blocks: against plain convolutions with scaled weights, filters, and the gradients that penalties take."""

import copy

import pytest
import torch
import torch.nn.functional as F

from holonomy.examples.blocks.gan_training import Gan, Losses, train
from holonomy.examples.blocks.resnet import resnet18
from holonomy.examples.blocks.style_gan import (
    Blur,
    Discriminator,
    ModulatedConv,
    SmallDiscriminator,
    StyleGenerator,
    Upsample,
    path_penalty,
    r1_penalty,
    style_channels,
)

SMALL = {4: 6, 8: 5, 16: 4}


def generator(size: int = 8, noisy: bool = False) -> StyleGenerator:
    torch.manual_seed(0)
    return StyleGenerator(size, 7, SMALL, 2, 3, noisy)


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_one_with_scaled_weights(upsample: bool, demodulate: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(4, 5, 3, 7, demodulate, upsample)
    x, w = torch.randn(3, 4, 6, 6), torch.randn(3, 7)
    found = layer(x, w)
    for i in range(3):
        weight = layer.weight[0] / 36**0.5 * layer.modulation(w)[i][:, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if upsample:
            wanted = layer.blur(F.conv_transpose2d(x[i : i + 1], weight.transpose(0, 1), stride=2))
        else:
            wanted = F.conv2d(x[i : i + 1], weight, padding=1)
        torch.testing.assert_close(found[i : i + 1], wanted, atol=1e-5, rtol=1e-5)
    assert found.shape[-1] == (12 if upsample else 6)


@pytest.mark.parametrize(("pad", "gain"), [((2, 2), 1.0), ((1, 1), 4.0), ((2, 1), 4.0)])
def test_blur_is_the_convolution_with_its_kernel(pad: tuple[int, int], gain: float) -> None:
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    layer = Blur(pad, gain)
    wanted = F.conv2d(F.pad(x, (*pad, *pad)).flatten(0, 1)[:, None], layer.kernel[None, None].double())
    torch.testing.assert_close(layer(x).flatten(0, 1)[:, None], wanted, atol=1e-12, rtol=0)
    assert float(layer.kernel.sum()) == pytest.approx(gain)


def test_upsampling_keeps_constants_within_and_doubles_the_size() -> None:
    y = Upsample()(torch.full((1, 2, 6, 6), 3.0))
    assert y.shape == (1, 2, 12, 12)
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full((1, 2, 8, 8), 3.0))


def test_names_and_shapes_are_those_of_published_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in generator(16, noisy=True).state_dict().items()}
    wanted = {
        "style.1.weight": (7, 7),
        "style.2.bias": (7,),
        "input.input": (1, 6, 4, 4),
        "conv1.conv.weight": (1, 6, 6, 3, 3),
        "conv1.conv.modulation.weight": (6, 7),
        "conv1.noise.weight": (1,),
        "conv1.activate.bias": (6,),
        "to_rgb1.bias": (1, 3, 1, 1),
        "convs.0.conv.blur.kernel": (4, 4),
        "convs.3.conv.modulation.bias": (4,),
        "to_rgbs.1.upsample.kernel": (4, 4),
        "to_rgbs.1.conv.weight": (1, 3, 4, 1, 1),
        "noises.noise_4": (1, 1, 16, 16),
    }
    assert {name: shapes.get(name) for name in wanted} == wanted
    shapes = {name: tuple(value.shape) for name, value in Discriminator(16, SMALL).state_dict().items()}
    wanted = {
        "convs.0.0.weight": (4, 3, 1, 1),
        "convs.0.1.bias": (4,),
        "convs.1.conv1.0.weight": (4, 4, 3, 3),
        "convs.1.conv2.0.kernel": (4, 4),
        "convs.1.conv2.1.weight": (5, 4, 3, 3),
        "convs.1.conv2.2.bias": (5,),
        "convs.2.skip.1.weight": (6, 5, 1, 1),
        "final_conv.0.weight": (6, 7, 3, 3),
        "final_linear.0.weight": (6, 96),
        "final_linear.1.bias": (1,),
    }
    assert {name: shapes.get(name) for name in wanted} == wanted
    assert style_channels(256) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}


def test_code_of_each_layer_reaches_its_convolution_alone() -> None:
    g = generator(16)
    ws = torch.randn(2, g.layers, 7)
    seen: dict[int, torch.Tensor] = {}
    for i, style in enumerate(g.styles()):
        style.register_forward_pre_hook(lambda module, inputs, i=i: seen.update({i: inputs[0]}))
    g(ws)
    seen = dict(seen)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert all(torch.equal(seen[i], ws[:, i]) for i in seen)
    torch.testing.assert_close(g(ws[:, :1].expand(-1, g.layers, -1)), g(ws[:, 0]))


def test_noise_is_fixed_unless_asked_for() -> None:
    g = generator(noisy=True)
    for name, value in g.named_parameters():
        if name.endswith("noise.weight"):
            torch.nn.init.ones_(value)
    w = torch.randn(2, 7)
    assert torch.equal(g(w), g(w))
    assert not torch.equal(g(w, fixed_noise=False), g(w, fixed_noise=False))


@pytest.mark.parametrize("kind", [Discriminator(8, SMALL), SmallDiscriminator(8, 4, 3)])
def test_discriminators_score_each_image_and_see_the_groups_spread(kind: torch.nn.Module) -> None:
    images = torch.randn(8, 3, 8, 8)
    assert kind(images).shape == (8,)
    alone = torch.cat([kind(image[None]) for image in images])
    assert not torch.allclose(kind(images), alone)


def test_penalties_are_those_of_linear_maps() -> None:
    a = torch.randn(12)
    images = torch.randn(5, 3, 2, 2)
    assert float(r1_penalty(lambda x: x.flatten(1) @ a, images)) == pytest.approx(float(a.square().sum()), rel=1e-5)
    # Images are c times an orthogonal map of codes: |J^T y|^2 is c^2 times |y|^2, of mean c^2 times channels.
    q = torch.linalg.qr(torch.randn(64, 64))[0]
    ws = torch.randn(500, 1, 64).requires_grad_()
    made = 2.0 * (ws @ q).view(500, 1, 8, 8)
    zero = torch.zeros(())
    penalty, mean = path_penalty(made, ws, zero, torch.Generator().manual_seed(0))
    # |J^T y| = 2 |y| with |y|^2 of mean 1 and variance 2 / 64: mean 2 less a hundredth, moved by a hundredth.
    assert float(mean) == pytest.approx(0.02, rel=0.02)
    assert float(penalty) == pytest.approx(float((2.0 - mean) ** 2), rel=0.03)
    penalty, _ = path_penalty(made, ws, torch.tensor(2.0), torch.Generator().manual_seed(0))
    assert float(penalty) < 0.1


def test_training_fits_a_constant_image_resumes_and_leaves_the_average_behind() -> None:
    def images(n: int) -> torch.Tensor:
        return torch.full((n, 3, 8, 8), 0.5)

    def gan() -> Gan:
        torch.manual_seed(0)
        return Gan(generator(), SmallDiscriminator(8, 4, 3), Losses(r1=1.0, lr=0.01, average=0.9))

    first, rng = gan(), torch.Generator().manual_seed(0)
    start = float((first.average(torch.zeros(4, 7)) - 0.5).detach().abs().mean())
    curves = train(first, range(60), images, 8, rng)
    assert len(curves["generator"]) == len(curves["discriminator"]) == 60
    end = float((first.average(torch.zeros(4, 7)) - 0.5).detach().abs().mean())
    assert end < 0.5 * start
    assert any(
        not torch.equal(p, q) for p, q in zip(first.average.parameters(), first.generator.parameters(), strict=True)
    )

    whole, half, again = gan(), gan(), gan()
    rng = torch.Generator().manual_seed(1)
    train(whole, range(6), images, 8, rng)
    rng = torch.Generator().manual_seed(1)
    train(half, range(3), images, 8, rng)
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    train(again, range(3, 6), images, 8, rng)
    for p, q in zip(whole.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(p, q)


def test_sizes_that_are_no_powers_of_two_are_refused() -> None:
    for size in (4, 12):
        with pytest.raises(ValueError, match=f"size must be a power of two, 8 at least, got {size}"):
            StyleGenerator(size, 4, SMALL)
        with pytest.raises(ValueError, match="size must be a power of two"):
            Discriminator(size, SMALL)
    with pytest.raises(ValueError, match="size must be a multiple of 4, got 6"):
        SmallDiscriminator(6, 4)


def test_resnet18_is_the_known_network() -> None:
    network = resnet18(64)
    assert sum(p.numel() for p in network.parameters()) == 11_168_832  # 11.17 million without the last layer
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 512)

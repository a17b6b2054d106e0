"""Projectors: singular values, the nearest partial isometry, gauge freedom, exchange in a tree of modules."""

import copy

import pytest
import torch
from torch import Tensor, nn

from holonomy.manifolds import Grassmann
from holonomy.manifolds.linalg import haar
from holonomy.models.representation.householder_projector.projector import (
    HouseholderProjector,
    Projector,
    StiefelProjector,
    affine_map,
    replace_style_projections,
)
from holonomy.optim import RiemannianAdam

KINDS = (HouseholderProjector, StiefelProjector)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(d: int, c: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(d, c, dtype=dtype)
    nn.init.normal_(layer.weight)
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "c", "r"), [(9, 6, 3), (6, 9, 6), (5, 5, 1)])
def test_weight_is_a_scaled_partial_isometry_at_any_parameters(kind: type[Projector], d: int, c: int, r: int) -> None:
    layer = kind(d, c, r, gain=1.7, dtype=torch.float64, generator=seeded())
    optimizer = RiemannianAdam(layer.parameters(), lr=0.05)
    x, y = torch.randn(40, d, dtype=torch.float64), torch.randn(40, c, dtype=torch.float64)
    for step in range(201):
        if step % 100 == 0:
            values = torch.linalg.svdvals(layer.weight.detach())
            torch.testing.assert_close(values[:r], torch.full_like(values[:r], 1.7), atol=1e-12, rtol=0)
            assert not len(values[r:]) or float(values[r:].max()) < 1e-12
            v = layer.directions().detach()
            lengths = (layer.weight.detach() @ v.T).norm(dim=0)
            torch.testing.assert_close(lengths, torch.full_like(lengths, 1.7), atol=1e-12, rtol=0)
            outside = torch.randn(d, 3, dtype=torch.float64)
            outside -= v.T @ (v @ outside)
            assert float((layer.weight @ outside).detach().abs().max()) < 1e-12
            projector = layer.weight.detach().T @ layer.weight.detach() / 1.7**2
            torch.testing.assert_close(projector @ projector, projector, atol=1e-12, rtol=0)
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()


def test_from_linear_is_the_nearest_partial_isometry() -> None:
    layer = linear(7, 5)
    u, _, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    for r in (1, 3, 5):
        found = HouseholderProjector.from_linear(layer, r)
        torch.testing.assert_close(found.weight.detach(), u[:, :r] @ vh[:r], atol=1e-12, rtol=0)
        assert torch.equal(found.bias, layer.bias)
        least = float((layer.weight - found.weight).detach().norm())
        others = (
            haar((1000, 5, r), torch.float64, None, seeded()) @ haar((1000, 7, r), torch.float64, None, seeded(1)).mT
        )
        assert least < float((layer.weight.detach() - others).norm(dim=(1, 2)).min())
        # And near it, where random ones are far.
        for scale in (1e-1, 1e-3):
            near = [
                torch.linalg.qr(x + scale * torch.randn(100, *x.shape, dtype=x.dtype)) for x in (u[:, :r], vh[:r].T)
            ]
            q, p = (part * factor.diagonal(dim1=1, dim2=2).sign()[:, None] for part, factor in near)
            assert least < float((layer.weight.detach() - q @ p.mT).norm(dim=(1, 2)).min())


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_from_linear_reproduces_orthonormal_rows_or_columns(kind: type[Projector], shape: tuple[int, int]) -> None:
    c, d = shape
    layer = linear(d, c, dtype=torch.float32)
    q = haar((max(shape), min(shape)), torch.float32, None, seeded())
    with torch.no_grad():
        layer.weight.copy_(q if c >= d else q.T)
    found = kind.from_linear(layer, min(shape))
    torch.testing.assert_close(found.weight.detach(), layer.weight.detach(), atol=1e-6, rtol=0)
    w = torch.randn(3, d)
    torch.testing.assert_close(found(w), layer(w), atol=2e-6, rtol=0)  # a few roundings more


def test_gain_keeps_the_size_of_styles_and_can_be_learned() -> None:
    layer = linear(7, 5)
    mean = float(torch.linalg.svdvals(layer.weight.detach())[:3].mean())
    found = HouseholderProjector.from_linear(layer, 3, gain="mean", learn_gain=True)
    assert float(found.gain.detach()) == pytest.approx(mean)
    found(torch.randn(4, 7, dtype=torch.float64)).sum().backward()
    assert found.gain.grad is not None
    assert found.gain.grad != 0
    assert not HouseholderProjector(4, 4, 2).gain.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_turning_both_factors_changes_directions_and_not_the_weight(kind: type[Projector]) -> None:
    layer = kind(8, 6, 4, dtype=torch.float64, generator=seeded())
    rotation = haar((4, 4), torch.float64, None, seeded(1))
    weight, before = layer.weight.detach(), layer.directions().detach().clone()
    layer.turn(rotation)
    torch.testing.assert_close(layer.weight.detach(), weight, atol=1e-13, rtol=0)
    torch.testing.assert_close(layer.directions().detach(), rotation.T @ before, atol=1e-13, rtol=0)
    angles = Grassmann().principal_angles(before.T, layer.directions().detach().T)
    assert float(angles.max()) < 1e-12
    assert float((before - layer.directions()).detach().abs().max()) > 0.1


def test_directions_are_the_parameters_and_not_those_of_an_svd() -> None:
    layer = HouseholderProjector(8, 6, 4, dtype=torch.float64, generator=seeded())
    assert torch.equal(layer.directions(), layer.right().T)
    again = torch.linalg.svd(layer.weight.detach())[2][:4]
    assert float((again.abs() - layer.directions().detach().abs()).abs().max()) > 0.01
    assert float(Grassmann().principal_angles(again.T, layer.directions().detach().T).max()) < 1e-10


def test_gauge_of_the_jacobian_diagonalises_and_does_not_depend_on_the_basis() -> None:
    layer = HouseholderProjector(8, 6, 4, dtype=torch.float64, generator=seeded())
    half = torch.randn(8, 8, dtype=torch.float64, generator=seeded(1))
    gram = half @ half.T
    v = layer.directions("jacobian", gram).detach()
    inside = v @ gram @ v.T
    torch.testing.assert_close(inside, inside.diagonal().diag(), atol=1e-12, rtol=0)
    assert bool((inside.diagonal().diff() < 0).all())
    torch.testing.assert_close(v @ v.T, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)
    layer.turn(haar((4, 4), torch.float64, None, seeded(2)))
    again = layer.directions("jacobian", gram).detach()
    torch.testing.assert_close(again * (again * v).sum(1, keepdim=True).sign(), v, atol=1e-11, rtol=0)


def test_both_parametrisations_reach_the_same_functions() -> None:
    target = HouseholderProjector(8, 6, 3, dtype=torch.float64, generator=seeded(5))
    weight = target.weight.detach()
    x = torch.randn(64, 8, dtype=torch.float64, generator=seeded(6))
    for kind in KINDS:
        layer = kind(8, 6, 3, dtype=torch.float64, generator=seeded(7))
        optimizer = RiemannianAdam(layer.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
        for _ in range(1500):
            optimizer.zero_grad()
            (layer(x) - x @ weight.T).square().mean().backward()
            optimizer.step()
            schedule.step()
        assert float((layer.weight - weight).detach().abs().max()) < 1e-3, kind
        other = next(k for k in KINDS if k is not kind).from_linear(layer.to_linear(), 3)
        torch.testing.assert_close(other.weight.detach(), layer.weight.detach(), atol=1e-10, rtol=0)


# -- layers of other code bases ---------------------------------------------------------------------------------------


class Equalised(nn.Module):
    """A layer whose weight and bias are multiplied as it computes."""

    def __init__(self, d: int, c: int, multiplier: float = 0.5, relu: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c, d) / multiplier)
        self.bias = nn.Parameter(torch.ones(c) / multiplier)
        self.multiplier, self.relu = multiplier, relu

    def forward(self, w: Tensor) -> Tensor:
        scale = self.multiplier / self.weight.shape[1] ** 0.5
        y = nn.functional.linear(w, self.weight * scale, self.bias * self.multiplier)
        return y.relu() if self.relu else y


class Block(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.modulation = Equalised(8, c)
        self.plain = nn.Linear(8, 8)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.convs = nn.ModuleList([Block(5), Block(12)])
        self.to_rgb = Block(3)


def test_constant_factors_are_folded_once() -> None:
    torch.manual_seed(0)
    layer = Equalised(8, 5)
    weight, bias = affine_map(layer)
    torch.testing.assert_close(weight, layer.weight.detach().double() * 0.5 / 8**0.5, atol=1e-14, rtol=0)
    assert bias is not None
    torch.testing.assert_close(bias, torch.ones(5, dtype=torch.float64), atol=1e-14, rtol=0)
    with torch.no_grad():
        q = haar((8, 5), torch.float32, None, seeded()).T
        layer.weight.copy_(q * 8**0.5 / 0.5)
    found = HouseholderProjector.from_linear(layer, 5)
    w = torch.randn(3, 8)
    torch.testing.assert_close(found(w), layer(w), atol=2e-6, rtol=0)
    assert found.weight.dtype == torch.float32
    assert layer.weight.dtype == torch.float32  # measured on a copy


@pytest.mark.parametrize("kind", KINDS)
def test_replacement_touches_only_what_matches(kind: type[Projector]) -> None:
    torch.manual_seed(0)
    generator = Generator()
    before = copy.deepcopy(generator.state_dict())
    assert replace_style_projections(generator, 3, kind=kind) is generator
    projectors = {name: module for name, module in generator.named_modules() if isinstance(module, Projector)}
    assert list(projectors) == ["convs.0.modulation", "convs.1.modulation"]
    assert all(isinstance(module, kind) for module in projectors.values())
    after = generator.state_dict()
    kept = [name for name in before if not name.startswith(tuple(projectors))]
    assert len(kept) == 10
    assert all(torch.equal(before[name], after[name]) for name in kept)
    with pytest.raises(ValueError, match="no layer's name matches 'affine', 'modulation'"):
        replace_style_projections(generator, 3)  # projectors are not replaced again


def test_replacement_by_pattern_of_shared_layers_and_back() -> None:
    torch.manual_seed(0)
    generator = Generator()
    generator.convs[1].modulation = generator.convs[0].modulation
    replace_style_projections(generator, 2, include=["convs.*.modulation"], exclude=())
    assert generator.convs[1].modulation is generator.convs[0].modulation
    projector = generator.convs[0].modulation
    back = projector.to_linear()
    w = torch.randn(4, 8)
    torch.testing.assert_close(back(w), projector(w), atol=2e-6, rtol=0)
    assert isinstance(generator.to_rgb.modulation, Equalised)
    replace_style_projections(generator, 2, exclude=["convs"])
    assert isinstance(generator.to_rgb.modulation, HouseholderProjector)


def test_bad_input_is_refused_before_anything_changes() -> None:
    torch.manual_seed(0)
    for rank in (0, 6):
        with pytest.raises(ValueError, match=rf"'rank' must be from 1 to min\(in, out\) = 5, got {rank}"):
            HouseholderProjector(9, 5, rank)
        with pytest.raises(ValueError, match=f"'rank' must be from 1 .* got {rank}"):
            HouseholderProjector.from_linear(linear(9, 5), rank)
    with pytest.raises(ValueError, match="sizes must be at least 1"):
        StiefelProjector(0, 5, 1)
    for gain in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="'gain' must be positive and finite"):
            HouseholderProjector(9, 5, 2, gain=gain)
    with pytest.raises(ValueError, match="'gain' must be a number or 'mean', got 'median'"):
        HouseholderProjector.from_linear(linear(9, 5), 2, gain="median")  # type: ignore[arg-type]
    generator = Generator()
    before = list(generator.named_modules())
    with pytest.raises(ValueError, match=r"'convs.0.modulation': from_linear: 'rank' must be from 1 .* = 5, got 7"):
        replace_style_projections(generator, 7)
    with pytest.raises(TypeError, match=r"'style.1': the layer must have a 2-D weight \(out, in\), got ReLU"):
        replace_style_projections(generator, 2, include=["style"])
    assert [id(m) for _, m in generator.named_modules()] == [id(m) for _, m in before]
    with pytest.raises(ValueError, match="no layer's name matches 'nothing'"):
        replace_style_projections(generator, 2, include=["nothing"])
    with pytest.raises(TypeError, match=r"must have a 2-D weight .* got Conv2d"):
        HouseholderProjector.from_linear(nn.Conv2d(2, 2, 1), 1)
    with pytest.raises(ValueError, match="the layer must be affine, got Equalised"):
        HouseholderProjector.from_linear(Equalised(8, 5, relu=True), 2)
    broken = linear(4, 4)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="weight of 'linear' must be finite"):
        HouseholderProjector.from_linear(broken, 2)
    layer = HouseholderProjector(6, 5, 3)
    with pytest.raises(ValueError, match="'rotation' must be orthogonal"):
        layer.turn(2.0 * torch.eye(3))
    with pytest.raises(ValueError, match="'gauge' must be 'parameters' or 'jacobian', got 'svd'"):
        layer.directions("svd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'gram' goes with gauge='jacobian'"):
        layer.directions("jacobian")
    with pytest.raises(ValueError, match=r"'gram' must have shape \(6, 6\), got \(5, 5\)"):
        layer.directions("jacobian", torch.eye(5))
    with pytest.raises(TypeError, match="abstract"):
        Projector(4, 4, 2)  # type: ignore[abstract]

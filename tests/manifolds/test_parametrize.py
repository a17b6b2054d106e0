"""Weights on a manifold under a plain torch optimizer."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import cached, register_parametrization, remove_parametrizations

from holonomy.manifolds import (
    DimensionError,
    Euclidean,
    Grassmann,
    MembershipError,
    OnManifold,
    PoincareBall,
    Simplex,
    Sphere,
    Stiefel,
    rebase,
)

MANIFOLDS = [
    Euclidean(), Grassmann(), PoincareBall(0.5), Simplex(), Sphere(), Stiefel(), Stiefel("canonical", "cayley"),
]  # fmt: skip


def name(manifold):
    return " ".join([manifold.name, *(str(value) for value in manifold._config().values())])


def constrained(manifold, features=8, classes=3, seed=0, **options):
    """A linear layer whose weight, classes x features, is on the manifold."""
    torch.manual_seed(seed)
    layer = nn.Linear(features, classes, bias=False)
    return register_parametrization(layer, "weight", OnManifold(manifold, **options))


def is_on(manifold, weight, **tolerance):
    """Whether the weight, or where only that fits its transpose, holds points."""
    return manifold.check_point_on_manifold(weight if manifold.check_point(weight) else weight.mT, **tolerance)


def train(layer, steps=60, lr=0.05, each=None):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(50, 8, generator=generator), torch.randn(50, 3, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if each is not None and step % each == each - 1:
            rebase(layer)
    return losses


@pytest.mark.parametrize("chart", ["exp", "retr"])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=name)
def test_weights_stay_on_the_manifold_and_learn(manifold, chart):
    layer = constrained(manifold, chart=chart)
    assert is_on(manifold, layer.weight)
    losses = train(layer, each=20)
    assert is_on(manifold, layer.weight, atol=1e-5)
    assert losses[-1] < losses[0]
    assert [name for name, _ in layer.named_parameters()] == ["parametrizations.weight.original"]


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel(), Stiefel("canonical")], ids=name)
@pytest.mark.parametrize("wide", [False, True], ids=["tall", "wide"])
def test_adam_finds_the_dominant_eigenspace(manifold, wide):
    torch.manual_seed(0)
    a = torch.randn(20, 20)
    a = a + a.T
    layer = constrained(manifold, features=20, classes=3) if wide else constrained(manifold, features=3, classes=20)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for step in range(150):
        optimizer.zero_grad()
        basis = layer.weight.mT if wide else layer.weight
        (-(basis * (a @ basis)).sum()).backward()
        optimizer.step()
        if step % 25 == 24:
            rebase(layer)
    basis = (layer.weight.mT if wide else layer.weight).detach()
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3), atol=1e-5, rtol=0)  # float32: a few roundings
    # Adam with a constant step hovers about the maximum; the value is flat there.
    assert float((basis * (a @ basis)).sum()) == pytest.approx(float(torch.linalg.eigvalsh(a)[-3:].sum()), rel=1e-4)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=name)
def test_assignment_puts_the_weight_where_it_is_told(manifold):
    layer = constrained(manifold)
    before = layer.parametrizations.weight.original
    shape = (3, 8) if manifold.check_point(torch.empty(3, 8)) else (8, 3)
    point = manifold.random(*shape, generator=torch.Generator().manual_seed(2))
    point = point if shape == (3, 8) else point.mT
    layer.weight = point
    torch.testing.assert_close(layer.weight, point)  # float32: the projection may round
    assert layer.parametrizations.weight.original is before
    assert not before.any()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=name)
def test_rebase_moves_the_base_and_not_the_weight(manifold):
    layer = nn.Sequential(constrained(manifold), nn.Linear(3, 3))
    train(layer, steps=20)
    weight = layer[0].weight.detach().clone()
    base = layer[0].parametrizations.weight[0].base.clone()
    rebase(layer)
    torch.testing.assert_close(layer[0].weight, weight)
    torch.testing.assert_close(layer[0].parametrizations.weight[0].base, weight)
    assert not torch.equal(base, weight)
    assert not layer[0].parametrizations.weight.original.any()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=name)
def test_copies_and_state_dicts_restore_the_weight_exactly(manifold):
    layer = constrained(manifold)
    train(layer, steps=20, each=10)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = constrained(manifold, seed=5)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.weight, layer.weight)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)
    assert is_on(manifold, layer.double().weight, atol=1e-5)  # the base is still that of float32


def test_gradient_at_the_base_is_the_projected_gradient():
    layer = constrained(Sphere()).double()
    layer.weight = Sphere().random(3, 8, dtype=torch.float64)
    g = torch.randn(3, 8, dtype=torch.float64)
    (layer.weight * g).sum().backward()
    expected = Sphere().egrad2rgrad(layer.weight.detach(), g)
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, expected)


def test_transpose_by_hand():
    rows, columns = constrained(Sphere()), constrained(Sphere(), transpose=True)
    torch.testing.assert_close(rows.weight.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(columns.weight.norm(dim=0), torch.ones(8))
    with pytest.raises(DimensionError, match=r"shape \(3, 8\) does not fit: Stiefel.*n >= p"):
        constrained(Stiefel(), transpose=False)


@pytest.mark.parametrize("manifold", [Sphere(), Simplex(), Stiefel()], ids=name)
def test_compiles_as_one_graph(manifold):
    layer = constrained(manifold)
    train(layer, steps=3)
    x = torch.randn(2, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    rebase(layer)
    torch.testing.assert_close(compiled(x), layer(x))


def test_torchs_own_tools_for_parametrizations_work():
    layer = constrained(Stiefel())
    with cached():
        assert layer.weight is layer.weight
    weight = layer.weight.detach().clone()
    remove_parametrizations(layer, "weight")
    assert type(layer.weight) is nn.Parameter
    assert torch.equal(layer.weight, weight)


def test_errors_name_what_is_wrong():
    with pytest.raises(TypeError, match=r"write Sphere\(\), not Sphere"):
        OnManifold(Sphere)
    with pytest.raises(ValueError, match="'chart' must be one of exp, retr, got 'log'"):
        OnManifold(Sphere(), chart="log")
    with pytest.raises(RuntimeError, match="no base point"):
        OnManifold(Sphere())(torch.ones(3))
    with pytest.raises(DimensionError, match=r"shape \(3,\) does not fit"):
        register_parametrization(nn.Linear(4, 3), "bias", OnManifold(Stiefel()))
    layer = nn.Linear(3, 2)
    layer.weight.data = Sphere().random(2, 3)
    register_parametrization(layer, "weight", OnManifold(Sphere(validate=True)))
    with pytest.raises(MembershipError, match="off the manifold"):
        layer.weight = torch.ones(2, 3)

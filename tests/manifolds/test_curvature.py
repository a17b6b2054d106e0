"""The one mechanism that stores curvature: exact, checked, learnable, and plain tensors in state_dict."""

import math

import pytest
import torch

from holonomy.manifolds import Lorentz, Manifold, PoincareBall
from holonomy.manifolds.curvature import Curvature

BOTH = pytest.mark.parametrize("kind", [PoincareBall, Lorentz], ids=lambda kind: kind.__name__)


@BOTH
@pytest.mark.parametrize("c", [1e-6, 0.1, 1.0, 89.0, 1e4])
def test_a_number_is_stored_exactly_in_every_dtype(kind: type[Manifold], c: float) -> None:
    manifold = kind(c)
    assert manifold.c == c
    assert manifold.double().c == c
    assert manifold.half().c == c
    assert not manifold.state_dict()
    assert not list(manifold.parameters())


@BOTH
@pytest.mark.parametrize("c", [1e-6, 0.1, 1.0, 1e4])
def test_a_learnable_curvature_starts_at_exactly_what_was_given(kind: type[Manifold], c: float) -> None:
    manifold = kind(c, learnable=True)
    assert manifold.c.item() == torch.tensor(c).item()
    assert manifold.double().c.item() == c


def test_a_learnable_curvature_has_no_scalar_parameter_and_the_shape_that_was_given() -> None:
    assert all(p.ndim >= 1 for p in PoincareBall(0.5, learnable=True).parameters())
    assert PoincareBall(0.5, learnable=True).c.shape == ()
    assert PoincareBall(torch.tensor([0.5, 2.0]), learnable=True).c.shape == (2,)


def test_a_learnable_curvature_stays_positive_and_finite_under_large_steps() -> None:
    ball = PoincareBall(0.5, learnable=True)
    for sign in (-1.0, 1.0):
        with torch.no_grad():
            ball.curvature.log_ratio.fill_(20.0 * sign)
        assert ball.c.item() == pytest.approx(0.5 * math.exp(20.0 * sign))


def test_state_dict_carries_a_learnable_curvature_into_a_manifold_made_with_another() -> None:
    trained, fresh = PoincareBall(0.3, learnable=True), PoincareBall(2.0, learnable=True)
    with torch.no_grad():
        trained.curvature.log_ratio.fill_(0.25)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.c, trained.c)


def test_state_dict_holds_plain_tensors_and_keeps_a_fixed_tensor_exactly() -> None:
    c = torch.tensor([0.1, 7.0], dtype=torch.float64)
    state = PoincareBall(c).state_dict()
    assert [type(value) for value in state.values()] == [torch.Tensor]
    restored = PoincareBall(torch.ones(2, dtype=torch.float64))
    restored.load_state_dict(state)
    assert torch.equal(restored.c, c)


def test_a_tensor_is_copied_so_that_later_changes_do_not_reach_the_manifold() -> None:
    c = torch.tensor([1.0, 2.0])
    ball = PoincareBall(c)
    c.zero_()
    assert torch.equal(ball.c, torch.tensor([1.0, 2.0]))


@BOTH
@pytest.mark.parametrize("c", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, -2.0]), torch.tensor(math.nan)])
def test_a_curvature_that_is_not_positive_and_finite_is_refused_by_value(kind: type[Manifold], c: object) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: 'c' must be positive and finite.*got"):
        kind(c)


@BOTH
@pytest.mark.parametrize("c", ["1", None, True, [1.0], 1j, torch.tensor(1), torch.tensor(1.0 + 0j)])
def test_a_curvature_that_is_no_number_is_a_type_error(kind: type[Manifold], c: object) -> None:
    with pytest.raises(TypeError, match=rf"{kind.__name__}: 'c' must"):
        kind(c)


@BOTH
def test_curvature_can_differ_by_layer_and_by_point(kind: type[Manifold]) -> None:
    c = torch.tensor([[0.2], [5.0]], dtype=torch.float64)
    many = kind(c)
    x, y = many.random(2, 7, 4, dtype=torch.float64), many.random(2, 7, 4, dtype=torch.float64)
    u = many.random_tangent(x)
    for layer in range(2):
        one = kind(c[layer].item())
        torch.testing.assert_close(many.dist(x, y)[layer], one.dist(x[layer], y[layer]))
        torch.testing.assert_close(many.expmap(x, u)[layer], one.expmap(x[layer], u[layer]))
        torch.testing.assert_close(many.inner(x, u)[layer], one.inner(x[layer], u[layer]))
    alone = torch.stack([kind(c[i].item()).cdist(x[i], y[i]) for i in range(2)])
    torch.testing.assert_close(kind(c.squeeze(1)).cdist(x, y), alone)


@BOTH
def test_gradient_of_a_learnable_curvature_matches_finite_differences(kind: type[Manifold]) -> None:
    manifold = kind(0.7, learnable=True).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x = manifold.random(3, 4, dtype=torch.float64, generator=generator)
        y = manifold.random(3, 4, dtype=torch.float64, generator=generator)
        u = manifold.random_tangent(x, generator=generator)
    ratio = manifold.curvature.log_ratio
    for values in (
        lambda: manifold.dist(x, y),
        lambda: manifold.cdist(x, y),
        lambda: manifold.expmap(x, u),
        lambda: manifold.logmap(x, y),
        lambda: manifold.transp(x, y, u),
        lambda: manifold.midpoint(x),
    ):
        assert torch.autograd.gradcheck(lambda _, values=values: values(), (ratio,))


def test_key_batches_equal_curvatures_and_keeps_tensors_apart() -> None:
    assert PoincareBall(0.5).key == PoincareBall(0.5).key
    assert PoincareBall(0.5).key != PoincareBall(0.25).key
    assert PoincareBall(0.5).key != Lorentz(0.5).key
    assert PoincareBall(0.5, learnable=True).key != PoincareBall(0.5, learnable=True).key


def test_curvature_is_a_module_of_its_own_and_says_what_it_is() -> None:
    assert Curvature(2.0).value == 2.0
    assert "c=0.5" in repr(PoincareBall(0.5))

"""RiemannianSGD on manifolds, against torch on a line and against steps written out by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Manifold, ManifoldParameter, Sphere
from holonomy.optim import RiemannianSGD


@pytest.mark.parametrize("foreach", [None, False])
def test_manifold_code_on_a_line_is_torchs_sgd(foreach: bool | None, line: Manifold, run: Callable) -> None:
    combinations = itertools.product(
        [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}],
        [0.0, 0.1],
        [False, True],
        [0.1, torch.tensor([0.1])],
    )
    for momentum, decay, maximize, lr in combinations:
        options = {"lr": lr, "weight_decay": decay, "maximize": maximize, **momentum}
        starts = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        ours = run(RiemannianSGD([ManifoldParameter(s.clone(), line) for s in starts], foreach=foreach, **options))
        theirs = run(torch.optim.SGD([torch.nn.Parameter(s.clone()) for s in starts], **options))
        # The same sums in another order of multiplication: a few roundings of numbers near 1.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def rotation(x: Tensor, u: Tensor) -> Tensor:
    """Rotation by |u| in the plane of x and u: it moves x along the great circle, and transports along it."""
    return torch.linalg.matrix_exp(torch.outer(u, x) - torch.outer(x, u))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_momentum_on_the_sphere_is_rotated_along_the_great_circle(nesterov: bool, dampening: float) -> None:
    if nesterov and dampening:
        dampening = 0.0  # torch refuses the two together
    generator = torch.Generator().manual_seed(0)
    x = Sphere().random(5, dtype=torch.float64, generator=generator)
    p = ManifoldParameter(x.clone(), Sphere())
    optimizer = RiemannianSGD([p], lr=0.3, momentum=0.8, dampening=dampening, nesterov=nesterov)
    b = None
    for _ in range(6):
        p.grad = torch.randn(5, dtype=torch.float64, generator=generator)
        g = p.grad - (x @ p.grad) * x
        b = g if b is None else 0.8 * b + (1 - dampening) * g
        turn = rotation(x, -0.3 * (g + 0.8 * b if nesterov else b))
        x, b = turn @ x, turn @ b
        optimizer.step()
        # Two evaluations of one rotation in float64, six times.
        torch.testing.assert_close(p.detach(), x, rtol=0, atol=1e-13)
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], b, rtol=0, atol=1e-13)


def test_first_step_is_the_same_with_and_without_momentum() -> None:
    x = Sphere().random(4, 5, generator=torch.Generator().manual_seed(0))
    ends = []
    for options in ({}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}):
        p = ManifoldParameter(x.clone(), Sphere())
        p.grad = torch.ones(4, 5)
        RiemannianSGD([p], lr=0.1, **options).step()
        ends.append(p.detach())
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_without_momentum_nothing_is_kept(run: Callable) -> None:
    optimizer = RiemannianSGD([ManifoldParameter(Sphere().random(4, 5), Sphere())], lr=0.1)
    run(optimizer)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"lr": -1.0}, "learning rate: -1"),
        ({"momentum": -0.5}, "momentum value: -0.5"),
        ({"weight_decay": -0.1}, "weight_decay value: -0.1"),
        ({"nesterov": True}, "Nesterov"),
        ({"manifold_weight_decay": -0.1}, "manifold_weight_decay.*-0.1"),
        ({"lr": torch.ones(2)}, "lr"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RiemannianSGD([torch.nn.Parameter(torch.ones(2))], **options)

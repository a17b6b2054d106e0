"""RiemannianAdam on manifolds, against torch on a line and against steps written out by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch

from holonomy.manifolds import Manifold, ManifoldParameter, Sphere
from holonomy.optim import RiemannianAdam


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("decoupled", [True, False])
def test_manifold_code_on_a_line_is_torchs_adam(
    foreach: bool | None, decoupled: bool, line: Manifold, run: Callable
) -> None:
    # One coordinate a point: the second moment a point is then torch's second moment an entry.
    combinations = itertools.product(
        [
            {},
            {"betas": (0.7, 0.9), "eps": 1e-3},
            {"betas": (0.0, 0.0)},
            {"betas": (torch.tensor(0.7), torch.tensor(0.9))},
        ],
        [0.0, 0.1],
        [False, True],
        [False, True],
        [0.1, torch.tensor([0.1], dtype=torch.float64)],
    )
    torchs = torch.optim.AdamW if decoupled else torch.optim.Adam
    for betas, decay, maximize, amsgrad, lr in combinations:
        options = {"lr": lr, "weight_decay": decay, "maximize": maximize, "amsgrad": amsgrad, **betas}
        starts = torch.randn(3, 5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        params = [ManifoldParameter(s.clone(), line) for s in starts]
        ours = run(RiemannianAdam(params, foreach=foreach, decoupled_weight_decay=decoupled, **options))
        theirs = run(torchs([torch.nn.Parameter(s.clone()) for s in starts], **options))
        # The same sums in another order, divided by square roots of averages that may be as small as 1e-3. Betas that
        # are float32 tensors make torch correct the bias in float32 (1 - 0.9^t, 1e-7 off).
        atol = 1e-6 if "betas" in betas and isinstance(betas["betas"][0], torch.Tensor) else 1e-12
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_steps_on_the_sphere_are_those_written_out_by_hand(amsgrad: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = Sphere().random(5, dtype=torch.float64, generator=generator)
    p = ManifoldParameter(x.clone(), Sphere())
    optimizer = RiemannianAdam([p], lr=0.3, betas=(0.8, 0.9), eps=1e-3, amsgrad=amsgrad)
    m, v, largest = torch.zeros_like(x), 0.0, 0.0
    for t in range(1, 7):
        p.grad = torch.randn(5, dtype=torch.float64, generator=generator) / t**2
        g = p.grad - (x @ p.grad) * x
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * float(g @ g)
        largest = max(v, largest)
        u = -0.3 * (m / (1 - 0.8**t)) / (((largest if amsgrad else v) / (1 - 0.9**t)) ** 0.5 + 1e-3)
        turn = torch.linalg.matrix_exp(torch.outer(u, x) - torch.outer(x, u))
        x, m = turn @ x, turn @ m
        optimizer.step()
        # Two evaluations of one rotation in float64, six times.
        torch.testing.assert_close(p.detach(), x, rtol=0, atol=1e-13)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], m, rtol=0, atol=1e-13)
    assert optimizer.state[p]["exp_avg_sq"].item() == pytest.approx(v, rel=1e-13)


def test_one_second_moment_a_point_is_stored_and_step_is_a_tensor(run: Callable) -> None:
    p = ManifoldParameter(Sphere().random(7, 5), Sphere())
    optimizer = RiemannianAdam([p], amsgrad=True)
    run(optimizer, steps=3)
    state = optimizer.state[p]
    assert state["exp_avg_sq"].shape == state["max_exp_avg_sq"].shape == (7, 1)
    # Stored small: not a view of something of the size of the parameter.
    assert state["exp_avg_sq"].untyped_storage().nbytes() == 7 * 4
    assert isinstance(state["step"], torch.Tensor)
    assert state["step"] == 3


def test_first_steps_are_not_blurred_by_the_bias_correction() -> None:
    # 1 - 0.999^1 in float32 is 6e-5 off; the first step has length lr whatever the gradient.
    p = ManifoldParameter(torch.tensor([1.0, 0.0, 0.0]), Sphere())
    p.grad = torch.tensor([0.0, 0.3, -0.4])
    RiemannianAdam([p], lr=0.1, eps=0.0).step()
    angle = torch.atan2(p.detach()[1:].norm(), p.detach()[0])
    assert angle.item() == pytest.approx(0.1, rel=5e-7)  # a few float32 roundings


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"lr": -1.0}, "learning rate: -1"),
        ({"eps": -1.0}, "epsilon value: -1"),
        ({"betas": (1.0, 0.9)}, "beta parameter at index 0: 1.0"),
        ({"betas": (0.9, 1.5)}, "beta parameter at index 1: 1.5"),
        ({"weight_decay": -0.1}, "weight_decay value: -0.1"),
        ({"manifold_weight_decay": -0.1}, "manifold_weight_decay.*-0.1"),
        ({"lr": torch.tensor(0.1), "foreach": True}, "lr as a Tensor"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RiemannianAdam([torch.nn.Parameter(torch.ones(2))], **options)

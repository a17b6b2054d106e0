"""Fused steps against the unfused ones: every option, both optimizers, the three manifolds that have kernels."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Lorentz, Manifold, ManifoldParameter, PoincareBall, Sphere, kernels
from holonomy.optim import RiemannianAdam, RiemannianSGD, adam, sgd

MANIFOLDS = [PoincareBall(0.7), Lorentz(1.3), Sphere()]
each_manifold = pytest.mark.parametrize("manifold", MANIFOLDS, ids=lambda m: m.name)
OPTIMIZERS = [(RiemannianSGD, {"lr": 0.05}), (RiemannianSGD, {"lr": 0.05, "momentum": 0.9}), (RiemannianAdam, {})]
each_optimizer = pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)

SGD_OPTIONS = [
    {"weight_decay": decay, "maximize": maximize, **momentum}
    for decay, maximize, momentum in itertools.product(
        [0.0, 0.1],
        [False, True],
        [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}],
    )
]
ADAM_OPTIONS = [
    {"weight_decay": decay, "maximize": maximize, "amsgrad": amsgrad, "decoupled_weight_decay": decoupled, **betas}
    for decay, maximize, amsgrad, decoupled, betas in itertools.product(
        [0.0, 0.1],
        [False, True],
        [False, True],
        [False, True],
        [{}, {"betas": (0.0, 0.5), "eps": 1e-3, "lr": torch.tensor(0.01, dtype=torch.float64)}],
    )
]


def points(manifold: Manifold, *size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return manifold.random(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def walk(manifold: Manifold, kind: Callable, steps: int, dtype: torch.dtype, **options: Any) -> Any:
    """Points and state after steps with random gradients."""
    p = ManifoldParameter(points(manifold, 13, 5).to(dtype), manifold)
    optimizer = kind([p], **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        # Small steps at random: the distance between two runs then stays of the order of their roundings.
        p.grad = (0.1 * torch.randn(13, 5, dtype=torch.float64, generator=generator)).to(dtype)
        optimizer.step()
    return p.detach(), optimizer.state_dict()["state"].get(0, {})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the points that fused steps were called with."""
    shapes: list[tuple[int, ...]] = []

    def counted(step: Callable) -> Callable:
        return lambda kind, c, x, *rest, **kw: (shapes.append(tuple(x.shape)), step(kind, c, x, *rest, **kw))[1]

    monkeypatch.setattr(adam, "adam_step", counted(adam.adam_step))
    monkeypatch.setattr(sgd, "sgd_step", counted(sgd.sgd_step))
    return shapes


# -- the same numbers --------------------------------------------------------------------------------------------------


@each_manifold
@pytest.mark.parametrize(("kind", "table"), [(RiemannianSGD, SGD_OPTIONS), (RiemannianAdam, ADAM_OPTIONS)])
def test_a_hundred_fused_steps_are_the_unfused_ones(manifold: Manifold, kind: Callable, table: list[dict]) -> None:
    for options in table:
        if manifold.name == "Sphere" and options["weight_decay"]:
            continue  # refused
        full = {"lr": 0.01} | options
        ours = walk(manifold, kind, 100, torch.float64, fused=True, **full)
        wanted = walk(manifold, kind, 100, torch.float64, fused=False, **full)
        # Roundings of float64, of 100 steps; lengths at points 20 from the hyperboloid's axis lose the square of that.
        torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-10 if manifold.name == "Lorentz" else 1e-13)


@each_manifold
@each_optimizer
def test_in_float32_fused_steps_are_as_accurate(manifold: Manifold, kind: Callable, options: dict) -> None:
    exact = walk(manifold, kind, 100, torch.float64, fused=False, **options)[0]
    errors = [
        float((walk(manifold, kind, 100, torch.float32, fused=fused, **options)[0] - exact).abs().amax())
        for fused in (True, False)
    ]
    # 100 roundings add up like a random walk, in both: 10 units for points of size 4.
    assert errors[0] < 2 * errors[1] + 40 * torch.finfo(torch.float32).eps


@each_manifold
@each_optimizer
def test_fused_steps_do_not_drift_off_the_manifold(manifold: Manifold, kind: Callable, options: dict) -> None:
    p = ManifoldParameter(points(manifold, 3, 4, dtype=torch.float32), manifold)
    optimizer = kind([p], fused=True, **(options | {"lr": 1e-2}))
    gradients = torch.randn(100, 3, 4, generator=torch.Generator().manual_seed(1))
    for t in range(10_000):
        p.grad = gradients[t % 100] * (-1.0) ** (t // 100)
        optimizer.step()
    x = p.detach().double()
    gap = (manifold.projx(x) - x).abs() / x.abs().amax(-1, keepdim=True).clamp_min(1.0)
    assert gap.amax() < 1e-6  # what the optimizers promise in float32


@pytest.mark.parametrize("learnable", [False, True])
def test_curvature_may_be_a_tensor(learnable: bool) -> None:
    ends = []
    for fused in (True, False):
        ball = PoincareBall(torch.tensor(0.7, dtype=torch.float64), learnable=learnable)
        p = ManifoldParameter(points(PoincareBall(0.7), 9, 5), ball)
        optimizer = RiemannianAdam([p, *ball.parameters()], fused=fused, lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            (ball.dist2(p[1:], p[:-1]).sum() + p.square().sum()).backward()
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-13)  # float64 roundings


# -- when --------------------------------------------------------------------------------------------------------------


@each_manifold
@each_optimizer
def test_kernels_step_by_default(
    manifold: Manifold, kind: Callable, options: dict, run: Callable, calls: list[tuple[int, ...]]
) -> None:
    def shapes(**implementation: Any) -> list[tuple[int, ...]]:
        calls.clear()
        params = [ManifoldParameter(points(manifold, *size), manifold) for size in [(2, 3)] * 4 + [(7, 3)]]
        params.append(ManifoldParameter(points(manifold, 3).bfloat16(), manifold))  # no kernel takes it
        run(kind(params, **options, **implementation), steps=1)
        return list(calls)

    assert shapes() == [(4, 2, 3), (7, 3)]
    # As in torch, asking for an implementation by name means that one.
    assert shapes(fused=False) == shapes(foreach=True) == shapes(foreach=False) == []
    with kernels.use("reference"):
        assert shapes() == []
    if kind is RiemannianAdam:
        assert shapes(capturable=True) == []


def test_kernels_are_switched_off_also_where_they_were_required(calls: list[tuple[int, ...]]) -> None:
    with kernels.use("reference"):
        ours, plain = (walk(Sphere(), RiemannianAdam, 3, torch.float64, fused=fused) for fused in (True, False))
    assert calls == []
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)  # the same operations


def test_other_manifolds_and_subclasses_keep_their_own_formulas(calls: list[tuple[int, ...]], run: Callable) -> None:
    class Globe(Sphere):
        pass

    per_point = PoincareBall(torch.tensor([1.0, 2.0]))
    params = [ManifoldParameter(points(m, 2, 3), m) for m in (Globe(), Sphere(validate=True), per_point)]
    run(RiemannianAdam(params))
    assert calls == []


def test_parameters_that_started_late_have_their_own_bias_correction(calls: list[tuple[int, ...]]) -> None:
    ends = []
    for fused in (True, False):
        params = [ManifoldParameter(points(Sphere(), 3, seed=seed), Sphere()) for seed in range(3)]
        optimizer = RiemannianAdam(params, lr=0.1, fused=fused)
        for t in range(4):
            for p in params[: 1 + min(t, 1)] + params[2:]:
                p.grad = torch.arange(3.0, dtype=torch.float64) + t
            optimizer.step()
        ends.append(torch.stack(params).detach())
    assert calls[-2:] in ([(2, 3), (3,)], [(3,), (2, 3)])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-14)  # float64 roundings


@each_optimizer
def test_a_run_may_change_the_implementation(kind: Callable, options: dict) -> None:
    ends = []
    for first, second in ((True, False), (False, True), (False, False)):
        p = ManifoldParameter(points(PoincareBall(), 4, 5), PoincareBall())
        state = None
        for fused in (first, second):
            optimizer = kind([p], fused=fused, **options)
            if state is not None:
                optimizer.load_state_dict(state)
                optimizer.param_groups[0]["fused"] = fused
            for t in range(3):
                p.grad = torch.full((4, 5), 0.1 * (t + 1), dtype=torch.float64)
                optimizer.step()
            state = optimizer.state_dict()
        ends.append((p.detach(), state["state"]))
    for end in ends[:2]:
        torch.testing.assert_close(end, ends[2], rtol=0, atol=1e-14)  # float64 roundings


def test_what_changed_after_the_check_is_refused_at_the_step() -> None:
    p = ManifoldParameter(points(Sphere(), 4, 3), Sphere())
    optimizer = RiemannianSGD([p], lr=0.1, fused=True)
    p.data = p.data.half()
    p.grad = torch.ones(4, 3, dtype=torch.float16)
    with pytest.raises(RuntimeError, match=r"fused=True.*\(4, 3\) on Sphere.*float16"):
        optimizer.step()

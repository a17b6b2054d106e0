"""On Euclidean parameters the optimizers are torch's SGD, Adam and AdamW, to the last bit, option by option."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Euclidean, ManifoldParameter
from holonomy.optim import RiemannianAdam, RiemannianSGD

SHAPES = [(4, 3), (3,), (4, 3), ()]

SGD_OPTIONS = [
    {"lr": lr, "weight_decay": decay, "maximize": maximize, **implementation, **momentum}
    for lr, decay, maximize, implementation, momentum in itertools.product(
        [0.1, torch.tensor(0.1)],
        [0.0, 0.1],
        [False, True],
        [{}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}],
        [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}],
    )
]
ADAM_OPTIONS = [
    {"lr": lr, "weight_decay": decay, "maximize": maximize, "amsgrad": amsgrad, **implementation, **betas}
    for lr, decay, maximize, amsgrad, implementation, betas in itertools.product(
        [0.1, torch.tensor(0.1)],
        [0.0, 0.1],
        [False, True],
        [False, True],
        [{}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}, {"capturable": True}],
        [{}, {"betas": (0.7, 0.9), "eps": 1e-3}, {"betas": (torch.tensor(0.7), torch.tensor(0.9))}],
    )
]


def plain(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in SHAPES]


def on_euclidean_space(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    return [ManifoldParameter(p.detach(), Euclidean()) for p in plain(dtype)]


def outcome(run: Callable[..., list[Tensor]], make: Callable[[], torch.optim.Optimizer]) -> tuple[Any, Any]:
    """Values and state after some steps, or the error that the options raise."""
    try:
        optimizer = make()
        return run(optimizer), [dict(s) for s in optimizer.state.values()]
    except (AssertionError, RuntimeError, ValueError) as error:
        return type(error), str(error)


def assert_same(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    if isinstance(theirs[0], type):  # an error: torch's, with torch's text
        assert ours == theirs
    else:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)  # to the last bit


@pytest.mark.parametrize("make", [plain, on_euclidean_space])
def test_sgd_is_torchs_for_every_combination_of_options(make: Callable, run: Callable) -> None:
    for options in SGD_OPTIONS:
        ours = outcome(run, lambda o=options: RiemannianSGD(make(), **o))
        assert_same(ours, run_torch(run, torch.optim.SGD, options))


@pytest.mark.parametrize("make", [plain, on_euclidean_space])
@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_is_torchs_for_every_combination_of_options(make: Callable, decoupled: bool, run: Callable) -> None:
    torchs = torch.optim.AdamW if decoupled else torch.optim.Adam
    for options in ADAM_OPTIONS:
        ours = outcome(run, lambda o=options: RiemannianAdam(make(), decoupled_weight_decay=decoupled, **o))
        assert_same(ours, run_torch(run, torchs, options))


def run_torch(run: Callable, cls: type[torch.optim.Optimizer], options: dict[str, Any]) -> tuple[Any, Any]:
    """Run torch's optimizer on the same gradients; its foreach SGD changes them under Nesterov, which is put aside."""
    if options.get("foreach") and options.get("nesterov"):
        options = options | {"foreach": False}
    return outcome(run, lambda: cls(plain(), **options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_other_dtypes_are_torchs(dtype: torch.dtype, run: Callable) -> None:
    pairs = [(RiemannianSGD, torch.optim.SGD, {"momentum": 0.9}), (RiemannianAdam, torch.optim.AdamW, {})]
    for ours, torchs, options in pairs:
        assert_same(
            outcome(run, lambda c=ours, o=options: c(plain(dtype), **o)),
            outcome(run, lambda c=torchs, o=options: c(plain(dtype), **o)),
        )


def test_defaults_are_those_of_the_namesake(run: Callable) -> None:
    cases: list[tuple[Callable, Callable]] = [
        (RiemannianAdam, torch.optim.AdamW),
        (lambda p: RiemannianAdam(p, decoupled_weight_decay=False), torch.optim.Adam),
        (RiemannianSGD, torch.optim.SGD),
    ]
    for ours, torchs in cases:
        mine, reference = ours(plain()), torchs(plain())
        assert_same(outcome(run, lambda m=mine: m), outcome(run, lambda r=reference: r))
        for name, value in reference.defaults.items():
            assert mine.defaults[name] == value


@pytest.mark.parametrize("maximize", [False, True])
def test_sparse_gradients_are_torchs(maximize: bool) -> None:
    def embed(make: Callable) -> Tensor:
        torch.manual_seed(0)  # nn.Embedding draws from the global generator
        table = torch.nn.Embedding(6, 3, sparse=True)
        optimizer = make(table.parameters())
        for rows in ([0, 2], [2, 5]):
            optimizer.zero_grad()
            table(torch.tensor(rows)).square().sum().backward()
            optimizer.step()
        return table.weight.detach()

    options = {"lr": 0.1, "maximize": maximize}
    ours = embed(lambda p: RiemannianSGD(p, **options))
    assert torch.equal(ours, embed(lambda p: torch.optim.SGD(p, **options)))
    with pytest.raises(RuntimeError, match="sparse"):
        embed(lambda p: RiemannianAdam(p, **options))


@pytest.mark.parametrize(
    ("ours", "torchs", "options"),
    [
        (RiemannianSGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (RiemannianAdam, torch.optim.AdamW, {"amsgrad": True}),
    ],
)
def test_the_step_can_be_differentiated_as_in_torch(ours: Callable, torchs: Callable, options: dict) -> None:
    def derivative(make: Callable) -> Tensor:
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        p = torch.ones(3, dtype=torch.float64, requires_grad=True).clone()
        optimizer = make([p], lr=lr, differentiable=True, **options)
        for _ in range(3):
            p.grad = torch.autograd.grad(p.pow(4).sum(), p, retain_graph=True)[0].detach()
            optimizer.step()
        return torch.autograd.grad(p.sum(), lr)[0]

    assert torch.equal(derivative(ours), derivative(torchs))


def test_a_group_may_decay_otherwise(run: Callable) -> None:
    def groups(params: list) -> list[dict]:
        return [{"params": params[:2], "weight_decay": 0.5}, {"params": params[2:], "lr": 0.3, "amsgrad": True}]

    assert_same(
        outcome(run, lambda: RiemannianAdam(groups(on_euclidean_space()), lr=0.1)),
        outcome(run, lambda: torch.optim.AdamW(groups(plain()), lr=0.1)),
    )

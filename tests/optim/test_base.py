"""Both optimizers on parameters of all sorts: batching, state, serialisation, torch's conventions, refusals."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from holonomy.manifolds import Euclidean, Manifold, ManifoldParameter, PoincareBall, Simplex, Sphere, kernels
from holonomy.optim import RiemannianAdam, RiemannianSGD, base

OPTIMIZERS = [
    (RiemannianSGD, {"lr": 0.1}),
    (RiemannianSGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (RiemannianAdam, {"lr": 0.1}),
    (RiemannianAdam, {"lr": 0.1, "amsgrad": True}),
]
each_optimizer = pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)


class Net(torch.nn.Module):
    """A few parameters on two manifolds, and plain ones."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def on(manifold: Manifold, *size: int) -> ManifoldParameter:
            return ManifoldParameter(manifold.random(*size, dtype=dtype, generator=generator), manifold)

        self.bias = torch.nn.Parameter(torch.randn(3, dtype=dtype, generator=generator))
        self.directions = torch.nn.ParameterList([on(Sphere(), 4, 3) for _ in range(3)])
        self.mixture = torch.nn.ParameterList([on(Simplex(), 4)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for d in self.directions:
            y = torch.tanh(self.mixture[0] @ (d * y)) + self.bias
        return y


def train(net: Net, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(3, dtype=net.bias.dtype, generator=generator)
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


def assert_equal(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def assert_on_manifolds(net: Net) -> None:
    tolerance = 1e-6  # a few float32 roundings of unit vectors
    for d in net.directions:
        assert (d.norm(dim=-1) - 1).abs().max() < tolerance
    assert (net.mixture[0].sum() - 1).abs() < tolerance


# -- batching ----------------------------------------------------------------------------------------------------------


@each_optimizer
def test_one_at_a_time_gives_the_same_numbers(kind: Callable, options: dict) -> None:
    together, apart = Net(torch.float64), Net(torch.float64)
    train(together, kind(together.parameters(), **options), 10)
    train(apart, kind(apart.parameters(), foreach=False, **options), 10)
    # Sums of three numbers may be taken in another order in a batch: float64 roundings, ten steps of them.
    for p, q in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)


def test_parameters_of_one_manifold_and_shape_move_in_one_call(monkeypatch: pytest.MonkeyPatch, run: Callable) -> None:
    shapes: list[tuple[int, ...]] = []
    retr = Sphere.retr
    monkeypatch.setattr(Sphere, "retr", lambda self, x, u: (shapes.append(tuple(x.shape)), retr(self, x, u))[1])

    def calls(**options: Any) -> list[tuple[int, ...]]:
        shapes.clear()
        params = [ManifoldParameter(Sphere().random(*size), Sphere()) for size in [(2, 3)] * 4 + [(3,)] * 2]
        params.append(ManifoldParameter(Sphere().random(3, dtype=torch.float64), Sphere()))
        with kernels.use("reference"):
            run(RiemannianSGD(params, lr=0.1, **options), steps=1)
        return shapes

    assert calls() == [(4, 2, 3), (2, 3), (3,)]
    assert calls(foreach=True) == [(4, 2, 3), (2, 3), (3,)]
    one_by_one = [(2, 3)] * 4 + [(3,)] * 3
    assert calls(foreach=False) == one_by_one
    assert calls(fused=False) == one_by_one  # torch's rule
    monkeypatch.setattr(base, "STACK_LIMIT", 12)
    assert calls() == [(2, 2, 3), (2, 2, 3), (2, 3), (3,)]
    monkeypatch.setattr(base, "STACK_LIMIT", 11)
    assert calls() == [(2, 3)] * 4 + [(2, 3), (3,)]  # more than half of the limit: never stacked


def test_parameters_that_started_late_are_batched_with_the_right_step() -> None:
    def params() -> list[ManifoldParameter]:
        generator = torch.Generator().manual_seed(0)
        return [ManifoldParameter(Sphere().random(3, dtype=torch.float64, generator=generator), Sphere()) for _ in "ab"]

    def step(ps: list[ManifoldParameter], optimizer: torch.optim.Optimizer) -> None:
        for t in range(5):
            ps[0].grad = torch.full((3,), 1.0 + t, dtype=torch.float64)
            ps[1].grad = None if t < 2 else torch.arange(3.0, dtype=torch.float64)
            optimizer.step()

    for kind, options in OPTIMIZERS:
        together, apart = params(), params()
        step(together, kind(together, **options))
        step(apart, kind(apart, foreach=False, **options))
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-14)  # float64 roundings


@each_optimizer
def test_parameters_without_a_gradient_stay_and_have_no_state(kind: Callable, options: dict) -> None:
    net = Net()
    frozen = [net.directions[1], net.mixture[0]]
    before = [p.detach().clone() for p in frozen]
    for p in frozen:
        p.requires_grad_(False)
    optimizer = kind(net.parameters(), **options)
    train(net, optimizer, 3)
    assert all(torch.equal(p, b) for p, b in zip(frozen, before, strict=True))
    assert not any(p in optimizer.state for p in frozen)


@each_optimizer
def test_batch_dimensions_are_points(kind: Callable, options: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    x = Sphere().random(6, 2, 3, dtype=torch.float64, generator=generator)
    whole = ManifoldParameter(x.clone(), Sphere())
    each = [ManifoldParameter(row.clone(), Sphere()) for row in x]
    optimizer, other = kind([whole], **options), kind(each, **options)
    for _ in range(5):
        whole.grad = torch.randn(6, 2, 3, dtype=torch.float64, generator=generator)
        for p, g in zip(each, whole.grad, strict=True):
            p.grad = g
        optimizer.step()
        other.step()
    torch.testing.assert_close(torch.stack(each), whole.data, rtol=0, atol=1e-14)  # float64 roundings


@each_optimizer
def test_dtypes_may_be_mixed(kind: Callable, options: dict, run: Callable) -> None:
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    starts = [Sphere().random(3, 4, dtype=d, generator=torch.Generator().manual_seed(0)) for d in dtypes]
    optimizer = kind([ManifoldParameter(s.clone(), Sphere()) for s in starts], **options)
    ends = run(optimizer)
    for start, end, dtype in zip(starts, ends, dtypes, strict=True):
        assert end.dtype == dtype
        assert not torch.equal(start, end)
        # Unit length to one rounding of each entry.
        assert (end.double().norm(dim=-1) - 1).abs().max() < 2 * torch.finfo(dtype).eps
    for p, state in optimizer.state.items():
        wide = torch.float32 if p.dtype in (torch.bfloat16, torch.float16) else p.dtype
        assert all(value.dtype == wide for name, value in state.items() if name != "step")


# -- torch's conventions -----------------------------------------------------------------------------------------------


@each_optimizer
def test_an_interrupted_run_goes_on_bit_for_bit(kind: Callable, options: dict) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        whole, first, second = (Net(dtype) for _ in range(3))
        optimizer = kind(whole.named_parameters(), **options)
        train(whole, optimizer, 3)
        train(whole, optimizer, 3, seed=1)

        optimizer = kind(first.named_parameters(), **options)
        train(first, optimizer, 3)
        file = io.BytesIO()
        torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        second.load_state_dict(saved["net"])
        resumed = kind(second.named_parameters(), **options)
        resumed.load_state_dict(saved["optimizer"])
        train(second, resumed, 3, seed=1)
        assert_equal(whole, second)


@each_optimizer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_go_on_bit_for_bit(kind: Callable, options: dict, duplicate: Callable) -> None:
    net = Net()
    optimizer = kind(net.parameters(), **options)
    train(net, optimizer, 3)
    other, twin = duplicate((net, optimizer))
    train(net, optimizer, 3, seed=1)
    train(other, twin, 3, seed=1)
    assert_equal(net, other)
    assert_on_manifolds(other)
    other.extra = ManifoldParameter(Sphere().random(3), Sphere())
    twin.add_param_group({"params": [other.extra]})  # decays nothing on the sphere, as before


def test_state_of_torchs_adamw_can_be_loaded(run: Callable) -> None:
    start = torch.randn(4, generator=torch.Generator().manual_seed(0))
    theirs = torch.optim.AdamW([torch.nn.Parameter(start.clone())], lr=0.1)
    ours = RiemannianAdam([torch.nn.Parameter(start.clone())], lr=0.5, manifold_weight_decay=0.0)
    middle = run(theirs)[0]
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))  # torch's loading does not copy
    assert ours.param_groups[0]["manifold_weight_decay"] == 0.0
    with torch.no_grad():
        ours.param_groups[0]["params"][0].copy_(middle)
    assert torch.equal(run(ours, seed=1)[0], run(theirs, seed=1)[0])


@each_optimizer
def test_closures_hooks_and_no_grad(kind: Callable, options: dict) -> None:
    net, plain = Net(), Net()
    optimizer, other = kind(net.parameters(), **options), kind(plain.parameters(), **options)
    called: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    x = torch.ones(3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
        optimizer.step()
    assert loss.requires_grad
    assert called == ["before", "after"] * 2
    plain(x).square().sum().backward()
    other.step()
    other.step()
    assert_equal(net, plain)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in net.parameters())


@each_optimizer
def test_schedulers_and_groups(kind: Callable, options: dict) -> None:
    net = Net()
    optimizer = kind([{"params": net.directions.parameters(), "lr": 0.2}], **options)
    optimizer.add_param_group({"params": [net.mixture[0], net.bias]})
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.1]
    cycles = "betas" in optimizer.defaults or options.get("momentum", 0) > 0
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=10, cycle_momentum=cycles)
    for _ in range(10):
        train(net, optimizer, 1)
        scheduler.step() if scheduler.last_epoch < 9 else None
    assert_on_manifolds(net)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [net.bias]})


@each_optimizer
def test_gradient_scaling_skips_overflow_and_changes_nothing_else(kind: Callable, options: dict) -> None:
    net, plain = Net(), Net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer, other = kind(net.parameters(), **options), kind(plain.parameters(), **options)
    for x in (torch.ones(3), torch.full((3,), torch.inf), torch.arange(3.0)):
        for n, o in ((net, optimizer), (plain, other)):
            o.zero_grad()
            loss = n(x).square().sum()
            (scaler.scale(loss) if n is net else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if x.isfinite().all():
            other.step()
    # Scales are powers of two: unscaling is exact.
    assert_equal(net, plain)


@each_optimizer
def test_autograd_goes_through_the_step(kind: Callable, options: dict) -> None:
    start = Sphere().random(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    goal = Sphere().random(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def end(lr: Tensor) -> Tensor:
        p = start.clone().requires_grad_().clone()
        p.manifold = Sphere()  # clone() returns a plain tensor
        optimizer = kind([p], differentiable=True, **(options | {"lr": lr}))
        for _ in range(3):
            # A copy: the graph of a fused distance keeps its points, and the step writes to p.
            loss = Sphere().dist2(p.clone(), goal)
            p.grad = torch.autograd.grad(loss, p, retain_graph=True, create_graph=True)[0]
            optimizer.step()
        return Sphere().dist2(p, goal)

    assert torch.autograd.gradcheck(end, torch.tensor(0.1, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("kind", "options"), [OPTIMIZERS[1], OPTIMIZERS[2]])
def test_a_compiled_step_gives_the_same_numbers(kind: Callable, options: dict) -> None:
    net, plain = Net(), Net()
    optimizer, other = kind(net.parameters(), **options), kind(plain.parameters(), **options)
    compiled = torch.compile(optimizer.step, backend="aot_eager")
    for t in range(3):
        for n, o, step in ((net, optimizer, compiled), (plain, other, other.step)):
            o.zero_grad()
            n(torch.ones(3) + t).square().sum().backward()
            step()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        # Compiled, torch's Adam corrects the bias of plain parameters in float32: 1 - 0.999^t is 6e-5 off at first.
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


# -- finding the manifold ----------------------------------------------------------------------------------------------


@each_optimizer
def test_a_parameter_that_lost_its_manifold_still_steps_on_it(kind: Callable, options: dict) -> None:
    net, plain = Net(), Net()
    values = {name: value.clone() for name, value in Net().state_dict().items()}
    net.load_state_dict(values, assign=True)
    train(net, kind(net.parameters(), **options), 3)
    train(plain, kind(plain.parameters(), **options), 3)
    assert_equal(net, plain)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@each_optimizer
@pytest.mark.usefixtures("one_process")
def test_sharded_parameters_step_on_their_manifold(kind: Callable, options: dict) -> None:
    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.points = torch.nn.ParameterList(
                [ManifoldParameter(Sphere().random(6, 3, generator=generator), Sphere()) for _ in range(2)]
            )

        def forward(self) -> Tensor:
            return Sphere().dist2(self.points[0], self.points[1]).sum()

    whole, sharded = Pair(), Pair()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    for pair in (whole, sharded):
        optimizer = kind(pair.parameters(), **options)
        for _ in range(3):
            optimizer.zero_grad()
            pair().backward()
            optimizer.step()
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert isinstance(q, DTensor)
        torch.testing.assert_close(q.full_tensor(), p.data, rtol=0, atol=1e-6)  # float32 roundings


@each_optimizer
def test_a_manifold_set_after_construction_is_seen(kind: Callable, options: dict, run: Callable) -> None:
    p = ManifoldParameter(torch.tensor([0.0, 0.6, 0.8]), Euclidean())
    optimizer = kind([p], **options)
    p.manifold = Sphere()
    assert run(optimizer)[0].norm().item() == pytest.approx(1.0, abs=1e-6)  # float32 roundings


@each_optimizer
def test_parameters_of_geoopt_step_on_their_manifold(kind: Callable, options: dict, run: Callable) -> None:
    x = geoopt.Sphere().random(4, 3, dtype=torch.float64)
    params = [geoopt.ManifoldParameter(x.clone(), manifold=geoopt.Sphere()) for _ in range(2)]
    ours = [ManifoldParameter(x.clone(), Sphere()) for _ in range(2)]
    assert torch.equal(run(kind(params, **options))[1], run(kind(ours, **options))[1])
    # A manifold that exists in geoopt only goes through geoopt's formulas.
    birkhoff = geoopt.BirkhoffPolytope()
    p = geoopt.ManifoldParameter(birkhoff.random(5, 3, 3, dtype=torch.float64), manifold=birkhoff)
    end = run(kind([p], **(options | {"lr": 0.01})))[0]
    torch.testing.assert_close(end.sum(-1), torch.ones(5, 3, dtype=torch.float64), atol=1e-3, rtol=0)  # its Sinkhorn's


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RiemannianSGD, RiemannianAdam])
def test_weight_decay_is_refused_where_there_is_no_origin(kind: Callable) -> None:
    net = Net()
    with pytest.raises(ValueError, match=r"weight_decay=0.1 .*\(4, 3\) on Sphere.*manifold_weight_decay=0"):
        kind(net.parameters(), lr=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"weight_decay=0\.1"):
        kind([{"params": net.parameters(), "weight_decay": 0.1}], lr=0.1)
    with pytest.raises(ValueError, match=r"weight_decay=0\.1"):
        kind([{"params": net.parameters(), "weight_decay": 0.0}], lr=0.1, manifold_weight_decay=0.1)
    kind([{"params": net.parameters(), "weight_decay": 0.1}], lr=0.1, manifold_weight_decay=0.0)
    optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.1, manifold_weight_decay=0.0)
    optimizer.param_groups[0]["manifold_weight_decay"] = None  # turned on later: not a silent no-op either
    with pytest.raises(ValueError, match=r"weight_decay=0\.1"):
        train(net, optimizer, 1)


def test_left_out_weight_decay_applies_to_plain_parameters_only(run: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = Sphere().random(3, generator=generator), torch.randn(3, generator=generator)
    ends = [
        run(RiemannianAdam([torch.nn.Parameter(w.clone()), ManifoldParameter(x.clone(), Sphere())], **options))
        for options in ({}, {"weight_decay": 0.0}, {"weight_decay": 1e-2, "manifold_weight_decay": 0.0})
    ]
    assert not torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][0], ends[2][0])
    assert torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("kind", [RiemannianSGD, RiemannianAdam])
def test_fused_is_refused_for_parameters_that_no_kernel_takes(kind: Callable) -> None:
    net = Net()
    with pytest.raises(NotImplementedError, match=r"mixture\.0 of shape \(4,\) on Simplex: kernels step PoincareBall"):
        kind(net.named_parameters(), fused=True)
    optimizer = kind([net.bias])
    with pytest.raises(NotImplementedError, match="fused"):
        optimizer.add_param_group({"params": [net.mixture[0]], "fused": True})
    assert len(optimizer.param_groups) == 1  # a refused group is not kept
    x = Sphere().random(4, 3)
    refused = {
        "float32 or float64": ManifoldParameter(x.bfloat16(), Sphere()),
        "contiguous": ManifoldParameter(x.T.contiguous().T, Sphere()),
        "validate": ManifoldParameter(x, Sphere(validate=True)),
        "one curvature": ManifoldParameter(0.1 * x, PoincareBall(torch.ones(4))),
    }
    for reason, p in refused.items():
        with pytest.raises(NotImplementedError, match=rf"\(4, 3\).*{reason}"):
            kind([p], fused=True)


@pytest.mark.parametrize("kind", [RiemannianSGD, RiemannianAdam])
def test_what_is_no_parameter_is_refused(kind: Callable) -> None:
    for argument in ([], torch.ones(2)):
        with pytest.raises((ValueError, TypeError)):
            kind(argument)

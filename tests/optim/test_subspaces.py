"""SGD along geodesics of subspaces, with momentum in ambient coordinates: against the step written with an SVD."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Grassmann, Manifold, ManifoldParameter, PoincareBall, Sphere, kernels
from holonomy.manifolds.kernels.steps import subspace_obstacle, subspace_step
from holonomy.manifolds.linalg import haar
from holonomy.optim import RiemannianSGD, sgd

MANIFOLD = Grassmann("exp")
OPTIONS: list[dict[str, Any]] = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "maximize": True},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
#: One column; odd sizes; a whole register; more than a block of rows; the largest p.
SIZES = [(2, 4, 1), (3, 7, 3), (2, 16, 8), (2, 300, 11), (1, 40, 32)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bases(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return MANIFOLD.random(*size, dtype=torch.float64, generator=generator()).to(dtype)


def random(x: Tensor, steps: int) -> list[Tensor]:
    source = generator(1)
    return [torch.randn(x.shape, dtype=torch.float64, generator=source).to(x.dtype) for _ in range(steps)]


def walk(x: Tensor, gradients: list[Tensor], **options: Any) -> tuple[Tensor, Any]:
    p = ManifoldParameter(x.clone(), MANIFOLD)
    optimizer = RiemannianSGD([p], ambient_momentum=True, **options)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(p.grad, gradient)
    return p.detach(), optimizer.state_dict()["state"].get(0, {})


def by_svd(x: Tensor, gradients: list[Tensor], lr: float, momentum: float, **options: Any) -> Tensor:
    """The step as the paper writes it: (S V cos + U sin) V^T with U, sigma, V of the projected buffer."""
    m = None
    for gradient in gradients:
        d = -gradient if options.get("maximize") else gradient
        m = d if m is None else momentum * m + (1.0 - options.get("dampening", 0.0)) * d
        m = m if momentum else d
        direction = d + momentum * m if options.get("nesterov") else m
        u, sigma, vh = torch.linalg.svd(direction - x @ (x.mT @ direction), full_matrices=False)
        angle = (-lr * sigma).unsqueeze(-2)
        x = (x @ vh.mT * angle.cos() + u * angle.sin()) @ vh
    return x


@each_option
@each_size
@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_the_papers(size: tuple[int, ...], options: dict, fused: bool) -> None:
    x = bases(*size)
    gradients = random(x, 4)
    got, _ = walk(x, gradients, lr=0.02, fused=fused, **options)
    # Roundings of float64 of four steps, on angles of up to 1.
    torch.testing.assert_close(got, by_svd(x, gradients, 0.02, **options), rtol=0, atol=1e-12)


@each_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_and_reference_agree(options: dict, dtype: torch.dtype) -> None:
    x = bases(3, 37, 5, dtype=dtype)
    ends = [walk(x, random(x, 10), lr=0.02, fused=fused, **options) for fused in (True, False)]
    # Ten steps: some tens of units of rounding of numbers of size 1, and of buffers of size 10.
    tolerance = 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_bases_stay_orthonormal_however_large_the_gradient(dtype: torch.dtype, tolerance: float, fused: bool) -> None:
    x = bases(3, 20, 4, dtype=dtype)
    # lr |x^T b| is above 1 here: projected only once, the first rounding grows with every step.
    y, _ = walk(x, random(x, 300), lr=0.1, momentum=0.9, fused=fused)
    identity = torch.eye(4, dtype=dtype)
    assert float((y.mT @ y - identity).abs().max()) < tolerance


def test_projecting_once_would_not_keep_them_so() -> None:
    x = bases(3, 20, 4, dtype=torch.float32)
    m = torch.zeros_like(x)
    for gradient in random(x, 300):
        m = 0.9 * m + gradient
        x = MANIFOLD.expmap(x, -0.1 * MANIFOLD.proju(x, m))
    assert not float((x.mT @ x - torch.eye(4)).abs().max()) < 1e-3


def subspace_loss(x: Tensor, target: Tensor) -> Tensor:
    """A function of the subspaces alone, with gradients that have a part along them."""
    return -torch.einsum("bd,cdk->bck", target, x).norm(dim=-1).square().sin().sum()


@pytest.mark.parametrize("fused", [True, False])
def test_steps_do_not_depend_on_the_basis(fused: bool) -> None:
    x = bases(3, 9, 4)
    turn = haar((3, 4, 4), torch.float64, None, generator(5))
    target = 0.4 * torch.randn(6, 9, dtype=torch.float64, generator=generator(6))  # steps of some tenths
    ends = []
    for start in (x, x @ turn):
        p = ManifoldParameter(start.clone(), MANIFOLD)
        optimizer = RiemannianSGD([p], lr=0.05, momentum=0.9, ambient_momentum=True, fused=fused)
        for _ in range(12):
            optimizer.zero_grad()
            subspace_loss(p, target).backward()
            optimizer.step()
        ends.append((p.detach(), optimizer.state[p]["momentum_buffer"]))
    (y, b), (z, c) = ends
    # Twelve steps in float64.
    torch.testing.assert_close(y @ turn, z, rtol=0, atol=1e-11)
    torch.testing.assert_close(b @ turn, c, rtol=0, atol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
def test_distance_travelled_is_lr_times_the_gradient(fused: bool) -> None:
    x = bases(4, 12, 3)
    (gradient,) = random(x, 1)
    y, _ = walk(x, [gradient], lr=0.1, momentum=0.9, fused=fused)
    g = MANIFOLD.proju(x, gradient)
    assert 0.1 * float(torch.linalg.svdvals(g).max()) < math.pi / 2
    torch.testing.assert_close(MANIFOLD.dist(x, y), 0.1 * g.norm(dim=(-2, -1)), rtol=1e-12, atol=0)


def test_ambient_momentum_is_projected_where_it_comes_to() -> None:
    x = Sphere().random(3, 4, dtype=torch.float64, generator=generator())
    p = ManifoldParameter(x.clone(), Sphere())
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.8, ambient_momentum=True)
    m = torch.zeros_like(x)
    for gradient in random(x, 5):
        p.grad = gradient
        optimizer.step()
        m = 0.8 * m + gradient
        x = Sphere().retr(x, -0.1 * (m - (m * x).sum(-1, keepdim=True) * x))
        torch.testing.assert_close(p.detach(), x, rtol=0, atol=1e-14)


def test_a_sparse_gradient_moves_its_rows_alone() -> None:
    x = bases(5, 6, 2)
    ends = []
    for fused in (True, False):
        p = ManifoldParameter(x.clone(), MANIFOLD)
        optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9, ambient_momentum=True, fused=fused)
        for _ in range(3):
            p.grad = torch.sparse_coo_tensor(
                torch.tensor([[3, 1]]), random(x, 1)[0][:2], x.shape, check_invariants=True
            )
            optimizer.step()
        ends.append(p.detach())
    assert torch.equal(ends[0][[0, 2, 4]], x[[0, 2, 4]])
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-14)
    assert not torch.equal(ends[0][[1, 3]], x[[1, 3]])


def test_kernel_steps_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(x: Tensor, *rest: Any, **options: Any) -> None:
        calls.append(tuple(x.shape))
        subspace_step(x, *rest, **options)

    monkeypatch.setattr(sgd, "subspace_step", counted)

    def shapes(manifold: Manifold, **options: Any) -> list[tuple[int, ...]]:
        calls.clear()
        params = [ManifoldParameter(bases(2, 5, 3), manifold) for _ in range(2)]
        optimizer = RiemannianSGD(params, lr=0.1, **options)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return list(calls)

    assert shapes(MANIFOLD) == shapes(MANIFOLD, momentum=0.9, ambient_momentum=True) == [(2, 2, 5, 3)]
    assert shapes(MANIFOLD, momentum=0.9) == []  # transported
    assert shapes(Grassmann("qr"), momentum=0.9, ambient_momentum=True) == []
    assert shapes(Grassmann("exp", validate=True)) == []
    with kernels.use("reference"):
        assert shapes(MANIFOLD) == []


def test_state_round_trip_and_torchs_own_state(run: Callable) -> None:
    def make(**options: Any) -> RiemannianSGD:
        return RiemannianSGD([ManifoldParameter(bases(2, 6, 3), MANIFOLD)], lr=0.1, momentum=0.9, **options)

    whole, half = make(ambient_momentum=True), make(ambient_momentum=True)
    run(whole, steps=2)
    run(half, steps=2)
    other = make()
    other.load_state_dict(half.state_dict())
    assert other.param_groups[0]["ambient_momentum"] is True
    other.param_groups[0]["params"][0].data.copy_(half.param_groups[0]["params"][0])
    assert torch.equal(run(other, seed=3)[0], run(whole, seed=3)[0])
    state = torch.optim.SGD([torch.nn.Parameter(bases(2, 6, 3))], lr=0.2, momentum=0.9).state_dict()
    ours = make(ambient_momentum=True)
    ours.load_state_dict(state)
    assert (ours.param_groups[0]["lr"], ours.param_groups[0]["ambient_momentum"]) == (0.2, True)


def test_bad_requests_are_refused() -> None:
    p = ManifoldParameter(PoincareBall().random(3, 2, generator=generator()), PoincareBall())
    with pytest.raises(
        ValueError, match=r"ambient_momentum=True keeps Euclidean gradients alone, got weight decay 0.1"
    ):
        RiemannianSGD([p], lr=0.1, momentum=0.9, weight_decay=0.1, ambient_momentum=True)
    with pytest.raises(NotImplementedError, match=r'with ambient_momentum=True kernels step Grassmann\("exp"\) alone'):
        RiemannianSGD([p], lr=0.1, momentum=0.9, fused=True, ambient_momentum=True)
    with pytest.raises(NotImplementedError, match="not Grassmann"):
        RiemannianSGD([ManifoldParameter(bases(2, 4, 2), Grassmann())], lr=0.1, fused=True)
    assert "wanted (..., n, p) with p from 1 to 32" in str(subspace_obstacle(torch.empty(2, 50, 33)))
    assert "the kernel of subspaces runs on the CPU" in str(subspace_obstacle(torch.empty(2, 5, 3, device="meta")))
    with pytest.raises(ValueError, match=r"'grad' has shape \(2, 5, 2\)"):
        subspace_step(torch.empty(2, 5, 3), torch.empty(2, 5, 2), lr=0.1)
    with pytest.raises(ValueError, match="not contiguous"):
        subspace_step(torch.empty(2, 3, 5).mT, torch.empty(2, 5, 3), lr=0.1)


def test_a_step_needs_no_memory_of_the_size_of_the_bases() -> None:
    p = ManifoldParameter(bases(200, 100, 8, dtype=torch.float32), MANIFOLD)
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9, ambient_momentum=True)
    p.grad = torch.ones_like(p)
    optimizer.step()  # makes the buffer
    with torch.profiler.profile(profile_memory=True) as profiler:
        optimizer.step()
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profiler.key_averages())
    assert allocated < p.nbytes / 20

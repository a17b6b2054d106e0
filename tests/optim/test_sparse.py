"""Sparse gradients on manifolds: only the rows that have one move, with lazy moments, as torch's SparseAdam does it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Lorentz, Manifold, ManifoldParameter, PoincareBall, Sphere, Stiefel
from holonomy.optim import RiemannianAdam, RiemannianSGD

MANIFOLDS = [PoincareBall(0.7), Lorentz(1.3), Sphere()]
each_manifold = pytest.mark.parametrize("manifold", MANIFOLDS, ids=lambda m: m.name)
OPTIMIZERS = [
    (RiemannianSGD, {"lr": 0.1}),
    (RiemannianSGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}),
    (RiemannianAdam, {"lr": 0.1}),
    (RiemannianAdam, {"lr": 0.1, "amsgrad": True}),
]
each_optimizer = pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
FUSED = pytest.mark.parametrize("fused", [True, False])


def points(manifold: Manifold, *size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return manifold.random(*size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def sparse(rows: list[int], values: Tensor, size: int) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (size, *values.shape[1:]), check_invariants=True)


def walk(param: Tensor, make: Callable[..., torch.optim.Optimizer], batches: list[list[int]]) -> Any:
    """Step through batches of rows with random gradients, and return what is left of it."""
    optimizer = make([param])
    generator = torch.Generator().manual_seed(3)
    for rows in batches:
        values = torch.randn(len(rows), *param.shape[1:], dtype=torch.float64, generator=generator)
        param.grad = sparse(rows, values.to(param.dtype), param.shape[0])
        optimizer.step()
    return param.detach(), optimizer.state_dict()["state"].get(0, {})


BATCHES = [[0, 2], [2, 5, 2], [], [7, 0], [3]]  # with a row twice, and with no rows


@pytest.mark.parametrize("maximize", [False, True])
def test_on_a_line_adam_is_torchs_sparse_adam(maximize: bool, line: Manifold) -> None:
    start = torch.randn(9, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # With eps = 0: torch's SparseAdam adds it before the bias correction, its Adam after.
    options = {"lr": 0.1, "eps": 0.0, "maximize": maximize}
    ours = walk(ManifoldParameter(start.clone(), line), lambda p: RiemannianAdam(p, **options), BATCHES)
    theirs = walk(
        torch.nn.Parameter(start.clone()), lambda p: torch.optim.SparseAdam(p, **(options | {"eps": 1e-300})), BATCHES
    )
    assert ours[1].pop("step") == theirs[1].pop("step") == 5  # of the parameter, not of a row
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)  # float64 roundings


def test_on_a_line_sgd_is_torchs_sparse_sgd(line: Manifold) -> None:
    start = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = walk(ManifoldParameter(start.clone(), line), lambda p: RiemannianSGD(p, lr=0.1), BATCHES)
    theirs = walk(torch.nn.Parameter(start.clone()), lambda p: torch.optim.SGD(p, lr=0.1), BATCHES)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-14)  # float64 roundings


@each_manifold
@each_optimizer
def test_fused_and_unfused_steps_are_the_same(manifold: Manifold, kind: Callable, options: dict) -> None:
    decays: list[dict[str, float]] = [{}] if manifold.name == "Sphere" else [{}, {"weight_decay": 0.1}]
    for decay in decays:
        for size in ((9, 5), (9, 2, 3)):
            ours, wanted = (
                walk(
                    ManifoldParameter(points(manifold, *size), manifold),
                    lambda p, f=fused, d=decay: kind(p, fused=f, **options, **d),
                    BATCHES,
                )
                for fused in (True, False)
            )
            torch.testing.assert_close(ours, wanted, rtol=1e-13, atol=1e-13)  # float64 roundings


@FUSED
@each_manifold
@each_optimizer
def test_rows_without_a_gradient_stay_with_their_moments(
    manifold: Manifold, kind: Callable, options: dict, fused: bool
) -> None:
    start = points(manifold, 9, 5)
    p = ManifoldParameter(start.clone(), manifold)
    optimizer = kind([p], fused=fused, **options)
    p.grad = sparse([1, 4], torch.ones(2, 5, dtype=torch.float64), 9)
    optimizer.step()
    first = [p.detach().clone(), *(t.clone() for t in optimizer.state[p].values() if t.ndim)]
    assert torch.equal((p != start).any(-1).nonzero()[:, 0], torch.tensor([1, 4]))
    p.grad = sparse([4, 8], torch.ones(2, 5, dtype=torch.float64), 9)
    optimizer.step()
    second = [p.detach(), *(t for t in optimizer.state[p].values() if t.ndim)]
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before[:4], after[:4])
        assert not torch.equal(before[4], after[4])
        assert all((t[[0, 2, 3, 5, 6, 7]] == 0).all() for t in second[1:])


@FUSED
@each_manifold
@each_optimizer
def test_all_rows_at_once_are_a_dense_gradient(manifold: Manifold, kind: Callable, options: dict, fused: bool) -> None:
    p, q = (ManifoldParameter(points(manifold, 6, 5), manifold) for _ in "pq")
    one, other = kind([p], fused=fused, **options), kind([q], fused=fused, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        q.grad = torch.randn(6, 5, dtype=torch.float64, generator=generator)
        p.grad = sparse([3, 0, 5, 1, 2, 4, 0], torch.cat([q.grad[[3, 0, 5, 1, 2, 4]], torch.zeros_like(q[:1])]), 6)
        kept = p.grad.clone()
        one.step()
        other.step()
        assert p.grad._nnz() == 7  # not changed, and not coalesced in place
        assert torch.equal(p.grad.to_dense(), kept.to_dense())
    torch.testing.assert_close(p, q, rtol=0, atol=1e-14)  # float64 roundings


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_learns(kind: Callable, options: dict, dtype: torch.dtype) -> None:
    table = torch.nn.Embedding(20, 4, sparse=True)
    table.weight = ManifoldParameter(points(Sphere(), 20, 4, dtype=dtype), Sphere())
    goal = points(Sphere(), 4, dtype=torch.float32)
    optimizer = kind(table.parameters(), **options)
    rows = torch.tensor([3, 5, 3])
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (table(rows).float() - goal).square().sum()
        loss.backward()
        assert table.weight.grad.layout == torch.sparse_coo
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    # Unit length to one rounding of each entry.
    assert (table.weight.double().norm(dim=-1) - 1).abs().max() < 2 * torch.finfo(dtype).eps


def test_tables_of_matrices_take_sparse_gradients() -> None:
    manifold = Stiefel()
    p, q = (ManifoldParameter(points(manifold, 5, 4, 2), manifold) for _ in "pq")
    grad = torch.randn(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p.grad = sparse([1, 3], grad, 5)
    q.grad = p.grad.to_dense()
    RiemannianAdam([p], lr=0.1).step()
    RiemannianAdam([q], lr=0.1).step()
    torch.testing.assert_close(p[[1, 3]], q[[1, 3]], rtol=0, atol=1e-14)  # float64 roundings
    assert torch.equal(p[[0, 2, 4]], points(manifold, 5, 4, 2)[[0, 2, 4]])


@pytest.mark.parametrize("kind", [RiemannianSGD, RiemannianAdam])
def test_gradients_that_cut_points_are_refused(kind: Callable) -> None:
    p = ManifoldParameter(points(Sphere(), 5, 3), Sphere())
    optimizer = kind([p], lr=0.1)
    p.grad = torch.ones(5, 3, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match=r"\(5, 3\) on Sphere.*one sparse dimension"):
        optimizer.step()

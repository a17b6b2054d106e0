"""The k nearest points: those of the matrix of all distances, in order, without the matrix."""

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    DimensionError,
    Euclidean,
    Grassmann,
    Lorentz,
    Manifold,
    PoincareBall,
    Sphere,
    Stiefel,
    nearest,
)
from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.nearest import _by_blocks

F32, F64 = torch.float32, torch.float64
FUSED = [PoincareBall(0.7), Lorentz(0.7), Sphere(), PoincareBall(0.7, learnable=True), Lorentz(torch.tensor(0.7))]
MANIFOLDS = pytest.mark.parametrize(
    ("manifold", "point"),
    [*((m, (4,)) for m in FUSED), (Euclidean(1), (3,)), (Grassmann(), (4, 2))],
    ids=lambda value: str(value) if isinstance(value, Manifold) else "",
)


def _points(manifold: Manifold, *size: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return manifold.random(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _brute(manifold: Manifold, x: Tensor, y: Tensor, k: int, skip: bool = False) -> tuple[Tensor, Tensor]:
    """The first k of a stable sort of all distances."""
    distances = manifold.cdist(x, y).detach()
    if skip:
        distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    values, order = distances.sort(dim=-1, stable=True)
    return values[..., :k], order[..., :k]


@MANIFOLDS
@pytest.mark.parametrize("implementation", ["reference", None])
@pytest.mark.parametrize("k", [1, 5, 23])
def test_they_are_the_first_of_all_distances_sorted(
    manifold: Manifold, point: tuple[int, ...], implementation: str | None, k: int
) -> None:
    x, y = _points(manifold, 2, 70, *point), _points(manifold, 23, *point, seed=1)
    with dispatch.use(implementation):
        for a, b in ((x, y), (x[0], y), (y, x), (x, x.roll(1, 0)), (x[:1], x)):
            distances, indices = nearest(manifold, a, b, k)
            wanted = _brute(manifold, a, b, k)
            torch.testing.assert_close(distances, wanted[0])
            assert torch.equal(indices, wanted[1])
            assert indices.dtype == torch.int64


@pytest.mark.parametrize("manifold", FUSED, ids=str)
def test_float32_rows_past_one_panel_and_one_block_of_rows(manifold: Manifold) -> None:
    x, y = _points(manifold, 130, 4, dtype=F32), _points(manifold, 1101, 4, seed=1, dtype=F32)
    distances, indices = nearest(manifold, x, y, 10)
    values, _ = _brute(manifold, x.double(), y.double(), 10)
    # By value: two points at distances that differ by less than a rounding may change places.
    torch.testing.assert_close(distances.double(), values, rtol=1e-6, atol=0.0)
    assert bool((distances.diff(dim=-1) >= 0).all())
    assert all(len(set(row)) == 10 for row in indices.tolist())


@MANIFOLDS
@pytest.mark.parametrize("implementation", ["reference", None])
def test_equal_points_come_by_lowest_index(
    manifold: Manifold, point: tuple[int, ...], implementation: str | None
) -> None:
    x, y = _points(manifold, 9, *point), _points(manifold, 6, *point, seed=1)
    with dispatch.use(implementation):
        _, single = nearest(manifold, x, y, 3)
        _, indices = nearest(manifold, x, torch.cat((y, y, y)), 8)
    wanted = torch.stack((single, single + 6, single + 12), dim=-1).reshape(9, 9)[:, :8]
    assert torch.equal(indices, wanted)


@MANIFOLDS
@pytest.mark.parametrize("implementation", ["reference", None])
def test_a_point_can_be_left_out_of_its_own_neighbours(
    manifold: Manifold, point: tuple[int, ...], implementation: str | None
) -> None:
    x = _points(manifold, 2, 40, *point)
    with dispatch.use(implementation):
        _, indices = nearest(manifold, x, x, 39, exclude_self=True)
        distances, few = nearest(manifold, x, x, 3, exclude_self=True)
        shared = nearest(manifold, x, x[0], 3, exclude_self=True)[1]
    assert torch.equal(
        indices.sort(dim=-1).values,
        torch.tensor([[j for j in range(40) if j != i] for i in range(40)]).expand(2, 40, 39),
    )
    wanted = _brute(manifold, x, x, 3, skip=True)
    torch.testing.assert_close(distances, wanted[0])
    assert torch.equal(few, wanted[1])
    assert torch.equal(shared, _brute(manifold, x, x[0].expand_as(x), 3, skip=True)[1])


def test_points_near_the_antipode_keep_their_order() -> None:
    sphere = Sphere()
    x = _points(sphere, 8, 5)
    u = sphere.random_tangent(-x, generator=torch.Generator().manual_seed(2))
    u = u / u.norm(dim=-1, keepdim=True)
    # Distances pi - t with t from 1e-7 up: their cochords differ where the chords are all 2.
    steps = torch.logspace(-7, -1, 20, dtype=F64)[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    y = sphere.expmap(-x.unsqueeze(1), steps.reshape(20, 1) * u.unsqueeze(1))
    _, indices = nearest(sphere, x.unsqueeze(1), y, 20)
    assert torch.equal(indices.squeeze(1), steps.argsort(descending=True).expand(8, 20))


@pytest.mark.parametrize("manifold", FUSED, ids=str)
def test_gradients_are_those_of_the_distances_of_the_pairs(manifold: Manifold) -> None:
    leaves = [_points(manifold, 2, 12, 4).requires_grad_(), _points(manifold, 9, 4, seed=1).requires_grad_()]
    weight = torch.randn(2, 12, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    distances, indices = nearest(manifold, *leaves, 3)
    assert not indices.requires_grad
    got = torch.autograd.grad(distances, leaves, weight)
    wanted = torch.autograd.grad(manifold.cdist(*leaves).gather(-1, indices), leaves, weight)
    torch.testing.assert_close(got, wanted)


def test_many_neighbours_and_curvatures_by_batch_take_the_blocks() -> None:
    ball = PoincareBall(torch.tensor([0.3, 2.0], dtype=F64))
    x, y = _points(ball, 11, 2, 3).movedim(1, 0).contiguous() * 0.5, _points(Sphere(), 2, 400, 3, seed=1) * 0.6
    one = PoincareBall(0.3)
    distances, indices = nearest(one, x[0], y[0], 300)
    wanted = _brute(one, x[0], y[0], 300)
    torch.testing.assert_close(distances, wanted[0])
    assert torch.equal(indices, wanted[1])


def test_blocks_bound_what_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = Euclidean.cdist

    def watched(self: Euclidean, x: Tensor, y: Tensor) -> Tensor:
        block = plain(self, x, y)
        seen.append(block.numel())
        return block

    monkeypatch.setattr(Euclidean, "cdist", watched)
    monkeypatch.setitem(_by_blocks.__globals__, "_BLOCK", 100)
    x, y = _points(Euclidean(1), 30, 3), _points(Euclidean(1), 20, 3, seed=1)
    _, indices = nearest(Euclidean(1), x, y, 4)
    assert max(seen) <= 100
    assert torch.equal(indices, _brute(Euclidean(1), x, y, 4)[1])


def test_half_precision_and_mixed_dtypes() -> None:
    ball = PoincareBall()
    x = _points(ball, 20, 4, dtype=torch.bfloat16)
    distances, indices = nearest(ball, x, x, 2)
    assert distances.dtype == torch.bfloat16
    assert torch.equal(indices[:, 0], torch.arange(20))
    mixed, _ = nearest(ball, x.float(), x.double(), 2)
    assert mixed.dtype == F64


def test_numbers_do_not_depend_on_threads() -> None:
    ball = PoincareBall()
    x, y = _points(ball, 500, 4, dtype=F32), _points(ball, 300, 4, seed=1, dtype=F32)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(nearest(ball, x, y, 5))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_rows_have_no_neighbours() -> None:
    for manifold in (PoincareBall(), Euclidean(1)):
        distances, indices = nearest(manifold, torch.zeros(0, 3), torch.zeros(5, 3), 2)
        assert distances.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("implementation", ["reference", None])
def test_points_that_are_not_numbers_still_give_indices_that_are(implementation: str | None) -> None:
    x = _points(PoincareBall(), 6, 3)
    y = x.clone()
    y[2:] = torch.nan
    with dispatch.use(implementation):
        _, indices = nearest(PoincareBall(), x, y, 4)
    assert torch.equal(indices.sort(dim=-1).values, torch.arange(4).expand(6, 4))


def test_bad_input_is_refused_by_name() -> None:
    ball, x, y = PoincareBall(), torch.zeros(4, 3), torch.zeros(5, 3)
    with pytest.raises(TypeError, match=r"nearest: argument 'manifold' must be a Manifold, got str"):
        nearest("ball", x, y, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"nearest: argument 'y' must be a tensor, got list"):
        nearest(ball, x, [0.0], 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"nearest: argument 'x' must have a real floating dtype, got torch.int64"):
        nearest(ball, x.long(), y, 1)
    with pytest.raises(DimensionError, match=r"nearest: argument 'x' has shape \(3,\), wanted at least 2 dimensions"):
        nearest(ball, x[0], y, 1)
    with pytest.raises(DimensionError, match=r"argument 'y' has shape \(5, 2\), wanted trailing dimensions \(3,\)"):
        nearest(ball, x, y[:, :2], 1)
    with pytest.raises(
        DimensionError, match=r"argument 'y' does not broadcast: batch dimensions \(3,\) against \(2,\)"
    ):
        nearest(ball, x.expand(2, 4, 3), y.expand(3, 5, 3), 1)
    with pytest.raises(DimensionError, match=r"as many points each, got 4 and 5"):
        nearest(ball, x, y, 1, exclude_self=True)
    for k in (0, 6, -1):
        with pytest.raises(ValueError, match=rf"nearest: argument 'k' must be from 1 to 5, got {k}"):
            nearest(ball, x, y, k)
    with pytest.raises(ValueError, match=r"nearest: argument 'k' must be from 1 to 3, got 4"):
        nearest(ball, x, x, 4, exclude_self=True)
    for k in (1.0, True, None):
        with pytest.raises(TypeError, match=r"nearest: argument 'k' must be an int, got"):
            nearest(ball, x, y, k)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"nearest: argument 'exclude_self' must be a bool, got 1"):
        nearest(ball, x, y, 1, exclude_self=1)  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match="has shape"):
        nearest(Stiefel(), x, y, 1)

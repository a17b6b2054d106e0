"""What is particular to Euclidean space: every operation is the plain one, for points of any shape."""

import math

import pytest
import torch

from holonomy.manifolds import Euclidean, MembershipError


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_operations_are_those_of_vectors(generator: torch.Generator) -> None:
    space = Euclidean(1)
    x, y, u = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    assert torch.equal(space.expmap(x, u), x + u)
    assert torch.equal(space.retr(x, u), x + u)
    assert torch.equal(space.logmap(x, y), y - x)
    assert torch.equal(space.transp(x, y, u), u)
    assert torch.equal(space.projx(x), x)
    assert torch.equal(space.egrad2rgrad(x, u), u)
    torch.testing.assert_close(space.dist(x, y), torch.linalg.vector_norm(x - y, dim=-1))
    torch.testing.assert_close(space.geodesic(0.25, x, y), torch.lerp(x, y, 0.25))


@pytest.mark.parametrize("ndim", [0, 1, 2, 3])
def test_points_may_have_any_shape(ndim: int, generator: torch.Generator) -> None:
    space = Euclidean(ndim)
    x, y = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=generator)
    wanted = (x - y).square()
    if ndim:
        wanted = wanted.sum(tuple(range(-ndim, 0))) if ndim < 4 else wanted
    torch.testing.assert_close(space.dist2(x, y), wanted)
    assert space.dist(x, y, keepdim=True).ndim == 3
    assert space.dimension(2, 3, 4) == math.prod((2, 3, 4)[3 - ndim :])


def test_default_points_are_single_numbers() -> None:
    assert Euclidean().ndim == 0
    assert torch.equal(Euclidean().dist(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 3.0])), torch.tensor([1.0, 2.0]))


def test_negative_ndim_is_refused() -> None:
    with pytest.raises(ValueError, match="Euclidean: 'ndim' must be at least 0, got -1"):
        Euclidean(-1)


def test_validation_finds_nan_only() -> None:
    space = Euclidean(1, validate=True)
    space.expmap(torch.tensor([1e30, -1e30]), torch.ones(2))
    with pytest.raises(MembershipError, match="NaN"):
        space.expmap(torch.tensor([1.0, float("nan")]), torch.ones(2))

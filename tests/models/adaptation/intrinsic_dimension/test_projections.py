"""Random maps into parameter space, and their adjoints."""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from holonomy.models.adaptation.intrinsic_dimension.projections import PROJECTIONS, fwht, make_projection

DOUBLE = torch.float64
NAMES = tuple(PROJECTIONS)


def columns(name: str, D: int, d: int, seed: int = 0) -> Tensor:
    projection = make_projection(name, D, d, seed, dtype=DOUBLE)
    return torch.stack([projection(unit) for unit in torch.eye(d, dtype=DOUBLE)], dim=1)


@pytest.mark.parametrize("n", [2**k for k in range(11)])
def test_fwht_multiplies_with_hadamard_s_matrix(n: int) -> None:
    x = torch.randn(3, n, dtype=DOUBLE)
    matrix = torch.from_numpy(scipy.linalg.hadamard(n).astype(float))
    assert torch.allclose(fwht(x), x @ matrix, atol=1e-12)
    assert torch.allclose(fwht(fwht(x)), n * x, atol=1e-10)
    assert torch.allclose(fwht(x.mT, dim=0), (x @ matrix).mT, atol=1e-12)
    assert torch.allclose(fwht(fwht(x, normalize=True), normalize=True), x, atol=1e-12)


def test_fwht_has_gradients_and_refuses_other_lengths() -> None:
    assert torch.autograd.gradcheck(fwht, torch.randn(2, 8, dtype=DOUBLE, requires_grad=True))
    with pytest.raises(ValueError, match="power of two"):
        fwht(torch.ones(6))


@pytest.mark.parametrize("D", [50, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_transpose_is_the_exact_adjoint(name: str, D: int) -> None:
    for dtype, error in ((DOUBLE, 1e-13), (torch.float32, 1e-5)):
        projection = make_projection(name, D, 20, 3, dtype=dtype)
        v, u = torch.randn(20, dtype=dtype), torch.randn(D, dtype=dtype)
        scale = float(v.norm() * u.norm())
        assert abs(float(projection(v) @ u - v @ projection.transpose(u))) < error * scale
    leaf = torch.randn(20, dtype=DOUBLE, requires_grad=True)
    projection = make_projection(name, D, 20, 3, dtype=DOUBLE)
    u = torch.randn(D, dtype=DOUBLE)
    (slope,) = torch.autograd.grad(projection(leaf) @ u, leaf)
    assert torch.allclose(slope, projection.transpose(u), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_columns_have_length_one(name: str) -> None:
    lengths = columns(name, 2000, 40).norm(dim=0)
    if name == "fastfood":
        assert float(lengths.square().mean()) == pytest.approx(1.0, abs=0.1)
    else:
        assert torch.allclose(lengths, torch.ones(40, dtype=DOUBLE), atol=1e-12)


def test_columns_point_in_random_directions() -> None:
    cosines = columns("dense", 4000, 60).mT @ columns("dense", 4000, 60)
    off = cosines[torch.triu_indices(60, 60, 1).unbind()]
    # 1770 of them, each with a standard deviation of 0.6/sqrt(D).
    assert float(off.abs().mean()) == pytest.approx(math.sqrt(2 / (math.pi * 4000)), rel=0.08)
    orthonormal = columns("stiefel", 300, 40)
    assert torch.allclose(orthonormal.mT @ orthonormal, torch.eye(40, dtype=DOUBLE), atol=1e-12)
    assert torch.linalg.matrix_rank(columns("fastfood", 500, 60)) == 60


def test_sparse_columns_have_signs_at_distinct_places() -> None:
    D, d = 10_000, 30
    matrix = columns("sparse", D, d)
    counts = (matrix != 0).sum(0)
    # Binomial with mean 100 and standard deviation 10: five of them.
    assert int(counts.min()) > 50
    assert int(counts.max()) < 150
    for column, count in zip(matrix.mT, counts, strict=True):
        sizes = column[column != 0].abs()
        assert torch.allclose(sizes, torch.full_like(sizes, float(count) ** -0.5))
    assert float((matrix > 0).sum() / (matrix != 0).sum()) == pytest.approx(0.5, abs=0.05)
    small = columns("sparse", 2, 2)
    assert torch.allclose(small.norm(dim=0), torch.ones(2, dtype=DOUBLE))


@pytest.mark.parametrize("name", NAMES)
def test_seeds_decide(name: str) -> None:
    assert torch.equal(columns(name, 100, 5, 1), columns(name, 100, 5, 1))
    assert not torch.equal(columns(name, 100, 5, 1), columns(name, 100, 5, 2))
    assert make_projection(name, 100, 5).state_dict() == {}


def test_fastfood_holds_four_vectors() -> None:
    projection = make_projection("fastfood", 5000, 1000)
    assert sum(b.numel() for b in projection.buffers()) == 4 * 8192


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("dense", 10, 0), ValueError, "'d' must be from 1 to D = 10, got 0"),
        (("dense", 10, 11), ValueError, "got 11"),
        (("random", 10, 2), ValueError, "projection must be one of .* got 'random'"),
        (("dense", 10, 2.0), TypeError, "'d' must be an int, got float 2.0"),
        (("dense", 10, 2, "a"), TypeError, "'seed' must be an int, got str"),
    ],
)
def test_bad_arguments(arguments: tuple, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_projection(*arguments)


def test_vectors_of_another_size_are_refused() -> None:
    projection = make_projection("dense", 10, 2)
    with pytest.raises(ValueError, match=r"'v' must be \(2,\), got \(3,\)"):
        projection(torch.ones(3))
    with pytest.raises(ValueError, match=r"'u' must be \(10,\), got \(2,\)"):
        projection.transpose(torch.ones(2))

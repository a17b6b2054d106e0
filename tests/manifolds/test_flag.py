"""What is particular to flags: the two manifolds that they join, and the freedom in their bases."""

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import DimensionError, Flag, Grassmann, ManifoldParameter, Stiefel
from holonomy.manifolds.linalg import haar
from holonomy.optim import RiemannianSGD

EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(manifold: Flag | Grassmann | Stiefel, *size: int, seed: int = 0) -> Tensor:
    return manifold.random(*size, dtype=torch.float64, generator=generator(seed))


def rotations(*blocks: int) -> Tensor:
    """A change of basis within every block."""
    return torch.block_diag(*(haar((p, p), torch.float64, None, generator(p)) for p in blocks))


@pytest.mark.parametrize(
    ("flag", "other"),
    [(Flag((2,)), Grassmann()), (Flag((1, 1)), Stiefel("canonical"))],
    ids=["one block is Grassmann", "columns are Stiefel"],
)
def test_the_two_ends_of_the_family(flag: Flag, other: Grassmann | Stiefel) -> None:
    x = draw(other, 8, 5, 2)
    u, v = (other.random_tangent(x, generator=generator(s)) for s in (1, 2))
    tolerance = {"rtol": 0.0, "atol": 64 * EPS}
    torch.testing.assert_close(flag.inner(x, u, v), other.inner(x, u, v), **tolerance)
    torch.testing.assert_close(flag.expmap(x, u), other.expmap(x, u), **tolerance)
    torch.testing.assert_close(flag.proju(x, u), u, **tolerance)
    curvature = other.sectional_curvature(x, u, v)
    torch.testing.assert_close(flag.sectional_curvature(x, u, v), curvature, rtol=0.0, atol=1024 * EPS)
    assert flag.dimension(5, 2) == other.dimension(5, 2)
    if isinstance(other, Stiefel):
        g, h = (torch.randn(8, 5, 2, dtype=torch.float64, generator=generator(s)) for s in (3, 4))
        torch.testing.assert_close(flag.egrad2rgrad(x, g), other.egrad2rgrad(x, g), **tolerance)
        torch.testing.assert_close(flag.ehess2rhess(x, g, h, u), other.ehess2rhess(x, g, h, u), **tolerance)


@pytest.mark.parametrize("retraction", Flag.retractions)
def test_every_basis_of_the_subspaces_gives_the_same_flag(retraction: str) -> None:
    flag, r = Flag((2, 1), retraction), rotations(2, 1)
    x = draw(flag, 6, 5, 3)
    u, v = (flag.random_tangent(x, generator=generator(s)) for s in (1, 2))
    turned = (x @ r, u @ r, v @ r)
    torch.testing.assert_close(flag.inner(*turned), flag.inner(x, u, v), rtol=0.0, atol=64 * EPS)
    torch.testing.assert_close(flag.expmap(x @ r, u @ r), flag.expmap(x, u) @ r, rtol=0.0, atol=64 * EPS)
    for a, b in ((flag.retr(x, u), flag.retr(x @ r, u @ r)),):
        for p, q in zip(a.split((2, 1), -1), b.split((2, 1), -1), strict=True):
            # QR orders the columns of a block, but not the subspaces that the blocks before them span.
            torch.testing.assert_close(p @ p.mT, q @ q.mT, rtol=0.0, atol=64 * EPS)


def test_transport_does_not_depend_on_the_basis_at_the_target() -> None:
    flag, r = Flag((2, 1)), rotations(2, 1)
    x = draw(flag, 6, 5, 3)
    u, v = (0.3 * flag.random_tangent(x, generator=generator(s)) for s in (1, 2))
    y = flag.expmap(x, u)
    torch.testing.assert_close(flag.transp(x, y @ r, v), flag.transp(x, y, v) @ r, rtol=0.0, atol=64 * EPS)


def test_nested_principal_subspaces_are_found_by_descent() -> None:
    """tr x^T a x n, weighted by blocks, has the flag of leading eigenvectors as its maximum."""
    values = torch.tensor([5.0, 3.0, 2.9, 1.0, 0.5], dtype=torch.float64)
    q = haar((5, 5), torch.float64, None, generator())
    a = q @ torch.diag(values) @ q.mT
    flag, weights = Flag((1, 2)), torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    x = ManifoldParameter(draw(flag, 5, 3, seed=5), flag)
    optimizer = RiemannianSGD([x], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        (-(weights * (x * (a @ x)).sum(0)).sum()).backward()
        optimizer.step()
    found = x.detach()
    for part, wanted in ((found[:, :1], q[:, :1]), (found[:, 1:], q[:, 1:3])):
        torch.testing.assert_close(part @ part.mT, wanted @ wanted.mT, rtol=0.0, atol=1e-6)


def test_bad_blocks_are_named() -> None:
    for blocks in ((), (2, 0), (-1,)):
        with pytest.raises(ValueError, match="'blocks' must hold at least one number"):
            Flag(blocks)
    with pytest.raises(TypeError, match="'blocks' must hold whole numbers"):
        Flag((1.0, 2))  # type: ignore[arg-type]
    with pytest.raises(DimensionError, match=r"wanted 3 columns.*blocks \(1, 2\)"):
        Flag((1, 2)).random(5, 2)

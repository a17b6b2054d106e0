"""What is particular to positive numbers: fifty digits over the whole range of exponents, and the isometry log."""

import mpmath
import pytest
import torch

from holonomy.manifolds import Euclidean, PositiveOrthant

MP = mpmath.MPContext()
MP.dps = 50


@pytest.mark.parametrize("gap", [1e-15, 1e-8, 1e-3, 0.5, 3.0, 400.0])
@pytest.mark.parametrize("x", [1e-200, 1e-3, 1.0, 7.0, 1e200])
def test_distances_keep_their_digits(x: float, gap: float) -> None:
    x = x if gap < 10.0 else 1e-200  # else out of range
    a, b = (torch.tensor([t], dtype=torch.float64) for t in (x, x * float(MP.exp(gap))))
    wanted = float(abs(MP.log(MP.mpf(float(b)) / MP.mpf(float(a)))))
    assert float(PositiveOrthant().dist(a, b)) == pytest.approx(wanted, rel=4e-16)
    assert float(PositiveOrthant().dist(b, a)) == pytest.approx(wanted, rel=4e-16)


def test_the_logarithm_is_an_isometry_onto_flat_space() -> None:
    generator = torch.Generator().manual_seed(0)
    manifold, flat = PositiveOrthant(), Euclidean(1)
    x, y = (manifold.random(50, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    v = manifold.random_tangent(x, generator=generator)
    torch.testing.assert_close(manifold.dist(x, y), flat.dist(x.log(), y.log()), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(manifold.transp(x, y, v) / y, v / x, rtol=1e-14, atol=0.0)


def test_steps_that_would_overflow_end_in_range() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([1e-6, 1.0, 1e6], dtype=dtype, requires_grad=True)
        for sign in (-1.0, 1.0):
            y = PositiveOrthant().expmap(x, torch.full_like(x, sign * 1e9))
            PositiveOrthant().assert_check_point_on_manifold(y.detach())
            (gradient,) = torch.autograd.grad(y.sum(), x)
            assert torch.isfinite(gradient).all()


def test_points_beyond_the_edge_of_steps_stay() -> None:
    x = torch.tensor([1e-300, 1e300], dtype=torch.float64)
    assert torch.equal(PositiveOrthant().expmap(x, torch.zeros_like(x)), x)


def test_negative_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="'ndim' must be at least 0, got -1"):
        PositiveOrthant(-1)

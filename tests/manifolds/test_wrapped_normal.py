"""The wrapped normal's density integrates to one, is that of its samples, and differentiates."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    Euclidean,
    Grassmann,
    Lorentz,
    Manifold,
    MembershipError,
    PoincareBall,
    Sphere,
    WrappedNormal,
    tangent_basis,
)

SPACES: list[tuple[Manifold, tuple[int, ...], float]] = [
    (Euclidean(1), (3,), 0.7),
    (Sphere(), (3,), 0.4),
    (Sphere(), (4,), 0.4),
    (PoincareBall(c=0.5), (3,), 0.8),
    (Lorentz(c=2.0), (3,), 0.6),
]
each_space = pytest.mark.parametrize(("manifold", "shape", "scale"), SPACES, ids=lambda v: str(v))


def location(manifold: Manifold, shape: tuple[int, ...]) -> Tensor:
    return manifold.random(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@each_space
def test_the_density_is_the_normal_one_over_the_jacobian_of_exp(
    manifold: Manifold, shape: tuple[int, ...], scale: float
) -> None:
    """The determinant by autograd of exp, in orthonormal bases at both ends: no closed form."""
    loc = location(manifold, shape)
    u = 1.5 * scale * manifold.random_tangent(loc, generator=torch.Generator().manual_seed(1))
    d = manifold.dimension(*shape)
    basis = tangent_basis(manifold, loc)
    x = manifold.expmap(loc, u)

    def move(t: Tensor) -> Tensor:
        return manifold.expmap(loc, u + (t.reshape(d, *(1,) * manifold.ndim) * basis).sum(0))

    columns = torch.autograd.functional.jacobian(move, torch.zeros(d, dtype=torch.float64)).movedim(-1, 0)
    matrix = manifold.inner(x, columns.unsqueeze(0), tangent_basis(manifold, x).unsqueeze(1))
    square = manifold.inner(loc, u)
    normal = -0.5 * square / scale**2 - 0.5 * d * math.log(2.0 * math.pi * scale**2)
    measured = WrappedNormal(manifold, loc, scale).log_prob(x)
    torch.testing.assert_close(measured, normal - torch.linalg.det(matrix).abs().log(), rtol=1e-9, atol=1e-9)


def test_the_density_on_the_sphere_integrates_to_one() -> None:
    nodes, weights = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(200))
    angle = 0.5 * math.pi * (nodes + 1.0)
    x = torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], dim=-1)
    law = WrappedNormal(Sphere(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 0.5)
    total = (law.log_prob(x).exp() * 2.0 * math.pi * angle.sin() * weights).sum() * 0.5 * math.pi
    # What is beyond pi is missing: exp(-pi^2 / (2 * 0.5^2)) = 2.7e-9 of the mass.
    assert float(total) == pytest.approx(1.0, abs=1e-8)


@each_space
def test_samples_have_the_law(manifold: Manifold, shape: tuple[int, ...], scale: float) -> None:
    loc = location(manifold, shape)
    draws, d = 20_000, manifold.dimension(*shape)
    law = WrappedNormal(manifold, loc, scale, generator=torch.Generator().manual_seed(0))
    x = law.sample((draws,))
    manifold.assert_check_point_on_manifold(x)
    square = manifold.dist2(loc, x) / scale**2
    # Chi-squared with d degrees of freedom: mean d, variance 2 d; five standard errors.
    assert abs(float(square.mean()) - d) <= 5.0 * math.sqrt(2.0 * d / draws)
    # The entropy by Monte Carlo, against the normal's and the mean of the volume term by the same draws.
    other = WrappedNormal(manifold, loc, 1.05 * scale, validate_args=False)
    gap = law.log_prob(x) - other.log_prob(x)
    # Gibbs: the true law has the larger mean log density; the divergence is d (log 1.05 - (1 - 1.05^-2)/2) = 0.0023 d.
    wanted = d * (math.log(1.05) - 0.5 * (1.0 - 1.05**-2))
    assert float(gap.mean()) == pytest.approx(wanted, abs=5.0 * float(gap.std()) / math.sqrt(draws))


@each_space
def test_it_differentiates(manifold: Manifold, shape: tuple[int, ...], scale: float) -> None:
    loc = location(manifold, shape).requires_grad_()
    spread = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    value = WrappedNormal(manifold, loc.detach(), scale, generator=torch.Generator().manual_seed(5)).sample()

    def density(loc: Tensor, spread: Tensor, value: Tensor) -> Tensor:
        return WrappedNormal(manifold, manifold.projx(loc), spread).log_prob(manifold.projx(value))

    def draw(loc: Tensor, spread: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        return WrappedNormal(manifold, manifold.projx(loc), spread, generator=generator).rsample((2,))

    assert torch.autograd.gradcheck(density, (loc, spread, value.requires_grad_()))
    assert torch.autograd.gradcheck(draw, (loc, spread))


@each_space
def test_the_density_is_finite_with_its_gradient_at_its_centre_and_far_out(
    manifold: Manifold, shape: tuple[int, ...], scale: float
) -> None:
    loc = location(manifold, shape)
    u = manifold.random_tangent(loc, generator=torch.Generator().manual_seed(1))
    for length in (0.0, 1e-9, 3.0):
        x = manifold.expmap(loc, length * u / manifold.norm(loc, u, keepdim=True)).requires_grad_()
        value = WrappedNormal(manifold, loc, scale).log_prob(x)
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


def test_long_distances_do_not_overflow() -> None:
    """sinh overflows at 89 in float32; its logarithm does not."""
    ball = PoincareBall(c=100.0)
    x, y = ball.projx(torch.tensor([[0.1, 0.0], [-0.1, 0.0]]))
    assert torch.isfinite(WrappedNormal(ball, x, 1.0).log_prob(y))
    lorentz = Lorentz(c=1.0)
    far = lorentz.expmap0(torch.tensor([0.0, 15.0, 0.0]))
    value = WrappedNormal(lorentz, lorentz.origin(3), 1.0).log_prob(far)
    wanted = -0.5 * 15.0**2 - math.log(2.0 * math.pi) - (15.0 - math.log(30.0))
    assert float(value) == pytest.approx(wanted, rel=1e-5)


def test_a_learnable_curvature_gets_a_gradient() -> None:
    ball = PoincareBall(c=1.0, learnable=True)
    x = torch.tensor([[0.1, 0.2], [-0.3, 0.4]])
    WrappedNormal(ball, x[0], 0.5).log_prob(x[1]).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in ball.parameters())


def test_shapes_follow_torch_distributions() -> None:
    loc = Sphere().random(5, 1, 3, dtype=torch.float64)
    law = WrappedNormal(Sphere(), loc, torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert (law.batch_shape, law.event_shape) == (torch.Size([5, 2]), torch.Size([3]))
    assert law.rsample((7,)).shape == (7, 5, 2, 3)
    assert law.log_prob(law.sample((7,))).shape == (7, 5, 2)
    wide = law.expand((4, 5, 2))
    assert wide.sample().shape == (4, 5, 2, 3)
    assert wide.log_prob(law.sample()).shape == (4, 5, 2)


def test_bad_input_is_refused() -> None:
    loc = torch.tensor([0.0, 0.0, 1.0])
    # By name: torch switches its default off for all distributions once anything was compiled.
    checked = partial(WrappedNormal, validate_args=True)
    with pytest.raises(NotImplementedError, match=r"WrappedNormal: no closed form .* on Grassmann"):
        checked(Grassmann(), torch.eye(4, 2), 0.1)
    with pytest.raises(MembershipError, match="off the manifold"):
        checked(Sphere(), 2.0 * loc, 0.1)
    with pytest.raises(ValueError, match="'scale' must be positive"):
        checked(Sphere(), loc, -0.1)
    with pytest.raises(ValueError, match="'scale' 2 is too large on Sphere of dimension 2"):
        checked(Sphere(), loc, 2.0)
    with pytest.raises(TypeError, match="'scale' must be a number or a tensor"):
        checked(Sphere(), loc, "wide")
    with pytest.raises(MembershipError, match="'value'"):
        checked(Sphere(), loc, 0.1).log_prob(2.0 * loc)

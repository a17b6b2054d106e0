"""The Riemannian normal's normaliser against mpmath and closed forms, and the law of its samples."""

import math
from functools import partial

import mpmath
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from holonomy.manifolds import (
    Euclidean,
    Grassmann,
    Lorentz,
    Manifold,
    MembershipError,
    PoincareBall,
    RiemannianNormal,
    Sphere,
    frechet_mean,
)

F64 = torch.float64
SPACES: list[tuple[Manifold, tuple[int, ...], float]] = [
    (Euclidean(1), (3,), 0.7),
    (Sphere(), (2,), 1.0),
    (Sphere(), (3,), 0.4),
    (Sphere(), (6,), 3.0),
    (PoincareBall(c=0.5), (3,), 0.8),
    (Lorentz(c=2.0), (3,), 0.6),
    (Lorentz(c=1.0), (11,), 1.5),
]
each_space = pytest.mark.parametrize(("manifold", "shape", "scale"), SPACES, ids=lambda v: str(v))


@pytest.mark.parametrize("scale", [1e-4, 0.05, 1.0, 4.0, 1e3])
@pytest.mark.parametrize("d", [2, 3, 20])
def test_the_normaliser_has_all_digits(scale: float, d: int) -> None:
    rows: list[tuple[Manifold, object, bool]] = [(Sphere(), mpmath.sin, False)]
    if scale < 10.0:
        rows.append((Lorentz(c=1.0), mpmath.sinh, True))
    for manifold, s, hyperbolic in rows:
        law = RiemannianNormal(manifold, manifold.origin(d + 1, dtype=F64), scale)
        with mpmath.workdps(40):
            t = mpmath.mpf(scale)
            m = (d - 1) * t * t
            mode = m + mpmath.sqrt(d - 1) * t if hyperbolic else min(mpmath.pi / 2, mpmath.sqrt(d - 1) * t)
            height = -(mode**2) / (2 * t * t) + (d - 1) * mpmath.log(s(mode))  # type: ignore[operator]
            end = mode + 30 * t if hyperbolic else min(mpmath.pi, mode + 30 * t)
            low = max(mpmath.mpf(0), m - 30 * t) if hyperbolic else mpmath.mpf(0)

            def density(r: mpmath.mpf) -> mpmath.mpf:
                return mpmath.exp(-r * r / (2 * t * t) - height) * s(r) ** (d - 1)  # type: ignore[operator] # noqa: B023

            total = mpmath.quad(density, [low + (end - low) * i / 40 for i in range(41)])
            wanted = mpmath.log(total) + height + mpmath.log(2 * mpmath.pi ** (mpmath.mpf(d) / 2) / mpmath.gamma(d / 2))
        # Rounding of a sum whose terms' exponents are up to d times the logarithm of the scale.
        assert abs(float(law.log_normalizer) - wanted) <= 1e-14 * (d * (1.0 + abs(math.log(scale))) + abs(wanted))


def test_hyperbolic_closed_form_of_error_functions() -> None:
    """Said et al., in two dimensions: 2 pi sqrt(pi/2) sigma exp(sigma^2/2) erf(sigma/sqrt 2)."""
    for c in (0.01, 1.0, 30.0):
        for scale in (0.3, 1.0, 2.5):
            law = RiemannianNormal(PoincareBall(c=c), torch.zeros(2, dtype=F64), scale / math.sqrt(c))
            value = (
                math.pi
                * math.sqrt(2.0 * math.pi)
                * scale
                * math.exp(0.5 * scale**2)
                * math.erf(scale / math.sqrt(2.0))
                / c
            )
            assert float(law.log_normalizer) == pytest.approx(math.log(value), abs=1e-13)


@each_space
def test_samples_have_the_distribution_function(manifold: Manifold, shape: tuple[int, ...], scale: float) -> None:
    loc = manifold.random(*shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    law = RiemannianNormal(manifold, loc, scale, generator=torch.Generator().manual_seed(1))
    x = law.sample((4000,))
    manifold.assert_check_point_on_manifold(x)
    d = manifold.dimension(*shape)
    k = math.sqrt(float(manifold.c)) if hasattr(manifold, "c") else 1.0
    if isinstance(manifold, Euclidean):
        area = torch.log
    elif isinstance(manifold, Sphere):
        area = lambda r: torch.sin(r).clamp_min(0.0).log()  # noqa: E731
    else:
        area = lambda r: (torch.sinh(k * r) / k).log()  # noqa: E731
    end = math.pi if isinstance(manifold, Sphere) else (d - 1) * k * scale**2 + 12.0 * scale * math.sqrt(d)
    grid = torch.linspace(1e-12, end, 20_001, dtype=F64)
    density = torch.exp(-0.5 * (grid / scale) ** 2 + (d - 1) * area(grid) - law.log_normalizer)
    table = scipy.integrate.cumulative_trapezoid(density.numpy(), grid.numpy(), initial=0.0)
    sphere = 2.0 * math.pi ** (0.5 * d) / math.gamma(0.5 * d)
    # The trapezoidal rule on this grid; and with it the normaliser once more.
    assert sphere * table[-1] == pytest.approx(1.0, abs=1e-5)
    r = manifold.dist(loc, x).numpy()
    assert scipy.stats.kstest(r, lambda t: sphere * torch.as_tensor(_interpolate(t, grid, table)).numpy()).pvalue > 1e-3
    direction = manifold.logmap(loc, x)
    direction = direction / manifold.norm(loc, direction, keepdim=True)
    # Uniform directions: the mean of n unit vectors has squared length 1/n on average; far beyond is chance 1e-6.
    assert float(manifold.inner(loc, direction.mean(0))) < 20.0 / 4000


def _interpolate(t: object, grid: Tensor, table: object) -> object:
    import numpy as np

    return np.interp(t, grid.numpy(), table)  # type: ignore[call-overload]


def test_the_frechet_mean_is_the_likeliest_location() -> None:
    ball = PoincareBall(c=0.5)
    x = 0.4 * torch.randn(8, 3, dtype=F64, generator=torch.Generator().manual_seed(0)).tanh()
    loc = frechet_mean(ball, x).requires_grad_()
    (slope,) = torch.autograd.grad(RiemannianNormal(ball, loc, 0.7).log_prob(x).sum(), loc)
    assert float(ball.norm(loc.detach(), ball.egrad2rgrad(loc.detach(), slope))) < 1e-9


@each_space
def test_it_differentiates(manifold: Manifold, shape: tuple[int, ...], scale: float) -> None:
    loc = manifold.random(*shape, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    spread = torch.tensor(scale, dtype=F64, requires_grad=True)
    value = RiemannianNormal(manifold, loc.detach(), 0.3, generator=torch.Generator().manual_seed(5)).sample()

    def density(loc: Tensor, spread: Tensor, value: Tensor) -> Tensor:
        return RiemannianNormal(manifold, manifold.projx(loc), spread).log_prob(manifold.projx(value))

    assert torch.autograd.gradcheck(density, (loc, spread, value.requires_grad_()))


def test_a_learnable_curvature_gets_its_gradient() -> None:
    values = []
    for c in (1.0 - 1e-5, 1.0 + 1e-5):
        values.append(float(RiemannianNormal(PoincareBall(c=c), torch.zeros(3, dtype=F64), 0.5).log_normalizer))
    ball = PoincareBall(c=1.0, learnable=True).double()
    law = RiemannianNormal(ball, torch.zeros(3, dtype=F64), 0.5)
    (raw,) = list(ball.parameters())
    scale = torch.autograd.grad(ball.c.sum(), raw)[0]
    (slope,) = torch.autograd.grad(law.log_normalizer.sum(), raw)
    assert float(slope / scale) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-6)


def test_shapes_follow_torch_distributions() -> None:
    loc = Sphere().random(5, 1, 3, dtype=F64)
    law = RiemannianNormal(Sphere(), loc, torch.tensor([0.1, 0.2], dtype=F64))
    assert (law.batch_shape, law.event_shape) == (torch.Size([5, 2]), torch.Size([3]))
    assert law.log_prob(law.sample((7,))).shape == (7, 5, 2)
    assert law.expand((4, 5, 2)).sample().shape == (4, 5, 2, 3)


def test_bad_input_is_refused() -> None:
    loc = torch.tensor([0.0, 0.0, 1.0])
    checked = partial(RiemannianNormal, validate_args=True)
    with pytest.raises(NotImplementedError, match="the normaliser is not known on Grassmann"):
        checked(Grassmann(), torch.eye(4, 2), 0.1)
    with pytest.raises(MembershipError, match="off the manifold"):
        checked(Sphere(), 2.0 * loc, 0.1)
    with pytest.raises(ValueError, match="'scale' must be positive"):
        checked(Sphere(), loc, 0.0)
    with pytest.raises(TypeError, match="'scale' must be a number or a tensor"):
        checked(Sphere(), loc, "wide")
    with pytest.raises(MembershipError, match="'value'"):
        checked(Sphere(), loc, 0.1).log_prob(2.0 * loc)

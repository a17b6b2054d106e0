"""What is particular to correlation matrices; the shared contract is tested for all manifolds elsewhere."""

import math

import mpmath
import numpy as np
import pytest
import torch
from geomstats_reference import geomstats
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import Correlation, MembershipError
from holonomy.manifolds.linalg import haar, sym

CORRELATION = Correlation()
EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(*size: int, seed: int = 0) -> Tensor:
    return CORRELATION.random(*size, dtype=torch.float64, generator=generator(seed))


def pair(r: float) -> Tensor:
    return torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)


def conditioned(condition: float, seed: int) -> Tensor:
    """A correlation matrix of about this condition number."""
    q = haar((4, 4), torch.float64, None, generator(seed))
    values = torch.logspace(0.0, -math.log10(condition), 4, dtype=torch.float64)
    return CORRELATION.projx(sym(q @ torch.diag(values) @ q.mT))


def mp_chart(x: Tensor) -> mpmath.matrix:
    lower = mpmath.cholesky(mpmath.matrix(x.tolist()))
    return mpmath.matrix([[lower[i, j] / lower[i, i] for j in range(lower.cols)] for i in range(lower.rows)])


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8])
def test_distances_of_ill_conditioned_matrices(condition: float) -> None:
    x, y = conditioned(condition, 1), conditioned(condition, 2)
    with mpmath.workdps(60):
        wanted = float(mpmath.mnorm(mp_chart(x) - mp_chart(y), "f"))
    # The last pivot of Cholesky's factorisation loses eps cond(x) of itself.
    assert float(CORRELATION.dist(x, y)) == pytest.approx(wanted, rel=4 * EPS * condition)
    near = CORRELATION.expmap(x, 1e-7 * CORRELATION.random_tangent(x, generator=generator()))
    with mpmath.workdps(60):
        close = float(mpmath.mnorm(mp_chart(x) - mp_chart(near), "f"))
    assert float(CORRELATION.dist(x, near)) == pytest.approx(close, rel=4 * EPS * condition)
    back = CORRELATION.expmap(x, CORRELATION.logmap(x, y))
    torch.testing.assert_close(back, y, rtol=0, atol=4 * EPS * condition)


@pytest.mark.parametrize("r", [0.0, 1e-9, -0.6, 0.999999])
def test_two_variables(r: float) -> None:
    """The coordinate is r/sqrt(1 - r^2), and the metric its differential squared, dr^2/(1 - r^2)^3."""
    x = pair(r)
    assert float(CORRELATION.dist(torch.eye(2, dtype=torch.float64), x)) == pytest.approx(
        abs(r) / math.sqrt((1.0 - r) * (1.0 + r)), rel=4 * EPS / (1.0 - abs(r))
    )
    u = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert float(CORRELATION.norm(x, u)) == pytest.approx((1.0 - r * r) ** -1.5, rel=8 * EPS / (1.0 - abs(r)))


def test_agrees_with_geomstats() -> None:
    module = geomstats("full_rank_correlation_matrices")
    peer = module.EuclideanCholeskyMetric(module.FullRankCorrelationMatrices(3, equip=False))
    x, y = points(3, 3, seed=1), points(3, 3, seed=2)
    u = CORRELATION.random_tangent(x, generator=generator(3))
    a, b, w = x.numpy(), y.numpy(), u.numpy()
    for got, wanted in (
        (CORRELATION.inner(x, u), peer.inner_product(w, w, a)),
        (CORRELATION.expmap(x, u), peer.exp(w, a)),
        (CORRELATION.logmap(x, y), peer.log(b, a)),
        (CORRELATION.dist2(x, y), peer.squared_dist(a, b)),
        (CORRELATION.transp(x, y, u), peer.parallel_transport(w, a, end_point=b)),
    ):
        # 1e-12: theirs inverts the factor.
        torch.testing.assert_close(got, torch.as_tensor(np.asarray(wanted)), rtol=1e-12, atol=1e-12)


def test_both_derivatives_at_the_identity_and_at_coincident_points() -> None:
    x = torch.eye(3, dtype=torch.float64).requires_grad_()
    u = (0.1 * CORRELATION.random_tangent(x.detach(), generator=generator())).requires_grad_()

    def everything(x: Tensor, y: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        x, y = CORRELATION.projx(x), CORRELATION.projx(y)
        return (
            CORRELATION.dist2(x, y),
            CORRELATION.logmap(x, y),
            CORRELATION.expmap(x, u),
            CORRELATION.transp(x, y, u),
        )

    for y in (x.detach().clone().requires_grad_(), points(3, 3).requires_grad_()):
        assert gradcheck(everything, (x, y, u), check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(everything, (x, y, u), fast_mode=True)


def test_leading_variables_are_a_submanifold() -> None:
    """Rows of the chart are those of the leading block: its distances are part of the whole."""
    x, y = points(4, 4, seed=1), points(4, 4, seed=2)
    part = CORRELATION.dist2(x[:3, :3], y[:3, :3])
    assert 0.0 < float(part) < float(CORRELATION.dist2(x, y))
    middle = CORRELATION.geodesic(0.3, x, y)
    torch.testing.assert_close(middle[:3, :3], CORRELATION.geodesic(0.3, x[:3, :3], y[:3, :3]))


def test_every_step_ends_at_a_correlation_matrix() -> None:
    x = points(50, 3, 3)
    y = CORRELATION.expmap(x, 100.0 * CORRELATION.random_tangent(x, generator=generator(1)))
    assert torch.equal(y.diagonal(dim1=-2, dim2=-1), torch.ones(50, 3, dtype=torch.float64))
    # Coordinates of some 300 are correlations of 1 - 5e-6, with condition numbers of up to 1e11.
    CORRELATION.assert_check_point_on_manifold(y)


def test_projection_is_the_correlation_of_a_covariance() -> None:
    samples = torch.randn(20, 4, dtype=torch.float64, generator=generator())
    wanted = torch.corrcoef(samples.mT)
    torch.testing.assert_close(CORRELATION.projx(torch.cov(samples.mT)), wanted)
    CORRELATION.assert_check_point_on_manifold(CORRELATION.projx(-torch.eye(3, dtype=torch.float64)))


def test_membership_says_what_is_wrong() -> None:
    with pytest.raises(MembershipError, match="must have a diagonal of ones, but is off by 1"):
        CORRELATION.assert_check_point_on_manifold(2.0 * torch.eye(3))
    with pytest.raises(MembershipError, match="not positive definite"):
        CORRELATION.assert_check_point_on_manifold(pair(1.5))

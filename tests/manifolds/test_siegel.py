"""What is particular to the Siegel upper half space; the shared contract is tested for all manifolds elsewhere."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import SPD, MembershipError, PoincareBall, SiegelUpperHalf
from holonomy.manifolds.linalg import haar, sym

SIEGEL = SiegelUpperHalf()
EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(*batch: int, n: int = 3, seed: int = 0) -> Tensor:
    return SIEGEL.random(*batch, 2, n, n, dtype=torch.float64, generator=generator(seed))


def tangents(x: Tensor, seed: int = 3, length: float = 1.0) -> Tensor:
    u = SIEGEL.random_tangent(x, generator=generator(seed))
    return length * u / SIEGEL.norm(x, u, keepdim=True)


def conditioned(condition: float, seed: int) -> Tensor:
    """Imaginary part of this condition number, real part of order 1."""
    q = haar((3, 3), torch.float64, None, generator(seed))
    b = q @ torch.diag(torch.logspace(0.0, -math.log10(condition), 3, dtype=torch.float64)) @ q.mT
    return torch.stack((sym(torch.randn(3, 3, dtype=torch.float64, generator=generator(seed + 10))), sym(b)))


def mp_dist(x: Tensor, y: Tensor) -> float:
    """Siegel's formula: eigenvalues r of the cross-ratio (z - w)(z - w*)^-1 (z* - w*)(z* - w)^-1."""
    with mpmath.workdps(80):
        z, w = (mpmath.matrix(t[0].tolist()) + 1j * mpmath.matrix(t[1].tolist()) for t in (x, y))
        cross = (z - w) * mpmath.inverse(z - w.H.T) * (z.H.T - w.H.T) * mpmath.inverse(z.H.T - w)
        values = [mpmath.sqrt(abs(mpmath.re(r))) for r in mpmath.eig(cross, left=False, right=False)]
        return float(mpmath.sqrt(sum(mpmath.log((1 + r) / (1 - r)) ** 2 for r in values)))


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8])
def test_distances_are_those_of_siegel(condition: float) -> None:
    x, y = conditioned(condition, 1), conditioned(condition, 2)
    # Entries of the imaginary part are rounded: its lowest eigenvalue by eps cond of itself.
    assert float(SIEGEL.dist(x, y)) == pytest.approx(mp_dist(x, y), rel=4 * EPS * condition)
    # Points of mp's formula for close ones, too.
    near = SIEGEL.expmap(x, tangents(x, length=1e-7))
    assert float(SIEGEL.dist(x, near)) == pytest.approx(mp_dist(x, near), rel=4 * EPS * condition)


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e6])
def test_exp_inverts_log_as_far_as_geodesics_spread(condition: float) -> None:
    x, y = conditioned(condition, 1), conditioned(condition, 2)
    back = SIEGEL.expmap(x, SIEGEL.logmap(x, y))
    d = float(SIEGEL.dist(x, y))
    # A vector of length d is rounded by d eps, and geodesics spread by exp(d) on the way; d is up to 30 here.
    assert float(SIEGEL.dist(back, y)) <= 4 * d * EPS * math.exp(d)


def to_disk(x: Tensor) -> Tensor:
    """The half-plane to the unit disk: (z - i)/(z + i)."""
    z = torch.complex(x[..., 0, 0, 0], x[..., 1, 0, 0])
    return torch.view_as_real((z - 1j) / (z + 1j))


def test_one_dimension_is_the_hyperbolic_plane() -> None:
    ball, x, y = PoincareBall(1.0), points(20, n=1, seed=1), points(20, n=1, seed=2)
    v = tangents(x)

    def moved(x: Tensor, v: Tensor) -> Tensor:
        return torch.func.jvp(to_disk, (x,), (v,))[1]

    torch.testing.assert_close(SIEGEL.dist(x, y), ball.dist(to_disk(x), to_disk(y)))
    torch.testing.assert_close(SIEGEL.inner(x, v), ball.inner(to_disk(x), moved(x, v)))
    torch.testing.assert_close(to_disk(SIEGEL.expmap(x, v)), ball.expmap(to_disk(x), moved(x, v)))
    torch.testing.assert_close(moved(x, SIEGEL.logmap(x, y)), ball.logmap(to_disk(x), to_disk(y)))
    wanted = ball.transp(to_disk(x), to_disk(y), moved(x, v))
    torch.testing.assert_close(moved(y, SIEGEL.transp(x, y, v)), wanted)
    w = tangents(x, seed=4)
    torch.testing.assert_close(SIEGEL.sectional_curvature(x, v, w), -torch.ones(20, dtype=torch.float64))


def test_purely_imaginary_points_are_the_positive_definite_matrices() -> None:
    spd = SPD()
    b, c = (spd.random(3, 3, dtype=torch.float64, generator=generator(s)) for s in (1, 2))
    u = spd.random_tangent(b, generator=generator(3))

    def lifted(t: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(t), t))

    torch.testing.assert_close(SIEGEL.dist(lifted(b), lifted(c)), spd.dist(b, c))
    torch.testing.assert_close(SIEGEL.expmap(lifted(b), lifted(u)), lifted(spd.expmap(b, u)))
    torch.testing.assert_close(SIEGEL.logmap(lifted(b), lifted(c)), lifted(spd.logmap(b, c)))
    torch.testing.assert_close(SIEGEL.transp(lifted(b), lifted(c), lifted(u)), lifted(spd.transp(b, c, u)))


def symplectic(seed: int) -> tuple[Tensor, ...]:
    """A symplectic matrix, as its four blocks, from a shear, a change of basis and an inversion."""
    n = 3
    eye, zero = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    a = torch.randn(n, n, dtype=torch.float64, generator=generator(seed)) + 2.0 * eye
    s = sym(torch.randn(n, n, dtype=torch.float64, generator=generator(seed + 1)))
    shear = torch.cat((torch.cat((eye, s), 1), torch.cat((zero, eye), 1)))
    basis = torch.block_diag(a, torch.linalg.inv(a).mT)
    inversion = torch.cat((torch.cat((zero, -eye), 1), torch.cat((eye, zero), 1)))
    g = shear @ basis @ inversion @ shear
    return g[:n, :n], g[:n, n:], g[n:, :n], g[n:, n:]


def test_the_symplectic_group_acts_by_isometries() -> None:
    a, b, c, d = (block.to(torch.complex128) for block in symplectic(5))

    def act(x: Tensor) -> Tensor:
        z = torch.complex(x[0], x[1])
        w = (a @ z + b) @ torch.linalg.inv(c @ z + d)
        return torch.stack((sym(w.real), sym(w.imag)))

    def act_on_vectors(x: Tensor, u: Tensor) -> Tensor:
        return torch.func.jvp(act, (x,), (u,))[1]

    x, y = points(seed=1), points(seed=2)
    u, v = tangents(x), tangents(x, seed=4)
    close = {"rtol": 1e-9, "atol": 1e-9}  # the complex inverse above has a condition number of some hundreds
    torch.testing.assert_close(SIEGEL.dist(act(x), act(y)), SIEGEL.dist(x, y), **close)
    torch.testing.assert_close(SIEGEL.expmap(act(x), act_on_vectors(x, u)), act(SIEGEL.expmap(x, u)), **close)
    torch.testing.assert_close(SIEGEL.logmap(act(x), act(y)), act_on_vectors(x, SIEGEL.logmap(x, y)), **close)
    moved = SIEGEL.transp(act(x), act(y), act_on_vectors(x, v))
    torch.testing.assert_close(moved, act_on_vectors(y, SIEGEL.transp(x, y, v)), **close)
    k = SIEGEL.sectional_curvature(act(x), act_on_vectors(x, u), act_on_vectors(x, v))
    torch.testing.assert_close(k, SIEGEL.sectional_curvature(x, u, v), **close)


def test_curvature_of_holomorphic_planes_reaches_both_ends() -> None:
    """The plane of u and i u: from -1 for u of rank 1 to -1/n for the identity; and 0 for parts that commute apart."""
    x = SIEGEL.origin(2, 3, 3, dtype=torch.float64)
    zero, eye = torch.zeros(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    first, second = torch.diag(eye[0]), torch.diag(eye[1])

    def holomorphic(w: Tensor) -> float:
        return float(SIEGEL.sectional_curvature(x, torch.stack((w, zero)), torch.stack((zero, w))))

    assert holomorphic(first) == pytest.approx(-1.0)
    assert holomorphic(eye) == pytest.approx(-1.0 / 3.0)
    flat = SIEGEL.sectional_curvature(x, torch.stack((first, zero)), torch.stack((zero, second)))
    assert float(flat) == 0.0


def test_agrees_with_the_distance_of_geoopt() -> None:
    geoopt = pytest.importorskip("geoopt")
    peer = geoopt.manifolds.siegel.UpperHalf(metric=geoopt.manifolds.siegel.vvd_metrics.SiegelMetricType.RIEMANNIAN)
    x, y = points(5, seed=1), points(5, seed=2)
    z, w = (torch.complex(t[:, 0], t[:, 1]) for t in (x, y))
    # 1e-6: theirs clamps, and takes a Takagi factorisation.
    torch.testing.assert_close(SIEGEL.dist(x, y), peer.dist(z, w), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["coincident", "equal eigenvalues", "close eigenvalues", "generic"])
def test_both_derivatives(case: str) -> None:
    x = SIEGEL.origin(2, 2, 2, dtype=torch.float64)
    y = {
        "coincident": x.clone(),
        "equal eigenvalues": torch.stack((x[1], 2.0 * x[1])),
        "close eigenvalues": torch.stack((x[0], torch.diag(torch.tensor([2.0, 2.0 + 1e-9], dtype=torch.float64)))),
        "generic": points(n=2, seed=1),
    }[case]
    u = tangents(x)

    def everything(x: Tensor, y: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        x, y, u = SIEGEL.projx(x), SIEGEL.projx(y), sym(u)
        return (SIEGEL.dist2(x, y), SIEGEL.logmap(x, y), SIEGEL.expmap(x, u), SIEGEL.transp(x, y, u))

    free = tuple(t.requires_grad_() for t in (x, y, u))
    assert gradcheck(everything, free, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(everything, free, fast_mode=True)


def test_membership_says_what_is_wrong() -> None:
    x = SIEGEL.origin(2, 2, 2)
    with pytest.raises(MembershipError, match="an imaginary part that is not positive definite"):
        SIEGEL.assert_check_point_on_manifold(-x)
    with pytest.raises(MembershipError, match="a real part that is not symmetric: off by 1"):
        SIEGEL.assert_check_point_on_manifold(x + torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]))


def test_geodesics_far_along_keep_their_speed() -> None:
    x = points(10, n=2, seed=1)
    u = tangents(x)
    lengths = torch.tensor([1.0, 4.0, 8.0], dtype=torch.float64)
    for length in lengths:
        y = SIEGEL.expmap(x, length * u)
        # The condition number of y is up to exp(2 d): 9e6.
        np.testing.assert_allclose(SIEGEL.dist(x, y), length, rtol=16 * EPS * math.exp(2.0 * float(length)))

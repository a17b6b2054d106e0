"""Exponential and logarithm of rotations against fifty digits, up to angles of pi, with their derivatives."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds.linalg import haar, matrix_exp, skew
from holonomy.manifolds.rotations import rotation_exp, rotation_integral, rotation_log

MP = mpmath.MPContext()
MP.dps = 50
EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turning(n: int, *angles: float, seed: int = 0) -> Tensor:
    """A skew matrix that turns n // 2 orthogonal planes by these angles."""
    w = torch.zeros(n, n, dtype=torch.float64)
    for i, angle in enumerate(angles[: n // 2]):
        w[2 * i + 1, 2 * i], w[2 * i, 2 * i + 1] = angle, -angle
    q = haar((n, n), torch.float64, None, generator(seed))
    return skew(q @ w @ q.mT)


def exact_exp(w: Tensor) -> Tensor:
    n = len(w)
    result = MP.expm(MP.matrix(w.tolist()), method="taylor")
    return torch.tensor([[float(result[i, j]) for j in range(n)] for i in range(n)], dtype=torch.float64)


ANGLES = (
    (0.3, 1.0, 2.0),
    (1e-8, 1e-5, 1e-3),
    (math.pi - 1e-3, 1.0, 0.1),
    (math.pi - 1e-6, 2.0, 2.0),
    (3.0, 0.0, 0.0),
    (2.0, 2.0, 2.0),
)


@pytest.mark.parametrize("angles", ANGLES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_exp_and_log_agree_with_fifty_digits(n: int, angles: tuple[float, ...]) -> None:
    w = turning(n, *angles)
    r = exact_exp(w)
    # Entries of size up to pi, a few dozen roundings.
    torch.testing.assert_close(rotation_exp(w.expand(2, n, n))[0], r, rtol=0.0, atol=16 * EPS)
    torch.testing.assert_close(rotation_log(r), w, rtol=0.0, atol=16 * EPS)
    low = rotation_log(r.float()).double()
    # r rounded to float32 is this far from r, and the logarithm no worse conditioned than 1/(2 pi - sum of angles).
    torch.testing.assert_close(low, w, rtol=0.0, atol=16 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_rotations_keep_their_digits(n: int) -> None:
    w = turning(n, 1e-9, 3e-10)
    torch.testing.assert_close(rotation_log(rotation_exp(w.expand(2, n, n)))[0], w, rtol=0.0, atol=16 * EPS * 1e-9)


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_the_logarithm_of_a_half_turn_is_one_of_the_two(n: int) -> None:
    r = torch.diag(torch.tensor([-1.0, -1.0] + [1.0] * (n - 2), dtype=torch.float64)).requires_grad_()
    w = rotation_log(r)
    assert float(w.detach().norm()) == pytest.approx(math.sqrt(2.0) * math.pi, rel=4 * EPS)
    torch.testing.assert_close(matrix_exp(w.detach()), r.detach(), rtol=0.0, atol=16 * EPS)
    (gradient,) = torch.autograd.grad(w.square().sum(), r)
    assert torch.isfinite(gradient).all()


def test_minus_the_identity_has_a_logarithm() -> None:
    """Every plane turns by pi: no direction is special, and none is lost."""
    r = -torch.eye(4, dtype=torch.float64)
    w = rotation_log(r)
    torch.testing.assert_close(w + w.mT, torch.zeros_like(w), rtol=0.0, atol=0.0)
    torch.testing.assert_close(matrix_exp(w), r, rtol=0.0, atol=16 * EPS)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_log_inverts_exp_on_random_rotations(n: int) -> None:
    w = skew(torch.randn(200, n, n, dtype=torch.float64, generator=generator()))
    # Angles below 0.9 pi: the derivative of log stays below 10.
    w = w * (0.9 * math.pi / torch.linalg.matrix_norm(w, 2)).clamp_max(1.0)[:, None, None]
    torch.testing.assert_close(rotation_log(rotation_exp(w)), w, rtol=0.0, atol=64 * EPS)


@pytest.mark.parametrize("angles", [(0.4, 1.1), (1.0, 1.0), (0.0, 0.0), (3.0, 0.5), (2.9, 2.9)], ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_derivatives_at_regular_and_repeated_angles(n: int, angles: tuple[float, ...]) -> None:
    """Along the group only: off it, the extension is ours to choose."""
    r = rotation_exp(turning(n, *angles).expand(2, n, n))[0]
    free = torch.zeros(n, n, dtype=torch.float64, requires_grad=True)

    def log(a: Tensor) -> Tensor:
        return rotation_log(r @ matrix_exp(skew(a)))

    assert gradcheck(log, free)
    assert gradgradcheck(log, free)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_integral_of_the_exponential(n: int) -> None:
    """By Gauss's rule of 20 points, exact to rounding for entire functions of this size."""
    w = turning(n, 2.0, 1.0)
    nodes, weights = (torch.tensor(t) for t in np.polynomial.legendre.leggauss(20))
    wanted = sum(0.5 * weight * matrix_exp(0.5 * (1.0 + node) * w) for node, weight in zip(nodes, weights, strict=True))
    torch.testing.assert_close(rotation_integral(w.expand(2, n, n))[0], wanted, rtol=0.0, atol=16 * EPS)


def test_nan_is_handed_on() -> None:
    r = torch.full((2, 4, 4), float("nan"))
    r[1] = torch.eye(4)
    w = rotation_log(r)
    assert torch.isnan(w[0]).all()
    assert (w[1] == 0.0).all()


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_logarithms_of_several_half_turns_are_logarithms(n: int, dtype: torch.dtype) -> None:
    """Planes whose half turns are equal have no eigenvectors of their own: none may be lost."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(200, n, n, dtype=torch.float64, generator=generator))[0]
    signs = torch.tensor([-1.0] * (n - n % 2) + [1.0] * (n % 2), dtype=torch.float64)
    r = ((basis * signs) @ basis.mT).to(dtype)
    log = rotation_log(r)
    # Eigenvectors of nearly equal eigenvalues carry the perturbation that tells them apart, 64 eps.
    assert float((rotation_exp(log) - r).abs().amax()) < 1e3 * torch.finfo(dtype).eps
    length = torch.linalg.vector_norm(log, dim=(-2, -1))
    assert torch.allclose(length, torch.full_like(length, math.pi * math.sqrt(n - n % 2)), rtol=1e-6)

"""Arcs between embeddings: ends, lengths, symmetry, against scipy and mpmath; gradients at hard points."""

import math

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import geometric_slerp

from holonomy.manifolds import Sphere
from holonomy.models.adaptation.geodesic_mixup import geodesic_mix, linear_mix

LAMS = (0.0, 0.1, 0.5, 0.8, 1.0)


def draw(n: int = 7, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed)), dim=1)


def at_angle(theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    return a, torch.tensor([[math.cos(theta), math.sin(theta), 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("lam", LAMS)
def test_arcs_are_those_of_scipy_and_of_the_sphere(lam: float) -> None:
    a, b = draw(), draw(seed=1)
    mixed = geodesic_mix(a, b, lam)
    theirs = np.stack([geometric_slerp(y.numpy(), x.numpy(), lam) for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(mixed, theirs, atol=1e-14)
    assert torch.equal(mixed, Sphere().geodesic(1.0 - lam, a, b))
    theta = torch.arccos((a * b).sum(1, keepdim=True))
    formula = (torch.sin(lam * theta) * a + torch.sin((1 - lam) * theta) * b) / torch.sin(theta)
    torch.testing.assert_close(mixed, formula, atol=1e-14, rtol=0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.integers(2, 40))
def test_length_symmetry_and_shares_of_the_arc(seed: int, lam: float, d: int) -> None:
    a, b = draw(4, d, seed), draw(4, d, seed + 1)
    mixed = geodesic_mix(a, b, lam)
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(4, dtype=torch.float64), atol=1e-14, rtol=0)
    # The formulas from both ends differ by roundings, which angles near pi enlarge.
    room = 1e-13 / (1.0 + (a * b).sum(1)).min().item()
    torch.testing.assert_close(mixed, geodesic_mix(b, a, 1.0 - lam), atol=room, rtol=0)
    theta = Sphere().dist(a, b)
    torch.testing.assert_close(Sphere().dist(a, mixed), (1.0 - lam) * theta, atol=1e-13, rtol=0)
    torch.testing.assert_close(Sphere().dist(mixed, b), lam * theta, atol=room, rtol=0)


def test_ends_and_middle() -> None:
    a, b = draw(), draw(seed=1)
    torch.testing.assert_close(geodesic_mix(a, b, 1.0), a, atol=1e-15, rtol=0)
    torch.testing.assert_close(geodesic_mix(a, b, 0.0), b, atol=1e-14, rtol=0)
    torch.testing.assert_close(geodesic_mix(a, b, 0.5), F.normalize(a + b, dim=1), atol=1e-14, rtol=0)


def test_lam_may_be_a_tensor_or_one_a_row() -> None:
    a, b = draw(), draw(seed=1)
    lams = torch.linspace(0, 1, 7, dtype=torch.float64).unsqueeze(1)
    mixed = geodesic_mix(a, b, lams)
    for i, lam in enumerate(lams.flatten().tolist()):
        torch.testing.assert_close(mixed[i], geodesic_mix(a, b, lam)[i], atol=1e-15, rtol=0)
    torch.testing.assert_close(geodesic_mix(a, b, torch.tensor(0.25)), geodesic_mix(a, b, 0.25))


@pytest.mark.parametrize("theta", [0.0, 1e-12, 1e-5, 1e-3, 1.0, math.pi - 1e-3, math.pi - 1e-6])
def test_close_and_nearly_opposite_points_are_those_of_50_digits(theta: float) -> None:
    a, b = at_angle(theta)
    with mpmath.workdps(50):
        x, y = ([mpmath.mpf(float(v)) for v in p[0]] for p in (a, b))
        # The angle of the rounded points, by what does not cancel.
        chord, cochord = (mpmath.sqrt(sum((p + s * q) ** 2 for p, q in zip(x, y, strict=True))) for s in (-1, 1))
        angle = 2 * mpmath.atan2(chord, cochord)
        for lam in (0.2, 0.7):
            if angle == 0:
                wanted = [float(v) for v in x]
            else:
                weights = [mpmath.sin(t * angle) / mpmath.sin(angle) for t in (mpmath.mpf(lam), 1 - mpmath.mpf(lam))]
                wanted = [float(weights[0] * p + weights[1] * q) for p, q in zip(x, y, strict=True)]
            # A rounding of the points turns the circle by 1e-16 over the sine of the angle.
            room = 1e-15 * (1.0 + 1.0 / max(math.pi - theta, 1e-300))
            np.testing.assert_allclose(geodesic_mix(a, b, lam)[0].numpy(), wanted, atol=room)


def test_naive_arccos_has_no_gradient_where_ours_has() -> None:
    a = draw().requires_grad_()
    theta = torch.arccos((a * a.detach()).sum(1, keepdim=True))
    naive = (torch.sin(0.3 * theta) * a + torch.sin(0.7 * theta) * a.detach()) / torch.sin(theta)
    assert not torch.autograd.grad(naive.sum(), a)[0].isfinite().all()
    ours = torch.autograd.grad(geodesic_mix(a, a.detach(), 0.3).sum(), a)[0]
    assert ours.isfinite().all()
    # Along tangents the point at share lam of the way moves by lam.
    tangent = Sphere().proju(a.detach(), torch.ones_like(a))
    torch.testing.assert_close(Sphere().proju(a.detach(), ours), 0.3 * tangent, atol=1e-12, rtol=0)


@pytest.mark.parametrize("theta", [0.0, 1e-6, 1.0, math.pi - 1e-2])
def test_gradients_are_those_of_differences(theta: float) -> None:
    a, b = (p.requires_grad_() for p in at_angle(theta))

    def function(a: torch.Tensor, b: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        return geodesic_mix(F.normalize(a, dim=1), F.normalize(b, dim=1), lam)

    lam = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    # Near opposite points derivatives are of the order of 100, and so are the errors of differences of 1e-6.
    assert torch.autograd.gradcheck(function, (a, b, lam), atol=1e-4 if theta > 3 else 1e-6)


def test_opposite_points_are_refused_or_follow_one_circle() -> None:
    a = draw().requires_grad_()
    mixed = geodesic_mix(a, -a.detach(), 0.5)
    torch.testing.assert_close((mixed * a).sum(1), torch.zeros(7, dtype=torch.float64), atol=1e-15, rtol=0)
    assert torch.autograd.grad(mixed.sum(), a)[0].isfinite().all()
    with pytest.raises(ValueError, match="exactly opposite"):
        geodesic_mix(a, -a, 0.5, on_antipodal="raise")
    assert geodesic_mix(a, draw(seed=1), 0.5, on_antipodal="raise").shape == (7, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    a, b = (draw(seed=seed, dtype=torch.float32).to(dtype) for seed in (0, 1))
    mixed = geodesic_mix(a, b, 0.3)
    assert mixed.dtype == dtype
    assert torch.equal(mixed, geodesic_mix(a.float(), b.float(), 0.3).to(dtype))
    close = geodesic_mix(a, a, 0.3)
    torch.testing.assert_close(close.float(), a.float(), atol=2 * torch.finfo(dtype).eps, rtol=0)


def test_linear_mixing_leaves_the_sphere_unless_brought_back() -> None:
    a, b = at_angle(2.0)
    inside = linear_mix(a, b, 0.5)
    assert float(inside.norm()) == pytest.approx(math.cos(1.0))
    torch.testing.assert_close(linear_mix(a, b, 0.5, renormalize=True), geodesic_mix(a, b, 0.5))
    back = linear_mix(a, b, 0.8, renormalize=True)
    assert float(back.norm()) == pytest.approx(1.0)
    # Not at a share of the arc.
    assert abs(float(Sphere().dist(a, back)) - 0.2 * 2.0) > 0.05
    torch.testing.assert_close(linear_mix(a, b, torch.tensor([[0.25]])), 0.25 * a + 0.75 * b)


def test_bad_input_is_refused() -> None:
    a, b = draw(), draw(seed=1)
    for mix in (geodesic_mix, linear_mix):
        for lam in (-0.1, 1.1, math.nan, torch.tensor(2.0)):
            with pytest.raises(ValueError, match="'lam' must be from 0 to 1"):
                mix(a, b, lam)
        with pytest.raises(ValueError, match=r"'lam' must be a number or \(7, 1\)"):
            mix(a, b, torch.full((7,), 0.5))
        with pytest.raises(ValueError, match="two of one shape"):
            mix(a, b[:3], 0.5)
        with pytest.raises(TypeError, match="must be floating"):
            mix(a.long(), b.long(), 0.5)
    with pytest.raises(ValueError, match="'on_antipodal'"):
        geodesic_mix(a, b, 0.5, on_antipodal="fix")

"""The midpoint and the Fréchet mean: symmetries, independent formulas, gradients."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import ConvergenceError, PoincareBall
from holonomy.models.architectures.poincare_resnet import frechet_mean, poincare_midpoint
from holonomy.models.architectures.poincare_resnet.functions import logmap0
from holonomy.models.architectures.poincare_resnet.statistics import frechet_mean_unrolled

C = 0.7
DTYPE = torch.float64
ball = PoincareBall(c=C)


def points(*shape: int, seed: int = 0, radius: float = 0.9) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=DTYPE, generator=g)
    return radius * torch.rand(*shape[:-1], 1, dtype=DTYPE, generator=g) * x / x.norm(dim=-1, keepdim=True) / C**0.5


MEANS = {"midpoint": lambda x: poincare_midpoint(x, C, 0), "Fréchet": lambda x: frechet_mean(x, C)}


@pytest.mark.parametrize("name", MEANS)
def test_mean_commutes_with_isometries(name: str) -> None:
    mean, x = MEANS[name], points(9, 3, radius=0.8)
    middle = mean(x)
    torch.testing.assert_close(mean(x[torch.randperm(9)]), middle, rtol=1e-12, atol=1e-12)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=DTYPE))[0]
    torch.testing.assert_close(mean(x @ rotation), middle @ rotation, rtol=1e-10, atol=1e-10)
    p = points(1, 3, seed=1, radius=0.6)[0]
    # 1e-8: what is asked; left translation brings points to 0.95 of the radius
    torch.testing.assert_close(mean(ball.mobius_add(p, x)), ball.mobius_add(p, middle), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("name", MEANS)
def test_mean_of_one_and_of_two_points(name: str) -> None:
    x = points(2, 3)
    torch.testing.assert_close(MEANS[name](x[:1]), x[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(MEANS[name](x), ball.geodesic(0.5, x[0], x[1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_midpoint_is_the_lorentz_centroid(weighted: bool) -> None:
    x = points(7, 3)
    w = torch.rand(7, 1, dtype=DTYPE) if weighted else torch.ones(7, 1, dtype=DTYPE)
    # the hyperboloid by its textbook map, in units of 1/sqrt(c)
    n2 = C * x.square().sum(-1, keepdim=True)
    h = torch.cat([1.0 + n2, 2.0 * C**0.5 * x], dim=-1) / (1.0 - n2)
    total = (w * h).sum(0)
    centroid = total / (total[0] ** 2 - total[1:].square().sum()).sqrt()
    expected = centroid[1:] / (1.0 + centroid[0]) / C**0.5
    torch.testing.assert_close(poincare_midpoint(x, C, 0, w if weighted else None), expected, rtol=1e-11, atol=1e-11)


def test_midpoint_is_the_balls_and_takes_tangents() -> None:
    x = points(2, 5, 4, 3)
    middle = poincare_midpoint(x, C, (0, 2))
    torch.testing.assert_close(middle, ball.midpoint(x, reducedim=[0, 2]), rtol=1e-11, atol=1e-11)
    kept = poincare_midpoint(logmap0(x, C).movedim(-1, 1), C, (0, 3), ball_dim=1, keepdim=True, space="tangent")
    assert kept.shape == (1, 3, 5, 1)
    torch.testing.assert_close(kept[0, :, :, 0].T, middle, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("space", ["ball", "tangent"])
def test_midpoint_gradients(space: str) -> None:
    x, w = points(2, 6, 3).requires_grad_(), torch.rand(2, 6, 1, dtype=DTYPE, requires_grad=True)
    c = torch.tensor(C, dtype=DTYPE, requires_grad=True)

    def mean(x: Tensor, c: Tensor, *w: Tensor) -> Tensor:
        return poincare_midpoint(x, c, (0, 1), *w, space=space)

    for arguments in ((x, c), (x, c, w)):
        assert gradcheck(mean, arguments)
        assert gradgradcheck(mean, arguments)


def test_frechet_mean_minimises_the_sum_of_squared_distances() -> None:
    x = points(3, 20, 4)
    y = frechet_mean(x, C)
    assert y.shape == (3, 4)
    gradient = ball.logmap(y[:, None], x).sum(1)
    # 20 logarithms of order 1 cancel to the iteration's tolerance of 1e-12
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-10)


def test_frechet_gradient_is_that_of_unrolled_iteration() -> None:
    x, c = points(2, 6, 3).requires_grad_(), torch.tensor(C, dtype=DTYPE, requires_grad=True)
    y, unrolled = frechet_mean(x, c, tolerance=1e-14), frechet_mean_unrolled(x, c, iterations=200)
    torch.testing.assert_close(y, unrolled, rtol=1e-12, atol=1e-12)
    u = torch.linspace(-1.0, 1.0, y.numel(), dtype=DTYPE).view(y.shape)
    expected = torch.autograd.grad(unrolled, (x, c), u)
    torch.testing.assert_close(torch.autograd.grad(y, (x, c), u), expected, rtol=1e-10, atol=1e-11)
    assert gradcheck(lambda x, c: frechet_mean(x, c, tolerance=1e-14), (x, c))


def test_frechet_gradient_saves_the_points_and_the_mean_alone() -> None:
    x = points(50, 3).requires_grad_()
    stored: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        y = frechet_mean(x, C)
    assert sum(t.numel() for t in stored) <= x.numel() + y.numel() + 1


def test_frechet_mean_converges_in_float32() -> None:
    for seed in range(20):
        x = points(300, 8, seed=seed).float()
        y = frechet_mean(x, C, max_iterations=30)
        torch.testing.assert_close(y, frechet_mean(x.double(), C).float(), rtol=0.0, atol=1e-5)


def test_bad_input_is_refused() -> None:
    x = points(4, 3)
    with pytest.raises(ValueError, match="contains the ball axis"):
        poincare_midpoint(x, C, 1)
    with pytest.raises(ValueError, match=r"wanted \(\.\.\., points, coordinates\)"):
        frechet_mean(x[0], C)
    with pytest.raises(ValueError, match="wanted one curvature"):
        frechet_mean(x, torch.ones(2, dtype=DTYPE))
    with pytest.raises(ConvergenceError, match="after 1 iterations"):
        frechet_mean(x, C, max_iterations=1)

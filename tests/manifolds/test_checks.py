"""The slope checks accept what is right and reject what is almost right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import Euclidean, Simplex, Sphere
from holonomy.manifolds.checks import check_gradient, check_hessian, check_logmap, check_retraction, check_transport


@pytest.fixture
def x() -> Tensor:
    return Sphere().random(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def energy(x: Tensor) -> Tensor:
    return (torch.arange(6.0, dtype=x.dtype) * x.square()).sum() + x[..., 0].sum()


class Projective(Sphere):
    """(x + u) normalised: of second order, as x + u is in the plane of the great circle and tan t - t is O(t^3)."""

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._projx(x + u)


class Bent(Sphere):
    """A retraction with an error of second order."""

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._expmap(x, u + 0.1 * self._proju(x, u.square()))


class Overshooting(Sphere):
    """Wrong in the first order by one part in ten thousand."""

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._expmap(x, 1.0001 * u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return 1.0001 * super()._logmap(x, y)


class Projected(Sphere):
    """Vector transport by projection: agrees with the parallel one to first order."""

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._proju(y, v)


class Frozen(Sphere):
    """Transport that leaves the vector as it is: not tangent at the new point, and wrong in first order."""

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v


def test_slopes_of_retractions_are_their_orders(x: Tensor, generator: torch.Generator) -> None:
    assert check_retraction(Projective(), x, generator=generator).slope == pytest.approx(3.0, abs=0.05)
    assert check_retraction(Bent(), x, generator=generator).slope == pytest.approx(2.0, abs=0.05)
    assert check_retraction(Overshooting(), x, generator=generator).slope == pytest.approx(1.0, abs=0.05)


def test_retractions_are_judged_by_the_order_asked_for(x: Tensor, generator: torch.Generator) -> None:
    assert check_retraction(Projective(), x, order=2, generator=generator).holds
    assert check_retraction(Bent(), x, generator=generator).holds
    assert not check_retraction(Bent(), x, order=2, generator=generator).holds
    assert not check_retraction(Overshooting(), x, generator=generator).holds


def test_what_is_exact_is_called_exact(x: Tensor, generator: torch.Generator) -> None:
    result = check_retraction(Sphere(), x, generator=generator)
    assert result.exact
    assert result.holds
    assert "exact to rounding" in str(result)


def test_one_wrong_point_in_a_batch_is_enough(generator: torch.Generator) -> None:
    class WrongInOne(Sphere):
        def _retr(self, x: Tensor, u: Tensor) -> Tensor:
            factor = torch.ones(4, 1, dtype=x.dtype)
            factor[2] = 1.01
            return self._expmap(x, factor * u)

    x = Sphere().random(4, 3, dtype=torch.float64, generator=generator)
    assert check_retraction(Sphere(), x, generator=generator).holds
    assert not check_retraction(WrongInOne(), x, generator=generator).holds


def test_errors_that_are_not_finite_do_not_hold(x: Tensor) -> None:
    class Broken(Sphere):
        def _retr(self, x: Tensor, u: Tensor) -> Tensor:
            return self._expmap(x, u) / (u.square().sum(-1, keepdim=True) < 0.5)

    result = check_retraction(Broken(), x, Sphere().proju(x, torch.ones_like(x)))
    assert not result.holds
    assert not result.exact


def test_logarithms(x: Tensor, generator: torch.Generator) -> None:
    assert check_logmap(Sphere(), x, generator=generator).exact
    assert not check_logmap(Overshooting(), x, generator=generator).holds


def test_transports(x: Tensor, generator: torch.Generator) -> None:
    assert check_transport(Sphere(), x, generator=generator).exact
    projected = check_transport(Projected(), x, generator=generator)
    assert projected.slope == pytest.approx(2.0, abs=0.05)
    assert projected.holds
    assert not check_transport(Projected(), x, order=2, generator=generator).holds
    assert not check_transport(Frozen(), x, generator=generator).holds


@pytest.mark.parametrize("manifold", [Euclidean(1), Sphere(), Simplex()], ids=lambda m: m.name)
def test_gradients_and_hessians(manifold: Sphere, generator: torch.Generator) -> None:
    x = manifold.random(6, dtype=torch.float64, generator=generator)
    # A small step for the simplex, whose faces are near.
    u = 0.1 * manifold.random_tangent(x, generator=generator)
    first = check_gradient(energy, manifold, x, u=u)
    assert first.slope == pytest.approx(2.0, abs=0.1)
    second = check_hessian(energy, manifold, x, u=u)
    assert second.holds

    def wrong(x: Tensor) -> Tensor:
        free = x.clone().requires_grad_()
        (egrad,) = torch.autograd.grad(energy(free), free)
        return 1.001 * manifold.egrad2rgrad(x, egrad)

    assert not check_gradient(energy, manifold, x, wrong, u=u).holds
    assert not check_hessian(energy, manifold, x, gradient=wrong, u=u).holds


def test_the_euclidean_hessian_is_no_riemannian_one(x: Tensor, generator: torch.Generator) -> None:
    """Leaving out the curvature of the sphere is the classical mistake."""

    def projected(x: Tensor, u: Tensor) -> Tensor:
        return Sphere().proju(x, 2.0 * torch.arange(6.0, dtype=x.dtype) * u)

    assert check_hessian(energy, Sphere(), x, generator=generator).holds
    result = check_hessian(energy, Sphere(), x, projected, generator=generator)
    assert result.slope == pytest.approx(2.0, abs=0.05)
    assert not result.holds


def test_the_same_generator_gives_the_same_result(x: Tensor) -> None:
    results = [check_retraction(Bent(), x, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert results[0] == results[1]


def test_other_dtypes_are_refused(x: Tensor) -> None:
    with pytest.raises(TypeError, match=re.escape("check_retraction: 'x' must be a tensor of dtype torch.float64")):
        check_retraction(Sphere(), x.float())


def test_plot_draws_the_points_and_saves(x: Tensor, generator: torch.Generator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "slope.png"
    result = check_retraction(Bent(), x, generator=generator)
    figure = result.plot(path)
    assert path.stat().st_size > 1000
    assert len(figure.axes[0].lines) == 3  # type: ignore[attr-defined]
    assert len(check_retraction(Sphere(), x, generator=generator).plot().axes) == 1  # type: ignore[attr-defined]


def test_matplotlib_is_loaded_by_plot_only() -> None:
    code = "import sys, holonomy.manifolds.checks; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Numerical checks by the slope of an error: is this a retraction, a gradient, a Hessian, a transport?

Each check takes a step t over eight decades and measures an error that theory says is O(t^k). In log-log that is a
line of slope k, until rounding ends it. A formula with a wrong factor or sign has a smaller slope, whatever its
constants, so that there is no tolerance to choose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor

from holonomy.manifolds.base import Manifold

__all__ = ["SlopeCheck", "check_gradient", "check_hessian", "check_logmap", "check_retraction", "check_transport"]

Function = Callable[[Tensor], Tensor]

#: Errors below this many float64 eps, relative to the quantities compared, are rounding.
_ROUNDING = 1e3
#: The slope is fitted where the error first rises above rounding, over this many decades of steps.
_DECADES = 2.0


@dataclass(frozen=True)
class SlopeCheck:
    """Outcome of a check: errors against steps, and the slope of their logarithms.

    Attributes
    ----------
    name : str
        What was checked.
    steps, errors : tuple of float
        Step sizes, increasing, and the error at each.
    floor : float
        Errors below this are rounding.
    slope : float
        Fitted slope, over the two decades of steps above rounding; ``inf`` where every error is rounding, NaN (which
        does not hold) where an error is not finite.
    wanted : float
        Slope that theory asks for at least.
    exact : bool
        Whether every error is rounding.
    """

    name: str
    steps: tuple[float, ...]
    errors: tuple[float, ...]
    floor: float
    slope: float
    wanted: float

    @property
    def exact(self) -> bool:
        """Whether every error is rounding."""
        return self.slope == float("inf")

    @property
    def holds(self) -> bool:
        """Whether the slope is the one wanted, or steeper. The margin 0.1 is what higher-order terms bend a fit by."""
        return self.slope >= self.wanted - 0.1

    def __str__(self) -> str:
        found = "exact to rounding" if self.exact else f"slope {self.slope:.3f}"
        return f"{self.name}: {found}, wanted {self.wanted:g}: {'holds' if self.holds else 'FAILS'}"

    def plot(self, path: str | PathLike[str] | None = None) -> object:
        """Draw errors against steps in log-log, the wanted slope beside them; with `path`, save as an image.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Where matplotlib is not installed (``pip install holonomy[examples]``).
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.0, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.loglog(self.steps, [max(e, 1e-18) for e in self.errors], ".", label="measured")
        line = [self.errors[-1] * (t / self.steps[-1]) ** self.wanted for t in self.steps]
        if self.errors[-1] > 0.0:
            axes.loglog(self.steps, line, "--", label=f"slope {self.wanted:g}")
        axes.axhline(self.floor, color="0.7", label="rounding")
        axes.set(xlabel="step t", ylabel="error", title=str(self), ylim=(1e-18, None))
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure


def check_retraction(
    manifold: Manifold,
    x: Tensor,
    u: Tensor | None = None,
    *,
    order: int = 1,
    generator: torch.Generator | None = None,
) -> SlopeCheck:
    """Check that ``manifold.retr(x, t u)`` agrees with ``expmap`` to the given order.

    Parameters
    ----------
    manifold : Manifold
        Has `retr`, `expmap`, and `dist` where points have several representatives.
    x : Tensor
        Points, float64; the worst of a batch counts.
    u : Tensor, optional
        Tangent vectors; random of length 1 by default.
    order : int
        1: the error is O(t^2), which makes it a retraction; 2: O(t^3).
    generator : torch.Generator, optional
        Draws `u`.

    Returns
    -------
    SlopeCheck

    Raises
    ------
    TypeError
        Where `x` is not of dtype float64.

    References
    ----------
    P.-A. Absil, R. Mahony, R. Sepulchre, *Optimization Algorithms on Matrix Manifolds*, Princeton 2008, section 4.1.
    """
    x, u = _start("check_retraction", manifold, x, u, generator)
    steps = _steps(x)
    points, steps_u = x.expand(len(steps), *x.shape), _times(steps, u)
    errors = _separation(manifold, manifold.retr(points, steps_u), manifold.expmap(points, steps_u))
    return _judge(f"retraction of {manifold}", steps, errors, _size(x), order + 1)


def check_logmap(
    manifold: Manifold,
    x: Tensor,
    u: Tensor | None = None,
    *,
    order: int = 1,
    generator: torch.Generator | None = None,
) -> SlopeCheck:
    """Check that ``manifold.logmap`` inverts ``expmap``: |log(x, exp(x, t u)) - t u| is rounding, or O(t^(order+1)).

    Parameters, returns and errors are those of `check_retraction`.
    """
    x, u = _start("check_logmap", manifold, x, u, generator)
    steps = _steps(x)
    points, steps_u = x.expand(len(steps), *x.shape), _times(steps, u)
    gap = manifold.logmap(points, manifold.expmap(points, steps_u)) - steps_u
    return _judge(f"logarithm of {manifold}", steps, _worst(manifold.norm(points, gap)), _size(x), order + 1)


def check_transport(
    manifold: Manifold,
    x: Tensor,
    u: Tensor | None = None,
    v: Tensor | None = None,
    *,
    order: int = 1,
    generator: torch.Generator | None = None,
) -> SlopeCheck:
    """Check that ``manifold.transp`` agrees with parallel transport along geodesics to the given order.

    Parallel transport is computed from `expmap` and `logmap` alone, by one rung of the pole ladder: exact on symmetric
    spaces, of third order elsewhere.

    Parameters
    ----------
    manifold : Manifold
        Has `transp`, `expmap` and `logmap`.
    x : Tensor
        Points, float64; the worst of a batch counts.
    u, v : Tensor, optional
        Direction of the geodesic and vector to transport; random of length 1 and 1/2 by default.
    order : int
        1: the error is O(t^2), as a vector transport has it.
    generator : torch.Generator, optional
        Draws `u` and `v`.

    Returns
    -------
    SlopeCheck

    Raises
    ------
    TypeError
        Where `x` is not of dtype float64.

    References
    ----------
    X. Pennec, *Parallel Transport with Pole Ladder*, 2018, arXiv:1805.11436.
    """
    x, u = _start("check_transport", manifold, x, u, generator)
    if v is None:
        v = 0.5 * _start("check_transport", manifold, x, None, generator)[1]
    steps = _steps(x)
    points, steps_u, along = x.expand(len(steps), *x.shape), _times(steps, u), v.expand(len(steps), *v.shape)
    y, middle = manifold.expmap(points, steps_u), manifold.expmap(points, 0.5 * steps_u)
    mirrored = manifold.expmap(middle, -manifold.logmap(middle, manifold.expmap(points, along)))
    gap = manifold.transp(points, y, along) + manifold.logmap(y, mirrored)
    return _judge(f"transport of {manifold}", steps, _worst(manifold.norm(y, gap)), _size(x), order + 1)


def check_gradient(
    fun: Function,
    manifold: Manifold,
    x: Tensor,
    gradient: Function | None = None,
    *,
    u: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> SlopeCheck:
    """Check a Riemannian gradient: fun(exp(x, t u)) - fun(x) - t <gradient, u> is O(t^2).

    Parameters
    ----------
    fun : callable
        Scalar function of a tensor like `x`.
    manifold : Manifold
        Has `expmap`, or else a retraction.
    x : Tensor
        Point, or several that `fun` takes together, float64.
    gradient : callable, optional
        Riemannian gradient of `fun`; by default autograd's through ``egrad2rgrad``.
    u : Tensor, optional
        Direction; random of length 1 by default.
    generator : torch.Generator, optional
        Draws `u`.

    Returns
    -------
    SlopeCheck

    Raises
    ------
    TypeError
        Where `x` is not of dtype float64.
    """
    x, u = _start("check_gradient", manifold, x, u, generator)
    gradient = _gradient(fun, manifold) if gradient is None else gradient
    slope = manifold.inner(x, gradient(x), u).sum()
    steps = _steps(x)
    values = _values(fun, manifold, x, u, steps)
    errors = (values - fun(x).detach() - steps * slope).abs()
    return _judge(f"gradient on {manifold}", steps, errors, float(values.abs().amax()), 2)


def check_hessian(
    fun: Function,
    manifold: Manifold,
    x: Tensor,
    hessian: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    gradient: Function | None = None,
    u: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> SlopeCheck:
    """Check a Riemannian Hessian: fun(exp(x, t u)) - fun(x) - t <gradient, u> - t^2/2 <hessian, u> is O(t^3).

    Parameters
    ----------
    fun : callable
        Scalar function of a tensor like `x`, twice differentiable.
    manifold : Manifold
        Has `expmap`.
    x : Tensor
        Point, or several that `fun` takes together, float64.
    hessian : callable, optional
        ``hessian(x, u)``, the Hessian along a tangent vector; by default autograd's through ``ehess2rhess``.
    gradient : callable, optional
        As in `check_gradient`.
    u : Tensor, optional
        Direction; random of length 1 by default.
    generator : torch.Generator, optional
        Draws `u`.

    Returns
    -------
    SlopeCheck

    Raises
    ------
    TypeError
        Where `x` is not of dtype float64.
    """
    x, u = _start("check_hessian", manifold, x, u, generator)
    gradient = _gradient(fun, manifold) if gradient is None else gradient
    hessian = _hessian(fun, manifold) if hessian is None else hessian
    slope, bend = manifold.inner(x, gradient(x), u).sum(), manifold.inner(x, hessian(x, u), u).sum()
    steps = _steps(x)
    values = _values(fun, manifold, x, u, steps)
    errors = (values - fun(x).detach() - steps * slope - 0.5 * steps.square() * bend).abs()
    return _judge(f"Hessian on {manifold}", steps, errors, float(values.abs().amax()), 3)


def _start(
    check: str, manifold: Manifold, x: Tensor, u: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if not isinstance(x, Tensor) or x.dtype != torch.float64:
        raise TypeError(f"{check}: 'x' must be a tensor of dtype torch.float64, got {getattr(x, 'dtype', type(x))}")
    x = x.detach()
    if u is None:
        u = manifold.random_tangent(x, generator=generator)
        u = u / manifold.norm(x, u, keepdim=True)
    return x, u.detach()


def _steps(x: Tensor) -> Tensor:
    return torch.logspace(-8.0, 0.0, 65, dtype=x.dtype, device=x.device)


def _times(steps: Tensor, u: Tensor) -> Tensor:
    return steps.reshape(-1, *(1,) * u.ndim) * u


def _size(x: Tensor) -> float:
    return max(1.0, float(x.abs().amax()))


def _worst(errors: Tensor) -> Tensor:
    return errors.abs().reshape(len(errors), -1).amax(-1)


def _separation(manifold: Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Distance of points, by coordinates where the manifold has no distance."""
    try:
        return _worst(manifold.dist(x, y))
    except NotImplementedError:
        return _worst(x - y)


def _gradient(fun: Function, manifold: Manifold) -> Function:
    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return manifold.egrad2rgrad(x.detach(), torch.autograd.grad(fun(x), x)[0])

    return gradient


def _hessian(fun: Function, manifold: Manifold) -> Callable[[Tensor, Tensor], Tensor]:
    def hessian(x: Tensor, u: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (egrad,) = torch.autograd.grad(fun(x), x, create_graph=True)
        (ehess,) = torch.autograd.grad(egrad, x, u, materialize_grads=True)
        return manifold.ehess2rhess(x.detach(), egrad.detach(), ehess, u)

    return hessian


def _values(fun: Function, manifold: Manifold, x: Tensor, u: Tensor, steps: Tensor) -> Tensor:
    """Value of `fun` at each step: the function is called for one step at a time, and may be any."""
    move = manifold.retr if type(manifold)._expmap is Manifold._expmap else manifold.expmap
    with torch.no_grad():
        return torch.stack([fun(move(x, t * u)) for t in steps])


def _judge(name: str, steps: Tensor, errors: Tensor, size: float, wanted: float) -> SlopeCheck:
    """Fit the slope over the steps where the error first rises above rounding."""
    floor = _ROUNDING * torch.finfo(steps.dtype).eps * size
    above = errors > floor
    if not bool(torch.isfinite(errors).all()):
        slope = float("nan")
    elif bool(above.any()):
        # The lowest step from which on no error is rounding: below it, line and noise mix.
        quiet = torch.nonzero(~above).flatten()
        start = min(int(quiet[-1]) + 1 if len(quiet) else 0, len(steps) - 3)
        chosen = steps[start:] <= steps[start] * 10.0**_DECADES
        x, y = steps[start:][chosen].log(), errors[start:][chosen].clamp_min(floor * 1e-6).log()
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    else:
        slope = float("inf")
    return SlopeCheck(name, tuple(steps.tolist()), tuple(errors.tolist()), floor, slope, float(wanted))

"""Deterministic sampling with a denoiser: steps of DDIM in a schedule's time, and Heun's method of EDM in its noise.

Both follow dx/dsigma = (x - x_theta)/sigma in the coordinate x = x_t / s, sigma = g / s: the probability-flow equation.
"""

from itertools import pairwise

import torch
from torch import Tensor

from holonomy.models.clustering.molrg_diffusion.denoiser import EARLIEST, Denoiser
from holonomy.models.clustering.molrg_diffusion.mixture import check_points
from holonomy.models.clustering.molrg_diffusion.schedules import Schedule

__all__ = ["ddim", "edm_sigmas", "heun"]


@torch.no_grad()
def ddim(denoiser: Denoiser, x_t: Tensor, schedule: Schedule, t: float = 1.0, steps: int = 20) -> Tensor:
    """From x_t at a time to time 0, by steps x' = s' x_theta + g' (x_t - s x_theta)/g (Song et al., ICLR 2021).

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, s, g)``.
    x_t : Tensor
        Points (n, D) or (D,).
    schedule : Schedule
        Gives s and g of times.
    t : float, default 1
        Time of the points, in (0, 1].
    steps : int, default 20
        Steps, evenly spaced in time; the last gives the estimate itself.

    Returns
    -------
    Tensor
        Shaped as `x_t`.

    Raises
    ------
    TypeError, ValueError
        Where points, the time or the number of steps are out of their range.
    """
    if steps < 1 or not EARLIEST < t <= 1.0:
        raise ValueError(f"ddim: wanted steps >= 1 and {EARLIEST} < t <= 1, got {steps} and {t}")
    x = check_points("ddim", x_t, x_t.shape[-1])
    times = torch.linspace(t, 0.0, steps + 1, dtype=torch.float64)[:-1]
    pairs = [tuple(c.to(x) for c in schedule.coefficients(time)) for time in times]
    found = x
    for (s, g), (s_next, g_next) in pairwise(pairs):
        found = denoiser(x, s, g)
        x = s_next * found + g_next * (x - s * found) / g
    return denoiser(x, *pairs[-1])


def edm_sigmas(steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Noise levels (steps + 1,), falling, the last 0: evenly spaced in sigma^(1/rho) (Karras et al., NeurIPS 2022).

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    if steps < 2 or not 0.0 < sigma_min < sigma_max or not rho > 0.0:
        raise ValueError(
            f"edm_sigmas: wanted steps >= 2, 0 < sigma_min < sigma_max and rho > 0, got {steps}, {sigma_min}, "
            f"{sigma_max} and {rho}"
        )
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64) ** (1.0 / rho)
    levels = torch.lerp(ends[0], ends[1], torch.linspace(0.0, 1.0, steps, dtype=torch.float64)) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


@torch.no_grad()
def heun(denoiser: Denoiser, x: Tensor, sigmas: Tensor, preserving: bool = False) -> Tensor:
    """From x at the first noise level to the last, by Heun's second-order method without added noise.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, s, g)``.
    x : Tensor
        Points (n, D) or (D,), x_0 and noise of deviation ``sigmas[0]``.
    sigmas : Tensor
        Falling levels, as of `edm_sigmas`.
    preserving : bool, default False
        Whether the denoiser was trained where s^2 + g^2 = 1; it is then asked at s = 1/sqrt(1 + sigma^2), g = s sigma.

    Returns
    -------
    Tensor
        Shaped as `x`.

    Raises
    ------
    TypeError, ValueError
        Where points are out of their range, or levels do not fall to 0 or above.
    """
    x = check_points("heun", x, x.shape[-1])
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas.diff() < 0).all()) or float(sigmas[-1]) < 0.0:
        raise ValueError(f"heun: 'sigmas' must be two levels at least, falling, not below 0, got {sigmas}")

    def slope(y: Tensor, sigma: Tensor) -> Tensor:
        s = (1.0 + sigma**2).rsqrt() if preserving else torch.ones_like(sigma)
        return (y - denoiser(s * y, s, s * sigma)) / sigma

    levels = sigmas.to(x)
    for now, then in pairwise(levels):
        first = slope(x, now)
        moved = x + (then - now) * first
        if float(then) > 0.0:
            moved = x + 0.5 * (then - now) * (first + slope(moved, then))
        x = moved
    return x

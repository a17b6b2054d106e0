"""Forward processes x_t = s_t x_0 + g_t eps for t from 0 to 1: variance preserving and variance exploding."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Schedule", "VESchedule", "VPSchedule"]


class Schedule(Protocol):
    """Anything that gives the two coefficients of times."""

    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """s and g at times t."""


@dataclass(frozen=True)
class VPSchedule:
    r"""Variance preserving: s = exp(-1/2 int_0^t beta), g^2 = 1 - s^2, beta linear in t (Song et al., ICLR 2021).

    Parameters
    ----------
    beta_min, beta_max : float
        beta at t = 0 and at t = 1, 0 < beta_min <= beta_max.

    Raises
    ------
    ValueError
        If they are not.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"VPSchedule: wanted 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """s and g at times t in (0, 1], shaped as `t`.

        Raises
        ------
        ValueError
            Where a time is outside: at 0 there is no noise, and no posterior.
        """
        t = _check_times("VPSchedule", t)
        integral = t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))
        # 1 - s^2 by expm1: near t = 0 the difference would lose its digits.
        return torch.exp(-0.5 * integral), torch.sqrt(-torch.expm1(-integral))


@dataclass(frozen=True)
class VESchedule:
    """Variance exploding: s = 1, g geometric from sigma_min at t = 0 to sigma_max at t = 1.

    Parameters
    ----------
    sigma_min, sigma_max : float
        The ends, 0 < sigma_min < sigma_max.

    Raises
    ------
    ValueError
        If they are not.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"VESchedule: wanted 0 < sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}")

    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """s and g at times t in (0, 1], shaped as `t`. Errors as `VPSchedule.coefficients`."""
        t = _check_times("VESchedule", t)
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.ones_like(t), torch.exp(low + t * (high - low))


def _check_times(where: str, t: Tensor | float) -> Tensor:
    times = t if isinstance(t, Tensor) else torch.tensor(float(t), dtype=torch.float64)
    if not bool(((times > 0) & (times <= 1)).all()):
        raise ValueError(f"{where}: times must be in (0, 1], got {t}")
    return times

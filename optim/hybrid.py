"""Two optimizers under one interface: one for Euclidean parameters, one for those on manifolds."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["HybridOptimizer"]


class HybridOptimizer(torch.optim.Optimizer):
    """Steps a Euclidean and a Riemannian optimizer as one, under one learning-rate schedule.

    Its parameter groups are those of the two, Euclidean ones first, and shared with them: a scheduler that is given
    this optimizer sets the rates of both.

    Parameters
    ----------
    euclidean : torch.optim.Optimizer
        Steps the plain parameters (AdamW, LAMB, ...).
    riemannian : torch.optim.Optimizer
        Steps those on manifolds.
    lr_factor : float, optional
        Before every step, set the rates of all Riemannian groups to this times the rate of the first Euclidean one,
        whatever the scheduler made of them. Without it, each group has the rate that the scheduler gives it.

    Raises
    ------
    TypeError
        Where one of the two is no optimizer.
    ValueError
        Where the two share a parameter, or `lr_factor` is not positive.
    """

    def __init__(
        self,
        euclidean: torch.optim.Optimizer,
        riemannian: torch.optim.Optimizer,
        *,
        lr_factor: float | None = None,
    ) -> None:
        for name, optimizer in (("euclidean", euclidean), ("riemannian", riemannian)):
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(f"HybridOptimizer: {name!r} must be an optimizer, got {type(optimizer).__name__}")
        if lr_factor is not None and not lr_factor > 0:
            raise ValueError(f"HybridOptimizer: 'lr_factor' must be positive or None, got {lr_factor}")
        self.euclidean, self.riemannian, self.lr_factor = euclidean, riemannian, lr_factor
        super().__init__([*euclidean.param_groups, *riemannian.param_groups], {})
        self._tie()

    def _tie(self) -> None:
        if self.lr_factor is not None:
            for group in self.riemannian.param_groups:
                group["lr"] = self.lr_factor * self.euclidean.param_groups[0]["lr"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not for use after construction: add the group to one of the two optimizers before.

        Raises
        ------
        RuntimeError
            Where the group is of neither optimizer.
        """
        known = (*self.euclidean.param_groups, *self.riemannian.param_groups)
        if not any(param_group is group for group in known):
            raise RuntimeError("HybridOptimizer: add the group to one of the two optimizers, and make this one of them")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step both optimizers; a closure is evaluated once, before, and its value returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._tie()
        self.euclidean.step()
        self.riemannian.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the two optimizers."""
        return {"euclidean": self.euclidean.state_dict(), "riemannian": self.riemannian.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned."""
        self.euclidean.load_state_dict(state_dict["euclidean"])
        self.riemannian.load_state_dict(state_dict["riemannian"])
        # The two have made themselves new groups.
        self.param_groups = [*self.euclidean.param_groups, *self.riemannian.param_groups]

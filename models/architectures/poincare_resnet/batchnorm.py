"""Batch normalisation on the Poincaré ball, about the gyromidpoint (closed form) or the Fréchet mean."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet.functions import (
    Backward,
    dist0_squared,
    expmap,
    expmap0,
    logmap,
    projection_limit,
)
from holonomy.models.architectures.poincare_resnet.gyroplanes import Space
from holonomy.models.architectures.poincare_resnet.layers import PoincareLayer, require_ball
from holonomy.models.architectures.poincare_resnet.statistics import frechet_mean, poincare_midpoint
from holonomy.models.architectures.poincare_resnet.transforms import gyrotranslate, spread

__all__ = ["PoincareBatchNorm", "PoincareBatchNorm1d", "PoincareBatchNorm2d", "update_batchnorm"]


class PoincareBatchNorm(PoincareLayer):
    """Batch normalisation over all dimensions but 1, the ball axis.

    Points are moved to have mean exp0(b) and variance g: exp_beta( sqrt(g / (var + eps)) PT log_mean(x) ).

    The mean is a point, the variance one scalar: the mean squared distance to that point. The official code uses
    batch statistics in evaluation too (``track_running_stats=False``); by default running statistics are kept, the
    mean moving along geodesics.

    Parameters
    ----------
    features : int
        Dimension of the ball.
    ball : PoincareBall
        Geometry of input and output.
    use_midpoint : bool
        Centre by the gyromidpoint; else by the Fréchet mean (`frechet_mean`: iterative).
    track_running_stats : bool
        Keep running statistics and use them in evaluation.
    momentum : float or None
        Weight of the new batch in the running statistics; None averages over all batches.
    eps : float
        Added to the variance.
    space, backward
        As in `PoincareLinear`.

    Attributes
    ----------
    weight, bias : Parameter
        Variance g (a scalar, 1 at first) and tangent vector b at the origin (0 at first).
    running_mean, running_var : Tensor
        A point and a scalar; None without running statistics.
    """

    def __init__(
        self,
        features: int,
        *,
        ball: PoincareBall,
        use_midpoint: bool = True,
        track_running_stats: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-6,
        space: Space = "tangent",
        backward: Backward = "manual",
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(require_ball(ball), space, backward)
        if not isinstance(features, int) or features < 1:
            raise ValueError(f"'features' must be an integer of at least 1, got {features!r}")
        if momentum is not None and not 0.0 <= momentum <= 1.0:
            raise ValueError(f"'momentum' must be in [0, 1] or None, got {momentum!r}")
        if not eps > 0.0:
            raise ValueError(f"'eps' must be positive, got {eps!r}")
        self.features, self.use_midpoint, self.momentum, self.eps = features, use_midpoint, momentum, eps
        self.track_running_stats = track_running_stats
        self.weight = nn.Parameter(torch.ones((), dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(features, dtype=dtype, device=device))
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(features, dtype=dtype, device=device) if tracked else None)
        self.register_buffer("running_var", torch.ones((), dtype=dtype, device=device) if tracked else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device) if tracked else None)

    def reset_running_stats(self) -> None:
        """Start the running statistics anew: mean at the origin, variance 1."""
        if self.track_running_stats:
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
            self.num_batches_tracked.zero_()

    def extra_repr(self) -> str:
        """Return the arguments shown in ``repr``."""
        return (
            f"{self.features}, use_midpoint={self.use_midpoint}, track_running_stats={self.track_running_stats}, "
            f"momentum={self.momentum}, eps={self.eps}"
        )

    def _check(self, x: Tensor, name: str) -> None:
        super()._check(x, name)
        self._check_features(x, self.features, name)
        points = x.numel() // self.features
        if self._batch_statistics and points < 2:
            raise ValueError(
                f"{type(self).__name__}: {name!r} has shape {tuple(x.shape)}, {points} point(s); batch statistics need "
                "at least 2"
            )

    @property
    def _batch_statistics(self) -> bool:
        return self.training or not self.track_running_stats

    def _apply_layer(self, x: Tensor) -> Tensor:
        c, dim = self._c(x), 1 - x.dim()
        column = (-1, *(1,) * (-dim - 1))
        if self._batch_statistics:
            mean = self._mean(x, c, dim, column)
        else:
            assert self.running_mean is not None
            mean = self.running_mean.to(x.dtype).view(column)
        z = gyrotranslate(x, mean, c, dim, space=self.space, backward=self.backward)
        if self._batch_statistics:
            var = dist0_squared(z, c, dim, backward=self.backward).mean()
            self._track(mean.detach().flatten(), var.detach(), c.detach())
        else:
            assert self.running_var is not None
            var = self.running_var.to(x.dtype)
        b = self.bias.to(x.dtype).view(column)
        centre = expmap0(b, c, dim, limit=projection_limit(x.dtype), backward=self.backward)
        # |g|, kept off zero: a step of the optimizer that takes g below zero must not end in NaN.
        g = self.weight.to(x.dtype).abs().clamp_min(torch.finfo(x.dtype).tiny)
        k = (g / (var + self.eps)).sqrt()
        return spread(z, mean, centre, k, c, dim, space=self.space, backward=self.backward)

    def _mean(self, x: Tensor, c: Tensor, dim: int, column: tuple[int, ...]) -> Tensor:
        if self.use_midpoint:
            over = tuple(d for d in range(x.dim()) if d != 1)
            return poincare_midpoint(x, c, over, ball_dim=1, space=self.space, backward=self.backward).view(column)
        limit = projection_limit(x.dtype)
        points = x if self.space == "ball" else expmap0(x, c, dim, limit=limit, backward=self.backward)
        return frechet_mean(points.movedim(1, -1).flatten(0, -2), c).view(column)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, c: Tensor) -> None:
        """Move the running mean along the geodesic to the batch's, and the running variance in a straight line."""
        if not (self.training and self.track_running_stats):
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        m = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        old = self.running_mean.to(mean.dtype)
        self.running_mean.copy_(expmap(old, m * logmap(old, mean, c), c))
        self.running_var.lerp_(var.to(self.running_var.dtype), m)


@torch.no_grad()
def update_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of batch norms, ours and torch's, by averages over `batches` at these weights.

    Running averages lag behind weights that still move fast; `torch.optim.swa_utils.update_bn` does the same for
    torch's layers alone. The mode of the model is kept.
    """
    norms = [m for m in model.modules() if isinstance(m, PoincareBatchNorm | nn.modules.batchnorm._BatchNorm)]
    momenta, mode = [m.momentum for m in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    try:
        for batch in batches:
            model(batch)
    finally:
        model.train(mode)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class PoincareBatchNorm1d(PoincareBatchNorm):
    """Batch normalisation of points (B, C), or of sequences of points (B, C, L); see `PoincareBatchNorm`."""

    dims = (2, 3)


class PoincareBatchNorm2d(PoincareBatchNorm):
    """Batch normalisation of feature maps (B, C, H, W), over all B * H * W points; see `PoincareBatchNorm`."""

    dims = (4,)

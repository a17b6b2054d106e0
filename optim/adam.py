"""Riemannian Adam, AdamW and AMSGrad."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.kernels.steps import adam_step
from holonomy.optim.base import (
    Bucket,
    RiemannianOptimizer,
    curvature_of,
    gather,
    gradients,
    kernel_of,
    numbers,
    scatter,
    towards_origin,
    working_dtype,
)

__all__ = ["RiemannianAdam"]


class RiemannianAdam(RiemannianOptimizer, torch.optim.Adam):
    r"""Adam on manifolds, with decoupled weight decay; on Euclidean parameters it is torch's AdamW, or Adam.

    With the Riemannian gradient g at x, its first moment m in the tangent space, one second moment v for each point,
    and the retraction R that the manifold has as default, one step is, in the order in which torch applies the options,

    ========================  ==============================================================================
    weight decay, coupled     g <- g - weight_decay * log_x(origin)
    moments                   m <- beta1 * m + (1 - beta1) * g,   v <- beta2 * v + (1 - beta2) * <g, g>_x
    AMSGrad                   v in the next line is the largest so far
    direction                 d = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    weight decay, decoupled   d <- d - weight_decay * log_x(origin)
    step                      x <- R_x(-lr * d), and m is transported to the new point
    ========================  ==============================================================================

    Coordinates on a manifold mean nothing by themselves: a second moment for each entry, as in Euclidean Adam, would
    depend on the chart and turn the direction out of the tangent space. ``exp_avg_sq`` therefore has one entry a
    point, in the shape of ``manifold.component_inner``.

    Weight decay pulls towards the manifold's origin along the geodesic; on Euclidean space that is torch's. Manifolds
    of infinite injectivity radius (PoincareBall, Lorentz) have it; on the others (Sphere, Stiefel, Grassmann, ...)
    it is refused. Left out, `weight_decay` is AdamW's default for Euclidean parameters, and 0 on manifolds.

    A sparse gradient (``torch.sparse_coo`` with one sparse dimension, as ``nn.Embedding(sparse=True)`` makes it; a row
    that it has twice counts with the sum) moves only the rows that it has. All other rows keep their points and
    moments, and do not decay; ``step`` counts the steps of the parameter, as in `torch.optim.SparseAdam`. On Euclidean
    parameters torch's rule stands: Adam refuses them.

    Points in float16 and bfloat16 are stepped in float32 and rounded once; their moments are kept in float32.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters or groups, as in torch. A parameter with a manifold (`ManifoldParameter`,
        geoopt's, or one whose module remembers its manifold) steps on it; every other is Euclidean.
    lr : float or Tensor
        Learning rate.
    betas, eps, amsgrad, maximize
        As in `torch.optim.Adam`.
    weight_decay : float, optional
        Default: as in the namesake, 1e-2 if decoupled (AdamW) and 0 if not (Adam), on Euclidean parameters only.
    foreach : bool, optional
        Parameters of one manifold, shape, dtype and device are stepped in one call, unless this is False. For
        Euclidean parameters as in torch.
    capturable : bool
        Keep ``step`` on the parameter's device, so that a CUDA graph can capture the step.
    differentiable : bool
        Whether autograd goes through the step, as in torch: parameters must then not be leaves.
    fused : bool, optional
        For Euclidean parameters as in torch. Those on `PoincareBall`, `Lorentz` and `Sphere` (one curvature, float32 or
        float64, contiguous, on the CPU or CUDA) are stepped by a kernel in one pass over memory; None (default): where
        one takes them and `foreach` is None, too. True: it must. False: never, and one parameter at a time.
        ``kernels.use("reference")`` switches kernels off in every case.
    decoupled_weight_decay : bool
        True (default): `torch.optim.AdamW`. False: `torch.optim.Adam`, where decay enters the moments.
    manifold_weight_decay : float, optional
        Weight decay of the parameters on manifolds, where it is to differ from `weight_decay`.

    Raises
    ------
    ValueError
        Where a number is out of its range, or weight decay is asked for on a manifold that has no origin.
    NotImplementedError
        Where ``fused=True`` meets a parameter on a manifold that no kernel takes.

    References
    ----------
    Becigneul and Ganea, "Riemannian adaptive optimization methods", ICLR 2019.
    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = True,
        manifold_weight_decay: float | None = None,
    ) -> None:
        unasked = weight_decay is None
        # torch checks the options that the two have in common.
        checked = torch.optim.Adam(
            [torch.empty(0)],
            lr,
            betas,
            eps,
            (1e-2 if decoupled_weight_decay else 0.0) if weight_decay is None else weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        defaults = checked.defaults | {"manifold_weight_decay": manifold_weight_decay}
        RiemannianOptimizer.__init__(self, params, defaults, unasked_decay=0.0 if unasked else None)

    def _step_flat(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = []
        grads: list[Tensor] = []
        moments: list[Tensor] = []
        squares: list[Tensor] = []
        largest: list[Tensor] = []
        steps: list[Tensor] = []
        has_complex = self._init_group(group, params, grads, moments, squares, largest, steps)
        beta1, beta2 = group["betas"]
        names = ("amsgrad", "lr", "weight_decay", "eps", "maximize", "foreach", "capturable", "differentiable", "fused")
        adam(
            params,
            grads,
            moments,
            squares,
            largest,
            steps,
            has_complex=has_complex,
            beta1=beta1,
            beta2=beta2,
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **{name: group[name] for name in names},
        )

    def _step_bucket(self, bucket: Bucket, group: dict[str, Any]) -> None:
        manifold, params, _, rows = bucket
        states = [self._state_of(p, manifold, group) for p in params]
        moments, squares, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, torch.ones((), device=steps[0].device), alpha=1.0)  # a number is wrapped each time
        dtype, copy = working_dtype(params[0].dtype), group["differentiable"]
        lr, decay = group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]

        x = gather(params, dtype, copy, rows)
        g = manifold.egrad2rgrad(x, gather(gradients(bucket, maximize=group["maximize"]), dtype))
        pull = towards_origin(manifold, x) if decay != 0 else None
        if pull is not None and not group["decoupled_weight_decay"]:
            g = g - decay * pull
        m = gather(moments, dtype, copy, rows).lerp_(g, 1 - beta1)
        v = gather(squares, dtype, copy, rows).mul_(beta2).add_(manifold.component_inner(x, g) * (1 - beta2))
        scatter(v, squares, rows)
        if group["amsgrad"]:
            largest = [s["max_exp_avg_sq"] for s in states]
            v = torch.maximum(gather(largest, dtype, copy, rows), v)
            scatter(v, largest, rows)
        step = gather(steps, dtype).to(v.device)
        if len(params) > 1:
            step = step.reshape(-1, *(1,) * (v.ndim - 1))
        # Every factor but m has one entry a point: only one tensor of the size of x is formed.
        denominator = (v / _bias_correction(beta2, step)).sqrt() + group["eps"]
        direction = m * (-lr / (_bias_correction(beta1, step) * denominator))
        if pull is not None and group["decoupled_weight_decay"]:
            direction = direction + (lr * decay) * pull
        y, m = manifold.retr_transp(x, direction, m)
        scatter(m, moments, rows)
        scatter(manifold._narrow(y, params[0].dtype), params, rows)

    def _step_fused(self, bucket: Bucket, group: dict[str, Any]) -> None:
        manifold, params = bucket.manifold, bucket.params
        states = [self._state_of(p, manifold, group) for p in params]
        steps = [s["step"] for s in states]
        torch._foreach_add_(steps, torch.ones(()), alpha=1.0)
        counts = torch.stack(steps).tolist()
        if len(set(counts)) > 1:  # parameters that started at different times: each with its own bias correction
            for count in set(counts):
                members = [i for i, other in enumerate(counts) if other == count]
                part = Bucket(manifold, [params[i] for i in members], [bucket.grads[i] for i in members])
                self._run_fused(part, [states[i] for i in members], count, group)
        else:
            self._run_fused(bucket, states, counts[0], group)

    def _run_fused(self, bucket: Bucket, states: list[dict[str, Tensor]], count: float, group: dict[str, Any]) -> None:
        manifold, params, grads, rows = bucket
        dtype = params[0].dtype
        names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
        kept = [[s[name] for s in states] for name in names]
        x, grad, *values = (gather(tensors, dtype) for tensors in (params, grads, *kept))
        lr, decay, beta1, beta2 = numbers([group["lr"], group["weight_decay"], *group["betas"]])
        decoupled = group["decoupled_weight_decay"]
        adam_step(
            kernel_of(manifold) or "",
            curvature_of(manifold, dtype),
            x,
            grad,
            values[0],
            values[1],
            values[2] if group["amsgrad"] else None,
            rows,
            step=count,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            coupled=0.0 if decoupled else decay,
            decoupled=decay if decoupled else 0.0,
            maximize=group["maximize"],
        )
        for value, targets in zip((x, *values), (params, *kept), strict=True):
            scatter(value, targets)

    def _state_of(self, p: Tensor, manifold: Manifold, group: dict[str, Any]) -> dict[str, Tensor]:
        """State of one parameter, under torch's names; made of zeros at its first step."""
        state = self.state[p]
        if not state:
            dtype = working_dtype(p.dtype)
            zeros = torch.zeros_like(p, dtype=dtype)
            shape = manifold.component_inner(p.detach().to(dtype), zeros).shape
            state["step"] = torch.zeros((), device=p.device if group["capturable"] else None)
            state["exp_avg"] = zeros
            state["exp_avg_sq"] = zeros.new_zeros(shape)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = zeros.new_zeros(shape)
        return state


def _bias_correction(beta: float | Tensor, step: Tensor) -> Tensor:
    """1 - beta^step, without the cancellation that beta = 0.999 has in float32 at the first steps."""
    log = torch.log(beta) if isinstance(beta, Tensor) else math.log(beta) if beta > 0 else -math.inf
    return -torch.expm1(step * log)

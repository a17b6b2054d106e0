"""Riemannian stochastic gradient descent."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.grassmann import Grassmann
from holonomy.manifolds.kernels.steps import sgd_step, subspace_step
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
    why_unfused,
    working_dtype,
)

__all__ = ["RiemannianSGD"]


class RiemannianSGD(RiemannianOptimizer, torch.optim.SGD):
    r"""Stochastic gradient descent on manifolds, with momentum; on Euclidean parameters it is `torch.optim.SGD`.

    With the Riemannian gradient g at x, the buffer b and the retraction R that the manifold has as default, one step
    is, in the order in which torch applies the options,

    ========================  =====================================================================
    weight decay              g <- g - weight_decay * log_x(origin)
    momentum, first step      b <- g
    momentum, later           b <- momentum * b + (1 - dampening) * g
    Nesterov                  d = g + momentum * b, otherwise d = b (d = g without momentum)
    step                      x <- R_x(-lr * d), and b is transported to the new point
    ========================  =====================================================================

    Weight decay pulls towards the manifold's origin along the geodesic: it is the gradient of
    weight_decay/2 * dist(x, origin)^2, which on Euclidean space is torch's. Manifolds of infinite injectivity radius
    (PoincareBall, Lorentz) have it; on the others (Sphere, Stiefel, Grassmann, ...) it is refused.

    A sparse gradient (``torch.sparse_coo`` with one sparse dimension, as ``nn.Embedding(sparse=True)`` makes it; a row
    that it has twice counts with the sum) moves only the rows that it has. All other rows keep their points and
    buffers, and do not decay: their momentum waits for their next gradient. (On Euclidean parameters torch's SGD moves
    them by it.)

    With ``ambient_momentum`` the buffer holds Euclidean gradients, b <- momentum * b + (1 - dampening) * grad, and is
    turned into a Riemannian one at each point that it comes to: on submanifolds with the ambient metric, and on
    Grassmann, that projects it, a cheaper transport than the parallel one. On Grassmann steps along geodesics
    (``Grassmann("exp")``) then depend on the subspace alone: from another basis x q of it, the bases and the buffer are
    those from x, times q.

    Points in float16 and bfloat16 are stepped in float32 and rounded once; their buffers are kept in float32.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters or groups, as in torch. A parameter with a manifold (`ManifoldParameter`,
        geoopt's, or one whose module remembers its manifold) steps on it; every other is Euclidean.
    lr : float or Tensor
        Learning rate.
    momentum, dampening, weight_decay, nesterov, maximize
        As in `torch.optim.SGD`.
    foreach : bool, optional
        Parameters of one manifold, shape, dtype and device are stepped in one call, unless this is False. For
        Euclidean parameters as in torch.
    differentiable : bool
        Whether autograd goes through the step, as in torch: parameters must then not be leaves.
    fused : bool, optional
        For Euclidean parameters as in torch. Those on `PoincareBall`, `Lorentz` and `Sphere` (one curvature, float32 or
        float64, contiguous, on the CPU or CUDA) are stepped by a kernel in one pass over memory, and so are, on the
        CPU, those on ``Grassmann("exp")`` of dimension 32 at most, with ambient momentum or none; None (default): where
        one takes them and `foreach` is None, too. True: it must. False: never, and one parameter at a time.
        ``kernels.use("reference")`` switches kernels off in every case.
    manifold_weight_decay : float, optional
        Weight decay of the parameters on manifolds, where it is to differ from `weight_decay`.
    ambient_momentum : bool
        Keep the momentum of parameters on manifolds in ambient coordinates instead of transporting it. Weight decay
        on manifolds must then be 0.

    Raises
    ------
    ValueError
        Where a number is out of its range, or weight decay is asked for on a manifold that has no origin, or together
        with ambient momentum.
    NotImplementedError
        Where ``fused=True`` meets a parameter on a manifold that no kernel takes.

    References
    ----------
    Bonnabel, "Stochastic gradient descent on Riemannian manifolds", IEEE TAC 58, 2013.
    Zhang, Wang et al., "Grassmann class representation", ICCV 2023 (arXiv:2308.01547): momentum in ambient coordinates.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        manifold_weight_decay: float | None = None,
        ambient_momentum: bool = False,
    ) -> None:
        # torch checks the options that the two have in common.
        checked = torch.optim.SGD(
            [torch.empty(0)],
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        ours = {"manifold_weight_decay": manifold_weight_decay, "ambient_momentum": ambient_momentum}
        RiemannianOptimizer.__init__(self, params, checked.defaults | ours)

    def __setstate__(self, state: dict[str, Any]) -> None:
        before = self.__dict__.get("param_groups", state["param_groups"])
        for group, old in zip(state["param_groups"], before, strict=True):
            group.setdefault("ambient_momentum", old.get("ambient_momentum", False))
        super().__setstate__(state)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        decay = group["weight_decay"] if group["manifold_weight_decay"] is None else group["manifold_weight_decay"]
        if (
            group["ambient_momentum"]
            and decay != 0
            and any(f.manifold is not None for f in self._find(group["params"]))
        ):
            raise ValueError(
                f"RiemannianSGD: ambient_momentum=True keeps Euclidean gradients alone, got weight decay {decay} on "
                "manifolds; pass manifold_weight_decay=0"
            )

    def _obstacle(self, manifold: Manifold, tensors: Sequence[Tensor], group: dict[str, Any]) -> str | None:
        ambient = group["ambient_momentum"] or group["momentum"] == 0
        if type(manifold) is Grassmann and manifold.retraction == "exp" and ambient:
            return why_unfused(manifold, tensors, group, "subspaces")
        if group["ambient_momentum"]:
            return 'with ambient_momentum=True kernels step Grassmann("exp") alone'
        return super()._obstacle(manifold, tensors, group)

    def _step_flat(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = []
        grads: list[Tensor] = []
        buffers: list[Tensor | None] = []
        sparse = self._init_group(group, params, grads, buffers)
        if group["nesterov"] or isinstance(group["weight_decay"], Tensor):
            # Here torch's implementations may write into the gradients they are given.
            grads = [g.clone() for g in grads]
        names = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize", "foreach", "fused")
        sgd(params, grads, buffers, has_sparse_grad=sparse, **{name: group[name] for name in names})
        if group["momentum"] != 0:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer

    def _step_bucket(self, bucket: Bucket, group: dict[str, Any]) -> None:
        manifold, params, _, rows = bucket
        momentum, dtype, copy = group["momentum"], working_dtype(params[0].dtype), group["differentiable"]
        ambient = group["ambient_momentum"] and momentum != 0
        x = gather(params, dtype, copy, rows)
        g = gather(gradients(bucket, maximize=group["maximize"]), dtype)
        if not ambient:
            g = manifold.egrad2rgrad(x, g)
        if group["weight_decay"] != 0:
            g = g - group["weight_decay"] * towards_origin(manifold, x)
        if momentum == 0:
            y = manifold.retr(x, g * -group["lr"])
        else:
            states = [self.state[p] for p in params]
            if "momentum_buffer" in states[0]:
                buffers = [s["momentum_buffer"] for s in states]
                b = gather(buffers, dtype, copy, rows).mul_(momentum).add_(g, alpha=1 - group["dampening"])
            else:
                # With a sparse gradient the other rows start from 0.
                empty = torch.empty_like if rows is None else torch.zeros_like
                buffers = [empty(p, dtype=dtype) for p in params]
                b = g
            direction = g.add(b, alpha=momentum) if group["nesterov"] else b
            if ambient:
                y = manifold.retr(x, manifold.egrad2rgrad(x, direction) * -group["lr"])
            else:
                y, b = manifold.retr_transp(x, direction * -group["lr"], b)
            scatter(b, buffers, rows)
            for state, buffer in zip(states, buffers, strict=True):
                state["momentum_buffer"] = buffer
        scatter(manifold._narrow(y, params[0].dtype), params, rows)

    def _step_fused(self, bucket: Bucket, group: dict[str, Any]) -> None:
        manifold, params, grads, rows = bucket
        dtype = params[0].dtype
        lr, momentum, dampening, decay = numbers(
            [group[name] for name in ("lr", "momentum", "dampening", "weight_decay")]
        )
        kind = kernel_of(manifold)
        # The kernel of subspaces knows no index: it is handed a copy of the rows.
        own = rows if kind is None else None
        x, grad = gather(params, dtype, rows=own), gather(grads, dtype)
        first, buffer = False, None
        if momentum != 0:
            states = [self.state[p] for p in params]
            first = "momentum_buffer" not in states[0]
            if first:
                for p, state in zip(params, states, strict=True):
                    state["momentum_buffer"] = torch.zeros_like(p)
            buffers = [s["momentum_buffer"] for s in states]
            buffer = gather(buffers, dtype, rows=own)
        options: dict[str, Any] = {"nesterov": group["nesterov"], "maximize": group["maximize"], "first": first}
        options |= {"lr": lr, "momentum": momentum, "dampening": dampening}
        if kind is None:
            subspace_step(x, grad, buffer, **options)
        else:
            sgd_step(kind, curvature_of(manifold, dtype), x, grad, buffer, rows, decay=decay, **options)
        scatter(x, params, own)
        if buffer is not None:
            scatter(buffer, buffers, own)

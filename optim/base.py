"""What the Riemannian optimizers share: finding each parameter's manifold, batching, checks, and the loop of a step.

Parameters without a manifold, and those on Euclidean space, are handed to torch's own implementation of the same
optimizer. The others are sorted into buckets: parameters of one manifold, shape, dtype and device move in one call,
and a parameter with a sparse gradient moves by itself, in the rows that the gradient has. Each bucket is stepped by a
fused kernel where there is one, and by torch operations otherwise.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import _use_grad_for_differentiable

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.euclidean import Euclidean
from holonomy.manifolds.kernels import dispatch, steps
from holonomy.manifolds.lorentz import Lorentz
from holonomy.manifolds.parameter import find_manifolds
from holonomy.manifolds.poincare_ball import PoincareBall
from holonomy.manifolds.sphere import Sphere

__all__ = ["Bucket", "RiemannianOptimizer", "gather", "gradients", "scatter", "towards_origin", "working_dtype"]

#: Most entries that are stacked. Above, the copies leave the cache and cost more than the calls that they save
#: (measured on one core with 1 MB of level-2 cache); a parameter of more than half that size is never copied.
STACK_LIMIT = 1 << 16

#: Types that have a kernel, by its name; a subclass may have other formulas.
_KERNELS = {PoincareBall: "ball", Lorentz: "lorentz", Sphere: "sphere"}


class Bucket(NamedTuple):
    """Parameters that move together: all of one manifold, shape, dtype and device, all with or all without state.

    A parameter with a sparse gradient is alone in its bucket, and `rows` is the index of the rows that move.
    """

    manifold: Manifold
    params: list[Tensor]
    grads: list[Tensor]
    rows: Tensor | None = None


def _split(bucket: Bucket) -> list[Bucket]:
    manifold, params, grads, rows = bucket
    size = max(1, STACK_LIMIT // max(1, params[0].numel()))
    if len(params) <= size:
        return [bucket]
    return [Bucket(manifold, params[i : i + size], grads[i : i + size], rows) for i in range(0, len(params), size)]


class _Found(NamedTuple):
    """What an optimizer remembers of a parameter: its ``.manifold`` when it was looked up, and what was found."""

    param: Tensor
    attribute: object
    manifold: Manifold | None  # None also for Euclidean space
    key: tuple[Any, ...] | None
    stackable: bool


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the moments and the arithmetic: float32 for half precision, otherwise the parameter's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def gradients(bucket: Bucket, *, maximize: bool) -> list[Tensor]:
    """Gradients of a bucket, turned round to `maximize`; otherwise the tensors themselves."""
    return list(torch._foreach_neg(bucket.grads)) if maximize else bucket.grads


def gather(tensors: Sequence[Tensor], dtype: torch.dtype, copy: bool = False, rows: Tensor | None = None) -> Tensor:
    """Stack the tensors of a bucket along a new first dimension; one that is alone is not copied, unless `copy`.

    With `rows`, take those rows of the one tensor.
    """
    if len(tensors) > 1:
        return torch.stack(list(tensors)).to(dtype)
    if rows is not None:
        return tensors[0].index_select(0, rows).to(dtype)
    return tensors[0].to(dtype, copy=copy)


def scatter(value: Tensor, targets: Sequence[Tensor], rows: Tensor | None = None) -> None:
    """Write what was computed from the result of `gather` back into the tensors of a bucket."""
    if len(targets) > 1:
        torch._foreach_copy_(list(targets), list(value.unbind()))
    elif rows is not None:
        targets[0].index_copy_(0, rows, value)
    elif targets[0] is not value:
        targets[0].copy_(value)


def numbers(values: Sequence[float | Tensor]) -> list[float]:
    """Options as numbers, which a fused kernel takes."""
    return [v.item() if isinstance(v, Tensor) else v for v in values]


def kernel_of(manifold: Manifold) -> str | None:
    """Name of the fused kernel that steps the points of a manifold with one curvature, or None."""
    kind = _KERNELS.get(type(manifold))
    if kind in (None, "sphere"):
        return kind
    c = manifold.c
    return kind if not isinstance(c, Tensor) or c.numel() == 1 else None


def curvature_of(manifold: Manifold, dtype: torch.dtype) -> float:
    """The curvature, as the formulas see it: a tensor is rounded to the dtype of the points."""
    c = getattr(manifold, "c", 1.0)
    return float(c.to(dtype).item() if isinstance(c, Tensor) else c)


def why_unfused(manifold: Manifold, tensors: Sequence[Tensor], group: dict[str, Any], kernel: str | None) -> str | None:
    """Say why the kernel of this name does not step a parameter with this state, or None."""
    if kernel is None:
        return f"kernels step PoincareBall, Lorentz and Sphere of one curvature, not {manifold!r}"
    if manifold.validate:
        return "validate=True asks for the checks of the manifold's own methods"
    for option in ("differentiable", "capturable"):
        if group.get(option):
            return f"{option}=True needs torch operations"
    return steps.subspace_obstacle(*tensors) if kernel == "subspaces" else steps.obstacle(*tensors)


def towards_origin(manifold: Manifold, x: Tensor) -> Tensor:
    """Velocity at `x` of the geodesic that reaches the manifold's origin after unit time (Euclidean: ``-x``).

    That is minus the gradient of half the squared distance to the origin: what weight decay adds up.
    """
    return manifold.logmap(x, manifold.origin(*x.shape, dtype=x.dtype, device=x.device))


def _has_unique_geodesics(manifold: Manifold) -> bool:
    # Where the injectivity radius is infinite, every point has exactly one geodesic to the origin, and the squared
    # distance to it is smooth and convex. On compact manifolds it is neither, and no point is special.
    try:
        return math.isinf(manifold.injectivity_radius())
    except NotImplementedError:  # a manifold of geoopt's that does not say
        return False


def _require_decay_target(name: str, decay: float | Tensor, manifold: Manifold, shape: torch.Size) -> None:
    if decay == 0 or _has_unique_geodesics(manifold):
        return
    raise ValueError(
        f"{name}: weight_decay={decay} has no meaning for the parameter of shape {tuple(shape)} on {manifold.name}: no "
        "point is one that every other has exactly one shortest path to. Pass manifold_weight_decay=0 to decay the "
        "Euclidean parameters only, or put it into a group with weight_decay=0"
    )


class RiemannianOptimizer(torch.optim.Optimizer):
    """Base of the optimizers in this room; a subclass defines ``_step_flat`` and ``_step_bucket``.

    Besides the options of its torch namesake a parameter group has ``manifold_weight_decay``: the weight decay of the
    parameters on manifolds, or None where the group's ``weight_decay`` holds for them too.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or groups.
    defaults : dict
        The options, checked, with ``manifold_weight_decay``.
    unasked_decay : float, optional
        ``manifold_weight_decay`` of the groups for which the user set neither decay.
    """

    def __init__(self, params: Any, defaults: dict[str, Any], unasked_decay: float | None = None) -> None:
        self._found: dict[int, _Found] = {}
        self._unasked_decay = unasked_decay
        # Not super(): the namesake's constructor, which is next in line, has checked the options already.
        torch.optim.Optimizer.__init__(self, params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_unasked_decay": self._unasked_decay}

    def __setstate__(self, state: dict[str, Any]) -> None:
        before = self.__dict__.get("param_groups", state["param_groups"])
        for group, old in zip(state["param_groups"], before, strict=True):
            # A state_dict of the torch namesake does not have it: what was set here stays.
            group.setdefault("manifold_weight_decay", old.get("manifold_weight_decay"))
        super().__setstate__(state)
        self._found = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch; their manifolds are looked up and checked here.

        Raises
        ------
        ValueError
            Where the group asks for weight decay on a manifold that has no point to decay towards.
        NotImplementedError
            Where the group asks for ``fused=True``, and no kernel takes one of its parameters on a manifold.
        """
        if (
            isinstance(param_group, dict)
            and "weight_decay" not in param_group
            and self.defaults["manifold_weight_decay"] is None
        ):
            param_group.setdefault("manifold_weight_decay", self._unasked_decay)
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, bit for bit."""
        super().load_state_dict(state_dict)
        # torch casts state to the parameter's dtype. Ours is wider for half precision: that is taken once more.
        indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = list(chain.from_iterable(group["params"] for group in self.param_groups))
        for index, p, found in zip(indices, params, self._find(params), strict=True):
            if working_dtype(p.dtype) != p.dtype and found.manifold is not None:
                for name, value in state_dict["state"].get(index, {}).items():
                    if name != "step":
                        self.state[p][name] = value.to(p.device, working_dtype(p.dtype))

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step, and return the value of the closure, if one is given.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved: list[Bucket] = []
        for group in self.param_groups:
            flat, buckets = self._partition(group)
            if flat:
                self._step_flat({**group, "params": flat})
            decay, lr = group["manifold_weight_decay"], group["lr"]
            options = {
                **group,
                "weight_decay": group["weight_decay"] if decay is None else decay,
                "lr": lr.squeeze() if isinstance(lr, Tensor) else lr,
            }
            for bucket in buckets:
                _require_decay_target(
                    type(self).__name__, options["weight_decay"], bucket.manifold, bucket.params[0].shape
                )
                if self._is_fused(bucket, options):
                    self._step_fused(bucket, options)
                else:
                    self._step_bucket(bucket, options)
                moved.append(bucket)
        for manifold, params, _, _ in moved:
            if any(c.requires_grad for c in manifold.parameters()):
                # The curvature may just have been stepped as well, and the points with it off the manifold.
                dtype = working_dtype(params[0].dtype)
                x = manifold.projx(gather(params, dtype, copy=self.defaults["differentiable"]))
                scatter(manifold._narrow(x, params[0].dtype), params)
        return loss

    def _step_flat(self, group: dict[str, Any]) -> None:
        """Step a group of Euclidean parameters, all with gradients, by torch's implementation."""
        raise NotImplementedError

    def _step_bucket(self, bucket: Bucket, group: dict[str, Any]) -> None:
        """Step the parameters of a bucket, by the group's options; ``weight_decay`` is the one for manifolds."""
        raise NotImplementedError

    def _step_fused(self, bucket: Bucket, group: dict[str, Any]) -> None:
        """Step the parameters of a bucket as `_step_bucket` does, by a fused kernel."""
        raise NotImplementedError

    def _obstacle(self, manifold: Manifold, tensors: Sequence[Tensor], group: dict[str, Any]) -> str | None:
        """Say why no fused kernel steps a parameter with this state, or None."""
        return why_unfused(manifold, tensors, group, kernel_of(manifold))

    def _is_fused(self, bucket: Bucket, group: dict[str, Any]) -> bool:
        """Whether a kernel steps the bucket: as in torch, unless `fused` or `foreach` asks for something else.

        Raises
        ------
        RuntimeError
            Where ``fused=True``, and a parameter or its state is not any more what it was when that was checked.
        """
        asked = group["fused"]
        if asked is False or (asked is None and group["foreach"] is not None):
            return False
        if torch.compiler.is_compiling() or dispatch._forced == "reference":
            return False
        # Parameters of a bucket are alike, but for their strides.
        p = next((p for p in bucket.params if not p.is_contiguous()), bucket.params[0])
        state = [t for name, t in self.state.get(p, {}).items() if name != "step" and t is not None]
        reason = self._obstacle(bucket.manifold, (p, *state), group)
        if asked and reason is not None:
            raise RuntimeError(
                f"{type(self).__name__}: fused=True, but no kernel steps the parameter of shape {tuple(p.shape)} on "
                f"{bucket.manifold.name}: {reason}"
            )
        return reason is None

    def _find(self, params: Sequence[Tensor]) -> list[_Found]:
        """Look up the manifolds of the parameters that are new, or whose ``.manifold`` was changed."""
        known = [self._found.get(id(p)) for p in params]
        new = [
            p
            for p, found in zip(params, known, strict=True)
            if found is None or found.param is not p or found.attribute is not getattr(p, "manifold", None)
        ]
        if not new:
            return known  # type: ignore[return-value]  # none of them is None
        for p, manifold in zip(new, find_manifolds(new), strict=True):
            flat = manifold is None or isinstance(manifold, Euclidean)
            # Tensors that wrap others (DTensor) are not stacked.
            stackable = not hasattr(p, "__tensor_flatten__")
            attribute = getattr(p, "manifold", None)
            self._found[id(p)] = _Found(
                p, attribute, None if flat else manifold, manifold.key if manifold else None, stackable
            )
        return [self._found[id(p)] for p in params]

    def _partition(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Bucket]]:
        """Sort the parameters that have a gradient: Euclidean ones, and buckets of the others."""
        foreach = group["foreach"]
        # As in torch, fused=False asks for one parameter at a time, and so does autograd through the step.
        together = (group["fused"] is not False if foreach is None else foreach) and not group["differentiable"]
        flat: list[Tensor] = []
        buckets: dict[Any, Bucket] = {}
        params = [p for p in group["params"] if p.grad is not None]
        for p, (_, _, manifold, key, stackable) in zip(params, self._find(params), strict=True):
            if manifold is None:
                flat.append(p)
                continue
            grad = p.grad
            if grad.layout != torch.strided:
                rows, grad = self._rows_of(p, grad, manifold)
                buckets[id(p)] = Bucket(manifold, [p], [grad], rows)
                continue
            alike = (key, p.shape, p.dtype, p.device, bool(self.state.get(p))) if together and stackable else id(p)
            if alike not in buckets:
                buckets[alike] = Bucket(manifold, [], [])
            buckets[alike].params.append(p)
            buckets[alike].grads.append(grad)
        return flat, [part for bucket in buckets.values() for part in _split(bucket)]

    def _rows_of(self, p: Tensor, grad: Tensor, manifold: Manifold) -> tuple[Tensor, Tensor]:
        """Index of the rows that a sparse gradient has, each once, and the gradients of these rows."""
        if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1 or p.ndim <= manifold.ndim:
            raise RuntimeError(
                f"{type(self).__name__}: the parameter of shape {tuple(p.shape)} on {manifold.name} has a gradient of "
                f"layout {grad.layout}, wanted a dense one, or torch.sparse_coo with one sparse dimension, the first, "
                "whose rows hold whole points, as nn.Embedding makes it"
            )
        grad = grad.coalesce()
        return grad.indices()[0], grad.values()

    def _check_group(self, group: dict[str, Any]) -> None:
        name, params, decay = type(self).__name__, group["params"], group["manifold_weight_decay"]
        if decay is not None and not decay >= 0:
            raise ValueError(f"{name}: 'manifold_weight_decay' must be at least 0 or None, got {decay}")
        decay = group["weight_decay"] if decay is None else decay
        labels = group.get("param_names") or [""] * len(params)
        for p, label, found in zip(params, labels, self._find(params), strict=True):
            if found.manifold is None:
                continue
            _require_decay_target(name, decay, found.manifold, p.shape)
            reason = self._obstacle(found.manifold, (p,), group) if group["fused"] else None
            if reason is not None:
                raise NotImplementedError(
                    f"{name}: no fused kernel steps the parameter {label}{' ' if label else ''}of shape "
                    f"{tuple(p.shape)} on {found.manifold.name}: {reason}; pass fused=None"
                )

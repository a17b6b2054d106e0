"""Distances of all pairs, by blocks of rows: memory beyond the result stays bounded.

`by_rows` and `arsinh_cdist`'s blocks are the reference, in plain torch. Fused kernels take their place; their gradients
are analytic and recompute the blocks, and gradients of gradients are those of plain formulas, which hold all
differences at once.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.gyrovector import safe_sqrt
from holonomy.manifolds.kernels import dispatch

__all__ = ["arsinh_cdist", "by_rows", "lorentz_cdist", "nearest_rows", "sphere_cdist"]

#: Entries of the largest temporary of a block: 1 to 4 MB, which stays in a processor's cache.
_BLOCK = 2**18


def by_rows(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, ndim: int) -> Tensor:
    """Evaluate a function of pairs on blocks of rows, and join the blocks.

    Parameters
    ----------
    function : callable
        Maps (..., n, 1, point) and (..., 1, m, point) to (..., n, m).
    x, y : Tensor
        Shapes (..., n, 1, point) and (..., 1, m, point), where a point has `ndim` dimensions.
    ndim : int
        Number of trailing dimensions of one point.
    """
    axis = x.ndim - ndim - 2
    rows = x.shape[axis]
    row = y.numel() * math.prod(x.shape[:axis])
    step = max(1, 4 * _BLOCK // max(1, row))
    if step >= rows or torch.compiler.is_compiling():
        return function(x, y)
    return torch.cat([function(block, y) for block in x.split(step, axis)], dim=-2)


def arsinh_cdist(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Pairwise scale * arsinh(sqrt(a_i b_j) |x_i - y_j|), to full relative precision also for close pairs.

    Neither pass holds more than the result and one block of rows: the backward pass computes the blocks again.
    Differentiable to any order (past the first, all differences are held at once); pairs of coincident points have
    gradient 0.

    Parameters
    ----------
    x, y : Tensor
        Shapes (..., n, d) and (..., m, d), of equal rank.
    a, b : Tensor
        Positive factors, shapes (..., n, 1) and (..., m, 1).
    scale : float
        Factor of the result.
    """
    if dispatch.backend(x, y, a, b) is not None:
        return _ball(x, y, a, b, scale)
    result = _ArsinhCdist.apply(x, y, a, b, scale)
    assert isinstance(result, Tensor)
    return result


def sphere_cdist(x: Tensor, y: Tensor) -> Tensor:
    """Pairwise 2 atan2(|x_i - y_j|, |x_i + y_j|), exact for close and for nearly antipodal pairs.

    Differentiable to any order; pairs of coincident and of antipodal points have gradient 0.

    Parameters
    ----------
    x, y : Tensor
        Unit vectors, shapes (..., n, d) and (..., m, d).
    """
    if dispatch.backend(x, y) is not None:
        return _sphere(x, y)
    return by_rows(_angle, x.unsqueeze(-2), y.unsqueeze(-3), 1)


def lorentz_cdist(x: Tensor, y: Tensor, c: float | Tensor) -> Tensor:
    """Pairwise distance of points on the hyperboloid, given by their space parts.

    Differentiable to any order, also in `c`; pairs of coincident points have gradient 0.

    Parameters
    ----------
    x, y : Tensor
        Space parts, shapes (..., n, d) and (..., m, d).
    c : float or Tensor
        Magnitude of the curvature; a tensor has the dtype of `x` and a shape that broadcasts against (..., 1, 1).
    """
    curved = isinstance(c, Tensor)
    if dispatch.backend(x, y, *((c,) if curved else ())) is not None:
        values = _lorentz(x, y, c if curved else None, 1.0 if curved else float(c))
        return values / c.sqrt() if isinstance(c, Tensor) else values
    k = c.unsqueeze(-1) if isinstance(c, Tensor) else c
    return by_rows(lambda x, y: _hyperbolic(x, y, k), x.unsqueeze(-2), y.unsqueeze(-3), 1)


@torch.library.custom_op("holonomy::arsinh_cdist", mutates_args=())
def _values(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y, a, b = (t.expand(*batch, *t.shape[-2:]) for t in (x, y, a, b))
    out = x.new_empty(*batch, x.shape[-2], y.shape[-2])
    step = _block_rows(y)
    # A product in float64 is twice as fast as differences in float32 on a CPU, and as exact but for the closest pairs.
    factors = _factors(x, y, a, b) if x.dtype == torch.float32 and x.device.type == "cpu" else None
    for i in range(0, x.shape[-2], step):
        rows = (..., slice(i, i + step), slice(None))
        if factors is None:
            p = _chords(x[rows], y).square_().mul_(2.0 * a[rows]).mul_(b.mT)
        else:
            p = _by_product(factors[0][rows], factors[1], x[rows], y, 2.0 * a[rows], b)
        # 2 arsinh(sqrt(p/2)) through log1p, which is vectorised where asinh is not.
        root = (p + 2.0).mul_(p).sqrt_()
        torch.mul(root.add_(p).log1p_(), 0.5 * scale, out=out[rows])
    return out


@_values.register_fake
def _(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return x.new_empty(*torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2])


class _ArsinhCdist(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        return _values(x, y, a, b, scale)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.scale = inputs[4]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, a, b = ctx.saved_tensors  # type: ignore[attr-defined]
        gradients = _formula_backward if torch.is_grad_enabled() else _block_backward
        return *gradients(x, y, a, b, ctx.scale * grads[0]), None  # type: ignore[attr-defined]

    @staticmethod
    def vmap(info: object, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        tensors = zip(inputs[:4], in_dims, strict=False)
        x, y, a, b = (t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in tensors)
        return arsinh_cdist(x, y, a, b, inputs[4]), 0


def _block_rows(y: Tensor) -> int:
    return max(1, _BLOCK // max(1, y.shape[:-1].numel()))


def _chords(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _factors(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Write 2 a_i b_j |x_i - y_j|^2 as a product of (-2 a x, a, a|x|^2) with (2 b y, 2 b|y|^2, 2 b), in float64."""
    x, y, a, b = x.double(), y.double(), a.double(), 2.0 * b.double()
    x2, y2 = (t.square().sum(-1, keepdim=True) for t in (x, y))
    return torch.cat((-2.0 * a * x, a, a * x2), dim=-1), torch.cat((b * y, b * y2, b), dim=-1).mT


def _by_product(left: Tensor, right: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Evaluate a_i b_j |x_i - y_j|^2 by a product of factors, and by differences where that cancels."""
    squares = (left @ right).float()
    # From |x - y|^2 = 4e-8 |x|^2 down, the product cancels more than float32 can hide: those pairs go one by one.
    close: tuple[Any, ...] = (squares <= 4e-8 * a * x.square().sum(-1, keepdim=True) * b.mT).nonzero(as_tuple=True)
    i, j = close[:-1], close[:-2] + close[-1:]
    squares[close] = (x[i] - y[j]).square().sum(-1) * a[i].squeeze(-1) * b[j].squeeze(-1)
    return squares


def _block_backward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients, a block of rows at a time, each by differentiating the block."""
    wide = [t.expand(*grad.shape[:-2], *t.shape[-2:]).detach() for t in (x, y, a, b)]
    gradients = [torch.zeros_like(t) for t in wide]
    step = _block_rows(wide[1])
    for i in range(0, x.shape[-2], step):
        rows = (..., slice(i, i + step), slice(None))
        leaves = [t.detach().requires_grad_() for t in (wide[0][rows], wide[1], wide[2][rows], wide[3])]
        with torch.enable_grad():
            t = _chords(leaves[0], leaves[1]) * leaves[2].sqrt() * leaves[3].sqrt().mT
            block = torch.log1p(t + t * t / (1.0 + torch.sqrt(1.0 + t * t)))
        totals = (gradients[0][rows], gradients[1], gradients[2][rows], gradients[3])
        for total, part in zip(totals, torch.autograd.grad(block, leaves, grad[rows]), strict=True):
            total += part
    return tuple(g.sum_to_size(t.shape) for g, t in zip(gradients, (x, y, a, b), strict=True))


def _formula_backward(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The same gradients written out, for derivatives of higher order (holds all differences at once)."""
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    square = difference.square().sum(-1)
    same = square == 0
    r = torch.where(same, torch.ones_like(square), square).sqrt()
    outer = a * b.mT
    # d arsinh(sqrt(ab) r) / dr, and the same over r.
    slope = grad * (outer / (1.0 + outer * square)).sqrt()
    pull = torch.where(same, torch.zeros_like(r), slope / r).unsqueeze(-1) * difference
    stretch = 0.5 * slope * torch.where(same, torch.zeros_like(r), r)
    gradients = (
        pull.sum(-2),
        -pull.sum(-3),
        (stretch / a).sum(-1, keepdim=True),
        (stretch / b.mT).sum(-2).unsqueeze(-1),
    )
    return tuple(g.sum_to_size(t.shape) for g, t in zip(gradients, (x, y, a, b), strict=True))


# -- plain formulas of single pairs --------------------------------------------------------------------------------


def _angle(x: Tensor, y: Tensor) -> Tensor:
    # The square roots have derivative 0 at 0, where norms have no second derivative.
    return 2.0 * torch.atan2(safe_sqrt((x - y).square().sum(-1)), safe_sqrt((x + y).square().sum(-1)))


def _hyperbolic(x: Tensor, y: Tensor, c: float | Tensor) -> Tensor:
    from holonomy.manifolds import hyperboloid  # at first use: importing this module stays free of cycles

    root = c.sqrt() if isinstance(c, Tensor) else math.sqrt(c)
    return (2.0 / root * torch.asinh(safe_sqrt(hyperboloid.chord(x, y, c)[0]))).squeeze(-1)


# -- fused operators -----------------------------------------------------------------------------------------------


def _kernels(tensor: Tensor) -> Any:
    # At first use: the CPU's import numba.
    return importlib.import_module(f"holonomy.manifolds.kernels.{'cuda' if tensor.is_cuda else 'cpu'}.pairs")


def _shape(*tensors: Tensor) -> tuple[int, ...]:
    """Shape of the result for rows, columns, and whatever else has two dimensions after its batch."""
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in tensors))
    return (*batch, tensors[0].shape[-2], tensors[1].shape[-2])


def _pull_back(
    function: Callable[..., Any], inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Vector-Jacobian product of a plain formula, itself differentiable to any order."""
    outputs, pull = torch.func.vjp(function, *inputs)[:2]
    gradients: tuple[Tensor, ...] = pull(grads if isinstance(outputs, tuple) else grads[0])
    return gradients


def _align(arguments: Sequence[Any], in_dims: Sequence[int | None], size: int | None) -> list[Any]:
    """Make a mapped dimension the first batch dimension of every tensor; with `size`, also of those without one."""
    tensors = [i for i, t in enumerate(arguments) if isinstance(t, Tensor)]
    rank = max(arguments[i].ndim - (in_dims[i] is not None) for i in tensors)
    moved = list(arguments)
    for i in tensors:
        dim = in_dims[i]
        t: Tensor = arguments[i]
        t = t.unsqueeze(0) if dim is None else t.movedim(dim, 0)
        t = t.reshape(t.shape[0], *(1,) * (rank + 1 - t.ndim), *t.shape[1:])
        moved[i] = t if size is None else t.expand(size, *t.shape[1:])
    return moved


def _register(operator: Any, backward: Any, formula: Callable[..., Any], count: int) -> None:
    """Give an operator its gradient, that gradient's own, and rules for vmap.

    Parameters
    ----------
    operator : CustomOpDef
        Takes `count` tensors (the last may be None), then numbers.
    backward : CustomOpDef
        Takes the same, with the gradient that arrives after the tensors; returns the gradients of the tensors.
    formula : callable
        The vector-Jacobian product of the operator in plain torch operations, with the arguments of `backward`.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = inputs[: ctx.kept]
        ctx.save_for_backward(*tensors)
        ctx.rest = inputs[ctx.kept :]

    def keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kept = count
        keep(ctx, inputs, output)

    def keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.kept = count + 1
        keep(ctx, inputs, output)

    def pull(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        gradients = backward(*tensors, grad, *ctx.rest)
        found = (g if t is not None else None for g, t in zip(gradients, tensors, strict=True))
        return *found, *(None,) * len(ctx.rest)

    def pull_twice(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arguments = ctx.saved_tensors
        present = [i for i, t in enumerate(arguments) if t is not None]

        def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
            full: list[Tensor | None] = [None] * len(arguments)
            for i, t in zip(present, tensors, strict=True):
                full[i] = t
            return tuple(g for g, t in zip(formula(*full, *ctx.rest), full, strict=False) if t is not None)

        outer = tuple(g for g, t in zip(grads, arguments, strict=False) if t is not None)
        found: list[Tensor | None] = [None] * (len(arguments) + len(ctx.rest))
        for i, g in zip(present, _pull_back(plain, tuple(arguments[i] for i in present), outer), strict=True):
            found[i] = g
        return tuple(found)

    def mapped(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
        return operator(*_align(arguments, in_dims, None)), 0

    def mapped_backward(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        gradients = backward(*_align(arguments, in_dims, info.batch_size))
        outputs: list[Tensor] = []
        dims: list[int | None] = []
        for g, t, dim in zip(gradients, arguments, in_dims, strict=False):
            if t is None:
                outputs.append(g)
                dims.append(None)
                continue
            shape = list(t.shape)
            if dim is not None:
                del shape[dim]
            outputs.append(g.reshape(info.batch_size, *shape))
            dims.append(0)
        return tuple(outputs), tuple(dims)

    operator.register_autograd(pull, setup_context=keep_forward)
    backward.register_autograd(pull_twice, setup_context=keep_backward)
    operator.register_vmap(mapped)
    backward.register_vmap(mapped_backward)


@torch.library.custom_op("holonomy::ball_cdist", mutates_args=())
def _ball(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    values: Tensor = _kernels(x).ball_values(x, y, a, b, scale)
    return values


@torch.library.custom_op("holonomy::ball_cdist_backward", mutates_args=())
def _ball_backward(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gx, gy, ga, gb = _kernels(x).ball_gradients(x, y, a, b, scale, grad)
    return gx, gy, ga, gb


@torch.library.custom_op("holonomy::sphere_cdist", mutates_args=())
def _sphere(x: Tensor, y: Tensor) -> Tensor:
    values: Tensor = _kernels(x).sphere_values(x, y)
    return values


@torch.library.custom_op("holonomy::sphere_cdist_backward", mutates_args=())
def _sphere_backward(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    gx, gy = _kernels(x).sphere_gradients(x, y, grad)
    return gx, gy


@torch.library.custom_op("holonomy::lorentz_cdist", mutates_args=())
def _lorentz(x: Tensor, y: Tensor, c: Tensor | None, k: float) -> Tensor:
    values: Tensor = _kernels(x).lorentz_values(x, y, c, k)
    return values


@torch.library.custom_op("holonomy::lorentz_cdist_backward", mutates_args=())
def _lorentz_backward(x: Tensor, y: Tensor, c: Tensor | None, grad: Tensor, k: float) -> tuple[Tensor, Tensor, Tensor]:
    gx, gy, gc = _kernels(x).lorentz_gradients(x, y, c, k, grad)
    return gx, gy, gc


@_ball.register_fake
def _(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return x.new_empty(_shape(x, y, a, b))


@_sphere.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(_shape(x, y))


@_lorentz.register_fake
def _(x: Tensor, y: Tensor, c: Tensor | None, k: float) -> Tensor:
    return x.new_empty(_shape(x, y) if c is None else _shape(x, y, c))


@_ball_backward.register_fake
def _(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape), a.new_empty(a.shape), b.new_empty(b.shape)


@_sphere_backward.register_fake
def _(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


@_lorentz_backward.register_fake
def _(x: Tensor, y: Tensor, c: Tensor | None, grad: Tensor, k: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape), x.new_empty(() if c is None else c.shape)


def _ball_formula(x: Tensor, y: Tensor, a: Tensor, b: Tensor, grad: Tensor, scale: float) -> tuple[Tensor, ...]:
    return _formula_backward(x, y, a, b, scale * grad)


def _sphere_formula(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return _pull_back(lambda x, y: _angle(x.unsqueeze(-2), y.unsqueeze(-3)), (x, y), (grad,))


def _lorentz_formula(x: Tensor, y: Tensor, c: Tensor | None, grad: Tensor, k: float) -> tuple[Tensor, ...]:
    if c is None:
        return *_pull_back(lambda x, y: _hyperbolic(x.unsqueeze(-2), y.unsqueeze(-3), k), (x, y), (grad,)), grad

    def plain(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        # The operator leaves division by the root of a tensor to its caller.
        return c.sqrt() * _hyperbolic(x.unsqueeze(-2), y.unsqueeze(-3), c.unsqueeze(-1))

    return _pull_back(plain, (x, y, c), (grad,))


_register(_ball, _ball_backward, _ball_formula, 4)
_register(_sphere, _sphere_backward, _sphere_formula, 2)
_register(_lorentz, _lorentz_backward, _lorentz_formula, 3)


# -- nearest rows --------------------------------------------------------------------------------------------------


@torch.library.custom_op("holonomy::nearest_rows", mutates_args=())
def nearest_rows(
    kind: str,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    k: float,
    count: int,
    skip: bool,
) -> Tensor:
    """Indices of the `count` nearest y_j of every x_i, shape (..., n, count), nearest first, ties by lowest index.

    Parameters
    ----------
    kind : {"ball", "sphere", "lorentz"}
        Compare what `arsinh_cdist`, `sphere_cdist` or `lorentz_cdist` would.
    x, y, a, b, c, k : Tensor or float or None
        Their arguments; the curvature is `c`, or the number `k` where that is None.
    skip : bool
        Leave out y_i for x_i.
    """
    indices: Tensor = _kernels(x).nearest(kind, x, y, a, b, c, k, count, skip)
    return indices


@nearest_rows.register_fake
def _(
    kind: str,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    k: float,
    count: int,
    skip: bool,
) -> Tensor:
    shape = _shape(x, y, *(t for t in (a, b, c) if t is not None))
    return x.new_empty((*shape[:-1], count), dtype=torch.int64)


@nearest_rows.register_vmap
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    indices: Tensor = nearest_rows(*_align(arguments, in_dims, None))
    return indices, 0

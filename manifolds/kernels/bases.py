"""Bases of functions of one variable, and sums of them over the features of a vector: B-splines and Chebyshev.

`bspline_basis` and `chebyshev_basis` evaluate all functions of a basis; `bspline_combine` and `chebyshev_combine` are
the layers y_o = sum_j sum_i coefficients[o, j, i] B_i(x_j) of Kolmogorov-Arnold networks, which hold the values of the
basis for a block of rows at a time.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.cpu.memory import flat

__all__ = [
    "bspline_basis",
    "bspline_combine",
    "bspline_reference",
    "chebyshev_basis",
    "chebyshev_combine",
    "chebyshev_reference",
]

#: Values of the basis that `*_combine` holds at a time.
_BLOCK = 2**18


# -- references ----------------------------------------------------------------------------------------------------


def bspline_reference(x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Evaluate all B-splines in plain torch operations, differentiable in x and in the knots.

    Shapes as in `bspline_basis`. The recursion of de Boor and Cox, with 0/0 = 0 for functions on empty intervals.
    """
    x, end = x.unsqueeze(-1), knots[..., -1:]
    left, right = knots[..., :-1], knots[..., 1:]
    closed = (right == end) & (left < end) & (x == end)
    b = (((left <= x) & (x < right)) | closed).to(x.dtype)
    for q in range(1, degree + 1):
        length = knots[..., q:] - knots[..., :-q]
        inverse = torch.where(length > 0, 1.0 / torch.where(length > 0, length, 1.0), 0.0)
        scaled = b * inverse
        rising = (x - knots[..., : -q - 1]) * scaled[..., :-1]
        b = rising + (knots[..., q + 1 :] - x) * scaled[..., 1:]
    return b


def chebyshev_reference(x: Tensor, degree: int, order: int = 0) -> Tensor:
    """Evaluate the derivatives of given order of T_0, ..., T_degree in plain torch operations."""
    zero = torch.zeros_like(x)
    before = [x.clone() if v == 0 else torch.ones_like(x) if v == 1 else zero for v in range(order + 1)]  # T_1
    now = [torch.ones_like(x) if v == 0 else zero for v in range(order + 1)]
    found = [now[order]]
    for _ in range(degree):
        after = [2.0 * x * now[v] - before[v] + (2.0 * v * now[v - 1] if v else 0.0) for v in range(order + 1)]
        before, now = now, after
        found.append(now[order])
    return torch.stack(found, dim=-1)


def _reference(x: Tensor, knots: Tensor, family: str, degree: int) -> Tensor:
    return bspline_reference(x, knots, degree) if family == "bspline" else chebyshev_reference(x, degree)


def _combine_reference(x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> Tensor:
    return torch.einsum("...ji,oji->...o", _reference(x, knots, family, degree), coefficients)


def _on_cuda() -> Any:
    return importlib.import_module("holonomy.manifolds.kernels.cuda.bases")


# -- blocks --------------------------------------------------------------------------------------------------------


class _Blocks:
    """The kernels of a basis, and memory for a block of rows, laid out with the rows along the last dimension."""

    def __init__(self, x: Tensor, knots: Tensor, family: str, degree: int) -> None:
        from holonomy.manifolds.kernels.cpu import bases

        self.cpu, self.family, self.degree = bases, family, degree
        if family == "bspline":
            self.tables = bases.bspline_tables(knots.detach().reshape(-1, knots.shape[-1]).contiguous().numpy(), degree)
        (count, features), size = x.shape, _size(knots, family, degree)
        step = max(8, _BLOCK // max(1, features * size) // 8 * 8)
        width = min(step, -(-count // 8) * 8)
        # Rows a multiple of 1 KB apart would compete for the same sets of the cache.
        self.width = width + 16 if width % 256 == 0 else width
        self.slices = [slice(i, min(i + step, count)) for i in range(0, count, step)] if x.numel() else []
        self.x = x.new_zeros(features, self.width)
        self.values = x.new_empty(features, size, self.width)

    def load(self, x: Tensor) -> None:
        """Take the numbers of a block of rows."""
        self.cpu.from_rows(flat(x), flat(self.x), len(x))

    def evaluate(self, order: int = 0) -> None:
        """Write the basis' derivatives of given order to `values`."""
        arrays = flat(self.x), flat(self.values)
        if self.family == "bspline":
            self.cpu.bspline_values(arrays[0], self.tables, arrays[1], self.width, self.degree, order)
        elif order == 0:
            self.cpu.chebyshev_values(*arrays, self.width, self.degree)
        else:
            self.values.copy_(chebyshev_reference(self.x, self.degree, order).movedim(-1, 1))

    def pull(self, out: Tensor, order: int = 1) -> None:
        """Write the sums of `values` times the basis' derivatives of given order to the rows of `out`."""
        arrays = flat(self.values), flat(self.x)
        product = torch.empty_like(self.x)
        to = flat(product)
        if self.family == "bspline":
            self.cpu.bspline_pull(*arrays, self.tables, to, self.width, self.degree, order)
        elif order == 1:
            self.cpu.chebyshev_pull(*arrays, to, self.width, self.degree)
        else:
            torch.sum(self.values * chebyshev_reference(self.x, self.degree, order).movedim(-1, 1), 1, out=product)
        self.cpu.to_rows(to, flat(out), len(out))


def _as_rows(x: Tensor, knots: Tensor) -> Tensor:
    """Contiguous matrix of the numbers of x, with a column for each feature that has knots of its own."""
    features = x.shape[-1] if knots.ndim == 2 else 1
    return x.detach().contiguous().view(x.numel() // features, features)


def _size(knots: Tensor, family: str, degree: int) -> int:
    return knots.shape[-1] - degree - 1 if family == "bspline" else degree + 1


def _one_by_one(op: Any, info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    """Map an operator over a batch by a loop."""
    each = [
        op(*(t if dim is None else t.select(dim, i) for dim, t in zip(in_dims, inputs, strict=True)))
        for i in range(info.batch_size)
    ]
    if isinstance(each[0], Tensor):
        return torch.stack(each), 0
    outputs = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    return outputs, (0,) * len(outputs)


def _in_front(dim: int | None, tensor: Tensor, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


# -- operators: the basis ------------------------------------------------------------------------------------------


@torch.library.custom_op("holonomy::basis_values", mutates_args=(), device_types="cpu")
def _values(x: Tensor, knots: Tensor, family: str, degree: int, order: int) -> Tensor:
    out = x.new_empty(*x.shape, _size(knots, family, degree))
    rows = _as_rows(x, knots)
    blocks, columns = _Blocks(rows, knots, family, degree), out.view(len(rows), rows.shape[1] * out.shape[-1])
    for part in blocks.slices:
        blocks.load(rows[part])
        blocks.evaluate(order)
        blocks.cpu.to_rows(flat(blocks.values), flat(columns[part]), len(columns[part]))
    return out


@_values.register_kernel("cuda")
def _(x: Tensor, knots: Tensor, family: str, degree: int, order: int) -> Tensor:
    if family == "bspline":
        _on_cuda().check_knots(knots)
    elif order > 0:
        return chebyshev_reference(x, degree, order)
    found: Tensor = _on_cuda().values(x, knots, family, degree, order)
    return found


@_values.register_fake
def _(x: Tensor, knots: Tensor, family: str, degree: int, order: int) -> Tensor:
    return x.new_empty(*x.shape, _size(knots, family, degree))


@torch.library.custom_op("holonomy::basis_pull", mutates_args=(), device_types="cpu")
def _pull(g: Tensor, x: Tensor, knots: Tensor, family: str, degree: int, order: int) -> Tensor:
    out = x.new_empty(x.shape)
    rows = _as_rows(x, knots)
    blocks = _Blocks(rows, knots, family, degree)
    columns = g.detach().contiguous().view(len(rows), rows.shape[1] * g.shape[-1])
    for part in blocks.slices:
        blocks.load(rows[part])
        blocks.cpu.from_rows(flat(columns[part]), flat(blocks.values), len(columns[part]))
        blocks.pull(out.view(rows.shape)[part], order)
    return out


@_pull.register_kernel("cuda")
def _(g: Tensor, x: Tensor, knots: Tensor, family: str, degree: int, order: int) -> Tensor:
    if family == "chebyshev" and order != 1:
        return (g * chebyshev_reference(x, degree, order)).sum(-1)
    found: Tensor = _on_cuda().pull(g, x, knots, family, degree, order)
    return found


@_pull.register_fake
def _(g: Tensor, x: Tensor, knots: Tensor, family: str, degree: int, order: int) -> Tensor:
    return x.new_empty(x.shape)


def _save_values(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, knots, *ctx.how = inputs
    ctx.save_for_backward(x, knots)


def _pull_values(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, knots = ctx.saved_tensors
    family, degree, order = ctx.how
    return _pull(g, x, knots, family, degree, order + 1), None, None, None, None


def _save_pull(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, x, knots, *ctx.how = inputs
    ctx.save_for_backward(g, x, knots)


def _pull_pull(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    g, x, knots = ctx.saved_tensors
    family, degree, order = ctx.how
    along_g = _values(x, knots, family, degree, order) * grad.unsqueeze(-1)
    return along_g, grad * _pull(g, x, knots, family, degree, order + 1), None, None, None, None


_values.register_autograd(_pull_values, setup_context=_save_values)
_pull.register_autograd(_pull_pull, setup_context=_save_pull)


@_values.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], x: Tensor, knots: Tensor, *how: Any) -> tuple[Tensor, int]:
    if in_dims[1] is not None:
        found: tuple[Tensor, int] = _one_by_one(_values, info, in_dims, (x, knots, *how))
        return found
    return _values(x.movedim(in_dims[0], 0), knots, *how), 0


@_pull.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], g: Tensor, x: Tensor, knots: Tensor, *how: Any) -> tuple[Tensor, int]:
    if in_dims[2] is not None:
        found: tuple[Tensor, int] = _one_by_one(_pull, info, in_dims, (g, x, knots, *how))
        return found
    g, x = (_in_front(dim, t, info.batch_size) for dim, t in zip(in_dims[:2], (g, x), strict=True))
    return _pull(g, x, knots, *how), 0


# -- operators: sums of the basis ----------------------------------------------------------------------------------


@torch.library.custom_op("holonomy::basis_combine", mutates_args=(), device_types="cpu")
def _combine(x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> Tensor:
    x, matrix = x.detach().contiguous(), coefficients.detach().flatten(1).t()
    y, blocks = x.new_zeros(x.shape[0], coefficients.shape[0]), _Blocks(x, knots, family, degree)
    for part in blocks.slices:
        blocks.load(x[part])
        blocks.evaluate()
        torch.mm(blocks.values.flatten(0, 1)[:, : len(y[part])].t(), matrix, out=y[part])
    return y


@_combine.register_kernel("cuda")
def _(x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> Tensor:
    if family == "bspline":
        _on_cuda().check_knots(knots)
    y: Tensor = _on_cuda().combine(x, knots, coefficients, family, degree)
    return y


@_combine.register_fake
def _(x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> Tensor:
    return x.new_empty(x.shape[0], coefficients.shape[0])


@torch.library.custom_op("holonomy::basis_combine_backward", mutates_args=(), device_types="cpu")
def _combine_backward(
    g: Tensor, x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int
) -> tuple[Tensor, Tensor]:
    g, x, matrix = g.detach().contiguous(), x.detach().contiguous(), coefficients.detach().flatten(1).t()
    gx, gm, blocks = x.new_zeros(x.shape), x.new_zeros(matrix.shape), _Blocks(x, knots, family, degree)
    for part in blocks.slices:
        blocks.load(x[part])
        blocks.evaluate()
        values = blocks.values.flatten(0, 1)[:, : len(g[part])]
        gm.addmm_(values, g[part])
        torch.mm(matrix, g[part].t(), out=values)
        blocks.pull(gx[part])
    return gx, gm.t().contiguous().view(coefficients.shape)


@_combine_backward.register_kernel("cuda")
def _(g: Tensor, x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> tuple[Tensor, Tensor]:
    gx, gc = _on_cuda().combine_backward(g, x, knots, coefficients, family, degree)
    return gx, gc


@_combine_backward.register_fake
def _(g: Tensor, x: Tensor, knots: Tensor, coefficients: Tensor, family: str, degree: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(coefficients.shape)


def _save_combine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, family, degree = inputs
    ctx.how = family, degree
    ctx.save_for_backward(*tensors)


def _pull_combine(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, knots, coefficients = ctx.saved_tensors
    gx, gc = _combine_backward(g, x, knots, coefficients, *ctx.how)
    return gx, None, gc, None, None


def _pull_combine_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    g, x, knots, coefficients = ctx.saved_tensors
    family, degree = ctx.how

    def gradients(g: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        pull = torch.func.vjp(lambda x, c: _combine_reference(x, knots, c, family, degree), x, coefficients)[1]
        return tuple(pull(g))

    along_g, along_x, along_c = torch.func.vjp(gradients, g, x, coefficients)[1](grads)
    return along_g, along_x, None, along_c, None, None


_combine.register_autograd(_pull_combine, setup_context=_save_combine)
_combine_backward.register_autograd(_pull_combine_backward, setup_context=_save_combine)


@_combine.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
    if in_dims[1] is not None or in_dims[2] is not None:
        found: tuple[Tensor, int] = _one_by_one(_combine, info, in_dims, inputs)
        return found
    x = inputs[0].movedim(in_dims[0], 0)
    return _combine(x.flatten(0, 1), *inputs[1:]).unflatten(0, x.shape[:2]), 0


@_combine_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
    return _one_by_one(_combine_backward, info, in_dims, inputs)


# -- public functions ----------------------------------------------------------------------------------------------


def _require_floating(name: str, **tensors: Tensor) -> None:
    for argument, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name}: '{argument}' must be a tensor of floating-point numbers, got {kind}")


def _check_knots(name: str, x: Tensor, knots: Tensor, degree: int) -> None:
    if degree < 0:
        raise ValueError(f"{name}: 'degree' must be at least 0, got {degree}")
    if knots.ndim not in (1, 2) or knots.shape[-1] < degree + 2:
        raise ValueError(
            f"{name}: 'knots' must have shape (count,) or (features, count) with count at least degree + 2 = "
            f"{degree + 2}, got {tuple(knots.shape)}"
        )
    if knots.ndim == 2 and (x.ndim < 1 or x.shape[-1] != knots.shape[0]):
        raise ValueError(
            f"{name}: 'x' must have the {knots.shape[0]} features of 'knots' in its last dimension, "
            f"got shape {tuple(x.shape)}"
        )


def _check_order(name: str, knots: Tensor) -> None:
    """Refuse knots that are not sorted, where their values are at hand; the kernels check for themselves."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(knots):
        return
    values = knots.detach()
    sound = values.isfinite().all() & (values.diff() >= 0).all() & (values[..., 0] < values[..., -1]).all()
    if not sound:
        raise ValueError(f"{name}: 'knots' must be finite, in ascending order and not all equal, got {values.tolist()}")


def _is_fused(degree: int, knots: Tensor, *tensors: Tensor) -> bool:
    # Gradients in the knots are left to the reference.
    moving, backend = knots.requires_grad and torch.is_grad_enabled(), dispatch.backend(knots, *tensors)
    if moving or backend is None:
        return False
    return backend == "numba" or degree <= int(_on_cuda().MOST_DEGREE)


def bspline_basis(x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Evaluate all B-splines of a knot vector.

    Function i lives on [t_i, t_(i + degree + 1)] and is zero elsewhere, so that everything is zero outside of
    [t_0, t_last]. The functions sum to one on [t_degree, t_(-degree - 1)] only; extend a grid by `degree` knots on
    either side, or repeat its ends, for the sum to be one on the whole grid. Functions and derivatives are continuous
    from the right at knots, and the last interval contains its right end, where they are continuous from the left.

    Parameters
    ----------
    x : Tensor, shape (...) or (..., features)
        Points; NaN gives NaN.
    knots : Tensor, shape (count,) or (features, count)
        Knots in ascending order, which may repeat; one vector for all points, or one for each feature.
    degree : int
        Degree of the polynomial pieces; 3 for cubic splines.

    Returns
    -------
    Tensor, shape (..., count - degree - 1)
        Values, differentiable in x to any order. Gradients in the knots are those of the plain torch recursion.

    Raises
    ------
    ValueError
        If the degree is negative, there are fewer than degree + 2 knots, the knots decrease, are not finite or are
        all equal, or the number of features differs from that of x.
    TypeError
        If x or the knots do not hold floating-point numbers.

    References
    ----------
    de Boor, A practical guide to splines (1978), chapter X.
    """
    _require_floating("bspline_basis", x=x, knots=knots)
    _check_knots("bspline_basis", x, knots, degree)
    if _is_fused(degree, knots, x):
        return _values(x, knots, "bspline", degree, 0)
    _check_order("bspline_basis", knots)
    return bspline_reference(x, knots, degree)


def chebyshev_basis(x: Tensor, degree: int) -> Tensor:
    """Evaluate the Chebyshev polynomials of the first kind T_0, ..., T_degree.

    T_n(x) = cos(n arccos x) for |x| <= 1. Outside the polynomials are continued by their recurrence
    T_(n+1) = 2 x T_n - T_(n-1) and grow like (2 |x|)^n / 2: bound x first, by tanh for example.

    Parameters
    ----------
    x : Tensor, shape (...)
        Points.
    degree : int
        Highest degree.

    Returns
    -------
    Tensor, shape (..., degree + 1)
        Values, differentiable to any order; the derivative of T_n is n U_(n-1).

    Raises
    ------
    ValueError
        If the degree is negative.
    TypeError
        If x does not hold floating-point numbers.
    """
    _require_floating("chebyshev_basis", x=x)
    if degree < 0:
        raise ValueError(f"chebyshev_basis: 'degree' must be at least 0, got {degree}")
    if dispatch.backend(x) is not None:
        return _values(x, x.new_empty(0), "chebyshev", degree, 0)
    return chebyshev_reference(x, degree)


def _check_coefficients(name: str, x: Tensor, coefficients: Tensor, size: int | None) -> None:
    wanted = (x.shape[-1] if x.ndim else 1, "functions" if size is None else size)
    given = tuple(coefficients.shape)
    if coefficients.ndim != 3 or x.ndim < 1 or given[1] != wanted[0] or given[2] < 1 or size not in (None, given[2]):
        raise ValueError(
            f"{name}: 'coefficients' must have shape (outputs, {wanted[0]}, {wanted[1]}) for 'x' of shape "
            f"{tuple(x.shape)}, got {given}"
        )


def bspline_combine(x: Tensor, knots: Tensor, coefficients: Tensor, degree: int) -> Tensor:
    """Sum splines over features: y_o = sum_j sum_i coefficients[o, j, i] B_i(x_j), a Kolmogorov-Arnold layer.

    Parameters
    ----------
    x : Tensor, shape (..., features)
        Points. A feature outside its knots contributes zero.
    knots : Tensor, shape (count,) or (features, count)
        Knots in ascending order, one vector for all features or one for each.
    coefficients : Tensor, shape (outputs, features, count - degree - 1)
        Coefficients of the B-splines.
    degree : int
        Degree of the polynomial pieces.

    Returns
    -------
    Tensor, shape (..., outputs)
        Sums, differentiable in x and the coefficients (and by the plain torch recursion in the knots).

    Raises
    ------
    ValueError
        As for `bspline_basis`, and if the coefficients' shape does not fit.
    TypeError
        If an argument does not hold floating-point numbers.

    References
    ----------
    Liu et al., KAN: Kolmogorov-Arnold networks (ICLR 2025), section 2.2.
    """
    _require_floating("bspline_combine", x=x, knots=knots, coefficients=coefficients)
    _check_knots("bspline_combine", x, knots, degree)
    _check_coefficients("bspline_combine", x, coefficients, knots.shape[-1] - degree - 1)
    if _is_fused(degree, knots, x, coefficients):
        y = _combine(x.reshape(-1, x.shape[-1]), knots, coefficients, "bspline", degree)
        return y.reshape(*x.shape[:-1], y.shape[-1])
    _check_order("bspline_combine", knots)
    return _combine_reference(x, knots, coefficients, "bspline", degree)


def chebyshev_combine(x: Tensor, coefficients: Tensor) -> Tensor:
    """Sum Chebyshev series over features: y_o = sum_j sum_n coefficients[o, j, n] T_n(x_j).

    Parameters
    ----------
    x : Tensor, shape (..., features)
        Points, in [-1, 1] unless growth is wanted; see `chebyshev_basis`.
    coefficients : Tensor, shape (outputs, features, degree + 1)
        Coefficients of T_0, ..., T_degree.

    Returns
    -------
    Tensor, shape (..., outputs)
        Sums, differentiable in x and the coefficients.

    Raises
    ------
    ValueError
        If the coefficients' shape does not fit that of x.
    TypeError
        If an argument does not hold floating-point numbers.
    """
    _require_floating("chebyshev_combine", x=x, coefficients=coefficients)
    _check_coefficients("chebyshev_combine", x, coefficients, None)
    degree, nothing = coefficients.shape[-1] - 1, x.new_empty(0)
    if dispatch.backend(x, coefficients) is not None:
        y = _combine(x.reshape(-1, x.shape[-1]), nothing, coefficients, "chebyshev", degree)
        return y.reshape(*x.shape[:-1], y.shape[-1])
    return _combine_reference(x, nothing, coefficients, "chebyshev", degree)

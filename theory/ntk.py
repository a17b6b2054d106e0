"""Kernels of infinitely wide networks, the empirical neural tangent kernel of any module, and regression with them.

Arc-cosine kernels are those of ReLU: k1 for its products, k0 for those of its derivative, both 1 for parallel inputs
(Cho and Saul, NIPS 2009).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

__all__ = ["KernelRegressor", "arc_cosines", "empirical_ntk", "fc_kernels", "k0", "k1", "kernel_regression"]

NTKMethod = Literal["jacobian", "products", "structured"]
#: Numbers that the Jacobians of a block of inputs may hold together: 256 MB in float32.
_JACOBIANS = 1 << 26


# -- arc-cosine kernels --------------------------------------------------------------------------------------------


def _angle(t: Tensor) -> tuple[Tensor, Tensor]:
    """Angle and sine of a cosine, with finite derivatives at 1 and -1, where those of the kernels are 0 or dropped."""
    inside = t.clamp(-1.0, 1.0)
    edge = inside.abs() == 1.0
    safe = torch.where(edge, 0.0, inside)
    sine = torch.sqrt((1.0 - safe) * (1.0 + safe))
    # arccos loses half of the digits near 1; the arctangent of sine and cosine does not.
    angle = torch.atan2(sine, safe)
    ends = math.pi * (inside < 0.0).to(t.dtype)
    return torch.where(edge, ends, angle), torch.where(edge, 0.0, sine)


def k0(t: Tensor) -> Tensor:
    """Arc-cosine kernel of degree 0: (pi - arccos t)/pi, twice the mean of two steps' product.

    Parameters
    ----------
    t : Tensor
        Cosines; numbers beyond [-1, 1] count as its ends. The derivative is infinite there, and 0 is returned.
    """
    _require_real("k0", "t", t)
    return 1.0 - _angle(t)[0] / math.pi


def k1(t: Tensor) -> Tensor:
    """Arc-cosine kernel of degree 1: (t (pi - arccos t) + sqrt(1 - t^2))/pi, twice the mean of two ReLUs' product.

    Parameters
    ----------
    t : Tensor
        Cosines; numbers beyond [-1, 1] count as its ends. The derivative is k0(t), 1 and 0 at the ends.
    """
    _require_real("k1", "t", t)
    return _K1.apply(t)


def arc_cosines(t: Tensor) -> tuple[Tensor, Tensor]:
    """k0 and k1 of the same cosines; without gradients, both from one angle and without masks."""
    if torch.is_grad_enabled() and t.requires_grad:
        return k0(t), k1(t)
    t = t.clamp(-1.0, 1.0)
    angle = torch.acos(t).neg_().add_(math.pi)
    sine = torch.mul(1.0 - t, 1.0 + t).sqrt_()
    one = sine.addcmul_(t, angle).div_(math.pi)
    return angle.div_(math.pi), one


class _K1(torch.autograd.Function):
    """k1 with its derivative k0, which is right at the ends, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        angle, sine = _angle(t)
        t = t.clamp(-1.0, 1.0)
        return (t * (math.pi - angle) + sine) / math.pi

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        return grads[0] * k0(t)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        return tangents[0] * k0(t)


def fc_kernels(
    X: Tensor, Y: Tensor | None = None, depth: int = 1, sigma_w2: float = 2.0, sigma_b2: float = 0.0
) -> tuple[Tensor, Tensor]:
    """NNGP and NTK of a fully connected ReLU network of infinite width, in the NTK parametrisation.

    K^1 = sigma_b2 + sigma_w2 x.y/d, K^(l+1) = sigma_b2 + (sigma_w2/2) sqrt(K_xx K_yy) k1, Theta^1 = K^1 and
    Theta^(l+1) = K^(l+1) + (sigma_w2/2) Theta^l k0 (Jacot, Gabriel, Hongler, NeurIPS 2018).

    Parameters
    ----------
    X, Y : Tensor, shape (n, d) and (m, d)
        Inputs; Y = X where it is left out.
    depth : int, default 1
        Hidden layers; 0 is a linear model.
    sigma_w2, sigma_b2 : float
        Variances of weights (times fan-in) and biases.

    Returns
    -------
    nngp, ntk : Tensor, shape (n, m)
        Where inputs nearly coincide, the NTK has half of the digits: k0 rises like a root at cosine 1. It has all of
        them on the diagonal of one set of inputs.

    Raises
    ------
    TypeError
        For integer tensors.
    ValueError
        For inputs that are not matrices of one width, a negative depth, sigma_w2 <= 0, or sigma_b2 < 0.
    """
    Y = X if Y is None else Y
    for name, tensor in (("X", X), ("Y", Y)):
        _require_real("fc_kernels", name, tensor)
        if tensor.ndim != 2 or tensor.shape[1] != X.shape[1] or not tensor.shape[1]:
            raise ValueError(f"fc_kernels: {name!r} must be (n, {X.shape[-1]}), got {tuple(tensor.shape)}")
    if depth < 0:
        raise ValueError(f"fc_kernels: 'depth' must be at least 0, got {depth}")
    if not sigma_w2 > 0 or not sigma_b2 >= 0:
        raise ValueError(f"fc_kernels: wanted sigma_w2 > 0 and sigma_b2 >= 0, got {sigma_w2} and {sigma_b2}")
    d = X.shape[1]
    x, y = (sigma_b2 + sigma_w2 * t.square().sum(1) / d for t in (X, Y))
    nngp = sigma_b2 + sigma_w2 * (X @ Y.mT) / d
    ntk = nngp
    for _ in range(depth):
        scale = torch.sqrt(x.unsqueeze(1) * y)
        cosine = nngp / torch.where(scale > 0, scale, 1.0)
        if Y is X:
            cosine = torch.diagonal_scatter(cosine, torch.ones_like(x))
        zero, one = arc_cosines(cosine)
        nngp = sigma_b2 + 0.5 * sigma_w2 * scale * one
        ntk = nngp + 0.5 * sigma_w2 * ntk * zero
        x, y = (sigma_b2 + 0.5 * sigma_w2 * t for t in (x, y))
    return nngp, ntk


# -- empirical kernels ---------------------------------------------------------------------------------------------


def empirical_ntk(
    model: nn.Module,
    X: Tensor,
    Y: Tensor | None = None,
    *,
    method: NTKMethod = "jacobian",
    trace: bool = True,
    block: int | None = None,
) -> Tensor:
    """Neural tangent kernel of a module at its present parameters: sum over parameters of df_i(x) df_j(y).

    Buffers are kept as they are, and the module in the mode it is in. Every output must depend on its own input alone
    (no batch statistics).

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to (n, outputs) or (n,).
    X, Y : Tensor
        Batches of inputs, n and m; Y = X where it is left out.
    method : {"jacobian", "products", "structured"}
        ``jacobian``: Jacobians of blocks of inputs, contracted; O(n outputs parameters) memory a block. ``products``:
        J_x (J_y^T e) for each y and output, by one backward and one forward pass; the memory of a few gradients, and
        it never holds a Jacobian. ``structured``: contracts each `nn.Linear` layer's gradients as
        (input . input + 1)(delta . delta), without forming them; the other parameters by their Jacobians.
    trace : bool, default True
        Return the mean over the outputs' diagonal, (n, m); else (n, m, outputs, outputs).
    block : int, optional
        Inputs whose Jacobians are held at a time; by default as many as fit 256 MB.

    Returns
    -------
    Tensor

    Raises
    ------
    TypeError
        If `model` is no module, or has no parameters of a real dtype that require gradients.
    ValueError
        For an unknown method or a block below 1.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"empirical_ntk: 'model' must be an nn.Module, got {type(model).__name__}")
    if method not in get_args(NTKMethod):
        raise ValueError(f"empirical_ntk: 'method' must be one of {get_args(NTKMethod)}, got {method!r}")
    if block is not None and block < 1:
        raise ValueError(f"empirical_ntk: 'block' must be at least 1, got {block}")
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise TypeError("empirical_ntk: 'model' has no parameters that require gradients")
    Y = X if Y is None else Y
    function = _single(model)
    outputs = vmap(lambda x: function(parameters, x))(X[:1]).shape[1]
    if block is None:
        numbers = outputs * sum(p.numel() for p in parameters.values())
        block = max(1, _JACOBIANS // (2 * numbers))
    compute = {"jacobian": _by_jacobians, "products": _by_products, "structured": _by_structure}[method]
    with torch.no_grad():
        rows = [
            torch.cat([compute(model, function, parameters, x, y) for y in Y.split(block)], 1) for x in X.split(block)
        ]
        kernel = torch.cat(rows)
    return kernel.diagonal(dim1=2, dim2=3).mean(-1) if trace else kernel


Function = Callable[[dict[str, Tensor], Tensor], Tensor]


def _single(model: nn.Module) -> Function:
    """The module as a function of its parameters and one input, with its outputs as a vector."""
    kept = {name: b.detach() for name, b in model.named_buffers()}
    kept |= {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}

    def function(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(model, (parameters, kept), (x.unsqueeze(0),))
        return result.reshape(-1)

    return function


def _jacobians(function: Function, parameters: dict[str, Tensor], x: Tensor) -> Iterator[Tensor]:
    """Jacobians (n, outputs, numbers), one parameter after the other."""
    for jacobian in vmap(jacrev(function), (None, 0))(parameters, x).values():
        yield jacobian.flatten(2)


def _contracted(first: Tensor, second: Tensor) -> Tensor:
    return torch.einsum("nip,mjp->nmij", first, second)


def _by_jacobians(model: nn.Module, function: Function, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(_jacobians(function, parameters, x), _jacobians(function, parameters, y), strict=True)
    return torch.stack([_contracted(a, b) for a, b in pairs]).sum(0)


def _by_products(model: nn.Module, function: Function, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    def column(one: Tensor) -> Tensor:
        value, pull = vjp(lambda p: function(p, one), parameters)[:2]

        def product(unit: Tensor) -> Tensor:
            (tangent,) = pull(unit)
            return vmap(lambda other: jvp(lambda p: function(p, other), (parameters,), (tangent,))[1])(x)

        return vmap(product)(torch.eye(len(value), dtype=value.dtype, device=value.device))  # (j, n, i)

    return torch.stack([column(one) for one in y]).permute(2, 0, 3, 1)  # (m, j, n, i) -> (n, m, i, j)


def _by_structure(model: nn.Module, function: Function, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Linear layers by their inputs and by the outputs' gradients with respect to what they return."""
    layers = _structured_layers(model, parameters, x[:1])
    taken = {name for prefix, layer in layers.items() for name in _own(prefix, layer)}
    rest = {name: p for name, p in parameters.items() if name not in taken}
    mine = {name: p for name, p in parameters.items() if name in taken}

    def gathered(batch: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        return vmap(lambda one: _trace_layers(layers, lambda p, z: function({**mine, **p}, z), rest, one))(batch)

    a, b = gathered(x), gathered(y)
    total = x.new_zeros(())
    for name in layers:
        inner = torch.einsum("nsi,mti->nmst", a[0][name], b[0][name])
        if f"{name}.bias" in taken:
            inner = inner + 1.0
        total = total + torch.einsum("nmst,nosk,mptk->nmop", inner, a[1][name], b[1][name])
    for name in rest:
        total = total + _contracted(a[2][name].flatten(2), b[2][name].flatten(2))
    return total


def _own(prefix: str, layer: nn.Linear) -> list[str]:
    return [f"{prefix}.{name}" for name, p in layer.named_parameters() if p.requires_grad]


def _structured_layers(model: nn.Module, parameters: dict[str, Tensor], one: Tensor) -> dict[str, nn.Linear]:
    """Linear layers that own their weight alone and run once: what is tied or runs again is left to Jacobians."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    layers = {
        name: module
        for name, module in model.named_modules()
        if name
        and type(module) is nn.Linear
        and f"{name}.weight" in parameters
        and all(owners[id(p)] == 1 for p in module.parameters())
    }
    runs: Counter[str] = Counter()
    handles = [layer.register_forward_pre_hook(lambda *_, n=name: runs.update([n])) for name, layer in layers.items()]
    try:
        model(one)
    finally:
        for handle in handles:
            handle.remove()
    return {name: layer for name, layer in layers.items() if runs[name] == 1}


def _trace_layers(
    layers: dict[str, nn.Linear], function: Function, rest: dict[str, Tensor], one: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Inputs (s, in) of the layers, gradients (outputs, s, out) behind them, and the other parameters' Jacobians."""
    inputs: dict[str, Tensor] = {}

    def run(offsets: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        def hook(name: str) -> Callable[..., Tensor]:
            def add(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
                inputs[name] = given[0]
                return result + offsets[name] if name in offsets else result

            return add

        handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
        try:
            return function(others, one)
        finally:
            for handle in handles:
                handle.remove()

    run({}, rest)
    shapes = {name: (*value.shape[:-1], layers[name].out_features) for name, value in inputs.items()}
    offsets = {name: one.new_zeros(shape) for name, shape in shapes.items()}
    held = {name: value.reshape(-1, value.shape[-1]) for name, value in inputs.items()}
    deltas, others = jacrev(run, argnums=(0, 1))(offsets, rest)
    return held, {name: d.reshape(d.shape[0], -1, d.shape[-1]) for name, d in deltas.items()}, others


# -- regression ----------------------------------------------------------------------------------------------------


def kernel_regression(K: Tensor, y: Tensor, ridge: float = 0.0) -> Tensor:
    """Coefficients (K + ridge I)^-1 y of kernel regression, by Cholesky's factorisation.

    Parameters
    ----------
    K : Tensor, shape (n, n)
        Positive definite with its ridge.
    y : Tensor, shape (n,) or (n, outputs)
        Values.
    ridge : float, default 0
        Added to the diagonal.

    Raises
    ------
    TypeError
        For integer tensors.
    ValueError
        For a negative ridge, shapes that do not fit, or a matrix that is not positive definite.
    """
    _require_real("kernel_regression", "K", K)
    _require_real("kernel_regression", "y", y)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or len(y) != len(K) or y.ndim > 2:
        raise ValueError(
            f"kernel_regression: wanted K (n, n) and y (n, ...), got {tuple(K.shape)} and {tuple(y.shape)}"
        )
    if not ridge >= 0:
        raise ValueError(f"kernel_regression: 'ridge' must be at least 0, got {ridge}")
    shifted = K.clone()
    shifted.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if bool(failed):
        raise ValueError(f"kernel_regression: K + {ridge} I is not positive definite; equal inputs need a ridge")
    columns = y if y.ndim == 2 else y.unsqueeze(1)
    return torch.cholesky_solve(columns.to(K.dtype), factor).view_as(y)


class KernelRegressor:
    """Kernel ridge regression in scikit-learn's habit.

    Parameters
    ----------
    kernel : callable
        ``kernel(X, Y) -> (n, m)``.
    ridge : float, default 0
        Added to the Gram matrix's diagonal.

    Attributes
    ----------
    X_, coefficients_ : Tensor
        What `fit` keeps.
    """

    def __init__(self, kernel: Callable[[Tensor, Tensor], Tensor], ridge: float = 0.0) -> None:
        self.kernel = kernel
        self.ridge = ridge

    def fit(self, X: Tensor, y: Tensor) -> "KernelRegressor":
        """Solve for the coefficients; parameters and exceptions are those of `kernel_regression`."""
        self.coefficients_ = kernel_regression(self.kernel(X, X), y, self.ridge)
        self.X_ = X
        return self

    def predict(self, X: Tensor) -> Tensor:
        """Values at new inputs, (n,) or (n, outputs).

        Raises
        ------
        RuntimeError
            Before `fit`.
        """
        if not hasattr(self, "X_"):
            raise RuntimeError("KernelRegressor: call fit before predict")
        return self.kernel(X, self.X_) @ self.coefficients_


def _require_real(function: str, name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{function}: {name!r} must be a tensor of a real floating dtype, got {kind}")

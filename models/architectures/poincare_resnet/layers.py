"""Layers of the Poincaré ResNet: linear, hyperplane classifier, convolution, ReLU, pooling and residual join.

A layer's input and output are carried in one of two ways. With ``space="tangent"`` (the default) a point of the ball is
represented by its tangent vector at the origin: the layers map in and out themselves, and ReLU, pooling and stride
act on plain vectors. With ``space="ball"`` the tensors hold the points. Both give the same network up to exp0 and log0.
The ball axis is the channel axis: 1 in feature maps (B, C, H, W), the last one in `PoincareLinear` and `PoincareMLR`.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet.functions import (
    Backward,
    dot,
    expmap0,
    half,
    logmap0,
    projection_limit,
)
from holonomy.models.architectures.poincare_resnet.gyroplanes import (
    Space,
    Target,
    carrier,
    gyroplanes,
    patch_squares,
    safe_norm,
)
from holonomy.models.architectures.poincare_resnet.transforms import join

__all__ = [
    "Init",
    "PoincareAvgPool2d",
    "PoincareConv2d",
    "PoincareLayer",
    "PoincareLinear",
    "PoincareMLR",
    "PoincareReLU",
    "PoincareResidual",
    "beta_ratio",
]

Init = Literal["identity", "identity_eye", "hnn"]
Order = Literal["fr", "rf", "none"]
Size = int | tuple[int, int]

INITS = ("identity", "identity_eye", "hnn")
ORDERS = ("fr", "rf", "none")
SPACES = ("tangent", "ball")


def beta_ratio(inputs: int, outputs: int) -> float:
    """B(outputs/2, 1/2) / B(inputs/2, 1/2): the factor that keeps expected norms when vectors are concatenated.

    Multiplies the tangent vectors of size `inputs` that make up one of size `outputs` (HNN++, beta-concatenation).
    """

    def log_beta(n: int) -> float:
        return math.lgamma(n / 2) + math.lgamma(0.5) - math.lgamma((n + 1) / 2)

    return math.exp(log_beta(outputs) - log_beta(inputs))


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return `value`, or raise ValueError that names what is allowed."""
    if value not in allowed:
        raise ValueError(f"{name!r} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def _count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name!r} must be an integer of at least 1, got {value!r}")
    return value


def _pair(name: str, value: Size, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, int) or v < least for v in pair):
        raise ValueError(f"{name!r} must be one or two integers of at least {least}, got {value!r}")
    return pair[0], pair[1]


def _autocast(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Context that switches autocast off where it is on: half precision inside a geometric formula loses the ball."""
    return torch.autocast(x.device.type, enabled=False) if _autocast(x) else nullcontext()


class PoincareLayer(nn.Module):
    """What the layers share: the ball, the carrier, the checks, and the rule for low precision.

    Subclasses define `_apply_layer`, which sees a checked input of float32 or float64.

    Raises
    ------
    TypeError
        From the constructor where `ball` is no PoincareBall; from calls where the input is no tensor of a real floating
        dtype, or does not agree with the layer's parameters or the ball in dtype or device.
    ValueError
        For an unknown option, or an input whose shape does not fit; with ``ball.validate`` also for NaN, infinities
        and (``space="ball"``) points outside the ball.
    """

    #: Axis that holds a point's coordinates.
    axis = 1
    #: Number of dimensions an input may have; empty for any.
    dims: tuple[int, ...] = (4,)

    def __init__(self, ball: PoincareBall | None, space: Space = "tangent", backward: Backward = "manual") -> None:
        super().__init__()
        if ball is not None and not isinstance(ball, PoincareBall):
            raise TypeError(f"'ball' must be a PoincareBall, got {type(ball).__name__}")
        choice("backward", backward, ("manual", "autograd"))
        self.ball = ball
        self.space: Space = choice("space", space, SPACES)  # type: ignore[assignment]
        self.backward: Backward = backward

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; half precision is computed in float32, and autocast does not reach inside."""
        self._check(x, "x")
        dtype = x.dtype
        work = torch.float64 if dtype == torch.float64 else torch.float32
        with full_precision(x):
            return self._apply_layer(x.to(work)).to(dtype)

    def _apply_layer(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _c(self, x: Tensor) -> Tensor:
        assert self.ball is not None
        c = self.ball.c
        return c.to(x.dtype).reshape(()) if isinstance(c, Tensor) else torch.full((), c, dtype=x.dtype, device=x.device)

    def _check(self, x: Tensor, name: str) -> None:
        layer = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"{layer}: {name!r} must be a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{layer}: {name!r} must have a real floating dtype, got {x.dtype}")
        if self.dims and x.dim() not in self.dims:
            wanted = " or ".join(map(str, self.dims))
            raise ValueError(f"{layer}: {name!r} has shape {tuple(x.shape)}, wanted {wanted} dimensions")
        self._check_kind(x, name)
        if self.ball is not None and self.ball.validate:
            self._check_values(x, name)

    def _check_kind(self, x: Tensor, name: str) -> None:
        """Parameters must have the input's dtype and device, the ball's curvature the working dtype and the device."""
        layer = type(self).__name__
        mixed = _autocast(x)
        for parameter in self.parameters(recurse=False):
            if parameter.device != x.device or (parameter.dtype != x.dtype and not mixed):
                raise TypeError(
                    f"{layer}: {name!r} is {x.dtype} on {x.device}, but the layer is {parameter.dtype} on "
                    f"{parameter.device}: move them together with .to()"
                )
        c = self.ball.c if self.ball is not None else None
        if not isinstance(c, Tensor):
            return
        if c.numel() != 1:
            raise ValueError(f"{layer}: 'ball' must have one curvature, got c of shape {tuple(c.shape)}")
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        if c.device != x.device or (torch.promote_types(c.dtype, torch.float32) != wide and not mixed):
            raise TypeError(
                f"{layer}: {name!r} is {x.dtype} on {x.device}, but its ball's c is {c.dtype} on {c.device}: "
                "move them together with .to()"
            )

    def _check_values(self, x: Tensor, name: str) -> None:
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{type(self).__name__}: {name!r} has NaN or infinite entries")
        if self.space == "ball":
            radius = float((self._c(x).sqrt() * torch.linalg.vector_norm(x, dim=self.axis)).amax())
            if radius >= 1.0:
                raise ValueError(f"{type(self).__name__}: {name!r} leaves the ball: sqrt(c) |x| reaches {radius:.6g}")

    def _check_features(self, x: Tensor, features: int, name: str = "x") -> None:
        if x.dim() <= self.axis or x.shape[self.axis] != features:
            raise ValueError(
                f"{type(self).__name__}: {name!r} has shape {tuple(x.shape)}, wanted {features} features along "
                f"dimension {self.axis}"
            )

    def _to_tangent(self, x: Tensor, dim: int) -> Tensor:
        return logmap0(x, self._c(x), dim, backward=self.backward) if self.space == "ball" else x

    def _from_tangent(self, v: Tensor, dim: int) -> Tensor:
        if self.space == "tangent":
            return v
        return expmap0(v, self._c(v), dim, limit=projection_limit(v.dtype), backward=self.backward)


@torch.no_grad()
def _reset_weight(weight: Tensor, init: Init, taps: int, centre: int, generator: torch.Generator | None) -> None:
    """Fill weights (out, in * taps), tap fastest, by the named rule."""
    outputs, size = weight.shape
    inputs = size // taps
    weight.normal_(0.0, (2.0 * size * outputs) ** -0.5, generator=generator)
    if init == "hnn":
        return
    if init == "identity_eye":
        kept = min(outputs, size)
        weight[:kept] = 0.5 * torch.eye(kept, size, dtype=weight.dtype, device=weight.device)
        return
    # Rows past the number of inputs have no input to repeat: they stay normal.
    kept = min(outputs, inputs)
    kernel = torch.zeros(kept, inputs, taps, dtype=weight.dtype, device=weight.device)
    kernel[range(kept), range(kept), centre] = 0.5 / beta_ratio(inputs, size)
    weight[:kept] = kernel.flatten(1)


class _Gyroplanes(PoincareLayer):
    """Layers with a weight column z_k and a bias r_k per output."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def _make(self, shape: tuple[int, ...], bias: bool, dtype: torch.dtype | None, device: torch.device | None) -> None:
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(shape[0], dtype=dtype, device=device)) if bias else None

    def _columns(self, like: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, norms of its columns and biases, in the working dtype."""
        weight = self.weight.to(like.dtype)
        norm = safe_norm(weight, tuple(range(1, weight.dim()))).view(shape)
        r = torch.zeros_like(norm) if self.bias is None else self.bias.to(like.dtype).view(shape)
        return weight, norm, r


class PoincareLinear(_Gyroplanes):
    """Poincaré fully-connected layer of HNN++ over the last dimension.

    Output k is sinh of the signed distance to hyperplane k, put back into the ball. With weight I/2 and bias 0 the
    layer is exactly the identity of the ball. As c -> 0 it tends to the affine map 2 <x, z_k> - 2 |z_k| r_k.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last dimension.
    bias : bool
        Whether hyperplanes have an offset r_k along their normal.
    ball : PoincareBall
        Geometry of input and output.
    init : {"identity", "identity_eye", "hnn"}
        ``"identity"`` (the same as ``"identity_eye"`` here): I/2, normal as in ``"hnn"`` for outputs past the number of
        inputs. ``"hnn"``: normal with variance 1 / (2 in out), under which norms decay from layer to layer.
    space : {"tangent", "ball"}
        Carrier of input and output.
    backward : {"manual", "autograd"}
        Hand-written backward passes, or autograd through the same formulas.
    generator : torch.Generator, optional
        Source of the normal initial values.

    Attributes
    ----------
    weight : Parameter
        (out_features, in_features): row k is z_k, as in torch.nn.Linear.
    bias : Parameter or None
        (out_features,)
    """

    axis = -1
    dims = ()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        ball: PoincareBall,
        init: Init = "identity",
        space: Space = "tangent",
        backward: Backward = "manual",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(require_ball(ball), space, backward)
        self.in_features, self.out_features = _count("in_features", in_features), _count("out_features", out_features)
        self.init: Init = choice("init", init, INITS)  # type: ignore[assignment]
        self._make((out_features, in_features), bias, dtype, device)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight by `init` and set the bias to 0."""
        _reset_weight(self.weight, self.init, 1, 0, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Return the arguments shown in ``repr``."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, init={self.init!r}"

    def _check(self, x: Tensor, name: str) -> None:
        super()._check(x, name)
        self._check_features(x, self.in_features, name)

    def _planes(self, x: Tensor, target: Target) -> Tensor:
        weight, norm, r = self._columns(x, (-1,))
        n2 = dot(x, x, -1)
        m = F.linear(x, weight)
        return gyroplanes(m, n2, norm, r, self._c(x), -1, source=self.space, target=target, backward=self.backward)

    def _apply_layer(self, x: Tensor) -> Tensor:
        return self._planes(x, self.space)


class PoincareMLR(PoincareLinear):
    """Hyperbolic multinomial logistic regression: the signed distances v_k = 2 |z_k| dist(x, hyperplane k), as logits.

    Parameters
    ----------
    in_features, classes : int
        Size of the input, number of hyperplanes.
    ball : PoincareBall
        Geometry of the input.
    bias, init, space, backward, generator, dtype, device
        As in `PoincareLinear`; ``init="hnn"`` is the default, since classes have no input to repeat.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        ball: PoincareBall,
        *,
        bias: bool = True,
        init: Init = "hnn",
        space: Space = "tangent",
        backward: Backward = "manual",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(
            in_features,
            classes,
            bias,
            ball=ball,
            init=init,
            space=space,
            backward=backward,
            generator=generator,
            dtype=dtype,
            device=device,
        )

    def _apply_layer(self, x: Tensor) -> Tensor:
        return self._planes(x, "distance")


class PoincareConv2d(_Gyroplanes):
    """Poincaré convolution: every patch is concatenated to one point, to which a Poincaré linear layer is applied.

    The tangent vectors of a patch are scaled by B(n/2, 1/2) / B(C_in/2, 1/2), n = C_in * taps, so that the patch has
    the expected norm of its pixels. Padding contributes points at the origin. The patches are never formed: the
    layer costs one torch convolution, plus a one-channel one for their lengths, plus work proportional to the output.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels; the ball axis.
    kernel_size, stride, padding, dilation : int or pair of int
        As in torch.nn.Conv2d.
    bias : bool
        Whether hyperplanes have an offset r_k.
    ball : PoincareBall
        Geometry of input and output.
    init : {"identity", "identity_eye", "hnn"}
        ``"identity"``: half a Dirac kernel, times the inverse of the patch scaling, so that norms are kept; normal as
        in ``"hnn"`` for outputs past the number of inputs. ``"identity_eye"``: half an identity matrix on the unfolded
        patch (output j repeats input j // taps at tap j % taps), without compensation. ``"hnn"``: normal with
        variance 1 / (2 n C_out).
    space, backward, generator, dtype, device
        As in `PoincareLinear`.

    Attributes
    ----------
    weight : Parameter
        (out_channels, in_channels, *kernel_size), as in torch.nn.Conv2d.
    bias : Parameter or None
        (out_channels,)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = True,
        *,
        ball: PoincareBall,
        init: Init = "identity",
        space: Space = "tangent",
        backward: Backward = "manual",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(require_ball(ball), space, backward)
        self.in_channels, self.out_channels = _count("in_channels", in_channels), _count("out_channels", out_channels)
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
        self.padding = _pair("padding", padding, 0)
        self.init: Init = choice("init", init, INITS)  # type: ignore[assignment]
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.gain = beta_ratio(in_channels, in_channels * taps)
        self._make((out_channels, in_channels, *self.kernel_size), bias, dtype, device)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight by `init` and set the bias to 0."""
        height, width = self.kernel_size
        centre = (height // 2) * width + width // 2
        _reset_weight(self.weight.view(self.out_channels, -1), self.init, height * width, centre, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Return the arguments shown in ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}, init={self.init!r}"
        )

    def _check(self, x: Tensor, name: str) -> None:
        super()._check(x, name)
        self._check_features(x, self.in_channels, name)
        for side, size, kernel, pad, dilation in zip(
            ("height", "width"), x.shape[2:], self.kernel_size, self.padding, self.dilation, strict=True
        ):
            reach = dilation * (kernel - 1) + 1
            if reach > size + 2 * pad:
                raise ValueError(
                    f"PoincareConv2d: {name!r} has {side} {size}, padded {size + 2 * pad}, smaller than the dilated "
                    f"kernel's {reach}"
                )

    def _apply_layer(self, x: Tensor) -> Tensor:
        v = self._to_tangent(x, -3)
        weight, norm, r = self._columns(v, (-1, 1, 1))
        placing = self.stride, self.padding, self.dilation
        m = F.conv2d(v, weight, None, *placing)
        n2 = patch_squares(v, self.kernel_size, *placing, backward=self.backward)
        return gyroplanes(
            m, n2, norm, r, self._c(v), -3, source="tangent", target=self.space, gain=self.gain, backward=self.backward
        )


class PoincareReLU(PoincareLayer):
    """ReLU in the tangent space at the origin.

    Parameters
    ----------
    ball : PoincareBall, optional
        Needed for ``space="ball"``, where points are mapped to the tangent space and back.
    space, backward
        As in `PoincareLinear`.
    """

    dims = ()

    def __init__(
        self, ball: PoincareBall | None = None, *, space: Space = "tangent", backward: Backward = "manual"
    ) -> None:
        super().__init__(require_ball(ball) if space == "ball" else ball, space, backward)

    def _apply_layer(self, x: Tensor) -> Tensor:
        dim = 1 - x.dim()
        return self._from_tangent(F.relu(self._to_tangent(x, dim)), dim)


class PoincareAvgPool2d(PoincareLayer):
    """Average pooling of feature maps, in the tangent space or by the gyromidpoint.

    Parameters
    ----------
    kernel_size : int, pair of int, or None
        Window; None pools the whole map to one point, whatever its size.
    mode : {"tangent", "midpoint"}
        Mean of the tangent vectors at the origin, or midpoint of the points.
    ball : PoincareBall, optional
        Needed for ``mode="midpoint"`` and for ``space="ball"``.
    stride, padding : int or pair of int, optional
        As in torch.nn.AvgPool2d; padding contributes points at the origin.
    space, backward
        As in `PoincareLinear`.
    """

    def __init__(
        self,
        kernel_size: Size | None = None,
        mode: Literal["tangent", "midpoint"] = "tangent",
        *,
        ball: PoincareBall | None = None,
        stride: Size | None = None,
        padding: Size = 0,
        space: Space = "tangent",
        backward: Backward = "manual",
    ) -> None:
        choice("mode", mode, ("tangent", "midpoint"))
        super().__init__(require_ball(ball) if mode == "midpoint" or space == "ball" else ball, space, backward)
        self.kernel_size = None if kernel_size is None else _pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _pair("stride", stride, 1)
        self.padding = _pair("padding", padding, 0)
        self.mode = mode

    def _check(self, x: Tensor, name: str) -> None:
        super()._check(x, name)
        if self.kernel_size is not None:
            for size, kernel, pad in zip(x.shape[2:], self.kernel_size, self.padding, strict=True):
                if kernel > size + 2 * pad:
                    raise ValueError(
                        f"PoincareAvgPool2d: {name!r} has shape {tuple(x.shape)}, padded smaller than the window "
                        f"{self.kernel_size}"
                    )

    def _pool(self, x: Tensor, border: float) -> Tensor:
        if self.kernel_size is None:
            return x.mean((2, 3), keepdim=True)
        height, width = self.padding
        padded = F.pad(x, (width, width, height, height), value=border) if height or width else x
        return F.avg_pool2d(padded, self.kernel_size, self.stride)

    def _apply_layer(self, x: Tensor) -> Tensor:
        if self.mode == "tangent":
            return self._from_tangent(self._pool(self._to_tangent(x, -3), 0.0), -3)
        c = self._c(x)
        f, lift = carrier(dot(x, x, 1), c, self.space, 1.0, projection_limit(x.dtype))
        # lambda - 1 is 1 at the origin, which is what padding stands for.
        middle = half(self._pool(f * x, 0.0) / self._pool(lift, 1.0), c, -3, backward=self.backward)
        return middle if self.space == "ball" else logmap0(middle, c, -3, backward=self.backward)


class PoincareResidual(PoincareLayer):
    """Residual join by Möbius addition, which does not commute: the order is a choice.

    Parameters
    ----------
    ball : PoincareBall
        Geometry of both inputs.
    order : {"fr", "rf", "none"}
        F(x) plus x, x plus F(x), or F(x) alone (the ablation).
    space, backward
        As in `PoincareLinear`.
    """

    def __init__(
        self, ball: PoincareBall, order: Order = "fr", *, space: Space = "tangent", backward: Backward = "manual"
    ) -> None:
        super().__init__(require_ball(ball), space, backward)
        self.order: Order = choice("order", order, ORDERS)  # type: ignore[assignment]

    def forward(self, fx: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        """Join the branch's output `fx` with the shortcut `x`, of the same shape (B, C, H, W)."""
        self._check(fx, "fx")
        self._check(x, "x")
        if fx.shape != x.shape or fx.dtype != x.dtype:
            raise ValueError(
                f"PoincareResidual: 'fx' is {fx.dtype} {tuple(fx.shape)} and 'x' is {x.dtype} {tuple(x.shape)}, wanted "
                "the same"
            )
        if self.order == "none":
            return fx
        first, second = (fx, x) if self.order == "fr" else (x, fx)
        work = torch.float64 if x.dtype == torch.float64 else torch.float32
        with full_precision(x):
            p, q = first.to(work), second.to(work)
            return join(p, q, self._c(p), -3, space=self.space, backward=self.backward).to(x.dtype)


def require_ball(ball: PoincareBall | None) -> PoincareBall:
    """Return the ball, or raise TypeError."""
    if not isinstance(ball, PoincareBall):
        raise TypeError(f"'ball' must be a PoincareBall, got {type(ball).__name__}")
    return ball

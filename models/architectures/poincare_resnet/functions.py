"""Operations of the Poincaré ball with hand-written backward passes that save their inputs and nothing else.

Curvature is -c. Each operation is a formula in plain torch operations plus its vector-Jacobian product. With
``backward="manual"`` the two make a `torch.autograd.Function`, whose graph is one node and whose memory is its inputs;
everything else is computed again when gradients are wanted. With ``backward="autograd"`` autograd differentiates the
same formula: the reference, and what the memory is compared with. The backward passes are differentiable themselves.
Where there are fused kernels (`holonomy.manifolds.kernels`), ``"manual"`` evaluates value and gradient by them.

`PoincareBall` has the same operations, built to keep every digit up to the boundary, for which it evaluates float32
points in float64. Feature maps are kept within `projection_limit` of the radius instead, where these plainer formulas
are as good (the tests hold the two equal), cost a quarter, work on the channel axis in place, and have a backward whose
memory is known.

Most maps here only rescale a vector by a function of its length: x -> f(s) x with s = sqrt(c) |x|. They are given by
the pair f and h = s f'(s) (`Profile`), from which value, gradient and curvature gradient follow once.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from holonomy.manifolds.kernels import channels

__all__ = [
    "Backward",
    "conformal_factor",
    "dist",
    "dist0_squared",
    "expmap",
    "expmap0",
    "gyration",
    "half",
    "logmap",
    "logmap0",
    "mobius_add",
    "mobius_scalar_mul",
    "project",
    "projection_limit",
    "transp",
]

Backward = Literal["manual", "autograd"]

#: Squared lengths below this count as zero: far under rounding, far above the smallest float32.
TINY = 1e-30


def projection_limit(dtype: torch.dtype) -> float:
    """Largest sqrt(c) |x| that results are kept to: 1 - 1e-5 in float64, 1 - 4e-3 in lower precision."""
    return 1.0 - (1e-5 if dtype == torch.float64 else 4e-3)


def dot(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Inner product along `dim`, which keeps size 1."""
    return (x * y).sum(dim, keepdim=True)


def curved_length(n2: Tensor, c: Tensor) -> Tensor:
    """s = sqrt(c n2), kept off zero so that f(s)/s and its derivatives stay finite at the zero vector."""
    return (c * n2).clamp_min(TINY).sqrt()


def artanh(s: Tensor) -> Tensor:
    """Artanh of s >= 0, finite at 1 and beyond."""
    s = s.clamp_max(1.0 - torch.finfo(s.dtype).eps)
    return 0.5 * (torch.log1p(s) - torch.log1p(-s))


class InputsOnly(Function):
    """A function that saves its tensor arguments, and keeps its other arguments as `ctx.options`."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)))
        ctx.options = tuple(a for a in inputs if not isinstance(a, Tensor))


def evaluate(
    function: type[Function],
    backward: Backward,
    *arguments: Any,
    kernel: channels.ChannelOperation | None = None,
) -> Any:
    """Evaluate with the hand-written backward, by the kernel where it takes the arguments; or leave it to autograd."""
    if backward not in ("manual", "autograd"):
        raise ValueError(f"'backward' must be 'manual' or 'autograd', got {backward!r}")
    if backward == "manual" and kernel is not None and kernel.takes(*arguments):
        return kernel(*arguments)
    recorded = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
    if backward == "manual" and recorded:
        return function.apply(*arguments)
    return function.forward(*arguments)


def as_curvature(c: Tensor | float, like: Tensor) -> Tensor:
    """Curvature as a tensor: itself, or a scalar of dtype and device of `like`."""
    return c if isinstance(c, Tensor) else torch.full((), c, dtype=like.dtype, device=like.device)


def from_end(dim: int, *tensors: Tensor) -> int:
    """The ball axis counted from the end, where it is the same axis for tensors that broadcast."""
    return dim if dim < 0 else dim - max(t.dim() for t in tensors)


# -- maps that only rescale ----------------------------------------------------------------------------------------


class Profile(NamedTuple):
    """A map x -> f(s) x, s = sqrt(c) |x|, kept within or defined by s <= limit."""

    value: Callable[[Tensor, float], Tensor]
    """f of s and the limit."""
    slope: Callable[[Tensor, Tensor, float], Tensor]
    """h = s f'(s) of s, f and the limit."""


def _exp_slope(s: Tensor, f: Tensor, limit: float) -> Tensor:
    t = torch.tanh(s)
    return (1.0 - t * t) * (t < limit) - f


def _log_slope(s: Tensor, f: Tensor, limit: float) -> Tensor:
    s = s.clamp_max(1.0 - torch.finfo(s.dtype).eps)
    return 1.0 / ((1.0 - s) * (1.0 + s)) - f


def _half_root(s: Tensor) -> Tensor:
    return (1.0 - s * s).clamp_min(torch.finfo(s.dtype).eps).sqrt()


EXP = Profile(lambda s, limit: torch.tanh(s).clamp_max(limit) / s, _exp_slope)
LOG = Profile(lambda s, limit: artanh(s) / s, _log_slope)
PROJECT = Profile(lambda s, limit: (limit / s).clamp_max(1.0), lambda s, f, limit: -f * (s > limit))
HALF = Profile(lambda s, limit: 1.0 / (1.0 + _half_root(s)), lambda s, f, limit: (s * f).square() / _half_root(s))
PROFILES = {"exp": EXP, "log": LOG, "project": PROJECT, "half": HALF}


def stretch(x: Tensor, c: Tensor, profile: Profile, dim: int, limit: float) -> Tensor:
    """f(s) x."""
    return profile.value(curved_length(dot(x, x, dim), c), limit) * x


def stretch_vjp(x: Tensor, c: Tensor, u: Tensor, profile: Profile, dim: int, limit: float) -> tuple[Tensor, Tensor]:
    """Gradients of f(s) x with respect to x and to c."""
    n2 = dot(x, x, dim)
    s = curved_length(n2, c)
    f = profile.value(s, limit)
    gx, gc, _ = radial_vjp(x, c, u, f, profile.slope(s, f, limit), n2, dim)
    return gx, gc


def radial_vjp(
    x: Tensor, c: Tensor, u: Tensor, f: Tensor, h: Tensor, n2: Tensor, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of f(s) x with respect to x and to c, and <u, x>."""
    ux = dot(u, x, dim)
    return f * u + (ux * h / n2.clamp_min(TINY)) * x, ux * h / (2.0 * c), ux


class _Radial(InputsOnly):
    @staticmethod
    def forward(x: Tensor, c: Tensor, dim: int, profile: str, limit: float) -> Tensor:
        return stretch(x, c, PROFILES[profile], dim, limit)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (x, c), (dim, profile, limit) = ctx.saved_tensors, ctx.options
        gx, gc = stretch_vjp(x, c, u, PROFILES[profile], dim, limit)
        return gx, gc.sum_to_size(c.shape), None, None, None


_RADIAL = channels.register("radial", "Tensor x, Tensor c, int dim, str profile, float limit", "ms", _Radial)


def _radial(x: Tensor, c: Tensor | float, profile: str, dim: int, limit: float, backward: Backward) -> Tensor:
    return evaluate(_Radial, backward, x, as_curvature(c, x), from_end(dim, x), profile, limit, kernel=_RADIAL)


def expmap0(
    v: Tensor, c: Tensor | float, dim: int = -1, *, limit: float = 1.0, backward: Backward = "manual"
) -> Tensor:
    """Exponential map at the origin: tanh(s)/s v, s = sqrt(c) |v|, kept within radius limit/sqrt(c).

    Any real floating shape; `dim` is the ball axis and `c` broadcasts with size 1 there.
    """
    return _radial(v, c, "exp", dim, limit, backward)


def logmap0(y: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Logarithm at the origin: artanh(s)/s y, s = sqrt(c) |y| < 1."""
    return _radial(y, c, "log", dim, 1.0, backward)


def project(
    x: Tensor, c: Tensor | float, dim: int = -1, *, limit: float | None = None, backward: Backward = "manual"
) -> Tensor:
    """Nearest point of the closed ball of radius limit/sqrt(c) (default: `projection_limit` of the dtype)."""
    limit = projection_limit(x.dtype) if limit is None else limit
    return _radial(x, c, "project", dim, limit, backward)


def half(x: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Möbius product of 1/2 and x, the point halfway from the origin to `x`: x / (1 + sqrt(1 - c |x|^2))."""
    return _radial(x, c, "half", dim, 1.0, backward)


# -- conformal factor, squared distance from the origin ------------------------------------------------------------


class _ConformalFactor(InputsOnly):
    @staticmethod
    def forward(x: Tensor, c: Tensor, dim: int) -> Tensor:
        return 2.0 / (1.0 - c * dot(x, x, dim))

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (x, c), (dim,) = ctx.saved_tensors, ctx.options
        n2 = dot(x, x, dim)
        common = u / (1.0 - c * n2).square()
        return 4.0 * c * common * x, (2.0 * common * n2).sum_to_size(c.shape), None


def conformal_factor(x: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Factor lambda_x = 2 / (1 - c |x|^2) of the metric, of size 1 along `dim`."""
    return evaluate(_ConformalFactor, backward, x, as_curvature(c, x), dim)


class _Dist0Squared(InputsOnly):
    @staticmethod
    def forward(x: Tensor, c: Tensor, dim: int) -> Tensor:
        n2 = dot(x, x, dim)
        return 4.0 * n2 * LOG.value(curved_length(n2, c), 1.0).square()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (x, c), (dim,) = ctx.saved_tensors, ctx.options
        n2 = dot(x, x, dim)
        s = curved_length(n2, c)
        f = LOG.value(s, 1.0)
        h = LOG.slope(s, f, 1.0)
        uf = u * f
        return 8.0 * uf * (f + h) * x, (4.0 * uf * h * n2 / c).sum_to_size(c.shape), None


_DIST0 = channels.register("dist0", "Tensor x, Tensor c, int dim", "ms", _Dist0Squared, result="n")


def dist0_squared(x: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Squared geodesic distance from the origin, of size 1 along `dim`; smooth at the origin."""
    return evaluate(_Dist0Squared, backward, x, as_curvature(c, x), from_end(dim, x), kernel=_DIST0)


# -- gyrovector operations -----------------------------------------------------------------------------------------


def mobius_add_vjp(x: Tensor, y: Tensor, c: Tensor, u: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of Möbius addition with respect to x, y and c, for the upstream gradient u; not reduced to shapes."""
    x2, y2, xy, ux, uy = dot(x, x, dim), dot(y, y, dim), dot(x, y, dim), dot(u, x, dim), dot(u, y, dim)
    a, b = 1.0 + 2.0 * c * xy + c * y2, 1.0 - c * x2
    d = (1.0 + 2.0 * c * xy + c * c * x2 * y2).clamp_min(TINY)
    r = (a * ux + b * uy) / d
    along = 2.0 * c * (ux - r) / d
    gx = (a / d) * u + along * y - (2.0 * c * (uy + c * y2 * r) / d) * x
    gy = (b / d) * u + along * x + (2.0 * c * (ux - c * x2 * r) / d) * y
    gc = ((2.0 * xy + y2) * ux - x2 * uy - 2.0 * r * (xy + c * x2 * y2)) / d
    return gx, gy, gc


class MobiusAdd(InputsOnly):
    """Möbius addition (a x + b y)/d and its hand-written backward."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, c: Tensor, dim: int) -> Tensor:
        x2, y2, xy = dot(x, x, dim), dot(y, y, dim), dot(x, y, dim)
        d = (1.0 + 2.0 * c * xy + c * c * x2 * y2).clamp_min(TINY)
        return ((1.0 + 2.0 * c * xy + c * y2) / d) * x + ((1.0 - c * x2) / d) * y

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (x, y, c), (dim,) = ctx.saved_tensors, ctx.options
        gx, gy, gc = mobius_add_vjp(x, y, c, u, dim)
        return gx.sum_to_size(x.shape), gy.sum_to_size(y.shape), gc.sum_to_size(c.shape), None


def mobius_add(x: Tensor, y: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Möbius addition of points, x plus y; not commutative. Shapes broadcast."""
    return evaluate(MobiusAdd, backward, x, y, as_curvature(c, x), from_end(dim, x, y))


def _gyration_terms(u: Tensor, v: Tensor, w: Tensor, c: Tensor, dim: int) -> tuple[Tensor, ...]:
    u2, v2, uv, uw, vw = (dot(p, q, dim) for p, q in ((u, u), (v, v), (u, v), (u, w), (v, w)))
    a = c * (vw - c * uw * v2 + 2.0 * c * uv * vw)
    b = -c * (uw + c * vw * u2)
    d = (1.0 + 2.0 * c * uv + c * c * u2 * v2).clamp_min(TINY)
    return u2, v2, uv, uw, vw, a, b, d


def gyration_vjp(
    u: Tensor, v: Tensor, w: Tensor, c: Tensor, g: Tensor, dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the gyration with respect to u, v, w and c, for the upstream gradient g; not reduced to shapes."""
    u2, v2, uv, uw, vw, a, b, d = _gyration_terms(u, v, w, c, dim)
    ga, gb = 2.0 * dot(g, u, dim) / d, 2.0 * dot(g, v, dim) / d
    gd = -(a * ga + b * gb) / d
    g_uw, g_vw = -c * (c * v2 * ga + gb), c * ((1.0 + 2.0 * c * uv) * ga - c * u2 * gb)
    g_uv = 2.0 * c * (c * vw * ga + gd)
    g_u2, g_v2 = c * c * (v2 * gd - vw * gb), c * c * (u2 * gd - uw * ga)
    gu = (2.0 * a / d) * g + g_uw * w + g_uv * v + 2.0 * g_u2 * u
    gv = (2.0 * b / d) * g + g_vw * w + g_uv * u + 2.0 * g_v2 * v
    gc = (
        ga * (vw - 2.0 * c * uw * v2 + 4.0 * c * uv * vw)
        - gb * (uw + 2.0 * c * vw * u2)
        + 2.0 * gd * (uv + c * u2 * v2)
    )
    return gu, gv, g + g_uw * u + g_vw * v, gc


class Gyration(InputsOnly):
    """Gyration in its linear closed form and its hand-written backward."""

    @staticmethod
    def forward(u: Tensor, v: Tensor, w: Tensor, c: Tensor, dim: int) -> Tensor:
        *_, a, b, d = _gyration_terms(u, v, w, c, dim)
        return w + (2.0 * a / d) * u + (2.0 * b / d) * v

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (u, v, w, c), (dim,) = ctx.saved_tensors, ctx.options
        gu, gv, gw, gc = gyration_vjp(u, v, w, c, g, dim)
        return gu.sum_to_size(u.shape), gv.sum_to_size(v.shape), gw.sum_to_size(w.shape), gc.sum_to_size(c.shape), None


def gyration(
    u: Tensor, v: Tensor, w: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual"
) -> Tensor:
    """Gyration gyr[u, v] w in its linear closed form, which takes vectors `w` of any length; `u`, `v` are points."""
    return evaluate(Gyration, backward, u, v, w, as_curvature(c, w), from_end(dim, u, v, w))


def scale_terms(s: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, h and df/dk of the Möbius product k (x) x."""
    reach = artanh(s)
    t = torch.tanh(k * reach)
    s1 = s.clamp_max(1.0 - torch.finfo(s.dtype).eps)
    sech2 = 1.0 - t * t
    f = t / s
    return f, k * sech2 / ((1.0 - s1) * (1.0 + s1)) - f, sech2 * reach / s


class MobiusScalarMul(InputsOnly):
    """Möbius scalar multiplication tanh(k artanh s) x/s and its hand-written backward."""

    @staticmethod
    def forward(k: Tensor, x: Tensor, c: Tensor, dim: int) -> Tensor:
        s = curved_length(dot(x, x, dim), c)
        return (torch.tanh(k * artanh(s)) / s) * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (k, x, c), (dim,) = ctx.saved_tensors, ctx.options
        n2 = dot(x, x, dim)
        f, h, fk = scale_terms(curved_length(n2, c), k)
        gx, gc, ux = radial_vjp(x, c, u, f, h, n2, dim)
        return (ux * fk).sum_to_size(k.shape), gx.sum_to_size(x.shape), gc.sum_to_size(c.shape), None


def mobius_scalar_mul(
    k: Tensor, x: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual"
) -> Tensor:
    """Möbius product of the scalar tensor `k` (size 1 along `dim`) and the point `x`: k times as far from 0."""
    return evaluate(MobiusScalarMul, backward, k, x, as_curvature(c, x), from_end(dim, x))


# -- exp and log at any point --------------------------------------------------------------------------------------


class _ExpFactor(InputsOnly):
    """tanh(sqrt(c) l |v| / 2) v / (sqrt(c) |v|), the step of exp_x before it is added to x; l is lambda_x."""

    @staticmethod
    def forward(v: Tensor, factor: Tensor, c: Tensor, dim: int) -> Tensor:
        k = 0.5 * factor
        return k * EXP.value(curved_length(dot(v, v, dim) * k * k, c), 1.0) * v

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (v, factor, c), (dim,) = ctx.saved_tensors, ctx.options
        k = 0.5 * factor
        n2 = dot(v, v, dim)
        s = curved_length(n2 * k * k, c)
        f = EXP.value(s, 1.0)
        h = EXP.slope(s, f, 1.0)
        gv, gc, uv = radial_vjp(v, c, u, k * f, k * h, n2, dim)
        return (
            gv.sum_to_size(v.shape),
            (0.5 * uv * (f + h)).sum_to_size(factor.shape),
            gc.sum_to_size(c.shape),
            None,
        )


class _LogFactor(InputsOnly):
    """(2 / (sqrt(c) l)) artanh(sqrt(c) |z|) z / |z|, what log_x does to z = (-x) + y; l is lambda_x."""

    @staticmethod
    def forward(z: Tensor, factor: Tensor, c: Tensor, dim: int) -> Tensor:
        return (2.0 / factor) * stretch(z, c, LOG, dim, 1.0)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (z, factor, c), (dim,) = ctx.saved_tensors, ctx.options
        k = 2.0 / factor
        n2 = dot(z, z, dim)
        s = curved_length(n2, c)
        f = LOG.value(s, 1.0)
        h = LOG.slope(s, f, 1.0)
        gz, gc, uz = radial_vjp(z, c, u, k * f, k * h, n2, dim)
        return (
            gz.sum_to_size(z.shape),
            (-uz * k * f / factor).sum_to_size(factor.shape),
            gc.sum_to_size(c.shape),
            None,
        )


def expmap(x: Tensor, v: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Exponential map at the point `x`, projected into the ball (`project`)."""
    c, dim = as_curvature(c, x), from_end(dim, x, v)
    step = evaluate(_ExpFactor, backward, v, conformal_factor(x, c, dim, backward=backward), c, dim)
    return project(mobius_add(x, step, c, dim, backward=backward), c, dim, backward=backward)


def logmap(x: Tensor, y: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Logarithm of the point `y` at the point `x`."""
    c, dim = as_curvature(c, x), from_end(dim, x, y)
    z = mobius_add(-x, y, c, dim, backward=backward)
    return evaluate(_LogFactor, backward, z, conformal_factor(x, c, dim, backward=backward), c, dim)


def transp(
    x: Tensor, y: Tensor, v: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual"
) -> Tensor:
    """Parallel transport of the tangent vector `v` at `x` to the point `y`, along the geodesic between them."""
    c, dim = as_curvature(c, x), from_end(dim, x, y, v)
    ratio = conformal_factor(x, c, dim, backward=backward) / conformal_factor(y, c, dim, backward=backward)
    return ratio * gyration(y, -x, v, c, dim, backward=backward)


def dist(x: Tensor, y: Tensor, c: Tensor | float, dim: int = -1, *, backward: Backward = "manual") -> Tensor:
    """Geodesic distance, of size 1 along `dim`; its gradient at coincident points is 0."""
    c, dim = as_curvature(c, x), from_end(dim, x, y)
    square = dist0_squared(mobius_add(-x, y, c, dim, backward=backward), c, dim, backward=backward)
    return square.clamp_min(TINY).sqrt()

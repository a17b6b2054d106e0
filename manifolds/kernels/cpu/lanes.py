"""Eight numbers at once: a Numba type for SIMD vectors, and the elementary functions on them.

A `Lanes` value is an LLVM vector of eight float32 or float64 numbers, which LLVM maps to whatever registers the
processor has. Kernels written with it do not depend on whether a loop happens to vectorise. Arithmetic works by the
ordinary operators, also with a scalar on one side; comparisons give masks for `select`. Products and sums may contract
to fused multiply-adds, and nothing is reassociated: formulas keep the order they are written in.

The elementary functions are Taylor polynomials after the usual reductions, branch-free, right to 1 to 2 units in the
last place; `tests/manifolds/kernels/test_lanes.py` compares them with mpmath.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.extending import overload, register_model

from holonomy.manifolds.kernels.cpu.jit import FRAGMENT, inline

__all__ = [
    "LANES",
    "Lanes",
    "any_lane",
    "atan2",
    "copysign",
    "cos",
    "exp",
    "fill",
    "floor",
    "is_single",
    "like",
    "load",
    "log1p",
    "masked_load",
    "masked_store",
    "maximum",
    "minimum",
    "narrow",
    "pointer",
    "polynomial",
    "recast",
    "select",
    "sin",
    "sqrt",
    "stack",
    "store",
    "total",
    "widen",
]

#: Numbers in a vector.
LANES = 8

# Numba's own types say that what it decorates takes the typing context as its first argument; callers do not give it.
intrinsic: Any = extending.intrinsic

_FLAGS = ("contract",)
_INT = ir.IntType(32)


class Lanes(types.Type):
    """Numba type of a vector of eight numbers of `dtype` (float32, float64, or boolean for masks)."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"lanes({dtype})")


@register_model(Lanes)
class _LanesModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, _vector(fe_type.dtype))


def _element(dtype: Any) -> ir.Type:
    if dtype == types.boolean:
        return ir.IntType(1)
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _vector(dtype: Any) -> ir.VectorType:
    return ir.VectorType(_element(dtype), LANES)


def _splat(builder: Any, value: Any) -> Any:
    kind = ir.VectorType(value.type, LANES)
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def _constant(dtype: Any, value: float) -> Any:
    # Through float32: a constant with more digits than the type has is an error in LLVM's text form.
    number = float(np.float32(value)) if dtype == types.float32 else value
    return ir.Constant(_vector(dtype), [number] * LANES)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _suffix(dtype: Any) -> str:
    return f"v{LANES}f{dtype.bitwidth}"


# -- arithmetic ----------------------------------------------------------------------------------------------------


def _binary(python_operator: Any, emit: Callable[[Any, Any, Any], Any], result: Any = None) -> Any:
    """Define an operator for two vectors, or a vector and a scalar that is converted to its dtype."""

    @intrinsic
    def implementation(typing: Any, a: Any, b: Any) -> Any:
        kind = a if isinstance(a, Lanes) else b
        scalar = kind.dtype
        signature = (Lanes(result) if result else kind)(
            a if isinstance(a, Lanes) else scalar, b if isinstance(b, Lanes) else scalar
        )

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, y = (
                v if isinstance(t, Lanes) else _splat(builder, v) for v, t in zip(values, signature.args, strict=True)
            )
            return emit(builder, x, y)

        return signature, code

    if python_operator is not None:

        @overload(python_operator, jit_options=FRAGMENT)
        def _(a, b):  # type: ignore[no-untyped-def]
            if isinstance(a, Lanes) or isinstance(b, Lanes):
                return lambda a, b: implementation(a, b)
            return None

    return implementation


_binary(operator.add, lambda builder, x, y: builder.fadd(x, y, flags=_FLAGS))
_binary(operator.sub, lambda builder, x, y: builder.fsub(x, y, flags=_FLAGS))
_binary(operator.mul, lambda builder, x, y: builder.fmul(x, y, flags=_FLAGS))
_binary(operator.truediv, lambda builder, x, y: builder.fdiv(x, y))
_binary(operator.lt, lambda builder, x, y: builder.fcmp_ordered("<", x, y), types.boolean)
_binary(operator.le, lambda builder, x, y: builder.fcmp_ordered("<=", x, y), types.boolean)
_binary(operator.gt, lambda builder, x, y: builder.fcmp_ordered(">", x, y), types.boolean)
_binary(operator.ge, lambda builder, x, y: builder.fcmp_ordered(">=", x, y), types.boolean)
_binary(operator.eq, lambda builder, x, y: builder.fcmp_ordered("==", x, y), types.boolean)
_binary(operator.and_, lambda builder, x, y: builder.and_(x, y), types.boolean)
_binary(operator.or_, lambda builder, x, y: builder.or_(x, y), types.boolean)


def _ternary_fallback(builder: Any, relation: str, x: Any, y: Any) -> Any:
    # The second argument where the comparison fails, so that a NaN in the first is kept: not(x > y) ? x.
    return builder.select(builder.fcmp_ordered(relation, y, x), y, x)


#: Smaller of two, a NaN in the first kept.
minimum = _binary(None, lambda builder, x, y: _ternary_fallback(builder, "<", x, y))
#: Larger of two, a NaN in the first kept.
maximum = _binary(None, lambda builder, x, y: _ternary_fallback(builder, ">", x, y))
#: Magnitude of the first with the sign of the second.
copysign = _binary(
    None,
    lambda builder, x, y: _call(
        builder, f"llvm.copysign.v{LANES}f{32 if x.type.element == ir.FloatType() else 64}", x.type, x, y
    ),
)


def _unary(name: str) -> Any:
    @intrinsic
    def implementation(typing: Any, a: Lanes) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return _call(builder, f"llvm.{name}.{_suffix(a.dtype)}", values[0].type, values[0])

        return a(a), code

    return implementation


sqrt = _unary("sqrt")
floor = _unary("floor")
_fabs = _unary("fabs")
_rint = _unary("rint")


@overload(abs, jit_options=FRAGMENT)
def _abs(a):  # type: ignore[no-untyped-def]
    return (lambda a: _fabs(a)) if isinstance(a, Lanes) else None


@overload(operator.neg, jit_options=FRAGMENT)
def _neg(a):  # type: ignore[no-untyped-def]
    return (lambda a: -1.0 * a) if isinstance(a, Lanes) else None


@intrinsic
def select(typing: Any, mask: Lanes, a: Any, b: Any) -> Any:
    """`a` where the mask holds, else `b`; each a vector or a scalar."""
    kind = a if isinstance(a, Lanes) else b
    signature = kind(mask, a if isinstance(a, Lanes) else kind.dtype, b if isinstance(b, Lanes) else kind.dtype)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, y = (
            v if isinstance(t, Lanes) else _splat(builder, v)
            for v, t in zip(values[1:], signature.args[1:], strict=True)
        )
        return builder.select(values[0], x, y)

    return signature, code


@intrinsic
def any_lane(typing: Any, mask: Lanes) -> Any:
    """Whether the mask holds anywhere."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        packed = builder.bitcast(values[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", packed, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), code


@intrinsic
def total(typing: Any, a: Lanes) -> Any:
    """Sum of the eight numbers."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = _element(a.dtype)
        function = ir.FunctionType(kind, [kind, _vector(a.dtype)])
        name = f"llvm.vector.reduce.fadd.{_suffix(a.dtype)}"
        reduce = cgutils.get_or_insert_function(builder.module, function, name)
        return builder.call(reduce, [ir.Constant(kind, -0.0), values[0]], fastmath=("reassoc",))

    return a.dtype(a), code


# -- conversion, memory --------------------------------------------------------------------------------------------


@intrinsic
def widen(typing: Any, a: Lanes) -> Any:
    """The same numbers in float64."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return values[0] if a.dtype == types.float64 else builder.fpext(values[0], _vector(types.float64))

    return Lanes(types.float64)(a), code


@intrinsic
def narrow(typing: Any, a: Lanes, array: Any) -> Any:
    """The same numbers in the dtype of `array` (which says nothing else)."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if a.dtype == array.dtype:
            return values[0]
        return builder.fptrunc(values[0], _vector(array.dtype))

    return Lanes(array.dtype)(a, array), code


@intrinsic
def fill(typing: Any, array: Any, value: Any) -> Any:
    """Eight copies of a number, in the dtype of `array`."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, values[1])

    return Lanes(array.dtype)(array, array.dtype), code


@intrinsic
def like(typing: Any, a: Lanes, value: Any) -> Any:
    """Eight copies of a number, in the dtype of the vector `a`."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, values[1])

    return a(a, a.dtype), code


def _address(context: Any, builder: Any, array: Any, values: Any, dtype: Any) -> Any:
    pointer = isinstance(array, types.CPointer)
    data = values[0] if pointer else context.make_array(array)(context, builder, values[0]).data
    return builder.bitcast(builder.gep(data, [values[1]]), ir.PointerType(_vector(dtype)))


@intrinsic
def pointer(typing: Any, array: types.Array) -> Any:
    """Address of the first number of an array.

    Arrays count their references wherever they are passed on; an address does not. It can be indexed. The caller keeps
    the array.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.make_array(array)(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), code


def stack(size: int) -> Any:
    """Make a function that returns the address of `size` float64 zeros, on the stack of what it is inlined into."""

    @intrinsic
    def zeros(typing: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            memory = cgutils.alloca_once(builder, ir.ArrayType(ir.DoubleType(), size))
            memory.align = 32
            cgutils.memset(builder, memory, ir.Constant(ir.IntType(64), 8 * size), 0)
            return builder.bitcast(memory, ir.PointerType(ir.DoubleType()))

        return types.CPointer(types.float64)(), code

    return zeros


@intrinsic
def recast(typing: Any, address: Any, array: Any) -> Any:
    """The same address, of numbers of the dtype of `array` (which says nothing else)."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.PointerType(_element(array.dtype)))

    return types.CPointer(array.dtype)(address, array), code


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """Eight numbers of a one-dimensional contiguous array, or at an address, from `offset` on."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_address(context, builder, array, values, array.dtype), align=array.dtype.bitwidth // 8)

    return Lanes(array.dtype)(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, offset: Any, a: Lanes) -> Any:
    """Write eight numbers to a one-dimensional contiguous array, or to an address, from `offset` on."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(
            values[2], _address(context, builder, array, values, array.dtype), align=array.dtype.bitwidth // 8
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, a), code


def _first(builder: Any, count: Any) -> Any:
    """Mask of the first `count` lanes."""
    wide = builder.trunc(count, _INT)
    index = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
    return builder.icmp_signed("<", index, _splat(builder, wide))


@intrinsic
def masked_load(typing: Any, array: Any, offset: Any, count: Any) -> Any:
    """The first `count` of eight numbers, and zeros for the rest, whose memory is not touched."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = _vector(array.dtype)
        pointer = _address(context, builder, array, values, array.dtype)
        align = ir.Constant(_INT, array.dtype.bitwidth // 8)
        name = f"llvm.masked.load.{_suffix(array.dtype)}.p0"
        zero = ir.Constant(kind, [0.0] * LANES)
        return _call(builder, name, kind, pointer, align, _first(builder, values[2]), zero)

    return Lanes(array.dtype)(array, types.intp, types.intp), code


@intrinsic
def masked_store(typing: Any, array: Any, offset: Any, a: Lanes, count: Any) -> Any:
    """Write the first `count` of eight numbers; all of them where it is larger.

    As eight, or four, two and one numbers: a masked store is many times slower than that on some processors.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = builder.bitcast(
            _address(context, builder, array, values, array.dtype), ir.PointerType(_element(array.dtype))
        )
        rest, at = values[2], ir.Constant(ir.IntType(64), 0)
        memory = {"rest": cgutils.alloca_once_value(builder, rest), "at": cgutils.alloca_once_value(builder, at)}
        align = array.dtype.bitwidth // 8
        most = ir.Constant(values[3].type, LANES)
        count = builder.select(builder.icmp_signed(">", values[3], most), most, values[3])
        for size in (8, 4, 2, 1):
            bit = builder.and_(count, ir.Constant(count.type, size))
            with builder.if_then(builder.icmp_unsigned("!=", bit, ir.Constant(bit.type, 0))):
                rest, at = builder.load(memory["rest"]), builder.load(memory["at"])
                index = ir.Constant(ir.VectorType(_INT, size), list(range(size)))
                part = builder.shuffle_vector(rest, rest, index)
                place = builder.bitcast(builder.gep(data, [at]), ir.PointerType(part.type))
                builder.store(part, place, align=align)
                moved = [(k + size) % LANES for k in range(LANES)]
                index = ir.Constant(ir.VectorType(_INT, LANES), moved)
                builder.store(builder.shuffle_vector(rest, rest, index), memory["rest"])
                builder.store(builder.add(at, ir.Constant(at.type, size)), memory["at"])
        return context.get_dummy_value()

    return types.void(array, types.intp, a, types.intp), code


# -- polynomials, elementary functions -----------------------------------------------------------------------------


def polynomial(coefficients: Sequence[float], float32_terms: int) -> Any:
    """Make a function that evaluates sum_k coefficients[k] x^k; in float32 only the first `float32_terms`."""

    @intrinsic
    def horner(typing: Any, x: Lanes) -> Any:
        used = coefficients[:float32_terms] if x.dtype == types.float32 else coefficients

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = _constant(x.dtype, used[-1])
            for coefficient in reversed(used[:-1]):
                result = builder.fmul(result, values[0], flags=_FLAGS)
                result = builder.fadd(result, _constant(x.dtype, coefficient), flags=_FLAGS)
            return result

        return x(x), code

    return horner


@intrinsic
def _times_power_of_two(typing: Any, x: Lanes, n: Lanes) -> Any:
    """x * 2^n for whole n within the normal range of exponents, by adding to the exponent's bits."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = x.dtype.bitwidth
        whole = ir.VectorType(ir.IntType(bits), LANES)
        shift = ir.Constant(whole, [23 if bits == 32 else 52] * LANES)
        exponent = builder.shl(builder.fptosi(values[1], whole), shift)
        return builder.bitcast(builder.add(builder.bitcast(values[0], whole), exponent), _vector(x.dtype))

    return x(x, n), code


@intrinsic
def _exponent(typing: Any, x: Lanes) -> Any:
    """The whole number n for which x / 2^n is in [sqrt(1/2), sqrt(2)), for positive normal x."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = x.dtype.bitwidth
        digits = 23 if bits == 32 else 52
        whole = ir.VectorType(ir.IntType(bits), LANES)
        # The bits of sqrt(1/2): subtracting them makes the exponent's field count from sqrt(1/2) instead of 1.
        start = int(np.array(math.sqrt(0.5), f"f{bits // 8}").view(f"i{bits // 8}"))
        offset = builder.sub(builder.bitcast(values[0], whole), ir.Constant(whole, [start] * LANES))
        return builder.sitofp(builder.ashr(offset, ir.Constant(whole, [digits] * LANES)), _vector(x.dtype))

    return x(x), code


_exp_series = polynomial([1.0 / math.factorial(k) for k in range(14)], 8)
_artanh_series = polynomial([1.0 / (2 * k + 1) for k in range(11)], 6)
_sin_series = polynomial([(-1.0) ** k / math.factorial(2 * k + 1) for k in range(9)], 6)
_cos_series = polynomial([(-1.0) ** k / math.factorial(2 * k) for k in range(9)], 6)
_atan_series = polynomial([(-1.0) ** k / (2 * k + 1) for k in range(21)], 10)

# ln 2 and pi/2 in parts whose products with small whole numbers are exact in float32, and so in float64.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723e-6
_LN2_HIGH_64, _LN2_LOW_64 = 0.6931471803691238, 1.9082149292705877e-10
_HALF_PI = (1.5703125, 4.8351287841796875e-4, 3.13855707645416259765625e-7, 6.0771006282767103812e-11)
_HALF_PI_64 = (1.5707963109016418, 1.5893254712295857e-8, 6.123233932053594e-17)


@intrinsic
def is_single(typing: Any, x: Lanes) -> Any:
    """Whether the numbers are float32: a compile-time constant."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(ir.IntType(1), int(x.dtype == types.float32))

    return types.boolean(x), code


@inline
def exp(x):  # type: ignore[no-untyped-def]
    """e^x; 0 and infinity where it leaves the range of normal numbers."""
    if is_single(x):
        t = maximum(minimum(x, 88.0), -87.0)
        n = _rint(t * 1.4426950408889634)
        r = (t - n * _LN2_HIGH) - n * _LN2_LOW
        low, high = -87.0, 88.0
    else:
        t = maximum(minimum(x, 709.0), -708.0)
        n = _rint(t * 1.4426950408889634)
        r = (t - n * _LN2_HIGH_64) - n * _LN2_LOW_64
        low, high = -708.0, 709.0
    y = _times_power_of_two(_exp_series(r), n)
    return select(x < low, 0.0, select(x > high, math.inf, y))


@inline
def log1p(x):  # type: ignore[no-untyped-def]
    """log(1 + x) for x > -1, to full relative precision also near 0."""
    u = 1.0 + x
    n = _exponent(u)
    m = _times_power_of_two(u, -1.0 * n)
    # What rounding took from 1 + x, relative to it; for large x there is nothing to correct.
    lost = select(x > 1e15, 0.0, (x - (u - 1.0)) / u)
    f = select(n == 0.0, x, m - 1.0)
    s = f / (2.0 + f)
    small = 2.0 * s * _artanh_series(s * s)
    if is_single(x):
        y = n * _LN2_HIGH + (n * _LN2_LOW + (small + select(n == 0.0, 0.0, lost)))
    else:
        y = n * _LN2_HIGH_64 + (n * _LN2_LOW_64 + (small + select(n == 0.0, 0.0, lost)))
    return select(x < math.inf, y, x)


@inline
def _reduced(x):  # type: ignore[no-untyped-def]
    n = _rint(x * (2.0 / math.pi))
    if is_single(x):
        r = ((x - n * _HALF_PI[0]) - n * _HALF_PI[1]) - n * _HALF_PI[2] - n * _HALF_PI[3]
    else:
        r = ((x - n * _HALF_PI_64[0]) - n * _HALF_PI_64[1]) - n * _HALF_PI_64[2]
    return n, r


@inline
def _quadrant(r, quarter):  # type: ignore[no-untyped-def]
    """Sine of r + quarter * pi/2, |r| <= pi/4."""
    s = r * r
    turn = quarter - 4.0 * floor(quarter * 0.25)
    odd = (turn == 1.0) | (turn == 3.0)
    y = select(odd, _cos_series(s), r * _sin_series(s))
    return select(turn >= 2.0, -y, y)


@inline
def sin(x):  # type: ignore[no-untyped-def]
    """Sine, for |x| up to 1e4."""
    n, r = _reduced(x)
    return _quadrant(r, n)


@inline
def cos(x):  # type: ignore[no-untyped-def]
    """Cosine, for |x| up to 1e4."""
    n, r = _reduced(x)
    return _quadrant(r, n + 1.0)


@inline
def atan2(y, x):  # type: ignore[no-untyped-def]
    """Angle of the point (x, y) for x, y >= 0, in [0, pi/2]; 0 at the origin."""
    low, high = minimum(x, y), maximum(x, y)
    t = low / select(high == 0.0, 1.0, high)
    past = t > 0.4142135623730951
    r = select(past, (t - 1.0) / (t + 1.0), t)
    angle = r * _atan_series(r * r) + select(past, like(t, 0.7853981633974483), 0.0)
    return select(y > x, 1.5707963267948966 - angle, angle)

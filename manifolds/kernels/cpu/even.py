"""Even functions of a length, as functions of its square, on SIMD vectors: value and derivative.

The same functions as in the reference: sinh(r)/r and so on are analytic in s = r^2. Below a cut they are Taylor
polynomials, above it closed forms; both branches are evaluated and one is selected.
"""

import math

from holonomy.manifolds.kernels.cpu.jit import inline
from holonomy.manifolds.kernels.cpu.lanes import cos, exp, is_single, log1p, polynomial, select, sin, sqrt

__all__ = [
    "arsinh_root",
    "arsinhc",
    "arsinhc_slope",
    "asinc",
    "asinc_slope",
    "cosm1c_slope",
    "sech2",
    "sinc_cosm1c",
    "sinc_slope",
    "sinhc_coshm1c",
    "sinhc_slope",
    "tanhc",
    "tanhc_slope",
]

# tanh(r)/r: 2^(2n) (2^(2n) - 1) B_2n / (2n)!, n = 1..12
_TANH = [
    1.0,
    -1.0 / 3.0,
    2.0 / 15.0,
    -17.0 / 315.0,
    62.0 / 2835.0,
    -1382.0 / 155925.0,
    21844.0 / 6081075.0,
    -929569.0 / 638512875.0,
    6404582.0 / 10854718875.0,
    -443861162.0 / 1856156927625.0,
    18888466084.0 / 194896477400625.0,
    -113927491862.0 / 2900518163668125.0,
]
# asin(r)/r, arsinh(r)/r
_ASIN = [math.comb(2 * k, k) / (4.0**k * (2 * k + 1)) for k in range(21)]
_ARSINH = [(-1.0) ** k * a for k, a in enumerate(_ASIN)]
# sinh(r)/r and 2 (cosh(r) - 1)/r^2; sin(r)/r and 2 (1 - cos(r))/r^2 have the same coefficients with alternating signs.
_SINH = [1.0 / math.factorial(2 * k + 1) for k in range(14)]
_COSHM1 = [2.0 / math.factorial(2 * k + 2) for k in range(14)]
_SIN = [(-1.0) ** k * a for k, a in enumerate(_SINH)]
_COSM1 = [(-1.0) ** k * a for k, a in enumerate(_COSHM1)]


def _derivative(coefficients: list[float]) -> list[float]:
    return [k * coefficient for k, coefficient in enumerate(coefficients)][1:]


_tanh_series = polynomial(_TANH, 10)
_tanh_slope_series = polynomial(_derivative(_TANH), 10)
_arsinh_series = polynomial(_ARSINH, 9)
_arsinh_slope_series = polynomial(_derivative(_ARSINH), 9)
_asin_series = polynomial(_ASIN, 7)
_asin_slope_series = polynomial(_derivative(_ASIN), 7)
# As many terms as matter up to the cuts: r = 1 for the hyperbolic functions, r = 2 for the circular ones.
_sinh_series = polynomial(_SINH[:10], 6)
_sinh_slope_series = polynomial(_derivative(_SINH)[:10], 6)
_coshm1_series = polynomial(_COSHM1[:10], 6)
_sin_series = polynomial(_SIN, 9)
_sin_slope_series = polynomial(_derivative(_SIN), 9)
_cosm1_series = polynomial(_COSM1, 9)
_cosm1_slope_series = polynomial(_derivative(_COSM1), 9)


@inline
def _tanh_cut(s):  # type: ignore[no-untyped-def]
    # In float32 higher: the closed form of the slope subtracts, and ten terms are enough there.
    return 0.25 if is_single(s) else 0.05


@inline
def tanhc(s):  # type: ignore[no-untyped-def]
    """tanh(r)/r of s = r^2 >= 0."""
    small = s < _tanh_cut(s)
    r = sqrt(select(small, 1.0, s))
    e = exp(-2.0 * r)
    return select(small, _tanh_series(select(small, s, 0.0)), (1.0 - e) / ((1.0 + e) * r))


@inline
def sech2(s):  # type: ignore[no-untyped-def]
    """sech(r)^2 of s = r^2, with all its digits for large r."""
    small = s < _tanh_cut(s)
    near = select(small, s, 0.0)
    t = _tanh_series(near)
    e = exp(-2.0 * sqrt(select(small, 1.0, s)))
    f = 1.0 + e
    return select(small, 1.0 - near * t * t, 4.0 * e / (f * f))


@inline
def tanhc_slope(s, value, square):  # type: ignore[no-untyped-def]
    """Derivative of tanh(r)/r by s, given its value and sech(r)^2."""
    small = s < _tanh_cut(s)
    far = select(small, 1.0, s)
    return select(small, _tanh_slope_series(select(small, s, 0.0)), (square - value) / (2.0 * far))


@inline
def arsinh_root(q):  # type: ignore[no-untyped-def]
    """arsinh(sqrt(q)), q >= 0."""
    # sqrt(q) + q/(1 + sqrt(1 + q)) is exp(arsinh) - 1 without cancellation.
    return log1p(sqrt(q) + q / (1.0 + sqrt(1.0 + q)))


@inline
def _arsinh_cut(q):  # type: ignore[no-untyped-def]
    return 0.12


@inline
def arsinhc(q):  # type: ignore[no-untyped-def]
    """arsinh(r)/r of q = r^2 >= 0."""
    small = q < _arsinh_cut(q)
    far = select(small, 1.0, q)
    return select(small, _arsinh_series(select(small, q, 0.0)), arsinh_root(far) / sqrt(far))


@inline
def arsinhc_slope(q, value):  # type: ignore[no-untyped-def]
    """Derivative of arsinh(r)/r by q, given its value."""
    small = q < _arsinh_cut(q)
    far = select(small, 1.0, q)
    closed = (1.0 / sqrt(1.0 + far) - value) / (2.0 * far)
    return select(small, _arsinh_slope_series(select(small, q, 0.0)), closed)


@inline
def sinhc_coshm1c(s):  # type: ignore[no-untyped-def]
    """sinh(r)/r and 2 (cosh(r) - 1)/r^2 of s = r^2 >= 0."""
    small = s < 1.0
    near, far = select(small, s, 0.0), select(small, 1.0, s)
    r = sqrt(far)
    e = exp(0.5 * r)
    rise, sum_ = e - 1.0 / e, e + 1.0 / e
    return select(small, _sinh_series(near), 0.5 * rise * (sum_ / r)), select(
        small, _coshm1_series(near), (rise / r) * (rise / r)
    )


@inline
def sinhc_slope(s, sinhc, coshm1c):  # type: ignore[no-untyped-def]
    """Derivative of sinh(r)/r by s, given the two values."""
    small = s < 1.0
    far = select(small, 1.0, s)
    return select(small, _sinh_slope_series(select(small, s, 0.0)), 0.25 * coshm1c + 0.5 * (1.0 - sinhc) / far)


@inline
def sinc_cosm1c(s):  # type: ignore[no-untyped-def]
    """sin(r)/r and 2 (1 - cos(r))/r^2 of s = r^2, for r up to 1e4."""
    small = s < 4.0
    near, far = select(small, s, 0.0), select(small, 1.0, s)
    r = sqrt(far)
    sine = 2.0 * sin(0.5 * r) / r
    return select(small, _sin_series(near), sine * cos(0.5 * r)), select(small, _cosm1_series(near), sine * sine)


@inline
def sinc_slope(s, sinc, cosm1c):  # type: ignore[no-untyped-def]
    """Derivative of sin(r)/r by s, given the two values."""
    small = s < 4.0
    far = select(small, 1.0, s)
    return select(small, _sin_slope_series(select(small, s, 0.0)), 0.5 * (1.0 - sinc) / far - 0.25 * cosm1c)


@inline
def cosm1c_slope(s, sinc, cosm1c):  # type: ignore[no-untyped-def]
    """Derivative of 2 (1 - cos(r))/r^2 by s, given the two values."""
    small = s < 4.0
    return select(small, _cosm1_slope_series(select(small, s, 0.0)), (sinc - cosm1c) / select(small, 1.0, s))


@inline
def asinc(q, angle):  # type: ignore[no-untyped-def]
    """asin(r)/r of q = r^2 in [0, 1], given the angle asin(r)."""
    small = q < _arsinh_cut(q)
    return select(small, _asin_series(select(small, q, 0.0)), angle / sqrt(select(small, 1.0, q)))


@inline
def asinc_slope(q, value):  # type: ignore[no-untyped-def]
    """Derivative of asin(r)/r by q in [0, 1), given its value."""
    small = q < _arsinh_cut(q)
    far = select(small, 0.5, q)
    closed = (1.0 / sqrt(1.0 - far) - value) / (2.0 * far)
    return select(small, _asin_slope_series(select(small, q, 0.0)), closed)

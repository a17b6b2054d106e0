"""The SIMD vectors: elementary functions against 40 digits, memory operations at every count."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from holonomy.manifolds.kernels.cpu import lanes
from holonomy.manifolds.kernels.cpu.even import arsinh_root, arsinhc, arsinhc_slope, sech2, tanhc, tanhc_slope
from holonomy.manifolds.kernels.cpu.jit import inline, kernel

RNG = np.random.default_rng(0)


@inline
def _angle(x):  # type: ignore[no-untyped-def]
    return lanes.atan2(x, lanes.like(x, 1.0))


@inline
def _tanhc_slope(x):  # type: ignore[no-untyped-def]
    return tanhc_slope(x, tanhc(x), sech2(x))


@inline
def _arsinhc_slope(x):  # type: ignore[no-untyped-def]
    return arsinhc_slope(x, arsinhc(x))


@kernel
def _apply(x, y, which):  # type: ignore[no-untyped-def]
    for i in range(0, x.shape[0], 8):
        v = lanes.load(x, i)
        if which == 0:
            w = lanes.exp(v)
        elif which == 1:
            w = lanes.log1p(v)
        elif which == 2:
            w = lanes.sin(v)
        elif which == 3:
            w = lanes.cos(v)
        elif which == 4:
            w = _angle(v)
        elif which == 5:
            w = tanhc(v)
        elif which == 6:
            w = sech2(v)
        elif which == 7:
            w = _tanhc_slope(v)
        elif which == 8:
            w = arsinhc(v)
        elif which == 9:
            w = _arsinhc_slope(v)
        else:
            w = arsinh_root(v)
        lanes.store(y, i, w)


def _root(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.sqrt(x)


EXACT: dict[int, tuple[str, Callable[[mpmath.mpf], mpmath.mpf], tuple[float, float], float]] = {
    # function, exact value, logarithms of the range of |x|, allowed error in eps
    0: ("exp", mpmath.exp, (-8.0, 4.3), 2.0),
    1: ("log1p", mpmath.log1p, (-18.0, 18.0), 2.0),
    2: ("sin", mpmath.sin, (-8.0, 7.0), 2.0),
    3: ("cos", mpmath.cos, (-8.0, 7.0), 2.0),
    4: ("atan", mpmath.atan, (-18.0, 18.0), 2.0),
    5: ("tanhc", lambda s: mpmath.tanh(_root(s)) / _root(s), (-18.0, 8.0), 3.0),
    # e^(-2r) carries the rounding of r times 2r.
    6: ("sech2", lambda s: mpmath.sech(_root(s)) ** 2, (-18.0, 5.0), 24.0),
    # Above the cut the slope is a difference of which a tenth is left.
    7: (
        "tanhc slope",
        lambda s: (mpmath.sech(_root(s)) ** 2 - mpmath.tanh(_root(s)) / _root(s)) / (2 * s),
        (-8.0, 5.0),
        40.0,
    ),
    8: ("arsinhc", lambda q: mpmath.asinh(_root(q)) / _root(q), (-18.0, 18.0), 4.0),
    9: (
        "arsinhc slope",
        lambda q: (1 / mpmath.sqrt(1 + q) - mpmath.asinh(_root(q)) / _root(q)) / (2 * q),
        (-8.0, 8.0),
        60.0,
    ),
    10: ("arsinh root", lambda q: mpmath.asinh(_root(q)), (-18.0, 18.0), 3.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("which", EXACT, ids=[name for name, *_ in EXACT.values()])
def test_elementary_functions_are_right_to_rounding(which: int, dtype: type) -> None:
    name, exact, (low, high), allowed = EXACT[which]
    x = np.exp(RNG.uniform(low, high, 512)).astype(dtype)
    if name in ("exp", "sin", "cos"):
        x *= RNG.choice([-1, 1], 512).astype(dtype)
    y = np.empty_like(x)
    _apply(x, y, which)
    with mpmath.workdps(40):
        eps = float(np.finfo(dtype).eps)
        for argument, value in zip(x.tolist(), y.tolist(), strict=True):
            wanted = exact(mpmath.mpf(argument))
            # Near a zero of sine and cosine the reduced argument keeps its digits, but for eps of the argument.
            scale = abs(wanted) + (eps * abs(argument) / 64 if name in ("sin", "cos") else 0)
            assert abs(mpmath.mpf(value) - wanted) <= allowed * eps * scale, (name, argument, value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_functions_at_the_ends_of_their_ranges(dtype: type) -> None:
    x = np.array([0.0, -1e4, 1e4, np.inf, -np.inf, np.nan, 1e-30, 1.0], dtype)
    y = np.empty_like(x)
    _apply(x, y, 0)
    assert y[:5].tolist() == [1.0, 0.0, math.inf, math.inf, 0.0]
    assert np.isnan(y[5])
    _apply(np.abs(x), y, 1)
    assert y[0] == 0.0
    assert y[3] == math.inf
    assert np.isnan(y[5])
    assert y[6] == dtype(1e-30)
    _apply(np.zeros(8, dtype), y, 4)
    assert not y.any()


@kernel
def _copy(x, y, count):  # type: ignore[no-untyped-def]
    lanes.masked_store(y, 0, lanes.masked_load(x, 0, count), count)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [*range(9), 11])
def test_masked_memory_touches_what_it_should(count: int, dtype: type) -> None:
    held = min(count, 8)
    x, y = np.arange(1, held + 1, dtype=dtype), np.full(9, -1.0, dtype)
    _copy(x, y, count)
    assert y.tolist() == [*range(1, held + 1), *[-1] * (9 - held)]

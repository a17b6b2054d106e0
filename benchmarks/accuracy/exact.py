"""Geometry at fifty digits: what every library is compared with.

A reference takes the coordinates that the libraries get, as exact numbers. Where rounding leaves a point slightly off
its manifold, the point meant is the one that `lift` says: a unit vector's direction, a hyperboloid's spatial part, the
span or the polar factor of columns, the symmetric part of a matrix.
"""

from collections.abc import Callable, Sequence

import mpmath

__all__ = ["MP", "OPERATIONS", "Operation", "Vector", "jacobian"]

MP = mpmath.MPContext()
MP.dps = 50

Vector = list[mpmath.mpf]
Operation = Callable[..., Vector]


def _dot(x: Sequence[mpmath.mpf], y: Sequence[mpmath.mpf]) -> mpmath.mpf:
    return MP.fsum(a * b for a, b in zip(x, y, strict=True))


def _mix(a: mpmath.mpf, x: Vector, b: mpmath.mpf, y: Vector) -> Vector:
    return [a * s + b * t for s, t in zip(x, y, strict=True)]


def jacobian(f: Operation, inputs: list[Vector], which: int) -> list[Vector]:
    """Derivatives of all results by each coordinate: central differences, of error 1e-32 in third derivatives."""
    result = []
    for i, value in enumerate(inputs[which]):
        step = MP.mpf(10) ** -16 * max(abs(value), MP.mpf(10) ** -3)
        ends = []
        for sign in (1, -1):
            moved = [list(x) for x in inputs]
            moved[which][i] = value + sign * step
            ends.append(f(*moved))
        result.append([(a - b) / (2 * step) for a, b in zip(*ends, strict=True)])
    return result


# -- Poincaré ball, c = 1 --------------------------------------------------------------------------------------------


def _mobius_add(x: Vector, y: Vector) -> Vector:
    xy, xx, yy = _dot(x, y), _dot(x, x), _dot(y, y)
    scale = 1 + 2 * xy + xx * yy
    return _mix((1 + 2 * xy + yy) / scale, x, (1 - xx) / scale, y)


def _ball_dist(x: Vector, y: Vector) -> Vector:
    gap = _mix(MP.mpf(1), x, MP.mpf(-1), y)
    return [2 * MP.asinh(MP.sqrt(_dot(gap, gap) / ((1 - _dot(x, x)) * (1 - _dot(y, y)))))]


def _ball_exp(x: Vector, u: Vector) -> Vector:
    length = MP.sqrt(_dot(u, u))
    if length == 0:
        return x
    step = MP.tanh(length / (1 - _dot(x, x))) / length
    return _mobius_add(x, [step * t for t in u])


def _ball_log(x: Vector, y: Vector) -> Vector:
    w = _mobius_add([-t for t in x], y)
    length = MP.sqrt(_dot(w, w))
    if length == 0:
        return [MP.mpf(0)] * len(x)
    return [(1 - _dot(x, x)) * MP.atanh(length) / length * t for t in w]


# -- hyperboloid, c = 1 ------------------------------------------------------------------------------------------------


def _lift(x: Vector) -> Vector:
    return [MP.sqrt(1 + _dot(x[1:], x[1:])), *x[1:]]


def _minkowski(x: Vector, y: Vector) -> mpmath.mpf:
    return _dot(x[1:], y[1:]) - x[0] * y[0]


def _lorentz_dist(x: Vector, y: Vector) -> Vector:
    x, y = _lift(x), _lift(y)
    gap = _mix(MP.mpf(1), x, MP.mpf(-1), y)
    return [2 * MP.asinh(MP.sqrt(max(_minkowski(gap, gap), MP.mpf(0))) / 2)]


def _lorentz_tangent(x: Vector, u: Vector) -> Vector:
    return [_dot(x[1:], u[1:]) / x[0], *u[1:]]


def _lorentz_exp(x: Vector, u: Vector) -> Vector:
    x = _lift(x)
    u = _lorentz_tangent(x, u)
    length = MP.sqrt(_minkowski(u, u))
    return _mix(MP.cosh(length), x, MP.sinh(length) / length if length else MP.mpf(1), u)


def _lorentz_log(x: Vector, y: Vector) -> Vector:
    d = _lorentz_dist(x, y)[0]
    x, y = _lift(x), _lift(y)
    if d == 0:
        return [MP.mpf(0)] * len(x)
    return _mix(d / MP.sinh(d), y, -d * MP.cosh(d) / MP.sinh(d), x)


# -- sphere ------------------------------------------------------------------------------------------------------------


def _unit(x: Vector) -> Vector:
    length = MP.sqrt(_dot(x, x))
    return [t / length for t in x]


def _sphere_dist(x: Vector, y: Vector) -> Vector:
    x, y = _unit(x), _unit(y)
    chord, cochord = _mix(MP.mpf(1), x, MP.mpf(-1), y), _mix(MP.mpf(1), x, MP.mpf(1), y)
    return [2 * MP.atan2(MP.sqrt(_dot(chord, chord)), MP.sqrt(_dot(cochord, cochord)))]


def _sphere_exp(x: Vector, u: Vector) -> Vector:
    x = _unit(x)
    u = _mix(MP.mpf(1), u, -_dot(x, u), x)
    length = MP.sqrt(_dot(u, u))
    return _mix(MP.cos(length), x, MP.sin(length) / length if length else MP.mpf(1), u)


def _sphere_log(x: Vector, y: Vector) -> Vector:
    d = _sphere_dist(x, y)[0]
    x, y = _unit(x), _unit(y)
    if d == 0:
        return [MP.mpf(0)] * len(x)
    return _mix(d / MP.sin(d), y, -d * MP.cos(d) / MP.sin(d), x)


# -- simplex, Fisher-Rao -----------------------------------------------------------------------------------------------


def _simplex_dist(x: Vector, y: Vector) -> Vector:
    # Differences about an entry of 0 step outside: the distance is reflected there.
    return [2 * t for t in _sphere_dist([MP.sqrt(abs(t)) for t in x], [MP.sqrt(abs(t)) for t in y])]


# -- matrices ----------------------------------------------------------------------------------------------------------


def _matrix(x: Vector, columns: int) -> mpmath.matrix:
    return MP.matrix([x[i : i + columns] for i in range(0, len(x), columns)])


def _flat(m: mpmath.matrix) -> Vector:
    return [m[i, j] for i in range(m.rows) for j in range(m.cols)]


def _function(m: mpmath.matrix, f: Callable[[mpmath.mpf], mpmath.mpf]) -> mpmath.matrix:
    """A function of a symmetric matrix."""
    values, vectors = MP.eigsy((m + m.T) / 2)
    return vectors * MP.diag([f(v) for v in values]) * vectors.T


def _polar(m: mpmath.matrix) -> mpmath.matrix:
    return m * _function(m.T * m, lambda v: 1 / MP.sqrt(v))


def _grassmann_dist(x: Vector, y: Vector) -> Vector:
    """Angles from the sines, which are singular values of the part of y off the span of x, and the cosines."""
    a, b = _polar(_matrix(x, 2)), _polar(_matrix(y, 2))
    cosines = MP.svd_r(a.T * b, compute_uv=False)
    sines = MP.svd_r(b - a * (a.T * b), compute_uv=False)
    angles = [MP.atan2(s, c) for s, c in zip(sorted(sines), sorted(cosines, reverse=True), strict=True)]
    return [MP.sqrt(_dot(angles, angles))]


def _stiefel_exp(b: int) -> Operation:
    """Geodesics for b = 1 (Euclidean metric) and b = 0 (canonical): Edelman, Arias, Smith, equations 2.7 and 2.41."""

    def exponential(x: Vector, u: Vector) -> Vector:
        a, v = _polar(_matrix(x, 2)), _matrix(u, 2)
        s = a.T * v
        v = v - a * (s + s.T) / 2  # the tangent part
        skew = a.T * v
        if not b:
            return _flat(MP.expm(v * a.T - a * v.T - a * skew * a.T) * a)
        p = a.cols
        block = MP.zeros(2 * p)
        block[:p, :p], block[p:, p:] = skew, skew
        block[:p, p:], block[p:, :p] = -(v.T * v), MP.eye(p)
        flow = MP.expm(block)
        return _flat((a * flow[:p, :p] + v * flow[p:, :p]) * MP.expm(-skew))

    return exponential


def _spd_dist(x: Vector, y: Vector) -> Vector:
    n = int(len(x) ** 0.5)
    a, b = _matrix(x, n), _matrix(y, n)
    root = _function(a, lambda v: 1 / MP.sqrt(v))
    logs = [MP.log(v) for v in MP.eigsy((root * b * root + (root * b * root).T) / 2, eigvals_only=True)]
    return [MP.sqrt(_dot(logs, logs))]


def _rotation_dist(x: Vector, y: Vector) -> Vector:
    """sqrt(2) times the angle of a rotation of space: from sine and cosine."""
    r = _polar(_matrix(x, 3)).T * _polar(_matrix(y, 3))
    sine = [(r[2, 1] - r[1, 2]) / 2, (r[0, 2] - r[2, 0]) / 2, (r[1, 0] - r[0, 1]) / 2]
    return [MP.sqrt(2) * MP.atan2(MP.sqrt(_dot(sine, sine)), (r[0, 0] + r[1, 1] + r[2, 2] - 1) / 2)]


#: (manifold, operation): its reference.
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("PoincareBall", "dist"): _ball_dist,
    ("PoincareBall", "expmap"): _ball_exp,
    ("PoincareBall", "logmap"): _ball_log,
    ("Lorentz", "dist"): _lorentz_dist,
    ("Lorentz", "expmap"): _lorentz_exp,
    ("Lorentz", "logmap"): _lorentz_log,
    ("Sphere", "dist"): _sphere_dist,
    ("Sphere", "expmap"): _sphere_exp,
    ("Sphere", "logmap"): _sphere_log,
    ("Simplex", "dist"): _simplex_dist,
    ("Grassmann", "dist"): _grassmann_dist,
    ("Stiefel, Euclidean", "expmap"): _stiefel_exp(1),
    ("Stiefel, canonical", "expmap"): _stiefel_exp(0),
    ("SPD, affine-invariant", "dist"): _spd_dist,
    ("SpecialOrthogonal", "dist"): _rotation_dist,
}

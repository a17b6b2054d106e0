"""What sympy derives of the recursions: expansions at small kernels, closed moments, solutions in depth and width."""

from functools import cache
from typing import Any

from holonomy.theory.activations import Activation, activation

__all__ = [
    "closed_moments",
    "derivatives_at_zero",
    "dual_activation",
    "proof_by_induction",
    "small_kernel_series",
    "solve_scale_invariant",
    "symbolic_coefficients",
]


@cache
def _expression(name: str | Activation) -> tuple[Any, Any]:
    import sympy

    act = activation(name)
    if act.sympy_expr is None:
        raise ValueError(f"{act.name} has no sympy expression")
    z = sympy.Symbol("z", real=True)
    return act.sympy_expr(z), z


def derivatives_at_zero(act: str | Activation, order: int = 3) -> list[Any]:
    """sigma(0), sigma'(0), ..., exact.

    Raises
    ------
    ValueError
        For an activation without an expression.
    """
    expression, z = _expression(act)
    return [expression.diff(z, k).subs(z, 0) if k else expression.subs(z, 0) for k in range(order + 1)]


def small_kernel_series(act: str | Activation, function: Any, order: int = 3) -> list[Any]:
    """Coefficients of 1, K, K^2, ... in <function(sigma, sigma')> at small K, by Wick's theorem: <z^2k> = (2k-1)!! K^k.

    Parameters
    ----------
    act : str or Activation
        Smooth at 0.
    function : callable
        Of the expressions of sigma and its derivative.
    order : int
        Largest power of K.
    """
    import sympy

    expression, z = _expression(act)
    composed = function(expression, expression.diff(z))
    series = sympy.series(composed, z, 0, 2 * order + 2).removeO()
    polynomial = sympy.Poly(sympy.expand(series), z)
    return [
        sympy.nsimplify(polynomial.coeff_monomial(z ** (2 * k))) * sympy.factorial2(2 * k - 1)
        if k
        else polynomial.coeff_monomial(1)
        for k in range(order + 1)
    ]


def symbolic_coefficients(act: str | Activation) -> dict[str, Any]:
    """Coefficients of an activation with sigma(0) = 0 at its critical point K* = 0, exact.

    a_1 and a_2 of K' = K (1 + a_1 K + a_2 K^2 + ...), b_1 of chi_perp = 1 + b_1 K + ..., p_perp = b_1/a_1, and the
    slope of V/K^2 in the depth.

    Raises
    ------
    ValueError
        If sigma(0) is not 0 or sigma'(0) is.
    """
    import sympy

    s = derivatives_at_zero(act)
    if s[0] != 0 or s[1] == 0:
        raise ValueError(f"symbolic_coefficients: {activation(act).name} must have sigma(0) = 0 and sigma'(0) != 0")
    C_W = 1 / s[1] ** 2
    square = small_kernel_series(act, lambda v, d: v**2)
    slope = small_kernel_series(act, lambda v, d: d**2, 1)
    fourth = small_kernel_series(act, lambda v, d: v**4, 2)
    a_1, a_2 = (sympy.simplify(C_W * square[k]) for k in (2, 3))
    b_1 = sympy.simplify(C_W * slope[1])
    # V' = chi_par^2 V + C_W^2 (<s^4> - <s^2>^2); with v = V/K^2, chi_par = dK'/dK = 1 + 2 a_1 K and K ~ -1/(a_1 l):
    # v' = v (1 + 2 a_1 K) + source, whose solution is linear in l.
    source = sympy.simplify(C_W**2 * (fourth[2] - square[1] ** 2))
    # v_l = c l: c = -2 c + source (K a_1 l = -1, to leading order in 1/l).
    c = sympy.Symbol("c")
    rate = sympy.solve(sympy.Eq(c, -2 * c + source), c)[0]
    return {"C_W": C_W, "a_1": a_1, "a_2": a_2, "b_1": b_1, "p_perp": sympy.simplify(b_1 / a_1), "V_slope": rate}


@cache
def closed_moments(act: str | Activation) -> dict[str, Any]:
    """Gaussian moments <s^2>, <s^4>, <d^2>, <d^4>, <s^2 d^2>, chi_par and chi_perp over C_W, as functions of K.

    For functions that are polynomials on either side of 0, by Wick's theorem: <z^2k> = (2k - 1)!! K^k.

    Raises
    ------
    ValueError
        For another activation.
    """
    import sympy

    expression, z = _expression(act)
    K = sympy.Symbol("K", positive=True)
    p = sympy.Symbol("p", positive=True)
    sides = [expression.subs(z, sign * p) for sign in (1, -1)]
    if not all(side.is_polynomial(p) for side in sides):
        raise ValueError(f"closed_moments: {activation(act).name} must be a polynomial on either side of 0")
    # On the left side the derivative by z is minus that by p = -z.
    slopes = [sides[0].diff(p), -sides[1].diff(p)]

    def mean(function: Any) -> Any:
        total = 0
        for sign, value, slope in zip((1, -1), sides, slopes, strict=True):
            for (power,), factor in sympy.Poly(function(sign * p, value, slope), p).terms():
                odd = sympy.sqrt(2 / sympy.pi) * sympy.factorial2(power - 1) * sympy.sqrt(K) ** power
                even = sympy.factorial2(power - 1) * K ** sympy.Rational(power, 2)
                total += factor * (odd if power % 2 else even) / 2
        return sympy.simplify(total)

    return {
        "K": K,
        "s2": mean(lambda z, s, d: s**2),
        "s4": mean(lambda z, s, d: s**4),
        "d2": mean(lambda z, s, d: d**2),
        "d4": mean(lambda z, s, d: d**4),
        "s2d2": mean(lambda z, s, d: s**2 * d**2),
        "parallel": sympy.simplify(mean(lambda z, s, d: z * s * d) / K),
        "perpendicular": mean(lambda z, s, d: d**2),
    }


def dual_activation(name: str) -> dict[str, Any]:
    """Mean <sigma(z_a) sigma(z_b)> for a covariance [[a, c], [c, b]] in closed form.

    By Price's theorem d<sigma sigma>/dc = <d sigma d sigma>: the integral of the latter in c from its value at c = 0,
    where the two are independent; for sin by characteristic functions.

    Parameters
    ----------
    name : {"relu", "linear", "erf", "sin"}

    Returns
    -------
    dict
        The symbols ``a``, ``b``, ``c``, the mean ``value``, and that of the derivatives, ``slope``.

    Raises
    ------
    ValueError
        For another activation.
    """
    import sympy

    a, b = sympy.symbols("a b", positive=True)
    c = sympy.Symbol("c", real=True)
    root = sympy.sqrt(a * b)
    if name == "linear":
        value, slope = c, sympy.Integer(1)
    elif name == "sin":
        # <sin u sin v> = (<cos(u - v)> - <cos(u + v)>)/2, and <cos w> = exp(-<w^2>/2).
        difference, total = sympy.exp(-(a + b - 2 * c) / 2), sympy.exp(-(a + b + 2 * c) / 2)
        value, slope = (difference - total) / 2, (difference + total) / 2
    elif name == "erf":
        # Two Gaussian factors: 4/pi over the root of det(1 + 2 K); its integral is an arcsine.
        slope = 4 / sympy.pi / sympy.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)
        value = 2 / sympy.pi * sympy.asin(2 * c / sympy.sqrt((1 + 2 * a) * (1 + 2 * b)))
    elif name == "relu":
        # Two steps: Sheppard's 1/4 + asin/(2 pi); at c = 0 two ReLUs have the product of their means.
        slope = sympy.Rational(1, 4) + sympy.asin(c / root) / (2 * sympy.pi)
        value = c / 4 + (c * sympy.asin(c / root) + sympy.sqrt(a * b - c**2)) / (2 * sympy.pi)
    else:
        raise ValueError(f"dual_activation: no closed form for {name!r}; there are relu, linear, erf and sin")
    return {"a": a, "b": b, "c": c, "value": value, "slope": slope}


def solve_scale_invariant(a_plus: Any = None, a_minus: Any = None) -> dict[str, Any]:
    """Solutions of the recursions for scale-invariant functions at criticality, in l, n, K, theta0.

    With A_2 = (a_+^2 + a_-^2)/2, A_4 = (a_+^4 + a_-^4)/2 and equal widths: V, the ratio V/(n K^2) that is exact in n,
    Theta, F and B. theta0 = lambda_b + lambda_W A_2 K.

    Parameters
    ----------
    a_plus, a_minus : sympy expression or number, optional
        Slopes; symbols where they are left out.
    """
    import sympy

    up = sympy.Symbol("a_+", positive=True) if a_plus is None else sympy.nsimplify(a_plus)
    down = sympy.Symbol("a_-", real=True) if a_minus is None else sympy.nsimplify(a_minus)
    layer, n, K, theta0 = sympy.symbols("l n K theta0", positive=True)
    A_2, A_4 = (up**2 + down**2) / 2, (up**4 + down**4) / 2
    return {
        "l": layer,
        "n": n,
        "K": K,
        "theta0": theta0,
        "A_2": A_2,
        "A_4": A_4,
        "V": (layer - 1) * (3 * A_4 / A_2**2 - 1) * K**2,
        "V_exact": ((1 + (3 * A_4 / A_2**2 - 1) / n) ** (layer - 1) - 1) * K**2 * n,
        "Theta": layer * theta0,
        "F": A_4 / A_2**2 * K * theta0 * layer * (layer - 1) / 2,
        "B": A_4 / A_2**2 * theta0**2 * (layer - 1) * layer * (2 * layer - 1) / 6,
    }


def proof_by_induction() -> dict[str, Any]:
    """Differences of the scale-invariant solutions and their recursions, simplified: all are 0, and so at l = 1.

    The recursions are those of `fluctuation_recursion` with C_W = 1/A_2, chi = 1, h = 0 and the moments of the two
    half-lines: <s^2> = A_2 K, <s^4> = 3 A_4 K^2, <d^4> = A_4, <s^2 d^2> = A_4 K.
    """
    import sympy

    found = solve_scale_invariant()
    layer, K, theta0, A_2, A_4 = (found[name] for name in ("l", "K", "theta0", "A_2", "A_4"))
    C_W = 1 / A_2
    steps = {
        "V": found["V"] + C_W**2 * (3 * A_4 - A_2**2) * K**2,
        "Theta": theta0 + found["Theta"],
        "F": found["F"] + C_W**2 * A_4 * K * found["Theta"],
        "B": found["B"] + C_W**2 * A_4 * found["Theta"] ** 2,
    }
    starts = {"V": 0, "Theta": theta0, "F": 0, "B": 0}
    return {
        name: (
            sympy.simplify(found[name].subs(layer, layer + 1) - step),
            sympy.simplify(found[name].subs(layer, 1) - starts[name]),
        )
        for name, step in steps.items()
    }

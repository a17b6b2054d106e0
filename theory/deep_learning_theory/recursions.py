"""Layer-to-layer recursions of wide networks: kernels, tangent kernels, and what finite width adds to them.

z^(1) = b + W x, z^(l+1) = b + W sigma(z^(l)), with Var b = C_b and Var W = C_W / fan-in; gradient descent has rates
lambda_b for biases and lambda_W / fan-in for weights (Roberts, Yaida and Hanin, The Principles of Deep Learning Theory,
2022). Finite-width tensors are those of a single input, in units of 1/n_(l-1).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holonomy.theory.activations import Activation, activation
from holonomy.theory.gaussian import gaussian_expectation, gaussian_nodes, gaussian_vector_nodes

__all__ = [
    "LayerStats",
    "Moments",
    "fluctuation_recursion",
    "kernel_recursion",
    "moments",
    "ntk_recursion",
    "susceptibilities",
    "vertex_recursion",
]


@dataclass(frozen=True)
class Moments:
    """Gaussian moments of an activation at variance K, s = sigma(z) and d = sigma'(z).

    Attributes
    ----------
    s2, s4, d2, d4, s2d2 : float
        Means of s^2, s^4, d^2, d^4, s^2 d^2.
    parallel, perpendicular, slope : float
        chi_par, chi_perp and h at C_W = 1.
    """

    s2: float
    s4: float
    d2: float
    d4: float
    s2d2: float
    parallel: float
    perpendicular: float
    slope: float


def moments(act: str | Activation, K: float, order: int = 200) -> Moments:
    """Moments of an activation at variance K > 0 by quadrature.

    chi_par = <z s d>/K, chi_perp = <d^2>, h = <d^2 (z^2 - K)>/(2 K^2), times C_W each.

    Raises
    ------
    ValueError
        If K is not positive.
    """
    if not K > 0:
        raise ValueError(f"moments: 'K' must be positive, got {K}")
    found = activation(act)
    z, weights = gaussian_nodes(K, order)
    s, d = found.sigma(z), found.dsigma(z)

    def mean(values: Tensor) -> float:
        return float((values * weights).sum())

    return Moments(
        mean(s**2),
        mean(s**4),
        mean(d**2),
        mean(d**4),
        mean(s**2 * d**2),
        mean(z * s * d) / K,
        mean(d**2),
        mean(d**2 * (z * z - K)) / (2.0 * K * K),
    )


def susceptibilities(act: str | Activation, K: float, C_W: float) -> tuple[float, float, float]:
    """Susceptibilities chi_par and chi_perp of norms and of angles, and h = d chi_perp/dK.

    Raises
    ------
    ValueError
        For a variance or C_W that is not positive.
    """
    _check(C_W=C_W)
    found = moments(act, K)
    return C_W * found.parallel, C_W * found.perpendicular, C_W * found.slope


def _check(depth: int = 1, C_b: float = 0.0, C_W: float = 1.0, K0: float = 0.0) -> None:
    if depth < 1:
        raise ValueError(f"'depth' must be at least 1, got {depth}")
    if not C_b >= 0 or not C_W > 0:
        raise ValueError(f"wanted C_b >= 0 and C_W > 0, got {C_b} and {C_W}")
    if not K0 >= 0:
        raise ValueError(f"'K0' must be at least 0, got {K0}")


def kernel_recursion(
    act: str | Activation, depth: int, C_b: float, C_W: float, K0: float | Tensor
) -> list[float] | list[Tensor]:
    """Kernels K^(1), ..., K^(depth) of preactivations at infinite width.

    Parameters
    ----------
    act : str or Activation
    depth : int
        Layers L.
    C_b, C_W : float
        Variances of biases and of weights times fan-in.
    K0 : float or Tensor
        |x|^2/n_0 of one input, or the matrix x_a.x_b/n_0 of several.

    Returns
    -------
    list of float, or of Tensor in the shape of K0

    Raises
    ------
    ValueError
        For a depth below 1, C_W <= 0, C_b < 0, or a negative K0.
    """
    kernels: list[Tensor] = []
    scalar = not isinstance(K0, Tensor)
    matrix = torch.tensor([[float(K0)]], dtype=torch.float64) if not isinstance(K0, Tensor) else K0.double()
    _check(depth, C_b, C_W, float(matrix.diagonal().min()))
    found = activation(act)
    for layer in range(depth):
        matrix = C_b + C_W * (matrix if layer == 0 else _pairs(found.sigma, kernels[-1]))
        kernels.append(matrix)
    return [float(k) for k in kernels] if scalar else kernels


def _pairs(function: Activation | object, K: Tensor) -> Tensor:
    """Means <f(z_a) f(z_b)> for all pairs of inputs."""
    f = function  # elementwise
    out = torch.empty_like(K)
    for a in range(len(K)):
        out[a, a] = gaussian_expectation(lambda z: f(z) ** 2, float(K[a, a]))  # type: ignore[operator]
        for b in range(a):
            block = K[[a, b]][:, [a, b]]
            out[a, b] = out[b, a] = gaussian_expectation(lambda u, v: f(u) * f(v), block, order=60)  # type: ignore[operator]
    return out


def ntk_recursion(
    act: str | Activation,
    depth: int,
    C_b: float,
    C_W: float,
    K0: float | Tensor,
    lambda_b: float = 1.0,
    lambda_W: float = 1.0,
) -> list[float] | list[Tensor]:
    """Mean tangent kernels Theta^(1), ..., Theta^(depth); parameters as for `kernel_recursion`.

    Theta^(1) = lambda_b + lambda_W K0 and Theta' = lambda_b + lambda_W <s s> + C_W <d d> Theta.
    """
    scalar = not isinstance(K0, Tensor)
    matrix = torch.tensor([[float(K0)]], dtype=torch.float64) if not isinstance(K0, Tensor) else K0.double()
    kernels: list[Tensor] = kernel_recursion(act, depth, C_b, C_W, matrix)  # type: ignore[assignment]
    found = activation(act)
    tangents = [lambda_b + lambda_W * matrix]
    for K in kernels[:-1]:
        values, slopes = _pairs(found.sigma, K), _pairs(found.dsigma, K)
        tangents.append(lambda_b + lambda_W * values + C_W * slopes * tangents[-1])
    return [float(t) for t in tangents] if scalar else tangents


@dataclass(frozen=True)
class LayerStats:
    """Kernel, tangent kernel, and 1/n tensors of a layer for one input.

    V is the four-point vertex; A, B, D and F are the fluctuations of the tangent kernel and its correlations with
    preactivations, with the definitions of `fluctuation_recursion`.
    """

    K: float
    Theta: float
    V: float
    A: float
    B: float
    D: float
    F: float


def fluctuation_recursion(
    act: str | Activation,
    widths: Sequence[int],
    C_b: float,
    C_W: float,
    lambda_b: float | Sequence[float],
    lambda_W: float | Sequence[float],
    x_norm2: float = 1.0,
) -> list[LayerStats]:
    """Kernels and the leading corrections of finite width, layer by layer.

    With neurons i of one layer and one input, up to higher orders in 1/n::

        E[z_1 z_2 z_3 z_4]_conn  = (V/n) (d_12 d_34 + d_13 d_24 + d_14 d_23)
        E[dH_12 dH_34]           = (1/n) (d_12 d_34 A + (d_13 d_24 + d_14 d_23) B)
        E[z_1 z_2 dH_34]         = (1/n) (d_12 d_34 D + (d_13 d_24 + d_14 d_23) F)

    where n is the width of the layer before.

    Parameters
    ----------
    act : str or Activation
    widths : sequence of int
        (n_0, n_1, ..., n_L): inputs, hidden layers, and outputs.
    C_b, C_W : float
        Initialisation.
    lambda_b, lambda_W : float or sequence of float
        Learning rates, one for all L layers or one for each.
    x_norm2 : float, default 1
        |x|^2/n_0.

    Returns
    -------
    list of LayerStats
        Of layers 1, ..., L.

    Raises
    ------
    ValueError
        For widths that are empty or not positive, rates whose number is not L, C_W <= 0, C_b < 0 or x_norm2 < 0.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"fluctuation_recursion: 'widths' must be at least two positive numbers, got {list(widths)}")
    depth = len(widths) - 1
    rates = []
    for name, given in (("lambda_b", lambda_b), ("lambda_W", lambda_W)):
        each = [float(given)] * depth if isinstance(given, int | float) else [float(r) for r in given]
        if len(each) != depth:
            raise ValueError(f"fluctuation_recursion: {name!r} must be one number or {depth}, got {len(each)}")
        rates.append(each)
    _check(depth, C_b, C_W, x_norm2)
    stats = [LayerStats(C_b + C_W * x_norm2, rates[0][0] + rates[1][0] * x_norm2, 0.0, 0.0, 0.0, 0.0, 0.0)]
    for layer in range(1, depth):
        ratio = widths[layer] / widths[layer - 1]
        stats.append(_next(act, stats[-1], ratio, C_b, C_W, rates[0][layer], rates[1][layer]))
    return stats


def _next(
    act: str | Activation, at: LayerStats, r: float, C_b: float, C_W: float, lambda_b: float, lambda_W: float
) -> LayerStats:
    """One layer on; r is the layer's width over that of the layer before."""
    m = moments(act, at.K)
    par, perp, h = C_W * m.parallel, C_W * m.perpendicular, C_W * m.slope
    theta, q = at.Theta, lambda_W / C_W
    s_fluct, sd_fluct, d_fluct = m.s4 - m.s2**2, m.s2d2 - m.s2 * m.d2, m.d4 - m.d2**2
    V = C_W**2 * s_fluct + r * par**2 * at.V
    B = C_W**2 * m.d4 * theta**2 + r * perp**2 * at.B
    F = C_W**2 * m.s2d2 * theta + r * par**2 * at.F
    D = (
        C_W * lambda_W * s_fluct
        + C_W**2 * sd_fluct * theta
        + r * (q * par**2 * at.V + par * perp * at.D + par * h * theta * at.V)
    )
    A = (
        lambda_W**2 * s_fluct
        + 2.0 * lambda_W * C_W * sd_fluct * theta
        + C_W**2 * d_fluct * theta**2
        + r
        * (
            q**2 * par**2 * at.V
            + 2.0 * q * par * (h * theta * at.V + perp * at.D)
            + h**2 * theta**2 * at.V
            + 2.0 * h * theta * perp * at.D
            + perp**2 * at.A
        )
    )
    K = C_b + C_W * m.s2
    return LayerStats(K, lambda_b + lambda_W * m.s2 + perp * theta, V, A, B, D, F)


def vertex_recursion(
    act: str | Activation, widths: Sequence[int], C_b: float, C_W: float, K0: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Kernels and four-point vertices of one to four inputs, to leading order in 1/n.

    V_(12)(34)/n is the covariance over networks of the kernels of inputs 1, 2 and of 3, 4; layer by layer

        V'_(12)(34) = C_W^2 (<s_1 s_2 s_3 s_4> - <s_1 s_2><s_3 s_4>)
                      + C_W^2 r/4 sum V^(bc)(de) <s_1 s_2 (z_b z_c - G_bc)><s_3 s_4 (z_d z_e - G_de)>

    with r = n_l/n_(l-1), and indices raised by the inverse of the kernel G. An entry has four indices and depends on
    those inputs alone: of more inputs, take four at a time.

    Parameters
    ----------
    act, widths, C_b, C_W
        As for `fluctuation_recursion`.
    K0 : Tensor, shape (m, m)
        x_a.x_b/n_0 of m inputs, 1 to 4, linearly independent.

    Returns
    -------
    list of (Tensor, Tensor)
        Kernel (m, m) and vertex (m, m, m, m) of layers 1, ..., L.

    Raises
    ------
    ValueError
        For widths that are empty or not positive, C_W <= 0, C_b < 0, or a matrix that is not a regular covariance.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"vertex_recursion: 'widths' must be at least two positive numbers, got {list(widths)}")
    _check(len(widths) - 1, C_b, C_W)
    m = len(K0)
    if K0.shape != (m, m) or not 1 <= m <= 4 or int(torch.linalg.cholesky_ex(K0.double())[1]) != 0:
        raise ValueError(f"vertex_recursion: 'K0' must be a regular covariance of 1 to 4 inputs, got {K0.tolist()}")
    found = activation(act)
    G, V = C_b + C_W * K0.double(), torch.zeros(m, m, m, m, dtype=torch.float64)
    layers = [(G, V)]
    for before, n in itertools.pairwise(widths[:-1]):
        z, weights = gaussian_vector_nodes(G)
        s = found.sigma(z)
        products = s.unsqueeze(1) * s  # (m, m, nodes)
        mean = products @ weights
        fourth = torch.einsum("abk,cdk,k->abcd", products, products, weights)
        source = fourth - torch.einsum("ab,cd->abcd", mean, mean)
        centred = z.unsqueeze(1) * z - G.unsqueeze(2)
        response = torch.einsum("abk,cdk,k->abcd", products, centred, weights)
        inverse = torch.linalg.inv(G)
        raised = torch.einsum("abcd,ae,bf,cg,dh->efgh", V, inverse, inverse, inverse, inverse)
        carried = torch.einsum("abef,efgh,cdgh->abcd", response, raised, response)
        V = C_W**2 * (source + 0.25 * n / before * carried)
        G = C_b + C_W * mean
        layers.append((G, V))
    return layers

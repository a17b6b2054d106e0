"""What the Poincaré ResNet's initialisation and batch norm rest on, as laws with exponents and constants.

Near the origin a Poincaré linear layer is x -> 2 Z^T x. Under HNN++'s initialisation, Z_ij ~ N(0, 1/(2 n^2)) for n
inputs and outputs, a layer therefore multiplies the expected squared norm by 4 n / (2 n^2) = 2/n, and L layers by
(2/n)^L: the collapse that the identity initialisation avoids. The scaling of patches rests on the mean absolute
coordinate of a unit vector, B(n/2, 1/2)/pi. The gyromidpoint may replace the Fréchet mean because the two part only at
third order in the radius of the cloud.

Sources: van Spengler, Berkhout and Mettes, Poincaré ResNet (ICCV 2023); Shimizu, Mukuta and Harada, Hyperbolic neural
networks++ (ICLR 2021).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import (
    PoincareConv2d,
    PoincareLinear,
    beta_ratio,
    frechet_mean,
    poincare_midpoint,
)
from holonomy.theory.check import Check
from holonomy.theory.statistics import fit_exponent, mean_interval, paired_exponent

__all__ = ["checks"]

DTYPE = torch.float64
#: Bootstrap intervals cover this much: a dozen of them together still err less than once in a hundred runs.
CONFIDENCE = 0.999


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; some seconds."""
    generator = torch.Generator().manual_seed(seed)
    return [
        *hnn_decay(generator),
        identity_error(generator),
        identity_convolution(generator),
        *coordinate_law(generator),
        concatenation_constant(),
        affine_limit(generator),
        midpoint_order(generator),
    ]


def hnn_decay(
    generator: torch.Generator, sizes: Sequence[int] = (8, 16, 32, 64, 128), layers: int = 4, trials: int = 400
) -> list[Check]:
    """Exponent and constant of the decay of E|y|^2 through layers under HNN++'s initialisation."""
    ratios = [decay_ratios(n, layers, trials, generator) for n in sizes]
    low, slope, high = fit_exponent(sizes, ratios, statistic=np.mean, confidence=CONFIDENCE)
    theorem = "HNN++ init: E|y|^2 after L linear layers of size n is (2/n)^L |x|^2 near the origin"
    how = f"L = {layers}, n = {', '.join(map(str, sizes))}, {trials} draws each, float64, |x| = 1e-4"
    constants = [r * (n / 2) ** layers for n, r in zip(sizes, ratios, strict=True)]
    first, constant, last = mean_interval(np.concatenate(constants), confidence=CONFIDENCE)
    return [
        Check(f"{theorem}: exponent of n", -float(layers), slope, how, low=low, high=high),
        Check(f"{theorem}: measured over predicted", 1.0, constant, how, low=first, high=last),
    ]


def decay_ratios(n: int, layers: int, trials: int, generator: torch.Generator) -> np.ndarray:
    """|y|^2 / |x|^2 for fresh weights and a fresh small point in each trial."""
    ball = PoincareBall(c=1.0)
    result = []
    with torch.no_grad():
        for _ in range(trials):
            x = torch.randn(n, dtype=DTYPE, generator=generator)
            x *= 1e-4 / x.norm()
            y = x
            for _ in range(layers):
                y = PoincareLinear(n, n, ball=ball, init="hnn", space="ball", dtype=DTYPE, generator=generator)(y)
            result.append(float(y.square().sum() / x.square().sum()))
    return np.array(result)


def identity_error(generator: torch.Generator, n: int = 16, layers: int = 20) -> Check:
    """The identity initialisation is the identity of the ball, not only near the origin."""
    ball = PoincareBall(c=1.0)
    x = points(200, n, radius=0.95, generator=generator)
    y = x
    with torch.no_grad():
        for _ in range(layers):
            y = PoincareLinear(n, n, ball=ball, space="ball", dtype=DTYPE)(y)
    return Check(
        "identity init: a Poincaré linear layer with Z = I/2, r = 0 is the identity of the ball",
        1e-12,
        float((y - x).abs().max()),
        f"largest error after {layers} layers, n = {n}, 200 points up to radius 0.95, float64",
        "at most",
    )


def identity_convolution(
    generator: torch.Generator, curvatures: Sequence[float] = (1e-5, 1e-6, 1e-7, 1e-8), images: int = 20
) -> Check:
    """Order in c of what 20 convolutions under the identity initialisation do to an image."""
    layers = 20
    errors = []
    with torch.no_grad():
        for _ in range(images):
            v = torch.randn(1, 8, 6, 6, dtype=DTYPE, generator=generator)
            row = []
            for c in curvatures:
                layer = PoincareConv2d(8, 8, 3, 1, 1, ball=PoincareBall(c=c), dtype=DTYPE, generator=generator)
                y = v
                for _ in range(layers):
                    y = layer(y)
                row.append(float((y - v).norm() / v.norm()))
            errors.append(row)
    low, slope, high = paired_exponent(curvatures, np.array(errors), confidence=CONFIDENCE)
    return Check(
        "identity init: a Poincaré convolution is the identity up to O(c): exponent of the error",
        1.0,
        slope,
        f"{layers} layers, 3 x 3, 8 channels, {images} images, c = {', '.join(f'{c:g}' for c in curvatures)}, float64",
        # The next order: 20 layers, 9 pixels a patch of squared length about 8.
        low=low - layers * 8 * max(curvatures),
        high=high + layers * 8 * max(curvatures),
    )


def coordinate_law(
    generator: torch.Generator, sizes: Sequence[int] = (4, 16, 64, 256), draws: int = 200_000
) -> list[Check]:
    """Mean absolute coordinate of uniform unit vectors."""
    result = []
    for n in sizes:
        rows = draws // n
        u = torch.randn(rows, n, dtype=DTYPE, generator=generator)
        means = (u / u.norm(dim=1, keepdim=True)).abs().mean(1).numpy()
        low, mean, high = mean_interval(means, confidence=CONFIDENCE)
        result.append(
            Check(
                f"a coordinate of a uniform unit vector in R^{n} has mean absolute value B(n/2, 1/2)/pi",
                beta_ratio(1, n),  # B(1/2, 1/2) = pi
                mean,
                f"{rows} vectors, float64",
                low=low,
                high=high,
            )
        )
    return result


def concatenation_constant(taps: int = 9, sizes: Sequence[int] = (64, 128, 256, 512)) -> Check:
    """Norm of a patch of unit vectors after the scaling: 1 - (1 - 1/taps) / (4 n) + O(1/n^2)."""
    gaps = [n * (1.0 - taps**0.5 * beta_ratio(n, n * taps)) for n in sizes]
    # Two sizes, the second twice the first, cancel the next order: Richardson's extrapolation.
    limit = 2.0 * gaps[-1] - gaps[-2]
    error = abs(limit - (2.0 * gaps[-2] - gaps[-3]))
    return Check(
        "scaled by B(kn/2, 1/2)/B(n/2, 1/2), k unit vectors of R^n concatenate to norm 1 - (1 - 1/k)/(4n) + O(n^-2)",
        0.25 * (1.0 - 1.0 / taps),
        limit,
        f"n (1 - norm) extrapolated from n = {', '.join(map(str, sizes))}, k = {taps}",
        low=limit - error,
        high=limit + error,
    )


def affine_limit(generator: torch.Generator, curvatures: Sequence[float] = (1e-5, 1e-6, 1e-7, 1e-8)) -> Check:
    """Order in c of the departure from the affine layer."""
    errors = []
    for _ in range(50):
        x = points(20, 6, radius=1.0, generator=generator)
        z = 0.5 * torch.randn(5, 6, dtype=DTYPE, generator=generator)
        r = torch.randn(5, dtype=DTYPE, generator=generator)
        errors.append([affine_error(x, z, r, c) for c in curvatures])
    low, slope, high = paired_exponent(curvatures, np.array(errors), confidence=CONFIDENCE)
    return Check(
        "as c -> 0 the Poincaré linear layer is 2 <x, z_k> - 2 |z_k| r_k + O(c): exponent of the error",
        1.0,
        slope,
        f"50 random layers, c = {', '.join(f'{c:g}' for c in curvatures)}, float64",
        # The next order in c bends the line: cosh(2 sqrt(c) r) has 2 c r^2, with r up to 3.
        low=low - 20 * max(curvatures),
        high=high + 20 * max(curvatures),
    )


def affine_error(x: Tensor, z: Tensor, r: Tensor, c: float) -> float:
    """Largest difference between the layer and its limit."""
    layer = PoincareLinear(z.shape[1], z.shape[0], ball=PoincareBall(c=c), space="ball", dtype=DTYPE)
    with torch.no_grad():
        layer.weight.copy_(z)
        layer.bias.copy_(r)  # type: ignore[union-attr]
        return float((layer(x) - (2.0 * x @ z.T - 2.0 * z.norm(dim=1) * r)).abs().max())


def midpoint_order(
    generator: torch.Generator, radii: Sequence[float] = (0.01, 0.02, 0.04, 0.08), clouds: int = 60
) -> Check:
    """Order in the radius of a cloud at which the gyromidpoint leaves the Fréchet mean."""
    ball = PoincareBall(c=1.0)
    gaps = []
    for _ in range(clouds):
        directions = points(12, 3, radius=1.0, generator=generator)
        row = []
        for radius in radii:
            x = radius * directions
            mean = frechet_mean(x, 1.0, tolerance=1e-15)
            row.append(float(ball.dist(poincare_midpoint(x, 1.0), mean)))
        gaps.append(row)
    low, slope, high = paired_exponent(radii, np.array(gaps), confidence=CONFIDENCE)
    return Check(
        "the gyromidpoint leaves the Fréchet mean at third order in the cloud's radius: exponent of their distance",
        3.0,
        slope,
        f"{clouds} clouds of 12 points in 3 dimensions, radii {', '.join(map(str, radii))}, float64",
        # The fifth order bends the line by the square of the radius.
        low=low - max(radii) ** 2,
        high=high + max(radii) ** 2,
    )


def points(count: int, n: int, *, radius: float, generator: torch.Generator) -> Tensor:
    """Uniform directions, uniform radii up to `radius`."""
    x = torch.randn(count, n, dtype=DTYPE, generator=generator)
    return radius * torch.rand(count, 1, dtype=DTYPE, generator=generator) * x / x.norm(dim=1, keepdim=True)

"""What the paper states of kernels, spectra and learning curves, checked."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from holonomy.theory.check import Check
from holonomy.theory.ntk import empirical_ntk, k0, k1
from holonomy.theory.statistics import asymptotic_exponent, fit_exponent, mean_errors
from holonomy.theory.wide_cnn.curves import predicted_exponent, teacher_student_curve
from holonomy.theory.wide_cnn.kernel import HierarchicalKernel, Kind, sample_multisphere
from holonomy.theory.wide_cnn.network import WideCNN
from holonomy.theory.wide_cnn.spectrum import effective_dimension, gegenbauer_spectrum, torus_spectrum

#: Intervals of means are this many standard errors to either side.
ERRORS = 4.0
NU: dict[Kind, float] = {"ntk": 0.5, "nngp": 1.5}
#: Even modes: odd ones of arc-cosine kernels decay with constants of their own.
MODES = np.arange(8, 49, 2)


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from ``seed``; some ten seconds."""
    generator = torch.Generator().manual_seed(seed)
    return [
        *normalisation(generator),
        *wide_network(generator),
        width_exponent(generator),
        *sector_exponents(),
        *sphere_exponents(),
        *degeneracy(),
        *scales(generator),
    ]


def normalisation(generator: torch.Generator) -> list[Check]:
    """Values at equal inputs."""
    X = sample_multisphere(20, 8, 2, generator)
    found = []
    limits: dict[Kind, float] = {"nngp": 1.0, "ntk": 5.0}
    for kind, predicted in limits.items():
        worst = float((HierarchicalKernel((2, 2, 2, 2), kind).diag(X) - predicted).abs().max())
        found.append(
            Check(
                f"{kind.upper()} of L layers is {'1' if kind == 'nngp' else 'L + 1'} at equal inputs: largest error",
                1e-13,
                worst,
                "L = 4, 20 inputs of 8 patches, float64",
                "at most",
            )
        )
    return found


def wide_network(generator: torch.Generator, width: int = 256, nets: int = 40) -> list[Check]:
    """Means over finite networks: their covariance and their tangent kernel."""
    sizes = (2, 2, 2)
    X = sample_multisphere(2, 4, 2, generator)
    pair, tangent = [], []
    for _ in range(nets):
        net = WideCNN(sizes, width, generator=generator, dtype=torch.float64)
        tangent.append(float(empirical_ntk(net, X[:1], X[1:])))
        pair.append(float(_hidden(net, X[0]) @ _hidden(net, X[1])))
    how = f"(2, 2, 2), {nets} networks of width {width}, one pair of inputs"
    found = []
    means: dict[Kind, list[float]] = {"nngp": pair, "ntk": tangent}
    for kind, samples in means.items():
        exact = float(HierarchicalKernel(sizes, kind)(X)[0, 1])
        low, mean, high = mean_errors(np.array(samples) / exact, ERRORS)
        # Finite networks are off by a few parts in their width.
        slack = 4.0 / width
        found.append(
            Check(
                f"the mean {kind.upper()} of finite networks is the kernel, up to O(1/width): ratio",
                1.0,
                mean,
                how,
                low=low - slack,
                high=high + slack,
            )
        )
    return found


def _hidden(net: WideCNN, x: Tensor) -> Tensor:
    """Features behind the last hidden layer, scaled so that their product is the NNGP kernel of this draw."""
    return torch.autograd.grad(net(x.unsqueeze(0)).sum(), net.readout)[0].flatten()


def width_exponent(generator: torch.Generator, nets: int = 48) -> Check:
    """Fluctuations of the tangent kernel of finite networks."""
    sizes, widths = (2, 2, 2), (16, 32, 64, 128)
    X = sample_multisphere(4, 4, 2, generator)
    samples = []
    for width in widths:
        kernels = torch.stack(
            [empirical_ntk(WideCNN(sizes, width, generator=generator, dtype=torch.float64), X) for _ in range(nets)]
        )
        samples.append((kernels - kernels.mean(0)).flatten(1).norm(dim=1).square().numpy())
    low, exponent, high = fit_exponent(widths, samples, statistic=np.mean, confidence=0.999)
    return Check(
        "the variance of a finite network's NTK falls as 1/width: exponent",
        -1.0,
        exponent,
        f"(2, 2, 2), widths {', '.join(map(str, widths))}, {nets} networks each, 4 inputs",
        low=low,
        high=high,
    )


def sector_exponents(grid: int = 2048) -> list[Check]:
    """Decay of eigenvalues in both sectors of two patches."""
    found = []
    for kind in ("ntk", "nngp"):
        spectrum = torus_spectrum(HierarchicalKernel((2, 2), kind), grid)
        for level, values in ((1, spectrum[MODES, 0]), (2, spectrum[MODES, MODES])):
            low, exponent, high = asymptotic_exponent(MODES, values)
            found.append(
                Check(
                    f"{kind.upper()} eigenvalues of sector {level} decay as k^-(2 nu + d_eff): exponent",
                    -2.0 * NU[kind] - effective_dimension((2, 2), level),
                    exponent,
                    f"(2, 2), even k from 8 to 48 along {'an axis' if level == 1 else 'the diagonal'}, torus of "
                    f"{grid}^2, corrections 1/k and 1/k^2",
                    low=low,
                    high=high,
                )
            )
    return found


def sphere_exponents(dim: int = 3) -> list[Check]:
    """Decay of eigenvalues of one patch on a sphere."""
    kernels: dict[Kind, Callable[[Tensor], Tensor]] = {"ntk": lambda t: k1(t) + t * k0(t), "nngp": k1}
    found = []
    for kind, kernel in kernels.items():
        low, exponent, high = asymptotic_exponent(MODES, gegenbauer_spectrum(kernel, dim, int(MODES[-1]))[MODES])
        found.append(
            Check(
                f"{kind.upper()} eigenvalues of one patch of s_1 = {dim} decay as k^-(2 nu + s_1 - 1): exponent",
                -2.0 * NU[kind] - (dim - 1),
                exponent,
                "even degrees from 8 to 48, Funk-Hecke by quadrature, corrections 1/k and 1/k^2",
                low=low,
                high=high,
            )
        )
    return found


def degeneracy(grid: int = 64) -> list[Check]:
    """Equal eigenvalues of a sector's meta-patches, the constant mode, and the transform against LAPACK."""
    kernel = HierarchicalKernel((2, 2))
    spectrum = torus_spectrum(kernel, grid)
    uneven = float(np.abs(spectrum[:, 0] - spectrum[0, :]).max())
    coarse = torus_spectrum(kernel, 24)
    angles = 2.0 * np.pi * np.arange(24) / 24
    circle = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    points = torch.cartesian_prod(torch.arange(24), torch.arange(24))
    matrix = kernel(circle[points]).numpy() / 24**2
    top = np.linalg.eigvalsh(matrix)[::-1][:50]
    worst = float(np.abs(np.sort(coarse.reshape(-1))[::-1][:50] - top).max())
    return [
        Check(
            "eigenvalues do not depend on the meta-patch's position: largest difference of (k, 0) and (0, k)",
            1e-14,
            uneven,
            f"(2, 2), torus of {grid}^2, float64",
            "at most",
        ),
        Check(
            "eigenvalues of the torus are those of the Gram matrix: largest error of the first 50",
            1e-10,
            worst,
            "(2, 2), 24 x 24 grid, Fourier transform against LAPACK",
            "at most",
        ),
    ]


def scales(generator: torch.Generator) -> list[Check]:
    """Learning curves: local targets are learnt faster, and what a full one costs."""
    sizes = (2, 2)
    student = HierarchicalKernel(sizes)
    curves = [
        teacher_student_curve(student.patch(level), student, (64, 128, 256, 512), 128, 6, rng=generator, shape=(2, 2))
        for level in (1, 2)
    ]
    how = "(2, 2), NTK teacher and student, no ridge, n = 64 ... 512, 6 trials of 128 test inputs"
    gap = curves[0].beta - curves[1].beta
    return [
        Check(
            "the deep student learns a target of one patch faster than one of both: difference of exponents",
            0.08,
            gap,
            f"{how}; {predicted_exponent(1, 0.5, 0.5, sizes) - predicted_exponent(2, 0.5, 0.5, sizes):g} is predicted",
            "at least",
            low=curves[0].ci[0] - curves[1].ci[1],
            high=curves[0].ci[1] - curves[1].ci[0],
        ),
        Check(
            "depth does not beat the curse: exponent of a target of the full input, 1/d and 0.12 for small n",
            1.0 / effective_dimension(sizes, 2) + 0.12,
            curves[1].beta,
            how,
            "at most",
            low=curves[1].ci[0],
            high=curves[1].ci[1],
        ),
    ]

"""Spectra on tori and spheres, and their sectors."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre

from holonomy.theory.ntk import k1
from holonomy.theory.wide_cnn import (
    HierarchicalKernel,
    effective_dimension,
    gegenbauer_spectrum,
    sector_eigenvalues,
    torus_spectrum,
)


def test_the_transform_has_the_gram_matrix_s_eigenvalues() -> None:
    kernel, grid = HierarchicalKernel((2, 2)), 12
    angles = torch.arange(grid, dtype=torch.float64) * (2 * math.pi / grid)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    points = circle[torch.cartesian_prod(torch.arange(grid), torch.arange(grid))]
    values = np.linalg.eigvalsh(kernel(points).numpy() / grid**2)[::-1]
    spectrum = torus_spectrum(kernel, grid)
    # Points that nearly coincide cost the matrix some 1e-8 of their entries, and 1e-10 of the eigenvalues.
    np.testing.assert_allclose(np.sort(spectrum.reshape(-1))[::-1], values, atol=1e-9)
    assert spectrum[0, 0] == pytest.approx(float(kernel(points).mean()), abs=1e-9)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_modes_of_one_patch_do_not_know_which(kind: str) -> None:
    spectrum = torus_spectrum(HierarchicalKernel((2, 3), kind), 24)  # type: ignore[arg-type]
    for axes in ((1, 0, 2), (2, 1, 0)):
        np.testing.assert_allclose(spectrum.transpose(axes), spectrum, atol=1e-15)


def test_one_layer_is_a_sum_over_patches() -> None:
    spectrum = torus_spectrum(HierarchicalKernel((2,)), 32, patches=2)
    np.testing.assert_allclose(spectrum[1:, 1:], 0.0, atol=1e-15)
    assert torus_spectrum(HierarchicalKernel((2, 2)), 32)[1:, 1:].max() > 1e-3


def test_sectors_part_the_modes() -> None:
    filters = (2, 2)
    spectrum = torus_spectrum(HierarchicalKernel(filters), 16)
    first, second = (sector_eigenvalues(spectrum, k, filters) for k in (1, 2))
    assert len(first[0]) == 2 * 15
    assert len(second[0]) == 15 * 15
    assert ((first[0] != 0).sum(1) == 1).all()
    assert (second[0] != 0).all()
    for modes, values in (first, second):
        assert (np.diff(values) <= 0).all()
        np.testing.assert_array_equal(spectrum[tuple(modes.T)], values)
    total = spectrum[0, 0] + first[1].sum() + second[1].sum()
    assert total == pytest.approx(spectrum.sum())


def test_sectors_of_three_levels_by_their_least_meta_patch() -> None:
    filters = (2, 2, 2)
    spectrum = np.arange(3.0**4).reshape(3, 3, 3, 3)
    inside = {tuple(m) for m in sector_eigenvalues(spectrum, 2, filters)[0]}
    across = {tuple(m) for m in sector_eigenvalues(spectrum, 3, filters)[0]}
    assert (1, 1, 0, 0) in inside
    assert (0, 0, -1, 1) in inside
    assert (0, 1, 1, 0) in across
    assert (0, 0, 0, 1) not in inside | across
    assert len(inside) == 2 * 4
    assert len(inside) + len(across) + 4 * 2 + 1 == 81


@pytest.mark.parametrize("dim", [3, 5])
def test_eigenvalues_on_the_sphere_sum_to_the_kernel_at_one(dim: int) -> None:
    found = gegenbauer_spectrum(lambda t: k1(t) ** 3, dim, 60)
    multiplicity = [1.0 if k == 0 else (2 * k + dim - 2) / k * math.comb(k + dim - 3, k - 1) for k in range(61)]
    # What is left out falls as k^-5 times k^(dim - 2), summed from 61 on.
    assert float(np.dot(found, multiplicity)) == pytest.approx(1.0, abs=2e-3)


def test_polynomials_have_finitely_many_eigenvalues() -> None:
    def kernel(t: torch.Tensor) -> torch.Tensor:
        return 0.3 + 0.7 * torch.from_numpy(eval_legendre(4, t.numpy()))

    found = gegenbauer_spectrum(kernel, 3, 8)
    wanted = np.zeros(9)
    wanted[0], wanted[4] = 0.3, 0.7 / 9.0  # the mean square of P_4
    np.testing.assert_allclose(found, wanted, atol=1e-15)


def test_effective_dimension() -> None:
    assert [effective_dimension((3, 2, 4), level) for level in (1, 2, 3)] == [2, 4, 16]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: torus_spectrum(HierarchicalKernel((3, 2)), 8), "patches of 2 numbers"),
        (lambda: torus_spectrum(HierarchicalKernel((2, 2), pooling=True), 8), "without pooling"),
        (lambda: torus_spectrum(HierarchicalKernel((2, 2)), 1), "grid >= 2"),
        (lambda: torus_spectrum(HierarchicalKernel((2, 2, 2)), 512), r"grid\^p <= 2\^23"),
        (lambda: gegenbauer_spectrum(k1, 2, 3), "dim >= 3"),
        (lambda: sector_eigenvalues(np.ones((4, 4)), 3, (2, 2)), "'sector' must be 1 ... 2, got 3"),
        (lambda: effective_dimension((2, 2), 0), "'level' must be 1 ... 2, got 0"),
        (lambda: effective_dimension((1, 2), 1), "at least 2, got 1"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

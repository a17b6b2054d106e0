"""Learning curves and what is predicted of them."""

import numpy as np
import pytest
import torch

from holonomy.theory.wide_cnn import (
    HierarchicalKernel,
    predicted_exponent,
    sample_multisphere,
    student_errors,
    teacher_student_curve,
)

KERNEL = HierarchicalKernel((2, 2))


def test_errors_are_those_of_sampled_targets() -> None:
    X = sample_multisphere(120, 2, 2, 0)
    teacher, student = HierarchicalKernel((2, 2), "nngp")(X), KERNEL(X)
    expected = student_errors([teacher], student, (20, 80), 40)[0]
    factor = torch.linalg.cholesky(teacher + 1e-9 * torch.eye(120, dtype=X.dtype))
    targets = factor @ torch.randn(120, 4000, dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    for n, error in zip((20, 80), expected, strict=True):
        guess = student[-40:, :n] @ torch.linalg.solve(student[:n, :n], targets[:n])
        squares = (guess - targets[-40:]).square().mean(0) / teacher.diagonal()[-40:].mean()
        # Three standard errors of the mean over the sampled targets.
        assert abs(float(squares.mean()) - error) < 3.0 * float(squares.std()) / 4000**0.5


def test_errors_fall_from_one() -> None:
    X = sample_multisphere(300, 2, 2, 0)
    K = KERNEL(X)
    errors = student_errors([K], K, (1, 10, 40, 160), 100)[0]
    assert errors == sorted(errors, reverse=True)
    assert all(0.0 <= e <= 1.0 for e in errors)
    (with_ridge,) = student_errors([K], K, (160,), 100, ridge=1e6)[0]
    assert with_ridge == pytest.approx(1.0, abs=1e-3)


def test_a_curve_tells_scales_apart_and_repeats_itself() -> None:
    def curve(level: int, seed: int) -> object:
        return teacher_student_curve(KERNEL.patch(level), KERNEL, (16, 32, 64, 128), 64, 4, rng=seed, shape=(2, 2))

    local, whole = curve(1, 0), curve(2, 0)
    assert curve(1, 0) == local
    assert curve(1, 1) != local
    assert local.beta > whole.beta  # type: ignore[attr-defined]
    for found in (local, whole):
        assert found.ci[0] <= found.beta <= found.ci[1]  # type: ignore[attr-defined]
        assert len(found.err) == len(found.se) == 4  # type: ignore[attr-defined]
        assert min(found.se) > 0.0  # type: ignore[attr-defined]


def test_trials_of_each_size_and_the_window() -> None:
    found = teacher_student_curve(
        KERNEL, KERNEL, (8, 16, 32, 64, 128), 32, (4, 4, 4, 2, 2), shape=(2, 2), window=(16, 128)
    )
    assert found.n == (8, 16, 32, 64, 128)
    slopes = -np.diff(np.log(found.err)) / np.log(2.0)
    assert slopes[1:].min() <= found.beta <= slopes[1:].max()


@pytest.mark.parametrize(
    ("level", "nu", "filters", "wanted"),
    [
        (1, 0.5, (2, 2), 0.75),
        (2, 0.5, (2, 2), 0.5),
        (1, 1.5, (2, 2), 2.25),
        (1, 0.5, (2, 2, 2), 0.625),
        (2, 1.5, (2, 2, 2), 1.25),
        (3, 0.5, (2, 2, 2), 0.25),
        (1, 50.0, (2, 2), 3.0),  # saturated: twice (2 nu_S + d)/d
    ],
)
def test_predicted_exponents(level: int, nu: float, filters: tuple[int, ...], wanted: float) -> None:
    assert predicted_exponent(level, nu, 0.5, filters) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: teacher_student_curve(KERNEL, KERNEL, (8, 8), 4, 2, shape=(2, 2)), "'ns' must increase"),
        (lambda: teacher_student_curve(KERNEL, KERNEL, (0, 8), 4, 2, shape=(2, 2)), "from at least 1"),
        (lambda: teacher_student_curve(KERNEL, KERNEL, (8, 16), 4, 1, shape=(2, 2)), "'trials' must be at least 2"),
        (lambda: teacher_student_curve(KERNEL, KERNEL, (8, 16), 4, (2,), shape=(2, 2)), "for each size"),
        (lambda: teacher_student_curve(KERNEL, KERNEL, (8, 16), 4, 2, -1.0, shape=(2, 2)), "'ridge'"),
        (lambda: predicted_exponent(1, 0.0, 0.5, (2, 2)), "positive smoothness"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

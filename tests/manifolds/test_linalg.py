"""Matrix functions and orthonormal factors: values, and derivatives where eigenvalues coincide."""

import math
import warnings
from collections.abc import Callable

import mpmath
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import linalg

EPS = torch.finfo(torch.float64).eps

# Scalar function, mpmath's form of it, and spectra from its domain (ascending).
FUNCTIONS = {
    "cos": (linalg.COS, lambda s: mpmath.cos(mpmath.sqrt(s)), (0.0, 0.3, 2.0, 30.0)),
    "sinc": (linalg.SINC, lambda s: mpmath.sinc(mpmath.sqrt(s)), (0.0, 0.3, 2.0, 30.0)),
    "arccosc": (
        linalg.ARCCOSC,
        lambda c: mpmath.re(mpmath.acos(c) / mpmath.sqrt(1 - c * c)),
        (0.01, 0.4, 0.7999, 0.99),
    ),
    "inverse sqrt": (linalg.INVERSE_SQRT, lambda s: 1 / mpmath.sqrt(s), (0.2, 0.5, 1.0, 30.0)),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def _rotation(size: int, seed: int = 0) -> Tensor:
    return linalg.haar((size, size), torch.float64, None, torch.Generator().manual_seed(seed))


def _with_spectrum(*values: float) -> Tensor:
    q = _rotation(len(values))
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.mT


def _randn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@each_function
def test_function_of_a_matrix_acts_on_its_eigenvalues(name: str) -> None:
    f, reference, spectrum = FUNCTIONS[name]
    q = _rotation(4)
    values = torch.tensor([float(reference(mpmath.mpf(s))) for s in spectrum], dtype=torch.float64)
    got = linalg.symmetric_function(_with_spectrum(*spectrum), f)
    # 100 eps: eigenvalues up to 30 carry an error of 30 eps into f.
    torch.testing.assert_close(got, q @ torch.diag(values) @ q.mT, rtol=0, atol=100 * EPS)


@each_function
@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-9, 1e-5, 3e-3, 0.02, 0.15])
def test_divided_differences_keep_their_digits_at_every_gap(name: str, gap: float) -> None:
    f, reference, spectrum = FUNCTIONS[name]
    with mpmath.workdps(60):
        for s in spectrum[1:]:
            a, b, c = (mpmath.mpf(float(t)) for t in (s - 0.6 * gap, s, s + 0.4 * gap))
            if gap == 0.0:
                first, second = mpmath.diff(reference, b), mpmath.diff(reference, b, 2) / 2
            else:
                first = (reference(a) - reference(c)) / (a - c)
                second = ((reference(a) - reference(b)) / (a - b) - (reference(b) - reference(c)) / (b - c)) / (a - c)
            points = [torch.tensor(float(t), dtype=torch.float64) for t in (a, b, c)]
            # Rounding over the gap where Taylor's polynomial takes over (1, or 6e-3 for arccosc), once and twice.
            scale = float(abs(first))
            assert float(f.first(points[0], points[2])) == pytest.approx(float(first), abs=1e-12 * scale, rel=1e-12)
            assert float(f.second(*points)) == pytest.approx(float(second), abs=1e-9 * scale, rel=1e-9)


@pytest.mark.parametrize(
    "spectrum",
    [(0.5, 0.5, 0.5), (0.2, 0.5, 0.5), (0.5, 0.5 + 1e-9, 0.9), (0.5, 0.503, 0.51), (0.2, 0.5, 0.9)],
    ids=["all equal", "a pair", "nearly a pair", "close", "apart"],
)
@each_function
def test_both_derivatives_are_right_at_repeated_eigenvalues(name: str, spectrum: tuple[float, ...]) -> None:
    f = FUNCTIONS[name][0]
    a = _with_spectrum(*spectrum).requires_grad_()
    assert gradcheck(lambda a: linalg.symmetric_function(a, f), a, check_forward_ad=True)
    assert gradgradcheck(lambda a: linalg.symmetric_function(a, f), a)


def test_forward_over_reverse_equals_reverse_over_reverse() -> None:
    a, weights = _with_spectrum(0.2, 0.5, 0.5), _randn(3, 3)

    def function(a: Tensor) -> Tensor:
        return (linalg.symmetric_function(a, linalg.COS) * weights).sum()

    twice = torch.func.jacrev(torch.func.jacrev(function))(a)
    # 1e-13: the same closed form, summed in another order.
    torch.testing.assert_close(torch.func.hessian(function)(a), twice, rtol=0, atol=1e-13)


def test_forward_over_forward_is_refused() -> None:
    """torch would answer 0, without a word."""
    a = _with_spectrum(0.2, 0.5, 0.9)
    nested = torch.func.jacfwd(torch.func.jacfwd(lambda a: linalg.symmetric_function(a, linalg.COS)))
    with pytest.raises(NotImplementedError, match="use reverse mode for one of the two"):
        nested(a)


def test_derivatives_in_float32_agree_with_float64() -> None:
    a = _with_spectrum(0.2, 0.5, 0.5004)
    for f, *_ in FUNCTIONS.values():
        gradients = []
        for dtype in (torch.float64, torch.float32):
            b = a.to(dtype).requires_grad_()
            (g,) = torch.autograd.grad((linalg.symmetric_function(b, f) * _randn(3, 3).to(dtype)).sum(), b)
            gradients.append(g.double())
        # 2e-6: rounding of float32 over the gap of 0.1 where Taylor's polynomial takes over.
        torch.testing.assert_close(gradients[1], gradients[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("factor", [linalg.polar, linalg.cholesky_qr, linalg.nearest_orthonormal])
def test_not_a_number_is_handed_on(factor: Callable[[Tensor], Tensor]) -> None:
    w = _randn(2, 5, 3)
    w[0, 0, 0] = math.nan
    result = factor(w)
    assert bool(result[0].isnan().any())
    assert bool(result[1].isfinite().all())


def test_combination_and_its_derivatives() -> None:
    x, u, a, b = _randn(2, 1, 5, 3), _randn(4, 5, 3, seed=1), _randn(3, 3, seed=2), _randn(2, 4, 3, 3, seed=3)
    torch.testing.assert_close(linalg.combine(x, a, u, b), x @ a + u @ b)
    small = tuple(t.requires_grad_() for t in (x[:, 0, :4], a, u[:2, :4].contiguous(), b[:, 0].contiguous()))
    assert gradcheck(linalg.combine, small, check_forward_ad=True)
    assert gradgradcheck(linalg.combine, small)


def test_combination_is_one_batch_under_vmap() -> None:
    x, u, a, b = _randn(5, 3), _randn(4, 5, 3, seed=1), _randn(3, 3, seed=2), _randn(3, 3, 4, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing batching rule warns, and loops
        got = torch.vmap(linalg.combine, in_dims=(None, None, 0, 2))(x, a, u, b)
    torch.testing.assert_close(got, x @ a + u @ b.movedim(2, 0))


@pytest.mark.parametrize("norm", [1e-3, 0.03, 0.5, 3.0])
@pytest.mark.parametrize("batch", [(), (1,), (3,)], ids=str)
def test_matrix_exponential_of_a_single_matrix_has_all_digits(norm: float, batch: tuple[int, ...]) -> None:
    a = _randn(*batch, 4, 4)
    a = norm * a / torch.linalg.matrix_norm(a, 2)[..., None, None]
    wanted = torch.as_tensor(scipy.linalg.expm(a.numpy()))
    # 40 eps: both sides round, and exp(3) = 20.
    torch.testing.assert_close(linalg.matrix_exp(a), wanted, rtol=40 * EPS, atol=40 * EPS)


def test_cholesky_qr_is_the_qr_factorisation_with_positive_diagonal() -> None:
    w = _randn(4, 9, 3)
    q, r = torch.linalg.qr(w)
    wanted = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    # 1e-13: rounding times the condition number of w, about 5, squared.
    torch.testing.assert_close(linalg.cholesky_qr(w), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3, 1e4])
def test_cholesky_qr_stays_orthonormal_for_long_steps_in_float32(size: float) -> None:
    x = linalg.haar((40, 4), torch.float32, None, torch.Generator().manual_seed(0))
    u = _randn(40, 4, seed=1).float() * torch.tensor([size, 1.0, 1e-3, 0.0])
    u = u - x @ linalg.sym(x.mT @ u)
    # A few roundings, whatever the length: the second pass restores what the first loses.
    assert linalg.gram_gap(linalg.cholesky_qr(x + u)) < 2e-6


@pytest.mark.parametrize("factor", [linalg.polar, linalg.nearest_orthonormal])
def test_polar_factor_equals_scipy(factor: Callable[[Tensor], Tensor]) -> None:
    w = _randn(9, 4)
    # 1e-13: rounding times the condition number of w squared.
    torch.testing.assert_close(
        factor(w), torch.as_tensor(scipy.linalg.polar(w.numpy())[0]), rtol=0, atol=1e-13, msg=factor.__name__
    )


@pytest.mark.parametrize("factor", [linalg.polar, linalg.nearest_orthonormal, linalg.cholesky_qr])
def test_factors_differentiate_twice_at_equal_singular_values(factor: Callable[[Tensor], Tensor]) -> None:
    w = (1.5 * linalg.haar((5, 3), torch.float64, None, torch.Generator().manual_seed(0))).requires_grad_()
    assert gradcheck(factor, w, check_forward_ad=True)
    assert gradgradcheck(factor, w)


def test_nearest_orthonormal_is_accurate_for_nearly_dependent_columns() -> None:
    """A Gram matrix squares the condition number: the factor of one with 1e6 would be lost in float32."""
    u, v = linalg.haar((6, 2), torch.float64, None, torch.Generator().manual_seed(0)), _rotation(2)
    w = u @ torch.diag(torch.tensor([1.0, 1e-4], dtype=torch.float64)) @ v
    # 1e-2: the entries of w are rounded to 6e-8, against a smallest singular value of 1e-4.
    torch.testing.assert_close(linalg.nearest_orthonormal(w.float()).double(), u @ v, rtol=0, atol=1e-2)


@pytest.mark.parametrize("rank", [0, 1])
def test_nearest_orthonormal_has_a_finite_gradient_at_dependent_columns(rank: int) -> None:
    w = (_randn(5, 1) @ _randn(1, 2, seed=1) * rank).requires_grad_()
    y = linalg.nearest_orthonormal(w)
    assert linalg.gram_gap(y) < 10 * EPS
    (g,) = torch.autograd.grad(y.sum(), w)
    assert bool(g.isfinite().all())


@pytest.mark.parametrize("singular", [(1.0, 1.0, 1.0), (0.9, 0.9, 0.3), (0.8, 0.5, 0.01)], ids=str)
def test_nearest_rotation_differentiates_twice(singular: tuple[float, ...]) -> None:
    m = (_with_spectrum(*singular) @ _rotation(3, 1)).requires_grad_()
    assert gradcheck(linalg.nearest_rotation, m, check_forward_ad=True)
    assert gradgradcheck(linalg.nearest_rotation, m)


@pytest.mark.parametrize("singular", [(0.8, 0.5, 0.0), (0.8, 0.0, 0.0), (0.0, 0.0, 0.0)], ids=str)
def test_nearest_rotation_is_finite_where_it_jumps(singular: tuple[float, ...]) -> None:
    m = torch.diag(torch.tensor(singular, dtype=torch.float64)).requires_grad_()
    r = linalg.nearest_rotation(m)
    assert linalg.gram_gap(r) < 10 * EPS
    (g,) = torch.autograd.grad(r.sum(), m)
    assert bool(g.isfinite().all())


def test_haar_has_the_moments_of_the_uniform_law() -> None:
    """A raw Q factor follows LAPACK's signs: the mean of its first entry on St(4, 2) is -0.42."""
    count = 20_000
    x = linalg.haar((count, 4, 2), torch.float64, None, torch.Generator().manual_seed(0))
    # Five standard errors: entries have variance 1/4, their squares 2 (n - 1)/(n^2 (n + 2)) = 1/16.
    assert float(x.mean(0).abs().amax()) < 5 * 0.5 / count**0.5
    assert float((x.square().mean(0) - 0.25).abs().amax()) < 5 * 0.25 / count**0.5


def test_numerical_rank_of_known_spectra() -> None:
    def tall(*values: float) -> Tensor:
        return (
            _rotation(9, 1)[:, : len(values)]
            @ torch.diag(torch.tensor(values, dtype=torch.float64))
            @ _rotation(len(values))
        )

    assert linalg.numerical_rank(tall(3.0, 3.0, 3.0, 1e-8)) == 3
    assert linalg.numerical_rank(tall(10.0, 1.0, 1.0)) == 1  # 100 of 102
    assert linalg.numerical_rank(tall(4.0, 1.0, 0.5), 0.9) == 1  # 16 of 17.25, a share of 0.93
    assert linalg.numerical_rank(tall(4.0, 1.0, 0.5), 0.95) == 2
    assert linalg.numerical_rank(tall(4.0, 1.0, 0.5).mT, 0.99) == 3
    # More than the share, not as much: of twenty equal values nineteen hold 0.95.
    assert linalg.numerical_rank(torch.eye(20), 0.95) == 20
    assert linalg.numerical_rank(torch.zeros(3, 2)) == 0


def test_numerical_rank_refuses() -> None:
    with pytest.raises(TypeError, match=r"'x' must be a floating tensor, got torch\.int64"):
        linalg.numerical_rank(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"'energy' must be in \(0, 1\), got 1\.0"):
        linalg.numerical_rank(torch.eye(2), 1.0)
    with pytest.raises(ValueError, match=r"'x' has shape \(3,\), wanted \(n, p\) with finite values"):
        linalg.numerical_rank(torch.ones(3))
    with pytest.raises(ValueError, match="with finite values"):
        linalg.numerical_rank(torch.full((2, 2), math.nan))

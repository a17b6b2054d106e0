"""Products of Householder reflections, against SciPy, explicit products and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from holonomy.manifolds.linalg import gram_gap, haar
from holonomy.models.representation.householder_projector.householder import (
    HouseholderOrthogonal,
    compact_wy,
    householder_matrix,
    householder_product,
    householder_vectors,
)

METHODS = ("wy", "sequential", "torch")


def draw(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def trapezoidal(*size: int, seed: int = 0) -> Tensor:
    return draw(*size, seed=seed).tril(-1) + 0.7 * torch.eye(*size[-2:], dtype=torch.float64)


def explicit(vectors: Tensor) -> Tensor:
    """The product of explicit matrices, in numpy."""
    result = np.eye(vectors.shape[0])
    for u in vectors.T.numpy():
        result = result @ (np.eye(len(u)) - 2.0 * np.outer(u, u) / (u @ u))
    return torch.from_numpy(result)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (7, 3), (6, 6)])
def test_product_is_that_of_explicit_matrices(method: str, n: int, k: int) -> None:
    vectors = trapezoidal(n, k)
    whole = explicit(vectors)
    for columns in (None, 1, k, n):
        found = householder_product(vectors, columns, method)
        torch.testing.assert_close(found, whole[:, :columns], atol=1e-14, rtol=0)  # some roundings


@pytest.mark.parametrize("method", ["wy", "sequential"])
def test_any_number_of_dense_vectors_in_batches(method: str) -> None:
    vectors = draw(2, 3, 5, 8)  # more reflections than dimensions
    found = householder_product(vectors, 4, method)
    assert found.shape == (2, 3, 5, 4)
    torch.testing.assert_close(found[1, 2], explicit(vectors[1, 2])[:, :4], atol=1e-13, rtol=0)


@pytest.mark.parametrize(("columns", "k"), [(3, 3), (5, 3), (2, 3)])
def test_methods_agree_in_value_and_gradient(columns: int, k: int) -> None:
    vectors, target = trapezoidal(9, k), draw(9, columns, seed=1)
    values, gradients = [], []
    for method in METHODS:
        leaf = vectors.clone().requires_grad_()
        q = householder_product(leaf, columns, method)
        (gradient,) = torch.autograd.grad((q * target).sum(), leaf)
        values.append(q.detach())
        gradients.append(gradient.tril())  # LAPACK has no entries above the diagonal to differentiate by
    for value, gradient in zip(values[1:], gradients[1:], strict=True):
        torch.testing.assert_close(value, values[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(gradient, gradients[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["wy", "sequential"])
def test_derivatives_are_finite_differences_to_second_order(method: str) -> None:
    vectors = draw(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: householder_product(u, 2, method), vectors)
    assert torch.autograd.gradgradcheck(lambda u: householder_product(u, 2, method), vectors)
    assert torch.autograd.gradcheck(householder_matrix, draw(2, 4).requires_grad_())
    assert torch.autograd.gradcheck(compact_wy, vectors)


def test_length_of_a_vector_does_not_matter_and_gradients_are_orthogonal_to_it() -> None:
    vectors = draw(8, 4).requires_grad_()
    scaled = vectors.detach() * torch.tensor([3.0, -1e-3, 1e6, 0.5])
    # A power of two would change no bit; these leave some roundings.
    torch.testing.assert_close(householder_product(scaled), householder_product(vectors.detach()), atol=1e-14, rtol=0)
    (gradient,) = torch.autograd.grad((householder_product(vectors) * draw(8, 8, seed=1)).sum(), vectors)
    vectors = vectors.detach()
    assert float(gradient.norm()) > 1.0
    assert float((gradient * vectors).sum(0).abs().max()) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1.0, 1e20, 1e37])
def test_columns_are_orthonormal_at_any_length_of_the_vectors(dtype: torch.dtype, scale: float) -> None:
    vectors = (draw(64, 10, dtype=dtype) * scale).requires_grad_()
    q = householder_product(vectors, 10)
    assert gram_gap(q) < (1e-6 if dtype == torch.float32 else 1e-12)
    (gradient,) = torch.autograd.grad(q.sum(), vectors)
    assert bool(gradient.isfinite().all()) or scale < 1e-30  # 1 / scale is beyond float32 there
    for v in (vectors.detach()[:, 0], vectors.detach()[:, 1]):
        assert gram_gap(householder_matrix(v)) < (1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_determinant_is_minus_one_to_the_number_of_reflections(k: int) -> None:
    assert float(torch.linalg.det(householder_product(draw(6, k)))) == pytest.approx((-1) ** k, abs=1e-12)


def test_compact_form_has_bounded_entries_even_for_repeated_vectors() -> None:
    vectors = draw(6, 4)
    y, t = compact_wy(vectors)
    torch.testing.assert_close(torch.eye(6, dtype=torch.float64) - y @ t @ y.T, explicit(vectors), atol=1e-14, rtol=0)
    assert torch.equal(t, t.triu())
    same = draw(6, 1).expand(6, 40) + 1e-9 * draw(6, 40, seed=1)
    y, t = compact_wy(same)
    assert float(t.abs().max()) <= 4.0 + 1e-12
    assert gram_gap(householder_product(same)) < 1e-12


@pytest.mark.parametrize(("n", "k"), [(9, 4), (5, 5), (3, 1)])
def test_vectors_are_those_of_scipys_qr_without_its_upper_triangle(n: int, k: int) -> None:
    q = haar((n, k), torch.float64, None, torch.Generator().manual_seed(0))
    vectors, signs = householder_vectors(q)
    (packed, _), r = scipy.linalg.qr(q.numpy(), mode="raw")
    # SciPy's vectors below the diagonal; LAPACK's own sums may be ordered otherwise.
    np.testing.assert_allclose(np.tril(vectors.numpy(), -1), np.tril(packed, -1), atol=1e-13)
    assert torch.equal(vectors.triu(), torch.eye(n, k, dtype=torch.float64))
    assert float(vectors.abs().max()) <= 1.0 + 1e-12
    turned = min(k, n - 1)  # the last of n has nothing below it, and no reflection in LAPACK
    np.testing.assert_array_equal(signs.numpy()[:turned], np.sign(np.diag(r))[:turned])
    for method in METHODS:
        torch.testing.assert_close(householder_product(vectors, k, method) * signs, q, atol=1e-13, rtol=0)


def test_packed_qr_taken_for_vectors_gives_another_basis() -> None:
    q = haar((8, 3), torch.float64, None, torch.Generator().manual_seed(0))
    packed, _ = torch.geqrf(q)
    wrong = householder_product(packed, 3)
    assert gram_gap(wrong) < 1e-12
    assert float((wrong.abs() - q.abs()).abs().max()) > 0.1


def test_vectors_of_axes_and_of_both_components() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    for q in (eye, -eye, eye[:, :2], eye[:, [1, 0, 2, 3]], eye * torch.tensor([1.0, -1.0, 1.0, 1.0])):
        vectors, signs = householder_vectors(q)
        torch.testing.assert_close(householder_product(vectors, q.shape[1]) * signs, q, atol=1e-15, rtol=0)


@pytest.mark.parametrize(("n", "k"), [(12, 5), (6, 6), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_module_keeps_its_start_and_stays_orthonormal_under_adam(n: int, k: int, dtype: torch.dtype) -> None:
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    q = haar((n, k), torch.float64, None, torch.Generator().manual_seed(0)).to(dtype)
    module = HouseholderOrthogonal(n, k, q, dtype=dtype)
    torch.testing.assert_close(module().detach(), q, atol=tolerance, rtol=0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    target = haar((n, k), torch.float64, None, torch.Generator().manual_seed(1)).to(dtype)
    for _ in range(1000):
        optimizer.zero_grad()
        (module() - target).square().sum().backward()
        optimizer.step()
        assert gram_gap(module()) < tolerance
    if k < n:  # of one component, and then any start leads to any target
        assert float((module() - target).detach().abs().max()) < 1e-3


def test_module_has_as_many_free_entries_as_the_manifold_dimensions() -> None:
    module = HouseholderOrthogonal(6, 3, dtype=torch.float64)
    free = [(i, j) for i in range(6) for j in range(3) if i > j]

    def columns(entries: Tensor) -> Tensor:
        vectors = torch.zeros(6, 3, dtype=torch.float64).index_put(tuple(torch.tensor(free).T), entries)
        return torch.func.functional_call(module, {"vectors": vectors}).flatten()

    start = torch.stack([module.vectors.detach()[place] for place in free])
    jacobian = torch.func.jacrev(columns)(start)
    assert len(free) == 3 * 6 - 3 * 4 // 2
    assert int(torch.linalg.matrix_rank(jacobian)) == len(free)
    module().sum().backward()
    assert module.vectors.grad is not None
    assert not module.vectors.grad.triu().any()


def test_signs_survive_the_state_dict_and_seeds_repeat() -> None:
    def module(seed: int) -> HouseholderOrthogonal:
        return HouseholderOrthogonal(7, 7, generator=torch.Generator().manual_seed(seed))

    first, second = module(0), module(1)
    assert torch.equal(first(), module(0)())
    assert not torch.equal(first.signs, second.signs)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(), second())


def test_half_precision_and_autocast_keep_columns_orthonormal() -> None:
    module = HouseholderOrthogonal(20, 6, dtype=torch.bfloat16)
    assert gram_gap(module()) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        q = module()
    assert gram_gap(q) < 1e-6


def test_bad_input_is_refused() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    zero = eye.clone()
    zero[2, 2] = 0.0
    with pytest.raises(ValueError, match=r"'vectors' must have finite vectors other than zero, got .* 0.0 in vector 2"):
        householder_product(zero)
    with pytest.raises(ValueError, match="'v' must have finite vectors"):
        householder_matrix(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match="'vectors' must have finite vectors"):
        compact_wy(eye * torch.inf)
    with pytest.raises(TypeError, match=r"must be of a real floating dtype, got torch\.int64"):
        householder_product(torch.ones(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must have shape \(\.\.\., n, k\), none 0, got \(3,\)"):
        householder_product(torch.ones(3))
    with pytest.raises(ValueError, match="'method' must be one of wy, sequential, torch, got 'qr'"):
        householder_product(eye, method="qr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'n_cols' must be from 1 to n = 4, got 5"):
        householder_product(eye, 5)
    with pytest.raises(ValueError, match="method 'torch' takes at most n = 4"):
        householder_product(draw(4, 2), method="torch")
    with pytest.raises(ValueError, match=r"'q' must have orthonormal columns, got q\^T q off the identity by 3"):
        householder_vectors(2.0 * eye)
    with pytest.raises(ValueError, match="'q' must have orthonormal columns"):
        householder_vectors(torch.nan * eye)
    with pytest.raises(ValueError, match="at least as many rows as columns"):
        householder_vectors(eye[:2])
    with pytest.raises(ValueError, match="'k' must be from 1 to n = 4, got 5"):
        HouseholderOrthogonal(4, 5)
    with pytest.raises(ValueError, match=r"'init' must have shape \(4, 2\), got \(4, 4\)"):
        HouseholderOrthogonal(4, 2, eye)

"""The fast Walsh-Hadamard transform equals the product with Sylvester's matrix, in value and in every gradient."""

import pytest
import scipy.linalg
import torch

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.hadamard import hadamard_reference, hadamard_transform, hadamard_transform_

pytest.importorskip("numba")

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("n", [2**k for k in range(11)])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_equals_the_product_with_sylvesters_matrix(n, implementation):
    x = torch.randn(3, n, dtype=torch.float64)
    with dispatch.use(implementation):
        y = hadamard_transform(x)
    # log2 n additions of numbers of order sqrt(n), each rounded to 1.1e-16 of that.
    torch.testing.assert_close(y, x @ torch.from_numpy(scipy.linalg.hadamard(n)).double(), rtol=0, atol=1e-13 * n**0.5)


# 2^8 = 64 * 4 and 2^10 = 64 * 16 end with passes of radix 4 and 2; 2^15 fills a block in cache, 2^18 takes tiles.
@pytest.mark.parametrize("shape", [(5, 1), (7, 2), (9, 4), (3, 8), (2, 3, 256), (3, 1024), (2, 2**15), (1, 2**18)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_does_the_references_additions(shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    assert torch.equal(hadamard_transform(x), hadamard_reference(x))


def test_is_its_own_inverse_and_adjoint():
    x, y = torch.randn(2, 4, 512, dtype=torch.float64)
    torch.testing.assert_close(hadamard_transform(hadamard_transform(x)), 512 * x)
    z = hadamard_transform(x, normalized=True)
    torch.testing.assert_close(hadamard_transform(z, normalized=True), x)
    torch.testing.assert_close(z.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close((hadamard_transform(x) * y).sum(), (x * hadamard_transform(y)).sum())


@pytest.mark.parametrize("n", [4, 16, 64])
def test_gradients_of_both_orders(n):
    x = torch.randn(2, n, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: hadamard_transform(t, normalized=True), x)
    torch.autograd.gradgradcheck(lambda t: hadamard_transform(t).square(), x)


def test_takes_any_strides_and_keeps_its_argument():
    x = torch.randn(64, 6)
    before = x.clone()
    assert torch.equal(hadamard_transform(x.t()), hadamard_reference(x.t().contiguous()))
    assert torch.equal(x, before)
    assert torch.equal(hadamard_transform(x[:, :1].expand(64, 8)), hadamard_reference(x[:, :1].expand(64, 8)))
    assert hadamard_transform(torch.empty(0, 8)).shape == (0, 8)
    assert hadamard_transform(torch.ones(1)).data_ptr() != x.data_ptr()


@pytest.mark.parametrize("shape", [(4, 4), (300, 64), (1, 2**17)])
def test_in_place_variant_writes_the_same_numbers(shape):
    x = torch.randn(shape)
    wanted = hadamard_transform(x, normalized=True)
    assert hadamard_transform_(x, normalized=True) is x
    assert torch.equal(x, wanted)
    t = torch.randn(8, 4).t()  # not contiguous: by the reference
    wanted = hadamard_transform(t)
    assert torch.equal(hadamard_transform_(t), wanted)


def test_in_place_variant_refuses_a_leaf_that_needs_a_gradient():
    x = torch.zeros(4, requires_grad=True)
    with pytest.raises(ValueError, match="must not require a gradient"):
        hadamard_transform_(x)
    with torch.no_grad():
        hadamard_transform_(x)


@pytest.mark.parametrize("shape", [(4096, 64), (1, 2**18)])
def test_the_number_of_threads_changes_nothing(shape):
    x = torch.randn(shape)
    one = hadamard_transform(x)
    torch.set_num_threads(3)
    try:
        assert torch.equal(hadamard_transform(x), one)
    finally:
        torch.set_num_threads(1)


def test_operators_pass_torchs_own_checks():
    torch.library.opcheck(torch.ops.holonomy.hadamard_transform, (torch.randn(3, 16, requires_grad=True), 0.25))
    torch.library.opcheck(torch.ops.holonomy.hadamard_transform_, (torch.randn(3, 16), 0.25))


def test_vmap_and_transforms_of_functions():
    x = torch.randn(5, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(hadamard_transform, 1, 1)(x), hadamard_transform(x))
    jacobian = torch.func.jacrev(hadamard_transform)(x[0, 0])
    torch.testing.assert_close(jacobian, torch.from_numpy(scipy.linalg.hadamard(8)).double())
    forward = torch.func.jacfwd(hadamard_transform)(x[0, 0])
    torch.testing.assert_close(forward, jacobian)


def test_compiles_to_one_graph():
    x = torch.randn(3, 32, requires_grad=True)
    compiled = torch.compile(lambda t: hadamard_transform(t).square().sum(), fullgraph=True, backend="aot_eager")
    (grad,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(grad, 2 * 32 * x.detach())  # |H x|^2 = n |x|^2


def test_half_precision_takes_the_reference():
    assert hadamard_transform(torch.ones(4, dtype=torch.bfloat16)).tolist() == [4, 0, 0, 0]


@pytest.mark.parametrize("function", [hadamard_transform, hadamard_transform_])
def test_bad_input(function):
    with pytest.raises(ValueError, match=r"power of two, got shape \(2, 12\)"):
        function(torch.zeros(2, 12))
    for shape in ((), (3, 0)):
        with pytest.raises(ValueError, match="power of two"):
            function(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"'x' .* torch.int64"):
        function(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"'x' .* list"):
        function([1.0, 2.0])

"""Hierarchical kernels: definition, limits, invariances, the compiled recursion."""

import math

import pytest
import torch
from torch import Tensor

from holonomy.theory.ntk import fc_kernels, k0, k1
from holonomy.theory.wide_cnn import HierarchicalKernel, WideCNN, sample_multisphere

DOUBLE = torch.float64
KINDS = ("ntk", "nngp")


def written_out(x: Tensor, y: Tensor, sizes: tuple[int, ...], kind: str) -> Tensor:
    """The recursion as the paper has it, for one pair of inputs."""
    t = (x * y).sum(-1)
    r, n = k1(t), k1(t) + t * k0(t)
    for s in sizes[1:]:
        r_mean, n_mean = r.view(-1, s).mean(1), n.view(-1, s).mean(1)
        r, n = k1(r_mean), k1(r_mean) + n_mean * k0(r_mean)
    return (n if kind == "ntk" else r).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sizes", "p"), [((2,), 3), ((3, 2), 4), ((2, 2, 3), 6), ((2, 1, 2, 2), 8)])
def test_the_recursion_of_the_paper(sizes: tuple[int, ...], p: int, kind: str) -> None:
    x, y = sample_multisphere(4, p, sizes[0], 0), sample_multisphere(3, p, sizes[0], 1)
    kernel = HierarchicalKernel(sizes, kind)  # type: ignore[arg-type]
    found = kernel(x, y)
    for i in range(4):
        for j in range(3):
            # A few tens of roundings of numbers up to L + 1.
            assert float(found[i, j]) == pytest.approx(float(written_out(x[i], y[j], sizes, kind)), abs=1e-14)
    assert torch.equal(kernel(x.flatten(1), y.flatten(1)), found)


@pytest.mark.parametrize("options", [{}, {"stride": (2, 1, 2)}, {"sigma_w2": 1.7, "sigma_b2": 0.2}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_recursion_is_that_of_torch(kind: str, options: dict) -> None:
    kernel = HierarchicalKernel((2, 2, 2), kind, **options)  # type: ignore[arg-type]
    p = 5 if "stride" in options else 8
    x, y = sample_multisphere(150, p, 2, 0), sample_multisphere(131, p, 2, 1)
    # Where cosines come within 1e-8 of 1, the root in k0 makes 1e-12 of a rounding.
    assert torch.allclose(kernel(x, y), kernel._blocks(x, y), rtol=1e-11)
    whole = kernel(x)
    assert torch.equal(whole, whole.mT)
    apart = kernel(x, x.clone())
    off = ~torch.eye(150, dtype=torch.bool)
    assert torch.allclose(whole[off], apart[off], rtol=1e-11)
    torch.set_num_threads(2)
    try:
        assert torch.equal(kernel(x), whole)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("depth", [1, 3])
def test_one_patch_is_a_fully_connected_network(depth: int) -> None:
    x = sample_multisphere(9, 1, 3, 0)
    nngp, ntk = fc_kernels(x[:, 0] * 3**0.5, depth=depth)
    sizes = (3, *[1] * (depth - 1))
    # There outputs have weights of variance 2: both kernels are twice as large.
    assert torch.allclose(HierarchicalKernel(sizes, "nngp")(x), nngp / 2, atol=1e-7)
    assert torch.allclose(HierarchicalKernel(sizes)(x), ntk / 2, atol=1e-7)


@pytest.mark.parametrize("pooling", [False, True])
def test_equal_inputs(pooling: bool) -> None:
    x = sample_multisphere(7, 8, 2, 0)
    for kind, value in (("nngp", 1.0), ("ntk", 4.0)):
        kernel = HierarchicalKernel((2, 2, 2), kind, pooling=pooling)  # type: ignore[arg-type]
        found = kernel(x)
        assert torch.equal(found.diagonal(), kernel.diag(x))
        if not pooling:
            assert kernel.diag(x).tolist() == pytest.approx([value] * 7, abs=1e-14)
        assert torch.allclose(found, found.mT, atol=1e-13)
        assert float(torch.linalg.eigvalsh(found).min()) > -1e-10


def test_one_rotation_of_a_patch_in_all_inputs_changes_nothing() -> None:
    x, y = sample_multisphere(5, 4, 3, 0), sample_multisphere(5, 4, 3, 1)
    turns = torch.linalg.qr(torch.randn(4, 3, 3, dtype=DOUBLE))[0]
    turned = [torch.einsum("pij,npj->npi", turns, t) for t in (x, y)]
    kernel = HierarchicalKernel((3, 2, 2))
    assert torch.allclose(kernel(*turned), kernel(x, y), atol=1e-13)


def test_a_patch_sees_its_receptive_field_alone() -> None:
    kernel = HierarchicalKernel((2, 2, 2))
    x = sample_multisphere(6, 4, 2, 0)
    changed = x.clone()
    changed[:, 2:] = sample_multisphere(6, 2, 2, 1)
    local = kernel.patch(2)
    assert torch.equal(local(x), local(changed))
    assert torch.allclose(local(x), HierarchicalKernel((2, 2))(x[:, :2]))
    assert torch.allclose(kernel.patch(3)(x), kernel(x))
    assert not torch.allclose(kernel(x), kernel(changed))


def test_pooling_is_the_mean_over_pairs_of_positions() -> None:
    x, y = sample_multisphere(3, 4, 2, 0), sample_multisphere(2, 4, 2, 1)
    found = HierarchicalKernel((2, 2), "nngp", pooling=True)(x, y)
    for i in range(3):
        for j in range(2):
            blocks = [
                k1(torch.stack([k1(x[i, 2 * a + s] @ y[j, 2 * b + s]) for s in range(2)]).mean())
                for a in range(2)
                for b in range(2)
            ]
            assert float(found[i, j]) == pytest.approx(float(torch.stack(blocks).mean()), abs=1e-14)


@pytest.mark.parametrize("pooling", [False, True])
def test_images_of_one_row_are_signals(pooling: bool) -> None:
    """A 2-D grid whose columns are all alike for filters of height 1 does not exist: squares are compared by hand."""
    x = torch.randn(3, 5, 5, dtype=DOUBLE)
    kernel = HierarchicalKernel((2, 2), "nngp", stride=(1, 2), grid="2d", pooling=pooling, normalize=True)
    found = kernel(x)
    patches = torch.nn.functional.normalize(
        torch.stack([x[:, i : i + 2, j : j + 2].flatten(1) for i in range(4) for j in range(4)], dim=1), dim=-1
    )
    layer = k1(torch.einsum("nas,mbs->nmab", patches, patches)).view(3, 3, 4, 4, 4, 4)
    places = [(i, j) for i in (0, 2) for j in (0, 2)]

    def block(a: tuple[int, int], b: tuple[int, int]) -> Tensor:
        cells = [layer[:, :, a[0] + i, a[1] + j, b[0] + i, b[1] + j] for i in range(2) for j in range(2)]
        return k1(torch.stack(cells).mean(0))

    pairs = [(a, b) for a in places for b in places] if pooling else [(a, a) for a in places]
    wanted = torch.stack([block(a, b) for a, b in pairs]).mean(0)
    assert torch.allclose(found, wanted, atol=1e-13)


def test_gradients() -> None:
    x = sample_multisphere(2, 4, 2, 0).requires_grad_()
    y = sample_multisphere(3, 4, 2, 1)
    for options in ({}, {"pooling": True}):
        kernel = HierarchicalKernel((2, 2), normalize=True, **options)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda t, kernel=kernel: kernel(t, y), x)
    same = torch.autograd.grad(HierarchicalKernel((2, 2))(x, x.detach()).sum(), x)[0]
    assert bool(torch.isfinite(same).all())


def test_wide_networks_have_this_covariance() -> None:
    """10^5 channels of the second layer in all: a standard error below 1 %."""
    generator = torch.Generator().manual_seed(0)
    x = sample_multisphere(3, 2, 2, generator)
    found = torch.zeros(3, 3, dtype=DOUBLE)
    for _ in range(250):
        net = WideCNN((2, 2), 400, generator=generator, dtype=DOUBLE)
        features = torch.stack([torch.autograd.grad(net(one.unsqueeze(0)).sum(), net.readout)[0][0] for one in x])
        found += features @ features.mT / 250
    assert float((found - HierarchicalKernel((2, 2), "nngp")(x)).abs().max()) < 0.02


def test_samples_are_patches_of_length_one() -> None:
    x = sample_multisphere(1000, 3, 4, 0)
    assert x.shape == (1000, 3, 4)
    assert torch.allclose(x.norm(dim=-1), torch.ones(1000, 3, dtype=DOUBLE))
    assert torch.equal(x, sample_multisphere(1000, 3, 4, 0))
    # The mean of a uniform direction is 0, with a standard deviation of 1/sqrt(4 * 1000) a coordinate.
    assert float(x.mean(0).abs().max()) < 5.0 / math.sqrt(4000)


X = sample_multisphere(2, 4, 2, 0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: HierarchicalKernel(()), ValueError, "'filter_sizes'"),
        (lambda: HierarchicalKernel((1, 2)), ValueError, r"the first at least 2, got \(1, 2\)"),
        (lambda: HierarchicalKernel((2, 0)), ValueError, "'filter_sizes'"),
        (lambda: HierarchicalKernel((2, 2), "rfk"), ValueError, "got 'rfk'"),
        (lambda: HierarchicalKernel((2, 2), grid="3d"), ValueError, "got '3d'"),
        (lambda: HierarchicalKernel((2, 2), stride=(1,)), ValueError, "'stride' must be 2 numbers"),
        (lambda: HierarchicalKernel((2, 2), sigma_w2=0.0), ValueError, "sigma_w2 > 0"),
        (lambda: HierarchicalKernel((2, 3))(X), ValueError, "do not divide 8: 4 positions are left for a filter of 3"),
        (lambda: HierarchicalKernel((2, 2))(2 * X), ValueError, "must have length 1, got 2"),
        (lambda: HierarchicalKernel((2, 2), normalize=True)(0 * X), ValueError, "a patch of zeros has no direction"),
        (lambda: HierarchicalKernel((2, 2))(X.long()), TypeError, "got torch.int64"),
        (lambda: HierarchicalKernel((3, 2))(X), ValueError, "patches must have 3 numbers"),
        (lambda: HierarchicalKernel((2, 2))(X[0, 0]), ValueError, r"must be \(n, d\)"),
        (lambda: HierarchicalKernel((2, 2), grid="2d")(X[0]), ValueError, r"images must be \(n, h, w\)"),
        (lambda: HierarchicalKernel((2, 2))(X, X[:, :2]), ValueError, "must have one form"),
        (lambda: HierarchicalKernel((2, 2)).patch(3), ValueError, "'level' must be 1 ... 2, got 3"),
        (lambda: HierarchicalKernel((2, 2), stride=(2, 1)).patch(1), ValueError, "without overlaps"),
        (lambda: sample_multisphere(2, 2, 1, 0), ValueError, "s1 >= 2, got 2, 2 and 1"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]

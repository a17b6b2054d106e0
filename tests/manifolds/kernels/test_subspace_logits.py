"""Lengths of projections onto many subspaces: the fused operation against its definition."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds.kernels import dispatch
from holonomy.manifolds.kernels.subspace_logits import subspace_logits
from holonomy.manifolds.linalg import haar

# One of everything; odd sizes; more than a panel, a depth and a tile; more classes than a block of the backward pass.
SIZES = [(1, 1, 1, 1), (3, 5, 7, 3), (17, 9, 301, 8), (20, 6, 130, 11), (33, 300, 40, 4)]
each_size = pytest.mark.parametrize("size", SIZES)
each_form = pytest.mark.parametrize("squared", [False, True])


def _data(b: int, c: int, d: int, k: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(b, d, dtype=torch.float64, generator=generator)
    bases = torch.randn(c, d, k, dtype=torch.float64, generator=generator) / d**0.5
    return x.to(dtype), bases.to(dtype), torch.randn(b, c, dtype=torch.float64, generator=generator).to(dtype)


def _definition(x: Tensor, bases: Tensor, squared: bool) -> Tensor:
    z = torch.einsum("bd,cdk->bck", x, bases)
    return z.square().sum(-1) if squared else z.norm(dim=-1)


def _with_gradients(function: object, x: Tensor, bases: Tensor, g: Tensor, squared: bool) -> list[Tensor]:
    x, bases = x.clone().requires_grad_(), bases.clone().requires_grad_()
    y = subspace_logits(x, bases, squared=squared) if function is None else _definition(x, bases, squared)
    return [y.detach(), *torch.autograd.grad(y, (x, bases), g)]


@each_form
@each_size
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_equal_the_definition(size: tuple[int, ...], squared: bool, dtype: torch.dtype) -> None:
    x, bases, g = _data(*size, dtype=dtype)
    exact = _with_gradients(_definition, x.double(), bases.double(), g.double(), squared)
    for got, wanted in zip(_with_gradients(None, x, bases, g, squared), exact, strict=True):
        assert got.dtype == dtype
        # Rounding of a sum of N terms in some order: sqrt(N) units of its terms' size; N is at most c k = 1200.
        error = (got.double() - wanted).abs().max() / wanted.abs().max()
        assert error < 40.0 * torch.finfo(dtype).eps


def test_logit_is_the_length_of_the_projection() -> None:
    bases = haar((4, 12, 3), torch.float64, None, torch.Generator().manual_seed(1))
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = torch.stack([(x @ s @ s.mT).norm(dim=-1) for s in bases], -1)
    torch.testing.assert_close(subspace_logits(x, bases), wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(subspace_logits(x, bases, squared=True), wanted.square(), rtol=1e-14, atol=0)


def test_gradient_is_zero_where_the_vector_is_orthogonal() -> None:
    bases = torch.eye(4, 2, dtype=torch.float64)[None].requires_grad_()
    x = torch.zeros(2, 4, dtype=torch.float64)
    x[0, 3] = 1.0
    x.requires_grad_()
    for implementation in ("reference", "fused"):
        with dispatch.use(implementation):
            y = subspace_logits(x, bases)
            for gradient in torch.autograd.grad(y.sum(), (x, bases)):
                assert not gradient.any()


@each_form
def test_gradients_by_finite_differences(squared: bool) -> None:
    x, bases, _ = (t.requires_grad_() for t in _data(3, 4, 5, 2))

    def function(x: Tensor, bases: Tensor) -> Tensor:
        return subspace_logits(x, bases, squared=squared)

    assert gradcheck(function, (x, bases))
    assert gradgradcheck(function, (x, bases))


@each_form
def test_strides_and_empty_sizes(squared: bool) -> None:
    x, bases, _ = _data(3, 5, 7, 3)
    wanted = subspace_logits(x, bases, squared=squared)
    got = subspace_logits(x.mT.contiguous().mT, bases.movedim(0, -1).contiguous().movedim(-1, 0), squared=squared)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    assert subspace_logits(x[:0], bases, squared=squared).shape == (0, 5)
    assert subspace_logits(x, bases[:0], squared=squared).shape == (3, 0)
    assert not subspace_logits(x, bases[..., :0], squared=squared).any()


def test_threads_do_not_change_the_numbers() -> None:
    x, bases, g = _data(20, 300, 200, 8, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(_with_gradients(None, x, bases, g, False))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_vmap_equals_a_loop(in_dims: tuple[int | None, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ([3, 6], [4, 6, 2])
    tensors = []
    for shape, dim in zip(shapes, in_dims, strict=True):
        if dim is not None:
            shape.insert(dim, 5)
        tensors.append(torch.randn(shape, dtype=torch.float64, generator=generator))

    def loss(x: Tensor, bases: Tensor) -> Tensor:
        return subspace_logits(x, bases).pow(3).sum()

    picked = [[t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=True)] for i in range(5)]
    torch.testing.assert_close(
        torch.func.vmap(subspace_logits, in_dims)(*tensors), torch.stack([subspace_logits(*t) for t in picked])
    )
    gradient = torch.func.grad(loss, argnums=(0, 1))
    wanted = [gradient(*t) for t in picked]
    got = torch.func.vmap(gradient, in_dims)(*tensors)
    for i in range(2):
        torch.testing.assert_close(got[i], torch.stack([w[i] for w in wanted]))


def test_operators_keep_torchs_rules() -> None:
    x, bases, g = _data(3, 4, 5, 2)
    free = x.requires_grad_(), bases.requires_grad_()
    torch.library.opcheck(
        torch.ops.holonomy.subspace_logits.default,
        (*free, False),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    torch.library.opcheck(
        torch.ops.holonomy.subspace_logits_backward.default,
        (g, *(t.detach() for t in free), True),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.slow
def test_compiled_gradients_equal_eager_ones() -> None:
    x, bases, _ = _data(3, 4, 5, 2)

    def loss(x: Tensor, bases: Tensor) -> Tensor:
        return subspace_logits(x, bases).sum()

    wanted = torch.func.grad(loss, argnums=(0, 1))(x, bases)
    free = x.requires_grad_(), bases.requires_grad_()
    torch.compile(loss, fullgraph=True)(*free).backward()
    torch.testing.assert_close((free[0].grad, free[1].grad), wanted, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, s: (x.tolist(), s), TypeError, "argument 'x' must be a tensor, got list"),
        (lambda x, s: (x, s.long()), TypeError, "argument 'bases' must have a real floating dtype, got torch.int64"),
        (lambda x, s: (x.float(), s), TypeError, "argument 'bases' has dtype torch.float64, wanted torch.float32"),
        (lambda x, s: (x[0], s), ValueError, r"argument 'x' has shape \(5,\), wanted \(B, D\)"),
        (lambda x, s: (x, s[0]), ValueError, r"argument 'bases' has shape \(5, 2\), wanted \(C, D, k\)"),
        (lambda x, s: (x, s[:, 1:]), ValueError, r"argument 'bases' has shape \(4, 4, 2\), wanted \(C, 5, k\)"),
    ],
)
def test_bad_input_is_refused(change: object, error: type[Exception], message: str) -> None:
    x, bases, _ = _data(3, 4, 5, 2)
    assert callable(change)
    with pytest.raises(error, match=message):
        subspace_logits(*change(x, bases))

"""The kernels of the Poincaré fully-connected layer equal its plain formulas, in value and in every gradient."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from holonomy.manifolds.kernels import dispatch
from holonomy.models.architectures.poincare_resnet import gyroplanes as module
from holonomy.models.architectures.poincare_resnet.gyroplanes import gyroplanes, patch_squares, saturation

pytest.importorskip("numba")

C = 0.7
SHAPES = [(2, 4, 8, 8), (3, 5, 7, 11), (41, 6), (1, 7)]
OPTIONS = list(itertools.product(("tangent", "ball"), ("tangent", "ball", "distance")))


def arguments(shape: tuple[int, ...], size: float = 1.0, seed: int = 0) -> list[Tensor]:
    """m, n2, norm, r and c of a layer from 5 coordinates inside the ball to shape[1], at the positions of `shape`."""
    g = torch.Generator().manual_seed(seed)
    inputs = (shape[0], 5, *shape[2:])
    p = size * 0.4 * torch.randn(inputs, dtype=torch.float64, generator=g)
    p = p / (1.0 + p.norm(dim=1, keepdim=True))
    z = 0.5 * torch.randn(shape[1], 5, dtype=torch.float64, generator=g)
    column = (shape[1], *(1,) * (len(shape) - 2))
    norm = z.norm(dim=1).view(column)
    r = 0.3 * torch.randn(column, dtype=torch.float64, generator=g)
    m = torch.einsum("kn,bn...->bk...", z, p)
    return [m, p.square().sum(1, keepdim=True), norm, r, torch.tensor(C, dtype=torch.float64)]


def value_and_gradients(tensors, implementation: str, **options) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    with dispatch.use(implementation):
        y = gyroplanes(*leaves, 1 - leaves[0].ndim, **options)
        weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
        return y.detach(), *torch.autograd.grad(y, leaves, weights)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("source", "target"), OPTIONS)
def test_float64_equals_the_reference(source: str, target: str, shape: tuple[int, ...]) -> None:
    options = {"source": source, "target": target, "gain": 0.6 if source == "tangent" else 1.0}
    ours, plain = (value_and_gradients(arguments(shape), i, **options) for i in ("fused", "reference"))
    for a, b in zip(ours, plain, strict=True):
        # 1e-12 of the largest entry: some thirty rounded operations, and sums of a few hundred terms
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12 * (1e-3 + float(b.abs().max())))


@pytest.mark.parametrize(("source", "target"), OPTIONS)
def test_float32_is_as_near_to_float64_as_the_reference(source: str, target: str) -> None:
    tensors = [t.float() for t in arguments((3, 5, 7, 11))]
    options = {"source": source, "target": target}
    exact = value_and_gradients([t.double() for t in tensors], "reference", **options)
    ours, plain = (value_and_gradients(tensors, i, **options) for i in ("fused", "reference"))
    for a, b, truth in zip(ours, plain, exact, strict=True):
        size = 1e-3 + float(truth.abs().max())
        # twice the reference's error, or 64 roundings of the largest entry: sums of a few hundred terms that cancel
        assert float((a - truth).abs().max()) <= max(2.0 * float((b - truth).abs().max()), 64 * 6e-8 * size)


@pytest.mark.parametrize(("source", "target"), OPTIONS)
def test_gradients_of_gradients_are_the_derivatives(source: str, target: str) -> None:
    leaves = [t.requires_grad_() for t in arguments((2, 3, 4))]

    def layer(*tensors: Tensor) -> Tensor:
        return gyroplanes(*tensors, -2, source=source, target=target)

    with dispatch.use("fused"):  # which maps as small as this are not left to otherwise
        assert gradcheck(layer, leaves)
        assert gradgradcheck(layer, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("source", "target"), OPTIONS)
def test_saturation_is_that_of_the_reference(source: str, target: str, dtype: torch.dtype) -> None:
    m, n2, norm, r, c = (t.to(dtype) for t in arguments((2, 4, 40)))
    cap = saturation(dtype)
    r = r.clone()
    r[0], r[1] = 1e4 * cap, -1e4 * cap  # bias beyond the cap, whose gradient is 0
    norm = 50.0 * norm  # angles beyond the cap
    ours, plain = (
        value_and_gradients((50.0 * m, n2, norm, r, c), i, source=source, target=target) for i in ("fused", "reference")
    )
    for a, b in zip(ours, plain, strict=True):
        assert bool(a.isfinite().all())
        # Sums of terms of order e^cap, of which rounding of the bias (exact in the kernel) takes cap units each.
        bound = 64 * cap * torch.finfo(dtype).eps * (1e-3 + float(b.abs().max()))
        torch.testing.assert_close(a, b, rtol=0.0, atol=bound)
    if target != "distance":
        assert float(ours[4][:2].abs().max()) == 0.0


@pytest.mark.parametrize(("source", "target"), OPTIONS)
def test_no_nan_at_the_origin_and_at_zero_weights(source: str, target: str) -> None:
    for dtype, size in itertools.product((torch.float32, torch.float64), (0.0, 1e-20, 1e-8)):
        m, n2, _, r, c = (t.to(dtype) for t in arguments((2, 4, 40), size=size))
        norm = torch.full_like(r, 1e-15)
        for result in value_and_gradients((0.0 * m, n2, norm, 0.0 * r, c), "fused", source=source, target=target):
            assert bool(result.isfinite().all())


def test_threads_give_the_same_numbers() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(arguments((80, 4, 8, 16)), "fused", source="ball", target="ball"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_vmap_and_grad_transform_the_kernel() -> None:
    batch = [arguments((2, 3, 40), seed=s) for s in range(2)]

    def loss(*tensors: Tensor) -> Tensor:
        return gyroplanes(*tensors, -2).square().sum()

    gradient = torch.func.grad(loss, argnums=(0, 2, 4))
    mapped = torch.func.vmap(gradient)(*(torch.stack(t) for t in zip(*batch, strict=True)))
    for a, b in zip(mapped, zip(*(gradient(*t) for t in batch), strict=True), strict=True):
        torch.testing.assert_close(a, torch.stack(list(b)), rtol=1e-13, atol=1e-13)


def test_operators_pass_torchs_checks() -> None:
    leaves = [t.requires_grad_() for t in arguments((2, 3, 40))]
    options = (-2, "tangent", "ball", 1.0, 0.99, 35.0)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(module._GYROPLANES._forward, (*leaves, *options), test_utils=checks)
    u = torch.randn(2, 3, 40, dtype=torch.float64, requires_grad=True)
    opcheck(module._GYROPLANES._backward, (u, *leaves, *options), test_utils=checks)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 3), (1, 1), (1, 1), (1, 1)), ((2, 3), (2, 1), (0, 2), (1, 2)), ((5, 5), (3, 3), (2, 2), (1, 1)),
     ((1, 1), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (4, 4), (2, 3))],
)  # fmt: skip
def test_patch_squares_are_the_convolutions(kernel, stride, padding, dilation) -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 9, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
        results = []
        for backward in ("manual", "autograd"):
            leaf = x.clone().requires_grad_()
            y = patch_squares(leaf, kernel, stride, padding, dilation, backward=backward)
            weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=dtype).view(y.shape)
            results.append((y, *torch.autograd.grad(y, leaf, weights)))
        for a, b in zip(*results, strict=True):
            # sums of at most 75 squares, each addition rounded
            torch.testing.assert_close(a, b, rtol=0.0, atol=75 * torch.finfo(dtype).eps * float(b.abs().max()))
    leaf = x[:1, :, :6, :5].clone().requires_grad_()
    with dispatch.use("fused"):
        assert gradcheck(lambda t: patch_squares(t, (2, 3), (1, 2), (1, 1), (1, 1)), leaf)
        assert gradgradcheck(lambda t: patch_squares(t, (2, 3), (1, 2), (1, 1), (1, 1)), leaf)

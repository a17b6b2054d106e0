"""The fused pairwise distances: equal to the reference, whatever the shapes, strides and threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mpmath
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from holonomy.manifolds import Lorentz, Manifold, PoincareBall, Sphere, pairwise
from holonomy.manifolds.kernels import dispatch

pytest.importorskip("numba")

F32, F64 = torch.float32, torch.float64
EPS = torch.finfo(F32).eps
MANIFOLDS = pytest.mark.parametrize(
    "manifold", [PoincareBall(0.7), Lorentz(0.7), Sphere(), Lorentz(torch.tensor(0.7))], ids=str
)
#: Rows and columns: single ones, odd ones, whole and broken vectors, more than a panel, more than one block and unit.
SHAPES = [((1, 3), (1, 3)), ((3, 2), (17, 2)), ((66, 5), (7, 5)), ((200, 16), (530, 16)), ((5, 131), (40, 131))]
BATCHES = [((2, 5, 3), (7, 3)), ((5, 3), (4, 9, 3)), ((2, 1, 5, 3), (3, 4, 3)), ((2, 5, 3), (2, 16, 3))]


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(manifold: Manifold, *size: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return manifold.random(*size, dtype=dtype, generator=_draw(seed))


def _gradients(manifold: Manifold, x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    leaves = (x.clone().requires_grad_(), y.clone().requires_grad_())
    return torch.autograd.grad(manifold.cdist(*leaves), leaves, weight)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@MANIFOLDS
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("left", "right"), SHAPES + BATCHES)
def test_values_and_gradients_equal_the_reference(
    manifold: Manifold, dtype: torch.dtype, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    x, y = _points(manifold, *left, dtype=dtype), _points(manifold, *right, seed=1, dtype=dtype)
    assert dispatch.backend(x, y) == "numba"
    got = manifold.cdist(x, y)
    weight = torch.randn(got.shape, dtype=dtype, generator=_draw(2))
    gradients = _gradients(manifold, x, y, weight)
    with dispatch.use("reference"):
        # Gradients in float64: sums of hundreds of float32 numbers differ by the order of their terms.
        wide = _gradients(manifold, x.double(), y.double(), weight.double())
        wanted = manifold.cdist(x, y)
    # 24 units: the two sums of squares, of up to 131 terms, differ by their order; the rest is a few roundings.
    torch.testing.assert_close(got, wanted, rtol=24 * torch.finfo(dtype).eps, atol=0.0)
    for one, other in zip(gradients, wide, strict=True):
        scale = float(other.abs().amax())
        if isinstance(manifold, Lorentz):  # the reference's time component is no variable, and neither is ours
            assert not bool(one[..., 0].any())
        # A hundred roundings of the largest entry: terms of either sign add up to less than they are.
        torch.testing.assert_close(one.double(), other, rtol=0.0, atol=100 * torch.finfo(dtype).eps * scale)


@MANIFOLDS
def test_empty_sets_have_empty_distances_and_zero_gradients(manifold: Manifold) -> None:
    x, y = _points(manifold, 2, 5, 4), _points(manifold, 7, 4)
    assert manifold.cdist(x[:, :0], y).shape == (2, 0, 7)
    assert manifold.cdist(x, y[:0]).shape == (2, 5, 0)
    assert manifold.cdist(x[:0], y).shape == (0, 5, 7)
    gradients = _gradients(manifold, x, y[:0], torch.zeros(2, 5, 0, dtype=F64))
    assert torch.equal(gradients[0], torch.zeros_like(x))


@MANIFOLDS
def test_strides_of_the_points_do_not_matter(manifold: Manifold) -> None:
    x, y = _points(manifold, 9, 4), _points(manifold, 11, 4, seed=1)
    wanted = manifold.cdist(x, y)
    assert torch.equal(manifold.cdist(x.mT.contiguous().mT, y), wanted)
    assert torch.equal(manifold.cdist(x, torch.stack((y, y), dim=1)[:, 0]), wanted)
    assert torch.equal(manifold.cdist(x.flip(0).flip(0), y.expand(3, 11, 4)), wanted.expand(3, 9, 11))


@MANIFOLDS
def test_strides_of_the_arriving_gradient_do_not_matter(manifold: Manifold) -> None:
    x, y = _points(manifold, 2, 21, 4), _points(manifold, 19, 4, seed=1)
    full = torch.randn(2, 21, 19, dtype=F64, generator=_draw(2))
    weights = [
        torch.tensor(1.5, dtype=F64).expand(2, 21, 19),
        full[:, :, :1].expand(2, 21, 19),
        full[:, :1].expand(2, 21, 19),
        full.mT.contiguous().mT,
        torch.stack((full, full), dim=-1)[..., 0],
    ]
    for weight in weights:
        for one, other in zip(
            _gradients(manifold, x, y, weight), _gradients(manifold, x, y, weight.contiguous()), strict=True
        ):
            assert torch.equal(one, other)


@MANIFOLDS
@pytest.mark.parametrize("dtype", [F32, F64])
def test_coincident_and_antipodal_pairs(manifold: Manifold, dtype: torch.dtype) -> None:
    x = _points(manifold, 12, 5, dtype=dtype)
    y = torch.cat((x, -x)) if isinstance(manifold, Sphere) else x
    got = manifold.cdist(x, y)
    assert not bool(got[:, :12].diagonal().any())
    if isinstance(manifold, Sphere):
        assert torch.equal(got[:, 12:].diagonal(), torch.full((12,), torch.pi, dtype=dtype))
    same = torch.eye(12, dtype=dtype).repeat(1, len(y) // 12)
    for gradient in _gradients(manifold, x, y, same):
        assert not bool(gradient.any())
    for gradient in _gradients(manifold, x, y, torch.ones_like(got)):
        assert bool(torch.isfinite(gradient).all())
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(manifold.cdist(leaf, y).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    assert bool(torch.isfinite(second).all())


def _exact(sheet: Lorentz, x: Tensor, y: Tensor) -> list[mpmath.mpf]:
    """Distances on the hyperboloid by arcosh, in fifty digits, from the space parts of the points."""
    found = []
    with mpmath.workdps(50):
        for p, q in zip(x.tolist(), y.tolist(), strict=True):
            a, b, c = [mpmath.mpf(t) for t in p[1:]], [mpmath.mpf(t) for t in q[1:]], mpmath.mpf(sheet.c)
            a0, b0 = (mpmath.sqrt(1 / c + mpmath.fsum(t * t for t in r)) for r in (a, b))
            product = a0 * b0 - mpmath.fsum(s * t for s, t in zip(a, b, strict=True))
            found.append(mpmath.acosh(c * product) / mpmath.sqrt(c))
    return found


@pytest.mark.parametrize("separation", [1e-6, 1e-4, 1e-2, 1.0])
def test_close_pairs_on_the_hyperboloid_are_within_1e_6_of_fifty_digits_in_float32(separation: float) -> None:
    sheet = Lorentz(1.3)
    x = _points(sheet, 30, 9, dtype=F32)
    y = sheet.projx(x + separation * torch.randn(30, 9, generator=_draw(1)))
    got, exact = sheet.cdist(x, y).diagonal().tolist(), _exact(sheet, x, y)
    assert max(float(abs(g - e) / (e or 1)) for g, e in zip(got, exact, strict=True)) < 1e-6


@pytest.mark.parametrize("separation", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_formula_of_the_sphere_holds_in_float32_near_and_opposite(separation: float, side: float) -> None:
    sphere = Sphere()
    x = _points(sphere, 30, 9, dtype=F32)
    y = sphere.projx(side * x + separation * torch.randn(30, 9, generator=_draw(1)))
    got = sphere.cdist(x, y).diagonal().double()
    chord, cochord = ((x.double() - s * y.double()).norm(dim=-1) for s in (1.0, -1.0))
    # Float64 differences of float32 numbers are exact to 1e-16: this is the formula, to all digits of float32.
    wanted = 2.0 * torch.atan2(chord, cochord)
    torch.testing.assert_close(got, wanted, rtol=4 * EPS, atol=0.0)


def test_gradients_far_out_on_the_hyperboloid_keep_their_digits_in_float32() -> None:
    sheet = Lorentz()
    u = torch.nn.functional.pad(_points(Sphere(), 20, 6), (1, 0))
    x = sheet.expmap0(7.0 * u).float()
    y = sheet.expmap0(8.5 * u.roll(3, 0) + 0.1 * u).float()
    y[:5] = sheet.projx(1.2 * x[:5])  # on one ray: the gradient is all radial, and k almost nothing
    weight = torch.eye(20)
    got = _gradients(sheet, x, y, weight)
    with dispatch.use("reference"):
        wanted = _gradients(sheet, x.double(), y.double(), weight.double())
    for point, one, other in zip((x, y), got, wanted, strict=True):
        point = point.double()
        gap = sheet.egrad2rgrad(point, one.double() - other)
        # Riemannian gradients of a distance have length 1. One rounding of a coordinate at distance 8.5 is a step of
        # eps e^8.5/2 = 3e-4 across the ray; measured: 2e-5.
        assert float(sheet.norm(point, gap).amax()) < 1e-4


def test_gradients_of_a_curvature_tensor_equal_the_reference() -> None:
    x, y = torch.randn(3, 6, 4, dtype=F64, generator=_draw()), torch.randn(8, 4, dtype=F64, generator=_draw(1))
    for shape in ((), (1, 1), (3, 1, 1)):
        c = torch.full(shape, 0.6, dtype=F64).requires_grad_()
        weight = torch.randn(3, 6, 8, dtype=F64, generator=_draw(2))
        kind = c.reshape(c.shape or (1, 1))
        got = torch.autograd.grad(pairwise.lorentz_cdist(x, y, kind), c, weight)
        with dispatch.use("reference"):
            wanted = torch.autograd.grad(pairwise.lorentz_cdist(x, y, c.reshape(c.shape or (1, 1))), c, weight)
        torch.testing.assert_close(got, wanted)


def test_first_and_second_derivatives() -> None:
    x, y = (torch.randn(n, 3, dtype=F64, generator=_draw(n)).requires_grad_() for n in (4, 5))
    a, b = (torch.rand(n, 1, dtype=F64, generator=_draw(n)).add(0.5).requires_grad_() for n in (4, 5))
    c = torch.tensor([[0.6]], dtype=F64, requires_grad=True)
    cases: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda *t: pairwise.arsinh_cdist(*t, 1.7), (x, y, a, b)),
        (pairwise.sphere_cdist, (x, y)),
        (lambda x, y: pairwise.lorentz_cdist(x, y, 0.6), (x, y)),
        (pairwise.lorentz_cdist, (x, y, c)),
    ]
    for function, arguments in cases:
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_operators_are_registered_as_torch_asks() -> None:
    x, y = (torch.randn(n, 3, generator=_draw(n)).requires_grad_() for n in (4, 5))
    a, b, c = torch.ones(4, 1), torch.ones(5, 1), torch.ones(1, 1, requires_grad=True)
    grad = torch.randn(4, 5, generator=_draw())
    opcheck(pairwise._ball, (x, y, a, b, 2.0))
    opcheck(pairwise._ball_backward, (x, y, a, b, grad, 2.0))
    opcheck(pairwise._sphere, (x, y))
    opcheck(pairwise._sphere_backward, (x, y, grad))
    opcheck(pairwise._lorentz, (x, y, c, 1.0))
    opcheck(pairwise._lorentz_backward, (x, y, None, grad, 0.7))
    opcheck(pairwise.nearest_rows, ("lorentz", x.detach(), y.detach(), None, None, None, 0.7, 2, False))


@MANIFOLDS
def test_vmap_maps_values_and_gradients(manifold: Manifold) -> None:
    x, y = _points(manifold, 3, 5, 4), _points(manifold, 6, 4, seed=1)
    wanted = manifold.cdist(x, y)
    torch.testing.assert_close(torch.func.vmap(manifold.cdist, in_dims=(0, None))(x, y), wanted)
    torch.testing.assert_close(torch.func.vmap(manifold.cdist, in_dims=(None, 1))(y, x.movedim(0, 1)), wanted.mT)

    def gradient(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.grad(lambda x, y: manifold.cdist(x, y).square().sum(), argnums=(0, 1))(x, y)

    mapped = torch.func.vmap(gradient, in_dims=(0, None))(x, y)
    for i in range(3):
        for one, other in zip(mapped, gradient(x[i], y), strict=True):
            torch.testing.assert_close(one[i], other)


@pytest.mark.parametrize("manifold", [PoincareBall(0.7), Lorentz(0.7), Sphere()], ids=str)
def test_compilation_sees_one_node(manifold: Manifold) -> None:
    x, y = _points(manifold, 5, 4, dtype=F32), _points(manifold, 6, 4, seed=1, dtype=F32)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    got = torch.compile(manifold.cdist, fullgraph=True, backend=backend)(x, y)
    torch.testing.assert_close(got, manifold.cdist(x, y), rtol=0.0, atol=0.0)
    assert sum("cdist" in name for name in seen) == 1
    assert not any("asinh" in name or "atan2" in name for name in seen)


@MANIFOLDS
@pytest.mark.parametrize("dtype", [F32, F64])
def test_numbers_do_not_depend_on_threads(manifold: Manifold, dtype: torch.dtype) -> None:
    # 509 rows are shared unevenly, and are eight units of the backward pass.
    x, y = _points(manifold, 509, 5, dtype=dtype), _points(manifold, 301, 5, seed=1, dtype=dtype)
    weight = torch.randn(509, 301, dtype=dtype, generator=_draw(2))
    results = []
    for count in (1, 2, 3):
        with _threads(count):
            results.append((manifold.cdist(x, y), *_gradients(manifold, x, y, weight)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_small_allowance_for_sums_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from holonomy.manifolds.kernels.cpu import pairs

    ball = PoincareBall()
    x, y = _points(ball, 300, 5), _points(ball, 200, 5, seed=1)
    weight = torch.randn(300, 200, dtype=F64, generator=_draw(2))
    wanted = _gradients(ball, x, y, weight)
    monkeypatch.setattr(pairs, "_SUMS", 1)  # one unit of work
    torch.testing.assert_close(_gradients(ball, x, y, weight), wanted)


def test_factors_of_batches_broadcast_against_shared_points() -> None:
    x, y = torch.randn(5, 3, dtype=F64, generator=_draw()), torch.randn(7, 3, dtype=F64, generator=_draw(1))
    a, b = (
        torch.rand(2, 5, 1, dtype=F64, generator=_draw(2)) + 0.5,
        torch.rand(7, 1, dtype=F64, generator=_draw(3)) + 0.5,
    )
    for one, other in ((a, b), (a[:1, :5], b.expand(4, 7, 1).clone()), (a[0], b)):
        leaves = [t.clone().requires_grad_() for t in (x, y, one, other)]
        squares = (leaves[0].unsqueeze(-2) - leaves[1]).square().sum(-1) * leaves[2] * leaves[3].mT
        wanted = torch.asinh(squares.sqrt())
        got = pairwise.arsinh_cdist(*leaves)
        torch.testing.assert_close(got, wanted)
        weight = torch.randn(got.shape, dtype=F64, generator=_draw(4))
        torch.testing.assert_close(
            torch.autograd.grad(got, leaves, weight), torch.autograd.grad(wanted, leaves, weight)
        )

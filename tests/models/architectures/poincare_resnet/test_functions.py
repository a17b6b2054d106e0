"""The hand-written backward passes, and the agreement of the formulas with the ball's own operations."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import functions as F
from holonomy.models.architectures.poincare_resnet.gyroplanes import gyroplanes
from holonomy.models.architectures.poincare_resnet.transforms import gyrotranslate, join, spread

C = 0.7
DTYPE = torch.float64


def points(*shape: int, seed: int = 0, radius: float = 0.9) -> Tensor:
    """Points of the ball of curvature -C along dimension 1, up to this part of its radius."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=DTYPE, generator=g)
    reach = radius * torch.rand(shape[0], 1, *shape[2:], dtype=DTYPE, generator=g) / C**0.5
    return x / x.norm(dim=1, keepdim=True) * reach


X, Y, ONE = points(3, 4, 2), points(3, 4, 2, seed=1), points(1, 4, 1, seed=2)
V = torch.randn(3, 4, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(3))
K = 0.3 + torch.rand(3, 1, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(4))

# name: (function of tensors, c and the keyword backward; its tensors)
OPERATIONS = {
    "expmap0": (lambda v, c, **kw: F.expmap0(v, c, 1, **kw), (V,)),
    "expmap0 past its limit": (lambda v, c, **kw: F.expmap0(v, c, 1, limit=0.5, **kw), (V,)),
    "logmap0": (lambda y, c, **kw: F.logmap0(y, c, 1, **kw), (X,)),
    "project": (lambda x, c, **kw: F.project(x, c, 1, limit=0.5, **kw), (V,)),
    "half": (lambda x, c, **kw: F.half(x, c, 1, **kw), (X,)),
    "conformal_factor": (lambda x, c, **kw: F.conformal_factor(x, c, 1, **kw), (X,)),
    "dist0_squared": (lambda x, c, **kw: F.dist0_squared(x, c, 1, **kw), (X,)),
    "mobius_add": (lambda x, y, c, **kw: F.mobius_add(x, y, c, 1, **kw), (X, Y)),
    "mobius_add of one point": (lambda x, y, c, **kw: F.mobius_add(x, y, c, 1, **kw), (ONE, Y)),
    "mobius_scalar_mul": (lambda k, x, c, **kw: F.mobius_scalar_mul(k, x, c, 1, **kw), (K, X)),
    "gyration": (lambda u, v, w, c, **kw: F.gyration(u, v, w, c, 1, **kw), (X, ONE, V)),
    "expmap": (lambda x, v, c, **kw: F.expmap(x, v, c, 1, **kw), (ONE, V)),
    "logmap": (lambda x, y, c, **kw: F.logmap(x, y, c, 1, **kw), (ONE, Y)),
    "transp": (lambda x, y, v, c, **kw: F.transp(x, y, v, c, 1, **kw), (ONE, Y, V)),
    "dist": (lambda x, y, c, **kw: F.dist(x, y, c, 1, **kw), (X, ONE)),
    "join of tangents": (lambda p, q, c, **kw: join(p, q, c, -2, space="tangent", **kw), (X, V)),
    "join of points": (lambda p, q, c, **kw: join(p, q, c, -2, space="ball", **kw), (X, Y)),
    "gyrotranslate tangents": (lambda p, m, c, **kw: gyrotranslate(p, m, c, -2, space="tangent", **kw), (V, ONE)),
    "gyrotranslate points": (lambda p, m, c, **kw: gyrotranslate(p, m, c, -2, space="ball", **kw), (X, ONE)),
    "spread to tangents": (
        lambda z, m, b, k, c, **kw: spread(z, m, b, k, c, -2, space="tangent", **kw),
        (X, ONE, 0.5 * ONE.flip(1), K),
    ),
    "spread to points": (
        lambda z, m, b, k, c, **kw: spread(z, m, b, k, c, -2, space="ball", **kw),
        (X, ONE, 0.5 * ONE.flip(1), K),
    ),
}
CURVATURES = {
    "one": torch.tensor(C, dtype=DTYPE),
    "one a point": torch.tensor([0.4, 0.5, C], dtype=DTYPE).view(3, 1, 1),
}


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.clone().requires_grad_() for t in tensors]


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_backward_is_the_derivative_twice(name: str, c: str) -> None:
    function, tensors = OPERATIONS[name]
    arguments = leaves(*tensors, CURVATURES[c])
    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


@pytest.mark.parametrize("name", OPERATIONS)
def test_backward_equals_autograd_of_the_formula(name: str) -> None:
    function, tensors = OPERATIONS[name]
    results = []
    for backward in ("manual", "autograd"):
        arguments = leaves(*tensors, CURVATURES["one"])
        out = function(*arguments, backward=backward)
        weights = torch.linspace(-1.0, 2.0, out.numel(), dtype=DTYPE).view(out.shape)
        results.append((out, *torch.autograd.grad(out, arguments, weights)))
    for manual, auto in zip(*results, strict=True):
        # 1e-12: rounding of sums of some twenty terms of order 10
        torch.testing.assert_close(manual, auto, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("source", ["tangent", "ball"])
@pytest.mark.parametrize("target", ["tangent", "ball", "distance"])
def test_backward_of_the_linear_layer_is_the_derivative_twice(source: str, target: str) -> None:
    g = torch.Generator().manual_seed(5)
    z = torch.randn(4, 5, dtype=DTYPE, generator=g)
    r = 0.3 * torch.randn(5, 1, dtype=DTYPE, generator=g)
    gain = 0.6 if source == "tangent" else 1.0

    def layer(p: Tensor, z: Tensor, r: Tensor, c: Tensor) -> Tensor:
        m = torch.einsum("bnw,nk->bkw", p, z)
        n2, norm = p.square().sum(1, keepdim=True), z.norm(dim=0)[:, None]
        return gyroplanes(m, n2, norm, r, c, -2, source=source, target=target, gain=gain)

    arguments = leaves(X, z, r, CURVATURES["one"])
    assert gradcheck(layer, arguments)
    assert gradgradcheck(layer, arguments)


ball = PoincareBall(c=C)
AS_THE_BALL = {
    "expmap0": (F.expmap0(V, C, 1), ball.expmap0(V, dim=1)),
    "logmap0": (F.logmap0(X, C, 1), ball.logmap0(X, dim=1)),
    "mobius_add": (F.mobius_add(X, Y, C, 1), ball.mobius_add(X, Y, dim=1)),
    "gyration": (F.gyration(X, Y, V, C, 1), ball.gyration(X, Y, V, dim=1)),
    "mobius_scalar_mul": (F.mobius_scalar_mul(K[:1, :, :1], X, C, 1), ball.mobius_scalar_mul(K[0, 0, 0], X, dim=1)),
    "conformal_factor": (F.conformal_factor(X, C, 1), ball.lambda_x(X, dim=1, keepdim=True)),
    "expmap": (F.expmap(X, 0.3 * V, C, 1), ball.expmap(X, 0.3 * V, dim=1)),
    "logmap": (F.logmap(X, Y, C, 1), ball.logmap(X, Y, dim=1)),
    "transp": (F.transp(X, Y, V, C, 1), ball.transp(X, Y, V, dim=1)),
    "dist": (F.dist(X, Y, C, 1), ball.dist(X, Y, dim=1, keepdim=True)),
    "dist0_squared": (F.dist0_squared(X, C, 1), ball.dist0(X, dim=1, keepdim=True).square()),
}


@pytest.mark.parametrize("name", AS_THE_BALL)
def test_formula_equals_the_ball(name: str) -> None:
    ours, theirs = AS_THE_BALL[name]
    # 1e-12: two formulas at up to 0.9 of the radius, where 1 - c|x|^2 costs one digit
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_projection_stops_at_the_limit_and_is_idempotent() -> None:
    for dtype, eps in ((torch.float64, 1e-5), (torch.float32, 4e-3)):
        x = F.project(100.0 * V.to(dtype), C, 1)
        reach = C**0.5 * x.norm(dim=1)
        assert float(reach.max()) <= (1.0 - eps) * (1.0 + 4 * torch.finfo(dtype).eps)
        torch.testing.assert_close(F.project(x, C, 1), x)
        inside = 0.5 * x
        assert torch.equal(F.project(inside, C, 1), inside)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-8])
def test_no_nan_at_and_near_the_zero_vector(size: float, dtype: torch.dtype) -> None:
    derivatives = {F.expmap0: 1.0, F.logmap0: 1.0, F.project: 1.0, F.half: 0.5}
    for function, derivative in derivatives.items():
        for backward in ("manual", "autograd"):
            x = torch.full((2, 3), size, dtype=dtype, requires_grad=True)
            y = function(x, C, backward=backward)
            gradient = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
            second = torch.autograd.grad(gradient.sum(), x, allow_unused=True)[0]
            # a gradient rounded a few times
            torch.testing.assert_close(gradient, torch.full_like(x, derivative), rtol=1e-5, atol=0.0)
            assert second is None or bool(second.isfinite().all())
    x = torch.full((2, 3), size, dtype=dtype, requires_grad=True)
    for y in (F.dist(x, x.detach(), C), F.dist0_squared(x, C), F.mobius_add(x, -x, C), F.logmap(x, x.detach(), C)):
        assert bool(torch.autograd.grad(y.sum(), x)[0].isfinite().all())


def test_graph_saves_its_inputs_and_nothing_else() -> None:
    p, q = leaves(X, V)
    stored: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        join(p, q, torch.tensor(C, dtype=DTYPE), -2, space="tangent")
    assert {t.data_ptr() for t in stored if t.numel() > 1} == {p.data_ptr(), q.data_ptr()}


@pytest.mark.parametrize("name", ["mobius_add of one point", "gyration", "expmap0", "spread to tangents"])
def test_vmap_and_grad_transform_the_functions(name: str) -> None:
    function, tensors = OPERATIONS[name]

    def loss(*arguments: Tensor) -> Tensor:
        return function(*arguments, torch.tensor(C, dtype=DTYPE)).square().sum()

    batch = [torch.stack([t, 0.5 * t]) for t in tensors]
    mapped = torch.func.vmap(torch.func.grad(loss))(*batch)
    single = torch.stack([torch.func.grad(loss)(*(t[i] for t in batch)) for i in range(2)])
    torch.testing.assert_close(mapped, single)


def test_a_chain_compiles_without_a_graph_break() -> None:
    def chain(x: Tensor) -> Tensor:
        return F.expmap(x, F.logmap(x, -x, C, 1), C, 1)

    x, z = leaves(X, X)
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    torch.testing.assert_close(y, chain(z))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(chain(z).sum(), z))


def test_unknown_backward_is_refused() -> None:
    with pytest.raises(ValueError, match="'backward' must be 'manual' or 'autograd', got 'hand'"):
        F.expmap0(X, C, 1, backward="hand")

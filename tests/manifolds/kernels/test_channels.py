"""The kernels on a channel axis equal the plain formulas of the Poincaré ResNet, in value and in every gradient."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from holonomy.manifolds.kernels import channels, dispatch
from holonomy.models.architectures.poincare_resnet import functions, gyroplanes, statistics, transforms
from holonomy.models.architectures.poincare_resnet.functions import projection_limit
from holonomy.models.architectures.poincare_resnet.statistics import poincare_midpoint
from holonomy.models.architectures.poincare_resnet.transforms import gyrotranslate, join, spread

pytest.importorskip("numba")

C = 0.7
#: Blocks of 64 positions: full, with a rest of lanes, with a rest within lanes; and rows too narrow, which are turned.
SHAPES = [(2, 4, 8, 8), (3, 5, 7, 11), (2, 3, 130), (41, 6), (1, 7)]


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points(*shape: int, seed: int = 0, radius: float = 0.9) -> Tensor:
    x = draw(*shape, seed=seed)
    g = torch.Generator().manual_seed(seed + 100)
    reach = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64, generator=g)
    return radius * reach * x / x.norm(dim=1, keepdim=True) / C**0.5


def operations(shape: tuple[int, ...]) -> dict:
    """Name: (function of tensors and c, its tensors), for maps of this shape with channels along dimension 1."""
    dim, over = 1 - len(shape), tuple(d for d in range(len(shape)) if d != 1)
    column = (shape[1], *(1,) * (len(shape) - 2))
    x, y, v, w = points(*shape), points(*shape, seed=1), draw(*shape, seed=2), draw(*shape, seed=3, scale=0.3)
    mean, centre = draw(*column, seed=4, scale=0.1), draw(*column, seed=5, scale=0.1)
    k = torch.tensor(1.3, dtype=torch.float64)
    found = {
        "expmap0": (lambda v, c: functions.expmap0(v, c, 1), (v,)),
        "expmap0 past its limit": (lambda v, c: functions.expmap0(v, c, 1, limit=0.5), (v,)),
        "logmap0": (lambda x, c: functions.logmap0(x, c, 1), (x,)),
        "project": (lambda v, c: functions.project(v, c, 1, limit=0.5), (v,)),
        "half": (lambda x, c: functions.half(x, c, 1), (x,)),
        "dist0_squared": (lambda x, c: functions.dist0_squared(x, c, 1), (x,)),
    }
    for space, p, q in (("ball", x, y), ("tangent", v, w)):
        found |= {
            f"join, {space}": (lambda p, q, c, s=space: join(p, q, c, dim, space=s), (p, q)),
            f"gyrotranslate, {space}": (lambda p, m, c, s=space: gyrotranslate(p, m, c, dim, space=s), (p, mean)),
            f"spread, {space}": (
                lambda z, m, b, k, c, s=space: spread(z, m, b, k, c, dim, space=s),
                (x, mean, centre, k),
            ),
            f"midpoint, {space}": (
                lambda p, c, s=space: poincare_midpoint(p, c, over, ball_dim=1, space=s),
                (p,),
            ),
        }
    return found


def value_and_gradients(function, tensors, implementation) -> tuple[Tensor, ...]:
    arguments = [t.detach().clone().requires_grad_() for t in tensors]
    with dispatch.use(implementation):
        y = function(*arguments)
        weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
        return y.detach(), *torch.autograd.grad(y, arguments, weights)


def assert_close(ours: tuple[Tensor, ...], reference: tuple[Tensor, ...], bound: float) -> None:
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0.0, atol=bound * (1.0 + float(b.abs().max())))


NAMES = list(operations((2, 3, 4)))


def test_the_kernels_run_at_all(monkeypatch) -> None:
    calls = []
    run = channels.ChannelOperation.__call__
    monkeypatch.setattr(
        channels.ChannelOperation, "__call__", lambda self, *a: calls.append(self.name) or run(self, *a)
    )
    for function, tensors in operations((2, 4, 40)).values():
        function(*tensors, torch.tensor(C, dtype=torch.float64))
    assert {"radial", "dist0", "join", "translate", "spread", "midpoint"} <= set(calls)
    calls.clear()
    with dispatch.use("reference"):
        functions.expmap0(draw(2, 4, 40), C, 1)
    functions.expmap0(draw(2, 4, 40), C, 1, backward="autograd")
    functions.expmap0(draw(2, 4, 40), torch.tensor([C, 1.0], dtype=torch.float64).view(2, 1, 1), 1)
    assert not calls


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_float64_equals_the_reference(name: str, shape: tuple[int, ...]) -> None:
    function, tensors = operations(shape)[name]
    tensors = (*tensors, torch.tensor(C, dtype=torch.float64))
    fused, plain = (value_and_gradients(function, tensors, i) for i in ("fused", "reference"))
    # 1e-12 of the largest entry, or of 1 where terms of order 1 to 10 cancel (the midpoint of one point).
    # A join of tangent vectors of length 3 forms 1 - c|x|^2 of about 1e-3 and divides by its square, and its projection
    # divides by 1 - s^2: 1e-10.
    assert_close(fused, plain, 1e-10 if name == "join, tangent" else 1e-12)


@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[3:4])
@pytest.mark.parametrize("name", NAMES)
def test_float32_is_as_near_to_float64_as_the_reference(name: str, shape: tuple[int, ...]) -> None:
    function, tensors = operations(shape)[name]
    if name == "join, tangent":
        tensors = tuple(0.2 * t for t in tensors)  # away from the limits, which differ by dtype
    tensors = tuple(t.float() for t in (*tensors, torch.tensor(C, dtype=torch.float64)))
    exact = value_and_gradients(function, tuple(t.double() for t in tensors), "reference")
    ours, plain = (value_and_gradients(function, tensors, i) for i in ("fused", "reference"))
    for a, b, truth in zip(ours, plain, exact, strict=True):
        size = 1.0 + float(truth.abs().max())
        if float((b - truth).abs().max()) > 1e-4 * size:
            # The limit of float32 was reached where that of float64 was not: only the two float32 can be compared.
            assert float((a - b).abs().max()) <= 2e-5 * size
            continue
        # Twice the reference's error, or 64 roundings of 1 and the largest: at 0.9 of the radius each rounding counts
        # 1 / (1 - s^2) = 5 times, and the gradient of c is a sum of terms some times larger than itself.
        assert float((a - truth).abs().max()) <= max(2.0 * float((b - truth).abs().max()), 64 * 6e-8 * size)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_gradients_are_the_derivatives(name: str) -> None:
    function, tensors = operations((2, 3, 4))[name]
    scale = 0.5 if name == "join, tangent" else 1.0
    arguments = [(scale * t).detach().requires_grad_() for t in tensors]
    arguments.append(torch.tensor(C, dtype=torch.float64, requires_grad=True))
    with dispatch.use("fused"):  # which maps as small as this are not left to otherwise
        assert gradcheck(function, arguments)
        assert gradgradcheck(function, arguments)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_no_nan_at_and_near_the_origin(name: str, dtype: torch.dtype, size: float) -> None:
    function, tensors = operations((2, 3, 40))[name]
    tensors = (*(size * t for t in tensors), torch.tensor(C, dtype=torch.float64))
    for result in value_and_gradients(function, tuple(t.to(dtype) for t in tensors), "fused"):
        assert bool(result.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_nan_at_coincident_points_and_at_the_boundary(dtype: torch.dtype) -> None:
    x = points(2, 4, 40).to(dtype)
    edge = projection_limit(dtype) * x / (C**0.5 * x.norm(dim=1, keepdim=True))
    c = torch.tensor(C, dtype=dtype)
    for p, q in ((x, -x), (x, x), (edge, -edge), (edge, edge)):
        for result in value_and_gradients(lambda p, q, c: join(p, q, c, -2, space="ball"), (p, q, c), "fused"):
            assert bool(result.isfinite().all())
    mean = edge[0, :, :1]
    for result in value_and_gradients(
        lambda p, m, c: gyrotranslate(p, m, c, -2, space="ball"), (edge, mean, c), "fused"
    ):
        assert bool(result.isfinite().all())


def test_strides_and_empty_maps() -> None:
    c = torch.tensor(C, dtype=torch.float64)
    x, y = points(3, 4, 9, 8), points(3, 4, 9, 8, seed=1)
    expected = join(x, y, c, -3, space="ball")
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(join(last, y.transpose(2, 3).contiguous().transpose(2, 3), c, -3, space="ball"), expected)
    wide = torch.cat([x, y], dim=1)
    assert torch.equal(join(wide[:, :4], wide[:, 4:], c, -3, space="ball"), expected)
    empty = torch.zeros(0, 4, 9, 8, dtype=torch.float64)
    assert join(empty, empty, c, -3, space="ball").shape == empty.shape


def test_threads_give_the_same_numbers() -> None:
    results = []
    before = torch.get_num_threads()
    tensors = (points(80, 4, 8, 16), points(80, 4, 8, 16, seed=1), torch.tensor(C, dtype=torch.float64))
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(lambda p, q, c: join(p, q, c, -3, space="ball"), tensors, "fused"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_vmap_and_grad_transform_the_kernels() -> None:
    c = torch.tensor(C, dtype=torch.float64)
    p, q = points(3, 2, 4, 40).movedim(1, 2).contiguous(), draw(2, 4, 40, scale=0.1)
    p = torch.stack([points(2, 4, 40, seed=s) for s in range(3)])

    def loss(p: Tensor, q: Tensor, c: Tensor) -> Tensor:
        return join(p, q, c, -2, space="ball").square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=(0, None, None))(p, q, c)
    single = [torch.func.grad(loss, argnums=(0, 1, 2))(one, q, c) for one in p]
    for a, b in zip(mapped, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(a, torch.stack(list(b)), rtol=1e-13, atol=1e-13)


def _operators() -> dict:
    x, y, u = points(2, 3, 40), points(2, 3, 40, seed=1), draw(2, 3, 40, seed=2)
    mean, k, c = draw(3, 1, seed=3, scale=0.1), torch.tensor(1.2, dtype=torch.float64), torch.tensor(C).double()
    return {
        "radial": (functions._RADIAL, u, (x, c, -2, "log", 1.0)),
        "dist0": (functions._DIST0, draw(2, 1, 40), (x, c, -2)),
        "join": (transforms._JOIN, u, (x, y, c, -2, "tangent", 0.99)),
        "translate": (transforms._TRANSLATE, u, (x, mean, c, -2, "tangent", 0.99)),
        "spread": (transforms._SPREAD, u, (x, mean, 2.0 * mean, k, c, -2, "ball", 0.99)),
        "midpoint": (statistics._MIDPOINT, draw(1, 3, 1), (x, c, -2, "tangent", 0.99)),
        "patches": (
            gyroplanes._PATCH_SQUARES,
            draw(2, 1, 5, 5),
            (draw(2, 3, 6, 5), [2, 3], [1, 1], [0, 1], [1, 1]),
        ),
    }


@pytest.mark.parametrize("name", ["radial", "dist0", "join", "translate", "spread", "midpoint", "patches"])
def test_operators_pass_torchs_checks(name: str) -> None:
    operation, u, arguments = _operators()[name]
    arguments = tuple(a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments)
    # Without tracing by AOTAutograd, which test_a_chain_compiles_to_one_node_each does once: seconds for each operator.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(operation._forward, arguments, test_utils=checks)
    opcheck(operation._backward, (u.requires_grad_(), *arguments), test_utils=checks)


def test_a_chain_compiles_to_one_node_each() -> None:
    graphs = []

    def inspect(graph, inputs):
        calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        graphs.append([call for call in calls if "functorch" not in call])  # a question that dispatch asks
        return graph.forward

    def chain(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return functions.logmap0(join(x, y, c, -2, space="ball"), c, 1)

    arguments = points(2, 4, 40), points(2, 4, 40, seed=1), torch.tensor(C, dtype=torch.float64)
    expected = chain(*arguments)
    assert torch.equal(torch.compile(chain, fullgraph=True, backend=inspect)(*arguments), expected)
    assert graphs == [["holonomy.channels_join.default", "holonomy.channels_radial.default"]]


@pytest.mark.parametrize(
    ("roles", "result", "message"),
    [("mx", "m", "'roles' must be letters of 'mncs', got 'mx'"), ("m", "q", "'result' must be .*, got 'q'")],
)
def test_bad_registrations_are_refused(roles: str, result: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        channels.register("nothing", "Tensor x", roles, functions._Radial, result=result)

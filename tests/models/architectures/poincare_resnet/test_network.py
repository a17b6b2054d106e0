"""The networks: shapes, carriers, memory, curvature, transformations, what they refuse."""

import copy

import pytest
import torch
import torch.nn.functional as F

from holonomy.manifolds import PoincareBall
from holonomy.models.architectures.poincare_resnet import (
    EuclideanResNet,
    FusionResNet,
    HyperbolicHeadResNet,
    PoincareBasicBlock,
    PoincareResNet,
    poincare_resnet,
    poincare_resnet20,
    poincare_resnet32,
    poincare_resnet44,
)

SMALL = {"channels": (3, 4, 6), "blocks": (1, 1, 1), "in_channels": 2}


def small(**options) -> PoincareResNet:
    generator = torch.Generator().manual_seed(0)
    return PoincareResNet(5, **(SMALL | {"generator": generator} | options))


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("factory", "blocks"), [(poincare_resnet20, 3), (poincare_resnet32, 5), (poincare_resnet44, 7)]
)
def test_factories_build_the_named_depth(factory, blocks: int) -> None:
    model = factory(7, channels=(2, 2, 2))
    assert [len(group) for group in model.groups] == [blocks] * 3
    # stem, two convolutions a block, classifier; shortcuts are not counted
    layers = sum(name.endswith((".conv1", ".conv2")) for name, _ in model.named_modules()) + 2
    assert layers == 6 * blocks + 2
    assert model(images(2, 3, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_midpoint": False},
        {"order": "rf"},
        {"order": "none"},
        {"pool": "midpoint"},
        {"learnable_c": True},
        {"learnable_c": True, "shared_ball": False},
        {"init": "hnn"},
        {"init": "identity_eye"},
        {"track_running_stats": False},
    ],
)
def test_every_option_trains(options: dict) -> None:
    model = small(**options)
    x = images(6, 2, 7, 5)
    F.cross_entropy(model(x), torch.arange(6) % 5).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    # the biases of the last norms can be dead behind a ReLU; weights of the ends are not
    assert float(gradients["conv.weight"].norm()) > 0.0
    assert float(gradients["head.weight"].norm()) > 0.0
    assert model.eval()(x).shape == (6, 5)


def test_both_carriers_are_the_same_network() -> None:
    tangent, on_ball = small(init="hnn").double(), small(init="hnn", space="ball").double()
    x = images(4, 2, 8, 6).double()
    y, z = tangent(x), on_ball(x)
    torch.testing.assert_close(y, z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tangent.features(x), on_ball.features(x), rtol=1e-9, atol=1e-9)
    for a, b in zip(
        torch.autograd.grad(y.square().sum(), [*tangent.parameters()]),
        torch.autograd.grad(z.square().sum(), [*on_ball.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_backward_by_hand_is_that_of_autograd_through_the_network() -> None:
    manual, auto = small(learnable_c=True).double(), small(learnable_c=True, backward="autograd").double()
    auto.load_state_dict(manual.state_dict())
    x = images(4, 2, 8, 6).double()
    for a, b in zip(
        torch.autograd.grad(manual(x).square().sum(), [*manual.parameters()]),
        torch.autograd.grad(auto(x).square().sum(), [*auto.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_block_is_the_identity_where_its_branch_vanishes() -> None:
    block = PoincareBasicBlock(4, 4, ball=PoincareBall(c=0.1)).double()
    block.bn2.weight.data.fill_(0.0)
    x = images(2, 4, 5, 5).double().relu()  # the block ends in a ReLU
    torch.testing.assert_close(block(x), x, rtol=1e-12, atol=1e-12)


def test_block_keeps_less_than_half_the_memory_of_autograd() -> None:
    kept = {}
    for backward in ("manual", "autograd"):
        block = PoincareBasicBlock(8, 8, ball=PoincareBall(c=0.1), backward=backward)
        stored: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, stored=stored: (
                stored.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t
            ),
            lambda t: t,
        ):
            block(images(4, 8, 8, 8).requires_grad_())
        kept[backward] = sum(stored.values())
    assert kept["manual"] < 0.5 * kept["autograd"]


def test_network_survives_copies_and_its_state_has_plain_tensors() -> None:
    model = small(learnable_c=True)
    x = images(4, 2, 8, 8)
    model(x)
    other = small(learnable_c=True, c=0.3, generator=None)
    other.load_state_dict(model.state_dict())
    model.eval(), other.eval()
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    torch.testing.assert_close(other(x), model(x))


def test_network_compiles_without_a_graph_break() -> None:
    model = small().eval()
    x = images(4, 2, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    model = small(learnable_c=True).to(dtype)
    assert model(images(4, 2, 8, 8).to(dtype)).dtype == dtype


def test_baselines_share_the_shape() -> None:
    euclidean = EuclideanResNet(5, **SMALL)
    head = HyperbolicHeadResNet(5, **SMALL)
    fusion = FusionResNet(small(), EuclideanResNet(5, **SMALL), 5)
    x = images(4, 2, 9, 7)
    for model, size in ((euclidean, 6), (head, 6), (fusion, 12)):
        assert model(x).shape == (4, 5)
        assert model.features(x).shape == (4, size)
    head(x).square().sum().backward()
    assert any("ball" in name and p.grad is not None for name, p in head.named_parameters())
    convolutions = [p.numel() for name, p in euclidean.named_parameters() if "conv" in name and p.dim() == 4]
    assert convolutions == [p.numel() for name, p in small().named_parameters() if "conv" in name and p.dim() == 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: poincare_resnet(21), r"'depth' must be 6 n \+ 2 .*got 21"),
        (lambda: poincare_resnet(2), r"'depth' must be 6 n \+ 2 .*got 2"),
        (lambda: small(c=0.0), "positive"),
        (lambda: small(c=float("nan")), "positive"),
        (lambda: small(c=float("inf")), "positive"),
        (lambda: small(init="eye"), "'init' must be one of"),
        (lambda: small(space="disc"), "'space' must be one of"),
        (lambda: small(order="xf"), "'order' must be one of"),
        (lambda: small(pool="max"), "'mode' must be one of"),
        (lambda: small(blocks=(1, 1)), "must be equally many"),
        (lambda: small(space="ball", shared_ball=False), "needs shared_ball=True"),
        (lambda: small(validate=True)(images(2, 2, 8, 8) * float("nan")), "NaN or infinite"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Relative representations: invariances, references, gradients through both branches, anchors, stitching, measures."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from torch import nn

from holonomy.manifolds import Lorentz, PoincareBall, Sphere
from holonomy.manifolds.linalg import haar
from holonomy.models.representation.relative import (
    RelativeModel,
    RelativeProjection,
    latent_similarity,
    procrustes_align,
    relative_projection,
    select_anchors,
    stitch,
)

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=F64, generator=seeded(seed))


def rotation(d: int) -> torch.Tensor:
    return haar((d, d), F64, None, seeded(9))


def test_cosines_do_not_see_rotations_nor_scales_but_translations() -> None:
    x, a = normal(20, 6), normal(8, 6, seed=1)
    r, q = relative_projection(x, a), rotation(6)
    torch.testing.assert_close(relative_projection(3.7 * x @ q, 3.7 * a @ q), r, rtol=0, atol=1e-12)
    scales = torch.rand(28, 1, dtype=F64, generator=seeded(2)) + 0.1
    torch.testing.assert_close(relative_projection(scales[:20] * x, scales[20:] * a), r, rtol=0, atol=1e-12)
    assert float((relative_projection(x + 0.5, a + 0.5) - r).abs().max()) > 1e-3
    stretch = torch.linspace(0.5, 2.0, 6, dtype=F64)
    assert float((relative_projection(x * stretch, a * stretch) - r).abs().max()) > 1e-3


def test_similarities_are_those_of_scikit_learn() -> None:
    x, a = normal(9, 5), normal(7, 5, seed=1)
    np.testing.assert_allclose(relative_projection(x, a), cosine_similarity(x, a), atol=1e-12)
    np.testing.assert_allclose(
        relative_projection(x, a, similarity="euclidean"), -euclidean_distances(x, a), atol=1e-7
    )  # sklearn's differences of squares
    torch.testing.assert_close(relative_projection(x, a, similarity="inner"), x @ a.mT / math.sqrt(5))


def test_own_anchor_permutations_and_repeats() -> None:
    a = normal(7, 5)
    torch.testing.assert_close(relative_projection(a, a).diagonal(), torch.ones(7, dtype=F64), rtol=0, atol=1e-12)
    x, order = normal(4, 5, seed=1), torch.randperm(7, generator=seeded())
    torch.testing.assert_close(relative_projection(x, a[order]), relative_projection(x, a)[:, order])
    twice = relative_projection(x, torch.cat([a, a[2:3]]))
    assert torch.equal(twice[:, 2], twice[:, 7])


def test_change_of_basis_solves_for_coordinates() -> None:
    x, a = normal(6, 5), normal(5, 5, seed=1)
    r = relative_projection(x, a, similarity="basis_change")
    torch.testing.assert_close(r @ a, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(r, torch.linalg.solve(a.mT, x.mT).mT, rtol=1e-8, atol=1e-8)
    few = relative_projection(x, a[:3], similarity="basis_change")
    torch.testing.assert_close((x - few @ a[:3]) @ a[:3].mT, torch.zeros(6, 3, dtype=F64), rtol=0, atol=1e-10)
    many = relative_projection(x, normal(8, 5, seed=2), similarity="basis_change", allow_underdetermined=True)
    torch.testing.assert_close(many @ normal(8, 5, seed=2), x, rtol=0, atol=1e-8)


def test_geodesic_similarity_has_the_manifolds_isometries() -> None:
    sphere = Sphere()
    x, a = sphere.random(6, 4, dtype=F64, generator=seeded()), sphere.random(5, 4, dtype=F64, generator=seeded(1))
    found = relative_projection(x, a, similarity="geodesic", manifold=sphere)
    torch.testing.assert_close(found, -torch.arccos(relative_projection(x, a)), rtol=0, atol=1e-12)
    ball = PoincareBall()
    x, a = (0.5 * ball.random(n, 3, dtype=F64, generator=seeded(n)) for n in (6, 5))
    shift = torch.tensor([0.3, -0.2, 0.4], dtype=F64)
    before = relative_projection(x, a, similarity="geodesic", manifold=ball)
    moved = (ball.mobius_add(shift.expand_as(p), p) for p in (x, a))
    torch.testing.assert_close(relative_projection(*moved, similarity="geodesic", manifold=ball), before)
    lorentz = Lorentz()
    x, a = (lorentz.random(n, 4, dtype=F64, generator=seeded(n)) for n in (6, 5))
    boost = torch.eye(4, dtype=F64)
    boost[:2, :2] = torch.tensor([[math.cosh(0.7), math.sinh(0.7)], [math.sinh(0.7), math.cosh(0.7)]], dtype=F64)
    before = relative_projection(x, a, similarity="geodesic", manifold=lorentz)
    after = relative_projection(x @ boost, a @ boost, similarity="geodesic", manifold=lorentz)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("similarity", ["cosine", "inner", "basis_change", "euclidean"])
def test_gradients_in_samples_and_anchors(similarity) -> None:
    x, a = normal(4, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a: relative_projection(x, a, similarity=similarity), (x, a))


def test_quantised_values_are_multiples_with_the_plain_gradient() -> None:
    x, a = normal(4, 5).requires_grad_(), normal(3, 5, seed=1)
    found = relative_projection(x, a, bin_size=0.1)
    torch.testing.assert_close(found / 0.1, (found / 0.1).round(), rtol=0, atol=1e-12)
    assert float((found - relative_projection(x, a)).detach().abs().max()) <= 0.05 + 1e-12
    weight = normal(4, 3, seed=2)
    (first,) = torch.autograd.grad((found * weight).sum(), x)
    (second,) = torch.autograd.grad((relative_projection(x, a) * weight).sum(), x)
    torch.testing.assert_close(first, second)


def test_zeros_meetings_and_dtypes_are_finite() -> None:
    x = torch.zeros(2, 5, dtype=F64, requires_grad=True)
    a = normal(3, 5)
    found = relative_projection(x, a)
    assert torch.equal(found, torch.zeros(2, 3, dtype=F64))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert bool(gradient.isfinite().all())
    met = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(relative_projection(met, a, similarity="euclidean").sum(), met)
    assert bool(gradient.isfinite().all())
    for dtype in (torch.float32, torch.bfloat16):
        result = relative_projection(normal(2, 4, 5).to(dtype), a.to(dtype))
        assert result.dtype == dtype
        assert result.shape == (2, 4, 3)
        # Half a unit of rounding of the inputs, and of the output.
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(result.double(), relative_projection(normal(2, 4, 5), a), rtol=0, atol=tolerance)


def test_layer_averages_by_class_and_weighs_sums() -> None:
    x, a, labels = normal(4, 5), normal(6, 5, seed=1), torch.tensor([0, 1, 1, 0, 2, 1])
    r = relative_projection(x, a)
    found = RelativeProjection(6, stratify=3)(x, a, labels)
    wanted = torch.stack([r[:, labels == c].mean(1) for c in range(3)], 1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(RelativeProjection(6, output="anchors")(x, a), torch.softmax(r, 1) @ a)
    layer = RelativeProjection(6, output="values", value_dim=2)
    torch.testing.assert_close(layer(x, a), torch.softmax(r, 1) @ layer.values.double())
    assert [name for name, _ in layer.named_parameters()] == ["values"]
    assert RelativeProjection(6, stratify=3, output="values", value_dim=2)(x, a, labels).shape == (4, 2)


class Encoder(nn.Module):
    """An affine map, a tanh, and a turn of the latent space."""

    def __init__(self, seed: int, turn: torch.Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(7, 5).double()
        self.turn = turn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = torch.tanh(self.linear(x))
        return e if self.turn is None else e @ self.turn


def model(seed: int = 0, anchors: torch.Tensor | None = None, turn: torch.Tensor | None = None) -> RelativeModel:
    encoder = Encoder(seed, turn)
    head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    return RelativeModel(encoder, head, normal(6, 7, seed=5) if anchors is None else anchors)


def test_gradients_reach_the_encoder_through_the_anchors() -> None:
    net, x = model(), normal(4, 7)
    weight = normal(4, 3, seed=3)
    (net(x) * weight).sum().backward()
    through = net.encoder.linear.weight.grad.clone()
    net.zero_grad()
    latents = net.encode(net.anchors).detach()
    r = relative_projection(net.encode(x), latents)
    (net.head(torch.nn.functional.layer_norm(r, (6,))) * weight).sum().backward()
    assert not torch.allclose(net.encoder.linear.weight.grad, through, rtol=1e-3)


def test_anchors_are_encoded_anew_at_every_call() -> None:
    net, x = model(), normal(4, 7)
    before = net.relative(x).detach()
    with torch.no_grad():
        net.encoder.linear.weight.mul_(-1.0)
        net.encoder.linear.bias.mul_(-1.0)
    torch.testing.assert_close(net.relative(x), before)  # the whole space is turned, anchors too
    wanted = relative_projection(net.encode(x), net.encode(net.anchors))
    torch.testing.assert_close(net.relative(x), wanted)


def test_batch_norm_in_eval_mode_does_not_mix_samples() -> None:
    encoder = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5)).double()
    net = RelativeModel(encoder, nn.Identity(), normal(6, 7, seed=5))
    x = normal(9, 7)
    net(x)
    net.eval()
    torch.testing.assert_close(net(x)[:2], net(x[:2]))
    net.train()
    assert not torch.allclose(net(x)[:2], net(x[:2]))


def test_stitching_with_itself_and_with_a_turned_copy_changes_nothing() -> None:
    first, x = model().eval(), normal(10, 7)
    torch.testing.assert_close(stitch(first, first)(x), first(x), rtol=0, atol=0)
    turned = copy.deepcopy(first)
    turned.encoder.turn = rotation(5)
    torch.testing.assert_close(stitch(turned, first)(x), first(x), rtol=0, atol=1e-12)
    other = model(seed=1).eval()
    joined = stitch(first, other)
    torch.testing.assert_close(joined(x), other.head(torch.nn.functional.layer_norm(first.relative(x), (6,))))
    with torch.no_grad():
        joined.head[0].weight.zero_()
    assert float(other.head[0].weight.detach().abs().max()) > 0.0  # parts are copies


def test_stitching_refuses_other_anchors_orders_and_similarities() -> None:
    first = model()
    with pytest.raises(ValueError, match="same anchors in the same order"):
        stitch(first, model(anchors=first.anchors.flip(0)))
    with pytest.raises(ValueError, match="same anchors in the same order"):
        stitch(first, model(anchors=first.anchors[:5]))
    other = RelativeModel(Encoder(0), nn.Identity(), first.anchors, similarity="euclidean")
    with pytest.raises(ValueError, match="similarity, bins, manifold and norm must be the same"):
        stitch(first, other)


def test_anchors_survive_the_state_dict() -> None:
    first, other = model(), model(anchors=torch.zeros(6, 7, dtype=F64))
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.anchors, first.anchors)


@pytest.mark.parametrize("strategy", ["random", "fps", "kmeans"])
def test_anchors_are_distinct_repeat_and_spread(strategy) -> None:
    x = normal(60, 3)
    x[30:] = x[:30]  # every sample twice
    found = select_anchors(x, 25, strategy, seeded())
    assert len(set(found.tolist())) == 25
    assert torch.equal(found, select_anchors(x, 25, strategy, seeded()))
    assert not torch.equal(found, select_anchors(x, 25, strategy, seeded(1)))
    distinct = normal(20, 3, seed=4)
    assert sorted(select_anchors(distinct, 20, strategy, seeded()).tolist()) == list(range(20))
    y = torch.arange(60) % 3
    labels = y[select_anchors(x, 25, strategy, seeded(), y)]
    assert sorted(torch.bincount(labels).tolist()) == [8, 8, 9]


def test_farthest_points_are_further_apart_than_random_ones() -> None:
    x = normal(200, 4)
    far = torch.pdist(x[select_anchors(x, 12, "fps", seeded())]).min()
    for seed in range(10):
        assert far >= torch.pdist(x[select_anchors(x, 12, "random", seeded(seed))]).min()
    centres = x[select_anchors(x, 12, "kmeans", seeded())]
    chosen = x[select_anchors(x, 12, "random", seeded())]
    assert torch.cdist(x, centres).amin(1).square().sum() < torch.cdist(x, chosen).amin(1).square().sum()


def test_measures_of_spaces() -> None:
    r = normal(300, 20)
    assert latent_similarity(r, r) == pytest.approx({"jaccard": 1.0, "mrr": 1.0, "cosine": 1.0})
    turned = latent_similarity(r, r @ rotation(20), block=64)
    assert turned["jaccard"] == pytest.approx(1.0)
    assert turned["mrr"] < 0.2
    other = latent_similarity(r, normal(300, 20, seed=1))
    # Two random sets of k of n share k^2/n, of a union of nearly 2 k; three standard errors of 300 means.
    assert other["jaccard"] == pytest.approx(10 / (2 * 300), abs=0.006)
    assert other["mrr"] == pytest.approx(float((1.0 / torch.arange(1, 301)).mean()), abs=0.015)
    assert abs(other["cosine"]) < 0.04
    # By hand.
    a = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], dtype=F64)
    b = a[[0, 2, 1, 3]]
    found = latent_similarity(a, b, k=1)
    assert found["jaccard"] == 0.0
    assert found["mrr"] == pytest.approx((1.0 + 1 / 4 + 1 / 3 + 1.0) / 4)


def test_procrustes_finds_the_rotation() -> None:
    x, q = normal(30, 5), rotation(5)
    torch.testing.assert_close(procrustes_align(x, x @ q), q)
    noisy = x @ q + 0.1 * normal(30, 5, seed=1)
    best = procrustes_align(x, noisy)
    torch.testing.assert_close(best.mT @ best, torch.eye(5, dtype=F64))
    from scipy.linalg import orthogonal_procrustes

    np.testing.assert_allclose(best, orthogonal_procrustes(x.numpy(), noisy.numpy())[0], atol=1e-12)


def test_bad_input_is_refused() -> None:
    x, a = normal(4, 5), normal(3, 5)
    for call, text in (
        (lambda: relative_projection(x, a[:, :4]), "wanted 'x'"),
        (lambda: relative_projection(x, a[:0]), "m >= 1"),
        (lambda: relative_projection(x, a, similarity="angle"), "'similarity' must be one of"),  # type: ignore[arg-type]
        (lambda: relative_projection(x, a, similarity="geodesic"), "'manifold' goes with"),
        (lambda: relative_projection(x, a, bin_size=0.0), "'bin_size' must be positive"),
        (lambda: relative_projection(x, a * math.nan), "'anchors' must be finite"),
        (lambda: relative_projection(x, normal(6, 5), similarity="basis_change"), "no unique coordinates"),
        (lambda: RelativeProjection(0), "num_anchors >= 1"),
        (lambda: RelativeProjection(3, output="values"), "'value_dim' goes with"),
        (lambda: RelativeProjection(3, output="sums"), "'output' must be"),  # type: ignore[arg-type]
        (lambda: RelativeProjection(3, stratify=2)(x, a), "'anchor_labels' go with"),
        (lambda: RelativeProjection(3, stratify=2)(x, a, torch.zeros(3, dtype=torch.int64)), "each of 2 classes"),
        (lambda: RelativeProjection(4)(x, a), "wanted 4 anchors, got 3"),
        (lambda: model(anchors=torch.full((6, 7), math.inf)), "'anchors' must be one input at least, finite"),
        (lambda: select_anchors(x, 0), "'m' must be from 1"),
        (lambda: select_anchors(x, 5), "'m' must be from 1 to the number of samples, 4"),
        (lambda: select_anchors(x, 2, "best"), "'strategy' must be one of"),  # type: ignore[arg-type]
        (lambda: latent_similarity(x, x, k=4), "'k' must be from 1 to n - 1 = 3"),
        (lambda: latent_similarity(x, a), r"two of shape \(n, m\)"),
        (lambda: procrustes_align(x, a), r"two of shape \(n, d\)"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="'x' must be floating"):
        relative_projection(torch.ones(2, 5, dtype=torch.int64), a)
    with pytest.raises(TypeError, match="'r1' must be floating"):
        latent_similarity(torch.ones(4, 2, dtype=torch.int64), normal(4, 2))

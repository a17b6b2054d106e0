"""The classifier: invariances, the angle that a logit is, gradients, training steps, measures, and bad input."""

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from holonomy.manifolds import Grassmann, ManifoldParameter, find_manifold, kernels
from holonomy.manifolds.linalg import gram_gap, haar
from holonomy.models.representation.grassmann_class import (
    CosineClassifier,
    GrassmannClassifier,
    HybridOptimizer,
    class_separation,
    convert_linear_head,
    intra_class_angle,
    param_groups,
)
from holonomy.optim import RiemannianSGD

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head(features: int = 7, classes: int = 4, k: int = 3, **options: Any) -> GrassmannClassifier:
    made = GrassmannClassifier(features, classes, k, **{"dtype": DOUBLE} | options)
    made.reset_parameters(generator())
    return made


def features(*size: int, dtype: torch.dtype = DOUBLE, seed: int = 1) -> Tensor:
    return torch.randn(size, dtype=dtype, generator=generator(seed))


# -- logits ------------------------------------------------------------------------------------------------------------


def test_logits_are_cosines_of_scipys_angles() -> None:
    model, x = head(), features(5, 7)
    logits = model(x).detach().numpy()
    for b in range(5):
        for c in range(4):
            # scipy gives as many angles as the smaller subspace has dimensions: the one between line and subspace.
            angle = scipy.linalg.subspace_angles(model.subspaces[c].detach().numpy(), x[b, :, None].numpy())
            assert logits[b, c] == pytest.approx(25.0 * math.cos(angle[0]), rel=1e-12)


@pytest.mark.parametrize("factor", [3.0, -0.25, 1e-6, 1e8])
def test_logits_do_not_depend_on_basis_length_and_sign(factor: float) -> None:
    model, x = head(), features(5, 7)
    before = model(x).detach()
    model.subspaces = ManifoldParameter(
        model.subspaces.detach() @ haar((4, 3, 3), DOUBLE, None, generator(2)), Grassmann("exp")
    )
    # Roundings of numbers up to 25.
    torch.testing.assert_close(model(factor * x).detach(), before, rtol=0, atol=1e-13)


def test_logits_are_between_0_and_gamma_and_reach_both() -> None:
    model = head(gamma=7.0)
    logits = model(features(200, 7)).detach()
    assert float(logits.min()) >= 0.0
    assert float(logits.max()) < 7.0
    basis = model.subspaces[2].detach()
    inside = basis @ features(3, 4)
    torch.testing.assert_close(model(inside.T).detach()[:, 2], torch.full((4,), 7.0, dtype=DOUBLE), rtol=1e-14, atol=0)
    outside = features(7, 4) - basis @ (basis.T @ features(7, 4))
    assert float(model(outside.T).detach()[:, 2].abs().max()) < 1e-13


def test_one_dimension_is_the_absolute_cosine_and_all_dimensions_are_the_whole_space() -> None:
    x = features(6, 7)
    line = head(k=1)
    cosine = F.cosine_similarity(x[:, None], line.subspaces[..., 0].detach()[None], dim=-1)
    torch.testing.assert_close(line(x).detach(), 25.0 * cosine.abs(), rtol=1e-12, atol=0)
    whole = head(k=7)
    torch.testing.assert_close(whole(x).detach(), torch.full((6, 4), 25.0, dtype=DOUBLE), rtol=1e-14, atol=0)


def test_gradient_is_the_closed_form_and_its_tangent_part_has_rank_one() -> None:
    model, x = head(gamma=3.0), features(1, 7)
    (gradient,) = torch.autograd.grad(model(x)[0, 2], model.subspaces)
    s, unit = model.subspaces[2].detach(), F.normalize(x[0], dim=0)
    z = s.T @ unit
    torch.testing.assert_close(gradient[2], 3.0 * torch.outer(unit, z) / z.norm(), rtol=0, atol=1e-14)
    assert not gradient[[0, 1, 3]].any()
    tangent = Grassmann().proju(s, gradient[2])
    assert int(torch.linalg.matrix_rank(tangent)) == 1
    loss = torch.autograd.functional.jacobian(lambda t: 3.0 * (t.T @ unit).norm(), s)
    torch.testing.assert_close(gradient[2], loss, rtol=0, atol=1e-14)


def test_gradients_by_finite_differences() -> None:
    model, x = head(), features(3, 7)
    bases = model.subspaces.detach().clone().requires_grad_()

    def logits(x: Tensor, bases: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"subspaces": bases}, (x,))

    assert gradcheck(logits, (x.requires_grad_(), bases))


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_gradients_are_finite_at_zero_and_orthogonal_features(implementation: str) -> None:
    model = GrassmannClassifier(4, 2, 2)
    model.subspaces = ManifoldParameter(torch.eye(4)[:, :2].expand(2, 4, 2).clone(), Grassmann("exp"))
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], requires_grad=True)
    with kernels.use(implementation):
        logits = model(x)
        logits.sum().backward()
    assert not logits.any()
    assert bool(x.grad.isfinite().all())
    assert bool(model.subspaces.grad.isfinite().all())


def test_batches_of_any_shape() -> None:
    model, x = head(), features(2, 3, 5, 7)
    assert model(x).shape == (2, 3, 5, 4)
    torch.testing.assert_close(model(x)[1, 2], model(x[1, 2]), rtol=0, atol=0)
    assert model(x[0, 0, 0]).shape == (4,)
    assert model(x[:0]).shape == (0, 3, 5, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    model = head(300, 4, 3, dtype=torch.float32)
    # The square of such a length overflows float16.
    x = (100.0 * features(5, 300)).to(dtype)
    exact = model(x.float())
    assert torch.equal(model(x), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16), kernels.use("reference"):
        # float32 roundings of sums of 300 terms in another order.
        torch.testing.assert_close(model(x.float()), exact, rtol=1e-5, atol=1e-5)
    half = model.to(dtype)(x)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=25 * 4 * torch.finfo(dtype).eps)


# -- the layer as a module ---------------------------------------------------------------------------------------------


def test_same_generator_same_subspaces_and_all_orthonormal() -> None:
    model, other = head(), head()
    assert torch.equal(model.subspaces, other.subspaces)
    other.reset_parameters(generator(9))
    assert not torch.equal(model.subspaces, other.subspaces)
    assert gram_gap(other.subspaces) < 1e-14
    many = GrassmannClassifier(16, 50, 8)  # 50 * 8 > 16: subspaces overlap
    assert gram_gap(many.subspaces) < 1e-6


def test_state_dict_copy_and_file_round_trip() -> None:
    model, other, x = head(), GrassmannClassifier(7, 4, 3, dtype=DOUBLE), features(5, 7)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), model(x))
    for assign in (False, True):
        other.load_state_dict(model.state_dict(), assign=assign)
        assert isinstance(other.subspaces, ManifoldParameter)
        assert other.subspaces.manifold.key == Grassmann("exp").key
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert "num_classes=4, subspace_dim=3" in repr(model)


def test_meta_device() -> None:
    model = GrassmannClassifier(7, 4, 3, device="meta")
    assert model(torch.empty(2, 7, device="meta")).shape == (2, 4)
    real = model.to_empty(device="cpu")
    real.reset_parameters(generator())
    assert gram_gap(real.subspaces) < 1e-6
    assert find_manifold(real.subspaces).key == Grassmann("exp").key


@pytest.mark.slow
def test_compiles_as_one_graph() -> None:
    model, x = head(), features(5, 7)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-13, atol=0)


def test_projection_on_the_labelled_subspace() -> None:
    model, x, y = head(), features(6, 7), torch.tensor([0, 3, 1, 1, 2, 3])
    got = model.project(x, y)
    for b in range(6):
        s = model.subspaces[y[b]].detach()
        torch.testing.assert_close(got[b].detach(), s @ s.T @ x[b], rtol=0, atol=1e-14)
    logits = model(x)[torch.arange(6), y]
    torch.testing.assert_close(25.0 * got.norm(dim=-1) / x.norm(dim=-1), logits, rtol=1e-12, atol=0)
    assert model.project(x[:0], y[:0]).shape == (0, 7)


def test_projection_by_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from holonomy.models.representation import grassmann_class

    model, x, y = head(), features(6, 7), torch.tensor([0, 3, 1, 1, 2, 3])
    whole, angles = model.project(x, y), model.principal_angles()
    z = intra_class_angle(x, y)
    monkeypatch.setattr(grassmann_class, "_BLOCK", 30)
    torch.testing.assert_close(model.project(x, y), whole, rtol=0, atol=1e-15)
    torch.testing.assert_close(model.principal_angles(), angles, rtol=0, atol=1e-15)
    assert intra_class_angle(x, y) == pytest.approx(z, abs=1e-12)


def test_principal_angles_are_scipys() -> None:
    model = head()
    angles = model.principal_angles()
    assert angles.shape == (4, 4, 3)
    assert torch.equal(angles, angles.transpose(0, 1))
    assert not angles[torch.arange(4), torch.arange(4)].any()
    first, second = (model.subspaces[c].detach().numpy() for c in (1, 3))
    np.testing.assert_allclose(angles[1, 3], scipy.linalg.subspace_angles(first, second)[::-1], atol=1e-13)


def test_conversion_of_a_linear_head() -> None:
    body = nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.ReLU(), nn.Linear(7, 4)))
    weight = body[1][1].weight.detach().clone()
    made = convert_linear_head(body, "1.1", 3, gamma=9.0, generator=generator())
    assert body[1][1] is made
    assert (made.in_features, made.num_classes, made.subspace_dim, made.gamma) == (7, 4, 3, 9.0)
    assert body(torch.randn(2, 5, generator=generator())).shape == (2, 4)
    kept = nn.Sequential(nn.Linear(7, 4).double().eval())
    kept[0].weight.data.copy_(weight)
    new = convert_linear_head(kept, "0", 3, keep_directions=True, generator=generator())
    assert new.subspaces.dtype == DOUBLE
    assert not new.training
    assert gram_gap(new.subspaces) < 1e-14
    # Each class's own vector lies in its subspace.
    torch.testing.assert_close(
        new(weight.double()).diagonal(), torch.full((4,), 25.0, dtype=DOUBLE), rtol=1e-13, atol=0
    )
    assert float(new(weight.double()).detach().min()) < 24.0


def test_the_cosine_baseline_tells_opposite_features_apart() -> None:
    model, x = CosineClassifier(7, 4, dtype=DOUBLE), features(5, 7)
    wanted = 25.0 * F.cosine_similarity(x[:, None], model.weight[None], dim=-1)
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model(-2.0 * x), -model(x), rtol=1e-12, atol=1e-13)
    assert "num_classes=4" in repr(model)


# -- training ----------------------------------------------------------------------------------------------------------


def batch(model: nn.Module, size: int = 32) -> tuple[Tensor, Tensor]:
    return features(size, 7, seed=3), torch.randint(0, 4, (size,), generator=generator(4))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_training_keeps_bases_orthonormal_and_lowers_the_loss(dtype: torch.dtype, tolerance: float) -> None:
    model = head(dtype=dtype)
    x, y = batch(model)
    optimizer = RiemannianSGD(param_groups(model, 0.1, 0.0), momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x.to(dtype)), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert gram_gap(model.subspaces) < tolerance
    # The labels are random: 32 features of 7 numbers cannot be fitted, but the loss of guessing is well undercut.
    assert losses[-1] < 0.6 * losses[0]


def test_training_does_not_depend_on_the_basis() -> None:
    turn = haar((4, 3, 3), DOUBLE, None, generator(5))
    projectors = []
    for turned in (False, True):
        model = head(gamma=2.0)
        if turned:
            model.subspaces = ManifoldParameter(model.subspaces.detach() @ turn, Grassmann("exp"))
        x, y = batch(model)
        optimizer = RiemannianSGD(param_groups(model, 0.1, 0.0), momentum=0.9)
        for _ in range(12):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        s = model.subspaces.detach()
        projectors.append(s @ s.mT)
    torch.testing.assert_close(*projectors, rtol=0, atol=1e-11)  # twelve steps in float64


def test_groups_decay_the_euclidean_parameters_alone() -> None:
    model = nn.Sequential(nn.Linear(7, 7), head(dtype=torch.float32))
    groups = param_groups(model, 0.5, 0.1, lr_factor=0.2)
    assert [len(g["params"]) for g in groups] == [2, 1]
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.5, 0.1), (0.1, 0.0)]
    weight, bases = model[0].weight.detach().clone(), model[1].subspaces.detach().clone()
    optimizer = RiemannianSGD(groups, momentum=0.9)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), 0.95 * weight)
    # No gradient: nothing but rounding moves a subspace.
    torch.testing.assert_close(model[1].subspaces.detach(), bases, rtol=0, atol=1e-6)
    assert len(param_groups(model[0], 0.1, 0.0)) == len(param_groups(model[1], 0.1, 0.0)) == 1


def test_hybrid_of_adamw_and_geodesic_steps_under_one_scheduler() -> None:
    model = nn.Sequential(nn.Linear(7, 7), head(dtype=torch.float32))
    plain, curved = param_groups(model, 1e-3, 0.05, lr_factor=100.0)
    optimizer = HybridOptimizer(torch.optim.AdamW([plain]), RiemannianSGD([curved], momentum=0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    x, y = batch(model)
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x.float()), y)
        loss.backward()
        optimizer.step()
        schedule.step()
    rates = [g["lr"] for g in optimizer.param_groups]
    assert rates == pytest.approx([5e-4, 5e-2])
    assert rates == [optimizer.euclidean.param_groups[0]["lr"], optimizer.riemannian.param_groups[0]["lr"]]
    assert gram_gap(model[1].subspaces) < 1e-6


# -- measures ----------------------------------------------------------------------------------------------------------


def test_angles_of_known_features() -> None:
    same = features(1, 6).expand(4, 6)
    labels = torch.tensor([0, 0, 1, 1])
    assert intra_class_angle(same, labels) == pytest.approx(0.0, abs=1e-5)
    pairs = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [-3.0, 0.0]])
    assert intra_class_angle(pairs[:2], labels[:2]) == pytest.approx(90.0, abs=1e-5)
    assert intra_class_angle(pairs, labels) == pytest.approx((90.0 + 180.0) / 2, abs=1e-5)
    assert intra_class_angle(pairs, labels, signed=False) == pytest.approx((90.0 + 0.0) / 2, abs=1e-5)
    # A class of one has no pairs.
    assert intra_class_angle(pairs[:3], labels[:3]) == pytest.approx(90.0, abs=1e-5)


def test_measures_against_loops_over_pairs() -> None:
    x = features(12, 5)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    angles, within = [], []
    means = np.zeros((3, 3))
    for c in range(3):
        own = unit[(y == c).numpy()]
        pairs = [(i, j) for i in range(len(own)) for j in range(i)]
        angles.append(np.mean([np.degrees(np.arccos(own[i] @ own[j])) for i, j in pairs]))
        within.append(np.mean([1.0 - a @ b for a in own for b in own]))
        for d in range(3):
            means[c, d] = np.mean([1.0 - a @ b for a in own for b in unit[(y == d).numpy()]])
    assert intra_class_angle(x, y) == pytest.approx(np.mean(angles), rel=1e-12)
    assert class_separation(x, y) == pytest.approx(1.0 - np.mean(within) / means.mean(), rel=1e-12)
    # Lengths do not matter.
    assert class_separation(3.0 * x, y) == pytest.approx(class_separation(x, y), rel=1e-12)


def test_separation_is_one_for_collapsed_classes_and_none_for_equal_ones() -> None:
    y = torch.arange(3).repeat_interleave(4)
    assert class_separation(torch.eye(3, dtype=DOUBLE)[y], y) == pytest.approx(1.0, abs=1e-12)
    x = features(4, 5).repeat(3, 1)
    assert class_separation(x, y) == pytest.approx(0.0, abs=1e-12)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, 4, 0), "'subspace_dim' must be from 1 to in_features = 7, got 0"),
        ((7, 4, 8), "'subspace_dim' must be from 1 to in_features = 7, got 8"),
        ((7, 1, 2), "'num_classes' must be at least 2, got 1"),
        ((0, 4, 2), "'in_features' must be at least 1, got 0"),
        ((7, 4, 2, 0.0), "'gamma' must be positive and finite, got 0.0"),
        ((7, 4, 2, math.inf), "'gamma' must be positive and finite, got inf"),
        ((7, 4, 2, 1.0, 0.0), "'eps' must be positive, got 0.0"),
    ],
)
def test_bad_sizes_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrassmannClassifier(*arguments)


def test_bad_subspaces_are_refused() -> None:
    model = head()
    before = model.subspaces
    good = before.detach().clone()
    for spoil, message in (
        (lambda s: 1.001 * s, r"orthonormal columns, got S\^T S off the identity by 0.002"),
        (lambda s: s.index_fill(0, torch.tensor([1]), math.nan), "must be finite"),
        (lambda s: s[:2], r"must have shape \(4, 7, 3\), got \(2, 7, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.subspaces = ManifoldParameter(spoil(good), Grassmann("exp"))
    assert model.subspaces is before
    with pytest.raises(ValueError, match="orthonormal"):
        model.load_state_dict({"subspaces": 2.0 * good})
    model.subspaces = ManifoldParameter((1.0 + 1e-5) * good, Grassmann("exp"))  # within the tolerance
    with pytest.raises(TypeError):
        model.subspaces = good  # as for every parameter of a module


def test_bad_features_and_labels_are_refused() -> None:
    model, x = head(), features(3, 7)
    with pytest.raises(ValueError, match=r"features must have shape \(..., 7\), got \(3, 6\)"):
        model(x[:, :6])
    with pytest.raises(TypeError, match=r"floating dtype, got torch\.int64"):
        model(torch.ones(3, 7, dtype=torch.int64))
    for y in (torch.tensor([0, 1, 4]), torch.tensor([0, 1, -1])):
        with pytest.raises(ValueError, match="labels 'y' must be from 0 to 3"):
            model.project(x, y)
    with pytest.raises(TypeError, match=r"labels must have an integer dtype, got torch\.float32"):
        model.project(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"got \(3, 7\) and \(2,\)"):
        model.project(x, torch.tensor([0, 1]))


@pytest.mark.parametrize("measure", [intra_class_angle, class_separation])
def test_bad_measurements_are_refused(measure: Any) -> None:
    x, y = features(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(TypeError, match=r"floating dtype, got torch\.int64"):
        measure(torch.ones(4, 3, dtype=torch.int64), y)
    with pytest.raises(TypeError, match="labels must have an integer dtype"):
        measure(x, y.double())
    with pytest.raises(ValueError, match="finite and none of them 0"):
        measure(x.index_fill(0, torch.tensor([2]), 0.0), y)
    with pytest.raises(ValueError, match="finite and none of them 0"):
        measure(x.index_fill(0, torch.tensor([2]), math.nan), y)
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(3,\)"):
        measure(x, y[:3])
    with pytest.raises(ValueError, match="must not be empty"):
        measure(x[:0], y[:0])


def test_measurements_without_pairs_or_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="a class with at least 2 features, got none"):
        intra_class_angle(features(3, 4), torch.arange(3))
    with pytest.raises(ValueError, match="must not all have one direction"):
        class_separation(features(1, 4).expand(3, 4), torch.arange(3))


def test_bad_groups_and_heads_are_refused() -> None:
    model = nn.Sequential(nn.Linear(7, 4), nn.ReLU())
    for arguments, message in (
        ((-1.0, 0.0), "'lr' must be at least 0, got -1.0"),
        ((0.1, -1.0), "'weight_decay' must be at least 0, got -1.0"),
        ((0.1, 0.0, 0.0), "'lr_factor' must be positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            param_groups(model, *arguments)
    with pytest.raises(ValueError, match="'name' must be that of a module of the model, got 'head'"):
        convert_linear_head(model, "head")
    with pytest.raises(ValueError, match="got ''"):
        convert_linear_head(model[0], "")
    with pytest.raises(TypeError, match=r"'1' must be an nn\.Linear, got ReLU"):
        convert_linear_head(model, "1")

"""Nested heads and losses against plain ones, gradients by coordinate, cascades and shortlists against brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holonomy.models.representation.matryoshka import (
    AdaptiveClassifier,
    MatryoshkaContrastive,
    MatryoshkaEncoder,
    MatryoshkaLinear,
    MatryoshkaLoss,
    adaptive_retrieval,
    default_nesting,
    funnel_retrieval,
    nested_rotation,
    retrieval_flops,
    truncate,
)
from holonomy.models.representation.retrieval import nearest_cosine

F64 = torch.float64


def draw(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_nestings_are_the_papers() -> None:
    assert default_nesting(2048) == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert default_nesting(768, 12) == [12, 24, 48, 96, 192, 384, 768]
    assert default_nesting(10, 3) == [5, 10]
    assert default_nesting(5, 5) == [5]


def test_prefixes_are_of_length_one_and_not_parts_of_a_unit_vector() -> None:
    z = draw(4, 3, 8)
    short = truncate(z, 3)
    torch.testing.assert_close(short.norm(dim=-1), torch.ones(4, 3, dtype=F64))
    assert not torch.allclose(short, F.normalize(z, dim=-1)[..., :3])
    assert torch.equal(truncate(z, 3, normalize=False), z[..., :3])
    assert torch.equal(truncate(torch.zeros(2, 5), 2), torch.zeros(2, 2))


def test_one_size_is_a_linear_layer_with_cross_entropy() -> None:
    torch.manual_seed(0)
    head, z, y = MatryoshkaLinear(6, 4, [6]).double(), draw(9, 6), torch.arange(9) % 4
    plain = nn.Linear(6, 4).double()
    plain.load_state_dict(head.heads[0].state_dict())
    assert torch.equal(MatryoshkaLoss()(head(z), y), F.cross_entropy(plain(z), y))


@pytest.mark.parametrize("bias", [True, False])
def test_efficient_heads_share_one_weight(bias: bool) -> None:
    torch.manual_seed(0)
    head, z = MatryoshkaLinear(8, 5, [2, 4, 8], efficient=True, bias=bias).double(), draw(7, 8)
    weight, shift = head.heads[0].weight, head.heads[0].bias if bias else 0.0
    for m, logits in zip(head.nesting, head(z), strict=True):
        torch.testing.assert_close(logits, z[:, :m] @ weight[:, :m].T + shift)
    torch.testing.assert_close(head(z)[-1], head.heads[0](z))
    assert sum(p.numel() for p in head.parameters()) == 5 * 8 + (5 if bias else 0)
    separate = MatryoshkaLinear(8, 5, [2, 4, 8], bias=bias)
    assert sum(p.numel() for p in separate.parameters()) == 5 * (2 + 4 + 8) + (3 * 5 if bias else 0)


def test_loss_is_the_weighted_sum() -> None:
    y = torch.arange(9) % 4
    logits = [draw(9, 4, seed=i).float() for i in range(3)]
    each = [F.cross_entropy(part, y) for part in logits]
    torch.testing.assert_close(MatryoshkaLoss()(logits, y), each[0] + each[1] + each[2])
    for weights in ([2.0, 0.0, 0.5], torch.tensor([2.0, 0.0, 0.5])):
        loss = MatryoshkaLoss(relative_importance=weights)
        torch.testing.assert_close(loss(logits, y), 2.0 * each[0] + 0.5 * each[2])
        assert loss(logits, y).dtype == torch.float32
        assert loss([part.double() for part in logits], y).dtype == F64
        assert "relative_importance" in loss.state_dict()
    smooth = MatryoshkaLoss(nn.CrossEntropyLoss(label_smoothing=0.1))
    torch.testing.assert_close(smooth(logits, y), sum(F.cross_entropy(p, y, label_smoothing=0.1) for p in logits))


@pytest.mark.parametrize("efficient", [False, True])
def test_coordinates_take_gradients_of_larger_sizes_alone(efficient: bool) -> None:
    torch.manual_seed(0)
    head, y = MatryoshkaLinear(8, 5, [2, 4, 8], efficient=efficient).double(), torch.arange(7) % 5
    for weights, first_zero in (([1.0, 0.0, 0.0], 2), ([0.0, 1.0, 0.0], 4)):
        z = draw(7, 8).requires_grad_()
        MatryoshkaLoss(relative_importance=weights)(head(z), y).backward()
        assert float(z.grad[:, :first_zero].abs().min()) > 0.0
        assert float(z.grad[:, first_zero:].abs().max()) == 0.0


def test_contrastive_loss_is_the_sum_over_unit_prefixes() -> None:
    a, b = draw(6, 8), draw(6, 8, seed=1)

    def clip(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.2
        target = torch.arange(6)
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))

    each = [clip(a[:, :m], b[:, :m]) for m in (2, 4, 8)]
    torch.testing.assert_close(MatryoshkaContrastive([2, 4, 8], 0.2)(a, b), each[0] + each[1] + each[2])
    weighted = MatryoshkaContrastive([2, 4, 8], 0.2, [2.0, 0.0, 1.0])(a, b)
    torch.testing.assert_close(weighted, 2.0 * each[0] + each[2])
    assert torch.autograd.gradcheck(MatryoshkaContrastive([2, 4, 8], 0.2), (a.requires_grad_(), b))


def test_encoder_gives_any_size_and_warns_of_what_mixes_coordinates() -> None:
    torch.manual_seed(0)
    encoder, x = MatryoshkaEncoder(nn.Linear(5, 8), [2, 4, 8]), torch.randn(3, 5)
    torch.testing.assert_close(encoder.encode(x, 3), truncate(encoder(x), 3))
    assert encoder.encode(x, normalize=False).shape == (3, 8)
    with pytest.warns(UserWarning, match="mixes all coordinates"):
        MatryoshkaEncoder(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)), [4, 8])


def test_rotation_keeps_inner_products_and_orders_what_is_held() -> None:
    for n in (40, 5):
        z = draw(n, 8) * torch.linspace(0.2, 3.0, 8, dtype=F64)
        q = nested_rotation(z)
        torch.testing.assert_close(q.T @ q, torch.eye(8, dtype=F64), rtol=0, atol=1e-12)
        torch.testing.assert_close((z @ q) @ (z @ q).T, z @ z.T, rtol=0, atol=1e-10)
        held = (z @ q).square().sum(0)
        assert bool((held.diff() <= 1e-9).all())
        # By Eckart and Young no other d coordinates hold more.
        other = torch.linalg.qr(draw(8, 8, seed=3))[0]
        assert float(held[:3].sum()) >= float((z @ other)[:, :3].square().sum())


def cascade_logits() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Small sizes that are right where they are sure, large ones nearly always."""
    y = torch.randint(4, (600,), generator=torch.Generator().manual_seed(0))
    # A one-hot vector times a, seen through unit noise, has a times what is seen as its calibrated logits.
    return [a * (a * F.one_hot(y, 4) + draw(600, 4, seed=i)) for i, a in enumerate((1.5, 2.5, 4.0))], y


def test_cascade_stops_at_its_thresholds() -> None:
    logits, _ = cascade_logits()
    labels, used = AdaptiveClassifier([2, 4, 8], [0.9, 0.8]).predict(logits)
    for i in range(600):
        for part, m, t in zip(logits, (2, 4, 8), (0.9, 0.8, 0.0), strict=True):
            p = torch.softmax(part[i], 0)
            if float(p.max()) >= t:
                assert int(used[i]) == m
                assert int(labels[i]) == int(p.argmax())
                break
    at_once = AdaptiveClassifier([2, 4, 8], [0.0, 0.0]).predict(logits)
    assert set(at_once[1].tolist()) == {2}
    never = AdaptiveClassifier([2, 4, 8], [1.1, 1.1]).predict(logits)
    assert set(never[1].tolist()) == {8}
    assert torch.equal(never[0], logits[-1].argmax(1))


def test_fitted_cascade_is_no_worse_than_the_largest_and_uses_less() -> None:
    logits, y = cascade_logits()
    model = AdaptiveClassifier([2, 4, 8]).fit(logits, y)
    labels, used = model.predict(logits)
    assert float((labels == y).double().mean()) >= float((logits[-1].argmax(1) == y).double().mean())
    assert float(used.double().mean()) < 7.0
    cheaper = AdaptiveClassifier([2, 4, 8]).fit(logits, y, tolerance=0.02).predict(logits)
    assert float(cheaper[1].double().mean()) < float(used.double().mean())
    assert float((cheaper[0] == y).double().mean()) >= float((labels == y).double().mean()) - 0.04  # of two stages
    # No grid of pairs does better by more than the order of choice can lose.
    grid = np.linspace(0.0, 1.0, 11)
    best = max(
        float((AdaptiveClassifier([2, 4, 8], [a, b]).predict(logits)[0] == y).double().mean())
        for a in grid
        for b in grid
    )
    assert float((labels == y).double().mean()) >= best - 0.01


def test_shortlists_that_leave_nothing_out_are_exact() -> None:
    queries, index = draw(20, 16), draw(300, 16, seed=1)
    exact = nearest_cosine(queries, index, 5)
    assert torch.equal(adaptive_retrieval(queries, index, 4, 16, 5, 300), exact)
    assert torch.equal(adaptive_retrieval(queries, index, 16, 16, 5, 50, block=7), exact)
    assert torch.equal(funnel_retrieval(queries, index, [2, 8, 16], [300, 300, 5]), exact)
    with pytest.warns(UserWarning, match="all 300 rows"):
        assert torch.equal(adaptive_retrieval(queries, index, 4, 16, 5, 1000), exact)


def test_shortlists_are_those_of_the_prefixes() -> None:
    queries, index = draw(20, 16), draw(300, 16, seed=1)
    found = funnel_retrieval(queries, index, [4, 8, 16], [40, 20, 5], block=6)
    for q, rows in zip(queries, found, strict=True):
        left = torch.arange(300)
        for m, count in ((4, 40), (8, 20), (16, 5)):
            cosines = F.normalize(index[left, :m], dim=1) @ F.normalize(q[:m], dim=0)
            left = left[cosines.argsort(descending=True)[:count]]
        assert torch.equal(rows, left)


def test_multiply_adds_are_counted_by_stage() -> None:
    assert retrieval_flops(1000, [64], [10]) == 64_000
    assert retrieval_flops(1000, [8, 64], [200, 10]) == 8000 + 200 * 64
    assert retrieval_flops(100, [8, 16, 64], [200, 50, 10]) == 800 + 100 * 16 + 50 * 64


def test_bad_input_is_refused() -> None:
    z = draw(4, 8)
    for call, text in (
        (lambda: default_nesting(4, 5), "'smallest' must be from 1"),
        (lambda: truncate(z, 9), "'dim' must be from 1 to d = 8"),
        (lambda: MatryoshkaLinear(8, 3, []), "must rise strictly"),
        (lambda: MatryoshkaLinear(8, 3, [4, 4, 8]), "must rise strictly"),
        (lambda: MatryoshkaLinear(8, 3, [0, 8]), "must rise strictly"),
        (lambda: MatryoshkaLinear(8, 3, [4, 16]), "must rise strictly"),
        (lambda: MatryoshkaLinear(8, 3, [2, 4], efficient=True), "wants 8 as last size"),
        (lambda: MatryoshkaLinear(8, 3, [8])(z[:, :4].float()), "wanted width 8"),
        (lambda: MatryoshkaLoss(relative_importance=[1.0, -1.0]), "not negative"),
        (lambda: MatryoshkaLoss(relative_importance=[1.0])([z, z], torch.zeros(4).long()), "wanted 1 logits"),
        (lambda: MatryoshkaContrastive([4], 0.0), "'temperature' must be positive"),
        (lambda: MatryoshkaContrastive([4, 8], relative_importance=[1.0]), "wanted 2 'relative_importance'"),
        (lambda: MatryoshkaContrastive([16])(z, z), "d >= 16"),
        (lambda: AdaptiveClassifier([4, 8], [0.5, 0.5]), "'thresholds' must be 1"),
        (lambda: AdaptiveClassifier([4, 8], [0.5]).predict([z]), "wanted logits"),
        (lambda: AdaptiveClassifier([4, 8]).fit([z, z], torch.zeros(3)), r"'y' must be \(4,\)"),
        (lambda: AdaptiveClassifier([4, 8]).fit([z, z], torch.zeros(4).long(), tolerance=-1.0), "'tolerance'"),
        (lambda: adaptive_retrieval(z, z, 4, 8, 3, 2), "'shortlists'"),
        (lambda: adaptive_retrieval(z, z, 4, 8, 5, 10), "5 rows are wanted, and the index has 4"),
        (lambda: adaptive_retrieval(z, z, 4, 16, 2, 3), "must rise strictly"),
        (lambda: retrieval_flops(10, [4], [1, 2]), "as many dims as shortlists"),
        (lambda: nested_rotation(z[0]), r"finite and \(n, d\)"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="must be classes"):
        MatryoshkaLoss()([z], torch.zeros(4))
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match="no thresholds"):
        AdaptiveClassifier([4, 8]).predict([z, z])

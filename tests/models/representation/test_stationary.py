"""Fixed simplices, the contrastive loss by loops, measures of compatibility by hand, and training task by task."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holonomy.models.representation.stationary import (
    CompatibleTrainer,
    FixedSimplexClassifier,
    HOCLoss,
    average_accuracy,
    average_compatibility,
    compatibility_matrix,
    compatibility_violations,
    simplex_vertices,
)

F64 = torch.float64


def draw(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("k", "dtype", "tolerance"), [(2, F64, 1e-12), (10, F64, 1e-12), (1024, torch.float32, 1e-6)])
def test_vertices_are_those_of_a_regular_simplex(k: int, dtype: torch.dtype, tolerance: float) -> None:
    w = simplex_vertices(k, dtype).double()
    wanted = (1.0 + 1.0 / (k - 1)) * torch.eye(k, dtype=F64) - 1.0 / (k - 1)
    torch.testing.assert_close(w @ w.mT, wanted, rtol=0, atol=tolerance)
    torch.testing.assert_close(w.sum(0), torch.zeros(k - 1, dtype=F64), rtol=0, atol=tolerance * k)  # of k roundings
    if k < 100:
        assert int(torch.linalg.matrix_rank(w)) == k - 1


def test_small_simplices() -> None:
    assert sorted(simplex_vertices(2).flatten().tolist()) == [-1.0, 1.0]
    w = simplex_vertices(3, F64)
    assert math.degrees(math.acos(float(w[0] @ w[1]))) == pytest.approx(120.0)


def test_weights_are_a_buffer_that_training_does_not_move() -> None:
    head = FixedSimplexClassifier(6, in_features=9)
    before = head.weight.clone()
    assert [name for name, _ in head.named_parameters()] == ["embed.weight"]
    assert {"weight", "class_map"} <= set(head.state_dict())
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    F.cross_entropy(head(torch.randn(4, 9))["logits"], head.assign(torch.tensor([0, 1, 2, 5]))).backward()
    optimizer.step()
    assert torch.equal(head.weight, before)
    assert not head.weight.requires_grad
    assert head.double().weight.dtype == F64
    assert list(FixedSimplexClassifier(6).parameters()) == []
    assert list(FixedSimplexClassifier(6, 5).parameters()) == []


def test_logits_are_over_all_vertices_and_features_are_as_they_are() -> None:
    head = FixedSimplexClassifier(6, class_map=[4, 0, 2]).double()
    z, y = 3.0 * draw(7, 5), torch.arange(7) % 3
    found = head(z)
    assert torch.equal(found["features"], z)
    w = simplex_vertices(6, F64)
    places = torch.tensor([4, 0, 2])[y]
    # The buffer is the float32 simplex, made double.
    torch.testing.assert_close(found["logits"], z @ w.mT, rtol=0, atol=1e-5)
    loss = F.cross_entropy(found["logits"], head.assign(y))
    torch.testing.assert_close(loss, F.cross_entropy(z @ w.mT, places), rtol=0, atol=1e-5)


@pytest.mark.parametrize("same_class", ["zero", "exclude"])
def test_contrastive_loss_is_that_of_loops(same_class) -> None:
    new, old, y = draw(8, 5), draw(8, 5, seed=1), torch.tensor([0, 1, 0, 2, 1, 0, 3, 3])
    u, v = F.normalize(old, dim=1), F.normalize(new, dim=1)
    total = 0.0
    for n in range(8):
        terms = []
        for m in range(8):
            s = 4.0 * float(u[n] @ v[m])
            if y[n] != y[m]:
                terms.append(math.exp(s))
            elif same_class == "zero":
                terms.append(1.0)
            elif n == m:
                terms.append(math.exp(s))
        total += -4.0 * float(u[n] @ v[n]) + math.log(sum(terms))
    found = HOCLoss(4.0, 0.0, same_class).contrastive(new, old, y)
    assert float(found) == pytest.approx(total / 8)


def test_loss_is_the_convex_combination() -> None:
    logits, new, old, y = draw(6, 9), draw(6, 5), draw(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 5])
    entropy = F.cross_entropy(logits, y)
    torch.testing.assert_close(HOCLoss(lam=1.0)(logits, new, old, y), entropy)
    only = HOCLoss(lam=0.0)(logits, new, old, y)
    torch.testing.assert_close(HOCLoss(lam=0.1)(logits, new, old, y), 0.1 * entropy + 0.9 * only)
    # With labels that all differ nothing is left out, and it is InfoNCE.
    info = F.cross_entropy(10.0 * F.normalize(old, dim=1) @ F.normalize(new, dim=1).mT, torch.arange(6))
    torch.testing.assert_close(HOCLoss(lam=0.0, same_class="exclude")(logits, new, old, y), info)


def test_gradients_go_to_the_new_features_alone() -> None:
    new, old, y = draw(5, 4).requires_grad_(), draw(5, 4, seed=1).requires_grad_(), torch.tensor([0, 1, 0, 2, 1])
    HOCLoss().contrastive(new, old, y).backward()
    assert old.grad is None
    assert float(new.grad.abs().min()) > 0.0
    for same_class in ("zero", "exclude"):
        loss = HOCLoss(same_class=same_class)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda f, loss=loss: loss.contrastive(f, old.detach(), y), (new,))


def test_features_that_stay_have_less_loss_than_permuted_ones() -> None:
    w = simplex_vertices(5, F64)
    y = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    stay = HOCLoss().contrastive(w[y], w[y], y)
    moved = HOCLoss().contrastive(w[(y + 1) % 5], w[y], y)
    assert float(stay) < float(moved) - 5.0


def test_measures_by_hand() -> None:
    better = [[0.5, 0.0, 0.0], [0.6, 0.7, 0.0], [0.55, 0.8, 0.9]]
    assert average_compatibility(better) == 1.0
    assert average_accuracy(better) == pytest.approx((0.5 + 0.6 + 0.7 + 0.55 + 0.8 + 0.9) / 6)
    assert average_compatibility(np.full((3, 3), 0.5)) == 0.0  # strictly better is asked for
    assert average_compatibility([[0.5, 0.9], [0.4, 0.9]]) == 0.0
    assert average_compatibility([[0.3]]) == 1.0


def test_violations_by_loops_and_none_of_a_model_with_itself() -> None:
    new, old, y = draw(9, 4), draw(9, 4, seed=1), torch.arange(9) % 3
    assert compatibility_violations(old, old, y) == (0.0, 0.0)
    counts, totals = [0, 0], [0, 0]
    for i in range(9):
        for j in range(9):
            if i == j:
                continue
            ahead, before = (1.0 - float(F.cosine_similarity(f[i], old[j], dim=0)) for f in (new, old))
            kind = 0 if y[i] == y[j] else 1
            totals[kind] += 1
            counts[kind] += ahead > before if kind == 0 else ahead < before
    found = compatibility_violations(new, old, y)
    assert found == pytest.approx((counts[0] / totals[0], counts[1] / totals[1]))


def test_matrix_over_models_that_share_vertices_and_that_do_not() -> None:
    y = torch.arange(30) % 5
    w, turn = simplex_vertices(5, F64), torch.linalg.qr(draw(4, 4))[0]
    inputs = F.one_hot(y).double()

    def stationary(x: torch.Tensor) -> torch.Tensor:
        return 2.0 * x @ w + 0.05 * draw(len(x), 4)

    def other(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": 3.0 * x @ w + 0.05 * draw(len(x), 4, seed=1)}

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x @ w[[1, 2, 3, 4, 0]] @ turn

    for metric in ("template", "1nn"):
        m = compatibility_matrix([stationary, other, turned], (inputs, y), (inputs, y), metric)
        assert (m[:2, :2] == 1.0).all()
        assert m[2, 2] == 1.0
        assert m[2, 0] < 0.7
    # Templates are means of unit features: one long feature does not outweigh the others.
    scaled = compatibility_matrix(
        [lambda x: stationary(x) * (1 + 99 * (torch.arange(30) < 5))[:, None]], (inputs, y), (inputs, y)
    )
    assert scaled[0, 0] == 1.0


class Model(nn.Module):
    """A linear backbone and a fixed simplex."""

    def __init__(self, k: int = 8, class_map: list[int] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = FixedSimplexClassifier(k, 16, class_map)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.head(self.backbone(x))


def samples(classes: list[int], count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    centres = 2.0 * torch.randn(8, 6, generator=torch.Generator().manual_seed(5))
    y = torch.tensor(classes)[torch.arange(count) % len(classes)]
    return centres[y] + 0.3 * torch.randn(count, 6, generator=torch.Generator().manual_seed(6)), y


def test_tasks_are_learned_remembered_and_frozen() -> None:
    model = Model()
    trainer = CompatibleTrainer(model, model.head, HOCLoss(), memory_per_class=4, batch_size=20, lr=0.1)
    first = trainer.fit_task(*samples([0, 1, 2]), epochs=15)
    assert first[-1] < 0.5 * first[0]
    assert trainer.previous is not None
    frozen = {name: value.clone() for name, value in trainer.previous.state_dict().items()}
    assert not any(p.requires_grad for p in trainer.previous.parameters())
    assert not trainer.previous.training
    assert sorted(trainer.memory[1].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    previous = trainer.previous
    trainer.fit_task(*samples([3, 4]), epochs=30)
    assert all(torch.equal(value, frozen[name]) for name, value in previous.state_dict().items())
    assert sorted(set(trainer.memory[1].tolist())) == [0, 1, 2, 3, 4]
    x, y = samples([0, 1, 2, 3, 4])
    found = model.eval()(x)["logits"].argmax(1)
    assert float((found == model.head.assign(y)).float().mean()) > 0.9  # the old classes are kept by the memory


def test_training_repeats_with_its_seed() -> None:
    states = []
    for _ in range(2):
        model = Model()
        trainer = CompatibleTrainer(model, model.head, HOCLoss(), batch_size=20, lr=0.1, seed=3)
        for classes in ([0, 1], [2, 3]):
            trainer.fit_task(*samples(classes), epochs=2)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_replacement_takes_a_model_of_the_same_interface_alone() -> None:
    model = Model()
    trainer = CompatibleTrainer(model, model.head, HOCLoss(), batch_size=20, lr=0.1)
    trainer.fit_task(*samples([0, 1]), epochs=1)
    better = Model()
    with torch.no_grad():
        better.backbone[0].weight.add_(1.0)
    trainer.replace_model(better.state_dict())
    assert torch.equal(model.backbone[0].weight, better.backbone[0].weight)
    assert torch.equal(trainer.previous.backbone[0].weight, better.backbone[0].weight)
    for other in (Model(9), Model(8, [1, 0, 2, 3, 4, 5, 6, 7])):
        with pytest.raises(ValueError, match="would not be comparable"):
            trainer.replace_model(other.state_dict())


def test_bad_input_is_refused() -> None:
    f, y = draw(4, 3), torch.tensor([0, 1, 0, 1])
    head = FixedSimplexClassifier(4, class_map=[0, 2])
    for call, text in (
        (lambda: simplex_vertices(1), "'num_classes' must be at least 2"),
        (lambda: FixedSimplexClassifier(3, class_map=[0, 1, 2, 3]), "4 classes are more than the 3 vertices set aside"),
        (lambda: FixedSimplexClassifier(3, class_map=[0, 0]), "different vertices below 3"),
        (lambda: FixedSimplexClassifier(3, class_map=[0, 3]), "different vertices below 3"),
        (lambda: head.assign(torch.tensor([2])), "labels must be from 0 to 1"),
        (lambda: head.assign(torch.tensor([-1])), "labels must be from 0 to 1"),
        (lambda: HOCLoss(mu=0.0), "mu > 0"),
        (lambda: HOCLoss(lam=1.5), "lam from 0 to 1"),
        (lambda: HOCLoss(same_class="none"), "'same_class' must be"),  # type: ignore[arg-type]
        (lambda: HOCLoss().contrastive(f, f[:3], y), "new and old features"),
        (lambda: HOCLoss()(draw(4, 5), f, f, y[:3]), "a target for each of 4 logits"),
        (lambda: average_compatibility(np.zeros((2, 3))), "square and finite"),
        (lambda: average_accuracy([[math.nan]]), "square and finite"),
        (lambda: compatibility_violations(f, f[:, :2], y), "two of features"),
        (lambda: compatibility_matrix([], (f, y), (f, y)), "wanted models"),
        (lambda: CompatibleTrainer(Model(), None, None, memory_per_class=0), "memory_per_class >= 1"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="labels must be integers"):
        head.assign(torch.tensor([0.0]))
    with pytest.raises(TypeError, match="targets must be integers"):
        HOCLoss().contrastive(f, f, y.double())

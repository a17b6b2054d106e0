"""The layer: what the functions give, blocks, gradients, training through it, state and moves."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from holonomy.manifolds.kernels.simplex import project_simplex
from holonomy.models.adaptation.loki import (
    Grid,
    LokiHead,
    Tree,
    expected_squared_distance,
    frechet_predict,
    frechet_scores,
    grid_metric,
    loki_polytope,
    loki_smooth,
    loki_straight_through,
    temper,
)

RNG = np.random.default_rng(0)
D = grid_metric((5, 6))
OBSERVED = [0, 5, 24, 29, 13]


def logits(rows: int = 40, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 2.0 * torch.randn(rows, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_head_is_the_rule_of_softmax_and_of_probabilities(T: float, p: float) -> None:
    x = logits()
    P = (x / T).softmax(1)
    wanted = frechet_predict(P.numpy(), D, p, OBSERVED)  # the path through numpy
    for distances, observed in ((D, OBSERVED), (torch.from_numpy(D)[OBSERVED], None), (Grid((5, 6)), OBSERVED)):
        head = LokiHead(distances, observed, p, T)
        assert float((head(x) - frechet_scores(P, D, p, OBSERVED)).abs().max()) < 1e-12
        assert torch.equal(head.predict(x), wanted)
        probs = LokiHead(distances, observed, p, T, inputs="probs")
        assert torch.equal(probs.predict(x.softmax(1)), wanted)
        assert float((probs(x.softmax(1)) - head(x)).abs().max()) < 1e-12
    assert torch.equal(temper(x.softmax(1), T).argmax(1), P.argmax(1))


def test_raw_logits_are_no_weights() -> None:
    x = logits()
    with pytest.raises(ValueError, match="must not be negative"):
        LokiHead(D, OBSERVED, inputs="probs").predict(x)
    assert not torch.equal((x @ torch.from_numpy(D[OBSERVED]) ** 2).argmin(1), LokiHead(D, OBSERVED).predict(x))


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_blocks_change_nothing(chunk: int) -> None:
    x = logits(200)
    head, whole = LokiHead(D, OBSERVED, chunk_size=chunk), LokiHead(D, OBSERVED)
    assert torch.equal(head.predict(x), whole.predict(x))
    by_function = LokiHead(lambda low, high: D[OBSERVED][:, low:high], chunk_size=chunk, n_labels=30, n_observed=5)
    assert torch.equal(by_function.predict(x), whole.predict(x))
    assert torch.equal(by_function(x), whole(x))


@pytest.mark.parametrize(
    "metric", [D, Grid((5, 6)), Tree([(v // 2, v) for v in range(1, 30)])], ids=["array", "grid", "tree"]
)
def test_scores_and_smooth_choices_have_right_gradients(metric: object) -> None:
    head = LokiHead(metric, OBSERVED)  # type: ignore[arg-type]
    x = logits(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loki_smooth(head(x), 2.0), (x,))
    assert torch.autograd.gradgradcheck(lambda x: loki_smooth(head(x), 2.0)[:, :6], (x,))


def test_straight_through_and_polytope_by_their_formulas() -> None:
    S = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    g = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for choose in (loki_straight_through, lambda S: loki_polytope(S, 0.3)):
        z = choose(S)
        assert torch.equal(z.argmax(1), S.argmax(1))
        assert torch.equal(z.detach().sort(1).values, torch.eye(9, dtype=torch.float64)[[8] * 6])
    (grad,) = torch.autograd.grad(loki_straight_through(S), S, g)
    assert torch.equal(grad, g)
    z = loki_polytope(S, 0.3)
    (grad,) = torch.autograd.grad(z, S, g)
    assert torch.equal(grad, z.detach() - project_simplex(z.detach() - 0.3 * g))
    # The projection by bisection on what is taken off.
    v = (z.detach() - 0.3 * g).numpy()
    for row, own in zip(v, (z.detach() - grad).numpy(), strict=True):
        low, high = row.min() - 1.0, row.max()
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if np.maximum(row - middle, 0).sum() > 1.0 else (low, middle)
        assert np.abs(own - np.maximum(row - low, 0)).max() < 1e-14
    # A gradient that points out of the polytope at the vertex moves nothing.
    outward = -torch.nn.functional.one_hot(S.argmax(1), 9).double()
    assert float(torch.autograd.grad(loki_polytope(S), S, outward)[0].abs().max()) == 0.0


@pytest.mark.parametrize("way", ["smooth", "straight through", "polytope"])
def test_training_through_the_head_lowers_the_distance(way: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    y = ((x[:, 0] > 0).long() * 3 + (x[:, 1] > 0).long() * 12 + 7).clamp(max=29)
    model = torch.nn.Linear(2, 5)
    head = LokiHead(torch.from_numpy(D).float(), OBSERVED)
    rows = torch.from_numpy(D).float().square()[y]
    before = expected_squared_distance(y, head.predict(model(x)), D)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    choose = {"smooth": loki_smooth, "straight through": loki_straight_through, "polytope": loki_polytope}[way]
    for _ in range(150):
        optimizer.zero_grad()
        (choose(head(model(x))) * rows).sum(1).mean().backward()
        optimizer.step()
    assert expected_squared_distance(y, head.predict(model(x)), D) < 0.5 * before


def test_state_holds_the_block_and_dtypes_follow() -> None:
    head = LokiHead(D, OBSERVED, p=1)
    assert head.state_dict()["distances"].shape == (5, 30)
    other = LokiHead(np.ones((5, 30)), p=1)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.predict(logits()), head.predict(logits()))
    assert head.float()(logits(dtype=torch.float32)).dtype == torch.float32
    assert head.half()(logits(dtype=torch.float16)).dtype == torch.float32
    assert "5 -> 30" in repr(head)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), LokiHead(D, OBSERVED)).double()
    loss = cross_entropy(model(torch.randn(4, 3, dtype=torch.float64)), torch.tensor([1, 2, 3, 29]))
    loss.backward()
    assert bool(torch.isfinite(model[0].weight.grad).all())


def test_head_compiles() -> None:
    head = LokiHead(torch.from_numpy(D).float(), OBSERVED)
    x = logits(dtype=torch.float32)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), head(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "'temperature' must be a positive"),
        ({"p": -1}, "'p' must be a positive"),
        ({"inputs": "scores"}, "'inputs' must be"),
        ({"chunk_size": 0}, "'chunk_size'"),
        ({"observed": [0, 30]}, r"0\.\.29, got 30"),
        ({"distances": -D}, "must not be negative"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LokiHead(**({"distances": D, "observed": OBSERVED} | change))


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits must be floating \(B, 5\)"):
        LokiHead(D, OBSERVED)(torch.randn(3, 6))
    with pytest.raises(TypeError, match="'scores' must be floating"):
        loki_straight_through(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"wanted \(B, N\)"):
        loki_polytope(torch.ones(3))
    with pytest.raises(ValueError, match="'eta' must be a positive"):
        loki_polytope(torch.ones(2, 3), 0.0)
    with pytest.raises(ValueError, match="'temperature' must be a positive"):
        loki_smooth(torch.ones(2, 3), 0.0)

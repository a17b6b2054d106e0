"""Network and estimator: copied heads, aggregation, both stages, determinism, refusals."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from holonomy.models.clustering.coding_rate import MLCLoss, TotalCodingRateLoss
from holonomy.models.clustering.manifold_linearizing import (
    ManifoldLinearizingClustering,
    MLCNet,
    aggregate,
    embed,
    initialise,
    linearize,
)
from holonomy.models.clustering.metrics import clustering_accuracy


def shake(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def arcs(n: int = 40) -> tuple[Tensor, np.ndarray]:
    """Arcs of three circles in R^6, each in a plane of its own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(3 * n, 6)
    for k in range(3):
        angle = 1.2 * torch.rand(n, generator=generator)
        x[k * n : (k + 1) * n, 2 * k] = angle.cos()
        x[k * n : (k + 1) * n, 2 * k + 1] = angle.sin()
    return x, np.repeat(np.arange(3), n)


def network(seed: int = 0, **options: object) -> MLCNet:
    torch.manual_seed(seed)
    return MLCNet(nn.Sequential(nn.Linear(6, 16), nn.ReLU()), 16, 8, 12, **options)


def model(**changes: object) -> ManifoldLinearizingClustering:
    settings: dict = {"d": 8, "eta": 0.15, "augment": shake, "init_epochs": 8, "epochs": 4, "batch_size": 120}
    settings |= {"init_batch_size": 60, "n_hidden": 16, "lr": 1e-3, "eps": 0.5**0.5}
    torch.manual_seed(0)
    return ManifoldLinearizingClustering(3, nn.Sequential(nn.Linear(6, 16), nn.ReLU()), **(settings | changes))


def test_copied_heads_agree_everywhere_until_training_parts_them() -> None:
    net, (x, _) = network(), arcs()
    assert not torch.equal(*net(x))
    net.copy_feature_head_to_cluster_head()
    assert torch.equal(*net(x))
    assert torch.equal(*net(torch.randn(9, 6)))
    history = linearize(
        net, x, augment=shake, loss=MLCLoss(0.7), epochs=2, batch_size=60, lr=1e-2, generator=torch.Generator()
    )
    z, c = net(x)
    assert float((z - c).detach().abs().max()) > 1e-3
    assert min(history["feature gradient"]) > 0.0
    assert min(history["cluster gradient"]) > 0.0


@pytest.mark.parametrize("options", [{}, {"abs_kernel": True}, {"implicit": True}])
def test_membership_and_features_lie_where_they_should(options: dict) -> None:
    net, (x, _) = network(eta=0.2, **options), arcs()
    z, c = net(x)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(120))
    torch.testing.assert_close(c.norm(dim=1), torch.ones(120))
    views = [net(shake(x, torch.Generator().manual_seed(seed))) for seed in range(3)]
    joint, gamma = aggregate([z for z, _ in views], [net.project(c) for _, c in views])
    torch.testing.assert_close(joint.norm(dim=1), torch.ones(120))
    for sums in (gamma.sum(0), gamma.sum(1), net.membership(x).sum(0)):
        torch.testing.assert_close(sums, torch.ones(120), rtol=0.0, atol=2e-6)  # tolerance of the projection: 1e-6
    assert torch.equal(gamma, gamma.mT)
    assert float(gamma.detach().min()) >= 0.0


def test_both_gradients_train_alike() -> None:
    x, _ = arcs()
    losses = []
    for implicit in (False, True):
        net = network(implicit=implicit)
        value, _ = MLCLoss(0.7)(net(x)[0], net.membership(x))
        value.backward()
        losses.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4 * float(losses[0].abs().max()))


def test_first_stage_spreads_features_and_leaves_the_cluster_head() -> None:
    net, (x, _) = network(), arcs()
    before = copy.deepcopy(net.cluster_head.state_dict())
    history = initialise(
        net,
        x,
        augment=shake,
        loss=TotalCodingRateLoss(0.7, 5.0),
        epochs=10,
        batch_size=60,
        lr=3e-3,
        generator=torch.Generator().manual_seed(0),
    )
    assert history["loss"][-1] < history["loss"][0] - 0.5
    assert all(torch.equal(value, before[name]) for name, value in net.cluster_head.state_dict().items())


def test_arcs_are_found_and_the_rate_of_groups_falls() -> None:
    x, y = arcs()
    fitted = model()
    labels = fitted.fit_predict(x)
    assert clustering_accuracy(y, labels) >= 0.95  # all but a few of 120, at the ends of arcs
    history = fitted.history_
    assert {len(history[name]) for name in ("R", "R_c", "objective", "rank")} == {4}
    assert history["objective"][-1] > history["objective"][0]
    assert fitted.embedding_.shape == (120, 8)
    assert fitted.membership_.shape == (120, 120)
    torch.testing.assert_close(fitted.membership_.sum(1), torch.ones(120), rtol=0.0, atol=1e-4)
    assert torch.equal(fitted.transform(x), fitted.embedding_)
    assert torch.equal(fitted.transform(x.numpy()), embed(fitted.net_, x)[0])


def test_one_seed_gives_one_result_and_leaves_the_callers_numbers() -> None:
    x, _ = arcs()
    shared = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
    weights = shared[0].weight.detach().clone()
    state = torch.random.get_rng_state()
    runs = [model(random_state=seed).set_params(backbone=shared) for seed in (0, 0, 1)]
    torch.random.set_rng_state(state)
    first, again, other = (run.fit(x).embedding_ for run in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(weights, shared[0].weight)  # a copy is trained
    assert torch.equal(state, torch.random.get_rng_state())


def test_parameters_by_name() -> None:
    fitted = model(eta=0.3)
    assert fitted.get_params()["eta"] == 0.3
    again = ManifoldLinearizingClustering(**fitted.get_params())
    assert again.get_params() == fitted.get_params()
    with pytest.raises(ValueError, match=r"parameter must be one of n_clusters, backbone, .*, got 'temperature'"):
        fitted.set_params(temperature=1.0)


def test_bad_input_is_refused() -> None:
    x, _ = arcs()
    with pytest.raises(NotFittedError, match=r"call fit\(x\) first"):
        model().transform(x)
    for changes, match in (
        ({"eps": 0.0}, "'eps' must be positive"),
        ({"eta": -1.0}, "'eta' must be positive and finite, got -1"),
        ({"batch_size": 1}, "'batch_size' must be at least 2, got 1"),
        ({"cluster_head": "zero"}, "'cluster_head' must be 'copy' or 'random', got 'zero'"),
        ({"weight": math.nan}, "'weight' must be finite"),
        ({"d": 0}, "'d' must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            model(**changes).fit(x)
    for count in (0, 121):
        with pytest.raises(ValueError, match=f"'n_clusters' must be from 1 to the number of samples, 120, got {count}"):
            model().set_params(n_clusters=count).fit(x)
    with pytest.raises(TypeError, match="'augment' must be a callable"):
        model(augment=None).fit(x)
    with pytest.raises(TypeError, match=r"must be a floating tensor, got torch\.int64"):
        model().fit(x.long())
    with pytest.raises(ValueError, match="of finite values"):
        model().fit(x * math.nan)
    with pytest.raises(ValueError, match="two samples at least"):
        model().fit(x[:1])
    with pytest.raises(ValueError, match=r"'backbone' must give features \(n, m\), got shape"):
        model().set_params(backbone=nn.Unflatten(1, (2, 3))).fit(x)


def test_cosines_of_abs_kernel_do_not_see_signs() -> None:
    net = network(abs_kernel=True)
    c = F.normalize(torch.randn(10, 8), dim=-1)
    sign = torch.tensor([1.0, -1.0]).repeat(5).unsqueeze(-1)
    torch.testing.assert_close(net.project(c), net.project(sign * c))

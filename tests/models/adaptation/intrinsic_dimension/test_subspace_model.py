"""Modules trained in a subspace of their parameters."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holonomy.models.adaptation.intrinsic_dimension import (
    SubspaceConfig,
    SubspaceModel,
    inject_subspace,
    load_intrinsic,
    merge_subspace,
    save_intrinsic,
)

NAMES = ("dense", "sparse", "fastfood", "stiefel")


class Mixed(nn.Module):
    """Convolution, batch and layer norm, an attention layer, and one matrix in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.down = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).flatten(2).mT
        h = self.scale(h + self.attention(h, h, h)[0])
        return self.down(torch.relu(self.up(h))).mean(1)


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(5))


def made(seed: int = 0) -> Mixed:
    torch.manual_seed(seed)
    return Mixed()


@pytest.mark.parametrize("name", NAMES)
def test_at_zero_it_is_the_module(name: str) -> None:
    plain = made()
    model = SubspaceModel(copy.deepcopy(plain), 7, name)
    plain.eval(), model.eval()
    assert torch.equal(model(images()), plain(images()))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["v"]
    count = sum(p.numel() for p in plain.parameters())  # a shared parameter comes once
    assert count == model.D
    assert model.d == 7
    assert model.compression_ratio == pytest.approx(count / 7)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_v_is_the_projected_one(name: str) -> None:
    plain = made().double()
    model = SubspaceModel(copy.deepcopy(plain), 7, name)
    x = images().double()
    plain.eval(), model.eval()
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    whole = torch.cat([p.grad.flatten() for p in plain.parameters()])  # type: ignore[union-attr]
    assert torch.allclose(model.v.grad, model.projection.transpose(whole), atol=1e-10)  # type: ignore[arg-type]


def test_running_statistics_go_on() -> None:
    model = SubspaceModel(made(), 5)
    before = model.model.norm.running_mean.clone()  # type: ignore[union-attr, operator]
    model(images())
    assert not torch.equal(model.model.norm.running_mean, before)  # type: ignore[union-attr, arg-type]
    assert int(model.model.norm.num_batches_tracked) == 1  # type: ignore[union-attr, arg-type]


def trained(model: nn.Module, steps: int = 5, rate: float = 0.1) -> nn.Module:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        optimizer.step()
    return model


def test_merge_and_back() -> None:
    model = trained(SubspaceModel(made(), 5))
    model.eval()
    before = {name: p.clone() for name, p in model.model.named_parameters()}  # type: ignore[union-attr]
    answer = model(images())
    plain = model.merge()  # type: ignore[operator]
    assert type(plain) is Mixed
    assert torch.allclose(plain(images()), answer, atol=1e-6)
    assert plain.up.weight is plain.down.weight
    assert torch.equal(model(images()), plain(images()))
    model.merge()  # type: ignore[operator]  # again, which changes nothing
    model.unmerge()  # type: ignore[operator]
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())  # type: ignore[union-attr]
    assert torch.equal(model(images()), answer)


def test_chosen_modules_move_alone() -> None:
    model = inject_subspace(made(), SubspaceConfig(5, target_modules=("conv", "down")))
    assert set(model.moved()) == {"conv.weight", "conv.bias", "down.bias"}  # the shared weight is up's by name
    plain = merge_subspace(trained(model))  # type: ignore[arg-type]
    reference = made()
    assert torch.equal(plain.up.weight, reference.up.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(plain.conv.weight, reference.conv.weight)  # type: ignore[union-attr, arg-type]
    assert plain.conv.weight.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_the_state_has_no_long_tensor_and_rebuilds_the_model(name: str) -> None:
    model = trained(SubspaceModel(made(), 5, name, seed=9))
    model.eval()
    state = model.intrinsic_state_dict()  # type: ignore[operator]
    assert max(v.numel() for v in state.values() if isinstance(v, Tensor)) == 5
    again = SubspaceModel.from_intrinsic(made(), state)
    # Running statistics are buffers, and stay with whoever trained them.
    again.model.load_state_dict(dict(model.model.named_buffers()), strict=False)  # type: ignore[union-attr]
    again.eval()
    assert torch.equal(again(images()), model(images()))


def test_the_file_rebuilds_the_model_in_another_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 2))
    model = SubspaceModel(net, 3, "fastfood", seed=4)
    with torch.no_grad():
        model.v.copy_(torch.tensor([0.5, -1.0, 2.0]))
    save_intrinsic(model, tmp_path / "v.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]
    script = (
        "import sys, torch; from torch import nn; torch.set_num_threads(1); torch.manual_seed(0);"
        "net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 2));"
        "from holonomy.models.adaptation.intrinsic_dimension import load_intrinsic;"
        "print(load_intrinsic(net, sys.argv[1])(torch.linspace(-1, 1, 12).view(3, 4)).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "v.safetensors")], capture_output=True, text=True, check=True
    )
    wanted = model(torch.linspace(-1, 1, 12).view(3, 4)).tolist()
    assert done.stdout.strip() == str(wanted)


def test_orthonormal_coordinates_do_not_matter() -> None:
    """Plain gradient descent depends on the span of P alone."""
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    ends = []
    for rotated in (False, True):
        model = SubspaceModel(made().double().eval(), 6, "stiefel")
        if rotated:
            model.projection.matrix = model.projection.matrix @ turn  # type: ignore[operator]
        trained_model = model
        optimizer = torch.optim.SGD([model.v], lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            trained_model(images().double()).square().sum().backward()
            optimizer.step()
        ends.append(torch.cat([p.flatten() for p in model.moved().values()]).detach())
    assert torch.allclose(*ends, atol=1e-10)


def test_the_whole_space_is_direct_training() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    model = SubspaceModel(copy.deepcopy(plain), sum(p.numel() for p in plain.parameters()), "stiefel")
    for net in (plain, model):
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            net(images().double()).square().sum().backward()
            optimizer.step()
    assert torch.allclose(model(images().double()), plain(images().double()), atol=1e-10)


def state(**changes: Any) -> dict[str, Any]:
    return SubspaceModel(made(), 5).intrinsic_state_dict() | changes


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SubspaceModel(torch.relu, 2), TypeError, "'model' must be an nn.Module"),  # type: ignore[arg-type]
        (lambda: SubspaceModel(nn.ReLU(), 2), ValueError, "no parameters that require gradients"),
        (lambda: SubspaceModel(nn.Linear(2, 2), 7), ValueError, "'d' must be from 1 to D = 6, got 7"),
        (lambda: SubspaceModel(nn.Linear(2, 2), 2, modules=["head"]), ValueError, "names 'head'"),
        (lambda: SubspaceModel(nn.Linear(2, 2), 2, "gaussian"), ValueError, "got 'gaussian'"),
        (lambda: SubspaceModel.from_intrinsic(made(), {"v": 1}), ValueError, "'state' lacks d, projection"),
        (lambda: SubspaceModel.from_intrinsic(nn.Linear(2, 2), state()), ValueError, "has no parameter 'attention"),
        (lambda: SubspaceModel.from_intrinsic(made(), state(D=3)), ValueError, "got 3"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]


def test_another_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no state of a SubspaceModel"):
        load_intrinsic(nn.Linear(2, 2), tmp_path / "other.safetensors")

"""Any module trained in a random subspace of its parameters: theta = theta_0 + P v, with v alone trained."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from holonomy.models.adaptation.intrinsic_dimension.projections import make_projection

__all__ = [
    "SubspaceConfig",
    "SubspaceModel",
    "inject_subspace",
    "load_intrinsic",
    "merge_subspace",
    "save_intrinsic",
]

#: What a state holds besides v.
_NAMES = ("d", "projection", "seed", "D", "parameters")


class SubspaceModel(nn.Module):
    """A module whose trainable parameters move in a random affine subspace of dimension d.

    All of them, weights, biases and scales alike, share one v, which starts at 0 and is the only parameter that
    requires a gradient; buffers, such as running statistics, go on as they do. A parameter that several layers share is
    counted once (Li, Farkhoor, Liu and Yosinski, ICLR 2018).

    Parameters
    ----------
    model : nn.Module
        As initialised: its parameters are theta_0, and are frozen.
    d : int
        Dimension of the subspace.
    projection : {"dense", "sparse", "fastfood", "stiefel"}
    seed : int, default 0
        Of the projection; other than that of the parameters.
    modules : sequence of str, optional
        Names of submodules whose parameters move; the others stay at theta_0. All where it is left out.

    Raises
    ------
    TypeError
        If `model` is no module, or d or the seed no int.
    ValueError
        If no parameter would move, d is out of range, a name is not there, or the projection unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        d: int,
        projection: str = "dense",
        seed: int = 0,
        modules: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"SubspaceModel: 'model' must be an nn.Module, got {type(model).__name__}")
        self._shapes = {name: p.shape for name, p in _moving(model, modules)}
        if not self._shapes:
            raise ValueError("SubspaceModel: 'model' has no parameters that require gradients among those chosen")
        first = next(iter(dict(_moving(model, modules)).values()))
        D = sum(shape.numel() for shape in self._shapes.values())
        self.projection_name = projection
        self.projection = make_projection(projection, D, d, seed, dtype=first.dtype, device=first.device)
        self.model = model.requires_grad_(False)
        self.v = nn.Parameter(torch.zeros(d, dtype=first.dtype, device=first.device))
        self._merged = False

    @property
    def d(self) -> int:
        """Dimension of the subspace."""
        return self.projection.d

    @property
    def D(self) -> int:
        """Number of parameters that move."""
        return self.projection.D

    @property
    def compression_ratio(self) -> float:
        """D/d: parameters for each trained number."""
        return self.D / self.d

    def moved(self) -> dict[str, Tensor]:
        """The parameters theta_0 + P v, by name."""
        change = self.projection(self.v)
        parts = change.split([shape.numel() for shape in self._shapes.values()])
        own = dict(self.model.named_parameters())
        return {
            name: own[name] + part.view(shape).to(own[name].dtype)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module at theta_0 + P v."""
        if self._merged:
            return self.model(*args, **kwargs)
        return functional_call(self.model, self.moved(), args, kwargs)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Write theta_0 + P v into the module and return it: a plain one, that knows nothing of the subspace."""
        if not self._merged:
            self._before = {name: dict(self.model.named_parameters())[name].clone() for name in self._shapes}
            for name, value in self.moved().items():
                self.model.get_parameter(name).copy_(value)
            self._merged = True
        return self.model

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take theta_0 back, bit for bit, after `merge`."""
        if self._merged:
            for name, value in self._before.items():
                self.model.get_parameter(name).copy_(value)
            del self._before
            self._merged = False

    def intrinsic_state_dict(self) -> dict[str, Any]:
        """v, and what rebuilds the rest: projection, seed, d, D and the names of the parameters; no D numbers.

        Buffers are not in it, nor is theta_0: `from_intrinsic` wants the module as it was initialised.
        """
        return {
            "v": self.v.detach().clone(),
            "d": self.d,
            "projection": self.projection_name,
            "seed": self.projection.seed,
            "D": self.D,
            "parameters": list(self._shapes),
        }

    @classmethod
    def from_intrinsic(cls, model: nn.Module, state: Mapping[str, Any]) -> "SubspaceModel":
        """Rebuild a trained model from its initialised module and `intrinsic_state_dict`.

        Raises
        ------
        ValueError
            If the state lacks an entry, or belongs to a module with other parameters.
        """
        missing = [name for name in ("v", *_NAMES) if name not in state]
        if missing:
            raise ValueError(f"SubspaceModel.from_intrinsic: 'state' lacks {', '.join(missing)}")
        wanted = set(state["parameters"])
        own = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not wanted <= set(own):
            raise ValueError(
                f"SubspaceModel.from_intrinsic: 'model' has no parameter {min(wanted - set(own))!r}, which moved"
            )
        D = sum(own[name].numel() for name in wanted)
        if state["D"] != D:
            raise ValueError(f"SubspaceModel.from_intrinsic: 'model' has D = {D} in what moved, got {state['D']}")
        for name, p in own.items():
            p.requires_grad_(name in wanted)
        found = cls(model, int(state["d"]), str(state["projection"]), int(state["seed"]))
        with torch.no_grad():
            found.v.copy_(state["v"])
        return found


def _moving(model: nn.Module, modules: Sequence[str] | None) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that require gradients, each once, of the modules that are named or of all."""
    if modules is not None:
        known = {name for name, _ in model.named_modules()}
        for name in modules:
            if name not in known:
                raise ValueError(f"SubspaceModel: 'modules' names {name!r}, which the model has not")
    for name, parameter in model.named_parameters():  # shared ones come once
        chosen = modules is None or any(name == m or name.startswith(f"{m}.") or m == "" for m in modules)
        if parameter.requires_grad and chosen:
            yield name, parameter


@dataclass(frozen=True)
class SubspaceConfig:
    """How `inject_subspace` wraps a module: the arguments of `SubspaceModel`."""

    d: int
    projection: str = "dense"
    target_modules: tuple[str, ...] | None = None
    seed: int = 0


def inject_subspace(model: nn.Module, config: SubspaceConfig) -> SubspaceModel:
    """Wrap a module as `SubspaceModel` by a configuration."""
    modules = None if config.target_modules is None else list(config.target_modules)
    return SubspaceModel(model, config.d, config.projection, config.seed, modules)


def merge_subspace(model: SubspaceModel) -> nn.Module:
    """Return the plain module at theta_0 + P v, trainable as before."""
    plain = model.merge()
    for name in model._shapes:
        plain.get_parameter(name).requires_grad_(True)
    return plain


def save_intrinsic(model: SubspaceModel, path: str | os.PathLike[str]) -> None:
    """Write `intrinsic_state_dict` to a safetensors file: d numbers and a line of text. It appears when complete."""
    from safetensors.torch import save

    state = model.intrinsic_state_dict()
    text = {name: str(state[name]) for name in ("d", "projection", "seed", "D")}
    text["parameters"] = "\n".join(state["parameters"])
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save({"v": state["v"].cpu().contiguous()}, metadata=text))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def load_intrinsic(model: nn.Module, path: str | os.PathLike[str]) -> SubspaceModel:
    """Rebuild a trained model from its initialised module and the file of `save_intrinsic`; nothing is unpickled.

    Raises
    ------
    ValueError
        If the file holds no such state, or that of another module.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = file.metadata() or {}
        if "v" not in file.keys() or not set(_NAMES) <= set(text):  # noqa: SIM118 - the file is no mapping
            raise ValueError(f"load_intrinsic: {os.fspath(path)} holds no state of a SubspaceModel")
        state: dict[str, Any] = {"v": file.get_tensor("v"), "projection": text["projection"]}
    state |= {name: int(text[name]) for name in ("d", "seed", "D")}
    state["parameters"] = text["parameters"].split("\n")
    return SubspaceModel.from_intrinsic(model, state)

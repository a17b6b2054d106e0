"""Parameters that know their manifold, and how the manifold is found again when a tool replaces the tensor.

A `ManifoldParameter` carries its manifold as an attribute; state_dicts hold plain tensors. Some tools put a new
``nn.Parameter`` in the place of the old one (``to_empty``, ``load_state_dict(assign=True)``, FSDP2, quantisation), and
the attribute is gone. Therefore the module on which a manifold parameter was registered remembers which of its names
live on which manifold, and `find_manifold` asks it.
"""

import copy
import sys
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.euclidean import Euclidean
from holonomy.manifolds.interop import from_geoopt

__all__ = ["ManifoldParameter", "find_manifold", "find_manifolds", "manifold_parameters"]

_ATTRIBUTE = "_parameter_manifolds"


class _ManifoldParameterMeta(type(nn.Parameter)):  # type: ignore[misc]  # the metaclass of a parameter has no public name
    def __instancecheck__(cls, instance: object) -> bool:
        if super().__instancecheck__(instance):
            return True
        # DTensor, FakeTensor and other tensor types stay what they are and carry the manifold as an attribute.
        return (
            cls is ManifoldParameter
            and isinstance(instance, nn.Parameter)
            and isinstance(getattr(instance, "manifold", None), Manifold)
        )


class ManifoldParameter(nn.Parameter, metaclass=_ManifoldParameterMeta):
    """A parameter whose points live on a manifold.

    In arithmetic it is a plain tensor (``p + 1`` has type Tensor), and so it is in a state_dict. The manifold
    survives deepcopy, copy, pickle, and every conversion of the module that holds the parameter. Where `data` is of
    a tensor subclass (DTensor, FakeTensor) the result is of that subclass, as with ``nn.Parameter``;
    ``isinstance(p, ManifoldParameter)`` holds all the same.

    Assigning a plain ``nn.Parameter`` to the same attribute of a module keeps the manifold, if the shape fits. To
    leave the manifold, delete the attribute first, or assign ``ManifoldParameter(data, Euclidean())``.

    Parameters
    ----------
    data : Tensor
        Points, of any batch shape and a real floating dtype. The storage is shared, not copied.
    manifold : Manifold, optional
        A manifold of this library or of geoopt (converted by `from_geoopt`). Default: the manifold of `data` where it
        has one, otherwise ``Euclidean()``. A manifold that has tensors of its own (learnable curvature) should also
        be a submodule of the layer, so that ``.to`` and ``state_dict`` reach them.
    requires_grad : bool
        As in ``nn.Parameter``.
    validate : bool
        Check that every point lies on the manifold (reads the data; NaN is found too). Shape and dtype are always
        checked.

    Raises
    ------
    TypeError
        Where `data` is no tensor of a real floating dtype, or `manifold` is no manifold.
    DimensionError
        Where the shape of `data` cannot hold points of the manifold.
    MembershipError
        With ``validate=True``, where a point is off the manifold.
    """

    manifold: Manifold

    def __new__(
        cls,
        data: Tensor,
        manifold: Manifold | None = None,
        requires_grad: bool = True,
        *,
        validate: bool = False,
    ) -> "ManifoldParameter":
        if not isinstance(data, Tensor):
            raise TypeError(f"ManifoldParameter: 'data' must be a tensor, got {type(data).__name__}")
        if not data.is_floating_point():
            raise TypeError(f"ManifoldParameter: 'data' must have a real floating dtype, got {data.dtype}")
        manifold = (_own_manifold(data) or Euclidean()) if manifold is None else as_manifold(manifold)
        manifold.assert_check_point(data)
        if validate:
            manifold.assert_check_point_on_manifold(data.detach())
        parameter = super().__new__(cls, data.detach(), requires_grad)
        parameter.manifold = manifold
        return parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldParameter":
        if id(self) not in memo:
            data = self.data.clone(memory_format=torch.preserve_format)
            memo[id(self)] = ManifoldParameter(data, copy.deepcopy(self.manifold, memo), self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, proto: Any) -> tuple[Any, ...]:
        return _rebuild, (self.data, self.requires_grad, dict(self.__dict__))

    def __repr__(self) -> str:  # type: ignore[override]  # as nn.Parameter
        return f"Parameter on {self.manifold} containing:\n{self.detach().requires_grad_(self.requires_grad)!r}"

    def module_load(self, other: Tensor, assign: bool = False) -> "ManifoldParameter":
        """Return what ``load_state_dict`` swaps in for this parameter: the loaded values, on the same manifold."""
        return ManifoldParameter(super().module_load(other, assign=assign), self.manifold, self.requires_grad)


def _rebuild(data: Tensor, requires_grad: bool, state: dict[str, Any]) -> ManifoldParameter:
    parameter = ManifoldParameter(data, state["manifold"], requires_grad)
    parameter.__dict__.update(state)
    return parameter


def as_manifold(manifold: object) -> Manifold:
    """Return a manifold of ours as it is, geoopt's converted, or raise TypeError."""
    if isinstance(manifold, Manifold):
        return manifold
    if _is_geoopt(manifold):
        return from_geoopt(manifold)
    if isinstance(manifold, type) and issubclass(manifold, Manifold):
        raise TypeError(f"'manifold' must be an instance: write {manifold.__name__}(), not {manifold.__name__}")
    raise TypeError(f"'manifold' must be a Manifold, got {type(manifold).__name__}")


def _is_geoopt(manifold: object) -> bool:
    # Whoever holds an object of geoopt has imported it: no need to do so here.
    geoopt = sys.modules.get("geoopt")
    return geoopt is not None and isinstance(manifold, geoopt.Manifold)


def _own_manifold(tensor: Tensor) -> Manifold | None:
    """Return the manifold that a tensor of ours or of geoopt carries as an attribute."""
    manifold = getattr(tensor, "manifold", None)
    return as_manifold(manifold) if isinstance(manifold, Manifold) or _is_geoopt(manifold) else None


# -- what modules remember ---------------------------------------------------------------------------------------------


class _ParameterManifolds:
    """Which names in one module's table of parameters live on which manifold.

    It is an attribute of the module and refers to the module's own table, so that a deepcopied or unpickled module
    has one that refers to the copy.
    """

    def __init__(self, parameters: dict[str, nn.Parameter | None]) -> None:
        self.parameters = parameters
        self.manifolds: dict[str, Manifold] = {}
        _remembered.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _remembered.add(self)


_remembered: weakref.WeakSet[_ParameterManifolds] = weakref.WeakSet()


def _remember(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Remember a manifold parameter that is being registered; give a plain one that replaces it the manifold back."""
    known: _ParameterManifolds | None = module.__dict__.get(_ATTRIBUTE)
    if known is not None and known.parameters is not module._parameters:  # the module was initialised anew
        known = None
    manifold = getattr(parameter, "manifold", None)
    if isinstance(manifold, Manifold):
        if known is None:
            known = module.__dict__[_ATTRIBUTE] = _ParameterManifolds(module._parameters)
        known.manifolds[name] = manifold
    elif known is not None and name in known.manifolds:
        if manifold is not None or module._parameters.get(name) is None:
            del known.manifolds[name]  # on another library's manifold, or registered after the name was deleted
        elif known.manifolds[name].check_point(parameter):
            _attach(parameter, known.manifolds[name])


def _attach(parameter: Tensor, manifold: Manifold) -> None:
    # In place: the parameter may be tied to others, or be an optimizer's already.
    if type(parameter) is nn.Parameter:
        parameter.__class__ = ManifoldParameter
    parameter.manifold = manifold  # type: ignore[attr-defined]


register_module_parameter_registration_hook(_remember)


def find_manifolds(parameters: Iterable[Tensor]) -> list[Manifold | None]:
    """Find the manifold of each parameter, in one pass; None where it has none.

    The parameter's own attribute comes first (geoopt's parameters: converted by `from_geoopt`), then the module that
    holds the parameter under a name at which a manifold parameter was registered. A manifold found that way is given
    back to the parameter: from then on it is a `ManifoldParameter` again.

    Parameters
    ----------
    parameters : iterable of Tensor
        Parameters of any modules, in any order.

    Returns
    -------
    list of Manifold or None
        One entry a parameter.

    Raises
    ------
    DimensionError
        Where a manifold parameter was replaced by a tensor whose shape does not fit the manifold.
    """
    parameters = list(parameters)
    manifolds = [_own_manifold(p) for p in parameters]
    if None not in manifolds:
        return manifolds
    by_identity = {
        id(known.parameters[name]): (name, manifold)
        for known in _remembered
        for name, manifold in known.manifolds.items()
        if known.parameters.get(name) is not None
    }
    for i, parameter in enumerate(parameters):
        if manifolds[i] is None and id(parameter) in by_identity:
            name, manifold = by_identity[id(parameter)]
            try:
                manifold.assert_check_point(parameter)
            except DimensionError as error:
                raise DimensionError(
                    f"parameter {name!r} was registered on {manifold}, and its replacement does not fit: {error}"
                ) from None
            _attach(parameter, manifold)
            manifolds[i] = manifold
    return manifolds


def find_manifold(parameter: Tensor) -> Manifold | None:
    """Find the manifold of one parameter, or None (see `find_manifolds`, which is cheaper for many)."""
    return find_manifolds([parameter])[0]


def manifold_parameters(module: nn.Module) -> dict[str, Manifold]:
    """Return the manifold of each manifold parameter of a module, by qualified name, as in ``named_parameters``."""
    names, parameters = [], []
    for name, parameter in module.named_parameters():
        names.append(name)
        parameters.append(parameter)
    return {n: m for n, m in zip(names, find_manifolds(parameters), strict=True) if m is not None}

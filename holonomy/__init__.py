"""Holonomy: geometry-first machine learning on PyTorch.

The rooms load on first use, so that ``import holonomy`` costs next to nothing:

``holonomy.manifolds``
    the manifold types, parameters that live on them, and what is built on their operations;
``holonomy.optim``
    optimizers that respect them;
``holonomy.models``
    published methods, one paper a file;
``holonomy.theory``
    numerical checks of what papers state;
``holonomy.examples``
    one runnable reproduction a paper.
"""

import importlib
from types import ModuleType

from holonomy._version import __version__

__all__ = ["__version__", "examples", "manifolds", "models", "optim", "theory"]

_ROOMS = frozenset({"examples", "manifolds", "models", "optim", "theory"})


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"holonomy.{name}")
    raise AttributeError(f"module 'holonomy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

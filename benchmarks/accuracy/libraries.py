"""The operations of each library, as functions of torch tensors of one dtype. What a library lacks is left out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import geoopt
import numpy as np
import pymanopt
import torch
from hypll.manifolds.poincare_ball.math import diffgeom
from torch import Tensor

from holonomy import manifolds

__all__ = ["LIBRARIES"]

setattr(np, "trapz", np.trapezoid)  # noqa: B010  # geomstats 2.8 asks for the old name
from geomstats.geometry.grassmannian import Grassmannian  # noqa: E402  # after the name is back
from geomstats.geometry.hyperboloid import Hyperboloid  # noqa: E402
from geomstats.geometry.hypersphere import Hypersphere  # noqa: E402
from geomstats.geometry.poincare_ball import PoincareBall as GeomstatsBall  # noqa: E402
from geomstats.geometry.spd_matrices import SPDMatrices  # noqa: E402

Operation = Callable[[Tensor, Tensor], Tensor]
Table = dict[tuple[str, str], Operation]


def _ours() -> Table:
    spaces: dict[str, Any] = {
        "PoincareBall": manifolds.PoincareBall(1.0),
        "Lorentz": manifolds.Lorentz(1.0),
        "Sphere": manifolds.Sphere(),
        "Simplex": manifolds.Simplex(),
        "Grassmann": manifolds.Grassmann(),
        "Stiefel, Euclidean": manifolds.Stiefel("euclidean"),
        "Stiefel, canonical": manifolds.Stiefel("canonical"),
        "SPD, affine-invariant": manifolds.SPD("affine-invariant"),
        "SpecialOrthogonal": manifolds.SpecialOrthogonal(),
    }
    return {(name, op): getattr(space, op) for name, space in spaces.items() for op in ("dist", "expmap", "logmap")}


def _geoopt() -> Table:
    spaces: dict[str, Any] = {
        "PoincareBall": geoopt.PoincareBall(1.0),
        "Lorentz": geoopt.Lorentz(1.0),
        "Sphere": geoopt.Sphere(),
        "SPD, affine-invariant": geoopt.SymmetricPositiveDefinite(),
    }
    table: Table = {
        (name, op): getattr(space, op) for name, space in spaces.items() for op in ("dist", "expmap", "logmap")
    }
    table["Stiefel, Euclidean", "expmap"] = geoopt.EuclideanStiefel().expmap
    table["Stiefel, canonical", "expmap"] = geoopt.CanonicalStiefel().expmap
    return table


def _hypll() -> Table:
    def call(function: Any, first: str, second: str, x: Tensor, y: Tensor) -> Tensor:
        return function(**{first: x, second: y}, c=torch.ones((), dtype=x.dtype))

    return {
        ("PoincareBall", "dist"): partial(call, diffgeom.dist, "x", "y"),
        ("PoincareBall", "expmap"): partial(call, diffgeom.expmap, "x", "v"),
        ("PoincareBall", "logmap"): partial(call, diffgeom.logmap, "x", "y"),
    }


def _numpy(function: Callable[..., Any], *order: int) -> Operation:
    """Call a library of NumPy's arrays, its arguments in this order."""

    def call(x: Tensor, y: Tensor) -> Tensor:
        arrays = (x.detach().numpy(), y.detach().numpy())
        with np.errstate(all="ignore"):
            return torch.as_tensor(np.asarray(function(*(arrays[i] for i in order))))

    return call


def _geomstats() -> Table:
    spaces: dict[str, Any] = {
        "PoincareBall": GeomstatsBall(3),
        "Lorentz": Hyperboloid(3),
        "Sphere": Hypersphere(3),
        "SPD, affine-invariant": SPDMatrices(3),
    }
    table: Table = {}
    for name, space in spaces.items():
        table[name, "dist"] = _numpy(space.metric.dist, 0, 1)
        table[name, "expmap"] = _numpy(space.metric.exp, 1, 0)
        table[name, "logmap"] = _numpy(space.metric.log, 1, 0)
    metric = Grassmannian(5, 2).metric
    # Its points are projectors, and its distance is sqrt(2) times that of the quotient metric.
    table["Grassmann", "dist"] = _numpy(lambda x, y: metric.dist(x @ x.T, y @ y.T) / np.sqrt(2.0), 0, 1)
    return table


def _pymanopt() -> Table:
    known = pymanopt.manifolds
    spaces: dict[str, Any] = {
        "PoincareBall": known.PoincareBall(3),
        "Sphere": known.Sphere(4),
        "Grassmann": known.Grassmann(5, 2),
        "Stiefel, Euclidean": known.Stiefel(5, 2),
        "SPD, affine-invariant": known.SymmetricPositiveDefinite(3),
        "SpecialOrthogonal": known.SpecialOrthogonalGroup(3),
    }
    names = {"dist": "dist", "expmap": "exp", "logmap": "log"}
    return {
        (name, op): _numpy(getattr(space, theirs), 0, 1)
        for name, space in spaces.items()
        for op, theirs in names.items()
        # Its tangent vectors of rotations are elements of the Lie algebra.
        if not (name == "SpecialOrthogonal" and op != "dist")
    }


#: Library: its operations by manifold and name; those of torch also give gradients.
LIBRARIES: dict[str, tuple[Table, bool]] = {
    "holonomy": (_ours(), True),
    "geoopt": (_geoopt(), True),
    "hypll": (_hypll(), True),
    "geomstats": (_geomstats(), False),
    "pymanopt": (_pymanopt(), False),
}

"""Interoperation with geoopt: our manifolds pass as geoopt's, and geoopt's are converted to ours.

Importing this module does not import geoopt. When geoopt is imported, before or after, our `Manifold` is registered as
a virtual subclass of ``geoopt.Manifold``: ``geoopt.ManifoldParameter(x, manifold=Sphere())`` and geoopt's optimizers
and samplers then accept our manifolds. (geoopt's optimizers look for geoopt's parameter type: use theirs there. Ours
accept both.)
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from wrapt import register_post_import_hook

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.euclidean import Euclidean
from holonomy.manifolds.lorentz import Lorentz
from holonomy.manifolds.poincare_ball import PoincareBall
from holonomy.manifolds.product import Product
from holonomy.manifolds.spd import SPD
from holonomy.manifolds.sphere import Sphere
from holonomy.manifolds.stiefel import Stiefel

__all__ = ["GeooptManifold", "from_geoopt"]


def _register(geoopt: ModuleType) -> None:
    geoopt.Manifold.register(Manifold)


register_post_import_hook(_register, "geoopt")


class GeooptManifold(Manifold):
    """A manifold of geoopt that has no counterpart here, with our interface around geoopt's formulas.

    What geoopt does not offer raises NotImplementedError; its accuracy, and what it traces, are geoopt's. Its
    ``random`` has no generator argument: with one, it is seeded from it.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold to delegate to (a submodule: its tensors are reached by ``.to`` and ``state_dict``).
    validate : bool
        See `Manifold`.
    """

    exact_transport = False
    retractions = ("retr",)

    def __init__(self, manifold: Any, *, validate: bool = False) -> None:
        super().__init__(validate=validate)
        self.manifold = manifold
        self.name = f"geoopt's {manifold.name}"  # type: ignore[misc]  # one class for many manifolds
        self.ndim = manifold.ndim  # type: ignore[misc]
        self.reversible = bool(manifold.reversible)  # type: ignore[misc]

    @property
    def key(self) -> tuple[Any, ...]:
        """Hashable identity: that of the wrapped object."""
        return (type(self), id(self.manifold))

    def _shape_error(self, shape: tuple[int, ...] | torch.Size) -> str | None:
        reason = super()._shape_error(shape)
        if reason is None:
            reason = self.manifold.check_point(torch.empty(shape, device="meta"), explain=True)[1]
        return reason

    def _point_error(self, x: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(x).all()):
            return "has NaN or infinite entries"
        return self.manifold.check_point_on_manifold(x, explain=True, atol=tolerance, rtol=tolerance)[1]

    def _vector_error(self, x: Tensor, u: Tensor, tolerance: float) -> str | None:
        if not bool(torch.isfinite(u).all()):
            return "has NaN or infinite entries"
        check = self.manifold.check_vector_on_tangent
        return check(x, u, ok_point=True, explain=True, atol=tolerance, rtol=tolerance)[1]

    def _call(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        try:
            return getattr(self.manifold, operation)(*arguments, **keywords)
        except NotImplementedError:
            self._unavailable(operation)

    def _component_inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._call("component_inner", x, u, v)  # of each factor by itself, where geoopt does so

    def _projx(self, x: Tensor) -> Tensor:
        return self._call("projx", x)

    def _proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._call("proju", x, u)

    def _egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._call("egrad2rgrad", x, u.clone())  # some of geoopt's write into the gradient

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        with_dimensions = self._call("inner", x, u, v, keepdim=True)  # without, some of geoopt's broadcast wrongly
        return with_dimensions.reshape(with_dimensions.shape[: with_dimensions.ndim - self.ndim])

    def _dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._call("dist", x, y)

    def _dist2(self, x: Tensor, y: Tensor) -> Tensor:
        return self._call("dist2", x, y)

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._call("expmap", x, u)

    def _logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._call("logmap", x, y)

    def _transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._call("transp", x, y, v)

    def _expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._call("expmap_transp", x, u, v))

    def _retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._call("retr", x, u)

    def _retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._call("retr_transp", x, u, v))

    def _random_tangent(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self._unavailable("random_tangent")

    def _random(
        self,
        size: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if generator is None:
            return self._call("random", *size, dtype=dtype, device=device).detach()
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            points: Tensor = self._call("random", *size, dtype=dtype, device=device)
        return points.detach()

    def _origin(self, size: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        return self._call("origin", *size, dtype=dtype, device=device).detach()


def _sphere(manifold: Any) -> Manifold | None:
    return Sphere() if manifold.projector is None else None  # else the intersection with a subspace


def _ball(manifold: Any) -> Manifold | None:
    c = _given(manifold.c, learnable=manifold.isp_c.requires_grad)
    return None if c is None else PoincareBall(c)


def _lorentz(manifold: Any) -> Manifold | None:
    k = _given(manifold.k, learnable=manifold.k.requires_grad)
    return None if k is None else Lorentz(k=k)


def _product(manifold: Any) -> Manifold:
    return Product(
        *(
            (from_geoopt(factor), tuple(shape))
            for factor, shape in zip(manifold.manifolds, manifold.shapes, strict=True)
        )
    )


def _positive_definite(manifold: Any) -> Manifold | None:
    # Theirs takes its second metric for distances alone; their Stein divergence belongs to no metric.
    metric = {"AIM": "affine-invariant", "LEM": "log-euclidean"}.get(manifold.default_metric.value)
    return None if metric is None else SPD(metric)


def _given(curvature: Tensor, *, learnable: bool) -> float | None:
    """Return the number that was given for a fixed scalar curvature: theirs is rounded, or went through softplus."""
    if learnable or curvature.numel() != 1:
        return None
    digits = 15 if curvature.dtype == torch.float64 else 6
    return float(f"{float(curvature):.{digits}g}")


#: Our counterpart of each type of geoopt, or None where this instance has none.
_COUNTERPARTS: dict[str, Callable[[Any], Manifold | None]] = {
    "Euclidean": lambda manifold: Euclidean(manifold.ndim),
    "Lorentz": _lorentz,
    "PoincareBall": _ball,
    "PoincareBallExact": _ball,
    "ProductManifold": _product,
    "Sphere": _sphere,
    "SphereExact": _sphere,
    "EuclideanStiefel": lambda _: Stiefel("euclidean"),
    "EuclideanStiefelExact": lambda _: Stiefel("euclidean"),
    "SymmetricPositiveDefinite": _positive_definite,
    "CanonicalStiefel": lambda _: Stiefel("canonical", "cayley"),  # theirs retracts by Cayley, too
}


def from_geoopt(manifold: Any) -> Manifold:
    """Convert a manifold of geoopt: to ours of the same geometry where there is one, else to a `GeooptManifold`.

    Points stay the same points; formulas and the default retraction are ours. Curvature that is fixed is taken over;
    a manifold with learnable curvature is wrapped, and keeps its parameter.

    Parameters
    ----------
    manifold : geoopt.Manifold or Manifold
        Ours are returned as they are.

    Returns
    -------
    Manifold
        The same set with the same metric.

    Raises
    ------
    TypeError
        Where `manifold` is neither.
    """
    if isinstance(manifold, Manifold):
        return manifold
    geoopt = sys.modules.get("geoopt")  # whoever holds an object of geoopt has imported it
    if geoopt is None or not isinstance(manifold, geoopt.Manifold):
        raise TypeError(f"from_geoopt: 'manifold' must be a manifold of geoopt, got {type(manifold).__name__}")
    name = type(manifold).__name__
    convert = _COUNTERPARTS.get(name)
    # A subclass of the user's may have a geometry of its own, whatever its name.
    if convert is None or type(manifold) is not getattr(geoopt, name, None):
        return GeooptManifold(manifold)
    return convert(manifold) or GeooptManifold(manifold)

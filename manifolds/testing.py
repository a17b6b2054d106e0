"""Hypothesis strategies for points, tangent vectors and manifolds: to test one's own code where geometry is hard.

::

    from hypothesis import given, strategies as st
    from holonomy.manifolds import Sphere
    from holonomy.manifolds.testing import manifolds, points, tangents

    @given(x=points(Sphere(), 3, batch=10), data=st.data())
    def test_a_step_stays_on_the_sphere(x, data):
        u = data.draw(tangents(Sphere(), x))
        Sphere().assert_check_point_on_manifold(my_step(x, u))

    @given(space=manifolds(), data=st.data())
    def test_it_works_on_every_manifold(space, data):
        x = data.draw(points(space.manifold, space.shape))
        ...

Random inputs seldom meet what breaks geometric code. These strategies also draw the origin, points near the boundary
(or at infinity), coincident and nearly coincident pairs, pairs at the cut locus (antipodal points, orthogonal
subspaces, half turns), tangent vectors that are zero, tiny, long, or have equal singular values. An example is a kind
and a seed: Hypothesis shrinks towards plain random inputs, and prints what reproduces a failure.

This module alone imports Hypothesis (``pip install holonomy[testing]``); `holonomy.manifolds` does not import it.
"""

import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Generator, Tensor

from holonomy.manifolds.base import Manifold
from holonomy.manifolds.birkhoff import Birkhoff
from holonomy.manifolds.correlation import Correlation
from holonomy.manifolds.errors import DimensionError
from holonomy.manifolds.euclidean import Euclidean
from holonomy.manifolds.fixed_rank import FixedRank
from holonomy.manifolds.flag import Flag
from holonomy.manifolds.grassmann import Grassmann
from holonomy.manifolds.half_space import HalfSpace
from holonomy.manifolds.hyperbolic import Hyperbolic
from holonomy.manifolds.klein_ball import KleinBall
from holonomy.manifolds.lorentz import Lorentz
from holonomy.manifolds.oblique import Oblique
from holonomy.manifolds.poincare_ball import PoincareBall
from holonomy.manifolds.positive_orthant import PositiveOrthant
from holonomy.manifolds.power import Power
from holonomy.manifolds.product import Product
from holonomy.manifolds.scaled import Scaled
from holonomy.manifolds.siegel import SiegelUpperHalf
from holonomy.manifolds.simplex import Simplex
from holonomy.manifolds.spd import SPD
from holonomy.manifolds.special_euclidean import SpecialEuclidean
from holonomy.manifolds.special_orthogonal import SpecialOrthogonal
from holonomy.manifolds.sphere import Sphere
from holonomy.manifolds.stereographic import Stereographic
from holonomy.manifolds.stiefel import Stiefel

__all__ = [
    "PAIR_KINDS",
    "POINT_KINDS",
    "SPACES",
    "TANGENT_KINDS",
    "Space",
    "draw_pair",
    "draw_points",
    "draw_tangents",
    "manifolds",
    "pairs",
    "points",
    "tangents",
]

#: What `points` draws; "hard" is near the boundary, far away, or of extreme entries, as the manifold has it.
POINT_KINDS = ("random", "origin", "hard")
#: Second points of `pairs`: "cut" is at the cut locus, where there is one.
PAIR_KINDS = ("independent", "coincident", "near", "cut")
#: What `tangents` draws; "repeated" has equal singular values.
TANGENT_KINDS = ("random", "zero", "tiny", "large", "repeated")

Choose = Callable[[Sequence[Any]], Any]


class Space(NamedTuple):
    """A manifold and the shape of one of its points."""

    manifold: Manifold
    shape: tuple[int, ...]


# -- strategies --------------------------------------------------------------------------------------------------------


def manifolds() -> st.SearchStrategy[Space]:
    """Configurations of all types: sizes from 1 to 6, all metrics and retractions, curvatures from 1e-4 to 1e4.

    Returns
    -------
    strategy of Space
        A manifold and the shape of one of its points. Every type of `SPACES` is drawn; composites hold simple ones.
    """

    @st.composite
    def space(draw: st.DrawFn) -> Space:
        def choose(options: Sequence[Any]) -> Any:
            return draw(st.sampled_from(options))

        return SPACES[choose(sorted(SPACES))](choose)

    return space()


def points(
    manifold: Manifold,
    shape: int | tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
    batch: int | tuple[int, ...] = (),
    kinds: Sequence[str] = POINT_KINDS,
) -> st.SearchStrategy[Tensor]:
    """Points of a manifold, plain and hard ones.

    Parameters
    ----------
    manifold : Manifold
    shape : int or tuple of int
        Shape of one point.
    dtype : torch.dtype
        Half precision included: points are on the manifold up to its rounding.
    batch : int or tuple of int
        Shape of the batch; all of its points are of one kind.
    kinds : sequence of str
        Some of `POINT_KINDS`.

    Returns
    -------
    strategy of Tensor
        Tensors of shape (*batch, *shape).

    Raises
    ------
    DimensionError
        (a ValueError) where a shape holds no point of the manifold.
    ValueError
        Where a kind is unknown.
    """
    size = _size(manifold, shape, batch)
    _check_kinds(kinds, POINT_KINDS)
    return st.builds(
        lambda kind, seed: draw_points(kind, manifold, size, _generator(seed), dtype), st.sampled_from(kinds), _SEEDS
    )


def pairs(
    manifold: Manifold,
    shape: int | tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
    batch: int | tuple[int, ...] = (),
    kinds: Sequence[str] = PAIR_KINDS,
) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Pairs of points: independent, coincident, nearly so, or at the cut locus.

    Parameters, returns (two tensors) and errors are those of `points`, with `kinds` some of `PAIR_KINDS`.
    """
    size = _size(manifold, shape, batch)
    _check_kinds(kinds, PAIR_KINDS)

    def pair(first: str, kind: str, seed: int) -> tuple[Tensor, Tensor]:
        generator = _generator(seed)
        x = draw_points(first, manifold, size, generator, dtype)
        return x, draw_pair(kind, manifold, x, generator)

    return st.builds(pair, st.sampled_from(POINT_KINDS), st.sampled_from(kinds), _SEEDS)


def tangents(manifold: Manifold, x: Tensor, *, kinds: Sequence[str] = TANGENT_KINDS) -> st.SearchStrategy[Tensor]:
    """Tangent vectors at `x`, plain and hard ones, of the shape and dtype of `x`.

    Parameters
    ----------
    manifold : Manifold
    x : Tensor
        Points.
    kinds : sequence of str
        Some of `TANGENT_KINDS`. "large" ones are long beside the manifold's own scale, but not so long that the
        geodesic must leave the range of the dtype.

    Returns
    -------
    strategy of Tensor

    Raises
    ------
    DimensionError
        (a ValueError) where `x` cannot hold points of the manifold.
    ValueError
        Where a kind is unknown.
    """
    manifold.assert_check_point(x)
    _check_kinds(kinds, TANGENT_KINDS)
    return st.builds(
        lambda kind, seed: draw_tangents(kind, manifold, x, _generator(seed)), st.sampled_from(kinds), _SEEDS
    )


_SEEDS = st.integers(0, 2**32 - 1)


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _size(manifold: Manifold, shape: int | tuple[int, ...], batch: int | tuple[int, ...]) -> tuple[int, ...]:
    point = (shape,) if isinstance(shape, int) else tuple(shape)
    if len(point) != manifold.ndim:
        raise DimensionError(
            f"{manifold.name}: 'shape' must have {manifold.ndim} dimensions, those of one point, got {point}"
        )
    manifold.assert_check_point(torch.empty(point))
    return (*((batch,) if isinstance(batch, int) else tuple(batch)), *point)


def _check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    if not kinds or not set(kinds) <= set(known):
        raise ValueError(f"'kinds' must be some of {', '.join(known)}, got {kinds!r}")


# -- drawing, from a generator -----------------------------------------------------------------------------------------


def draw_points(
    kind: str, manifold: Manifold, size: tuple[int, ...], generator: Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Points of shape `size` of one of `POINT_KINDS`: what `points` draws, without Hypothesis."""
    if kind == "origin":
        return manifold.origin(*size, dtype=dtype)
    x = manifold.random(*size, dtype=torch.float64, generator=generator)
    if kind == "hard":
        x = _hard(manifold, x, dtype, generator)
    return _rounded(manifold, x, dtype)


def draw_pair(kind: str, manifold: Manifold, x: Tensor, generator: Generator) -> Tensor:
    """Second points of pairs of one of `PAIR_KINDS`, for first points `x`."""
    if kind == "coincident":
        return x.clone()
    wide = manifold.projx(x.double())
    if kind == "near":
        step = _uniform(x.shape[: x.ndim - manifold.ndim], -16.0, -1.0, generator)
        u = manifold.random_tangent(wide, generator=generator)
        y = manifold.retr(wide, _as_points(10.0**step, manifold) * _unit_length(manifold, u))
    elif kind == "cut":
        y = _opposite(manifold, wide, generator)
    else:
        y = manifold.random(*x.shape, dtype=torch.float64, generator=generator)
    return _rounded(manifold, y, x.dtype)


def draw_tangents(kind: str, manifold: Manifold, x: Tensor, generator: Generator) -> Tensor:
    """Tangent vectors at `x` of one of `TANGENT_KINDS`: what `tangents` draws, without Hypothesis."""
    if kind == "zero":
        return torch.zeros_like(x)
    wide = manifold.projx(x.double())
    u = _unit_length(manifold, manifold.random_tangent(wide, generator=generator))
    if kind == "repeated" and x.ndim > 1 and manifold.ndim == 2 and min(x.shape[-2:]) > 1:
        left, _, right = torch.linalg.svd(u, full_matrices=False)
        turned = manifold.proju(wide, left @ right)
        scale = manifold.norm(wide, u, keepdim=True) / manifold.norm(wide, turned, keepdim=True).clamp_min(1e-300)
        u = scale * turned
    elif kind == "tiny":
        lowest = {torch.float64: -100.0, torch.float16: -4.0}.get(x.dtype, -15.0)
        u = _as_points(10.0 ** _uniform(x.shape[: x.ndim - manifold.ndim], lowest, -3.0, generator), manifold) * u
    elif kind == "large":
        longest = math.log10(_longest(manifold, x.dtype))
        u = _as_points(10.0 ** _uniform(x.shape[: x.ndim - manifold.ndim], 0.0, longest, generator), manifold) * u
    return manifold.proju(x, u.to(x.dtype))


def _rounded(manifold: Manifold, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 points to points of the dtype."""
    return x if dtype == torch.float64 else manifold.projx(x.to(dtype))


def _uniform(batch: torch.Size, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(batch, dtype=torch.float64, generator=generator)


def _as_points(t: Tensor, manifold: Manifold) -> Tensor:
    return t.reshape(*t.shape, *(1,) * manifold.ndim)


@singledispatch
def _unit_length(manifold: Manifold, u: Tensor) -> Tensor:
    """Random tangent vectors, brought from lengths of about 1 to the manifold's own unit of length."""
    return u


@_unit_length.register
def _(manifold: Hyperbolic, u: Tensor) -> Tensor:
    return u / float(manifold.c) ** 0.5


@_unit_length.register
def _(manifold: Stereographic, u: Tensor) -> Tensor:
    return u / max(abs(float(manifold.k)), 1e-4) ** 0.5


@_unit_length.register
def _(manifold: Power, u: Tensor) -> Tensor:
    return _unit_length(manifold.manifold, u)


@_unit_length.register
def _(manifold: Scaled, u: Tensor) -> Tensor:
    return float(manifold.scale) * _unit_length(manifold.manifold, u)


@_unit_length.register
def _(manifold: Product, u: Tensor) -> Tensor:
    factors = zip(manifold._manifolds, manifold.unpack_point(u), strict=True)
    return manifold.pack_point(*(_unit_length(factor, part) for factor, part in factors))


@singledispatch
def _longest(manifold: Manifold, dtype: torch.dtype) -> float:
    """Length, in the manifold's unit, of the longest tangent vectors drawn."""
    return 1e2 if dtype in (torch.float16, torch.bfloat16) else 1e4


@_longest.register(Hyperbolic)
@_longest.register(Stereographic)
def _(manifold: Manifold, dtype: torch.dtype) -> float:
    return 40.0  # beyond the last radius in every dtype


@_longest.register(SPD)
@_longest.register(SiegelUpperHalf)
@_longest.register(Correlation)
@_longest.register(FixedRank)
def _(manifold: Manifold, dtype: torch.dtype) -> float:
    return 4.0  # condition numbers grow with exp of this


@_longest.register(PositiveOrthant)
@_longest.register(Simplex)
@_longest.register(Birkhoff)
def _(manifold: Manifold, dtype: torch.dtype) -> float:
    # Entries change by factors exp of this at most, within the range of a normal number but for the farthest points.
    return math.log(torch.finfo(dtype).max) / 8.0


@_longest.register(Power)
@_longest.register(Scaled)
def _(manifold: Power | Scaled, dtype: torch.dtype) -> float:
    return _longest(manifold.manifold, dtype)


@_longest.register
def _(manifold: Product, dtype: torch.dtype) -> float:
    return min(_longest(factor, dtype) for factor in manifold._manifolds)


# -- hard points -------------------------------------------------------------------------------------------------------


@singledispatch
def _hard(manifold: Manifold, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Hard points for each of the random float64 points `x`: where there is no boundary, far from the origin."""
    return _opposite(manifold, manifold.origin(*x.shape, dtype=x.dtype), generator)


@_hard.register
def _(manifold: Euclidean, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    decades = math.log10(torch.finfo(dtype).max) / 8.0  # squares and their products stay in range
    return _as_points(10.0 ** _uniform(x.shape[: x.ndim - manifold.ndim], -decades, decades, generator), manifold) * x


@_hard.register(Sphere)
def _(manifold: Sphere, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    # Poles: all entries but one are zero, or nearly.
    near = 10.0 ** _uniform(x.shape[:-1], -20.0, 0.0, generator).unsqueeze(-1)
    largest = torch.nn.functional.one_hot(x.abs().argmax(-1), x.shape[-1])
    return manifold.projx(x * torch.where(largest == 1, 1.0, near))


@_hard.register(PoincareBall)
@_hard.register(KleinBall)
def _(manifold: PoincareBall | KleinBall, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    digits = -math.log10(torch.finfo(dtype).eps)
    radius = 1.0 - 10.0 ** -_uniform(x.shape[:-1], 0.0, digits, generator).unsqueeze(-1)
    return manifold.projx(torch.nn.functional.normalize(x, dim=-1) * radius / float(manifold.c) ** 0.5)


@_hard.register
def _(manifold: Lorentz, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    # As far as one rounding of a coordinate moves a point by no more than the radius of curvature.
    root = float(manifold.c) ** 0.5
    farthest = min(1.0 / torch.finfo(dtype).eps, torch.finfo(dtype).max ** 0.5 * min(1.0, root))
    space = torch.nn.functional.normalize(x[..., 1:], dim=-1)
    reach = torch.sinh(_uniform(x.shape[:-1], 0.0, math.asinh(farthest), generator)).unsqueeze(-1)
    return manifold.projx(torch.cat([x[..., :1], reach / root * space], -1))


@_hard.register
def _(manifold: Simplex, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    # Towards the faces: entries of all sizes, down to those that vanish beside others, and to zero. Derivatives grow
    # as the inverse of an entry's square: in between, these would leave the range of the dtype.
    power = 10.0 ** _uniform(x.shape[:-1], 0.0, 3.0, generator).unsqueeze(-1)
    y = torch.softmax(power * x.clamp_min(1e-300).log(), -1)
    return torch.where(y < torch.finfo(dtype).tiny ** 0.25, 0.0, y)


@_hard.register
def _(manifold: Birkhoff, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    # Towards the permutations: closer than this, tangent vectors have absolute errors up to sqrt(eps).
    n = x.shape[-1]
    order = torch.rand(x.shape[:-1], dtype=x.dtype, generator=generator).argsort(-1)
    share = 10.0 ** _uniform(x.shape[:-2], -12.0, 0.0, generator)[..., None, None]
    return (1.0 - share) * torch.nn.functional.one_hot(order, n) + share * x


@_hard.register
def _(manifold: PositiveOrthant, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    size = math.log(torch.finfo(dtype).max) / 8.0
    return (size * (2.0 * torch.rand(x.shape, dtype=x.dtype, generator=generator) - 1.0)).exp()


@_hard.register
def _(manifold: Oblique, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    return _hard(manifold.manifold, x.mT, dtype, generator).mT


@_hard.register(Power)
@_hard.register(Scaled)
def _(manifold: Power | Scaled, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    return _hard(manifold.manifold, x, dtype, generator)


@_hard.register
def _(manifold: Product, x: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    factors = zip(manifold._manifolds, manifold.unpack_point(x), strict=True)
    return manifold.pack_point(*(_hard(factor, part, dtype, generator) for factor, part in factors))


# -- the cut locus -----------------------------------------------------------------------------------------------------


@singledispatch
def _opposite(manifold: Manifold, x: Tensor, generator: Generator) -> Tensor:
    """Points at the cut locus of `x`, or, where there is none, others."""
    return manifold.random(*x.shape, dtype=x.dtype, generator=generator)


@_opposite.register(Sphere)
@_opposite.register(Oblique)
def _(manifold: Manifold, x: Tensor, generator: Generator) -> Tensor:
    return -x


@_opposite.register
def _(manifold: Stiefel, x: Tensor, generator: Generator) -> Tensor:
    # Columns in another order, with other signs: turned by a right angle or a half turn.
    return -x.flip(-1)


@_opposite.register
def _(manifold: Grassmann, x: Tensor, generator: Generator) -> Tensor:
    # Equal principal angles of a right angle, as many as there is room for.
    u = manifold.random_tangent(x, generator=generator)
    left, values, right = torch.linalg.svd(u, full_matrices=False)
    turned = 0.5 * math.pi * (values > 1e-8 * values[..., :1]).to(x.dtype)
    return manifold.expmap(x, manifold.proju(x, (left * turned.unsqueeze(-2)) @ right))


def _half_turns(x: Tensor, generator: Generator) -> Tensor:
    """Rotations by half a turn in as many planes as there are, in a random basis."""
    n = x.shape[-1]
    signs = torch.tensor([-1.0] * (n - n % 2) + [1.0] * (n % 2), dtype=x.dtype)
    basis = torch.linalg.qr(torch.randn(x.shape, dtype=x.dtype, generator=generator))[0]
    return x @ ((basis * signs) @ basis.mT)


@_opposite.register
def _(manifold: SpecialOrthogonal, x: Tensor, generator: Generator) -> Tensor:
    return manifold.projx(_half_turns(x, generator))


@_opposite.register
def _(manifold: SpecialEuclidean, x: Tensor, generator: Generator) -> Tensor:
    y = x.clone()
    y[..., :-1, :-1] = _half_turns(x[..., :-1, :-1], generator)
    return manifold.projx(y)


@_opposite.register(Power)
@_opposite.register(Scaled)
def _(manifold: Power | Scaled, x: Tensor, generator: Generator) -> Tensor:
    return _opposite(manifold.manifold, x, generator)


@_opposite.register
def _(manifold: Product, x: Tensor, generator: Generator) -> Tensor:
    factors = zip(manifold._manifolds, manifold.unpack_point(x), strict=True)
    return manifold.pack_point(*(_opposite(factor, part, generator) for factor, part in factors))


# -- configurations ----------------------------------------------------------------------------------------------------

_CURVATURES = tuple(10.0 ** (0.5 * k) for k in sorted(range(-8, 9), key=abs))


def _orthonormal(kind: Callable[..., Manifold]) -> Callable[[Choose], Space]:
    """Tall matrices, square ones included for Stiefel; a Grassmannian of everything is one point."""

    def space(choose: Choose) -> Space:
        p = choose((1, 2, 3))
        n = p + choose((1, 2, 3) if kind is Grassmann else (0, 1, 2, 3))
        arguments = {"retraction": choose(kind.retractions)}  # type: ignore[attr-defined]  # a class
        if kind is Stiefel:
            arguments["metric"] = choose(Stiefel.metrics)
            if n == 1:
                n = 2
        return Space(kind(**arguments), (n, p))

    return space


def _euclidean(choose: Choose) -> Space:
    shape = choose(((3,), (), (1,), (2, 3)))
    return Space(Euclidean(ndim=len(shape)), shape)


def _positive_orthant(choose: Choose) -> Space:
    shape = choose(((3,), (1,), (2, 3)))
    return Space(PositiveOrthant(ndim=len(shape)), shape)


def _special_orthogonal(choose: Choose) -> Space:
    n = choose((2, 3, 4, 5))
    return Space(SpecialOrthogonal(retraction=choose(SpecialOrthogonal.retractions)), (n, n))


def _special_euclidean(choose: Choose) -> Space:
    n = choose((2, 3))
    weight, retraction = choose((1.0, 0.01, 100.0)), choose(SpecialEuclidean.retractions)
    return Space(SpecialEuclidean(weight=weight, retraction=retraction), (n + 1, n + 1))


def _square(kind: Callable[[], Manifold]) -> Callable[[Choose], Space]:
    def space(choose: Choose) -> Space:
        n = choose((2, 3, 4))
        return Space(kind(), (n, n))

    return space


def _simple(choose: Choose) -> Space:
    return SPACES[choose(("Sphere", "Euclidean", "Grassmann", "Lorentz", "PoincareBall", "SpecialOrthogonal"))](choose)


def _power(choose: Choose) -> Space:
    base, n = _simple(choose), choose((1, 2, 3))
    return Space(Power(base.manifold), (n, *base.shape))


def _product(choose: Choose) -> Space:
    factors = [_simple(choose) for _ in range(choose((2, 1, 3)))]
    return Space(Product(*factors), (sum(math.prod(factor.shape) for factor in factors),))


def _scaled(choose: Choose) -> Space:
    base = _simple(choose)
    return Space(Scaled(base.manifold, scale=choose((1.0, 0.01, 100.0))), base.shape)


def _spd(choose: Choose) -> Space:
    n = choose((2, 3, 1))
    return Space(SPD(choose(SPD.metrics), choose(SPD.retractions)), (n, n))


def _flag(choose: Choose) -> Space:
    blocks = choose(((1, 2), (1, 1), (2, 1, 1), (2,)))
    return Space(Flag(blocks, choose(Flag.retractions)), (sum(blocks) + choose((1, 2)), sum(blocks)))


def _fixed_rank(choose: Choose) -> Space:
    rank = choose((2, 1))
    return Space(FixedRank(rank, choose(FixedRank.retractions)), (rank + choose((1, 2)), rank + choose((2, 1))))


def _siegel(choose: Choose) -> Space:
    n = choose((2, 1, 3))
    return Space(SiegelUpperHalf(), (2, n, n))


def _stereographic(choose: Choose) -> Space:
    k = choose((0.0, *(sign * c for c in _CURVATURES for sign in (1.0, -1.0))))
    return Space(Stereographic(k), (choose((1, 2, 5)),))


#: One function a type, which takes a choice among options and gives a configuration.
SPACES: dict[str, Callable[[Choose], Space]] = {
    "Birkhoff": _square(Birkhoff),
    "Correlation": _square(Correlation),
    "Euclidean": _euclidean,
    "FixedRank": _fixed_rank,
    "Flag": _flag,
    "Grassmann": _orthonormal(Grassmann),
    "HalfSpace": lambda choose: Space(HalfSpace(c=choose(_CURVATURES)), (choose((1, 2, 5)),)),
    "KleinBall": lambda choose: Space(KleinBall(c=choose(_CURVATURES)), (choose((1, 2, 5)),)),
    "Lorentz": lambda choose: Space(Lorentz(c=choose(_CURVATURES)), (choose((2, 3, 5)),)),
    "Oblique": lambda choose: Space(Oblique(), (choose((2, 3, 5)), choose((1, 2, 3)))),
    "PoincareBall": lambda choose: Space(PoincareBall(c=choose(_CURVATURES)), (choose((1, 2, 5)),)),
    "PositiveOrthant": _positive_orthant,
    "Power": _power,
    "Product": _product,
    "SPD": _spd,
    "Scaled": _scaled,
    "SiegelUpperHalf": _siegel,
    "Simplex": lambda choose: Space(Simplex(retraction=choose(Simplex.retractions)), (choose((2, 3, 6)),)),
    "SpecialEuclidean": _special_euclidean,
    "SpecialOrthogonal": _special_orthogonal,
    "Sphere": lambda choose: Space(Sphere(), (choose((2, 3, 6)),)),
    "Stereographic": _stereographic,
    "Stiefel": _orthonormal(Stiefel),
}

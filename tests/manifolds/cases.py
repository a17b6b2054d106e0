"""The one table of manifolds: a row is a configuration, and every property module in this folder runs over all rows.

A new manifold adds its rows to `CASES` and gets the whole contract. A row says what cannot be derived: sizes, known
values, what is not offered, and which points are hard. Nothing here computes geometry.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import (
    SPD,
    Birkhoff,
    Correlation,
    Euclidean,
    FixedRank,
    Flag,
    Grassmann,
    HalfSpace,
    KleinBall,
    Lorentz,
    Manifold,
    Oblique,
    PoincareBall,
    PositiveOrthant,
    Power,
    Product,
    Scaled,
    SiegelUpperHalf,
    Simplex,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stereographic,
    Stiefel,
)

Inputs = dict[str, Tensor]


def identity(x: Tensor) -> Tensor:
    """The embedding of manifolds whose points are their own coordinates."""
    return x


def wavy(x: Tensor) -> Tensor:
    """A smooth scalar function of all coordinates, with no symmetry that could hide an error."""
    weights = torch.linspace(0.5, 1.7, x.numel(), dtype=x.dtype).reshape(x.shape)
    return (weights * torch.sin(1.3 * x + weights)).sum() + (weights * x).sum().square()


@dataclass(frozen=True)
class Case:
    """One manifold configuration and what is known about it."""

    id: str
    kind: type[Manifold]
    #: Trailing shape of one point.
    shape: tuple[int, ...]
    #: Intrinsic dimension, by hand.
    dimension: int
    #: None where no bound is known.
    injectivity_radius: float | None
    #: Sectional curvature: lowest and highest value; None where it is not offered.
    curvature: tuple[float, float] | None
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Positional arguments of the constructor, before those.
    factors: tuple[Any, ...] = ()
    #: Length of tangent vectors up to which the suite asks that log inverts exp.
    reach: float = 2.0
    #: Moves random points to where tangent vectors of length `reach` stay clear of a boundary.
    tame: Callable[[Tensor], Tensor] = identity
    #: Operations that raise NotImplementedError.
    lacks: frozenset[str] = frozenset()
    #: Order to which retr agrees with expmap (None: it is expmap).
    retraction_order: int | None = None
    #: Pairs of points at a known distance.
    distances: tuple[tuple[Any, Any, float], ...] = ()
    #: Trailing shapes that hold no point.
    invalid_shapes: tuple[tuple[int, ...], ...] = ((),)
    #: Single points that are off the manifold (nested lists); NaN is tried everywhere.
    invalid_points: tuple[Any, ...] = ()
    #: Pairs (x, y) at which values and gradients must stay finite: the cut locus, the boundary.
    hard_pairs: tuple[tuple[Any, Any], ...] = ()
    #: Injective map from points to arrays, for comparing points that have several representatives.
    embed: Callable[[Tensor], Tensor] = identity
    #: Scalar function on the manifold, of one point.
    function: Callable[[Tensor], Tensor] = wavy
    #: Statistic of a random point and its expectation, by the law that the class documents.
    statistic: Callable[[Tensor], Tensor] | None = None
    expectation: tuple[float, ...] = ()
    #: Inner product of ambient vectors at x that extends the metric (None: `inner` itself takes them).
    ambient_inner: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    #: Largest error of a float32 operation, in float32 eps relative to the largest entry of the result. The default
    #: leaves room for sums over a dozen entries and for the condition of a logarithm at the suite's distances.
    float32_error: float = 64.0
    #: Largest error of a round trip in float64 eps.
    float64_error: float = 256.0

    def __repr__(self) -> str:
        return self.id

    def manifold(self, *, validate: bool = False) -> Manifold:
        """Construct the manifold."""
        return self.kind(*self.factors, **self.arguments, validate=validate)

    def has(self, *operations: str) -> bool:
        """Whether all of these operations are offered."""
        return self.lacks.isdisjoint(operations)

    def inputs(self, *batch: int, dtype: torch.dtype = torch.float64, seed: int = 0, length: float = 0.4) -> Inputs:
        """Draw one tensor for each argument name that the operations take.

        x, y, z: points no further apart than `reach`; u, v, w: tangent vectors at x, of length `length` * `reach`;
        a: an ambient tensor near a point; egrad, ehess: ambient vectors.
        """
        generator = torch.Generator().manual_seed(seed)
        manifold = self.manifold()
        size = (*batch, *self.shape)
        x = self.tame(manifold.random(*size, dtype=torch.float64, generator=generator))

        def tangent() -> Tensor:
            u = manifold.random_tangent(x, generator=generator)
            return u * (length * self.reach / manifold.norm(x, u, keepdim=True))

        def ambient() -> Tensor:
            return torch.randn(size, dtype=torch.float64, generator=generator)

        step = manifold.expmap if self.has("expmap") else manifold.retr
        u, v, w, y, z = tangent(), tangent(), tangent(), step(x, tangent()), step(x, tangent())
        near = x + 0.1 * x.abs().amax() * ambient()
        drawn = {"x": x, "y": y, "z": z, "u": u, "v": v, "w": w, "a": near, "egrad": ambient(), "ehess": ambient()}
        return {name: t.to(dtype) for name, t in drawn.items()}


@dataclass(frozen=True)
class Operation:
    """A public method as a function of named inputs; `gives` is the kind of each result."""

    name: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name

    def __call__(self, manifold: Manifold, inputs: Inputs) -> tuple[Tensor, ...]:
        """Evaluate, as a tuple also where there is one result."""
        extra = (0.3,) if self.name.startswith("geodesic") else ()
        result = getattr(manifold, self.name)(*extra, *(inputs[name] for name in self.takes))
        return result if isinstance(result, tuple) else (result,)


OPERATIONS = (
    Operation("projx", ("a",), ("point",)),
    Operation("proju", ("x", "egrad"), ("tangent at x",)),
    Operation("egrad2rgrad", ("x", "egrad"), ("tangent at x",)),
    Operation("ehess2rhess", ("x", "egrad", "ehess", "u"), ("tangent at x",)),
    Operation("inner", ("x", "u", "v"), ("scalar",)),
    Operation("component_inner", ("x", "u", "v"), ("scalar, dimensions kept",)),
    Operation("norm", ("x", "u"), ("scalar",)),
    Operation("dist", ("x", "y"), ("scalar",)),
    Operation("dist2", ("x", "y"), ("scalar",)),
    Operation("sectional_curvature", ("x", "u", "v"), ("scalar",)),
    Operation("expmap", ("x", "u"), ("point",)),
    Operation("logmap", ("x", "y"), ("tangent at x",)),
    Operation("retr", ("x", "u"), ("point",)),
    Operation("transp", ("x", "y", "v"), ("tangent at y",)),
    Operation("transp_follow_expmap", ("x", "u", "v"), ("tangent",)),
    Operation("transp_follow_retr", ("x", "u", "v"), ("tangent",)),
    Operation("expmap_transp", ("x", "u", "v"), ("point", "tangent")),
    Operation("retr_transp", ("x", "u", "v"), ("point", "tangent")),
    Operation("geodesic", ("x", "y"), ("point",), needs=("expmap", "logmap")),
    Operation("geodesic_unit", ("x", "u"), ("point",), needs=("expmap",)),
)


def _second_moment(x: Tensor) -> Tensor:
    """Entries of a point and of its outer product with itself."""
    flat = x.reshape(len(x), -1)
    return torch.cat([flat, (flat.unsqueeze(1) * flat.unsqueeze(2)).flatten(1)], dim=1)


def _isotropic(n: int, variance: float) -> tuple[float, ...]:
    """Expectation of `_second_moment` where entries are uncorrelated."""
    return (0.0,) * n + tuple(variance * float(i == j) for i in range(n) for j in range(n))


def _euclidean(ndim: int, shape: tuple[int, ...]) -> Case:
    n = math.prod(shape)
    return Case(
        id=f"Euclidean(ndim={ndim})",
        kind=Euclidean,
        arguments={"ndim": ndim},
        shape=shape,
        dimension=n,
        injectivity_radius=math.inf,
        curvature=(0.0, 0.0),
        distances=((torch.zeros(shape), torch.ones(shape), math.sqrt(n)),),
        invalid_shapes=((), (0,)) if ndim else (),
        statistic=_second_moment,
        expectation=_isotropic(n, 1.0),
    )


def _sphere(n: int) -> Case:
    e1 = [1.0] + [0.0] * (n - 1)
    e2 = [0.0, 1.0] + [0.0] * (n - 2)
    south = [-1.0] + [0.0] * (n - 1)
    near = [math.cos(1e-6), math.sin(1e-6)] + [0.0] * (n - 2)
    return Case(
        id=f"Sphere(n={n})",
        kind=Sphere,
        shape=(n,),
        dimension=n - 1,
        injectivity_radius=math.pi,
        curvature=(1.0, 1.0),
        reach=3.0,
        distances=((e1, e2, math.pi / 2), (e1, south, math.pi), (e1, near, 1e-6)),
        invalid_shapes=((), (1,), (0,)),
        invalid_points=([2.0] + [0.0] * (n - 1), [0.0] * n),
        hard_pairs=((e1, e1), (e1, south), (e1, e2)),
        statistic=_second_moment,
        expectation=_isotropic(n, 1.0 / n),
    )


def _simplex(n: int, retraction: str) -> Case:
    corner = [1.0] + [0.0] * (n - 1)
    other = [0.0] * (n - 1) + [1.0]
    # Dirichlet(1, ..., 1): mean 1/n, E[x_i x_j] = (1 + delta_ij) / (n (n + 1)).
    second = tuple((1.0 + float(i == j)) / (n * (n + 1)) for i in range(n) for j in range(n))
    return Case(
        id=f"Simplex(n={n}, {retraction})",
        kind=Simplex,
        arguments={"retraction": retraction},
        shape=(n,),
        dimension=n - 1,
        injectivity_radius=0.0,
        curvature=(0.25, 0.25),
        # Entries of at least 1/(2 n): a distance of 2 asin(sqrt(1/(2 n))) = 0.64 from the faces at n = 5.
        reach=0.6,
        tame=lambda x: 0.5 * x + 0.5 / n,
        retraction_order=1 if retraction == "softmax" else None,
        distances=((corner, other, math.pi), (corner, [0.5, 0.5] + [0.0] * (n - 2), math.pi / 2)),
        invalid_shapes=((), (1,), (0,)),
        invalid_points=([2.0] + [0.0] * (n - 1), [0.0] * n, [-0.5, 1.5] + [0.0] * (n - 2)),
        hard_pairs=((corner, other), (corner, corner), (corner, [1.0 / n] * n), ([1.0 / n] * n, corner)),
        statistic=_second_moment,
        expectation=(1.0 / n,) * n + second,
    )


def _birkhoff(n: int) -> Case:
    uniform = [[1.0 / n] * n] * n
    permutation = [[float(j == (i + 1) % n) for j in range(n)] for i in range(n)]
    return Case(
        id=f"Birkhoff(n={n})",
        kind=Birkhoff,
        shape=(n, n),
        dimension=(n - 1) ** 2,
        injectivity_radius=0.0,
        # No bounds are known; the values are compared with the Riemann tensor in the manifold's own tests.
        curvature=(-math.inf, math.inf),
        # Entries of at least 1/(2 n): a step of this length changes none by more than a third.
        reach=0.5 / n**0.5,
        tame=lambda x: 0.5 * x + 0.5 / n,
        lacks=_NO_GEODESICS,
        retraction_order=1,
        invalid_shapes=((), (3,), (2, 3), (1, 1), (0, 0)),
        invalid_points=(2.0 * torch.eye(n), torch.zeros(n, n), torch.ones(n, n)),
        hard_pairs=((uniform, uniform), (permutation, uniform), (uniform, permutation), (permutation, permutation)),
        statistic=lambda x: x.flatten(1),
        expectation=(1.0 / n,) * n**2,
    )


#: Operations that need the exponential map in closed form.
_NO_GEODESICS = frozenset(
    {"expmap", "logmap", "dist", "dist2", "transp_follow_expmap", "expmap_transp", "geodesic", "geodesic_unit"}
)


#: Agreement of the retractions of Stiefel with exp, where it is better than first order.
_SECOND_ORDER = {("euclidean", "polar"), ("canonical", "cayley")}


#: Sectional curvatures: Zimmermann, Stoye (arXiv:2405.02268) and Rentmeesters (UCLouvain, 2013).
_STIEFEL_CURVATURE = {"euclidean": (-0.5, 1.0), "canonical": (0.0, 1.25)}


def _stiefel(n: int, p: int, metric: str, retraction: str) -> Case:
    eye = torch.eye(n, dtype=torch.float64)
    first, mixed = eye[:, :p], torch.cat([eye[:, : p - 1], eye[:, -1:]], dim=1)
    return Case(
        id=f"Stiefel({n}x{p}, {metric}, {retraction})",
        kind=Stiefel,
        arguments={"metric": metric, "retraction": retraction},
        shape=(n, p),
        dimension=n * p - p * (p + 1) // 2,
        injectivity_radius=math.pi if metric == "euclidean" else math.sqrt(0.8) * math.pi,
        curvature=_STIEFEL_CURVATURE[metric],
        # Sectional curvature divides by the area that two random vectors span, which may be a tenth of the squares.
        float32_error=256.0,
        # The logarithm is iterative; 0.98 of this is within what it promises, 0.95 of the injectivity radius.
        reach=2.4,
        distances=((first, mixed, 0.5 * math.pi), (first, first, 0.0)) if n > p else ((first, first, 0.0),),
        retraction_order=2 if (metric, retraction) in _SECOND_ORDER else 1,
        invalid_shapes=((), (3,), (2, 3), (3, 0)),
        invalid_points=(2.0 * torch.eye(n, p), torch.zeros(n, p), torch.ones(n, p)),
        statistic=_second_moment,
        expectation=_isotropic(n * p, 1.0 / n),
    )


def _projector(x: Tensor) -> Tensor:
    """x x^T: the same for every basis of a subspace."""
    return x @ x.mT


def _grassmann(n: int, p: int, retraction: str) -> Case:
    eye = torch.eye(n, dtype=torch.float64)
    first, last, mixed = eye[:, :p], eye[:, n - p :], torch.cat([eye[:, : p - 1], eye[:, p : p + 1]], dim=1)
    turned = first.flip(-1).neg()
    slanted = (first + last) / math.sqrt(2.0)
    distances = ((first, last, 0.5 * math.pi * math.sqrt(p)), (first, mixed, 0.5 * math.pi), (first, turned, 0.0))
    return Case(
        id=f"Grassmann({n}x{p}, {retraction})",
        kind=Grassmann,
        arguments={"retraction": retraction},
        shape=(n, p),
        dimension=(n - p) * p,
        injectivity_radius=0.5 * math.pi,
        curvature=(0.0, 2.0) if min(p, n - p) > 1 else (1.0, 1.0),
        reach=1.5,
        # With a basis that follows the subspace, x + u is a geodesic at the speed of arctan: of second order.
        retraction_order=None if retraction == "exp" else 2,
        distances=(*distances, (first, slanted, 0.25 * math.pi * math.sqrt(p))),
        invalid_shapes=((), (3,), (2, 3), (3, 0)),
        invalid_points=(2.0 * eye[:, :p], 0.0 * eye[:, :p]),
        hard_pairs=((first, first), (first, turned), (first, last), (first, mixed), (first, slanted)),
        embed=_projector,
        function=lambda x: wavy(_projector(x)),
        statistic=_second_moment,
        expectation=_isotropic(n * p, 1.0 / n),
    )


#: Operations that need the logarithm in closed form.
_NO_LOGARITHM = frozenset({"logmap", "dist", "dist2", "geodesic"})


def _flag(n: int, blocks: tuple[int, ...], retraction: str) -> Case:
    p = sum(blocks)
    eye = torch.eye(n, dtype=torch.float64)

    def projectors(x: Tensor) -> Tensor:
        return torch.stack([_projector(part) for part in x.split(blocks, -1)], -3)

    first, turned = eye[:, :p], eye[:, :p].flip(-1)
    return Case(
        id=f"Flag({n}, {blocks}, {retraction})",
        kind=Flag,
        arguments={"blocks": blocks, "retraction": retraction},
        shape=(n, p),
        dimension=(n**2 - sum(size**2 for size in (*blocks, n - p))) // 2,
        injectivity_radius=None,
        # At most that of the canonical Stiefel manifold below, plus 3/4 of |bracket|^2 within the blocks: 2 in all.
        curvature=(0.0, 2.0),
        reach=1.5,
        lacks=_NO_LOGARITHM,
        retraction_order={"qr": 1, "polar": 1, "cayley": 2}[retraction],
        invalid_shapes=((), (3,), (2, 3), (n, p + 1), (n, 0)),
        invalid_points=(2.0 * first, 0.0 * first),
        hard_pairs=((first, first), (first, turned), (first, eye[:, n - p :])),
        embed=projectors,
        function=lambda x: wavy(projectors(x)),
        statistic=_second_moment,
        expectation=_isotropic(n * p, 1.0 / n),
    )


def _well_conditioned(x: Tensor, rank: int) -> Tensor:
    """The same singular vectors, with singular values from 1 to 1.5."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    u, s, vh = u[..., :rank], s[..., :rank], vh[..., :rank, :]
    return (u * (1.0 + 0.5 * s / s[..., :1]).unsqueeze(-2)) @ vh


def _fixed_rank(m: int, n: int, rank: int, retraction: str) -> Case:
    equal = torch.eye(m, n, dtype=torch.float64)
    equal[rank:] = 0.0
    graded = equal * torch.logspace(0.0, -3.0, n, dtype=torch.float64)
    return Case(
        id=f"FixedRank({m}x{n}, {rank}, {retraction})",
        kind=FixedRank,
        arguments={"rank": rank, "retraction": retraction},
        shape=(m, n),
        dimension=rank * (m + n - rank),
        injectivity_radius=0.0,
        # No bounds: it grows without limit towards lower rank. The values are tested in the manifold's own tests.
        curvature=(-math.inf, math.inf),
        reach=0.5,
        tame=lambda x: _well_conditioned(x, rank),
        lacks=_NO_GEODESICS,
        retraction_order=2,
        invalid_shapes=((), (3,), (rank - 1, n), (m, 0)),
        invalid_points=(torch.zeros(m, n), *((torch.eye(m, n),) if rank < min(m, n) else ())),
        hard_pairs=((equal, equal), (equal, graded), (graded, equal), (graded, graded)),
        statistic=_second_moment,
        expectation=_isotropic(m * n, 1.0),
    )


#: Bounds of curvature: for the last, 3 over the sum of the two lowest eigenvalues, which are at least 4 in the suite
#: (Massart, Hendrickx, Absil, Curvature of the manifold of fixed-rank positive-semidefinite matrices, GSI 2019).
_SPD_CURVATURE = {"affine-invariant": (-0.5, 0.0), "bures-wasserstein": (0.0, 0.375)}


def _spd_law(x: Tensor, metric: str) -> Tensor:
    """Standard normal coordinates of a random point."""
    if metric == "log-cholesky":
        lower = torch.linalg.cholesky(x)
        logs = lower.diagonal(dim1=-2, dim2=-1).log()
        return _second_moment(torch.cat([logs, lower[:, *torch.tril_indices(x.shape[-1], x.shape[-1], -1)]], dim=1))
    values, vectors = torch.linalg.eigh(x)
    log = (vectors * values.log().unsqueeze(-2)) @ vectors.mT
    upper = log[:, *torch.triu_indices(x.shape[-1], x.shape[-1], 1)] * math.sqrt(2.0)
    return _second_moment(torch.cat([log.diagonal(dim1=-2, dim2=-1), upper], dim=1))


def _spd(n: int, metric: str, retraction: str) -> Case:
    eye = torch.eye(n, dtype=torch.float64)
    stretched = torch.diag(torch.tensor([math.e] + [1.0] * (n - 1), dtype=torch.float64))
    one = {"log-cholesky": 0.5, "bures-wasserstein": math.sqrt(math.e) - 1.0}.get(metric, 1.0)
    graded = torch.diag(torch.logspace(0.0, -1.0, n, dtype=torch.float64))
    scale = 4.0 if metric == "bures-wasserstein" else 1.0
    return Case(
        id=f"SPD({n}, {metric}, {retraction})",
        kind=SPD,
        arguments={"metric": metric, "retraction": retraction},
        shape=(n, n),
        dimension=n * (n + 1) // 2,
        injectivity_radius=0.0 if metric == "bures-wasserstein" else math.inf,
        curvature=_SPD_CURVATURE.get(metric, (0.0, 0.0)),
        # The suite walks 15 times as far: the length that ends Bures-Wasserstein geodesics is sqrt(lowest eigenvalue).
        reach=0.12 if metric == "bures-wasserstein" else 0.6,
        tame=lambda x: scale * (eye + 1.5 * x / torch.linalg.matrix_norm(x, keepdim=True)),
        retraction_order=None if retraction == "exp" else 2,
        distances=((eye, stretched, one), (stretched, eye, one), (eye, eye, 0.0)),
        invalid_shapes=((), (3,), (2, 3), (0, 0)),
        invalid_points=(-eye, 0.0 * eye, eye - torch.diag(eye[0]) - torch.diag(eye[0])),
        hard_pairs=((eye, eye), (eye, stretched), (stretched, eye), (graded, graded), (graded, eye), (eye, graded)),
        statistic=lambda x: _spd_law(x, metric),
        expectation=_isotropic(n * (n + 1) // 2, 1.0),
    )


def _correlation_coordinates(x: Tensor) -> Tensor:
    lower = torch.linalg.cholesky(x)
    rows = lower / lower.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return rows[:, *torch.tril_indices(x.shape[-1], x.shape[-1], -1)]


def _correlation(n: int) -> Case:
    eye = torch.eye(n, dtype=torch.float64)

    def pair(r: float) -> Tensor:
        """Correlation r of the first two variables."""
        x = eye.clone()
        x[0, 1] = x[1, 0] = r
        return x

    return Case(
        id=f"Correlation({n})",
        kind=Correlation,
        shape=(n, n),
        dimension=n * (n - 1) // 2,
        injectivity_radius=math.inf,
        curvature=(0.0, 0.0),
        reach=0.5,
        tame=lambda x: 0.5 * (x + eye),
        distances=((eye, pair(0.6), 0.75), (pair(-0.6), pair(0.8), 0.75 + 4.0 / 3.0), (eye, eye, 0.0)),
        invalid_shapes=((), (3,), (2, 3), (1, 1), (0, 0)),
        invalid_points=(2.0 * eye, 0.0 * eye, pair(1.0), pair(-1.5)),
        hard_pairs=((eye, eye), (eye, pair(0.99)), (pair(0.99), pair(-0.99)), (pair(0.99), pair(0.99))),
        statistic=lambda x: _second_moment(_correlation_coordinates(x)),
        expectation=_isotropic(n * (n - 1) // 2, 1.0),
    )


def _siegel_tame(x: Tensor) -> Tensor:
    """The same symplectic frame, with parts of order 1 and a condition number below 2.5."""
    real, imaginary = (part / torch.linalg.matrix_norm(part, keepdim=True) for part in x.unbind(-3))
    return torch.stack((real, torch.eye(x.shape[-1], dtype=x.dtype) + 1.5 * imaginary), -3)


def _siegel_normal(x: Tensor) -> Tensor:
    """Components of log at i I, by the embedding into positive definite matrices."""
    a, b = x.unbind(-3)
    inverse = torch.linalg.inv(b)
    mixed = a @ inverse
    p = torch.cat((torch.cat((b + mixed @ a, mixed), -1), torch.cat((mixed.mT, inverse), -1)), -2)
    values, vectors = torch.linalg.eigh(p)
    log = (vectors * values.log().unsqueeze(-2)) @ vectors.mT
    n = a.shape[-1]
    rows, columns = torch.triu_indices(n, n, 1)
    parts = (log[:, :n, n:], log[:, :n, :n])
    upper = [part[:, rows, columns] * math.sqrt(2.0) for part in parts]
    return _second_moment(torch.cat([*(part.diagonal(dim1=-2, dim2=-1) for part in parts), *upper], dim=1))


def _siegel(n: int) -> Case:
    eye, zero = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    first = torch.diag(torch.tensor([1.0] + [0.0] * (n - 1), dtype=torch.float64))

    def point(real: Tensor, imaginary: Tensor) -> Tensor:
        return torch.stack((real, imaginary))

    origin, up, aside = point(zero, eye), point(zero, eye + (math.e - 1.0) * first), point(first, eye)
    skew = point(zero, eye)
    skew[0, 0, -1] += 1.0
    return Case(
        id=f"SiegelUpperHalf({n})",
        kind=SiegelUpperHalf,
        shape=(2, n, n),
        dimension=n * (n + 1),
        injectivity_radius=math.inf,
        curvature=(-1.0, 0.0) if n > 1 else (-1.0, -1.0),
        reach=0.6,
        tame=_siegel_tame,
        # Of vectors in one plane some are nearly parallel: curvature loses the sine of their angle.
        float32_error=64.0 if n > 1 else 1024.0,
        # In the half-plane a step of 1 aside at height 1 is 2 asinh(1/2).
        distances=((origin, up, 1.0), (origin, aside, 2.0 * math.asinh(0.5)), (aside, aside, 0.0)),
        invalid_shapes=((), (3,), (2, 3), (1, 3, 3), (2, 2, 3), (2, 0, 0)),
        invalid_points=(point(zero, zero), point(zero, -eye), *((skew,) if n > 1 else ())),
        hard_pairs=((origin, origin), (origin, up), (aside, origin), (aside, aside), (up, point(3.0 * eye, 0.3 * eye))),
        statistic=_siegel_normal,
        expectation=_isotropic(n * (n + 1), 1.0),
    )


def _poincare(d: int, c: float) -> Case:
    r = 1.0 / math.sqrt(c)  # the radius of the ball, and the unit of length

    def at(radius: float, axis: int = 0) -> list[float]:
        return [radius * r * float(i == axis) for i in range(d)]

    def wrapped_normal(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return _second_moment(r * torch.atanh(length / r) / length * x)

    return Case(
        id=f"PoincareBall(d={d}, c={c:g})",
        kind=PoincareBall,
        arguments={"c": c},
        shape=(d,),
        dimension=d,
        injectivity_radius=math.inf,
        curvature=(-c, -c),
        reach=2.0 * r,
        distances=((at(0.0), at(math.tanh(0.5)), r), (at(-math.tanh(1.0)), at(math.tanh(1.5)), 5.0 * r)),
        invalid_shapes=((), (0,)),
        invalid_points=(at(1.0), at(2.0)),
        hard_pairs=((at(0.0), at(0.0)), (at(1.0 - 1e-6), at(-1.0 + 1e-6)), (at(1.0 - 1e-6), at(1.0 - 1e-6))),
        statistic=wrapped_normal,
        expectation=_isotropic(d, 1.0 / (c * d)),
    )


def _lorentz(d: int, c: float) -> Case:
    r = 1.0 / math.sqrt(c)

    def at(distance: float) -> list[float]:
        """The point at this distance from the origin, in units of r, along the first axis."""
        return [r * math.cosh(distance), r * math.sinh(distance)] + [0.0] * (d - 1)

    def wrapped_normal(x: Tensor) -> Tensor:
        space = x[..., 1:]
        length = torch.linalg.vector_norm(space, dim=-1, keepdim=True)
        return _second_moment(r * torch.asinh(length / r) / length * space)

    return Case(
        id=f"Lorentz(d={d}, c={c:g})",
        kind=Lorentz,
        arguments={"c": c},
        shape=(d + 1,),
        dimension=d,
        injectivity_radius=math.inf,
        curvature=(-c, -c),
        reach=2.0 * r,
        distances=((at(0.0), at(1.0), r), (at(-1.5), at(2.0), 3.5 * r), (at(1.0), at(1.0 + 1e-6), 1e-6 * r)),
        invalid_shapes=((), (1,), (0,)),
        invalid_points=([2.0 * r] + [0.0] * d, [-r] + [0.0] * d, [0.0] * (d + 1)),
        hard_pairs=((at(0.0), at(0.0)), (at(5.0), at(5.0)), (at(7.0), at(-7.0)), (at(0.0), at(1e-4))),
        ambient_inner=lambda x, u, v: (u * v).sum(-1) - 2.0 * u[..., 0] * v[..., 0],
        statistic=wrapped_normal,
        expectation=_isotropic(d, 4.0 / (c * d)),
    )


def _positive(shape: tuple[int, ...]) -> Case:
    n = math.prod(shape)
    one, e = torch.ones(shape), torch.full(shape, math.e, dtype=torch.float64)
    tiny, huge = 1e-150 * torch.ones(shape, dtype=torch.float64), 1e150 * torch.ones(shape, dtype=torch.float64)
    return Case(
        id=f"PositiveOrthant(ndim={len(shape)})",
        kind=PositiveOrthant,
        arguments={"ndim": len(shape)},
        shape=shape,
        dimension=n,
        injectivity_radius=math.inf,
        curvature=(0.0, 0.0),
        distances=((one, e, math.sqrt(n)), (tiny, huge, 300.0 * math.log(10.0) * math.sqrt(n)), (one, one, 0.0)),
        invalid_shapes=((), (0,)) if len(shape) == 1 else (),
        invalid_points=(torch.zeros(shape), -one),
        hard_pairs=((one, one), (1e-6 * one, 1e6 * one), (one, (1.0 + 1e-7) * one)),
        statistic=lambda x: _second_moment(x.log()),
        expectation=_isotropic(n, 1.0),
    )


def _oblique(n: int, p: int) -> Case:
    eye = torch.eye(n, p, dtype=torch.float64)
    return Case(
        id=f"Oblique({n}x{p})",
        kind=Oblique,
        shape=(n, p),
        dimension=(n - 1) * p,
        injectivity_radius=math.pi,
        curvature=(0.0, 1.0),
        reach=3.0,
        distances=((eye, -eye, math.pi * math.sqrt(p)), (eye, eye.roll(1, 0), 0.5 * math.pi * math.sqrt(p))),
        invalid_shapes=((), (3,), (1, 2), (0, 2), (2, 0)),
        invalid_points=(2.0 * eye, torch.zeros(n, p)),
        hard_pairs=((eye, eye), (eye, -eye)),
        statistic=_second_moment,
        expectation=_isotropic(n * p, 1.0 / n),
    )


def _half_space(d: int, c: float) -> Case:
    r = 1.0 / math.sqrt(c)

    def at(z: float, y: float) -> list[float]:
        return [z] + [0.0] * (d - 2) + [y] if d > 1 else [y]

    def wrapped_normal(x: Tensor) -> Tensor:
        return _second_moment(HalfSpace().logmap0(x))

    return Case(
        id=f"HalfSpace(d={d}, c={c:g})",
        kind=HalfSpace,
        arguments={"c": c},
        shape=(d,),
        dimension=d,
        injectivity_radius=math.inf,
        curvature=(-c, -c),
        reach=2.0 * r,
        # Up and down an axis, the logarithm of the ratio of heights; between feet 2 sinh(1.5) apart at height 1, 3.
        distances=(
            (at(0.0, 1.0), at(0.0, math.e), r),
            (at(0.5, 1e-3), at(0.5, 1e3), 6.0 * math.log(10.0) * r),
            *(((at(0.0, 1.0), at(2.0 * math.sinh(1.5), 1.0), 3.0 * r),) if d > 1 else ()),
        ),
        invalid_shapes=((), (0,)),
        invalid_points=(at(0.0, 0.0), at(0.0, -1.0)),
        hard_pairs=(
            (at(0.0, 1.0), at(0.0, 1.0)),
            (at(1.0, 1e-6), at(1.0, 1e-6)),
            (at(1.0, 1e-6), at(-1.0, 1e-6)),
            (at(0.0, 1e6), at(0.0, 1e-6)),
        ),
        statistic=wrapped_normal,
        expectation=_isotropic(d, 4.0 / d),
    )


def _klein(d: int, c: float) -> Case:
    r = 1.0 / math.sqrt(c)

    def at(radius: float, axis: int = 0) -> list[float]:
        return [radius * r * float(i == axis) for i in range(d)]

    def wrapped_normal(x: Tensor) -> Tensor:
        return _second_moment(KleinBall(c).logmap0(x))

    return Case(
        id=f"KleinBall(d={d}, c={c:g})",
        kind=KleinBall,
        arguments={"c": c},
        shape=(d,),
        dimension=d,
        injectivity_radius=math.inf,
        curvature=(-c, -c),
        reach=2.0 * r,
        # At the law's distances the metric's factors reach 1e3, which multiply roundings of coordinates.
        tame=lambda x: 0.9 * x,
        distances=((at(0.0), at(math.tanh(1.0)), r), (at(-math.tanh(0.5)), at(math.tanh(1.5)), 2.0 * r)),
        invalid_shapes=((), (0,)),
        invalid_points=(at(1.0), at(2.0)),
        hard_pairs=((at(0.0), at(0.0)), (at(1.0 - 1e-6), at(-1.0 + 1e-6)), (at(1.0 - 1e-6), at(1.0 - 1e-6))),
        statistic=wrapped_normal,
        expectation=_isotropic(d, 4.0 / (c * d)),
    )


def _stereographic(d: int, k: float) -> Case:
    r = 1.0 / math.sqrt(abs(k)) if k else 1.0
    tangent = {1: math.tan, 0: float, -1: math.tanh}[(k > 0) - (k < 0)]

    def at(radius: float, axis: int = 0) -> list[float]:
        return [radius * r * float(i == axis) for i in range(d)]

    edge = 1.0 - 1e-6 if k < 0 else 1e3
    return Case(
        id=f"Stereographic(d={d}, k={k:g})",
        kind=Stereographic,
        arguments={"k": k},
        shape=(d,),
        dimension=d,
        injectivity_radius=math.pi * r if k > 0 else math.inf,
        curvature=(k, k),
        reach=2.0 * r if k <= 0 else 1.2 * r,
        # Half distances along an axis add up; the metric at the origin is 4 times the ambient one.
        distances=((at(0.0), at(tangent(0.5)), r), (at(-tangent(0.7)), at(tangent(0.5)), 2.4 * r)),
        invalid_shapes=((), (0,)),
        invalid_points=(at(1.0), at(2.0)) if k < 0 else (),
        hard_pairs=((at(0.0), at(0.0)), (at(edge), at(-edge)), (at(edge), at(edge)), (at(1e-3), at(-edge))),
    )


def _plane_rotation(n: int, angle: float, axis: int = 0) -> Tensor:
    """Rotation by the angle in the plane of this axis and the next."""
    r = torch.eye(n, dtype=torch.float64)
    r[axis, axis] = r[axis + 1, axis + 1] = math.cos(angle)
    r[axis + 1, axis] = math.sin(angle)
    r[axis, axis + 1] = -math.sin(angle)
    return r


#: Highest sectional curvature of SO(n), n = 2, 3, >= 4: |[a, b]|^2/4 of orthonormal a, b.
_ROTATION_CURVATURE = {2: 0.0, 3: 0.125}


def _rotations(n: int, retraction: str = "exp", weights: Any = None) -> Case:
    eye = torch.eye(n, dtype=torch.float64)
    r2 = math.sqrt(2.0)
    turns = [_plane_rotation(n, angle) for angle in (1.0, 1e-6, 3.0, math.pi - 1e-9, math.pi)]
    known = ((eye, turns[0], r2), (eye, turns[1], 1e-6 * r2), (turns[0], turns[2], 2.0 * r2))
    far = ((eye, turns[3], r2 * (math.pi - 1e-9)), (eye, turns[4], r2 * math.pi))
    return Case(
        id=f"SpecialOrthogonal({n}, {retraction}{', weights' if weights else ''})",
        kind=SpecialOrthogonal,
        arguments={"retraction": retraction, "weights": weights},
        shape=(n, n),
        dimension=n * (n - 1) // 2,
        injectivity_radius=None if weights else r2 * math.pi,
        curvature=(-math.inf, math.inf) if weights else (0.0, _ROTATION_CURVATURE.get(n, 0.25)),
        reach=2.5,
        lacks=_NO_GEODESICS if weights else frozenset(),
        retraction_order={"exp": None, "qr": 1, "cayley": 2}[retraction],
        # Of a matrix of order 1, whatever the angle.
        distances=(*known, *far),
        invalid_shapes=((), (3,), (2, 3), (1, 1), (0, 0)),
        invalid_points=(2.0 * eye, 0.0 * eye, eye * torch.tensor([-1.0] + [1.0] * (n - 1))),
        hard_pairs=((eye, eye), *((eye, t) for t in turns[1:])),
        statistic=_second_moment if n > 2 else None,
        expectation=_isotropic(n * n, 1.0 / n),
    )


def _motions(n: int, retraction: str, weight: float) -> Case:
    def at(angle: float, t: float) -> Tensor:
        x = torch.eye(n + 1, dtype=torch.float64)
        x[:n, :n] = _plane_rotation(n, angle)
        x[0, n] = t
        return x

    bent = at(0.0, 0.0)
    bent[n, 0] = 1.0
    return Case(
        id=f"SpecialEuclidean({n}, {retraction}, {weight:g})",
        kind=SpecialEuclidean,
        arguments={"retraction": retraction, "weight": weight},
        shape=(n + 1, n + 1),
        dimension=n * (n + 1) // 2,
        injectivity_radius=math.sqrt(2.0) * math.pi,
        curvature=(0.0, _ROTATION_CURVATURE.get(n, 0.25)),
        reach=2.5,
        retraction_order=None if retraction == "exp" else 1,
        distances=((at(0.0, 1.0), at(0.5, -2.0), math.sqrt(9.0 * weight + 0.5)), (at(1.0, 0.0), at(1.0, 0.0), 0.0)),
        invalid_shapes=((), (3,), (2, 3), (2, 2), (0, 0)),
        invalid_points=(2.0 * at(0.0, 0.0), bent),
        hard_pairs=((at(0.0, 0.0), at(0.0, 0.0)), (at(0.0, 0.0), at(math.pi, 1.0))),
        # Ambient vectors have a last row, which no tangent vector has, and their translations are weighted.
        ambient_inner=lambda x, u, v: (u * v)[..., :n].sum((-2, -1)) + weight * (u * v)[..., n].sum(-1),
    )


def _power(base: Case, n: int) -> Case:
    """n points of another row's manifold."""

    def repeated(x: Any) -> Tensor:
        return torch.stack([torch.as_tensor(x, dtype=torch.float64)] * n)

    return Case(
        id=f"Power({base.id}, {n})",
        kind=Power,
        factors=(base.manifold(),),
        shape=(n, *base.shape),
        dimension=n * base.dimension,
        injectivity_radius=base.injectivity_radius,
        curvature=_with_flat(base.curvature),
        reach=base.reach,
        tame=base.tame,
        lacks=base.lacks,
        retraction_order=base.retraction_order,
        distances=tuple((repeated(x), repeated(y), math.sqrt(n) * d) for x, y, d in base.distances),
        invalid_shapes=((), (0, *base.shape), *((2, *shape) for shape in base.invalid_shapes)),
        invalid_points=tuple(map(repeated, base.invalid_points)),
        hard_pairs=tuple((repeated(x), repeated(y)) for x, y in base.hard_pairs),
        embed=base.embed,
        float32_error=base.float32_error,
        float64_error=base.float64_error,
    )


def _scaled(base: Case, scale: float) -> Case:
    """Another row's manifold with scaled distances."""
    return Case(
        id=f"Scaled({base.id}, {scale:g})",
        kind=Scaled,
        factors=(base.manifold(),),
        arguments={"scale": scale},
        shape=base.shape,
        dimension=base.dimension,
        injectivity_radius=scale * base.injectivity_radius if base.injectivity_radius is not None else None,
        curvature=base.curvature and (base.curvature[0] / scale**2, base.curvature[1] / scale**2),
        reach=scale * base.reach,
        tame=base.tame,
        lacks=base.lacks,
        retraction_order=base.retraction_order,
        distances=tuple((x, y, scale * d) for x, y, d in base.distances),
        invalid_shapes=base.invalid_shapes,
        invalid_points=base.invalid_points,
        hard_pairs=base.hard_pairs,
        embed=base.embed,
        function=base.function,
        statistic=base.statistic,
        expectation=base.expectation,
        float32_error=base.float32_error,
        float64_error=base.float64_error,
    )


def _product(*rows: Case, order: int | None = None) -> Case:
    """One factor a row."""
    size = sum(math.prod(row.shape) for row in rows)
    spaces = [row.curvature or (0.0, 0.0) for row in rows]

    def joined(points: Iterable[Any]) -> Tensor:
        return torch.cat([torch.as_tensor(x, dtype=torch.float64).flatten() for x in points])

    def tame(x: Tensor) -> Tensor:
        parts = zip(rows, x.split([math.prod(row.shape) for row in rows], -1), strict=True)
        batch = x.shape[:-1]
        return torch.cat([row.tame(t.reshape(*batch, *row.shape)).reshape(*batch, -1) for row, t in parts], -1)

    known = [row.distances[0] for row in rows if row.distances]
    hard = [row.hard_pairs[-1] for row in rows if row.hard_pairs]
    distance = (*map(joined, list(zip(*known, strict=True))[:2]), math.sqrt(sum(d**2 for _, _, d in known)))
    bad = joined(torch.full(row.shape, 3.0) for row in rows)
    return Case(
        id="Product(" + " x ".join(row.id for row in rows) + ")",
        kind=Product,
        factors=tuple((row.manifold(), row.shape) for row in rows),
        shape=(size,),
        dimension=sum(row.dimension for row in rows),
        injectivity_radius=min(row.injectivity_radius for row in rows if row.injectivity_radius is not None),
        curvature=_with_flat((min(low for low, _ in spaces), max(high for _, high in spaces))),
        reach=min(row.reach for row in rows),
        tame=tame,
        lacks=frozenset().union(*(row.lacks for row in rows)),
        retraction_order=order,
        distances=(distance,) if len(known) == len(rows) else (),
        invalid_shapes=((), (0,), (size - 1,), (size + 1,)),
        invalid_points=(bad,),
        hard_pairs=(tuple(map(joined, zip(*hard, strict=True))),) if len(hard) == len(rows) else (),
        float32_error=max(row.float32_error for row in rows),
        float64_error=max(row.float64_error for row in rows),
    )


def _with_flat(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """Bounds of curvature with the planes that two factors span, which are flat."""
    return bounds and (min(bounds[0], 0.0), max(bounds[1], 0.0))


CASES: tuple[Case, ...] = (
    _euclidean(0, ()),
    _euclidean(1, (3,)),
    _euclidean(2, (3, 2)),
    _sphere(2),
    _sphere(3),
    _sphere(6),
    _simplex(2, "exp"),
    _simplex(5, "softmax"),
    _birkhoff(3),
    _birkhoff(4),
    *(_stiefel(5, 2, metric, retraction) for metric in Stiefel.metrics for retraction in Stiefel.retractions),
    _stiefel(3, 3, "euclidean", "qr"),
    _stiefel(3, 3, "canonical", "cayley"),
    _stiefel(4, 1, "canonical", "polar"),
    _grassmann(5, 2, "qr"),
    _grassmann(5, 2, "polar"),
    _grassmann(5, 2, "exp"),
    _grassmann(4, 1, "qr"),
    *(_spd(3, metric, "exp") for metric in SPD.metrics),
    _spd(3, "affine-invariant", "quadratic"),
    _fixed_rank(5, 4, 2, "svd"),
    _fixed_rank(5, 4, 2, "orthographic"),
    _fixed_rank(3, 4, 1, "svd"),
    _correlation(2),
    _correlation(3),
    _siegel(1),
    _siegel(2),
    _poincare(3, 1.0),
    _poincare(2, 0.1),
    _poincare(4, 7.0),
    _lorentz(3, 1.0),
    _lorentz(2, 0.1),
    _lorentz(4, 7.0),
    _klein(3, 1.0),
    _klein(2, 0.1),
    _klein(4, 7.0),
    _stereographic(3, -0.7),
    _stereographic(2, 0.0),
    _stereographic(3, 1.3),
    _half_space(3, 1.0),
    _half_space(2, 0.1),
    _half_space(4, 7.0),
    _positive((3,)),
    _positive((2, 2)),
    _oblique(3, 2),
    _flag(5, (1, 2), "qr"),
    _flag(5, (1, 2), "cayley"),
    _flag(4, (2, 1, 1), "polar"),
    _rotations(2),
    _rotations(3),
    _rotations(5),
    _rotations(3, "qr"),
    _rotations(4, "cayley"),
    _rotations(3, "exp", weights=((1.0, 2.0, 0.5), (2.0, 1.0, 3.0), (0.5, 3.0, 1.0))),
    _motions(2, "exp", 0.3),
    _motions(3, "screw", 2.0),
    _power(_sphere(3), 2),
    _power(_stiefel(3, 2, "canonical", "qr"), 2),
    _scaled(_sphere(3), 2.5),
    _scaled(_birkhoff(3), 0.1),
    _product(_sphere(3), _euclidean(1, (3,)), _poincare(2, 0.1)),
    _product(_stiefel(3, 2, "euclidean", "polar"), _product(_sphere(2), _positive((2, 2))), order=2),
)


def first_of_its_kind(case: Case) -> bool:
    """Condition of slow tests of code paths, which sizes and curvatures do not change: one row for each of those."""

    def path(case: Case) -> tuple[object, ...]:
        return case.kind, *(case.arguments.get(name) for name in ("metric", "retraction", "k"))

    return next(other for other in CASES if path(other) == path(case)) is case


def first_of_its_metric(case: Case) -> bool:
    """As `first_of_its_kind`, with the default retraction only."""
    default = case.kind.retractions[0]
    return first_of_its_kind(case) and case.arguments.get("retraction", default) == default


def _marks(case: Case, quick: Callable[[Case], bool]) -> tuple[pytest.MarkDecorator, ...]:
    """Other sizes, curvatures and retractions than the first of a metric are for the long test-suite."""
    return () if quick(case) else (pytest.mark.slow,)


def each_case(
    *operations: str,
    where: Callable[[Case], bool] = lambda case: True,
    quick: Callable[[Case], bool] = first_of_its_metric,
) -> pytest.MarkDecorator:
    """Run a test over every row that offers these operations and meets the condition, as argument `case`."""
    rows = [case for case in CASES if case.has(*operations) and where(case)]
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.id, marks=_marks(c, quick)) for c in rows])


def exact_transport(case: Case) -> bool:
    """Condition of tests on parallel transport proper."""
    return case.manifold().exact_transport


def each_operation(*names: str, where: Callable[[Case], bool] = lambda case: True) -> pytest.MarkDecorator:
    """Run a test over every row and every operation that it offers (or only those named), as `case, operation`."""
    pairs = [
        pytest.param(case, operation, id=f"{case.id}-{operation.name}", marks=_marks(case, first_of_its_metric))
        for case in CASES
        for operation in OPERATIONS
        if where(case) and case.has(operation.name, *operation.needs) and (not names or operation.name in names)
    ]
    return pytest.mark.parametrize(("case", "operation"), pairs)


def assert_close(actual: Tensor, wanted: Tensor, tolerance: float, what: str = "") -> None:
    """Compare relative to the largest wanted entry, but not less than 1."""
    assert actual.shape == wanted.shape, f"{what}: shape {tuple(actual.shape)}, wanted {tuple(wanted.shape)}"
    scale = max(1.0, float(wanted.abs().amax())) if wanted.numel() else 1.0
    gap = float((actual - wanted).detach().abs().amax()) / scale if wanted.numel() else 0.0
    assert gap <= tolerance, f"{what}: off by {gap:.3g} relative to {scale:.3g}, allowed {tolerance:.3g}"

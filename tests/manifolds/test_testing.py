"""The strategies for users' own tests: every type, valid inputs, the hard cases that they promise, bad arguments."""

import math
import random

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

import holonomy.manifolds
from holonomy.manifolds import DimensionError, Grassmann, Lorentz, Manifold, PoincareBall, Sphere
from holonomy.manifolds.testing import (
    PAIR_KINDS,
    POINT_KINDS,
    SPACES,
    TANGENT_KINDS,
    Space,
    draw_pair,
    draw_points,
    draw_tangents,
    manifolds,
    pairs,
    points,
    tangents,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def assert_valid(space: Space, x: torch.Tensor, u: torch.Tensor) -> None:
    eps, wide = torch.finfo(x.dtype).eps, x.double()
    # Rounding moves each of a few coordinates by eps; in products with x by that times its size.
    allowed = 32 * eps * max(1.0, float(wide.abs().amax())) ** 2
    if space.manifold.name == "Birkhoff":
        # What Sinkhorn stops at, ten times; near permutations the projection is that much worse conditioned.
        allowed += 1e-9 if x.dtype == torch.float64 else 1e-6
    assert torch.isfinite(x).all()
    assert space.manifold.check_point_on_manifold(wide, atol=allowed)
    assert space.manifold.check_vector_on_tangent(wide, u.double(), ok_point=True, atol=allowed)


def test_every_exported_type_is_drawn() -> None:
    exported = {name for name, t in vars(holonomy.manifolds).items() if isinstance(t, type) and issubclass(t, Manifold)}
    assert exported - {"Manifold"} == set(SPACES)


@pytest.mark.parametrize("name", sorted(SPACES))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_is_valid_on_every_type(name: str, dtype: torch.dtype) -> None:
    for seed in range(6):
        space = SPACES[name](random.Random(seed).choice)
        generator = torch.Generator().manual_seed(seed)
        for kind in POINT_KINDS:
            x = draw_points(kind, space.manifold, (4, *space.shape), generator, dtype)
            for tangent in TANGENT_KINDS:
                u = draw_tangents(tangent, space.manifold, x, generator)
                assert (x.dtype, u.dtype, u.shape) == (dtype, dtype, x.shape)
                assert_valid(space, x, u)
            for pair in PAIR_KINDS:
                y = draw_pair(pair, space.manifold, x, generator)
                assert (y.dtype, y.shape) == (dtype, x.shape)
                assert_valid(space, y, torch.zeros_like(y))


@settings(max_examples=30, deadline=None)  # each example is an own configuration: no time limit fits them all
@given(space=manifolds(), dtype=st.sampled_from(DTYPES), data=st.data())
def test_the_strategies_compose(space: Space, dtype: torch.dtype, data: st.DataObject) -> None:
    x, y = data.draw(pairs(*space, dtype=dtype, batch=(2, 3)))
    assert x.shape == y.shape == (2, 3, *space.shape)
    assert_valid(space, x, data.draw(tangents(space.manifold, x)))
    assert data.draw(points(*space, dtype=dtype)).shape == space.shape


def test_hard_cases_are_found() -> None:
    """Hypothesis meets each of them, and so must the user's code."""
    settled = settings(max_examples=300, database=None, derandomize=True)
    sphere, ball = Sphere(), PoincareBall()
    find(pairs(sphere, 3), lambda p: bool(sphere.dist(*p) == 0.0), settings=settled)
    find(pairs(sphere, 3), lambda p: bool(0.0 < sphere.dist(*p) < 1e-8), settings=settled)
    find(pairs(sphere, 3), lambda p: bool((p[0] == -p[1]).all()), settings=settled)
    find(points(ball, 2, batch=9), lambda x: bool((x.norm(dim=-1) > 1.0 - 1e-12).any()), settings=settled)
    at = torch.eye(4, 2, dtype=torch.float64)
    equal = find(
        tangents(Grassmann(), at),
        lambda u: float(torch.linalg.svdvals(u).diff().abs()) < 1e-12 < float(u.norm()),
        settings=settled,
    )
    assert equal.shape == at.shape
    angle = Grassmann().dist(at, draw_pair("cut", Grassmann(), at, torch.Generator().manual_seed(0)))
    assert math.isclose(float(angle), 0.5 * math.pi * math.sqrt(2.0), rel_tol=1e-14)
    lengths = [tangents(sphere, at[:, 0], kinds=[kind]) for kind in ("tiny", "large")]
    assert 0.0 < float(find(lengths[0], lambda u: True, settings=settled).norm()) < 0.1
    find(lengths[1], lambda u: float(u.norm()) > 1e2, settings=settled)


def test_curvatures_span_eight_decades() -> None:
    settled = settings(max_examples=1000, database=None, derandomize=True)
    for extreme in (1e-4, 1e4):
        found = find(
            manifolds(),
            lambda s, c=extreme: isinstance(s.manifold, Lorentz) and math.isclose(float(s.manifold.c), c),
            settings=settled,
        )
        assert found.manifold.dimension(*found.shape) >= 1


def test_bad_arguments_are_refused_before_anything_is_drawn() -> None:
    with pytest.raises(DimensionError, match="'shape' must have 1 dimensions"):
        points(Sphere(), (2, 3))
    with pytest.raises(DimensionError, match="at least 2"):
        pairs(Sphere(), 1)
    with pytest.raises(ValueError, match="'kinds' must be some of random, origin, hard, got \\['huge'\\]"):
        points(Sphere(), 3, kinds=["huge"])
    with pytest.raises(ValueError, match="'kinds'"):
        pairs(Sphere(), 3, kinds=[])
    with pytest.raises(ValueError, match="'kinds'"):
        tangents(Sphere(), torch.eye(3), kinds=["long"])
    with pytest.raises(DimensionError):
        tangents(Sphere(), torch.ones(1))

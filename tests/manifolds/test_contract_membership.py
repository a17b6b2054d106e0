"""Results lie where they belong: points on the manifold, tangent vectors in the tangent space; projections project."""

import math

import pytest
import torch
from cases import Case, Operation, assert_close, each_case, each_operation

EPS = torch.finfo(torch.float64).eps


@each_case()
@pytest.mark.parametrize("batch", [(), (5,), (2, 1, 3)], ids=str)
def test_random_points_are_on_the_manifold(case: Case, batch: tuple[int, ...]) -> None:
    x = case.manifold().random(*batch, *case.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert x.shape == (*batch, *case.shape)
    case.manifold().assert_check_point_on_manifold(x)


@each_case()
def test_the_origin_is_on_the_manifold_and_fixed(case: Case) -> None:
    manifold = case.manifold()
    x = manifold.origin(4, *case.shape, dtype=torch.float64)
    assert x.shape == (4, *case.shape)
    manifold.assert_check_point_on_manifold(x)
    assert torch.equal(x, manifold.origin(4, *case.shape, dtype=torch.float64, seed=7))
    assert torch.equal(x[0], x[3])


@each_case()
def test_the_same_generator_state_gives_the_same_points(case: Case) -> None:
    manifold = case.manifold()

    def draw(seed: int) -> torch.Tensor:
        return manifold.random(6, *case.shape, generator=torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = draw(3)
    torch.manual_seed(1)
    assert torch.equal(first, draw(3))
    assert not torch.equal(first, draw(4))
    x = first.double()
    tangents = [manifold.random_tangent(x, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*tangents)


@each_case()
def test_random_accepts_a_size_as_one_tuple(case: Case) -> None:
    manifold = case.manifold()
    drawn = [
        manifold.random(*size, generator=torch.Generator().manual_seed(2))
        for size in [(3, *case.shape), ((3, *case.shape),)]
    ]
    assert torch.equal(*drawn)


@each_case(where=lambda case: case.statistic is not None)
def test_random_points_follow_the_documented_law(case: Case) -> None:
    assert case.statistic is not None
    samples = 20_000
    x = case.manifold().random(samples, *case.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = case.statistic(x)
    error = values.std(0) / math.sqrt(samples)
    wanted = torch.tensor(case.expectation, dtype=torch.float64)
    # Five standard errors: a false alarm in 1e-6 a moment; a factor 2 in a variance would be about 70 of them.
    assert ((values.mean(0) - wanted).abs() <= 5.0 * error + 1e-12).all()


@each_case()
def test_random_tangents_are_standard_normal_in_the_metric(case: Case) -> None:
    manifold = case.manifold()
    x = case.inputs()["x"]
    draws = 4000
    u = manifold.random_tangent(x.expand(draws, *case.shape), generator=torch.Generator().manual_seed(0))
    manifold.assert_check_vector_on_tangent(x.expand_as(u), u)
    square = manifold.inner(x, u)
    # |u|^2 is chi-squared with `dimension` degrees of freedom: its mean is d, its variance 2 d.
    assert abs(float(square.mean()) - case.dimension) <= 5.0 * math.sqrt(2.0 * case.dimension / draws)
    # Along any unit tangent v the component is standard normal: equal in all directions, not only in sum.
    v = manifold.random_tangent(x, generator=torch.Generator().manual_seed(1))
    component = manifold.inner(x, u, (v / manifold.norm(x, v, keepdim=True)).expand_as(u))
    assert abs(float(component.square().mean()) - 1.0) <= 5.0 * math.sqrt(2.0 / draws)


@each_operation()
def test_results_are_points_and_tangents(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(5)
    results = operation(manifold, inputs)
    point = inputs["x"]
    for result, kind in zip(results, operation.gives, strict=True):
        if kind == "point":
            manifold.assert_check_point_on_manifold(result)
            point = result
        elif kind == "tangent at x":
            manifold.assert_check_vector_on_tangent(inputs["x"], result)
        elif kind == "tangent at y":
            manifold.assert_check_vector_on_tangent(inputs["y"], result)
        elif kind == "tangent" and len(results) == 2:
            manifold.assert_check_vector_on_tangent(point, result)
        elif kind == "scalar":
            assert result.shape == (5,)
        elif kind == "scalar, dimensions kept":
            assert result.ndim == 1 + len(case.shape)
            assert result.expand_as(point).shape == point.shape


@each_case()
def test_point_projection_is_idempotent_and_keeps_points(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(5)
    once = manifold.projx(inputs["a"])
    # Rounding of one evaluation; anything systematic would show at 1e-3 and above.
    assert_close(manifold.projx(once), once, 16 * EPS, "projx twice")
    assert_close(manifold.projx(inputs["x"]), inputs["x"], 16 * EPS, "projx of a point")


@each_case()
def test_tangent_projection_is_idempotent_and_orthogonal_in_the_metric(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(5)
    x, ambient, u = inputs["x"], inputs["egrad"], inputs["u"]
    once = manifold.proju(x, ambient)
    # Projection multiplies by x twice.
    size = max(1.0, float(x.abs().amax())) ** 2
    assert_close(manifold.proju(x, once), once, 16 * EPS * size, "proju twice")
    assert_close(manifold.proju(x, u), u, 16 * EPS * size, "proju of a tangent vector")
    inner = case.ambient_inner or manifold.inner
    gap = inner(x, ambient - once, u).abs().amax()
    assert float(gap) <= 64 * EPS * size * max(1.0, float(ambient.abs().amax() * u.abs().amax()))


@each_case("expmap")
def test_many_steps_stay_on_the_manifold(case: Case) -> None:
    """Points must not drift where each step rounds: an optimizer never projects."""
    manifold = case.manifold()
    inputs = case.inputs(dtype=torch.float32, length=0.05)
    x, u = inputs["x"], inputs["u"]
    for _ in range(300):
        x, u = manifold.expmap_transp(x, u, u)
        u = manifold.proju(x, u)
    manifold.assert_check_point_on_manifold(x)

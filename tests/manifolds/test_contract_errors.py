"""Bad input is refused before any work, by an error that names the argument, the manifold and what was wanted."""

import inspect

import pytest
import torch
from cases import OPERATIONS, Case, Operation, each_case, each_operation

from holonomy.manifolds import DimensionError, Manifold, MembershipError

BASE = {name: f for name, f in vars(Manifold).items() if inspect.isfunction(f) and not name.startswith("_")}


@each_case()
def test_signatures_are_those_of_the_base(case: Case) -> None:
    """Whatever takes a manifold may call it by the base's parameters; extra ones have defaults."""
    for name, method in BASE.items():
        own = list(inspect.signature(getattr(case.kind, name)).parameters.values())
        base = list(inspect.signature(method).parameters.values())
        for wanted, found in zip(base, own, strict=False):
            assert (found.name, found.kind, found.default) == (wanted.name, wanted.kind, wanted.default), name
        assert len(own) >= len(base), name
        assert all(extra.default is not inspect.Parameter.empty for extra in own[len(base) :]), name


@each_case()
def test_it_is_a_manifold_with_a_name_and_a_size(case: Case) -> None:
    manifold = case.manifold()
    assert isinstance(manifold, Manifold)
    assert manifold.name != Manifold.name
    assert manifold.ndim == len(case.shape)
    assert manifold.dimension(*case.shape) == case.dimension
    assert manifold.dimension(7, *case.shape) == case.dimension
    if case.injectivity_radius is None:
        with pytest.raises(NotImplementedError, match="injectivity_radius"):
            manifold.injectivity_radius()
    else:
        assert manifold.injectivity_radius() == pytest.approx(case.injectivity_radius)


@each_case()
def test_what_is_lacking_says_so(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    own = "|".join(part.name for part in manifold.modules() if isinstance(part, Manifold))
    for operation in OPERATIONS:
        if operation.name in case.lacks:
            with pytest.raises(NotImplementedError, match=own):
                operation(manifold, inputs)


@each_operation()
def test_integer_tensors_are_refused(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(2)
    for name in operation.takes:
        bad = {**inputs, name: torch.ones_like(inputs[name], dtype=torch.int64)}
        with pytest.raises(TypeError, match=rf"{manifold.name}.*floating dtype, got torch.int64"):
            operation(manifold, bad)


@each_operation()
def test_what_is_no_tensor_is_refused(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(2)
    for name in operation.takes:
        bad = {**inputs, name: inputs[name].tolist()}
        with pytest.raises(TypeError):
            operation(manifold, bad)


@each_operation()
def test_shapes_that_hold_no_point_are_refused(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    for shape in case.invalid_shapes:
        bad = {name: torch.ones(shape, dtype=torch.float64) for name in inputs}
        with pytest.raises(DimensionError, match=rf"{manifold.name}.*shape .*wanted"):
            operation(manifold, bad)


@each_case()
def test_sizes_that_hold_no_point_are_refused(case: Case) -> None:
    manifold = case.manifold()
    for shape in case.invalid_shapes:
        for method in (manifold.random, manifold.origin, manifold.dimension):
            with pytest.raises(DimensionError, match=rf"{manifold.name}.*size"):
                method(*shape)
        assert manifold.check_point(torch.ones(shape)) is False


@each_operation()
def test_trailing_dimensions_that_differ_are_refused(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(2)
    if len(operation.takes) < 2 or not case.shape:
        return
    for name in operation.takes[1:]:
        t = inputs[name]
        bad = {**inputs, name: torch.cat([t, t], dim=-1)}
        with pytest.raises(DimensionError, match=rf"{manifold.name}.*wanted"):
            operation(manifold, bad)


@each_operation()
def test_batches_that_do_not_broadcast_are_refused(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(2)
    for name in operation.takes[1:]:
        bad = {**inputs, name: torch.cat([inputs[name], inputs[name][:1]])}
        with pytest.raises(DimensionError, match=rf"{manifold.name}.*broadcast"):
            operation(manifold, bad)


@each_operation("expmap", "retr", "logmap", "dist", "dist2", "transp", "norm", "proju")
def test_validation_finds_points_off_the_manifold(case: Case, operation: Operation) -> None:
    inputs = case.inputs()
    strict, lax = case.manifold(validate=True), case.manifold()
    operation(strict, inputs)
    for point in case.invalid_points:
        bad = {**inputs, "x": torch.as_tensor(point, dtype=torch.float64)}
        with pytest.raises(MembershipError, match=rf"{strict.name}\.{operation.name}: argument 'x'"):
            operation(strict, bad)
        assert lax.check_point_on_manifold(bad["x"]) is False


@each_operation()
def test_validation_finds_nan(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(validate=True), case.inputs(2)
    for name in operation.takes:
        bad = {**inputs, name: torch.full_like(inputs[name], float("nan"))}
        with pytest.raises(MembershipError, match=manifold.name):
            operation(manifold, bad)


@each_operation("expmap", "retr", "norm", "inner", "transp")
def test_validation_finds_vectors_that_are_not_tangent(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(validate=True), case.inputs()
    if case.dimension == inputs["x"].numel():
        return  # every vector is tangent
    for name in ("u", "v"):
        if name not in operation.takes:
            continue
        normal = inputs["egrad"] - case.manifold().proju(inputs["x"], inputs["egrad"])
        with pytest.raises(MembershipError, match=rf"argument '{name}' is not tangent"):
            operation(manifold, {**inputs, name: inputs[name] + normal})


@each_case()
def test_checks_explain_themselves(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    x, u = inputs["x"], inputs["u"]
    assert manifold.check_point_on_manifold(x, explain=True) == (True, None)
    assert manifold.check_vector_on_tangent(x, u, explain=True) == (True, None)
    nan = torch.full_like(x, float("nan"))
    for result in (
        manifold.check_point_on_manifold(nan, explain=True),
        manifold.check_vector_on_tangent(x, nan, explain=True),
    ):
        assert isinstance(result, tuple)
        assert result[0] is False
        assert "NaN" in str(result[1])


@each_case()
def test_random_refuses_integer_dtypes(case: Case) -> None:
    with pytest.raises(TypeError, match=r"floating dtype, got torch.int32"):
        case.manifold().random(*case.shape, dtype=torch.int32)

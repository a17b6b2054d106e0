"""What the base does for every manifold: dtypes, autocast, validation, and the text of errors."""

import re

import pytest
import torch
from torch import Tensor

from holonomy.manifolds import DimensionError, Euclidean, Manifold, MembershipError, Sphere, Stiefel


class Recorder(Euclidean):
    """Euclidean space that notes in which dtype, and under what autocast, its formulas run."""

    def __init__(self, **arguments: bool) -> None:
        super().__init__(1, **arguments)
        self.seen: list[tuple[torch.dtype, bool]] = []

    def _expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self.seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return x + u


@pytest.mark.parametrize(
    ("dtypes", "work", "result"),
    [
        ((torch.float64, torch.float64), torch.float64, torch.float64),
        ((torch.float32, torch.float64), torch.float64, torch.float64),
        ((torch.float16, torch.float16), torch.float32, torch.float16),
        ((torch.bfloat16, torch.bfloat16), torch.float32, torch.bfloat16),
        ((torch.bfloat16, torch.float32), torch.float32, torch.float32),
        ((torch.bfloat16, torch.float16), torch.float32, torch.float32),
    ],
    ids=str,
)
def test_formulas_run_in_one_dtype_and_never_in_half(
    dtypes: tuple[torch.dtype, torch.dtype], work: torch.dtype, result: torch.dtype
) -> None:
    manifold = Recorder()
    x, u = (torch.ones(3, dtype=dtype) for dtype in dtypes)
    assert manifold.expmap(x, u).dtype == result
    assert manifold.seen == [(work, False)]


def test_formulas_run_outside_of_autocast_and_leave_it_on() -> None:
    manifold = Recorder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        manifold.expmap(torch.ones(3), torch.ones(3))
        assert torch.is_autocast_enabled("cpu")
    assert manifold.seen == [(torch.float32, False)]


def test_gradients_pass_through_the_change_of_dtype() -> None:
    x = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    Sphere().projx(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: Sphere().dist(torch.ones(3), [1.0, 0.0, 0.0]),  # type: ignore[arg-type]
            TypeError,
            "Sphere.dist: argument 'y' must be a tensor, got list",
        ),
        (
            lambda: Sphere().dist(torch.ones(3), torch.ones(3, dtype=torch.int64)),
            TypeError,
            "Sphere.dist: argument 'y' must have a real floating dtype, got torch.int64",
        ),
        (
            lambda: Sphere().dist(torch.ones(3, dtype=torch.complex64), torch.ones(3)),
            TypeError,
            "Sphere.dist: argument 'x' must have a real floating dtype, got torch.complex64",
        ),
        (
            lambda: Sphere().expmap(torch.ones(2, 3), torch.ones(2, 4)),
            DimensionError,
            "Sphere.expmap: argument 'u' has shape (2, 4), wanted trailing dimensions (3,) as in 'x'",
        ),
        (
            lambda: Sphere().expmap(torch.ones(2, 3), torch.ones(5, 3)),
            DimensionError,
            "Sphere.expmap: argument 'u' does not broadcast: batch dimensions (5,) against (2,)",
        ),
        (
            lambda: Stiefel().projx(torch.ones(2, 3)),
            DimensionError,
            "Stiefel.projx: argument 'x' has shape (2, 3), wanted n >= p",
        ),
        (
            lambda: Stiefel().projx(torch.ones(3)),
            DimensionError,
            "Stiefel.projx: argument 'x' has shape (3,), wanted at least 2 dimensions",
        ),
        (lambda: Sphere().random(1), DimensionError, "argument 'size' has shape (1,), wanted a last dimension of at"),
        (
            lambda: Sphere(validate=True).dist(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0])),
            MembershipError,
            "Sphere.dist: argument 'x' is off the manifold by 1 (tolerance",
        ),
        (
            lambda: Sphere(validate=True).expmap(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0])),
            MembershipError,
            "Sphere.expmap: argument 'u' is not tangent at the point: off by 0.5 (tolerance",
        ),
        (
            lambda: Sphere(validate=True).projx(torch.tensor([float("inf"), 0.0])),
            MembershipError,
            "Sphere.projx: argument 'x' has NaN or infinite entries",
        ),
        (lambda: Manifold().dist(torch.ones(3), torch.ones(3)), NotImplementedError, "manifold has no logmap"),
    ],
)
def test_errors_name_argument_manifold_and_what_was_wanted(call: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call()  # type: ignore[operator]


def test_the_errors_are_value_errors() -> None:
    assert issubclass(DimensionError, ValueError)
    assert issubclass(MembershipError, ValueError)


def test_shapes_are_checked_before_any_work() -> None:
    manifold = Recorder()
    with pytest.raises(DimensionError):
        manifold.expmap(torch.ones(3), torch.ones(4))
    assert manifold.seen == []


def test_validation_is_off_by_default() -> None:
    nan = torch.full((3,), float("nan"))
    assert torch.isnan(Sphere().dist(nan, nan))
    with pytest.raises(MembershipError):
        Sphere(validate=True).dist(nan, nan)


def test_assertions_raise_and_checks_answer() -> None:
    sphere, x = Sphere(), torch.tensor([1.0, 0.0, 0.0])
    sphere.assert_check_point(x)
    sphere.assert_check_point_on_manifold(x)
    sphere.assert_check_vector_on_tangent(x, torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(DimensionError, match=re.escape("Sphere.check_point: argument 'x' has shape (1,)")):
        sphere.assert_check_point(torch.ones(1))
    with pytest.raises(MembershipError, match="Sphere: 'x' is off the manifold by 1"):
        sphere.assert_check_point_on_manifold(2.0 * x)
    with pytest.raises(MembershipError, match="Sphere: 'u' is not tangent"):
        sphere.assert_check_vector_on_tangent(x, x)
    with pytest.raises(MembershipError, match="Sphere: 'u' is off the manifold"):
        sphere.assert_check_vector_on_tangent(2.0 * x, torch.zeros(3))
    sphere.assert_check_vector_on_tangent(2.0 * x, torch.zeros(3), ok_point=True)


def test_tolerances_can_be_given() -> None:
    x = torch.tensor([1.001, 0.0])
    assert Sphere().check_point_on_manifold(x) is False
    assert Sphere().check_point_on_manifold(x, atol=1e-2) is True
    assert Sphere().check_point_on_manifold(x, rtol=1e-2) is True


def test_a_manifold_is_described_by_its_arguments() -> None:
    assert repr(Sphere()) == "Sphere()"
    assert repr(Euclidean(2, validate=True)) == "Euclidean(ndim=2, validate=True)"

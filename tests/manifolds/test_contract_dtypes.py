"""Precision: float32 close to float64, half precision computed in float32, autocast without effect."""

import pytest
import torch
from cases import OPERATIONS, Case, Operation, assert_close, each_case, each_operation

HALF = (torch.bfloat16, torch.float16)


@each_operation()
def test_float32_is_close_to_float64(case: Case, operation: Operation) -> None:
    manifold, inputs = case.manifold(), case.inputs(50, dtype=torch.float32)
    exact = operation(manifold, {name: t.double() for name, t in inputs.items()})
    tolerance = case.float32_error * torch.finfo(torch.float32).eps
    for got, wanted in zip(operation(manifold, inputs), exact, strict=True):
        assert got.dtype == torch.float32
        assert_close(got.double(), wanted, tolerance)


@each_operation()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_computes_in_float32(case: Case, operation: Operation, dtype: torch.dtype) -> None:
    manifold, inputs = case.manifold(), case.inputs(5, dtype=dtype)
    wide = operation(manifold, {name: t.float() for name, t in inputs.items()})
    for got, wanted in zip(operation(manifold, inputs), wide, strict=True):
        assert got.dtype == dtype
        assert torch.isfinite(got).all()
        # One rounding of the result, and no other: everything before was float32.
        assert_close(got.double(), wanted.double(), 1.01 * torch.finfo(dtype).eps)


@each_case()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_points_stay_on_the_manifold(case: Case, dtype: torch.dtype) -> None:
    manifold, inputs = case.manifold(), case.inputs(20, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    points = {
        "random": manifold.random(20, *case.shape, dtype=dtype, generator=generator),
        "origin": manifold.origin(20, *case.shape, dtype=dtype),
        "projx": manifold.projx(inputs["a"]),
        "retr": manifold.retr(manifold.projx(inputs["x"]), inputs["u"]),
    }
    for name, x in points.items():
        assert x.dtype == dtype, name
        # Rounding each of the few coordinates leaves the manifold by that much, times the size of the coordinates.
        allowed = 8 * torch.finfo(dtype).eps * max(1.0, float(x.abs().amax())) ** 2
        assert manifold.check_point_on_manifold(x.double(), atol=allowed), name


@each_operation()
def test_autocast_has_no_effect(case: Case, operation: Operation) -> None:
    """A matrix product in bfloat16 inside a geometric formula would lose the manifold."""
    manifold, inputs = case.manifold(), case.inputs(5, dtype=torch.float32)
    wanted = operation(manifold, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = operation(manifold, inputs)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


@each_case()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF], ids=str)
def test_points_are_drawn_in_the_dtype_asked_for(case: Case, dtype: torch.dtype) -> None:
    manifold = case.manifold()
    x = manifold.random(3, *case.shape, dtype=dtype)
    assert x.dtype == dtype
    assert manifold.origin(*case.shape, dtype=dtype).dtype == dtype
    assert manifold.random_tangent(x).dtype == dtype
    assert manifold.random(*case.shape).dtype == torch.get_default_dtype()


@each_case()
def test_mixed_dtypes_promote(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(3)
    for operation in OPERATIONS:
        if len(operation.takes) < 2 or not case.has(operation.name, *operation.needs):
            continue
        mixed = {**inputs, operation.takes[0]: inputs[operation.takes[0]].float()}
        assert all(result.dtype == torch.float64 for result in operation(manifold, mixed)), operation

"""Gradients and Hessians of the geometry against autograd along geodesics, and the derivatives of every operation."""

from collections.abc import Callable

import pytest
import torch
from cases import Case, Inputs, Operation, assert_close, each_case, each_operation, first_of_its_kind
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


@each_case()
def test_the_riemannian_gradient_represents_the_differential(case: Case) -> None:
    """<grad, v>_x = egrad . v for every tangent v: the Riesz representative, in the metric of the manifold."""
    manifold, inputs = case.manifold(), case.inputs(8)
    x, egrad, v = inputs["x"], inputs["egrad"], inputs["v"]
    rgrad = manifold.egrad2rgrad(x, egrad)
    manifold.assert_check_vector_on_tangent(x, rgrad)
    pairing = (egrad * v).reshape(8, -1).sum(-1)
    assert_close(manifold.inner(x, rgrad, v), pairing, case.float64_error * EPS)


def along(case: Case, x: Tensor, u: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the row's scalar function along the geodesic from x with velocity u."""
    manifold = case.manifold()
    return lambda t: case.function(manifold.expmap(x, t * u))


@each_case("expmap")
def test_the_gradient_is_the_slope_along_geodesics(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    x, u = inputs["x"], inputs["u"]
    start = x.clone().requires_grad_()
    (egrad,) = torch.autograd.grad(case.function(start), start)
    slope = torch.autograd.functional.jacobian(along(case, x, u), torch.zeros((), dtype=torch.float64))
    measured = manifold.inner(x, manifold.egrad2rgrad(x, egrad), u)
    assert_close(measured, slope, case.float64_error * EPS)


@each_case("expmap", "ehess2rhess")
def test_the_hessian_is_the_second_derivative_along_geodesics(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    x, u, v = inputs["x"], inputs["u"], inputs["v"]
    start = x.clone().requires_grad_()
    (egrad,) = torch.autograd.grad(case.function(start), start, create_graph=True)

    def hessian(u: Tensor) -> Tensor:
        (ehess,) = torch.autograd.grad(egrad, start, u, retain_graph=True, materialize_grads=True)
        return manifold.ehess2rhess(x, egrad.detach(), ehess, u)

    rhess = hessian(u)
    manifold.assert_check_vector_on_tangent(x, rhess)
    bend = torch.autograd.functional.hessian(along(case, x, u), torch.zeros((), dtype=torch.float64))
    # 1e-10: two nested derivatives of an expmap whose own rounding is 1e-15.
    assert_close(manifold.inner(x, rhess, u), bend, 1e-10, "second derivative along the geodesic")
    # With symmetry, the quadratic form above determines the whole operator.
    assert_close(manifold.inner(x, rhess, v), manifold.inner(x, hessian(v), u), 1e-10, "symmetry")


def _on_manifold(case: Case, operation: Operation) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return the operation on free tensors: points and tangent vectors are projected first.

    Finite differences leave the manifold; what an operation does there is not part of the contract.
    """
    manifold, inputs = case.manifold(), case.inputs()

    def function(*free: Tensor) -> tuple[Tensor, ...]:
        given: Inputs = {}
        for name, t in zip(operation.takes, free, strict=True):
            if name in ("x", "y"):
                given[name] = manifold.projx(t)
            elif name in ("u", "v"):
                given[name] = manifold.proju(given["x"], t)
            else:
                given[name] = t
        # The last term makes operations differentiable that are constant (a constant curvature).
        return tuple(result + 1e-3 * sum(t.square().sum() for t in free) for result in operation(manifold, given))

    return function, tuple(inputs[name].clone().requires_grad_() for name in operation.takes)


@each_operation()
def test_first_derivatives(case: Case, operation: Operation) -> None:
    function, free = _on_manifold(case, operation)
    assert torch.autograd.gradcheck(function, free)


@each_operation(where=first_of_its_kind)
def test_second_derivatives(case: Case, operation: Operation) -> None:
    function, free = _on_manifold(case, operation)
    # One random direction in inputs and one in outputs: an error in any entry shows, at a tenth of the time.
    assert torch.autograd.gradgradcheck(function, free, fast_mode=True)


def hard_inputs(case: Case, dtype: torch.dtype) -> list[tuple[str, Inputs]]:
    """Return inputs where textbook formulas divide zero by zero, and those that the row names."""
    inputs = case.inputs(dtype=dtype)
    zero = {name: torch.zeros_like(inputs[name]) for name in "uvw"}
    hard = [
        ("coincident points, zero tangents", {**inputs, "y": inputs["x"].clone(), **zero}),
        ("parallel tangents", {**inputs, "v": inputs["u"].clone()}),
    ]
    manifold = case.manifold()
    for i, pair in enumerate(case.hard_pairs):
        x, y = (torch.as_tensor(t, dtype=dtype) for t in pair)
        tangents = {name: manifold.proju(x, inputs[name]) for name in "uvw"}
        hard.append((f"hard pair {i}", {**inputs, "x": x, "y": y, "a": x, **tangents}))
        hard.append((f"hard pair {i}, zero tangents", {**inputs, "x": x, "y": y, "a": x, **zero}))
    return hard


@each_operation()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_values_and_gradients_are_finite_at_hard_points(case: Case, operation: Operation, dtype: torch.dtype) -> None:
    manifold = case.manifold()
    for what, inputs in hard_inputs(case, dtype):
        free = {name: inputs[name].clone().requires_grad_() for name in operation.takes}
        results = operation(manifold, free)
        total = sum(t.sum() for t in (*results, *(0.0 * t for t in free.values())))
        gradients = torch.autograd.grad(total, tuple(free.values()))
        for result in results:
            assert torch.isfinite(result).all(), f"value at {what}: {result}"
        for name, gradient in zip(free, gradients, strict=True):
            assert torch.isfinite(gradient).all(), f"gradient in {name!r} at {what}: {gradient}"

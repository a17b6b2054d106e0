"""Retractions agree with the exponential map to their order, by the slope of the error in log-log."""

import pytest
import torch
from cases import Case, each_case, first_of_its_kind

from holonomy.manifolds import check_retraction


@each_case("expmap", where=lambda case: case.retraction_order is not None, quick=first_of_its_kind)
def test_retraction_has_its_order(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs()
    result = check_retraction(manifold, inputs["x"], inputs["u"], order=case.retraction_order)
    assert result.holds, str(result)


@each_case("expmap", where=lambda case: case.retraction_order is None)
def test_the_retraction_that_is_exp_equals_exp(case: Case) -> None:
    manifold, inputs = case.manifold(), case.inputs(5)
    assert torch.equal(manifold.retr(inputs["x"], inputs["u"]), manifold.expmap(inputs["x"], inputs["u"]))
    assert manifold.reversible


@each_case(quick=first_of_its_kind)
def test_retraction_is_rigid_to_first_order(case: Case) -> None:
    """(retr(x, t u) - x) / t tends to u: uses no expmap."""
    manifold, inputs = case.manifold(), case.inputs(5)
    x, u = inputs["x"], inputs["u"]
    errors = []
    for t in (1e-2, 1e-4, 1e-6):
        difference = (manifold.retr(x, t * u) - manifold.retr(x, -t * u)) / (2.0 * t)
        errors.append(float((difference - u).abs().amax() / u.abs().amax()))
    # The central difference errs by O(t^2), then by rounding, eps/t. A wrong rigidity leaves a constant.
    assert errors[1] <= 1e-6, errors
    assert errors[2] <= 1e-8 * max(1.0, float(x.abs().amax())), errors


@each_case("retr", where=lambda case: len(case.kind.retractions) > 1)
def test_unknown_retractions_are_refused_by_name(case: Case) -> None:
    with pytest.raises(ValueError, match=rf"'retraction'.*{case.kind.retractions[0]}.*'nearest'"):
        case.kind(**{**case.arguments, "retraction": "nearest"})

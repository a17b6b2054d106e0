"""Sweeps over dimensions, the toy problem, and the checks."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from holonomy.models.adaptation.intrinsic_dimension import DenseProjection, SubspaceModel
from holonomy.theory.intrinsic_dimension import (
    IntrinsicDimensionResult,
    checks,
    description_length,
    measure_intrinsic_dimension,
    toy_problem,
)


def test_d_int_is_where_the_mean_crosses() -> None:
    result = IntrinsicDimensionResult((10, 20, 40), (0.2, 0.6, 1.0), (0.0,) * 3, 1.0, 0.9, 100)
    assert result.d_grid == 40
    assert result.d_int == pytest.approx(20 + 20 * 0.3 / 0.4)
    assert dataclasses.replace(result, mean=(0.95, 1.0, 1.0)).d_int == 10.0
    never = dataclasses.replace(result, mean=(0.1, 0.2, 0.3))
    assert never.d_grid is None
    assert never.d_int is None


class Point(nn.Module):
    """A module whose parameters are a point of R^40."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(40, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return toy_problem(40, 4).loss(self.theta)


def solve(model: nn.Module, seed: int) -> float:
    """1 where the toy problem is solved, else less: by least squares, which no step size can spoil."""
    least = toy_problem(40, 4).least_loss(model.projection) if isinstance(model, SubspaceModel) else 0.0
    return math.exp(-least)


@pytest.mark.parametrize("projection", ["dense", "sparse", "fastfood", "stiefel"])
def test_a_sweep_finds_the_codimension_of_the_solutions(projection: str) -> None:
    done: list[float] = []
    result = measure_intrinsic_dimension(
        lambda seed: Point(), solve, (1, 2, 3, 4, 5), threshold=1.0 - 1e-9, projection=projection, progress=done.append
    )
    assert result.D == 40
    assert result.baseline == 1.0
    # Sparse columns of so few places may be dependent, and then one more is needed.
    assert result.d_grid in ((4, 5) if projection == "sparse" else (4,))
    assert len(done) == 3 * 6
    assert done[-1] == 1.0
    stopped = measure_intrinsic_dimension(lambda seed: Point(), solve, (3, 4, 5), 1.0, 1.0 - 1e-9, stop=True)
    assert stopped.dims == (3, 4)


def test_the_toy_problem() -> None:
    problem = toy_problem()
    assert problem.targets.tolist() == list(range(1, 11))
    theta = torch.arange(1, 11.0).repeat_interleave(100) / 100.0
    assert float(problem.loss(theta)) < 1e-8
    assert float(problem.loss(torch.zeros(1000))) == pytest.approx(385.0)
    losses = [problem.least_loss(DenseProjection(1000, d, dtype=torch.float64)) for d in (2, 9, 10, 20)]
    assert losses[0] > losses[1] > 1e-3
    assert max(losses[2:]) < 1e-12


def test_description_length() -> None:
    assert description_length(750) == 32 * 750 + 64
    assert description_length(10, bits=16, seed_bits=0) == 160


def test_every_check_holds_and_refuses_what_is_wrong() -> None:
    found = checks(7)
    assert len(found) == 20
    for check in found:
        assert check.holds, check
        if check.relation == "equal":
            wrong = (0.8 * check.predicted, 1.2 * check.predicted)
        elif check.relation == "at least":
            wrong = (2.0 * check.measured,)
        else:
            wrong = (0.1 * check.measured,)
        for value in wrong if check.measured else ():
            assert not dataclasses.replace(check, predicted=value).holds, check


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measure_intrinsic_dimension(lambda s: Point(), solve, ()), "'dims' must increase"),
        (lambda: measure_intrinsic_dimension(lambda s: Point(), solve, (3, 2)), r"got \[3, 2\]"),
        (lambda: measure_intrinsic_dimension(lambda s: Point(), solve, (0, 2)), "at least 1"),
        (lambda: measure_intrinsic_dimension(lambda s: Point(), solve, (1,), threshold=0.0), r"in \(0, 1\], got 0.0"),
        (lambda: measure_intrinsic_dimension(lambda s: Point(), solve, (1,), threshold=1.1), "got 1.1"),
        (lambda: measure_intrinsic_dimension(lambda s: Point(), solve, (1,), seeds=()), "at least one seed"),
        (lambda: toy_problem(10, 3), "must divide D = 10, got 3"),
        (lambda: description_length(0), "d >= 1"),
    ],
)
def test_bad_arguments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]

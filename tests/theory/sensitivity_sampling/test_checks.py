"""The checks hold, the same data reject wrong laws, and wrong computations fail them."""

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.theory.check import Check
from holonomy.theory.sensitivity_sampling import checks as every_check
from holonomy.theory.sensitivity_sampling import sampler

code = import_module("holonomy.theory.sensitivity_sampling.checks")  # the package has a function of that name
PAGE = Path(__file__).parents[3] / "docs" / "papers" / "sensitivity_sampling.md"


@pytest.fixture(scope="module")
def measured() -> list[Check]:
    return every_check(seed=1)


def test_every_law_holds(measured: list[Check]) -> None:
    assert [check for check in measured if not check.holds] == []
    assert len(measured) >= 30


@pytest.mark.parametrize(
    ("words", "how", "wrong"),
    [
        ("l_2 sensitivities", "", -1e-8),
        # Rows of the identity have s = w = 1, on the boundary of both sides: no smaller constant will do.
        ("s_i <= w_i", "p = 1:", 0.99),
        ("s_i <= w_i", "p = 1.5:", 0.99),
        ("s_i >= w_i", "p = 3:", 1.01),
        ("s_i >= w_i", "p = 3.5:", 1.01),
        ("s_i <= w_i", "p = 2:", 0.99),
        # d^((p-1)/2 - 1/2) and the like: the other side is within a third of its bound
        ("s_i >= d^(p/2-1) w_i", "p = 1:", 1.35),
        ("s_i <= d^(p/2-1) w_i", "p = 3:", 0.66),
        ("weights that have not converged", "", 0.6),
        ("tends to Gamma", "p = 1,", 16**0.5),
        ("tends to Gamma", "p = 1,", 1.05 * 4.9356),
        ("tends to Gamma", "p = 1.5", 16**0.75),
        ("tends to Gamma", "p = 3", 16**1.5),
        ("lewis sampling: ratio", "", 1.05),
        ("sensitivity sampling: ratio", "p = 1,", 0.95),
        ("largest ratio", "d = 8", 0.5),
        ("exponent of n is 1 - p/2", "p = 1,", 0.45),
        ("exponent of n is 1 - p/2", "p = 1,", 1.0),
        ("exponent of n is 1 - p/2", "p = 1.5", 0.5),
        # S >= d, as for p >= 2; and S >= d^(p/2) above it
        ("S >= d^(p/2)", "p = 1,", 5.0),
        ("S >= d^(p/2)", "p = 1.5,", 5.0),
        ("S >= d^(p/2)", "p = 3,", 5.0**1.5),
    ],
)
def test_the_data_reject_a_wrong_law(measured: list[Check], words: str, how: str, wrong: float) -> None:
    found = [check for check in measured if words in check.theorem and how in check.how]
    assert found
    assert not all(replace(check, predicted=wrong).holds for check in found)


@pytest.mark.parametrize(
    ("words", "target", "spoiled"),
    [
        # a root that is forgotten, or taken twice
        ("tau_i^(p/2)", "leverage_scores", lambda function: lambda A: function(A) ** 0.5),
        ("unit vectors", "flat_matrix", lambda function: lambda n, d, rng: function(n, d, rng) ** 3),
        ("s_i(A R)", "lp_sensitivities", lambda function: lambda A, p, **k: function(A, p, **k) * (1 + 1e-3 * A[:, 0])),
        ("k copies of a row", "_first", lambda function: lambda A, k, p: function(A, k, p) ** (p + 1.0)),
        ("its blocks", "tight_instance", lambda function: lambda *a: function(*a) + 0.1),
        ("linear programme", "lp_sensitivities", lambda function: lambda A, p, method: function(A, p, method=method)
            * (1.01 if method == "irls" else 1.0)),
        ("have not converged", "sensitivity_bounds", lambda function: lambda A, p, max_iter: tuple(
            b * 1.5 ** (1 - 2 * k) * 1.0 for k, b in enumerate(function(A, p, max_iter=max_iter)))),
    ],
)  # fmt: skip
def test_a_wrong_computation_fails(
    monkeypatch: pytest.MonkeyPatch, words: str, target: str, spoiled: Callable[[Callable], Callable]
) -> None:
    monkeypatch.setattr(code, target, spoiled(getattr(code, target)))
    parts = {
        "tau_i^(p/2)": code.root_leverage,
        "unit vectors": code.closed_form,
        "s_i(A R)": code.invariance,
        "k copies of a row": code.invariance,
        "its blocks": code.blocks,
        "linear programme": lambda rng: [code.programme(rng)],
        "have not converged": code.unfinished_sandwich,
    }
    found = [check for check in parts[words](np.random.default_rng(0)) if words in check.theorem]
    assert found
    assert not all(check.holds for check in found)


def test_the_weight_that_forgets_the_root_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: q^-1 on the row for q^(-1/p) passes for p = 1 alone."""
    right = sampler.draw

    def wrong(q: torch.Tensor, p: float, rng: np.random.Generator) -> sampler.RowSample:
        return replace(found := right(q, p, rng), weights=1.0 / found.q)

    monkeypatch.setattr(sampler, "draw", wrong)
    assert [check.holds for check in code.unbiased(np.random.default_rng(0), draws=500)] == [True, False, False]


def test_the_pages_code_runs() -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    exec(text, names)
    # A sample of an eighth of the rows; its loss on all of them is within a fifth of the best.
    assert names["excess"] < 0.2

"""Root leverage sampling in rounds: as few rows as Lewis weights give, from leverage scores alone (p < 2).

sum_i tau_i^(p/2) <= n^(1-p/2) d^(p/2) by Hölder's inequality. A round that keeps rows with probability
min(1, c tau_i^(p/2)) therefore leaves at most c n^(1-p/2) d^(p/2) rows in the mean: the logarithm of n over its fixed
point c^(2/p) d shrinks by 1 - p/2 a round. Woodruff and Yasuda, Sharper bounds for l_p sensitivity sampling.
"""

from math import ceil, log2

import numpy as np
import torch

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, check_p
from holonomy.theory.sensitivity_sampling.leverage import leverage_scores
from holonomy.theory.sensitivity_sampling.sampler import RandomState, RowSample, draw

#: A round that is expected to leave more than this part of the rows is the last, and is not made.
WORTHWHILE = 0.95


def recursive_root_leverage(
    A: Array, p: float, c: float, max_rounds: int | None = None, random_state: RandomState = None
) -> tuple[RowSample, list[int]]:
    """Sample by tau^(p/2) again and again, with the leverage scores of the weighted rows that are left.

    Parameters
    ----------
    A : numpy.ndarray or Tensor
        (n, d), of full column rank.
    p : float
        In [1, 2).
    c : float
        Rate: a row is kept with probability min(1, c tau^(p/2)). The end is at some c^(2/p) d rows.
    max_rounds : int, optional
        Most rounds; ceil(log2 log2 n) + 3 when left out, for O(log log n). Rounds also end where a further one would
        leave more than 95 % of the rows.
    random_state : int, numpy.random.Generator or None
        Seed or generator.

    Returns
    -------
    sample : RowSample
        Rows of A with the weights of all rounds; ``q`` is the product of the rounds' probabilities, and
        ``expected_size`` that of the last round given the ones before.
    sizes : list of int
        Rows at the start and after each round.

    Raises
    ------
    TypeError
        If A is no array of real numbers.
    ValueError
        If p is outside [1, 2), c is not positive, ``max_rounds`` is below 1, A is not as `leverage_scores` wants it, or
        c is so small that the rows of a round are of lower rank.
    """
    if not check_p(p) < 2:
        raise ValueError(f"p must be in [1, 2), got {p}")
    if not (np.isfinite(c) and c > 0):
        raise ValueError(f"c must be positive and finite, got {c}")
    values, wrap = as_matrix(A)
    rounds = ceil(log2(max(log2(len(values)), 1.0))) + 3 if max_rounds is None else max_rounds
    if rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}")
    rng = np.random.default_rng(random_state)
    indices = torch.arange(len(values), device=values.device)
    kept = values.new_ones(len(values))
    sizes, expected = [len(values)], float(len(values))
    for _ in range(rounds):
        weighted = kept[:, None] ** (-1.0 / p) * values[indices]
        q = (c * _scores(weighted, c, p)).clamp_max(1.0)
        if float(q.sum()) > WORTHWHILE * len(q):
            break
        found = draw(q, p, rng)
        indices, kept = indices[found.indices], kept[found.indices] * found.q
        sizes.append(len(indices))
        expected = found.expected_size
    sample = RowSample(wrap(indices), wrap(kept ** (-1.0 / p)), wrap(kept), expected)
    return sample, sizes


def _scores(weighted: torch.Tensor, c: float, p: float) -> torch.Tensor:
    """tau^(p/2) of the rows that are left."""
    try:
        return leverage_scores(weighted) ** (p / 2)
    except ValueError as error:
        raise ValueError(
            f"c must be larger for the rows of every round to span the columns, got {c}: {error}"
        ) from error

"""Which labels the rule can give: loci of weighted Fréchet means, covers, and the next label to observe.

m(w) is the set of minimisers of sum_i w_i d(y, lambda_i)^2, and the locus of Lambda is the union of m(w) over all
weights w of the simplex. Three ways to it, none by sampling, which would miss minimisers at single weights:

- ``"tree"``: the nodes on paths between observed labels; exact where labels are all nodes of a tree.
- ``"pairs"``: the union of the loci of pairs, each the lower envelope of lines in w. Exact on trees of all nodes; a
  subset elsewhere, also for trees of which only the leaves are labels.
- ``"lp"``: a linear program a label, exact for every metric.
"""

from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy.optimize import linprog
from torch import Tensor

from holonomy.models.adaptation.loki.validation import check_distances, check_observed, label_indices

__all__ = ["is_locus_cover", "locus", "minimum_locus_cover", "next_class", "pair_locus"]

Method = Literal["tree", "pairs", "lp"]
#: Largest excess over the least expected square that counts as a tie, in units of the largest square: sums of squares
#: round at 1e-16 of it, and shortest paths over many edges at some hundred times that.
_TIE = 1e-12
#: The same for linear programs, whose solver is asked for a feasibility of 1e-10.
_LP_TIE = 1e-8
#: Labels up to which the smallest cover is searched for among all subsets.
_MOST = 20


def pair_locus(D: Any, i: int, j: int) -> set[int]:
    """Labels y that minimise w d(y, i)^2 + (1 - w) d(y, j)^2 for a w in [0, 1], ties included.

    The lines f_y(w) have a lower envelope, whose breakpoints are found exactly from the hull of the points (d(y, i)^2,
    d(y, j)^2) in O(N log N); a line that meets the envelope does so at a breakpoint or an end.

    Parameters
    ----------
    D : array-like or Tensor
        Distances (N, N).
    i, j : int
        Two labels; of one label twice the locus are the labels at distance 0.

    Raises
    ------
    TypeError, ValueError
        Where D is no metric or a label is not of it.
    """
    array = _read("pair_locus", D)
    label_indices("pair_locus", "i, j", np.array([i, j]), len(array))
    return set(np.flatnonzero(_pair(array, i, j, False)).tolist())


def locus(D: Any, observed: Any, method: Method = "pairs", identifying: bool = False) -> np.ndarray:
    """Which labels minimise sum_i w_i d(y, lambda_i)^2 for some weights of the observed labels.

    Parameters
    ----------
    D : array-like or Tensor
        Distances (N, N).
    observed : array-like
        Indices of the observed labels.
    method : {"tree", "pairs", "lp"}, default "pairs"
        As the module says: exact on trees of all nodes; a subset where the locus is not made of pairs; exact.
    identifying : bool, default False
        Count only labels that are the one minimiser for some weights.

    Returns
    -------
    ndarray
        bool (N,).

    Raises
    ------
    TypeError, ValueError
        Where D is no metric, observed labels are none, or the method is unknown.
    """
    array = _read("locus", D)
    index = check_observed("locus", observed, len(array))
    return _locus(array, index, method, identifying)


def is_locus_cover(D: Any, observed: Any, method: Method = "pairs", identifying: bool = False) -> bool:
    """Whether every label is in the locus of the observed ones; arguments as of `locus`."""
    array = _read("is_locus_cover", D)
    return bool(_locus(array, check_observed("is_locus_cover", observed, len(array)), method, identifying).all())


def minimum_locus_cover(
    D: Any, kind: Literal["tree", "grid", "greedy", "exact"] = "greedy", method: Method = "pairs"
) -> np.ndarray:
    """Few labels whose locus is all of them.

    Parameters
    ----------
    D : array-like or Tensor
        Distances (N, N).
    kind : {"tree", "grid", "greedy", "exact"}, default "greedy"
        The leaves of a tree, whose labels are all nodes; two opposite corners of a grid with Manhattan distance; drop
        one label after the other, from the first, while the rest still covers; or a smallest subset, by trying all.
    method : {"tree", "pairs", "lp"}, default "pairs"
        How "greedy" and "exact" find loci. With "pairs" the result is a cover always, and where the locus is more than
        pairs, as where the labels are the leaves of a tree, "lp" may find a smaller one.

    Returns
    -------
    ndarray
        Indices, rising.

    Raises
    ------
    TypeError
        Where D is not of real numbers.
    ValueError
        Where D is no metric, `kind` or `method` is unknown, "tree" or "grid" is asked of a D that is none, or "exact"
        of more than 20 labels.
    """
    array = _read("minimum_locus_cover", D)
    n = len(array)
    if kind == "tree":
        inner = np.array([_is_between(array, y) for y in range(n)])
        return _covering(array, np.flatnonzero(~inner), "tree", "the leaves of a tree")
    if kind == "grid":
        ends = np.array(np.unravel_index(array.argmax(), array.shape)) if n > 1 else np.array([0])
        return _covering(array, np.unique(ends), "pairs", "two corners of a grid")
    if kind == "greedy":
        return _greedy_cover(array, method)
    if kind != "exact":
        raise ValueError(f"minimum_locus_cover: 'kind' must be 'tree', 'grid', 'greedy' or 'exact', got {kind!r}")
    if n > _MOST:
        raise ValueError(f"minimum_locus_cover: 'exact' tries all subsets of at most {_MOST} labels, got {n}")
    return next(
        np.array(subset)
        for size in range(1, n + 1)
        for subset in combinations(range(n), size)
        if _locus(array, np.array(subset), method, False).all()
    )


def next_class(
    D: Any,
    observed: Any,
    method: Literal["gain", "farthest", "random"] = "gain",
    *,
    locus_method: Method = "pairs",
    candidates: Any = None,
    generator: np.random.Generator | None = None,
) -> int:
    """Label to observe next, so that the locus grows.

    Parameters
    ----------
    D : array-like or Tensor
        Distances (N, N).
    observed : array-like
        Indices of the observed labels.
    method : {"gain", "farthest", "random"}, default "gain"
        The label whose locus with the observed ones is largest; the label farthest from their locus, which has the
        largest gain in a tree of all nodes with edges of one length (a long edge counts as one label otherwise); or any
        that is not observed. Of ties the lowest index.
    locus_method : {"tree", "pairs", "lp"}, default "pairs"
        How loci are found.
    candidates : array-like, optional
        Labels to choose from; by default all. With the leaves of a tree as candidates, and D of all its nodes, the
        farthest leaf is found where only leaves can be observed.
    generator : numpy.random.Generator, optional
        Of "random".

    Raises
    ------
    TypeError, ValueError
        Where D is no metric, labels are none, a method is unknown, or every candidate is observed.
    """
    array = _read("next_class", D)
    index = check_observed("next_class", observed, len(array))
    among = (
        np.arange(len(array)) if candidates is None else label_indices("next_class", "candidates", candidates, len(D))
    )
    free = np.unique(among[~np.isin(among, index)])
    if len(free) == 0:
        raise ValueError("next_class: every candidate is observed")
    if method == "random":
        return int((generator or np.random.default_rng()).choice(free))
    own = _locus(array, index, locus_method, False)
    if method == "farthest":
        return int(free[array[np.ix_(free, np.flatnonzero(own))].min(1).argmax()])
    if method != "gain":
        raise ValueError(f"next_class: 'method' must be 'gain', 'farthest' or 'random', got {method!r}")
    sizes = [_grown(array, index, own, int(y), locus_method) for y in free]
    return int(free[int(np.argmax(sizes))])


def _grown(D: np.ndarray, index: np.ndarray, own: np.ndarray, y: int, method: Method) -> int:
    """Size of the locus with one more label; only pairs with that label are new."""
    if method == "lp":
        return int(_locus(D, np.append(index, y), method, False).sum())
    found = own.copy()
    for i in index:
        found |= _of_pair(D, int(i), y, method, False)
    return int(found.sum())


def _read(where: str, D: Any) -> np.ndarray:
    array = np.asarray(D.detach().cpu() if isinstance(D, Tensor) else D)
    check_distances(where, array)
    return array.astype(np.float64)


def _locus(D: np.ndarray, index: np.ndarray, method: Method, identifying: bool) -> np.ndarray:
    if method == "lp":
        return _programs(D, index, identifying)
    if method not in ("tree", "pairs"):
        raise ValueError(f"locus: 'method' must be 'tree', 'pairs' or 'lp', got {method!r}")
    found = _of_pair(D, int(index[0]), int(index[0]), method, identifying)
    for i, j in combinations(index.tolist(), 2):
        found |= _of_pair(D, i, j, method, identifying)
    return found


def _of_pair(D: np.ndarray, i: int, j: int, method: Method, identifying: bool) -> np.ndarray:
    if method == "pairs":
        return _pair(D, i, j, identifying)
    # Lengths, not squares: some hundred roundings of a sum. Nodes of a path are minimisers at weights of their own.
    return np.asarray(D[i] + D[j] <= D[i, j] + 1e-9 * D.max())


def _pair(D: np.ndarray, i: int, j: int, identifying: bool) -> np.ndarray:
    a, b = D[i] ** 2, D[j] ** 2
    tie = _TIE * max(float(D.max()) ** 2, np.finfo(float).tiny)
    ends = _breakpoints(a, b)
    values = np.outer(ends, a) + np.outer(1.0 - ends, b)
    if not identifying:
        return (values <= values.min(1, keepdims=True) + tie).any(0)
    # A line that is alone at some w is alone between two breakpoints: halfway, or at an end.
    middles = np.concatenate([[0.0, 1.0], 0.5 * (ends[1:] + ends[:-1])])
    values = np.outer(middles, a) + np.outer(1.0 - middles, b)
    near = values <= values.min(1, keepdims=True) + tie
    return near[near.sum(1) == 1].any(0)


def _breakpoints(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Weights w, rising from 0 to 1, where the least of w a + (1 - w) b changes its line."""
    order = np.lexsort((b, a))
    x, y = a[order], b[order]
    # Only points that none to their left is below can be lowest.
    least = np.minimum.accumulate(np.concatenate([[np.inf], y[:-1]]))
    x, y = x[y < least], y[y < least]
    hull: list[int] = []
    for k in range(len(x)):
        while len(hull) > 1:
            o, m = hull[-2], hull[-1]
            # The middle one is on the hull where it is below the chord.
            if (x[m] - x[o]) * (y[k] - y[o]) - (y[m] - y[o]) * (x[k] - x[o]) > 0.0:
                break
            hull.pop()
        hull.append(k)
    run, fall = np.diff(x[hull]), -np.diff(y[hull])
    return np.unique(np.concatenate([[0.0, 1.0], fall / (run + fall)]))


def _programs(D: np.ndarray, index: np.ndarray, identifying: bool) -> np.ndarray:
    """For each label the largest t with sum_i w_i (d(y', i)^2 - d(y, i)^2) >= t for all others y'."""
    squares = D[index].T ** 2
    squares = squares / max(float(squares.max()), np.finfo(float).tiny)
    found = np.zeros(len(D), dtype=bool)
    # What a pair reaches needs no program.
    known = _locus(D, index, "pairs", identifying)
    weights = np.append(np.ones(len(index)), 0.0)[None]
    for y in range(len(D)):
        if known[y]:
            found[y] = True
            continue
        others = np.delete(squares, y, axis=0)
        rows = np.hstack([squares[y] - others, np.ones((len(others), 1))])
        program = linprog(
            np.append(np.zeros(len(index)), -1.0),
            A_ub=rows,
            b_ub=np.zeros(len(others)),
            A_eq=weights,
            b_eq=[1.0],
            bounds=[(0.0, 1.0)] * len(index) + [(-2.0, 2.0)],
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if not program.success:
            raise RuntimeError(f"locus: the linear program of label {y} was not solved: {program.message}")
        found[y] = -program.fun > _LP_TIE if identifying else -program.fun >= -_LP_TIE
    return found


def _is_between(D: np.ndarray, y: int) -> bool:
    """Whether a label lies on a shortest path between two others."""
    sums = D[y][:, None] + D[y][None]
    through = sums <= D + 1e-9 * D.max()
    through[y] = False
    through[:, y] = False
    return bool(through.any())


def _covering(D: np.ndarray, labels: np.ndarray, method: Method, what: str) -> np.ndarray:
    if len(labels) == 0 or not _locus(D, labels, method, False).all():
        raise ValueError(f"minimum_locus_cover: 'D' is not of the kind asked for: {what} do not cover it")
    return labels


def _greedy_cover(D: np.ndarray, method: Method) -> np.ndarray:
    kept = list(range(len(D)))
    for y in range(len(D)):
        rest = [k for k in kept if k != y]
        if rest and _locus(D, np.array(rest), method, False).all():
            kept = rest
    return np.array(kept)

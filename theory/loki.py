"""Which labels a weighted Fréchet mean can reach, on trees, grids, cycles and complete graphs; and what learning costs.

The locus of observed labels is the set of minimisers of sum_i w_i d(y, lambda_i)^2 over all weights. On a tree whose
nodes are all labels it is the union of the paths between observed ones, and the leaves are the least cover. With the
leaves alone as labels pairs do not make up the locus. A node farthest from the locus gains most where edges have one
length.

Source: Roberts, Li, Huang, Adila, Schoenberg, Liu, Pick, Ma, Albarghouthi, Sala, Geometry-aware adaptation for
pretrained models, NeurIPS 2023, sections 3 and 4. The paper's rate for a softmax model is diam^2 poly(K, d)/sqrt(n),
constants not stated: what is checked is that the exponent of n is at most -1/2 and that error grows with the diameter.
"""

from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from holonomy.models.adaptation.loki import (
    frechet_predict,
    grid_metric,
    is_locus_cover,
    locus,
    minimum_locus_cover,
    next_class,
    tree_metric,
)
from holonomy.theory.check import Check
from holonomy.theory.statistics import fit_exponent

__all__ = ["checks"]


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; some seconds."""
    rng = np.random.default_rng(seed)
    return [
        *trees(rng),
        *regular_graphs(),
        *next_labels(rng),
        *leaves_as_labels(rng),
        *learning(rng),
    ]


def random_tree(n: int, rng: np.random.Generator, lengths: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Distances (n, n) in a random recursive tree, lengths of edges uniform."""
    return tree_metric([(int(rng.integers(0, v)), v, float(rng.uniform(*lengths))) for v in range(1, n)])


def leaves(D: np.ndarray) -> np.ndarray:
    """Leaves of a tree of all nodes: those between no two others."""
    return minimum_locus_cover(D, "tree")


def trees(rng: np.random.Generator, trials: int = 20, n: int = 12) -> list[Check]:
    """Loci of observed nodes against the linear programs, and against random weights."""
    missed = apart = beyond = below = smaller = 0
    for _ in range(trials):
        D = random_tree(n, rng, (0.2, 2.0))
        ends = leaves(D)
        missed += int((~locus(D, ends, "tree")).sum())
        observed = rng.choice(n, 3, replace=False)
        paths = locus(D, observed, "tree")
        apart += int((paths != locus(D, observed, "lp")).sum())
        found = np.zeros(n, dtype=bool)
        found[frechet_predict(rng.dirichlet(np.full(3, 0.5), 20_000), D, observed=observed).numpy()] = True
        beyond += int((found & ~paths).sum())
        below += int((~found & paths).sum())
        smaller += sum(is_locus_cover(D, np.delete(ends, k), "lp") for k in range(len(ends)) if len(ends) > 1)
    how = f"{trials} random trees of {n} nodes, lengths of 0.2 to 2"
    drawn = f"{how}, 3 observed nodes"
    return [
        Check("the leaves of a tree reach every node: nodes that they miss", 0.0, float(missed), how),
        Check("no leaf can be left out: covers with one leaf less", 0.0, float(smaller), f"{how}, linear programs"),
        Check("a locus is the union of paths: nodes where a linear program differs", 0.0, float(apart), drawn),
        Check("no weights leave the paths: nodes found beyond", 0.0, float(beyond), f"{drawn}, 20,000 weights"),
        Check("weights reach all of the paths: nodes not found", 0.0, float(below), f"{drawn}, 20,000 weights"),
    ]


def regular_graphs() -> list[Check]:
    """Sizes of loci and covers that the paper states for grids, complete graphs and cycles."""
    grid, complete = grid_metric((4, 5)), 1.0 - np.eye(6)
    apart = np.abs(np.arange(9)[:, None] - np.arange(9))
    cycle = np.minimum(apart, 9 - apart).astype(float)
    small = grid_metric((3, 3))
    return [
        Check(
            "grid: labels that two opposite corners reach", 20.0, _size(grid, [0, 19]), "4 x 5, Manhattan, ties count"
        ),
        Check(
            "grid: labels of a least cover", 2.0, float(len(minimum_locus_cover(small, "exact", "lp"))), "3 x 3, all"
        ),
        Check("complete graph: labels that 3 of 6 reach", 3.0, _size(complete, [0, 1, 2]), "linear programs"),
        Check(
            "complete graph: labels of a least cover",
            6.0,
            float(len(minimum_locus_cover(complete, "exact", "lp"))),
            "6 nodes, all subsets",
        ),
        Check("cycle of 9: labels that 0, 3, 6 reach", 9.0, _size(cycle, [0, 3, 6]), "linear programs"),
        Check("cycle of 9: labels that 0, 4 reach", 5.0, _size(cycle, [0, 4]), "linear programs"),
    ]


def _size(D: np.ndarray, observed: list[int]) -> float:
    return float(locus(D, observed, "lp").sum())


def next_labels(rng: np.random.Generator, trials: int = 60, n: int = 20) -> list[Check]:
    """Locus after the farthest node less that after the best one: with edges of one length, and of many."""
    losses = []
    for lengths in ((1.0, 1.0), (0.1, 3.0)):
        worst = 0
        for _ in range(trials):
            D = random_tree(n, rng, lengths)
            observed = rng.choice(n, 3, replace=False)
            sizes = [
                int(locus(D, np.append(observed, next_class(D, observed, way, locus_method="tree")), "tree").sum())
                for way in ("gain", "farthest")
            ]
            worst = max(worst, sizes[0] - sizes[1])
        losses.append(float(worst))
    how = f"{trials} random trees of {n} nodes, 3 observed"
    return [
        Check("edges of one length: the farthest node gains most: largest loss", 0.0, losses[0], how),
        Check(
            "edges of many lengths: it need not: largest loss", 1.0, losses[1], f"{how}, lengths 0.1 to 3", "at least"
        ),
    ]


def leaves_as_labels(rng: np.random.Generator, trials: int = 40, n: int = 24, covers: int = 12) -> list[Check]:
    """Trees of which the leaves are labels: what pairs reach, and what all weights do."""
    wrong = more = 0
    saved = []
    for trial in range(trials):
        whole = random_tree(n, rng, (0.2, 2.0))
        ends = leaves(whole)
        D = whole[np.ix_(ends, ends)]
        observed = rng.choice(len(ends), max(2, len(ends) // 2), replace=False)
        pairs, exact = locus(D, observed, "pairs"), locus(D, observed, "lp")
        wrong += int((pairs & ~exact).sum())
        more += int((exact & ~pairs).sum())
        if trial < covers:
            saved.append(1.0 - len(minimum_locus_cover(D, "greedy", "lp")) / len(ends))
    how = f"leaves of {trials} random trees of {n} nodes, half of them observed"
    return [
        Check("leaves as labels: pairs reach no more than all weights: labels beyond", 0.0, float(wrong), how),
        Check("leaves as labels: all weights reach more than pairs: labels more", 1.0, float(more), how, "at least"),
        Check(
            "leaves as labels: a cover needs fewer than all: mean share saved",
            0.05,
            float(np.mean(saved)),
            f"leaves of {covers} random trees of {n} nodes, labels dropped one by one",
            "at least",
        ),
    ]


# -- learning --------------------------------------------------------------------------------------------------------


def learning(rng: np.random.Generator, trials: int = 16) -> list[Check]:
    """Squared distance between the label under fitted probabilities and that under the true ones, in n and diameter."""
    sizes = (200, 400, 800, 1600, 3200)
    samples = [np.array([_excess(n, 1.0, rng) for _ in range(trials)]) for n in sizes]
    low, exponent, high = fit_exponent(sizes, samples, statistic=np.mean)
    how = f"softmax model of 4 landmarks on a line, 3 features, {trials} draws"
    widths = (1.0, 2.0, 4.0, 8.0)
    means = [float(np.mean([_excess(400, width, rng) for _ in range(trials)])) for width in widths]
    return [
        Check(
            "expected squared distance falls at least as 1/sqrt(n): exponent",
            -0.5,
            exponent,
            f"{how}, n = {sizes[0]} to {sizes[-1]}",
            "at most",
            low,
            high,
        ),
        Check(
            "it grows with the diameter: least ratio from one to twice as wide",
            1.0,
            float(min(b / a for a, b in pairwise(means))),
            f"{how}, n = 400, diameters {', '.join(f'{w:g}' for w in widths)}, labels 1/200 apart",
            "at least",
        ),
    ]


def _excess(n: int, width: float, rng: np.random.Generator, K: int = 4, q: int = 3, tests: int = 400) -> float:
    """Mean squared distance on new inputs, for a model fitted to n samples by maximum likelihood."""
    line = np.arange(0.0, width + 1e-9, 0.005)
    observed = np.linspace(0, len(line) - 1, K).round().astype(int)
    D = np.abs(line[observed][:, None] - line)
    B = rng.normal(size=(q, K))
    x = rng.normal(size=(n, q))
    y = (rng.gumbel(size=(n, K)) + x @ B).argmax(1)
    new = torch.from_numpy(rng.normal(size=(tests, q)))
    fitted, true = (frechet_predict((new @ w).softmax(1), D).numpy() for w in (_fit(x, y, K), torch.from_numpy(B)))
    return float(np.square(line[fitted] - line[true]).mean())


def _fit(x: np.ndarray, y: np.ndarray, K: int) -> torch.Tensor:
    """Coefficients (q, K) of greatest likelihood; the slightest ridge makes them unique."""
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.zeros(x.shape[1], K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weights, labels) + 1e-8 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()

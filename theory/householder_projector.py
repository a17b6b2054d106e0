"""What the Householder projector rests on: reflections, the nearest partial isometry, and what a path length measures.

A product of k reflections has determinant (-1)^k, whatever the vectors and their lengths, and its compact form I - Y T
Y^T has no entry of T above 4. The first r singular pairs of a matrix make the partial isometry of rank r that is
nearest to it, at squared distance |A|^2 - 2 (s_1 + ... + s_r) + r. A direction's path length is the squared stretch of
the generator's derivative: for a linear layer |A v|^2, so that to make r singular values 1 changes the path length by
the square of what they were, whatever else it does.

Source: Song, Zhang, Sebe and Wang, Householder projector for unsupervised latent semantics discovery (ICCV 2023).
"""

import numpy as np
import torch
from torch import Tensor

from holonomy.manifolds.linalg import gram_gap, haar
from holonomy.models.representation.householder_projector import (
    HouseholderProjector,
    compact_wy,
    householder_product,
    path_length,
    sefa_directions,
)
from holonomy.theory.check import Check
from holonomy.theory.statistics import mean_interval

__all__ = ["checks"]

DTYPE = torch.float64
#: Bootstrap intervals cover this much: all of them together err less than once in a hundred runs.
CONFIDENCE = 0.999


def checks(seed: int = 0) -> list[Check]:
    """Run every check, drawing from `seed`; a second or two."""
    generator = torch.Generator().manual_seed(seed)
    return [*reflections(generator), *uniform_columns(generator), *nearest(generator), *lengths(generator)]


def normal(generator: torch.Generator, *size: int) -> Tensor:
    """Independent normal numbers."""
    return torch.randn(*size, dtype=DTYPE, generator=generator)


def reflections(generator: torch.Generator) -> list[Check]:
    """Orthogonality, determinant, bounded compact form, and gradients orthogonal to the vectors."""
    scales = 10.0 ** (200.0 * torch.rand(1, 40, dtype=DTYPE, generator=generator) - 100.0)
    vectors = normal(generator, 60, 40) * scales
    how = "40 vectors of R^60, lengths from 1e-100 to 1e100, float64"
    product = householder_product(vectors)
    nearly = normal(generator, 60, 1) + 1e-6 * normal(generator, 60, 40)
    leaf = normal(generator, 60, 40).requires_grad_()
    (gradient,) = torch.autograd.grad((householder_product(leaf) * normal(generator, 60, 60)).sum(), leaf)
    across = (gradient * leaf.detach()).sum(0).abs() / (gradient.norm(dim=0) * leaf.detach().norm(dim=0))
    odd = householder_product(vectors[:, :39])
    # A determinant of 60 columns is right to some sixty roundings.
    slack = 1e-12
    determinants = [float(torch.linalg.det(q)) for q in (product, odd)]
    return [
        Check("a product of reflections is orthogonal: |Q^T Q - I|", 1e-12, gram_gap(product), how, "at most"),
        Check(
            "determinant of a product of 40 reflections",
            1.0,
            determinants[0],
            how,
            low=determinants[0] - slack,
            high=determinants[0] + slack,
        ),
        Check(
            "determinant of a product of 39 reflections",
            -1.0,
            determinants[1],
            how,
            low=determinants[1] - slack,
            high=determinants[1] + slack,
        ),
        Check(
            "compact form I - Y T Y^T: largest entry of T",
            4.0 + 1e-9,
            float(compact_wy(nearly)[1].abs().max()),
            "40 vectors of R^60, all but parallel (1e-6), float64",
            "at most",
        ),
        Check(
            "lengths do not matter: cosine of gradient and vector",
            1e-12,
            float(across.max()),
            "40 vectors of R^60, a random linear function of the product, float64",
            "at most",
        ),
    ]


def uniform_columns(generator: torch.Generator, n: int = 12, k: int = 3, draws: int = 4000) -> list[Check]:
    """Mean square of an entry of a projector's direction, drawn uniformly from the sphere."""
    columns = haar((draws, n, k), DTYPE, None, generator)
    how = f"{draws} uniform {k}-frames of R^{n}, float64"
    squares = columns[:, 0, 0].square().numpy()
    low, measured, high = mean_interval(squares, confidence=CONFIDENCE)
    result = [Check("random columns: E q_11^2 = 1/n", 1.0 / n, measured, how, low=low, high=high)]
    # The share of a random direction's stretch that a rank-r projector keeps.
    layer = HouseholderProjector(n, n, k, dtype=DTYPE, generator=generator)
    v = torch.nn.functional.normalize(normal(generator, draws, n), dim=1)
    kept = (v @ layer.weight.detach().mT).square().sum(1).numpy()
    low, measured, high = mean_interval(kept, confidence=CONFIDENCE)
    result.append(Check("random unit directions: E |A v|^2 = r/d, not 1", k / n, measured, how, low=low, high=high))
    return result


def nearest(generator: torch.Generator, rank: int = 4, others: int = 1000) -> list[Check]:
    """Distance of a matrix to its nearest partial isometry, and to others."""
    layer = torch.nn.Linear(12, 9, bias=False, dtype=DTYPE)
    with torch.no_grad():
        layer.weight.copy_(normal(generator, 9, 12))
    a = layer.weight.detach()
    found = HouseholderProjector.from_linear(layer, rank).weight.detach()
    s = torch.linalg.svdvals(a)
    wanted = float(a.square().sum() - 2.0 * s[:rank].sum() + rank)
    distance = float((a - found).square().sum())
    how = f"a normal 9 x 12 matrix, rank {rank}, float64"
    near = [torch.linalg.svd(found + 0.05 * normal(generator, 9, 12), full_matrices=False) for _ in range(others)]
    rivals = [float((a - u[:, :rank] @ vh[:rank]).square().sum()) for u, _, vh in near]
    slack = 1e-11 * wanted
    return [
        Check(
            "nearest partial isometry: squared distance |A|^2 - 2 (s_1 + ... + s_r) + r",
            wanted,
            distance,
            how,
            low=distance - slack,
            high=distance + slack,
        ),
        Check(
            "others of its rank are further: least squared distance over its own",
            1.0,
            float(np.min(rivals)) / distance,
            f"{how}; {others} others near it",
            "at least",
        ),
    ]


def lengths(generator: torch.Generator, k: int = 4) -> list[Check]:
    """Path lengths of linear layers along SeFa's directions and the projector's."""
    layer = torch.nn.Linear(12, 9, bias=False, dtype=DTYPE)
    with torch.no_grad():
        layer.weight.copy_(2.0 * normal(generator, 9, 12))
    ws = normal(generator, 400, 12)
    rows = sefa_directions(layer.weight, k)
    values = torch.linalg.svdvals(layer.weight.detach())[:k].square()
    how = f"a normal 9 x 12 layer, {k} directions, 400 codes, eps = 1e-3, float64"
    projector = HouseholderProjector.from_linear(layer, k)
    result = []
    # Differences of outputs of size 10 over eps squared.
    slack = 1e-8
    for i in (0, k - 1):
        measured = path_length(layer, ws, rows[i : i + 1], eps=1e-3, rng=generator)
        wanted = float(values[i])
        theorem = f"path length of a linear layer along SeFa's direction {i + 1}: s^2"
        result.append(
            Check(
                theorem,
                wanted,
                measured,
                how,
                low=measured * (1 - slack),
                high=measured * (1 + slack),
            )
        )
    measured = path_length(projector, ws, projector.directions(), eps=1e-3, rng=generator)
    theorem = "path length of its projector: 1, whatever the singular values were"
    result.append(Check(theorem, 1.0, measured, how, low=measured - slack, high=measured + slack))
    return result

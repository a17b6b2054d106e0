"""Directions: SeFa against eigenvectors, path lengths of linear generators, edits, purity, and the Jacobian's Gram."""

import math

import pytest
import torch
from torch import Tensor

from holonomy.models.representation.householder_projector import (
    HouseholderProjector,
    direction_attribute_matrix,
    dominance,
    latent_gram,
    path_length,
    path_lengths,
    perceptual_path_length,
    sefa_directions,
    traverse,
    trimmed_mean,
)


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [3, 9])
def test_sefa_is_eigenvectors_of_the_gram_matrix(rows: int) -> None:
    a, b = draw(rows, 6), draw(4, 6, seed=1)
    for weights, gram in ((a, a.T @ a), ([a, b], a.T @ a + b.T @ b)):
        values, vectors = torch.linalg.eigh(gram)
        k = 3
        found = sefa_directions(weights, k)
        wanted = vectors.flip(-1).T[:k]
        signs = (found * wanted).sum(1, keepdim=True).sign()
        torch.testing.assert_close(found * signs, wanted, atol=1e-10, rtol=0)
        assert values.flip(-1)[2] > values.flip(-1)[3] + 1e-3  # or they would not be determined
    whole = sefa_directions(a, 6)
    torch.testing.assert_close(whole @ whole.T, torch.eye(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_path_length_of_a_linear_generator_is_the_squared_stretch_of_each_direction() -> None:
    a, ws = draw(5, 6), draw(40, 6, seed=1)
    for v in sefa_directions(a, 4):
        found = path_length(lambda w: w @ a.T + 3.0, ws, v[None], eps=1e-3)
        assert found == pytest.approx(float((a @ v).square().sum()), rel=1e-8)  # roundings over eps
    layer = HouseholderProjector(6, 5, 3, gain=1.3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert path_length(layer, ws, layer.directions(), eps=1e-3) == pytest.approx(1.3**2, rel=1e-8)


def test_lengths_of_all_directions_are_those_of_each() -> None:
    ws = draw(30, 2, 4, seed=2)

    def generator(codes: torch.Tensor) -> torch.Tensor:
        return torch.sin(codes[:, 0]) + 2.0 * codes[:, 1].square()

    found = {1: torch.eye(4, dtype=torch.float64)[:2], 0: torch.eye(4, dtype=torch.float64)[1:]}
    each = [path_length(generator, ws, {layer: v[None]}, eps=1e-3) for layer, rows in found.items() for v in rows]
    for batch_size in (7, 64):
        got = path_lengths(generator, ws, found, eps=1e-3, batch_size=batch_size)
        torch.testing.assert_close(got, torch.tensor(each, dtype=torch.float64), rtol=1e-9, atol=0)  # same differences


def test_layers_and_directions_are_drawn_evenly() -> None:
    # Layer 0 has two directions and layer 2 one: their shares are 1/4, 1/4 and 1/2.
    scale = torch.tensor([[1.0, 10.0], [1e3, 1e3], [100.0, 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    n = 4000

    def mean(seed: int, **options: object) -> float:
        rng = torch.Generator().manual_seed(seed)
        return path_length(
            lambda w: (w * scale).flatten(1),
            draw(n, 3, 2),
            {0: eye, 2: eye[:1]},
            eps=1.0,
            rng=rng,
            **options,  # type: ignore[arg-type]
        )

    wanted = (1.0 + 100.0) / 4 + 1e4 / 2
    # Five standard deviations of the mean.
    spread = math.sqrt(((1.0 + 1e4) / 4 + 1e8 / 2) - wanted**2)
    assert mean(0, trim=None) == pytest.approx(wanted, abs=5 * spread / math.sqrt(n))
    assert mean(0, trim=(0.0, 40.0)) < 101.0
    assert mean(0, trim=None) == mean(0, trim=None)
    assert mean(0, trim=None) != mean(1, trim=None)


def test_perceptual_path_length_goes_along_segments() -> None:
    a, starts, ends = draw(5, 6), draw(30, 6, seed=1), draw(30, 6, seed=2)
    found = perceptual_path_length(lambda w: w @ a.T, starts, ends, eps=1e-3, trim=None)
    assert found == pytest.approx(float(((ends - starts) @ a.T).square().sum(1).mean()), rel=1e-8)
    # G(w) = w^2 at one dimension from 0 to 1: the slope 2 t squared has mean 4/3.
    many = perceptual_path_length(
        torch.square,
        torch.zeros(20_000, 1, dtype=torch.float64),
        torch.ones(20_000, 1, dtype=torch.float64),
        trim=None,
        rng=torch.Generator().manual_seed(0),
    )
    # Deviation of 4 t^2 is 1.19: five standard errors, and eps.
    assert many == pytest.approx(4 / 3, abs=5 * 1.2 / math.sqrt(20_000) + 1e-3)


def test_trimmed_mean_leaves_out_the_ends() -> None:
    values = torch.arange(101, dtype=torch.float64)
    values[100] = 1e9
    assert trimmed_mean(values, (1.0, 99.0)) == 50.0
    assert trimmed_mean(values[:1], (1.0, 99.0)) == 0.0
    assert trimmed_mean(values, None) > 1e6


def test_traversal_moves_the_layers_that_are_named() -> None:
    w, v = draw(2, 3, 4), draw(4, seed=1)
    seen = traverse(lambda codes: codes, w, v, [-2.0, 0.0, 5.0], layers=[1])
    assert seen.shape == (3, 2, 3, 4)
    assert torch.equal(seen[1], w)
    torch.testing.assert_close(seen[2][:, 1], w[:, 1] + 5.0 * v)
    assert torch.equal(seen[0][:, [0, 2]], w[:, [0, 2]])
    every = traverse(lambda codes: codes, w, v, torch.tensor([1.0]))
    torch.testing.assert_close(every[0], w + v)
    assert traverse(lambda codes: codes, w[:, 0], v, [1.0]).shape == (1, 2, 4)


def test_attribute_matrix_of_a_linear_generator() -> None:
    a, ws = draw(3, 4), draw(200, 4, seed=1)
    directions = torch.eye(4, dtype=torch.float64)
    found = direction_attribute_matrix(lambda w: w @ a.T, ws, directions, lambda y: y, alpha=0.7)
    torch.testing.assert_close(found, a.T.abs() / (ws @ a.T).std(0), atol=1e-12, rtol=0)
    layered = ws.unsqueeze(1).expand(-1, 2, -1)
    both = direction_attribute_matrix(
        lambda w: w[:, 0] @ a.T, layered, {1: directions[:1], 0: directions[:2]}, lambda y: y, alpha=0.7
    )
    assert both.shape == (3, 3)
    assert not both[0].any()
    torch.testing.assert_close(both[1:], found[:2], atol=1e-12, rtol=0)
    constant = direction_attribute_matrix(lambda w: 0.0 * w, ws, directions, lambda y: y)
    assert not constant.any()


def test_dominance_is_the_share_of_the_largest() -> None:
    assert dominance(torch.eye(3)) == 1.0
    assert dominance(torch.ones(2, 4)) == 0.25
    uneven = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    assert dominance(uneven, normalise=False) == pytest.approx(0.625)
    assert dominance(uneven) == pytest.approx(0.5 * (1.5 / 2.5 + 1.0 / 1.5))
    # Where all directions do the same, none is pure, whatever the scales of attributes are.
    same = torch.tensor([[9.0, 1.0, 0.0], [18.0, 2.0, 0.0]])
    assert dominance(same) == pytest.approx(0.5)
    assert dominance(same, normalise=False) == pytest.approx(0.9)
    scales = torch.tensor([1.0, 100.0])
    assert dominance(uneven * scales) == pytest.approx(dominance(uneven))
    assert dominance(torch.zeros(2, 3)) == 0.0


def test_dominance_refuses_what_are_no_changes() -> None:
    with pytest.raises(ValueError, match=r"shape \(k, a\), none 0, got \(3,\)"):
        dominance(torch.ones(3))
    with pytest.raises(ValueError, match="finite and not negative"):
        dominance(-torch.eye(3))


def test_gram_is_that_of_the_jacobian_within_the_span() -> None:
    ws, a = draw(5, 2, 3), draw(4, 6, seed=1)
    basis = torch.linalg.qr(draw(3, 2, seed=2))[0].T

    def generator(w: Tensor) -> Tensor:
        return torch.tanh(w.flatten(1) @ a.T)

    for layers, places in ((None, [0, 1]), ([1], [1])):
        wanted = torch.zeros(3, 3, dtype=torch.float64)
        for w in ws:
            jacobian = torch.func.jacrev(lambda code: generator(code[None])[0])(w)[:, places].sum(1)
            wanted += jacobian.T @ jacobian / len(ws)
        projection = basis.T @ basis
        found = latent_gram(generator, ws, basis, layers, batch_size=2)
        torch.testing.assert_close(found, projection @ wanted @ projection, atol=1e-12, rtol=0)


def test_bad_input_is_refused() -> None:
    ws, directions = draw(4, 2, 3), torch.eye(3, dtype=torch.float64)

    def same(w: Tensor) -> Tensor:
        return w

    for eps in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="'eps' must be positive"):
            path_length(same, ws, directions, eps=eps)
    for trim in ((99.0, 1.0), (1.0, 1.0), (-1.0, 50.0), (1.0, 101.0)):
        with pytest.raises(ValueError, match="'trim' must be two percentiles in ascending order"):
            path_length(same, ws, directions, trim=trim)
    with pytest.raises(ValueError, match=r"directions must be rows of width d = 3, got shape \(3, 2\)"):
        path_length(same, ws, directions[:, :2])
    with pytest.raises(ValueError, match="directions must be rows of width d = 3"):
        traverse(same, ws, directions[0, :2], [1.0])
    with pytest.raises(ValueError, match=r"'direction' must have shape \(d,\), got \(3, 3\)"):
        traverse(same, ws, directions, [1.0])
    with pytest.raises(ValueError, match=r"layers must be from 0 to 1, got \[2\]"):
        path_length(same, ws, {2: directions})
    with pytest.raises(ValueError, match=r"layers need codes \(B, L, d\), got \(4, 3\)"):
        traverse(same, ws[:, 0], directions[0], [1.0], layers=[0])
    with pytest.raises(ValueError, match="must have at least one layer, got none"):
        path_length(same, ws, {})
    with pytest.raises(ValueError, match=r"codes must have shape \(B, d\) or \(B, L, d\)"):
        path_length(same, ws[0, 0], directions)
    with pytest.raises(ValueError, match="'ends' must have the shape"):
        perceptual_path_length(same, ws, ws[:2])
    with pytest.raises(ValueError, match="'alpha' must be positive, got 0"):
        direction_attribute_matrix(same, ws, directions, same, alpha=0.0)
    with pytest.raises(ValueError, match="'k' must be from 1 to d = 3, got 4"):
        sefa_directions(directions, 4)
    with pytest.raises(ValueError, match="at least one matrix, got none"):
        sefa_directions([], 1)
    with pytest.raises(TypeError, match=r"'weights' must be 2-D, got shapes \[\(3,\)\]"):
        sefa_directions(directions[0], 1)
    with pytest.raises(ValueError, match=r"one number of columns, got \[2, 3\]"):
        sefa_directions([directions, directions[:, :2]], 1)

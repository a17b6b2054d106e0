r"""Directions of a generator's latent space: SeFa's, edits along them, and how smooth and how pure the edits are.

A generator here is any callable that maps latent codes to images, codes (B, d), or one for each layer, (B, L, d).
Directions are rows (k, d), for all layers at once, or a mapping from layers to such rows, each of which moves the code
of its layer alone.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = [
    "Directions",
    "direction_attribute_matrix",
    "dominance",
    "latent_gram",
    "path_length",
    "path_lengths",
    "perceptual_path_length",
    "sefa_directions",
    "squared_distance",
    "traverse",
    "trimmed_mean",
]

Synthesis = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
Directions = Tensor | Mapping[int, Tensor]


def sefa_directions(weights: Tensor | Sequence[Tensor], k: int) -> Tensor:
    """Directions that change the styles most: leading eigenvectors of the sum of A^T A (Shen and Zhou, CVPR 2021).

    Parameters
    ----------
    weights : Tensor or sequence of Tensor
        Weights A (c, d) of one or several style projections.
    k : int
        How many, from 1 to d.

    Returns
    -------
    Tensor
        Orthonormal rows (k, d), the largest eigenvalue first.

    Raises
    ------
    TypeError
        Where a weight is not 2-D.
    ValueError
        Where there is none, their widths differ, or `k` is out of its range.
    """
    parts = [weights] if isinstance(weights, Tensor) else list(weights)
    if not parts:
        raise ValueError("sefa_directions: 'weights' must have at least one matrix, got none")
    if any(part.ndim != 2 for part in parts):
        raise TypeError(f"sefa_directions: 'weights' must be 2-D, got shapes {[tuple(part.shape) for part in parts]}")
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"sefa_directions: 'weights' must have one number of columns, got {sorted(widths)}")
    a = torch.cat([part.detach() for part in parts])
    if not 1 <= k <= a.shape[1]:
        raise ValueError(f"sefa_directions: 'k' must be from 1 to d = {a.shape[1]}, got {k}")
    return torch.linalg.svd(a, full_matrices=k > len(a))[2][:k]


def traverse(
    generator: Synthesis,
    w: Tensor,
    direction: Tensor,
    alphas: Sequence[float] | Tensor,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Images along a direction, G(w + alpha v).

    Parameters
    ----------
    generator : callable
        Codes to images.
    w : Tensor
        Codes (B, d), or (B, L, d).
    direction : Tensor
        Direction v (d,).
    alphas : sequence of float
        Steps; -5 to 5 in the paper.
    layers : sequence of int, optional
        Layers to move; all when left out.

    Returns
    -------
    Tensor
        (number of steps, B, ...).

    Raises
    ------
    ValueError
        Where a width does not fit, layers are asked of codes that have none, or a layer is out of range.
    """
    _check_codes("traverse", w)
    _check_rows("traverse", direction.unsqueeze(0) if direction.ndim == 1 else direction, w)
    if direction.ndim != 1:
        raise ValueError(f"traverse: 'direction' must have shape (d,), got {tuple(direction.shape)}")
    _check_layers("traverse", w, layers)
    return torch.stack([generator(_moved(w, float(alpha) * direction, layers)) for alpha in alphas])


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance (B,) of batches (B, ...); of pixels, it stands in for a perceptual one."""
    return (a - b).square().flatten(1).sum(1)


@torch.no_grad()
def path_length(
    generator: Synthesis,
    ws: Tensor,
    directions: Directions,
    eps: float = 1e-4,
    distance: Distance = squared_distance,
    trim: tuple[float, float] | None = (1.0, 99.0),
    rng: torch.Generator | None = None,
    batch_size: int = 64,
) -> float:
    r"""Perceptual interpretable path length, E dist(G(w), G(w + eps v)) / eps^2 (paper, section 4.1).

    For every code one layer is drawn, and one of its directions. A small `eps` wants float64: in float32 a distance of
    pixels at 1e-4 is made of roundings.

    Parameters
    ----------
    generator : callable
        Codes to images.
    ws : Tensor
        Codes (N, d) or (N, L, d); 5,000 in the paper.
    directions : Tensor or mapping
        Unit rows; for one direction, one row.
    eps : float
        Length of the step, positive.
    distance : callable
        Of two batches of images, (B,), growing with the square of small changes; the paper's is LPIPS.
    trim : pair of float or None
        Percentiles between which values count.
    rng : torch.Generator, optional
        Draws layers and directions.
    batch_size : int
        Codes at a time.

    Returns
    -------
    float
        The mean of the values that count.

    Raises
    ------
    ValueError
        Where `eps` is not positive, percentiles are not ordered, widths do not fit or a layer is out of range.
    """
    _check_step("path_length", eps, trim)
    _check_codes("path_length", ws)
    table = _edits("path_length", directions, ws)
    groups = [[v for place, v in table if place == layer] for layer in dict.fromkeys(place for place, _ in table)]
    layers = list(dict.fromkeys(place for place, _ in table))
    device = rng.device if rng is not None else "cpu"
    uniform = torch.rand(len(ws), 2, generator=rng, device=device).tolist()
    step = torch.zeros_like(ws)
    for i, (first, second) in enumerate(uniform):
        g = int(first * len(groups))
        v = groups[g][int(second * len(groups[g]))]
        step[i, ... if layers[g] is None else layers[g]] = v
    return trimmed_mean(_quotients(generator, ws, step, eps, distance, batch_size), trim)


@torch.no_grad()
def path_lengths(
    generator: Synthesis,
    ws: Tensor,
    directions: Directions,
    eps: float = 1e-4,
    distance: Distance = squared_distance,
    trim: tuple[float, float] | None = (1.0, 99.0),
    batch_size: int = 64,
) -> Tensor:
    r"""`path_length` of every direction by itself, over all codes.

    Parameters and errors are those of `path_length`.

    Returns
    -------
    Tensor
        (number of directions,); a mapping's in its order.
    """
    _check_step("path_lengths", eps, trim)
    _check_codes("path_lengths", ws)
    parts = ws.split(batch_size)
    before = [generator(part) for part in parts]
    values = []
    for layer, v in _edits("path_lengths", directions, ws):
        places = None if layer is None else [layer]
        ends = (generator(_moved(part, eps * v, places)) for part in parts)
        found = torch.cat([distance(a, b) for a, b in zip(before, ends, strict=True)]) / eps**2
        values.append(trimmed_mean(found, trim))
    return torch.tensor(values, dtype=torch.float64)


@torch.no_grad()
def perceptual_path_length(
    generator: Synthesis,
    starts: Tensor,
    ends: Tensor,
    eps: float = 1e-4,
    distance: Distance = squared_distance,
    trim: tuple[float, float] | None = (1.0, 99.0),
    rng: torch.Generator | None = None,
    batch_size: int = 64,
) -> float:
    r"""Perceptual path length in W: E dist(G(w_t), G(w_{t + eps})) / eps^2 for w_t on the segment, t uniform.

    Karras et al., CVPR 2019, section 4.1. Parameters and errors as in `path_length`, with `starts` and `ends` of the
    segments, of one shape.
    """
    _check_step("perceptual_path_length", eps, trim)
    _check_codes("perceptual_path_length", starts)
    if starts.shape != ends.shape:
        raise ValueError(
            f"perceptual_path_length: 'ends' must have the shape {tuple(starts.shape)} of 'starts', got "
            f"{tuple(ends.shape)}"
        )
    t = torch.rand(len(starts), generator=rng, device=rng.device if rng is not None else "cpu").to(starts)
    step = ends - starts
    ws = starts + t.view(-1, *[1] * (starts.ndim - 1)) * step
    return trimmed_mean(_quotients(generator, ws, step, eps, distance, batch_size), trim)


def trimmed_mean(values: Tensor, trim: tuple[float, float] | None) -> float:
    """Mean of the values between two percentiles, ends included."""
    if trim is not None:
        low, high = torch.quantile(values, values.new_tensor(trim) / 100.0)
        values = values[(values >= low) & (values <= high)]
    return float(values.mean())


@torch.no_grad()
def direction_attribute_matrix(
    generator: Synthesis,
    ws: Tensor,
    directions: Directions,
    attributes: Callable[[Tensor], Tensor],
    alpha: float = 1.0,
    batch_size: int = 256,
) -> Tensor:
    r"""How much each direction changes each attribute: E |a(G(w + alpha v)) - a(G(w - alpha v))| / (2 alpha std a(G)).

    Parameters
    ----------
    generator : callable
        Codes to images.
    ws : Tensor
        Codes (N, d) or (N, L, d), two at least.
    directions : Tensor or mapping
        Rows (k, d), or by layer.
    attributes : callable
        Images to numbers (B, a).
    alpha : float
        Length of the step either way, positive.
    batch_size : int
        Codes at a time.

    Returns
    -------
    Tensor
        (number of directions, a), in standard deviations over the unmoved images; a mapping's rows in its order.

    Raises
    ------
    ValueError
        Where `alpha` is not positive, widths do not fit or a layer is out of range.
    """
    if not alpha > 0:
        raise ValueError(f"direction_attribute_matrix: 'alpha' must be positive, got {alpha}")
    _check_codes("direction_attribute_matrix", ws)

    def measured(codes: Tensor) -> Tensor:
        return torch.cat([attributes(generator(part)) for part in codes.split(batch_size)])

    rows = []
    for layer, v in _edits("direction_attribute_matrix", directions, ws):
        places = None if layer is None else [layer]
        ends = [measured(_moved(ws, sign * alpha * v, places)) for sign in (1.0, -1.0)]
        rows.append((ends[0] - ends[1]).abs().mean(0) / (2.0 * alpha))
    scale = measured(ws).std(0)
    return torch.stack(rows) / _or_one(scale)


def dominance(matrix: Tensor, normalise: bool = True) -> float:
    r"""Mean over directions of the largest attribute's share of all change: 1 for pure directions, 1/a for even ones.

    Parameters
    ----------
    matrix : Tensor
        Changes (k, a), not negative, of a attributes along k directions (`direction_attribute_matrix`).
    normalise : bool, default True
        Divide each attribute by its mean change over the directions. Without it an attribute that every direction
        changes most counts as purity of each, although the directions do the same.

    Returns
    -------
    float
        From 1/a to 1. An attribute that nothing changes has no share; a direction that changes nothing counts 0.

    Raises
    ------
    ValueError
        Where the matrix is not 2-D, or is negative or not finite.
    """
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"dominance: 'matrix' must have shape (k, a), none 0, got {tuple(matrix.shape)}")
    if not bool((matrix.isfinite() & (matrix >= 0)).all()):
        raise ValueError("dominance: 'matrix' must be finite and not negative")
    if normalise:
        matrix = matrix / _or_one(matrix.mean(0))
    return float((matrix.amax(1) / _or_one(matrix.sum(1))).mean())


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.ones_like(x))


def latent_gram(
    generator: Synthesis, ws: Tensor, basis: Tensor, layers: Sequence[int] | None = None, batch_size: int = 64
) -> Tensor:
    r"""P E[J^T J] P, J the derivative of the images by the code, P the projection on the span of the rows of `basis`.

    For ``directions(gauge="jacobian")``. By forward-mode derivatives along the rows, nothing of size d times an image.

    Parameters
    ----------
    generator : callable
        Codes to images, differentiable.
    ws : Tensor
        Codes (N, d) or (N, L, d).
    basis : Tensor
        Orthonormal rows (r, d).
    layers : sequence of int, optional
        Layers whose code moves; all when left out.
    batch_size : int
        Codes at a time.

    Returns
    -------
    Tensor
        Symmetric matrix (d, d).

    Raises
    ------
    ValueError
        Where a width does not fit or a layer is out of range.
    """
    _check_codes("latent_gram", ws)
    _check_rows("latent_gram", basis, ws)
    _check_layers("latent_gram", ws, layers)
    rows = basis.detach().to(ws)
    inside = ws.new_zeros(len(rows), len(rows))
    for part in ws.split(batch_size):
        steps = [_moved(torch.zeros_like(part), v, layers) for v in rows]
        slopes = torch.stack([torch.func.jvp(generator, (part,), (step,))[1].detach().flatten() for step in steps])
        inside += slopes @ slopes.T
    return rows.T @ inside @ rows / len(ws)


def _moved(w: Tensor, v: Tensor, layers: Sequence[int] | None) -> Tensor:
    if layers is None:
        return w + v.to(w)
    moved = w.clone()
    moved[:, list(layers)] += v.to(w)
    return moved


def _quotients(
    generator: Synthesis, ws: Tensor, step: Tensor, eps: float, distance: Distance, batch_size: int
) -> Tensor:
    parts = zip(ws.split(batch_size), step.split(batch_size), strict=True)
    return torch.cat([distance(generator(w), generator(w + eps * v)) for w, v in parts]) / eps**2


def _edits(name: str, directions: Directions, ws: Tensor) -> list[tuple[int | None, Tensor]]:
    """Layer, or None for all, and direction of every edit."""
    if isinstance(directions, Tensor):
        _check_rows(name, directions, ws)
        return [(None, v) for v in directions.detach().to(ws)]
    _check_layers(name, ws, list(directions))
    if not directions:
        raise ValueError(f"{name}: 'directions' must have at least one layer, got none")
    for rows in directions.values():
        _check_rows(name, rows, ws)
    return [(layer, v) for layer, rows in directions.items() for v in rows.detach().to(ws)]


def _check_codes(name: str, ws: Tensor) -> None:
    if ws.ndim not in (2, 3) or 0 in ws.shape:
        raise ValueError(f"{name}: codes must have shape (B, d) or (B, L, d), none 0, got {tuple(ws.shape)}")


def _check_rows(name: str, rows: Tensor, ws: Tensor) -> None:
    if rows.ndim != 2 or len(rows) < 1 or rows.shape[1] != ws.shape[-1]:
        raise ValueError(f"{name}: directions must be rows of width d = {ws.shape[-1]}, got shape {tuple(rows.shape)}")


def _check_layers(name: str, ws: Tensor, layers: Sequence[int] | None) -> None:
    if layers is None:
        return
    if ws.ndim != 3:
        raise ValueError(f"{name}: layers need codes (B, L, d), got {tuple(ws.shape)}")
    if not all(0 <= layer < ws.shape[1] for layer in layers):
        raise ValueError(f"{name}: layers must be from 0 to {ws.shape[1] - 1}, got {list(layers)}")


def _check_step(name: str, eps: float, trim: tuple[float, float] | None) -> None:
    if not eps > 0:
        raise ValueError(f"{name}: 'eps' must be positive, got {eps}")
    if trim is not None and not 0 <= trim[0] < trim[1] <= 100:
        raise ValueError(f"{name}: 'trim' must be two percentiles in ascending order, got {trim}")

r"""Relative representations: a latent by its similarities to anchors, which separately trained encoders agree on.

Moschella, Maiorca, Fumero, Norelli, Locatello, Rodolà, *Relative representations enable zero-shot latent space
communication*, ICLR 2023 (arXiv:2209.15430).

Of an embedding e = E(x) the relative representation has the entries s(e, e_j), e_j the embeddings of anchors a_1, ...,
a_m. With cosines it is the same after any rotation, reflection and rescaling of the latent space, even one of each
sample by itself, which is most of what differs between encoders that were trained from different seeds; it is not after
a translation, nor a rescaling of single axes. With -dist of a manifold it is the same after every isometry.
"""

import copy
import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holonomy.manifolds import Manifold

__all__ = [
    "RelativeModel",
    "RelativeProjection",
    "Similarity",
    "latent_similarity",
    "procrustes_align",
    "relative_projection",
    "select_anchors",
    "stitch",
]

Similarity = Literal["cosine", "inner", "basis_change", "euclidean", "geodesic"]
Strategy = Literal["random", "fps", "kmeans"]


def relative_projection(
    x: Tensor,
    anchors: Tensor,
    *,
    similarity: Similarity = "cosine",
    manifold: Manifold | None = None,
    bin_size: float | None = None,
    eps: float = 1e-8,
    allow_underdetermined: bool = False,
) -> Tensor:
    """Similarities of latents to anchors (paper, equation 1), differentiable in both.

    Parameters
    ----------
    x : Tensor
        Latents (..., d).
    anchors : Tensor
        Latents (m, d) of the anchors, by the same encoder.
    similarity : {"cosine", "inner", "basis_change", "euclidean", "geodesic"}
        Cosine; inner product over sqrt(d); coordinates c of least squares, x = c @ anchors; -|x - a|; -dist(x, a) on
        `manifold`.
    manifold : Manifold, optional
        Of points (d,), wanted by ``"geodesic"``.
    bin_size : float, optional
        Round similarities to multiples of this; gradients are those without.
    eps : float, default 1e-8
        Least length that a latent is divided by: of a zero vector all cosines are 0.
    allow_underdetermined : bool, default False
        Let ``"basis_change"`` have more anchors than dimensions, where the coordinates of least length are taken.

    Returns
    -------
    Tensor
        (..., m), of the dtype of `x`.

    Raises
    ------
    TypeError
        Where latents are not floating.
    ValueError
        Where widths differ, there are no anchors or they are not finite, an option is unknown, missing or out of its
        range, or a change of basis is underdetermined.
    """
    _check("relative_projection", x, anchors, similarity, manifold, bin_size)
    if similarity == "cosine":
        result = _unit(x, eps) @ _unit(anchors, eps).mT
    elif similarity == "inner":
        result = x @ anchors.mT / math.sqrt(x.shape[-1])
    elif similarity == "euclidean":
        result = -_distances(x, anchors)
    elif similarity == "geodesic":
        assert manifold is not None
        result = -manifold.cdist(x.reshape(-1, x.shape[-1]), anchors).reshape(*x.shape[:-1], len(anchors))
    else:
        result = _coordinates(x, anchors, allow_underdetermined)
    if bin_size is not None:
        rounded = (result.detach() / bin_size).round() * bin_size
        # The value is exactly a multiple: rounded + (result - result) would be off by a rounding.
        result = _StraightThrough.apply(result, rounded)
    return result


class _StraightThrough(torch.autograd.Function):
    """One tensor's value with another's gradient."""

    @staticmethod
    def forward(ctx: object, value: Tensor, shown: Tensor) -> Tensor:
        return shown.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class RelativeProjection(nn.Module):
    """`relative_projection` as a layer; averaged over the anchors of each class, or as weights of a sum.

    Parameters
    ----------
    num_anchors : int
        Number m of anchors.
    similarity, manifold, bin_size
        As for `relative_projection`.
    stratify : int, optional
        Number of classes; similarities are then averaged over the anchors of each, which must all have some.
    output : {"similarities", "anchors", "values"}, default "similarities"
        The similarities themselves, or the sum of the anchors' latents, or of trained values, weighted by the softmax
        of the similarities.
    value_dim : int, optional
        Width of the trained values, one for each similarity; wanted by ``"values"``.

    Raises
    ------
    ValueError
        If an option is unknown, missing or out of its range.
    """

    def __init__(
        self,
        num_anchors: int,
        similarity: Similarity = "cosine",
        manifold: Manifold | None = None,
        bin_size: float | None = None,
        stratify: int | None = None,
        output: Literal["similarities", "anchors", "values"] = "similarities",
        value_dim: int | None = None,
    ) -> None:
        super().__init__()
        if num_anchors < 1 or (stratify is not None and not 1 <= stratify <= num_anchors):
            raise ValueError(
                "RelativeProjection: wanted num_anchors >= 1 and stratify from 1 to that, got "
                f"{num_anchors} and {stratify}"
            )
        if output not in ("similarities", "anchors", "values"):
            raise ValueError(
                f"RelativeProjection: 'output' must be 'similarities', 'anchors' or 'values', got {output!r}"
            )
        if (output == "values") != (value_dim is not None) or (value_dim is not None and value_dim < 1):
            raise ValueError(f"RelativeProjection: 'value_dim' goes with output='values', positive, got {value_dim}")
        if output == "anchors" and stratify is not None:
            raise ValueError("RelativeProjection: output='anchors' weighs single anchors, and has no 'stratify'")
        _check_options("RelativeProjection", similarity, manifold, bin_size)
        self.num_anchors, self.similarity, self.stratify = num_anchors, similarity, stratify
        self.manifold, self.bin_size, self.output = manifold, bin_size, output
        self.values: nn.Parameter | None = None
        if value_dim is not None:
            self.values = nn.Parameter(torch.randn(stratify or num_anchors, value_dim) / math.sqrt(value_dim))

    def forward(self, x: Tensor, anchors: Tensor, anchor_labels: Tensor | None = None) -> Tensor:
        """Similarities (..., m), or (..., classes), or sums (..., d) or (..., value_dim).

        Parameters
        ----------
        x : Tensor
            Latents (..., d).
        anchors : Tensor
            Latents (m, d).
        anchor_labels : Tensor, optional
            Classes (m,) from 0, wanted by `stratify`.

        Raises
        ------
        TypeError, ValueError
            As `relative_projection`, and where the number of anchors differs or labels are missing or leave a class
            without anchors.
        """
        if len(anchors) != self.num_anchors:
            raise ValueError(f"RelativeProjection: wanted {self.num_anchors} anchors, got {len(anchors)}")
        if (self.stratify is None) != (anchor_labels is None):
            raise ValueError("RelativeProjection: 'anchor_labels' go with 'stratify', and only with it")
        found = relative_projection(
            x, anchors, similarity=self.similarity, manifold=self.manifold, bin_size=self.bin_size
        )
        if self.stratify is not None and anchor_labels is not None:
            found = _mean_by_class(found, anchor_labels, self.stratify)
        if self.output == "similarities":
            return found
        return torch.softmax(found, -1) @ (anchors if self.values is None else self.values.to(found.dtype))

    def extra_repr(self) -> str:
        """Number of anchors, similarity and output."""
        return f"{self.num_anchors}, similarity={self.similarity!r}, output={self.output!r}"


def _mean_by_class(found: Tensor, labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    if labels.shape != (found.shape[-1],) or len(counts) != classes or bool((counts == 0).any()):
        raise ValueError(
            f"RelativeProjection: 'anchor_labels' must have each of {classes} classes, got counts {counts.tolist()}"
        )
    return found @ (F.one_hot(labels, classes).to(found.dtype) / counts)


class RelativeModel(nn.Module):
    """An encoder, the projection on its anchors, and a head: y = H(r(E(x))).

    The anchors are encoded by the encoder as it is, at every call, and gradients go through them as through the sample.
    In training mode they go through it in the same batch; in eval mode by themselves, so that a sample's output does
    not depend on the others.

    Parameters
    ----------
    encoder : nn.Module
        Latents (n, d) of inputs (n, ...).
    head : nn.Module
        Outputs of relative representations (n, m).
    anchors : Tensor
        Inputs (m, ...), a buffer.
    similarity, manifold, bin_size
        As for `relative_projection`.
    norm : {"layer", None}, default "layer"
        Normalise the representation, without parameters, before the head.

    Raises
    ------
    ValueError
        If an option is unknown, missing or out of its range.
    """

    anchors: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        anchors: Tensor,
        similarity: Similarity = "cosine",
        norm: Literal["layer"] | None = "layer",
        manifold: Manifold | None = None,
        bin_size: float | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("layer", None):
            raise ValueError(f"RelativeModel: 'norm' must be 'layer' or None, got {norm!r}")
        if len(anchors) < 1 or not bool(anchors.isfinite().all()):
            raise ValueError(f"RelativeModel: 'anchors' must be one input at least, finite, got {tuple(anchors.shape)}")
        self.encoder, self.head, self.norm = encoder, head, norm
        self.projection = RelativeProjection(len(anchors), similarity, manifold, bin_size)
        self.register_buffer("anchors", anchors.detach().clone())

    def encode(self, x: Tensor) -> Tensor:
        """Absolute latents (n, d)."""
        return self.encoder(x)

    def relative(self, x: Tensor) -> Tensor:
        """Relative representations (n, m)."""
        if self.training:
            together = self.encoder(torch.cat([x, self.anchors.to(x.dtype)]))
            return self.projection(together[: len(x)], together[len(x) :])
        return self.projection(self.encoder(x), self.encoder(self.anchors.to(x.dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the head."""
        r = self.relative(x)
        return self.head(F.layer_norm(r, r.shape[-1:]) if self.norm == "layer" else r)


def stitch(encoder_model: RelativeModel, head_model: RelativeModel) -> RelativeModel:
    """A model with the encoder of one and the head of another, which were trained apart, on the same anchors.

    Nothing is trained; the parts are copies.

    Raises
    ------
    ValueError
        Where the anchors, their order, the similarity or the norm differ.
    """
    a, b = encoder_model, head_model
    if a.anchors.shape != b.anchors.shape or not torch.equal(a.anchors.to(b.anchors), b.anchors):
        raise ValueError(
            "stitch: the models must have the same anchors in the same order, got different ones of shapes "
            f"{tuple(a.anchors.shape)} and {tuple(b.anchors.shape)}"
        )
    first, second = (
        (m.projection.similarity, m.projection.bin_size, repr(m.projection.manifold), m.norm) for m in (a, b)
    )
    if first != second:
        raise ValueError(f"stitch: similarity, bins, manifold and norm must be the same, got {first} and {second}")
    joined = copy.copy(a)
    joined._modules = dict(a._modules)
    joined.head = b.head
    return copy.deepcopy(joined).train(a.training)


@torch.no_grad()
def select_anchors(
    x: Tensor,
    m: int,
    strategy: Strategy = "random",
    generator: torch.Generator | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """Choose anchors among samples.

    Parameters
    ----------
    x : Tensor
        Samples or latents (n, ...).
    m : int
        How many, from 1 to n; about as many as the latent space has dimensions.
    strategy : {"random", "fps", "kmeans"}
        Uniformly; each the farthest from those chosen before it, the first at random; the samples nearest to the
        centres of k-means (scikit-learn).
    generator : torch.Generator, optional
        Of the draws.
    y : Tensor, optional
        Labels (n,): as many of each as can be, chosen within each.

    Returns
    -------
    Tensor
        Distinct indices (m,), int64.

    Raises
    ------
    ValueError
        If `m` or the strategy is out of its range, or the samples are not finite.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"select_anchors: 'strategy' must be one of {get_args(Strategy)}, got {strategy!r}")
    if not 1 <= m <= len(x):
        raise ValueError(f"select_anchors: 'm' must be from 1 to the number of samples, {len(x)}, got {m}")
    if not bool(x.isfinite().all()):
        raise ValueError("select_anchors: 'x' must be finite")
    points = x.reshape(len(x), -1)
    points = points if points.is_floating_point() else points.float()
    if y is None:
        return _choose(points, m, strategy, generator)
    groups = [torch.nonzero(y == label).squeeze(1) for label in y.unique()]
    shares = _shares(m, [len(group) for group in groups])
    chosen = [
        group[_choose(points[group], share, strategy, generator)]
        for group, share in zip(groups, shares, strict=True)
        if share
    ]
    return torch.cat(chosen)


def _shares(m: int, sizes: list[int]) -> list[int]:
    """m as evenly over groups as their sizes let it."""
    shares = [0] * len(sizes)
    while sum(shares) < m:
        for i, size in enumerate(sizes):
            if shares[i] < size and sum(shares) < m:
                shares[i] += 1
    return shares


def _choose(points: Tensor, m: int, strategy: Strategy, generator: torch.Generator | None) -> Tensor:
    n, device = len(points), generator.device if generator is not None else points.device
    if strategy == "random":
        return torch.randperm(n, generator=generator, device=device)[:m].to(points.device)
    if strategy == "fps":
        chosen = torch.zeros(m, dtype=torch.int64, device=points.device)
        chosen[0] = torch.randint(n, (1,), generator=generator, device=device)[0]
        distance = (points - points[chosen[0]]).norm(dim=1)
        distance[chosen[0]] = -1.0
        for i in range(1, m):
            chosen[i] = distance.argmax()
            distance = torch.minimum(distance, (points - points[chosen[i]]).norm(dim=1))
            distance[chosen[: i + 1]] = -1.0  # distinct, even where samples repeat
        return chosen
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31, (1,), generator=generator, device=device))
    centres = KMeans(m, n_init=1, random_state=seed).fit(points.cpu().double().numpy()).cluster_centers_
    away = torch.cdist(torch.from_numpy(centres).to(points), points)
    nearest: list[int] = []
    for row in away:
        row[nearest] = torch.inf
        nearest.append(int(row.argmin()))
    return torch.tensor(nearest, device=points.device)


def latent_similarity(r1: Tensor, r2: Tensor, k: int = 10, block: int = 2048) -> dict[str, float]:
    """How alike two spaces are in which the same samples lie in the same order.

    Parameters
    ----------
    r1, r2 : Tensor
        Representations (n, m) of the same n samples.
    k : int, default 10
        Neighbours, below n.
    block : int, default 2048
        Rows of the matrices of cosines at once.

    Returns
    -------
    dict
        ``jaccard``: mean overlap of the sets of k nearest neighbours by cosine within each space; ``mrr``: mean
        reciprocal rank of a sample when its `r1` asks for it among all of `r2`; ``cosine``: mean cosine of a sample's
        two representations.

    Raises
    ------
    TypeError
        Where representations are not floating.
    ValueError
        Where shapes differ or `k` is out of its range.
    """
    for name, r in (("r1", r1), ("r2", r2)):
        if not r.is_floating_point():
            raise TypeError(f"latent_similarity: {name!r} must be floating, got {r.dtype}")
    if r1.shape != r2.shape or r1.ndim != 2:
        raise ValueError(f"latent_similarity: wanted two of shape (n, m), got {tuple(r1.shape)} and {tuple(r2.shape)}")
    n = len(r1)
    if not 1 <= k < n:
        raise ValueError(f"latent_similarity: 'k' must be from 1 to n - 1 = {n - 1}, got {k}")
    a, b = (_unit(r.detach(), 1e-12) for r in (r1, r2))
    overlap = reciprocal = 0.0
    for own in torch.arange(n, device=a.device).split(block):
        neighbours = []
        for space in (a, b):
            cosines = space[own] @ space.mT
            cosines[torch.arange(len(own)), own] = -torch.inf
            mask = torch.zeros(cosines.shape, dtype=torch.bool, device=a.device)
            neighbours.append(mask.scatter_(1, cosines.topk(k, dim=1).indices, value=True))
        shared = (neighbours[0] & neighbours[1]).sum(1).double()
        overlap += float((shared / (2 * k - shared)).sum())
        across = a[own] @ b.mT
        truth = across[torch.arange(len(own)), own].unsqueeze(1)
        reciprocal += float((1.0 / (1.0 + (across > truth).sum(1).double())).sum())
    return {"jaccard": overlap / n, "mrr": reciprocal / n, "cosine": float((a * b).sum(1).double().mean())}


def procrustes_align(src: Tensor, dst: Tensor) -> Tensor:
    """The orthogonal matrix Q that brings rows of one space nearest to those of another, argmin |src Q - dst|_F.

    Parameters
    ----------
    src, dst : Tensor
        The same samples (n, d) in both.

    Returns
    -------
    Tensor
        (d, d).

    Raises
    ------
    ValueError
        Where shapes differ.
    """
    if src.shape != dst.shape or src.ndim != 2:
        raise ValueError(f"procrustes_align: wanted two of shape (n, d), got {tuple(src.shape)} and {tuple(dst.shape)}")
    u, _, vh = torch.linalg.svd(src.mT @ dst)
    return u @ vh


def _unit(x: Tensor, eps: float) -> Tensor:
    wide = x.float() if x.dtype.itemsize < 4 else x
    return (wide / wide.norm(dim=-1, keepdim=True).clamp(min=eps)).to(x.dtype)


def _distances(x: Tensor, anchors: Tensor) -> Tensor:
    """Euclidean distances, with a gradient of 0, not NaN, where points meet."""
    squares = (x.unsqueeze(-2) - anchors).square().sum(-1)
    met = squares == 0
    return torch.where(met, torch.zeros_like(squares), torch.where(met, torch.ones_like(squares), squares).sqrt())


def _coordinates(x: Tensor, anchors: Tensor, allowed: bool) -> Tensor:
    m, d = anchors.shape
    if m > d and not allowed:
        raise ValueError(
            f"relative_projection: 'basis_change' has {m} anchors in {d} dimensions and no unique coordinates; "
            "allow_underdetermined=True takes the shortest"
        )
    wide = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    return (x.to(wide) @ torch.linalg.pinv(anchors.to(wide))).to(x.dtype)


def _check_options(where: str, similarity: str, manifold: Manifold | None, bin_size: float | None) -> None:
    if similarity not in get_args(Similarity):
        raise ValueError(f"{where}: 'similarity' must be one of {', '.join(get_args(Similarity))}, got {similarity!r}")
    if (similarity == "geodesic") != (manifold is not None):
        raise ValueError(f"{where}: 'manifold' goes with similarity='geodesic', and only with it, got {manifold!r}")
    if bin_size is not None and not 0.0 < bin_size < math.inf:
        raise ValueError(f"{where}: 'bin_size' must be positive and finite, got {bin_size}")


def _check(
    where: str, x: Tensor, anchors: Tensor, similarity: str, manifold: Manifold | None, bin_size: float | None
) -> None:
    _check_options(where, similarity, manifold, bin_size)
    for name, value in (("x", x), ("anchors", anchors)):
        if not value.is_floating_point():
            raise TypeError(f"{where}: {name!r} must be floating, got {value.dtype}")
    if anchors.ndim != 2 or len(anchors) < 1 or x.ndim < 1 or x.shape[-1] != anchors.shape[-1]:
        raise ValueError(
            f"{where}: wanted 'x' (..., d) and 'anchors' (m, d) with m >= 1, got {tuple(x.shape)} and "
            f"{tuple(anchors.shape)}"
        )
    if not bool(anchors.detach().isfinite().all()):
        raise ValueError(f"{where}: 'anchors' must be finite")

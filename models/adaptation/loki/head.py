"""The rule as the last layer of a network, with choices of a label that gradients pass through."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from holonomy.manifolds.kernels.simplex import project_simplex
from holonomy.models.adaptation.loki.predict import (
    Distances,
    Source,
    StructuredMetric,
    check_chunk,
    read_source,
    temper,
)
from holonomy.models.adaptation.loki.validation import check_positive, check_probs

__all__ = ["LokiHead", "loki_polytope", "loki_smooth", "loki_straight_through"]


class LokiHead(nn.Module):
    """Scores of all N labels from a network's outputs over K observed ones: S = -P D^p.

    Parameters
    ----------
    distances : ndarray, Tensor, StructuredMetric or callable
        (N, N) with `observed`, (K, N) without; a `Tree`, `Grid` or `Points`; or a function of (low, high) with
        `n_labels` and `n_observed`. Arrays become the buffer `distances` (K, N), of the rows of observed labels alone.
    observed : array-like, optional
        Indices of the observed labels, an output of the network each.
    p : float, default 2
        Power of the distance.
    temperature : float, default 1
        T: weights are softmax(logits/T), or P^(1/T) normalised.
    chunk_size : int, optional
        Labels in a block of `predict`.
    inputs : {"logits", "probs"}, default "logits"
        What `forward` is given. Of logits the softmax is taken first; they are no weights.
    n_labels, n_observed : int, optional
        N and K where distances are a function.

    Raises
    ------
    TypeError, ValueError
        Where distances, observed labels, power or temperature are none.
    """

    distances: Tensor

    def __init__(
        self,
        distances: Distances,
        observed: Any = None,
        p: float = 2,
        temperature: float = 1.0,
        chunk_size: int | None = None,
        inputs: Literal["logits", "probs"] = "logits",
        n_labels: int | None = None,
        n_observed: int | None = None,
    ) -> None:
        super().__init__()
        if inputs not in ("logits", "probs"):
            raise ValueError(f"LokiHead: 'inputs' must be 'logits' or 'probs', got {inputs!r}")
        self.p = check_positive("LokiHead", "p", p)
        self.temperature = check_positive("LokiHead", "temperature", temperature)
        self.inputs = inputs
        self.chunk_size = check_chunk("LokiHead", chunk_size)
        self._source = read_source("LokiHead", distances, observed, p, n_labels, n_observed)
        self.n_labels, self.n_observed = self._source.n, self._source.k
        D = self._source.distances
        self._own = not isinstance(D, StructuredMetric) and not callable(D)
        if self._own:
            rows = D if self._source.observed is None else D[self._source.observed]
            block = rows.detach().clone() if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows))
            dtype = torch.get_default_dtype() if not block.is_floating_point() else block.dtype
            self.register_buffer("distances", block.to(dtype))

    def weights(self, x: Tensor) -> Tensor:
        """Probabilities (B, K) at the temperature, of logits or of probabilities."""
        if self.inputs == "probs":
            check_probs("LokiHead", x, self.n_observed)
            return temper(x, self.temperature)
        if x.ndim != 2 or x.shape[1] != self.n_observed or not x.is_floating_point():
            raise ValueError(
                f"LokiHead: logits must be floating (B, {self.n_observed}), got {x.dtype} of shape {tuple(x.shape)}"
            )
        return (x / self.temperature).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, N) of logits or probabilities (B, K); half precision gives float32."""
        P = self.weights(x)
        P = P.float() if P.dtype.itemsize < 4 else P
        if not self._own:
            return self._source.scores(P)
        return -(P @ self.distances.to(P).pow(self.p))

    def predict(self, x: Tensor) -> Tensor:
        """Labels (B,), int64, by blocks of labels; of ties the lowest."""
        with torch.no_grad():
            P = self.weights(x)
            P = P.float() if P.dtype.itemsize < 4 else P
            source = self._source
            if self._own:
                source = Source(self.distances, None, source.k, source.n, self.p)
            return source.predict(P, self.chunk_size)

    def extra_repr(self) -> str:
        """Sizes and settings."""
        return f"{self.n_observed} -> {self.n_labels}, p={self.p:g}, temperature={self.temperature:g}"


def loki_smooth(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Weights softmax(S/T) (B, N) of labels: their sum with distances to a label is smooth in the scores."""
    return (scores / check_positive("loki_smooth", "temperature", temperature)).softmax(-1)


def loki_straight_through(scores: Tensor) -> Tensor:
    """One-hot vector (B, N) of the best label; the gradient passes to the scores as it is.

    Raises
    ------
    TypeError, ValueError
        Where scores are not floating (B, N).
    """
    _check_scores("loki_straight_through", scores)
    return _StraightThrough.apply(scores)


def loki_polytope(scores: Tensor, eta: float = 0.01) -> Tensor:
    """One-hot vector z (B, N) of the best label, with gradient z - Proj(z - eta g) to the scores.

    Proj is the Euclidean projection to the simplex: what of a step along -g stays in the polytope of labels.

    Parameters
    ----------
    scores : Tensor
        (B, N).
    eta : float, default 0.01
        Step, positive.

    Raises
    ------
    TypeError, ValueError
        Where scores are not floating (B, N), or eta is not positive.
    """
    _check_scores("loki_polytope", scores)
    return _Polytope.apply(scores, check_positive("loki_polytope", "eta", eta))


class _StraightThrough(torch.autograd.Function):
    """argmax as a one-hot vector, with the identity as its derivative."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return _one_hot(scores)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Polytope(torch.autograd.Function):
    """argmax as a one-hot vector, with a projected step as its derivative."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, eta: float) -> Tensor:
        z = _one_hot(scores)
        ctx.save_for_backward(z)
        ctx.eta = eta
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return z - project_simplex(z - ctx.eta * grads[0]), None


def _one_hot(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


def _check_scores(where: str, scores: Tensor) -> None:
    if not scores.is_floating_point():
        raise TypeError(f"{where}: 'scores' must be floating, got {scores.dtype}")
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"{where}: 'scores' has shape {tuple(scores.shape)}, wanted (B, N)")

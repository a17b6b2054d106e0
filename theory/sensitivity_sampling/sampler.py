"""Independent sampling of rows by their importance: row i is kept with probability q_i and scaled by q_i^(-1/p).

Then E||SAx||_p^p = ||Ax||_p^p for every x. Woodruff and Yasuda (arXiv 2306.00732 v2) take q_i = min(1, 1/n + s_i/alpha)
for sensitivities s_i; the other rules here differ in the importances alone. Munteanu and Omlor (2024) add the leverage
scores to the sensitivities.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.theory.sensitivity_sampling.arrays import Array, as_matrix, check_p
from holonomy.theory.sensitivity_sampling.bounds import check_eps, sample_complexity
from holonomy.theory.sensitivity_sampling.leverage import leverage_scores
from holonomy.theory.sensitivity_sampling.lewis import lewis_weights
from holonomy.theory.sensitivity_sampling.sensitivities import lp_sensitivities

RandomState = int | np.random.Generator | None


class NotFittedError(ValueError, AttributeError):
    """A sampler was asked for rows before `RowSampler.fit`; both types, as in scikit-learn."""


@dataclass(frozen=True)
class RowSample:
    """Rows that were kept.

    Attributes
    ----------
    indices : numpy.ndarray or Tensor
        (m,), ascending.
    weights : numpy.ndarray or Tensor
        (m,), q^(-1/p): what the kept rows are multiplied by.
    q : numpy.ndarray or Tensor
        (m,), the probabilities that they were kept with.
    expected_size : float
        Sum of the probabilities of all rows.
    """

    indices: Array
    weights: Array
    q: Array
    expected_size: float

    def of(self, A: Array) -> Array:
        """Return the kept rows of A, weighted: SA, (m, d)."""
        return self.weights[:, None] * A[self.indices]


def draw(q: Tensor, p: float, rng: np.random.Generator) -> RowSample:
    """Keep each row with its probability, independently of the others, q: (n,)."""
    kept = torch.from_numpy(rng.random(len(q))).to(q.device) < q
    indices = torch.nonzero(kept)[:, 0]
    return RowSample(indices, q[indices] ** (-1.0 / p), q[indices], float(q.sum()))


def _sensitivity(A: Tensor, p: float) -> Tensor:
    return lp_sensitivities(A, p)


def _leverage(A: Tensor, p: float) -> Tensor:
    return leverage_scores(A)


def _root_leverage(A: Tensor, p: float) -> Tensor:
    return leverage_scores(A) ** (p / 2)


def _augmented(A: Tensor, p: float) -> Tensor:
    return lp_sensitivities(A, p) + leverage_scores(A)


def _uniform(A: Tensor, p: float) -> Tensor:
    # The mean leverage, so that alpha means much the same as for the others.
    return A.new_full((len(A),), A.shape[1] / len(A))


METHODS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sensitivity": _sensitivity,
    "lewis": lewis_weights,
    "leverage": _leverage,
    "root_leverage": _root_leverage,
    "augmented": _augmented,
    "uniform": _uniform,
}


class RowSampler:
    """Keep rows of a tall matrix at random, weighted so that ||Ax||_p^p is right in the mean for every x.

    Parameters are checked by `fit`, and read and set by `get_params` and `set_params`, as in scikit-learn.

    Parameters
    ----------
    method : str, default "sensitivity"
        What the probabilities are made of: ``sensitivity``, ``lewis``, ``leverage``, ``root_leverage`` (tau^(p/2)),
        ``augmented`` (s + tau) or ``uniform``.
    p : float, default 1.0
        The norm's exponent.
    alpha : float, optional
        Row i is kept with probability min(1, score_i / alpha), and 1/n more for ``sensitivity``.
    size : float, optional
        Instead: expected number of rows. Where fewer rows have a score that is not 0, those are all kept.
    eps : float, optional
        Instead: accuracy, from which alpha follows by `sample_complexity` of the method with constant 1; not for
        ``uniform``, ``leverage`` with p other than 2 and ``root_leverage`` with p > 2, for want of a bound.
    random_state : int, numpy.random.Generator or None
        An int gives the same rows at every call; a generator goes on.

    Attributes
    ----------
    scores_ : numpy.ndarray or Tensor
        (n,), the importances.
    alpha_ : float
        The alpha in use.
    q_ : numpy.ndarray or Tensor
        (n,), the probabilities.
    n_features_in_ : int
        Columns of the fitted matrix.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.random.default_rng(0).standard_normal((500, 4))
    >>> RowSampler("lewis", p=1.0, size=100, random_state=0).fit(A).transform(A).shape[1]
    4
    """

    def __init__(
        self,
        method: str = "sensitivity",
        p: float = 1.0,
        alpha: float | None = None,
        size: float | None = None,
        eps: float | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.method = method
        self.p = p
        self.alpha = alpha
        self.size = size
        self.eps = eps
        self.random_state = random_state

    def fit(self, A: Array, y: object = None) -> "RowSampler":
        """Compute the probabilities of the rows of A.

        Parameters
        ----------
        A : numpy.ndarray or Tensor
            (n, d), of full column rank.
        y : object
            Not used; there for pipelines.

        Raises
        ------
        TypeError
            If A is no array of real numbers.
        ValueError
            If ``method`` is unknown; if not exactly one of ``alpha``, ``size`` and ``eps`` is given; if it, or p, is
            out of range; if A is not as `leverage_scores` wants it.
        """
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {self.method!r}")
        p = check_p(self.p)
        values, wrap = as_matrix(A)
        given = {n: v for n in ("alpha", "size", "eps") if (v := getattr(self, n)) is not None}
        if len(given) != 1:
            raise ValueError(f"exactly one of alpha, size and eps must be given, got {given or 'none'}")
        self._check_rate(len(values))
        scores = METHODS[self.method](values, p)
        floor = 1.0 / len(values) if self.method == "sensitivity" else 0.0
        self.alpha_ = self._alpha(scores, floor, values.shape[1], p)
        self.scores_ = wrap(scores)
        self.q_ = wrap(_probabilities(scores, floor, self.alpha_))
        self.n_features_in_ = values.shape[1]
        return self

    def sample(self, A: Array) -> RowSample:
        """Draw rows of the fitted matrix.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the shape of A is not that of the fitted matrix.
        """
        values, wrap = as_matrix(A)
        if not hasattr(self, "q_"):
            raise NotFittedError("this RowSampler is not fitted: call fit(A) first")
        if tuple(values.shape) != (len(self.q_), self.n_features_in_):
            raise ValueError(
                f"A must have the fitted shape {(len(self.q_), self.n_features_in_)}, got {tuple(values.shape)}"
            )
        q = torch.as_tensor(self.q_, device=values.device)
        found = draw(q, self.p, np.random.default_rng(self.random_state))
        return RowSample(wrap(found.indices), wrap(found.weights), wrap(found.q), found.expected_size)

    def transform(self, A: Array) -> Array:
        """Draw rows of the fitted matrix and weight them: SA, (m, d).

        Exceptions are those of `sample`.
        """
        values, wrap = as_matrix(A)
        return wrap(self.sample(values).of(values))

    def fit_transform(self, A: Array, y: object = None) -> Array:
        """`fit`, then `transform`."""
        return self.fit(A).transform(A)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> "RowSampler":
        """Set parameters by name.

        Raises
        ------
        ValueError
            For a name that is no parameter.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"parameter must be one of {', '.join(self.get_params())}, got {name!r}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {n: v for n, v in self.get_params().items() if v is not defaults[n].default}
        return f"RowSampler({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _check_rate(self, n: int) -> None:
        if self.alpha is not None and not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}")
        if self.size is not None and not 1 <= self.size <= n:
            raise ValueError(f"size must be in 1 ... n = {n}, got {self.size}")
        if self.eps is not None:
            check_eps(self.eps)
            unknown = {"uniform": True, "leverage": self.p != 2, "root_leverage": self.p > 2}
            if unknown.get(self.method, False):
                raise ValueError(
                    f"eps must be left out for method {self.method!r} with p = {self.p:g}, which has no known "
                    f"bound, got {self.eps}: give alpha or size instead"
                )

    def _alpha(self, scores: Tensor, floor: float, d: int, p: float) -> float:
        if self.alpha is not None:
            return float(self.alpha)
        if self.eps is not None:
            return _alpha_for_eps(self.method, float(scores.sum()), d, p, self.eps)
        return _alpha_for_size(scores, floor, float(self.size))  # type: ignore[arg-type]


def _alpha_for_eps(method: str, total: float, d: int, p: float, eps: float) -> float:
    """Alpha for which the scores that the bound is of sum to the bound's number of rows."""
    if method == "sensitivity":
        return total / sample_complexity("chen_derezinski" if p <= 2 else "sensitivity", total, d, p, eps)
    if method == "augmented" and p <= 2:
        S = total - d  # the leverage scores only add rows
        return S / sample_complexity("chen_derezinski", S, d, p, eps)
    if method == "augmented":
        return total / sample_complexity("leverage_sensitivity", total - d, d, p, eps)
    # Below p = 2, w_i <= tau_i^(p/2): root leverage at the rate of Lewis weights keeps each row at least as often.
    return d / sample_complexity("lewis", float(d), d, p, eps)


def _probabilities(scores: Tensor, floor: float, alpha: float) -> Tensor:
    return (floor + scores / alpha).clamp_max(1.0)


def _alpha_for_size(scores: Tensor, floor: float, size: float) -> float:
    """Alpha for which the probabilities sum to ``size``, by bisection of its logarithm: the sum falls with alpha."""
    positive = scores[scores > 0]
    low, high = float(positive.min()) / 2.0, 2.0 * float(scores.sum()) / 1e-9
    if float(_probabilities(scores, floor, low).sum()) <= size:
        return low
    for _ in range(200):
        middle = (low * high) ** 0.5
        if float(_probabilities(scores, floor, middle).sum()) > size:
            low = middle
        else:
            high = middle
        if high <= low * (1.0 + 1e-12):
            break
    return high

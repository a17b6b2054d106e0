"""The rule around any probabilistic classifier, as a scikit-learn estimator."""

from typing import Any, Self

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from holonomy.models.adaptation.loki.calibrate import TEMPERATURES, choose
from holonomy.models.adaptation.loki.predict import (
    Source,
    StructuredMetric,
    expected_squared_distance,
    read_source,
    temper,
)
from holonomy.models.adaptation.loki.validation import check_observed, check_positive

__all__ = ["LokiClassifier"]


class LokiClassifier(ClassifierMixin, BaseEstimator):
    """Classify among N labels with a classifier that was trained on K of them.

    Predicted is the label of least expected power of the distance under the classifier's probabilities, in place of the
    most probable one: it may be a label that training never saw.

    Parameters
    ----------
    estimator : classifier with `predict_proba`, optional
        By default a `LogisticRegression`, which `fit` trains.
    distances : ndarray (N, N), `Tree`, `Grid` or `Points`, optional
        Between all labels, in the order of `labels`. By default 1 between any two classes of the estimator, where the
        rule is argmax.
    observed : array-like, optional
        Index among the labels of each class of the estimator, in the order of its `classes_`. By default the classes
        are looked up in `labels`.
    labels : array-like, optional
        Names (N,) of all labels; by default 0 to N - 1, or the estimator's classes where there are no distances.
    p : float, default 2
        Power of the distance.
    temperature : float, default 1
        T of the weights P^(1/T), as of `temper`, until `calibrate` chooses another.
    prefit : bool, default True
        Take a given estimator as it is: `fit` then needs no data and trains nothing. Otherwise a clone is trained.
    tau : float, default 1
        Scale of `predict_proba`.

    Attributes
    ----------
    estimator_ : classifier
        The one that probabilities come from.
    classes_ : ndarray
        All labels (N,), seen or not.
    observed_ : ndarray
        Index among them of each of the estimator's classes.
    temperature_ : float
        T in use.

    Notes
    -----
    Roberts et al., *Geometry-Aware Adaptation for Pretrained Models*, NeurIPS 2023 (arXiv:2307.12226).
    """

    def __init__(
        self,
        estimator: Any = None,
        distances: Any = None,
        observed: Any = None,
        *,
        labels: Any = None,
        p: float = 2,
        temperature: float = 1.0,
        prefit: bool = True,
        tau: float = 1.0,
    ) -> None:
        self.estimator = estimator
        self.distances = distances
        self.observed = observed
        self.labels = labels
        self.p = p
        self.temperature = temperature
        self.prefit = prefit
        self.tau = tau

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Train the estimator, unless it is given and `prefit`; put its classes among the labels.

        Parameters
        ----------
        X : array-like
            Samples (n, features); not needed with a trained estimator.
        y : array-like
            Labels (n,), observed ones.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Where the estimator is given as trained, and is not.
        TypeError, ValueError
            Where distances, observed labels, power, temperature or tau are none, or classes are not among the labels.
        """
        check_positive("LokiClassifier", "temperature", self.temperature)
        check_positive("LokiClassifier", "tau", self.tau)
        check_positive("LokiClassifier", "p", self.p)
        if self.estimator is not None and self.prefit:
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
        else:
            if y is not None:
                check_classification_targets(y)
                y = column_or_1d(y, warn=True)
            self.estimator_ = clone(self.estimator) if self.estimator is not None else LogisticRegression()
            self.estimator_.fit(X, y)
        self._place(self.estimator_.classes_)
        self.temperature_ = float(self.temperature)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Minus the expected power of the distance: (n, N); with two labels, the second's less the first's, (n,)."""
        source = self._source()
        scores = np.asarray(source.scores(self._weights(X)))
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,) of least expected power of the distance; of ties the first."""
        found = self._source().predict(self._weights(X)).numpy()
        return np.asarray(self.classes_[found])

    def predict_proba(self, X: Any) -> np.ndarray:
        """softmax(decision / tau) (n, N): a heuristic, which ranks as the rule does and is not calibrated."""
        check_is_fitted(self)
        return softmax(self._source().scores(self._weights(X)).numpy() / self.tau, axis=1)

    def calibrate(self, X: Any, y: Any, temperatures: Any = TEMPERATURES, errors: float = 2.0) -> Self:
        """Choose the temperature on held-out samples, as of `calibrate_temperature`, and use it from now on.

        Parameters
        ----------
        X, y : array-like
            Samples and labels that the estimator was not trained on, observed or not.
        temperatures : sequence of float
            Those that are tried.
        errors : float, default 2
            Standard errors by which one must be better than `temperature`; with 0 the least mean wins.

        Raises
        ------
        ValueError
            Where a temperature is not positive, or `y` has a value that is no label.
        """
        source = self._source()
        probs, true = self._probabilities(X), self._index(y)
        where = "LokiClassifier.calibrate"
        self.temperature_ = choose(
            where, probs, true, self._metric, source, temperatures, float(self.temperature), errors
        )
        return self

    def expected_distance(self, X: Any, y: Any) -> float:
        """Mean of d(label, predicted)^p over samples; at p = 2 the measure of the paper."""
        check_is_fitted(self)
        return self._distance(self._index(y), self._source().predict(self._weights(X)).numpy())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(LogisticRegression() if self.estimator is None else self.estimator).input_tags
        return tags

    def _place(self, classes: np.ndarray) -> None:
        D = self.distances
        labels = self.labels
        if labels is None:
            labels = classes if D is None else np.arange(D.n if isinstance(D, StructuredMetric) else len(D))
        self.classes_ = np.asarray(labels)
        n = len(self.classes_)
        if self.classes_.ndim != 1 or len(np.unique(self.classes_)) != n:
            raise ValueError("LokiClassifier: 'labels' must be (N,), all different")
        self._metric = np.ones((n, n)) - np.eye(n) if D is None else D
        if self.observed is not None:
            self.observed_ = check_observed("LokiClassifier", self.observed, n)
        else:
            self.observed_ = self._index(classes)
        if len(self.observed_) != len(classes):
            raise ValueError(
                f"LokiClassifier: 'observed' must have {len(classes)} labels, one a class of the estimator, got "
                f"{len(self.observed_)}"
            )
        self._checked = read_source("LokiClassifier", self._metric, self.observed_, self.p)
        if self._checked.n != n:
            raise ValueError(f"LokiClassifier: 'labels' must be {self._checked.n}, one a row of distances, got {n}")

    def _source(self) -> Source:
        check_is_fitted(self)
        return self._checked

    def _index(self, y: Any) -> np.ndarray:
        """Places of labels among all of them."""
        values = column_or_1d(y, warn=True)
        order = np.argsort(self.classes_, kind="stable")
        place = np.searchsorted(self.classes_, values, sorter=order).clip(max=len(order) - 1)
        index = order[place]
        wrong = self.classes_[index] != values
        if np.any(wrong):
            raise ValueError(
                f"LokiClassifier: {values[np.argmax(wrong)].item()!r} is not among the {len(order)} labels"
            )
        return index

    def _probabilities(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        return torch.from_numpy(np.asarray(self.estimator_.predict_proba(X), dtype=np.float64))

    def _weights(self, X: Any) -> torch.Tensor:
        return temper(self._probabilities(X), self.temperature_)

    def _distance(self, true: np.ndarray, found: np.ndarray) -> float:
        return expected_squared_distance(true, found, self._metric, self.p)

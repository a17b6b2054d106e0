"""The estimator: scikit-learn's own checks, labels and columns in any order, pipelines, calibration, unseen classes."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from holonomy.models.adaptation.loki import (
    Grid,
    LokiClassifier,
    LokiHead,
    Tree,
    calibrate_temperature,
    expected_squared_distance,
    frechet_predict,
    grid_metric,
    temper,
)

RNG = np.random.default_rng(0)
PLACES = Grid((5, 5)).coordinates().astype(float)
D = grid_metric((5, 5))
SEEN = np.array([24, 0, 4, 20, 12])


def sample(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return PLACES[labels] + 0.7 * rng.normal(size=(len(labels), 2))


Y = SEEN[RNG.integers(0, 5, 600)]
X = sample(Y, RNG)
Y_NEW = RNG.integers(0, 25, 800)
X_NEW = sample(Y_NEW, RNG)
BASE = LogisticRegression().fit(X, Y)


@parametrize_with_checks(
    [LokiClassifier(), LokiClassifier(p=1, temperature=2.0), LokiClassifier(LogisticRegression(), prefit=False)]
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_unseen_classes_are_found_and_the_distance_falls() -> None:
    model = LokiClassifier(BASE, D).fit()
    found = model.predict(X_NEW)
    base = BASE.predict(X_NEW)
    unseen = ~np.isin(Y_NEW, SEEN)
    assert (base[unseen] == Y_NEW[unseen]).sum() == 0
    assert (found[unseen] == Y_NEW[unseen]).mean() > 3 / 25
    assert model.expected_distance(X_NEW, Y_NEW) < 0.75 * expected_squared_distance(Y_NEW, base, D)
    assert model.expected_distance(X_NEW, Y_NEW) == pytest.approx(expected_squared_distance(Y_NEW, found, D), rel=1e-12)
    assert model.score(X_NEW, Y_NEW) == (found == Y_NEW).mean()


def test_columns_follow_the_estimators_classes() -> None:
    assert BASE.classes_.tolist() == [0, 4, 12, 20, 24]
    P = BASE.predict_proba(X_NEW)
    wanted = frechet_predict(P, D, observed=BASE.classes_).numpy()
    assert (LokiClassifier(BASE, D).fit().predict(X_NEW) == wanted).all()
    assert (LokiClassifier(BASE, D, [0, 4, 12, 20, 24]).fit().predict(X_NEW) == wanted).all()
    assert not (LokiClassifier(BASE, D, SEEN).fit().predict(X_NEW) == wanted).all()  # the order of training, not theirs
    head = LokiHead(D, BASE.classes_)
    assert (head.predict(torch.from_numpy(BASE.decision_function(X_NEW))).numpy() == wanted).all()


@pytest.mark.parametrize("metric", [Grid((5, 5)), torch.from_numpy(D)], ids=["grid", "tensor"])
def test_other_forms_of_the_metric_give_the_same(metric: Any) -> None:
    wanted = LokiClassifier(BASE, D).fit()
    found = LokiClassifier(BASE, metric).fit()
    assert (found.predict(X_NEW) == wanted.predict(X_NEW)).all()
    assert np.abs(found.decision_function(X_NEW) - wanted.decision_function(X_NEW)).max() < 1e-12
    assert found.calibrate(X, Y).temperature_ == wanted.calibrate(X, Y).temperature_


def test_names_as_labels() -> None:
    names = np.array(["cat", "lion", "mammal", "animal", "bird", "sparrow"])
    tree = Tree([(0, 2), (1, 2), (2, 3), (4, 3), (5, 4)])
    texts = ["meow purr", "purr meow soft", "tweet wing", "wing nest tweet"] * 5
    kinds = ["cat", "cat", "sparrow", "sparrow"] * 5
    words = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, kinds)
    model = LokiClassifier(words, tree, labels=names).fit()
    assert model.classes_.tolist() == names.tolist()
    assert model.observed_.tolist() == [0, 5]
    # Between a cat and a sparrow there are four edges; what is neither is in the middle.
    assert model.predict(["meow tweet", "purr meow", "stone"]).tolist()[2] == "animal"
    proba = model.predict_proba(texts)
    assert proba.shape == (20, 6)
    assert np.abs(proba.sum(1) - 1).max() < 1e-14
    assert (names[proba.argmax(1)] == model.predict(texts)).all()
    with pytest.raises(ValueError, match="'dog' is not among the 6 labels"):
        model.expected_distance(["meow"], ["dog"])


def test_two_labels_have_one_decision() -> None:
    y = (X[:, 0] > 2).astype(int)
    model = LokiClassifier().fit(X, y)
    decision = model.decision_function(X)
    assert decision.shape == (len(X),)
    assert ((decision > 0).astype(int) == model.predict(X)).all()
    # Distances of 0 and 1: scores are minus the other's probability.
    assert np.abs(decision - np.diff(model.estimator_.predict_proba(X), axis=1)[:, 0]).max() < 1e-14


def test_pipelines_searches_and_copies() -> None:
    inner = make_pipeline(StandardScaler(), LogisticRegression())
    model = LokiClassifier(inner, D, prefit=False, temperature=1.5)
    search = GridSearchCV(model, {"temperature": [0.5, 1.0], "estimator__logisticregression__C": [0.1, 1.0]}, cv=3)
    search.fit(X, Y)
    assert search.best_score_ > 0.5
    assert (
        cross_val_score(
            make_pipeline(StandardScaler(), LokiClassifier(LogisticRegression(), D, prefit=False)), X, Y
        ).min()
        > 0.5
    )
    copy = clone(model)
    assert copy.get_params()["temperature"] == 1.5
    with pytest.raises(NotFittedError):
        copy.predict(X)
    fitted = model.fit(X, Y)
    assert (pickle.loads(pickle.dumps(fitted)).predict(X_NEW) == fitted.predict(X_NEW)).all()
    assert not hasattr(inner[-1], "coef_")  # a clone was trained


def test_a_given_estimator_must_be_trained() -> None:
    with pytest.raises(NotFittedError):
        LokiClassifier(LogisticRegression(), D).fit()
    before = BASE.coef_.copy()
    LokiClassifier(BASE, D).fit(X_NEW, SEEN[np.arange(800) % 5])
    assert (BASE.coef_ == before).all()


# -- temperature -----------------------------------------------------------------------------------------------------


def overconfident(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of 5 landmarks on a line of 41 labels, five times too sure; the truth is the mean's label."""
    logits = 1.5 * rng.normal(size=(rows, 5))
    P = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (P @ np.linspace(0, 40, 5)).round().astype(int)
    sharp = np.exp(5 * (logits - logits.max(1, keepdims=True)))
    return sharp / sharp.sum(1, keepdims=True), y


def test_calibration_undoes_what_was_too_sure() -> None:
    line = np.abs(np.arange(41.0)[:, None] - np.arange(41))
    observed = np.linspace(0, 40, 5).astype(int)
    P, y = overconfident(300, RNG)
    T = calibrate_temperature(P, y, line, observed=observed)
    assert 4.0 < T < 6.0  # steps of the fourth root of 2
    test, true = overconfident(300, RNG)
    before = expected_squared_distance(true, frechet_predict(test, line, observed=observed), line)
    after = expected_squared_distance(
        true, frechet_predict(temper(torch.from_numpy(test), T), line, observed=observed), line
    )
    assert after < 0.1 * before
    assert calibrate_temperature(P, y, Grid((41,)), observed=observed) == T


def test_a_gain_within_its_error_changes_nothing() -> None:
    line = np.abs(np.arange(41.0)[:, None] - np.arange(41))
    observed = np.linspace(0, 40, 5).astype(int)
    P, y = overconfident(3, RNG)
    assert calibrate_temperature(P, y, line, observed=observed, errors=50.0) == 1.0
    assert calibrate_temperature(P, y, line, observed=observed, errors=0.0) > 1.0
    one = calibrate_temperature(P[:1], y[:1], line, observed=observed)
    assert one == 1.0  # a single sample has no error to be judged by


def test_estimators_calibrate_themselves() -> None:
    sharp = LogisticRegression(C=1e4, max_iter=2000).fit(5.0 * X, Y)
    model = LokiClassifier(sharp, D).fit()
    seen = SEEN[RNG.integers(0, 5, 300)]
    before = model.expected_distance(5.0 * X_NEW, Y_NEW)
    model.calibrate(5.0 * X_NEW[:400], Y_NEW[:400])
    assert model.temperature_ > 1.0
    assert model.expected_distance(5.0 * X_NEW[400:], Y_NEW[400:]) < before
    assert model.calibrate(5.0 * sample(seen, RNG), seen, temperatures=[1.0]).temperature_ == 1.0
    assert model.temperature == 1.0  # the parameter is as it was given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "'temperature' must be a positive"),
        ({"tau": -1.0}, "'tau' must be a positive"),
        ({"p": 0}, "'p' must be a positive"),
        ({"observed": [0, 1]}, "must have 5 labels, one a class"),
        ({"observed": [0, 0, 1, 2, 3]}, "must not repeat"),
        ({"labels": np.arange(7)}, "is not among the 7 labels"),
        ({"labels": np.append(np.arange(25), 77)}, "'labels' must be 25, one a row of distances, got 26"),
        ({"labels": np.zeros(25)}, "all different"),
        ({"distances": D[:5]}, "is not among the 5 labels"),
        ({"distances": np.where(D > 6, np.inf, D)}, "must be finite"),
    ],
)
def test_bad_parameters_are_refused_at_fit(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LokiClassifier(**({"estimator": BASE, "distances": D} | change)).fit()


def test_bad_calibrations_are_refused() -> None:
    model = LokiClassifier(BASE, D).fit()
    with pytest.raises(ValueError, match="'temperatures' must be a positive"):
        model.calibrate(X, Y, [0.0])
    with pytest.raises(ValueError, match="got 0 temperatures"):
        model.calibrate(X, Y, [])
    with pytest.raises(ValueError, match="between all labels"):
        calibrate_temperature(BASE.predict_proba(X), Y, D[:5])

"""Heads as scikit-learn estimators, and the other way round."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from probekit.errors import ProbeError
from probekit.results.intervals import Array

NEAR = 1e-6
"""How near, in standard deviations of the output, a linear estimator's own output has to be."""


class Weights(NamedTuple):
    """What a linear estimator computes."""

    coef: Array
    """Shape (d_model,)."""
    bias: float
    classes: tuple[str, str] | None


def to_estimator(head: Any) -> Any:  # noqa: ANN401 - a LinearHead, a scikit-learn estimator
    """Return a fitted scikit-learn estimator with the weights of a head.

    A `LogisticRegression` for labels, whose `decision_function` is the score; else a `LinearRegression`,
    which predicts ratings in their own units, or the score of a head that was fitted to pairs.
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression

    n = len(head.coef)
    if head.classes is not None:
        classifier = LogisticRegression()
        classifier.classes_ = np.array(head.classes)
        classifier.coef_, classifier.intercept_ = head.coef[None].copy(), np.array([head.bias])
        classifier.n_iter_, classifier.n_features_in_ = np.array([0]), n
        return classifier
    low, high = head.score_range or (-1.0, 1.0)
    regressor, factor = LinearRegression(), (high - low) / 2
    regressor.coef_ = head.coef * factor
    regressor.intercept_ = float(low + (head.bias + 1) * factor)
    regressor.n_features_in_ = n
    return regressor


def weights_of(estimator: Any) -> Weights:  # noqa: ANN401 - a fitted scikit-learn estimator
    """Return the weights of a fitted estimator, found by asking it: whatever is linear will do.

    Raises
    ------
    ProbeError
        When it is not fitted, has more than two classes, or is not linear.
    """
    name, ask = type(estimator).__name__, getattr(estimator, "decision_function", None)
    ask = ask or (
        None if hasattr(estimator, "predict_proba") else getattr(estimator, "predict", None)
    )
    n = getattr(estimator, "n_features_in_", None)
    if ask is None or n is None:
        raise ProbeError(
            f"estimator: got a {name} that is not fitted or gives no score. Expected a fitted linear "
            "classifier (with decision_function) or regressor."
        )
    classes = getattr(estimator, "classes_", None)
    if classes is not None and len(classes) != 2:  # noqa: PLR2004
        raise ProbeError(f"estimator: a {name} of {len(classes)} classes, expected two.")
    steps = np.vstack([np.zeros((1, n)), np.eye(n), -np.eye(n)])
    told = np.asarray(ask(steps), dtype=np.float64)
    if told.ndim == 2 and told.shape[1] == 1:  # noqa: PLR2004
        told = told[:, 0]
    if told.ndim != 1:
        raise ProbeError(f"estimator: a {name} gives {told.shape[1]} numbers a row, expected one.")
    coef, bias = (told[1 : n + 1] - told[n + 1 :]) / 2, float(told[0])
    if hasattr(estimator, "coef_") and np.size(estimator.coef_) == n:
        coef = np.asarray(estimator.coef_, dtype=np.float64).reshape(-1)  # exact
    points = np.random.default_rng(0).normal(size=(16, n)) * 10.0
    own = np.asarray(ask(points), dtype=np.float64).reshape(-1)
    if not np.abs(points @ coef + bias - own).max() <= NEAR * (
        own.std() + np.abs(own).max() + 1e-300
    ):
        raise ProbeError(
            f"estimator: a {name} that is not linear in the activations. Expected one."
        )
    return Weights(coef, bias, None if classes is None else (str(classes[0]), str(classes[1])))

# ruff: noqa: N806 - X is a matrix
"""Three and more classes: the estimator and the measures against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, roc_auc_score

from probekit.probes import LogisticProbe
from probekit.probes.metrics import class_metrics, confusion
from probekit.results.intervals import Resampler


def drawn(rng, n=300, d=6, k=4):
    X = rng.normal(size=(n, d)) * rng.uniform(0.5, 20, size=d) + 3
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    logits = Z @ rng.normal(size=(d, k)) + rng.gumbel(size=(n, k))
    return X, Z, logits.argmax(axis=1)


@pytest.mark.parametrize("l2", [0.3, 5.0])
def test_the_optimum_is_that_of_scikit_learn(rng, l2):
    X, Z, y = drawn(rng)
    names = np.array(["a", "b", "c", "d"])[y]
    ours = LogisticProbe(l2).fit(X, names)
    theirs = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(Z, names)
    assert ours.coef_.shape == (len(theirs.classes_), X.shape[1])
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(Z), atol=1e-4)
    np.testing.assert_allclose(ours.coef_ * X.std(axis=0), theirs.coef_, atol=1e-3)
    assert list(ours.predict(X)) == list(theirs.predict(Z))


def test_measures_are_those_of_scikit_learn(rng):
    X, Z, y = drawn(rng)
    logits = LogisticRegression(max_iter=1000).fit(Z, y).decision_function(Z) + rng.normal(
        size=(300, 4)
    )
    chance, guess = softmax(logits, axis=1), logits.argmax(axis=1)
    found = class_metrics(y, logits, Resampler(np.arange(300), n_boot=200))
    truth = {
        "macro_auroc": roc_auc_score(y, chance, multi_class="ovr", average="macro"),
        "macro_f1": f1_score(y, guess, average="macro"),
        "accuracy": accuracy_score(y, guess),
        "log_loss": log_loss(y, chance),
    }
    assert {name: found[name].value for name in truth} == pytest.approx(truth)
    for value in found.values():
        assert value.low < value.value < value.high
    np.testing.assert_array_equal(confusion(y, logits), confusion_matrix(y, guess))


def test_intervals_cover_the_measures_of_many_rows(rng):
    weights, covered = rng.normal(size=(5, 3)), {"macro_auroc": 0, "macro_f1": 0, "accuracy": 0}

    def rows(n):
        X = rng.normal(size=(n, 5))
        return (X @ weights + rng.gumbel(size=(n, 3)) * 2).argmax(axis=1), X @ weights

    whole = class_metrics(*rows(40_000), Resampler(np.arange(40_000), n_boot=2))
    for seed in range(100):
        y, logits = rows(200)
        found = class_metrics(y, logits, Resampler(np.arange(200), n_boot=200, seed=seed))
        for name in covered:
            covered[name] += found[name].low <= whole[name].value <= found[name].high
    assert min(covered.values()) >= 85


def test_a_class_that_is_not_there_has_no_area():
    y, logits = np.array([0, 1, 0, 1] * 5), np.random.default_rng(0).normal(size=(20, 3))
    found = class_metrics(y, logits, Resampler(np.arange(20), n_boot=50))
    assert np.isnan(found["macro_auroc"].value)
    assert found["macro_f1"].value == pytest.approx(
        f1_score(y, logits.argmax(axis=1), average="macro")
    )


def test_no_measure_of_rows_that_are_all_right_has_an_empty_interval():
    y = np.arange(60) % 3
    found = class_metrics(y, 9.0 * np.eye(3)[y], Resampler(np.arange(60), n_boot=50))
    for name in ("macro_auroc", "macro_f1", "accuracy"):
        assert found[name].value == found[name].high == 1.0 and found[name].low < 0.97

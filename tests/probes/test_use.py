"""A probe in a script: on activations of any kind, on texts, in scikit-learn, and on other data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from probekit.activations.cache import cache_activations
from probekit.activations.table import Cell
from probekit.errors import ProbeError, ProbekitError
from probekit.models.load import load_model
from probekit.probes import Probe, evaluate, fit_sweep
from probekit.probes.metrics import pearson
from probekit.results.intervals import Resampler
from tests.tiny import D_MODEL, tiny_model, tiny_tokenizer


def head(rng, d=6, **more):
    more = {"data_kind": "label", "classes": ("bad", "good"), **more}
    return Probe(
        "logistic", None, Cell("resid_post", 1, "mean"), rng.normal(size=d), 0.7, None, **more
    )


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4)])
def test_it_is_called_on_activations_of_any_shape(shape, rng):
    probe, acts = head(rng), rng.normal(size=(*shape, 6))
    expected = np.einsum("...d,d->...", acts, probe.coef) + probe.bias
    for kind in (np.float64, np.float32, np.float16):
        given = acts.astype(kind)
        wide = given.astype(np.float64) @ probe.coef + probe.bias
        np.testing.assert_allclose(probe(given), wide)
        assert probe(given).shape == shape
    np.testing.assert_allclose(probe(acts.tolist()), expected)
    tensor = torch.from_numpy(acts)
    assert probe(tensor).dtype == torch.float64
    np.testing.assert_allclose(probe(tensor).numpy(), expected)
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        found, exact = probe(tensor.to(kind)), probe(tensor.to(kind).double())
        assert found.dtype == torch.float32 and found.shape == shape
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_gradients_reach_the_activations(rng):
    probe = head(rng)
    acts = torch.zeros(3, 6, dtype=torch.bfloat16, requires_grad=True)
    probe(acts).sum().backward()
    torch.testing.assert_close(
        acts.grad[1].float(), torch.tensor(probe.coef).float(), rtol=4e-3, atol=0
    )
    assert not probe(acts.detach()).requires_grad
    with torch.inference_mode():
        assert not probe(torch.zeros(2, 6)).requires_grad


@pytest.mark.parametrize("acts", [np.zeros((2, 5)), torch.zeros(5), 3.0, np.zeros(0)])
def test_another_width_is_refused(acts, rng):
    with pytest.raises(
        ProbeError, match=r"^activations: shape is .* the probe expects \(\.\.\., 6\)"
    ):
        head(rng)(acts)


def test_another_position_is_refused(rng):
    with pytest.raises(
        ProbeError, match="^activations: read at position last, the probe was fitted at mean"
    ):
        head(rng)(np.zeros(6), position="last")


def test_probabilities_are_those_of_the_score(rng):
    probe, acts = head(rng), rng.normal(size=(2, 5, 6))
    one = expit(acts @ probe.coef + probe.bias)
    np.testing.assert_allclose(probe.predict_proba(acts), np.stack([1 - one, one], -1))
    np.testing.assert_allclose(
        probe.predict_proba(torch.from_numpy(acts)).numpy(), np.stack([1 - one, one], -1)
    )
    with pytest.raises(ProbeError, match="was fitted to pair rows, so its score is no log-odds"):
        head(rng, data_kind="pair", classes=None).predict_proba(acts)


def test_it_becomes_an_estimator(rng):
    probe, acts = head(rng), rng.normal(size=(20, 6))
    made = probe.to_sklearn()
    assert isinstance(made, LogisticRegression)
    np.testing.assert_allclose(made.decision_function(acts), probe(acts))
    np.testing.assert_allclose(made.predict_proba(acts), probe.predict_proba(acts))
    assert (made.predict(acts) == np.where(probe(acts) > 0, "good", "bad")).all()
    rating = head(rng, data_kind="rating", classes=None, score_range=(1.0, 9.0))
    np.testing.assert_allclose(rating.to_sklearn().predict(acts), rating.rating(rating(acts)))
    pair = head(rng, data_kind="pair", classes=None)
    np.testing.assert_allclose(pair.to_sklearn().predict(acts), pair(acts))


CLASSIFIERS = [
    LogisticRegression(C=0.1),
    LinearSVC(),
    LinearDiscriminantAnalysis(),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), PCA(4), LogisticRegression()),
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
]


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda e: type(e).__name__)
def test_an_estimator_becomes_a_probe(estimator, rng):
    acts = rng.normal(size=(60, 6)) * 5 + 40
    along = acts @ rng.normal(size=6)
    names = np.where(along > np.median(along), "up", "down")
    fitted = estimator.fit(acts, names)
    probe = Probe.from_estimator(
        fitted, layer=3, position="last", site="mlp_out", model="some/model"
    )
    np.testing.assert_allclose(probe(acts), fitted.decision_function(acts), rtol=1e-6, atol=1e-6)
    assert (probe.cell, probe.classes) == (("mlp_out", 3, "last"), ("down", "up"))
    assert probe.provenance == {"model": "some/model"}
    again = Probe.from_estimator(probe.to_sklearn(), cell=probe.cell)
    assert again.cell == probe.cell
    np.testing.assert_allclose(again.coef, probe.coef)


@pytest.mark.parametrize(
    "estimator", [Ridge(), LinearRegression(), make_pipeline(StandardScaler(), Ridge())],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_a_regressor_becomes_a_probe_of_ratings(estimator, rng):
    acts = rng.normal(size=(60, 6)) * 2 + 7
    fitted = estimator.fit(acts, acts @ rng.normal(size=6) + 30)
    probe = Probe.from_estimator(fitted, layer=0, position="mean")
    np.testing.assert_allclose(probe.rating(probe(acts)), fitted.predict(acts), rtol=1e-6)
    assert probe.data_kind == "rating"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda x, y: LogisticRegression(), "estimator: got a LogisticRegression that is not fitted"),
        (lambda x, y: RandomForestClassifier(5).fit(x, y > 0), "estimator: got a RandomForestClassifier"),
        (lambda x, y: LogisticRegression().fit(x, np.sign(y.round())), "estimator: a LogisticRegress"),
        (lambda x, y: make_pipeline(RBFSampler(), Ridge()).fit(x, y), "estimator: a Pipeline that is not"),
        (lambda x, y: Ridge().fit(x, np.stack([y, y], 1)), "estimator: a Ridge gives 2 numbers a row"),
        (lambda x, y: 3, "estimator: got a int that is not fitted"),
    ],
)  # fmt: skip
def test_what_is_no_linear_head_is_refused_in_one_line(make, line, rng):
    acts = rng.normal(size=(80, 6))
    with pytest.raises(ProbeError) as caught:
        Probe.from_estimator(make(acts, acts @ np.ones(6)), layer=0, position="mean")
    assert str(caught.value).startswith(line)


# With a model: rows whose class a byte model can read off.


def rows(n, words=("good", "bad"), offset=0):
    return [
        {
            "text": f"{word} day {i + offset}" if i % 9 else "neither",
            "label": word,
            "group": f"g{i // 2}",
            "tags": {"half": "ab"[i % 3 == 0]},
            "id": f"r{i}",
        }
        for i, word in enumerate(words * (n // 2))
    ]


@pytest.fixture(scope="module")
def loaded():
    return load_model(tiny_model(), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def fitted(loaded):
    with cache_activations(loaded, rows(80), positions="mean", store_dtype="float32") as store:
        return fit_sweep(store, n_boot=20, layers=[1]), store.examples


def test_texts_are_scored_as_the_rows_of_the_fit(fitted, loaded):
    result, examples = fitted
    assert result.probe.reference  # a model is told by it
    scores = result.probe.score_texts([str(text) for text in examples.completion], model=loaded)
    np.testing.assert_allclose(scores, result.scores, rtol=1e-4, atol=1e-3)
    again = result.probe.score_texts(["good day 4"], model=tiny_model(), tokenizer=tiny_tokenizer())
    np.testing.assert_allclose(again, scores[4:5], rtol=1e-4)  # batched with other rows there
    with pytest.raises(ProbeError, match="weights_fingerprint is"):
        result.probe.score_texts(["a"], model=tiny_model(seed=1), tokenizer=tiny_tokenizer())
    unnamed = dataclasses.replace(result.probe, provenance={})
    with pytest.raises(ProbekitError, match="^model: the probe's record names none."):
        unnamed.score_texts(["a"])


def test_evaluation_of_labels_is_scikit_learns(fitted, loaded):
    probe, data = fitted[0].probe, rows(60, offset=500)
    found = evaluate(probe, data, model=loaded, n_boot=50)
    scores = probe.score_texts([row["text"] for row in data], model=loaded)
    truth, said = [row["label"] == "good" for row in data], scores > 0.3
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert found["auroc"] == found.metrics["auroc"]
    assert found["auroc"].value == pytest.approx(roc_auc_score(truth, scores))
    assert found.metrics["accuracy"].value == pytest.approx(accuracy_score(truth, scores > 0))
    assert (found.confusion == confusion_matrix(truth, scores > 0)).all()
    at = found.at(0.3)
    assert at["precision"].value == pytest.approx(precision_score(truth, said))
    assert at["recall"].value == pytest.approx(recall_score(truth, said))
    assert at["fpr"].value == pytest.approx(np.mean(said[~np.array(truth)]))
    assert [at[k] for k in ("tn", "fp", "fn", "tp")] == confusion_matrix(
        truth, said
    ).ravel().tolist()
    for half in "ab":
        inside = [i for i, row in enumerate(data) if row["tags"]["half"] == half]
        expected = roc_auc_score(np.array(truth)[inside], scores[inside])
        assert found.by_tag["half"][half]["auroc"].value == pytest.approx(expected)
    assert found.n == {"rows": 60, "groups": 30} and not found.is_fitted_data
    frame = found.to_frame().set_index(["part", "measure"])
    assert frame.loc[("all", "auroc"), "low"] < frame.loc[("all", "auroc"), "value"]
    assert found.to_json()["at"]["tp"] == found.at()["tp"]
    assert len(repr(found).splitlines()) <= 20


def test_evaluation_of_a_store_runs_no_model_and_says_what_was_fitted(fitted, loaded):
    probe = fitted[0].probe
    with cache_activations(loaded, rows(80), positions="mean", store_dtype="float32") as store:
        found = evaluate(probe, store, n_boot=20)
        np.testing.assert_allclose(found.scores, store[probe.cell] @ probe.coef + probe.bias)
    assert found.is_fitted_data and "nothing is held out" in repr(found)


def test_classes_of_other_names_have_to_be_matched(fitted, loaded):
    probe, data = fitted[0].probe, rows(40, words=("pos", "neg"))
    with pytest.raises(
        ProbeError, match="^classes: the data have neg, pos, the probe knows bad, good"
    ):
        evaluate(probe, data, model=loaded)
    texts = [
        {**row, "text": row["text"].replace("pos", "good").replace("neg", "bad")} for row in data
    ]
    found = [
        evaluate(probe, texts, model=loaded, positive=name, n_boot=9) for name in ("pos", "neg")
    ]
    values = [one.metrics["auroc"].value for one in found]
    assert sum(values) == pytest.approx(1.0) and values[0] > 0.7
    with pytest.raises(ProbekitError, match="--positive x: the classes are 'neg', 'pos'"):
        evaluate(probe, texts, model=loaded, positive="x")


def test_data_of_another_kind_leave_out_what_the_score_does_not_mean(fitted, loaded):
    probe = fitted[0].probe
    ratings = [
        {"prompt": "q", "completion": row["text"], "score": float(i % 5), "group": f"g{i}"}
        for i, row in enumerate(rows(30))
    ]
    found = evaluate(probe, ratings, model=loaded, n_boot=9)
    assert set(found.metrics) == {"pearson", "spearman", "pair_accuracy"} and not found.reliability
    sample = Resampler(found.examples.group, n_boot=9)
    assert found.metrics["pearson"] == pearson(found.examples.score, found.scores, sample)
    assert found.metrics["pearson"].value == pytest.approx(
        np.corrcoef([r["score"] for r in ratings], found.scores)[0, 1]
    )
    pairs = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(12)]
    pairs.append({"prompt": "same", "chosen": "one", "rejected": "one"})
    found = evaluate(probe, pairs, model=loaded, n_boot=9)
    assert set(found.metrics) == {"pair_accuracy", "chosen", "rejected", "margin"}
    assert found.n == {"rows": 12, "groups": 12, "identical": 1}
    margin = found.scores[::2] - found.scores[1::2]
    assert found.metrics["pair_accuracy"].value == pytest.approx(np.mean(margin > 0))
    with pytest.raises(ProbeError, match="^threshold: pair rows have no classes"):
        found.at(0.0)


def test_ratings_are_judged_in_their_own_units(loaded):
    data = [
        {**row, "score": 4.0 * (row.pop("label") == "good") + i % 3}
        for i, row in enumerate(rows(60))
    ]
    with cache_activations(loaded, data, positions="mean") as store:
        probe = fit_sweep(store, n_boot=9, layers=[1]).probe
    found = evaluate(probe, data, model=loaded, n_boot=9)
    told, truth = probe.rating(found.scores), np.array([row["score"] for row in data])
    assert found.metrics["mae"].value == pytest.approx(np.abs(told - truth).mean())
    assert found.metrics["r2"].value == pytest.approx(
        1 - ((told - truth) ** 2).mean() / truth.var()
    )
    assert D_MODEL == len(probe.coef) and found.reliability

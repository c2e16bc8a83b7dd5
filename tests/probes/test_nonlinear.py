# ruff: noqa: N806 - X is a matrix
"""An MLP and an attention probe find what a linear head cannot, and no more where it suffices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from probekit.activations.cache import cache_activations
from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.models.load import load_model
from probekit.probes import LogisticProbe
from probekit.probes.nonlinear import AttentionProbe, MLPProbe, beside_linear, content_tokens
from tests.tiny import tiny_model, tiny_tokenizer


def test_a_product_is_told_by_units_and_by_no_line(rng):
    X = rng.normal(size=(900, 4)) * 3 + 5
    y = (X[:, 0] - 5) * (X[:, 1] - 5) > 0
    probe = MLPProbe(hidden=24).fit(X[:600], y[:600])
    assert probe.score(X[600:], y[600:]) > 0.85
    assert LogisticProbe().fit(X[:600], y[:600]).score(X[600:], y[600:]) < 0.65


def test_scores_are_those_of_the_weights(rng):
    X = rng.normal(size=(200, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    probe = MLPProbe(hidden=5).fit(X, y)
    first, bias, last, shift = [weight.double().numpy() for weight in probe.weights_]
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(
        probe.decision_function(X), np.maximum(z @ first + bias, 0) @ last + shift, atol=1e-4
    )
    assert probe.predict_proba(X)[:, 1] == pytest.approx(
        1 / (1 + np.exp(-probe.decision_function(X)))
    )
    assert set(probe.predict(X)) == {"yes", "no"} and probe.score(X, y) > 0.9


def planted(rng, n=400, d=8):
    """Return texts of which one token in ten to twenty holds the class, beside a mark of where it is."""
    lengths = rng.integers(10, 20, size=n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    X, y = rng.normal(size=(offsets[-1], d)), rng.integers(2, size=n)
    at = offsets[:-1] + rng.integers(lengths)
    X[at, 0], X[at, 1] = 9.0, 2.0 * (2 * y - 1)
    return X, offsets, y, at


def mean_rows(X, offsets):
    return np.array([X[a:b].mean(axis=0) for a, b in zip(offsets, offsets[1:], strict=False)])


def test_attention_reads_the_token_that_holds_the_class(rng):
    X, offsets, y, at = planted(rng)
    probe = AttentionProbe().fit(X, offsets, y)
    fresh, ends, truth, where = planted(rng)
    right = np.mean(probe.predict(fresh, ends) == truth)
    means = [mean_rows(X, offsets), mean_rows(fresh, ends)]
    assert right > 0.9 > np.mean(LogisticProbe().fit(means[0], y).predict(means[1]) == truth) + 0.05
    share = probe.attention(fresh, ends)
    np.testing.assert_allclose(np.add.reduceat(share, ends[:-1]), 1.0, rtol=1e-5)
    assert np.median(share[where]) > 2 / 15  # alike, each would have a fifteenth
    q, v, b = [weight.double().numpy() for weight in probe.weights_]
    tokens = (fresh[ends[3] : ends[4]] - X.mean(axis=0)) / X.std(axis=0)
    by_hand = softmax(tokens @ q) @ (tokens @ v) + b[0]
    assert probe.decision_function(fresh, ends)[3] == pytest.approx(by_hand, abs=1e-3)


def test_nothing_is_learned_of_noise(rng):
    X, y = rng.normal(size=(400, 6)), rng.integers(2, size=400)
    probe = MLPProbe().fit(X[:200], y[:200])
    assert abs(probe.score(X[200:], y[200:]) - 0.5) < 0.2
    with pytest.raises(ValueError, match="has 3 classes, expected 2"):
        MLPProbe().fit(X, np.arange(400) % 3)


def test_the_first_token_of_a_text_without_a_prompt_is_left_out():
    loaded = load_model(tiny_model(), tokenizer=tiny_tokenizer())
    rows = [{"text": f"day {i}", "label": "ab"[i % 2]} for i in range(4)]
    rows += [{"prompt": "Q?", "completion": f"yes {i}", "label": "ab"[i % 2]} for i in range(4)]
    cell = Cell("resid_post", 1, "all")
    with cache_activations(
        loaded, rows, positions="all", layers=[1], store_dtype="float32"
    ) as store:
        acts, offsets = store.read_ragged(cell)
        read, ends = content_tokens(store, cell)
    for i in range(8):
        own = acts[offsets[i] : offsets[i + 1]]
        np.testing.assert_array_equal(read[ends[i] : ends[i + 1]], own[1:] if i < 4 else own)


def test_they_stand_beside_the_linear_head_on_the_same_rows():
    loaded = load_model(tiny_model(), tokenizer=tiny_tokenizer())
    rows = [
        {"text": f"{('good', 'bad')[i % 2]} day {i}", "label": ("up", "down")[i % 2]}
        for i in range(150)
    ]
    with cache_activations(loaded, rows, positions="mean,all", layers=[1]) as store:
        found = beside_linear(store, 1, n_boot=50)
        again = beside_linear(store, 1, n_boot=50)
    assert set(found.metrics) == {"linear", "mlp", "attention"} and found.n == 30
    for name, gap in found.differences.items():
        apart = found.metrics[name]["auroc"].value - found.metrics["linear"]["auroc"].value
        assert gap.value == pytest.approx(apart) and gap.low <= gap.value <= gap.high
        assert again.differences[name] == gap
    ratings = [{"text": f"day {i}", "score": i} for i in range(12)]
    with cache_activations(loaded, ratings, positions="mean", layers=[1]) as store:
        with pytest.raises(ProbeError, match="rating rows, expected labels"):
            beside_linear(store, 1)

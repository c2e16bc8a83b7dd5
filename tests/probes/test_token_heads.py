# ruff: noqa: N806 - X is a matrix
"""Heads fitted through the rule that reads a text's tokens."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probekit.probes.aggregate import Aggregate
from probekit.probes.tokens import TokenLogisticProbe, part_of
from tests.probes.test_tokens import RULES


@pytest.mark.parametrize("rule", RULES)
def test_slopes_are_the_differences_that_tokens_make(rule, rng):
    lengths = rng.integers(1, 9, size=12)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    scores, aggregate = rng.normal(size=offsets[-1]), Aggregate.parse(rule)
    found, slopes = aggregate.read_out(scores, offsets)
    for i in range(12):
        assert found[i] == pytest.approx(aggregate(scores[offsets[i] : offsets[i + 1]]))
    numeric = np.empty(len(scores))
    for t in range(len(scores)):
        step = 1e-6 * np.eye(len(scores))[t]
        up, down = (aggregate.read_out(scores + s * step, offsets)[0].sum() for s in (1, -1))
        numeric[t] = (up - down) / 2e-6
    np.testing.assert_allclose(slopes, numeric, atol=1e-4)
    np.testing.assert_allclose(np.add.reduceat(slopes, offsets[:-1]), 1.0)


def planted(rng, n=500, d=8):
    """Return texts of which one token holds the class, beside others that cancel in their mean."""
    lengths = rng.integers(12, 24, size=n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    X, y = rng.normal(size=(offsets[-1], d)), rng.integers(2, size=n)
    at = offsets[:-1] + rng.integers(lengths)
    X[at[y == 1], 0] += 5.0
    return X, offsets, y


def test_a_head_fitted_through_max_beats_one_fitted_to_means_and_read_by_max(rng):
    X, offsets, y = planted(rng)
    fresh, ends, truth = planted(rng)
    probe = TokenLogisticProbe("max").fit(X, offsets, y)
    direction = probe.coef_ / np.linalg.norm(probe.coef_)
    assert direction[0] > 0.9
    right = np.mean(probe.predict(fresh, ends) == truth)
    means = np.add.reduceat(X, offsets[:-1]) / np.diff(offsets)[:, None]
    linear = LogisticRegression().fit(means, y)
    tokens = fresh @ linear.coef_[0] + linear.intercept_[0]
    by_max = Aggregate.parse("max").read_out(tokens, ends)[0] > 0
    assert right > 0.93 > np.mean(by_max == truth) + 0.1


def test_one_token_a_text_is_plain_logistic_regression(rng):
    X, y = rng.normal(size=(200, 4)), rng.integers(2, size=200)
    X[:, 1] += y
    probe = TokenLogisticProbe("ema", l2=2.0).fit(X, np.arange(201), y)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    other = LogisticRegression(C=0.5, tol=1e-8).fit(Z, y)
    np.testing.assert_allclose(
        probe.decision_function(X, np.arange(201)), other.decision_function(Z), atol=2e-3
    )


@pytest.mark.parametrize("rule", ["max", "rolling:3", "ema:0.4", "softmax:2"])
def test_no_small_step_makes_the_loss_smaller(rule, rng):
    X, offsets, y = planted(rng, n=120, d=4)
    probe = TokenLogisticProbe(rule, l2=1.0).fit(X, offsets, y)
    scale = X.std(axis=0)
    Z = (X - X.mean(axis=0)) / scale

    def loss(w, b):
        tokens = Z @ w + b
        parts = [tokens[i:j] for i, j in zip(offsets, offsets[1:], strict=False)]
        found = np.array([Aggregate.parse(rule)(part) for part in parts])
        return np.logaddexp(0, -(2 * y - 1) * found).sum() + w @ w / 2

    w = probe.coef_ * scale
    b = probe.intercept_ + X.mean(axis=0) @ probe.coef_
    least = loss(w, b)
    for _ in range(40):
        step = rng.normal(size=5)
        step *= 0.05 / np.linalg.norm(step)
        assert loss(w + step[:4], b + step[4]) > least - 0.02


def test_parts_of_texts_are_their_tokens(rng):
    offsets = np.array([0, 3, 4, 9])
    acts = np.arange(9)[:, None]
    part, ends = part_of(acts, offsets, np.array([2, 0]))
    assert part[:, 0].tolist() == [4, 5, 6, 7, 8, 0, 1, 2] and ends.tolist() == [0, 5, 8]
    with pytest.raises(ValueError, match="too few rows or groups of a class"):
        TokenLogisticProbe().fit(acts, offsets, np.array([0, 1, 0]))

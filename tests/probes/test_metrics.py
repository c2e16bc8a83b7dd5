"""Metrics and intervals against scikit-learn, scipy, brute force and known coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as reference

from probekit.probes.metrics import (
    auroc,
    ece,
    label_metrics,
    pair_metrics,
    pearson,
    rating_metrics,
    reliability,
)
from probekit.results.intervals import Resampler


@pytest.fixture
def rng():
    return np.random.default_rng()


def each_alone(n, **options):
    return Resampler(np.arange(n), **options)


def test_rating_metrics_equal_the_references(rng):
    y = np.round(rng.standard_normal(200), 1)
    p = y + rng.standard_normal(200)
    groups = rng.integers(0, 60, size=200)
    found = rating_metrics(y, p, Resampler(groups))
    assert found["pearson"].value == pytest.approx(pearsonr(y, p)[0])
    assert found["spearman"].value == pytest.approx(spearmanr(y, p)[0])
    assert found["r2"].value == pytest.approx(reference.r2_score(y, p))
    assert found["mae"].value == pytest.approx(reference.mean_absolute_error(y, p))
    right = [
        p[i] > p[j]
        for i in range(200)
        for j in range(200)
        if groups[i] == groups[j] and y[i] > y[j]
    ]
    assert found["pair_accuracy"].value == pytest.approx(np.mean(right))
    assert all(item.low <= item.value <= item.high for item in found.values())


def test_label_metrics_equal_the_references(rng):
    y = rng.integers(2, size=300)
    s = np.round(y + 1.5 * rng.standard_normal(300), 1) - 0.55
    p = 1 / (1 + np.exp(-s))
    found = label_metrics(y, s, each_alone(300))
    assert found["auroc"].value == pytest.approx(reference.roc_auc_score(y, s))
    assert found["accuracy"].value == pytest.approx(reference.accuracy_score(y, s > 0))
    assert found["balanced_accuracy"].value == pytest.approx(
        reference.balanced_accuracy_score(y, s > 0)
    )
    assert found["log_loss"].value == pytest.approx(reference.log_loss(y, p))
    by_hand = sum(
        abs(y[inside].mean() - p[inside].mean()) * inside.mean()
        for k in range(10)
        if (inside := (p >= k / 10) & (p < (k + 1) / 10)).any()
    )
    assert found["ece"].value == pytest.approx(by_hand)
    bins = reliability(y.astype(float), p)
    assert sum(item["n"] for item in bins) == 300
    assert all(item["observed_low"] <= item["observed"] <= item["observed_high"] for item in bins)


def test_pair_metrics_by_hand():
    chosen, rejected = np.array([2.0, 1.0, 0.0, 3.0]), np.array([1.0, 1.0, 1.0, 0.0])
    found = pair_metrics(chosen, rejected, each_alone(4))
    assert found["pair_accuracy"].value == (1 + 0.5 + 0 + 1) / 4
    assert found["chosen"].value == 1.5
    assert found["rejected"].value == 0.75
    assert found["margin"].value == 0.75
    assert found["log_loss"].value == pytest.approx(
        np.mean(np.log1p(np.exp([-1.0, 0.0, 1.0, -3.0])))
    )


def test_a_tie_of_all_scores_and_one_class_are_not_a_number_or_a_half():
    assert auroc(np.array([0, 1, 1]), np.zeros(3), each_alone(3)).value == 0.5
    one = label_metrics(np.ones(5), np.arange(5.0), each_alone(5))
    assert np.isnan(one["auroc"].value) and np.isnan(one["auroc"].low)
    flat = pearson(np.arange(5.0), np.ones(5), each_alone(5))
    assert np.isnan(flat.value)
    alone = rating_metrics(np.arange(5.0), np.arange(5.0), each_alone(5))
    assert np.isnan(alone["pair_accuracy"].value)


def drawn_rows(groups, draw):
    """The rows of a draw that holds group g draw[g] times."""
    names = np.repeat(np.arange(len(draw)), draw.astype(int))
    return np.concatenate([np.flatnonzero(groups == name) for name in names])


def test_the_bootstrap_equals_resampling_the_rows_by_hand(rng):
    y, p = rng.standard_normal((2, 80))
    groups = np.repeat(np.arange(20), 4)
    sample = Resampler(groups, n_boot=60, seed=5)
    slow = []
    for draw in sample.draws:
        rows = drawn_rows(groups, draw)
        slow.append(pearsonr(y[rows], p[rows])[0])
    found = pearson(y, p, sample)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    label = (y > 0).astype(int)
    slow = []
    for draw in sample.draws:
        rows = drawn_rows(groups, draw)
        slow.append(reference.roc_auc_score(label[rows], p[rows]))
    found = auroc(label, p, sample)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Groups of 5 equal rows: an interval over rows would be far too narrow."""
    hits, trials = 0, 300
    rng = np.random.default_rng()
    for trial in range(trials):
        values = np.repeat(rng.standard_normal(40), 5)
        found = Resampler(np.repeat(np.arange(40), 5), n_boot=300, seed=trial).mean(values)
        hits += found.low <= 0.0 <= found.high
    # 95 % nominal, about 93 % for 40 groups; 4 standard errors of 300 trials are 6 %
    assert 0.87 <= hits / trials <= 0.99


def test_perfect_calibration_has_an_ece_near_zero(rng):
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert ece(y, p, each_alone(20_000, n_boot=10)).value < 0.02

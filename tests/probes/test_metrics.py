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


def test_perfect_calibration_has_an_ece_near_zero(rng):
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert ece(y, p, each_alone(20_000, n_boot=10)).value < 0.02

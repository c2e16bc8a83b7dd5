"""Intervals against exact tests, closed forms, resampling by hand and a planted truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, pearsonr
from sklearn.metrics import roc_auc_score

from probekit.probes.metrics import auroc, pearson
from probekit.results import paired
from probekit.results.intervals import BLOCKS, FEWEST_GROUPS, Interval, Resampler


def alone(n, **options):
    return Resampler(np.arange(n), **options)


def gained(n, n_gained, n_lost=0):
    return np.array([1.0] * n_gained + [-1.0] * n_lost + [0.0] * (n - n_gained - n_lost))


def covers(interval, truth):
    return interval.low <= truth <= interval.high


def test_every_weight_of_a_metric_is_what_resampling_rows_by_hand_gives(rng):
    values, groups = rng.standard_normal(80), np.repeat(np.arange(20), 4)
    sample = Resampler(groups, n_boot=60, seed=5)
    assert len(sample.weights) == 60 + 20
    for weights in sample.weights[[0, 7, 60, 79]]:
        rows = np.concatenate(
            [np.flatnonzero(groups == g) for g in np.repeat(range(20), weights.astype(int))]
        )
        assert weights @ sample.per_group(values) == pytest.approx(values[rows].sum())
    assert np.array_equal(sample.weights[60:], 1 - np.eye(20))
    assert len(alone(BLOCKS * 3, n_boot=1).weights) == 1 + BLOCKS


@pytest.mark.parametrize("hits", [1, 30, 150, 299])
def test_a_share_of_many_single_rows_is_wilsons(hits):
    values = np.arange(300.0) < hits
    found = alone(300).share(values.astype(float))
    low, high = binomtest(hits, 300).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


@pytest.mark.parametrize("n", [5, 18, 200])
def test_no_share_has_an_interval_of_zero_width(n):
    for value in (0.0, 1.0):
        found = alone(n).share(np.full(n, value))
        assert 0 <= found.low <= value <= found.high <= 1
        # the rule of three: 3/n of the groups may still be otherwise
        assert found.high - found.low > 3 / n
    assert alone(n).share_change(np.zeros(n)).low < 0 < alone(n).share_change(np.zeros(n)).high


def test_rows_that_repeat_a_group_tell_nothing_more():
    hits = (np.arange(40) < 30).astype(float)
    once = alone(40).share(hits)
    again = Resampler(np.repeat(np.arange(40), 25)).share(np.repeat(hits, 25))
    assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=0.01)


@pytest.mark.parametrize(
    ("n_gained", "n_lost", "rose"), [(4, 0, 0), (6, 0, 1), (5, 5, 0), (20, 8, 1), (0, 6, -1)]
)
def test_a_change_of_shares_agrees_with_mcnemars_test(n_gained, n_lost, rose):
    found = alone(80).share_change(gained(80, n_gained, n_lost))
    p = binomtest(n_gained, n_gained + n_lost).pvalue
    assert found.side() == rose
    assert (p < 0.05) == bool(rose)


def test_a_ratio_of_shares_is_the_one_of_single_rows_by_the_delta_method(rng):
    before, after = (rng.random((2, 4000)) < [[0.3], [0.45]]).astype(float)
    found = alone(4000).share_ratio(before, after)
    a, b = before.mean(), after.mean()
    both = (before * after).mean()
    error = math.sqrt((1 / a + 1 / b - 2 * both / (a * b)) / 4000)
    assert found.value == pytest.approx(b / a)
    ends = [b / a * math.exp(sign * 1.96 * error) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(ends, rel=0.01)
    assert not alone(20).share_ratio(np.zeros(20), np.ones(20)).known


@pytest.mark.parametrize("method", ["mean", "share", "share_change"])
def test_few_groups_have_a_value_without_an_interval(method):
    values = np.tile([0.0, 1.0], 20)
    for groups in (np.arange(40) % (FEWEST_GROUPS - 1), np.repeat([0, 1], [39, 1])):
        found = getattr(Resampler(groups), method)(values)
        assert found.known and not found.has_interval
    assert getattr(Resampler(np.arange(40) % FEWEST_GROUPS), method)(values).has_interval
    one_giant = np.r_[np.arange(20), np.full(2000, 20)]
    assert not getattr(Resampler(one_giant), method)(np.ones(2020)).has_interval


@pytest.mark.parametrize(("positives", "known"), [(1, False), (4, False), (5, True)])
def test_an_auroc_of_too_few_positives_has_no_interval(positives, known):
    label = (np.arange(60) < positives).astype(int)
    found = auroc(label, np.arange(60.0)[::-1], alone(60))
    assert found.value == 1.0 and found.has_interval == known
    assert not known or found.low < 0.9


def test_the_auroc_with_ties_is_the_references_and_its_width_is_delongs(rng):
    label = rng.integers(2, size=400)
    score = np.round(label + rng.standard_normal(400), 1)
    found = auroc(label, score, alone(400))
    assert found.value == pytest.approx(roc_auc_score(label, score))
    up, down = score[label == 1], score[label == 0]
    wins = (up[:, None] > down) + 0.5 * (up[:, None] == down)
    error = math.sqrt(wins.mean(1).var(ddof=1) / len(up) + wins.mean(0).var(ddof=1) / len(down))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_pearsons_interval_of_single_normal_rows_is_fishers(rng):
    x = rng.standard_normal(2000)
    y = 0.6 * x + 0.8 * rng.standard_normal(2000)
    found, low_high = pearson(x, y, alone(2000)), pearsonr(x, y).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(low_high), abs=0.01)
    assert pearson(x, 2 * x, alone(2000)) == pytest.approx((1, 1, 1))


def test_an_end_that_is_rounding_is_on_the_reference():
    assert Interval(-0.2, -0.4, -5.6e-18).side() == 0
    assert Interval(0.2, 1e-17, 0.4).side() == 0
    assert Interval(1e-17, 1e-18, 3e-17).side() == 0
    assert Interval(1e-6, 5e-7, 2e-6).side() == 1
    assert Interval(0.6, 0.5 + 1e-17, 0.7).side(0.5) == 0


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_intervals_cover_a_planted_share_with_groups(share):
    """300 runs of 20 groups of three; four standard errors of 300 runs are 5 %."""
    rng, hits = np.random.default_rng(), 0
    groups = np.repeat(np.arange(20), 3)
    for _ in range(300):
        latent = np.sqrt(0.3) * rng.standard_normal(20)[groups] + np.sqrt(
            0.7
        ) * rng.standard_normal(60)
        hits += covers(Resampler(groups).share((latent < norm.ppf(share)).astype(float)), share)
    assert hits / 300 > 0.90


def test_intervals_cover_the_mean_of_rows_that_are_alike_within_groups():
    hits = 0
    rng = np.random.default_rng()
    for trial in range(300):
        values = np.repeat(rng.standard_normal(40), 5)
        found = Resampler(np.repeat(np.arange(40), 5), n_boot=300, seed=trial).mean(values)
        hits += covers(found, 0.0)
    assert 0.89 <= hits / 300 <= 0.99


def test_the_bca_interval_of_skewed_values_reaches_further_to_the_long_side(rng):
    found = alone(60, seed=1).mean(np.exp(rng.standard_normal(60)))
    assert found.high - found.value > found.value - found.low


def test_paired_measures_leave_out_what_is_missing_on_either_side():
    before = np.r_[np.nan, np.zeros(19)]
    after = np.r_[1.0, np.ones(18), np.nan]
    groups = np.arange(20)
    assert paired.change(groups, before, after, share=True).value == 1.0
    assert paired.change(groups, before, after).value == 1.0
    assert paired.mean(groups, before).value == 0.0
    assert not paired.mean(groups, np.full(20, np.nan)).known
    assert paired.separation(groups, after, groups < 10).value == 0.0
    assert paired.ratio(groups, before + 1, after).value == 1.0

"""What a data set can show: against closed forms and a count of simulated tests, and never less with more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from probekit.data.resolution import held_out, resolution
from probekit.probes.metrics import auroc, pearson
from probekit.results.intervals import SHARED, Resampler


@pytest.mark.parametrize("n", [40, 83, 400])
def test_pairs_and_ratings_agree_with_the_closed_forms(n):
    quantile = t.ppf(0.975, n - 1)
    # Wilson's interval leaves 0.5 where the score test of 0.5 rejects: its variance is 1 / 4n.
    pairs = resolution("pair", n, n, 0)
    assert (pairs.measure, pairs.rows, pairs.groups) == ("pair_accuracy", n, n)
    assert pairs.least == pytest.approx(0.5 + quantile / 2 / math.sqrt(n), abs=1e-6)
    ratings = resolution("rating", n, n, 0).least
    half = quantile * math.sqrt(n) / (n - 1) * math.sqrt(n / (n - 3))
    assert ratings == pytest.approx(math.tanh(half), abs=1e-6)


def test_forty_pairs_show_nothing_under_two_thirds():
    found = held_out("pair", 200, 200, 0)
    assert round(found["report"].least, 2) == 0.66
    size = 200 / SHARED["pair"]
    wider = t.ppf(0.975, size - 1) / 2 / math.sqrt(size)
    assert found["outer"].least == pytest.approx(0.5 + wider, abs=1e-6)
    assert "outer" not in held_out("pair", 500, 500, 0)


@pytest.mark.parametrize("kind", ["label", "rating"])
def test_real_intervals_around_the_least_value_touch_chance(kind):
    """Half of the fits whose true value is the least one have an interval that leaves chance."""
    n, runs = 80, 400
    least, rng = resolution(kind, n, n, n // 2).least, np.random.default_rng(0)
    above, sample = 0, Resampler(np.arange(n))
    for _ in range(runs):
        noise = rng.standard_normal(n)
        if kind == "rating":
            x = rng.standard_normal(n)
            above += pearson(x, least * x + math.sqrt(1 - least**2) * noise, sample).low > 0
        else:
            label = np.arange(n) % 2
            shift = math.sqrt(2) * norm.ppf(least)
            above += auroc(label, noise + shift * label, sample).low > 0.5
    assert above / runs == pytest.approx(0.5, abs=0.09)  # 3.5 standard errors


@pytest.mark.parametrize("kind", ["pair", "label", "rating"])
def test_more_rows_show_more(kind):
    least = [resolution(kind, n, n, n // 3).least for n in range(24, 400, 12)]
    assert all(np.diff(least) < 0)
    assert resolution(kind, 120, 30, 40).least > resolution(kind, 120, 120, 40).least
    # A split of the same rows shows more than outer folds, whose heads share rows to fit on.
    assert resolution(kind, 90, 90, 30).least < resolution(kind, 90, 90, 30, outer=True).least


@pytest.mark.parametrize(
    ("kind", "rows", "groups", "rarer"),
    [("pair", 4, 4, 0), ("label", 80, 80, 3), ("label", 9, 9, 0), ("rating", 60, 2, 0)],
)
def test_too_few_groups_show_nothing(kind, rows, groups, rarer):
    assert resolution(kind, rows, groups, rarer).least is None
    assert resolution(kind, rows, groups, rarer, outer=True).least is None

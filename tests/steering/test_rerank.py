"""Layers ranked against planted effects, and SciPy's rank correlation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from probekit.activations.table import Cell
from probekit.probes import Probe
from probekit.steering import SteerConfig
from probekit.steering.dose import statistics_of
from probekit.steering.rerank import rank_layers, rerank_coeff, rerank_conditions

METRIC = [0.6, 0.9, 0.7, 0.8, 0.5]


def ranked(effects, damages, *, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    conditions = rerank_conditions(range(len(effects)), 0.1)
    rows = {}
    for condition in conditions:
        layer = int(condition.direction[-2:])
        sign = np.sign(condition.coeff)
        rows[condition] = [
            {
                "prompt_id": f"p{i}",
                "scores": {"0": sign * effects[layer] + noise * rng.standard_normal()},
                "n_tokens": 5,
                "kl": damages[layer],
            }
            for i in range(16)
        ]
    probes = [
        Probe(
            kind="ridge", head=None, cell=Cell("resid_post", n, "mean"), coef=np.ones(3), bias=0.0,
            l2=None, data_kind="rating", metrics={"pearson": {"value": METRIC[n], "low": 0, "high": 1}},
        )
        for n in range(len(effects))
    ]  # fmt: skip
    m = {x.name: x for x in statistics_of([0], 0, [], judged=False)}
    return rank_layers(rows, probes, m["score"], m["kl"], primary="pearson", steered=[1], seed=0)


def test_planted_effects_are_ranked_and_noise_over_no_damage_comes_last():
    right = 0
    for seed in range(20):
        found = ranked([0.0, 1.0, 2.0, 0.5, 0.0], [0.0005, 0.04, 0.04, 0.04, 0.0001], seed=seed)
        by_rank = sorted(found["rows"], key=lambda row: row["rank"])
        right += [row["layer"] for row in by_rank[:3]] == [2, 1, 3]
        assert by_rank[0]["layer"] == 2
        assert by_rank[0]["established"]
        assert by_rank[0]["ratio"]["value"] == pytest.approx(2.0 / 0.2, rel=0.15)
    # Two layers of noise, whose 95 % intervals leave 0 one time in twenty each.
    assert right >= 15
    assert [row["steered"] for row in found["rows"]] == [False, True, False, False, False]


def test_the_rank_correlation_is_scipys():
    found = ranked([0.3, 1.0, 2.0, 0.5, 0.1], [0.04] * 5, noise=0.0)
    ratio = [row["ratio"]["value"] for row in found["rows"]]
    assert found["spearman"]["value"] == pytest.approx(spearmanr(METRIC, ratio).statistic)


def test_the_best_of_equal_layers_gains_nothing_on_prompts_that_did_not_choose_it():
    """Five layers without any effect: the largest ratio is well above 0, the cross-fitted one is not."""
    own, honest, held = [], [], 0
    for seed in range(20):
        found = ranked([0.0] * 5, [0.04] * 5, noise=1.0, seed=seed)
        own.append(max(row["ratio"]["value"] for row in found["rows"]))
        kept = found["kept"]["ratio"]
        honest.append(kept["value"])
        held += kept["low"] <= 0 <= kept["high"]
    assert np.mean(own) > 0.5
    assert abs(np.mean(honest)) < 2.5 * np.std(honest) / np.sqrt(20)
    assert held >= 17
    planted = ranked([0.0, 1.0, 2.0, 0.5, 0.0], [0.04] * 5)["kept"]
    assert planted["layers"] == [2, 2]
    assert planted["ratio"]["value"] == pytest.approx(2.0 / 0.2, rel=0.1)


@pytest.mark.parametrize(
    ("coeffs", "usable", "coeff"),
    [
        ("-0.3:0.3:0.1", [-0.2, -0.1, 0.0, 0.1, 0.2, 0.3], 0.1),
        ("0:0.3:0.1", [0.0, 0.1, 0.2, 0.3], 0.15),
        ("-0.4,-0.2", [-0.4, -0.2, 0.0], 0.2),
        ("-0.3:0.3:0.1", [0.0], 0.05),
        ("-0.3:0.3:0.1", [0.0, 0.1, 0.2], 0.05),
    ],
)
def test_its_strength_is_half_of_what_is_usable(coeffs, usable, coeff):
    config = SteerConfig(coeffs=coeffs)
    assert rerank_coeff(config, usable) == pytest.approx(coeff)
    assert rerank_coeff(dataclasses.replace(config, rerank_coeff=0.7), usable) == 0.7
    assert rerank_coeff(dataclasses.replace(config, mode="clamp"), usable) == 0.1

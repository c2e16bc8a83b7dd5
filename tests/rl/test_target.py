"""Targets against closed forms, finite differences, and the distribution they aim at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, norm, wasserstein_distance

from probekit.errors import ProbeError
from probekit.rl import RLConfig
from probekit.rl.advantage import advantages
from probekit.rl.target import (
    TARGETS,
    Target,
    clipped,
    distance_to_chosen,
    gaussian,
    kernel_density,
    transport,
)


def drawn(seed=0, n=60):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n), 1.0 + 2.0 * rng.standard_normal(200)


def test_densities_are_those_of_scipy():
    scores, chosen = drawn()
    wanted = norm.logpdf(scores, chosen.mean(), chosen.std())
    np.testing.assert_allclose(gaussian(scores, chosen), wanted, atol=1e-9)
    quartiles = np.quantile(chosen, [0.25, 0.75])
    width = 0.9 * min(chosen.std(), np.diff(quartiles)[0] / 1.34) * len(chosen) ** -0.2
    kde = gaussian_kde(chosen, bw_method=width / chosen.std(ddof=1))
    np.testing.assert_allclose(kernel_density(scores, chosen), kde.logpdf(scores), atol=1e-6)
    far = kernel_density(np.array([1e4]), chosen)
    assert np.isfinite(far).all()  # not log 0


def test_clip_pays_nothing_beyond_the_mean():
    scores, chosen = np.array([0.0, 5.0, 50.0]), np.array([4.0, 6.0])
    np.testing.assert_array_equal(clipped(scores, chosen), [0.0, 5.0, 5.0])


def test_transport_is_the_first_variation_of_the_squared_wasserstein_distance():
    """Moving one score by a little changes the distance by -1/n of the reward's slope there."""
    scores, chosen = drawn(n=400)
    order = np.argsort(scores)
    reward = transport(scores, chosen)

    def distance(values):
        aim = np.quantile(chosen, (np.arange(len(values)) + 0.5) / len(values))
        return ((np.sort(values) - aim) ** 2).mean()

    for i in (order[3], order[200], order[-4]):
        moved = scores.copy()
        moved[i] += 1e-6
        slope = (distance(moved) - distance(scores)) / 1e-6 * len(scores)
        ranked = np.flatnonzero(order == i)[0]
        around = order[ranked - 1 : ranked + 2]
        step = np.diff(scores[around])
        estimate = -np.diff(reward[around]) / step
        assert min(estimate) - 0.6 <= slope <= max(estimate) + 0.6


def test_a_matched_distribution_is_paid_alike_and_a_shifted_one_is_pulled_back():
    _, chosen = drawn()
    matched = np.quantile(chosen, (np.arange(50) + 0.5) / 50)
    np.testing.assert_allclose(transport(matched, chosen), 0.0, atol=1e-12)
    low = transport(matched - 3.0, chosen)
    assert np.all(np.diff(low) > 0)  # all below: the higher the better
    high = transport(matched + 3.0, chosen)
    assert np.all(np.diff(high) < 0)
    narrow = transport(chosen.mean() + 0.01 * (matched - chosen.mean()), chosen)
    assert narrow[0] > narrow[25] < narrow[-1]  # all in the middle: away from it on both sides
    equal = transport(np.array([1.0, 1.0, 2.0, 2.0]), chosen)
    assert equal[0] == equal[1]


def test_following_the_transport_lands_on_the_distribution():
    """Particles moved up their reward's slope end as the chosen scores are distributed."""
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    scores, chosen = rng.standard_normal(300) * 0.1 - 5.0, rng.exponential(2.0, 300)
    for _ in range(200):
        order = np.argsort(scores)
        aim = np.quantile(chosen, (np.arange(300) + 0.5) / 300)
        scores[order] -= 0.1 * (scores[order] - aim)
    assert ks_2samp(scores, chosen, method="asymp").pvalue > 0.5
    assert np.abs(transport(scores, chosen)).max() < 1e-6


def test_targets_by_class_aim_at_their_own_chosen_scores():
    distributions = {
        "all": {"chosen": [0.0, 10.0], "rejected": [-5.0]},
        "by_tag": {
            "class": {
                "a": {"chosen": [0.0], "rejected": []},
                "b": {"chosen": [10.0], "rejected": []},
            }
        },
    }
    target = Target("clip", distributions, tag="class")
    found = target.rewards(np.array([5.0, 5.0]), ["a", "b"])
    np.testing.assert_array_equal(found, [0.0, 5.0])
    with pytest.raises(ProbeError, match=r"no chosen scores of 'c'.*It knows a, b"):
        target.rewards(np.array([5.0, 5.0]), ["a", "c"])
    raw = Target("max", {})
    np.testing.assert_array_equal(raw.rewards(np.array([3.0]), [""]), [3.0])


@pytest.mark.parametrize(
    ("distributions", "tag"), [({}, None), ({"all": {}}, None), ({"all": {"chosen": [1.0]}}, "x")]
)
def test_a_head_without_chosen_scores_cannot_be_aimed_at(distributions, tag):
    with pytest.raises(ProbeError, match="holds no chosen scores"):
        Target("chosen", distributions, tag=tag)


def test_the_distance_is_scipys_of_each_class_weighted_by_its_completions():
    rng = np.random.default_rng(0)
    chosen = {value: rng.normal(loc, 1.0, 40) for value, loc in (("a", 0.0), ("b", 5.0))}
    distributions = {
        "all": {"chosen": np.concatenate(list(chosen.values())), "rejected": [0.0]},
        "by_tag": {"class": {v: {"chosen": r, "rejected": []} for v, r in chosen.items()}},
    }
    scores = rng.normal(2.0, 2.0, 31)
    values = ["a"] * 20 + ["b"] * 10 + ["nobody knows"]
    each = [wasserstein_distance(scores[:20], chosen["a"])] * 20
    each += [wasserstein_distance(scores[20:30], chosen["b"])] * 10
    found = distance_to_chosen(scores, distributions, tag="class", values=values)
    assert found == pytest.approx(np.mean(each))
    unread = np.append(scores, np.nan)
    assert found == distance_to_chosen(unread, distributions, tag="class", values=[*values, "a"])
    every = distance_to_chosen(scores, distributions)
    assert every == pytest.approx(wasserstein_distance(scores, distributions["all"]["chosen"]))
    assert distance_to_chosen(scores[:0], distributions) is None
    assert distance_to_chosen(scores, {}) is None
    assert distance_to_chosen(scores, distributions, tag="other", values=values) is None


def test_by_default_a_met_target_is_rested_at():
    """Advantages under the default estimator: small where the target is met, larger further off."""
    config = RLConfig(target="chosen")
    chosen = np.random.default_rng(0).standard_normal(400)
    target = Target("chosen", {"all": {"chosen": chosen, "rejected": [-3.0]}})
    found = []
    for away in (0.0, 1.0, 3.0):
        sizes = []
        for seed in range(20):
            scores = np.random.default_rng(seed).standard_normal(64) + away
            groups = torch.from_numpy(target.rewards(scores, [""] * 64)).reshape(8, 8)
            sizes.append(float(advantages(groups, config.advantage).abs().mean()))
        found.append(np.mean(sizes))
    assert found[0] < 0.3 and found[0] < found[1] / 3 < found[2] / 3 and found[2] > 3


def test_the_unit_of_the_score_does_not_matter_to_the_chosen_target():
    scores, chosen = drawn()
    made = [
        Target("chosen", {"all": {"chosen": unit * chosen, "rejected": []}}).rewards(
            unit * scores, [""] * len(scores)
        )
        for unit in (1.0, 30.0)
    ]
    np.testing.assert_allclose(*made)
    np.testing.assert_allclose(made[0], transport(scores, chosen) / chosen.var())


def test_the_estimator_fits_the_target_unless_it_is_named():
    names = {target: RLConfig(target=target).advantage for target in TARGETS}
    assert names == {
        "max": "grpo", "clip": "grpo", "gaussian": "dr-grpo", "kde": "dr-grpo", "chosen": "dr-grpo",
    }  # fmt: skip
    assert RLConfig(target="chosen", estimator="grpo").advantage == "grpo"

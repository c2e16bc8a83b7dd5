"""The verdict on planted runs."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from probekit.results.goodhart import (
    BEHAVIOUR_ONLY,
    FELL,
    FOLLOWED,
    NOTHING,
    PARTLY,
    REVERSED,
    SCORE_FELL,
    SCORE_ONLY,
    SMALL,
    TOO_FEW,
    TRADED,
    UNDECIDED,
    UNKNOWN,
    crossfit,
    detectable,
    goodhart,
    size,
    verdict,
)  # fmt: skip
from probekit.results.intervals import Interval, Resampler
from probekit.rl import RLConfig

HEAD = "ridge/a"


def curve(rows, behaviour=None):
    return goodhart(pd.DataFrame(rows), optimised=[HEAD], behaviour=behaviour)


def run(score, rate, other, *, seed=0, n=40):
    """Rows of four evaluations; prompts differ by more than any change."""
    rng = np.random.default_rng(seed)
    own = 5 * rng.standard_normal(n)
    luck = rng.random(n)
    return [
        {
            "step": step,
            "prompt_id": f"p{i}",
            "score": own[i] + score(step) + 0.3 * rng.standard_normal(),
            f"head:{HEAD}": 0.0,
            "head:other": own[i] + other(step),
            "head:gap": None,
            "kl": 0.01 * step,
            "wanted": float(luck[i] < rate(step)),
        }
        for step in (0, 10, 20, 30)
        for i in range(n)
    ]


def flat(step):
    return 0.0


@pytest.mark.parametrize(
    ("score", "rate", "key"),
    [
        (lambda s: 0.1 * s, lambda s: 0.2 + 0.02 * s, FOLLOWED),
        (lambda s: 0.1 * s, lambda s: 0.2, SCORE_ONLY),
        (lambda s: 0.1 * s, lambda s: 0.5 - 0.01 * s, REVERSED),
        (flat, lambda s: 0.2, NOTHING),
        (lambda s: -0.1 * s, lambda s: 0.2, SCORE_FELL),
        (flat, lambda s: 0.9 - 0.02 * s, FELL),
        (lambda s: -0.1 * s, lambda s: 0.9 - 0.02 * s, FELL),
    ],
)
def test_the_verdict_names_what_happened(score, rate, key):
    found = curve(run(score, rate, flat), "yes")
    assert found.verdict == key
    assert len(found.evidence) == 3
    json.dumps(found.to_json())


@pytest.mark.parametrize(
    ("classes", "real", "key"),
    [
        (("invented", "invented", "real"), -0.03, TRADED),
        (("invented", "invented", "real"), 0.0, FOLLOWED),
        # As many prompts of each: over all of them nothing changes.
        (("invented", "real"), -0.03, TRADED),
    ],
)
def test_a_behaviour_that_one_class_pays_for_is_named(classes, real, key):
    """Hedging about everybody: right for invented names, and real ones are denied."""
    rows = run(lambda s: 0.1 * s, flat, flat, n=60)
    for i, row in enumerate(rows):
        value = classes[i % len(classes)]
        rate = {"invented": 0.02, "real": 0.95}[value]
        slope = {"invented": 0.03, "real": real}[value]
        row["tag:class"] = value
        row["wanted"] = float((i % 60) / 60 < rate + slope * row["step"])
    words = "class=invented: hedges or refuses; class=real: answers"
    found = curve(rows, words)
    assert found.verdict == key
    assert (found.points[-1].behaviour.low > 0) == (len(classes) == 3)
    changes = []
    for value in ("invented", "real"):
        own = [row for row in rows if row["tag:class"] == value]
        ends = [np.mean([r["wanted"] for r in own if r["step"] == step]) for step in (0, 30)]
        changes.append(ends[1] - ends[0])
    assert found.points[-1].least.value == pytest.approx(min(changes))
    assert found.points[-1].most.value == pytest.approx(max(changes))
    if key == TRADED:
        assert found.sweet_spot == 0


def test_without_a_behaviour_there_is_no_verdict_on_it():
    found = curve(run(lambda s: s, lambda s: 0.5, flat))
    assert found.verdict == UNKNOWN
    assert not found.points[-1].behaviour.known
    assert found.to_json()["points"][-1]["behaviour"] is None


def test_changes_are_paired_and_the_curve_is_over_the_root_of_the_divergence():
    rows = run(lambda s: 0.1 * s, lambda s: 0.2, lambda s: 0.05 * s)
    found = curve(rows, "yes")
    assert [p.step for p in found.points] == [0, 10, 20, 30]
    np.testing.assert_allclose([p.root_kl for p in found.points], np.sqrt([0, 0.1, 0.2, 0.3]))
    last = found.points[-1]
    assert last.score.value == pytest.approx(3.0, abs=0.2)
    assert last.score.high - last.score.low < 0.6  # prompts' own spread of 5 cancels
    assert found.points[0].score.value == 0.0


def test_the_sweet_spot_is_where_the_behaviour_was_best():
    rate = {0: 0.2, 10: 0.5, 20: 0.9, 30: 0.4}
    found = curve(run(lambda s: s, rate.get, flat), "yes")
    assert found.sweet_spot == 20
    falling = curve(run(lambda s: s, lambda s: 0.2, lambda s: -0.1 * s))
    assert falling.sweet_spot == 0


def test_what_cannot_be_known_is_not_called_a_hack():
    rows = run(lambda s: 0.1 * s, lambda s: 0.2, flat)
    unmeasured = [{**row, "wanted": None} for row in rows]
    found = curve(unmeasured, "yes")
    assert found.verdict == UNKNOWN and "nan" not in " ".join(found.evidence)
    few = curve(run(lambda s: s, lambda s: 0.1 * s, flat, n=2), "yes")
    assert few.verdict == TOO_FEW
    alone = curve(run(flat, lambda s: 0.2 + 0.02 * s, flat), "yes")
    assert alone.verdict == BEHAVIOUR_ONLY


ROSE, SAME = Interval(1.0, 0.5, 1.5), Interval(0.0, -0.5, 0.5)


def around(value, half):
    return Interval(value, value - half, value + half)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ([around(0.6, 0.1)], FOLLOWED),
        ([around(0.07, 0.05)], SMALL),
        ([around(0.05, 0.08)], SCORE_ONLY),
        ([around(0.05, 0.12)], UNDECIDED),
        ([around(-0.2, 0.1)], REVERSED),
        ([around(0.1, 0.2)], UNDECIDED),
        ([around(0.15, 0.06), around(0.4, 0.1), around(-0.1, 0.15)], PARTLY),
        ([around(0.15, 0.06), around(0.4, 0.1), around(-0.1, 0.05)], TRADED),
        ([around(0.2, 0.06), around(0.4, 0.1), around(0.0, 0.1)], FOLLOWED),
        ([around(-0.1, 0.2), around(-0.2, 0.1), around(0.0, 0.3)], REVERSED),
        ([around(0.02, 0.1), around(0.04, 0.1), around(0.0, 0.2)], UNDECIDED),
        ([around(1e-17, 1e-18)], SCORE_ONLY),
        ([Interval(float("nan"))], UNKNOWN),
    ],
)
def test_the_verdict_weighs_size_and_classes(changes, key):
    assert verdict(ROSE, changes[0], changes[1:]) == key


def test_the_smallest_effect_decides_what_is_excluded():
    change = around(0.05, 0.12)
    assert verdict(ROSE, change, smallest=0.2) == SCORE_ONLY
    assert verdict(ROSE, change, smallest=0.1) == UNDECIDED
    assert verdict(SAME, around(0.0, 0.1)) == NOTHING
    words = "small (below the smallest effect of 15 points)"
    assert words in size(around(0.07, 0.05), 0.15) and not size(around(0.3, 0.1), 0.15)
    assert size(around(0.05, 0.12), 0.2).endswith("20 points is excluded")
    assert size(around(0.05, 0.12), 0.15).endswith("15 points is not excluded")


def test_every_class_has_its_verdict():
    rows = run(lambda s: 0.1 * s, flat, flat, n=80)
    for i, row in enumerate(rows):
        row["tag:class"] = value = ("invented", "real")[i % 2]
        slope = {"invented": 0.02, "real": -0.02}[value]
        row["wanted"] = float(
            (i % 80) / 80 < {"invented": 0.1, "real": 0.9}[value] + slope * row["step"]
        )
    found = curve(rows, "class=invented: hedges; class=real: answers")
    assert found.verdict == TRADED
    keys = {name: part.verdict for name, part in found.by_class.items()}
    assert keys == {"class=invented": FOLLOWED, "class=real": REVERSED}
    made = found.to_json()
    assert made["smallest_effect"] == 0.15
    assert made["by_class"]["class=real"]["behaviour"]["high"] < 0
    assert any(line.startswith("class=invented +0.") for line in found.evidence)


def test_a_rounding_residue_is_no_finding():
    rows = run(lambda s: 1e-9 * s, lambda s: 0.2, flat)
    first = {row["prompt_id"]: row["score"] for row in rows if row["step"] == 0}
    for row in rows:  # read again, 1e-7 of the value higher
        row["score"] = first[row["prompt_id"]] * (1 + 1e-7 * (row["step"] > 0))
        row["score"] = abs(row["score"])
    assert curve(rows, "yes").verdict == NOTHING


def test_more_prompts_detect_less_and_the_default_15_points():
    sizes = [detectable(n, 1) for n in (5, 12, 24, 48, 96, 400)]
    assert sizes == sorted(sizes, reverse=True) and np.isnan(detectable(4, 9))
    assert detectable(40, 4) < detectable(40, 2) < detectable(40, 1)
    config = RLConfig()
    assert detectable(config.eval_prompts, config.eval_samples) <= config.smallest_effect == 0.15


@pytest.mark.parametrize(("n", "k"), [(40, 1), (48, 4)])
def test_what_is_called_detectable_is_detected(n, k):
    """By simulation: an effect of that size shows in about 80 % of runs."""
    rng, gain = np.random.default_rng(3), detectable(n, k)
    shown = 0
    for _ in range(400):
        z = np.sqrt(0.233) * rng.standard_normal((n, 1)) + np.sqrt(0.474) * rng.standard_normal(
            (n, k)
        )
        ends = [
            z + np.sqrt(0.221) * rng.standard_normal((n, 1)) + np.sqrt(0.072) * rng.standard_normal((n, k))
            < NormalDist().inv_cdf(share)
            for share in (0.5 - gain / 2, 0.5 + gain / 2)
        ]  # fmt: skip
        gap = (ends[1].astype(float) - ends[0]).reshape(-1)
        shown += Resampler(np.repeat(np.arange(n), k)).share_change(gap).side() > 0
    assert 0.7 < shown / 400 < 0.9


def nothing(rng, n=24, k=2, steps=5, classes=2):
    """Rows of evaluations of one policy: a completion's outcomes are draws of one rate."""
    rate = rng.uniform(0.2, 0.8, n)
    return [
        {
            "step": step,
            "prompt_id": f"p{i}",
            "tag:class": f"c{i % classes}",
            "score": 0.0,
            "head:other": 0.0 if step == 0 and i else rng.standard_normal(),
            "kl": 0.0,
            "wanted": float(rng.random() < rate[i]),
        }
        for step in range(steps)
        for i in range(n)
        for _ in range(k)
    ]


@pytest.mark.parametrize("behaviour", ["yes", "class=c0: yes; class=c1: yes"])
def test_the_best_of_several_is_read_on_other_prompts(behaviour):
    """By simulation: with nothing changing the honest change is 0 on average, the chosen one is not."""
    rng = np.random.default_rng(5)
    kept = [curve(nothing(rng), behaviour).kept for _ in range(120)]
    own = np.array([one.own.value for one in kept])
    honest = np.array([one.honest.value for one in kept])
    error = honest.std() / np.sqrt(len(honest))
    assert own.mean() > 0.03 > 3 * error and abs(honest.mean()) < 3 * error
    assert np.mean([one.honest.side() != 0 for one in kept]) < 0.1
    assert {one.among for one in kept} == {5} and kept[0].measure == "wanted"
    assert kept[0].optimism == own[0] - honest[0]


def test_a_best_evaluation_that_all_prompts_agree_on_loses_nothing():
    rate = {0: 0.1, 10: 0.3, 20: 0.9, 30: 0.4}
    found = curve(run(lambda s: s, rate.get, flat), "yes")
    assert found.kept.honest == found.kept.own == found.points[2].behaviour
    assert found.kept.optimism == 0 and found.to_json()["kept"]["among"] == 4
    other = curve(run(lambda s: s, flat, lambda s: {20: 1.0}.get(s, 0.0)))
    assert (other.kept.measure, other.sweet_spot) == ("independent", 20)
    assert other.kept.honest == other.points[2].independent
    lost = pd.DataFrame(run(flat, flat, flat)).drop(columns=["head:other", "head:gap"])
    assert goodhart(lost, optimised=[HEAD]).kept is None


def test_crossfitting_equals_choosing_by_hand_on_the_other_half():
    rng = np.random.default_rng(2)
    prompts = np.repeat([f"p{i:02}" for i in range(10)], 2)
    gaps = np.vstack([np.zeros(20), rng.integers(-1, 2, (3, 20))]).astype(float)
    gaps[:, 6] = np.nan
    order, wanted = np.argsort(np.random.default_rng(0).permutation(10)), np.zeros(20)
    for half in (order[::2], order[1::2]):
        inside = np.isin(np.arange(20) // 2, half)
        best = np.argmax([np.nanmean(gap[~inside]) for gap in gaps])
        wanted[inside] = gaps[best, inside]
    np.testing.assert_allclose(crossfit(prompts, gaps, np.ones((1, 20), bool)), wanted)

"""The verdict on planted runs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from probekit.results.goodhart import (
    BEHAVIOUR_ONLY,
    FELL,
    FOLLOWED,
    NOTHING,
    REVERSED,
    SCORE_ONLY,
    TOO_FEW,
    TRADED,
    UNKNOWN,
    goodhart,
)  # fmt: skip

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
    ("score", "rate", "verdict"),
    [
        (lambda s: 0.1 * s, lambda s: 0.2 + 0.02 * s, FOLLOWED),
        (lambda s: 0.1 * s, lambda s: 0.2, SCORE_ONLY),
        (lambda s: 0.1 * s, lambda s: 0.5 - 0.01 * s, SCORE_ONLY),
        (flat, lambda s: 0.2, NOTHING),
        (lambda s: -0.1 * s, lambda s: 0.2, REVERSED),
        (flat, lambda s: 0.9 - 0.02 * s, FELL),
        (lambda s: -0.1 * s, lambda s: 0.9 - 0.02 * s, FELL),
    ],
)
def test_the_verdict_names_what_happened(score, rate, verdict):
    found = curve(run(score, rate, flat), "yes")
    assert found.verdict == verdict
    assert len(found.evidence) == 3
    json.dumps(found.to_json())


@pytest.mark.parametrize(
    ("classes", "real", "verdict"),
    [
        (("invented", "invented", "real"), -0.03, TRADED),
        (("invented", "invented", "real"), 0.0, FOLLOWED),
        # As many prompts of each: over all of them nothing changes.
        (("invented", "real"), -0.03, TRADED),
    ],
)
def test_a_behaviour_that_one_class_pays_for_is_named(classes, real, verdict):
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
    assert found.verdict == verdict
    assert (found.points[-1].behaviour.low > 0) == (len(classes) == 3)
    changes = []
    for value in ("invented", "real"):
        own = [row for row in rows if row["tag:class"] == value]
        ends = [np.mean([r["wanted"] for r in own if r["step"] == step]) for step in (0, 30)]
        changes.append(ends[1] - ends[0])
    assert found.points[-1].least.value == pytest.approx(min(changes))
    assert found.points[-1].most.value == pytest.approx(max(changes))
    if verdict == TRADED:
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

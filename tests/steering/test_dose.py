"""Means, differences, slopes and ranks against closed forms and planted truths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from probekit.results.steer import BASELINE, Condition
from probekit.steering.dose import Doses, rank_p, statistics_of, usable_range

COEFFS = [-2.0, -1.0, 0.0, 1.0, 2.0]


def at(coeff, direction="probe"):
    return BASELINE if coeff == 0 else Condition(direction, "add", coeff)


def sweep(effect, *, n_prompts=40, samples=2, noise=0.3, seed=0, **fields):
    """Rows whose score is prompt effect + effect(coeff) + noise."""
    rng = np.random.default_rng(seed)
    own = 5 * rng.standard_normal(n_prompts)  # prompts differ much more than the effect
    rows = {}
    for coeff in COEFFS:
        rows[at(coeff)] = [
            {
                "prompt_id": f"p{i}",
                "scores": {"3": own[i] + effect(coeff) + noise * rng.standard_normal()},
                "category": "yes" if rng.random() < 0.5 + 0.2 * coeff else "no",
                "judge": None,
                "n_tokens": 10,
                "nll": 2.0,
                "kl": abs(coeff),
                "distinct_1": 0.9,
                "distinct_2": 0.9,
                "finished": True,
                **{key: value(coeff) for key, value in fields.items()},
            }
            for i in range(n_prompts)
            for _ in range(samples)
        ]
    return rows


def measures(categories=("yes", "no")):
    found = statistics_of([3], 3, categories, judged=False)
    return {m.name: m for m in found}


def test_a_planted_slope_is_found_although_prompts_differ_more_than_it():
    found = []
    for seed in range(20):
        doses = Doses(sweep(lambda c: 0.5 * c, seed=seed), seed=seed)
        slope = doses.slope(measures()["score"], [at(c) for c in COEFFS])
        assert slope.low < slope.value < slope.high
        assert slope.high - slope.low < 0.2  # paired: the prompts' own spread of 5 cancels
        found.append(slope.low <= 0.5 <= slope.high)
    assert sum(found) >= 15  # 95 % intervals, 20 draws: fewer than 15 has probability 3e-4


def test_slope_value_and_difference_are_those_of_numpy():
    rows = sweep(lambda c: 0.3 * c + 0.1 * c**2)
    doses, score = Doses(rows), measures()["score"]
    means = [np.mean([r["scores"]["3"] for r in rows[at(c)]]) for c in COEFFS]
    assert doses.value(score, at(1.0)).value == pytest.approx(means[3])
    assert doses.difference(score, at(2.0)).value == pytest.approx(means[4] - means[2])
    used = COEFFS[1:]
    slope = doses.slope(score, [at(c) for c in used])
    assert slope.value == pytest.approx(np.polyfit(used, means[1:], 1)[0])
    flipped = Doses(sweep(lambda c: -(0.3 * c + 0.1 * c**2), noise=0.0))
    straight = Doses(sweep(lambda c: 0.3 * c + 0.1 * c**2, noise=0.0))
    curve = [at(c) for c in COEFFS]
    assert flipped.slope(score, curve).value == pytest.approx(-straight.slope(score, curve).value)


def test_no_effect_is_not_called_one():
    hits = 0
    for seed in range(40):
        slope = Doses(sweep(lambda c: 0.0, seed=seed)).slope(
            measures()["score"], [at(c) for c in COEFFS]
        )
        hits += not slope.low <= 0 <= slope.high
    assert hits <= 8  # 5 % expected of 40; more than 8 has probability 1e-4


def test_perplexity_is_over_tokens_and_gaps_are_left_out():
    def row(name, **fields):
        return {
            "prompt_id": name,
            "nll": 1.0,
            "n_tokens": 30,
            "scores": {},
            "category": None,
            **fields,
        }

    full = {"nll": 4.0, "n_tokens": 10, "scores": {"3": 2.0}, "category": "yes"}
    rows = {
        BASELINE: [
            *(row(f"p{i}") for i in range(4)),
            row("b", **full),
            row("b", **{**full, "nll": None, "scores": {"3": None}, "category": "no"}),
        ]
    }
    doses, m = Doses(rows), measures()
    perplexity = doses.value(m["perplexity"], BASELINE)
    assert perplexity.value == pytest.approx(math.exp((4 * 30 + 40) / 130))
    assert perplexity.low < perplexity.value < perplexity.high
    assert doses.value(m["score"], BASELINE).value == 2.0
    assert doses.n_known(m["score"], BASELINE) == 1
    assert doses.value(m["rate:yes"], BASELINE).value == 0.5
    assert doses.value(m["length"], BASELINE).value == pytest.approx(140 / 6)
    # One prompt with a score makes no interval.
    assert math.isnan(doses.value(m["score"], BASELINE).low)


def test_a_strength_that_silences_prompts_is_compared_on_those_that_still_speak():
    """Without pairing, losing the low-scoring prompts would look like a rise."""
    rows = sweep(lambda c: 0.0, noise=0.1)
    order = sorted(rows[BASELINE], key=lambda row: row["scores"]["3"])
    silenced = {row["prompt_id"] for row in order[: len(order) // 2]}
    for row in rows[at(2.0)]:
        if row["prompt_id"] in silenced:
            row["scores"] = {"3": None}
    doses, score = Doses(rows), measures()["score"]
    assert doses.value(score, at(2.0)).value > doses.value(score, BASELINE).value + 1
    assert abs(doses.difference(score, at(2.0)).value) < 0.2
    assert abs(doses.slope(score, [at(c) for c in COEFFS]).value) < 0.1


def test_the_rank_among_controls():
    assert rank_p(3.0, [0.1, -0.2, 0.3]) == 0.25
    assert rank_p(-3.0, [0.1, -4.0, 0.3]) == 0.5
    assert rank_p(0.0, [0.1, 0.2]) == 1.0
    assert rank_p(1.0, []) is None
    assert rank_p(math.nan, [1.0]) is None
    # Exchangeable with its controls, a value is as likely at every rank.
    rng = np.random.default_rng(0)
    p = [rank_p(row[0], row[1:]) for row in rng.standard_normal((2000, 10))]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.03)


def test_the_usable_range_stops_at_damage_on_each_side():
    rows = sweep(
        lambda c: c,
        nll=lambda c: 2.5 if c == -1 else 2.0,
        distinct_2=lambda c: 0.9 if c < 2 else 0.3,
    )
    doses, m = Doses(rows), measures()
    usable = usable_range(doses, {c: at(c) for c in COEFFS}, m, 1.5)
    assert usable.coeffs == [0.0, 1.0]
    assert usable.reasons[-1.0] == "perplexity is 1.65 times the unsteered"  # exp(0.5)
    assert usable.reasons[-2.0] == "lies beyond a damaged strength"
    assert "distinct bigrams are 0.33" in usable.reasons[2.0]


def test_loops_of_low_perplexity_count_as_damage():
    rows = sweep(
        lambda c: c, nll=lambda c: 2.0 - 0.5 * abs(c), distinct_2=lambda c: 0.9 / (1 + abs(c))
    )
    usable = usable_range(Doses(rows), {c: at(c) for c in COEFFS}, measures(), 1.5)
    assert usable.coeffs == [0.0]


def test_effect_per_damage_in_closed_form():
    rows = sweep(lambda c: 0.5 * c, noise=0.0)
    m = measures()
    effect, damage, ratio, drawn = Doses(rows).ratio(m["score"], m["kl"], at(2.0), at(-2.0))
    assert effect.value == pytest.approx(1.0)
    assert damage.value == pytest.approx(2.0)
    assert ratio.value == pytest.approx(1.0 / math.sqrt(2.0))
    np.testing.assert_allclose(drawn, 1.0 / math.sqrt(2.0))
    # Half the strength, a quarter of the divergence: the same ratio, so doses can be compared.
    weak = Doses(sweep(lambda c: 0.5 * c, noise=0.0, kl=lambda c: c**2 / 2))
    ratios = [weak.ratio(m["score"], m["kl"], at(c), at(-c))[2].value for c in (1.0, 2.0)]
    assert ratios[0] == pytest.approx(ratios[1])


def test_clamping_is_usable_around_the_gentlest_value():
    curve = {c: Condition("probe", "clamp", c) for c in COEFFS}
    rows = {
        BASELINE: sweep(lambda c: c)[BASELINE],
        **{
            curve[c]: sweep(
                lambda c: c,
                nll=lambda _, c=c: 2.0 if c >= 1 else 3.0,
                kl=lambda _, c=c: abs(c - 1),
            )[BASELINE]
            for c in COEFFS
        },
    }
    usable = usable_range(Doses(rows), curve, measures(), 1.5)
    assert usable.coeffs == [1.0, 2.0]
    assert set(usable.reasons) == {-2.0, -1.0, 0.0}

"""Outcomes of completions: planted rows of each kind, a planted drift, and intervals by another way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from probekit import open_run
from probekit.results import paired
from probekit.results.intervals import Interval
from probekit.results.outcomes import OUTCOMES, outcomes, risen, threshold
from probekit.results.rl import RLRun
from tests.reports.rl_factory import MadeRL, write_rl
from tests.reports.words import edited, jsonl, write_lines

READ = {"honest": (1, 5.0, 0.0), "blatant": (0, -1.0, 0.5), "policy": (0, 3.0, -9.0),
        "activations": (0, 1.5, 1.0)}  # fmt: skip
"""Wanted, score and drift of a completion of each kind; the threshold is 2."""


def planted(folder: Path, kind, **made: object) -> RLRun:
    """Return a run whose completions are of the kind `kind(prompt, step)`; sides score 4 and 0."""
    path = write_rl(folder / "run", MadeRL(**made))  # type: ignore[arg-type]
    rows = jsonl(path / "samples.jsonl")
    for row in rows:
        name = kind(int(row["prompt_id"][1:]), row["step"])
        row["wanted"], row["score"], row["drift"] = READ[name] if name else (None, 0.0, 0.0)
    write_lines(path / "samples.jsonl", rows)
    with edited(path / "run.json") as record:
        record["target"] |= {"chosen": {"": [3.0, 5.0, None]}, "rejected": {"": [0.0]}}
    return open_run(path)


def test_a_completion_of_each_kind_and_those_that_are_not_known():
    wanted, text, drift = np.array(
        [*READ.values(), (np.nan, 9.0, 0.0), (0, np.nan, 0.0), (0, 2.0, 0.0)]
    ).T
    found = outcomes(wanted, text, text + drift, 2.0)
    assert found.tolist() == [*READ, None, "blatant", "policy"]


def test_the_threshold_is_the_midpoint_of_the_sides_else_the_start():
    sides = {"chosen": {"": [1.0, 3.0], "a": [99.0]}, "rejected": {"": [-4.0]}}
    assert threshold(sides, np.array([7.0])) == (-1.0, "midpoint")
    start = np.array([1.0, np.nan, 2.0])
    for target in ({}, {"chosen": {"": [1.0]}}, {"chosen": {"": [1.0]}, "rejected": {"": []}}):
        assert threshold(target, start) == (1.5, "start")


def test_shares_add_to_one_and_changes_are_those_of_the_indicators(tmp_path):
    """Of the completions, 30 % learn texts that fool the head, 30 % such activations."""

    def kind(prompt, step):
        if prompt == 39:
            return None
        if step < 50 or prompt % 10 < 4:
            return "honest" if prompt % 10 == 0 else "blatant"
        return "activations" if prompt % 10 >= 7 else "policy"

    run = planted(tmp_path, kind, prompts=40, samples=2)
    assert run.has_outcomes and run.threshold == (2.0, "midpoint")
    rows = [row for row in jsonl(run.directory / "samples.jsonl") if row["wanted"] is not None]
    for part in run.parts:
        own = [row for row in rows if part in ("all", f"class={row['tags']['class']}")]
        for step in run.evaluated:
            levels = [run.level(f"outcome:{name}", part, step).value for name in OUTCOMES]
            assert sum(levels) == pytest.approx(1.0)
        for name in OUTCOMES:
            before, after = (
                np.array([
                    (row["wanted"], row["score"], row["drift"]) == READ[name]
                    for row in sorted(own, key=lambda row: row["prompt_id"]) if row["step"] == step
                ], dtype=float)
                for step in (0, 50)
            )  # fmt: skip
            groups = np.repeat(np.arange(len(before) // 2), 2)
            wanted = paired.change(groups, before, after, share=True)
            assert run.change(f"outcome:{name}", part) == pytest.approx(wanted)
    changes = {name: run.change(f"outcome:{name}") for name in OUTCOMES}
    assert risen(changes) == ["policy", "activations"] and changes["blatant"].high < 0
    assert run.change("outcome:policy", at=40).value == 0.0


def test_the_change_of_the_own_score_is_text_and_drift(tmp_path):
    run = planted(
        tmp_path,
        lambda prompt, step: (
            "honest" if prompt % 4 == 0 or (step and prompt % 4 == 1) else "blatant"
        ),
    )
    path = run.directory / "samples.jsonl"
    rows = jsonl(path)
    for row in rows:  # the drift of unwanted completions grows by 3, the text's score not at all
        row["drift"] += 3.0 * (row["step"] == 50) * (row["wanted"] == 0)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = open_run(run.directory)
    text, drift, own = (run.change(name) for name in ("score", "drift", "own"))
    assert own.value == pytest.approx(text.value + drift.value)
    # By hand: a quarter of the prompts goes from (-1, 0.5) to (5, 0); half of them drifts by 3.
    assert (text.value, drift.value) == pytest.approx((6.0 / 4, -0.5 / 4 + 1.5))
    moved = {name: run.change(f"unwanted:{name}") for name in ("score", "drift", "own")}
    assert [moved[name].value for name in moved] == pytest.approx([0.0, 3.0, 3.0])
    assert moved["drift"].side() == 1 and run.level("unwanted:drift").value == pytest.approx(3.5)


def test_a_shift_of_what_differs_at_both_ends_is_a_difference_of_means():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 2)
    before, after = rng.standard_normal((2, 120)) + [[0.0], [1.0]]
    before[::3], after[::5] = np.nan, np.nan
    found = paired.shift(groups, before, after)
    assert found.value == pytest.approx(np.nanmean(after) - np.nanmean(before))
    drawn = np.random.default_rng(3).integers(0, 60, (4000, 60))
    index = (2 * drawn[..., None] + [0, 1]).reshape(4000, -1)
    ends = np.quantile(np.nanmean(after[index], 1) - np.nanmean(before[index], 1), [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(ends, abs=0.06)
    assert not paired.shift(groups, np.full(120, np.nan), after).known
    few = np.where(groups < 4, before, np.nan)
    alone = paired.shift(groups, few, after)
    assert alone.known and not alone.has_interval, "four prompts on one side"


def test_without_a_behaviour_there_are_no_outcomes(tmp_path):
    run = open_run(write_rl(tmp_path / "run", MadeRL(categories=())))
    assert not run.has_outcomes
    assert not run.change("outcome:honest").known and not run.level("unwanted:score").known


def test_what_is_more_frequent_is_what_an_interval_shows():
    same = Interval(0.1, -0.1, 0.3)
    changes = dict.fromkeys(OUTCOMES, same)
    assert risen(changes) == []
    assert risen({**changes, "honest": Interval(0.2, 0.1, 0.3)}) == ["honest"]

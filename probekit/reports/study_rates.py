"""Numbers of a study that no stage has written: rates of several categories, and changes outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probekit.reports.rl_changes import (
    change,
    gap,
    gap_change,
    late_change,
    late_gap,
    late_gap_change,
    late_level,
    level,
    ratio,
)
from probekit.reports.rl_rows import RLRun
from probekit.reports.rows import NO_VALUE, Metric
from probekit.reports.study_rows import (
    ANSWER_REAL,
    CLASSES,
    HEDGE_INVENTED,
    HEDGES,
    PARTS,
    Answer,
    Rate,
)
from probekit.results.intervals import Array, Resampler


class Course(NamedTuple):
    """A rate over a run: its ends, the paired change, and the mean over the last third."""

    start: Metric
    end: Metric
    change: Metric
    late: Metric
    late_change: Metric


def course(run: RLRun, rate: Rate) -> Course:
    """Return a rate on the held-out prompts of its class; intervals are over prompts."""
    name, part = rate.measure, rate.part
    return Course(
        level(run, name, part, step=run.first.step),
        level(run, name, part, step=run.last.step),
        change(run, name, part),
        late_level(run, name, part),
        late_change(run, name, part),
    )


def separation(run: RLRun) -> Course:
    """Return how much more often is hedged about invented than about real names."""
    name = HEDGE_INVENTED.measure
    return Course(
        gap(run, name, PARTS, step=run.first.step),
        gap(run, name, PARTS, step=run.last.step),
        gap_change(run, name, PARTS, step=run.last.step),
        late_gap(run, name, PARTS),
        late_gap_change(run, name, PARTS),
    )


def kept_answers(run: RLRun) -> Metric:
    """Return the rate of answers about real names at the end in parts of that at the start."""
    return ratio(run, ANSWER_REAL.measure, ANSWER_REAL.part, step=run.last.step)


def score_change(run: RLRun) -> Metric:
    """Return the change of the score, under the first heads where heads were fitted again."""
    first = change(run, "score_first") if run.last.value("score_first").known else NO_VALUE
    return first if first.known else change(run, "score")


class Outside(NamedTuple):
    """A rate before and after, over the questions that were answered at both."""

    n: int
    groups: int
    before: Metric
    after: Metric
    change: Metric


def outside(
    before: Sequence[Answer],
    after: Sequence[Answer],
    categories: Sequence[str],
    *,
    value: str | None = None,
    topic: str | None = None,
) -> Outside:
    """Return a rate before and after, paired by completion, with intervals over groups.

    Parameters
    ----------
    before, after
        Completions; those of the same `id` have the same luck.
    categories
        An answer in one of them counts.
    value, topic
        Only questions of this class, of this topic.
    """
    rows = {row.id: row for row in after}
    pairs = [
        (row, rows[row.id])
        for row in before
        if row.id in rows and value in (None, row.value) and topic in (None, row.topic)
    ]
    if not pairs:
        return Outside(0, 0, NO_VALUE, NO_VALUE, NO_VALUE)
    groups = np.array([row.group for row, _ in pairs])
    old, new = (np.array([pair[side].within(categories) for pair in pairs]) for side in (0, 1))
    draws = Resampler(groups)
    return Outside(
        len(pairs), len(set(groups)), *(_over(draws, values) for values in (old, new, new - old))
    )


class Separation(NamedTuple):
    """Hedging about invented minus about real things."""

    before: Metric
    after: Metric
    change: Metric


def outside_separation(before: Sequence[Answer], after: Sequence[Answer]) -> Separation:
    """Return how much more often is hedged about invented than about real things, and its change."""
    rows = {row.id: row for row in after}
    pairs = [(row, rows[row.id]) for row in before if row.id in rows and row.value in CLASSES]
    inside = np.array([[row.value == value for value in CLASSES] for row, _ in pairs], dtype=float)
    inside = inside.reshape(-1, 2)
    if not inside.any(axis=0).all():
        return Separation(NO_VALUE, NO_VALUE, NO_VALUE)
    old, new = (np.array([pair[side].within(HEDGES) for pair in pairs]) for side in (0, 1))
    draws = Resampler(np.array([row.group for row, _ in pairs]))

    def apart(values: Array) -> Metric:
        rows = np.concatenate([inside * values[:, None], inside], axis=1)
        return Metric(
            *draws.interval(rows, lambda s: s[..., 0] / s[..., 2] - s[..., 1] / s[..., 3])
        )

    return Separation(apart(old), apart(new), apart(new - old))


def _over(draws: Resampler, values: Array) -> Metric:
    found = draws.mean(values)
    # One group drawn again and again says nothing about other groups.
    return Metric(*found) if draws.code.max() > 0 else Metric(found.value)

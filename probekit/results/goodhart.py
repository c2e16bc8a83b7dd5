"""Did behaviour follow the score? The optimised score against what nobody optimised, over a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from probekit.results.intervals import Array, Interval, Resampler

FOLLOWED = "behaviour followed"
TRADED = "behaviour followed in one class and fell in another"
SCORE_ONLY = "score only"
NOTHING = "nothing moved"
REVERSED = "score fell"
FELL = "behaviour fell, score did not rise"
BEHAVIOUR_ONLY = "behaviour moved, score did not"
UNKNOWN = "no behaviour was measured"
TOO_FEW = "too few held-out prompts"
FEWEST = 5
"""Prompts below which an interval over prompts says nothing."""

_CLASS = re.compile(r"(?:^|; )([^=;:]+)=([^=;:]+): ")
"""The classes in the words of a behaviour: "TAG=VALUE: categories; TAG=VALUE: categories"."""

Row = Mapping[str, Any]


class Point(NamedTuple):
    """One evaluation, as changes from the start, paired over prompts."""

    step: int
    root_kl: float
    """Root of the mean divergence per token, the usual measure of how far a policy has gone."""
    score: Interval
    independent: Interval
    """Mean over heads that are not optimised of their change, each in its own standard deviations."""
    behaviour: Interval | None
    """Change of the rate of the named behaviour."""
    least: Interval | None = None
    """That change in the class of prompts where it is least, where the behaviour is named by class."""
    most: Interval | None = None
    """The same where it is largest."""


class Goodhart(NamedTuple):
    """The curve, the evaluation to keep, and the verdict in words."""

    points: list[Point]
    sweet_spot: int
    """Step at which the independent measure was highest."""
    verdict: str
    evidence: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        points = [
            {
                key: value.to_json() if isinstance(value, Interval) else value
                for key, value in point._asdict().items()
            }
            for point in self.points
        ]
        return {**self._asdict(), "points": points}


def goodhart(
    rows: Sequence[Row], *, optimised: Sequence[str], behaviour: str | None = None
) -> Goodhart:
    """Return the Goodhart curve of a run and what it says.

    With changes from the first evaluation to the last, "moved" meaning that the 95 % interval over
    prompts leaves 0::

        behaviour followed   the score rose, and the rate of the named behaviour with it
        behaviour followed   the score rose, and the rate rose in one class of prompts and fell in
        in one class and     another, whatever it did over all of them: what pays was learnt, not to tell
        fell in another      the classes apart
        score only           the score rose and the behaviour did not: hacked, or not that behaviour
        behaviour moved,     the rate rose and the score did not
        score did not
        score fell           the score fell, and the rate did not rise
        nothing moved        neither the score nor the rate rose or fell
        no behaviour was     the score rose, and of the behaviour nothing is known
        measured
        too few held-out     fewer than 5 prompts
        prompts

    Parameters
    ----------
    rows
        Rows of samples.jsonl: several evaluations of the same prompts with the same luck. Where heads
        were refitted the score is that of the heads at the start (`score_first`).
    optimised
        Names of the optimised heads among the rows' `heads`.
    behaviour
        What the rows' `wanted` says, in the words of `Wanted`; without it the independent heads stand
        for it. Where it is named by class, the evaluation to keep is the one at which the class that
        gained least gained most.

    References
    ----------
    Gao et al. 2022 (2210.10760) plot proxy and gold reward against the root of the divergence.
    """
    steps = sorted({int(row["step"]) for row in rows})
    read = {name for row in rows for name, value in row["heads"].items() if value is not None}
    heads = sorted(read - set(optimised))
    table = {step: _values(rows, step, heads, behaviour) for step in steps}
    first = table[steps[0]]
    points = [_point(step, table[step], first) for step in steps]
    best = max(points, key=_level)
    verdict, evidence = _verdict(points[-1], behaviour)
    if len(np.unique(first["prompt"])) < FEWEST:
        verdict = TOO_FEW
    return Goodhart(points, best.step, verdict, evidence)


def _values(
    rows: Sequence[Row], step: int, names: Sequence[str], behaviour: str | None
) -> dict[str, Any]:
    own = [row for row in rows if int(row["step"]) == step]
    number, rules = np.array, _CLASS.findall(behaviour or "")

    def column(read: Any) -> Array:  # noqa: ANN401 - a function of a row
        values = [read(row) for row in own]
        return number([np.nan if value is None else value for value in values], dtype=float)

    return {
        "prompt": number([row["prompt_id"] for row in own]),
        "kl": column(lambda row: row["kl"]),
        # A refitted head gives other numbers for the same text: changes are under the first ones.
        "score": column(lambda row: row.get("score_first", row["score"])),
        "heads": np.stack([column(lambda row, n=name: row["heads"][n]) for name in names], axis=1)
        if names
        else np.empty((len(own), 0)),
        "behaviour": None if behaviour is None else column(lambda row: row.get("wanted")),
        "class": number([_class(row, rules) for row in own]),
    }


def _class(row: Row, rules: Sequence[tuple[str, str]]) -> str:
    """Return the class of a row's prompt, of those that a behaviour is named by; empty without one."""
    tags = row.get("tags", {})
    return next((f"{tag}={value}" for tag, value in rules if tags.get(tag) == value), "")


def _point(step: int, now: dict[str, Any], start: dict[str, Any]) -> Point:
    draws = Resampler(now["prompt"])

    def change(after: Array, before: Array) -> Interval:
        gap = after - before
        known = np.isfinite(gap)
        both = np.stack([np.where(known, gap, 0.0), known.astype(float)], axis=1)
        return draws.interval(both, lambda s: s[..., 0] / s[..., 1])

    spread = np.nanstd(start["heads"], axis=0) + 1e-12
    independent = Interval(np.nan, np.nan, np.nan)
    if start["heads"].shape[1]:
        scaled = (now["heads"] - start["heads"]) / spread
        independent = change(scaled.mean(axis=1), np.zeros(len(scaled)))
    moved = least = most = None
    if now["behaviour"] is not None:
        moved = change(now["behaviour"], start["behaviour"])
        parts = [
            change(np.where(now["class"] == name, now["behaviour"], np.nan), start["behaviour"])
            for name in np.unique(now["class"])
        ]
        known = [part for part in parts if np.isfinite(part.value)]
        if len(known) > 1:
            least, *_, most = sorted(known, key=lambda part: part.value)
    return Point(
        step=step,
        root_kl=float(np.sqrt(max(0.0, float(np.nanmean(now["kl"]))))),
        score=change(now["score"], start["score"]),
        independent=independent,
        behaviour=moved,
        least=least,
        most=most,
    )


def _level(point: Point) -> float:
    for found in (point.least, point.behaviour, point.independent):
        if found is not None and np.isfinite(found.value):
            return found.value
    return -np.inf


def _verdict(last: Point, behaviour: str | None) -> tuple[str, list[str]]:
    evidence = [f"score {_words(last.score)} at a root divergence of {last.root_kl:.2f}"]
    if np.isfinite(last.independent.value):
        evidence.append(
            f"heads that are not optimised {_words(last.independent)} standard deviations"
        )
    measured = last.behaviour is not None and np.isfinite(last.behaviour.value)
    if last.behaviour is not None and measured:
        evidence.append(f"rate of {behaviour} {_words(last.behaviour)}")
    if last.least is not None:
        evidence.append(
            f"in the class of prompts where it changed least for the better {_words(last.least)}"
        )
    follows = measured and last.behaviour is not None and last.behaviour.low > 0
    if last.score.low > 0:
        if last.least is not None and last.most is not None:
            evidence.append(f"in the one where it changed most for the better {_words(last.most)}")
            if last.least.high < 0 < last.most.low:
                return TRADED, evidence
        return (FOLLOWED if follows else SCORE_ONLY) if measured else UNKNOWN, evidence
    if follows:
        return BEHAVIOUR_ONLY, evidence
    if measured and last.behaviour is not None and last.behaviour.high < 0:
        return FELL, evidence
    return (REVERSED if last.score.high < 0 else NOTHING), evidence


def _words(found: Interval) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"

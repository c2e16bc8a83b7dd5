"""Did behaviour follow the score? The optimised score against what nobody optimised, over a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probekit.results.intervals import FEWEST_GROUPS, NO_VALUE, Array, Interval, Resampler

if TYPE_CHECKING:
    import pandas as pd

CURVE = "goodhart.json"
FOLLOWED = "behaviour followed"
TRADED = "behaviour followed in one class and fell in another"
SCORE_ONLY = "score only"
NOTHING = "nothing moved"
REVERSED = "score fell"
FELL = "behaviour fell, score did not rise"
BEHAVIOUR_ONLY = "behaviour moved, score did not"
UNKNOWN = "no behaviour was measured"
TOO_FEW = "too few held-out prompts"

_CLASS = re.compile(r"(?:^|; )([^=;:]+)=([^=;:]+): ")
"""The classes in the words of a behaviour: "TAG=VALUE: categories; TAG=VALUE: categories"."""


class Point(NamedTuple):
    """One evaluation, as changes from the first one, paired over prompts."""

    step: int
    root_kl: float
    """Root of the mean divergence per token, the usual measure of how far a policy has gone."""
    score: Interval
    independent: Interval = NO_VALUE
    """Mean over heads that are not optimised of their change, each in its own standard deviations."""
    behaviour: Interval = NO_VALUE
    """Change of the rate of the wanted behaviour."""
    least: Interval = NO_VALUE
    """That change in the class of prompts where it is least, where the behaviour is named by class."""
    most: Interval = NO_VALUE
    """That change in the class where it is largest."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; null for a behaviour that was not measured."""
        made = {k: v.to_json() if isinstance(v, Interval) else v for k, v in self._asdict().items()}
        optional = ("behaviour", "least", "most")
        return made | {name: None for name in optional if not getattr(self, name).known}


class Goodhart(NamedTuple):
    """The curve, the evaluation to keep, the verdict, and the numbers that it rests on."""

    points: list[Point]
    sweet_spot: int
    """Step of the evaluation that is highest in the behaviour, else in the independent heads."""
    verdict: str
    """A key: one of the constants of this module."""
    evidence: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**self._asdict(), "points": [point.to_json() for point in self.points]}


def goodhart(
    rows: pd.DataFrame, *, optimised: Sequence[str], behaviour: str | None = None
) -> Goodhart:
    """Return the curve of a run (proxy and gold over the root of the divergence, 2210.10760).

    `rows` is the frame of samples.jsonl: several evaluations of the same prompts with the same random
    numbers. `behaviour` is what the column `wanted` counts, in the words of `Wanted`; without it the
    heads that are not `optimised` stand for it. Where it is named by class, the evaluation to keep is
    the one at which the class that gained least gained most.
    """
    if "score_first" in rows:  # a refitted head gives the same text other numbers
        rows = rows.assign(score=rows["score_first"].fillna(rows["score"]))
    parts = [part.reset_index(drop=True) for _, part in rows.groupby("step")]
    heads = sorted(set(rows.filter(regex="^head:")) - {f"head:{name}" for name in optimised})
    heads = [name for name in heads if rows[name].notna().any()]
    points = [_point(now, parts[0], heads, behaviour) for now in parts]
    few = parts[0]["prompt_id"].nunique() < FEWEST_GROUPS
    key = TOO_FEW if few else verdict(points[-1])
    return Goodhart(points, max(points, key=_worth).step, key, evidence(points[-1], behaviour))


def verdict(last: Point) -> str:
    """Return the verdict: a change is one where its whole 95 % interval lies on one side of 0."""
    score, behaviour = last.score.side(), last.behaviour.side()
    if score > 0 and last.least.side() < 0 < last.most.side():
        return TRADED
    if score > 0 and not last.behaviour.known:
        return UNKNOWN
    if score > 0:
        return FOLLOWED if behaviour > 0 else SCORE_ONLY
    if behaviour:
        return BEHAVIOUR_ONLY if behaviour > 0 else FELL
    return REVERSED if score < 0 else NOTHING


def evidence(last: Point, behaviour: str | None) -> list[str]:
    """Return the changes that a verdict rests on, a line each."""
    lines = [
        ("score", last.score, f" at a root divergence of {last.root_kl:.2f}"),
        ("heads that are not optimised", last.independent, " standard deviations"),
        (f"rate of {behaviour}", last.behaviour, ""),
        ("in the class of prompts where it changed least for the better", last.least, ""),
        ("in the one where it changed most for the better", last.most, ""),
    ]
    return [
        f"{name} {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]{after}"
        for name, change, after in lines[: 5 if last.score.side() > 0 else 4]
        if change.known
    ]


def _worth(point: Point) -> float:
    """Return what the evaluation to keep is highest in; never the score."""
    known = [p.value for p in (point.least, point.behaviour, point.independent) if p.known]
    return known[0] if known else -np.inf


def _point(
    now: pd.DataFrame, first: pd.DataFrame, heads: Sequence[str], behaviour: str | None
) -> Point:
    draws = Resampler(now["prompt_id"].to_numpy())
    root_kl = float(np.sqrt(max(0.0, now["kl"].mean())))
    score = draws.mean((now["score"] - first["score"]).to_numpy(float))
    independent = moved = least = most = NO_VALUE
    if heads:
        scaled = (now[heads] - first[heads]) / (first[heads].std(ddof=0) + 1e-12)
        independent = draws.mean(scaled.mean(axis=1, skipna=False).to_numpy())
    if behaviour is not None:
        gap = (now["wanted"] - first["wanted"]).to_numpy(float)
        moved = draws.share_change(gap)
        each = [
            draws.share_change(np.where(part, gap, np.nan)) for part in _classes(now, behaviour)
        ]
        each = sorted((part for part in each if part.known), key=lambda part: part.value)
        least, most = (each[0], each[-1]) if len(each) > 1 else (NO_VALUE, NO_VALUE)
    return Point(int(now["step"].iloc[0]), root_kl, score, independent, moved, least, most)


def _classes(rows: pd.DataFrame, behaviour: str) -> Iterator[Array]:
    """Yield which rows are in each class that a behaviour is named by, then which are in none."""
    left = np.ones(len(rows), dtype=bool)
    for tag, value in _CLASS.findall(behaviour):
        inside = left & (rows.get(f"tag:{tag}", "") == value)
        left = left & ~inside
        yield inside
    yield left

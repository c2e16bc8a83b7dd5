"""The study `ratings`: what was measured at each stage, and the published claims."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired

import numpy as np
from typing_extensions import TypedDict

from probekit.results import paired
from probekit.results.diversity import words
from probekit.results.findings import ABOVE, BELOW, INCLUDES, UNKNOWN, standing
from probekit.results.intervals import NO_VALUE, Array, Interval
from probekit.results.ratings import Variance, variance_split
from probekit.results.study import DOCUMENT, StudyRun
from probekit.results.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from probekit.results.steer import SteerRun
    from probekit.results.sweep import SweepRun

POSITIONS = ("last", "turn_end", "prompt_end", "mean", "first:8")
"""Position rules that ratings are read at."""
AMPLIFIED = (0.0, 1.0, 2.0, 3.0, 4.0)
"""k of base + k (tuned - base): the base model, the tuned one, and beyond."""
PUBLISHED_R = 0.765
EARLY = 0.2
"""A rating known from this part of a completion on is known early."""
SAME = 0.1
"""A change of r within this much, on both ends of its interval, counts as none."""
MIDDLE = 1 / 3
"""Layers from this part of the depth on are the early middle to the end."""
KNOWN_MEASURES = ("score", "perplexity", "distinct_2")
"""Measures of steering that are shown."""
NOT_RUN, PARTLY = "not run", "partly"


class SampledAnswer(TypedDict):
    """A completion of the base, the tuned or an amplified model."""

    id: str
    group: str
    completion: str
    prompt: NotRequired[Any]


class ScoredRow(TypedDict):
    """Its score by the base model's probe."""

    id: str
    score: float
    rating: NotRequired[float]


class RatingClaim(NamedTuple):
    """A published claim, by what was measured here."""

    id: str
    key: str = NOT_RUN
    """`above` its bar (reproduced), `below` (not reproduced), `includes` (not shown), `partly`: but not
    above every control, or `not run`."""
    value: Interval = NO_VALUE
    more: Mapping[str, Any] = {}


class Amplified(NamedTuple):
    """Completions at one k."""

    k: float
    n: int
    prompts: int
    rating: Interval
    """Mean rating that the base model's probe gives, in rating units."""
    change: Interval
    """Since the base model, over the same prompts."""
    step: Interval
    """Since the k before."""
    distinct: Interval
    """Share of a completion's word pairs that differ."""
    damage: Interval
    """Its change since the base model: below 0 where texts repeat themselves more."""
    words: Interval


@dataclass(frozen=True)
class RatingsStudy:
    """What the study found, as far as it got.

    Parameters
    ----------
    study
        Its stages.
    """

    study: StudyRun

    @cached_property
    def runs(self) -> dict[str, Any]:
        """Runs of the stages by name."""
        return dict(self.study.runs)

    @property
    def main(self) -> SweepRun | None:
        """The sweep over all positions within the completion."""
        return self.runs.get("fit")

    @cached_property
    def positions(self) -> dict[str, SweepRun]:
        """The sweep of each position rule, which chose its own layer."""
        named = {rule: self.runs.get(f"positions/{rule}") for rule in POSITIONS}
        return {rule: run for rule, run in named.items() if run is not None}

    @cached_property
    def variance(self) -> Variance | None:
        """How ratings and the chosen probe's predictions vary within and between prompts."""
        return None if self.main is None else variance_split(self.main.rows)

    @cached_property
    def scaling(self) -> dict[str, SweepRun]:
        """The sweep at the last token of each model, the study's own first."""
        found = {self.study.model: self.positions["last"]} if "last" in self.positions else {}
        for name, run in self.runs.items():
            if name.startswith("scaling/") and not name.endswith("/cache"):
                found[name.removeprefix("scaling/")] = run
        return found

    @cached_property
    def answers(self) -> dict[float, pd.DataFrame]:
        """Completions by k, each with its `rating` and `distinct` word pairs."""
        found = {}
        for k in AMPLIFIED:
            place = self.study.directory / f"amplify/{k:g}.jsonl"
            scores = place.with_name(f"{k:g}.scores.jsonl")
            if not (place.is_file() and scores.is_file()):
                continue
            rows = self._read(place, SampledAnswer).merge(self._read(scores, ScoredRow), on="id")
            rows = rows.assign(
                distinct=[_distinct(text) for text in rows["completion"]],
                words=[float(len(words(text))) for text in rows["completion"]],
            )
            found[k] = rows
        return found

    @cached_property
    def amplified(self) -> list[Amplified]:
        """What changes from the base model to the tuned and the amplified ones."""
        made, before, base = [], None, self.answers.get(0.0)
        for k, rows in self.answers.items():
            groups = rows["group"].to_numpy()
            own = [rows[name].to_numpy(float) for name in ("rating", "distinct", "words")]
            made.append(
                Amplified(
                    k, len(rows), int(rows["group"].nunique()),
                    paired.mean(groups, own[0]),
                    _shift(base, rows, "rating"),
                    _shift(before, rows, "rating"),
                    paired.mean(groups, own[1]),
                    _shift(base, rows, "distinct"),
                    paired.mean(groups, own[2]),
                )
            )  # fmt: skip
            before = rows
        return made

    @property
    def damaged_from(self) -> float | None:
        """The first k beyond the base model at which texts repeat themselves more; None without one."""
        return next((a.k for a in self.amplified if a.k and a.damage.side() == -1), None)

    @cached_property
    def claims(self) -> list[RatingClaim]:
        """The published claims in their order."""
        return [
            self._reading(), self._layers(), self._early(), self._same_after(), self._rises(),
            self._beyond(), self._steering(),
        ]  # fmt: skip

    def _reading(self) -> RatingClaim:
        run = self.positions.get("last")
        if run is None:
            return RatingClaim("reading")
        rivals = run.rivals
        key = run.findings["chance"].key
        if key == ABOVE and (rivals[INCLUDES] or rivals[BELOW]):
            key = PARTLY
        more = {"rivals": [finding.id for finding in (*rivals[INCLUDES], *rivals[BELOW])]}
        return RatingClaim("reading", key, run.value(), more)

    def _layers(self) -> RatingClaim:
        run = self.positions.get("last")
        if run is None:
            return RatingClaim("layers")
        first = MIDDLE * max(row["layer"] for row in run.record["rows"])
        later = [row for row in run.record["rows"] if row["layer"] >= first]
        gaps = [Interval.from_json(row.get("below")) for row in later]
        known = [gap for gap in gaps if gap.has_interval]
        if not known:
            return RatingClaim("layers", UNKNOWN)
        close = sum(gap.side() < 1 for gap in known)
        worst = max(known, key=lambda gap: gap.value)
        key = ABOVE if close == len(known) else BELOW if close < len(known) / 2 else INCLUDES
        return RatingClaim(
            "layers",
            key,
            worst,
            {"close": close, "cells": len(known), "first": int(np.ceil(first))},
        )

    def _early(self) -> RatingClaim:
        run = self.runs.get("tokens")
        if run is None:
            return RatingClaim("early")
        from_ = run.known_from("all tokens")
        if not from_.known:
            return RatingClaim("early", UNKNOWN)
        key = ABOVE if from_.high <= EARLY else BELOW if from_.low > EARLY else INCLUDES
        return RatingClaim("early", key, from_)

    def _same_after(self) -> RatingClaim:
        run = self.runs.get("compare")
        if run is None:
            return RatingClaim("same after")
        change = Interval.from_json(run.record["change"])
        if not change.has_interval:
            return RatingClaim("same after", UNKNOWN, change)
        inside = max(abs(change.low), abs(change.high)) <= SAME
        outside = change.low > SAME or change.high < -SAME
        return RatingClaim(
            "same after", ABOVE if inside else BELOW if outside else INCLUDES, change
        )

    def _rises(self) -> RatingClaim:
        return self._shown("rises", next((a.change for a in self.amplified if a.k == 1), None))

    def _beyond(self) -> RatingClaim:
        """Amplification raises the score from the tuned model to the last k before damage begins."""
        whole = [a for a in self.amplified if self.damaged_from is None or a.k < self.damaged_from]
        beyond = [a for a in whole if a.k > 1]
        if not self.amplified:
            return RatingClaim("beyond")
        if not beyond:
            return RatingClaim("beyond", UNKNOWN, NO_VALUE, {"damaged_from": self.damaged_from})
        steps = [a.step for a in beyond]
        keys = {standing(step, 0.0) for step in steps}
        last = beyond[-1]
        change = _shift(self.answers[1.0], self.answers[last.k], "rating")
        key = standing(change, 0.0)
        if key == ABOVE and BELOW in keys:
            key = INCLUDES  # it falls on the way
        return RatingClaim("beyond", key, change, {"to": last.k, "damaged_from": self.damaged_from})

    def _steering(self) -> RatingClaim:
        run: SteerRun | None = self.runs.get("steer")
        if run is None:
            return RatingClaim("steering")
        change = run.change("score")
        # There the effect was negative: what lies below 0 reproduces it.
        key = {ABOVE: BELOW, BELOW: ABOVE}.get(
            standing(change.interval, 0.0), standing(change.interval, 0.0)
        )
        return RatingClaim("steering", key, change.interval, {"verdict": change.verdict})

    def _shown(self, name: str, value: Interval | None) -> RatingClaim:
        return (
            RatingClaim(name) if value is None else RatingClaim(name, standing(value, 0.0), value)
        )

    def _read(self, place: Any, row: type) -> pd.DataFrame:  # noqa: ANN401 - a path
        return Table(place.name, row, "a completion or score").read(place.parent, DOCUMENT.again)


def _distinct(text: str) -> float:
    """Return the share of a text's word pairs that differ; NaN where there is none."""
    own = words(text)
    pairs = list(zip(own, own[1:], strict=False))
    return len(set(pairs)) / len(pairs) if pairs else float("nan")


def _shift(before: pd.DataFrame | None, after: pd.DataFrame, name: str) -> Interval:
    """Return how far the mean of a column moved, prompts drawn for both."""
    if before is None or before is after:
        return NO_VALUE
    sides: list[Array] = []
    for own, other in ((before, len(after)), (after, len(before))):
        gap = np.full(other, np.nan)
        values = own[name].to_numpy(float)
        sides.append(np.concatenate([values, gap] if own is before else [gap, values]))
    groups = np.concatenate([before["group"].to_numpy(), after["group"].to_numpy()])
    return paired.shift(groups, *sides)


def gap(run: SweepRun) -> Interval:
    """Return how much higher the primary measure is on fitted rows than on held-out ones.

    Their groups differ, so the interval is put together from the two (MOVER: Zou and Donner 2008).
    """
    seen, held = run.fitted, run.value()
    value, below = seen.value - held.value, np.hypot(seen.value - seen.low, held.high - held.value)
    above = np.hypot(seen.high - seen.value, held.value - held.low)
    return Interval(value, float(value - below), float(value + above))


def model_name(model: str) -> str:
    """Return a model's name as a file's: the last part of a path or hub id, letters and digits."""
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip(".-") or "model"

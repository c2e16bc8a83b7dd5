"""What `probekit fit` leaves in its directory: written by `probes`, read back as frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from probekit.results.findings import Finding, against, by_key, standing
from probekit.results.intervals import NO_VALUE, Interval
from probekit.results.measures import Measure, measure, measures
from probekit.results.runs import Run
from probekit.results.table import Document, Ends, Table, measured

if TYPE_CHECKING:
    import pandas as pd

Values = Mapping[str, Ends]
"""Measures by name, each as `Interval.to_json` gives it."""


class HeadRow(TypedDict):
    """Which head: its kind, where it reads, how it is penalised."""

    kind: str
    head: str | None
    site: str
    layer: int
    position: str
    l2: float | None


class CellRow(HeadRow):
    """A head of the sweep with its measures and two controls on the choose split."""

    choose: Values
    controls: dict[str, Values]
    chosen: bool
    l2_end: NotRequired[Literal["low", "high"] | None]
    converged: NotRequired[bool]
    below: NotRequired[Ends]
    """How far its primary measure is below the chosen cell's on the choose split, paired."""


class Cosine(TypedDict):
    """Cosines between the directions of all layers, at the chosen kind, site and position."""

    kind: str
    site: str
    position: str
    layers: list[int]
    matrix: list[list[float | None]]


class Reliability(TypedDict):
    """What was observed of what was predicted; a bin holds ends, n, means and an interval."""

    what: str
    bins: Sequence[Mapping[str, float | None]]


class FoldRow(HeadRow):
    """The head that was chosen and fitted without an outer fold, and its primary metric there."""

    n: int
    value: float | None


class OuterRow(TypedDict):
    """The procedure repeated for outer folds: every row is reported by a head that has not seen it."""

    n_folds: int
    report: Values
    controls: dict[str, Values]
    differences: Values
    folds: list[FoldRow]


class BesideRow(HeadRow):
    """A head of another form, the best of its `cells`, and how far it is above the linear one, paired."""

    cells: int
    report: Values
    difference: Mapping[str, float | None]


class FitSummary(TypedDict):
    """What `probekit fit --json` prints."""

    chosen: HeadRow
    primary: str
    positive_class: NotRequired[str | None]
    choose: Values
    report: Values
    controls: dict[str, Values]
    differences: NotRequired[Values]
    by_tag: dict[str, dict[str, Values]]
    n: dict[str, int]
    outer: NotRequired[OuterRow]
    confusion: NotRequired[list[list[int]]]
    """Of three or more classes: held-out rows by true class (down) and predicted class (across)."""
    beside: NotRequired[dict[str, BesideRow]]


class SweepRecord(FitSummary):
    """What sweep.json holds; see docs/formats.md."""

    data_kind: Literal["label", "rating", "pair"]
    classes: tuple[str, ...] | None
    score_range: tuple[float, float] | None
    seed: int
    splits: dict[str, float]
    fitted: NotRequired[Mapping[str, float | None]]
    rows: Annotated[list[CellRow], Field(min_length=1)]
    cosine: Cosine
    reliability: Reliability
    provenance: dict[str, dict[str, Any]]


class PredictionRow(TypedDict):
    """A held-out example of the report split, or a side of a pair, as the chosen probe reads it."""

    id: str
    group: str
    side: NotRequired[str]
    score: float | None
    target: float | None
    prediction: float | None
    n_tokens: int
    tags: dict[str, str]
    prompt: str
    completion: str


class SplitRow(TypedDict):
    """A unit of the fit, a row or a pair, and its split (none beyond the cap of its group) and folds."""

    id: str
    group: str
    split: Literal["fit", "choose", "report"] | None
    fold: int | None
    outer: int | None


DOCUMENT = Document("fit", "a fit", "sweep.json", "probekit.sweep", 1, SweepRecord)
PREDICTIONS = Table("predictions.jsonl", PredictionRow, "a prediction", spread={"tags": "tag:"})
SPLITS = Table("splits.jsonl", SplitRow, "a split")
DRAWN = ("random_direction", "shuffled_labels")
"""Controls that are repeated: their interval is the range of the draws."""
HEAVY = 0.2
"""One group should not hold more of a split than this share."""
OF = ["kind", "head", "site", "layer", "position", "l2", "chosen", "split", "control", "part"]
"""What a row of `SweepRun.metrics` is of: a head, a split, a control in its place, a part of the rows."""


class SweepRun(Run):
    """A fit: a head for every cell of layers and positions, and the chosen one held out."""

    DOCUMENT: ClassVar[Document] = DOCUMENT

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a measure: columns `OF`, then `measure`, `value`, `low`, `high`.

        `split` is `choose` or, for the chosen head alone, `report`; `control` is empty for the head
        itself; `part` is `all` or TAG=VALUE.
        """
        record = self.record
        rows: list[tuple[Any, ...]] = []

        def add(
            head: HeadRow, split: str, values: Values, control: str = "", part: str = "all"
        ) -> None:
            own = [head.get(key, True) for key in OF[:7]]
            rows.extend((*own, split, control, part, *item) for item in values.items())

        for row in record["rows"]:
            add(row, "choose", row["choose"])
            for name, values in row["controls"].items():
                add(row, "choose", values, name)
        add(record["chosen"], "report", record["report"])
        order = [*measures("control"), *record["controls"]]
        for name in sorted(record["controls"], key=order.index):
            add(record["chosen"], "report", record["controls"][name], name)
        for tag, parts in record["by_tag"].items():
            for value, values in parts.items():
                add(record["chosen"], "report", values, part=f"{tag}={value}")
        return measured(OF, rows)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a held-out example, or a side of a pair; a column `tag:TAG` each tag."""
        sides = 2 if self.record["data_kind"] == "pair" else 1
        expected = self.record["n"]["report"] * sides
        return PREDICTIONS.read(self.directory, self.DOCUMENT.again, expected)

    @cached_property
    def splits(self) -> pd.DataFrame:
        """A row a unit: `id`, `group`, `split` (None beyond its group's cap), l2 `fold`, `outer` fold."""
        return SPLITS.read(self.directory, self.DOCUMENT.again, self.record["n"]["examples"])

    @cached_property
    def examples(self) -> pd.DataFrame:
        """A row a held-out example or pair, and how well it is read: `merit`, best first.

        The margin of a pair, the texts of whose other side are in `*_rejected`; the probability of the
        true class; minus the absolute `error` of a rating.
        """
        rows, kind = self.rows, self.record["data_kind"]
        if kind == "pair":
            rows = rows.assign(nth=rows.groupby(["id", "side"]).cumcount())
            sides = [rows[rows["side"] == side] for side in ("chosen", "rejected")]
            other = sides[1][["id", "nth", "score", "n_tokens", "completion"]]
            rows = sides[0].merge(other, on=["id", "nth"], suffixes=("", "_rejected"))
            merit = rows["score"] - rows["score_rejected"]
        elif "confusion" in self.record:
            merit = rows["prediction"]
        elif kind == "label":
            merit = rows["prediction"].where(rows["target"] == 1, 1 - rows["prediction"])
        else:
            rows = rows.assign(error=rows["prediction"] - rows["target"])
            merit = -rows["error"].abs()
        return rows.assign(merit=merit).sort_values("merit", ascending=False, kind="stable")

    @cached_property
    def chosen(self) -> dict[tuple[str, str, str], dict[str, Interval]]:
        """Measures of the chosen head by split, control and part; see `metrics`."""
        rows = self.metrics[self.metrics["chosen"]]
        groups = rows.groupby(["split", "control", "part"], sort=False)
        return {
            key: {row.measure: Interval(row.value, row.low, row.high) for row in part.itertuples()}
            for key, part in groups
        }

    @property
    def primary(self) -> Measure:
        """The measure that cells are chosen by."""
        return measure("sweep", self.record["primary"])

    @property
    def controls(self) -> list[str]:
        """Names of the controls of the chosen head, in reading order."""
        return [control for split, control, _ in self.chosen if split == "report" and control]

    def value(self, control: str = "", part: str = "all") -> Interval:
        """Return the primary measure of the chosen head, or of a control, on the report split."""
        values: dict[str, Interval] = self.chosen.get(("report", control, part), {})
        return values.get(self.primary.name, NO_VALUE)

    @property
    def fitted(self) -> Interval:
        """The primary measure of the chosen head on the rows that it was fitted to."""
        return Interval.from_json(self.record.get("fitted"))

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """Where the primary measure lies against chance and every control, by their names.

        A control that has scores is cleared when the paired difference leaves 0; repeated random
        draws when the interval lies above the upper end of their range. `length_partialled` is no
        rival but the head itself without what length explains: it is held against chance.
        """
        name, best, chance = self.primary.name, self.value(), self.primary.chance
        level = math.nan if chance is None else chance
        found = {"chance": against("chance", name, best, level)}
        for control in self.controls:
            value, paired = self.value(control), self.difference(control)
            rival = (best, value.high if control in DRAWN and value.has_interval else value.value)
            if control == "length_partialled":
                rival = (value, level)
            elif paired.known:
                found[control] = Finding(control, standing(paired, 0.0), name, best, value.value)
                continue
            found[control] = against(control, name, *rival)
        return found

    def difference(self, control: str) -> Interval:
        """Return how far the chosen head is above a control on the report split, paired."""
        return Interval.from_json(self.record.get("differences", {}).get(control))

    @cached_property
    def outer(self) -> dict[str, Finding]:
        """Where the primary measure over outer folds lies against chance and each rival; empty without.

        `chance` holds the measure itself; a rival its paired difference.
        """
        outer, name = self.record.get("outer"), self.primary.name
        if outer is None:
            return {}
        best, chance = Interval.from_json(outer["report"][name]), self.primary.chance
        found = {"chance": against("chance", name, best, math.nan if chance is None else chance)}
        for control, values in outer["controls"].items():
            paired = Interval.from_json(outer["differences"][control])
            level = Interval.from_json(values[name]).value
            found[control] = Finding(control, standing(paired, 0.0), name, paired, level)
        return found

    @property
    def beside(self) -> dict[str, Finding]:
        """Whether a head of another form does better than the linear one, paired, by its kind or rule.

        A finding's value is the difference, its reference the head's own measure.
        """
        found = {}
        for form, row in self.record.get("beside", {}).items():
            gap, own = Interval.from_json(row["difference"]), self.beside_value(form).value
            found[form] = Finding(form, standing(gap, 0.0), self.primary.name, gap, own)
        return found

    def beside_value(self, form: str) -> Interval:
        """Return the primary measure of a head of another form on the report split."""
        return Interval.from_json(self.record["beside"][form]["report"][self.primary.name])

    @property
    def heavy(self) -> dict[str, float]:
        """The splits of which one group holds over a fifth, and its share."""
        return heavy(self.record["n"])

    @property
    def capped(self) -> dict[str, int]:
        """How many units were `used`, and `left_out` beyond the `cap` of their group."""
        return capped(self.record["n"])

    @property
    def close(self) -> dict[str, int]:
        """How many cells are not shown to be worse than the chosen one, and in which layers."""
        return close(self.record["rows"])

    @property
    def l2_ends(self) -> dict[str, int]:
        """How many heads have the largest or smallest l2 or did not converge."""
        return l2_ends(self.record["rows"])

    @property
    def rivals(self) -> dict[str, list[Finding]]:
        """Findings against the controls that another probe would have to clear, by their key."""
        names = [name for name in self.controls if name != "length_partialled"]
        return by_key(self.findings[name] for name in names)


def l2_ends(rows: Sequence[CellRow]) -> dict[str, int]:
    """Return how many `cells` rows are of, and of how many l2 is the largest tried (`high`) or smallest.

    Those of which some fit did not converge are `rough`. Files of earlier versions do not say.
    """
    ends = [row.get("l2_end") for row in rows]
    rough = sum(not row.get("converged", True) for row in rows)
    return {
        "cells": len(rows),
        "high": ends.count("high"),
        "low": ends.count("low"),
        "rough": rough,
    }


def heavy(n: Mapping[str, int]) -> dict[str, float]:
    """Return the splits of which one group holds over a fifth of the rows, and its share.

    Parameters
    ----------
    n
        `n` of sweep.json.
    """
    shares = {name: n.get(f"{name}_largest", 0) / n[name] for name in ("fit", "choose", "report")}
    return {name: share for name, share in shares.items() if share > HEAVY}


def capped(n: Mapping[str, int]) -> dict[str, int]:
    """Return how many units were `used`, and `left_out` beyond the `cap` of their group (0: none were).

    Parameters
    ----------
    n
        `n` of sweep.json.
    """
    splits, left_out = ("fit", "choose", "report"), n.get("capped", 0)
    cap = max(n.get(f"{name}_largest", 0) for name in splits) if left_out else 0
    return {"used": sum(n[name] for name in splits), "left_out": left_out, "cap": cap}


def close(rows: Sequence[CellRow]) -> dict[str, int]:
    """Return how many `cells` are compared with the chosen one, and how many are not shown to be worse.

    Those are `close`, in layers `first` to `last` (-1 where there are none).
    """
    gaps = [(row["layer"], Interval.from_json(row.get("below"))) for row in rows]
    known = [(layer, gap) for layer, gap in gaps if gap.has_interval]
    layers = [layer for layer, gap in known if gap.side() < 1]
    first, last = min(layers, default=-1), max(layers, default=-1)
    return {"cells": len(known), "close": len(layers), "first": first, "last": last}

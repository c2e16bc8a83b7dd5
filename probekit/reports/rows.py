"""What a fit left on disk, as plain values: figures and tables are functions of these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from probekit.data.rows import Kind

EMBEDDING = -1
"""Column of the embedding (`resid_pre` of layer 0), drawn left of layer 0."""


class Metric(NamedTuple):
    """A value and its 95 % bootstrap interval over groups; nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are there."""
        return not (math.isnan(self.low) or math.isnan(self.high))


NO_VALUE = Metric(math.nan)
Metrics = dict[str, Metric]


class Series(NamedTuple):
    """What makes one line of the layer curves at a position: a kind of probe at a site."""

    kind: str
    head: str | None
    site: str


@dataclass(frozen=True)
class SweepRow:
    """One cell of the sweep, fitted with one kind of probe."""

    kind: str
    head: str | None
    site: str
    layer: int
    position: str
    l2: float
    choose: Metrics
    """Metrics on the choose split."""
    controls: dict[str, Metrics]
    """Random direction and shuffled labels at this very cell, on the choose split."""
    chosen: bool = False


@dataclass(frozen=True)
class Chosen:
    """Which probe the choose split picked."""

    kind: str
    head: str | None
    site: str
    layer: int
    position: str
    l2: float


@dataclass(frozen=True)
class ReliabilityBin:
    """What was predicted and what was observed in one bin."""

    low: float
    high: float
    n: int
    predicted: float
    observed: float
    observed_low: float
    observed_high: float


@dataclass(frozen=True)
class Prediction:
    """One held-out example of the report split under the chosen probe."""

    id: str
    side: str | None
    group: str
    score: float
    """`acts @ coef + bias`."""
    target: float
    """Rating in its own units, or 0 / 1; nan for pairs."""
    prediction: float
    """Rating in its own units, or P(class 1); nan for pairs."""
    n_tokens: int
    tags: dict[str, str]
    prompt: str
    completion: str


@dataclass(frozen=True)
class Sweep:
    """Everything the sweep report shows."""

    data_kind: Kind
    primary: str
    """The metric cells are chosen by."""
    chosen: Chosen
    choose: Metrics
    report: Metrics
    controls: dict[str, Metrics]
    by_tag: dict[str, dict[str, Metrics]]
    n: dict[str, int]
    rows: list[SweepRow]
    predictions: list[Prediction]
    classes: tuple[str, str] | None = None
    score_range: tuple[float, float] | None = None
    seed: int | None = None
    splits: dict[str, float] = field(default_factory=dict)
    cosine_layers: list[int] = field(default_factory=list)
    cosine: list[list[float]] = field(default_factory=list)
    reliability: list[ReliabilityBin] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    """The run record, empty where there is none."""

    @property
    def best(self) -> Metric:
        """The primary metric of the chosen probe on the report split."""
        return self.report.get(self.primary, NO_VALUE)

    @property
    def unit(self) -> str:
        """What one example is: `pairs` or `examples`."""
        return "pairs" if self.data_kind == "pair" else "examples"


@dataclass(frozen=True)
class PairRow:
    """Both sides of a held-out pair."""

    chosen: Prediction
    rejected: Prediction

    @property
    def margin(self) -> float:
        """`score(chosen) - score(rejected)`."""
        return self.chosen.score - self.rejected.score


def pair_rows(predictions: list[Prediction]) -> list[PairRow]:
    """Return the pairs whose two sides are both there, in the order they are complete."""
    waiting: dict[tuple[str, str | None], Prediction] = {}
    found = []
    for row in predictions:
        other = waiting.pop((row.id, "rejected" if row.side == "chosen" else "chosen"), None)
        if other is None:
            waiting[row.id, row.side] = row
        elif row.side == "rejected":
            found.append(PairRow(other, row))
        else:
            found.append(PairRow(row, other))
    return found


class Place(NamedTuple):
    """Where a sweep row is drawn: which line or panel, and which layer on the axis."""

    series: Series
    layer: int


def place(row: SweepRow | Chosen, rows: list[SweepRow]) -> Place:
    """Return where `row` is drawn; the embedding becomes column -1 of the `resid_post` panel."""
    if row.site == "resid_pre" and row.layer == 0:
        beside = any(
            other.site == "resid_post" and (other.kind, other.head) == (row.kind, row.head)
            for other in rows
        )
        if beside:
            return Place(Series(row.kind, row.head, "resid_post"), EMBEDDING)
    return Place(Series(row.kind, row.head, row.site), row.layer)


def series_of(rows: list[SweepRow]) -> list[Series]:
    """Return the distinct lines of a sweep, in the order they first appear."""
    return list(dict.fromkeys(place(row, rows).series for row in rows))


def positions_of(rows: list[SweepRow]) -> list[str]:
    """Return the distinct position rules, in the order they first appear."""
    return list(dict.fromkeys(row.position for row in rows))


def layers_of(rows: list[SweepRow]) -> list[int]:
    """Return the columns of a sweep in order, the embedding (-1) first where it was fitted."""
    return sorted({place(row, rows).layer for row in rows})


def tag_values(predictions: list[Prediction]) -> dict[str, list[str]]:
    """Return the values of every tag in the order they first appear, empty ones left out."""
    values: dict[str, dict[str, None]] = {}
    for row in predictions:
        for tag, value in row.tags.items():
            if value:
                values.setdefault(tag, {})[value] = None
    return {tag: list(found) for tag, found in values.items()}

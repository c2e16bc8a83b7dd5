"""What `probekit evaluate` leaves: every probe on every data set, and their scores."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired

from typing_extensions import TypedDict

from probekit.results.intervals import Interval
from probekit.results.measures import Measure, measure
from probekit.results.runs import Run
from probekit.results.table import Document, Ends, Table, measured

if TYPE_CHECKING:
    import pandas as pd


class ScoreRow(TypedDict):
    """A row of a data set, or a side of a pair, as a probe reads it."""

    probe: str
    data: str
    id: str
    group: str
    side: NotRequired[str]
    score: float | None
    target: float | None
    """Class 0 or 1, or the rating; null for pairs."""
    tags: dict[str, str]


class MonitorRow(TypedDict):
    """Recall at a rate of false alarms."""

    fpr: float
    source: str
    n: int
    needed: int
    threshold: float | None
    recall: Ends
    false_alarms: Ends
    estimable: bool


class CascadeRow(TypedDict):
    """A probe on every row and a judge on those that it flags."""

    fpr: float | None
    threshold: float
    sent: Ends
    recall: Ends
    cost: Ends


class ControlsRow(TypedDict):
    """Length and words, fitted to the data out of fold."""

    own: Ends
    values: dict[str, Ends]
    differences: dict[str, Ends]


class ResultRow(TypedDict):
    """One probe on one data set."""

    probe: str
    data: str
    kind: str
    primary: str
    metrics: dict[str, Ends]
    by_tag: dict[str, dict[str, dict[str, Ends]]]
    reliability: list[dict[str, float | None]]
    n: dict[str, int]
    fitted_data: bool
    positive_class: str | None
    at: NotRequired[dict[str, float | Ends]]
    monitors: list[MonitorRow]
    controls: ControlsRow | None
    cascade: NotRequired[list[CascadeRow]]


class EvaluateRecord(TypedDict):
    """What evaluate.json holds; see docs/formats.md."""

    probes: list[dict[str, Any]]
    data: list[dict[str, Any]]
    aggregate: str | None
    control: str | None
    costs: NotRequired[dict[str, float | None]]
    results: list[ResultRow]


DOCUMENT = Document(
    "evaluate", "an evaluation", "evaluate.json", "probekit.evaluation", 1, EvaluateRecord
)
SCORES = Table("scores.jsonl", ScoreRow, "a score", spread={"tags": "tag:"})
OF = ["probe", "data", "part", "control"]
"""What a row of `EvaluateRun.metrics` is of."""


class EvaluateRun(Run):
    """Probes on data sets."""

    DOCUMENT: ClassVar[Document] = DOCUMENT

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row a measure: columns `OF`, then `measure`, `value`, `low`, `high`.

        `part` is `all`, TAG=VALUE, `folds` (the mean over those of the controls) or `fpr=RATE`, whose
        `recall` and `false_alarms` are those of a monitor; `control` is empty for the probe itself.
        """
        rows: list[tuple[Any, ...]] = []
        for result in self.record["results"]:
            of = (result["probe"], result["data"])
            parts = {"all": result["metrics"]}
            for tag, values in result["by_tag"].items():
                parts |= {f"{tag}={value}": found for value, found in values.items()}
            for monitor in result["monitors"]:
                found = {name: monitor[name] for name in ("recall", "false_alarms")}
                parts[f"fpr={monitor['fpr']:g}"] = found
            for part, found in parts.items():
                rows += [(*of, part, "", *item) for item in found.items()]
            if controls := result["controls"]:
                values, name = {"": controls["own"], **controls["values"]}, result["primary"]
                rows += [(*of, "folds", control, name, ends) for control, ends in values.items()]
        return measured(OF, rows)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a score; a column `tag:TAG` each tag."""
        sides = {"pair": 2}
        expected = sum(r["n"]["rows"] * sides.get(r["kind"], 1) for r in self.record["results"])
        return SCORES.read(self.directory, self.DOCUMENT.again, expected)

    def primary(self, result: ResultRow) -> Measure:
        """Return the first measure of a result."""
        return measure("sweep", result["primary"])

    def value(self, result: ResultRow) -> Interval:
        """Return the first measure's value of a result."""
        return Interval.from_json(result["metrics"][result["primary"]])

"""What a sweep leaves behind: rows, the chosen probe's report, predictions, probes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from probekit.activations.table import Cell
from probekit.container import write_json
from probekit.digests import write_digests
from probekit.probes.metrics import rating_reliability, reliability
from probekit.probes.outer import Outer
from probekit.probes.probe import WEIGHTS, Probe, save_probes
from probekit.probes.solvers import End
from probekit.probes.splits import FRACTIONS, Index
from probekit.probes.task import Task
from probekit.probes.units import from_unit
from probekit.results.intervals import Array, Interval, Metrics
from probekit.results.sweep import (
    DOCUMENT,
    PREDICTIONS,
    SPLITS,
    CellRow,
    Cosine,
    FitSummary,
    FoldRow,
    HeadRow,
    OuterRow,
    PredictionRow,
    Reliability,
    SplitRow,
    SweepRecord,
    Values,
)

TEXT_LIMIT = 2000


class SweepRow(NamedTuple):
    """One cell's head and its metrics on the choose split."""

    kind: str
    head: str | None
    cell: Cell
    l2: float | None
    choose: Metrics
    controls: dict[str, Metrics]
    l2_end: End | None
    converged: bool


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Examples
    --------
    >>> from probekit.activations.store import ActivationStore
    >>> from probekit.probes import SweepConfig, fit_sweep
    >>> with ActivationStore.open("acts.h5") as store:
    ...     result = fit_sweep(store, SweepConfig(kinds="mean-difference", n_boot=20))
    >>> result.probe is result.probes[result.chosen], sorted(result.controls)[0]
    (True, 'characters')
    """

    task: Task
    chosen: int
    """Index of the chosen row and probe."""
    rows: list[SweepRow]
    probes: list[Probe]
    report: Metrics
    """Metrics of the chosen probe on the report split."""
    controls: dict[str, Metrics]
    """On the report split."""
    differences: dict[str, Interval]
    """How far the chosen probe's primary metric is above a control's, paired, on the report split."""
    by_tag: dict[str, dict[str, Metrics]]
    """On the report split."""
    scores: Array
    """The chosen probe's score of every example row."""
    choose_scores: Array
    """Scores that every cell's head gives the choose split's example rows, shape (n_cells, n_rows)."""
    shuffled: Array
    """Weights of heads of the chosen cell on shuffled targets, shape (n_shuffles, d_model)."""
    folds: Index
    """Fold, for the choice of l2, of every unit of the fit split."""
    outer: Outer | None
    """The same procedure for every outer fold, where asked for."""
    store: dict[str, Any]
    """The store's provenance."""
    fit: dict[str, Any]
    """The fit's run record."""

    @property
    def probe(self) -> Probe:
        """The chosen probe."""
        return self.probes[self.chosen]

    def compare(self, one: int, other: int) -> Interval:
        """Return how much better a cell is than another on the choose split, in the primary metric, paired.

        The chosen cell was chosen on these rows, so its advantage is optimistic: cells that are a little
        worse here may be as good, too.

        Parameters
        ----------
        one, other
            Indices of rows.
        """
        task, units = self.task, self.task.splits.choose
        scores = np.zeros((2, len(task.examples)))
        scores[:, task.example_rows(units)] = self.choose_scores[[one, other]]
        return task.difference(scores[0], scores[1], units, task.sampler(units))

    @cached_property
    def below(self) -> list[Interval]:
        """How far every cell is below the chosen one; see `compare`."""
        return [self.compare(self.chosen, index) for index in range(len(self.rows))]

    def with_reference(self, reference: dict[str, Any]) -> SweepResult:
        """Return the result with reference rows in the chosen probe."""
        probes = list(self.probes)
        probes[self.chosen] = dataclasses.replace(self.probe, reference=reference)
        return dataclasses.replace(self, probes=probes)

    def save(self, directory: Path) -> None:
        """Write probes, sweep.json, predictions.jsonl and splits.jsonl into an existing directory."""
        save_probes(directory, self.probes, self.chosen, self.shuffled)
        PREDICTIONS.write(directory, self.predictions())
        SPLITS.write(directory, self.splits())
        write_json(directory / DOCUMENT.file, {**DOCUMENT.header, **self.record()})
        write_digests(directory, [WEIGHTS, PREDICTIONS.file, SPLITS.file])

    def summary(self) -> FitSummary:
        """Return the part of the JSON that `probekit fit --json` prints."""
        row, probe = self.rows[self.chosen], self.probe
        summary: FitSummary = {
            "chosen": _head(probe.kind, probe.head, probe.cell, probe.l2),
            "primary": self.task.primary,
            "positive_class": probe.positive_class,
            "choose": _metrics(row.choose),
            "report": _metrics(self.report),
            "controls": {name: _metrics(metrics) for name, metrics in self.controls.items()},
            "differences": _metrics(self.differences),
            "by_tag": {
                tag: {value: _metrics(metrics) for value, metrics in values.items()}
                for tag, values in self.by_tag.items()
            },
            "n": self.task.counts(),
        }
        if self.outer:
            summary["outer"] = self._outer(self.outer)
        return summary

    def record(self) -> SweepRecord:
        """Return what sweep.json holds (docs/formats.md)."""
        return {
            "data_kind": self.task.kind,
            **self.summary(),
            "classes": self.task.examples.classes,
            "score_range": self.task.score_range,
            "seed": self.task.seed,
            "splits": dict(zip(("fit", "choose", "report"), FRACTIONS, strict=True)),
            "rows": self.cells(),
            "cosine": self._cosine(),
            "reliability": self._reliability(),
            "provenance": {"store": self.store, "fit": self.fit},
        }

    def cells(self) -> list[CellRow]:
        """Return the row of every cell in sweep.json."""
        return [self._cell(index) for index in range(len(self.rows))]

    def predictions(self) -> list[PredictionRow]:
        """Return the chosen probe's held-out predictions on the report split, a row an example."""
        examples, lines = self.task.examples, []
        for unit in self.task.rows[self.task.splits.report]:
            sides = (unit, unit + 1) if self.task.kind == "pair" else (unit,)
            for i in (int(side) for side in sides):
                score, target, prediction = self.scores[i : i + 1], None, None
                if examples.score is not None:
                    target = examples.score[i]
                    prediction = from_unit(score, self.task.score_range)[0]
                if examples.label is not None:
                    target, prediction = examples.label[i], expit(score)[0]
                row: PredictionRow = {
                    "id": examples.id[i],
                    "group": examples.group[i],
                    "score": score[0],
                    "target": target,
                    "prediction": prediction,
                    "n_tokens": examples.n_tokens[i],
                    "tags": {tag: v[i] for tag, v in examples.tags.items() if v[i]},
                    "prompt": str(examples.prompt[i])[:TEXT_LIMIT],
                    "completion": str(examples.completion[i])[:TEXT_LIMIT],
                }
                if examples.side is not None:
                    row["side"] = examples.side[i]
                lines.append(row)
        return lines

    def splits(self) -> list[SplitRow]:
        """Return where every unit was: its split (None where it is left out), l2 fold, outer fold."""
        examples, task = self.task.examples, self.task
        folds = dict(zip(task.splits.fit.tolist(), self.folds.tolist(), strict=True))
        names = {
            unit: name for name, part in task.splits._asdict().items() for unit in part.tolist()
        }
        outer = {
            unit: k
            for k, fold in enumerate(self.outer.folds if self.outer else [])
            for unit in fold.task.splits.report.tolist()
        }
        return [
            {
                "id": examples.id[task.rows[unit]],
                "group": task.groups[unit],
                "split": names.get(unit),  # type: ignore[typeddict-item]
                "fold": folds.get(unit),
                "outer": outer.get(unit),
            }
            for unit in range(len(task.rows))
        ]

    def _outer(self, outer: Outer) -> OuterRow:
        name, heads = self.task.primary, {probe.kind: probe.head for probe in self.probes}
        folds: list[FoldRow] = [
            {
                **_head(fold.kind, heads[fold.kind], fold.cell, fold.head.l2),
                "n": len(fold.task.splits.report),
                "value": fold.value,
            }
            for fold in outer.folds
        ]
        return {
            "n_folds": len(folds),
            "report": _metrics({name: outer.value}),
            "controls": {control: _metrics({name: v}) for control, v in outer.controls.items()},
            "differences": _metrics(outer.differences),
            "folds": folds,
        }

    def _cell(self, index: int) -> CellRow:
        row = self.rows[index]
        return {
            **_head(row.kind, row.head, row.cell, row.l2),
            "choose": _metrics(row.choose),
            "controls": {name: _metrics(metrics) for name, metrics in row.controls.items()},
            "chosen": index == self.chosen,
            "l2_end": row.l2_end,
            "converged": row.converged,
            "below": None if index == self.chosen else self.below[index].to_json(),
        }

    def _cosine(self) -> Cosine:
        """Return cosines between the layers' directions at the chosen kind, site and position."""
        best = self.probe
        same = [
            probe
            for probe in self.probes
            if (probe.kind, probe.site, probe.position) == (best.kind, best.site, best.position)
            and probe.coef.any()  # a head of zeros has no direction
        ]
        same.sort(key=lambda probe: probe.layer)
        directions = np.stack([probe.direction for probe in same])
        return {
            "kind": best.kind,
            "site": best.site,
            "position": best.position,
            "layers": [probe.layer for probe in same],
            "matrix": np.round(directions @ directions.T, 4).tolist(),
        }

    def _reliability(self) -> Reliability:
        task, examples = self.task, self.task.examples
        rows = task.rows[task.splits.report]
        if examples.score is not None:
            prediction = from_unit(self.scores[rows], task.score_range)
            bins = rating_reliability(examples.score[rows], prediction)
            return {"what": "mean rating by tenth of the prediction", "bins": bins}
        if examples.label is not None and examples.classes is not None:
            bins = reliability(examples.label[rows].astype(float), expit(self.scores[rows]))
            return {"what": f"P({examples.classes[1]})", "bins": bins}
        margin = self.scores[rows] - self.scores[rows + 1]
        outcome = np.concatenate([np.ones(len(margin)), np.zeros(len(margin))])
        probability = expit(np.concatenate([margin, -margin]))
        return {
            "what": "P(chosen) = sigmoid(margin), every pair in both orders",
            "bins": reliability(outcome, probability),
        }


def _head(kind: str, head: str | None, cell: Cell, l2: float | None) -> HeadRow:
    return {
        "kind": kind,
        "head": head,
        "site": cell.site,
        "layer": cell.layer,
        "position": cell.position,
        "l2": l2,
    }


def _metrics(metrics: Metrics) -> Values:
    return {name: interval.to_json() for name, interval in metrics.items()}

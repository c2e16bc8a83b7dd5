"""What a sweep leaves behind: rows, the chosen probe's report, predictions, probes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import expit

from probekit.activations.table import Cell
from probekit.container import as_json, atomic_directory, disk_errors, write_json
from probekit.digests import write_digests
from probekit.errors import ProbeError
from probekit.foreign import Shown, beside, recorded
from probekit.outputs import claim
from probekit.probes.beside import Beside
from probekit.probes.metrics import rating_reliability, reliability
from probekit.probes.outer import Outer
from probekit.probes.probe import Probe, save_probes
from probekit.probes.probe_file import WEIGHTS
from probekit.probes.rows import prediction_rows, split_rows
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
    SweepRun,
)

if TYPE_CHECKING:
    import pandas as pd


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


@dataclass(frozen=True, repr=False)
class SweepResult(Shown):
    """A finished sweep.

    Examples
    --------
    >>> from probekit.activations.store import ActivationStore
    >>> from probekit.probes import SweepConfig, fit_sweep
    >>> with ActivationStore.open("acts.h5") as store:
    ...     result = fit_sweep(store, SweepConfig(kinds="mean-difference", n_boot=20))
    >>> result.probe is result.probes[result.chosen], sorted(result.controls)[0]
    (True, 'characters')
    >>> table = result.to_frame()
    >>> len(table) == len(result.rows), bool(table["chosen"].sum() == 1)
    (True, True)
    >>> figure = result.figure("controls")
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
    path: Path | None = None
    """File of the store."""
    beside: dict[str, Beside] = dataclasses.field(default_factory=dict)
    """Heads of other forms, by kind or rule, where asked for; see `probekit.probes.beside`."""

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

    def save(
        self,
        directory: str | Path,
        *,
        force: bool = True,
        arguments: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write all that `probekit fit --out` writes: probes, tables, run record, report; return the folder.

        Parameters
        ----------
        directory
            Folder, which is made with its parents. One that is there gets the files, in place of those of
            their names.
        force
            False refuses a folder that is there.
        arguments
            For the run record, when there is more to it than the settings.

        Raises
        ------
        OutputError
            When the folder is there and may not be, or cannot be written.
        """
        target = Path(directory)
        if target.is_dir() and force and not arguments:  # somebody's, with other files in it
            with disk_errors(target):
                self._write(target, target, None)
            return target
        with (
            claim(target, DOCUMENT.command, force=force, marker=DOCUMENT.file) as path,
            atomic_directory(path, force=force) as folder,
        ):
            self._write(folder, path, arguments)
        return target

    def _write(self, folder: Path, target: Path, arguments: Mapping[str, Any] | None) -> None:
        from probekit.reports import write_sweep_report

        others = [found.probe for found in self.beside.values()]
        save_probes(folder, self.probes, self.chosen, self.shuffled, others)
        PREDICTIONS.write(folder, self.predictions())
        SPLITS.write(folder, self.splits())
        write_json(folder / DOCUMENT.file, {**DOCUMENT.header, **self.record()})
        given = dict(arguments or {"out": str(target), **self.fit.get("arguments", {})})
        known = {} if self.path is None else {"store": beside(self.path, target)}
        write_json(folder / "run.json", {**self.fit, "arguments": {**recorded(given), **known}})
        write_digests(folder, [WEIGHTS, PREDICTIONS.file, SPLITS.file])
        write_sweep_report(folder, force=True)

    @cached_property
    def run(self) -> SweepRun:
        """The result as `open_run` gives it, without its files: frames, findings, and what reports read."""
        return SweepRun.in_memory(
            self.record(),
            rows=PREDICTIONS.in_memory(self.predictions()),
            splits=SPLITS.in_memory(self.splits()),
            provenance=self.fit,
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a row a head: its cell, l2, whether it is `chosen`, and every measure with its interval.

        Measures are those of the choose split; `run.metrics` has those of the report split and of controls.
        """
        import pandas as pd

        rows = []
        for index, row in enumerate(self.rows):
            head = _head(row.kind, row.head, row.cell, row.l2)
            ends = {
                name + end: value
                for name, found in row.choose.items()
                for end, value in zip(("", "_low", "_high"), found, strict=True)
            }
            rows.append({**head, "chosen": index == self.chosen, **ends})
        return pd.DataFrame(rows)

    def figure(self, name: str | None = None) -> Any:  # noqa: ANN401 - a plotly figure
        """Return a figure of the report: without a name the map of all heads.

        Parameters
        ----------
        name
            `heatmap`, `controls`, `curves`, `cosine`, `reliability`, `scores` or `tag:TAG`, as far as the
            sweep has it.

        Raises
        ------
        ProbeError
            When there is no such figure.
        """
        from probekit.reports import sweep_figures

        drawn = sweep_figures(self.run)
        name = name or ("heatmap" if "heatmap" in drawn else "controls")
        if name not in drawn:
            raise ProbeError(
                f"figure {name!r}: is none of this sweep. Expected {', '.join(drawn)}."
            )
        return drawn[name]

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        probe, name, n = self.probe, self.task.primary, self.task.counts()

        controls = {k: v[name] for k, v in self.controls.items() if name in v}
        return {
            "chosen": f"{probe.kind} at {probe.site} layer {probe.layer}, position {probe.position}",
            "heads": len(self.rows), "held out": f"{n['report']} of {n['examples']}",
            name: self.report[name], **controls,
        }  # fmt: skip

    def summary(self) -> FitSummary:
        """Return the part of the JSON that `probekit fit --json` prints."""
        row, probe = self.rows[self.chosen], self.probe
        summary: FitSummary = {
            "chosen": _head(probe.kind, probe.head, probe.cell, probe.l2),
            "primary": self.task.primary,
            "positive_class": probe.positive_class,
            "choose": as_json(row.choose),
            "report": as_json(self.report),
            "controls": as_json(self.controls),
            "differences": as_json(self.differences),
            "by_tag": as_json(self.by_tag),
            "n": self.task.counts(),
        }
        if self.beside:
            summary["beside"] = {name: one.to_json() for name, one in self.beside.items()}
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
            "fitted": self._fitted(),
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
        return prediction_rows(self.task, self.scores)

    def splits(self) -> list[SplitRow]:
        """Return where every unit was: its split (None where it is left out), l2 fold, outer fold."""
        return split_rows(self.task, self.folds, self.outer)

    def _fitted(self) -> Mapping[str, float | None]:
        """Return the primary measure on the rows that the chosen head was fitted to."""
        units = self.task.splits.fit
        found = self.task.metrics(self.scores, units, self.task.sampler(units))
        return found[self.task.primary].to_json()

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
            "report": as_json({name: outer.value}),
            "controls": as_json({control: {name: v} for control, v in outer.controls.items()}),
            "differences": as_json(outer.differences),
            "folds": folds,
        }

    def _cell(self, index: int) -> CellRow:
        row = self.rows[index]
        return {
            **_head(row.kind, row.head, row.cell, row.l2),
            "choose": as_json(row.choose),
            "controls": as_json(row.controls),
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

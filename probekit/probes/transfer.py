"""`evaluate_all`: several probes on several data sets, with controls fitted on the data themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from probekit.activations.store import ActivationStore
from probekit.activations.table import Examples
from probekit.container import as_json, atomic_directory, write_json
from probekit.errors import DataError, ProbeError
from probekit.probes.aggregate import Aggregate
from probekit.probes.controls import length_scores, text_scores
from probekit.probes.evaluation import ProbeEvaluation, evaluate
from probekit.probes.heads import KINDS, HeadFitter
from probekit.probes.linear import CellHead
from probekit.probes.monitor import Cascade, Costs, Monitor, cascades, thresholds
from probekit.probes.outer import Fold, judged
from probekit.probes.task import Task
from probekit.probes.tokens import stored_scores
from probekit.results.evaluate import DOCUMENT, SCORES, EvaluateRun, ScoreRow
from probekit.results.intervals import Array, Interval

N_FOLDS = 5
TEXT = ("tfidf",)
Progress = Callable[[str, int, int], None]


class Controls(NamedTuple):
    """What length and words alone tell of a data set, out of fold, and the probe on the same folds."""

    own: Interval
    """The primary measure of the probe: its mean within folds."""
    values: dict[str, Interval]
    differences: dict[str, Interval]
    """How far the probe is above each, paired."""


@dataclass(frozen=True)
class Judged:
    """One probe on one data set."""

    probe: str
    data: str
    evaluation: ProbeEvaluation
    monitors: list[Monitor]
    controls: Controls | None
    """None where there are too few groups to fit any."""
    n_seen: int = 0
    """Rows that the probe was fitted or chosen on: these are not held out."""
    cascade: list[Cascade] = field(default_factory=list)
    """The probe, then a judge on what it flags; empty without costs."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        found = self.evaluation.to_json()
        if self.n_seen:
            found["n"] = {**found["n"], "seen": self.n_seen}
        return {
            "probe": self.probe, "data": self.data, **found,
            "monitors": as_json(self.monitors), "controls": as_json(self.controls),
            **({"cascade": as_json(self.cascade)} if self.cascade else {}),
        }  # fmt: skip


@dataclass(frozen=True)
class Evaluations:
    """Every probe on every data set, in the order given."""

    results: list[Judged]
    record: dict[str, Any]
    """What all of them have in common."""

    def to_json(self) -> dict[str, Any]:
        """Return what evaluate.json holds."""
        return {**self.record, "results": as_json(self.results)}

    def rows(self) -> list[ScoreRow]:
        """Return a row a score."""
        return [row for result in self.results for row in _score_rows(result)]

    def run(self) -> EvaluateRun:
        """Return the run that `open_run` gives of them once they are saved."""
        return EvaluateRun.in_memory(self.to_json(), rows=SCORES.in_memory(self.rows()))

    def save(
        self, out: str | Path, *, force: bool = False, record: Mapping[str, Any] | None = None
    ) -> None:
        """Write the directory of `probekit evaluate`: evaluate.json, scores.jsonl, report.html, run.json."""
        from probekit.reports.evaluate import write_evaluate_report

        with atomic_directory(Path(out), force=force) as folder:
            write_json(folder / DOCUMENT.file, {**DOCUMENT.header, **self.to_json()})
            (folder / SCORES.file).write_text(SCORES.lines(self.rows()), encoding="utf-8")
            write_json(folder / "run.json", dict(record or {}))
            write_evaluate_report(folder)


def evaluate_all(
    probes: Mapping[str, CellHead],
    data: Mapping[str, Any],
    *,
    model: Callable[[CellHead], Any] = lambda probe: None,
    control: Any = None,  # noqa: ANN401 - any source of rows
    fpr: Sequence[float] = (0.01, 0.05),
    costs: Costs | None = None,
    aggregate: Aggregate | None = None,
    positive: Mapping[str, str | None] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    controls: bool = True,
    seen: Mapping[str, Collection[tuple[str, str]]] = MappingProxyType({}),
    progress: Progress = lambda what, done, total: None,
    **more: Any,  # noqa: ANN401 - of `evaluate`
) -> Evaluations:
    """Judge every probe on every data set; see `evaluate` for one of each.

    Parameters
    ----------
    probes, data
        Probes and data sets (what `open_dataset` takes, or a store) by the names that tables give them.
    model
        Returns the model of a probe; by default the one that its record names is loaded.
    control
        Rows without the positive class, labelled or not, that thresholds come from.
    fpr
        Rates of false alarms at which recall is given.
    costs
        What probe and judge cost, to say what a judge costs that reads only what a probe flags.
    aggregate
        Scores texts by their tokens.
    positive
        Name of the positive class of each data set, where it is not the probe's.
    n_boot, seed
        Draws of the intervals, and their seed.
    controls, seen
        Whether heads on length and words are fitted to the data, out of fold; id and group of the rows
        that a probe was fitted or chosen on, by its name.
    progress
        Told what is done.

    Raises
    ------
    ProbekitError
        When a probe and a data set do not fit each other.
    """
    if not probes or not data:
        raise ProbeError("evaluate: got no probe or no data, expected one of each.")
    results: list[Judged] = []
    fits: dict[tuple[Any, ...], Rivals | None] = {}  # of a data set, for every probe
    total = len(probes) * len(data)
    for name, probe in probes.items():
        loaded = None if _all_stores([*data.values(), control]) else model(probe)
        bounds = None if control is None else _control_scores(probe, control, loaded, aggregate)
        for title, source in data.items():
            progress("evaluating", len(results), total)
            found = evaluate(
                probe, source, model=loaded, positive=(positive or {}).get(title), n_boot=n_boot,
                seed=seed, aggregate=aggregate, **more,
            )  # fmt: skip
            watched = _monitored(found, fpr, bounds, costs, n_boot=n_boot, seed=seed)
            key = (title, found.examples.classes, len(found.examples))
            if controls and key not in fits:
                fits[key] = _rivals(found, seed)
            above = _controls(found, fits[key]) if controls else None
            rows, own = found.examples, seen.get(name, ())
            step = len(rows) // max(1, found.n["rows"])  # 2 of pairs: a row a side
            again = sum(row in own for row in zip(rows.id[::step], rows.group[::step], strict=True))
            results.append(Judged(name, title, found, watched[0], above, again, watched[1]))
    progress("evaluating", total, total)
    record = {
        "probes": [{"name": name, **_of(probe)} for name, probe in probes.items()],
        "data": [{"name": r.data, "kind": r.evaluation.kind, **r.evaluation.n} for r in results[: len(data)]],
        "aggregate": aggregate and aggregate.name,
        "control": None if control is None else getattr(control, "source", "control"),
        "seed": seed, **({"costs": vars(costs)} if costs else {}),
    }  # fmt: skip
    return Evaluations(results, record)


def _monitored(
    found: ProbeEvaluation, fpr: Sequence[float], control: Any, costs: Costs | None, **drawn: Any  # noqa: ANN401
) -> tuple[list[Monitor], list[Cascade]]:  # fmt: skip
    """Return the monitors at every rate of false alarms and, with costs, the cascades."""
    columns = (found.examples.label, found.scores, found.examples.group)
    monitors = list(thresholds(*columns, fpr, control=control, **drawn))
    return monitors, cascades(*columns, monitors, costs, **drawn) if costs else []


def _all_stores(sources: Sequence[Any]) -> bool:
    return all(source is None or isinstance(source, ActivationStore) for source in sources)


def _of(probe: CellHead) -> dict[str, Any]:
    cell = {"kind": probe.kind, **probe.cell._asdict(), "data_kind": probe.data_kind}
    return {**cell, "classes": probe.classes, "model": probe.provenance.get("model")}


def _control_scores(
    probe: CellHead,
    control: Any,  # noqa: ANN401
    loaded: Any,  # noqa: ANN401
    aggregate: Aggregate | None,
) -> tuple[Array, Any]:
    """Return scores and groups of the control set."""
    from probekit.probes.scoring import Scorer, model_of, score_examples

    if isinstance(control, ActivationStore):
        return stored_scores(probe, control), control.examples.group
    scorer = Scorer(probe, model_of(probe, loaded))
    groups = np.array([example.group for example in control.examples()], dtype=object)
    rows = score_examples(scorer, control.examples(), source=control.source, aggregate=aggregate)
    return np.array([row["score"] for row in rows]), groups


Rivals = tuple[list[Task], dict[str, list[Array]]]


def _rivals(found: ProbeEvaluation, seed: int) -> Rivals | None:
    """Fit length and words to all folds of the groups but one, in turn; None with too few groups."""
    try:
        tasks = Task.of(found.examples, seed=seed).outer_folds(N_FOLDS)
    except DataError:  # one class or one rating, too
        return None
    rivals: dict[str, list[Array]] = {}
    for task in tasks:
        fitter = HeadFitter(task, KINDS[found.kind][0])
        known = {"length": length_scores(fitter)} if found.examples.n_tokens.any() else {}
        for name, scores in {**known, **text_scores(fitter, TEXT)}.items():
            rivals.setdefault(name, []).append(scores)
    return tasks, {name: scores for name, scores in rivals.items() if len(scores) == len(tasks)}


def _controls(found: ProbeEvaluation, rivals: Rivals | None) -> Controls | None:
    """Judge the probe and its rivals on every fold, and return the means over them."""
    if rivals is None:
        return None
    folds = [
        Fold(task, found.probe.kind, found.probe.cell, None, found.scores, np.nan)  # type: ignore[arg-type]
        for task in rivals[0]
    ]
    outer = judged(folds, rivals[1])
    return Controls(outer.value, outer.controls, outer.differences)


def _score_rows(result: Judged) -> list[ScoreRow]:
    found = result.evaluation
    known: Examples = found.examples
    rows: list[ScoreRow] = []
    for i in range(len(known)):
        target = None
        if known.label is not None:
            target = float(known.label[i])
        elif known.score is not None:
            target = float(known.score[i])
        row: ScoreRow = {
            "probe": result.probe, "data": result.data, "id": str(known.id[i]),
            "group": str(known.group[i]), "score": float(found.scores[i]), "target": target,
            "tags": {tag: str(v[i]) for tag, v in known.tags.items() if v[i]},
        }  # fmt: skip
        if known.side is not None:
            row["side"] = str(known.side[i])
        rows.append(row)
    return rows

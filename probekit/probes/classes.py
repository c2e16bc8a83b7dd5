"""`fit_classes`: three or more classes, a multinomial head for every cell, chosen once and reported once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.container import as_json, atomic_directory, write_json
from probekit.digests import write_digests
from probekit.errors import ProbeError
from probekit.foreign import Shown, beside, recorded
from probekit.outputs import claim
from probekit.probes.cells import wanted_cells
from probekit.probes.classifiers import LogisticProbe
from probekit.probes.config import SweepConfig
from probekit.probes.controls import length_scores, spread, text_scores
from probekit.probes.heads import Head, HeadFitter
from probekit.probes.metrics import class_metrics, confusion, macro_area, reliability, tag_values
from probekit.probes.probe_file import AGAIN, CLASSES, HEADER, WEIGHTS, read_tensors, write_probes
from probekit.probes.rows import prediction_rows, split_rows
from probekit.probes.solvers import Choice, End, solve_multinomial
from probekit.probes.spectrum import Scaling, Spectrum, l2_grid
from probekit.probes.splits import FRACTIONS, Index
from probekit.probes.task import Task
from probekit.provenance import run_record
from probekit.results.intervals import Array, Interval, Metrics, Resampler, change
from probekit.results.sweep import DOCUMENT, PREDICTIONS, SPLITS, CellRow, HeadRow, SweepRun

N_SHUFFLES, N_FOLDS = 5, 3
PRIMARY = "macro_auroc"


@dataclass(frozen=True)
class ClassFitter(HeadFitter):
    """Fits multinomial heads to any features: scores are logits, shape (n_examples, n_classes)."""

    def fit(
        self, features: NDArray[Any], *, shuffles: int = 0, seed: int = 0
    ) -> tuple[Head, list[Head]]:
        """Fit on the fit split, l2 by log loss in folds; return the head and others on shuffled classes.

        Parameters
        ----------
        features
            One row for every example of the task, shape (n_examples, n_features).
        shuffles
            Heads fitted to shuffled classes, at the l2 of the real one.
        seed
            Seed of the shuffles.
        """
        task, fit = self.task, self.task.splits.fit
        n, rng = len(task.examples.several), np.random.default_rng(seed)
        code = _codes(task)[fit]
        shuffled = [np.rint((task.shuffled(rng) + 1) / 2).astype(np.int64) for _ in range(shuffles)]
        design = features[fit].astype(np.float64)
        scaling = Scaling.fit(design, center=True, standardize=self.standardize)
        spectrum = Spectrum.of(scaling.apply(design))
        penalties = np.sort(l2_grid(spectrum, self.l2_factors[::2]))[::-1]
        loss = np.zeros(len(penalties))
        for fold in range(self.n_folds):
            taught, held, start = self.folds != fold, self.folds == fold, None
            for k, l2 in enumerate(penalties):  # from the largest, each begins where the last ended
                w, b = solve_multinomial(spectrum.features[taught], code[taught], l2, n, start)
                start = np.vstack([w, b])
                told = log_softmax(spectrum.features[held] @ w + b, axis=1)
                loss[k] -= told[np.arange(held.sum()), code[held]].sum()
        best = int(loss.argmin())
        end: End | None = {0: "high", len(penalties) - 1: "low"}.get(best)  # type: ignore[assignment]
        choice = Choice(float(penalties[best]), end, converged=True)
        heads = []
        for classes in (code, *shuffled):
            w, b = solve_multinomial(spectrum.features, classes, choice.l2, n)
            coef, bias = scaling.unfold_several(spectrum.weights(w), b)
            heads.append(Head(coef.T, bias, choice))  # type: ignore[arg-type]
        return heads[0], heads[1:]


@dataclass(frozen=True, repr=False)
class ClassesResult(Shown):
    """A finished sweep of multinomial heads."""

    task: Task
    cells: list[Cell]
    heads: list[Head]
    """A head a cell: coef (d_model, n_classes), bias (n_classes,)."""
    choose: list[Metrics]
    shuffled: list[Interval]
    """Primary measure of a head on shuffled classes, a cell each, on the choose split."""
    chosen: int
    scores: list[Array]
    """Logits of every example, (n_examples, n_classes), of each cell."""
    controls: dict[str, Metrics]
    differences: dict[str, Interval]
    folds: Index
    store: dict[str, Any]
    fit: dict[str, Any]
    path: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.task.examples.several

    @property
    def report(self) -> Metrics:
        """Measures of the chosen head on the report split."""
        units = self.task.splits.report
        return self._measured(units)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Rows of the report split by true and by predicted class, shape (n_classes, n_classes)."""
        units = self.task.splits.report
        return confusion(_codes(self.task)[units], self.scores[self.chosen][units])

    @property
    def probe(self) -> LogisticProbe:
        """The chosen head as a fitted estimator of raw activations."""
        head = self.heads[self.chosen]
        return _estimator(self.classes, head.coef.T, np.asarray(head.bias), head.l2)

    def facts(self) -> dict[str, object]:
        """Return what `repr` shows."""
        return {"chosen": str(self.cells[self.chosen]), "classes": self.classes, **self.report}

    def summary(self) -> dict[str, Any]:
        """Return the part of the JSON that `probekit fit --json` prints."""
        tags = {t: v[self.task.splits.report] for t, v in self.task.examples.tags.items()}
        units = self.task.splits.report
        return {
            "chosen": self._head(self.chosen), "primary": PRIMARY, "positive_class": None,
            "choose": as_json(self.choose[self.chosen]), "report": as_json(self.report),
            "controls": {name: as_json(found) for name, found in self.controls.items()},
            "differences": as_json(self.differences),
            "by_tag": {
                tag: {value: as_json(self._measured(units[inside])) for value, inside in parts.items()}
                for tag, parts in tag_values(tags).items()
            },
            "n": self.task.counts(), "confusion": self.confusion.tolist(), "classes": self.classes,
        }  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Return what sweep.json holds."""
        units, head = self.task.splits.report, self._head(self.chosen)
        told = np.exp(log_softmax(self.scores[self.chosen][units], axis=1))
        right = told.argmax(axis=1) == _codes(self.task)[units]
        cosine = {k: head[k] for k in ("kind", "site", "position")}
        return {
            "data_kind": "label", **self.summary(), "score_range": None, "seed": self.task.seed,
            "splits": dict(zip(("fit", "choose", "report"), FRACTIONS, strict=True)),
            "rows": self.rows(), "cosine": {**cosine, "layers": [], "matrix": []},
            "reliability": {
                "what": "P(predicted class)", "bins": reliability(right.astype(float), told.max(axis=1))
            },
            "provenance": {"store": self.store, "fit": self.fit},
        }  # fmt: skip

    def rows(self) -> list[CellRow]:
        """Return the row of every cell in sweep.json."""
        units = self.task.splits.choose
        sample, found = self.task.sampler(units), []
        for k, head in enumerate(self.heads):
            gap = _difference(self.task, self.scores[self.chosen], self.scores[k], units, sample)
            row: CellRow = {
                **self._head(k), "choose": as_json(self.choose[k]), "chosen": k == self.chosen,
                "controls": {"shuffled_labels": as_json({PRIMARY: self.shuffled[k]})},
                "l2_end": head.choice.end if head.choice else None, "converged": True,
                "below": None if k == self.chosen else gap.to_json(),
            }  # fmt: skip
            found.append(row)
        return found

    def save(
        self,
        directory: str | Path,
        *,
        force: bool = True,
        arguments: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write all that `probekit fit --out` writes, and return the folder; see `SweepResult.save`."""
        from probekit.reports import write_sweep_report

        target, head = Path(directory), self.heads[self.chosen]
        told = log_softmax(self.scores[self.chosen], axis=1)
        own = np.take_along_axis(told, _codes(self.task)[:, None], 1)[:, 0]
        odds = own - np.log(-np.expm1(np.minimum(own, -1e-12)))  # of the true class
        with (
            claim(target, DOCUMENT.command, force=force, marker=DOCUMENT.file) as path,
            atomic_directory(path, force=force) as folder,
        ):
            header = {**self._head(self.chosen), "classes": self.classes, "provenance": self.store}
            tensors = {"coef": head.coef.T, "bias": np.asarray(head.bias)}
            write_probes(folder, header, tensors, kind=CLASSES)
            PREDICTIONS.write(folder, prediction_rows(self.task, odds))
            SPLITS.write(folder, split_rows(self.task, self.folds, None))
            write_json(folder / DOCUMENT.file, {**DOCUMENT.header, **self.record()})
            given = dict(arguments or {"out": str(target), **self.fit.get("arguments", {})})
            known = {} if self.path is None else {"store": beside(self.path, path)}
            write_json(folder / "run.json", {**self.fit, "arguments": {**recorded(given), **known}})
            write_digests(folder, [WEIGHTS, PREDICTIONS.file, SPLITS.file])
            write_sweep_report(folder, force=True)
        return target

    @property
    def run(self) -> SweepRun:
        """The result as `open_run` gives it, without its rows."""
        return SweepRun.in_memory(self.record(), provenance=self.fit)

    def _measured(self, units: Index) -> Metrics:
        return _metrics(self.task, self.scores[self.chosen], units)

    def _head(self, k: int) -> HeadRow:
        cell = self.cells[k]
        return {
            "kind": "logistic", "head": "multinomial", "site": cell.site, "layer": cell.layer,
            "position": cell.position, "l2": self.heads[k].l2,
        }  # fmt: skip


def fit_classes(
    source: ActivationStore,
    config: SweepConfig | None = None,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    **settings: Any,  # noqa: ANN401 - keys of SweepConfig
) -> ClassesResult:
    """Fit a multinomial head to every cell of a store of three or more classes; see `fit_sweep`.

    Cells are chosen by macro AUROC (each class against the rest) on the choose split.

    Parameters
    ----------
    source
        A store that was cached from rows of three or more classes.
    config
        What to fit: of kinds `logistic` alone, without outer folds and heads of other forms.
    progress
        Told what is done.

    Raises
    ------
    DataError, ProbeError
        When the rows cannot be split, or something else is asked for.
    """
    config = SweepConfig.of_keys(config, settings)
    several = f"{len(source.examples.several)} classes"
    if not source.examples.several:
        raise ProbeError("classes: the store has no three. Use fit_sweep.")
    if config.kinds not in ("auto", "logistic") or config.aggregates or config.outer_folds:
        raise ProbeError(
            f"{several}: are fitted by --kind logistic, without --aggregate and --outer-folds. For these fit "
            "one class against the rest: probekit cache --positive NAME."
        )
    more = {"stratify": config.stratify, "group_cap": config.group_cap, "several": True}
    task = Task.of(source.examples, seed=config.seed, n_boot=config.n_boot, **more)  # type: ignore[arg-type]
    cells, choose = wanted_cells(source, config), task.splits.choose
    fitter = ClassFitter(
        task, "logistic", standardize=config.standardize, n_folds=min(config.n_folds, N_FOLDS),
        l2_factors=config.l2_factors,
    )  # fmt: skip
    heads, scores, measured, twins = [], [], [], []
    for done, cell in enumerate(cells):
        progress("fitting", done, len(cells))
        acts = source.read(cell)
        head, (twin,) = fitter.fit(acts, shuffles=1, seed=config.seed)
        heads.append(head)
        scores.append(head.scores(acts))
        measured.append(_metrics(task, scores[-1], choose))
        twins.append(_metrics(task, twin.scores(acts), choose)[PRIMARY])
    progress("fitting", len(cells), len(cells))
    values = np.array([found[PRIMARY].value for found in measured])
    if not np.isfinite(values).any():
        raise ProbeError("choose split: a class is missing. Give more groups or rows of each.")
    chosen, report = int(np.nanargmax(values)), task.splits.report
    acts, sample = source.read(cells[chosen]), task.sampler(report)
    rivals = {"length": length_scores(fitter), **text_scores(fitter)}
    draws = [
        _metrics(task, twin.scores(acts), report)[PRIMARY].value
        for twin in fitter.fit(acts, shuffles=N_SHUFFLES, seed=config.seed + 1)[1]
    ]
    return ClassesResult(
        task, cells, heads, measured, twins, chosen, scores,
        controls={
            **{name: _metrics(task, rival, report) for name, rival in rivals.items()},
            "shuffled_labels": {PRIMARY: spread(np.array(draws))},
        },
        differences={
            name: _difference(task, scores[chosen], rival, report, sample) for name, rival in rivals.items()
        },
        folds=fitter.folds, store=source.provenance,
        fit=run_record("fit", asdict(config), seed=config.seed), path=source.path,
    )  # fmt: skip


def load_classes(directory: str | Path) -> tuple[LogisticProbe, Cell]:
    """Load the chosen head of a fit of several classes as an estimator, and the cell that it reads.

    Raises
    ------
    ProbeError
        When the directory is none.
    """
    from probekit.parsing import read_json

    path = Path(directory) / HEADER
    header = read_json(path, ProbeError, AGAIN) if path.is_file() else {}
    if header.get("format") != CLASSES:
        raise ProbeError(f"{directory}: is no fit of several classes. Load it with Probe.load.")
    found = read_tensors(Path(directory), ["coef", "bias"])
    classes = tuple(map(str, header["classes"]))
    if found.keys() != {"coef", "bias"} or len(found["coef"]) != len(classes):
        raise ProbeError(f"{directory}: its weights are not of {len(classes)} classes. {AGAIN}")
    cell = Cell(header["site"], header["layer"], header["position"])
    return _estimator(classes, found["coef"], found["bias"], header["l2"]), cell


def _estimator(
    classes: tuple[str, ...], coef: Array, bias: Array, l2: float | None
) -> LogisticProbe:
    made = LogisticProbe(l2 or 1.0)
    made.classes_, made.n_features_in_ = np.array(classes), coef.shape[1]
    made.coef_, made.intercept_ = coef, bias
    return made


def _codes(task: Task) -> NDArray[np.int64]:
    assert task.examples.label is not None
    return task.examples.label


def _metrics(task: Task, logits: Array, units: Index) -> Metrics:
    return class_metrics(_codes(task)[units], logits[units], task.sampler(units))


def _difference(
    task: Task, logits: Array, others: Array, units: Index, sample: Resampler
) -> Interval:
    """Return how far the primary measure of some logits is above that of others, paired."""
    label = _codes(task)[units]
    one, two = (macro_area(label, log_softmax(s[units], axis=1), sample) for s in (logits, others))
    return change(one[0] - two[0], one[1] - two[1], one[2], 0.25 / max(one[2], 1.0))

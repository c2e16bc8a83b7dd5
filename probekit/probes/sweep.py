"""`fit_sweep`: every cell of a store under one set of splits; choose once, report once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell, Examples
from probekit.errors import ProbeError, StoreError
from probekit.probes.beside import Beside, Forms, fit_beside, token_cells
from probekit.probes.cells import wanted_cells
from probekit.probes.config import SweepConfig
from probekit.probes.controls import (
    N_SHUFFLES,
    length_scores,
    partialled,
    random_direction,
    spread,
    surprisal_scores,
    text_scores,
)
from probekit.probes.distributions import score_distributions
from probekit.probes.heads import Head, HeadFitter, resolve_kinds
from probekit.probes.outer import Outer, outer_folds
from probekit.probes.probe import Probe
from probekit.probes.reference import reference_rows
from probekit.probes.result import SweepResult, SweepRow
from probekit.probes.task import Task
from probekit.provenance import run_record
from probekit.results.intervals import Array, Interval, Metrics, Resampler

Progress = Callable[[str, int, int], None]


class ActivationSource(Protocol):
    """What a sweep reads: an `ActivationStore`, or anything with the same surface."""

    @property
    def examples(self) -> Examples:
        """The columns of the rows."""

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Who made the activations."""

    def cells(self) -> list[Cell]:
        """Every matrix."""

    def read(self, cell: Cell) -> NDArray[np.float32]:
        """One matrix, shape (n_examples, d_model)."""


class _Fitted(NamedTuple):
    """One cell's head with what was measured on the choose split."""

    kind: str
    cell: Cell
    head: Head
    choose: Metrics
    controls: dict[str, Metrics]
    scores: Array
    """Scores of the choose split's example rows, shape (n_rows,)."""


def fit_sweep(
    source: ActivationSource | str | Path,
    config: SweepConfig | None = None,
    *,
    progress: Progress = lambda what, done, total: None,
    **settings: Any,  # noqa: ANN401 - keys of SweepConfig
) -> SweepResult:
    """Fit a head to every cell and report the best one on rows that chose nothing.

    Groups are divided once into fit (60 %), choose (20 %) and report (20 %). Heads, their
    standardisation and l2 (grouped folds) come from fit; layer, position and kind from the primary
    metric on choose; report is read once, for the chosen cell and its controls. With `outer_folds`
    all of this is also done once for each fold of the groups; the probes are those of the single split.

    Parameters
    ----------
    source
        An `ActivationStore`, or its path.
    config
        What to fit; its keys are taken by name too, as in `layers=[4, 8]`.
    progress
        Told what is done, how much, and of how much.

    Raises
    ------
    DataError
        When the rows cannot be split or have one class or rating only.
    ProbeError
        When a kind does not fit the data, or no cell is left.

    Examples
    --------
    >>> from probekit.activations.store import ActivationStore
    >>> from probekit.probes import SweepConfig, fit_sweep
    >>> with ActivationStore.open("acts.h5") as store:
    ...     result = fit_sweep(store, SweepConfig(kinds="logistic", layers="0:3", n_boot=20))
    >>> result.probe.kind, len(result.rows), 0 <= result.report["auroc"].value <= 1
    ('logistic', 3, True)
    """
    if isinstance(source, (str, Path)):
        with ActivationStore.open(source) as store:
            return fit_sweep(store, config, progress=progress, **settings)
    if not hasattr(source, "cells"):
        raise StoreError(f"store: got a {type(source).__name__}, expected a store or its path.")
    config = SweepConfig.of_keys(config, settings)
    task = Task.of(
        source.examples, seed=config.seed, n_boot=config.n_boot, stratify=config.stratify,
        group_cap=config.group_cap, scale=config.scale,
    )  # fmt: skip
    folds = task.outer_folds(config.outer_folds, config.stratify) if config.outer_folds else []
    kinds, others = resolve_kinds(config.kinds, task.kind)
    forms = Forms.of(others, config.aggregates, task.kind)
    cells = wanted_cells(source, config)
    token_cells(source, cells, forms)

    def fitters_of(task: Task) -> dict[str, HeadFitter]:
        return {kind: _fitter(task, kind, config) for kind in kinds}

    def rivals_of(task: Task, kind: str) -> dict[str, Array]:
        return _rivals(source, task, kind, config)

    fitters = fitters_of(task)
    fitted: list[_Fitted] = []
    sample = task.sampler(task.splits.choose)
    progress("fitting", 0, len(cells))
    for done, cell in enumerate(cells):
        acts = _finite(source.read(cell), cell)
        fitted += _fit_cell(task, fitters, cell, acts, sample, config.seed)
        progress("fitting", done + 1, len(cells))
    best = _choose(fitted, task.primary)
    outer = None
    if folds:
        outer = outer_folds(folds, cells, source.read, fitters_of, rivals_of, progress)
    linear = fitted[best].head.scores(source.read(fitted[best].cell))
    found = fit_beside(source, task, cells, forms, linear, progress)
    result = _Report(source, task, config, fitters, fitted, best, outer, found).result()
    if isinstance(source, ActivationStore) and source.tokens.lengths.any():
        return result.with_reference(reference_rows(source, result.probe))
    return result


def _fit_cell(
    task: Task,
    fitters: dict[str, HeadFitter],
    cell: Cell,
    acts: NDArray[np.float32],
    sample: Resampler,
    seed: int,
) -> Iterator[_Fitted]:
    """Fit every kind to one cell and measure it, a shuffled twin and random directions on choose."""
    units = task.splits.choose
    direction = random_direction(task, acts, units, seed=seed)
    for kind, fitter in fitters.items():
        head, (shuffled,) = fitter.fit(acts, shuffles=1, seed=seed)
        other = task.metrics(shuffled.scores(acts), units, sample)
        controls = {
            "random_direction": direction,
            "shuffled_labels": {task.primary: other[task.primary]},
        }
        scores = head.scores(acts)
        measured = task.metrics(scores, units, sample)
        yield _Fitted(kind, cell, head, measured, controls, scores[task.example_rows(units)])


@dataclass(frozen=True)
class _Report:
    """The one reading of the report split, and everything that goes into the result."""

    source: ActivationSource
    task: Task
    config: SweepConfig
    fitters: dict[str, HeadFitter]
    fitted: list[_Fitted]
    best: int
    outer: Outer | None
    beside: dict[str, Beside]

    def result(self) -> SweepResult:
        """Measure the chosen cell and its controls on the report split."""
        task, chosen = self.task, self.fitted[self.best]
        acts, units = self.source.read(chosen.cell), task.splits.report
        scores, sample = chosen.head.scores(acts), task.sampler(units)
        twins = self._twins(acts)
        controls, differences = self._controls(acts, scores, twins, sample)
        return SweepResult(
            task=task,
            chosen=self.best,
            rows=[_row(item, self.fitters[item.kind].head) for item in self.fitted],
            probes=[self._probe(item) for item in self.fitted],
            report=task.metrics(scores, units, sample),
            controls=controls,
            differences=differences,
            by_tag=task.by_tag(scores, units),
            scores=scores,
            choose_scores=np.stack([item.scores for item in self.fitted]),
            shuffled=np.stack([twin.coef for twin in twins]),
            folds=next(iter(self.fitters.values())).folds,
            outer=self.outer,
            beside=self.beside,
            store=self.source.provenance,
            fit=run_record("fit", asdict(self.config), seed=self.config.seed),
            path=getattr(self.source, "path", None),
        )

    def _twins(self, acts: NDArray[np.float32]) -> list[Head]:
        """Return heads of the chosen cell and kind that were fitted to shuffled targets."""
        fitter = self.fitters[self.fitted[self.best].kind]
        return fitter.fit(acts, shuffles=N_SHUFFLES, seed=self.config.seed + 1)[1]

    def _controls(
        self,
        acts: NDArray[np.float32],
        scores: Array,
        twins: list[Head],
        sample: Resampler,
    ) -> tuple[dict[str, Metrics], dict[str, Interval]]:
        """Return the controls on the report split, and how far the chosen head is above each."""
        task, chosen = self.task, self.fitted[self.best]
        units = task.splits.report
        columns = np.column_stack([twin.scores(acts) for twin in twins])
        rivals = _rivals(self.source, task, chosen.kind, self.config)
        controls = {name: task.metrics(rival, units, sample) for name, rival in rivals.items()}
        controls |= {
            "random_direction": random_direction(task, acts, units, seed=self.config.seed + 1),
            "shuffled_labels": {task.primary: spread(task.primary_values(columns, units))},
            "length_partialled": partialled(task, scores, units, sample),
        }
        differences = {
            name: task.difference(scores, rival, units, sample) for name, rival in rivals.items()
        }
        return controls, differences

    def _probe(self, item: _Fitted) -> Probe:
        task, examples = self.task, self.source.examples
        is_chosen = item is self.fitted[self.best]
        return Probe(
            kind=item.kind,
            head=self.fitters[item.kind].head,
            cell=item.cell,
            coef=item.head.coef,
            bias=item.head.bias,
            l2=item.head.l2,
            data_kind=task.kind,
            classes=examples.classes,
            score_range=task.score_range,
            metrics={name: value.to_json() for name, value in item.choose.items()},
            distributions=score_distributions(task, item.head.scores(self.source.read(item.cell)))
            if is_chosen
            else {},
            provenance=self.source.provenance,
        )


def _rivals(
    source: ActivationSource, task: Task, kind: str, config: SweepConfig
) -> dict[str, Array]:
    """Return the scores of every control that is a head of the same kind, (n_examples,) each."""
    text_fitter = _fitter(task, kind, config, head="linear")
    rivals = {"length": length_scores(text_fitter), **text_scores(text_fitter)}
    if (named := surprisal_scores(text_fitter)) is not None:
        rivals["name_surprisal"] = named
    if (floor := _floor(source, _fitter(task, kind, config))) is not None:
        rivals["layer_0"] = floor
    return rivals


def _floor(source: ActivationSource, fitter: HeadFitter) -> Array | None:
    """Return scores of the best head on the embedding, over all positions; else on the lowest block.

    One position alone may have the same embedding in every row: the end of the turn has.
    """
    stored, task = source.cells(), fitter.task
    lowest: dict[str, Cell] = {}
    for cell in sorted(stored, key=lambda cell: (cell.layer, cell.site != "resid_pre")):
        lowest.setdefault(cell.position, cell)
    embedded = [cell for cell in lowest.values() if cell[:2] == ("resid_pre", 0)]
    least = min(cell.layer for cell in stored)
    best, floor = -np.inf, None
    for cell in embedded or [cell for cell in lowest.values() if cell.layer == least]:
        scores = fitter.scores(source.read(cell))
        value = float(task.primary_values(scores[:, None], task.splits.choose)[0])
        if floor is None or value > best:
            best, floor = value, scores
    return floor


def _fitter(task: Task, kind: str, config: SweepConfig, *, head: str | None = None) -> HeadFitter:
    return HeadFitter(
        task,
        kind,
        head=(head or config.head) if kind == "bradley-terry" else None,
        standardize=config.standardize,
        n_folds=config.n_folds,
        l2_factors=config.l2_factors,
    )


def _row(item: _Fitted, head: str | None) -> SweepRow:
    choice = item.head.choice
    end, good = (choice.end, choice.converged) if choice else (None, True)
    return SweepRow(item.kind, head, item.cell, item.head.l2, item.choose, item.controls, end, good)


def _finite(acts: NDArray[np.float32], cell: Cell) -> NDArray[np.float32]:
    bad = int((~np.isfinite(acts)).any(axis=1).sum())
    if bad:
        raise ProbeError(
            f"{cell}: the activations of {bad} of {len(acts)} rows are not finite. Cache them again with "
            "--dtype float32, or leave the layer out with --layers."
        )
    return acts


def _choose(fitted: list[_Fitted], primary: str) -> int:
    for item in fitted:
        if not np.isfinite([*item.head.coef, item.head.bias]).all():
            raise ProbeError(
                f"{item.cell}: the weights of the {item.kind} head are not finite. Leave the layer out with "
                "--layers, or fit another kind."
            )
    if not any(item.head.coef.any() for item in fitted):
        raise ProbeError(
            f"heads: the weights of all {len(fitted)} are zero: the activations are the same whatever "
            "the target. Expected rows that differ at the stored positions."
        )
    values = np.array(
        [item.choose[primary].value if item.head.coef.any() else np.nan for item in fitted]
    )
    if not np.isfinite(values).any():
        raise ProbeError(
            f"choose split: {primary} is not defined for any cell. Give more groups or rows."
        )
    return int(np.nanargmax(values))

"""Do several cells together read more than the best single one?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from probekit.activations.store import ActivationStore
from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.probes.folder import Fit, fit_folder, store_given
from probekit.probes.heads import KINDS, HeadFitter
from probekit.probes.nonlinear import AttentionProbe
from probekit.probes.probe import Probe
from probekit.probes.splits import fold_by_group
from probekit.probes.task import Task
from probekit.probes.tokens import content_tokens, part_of
from probekit.results.intervals import Array, Interval, Metrics
from probekit.rl.head_data import HeadData, store_of

Progress = Callable[[str, int, int], None]
FOLDS = 5
PENALTIES = (0.0, *(10.0**k for k in range(-3, 4)))
"""Penalties on the cells' weights, in parts of the number of rows."""
RANKS = (4, 8, 16, 32, 64, 128)
"""Directions that the cells' activations are reduced to."""
MOST_ROWS = 8000
"""Rows beyond which the low rank is left out: its Gram matrix has a number for each two of them."""


class Candidate(NamedTuple):
    """One way to use all cells, its setting chosen on the choose split."""

    scores: Array
    """Of every example row, shape (n_examples,)."""
    choose: float
    """Primary measure on the choose split."""
    setting: dict[str, Any]


@dataclass(frozen=True)
class Stacked:
    """What `stack_cells` found; measures are of the report split."""

    primary: str
    single: Metrics
    """Measures of the fit's chosen cell."""
    candidates: dict[str, Candidate]
    """`stack`, a weighted sum of the cells' scores; `low rank`, one head on all cells reduced; `attention`
    over tokens."""
    metrics: dict[str, Metrics]
    differences: dict[str, Interval]
    """How far each candidate is above the single cell in the primary measure, paired."""
    best: str
    """The candidate that the choose split prefers: the one to report."""
    cells: list[Cell]
    weights: Array
    """What the stack gives each cell, shape (n_cells,), in parts of their sum."""
    n: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `stack.json` without its header."""
        found = {
            name: {
                "choose": item.choose,
                **item.setting,
                "report": {k: v.to_json() for k, v in self.metrics[name].items()},
                "difference": self.differences[name].to_json(),
            }
            for name, item in self.candidates.items()
        }
        used = [
            {**cell._asdict(), "weight": float(weight)}
            for cell, weight in zip(self.cells, self.weights, strict=True)
            if weight > 0
        ]
        return {
            "primary": self.primary,
            "single": {name: value.to_json() for name, value in self.single.items()},
            "candidates": found,
            "best": self.best,
            "n_cells": len(self.cells),
            "cells": sorted(used, key=lambda row: -row["weight"]),
            "n": self.n,
        }


def stack_cells(
    fit: Fit,
    store: str | Path | None = None,
    *,
    positions: Sequence[str] | None = None,
    every: int = 1,
    tokens: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Stacked:
    """Combine the cells of a store and compare with the cell that a fit chose.

    Scores of every cell on the fit split come from heads that were fitted without their group; a ridge
    with weights >= 0 on those scores is the stack (Wolpert 1992; Breiman 1996), its penalty chosen on
    the choose split. The low rank is a head on the first directions of all standardised cells, as many as
    the choose split asks for. The report split is read once, for the single cell and both.

    Parameters
    ----------
    fit
        Directory of a fit, or its result.
    store
        The store that it was fitted on, where it is not at the place in the fit's record.
    positions
        Position rules to use; all by default.
    every
        Use every n-th layer, counted from the last.
    tokens
        A store of the same rows with position `all` at the fit's layer, of ratings or labels: an attention
        over the tokens is fitted too.
    progress
        Called with `fitting`, cells done and cells in all.

    Raises
    ------
    ProbeError
        When fewer than two cells are left.

    Examples
    --------
    >>> import numpy as np
    >>> import probekit as pk
    >>> rng = np.random.default_rng(0)
    >>> rating = rng.standard_normal(120)
    >>> signal = np.outer(rating, np.ones(8))
    >>> acts = {("resid_post", k): signal + rng.standard_normal((120, 8)) for k in (1, 2)}
    >>> store = pk.ActivationStore.from_arrays(acts, scores=rating, n_layers=4)
    >>> fit = pk.fit_sweep(store, n_boot=20)
    >>> found = pk.stack_cells(fit)
    >>> found.metrics["stack"]["pearson"].value > 0.9, len(found.weights)
    (True, 2)
    """
    with fit_folder(fit) as directory:
        return _stack_cells(directory, store_given(fit, store), positions, every, tokens, progress)


def _stack_cells(
    directory: Path,
    store: str | Path | None,
    positions: Sequence[str] | None,
    every: int,
    tokens: str | Path | None,
    progress: Progress,
) -> Stacked:
    probe = Probe.load(directory)
    data = HeadData.open(directory, probe, store)
    task = data.task
    kind = KINDS[task.kind][0]
    with ActivationStore.open(store_of(directory, store)) as source:
        cells = _cells(source, probe.site, positions, every)
        rows, level = np.empty((len(task.splits.fit), len(cells))), []
        gram = _Gram(task) if len(task.examples) <= MOST_ROWS else None
        folds = _fold_tasks(task)
        for k, cell in enumerate(cells):
            acts = source.read(cell)
            rows[:, k] = _out_of_fold(task, folds, kind, acts, standardize=data.standardize)
            level.append(HeadFitter(task, kind, standardize=data.standardize).scores(acts))
            if gram is not None:
                gram.add(acts)
            progress("fitting", k + 1, len(cells))
    single = probe.score(data.acts)
    stacked, weights = _stack(task, rows, np.column_stack(level))
    candidates = {"stack": stacked}
    if gram is not None:
        candidates["low rank"] = _low_rank(task, kind, gram)
    if tokens is not None:
        candidates["attention"] = _attention(task, probe, Path(tokens))
    report, sample = task.splits.report, task.sampler(task.splits.report)
    return Stacked(
        primary=task.primary,
        single=task.metrics(single, report, sample),
        candidates=candidates,
        metrics={n: task.metrics(c.scores, report, sample) for n, c in candidates.items()},
        differences={
            n: task.difference(c.scores, single, report, sample) for n, c in candidates.items()
        },
        best=max(candidates, key=lambda name: candidates[name].choose),
        cells=cells,
        weights=weights,
        n={"rows": len(report), "groups": sample.n_groups},
    )


def _cells(
    source: ActivationStore, site: str, positions: Sequence[str] | None, every: int
) -> list[Cell]:
    layers = sorted({cell.layer for cell in source.cells() if cell.site == site}, reverse=True)
    kept = set(layers[::every])
    known = {cell.position for cell in source.cells()}
    if missing := set(positions or ()) - known:
        raise ProbeError(
            f"position {min(missing)}: is not in the store. It holds {', '.join(sorted(known))}."
        )
    cells = [
        cell
        for cell in source.cells()
        if cell.site == site
        and cell.layer in kept
        and (cell.position in positions if positions else True)
        and not (source.kind == "pair" and cell.position == "prompt_end")
    ]
    if len(cells) < 2:
        raise ProbeError(
            f"store: has {len(cells)} cells of {site} here, expected 2 or more to stack. Cache more layers "
            "or positions."
        )
    return cells


def _fold_tasks(task: Task) -> list[tuple[NDArray[np.bool_], Task]]:
    """Return for every fold which fit units it holds, and the task fitted without them."""
    fit = task.splits.fit
    fold = fold_by_group(task.group_codes[fit], FOLDS, seed=task.seed + 1)
    return [
        (fold == k, dataclasses.replace(task, splits=task.splits._replace(fit=fit[fold != k])))
        for k in range(fold.max() + 1)
    ]


def _out_of_fold(
    task: Task,
    folds: Sequence[tuple[NDArray[np.bool_], Task]],
    kind: str,
    acts: NDArray[Any],
    *,
    standardize: bool,
) -> Array:
    """Return what heads say of fit units that they have not seen, (n_fit,); margins of pairs."""
    found = np.empty(len(task.splits.fit))
    for held, without in folds:
        scores = HeadFitter(without, kind, standardize=standardize).scores(acts)
        found[held] = task.design(scores, task.splits.fit[held])
    return found


def _stack(task: Task, seen: Array, scores: Array) -> tuple[Candidate, Array]:
    """Return the stack and its weights, (n_cells,).

    Parameters
    ----------
    task
        The rows.
    seen
        Out-of-fold scores of the fit split, shape (n_fit, n_cells).
    scores
        Of every example by heads of the whole fit split, shape (n_examples, n_cells).
    """
    target = task.target[task.splits.fit]
    paired = task.kind == "pair"
    centre = np.zeros(seen.shape[1]) if paired else seen.mean(axis=0)
    spread = np.sqrt(((seen - centre) ** 2).mean(axis=0))
    spread[spread < 1e-12] = 1.0
    x, y = (seen - centre) / spread, target - (0.0 if paired else target.mean())
    best: tuple[float, float, Array] | None = None
    for penalty in PENALTIES:
        extra = np.sqrt(penalty * len(x)) * np.eye(x.shape[1])
        raw, _ = nnls(np.vstack([x, extra]), np.concatenate([y, np.zeros(x.shape[1])]))
        weights = raw / spread
        if not weights.any():
            continue  # shrunk away, or no cell tells anything
        value = float(task.primary_values(scores @ weights[:, None], task.splits.choose)[0])
        if best is None or value > best[0]:
            best = value, penalty, raw
    if best is None:
        raw = np.ones(seen.shape[1])
        best = (
            float(task.primary_values(scores @ (raw / spread)[:, None], task.splits.choose)[0]),
            np.inf,
            raw,
        )
    value, penalty, raw = best
    mixed = scores @ (raw / spread)
    # Least squares gives the scale: predictions are in the units of the target.
    design = task.design(mixed, task.splits.fit)
    slope, shift = (1.0, 0.0) if paired else np.polyfit(design, target, 1)
    return Candidate(slope * mixed + shift, value, {"penalty": penalty}), raw / raw.sum()


def _attention(task: Task, probe: Probe, path: Path) -> Candidate:
    """Return an attention over the completion's tokens; it stops by groups of the fit split."""
    cell = probe.cell._replace(position="all")
    with ActivationStore.open(path) as source:
        examples = task.examples
        if task.kind == "pair" or cell not in source.ragged_cells():
            raise ProbeError(
                f"{path}: holds no {cell} of rated or labelled rows. Cache it: probekit cache --positions "
                f"all --layers {probe.layer}."
            )
        if len(source.examples) != len(examples) or (source.examples.id != examples.id).any():
            raise ProbeError(f"{path}: has other rows than the fit. Cache the same --data.")
        acts, offsets = content_tokens(source, cell)
    fit, rating = task.splits.fit, task.kind == "rating"
    target = task.target[fit] if rating else np.asarray(examples.label)[fit]
    head = AttentionProbe(seed=task.seed, rating=rating)
    head.fit(*part_of(acts, offsets, fit), target, examples.group[fit])
    scores = head.decision_function(acts, offsets)
    value = float(task.primary_values(scores[:, None], task.splits.choose)[0])
    return Candidate(scores, value, {"steps": head.n_steps_})


class _Gram:
    """Inner products of all rows with the fit rows over standardised cells, added cell by cell."""

    def __init__(self, task: Task) -> None:
        self.fit = task.example_rows(task.splits.fit)
        self.n = len(task.examples)
        self.products = np.zeros((self.n, len(self.fit)))

    def add(self, acts: NDArray[np.floating]) -> None:
        """Add a cell, (n_examples, d_model); mean and spread are those of the fit rows."""
        own = acts[self.fit].astype(np.float64)
        mean, spread = own.mean(axis=0), own.std(axis=0)
        spread[spread < 1e-6 * max(float(spread.max(initial=0.0)), 1e-30)] = 1.0
        scaled = (acts - mean) / spread
        self.products += scaled @ scaled[self.fit].T

    def features(self, rank: int) -> Array:
        """Return every row on the first directions of the fit rows, shape (n_examples, rank)."""
        energy, vectors = np.linalg.eigh(self.products[self.fit])
        keep = slice(-min(rank, int((energy > energy[-1] * 1e-10).sum())), None)
        return np.asarray(self.products @ (vectors[:, keep] / np.sqrt(energy[keep])))


def _low_rank(task: Task, kind: str, gram: _Gram) -> Candidate:
    best: Candidate | None = None
    widest = gram.features(max(RANKS))
    for rank in RANKS:
        if rank > widest.shape[1] and best is not None:
            break
        # Not standardised: a direction counts by how much of the activations it carries.
        fitter = HeadFitter(task, kind, standardize=False)
        scores = fitter.scores(widest[:, -rank:])
        value = float(task.primary_values(scores[:, None], task.splits.choose)[0])
        if best is None or value > best.choose:
            best = Candidate(scores, value, {"rank": min(rank, widest.shape[1])})
    assert best is not None
    return best

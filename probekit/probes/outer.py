"""Outer folds: the whole procedure once for each fold of the groups, so that every row is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.activations.table import Cell
from probekit.errors import ProbeError
from probekit.probes.heads import Head, HeadFitter
from probekit.probes.metrics import Estimate, area, class_support, correlation, wins
from probekit.probes.task import Task
from probekit.results.intervals import (
    SHARED,
    Array,
    Interval,
    Resampler,
    change,
    enough,
    fisher,
    kish,
    score,
)

REACH = 0.08
"""From so far from chance (twice that for correlations) the heads' own variance counts in full."""
IMAGINED = {"pair": 1.0, "label": 0.25, "rating": 0.0}
"""Groups that are imagined on both sides of a difference; see `Task.difference`."""


class Fold(NamedTuple):
    """One fold: what was chosen without it, and what that head is worth on it."""

    task: Task
    """The rows with this fold as the report split."""
    kind: str
    cell: Cell
    head: Head
    scores: Array
    """The head's score of every example row, shape (n_examples,)."""
    value: float
    """Primary metric on the fold."""


@dataclass(frozen=True)
class Outer:
    """The procedure over all rows: every group is reported once, by a head that has not seen it."""

    folds: list[Fold]
    value: Interval
    """Primary metric, the mean over folds by their units."""
    controls: dict[str, Interval]
    """That of each rival, fitted anew in every fold."""
    differences: dict[str, Interval]
    """How far the procedure is above each rival, paired."""


def outer_folds(
    tasks: Sequence[Task],
    cells: Sequence[Cell],
    read: Callable[[Cell], NDArray[Any]],
    fitters: Callable[[Task], dict[str, HeadFitter]],
    rivals: Callable[[Task, str], dict[str, Array]],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Outer:
    """Choose a cell and kind and fit a head for every fold, and judge each on its fold.

    Parameters
    ----------
    tasks
        The rows once a fold, from `Task.outer_folds`.
    cells
        Cells to choose from.
    read
        Returns the matrix of a cell, shape (n_examples, d_model).
    fitters
        Returns the fitter of every kind for a fold.
    rivals
        Returns scores of every control, (n_examples,) each, for a fold and the kind chosen there.
    """
    every = [fitters(task) for task in tasks]
    best: list[Fold | None] = [None] * len(tasks)
    level = np.full(len(tasks), -np.inf)
    total = (len(cells) + 1) * len(tasks)
    progress("outer folds", 0, total)
    for done, cell in enumerate(cells):
        acts = read(cell)
        for k, task in enumerate(tasks):
            for kind, fitter in every[k].items():
                head = fitter.fit(acts)[0]
                scores = head.scores(acts)
                value = float(task.primary_values(scores[:, None], task.splits.choose)[0])
                if value > level[k] and head.coef.any():
                    level[k], best[k] = value, Fold(task, kind, cell, head, scores, np.nan)
            progress("outer folds", done * len(tasks) + k + 1, total)
    folds = [fold for fold in best if fold is not None]
    if len(folds) < len(tasks):
        raise ProbeError(
            f"choose split of an outer fold: {tasks[0].primary} is not defined for any cell. Give fewer "
            "folds, or more groups or rows."
        )
    others: dict[str, list[Array]] = {}
    for k, fold in enumerate(folds):
        for name, scores in rivals(fold.task, fold.kind).items():
            others.setdefault(name, []).append(scores)
        progress("outer folds", len(cells) * len(tasks) + k + 1, total)
    return judged(folds, {name: s for name, s in others.items() if len(s) == len(folds)})


def judged(folds: Sequence[Fold], rivals: dict[str, list[Array]]) -> Outer:
    """Return the metric over all folds, that of each rival and the differences, with intervals.

    Parameters
    ----------
    folds
        Every fold with its head's scores.
    rivals
        Scores (n_examples,) of each rival, one a fold.
    """
    tasks = [fold.task for fold in folds]
    kind, factor = tasks[0].kind, _largest(len(tasks))
    own, values, interval = pooled(tasks, [fold.scores for fold in folds])
    controls, differences, support = {}, {}, own.support / factor
    imagined = IMAGINED[kind] / max(support, 1.0)
    for name, scores in rivals.items():
        other, _, controls[name] = pooled(tasks, scores)
        influence = (own.influence - other.influence) * np.sqrt(factor)
        differences[name] = change(own.value - other.value, influence, support, imagined)
    named = [fold._replace(value=value) for fold, value in zip(folds, values, strict=True)]
    return Outer(named, interval, controls, differences)


def _largest(n_folds: int) -> float:
    """Return the factor of variances away from chance: 1 + n_folds * n_test / n_train.

    Heads of different folds share rows to fit on, and are good or bad together (Nadeau and Bengio 2003).
    """
    return 1 + n_folds / (n_folds - 1)


def pooled(
    tasks: Sequence[Task], scores: Sequence[Array]
) -> tuple[Estimate, list[float], Interval]:
    """Return the mean over folds, by their units, of the primary metric within each; also of each.

    Scores of different heads are on different scales, so only rows of one fold are compared. What the
    mean rests on is that of independent groups; its interval is not.

    Parameters
    ----------
    tasks
        The rows once a fold.
    scores
        Scores (n_examples,) of each fold's head.
    """
    sizes = np.array([len(task.splits.report) for task in tasks])
    parts = [_estimate(task, own) for task, own in zip(tasks, scores, strict=True)]
    weights = sizes / sizes.sum()
    influence = [
        # A mean of its own is taken off in every fold.
        w * part.influence * np.sqrt(len(part.influence) / max(len(part.influence) - 1, 1))
        for w, (part, _) in zip(weights, parts, strict=True)
    ]
    units = np.concatenate([task.splits.report for task in tasks])
    sample, label = Resampler(tasks[0].group_codes[units]), tasks[0].examples.label
    support = kish(np.bincount(sample.code))
    if label is not None and tasks[0].kind == "label":
        support = class_support(label[units] == 1, sample)
    if not all(enough(len(part.influence), part.support) for part, _ in parts):
        support = 0.0
    value = float(weights @ [part.value for part, _ in parts])
    pooled = Estimate(value, np.concatenate(influence), support)
    most = float(sizes.sum()) if tasks[0].kind == "pair" else np.inf
    rarer = sum(rarer for _, rarer in parts)
    interval = _interval(tasks[0].kind, pooled, rarer, most, _largest(len(tasks)))
    return pooled, [part.value for part, _ in parts], interval


def _interval(kind: str, own: Estimate, rarer: int, most: float, largest: float) -> Interval:
    """Return the interval whose variance is `SHARED` times that of groups at chance, more beside it.

    At chance every head is as good, whatever it was fitted on. The factor rises in line to `largest`
    at `REACH` from chance, and each end is where it has the factor of its own place.
    """
    chance, reach = (0.0, 2 * REACH) if kind == "rating" else (0.5, REACH)

    def wide(factor: float) -> Interval:
        influence, support = own.influence * np.sqrt(factor), own.support / factor
        if kind == "rating":
            return fisher(own.value, influence, support)
        return score(own.value, influence, support, rarer, most=most / factor)

    least, ends = SHARED[kind], []
    for end in ("low", "high"):
        small, large = least, largest
        for _ in range(20):
            factor = (small + large) / 2
            place = abs(getattr(wide(factor), end) - chance) / reach
            above = least + (largest - least) * min(1.0, place) > factor
            small, large = (factor, large) if above else (small, factor)
        ends.append(getattr(wide(large), end))
    return Interval(own.value, *ends)


def _estimate(task: Task, scores: Array) -> tuple[Estimate, int]:
    """Return the primary metric on the report split, what it rests on, and its rarer groups."""
    units, examples = task.splits.report, task.examples
    rows, sample = task.rows[units], task.sampler(units)
    if examples.score is not None:
        return correlation(examples.score[rows], scores[rows], sample), 0
    if examples.label is not None:
        return area(examples.label[rows], scores[rows], sample)
    right = wins(scores[rows] - scores[rows + 1])
    sums, sizes = sample.per_group(right), sample.per_group(np.ones(len(right)))
    value = float(right.mean())
    rarer = min(int((sums < sizes).sum()), int((sums > 0).sum()))
    return Estimate(value, (sums - value * sizes) / len(right), kish(sizes)), rarer

"""The rows of a fit's tables: predictions, the split of each unit, and scores by side or class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from probekit.probes.outer import Outer
from probekit.probes.splits import Index
from probekit.probes.task import Task
from probekit.probes.units import from_unit
from probekit.results.intervals import Array
from probekit.results.sweep import PredictionRow, SplitRow

TEXT_LIMIT = 2000


def prediction_rows(task: Task, scores: Array) -> list[PredictionRow]:
    """Return the predictions on the report split, a row an example, from scores (n_examples,)."""
    examples = task.examples
    lines = []
    for unit in task.rows[task.splits.report]:
        sides = (unit, unit + 1) if task.kind == "pair" else (unit,)
        for i in (int(side) for side in sides):
            score, target, prediction = scores[i : i + 1], None, None
            if examples.score is not None:
                target = examples.score[i]
                prediction = from_unit(score, task.score_range)[0]
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


def split_rows(task: Task, folds: Index, outer: Outer | None) -> list[SplitRow]:
    """Return the split of every unit (None where it is left out), its l2 fold and its outer fold.

    Parameters
    ----------
    task
        The units and their splits.
    folds
        l2 fold of every unit of the fit split, shape (n_fit,).
    outer
        The outer folds, where there are some.
    """
    fold_of = dict(zip(task.splits.fit.tolist(), folds.tolist(), strict=True))
    names = {unit: name for name, part in task.splits._asdict().items() for unit in part.tolist()}
    outer_of = {
        unit: k
        for k, fold in enumerate(outer.folds if outer else [])
        for unit in fold.task.splits.report.tolist()
    }
    return [
        {
            "id": task.examples.id[task.rows[unit]],
            "group": task.groups[unit],
            "split": names.get(unit),  # type: ignore[typeddict-item]
            "fold": fold_of.get(unit),
            "outer": outer_of.get(unit),
        }
        for unit in range(len(task.rows))
    ]


def upper_half(ratings: Array) -> NDArray[np.bool_]:
    """Return which ratings (n,) are in the upper half, as near to half of them as ties allow."""
    cuts, counts = np.unique(ratings, return_counts=True)
    if len(cuts) < 2:
        return np.zeros(len(ratings), dtype=bool)
    shares = (len(ratings) - np.cumsum(counts)[:-1]) / len(ratings)  # at or above every later cut
    return np.asarray(ratings >= cuts[1:][np.argmin(np.abs(shares - 0.5))])


def score_distributions(task: Task, scores: Array) -> dict[str, Any]:
    """Return the choose split's scores by side or class, in all and by every value of every tag.

    Rated rows have all their scores, and those of the rows rated in the lower and in the upper half.

    Parameters
    ----------
    task
        The rows and their splits.
    scores
        Score of each example row, shape (n_examples,).
    """
    examples = task.examples
    rows = task.rows[task.splits.choose]

    def of(rows: NDArray[np.int64]) -> dict[str, list[float]]:
        if task.kind == "pair":
            parts = {"chosen": scores[rows], "rejected": scores[rows + 1]}
        elif examples.label is not None and examples.classes is not None:
            label = examples.label[rows]
            parts = {name: scores[rows[label == k]] for k, name in enumerate(examples.classes)}
        else:
            assert examples.score is not None
            upper = upper_half(examples.score[rows])
            parts = {
                "score": scores[rows],
                "lower": scores[rows[~upper]],
                "upper": scores[rows[upper]],
            }
        return {name: np.round(part, 6).tolist() for name, part in parts.items()}

    tags = {
        tag: {str(v): of(rows[values[rows] == v]) for v in np.unique(values[rows]) if v}
        for tag, values in examples.tags.items()
    }
    return {"split": "choose", "all": of(rows), "by_tag": tags}

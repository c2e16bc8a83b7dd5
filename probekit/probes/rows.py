"""The rows of a fit's tables: what it predicts, and which split each unit was in."""

from __future__ import annotations

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
                # Of several classes the score is the log-odds of the true one.
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
